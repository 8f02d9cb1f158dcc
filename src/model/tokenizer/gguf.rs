//! The tokenizer of a GGUF file, as llama.cpp reads it (src/llama-vocab.cpp).

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context, Result, bail, ensure};
use candle_core::quantized::gguf_file::Value;
use serde_json::{Map, json};

use super::llama_cpp::{LlamaCpp, Piece, SentencePiece};
use super::split::{self, Split};
use crate::model::weights::GgufFile;

/// What `tokenizer.ggml.*` says.
pub struct GgufVocabulary {
    kind: String,
    /// Of byte-level tokenizers: the name of how texts are split.
    split: Option<String>,
    tokens: Vec<String>,
    types: Vec<i64>,
    scores: Vec<f32>,
    /// None: the file does not have any, nor says so.
    merges: Option<Vec<(String, String)>>,
    /// Ids by the name of their key, as far as the file has them.
    ids: HashMap<&'static str, usize>,
    add_bos: bool,
    add_eos: bool,
    /// SentencePiece puts a space in front of a text.
    add_space: bool,
    /// Phi 3's special tokens take the white space behind them along, which llama.cpp knows by the model's name.
    is_phi3: bool,
}

/// Values of `tokenizer.ggml.token_type`.
pub const NORMAL: i64 = 1;
pub const UNKNOWN: i64 = 2;
pub const CONTROL: i64 = 3;
pub const USER_DEFINED: i64 = 4;
pub const UNUSED: i64 = 5;
pub const BYTE: i64 = 6;

/// Keys of ids.
const IDS: [&str; 10] = [
    "bos_token_id",
    "eos_token_id",
    "eot_token_id",
    "eom_token_id",
    "unknown_token_id",
    "seperator_token_id",
    "padding_token_id",
    "fim_pad_token_id",
    "fim_rep_token_id",
    "fim_sep_token_id",
];

