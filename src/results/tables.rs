//! Records as Arrow batches, and batches as Parquet.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use anyhow::Result;
use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Float64Builder, ListBuilder, RecordBatch, StringArray, StringBuilder,
    UInt64Array,
};
use arrow::datatypes::{DataType, SchemaRef};
use indexmap::IndexMap;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::masks::{Beside, SharedWeights};
use super::measures::Measures;
use super::shares::{Shares, shares};
use super::{Finished, schema};
use crate::data::Prompt;
use crate::metrics::{Family, Metric, most_likely};
use crate::pipeline::{ErrorsRecord, LayerRecord, Material, PrunedRecord, Seconds, Status, Study, SuiteRecord};
use crate::recipe::{Recipe, Setting};

/// The bytes of a Parquet file.
pub fn to_parquet(batch: &RecordBatch) -> Result<Vec<u8>> {
    let mut writer = writer(batch.schema(), Vec::new())?;
    writer.write(batch)?;
    Ok(writer.into_inner()?)
}

/// What writes a Parquet file.
pub fn writer<W: Write + Send>(schema: SchemaRef, out: W) -> Result<ArrowWriter<W>> {
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    Ok(ArrowWriter::try_new(out, schema, Some(properties))?)
}

pub(super) fn texts<T: AsRef<str>>(values: impl Iterator<Item = T>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

pub(super) fn some_texts<T: AsRef<str>>(values: impl Iterator<Item = Option<T>>) -> ArrayRef {
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
fn table(schema: SchemaRef, recipe: &Recipe, cells: &[&Finished], own: Vec<ArrayRef>) -> Result<RecordBatch> {
    // Rows of a cell mostly stand together.
    let mut settings: Vec<Arc<Setting>> = Vec::with_capacity(cells.len());
    for (i, cell) in cells.iter().enumerate() {
        let is_known = i > 0 && cells[i - 1].id == cell.id;
        settings.push(if is_known { settings[i - 1].clone() } else { Arc::new(cell.cell.setting()) });
    }
    let mut columns =
        vec![texts(cells.iter().map(|_| recipe.name.as_str())), texts(cells.iter().map(|cell| cell.id.as_str()))];
    columns.extend(kind_columns(|| settings.iter().map(|setting| &**setting)));
    columns.push(some_counts(cells.iter().map(|cell| cell.cell.seed())));
    columns.extend(own);
    Ok(RecordBatch::try_new(schema, columns)?)
}

/// `metrics.parquet`
pub fn metrics(recipe: &Recipe, measures: &Measures) -> Result<RecordBatch> {
    let rows = &measures.cells;
    let cells: Vec<&Finished> = rows.iter().map(|(finished, _)| *finished).collect();
    let found = || rows.iter().map(|(_, measured)| measured);
    let (alone, beside) = (|| found().map(|m| &m.found.0), || found().map(|m| &m.found.1));
    let mut own = vec![texts(found().map(|m| &*m.suite))];
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
    columns.push(texts(found().map(|m| &*m.suite)));
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
    columns.extend(setting_columns(|| rows.iter().map(|row| &*row.setting)));
    columns.extend(setting_columns(|| rows.iter().map(|row| &*row.other)));
    columns.push(texts(rows.iter().map(|row| &*row.suite)));
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
        texts(rows.iter().map(|row| &*row.family)),
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
        some_texts(settings().map(Setting::calibration)),
    ]
}

/// `cells.parquet`
pub fn cells(recipe: &Recipe, finished: &[&Finished]) -> Result<RecordBatch> {
    let error = |cell: &&Finished| match &cell.status {
        Status::Done => None,
        Status::Failed(error) => Some(error.clone()),
    };
    let spent = || finished.iter().map(|cell| cell.spent.as_ref());
    let stage = |of: fn(&Seconds) -> f64| some_reals(spent().map(|spent| Some(of(&spent?.seconds))));
    let own = vec![
        texts(finished.iter().map(|cell| if cell.is_done() { "done" } else { "failed" })),
        some_texts(finished.iter().map(error)),
        some_reals(finished.iter().map(|cell| cell.achieved)),
        flags(finished.iter().map(|cell| cell.is_done() && cell.spent.is_none())),
        stage(|s| s.calibrate),
        stage(|s| s.prune),
        stage(|s| s.forward),
        stage(|s| s.score),
        stage(|s| s.generate),
        stage(Seconds::total),
        some_reals(spent().map(|spent| spent?.tokens_per_second())),
        some_counts(spent().map(|spent| spent?.peak_bytes)),
        some_texts(spent().map(|spent| Some(&spent?.device))),
        some_counts(spent().map(|spent| spent?.device_peak_bytes)),
        some_counts(spent().map(|spent| spent?.batch_tokens)),
    ];
    table(schema::cells(), recipe, finished, own)
}

/// How a cell was pruned.
pub type Pruning<'a> = (&'a Finished, PrunedRecord, Option<ErrorsRecord>);

