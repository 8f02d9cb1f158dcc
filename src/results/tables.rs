//! Records as Arrow batches, and batches as Parquet.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Float64Builder, ListBuilder, RecordBatch, StringArray, StringBuilder,
    UInt64Array,
};
use arrow::datatypes::{DataType, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::masks::MaskRow;
use super::measures::Measures;
use super::shares::Shares;
use super::{Finished, schema};
use crate::data::Prompt;
use crate::metrics::{Family, Metric, most_likely};
use crate::pipeline::{CellRecord, Material, Seconds, Status};
use crate::recipe::{Recipe, Setting};

/// The bytes of a Parquet file.
pub fn to_parquet(batch: &RecordBatch) -> Result<Vec<u8>> {
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties))?;
    writer.write(batch)?;
    Ok(writer.into_inner()?)
}

pub(super) fn texts<T: Into<String>>(values: impl Iterator<Item = T>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values.map(Into::into)))
}

pub(super) fn some_texts(values: impl Iterator<Item = Option<String>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

pub(super) fn reals(values: impl Iterator<Item = f64>) -> ArrayRef {
    Arc::new(Float64Array::from_iter_values(values))
}

pub(super) fn some_reals(values: impl Iterator<Item = Option<f64>>) -> ArrayRef {
    Arc::new(values.collect::<Float64Array>())
}

fn counts(values: impl Iterator<Item = u64>) -> ArrayRef {
    Arc::new(UInt64Array::from_iter_values(values))
}

fn flags(values: impl Iterator<Item = bool>) -> ArrayRef {
    Arc::new(values.map(Some).collect::<BooleanArray>())
}

pub(super) fn some_counts(values: impl Iterator<Item = Option<u64>>) -> ArrayRef {
    Arc::new(values.collect::<UInt64Array>())
}

fn some_text_lists<'a>(values: impl Iterator<Item = Option<Vec<&'a str>>>) -> ArrayRef {
    let mut lists = ListBuilder::new(StringBuilder::new()).with_field(schema::element(DataType::Utf8));
    lists.extend(values.map(|list| list.map(|list| list.into_iter().map(Some))));
    Arc::new(lists.finish())
}

fn some_real_lists<'a>(values: impl Iterator<Item = Option<&'a [f64]>>) -> ArrayRef {
    let mut lists = ListBuilder::new(Float64Builder::new()).with_field(schema::element(DataType::Float64));
    lists.extend(values.map(|list| list.map(|list| list.iter().copied().map(Some))));
    Arc::new(lists.finish())
}

/// A table: the columns that name each row's cell, then its own.
fn table(schema: SchemaRef, recipe: &Recipe, cells: &[&CellRecord], own: Vec<ArrayRef>) -> Result<RecordBatch> {
    let settings: Vec<Setting> = cells.iter().map(|c| c.cell.setting()).collect();
    let mut columns = vec![texts(cells.iter().map(|_| recipe.name.as_str())), texts(cells.iter().map(|c| c.cell.id()))];
    columns.extend(kind_columns(|| settings.iter()));
    columns.push(some_counts(cells.iter().map(|c| c.cell.seed())));
    columns.extend(own);
    Ok(RecordBatch::try_new(schema, columns)?)
}

/// `metrics.parquet`
pub fn metrics(recipe: &Recipe, measures: &Measures) -> Result<RecordBatch> {
    let rows = &measures.cells;
    let cells: Vec<&CellRecord> = rows.iter().map(|(finished, _)| &finished.outcome.record).collect();
    let found = || rows.iter().map(|(_, measured)| measured);
    let (alone, beside) = (|| found().map(|m| &m.found.0), || found().map(|m| &m.found.1));
    let mut own = vec![texts(found().map(|m| m.suite.as_str()))];
    own.extend(metric_columns(|| found().map(|m| m.metric)));
    own.extend([
        reals(alone().map(|s| s.value)),
        some_reals(alone().map(|s| s.interval.map(|i| i.0))),
        some_reals(alone().map(|s| s.interval.map(|i| i.1))),
        counts(found().map(|m| m.samples as u64)),
        reals(beside().map(|c| c.other)),
        reals(beside().map(|c| c.delta)),
        some_reals(beside().map(|c| c.interval.map(|i| i.0))),
        some_reals(beside().map(|c| c.interval.map(|i| i.1))),
        some_reals(beside().map(|c| c.p_value)),
    ]);
    table(schema::metrics(), recipe, &cells, own)
}

