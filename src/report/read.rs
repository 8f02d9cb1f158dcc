//! A report from the tables of a study.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Result, bail, ensure};
use indexmap::IndexMap;
use polars::prelude::*;

use super::decision::{Cost, decision};
use super::facts::Achieved;
use super::predictors::predictors;
use super::tables::{Frame, Part, Tables};
use super::{
    BlockPoint, CellRow, CellValue, Contrast, Difference, FailedCell, MetricColumn, Report, Setting, SettingRow,
    SuiteReport, Value, facts, published, sentences, text,
};
use crate::memory;
use crate::results::{CellCounts, Manifest, MetricEntry};
use crate::statistics::Verdict;

/// Bytes of address space for the threads of polars, which waits for ever for those that cannot be started.
const POLARS: u64 = 64 << 20;

/// What of a study is wanted beside what every report has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The two settings, or cells, whose samples are set side by side; by default dense and the best one of each suite.
    pub samples: Option<[String; 2]>,
    /// The suite whose samples these are; by default every suite of rows.
    pub suite: Option<String>,
    /// Samples of a suite at most.
    pub count: usize,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { samples: None, suite: None, count: 10 }
    }
}

impl Report {
    /// Reads the tables in a folder of results.
    ///
    /// # Errors
    /// Where a table is missing, damaged, or of another version of calipr; where something unknown is wanted.
    pub fn read(dir: &Path, wanted: &Wanted) -> Result<Self> {
        ensure!(
            dir.is_dir(),
            "there is no folder {}; expected one of results, such as results/quickstart",
            dir.display()
        );
        ensure!(
            dir.join("run.json").is_file(),
            "{} has no run.json; expected a folder of results, such as results/quickstart",
            dir.display()
        );
        let manifest = Manifest::read(dir)?;
        memory::ensure_room(POLARS)?;
        let tables = Tables { dir };
        let contrasts = tables.contrasts()?;
        let suites = tables.suites(&contrasts, &manifest.metrics)?;
        let costs = tables.costs()?;
        let (error_suite, blocks) = tables.blocks()?;
        let mut report = Self {
            study: manifest.recipe.name.clone(),
            cells: manifest.cells,
            unfinished: unfinished(manifest.cells),
            decision: decision(&manifest, &suites, &contrasts, &costs),
            sentences: vec![],
            warnings: manifest.warnings.clone(),
            facts: facts::facts(&manifest, &tables.achieved()?),
            predictors: predictors(&suites),
            samples: tables.samples(&suites, wanted)?,
            cell_rows: tables.cell_rows(&suites)?,
            failed: tables.failed()?,
            published: vec![],
            error_suite,
            blocks,
            masks: tables.masks()?,
            contrasts: contrasts.into_iter().filter(|contrast| contrast.axis != "dense").collect(),
            suites,
        };
        report.published = published::rows(&manifest.recipe, &report.suites, &report.cell_rows);
        report.sentences = sentences::sentences(&report);
        Ok(report)
    }
}

/// What is missing of the study.
fn unfinished(cells: CellCounts) -> Option<String> {
    let CellCounts { planned, done, failed } = cells;
    let failures = match failed {
        0 => String::new(),
        1 => "1 cell failed and is not compared.".into(),
        n => format!("{n} cells failed and are not compared."),
    };
    if planned == done + failed {
        return Some(failures).filter(|failures| !failures.is_empty());
    }
    let said = format!(
        "The study is not finished: {done} of {planned} cells are done, and `calipr run` with the same recipe goes on. \
         {failures}"
    );
    Some(said.trim_end().to_owned())
}

/// Differences to dense, by setting, suite and metric.
fn to_dense(contrasts: &[Contrast]) -> HashMap<(&str, &str, &str), &Difference> {
    let of_dense = contrasts.iter().filter(|contrast| contrast.axis == "dense");
    of_dense.map(|c| ((c.setting.name.as_str(), c.suite.as_str(), c.metric.as_str()), &c.difference)).collect()
}

