//! Text to token ids and back, and the model's chat template.
//!
//! A Hugging Face directory has a `tokenizer.json`. A GGUF file has the vocabulary and the name of
//! the splitting rules; from these we write the `tokenizer.json` that the model had before llama.cpp
//! converted it, so that one implementation (the `tokenizers` crate) serves both.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use candle_core::quantized::gguf_file::Value;
use minijinja::ErrorKind;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use serde_json::{Map, json};

use super::weights::GgufFile;
use crate::guard::guarded;
use crate::templates;

/// A model's tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bos: Option<String>,
    eos: Option<String>,
    end: Vec<u32>,
    chat_template: Option<String>,
}

impl Tokenizer {
    /// The tokens that end a text.
    pub fn end(&self) -> &[u32] {
        &self.end
    }

    /// What stands before a text that has nothing before it, with its text: the beginning of a text, or else its end
    /// (lm-evaluation-harness's `prefix_token_id`).
    pub fn prefix(&self) -> Option<(u32, &str)> {
        let token = |text: &'_ Option<String>| self.inner.token_to_id(text.as_deref()?);
        let text = if token(&self.bos).is_some() { &self.bos } else { &self.eos };
        Some((token(text)?, text.as_deref()?))
    }

    /// The largest id that a text can have.
    pub fn largest_id(&self) -> u32 {
        self.inner.get_vocab(true).into_values().max().unwrap_or(0)
    }

    /// Token ids of a text. `special` adds what the model expects around a text of its own, such as
    /// the beginning-of-text token of Llama.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let encode = || {
            let encoding = self.inner.encode_fast(text, special).map_err(|e| anyhow!("{e}"))?;
            Ok(encoding.get_ids().to_vec())
        };
        guarded(encode).context("the tokenizer fails on a text")
    }

    /// The text of token ids, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.decoded(ids, true)
    }

    /// The text of tokens, special ones too.
    pub fn decode_with_special(&self, ids: &[u32]) -> Result<String> {
        self.decoded(ids, false)
    }

    fn decoded(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let decode = || self.inner.decode(ids, skip_special).map_err(|e| anyhow!("{e}"));
        guarded(decode).context("the tokenizer fails on the tokens of a text")
    }

    /// The text of a conversation, a list of `{"role", "content"}`, as the model's chat template has it.
    /// `answer` ends it where the model is to answer.
    ///
    /// # Errors
    /// Where the model has no chat template, or it rejects the conversation.
    pub fn chat(&self, messages: &serde_json::Value, answer: bool) -> Result<String> {
        let template =
            self.chat_template.as_deref().context("a conversation needs a chat template, but the model has none")?;
        templates::check(template).context("the model's chat template")?;
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        let mut env = templates::environment(syntax.expect("the usual delimiters"));
        env.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        let context = json!({
            "messages": messages,
            "add_generation_prompt": answer,
            "tools": null,
            "documents": null,
            "bos_token": self.bos.as_deref().unwrap_or(""),
            "eos_token": self.eos.as_deref().unwrap_or(""),
        });
        let template = template.to_owned();
        let rendered = templates::in_time(move || env.render_str(&template, Serde(context)));
        rendered.and_then(|text| Ok(text?)).context("the model's chat template rejects a row")
    }

    /// From `tokenizer.json`, with `tokenizer_config.json` and `chat_template.jinja` where present.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        ensure!(path.is_file(), "{} has no tokenizer.json; calipr needs the fast tokenizer's file", dir.display());
        let read = || {
            // Read as JSON first: what is not even that is told apart from what is no tokenizer.
            let text = std::fs::read_to_string(&path)?;
            serde_json::from_str::<serde::de::IgnoredAny>(&text)?;
            text.parse::<tokenizers::Tokenizer>().map_err(|e| anyhow!("{e}"))
        };
        let inner = guarded(read).with_context(|| format!("cannot read {}", path.display()))?;
        let mut config = serde_json::Value::Null;
        let config_path = dir.join("tokenizer_config.json");
        if config_path.is_file() {
            let text = std::fs::read_to_string(&config_path)?;
            config = serde_json::from_str(&text).with_context(|| format!("cannot read {}", config_path.display()))?;
        }
        // A special token is a string, or an object with its `content`.
        let token = |key: &str| {
            let value = &config[key];
            value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned)
        };
        let template_path = dir.join("chat_template.jinja");
        let chat_template = match template_path.is_file() {
            true => Some(
                std::fs::read_to_string(&template_path)
                    .with_context(|| format!("cannot read {}", template_path.display()))?,
            ),
            false => configured_template(&config["chat_template"]),
        };
        let eos = token("eos_token");
        let end = match configured_end(dir)? {
            ids if ids.is_empty() => eos.iter().filter_map(|token| inner.token_to_id(token)).collect(),
            ids => ids,
        };
        Self { inner, bos: token("bos_token"), eos, end, chat_template }.without_limits()
    }

    /// From a GGUF file's metadata.
    pub fn from_gguf(file: &GgufFile) -> Result<Self> {
        let vocabulary = GgufVocabulary::read(file)?;
        let json = vocabulary.tokenizer_json()?.to_string();
        let inner = guarded(|| json.parse::<tokenizers::Tokenizer>().map_err(|e| anyhow!("{e}")))
            .context("the vocabulary makes no tokenizer")?;
        Self {
            inner,
            bos: vocabulary.bos.map(|id| vocabulary.tokens[id].clone()),
            eos: vocabulary.eos.map(|id| vocabulary.tokens[id].clone()),
            end: vocabulary.eos.into_iter().chain(vocabulary.eot).map(|id| id as u32).collect(),
            chat_template: file.string("tokenizer.chat_template").map(str::to_owned),
        }
        .without_limits()
    }

    /// Some published files pad or cut every text; windows must do that themselves.
    fn without_limits(mut self) -> Result<Self> {
        self.inner.with_padding(None);
        self.inner.with_truncation(None).map_err(|e| anyhow!("{e}"))?;
        Ok(self)
    }
}

