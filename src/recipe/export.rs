//! Which cells' models are written when a study is done.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::SeqAccessDeserializer;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Dtype;

/// What is exported when all cells are done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportSpec {
    /// Which cells' models: "best", by the metric that the report is about; "all"; or a list of cells or settings.
    #[serde(default)]
    pub cells: Exported,
    #[serde(default)]
    pub format: ModelFormat,
    /// The precision of the weights; by default that of the model's files, of quantised ones the model's `dtype`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<Dtype>,
}

/// What an exported model is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ModelFormat {
    /// A Hugging Face folder of safetensors.
    #[default]
    Hub,
    /// A GGUF file.
    Gguf,
}

/// Which cells are exported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Exported {
    #[default]
    Best,
    All,
    /// Cells, or settings, of which the first seed is meant.
    Named(Vec<String>),
}

impl Serialize for Exported {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Best => "best".serialize(serializer),
            Self::All => "all".serialize(serializer),
            Self::Named(names) => names.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Exported {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Cells;

        impl<'de> Visitor<'de> for Cells {
            type Value = Exported;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("\"best\", \"all\", or a list of cells such as [\"wanda-0.5-task-s0\"]")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Exported, E> {
                match name {
                    "best" => Ok(Exported::Best),
                    "all" => Ok(Exported::All),
                    other => Err(E::invalid_value(serde::de::Unexpected::Str(other), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, names: A) -> Result<Exported, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(names)).map(Exported::Named)
            }
        }

        deserializer.deserialize_any(Cells)
    }
}

impl JsonSchema for Exported {
    fn schema_name() -> Cow<'static, str> {
        "Exported".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "enum": ["best", "all"] }, { "type": "array", "items": { "type": "string" }, "minItems": 1 }] })
    }
}
