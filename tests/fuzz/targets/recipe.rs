//! A recipe.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recipe.toml");
    std::fs::write(&path, bytes).unwrap();
    let _ = calipr::Recipe::load(&path, &[]);
});
