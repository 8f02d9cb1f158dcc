//! Special tokens from the files of a Hugging Face folder, as transformers 5 reads them (tokenization_utils_base.py,
//! `_from_pretrained`; tokenization_utils_tokenizers.py, `__init__`).

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::read_json;

/// Those that have a name in every tokenizer, in transformers' order.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A folder's special tokens.
#[derive(Debug, Default)]
pub struct SpecialTokens {
    /// What a chat template finds under their names: those above first, then a model's own.
    pub variables: Vec<(String, String)>,
    /// Tokens to be added to those of `tokenizer.json`, in this order: what stands in a text is found, and what is new
    /// gets the next id.
    pub added: Vec<AddedToken>,
}

/// A token as a file spells it: a text, or an object with its `content`.
#[derive(Debug, Clone, PartialEq)]
struct Token {
    content: String,
    options: Option<Map<String, Value>>,
}

impl Token {
    fn of(value: &Value, place: &str) -> Result<Option<Self>> {
        Ok(Some(match value {
            Value::Null => return Ok(None),
            Value::String(content) => Self { content: content.clone(), options: None },
            Value::Object(options) => {
                let content = options.get("content").and_then(Value::as_str);
                let content = content.with_context(|| format!("{place} is an object without `content`"))?;
                Self { content: content.to_owned(), options: Some(options.clone()) }
            }
            other => bail!("{place} is {other}; expected a text, or an object with `content`"),
        }))
    }

    /// As transformers adds it; `special` where its object does not say so itself.
    fn added(&self, special: bool) -> AddedToken {
        let flag = |name: &str| self.options.as_ref().and_then(|o| o.get(name)).and_then(Value::as_bool);
        let special = flag("special").unwrap_or(special);
        AddedToken::from(self.content.clone(), special)
            .normalized(flag("normalized").unwrap_or(!special))
            .lstrip(flag("lstrip").unwrap_or(false))
            .rstrip(flag("rstrip").unwrap_or(false))
            .single_word(flag("single_word").unwrap_or(false))
    }
}

impl SpecialTokens {
    /// Of a folder with this `tokenizer_config.json`; `known` is what `tokenizer.json` itself has added.
    ///
    /// # Errors
    /// Where a file is no JSON, or a token no token.
    pub fn of(dir: &Path, config: &Value, known: &[AddedToken]) -> Result<Self> {
        let mut config = config.as_object().cloned().unwrap_or_default();
        let decoder = config.get("added_tokens_decoder").filter(|decoder| !decoder.is_null()).cloned();
        let mut declared: Vec<(u64, AddedToken)> = Vec::new();
        let mut extra = Extra::default();
        // `additional_special_tokens` is the older name of `extra_special_tokens`.
        let is_empty = |value: Option<&Value>| match value {
            None | Some(Value::Null) => true,
            Some(Value::Array(items)) => items.is_empty(),
            Some(Value::Object(items)) => items.is_empty(),
            _ => false,
        };
        if is_empty(config.get("extra_special_tokens"))
            && let Some(older) = config.shift_remove("additional_special_tokens")
        {
            config.insert("extra_special_tokens".into(), older);
        }
        extra.take(config.shift_remove("extra_special_tokens"), "tokenizer_config.json")?;
        match decoder {
            Some(decoder) => {
                let place = "`added_tokens_decoder` of tokenizer_config.json";
                let decoder = decoder.as_object().with_context(|| format!("{place} is no object"))?.clone();
                for (id, token) in decoder {
                    let number = id.parse().with_context(|| format!("{place}: \"{id}\" is no id"))?;
                    let token = Token::of(&token, &format!("{place}, id {id},"))?;
                    declared.extend(token.map(|token| (number, token.added(false))));
                }
                declared.sort_by_key(|(id, _)| *id);
            }
            None => Self::from_older_files(dir, &mut config, &mut extra, &mut declared)?,
        }
        let place = |key: &str| format!("`{key}` of {}", dir.join("tokenizer_config.json").display());
        let mut named = Vec::new();
        for key in NAMED {
            let token = Token::of(config.get(key).unwrap_or(&Value::Null), &place(key))?;
            let token = token.or_else(|| default_of(&config, key));
            named.extend(token.map(|token| (key.to_owned(), token)));
        }
        // A model's own: objects come before texts, whatever their order in the file.
        for of_objects in [true, false] {
            for (key, value) in &config {
                let is_token = value.is_string() || value.get("content").is_some();
                if key.ends_with("_token") && !NAMED.contains(&&**key) && is_token && value.is_object() == of_objects {
                    named.extend(Token::of(value, &place(key))?.map(|token| (key.clone(), token)));
                }
            }
        }
        named.extend(extra.named);

        let mut added: Vec<AddedToken> = declared.into_iter().map(|(_, token)| token).collect();
        let is_named = |token: &AddedToken| named.iter().any(|(_, named)| named.content == token.content);
        added.extend(known.iter().filter(|token| !token.special && is_named(token)).cloned());
        added.iter_mut().filter(|token| is_named(token)).for_each(|token| token.special = true);
        for token in named.iter().map(|(_, token)| token).chain(&extra.listed) {
            if !known.iter().chain(&added).any(|other| other.content == token.content) {
                let mut token = token.added(true);
                token.special = true;
                added.push(token);
            }
        }
        let variables = named.into_iter().map(|(name, token)| (name, token.content)).collect();
        Ok(Self { variables, added })
    }

