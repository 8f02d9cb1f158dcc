//! Text to token ids and back, and the model's chat template.
//!
//! A Hugging Face directory has a `tokenizer.json`. A GGUF file has the vocabulary and the name of
//! the splitting rules; from these we write the `tokenizer.json` that the model had before llama.cpp
//! converted it, so that one implementation (the `tokenizers` crate) serves both.

mod chat;
mod gguf;
mod llama_cpp;
mod special;
mod split;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Map, Value};
use tokenizers::models::ModelWrapper;

use super::generation_config::GenerationConfig;
use super::weights::GgufFile;
use crate::guard::guarded;
use crate::templates::Date;
use chat::ChatTemplates;
pub use chat::Conversation;
use gguf::GgufVocabulary;
use llama_cpp::LlamaCpp;
use special::SpecialTokens;

/// A model's tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Of GGUF files: what llama.cpp does beyond.
    llama_cpp: Option<LlamaCpp>,
    /// Special tokens as a chat template finds them, such as `bos_token`.
    variables: Vec<(String, String)>,
    end: Vec<u32>,
    templates: ChatTemplates,
    /// What a chat template is told that asks for today's date.
    today: Option<Date>,
    /// Whether decoded texts lose the spaces before their punctuation.
    cleans_up: bool,
}

/// Files of a directory that a tokenizer is made of, where they are there.
pub const FILES: [&str; 6] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
];

/// Further files of a directory that a tokenizer is made of.
pub fn further_files(dir: &Path) -> Result<Vec<PathBuf>> {
    ChatTemplates::additional(dir)
}

impl Tokenizer {
    /// The tokens that end a text.
    pub fn end(&self) -> &[u32] {
        &self.end
    }

    /// What stands before a text that has nothing before it, with its text: the beginning of a text, or else its end
    /// (lm-evaluation-harness's `prefix_token_id`).
    pub fn prefix(&self) -> Option<(u32, &str)> {
        let token = |name: &str| {
            let (_, text) = self.variables.iter().find(|(known, _)| known == name)?;
            Some((self.inner.token_to_id(text)?, text.as_str()))
        };
        token("bos_token").or_else(|| token("eos_token"))
    }

    /// The largest id that a text can have.
    pub fn largest_id(&self) -> u32 {
        self.inner.get_vocab(true).into_values().max().unwrap_or(0)
    }

