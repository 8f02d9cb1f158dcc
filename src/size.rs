//! Sizes as people write them: `50 GB`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Size(pub u64);

/// Prefixes of bytes, by powers of 1000, or of 1024 with an i.
const PREFIXES: [&str; 6] = ["", "k", "m", "g", "t", "p"];

/// What no disk holds.
const MOST: f64 = 1e18;

const EXPECTED: &str = "expected one such as \"50 GB\", \"500 MB\" or \"2 TiB\"";

/// What a unit stands for, in bytes: `GB`, `G`, `gb` and `Gigabytes` are all 10⁹, `GiB` and `Gi` 2³⁰.
fn unit(text: &str) -> Option<f64> {
    let lower = text.to_lowercase();
    if matches!(lower.as_str(), "b" | "byte" | "bytes") {
        return Some(1.0);
    }
    const LONG: [&str; 6] = ["", "kilo", "mega", "giga", "tera", "peta"];
    (1..PREFIXES.len()).find_map(|power| {
        let (short, long) = (PREFIXES[power], LONG[power]);
        let decimal = [short.to_owned(), format!("{short}b"), format!("{long}byte"), format!("{long}bytes")];
        let binary = [format!("{short}i"), format!("{short}ib")];
        let bytes = |base: f64| base.powi(power as i32);
        let by = |names: &[String], base| names.contains(&lower).then(|| bytes(base));
        by(&decimal, 1000.0).or_else(|| by(&binary, 1024.0))
    })
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let trimmed = text.trim();
        // A number may end in an exponent, which is no unit: "1e9".
        let end = trimmed.trim_end_matches(|c: char| c.is_alphabetic()).len();
        let (number, written) = (trimmed[..end].trim_end(), &trimmed[end..]);
        if written.is_empty() && trimmed.parse::<f64>().is_ok_and(f64::is_finite) {
            return Err(format!("\"{text}\" has no unit; {EXPECTED}"));
        }
        let number = number.parse::<f64>().ok().filter(|number| !number.is_nan());
        let (Some(number), Some(unit)) = (number, unit(written)) else {
            return Err(format!("\"{text}\" is no size; {EXPECTED}"));
        };
        match number * unit {
            bytes if !(0.0..).contains(&bytes) => Err(format!("\"{text}\" is less than nothing; {EXPECTED}")),
            bytes if bytes >= MOST => Err(format!("\"{text}\" is more than any disk holds; {EXPECTED}")),
            bytes => Ok(Self(bytes as u64)),
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
    /// To the byte, in the largest unit that it is a whole number of.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
        let (mut number, mut power) = (self.0, 0);
        while number > 0 && number % 1000 == 0 && power + 1 < UNITS.len() {
            (number, power) = (number / 1000, power + 1);
        }
        serializer.collect_str(&format_args!("{number} {}", UNITS[power]))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;

        impl de::Visitor<'_> for Written {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a size with its unit, such as \"50 GB\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_are_written() {
        for (text, bytes) in [
            ("50 GB", 50_000_000_000),
            ("50GB", 50_000_000_000),
            ("50 gb", 50_000_000_000),
            ("50 G", 50_000_000_000),
            ("50g", 50_000_000_000),
            ("1.5kb", 1500),
            ("2 GiB", 1 << 31),
            ("2gib", 1 << 31),
            ("2 Gi", 1 << 31),
            ("1 PiB", 1 << 50),
            (" 3 B ", 3),
            ("3 bytes", 3),
            ("1e3 MB", 1_000_000_000),
            ("2 gigabytes", 2_000_000_000),
            ("0 B", 0),
            (".5 TB", 500_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for (text, says) in [
            ("5", "has no unit"),
            ("0", "has no unit"),
            ("1e9", "has no unit"),
            ("-5", "has no unit"),
            ("", "no size"),
            ("GB", "no size"),
            ("much", "no size"),
            ("NaN", "no size"),
            ("inf", "no size"),
            ("50 GBs", "no size"),
            ("50 GB/s", "no size"),
            ("5,0 GB", "no size"),
            ("50 000 MB", "no size"),
            ("0x10 GB", "no size"),
            ("-1 GB", "less than nothing"),
            ("NaN GB", "no size"),
            ("1e99 TB", "more than any disk"),
            ("1e400 B", "more than any disk"),
        ] {
            let error = text.parse::<Size>().unwrap_err();
            assert!(error.contains(says) && error.contains("\"50 GB\""), "{error}");
        }
        assert_eq!(
            [999, 1500, 2_000_000, 50_000_000_000].map(|b| Size(b).to_string()),
            ["999 B", "1.5 kB", "2.0 MB", "50.0 GB"]
        );
    }

    #[test]
    fn a_size_is_written_to_the_byte_and_read_back() {
        assert_eq!(serde_json::to_value(Size(50_000_000_000)).unwrap(), "50 GB");
        for size in [Size(0), Size(50_000_000_001), Size(999_999_999_999_999)] {
            let text = serde_json::to_string(&size).unwrap();
            assert_eq!(serde_json::from_str::<Size>(&text).unwrap(), size);
        }
        for number in ["5", "5.0", "-5", "null", "[]"] {
            let error = serde_json::from_str::<Size>(number).unwrap_err().to_string();
            assert!(error.contains("a size with its unit"), "{error}");
        }
    }
}
