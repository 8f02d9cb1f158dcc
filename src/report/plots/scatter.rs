//! Intrinsic metrics against downstream scores.

use anyhow::Result;
use plotters::style::text_anchor::HPos;

use super::canvas::{Axis, Ink, chart};
use super::{Group, Names, Plot, is_dense, is_log, is_n_of_m};
use crate::report::html::{interval, number};
use crate::report::{CellRow, MetricColumn, Report, SuiteReport};

/// Intrinsic metrics that are set against downstream scores, where there are any of them.
const INTRINSIC: [&str; 2] = ["perplexity", "js_divergence"];

/// A metric of a suite.
#[derive(Clone, Copy)]
struct Measure<'a> {
    suite: &'a SuiteReport,
    metric: usize,
}

impl<'a> Measure<'a> {
    fn all(report: &'a Report) -> impl Iterator<Item = Self> {
        report.suites.iter().flat_map(|suite| (0..suite.metrics.len()).map(move |metric| Self { suite, metric }))
    }

    fn column(&self) -> &'a MetricColumn {
        &self.suite.metrics[self.metric]
    }

    /// Cells with their values.
    fn values(&self) -> impl Iterator<Item = (&'a CellRow, f64)> {
        let metric = self.metric;
        self.suite.rows.iter().filter_map(move |row| Some((row, row.values.get(metric)?.value)))
    }
}

/// Each intrinsic metric against each downstream score, over the cells.
pub fn plots(report: &Report, names: &Names) -> Result<Vec<Group>> {
    let (scores, mut intrinsic): (Vec<_>, Vec<_>) = Measure::all(report).partition(|m| m.column().downstream);
    if intrinsic.iter().any(|m| INTRINSIC.contains(&m.column().name.as_str())) {
        intrinsic.retain(|m| INTRINSIC.contains(&m.column().name.as_str()));
    }
    let mut groups = Vec::new();
    for score in scores {
        let mut plots = Vec::new();
        for metric in &intrinsic {
            plots.extend(scatter(report, metric, &score, names)?);
        }
        groups.push(Group { title: format!("{} on {}", score.column().name, score.suite.suite), plots });
    }
    groups.retain(|group| !group.plots.is_empty());
    Ok(groups)
}

fn scatter(report: &Report, metric: &Measure, score: &Measure, names: &Names) -> Result<Option<Plot>> {
    let value = |cell: &str| score.values().find(|(row, _)| row.cell == cell).map(|(_, value)| value);
    let points: Vec<_> = metric.values().filter_map(|(row, x)| Some((row, x, value(&row.cell)?))).collect();
    if points.iter().all(|(row, ..)| is_dense(row)) {
        return Ok(None);
    }
    let (name, other) = (&metric.column().name, &score.column().name);
    let Some(x) = Axis::over(name, is_log(name), points.iter().map(|p| p.1)) else { return Ok(None) };
    let Some(y) = Axis::over(other, is_log(other), points.iter().map(|p| p.2)) else { return Ok(None) };
    let title = format!("{name} on {}", metric.suite.suite);
    let svg = chart(&format!("{other} on {} against {title}", score.suite.suite), &x, &y, 0, |frame| {
        for (row, x, y) in &points {
            let Some(at) = frame.at(*x, *y) else { continue };
            if is_dense(row) {
                frame.pen.mark(at, &[], Ink::Faint, false)?;
                frame.pen.text("dense", (at.0 + 24, at.1 - 24), HPos::Left)?;
            } else {
                let look = names.look(&row.method, row.calibration.as_deref());
                frame.pen.mark(at, look.outline(), look.ink(), is_n_of_m(&row.pattern))?;
            }
        }
        Ok(())
    })?;
    let known = report.predictors.iter().find(|p| {
        (&p.suite, &p.metric) == (&metric.suite.suite, name)
            && (&p.downstream_suite, &p.downstream_metric) == (&score.suite.suite, other)
    });
    let note = known.map(|p| format!("ρ {}{}, {} cells", number(p.spearman), interval(p.low, p.high), p.cells));
    Ok(Some(Plot { title, note: note.unwrap_or_default(), svg }))
}
