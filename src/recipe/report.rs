//! What a study's report is about, and by how much two values may differ and still count as near enough.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Recipe, Suite};
use crate::metrics::{Kind, Metric};

/// What the report puts first, and its margins.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReportSpec {
    /// The suite that cells are compared on first; by default the first with a metric of answers or choices, else the
    /// first.
    pub suite: Option<String>,
    /// The metric of that suite; by default its first of answers or choices, else perplexity, else loss, else its first.
    pub metric: Option<Metric>,
    /// How much worse a cell may be and still be as good as another, by kind of metric.
    pub margin: Margin,
}

/// How much worse a value may be and still count as near enough.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Margin {
    /// Of fractions: accuracies, F1, ROUGE, agreement.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub score: f64,
    /// Of losses, in nats; of perplexities it is the difference of their logarithms: 0.02 is 2%.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub loss: f64,
    /// Of divergences, in nats.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub divergence: f64,
    /// Of what a judge gives, from 1 to 10.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub judge: f64,
}

impl Default for Margin {
    fn default() -> Self {
        Self { score: 0.02, loss: 0.02, divergence: 0.01, judge: 0.2 }
    }
}

impl Margin {
    /// The margin of a metric, in its own unit; of perplexity, which compares by ratios, of its logarithm.
    pub fn of(&self, metric: Metric) -> f64 {
        self.of_kind(metric.kind())
    }

    /// The margin of metrics of this kind.
    pub fn of_kind(&self, kind: Kind) -> f64 {
        match kind {
            Kind::Score => self.score,
            Kind::Loss => self.loss,
            Kind::Divergence => self.divergence,
            Kind::Judge => self.judge,
        }
    }

    /// The margins by their keys.
    pub fn by_key(&self) -> [(&'static str, f64); 4] {
        [("score", self.score), ("loss", self.loss), ("divergence", self.divergence), ("judge", self.judge)]
    }
}

impl Recipe {
    /// The suite and the metric that the report is about. None where the recipe was not checked, and has no such suite, or no
    /// suite at all.
    pub fn primary(&self) -> Option<(&str, Metric)> {
        let ReportSpec { suite, metric, .. } = &self.report;
        let has = |suite: &Suite| metric.is_none_or(|metric| suite.metrics().contains(&metric));
        let (name, suite) = match suite {
            Some(name) => self.suite.get_key_value(name)?,
            None if metric.is_some() => self.suite.iter().find(|(_, suite)| has(suite))?,
            None => self.suite.iter().find(|(_, suite)| is_downstream(suite)).or(self.suite.first())?,
        };
        Some((name, metric.or_else(|| main_metric(suite))?))
    }

    /// The suite whose tokens the output errors of all pruned weights are measured on: the one that the report is
    /// about, or the first of the recipe, whichever goes through the model to be scored. None where none does.
    pub fn error_suite(&self) -> Option<&str> {
        let is_scored = |name: &str| self.suite.get(name).is_some_and(Suite::is_scored);
        let primary = self.primary().map(|(name, _)| name);
        primary.into_iter().chain(self.suite.keys().map(String::as_str)).find(|name| is_scored(name))
    }
}

/// Whether a suite has a metric of answers or choices.
fn is_downstream(suite: &Suite) -> bool {
    suite.metrics().iter().any(|metric| metric.family().is_downstream())
}

/// The metric that tells most of a suite.
fn main_metric(suite: &Suite) -> Option<Metric> {
    let metrics = suite.metrics();
    let known = |wanted: Metric| metrics.iter().find(|&&metric| metric == wanted);
    let downstream = metrics.iter().find(|metric| metric.family().is_downstream());
    let main = downstream.or_else(|| known(Metric::PERPLEXITY)).or_else(|| known(Metric::LOSS));
    main.or(metrics.first()).copied()
}

#[cfg(test)]
mod tests {
    use super::super::Layers;
    use super::*;

    const RECIPE: &str = "name = 'a'\nmodel.source = 'path:m'\ngrid = { method = ['wanda'], sparsity = [0.5] }\n";
    const TEXT: &str = "suite.text = { dataset = 't' }\n";
    const ROWS: &str = "suite.rows = { dataset = 'r', metrics = ['js_divergence', 'f1', 'rougeL'] }\n";
    const QUIZ: &str = "suite.quiz = { dataset = 'q', metrics = ['acc', 'loss'] }\n";

    fn primary(parts: &[&str]) -> Option<(String, &'static str)> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), RECIPE.to_owned() + &parts.concat()).unwrap();
        let recipe = Layers::read(file.path(), &[]).unwrap().extract().unwrap();
        recipe.primary().map(|(suite, metric)| (suite.to_owned(), metric.as_str()))
    }

    #[test]
    fn the_report_is_about_the_first_downstream_suite_or_what_it_is_told() {
        for (parts, suite, metric) in [
            (&[TEXT, ROWS, QUIZ][..], "rows", "f1"),
            (&[TEXT, QUIZ, ROWS], "quiz", "acc"),
            (&[TEXT], "text", "perplexity"),
            (&["suite.a = { dataset = 't', metrics = ['js_divergence', 'loss'] }\n", TEXT], "a", "loss"),
            (&["suite.a = { dataset = 't', metrics = ['kl_divergence'] }\n"], "a", "kl_divergence"),
            (&[TEXT, QUIZ, "report.suite = 'text'\n"], "text", "perplexity"),
            (&[TEXT, ROWS, "report.suite = 'rows'\nreport.metric = 'rougeL'\n"], "rows", "rougeL"),
            (&[QUIZ, TEXT, ROWS, "report.metric = 'js_divergence'\n"], "text", "js_divergence"),
        ] {
            assert_eq!(primary(parts), Some((suite.to_owned(), metric)), "{parts:?}");
        }
        assert_eq!(primary(&[TEXT, "report.suite = 'rows'\n"]), None);
    }

    #[test]
    fn every_metric_has_the_margin_of_its_kind() {
        let margin: Margin = toml::from_str("score = 0.5\ndivergence = 0.25").unwrap();
        for metric in Metric::all() {
            let expected = match metric.as_str() {
                "loss" | "perplexity" | "target_loss" | "target_perplexity" => 0.02,
                "js_divergence" | "kl_divergence" => 0.25,
                "judge_score" => 0.2,
                _ => 0.5,
            };
            assert_eq!(margin.of(metric), expected, "{metric:?}");
        }
    }
}
