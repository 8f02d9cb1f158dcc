//! What judges make of the answers of cells. A reply is kept by what was asked, so that the same question is put once: by
//! another cell, after a kill, or to the same model at another address.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use anyhow::{Result, anyhow};
use indexmap::{IndexMap, IndexSet};

use super::cache::{Cache, Key, Stage};
use super::cell::AnswersRecord;
use super::cost::{Kind, Machine, Rates};
use super::inputs::Inputs;
use super::keys::Keys;
use super::material::Material;
use super::plan::make_prompts;
use super::time_left::{Judging, Left};
use super::{Doing, Interrupted, Outcome, Watch};
use crate::data::Prompt;
use crate::judge::{Answered, Failed, Judge, Question, Reply, Verdict, Winner};
use crate::metrics::JudgeScores;
use crate::recipe::{Cell, Recipe, cells, judged};

/// The judges of a study.
pub struct Judges<'a> {
    cache: &'a Cache,
    judges: IndexMap<String, Bench>,
    /// What the dense model answers, by suite.
    dense: OnceLock<BTreeMap<String, Vec<String>>>,
    /// Whoever has it asks about a cell: what a budget has room for does not depend on which is faster.
    turn: Mutex<()>,
}

/// A suite's judge, who hears one cell after the other.
struct Bench {
    judge: Judge,
    /// The replies whose tokens are counted.
    counted: Mutex<HashSet<Key>>,
    /// What this run has seen of its pace.
    seen: Mutex<Rates>,
}

impl Bench {
    /// What its pace is remembered by.
    fn place(&self) -> Machine {
        Machine::elsewhere(self.judge.spec().pace())
    }

    /// Seconds for an answer, as they are remembered; None where it was never asked.
    fn seconds_each(&self, cache: &Cache) -> Option<f64> {
        let remembered = Rates::remembered(cache, &self.place(), WIDTH).each(Kind::Judge)?;
        Some(remembered.max(self.judge.spec().least_seconds()))
    }
}

/// Rates are remembered by the width of a model, which that of a judge is not known.
const WIDTH: usize = 1;

/// What judging a suite would take.
#[derive(Debug, Clone, PartialEq)]
pub struct JudgingPlan {
    pub suite: String,
    pub model: String,
    pub endpoint: String,
    /// Questions at most, and how many of them are answered in the cache. Those that cells share are counted once where
    /// their answers are known.
    pub questions: usize,
    pub cached: usize,
    /// About how many tokens the others take; None where the rows are not known.
    pub tokens: Option<u64>,
    /// What they take in seconds, at the pace that is remembered; None where the judge was never asked.
    pub seconds: Option<f64>,
}

impl fmt::Display for JudgingPlan {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { suite, model, endpoint, questions, cached, tokens, seconds } = self;
        if *questions == 0 && tokens.is_none() {
            let said = "how many questions there are, the rows say that are not read yet";
            return writeln!(f, "judge of suite {suite}, {model} at {endpoint}: {said}");
        }
        let time = match seconds {
            Some(seconds) => format!("{}", Left { seconds: *seconds, is_rough: false }),
            None => "a time that is known once it was asked".into(),
        };
        let tokens = match tokens {
            Some(_) if cached == questions => String::new(),
            Some(tokens) => format!("; the others take about {tokens} tokens and {time}"),
            None => "; how many tokens they take, the rows say that are not read yet".into(),
        };
        let cached = if *cached == *questions { "all".into() } else { cached.to_string() };
        writeln!(
            f,
            "judge of suite {suite}, {model} at {endpoint}: {questions} questions, {cached} of them cached{tokens}"
        )
    }
}

/// The questions about the answers of a cell.
#[derive(Default)]
struct Questions {
    all: IndexSet<Question>,
    /// By row: the question about the answer, and the two about it and the dense model's.
    rows: Vec<(usize, Pair)>,
}

