//! The tokenizer of a GGUF file, as llama.cpp reads it (src/llama-vocab.cpp).

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context, Result, bail, ensure};
use candle_core::quantized::gguf_file::Value;
use serde_json::{Map, json};

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
    merges: Vec<(String, String)>,
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
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

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
        let flag = |key: &str, default: bool| get(key).map_or(Ok(default), |value| value.to_bool());
        let mut tokens = strings("tokens")?;
        ensure!(!tokens.is_empty(), "the metadata lacks `tokenizer.ggml.tokens`");
        for (id, token) in tokens.iter_mut().enumerate().filter(|(_, token)| token.is_empty()) {
            *token = format!("[EMPTY_{id}]");
        }
        let kind = file.string("tokenizer.ggml.model").context("the metadata lacks `tokenizer.ggml.model`")?.to_owned();
        let mut ids = HashMap::new();
        for key in IDS {
            let Some(value) = get(key) else { continue };
            let id = value.to_u32().or_else(|_| value.to_i32().map(|v| v as u32))? as usize;
            // llama.cpp takes its default there; no file means that.
            ensure!(id < tokens.len(), "`tokenizer.ggml.{key}` is {id}, but there are {} tokens", tokens.len());
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
        let mut vocabulary = Self {
            types: array("token_type").iter().map(|v| Ok(i64::from(v.to_i32()?))).collect::<Result<_>>()?,
            scores: array("scores").iter().map(|v| Ok(v.to_f32()?)).collect::<Result<_>>()?,
            merges: strings("merges")?.iter().map(|m| merge(m)).collect::<Result<_>>()?,
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
                let model = json!({"type": "BPE", "vocab": vocabulary, "merges": self.merges,
                                   "ignore_merges": split.ignore_merges});
                (json!(null), split.json(), decoder, model)
            }
            ("llama", _) => {
                ensure!(self.scores.len() >= self.tokens.len(), "the metadata lacks `tokenizer.ggml.scores`");
                let (normalizer, decoder) = sentence_piece(self.add_space);
                let unknown = self.token("unknown_token_id").unwrap_or(&self.tokens[0]);
                let model = json!({"type": "BPE", "vocab": vocabulary, "merges": self.merges_by_score(),
                                   "unk_token": unknown, "fuse_unk": true, "byte_fallback": true});
                (normalizer, json!(null), decoder, model)
            }
            (other, _) => {
                bail!("tokenizer \"{other}\" is not supported; calipr reads \"gpt2\" and \"llama\" from GGUF")
            }
        };
        Ok(json!({"version": "1.0", "added_tokens": added, "normalizer": normalizer, "pre_tokenizer": splitter,
                  "post_processor": self.ends_of_texts()?, "decoder": decoder, "model": model}))
    }

    /// What is put around a text.
    fn ends_of_texts(&self) -> Result<serde_json::Value> {
        let (mut before, mut after, mut tokens) = (vec![], vec![], Map::new());
        for (wanted, key, side) in
            [(self.add_bos, "bos_token_id", &mut before), (self.add_eos, "eos_token_id", &mut after)]
        {
            if wanted {
                let id = self.ids.get(key).with_context(|| {
                    format!(
                        "a text begins or ends with a token of its own, but `tokenizer.ggml.{key}` does not say which"
                    )
                })?;
                let token = &self.tokens[*id];
                side.push(json!({"SpecialToken": {"id": token, "type_id": 0}}));
                tokens.insert(token.clone(), json!({"id": token, "ids": [id], "tokens": [token]}));
            }
        }
        if tokens.is_empty() {
            return Ok(json!(null));
        }
        let text = |name: &str, number: u32| json!({"Sequence": {"id": name, "type_id": number}});
        let single = [before.clone(), vec![text("A", 0)], after.clone()].concat();
        let pair = [before, vec![text("A", 0), text("B", 1)], after].concat();
        Ok(json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}))
    }

    /// SentencePiece vocabularies have scores in place of merges: two neighbours merge if their union
    /// is a token, the best score first.
    fn merges_by_score(&self) -> Vec<(&str, &str)> {
        let ids: HashMap<&str, usize> =
            self.tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect();
        let mut merges = Vec::new();
        // No text has a token of a thousand bytes, and to cut one everywhere takes their square.
        for (id, token) in self.tokens.iter().enumerate().filter(|(_, token)| token.len() < 1000) {
            for (at, _) in token.char_indices().skip(1) {
                let (left, right) = token.split_at(at);
                if let (Some(&l), Some(&r)) = (ids.get(left), ids.get(right)) {
                    merges.push((self.scores.get(id).copied().unwrap_or(0.0), l, r, left, right));
                }
            }
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        merges.into_iter().map(|(_, _, _, left, right)| (left, right)).collect()
    }
}

/// A merge, its two parts divided by the first space behind its first character.
fn merge(text: &str) -> Result<(String, String)> {
    let at = text.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
    let at = at.with_context(|| format!("the merge \"{text}\" has no two parts"))?;
    Ok((text[..at].to_owned(), text[at + 1..].to_owned()))
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
            merges: vec![("a".into(), "b".into())],
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
            merges: vec![],
            add_bos: true,
            ..self::vocabulary("llama", &names, &[("bos_token_id", 1), ("eos_token_id", 2)])
        };
        let tokenizer: tokenizers::Tokenizer = vocabulary.tokenizer_json().unwrap().to_string().parse().unwrap();
        let encode = |text: &str, special| tokenizer.encode(text, special).unwrap().get_ids().to_vec();
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
        assert_eq!(tokenizer.encode("ab", true).unwrap().get_ids(), [3, 2, 4]);
        vocabulary.ids.remove("bos_token_id");
        let error = vocabulary.tokenizer_json().unwrap_err().to_string();
        assert!(error.contains("tokenizer.ggml.bos_token_id"), "{error}");
    }

    #[test]
    fn a_token_that_is_there_twice_is_an_error() {
        let error = vocabulary("gpt2", &["a", "b", "a"], &[]).tokenizer_json().unwrap_err().to_string();
        assert!(error.contains("\"a\"") && error.contains("twice"), "{error}");
    }
}
