//! The Hub on the loopback and what calipr fetches from it, as huggingface_hub and `datasets` see them.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::Tiny;
use common::hub::Online;

/// A virtual environment with huggingface_hub and `datasets`, made once under target/.
fn python() -> PathBuf {
    static MAKING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _alone = MAKING.lock().unwrap();
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-hub");
    let (python, ready) = (venv.join("bin/python"), venv.join("ready-1"));
    if !ready.exists() {
        succeeds(Command::new("python3").args(["-m", "venv"]).arg(&venv));
        succeeds(Command::new(&python).args(["-m", "pip", "install", "--quiet", "huggingface_hub", "datasets"]));
        fs::write(ready, "").unwrap();
    }
    python
}

fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a script prints that speaks to the same Hub with the same cache.
fn script(online: &Online, text: &str, variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(python());
    command.args(["-c", text]).env("HF_ENDPOINT", &online.hub.address).env("HF_HOME", online.shop.path("hf"));
    succeeds(command.env("HF_HUB_DISABLE_XET", "1").envs(variables.iter().copied()))
}

/// All of a cache: paths, and what links point to or files hold. What only huggingface_hub keeps is left out.
fn tree(folder: &Path) -> Vec<(String, String)> {
    fn walk(folder: &Path, root: &Path, found: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let own = name.contains("/trees") || name.contains(".no_exist") || name.contains("CACHEDIR.TAG");
            match fs::read_link(&path) {
                _ if own => {}
                Ok(target) => found.push((name, target.display().to_string())),
                Err(_) if path.is_dir() => walk(&path, root, found),
                Err(_) => found.push((name, format!("{:?}", calipr::internals::Digest::of_file(&path).unwrap()))),
            }
        }
    }
    let mut found = Vec::new();
    walk(folder, folder, &mut found);
    found.sort();
    found
}

#[test]
fn the_cache_is_the_same_whoever_fetches() {
    let online = Online::new(&Tiny { shards: 2, ..Tiny::default() });
    online.hub.put("models/o/tiny", "additional_chat_templates/tool_use.jinja", "{{ messages }}");
    online.succeeds();
    let own = tree(&online.shop.path("hf/hub"));
    let found = script(
        &online,
        "from huggingface_hub import snapshot_download, try_to_load_from_cache, hf_hub_download\n\
         print(snapshot_download('o/tiny', local_files_only=True))\n\
         print(try_to_load_from_cache('o/tiny', 'model-00002-of-00002.safetensors'))\n\
         print(hf_hub_download('o/rows', 'test.jsonl', repo_type='dataset'))",
        &[("HF_HUB_OFFLINE", "1")],
    );
    let lines: Vec<&str> = found.lines().collect();
    assert!(Path::new(lines[0]).join("config.json").is_file(), "{found}");
    assert!(
        lines[1].starts_with(lines[0]) && fs::read_to_string(lines[2]).unwrap().starts_with("{\"text\""),
        "{found}"
    );

    // The same by Python, from which calipr then takes it.
    online.forget();
    script(
        &online,
        "from huggingface_hub import snapshot_download, hf_hub_download\n\
         snapshot_download('o/tiny')\n\
         hf_hub_download('o/rows', 'test.jsonl', repo_type='dataset')",
        &[],
    );
    assert_eq!(tree(&online.shop.path("hf/hub")), own);
    online.hub.log();
    let (code, stderr) = online.run(&[("HF_HUB_OFFLINE", "1")]);
    assert!(code == Some(0) && online.hub.log().is_empty(), "{stderr}");
}

#[test]
fn each_goes_on_from_what_the_other_has_and_waits_for_its_lock() {
    let online = Online::new(&Tiny::default());
    // Only the weights are missing.
    script(
        &online,
        "from huggingface_hub import snapshot_download\nsnapshot_download('o/tiny', allow_patterns='*.json')",
        &[],
    );
    online.hub.log();
    online.succeeds();
    let asked: Vec<String> = online.hub.log().iter().map(|entry| entry["path"].to_string()).collect();
    assert!(!asked.iter().any(|path| path.contains("config.json")), "{asked:?}");

    // While Python holds the lock of a blob, calipr waits; then it finds the blob there.
    let blob = fs::read_link(
        online
            .cached("models--o--tiny/snapshots")
            .read_dir()
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path()
            .join("model.safetensors"),
    )
    .unwrap();
    let etag = blob.file_name().unwrap().to_str().unwrap().to_owned();
    fs::rename(online.cached("models--o--tiny/blobs").join(&etag), online.shop.path("kept")).unwrap();
    let holding = format!(
        "import time, shutil, sys\nfrom huggingface_hub.utils import WeakFileLock\n\
         with WeakFileLock('hf/hub/.locks/models--o--tiny/{etag}.lock'):\n\
         \x20   print('held', flush=True)\n    time.sleep(3)\n\
         \x20   shutil.move('kept', 'hf/hub/models--o--tiny/blobs/{etag}')\n"
    );
    let mut holder = Command::new(python());
    holder.args(["-c", &holding]).current_dir(online.shop.dir.path()).stdout(std::process::Stdio::piped());
    let mut holder = holder.spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(holder.stdout.take().unwrap()), &mut line).unwrap();
    assert_eq!(line, "held\n");
    online.hub.log();
    let began = std::time::Instant::now();
    online.succeeds();
    assert!(began.elapsed().as_secs_f64() > 2.0);
    assert!(holder.wait().unwrap().success());
    assert!(online.hub.log().iter().all(|entry| entry["server"] == "hub"), "nothing was fetched twice");
}

