//! Whether the judges of suites can be meant.

use super::problem::Problem;
use super::{Layers, Recipe, Suite};
use crate::metrics::{Family, Metric};

/// What is wrong with a suite's judge.
pub fn problems(name: &str, suite: &Suite, layers: &Layers) -> Vec<Problem> {
    let mut problems = vec![];
    let key = |option: &'static str| ["suite", name, "judge", option];
    let mut add = |key: &[&str], said: String| problems.push(layers.problem(key, said, None));
    let named: Vec<Metric> = suite.metrics.clone().unwrap_or_default();
    let Some(judge) = &suite.judge else {
        if let Some(metric) = named.iter().find(|metric| metric.family() == Family::Judge) {
            let said = format!("{} needs a judge: [suite.{name}.judge] with an endpoint and a model", metric.as_str());
            add(&["suite", name, "metrics"], said);
        }
        return problems;
    };
    if named.contains(&Metric::JUDGE_WIN_RATE) && !judge.pairwise {
        let said = format!("judge_win_rate compares answers: set `pairwise = true` in [suite.{name}.judge]");
        add(&["suite", name, "metrics"], said);
    }
    judge.problems().into_iter().for_each(|(option, said)| add(&key(option), said));
    if judge.holds_a_key() {
        let said = "what stands there looks like a key itself, which is no secret any more once it is in a recipe; expected the \
                    name of the environment variable that holds it, such as OPENAI_API_KEY";
        problems.push(layers.problem(&key("key"), said.into(), None).without(judge.key.as_deref().unwrap_or_default()));
    }
    problems
}

/// The suites with a judge.
pub fn judged(recipe: &Recipe) -> impl Iterator<Item = (&str, &crate::judge::JudgeSpec)> {
    recipe.suite.iter().filter_map(|(name, suite)| Some((name.as_str(), suite.judge.as_ref()?)))
}
