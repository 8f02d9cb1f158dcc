//! What the numbers say in words: five sentences at most, and none that says more than the tables' verdicts.

use std::collections::HashMap;

use super::text::{capital, counted, list, with_interval, within};
use super::{Contrast, Decision, DecisionRow, Predictor, Report, masks, published};
use crate::statistics::{LEVEL, Verdict};

/// The most important first: which setting is best and how it stands to dense; what tells methods and calibrations apart; which
/// metric ranks settings as the score does; how many of the same weights calibrations keep; how many published figures lie
/// within the intervals.
pub fn sentences(report: &Report) -> Vec<String> {
    let decided = |decision: &Decision| [best(decision), axes(report, decision), predictor(report, decision)];
    let others = [masks::sentence(report), published::sentence(&report.published)];
    report.decision.iter().flat_map(decided).chain(others).flatten().collect()
}

/// The best setting of each sparsity, and how these stand to dense.
fn best(decision: &Decision) -> Option<String> {
    let pruned: Vec<&DecisionRow> = decision.rows.iter().filter(|row| !row.setting.is_dense()).collect();
    let dense = decision.rows.iter().find(|row| row.setting.is_dense())?;
    let (suite, metric) = (&decision.suite, &decision.metric);
    if pruned.is_empty() {
        return None;
    }
    let of_dense = with_interval(dense.value.value, dense.value.low, dense.value.high);
    if pruned.iter().all(|row| row.value.value == dense.value.value) {
        if !dense.value.value.is_finite() {
            return Some(format!(
                "On {suite}, the {metric} of all settings is infinite, the dense model's too: none are compared by it."
            ));
        }
        return Some(format!(
            "On {suite}, all settings have the same {metric} as the dense model, {of_dense}: on {} nothing is told apart.",
            counted(decision.samples, &decision.unit)
        ));
    }
    let (checkpoints, of_grid): (Vec<&DecisionRow>, Vec<_>) =
        pruned.iter().partition(|row| row.setting.is_checkpoint());
    let mut groups: Vec<(String, Vec<&DecisionRow>)> = vec![];
    for row in of_grid.iter().filter(|row| row.best) {
        match groups.iter_mut().find(|(strength, _)| *strength == row.setting.strength()) {
            Some((_, rows)) => rows.push(row),
            None => groups.push((row.setting.strength(), vec![row])),
        }
    }
    // Said of the first sparsity of which it is true, and understood of those that follow.
    let mut has_extreme = false;
    let mut clause = |(strength, rows): &(String, Vec<&DecisionRow>)| {
        let value = &rows[0].value;
        let shown = with_interval(value.value, value.low, value.high);
        let of = of_grid.iter().filter(|row| row.setting.strength() == *strength).count();
        match rows.len() {
            1 if of == 1 => format!("at {strength} {} has {shown}", said(rows[0])),
            1 if std::mem::replace(&mut has_extreme, true) => format!("at {strength} {} ({shown})", said(rows[0])),
            1 => format!("at {strength} {} has the {} {metric} ({shown})", said(rows[0]), extreme(decision)),
            2 if of == 2 => format!("at {strength} both have {shown}"),
            n if n == of => format!("at {strength} all {n} have {shown}"),
            _ => format!(
                "at {strength} {} are alike ({shown})",
                list(&rows.iter().map(|row| said(row)).collect::<Vec<_>>())
            ),
        }
    };
    let mut clauses: Vec<String> = match groups.len() {
        n if n > STRENGTHS => vec![winners(decision, &groups)],
        _ => groups.iter().map(&mut clause).collect(),
    };
    clauses.extend(checkpoints_said(decision, &checkpoints));
    Some(format!("On {suite}, {}; {}.", list(&clauses), stand(decision, &pruned, dense)))
}

/// So many sparsities have a clause each.
const STRENGTHS: usize = 8;

