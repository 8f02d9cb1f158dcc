//! Figures of a paper, to be set beside what the study finds.

use std::collections::HashSet;

use indexmap::IndexSet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::{no_metric, unknown};
use super::problem::Problem;
use super::{Layers, Recipe, cells};
use crate::metrics::Metric;
use crate::source::Source;
use crate::statistics::Link;
use crate::words;

/// A figure of a paper. It is shown beside what the study finds, and changes nothing that is computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// The setting that it is of: "dense", "wanda-0.5-c4", a checkpoint; or a single cell, "wanda-0.5-c4-s0".
    pub setting: String,
    /// The suite that it was measured on.
    pub suite: String,
    /// One of the suite's metrics.
    pub metric: Metric,
    /// As calipr's tables have it: a share is 0.5, not 50.
    pub value: f64,
    /// What the paper gives behind ±.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub spread: Option<f64>,
    /// Where it stands: "Sun et al. 2024, table 3".
    #[serde(rename = "where")]
    pub place: String,
    /// What else is to be said of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The model that it is of; by default the model of the recipe's file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Source>,
}

impl Published {
    /// Whether it lies within an interval of what was found; None where there is no interval.
    pub fn is_within(&self, interval: Option<(f64, f64)>) -> Option<bool> {
        let (low, high) = interval.filter(|(low, high)| !low.is_nan() && !high.is_nan())?;
        Some((low..=high).contains(&self.value))
    }

    /// What tells it from others: two papers may give a figure of the same.
    fn key(&self) -> (&str, &str, Metric, &str) {
        (&self.setting, &self.suite, self.metric, &self.place)
    }

    /// What of it a recipe lacks: the key, what is wrong, and what was probably meant.
    fn lacks(&self, recipe: &Recipe, named: &Names) -> Option<(&'static str, String, Option<String>)> {
        if !named.settings.contains(&self.setting) && !named.cells.contains(&self.setting) {
            let known = named.settings.iter().chain(&named.cells).map(String::as_str);
            let expected: Vec<&str> = named.settings.iter().map(String::as_str).collect();
            let message = format!("\"{}\" is no setting of this study; expected {}", self.setting, expected.join(", "));
            let hint = words::nearest(&self.setting, known).map(|word| format!("did you mean \"{word}\"?"));
            return Some(("setting", message, hint));
        }
        let Some(suite) = recipe.suite.get(&self.suite) else {
            let (message, hint) = unknown("suite", &self.suite, recipe.suite.keys());
            return Some(("suite", message, hint));
        };
        if suite.metrics().contains(&self.metric) {
            return None;
        }
        let (message, hint) = no_metric(&self.suite, suite, self.metric.as_str());
        Some(("metric", message, hint))
    }

    /// Why its value is none of the metric's, and what was probably meant.
    fn no_value(&self) -> Option<(String, Option<String>)> {
        let (metric, value, quantity) = (self.metric.as_str(), self.value, self.metric.quantity());
        let (least, most) = match quantity.link {
            Link::Identity => quantity.range,
            Link::Exp => (quantity.range.0.exp(), quantity.range.1.exp()),
        };
        if !value.is_finite() {
            return Some((format!("{value} is no figure; expected a number"), None));
        }
        if (least..=most).contains(&value) {
            return None;
        }
        // 50.3 per cent.
        let as_share = (most == 1.0 && (0.0..=100.0).contains(&value)).then(|| {
            let share = (value * 1e8).round() / 1e10;
            format!("a share is written as tables have it: {share} for {value}%")
        });
        let expected = match most {
            most if most.is_finite() => format!("a number from {least} to {}", (most * 1e4).round() / 1e4),
            _ => format!("a number from {least} on"),
        };
        Some((format!("{value} is no {metric}; expected {expected}"), as_share))
    }
}

/// The names that a figure may be of.
struct Names {
    settings: IndexSet<String>,
    cells: IndexSet<String>,
}

fn names(recipe: &Recipe) -> Names {
    let all = cells(recipe);
    Names {
        settings: all.iter().map(|cell| cell.setting().id()).collect(),
        cells: all.iter().map(|cell| cell.id()).collect(),
    }
}

