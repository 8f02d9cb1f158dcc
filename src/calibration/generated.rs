//! Windows of texts that the dense model wrote itself, or another model.
//!
//! Ji et al. 2024, "Beware of Calibration Data for Pruning Large Language Models" (arXiv 2410.17711), and their code
//! (ShiningSord/calibration_data): generate_data.py continues the first tokens of texts, sample_ppl.py leaves out those of
//! the highest perplexity, and `get_selfgen` in lib/data.py joins the rest with spaces. There a text's perplexity is that of
//! its decoded form made into tokens again; here it is that of the tokens that were drawn. The defaults are what these
//! scripts have, but for the prefix, of which the one that was published takes two tokens. Nothing in these scripts asks that the model which writes be
//! the one that is pruned (Dereck0602/calibration_data is the same code); where it is another, its own tokens begin and end a
//! text and count its perplexity, and the text is then made into tokens of the pruned model as a data set's would be.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Ask, Checking, Made, Making, Origin, planned};
use crate::data::{Content, Library, Order, Packing, Part, Row, Rows, cut, tokens, within};
use crate::digest::Digest;
use crate::fault::At;
use crate::model::{Model, Sampling, Settled, Spec, Tokenizer, Written};
use crate::pipeline::{
    Author, Claim, Inputs, Key, Pause, PlannedStage, Planner, Stage, Taken, Writer, done, work_of_texts,
};
use crate::recipe::{Calibration, Recipe};
use crate::source::Source;

/// How a calibration's texts are written. The defaults are those of Ji et al.'s scripts, but for the prefix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Generate {
    /// A data set, named as `dataset` names one, whose rows the texts begin as.
    pub from: String,
    /// The model that writes the texts, where that is not the recipe's: in the recipe's precision and on its device, with its
    /// own tokenizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Source>,
    /// Tokens of a row that a text begins with; shorter rows are passed over.
    #[serde(default = "usual_prefix")]
    #[schemars(range(min = 1))]
    pub prefix: usize,
    /// How many texts are written; by default 5,000 for 128 windows of 2048 tokens, and as many more or fewer as the windows
    /// have more or fewer tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub texts: Option<usize>,
    /// Tokens that a text is continued by, at most; fewer where the model's context ends.
    #[serde(default = "published_new_tokens")]
    #[schemars(range(min = 1))]
    pub max_new_tokens: usize,
    /// 0 takes the most likely token.
    #[serde(default = "published_temperature")]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub temperature: f64,
    /// Draw only from so many of the most likely tokens.
    #[serde(default = "published_top_k")]
    #[schemars(range(min = 1))]
    pub top_k: usize,
    /// Draw only from the most likely of these that together have this probability.
    #[serde(default = "published_top_p")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub top_p: f64,
    /// What the logits of tokens that are there already are divided by, or multiplied with where they are below 0.
    #[serde(default = "published_repetition_penalty")]
    #[schemars(range(min = 0.0))]
    pub repetition_penalty: f64,
    /// The share of the texts that is left out: those of the highest perplexity.
    #[serde(default = "published_drop")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub drop: f64,
}

fn usual_prefix() -> usize {
    8
}

fn published_new_tokens() -> usize {
    2048
}

fn published_temperature() -> f64 {
    0.6
}

fn published_top_k() -> usize {
    50
}

fn published_top_p() -> f64 {
    0.95
}

fn published_repetition_penalty() -> f64 {
    1.2
}

fn published_drop() -> f64 {
    0.2
}

/// Texts for so many tokens of windows.
const PUBLISHED: (usize, usize) = (5000, 128 * 2048);

/// Tokens that a token may be when its text is made into tokens again, at most: one that is no whole character is printed as
/// U+FFFD, which is three bytes.
const TOKENS_AGAIN: usize = 3;

impl Generate {
    /// How many texts are written for windows.
    pub fn texts(&self, ask: Ask) -> usize {
        let (texts, tokens) = PUBLISHED;
        self.texts.unwrap_or_else(|| (ask.tokens() as u128 * texts as u128).div_ceil(tokens as u128) as usize).max(1)
    }

