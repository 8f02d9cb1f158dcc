//! `published.parquet`: figures of papers beside what was found. It is there only where the recipe has some.

use std::fs;
use std::io::ErrorKind::NotFound;
use std::sync::Arc;

use anyhow::{Context, Result};
use arrow::array::{BooleanArray, RecordBatch};

use super::measures::Measures;
use super::tables::{metric_columns, reals, setting_columns, some_counts, some_reals, some_texts, texts, to_parquet};
use super::{Results, replace, schema};
use crate::recipe::{Cell, Published, Recipe, cells};

/// Its name.
pub const TABLE: &str = "published";

/// A value with its interval.
type Found = (f64, Option<(f64, f64)>);

impl Results {
    /// Writes the table, or removes one that the recipe no longer has.
    pub(super) fn write_published(&self, recipe: &Recipe, measures: &Measures) -> Result<()> {
        let path = self.table(TABLE);
        if !recipe.published.is_empty() {
            return replace(&path, &to_parquet(&published(recipe, measures)?)?);
        }
        let gone = fs::remove_file(&path).or_else(|e| if e.kind() == NotFound { Ok(()) } else { Err(e) });
        gone.with_context(|| format!("cannot remove {}", path.display()))
    }
}

fn published(recipe: &Recipe, measures: &Measures) -> Result<RecordBatch> {
    let all = cells(recipe);
    let rows: Vec<(&Published, &Cell, Option<Found>)> = recipe
        .published
        .iter()
        .filter_map(|figure| Some((figure, cell(figure, &all)?, found(figure, measures))))
        .collect();
    let settings: Vec<_> = rows.iter().map(|(_, cell, _)| cell.setting()).collect();
    let figures = || rows.iter().map(|(figure, ..)| *figure);
    let found = || rows.iter().map(|(.., found)| found.as_ref());
    let interval = || found().map(|found| found.and_then(|(_, interval)| *interval));
    let seed =
        |(figure, cell, _): &(&Published, &Cell, _)| cell.seed().filter(|_| figure.setting != cell.setting().id());
    let model = |figure: &Published| figure.model.as_ref().unwrap_or(&recipe.model.source).to_string();
    let within = rows.iter().map(|(figure, _, found)| figure.is_within(found.and_then(|(_, interval)| interval)));
    let mut columns = vec![texts(rows.iter().map(|_| recipe.name.as_str()))];
    columns.extend(setting_columns(|| settings.iter()));
    columns.extend([some_counts(rows.iter().map(seed)), texts(figures().map(|figure| figure.suite.as_str()))]);
    columns.extend(metric_columns(|| figures().map(|figure| figure.metric)));
    columns.extend([
        texts(figures().map(model)),
        reals(figures().map(|figure| figure.value)),
        some_reals(figures().map(|figure| figure.spread)),
        some_reals(found().map(|found| found.map(|(value, _)| *value))),
        some_reals(interval().map(|interval| interval.map(|(low, _)| low))),
        some_reals(interval().map(|interval| interval.map(|(_, high)| high))),
        some_reals(rows.iter().map(|(figure, _, found)| found.map(|(value, _)| value - figure.value))),
        Arc::new(within.collect::<BooleanArray>()),
        texts(figures().map(|figure| figure.place.as_str())),
        some_texts(figures().map(|figure| figure.note.clone())),
    ]);
    Ok(RecordBatch::try_new(schema::published(), columns)?)
}

/// A cell of the setting that a figure is of, or the cell itself. A recipe that was checked has it.
fn cell<'a>(figure: &Published, all: &'a [Cell]) -> Option<&'a Cell> {
    let of_setting = all.iter().find(|cell| cell.setting().id() == figure.setting);
    of_setting.or_else(|| all.iter().find(|cell| cell.id() == figure.setting))
}

fn found(figure: &Published, measures: &Measures) -> Option<Found> {
    let of_setting = measures.settings.iter().find(|(setting, found)| {
        setting.id() == figure.setting && *found.suite == *figure.suite && found.metric == figure.metric
    });
    let of_cell = || {
        let (_, found) = measures.cells.iter().find(|(cell, found)| {
            cell.id == figure.setting && *found.suite == *figure.suite && found.metric == figure.metric
        })?;
        Some((found.found.0.value, found.found.0.interval))
    };
    of_setting.map(|(_, found)| (found.found.value, found.found.interval)).or_else(of_cell)
}
