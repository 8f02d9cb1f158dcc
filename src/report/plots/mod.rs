//! What the plots of a report show.

mod blocks;
mod canvas;
mod masks;
mod scatter;
mod sparsity;

use anyhow::Result;
use serde::Serialize;

use self::canvas::{COLOURS, Ink, Pen, Pixel, svg};
use super::{Report, Setting, Value, text};

/// All plots, in groups, and the keys to them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plots {
    /// A key a method and calibration.
    pub keys: Vec<Key>,
    pub dense_key: Key,
    /// Where there are N:M patterns.
    pub pattern_key: Option<Key>,
    /// A group a suite, a plot a metric.
    pub metrics: Vec<Group>,
    /// A group a downstream score, a plot a metric of the model.
    pub scatters: Vec<Group>,
    /// A group a quantity, a plot a method.
    pub blocks: Vec<Group>,
    /// A plot a method and sparsity.
    pub masks: Vec<Group>,
    /// A key a method and pair of calibrations, and what they are seen beside.
    pub mask_keys: Vec<Key>,
}

/// What a colour and shape stand for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Key {
    pub label: String,
    pub svg: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Group {
    pub title: String,
    pub plots: Vec<Plot>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plot {
    pub title: String,
    pub note: String,
    pub svg: String,
}

impl Plots {
    pub fn of(report: &Report) -> Result<Self> {
        let names = Names::of(report);
        let (masks, mask_keys) = masks::plots(report, &names)?;
        Ok(Self {
            keys: keys(&names)?,
            dense_key: key("dense", |pen| pen.line(&[KEY.0, KEY.2], Ink::Faint, None))?,
            pattern_key: names
                .patterns
                .then(|| key("N:M pattern", |pen| pen.mark(KEY.1, &[], Ink::Text, true)))
                .transpose()?,
            metrics: sparsity::plots(report, &names)?,
            scatters: scatter::plots(report, &names)?,
            blocks: blocks::plots(report, &names)?,
            masks,
            mask_keys,
        })
    }
}

/// The methods and calibrations of a report, in its order.
struct Names<'a> {
    methods: Vec<&'a str>,
    calibrations: Vec<&'a str>,
    /// Which of them go together.
    looks: Vec<Look>,
    /// Whether there are N:M patterns.
    patterns: bool,
}

/// How settings of a method and calibration look: colour by method, shape and dashes by calibration.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Look {
    method: usize,
    calibration: Option<usize>,
}

impl<'a> Names<'a> {
    fn of(report: &'a Report) -> Self {
        let of_suites = report.suites.iter().flat_map(|suite| &suite.rows).map(|row| &row.setting);
        let all: Vec<&Setting> = of_suites.chain(report.blocks.iter().map(|point| &point.setting)).collect();
        let patterns = all.iter().any(|setting| is_n_of_m(setting));
        let mut names = Self { methods: vec![], calibrations: vec![], looks: vec![], patterns };
        for setting in all.into_iter().filter(|setting| !setting.is_dense()) {
            let method = place_of(&mut names.methods, &setting.method);
            let calibration = setting.calibration.as_deref().map(|name| place_of(&mut names.calibrations, name));
            place_of(&mut names.looks, Look { method, calibration });
        }
        names
    }

    fn look(&self, setting: &Setting) -> Look {
        let calibration = setting.calibration.as_deref();
        let calibration = calibration.and_then(|name| self.calibrations.iter().position(|known| *known == name));
        Look { method: self.methods.iter().position(|known| *known == setting.method).unwrap_or(0), calibration }
    }
}

impl Look {
    fn ink(self) -> Ink {
        Ink::Method(self.method % COLOURS)
    }

    /// Lengths of dash and gap.
    fn dash(self) -> Option<(i32, i32)> {
        [None, Some((5, 3)), Some((2, 2)), Some((9, 3)), Some((9, 7))][self.calibration.unwrap_or(0) % 5]
    }

    /// The marker's outline around its middle; a circle has none.
    fn outline(self) -> &'static [(i32, i32)] {
        const OUTLINES: [&[(i32, i32)]; 4] = [
            &[(-13, -13), (13, -13), (13, 13), (-13, 13), (-13, -13)],
            &[(0, -19), (17, 12), (-17, 12), (0, -19)],
            &[(0, -19), (19, 0), (0, 19), (-19, 0), (0, -19)],
            &[(0, 19), (17, -12), (-17, -12), (0, 19)],
        ];
        self.calibration.map_or(&[], |i| OUTLINES[i % OUTLINES.len()])
    }
}