impl Tables<'_> {
    fn suites(&self, contrasts: &[Contrast], entries: &IndexMap<String, MetricEntry>) -> Result<Vec<SuiteReport>> {
        let to_dense = to_dense(contrasts);
        let table = self.query("settings", |t| t)?;
        // All cells have the same samples.
        let of_dense = Part { columns: Some(&["suite", "cell", "prompt"]), rows: &[("cell", "dense")] };
        let of_rows = self.query_some("samples", of_dense, |t| {
            t.filter(col("prompt").is_not_null()).select([col("suite")]).unique(None, UniqueKeepStrategy::Any)
        })?;
        let of_rows = of_rows.texts("suite")?;
        let settings = table.settings("setting", "")?;
        let suites = table.texts("suite")?;
        let (metrics, columns) = (table.texts("metric")?, table.metrics(entries)?);
        let (values, spreads) = (table.reals("value")?, table.some_reals("spread")?);
        let (lows, highs) = (table.some_reals("ci_low")?, table.some_reals("ci_high")?);
        let (samples, seeds) = (table.counts("n")?, table.some_counts("seeds")?);

        let mut reports: Vec<SuiteReport> = Vec::new();
        for (i, setting) in settings.iter().enumerate() {
            let place = reports.iter().position(|report| report.suite == suites[i]).unwrap_or(reports.len());
            if place == reports.len() {
                let unit = if of_rows.contains(&suites[i]) { "rows" } else { "windows" };
                let (suite, unit) = (suites[i].clone(), unit.to_owned());
                reports.push(SuiteReport { suite, samples: samples[i], unit, metrics: vec![], rows: vec![] });
            }
            let report = &mut reports[place];
            if report.rows.last().is_none_or(|row| row.setting.name != setting.name) {
                report.rows.push(SettingRow { setting: setting.clone(), values: vec![] });
            }
            // The first setting says which metrics there are.
            if report.rows.len() == 1 {
                report.metrics.push(columns[i].clone());
            }
            let of_setting = &mut report.rows.last_mut().expect("a row was just pushed").values;
            if report.metrics.get(of_setting.len()).is_none_or(|column| column.name != metrics[i]) {
                bail!(
                    "{} has other metrics of {} on {} than of the settings before; did several studies write it?",
                    table.path.display(),
                    setting.name,
                    report.suite
                );
            }
            of_setting.push(Value {
                value: values[i],
                low: lows[i],
                high: highs[i],
                spread: spreads[i],
                seeds: seeds[i].unwrap_or(1),
                to_dense: to_dense
                    .get(&(setting.name.as_str(), suites[i].as_str(), metrics[i].as_str()))
                    .map(|&difference| difference.clone()),
            });
        }
        for report in &reports {
            if let Some(row) = report.rows.iter().find(|row| row.values.len() != report.metrics.len()) {
                bail!(
                    "{} lacks metrics of {} on {}; did several studies write it?",
                    table.path.display(),
                    row.setting.name,
                    report.suite
                );
            }
        }
        Ok(reports)
    }

    fn contrasts(&self) -> Result<Vec<Contrast>> {
        let table = self.query("contrasts", |t| t)?;
        let (axes, families) = (table.texts("axis")?, table.texts("family")?);
        let (suites, metrics) = (table.texts("suite")?, table.texts("metric")?);
        let (settings, others) = (table.settings("setting", "")?, table.settings("other", "other_")?);
        let (values, other_values) = (table.reals("value")?, table.reals("other_value")?);
        let (seeds, other_seeds) = (table.some_counts("seeds")?, table.some_counts("other_seeds")?);
        let differences = table.differences()?;
        let contrast = |(i, difference): (usize, Difference)| Contrast {
            axis: axes[i].clone(),
            family: families[i].clone(),
            suite: suites[i].clone(),
            metric: metrics[i].clone(),
            setting: settings[i].clone(),
            other: others[i].clone(),
            value: values[i],
            other_value: other_values[i],
            seeds: seeds[i].unwrap_or(1),
            other_seeds: other_seeds[i].unwrap_or(1),
            difference,
        };
        Ok(differences.into_iter().enumerate().map(contrast).collect())
    }

    /// What the cells of each setting cost, by the setting's name.
    fn costs(&self) -> Result<HashMap<String, Cost>> {
        let table = self.query("cells", |t| t.filter(col("status").eq(lit("done"))))?;
        let weights = self.query("layers", |t| {
            let weights = || col("rows").cast(DataType::Float64) * col("columns").cast(DataType::Float64);
            t.group_by_stable([col("cell")]).agg([(weights() * col("achieved_sparsity")).sum().alias("zeros")])
        })?;
        let zeros: HashMap<String, f64> = weights.texts("cell")?.into_iter().zip(weights.reals("zeros")?).collect();
        let (cells, seeds, seconds) = (table.texts("cell")?, table.some_counts("seed")?, table.some_reals("seconds")?);
        let mut costs: HashMap<String, Cost> = HashMap::new();
        for (i, cell) in cells.iter().enumerate() {
            let cost = costs.entry(setting_of(cell, seeds[i])).or_default();
            cost.seconds.extend(seconds[i]);
            cost.zeros.extend(zeros.get(cell));
        }
        Ok(costs)
    }

    fn blocks(&self) -> Result<(Option<String>, Vec<BlockPoint>)> {
        let weights = || col("rows").cast(DataType::Float64) * col("columns").cast(DataType::Float64);
        let mean = |name: &str| ((col(name) * weights()).sum() / weights().sum()).alias(name);
        let table = self.query("layers", |t| {
            // What a checkpoint is called, only its cell says.
            let checkpoint = when(col("pattern").eq(lit("checkpoint"))).then(col("cell")).otherwise(lit(NULL));
            let setting = ["method", "pattern", "sparsity", "calibration"].map(col).into_iter();
            let setting = setting.chain([checkpoint.cast(DataType::String).alias("checkpoint"), col("block")]);
            t.group_by_stable(setting.collect::<Vec<_>>()).agg([
                mean("achieved_sparsity"),
                col("error_suite").first().alias("error_suite"),
                // A sum skips nulls: where no error was measured there is none.
                when(col("relative_error").null_count().gt(lit(0)))
                    .then(lit(NULL))
                    .otherwise(mean("relative_error"))
                    .cast(DataType::Float64)
                    .alias("relative_error"),
            ])
        })?;
        let (methods, patterns) = (table.texts("method")?, table.texts("pattern")?);
        let (sparsities, calibrations) = (table.some_reals("sparsity")?, table.some_texts("calibration")?);
        let checkpoints = table.some_texts("checkpoint")?;
        let (blocks, achieved) = (table.counts("block")?, table.reals("achieved_sparsity")?);
        let errors = table.some_reals("relative_error")?;
        let point = |i: usize| {
            let strength = text::strength(&patterns[i], sparsities[i].unwrap_or(0.0));
            let calibrated = calibrations[i].as_ref().map_or(String::new(), |name| format!("-{name}"));
            let pruned = || format!("{}-{strength}{calibrated}", methods[i]);
            let setting = Setting {
                name: checkpoints[i].clone().unwrap_or_else(pruned),
                method: methods[i].clone(),
                pattern: patterns[i].clone(),
                sparsity: sparsities[i],
                calibration: calibrations[i].clone(),
            };
            BlockPoint { setting, block: blocks[i], achieved: achieved[i], relative_error: errors[i] }
        };
        let suite = table.some_texts("error_suite")?.into_iter().flatten().next();
        Ok((suite, (0..methods.len()).map(point).collect()))
    }

    /// How sparse cells became, in the order of the grid.
    fn achieved(&self) -> Result<Achieved> {
        let of_pruned = col("achieved_sparsity").is_not_null().and(col("sparsity").is_not_null());
        let of_pruned = of_pruned.and(col("pattern").neq(lit("dense")));
        let table = self.query("cells", |t| {
            let zeros = || col("achieved_sparsity");
            let range = [zeros().min().alias("least"), zeros().max().alias("most")];
            t.filter(of_pruned).group_by_stable(["pattern", "sparsity"].map(col)).agg(range)
        })?;
        let asked = table.texts("pattern")?.into_iter().zip(table.reals("sparsity")?);
        let range = table.reals("least")?.into_iter().zip(table.reals("most")?);
        Ok(asked.zip(range).map(|((p, s), (least, most))| (text::strength(&p, s), [least, most])).collect())
    }

    fn cell_rows(&self, suites: &[SuiteReport]) -> Result<Vec<CellRow>> {
        let table = self.query("metrics", |t| t)?;
        let (cells, seeds) = (table.texts("cell")?, table.some_counts("seed")?);
        let (names, values) = (table.texts("suite")?, table.reals("value")?);
        let (lows, highs) = (table.some_reals("ci_low")?, table.some_reals("ci_high")?);
        let mut rows: Vec<CellRow> = vec![];
        for i in 0..cells.len() {
            if rows.last().is_none_or(|row| row.cell != cells[i] || row.suite != names[i]) {
                let (cell, suite) = (cells[i].clone(), names[i].clone());
                let setting = setting_of(&cell, seeds[i]);
                rows.push(CellRow { cell, setting, seed: seeds[i], suite, values: vec![] });
            }
            let row = rows.last_mut().expect("a row was just pushed");
            row.values.push(CellValue { value: values[i], low: lows[i], high: highs[i] });
        }
        let place = |row: &CellRow| suites.iter().position(|suite| suite.suite == row.suite);
        rows.sort_by_key(place);
        Ok(rows)
    }

    fn failed(&self) -> Result<Vec<FailedCell>> {
        let table = self.query("cells", |t| t.filter(col("status").eq(lit("failed"))))?;
        let pairs = table.texts("cell")?.into_iter().zip(table.texts("error")?);
        Ok(pairs.map(|(cell, error)| FailedCell { cell, error }).collect())
    }
}

