//! Text to token ids and back, and the model's chat template.
//!
//! A Hugging Face directory has a `tokenizer.json`. A GGUF file has the vocabulary and the name of
//! the splitting rules; from these we write the `tokenizer.json` that the model had before llama.cpp
//! converted it, so that one implementation (the `tokenizers` crate) serves both.

mod chat;
mod class;
mod gguf;
mod llama_cpp;
mod special;
mod split;
mod tail;
mod to_gguf;
mod to_hub;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Map, Value, json};
use tokenizers::{ModelWrapper, PostProcessorWrapper};

use super::generation_config::GenerationConfig;
use super::json_file;
use super::weights::GgufFile;
use crate::digest::Digest;
use crate::guard::guarded;
use crate::templates::Date;
use chat::ChatTemplates;
pub use chat::Conversation;
use class::Class;
use gguf::GgufVocabulary;
use llama_cpp::LlamaCpp;
use special::SpecialTokens;
pub use to_gguf::gguf_of_dir;
pub use to_hub::{ends_of_gguf, files_of_gguf, ids_of_gguf};

/// A model's tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Of GGUF files: what llama.cpp does beyond.
    llama_cpp: Option<LlamaCpp>,
    /// Special tokens as a chat template finds them, such as `bos_token`.
    variables: Vec<(String, String)>,
    end: Vec<u32>,
    /// Where a text is split to be filled in, which is not done here.
    fill: Option<String>,
    templates: ChatTemplates,
    /// What a chat template is told that asks for today's date.
    today: Option<Date>,
    /// Whether decoded texts lose the spaces before their punctuation.
    cleans_up: bool,
    /// Whether the end of a text can be decoded alone ([`Tokenizer::tail`]).
    is_local: bool,
}

/// Tokens of a text that two tokenizers are tried on, which are to be the same.
const TRIED: usize = 32;

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
        if let Some(fill) = self.fill.as_ref().filter(|fill| text.contains(fill.as_str())) {
            bail!("a text has {fill}, at which the model's tokenizer splits it to have it filled in; calipr does not");
        }
        let encode = || {
            if let Some(llama_cpp) = &self.llama_cpp {
                return llama_cpp.encode(&self.inner, text, special);
            }
            let encoding = self.inner.encode_fast(text, special).map_err(|e| anyhow!("{e}"))?;
            Ok(encoding.get_ids().to_vec())
        };
        guarded(encode).context("the tokenizer fails on a text")
    }

    /// How many tokens there are, special ones too.
    pub fn tokens(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The ids that another tokenizer has for other tokens, in order, with the tokens of both. What only one of them has is
    /// none of these.
    pub fn other_tokens(&self, other: &Self) -> Vec<(u32, String, String)> {
        let own = self.inner.get_vocab(true).into_iter();
        let theirs = |id: u32| other.inner.id_to_token(id);
        let mut others: Vec<_> = own.filter_map(|(token, id)| Some((id, token, theirs(id)?))).collect();
        others.retain(|(_, own, theirs)| own != theirs);
        others.sort_unstable();
        others
    }

    /// An error where another tokenizer, of files that are `elsewhere`, makes other tokens of a text.
    fn ensure_same_tokens(&self, other: &Self, text: &str, elsewhere: &str) -> Result<()> {
        for special in [true, false] {
            let (a, b) = (self.encode(text, special)?, other.encode(text, special)?);
            ensure!(a == b, "the text {text:?} has the tokens {a:?}, but in {elsewhere} it would have {b:?}");
        }
        Ok(())
    }

    /// What kind of tokenizer it is, as `tokenizer.json` calls it.
    pub fn kind(&self) -> &'static str {
        match self.inner.get_model() {
            ModelWrapper::BPE(_) => "BPE",
            ModelWrapper::WordPiece(_) => "WordPiece",
            ModelWrapper::WordLevel(_) => "WordLevel",
            ModelWrapper::Unigram(_) => "Unigram",
        }
    }

    /// Whether there are texts that it makes no tokens of.
    pub fn may_fail(&self) -> bool {
        self.llama_cpp.as_ref().is_some_and(LlamaCpp::may_fail)
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
        let path = tokenizer_file(dir)?;
        let text = json_file::text(&path)?;
        let mut file = json_file::parse(&path, &text)?;
        ensure!(file.is_object(), "{} is no JSON object", path.display());
        let config = read_config(dir)?;
        let place = || format!("the tokenizer of {}", dir.display());
        let class = Class::of(&config, &model_config(dir)?, &text).with_context(place)?;
        let special = SpecialTokens::of(dir, &config, &file, class)
            .with_context(|| format!("the special tokens of {}", dir.display()))?;
        let rebuilt = class.rebuilt(&mut file, &config, special.named("unk_token")).with_context(place)?;
        let text = rebuilt.map_or(text, |rebuilt| rebuilt.to_string());
        let mut inner = guarded(|| text.parse::<tokenizers::Tokenizer>().map_err(|e| anyhow!("{e}")))
            .with_context(|| format!("cannot read {}", path.display()))?;
        guarded(|| inner.add_tokens(special.added.clone()).map_err(|e| anyhow!("{e}")))
            .with_context(|| format!("the special tokens of {}", dir.display()))?;
        inner.set_encode_special_tokens(class::flag(&config, "split_special_tokens", false).with_context(place)?);
        let mut fill = None;
        if class == Class::CodeLlama {
            fill = special.named(special::FILL).map(str::to_owned);
            begin_with(&mut inner, special.named("bos_token"))?;
        }
        let end = match GenerationConfig::of(dir)?.end() {
            ids if ids.is_empty() => {
                special.named("eos_token").and_then(|token| inner.token_to_id(token)).into_iter().collect()
            }
            ids => ids,
        };
        let config = Value::Object(config);
        // transformers: `_decode` cleans up after others than BPE, unless it is told to corrupt the output of that too.
        let flag = |name: &str| config[name].as_bool().unwrap_or(false);
        let is_bpe = matches!(inner.get_model(), ModelWrapper::BPE(_));
        let cleans_up = flag("clean_up_tokenization_spaces")
            && (!is_bpe || flag("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"));
        let templates = ChatTemplates::of(dir, &config)?;
        Self {
            inner,
            llama_cpp: None,
            variables: special.variables,
            end,
            fill,
            templates,
            today: None,
            cleans_up,
            is_local: false,
        }
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
            fill: None,
            templates: templates_of_gguf(file),
            today: None,
            cleans_up: false,
            is_local: false,
        }
        .without_limits()
    }

    /// Some published files pad or cut every text; windows must do that themselves.
    fn without_limits(mut self) -> Result<Self> {
        self.inner.with_padding(None);
        self.inner.with_truncation(None).map_err(|e| anyhow!("{e}"))?;
        let decoder = serde_json::to_value(self.inner.get_decoder())?;
        self.is_local = !self.cleans_up && tail::is_local(&decoder);
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
    tokenizer_file(dir)?;
    let config = read_config(dir)?;
    SpecialTokens::of(dir, &config, &Value::Null, Class::AsItIs)
        .with_context(|| format!("the special tokens of {}", dir.display()))?;
    GenerationConfig::of(dir)?;
    ChatTemplates::of(dir, &Value::Object(config)).map(|_| ())
}

