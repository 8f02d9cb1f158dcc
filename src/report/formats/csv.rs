//! Every value of every setting, in one table for pandas, R or a spreadsheet.
//!
//! RFC 4180: commas, quotes where they are needed, a header; nothing where there is no value.

use ::csv::{Terminator, WriterBuilder};
use anyhow::Result;

use super::super::{PublishedRow, Report, SettingRow, SuiteReport};

/// The names of the columns. `delta` and what follows it are of the difference to dense; `published`, `within` and `where`
/// are of the first figure that the recipe has of the setting.
const COLUMNS: [&str; 23] = [
    "study",
    "setting",
    "method",
    "sparsity",
    "pattern",
    "calibration",
    "suite",
    "metric",
    "value",
    "low",
    "high",
    "spread",
    "seeds",
    "n",
    "delta",
    "delta_low",
    "delta_high",
    "p_value",
    "p_adjusted",
    "verdict",
    "published",
    "within",
    "where",
];

/// A row for each suite, setting and metric, with all digits.
pub fn csv(report: &Report) -> Result<String> {
    let mut writer = WriterBuilder::new().terminator(Terminator::CRLF).from_writer(vec![]);
    writer.write_record(COLUMNS)?;
    for suite in &report.suites {
        for row in &suite.rows {
            for metric in 0..suite.metrics.len() {
                writer.write_record(record(report, suite, row, metric))?;
            }
        }
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}

fn record(report: &Report, suite: &SuiteReport, row: &SettingRow, metric: usize) -> [String; 23] {
    let (setting, v) = (&row.setting, &row.values[metric]);
    let difference = v.to_dense.as_ref();
    let is_of = |f: &&PublishedRow| {
        [&f.setting, &f.suite, &f.metric] == [&setting.name, &suite.suite, &suite.metrics[metric].name]
    };
    let figure = report.published.iter().find(is_of);
    let within = figure.and_then(|figure| figure.found.as_ref()?.within);
    let maybe = |x: Option<f64>| x.map_or(String::new(), |x| x.to_string());
    [
        report.study.clone(),
        setting.name.clone(),
        setting.method.clone(),
        maybe(setting.sparsity),
        setting.pattern.clone(),
        setting.calibration.clone().unwrap_or_default(),
        suite.suite.clone(),
        suite.metrics[metric].name.clone(),
        v.value.to_string(),
        maybe(v.low),
        maybe(v.high),
        maybe(v.spread),
        v.seeds.to_string(),
        suite.samples.to_string(),
        maybe(difference.map(|d| d.delta)),
        maybe(difference.and_then(|d| d.low)),
        maybe(difference.and_then(|d| d.high)),
        maybe(difference.and_then(|d| d.p_value)),
        maybe(difference.and_then(|d| d.p_adjusted)),
        difference.map_or(String::new(), |d| d.verdict.name().into()),
        maybe(figure.map(|figure| figure.published)),
        within.map_or(String::new(), |within| within.to_string()),
        figure.map_or(String::new(), |figure| figure.place.clone()),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::super::sample;
    use super::*;

    #[test]
    fn what_is_written_reads_back_to_the_last_digit() {
        let mut report = sample::report();
        report.study = "a \"study\", of\ntwo lines".into();
        report.suites[1].rows[2].values[0].value = 0.1 + 0.2;
        let text = csv(&report).unwrap();
        let mut reader = ::csv::Reader::from_reader(text.as_bytes());
        assert_eq!(reader.headers().unwrap().iter().collect::<Vec<_>>(), COLUMNS);
        let rows: Vec<::csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        let mut rows = rows.iter();
        let number = |text: &str| if text.is_empty() { None } else { Some(text.parse::<f64>().unwrap()) };
        for suite in &report.suites {
            for (row, (value, metric)) in
                suite.rows.iter().flat_map(|row| row.values.iter().zip(&suite.metrics).map(move |v| (row, v)))
            {
                let read = rows.next().unwrap();
                let at = |column: &str| &read[COLUMNS.iter().position(|c| *c == column).unwrap()];
                assert_eq!(at("study"), report.study);
                assert_eq!([at("setting"), at("suite"), at("metric")], [&row.setting.name, &suite.suite, &metric.name]);
                assert_eq!(number(at("value")), Some(value.value));
                assert_eq!([number(at("low")), number(at("high"))], [value.low, value.high]);
                assert_eq!([number(at("spread")), number(at("n"))], [value.spread, Some(suite.samples as f64)]);
                let difference = value.to_dense.as_ref();
                assert_eq!(number(at("delta")), difference.map(|d| d.delta));
                assert_eq!(number(at("p_adjusted")), difference.and_then(|d| d.p_adjusted));
                assert_eq!(at("verdict"), difference.map_or("", |d| d.verdict.name()));
                let published = match [row.setting.name.as_str(), &metric.name] {
                    ["dense", "perplexity"] => ["16", "true", "A. Uthor 2024, table 3"],
                    ["wanda-0.5-prose", "f1"] => ["0.8", "false", "B. 2025"],
                    _ => [""; 3],
                };
                assert_eq!([at("published"), at("within"), at("where")], published);
            }
        }
        assert!(rows.next().is_none());
    }
}