    /// The files that were written before `tokenizer_config.json` had `added_tokens_decoder`, and are read without it.
    fn from_older_files(
        dir: &Path,
        config: &mut Map<String, Value>,
        extra: &mut Extra,
        declared: &mut Vec<(u64, AddedToken)>,
    ) -> Result<()> {
        if let Some(Value::Object(map)) = read_json(&dir.join("special_tokens_map.json"))? {
            for (key, value) in map {
                match key.as_str() {
                    "extra_special_tokens" | "additional_special_tokens" => {
                        extra.take(Some(value), "special_tokens_map.json")?;
                    }
                    _ => {
                        config.insert(key, value);
                    }
                }
            }
        }
        if let Some(Value::Object(tokens)) = read_json(&dir.join("added_tokens.json"))? {
            for (content, id) in tokens {
                let id = id.as_u64().with_context(|| format!("added_tokens.json: \"{content}\" has no id"))?;
                let is = |value: &Value| value.as_str().or_else(|| value["content"].as_str()) == Some(&content);
                let special = NAMED.iter().any(|key| config.get(*key).is_some_and(is))
                    || extra.listed.iter().any(|token| token.content == content);
                declared.push((id, Token { content, options: None }.added(special)));
            }
            declared.sort_by_key(|(id, _)| *id);
        }
        Ok(())
    }
}

/// Special tokens beyond the seven: some have a name of their own.
#[derive(Default)]
struct Extra {
    named: Vec<(String, Token)>,
    listed: Vec<Token>,
}

impl Extra {
    fn take(&mut self, value: Option<Value>, file: &str) -> Result<()> {
        let place = format!("a token of `extra_special_tokens` in {file}");
        match value {
            None | Some(Value::Null) => {}
            Some(Value::Array(tokens)) => {
                for token in &tokens {
                    self.listed.extend(Token::of(token, &place)?.filter(|token| !self.listed.contains(token)));
                }
            }
            Some(Value::Object(tokens)) => {
                for (name, token) in tokens {
                    self.named.retain(|(known, _)| *known != name);
                    self.named.extend(Token::of(&token, &place)?.map(|token| (name, token)));
                }
            }
            Some(other) => bail!("`extra_special_tokens` in {file} is {other}; expected a list, or an object by name"),
        }
        Ok(())
    }
}