/// How an answer is compared with the dense model's.
enum Pair {
    /// It is not.
    No,
    /// It is the same.
    Same,
    /// It stands first, and second.
    Both(usize, usize),
}

impl<'a> Judges<'a> {
    /// Those of a recipe. Where nothing may be asked, only replies of the cache count.
    ///
    /// # Errors
    /// Where the environment lacks the key of one.
    pub fn open(recipe: &Recipe, cache: &'a Cache, offline: bool) -> Result<Self> {
        let bench = |(name, spec): (&str, _)| {
            let judge = Judge::open(name, spec, offline)?;
            Ok((name.to_owned(), Bench { judge, counted: Mutex::default(), seen: Mutex::default() }))
        };
        let judges = judged(recipe).map(bench).collect::<Result<_>>()?;
        Ok(Self { cache, judges, dense: OnceLock::new(), turn: Mutex::default() })
    }

    /// Sees whether the judges are there, take the keys and have the models, each once.
    ///
    /// # Errors
    /// Where one is not: nothing is computed that it would be asked about in vain.
    pub fn reach(&self) -> Result<()> {
        let mut reached = HashSet::new();
        for (name, Bench { judge, .. }) in &self.judges {
            let spec = judge.spec();
            if reached.insert((spec.url(), &spec.model, &spec.key)) {
                judge.reach().map_err(|failed| told(name, failed))?;
            }
        }
        Ok(())
    }

    /// Has the answers of a cell judged, that number of so many. The dense cell comes first: others are compared with it.
    ///
    /// # Errors
    /// Where a judge will answer nothing, or its replies cannot be kept, or the user wants an end.
    pub fn judge(
        &self,
        materials: &BTreeMap<String, Material>,
        outcome: &mut Outcome,
        (number, of): (usize, usize),
        watch: &dyn Watch,
    ) -> Result<()> {
        let _turn = locked(&self.turn);
        let cell = &outcome.record.cell;
        if *cell == Cell::Dense {
            let answers = outcome
                .suites
                .iter()
                .filter_map(|(name, suite)| Some((name.clone(), suite.answers.as_ref()?.texts.clone())));
            let _ = self.dense.set(answers.collect());
        }
        let mut heard = vec![];
        for (name, bench) in &self.judges {
            let Some(answers) = outcome.suites.get(name).and_then(|suite| suite.answers.as_ref()) else { continue };
            let prompts = &materials[name].prompts;
            let dense = self.dense.get().and_then(|dense| dense.get(name)).filter(|_| bench.judge.spec().pairwise);
            let is_dense = *cell == Cell::Dense;
            let questions = Questions::of(&bench.judge, prompts, &answers.texts, dense.map(Vec::as_slice), is_dense)?;
            heard.push((name, bench, questions));
        }
        let online = heard.iter().filter(|(_, bench, _)| bench.judge.is_online());
        let missing = online.map(|(_, bench, questions)| self.open_of(&bench.judge, &questions.all).count()).sum();
        let (id, mut before) = (cell.id(), 0);
        if missing > 0 {
            watch.judging_begins(number, of, &id, missing);
        }
        let judged = heard.into_iter().try_for_each(|(name, bench, questions)| {
            let answered = |done: usize| watch.progress(before + done, missing, Doing::Judge);
            let (replies, came) = self.replies(name, bench, &questions, &id, &answered)?;
            before += came;
            if let Some(suite) = outcome.suites.get_mut(name) {
                suite.judged = Some(questions.scores(&bench.judge, &replies, materials[name].prompts.len()));
            }
            anyhow::Ok(())
        });
        if missing > 0 {
            watch.judging_ends();
        }
        judged
    }

