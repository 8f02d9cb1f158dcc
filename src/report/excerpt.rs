//! What of a large study is shown: a table of a thousand settings is read by nobody. The tables have all of it, and so do JSON
//! and CSV.

use std::collections::{HashMap, HashSet};

use super::text::{counted, grouped};
use super::{Decision, Report, Setting, SettingRow};

/// So many settings are shown one by one.
const MOST: usize = 60;

/// Of more, about so many, and no more of a sparsity than [`EACH`].
const SHOWN: usize = 30;
const EACH: usize = 3;

/// So many are shown in detail, as the columns of a table or seed by seed.
const DETAILED: usize = 12;

/// So many lines does a plot of metrics show: methods with their calibrations.
const LINES: usize = 6;

/// Of so many sparsities have plots by block lines.
const STRENGTHS: usize = 4;

/// So many rows does a table have that is not of settings.
const ROWS: usize = 100;

/// The parts of a large report that are shown, and what is to be said of what is not.
pub struct Excerpt {
    /// What tables show.
    pub tables: Report,
    /// What plots show.
    pub plots: Report,
    /// Of tables of settings, of those of details, of plots.
    settings: String,
    details: String,
    pub lines: String,
    comparisons: String,
    failed: Option<String>,
}

impl Report {
    /// What is shown of it, where it is large; None where all is.
    pub fn excerpt(&self) -> Option<Excerpt> {
        let settings = self.suites.iter().map(|suite| suite.rows.len()).max()?;
        (settings > MOST).then(|| Excerpt::of(self, settings)).flatten()
    }

    /// Its rows of some settings, and pairs of which both are.
    fn of_settings(&self, is_shown: impl Fn(&Setting) -> bool, is_detailed: impl Fn(&Setting) -> bool) -> Self {
        let kept = |rows: &[SettingRow]| rows.iter().filter(|row| is_shown(&row.setting)).cloned().collect();
        let decision = self.decision.as_ref().map(|decision| Decision {
            rows: decision.rows.iter().filter(|row| is_shown(&row.setting)).cloned().collect(),
            ..decision.without_rows()
        });
        let suite = |suite: &super::SuiteReport| super::SuiteReport {
            suite: suite.suite.clone(),
            unit: suite.unit.clone(),
            metrics: suite.metrics.clone(),
            rows: kept(&suite.rows),
            samples: suite.samples,
        };
        let detailed: HashSet<&str> = self
            .suites
            .iter()
            .flat_map(|s| &s.rows)
            .map(|r| &r.setting)
            .filter(|s| is_detailed(s))
            .map(|s| s.name.as_str())
            .collect();
        Self {
            study: self.study.clone(),
            cells: self.cells,
            unfinished: self.unfinished.clone(),
            decision,
            sentences: self.sentences.clone(),
            warnings: self.warnings.clone(),
            facts: self.facts.clone(),
            suites: self.suites.iter().map(suite).collect(),
            contrasts: self.contrasts.iter().filter(|c| is_shown(&c.setting) && is_shown(&c.other)).cloned().collect(),
            predictors: self.predictors.clone(),
            error_suite: self.error_suite.clone(),
            blocks: self.blocks.iter().filter(|point| is_detailed(&point.setting)).cloned().collect(),
            masks: self.masks.iter().filter(|p| is_detailed(&p.setting) && is_detailed(&p.other)).cloned().collect(),
            samples: self.samples.clone(),
            cell_rows: self.cell_rows.iter().filter(|row| detailed.contains(row.setting.as_str())).cloned().collect(),
            failed: self.failed.iter().take(ROWS).cloned().collect(),
            published: self.published.clone(),
        }
    }
}

impl Decision {
    fn without_rows(&self) -> Self {
        Self { rows: vec![], suite: self.suite.clone(), metric: self.metric.clone(), unit: self.unit.clone(), ..*self }
    }
}

