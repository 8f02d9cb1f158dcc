//! The user's question answered in words: which pruning keeps the task, what calibration does, and which
//! metric may be trusted to tell.

use super::{CellRow, Contrast, MetricColumn, Predictor, Report, SuiteReport};
use super::{LEVEL, bracketed, counted, setting, significant};
use crate::metrics::least_p_value;
use crate::results::CellCounts;

/// Three significant digits, as sentences have them.
fn number(x: f64) -> String {
    significant(x, 3)
}

fn interval(low: Option<f64>, high: Option<f64>) -> String {
    bracketed(low, high, number)
}

/// Sentences, the most important first; none where nothing was pruned.
pub fn answer(report: &Report) -> Vec<String> {
    let mut sentences: Vec<String> = unfinished(report).into_iter().collect();
    let judged = judged(report);
    sentences.extend(judged.iter().filter_map(winners));
    sentences.extend(judged.iter().filter_map(|judged| calibration(report, judged)));
    // One is enough: the table of predictors has those of the other scores.
    sentences.extend(judged.iter().find_map(|judged| predictor(report, judged)));
    sentences
}

/// What is missing of the study.
fn unfinished(report: &Report) -> Option<String> {
    let CellCounts { planned, done, failed } = report.cells;
    let waiting = planned.saturating_sub(done + failed);
    let failures = match failed {
        0 => String::new(),
        1 => " 1 cell failed and is not compared.".into(),
        n => format!(" {n} cells failed and are not compared."),
    };
    match (waiting, failed) {
        (0, 0) => None,
        (0, _) => Some(failures.trim_start().to_owned()),
        _ => Some(format!(
            "The study is not finished: {done} of {planned} cells are done, and `calipr run` with the same recipe goes \
             on.{failures}"
        )),
    }
}

/// A suite that the question is about, with the metric that it is judged by.
struct Judged<'a> {
    suite: &'a SuiteReport,
    column: usize,
    /// The metrics that would have come first, but that cannot tell the models apart.
    silent: Vec<usize>,
}

impl Judged<'_> {
    fn metric(&self) -> &MetricColumn {
        &self.suite.metrics[self.column]
    }

    /// As many samples as sentences count.
    fn samples(&self) -> String {
        counted(self.suite.samples, &self.suite.unit)
    }
}

/// Suites of answers and choices are judged by their first downstream metric, or without any such suite, all by
/// their best-known metric; in either case by one that tells the models apart, where there is one.
fn judged(report: &Report) -> Vec<Judged<'_>> {
    let downstream = |s: &SuiteReport| (0..s.metrics.len()).filter(|&i| s.metrics[i].downstream).collect::<Vec<_>>();
    let best_known = |s: &SuiteReport| {
        let named = |name| s.metrics.iter().position(|m| m.name == name);
        let known: Vec<usize> = ["js_divergence", "perplexity"].into_iter().filter_map(named).collect();
        let others = (0..s.metrics.len()).filter(|i| !known.contains(i));
        known.iter().copied().chain(others).collect::<Vec<_>>()
    };
    let any_downstream = report.suites.iter().any(|s| !downstream(s).is_empty());
    let columns = |s: &SuiteReport| if any_downstream { downstream(s) } else { best_known(s) };
    let judged = |suite| {
        let columns = columns(suite);
        let speaking = columns.iter().position(|&column| tells_apart(suite, column));
        let silent = columns[..speaking.unwrap_or(columns.len())].to_vec();
        Some(Judged { suite, column: *columns.get(speaking.unwrap_or(0))?, silent })
    };
    report.suites.iter().filter_map(judged).collect()
}

fn dense(suite: &SuiteReport) -> Option<&CellRow> {
    suite.rows.iter().find(|row| row.pattern == "dense")
}

/// Whether a metric says anything: the models differ in it, and where it is a score, the dense model has one.
fn tells_apart(suite: &SuiteReport, column: usize) -> bool {
    let value = |row: &CellRow| row.values[column].value;
    let scores = !suite.metrics[column].downstream || dense(suite).is_some_and(|dense| value(dense) > 0.0);
    scores && suite.rows.iter().any(|row| value(row) != value(&suite.rows[0]))
}

