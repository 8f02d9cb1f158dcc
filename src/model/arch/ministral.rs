//! Ministral: Mistral under a name of its own.

use super::{Architecture, TokenizerClass, mistral};

pub const ARCHITECTURE: Architecture = Architecture {
    name: "ministral",
    class: "MinistralForCausalLM",
    models: "Ministral",
    gguf: None,
    tokenizer: TokenizerClass::AsItIs,
    spec: mistral::spec,
};