impl Excerpt {
    fn of(report: &Report, all: usize) -> Option<Self> {
        let (by, ranking) = ranking(report)?;
        let strengths: Vec<&str> = ranking.iter().map(|(strength, _)| strength.as_str()).collect();
        let each = (SHOWN / strengths.len().max(1)).clamp(1, EACH);
        let of_grid = ranking.iter().flat_map(|(_, best)| best.iter().take(each));
        let checkpoints = report.suites.first().into_iter().flat_map(|suite| &suite.rows);
        let checkpoints = checkpoints.map(|row| &row.setting).filter(|s| s.is_dense() || s.is_checkpoint()).take(SHOWN);
        let shown: HashSet<&str> = of_grid.copied().chain(checkpoints).map(|setting| setting.name.as_str()).collect();
        let detailed: HashSet<&str> = evenly(&ranking, DETAILED)
            .into_iter()
            .filter_map(|(_, best)| best.first().map(|setting| setting.name.as_str()))
            .collect();
        let is_shown = |setting: &Setting| shown.contains(setting.name.as_str());
        let mut tables = report.of_settings(is_shown, |setting| detailed.contains(setting.name.as_str()));
        if strengths.len() > DETAILED {
            tables.predictors.retain(|predictor| predictor.within.is_none());
        }
        if let Some(decision) = &report.decision {
            // What the report is about comes first where not all comparisons are shown.
            tables.contrasts.sort_by_key(|c| (c.suite != decision.suite, c.metric != decision.metric));
        }
        let mut counts: HashMap<String, usize> = HashMap::new();
        tables.contrasts.retain(|contrast| {
            let count = counts.entry(contrast.axis.clone()).or_default();
            *count += 1;
            *count <= ROWS
        });

        let lines = lines(&ranking);
        let few: HashSet<&str> = evenly(&strengths, STRENGTHS).into_iter().copied().collect();
        let is_line = |setting: &Setting| lines.contains(&line(setting));
        let is_plotted = |setting: &Setting| {
            setting.pattern == "dense" || setting.is_checkpoint() && is_shown(setting) || is_line(setting)
        };
        let plots = report.of_settings(is_plotted, |s| is_line(s) && few.contains(s.strength().as_str()));

        let best = if each == 1 { "the best setting".to_owned() } else { format!("the best {each} settings") };
        Some(Self {
            settings: format!(
                "Shown are {best} of each sparsity by {by}, {} of {}; settings.parquet has all.",
                shown.len(),
                counted(all as u64, "settings")
            ),
            details: format!(
                "Shown are {} settings, each the best of its sparsity by {by}, of {}",
                detailed.len(),
                grouped(all as u64)
            ),
            lines: format!(
                "Shown are the {} of {} methods and calibrations whose settings rank best by {by}.",
                lines.len(),
                looks(&ranking)
            ),
            comparisons: format!(
                "Of {} comparisons those between the settings that are shown, {ROWS} at most; contrasts.parquet has all.",
                grouped(report.contrasts.len() as u64)
            ),
            failed: (report.failed.len() > ROWS)
                .then(|| format!("{} cells failed; cells.parquet has all.", grouped(report.failed.len() as u64))),
            tables,
            plots,
        })
    }

    /// What a table does not show, by its id.
    pub fn note(&self, sheet: &str) -> Option<String> {
        let of_details = |table: &str| Some(format!("{}; {table}.parquet has all.", self.details));
        match sheet {
            "decision" => Some(self.settings.clone()),
            "blocks" | "zeros" => of_details("layers"),
            "masks" | "masks-blocks" => of_details("masks"),
            "failed" => self.failed.clone(),
            id if id.starts_with("suite-") => Some(self.settings.clone()),
            id if id.starts_with("contrasts-") => Some(self.comparisons.clone()),
            id if id.starts_with("cells-") => of_details("metrics"),
            _ => None,
        }
    }
}

/// A sparsity, and its settings.
type Ranked<'a> = (String, Vec<&'a Setting>);

/// The settings of the grid by their sparsities, the best first, and by what; dense and checkpoints left out.
fn ranking(report: &Report) -> Option<(String, Vec<Ranked<'_>>)> {
    let decided = report.decision.as_ref().map(|decision| (decision.suite.as_str(), decision.metric.as_str()));
    let first = || Some((report.suites.first()?.suite.as_str(), report.suites.first()?.metrics.first()?.name.as_str()));
    let (name, metric) = decided.or_else(first)?;
    let suite = report.suites.iter().find(|suite| suite.suite == name)?;
    let column = suite.metrics.iter().position(|column| column.name == metric)?;
    let sign = if suite.metrics[column].higher_is_better { -1.0 } else { 1.0 };
    let mut groups: Vec<(String, Vec<(&Setting, f64)>)> = vec![];
    let mut places: HashMap<String, usize> = HashMap::new();
    for row in suite.rows.iter().filter(|row| !row.setting.is_dense() && !row.setting.is_checkpoint()) {
        let strength = row.setting.strength();
        let place = *places.entry(strength.clone()).or_insert_with(|| {
            groups.push((strength, vec![]));
            groups.len() - 1
        });
        let value = sign * row.values[column].value;
        groups[place].1.push((&row.setting, if value.is_nan() { f64::INFINITY } else { value }));
    }
    let sorted = |(strength, mut rows): (String, Vec<(_, f64)>)| {
        rows.sort_by(|a, b| a.1.total_cmp(&b.1));
        (strength, rows.into_iter().map(|(setting, _)| setting).collect())
    };
    Some((format!("{metric} on {name}"), groups.into_iter().map(sorted).collect()))
}

/// Method and calibration.
type Line<'a> = (&'a str, Option<&'a str>);

fn line(setting: &Setting) -> Line<'_> {
    (&setting.method, setting.calibration.as_deref())
}

/// How many lines there are.
fn looks(ranking: &[(String, Vec<&Setting>)]) -> usize {
    ranking.iter().flat_map(|(_, settings)| settings).map(|setting| line(setting)).collect::<HashSet<_>>().len()
}

