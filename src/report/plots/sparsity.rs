//! Metrics against sparsity.

use anyhow::Result;
use plotters::style::text_anchor::HPos;

use super::canvas::{Axis, Frame, Ink, Pixel, SCALE, chart};
use super::{Group, Look, Names, Plot, is_dense, is_log, is_n_of_m, place_of};
use crate::report::{Report, SuiteReport};

/// Roughly the width of a chart's inside.
const WIDTH: i32 = 280 * SCALE;

/// A method with a calibration at a sparsity; the mean over its seeds.
struct Point<'a> {
    look: Look,
    pattern: &'a str,
    sparsity: f64,
    value: f64,
    low: f64,
    high: f64,
    seeds: usize,
}

/// The points of a metric. Their intervals reach over those of all seeds.
fn points<'a>(suite: &'a SuiteReport, metric: usize, names: &Names) -> Vec<Point<'a>> {
    let mut points: Vec<Point> = Vec::new();
    for row in suite.rows.iter().filter(|row| !is_dense(row)) {
        let Some(v) = row.values.get(metric).filter(|v| v.value.is_finite()) else { continue };
        let look = names.look(&row.method, row.calibration.as_deref());
        let (low, high) = (v.low.unwrap_or(v.value), v.high.unwrap_or(v.value));
        let same = |p: &&mut Point| p.look == look && p.pattern == row.pattern && p.sparsity == row.sparsity;
        if let Some(p) = points.iter_mut().find(same) {
            p.seeds += 1;
            p.value += (v.value - p.value) / p.seeds as f64;
            (p.low, p.high) = (p.low.min(low), p.high.max(high));
        } else {
            let (pattern, sparsity) = (row.pattern.as_str(), row.sparsity);
            points.push(Point { look, pattern, sparsity, value: v.value, low, high, seeds: 1 });
        }
    }
    points
}

