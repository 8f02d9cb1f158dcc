//! Token windows: what statistics are gathered on and what language metrics are computed on.

use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::whole::whole_rows;
use super::{Content, Part, Rows};
use crate::model::Tokenizer;

/// How windows are cut from rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Packing {
    /// A window from one row that is long enough, at a random place (SparseGPT, Wanda); rows that
    /// are too short are passed over.
    Crop,
    /// Rows joined, and the whole cut into windows one after the other; the tail is dropped.
    Concat,
    /// A row a window, cut where it is too long.
    Single,
    /// Whole rows joined, as many as fit into a window, which may be shorter; none is cut in two, and one that is longer than
    /// a window is passed over.
    Pack,
}

/// In which order rows are taken, and where a cropped window starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// As they stand in the file, from its start: evaluation.
    Given,
    /// By this seed: calibration.
    Random(u64),
}

/// Windows of tokens, one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Windows {
    ids: Vec<u32>,
    /// Where each window ends in `ids`.
    ends: Vec<usize>,
}

/// The shortest window that has a token to predict.
pub const SHORTEST: usize = 2;

impl Windows {
    /// From the ids of all windows and the end of each.
    ///
    /// # Errors
    /// Where the ends do not divide the ids.
    pub fn new(ids: Vec<u32>, ends: Vec<usize>) -> Result<Self> {
        ensure!(ends.is_sorted() && ends.last().copied().unwrap_or(0) == ids.len(), "the ends do not divide the ids");
        Ok(Self { ids, ends })
    }

    /// The ids of each window.
    pub fn slices(&self) -> impl Iterator<Item = &[u32]> + '_ {
        self.ranges().map(|range| &self.ids[range])
    }

    pub(super) fn push(&mut self, window: &[u32]) {
        self.ids.extend_from_slice(window);
        self.ends.push(self.ids.len());
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// All ids, window after window.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Where each window ends in the ids.
    pub fn ends(&self) -> &[usize] {
        &self.ends
    }

    /// The range of each window in the ids.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| start..end)
    }

    /// Tokens of all windows.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }
}

impl<'a> FromIterator<&'a [u32]> for Windows {
    fn from_iter<I: IntoIterator<Item = &'a [u32]>>(all: I) -> Self {
        let mut windows = Self::default();
        all.into_iter().for_each(|window| windows.push(window));
        windows
    }
}

/// Cuts windows of `length` tokens from rows: `count` of them, or all there are.
///
/// # Errors
/// Where a row cannot be read, an id is outside the `vocabulary`, or there are fewer than `count`
/// windows; the message says how many there are.
pub fn cut(
    rows: &Rows,
    part: &Part,
    tokenizer: &Tokenizer,
    vocabulary: usize,
    (packing, length, count): (Packing, usize, Option<usize>),
    order: Order,
) -> Result<Windows> {
    if packing == Packing::Pack {
        return Ok(whole_rows(rows, part, tokenizer, vocabulary, (length, count), order)?.windows);
    }
    let mut indices: Vec<usize> = (0..rows.len()).collect();
    let mut random = None;
    if let Order::Random(seed) = order {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        indices.shuffle(&mut rng);
        random = Some(rng);
    }
    let wanted = count.unwrap_or(usize::MAX);
    let tokens_of = |index: usize| {
        let read = || {
            let ids = tokens(&Content::of(&rows.row(index)?, part.templates.as_ref())?, tokenizer, true)?;
            within(&ids, vocabulary).map(|()| ids)
        };
        read().with_context(|| format!("row {}", rows.number(index)))
    };

    let mut windows = Windows::default();
    let mut too_short = 0;
    let mut had = String::new();
    match packing {
        Packing::Single => {
            for index in indices {
                if windows.len() == wanted {
                    break;
                }
                let ids = tokens_of(index)?;
                match ids.len() >= SHORTEST {
                    true => windows.push(&ids[..ids.len().min(length)]),
                    false => too_short += 1,
                }
            }
        }
        Packing::Crop => {
            for index in indices {
                if windows.len() == wanted {
                    break;
                }
                let ids = tokens_of(index)?;
                if ids.len() < length {
                    too_short += 1;
                    continue;
                }
                let start = random.as_mut().map_or(0, |rng| rng.random_range(0..=ids.len() - length));
                windows.push(&ids[start..start + length]);
            }
        }
        Packing::Concat => {
            let ids = joined(rows, &indices, part, tokenizer, wanted.saturating_mul(length))?;
            within(&ids, vocabulary).context("rows joined")?;
            ids.chunks_exact(length).take(wanted).for_each(|window| windows.push(window));
            had = format!("all {} rows together have {} tokens", rows.len(), ids.len());
        }
        Packing::Pack => unreachable!("whole rows were packed above"),
    }
    let least = count.unwrap_or(1);
    if windows.len() < least {
        if packing != Packing::Concat {
            let shortest = if packing == Packing::Crop { length } else { SHORTEST };
            had = format!("{} of {} rows have at least {shortest} tokens", rows.len() - too_short, rows.len());
        }
        let remedy = if packing == Packing::Crop { "; packing = \"concat\" joins rows" } else { "" };
        bail!("too little data: {had}, which make {} windows of {length}, not {least}{remedy}", windows.len());
    }
    Ok(windows)
}

/// # Errors
/// Where the embedding has no row for an id, of which PyTorch makes an IndexError.
pub fn within(ids: &[u32], vocabulary: usize) -> Result<()> {
    match ids.iter().find(|&&id| id as usize >= vocabulary) {
        Some(id) => {
            bail!("token id {id} is outside the model's vocabulary of {vocabulary}: its embedding has no such row")
        }
        None => Ok(()),
    }
}