/// Where `item` is in `list`; it is added where it was missing.
fn place_of<T: PartialEq>(list: &mut Vec<T>, item: T) -> usize {
    list.iter().position(|known| *known == item).unwrap_or_else(|| {
        list.push(item);
        list.len() - 1
    })
}

/// Whether there are different ones of some numbers that can be shown: else a plot of them shows nothing.
fn differ(values: impl IntoIterator<Item = f64>) -> bool {
    let mut values = values.into_iter().filter(|v| v.is_finite());
    values.next().is_some_and(|first| values.any(|v| v != first))
}

/// A setting's value and interval, as a hint says them.
fn said(setting: &Setting, value: &Value) -> String {
    format!("{}: {}", setting.name, text::with_interval(value.value, value.low, value.high))
}

/// Left end, middle and right end of a key.
const KEY: (Pixel, Pixel, Pixel) = ((8, 28), (68, 28), (128, 28));

fn key(label: &str, paint: impl FnOnce(&Pen) -> Result<()>) -> Result<Key> {
    Ok(Key { label: label.into(), svg: svg((34, 14), label, paint)? })
}

fn keys(names: &Names) -> Result<Vec<Key>> {
    let of = |look: &Look| {
        let method = names.methods[look.method];
        let label = look.calibration.map_or(method.into(), |i| format!("{method}, {}", names.calibrations[i]));
        key(&label, |pen| {
            pen.line(&[KEY.0, KEY.2], look.ink(), look.dash())?;
            pen.mark(KEY.1, look.outline(), look.ink(), false)
        })
    };
    names.looks.iter().map(of).collect()
}

