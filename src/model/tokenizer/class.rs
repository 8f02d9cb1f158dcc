//! The class that transformers 5 reads a folder's tokenizer with. Most classes take the vocabulary, the merges and the
//! post-processor of `tokenizer.json`, and have rules of their own for the rest; one takes the file as it stands.

use anyhow::{Result, bail, ensure};
use serde_json::{Map, Value, json};

use crate::model::arch::TokenizerClass;

/// A class, where it has rules of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// `TokenizersBackend`: `tokenizer.json` as it stands.
    AsItIs,
    Llama,
    CodeLlama,
    Gpt2,
    GptNeoX,
    Qwen2,
    Cohere,
    Gemma,
}

/// Names in front of `Tokenizer` of transformers' further classes: what they make of a file is not known here.
const UNKNOWN: &str = "Albert Auto Bart Barthez Bartpho Basic BertGeneration BertJapanese Bert Bertweet BigBird BioGpt \
    BlenderbotSmall Blenderbot ByT5 CLIP CTRL Camembert Canine Character Clvp CodeGen ConvBert CpmAnt Cpm \
    DPRContextEncoder DPRQuestionEncoder DPRReader Deberta DebertaV2 Dia DistilBert Esm Esmc FNet FSMT \
    FastSpeech2Conformer Flaubert Funnel GPTNeoXJapanese GPTSw3 Herbert LED Lasr LayoutLMv2 LayoutLMv3 LayoutXLM Luke \
    Lxmert M2M100 MBart50 MBart MLuke MPNet Marian MarkupLM Mecab Mgpstr MobileBert Mvp MyT5 Nllb Nougat OpenAIGPT \
    PLBart Parakeet Pegasus Perceiver Phobert Pop2Piano ProphetNet Qwen3_5 Rag Reformer RemBert RoCBert RoFormer Roberta \
    SeamlessM4T Siglip2 Siglip Speech2Text SpeechT5 Splinter SqueezeBert T5 Tapas Tipsv2 Udop VideoPrism Vits \
    Wav2Vec2CTC Wav2Vec2PhonemeCTC Whisper Wordpiece XGLM XLMRoberta XLM XLNet";

impl Class {
    /// Of a folder with this `tokenizer_config.json`, `config.json` and text of `tokenizer.json`
    /// (transformers: tokenization_auto.py, `from_pretrained`).
    ///
    /// # Errors
    /// Where it is code of the folder's own, or a class whose rules are not known.
    pub fn of(config: &Map<String, Value>, model: &Value, file: &str) -> Result<Self> {
        fn named(name: Option<&Value>) -> Option<&str> {
            name.and_then(Value::as_str).filter(|name| !name.is_empty())
        }
        let of_config = named(config.get("tokenizer_class"));
        let of_model = named(model.get("tokenizer_class"));
        let code = match config.get("auto_map") {
            Some(Value::Object(map)) => map.get("AutoTokenizer").filter(|code| !code.is_null()),
            code => code.filter(|code| !code.is_null()),
        };
        let registered = TokenizerClass::of(model["model_type"].as_str().unwrap_or_default());
        let own = match registered {
            TokenizerClass::OfFolder | TokenizerClass::AsItIs => Self::AsItIs,
            TokenizerClass::Usually(name) | TokenizerClass::Always(name) => {
                Self::by_name(name)?.unwrap_or(Self::AsItIs)
            }
        };
        let named_by_folder = of_config.or(of_model).map(without_fast);
        match (registered, code) {
            // What the folder names is not believed.
            (TokenizerClass::Always(_), None) => return Ok(own),
            (_, None) => {
                if named_by_folder == Some("LlamaTokenizer") && file.contains("\"ByteLevel\"") {
                    return Ok(Self::AsItIs);
                }
                match (registered, named_by_folder) {
                    (TokenizerClass::AsItIs, _) => return Ok(Self::AsItIs),
                    (TokenizerClass::Usually(usual), Some(name)) if name != usual => {
                        return Ok(Self::by_name(name)?.unwrap_or(Self::AsItIs));
                    }
                    _ => {}
                }
            }
            (TokenizerClass::OfFolder, Some(code)) => ensure!(
                of_config.map(|name| Self::by_name(without_fast(name))).transpose()?.flatten().is_some(),
                "`auto_map` of tokenizer_config.json has the tokenizer made by code of the folder's own ({code}), which \
                 calipr does not run; if tokenizer.json is the same tokenizer, take `auto_map` out and make \
                 `tokenizer_class` \"PreTrainedTokenizerFast\""
            ),
            // transformers has a class of its own for the model.
            (_, Some(_)) => {}
        }
        if let Some(name) = of_config {
            return Ok(Self::by_name(without_fast(name))?.unwrap_or(Self::AsItIs));
        }
        let Some(name) = of_model else { return Ok(own) };
        match Self::by_name(without_fast(name))? {
            Some(class) => Ok(class),
            None => bail!(
                "`tokenizer_class` of config.json is \"{name}\", which is no class of transformers; make it, or that of \
                 tokenizer_config.json, \"PreTrainedTokenizerFast\" if tokenizer.json is to be taken as it stands"
            ),
        }
    }