/// Which methods and calibrations are best at how many of many sparsities.
fn winners(decision: &Decision, groups: &[(String, Vec<&DecisionRow>)]) -> String {
    let mut counts: Vec<(String, usize)> = vec![];
    for row in groups.iter().flat_map(|(_, rows)| rows) {
        let name = said(row);
        match counts.iter_mut().find(|(known, _)| *known == name) {
            Some((_, count)) => *count += 1,
            None => counts.push((name, 1)),
        }
    }
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let (extreme, metric, all) = (extreme(decision), &decision.metric, groups.len());
    let clause = |(i, (name, count)): (usize, &(String, usize))| match i {
        0 => format!("{name} has the {extreme} {metric} at {count} of {all} sparsities"),
        _ => format!("{name} at {count}"),
    };
    let mut told: Vec<String> = counts.iter().take(NAMED).enumerate().map(clause).collect();
    if counts.len() > NAMED {
        told.push(format!("{} others at fewer", counts.len() - NAMED));
    }
    list(&told)
}

/// What checkpoints have, of many the best one.
fn checkpoints_said(decision: &Decision, checkpoints: &[&DecisionRow]) -> Vec<String> {
    let has = |row: &DecisionRow| with_interval(row.value.value, row.value.low, row.value.high);
    if checkpoints.len() <= NAMED {
        let each = checkpoints.iter().map(|row| format!("the checkpoint {} has {}", row.setting.name, has(row)));
        return each.collect();
    }
    let best = decision.best(checkpoints.iter().copied());
    best.iter()
        .map(|row| {
            let (all, name, extreme) = (checkpoints.len(), &row.setting.name, extreme(decision));
            format!("of {all} checkpoints {name} has the {extreme} {} ({})", decision.metric, has(row))
        })
        .collect()
}

fn extreme(decision: &Decision) -> &'static str {
    if decision.higher_is_better { "highest" } else { "lowest" }
}

/// `wanda calibrated on task`
fn said(row: &DecisionRow) -> String {
    let setting = &row.setting;
    setting
        .calibration
        .as_ref()
        .map_or(setting.method.clone(), |name| format!("{} calibrated on {name}", setting.method))
}

/// How the pruned settings stand to dense.
fn stand(decision: &Decision, pruned: &[&DecisionRow], dense: &DecisionRow) -> String {
    let of_dense = within(dense.value.value, dense.value.low, dense.value.high);
    let shown = format!("dense ({of_dense})");
    // Rows without an answer that was judged may make one setting's samples too few, and leave the others theirs.
    let needed: Vec<u64> = pruned.iter().filter_map(|row| row.value.to_dense.as_ref()?.needed).collect();
    if let Some(needed) = needed.iter().max().filter(|_| needed.len() == pruned.len()) {
        return format!(
            "on {} {} be told from {shown}: at least {needed} are needed",
            counted(decision.samples, &decision.unit),
            if pruned.len() == 1 { "it cannot" } else { "none can" }
        );
    }
    let with = |verdict: Verdict| -> Vec<&DecisionRow> {
        let has = |row: &&&DecisionRow| row.value.to_dense.as_ref().is_some_and(|d| d.verdict == verdict);
        pruned.iter().filter(has).copied().collect()
    };
    let all = pruned.len();
    let clause = |verdict: Verdict, what: &str| {
        let rows = with(verdict);
        match rows.len() {
            0 => None,
            n if n == all && n == 1 => Some(format!("it is {what} {shown}")),
            2 if all == 2 => Some(format!("both settings are {what} {shown}")),
            n if n == all => Some(format!("all {n} settings are {what} {shown}")),
            n if n > NAMED => Some(format!("{n} of {all} settings are {what} {shown}")),
            n => {
                let names: Vec<String> = rows.iter().map(|row| row.setting.name.clone()).collect();
                Some(format!("{} {} {what} {shown}", list(&names), if n == 1 { "is" } else { "are" }))
            }
        }
    };
    let clauses: Vec<String> = [
        (Verdict::Better, "better than"),
        (Verdict::WithinMargin, "within the margin of"),
        (Verdict::NotToldApart, "not told apart from"),
        (Verdict::Worse, "worse than"),
    ]
    .into_iter()
    .filter_map(|(verdict, what)| clause(verdict, what))
    .collect();
    // Dense's value once is enough.
    let mut text = list(&clauses);
    if let Some(first) = text.find(&shown) {
        let (head, tail) = text.split_at(first + shown.len());
        text = format!("{head}{}", tail.replace(&format!(" {shown}"), " it"));
    }
    text
}

