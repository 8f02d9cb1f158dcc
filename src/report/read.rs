//! A report from the tables of a study, queried with polars.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use polars::prelude::*;
use serde::Deserialize;

use super::predictors::predictors;
use super::{
    BlockPoint, CellRow, Contrast, FailedCell, LEVEL, MetricColumn, Report, SampleContrast, SuiteReport, Value, answer,
};
use crate::guard::guarded;
use crate::memory;
use crate::metrics::{Family, Metric, least_p_value};
use crate::results::CellCounts;

/// Bytes of address space for the threads of polars, which waits for ever for those that cannot be started.
const POLARS: u64 = 64 << 20;

/// Samples of a suite that are set side by side.
const SAMPLES: usize = 10;

impl Report {
    /// Reads the tables in a folder of results.
    ///
    /// # Errors
    /// Where a table is missing, damaged, or of another version of calipr.
    pub fn read(dir: &Path) -> Result<Self> {
        ensure!(
            dir.is_dir(),
            "there is no folder {}; expected one of results, such as results/quickstart",
            dir.display()
        );
        let path = dir.join("run.json");
        if !path.is_file() {
            bail!("{} has no run.json; expected a folder of results, such as results/quickstart", dir.display());
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let run: Run = serde_json::from_str(&text)
            .map_err(|e| anyhow!("{} is no run.json that calipr wrote: {e}", path.display()))?;
        memory::ensure_room(POLARS).context("cannot query the tables")?;
        let tables = Tables { dir };
        let suites = tables.suites()?;
        let mut report = Self {
            study: run.recipe.name,
            model: run.model.source,
            answer: vec![],
            cells: run.cells,
            contrasts: tables.contrasts()?,
            predictors: predictors(&suites),
            blocks: tables.blocks()?,
            samples: tables.samples(&suites)?,
            failed: tables.failed()?,
            suites,
        };
        report.answer = answer::answer(&report);
        Ok(report)
    }
}

/// What a report says of `run.json`.
#[derive(Deserialize)]
struct Run {
    recipe: Named,
    model: Sourced,
    cells: CellCounts,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct Sourced {
    source: String,
}

/// Whether a metric is one of answers or choices.
fn is_downstream(metric: Metric) -> bool {
    metric.family() != Family::Language
}

struct Tables<'a> {
    dir: &'a Path,
}

/// A table that was read, by column.
struct Frame {
    frame: DataFrame,
    path: PathBuf,
}

impl Frame {
    fn column(&self, name: &str) -> Result<&Column> {
        let missing = || format!("{} has no column `{name}`; was it written by another version?", self.path.display());
        anyhow::Context::with_context(self.frame.column(name), missing)
    }

    /// A column as values of one type.
    fn of_type<'a, T>(&'a self, name: &str, values: impl FnOnce(&'a Column) -> PolarsResult<T>) -> Result<T> {
        let other = || format!("the column `{name}` of {} holds something else", self.path.display());
        anyhow::Context::with_context(values(self.column(name)?), other)
    }

    fn some_texts(&self, name: &str) -> Result<Vec<Option<String>>> {
        let values = self.of_type(name, Column::str)?;
        Ok(values.iter().map(|v| v.map(str::to_owned)).collect())
    }

    fn texts(&self, name: &str) -> Result<Vec<String>> {
        Ok(self.some_texts(name)?.into_iter().map(Option::unwrap_or_default).collect())
    }

    fn some_reals(&self, name: &str) -> Result<Vec<Option<f64>>> {
        Ok(self.of_type(name, Column::f64)?.iter().collect())
    }

    fn reals(&self, name: &str) -> Result<Vec<f64>> {
        Ok(self.some_reals(name)?.into_iter().map(|v| v.unwrap_or(f64::NAN)).collect())
    }

    fn some_counts(&self, name: &str) -> Result<Vec<Option<u64>>> {
        Ok(self.of_type(name, Column::u64)?.iter().collect())
    }