    /// By a name without `Fast`; None where transformers has no such class.
    fn by_name(name: &str) -> Result<Option<Self>> {
        Ok(Some(match name {
            "TokenizersBackend" | "PreTrainedTokenizer" | "PythonBackend" | "BloomTokenizer" => Self::AsItIs,
            "LlamaTokenizer" => Self::Llama,
            "CodeLlamaTokenizer" => Self::CodeLlama,
            "GPT2Tokenizer" => Self::Gpt2,
            "GPTNeoXTokenizer" => Self::GptNeoX,
            "Qwen2Tokenizer" => Self::Qwen2,
            "CohereTokenizer" => Self::Cohere,
            "GemmaTokenizer" => Self::Gemma,
            _ => {
                let is = |stem: &str| UNKNOWN.split(' ').any(|known| known == stem);
                ensure!(
                    name != "MistralCommonBackend" && !name.strip_suffix("Tokenizer").is_some_and(is),
                    "`tokenizer_class` is \"{name}\", whose own rules transformers puts in the place of those in \
                     tokenizer.json; calipr knows those of LlamaTokenizer, CodeLlamaTokenizer, GPT2Tokenizer, \
                     GPTNeoXTokenizer, Qwen2Tokenizer, CohereTokenizer and GemmaTokenizer; \"PreTrainedTokenizerFast\" \
                     takes tokenizer.json as it stands"
                );
                return Ok(None);
            }
        }))
    }