    /// Those of a judge's questions that the cache does not answer.
    fn open_of<'q>(
        &self,
        judge: &'q Judge,
        questions: &'q IndexSet<Question>,
    ) -> impl Iterator<Item = &'q Question> + use<'q, '_> {
        let is_open = |question: &&Question| !self.cache.contains(Stage::Replies.key(&judge.identity(question)));
        questions.iter().filter(is_open)
    }

    /// The replies to questions, by their numbers: those of the cache, and the others asked for; and how many of these came, which
    /// `answered` hears while they do.
    fn replies(
        &self,
        name: &str,
        bench: &Bench,
        questions: &Questions,
        cell: &str,
        answered: &(dyn Fn(usize) + Sync),
    ) -> Result<(HashMap<usize, Reply>, usize)> {
        let Bench { judge, seen, .. } = bench;
        let mut counted = locked(&bench.counted);
        let key = |question: &Question| Stage::Replies.key(&judge.identity(question));
        let mut replies = HashMap::new();
        let mut missing = vec![];
        for (i, question) in questions.all.iter().enumerate() {
            match self.cache.read_json::<Reply>(key(question)) {
                Some(reply) => {
                    if counted.insert(key(question)) {
                        judge.count(&reply);
                    }
                    replies.insert(i, reply);
                }
                None => missing.push((i, question)),
            }
        }
        if !missing.is_empty() && judge.is_online() {
            tracing::info!("{}: asking {} about {} of {cell}", place(name), judge.spec().model, answers(missing.len()));
        }
        let asked: Vec<&Question> = missing.iter().map(|(_, question)| *question).collect();
        let came = Mutex::new(vec![]);
        let keep = |i: usize, reply: &Reply| {
            self.cache.write_json(key(asked[i]), reply)?;
            let mut came = locked(&came);
            came.push((i, reply.clone()));
            answered(came.len());
            Ok(())
        };
        let began = Instant::now();
        let outcome = judge.ask(&asked, &keep).map_err(|failed| told(name, failed))?;
        let came = came.into_inner().unwrap_or_else(PoisonError::into_inner);
        locked(seen).add(Kind::Judge, outcome.answered as f64, began.elapsed().as_secs_f64());
        let answers_that_came = came.len();
        for (i, reply) in came {
            counted.insert(key(asked[i]));
            replies.insert(missing[i].0, reply);
        }
        let unusable = replies.values().filter(|reply| reply.unusable.is_some()).count();
        let first = replies.iter().filter_map(|(i, reply)| Some((i, reply.unusable.as_ref()?))).min();
        let all = questions.all.len();
        let warn = |count: usize, why: String| {
            if count > 0 {
                tracing::warn!("{}: {count} of {all} replies about {cell} are missing: {why}", place(name));
            }
        };
        warn(unusable, format!("they cannot be used ({})", first.map_or("", |(_, why)| why)));
        warn(outcome.failed.len(), outcome.failed.first().cloned().unwrap_or_default());
        warn(
            outcome.beyond,
            "max_tokens_total has no room for them; the same command asks for them where it is raised".into(),
        );
        if !judge.is_online() {
            warn(asked.len(), "the cache does not have them, and --offline forbids asking".into());
        }
        Ok((replies, answers_that_came))
    }

    /// What is to be asked about each cell, and how long that takes.
    ///
    /// # Errors
    /// As of [`Judges::plan`].
    pub fn expected(&self, recipe: &Recipe, inputs: &Inputs) -> Result<Judging> {
        let online = self.judges.iter().filter(|(_, bench)| bench.judge.is_online());
        let each = online.map(|(name, bench)| {
            let open = self.questions(recipe, Some(inputs), name, bench)?.open_of_cells;
            Ok((open, bench.seconds_each(self.cache)))
        });
        let mut questions = vec![0; cells(recipe).len()];
        let mut seconds = Some(0.0);
        for (open, each) in each.collect::<Result<Vec<_>>>()? {
            seconds = seconds.zip(each).map(|(sum, each)| sum + each * open.iter().sum::<usize>() as f64);
            questions.iter_mut().zip(open).for_each(|(all, open)| *all += open);
        }
        let all: usize = questions.iter().sum();
        Ok(Judging::of(questions, seconds.filter(|_| all > 0).map(|seconds| seconds / all as f64)))
    }

    /// What judging would take, as far as it is known.
    pub fn plan(&self, recipe: &Recipe, inputs: Option<&Inputs>) -> Result<Vec<JudgingPlan>> {
        self.judges.iter().map(|(name, bench)| self.plan_suite(recipe, inputs, name, bench)).collect()
    }

    fn plan_suite(&self, recipe: &Recipe, inputs: Option<&Inputs>, name: &str, bench: &Bench) -> Result<JudgingPlan> {
        let (spec, planned) = (bench.judge.spec(), self.questions(recipe, inputs, name, bench)?);
        let open: usize = planned.open_of_cells.iter().sum();
        Ok(JudgingPlan {
            suite: name.to_owned(),
            model: spec.model.clone(),
            endpoint: spec.endpoint.clone(),
            questions: planned.all,
            cached: planned.all - open,
            tokens: planned.tokens,
            seconds: bench.seconds_each(self.cache).map(|each| each * open as f64),
        })
    }

    /// The questions of a suite, as far as they are known; where answers are not, as many as there can be.
    fn questions(
        &self,
        recipe: &Recipe,
        inputs: Option<&Inputs>,
        name: &str,
        bench: &Bench,
    ) -> Result<PlannedQuestions> {
        let (judge, spec) = (&bench.judge, bench.judge.spec());
        let suite = &recipe.suite[name];
        let prompts: Option<Vec<Prompt>> =
            inputs.and_then(|inputs| self.cache.read_json(inputs.suite_key(recipe, name)));
        let prompts = prompts.or_else(|| make_prompts(recipe, inputs?, name));
        let rows = prompts.as_ref().map(Vec::len).or(suite.limit);
        let rows = rows.map(|rows| rows.min(spec.limit.unwrap_or(rows))).or(spec.limit);
        let keys = inputs.map(|inputs| Keys::of(recipe, inputs));
        let answers_of = |cell: &Cell| -> Option<AnswersRecord> {
            self.cache.read_json(keys.as_ref()?.of_cell(cell).answers(name)?)
        };
        let dense = answers_of(&Cell::Dense);
        let mut known: IndexSet<Question> = IndexSet::new();
        let (mut open_of_cells, mut of_open) = (vec![], 0);
        let (mut unknown, mut unknown_bytes) = (0, 0);
        for cell in cells(recipe) {
            let is_dense = cell == Cell::Dense;
            if let (Some(prompts), Some(answers), Some(dense)) = (&prompts, answers_of(&cell), &dense) {
                let dense = spec.pairwise.then_some(dense.texts.as_slice());
                let own = Questions::of(judge, prompts, &answers.texts, dense, is_dense)?.all;
                let open = self.open_of(judge, &own).filter(|question| !known.contains(*question));
                let tokens: Vec<u64> = open.map(|question| judge.estimate(question.text.len())).collect();
                open_of_cells.push(tokens.len());
                of_open += tokens.iter().sum::<u64>();
                known.extend(own);
                continue;
            }
            let of_row = if spec.pairwise && !is_dense { 3 } else { 1 };
            open_of_cells.push(of_row * rows.unwrap_or(0));
            unknown += of_row * rows.unwrap_or(0);
            for prompt in prompts.iter().flatten().take(rows.unwrap_or(0)) {
                let references = prompt.references.first().map_or(0, String::len);
                // A token of an answer is about four bytes; the judge's own words about a thousand.
                unknown_bytes +=
                    of_row * (prompt.text.len() + references + 4 * suite.max_new_tokens.unwrap_or(128) + 1000);
            }
        }
        let of_unknown = judge.estimate(0) * unknown as u64 + unknown_bytes as u64 / 4;
        Ok(PlannedQuestions {
            all: known.len() + unknown,
            open_of_cells,
            tokens: (prompts.is_some() || unknown == 0).then_some(of_open + of_unknown),
        })
    }
}

