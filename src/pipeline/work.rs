//! Floating-point operations of what a study computes: what plans estimate, and benchmarks divide by seconds.
//!
//! A multiplication and an addition are two. Products and what grows with them are counted; norms, softmax and
//! selections are not, so a rate is a lower bound of what the machine did.

use crate::model::Config;
use crate::prune::StatisticKind;
use crate::recipe::{Propagation, PruneSpec, Schedule};

/// A pass of `tokens` tokens in windows of `length` through all blocks.
pub fn forward(config: &Config, tokens: usize, length: usize) -> f64 {
    let linears = 2.0 * config.linear_parameters() as f64;
    // q·k and weights·v, over the half of the positions that causality leaves.
    let attention = 2.0 * (config.heads * config.head_dim * length) as f64;
    config.blocks as f64 * tokens as f64 * (linears + attention)
}

/// The calibration windows' way through all blocks, with the statistics of their inputs on it.
pub fn calibration(config: &Config, spec: PruneSpec, kind: StatisticKind, tokens: usize, length: usize) -> f64 {
    let passes = match (spec.schedule, spec.propagation) {
        (Schedule::Block, Propagation::Pruned) => 2.0,
        _ => 1.0,
    };
    // Nothing comes after the last block, so nothing goes through its last linear (and but once through the others).
    let pass = forward(config, tokens, length);
    let last = (passes - 1.0) * pass / config.blocks.max(1) as f64
        + 2.0 * (tokens * config.hidden * config.feed_forward) as f64;
    let statistics = |d: usize| match kind {
        StatisticKind::None => 0.0,
        StatisticKind::ColumnNorms => 2.0 * d as f64,
        // Half of 2·d² a token.
        StatisticKind::Gram => (d * d) as f64,
    };
    let statistics: f64 = sites(config).map(statistics).iter().sum();
    passes * pass - last + (config.blocks * tokens) as f64 * statistics
}

/// The method itself, for those that compensate: factors of 2/3·d³ a site, and rows·d² a linear.
pub fn solving(config: &Config, kind: StatisticKind) -> f64 {
    if kind != StatisticKind::Gram {
        return 0.0;
    }
    let [input, heads, residual, product] = sites(config).map(|d| d as f64);
    let factors: f64 = [input, heads, residual, product].iter().map(|d| 2.0 / 3.0 * d * d * d).sum();
    let attention_rows = ((config.heads + 2 * config.key_value_heads) * config.head_dim) as f64;
    let (hidden, wide) = (config.hidden as f64, config.feed_forward as f64);
    let rows = attention_rows * input * input
        + hidden * heads * heads
        + 2.0 * wide * residual * residual
        + hidden * product * product;
    config.blocks as f64 * (factors + rows)
}

/// Loss, divergences and agreement of `positions` positions: two models' logits, and some forty operations for each
/// pair of them.
pub fn scoring(config: &Config, positions: usize) -> f64 {
    positions as f64 * config.vocabulary as f64 * (4 * config.hidden + 40) as f64
}

/// The columns of what the linears of each site read.
pub fn sites(config: &Config) -> [usize; 4] {
    [config.hidden, config.heads * config.head_dim, config.hidden, config.feed_forward]
}
