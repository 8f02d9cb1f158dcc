//! Metrics against sparsity.

use anyhow::Result;
use plotters::style::text_anchor::HPos;

use super::super::{MetricColumn, Report, Setting, SettingRow, SuiteReport, Value};
use super::canvas::{Axis, Frame, Ink, Pixel, SCALE, chart};
use super::{Group, Look, Names, Plot, differ, is_n_of_m, place_of, said};

/// Roughly the width of a chart's inside.
const WIDTH: i32 = 280 * SCALE;

/// A line of text takes so much, and a pattern's name with a gap.
const LINE: i32 = 15 * SCALE;
const NAME: i32 = 34 * SCALE;

/// A setting's value.
struct Point<'a> {
    setting: &'a Setting,
    sparsity: f64,
    look: Look,
    value: &'a Value,
}

impl Point<'_> {
    /// The ends of its interval; the value itself where there is none.
    fn interval(&self) -> (f64, f64) {
        interval(self.value)
    }
}

fn interval(v: &Value) -> (f64, f64) {
    (v.low.unwrap_or(v.value), v.high.unwrap_or(v.value))
}

/// The points of a metric, without those of the dense model and of checkpoints.
fn points<'a>(suite: &'a SuiteReport, metric: usize, names: &Names) -> Vec<Point<'a>> {
    let rows = suite.rows.iter().filter(|row| !row.setting.is_dense());
    let point = |row: &'a SettingRow| {
        let value = row.values.get(metric).filter(|v| v.value.is_finite())?;
        Some(Point { setting: &row.setting, sparsity: row.setting.sparsity?, look: names.look(&row.setting), value })
    };
    rows.filter_map(point).collect()
}

/// Each metric of each suite against sparsity; on its logarithmic scale, perplexity is what loss is.
pub fn plots(report: &Report, names: &Names) -> Result<Vec<Group>> {
    let mut groups = Vec::new();
    for suite in &report.suites {
        let mut plots = Vec::new();
        let is_twin = |a: &MetricColumn, b: &MetricColumn| a.finding == b.finding && a.ratio && !b.ratio;
        let is_shown = |&metric: &usize| !suite.metrics.iter().any(|other| is_twin(other, &suite.metrics[metric]));
        for metric in (0..suite.metrics.len()).filter(is_shown) {
            plots.extend(plot(suite, metric, names)?);
        }
        groups.push(Group { title: suite.suite.clone(), plots });
    }
    groups.retain(|group| !group.plots.is_empty());
    Ok(groups)
}

fn plot(suite: &SuiteReport, metric: usize, names: &Names) -> Result<Option<Plot>> {
    let column = &suite.metrics[metric];
    let points = points(suite, metric, names);
    let dense = suite.rows.iter().find(|row| row.setting.is_dense());
    let dense = dense.and_then(|row| Some((&row.setting, row.values.get(metric)?)));
    let shown = || points.iter().map(|p| p.value).chain(dense.map(|(_, v)| v));
    if !differ(points.iter().map(|p| p.sparsity)) || !differ(shown().map(|v| v.value)) {
        return Ok(None);
    }
    let values = shown().flat_map(|v| [interval(v).0, v.value, interval(v).1]);
    let Some(y) = Axis::over("", column.ratio, values) else { return Ok(None) };
    let Some(x) = Axis::over("sparsity", false, points.iter().map(|p| p.sparsity)) else { return Ok(None) };
    let columns = Columns::of(&points, names);
    let x = columns.make_room(x).with_ticks_at(points.iter().map(|p| p.sparsity));
    let y = if names.patterns { y.with_room(0.0, 0.07 * f64::from(columns.lines())) } else { y };
    let label = format!("{} on {} against sparsity", column.name, suite.suite);
    let svg = chart(&label, &x, &y, 0, |frame| {
        if let Some((setting, value)) = dense {
            draw_dense(frame, setting, value)?;
        }
        draw_points(frame, &points, &columns)
    })?;
    let better = if column.higher_is_better { "more is better" } else { "less is better" };
    let note = if y.log { format!("log scale, {better}") } else { better.into() };
    Ok(Some(Plot { title: column.name.clone(), note, svg }))
}

