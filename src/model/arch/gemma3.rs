//! The language model in a Gemma 3 that sees pictures too.

use anyhow::{Result, bail};
use serde_json::Value;

use super::keys::Keys;
use super::{Architecture, TokenizerClass, gemma3_text};
use crate::model::spec::Spec;

pub const ARCHITECTURE: Architecture = Architecture {
    name: "gemma3",
    class: "Gemma3ForConditionalGeneration",
    models: "the text part of Gemma 3 with pictures",
    gguf: None,
    tokenizer: TokenizerClass::Usually("GemmaTokenizer"),
    spec,
};

fn spec(keys: &Keys) -> Result<Spec> {
    let Some(Value::Object(text)) = keys.get("text_config") else {
        bail!("`text_config`, which says what the language model is, is not there")
    };
    let mut text = text.clone();
    text.insert("model_type".into(), "gemma3".into());
    // What is said of the whole.
    for key in ["quantization_config", "tie_word_embeddings"] {
        if let Some(value) = keys.get(key) {
            text.entry(key).or_insert_with(|| value.clone());
        }
    }
    let mut model = gemma3_text::spec(&Keys { of: &text, prefix: "text_config.", aliases: &[], gguf: None })?;
    model.remarks.push("pictures are not seen: the language model is taken by itself".into());
    Ok(model)
}
