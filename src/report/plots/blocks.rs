//! Sparsity and relative output error, block by block.

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use plotters::style::text_anchor::HPos;

use super::canvas::{Axis, Frame, Pixel, SCALE, chart};
use super::{Group, Look, Names, Plot};
use crate::report::setting;
use crate::report::{BlockPoint, Report};

/// A quantity by block: of a method with a calibration at a sparsity, the mean over its seeds.
struct Line {
    look: Look,
    setting: String,
    /// By block, the sum and how many were added.
    sums: BTreeMap<u64, (f64, usize)>,
}

impl Line {
    fn points(&self) -> impl DoubleEndedIterator<Item = (f64, f64)> {
        self.sums.iter().map(|(block, (sum, n))| (*block as f64, sum / *n as f64))
    }
}

/// Relative output error and sparsity by block.
pub fn plots(report: &Report, names: &Names) -> Result<Vec<Group>> {
    let mut groups = Vec::new();
    let error: fn(&BlockPoint) -> Option<f64> = |point| point.relative_error;
    let sparsity: fn(&BlockPoint) -> Option<f64> = |point| Some(point.sparsity);
    for (title, log, quantity) in [("relative output error", true, error), ("sparsity", false, sparsity)] {
        let lines = lines(report, names, quantity);
        let all = || lines.iter().flat_map(Line::points);
        let Some(x) = Axis::over("block", false, all().map(|p| p.0)) else { continue };
        // Sparsities between 0 and 1, lest tiny differences fill the chart.
        let ends: &[f64] = if log { &[] } else { &[0.0, 1.0] };
        let Some(y) = Axis::over("", log, all().map(|p| p.1).chain(ends.iter().copied())) else { continue };
        let mut plots = Vec::new();
        for (i, method) in names.methods.iter().enumerate() {
            let lines: Vec<&Line> = lines.iter().filter(|line| line.look.method == i).collect();
            if !lines.is_empty() {
                let svg = chart(&format!("{title} by block, {method}"), &x, &y, 28, |frame| draw_lines(frame, &lines))?;
                plots.push(Plot { title: (*method).to_owned(), note: String::new(), svg });
            }
        }
        let title = if log { format!("{title}, log scale") } else { title.into() };
        groups.push(Group { title, plots });
    }
    Ok(groups)
}

fn lines(report: &Report, names: &Names, quantity: fn(&BlockPoint) -> Option<f64>) -> Vec<Line> {
    let rows = || report.suites.iter().flat_map(|suite| &suite.rows);
    let settings: HashMap<&str, String> = rows().map(|r| (r.cell.as_str(), setting(&r.pattern, r.sparsity))).collect();
    let mut lines: Vec<Line> = Vec::new();
    for point in report.blocks.iter().filter(|point| point.method != "dense") {
        let Some(value) = quantity(point).filter(|v| v.is_finite()) else { continue };
        let look = names.look(&point.method, point.calibration.as_deref());
        let setting = settings.get(point.cell.as_str()).unwrap_or(&point.cell);
        let same = |line: &Line| line.look == look && line.setting == *setting;
        let at = lines.iter().position(same).unwrap_or_else(|| {
            lines.push(Line { look, setting: setting.clone(), sums: BTreeMap::new() });
            lines.len() - 1
        });
        let (sum, n) = lines[at].sums.entry(point.block).or_default();
        (*sum, *n) = (*sum + value, *n + 1);
    }
    lines
}

/// Lines, and at their ends what sparsity they are.
fn draw_lines(frame: &Frame, lines: &[&Line]) -> Result<()> {
    let mut ends: BTreeMap<&str, i32> = BTreeMap::new();
    for line in lines {
        let path: Vec<Pixel> = line.points().filter_map(|(x, y)| frame.at(x, y)).collect();
        frame.pen.line(&path, line.look.ink(), line.look.dash())?;
        if let Some((_, y)) = path.last() {
            ends.entry(&line.setting).or_insert(*y);
        }
    }
    let mut ends: Vec<(&str, i32)> = ends.into_iter().collect();
    ends.sort_by_key(|end| end.1);
    let mut lowest = i32::MIN;
    for (setting, y) in ends {
        lowest = y.max(lowest.saturating_add(11 * SCALE));
        frame.pen.text(setting, (frame.across.1 + 8, lowest - 5 * SCALE), HPos::Left)?;
    }
    Ok(())
}
