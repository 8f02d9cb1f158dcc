//! Texts as numbers: Python's `int` and `float`, and the filters of these names (jinja2: filters.py, `do_int`, `do_float`).

use std::sync::LazyLock;

use anyhow::{Context, Result, bail};
use regex::Regex;

use super::value::Value;
use super::{Given, format, methods};

/// The filters `int` and `float`.
pub fn filter(name: &str, value: Value, given: Given) -> Result<Value> {
    value.defined()?;
    if name == "float" {
        let [default] = given.named(name, ["default"])?;
        let number = match &value {
            Value::Text(text) => float(text),
            other => other.as_float(),
        };
        return Ok(number.map(Value::Float).or(default).unwrap_or(Value::Float(0.0)));
    }
    let [default, base] = given.named(name, ["default", "base"])?;
    let number = match &value {
        Value::Text(text) => {
            let base = base.map_or(Some(10), |base| base.as_int()).and_then(|base| u32::try_from(base).ok());
            match base.map_or(Ok(None), |base| int(text, base))? {
                Some(number) => Some(number),
                // "42.23" is 42.
                None => float(text).filter(|number| number.is_finite()).map(format::truncated).transpose()?,
            }
        }
        Value::Float(number) if number.is_infinite() => bail!("cannot convert float infinity to integer"),
        Value::Float(number) if number.is_finite() => Some(format::truncated(*number)?),
        other => other.as_int(),
    };
    Ok(number.map(Value::Int).or(default).unwrap_or(Value::Int(0)))
}

/// `int(text, base)`; None where Python raises ValueError.
fn int(text: &str, base: u32) -> Result<Option<i128>> {
    let text = plain(text);
    let (negative, digits) = match text.strip_prefix(['+', '-']) {
        Some(digits) => (text.starts_with('-'), digits),
        None => (false, text.as_str()),
    };
    let lower = digits.to_ascii_lowercase();
    let prefix = [("0x", 16), ("0o", 8), ("0b", 2)]
        .into_iter()
        .find(|(prefix, of)| lower.starts_with(prefix) && (base == 0 || base == *of));
    let (digits, base) = match prefix {
        // An underscore may follow.
        Some((_, of)) => (lower[2..].strip_prefix('_').unwrap_or(&lower[2..]), of),
        None if base == 0 && lower.starts_with('0') && lower.contains(|c| c != '0' && c != '_') => return Ok(None),
        None => (lower.as_str(), if base == 0 { 10 } else { base }),
    };
    let is_one = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_digit(base));
    if !(2..=36).contains(&base) || !digits.split('_').all(is_one) {
        return Ok(None);
    }
    let number = i128::from_str_radix(&digits.replace('_', ""), base).ok();
    let number = number.with_context(|| format!("the number {text} is too large"))?;
    Ok(Some(if negative { -number } else { number }))
}

/// `float(text)`; None where Python raises ValueError.
fn float(text: &str) -> Option<f64> {
    let text = plain(text);
    let between_digits = |(at, _): (usize, &str)| {
        let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
        digit(text[..at].chars().next_back()) && digit(text[at + 1..].chars().next())
    };
    // Rust reads what Python reads, but for these.
    if text.match_indices('_').all(between_digits) { text.replace('_', "").parse().ok() } else { None }
}

/// A text with ASCII's digits for those of other scripts, and no space around it. In a text of ASCII, Python takes fewer
/// characters for spaces.
fn plain(text: &str) -> String {
    if text.is_ascii() {
        return text.trim_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']).to_owned();
    }
    text.trim_matches(methods::is_space).chars().map(|c| digit(c).unwrap_or(c)).collect()
}

/// Digits of a script stand in a row from 0 to 9.
fn digit(c: char) -> Option<char> {
    static DECIMAL: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\p{Nd}$").expect("a valid expression"));
    let is_decimal = |c: char| DECIMAL.is_match(c.encode_utf8(&mut [0; 4]));
    if c.is_ascii() || !is_decimal(c) {
        return None;
    }
    let before = (1..).take_while(|back| char::from_u32(c as u32 - back).is_some_and(is_decimal)).count();
    char::from_digit(before as u32 % 10, 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_whole_numbers_as_python_reads_them() {
        let read = [
            ("0x1f", 16, Some(31)),
            ("-0X1f", 16, Some(-31)),
            ("1f", 16, Some(31)),
            ("0x_1f", 16, Some(31)),
            ("0x", 16, None),
            ("0x1f", 10, None),
            ("0b11", 0, Some(3)),
            ("0o17", 8, Some(15)),
            ("017", 10, Some(17)),
            ("017", 0, None),
            ("0_0", 0, Some(0)),
            ("1_000", 10, Some(1000)),
            ("1__0", 10, None),
            ("_1", 10, None),
            ("z", 36, Some(35)),
            ("12", 37, None),
            ("+ 1", 10, None),
            (" 12 ", 10, Some(12)),
            ("\x1c12", 10, None),
            ("\u{a0}12", 10, Some(12)),
            ("1٣", 10, Some(13)),
            ("１２", 10, Some(12)),
            ("𝟠", 10, Some(8)),
            ("−1", 10, None),
            ("", 10, None),
        ];
        for (text, base, number) in read {
            assert_eq!(int(text, base).unwrap(), number, "{text} {base}");
        }
    }

    #[test]
    fn texts_are_numbers_with_a_point_as_python_reads_them() {
        let read =
            [("٣.٥", 3.5), ("1_0.5", 10.5), (".5", 0.5), ("5.", 5.0), ("١e٢", 100.0), ("-Infinity", f64::NEG_INFINITY)];
        for (text, number) in read {
            assert_eq!(float(text), Some(number), "{text}");
        }
        assert!(float("nan").unwrap().is_nan() && float("inf") == Some(f64::INFINITY));
        assert!(["e5", "infinit", "1_", "infinity_", "1_.5", "0x1", "", "."].iter().all(|text| float(text).is_none()));
    }
}
