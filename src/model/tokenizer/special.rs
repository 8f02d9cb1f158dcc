//! Special tokens from the files of a Hugging Face folder, as transformers 5 reads them (tokenization_utils_base.py,
//! `_from_pretrained`; tokenization_utils_tokenizers.py, `__init__`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use tokenizers::AddedToken;

use super::class::Class;
use crate::model::json_file;

/// Those that have a name in every tokenizer, in transformers' order.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Those of Code Llama's class, with what it takes where no file names them.
const OF_CODE: [(&str, &str); 5] = [
    ("prefix_token", "▁<PRE>"),
    ("middle_token", "▁<MID>"),
    ("suffix_token", "▁<SUF>"),
    ("eot_token", "▁<EOT>"),
    (FILL, "<FILL_ME>"),
];

/// What a text for Code Llama is split at, to be filled in there.
pub const FILL: &str = "fill_token";

/// A folder's special tokens.
#[derive(Debug, Default)]
pub struct SpecialTokens {
    /// What a chat template finds under their names: those above first, then a model's own.
    pub variables: Vec<(String, String)>,
    /// Tokens to be added to those of the tokenizer, in this order: what stands in a text is found, and what is new
    /// gets the next id.
    pub added: Vec<AddedToken>,
}

/// A token as a file spells it: a text, or an object with its `content`.
#[derive(Debug, Clone)]
struct Token {
    content: String,
    options: Option<Map<String, Value>>,
}

impl Token {
    fn text(content: &str) -> Self {
        Self { content: content.to_owned(), options: None }
    }

    fn of(value: &Value, place: &str) -> Result<Option<Self>> {
        Ok(Some(match value {
            Value::Null => return Ok(None),
            Value::String(content) => Self::text(content),
            Value::Object(options) => {
                let content = options.get("content").and_then(Value::as_str);
                let content = content.with_context(|| format!("{place} is an object without `content`"))?;
                Self { content: content.to_owned(), options: Some(options.clone()) }
            }
            other => bail!("{place} is {other}; expected a text, or an object with `content`"),
        }))
    }

    /// As transformers adds it: a text as a special token, and an object as it says, unless it has a name.
    fn added(&self, is_named: bool) -> AddedToken {
        let Some(options) = &self.options else { return AddedToken::from(self.content.clone(), true) };
        let flag = |name: &str| options.get(name).and_then(Value::as_bool);
        let special = is_named || flag("special").unwrap_or(false);
        AddedToken::from(self.content.clone(), special)
            .normalized(flag("normalized").unwrap_or(!special))
            .lstrip(flag("lstrip").unwrap_or(false))
            .rstrip(flag("rstrip").unwrap_or(false))
            .single_word(flag("single_word").unwrap_or(false))
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.options.is_some() == other.options.is_some() && self.added(false) == other.added(false)
    }
}

/// Tokens by name, in the order in which the names came up.
#[derive(Default)]
struct Named(Vec<(String, Token)>);

impl Named {
    fn set(&mut self, name: &str, token: Token) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = token,
            None => self.0.push((name.to_owned(), token)),
        }
    }

    fn set_all(&mut self, tokens: &Map<String, Value>, file: &str) -> Result<()> {
        for (name, value) in tokens {
            let token = Token::of(value, &format!("`{name}` of `{EXTRA}` in {file}"))?;
            token.into_iter().for_each(|token| self.set(name, token));
        }
        Ok(())
    }
}

const EXTRA: &str = "extra_special_tokens";
/// Its older name.
const ADDITIONAL: &str = "additional_special_tokens";
const DECODER: &str = "added_tokens_decoder";

/// Tokens that files declare with their ids.
#[derive(Default)]
struct Declared {
    by_id: BTreeMap<u64, Token>,
    /// The last of those with a content.
    by_content: HashMap<String, Token>,
}

impl Declared {
    fn add(&mut self, id: u64, token: Token) {
        self.by_content.insert(token.content.clone(), token.clone());
        self.by_id.insert(id, token);
    }

    /// Of `added_tokens_decoder`.
    fn of(decoder: &Value) -> Result<Self> {
        let place = "`added_tokens_decoder` of tokenizer_config.json";
        let mut declared = Self::default();
        for (id, token) in decoder.as_object().with_context(|| format!("{place} is no object"))? {
            let number = id.parse().with_context(|| format!("{place}: \"{id}\" is no id"))?;
            let mut token = Token::of(token, &format!("{place}, id {id},"))?;
            if let Some(token) = &mut token {
                token.options.get_or_insert_default();
            }
            token.into_iter().for_each(|token| declared.add(number, token));
        }
        Ok(declared)
    }
}

