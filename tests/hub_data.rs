//! Data sets on the Hugging Face Hub: a file, files by a pattern, and a name alone.

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use common::Tiny;
use common::hub::Online;
use serde_json::{Value, json};

const NAMED: &str = "datasets/o/named@refs%2Fconvert%2Fparquet";

fn texts(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|i| format!("text {i} has the words {} and {} in it", i * 3, i * 7)).collect()
}

fn parquet(texts: &[String]) -> Vec<u8> {
    let column: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
    let batch = RecordBatch::try_from_iter([("text", column)]).unwrap();
    let mut bytes = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

fn lines(texts: &[String]) -> String {
    texts.iter().map(|text| json!({ "text": text }).to_string() + "\n").collect()
}

fn manifest(folder: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(folder.join("run.json")).unwrap()).unwrap()
}

/// The samples of a run, and what its run.json says of the suite's rows.
fn samples(online: &Online) -> (String, Value) {
    let results = online.shop.path("results/small");
    let suite = manifest(&results)["suites"]["text"].clone();
    let samples = serde_json::to_string(&common::read_table(&results.join("samples.parquet"))).unwrap();
    fs::remove_dir_all(results).unwrap();
    (samples, suite)
}

#[test]
fn files_of_a_pattern_are_rows_in_order() {
    let online = Online::new(&Tiny::default());
    for (n, range) in [(0, 0..4), (1, 4..8), (2, 8..12), (10, 12..16)] {
        online.hub.put("datasets/o/many", &format!("en/part-{n:05}.jsonl"), lines(&texts(range)));
    }
    online.hub.put("datasets/o/many", "README.md", "no rows");
    online.recipe("path:model", "hf:datasets/o/many/en/part-0000*.jsonl");
    online.hub.set(json!({"page": 2}));
    online.succeeds();
    let (found, suite) = samples(&online);
    assert_eq!(suite["data"]["source"], "hf:datasets/o/many/en/part-0000*.jsonl");
    let asked = online.hub.log();
    assert!(asked.iter().all(|entry| !entry["path"].as_str().unwrap().contains("part-00010")), "{asked:?}");
    fs::write(online.shop.path("all.jsonl"), lines(&texts(0..12))).unwrap();
    online.recipe("path:model", "path:all.jsonl");
    online.succeeds();
    assert_eq!(samples(&online).0, found);

    // Nobody is asked again, and offline the files that are there are taken, whoever fetched them.
    online.recipe("path:model", "hf:datasets/o/many/en/part-0000*.jsonl");
    online.hub.log();
    assert!(!online.succeeds().contains("only the Hub knows"));
    let offline = [("HF_HUB_OFFLINE", "1"), ("CALIPR_CACHE", "elsewhere")];
    let (code, stderr) = online.run(&offline);
    assert!(code == Some(0) && stderr.contains("is taken to be the 3 files of it that are in"), "{stderr}");
    assert!(online.hub.log().is_empty());
    online.recipe("path:model", "hf:datasets/o/many/en/part-0001*.jsonl");
    online.fails(&offline, &["HF_HUB_OFFLINE forbids", "--include 'en/part-0001*.jsonl' --repo-type dataset"]);
}

#[test]
fn a_data_set_by_its_name_is_what_the_hub_has_converted() {
    let online = Online::new(&Tiny::default());
    let hub = &online.hub;
    hub.put("datasets/o/named", "data.csv", "text\nnot these\n");
    hub.put(NAMED, "default/validation/0000.parquet", parquet(&texts(0..5)));
    hub.put(NAMED, "default/validation/0001.parquet", parquet(&texts(5..9)));
    hub.put(NAMED, "default/train/0000.parquet", parquet(&texts(20..40)));
    let run = |split: &str| {
        let recipe = common::hub::small("path:model", "hf:datasets/o/named") + split;
        fs::write(online.shop.path("small.toml"), recipe).unwrap();
        online.run(&[])
    };
    let (code, stderr) = run("split = \"validation\"\n");
    assert_eq!(code, Some(0), "{stderr}");
    let (found, suite) = samples(&online);
    assert_eq!(suite["data"]["source"], "hf:datasets/o/named validation");
    fs::write(online.shop.path("all.jsonl"), lines(&texts(0..9))).unwrap();
    online.recipe("path:model", "path:all.jsonl");
    online.succeeds();
    assert_eq!(samples(&online).0, found);
    let (code, stderr) = run("split = \"valid\"\n");
    let says = "hf:datasets/o/named (split \"valid\") has no split \"valid\"; name one with `split`: \"train\", \
                \"validation\"; did you mean \"validation\"?";
    assert!(code == Some(1) && stderr.contains(says), "{stderr}");
    assert!(run("").1.contains("has no split \"test\""));
    hub.log();
    assert!(run("split = \"validation\"\n").0 == Some(0) && hub.log().is_empty());
    online.recipe("path:model", "hf:datasets/o/named@v2");
    online.fails(&[], &["by its name alone a data set is what the Hub has converted of its main branch"]);
}

#[test]
fn a_definition_may_name_the_subset_and_call_splits_otherwise() {
    let online = Online::new(&Tiny::default());
    let hub = &online.hub;
    hub.put("datasets/o/named", "README.md", "");
    for (config, from) in [("raw", 0), ("clean", 50)] {
        hub.put(NAMED, &format!("{config}/validation/0000.parquet"), parquet(&texts(from..from + 9)));
        hub.put(NAMED, &format!("{config}/train/0000.parquet"), parquet(&texts(from + 9..from + 30)));
    }
    let define = |text: &str| {
        fs::create_dir_all(online.shop.path("datasets")).unwrap();
        fs::write(online.shop.path("datasets/named.toml"), text).unwrap();
    };
    online.recipe("path:model", "hf:datasets/o/named");
    online.fails(&[], &["has several subsets; name one with `config` in a TOML of the data set: \"clean\", \"raw\""]);
    online.recipe("path:model", "named");
    define("source = 'hf:datasets/o/named'\nconfig = 'clean'\n[split.train]\n[split.test]\nsplit = 'validation'\n");
    online.succeeds();
    let (found, suite) = samples(&online);
    assert_eq!(suite["data"]["source"], "hf:datasets/o/named clean validation");
    fs::write(online.shop.path("all.jsonl"), lines(&texts(50..59))).unwrap();
    online.recipe("path:model", "path:all.jsonl");
    online.succeeds();
    assert_eq!(samples(&online).0, found);
    online.recipe("path:model", "named");
    define("source = 'hf:datasets/o/named'\nconfig = 'claen'\n");
    online.fails(&[], &["no subset \"claen\", but \"clean\", \"raw\"; did you mean \"clean\"?"]);
    for (text, says) in [
        ("source = 'path:all.jsonl'\nconfig = 'raw'\n", "`config` is for a data set on the Hub"),
        ("source = 'path:all.jsonl'\n[split.test]\nsplit = 'x'\n", "`split` of [split.test] is for a data set"),
    ] {
        define(text);
        online.fails(&[], &["named.toml", says]);
    }
}