/// The dense model's value over all sparsities, with its interval.
fn draw_dense(frame: &Frame, setting: &Setting, value: &Value) -> Result<()> {
    let (left, right) = frame.across;
    let (low, high) = interval(value);
    if let (Some(low), Some(high)) = (frame.y_at(low), frame.y_at(high)) {
        frame.pen.band((left, high), (right, low), Ink::Faint)?;
    }
    if let Some(y) = frame.y_at(value.value) {
        frame.pen.line(&[(left, y), (right, y)], Ink::Faint, None)?;
        frame.pen.hint_along((left, y), right, &said(setting, value));
    }
    Ok(())
}

fn draw_points(frame: &Frame, points: &[Point], columns: &Columns) -> Result<()> {
    let place = |p: &Point, y: f64| frame.at(p.sparsity, y).map(|(x, y)| (x + columns.shift(p), y));
    for &look in columns.looks {
        let mut joined: Vec<&Point> = points.iter().filter(|p| p.look == look && !is_n_of_m(p.setting)).collect();
        joined.sort_by(|a, b| a.sparsity.total_cmp(&b.sparsity));
        let path: Vec<Pixel> = joined.iter().filter_map(|p| place(p, p.value.value)).collect();
        frame.pen.line(&path, look.ink(), look.dash())?;
    }
    for p in points {
        if let (Some(low), Some(high)) = (place(p, p.interval().0), place(p, p.interval().1)) {
            frame.pen.line(&[low, high], p.look.ink(), None)?;
        }
    }
    for p in points {
        if let Some(middle) = place(p, p.value.value) {
            frame.pen.mark(middle, p.look.outline(), p.look.ink(), is_n_of_m(p.setting))?;
            frame.pen.hint(middle, &said(p.setting, p.value));
        }
    }
    for (i, (sparsity, pattern)) in columns.all.iter().enumerate().filter(|(_, column)| column.1 != "unstructured") {
        if let Some(x) = frame.x_at(*sparsity) {
            let down = frame.down.0 + 8 + columns.line(i) * LINE;
            frame.pen.text(pattern, (x + columns.middle(i), down), HPos::Center)?;
        }
    }
    Ok(())
}

/// How far points stand beside their sparsity, so that none hides another: side by side, and N:M patterns
/// to the right of unstructured pruning.
struct Columns<'a> {
    all: Vec<(f64, &'a str)>,
    looks: &'a [Look],
    step: i32,
}

