//! Folders and files of weights in every form that people have them: read as what they are, or refused by name, before
//! anything is computed.

mod common;

use std::collections::HashMap;
use std::path::Path;

use calipr::internals::{Model, ModelFiles};
use candle_core::quantized::{GgmlDType, gguf_file};
use candle_core::{DType, Device, Tensor};
use common::{Tiny, Workshop, write_gguf};
use serde_json::{Value, json};

type Tensors = HashMap<String, Tensor>;

const UP: &str = "model.layers.1.mlp.up_proj.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// A model's folder in a temporary one.
struct Folder(tempfile::TempDir);

impl Folder {
    /// With config and tokenizer, and no weights yet.
    fn new(tiny: &Tiny) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        tiny.write(folder.path());
        std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
        folder
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn save(&self, file: &str, tensors: &Tensors) -> &Self {
        candle_core::safetensors::save(tensors, self.path().join(file)).unwrap();
        self
    }

    fn index(&self, files: &[(&str, &Tensors)]) -> &Self {
        let names =
            files.iter().flat_map(|(file, tensors)| tensors.keys().map(move |name| (name.clone(), json!(file))));
        let map: serde_json::Map<String, Value> = names.collect();
        let text = json!({"weight_map": map}).to_string();
        std::fs::write(self.path().join("model.safetensors.index.json"), text).unwrap();
        self
    }

    fn configure(&self, key: &str, value: Value) -> &Self {
        let path = self.path().join("config.json");
        let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        config[key] = value;
        std::fs::write(path, config.to_string()).unwrap();
        self
    }

    fn logits(&self) -> Vec<f32> {
        logits(self.path())
    }

    fn refusal(&self) -> String {
        format!("{:#}", ModelFiles::at(self.path()).and_then(|files| files.spec()).unwrap_err())
    }
}

