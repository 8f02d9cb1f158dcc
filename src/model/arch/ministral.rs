//! Ministral: Mistral under a name of its own.

use super::{Architecture, mistral};

pub const ARCHITECTURE: Architecture = Architecture { name: "ministral", gguf: None, spec: mistral::spec };