/// `settings.parquet`
pub fn settings(recipe: &Recipe, measures: &Measures) -> Result<RecordBatch> {
    let rows = &measures.settings;
    let found = || rows.iter().map(|(_, measured)| measured);
    let mut columns = vec![texts(rows.iter().map(|_| recipe.name.as_str()))];
    columns.extend(setting_columns(|| rows.iter().map(|(setting, _)| setting)));
    columns.push(texts(found().map(|m| m.suite.as_str())));
    columns.extend(metric_columns(|| found().map(|m| m.metric)));
    columns.extend([
        reals(found().map(|m| m.found.value)),
        some_reals(found().map(|m| m.found.spread)),
        some_reals(found().map(|m| m.found.interval.map(|i| i.0))),
        some_reals(found().map(|m| m.found.interval.map(|i| i.1))),
        counts(found().map(|m| m.samples as u64)),
        some_counts(rows.iter().map(|(setting, m)| setting.calibration().map(|_| m.found.replicates as u64))),
    ]);
    Ok(RecordBatch::try_new(schema::settings(), columns)?)
}

/// `contrasts.parquet`
pub fn contrasts(recipe: &Recipe, measures: &Measures) -> Result<RecordBatch> {
    let rows = &measures.contrasts;
    let contrast = || rows.iter().map(|row| &row.contrast);
    let judged = || rows.iter().map(|row| &row.judged);
    let mut columns =
        vec![texts(rows.iter().map(|_| recipe.name.as_str())), texts(rows.iter().map(|row| row.axis.as_str()))];
    columns.extend(setting_columns(|| rows.iter().map(|row| &row.setting)));
    columns.extend(setting_columns(|| rows.iter().map(|row| &row.other)));
    columns.push(texts(rows.iter().map(|row| row.suite.as_str())));
    columns.extend(metric_columns(|| rows.iter().map(|row| row.metric)));
    columns.extend([
        counts(rows.iter().map(|row| row.samples as u64)),
        some_counts(rows.iter().map(|row| row.seeds[0].map(|n| n as u64))),
        some_counts(rows.iter().map(|row| row.seeds[1].map(|n| n as u64))),
        reals(contrast().map(|c| c.value)),
        reals(contrast().map(|c| c.other)),
        reals(contrast().map(|c| c.delta)),
        some_reals(contrast().map(|c| c.interval.map(|i| i.0))),
        some_reals(contrast().map(|c| c.interval.map(|i| i.1))),
        some_reals(contrast().map(|c| c.p_value)),
        some_reals(judged().map(|j| j.p_adjusted)),
        reals(rows.iter().map(|row| row.margin)),
        some_reals(contrast().map(|c| c.p_margin)),
        some_reals(judged().map(|j| j.p_margin_adjusted)),
        texts(judged().map(|j| j.verdict.name())),
        some_counts(judged().map(|j| j.needed.map(|n| n as u64))),
        texts(rows.iter().map(|row| row.family.as_str())),
    ]);
    Ok(RecordBatch::try_new(schema::contrasts(), columns)?)
}

/// The columns that say what a metric is.
pub(super) fn metric_columns<I: Iterator<Item = Metric>>(metrics: impl Fn() -> I) -> Vec<ArrayRef> {
    vec![
        texts(metrics().map(Metric::as_str)),
        texts(metrics().map(|metric| metric.family().as_str())),
        flags(metrics().map(Metric::higher_is_better)),
    ]
}