impl SpecialTokens {
    /// Of a folder with this `tokenizer_config.json` and `tokenizer.json`, read with a class.
    ///
    /// # Errors
    /// Where a file is no JSON, or a token no token.
    pub fn of(dir: &Path, config: &Map<String, Value>, file: &Value, class: Class) -> Result<Self> {
        let mut config = config.clone();
        if config.get(EXTRA).is_none_or(is_empty)
            && let Some(older) = config.shift_remove(ADDITIONAL)
        {
            config.insert(EXTRA.into(), older);
        }
        // A model's own. Those that are objects are taken later, with what older files say.
        let is_own = |key: &str| key.ends_with("_token") && !NAMED.contains(&key);
        let mut own = Named::default();
        let texts = config.iter().filter(|(key, _)| is_own(key));
        for (key, text) in texts.filter_map(|(key, value)| Some((key, value.as_str()?))) {
            own.set(key, Token::text(text));
        }
        config.retain(|key, value| !is_own(key) || !value.is_string());
        if let Some(Value::Object(tokens)) = config.get(EXTRA) {
            own.set_all(tokens, "tokenizer_config.json")?;
            config.shift_remove(EXTRA);
        }
        let declared = match config.shift_remove(DECODER).filter(|decoder| !decoder.is_null()) {
            Some(decoder) => Declared::of(&decoder)?,
            None => from_older_files(dir, &mut config, &mut own, file)?,
        };
        let place = |key: &str| format!("`{key}` of {}", dir.join("tokenizer_config.json").display());
        let mut named = Named::default();
        for key in NAMED {
            let token = match config.get(key) {
                Some(value) => {
                    let token = Token::of(value, &place(key))?;
                    token.map(|token| declared.by_content.get(&token.content).cloned().unwrap_or(token))
                }
                None => {
                    let padding = file["padding"]["pad_token"].as_str();
                    let padding = padding.filter(|_| key == "pad_token" && class.takes_padding());
                    class.token(key).or(padding).map(Token::text)
                }
            };
            token.into_iter().for_each(|token| named.set(key, token));
        }
        let mut of_code = Vec::new();
        if class == Class::CodeLlama {
            for (key, default) in OF_CODE {
                let token =
                    config.shift_remove(key).map_or(Ok(Some(Token::text(default))), |v| Token::of(&v, &place(key)))?;
                token.iter().for_each(|token| named.set(key, token.clone()));
                of_code.extend(token);
            }
        }
        let fill = named.0.iter().find(|(name, _)| name == FILL).cloned();
        for (key, value) in config.iter().filter(|(key, _)| is_own(key)) {
            if value.is_string() || value["__type"] == "AddedToken" {
                Token::of(value, &place(key))?.into_iter().for_each(|token| named.set(key, token));
            }
        }
        own.0.into_iter().for_each(|(name, token)| named.set(&name, token));
        let listed = listed(&config, of_code)?;

        let mut added: Vec<Token> = declared.by_id.into_values().collect();
        let of_file = file["added_tokens"].as_array().filter(|_| class == Class::AsItIs);
        let of_file = of_file.into_iter().flatten().filter_map(|token| token["content"].as_str());
        let known: HashSet<String> =
            of_file.map(str::to_owned).chain(added.iter().map(|token| token.content.clone())).collect();
        for token in named.0.iter().map(|(_, token)| token).chain(&listed) {
            if !known.contains(&token.content) && !added.contains(token) {
                added.push(token.clone());
            }
        }
        let is_named = |token: &Token| named.0.iter().any(|(_, named)| named.content == token.content);
        let mut added: Vec<AddedToken> = added.iter().map(|token| token.added(is_named(token))).collect();
        // Some classes add them once more, in a way of their own.
        let all = named.0.iter().map(|(_, token)| token).chain(&listed);
        match class {
            Class::Qwen2 => added.extend(all.map(|token| AddedToken::from(token.content.clone(), true))),
            Class::Cohere => added.extend(all.map(|token| token.added(true))),
            _ => {}
        }
        fill.into_iter().for_each(|(name, token)| named.set(&name, token));
        let variables = named.0.into_iter().map(|(name, token)| (name, token.content)).collect();
        Ok(Self { variables, added })
    }

    /// The token of a name.
    pub fn named(&self, name: &str) -> Option<&str> {
        self.variables.iter().find(|(known, _)| known == name).map(|(_, token)| token.as_str())
    }
}