    /// Special tokens that a file need not name.
    pub fn token(self, key: &str) -> Option<&'static str> {
        let end = "<|endoftext|>";
        match (self, key) {
            (Self::Llama | Self::CodeLlama | Self::Gemma, "unk_token") => Some("<unk>"),
            (Self::Llama | Self::CodeLlama, "bos_token") => Some("<s>"),
            (Self::Llama | Self::CodeLlama, "eos_token") => Some("</s>"),
            (Self::Gpt2 | Self::GptNeoX, "unk_token" | "bos_token" | "eos_token") => Some(end),
            (Self::GptNeoX, "pad_token") => Some("<|padding|>"),
            (Self::Qwen2, "unk_token" | "eos_token" | "pad_token") => Some(end),
            (Self::Gemma, "bos_token") => Some("<bos>"),
            (Self::Gemma, "eos_token") => Some("<eos>"),
            (Self::Gemma, "mask_token") => Some("<mask>"),
            (Self::Gemma, "pad_token") => Some("<pad>"),
            (Self::Cohere, "unk_token") => Some("<UNK>"),
            (Self::Cohere, "bos_token") => Some("<BOS_TOKEN>"),
            (Self::Cohere, "eos_token") => Some("<|END_OF_TURN_TOKEN|>"),
            (Self::Cohere, "pad_token") => Some("<PAD>"),
            (Self::Cohere, "cls_token") => Some("<CLS>"),
            (Self::Cohere, "sep_token") => Some("<SEP>"),
            (Self::Cohere, "mask_token") => Some("<MASK_TOKEN>"),
            _ => None,
        }
    }

    /// Whether the token that `tokenizer.json` pads with is the padding token where no file names one.
    pub fn takes_padding(self) -> bool {
        matches!(self, Self::AsItIs | Self::Llama | Self::CodeLlama)
    }

    /// The `tokenizer.json` that this class makes of a folder's: without added tokens. None is that one itself.
    ///
    /// # Errors
    /// Where it would be another at every call, or is of a kind that the class makes another one of.
    pub fn rebuilt(
        self,
        file: &mut Value,
        config: &Map<String, Value>,
        unknown: Option<&str>,
    ) -> Result<Option<Value>> {
        let model = &mut file["model"];
        if self == Self::AsItIs {
            let dropout = model["dropout"].as_f64().unwrap_or(0.0);
            ensure!(
                dropout == 0.0,
                "`dropout` of the model in tokenizer.json is {dropout}: texts have other tokens each time that they are \
                 split; set it to null"
            );
            return Ok(None);
        }
        let kind = model["type"].as_str();
        if kind == Some("WordLevel") {
            // Whole words: what the class would make of them, letters without merges, nobody means.
            tracing::warn!(
                "the vocabulary of tokenizer.json is one of whole words, and is taken as it stands, where transformers' \
                 {self:?}Tokenizer would make a BPE without merges of it"
            );
            return Ok(None);
        }
        ensure!(
            kind == Some("BPE") || (kind.is_none() && model["merges"].is_array()),
            "the model in tokenizer.json is of the type {}, of which transformers' {self:?}Tokenizer would make a BPE \
             without merges; expected \"BPE\". For a model of the type llama, `tokenizer_class` \
             \"PreTrainedTokenizerFast\" in tokenizer_config.json has tokenizer.json taken as it stands",
            model["type"]
        );
        let (vocab, merges) = (model["vocab"].take(), model["merges"].take());
        let mut bpe = json!({
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
        });
        let is_of_pieces = matches!(self, Self::Llama | Self::CodeLlama | Self::Gemma);
        if is_of_pieces {
            bpe["fuse_unk"] = true.into();
            bpe["byte_fallback"] = true.into();
        }
        if matches!(self, Self::CodeLlama | Self::Gemma) {
            // Python's text of no token.
            bpe["unk_token"] = unknown.unwrap_or("None").into();
        }
        bpe["vocab"] = vocab;
        bpe["merges"] = if merges.is_null() { json!([]) } else { merges };
        let (normalizer, pre_tokenizer) = self.steps(config)?;
        let decoder = if is_of_pieces { self.decoder_of_pieces(config)? } else { byte_level(false, true) };
        let post_processor = match self {
            Self::GptNeoX | Self::CodeLlama => Value::Null,
            _ => file["post_processor"].take(),
        };
        Ok(Some(json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": decoder, "model": bpe,
        })))
    }

    /// The normalizer and the pre-tokenizer.
    fn steps(self, config: &Map<String, Value>) -> Result<(Value, Value)> {
        let space = |default| flag(config, "add_prefix_space", default);
        let metaspace =
            |scheme| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
        let nfc = json!({"type": "NFC"});
        Ok(match self {
            Self::AsItIs => (Value::Null, Value::Null),
            Self::Llama => {
                let scheme = match (space(true)?, flag(config, "legacy", false)?) {
                    (false, _) => "never",
                    (true, false) => "first",
                    (true, true) => "always",
                };
                (Value::Null, metaspace(scheme))
            }
            Self::CodeLlama => (Value::Null, metaspace(if space(true)? { "first" } else { "never" })),
            Self::Gpt2 => (Value::Null, byte_level(space(false)?, true)),
            Self::GptNeoX => (nfc, byte_level(space(false)?, true)),
            Self::Qwen2 => {
                let pattern = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
                let split =
                    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
                (nfc, json!({"type": "Sequence", "pretokenizers": [split, byte_level(space(false)?, false)]}))
            }
            Self::Cohere => {
                let digits = json!({"type": "Digits", "individual_digits": true});
                (nfc, json!({"type": "Sequence", "pretokenizers": [digits, byte_level(space(false)?, true)]}))
            }
            Self::Gemma => (
                json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}),
                json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false}),
            ),
        })
    }

    fn decoder_of_pieces(self, config: &Map<String, Value>) -> Result<Value> {
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        let strips = match self {
            Self::Llama => flag(config, "add_prefix_space", true)?,
            Self::CodeLlama => true,
            _ => false,
        };
        if strips {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        Ok(json!({"type": "Sequence", "decoders": decoders}))
    }
}

