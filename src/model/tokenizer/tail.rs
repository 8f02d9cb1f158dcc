//! The end of a text alone: what a token that is added can change of it.
//!
//! Decoding all tokens after each would take the square of their number. Most decoders say what a token is without looking
//! far: bytes, of which a few make a character (byte-level vocabularies), or characters and single bytes, of which all that
//! follow each other are one text or no text (`ByteFallback` of the tokenizers crate). Of these the end can be decoded alone.

use serde_json::Value;

use super::Tokenizer;

/// More bytes than stripping the beginning of a text, or cutting a character in two there, and one that is not whole at the
/// end, can change: three characters that are stripped, and the bytes of two.
const SLACK: usize = 3 * 4 + 2 * 4;

/// Characters that may be stripped off a text's beginning.
const STRIPPED: u64 = 3;

/// Whether a decoder (as `tokenizer.json` has it) makes the same text of tokens wherever they stand, but for those at the
/// beginning, and bytes that follow each other.
pub(super) fn is_local(decoder: &Value) -> bool {
    let alone = std::slice::from_ref(decoder);
    let steps = decoder["decoders"].as_array().filter(|_| decoder["type"] == "Sequence").map_or(alone, Vec::as_slice);
    let mut is_fused = false;
    let characters = |text: &Value| text.as_str().map(|text| text.chars().count());
    steps.iter().all(|step| match step["type"].as_str() {
        Some("ByteLevel" | "Metaspace") => steps.len() == 1,
        Some("ByteFallback") => !is_fused,
        // A token does not lose characters, so that those that there are say how long its text is.
        Some("Replace") => {
            let (from, to) = (characters(&step["pattern"]["String"]), characters(&step["content"]));
            !is_fused && from.zip(to).is_some_and(|(from, to)| from > 0 && from <= to)
        }
        Some("Fuse") => {
            is_fused = true;
            true
        }
        // Of the whole text, and of its beginning alone.
        Some("Strip") => is_fused && step["stop"] == 0 && step["start"].as_u64().is_some_and(|start| start <= STRIPPED),
        _ => false,
    })
}

/// Whether `ByteFallback` could take a token for a byte.
fn is_byte(token: &str) -> bool {
    token.len() == 6 && token.starts_with("<0x") && token.ends_with('>')
}

impl Tokenizer {
    /// Where the tokens begin that have the end of a text: all of it that the last token may have changed, and at least
    /// `bytes` bytes before, as they stand in the whole text. 0 where the whole text is needed.
    pub fn tail(&self, ids: &[u32], bytes: usize) -> usize {
        let Some((_, before)) = ids.split_last().filter(|_| self.is_local) else { return 0 };
        let (mut left, mut in_bytes) = (bytes + SLACK, true);
        for (at, &id) in before.iter().enumerate().rev() {
            // Special tokens are left out of texts, so that bytes on both sides of one follow each other.
            let special = |token: &String| self.inner.get_added_vocabulary().is_special_token(token);
            let Some(token) = self.inner.id_to_token(id).filter(|token| !special(token)) else { continue };
            let is_byte = is_byte(&token);
            if left == 0 && !is_byte {
                return at;
            }
            // Whether bytes are a text, one more may decide.
            in_bytes &= is_byte;
            if !in_bytes {
                left = left.saturating_sub(if is_byte { 1 } else { token.chars().count() });
            }
        }
        0
    }
}