    fn counts(&self, name: &str) -> Result<Vec<u64>> {
        Ok(self.some_counts(name)?.into_iter().map(Option::unwrap_or_default).collect())
    }
}

impl Tables<'_> {
    /// What a query makes of the table of that name.
    fn query(&self, name: &str, query: impl FnOnce(LazyFrame) -> LazyFrame) -> Result<Frame> {
        let path = self.dir.join(format!("{name}.parquet"));
        let read = || -> Result<DataFrame> {
            let text = path.to_str().context("the path is not UTF-8")?;
            ensure!(path.is_file(), "it is not there, or no file");
            // The path is a path: no pattern, and no `key=value` folders that make columns.
            let as_it_is =
                ScanArgsParquet { glob: false, hive_options: HiveOptions::new_disabled(), ..Default::default() };
            Ok(query(LazyFrame::scan_parquet(text.into(), as_it_is)?).collect()?)
        };
        let frame = guarded(read).map_err(|e| {
            let said = format!("{e:#}"); // of a query that fails, polars also prints the plan
            let what = said.lines().next().unwrap_or_default();
            anyhow!("cannot read {}, or calipr did not write it: {what}", path.display())
        })?;
        Ok(Frame { frame, path })
    }

    fn suites(&self) -> Result<Vec<SuiteReport>> {
        // A stable sort: within a suite, cells stay in the order in which the grid has them.
        let stable = SortMultipleOptions::default().with_maintain_order(true);
        let table = self.query("metrics", |t| t.sort(["suite"], stable))?;
        let of_rows = self.query("samples", |t| {
            t.filter(col("prompt").is_not_null()).select([col("suite")]).unique(None, UniqueKeepStrategy::Any)
        })?;
        let of_rows = of_rows.texts("suite")?;
        let (suites, cells, metrics) = (table.texts("suite")?, table.texts("cell")?, table.texts("metric")?);
        let (methods, patterns) = (table.texts("method")?, table.texts("pattern")?);
        let (sparsities, calibrations) = (table.reals("sparsity")?, table.some_texts("calibration")?);
        let (seeds, n) = (table.some_counts("seed")?, table.counts("n")?);
        let (values, lows, highs) = (table.reals("value")?, table.some_reals("ci_low")?, table.some_reals("ci_high")?);
        let (deltas, p_values) = (table.reals("delta")?, table.some_reals("p_value")?);
        let (delta_lows, delta_highs) = (table.some_reals("delta_low")?, table.some_reals("delta_high")?);

        let mut reports: Vec<SuiteReport> = Vec::new();
        for i in 0..suites.len() {
            let Some(metric) = Metric::named(&metrics[i]) else {
                bail!("{} has the metric \"{}\", which is unknown", table.path.display(), metrics[i])
            };
            if reports.last().is_none_or(|r| r.suite != suites[i]) {
                let unit = if of_rows.contains(&suites[i]) { "rows" } else { "windows" };
                let (suite, unit) = (suites[i].clone(), unit.to_owned());
                reports.push(SuiteReport { suite, samples: n[i], unit, metrics: vec![], rows: vec![] });
            }
            let report = reports.last_mut().expect("a suite was just pushed");
            if !report.metrics.iter().any(|m| m.name == metrics[i]) {
                report.metrics.push(MetricColumn {
                    name: metrics[i].clone(),
                    higher_is_better: metric.higher_is_better(),
                    downstream: is_downstream(metric),
                });
            }
            if report.rows.last().is_none_or(|row| row.cell != cells[i]) {
                report.rows.push(CellRow {
                    cell: cells[i].clone(),
                    method: methods[i].clone(),
                    pattern: patterns[i].clone(),
                    sparsity: sparsities[i],
                    calibration: calibrations[i].clone(),
                    seed: seeds[i],
                    values: vec![],
                });
            }
            let is_worse = if metric.higher_is_better() { deltas[i] < 0.0 } else { deltas[i] > 0.0 };
            let enough = least_p_value(n[i] as usize) < LEVEL;
            let is_sure = p_values[i].is_some_and(|p| p < LEVEL);
            let row = report.rows.last_mut().expect("a row was just pushed");
            if report.metrics.get(row.values.len()).is_none_or(|column| column.name != metrics[i]) {
                bail!(
                    "{} has other metrics of {} on {} than of the cells before; did several studies write it?",
                    table.path.display(),
                    row.cell,
                    report.suite
                );
            }
            row.values.push(Value {
                value: values[i],
                low: lows[i],
                high: highs[i],
                delta: deltas[i],
                delta_low: delta_lows[i],
                delta_high: delta_highs[i],
                p_value: p_values[i],
                as_good_as_dense: enough && !(is_worse && is_sure),
                best: false,
            });
        }
        for report in &reports {
            let complete = |row: &CellRow| row.values.len() == report.metrics.len();
            if let Some(row) = report.rows.iter().find(|row| !complete(row)) {
                bail!(
                    "{} lacks metrics of {} on {}; did several studies write it?",
                    table.path.display(),
                    row.cell,
                    report.suite
                );
            }
        }
        reports.iter_mut().for_each(mark_best);
        Ok(reports)
    }

