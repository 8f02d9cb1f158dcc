//! What llama.cpp makes of a text and a `tokenizer.json` cannot say (src/llama-vocab.cpp).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use anyhow::{Context, Result, anyhow, bail};
use tokenizers::{OffsetReferential, OffsetType};

/// A token with its text.
pub type Piece = (u32, String);

/// How a GGUF file's texts become tokens.
pub struct LlamaCpp {
    /// What stands around every text.
    pub begin: Option<Piece>,
    pub end: Option<Piece>,
    pub sentence_piece: Option<SentencePiece>,
    /// Why no text can be read.
    pub fault: Option<String>,
}

impl LlamaCpp {
    /// Token ids of a text; `special` adds what stands around it.
    pub fn encode(&self, inner: &tokenizers::Tokenizer, text: &str, special: bool) -> Result<Vec<u32>> {
        if let Some(fault) = &self.fault {
            bail!("{fault}");
        }
        let mut ids: Vec<u32> = self.begin.iter().filter(|_| special).map(|(id, _)| *id).collect();
        match &self.sentence_piece {
            Some(vocabulary) => vocabulary.encode(inner, text, &mut ids)?,
            None => {
                let encoding = inner.encode_fast(text, false).map_err(|e| anyhow!("{e}"))?;
                ids.extend_from_slice(encoding.get_ids());
            }
        }
        ids.extend(self.end.iter().filter(|_| special).map(|(id, _)| *id));
        Ok(ids)
    }

    /// Whether there are texts that cannot be read.
    pub fn may_fail(&self) -> bool {
        let spells_all = |vocabulary: &SentencePiece| (0..=u8::MAX).all(|byte| vocabulary.byte(byte).is_ok());
        self.fault.is_some() || !self.sentence_piece.as_ref().is_none_or(spells_all)
    }

    /// Token ids of a conversation. What its template wrote around it is not written again (common/chat.cpp:
    /// `common_chat_template_direct_apply`, and the server adds what is missing).
    pub fn encode_chat<'t>(&self, inner: &tokenizers::Tokenizer, text: &'t str) -> Result<Vec<u32>> {
        let strip = |text: &'t str, piece: &Option<Piece>, strip: fn(&'t str, &str) -> Option<&'t str>| {
            piece.as_ref().and_then(|(_, piece)| strip(text, piece)).unwrap_or(text)
        };
        let text = strip(text, &self.begin, |text, begin| text.strip_prefix(begin));
        let text = strip(text, &self.end, |text, end| text.strip_suffix(end));
        self.encode(inner, text, true)
    }
}

/// A vocabulary that has scores in place of merges: two neighbours merge if their union is a token, the best score
/// first, and of equal scores the leftmost.
pub struct SentencePiece {
    ids: HashMap<String, u32>,
    /// By token.
    scores: Vec<f32>,
}

/// Characters of a text that belong together.
struct Symbol {
    start: usize,
    /// 0 once the one before has taken it in.
    length: usize,
    before: Option<usize>,
    after: Option<usize>,
}

/// Two neighbours that could merge, the better the greater.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Merge {
    score: Score,
    left: Reverse<usize>,
    right: usize,
    /// Their bytes when they were found: what has grown since is another pair.
    length: usize,
}

struct Score(f32);

impl Ord for Score {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Score {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Score {}

impl SentencePiece {
    /// Of tokens with their scores. A zero without its sign: both are equal.
    pub fn new(tokens: &[String], scores: &[f32]) -> Self {
        let ids = tokens.iter().cloned().zip(0..).collect();
        Self { ids, scores: (0..tokens.len()).map(|id| scores.get(id).copied().unwrap_or(0.0) + 0.0).collect() }
    }

    /// Adds the tokens of a text. Its special tokens are `inner`'s, and so is what becomes of its spaces.
    fn encode(&self, inner: &tokenizers::Tokenizer, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let parts = inner.get_added_vocabulary().extract_and_normalize(inner.get_normalizer(), text);
        for (part, _, special) in parts.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
            match special {
                Some(tokens) => ids.extend(tokens.iter().map(|token| token.id)),
                None => self.merged(part, ids)?,
            }
        }
        Ok(())
    }

