//! A directory of the Hub: the config up to the first NUL, then the tensors.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (config, tensors) = bytes.split_at(bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len()));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), tensors.get(1..).unwrap_or_default()).unwrap();
    calipr_fuzz::read_model(dir.path());
});
