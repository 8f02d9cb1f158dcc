//! Models on their way out: what was written is read again, by calipr and (tests/scripts/exported.py) by others.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use calipr::internals::{ModelFiles, Saving};
use candle_core::quantized::{GgmlDType, gguf_file};
use candle_core::{DType, Tensor};
use common::architectures::{Fixture, GgufFixture, compare, fixtures, open};
use common::{Tiny, Workshop, read_table, texts, write_gguf};
use rayon::prelude::*;
use serde_json::{Value, json};

/// Writes the model as it is.
fn write(saving: &Saving, dir: &Path) -> Result<(), String> {
    fs::create_dir_all(dir).unwrap();
    saving.write(dir, "model", &mut |_, _, weight| Ok(weight), &mut |_, _| Ok(())).map_err(|error| format!("{error:#}"))
}

/// With a byte-level tokenizer of as many tokens as there are rows.
fn with_tokenizer(fixture: &mut GgufFixture) {
    let tokens = fixture.tensors["token_embd.weight"][0];
    let characters = common::byte_characters();
    let token = |id: usize| characters.get(id).map_or(format!("<extra_{id}>"), char::to_string);
    let kinds: Vec<u32> = (0..tokens).map(|id| if id < characters.len() { 1 } else { 3 }).collect();
    let words: Vec<String> = (0..tokens).map(token).collect();
    let text = |text: &str| (json!("STRING"), json!(text));
    let metadata = &mut fixture.metadata;
    metadata.insert("tokenizer.ggml.model".into(), text("gpt2"));
    metadata.insert("tokenizer.ggml.pre".into(), text("gpt-2"));
    metadata.insert("tokenizer.ggml.tokens".into(), (json!(["ARRAY", "STRING"]), json!(words)));
    metadata.insert("tokenizer.ggml.token_type".into(), (json!(["ARRAY", "INT32"]), json!(kinds)));
    metadata.insert("tokenizer.ggml.merges".into(), (json!(["ARRAY", "STRING"]), json!([])));
    metadata.insert("tokenizer.ggml.eos_token_id".into(), (json!("UINT32"), json!(3)));
}

#[test]
fn a_gguf_file_becomes_a_folder_that_computes_the_same_or_is_refused() {
    let kept = std::env::var_os("CALIPR_EXPORTED");
    let all = fixtures::<GgufFixture>("tests/fixtures/architectures_gguf");
    let check = |(name, mut fixture): (String, GgufFixture)| -> Result<Option<String>, String> {
        let dir = tempfile::tempdir().unwrap();
        let folder = kept.as_ref().map_or(dir.path().join("folder"), |kept| Path::new(kept).join(&name));
        with_tokenizer(&mut fixture);
        fixture.write(&dir.path().join("model.gguf"));
        let files = ModelFiles::at(&dir.path().join("model.gguf")).unwrap();
        let saving = match Saving::to_hub(&files, None, DType::F32) {
            Ok(saving) => saving,
            Err(error) => {
                let said = format!("{error:#}");
                let is_clear = said.contains("--format gguf writes a GGUF file");
                return if is_clear { Ok(Some(name)) } else { Err(format!("{name}: {said}")) };
            }
        };
        write(&saving, &folder).map_err(|error| format!("{name}: {error}"))?;
        if kept.is_some() {
            fs::write(folder.join("loss.json"), json!({"loss": fixture.loss}).to_string()).unwrap();
        }
        compare(&open(&folder)?, fixture.loss, &fixture.positions, &fixture.logits)
            .map(|()| None)
            .map_err(|error| format!("{name}: {error}"))
    };
    let (refused, wrong): (Vec<_>, Vec<_>) = all.into_par_iter().map(check).partition(Result::is_ok);
    let wrong: Vec<String> = wrong.into_iter().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let refused: BTreeSet<String> = refused.into_iter().filter_map(Result::ok).flatten().collect();
    assert_eq!(refused, BTreeSet::new());
}

