//! Files from strangers: whatever is in them, calipr ends by itself, with an error that says what is wrong.

mod common;

use std::path::Path;

use candle_core::quantized::GgmlDType;
use common::{Tiny, Workshop, texts};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A study of one cell on tiny data, whose model and data are these.
fn shop(model: &str, data: &str) -> Workshop {
    let shop = Workshop::new(&Tiny { blocks: 1, ..Tiny::default() });
    let recipe = format!(
        "name = \"hostile\"\n[model]\nsource = \"path:{model}\"\n[grid]\nmethod = [\"magnitude\"]\nsparsity = [0.5]\n\
         [suite.text]\ndataset = \"path:{data}\"\nwindows = 2\nlength = 16\n"
    );
    std::fs::write(shop.path("recipe.toml"), recipe).unwrap();
    shop
}

/// Damaged copies of a file's bytes: cut, bits turned, lengths of eight bytes replaced.
fn damaged(whole: &[u8], cases: usize, header: usize, seed: u64) -> Vec<Vec<u8>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let header = header.min(whole.len());
    let case = |i: usize| {
        let mut bytes = whole.to_vec();
        match i % 4 {
            0 => bytes.truncate(rng.random_range(0..whole.len())),
            1 => {
                let at = rng.random_range(0..header.saturating_sub(8).max(1));
                let claim = [0, 1, 1 << 31, u64::from(u32::MAX), i64::MAX as u64, u64::MAX][rng.random_range(0..6)];
                let end = (at + 8).min(bytes.len());
                bytes[at..end].copy_from_slice(&claim.to_le_bytes()[..end - at]);
            }
            _ => {
                let at = rng.random_range(0..header);
                bytes[at] ^= 1 << rng.random_range(0..8);
            }
        }
        bytes
    };
    (0..cases).map(case).collect()
}

/// Runs the study with each damaged copy in place of the file. It may succeed, or fail with words.
fn survives(shop: &Workshop, file: &str, cases: usize, header: usize) {
    let path = shop.path(file);
    let whole = std::fs::read(&path).unwrap();
    shop.succeeds(&["run", "recipe.toml"]);
    let mut failed = 0;
    for (i, bytes) in damaged(&whole, cases, header, 3).into_iter().enumerate() {
        std::fs::write(&path, &bytes).unwrap();
        let output = shop.calipr(&["run", "recipe.toml", "--out", "out", "--replace"]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let code = output.status.code().unwrap_or_else(|| panic!("{file}, case {i} ends by a signal: {stderr}"));
        assert!(code <= 3 && !stderr.contains("panicked"), "{file}, case {i} ends with {code}: {stderr}");
        assert!(code == 0 || stderr.contains("error: "), "{file}, case {i}: {stderr}");
        failed += usize::from(code != 0);
    }
    assert!(failed > cases / 5, "{file}: only {failed} of {cases} damages are found out");
}

#[test]
fn damaged_models_end_in_words() {
    let tensors = shop("model", "test.jsonl");
    survives(&tensors, "model/model.safetensors", 60, 1200);
    let config = shop("model", "test.jsonl");
    survives(&config, "model/config.json", 40, 1000);
    let tokenizer = shop("model", "test.jsonl");
    survives(&tokenizer, "model/tokenizer.json", 40, 1000);
    let gguf = shop("model.gguf", "test.jsonl");
    common::write_gguf(
        &Tiny { blocks: 1, feed_forward: 64, ..Tiny::default() },
        GgmlDType::Q8_0,
        &gguf.path("model.gguf"),
    );
    survives(&gguf, "model.gguf", 120, 4000);
}

#[test]
fn damaged_data_ends_in_words() {
    survives(&shop("model", "test.jsonl"), "test.jsonl", 40, 400);
    let packed = shop("model", "test.jsonl.gz");
    let mut gz = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    std::io::Write::write_all(&mut gz, &std::fs::read(packed.path("test.jsonl")).unwrap()).unwrap();
    std::fs::write(packed.path("test.jsonl.gz"), gz.finish().unwrap()).unwrap();
    survives(&packed, "test.jsonl.gz", 40, 400);
    let parquet = shop("model", "test.parquet");
    write_parquet(&parquet.path("test.parquet"));
    survives(&parquet, "test.parquet", 100, 100_000);
    survives(&shop("model", "test.jsonl"), "recipe.toml", 60, 400);
}

#[test]
fn damaged_tables_are_reported_in_words() {
    let shop = shop("model", "test.jsonl");
    shop.succeeds(&["run", "recipe.toml", "--out", "out"]);
    for name in ["metrics", "samples", "cells", "layers", "masks", "contrasts", "settings"] {
        let path = shop.path("out").join(format!("{name}.parquet"));
        let whole = std::fs::read(&path).unwrap();
        for (i, bytes) in damaged(&whole, 20, 100_000, 4).into_iter().enumerate() {
            std::fs::write(&path, bytes).unwrap();
            let output = shop.calipr(&["report", "out", "--format", "html"]);
            let (code, (_, stderr)) = (output.status.code(), texts(&output));
            assert!(code.is_some_and(|code| code <= 1), "{name}, case {i} ends with {code:?}: {stderr}");
        }
        std::fs::write(&path, whole).unwrap();
    }
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_not_waited_for() {
    for pipe in ["model/model.safetensors", "test.jsonl", "model/model.safetensors.index.json", "model/tokenizer.json"]
    {
        let shop = shop("model", "test.jsonl");
        let path = shop.path(pipe);
        let _ = std::fs::remove_file(&path);
        if pipe.ends_with("index.json") {
            // Beside it nobody looks at the index.
            std::fs::remove_file(shop.path("model/model.safetensors")).unwrap();
        }
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let output = shop.calipr(&["run", "recipe.toml"]);
        let (_, stderr) = texts(&output);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{pipe}: {stderr}");
        assert!(stderr.contains("no file") || stderr.contains("has no tokenizer.json"), "{pipe}: {stderr}");
    }
}

fn write_parquet(path: &Path) {
    use arrow::array::{ArrayRef, RecordBatch, StringArray};
    let rows: Vec<String> = (0..40).map(|i| format!("row {i} says {}", "word ".repeat(i % 7))).collect();
    let column = std::sync::Arc::new(StringArray::from(rows)) as ArrayRef;
    let batch = RecordBatch::try_from_iter([("text", column)]).unwrap();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}