    /// Adds the tokens of a text that has no special ones (`llm_tokenizer_spm_session`).
    fn merged(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let count = text.chars().count();
        let characters = text.char_indices().enumerate();
        let mut symbols: Vec<Symbol> = characters
            .map(|(i, (start, c))| Symbol {
                start,
                length: c.len_utf8(),
                before: i.checked_sub(1),
                after: Some(i + 1).filter(|&next| next < count),
            })
            .collect();
        let mut merges = BinaryHeap::new();
        for right in 1..count {
            merges.extend(self.merge(text, &symbols, Some(right - 1), Some(right)));
        }
        while let Some(Merge { left: Reverse(left), right, length, .. }) = merges.pop() {
            let (of_left, of_right) = (symbols[left].length, symbols[right].length);
            if of_left == 0 || of_right == 0 || of_left + of_right != length {
                continue;
            }
            symbols[left].length = length;
            symbols[right].length = 0;
            let after = symbols[right].after;
            symbols[left].after = after;
            if let Some(after) = after {
                symbols[after].before = Some(left);
            }
            merges.extend(self.merge(text, &symbols, symbols[left].before, Some(left)));
            merges.extend(self.merge(text, &symbols, Some(left), after));
        }
        for symbol in symbols.iter().filter(|symbol| symbol.length > 0) {
            let piece = &text[symbol.start..symbol.start + symbol.length];
            match self.ids.get(piece) {
                Some(&id) => ids.push(id),
                None => {
                    for byte in piece.bytes() {
                        ids.push(self.byte(byte)?);
                    }
                }
            }
        }
        Ok(())
    }

    fn merge(&self, text: &str, symbols: &[Symbol], left: Option<usize>, right: Option<usize>) -> Option<Merge> {
        let (left, right) = (left?, right?);
        let length = symbols[left].length + symbols[right].length;
        let id = *self.ids.get(&text[symbols[left].start..][..length])?;
        Some(Merge { score: Score(self.scores[id as usize]), left: Reverse(left), right, length })
    }

    /// The token of a byte, or of the character that it is.
    fn byte(&self, byte: u8) -> Result<u32> {
        let name = format!("<0x{byte:02X}>");
        let character = || self.ids.get(&char::from(byte).to_string()).filter(|_| byte.is_ascii());
        self.ids.get(&name).or_else(character).copied().with_context(|| {
            format!("a text has a character that no token stands for, and the vocabulary lacks {name} to spell it; convert the model anew")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary(tokens: &[(&str, f32)]) -> (Vec<String>, SentencePiece) {
        let mut names: Vec<String> = (0..256).map(|b| format!("<0x{b:02X}>")).collect();
        let mut scores = vec![0.0; 256];
        names.extend(tokens.iter().map(|(token, _)| (*token).to_owned()));
        scores.extend(tokens.iter().map(|(_, score)| score));
        let vocabulary = SentencePiece::new(&names, &scores);
        (names, vocabulary)
    }

    fn pieces(tokens: &[(&str, f32)], text: &str) -> Vec<String> {
        let (names, vocabulary) = vocabulary(tokens);
        let mut ids = vec![];
        vocabulary.merged(text, &mut ids).unwrap();
        ids.into_iter().map(|id| names[id as usize].clone()).collect()
    }

    #[test]
    fn of_equal_scores_the_leftmost_merges_first() {
        let equal = ["a", "b", "c", "d", "ab", "bc", "cd", "bcd"].map(|token| (token, -1000.0));
        assert_eq!(pieces(&equal, "abcd"), ["ab", "cd"]);
        assert_eq!(pieces(&equal, "bcda"), ["bcd", "a"]);
        let aa = ["a", "aa", "aaa"].map(|token| (token, 0.0));
        assert_eq!(pieces(&aa, "aaaa"), ["aaa", "a"]);
    }

    #[test]
    fn a_better_score_goes_before_what_stands_further_left() {
        let ranked = [("a", -9.0), ("b", -9.0), ("c", -9.0), ("ab", -2.0), ("bc", -1.0)];
        assert_eq!(pieces(&ranked, "abc"), ["a", "bc"]);
        let signed = [("ab", -0.0), ("bc", 0.0)];
        assert_eq!(pieces(&signed, "abc"), ["ab", "<0x63>"]);
    }

    #[test]
    fn characters_that_are_no_tokens_merge_too_and_are_bytes_where_they_do_not() {
        assert_eq!(pieces(&[("éa", 0.0)], "éaé"), ["éa", "<0xC3>", "<0xA9>"]);
    }

    #[test]
    fn a_character_that_cannot_be_spelt_is_an_error() {
        let vocabulary = SentencePiece::new(&["a".to_owned()], &[]);
        let error = vocabulary.merged("aé", &mut vec![]).unwrap_err().to_string();
        assert!(error.contains("<0xC3>"), "{error}");
    }
}