/// The best cell of each sparsity on a suite, and which cells are as good as dense.
fn winners(judged: &Judged) -> Option<String> {
    let Judged { suite, column, .. } = *judged;
    let metric = judged.metric();
    let dense = number(dense(suite)?.values[column].value);
    let pruned: Vec<&CellRow> = suite.rows.iter().filter(|row| row.pattern != "dense").collect();
    if pruned.is_empty() {
        return None;
    }
    let silent = || list(&judged.silent.iter().map(|&i| suite.metrics[i].name.clone()).collect::<Vec<_>>());
    if judged.silent.contains(&column) {
        return Some(match metric.downstream && dense == "0" {
            true => format!(
                "On {}, the dense model itself scores 0 by {}, so nothing can be said of the pruned ones: read its \
                 answers in the samples; shots, `stop` or another prompt may help.",
                suite.suite, metric.name
            ),
            false => {
                format!("On {}, no metric tells the models apart: {} is {dense} for all.", suite.suite, metric.name)
            }
        });
    }
    let mut settings: Vec<(&str, f64)> = Vec::new();
    for row in &pruned {
        if !settings.contains(&(row.pattern.as_str(), row.sparsity)) {
            settings.push((&row.pattern, row.sparsity));
        }
    }
    let clause = |&(pattern, sparsity): &(&str, f64)| {
        let rows = pruned.iter().copied().filter(|row| row.pattern == pattern && row.sparsity == sparsity);
        format!("at {} {}", setting(pattern, sparsity), best(judged, &rows.collect::<Vec<_>>()))
    };
    let clauses: Vec<String> = settings.iter().map(clause).collect();
    let mut sentence = format!("On {}, {} is best {}", suite.suite, metric.name, list(&clauses));
    // Nothing is as near to the dense model as itself.
    if metric.name.ends_with("_divergence") || metric.name == "top1_agreement" {
        return Some(sentence + ".");
    }
    sentence += &format!("; the dense model has {dense}.");
    if !judged.silent.is_empty() {
        sentence += &format!(" By {}, the dense model has nothing or all have the same.", silent());
    }
    let good: Vec<&CellRow> = pruned.iter().copied().filter(|row| row.values[column].as_good_as_dense).collect();
    sentence += &match good.len() {
        _ if least_p_value(suite.samples as usize) >= LEVEL => {
            format!(" {} cannot tell a difference to dense from chance.", judged.samples())
        }
        0 if pruned.len() == 1 => format!(" That is worse, beyond what {} leave to chance.", judged.samples()),
        0 => format!(" All pruned models are worse than dense, beyond what {} leave to chance.", judged.samples()),
        n if n == pruned.len() => {
            format!(" No pruned model is found worse than dense; {} may be too few to tell.", judged.samples())
        }
        n if n > NAMED => format!(" {n} of {} pruned models are not found worse than dense.", pruned.len()),
        _ => {
            let good: Vec<String> = good.iter().map(|row| row.cell.clone()).collect();
            format!(" Not found worse than dense: {}.", list(&good))
        }
    };
    Some(sentence)
}

/// So many cells are named in a sentence; more are counted.
const NAMED: usize = 3;

/// Which of some pruned cells are best, and what they have.
fn best(judged: &Judged, rows: &[&CellRow]) -> String {
    let value = |row: &CellRow| row.values[judged.column];
    let sign = if judged.metric().higher_is_better { -1.0 } else { 1.0 };
    let first = rows.iter().copied().min_by(|a, b| (sign * value(a).value).total_cmp(&(sign * value(b).value)));
    let first = first.expect("a sparsity has a cell");
    let best: Vec<&CellRow> = rows.iter().copied().filter(|row| value(row).value == value(first).value).collect();
    let reached = number(value(first).value);
    let several_seeds = rows.iter().any(|row| row.seed.is_some_and(|seed| first.seed.is_some_and(|s| s != seed)));
    let named = |row: &&CellRow| {
        let calibrated = row.calibration.as_ref().map_or(String::new(), |c| format!(" calibrated on {c}"));
        let seed = row.seed.filter(|_| several_seeds).map_or(String::new(), |seed| format!(" (seed {seed})"));
        format!("{}{calibrated}{seed}", row.method)
    };
    match best.len() {
        1 => format!("with {} ({reached}{})", named(&first), interval(value(first).low, value(first).high)),
        n if n == rows.len() => format!("with all {n} alike ({reached})"),
        n if n > NAMED => format!("with {n} of {} alike ({reached})", rows.len()),
        _ => format!("with {} alike ({reached})", list(&best.iter().map(named).collect::<Vec<_>>())),
    }
}

