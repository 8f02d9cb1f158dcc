//! Relative error, block by block.

use std::collections::BTreeMap;

use anyhow::Result;
use plotters::style::text_anchor::HPos;

use super::super::text::number;
use super::super::{Report, Setting};
use super::canvas::{Axis, Frame, Pixel, SCALE, SHORT, chart};
use super::{Group, Names, Plot, differ};

/// The errors of a setting, by block.
struct Line<'a> {
    setting: &'a Setting,
    points: Vec<(f64, f64)>,
}

/// A plot a method, so that the lines of many sparsities do not hide each other.
pub fn plots(report: &Report, names: &Names) -> Result<Vec<Group>> {
    let lines = lines(report);
    let points = || lines.iter().flat_map(|line| &line.points);
    let axes = Axis::over("block", false, points().map(|p| p.0)).zip(Axis::over("", true, points().map(|p| p.1)));
    let Some((x, y)) = axes else { return Ok(vec![]) };
    let x = x.with_ticks_at(points().map(|p| p.0));
    if !differ(points().map(|p| p.0)) || !differ(points().map(|p| p.1)) {
        return Ok(vec![]);
    }
    let of_grid = lines.iter().filter(|line| !line.setting.is_checkpoint());
    let longest = of_grid.map(|line| line.setting.strength().len()).max().unwrap_or(0);
    let margin = 28 + 8 * longest.saturating_sub(SHORT) as i32;
    let mut plots = Vec::new();
    for method in &names.methods {
        let lines: Vec<&Line> = lines.iter().filter(|line| line.setting.method == *method).collect();
        if !lines.is_empty() {
            let label = format!("Error by block, {method}");
            let svg = chart(&label, &x, &y, margin, |frame| draw_lines(frame, &lines, names))?;
            plots.push(Plot { title: (*method).to_owned(), note: String::new(), svg });
        }
    }
    Ok(vec![Group { title: "Error by block, log scale".into(), plots }])
}

fn lines(report: &Report) -> Vec<Line<'_>> {
    let mut lines: Vec<Line> = Vec::new();
    for point in report.blocks.iter().filter(|point| !point.setting.is_dense()) {
        let Some(error) = point.relative_error.filter(|error| error.is_finite()) else { continue };
        let place = (point.block as f64, error);
        match lines.iter_mut().find(|line| *line.setting == point.setting) {
            Some(line) => line.points.push(place),
            None => lines.push(Line { setting: &point.setting, points: vec![place] }),
        }
    }
    lines.iter_mut().for_each(|line| line.points.sort_by(|a, b| a.0.total_cmp(&b.0)));
    lines
}

/// Lines, and at their ends what sparsity they are.
fn draw_lines(frame: &Frame, lines: &[&Line], names: &Names) -> Result<()> {
    let mut ends: BTreeMap<String, i32> = BTreeMap::new();
    for line in lines {
        let look = names.look(line.setting);
        let path: Vec<Pixel> = line.points.iter().filter_map(|(x, y)| frame.at(*x, *y)).collect();
        frame.pen.line(&path, look.ink(), look.dash())?;
        for (block, error) in &line.points {
            let Some(at) = frame.at(*block, *error) else { continue };
            frame.pen.hint(at, &format!("{}, block {block}: {}", line.setting.name, number(*error)));
        }
        if let Some((_, y)) = path.last() {
            ends.entry(line.setting.strength()).or_insert(*y);
        }
    }
    let mut ends: Vec<(String, i32)> = ends.into_iter().collect();
    ends.sort_by_key(|end| end.1);
    let mut lowest = i32::MIN;
    for (strength, y) in ends {
        lowest = y.max(lowest.saturating_add(13 * SCALE));
        frame.pen.text(&strength, (frame.across.1 + 8, lowest - 6 * SCALE), HPos::Left)?;
    }
    Ok(())
}
