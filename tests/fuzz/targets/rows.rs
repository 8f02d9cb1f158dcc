//! A file of rows; its first byte says of which format.
#![no_main]

use calipr::internals::{Format, Shape};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&kind, bytes)) = bytes.split_first() else { return };
    let (name, format) = [
        ("rows.jsonl", Format::Jsonl),
        ("rows.json", Format::Json),
        ("rows.txt", Format::Text),
        ("rows.csv", Format::Csv),
        ("rows.parquet", Format::Parquet),
        ("rows.jsonl.gz", Format::Jsonl),
        ("rows.tsv", Format::Tsv),
        ("rows.jsonl.zst", Format::Jsonl),
    ][usize::from(kind % 8)];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    for row in format.read(&path, Shape::default()).unwrap_or_default() {
        let _ = calipr::internals::Content::of(&row, None);
    }
});