/// The columns that say what a setting is.
pub(super) fn setting_columns<'a, I: Iterator<Item = &'a Setting>>(settings: impl Fn() -> I) -> Vec<ArrayRef> {
    let mut columns = vec![texts(settings().map(Setting::id))];
    columns.extend(kind_columns(settings));
    columns
}

/// The columns that say what was done to the model.
fn kind_columns<'a, I: Iterator<Item = &'a Setting>>(settings: impl Fn() -> I) -> Vec<ArrayRef> {
    vec![
        texts(settings().map(Setting::method)),
        some_reals(settings().map(Setting::ratio)),
        texts(settings().map(Setting::pattern)),
        some_texts(settings().map(|s| s.calibration().map(str::to_owned))),
    ]
}

/// `cells.parquet`
pub fn cells(recipe: &Recipe, finished: &[&Finished]) -> Result<RecordBatch> {
    let cells: Vec<&CellRecord> = finished.iter().map(|f| &f.outcome.record).collect();
    let pruned = || cells.iter().map(|c| c.pruned.as_ref());
    let error = |c: &&CellRecord| match &c.status {
        Status::Done => None,
        Status::Failed(error) => Some(error.clone()),
    };
    let spent = || finished.iter().map(|f| f.outcome.spent.as_ref());
    let stage = |of: fn(&Seconds) -> f64| some_reals(spent().map(|spent| Some(of(&spent?.seconds))));
    let is_cached = |f: &Finished| f.outcome.record.status == Status::Done && f.outcome.spent.is_none();
    let own = vec![
        texts(cells.iter().map(|c| if c.status == Status::Done { "done" } else { "failed" })),
        some_texts(cells.iter().map(error)),
        some_reals(pruned().map(|p| p.map(|p| p.achieved_sparsity()))),
        flags(finished.iter().map(|f| is_cached(f))),
        stage(|s| s.calibrate),
        stage(|s| s.prune),
        stage(|s| s.forward),
        stage(|s| s.score),
        stage(|s| s.generate),
        stage(Seconds::total),
        some_reals(spent().map(|spent| spent?.tokens_per_second())),
        some_counts(spent().map(|spent| spent?.peak_bytes)),
        some_texts(spent().map(|spent| Some(spent?.device.clone()))),
        some_counts(spent().map(|spent| spent?.device_peak_bytes)),
        some_counts(spent().map(|spent| spent?.batch_tokens)),
    ];
    table(schema::cells(), recipe, &cells, own)
}

/// `layers.parquet`
pub fn layers(recipe: &Recipe, finished: &[&Finished]) -> Result<RecordBatch> {
    let rows: Vec<_> = finished
        .iter()
        .filter_map(|f| Some((&f.outcome.record, f.outcome.record.pruned.as_ref()?)))
        .flat_map(|(cell, pruned)| {
            let error = |i: usize| cell.errors.as_ref().and_then(|errors| errors.relative.get(i).copied().flatten());
            pruned.layers.iter().enumerate().map(move |(i, layer)| (cell, layer, error(i)))
        })
        .collect();
    let cells: Vec<&CellRecord> = rows.iter().map(|(cell, ..)| *cell).collect();
    let layers = || rows.iter().map(|(_, layer, _)| *layer);
    let errors = || rows.iter().map(|(.., error)| *error);
    let suite = |error: Option<f64>| error.and(recipe.error_suite()).map(str::to_owned);
    let own = vec![
        counts(layers().map(|l| l.block as u64)),
        texts(layers().map(|l| l.linear.as_str())),
        counts(layers().map(|l| l.rows as u64)),
        counts(layers().map(|l| l.columns as u64)),
        reals(layers().map(|l| l.sparsity)),
        flags(layers().map(|l| l.skipped)),
        some_reals(errors()),
        some_texts(errors().map(suite)),
        some_reals(layers().map(|l| l.damping)),
        some_counts(layers().map(|l| l.routed)),
        reals(layers().map(|l| l.seconds)),
    ];
    table(schema::layers(), recipe, &cells, own)
}