/// What a tokenizer's class takes where its file does not say, from transformers' classes.
fn default_of(config: &Map<String, Value>, key: &str) -> Option<Token> {
    if config.contains_key(key) {
        return None;
    }
    let class = config.get("tokenizer_class")?.as_str()?;
    let tokens: &[(&str, &str)] = match class.strip_suffix("Fast").unwrap_or(class) {
        "LlamaTokenizer" => &[("unk", "<unk>"), ("bos", "<s>"), ("eos", "</s>")],
        "GPT2Tokenizer" => &[("unk", "<|endoftext|>"), ("bos", "<|endoftext|>"), ("eos", "<|endoftext|>")],
        "GPTNeoXTokenizer" => {
            &[("unk", "<|endoftext|>"), ("bos", "<|endoftext|>"), ("eos", "<|endoftext|>"), ("pad", "<|padding|>")]
        }
        "Qwen2Tokenizer" => &[("unk", "<|endoftext|>"), ("eos", "<|endoftext|>"), ("pad", "<|endoftext|>")],
        "GemmaTokenizer" => {
            &[("unk", "<unk>"), ("bos", "<bos>"), ("eos", "<eos>"), ("pad", "<pad>"), ("mask", "<mask>")]
        }
        "CohereTokenizer" => &[
            ("unk", "<UNK>"),
            ("bos", "<BOS_TOKEN>"),
            ("eos", "<|END_OF_TURN_TOKEN|>"),
            ("pad", "<PAD>"),
            ("cls", "<CLS>"),
            ("sep", "<SEP>"),
            ("mask", "<MASK_TOKEN>"),
        ],
        _ => &[],
    };
    let name = key.strip_suffix("_token")?;
    let content = tokens.iter().find(|(known, _)| *known == name)?.1;
    Some(Token { content: content.to_owned(), options: None })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Names and their tokens; and what was added, with whether it is special.
    type Read = (Vec<(String, String)>, Vec<(String, bool)>);

    fn read(files: &[(&str, Value)], known: &[&str]) -> Read {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(dir.path().join(name), content.to_string()).unwrap();
        }
        let config =
            files.iter().find(|(name, _)| *name == "tokenizer_config.json").map_or(Value::Null, |f| f.1.clone());
        let known: Vec<AddedToken> = known.iter().map(|token| AddedToken::from(*token, true)).collect();
        let special = SpecialTokens::of(dir.path(), &config, &known).unwrap();
        (special.variables, special.added.into_iter().map(|token| (token.content, token.special)).collect())
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(name, token)| ((*name).to_owned(), (*token).to_owned())).collect()
    }

    #[test]
    fn the_older_map_overrides_the_config_unless_that_lists_its_added_tokens() {
        let map = json!({"bos_token": "<b>", "eos_token": {"content": "<e>", "lstrip": false}});
        let old = json!({"bos_token": "<s>", "pad_token": null});
        let (variables, added) =
            read(&[("tokenizer_config.json", old), ("special_tokens_map.json", map.clone())], &["<b>"]);
        assert_eq!(variables, pairs(&[("bos_token", "<b>"), ("eos_token", "<e>")]));
        assert_eq!(added, [("<e>".to_owned(), true)]);
        let new = json!({"bos_token": "<s>", "added_tokens_decoder": {"7": {"content": "<u>", "special": false}, "3": {"content": "<s>", "special": true}}});
        let (variables, added) = read(&[("tokenizer_config.json", new), ("special_tokens_map.json", map)], &[]);
        assert_eq!(variables, pairs(&[("bos_token", "<s>")]));
        assert_eq!(added, [("<s>".to_owned(), true), ("<u>".to_owned(), false)]);
    }

    #[test]
    fn tokens_of_a_models_own_are_found_in_texts_and_templates() {
        let config = json!({"additional_special_tokens": ["<a>", {"content": "<b>"}], "image_token": "<i>", "padding_side": "left"});
        let (variables, added) = read(&[("tokenizer_config.json", config)], &["<a>"]);
        assert_eq!(variables, pairs(&[("image_token", "<i>")]));
        assert_eq!(added, [("<i>".to_owned(), true), ("<b>".to_owned(), true)]);
        let config = json!({"extra_special_tokens": {"boi_token": "<boi>"}, "additional_special_tokens": ["<a>"]});
        let (variables, added) = read(&[("tokenizer_config.json", config)], &[]);
        assert_eq!(variables, pairs(&[("boi_token", "<boi>")]));
        assert_eq!(added, [("<boi>".to_owned(), true)]);
    }

    #[test]
    fn what_is_no_token_is_an_error() {
        let error = SpecialTokens::of(Path::new("m"), &json!({"bos_token": 3}), &[]).unwrap_err().to_string();
        assert!(error.contains("`bos_token`") && error.contains("is 3"), "{error}");
    }
}
