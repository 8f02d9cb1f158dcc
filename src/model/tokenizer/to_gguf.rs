//! The tokenizer of a Hugging Face folder as the metadata of a GGUF file, which llama.cpp reads.
//!
//! How llama.cpp splits texts goes by a name, which no folder has. So names are tried: the one is taken with which a GGUF
//! file's tokenizer makes of every text here what the folder's makes of it.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::quantized::gguf_file::Value;
use serde_json::Value as Json;

use super::gguf::{BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED};
use super::{TRIED, Tokenizer, split, templates_of_dir};
use crate::model::save::write_metadata;
use crate::model::weights::GgufFile;

/// Texts in which ways to split differ.
const TEXTS: [&str; 12] = [
    "",
    " ",
    "It's 1234567 o'clock, they'LL say; I'M 12 and WE'RE 3.14159!",
    "HelloWorld helloWORLD HTTPServer x_y_z $a+b=c^d~e|f<g>`h`",
    "line\n\n\n  indented\n\ttab\r\nend  \n",
    "   three spaces   between   words   ",
    "naïve café Ærøskøbing ŠŽ ß ſ ǅ",
    "漢字とかな交じり文。中文字符，標點！한국어 문장",
    "Привет мир, Ελληνικά, עברית, العربية ١٢٣",
    "😀👍🏽 👨‍👩‍👧 ½ ² Ⅳ",
    "https://example.org/a-b_c?d=e&f=%20#g user@host (x)[y]{z} // ... --- ''' \"\"\"",
    "def f(x):\n    return x**2  # comment\n\n\nclass A:\n\tpass",
];

/// `tokenizer.ggml.*` and the chat templates, for a model of so many rows that is called `name`.
///
/// # Errors
/// Where llama.cpp has no such tokenizer, as far as calipr knows its own.
pub fn gguf_of_dir(dir: &Path, rows: usize, name: &str) -> Result<Vec<(String, Value)>> {
    let ours = Tokenizer::from_dir(dir)?;
    let words = Words::of(&ours, rows)?;
    let splits: Vec<Option<&str>> = match words.is_sentence_piece {
        true => vec![None],
        false => split::names().map(Some).collect(),
    };
    let templates = templates_of_dir(dir)?;
    let mut why = None;
    for split in splits {
        let mut metadata = words.metadata(&ours, split)?;
        for (name, template) in templates.sources() {
            let key = if name == "default" { String::new() } else { format!(".{name}") };
            metadata.push((format!("tokenizer.chat_template{key}"), Value::String(template.to_owned())));
        }
        match try_out(&ours, &words, &metadata, name) {
            Ok(()) => return Ok(metadata),
            Err(error) => why = why.or(Some(error)),
        }
    }
    match why {
        Some(error) => Err(error.context("llama.cpp makes tokens of texts otherwise, by all names that it has")),
        None => bail!("there is no way to split texts to be tried"),
    }
}

/// The tokens of a vocabulary, by id.
struct Words {
    is_sentence_piece: bool,
    tokens: Vec<String>,
    types: Vec<i64>,
    /// "left right", the first first.
    merges: Vec<String>,
    /// Of SentencePiece's: the sooner a token is merged, the higher.
    scores: Vec<f32>,
    adds_space: bool,
}

impl Words {
    fn of(tokenizer: &Tokenizer, rows: usize) -> Result<Self> {
        let text = tokenizer.inner.to_string(false).map_err(|e| anyhow::anyhow!("{e}"))?;
        let json: Json = serde_json::from_str(&text).context("a tokenizer is written as JSON")?;
        let model = &json["model"];
        ensure!(
            model["type"] == "BPE",
            "its tokenizer is {}; calipr writes byte-level BPE and SentencePiece's BPE to GGUF",
            model["type"].as_str().unwrap_or("of no kind")
        );
        let is_sentence_piece = model["byte_fallback"] == true;
        let vocabulary = tokenizer.inner.get_vocab(true);
        let largest = vocabulary.values().max().map_or(0, |&id| id as usize + 1);
        ensure!(largest <= rows, "its tokenizer has {largest} tokens, and the model's embedding {rows} rows");
        // As llama.cpp's converter calls rows that no token has.
        let mut tokens: Vec<String> = (0..rows).map(|id| format!("[PAD{id}]")).collect();
        let mut types = vec![UNUSED; rows];
        for (token, id) in vocabulary {
            let is_byte = is_sentence_piece && token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
            types[id as usize] = if is_byte { BYTE } else { NORMAL };
            tokens[id as usize] = token;
        }
        for (id, added) in tokenizer.inner.get_added_tokens_decoder() {
            types[id as usize] = if added.special { CONTROL } else { USER_DEFINED };
        }
        let unknown = model["unk_token"].as_str().and_then(|token| tokenizer.inner.token_to_id(token));
        if let Some(id) = unknown.filter(|_| is_sentence_piece) {
            types[id as usize] = UNKNOWN;
        }
        let part = |merge: &Json| -> Option<(String, String)> {
            match merge {
                Json::Array(parts) => Some((parts.first()?.as_str()?.into(), parts.get(1)?.as_str()?.into())),
                Json::String(text) => text.split_once(' ').map(|(a, b)| (a.into(), b.into())),
                _ => None,
            }
        };
        let merges: Vec<(String, String)> = model["merges"].as_array().into_iter().flatten().filter_map(part).collect();
        let mut ranks: HashMap<String, usize> = HashMap::new();
        for (left, right) in &merges {
            let next = ranks.len();
            ranks.entry(format!("{left}{right}")).or_insert(next);
        }
        let last = ranks.len() as f32;
        let score = |token: &String| -ranks.get(token).map_or(last, |&rank| rank as f32);
        let scores = tokens.iter().map(score).collect();
        let merges = merges.into_iter().map(|(left, right)| format!("{left} {right}")).collect();
        let adds_space = json["normalizer"].to_string().contains("Prepend")
            || json["pre_tokenizer"]["prepend_scheme"].as_str().is_some_and(|scheme| scheme != "never");
        Ok(Self { is_sentence_piece, tokens, types, merges, scores, adds_space })
    }

