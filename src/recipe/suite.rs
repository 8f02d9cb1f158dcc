//! What cells are judged by: token windows, or rows with prompts and targets.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::published_length;
use crate::data::{LITERAL_BREAK, Packing, has_literal_break};
use crate::judge::JudgeSpec;
use crate::metrics::{ExactMatch, Extract, Family, Metric};

/// An evaluation data set with its metrics.
///
/// A suite is judged window by window, or row by row: by rows where a metric of answers or choices asks for
/// it, or a key that only rows have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// A name in datasets/, `path:` to such a TOML, or a source of rows (`path:my.jsonl`, `hf:datasets/OWNER/NAME`).
    pub dataset: String,
    /// By default `test`, where the data set has it.
    pub split: Option<String>,
    /// By default loss, perplexity and js_divergence of windows; exact_match, f1, loss and js_divergence of rows.
    pub metrics: Option<Vec<Metric>>,

    /// Windows: how many, from the start; by default all.
    #[schemars(range(min = 1))]
    pub windows: Option<usize>,
    /// Windows: tokens in each; by default 2048.
    #[schemars(range(min = 2))]
    pub length: Option<usize>,
    /// Windows: how they are cut from rows; by default concat.
    pub packing: Option<Packing>,

    /// Rows: how many, from the start; by default all.
    #[schemars(range(min = 1))]
    pub limit: Option<usize>,
    /// Rows: solved examples in front of each prompt, drawn by the recipe's seed; by default none.
    pub shots: Option<usize>,
    /// Rows: the split that shots are drawn from; by default `train`, where the data set has it, else the
    /// suite's own rows.
    pub shots_split: Option<String>,
    /// Rows: put the model's chat template around prompts; by default no.
    pub chat: Option<bool>,
    /// Rows: tokens of an answer, at most; by default 128.
    #[schemars(range(min = 1))]
    pub max_new_tokens: Option<usize>,
    /// Rows: texts that end an answer and are cut off it; by default none, or with shots what stands between them.
    pub stop: Option<Vec<String>>,
    /// Rows: 0, the default, takes the most likely token.
    #[schemars(range(min = 0.0))]
    pub temperature: Option<f64>,
    /// Rows: with a temperature, draw only from the most likely tokens that together have this probability.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub top_p: Option<f64>,
    /// Rows: with a temperature, draw only from so many of the most likely tokens; by default from all.
    #[schemars(range(min = 1))]
    pub top_k: Option<usize>,
    /// Rows: what the logits of tokens that are there already are divided by, or multiplied with where they are below 0; by
    /// default what the model's `generation_config.json` says.
    #[schemars(range(min = 0.0))]
    pub repetition_penalty: Option<f32>,
    /// Rows: compare stems of words in rouge metrics, as rouge-score's `use_stemmer`; by default no.
    pub stem: Option<bool>,
    /// Rows: a regular expression that finds in an answer what metrics of answers compare: its first group, or all of it where
    /// it has none; an answer in which it finds nothing is wrong. By default all of an answer is compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extract: Option<Extract>,
    /// Rows: take the last match of `extract`; by default the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extract_last: Option<bool>,
    /// Rows: how `exact_match` compares, as lm-evaluation-harness's metric of this name; by default as SQuAD's script.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact_match: Option<ExactMatch>,
    /// Rows: a language model that judges the answers; by default none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeSpec>,
}

/// What a suite is judged by the piece of.
#[derive(Debug, Clone, PartialEq)]
pub enum Unit {
    Windows(WindowUnit),
    Rows(RowUnit),
}

/// Windows of tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WindowUnit {
    pub packing: Packing,
    pub length: usize,
    pub windows: Option<usize>,
}

/// Rows with prompts and targets.
#[derive(Debug, Clone, PartialEq)]
pub struct RowUnit {
    pub limit: Option<usize>,
    pub shots: usize,
    pub chat: bool,
    pub decoding: Decoding,
}