fn logits(path: &Path) -> Vec<f32> {
    let model = Model::open(&ModelFiles::at(path).unwrap(), DType::F32, Device::Cpu).unwrap();
    let ids: Vec<u32> = (0..12).map(|i| i * 19 % 251).collect();
    model.logits(&ids, &[0..7, 7..12]).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// A model's tensors in two files.
fn halves(tensors: &Tensors) -> (Tensors, Tensors) {
    tensors.clone().into_iter().partition(|(name, _)| !name.contains("layers.1"))
}

const FIRST: &str = "model-00001-of-00002.safetensors";
const SECOND: &str = "model-00002-of-00002.safetensors";

#[test]
fn the_file_that_transformers_reads_counts_where_several_lie_there() {
    let tiny = Tiny::default();
    let (tensors, expected) = (tiny.tensors(), Folder::new(&tiny).save("model.safetensors", &tiny.tensors()).logits());
    let (first, second) = halves(&tensors);
    let doubled: Tensors = first.iter().map(|(name, t)| (name.clone(), (t * 2.0).unwrap())).collect();
    let files = [(FIRST, &first), (SECOND, &second)];
    let sharded = Folder::new(&tiny);
    sharded.save(FIRST, &first).save(SECOND, &second).index(&files);
    assert_eq!(sharded.logits(), expected);
    let both = Folder::new(&tiny);
    both.save("model.safetensors", &tensors).save(FIRST, &doubled).save(SECOND, &second).index(&files);
    assert_eq!(both.logits(), expected);
    // A file that is named has to be the one that counts.
    assert!(ModelFiles::at(&both.path().join("model.safetensors")).is_ok());
    let said = ModelFiles::at(&both.path().join(FIRST)).err().unwrap().to_string();
    assert!(said.contains("model.safetensors"), "{said}");
    assert!(ModelFiles::at(&sharded.path().join(SECOND)).is_ok());
    // The index says in which files to look; what is where, the files say.
    let crossed = Folder::new(&tiny);
    crossed.save(FIRST, &first).save(SECOND, &second).index(&[(SECOND, &first), (FIRST, &second)]);
    assert_eq!(crossed.logits(), expected);
}

#[test]
fn an_index_that_the_files_contradict_is_refused_by_tensor_and_file() {
    let tiny = Tiny::default();
    let (mut first, mut second) = halves(&tiny.tensors());
    let whole = second.clone();
    let up = second.remove(UP).unwrap();
    let lacking = Folder::new(&tiny);
    lacking.save(FIRST, &first).save(SECOND, &second).index(&[(FIRST, &first), (SECOND, &whole)]);
    let said = lacking.refusal();
    assert!(said.contains(UP) && said.contains(SECOND) && said.contains("index"), "{said}");
    first.insert(UP.into(), up);
    let twice = Folder::new(&tiny);
    twice.save(FIRST, &first).save(SECOND, &whole).index(&[(FIRST, &first), (SECOND, &whole)]);
    let said = twice.refusal();
    assert!(said.contains(UP) && said.contains(FIRST) && said.contains(SECOND), "{said}");
}

#[test]
fn names_may_have_another_prefix() {
    let tiny = Tiny::default();
    let expected = Folder::new(&tiny).save("model.safetensors", &tiny.tensors()).logits();
    let renamed = |rename: &dyn Fn(&str) -> String| -> Tensors {
        tiny.tensors().into_iter().map(|(name, t)| (rename(&name), t)).collect()
    };
    for rename in [
        &|name: &str| name.replacen("model.", "", 1) as String,
        &|name: &str| format!("language_model.{name}"),
        &|name: &str| name.replacen("model.", "model.language_model.", 1),
        &|name: &str| format!("base_model.model.{name}"),
    ] as [&dyn Fn(&str) -> String; 4]
    {
        assert_eq!(Folder::new(&tiny).save("model.safetensors", &renamed(rename)).logits(), expected);
    }
    let mut two = renamed(&|name| format!("a.{name}"));
    two.extend(renamed(&|name| format!("b.{name}")));
    let said = Folder::new(&tiny).save("model.safetensors", &two).refusal();
    assert!(said.contains("\"a.model.\", \"b.model.\""), "{said}");
    let said = Folder::new(&tiny).save("model.safetensors", &renamed(&|name| name.replace("layers", "h"))).refusal();
    assert!(said.contains("model.layers.0.self_attn.q_proj.weight"), "{said}");
}

#[test]
fn tied_weights_are_tied_as_transformers_ties_them() {
    let tiny = Tiny { tied: true, ..Tiny::default() };
    let tensors = tiny.tensors();
    let embedding = tensors[EMBEDDING].clone();
    let with = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors = tensors.clone();
        change(&mut tensors);
        let folder = Folder::new(&tiny);
        folder.save("model.safetensors", &tensors);
        folder
    };
    let expected = with(&|_| {}).logits();
    // Kept under the head's name only, and under both.
    let as_head = |tensors: &mut Tensors| {
        let embedding = tensors.remove(EMBEDDING).unwrap();
        tensors.insert(HEAD.into(), embedding);
    };
    assert_eq!(with(&as_head).logits(), expected);
    let twice = with(&|tensors| drop(tensors.insert(HEAD.into(), embedding.force_contiguous().unwrap())));
    assert_eq!(twice.logits(), expected);
    // Both, and different: then the config is wrong.
    let other = (&embedding * 0.5).unwrap();
    let differ = with(&|tensors| drop(tensors.insert(HEAD.into(), other.clone())));
    let untied = Folder::new(&Tiny { tied: false, ..tiny.clone() });
    let mut both = tensors.clone();
    both.insert(HEAD.into(), other.clone());
    untied.save("model.safetensors", &both);
    assert_eq!(differ.logits(), untied.logits());
    let spec = ModelFiles::at(differ.path()).unwrap().spec().unwrap();
    assert!(spec.remarks[0].contains("differ"), "{:?}", spec.remarks);
    // A head that is nowhere is not made up.
    let said = with(&|_| {}).configure("tie_word_embeddings", json!(false)).refusal();
    assert!(said.contains("lm_head.weight") && said.contains("tie_word_embeddings"), "{said}");
}

