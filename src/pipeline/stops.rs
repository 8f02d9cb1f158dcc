//! Where an answer ends: at the first of its stop texts.

use anyhow::Result;

use crate::model::Tokenizer;

/// The stop texts of answers.
pub struct Stops<'a> {
    tokenizer: &'a Tokenizer,
    texts: &'a [String],
    /// Bytes of the longest.
    longest: usize,
}

impl<'a> Stops<'a> {
    pub fn new(tokenizer: &'a Tokenizer, texts: &'a [String]) -> Self {
        Self { tokenizer, texts, longest: texts.iter().map(String::len).max().unwrap_or(0) }
    }

    /// Whether an answer has come to a stop text, where it had not before its last token: as [`Stops::cut`] has it, in a
    /// time that does not grow with the answer.
    pub fn is_there(&self, ids: &[u32]) -> bool {
        if self.texts.is_empty() {
            return false;
        }
        let start = self.tokenizer.tail(ids, self.longest);
        let may_have = |text: Result<String>| text.map_or(true, |text| self.first_of(&text).is_some());
        let end = &ids[start..];
        let may_stop =
            start == 0 || may_have(self.tokenizer.decode(end)) || may_have(self.tokenizer.decode_with_special(end));
        may_stop && self.cut(ids).is_ok_and(|(_, stopped)| stopped)
    }

    /// The text of an answer up to the first of its stop texts, and whether one is there. Stop texts are looked for with
    /// special tokens too, as lm-evaluation-harness does it; the answer is without.
    ///
    /// # Errors
    /// Where the tokenizer fails.
    pub fn cut(&self, ids: &[u32]) -> Result<(String, bool)> {
        let tokenizer = self.tokenizer;
        let mut text = tokenizer.decode(ids)?;
        if let Some(at) = self.first_of(&text) {
            text.truncate(at);
            return Ok((text, true));
        }
        let whole = tokenizer.decode_with_special(ids)?;
        let Some(at) = self.first_of(&whole).filter(|_| whole != text) else { return Ok((text, false)) };
        // The stop text has a special token in it: the answer is what stands before, without special tokens of its own.
        let mut before = 0;
        while before < ids.len() && tokenizer.decode_with_special(&ids[..=before])?.len() <= at {
            before += 1;
        }
        let known = tokenizer.decode_with_special(&ids[..before])?;
        let mut text = tokenizer.decode(&ids[..before])?;
        text.push_str(whole.get(known.len()..at).unwrap_or_default());
        Ok((text, true))
    }