impl Drop for Judges<'_> {
    /// Remembers how fast judges answered, however the run ended. Where that cannot be written down, the next forecast is as good
    /// as this one.
    fn drop(&mut self) {
        for bench in self.judges.values() {
            let seen = std::mem::take(&mut *locked(&bench.seen));
            let kept = seen.remember(self.cache, &bench.place(), WIDTH);
            let _ = kept.inspect_err(|e| tracing::debug!("the pace of a judge is not kept: {e:#}"));
        }
    }
}

/// What is asked of a judge.
struct PlannedQuestions {
    all: usize,
    /// Those about each cell that the cache does not answer, each counted with the first cell that has it.
    open_of_cells: Vec<usize>,
    /// About how many tokens they take; None where the rows are not known.
    tokens: Option<u64>,
}

impl Questions {
    fn of(
        judge: &Judge,
        prompts: &[Prompt],
        answers: &[String],
        dense: Option<&[String]>,
        is_dense: bool,
    ) -> Result<Self> {
        let mut questions = Self::default();
        let judged = judge.spec().limit.unwrap_or(prompts.len());
        for (i, (prompt, answer)) in prompts.iter().zip(answers).enumerate().take(judged) {
            let mut ask = |answers: &[&str]| -> Result<usize> {
                let answered = Answered { question: &prompt.text, references: &prompt.references, answers };
                Ok(questions.all.insert_full(judge.question(answered)?).0)
            };
            let alone = ask(&[answer])?;
            let pair = match dense.and_then(|dense| dense.get(i)) {
                None => Pair::No,
                // What is the same is a tie, and the dense model is to itself.
                Some(other) if is_dense || other == answer => Pair::Same,
                Some(other) => Pair::Both(ask(&[answer, other])?, ask(&[other, answer])?),
            };
            questions.rows.push((alone, pair));
        }
        Ok(questions)
    }

