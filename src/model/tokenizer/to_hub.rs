//! The tokenizer of a GGUF file as the files of a Hugging Face folder, which transformers reads.
//!
//! That they are the same is not believed but tried: both make tokens of every text of the vocabulary.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::gguf::GgufVocabulary;
use super::{TRIED, Tokenizer, templates_of_gguf};
use crate::model::weights::GgufFile;

/// What transformers calls the ids of `tokenizer.ggml.*`.
const IDS: [(&str, &str); 3] =
    [("bos_token_id", "bos_token_id"), ("eos_token_id", "eos_token_id"), ("pad_token_id", "padding_token_id")];

/// The ids of special tokens, by transformers' names.
pub fn ids_of_gguf(file: &GgufFile) -> Result<Vec<(&'static str, usize)>> {
    let vocabulary = GgufVocabulary::read(file)?;
    Ok(IDS.iter().filter_map(|(name, key)| Some((*name, vocabulary.id(key)?))).collect())
}

/// Every token that ends what a model writes; the one that the file names first.
pub fn ends_of_gguf(file: &GgufFile) -> Result<Vec<u32>> {
    let vocabulary = GgufVocabulary::read(file)?;
    let first = vocabulary.id("eos_token_id").map(|id| id as u32);
    let others = vocabulary.ends().into_iter().filter(|id| Some(*id) != first);
    Ok(first.into_iter().chain(others).collect())
}

/// `tokenizer.json`, `tokenizer_config.json`, `generation_config.json` and the chat templates: names and contents.
/// `config` is the model's, by which transformers chooses the tokenizer's class.
///
/// # Errors
/// Where what they make of a text is not what the GGUF file's tokenizer makes of it.
pub fn files_of_gguf(file: &GgufFile, config: &str) -> Result<Vec<(String, String)>> {
    let vocabulary = GgufVocabulary::read(file)?;
    let mut json = vocabulary.tokenizer_json()?;
    let around = vocabulary.llama_cpp()?;
    if vocabulary.is_sentence_piece() {
        json["model"]["merges"] = json!(vocabulary.merges_by_score());
        if let Some(unknown) = vocabulary.token("unknown_token_id") {
            json["model"]["unk_token"] = json!(unknown);
            json["model"]["fuse_unk"] = json!(true);
        }
    }
    let (begin, end) = (around.begin.as_ref(), around.end.as_ref());
    if begin.is_some() || end.is_some() {
        let special = |piece: &(u32, String), of: u32| json!({"SpecialToken": {"id": piece.1, "type_id": of}});
        let text = |name: &str, of: u32| json!({"Sequence": {"id": name, "type_id": of}});
        let one = |name: &str, of: u32| -> Vec<Value> {
            begin
                .map(|p| special(p, of))
                .into_iter()
                .chain([text(name, of)])
                .chain(end.map(|p| special(p, of)))
                .collect()
        };
        let mut tokens = Map::new();
        for (id, content) in begin.into_iter().chain(end) {
            tokens.insert(content.clone(), json!({"id": content, "ids": [id], "tokens": [content]}));
        }
        json["post_processor"] = json!({"type": "TemplateProcessing", "single": one("A", 0),
            "pair": ([one("A", 0), one("B", 1)].concat()), "special_tokens": tokens});
    }
    let mut settings = Map::new();
    for (name, key) in [
        ("bos_token", "bos_token_id"),
        ("eos_token", "eos_token_id"),
        ("unk_token", "unknown_token_id"),
        ("pad_token", "padding_token_id"),
    ] {
        if let Some(token) = vocabulary.token(key) {
            settings.insert(name.into(), json!(token));
        }
    }
    settings.insert("add_bos_token".into(), json!(begin.is_some()));
    settings.insert("add_eos_token".into(), json!(end.is_some()));
    settings.insert("clean_up_tokenization_spaces".into(), json!(false));
    settings.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
    let mut generation = Map::new();
    generation.extend(ids_of_gguf(file)?.into_iter().map(|(name, id)| (name.to_owned(), json!(id))));
    let ends = ends_of_gguf(file)?;
    if !ends.is_empty() {
        generation.insert("eos_token_id".into(), json!(ends));
    }
    let pretty = |value: Value| Ok::<_, anyhow::Error>(serde_json::to_string_pretty(&value)? + "\n");
    let mut files = vec![
        ("tokenizer.json".to_owned(), pretty(json)?),
        ("tokenizer_config.json".to_owned(), pretty(Value::Object(settings))?),
        ("generation_config.json".to_owned(), pretty(Value::Object(generation))?),
    ];
    for (name, template) in templates_of_gguf(file).sources() {
        let name = match name {
            "default" => "chat_template.jinja".to_owned(),
            name => format!("additional_chat_templates/{name}.jinja"),
        };
        files.push((name, template.to_owned()));
    }
    try_out(file, &vocabulary, &files, config)?;
    Ok(files)
}

/// An error where a text of the vocabulary's tokens, in their order, comes out otherwise.
fn try_out(file: &GgufFile, vocabulary: &GgufVocabulary, files: &[(String, String)], config: &str) -> Result<()> {
    let dir = tempfile::tempdir().context("cannot make a folder to try the tokenizer in")?;
    let write = |name: &str, content: &str| -> Result<()> {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))
            .and_then(|()| std::fs::write(&path, content))?;
        Ok(())
    };
    files.iter().try_for_each(|(name, content)| write(name, content))?;
    write("config.json", config)?;
    let (ours, theirs) = (Tokenizer::from_gguf(file)?, Tokenizer::from_dir(dir.path())?);
    let words: Vec<u32> = vocabulary.words().collect();
    for ids in words.chunks(TRIED) {
        ours.ensure_same_tokens(&theirs, &ours.decode(ids)?, "a Hugging Face folder")?;
    }
    Ok(())
}

impl GgufVocabulary {
    /// Merges that lead where SentencePiece's scores do: of two neighbours that make a token, those go first whose token has
    /// the highest score.
    fn merges_by_score(&self) -> Vec<(&str, &str)> {
        let ids: HashMap<&str, usize> = self.scored().map(|(id, token, _)| (token, id)).collect();
        let mut merges = Vec::new();
        for (_, token, score) in self.scored() {
            let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
            let parts = cuts.filter_map(|(left, right)| Some(((left, right), (*ids.get(left)?, *ids.get(right)?))));
            merges.extend(parts.map(|(parts, ids)| (score, parts, ids)));
        }
        merges.sort_by(|(a, _, a_ids), (b, _, b_ids)| b.total_cmp(a).then_with(|| a_ids.cmp(b_ids)));
        merges.into_iter().map(|(_, parts, _)| parts).collect()
    }
}
