//! What commands say of a study is so: where it is not finished, where settings are alike, where a recipe has changed since, and
//! where a path or an option is not what it should be.

mod common;

use std::fs;

use common::{Tiny, Workshop, texts};

#[test]
fn what_a_key_within_a_value_breaks_is_said_at_that_key() {
    let shop = Workshop::new(&Tiny { blocks: 1, ..Tiny::default() });
    for (set, says) in [
        ("grid.sparsity.x=3", "error: --set grid.sparsity.x=3: `grid.sparsity`: expected a list, found a table\n"),
        ("grid.method.0=wanda", "error: --set grid.method.0=wanda: `grid.method`: expected a list, found a table\n"),
        ("suite.text.windows=1e9", "expected a whole number, 0 or more, found 1000000000.0\n"),
    ] {
        let output = shop.calipr(&["plan", "recipe.toml", "--set", set]);
        let (_, said) = texts(&output);
        assert!(output.status.code() == Some(2) && said.ends_with(says), "{said}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_path_that_is_no_text_is_no_panic() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let shop = Workshop::new(&Tiny { blocks: 1, ..Tiny::default() });
    let latin = OsStr::from_bytes(b"na\xefve");
    let set = ["--set", "grid.sparsity=[0.5]", "--set", "grid.method=['magnitude']"];
    let folder = shop.dir.path().join(latin);
    fs::create_dir(&folder).unwrap();
    for name in ["model", "rows.jsonl", "other.jsonl", "test.jsonl", "recipe.toml"] {
        std::os::unix::fs::symlink(shop.path(name), folder.join(name)).unwrap();
    }
    // A folder of such a name is a folder like others, to work in and for results.
    let run = shop.command(&["run", "recipe.toml"]).args(set).current_dir(&folder).output().unwrap();
    assert!(run.status.success(), "{}", texts(&run).1);
    let run = shop.command(&["run", "recipe.toml", "--out"]).arg(latin).args(set).output().unwrap();
    assert!(run.status.success(), "{}", texts(&run).1);
    // run.json names the recipe, and is text.
    let recipe = OsStr::from_bytes(b"na\xefve.toml");
    fs::copy(shop.path("recipe.toml"), shop.dir.path().join(recipe)).unwrap();
    for command in ["plan", "run"] {
        let output = shop.command(&[command]).arg(recipe).args(set).output().unwrap();
        let (_, said) = texts(&output);
        assert!(output.status.code() == Some(2) && said.contains("is not UTF-8, and run.json"), "{command}: {said}");
    }
}