    fn contrasts(&self) -> Result<Vec<Contrast>> {
        let table = self.query("contrasts", |t| t)?;
        let (suites, metrics, methods) = (table.texts("suite")?, table.texts("metric")?, table.texts("method")?);
        let (patterns, sparsities) = (table.texts("pattern")?, table.reals("sparsity")?);
        let (calibrations, others, seeds) =
            (table.texts("calibration")?, table.texts("other")?, table.some_counts("seed")?);
        let (values, other_values, deltas) =
            (table.reals("value")?, table.reals("other_value")?, table.reals("delta")?);
        let (lows, highs) = (table.some_reals("delta_low")?, table.some_reals("delta_high")?);
        let p_values = table.some_reals("p_value")?;
        let contrast = |i: usize| {
            let higher = Metric::named(&metrics[i]).is_some_and(Metric::higher_is_better);
            let first_wins = if higher { deltas[i] >= 0.0 } else { deltas[i] <= 0.0 };
            let turn = |x: Option<f64>| x.map(|x| 0.0 - x);
            let (better, worse) = if first_wins { (&calibrations, &others) } else { (&others, &calibrations) };
            let (better_value, worse_value) =
                if first_wins { (values[i], other_values[i]) } else { (other_values[i], values[i]) };
            Contrast {
                suite: suites[i].clone(),
                metric: metrics[i].clone(),
                method: methods[i].clone(),
                pattern: patterns[i].clone(),
                sparsity: sparsities[i],
                seed: seeds[i],
                better: better[i].clone(),
                worse: worse[i].clone(),
                better_value,
                worse_value,
                difference: better_value - worse_value,
                low: if first_wins { lows[i] } else { turn(highs[i]) },
                high: if first_wins { highs[i] } else { turn(lows[i]) },
                p_value: p_values[i],
            }
        };
        Ok((0..suites.len()).map(contrast).collect())
    }

    fn blocks(&self) -> Result<Vec<BlockPoint>> {
        let weights = || col("rows").cast(DataType::Float64) * col("columns").cast(DataType::Float64);
        let mean = |name: &str| ((col(name) * weights()).sum() / weights().sum()).alias(name);
        let table = self.query("layers", |t| {
            t.group_by_stable([col("cell"), col("method"), col("calibration"), col("block")]).agg([
                mean("achieved_sparsity"),
                // A sum skips nulls: where no error was measured there is none.
                when(col("relative_error").null_count().gt(lit(0)))
                    .then(lit(NULL))
                    .otherwise(mean("relative_error"))
                    .cast(DataType::Float64)
                    .alias("relative_error"),
            ])
        })?;
        let (cells, methods) = (table.texts("cell")?, table.texts("method")?);
        let (calibrations, blocks) = (table.some_texts("calibration")?, table.counts("block")?);
        let (sparsities, errors) = (table.reals("achieved_sparsity")?, table.some_reals("relative_error")?);
        let point = |i: usize| BlockPoint {
            cell: cells[i].clone(),
            method: methods[i].clone(),
            calibration: calibrations[i].clone(),
            block: blocks[i],
            sparsity: sparsities[i],
            relative_error: errors[i],
        };
        Ok((0..cells.len()).map(point).collect())
    }

