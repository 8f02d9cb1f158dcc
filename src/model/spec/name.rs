//! What tensors are called.

use serde::Serialize;

/// What a tensor, or a part of a model, is called in a Hugging Face folder and in a GGUF file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Name {
    pub hub: String,
    pub gguf: String,
}

impl Name {
    pub fn new(hub: impl Into<String>, gguf: impl Into<String>) -> Self {
        Self { hub: hub.into(), gguf: gguf.into() }
    }

    /// What it has under it: `model.layers`, `3` → `model.layers.3`.
    pub fn under(&self, inner: &Self) -> Self {
        let joined = |outer: &str, inner: &str| match outer.is_empty() {
            true => inner.to_owned(),
            false => format!("{outer}.{inner}"),
        };
        Self::new(joined(&self.hub, &inner.hub), joined(&self.gguf, &inner.gguf))
    }

    /// Its tensor of this kind, `weight` or `bias`.
    pub fn of(&self, kind: &str) -> Self {
        self.under(&Self::new(kind, kind))
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.hub)
    }
}