    /// What the replies say of each of so many rows.
    fn scores(&self, judge: &Judge, replies: &HashMap<usize, Reply>, rows: usize) -> Vec<JudgeScores> {
        let verdict = |i: usize| judge.verdict(&self.all[i], replies.get(&i)?);
        let won = |i: usize, as_first: bool| match verdict(i)? {
            Verdict::Winner(Winner::Tie) => Some(0.5),
            Verdict::Winner(winner) => Some(f64::from(u8::from((winner == Winner::A) == as_first))),
            Verdict::Score(_) => None,
        };
        let of_row = |(alone, pair): &(usize, Pair)| JudgeScores {
            score: match verdict(*alone) {
                Some(Verdict::Score(score)) => Some(score),
                _ => None,
            },
            win_rate: match pair {
                Pair::No => None,
                Pair::Same => Some(0.5),
                Pair::Both(first, second) => {
                    won(*first, true).zip(won(*second, false)).map(|(first, second)| (first + second) / 2.0)
                }
            },
        };
        let mut scores: Vec<JudgeScores> = self.rows.iter().map(of_row).collect();
        scores.resize(rows, JudgeScores::default());
        scores
    }
}

fn place(suite: &str) -> String {
    format!("[suite.{suite}.judge]")
}

fn answers(count: usize) -> String {
    if count == 1 { "1 answer".into() } else { format!("{count} answers") }
}

/// A failure that ends the run, with its place and what to do.
fn told(suite: &str, failed: Failed) -> anyhow::Error {
    match failed {
        Failed::Interrupted => Interrupted.into(),
        Failed::Here(error) => error,
        Failed::ForAll(said) | Failed::ForThis(said) | Failed::Gone(said) => {
            anyhow!("{}: {said}. Replies that came are kept; --offline goes on without others", place(suite))
        }
    }
}

/// Nothing that holds these leaves them half changed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
