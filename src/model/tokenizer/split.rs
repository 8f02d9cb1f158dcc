//! How llama.cpp splits a text before a byte-level tokenizer merges what is within the pieces: the expressions that its
//! name in `tokenizer.ggml.pre` stands for (llama.cpp: src/llama-vocab.cpp), one after the other.
//!
//! What an expression matches is a piece, and so is what lies between two matches: a `Split` of the `tokenizers` crate
//! that isolates. llama.cpp writes some expressions otherwise than the model's authors did, and then its are meant.

use anyhow::{Result, bail};
use serde_json::{Value, json};

/// How a text is split, and what goes with it.
pub struct Split {
    expressions: Vec<String>,
    /// A piece that is a token as a whole is that token, whatever merges say.
    pub ignore_merges: bool,
    /// Whether texts begin with the BOS token where the file does not say.
    pub add_bos: bool,
}

/// What a file without a name is split by, as one with this name.
pub const WITHOUT_A_NAME: &str = "default";

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
const SHORT_FORMS: &str = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])";
const WORDS: &str = r"[^\r\n\p{L}\p{N}]?\p{L}+";
const SIGNS_AND_SPACES: &str = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Words in which a capital begins a new piece; of letters beyond ASCII llama.cpp does not tell the case.
const CAPITALS: [&str; 2] = [
    r"[^\r\n\p{L}\p{N}]?(?:(?=\p{L})[^a-z])*(?:(?=\p{L})[^A-Z])+",
    r"[^\r\n\p{L}\p{N}]?(?:(?=\p{L})[^a-z])+(?:(?=\p{L})[^A-Z])*",
];
const SIGNS_AND_PATHS: &str = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK_3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

