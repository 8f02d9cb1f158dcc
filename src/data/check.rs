//! Whether every row of a file could be used: which rows are drawn depends on seeds, and what is wrong with one of them
//! should not.

use anyhow::{Result, bail};
use rayon::prelude::*;

use super::shape::{Unusual, is_usual};
use super::windows::{SHORTEST, tokens, within};
use super::{Content, Packing, Part, Rows};
use crate::model::Tokenizer;

/// Checks that each row can be cut into windows: that it has one of the usual shapes or its template prints it, that the
/// model's chat template takes its conversation, that its token ids are the model's.
///
/// How many bytes of text each of them has.
///
/// # Errors
/// The first row that cannot, with its number, and how many others there are.
pub fn check(rows: &Rows, part: &Part, tokenizer: &Tokenizer, vocabulary: usize) -> Result<Vec<usize>> {
    let beyond = tokenizer.largest_id() as usize >= vocabulary || tokenizer.may_fail();
    let usable = |content: &Content| -> Result<usize> {
        // What makes tokens of every text, and none beyond the embedding, need not be asked to.
        if beyond || matches!(content, Content::Tokens(_)) {
            let ids = tokens(content, tokenizer, true)?;
            within(&ids, vocabulary)?;
            return Ok(ids.len() * BYTES_A_TOKEN);
        }
        match content {
            Content::Chat(messages) => tokenizer.chat(messages, false).map(|text| text.len()),
            content => content.parts().map(|(prompt, target)| prompt.len() + target.len()),
        }
    };
    let read = contents_of(rows, rows.len(), part).map(|(i, content)| (i, content.and_then(|c| usable(&c))));
    each(read, rows)
}

/// What the first rows of a file say, each with its place.
pub fn contents_of<'a>(
    rows: &'a Rows,
    count: usize,
    part: &'a Part,
) -> impl ParallelIterator<Item = (usize, Result<Content>)> + 'a {
    rows.chunks(count).flat_map_iter(|(start, rows)| {
        let contents = rows.map_or_else(|error| vec![Err(error)], |rows| part.contents(&rows));
        (start..).zip(contents)
    })
}

/// Bytes of text that are a token at least, in all but the oddest.
const BYTES_A_TOKEN: usize = 8;

/// Whether rows of so many bytes surely make `count` windows.
pub fn are_enough(bytes: &[usize], (packing, length, count): (Packing, usize, Option<usize>)) -> bool {
    let (count, least) = (count.unwrap_or(1), |tokens: usize| tokens.saturating_mul(BYTES_A_TOKEN));
    let rows_of = |tokens: usize| bytes.iter().filter(|&&bytes| bytes >= least(tokens)).count();
    match packing {
        Packing::Concat => bytes.iter().sum::<usize>() >= least(length).saturating_mul(count),
        Packing::Crop => rows_of(length) >= count,
        Packing::Single => rows_of(SHORTEST) >= count,
        // How many fit into a window, only their tokens tell.
        Packing::Pack => false,
    }
}

/// All results in their order, or the error of the first row that has one.
pub fn each<T: Send>(read: impl ParallelIterator<Item = (usize, Result<T>)>, rows: &Rows) -> Result<Vec<T>> {
    let (mut all, mut wrong) = (Vec::new(), Vec::new());
    for (i, result) in read.collect::<Vec<_>>() {
        match result {
            Ok(value) => all.push(value),
            Err(error) => wrong.push((i, error)),
        }
    }
    first_of(wrong, rows)?;
    Ok(all)
}

/// The error of the first of these rows.
fn first_of(wrong: Vec<(usize, anyhow::Error)>, rows: &Rows) -> Result<()> {
    let count = wrong.len();
    let Some((index, error)) = wrong.into_iter().min_by_key(|(index, _)| *index) else { return Ok(()) };
    let error = match lacking(rows, index).filter(|_| error.is::<Unusual>()) {
        Some(lacking) => error.context(lacking),
        None => error,
    };
    match count {
        1 => Err(error.context(format!("row {}", rows.number(index)))),
        _ => {
            let more =
                if count == 2 { "1 more row is wrong".into() } else { format!("{} more rows are wrong", count - 1) };
            bail!("row {}: {error:#} ({more})", rows.number(index))
        }
    }
}

/// What a row lacks that the first one has, which is of a usual shape.
fn lacking(rows: &Rows, index: usize) -> Option<String> {
    let (first, row) = (rows.row(0).ok().filter(is_usual)?, rows.row(index).ok()?);
    let lacking: Vec<String> =
        first.keys().filter(|key| !row.contains_key(*key)).map(|key| format!("`{key}`")).collect();
    (!lacking.is_empty()).then(|| format!("it has no {}, which row {} has", lacking.join(" and no "), rows.number(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn checked(rows: Value) -> Result<Vec<usize>> {
        let library = crate::data::Library::of_recipe(std::path::Path::new("x.toml"));
        let part = library.get("path:rows.jsonl").unwrap().part(None, "train").unwrap();
        let rows: Vec<_> = rows.as_array().unwrap().iter().map(|row| row.as_object().unwrap().clone()).collect();
        check(&rows.try_into().unwrap(), &part, &Tokenizer::for_tests(), 3)
    }

    #[test]
    fn the_first_wrong_row_is_named_and_the_others_are_counted() {
        let mut rows = vec![json!({"text": "a"}); 600];
        checked(json!(rows)).unwrap();
        rows[300] = json!({"text": null});
        assert_eq!(
            format!("{:#}", checked(json!(rows)).unwrap_err()),
            "row 301: `text` is null where a text is expected"
        );
        rows[300] = json!({"txt": "a"});
        let error = format!("{:#}", checked(json!(rows)).unwrap_err());
        assert!(error.contains("row 301: it has no `text`, which row 1 has: a row with the fields `txt`"), "{error}");
        rows[299] = json!({"text": ["a"]});
        rows[599] = json!({"title": "a"});
        let error = format!("{:#}", checked(json!(rows)).unwrap_err());
        assert_eq!(error, "row 300: `text` is a list where a text is expected (2 more rows are wrong)");
    }

    #[test]
    fn conversations_need_a_template_and_ids_a_row_of_the_embedding() {
        let talk = json!({"messages": [{"role": "user", "content": "a"}]});
        assert!(format!("{:#}", checked(json!([talk])).unwrap_err()).contains("needs a chat template"));
        checked(json!([{"input_ids": [0, 2]}])).unwrap();
        let error = format!("{:#}", checked(json!([{"input_ids": [0]}, {"input_ids": [0, 3]}])).unwrap_err());
        assert!(error.contains("row 2: token id 3 is outside the model's vocabulary of 3"), "{error}");
    }

    #[test]
    fn long_texts_are_surely_enough_and_short_ones_are_to_be_counted() {
        let bytes = checked(json!([{"text": "a".repeat(64)}, {"text": "a".repeat(80)}, {"text": ""}])).unwrap();
        assert_eq!(bytes, [64, 80, 0]);
        assert!(
            are_enough(&bytes, (Packing::Concat, 9, Some(2))) && !are_enough(&bytes, (Packing::Concat, 9, Some(3)))
        );
        assert!(are_enough(&bytes, (Packing::Crop, 8, Some(2))) && !are_enough(&bytes, (Packing::Crop, 9, Some(2))));
        assert!(
            are_enough(&bytes, (Packing::Single, 9, Some(2))) && !are_enough(&bytes, (Packing::Single, 9, Some(3)))
        );
    }
}