    /// Whether there is a token of this id: a config may name one that no model has.
    fn has(&self, id: u32) -> bool {
        (id as usize) < self.tokens.len()
    }

    /// Where texts are split by a name, that is `split`.
    fn metadata(&self, tokenizer: &Tokenizer, split: Option<&str>) -> Result<Vec<(String, Value)>> {
        let text = |text: &str| Value::String(text.to_owned());
        let texts = |texts: &[String]| Value::Array(texts.iter().map(|t| text(t)).collect());
        let mut keys = vec![
            ("model", text(if self.is_sentence_piece { "llama" } else { "gpt2" })),
            ("tokens", texts(&self.tokens)),
            ("token_type", Value::Array(self.types.iter().map(|&kind| Value::I32(kind as i32)).collect())),
        ];
        match split {
            Some(split) => keys.extend([("pre", text(split)), ("merges", texts(&self.merges))]),
            None => {
                keys.push(("scores", Value::Array(self.scores.iter().map(|&score| Value::F32(score)).collect())));
                keys.push(("pre", text("default")));
                keys.push(("add_space_prefix", Value::Bool(self.adds_space)));
            }
        }
        let id = |name: &str| {
            let (_, token) = tokenizer.variables.iter().find(|(known, _)| known == name)?;
            tokenizer.inner.token_to_id(token)
        };
        let first_end = tokenizer.end.iter().copied().find(|&id| self.has(id));
        let (begin, end) = (id("bos_token"), id("eos_token").or(first_end));
        for (key, id) in [
            ("bos_token_id", begin),
            ("eos_token_id", end),
            ("unknown_token_id", id("unk_token")),
            ("padding_token_id", id("pad_token")),
        ] {
            keys.extend(id.map(|id| (key, Value::U32(id))));
        }
        let further = tokenizer.end.iter().filter(|&&id| Some(id) != end && self.has(id));
        keys.extend(["eot_token_id", "eom_token_id"].into_iter().zip(further.map(|&id| Value::U32(id))));
        let around = tokenizer.encode("", true)?;
        keys.push(("add_bos_token", Value::Bool(begin.is_some() && around.first().copied() == begin)));
        keys.push(("add_eos_token", Value::Bool(end.is_some() && around.len() > 1 && around.last().copied() == end)));
        Ok(keys.into_iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)).collect())
    }
}

/// An error where a text comes out otherwise, or less ends an answer.
fn try_out(ours: &Tokenizer, words: &Words, metadata: &[(String, Value)], name: &str) -> Result<()> {
    let file =
        tempfile::Builder::new().suffix(".gguf").tempfile().context("cannot make a file to try the tokenizer in")?;
    let model = ["general.architecture", "general.name"].map(str::to_owned).into_iter();
    let model = model.zip([Value::String("llama".into()), Value::String(name.to_owned())]);
    write_metadata(file.path(), &model.chain(metadata.iter().cloned()).collect())?;
    let theirs = Tokenizer::from_gguf(&GgufFile::open(file.path())?)?;
    let check = |text: &str| ours.ensure_same_tokens(&theirs, text, "a GGUF file");
    TEXTS.into_iter().try_for_each(check)?;
    let of_kind = |wanted: &'static [i64]| {
        let kinds = words.types.iter().enumerate();
        kinds.filter(move |(_, kind)| wanted.contains(kind)).map(|(id, _)| id as u32).collect::<Vec<_>>()
    };
    for id in of_kind(&[CONTROL, USER_DEFINED]) {
        check(&format!("one {} two", words.tokens[id as usize]))?;
    }
    for ids in of_kind(&[NORMAL]).chunks(TRIED) {
        check(&ours.decode(ids)?)?;
    }
    let lost = ours.end.iter().find(|id| words.has(**id) && !theirs.end.contains(id));
    ensure!(lost.is_none(), "token {} ends an answer, but would not in a GGUF file", lost.copied().unwrap_or(0));
    Ok(())
}