#[test]
fn a_gguf_file_becomes_one_of_another_precision() {
    let all = fixtures::<GgufFixture>("tests/fixtures/architectures_gguf");
    let check = |(name, fixture): &(String, GgufFixture)| -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("first.gguf");
        fixture.write(&path);
        let files = ModelFiles::at(&path).unwrap();
        for (dtype, exact) in [(DType::F32, true), (DType::F16, false)] {
            let saving = Saving::to_gguf(&files, dtype).map_err(|error| format!("{name}: {error:#}"))?;
            write(&saving, dir.path())?;
            let again = open(&dir.path().join("model.gguf"))?;
            if exact {
                compare(&again, fixture.loss, &fixture.positions, &fixture.logits)
                    .map_err(|error| format!("{name}: {error}"))?;
            }
            let bytes = fs::read(dir.path().join("model.gguf")).unwrap();
            let content = gguf_file::Content::read(&mut std::io::Cursor::new(&bytes)).unwrap();
            let expected = if dtype == DType::F16 { GgmlDType::F16 } else { GgmlDType::F32 };
            assert_eq!(content.tensor_infos["token_embd.weight"].ggml_dtype, expected, "{name}");
            let mut vectors = content.tensor_infos.values().filter(|info| info.shape.rank() == 1);
            assert!(vectors.all(|info| info.ggml_dtype == GgmlDType::F32), "{name}");
        }
        Ok(())
    };
    let wrong: Vec<String> = all.par_iter().filter_map(|fixture| check(fixture).err()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A byte-level tokenizer of as many tokens as there are rows, for a folder.
fn tokenizer_json(rows: usize) -> Value {
    let characters = common::byte_characters();
    let mut vocabulary: serde_json::Map<String, Value> =
        characters.iter().take(rows - 1).enumerate().map(|(id, c)| (c.to_string(), json!(id))).collect();
    vocabulary.insert("<|endoftext|>".into(), json!(rows - 1));
    let end = json!({"id": rows - 1, "content": "<|endoftext|>", "special": true, "single_word": false,
                     "lstrip": false, "rstrip": false, "normalized": false});
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({"version": "1.0", "added_tokens": [end], "normalizer": null, "post_processor": null, "pre_tokenizer": bytes,
           "decoder": bytes, "model": {"type": "BPE", "vocab": vocabulary, "merges": []}})
}

#[test]
fn a_folder_becomes_a_gguf_file_that_computes_the_same_and_says_what_llama_cpp_s_converter_says() {
    let kept = std::env::var_os("CALIPR_EXPORTED");
    let converted: BTreeMap<String, GgufFixture> = fixtures("tests/fixtures/architectures_gguf").into_iter().collect();
    let check = |(name, fixture): (String, Fixture)| -> Result<Option<String>, String> {
        let dir = tempfile::tempdir().unwrap();
        fixture.write(&dir.path().join("model"));
        let tokenizer = tokenizer_json(fixture.vocabulary()).to_string();
        fs::write(dir.path().join("model/tokenizer.json"), tokenizer).unwrap();
        fs::write(dir.path().join("model/tokenizer_config.json"), r#"{"tokenizer_class": "PreTrainedTokenizerFast"}"#)
            .unwrap();
        let files = ModelFiles::at(&dir.path().join("model")).unwrap();
        let saving = match Saving::to_gguf(&files, DType::F32) {
            Ok(saving) => saving,
            Err(error) => {
                let said = format!("{error:#}");
                let is_clear = said.contains("convert_hf_to_gguf.py") && said.contains("llama.cpp has no architecture");
                return if is_clear { Ok(Some(name)) } else { Err(format!("{name}: {said}")) };
            }
        };
        let to = kept.as_ref().map_or(dir.path().to_owned(), |kept| Path::new(kept).join("gguf").join(&name));
        write(&saving, &to).map_err(|error| format!("{name}: {error}"))?;
        let bytes = fs::read(to.join("model.gguf")).unwrap();
        let content = gguf_file::Content::read(&mut std::io::Cursor::new(&bytes)).unwrap();
        if let Some(fixture) = converted.get(&name) {
            let names: BTreeSet<&String> = content.tensor_infos.keys().collect();
            let theirs: BTreeSet<&String> = fixture.tensors.keys().collect();
            // Of these the converter was given models without biases, or without norms of heads.
            if names != theirs && !["arcee", "olmo_clip", "stablelm_parallel"].contains(&name.as_str()) {
                return Err(format!("{name}: {:?}", names.symmetric_difference(&theirs).collect::<Vec<_>>()));
            }
            // What it says beside is of the tokenizer, of where the model came from, or nothing that llama.cpp computes with:
            // what blocks OLMo 3 has with a window, its code knows.
            let says_nothing = |key: &str, value: &Value| {
                let of_file = ["general.", "tokenizer."].iter().any(|start| key.starts_with(start));
                let unread = [
                    ".tensor_data_layout",
                    ".rope.scaling.type",
                    ".rope.scaling.original_context_length",
                    ".context_length",
                    ".feed_forward_length",
                    ".sliding_window_pattern",
                ];
                of_file || unread.iter().any(|end| key.ends_with(end)) || *value == json!(0)
            };
            for (key, (_, value)) in fixture.metadata.iter().filter(|(key, (_, value))| !says_nothing(key, value)) {
                let ours = content.metadata.get(key).map(number);
                let same = ours.as_ref().is_some_and(|ours| match (ours.as_f64(), value.as_f64()) {
                    (Some(a), Some(b)) => (a - b).abs() <= 1e-6 * b.abs(),
                    _ => ours == value,
                });
                if !same {
                    return Err(format!("{name}: `{key}` is {ours:?}, not {value}"));
                }
            }
        }
        compare(&open(&to.join("model.gguf"))?, fixture.loss, &fixture.positions, &fixture.logits)
            .map(|()| None)
            .map_err(|error| format!("{name}: {error}"))
    };
    let all = fixtures::<Fixture>("tests/fixtures/architectures");
    let (found, wrong): (Vec<_>, Vec<_>) = all.into_par_iter().map(check).partition(Result::is_ok);
    let wrong: Vec<String> = wrong.into_iter().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let refused: BTreeSet<String> = found.into_iter().filter_map(Result::ok).flatten().collect();
    let expected = [
        // Without a name there.
        &["glm", "opt", "opt_plain", "opt_post"][..],
        // Windows that llama.cpp's code for the architecture has not, or has in other blocks.
        &["ministral", "mistral", "mixtral_window", "phi3", "qwen2_window", "qwen3_moe_window", "qwen3_window"],
        &["smollm3_types", "smollm3_window", "starcoder2_window"],
        // Other activations, norms, and scales of attention than it has.
        &["bloom_post", "falcon_alibi", "gpt2_scaled", "gpt_neox_sequential", "llama_gelu", "llama_quick_gelu"],
        &["llama_relu2", "gemma2", "gemma3", "gemma3_text", "gemma3_text_scaled"],
        &["gemma3_caps", "gemma3_text_caps", "gemma3_tied"],
        // Biases, norms and sizes of heads for which it looks for no tensors.
        &["arcee", "cohere2_wide", "cohere_qk", "falcon_one_norm", "olmo_clip", "phi_qk"],
        // Blocks with experts and blocks without.
        &["qwen2_moe_mixed", "qwen3_moe_mixed"],
    ];
    assert_eq!(refused, expected.concat().into_iter().map(str::to_owned).collect());
}

/// As JSON has it.
fn number(value: &gguf_file::Value) -> Value {
    use gguf_file::Value::*;
    match value {
        U32(n) => json!(n),
        F32(x) => json!(f64::from(*x)),
        Bool(b) => json!(b),
        String(text) => json!(text),
        Array(items) => Value::Array(items.iter().map(number).collect()),
        other => panic!("{other:?}"),
    }
}

const EVALUATION: &str = r#"
name = "again"
[model]
source = "path:exported"
[grid]
method = ["magnitude"]
sparsity = [0.5]
[suite.text]
dataset = "path:test.jsonl"
windows = 5
length = 64
metrics = ["loss", "perplexity"]
[suite.rows]
dataset = "path:pairs.jsonl"
max_new_tokens = 6
metrics = ["f1"]
"#;

/// A model with windows that llama.cpp's code for its architecture has not.
fn windowed() -> Tiny {
    Tiny { model_type: "mistral", rope: json!({"rope_theta": 10000.0, "sliding_window": 16}), ..Tiny::default() }
}

/// A study of cells of all kinds, with answers.
fn shop(model: &str, write: impl FnOnce(&Workshop)) -> Workshop {
    let shop = Workshop::new(&Tiny::default());
    write(&shop);
    let rows = "\n[suite.rows]\ndataset = \"path:pairs.jsonl\"\nmax_new_tokens = 6\nmetrics = [\"f1\"]\n";
    fs::write(shop.path("recipe.toml"), common::RECIPE.replace("path:model", model) + rows).unwrap();
    let row = |i: usize| format!("{{\"prompt\": \"{i} and\", \"completion\": \" {}\"}}\n", i + 1);
    fs::write(shop.path("pairs.jsonl"), (0..6).map(row).collect::<String>()).unwrap();
    fs::write(shop.path("again.toml"), EVALUATION).unwrap();
    shop.succeeds(&["run", "recipe.toml"]);
    shop
}

/// Whether the dense model of a study has the values, and gives the answers, that a cell of another has.
fn assert_is_the_cell(shop: &Workshop, cell: &str) {
    shop.succeeds(&["run", "again.toml", "--replace"]);
    let rows = |study: &str, table: &str, cell: &str| -> Vec<Value> {
        let rows = read_table(&shop.path("results").join(study).join(format!("{table}.parquet")));
        rows.into_iter().filter(|row| row["cell"] == cell).collect()
    };
    let is = |row: &&Value| ["loss", "perplexity", "f1"].iter().any(|metric| row["metric"] == *metric);
    let values = |rows: &[Value]| -> Vec<(Value, Value)> {
        rows.iter().filter(is).map(|row| (row["metric"].clone(), row["value"].clone())).collect()
    };
    let (of_cell, again) = (rows("tiny", "metrics", cell), rows("again", "metrics", "dense"));
    assert_eq!(values(&of_cell), values(&again), "{cell}");
    assert_eq!(values(&again).len(), 3);
    let answers = |rows: &[Value]| rows.iter().map(|row| row["prediction"].clone()).collect::<Vec<_>>();
    assert_eq!(answers(&rows("tiny", "samples", cell)), answers(&rows("again", "samples", "dense")), "{cell}");
}

#[test]
fn an_exported_cell_has_the_cells_figures_to_the_last_bit() {
    let shop = shop("path:model", |_| ());
    for cell in ["magnitude-0.5", "wanda-0.5-general-s0", "wanda-2:4-other-s0", "sparsegpt-0.5-general-s0"] {
        let (said, _) = shop.succeeds(&["export", "results/tiny", cell, "--to", "exported"]);
        assert!(said.contains(cell) && said.contains("in F32"), "{said}");
        assert_is_the_cell(&shop, cell);
        fs::remove_dir_all(shop.path("exported")).unwrap();
    }
    // Pruned again where the cache has been emptied.
    fs::remove_dir_all(shop.path("cache")).unwrap();
    shop.succeeds(&["export", "results/tiny", "sparsegpt-2:4-general", "--to", "exported"]);
    assert_is_the_cell(&shop, "sparsegpt-2:4-general-s0");
}

#[test]
fn a_cell_of_a_quantised_gguf_file_leaves_as_a_folder_and_as_a_file() {
    let shop = shop("path:model.gguf", |shop| {
        write_gguf(
            &Tiny { hidden: 64, feed_forward: 96, ..Tiny::default() },
            GgmlDType::Q8_0,
            &shop.path("model.gguf"),
        );
    });
    let cell = "sparsegpt-0.5-general-s0";
    shop.succeeds(&["export", "results/tiny", cell, "--to", "exported"]);
    assert_is_the_cell(&shop, cell);
    shop.succeeds(&["export", "results/tiny", cell, "--to", "exported.gguf"]);
    let again = fs::read_to_string(shop.path("again.toml")).unwrap();
    fs::write(shop.path("again.toml"), again.replace("path:exported", "path:exported.gguf")).unwrap();
    assert_is_the_cell(&shop, cell);
}

#[test]
fn what_is_verified_is_read_again_and_has_the_cells_figures() {
    let shop = shop("path:model", |_| ());
    let cell = "sparsegpt-0.5-general";
    let (said, _) = shop.succeeds(&["export", "results/tiny", cell, "--to", "exported", "--verify"]);
    let metrics = read_table(&shop.path("results/tiny/metrics.parquet"));
    let f1 = metrics.iter().find(|row| row["cell"] == format!("{cell}-s0") && row["metric"] == "f1").unwrap();
    let line = said.lines().find(|line| line.trim_start().starts_with("f1")).unwrap();
    assert_eq!(line.matches(&f1["value"].as_f64().unwrap().to_string()).count(), 2, "{said}");
}

#[test]
fn without_a_cell_the_best_one_leaves_and_the_card_says_what_it_is() {
    let shop = shop("path:model", |shop| {
        fs::write(shop.path("model/README.md"), "---\nlanguage: en\nlicense: apache-2.0\n---\n\n# license: none\n")
            .unwrap();
    });
    let (said, _) = shop.succeeds(&["export", "results/tiny", "--to", "exported"]);
    let settings = read_table(&shop.path("results/tiny/settings.parquet"));
    let f1 = |row: &&Value| row["metric"] == "f1" && row["setting"] != "dense";
    let best = settings.iter().filter(f1).map(|row| row["value"].as_f64().unwrap()).fold(f64::MIN, f64::max);
    let named = said.split(':').next().unwrap();
    let chosen = settings.iter().filter(f1).find(|row| named.starts_with(row["setting"].as_str().unwrap()));
    assert_eq!(chosen.unwrap()["value"].as_f64().unwrap(), best, "{said}");
    let card = fs::read_to_string(shop.path("exported/README.md")).unwrap();
    assert!(card.starts_with("---\nlicense: apache-2.0\nlibrary_name: transformers\n"), "{card}");
    for part in ["| loss ↓ |", "| js_divergence ↓ |", "```toml\nname = \"tiny\"", "`model.safetensors`: `", "verdict"]
    {
        assert!(card.contains(part), "{part}: {card}");
    }
}

#[test]
fn a_precision_that_is_asked_for_is_that_of_every_tensor_and_of_the_config() {
    let shop = shop("path:model", |_| ());
    let (said, log) =
        shop.succeeds(&["export", "results/tiny", "sparsegpt-0.5-general", "--to", "half", "--dtype", "bf16"]);
    assert!(said.contains("in BF16") && log.contains("are rounded to bf16"), "{said}{log}");
    let config: Value = serde_json::from_str(&fs::read_to_string(shop.path("half/config.json")).unwrap()).unwrap();
    assert_eq!(config["dtype"], "bfloat16");
    let tensors = candle_core::safetensors::load(shop.path("half/model.safetensors"), &candle_core::Device::Cpu);
    assert!(tensors.unwrap().values().all(|tensor: &Tensor| tensor.dtype() == DType::BF16));
    // What keeps its values has nothing to lose.
    let (_, log) = shop.succeeds(&["export", "results/tiny", "wanda-0.5-general", "--to", "f32", "--dtype", "f32"]);
    assert!(!log.contains("rounded"), "{log}");
}

#[test]
fn what_cannot_be_exported_says_why_and_nothing_is_overwritten() {
    let shop = shop("path:model", |shop| windowed().write(&shop.path("model")));
    let refused = |arguments: &[&str], code: i32, says: &str| {
        let output = shop.calipr(&[&["export", "results/tiny"], arguments].concat());
        let (_, stderr) = texts(&output);
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(says), "{says}: {stderr}");
    };
    fs::create_dir_all(shop.path("taken")).unwrap();
    fs::write(shop.path("taken/mine"), "mine").unwrap();
    refused(&["--to", "taken"], 2, "is there already");
    refused(&["--to", "taken/mine"], 2, "is there already");
    assert_eq!(fs::read_to_string(shop.path("taken/mine")).unwrap(), "mine");
    refused(&["wanda-0.6", "--to", "x"], 2, "wanda-0.6 is no cell of the study; it has dense, magnitude-0.5");
    refused(&["--to", "x.gguf", "--format", "hub"], 2, "no .gguf file");
    refused(&["--to", "x.gguf"], 1, "convert_hf_to_gguf.py");
    // The model is another one by now.
    Tiny { hidden: 64, ..Tiny::default() }.write(&shop.path("model"));
    refused(&["magnitude-0.5", "--to", "x"], 1, "since it ran, the model's");
    assert!(!shop.path("x").exists() && !shop.path("x.gguf").exists());
    let left = fs::read_dir(shop.dir.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".calipr-unfinished"));
    assert_eq!(left.count(), 0);
}

