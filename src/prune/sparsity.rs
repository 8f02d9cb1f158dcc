//! How many weights go, and in which pattern.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// What fraction of a weight matrix becomes zero, and where zeros may lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sparsity {
    /// Unstructured: this fraction of the weights, in (0, 1).
    Ratio(f64),
    /// N:M, as in 2:4: of every `m` consecutive inputs, `n` keep their weight.
    NOfM { n: usize, m: usize },
}

const EXPECTED: &str = "a ratio between 0 and 1 such as 0.5, or a pattern \"N:M\" with N < M such as \"2:4\"";

impl Sparsity {
    /// The fraction of weights that is asked to be zero.
    pub fn ratio(self) -> f64 {
        match self {
            Self::Ratio(ratio) => ratio,
            Self::NOfM { n, m } => 1.0 - n as f64 / m as f64,
        }
    }

    /// `unstructured`, or the pattern as `N:M`.
    pub fn pattern(self) -> String {
        match self {
            Self::Ratio(_) => "unstructured".into(),
            Self::NOfM { .. } => self.to_string(),
        }
    }
}

/// As a recipe spells it: `0.5` or `2:4`.
impl fmt::Display for Sparsity {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Ratio(ratio) => write!(f, "{ratio}"),
            Self::NOfM { n, m } => write!(f, "{n}:{m}"),
        }
    }
}

impl FromStr for Sparsity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("\"{text}\" is no sparsity; expected {EXPECTED}");
        let (n, m) = text.split_once(':').ok_or_else(bad)?;
        let (n, m) = (n.trim().parse().map_err(|_| bad())?, m.trim().parse().map_err(|_| bad())?);
        if n == 0 || n >= m {
            return Err(bad());
        }
        Ok(Self::NOfM { n, m })
    }
}

impl TryFrom<f64> for Sparsity {
    type Error = String;

    fn try_from(ratio: f64) -> Result<Self, String> {
        if ratio > 0.0 && ratio < 1.0 {
            Ok(Self::Ratio(ratio))
        } else {
            let percent = if (2.0..100.0).contains(&ratio) {
                format!("; for {ratio}% write {}", ratio / 100.0)
            } else {
                String::new()
            };
            Err(format!("{ratio} is no sparsity; expected {EXPECTED}{percent}"))
        }
    }
}

impl Serialize for Sparsity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Ratio(ratio) => serializer.serialize_f64(*ratio),
            Self::NOfM { .. } => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Sparsity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Sparsity;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str(EXPECTED)
            }
            fn visit_f64<E: de::Error>(self, v: f64) -> Result<Sparsity, E> {
                Sparsity::try_from(v).map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Sparsity, E> {
                self.visit_f64(v as f64)
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Sparsity, E> {
                self.visit_f64(v as f64)
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Sparsity, E> {
                v.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for Sparsity {
    fn schema_name() -> Cow<'static, str> {
        "Sparsity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The fraction of weights to remove (unstructured), or \"N:M\": keep N of every M.",
            "anyOf": [
                { "type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1 },
                { "type": "string", "pattern": "^[1-9][0-9]*:[1-9][0-9]*$" }
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_and_patterns_are_read_as_recipes_spell_them() {
        let read = |json: &str| serde_json::from_str::<Sparsity>(json);
        assert_eq!(read("0.5").unwrap(), Sparsity::Ratio(0.5));
        assert_eq!(read("\"2:4\"").unwrap(), Sparsity::NOfM { n: 2, m: 4 });
        for wrong in ["0", "1", "1.5", "-0.1", "\"4:2\"", "\"4:4\"", "\"0:4\"", "\"half\"", "\"0.5\"", "true"] {
            let message = read(wrong).unwrap_err().to_string();
            assert!(message.contains("between 0 and 1"), "{wrong}: {message}");
        }
    }

    #[test]
    fn one_of_four_kept_is_three_quarters_gone() {
        assert_eq!(Sparsity::NOfM { n: 1, m: 4 }.ratio(), 0.75);
    }
}
