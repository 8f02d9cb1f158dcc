//! A report from the tables of a study.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Result, bail, ensure};
use arrow::array::Array;
use indexmap::IndexMap;
use polars::prelude::*;

use super::decision::{Cost, decision};
use super::facts::Achieved;
use super::predictors::predictors;
use super::tables::{Frame, Part, Rows, Tables, some_count, some_real};
use super::{
    BlockPoint, CellRow, CellValue, Contrast, Difference, FailedCell, MetricColumn, Report, Setting, SettingRow,
    SuiteReport, Value, facts, published, sentences, text,
};
use crate::memory;
use crate::results::{CellCounts, Manifest, MetricEntry, ensure_has_results, has_tables};
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
        ensure_has_results(dir)?;
        ensure!(
            has_tables(dir),
            "{0} has no tables yet: no cell of the study is done; `calipr status {0}` says how far it is",
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
        const COLUMNS: [&str; 25] = [
            "axis",
            "family",
            "suite",
            "metric",
            "setting",
            "method",
            "pattern",
            "sparsity",
            "calibration",
            "other",
            "other_method",
            "other_pattern",
            "other_sparsity",
            "other_calibration",
            "value",
            "other_value",
            "seeds",
            "other_seeds",
            "delta",
            "delta_low",
            "delta_high",
            "p_value",
            "p_adjusted",
            "verdict",
            "needed",
        ];
        let mut all = Vec::new();
        self.scan("contrasts", &COLUMNS, |rows| {
            let (axes, families) = (rows.texts("axis")?, rows.texts("family")?);
            let (suites, metrics) = (rows.texts("suite")?, rows.texts("metric")?);
            let (setting, other) = (rows.settings("setting", "")?, rows.settings("other", "other_")?);
            let (values, other_values) = (rows.reals("value")?, rows.reals("other_value")?);
            let (seeds, other_seeds) = (rows.counts("seeds")?, rows.counts("other_seeds")?);
            let difference = differences(&rows)?;
            for i in 0..rows.len() {
                all.push(Contrast {
                    axis: axes.value(i).to_owned(),
                    family: families.value(i).to_owned(),
                    suite: suites.value(i).to_owned(),
                    metric: metrics.value(i).to_owned(),
                    setting: setting(i),
                    other: other(i),
                    value: values.value(i),
                    other_value: other_values.value(i),
                    seeds: some_count(seeds, i).unwrap_or(1),
                    other_seeds: some_count(other_seeds, i).unwrap_or(1),
                    difference: difference(i)?,
                });
            }
            Ok(())
        })?;
        Ok(all)
    }

    /// What the cells of each setting cost, by the setting's name.
    fn costs(&self) -> Result<HashMap<String, Cost>> {
        let mut zeros: HashMap<String, f64> = HashMap::new();
        self.scan("layers", &["cell", "rows", "columns", "achieved_sparsity"], |rows| {
            let (cells, achieved) = (rows.texts("cell")?, rows.reals("achieved_sparsity")?);
            let weights = weights(&rows)?;
            for i in 0..rows.len() {
                let own = weights(i) * achieved.value(i);
                match zeros.get_mut(cells.value(i)) {
                    Some(sum) => *sum += own,
                    None => drop(zeros.insert(cells.value(i).to_owned(), own)),
                }
            }
            Ok(())
        })?;
        let table = self.query("cells", |t| t.filter(col("status").eq(lit("done"))))?;
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
        /// Sums over the linears of a setting's block, weighted by their sizes.
        struct Sum {
            setting: usize,
            block: u64,
            weights: f64,
            achieved: f64,
            /// None where an error was not measured.
            error: Option<f64>,
        }
        const COLUMNS: [&str; 12] = [
            "cell",
            "method",
            "pattern",
            "sparsity",
            "calibration",
            "seed",
            "block",
            "rows",
            "columns",
            "achieved_sparsity",
            "relative_error",
            "error_suite",
        ];
        let (mut settings, mut sums): (Vec<Setting>, Vec<Sum>) = Default::default();
        let (mut by_name, mut by_block) = (HashMap::<String, usize>::new(), HashMap::<(usize, u64), usize>::new());
        let (mut before, mut suite) = (None::<(String, usize)>, None);
        self.scan("layers", &COLUMNS, |rows| {
            // A setting is called as its cell is, but for the seed.
            let (cells, setting) = (rows.texts("cell")?, rows.settings("cell", "")?);
            let (seeds, blocks) = (rows.counts("seed")?, rows.counts("block")?);
            let (achieved, errors) = (rows.reals("achieved_sparsity")?, rows.reals("relative_error")?);
            let (suites, weights) = (rows.texts("error_suite")?, weights(&rows)?);
            for i in 0..rows.len() {
                if before.as_ref().is_none_or(|(cell, _)| cell != cells.value(i)) {
                    let name = setting_of(cells.value(i), some_count(seeds, i));
                    let place = *by_name.entry(name.clone()).or_insert_with(|| {
                        settings.push(Setting { name, ..setting(i) });
                        settings.len() - 1
                    });
                    before = Some((cells.value(i).to_owned(), place));
                }
                let Some((_, setting)) = before else { continue };
                let block = blocks.value(i);
                let place = *by_block.entry((setting, block)).or_insert_with(|| {
                    sums.push(Sum { setting, block, weights: 0.0, achieved: 0.0, error: Some(0.0) });
                    sums.len() - 1
                });
                let (sum, weight) = (&mut sums[place], weights(i));
                sum.weights += weight;
                sum.achieved += weight * achieved.value(i);
                sum.error = sum.error.zip(some_real(errors, i)).map(|(sum, error)| sum + weight * error);
                if suite.is_none() && suites.is_valid(i) {
                    suite = Some(suites.value(i).to_owned());
                }
            }
            Ok(())
        })?;
        let point = |sum: &Sum| BlockPoint {
            setting: settings[sum.setting].clone(),
            block: sum.block,
            achieved: sum.achieved / sum.weights,
            relative_error: sum.error.map(|error| error / sum.weights),
        };
        Ok((suite, sums.iter().map(point).collect()))
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
        let mut all: Vec<CellRow> = vec![];
        self.scan("metrics", &["cell", "seed", "suite", "value", "ci_low", "ci_high"], |rows| {
            let (cells, seeds) = (rows.texts("cell")?, rows.counts("seed")?);
            let (names, values) = (rows.texts("suite")?, rows.reals("value")?);
            let (lows, highs) = (rows.reals("ci_low")?, rows.reals("ci_high")?);
            for i in 0..rows.len() {
                if all.last().is_none_or(|row| row.cell != cells.value(i) || row.suite != names.value(i)) {
                    let (cell, suite) = (cells.value(i).to_owned(), names.value(i).to_owned());
                    let seed = some_count(seeds, i);
                    all.push(CellRow { setting: setting_of(&cell, seed), cell, seed, suite, values: vec![] });
                }
                let row = all.last_mut().expect("a row was just pushed");
                row.values.push(CellValue {
                    value: values.value(i),
                    low: some_real(lows, i),
                    high: some_real(highs, i),
                });
            }
            Ok(())
        })?;
        let mut rows = all;
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
}