/// What tells the tokenizer of a directory from others: its files, but for those of chat templates. Of
/// `tokenizer_config.json` all else counts.
pub fn digest_of_dir(dir: &Path) -> Result<Digest> {
    let mut config = read_config(dir)?;
    config.remove("chat_template");
    let files = FILES.iter().filter(|name| !["tokenizer_config.json", "chat_template.jinja"].contains(*name));
    let files = files.map(|name| (name, dir.join(name))).filter(|(_, path)| path.is_file());
    let files = files.map(|(name, path)| Ok((name, Digest::of_file(&path)?))).collect::<Result<Vec<_>>>()?;
    Ok(Digest::of(&(files, config)))
}

/// What tells the tokenizer of a GGUF file from others: all that its metadata say of it, but for chat templates.
pub fn digest_of_gguf(file: &GgufFile) -> Digest {
    let is_told = |name: &str| name.starts_with("tokenizer.") && !name.starts_with("tokenizer.chat_template");
    let told: BTreeMap<&String, String> = (file.metadata().iter())
        .filter(|(name, _)| is_told(name))
        .map(|(name, value)| (name, format!("{value:?}")))
        .collect();
    Digest::of(&told)
}

fn tokenizer_file(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("tokenizer.json");
    ensure!(path.is_file(), "{} has no tokenizer.json; calipr needs the fast tokenizer's file", dir.display());
    Ok(path)
}

/// Has each text begin with a token, and with nothing else around it (transformers: `update_post_processor`).
fn begin_with(tokenizer: &mut tokenizers::Tokenizer, token: Option<&str>) -> Result<()> {
    let mut pieces = vec![json!({"Sequence": {"id": "A", "type_id": 0}})];
    let mut special = Map::new();
    if let Some((token, id)) = token.and_then(|token| Some((token, tokenizer.token_to_id(token)?))) {
        pieces.insert(0, json!({"SpecialToken": {"id": token, "type_id": 0}}));
        special.insert(token.to_owned(), json!({"id": token, "ids": [id], "tokens": [token]}));
    }
    let pair = [pieces.clone(), vec![json!({"Sequence": {"id": "B", "type_id": 1}})]].concat();
    let template = json!({"type": "TemplateProcessing", "single": pieces, "pair": pair, "special_tokens": special});
    tokenizer.with_post_processor(Some(serde_json::from_value::<PostProcessorWrapper>(template)?));
    Ok(())
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

/// The `config.json` of a directory.
fn model_config(dir: &Path) -> Result<Value> {
    Ok(json_file::read(&dir.join("config.json"))?.unwrap_or_default())
}

/// The `tokenizer_config.json` of a directory; empty where there is none.
fn read_config(dir: &Path) -> Result<Map<String, Value>> {
    let path = dir.join("tokenizer_config.json");
    match json_file::read(&path)? {
        None => Ok(Map::new()),
        Some(Value::Object(config)) => Ok(config),
        Some(_) => bail!("{} is no JSON object", path.display()),
    }
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
            fill: None,
            templates: ChatTemplates::default(),
            today: None,
            cleans_up: false,
            is_local: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_that_is_no_tokenizer_is_an_error() {
        for kind in ["llama", "qwen2"] {
            for text in ["[]", "3", "null", "{}", r#"{"model": 3}"#, r#"{"model": {"type": "BPE"}}"#] {
                let dir = tempfile::tempdir().unwrap();
                std::fs::write(dir.path().join("config.json"), json!({"model_type": kind}).to_string()).unwrap();
                std::fs::write(dir.path().join("tokenizer.json"), text).unwrap();
                let error = Tokenizer::from_dir(dir.path()).err().map(|error| format!("{error:#}"));
                assert!(error.is_some_and(|error| error.contains("tokenizer.json")), "{kind}: {text}");
            }
        }
    }
}
