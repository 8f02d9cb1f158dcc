//! Text tables.

use std::collections::HashSet;

/// Columns of text.
pub struct Table {
    rows: Vec<Vec<String>>,
    /// The columns that stand to the right.
    right: HashSet<usize>,
}

/// What stands between two columns.
const GAP: &str = "  ";

impl Table {
    pub fn new<S: Into<String>>(header: impl IntoIterator<Item = S>) -> Self {
        Self { rows: vec![header.into_iter().map(Into::into).collect()], right: HashSet::new() }
    }

    /// Aligns these columns to the right.
    pub fn right(mut self, columns: impl IntoIterator<Item = usize>) -> Self {
        self.right.extend(columns);
        self
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Leaves a line before the next row.
    pub fn space(&mut self) {
        self.rows.push(vec![]);
    }

    /// The table in at most so many columns of text, if that can be: side by side, or as many of its columns at a time as
    /// fit beside the rows' names, or each row by itself. Nothing is cut.
    pub fn fitting(&self, columns: Option<usize>) -> String {
        let widths = self.widths();
        let most = match columns {
            Some(columns) if total(&widths) > columns => columns,
            _ => return self.beside_names(&(0..widths.len()).collect::<Vec<_>>(), &widths),
        };
        match self.names() {
            Some(names) if total(&widths[..names]) + GAP.len() + widest(&widths[names..]) <= most => {
                self.in_parts(names, &widths, most)
            }
            _ => self.by_row(most),
        }
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| self.rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
        (0..columns).map(width).collect()
    }

    /// How many of the first columns tell the rows apart.
    fn names(&self) -> Option<usize> {
        let rows: Vec<&Vec<String>> = self.rows.iter().skip(1).filter(|row| !row.is_empty()).collect();
        let is_named = rows.iter().all(|row| !row[0].is_empty());
        let tell_apart = |count: &usize| {
            let mut seen = HashSet::new();
            rows.iter().all(|row| seen.insert(row.iter().take(*count).collect::<Vec<_>>()))
        };
        (1..self.rows[0].len()).find(tell_apart).filter(|_| is_named)
    }

    /// These columns, beside each other.
    fn beside_names(&self, columns: &[usize], widths: &[usize]) -> String {
        let mut text = String::new();
        let pad = |c: usize, cell: &str| {
            let space = " ".repeat(widths[c] - cell.chars().count());
            if self.right.contains(&c) { space + cell } else { cell.to_owned() + &space }
        };
        for row in &self.rows {
            let cells = columns.iter().filter_map(|&c| Some(pad(c, row.get(c)?)));
            text += cells.collect::<Vec<_>>().join(GAP).trim_end();
            text.push('\n');
        }
        text
    }

    /// The names again and again, each time beside as many columns as fit.
    fn in_parts(&self, names: usize, widths: &[usize], most: usize) -> String {
        let names: Vec<usize> = (0..names).collect();
        let mut parts: Vec<Vec<usize>> = vec![];
        let mut left = 0;
        for (c, width) in widths.iter().enumerate().skip(names.len()) {
            let needed = GAP.len() + width;
            match parts.last_mut().filter(|_| needed <= left) {
                Some(part) => part.push(c),
                None => {
                    parts.push(names.iter().copied().chain([c]).collect());
                    left = most - total(&widths[..names.len()]);
                }
            }
            left -= needed.min(left);
        }
        parts.iter().map(|part| self.beside_names(part, widths)).collect::<Vec<_>>().join("\n")
    }

    /// Row by row: the name, then a line for each value; on two where one is too narrow.
    fn by_row(&self, most: usize) -> String {
        let Some((header, rows)) = self.rows.split_first() else { return String::new() };
        let title = wrapped(header.first().map_or("", String::as_str), most, "", "");
        let widest = header.iter().skip(1).map(|name| name.chars().count()).max().unwrap_or(0);
        let mut text = title;
        for row in rows.iter().filter(|row| !row.is_empty()) {
            text += &match row.first().filter(|name| !name.is_empty()) {
                Some(name) => format!("\n{}", wrapped(name, most, "", "")),
                None => "\n".into(),
            };
            for (name, value) in header.iter().zip(row).skip(1) {
                // What aligns a value's parts in its column aligns nothing here.
                let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
                let pad = " ".repeat(widest - name.chars().count());
                let fits = GAP.len() + widest + GAP.len() + value.chars().count() <= most;
                text += &match fits {
                    true => format!("{GAP}{name}{pad}{GAP}{value}").trim_end().to_owned() + "\n",
                    false => wrapped(name, most, GAP, GAP) + &wrapped(&value, most, "    ", "    "),
                };
            }
        }
        text
    }
}

/// The width of columns beside each other.
fn total(widths: &[usize]) -> usize {
    widths.iter().sum::<usize>() + GAP.len() * widths.len().saturating_sub(1)
}

fn widest(widths: &[usize]) -> usize {
    widths.iter().max().copied().unwrap_or(0)
}

/// A text over as many lines of this width as it needs, between its words. `first` stands before it, `rest` before the
/// lines that follow.
pub fn wrapped(text: &str, most: usize, first: &str, rest: &str) -> String {
    let (mut out, mut line) = (String::new(), first.to_owned());
    // Whether a space stands before the next word, and whether anything would be on the line that it ends.
    let (mut gap, mut is_bare) = ("", first.trim().is_empty());
    for word in text.split_whitespace() {
        if !is_bare && line.chars().count() + gap.len() + word.chars().count() > most {
            out += &format!("{}\n", line.trim_end());
            (line, gap) = (rest.to_owned(), "");
        }
        line = line + gap + word;
        (gap, is_bare) = (" ", false);
    }
    out + line.trim_end() + "\n"
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
    fn numbers_stand_to_the_right() {
        let mut table = Table::new(["cell", "time"]).right([1]);
        table.row(["a".into(), "1 s".into()]);
        table.row(["b".into(), "100 s".into()]);
        table.space();
        table.row(["c".into(), "10 s".into()]);
        assert_eq!(table.fitting(None), "cell   time\na       1 s\nb     100 s\n\nc      10 s\n");
    }

    #[test]
    fn rows_may_be_named_by_several_columns() {
        let mut table = Table::new(["one", "other", "difference", "verdict"]);
        table.row(["a", "b", "0.25", "better"].map(String::from));
        table.row(["a", "c", "0.50", "worse"].map(String::from));
        let expected = "one  other  difference\na    b      0.25\na    c      0.50\n\n\
                        one  other  verdict\na    b      better\na    c      worse\n";
        assert_eq!(table.fitting(Some(25)), expected);
    }

    #[test]
    fn sentences_wrap_between_words() {
        let text = wrapped(&"word ".repeat(50), 100, "- ", "  ");
        assert!(text.lines().count() == 3 && text.lines().all(|l| l.chars().count() <= 100), "{text}");
        assert_eq!(text.split_whitespace().count(), 51);
        assert_eq!(wrapped("", 10, "a: ", "  "), "a:\n");
        assert_eq!(wrapped("word", 10, "prefix of it: ", "  "), "prefix of it:\n  word\n");
        assert_eq!(wrapped("too-long-a-word b", 10, "", "  "), "too-long-a-word\n  b\n");
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
