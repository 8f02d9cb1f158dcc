//! How many of the same weights settings keep.

use super::super::MaskPoint;
use super::super::masks::{Pair, calibrations, of_seeds, pairs};
use super::{Column, Entry, Row, Sheet, distinct};

/// All blocks together, then block by block.
pub fn sheets(points: &[MaskPoint]) -> Vec<Sheet> {
    let pairs = pairs(points);
    vec![together(&pairs), by_block(points, &pairs)]
}

fn together(pairs: &[Pair]) -> Sheet {
    let columns = vec![
        Column::text("setting"),
        Column::text("other"),
        Column::number("kept by both"),
        Column::number("two seeds"),
        Column::number("chance"),
        Column::number("pairs"),
    ];
    let mut sheet = Sheet::new("masks", "Weights that both keep", columns);
    let mut axis = None;
    for pair in pairs {
        let is_first = axis.replace(pair.axis).is_some_and(|before| before != pair.axis);
        let is_of_seeds = pair.axis == "seed";
        let seeds = of_seeds(pairs, pair).filter(|_| !is_of_seeds);
        let entries = vec![
            Entry::text(&pair.setting.name),
            Entry::text(if is_of_seeds { "another seed" } else { &pair.other.name }),
            share(pair.overlap),
            seeds.map_or_else(Entry::default, share),
            share(pair.chance),
            Entry::count(pair.pairs),
        ];
        sheet.rows.push(Row { entries, is_best: false, is_first });
    }
    sheet.notes.push(
        "The share of the weights that are kept which both keep, over all pairs of seeds; of large matrices, of a sample of \
         their weights."
            .into(),
    );
    sheet.notes.push("Chance: of two choices that know nothing of each other.".into());
    if sheet.rows.iter().any(|row| !row.entries[3].is_empty()) {
        sheet.notes.push("Two seeds: what two seeds of one of the settings share, the mean of both settings.".into());
    }
    sheet.without_empty_columns()
}

/// A row a block, a column a pair of calibrations, or of seeds.
fn by_block(points: &[MaskPoint], pairs: &[Pair]) -> Sheet {
    let shown: Vec<&Pair> = pairs.iter().filter(|pair| pair.axis != "method").collect();
    let name = |pair: &&Pair| match pair.axis {
        "seed" => format!("{}, two seeds", pair.setting.name),
        _ => format!("{}-{}, {}", pair.setting.method, pair.setting.strength(), calibrations(pair)),
    };
    let columns = shown.iter().map(|pair| Column::number(&name(pair)));
    let columns = std::iter::once(Column::number("block")).chain(columns).collect();
    let mut sheet = Sheet::new("masks-blocks", "Weights that both keep, by block", columns);
    let mut blocks = distinct(points.iter().filter(|p| p.axis != "method").map(|p| p.block));
    blocks.sort_unstable();
    for block in blocks {
        let entry = |pair: &&Pair| {
            let is_of = |p: &&MaskPoint| {
                p.block == block && (p.axis.as_str(), &p.setting, &p.other) == (pair.axis, pair.setting, pair.other)
            };
            points.iter().find(is_of).map_or_else(Entry::default, |point| share(point.overlap))
        };
        sheet.row(std::iter::once(Entry::count(block)).chain(shown.iter().map(entry)));
    }
    sheet.notes.push("The share of the weights that are kept which both keep.".into());
    sheet
}

fn share(x: f64) -> Entry {
    Entry::said(x, format!("{x:.3}"))
}

#[cfg(test)]
mod tests {
    use super::super::super::sample;
    use super::*;

    #[test]
    fn each_pair_has_its_share_beside_that_of_seeds_and_of_chance() {
        let report = sample::report();
        let all = sheets(&report.masks);
        let texts = |sheet: &Sheet, row: usize| {
            sheet.rows[row].entries.iter().map(|entry| entry.text.clone()).collect::<Vec<_>>()
        };
        assert_eq!(texts(&all[0], 0), ["wanda-0.5-prose", "wanda-0.5-task", "0.775", "0.950", "0.500", "9"]);
        assert_eq!(texts(&all[0], 1), ["wanda-0.5-prose", "another seed", "0.950", "", "0.500", "3"]);
        assert_eq!(all[0].rows.iter().map(|row| row.is_first).collect::<Vec<_>>(), [false, true, true]);
        let names: Vec<&str> = all[1].columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(names, ["block", "wanda-0.5, prose and task", "wanda-0.5-prose, two seeds"]);
        assert_eq!(texts(&all[1], 3), ["3", "0.850", "0.950"]);
        let mut report = report;
        report.masks.retain(|point| point.axis == "calibration");
        let all = sheets(&report.masks);
        assert!(all[0].position("two seeds").is_none() && all[0].notes.len() == 2, "{:?}", all[0]);
    }
}
