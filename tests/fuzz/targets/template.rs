//! The template of a data set, over a row.
#![no_main]

use calipr::internals::{Content, Templates};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Ok(templates) = toml::from_str::<Templates>(text) else { return };
    let row = serde_json::json!({"text": "some words", "choices": ["a", "b"], "answer": 1, "deep": {"list": [1, 2]}});
    if templates.check().is_ok() {
        let _ = Content::of(row.as_object().unwrap(), Some(&templates));
    }
});