/// What is wrong with the figures of a recipe.
pub(super) fn problems(recipe: &Recipe, layers: &Layers) -> Vec<Problem> {
    let (mut problems, mut seen, named) = (vec![], HashSet::new(), names(recipe));
    for (i, figure) in recipe.published.iter().enumerate() {
        let i = i.to_string();
        let mut add = |key: Option<&str>, message: String, hint: Option<String>| {
            let path: Vec<&str> = ["published", &i].into_iter().chain(key).collect();
            problems.push(layers.problem(&path, message, hint));
        };
        if let Some((key, message, hint)) = figure.lacks(recipe, &named) {
            add(Some(key), message, hint);
        }
        if let Some((message, hint)) = figure.no_value() {
            add(Some("value"), message, hint);
        }
        if let Some(spread) = figure.spread.filter(|spread| !(spread.is_finite() && *spread >= 0.0)) {
            add(Some("spread"), format!("{spread} is no spread; expected a number, 0 or more"), None);
        }
        if figure.place.trim().is_empty() {
            let message = "it is empty; expected where the figure stands, such as \"Sun et al. 2024, table 3\"";
            add(Some("where"), message.into(), None);
        }
        if !seen.insert(figure.key()) {
            let (setting, suite, metric, place) = figure.key();
            let metric = metric.as_str();
            add(None, format!("{metric} of {setting} on {suite} is given twice as of \"{place}\""), None);
        }
    }
    problems
}