/// Tokens that end what a model writes, whatever the file says of them.
const ENDS: [&str; 22] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Tokens around files and gaps in code, by the keys that they stand for; these end what a model writes too.
const BY_TEXT: [(&str, &[&str]); 3] = [
    ("fim_pad_token_id", &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"]),
    ("fim_rep_token_id", &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"]),
    ("fim_sep_token_id", &["<|file_sep|>"]),
];

/// gpt-oss's marks within an answer, which are to be seen.
const SHOWN: [&str; 4] = ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

impl GgufVocabulary {
    pub fn read(file: &GgufFile) -> Result<Self> {
        let get = |key: &str| file.metadata().get(&format!("tokenizer.ggml.{key}"));
        let array = |key: &str| match get(key) {
            Some(Value::Array(values)) => values.as_slice(),
            _ => &[],
        };
        let strings = |key: &str| -> Result<Vec<String>> {
            array(key)
                .iter()
                .map(|v| Ok(v.to_string()?.clone()))
                .collect::<Result<_>>()
                .with_context(|| format!("`tokenizer.ggml.{key}`"))
        };
        let flag = |key: &str, default: bool| match get(key) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(*value),
            Some(other) => bail!(
                "`tokenizer.ggml.{key}` is {other:?}; llama.cpp takes a bool there: write true or false as GGUF's bool"
            ),
        };
        let mut tokens = strings("tokens")?;
        ensure!(!tokens.is_empty(), "the metadata lacks `tokenizer.ggml.tokens`");
        for (id, token) in tokens.iter_mut().enumerate().filter(|(_, token)| token.is_empty()) {
            *token = format!("[EMPTY_{id}]");
        }
        let kind = file.string("tokenizer.ggml.model").context("the metadata lacks `tokenizer.ggml.model`")?.to_owned();
        let mut ids = HashMap::new();
        for key in IDS {
            let Some(value) = get(key) else { continue };
            let Some(id) = whole(value) else {
                bail!("`tokenizer.ggml.{key}` is {value:?}; llama.cpp takes a number of 32 bits (U32) there");
            };
            // -1 is written as 4294967295 too.
            let Some(id) = usize::try_from(id).ok().filter(|&id| id < tokens.len()) else {
                let found = if id == i64::from(u32::MAX) { -1 } else { id };
                // llama.cpp takes its default there; no file means that.
                ensure!(
                    !has_default(&kind, key),
                    "`tokenizer.ggml.{key}` is {found}, but there are {} tokens: write the id of one, or leave the key out",
                    tokens.len()
                );
                tracing::warn!(
                    "`tokenizer.ggml.{key}` is {found}, which is no token's id: the model has no such token"
                );
                continue;
            };
            ids.insert(key, id);
        }
        let split = match (kind.as_str(), file.string("tokenizer.ggml.pre")) {
            ("gpt2", Some(name)) if !name.is_empty() => Some(name.to_owned()),
            ("gpt2", _) => Some(split::WITHOUT_A_NAME.to_owned()),
            _ => None,
        };
        if kind == "llama" {
            // llama.cpp's defaults for SentencePiece.
            for (key, id) in [("bos_token_id", 1), ("eos_token_id", 2), ("unknown_token_id", 0)] {
                if id < tokens.len() {
                    ids.entry(key).or_insert(id);
                }
            }
        }
        let default_bos = match &split {
            Some(name) => Split::named(name)?.add_bos,
            None => kind == "llama",
        };
        let name = file.string("general.name").unwrap_or_default().to_lowercase();
        let count = tokens.len();
        let mut vocabulary = Self {
            types: of_tokens("token_type", get("token_type"), count, &whole)?.unwrap_or_else(|| vec![NORMAL; count]),
            scores: of_tokens("scores", get("scores"), count, &score)?.unwrap_or_else(|| vec![0.0; count]),
            merges: get("merges").map(|_| strings("merges").map(|texts| merges(&texts))).transpose()?,
            add_bos: flag("add_bos_token", default_bos)?,
            add_eos: flag("add_eos_token", false)?,
            add_space: flag("add_space_prefix", true)?,
            is_phi3: name.contains("phi-3") || name.contains("phi3"),
            kind,
            split,
            tokens,
            ids,
        };
        vocabulary.override_types();
        Ok(vocabulary)
    }

    /// Tokens whose text says what they are, whatever their type.
    fn override_types(&mut self) {
        let fims = BY_TEXT.iter().flat_map(|(_, texts)| texts.iter());
        let control: BTreeSet<&str> = ENDS.iter().chain(fims).copied().collect();
        for (token, kind) in self.tokens.iter().zip(&mut self.types) {
            if control.contains(token.as_str()) {
                *kind = CONTROL;
            } else if SHOWN.contains(&token.as_str()) {
                *kind = USER_DEFINED;
            }
        }
    }

    /// Whether the file does not say how texts are split.
    pub fn splits_by_default(&self) -> bool {
        self.split.as_deref() == Some(split::WITHOUT_A_NAME)
    }

    /// The token of a key, such as `bos_token_id`.
    pub fn token(&self, key: &str) -> Option<&str> {
        self.ids.get(key).map(|id| self.tokens[*id].as_str())
    }

    /// The id of a key.
    pub fn id(&self, key: &str) -> Option<usize> {
        self.ids.get(key).copied()
    }

    pub fn is_sentence_piece(&self) -> bool {
        self.kind == "llama"
    }

    /// The ids of tokens that stand for text.
    pub fn words(&self) -> impl Iterator<Item = u32> {
        self.types.iter().enumerate().filter(|(_, kind)| **kind == NORMAL).map(|(id, _)| id as u32)
    }

    /// The tokens that SentencePiece may merge to, with their ids and scores.
    pub fn scored(&self) -> impl Iterator<Item = (usize, &str, f32)> {
        let merged = self.types.iter().zip(&self.tokens).zip(&self.scores).enumerate();
        let merged = merged.filter(|(_, ((kind, _), _))| [NORMAL, USER_DEFINED].contains(*kind));
        merged.map(|(id, ((_, token), score))| (id, token.as_str(), *score))
    }

    /// Every token that ends what a model writes: by the file's keys, and by its text.
    pub fn ends(&self) -> Vec<u32> {
        let mut ends: BTreeSet<usize> = BTreeSet::new();
        ends.extend(["eos_token_id", "eot_token_id", "eom_token_id"].iter().filter_map(|key| self.ids.get(key)));
        for (key, texts) in BY_TEXT {
            let by_text = || self.tokens.iter().position(|token| texts.contains(&token.as_str()));
            ends.extend(self.ids.get(key).copied().or_else(by_text));
        }
        let is_end = |token: &String| ENDS.contains(&token.as_str());
        ends.extend(self.tokens.iter().enumerate().filter(|(_, token)| is_end(token)).map(|(id, _)| id));
        let has = |text: &str| ends.iter().any(|&id| self.tokens[id] == text);
        // Where other tokens end an answer, these stand within it (gpt-oss, Solar Open; Gemma 4).
        let inner_end =
            has("<|return|>") && has("<|call|>") || (has("<|call|>") || has("<|calls|>")) && has("<|flush|>");
        let inner_s = has("<|tool_response>");
        ends.retain(|&id| !(inner_end && self.tokens[id] == "<|end|>" || inner_s && self.tokens[id] == "</s>"));
        ends.into_iter().map(|id| id as u32).collect()
    }

    /// The `tokenizer.json` of the model.
    pub fn tokenizer_json(&self) -> Result<serde_json::Value> {
        let mut vocabulary: Map<String, serde_json::Value> = Map::new();
        for (id, token) in self.tokens.iter().enumerate() {
            if let Some(first) = vocabulary.insert(token.clone(), json!(id)) {
                bail!("the token {token:?} is there twice, as {first} and {id}");
            }
        }
        let special = [UNKNOWN, CONTROL, USER_DEFINED];
        let keeps_space = ["<unk>", "<s>", "<|endoftext|>"];
        let added: Vec<_> = (self.types.iter().zip(&self.tokens).enumerate())
            .filter(|(_, (kind, _))| special.contains(kind))
            .map(|(id, (&kind, content))| {
                let takes_space = self.is_phi3 && !keeps_space.contains(&content.as_str());
                json!({"id": id, "content": content, "special": kind != USER_DEFINED, "single_word": false,
                       "lstrip": false, "rstrip": takes_space, "normalized": false})
            })
            .collect();
        let (normalizer, splitter, decoder, model) = match (self.kind.as_str(), &self.split) {
            ("gpt2", Some(name)) => {
                let split = Split::named(name)?;
                let decoder =
                    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
                let merges = self.merges.as_deref().unwrap_or_default();
                for (left, right) in merges {
                    let unknown = [left, right, &format!("{left}{right}")].map(|part| !vocabulary.contains_key(part));
                    ensure!(
                        !unknown.contains(&true),
                        "`tokenizer.ggml.merges` has \"{left} {right}\", but not all of {left:?}, {right:?} and \
                         \"{left}{right}\" are tokens; convert the model anew, or remove the merge"
                    );
                }
                let model = json!({"type": "BPE", "vocab": vocabulary, "merges": merges,
                                   "ignore_merges": split.ignore_merges});
                (json!(null), split.json(), decoder, model)
            }
            ("llama", _) => {
                let (normalizer, decoder) = sentence_piece(self.add_space);
                // `SentencePiece` merges.
                let model = json!({"type": "BPE", "vocab": vocabulary, "merges": [], "byte_fallback": true});
                (normalizer, json!(null), decoder, model)
            }
            (other, _) => {
                bail!("tokenizer \"{other}\" is not supported; calipr reads \"gpt2\" and \"llama\" from GGUF")
            }
        };
        Ok(json!({"version": "1.0", "added_tokens": added, "normalizer": normalizer, "pre_tokenizer": splitter,
                  "post_processor": null, "decoder": decoder, "model": model}))
    }

    /// What `tokenizer_json` does not say.
    pub fn llama_cpp(&self) -> Result<LlamaCpp> {
        Ok(LlamaCpp {
            begin: self.end_of_texts(self.add_bos, "bos_token_id")?,
            end: self.end_of_texts(self.add_eos, "eos_token_id")?,
            sentence_piece: (self.kind == "llama").then(|| SentencePiece::new(&self.tokens, &self.scores)),
            fault: self.lacks_merges().then(|| {
                "the model's file has no `tokenizer.ggml.merges`, without which its tokens are not made of bytes, and \
                 llama.cpp does not load it; convert the model anew, or give the data set `input_ids`"
                    .to_owned()
            }),
        })
    }

    /// Whether there is no telling what a text's tokens are: some are longer than a byte, and nothing says how they
    /// are made.
    fn lacks_merges(&self) -> bool {
        let words = || self.types.iter().zip(&self.tokens).filter(|(kind, _)| **kind == NORMAL);
        self.kind == "gpt2" && self.merges.is_none() && words().any(|(_, token)| token.chars().nth(1).is_some())
    }

    /// What stands at one end of a text.
    fn end_of_texts(&self, wanted: bool, key: &str) -> Result<Option<Piece>> {
        if !wanted {
            return Ok(None);
        }
        let id = self.ids.get(key).with_context(|| {
            format!("a text begins or ends with a token of its own, but `tokenizer.ggml.{key}` does not say which")
        })?;
        Ok(Some((*id as u32, self.tokens[*id].clone())))
    }
}

/// A number as llama.cpp takes an id, and one that older converters wrote.
fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::U32(value) => Some(i64::from(*value)),
        Value::I32(value) => Some(i64::from(*value)),
        _ => None,
    }
}