/// The name of a cell's setting.
pub(super) fn setting_of(cell: &str, seed: Option<u64>) -> String {
    let name = seed.and_then(|seed| cell.strip_suffix(&format!("-s{seed}")));
    name.unwrap_or(cell).to_owned()
}

impl Frame {
    /// The metric of each row: its direction and family as the table has them, and what `run.json` says of it.
    fn metrics(&self, entries: &IndexMap<String, MetricEntry>) -> Result<Vec<MetricColumn>> {
        let (names, families) = (self.texts("metric")?, self.texts("metric_family")?);
        let higher = self.flags("higher_is_better")?;
        let column = |i: usize| {
            let Some(entry) = entries.get(&names[i]) else {
                bail!("{} has the metric \"{}\", of which run.json says nothing", self.path.display(), names[i])
            };
            let (family, higher_is_better) = (families[i].clone(), higher[i]);
            Ok(MetricColumn { family, higher_is_better, ..MetricColumn::new(&names[i], entry) })
        };
        (0..names.len()).map(column).collect()
    }

    fn differences(&self) -> Result<Vec<Difference>> {
        let (deltas, verdicts) = (self.reals("delta")?, self.texts("verdict")?);
        let (lows, highs) = (self.some_reals("delta_low")?, self.some_reals("delta_high")?);
        let (p_values, adjusted) = (self.some_reals("p_value")?, self.some_reals("p_adjusted")?);
        let needed = self.some_counts("needed")?;
        let difference = |i: usize| {
            let Some(verdict) = Verdict::named(&verdicts[i]) else {
                bail!("{} has the verdict \"{}\", which is unknown", self.path.display(), verdicts[i])
            };
            Ok(Difference {
                delta: deltas[i],
                low: lows[i],
                high: highs[i],
                p_value: p_values[i],
                p_adjusted: adjusted[i],
                verdict,
                needed: needed[i],
            })
        };
        (0..deltas.len()).map(difference).collect()
    }
}
