//! A report laid out as tables of text: what the terminal, Markdown, LaTeX and the page all show.

mod blocks;
mod cells;
mod compare;
mod contrasts;
mod decision;
mod masks;
mod predictors;
mod published;
mod suites;

pub use compare::sheets as side_by_side;
use serde::Serialize;

use super::excerpt::Excerpt;
use super::text::{interval, p_value, signed, within};
use super::{Difference, MetricColumn, Report, Setting};

/// A table of a report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sheet {
    /// Of a link to it: `decision`, `suite-qasc`, `contrasts-method`.
    pub id: String,
    pub title: String,
    /// What has to be known to read it, a sentence each.
    pub notes: Vec<String>,
    pub columns: Vec<Column>,
    /// Each has an entry for each column.
    pub rows: Vec<Row>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Column {
    pub name: String,
    /// Numbers stand to the right.
    pub is_number: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub entries: Vec<Entry>,
    /// To be set off from the others: the best of its sparsity.
    pub is_best: bool,
    /// To be set off a little from the row before, as another sparsity begins.
    pub is_first: bool,
}

/// One place of a table.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Entry {
    /// The value, in as many digits as its interval carries; or a text.
    pub text: String,
    /// Its interval, `[low, high]`; empty where it has none.
    pub interval: String,
    /// Said of the value in one character, which a note explains; empty mostly.
    pub mark: &'static str,
    /// To be set off from its column: the best value of its sparsity.
    pub is_best: bool,
    /// All digits, for formats that are read by programs.
    pub value: Option<f64>,
    pub low: Option<f64>,
    pub high: Option<f64>,
}

/// The tables of a report, in the order in which a reader wants them; none of them empty. Of a large study they show a part,
/// and say so.
pub fn sheets(report: &Report) -> Vec<Sheet> {
    let Some(excerpt) = report.excerpt() else { return of(report) };
    excerpt_sheets(&excerpt)
}

/// The tables of what is shown of a large study.
pub fn excerpt_sheets(excerpt: &Excerpt) -> Vec<Sheet> {
    let mut all = of(&excerpt.tables);
    for sheet in &mut all {
        sheet.notes.extend(excerpt.note(&sheet.id));
    }
    all
}

fn of(report: &Report) -> Vec<Sheet> {
    let mut all: Vec<Sheet> = report.decision.iter().map(decision::sheet).collect();
    all.push(published::sheet(&report.published));
    all.push(facts(report));
    all.extend(report.suites.iter().map(suites::sheet));
    all.extend(contrasts::sheets(&report.contrasts));
    all.extend(predictors::sheets(&report.predictors));
    all.extend(blocks::sheets(&report.blocks, report.error_suite.as_deref()));
    all.extend(masks::sheets(&report.masks));
    all.extend(report.suites.iter().map(|suite| cells::sheet(suite, &report.cell_rows)));
    all.push(failed(report));
    all.retain(|sheet| !sheet.rows.is_empty());
    all
}

/// What was run.
fn facts(report: &Report) -> Sheet {
    let mut sheet = Sheet::new("facts", "What was run", vec![Column::text("what"), Column::text("value")]);
    for fact in &report.facts {
        sheet.row([Entry::text(&fact.name), Entry::text(&fact.value)]);
    }
    sheet
}

fn failed(report: &Report) -> Sheet {
    let mut sheet = Sheet::new("failed", "Cells that failed", vec![Column::text("cell"), Column::text("error")]);
    for cell in &report.failed {
        sheet.row([Entry::text(&cell.cell), Entry::text(&cell.error)]);
    }
    sheet
}

impl Sheet {
    fn new(id: &str, title: &str, columns: Vec<Column>) -> Self {
        Self { id: id.into(), title: title.into(), notes: vec![], columns, rows: vec![] }
    }

    fn row(&mut self, entries: impl IntoIterator<Item = Entry>) {
        self.rows.push(Row { entries: entries.into_iter().collect(), is_best: false, is_first: false });
    }