#[test]
fn weights_in_eight_bits_are_read_with_their_scales_or_refused() {
    let tiny = Tiny::default();
    let (mut stored, mut read) = (Tensors::new(), Tensors::new());
    for (name, tensor) in tiny.tensors() {
        if !name.contains("_proj.weight") {
            stored.insert(name.clone(), tensor.clone());
            read.insert(name, tensor);
            continue;
        }
        let eight = (&tensor * 100.0).unwrap().to_dtype(DType::F8E4M3).unwrap();
        let rows = tensor.dim(0).unwrap();
        let scales: Vec<f32> = (0..rows).map(|row| 0.01 + row as f32 / 1000.0).collect();
        let scales = Tensor::from_vec(scales, (rows, 1), &Device::Cpu).unwrap();
        read.insert(name.clone(), eight.to_dtype(DType::F32).unwrap().broadcast_mul(&scales).unwrap());
        stored.insert(name.replace("weight", "weight_scale"), scales);
        stored.insert(name, eight);
    }
    let expected = Folder::new(&tiny).save("model.safetensors", &read).logits();
    let quantised = json!({"quant_method": "compressed-tensors", "format": "float-quantized"});
    let folder = Folder::new(&tiny);
    folder.save("model.safetensors", &stored).configure("quantization_config", quantised.clone());
    assert_eq!(folder.logits(), expected);
    let remarks = ModelFiles::at(folder.path()).unwrap().spec().unwrap().remarks;
    assert!(remarks[0].contains("8 bits (compressed-tensors)"), "{remarks:?}");

    let said = Folder::new(&tiny).save("model.safetensors", &stored).refusal();
    assert!(said.contains("weight_scale") && said.contains("quantization_config"), "{said}");
    stored.retain(|name, _| !name.contains("scale"));
    let folder = Folder::new(&tiny);
    let said = folder.save("model.safetensors", &stored).configure("quantization_config", quantised).refusal();
    assert!(said.contains("no scales"), "{said}");
}

#[test]
fn what_is_wrong_with_a_tensor_is_said_by_its_name_in_plan_too() {
    let shop = Workshop::new(&Tiny::default());
    for (name, change, says) in [
        (UP, Tensor::zeros((10, 32), DType::F32, &Device::Cpu).unwrap(), "has the shape [10, 32]"),
        (UP, Tensor::full(f32::NAN, (48, 32), &Device::Cpu).unwrap(), "1536 of 1536 values"),
        (UP, Tensor::zeros((48, 32), DType::U32, &Device::Cpu).unwrap(), "it holds U32"),
        ("model.norm.weight", Tensor::full(f32::INFINITY, 32, &Device::Cpu).unwrap(), "32 of 32 values"),
    ] {
        let mut tensors = Tiny::default().tensors();
        tensors.insert(name.into(), change);
        candle_core::safetensors::save(&tensors, shop.path("model/model.safetensors")).unwrap();
        for command in ["plan", "run"] {
            let output = shop.calipr(&[command, "recipe.toml"]);
            let (_, stderr) = common::texts(&output);
            assert!(!output.status.success() && stderr.contains(name) && stderr.contains(says), "{stderr}");
        }
    }
    // What no precision of the recipe's holds is told apart from what is no number.
    let mut tensors = Tiny::default().tensors();
    tensors.insert(UP.into(), Tensor::full(1e6f32, (48, 32), &Device::Cpu).unwrap());
    candle_core::safetensors::save(&tensors, shop.path("model/model.safetensors")).unwrap();
    let output = shop.calipr(&["plan", "recipe.toml", "--set", "model.dtype=f16"]);
    let (_, stderr) = common::texts(&output);
    assert!(stderr.contains("larger values than its precision"), "{stderr}");
}

