//! Metrics of the model against downstream scores.

use anyhow::Result;
use plotters::style::text_anchor::HPos;

use super::super::text::{counted, with_interval};
use super::super::{MetricColumn, Report, Setting, SuiteReport, Value};
use super::canvas::{Axis, Ink, chart};
use super::{Group, Names, Plot, differ, is_n_of_m};

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

    /// Whether it ranks settings as the metric of that name does on its suite.
    fn ranks_as(&self, name: &str) -> bool {
        let other = self.suite.metrics.iter().find(|column| column.name == name);
        other.is_some_and(|other| other.finding == self.column().finding)
    }

    /// Settings with their values.
    fn values(&self) -> impl Iterator<Item = (&'a Setting, &'a Value)> {
        let metric = self.metric;
        self.suite.rows.iter().filter_map(move |row| Some((&row.setting, row.values.get(metric)?)))
    }
}

/// Each metric of the model against each downstream score, over the settings.
pub fn plots(report: &Report, names: &Names) -> Result<Vec<Group>> {
    let (scores, mut intrinsic): (Vec<_>, Vec<_>) = Measure::all(report).partition(|m| m.column().downstream);
    if intrinsic.iter().any(|m| m.column().headline) {
        intrinsic.retain(|m| m.column().headline);
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
    let of_score = |setting: &Setting| score.values().find(|(other, _)| *other == setting).map(|(_, value)| value);
    let points: Vec<_> = metric.values().filter_map(|(setting, x)| Some((setting, x, of_score(setting)?))).collect();
    let pruned = || points.iter().filter(|(setting, ..)| !setting.is_dense());
    if !differ(pruned().map(|p| p.1.value)) || !differ(pruned().map(|p| p.2.value)) {
        return Ok(None);
    }
    let (name, other) = (&metric.column().name, &score.column().name);
    let Some(x) = Axis::over(name, metric.column().ratio, points.iter().map(|p| p.1.value)) else { return Ok(None) };
    let Some(y) = Axis::over(other, score.column().ratio, points.iter().map(|p| p.2.value)) else { return Ok(None) };
    let title = format!("{name} on {}", metric.suite.suite);
    let svg = chart(&format!("{other} on {} against {title}", score.suite.suite), &x, &y, 0, |frame| {
        for (setting, x, y) in &points {
            let Some(at) = frame.at(x.value, y.value) else { continue };
            if setting.is_dense() {
                frame.pen.mark(at, &[], Ink::Faint, false)?;
                frame.pen.text("dense", (at.0 + 24, at.1 - 24), HPos::Left)?;
            } else {
                let look = names.look(setting);
                frame.pen.mark(at, look.outline(), look.ink(), is_n_of_m(setting))?;
            }
            let said = |v: &Value| with_interval(v.value, v.low, v.high);
            frame.pen.hint(at, &format!("{}\n{name}: {}\n{other}: {}", setting.name, said(x), said(y)));
        }
        Ok(())
    })?;
    let known = report.predictors.iter().find(|p| {
        p.within.is_none()
            && p.suite == metric.suite.suite
            && metric.ranks_as(&p.metric)
            && (&p.downstream_suite, &p.downstream_metric) == (&score.suite.suite, other)
    });
    let note = known.map(|p| {
        let correlation = with_interval(p.spearman, p.low, p.high);
        format!("rank correlation {correlation}, {}", counted(p.settings, "settings"))
    });
    Ok(Some(Plot { title, note: note.unwrap_or_default(), svg }))
}
