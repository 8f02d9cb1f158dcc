//! All of a report, for programs.

use anyhow::Result;

use super::super::Report;

/// The report's fields as they are, with all their digits; what is no number (NaN) is null.
pub fn json(report: &Report) -> Result<String> {
    Ok(serde_json::to_string_pretty(report)? + "\n")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::super::sample;
    use super::*;

    #[test]
    fn numbers_have_all_their_digits() {
        let mut report = sample::report();
        let value = 0.1 + 0.2;
        report.suites[0].rows[0].values[0].value = value;
        let read: Value = serde_json::from_str(&json(&report).unwrap()).unwrap();
        assert_eq!(read["suites"][0]["rows"][0]["values"][0]["value"].as_f64(), Some(value));
        assert_eq!(read["failed"][0]["error"], "out of memory");
    }
}