#[test]
fn a_split_gguf_is_the_whole_whichever_part_is_named() {
    let (tiny, dir) = (Tiny::default(), tempfile::tempdir().unwrap());
    let whole = dir.path().join("whole.gguf");
    write_gguf(&tiny, GgmlDType::F32, &whole);
    let mut file = std::fs::File::open(&whole).unwrap();
    let content = gguf_file::Content::read(&mut file).unwrap();
    let part = |index: usize| dir.path().join(format!("part-0000{}-of-00002.gguf", index + 1));
    let write = |index: usize, says: (u16, u16)| {
        let mut file = std::fs::File::open(&whole).unwrap();
        let own = content.tensor_infos.keys().filter(|name| name.contains("blk.1.") == (index == 1));
        let tensors: Vec<_> =
            own.map(|name| (name.as_str(), content.tensor(&mut file, name, &Device::Cpu).unwrap())).collect();
        let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
        let [number, count] = [says.0, says.1].map(gguf_file::Value::U16);
        let mut metadata = vec![("split.no", &number), ("split.count", &count)];
        if index == 0 {
            metadata.extend(content.metadata.iter().map(|(key, value)| (key.as_str(), value)));
        }
        gguf_file::write(&mut std::fs::File::create(part(index)).unwrap(), &metadata, &tensors).unwrap();
    };
    write(0, (0, 2));
    write(1, (1, 2));
    let expected = logits(&whole);
    for named in [0, 1] {
        assert_eq!(logits(&part(named)), expected);
        assert_eq!(ModelFiles::at(&part(named)).unwrap().list().unwrap(), [part(0), part(1)]);
    }
    let refusal = |path: &Path| format!("{:#}", ModelFiles::at(path).unwrap().spec().unwrap_err());
    write(1, (1, 3));
    assert!(refusal(&part(0)).contains("part 2 of 3, where part 2 of 2 is expected"), "{}", refusal(&part(0)));
    std::fs::remove_file(part(1)).unwrap();
    assert!(refusal(&part(0)).contains("part-00002-of-00002.gguf"), "{}", refusal(&part(0)));
    let lone = dir.path().join("model.gguf");
    std::fs::rename(part(0), &lone).unwrap();
    assert!(refusal(&lone).contains("part 1 of 2 of a split model"), "{}", refusal(&lone));
}

/// The tiny model as a GGUF file with other metadata, and one more tensor where there is `more`.
fn gguf_with(dir: &Path, metadata: &[(&str, gguf_file::Value)], without: &[&str], more: Option<&str>) -> ModelFiles {
    let (whole, path) = (dir.join("whole.gguf"), dir.join("changed.gguf"));
    write_gguf(&Tiny::default(), GgmlDType::F32, &whole);
    let mut file = std::fs::File::open(&whole).unwrap();
    let content = gguf_file::Content::read(&mut file).unwrap();
    let own = content.metadata.iter().map(|(key, value)| (key.as_str(), value));
    let own = own.filter(|(key, _)| !without.contains(key) && metadata.iter().all(|(changed, _)| changed != key));
    let metadata: Vec<_> = own.chain(metadata.iter().map(|(key, value)| (*key, value))).collect();
    let read = |name: &String| content.tensor(&mut file, name, &Device::Cpu).unwrap();
    let mut tensors: Vec<_> = content.tensor_infos.keys().cloned().zip(content.tensor_infos.keys().map(read)).collect();
    if let Some(name) = more {
        let tensor = candle_core::quantized::QTensor::quantize(
            &Tensor::zeros(32, DType::F32, &Device::Cpu).unwrap(),
            GgmlDType::F32,
        );
        tensors.push((name.to_owned(), tensor.unwrap()));
    }
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut std::fs::File::create(&path).unwrap(), &metadata, &tensors).unwrap();
    ModelFiles::at(&path).unwrap()
}