/// The lines whose settings have the best ranks in the mean over sparsities: the best of each method, then the best of all.
fn lines<'a>(ranking: &[(String, Vec<&'a Setting>)]) -> Vec<Line<'a>> {
    let mut ranks: HashMap<Line, (f64, usize)> = HashMap::new();
    for (_, settings) in ranking {
        for (rank, setting) in settings.iter().enumerate() {
            let (sum, count) = ranks.entry(line(setting)).or_default();
            (*sum, *count) = (*sum + (rank as f64 + 0.5) / settings.len() as f64, *count + 1);
        }
    }
    let mut all: Vec<(Line, f64)> = ranks.into_iter().map(|(line, (sum, count))| (line, sum / count as f64)).collect();
    all.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
    let mut methods = HashSet::new();
    let (firsts, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|((method, _), _)| methods.insert(*method));
    firsts.into_iter().chain(others).map(|(line, _)| line).take(LINES).collect()
}

/// So many of some items at most, from the first to the last.
fn evenly<T>(items: &[T], most: usize) -> Vec<&T> {
    if items.len() <= most {
        return items.iter().collect();
    }
    (0..most).map(|i| &items[i * (items.len() - 1) / (most - 1)]).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{formats, sample, sheets};
    use super::*;

    /// A report of two methods with so many calibrations at so many sparsities, on one suite.
    fn large(calibrations: usize, sparsities: usize) -> Report {
        let mut report = sample::report();
        let language = report.suites.remove(0);
        let dense = language.rows[0].clone();
        let mut rows = vec![dense];
        for (m, method) in ["wanda", "sparsegpt"].into_iter().enumerate() {
            for s in 0..sparsities {
                for c in 0..calibrations {
                    let mut row = language.rows[3].clone();
                    let sparsity = (300 + 10 * s) as f64 / 1000.0;
                    row.setting = Setting {
                        name: format!("{method}-{sparsity}-set{c:02}"),
                        method: method.into(),
                        pattern: "unstructured".into(),
                        sparsity: Some(sparsity),
                        calibration: Some(format!("set{c:02}")),
                    };
                    row.values
                        .iter_mut()
                        .for_each(|v| v.value = (10 + s) as f64 + 0.1 * ((c * 7 + 3) % 11) as f64 - 0.3 * m as f64);
                    rows.push(row);
                }
            }
        }
        let decided = report.decision.as_mut().unwrap();
        (decided.suite, decided.metric, decided.higher_is_better) = ("language".into(), "perplexity".into(), false);
        let example = decided.rows[1].clone();
        let decide = |row: &SettingRow| super::super::DecisionRow {
            setting: row.setting.clone(),
            value: row.values[0].clone(),
            ..example.clone()
        };
        decided.rows = rows.iter().map(decide).collect();
        report.suites = vec![super::super::SuiteReport { rows, ..language }];
        report.cell_rows.clear();
        report
    }

    #[test]
    fn a_small_report_is_shown_whole() {
        assert!(sample::report().excerpt().is_none());
        assert!(large(5, 5).excerpt().is_none() && large(10, 5).excerpt().is_some());
    }

    #[test]
    fn of_many_settings_the_best_of_each_sparsity_are_shown_and_the_rest_is_counted() {
        let report = large(20, 12);
        let all = sheets::sheets(&report);
        let decision = all.iter().find(|sheet| sheet.id == "decision").unwrap();
        assert_eq!(decision.rows.len(), 1 + 12 * 2);
        let note = decision.notes.iter().find(|note| note.starts_with("Shown are")).unwrap();
        let expected = "Shown are the best 2 settings of each sparsity by perplexity on language, 25 of 481 settings; \
                        settings.parquet has all.";
        assert_eq!(note, expected);
        // The best of its sparsity is SparseGPT's, calibrated on a set whose c * 7 + 3 is a multiple of 11.
        let excerpt = report.excerpt().unwrap();
        let names: Vec<&str> = excerpt.tables.suites[0].rows.iter().map(|row| row.setting.name.as_str()).collect();
        assert!(names.contains(&"sparsegpt-0.3-set09") && !names.contains(&"wanda-0.3-set01"), "{names:?}");
        for (format, most) in [(formats::Format::Terminal, 60_000), (formats::Format::Html, 1_500_000)] {
            let text = format.write(&report, Some(100)).unwrap();
            assert!(text.len() < most && text.contains("settings.parquet has all"), "{format:?}: {}", text.len());
        }
        let csv = formats::Format::Csv.write(&report, None).unwrap();
        assert!(report.suites[0].rows.iter().all(|row| csv.contains(&row.setting.name)));
    }

    #[test]
    fn plots_have_whole_lines_of_the_best_and_one_of_each_method() {
        let report = large(20, 12);
        let rows = report.excerpt().unwrap().plots.suites.remove(0).rows;
        let lines: HashSet<Line> =
            rows.iter().filter(|row| !row.setting.is_dense()).map(|row| line(&row.setting)).collect();
        assert_eq!((lines.len(), rows.len()), (LINES, 1 + LINES * 12));
        assert!(lines.iter().any(|(method, _)| *method == "wanda") && lines.contains(&("sparsegpt", Some("set09"))));
    }

    #[test]
    fn what_stands_evenly_has_the_first_and_the_last() {
        let items: Vec<usize> = (0..25).collect();
        assert_eq!(evenly(&items, 4), [&0, &8, &16, &24]);
        assert_eq!(evenly(&items[..3], 4), [&0, &1, &2]);
    }
}