/// Each metric of each suite against sparsity.
pub fn plots(report: &Report, names: &Names) -> Result<Vec<Group>> {
    let mut groups = Vec::new();
    for suite in &report.suites {
        let mut plots = Vec::new();
        for metric in 0..suite.metrics.len() {
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
    let dense = suite.rows.iter().find(|row| is_dense(row)).and_then(|row| row.values.get(metric));
    let dense = dense.map(|v| (v.low.unwrap_or(v.value), v.value, v.high.unwrap_or(v.value)));
    let values = points.iter().map(|p| (p.low, p.value, p.high)).chain(dense).flat_map(|v| [v.0, v.1, v.2]);
    let Some(y) = Axis::over("", is_log(&column.name), values) else { return Ok(None) };
    let Some(x) = Axis::over("sparsity", false, points.iter().map(|p| p.sparsity)) else { return Ok(None) };
    let columns = Columns::of(&points, names);
    let x = columns.make_room(x).with_ticks_at(points.iter().map(|p| p.sparsity));
    let y = if names.patterns { y.with_room(0.0, 0.07) } else { y };
    let label = format!("{} on {} against sparsity", column.name, suite.suite);
    let svg = chart(&label, &x, &y, 0, |frame| {
        if let Some(dense) = dense {
            draw_dense(frame, dense)?;
        }
        draw_points(frame, &points, &columns)
    })?;
    let better = if column.higher_is_better { "higher is better" } else { "lower is better" };
    let note = if y.log { format!("log scale, {better}") } else { better.into() };
    Ok(Some(Plot { title: column.name.clone(), note, svg }))
}

/// The dense model's value over all sparsities, with its interval.
fn draw_dense(frame: &Frame, (low, value, high): (f64, f64, f64)) -> Result<()> {
    let (left, right) = frame.across;
    if let (Some(low), Some(high)) = (frame.y_at(low), frame.y_at(high)) {
        frame.pen.band((left, high), (right, low), Ink::Faint)?;
    }
    if let Some(y) = frame.y_at(value) {
        frame.pen.line(&[(left, y), (right, y)], Ink::Faint, None)?;
    }
    Ok(())
}

fn draw_points(frame: &Frame, points: &[Point], columns: &Columns) -> Result<()> {
    let place = |p: &Point, y: f64| frame.at(p.sparsity, y).map(|(x, y)| (x + columns.shift(p), y));
    for &look in columns.looks {
        let mut joined: Vec<&Point> = points.iter().filter(|p| p.look == look && !is_n_of_m(p.pattern)).collect();
        joined.sort_by(|a, b| a.sparsity.total_cmp(&b.sparsity));
        let path: Vec<Pixel> = joined.iter().filter_map(|p| place(p, p.value)).collect();
        frame.pen.line(&path, look.ink(), look.dash())?;
    }
    for p in points {
        if let (Some(low), Some(high)) = (place(p, p.low), place(p, p.high)) {
            frame.pen.line(&[low, high], p.look.ink(), None)?;
        }
    }
    for p in points {
        if let Some(middle) = place(p, p.value) {
            frame.pen.mark(middle, p.look.outline(), p.look.ink(), is_n_of_m(p.pattern))?;
        }
    }
    for (i, (sparsity, pattern)) in columns.all.iter().enumerate().filter(|(_, column)| is_n_of_m(column.1)) {
        if let Some(x) = frame.x_at(*sparsity) {
            frame.pen.text(pattern, (x + columns.middle(i), frame.down.0 + 8), HPos::Center)?;
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
            place_of(&mut all, (p.sparsity, p.pattern));
        }
        all.sort_by(|a, b| a.0.total_cmp(&b.0).then((is_n_of_m(a.1), a.1).cmp(&(is_n_of_m(b.1), b.1))));
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

    fn shift(&self, p: &Point) -> i32 {
        let column = self.all.iter().position(|known| *known == (p.sparsity, p.pattern)).unwrap_or(0);
        let look = self.looks.iter().position(|look| *look == p.look).unwrap_or(0) as i32;
        self.middle(column) + (2 * look + 1 - self.looks.len() as i32) * self.step / 2
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;
    use crate::report::CellRow;

    /// The rows of these cells with their first metric in a plot.
    fn plot_of(rows: Vec<CellRow>) -> String {
        let mut report = sample::report();
        report.suites[0].rows = rows;
        report.blocks.clear();
        report.suites.truncate(1);
        plot(&report.suites[0], 0, &Names::of(&report)).unwrap().unwrap().svg
    }

    #[test]
    fn lines_join_unstructured_sparsities_but_no_patterns() {
        let lines = |pattern: &str| {
            let rows = [("unstructured", 0.5), ("unstructured", 0.6), (pattern, 0.7)];
            let svg = plot_of(rows.map(|(pattern, s)| sample::row("magnitude", pattern, s, None, &[s])).into());
            let points = svg.split("<polyline").filter(|line| line.contains("var(--method-0)"));
            points.map(|line| line.matches(',').count()).max()
        };
        assert_eq!(lines("unstructured"), Some(3));
        assert_eq!(lines("2:4"), Some(2));
    }

    #[test]
    fn patterns_are_hollow_and_named() {
        let svg = plot_of(vec![sample::row("magnitude", "2:4", 0.5, None, &[1.0])]);
        assert!(svg.contains("2:4") && svg.contains("fill=\"var(--paper)\""));
        let svg = plot_of(vec![sample::row("magnitude", "unstructured", 0.5, None, &[1.0])]);
        assert!(!svg.contains("fill=\"var(--paper)\""));
    }

    #[test]
    fn a_point_is_the_mean_over_its_seeds_and_reaches_over_their_intervals() {
        let mut report = sample::report();
        report.suites[0].rows = [1.0, 2.0].map(|v| sample::row("wanda", "2:4", 0.5, Some("prose"), &[v])).into();
        let points = points(&report.suites[0], 0, &Names::of(&report));
        assert_eq!(points.len(), 1);
        assert_eq!((points[0].value, points[0].low, points[0].high), (1.5, 0.9, 2.1));
    }
}