/// Settles what figures leave open: they are of the model of the recipe's file, and those of what `--set` or the environment
/// has taken out of the file's study leave with it.
pub(super) fn settle(recipe: &mut Recipe, layers: &Layers) {
    if recipe.published.is_empty() {
        return;
    }
    let of_file = layers.of_file();
    let model = of_file.as_ref().map_or(&recipe.model.source, |file| &file.model.source).clone();
    let (figures, now) = (std::mem::take(&mut recipe.published), &*recipe);
    let (in_file, named) = (of_file.as_ref().map(|file| (file, names(file))), names(now));
    let is_gone = |figure: &Published| {
        let was_there = in_file.as_ref().is_some_and(|(file, named)| figure.lacks(file, named).is_none());
        was_there && figure.lacks(now, &named).is_some()
    };
    let mut figures: Vec<Published> = figures.into_iter().filter(|figure| !is_gone(figure)).collect();
    figures.iter_mut().for_each(|figure| figure.model = Some(figure.model.take().unwrap_or_else(|| model.clone())));
    recipe.published = figures;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Library;
    use crate::recipe::{Problems, check};

    const RECIPE: &str = "name = 'a'\nmodel.source = 'hf:OWNER/NAME'\n\
        calibration.c4 = { dataset = 'c4' }\n\
        grid = { method = ['magnitude', 'wanda'], sparsity = [0.5, '2:4'], seed = [0, 1] }\n\
        suite.text = { dataset = 'wikitext2', metrics = ['perplexity'] }\n\
        suite.quiz = { dataset = 'arc_easy', metrics = ['acc'] }\n";

    fn load(figures: &[&str], sets: &[&str]) -> Result<Recipe, String> {
        let figures = figures.iter().map(|figure| format!("[[published]]\n{figure}\n")).collect::<String>();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), RECIPE.to_owned() + &figures).unwrap();
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        let said = |problems: Problems| problems.to_string();
        let layers = Layers::read(file.path(), &sets).map_err(said)?;
        let mut recipe = layers.extract().map_err(said)?;
        settle(&mut recipe, &layers);
        check::check(&recipe, &Library::of_recipe(file.path()), &layers).map_err(said)?;
        Ok(recipe)
    }

    const DENSE: &str = "setting = 'dense'\nsuite = 'text'\nmetric = 'perplexity'\nvalue = 5.12\nwhere = 'table 3'";

    #[test]
    fn figures_are_of_settings_cells_and_the_model_of_the_file() {
        let wanda = DENSE.replace("dense", "wanda-2:4-c4");
        let cell = DENSE.replace("dense", "wanda-0.5-c4-s1");
        let recipe = load(&[DENSE, &wanda, &cell], &["model.source=hf:OTHER/NAME"]).unwrap();
        assert_eq!(recipe.published.len(), 3);
        let models: Vec<String> = recipe.published.iter().map(|f| f.model.as_ref().unwrap().to_string()).collect();
        assert_eq!(models, ["hf:OWNER/NAME"; 3]);
        let own = DENSE.to_owned() + "\nmodel = 'hf:THIRD/NAME'";
        assert_eq!(load(&[&own], &[]).unwrap().published[0].model.as_ref().unwrap().to_string(), "hf:THIRD/NAME");
    }

    #[test]
    fn what_the_study_has_not_is_refused_with_its_place_and_the_nearest_name() {
        for (from, to, place, said) in [
            (
                "dense",
                "wanda-0.5-c5",
                ":8:1: `published.0.setting`: \"wanda-0.5-c5\"",
                "did you mean \"wanda-0.5-c4\"?",
            ),
            ("'text'", "'texts'", ":9:1: `published.0.suite`: \"texts\"", "did you mean \"text\"?"),
            ("perplexity", "perplexty", ":10:1: `published.0.metric`: \"perplexty\"", "did you mean \"perplexity\"?"),
            (
                "perplexity",
                "loss",
                ":10:1: `published.0.metric`: [suite.text] has no metric \"loss\"",
                "add it to suite.text.metrics",
            ),
            ("5.12", "nan", ":11:1: `published.0.value`: NaN is no figure", "expected a number"),
            ("5.12", "inf", ":11:1: `published.0.value`: inf is no figure", "expected a number"),
            ("5.12", "0.5", ":11:1: `published.0.value`: 0.5 is no perplexity", "expected a number from 1 on"),
            ("5.12", "'5'", ":11:1: `published.0.value`: expected a number", "found \"5\""),
            ("table 3", " ", ":12:1: `published.0.where`: it is empty", "expected where"),
            ("value =", "spread = -1.0\nvalue =", ":11:1: `published.0.spread`: -1 is no spread", "0 or more"),
            ("where", "were", "`were` is no key of [published.0]", "did you mean `where`?"),
        ] {
            let error = load(&[&DENSE.replace(from, to)], &[]).unwrap_err();
            assert!(error.contains(place) && error.contains(said), "{from} -> {to}: {error}");
        }
    }

    #[test]
    fn a_share_in_per_cent_is_refused_and_said_how_to_write() {
        let acc = DENSE.replace("'text'", "'quiz'").replace("perplexity", "acc");
        let error = load(&[&acc.replace("5.12", "56.27")], &[]).unwrap_err();
        assert!(
            error.contains("56.27 is no acc; expected a number from 0 to 1") && error.contains("0.5627 for 56.27%"),
            "{error}"
        );
        assert!(!load(&[&acc.replace("5.12", "-0.5")], &[]).unwrap_err().contains('%'));
        load(&[&acc.replace("5.12", "0.5627")], &[]).unwrap();
    }

    #[test]
    fn the_same_figure_of_the_same_table_is_refused_and_of_another_not() {
        let error = load(&[DENSE, &DENSE.replace("5.12", "5.2")], &[]).unwrap_err();
        assert!(error.contains("published.1") && error.contains("given twice as of \"table 3\""), "{error}");
        load(&[DENSE, &DENSE.replace("table 3", "table 4")], &[]).unwrap();
    }

    #[test]
    fn figures_of_what_an_override_takes_away_leave_with_it_and_slips_are_still_refused() {
        let wanda = DENSE.replace("dense", "wanda-2:4-c4");
        let recipe = load(&[DENSE, &wanda], &["grid.sparsity=[0.5]"]).unwrap();
        assert_eq!(recipe.published.iter().map(|f| f.setting.as_str()).collect::<Vec<_>>(), ["dense"]);
        let error = load(&[&DENSE.replace("dense", "wanda-0.7-c4")], &["grid.sparsity=[0.5]"]).unwrap_err();
        assert!(error.contains("\"wanda-0.7-c4\" is no setting"), "{error}");
    }

    #[test]
    fn an_interval_has_its_ends() {
        let recipe = load(&[DENSE], &[]).unwrap();
        let figure = &recipe.published[0];
        for (interval, within) in [
            (Some((5.12, 5.3)), Some(true)),
            (Some((5.0, 5.12)), Some(true)),
            (Some((5.13, 5.3)), Some(false)),
            (Some((f64::NAN, 5.3)), None),
            (None, None),
        ] {
            assert_eq!(figure.is_within(interval), within, "{interval:?}");
        }
    }
}