    fn position(&self, column: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name == column)
    }

    fn drop_column(&mut self, at: usize) {
        self.columns.remove(at);
        self.rows.iter_mut().for_each(|row| drop(row.entries.remove(at)));
    }

    /// Drops columns that have nothing in any row.
    fn without_empty_columns(mut self) -> Self {
        for at in (0..self.columns.len()).rev() {
            if self.rows.iter().all(|row| row.entries[at].is_empty()) {
                self.drop_column(at);
            }
        }
        self
    }

    /// Drops a column that says the same wherever it says something, and returns what: one note says it as well.
    fn take_constant(&mut self, column: &str) -> Option<String> {
        let at = self.position(column)?;
        let mut texts = self.rows.iter().map(|row| &row.entries[at].text).filter(|text| !text.is_empty());
        let first = texts.next()?.clone();
        if !texts.all(|text| *text == first) {
            return None;
        }
        self.drop_column(at);
        Some(first)
    }
}

impl Column {
    fn text(name: &str) -> Self {
        Self { name: name.into(), is_number: false }
    }

    fn number(name: &str) -> Self {
        Self { name: name.into(), is_number: true }
    }

    /// Of a metric's values, with the direction in which they get better.
    fn metric(metric: &str, higher_is_better: bool) -> Self {
        Self::number(&format!("{metric} {}", if higher_is_better { "↑" } else { "↓" }))
    }
}

fn metric_columns(metrics: &[MetricColumn]) -> impl Iterator<Item = Column> {
    metrics.iter().map(|m| Column::metric(&m.name, m.higher_is_better))
}

impl Entry {
    fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// A measured value with its 95% interval.
    fn measured(value: f64, low: Option<f64>, high: Option<f64>) -> Self {
        let (text, interval) = (within(value, low, high), interval(value, low, high));
        Self { text, interval, value: Some(value), low, high, ..Self::default() }
    }

    fn difference(d: &Difference) -> Self {
        Self { text: signed(d.delta, d.low, d.high), ..Self::measured(d.delta, d.low, d.high) }
    }

    fn p_value(p: Option<f64>) -> Self {
        Self { text: p.map_or(String::new(), p_value), value: p, ..Self::default() }
    }

    /// A number that is said in words of its own: a count, a time.
    fn said(value: f64, text: String) -> Self {
        Self { text, value: Some(value), ..Self::default() }
    }

    fn count(n: u64) -> Self {
        Self::said(n as f64, n.to_string())
    }

    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }
}

/// `more is better` or `less is better`
fn direction(higher_is_better: bool) -> &'static str {
    if higher_is_better { "more is better" } else { "less is better" }
}

/// Rows of settings that have one sparsity.
struct Group<'a, T> {
    rows: Vec<&'a T>,
    /// Whether it is to be set off from the group before: not where both are a single row.
    is_apart: bool,
}

/// The rows of each sparsity, in the order in which the sparsities come.
fn by_sparsity<T>(rows: &[T], setting: impl Fn(&T) -> &Setting) -> Vec<Group<'_, T>> {
    let mut groups: Vec<Group<T>> = Vec::new();
    for strength in distinct(rows.iter().map(|row| setting(row).strength())) {
        let rows: Vec<&T> = rows.iter().filter(|row| setting(row).strength() == strength).collect();
        let is_apart = groups.last().is_some_and(|before| before.rows.len() > 1 || rows.len() > 1);
        groups.push(Group { rows, is_apart });
    }
    groups
}

