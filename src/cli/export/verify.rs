//! Whether an exported model has the figures of its cell.

use std::path::Path;

use anyhow::{Context, Error, Result, ensure};

use crate::cli::print;
use crate::cli::terminal::{Terminal, columns};
use crate::data::Library;
use crate::metrics::Family;
use crate::pipeline::{Cache, Limit};
use crate::recipe::{Cell, Grid, Layers};
use crate::report::{MetricColumn, Report, SuiteReport, TOLERANCE, Wanted};
use crate::results::Manifest;
use crate::source::Fetcher;
use crate::study::Run;
use crate::table::Table;

/// How far a loss may lie from the cell's, in nats, where the weights were rounded to the precision that was asked for.
const ROUNDED: f64 = 0.05;

/// Whether it is a figure of the model itself: no comparison with the dense one, and no judge's.
fn is_own(column: &MetricColumn) -> bool {
    !column.of_dense && column.family != Family::Judge.as_str()
}

/// A study that was exported from, and what reads it again.
pub struct Verification<'a> {
    pub results: &'a Path,
    pub manifest: &'a Manifest,
    pub report: &'a Report,
    pub library: &'a Library,
    pub fetcher: &'a Fetcher,
    pub cache: &'a Cache,
    pub limit: &'a Limit,
    pub terminal: &'a Terminal,
}

impl Verification<'_> {
    /// Judges the model in `place` by a suite of the study, and compares it with the cell that it is of. `rounded` weights
    /// may give other figures; these are shown, and have to be near.
    ///
    /// # Errors
    /// Where the model cannot be run, or has other figures.
    pub fn verify(&self, cell: &Cell, place: &Path, rounded: bool) -> Result<()> {
        let suite = self.suite().context("the study has no suite with figures of its own, such as a loss")?;
        let mut recipe = self.manifest.recipe.clone();
        recipe.model.source = format!("path:{}", std::path::absolute(place)?.display()).parse().map_err(Error::msg)?;
        recipe.suite.retain(|name, _| *name == suite.suite);
        for suite in recipe.suite.values_mut() {
            // What a judge said of the same answers would be paid for once more.
            suite.metrics = Some(suite.metrics().into_iter().filter(|m| m.family() != Family::Judge).collect());
            // It stays one of rows, where only the judge made it one.
            if suite.judge.take().is_some() {
                suite.shots.get_or_insert(0);
            }
        }
        recipe.calibration.clear();
        recipe.grid = Grid { method: vec![], sparsity: vec![], calibration: None, seed: None };
        (recipe.report.suite, recipe.report.metric, recipe.prune.skip, recipe.export) = (None, None, vec![], None);
        let scratch = tempfile::Builder::new().prefix(crate::UNFINISHED).tempdir_in(self.cache.dir());
        let scratch = scratch.context("cannot make a folder for the check")?;
        let out = scratch.path().join("results");
        let ran = Run {
            recipe,
            layers: Layers::nowhere(&self.results.join("run.json")),
            path: self.manifest.recipe_path.clone(),
            library: self.library.clone(),
            fetcher: self.fetcher.clone(),
            cache: Cache::in_dir(&scratch.path().join("cache")),
            limit: self.limit.clone(),
        }
        .to_tables(&out, false, self.terminal);
        self.terminal.clear();
        ran?;
        let now = Report::read(&out, &Wanted::default())?;
        let of = |report: &Report, cell: &str, metric: &str| -> Option<f64> {
            let row = report.cell_rows.iter().find(|row| row.cell == cell && row.suite == suite.suite)?;
            let columns = &report.suites.iter().find(|of_report| of_report.suite == suite.suite)?.metrics;
            Some(row.values.get(columns.iter().position(|column| column.name == metric)?)?.value)
        };
        let mut table = Table::new(["metric", "cell", "exported"]);
        let mut apart = vec![];
        for column in suite.metrics.iter().filter(|column| is_own(column)) {
            let recorded = of(self.report, &cell.id(), &column.name);
            let (a, b) = recorded.zip(of(&now, "dense", &column.name)).context("a figure is missing")?;
            table.row([column.name.clone(), a.to_string(), b.to_string()]);
            let tolerance = if rounded { ROUNDED } else { TOLERANCE };
            let distance = if column.ratio { (a / b).ln().abs() } else { (a - b).abs() };
            // Where rounding turns an answer is no one's to say.
            if distance.is_nan() || distance > tolerance && !(rounded && column.downstream) {
                apart.push(column.name.clone());
            }
        }
        print(&format!("\nread again, on {}:\n{}", suite.suite, table.fitting(columns())))?;
        ensure!(apart.is_empty(), "the exported model has another {} than its cell", apart.join(", "));
        Ok(())
    }

    /// The suite that the report is about, or else the first, that has a figure which is no comparison with the dense model.
    fn suite(&self) -> Option<&SuiteReport> {
        let has = |suite: &&SuiteReport| suite.metrics.iter().any(is_own);
        let primary = self.report.decision.as_ref().map(|decision| decision.suite.as_str());
        let named = self.report.suites.iter().filter(has).find(|suite| Some(suite.suite.as_str()) == primary);
        named.or_else(|| self.report.suites.iter().find(has))
    }
}