/// How answers are generated.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decoding {
    pub max_new_tokens: usize,
    /// None: what stands between rows, where there are shots.
    pub stop: Option<Vec<String>>,
    pub temperature: f64,
    pub top_p: f64,
    /// None: drawn from all. Not written where it is none, for keys of what was cached before there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    /// None: what the model's folder says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f32>,
}

impl Suite {
    /// The keys that are set and that only windows have.
    pub fn window_keys(&self) -> Vec<&'static str> {
        set(&[
            ("windows", self.windows.is_some()),
            ("length", self.length.is_some()),
            ("packing", self.packing.is_some()),
        ])
    }

    /// The keys that are set and that only rows have.
    pub fn row_keys(&self) -> Vec<&'static str> {
        set(&[
            ("limit", self.limit.is_some()),
            ("shots", self.shots.is_some()),
            ("shots_split", self.shots_split.is_some()),
            ("chat", self.chat.is_some()),
            ("max_new_tokens", self.max_new_tokens.is_some()),
            ("stop", self.stop.is_some()),
            ("temperature", self.temperature.is_some()),
            ("top_p", self.top_p.is_some()),
            ("top_k", self.top_k.is_some()),
            ("repetition_penalty", self.repetition_penalty.is_some()),
            ("stem", self.stem.is_some()),
            ("extract", self.extract.is_some()),
            ("extract_last", self.extract_last.is_some()),
            ("exact_match", self.exact_match.is_some()),
            ("judge", self.judge.is_some()),
        ])
    }

    /// The keys that are set but change nothing beside the others, each with what it lacks.
    pub fn inert_keys(&self) -> Vec<(&'static str, &'static str)> {
        let mut inert = Vec::new();
        if self.is_of_rows() && !self.is_answered() {
            let of_answers = [
                ("max_new_tokens", self.max_new_tokens.is_some()),
                ("stop", self.stop.is_some()),
                ("temperature", self.temperature.is_some()),
                ("top_p", self.top_p.is_some()),
                ("top_k", self.top_k.is_some()),
                ("repetition_penalty", self.repetition_penalty.is_some()),
            ];
            let why = "nothing is generated: no metric of this suite is of answers (exact_match, f1, contains_answer, rouge1, …)";
            inert.extend(set(&of_answers).into_iter().map(|key| (key, why)));
        } else if self.temperature.is_none() {
            let of_drawing = [("top_p", self.top_p.is_some_and(|p| p < 1.0)), ("top_k", self.top_k.is_some())];
            inert.extend(set(&of_drawing).into_iter().map(|key| (key, "without a `temperature` nothing is drawn")));
        }
        if self.stop.iter().flatten().any(|text| has_literal_break(text)) {
            inert.push(("stop", LITERAL_BREAK));
        }
        if self.stem.is_some() && !self.metrics().iter().any(|m| m.compares_stems()) {
            inert.push(("stem", "no metric of this suite is a rouge, which alone compares stems"));
        }
        if self.extract.is_some() && !self.wants(Family::Text) {
            inert.push((
                "extract",
                "no metric of this suite compares answers (exact_match, f1, contains_answer, rouge1, …)",
            ));
        }
        if self.extract_last.is_some() && self.extract.is_none() {
            inert.push(("extract_last", "there is no `extract` whose matches it could choose among"));
        }
        if self.exact_match.is_some() && !self.metrics().contains(&Metric::EXACT_MATCH) {
            inert.push(("exact_match", "the suite's `metrics` do not name exact_match, which it is about"));
        }
        if self.shots_split.is_some() && self.shots.is_none() {
            inert.push(("shots_split", "there are no shots to draw from it; add `shots`"));
        }
        inert
    }

    fn is_of_rows(&self) -> bool {
        let of_rows = |metrics: &Vec<Metric>| metrics.iter().any(|m| m.family().is_downstream());
        !self.row_keys().is_empty() || self.metrics.as_ref().is_some_and(of_rows)
    }

    /// What it is judged by the piece of.
    pub fn unit(&self) -> Unit {
        if !self.is_of_rows() {
            return Unit::Windows(WindowUnit {
                packing: self.packing.unwrap_or(Packing::Concat),
                length: self.length.unwrap_or_else(published_length),
                windows: self.windows,
            });
        }
        Unit::Rows(RowUnit {
            limit: self.limit,
            shots: self.shots.unwrap_or(0),
            chat: self.chat.unwrap_or(false),
            decoding: Decoding {
                max_new_tokens: self.max_new_tokens.unwrap_or(128),
                stop: self.stop.clone(),
                temperature: self.temperature.unwrap_or(0.0),
                top_p: self.top_p.unwrap_or(1.0),
                top_k: self.top_k,
                repetition_penalty: self.repetition_penalty,
            },
        })
    }

    /// The metrics asked for, and behind them those of the judge, who is asked for by itself.
    pub fn metrics(&self) -> Vec<Metric> {
        let mut metrics = self.named_metrics();
        if let Some(judge) = &self.judge {
            let of_judge = [Some(Metric::JUDGE_SCORE), judge.pairwise.then_some(Metric::JUDGE_WIN_RATE)];
            for metric in of_judge.into_iter().flatten().filter(|metric| !metrics.contains(metric)).collect::<Vec<_>>()
            {
                metrics.push(metric);
            }
        }
        metrics
    }

    /// The metrics that `metrics` names.
    fn named_metrics(&self) -> Vec<Metric> {
        self.metrics.clone().unwrap_or_else(|| match self.is_of_rows() {
            false => vec![Metric::LOSS, Metric::PERPLEXITY, Metric::JS_DIVERGENCE],
            true => vec![Metric::EXACT_MATCH, Metric::F1, Metric::LOSS, Metric::JS_DIVERGENCE],
        })
    }

    /// Whether its samples go through the model to be scored: not where only answers are asked for.
    pub fn is_scored(&self) -> bool {
        self.wants(Family::Language) || self.wants(Family::Choice)
    }

    /// Whether answers are generated to its prompts.
    pub fn is_answered(&self) -> bool {
        self.metrics().iter().any(|m| m.family().is_of_answers())
    }

    /// What of an answer is compared; None where `extract` finds nothing in it.
    pub fn compared<'a>(&self, answer: &'a str) -> Option<&'a str> {
        match &self.extract {
            Some(extract) => extract.of(answer, self.extract_last.unwrap_or(false)),
            None => Some(answer),
        }
    }

    /// Whether `other` makes the same of an answer.
    pub fn reads_answers_as(&self, other: &Self) -> bool {
        let flags = |suite: &Self| (suite.stem.unwrap_or(false), suite.extract_last.unwrap_or(false));
        let texts = |suite: &Self| (suite.extract.clone(), suite.exact_match.clone());
        texts(self) == texts(other) && flags(self) == flags(other)
    }

    /// Whether a metric of this family is asked for.
    pub fn wants(&self, family: Family) -> bool {
        self.metrics().iter().any(|m| m.family() == family)
    }
}