/// The ids of one row. `special` adds the tokens that the model expects around a text.
pub fn tokens(content: &Content, tokenizer: &Tokenizer, special: bool) -> Result<Vec<u32>> {
    match content {
        Content::Tokens(ids) => Ok(ids.clone()),
        Content::Chat(messages) => tokenizer.encode_chat(&tokenizer.chat(messages, false)?),
        text => {
            let (prompt, target) = text.parts()?;
            tokenizer.encode(&(prompt + &target), special)
        }
    }
}

/// The ids of rows joined by the data set's separator, at least `enough` of them if there are.
///
/// Texts are joined before they are tokenized, as the published perplexity does it, so that no token
/// boundary is forced between rows. Rows of token ids are put end to end.
fn joined(rows: &Rows, order: &[usize], part: &Part, tokenizer: &Tokenizer, enough: usize) -> Result<Vec<u32>> {
    let content = |&index: &usize| {
        let read = || Content::of(&rows.row(index)?, part.templates.as_ref());
        read().with_context(|| format!("row {}", rows.number(index)))
    };
    if matches!(order.first().map(&content), Some(Ok(Content::Tokens(_)))) {
        let mut ids = Vec::new();
        for index in order {
            let Content::Tokens(row) = content(index)? else { bail!("row {} has no `input_ids`", rows.number(*index)) };
            ids.extend(row);
            if ids.len() >= enough {
                break;
            }
        }
        return Ok(ids);
    }
    let mut text = String::new();
    let mut chat = false;
    let mut taken = 0;
    // Bytes of text that should be enough; raised where the tokens turn out to be longer.
    let mut goal = enough.saturating_mul(6);
    loop {
        while text.len() < goal && taken < order.len() {
            let row = match content(&order[taken])? {
                Content::Chat(messages) => {
                    chat = true;
                    tokenizer.chat(&messages, false).with_context(|| format!("row {}", rows.number(order[taken])))?
                }
                Content::Tokens(_) => {
                    bail!("row {} has `input_ids` where the first row has text", rows.number(order[taken]))
                }
                text => text.parts().map(|(prompt, target)| prompt + &target)?,
            };
            if taken > 0 {
                text.push_str(&part.separator);
            }
            text.push_str(&row);
            taken += 1;
        }
        let ids = if chat { tokenizer.encode_chat(&text)? } else { tokenizer.encode(&text, true)? };
        if ids.len() >= enough || taken == order.len() {
            return Ok(ids);
        }
        let bytes_a_token = text.len() / ids.len().max(1) + 1;
        goal = goal.max(text.len()).saturating_mul(2).max(bytes_a_token.saturating_mul(enough));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn part() -> Part {
        let library = crate::data::Library::of_recipe(std::path::Path::new("x.toml"));
        library.get("path:rows.jsonl").unwrap().part(None, "train").unwrap()
    }

    /// Rows of token ids 0, 1, 2, …, numbered through.
    fn rows(lengths: &[usize]) -> Rows {
        let mut next = 0..;
        let row =
            |&n: &usize| json!({"input_ids": next.by_ref().take(n).collect::<Vec<u32>>()}).as_object().unwrap().clone();
        lengths.iter().map(row).collect::<Vec<_>>().try_into().unwrap()
    }

    fn cut_ids(lengths: &[usize], packing: (Packing, usize, Option<usize>), order: Order) -> Result<Vec<Vec<u32>>> {
        let windows = cut(&rows(lengths), &part(), &Tokenizer::for_tests(), 1000, packing, order)?;
        Ok(windows.ranges().map(|r| windows.ids()[r].to_vec()).collect())
    }

    #[test]
    fn concat_joins_rows_and_drops_the_tail() {
        let windows = cut_ids(&[3, 3, 3], (Packing::Concat, 4, None), Order::Given).unwrap();
        assert_eq!(windows, [[0, 1, 2, 3], [4, 5, 6, 7]]);
    }

    #[test]
    fn single_makes_a_window_of_a_row_and_cuts_it() {
        let windows = cut_ids(&[3, 1, 5], (Packing::Single, 4, None), Order::Given).unwrap();
        assert_eq!(windows, [vec![0, 1, 2], vec![4, 5, 6, 7]]);
    }

    #[test]
    fn crop_takes_one_window_from_each_long_row_and_the_seed_decides_which() {
        let packing = (Packing::Crop, 4, Some(2));
        let first = cut_ids(&[3, 40, 40, 40], packing, Order::Random(7)).unwrap();
        for window in &first {
            assert!(window.windows(2).all(|p| p[1] == p[0] + 1), "a window comes from one row");
        }
        assert_eq!(first, cut_ids(&[3, 40, 40, 40], packing, Order::Random(7)).unwrap());
        assert_ne!(first, cut_ids(&[3, 40, 40, 40], packing, Order::Random(8)).unwrap());
    }

    #[test]
    fn too_little_data_says_how_much_there_is() {
        let error = cut_ids(&[3, 3], (Packing::Concat, 4, Some(5)), Order::Given).unwrap_err().to_string();
        assert!(error.contains("6 tokens") && error.contains("1 windows of 4, not 5"), "{error}");
        let error = cut_ids(&[3, 9], (Packing::Crop, 4, Some(2)), Order::Given).unwrap_err().to_string();
        assert!(error.contains("1 of 2 rows have at least 4 tokens"), "{error}");
    }

    #[test]
    fn an_id_outside_the_vocabulary_is_an_error() {
        let error = cut(&rows(&[9]), &part(), &Tokenizer::for_tests(), 8, (Packing::Single, 9, None), Order::Given);
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains("row 1: token id 8") && error.contains("vocabulary of 8"), "{error}");
    }
}
