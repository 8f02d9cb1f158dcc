//! The user's question answered in words: which pruning keeps the task, what calibration does, and which
//! metric may be trusted to tell.

use super::{CellRow, Contrast, Predictor, Report, SuiteReport, bracketed, setting, significant};

/// The 5% that p-values and intervals of reports stand for.
const LEVEL: f64 = 0.05;

/// Three significant digits, as sentences have them.
fn number(x: f64) -> String {
    significant(x, 3)
}

fn interval(low: Option<f64>, high: Option<f64>) -> String {
    bracketed(low, high, number)
}

/// Sentences, the most important first; none where nothing was pruned.
pub fn answer(report: &Report) -> Vec<String> {
    let mut sentences = Vec::new();
    let judged = judged(report);
    sentences.extend(judged.iter().filter_map(|&(suite, column)| winners(suite, column)));
    sentences.extend(judged.iter().filter_map(|&(suite, column)| calibration(report, suite, column)));
    // One is enough: the table of predictors has those of the other scores.
    sentences.extend(judged.iter().find_map(|&(suite, column)| predictor(report, suite, column)));
    sentences
}

/// The suites that the question is about, each with the metric that it is judged by: those of answers and
/// choices by their first downstream metric, or without any, all by their best-known one.
fn judged(report: &Report) -> Vec<(&SuiteReport, usize)> {
    let downstream = report.suites.iter().filter_map(|s| Some((s, s.metrics.iter().position(|m| m.downstream)?)));
    let downstream: Vec<_> = downstream.collect();
    if !downstream.is_empty() {
        return downstream;
    }
    let preferred = |s: &SuiteReport| {
        let named = |name| s.metrics.iter().position(|m| m.name == name);
        named("js_divergence").or(named("perplexity")).or(if s.metrics.is_empty() { None } else { Some(0) })
    };
    report.suites.iter().filter_map(|s| Some((s, preferred(s)?))).collect()
}

/// The best cell of each sparsity on a suite, and which cells are as good as dense.
fn winners(suite: &SuiteReport, column: usize) -> Option<String> {
    let metric = &suite.metrics[column];
    let dense = suite.rows.iter().find(|row| row.pattern == "dense")?;
    let pruned: Vec<&CellRow> = suite.rows.iter().filter(|row| row.pattern != "dense").collect();
    let mut settings: Vec<(&str, f64)> = Vec::new();
    for row in &pruned {
        if !settings.contains(&(row.pattern.as_str(), row.sparsity)) {
            settings.push((&row.pattern, row.sparsity));
        }
    }
    let rank = |row: &CellRow| row.values[column].value * if metric.higher_is_better { -1.0 } else { 1.0 };
    let best = |&(pattern, sparsity): &(&str, f64)| {
        let rows = pruned.iter().filter(|row| row.pattern == pattern && row.sparsity == sparsity);
        let best = rows.min_by(|a, b| rank(a).total_cmp(&rank(b)))?;
        let value = best.values[column];
        let calibrated = best.calibration.as_ref().map_or(String::new(), |c| format!(" calibrated on {c}"));
        let number = number(value.value) + &interval(value.low, value.high);
        Some(format!("at {} with {}{calibrated} ({number})", setting(pattern, sparsity), best.method))
    };
    let clauses: Vec<String> = settings.iter().filter_map(best).collect();
    if clauses.is_empty() {
        return None;
    }
    let mut sentence = format!(
        "On {}, {} is best {}; the dense model has {}.",
        suite.suite,
        metric.name,
        list(&clauses),
        number(dense.values[column].value)
    );
    // Nothing is as near to the dense model as itself.
    if !metric.name.ends_with("_divergence") && metric.name != "top1_agreement" {
        let good = pruned.iter().filter(|row| row.values[column].as_good_as_dense);
        let good: Vec<String> = good.map(|row| row.cell.clone()).collect();
        sentence += &match good.len() {
            0 => format!(
                " All pruned models are worse than dense, beyond what {} {} leave to chance.",
                suite.samples, suite.unit
            ),
            n if n == pruned.len() => {
                format!(
                    " No pruned model is found worse than dense: {} {} may be too few to tell.",
                    suite.samples, suite.unit
                )
            }
            _ => format!(" Not found worse than dense: {}.", list(&good)),
        };
    }
    Some(sentence)
}

/// Which calibration set wins how often on a suite, and by how much.
fn calibration(report: &Report, suite: &SuiteReport, column: usize) -> Option<String> {
    let metric = &suite.metrics[column].name;
    let of_suite: Vec<&Contrast> =
        report.contrasts.iter().filter(|c| c.suite == suite.suite && c.metric == *metric).collect();
    let mut wins: Vec<(&str, Vec<&Contrast>)> = Vec::new();
    for contrast in of_suite.iter().filter(|c| c.difference != 0.0) {
        match wins.iter_mut().find(|(name, _)| *name == contrast.better) {
            Some((_, won)) => won.push(contrast),
            None => wins.push((&contrast.better, vec![contrast])),
        }
    }
    let (name, won) = wins.into_iter().min_by_key(|(_, won)| std::cmp::Reverse(won.len()))?;
    let sure = won.iter().filter(|c| c.p_value.is_some_and(|p| p < LEVEL)).count();
    let largest = won.iter().max_by(|a, b| a.difference.abs().total_cmp(&b.difference.abs()))?;
    Some(format!(
        "Calibrating on {name} wins {} of {} comparisons on {} by {metric}, {sure} of them beyond chance (p < {LEVEL}): \
         most with {} at {}, {} against {} from {} (difference {}{}).",
        won.len(),
        of_suite.len(),
        suite.suite,
        largest.method,
        setting(&largest.pattern, largest.sparsity),
        number(largest.better_value),
        number(largest.worse_value),
        largest.worse,
        number(largest.difference),
        interval(largest.low, largest.high),
    ))
}

/// Which metric ranks the cells as a downstream score does, where the cells are enough to tell.
fn predictor(report: &Report, suite: &SuiteReport, column: usize) -> Option<String> {
    let score = &suite.metrics[column].name;
    let of_score = |p: &&Predictor| p.downstream_suite == suite.suite && p.downstream_metric == *score;
    let predictors: Vec<&Predictor> = report.predictors.iter().filter(of_score).collect();
    let best = predictors.first()?;
    let tells =
        |p: &Predictor| format!("{} on {} ({}{})", p.metric, p.suite, number(p.spearman), interval(p.low, p.high));
    if best.low.is_none_or(|low| low <= 0.0) {
        return Some(format!(
            "{} pruned models are too few to say which metric predicts {score} on {}; nearest comes {}, by \
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
        let report = sample::report();
        let sentences = answer(&report);
        let (suite, column) = judged(&report)[0];
        assert!(suite.metrics[column].downstream);
        assert!(sentences[0].starts_with(&format!("On {}, ", suite.suite)), "{sentences:?}");
        assert!(sentences[0].contains("at 0.5 ") && sentences[0].contains("at 2:4 "), "{sentences:?}");
        assert!(sentences.iter().any(|s| s.starts_with("Calibrating on task wins 1 of 1 ")), "{sentences:?}");
        assert!(sentences.last().unwrap().contains("Spearman"), "{sentences:?}");
    }

    #[test]
    fn a_study_of_windows_is_answered_by_divergence() {
        let mut report = sample::report();
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