    /// Tokens that a text may have, and what ends there.
    pub fn room(model: &Spec) -> (usize, &'static str) {
        match &model.reach {
            Some(reach) if reach.tokens < model.context => (reach.tokens, reach.because),
            _ => (model.context, "context"),
        }
    }

    /// Tokens that a text is continued by, at most.
    fn new_tokens(&self, model: &Spec) -> usize {
        self.max_new_tokens.min(Self::room(model).0.saturating_sub(self.prefix))
    }

    /// How many rows texts have to begin as at least: without a temperature a row is continued by the same text again.
    fn rows_needed(&self, texts: usize) -> usize {
        if self.temperature > 0.0 { 1 } else { texts }
    }

    /// An error where so few rows are long enough for so many texts.
    fn is_enough(&self, (found, rows): (usize, usize), texts: usize) -> Result<()> {
        let prefix = self.prefix;
        ensure!(
            found > 0,
            "none of {rows} rows has {prefix} tokens, which `prefix` asks for; lower it, or name longer rows"
        );
        ensure!(
            found >= self.rows_needed(texts),
            "{found} rows have at least {prefix} tokens, too few for {texts} texts: without a temperature a row would be \
             continued by the same text again; lower `texts`, or raise `temperature`"
        );
        Ok(())
    }
}

/// `generate = { from = "wikitext2" }`
pub struct Generated<'a> {
    pub recipe: &'a Recipe,
    pub name: &'a str,
    pub calibration: &'a Calibration,
    pub how: &'a Generate,
}

/// A text that was written; cached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Text {
    /// The number of the row that it begins as, from 1.
    row: usize,
    prefix: String,
    /// The whole, without special tokens.
    text: String,
    /// Of the whole, without the one that ended it.
    tokens: usize,
    /// -ln p of all tokens but the first.
    loss: f64,
}

impl Text {
    fn perplexity(&self) -> f64 {
        (self.loss / self.tokens.saturating_sub(1) as f64).exp()
    }
}

/// What a text is begun with: the number of its row, and tokens.
type Beginning = (usize, Vec<u32>);

/// Which texts are left when a share of them is left out, those of the highest perplexity: those below the percentile that
/// sample_ppl.py takes, numpy's, which lies between two texts or on one. At least one is left.
fn kept(perplexities: &[f64], drop: f64) -> Vec<bool> {
    let mut by_perplexity: Vec<usize> = (0..perplexities.len()).collect();
    by_perplexity.sort_by(|&a, &b| perplexities[a].total_cmp(&perplexities[b]));
    let last = perplexities.len().saturating_sub(1) as f64;
    let below = if drop > 0.0 { (((1.0 - drop) * last).ceil() as usize).max(1) } else { perplexities.len() };
    let mut kept = vec![false; perplexities.len()];
    by_perplexity.into_iter().take(below).for_each(|i| kept[i] = true);
    kept
}

/// Who writes.
#[derive(Clone, Copy)]
struct Pen<'a> {
    /// None is the recipe's model.
    author: Option<&'a Author>,
    spec: &'a Spec,
    tokenizer: &'a Tokenizer,
}