/// Which calibration set wins how often on a suite, and by how much.
fn calibration(report: &Report, judged: &Judged) -> Option<String> {
    let (suite, metric) = (&judged.suite.suite, &judged.metric().name);
    let of_suite: Vec<&Contrast> =
        report.contrasts.iter().filter(|c| c.suite == *suite && c.metric == *metric).collect();
    let sure = |c: &&&Contrast| c.p_value.is_some_and(|p| p < LEVEL);
    let mut wins: Vec<(&str, Vec<&Contrast>)> = Vec::new();
    for &contrast in of_suite.iter().filter(|c| c.difference != 0.0 && !c.difference.is_nan()) {
        match wins.iter_mut().find(|(name, _)| *name == contrast.better) {
            Some((_, won)) => won.push(contrast),
            None => wins.push((&contrast.better, vec![contrast])),
        }
    }
    let (name, won) = wins.into_iter().max_by_key(|(_, won)| (won.iter().filter(sure).count(), won.len()))?;
    // Of those beyond chance, where there are any.
    let size = |c: &&&Contrast| (sure(c), c.difference.abs());
    let largest = won.iter().max_by(|a, b| size(a).0.cmp(&size(b).0).then(size(a).1.total_cmp(&size(b).1)))?;
    let against = of_suite.iter().filter(|c| c.better != name && sure(c)).count();
    let but = if against > 0 { format!(" {against} go the other way beyond chance.") } else { String::new() };
    let at = format!("{} at {}", largest.method, setting(&largest.pattern, largest.sparsity));
    let values = format!(
        "{} against {} from {} (difference {}{})",
        number(largest.better_value),
        number(largest.worse_value),
        largest.worse,
        number(largest.difference),
        interval(largest.low, largest.high),
    );
    let (of, won_by) = (of_suite.len(), won.len());
    Some(match won.iter().filter(sure).count() {
        0 => format!(
            "No calibration set is better than another on {suite} by {metric} beyond chance: {name} wins {won_by} of \
             {of} comparisons, most with {at}, {values}."
        ),
        _ if of == 1 => {
            format!("Calibrating on {name} wins on {suite} by {metric} beyond chance (p < {LEVEL}): {at} has {values}.")
        }
        sure => format!(
            "Calibrating on {name} wins {won_by} of {of} comparisons on {suite} by {metric}, {sure} of them beyond \
             chance (p < {LEVEL}): most with {at}, {values}.{but}"
        ),
    })
}

/// Which metric ranks the cells as a downstream score does, where the cells are enough to tell.
fn predictor(report: &Report, judged: &Judged) -> Option<String> {
    let (suite, score) = (judged.suite, &judged.metric().name);
    let of_score = |p: &&Predictor| p.downstream_suite == suite.suite && p.downstream_metric == *score;
    let predictors: Vec<&Predictor> = report.predictors.iter().filter(of_score).collect();
    let best = predictors.first()?;
    let tells =
        |p: &Predictor| format!("{} on {} ({}{})", p.metric, p.suite, number(p.spearman), interval(p.low, p.high));
    if best.low.is_none_or(|low| low <= 0.0) {
        return Some(format!(
            "{} pruned models do not tell which metric predicts {score} on {}; nearest comes {}, by \
             Spearman's correlation.",
            best.cells,
            suite.suite,
            tells(best)
        ));
    }
    let worst = predictors.iter().skip(1).min_by(|a, b| a.spearman.total_cmp(&b.spearman));
    let least = worst.map_or(String::new(), |worst| format!("; least {}", tells(worst)));
    Some(format!(
        "What ranks the {} pruned models most as {score} on {} does is {}, by Spearman's correlation{least}.",
        best.cells,
        suite.suite,
        tells(best)
    ))
}

