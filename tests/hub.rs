//! Sources on the Hugging Face Hub, fetched from a server on the loopback that speaks its API.

mod common;

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::hub::{Hub, Online, cut};
use common::{RECIPE, Tiny, assert_same_tables, on_terminal};
use serde_json::json;

#[test]
fn a_study_over_the_hub_ends_as_one_over_paths() {
    let online = Online::new(&Tiny { shards: 3, ..Tiny::default() });
    let shop = &online.shop;
    shop.succeeds(&["run", "recipe.toml"]);
    let recipe = RECIPE.replace("path:model", "hf:o/tiny").replace("path:", "hf:datasets/o/rows/");
    fs::write(shop.path("online.toml"), recipe.replace("\"tiny\"", "\"online\"")).unwrap();
    let plan = online.command(&["plan", "online.toml", "--offline"]).output().unwrap();
    let said = String::from_utf8_lossy(&plan.stdout).into_owned();
    assert!(said.contains("not all here yet") && said.contains("\ntime: ?"), "{said}");
    assert!(online.hub.log().is_empty());
    // What the model is tells what the study takes; neither weights nor rows are fetched for that.
    let plan = online.command(&["plan", "online.toml"]).output().unwrap();
    let said = String::from_utf8_lossy(&plan.stdout).into_owned();
    assert!(said.contains("not all here yet") && said.contains("\ntime: about "), "{said}");
    assert!(said.contains("\nmemory: at least "), "{said}");
    let log = online.hub.log();
    let asked = |of: &str| log.iter().any(|entry| entry.to_string().contains(of));
    // The index of the weights may be asked for; no weights.
    assert!(asked("/config.json\"") && !asked(".safetensors\"") && !asked("rows.jsonl"), "{log:?}");

    let mut run = online.command(&["run", "online.toml", "--out", "results/online"]);
    let output = run.env("CALIPR_CACHE", shop.path("other cache")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let named = |tables: Vec<Vec<serde_json::Value>>| -> Vec<Vec<serde_json::Value>> {
        let text = serde_json::to_string(&tables).unwrap().replace("\"study\":\"online\"", "\"study\":\"tiny\"");
        serde_json::from_str(&text).unwrap()
    };
    assert_same_tables(&shop.tables("results/tiny"), &named(shop.tables("results/online")));

    // Once it is here, nobody is asked.
    online.hub.log();
    let mut again = online.command(&["run", "online.toml", "--out", "results/again"]);
    assert!(again.output().unwrap().status.success());
    let plan = online.command(&["plan", "online.toml"]).output().unwrap();
    assert!(plan.status.success() && online.hub.log().is_empty());
}

#[test]
fn what_is_cut_is_gone_on_from() {
    let online = Online::new(&Tiny::default());
    let size = fs::metadata(online.hub.root.join("models/o/tiny/model.safetensors")).unwrap().len();
    online.hub.set(cut("", 20_000, 2));
    online.hub.set(json!({"cut": {"path": "Signature", "after": 20_000, "times": 2}}));
    online.succeeds();
    let log = online.hub.log();
    let ranges: Vec<&str> =
        log.iter().filter(|entry| entry["server"] == "cdn").filter_map(|entry| entry["range"].as_str()).collect();
    assert_eq!(ranges, ["bytes=20000-", "bytes=40000-"], "of {size}");

    // What another process has left is gone on from, too, and a server may know of no ranges.
    for ranges in [true, false] {
        online.forget();
        online.hub.set(json!({"ranges": ranges, "cut": {"path": "Signature", "after": 30_000, "times": 100}}));
        let mut child = online.command(&["run", "small.toml"]).spawn().unwrap();
        let blobs = online.cached("models--o--tiny/blobs");
        let began = || {
            let found = fs::read_dir(&blobs).into_iter().flatten().flatten();
            found.into_iter().any(|e| {
                e.file_name().to_string_lossy().ends_with(".incomplete")
                    && e.metadata().is_ok_and(|m| m.len() >= 30_000)
            })
        };
        while !began() {
            thread::sleep(Duration::from_millis(20));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        online.hub.set(json!({"cut": null}));
        online.hub.log();
        online.succeeds();
        let asked: Vec<_> = online.hub.log().into_iter().filter(|entry| entry["server"] == "cdn").collect();
        assert!(asked.len() == 1 && asked[0]["range"].is_string(), "{asked:?}");
    }
}

#[test]
fn a_wrong_digest_is_not_kept() {
    let online = Online::new(&Tiny::default());
    for (path, name) in [("Signature", "model.safetensors"), ("tokenizer.json", "tokenizer.json")] {
        online.forget();
        online.hub.set(json!({"corrupt": {"path": path, "times": 100}}));
        online.fails(&[], &[name, "is not what the Hub says it is (its digest is ", "what came was deleted"]);
        let blobs = fs::read_dir(online.cached("models--o--tiny/blobs")).unwrap();
        assert!(blobs.flatten().all(|blob| !blob.file_name().to_string_lossy().ends_with(".incomplete")));
        online.hub.set(json!({"corrupt": null}));
        online.succeeds();
    }
}

#[test]
fn a_busy_hub_is_waited_for_as_long_as_it_asks() {
    let online = Online::new(&Tiny::default());
    online.hub.set(json!({"status": {"status": 503, "times": 2}}));
    assert!(online.succeeds().contains("503, the server is not up to it; trying again in 1 s"));
    online.forget();
    online
        .hub
        .set(json!({"status": {"status": 429, "path": "Signature", "times": 1, "headers": {"Retry-After": "3"}}}));
    let began = Instant::now();
    assert!(online.succeeds().contains("429, too many requests; trying again in 3 s"));
    assert!(began.elapsed() >= Duration::from_secs(3));
    online.forget();
    online.hub.set(json!({"status": {"status": 429, "times": 1, "headers": {"RateLimit": "\"api\";r=0;t=7200"}}}));
    online.fails(&[], &["asks to come back in 120 minutes"]);
    // What stands still is asked for anew.
    online.hub.set(json!({"status": null, "slow": {"path": "Signature", "times": 1, "seconds": 3}}));
    let (code, stderr) = online.run(&[("HF_HUB_DOWNLOAD_TIMEOUT", "1")]);
    assert!(code == Some(0) && stderr.contains("does not answer in time; trying again"), "{stderr}");
}

#[test]
fn lies_about_lengths_are_found_out() {
    let online = Online::new(&Tiny::default());
    online.hub.set(json!({"short": {"path": "Signature", "bytes": 5000, "times": 2}}));
    online.succeeds();
    let size = fs::metadata(online.hub.root.join("models/o/tiny/model.safetensors")).unwrap().len();
    for said in [size - 100, size + 100] {
        online.forget();
        online.hub.set(json!({"linked_size": {"model.safetensors": said}}));
        online.fails(&[], &["model.safetensors is not what the Hub says it is"]);
    }
    online.forget();
    online.hub.log();
    online.hub.set(json!({"linked_size": {"model.safetensors": 1u64 << 60}}));
    online.fails(&[], &["1152921504.6 GB are to be fetched, and the disk", "HF_HOME"]);
    assert!(online.hub.log().iter().filter(|entry| entry["method"] == "GET").all(|entry| entry["server"] == "hub"));
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let online = Online::new(&Tiny::default());
    let secret = "hf_aSecretForTheHubOnly";
    online.hub.set(json!({"tokens": [secret], "private": ["o/tiny"], "moved": {"old/name": "o/tiny"}}));
    online.recipe("hf:old/name", "hf:datasets/o/rows/test.jsonl");
    let output = online.command(&["run", "small.toml", "-v"]).env("HF_TOKEN", secret).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    assert!(!String::from_utf8_lossy(&said).contains(secret));
    let log = online.hub.log();
    let (hub, cdn): (Vec<_>, Vec<_>) = log.iter().partition(|entry| entry["server"] == "hub");
    assert!(hub.iter().all(|entry| entry["token"] == format!("Bearer {secret}")));
    assert!(!cdn.is_empty() && cdn.iter().all(|entry| entry["token"].is_null()), "{cdn:?}");
    assert!(log.iter().all(|entry| entry["agent"].as_str().unwrap().starts_with("calipr/")));
    // What `hf auth login` has left counts as well.
    online.forget();
    fs::create_dir_all(online.shop.path("hf")).unwrap();
    fs::write(online.shop.path("hf/token"), secret).unwrap();
    online.succeeds();
    for entry in walk(&online.shop.path("hf/hub")).iter().chain(&walk(&online.shop.path("results"))) {
        assert!(!fs::read(entry).unwrap().windows(secret.len()).any(|w| w == secret.as_bytes()), "{}", entry.display());
    }
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn what_cannot_be_had_says_why_and_what_to_do() {
    let online = Online::new(&Tiny::default());
    let hub = &online.hub;
    hub.set(json!({"tokens": ["hf_good", "hf_other"], "gated": ["o/tiny"], "granted": ["hf_good"]}));
    online.fails(
        &[],
        &["hf:o/tiny is gated: accept its conditions at https://huggingface.co/o/tiny, then log in with `hf auth login`, or \
           set HF_TOKEN"],
    );
    online.fails(&[("HF_TOKEN", "hf_other")], &["not open to the account of the token in HF_TOKEN"]);
    online.fails(&[("HF_TOKEN", "hf_bad")], &["the Hub does not know the token in HF_TOKEN"]);
    assert_eq!(online.run(&[("HF_TOKEN", "hf_good")]).0, Some(0));
    online.forget();
    hub.set(json!({"gated": []}));
    hub.put("models/o/tiny", "model.Q4_0.gguf", "GGUF");
    for (model, data, says) in [
        ("hf:o/tin", "path:test.jsonl", "there is no model o/tin at http"),
        ("hf:o/tiny@v9", "path:test.jsonl", "o/tiny has no revision \"v9\"; it has main"),
        (
            "hf:o/tiny/model.Q4_1.gguf",
            "path:test.jsonl",
            "no file \"model.Q4_1.gguf\"; did you mean \"model.Q4_0.gguf\"",
        ),
        ("path:model", "hf:datasets/o/rows/tets.jsonl", "did you mean \"test.jsonl\""),
        ("path:model", "hf:datasets/o/rows/x*.jsonl", "has no file \"x*.jsonl\""),
        ("path:model", "hf:datasets/o/rows", "has not been converted to Parquet by the Hub; name its files"),
    ] {
        online.recipe(model, data);
        online.fails(&[], &[says]);
    }
    // Not a Hub, and nothing at all.
    online.recipe("hf:o/tiny", "path:test.jsonl");
    hub.set(json!({"headless": true}));
    online.fails(&[], &["is not answered as the Hub answers"]);
    let why = ["cannot be asked", "127.0.0.1 is not reached", "`hf download o/tiny`", "HTTPS_PROXY"];
    online.forget();
    online.fails(&[("HF_ENDPOINT", "http://127.0.0.1:9")], &why);
    online.fails(&[("HTTP_PROXY", "http://127.0.0.1:9")], &["through the proxy of HTTP_PROXY"]);
}

#[test]
fn what_is_no_model_here_is_said_before_its_weights_are_fetched() {
    let online = Online::new(&Tiny::default());
    let hub = &online.hub;
    fs::rename(hub.root.join("models/o/tiny/model.safetensors"), hub.root.join("models/o/tiny/pytorch_model.bin"))
        .unwrap();
    online.fails(&[], &["hf:o/tiny has its weights as a PyTorch pickle only"]);
    fs::rename(hub.root.join("models/o/tiny/pytorch_model.bin"), hub.root.join("models/o/tiny/model.safetensors"))
        .unwrap();
    let config = fs::read_to_string(hub.root.join("models/o/tiny/config.json")).unwrap();
    hub.put("models/o/tiny", "config.json", config.replace("\"llama\"", "\"mamba\""));
    online.forget();
    online.fails(&[], &["mamba"]);
    hub.put("models/o/tiny", "config.json", &config);
    online.forget();
    let long = common::hub::small("hf:o/tiny", "hf:datasets/o/rows/test.jsonl").replace("length = 32", "length = 999");
    fs::write(online.shop.path("small.toml"), long).unwrap();
    online.fails(&[], &["longer than the model's context of 128"]);
    assert!(hub.log().iter().all(|entry| entry["server"] == "hub"), "the weights were not asked for");
}

#[test]
fn offline_nothing_is_asked_and_what_is_there_is_taken() {
    let online = Online::new(&Tiny::default());
    for variable in ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
        online.fails(
            &[(variable, "1")],
            &[&format!("{variable} forbids fetching it"), "`HF_HUB_OFFLINE=0 hf download o/tiny`"],
        );
    }
    online.fails(&[("CALIPR_OFFLINE", "1")], &["--offline forbids fetching it", "`hf download o/tiny`"]);
    assert!(online.hub.log().is_empty());
    online.succeeds();
    online.hub.log();
    // A branch that has moved on is what it was, until it is fetched anew.
    online.hub.put("models/o/tiny", "config.json", "{}");
    assert_eq!(online.run(&[("HF_HUB_OFFLINE", "1")]).0, Some(0));
    assert_eq!(online.run(&[]).0, Some(0));
    assert!(online.hub.log().is_empty());
}

#[test]
fn a_certificate_of_ones_own_is_trusted_where_it_is_named() {
    let online = Online::new(&Tiny::default());
    let secure = Hub::over_tls(&online.hub.root);
    let hub = ("HF_ENDPOINT", secure.address.as_str());
    assert!(secure.address.starts_with("https://"));
    online.fails(&[hub], &["127.0.0.1 is not trusted: invalid peer certificate", "SSL_CERT_FILE names"]);
    let authority = std::path::absolute("tests/fixtures/loopback/authority.pem").unwrap();
    let (code, stderr) = online.run(&[hub, ("SSL_CERT_FILE", authority.to_str().unwrap())]);
    assert_eq!(code, Some(0), "{stderr}");
}

#[test]
fn an_interrupted_download_ends_at_once_and_is_gone_on_from() {
    let online = Online::new(&Tiny::default());
    online.hub.set(json!({"trickle": {"path": "Signature", "bytes": 20_000, "seconds": 1, "times": 1}}));
    let child = online.command(&["run", "small.toml"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    while !online.hub.log().iter().any(|entry| entry["server"] == "cdn") {
        thread::sleep(Duration::from_millis(20));
    }
    thread::sleep(Duration::from_millis(500));
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let began = Instant::now();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(130) && began.elapsed() < Duration::from_secs(3), "{stderr}");
    assert!(stderr.contains("the same command goes on from there"), "{stderr}");
    online.succeeds();
    let log = online.hub.log();
    let asked: Vec<_> = log.iter().filter(|entry| entry["server"] == "cdn").collect();
    assert!(asked.len() == 1 && asked[0]["range"].is_string(), "{asked:?}");
}

#[test]
fn what_a_broken_lock_has_left_is_thrown_away() {
    let online = Online::new(&Tiny::default());
    online.hub.set(json!({"status": {"status": 404, "path": "Signature", "times": 1}}));
    online.fails(&[], &["refuses with 404"]);
    let blobs = online.cached("models--o--tiny/blobs");
    let held = fs::read_dir(online.cached("").join(".locks/models--o--tiny")).unwrap().flatten();
    let names = held.map(|entry| entry.file_name().into_string().unwrap());
    let etag =
        names.filter_map(|name| Some(name.strip_suffix(".lock")?.to_owned())).find(|etag| etag.len() == 64).unwrap();
    fs::write(blobs.join(format!("{etag}.incomplete")), "this is the beginning of something else").unwrap();
    assert!(online.succeeds().contains("fetching it anew"));
}

#[test]
fn all_parts_of_a_split_gguf_file_come_with_one() {
    let online = Online::new(&Tiny::default());
    for part in ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "other.gguf"] {
        online.hub.put("models/o/parts", part, format!("GGUF of {part}"));
    }
    online.recipe("hf:o/parts", "path:test.jsonl");
    online.fails(&[], &["name the one that you mean: hf:o/parts/m-00001-of-00002.gguf"]);
    online.recipe("hf:o/parts/m-00002-of-00002.gguf", "path:test.jsonl");
    online.fails(&[], &["cannot read ", "as GGUF"]);
    let fetched: Vec<String> = walk(&online.cached("models--o--parts/snapshots"))
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert!(fetched.len() == 2 && fetched.iter().all(|name| name.starts_with("m-0000")), "{fetched:?}");
}

#[test]
fn parts_of_a_large_file_come_at_once() {
    let online = Online::new(&Tiny::default());
    let content: Vec<u8> = (0..25_000_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    online.hub.put("models/o/large", "m.gguf", &content);
    online.recipe("hf:o/large/m.gguf", "path:test.jsonl");
    let asked = || -> Vec<String> {
        let log = online.hub.log();
        let of_cdn = log.iter().filter(|entry| entry["server"] == "cdn");
        let mut ranges: Vec<String> = of_cdn.map(|entry| entry["range"].as_str().unwrap_or("all").to_owned()).collect();
        ranges.sort();
        ranges
    };
    let parts = ["bytes=0-33554431", "bytes=33554432-67108863", "bytes=67108864-99999999"];
    let is_here = || {
        let snapshots = walk(&online.cached("models--o--large/snapshots"));
        assert!(fs::read(&snapshots[0]).unwrap() == content);
    };
    online.fails(&[], &["as GGUF"]);
    is_here();
    assert_eq!(asked(), parts);
    // What is cut is asked for again.
    online.forget();
    online.hub.set(json!({"cut": {"path": "Signature", "after": 5000, "times": 3}}));
    online.fails(&[], &["m.gguf at 0 of 100000000 bytes: the connection broke", "as GGUF"]);
    is_here();
    assert_eq!(asked(), parts.map(|part| [part; 2]).concat());
    online.forget();
    online.hub.set(json!({"ranges": false}));
    online.fails(&[], &["as GGUF"]);
    is_here();
}

#[test]
fn a_terminal_shows_how_much_has_come_and_how_long_it_takes() {
    let online = Online::new(&Tiny::default());
    online.hub.set(json!({"trickle": {"path": "Signature", "bytes": 20_000, "seconds": 0.2, "times": 1}}));
    let shown = on_terminal(online.command(&["run", "small.toml"]).env("TERM", "xterm"), 100);
    assert!(shown.contains("hf:o/tiny") && shown.contains(" of 161.6 kB, ") && shown.contains(" s left"), "{shown}");
    online.forget();
    online.hub.set(json!({"trickle": {"path": "Signature", "bytes": 20_000, "seconds": 0.2, "times": 1}}));
    let mut plain = online.command(&["run", "small.toml"]);
    let shown = on_terminal(plain.env("TERM", "xterm").env("HF_HUB_DISABLE_PROGRESS_BARS", "1"), 100);
    assert!(shown.contains("fetching hf:o/tiny: 1 file, 161.6 kB") && !shown.contains(" of 161.6 kB"), "{shown}");
}

#[test]
fn a_commit_that_is_gone_gives_way_to_the_branch() {
    let online = Online::new(&Tiny::default());
    online.succeeds();
    let run = fs::read_to_string(online.shop.path("results/small/run.json")).unwrap();
    let run: serde_json::Value = serde_json::from_str(&run).unwrap();
    let noted = |repo: &str| fs::read_to_string(online.cached(repo).join("refs/main")).unwrap();
    assert_eq!(run["model"]["commit"], noted("models--o--tiny"));
    assert_eq!(run["suites"]["text"]["data"]["commit"], noted("datasets--o--rows"));
    let before = noted("datasets--o--rows");
    online.hub.put("datasets/o/rows", "new.jsonl", "{\"text\": \"new\"}\n".repeat(50));
    online.recipe("hf:o/tiny", "hf:datasets/o/rows/other.jsonl");
    fs::remove_dir_all(online.shop.path("results")).unwrap();
    assert!(online.succeeds().contains("no longer has the commit that the cache has noted"));
    assert_ne!(noted("datasets--o--rows"), before);
}

#[test]
fn two_runs_at_once_fetch_each_file_once() {
    let online = Online::new(&Tiny::default());
    online.hub.set(json!({"trickle": {"path": "Signature", "bytes": 20_000, "seconds": 0.1, "times": 9}}));
    thread::scope(|scope| {
        for out in ["one", "two"] {
            let online = &online;
            scope.spawn(move || {
                let mut command = online.command(&["run", "small.toml", "--out", out]);
                let output = command.env("CALIPR_CACHE", online.shop.path(out)).output().unwrap();
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            });
        }
    });
    let log = online.hub.log();
    assert_eq!(log.iter().filter(|entry| entry["server"] == "cdn" && entry["method"] == "GET").count(), 1, "{log:?}");
}