impl Generated<'_> {
    /// The model that writes, where that is not the recipe's.
    fn author<'i>(&self, inputs: &'i Inputs) -> Option<&'i Author> {
        self.how.model.as_ref().map(|source| &inputs.authors[source])
    }

    /// Who writes, where the recipe's model has this tokenizer.
    fn pen<'i>(&self, inputs: &'i Inputs, tokenizer: &'i Tokenizer) -> Pen<'i> {
        match self.author(inputs) {
            Some(author) => Pen { author: Some(author), spec: &author.spec, tokenizer: &author.tokenizer },
            None => Pen { author: None, spec: &inputs.spec, tokenizer },
        }
    }

    /// An error where the folder of who writes wants texts to be drawn as they are not drawn here.
    fn check_settings(&self, inputs: &Inputs) -> Result<()> {
        let settled = Settled { drawn: self.how.temperature > 0.0, top_k: true, repetition_penalty: true };
        self.author(inputs).map_or(&inputs.model, |author| &author.files).generation()?.check(settled)
    }

    fn sampling(&self, inputs: &Inputs, end: &[u32]) -> Sampling {
        let spec = self.author(inputs).map_or(&inputs.spec, |author| &author.spec);
        Sampling {
            max_new_tokens: self.how.new_tokens(spec),
            temperature: self.how.temperature,
            top_k: Some(self.how.top_k),
            top_p: self.how.top_p,
            repetition_penalty: self.how.repetition_penalty as f32,
            seed: self.recipe.seed,
            end: end.to_vec(),
        }
    }

    /// An error where the texts that will be left surely make too few windows.
    fn may_suffice(&self, inputs: &Inputs, ask: Ask) -> Result<()> {
        let (texts, Ask { windows, length, .. }) = (self.how.texts(ask), ask);
        let left = kept(&vec![0.0; texts], self.how.drop).into_iter().filter(|kept| *kept).count();
        let most = match (self.calibration.packing, &self.how.model) {
            // Another model's tokens may be any number of the pruned one's.
            (Packing::Concat, Some(_)) => return Ok(()),
            (Packing::Concat, None) => {
                let tokens = self.how.prefix.saturating_add(self.how.new_tokens(&inputs.spec));
                // A separator between two, and the tokens that begin and end a text of its own.
                left.saturating_mul(tokens.saturating_mul(TOKENS_AGAIN).saturating_add(3)) / length
            }
            // Each window has a text of its own.
            _ => left,
        };
        ensure!(
            most >= windows,
            "{left} of {texts} texts are left; raise `texts`, or lower `drop`: they make {most} windows of {length} tokens at \
             most, not {windows}"
        );
        Ok(())
    }

    /// All that a text depends on but for its number.
    fn writing(&self, inputs: &Inputs) -> Digest {
        let sampling = self.sampling(inputs, &[]);
        let model = self.author(inputs).map_or(inputs.model_digest, |author| author.digest);
        Digest::of(&(
            inputs.key_of_model(self.recipe, model),
            inputs.key_of_tokenizer(self.recipe, model),
            inputs.calibrations[self.name].digest,
            (self.how.prefix, sampling.max_new_tokens, sampling.seed),
            (sampling.temperature, sampling.top_k, sampling.top_p, sampling.repetition_penalty),
        ))
    }

    fn text_keys(&self, inputs: &Inputs, ask: Ask) -> Vec<Key> {
        let writing = self.writing(inputs);
        (0..self.how.texts(ask)).map(|i| Stage::Texts.key(&(writing, i))).collect()
    }

    /// How texts are begun: as rows in an order that the recipe's seed decides, one after the other, and where there are
    /// fewer than texts from the first again.
    fn beginnings(&self, making: &Making, pen: Pen, count: usize) -> Result<Vec<Beginning>> {
        let (input, prefix) = (&making.study.inputs().calibrations[self.name], self.how.prefix);
        let rows = match pen.author {
            Some(_) => input.checked(pen.tokenizer, pen.spec.vocabulary)?,
            None => making.rows(self.name)?,
        };
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(self.recipe.seed));
        let mut found: Vec<Beginning> = Vec::new();
        for index in order {
            if found.len() == count {
                break;
            }
            let ids = beginning(&rows, index, &input.part, pen.tokenizer, prefix)
                .and_then(|ids| within(&ids, pen.spec.vocabulary).map(|()| ids))
                .with_context(|| format!("row {}", rows.number(index)))?;
            if ids.len() == prefix {
                found.push((rows.number(index), ids));
            }
        }
        self.how.is_enough((found.len(), rows.len()), count)?;
        Ok((0..count).map(|i| found[i % found.len()].clone()).collect())
    }

    /// The texts: those that the cache lacks written now, and each kept as soon as it is complete. What another process that
    /// shares the cache is at is left to it, and waited for at the end.
    fn written(&self, making: &Making, ask: Ask) -> Result<Vec<Text>> {
        let (study, cache) = (making.study, making.study.cache());
        let (keys, pen) = (self.text_keys(study.inputs(), ask), self.pen(study.inputs(), study.tokenizer()));
        let mut texts: Vec<Option<Text>> = vec![None; keys.len()];
        let mut pause = Pause::default();
        let mut ready: Option<(Vec<Beginning>, Writer)> = None;
        loop {
            for (text, &key) in texts.iter_mut().zip(&keys).filter(|(text, _)| text.is_none()) {
                *text = cache.read_json(key);
            }
            let missing: Vec<usize> = (0..texts.len()).filter(|&i| texts[i].is_none()).collect();
            if missing.is_empty() {
                break;
            }
            let sampling = self.sampling(study.inputs(), pen.tokenizer.end());
            let (beginnings, writer) = match &mut ready {
                Some(ready) => ready,
                None => {
                    self.check_settings(study.inputs()).at(|| "how texts are drawn".into())?;
                    let beginnings = self.beginnings(making, pen, texts.len()).at(|| "what texts begin with".into())?;
                    let tokens = self.how.prefix + sampling.max_new_tokens;
                    let open = |model: &Model| Writer::open(model, study.watch(), tokens);
                    let writer = match pen.author {
                        // Held no longer than the texts take: the recipe's model is still to be walked.
                        Some(author) => {
                            open(&Model::open(&author.files, study.model().dtype, study.model().device.clone())?)?
                        }
                        None => open(study.model())?,
                    };
                    ready.insert((beginnings, writer))
                }
            };
            if !self.write(making, (&keys, &missing), (beginnings, writer, pen.tokenizer), &sampling, &mut texts)? {
                pause.wait(study.watch())?;
            }
        }
        texts.into_iter().map(|text| text.context("a text is missing")).collect()
    }

    /// Writes those of the missing texts that nobody else is at; whether there was one.
    fn write(
        &self,
        making: &Making,
        (keys, missing): (&[Key], &[usize]),
        (beginnings, writer, tokenizer): (&[Beginning], &Writer, &Tokenizer),
        sampling: &Sampling,
        texts: &mut [Option<Text>],
    ) -> Result<bool> {
        let cache = making.study.cache();
        let begun: Vec<(u64, &[u32])> = missing.iter().map(|&i| (i as u64, beginnings[i].1.as_slice())).collect();
        let claims: Mutex<BTreeMap<usize, Option<Claim>>> = Mutex::default();
        // Nothing that holds them leaves them half changed.
        let held = || claims.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = |index: usize| {
            let mut claims = held();
            let key = keys[missing[index]];
            let is_mine = claims.contains_key(&index);
            match is_mine || cache.contains(key) {
                true => is_mine,
                false => match cache.claims().take(key.digest(), true) {
                    Taken::Mine(claim) => claims.insert(index, claim).is_none(),
                    _ => false,
                },
            }
        };
        let name = format!("texts of calibration {}", self.name);
        let mut has_written = false;
        writer.write(&name, &begun, keys.len(), sampling, &begins, |index, Written { mut ids, loss }| {
            let (row, prefix) = &beginnings[missing[index]];
            if ids.last().is_some_and(|last| sampling.end.contains(last)) {
                ids.pop();
            }
            let whole = [prefix.as_slice(), &ids].concat();
            let (prefix, text) = (tokenizer.decode(prefix)?, tokenizer.decode(&whole)?);
            let text = Text { row: *row, prefix, text, tokens: whole.len(), loss };
            cache.write_json(keys[missing[index]], &text)?;
            done(held().remove(&index).flatten(), Value::Null);
            (texts[missing[index]], has_written) = (Some(text), true);
            Ok(())
        })?;
        Ok(has_written)
    }
}