/// `masks.parquet`
pub fn masks(recipe: &Recipe, rows: &[MaskRow]) -> Result<RecordBatch> {
    let mut columns =
        vec![texts(rows.iter().map(|_| recipe.name.as_str())), texts(rows.iter().map(|row| row.axis.as_str()))];
    columns.extend(setting_columns(|| rows.iter().map(|row| &row.setting)));
    columns.extend(setting_columns(|| rows.iter().map(|row| &row.other)));
    columns.extend([
        counts(rows.iter().map(|row| row.pairs as u64)),
        counts(rows.iter().map(|row| row.block as u64)),
        texts(rows.iter().map(|row| row.linear.as_str())),
        counts(rows.iter().map(|row| row.weights)),
        counts(rows.iter().map(|row| row.compared)),
        some_reals(rows.iter().map(|row| row.overlap.share())),
        some_reals(rows.iter().map(|row| row.overlap.chance())),
    ]);
    Ok(RecordBatch::try_new(schema::masks(), columns)?)
}

/// `samples.parquet`
pub fn samples(recipe: &Recipe, materials: &BTreeMap<String, Material>, finished: &[&Finished]) -> Result<RecordBatch> {
    struct Row<'a> {
        cell: &'a CellRecord,
        suite: &'a str,
        sample: usize,
        prompt: Option<&'a Prompt>,
        answer: Option<&'a str>,
        /// The log-likelihood of each choice, where they were compared.
        likelihoods: Option<&'a [f64]>,
        shares: &'a Shares,
    }
    let mut rows = Vec::new();
    for cell in finished {
        for (suite, shares) in &cell.shares {
            let material = &materials[suite];
            let record = &cell.outcome.suites[suite];
            let answers = record.answers.as_ref();
            let likelihoods =
                record.scores.as_ref().map(|scores| &scores.choices).filter(|choices| !choices.is_empty());
            rows.extend((0..material.samples()).map(|sample| Row {
                cell: &cell.outcome.record,
                suite,
                sample,
                prompt: material.prompts.get(sample),
                answer: answers.map(|a| a.texts[sample].as_str()),
                likelihoods: likelihoods.map(|of_samples| of_samples[sample].as_slice()),
                shares,
            }));
        }
    }
    let cells: Vec<&CellRecord> = rows.iter().map(|r| r.cell).collect();
    let share = |row: &Row, metric| row.shares.get(&metric).map(|shares| shares[row.sample]);
    let choosing = || rows.iter().map(|r| r.prompt.filter(|prompt| !prompt.choices.is_empty()));
    let positions = |row: &Row| {
        let (_, shares) = row.shares.iter().find(|(metric, _)| metric.family() == Family::Language)?;
        Some(shares[row.sample].weight as u64)
    };
    let mut own = vec![
        texts(rows.iter().map(|r| r.suite)),
        counts(rows.iter().map(|r| r.sample as u64)),
        some_texts(rows.iter().map(|r| r.prompt.map(|p| p.text.clone()))),
        some_texts(rows.iter().map(|r| r.prompt.and_then(|p| p.references.first().cloned()))),
        some_texts(rows.iter().map(|r| r.answer.map(str::to_owned))),
        some_text_lists(choosing().map(|prompt| prompt.map(Prompt::choice_texts))),
        some_counts(choosing().map(|prompt| prompt.map(|prompt| prompt.answer as u64))),
        some_real_lists(rows.iter().map(|r| r.likelihoods)),
        some_counts(rows.iter().map(|r| r.likelihoods.map(|likelihoods| most_likely(likelihoods) as u64))),
        some_counts(rows.iter().map(positions)),
    ];
    let mean = |metric: Metric| {
        some_reals(rows.iter().map(move |r| share(r, metric).filter(|s| s.weight > 0.0).map(|s| s.mean())))
    };
    own.extend(schema::sample_metrics().map(mean));
    table(schema::samples(), recipe, &cells, own)
}