/// The different ones of some items, in their order.
fn distinct<T: PartialEq>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut all = Vec::new();
    for item in items {
        if !all.contains(&item) {
            all.push(item);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::{Predictor, sample};
    use super::*;

    fn of(id: &str, report: &Report) -> Sheet {
        let sheet = super::sheets(report).into_iter().find(|sheet| sheet.id == id);
        sheet.unwrap_or_else(|| panic!("there is no sheet {id}"))
    }

    fn column<'a>(sheet: &'a Sheet, name: &str) -> Vec<&'a Entry> {
        let at = sheet.position(name).unwrap_or_else(|| panic!("{:?} has no {name}", sheet.columns));
        sheet.rows.iter().map(|row| &row.entries[at]).collect()
    }

    #[test]
    fn sheets_come_as_a_reader_wants_them_and_none_is_empty() {
        let report = sample::report();
        let ids: Vec<String> = sheets(&report).into_iter().map(|sheet| sheet.id).collect();
        let expected = [
            "decision",
            "published",
            "facts",
            "suite-language",
            "suite-task",
            "contrasts-method",
            "contrasts-calibration",
            "predictors-task-f1",
            "blocks",
            "masks",
            "masks-blocks",
            "cells-language",
            "cells-task",
            "failed",
        ];
        assert_eq!(ids, expected);
        let nothing = Report {
            decision: None,
            facts: vec![],
            suites: vec![],
            contrasts: vec![],
            predictors: vec![],
            blocks: vec![],
            masks: vec![],
            cell_rows: vec![],
            failed: vec![],
            published: vec![],
            ..report
        };
        assert_eq!(sheets(&nothing), []);
    }

    #[test]
    fn each_row_has_an_entry_for_each_column() {
        for sheet in sheets(&sample::report()) {
            assert!(sheet.rows.iter().all(|row| row.entries.len() == sheet.columns.len()), "{}", sheet.id);
        }
    }

    #[test]
    fn the_decision_has_the_reports_numbers_and_each_sparsity_together() {
        let sheet = of("decision", &sample::report());
        let texts = |name: &str| column(&sheet, name).iter().map(|e| e.text.clone()).collect::<Vec<_>>();
        let settings =
            ["dense", "magnitude-0.5", "wanda-0.5-prose", "wanda-0.5-task", "magnitude-2:4", "wanda-0.6-prose"];
        assert_eq!(texts("setting"), settings);
        let values: Vec<f64> = column(&sheet, "f1 ↑").iter().filter_map(|e| e.value).collect();
        assert_eq!(values, [0.6125, 0.3375, 0.6125, 0.5375, 0.0125, 0.45]);
        assert_eq!(column(&sheet, "f1 ↑")[1].interval, "[0.23, 0.45]");
        assert_eq!(texts("difference to dense")[..3], ["", "-0.28", "0.00"]);
        assert_eq!(texts("verdict"), ["", "worse", "within the margin", "not told apart", "worse", "worse"]);
        assert_eq!(texts("adj. p")[1], "0.0020");
        assert_eq!(texts("nonzero")[0], "134.5 M");
        let first: Vec<bool> = sheet.rows.iter().map(|row| row.is_first).collect();
        assert_eq!(first, [false, true, false, false, true, false]);
        // The others have no rival of their sparsity.
        let best: Vec<&str> =
            sheet.rows.iter().filter(|row| row.is_best).map(|row| row.entries[0].text.as_str()).collect();
        assert_eq!(best, ["wanda-0.5-prose"]);
    }

    #[test]
    fn every_number_of_a_suite_is_in_its_sheet() {
        let report = sample::report();
        for suite in &report.suites {
            let sheet = of(&format!("suite-{}", suite.suite), &report);
            for row in &suite.rows {
                let shown = sheet.rows.iter().find(|shown| shown.entries[0].text == row.setting.name).unwrap();
                let numbers: Vec<_> = shown.entries[1..].iter().map(|e| (e.value, e.low, e.high)).collect();
                let expected: Vec<_> = row.values.iter().map(|v| (Some(v.value), v.low, v.high)).collect();
                assert_eq!(numbers, expected);
            }
        }
    }

    #[test]
    fn where_all_of_a_sparsity_are_alike_none_is_best() {
        let mut report = sample::report();
        report.decision.as_mut().unwrap().rows.iter_mut().for_each(|row| row.best = true);
        report.suites[1].rows.iter_mut().for_each(|row| row.values[0].value = 0.5);
        assert!(of("decision", &report).rows.iter().all(|row| !row.is_best && !row.entries[1].is_best));
        assert!(column(&of("suite-task", &report), "f1 ↑").iter().all(|entry| !entry.is_best));
    }

    #[test]
    fn what_is_the_same_in_all_rows_is_a_note() {
        let mut report = sample::report();
        let sheet = of("decision", &report);
        assert_eq!(sheet.position("seeds"), None);
        assert!(sheet.notes.iter().any(|note| note.contains("means over 3 seeds")), "{:?}", sheet.notes);
        let rows = &mut report.decision.as_mut().unwrap().rows;
        rows[3].value.seeds = 2;
        assert_eq!(column(&of("decision", &report), "seeds")[2].value, Some(2.0));
        let rows = &mut report.decision.as_mut().unwrap().rows;
        rows.iter_mut().for_each(|row| row.value.seeds = 1);
        let notes = of("decision", &report).notes.join(" ");
        assert!(notes.contains("One calibration seed") && !notes.contains("samples and seeds"), "{notes}");
    }

    #[test]
    fn intervals_are_over_seeds_only_where_there_are_several() {
        let mut report = sample::report();
        let notes = |report: &Report| of("decision", report).notes.join(" ");
        assert!(notes(&report).contains("95% intervals over samples and seeds."), "{}", notes(&report));
        // Magnitude alone, which draws nothing.
        report.decision.as_mut().unwrap().rows.retain(|row| row.setting.calibration.is_none());
        assert!(notes(&report).contains("95% intervals.") && !notes(&report).contains("seed"), "{}", notes(&report));
    }

    #[test]
    fn a_margin_of_perplexity_is_a_ratio() {
        let mut report = sample::report();
        let decision = report.decision.as_mut().unwrap();
        (decision.ratio, decision.margin) = (true, 0.02);
        let notes = of("decision", &report).notes.join(" ");
        assert!(notes.contains("dense model's: 2%"), "{notes}");
    }

    #[test]
    fn too_few_samples_are_said_to_be_too_few() {
        let mut report = sample::report();
        let notes = |report: &Report| of("decision", report).notes.join(" ");
        let value = &mut report.decision.as_mut().unwrap().rows[1].value;
        value.to_dense.as_mut().unwrap().needed = Some(1200);
        let of_one = "Of magnitude-0.5 too few are scored to tell it from dense; 1,200 rows could be enough.";
        assert!(notes(&report).contains(of_one), "{}", notes(&report));
        let all = report.decision.as_mut().unwrap().rows.iter_mut().filter_map(|row| row.value.to_dense.as_mut());
        all.for_each(|difference| difference.needed = Some(1200));
        let notes = notes(&report);
        assert!(!notes.contains("within the margin;"), "{notes}");
        assert!(notes.contains("80 rows: too few") && notes.contains("1,200 rows"), "{notes}");
    }

    #[test]
    fn rows_that_could_show_nothing_within_the_margin_are_said_to_be_too_few_where_something_is_open() {
        let mut report = sample::report();
        let notes = |report: &Report| of("decision", report).notes.join(" ");
        let expected = "80 rows are too few to show a setting within the margin; 228 rows could be enough.";
        assert!(notes(&report).contains(expected), "{}", notes(&report));
        let all = report.decision.as_mut().unwrap().rows.iter_mut().filter_map(|row| row.value.to_dense.as_mut());
        all.for_each(|difference| difference.verdict = crate::statistics::Verdict::Worse);
        assert!(!notes(&report).contains(expected), "{}", notes(&report));
    }

    #[test]
    fn values_of_a_suite_have_the_marks_that_its_note_explains() {
        let sheet = of("suite-task", &sample::report());
        let marks: Vec<&str> = column(&sheet, "f1 ↑").iter().map(|e| e.mark).collect();
        assert_eq!(marks, ["", "-", "=", "~", "-", "-"]);
        let note = sheet.notes.last().unwrap();
        assert_eq!(note, "Against dense: - worse, = within the margin, ~ not told apart.");
    }

    #[test]
    fn the_best_of_a_metric_is_best_in_its_own_direction() {
        let report = sample::report();
        let best = |sheet: &Sheet, name: &str| -> Vec<String> {
            let entries = column(sheet, name).into_iter().zip(&sheet.rows).filter(|(entry, _)| entry.is_best);
            entries.map(|(_, row)| row.entries[0].text.clone()).collect()
        };
        assert_eq!(best(&of("suite-task", &report), "f1 ↑"), ["wanda-0.5-prose"]);
        assert_eq!(best(&of("suite-language", &report), "perplexity ↓"), ["wanda-0.5-prose"]);
        // What is no number is neither the best nor in the way of what is.
        let mut report = report;
        report.suites[1].rows[1].values[0].value = f64::NAN;
        assert_eq!(best(&of("suite-task", &report), "f1 ↑"), ["wanda-0.5-prose"]);
    }

    #[test]
    fn contrasts_against_dense_are_not_told_twice() {
        let mut report = sample::report();
        report.contrasts[0].axis = "dense".into();
        let ids: Vec<String> = sheets(&report).into_iter().map(|sheet| sheet.id).collect();
        assert!(!ids.iter().any(|id| id == "contrasts-dense" || id == "contrasts-method"), "{ids:?}");
        let sheet = of("contrasts-calibration", &report);
        assert_eq!(column(&sheet, "difference")[0].value, Some(0.5375 - 0.6125));
        assert_eq!(column(&sheet, "verdict")[0].text, "not told apart");
        assert!(sheet.title.ends_with("by f1 on task") && sheet.notes.len() == 2, "{sheet:?}");
    }

    #[test]
    fn contrasts_that_were_corrected_together_stand_together() {
        let mut report = sample::report();
        let of = |setting: usize, metric: &str| {
            let mut contrast = report.contrasts[1].clone();
            (contrast.metric, contrast.family) = (metric.into(), format!("calibration sets, by {metric}"));
            (contrast.axis, contrast.setting) = ("calibration".into(), report.suites[1].rows[setting].setting.clone());
            contrast
        };
        report.contrasts = vec![of(1, "f1"), of(1, "rouge1"), of(2, "f1"), of(2, "rouge1"), of(3, "f1")];
        let sheet = sheets(&report).into_iter().find(|sheet| sheet.id == "contrasts-calibration").unwrap();
        let on: Vec<&str> = column(&sheet, "on").iter().map(|entry| entry.text.as_str()).collect();
        assert_eq!(on, [["f1 on task"; 3].as_slice(), &["rouge1 on task"; 2]].concat());
        assert_eq!(sheet.rows.iter().map(|row| row.is_first).collect::<Vec<_>>(), [false, false, false, true, false]);
        assert!(sheet.notes[2].contains("the 2 to 3 comparisons of each metric on a suite"), "{:?}", sheet.notes);
    }

    #[test]
    fn a_predictor_that_is_not_told_apart_from_the_best_is_said_so() {
        let mut report = sample::report();
        report.predictors.push(Predictor { p_to_best: Some(0.01), ..report.predictors[1].clone() });
        let sheet = of("predictors-task-f1", &report);
        let texts: Vec<&str> = column(&sheet, "against the best").iter().map(|e| e.text.as_str()).collect();
        assert_eq!(texts, ["the best", "not told apart (p 0.40)", "lower (p 0.010)", "the best"]);
        assert_eq!(column(&sheet, "at sparsity")[3].text, "0.5");
        assert_eq!(column(&sheet, "adj. p")[0].text, "0.030");
    }

    #[test]
    fn errors_of_blocks_say_what_they_were_measured_on() {
        let mut report = sample::report();
        let sheet = of("blocks", &report);
        assert!(sheet.notes[0].contains("held-out samples of language"), "{:?}", sheet.notes);
        assert_eq!((sheet.rows.len(), sheet.columns.len()), (4, 6));
        assert_eq!(column(&sheet, "wanda-0.5-task")[3].value, Some(0.1 + 0.05 * 3.0));
        assert!(sheets(&report).iter().all(|sheet| sheet.id != "zeros"));
        report.blocks[0].achieved = 0.4;
        assert_eq!(column(&of("zeros", &report), "magnitude-0.5")[0].text, "0.400");
    }

    #[test]
    fn cells_are_shown_where_seeds_are_apart() {
        let mut report = sample::report();
        assert_eq!(of("cells-task", &report).rows.len(), 2 + 1 + 3 * 3);
        report.cell_rows.retain(|cell| cell.seed.is_none_or(|seed| seed == 0));
        assert!(sheets(&report).iter().all(|sheet| !sheet.id.starts_with("cells")));
    }
}