/// The tokens of a row, `prefix` of them at most.
fn beginning(rows: &Rows, index: usize, part: &Part, tokenizer: &Tokenizer, prefix: usize) -> Result<Vec<u32>> {
    let mut ids = tokens(&Content::of(&rows.row(index)?, part.templates.as_ref())?, tokenizer, true)?;
    ids.truncate(prefix);
    Ok(ids)
}

impl Origin for Generated<'_> {
    fn what(&self) -> String {
        let by = self.how.model.as_ref().map_or(String::new(), |source| format!(" by {source},"));
        format!("texts{by} begun as rows of data set \"{}\"", self.how.from)
    }

    fn part(&self, library: &Library) -> Result<Option<Part>> {
        library.get(&self.how.from)?.part(self.calibration.split.as_deref(), "train").map(Some)
    }

    fn computes(&self) -> bool {
        true
    }

    fn key(&self, inputs: &Inputs, ask: Ask) -> Key {
        let texts = (self.writing(inputs), self.how.texts(ask), self.how.drop);
        let packing = (self.calibration.packing, ask.length, ask.windows);
        match &self.how.model {
            None => Stage::Windows.key(&("generate", texts, packing, ask.seed)),
            // The texts say nothing of who cuts them.
            Some(_) => Stage::Windows.key(&("generate", texts, packing, ask.seed, inputs.tokenizer_key(self.recipe))),
        }
    }

    fn entries(&self, inputs: &Inputs, ask: Ask) -> Vec<Key> {
        let mut keys = self.text_keys(inputs, ask);
        keys.push(self.key(inputs, ask));
        keys
    }

    fn check(&self, checking: &Checking, ask: Ask) -> Result<()> {
        let Checking { inputs, tokenizer, .. } = checking;
        let pen = self.pen(inputs, tokenizer);
        self.check_settings(inputs)?;
        let input = &inputs.calibrations[self.name];
        let rows = input.checked(pen.tokenizer, pen.spec.vocabulary)?;
        let (texts, mut found) = (self.how.texts(ask), 0);
        for index in 0..rows.len() {
            if found == self.how.rows_needed(texts) {
                break;
            }
            let ids = beginning(&rows, index, &input.part, pen.tokenizer, self.how.prefix);
            let ids = ids.with_context(|| format!("row {}", rows.number(index)))?;
            found += usize::from(ids.len() == self.how.prefix);
        }
        self.how.is_enough((found, rows.len()), texts)?;
        self.may_suffice(inputs, ask)
    }

    fn make(&self, making: &Making, ask: Ask) -> Result<Made> {
        let (study, texts) = (making.study, self.written(making, ask)?);
        let (inputs, perplexities) = (study.inputs(), texts.iter().map(Text::perplexity).collect::<Vec<_>>());
        let kept = kept(&perplexities, self.how.drop);
        let mut lines = String::new();
        for ((text, perplexity), kept) in texts.iter().zip(&perplexities).zip(&kept) {
            let Text { row, prefix, text, tokens, .. } = text;
            let line = json!({
                "prefix": prefix, "text": text, "tokens": tokens, "perplexity": perplexity, "kept": kept, "row": row,
            });
            lines += &format!("{line}\n");
        }
        let key = Stage::Texts.key(&(self.writing(inputs), texts.len(), self.how.drop));
        let file = study.cache().write_beside(key, "jsonl", lines.as_bytes())?;

        let row = |text: &Text| Row::from_iter([("text".to_owned(), json!(text.text))]);
        let left: Vec<&Text> =
            texts.iter().zip(&kept).filter(|(t, kept)| **kept && !t.text.is_empty()).map(|t| t.0).collect();
        let rows: Rows = left.iter().map(|text| row(text)).collect::<Vec<_>>().try_into()?;
        let called = format!("texts of calibration {}", self.name);
        let part = inputs.calibrations[self.name].part.of_texts(called, " ");
        let packing = (self.calibration.packing, ask.length, Some(ask.windows));
        let windows = cut(&rows, &part, study.tokenizer(), inputs.spec.vocabulary, packing, Order::Random(ask.seed))
            .at(|| {
                let or = if packing.0 == Packing::Pack { " or `max_new_tokens`" } else { "" };
                format!("{} of {} texts are left; raise `texts`, or lower `drop`{or}", left.len(), texts.len())
            })?;
        let highest = perplexities.iter().zip(&kept).filter(|(_, kept)| **kept).map(|p| *p.0).fold(0.0, f64::max);
        let details = json!({"generate": {
            "texts": texts.len(),
            "kept": left.len(),
            "tokens": texts.iter().map(|text| text.tokens).sum::<usize>(),
            "highest_perplexity": highest,
            "file": file,
        }});
        Ok(Made { windows, details })
    }

    fn stages(&self, planner: &Planner, ask: Ask) -> Vec<PlannedStage> {
        let own = planned(self.name, self, planner, ask, "");
        let (count, author) = (self.how.texts(ask), planner.inputs.and_then(|inputs| self.author(inputs)));
        let spec = match &self.how.model {
            Some(_) => author.map(|author| &author.spec),
            None => planner.inputs.map(|inputs| &inputs.spec),
        };
        // Of a model that is still to be fetched the plan may know what it computes.
        let computes = if self.how.model.is_some() { spec } else { planner.model() };
        let by = self.how.model.as_ref().map_or(String::new(), |source| format!(" by {source}"));
        let new = spec.map_or(self.how.max_new_tokens, |spec| self.how.new_tokens(spec));
        let length = self.how.prefix.saturating_add(new);
        let there = planner
            .inputs
            .map(|inputs| self.text_keys(inputs, ask).into_iter().filter(|&key| planner.has(key)).count());
        let left = count - there.unwrap_or(0);
        let cached = match there {
            Some(there) if there > 0 && there < count => format!(", {there} of them there"),
            _ => String::new(),
        };
        let texts = PlannedStage {
            name: format!("{count} texts of calibration {}{by}, up to {length} tokens each{cached}", self.name),
            stage: Stage::Texts,
            cached: there.map(|there| there == count),
            // Text in letters, about as many as cost six bytes a token.
            bytes: Some(6u64.saturating_mul((count as u64).saturating_mul(length as u64))),
            work: computes.map(|model| work_of_texts(model, left.saturating_mul(length), length)),
        };
        // Whoever has the windows needs no texts.
        match own.is_to_do() || !texts.is_to_do() {
            true => vec![texts, own],
            false => vec![own],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// sample_ppl.py: `perplexity < np.percentile(perplexities, 80)`.
    #[test]
    fn texts_are_left_out_by_numpys_percentile() {
        let left = |perplexities: &[f64], drop: f64| -> Vec<usize> {
            kept(perplexities, drop).iter().enumerate().filter(|(_, kept)| **kept).map(|(i, _)| i).collect()
        };
        // np.percentile([5, 1, 4, 2, 3], 80) is 4.2, of six of them, up to 6, 5.0, which is one of them.
        assert_eq!(left(&[5.0, 1.0, 4.0, 2.0, 3.0], 0.2), [1, 2, 3, 4]);
        assert_eq!(left(&[5.0, 1.0, 6.0, 4.0, 2.0, 3.0], 0.2), [1, 3, 4, 5]);
        assert_eq!(left(&[2.0, f64::NAN, 1.0], 0.4), [0, 2]);
        assert_eq!(left(&[2.0, 3.0, 1.0], 0.0), [0, 1, 2]);
        assert_eq!(left(&[2.0], 0.9), [0]);
        let many: Vec<f64> = (0..5000).map(|i| (i * 7919 % 5000) as f64).collect();
        assert_eq!(left(&many, 0.2).len(), 4000);
    }

    #[test]
    fn what_is_not_said_has_its_default_and_texts_follow_the_windows() {
        let how: Generate = toml::from_str("from = 'wikitext2'").unwrap();
        let text = "from = 'wikitext2'\nprefix = 8\ntop_k = 50\ntop_p = 0.95\ntemperature = 0.6\n\
                    repetition_penalty = 1.2\nmax_new_tokens = 2048\ndrop = 0.2";
        assert_eq!(how, toml::from_str(text).unwrap());
        let texts = |windows, length| how.texts(Ask { windows, length, seed: 0 });
        assert_eq!((texts(128, 2048), texts(64, 2048), texts(16, 512), texts(1, 2)), (5000, 2500, 157, 1));
    }
}