/// `a`, `a and b`, `a, b and c`.
fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::plots::sample;
    use super::*;

    #[test]
    fn the_first_sentence_names_the_best_cell_of_each_sparsity_on_the_downstream_suite() {
        let report = whole();
        let sentences = answer(&report);
        let judged = &judged(&report)[0];
        assert!(judged.metric().downstream);
        assert!(sentences[0].starts_with(&format!("On {}, ", judged.suite.suite)), "{sentences:?}");
        assert!(sentences[0].contains("at 0.5 ") && sentences[0].contains("at 2:4 "), "{sentences:?}");
        assert!(
            sentences.iter().any(|s| s.starts_with("Calibrating on task wins on task by f1 beyond")),
            "{sentences:?}"
        );
        assert!(sentences.last().unwrap().contains("Spearman"), "{sentences:?}");
    }

    /// The sample, of which no cell failed.
    fn whole() -> Report {
        let mut report = sample::report();
        report.cells = CellCounts { planned: 6, done: 6, failed: 0 };
        report
    }

    /// The first sentence, of a report whose downstream suite was changed.
    fn first_after(change: impl FnOnce(&mut SuiteReport)) -> String {
        let mut report = whole();
        report.suites.retain(|s| s.metrics.iter().any(|m| m.downstream));
        change(&mut report.suites[0]);
        answer(&report).remove(0)
    }

    fn set(suite: &mut SuiteReport, column: usize, values: &[f64]) {
        suite.rows.iter_mut().zip(values).for_each(|(row, &value)| row.values[column].value = value);
    }

    #[test]
    fn ties_are_named() {
        let sentence = first_after(|suite| set(suite, 0, &[9.0, 1.0, 2.0, 4.0, 3.0, 4.0]));
        let expected = "at 0.5 with wanda calibrated on prose and wanda calibrated on task alike (4.00), at 2:4 with";
        assert!(sentence.contains(expected), "{sentence}");
        let sentence = first_after(|suite| set(suite, 0, &[9.0, 1.0, 2.0, 1.0, 3.0, 1.0]));
        assert!(sentence.contains("at 0.5 with all 3 alike (1.00)"), "{sentence}");
    }

    #[test]
    fn a_metric_in_which_the_dense_model_has_nothing_is_passed_over() {
        let sentence = first_after(|suite| set(suite, 0, &[0.0; 6]));
        let (first, second) = ("f1", "rouge1");
        assert!(sentence.contains(&format!(", {second} is best")) && sentence.contains(&format!("By {first}, the")));
        let sentence = first_after(|suite| (0..suite.metrics.len()).for_each(|i| set(suite, i, &[0.0; 6])));
        assert!(sentence.contains("the dense model itself scores 0 by") && !sentence.contains("best"), "{sentence}");
    }

    #[test]
    fn few_samples_claim_nothing() {
        let sentence = first_after(|suite| suite.samples = 1);
        assert!(sentence.ends_with("1 window cannot tell a difference to dense from chance."), "{sentence}");
    }

    #[test]
    fn what_is_missing_of_a_study_comes_first() {
        let mut report = sample::report();
        report.cells = CellCounts { planned: 9, done: 6, failed: 1 };
        let first = answer(&report).remove(0);
        assert!(first.contains("6 of 9 cells are done") && first.contains("1 cell failed"), "{first}");
    }

    #[test]
    fn a_study_of_windows_is_answered_by_divergence() {
        let mut report = whole();
        report.suites.retain(|s| s.suite == "language");
        report.predictors.clear();
        assert!(answer(&report)[0].contains("js_divergence"), "{:?}", answer(&report));
    }

    #[test]
    fn lists_read_as_sentences_do() {
        let list = |n: usize| super::list(&["a", "b", "c"].map(String::from)[..n]);
        assert_eq!([list(0), list(1), list(2), list(3)], ["", "a", "a and b", "a, b and c"]);
    }
}