/// So many settings are named in a sentence; more are counted.
const NAMED: usize = 3;

/// What tells methods apart, and what calibrations.
fn axes(report: &Report, decision: &Decision) -> Option<String> {
    let along = |axis: &str| -> Vec<&Contrast> {
        let is_of = |c: &&Contrast| c.axis == axis && c.suite == decision.suite && c.metric == decision.metric;
        report.contrasts.iter().filter(is_of).collect()
    };
    let clauses = [("method", "methods"), ("calibration", "calibration sets")]
        .map(|(axis, name)| clause(axis, name, &along(axis)));
    let clauses: Vec<String> = clauses.into_iter().flatten().collect();
    (!clauses.is_empty()).then(|| capital(&(clauses.join("; ") + ".")))
}

fn clause(axis: &str, name: &str, contrasts: &[&Contrast]) -> Option<String> {
    if contrasts.is_empty() {
        return None;
    }
    let of = |setting: &super::Setting| match axis {
        "method" => setting.method.clone(),
        _ => setting.calibration.clone().unwrap_or_default(),
    };
    // Each two of them, the winner of more comparisons first.
    let mut pairs: Vec<Pair> = vec![];
    let mut places: HashMap<[String; 2], usize> = HashMap::new();
    for contrast in contrasts {
        let (a, b) = (of(&contrast.setting), of(&contrast.other));
        let mut sorted = [a.clone(), b.clone()];
        sorted.sort();
        let place = *places.entry(sorted).or_insert_with(|| {
            pairs.push(Pair { names: [a.clone(), b], wins: [0, 0], within: 0, of: 0 });
            pairs.len() - 1
        });
        let pair = &mut pairs[place];
        pair.of += 1;
        let first = usize::from(pair.names[0] != a);
        match contrast.difference.verdict {
            Verdict::Better => pair.wins[first] += 1,
            Verdict::Worse => pair.wins[1 - first] += 1,
            Verdict::WithinMargin => pair.within += 1,
            Verdict::NotToldApart => {}
        }
    }
    let (total, apart): (usize, usize) = (contrasts.len(), pairs.iter().map(|p| p.wins[0] + p.wins[1]).sum());
    if apart == 0 {
        let within: usize = pairs.iter().map(|p| p.within).sum();
        let of = |which: &str, n: usize| match n {
            1 => "the one comparison".to_owned(),
            n => format!("{which} {n} comparisons"),
        };
        let compared = |n: usize| of("any of", n);
        return Some(match within {
            0 => format!("{name} are not told apart in {}", compared(total)),
            n if n == total => format!("{name} are within the margin of each other in {}", of("all", total)),
            n => {
                format!("{name} are not told apart in {}, and within the margin of each other in {n}", compared(total))
            }
        });
    }
    pairs.sort_by_key(|pair| std::cmp::Reverse(pair.wins[0].max(pair.wins[1])));
    let told: Vec<String> = pairs.iter().take(NAMED).map(Pair::said).collect();
    let more = pairs.len().saturating_sub(NAMED);
    let rest = if more > 0 { format!(" ({more} more pairs of {name} are in the contrasts)") } else { String::new() };
    Some(format!("of {name}, {}{rest}", list(&told)))
}

/// Two methods or calibrations, and how often which is better.
struct Pair {
    names: [String; 2],
    wins: [usize; 2],
    within: usize,
    of: usize,
}

