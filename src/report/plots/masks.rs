//! How many of the same weights calibrations keep, block by block.

use anyhow::Result;

use super::super::masks::{Pair, calibrations, pairs};
use super::super::text::number;
use super::super::{MaskPoint, Report};
use super::canvas::{Axis, Frame, Ink, Pixel, chart};
use super::{Group, KEY, Key, Look, Names, Plot, differ, key, place_of};

/// A method at a sparsity.
struct Panel<'a> {
    method: &'a str,
    strength: String,
    points: Vec<&'a MaskPoint>,
}

/// Block and share.
type Path = Vec<(f64, f64)>;

/// A plot a method and sparsity, which chance depends on; and the keys to them.
pub fn plots(report: &Report, names: &Names) -> Result<(Vec<Group>, Vec<Key>)> {
    let all = pairs(&report.masks);
    let of_calibrations: Vec<&Pair> = all.iter().filter(|pair| pair.axis == "calibration").collect();
    let mut known: Vec<String> = Vec::new();
    for pair in &of_calibrations {
        place_of(&mut known, calibrations(pair));
    }
    let mut plots = Vec::new();
    for panel in panels(report) {
        plots.extend(plot(&panel, &of_calibrations, &known, names)?);
    }
    if plots.is_empty() {
        return Ok((vec![], vec![]));
    }
    let title = "Share of the kept weights that both keep, by block".into();
    Ok((vec![Group { title, plots }], keys(&all, &known, names)?))
}

fn panels(report: &Report) -> Vec<Panel<'_>> {
    let mut panels: Vec<Panel> = Vec::new();
    for point in report.masks.iter().filter(|point| point.axis != "method") {
        let (method, strength) = (point.setting.method.as_str(), point.setting.strength());
        match panels.iter_mut().find(|panel| (panel.method, &panel.strength) == (method, &strength)) {
            Some(panel) => panel.points.push(point),
            None => panels.push(Panel { method, strength, points: vec![point] }),
        }
    }
    panels
}

impl Panel<'_> {
    /// The mean of some of its points, by block.
    fn mean(&self, is_of: impl Fn(&MaskPoint) -> bool, value: impl Fn(&MaskPoint) -> f64) -> Path {
        let mut sums: Vec<(u64, f64, f64)> = Vec::new();
        for point in self.points.iter().filter(|point| is_of(point)) {
            match sums.iter_mut().find(|(block, ..)| *block == point.block) {
                Some((_, sum, count)) => (*sum, *count) = (*sum + value(point), *count + 1.0),
                None => sums.push((point.block, value(point), 1.0)),
            }
        }
        sums.sort_by_key(|(block, ..)| *block);
        sums.into_iter().map(|(block, sum, count)| (block as f64, sum / count)).collect()
    }

    fn seeds(&self) -> Path {
        self.mean(|point| point.axis == "seed", |point| point.overlap)
    }
}

/// How a pair of calibrations looks: colour by method, dashes by pair.
fn look(pair: &Pair, known: &[String], names: &Names) -> Look {
    Look { calibration: known.iter().position(|name| *name == calibrations(pair)), ..names.look(pair.setting) }
}

fn plot(panel: &Panel, all: &[&Pair], known: &[String], names: &Names) -> Result<Option<Plot>> {
    let values = || panel.points.iter().flat_map(|point| [point.overlap, point.chance]);
    let blocks = || panel.points.iter().map(|point| point.block as f64);
    let axes = Axis::over("block", false, blocks()).zip(Axis::over("", false, values()));
    let Some((x, y)) = axes.filter(|_| differ(blocks()) && differ(values())) else { return Ok(None) };
    let x = x.with_ticks_at(blocks());
    let own =
        all.iter().filter(|pair| pair.setting.method == panel.method && pair.setting.strength() == panel.strength);
    let label = format!("Share of the kept weights that both keep, by block, {} at {}", panel.method, panel.strength);
    let svg = chart(&label, &x, &y, 0, |frame| {
        draw(frame, &panel.mean(|_| true, |point| point.chance), Ink::Faint, None, "chance")?;
        draw(frame, &panel.seeds(), Ink::Text, None, "two seeds of one calibration")?;
        for pair in own {
            let is_of = |p: &MaskPoint| p.axis == "calibration" && (&p.setting, &p.other) == (pair.setting, pair.other);
            let look = look(pair, known, names);
            draw(frame, &panel.mean(is_of, |p| p.overlap), look.ink(), look.dash(), &calibrations(pair))?;
        }
        Ok(())
    })?;
    Ok(Some(Plot { title: format!("{} at {}", panel.method, panel.strength), note: String::new(), svg }))
}

fn draw(frame: &Frame, path: &Path, ink: Ink, dash: Option<(i32, i32)>, name: &str) -> Result<()> {
    let pixels: Vec<Pixel> = path.iter().filter_map(|(x, y)| frame.at(*x, *y)).collect();
    frame.pen.line(&pixels, ink, dash)?;
    for (block, share) in path {
        let Some(at) = frame.at(*block, *share) else { continue };
        frame.pen.hint(at, &format!("{name}, block {block}: {}", number(*share)));
    }
    Ok(())
}

/// A key a method and pair of calibrations, and those of what they are seen beside.
fn keys(all: &[Pair], known: &[String], names: &Names) -> Result<Vec<Key>> {
    let mut keys: Vec<Key> = Vec::new();
    let line = |label: &str, ink: Ink, dash| key(label, |pen| pen.line(&[KEY.0, KEY.2], ink, dash));
    for pair in all.iter().filter(|pair| pair.axis == "calibration") {
        let look = look(pair, known, names);
        let new = line(&format!("{}, {}", pair.setting.method, calibrations(pair)), look.ink(), look.dash())?;
        place_of(&mut keys, new);
    }
    if all.iter().any(|pair| pair.axis == "seed") {
        keys.push(line("two seeds of one calibration", Ink::Text, None)?);
    }
    keys.push(line("chance", Ink::Faint, None)?);
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::super::super::sample;
    use super::*;

    fn drawn(report: &Report) -> (Vec<Group>, Vec<Key>) {
        plots(report, &Names::of(report)).unwrap()
    }

    #[test]
    fn a_plot_has_the_pairs_of_a_method_at_a_sparsity_beside_seeds_and_chance() {
        let (groups, keys) = drawn(&sample::report());
        let plots = &groups[0].plots;
        assert_eq!(plots.iter().map(|plot| plot.title.as_str()).collect::<Vec<_>>(), ["wanda at 0.5"]);
        for said in
            ["prose and task, block 3: 0.850", "two seeds of one calibration, block 0: 0.950", "chance, block 1: 0.500"]
        {
            assert!(plots[0].svg.contains(&format!("<title>{said}</title>")), "{said}: {}", plots[0].svg);
        }
        let labels: Vec<&str> = keys.iter().map(|key| key.label.as_str()).collect();
        assert_eq!(labels, ["wanda, prose and task", "two seeds of one calibration", "chance"]);
    }

    #[test]
    fn there_is_no_plot_of_one_block_or_of_nothing() {
        let mut report = sample::report();
        report.masks.retain(|point| point.block == 0);
        assert_eq!(drawn(&report), (vec![], vec![]));
        report.masks.clear();
        assert_eq!(drawn(&report), (vec![], vec![]));
    }
}
