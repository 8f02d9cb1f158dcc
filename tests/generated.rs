//! Calibration on texts that the dense model writes itself.

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use candle_core::Device;
use candle_core::quantized::{GgmlDType, gguf_file};
use common::{Tiny, Workshop, assert_same_tables, faults, read_table, run_with, texts, write_gguf};
use serde_json::Value;

const GENERATE: &str = "{ from = \"path:rows.jsonl\", prefix = 4, texts = 14, max_new_tokens = 40, top_k = 30 }";

/// A study calibrated on texts that a tiny model writes, which end at two of its tokens.
fn shop() -> Workshop {
    let shop = Workshop::new(&Tiny::default());
    let recipe = format!(
        "name = \"tiny\"\n[model]\nsource = \"path:model\"\n\
         [calibration.self]\ngenerate = {GENERATE}\nwindows = 5\nlength = 24\n\
         [grid]\nmethod = [\"wanda\"]\nsparsity = [0.5]\nseed = [0, 1]\n\
         [suite.text]\ndataset = \"path:test.jsonl\"\nwindows = 3\nlength = 64\nmetrics = [\"loss\"]\n"
    );
    std::fs::write(shop.path("recipe.toml"), recipe).unwrap();
    std::fs::write(shop.path("model/generation_config.json"), r#"{"eos_token_id": [5, 77]}"#).unwrap();
    shop
}

/// What run.json says of the windows that each seed drew.
fn drawn(shop: &Workshop, results: &str) -> Vec<Value> {
    let manifest = std::fs::read_to_string(shop.path(results).join("run.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    manifest["calibrations"]["self"]["drawn"].as_array().unwrap().clone()
}

/// The texts that run.json names.
fn written(shop: &Workshop, results: &str, cache: &str) -> Vec<Value> {
    let file = drawn(shop, results)[0]["details"]["generate"]["file"].as_str().unwrap().to_owned();
    let lines = std::fs::read_to_string(shop.path(cache).join(file)).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The entries of single texts, with what tells a file from another that took its place.
fn entries(shop: &Workshop) -> BTreeMap<PathBuf, u64> {
    let files = std::fs::read_dir(shop.path("cache/texts")).into_iter().flatten().map(|file| file.unwrap().path());
    let is_entry = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        !name.starts_with('.') && !name.ends_with(".jsonl")
    };
    files.filter(is_entry).map(|path| (path.clone(), path.metadata().unwrap().ino())).collect()
}

#[test]
fn texts_are_kept_as_lines_and_those_of_the_highest_perplexity_are_left_out() {
    let shop = shop();
    shop.succeeds(&["run", "recipe.toml"]);
    let written = written(&shop, "results/tiny", "cache");
    assert_eq!(written.len(), 14);
    let perplexity = |text: &Value| text["perplexity"].as_f64().unwrap();
    let (kept, dropped): (Vec<&Value>, Vec<&Value>) = written.iter().partition(|text| text["kept"] == true);
    // np.percentile(perplexities, 80) of 14 lies between the eleventh and the twelfth.
    assert_eq!((kept.len(), dropped.len()), (11, 3));
    let highest = kept.iter().map(|text| perplexity(text)).fold(0.0, f64::max);
    assert!(dropped.iter().all(|text| perplexity(text) > highest));
    let rows = std::fs::read_to_string(shop.path("rows.jsonl")).unwrap();
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut lengths = Vec::new();
    for text in &written {
        let (row, prefix) = (text["row"].as_u64().unwrap() as usize, text["prefix"].as_str().unwrap());
        assert!(!prefix.is_empty() && rows[row - 1]["text"].as_str().unwrap().starts_with(prefix), "{text}");
        assert!(text["text"].as_str().unwrap().starts_with(prefix), "{text}");
        lengths.push(text["tokens"].as_u64().unwrap());
    }
    assert!(lengths.contains(&44) && lengths.iter().any(|&tokens| tokens < 44), "{lengths:?}");
    let drawn = drawn(&shop, "results/tiny");
    assert_eq!(drawn.len(), 2);
    let details = |i: usize| &drawn[i]["details"]["generate"];
    assert_eq!((&details(0)["texts"], &details(0)["kept"]), (&14.into(), &11.into()));
    assert_eq!(details(0)["tokens"], lengths.iter().sum::<u64>());
    assert_eq!(details(0)["highest_perplexity"].as_f64(), Some(highest));
    // Seeds draw different windows of the same texts.
    assert_eq!(details(0), details(1));
    assert_ne!(drawn[0]["digest"], drawn[1]["digest"]);
    assert_eq!(drawn[0]["windows"], 5);
}

#[test]
fn texts_are_the_same_on_any_number_of_threads() {
    let shop = shop();
    shop.succeeds(&["run", "recipe.toml", "--threads", "1", "--out", "one", "--cache", "first"]);
    shop.succeeds(&["run", "recipe.toml", "--threads", "2", "--out", "two", "--cache", "second"]);
    assert_eq!(written(&shop, "one", "first"), written(&shop, "two", "second"));
    assert_same_tables(&shop.tables("one"), &shop.tables("two"));
}

#[test]
fn a_run_that_is_killed_at_any_write_goes_on_to_the_same_texts_and_writes_none_twice() {
    let shop = shop();
    let library = faults(shop.dir.path());
    assert!(run_with(&shop, &library, "none", 0).status.success());
    let (expected, tables) = (written(&shop, "results/tiny", "cache"), shop.tables("results/tiny"));
    let writes: usize = std::fs::read_to_string(shop.path("writes")).unwrap().parse().unwrap();
    let mut found = Vec::new();
    for at in (1..writes.min(70)).step_by(2) {
        for folder in ["cache", "results"] {
            let _ = std::fs::remove_dir_all(shop.path(folder));
        }
        assert!(!run_with(&shop, &library, "kill", at).status.success(), "write {at} of {writes}");
        let before = entries(&shop);
        found.push(before.len());
        shop.succeeds(&["run", "recipe.toml"]);
        let after = entries(&shop);
        assert_eq!(after.len(), 14);
        assert!(before.iter().all(|(path, inode)| after[path] == *inode), "killed at write {at}");
        assert_eq!(written(&shop, "results/tiny", "cache"), expected, "killed at write {at}");
        assert_same_tables(&tables, &shop.tables("results/tiny"));
    }
    assert!(found.iter().any(|&texts| 0 < texts && texts < 14), "{found:?}");
}

#[test]
fn more_texts_begin_with_those_that_are_there() {
    let shop = shop();
    shop.succeeds(&["run", "recipe.toml"]);
    let (few, before) = (written(&shop, "results/tiny", "cache"), entries(&shop));
    shop.succeeds(&["run", "recipe.toml", "--set", "calibration.self.generate.texts=20", "--out", "more"]);
    let (more, after) = (written(&shop, "more", "cache"), entries(&shop));
    assert_eq!(after.len(), 20);
    assert!(before.iter().all(|(path, inode)| after[path] == *inode));
    let texts = |all: &[Value]| all.iter().map(|text| text["text"].clone()).collect::<Vec<_>>();
    assert_eq!(texts(&more)[..14], texts(&few));
    // Another temperature is another text.
    shop.succeeds(&["run", "recipe.toml", "--set", "calibration.self.generate.temperature=1.5", "--out", "hot"]);
    assert_ne!(texts(&written(&shop, "hot", "cache")), texts(&few));
}

#[test]
fn without_a_temperature_a_text_is_what_a_suite_answers() {
    let shop = shop();
    // Answers show the token that ends them, where it is a character.
    std::fs::remove_file(shop.path("model/generation_config.json")).unwrap();
    let prompts = ["abcd", "sea!", "0123", "x y z", "long", "word"];
    let row = |prompt: &&str| format!("{{\"prompt\": \"{prompt}\", \"completion\": \"x\"}}\n");
    std::fs::write(shop.path("pairs.jsonl"), prompts.iter().map(row).collect::<String>()).unwrap();
    let row = |prompt: &&str| format!("{{\"text\": \"{}\"}}\n", &prompt[..4]);
    std::fs::write(shop.path("begun.jsonl"), prompts.iter().map(row).collect::<String>()).unwrap();
    let recipe = "name = \"tiny\"\n[model]\nsource = \"path:model\"\n\
        [calibration.self]\nwindows = 2\nlength = 8\n\
        generate = { from = \"path:begun.jsonl\", prefix = 4, texts = 6, max_new_tokens = 20, temperature = 0, \
        repetition_penalty = 1.3, drop = 0 }\n\
        [grid]\nmethod = [\"wanda\"]\nsparsity = [0.5]\n\
        [suite.rows]\ndataset = \"path:pairs.jsonl\"\nmax_new_tokens = 20\nrepetition_penalty = 1.3\nmetrics = [\"f1\"]\n";
    std::fs::write(shop.path("recipe.toml"), recipe).unwrap();
    shop.succeeds(&["run", "recipe.toml"]);
    let samples = read_table(&shop.path("results/tiny/samples.parquet"));
    let answers: Vec<&str> = (samples.iter().filter(|row| row["cell"] == "dense" && row["suite"] == "rows"))
        .map(|row| row["prediction"].as_str().unwrap())
        .collect();
    let written = written(&shop, "results/tiny", "cache");
    assert_eq!((answers.len(), written.len()), (6, 6));
    let mut compared = 0;
    for text in &written {
        let row = text["row"].as_u64().unwrap() as usize - 1;
        if prompts[row].len() == 4 {
            assert_eq!(text["text"].as_str().unwrap().trim(), format!("{}{}", prompts[row], answers[row]).trim());
            compared += 1;
        }
    }
    assert_eq!(compared, 5);
}

#[test]
fn the_defaults_are_enough() {
    let shop = shop();
    let recipe = std::fs::read_to_string(shop.path("recipe.toml")).unwrap();
    let recipe = recipe.replace(GENERATE, "{ from = \"path:rows.jsonl\" }");
    std::fs::write(shop.path("recipe.toml"), recipe).unwrap();
    std::fs::remove_file(shop.path("model/generation_config.json")).unwrap();
    shop.succeeds(&["run", "recipe.toml"]);
    // 5,000 texts for 128 windows of 2048 tokens are three for 5 of 24; nothing but the model's context of 128 ends one.
    let written = written(&shop, "results/tiny", "cache");
    assert_eq!(written.len(), 3);
    assert_eq!(written.iter().filter(|text| text["kept"] == true).count(), 2);
    assert!(written.iter().all(|text| text["tokens"] == 128), "{written:?}");
}

#[test]
fn a_plan_says_what_texts_cost_and_which_are_there() {
    let shop = shop();
    let plan = || shop.succeeds(&["plan", "recipe.toml"]).0;
    let before = plan();
    assert!(before.contains("14 texts of calibration self, up to 44 tokens each"), "{before}");
    assert!(!shop.path("cache/texts").exists(), "a plan writes none");
    shop.succeeds(&["run", "recipe.toml"]);
    let line = |plan: &str| plan.lines().find(|line| line.contains("texts of calibration self")).unwrap().to_owned();
    assert_ne!(line(&plan()), line(&before), "they are cached");
    std::fs::remove_dir_all(shop.path("cache/windows")).unwrap();
    std::fs::remove_file(entries(&shop).keys().next().unwrap()).unwrap();
    assert!(plan().contains("each, 13 of them there"), "{}", plan());
}

#[test]
fn what_cannot_be_written_is_refused_with_its_place() {
    let shop = shop();
    for (set, says) in [
        ("generate.drop=1", "`calibration.self.generate.drop`: 1 is no share that leaves texts"),
        ("generate.drop=-0.1", "-0.1 is no share"),
        ("generate.top_k=0", "`calibration.self.generate.top_k`: 0 is too small; expected at least 1"),
        ("generate.top_p=0", "`calibration.self.generate.top_p`: 0 is no share"),
        ("generate.prefix=0", "`calibration.self.generate.prefix`: 0 is too small"),
        ("generate.texts=0", "`calibration.self.generate.texts`: 0 is too small"),
        ("generate.temperature=-1", "-1 is no temperature"),
        ("generate.repetition_penalty=0", "0 is no penalty"),
        ("generate.max_new_tokens=0", "`calibration.self.generate.max_new_tokens`: 0 is too small"),
        ("generate.prefix=128", "128 tokens leave no room in the model's context of 128"),
        ("generate.prefix=100", "none of 40 rows has 100 tokens"),
        ("generate={from='path:rows.jsonl', prefix=4, texts=60, temperature=0}", "too few for 60 texts"),
        ("generate.from='wikitexxt'", "wikitexxt"),
        ("generate.from='path:none.jsonl'", "none.jsonl"),
        ("generate.form=1", "form"),
        ("dataset='path:rows.jsonl'", "`calibration.self.generate`"),
    ] {
        for command in ["plan", "run"] {
            let output = shop.calipr(&[command, "recipe.toml", "--set", &format!("calibration.self.{set}")]);
            let (_, stderr) = texts(&output);
            assert_eq!(output.status.code(), Some(2), "{command} {set}: {stderr}");
            assert!(stderr.contains(says), "{command} {set}: {stderr}");
            assert!(!shop.path("results").exists() && !shop.path("cache/texts").exists(), "{set}");
        }
    }
    // What shows only when the texts are there.
    let output = shop.calipr(&["run", "recipe.toml", "--set", "calibration.self.windows=50"]);
    let (_, stderr) = texts(&output);
    let says = "texts are left; raise `texts`";
    assert!(!output.status.success() && stderr.contains(says) && stderr.contains("[calibration.self]"), "{stderr}");
    // The folder's settings that calipr does not follow are refused as for suites.
    std::fs::write(shop.path("model/generation_config.json"), r#"{"no_repeat_ngram_size": 2}"#).unwrap();
    for command in ["plan", "run"] {
        let output = shop.calipr(&[command, "recipe.toml"]);
        let (_, stderr) = texts(&output);
        assert!(stderr.contains("[calibration.self]") && stderr.contains("`no_repeat_ngram_size` is 2"), "{stderr}");
        assert_eq!(output.status.code(), Some(2), "{stderr}");
    }
}

#[test]
fn texts_that_are_surely_too_few_are_refused_before_any_is_written() {
    let shop = shop();
    for (sets, says) in [
        (
            ["packing='single'", "generate.texts=5"],
            "4 of 5 texts are left; raise `texts`, or lower `drop`: they make 4 windows",
        ),
        (["windows=100", "generate.max_new_tokens=4"], "11 of 14 texts are left"),
    ] {
        for command in ["plan", "run"] {
            let sets = sets.map(|set| format!("calibration.self.{set}"));
            let output = shop.calipr(&[command, "recipe.toml", "--set", &sets[0], "--set", &sets[1]]);
            let (_, stderr) = texts(&output);
            assert!(stderr.contains(says) && stderr.contains("[calibration.self]"), "{stderr}");
            assert!(output.status.code() == Some(2) && !shop.path("cache/texts").exists(), "{stderr}");
        }
    }
}

#[test]
fn what_is_wrong_with_another_calibration_shows_before_any_text_is_written() {
    let shop = shop();
    let other = "calibration.z={ dataset = 'path:rows.jsonl', packing = 'single', windows = 500, length = 24 }";
    for command in ["plan", "run"] {
        let output = shop.calipr(&[command, "recipe.toml", "--set", other]);
        let (_, stderr) = texts(&output);
        assert!(stderr.contains("[calibration.z]") && stderr.contains("too little data"), "{stderr}");
        assert!(output.status.code() == Some(2) && !shop.path("cache/texts").exists(), "{stderr}");
    }
}

/// A window that llama.cpp passes over bounds what calipr computes of a file, and a text with it.
#[test]
fn a_prefix_that_leaves_no_room_in_a_files_window_is_refused() {
    let shop = shop();
    let (plain, file) = (shop.path("plain.gguf"), shop.path("model.gguf"));
    write_gguf(&Tiny::default(), GgmlDType::F32, &plain);
    let mut read = std::fs::File::open(&plain).unwrap();
    let content = gguf_file::Content::read(&mut read).unwrap();
    let window = gguf_file::Value::U32(16);
    let metadata = content.metadata.iter().map(|(name, value)| (name.as_str(), value));
    let metadata: Vec<_> = metadata.chain([("llama.attention.sliding_window", &window)]).collect();
    let tensors: Vec<_> = content
        .tensor_infos
        .keys()
        .map(|name| (name, content.tensor(&mut read, name, &Device::Cpu).unwrap()))
        .collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut std::fs::File::create(&file).unwrap(), &metadata, &tensors).unwrap();
    for command in ["plan", "run"] {
        let prefix = "calibration.self.generate.prefix=16";
        let sets = [
            "--set",
            "model.source='path:model.gguf'",
            "--set",
            "calibration.self.length=16",
            "--set",
            "suite.text.length=16",
        ];
        let output = shop.calipr(&[&[command, "recipe.toml", "--set", prefix], sets.as_slice()].concat());
        let (_, stderr) = texts(&output);
        assert!(stderr.contains("16 tokens leave no room in the model's sliding window"), "{stderr}");
        assert!(output.status.code() == Some(2) && !shop.path("cache/texts").exists(), "{stderr}");
    }
}

/// The shop with a second model beside the study's: of another width, with fewer tokens, which are pairs of letters too.
fn shop_with_another() -> Workshop {
    let shop = shop();
    let other = Tiny { hidden: 48, feed_forward: 64, blocks: 2, vocabulary: 258, context: 96, ..Tiny::default() };
    other.write(&shop.path("other"));
    let path = shop.path("other/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    tokenizer["model"]["vocab"].as_object_mut().unwrap().extend([("ro".into(), 256.into()), ("ay".into(), 257.into())]);
    tokenizer["model"]["merges"] = serde_json::json!(["r o", "a y"]);
    std::fs::write(path, tokenizer.to_string()).unwrap();
    std::fs::write(shop.path("other/generation_config.json"), r#"{"eos_token_id": [9, 33]}"#).unwrap();
    let recipe = std::fs::read_to_string(shop.path("recipe.toml")).unwrap();
    let named = GENERATE.replace("{ from", "{ model = \"path:other\", from");
    std::fs::write(shop.path("by_another.toml"), recipe.replace(GENERATE, &named)).unwrap();
    std::fs::write(shop.path("of_the_other.toml"), recipe.replace("path:model", "path:other")).unwrap();
    shop
}

#[test]
fn another_model_writes_what_it_writes_in_a_study_of_its_own_and_its_texts_become_tokens_of_the_pruned_model() {
    let shop = shop_with_another();
    shop.succeeds(&["run", "by_another.toml", "--out", "by", "--cache", "first", "--threads", "1"]);
    let by_another = written(&shop, "by", "first");
    shop.succeeds(&["run", "of_the_other.toml", "--out", "of", "--cache", "second", "--threads", "2"]);
    assert_eq!(by_another, written(&shop, "of", "second"));
    // Four of its own tokens, of which one is two letters: "row 0".
    assert!(by_another.iter().all(|text| text["prefix"].as_str().unwrap().len() == 5), "{by_another:?}");
    assert!(by_another.iter().any(|text| text["tokens"] == 44));
    // The windows are the pruned model's tokens, of which each is a byte: those of a data set that has the texts.
    let kept = by_another.iter().filter(|text| text["kept"] == true);
    let rows: String = kept.map(|text| serde_json::json!({"text": text["text"]}).to_string() + "\n").collect();
    std::fs::write(shop.path("texts.jsonl"), rows).unwrap();
    std::fs::write(shop.path("texts.toml"), "source = \"path:texts.jsonl\"\nseparator = \" \"\n").unwrap();
    let recipe = std::fs::read_to_string(shop.path("recipe.toml")).unwrap();
    let of_a_data_set = recipe.replace(&format!("generate = {GENERATE}"), "dataset = \"path:texts.toml\"");
    std::fs::write(shop.path("texts_recipe.toml"), of_a_data_set).unwrap();
    shop.succeeds(&["run", "texts_recipe.toml", "--out", "set"]);
    let digests = |results: &str| drawn(&shop, results).iter().map(|d| d["digest"].clone()).collect::<Vec<_>>();
    assert_eq!(digests("by"), digests("set"));
    assert_ne!(digests("by"), digests("of"));
    assert_same_tables(&shop.tables("by")[1..3], &shop.tables("set")[1..3]);
    // run.json says who wrote.
    let manifest: Value = serde_json::from_str(&std::fs::read_to_string(shop.path("by/run.json")).unwrap()).unwrap();
    let of: Value = serde_json::from_str(&std::fs::read_to_string(shop.path("of/run.json")).unwrap()).unwrap();
    assert_eq!(manifest["authors"]["path:other"]["digest"], of["model"]["digest"]);
    assert_ne!(manifest["model"]["digest"], of["model"]["digest"]);
    assert!(of["authors"].is_null());
    let report = shop.succeeds(&["report", "by"]).0;
    assert!(!report.is_empty());
    shop.succeeds(&["reproduce", "by"]);
}

#[test]
fn texts_of_another_model_are_shared_with_its_own_studies_and_asked_for_again_where_it_has_changed() {
    let shop = shop_with_another();
    let line = |recipe: &str| {
        let plan = shop.succeeds(&["plan", recipe]).0;
        plan.lines().find(|line| line.contains("texts of calibration self")).map(str::to_owned).unwrap_or_default()
    };
    let before = line("by_another.toml");
    assert!(before.contains("14 texts of calibration self by path:other, up to 44 tokens each"), "{before}");
    shop.succeeds(&["run", "of_the_other.toml", "--out", "of"]);
    let there = entries(&shop);
    assert_ne!(line("by_another.toml"), before, "they are there");
    shop.succeeds(&["run", "by_another.toml"]);
    assert_eq!(entries(&shop), there);
    shop.succeeds(&["run", "by_another.toml"]);
    assert_eq!(entries(&shop), there);
    // Where the study's own model writes, other texts come of it.
    let refused = shop.calipr(&["run", "recipe.toml"]);
    let said = texts(&refused).1;
    assert!(said.contains("calibration.self.generate.model is the study's own, not path:other"), "{said}");
    // The same files under another name are the same model; changed ones are not.
    std::fs::rename(shop.path("other"), shop.path("moved")).unwrap();
    let recipe = std::fs::read_to_string(shop.path("by_another.toml")).unwrap();
    std::fs::write(shop.path("by_another.toml"), recipe.replace("path:other", "path:moved")).unwrap();
    shop.succeeds(&["run", "by_another.toml"]);
    assert_eq!(entries(&shop), there);
    Tiny { hidden: 48, feed_forward: 64, blocks: 1, vocabulary: 258, context: 96, ..Tiny::default() }
        .write(&shop.path("moved"));
    let said = texts(&shop.calipr(&["run", "by_another.toml"])).1;
    assert!(said.contains("the files of path:moved have changed"), "{said}");
    shop.succeeds(&["run", "by_another.toml", "--replace"]);
    assert_eq!(entries(&shop).len(), 28);
}

#[test]
fn another_model_that_cannot_write_is_refused_with_its_place() {
    let shop = shop_with_another();
    let refused = |sets: &[&str], says: &str, code: i32| {
        for command in ["plan", "run", "submit"] {
            let mut arguments = vec![command, "by_another.toml"];
            arguments.extend(sets);
            if command == "submit" {
                arguments.extend(["--to", "slurm", "--print"]);
            }
            let output = shop.calipr(&arguments);
            let (_, stderr) = texts(&output);
            assert_eq!(output.status.code(), Some(code), "{command} {sets:?}: {stderr}");
            assert!(stderr.contains(says), "{command} {sets:?}: {stderr}");
            assert!(!shop.path("results").exists() && !shop.path("cache/texts").exists(), "{command} {sets:?}");
        }
    };
    let model = |value: &str| format!("calibration.self.generate.model={value}");
    refused(&["--set", &model("path:none")], "calibration.self.generate.model", 2);
    refused(&["--set", &model("other")], "expected path:", 2);
    refused(&["--set", &model("hf:datasets/a/b")], "it names a data set; expected a model", 2);
    refused(&["--set", &model("path:rows.jsonl")], "is neither a .gguf file nor a model directory", 2);
    // The study's own model has a context of 128.
    let prefix = "calibration.self.generate.prefix=96";
    refused(&["--set", prefix], "96 tokens leave no room in path:other's context of 96", 2);
    refused(&["--set", "calibration.self.generate.prefix=90"], "none of 40 rows has 90 tokens", 2);
    std::fs::write(shop.path("other/generation_config.json"), r#"{"no_repeat_ngram_size": 2}"#).unwrap();
    refused(&[], "`no_repeat_ngram_size` is 2", 2);
    refused(&[], "[calibration.self], texts by path:other, begun as rows of data set \"path:rows.jsonl\"", 2);
    std::fs::remove_file(shop.path("other/tokenizer.json")).unwrap();
    refused(&[], "[calibration.self], generate.model", 2);
    // One that is not here is fetched by a run; a plan says that it is missing.
    let absent = model("hf:nobody/nothing");
    let (plan, _) = shop.succeeds(&["plan", "by_another.toml", "--offline", "--set", &absent]);
    assert!(
        plan.contains("texts of calibration self by hf:nobody/nothing") && plan.contains("not all here yet"),
        "{plan}"
    );
    let said = texts(&shop.calipr(&["run", "by_another.toml", "--offline", "--set", &absent])).1;
    assert!(said.contains("[calibration.self] generate.model") && said.contains("--offline"), "{said}");
    // What no cell draws from is not asked for.
    let unused =
        "[calibration.own]\ndataset = \"path:rows.jsonl\"\nwindows = 2\nlength = 24\n[grid]\ncalibration = [\"own\"]\n";
    let recipe = std::fs::read_to_string(shop.path("by_another.toml")).unwrap();
    std::fs::write(shop.path("by_another.toml"), recipe.replace("[grid]\n", unused)).unwrap();
    shop.succeeds(&["run", "by_another.toml", "--offline", "--set", &absent]);
}

#[test]
fn texts_are_packed_whole_and_those_that_are_longer_than_a_window_are_passed_over() {
    let shop = shop();
    let pack = ["--set", "calibration.self.packing=pack", "--set", "calibration.self.length=60"];
    let run = |more: &[&str], results: &str| {
        shop.succeeds(&[&["run", "recipe.toml", "--out", results], &pack[..], more].concat()).1
    };
    let said = run(&["--set", "calibration.self.windows=3"], "packed");
    assert!(!said.contains("calibration.self"), "packing changes how texts are cut: {said}");
    let texts: Vec<String> = written(&shop, "packed", "cache")
        .iter()
        .filter(|text| text["kept"] == true)
        .map(|text| text["text"].as_str().unwrap().to_owned())
        .collect();
    // Each window is some of the texts, joined by spaces; a byte is a token, and what is no text counts three.
    let rows: String = texts.iter().map(|text| serde_json::json!({"text": text}).to_string() + "\n").collect();
    std::fs::write(shop.path("texts.jsonl"), rows).unwrap();
    std::fs::write(shop.path("texts.toml"), "source = \"path:texts.jsonl\"\nseparator = \" \"\n").unwrap();
    let recipe = std::fs::read_to_string(shop.path("recipe.toml")).unwrap();
    let of_a_data_set = recipe.replace(&format!("generate = {GENERATE}"), "dataset = \"path:texts.toml\"");
    std::fs::write(shop.path("set.toml"), of_a_data_set).unwrap();
    shop.succeeds(&[&["run", "set.toml", "--out", "set", "--set", "calibration.self.windows=3"], &pack[..]].concat());
    let of = |results: &str| {
        let told = |d: &Value| (d["digest"].clone(), d["windows"].clone(), d["tokens"].clone());
        drawn(&shop, results).iter().map(told).collect::<Vec<_>>()
    };
    assert_eq!(of("packed"), of("set"));
    assert!(of("packed").iter().all(|(_, windows, tokens)| *windows == 3 && tokens.as_u64().unwrap() <= 180));
    // A window that a text may not fit into: said before, and of the texts when they are there.
    let short = ["--set", "calibration.self.length=40"];
    let before = shop.succeeds(&[&["plan", "recipe.toml"], &pack[..2], &short[..]].concat()).1;
    assert!(before.contains("`calibration.self.generate.max_new_tokens`: texts may have up to 44 tokens"), "{before}");
    assert!(said.contains("texts of calibration self: ") && said.contains("were passed over"), "{said}");
    let none = ["--set", "calibration.self.length=8", "--set", "calibration.self.windows=9"];
    let output = shop.calipr(&[&["run", "recipe.toml", "--out", "none"], &pack[..2], &none[..]].concat());
    let said = common::texts(&output).1;
    assert!(!output.status.success() && said.contains("or lower `drop` or `max_new_tokens`"), "{said}");
}

#[test]
fn several_workers_share_the_texts_of_another_model_and_write_each_once() {
    let shop = shop_with_another();
    let more = "calibration.self.generate.texts=30";
    shop.succeeds(&["run", "by_another.toml", "--set", more, "--out", "alone", "--cache", "alone_cache"]);
    let spawn = || {
        let mut command = shop.command(&["work", "by_another.toml", "--set", more, "--threads", "1"]);
        command.stderr(std::process::Stdio::null()).stdout(std::process::Stdio::null()).spawn().unwrap()
    };
    let workers: Vec<_> = (0..3).map(|_| spawn()).collect();
    for mut worker in workers {
        assert!(worker.wait().unwrap().success());
    }
    let before = entries(&shop);
    assert_eq!(before.len(), 30);
    shop.succeeds(&["run", "by_another.toml", "--set", more, "--out", "together"]);
    assert_eq!(entries(&shop), before);
    assert_eq!(written(&shop, "together", "cache"), written(&shop, "alone", "alone_cache"));
    assert_same_tables(&shop.tables("together"), &shop.tables("alone"));
}