fn byte_level(space: bool, splits: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": true, "use_regex": splits})
}

fn without_fast(name: &str) -> &str {
    name.strip_suffix("Fast").unwrap_or(name)
}

/// A setting of `tokenizer_config.json`.
pub fn flag(config: &Map<String, Value>, key: &str, default: bool) -> Result<bool> {
    match config.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(Value::Bool(value)) => Ok(*value),
        Some(other) => bail!("`{key}` of tokenizer_config.json is {other}; expected true or false"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(config: Value, model: &str) -> Result<Class> {
        Class::of(config.as_object().unwrap(), &json!({"model_type": model}), "{}")
    }

    #[test]
    fn code_of_the_folders_own_is_refused_where_no_known_class_stands_beside_it() {
        let code = json!({"AutoTokenizer": ["tokenization_x.XTokenizer", null]});
        let of = |name: &str| json!({"tokenizer_class": name, "auto_map": code.clone()});
        let error = class(of("XTokenizer"), "llama").unwrap_err().to_string();
        assert!(error.contains("`auto_map`") && error.contains("tokenization_x"), "{error}");
        assert_eq!(class(of("LlamaTokenizerFast"), "llama").unwrap(), Class::Llama);
        assert_eq!(class(of("XTokenizer"), "mistral").unwrap(), Class::AsItIs);
        assert_eq!(class(of("XTokenizer"), "qwen2").unwrap(), Class::AsItIs);
        let other = json!({"tokenizer_class": "XTokenizer", "auto_map": {"AutoConfig": "x.X"}});
        assert_eq!(class(other, "llama").unwrap(), Class::AsItIs);
    }

    #[test]
    fn a_class_whose_rules_are_not_known_is_refused_by_its_name() {
        let error = class(json!({"tokenizer_class": "T5TokenizerFast"}), "llama").unwrap_err().to_string();
        assert!(error.contains("\"T5Tokenizer\""), "{error}");
        assert_eq!(class(json!({"tokenizer_class": "T5TokenizerFast"}), "mistral").unwrap(), Class::AsItIs);
        assert_eq!(class(json!({"tokenizer_class": "T5TokenizerFast"}), "qwen2").unwrap(), Class::Qwen2);
    }

    #[test]
    fn a_vocabulary_of_another_kind_is_refused_but_for_one_of_whole_words() {
        let mut file = json!({"model": {"type": "Unigram", "vocab": [["a", 0.0]]}});
        let error = Class::Llama.rebuilt(&mut file, &Map::new(), None).unwrap_err().to_string();
        assert!(error.contains("\"Unigram\"") && error.contains("LlamaTokenizer"), "{error}");
        let mut words = json!({"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}});
        assert_eq!(Class::Qwen2.rebuilt(&mut words, &Map::new(), None).unwrap(), None);
    }

    #[test]
    fn dropout_is_refused_where_a_class_does_not_take_it_out() {
        let mut file = json!({"model": {"type": "BPE", "dropout": 0.5, "vocab": {"a": 0}, "merges": []}});
        let error = Class::AsItIs.rebuilt(&mut file, &Map::new(), None).unwrap_err().to_string();
        assert!(error.contains("`dropout`") && error.contains("0.5"), "{error}");
        assert!(Class::Gpt2.rebuilt(&mut file, &Map::new(), None).unwrap().unwrap()["model"]["dropout"].is_null());
    }
}
