//! A model in GGUF: its shape, its tokenizer, its weights.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    calipr_fuzz::read_model(&path);
});
