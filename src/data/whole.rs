//! Windows of whole rows, as many as fit: none is cut in two, and nothing is padded.

use std::cell::RefCell;
use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::divide::Divider;
use super::prompts::{contents, is_answered, turns};
use super::windows::{SHORTEST, within};
use super::{Content, Order, Part, Rows, Windows};
use crate::model::{Conversation, Tokenizer};

/// What is packed, and into what.
struct Packing<'a> {
    /// The rows in the order in which they are taken.
    order: &'a [usize],
    /// Tokens of a window, at most.
    length: usize,
    /// Rows of a window, at most.
    most: usize,
    /// Windows.
    wanted: usize,
}

/// Windows of whole rows.
pub struct Whole {
    pub windows: Windows,
    /// Rows that the windows are made of.
    pub rows: usize,
    /// Rows that were passed over because they are longer than a window, or have too few tokens to be one.
    pub too_long: usize,
    pub too_short: usize,
}

/// Joins rows one after the other, each to those before it as long as they fit together; the first that does not begins
/// the next window. `join` makes tokens of rows that are joined.
fn pack(packing: &Packing, join: impl Fn(&[usize]) -> Result<Vec<u32>>) -> Result<Whole> {
    let Packing { order, length, most, wanted } = *packing;
    let mut whole = Whole { windows: Windows::default(), rows: 0, too_long: 0, too_short: 0 };
    let counts: RefCell<HashMap<usize, usize>> = RefCell::default();
    let alone = |row: usize| -> Result<usize> {
        if let Some(count) = counts.borrow().get(&row) {
            return Ok(*count);
        }
        let count = join(&[row])?.len();
        counts.borrow_mut().insert(row, count);
        Ok(count)
    };
    // Those that can be in a window at all.
    let mut fitting = Vec::new();
    let (mut rest, mut at) = (order.iter().copied(), 0);
    while whole.windows.len() < wanted {
        // As many as could be in this window, and one more.
        while fitting.len() - at <= length.min(most) {
            let Some(row) = rest.next() else { break };
            match alone(row)? {
                count if count > length => whole.too_long += 1,
                count if count < SHORTEST => whole.too_short += 1,
                _ => fitting.push(row),
            }
            // What is there already is enough by far.
            let tokens: usize = fitting[at..].iter().map(|row| counts.borrow()[row]).sum();
            if tokens > length.saturating_mul(2) {
                break;
            }
        }
        let here = &fitting[at..];
        if here.is_empty() {
            break;
        }
        let most = most.min(here.len());
        // About as many as fit; then those that do.
        let mut count = 1;
        let mut about = alone(here[0])?;
        while count < most && about + alone(here[count])? <= length {
            about += alone(here[count])?;
            count += 1;
        }
        let mut ids = join(&here[..count])?;
        while count > 1 && ids.len() > length {
            count -= 1;
            ids = join(&here[..count])?;
        }
        while count < most {
            let longer = join(&here[..count + 1])?;
            if longer.len() > length {
                break;
            }
            (count, ids) = (count + 1, longer);
        }
        whole.windows.push(&ids);
        whole.rows += count;
        at += count;
    }
    Ok(whole)
}

/// The order in which rows are taken.
fn taken(rows: &Rows, order: Order) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..rows.len()).collect();
    if let Order::Random(seed) = order {
        indices.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    }
    indices
}

/// What a row is joined as.
enum Piece {
    Text(String),
    Chat(String),
    Tokens(Vec<u32>),
}

/// Whole rows, joined by the data set's separator; token ids are put end to end.
///
/// # Errors
/// Where a row cannot be read, or has another kind of content than the others of its window.
pub fn whole_rows(
    rows: &Rows,
    part: &Part,
    tokenizer: &Tokenizer,
    vocabulary: usize,
    (length, count): (usize, Option<usize>),
    order: Order,
) -> Result<Whole> {
    let order = taken(rows, order);
    let pieces: RefCell<HashMap<usize, Piece>> = RefCell::default();
    let read = |row: usize| -> Result<Piece> {
        Ok(match Content::of(&rows.row(row)?, part.templates.as_ref())? {
            Content::Tokens(ids) => Piece::Tokens(ids),
            Content::Chat(messages) => Piece::Chat(tokenizer.chat(&messages, false)?),
            content => content.parts().map(|(prompt, target)| Piece::Text(prompt + &target))?,
        })
    };
    let join = |here: &[usize]| -> Result<Vec<u32>> {
        for &row in here.iter().filter(|row| !pieces.borrow().contains_key(*row)).collect::<Vec<_>>() {
            let piece = read(row).with_context(|| format!("row {}", rows.number(row)))?;
            pieces.borrow_mut().insert(row, piece);
        }
        let pieces = pieces.borrow();
        let (mut texts, mut ids, mut chat) = (Vec::new(), Vec::new(), false);
        for row in here {
            match &pieces[row] {
                Piece::Tokens(own) => ids.extend(own),
                Piece::Text(text) => texts.push(text.as_str()),
                Piece::Chat(text) => {
                    chat = true;
                    texts.push(text);
                }
            }
        }
        if !texts.is_empty() && !ids.is_empty() {
            bail!(
                "row {} is not of the kind of those before it: some have `input_ids`, some text",
                rows.number(here[here.len() - 1])
            );
        }
        let ids = match (texts.is_empty(), chat) {
            (true, _) => ids,
            (false, true) => tokenizer.encode_chat(&texts.join(&part.separator))?,
            (false, false) => tokenizer.encode(&texts.join(&part.separator), true)?,
        };
        within(&ids, vocabulary).with_context(|| format!("row {}", rows.number(here[0])))?;
        Ok(ids)
    };
    let packing = Packing { order: &order, length, most: usize::MAX, wanted: count.unwrap_or(usize::MAX) };
    finished(pack(&packing, join)?, rows, part, (length, count))
}