#[test]
fn an_exported_model_is_uploaded_and_fetched_again() {
    let online = Online::new(&Tiny::default());
    online.succeeds();
    let export = online.command(&["export", "results/small", "magnitude-0.5", "--to", "pruned"]).output().unwrap();
    assert!(export.status.success(), "{}", String::from_utf8_lossy(&export.stderr));
    online.hub.set(serde_json::json!({"tokens": ["hf_writer"]}));
    script(
        &online,
        &format!(
            "from huggingface_hub import HfApi\napi = HfApi()\napi.create_repo('o/pruned')\n\
             api.upload_folder(repo_id='o/pruned', folder_path={:?})",
            online.shop.path("pruned")
        ),
        &[("HF_TOKEN", "hf_writer")],
    );
    let loss = |cell: &str| {
        let rows = common::read_table(&online.shop.path("results/small/metrics.parquet"));
        let is_it = |row: &&serde_json::Value| row["cell"] == cell && row["metric"] == "loss";
        rows.iter().find(is_it).unwrap()["value"].as_f64().unwrap()
    };
    let (pruned, dense) = (loss("magnitude-0.5"), loss("dense"));
    fs::remove_dir_all(online.shop.path("results")).unwrap();
    online.recipe("hf:o/pruned", "hf:datasets/o/rows/test.jsonl");
    online.succeeds();
    assert!(loss("dense") == pruned && pruned != dense, "{} {pruned}", loss("dense"));
    let commit = fs::read_to_string(online.cached("models--o--pruned/refs/main")).unwrap();
    let snapshot = online.cached("models--o--pruned/snapshots").join(commit);
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        let (sent, came) =
            (fs::read(online.shop.path("pruned").join(file)).unwrap(), fs::read(snapshot.join(file)).unwrap());
        assert!(sent == came, "{file}");
    }
}

#[test]
fn datasets_reads_the_same_rows_by_name_and_by_pattern() {
    let online = Online::new(&Tiny::default());
    let text = |n: usize| format!("text {n} has the words {} and {} in it", n * 3, n * 7);
    for (file, rows) in [("part-00000.jsonl", 0..5), ("part-00001.jsonl", 5..9)] {
        let lines: String = rows.map(|n| serde_json::json!({"text": text(n)}).to_string() + "\n").collect();
        online.hub.put("datasets/o/named", &format!("data/{file}"), lines);
    }
    // What the Hub's conversion holds is written by `datasets`, as there.
    let folder = online.hub.root.join("datasets/o/named@refs%2Fconvert%2Fparquet/default/train");
    fs::create_dir_all(&folder).unwrap();
    let target = folder.join("0000.parquet");
    let printed = script(
        &online,
        &format!(
            "import json\nfrom datasets import load_dataset\nrows = load_dataset('o/named', split='train')\n\
             rows.to_parquet({target:?})\n\
             same = load_dataset('o/named', data_files='data/part-0000*.jsonl', split='train')\n\
             assert same['text'] == rows['text'], same\nprint(json.dumps(list(rows['text'])))",
        ),
        &[],
    );
    let expected: Vec<String> = serde_json::from_str(&printed).unwrap();
    assert_eq!(expected, (0..9).map(text).collect::<Vec<_>>());
    let results = online.shop.path("results/small/samples.parquet");
    let mut found = Vec::new();
    fs::write(
        online.shop.path("all.jsonl"),
        expected.iter().map(|text| serde_json::json!({"text": text}).to_string() + "\n").collect::<String>(),
    )
    .unwrap();
    for data in ["hf:datasets/o/named", "hf:datasets/o/named/data/part-*.jsonl", "path:all.jsonl"] {
        let recipe = common::hub::small("path:model", data);
        let split = if data == "hf:datasets/o/named" { "split = \"train\"\n" } else { "" };
        fs::write(online.shop.path("small.toml"), recipe + split).unwrap();
        let (code, stderr) = online.run(&[("CALIPR_CACHE", "cache of this")]);
        assert_eq!(code, Some(0), "{stderr}");
        found.push(common::read_table(&results));
        fs::remove_dir_all(online.shop.path("results")).unwrap();
    }
    assert!(found.windows(2).all(|pair| pair[0] == pair[1]));
}
