//! Studies side by side, as text, Markdown, CSV, LaTeX or JSON.

use ::csv::{Terminator, WriterBuilder};
use anyhow::Result;

use super::super::compare::{Compared, ComparedRow, SideBySide};
use super::super::sheets::side_by_side;
use super::{Format, latex, markdown, terminal};
use crate::fault::Fault;

/// The names of the columns of CSV. `delta` and what follows it are of the difference to the first study.
const COLUMNS: [&str; 14] = [
    "study",
    "suite",
    "setting",
    "metric",
    "value",
    "low",
    "high",
    "seeds",
    "delta",
    "delta_low",
    "delta_high",
    "p_value",
    "p_adjusted",
    "verdict",
];

pub fn compare(format: Format, studies: &SideBySide, columns: Option<usize>) -> Result<String> {
    let sheets = side_by_side(studies);
    let title = studies.studies.join(" beside ");
    match format {
        Format::Terminal => {
            Ok(title + "\n" + &sheets.iter().map(|sheet| terminal::section(sheet, columns)).collect::<String>())
        }
        Format::Markdown => Ok(sheets.iter().map(markdown::section).collect::<String>().trim_start().to_owned()),
        Format::Csv => csv(studies),
        Format::Json => Ok(serde_json::to_string_pretty(studies)? + "\n"),
        Format::Latex => {
            let suites = sheets.iter().filter(|sheet| sheet.id.starts_with("suite-"));
            Ok(latex::opening(&title) + &suites.map(latex::table).collect::<String>())
        }
        Format::Html => Err(Fault("studies side by side are written as .txt, .md, .csv, .tex or .json".into()).into()),
    }
}

fn csv(studies: &SideBySide) -> Result<String> {
    let mut writer = WriterBuilder::new().terminator(Terminator::CRLF).from_writer(vec![]);
    writer.write_record(COLUMNS)?;
    for suite in &studies.suites {
        for row in &suite.rows {
            for (i, study) in studies.studies.iter().enumerate() {
                if let Some(record) = record(study, suite, row, i) {
                    writer.write_record(record)?;
                }
            }
        }
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}

fn record(study: &str, suite: &Compared, row: &ComparedRow, i: usize) -> Option<[String; 14]> {
    let value = row.values[i].as_ref()?;
    let difference = row.differences[i].as_ref();
    let maybe = |x: Option<f64>| x.map_or(String::new(), |x| x.to_string());
    Some([
        study.to_owned(),
        suite.suite.clone(),
        row.setting.clone(),
        row.metric.clone(),
        value.value.to_string(),
        maybe(value.low),
        maybe(value.high),
        value.seeds.to_string(),
        maybe(difference.map(|d| d.delta)),
        maybe(difference.and_then(|d| d.low)),
        maybe(difference.and_then(|d| d.high)),
        maybe(difference.and_then(|d| d.p_value)),
        maybe(difference.and_then(|d| d.p_adjusted)),
        difference.map_or(String::new(), |d| d.verdict.name().to_owned()),
    ])
}