/// How solved examples stand in a window.
#[derive(Debug, Clone, Copy)]
pub struct Examples {
    /// At most so many in a window.
    pub most: Option<usize>,
    /// Whether they are turns of a conversation in the model's chat template.
    pub chat: bool,
}

/// Whole solved examples, which read as those in front of a suite's prompts.
///
/// # Errors
/// Where a row is no solved example.
pub fn solved_examples(
    rows: &Rows,
    part: &Part,
    tokenizer: &Tokenizer,
    vocabulary: usize,
    how: Examples,
    (length, count): (usize, Option<usize>),
    order: Order,
) -> Result<Whole> {
    let contents = contents(rows, rows.len(), part)?;
    for (i, content) in contents.iter().enumerate() {
        if !is_answered(content).with_context(|| format!("row {}", rows.number(i)))? {
            bail!(
                "row {} has no answer, and is no solved example; `in_context.template` can make one of it, with a `prompt` \
                 and a `target`",
                rows.number(i)
            );
        }
    }
    let chat = how.chat || contents.iter().any(|content| matches!(content, Content::Chat(_)));
    let divider = Divider { tokenizer, chat };
    let join = |here: &[usize]| -> Result<Vec<u32>> {
        let ids = match chat {
            true => {
                let mut messages: Vec<Value> = Vec::new();
                for &row in here {
                    let (prompt, target) = turns(&contents[row])?;
                    messages.extend(prompt);
                    messages.push(json!({"role": "assistant", "content": target}));
                }
                divider.encode(&tokenizer.chat(&Conversation { messages, ..Conversation::default() }, false)?)?
            }
            false => {
                let each = here.iter().map(|&row| contents[row].parts().map(|(prompt, target)| prompt + &target));
                divider.encode(&each.collect::<Result<Vec<_>>>()?.join(&part.separator))?
            }
        };
        within(&ids, vocabulary)?;
        Ok(ids)
    };
    let join = |here: &[usize]| join(here).with_context(|| format!("row {}", rows.number(here[here.len() - 1])));
    let order = taken(rows, order);
    let most = how.most.unwrap_or(usize::MAX);
    let packing = Packing { order: &order, length, most, wanted: count.unwrap_or(usize::MAX) };
    finished(pack(&packing, join)?, rows, part, (length, count))
}

/// The windows, if they are as many as were asked for; a warning where rows were passed over.
fn finished(whole: Whole, rows: &Rows, part: &Part, (length, count): (usize, Option<usize>)) -> Result<Whole> {
    let (made, too_long) = (whole.windows.len(), whole.too_long);
    let least = count.unwrap_or(1);
    if made < least {
        let fit = rows.len() - too_long - whole.too_short;
        bail!(
            "too little data: {fit} of {} rows have at least {SHORTEST} tokens and at most {length}, and together they make \
             {made} windows of {length}, not {least}; longer windows have room for longer rows, and packing = \"concat\" \
             cuts them",
            rows.len()
        );
    }
    if too_long > 0 {
        tracing::warn!(
            "{}: {too_long} rows are longer than a window of {length} tokens and were passed over: packing = \"pack\" \
             cuts none in two",
            part.called()
        );
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The windows that joining one row after the other makes, with a token between each two.
    fn one_by_one(lengths: &[usize], length: usize, most: usize) -> Vec<Vec<u32>> {
        let (mut windows, mut open): (Vec<Vec<u32>>, Vec<u32>) = (vec![], vec![]);
        for (row, &n) in lengths.iter().enumerate() {
            if n > length || n < SHORTEST {
                continue;
            }
            let rows = open.iter().filter(|&&id| id == u32::MAX).count() + 1;
            let fits = open.len() + 1 + n <= length && rows < most;
            match open.is_empty() || fits {
                true if open.is_empty() => {}
                true => open.push(u32::MAX),
                false => windows.push(std::mem::take(&mut open)),
            }
            open.extend(vec![row as u32; n]);
        }
        windows.extend((!open.is_empty()).then_some(open));
        windows
    }

    fn packed(lengths: &[usize], length: usize, most: usize, wanted: usize) -> Whole {
        let order: Vec<usize> = (0..lengths.len()).collect();
        let join = |rows: &[usize]| {
            let each: Vec<Vec<u32>> = rows.iter().map(|&row| vec![row as u32; lengths[row]]).collect();
            Ok(each.join(&u32::MAX))
        };
        pack(&Packing { order: &order, length, most, wanted }, join).unwrap()
    }

    fn each(windows: &Windows) -> Vec<Vec<u32>> {
        windows.ranges().map(|range| windows.ids()[range].to_vec()).collect()
    }

    #[test]
    fn rows_are_joined_as_long_as_they_fit_and_none_is_cut() {
        for seed in 0..60 {
            let lengths: Vec<usize> = (0..50).map(|i| (i * 7 + i * i * (seed + 3)) % 19).collect();
            for (length, most) in [(16, usize::MAX), (17, 3), (9, 1), (40, usize::MAX), (200, 5)] {
                let expected = one_by_one(&lengths, length, most);
                let whole = packed(&lengths, length, most, usize::MAX);
                assert_eq!(each(&whole.windows), expected, "{lengths:?} into {length}, at most {most}");
                let too_long = lengths.iter().filter(|&&n| n > length).count();
                let too_short = lengths.iter().filter(|&&n| n < SHORTEST).count();
                assert_eq!((whole.too_long, whole.too_short), (too_long, too_short));
                assert_eq!(whole.rows, lengths.len() - too_long - too_short);
                let some = packed(&lengths, length, most, 3).windows;
                assert_eq!(each(&some), expected[..3.min(expected.len())]);
            }
        }
    }
}
