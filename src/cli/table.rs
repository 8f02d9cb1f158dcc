//! Text tables.

use std::collections::HashSet;

/// Columns of text, aligned left.
pub struct Table {
    rows: Vec<Vec<String>>,
}

/// What stands between two columns.
const GAP: &str = "  ";

impl Table {
    pub fn new<S: Into<String>>(header: impl IntoIterator<Item = S>) -> Self {
        Self { rows: vec![header.into_iter().map(Into::into).collect()] }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table in at most so many columns of text, if that can be: side by side, or as few columns at a time as fit beside
    /// the rows' names, or each row by itself. Nothing is cut.
    pub fn fitting(&self, columns: Option<usize>) -> String {
        let widths = self.widths();
        let whole: usize = widths.iter().map(|width| width + GAP.len()).sum();
        let most = match columns {
            Some(columns) if whole > columns + GAP.len() => columns,
            _ => return self.beside_names(&(0..widths.len()).collect::<Vec<_>>(), &widths),
        };
        let widest = widths.iter().skip(1).max().copied().unwrap_or(0);
        if self.has_names() && widths[0] + GAP.len() + widest <= most {
            self.in_parts(&widths, most)
        } else {
            self.by_row(most)
        }
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| self.rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
        (0..columns).map(width).collect()
    }

    /// Whether the first column tells the rows apart.
    fn has_names(&self) -> bool {
        let mut seen = HashSet::new();
        self.rows.iter().skip(1).all(|row| row.first().is_some_and(|name| !name.is_empty() && seen.insert(name)))
    }

    /// These columns, beside each other.
    fn beside_names(&self, columns: &[usize], widths: &[usize]) -> String {
        let mut text = String::new();
        for row in &self.rows {
            let cells = columns.iter().filter_map(|&c| Some((row.get(c)?, widths[c])));
            let pad = |(s, width): (&String, usize)| s.clone() + &" ".repeat(width - s.chars().count());
            text += cells.map(pad).collect::<Vec<_>>().join(GAP).trim_end();
            text.push('\n');
        }
        text
    }

    /// The names again and again, each time beside as many columns as fit.
    fn in_parts(&self, widths: &[usize], most: usize) -> String {
        let mut parts: Vec<Vec<usize>> = vec![];
        let mut left = 0;
        for (c, width) in widths.iter().enumerate().skip(1) {
            let needed = GAP.len() + width;
            match parts.last_mut().filter(|_| needed <= left) {
                Some(part) => part.push(c),
                None => {
                    parts.push(vec![0, c]);
                    left = most - widths[0];
                }
            }
            left -= needed.min(left);
        }
        parts.iter().map(|part| self.beside_names(part, widths)).collect::<Vec<_>>().join("\n")
    }

    /// Row by row: the name, then a line for each value; on two where one is too narrow.
    fn by_row(&self, most: usize) -> String {
        let Some((header, rows)) = self.rows.split_first() else { return String::new() };
        let title = wrapped(header.first().map_or("", String::as_str), most, "");
        let widest = header.iter().skip(1).map(|name| name.chars().count()).max().unwrap_or(0);
        let mut text = title;
        for row in rows {
            text += &match row.first().filter(|name| !name.is_empty()) {
                Some(name) => format!("\n{}", wrapped(name, most, "")),
                None => "\n".into(),
            };
            for (name, value) in header.iter().zip(row).skip(1) {
                let pad = " ".repeat(widest - name.chars().count());
                let fits = GAP.len() + widest + GAP.len() + value.chars().count() <= most;
                text += &match fits {
                    true => format!("{GAP}{name}{pad}{GAP}{value}").trim_end().to_owned() + "\n",
                    false => wrapped(name, most, GAP) + &wrapped(value, most, "    "),
                };
            }
        }
        text
    }
}

/// A text over as many lines of this width as it needs, between its words.
fn wrapped(text: &str, most: usize, indent: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is a line");
        if line.is_empty() {
            line.push_str(word);
        } else if indent.len() + line.chars().count() + 1 + word.chars().count() <= most {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines.iter().map(|line| format!("{indent}{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Table {
        let mut table = Table::new(["study on text", "loss", "perplexity"]);
        table.row(["dense", "2.739 [2.574, 2.900]", "15.47 [13.12, 18.17]"].map(String::from));
        table.row(["wanda-0.5", "3.313 [3.168, 3.451]", "27.46 [23.76, 31.53]"].map(String::from));
        table
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["a", "long"]);
        table.row(["bbb".into(), "c".into()]);
        assert_eq!(table.fitting(None), "a    long\nbbb  c\n");
        assert_eq!(table.fitting(Some(9)), table.fitting(None));
    }

    #[test]
    fn a_narrow_terminal_gets_all_of_it_a_few_columns_at_a_time() {
        let expected = "study on text  loss\n\
                        dense          2.739 [2.574, 2.900]\n\
                        wanda-0.5      3.313 [3.168, 3.451]\n\
                        \n\
                        study on text  perplexity\n\
                        dense          15.47 [13.12, 18.17]\n\
                        wanda-0.5      27.46 [23.76, 31.53]\n";
        assert_eq!(metrics().fitting(Some(40)), expected);
    }

    #[test]
    fn a_narrower_one_gets_row_by_row() {
        let expected =
            "study on text\n\ndense\n  loss\n    2.739 [2.574, 2.900]\n  perplexity\n    15.47 [13.12, 18.17]\n";
        let text = metrics().fitting(Some(33));
        assert!(text.starts_with(expected) && text.lines().all(|line| line.len() <= 33), "{text}");
        // Rows without names are not told apart by parts of them.
        let mut table = Table::new(["cell", "stage", "work"]);
        table.row(["dense", "windows of suite text", "-"].map(String::from));
        table.row(["", "score dense on text", "1.00 GFLOP"].map(String::from));
        let expected = "cell\n\ndense\n  stage  windows of suite text\n  work   -\n\n  stage  score dense on text\n  work   1.00 GFLOP\n";
        assert_eq!(table.fitting(Some(35)), expected);
    }

    #[test]
    fn no_width_loses_a_number() {
        for columns in 1..100 {
            let text = metrics().fitting(Some(columns));
            for word in ["2.739 [2.574, 2.900]", "27.46 [23.76, 31.53]", "wanda-0.5", "perplexity"] {
                let shown = text.split_whitespace().collect::<Vec<_>>().join(" ");
                assert!(shown.contains(word), "{columns}: {text}");
            }
        }
    }
}