/// `eos_token_id` of `generation_config.json`, else of `config.json`: an id, or a list of them.
fn configured_end(dir: &Path) -> Result<Vec<u32>> {
    for name in ["generation_config.json", "config.json"] {
        let path = dir.join(name);
        if !path.is_file() {
            continue;
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let config: serde_json::Value =
            serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?;
        let ids: Vec<u32> = match &config["eos_token_id"] {
            serde_json::Value::Array(ids) => ids.iter().filter_map(|id| id.as_u64()?.try_into().ok()).collect(),
            id => id.as_u64().and_then(|id| id.try_into().ok()).into_iter().collect(),
        };
        if !ids.is_empty() {
            return Ok(ids);
        }
    }
    Ok(vec![])
}

/// A template, or the one called `default` of several.
fn configured_template(value: &serde_json::Value) -> Option<String> {
    let named = || value.as_array()?.iter().find(|t| t["name"] == "default")?["template"].as_str();
    value.as_str().or_else(named).map(str::to_owned)
}

/// What `tokenizer.ggml.*` says.
struct GgufVocabulary {
    kind: String,
    split: String,
    tokens: Vec<String>,
    types: Vec<i64>,
    scores: Vec<f32>,
    merges: Vec<(String, String)>,
    bos: Option<usize>,
    eos: Option<usize>,
    /// Ends a turn of a conversation, where that is another token.
    eot: Option<usize>,
    add_bos: bool,
    /// SentencePiece puts a space in front of a text.
    add_space: bool,
}

/// Values of `tokenizer.ggml.token_type`.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

impl GgufVocabulary {
    fn read(file: &GgufFile) -> Result<Self> {
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
        let tokens = strings("tokens")?;
        ensure!(!tokens.is_empty(), "the metadata lacks `tokenizer.ggml.tokens`");
        let kind = file.string("tokenizer.ggml.model").context("the metadata lacks `tokenizer.ggml.model`")?;
        let id = |key: &str| -> Result<Option<usize>> {
            let Some(value) = get(key) else { return Ok(None) };
            let id = value.to_u32().or_else(|_| value.to_i32().map(|v| v as u32))? as usize;
            ensure!(id < tokens.len(), "`tokenizer.ggml.{key}` is {id}, but there are {} tokens", tokens.len());
            Ok(Some(id))
        };
        let split = file.string("tokenizer.ggml.pre").unwrap_or("gpt-2").to_owned();
        let default_bos = kind == "llama" || split == "llama-bpe";
        Ok(Self {
            types: array("token_type").iter().map(|v| Ok(i64::from(v.to_i32()?))).collect::<Result<_>>()?,
            scores: array("scores").iter().map(|v| Ok(v.to_f32()?)).collect::<Result<_>>()?,
            merges: strings("merges")?
                .iter()
                .map(|m| m.split_once(' ').map(|(a, b)| (a.into(), b.into())).with_context(|| format!("merge \"{m}\"")))
                .collect::<Result<_>>()?,
            bos: id("bos_token_id")?,
            eos: id("eos_token_id")?,
            eot: id("eot_token_id")?,
            add_bos: match get("add_bos_token") {
                Some(value) => value.to_bool()?,
                None => default_bos,
            },
            add_space: match get("add_space_prefix") {
                Some(value) => value.to_bool()?,
                None => true,
            },
            kind: kind.to_owned(),
            split,
            tokens,
        })
    }

    /// The `tokenizer.json` of the model.
    fn tokenizer_json(&self) -> Result<serde_json::Value> {
        let vocabulary: Map<String, serde_json::Value> =
            self.tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
        let added: Vec<_> = (self.types.iter().zip(&self.tokens).enumerate())
            .filter(|(_, (kind, _))| [CONTROL, USER_DEFINED].contains(kind))
            .map(|(id, (&kind, content))| {
                json!({"id": id, "content": content, "special": kind == CONTROL, "single_word": false,
                       "lstrip": false, "rstrip": false, "normalized": false})
            })
            .collect();
        let (normalizer, splitter, decoder, model) = match self.kind.as_str() {
            "gpt2" => {
                let (normalizer, splitter, ignore_merges) = self.byte_level()?;
                let model =
                    json!({"type": "BPE", "vocab": vocabulary, "merges": self.merges, "ignore_merges": ignore_merges});
                (normalizer, splitter, byte_level_step(false), model)
            }
            "llama" => {
                let (normalizer, decoder) = sentence_piece(self.add_space);
                let model = json!({"type": "BPE", "vocab": vocabulary, "merges": self.merges_by_score(),
                                   "unk_token": self.tokens[0], "fuse_unk": true, "byte_fallback": true});
                (normalizer, json!(null), decoder, model)
            }
            other => bail!("tokenizer \"{other}\" is not supported; calipr reads \"gpt2\" and \"llama\" from GGUF"),
        };
        let post_processor = match self.bos.filter(|_| self.add_bos) {
            Some(id) => {
                let token = &self.tokens[id];
                let bos = json!({"SpecialToken": {"id": token, "type_id": 0}});
                json!({"type": "TemplateProcessing",
                       "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
                       "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                       "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}}})
            }
            None => json!(null),
        };
        Ok(json!({"version": "1.0", "added_tokens": added, "normalizer": normalizer, "pre_tokenizer": splitter,
                  "post_processor": post_processor, "decoder": decoder, "model": model}))
    }

    /// Normalizer, splitter and whether whole words skip the merges, by llama.cpp's name for the rules.
    fn byte_level(&self) -> Result<(serde_json::Value, serde_json::Value, bool)> {
        let by_pattern = |pattern: &str| {
            json!({"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
                byte_level_step(false)]})
        };
        let word = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{DIGITS}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        Ok(match self.split.as_str() {
            // smollm splits digits apart, but none of its merges joins two, so there is nothing to split;
            // transformers reads such files in the same way.
            "gpt-2" | "gpt2" | "default" | "smollm" => (json!(null), byte_level_step(true), false),
            "llama-bpe" | "llama3" | "llama-v3" => (json!(null), by_pattern(&word.replace("{DIGITS}", "{1,3}")), true),
            "qwen2" => (json!({"type": "NFC"}), by_pattern(&word.replace("{DIGITS}", "")), false),
            other => bail!(
                "the splitting rules \"{other}\" are not known; use the model's Hugging Face directory, which has a tokenizer.json"
            ),
        })
    }

    /// SentencePiece vocabularies have scores in place of merges: two neighbours merge if their union
    /// is a token, the best score first.
    fn merges_by_score(&self) -> Vec<(&str, &str)> {
        let ids: std::collections::HashMap<&str, usize> =
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

fn byte_level_step(use_regex: bool) -> serde_json::Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
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
impl Tokenizer {
    /// A word a token, for tests that need a tokenizer but not its words.
    pub fn for_tests() -> Self {
        let model = json!({"type": "WordLevel", "vocab": {"a": 0, "b": 1, "?": 2}, "unk_token": "?"});
        let json =
            json!({"version": "1.0", "pre_tokenizer": {"type": "Whitespace"}, "added_tokens": [], "model": model});
        Self { inner: json.to_string().parse().unwrap(), bos: None, eos: None, end: vec![], chat_template: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentencepiece_vocabulary_merges_by_score_and_falls_back_to_bytes() {
        let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
        tokens.extend((0..256).map(|b| format!("<0x{b:02X}>")));
        let words = ["▁", "a", "b", "c", "ab", "bc", "▁a", "▁ab", "abc"];
        tokens.extend(words.map(String::from));
        let mut scores = vec![0.0; 259];
        scores.extend([-9.0, -9.0, -9.0, -9.0, -2.0, -1.0, -4.0, -3.0, -5.0]);
        let types = [vec![2, 3, 3], vec![6; 256], vec![1; words.len()]].concat();
        let vocabulary = GgufVocabulary {
            kind: "llama".into(),
            split: "default".into(),
            tokens,
            types,
            scores,
            merges: vec![],
            bos: Some(1),
            eos: Some(2),
            eot: None,
            add_bos: true,
            add_space: true,
        };
        let json = vocabulary.tokenizer_json().unwrap().to_string();
        let inner: tokenizers::Tokenizer = json.parse().unwrap();
        let tokenizer = Tokenizer { inner, bos: None, eos: None, end: vec![], chat_template: None };
        let texts = |ids: &[u32]| ids.iter().map(|&i| vocabulary.tokens[i as usize].as_str()).collect::<Vec<_>>();
        // bc (-1) merges before ab (-2); then ▁a (-4).
        assert_eq!(texts(&tokenizer.encode("abc ab", true).unwrap()), ["<s>", "▁a", "bc", "▁ab"]);
        assert_eq!(texts(&tokenizer.encode("é", false).unwrap()), ["▁", "<0xC3>", "<0xA9>"]);
        let ids = tokenizer.encode("abc é ab", false).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), "abc é ab");
    }
}