fn set(keys: &[(&'static str, bool)]) -> Vec<&'static str> {
    keys.iter().filter(|(_, set)| *set).map(|(key, _)| *key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suite(toml: &str) -> Suite {
        toml::from_str(&format!("dataset = 'x'\n{toml}")).unwrap()
    }

    #[test]
    fn metrics_and_keys_tell_whether_a_suite_is_of_windows_or_of_rows() {
        for windows in ["", "metrics = ['loss']", "length = 8\nmetrics = ['top1_agreement']"] {
            assert!(matches!(suite(windows).unit(), Unit::Windows(_)), "{windows}");
        }
        for rows in ["metrics = ['loss', 'f1']", "limit = 3", "metrics = ['acc_norm']", "shots = 0\nmetrics = ['loss']"]
        {
            assert!(matches!(suite(rows).unit(), Unit::Rows(_)), "{rows}");
        }
    }

    #[test]
    fn keys_that_change_nothing_are_told() {
        let inert = |toml: &str| suite(toml).inert_keys().into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(inert("metrics = ['acc']\nmax_new_tokens = 4\nstop = ['.']"), ["max_new_tokens", "stop"]);
        assert_eq!(
            inert("metrics = ['f1']\ntop_p = 0.9\ntop_k = 5\nstem = true\nshots_split = 'train'"),
            ["top_p", "top_k", "stem", "shots_split"]
        );
        assert_eq!(inert("metrics = ['acc']\nrepetition_penalty = 1.2"), ["repetition_penalty"]);
        assert!(inert("metrics = ['f1']\nrepetition_penalty = 1.2").is_empty());
        assert!(inert("metrics = ['rouge1']\ntop_p = 0.9\ntemperature = 0.0\nstem = true\nshots = 0").is_empty());
        assert_eq!(inert("metrics = ['acc']\nextract = 'x'\nextract_last = true"), ["extract"]);
        assert_eq!(inert("metrics = ['f1']\nextract_last = true"), ["extract_last"]);
        assert!(inert("metrics = ['f1']\nextract = 'x'\nextract_last = true").is_empty());
        assert_eq!(inert("metrics = ['f1']\nexact_match = { ignore_case = true }"), ["exact_match"]);
        assert!(inert("metrics = ['exact_match']\nexact_match = { ignore_case = true }").is_empty());
        assert!(inert("windows = 3").is_empty());
        let stop = |quoted: &str| inert(&format!("metrics = ['f1']\nstop = [{quoted}, 'Question:']"));
        assert_eq!((stop("'\\n'"), stop("\"\\n\"")), (vec!["stop"], vec![]));
    }

    #[test]
    fn keys_that_are_not_set_do_not_show_in_how_answers_are_cached() {
        let written = |toml: &str| match suite(toml).unit() {
            Unit::Rows(unit) => serde_json::to_string(&unit.decoding).unwrap(),
            Unit::Windows(_) => unreachable!(),
        };
        let before = r#"{"max_new_tokens":9,"stop":null,"temperature":0.5,"top_p":0.9"#;
        let keys = "max_new_tokens = 9\ntemperature = 0.5\ntop_p = 0.9\n";
        assert_eq!(written(keys), format!("{before}}}"));
        let drawn = format!("{keys}top_k = 5\nrepetition_penalty = 1.5");
        assert_eq!(written(&drawn), format!(r#"{before},"top_k":5,"repetition_penalty":1.5}}"#));
    }

    #[test]
    fn what_is_compared_of_an_answer_is_what_extract_finds() {
        let [whole, first, last] =
            ["stem = false", "extract = '#([0-9]+)'", "extract = '#([0-9]+)'\nextract_last = true"]
                .map(|keys| suite(&format!("metrics = ['exact_match']\n{keys}")));
        let answer = "3 and #4, so #7.";
        assert_eq!([&whole, &first, &last].map(|suite| suite.compared(answer)), [Some(answer), Some("4"), Some("7")]);
        assert_eq!((whole.compared("none"), first.compared("none")), (Some("none"), None));
        let is_alike = |a: &Suite, b: &Suite| a.reads_answers_as(b);
        assert!(!is_alike(&whole, &suite("exact_match = {}")));
        assert!(is_alike(&whole, &suite("")) && !is_alike(&whole, &first) && !is_alike(&first, &last));
    }

    #[test]
    fn every_key_belongs_to_windows_or_rows_or_both() {
        let keys = serde_json::to_value(suite("")).unwrap();
        let all = suite(
            "windows = 1\nlength = 2\npacking = 'crop'\nlimit = 1\nshots = 0\nshots_split = 'a'\nchat = true\n\
             max_new_tokens = 1\nstop = []\ntemperature = 0.5\ntop_p = 0.5\ntop_k = 5\n\
             repetition_penalty = 1.2\nstem = true\nextract = 'x'\nextract_last = true\nexact_match = {}\n\
             judge = { endpoint = 'http://h', model = 'm' }",
        );
        // Left out where they are not set: `judge`, `extract`, `extract_last` and `exact_match`.
        assert_eq!(keys.as_object().unwrap().len() + 4, 3 + all.window_keys().len() + all.row_keys().len());
    }
}
