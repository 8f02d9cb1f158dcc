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
    // What is said of the whole: whether the head is the embedding transformers asks nobody else.
    if let Some(value) = keys.get("quantization_config") {
        text.entry("quantization_config").or_insert_with(|| value.clone());
    }
    text.insert("tie_word_embeddings".into(), keys.get("tie_word_embeddings").cloned().unwrap_or(Value::Bool(true)));
    let mut model = gemma3_text::spec(&Keys { of: &text, prefix: "text_config.", aliases: &[], gguf: None })?;
    // transformers' code of this class does not look at `final_logit_softcapping`.
    model.head.cap = None;
    model.remarks.push("pictures are not seen: the language model is taken by itself".into());
    Ok(model)
}