    /// For each suite with answers, the samples on which dense and the best pruned cell differ most.
    fn samples(&self, suites: &[SuiteReport]) -> Result<Vec<SampleContrast>> {
        let mut samples = Vec::new();
        for suite in suites {
            let of_text = |m: &&MetricColumn| Metric::named(&m.name).is_some_and(|m| m.family() == Family::Text);
            let Some(metric) = suite.metrics.iter().find(of_text) else { continue };
            let column = suite.metrics.iter().position(|m| m.name == metric.name).expect("it was just found");
            let Some(best) = suite.rows.iter().find(|row| row.pattern != "dense" && row.values[column].best) else {
                continue;
            };
            let of_cell = |cell: &str| {
                let (cell, suite) = (cell.to_owned(), suite.suite.clone());
                self.query("samples", |t| {
                    t.filter(col("suite").eq(lit(suite)).and(col("cell").eq(lit(cell))))
                        .sort(["sample"], Default::default())
                })
            };
            let (dense, pruned) = (of_cell("dense")?, of_cell(&best.cell)?);
            let (numbers, prompts) = (dense.counts("sample")?, dense.texts("prompt")?);
            ensure!(
                numbers == pruned.counts("sample")?,
                "{} has other samples of {} for {} than for dense; did several studies write it?",
                dense.path.display(),
                suite.suite,
                best.cell
            );
            let references = dense.texts("reference")?;
            let (dense_answers, pruned_answers) = (dense.texts("prediction")?, pruned.texts("prediction")?);
            let (dense_scores, pruned_scores) = (dense.reals(&metric.name)?, pruned.reals(&metric.name)?);
            let mut order: Vec<usize> = (0..numbers.len()).collect();
            let gap = |i: usize| (dense_scores[i] - pruned_scores[i]).abs();
            order.sort_by(|&a, &b| gap(b).total_cmp(&gap(a)));
            let differ = order.into_iter().filter(|&i| dense_answers[i] != pruned_answers[i]);
            samples.extend(differ.take(SAMPLES).map(|i| SampleContrast {
                suite: suite.suite.clone(),
                sample: numbers[i],
                cell: best.cell.clone(),
                metric: metric.name.clone(),
                prompt: prompts[i].clone(),
                reference: references[i].clone(),
                dense: dense_answers[i].clone(),
                pruned: pruned_answers[i].clone(),
                dense_score: dense_scores[i],
                pruned_score: pruned_scores[i],
            }));
        }
        Ok(samples)
    }

    fn failed(&self) -> Result<Vec<FailedCell>> {
        let table = self.query("cells", |t| t.filter(col("status").eq(lit("failed"))))?;
        let pairs = table.texts("cell")?.into_iter().zip(table.texts("error")?);
        Ok(pairs.map(|(cell, error)| FailedCell { cell, error }).collect())
    }
}

/// Marks the best pruned cell of every metric.
fn mark_best(suite: &mut SuiteReport) {
    for (i, metric) in suite.metrics.iter().enumerate() {
        let rank = |x: f64| if metric.higher_is_better { -x } else { x };
        let pruned = suite.rows.iter().filter(|row| row.pattern != "dense").map(|row| rank(row.values[i].value));
        let Some(best) = pruned.min_by(f64::total_cmp) else { continue };
        for row in suite.rows.iter_mut().filter(|row| row.pattern != "dense") {
            row.values[i].best = rank(row.values[i].value) == best;
        }
    }
}
