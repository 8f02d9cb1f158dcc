//! What pruning made of each block.

use super::super::text::number;
use super::super::{BlockPoint, Setting};
use super::{Column, Entry, Sheet, distinct};

/// The errors of the blocks, and their zeros where these are not the same in all of a setting.
pub fn sheets(points: &[BlockPoint], error_suite: Option<&str>) -> Vec<Sheet> {
    let mut errors = sheet("blocks", "Error by block", points, |p| p.relative_error);
    let held_out = match error_suite {
        Some(suite) => format!("on the same held-out samples of {suite} for every calibration"),
        None => "on each setting's own calibration windows".into(),
    };
    errors.notes.push(format!(
        "Relative error of the block's linears, weighted by their sizes, measured {held_out}; means over seeds."
    ));
    let mut zeros = sheet("zeros", "Zeros by block", points, |p| Some(p.achieved));
    zeros.notes.push("Fraction of the weights of the block's linears that are zero; means over seeds.".into());
    let varies = |p: &BlockPoint| {
        points.iter().any(|q| q.setting.name == p.setting.name && (q.achieved - p.achieved).abs() >= 0.0005)
    };
    if points.iter().any(varies) { vec![errors, zeros] } else { vec![errors] }
}

/// A row a block, a column a setting.
fn sheet(id: &str, title: &str, points: &[BlockPoint], value: impl Fn(&BlockPoint) -> Option<f64>) -> Sheet {
    let known: Vec<&BlockPoint> = points.iter().filter(|p| value(p).is_some()).collect();
    let settings: Vec<&Setting> = distinct(known.iter().map(|p| &p.setting));
    let columns = settings.iter().map(|setting| Column::number(&setting.name));
    let mut sheet = Sheet::new(id, title, std::iter::once(Column::number("block")).chain(columns).collect());
    let mut blocks = distinct(known.iter().map(|p| p.block));
    blocks.sort_unstable();
    for block in blocks {
        let of = |setting: &&Setting| {
            let point = known.iter().find(|p| p.block == block && p.setting == **setting);
            point.and_then(|p| value(p)).map_or_else(Entry::default, |x| Entry::said(x, number(x)))
        };
        sheet.row(std::iter::once(Entry::count(block)).chain(settings.iter().map(of)));
    }
    sheet
}