    /// Where the first of the stop texts begins.
    fn first_of(&self, text: &str) -> Option<usize> {
        self.texts.iter().filter_map(|part| text.find(part.as_str())).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use serde_json::{Value, json};

    #[test]
    fn an_answer_ends_where_the_first_stop_text_begins() {
        let (tokenizer, texts) = (Tokenizer::for_tests(), ["\n".to_owned(), "###".to_owned()]);
        let stops = Stops::new(&tokenizer, &texts);
        assert_eq!(stops.first_of("yes ### no\n"), Some(4));
        assert_eq!(stops.first_of("yes"), None);
    }

    /// Characters of one to four bytes.
    const CHARACTERS: [&str; 12] = ["a", "b", ".", " ", "\n", "é", "ß", "�", "中", "▁", "🙂", "👩‍🔬"];

    /// What stands for each byte in a byte-level vocabulary (GPT-2: `bytes_to_unicode`).
    fn byte_level(bytes: &[u8]) -> String {
        let printed = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let others: Vec<u8> = (0..=255).filter(|&byte| !printed(byte)).collect();
        let stands = |byte: &u8| match others.iter().position(|other| other == byte) {
            Some(at) => char::from_u32(256 + at as u32).unwrap(),
            None => char::from(*byte),
        };
        bytes.iter().map(stands).collect()
    }

    /// A folder's tokenizer with these tokens and this decoder; the last two are special.
    fn tokenizer(tokens: &[String], decoder: &Value) -> Tokenizer {
        let vocabulary: serde_json::Map<String, Value> =
            tokens.iter().cloned().zip((0..).map(|id: u32| id.into())).collect();
        let special = |(at, content): (usize, &String)| {
            json!({"id": at, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        };
        let added: Vec<Value> = tokens.iter().enumerate().skip(tokens.len() - 2).map(special).collect();
        let file = json!({
            "version": "1.0", "added_tokens": added, "decoder": decoder,
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": tokens[0]},
        });
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), "{}").unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), file.to_string()).unwrap();
        Tokenizer::from_dir(dir.path()).unwrap()
    }

    fn draw<'a, T>(random: &mut ChaCha8Rng, from: &'a [T]) -> &'a T {
        &from[random.random_range(0..from.len())]
    }

    /// Vocabularies of pieces of texts, with decoders of several kinds, and whether the end of a text is decoded alone.
    fn vocabularies(random: &mut ChaCha8Rng) -> Vec<(&'static str, Vec<String>, Value, bool)> {
        let mut texts: Vec<String> = CHARACTERS.map(str::to_owned).to_vec();
        for _ in 0..40 {
            let count = random.random_range(1..5);
            texts.push((0..count).map(|_| *draw(random, &CHARACTERS)).collect());
        }
        let ends = ["<|end|>".to_owned(), "</s>".to_owned()];
        let unique = |mut tokens: Vec<String>| {
            tokens.sort();
            tokens.dedup();
            [tokens, ends.to_vec()].concat()
        };
        // Pieces of bytes that are no characters, too.
        let mut bytes: Vec<String> = (0..=255).map(|byte| byte_level(&[byte])).collect();
        bytes.extend(texts.iter().map(|text| byte_level(text.as_bytes())));
        bytes.extend(texts.iter().map(|text| byte_level(&text.as_bytes()[text.len() / 2..])));
        let mut pieces: Vec<String> = texts.iter().map(|text| text.replace(' ', "▁")).collect();
        let plain = unique(pieces.clone());
        pieces.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
        let pieces = unique(pieces);
        let replace = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
        let (fallback, fuse) = (json!({"type": "ByteFallback"}), json!({"type": "Fuse"}));
        let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
        let sequence = |steps: Vec<&Value>| json!({"type": "Sequence", "decoders": steps});
        let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true});
        let byte_level_decoder =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        vec![
            ("bytes", unique(bytes), byte_level_decoder, true),
            ("Llama", pieces.clone(), sequence(vec![&replace, &fallback, &fuse, &strip]), true),
            ("Gemma", pieces.clone(), sequence(vec![&replace, &fallback, &fuse]), true),
            ("T5", plain.clone(), metaspace, true),
            // What is replaced in the whole text, or looks at all tokens, needs all of it.
            ("whole", pieces, sequence(vec![&fallback, &fuse, &replace]), false),
            ("words", plain.clone(), json!({"type": "WordPiece", "prefix": "▁", "cleanup": true}), false),
            (
                "repeated",
                plain,
                json!({"type": "CTC", "pad_token": "a", "word_delimiter_token": "▁", "cleanup": true}),
                false,
            ),
        ]
    }

    #[test]
    fn decoding_the_end_alone_stops_where_decoding_all_does() {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        for (name, tokens, decoder, is_local) in vocabularies(&mut random) {
            let tokenizer = tokenizer(&tokens, &decoder);
            // Tokens that are bytes are most of a vocabulary; of others there are to be as many.
            let lone = |token: &&u32| {
                tokens[**token as usize].chars().count() > 1 && !tokens[**token as usize].starts_with("<0x")
            };
            let all: Vec<u32> = (0..tokens.len() as u32).collect();
            let longer: Vec<u32> = all.iter().filter(lone).copied().collect();
            let (mut stopped, mut alone) = (0, 0);
            for round in 0..300 {
                let length = random.random_range(1..90);
                let ids: Vec<u32> = (0..length)
                    .map(|_| {
                        let from = if random.random_bool(0.4) { &all } else { &longer };
                        *draw(&mut random, from)
                    })
                    .collect();
                // Parts of the text, wherever they begin and end.
                let text: Vec<char> = match round % 2 {
                    0 => tokenizer.decode(&ids).unwrap().chars().collect(),
                    _ => tokenizer.decode_with_special(&ids).unwrap().chars().collect(),
                };
                let mut texts = vec![];
                for _ in 0..random.random_range(1..3) {
                    let count = random.random_range(1..=text.len().clamp(1, 9));
                    let start = random.random_range(0..=text.len().saturating_sub(count));
                    texts.push(text[start..text.len().min(start + count)].iter().collect::<String>());
                }
                if round % 10 == 0 {
                    texts = vec!["<|end|>\n".into(), "</s>".into()];
                }
                let stops = Stops::new(&tokenizer, &texts);
                for count in 1..=ids.len() {
                    let here = &ids[..count];
                    let (expected, found) = (stops.cut(here).unwrap().1, stops.is_there(here));
                    assert_eq!(found, expected, "{name}: {texts:?} in {:?}", tokenizer.decode_with_special(here));
                    alone += usize::from(tokenizer.tail(here, stops.longest) > 0);
                    if expected {
                        stopped += 1;
                        break;
                    }
                }
            }
            assert!(stopped > 150, "{name}: {stopped} stop");
            assert_eq!(alone > 1000, is_local, "{name}: {alone} ends were decoded alone");
        }
    }

    #[test]
    fn what_is_decoded_of_a_long_answer_is_its_end() {
        let mut random = ChaCha8Rng::seed_from_u64(8);
        for (name, tokens, decoder, _) in vocabularies(&mut random).into_iter().filter(|(.., is_local)| *is_local) {
            let tokenizer = tokenizer(&tokens, &decoder);
            for length in [500, 5000] {
                let ids: Vec<u32> = (0..length).map(|_| random.random_range(0..tokens.len() as u32)).collect();
                let end = ids.len() - tokenizer.tail(&ids, 4);
                assert!(end < 120, "{name}: {end} of {length} tokens");
            }
        }
    }
}