impl<'a> Columns<'a> {
    fn of(points: &[Point<'a>], names: &'a Names) -> Self {
        let mut all = Vec::new();
        for p in points {
            place_of(&mut all, (p.sparsity, p.setting.pattern.as_str()));
        }
        let is_pattern = |column: &(f64, &str)| column.1 != "unstructured";
        all.sort_by(|a, b| a.0.total_cmp(&b.0).then((is_pattern(a), a.1).cmp(&(is_pattern(b), b.1))));
        // Half of the width is for points, half for the gaps.
        let room = WIDTH / 2 / (all.len() * (names.looks.len() + 1)).max(1) as i32;
        Self { all, looks: &names.looks, step: room.min(8 * SCALE) }
    }

    /// The axis with as much room at its ends as the columns take.
    fn make_room(&self, axis: Axis) -> Axis {
        let half = self.looks.len() as i32 * self.step / 2;
        let last = (0..self.all.len()).map(|column| self.middle(column)).max().unwrap_or(0);
        axis.with_room(f64::from(half) / f64::from(WIDTH), f64::from(half + last) / f64::from(WIDTH))
    }

    /// The middle of a column: the first at a sparsity stands there.
    fn middle(&self, column: usize) -> i32 {
        let before = self.all[..column].iter().filter(|known| known.0 == self.all[column].0).count() as i32;
        before * (self.looks.len() as i32 + 1) * self.step
    }

    /// On which line the name of a column stands: below that of the pattern before it at the same sparsity, where both have no room
    /// on one.
    fn line(&self, column: usize) -> i32 {
        let is_named = |known: &&(f64, &str)| known.0 == self.all[column].0 && known.1 != "unstructured";
        let apart = (self.looks.len() as i32 + 1) * self.step;
        if apart >= NAME { 0 } else { self.all[..column].iter().filter(is_named).count() as i32 }
    }

    /// How many lines the names take.
    fn lines(&self) -> i32 {
        (0..self.all.len()).map(|column| self.line(column) + 1).max().unwrap_or(1)
    }

    fn shift(&self, p: &Point) -> i32 {
        let column = self.all.iter().position(|known| *known == (p.sparsity, p.setting.pattern.as_str())).unwrap_or(0);
        let look = self.looks.iter().position(|look| *look == p.look).unwrap_or(0) as i32;
        self.middle(column) + (2 * look + 1 - self.looks.len() as i32) * self.step / 2
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::sample;
    use super::*;

    /// The plot of f1, after a change of the settings' patterns and sparsities.
    fn plot_of(change: impl Fn(&mut Setting)) -> String {
        let mut report = sample::report();
        report.suites[1].rows.iter_mut().for_each(|row| change(&mut row.setting));
        report.blocks.clear();
        report.suites.remove(0);
        plot(&report.suites[0], 0, &Names::of(&report)).unwrap().unwrap().svg
    }

    #[test]
    fn lines_join_unstructured_sparsities_but_no_patterns() {
        let most_joined = |pattern: &str| {
            let svg = plot_of(|setting| {
                if setting.method == "magnitude" && setting.pattern == "2:4" {
                    (setting.pattern, setting.sparsity) = (pattern.into(), Some(0.7));
                }
            });
            let lines = svg.split("<polyline").filter(|line| line.contains("var(--method-0)"));
            // Of the points, not of the vertical lines of their intervals.
            let across = lines.filter(|line| {
                let points = line.split('"').find(|part| part.contains(',')).unwrap_or_default();
                let mut x = points.split_whitespace().filter_map(|point| point.split(',').next());
                x.next().is_some_and(|first| x.any(|x| x != first))
            });
            across.count()
        };
        assert_eq!(most_joined("unstructured"), 1);
        assert_eq!(most_joined("2:4"), 0);
    }

    #[test]
    fn names_of_patterns_at_one_sparsity_do_not_cover_each_other() {
        let svg = plot_of(|setting| {
            if setting.calibration.as_deref() == Some("task") {
                setting.pattern = "4:8".into();
            }
        });
        let place = |name: &str| -> [f64; 2] {
            let (before, _) = svg.split_once(&format!("{name}\n</text>")).unwrap();
            let element = before.rsplit_once("<text").unwrap().1;
            ["x", "y"].map(|key| {
                element.split_once(&format!(" {key}=\"")).unwrap().1.split('"').next().unwrap().parse().unwrap()
            })
        };
        let ([x, y], [other_x, other_y]) = (place("2:4"), place("4:8"));
        assert!((x - other_x).abs() >= 30.0 * f64::from(SCALE) || (y - other_y).abs() >= 13.0 * f64::from(SCALE));
    }

    #[test]
    fn patterns_are_hollow_and_named() {
        let svg = plot_of(|_| ());
        assert!(svg.contains("2:4\n</text>") && svg.contains("fill=\"var(--paper)\""), "{svg}");
        let svg = plot_of(|setting| {
            if setting.pattern == "2:4" {
                (setting.pattern, setting.sparsity) = ("unstructured".into(), Some(0.7));
            }
        });
        assert!(!svg.contains("2:4\n</text>") && !svg.contains("fill=\"var(--paper)\""), "{svg}");
    }
}