#[test]
fn the_rotary_embedding_of_a_gguf_is_llama_cpps() {
    use gguf_file::Value::{F32, String as Text, U32};
    let dir = tempfile::tempdir().unwrap();
    let text = |text: &str| Text(text.to_owned());
    // What each means in a config.json.
    for (metadata, rope) in [
        (vec![], json!({})),
        // llama.cpp: a factor without a type is linear, and a factor of 0 is none.
        (vec![("llama.rope.scaling.factor", F32(4.0))], json!({"type": "linear", "factor": 4.0})),
        (vec![("llama.rope.scale_linear", F32(2.0))], json!({"type": "linear", "factor": 2.0})),
        (vec![("llama.rope.scaling.factor", F32(0.0))], json!({})),
        (vec![("llama.rope.scaling.type", text("none")), ("llama.rope.scaling.factor", F32(4.0))], json!({})),
        (
            vec![
                ("llama.rope.scaling.type", text("yarn")),
                ("llama.rope.scaling.factor", F32(4.0)),
                ("llama.rope.scaling.original_context_length", U32(32)),
            ],
            json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}),
        ),
    ] {
        gguf_with(dir.path(), &metadata, &[], None);
        let folder = Folder::new(&Tiny::default());
        folder.save("model.safetensors", &Tiny::default().tensors()).configure("rope_scaling", rope.clone());
        for (a, b) in logits(&dir.path().join("changed.gguf")).iter().zip(folder.logits()) {
            assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{rope}: {a} {b}");
        }
    }
    let window = gguf_with(dir.path(), &[("llama.attention.sliding_window", U32(64))], &[], None);
    assert_eq!(window.spec().unwrap().reach.unwrap().tokens, 64);
}

#[test]
fn a_gguf_that_is_another_model_than_calipr_computes_is_refused_by_name() {
    use gguf_file::Value::{Bool, F32, String as Text, U32};
    let dir = tempfile::tempdir().unwrap();
    for (key, value, says) in [
        ("llama.attention.scale", F32(0.1), "attention.scale"),
        ("llama.logit_scale", F32(8.0), "logit_scale"),
        ("llama.attention.causal", Bool(false), "attention.causal"),
        ("llama.expert_count", U32(8), "lacks `llama.expert_used_count`"),
        ("llama.expert_group_count", U32(2), "expert_group_count"),
        ("llama.rope.freq_base", gguf_file::Value::F64(1e4), "a float of 32 bits"),
        ("llama.rope.dimension_count", U32(4), "rope.dimension_count"),
        ("llama.attention.value_length", U32(4), "attention.value_length"),
        ("llama.rope.scaling.type", Text("longrope".into()), "longrope"),
        ("llama.rope.scaling.attn_factor", F32(0.5), "attn_factor"),
        ("general.architecture", Text("gemma3".into()), "gemma3"),
    ] {
        let said = format!("{:#}", gguf_with(dir.path(), &[(key, value)], &[], None).spec().unwrap_err());
        assert!(said.contains(says) && said.contains("changed.gguf"), "{said}");
    }
    let epsilon = "llama.attention.layer_norm_rms_epsilon";
    let said = format!("{:#}", gguf_with(dir.path(), &[], &[epsilon], None).spec().unwrap_err());
    assert!(said.contains(epsilon), "{said}");
    let said = format!("{:#}", gguf_with(dir.path(), &[], &[], Some("blk.0.attn_q_norm.weight")).spec().unwrap_err());
    assert!(said.contains("blk.0.attn_q_norm.weight"), "{said}");
    // A file that ends before its tensors do.
    let path = dir.path().join("whole.gguf");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 5000]).unwrap();
    let said = format!("{:#}", ModelFiles::at(&path).unwrap().spec().unwrap_err());
    assert!(said.contains("beyond the end of the file"), "{said}");
}