    /// Token ids of a text. `special` adds what the model expects around a text of its own, such as
    /// the beginning-of-text token of Llama.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let encode = || {
            if let Some(llama_cpp) = &self.llama_cpp {
                return llama_cpp.encode(&self.inner, text, special);
            }
            let encoding = self.inner.encode_fast(text, special).map_err(|e| anyhow!("{e}"))?;
            Ok(encoding.get_ids().to_vec())
        };
        guarded(encode).context("the tokenizer fails on a text")
    }

    /// Token ids of a conversation's text. Its template writes its own special tokens; llama.cpp adds what a text
    /// begins and ends with where the template does not.
    pub fn encode_chat(&self, text: &str) -> Result<Vec<u32>> {
        match &self.llama_cpp {
            Some(llama_cpp) => guarded(|| llama_cpp.encode_chat(&self.inner, text)),
            None => return self.encode(text, false),
        }
        .context("the tokenizer fails on a text")
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
        let text = guarded(decode).context("the tokenizer fails on the tokens of a text")?;
        Ok(if self.cleans_up { cleaned_up(&text) } else { text })
    }

    /// From `tokenizer.json`, and the files beside it that transformers reads.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        ensure!(path.is_file(), "{} has no tokenizer.json; calipr needs the fast tokenizer's file", dir.display());
        let read = || {
            // Read as JSON first: what is not even that is told apart from what is no tokenizer.
            let text = std::fs::read_to_string(&path)?;
            serde_json::from_str::<serde::de::IgnoredAny>(&text)?;
            text.parse::<tokenizers::Tokenizer>().map_err(|e| anyhow!("{e}"))
        };
        let mut inner = guarded(read).with_context(|| format!("cannot read {}", path.display()))?;
        let mut config = read_config(dir)?;
        if let Some(padding) = inner.get_padding() {
            config.entry("pad_token").or_insert_with(|| padding.pad_token.clone().into());
        }
        if class(dir, &config)?.is_some_and(|class| class.starts_with("LlamaTokenizer")) && is_byte_level(&inner) {
            // transformers takes no class there, and so none of its defaults.
            config.insert("tokenizer_class".into(), "TokenizersBackend".into());
        } else if let Some(class) = class(dir, &config)? {
            config.insert("tokenizer_class".into(), class.into());
        }
        let config = Value::Object(config);
        let known: Vec<_> = inner.get_added_tokens_decoder().into_values().collect();
        let special = SpecialTokens::of(dir, &config, &known)
            .with_context(|| format!("the special tokens of {}", dir.display()))?;
        guarded(|| inner.add_tokens(special.added).map_err(|e| anyhow!("{e}")))
            .with_context(|| format!("the special tokens of {}", dir.display()))?;
        let end = match GenerationConfig::of(dir)?.end() {
            ids if ids.is_empty() => {
                let eos = special.variables.iter().find(|(name, _)| name == "eos_token");
                eos.and_then(|(_, token)| inner.token_to_id(token)).into_iter().collect()
            }
            ids => ids,
        };
        // transformers: `_decode` cleans up after others than BPE, unless it is told to corrupt the output of that too.
        let flag = |name: &str| config[name].as_bool().unwrap_or(false);
        let is_bpe = matches!(inner.get_model(), ModelWrapper::BPE(_));
        let cleans_up = flag("clean_up_tokenization_spaces")
            && (!is_bpe || flag("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"));
        let templates = ChatTemplates::of(dir, &config)?;
        Self { inner, llama_cpp: None, variables: special.variables, end, templates, today: None, cleans_up }
            .without_limits()
    }

    /// From a GGUF file's metadata.
    pub fn from_gguf(file: &GgufFile) -> Result<Self> {
        let vocabulary = GgufVocabulary::read(file)?;
        if vocabulary.splits_by_default() {
            tracing::warn!(
                "the model has no `tokenizer.ggml.pre`, the name of its pre-tokenizer: texts are split by llama.cpp's \
                 default, which is no model's own; a file that was converted anew has the name"
            );
        }
        let json = vocabulary.tokenizer_json()?.to_string();
        let inner = guarded(|| json.parse::<tokenizers::Tokenizer>().map_err(|e| anyhow!("{e}")))
            .context("the vocabulary makes no tokenizer")?;
        let names = ["bos", "eos", "unk", "pad", "sep"].into_iter();
        let keys = ["bos_token_id", "eos_token_id", "unknown_token_id", "padding_token_id", "seperator_token_id"];
        let token = |(name, key): (&str, &str)| Some((format!("{name}_token"), vocabulary.token(key)?.to_owned()));
        Self {
            inner,
            llama_cpp: Some(vocabulary.llama_cpp()?),
            variables: names.zip(keys).filter_map(token).collect(),
            end: vocabulary.ends(),
            templates: templates_of_gguf(file),
            today: None,
            cleans_up: false,
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

/// An error where a GGUF file's tokenizer cannot be read, found in its header.
pub fn check_gguf(file: &GgufFile) -> Result<()> {
    let vocabulary = GgufVocabulary::read(file)?;
    vocabulary.llama_cpp()?;
    vocabulary.tokenizer_json().map(|_| ())
}

/// An error where a directory's tokenizer cannot be read, found beside its large file.
pub fn check_dir(dir: &Path) -> Result<()> {
    ensure!(
        dir.join("tokenizer.json").is_file(),
        "{} has no tokenizer.json; calipr needs the fast tokenizer's file",
        dir.display()
    );
    let config = Value::Object(read_config(dir)?);
    SpecialTokens::of(dir, &config, &[]).with_context(|| format!("the special tokens of {}", dir.display()))?;
    GenerationConfig::of(dir)?;
    ChatTemplates::of(dir, &config).map(|_| ())
}

/// The chat templates of a directory.
pub fn templates_of_dir(dir: &Path) -> Result<ChatTemplates> {
    ChatTemplates::of(dir, &Value::Object(read_config(dir)?))
}

/// The chat templates of a GGUF file.
pub fn templates_of_gguf(file: &GgufFile) -> ChatTemplates {
    let mut templates = file.string("tokenizer.chat_template").map(str::to_owned).map(ChatTemplates::one);
    if let Some(tools) = file.string("tokenizer.chat_template.tool_use") {
        templates.get_or_insert_default().add("tool_use", tools.to_owned());
    }
    templates.unwrap_or_default()
}

fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// A file's JSON; None where there is no file.
fn read_json(path: &Path) -> Result<Option<Value>> {
    if !path.is_file() {
        return Ok(None);
    }
    let read = serde_json::from_str(&read_text(path)?);
    read.with_context(|| format!("cannot read {}", path.display())).map(Some)
}

/// The `tokenizer_config.json` of a directory; empty where there is none.
fn read_config(dir: &Path) -> Result<Map<String, Value>> {
    let path = dir.join("tokenizer_config.json");
    match read_json(&path)? {
        None => Ok(Map::new()),
        Some(Value::Object(config)) => Ok(config),
        Some(_) => bail!("{} is no JSON object", path.display()),
    }
}

/// The class that transformers reads a directory's tokenizer with: by name, or by the model's kind.
fn class(dir: &Path, config: &Map<String, Value>) -> Result<Option<String>> {
    if let Some(class) = config.get("tokenizer_class").and_then(Value::as_str) {
        return Ok(Some(class.to_owned()));
    }
    let model = read_json(&dir.join("config.json"))?.unwrap_or_default();
    if let Some(class) = model["tokenizer_class"].as_str() {
        return Ok(Some(class.to_owned()));
    }
    Ok(match model["model_type"].as_str().unwrap_or_default() {
        "gpt2" | "starcoder2" | "phi" | "opt" => Some("GPT2Tokenizer"),
        "gpt_neox" | "olmo" | "mpt" => Some("GPTNeoXTokenizer"),
        "qwen2" | "qwen2_moe" | "qwen3" | "qwen3_moe" => Some("Qwen2Tokenizer"),
        "gemma" | "gemma2" | "gemma3" | "gemma3_text" => Some("GemmaTokenizer"),
        "cohere" | "cohere2" => Some("CohereTokenizer"),
        _ => None,
    }
    .map(str::to_owned))
}

fn is_byte_level(tokenizer: &tokenizers::Tokenizer) -> bool {
    // transformers: `_tokenizer_json_has_byte_level`
    let steps = serde_json::to_string(&(tokenizer.get_pre_tokenizer(), tokenizer.get_decoder())).unwrap_or_default();
    steps.contains("\"ByteLevel\"")
}

/// transformers: `clean_up_tokenization`.
fn cleaned_up(text: &str) -> String {
    let changes = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    changes.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
impl Tokenizer {
    /// A word a token, for tests that need a tokenizer but not its words.
    pub fn for_tests() -> Self {
        let model = serde_json::json!({"type": "WordLevel", "vocab": {"a": 0, "b": 1, "?": 2}, "unk_token": "?"});
        let json = serde_json::json!({"version": "1.0", "pre_tokenizer": {"type": "Whitespace"}, "added_tokens": [], "model": model});
        Self {
            inner: json.to_string().parse().unwrap(),
            llama_cpp: None,
            variables: vec![],
            end: vec![],
            templates: ChatTemplates::default(),
            today: None,
            cleans_up: false,
        }
    }
}