fn is_n_of_m(setting: &Setting) -> bool {
    setting.pattern.contains(':')
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    /// All plots of a report, and the keys.
    fn drawn(report: &Report) -> Vec<String> {
        let plots = Plots::of(report).unwrap();
        let keys = plots.keys.into_iter().chain([plots.dense_key]).chain(plots.pattern_key).map(|key| key.svg);
        let groups = plots.metrics.into_iter().chain(plots.scatters).chain(plots.blocks).chain(plots.masks);
        let keys = keys.chain(plots.mask_keys.into_iter().map(|key| key.svg));
        keys.chain(groups.flat_map(|group| group.plots).map(|plot| plot.svg)).collect()
    }

    /// Whether tags nest, attributes are quoted, and text has no bare markup.
    fn is_well_formed(svg: &str) -> bool {
        let mut open = Vec::new();
        let mut rest = svg;
        while let Some((text, after)) = rest.split_once('<') {
            let Some((tag, after)) = after.split_once('>') else { return false };
            let name = tag.trim_matches('/').split(' ').next().unwrap_or_default();
            match (tag.starts_with('/'), tag.ends_with('/')) {
                (true, _) if open.pop() != Some(name) => return false,
                (false, false) => open.push(name),
                _ => {}
            }
            let quoted = tag.matches('"').count() == 2 * tag.matches("=\"").count();
            let entities = text.split('&').skip(1).all(|entity| entity.contains(';'));
            if tag.contains('<') || !quoted || !entities {
                return false;
            }
            rest = after;
        }
        open.is_empty() && rest.trim().is_empty()
    }

    #[test]
    fn every_plot_is_well_formed_and_says_what_it_is() {
        for svg in drawn(&sample::report()) {
            assert!(is_well_formed(&svg), "{svg}");
            assert!(svg.contains("role=\"img\" aria-label=\"") && svg.contains("<title>"), "{svg}");
        }
        assert!(
            !is_well_formed("<svg><g></svg>") && !is_well_formed("<svg a=\"<\">") && !is_well_formed("<svg>&</svg>")
        );
    }

    #[test]
    fn names_with_markup_stay_text() {
        let mut report = sample::report();
        for suite in &mut report.suites {
            suite.suite = "<b>&\"".into();
            suite.metrics.iter_mut().for_each(|column| column.name += "</svg>'\"&");
            for setting in suite.rows.iter_mut().map(|row| &mut row.setting) {
                setting.calibration = setting.calibration.as_ref().map(|_| "<i \"&".into());
                setting.name += "</title><script>";
            }
        }
        for svg in drawn(&report) {
            assert!(is_well_formed(&svg), "{svg}");
        }
    }

    #[test]
    fn colours_are_left_to_the_page() {
        for svg in drawn(&sample::report()) {
            assert!(!svg.contains("\"#") && svg.contains("\"var(--"), "{svg}");
        }
    }

    #[test]
    fn there_is_a_plot_for_each_metric_each_pair_and_each_method() {
        let plots = Plots::of(&sample::report()).unwrap();
        let titles = |groups: &[Group]| -> Vec<(String, Vec<String>)> {
            groups.iter().map(|g| (g.title.clone(), g.plots.iter().map(|p| p.title.clone()).collect())).collect()
        };
        let named = |title: &str, plots: &[&str]| (title.to_owned(), plots.iter().map(|p| p.to_string()).collect());
        let (language, task) = (["perplexity", "js_divergence"], ["f1", "rouge1"]);
        assert_eq!(titles(&plots.metrics), [named("language", &language), named("task", &task)]);
        let intrinsic = ["perplexity on language", "js_divergence on language"];
        assert_eq!(titles(&plots.scatters), [named("f1 on task", &intrinsic), named("rouge1 on task", &intrinsic)]);
        assert_eq!(titles(&plots.blocks), [named("Error by block, log scale", &["magnitude", "wanda"])]);
    }

    #[test]
    fn every_value_is_said_where_the_pointer_rests_on_it() {
        let report = sample::report();
        let plots = Plots::of(&report).unwrap();
        let f1 = &plots.metrics[1].plots[0].svg;
        for row in &report.suites[1].rows {
            assert!(f1.contains(&format!("<title>{}</title>", said(&row.setting, &row.values[0]))), "{f1}");
        }
        assert!(plots.blocks[0].plots[1].svg.contains("<title>wanda-0.6-prose, block 3: 0.250</title>"));
        let point = "<title>wanda-0.6-prose\nperplexity: 21.7 [20.0, 23.5]\nf1: 0.45 [0.34, 0.56]</title>";
        assert!(plots.scatters[0].plots[0].svg.contains(point), "{}", plots.scatters[0].plots[0].svg);
    }

    #[test]
    fn there_is_no_plot_where_there_is_nothing_to_show() {
        let counts_after = |change: &dyn Fn(&mut Report)| {
            let mut report = sample::report();
            change(&mut report);
            let plots = Plots::of(&report).unwrap();
            [plots.metrics, plots.scatters, plots.blocks]
                .map(|groups| groups.iter().map(|g| g.plots.len()).sum::<usize>())
        };
        let rows = |report: &mut Report, keep: &dyn Fn(&Setting) -> bool| {
            report.suites.iter_mut().for_each(|suite| suite.rows.retain(|row| keep(&row.setting)));
            report.blocks.retain(|point| keep(&point.setting));
        };
        assert_eq!(counts_after(&|_| ()), [4, 4, 2]);
        // One sparsity.
        assert_eq!(counts_after(&|r| rows(r, &|s| s.sparsity != Some(0.6))), [0, 4, 2]);
        // One setting, and none.
        assert_eq!(counts_after(&|r| rows(r, &|s| s.is_dense() || s.name == "magnitude-0.5")), [0, 0, 1]);
        assert_eq!(counts_after(&|r| rows(r, &Setting::is_dense)), [0; 3]);
        // All values of rouge1 are equal.
        let equal = |r: &mut Report| r.suites[1].rows.iter_mut().for_each(|row| row.values[1].value = 0.5);
        assert_eq!(counts_after(&equal), [3, 2, 2]);
        // One block.
        assert_eq!(counts_after(&|r| r.blocks.retain(|point| point.block == 0)), [4, 4, 0]);
    }

    #[test]
    fn values_that_no_axis_shows_leave_the_others() {
        let mut report = sample::report();
        for value in &mut report.suites[0].rows[1].values {
            (value.value, value.low, value.high) = (f64::INFINITY, Some(f64::NAN), None);
        }
        assert_eq!(drawn(&report).len(), drawn(&sample::report()).len());
    }
}