fn score(value: &Value) -> Option<f32> {
    match value {
        Value::F32(value) => Some(*value),
        Value::I32(value) => Some(*value as f32),
        _ => None,
    }
}

/// An array with an item for each token; None where the file lacks it.
fn of_tokens<T>(
    key: &str,
    value: Option<&Value>,
    tokens: usize,
    read: &dyn Fn(&Value) -> Option<T>,
) -> Result<Option<Vec<T>>> {
    let Some(value) = value else { return Ok(None) };
    let Value::Array(items) = value else { bail!("`tokenizer.ggml.{key}` is {value:?}; expected an array") };
    ensure!(
        items.len() >= tokens,
        "`tokenizer.ggml.{key}` has {} items for {tokens} tokens; convert the model anew",
        items.len()
    );
    let read = |item: &Value| {
        read(item).with_context(|| format!("`tokenizer.ggml.{key}` has {item:?}, which llama.cpp does not take there"))
    };
    items.iter().take(tokens).map(read).collect::<Result<_>>().map(Some)
}

/// Whether llama.cpp has an id of its own for a key.
fn has_default(kind: &str, key: &str) -> bool {
    matches!((kind, key), (_, "bos_token_id" | "eos_token_id") | ("llama", "unknown_token_id"))
}

/// Merges, their two parts divided by the first space behind the first character. One without counts for nothing, and
/// of two that are the same, the first counts.
fn merges(texts: &[String]) -> Vec<(String, String)> {
    let mut seen = BTreeSet::new();
    let parts = |text: &String| {
        let at = text.char_indices().skip(1).find(|(_, c)| *c == ' ')?.0;
        Some((text[..at].to_owned(), text[at + 1..].to_owned()))
    };
    texts.iter().filter_map(parts).filter(|merge| seen.insert(merge.clone())).collect()
}