/// Groups of names that stand for the same expressions, as llama.cpp has them.
const NAMES: [(&str, &[&str]); 14] = [
    ("default", &["default"]),
    (
        "llama3",
        &["llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"],
    ),
    ("llama3, merged", &["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"]),
    (
        "gpt2",
        &[
            "gpt-2",
            "gpt2",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
        ],
    ),
    ("digits", &["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"]),
    (
        "qwen2",
        &["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"],
    ),
    ("qwen35", &["qwen35"]),
    ("falcon", &["falcon"]),
    ("deepseek-coder", &["deepseek-coder"]),
    ("deepseek-v3", &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"]),
    ("tekken", &["tekken"]),
    ("gpt-4o", &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"]),
    ("bailingmoe", &["bailingmoe", "bailingmoe2", "llada-moe"]),
    ("seed-coder", &["seed-coder"]),
];

/// A name of each way to split that a model has, as files should have it.
pub fn names() -> impl Iterator<Item = &'static str> {
    let own = NAMES.iter().filter(|(group, _)| *group != WITHOUT_A_NAME);
    own.map(|(group, names)| match *group {
        "llama3" => "llama-bpe",
        "digits" => "smollm",
        _ => names[0],
    })
}

impl Split {
    /// By its name.
    ///
    /// # Errors
    /// Where llama.cpp does not know it, or knows it and calipr does not.
    pub fn named(name: &str) -> Result<Self> {
        let group = NAMES.iter().find(|(_, names)| names.contains(&name)).map(|(group, _)| *group);
        let join = |parts: &[&str]| parts.join("|");
        let expressions: Vec<String> = match group {
            Some("default") => {
                vec![r"[\p{P}\$\+<=>\^~\|]+".into(), GPT2.into(), r"\p{N}+".into(), "[0-9][0-9][0-9]".into()]
            }
            Some("llama3" | "llama3, merged") => {
                vec![join(&[SHORT_FORMS, WORDS, r"\p{N}{1,3}", SIGNS_AND_SPACES])]
            }
            Some("gpt2") => vec![GPT2.into()],
            Some("digits") => vec![r"\p{N}".into(), GPT2.into()],
            Some("qwen2") => vec![join(&[SHORT_FORMS, WORDS, r"\p{N}", SIGNS_AND_SPACES])],
            Some("qwen35") => vec![join(&[
                SHORT_FORMS,
                r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
                r"\p{N}",
                r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ])],
            Some("falcon") => vec![r"[\p{P}\$\+<=>\^~\|`]+".into(), GPT2.into(), "[0-9][0-9][0-9]".into()],
            Some("deepseek-coder") => vec![
                r"[\r\n]".into(),
                r"\s?\p{L}+".into(),
                r"\s?\p{P}+".into(),
                "[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+".into(),
                r"\p{N}".into(),
            ],
            Some("deepseek-v3") => {
                let chinese_and_kana = "[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+";
                vec![r"\p{N}{1,3}".into(), chinese_and_kana.into(), DEEPSEEK_3.into()]
            }
            Some("tekken") => vec![join(&[CAPITALS[0], CAPITALS[1], r"\p{N}", SIGNS_AND_PATHS])],
            Some("gpt-4o") => {
                let word = |letters: &str| format!("{letters}{SHORT_FORMS}?");
                vec![join(&[&word(CAPITALS[0]), &word(CAPITALS[1]), r"\p{N}{1,3}", SIGNS_AND_PATHS])]
            }
            Some("bailingmoe") => vec![join(&[
                "'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])",
                WORDS,
                r"\p{N}",
                r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
            ])],
            Some("seed-coder") => {
                vec![join(&[SHORT_FORMS, WORDS, r"\p{N}", r" ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"])]
            }
            _ => {
                let mut known: Vec<&str> = NAMES.iter().flat_map(|(_, names)| names.iter().copied()).collect();
                known.sort_unstable();
                bail!(
                    "`tokenizer.ggml.pre` is \"{name}\", a way to split texts that calipr does not know; it knows {}. Use \
                     the model's Hugging Face directory, which has a tokenizer.json",
                    known.join(", ")
                )
            }
        };
        Ok(Self {
            expressions,
            ignore_merges: matches!(group, Some("llama3" | "tekken")),
            add_bos: matches!(group, Some("llama3" | "tekken")),
        })
    }

    /// As the `tokenizers` crate writes it.
    pub fn json(&self) -> Value {
        let split = |expression: &String| json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false});
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        let steps: Vec<Value> = self.expressions.iter().map(split).chain([bytes]).collect();
        json!({"type": "Sequence", "pretokenizers": steps})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(name: &str, text: &str) -> Vec<String> {
        use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};
        let split = Split::named(name).unwrap().json();
        let steps: tokenizers::PreTokenizerWrapper = serde_json::from_value(split).unwrap();
        let mut string = PreTokenizedString::from(text);
        steps.pre_tokenize(&mut string).unwrap();
        let splits = string.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits.into_iter().map(|(_, (start, end), _)| text[start..end].to_owned()).collect()
    }

    #[test]
    fn each_name_splits_as_llama_cpp_does() {
        let text = "It's 12345 HelloWorld\n\n  x";
        assert_eq!(pieces("llama-bpe", text), ["It", "'s", " ", "123", "45", " HelloWorld", "\n\n", " ", " x"]);
        assert_eq!(pieces("qwen2", text), ["It", "'s", " ", "1", "2", "3", "4", "5", " HelloWorld", "\n\n", " ", " x"]);
        assert_eq!(pieces("gpt-2", text), ["It", "'s", " 12345", " HelloWorld", "\n\n ", " x"]);
        assert_eq!(pieces("smollm", text), ["It", "'s", " ", "1", "2", "3", "4", "5", " HelloWorld", "\n\n ", " x"]);
        assert_eq!(pieces("default", text), ["It", "'", "s", " ", "123", "45", " HelloWorld", "\n\n ", " x"]);
        assert_eq!(
            pieces("tekken", text),
            ["It", "'s", " ", "1", "2", "3", "4", "5", " Hello", "World", "\n\n", " ", " x"]
        );
        assert_eq!(pieces("gpt-4o", text), ["It's", " ", "123", "45", " Hello", "World", "\n\n", " ", " x"]);
        assert_eq!(pieces("deepseek-v3", text), ["It", "'s", " ", "123", "45", " HelloWorld", "\n\n", " ", " x"]);
    }

    #[test]
    fn every_name_makes_a_splitter() {
        for name in NAMES.iter().flat_map(|(_, names)| names.iter()) {
            assert!(!pieces(name, "A 1é中 x_y").is_empty(), "{name}");
        }
    }

    #[test]
    fn an_unknown_name_is_an_error_with_those_that_are_known() {
        let error = Split::named("kimi-k2").err().unwrap().to_string();
        assert!(error.contains("\"kimi-k2\"") && error.contains("qwen2"), "{error}");
    }
}