#[test]
fn a_recipe_may_have_models_exported_when_its_cells_are_done() {
    let shop = Workshop::new(&Tiny::default());
    let recipe =
        common::RECIPE.to_owned() + "\n[export]\ncells = [\"wanda-2:4-other\", \"magnitude-0.5\"]\ndtype = \"bf16\"\n";
    fs::write(shop.path("recipe.toml"), &recipe).unwrap();
    shop.succeeds(&["run", "recipe.toml"]);
    let models = shop.path("results/tiny/models");
    for name in ["wanda-2of4-other-s0", "magnitude-0.5"] {
        assert!(open(&models.join(name)).is_ok(), "{name}");
    }
    // Once more nothing is written; another choice adds to it.
    let (_, log) = shop.succeeds(&["run", "recipe.toml", "--set", "export.cells='best'"]);
    assert_eq!(fs::read_dir(&models).unwrap().count(), 3, "{log}");
    let (_, log) = shop.succeeds(&["run", "recipe.toml"]);
    assert_eq!(log.matches("is there already").count(), 2, "{log}");
    // A model of another study under the same name does not pass for this one's.
    let weights = || fs::read(models.join("wanda-2of4-other-s0/model.safetensors")).unwrap();
    let (before, other) = (weights(), ["run", "recipe.toml", "--set", "calibration.other.windows=5"]);
    let (_, log) = shop.succeeds(&["run", "recipe.toml", "--set", "export.dtype=f32"]);
    assert_eq!(log.matches("nothing says that it is this study's model of").count(), 2, "{log}");
    assert!(weights() == before);
    let (_, log) = shop.succeeds(&[&other[..], &["--replace"]].concat());
    assert!(weights() != before && log.matches("is there already, and stays").count() == 1, "{log}");
    let after = weights();
    let (_, log) = shop.succeeds(&[&other[..], &["--replace"]].concat());
    assert!(weights() == after && log.matches("is there already, and stays").count() == 2, "{log}");
    fs::remove_file(shop.path("results/tiny/models.json")).unwrap();
    let (_, log) = shop.succeeds(&other);
    assert_eq!(log.matches("nothing says that it is this study's model of").count(), 2, "{log}");
    for (cells, says) in [
        ("[\"wanda-0.5-genral\"]", "did you mean \"wanda-0.5-general\"?"),
        ("\"worst\"", "expected \"best\", \"all\", or a list of cells"),
        ("[]", "it names none"),
    ] {
        let output = shop.calipr(&["plan", "recipe.toml", "--set", &format!("export.cells={cells}")]);
        assert_eq!(output.status.code(), Some(2));
        assert!(texts(&output).1.contains(says), "{}", texts(&output).1);
    }
    // What cannot be made of the model is said before anything is computed.
    windowed().write(&shop.path("windowed"));
    for command in ["plan", "run"] {
        let sets = ["--set", "export.format='gguf'", "--set", "model.source=path:windowed", "--out", "elsewhere"];
        let output = shop.calipr(&[&[command, "recipe.toml"], &sets[..]].concat());
        assert!(!output.status.success() && texts(&output).1.contains("[export]"), "{}", texts(&output).1);
    }
}