impl Pair {
    fn said(&self) -> String {
        let Self { names: [a, b], wins, of, .. } = self;
        let times = |n: usize| if *of == 1 { String::new() } else { format!(" in {n} of {of} comparisons") };
        match wins {
            [0, 0] => format!("{a} is not told apart from {b}"),
            [n, 0] => format!("{a} is better than {b}{}", times(*n)),
            [0, n] => format!("{b} is better than {a}{}", times(*n)),
            [n, m] => format!("{a} is better than {b} in {n} of {of} comparisons and worse in {m}"),
        }
    }
}

/// Which metric ranks the settings as the score does, where they are enough to tell.
fn predictor(report: &Report, decision: &Decision) -> Option<String> {
    let of_score = |p: &&Predictor| {
        p.downstream_suite == decision.suite && p.downstream_metric == decision.metric && p.within.is_none()
    };
    let predictors: Vec<&Predictor> = report.predictors.iter().filter(of_score).collect();
    let &best = predictors.first()?;
    // Equal correlations have no first and no last.
    let (ties, others): (Vec<&Predictor>, Vec<&Predictor>) =
        predictors.iter().partition(|p| p.spearman == best.spearman);
    let named = |p: &Predictor| format!("{} on {}", p.metric, p.suite);
    let is_sure = |p: Option<f64>| p.is_some_and(|p| p < LEVEL);
    let score = &decision.metric;
    let first = match ties.len() {
        n if n > NAMED => format!("{n} metrics"),
        _ => list(&ties.iter().map(|p| named(p)).collect::<Vec<_>>()),
    };
    let verb = |verb: &str| if ties.len() == 1 { format!("{verb}s") } else { verb.to_owned() };
    if !is_sure(best.p_adjusted) || best.spearman <= 0.0 {
        return Some(format!(
            "{} pruned settings do not show that any metric ranks them as {score} does; nearest {} {first} (ρ = {}).",
            best.settings,
            verb("come"),
            with_interval(best.spearman, best.low, best.high)
        ));
    }
    let (worse, alike): (Vec<&Predictor>, Vec<&Predictor>) = others.iter().partition(|p| is_sure(p.p_to_best));
    let clause = |predictors: &[&Predictor], what: &str| match predictors.len() {
        0 => String::new(),
        n if n > NAMED => format!("; {n} others {what}"),
        1 => format!("; {} {}", named(predictors[0]), what.replacen("are", "is", 1).replacen("rank", "ranks", 1)),
        _ => format!("; {} {what}", list(&predictors.iter().map(|p| named(p)).collect::<Vec<_>>())),
    };
    Some(format!(
        "{first} {} the {} pruned settings as {score} does (ρ = {}){}{}.",
        verb("rank"),
        best.settings,
        with_interval(best.spearman, best.low, best.high),
        clause(&alike, if ties.len() == 1 { "are not told apart from it" } else { "are not told apart from them" }),
        clause(&worse, "rank them worse")
    ))
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn changed(change: impl FnOnce(&mut Report)) -> Vec<String> {
        let mut report = sample::report();
        change(&mut report);
        sentences(&report)
    }

    fn set_all(report: &mut Report, verdict: Verdict) {
        let rows = report.decision.as_mut().unwrap().rows.iter_mut();
        rows.filter_map(|row| row.value.to_dense.as_mut()).for_each(|d| d.verdict = verdict);
    }

    #[test]
    fn the_first_sentence_has_the_best_of_each_sparsity_and_how_settings_stand_to_dense() {
        let said = changed(|_| ());
        assert!(said.len() <= 5);
        assert!(said[0].starts_with("On task, at 2:4 magnitude has 0.01"), "{said:?}");
        assert!(
            said[0].contains("at 0.5 wanda calibrated on prose has the highest f1 (0.61 [0.50, 0.73])"),
            "{said:?}"
        );
        assert!(said[0].contains("is within the margin of dense (0.61)"), "{said:?}");
    }

    #[test]
    fn of_many_sparsities_it_is_counted_who_is_best() {
        let said = changed(|report| {
            let decision = report.decision.as_mut().unwrap();
            let row = decision.rows[2].clone();
            decision.rows.truncate(1);
            for i in 0..20 {
                let mut row = row.clone();
                (row.setting.pattern, row.setting.sparsity) = ("unstructured".into(), Some(0.3 + 0.01 * f64::from(i)));
                row.setting.calibration = Some("prose".into());
                row.setting.method = if i < 14 { "wanda".into() } else { "sparsegpt".into() };
                row.value.value -= 0.1;
                row.best = true;
                decision.rows.push(row);
            }
        });
        let expected = "On task, wanda calibrated on prose has the highest f1 at 14 of 20 sparsities and sparsegpt calibrated on \
                        prose at 6; ";
        assert!(said[0].starts_with(expected), "{said:?}");
    }

    #[test]
    fn equal_evidence_gets_one_sentence() {
        let said = changed(|report| set_all(report, Verdict::NotToldApart));
        assert!(said[0].ends_with("all 5 settings are not told apart from dense (0.61)."), "{said:?}");
    }

    #[test]
    fn what_is_infinite_everywhere_is_not_said_to_be_alike() {
        let all = |value: f64| {
            changed(|report| {
                let decision = report.decision.as_mut().unwrap();
                decision.rows.iter_mut().for_each(|row| row.value.value = value);
            })
        };
        assert!(all(f64::INFINITY)[0].starts_with("On task, the f1 of all settings is infinite"));
        assert!(all(0.5)[0].starts_with("On task, all settings have the same f1 as the dense model"));
    }

    #[test]
    fn too_few_samples_claim_nothing_and_say_how_many_would() {
        let said = changed(|report| {
            let decision = report.decision.as_mut().unwrap();
            decision.samples = 4;
            decision.rows.iter_mut().filter_map(|row| row.value.to_dense.as_mut()).for_each(|d| d.needed = Some(6));
        });
        assert!(said[0].contains("on 4 rows none can be told from dense (0.61): at least 6"), "{said:?}");
        // Of one setting alone fewer answers were judged: the others are told from dense all the same.
        let said = changed(|report| {
            report.decision.as_mut().unwrap().rows[1].value.to_dense.as_mut().unwrap().needed = Some(6);
        });
        assert!(said[0].contains("are worse than it") && !said[0].contains("needed"), "{said:?}");
    }

    #[test]
    fn methods_and_calibrations_are_told_apart_by_their_contrasts_alone() {
        let said = changed(|_| ());
        assert_eq!(
            said[1],
            "Of methods, wanda is better than magnitude; calibration sets are not told apart in the one comparison."
        );
        let said =
            changed(|report| report.contrasts.iter_mut().for_each(|c| c.difference.verdict = Verdict::WithinMargin));
        assert!(said[1].starts_with("Methods are within the margin of each other in the one comparison"), "{said:?}");
    }

    #[test]
    fn equal_correlations_have_no_most_and_no_least() {
        let said = changed(|_| ());
        let expected = "js_divergence on language ranks the 5 pruned settings as f1 does (ρ = 0.90 [0.40, 0.98]); \
                        perplexity on language is not told apart from it.";
        assert_eq!(said[2], expected);
        let said = changed(|report| report.predictors[1].spearman = report.predictors[0].spearman);
        assert!(
            said[2].starts_with("js_divergence on language and perplexity on language rank the 5 pruned"),
            "{said:?}"
        );
        let said = changed(|report| {
            report.predictors[0].p_adjusted = Some(0.2);
            report.predictors[1].spearman = report.predictors[0].spearman;
        });
        assert!(said[2].starts_with("5 pruned settings do not show that any metric"), "{said:?}");
        assert!(said[2].contains("nearest come js_divergence on language and perplexity on language"), "{said:?}");
    }
}