/// What settings are apart, by row.
fn differences<'a>(rows: &Rows<'a>) -> Result<impl Fn(usize) -> Result<Difference> + use<'a>> {
    let (deltas, verdicts) = (rows.reals("delta")?, rows.texts("verdict")?);
    let (lows, highs) = (rows.reals("delta_low")?, rows.reals("delta_high")?);
    let (p_values, adjusted) = (rows.reals("p_value")?, rows.reals("p_adjusted")?);
    let needed = rows.counts("needed")?;
    Ok(move |i: usize| {
        let Some(verdict) = Verdict::named(verdicts.value(i)) else {
            bail!("it has the verdict \"{}\", which is unknown", verdicts.value(i))
        };
        Ok(Difference {
            delta: deltas.value(i),
            low: some_real(lows, i),
            high: some_real(highs, i),
            p_value: some_real(p_values, i),
            p_adjusted: some_real(adjusted, i),
            verdict,
            needed: some_count(needed, i),
        })
    })
}

/// How many weights a matrix has, by row.
fn weights<'a>(rows: &Rows<'a>) -> Result<impl Fn(usize) -> f64 + use<'a>> {
    let (outputs, inputs) = (rows.counts("rows")?, rows.counts("columns")?);
    Ok(move |i: usize| outputs.value(i) as f64 * inputs.value(i) as f64)
}
