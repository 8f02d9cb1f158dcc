//! Sizes as people write them: `50 GB`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const UNITS: [(&str, f64); 9] = [
    ("tib", (1u64 << 40) as f64),
    ("gib", (1u64 << 30) as f64),
    ("mib", (1u64 << 20) as f64),
    ("kib", 1024.0),
    ("tb", 1e12),
    ("gb", 1e9),
    ("mb", 1e6),
    ("kb", 1e3),
    ("b", 1.0),
];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.trim().to_lowercase();
        let unit = UNITS.iter().find_map(|(unit, bytes)| Some((lower.strip_suffix(unit)?, *bytes)));
        let (number, bytes) = unit.unwrap_or((&lower, 1.0));
        match number.trim().parse::<f64>() {
            Ok(number) if number >= 0.0 && number * bytes < 1e18 => Ok(Self((number * bytes) as u64)),
            _ => Err(format!("\"{text}\" is no size; expected one such as \"50 GB\", \"500 MB\" or \"2 TiB\"")),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0 as f64 {
            b if b < 1e3 => write!(f, "{} B", self.0),
            b if b < 1e6 => write!(f, "{:.1} kB", b / 1e3),
            b if b < 1e9 => write!(f, "{:.1} MB", b / 1e6),
            b => write!(f, "{:.1} GB", b / 1e9),
        }
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a size such as \"50 GB\", or a number of bytes")]
        enum Written {
            Bytes(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Bytes(bytes) => Ok(Self(bytes)),
            Written::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "description": "A size such as \"50 GB\", or a number of bytes.", "type": ["string", "integer"] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_are_written() {
        for (text, bytes) in [("50 GB", 50_000_000_000), ("1.5kb", 1500), ("2 GiB", 1 << 31), ("7", 7), (" 3 B ", 3)] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "GB", "-1 GB", "50 G", "1e99 TB", "NaN"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        assert_eq!(
            [999, 1500, 2_000_000, 50_000_000_000].map(|b| Size(b).to_string()),
            ["999 B", "1.5 kB", "2.0 MB", "50.0 GB"]
        );
    }
}
