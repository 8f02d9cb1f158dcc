//! A `tokenizer.json`, with a chat template after the first NUL.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (tokenizer, template) = bytes.split_at(bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len()));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), "{}").unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer).unwrap();
    std::fs::write(dir.path().join("chat_template.jinja"), template.get(1..).unwrap_or_default()).unwrap();
    calipr_fuzz::read_model(dir.path());
});
