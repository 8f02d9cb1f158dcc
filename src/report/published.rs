//! What papers have, beside what was found.

use serde::Serialize;

use super::text::list;
use super::{CellRow, SuiteReport};
use crate::recipe::{Published, Recipe};
use crate::statistics::Link;

/// A figure of a paper, and what this study found in its place.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PublishedRow {
    /// A setting, or a single cell.
    pub setting: String,
    pub suite: String,
    pub metric: String,
    /// As the recipe has it.
    pub published: f64,
    /// What the paper gives behind ±.
    pub spread: Option<f64>,
    /// Where it stands: "Sun et al. 2024, table 3".
    #[serde(rename = "where")]
    pub place: String,
    pub note: Option<String>,
    /// The model that the figure is of, where this study is of another.
    pub other_model: Option<String>,
    /// None where the cell is not done.
    pub found: Option<Found>,
}

/// A value of this study with its 95% interval.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Found {
    pub value: f64,
    pub low: Option<f64>,
    pub high: Option<f64>,
    /// The value less the published one.
    pub delta: f64,
    /// The difference as a share of the published value; only of what compares by ratios, as perplexity.
    pub relative: Option<f64>,
    /// Whether the published value lies within the interval; None where there is none.
    pub within: Option<bool>,
}

/// The figures of a recipe, in its order.
pub fn rows(recipe: &Recipe, suites: &[SuiteReport], cells: &[CellRow]) -> Vec<PublishedRow> {
    let row = |figure: &Published| PublishedRow {
        setting: figure.setting.clone(),
        suite: figure.suite.clone(),
        metric: figure.metric.as_str().to_owned(),
        published: figure.value,
        spread: figure.spread,
        place: figure.place.clone(),
        note: figure.note.clone(),
        other_model: figure.model.as_ref().filter(|model| **model != recipe.model.source).map(ToString::to_string),
        found: found(figure, suites, cells),
    };
    recipe.published.iter().map(row).collect()
}

/// What was found of a setting, or of the cell of that name.
fn found(figure: &Published, suites: &[SuiteReport], cells: &[CellRow]) -> Option<Found> {
    let suite = suites.iter().find(|suite| suite.suite == figure.suite)?;
    let metric = suite.metrics.iter().position(|column| column.name == figure.metric.as_str())?;
    let of_setting = suite.rows.iter().find(|row| row.setting.name == figure.setting);
    let of_setting = of_setting.and_then(|row| row.values.get(metric)).map(|v| (v.value, v.low, v.high));
    let of_cell = || {
        let row = cells.iter().find(|row| row.cell == figure.setting && row.suite == figure.suite)?;
        row.values.get(metric).map(|v| (v.value, v.low, v.high))
    };
    let (value, low, high) = of_setting.or_else(of_cell)?;
    let delta = value - figure.value;
    let is_ratio = figure.metric.quantity().link == Link::Exp;
    let relative = is_ratio.then(|| delta / figure.value);
    Some(Found { value, low, high, delta, relative, within: figure.is_within(low.zip(high)) })
}

/// How many figures lie within the intervals, in a sentence; None where there are no figures.
pub fn sentence(rows: &[PublishedRow]) -> Option<String> {
    if rows.is_empty() {
        return None;
    }
    let count =
        |within: Option<bool>| rows.iter().filter(|row| row.found.as_ref().is_some_and(|f| f.within == within)).count();
    let missing = rows.iter().filter(|row| row.found.is_none()).count();
    let (inside, outside, bare) = (count(Some(true)), count(Some(false)), count(None));
    let verb = |n: usize, one: &str, more: &str| format!("{n} {}", if n == 1 { one } else { more });
    let clauses: Vec<String> = [
        (inside + outside > 0).then(|| verb(inside, "lies", "lie") + " within the interval of what was found"),
        (outside > 0).then(|| format!("{outside} outside")),
        (bare > 0).then(|| verb(bare, "stands", "stand") + " beside a value without an interval"),
        (missing > 0).then(|| verb(missing, "stands", "stand") + " beside a cell that is not done"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let of = match rows.len() {
        1 => "Of 1 published figure".to_owned(),
        n => format!("Of {n} published figures"),
    };
    let models = other_models(rows);
    let of_models = match models.is_empty() {
        true => String::new(),
        false => format!(" ({})", said_of(&models)),
    };
    Some(format!("{of}{of_models}, {}.", list(&clauses)))
}

/// The models that figures are of and this study is not, each once.
pub fn other_models(rows: &[PublishedRow]) -> Vec<String> {
    let mut models: Vec<String> = vec![];
    for model in rows.iter().filter_map(|row| row.other_model.as_ref()) {
        if !models.contains(model) {
            models.push(model.clone());
        }
    }
    models
}

/// `of hf:OWNER/NAME, which is not this study's model`
pub fn said_of(models: &[String]) -> String {
    let are = if models.len() == 1 { "is not this study's model" } else { "are not this study's model" };
    format!("of {}, which {are}", list(models))
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn a_figure_is_set_beside_its_setting_or_its_cell() {
        let rows = sample::report().published;
        let found = |i: usize| rows[i].found.clone().unwrap();
        // Dense has perplexity 10 / 0.6225 and an interval of 1.75 on both sides.
        assert!((found(0).delta - (10.0 / 0.6225 - 16.0)).abs() < 1e-9 && found(0).within == Some(true));
        assert!((found(0).relative.unwrap() - found(0).delta / 16.0).abs() < 1e-12);
        assert_eq!((found(1).value, found(1).within, found(1).relative), (0.6125, Some(false), None));
        // A cell by itself.
        assert_eq!((found(2).value, found(2).within), (0.6125, Some(true)));
        assert_eq!(rows[3].found, None);
    }

    #[test]
    fn the_sentence_counts_and_says_no_more() {
        let mut rows = sample::report().published;
        assert_eq!(
            sentence(&rows).unwrap(),
            "Of 4 published figures, 2 lie within the interval of what was found, 1 outside and 1 stands beside a cell that is not done."
        );
        rows[0].other_model = Some("hf:OWNER/NAME".into());
        rows.truncate(1);
        assert_eq!(
            sentence(&rows).unwrap(),
            "Of 1 published figure (of hf:OWNER/NAME, which is not this study's model), 1 lies within the interval of what was found."
        );
        rows[0].found.as_mut().unwrap().within = None;
        assert!(sentence(&rows).unwrap().ends_with(", 1 stands beside a value without an interval."));
        assert_eq!(sentence(&[]), None);
    }
}
