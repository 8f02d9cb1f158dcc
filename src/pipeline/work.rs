//! Floating-point operations of what a study computes: what plans estimate, and benchmarks divide by seconds.
//!
//! A multiplication and an addition are two. Products and what grows with them are counted; norms, softmax and
//! selections are not, so a rate is a lower bound of what the machine did.

use crate::model::{BlockSpec, LinearSpec, Spec};
use crate::prune::StatisticKind;
use crate::recipe::{Propagation, PruneSpec, Schedule};

/// A pass of `tokens` tokens in windows of `length` through all blocks.
pub fn forward(model: &Spec, tokens: usize, length: usize) -> f64 {
    model.blocks.iter().map(|block| through(block, tokens, length)).sum()
}

/// Their pass through one block.
fn through(block: &BlockSpec, tokens: usize, length: usize) -> f64 {
    let heads = block.attention.heads;
    let at =
        |site: usize| block.share(site) * block.readers(site).iter().map(LinearSpec::parameters).sum::<usize>() as f64;
    let linears = 2.0 * (0..block.sites.len()).map(at).sum::<f64>();
    // q·k and weights·v, over the half of the positions that causality leaves.
    let attention = 2.0 * (heads.query * heads.dim * length) as f64;
    tokens as f64 * (linears + attention)
}

/// The calibration windows' way through all blocks, with the statistics of their inputs on it.
pub fn calibration(model: &Spec, spec: &PruneSpec, kind: StatisticKind, tokens: usize, length: usize) -> f64 {
    let passes = match (spec.schedule, spec.propagation) {
        (Schedule::Block, Propagation::Pruned) => 2.0,
        _ => 1.0,
    };
    // Nothing comes after the last block, so nothing goes through its last linears (and but once through the others).
    let pass = forward(model, tokens, length);
    let last = model.blocks.last().map_or(0.0, |block| {
        let readers: usize = block.readers(block.sites.len() - 1).iter().map(LinearSpec::parameters).sum();
        let outward = block.share(block.sites.len() - 1) * (tokens * readers) as f64;
        (passes - 1.0) * through(block, tokens, length) + 2.0 * outward
    });
    let statistics = |d: usize| match kind {
        StatisticKind::None => 0.0,
        StatisticKind::ColumnNorms => 2.0 * d as f64,
        // Half of 2·d² a token.
        StatisticKind::Gram => (d * d) as f64,
    };
    let of_block = |block: &BlockSpec| {
        block.read_sites().map(|site| block.share(site) * statistics(block.sites[site].columns)).sum::<f64>()
    };
    let statistics: f64 = model.blocks.iter().map(|block| of_block(block)).sum();
    passes * pass - last + tokens as f64 * statistics
}

/// The method itself, for those that compensate: factors of 2/3·d³ a site, and rows·d² a linear.
pub fn solving(model: &Spec, kind: StatisticKind) -> f64 {
    if kind != StatisticKind::Gram {
        return 0.0;
    }
    let of_block = |block: &BlockSpec| {
        let factors: f64 = block.sites.iter().map(|site| 2.0 / 3.0 * (site.columns as f64).powi(3)).sum();
        let rows: f64 = block.linears.iter().map(|l| l.rows as f64 * (l.columns as f64).powi(2)).sum();
        factors + rows
    };
    model.blocks.iter().map(|block| of_block(block)).sum()
}

/// Loss, divergences and agreement of `positions` positions: two models' logits, and some forty operations for each
/// pair of them.
pub fn scoring(model: &Spec, positions: usize) -> f64 {
    positions as f64 * model.vocabulary as f64 * (4 * model.hidden + 40) as f64
}

/// The columns of what the linears of each site of each block read.
pub fn columns(model: &Spec) -> impl Iterator<Item = usize> {
    model.blocks.iter().flat_map(|block| block.read_sites().map(|site| block.sites[site].columns))
}