/// The files that were written before `tokenizer_config.json` had `added_tokens_decoder`, and are read without it.
fn from_older_files(dir: &Path, config: &mut Map<String, Value>, own: &mut Named, file: &Value) -> Result<Declared> {
    if let Some(Value::Object(map)) = json_file::read(&dir.join("special_tokens_map.json"))? {
        for (key, value) in map {
            let value = match (key.as_str(), value) {
                (EXTRA, Value::Array(tokens)) => {
                    let mut all = config.get(EXTRA).and_then(Value::as_array).cloned().unwrap_or_default();
                    for token in tokens.into_iter().map(special) {
                        if !all.contains(&token) {
                            all.push(token);
                        }
                    }
                    all.into()
                }
                (EXTRA, value) => value,
                (_, value) => special(value),
            };
            config.insert(key, value);
        }
        if let Some(Value::Object(tokens)) = config.get(EXTRA) {
            own.set_all(tokens, "special_tokens_map.json")?;
            config.shift_remove(EXTRA);
        }
    }
    let mut declared = Declared::default();
    if let Some(Value::Object(tokens)) = json_file::read(&dir.join("added_tokens.json"))? {
        let content = |value: &Value| value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned);
        let listed = config.get(EXTRA).and_then(Value::as_array).into_iter().flatten();
        let special: HashSet<String> =
            NAMED.iter().filter_map(|key| config.get(*key)).chain(listed).filter_map(content).collect();
        for (content, id) in tokens {
            let id = id.as_u64().with_context(|| format!("added_tokens.json: \"{content}\" has no id"))?;
            let special = special.contains(&content);
            let options = json!({"special": special, "normalized": !special});
            declared.add(id, Token { content, options: options.as_object().cloned() });
        }
    }
    for token in file["added_tokens"].as_array().into_iter().flatten() {
        let place = "a token of `added_tokens` in tokenizer.json";
        let id = token["id"].as_u64().with_context(|| format!("{place} has no id: {token}"))?;
        Token::of(token, place)?.into_iter().for_each(|token| declared.add(id, token));
    }
    Ok(declared)
}

/// An object of `special_tokens_map.json` as a token.
fn special(mut value: Value) -> Value {
    if let Value::Object(options) = &mut value {
        options.insert("special".into(), true.into());
        options.insert("__type".into(), "AddedToken".into());
    }
    value
}

/// Special tokens without a name.
fn listed(config: &Map<String, Value>, of_code: Vec<Token>) -> Result<Vec<Token>> {
    let read = |key: &str| match config.get(key) {
        None | Some(Value::Null) => Ok(vec![]),
        Some(Value::Array(tokens)) => {
            let read = |value: &Value| {
                let mut token = Token::of(value, &format!("a token of `{key}`"))?;
                // transformers stops at an object without its type; in a list of special tokens it can be nothing else.
                if let Some(options) = token.as_mut().and_then(|token| token.options.as_mut())
                    && !options.contains_key("__type")
                {
                    options.entry("special").or_insert(true.into());
                }
                Ok(token)
            };
            Ok(tokens.iter().map(read).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
        }
        Some(other) => bail!("`{key}` is {other}; expected a list, or an object by name"),
    };
    if config.contains_key(EXTRA) {
        return read(EXTRA);
    }
    let mut tokens = read(ADDITIONAL)?;
    tokens.extend(of_code);
    Ok(tokens)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
        _ => false,
    }
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
        let config = files.iter().find(|(name, _)| *name == "tokenizer_config.json");
        let config = config.and_then(|(_, config)| config.as_object().cloned()).unwrap_or_default();
        let known = known.iter().enumerate().map(|(id, token)| json!({"id": id, "content": token, "special": true}));
        let file = json!({"added_tokens": known.collect::<Vec<_>>()});
        let special = SpecialTokens::of(dir.path(), &config, &file, Class::AsItIs).unwrap();
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
        assert_eq!(added, [("<b>".to_owned(), true), ("<e>".to_owned(), true)]);
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
        assert_eq!(added, ["<a>", "<i>", "<b>"].map(|token| (token.to_owned(), true)));
        let config = json!({"extra_special_tokens": {"boi_token": "<boi>"}, "additional_special_tokens": ["<a>"]});
        let (variables, added) = read(&[("tokenizer_config.json", config)], &[]);
        assert_eq!(variables, pairs(&[("boi_token", "<boi>")]));
        assert_eq!(added, ["<boi>", "<a>"].map(|token| (token.to_owned(), true)));
    }

    #[test]
    fn an_object_without_its_type_is_no_token_of_a_models_own() {
        let config =
            json!({"image_token": {"content": "<i>"}, "audio_token": {"content": "<a>", "__type": "AddedToken"}});
        let (variables, _) = read(&[("tokenizer_config.json", config)], &[]);
        assert_eq!(variables, pairs(&[("audio_token", "<a>")]));
    }

    #[test]
    fn what_is_no_token_is_an_error() {
        let config = Map::from_iter([("bos_token".to_owned(), json!(3))]);
        let error = SpecialTokens::of(Path::new("m"), &config, &Value::Null, Class::AsItIs).unwrap_err().to_string();
        assert!(error.contains("`bos_token`") && error.contains("is 3"), "{error}");
    }
}