/// `layers.parquet`, of some cells.
pub fn layers(recipe: &Recipe, prunings: &[Pruning]) -> Result<RecordBatch> {
    let mut rows: Vec<(&Finished, &LayerRecord, Option<f64>)> = Vec::new();
    for (cell, pruned, errors) in prunings {
        let error = |i: usize| errors.as_ref().and_then(|errors| errors.relative.get(i).copied().flatten());
        rows.extend(pruned.layers.iter().enumerate().map(|(i, layer)| (*cell, layer, error(i))));
    }
    let cells: Vec<&Finished> = rows.iter().map(|(cell, ..)| *cell).collect();
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

/// `masks.parquet`, of some pairs of settings.
pub fn masks(recipe: &Recipe, besides: &[Beside]) -> Result<RecordBatch> {
    let rows: Vec<(&Beside, &SharedWeights)> =
        besides.iter().flat_map(|beside| beside.shared.iter().map(move |shared| (beside, shared))).collect();
    let shared = || rows.iter().map(|(_, shared)| *shared);
    let mut columns = vec![
        texts(rows.iter().map(|_| recipe.name.as_str())),
        texts(rows.iter().map(|(beside, _)| beside.axis.as_str())),
    ];
    columns.extend(setting_columns(|| rows.iter().map(|(beside, _)| &*beside.setting)));
    columns.extend(setting_columns(|| rows.iter().map(|(beside, _)| &*beside.other)));
    columns.extend([
        counts(rows.iter().map(|(beside, _)| beside.pairs as u64)),
        counts(shared().map(|s| s.block as u64)),
        texts(shared().map(|s| s.about.linear.as_str())),
        counts(shared().map(|s| s.about.weights)),
        counts(shared().map(|s| s.about.compared)),
        some_reals(shared().map(|s| s.overlap.share())),
        some_reals(shared().map(|s| s.overlap.chance())),
    ]);
    Ok(RecordBatch::try_new(schema::masks(), columns)?)
}

/// What a cell came to on each suite, and what each of its samples adds to the metrics of the table.
pub type Sampled<'a> = (&'a Finished, IndexMap<String, (SuiteRecord, Shares)>);

/// What a cell's samples came to, read again.
///
/// # Errors
/// Where the cache has lost it.
pub fn sampled<'a>(study: &Study, cell: &'a Finished) -> Result<Sampled<'a>> {
    let with_shares = |(suite, record): (String, SuiteRecord)| {
        let is_shown = |metric: Metric| metric.finding() == metric;
        let shares = shares(&study.recipe().suite[&suite], &record, &study.materials()[&suite], is_shown, None);
        (suite, (record, shares))
    };
    Ok((cell, cell.results(study)?.into_iter().map(with_shares).collect()))
}

/// `samples.parquet`, of some cells.
pub fn samples(recipe: &Recipe, materials: &BTreeMap<String, Material>, cells: &[Sampled]) -> Result<RecordBatch> {
    struct Row<'a> {
        cell: &'a Finished,
        suite: &'a str,
        sample: usize,
        prompt: Option<&'a Prompt>,
        answer: Option<&'a str>,
        /// The log-likelihood of each choice, where they were compared.
        likelihoods: Option<&'a [f64]>,
        shares: &'a Shares,
    }
    let mut rows = Vec::new();
    for (cell, suites) in cells {
        for (suite, (record, shares)) in suites {
            let material = &materials[suite];
            let answers = record.answers.as_ref();
            let likelihoods =
                record.scores.as_ref().map(|scores| &scores.choices).filter(|choices| !choices.is_empty());
            rows.extend((0..material.samples()).map(|sample| Row {
                cell,
                suite,
                sample,
                prompt: material.prompts.get(sample),
                answer: answers.map(|a| a.texts[sample].as_str()),
                likelihoods: likelihoods.map(|of_samples| of_samples[sample].as_slice()),
                shares,
            }));
        }
    }
    let cells: Vec<&Finished> = rows.iter().map(|r| r.cell).collect();
    let share = |row: &Row, metric| row.shares.get(&metric).map(|shares| shares.get(row.sample));
    let choosing = || rows.iter().map(|r| r.prompt.filter(|prompt| !prompt.choices.is_empty()));
    let chosen = |row: &Row| {
        row.likelihoods.filter(|_| row.prompt.is_some_and(|prompt| !prompt.choices.is_empty())).map(most_likely)
    };
    let positions = |row: &Row| {
        let (_, shares) = row.shares.iter().find(|(metric, _)| metric.family() == Family::Language)?;
        Some(shares.get(row.sample).weight as u64)
    };
    let mut own = vec![
        texts(rows.iter().map(|r| r.suite)),
        counts(rows.iter().map(|r| r.sample as u64)),
        some_texts(rows.iter().map(|r| r.prompt.map(|p| &p.text))),
        some_texts(rows.iter().map(|r| r.prompt.and_then(|p| p.references.first()))),
        some_texts(rows.iter().map(|r| r.answer)),
        some_text_lists(choosing().map(|prompt| prompt.map(Prompt::choice_texts))),
        some_counts(choosing().map(|prompt| prompt.map(|prompt| prompt.answer as u64))),
        some_real_lists(rows.iter().map(|r| r.likelihoods)),
        some_counts(rows.iter().map(|r| chosen(r).map(|chosen| chosen as u64))),
        some_counts(rows.iter().map(positions)),
    ];
    let mean = |metric: Metric| {
        some_reals(rows.iter().map(move |r| share(r, metric).filter(|s| s.weight > 0.0).map(|s| s.mean())))
    };
    own.extend(schema::sample_metrics().map(mean));
    table(schema::samples(), recipe, &cells, own)
}