/// Spaces become ▁, and one may be put in front; the decoder turns that around.
fn sentence_piece(add_space: bool) -> (serde_json::Value, serde_json::Value) {
    let mut normalizers = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if add_space {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    (json!({"type": "Sequence", "normalizers": normalizers}), json!({"type": "Sequence", "decoders": decoders}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary(kind: &str, tokens: &[&str], ids: &[(&'static str, usize)]) -> GgufVocabulary {
        GgufVocabulary {
            kind: kind.into(),
            split: (kind == "gpt2").then(|| "gpt-2".into()),
            tokens: tokens.iter().map(|token| (*token).to_owned()).collect(),
            types: vec![1; tokens.len()],
            scores: vec![],
            merges: Some(vec![("a".into(), "b".into())]),
            ids: ids.iter().copied().collect(),
            add_bos: false,
            add_eos: false,
            add_space: true,
            is_phi3: false,
        }
    }

    #[test]
    fn a_sentencepiece_vocabulary_merges_by_score_and_falls_back_to_bytes() {
        let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
        tokens.extend((0..256).map(|b| format!("<0x{b:02X}>")));
        let words = ["▁", "a", "b", "c", "ab", "bc", "▁a", "▁ab", "abc"];
        tokens.extend(words.map(String::from));
        let mut scores = vec![0.0; 259];
        scores.extend([-9.0, -9.0, -9.0, -9.0, -2.0, -1.0, -4.0, -3.0, -5.0]);
        let names: Vec<&str> = tokens.iter().map(String::as_str).collect();
        let vocabulary = GgufVocabulary {
            types: [vec![2, 3, 3], vec![6; 256], vec![1; words.len()]].concat(),
            scores,
            merges: None,
            add_bos: true,
            ..self::vocabulary("llama", &names, &[("bos_token_id", 1), ("eos_token_id", 2)])
        };
        let tokenizer: tokenizers::Tokenizer = vocabulary.tokenizer_json().unwrap().to_string().parse().unwrap();
        let llama_cpp = vocabulary.llama_cpp().unwrap();
        let encode = |text: &str, special| llama_cpp.encode(&tokenizer, text, special).unwrap();
        let texts = |ids: &[u32]| ids.iter().map(|&i| vocabulary.tokens[i as usize].as_str()).collect::<Vec<_>>();
        // bc (-1) merges before ab (-2); then ▁a (-4).
        assert_eq!(texts(&encode("abc ab", true)), ["<s>", "▁a", "bc", "▁ab"]);
        assert_eq!(texts(&encode("é", false)), ["▁", "<0xC3>", "<0xA9>"]);
        assert_eq!(tokenizer.decode(&encode("abc é ab", false), true).unwrap(), "abc é ab");
    }

    #[test]
    fn answers_end_at_what_llama_cpp_takes_as_an_end() {
        let tokens =
            ["a", "<|endoftext|>", "<|im_end|>", "<|file_sep|>", "<|repo_name|>", "<|fim_pad|>", "b", "<tool>"];
        assert_eq!(vocabulary("gpt2", &tokens, &[("eos_token_id", 6)]).ends(), [1, 2, 3, 4, 5, 6]);
        // A key for a token of code puts its text out of effect.
        assert_eq!(
            vocabulary("gpt2", &tokens, &[("fim_pad_token_id", 7), ("eot_token_id", 0)]).ends(),
            [0, 1, 2, 3, 4, 7]
        );
        let harmony = ["<|start|>", "<|end|>", "<|return|>", "<|call|>", "<|message|>"];
        assert_eq!(vocabulary("gpt2", &harmony, &[]).ends(), [2, 3]);
        assert_eq!(vocabulary("gpt2", &["</s>", "<|tool_response>", "<turn|>"], &[]).ends(), [1, 2]);
    }

    #[test]
    fn tokens_are_put_around_texts_where_the_file_or_its_pre_tokenizer_says_so() {
        let tokens = ["a", "b", "ab", "<s>", "</s>"];
        let mut vocabulary = vocabulary("gpt2", &tokens, &[("bos_token_id", 3), ("eos_token_id", 4)]);
        (vocabulary.add_bos, vocabulary.add_eos) = (true, true);
        let tokenizer: tokenizers::Tokenizer = vocabulary.tokenizer_json().unwrap().to_string().parse().unwrap();
        let llama_cpp = vocabulary.llama_cpp().unwrap();
        assert_eq!(llama_cpp.encode(&tokenizer, "ab", true).unwrap(), [3, 2, 4]);
        assert_eq!(llama_cpp.encode(&tokenizer, "ab", false).unwrap(), [2]);
        // A conversation has each once, whether or not its template writes it.
        for text in ["ab", "<s>ab", "ab</s>", "<s>ab</s>"] {
            assert_eq!(llama_cpp.encode_chat(&tokenizer, text).unwrap(), [3, 2, 4]);
        }
        vocabulary.ids.remove("bos_token_id");
        let error = vocabulary.llama_cpp().err().unwrap().to_string();
        assert!(error.contains("tokenizer.ggml.bos_token_id"), "{error}");
    }

    #[test]
    fn a_byte_level_vocabulary_without_merges_reads_no_text_but_of_single_bytes() {
        let mut vocabulary = vocabulary("gpt2", &["a", "b", "ab"], &[]);
        assert!(vocabulary.llama_cpp().unwrap().fault.is_none());
        vocabulary.merges = None;
        assert!(vocabulary.llama_cpp().unwrap().fault.is_some());
        vocabulary.types[2] = CONTROL;
        assert!(vocabulary.llama_cpp().unwrap().fault.is_none());
    }

    #[test]
    fn a_merge_that_makes_no_token_is_named() {
        let error = vocabulary("gpt2", &["a", "b"], &[]).tokenizer_json().unwrap_err().to_string();
        assert!(error.contains("\"a b\""), "{error}");
        let merges = merges(&["a b", "ab", "  a", "a b", ""].map(String::from));
        assert_eq!(merges, [("a".into(), "b".into()), (" ".into(), "a".into())]);
    }

    #[test]
    fn what_a_file_says_of_its_tokens_it_says_of_all() {
        let types = Value::Array(vec![Value::I32(1), Value::I32(3)]);
        assert_eq!(of_tokens("token_type", Some(&types), 2, &whole).unwrap(), Some(vec![1, 3]));
        assert_eq!(of_tokens("token_type", None, 2, &whole).unwrap(), None);
        let error = of_tokens("token_type", Some(&types), 3, &whole).unwrap_err().to_string();
        assert!(error.contains("`tokenizer.ggml.token_type` has 2 items for 3 tokens"), "{error}");
    }

    #[test]
    fn a_token_that_is_there_twice_is_an_error() {
        let error = vocabulary("gpt2", &["a", "b", "a"], &[]).tokenizer_json().unwrap_err().to_string();
        assert!(error.contains("\"a\"") && error.contains("twice"), "{error}");
    }
}
