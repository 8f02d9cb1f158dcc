//! A table of results in place of the one that a report reads first.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().unwrap();
    let run = r#"{"recipe": {"name": "x"}, "model": {"source": "y"}, "cells": {"planned": 1, "done": 1, "failed": 0}}"#;
    std::fs::write(dir.path().join("run.json"), run).unwrap();
    for name in ["metrics", "samples", "cells", "layers", "masks", "contrasts"] {
        std::fs::write(dir.path().join(format!("{name}.parquet")), bytes).unwrap();
    }
    let _ = calipr::Report::read(dir.path(), &calipr::Wanted::default());
});
