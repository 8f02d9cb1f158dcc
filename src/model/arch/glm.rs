//! GLM-4 9B as transformers first had it: GLM-4 0414 without norms behind attention and feed-forward.

use anyhow::Result;

use super::keys::Keys;
use super::{Architecture, TokenizerClass, glm4};
use crate::model::spec::{Norms, Spec};

pub const ARCHITECTURE: Architecture = Architecture {
    name: "glm",
    class: "GlmForCausalLM",
    models: "GLM-4",
    gguf: None,
    tokenizer: TokenizerClass::AsItIs,
    spec,
};

fn spec(keys: &Keys) -> Result<Spec> {
    glm4::of_norms(keys, |_| Ok(Norms::default()))
}
