//! How a model's folder wants its answers generated, as transformers 5 reads it (generation/utils.py: `generate`,
//! `_get_logits_processor`), which lm-evaluation-harness leaves in force.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use serde_json::Value;

use super::json_file;

/// The settings of a folder.
#[derive(Debug, Clone, Default)]
pub struct GenerationConfig {
    /// The file that has them.
    file: String,
    settings: Value,
}

/// What is settled before the folder is asked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settled {
    /// Tokens are drawn, not the most likely taken.
    pub drawn: bool,
    /// How many of the most likely tokens are drawn from is said.
    pub top_k: bool,
    /// What repetition costs is said.
    pub repetition_penalty: bool,
}

/// A key, and whether a number changes nothing.
type Setting = (&'static str, fn(f64) -> bool);

/// Settings that calipr does not follow, and which of their values change nothing beside null and none.
const UNFOLLOWED: [Setting; 26] = [
    ("guidance_scale", is_one),
    ("sequence_bias", never),
    ("encoder_repetition_penalty", is_one),
    ("no_repeat_ngram_size", is_none),
    ("encoder_no_repeat_ngram_size", is_none),
    ("bad_words_ids", never),
    ("min_length", is_none),
    ("min_new_tokens", is_none),
    ("forced_bos_token_id", never),
    ("forced_eos_token_id", never),
    ("exponential_decay_length_penalty", never),
    ("suppress_tokens", never),
    ("begin_suppress_tokens", never),
    ("watermarking_config", never),
    ("num_beams", is_one),
    ("num_beam_groups", is_one),
    ("num_return_sequences", is_one),
    ("constraints", never),
    ("force_words_ids", never),
    ("diversity_penalty", is_none),
    ("penalty_alpha", is_none),
    ("dola_layers", never),
    ("assistant_early_exit", never),
    ("stop_strings", never),
    ("max_time", never),
    ("token_healing", never),
];

/// The same of those that matter only where tokens are drawn.
const UNFOLLOWED_DRAWING: [Setting; 5] = [
    ("min_p", is_none),
    ("top_h", never),
    ("typical_p", |p| p >= 1.0),
    ("epsilon_cutoff", is_none),
    ("eta_cutoff", is_none),
];

fn never(_: f64) -> bool {
    false
}

fn is_none(value: f64) -> bool {
    value <= 0.0
}

fn is_one(value: f64) -> bool {
    value == 1.0
}

impl GenerationConfig {
    /// Of `generation_config.json`; only where there is none, of `config.json`.
    pub fn of(dir: &Path) -> Result<Self> {
        for name in ["generation_config.json", "config.json"] {
            let path = dir.join(name);
            let Some(settings) = json_file::read(&path)? else { continue };
            ensure!(settings.is_object(), "{} is no JSON object", path.display());
            return Ok(Self { file: path.display().to_string(), settings });
        }
        Ok(Self::default())
    }

    /// The tokens that end a text: an id, or a list of them.
    pub fn end(&self) -> Vec<u32> {
        let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
        match &self.settings["eos_token_id"] {
            Value::Array(ids) => ids.iter().filter_map(id).collect(),
            value => id(value).into_iter().collect(),
        }
    }

    /// What the logits of tokens that are there already are divided by; 1 changes nothing.
    ///
    /// # Errors
    /// Where it is no number above 0; transformers wants one with a decimal point.
    pub fn repetition_penalty(&self) -> Result<f32> {
        match &self.settings["repetition_penalty"] {
            Value::Null => Ok(1.0),
            Value::Number(penalty) if penalty.as_f64() == Some(1.0) => Ok(1.0),
            Value::Number(penalty) if penalty.is_f64() && penalty.as_f64().is_some_and(|p| p > 0.0) => {
                Ok(penalty.as_f64().unwrap_or(1.0) as f32)
            }
            other => bail!(
                "{}: `repetition_penalty` is {other}; transformers takes a number with a decimal point above 0 there, \
                 such as 1.1; write one, or remove the key",
                self.file
            ),
        }
    }

    /// # Errors
    /// Where the folder asks for something that calipr does not do, and that changes what is answered beside what is
    /// `settled`.
    pub fn check(&self, settled: Settled) -> Result<()> {
        if !settled.repetition_penalty {
            self.repetition_penalty()?;
        }
        let drawing = UNFOLLOWED_DRAWING.iter().filter(|_| settled.drawn);
        for (key, changes_nothing) in UNFOLLOWED.iter().chain(drawing) {
            let value = &self.settings[*key];
            let neutral = match value {
                Value::Null | Value::Bool(false) => true,
                Value::Number(number) => number.as_f64().is_some_and(changes_nothing),
                // No token is suppressed.
                Value::Array(items) => items.is_empty() && key.ends_with("suppress_tokens"),
                _ => false,
            };
            ensure!(
                neutral,
                "{}: `{key}` is {}, which changes what a model answers in transformers and lm-evaluation-harness, and \
                 calipr does not do that; remove the key to have answers without it",
                self.file,
                shortened(value)
            );
        }
        let top_k = &self.settings["top_k"];
        if settled.drawn && !settled.top_k && top_k.as_u64().is_some_and(|k| k > 0) {
            tracing::warn!(
                "{}: `top_k` is {top_k}; the suite says how tokens are drawn, and without a `top_k` of its own it draws from \
                 all; give it `top_k = {top_k}` to draw as the folder says",
                self.file
            );
        }
        Ok(())
    }
}

/// A value's first characters.
fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const DRAWN: Settled = Settled { drawn: true, top_k: false, repetition_penalty: false };

    fn config(settings: Value) -> GenerationConfig {
        GenerationConfig { file: "generation_config.json".into(), settings }
    }

    #[test]
    fn what_changes_nothing_is_let_pass() {
        // The settings that published models come with, and transformers' defaults.
        let settings = json!({
            "bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0, "do_sample": true, "temperature": 0.7,
            "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05, "transformers_version": "5.0", "max_length": 4096,
            "min_length": 0, "num_beams": 1, "no_repeat_ngram_size": 0, "suppress_tokens": [], "guidance_scale": null,
            "penalty_alpha": 0.0, "early_stopping": false, "token_healing": false, "typical_p": 1.0, "epsilon_cutoff": 0.0,
            "encoder_repetition_penalty": 1, "use_cache": true,
        });
        config(settings).check(DRAWN).unwrap();
        GenerationConfig::default().check(DRAWN).unwrap();
    }

    #[test]
    fn what_changes_answers_is_named_with_its_value() {
        let settings = [
            (json!({"no_repeat_ngram_size": 3}), "`no_repeat_ngram_size` is 3"),
            (json!({"suppress_tokens": [5]}), "`suppress_tokens` is [5]"),
            (json!({"bad_words_ids": []}), "`bad_words_ids` is []"),
            (json!({"num_beams": 4}), "`num_beams` is 4"),
            (json!({"forced_eos_token_id": 0}), "`forced_eos_token_id` is 0"),
            (json!({"token_healing": true}), "`token_healing` is true"),
            (json!({"stop_strings": "x"}), "`stop_strings` is \"x\""),
            (json!({"repetition_penalty": 2}), "`repetition_penalty` is 2"),
            (json!({"repetition_penalty": -1.5}), "`repetition_penalty` is -1.5"),
        ];
        for (settings, said) in settings {
            let error = config(settings).check(Settled::default()).unwrap_err().to_string();
            assert!(error.starts_with("generation_config.json: ") && error.contains(said), "{error}");
        }
        let drawn = config(json!({"min_p": 0.1}));
        drawn.check(Settled::default()).unwrap();
        assert!(drawn.check(DRAWN).unwrap_err().to_string().contains("`min_p` is 0.1"));
    }

    #[test]
    fn what_a_suite_says_of_repetition_goes_before_what_the_folder_says() {
        let wrong = config(json!({"repetition_penalty": 2}));
        wrong.check(Settled { repetition_penalty: true, ..DRAWN }).unwrap();
        wrong.check(DRAWN).unwrap_err();
    }

    #[test]
    fn of_two_files_only_one_counts() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), r#"{"eos_token_id": 7, "repetition_penalty": 5.0}"#).unwrap();
        let read = || GenerationConfig::of(dir.path()).unwrap();
        assert_eq!((read().end(), read().repetition_penalty().unwrap()), (vec![7], 5.0));
        std::fs::write(dir.path().join("generation_config.json"), r#"{"repetition_penalty": 1.2}"#).unwrap();
        assert_eq!((read().end(), read().repetition_penalty().unwrap()), (vec![], 1.2));
    }
}
