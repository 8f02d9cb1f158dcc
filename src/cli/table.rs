//! Text tables.

use std::fmt;

use crate::results::Summary;

/// Columns of text, aligned left.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<S: Into<String>>(header: impl IntoIterator<Item = S>) -> Self {
        Self { rows: vec![header.into_iter().map(Into::into).collect()] }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| self.rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let line: Vec<String> = row.iter().zip(&widths).map(|(s, &w)| format!("{s:w$}")).collect();
            writeln!(f, "{}", line.join("  ").trim_end())?;
        }
        Ok(())
    }
}

/// The table of a study: for each suite a row a cell, dense first, each metric with its interval.
pub fn summaries(study: &str, summaries: &[Summary]) -> String {
    let mut text = String::new();
    for summary in summaries {
        let mut table = Table::new([&format!("{study} on {}", summary.suite)].into_iter().chain(&summary.metrics));
        for row in &summary.rows {
            let values = row.values.iter().map(|v| {
                let interval = v.interval.map(|(low, high)| format!(" [{}, {}]", number(low), number(high)));
                number(v.value) + &interval.unwrap_or_default()
            });
            table.row(std::iter::once(row.cell.clone()).chain(values));
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text += &table.to_string();
    }
    text
}

/// Four significant digits.
fn number(x: f64) -> String {
    if x == 0.0 {
        return "0".into();
    }
    let digits = (3 - x.abs().log10().floor() as i32).clamp(0, 6) as usize;
    format!("{x:.digits$}")
}

/// Bytes for people.
pub fn bytes(n: u64) -> String {
    match n as f64 {
        b if b < 1e3 => format!("{n} B"),
        b if b < 1e6 => format!("{:.1} kB", b / 1e3),
        b if b < 1e9 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.1} GB", b / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_four_significant_digits() {
        let shown: Vec<String> = [27.264991, 529.72, 1207.84, 0.410233, 123456.7, 0.0].map(number).to_vec();
        assert_eq!(shown, ["27.26", "529.7", "1208", "0.4102", "123457", "0"]);
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["a", "long"]);
        table.row(["bbb".into(), "c".into()]);
        assert_eq!(table.to_string(), "a    long\nbbb  c\n");
    }
}
