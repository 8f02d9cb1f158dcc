//! Answers that a language model judges: a server that misbehaves in every way, a budget, a cache, and what is refused.
//! The server is tests/scripts/judge_server.py.

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Tiny, Workshop, assert_same_tables, read_table, texts};
use serde_json::{Value, json};

const SECRET: &str = "s3cret-of-the-judge";

/// A shop whose study has a judge on the loopback.
struct Court {
    shop: Workshop,
    process: Child,
    address: String,
}

impl Court {
    fn new() -> Self {
        let mut server = Command::new("python3");
        let mut process = server.arg("tests/scripts/judge_server.py").stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split_whitespace().next().unwrap().to_owned();
        let shop = Workshop::new(&Tiny::default());
        let rows = |i: usize| {
            json!({"prompt": format!("What is {i}?"), "completion": format!(" It is {i}.")}).to_string() + "\n"
        };
        std::fs::write(shop.path("questions.jsonl"), (0..6).map(rows).collect::<String>()).unwrap();
        let recipe = format!(
            r#"
name = "judged"
[model]
source = "path:model"
[grid]
method = ["magnitude"]
sparsity = [0.5]
[suite.task]
dataset = "path:questions.jsonl"
max_new_tokens = 6
metrics = ["f1"]
[suite.task.judge]
endpoint = "{address}/v1"
model = "judge"
key = "JUDGE_KEY"
criteria = ["accuracy: it is true", "fluency"]
pairwise = true
concurrency = 1
timeout = 2
"#
        );
        std::fs::write(shop.path("judged.toml"), recipe).unwrap();
        let court = Self { shop, process, address };
        court.set(json!({ "key": SECRET }));
        court
    }

    fn set(&self, switches: Value) {
        self.ask("POST", "/_set", &switches.to_string());
    }

    /// What was asked since this was last asked.
    fn log(&self) -> Vec<Value> {
        serde_json::from_str(&self.ask("GET", "/_log", "")).unwrap()
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let host = self.address.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(host).unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        write!(stream, "{head}{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.shop.command(arguments);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().to_uppercase().contains("PROXY") {
                command.env_remove(name);
            }
        }
        command.env_remove("OPENAI_API_KEY").env("JUDGE_KEY", SECRET);
        command
    }

    /// Exit code and stderr of `calipr run judged.toml`.
    fn run(&self, more: &[&str]) -> (Option<i32>, String) {
        let output = self.command(&[&["run", "judged.toml"], more].concat()).output().unwrap();
        let (stdout, stderr) = texts(&output);
        assert!(!stdout.contains(SECRET) && !stderr.contains(SECRET), "{stdout}{stderr}");
        (output.status.code(), stderr)
    }

    fn succeeds(&self, more: &[&str]) -> String {
        let (code, stderr) = self.run(more);
        assert_eq!(code, Some(0), "{stderr}");
        stderr
    }

    fn fails(&self, more: &[&str], says: &[&str]) -> String {
        let (code, stderr) = self.run(more);
        assert!(code != Some(0), "{stderr}");
        says.iter().for_each(|says| assert!(stderr.contains(says), "{says}: {stderr}"));
        stderr
    }

    fn tables(&self) -> Vec<Vec<Value>> {
        self.shop.tables("results/judged")
    }

    fn table(&self, name: &str) -> Vec<Value> {
        read_table(&self.shop.path(&format!("results/judged/{name}.parquet")))
    }

    /// Forgets the replies, or all that is cached; and the tables.
    fn forget(&self, what: &str) {
        let _ = std::fs::remove_dir_all(self.shop.path(what));
        let _ = std::fs::remove_dir_all(self.shop.path("results"));
    }

    fn warnings(&self) -> String {
        let run: Value =
            serde_json::from_slice(&std::fs::read(self.shop.path("results/judged/run.json")).unwrap()).unwrap();
        run["warnings"].to_string()
    }
}

impl Drop for Court {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What was asked of the judge, without the probe.
fn questions(log: &[Value]) -> Vec<String> {
    let text = |asked: &Value| asked["body"]["messages"][0]["content"].as_str().unwrap().to_owned();
    log.iter().map(text).filter(|text| !text.contains("Say hello.")).collect()
}

#[test]
fn answers_are_judged_in_every_table_and_no_question_is_asked_twice() {
    let court = Court::new();
    court.succeeds(&[]);
    let log = court.log();
    let asked = questions(&log);
    assert_eq!(log.len(), asked.len() + 1, "one question of no consequence comes first");
    assert_eq!(asked.iter().collect::<BTreeSet<_>>().len(), asked.len());
    let body = &log[1]["body"];
    assert_eq!((&body["temperature"], &body["max_tokens"]), (&json!(0), &json!(512)));
    let schema = &body["response_format"]["json_schema"]["schema"];
    assert_eq!(schema["required"], json!(["accuracy", "fluency"]));

    let samples = court.table("samples");
    let of = |cell: &str| samples.iter().filter(|row| row["cell"] == cell).collect::<Vec<_>>();
    let (dense, pruned) = (of("dense"), of("magnitude-0.5"));
    assert!(dense.iter().all(|row| row["judge_win_rate"] == 0.5));
    let pairs = dense.iter().zip(&pruned).filter(|(a, b)| a["prediction"] != b["prediction"]).count();
    let mut texts: BTreeSet<String> = BTreeSet::new();
    texts.extend(samples.iter().map(|row| row["prompt"].to_string() + &row["prediction"].to_string()));
    assert!(pairs > 0 && asked.len() == texts.len() + 2 * pairs, "{} {} {pairs}", asked.len(), texts.len());

    let mean = |rows: &[&Value], name: &str| {
        rows.iter().map(|row| row[name].as_f64().unwrap()).sum::<f64>() / rows.len() as f64
    };
    let metrics = court.table("metrics");
    let find = |cell: &str, metric: &str| {
        metrics.iter().find(|row| row["cell"] == cell && row["metric"] == metric).unwrap().clone()
    };
    for (cell, rows) in [("dense", &dense), ("magnitude-0.5", &pruned)] {
        for metric in ["judge_score", "judge_win_rate"] {
            let row = find(cell, metric);
            assert!((row["value"].as_f64().unwrap() - mean(rows, metric)).abs() < 1e-12, "{row}");
            let about = (&row["n"], &row["metric_family"], &row["higher_is_better"]);
            assert_eq!(about, (&json!(6), &json!("judge"), &json!(true)), "{row}");
        }
    }
    assert_eq!(find("dense", "judge_win_rate")["ci_low"], Value::Null);
    assert!(find("magnitude-0.5", "judge_score")["ci_low"].as_f64().unwrap() >= 1.0);
    let contrasts = court.table("contrasts");
    assert!(contrasts.iter().any(|row| row["metric"] == "judge_score" && row["margin"] == 0.2));
    let (stdout, _) = court.shop.succeeds(&["report", "results/judged", "--to", "report.html"]);
    assert!(!stdout.contains("NaN"), "{stdout}");

    // Once more, and once more with the replies alone: nothing is asked, not even whether the judge is there.
    let tables = court.tables();
    court.succeeds(&[]);
    assert_same_tables(&tables, &court.tables());
    assert_eq!(court.log().len(), 0);
    // Several at once say the same, whatever the order.
    court.forget("cache/replies");
    court.succeeds(&["--set", "suite.task.judge.concurrency=8"]);
    assert_same_tables(&tables, &court.tables());
    assert_eq!(questions(&court.log()).into_iter().collect::<BTreeSet<_>>(), asked.into_iter().collect());
}

#[test]
fn a_server_that_misbehaves_in_passing_changes_no_table() {
    let court = Court::new();
    court.succeeds(&[]);
    let tables = court.tables();
    court.forget("cache/replies");
    let asked = questions(&court.log()).len();
    let next = json!([
        {"usual": true},
        {"status": 429, "headers": {"Retry-After": "1"}}, {"usual": true},
        {"status": 500}, {"status": 503}, {"usual": true},
        {"cut": 20},
        {"html": true},
        {"sleep": 3},
        {"say": "I would say seven."}, {"wrap": "```json\n%s\n```"},
        {"change": {"accuracy": 11}}, {"change": {"accuracy": 0}}, {"uncounted": true},
        {"change": {"accuracy": "7"}}, {"change": {"accuracy": null}}, {"wrap": "<think>Hm.</think>%s"},
        {"empty": true}, {"usual": true},
    ]);
    court.set(json!({ "next": next }));
    court.succeeds(&[]);
    let log = court.log();
    assert_same_tables(&tables, &court.tables());
    // Five were tried again, and six asked again.
    let again: Vec<&Value> =
        log.iter().filter(|asked| asked["body"]["messages"].as_array().unwrap().len() == 3).collect();
    assert_eq!((log.len(), again.len()), (asked + 6 + 6, 5), "{log:?}");
    let told = |i: usize| again[i]["body"]["messages"][2]["content"].as_str().unwrap().to_owned();
    assert!(told(0).contains("it is not JSON") && told(1).contains("\"accuracy\" is 11"), "{} {}", told(0), told(1));
    assert!(told(3).contains("\"accuracy\" is \"7\"") && told(4).contains("it lacks \"accuracy\""));
    let time = |i: usize| log[i]["time"].as_f64().unwrap();
    assert!(time(2) - time(1) > 0.9, "it asked to wait a second");
}

/// As OpenRouter, Mistral, Azure, text-generation-inference and proxies in front of them answer.
#[test]
fn what_other_servers_answer_is_read_as_they_mean_it() {
    let court = Court::new();
    let alone = ["--set", "suite.task.judge.pairwise=false"];
    court.succeeds(&alone);
    let (tables, asked) = (court.tables(), court.log().len());
    court.forget("cache/replies");
    let axum =
        "Failed to deserialize the JSON body into the target type: response_format: unknown variant `json_schema`";
    court.set(json!({ "next": [
        {"usual": true},
        {"raw": {"body": {"error": {"code": 429, "message": "Slow down"}}, "headers": {"retry-after-ms": "20"}}},
        {"raw": {"body": {"choices": [{"finish_reason": "error", "message": {"content": "{"}}]}, "headers": {"retry-after": "0.02"}}},
        {"parts": true},
        {"pack": true},
        {"raw": {"status": 422, "body": axum, "headers": {"content-type": "text/plain"}}},
    ] }));
    court.succeeds(&alone);
    let log = court.log();
    assert_same_tables(&tables, &court.tables());
    // Of finished cells nobody is asked whether the judge is there.
    assert_eq!(log.len(), asked - 1 + 3, "{log:?}");
    let time = |i: usize| log[i]["time"].as_f64().unwrap();
    assert!(time(3) - time(1) < 0.8, "it asked to wait 20 milliseconds twice");
    let formats: Vec<&Value> = log.iter().map(|asked| &asked["body"]["response_format"]["type"]).collect();
    assert!(
        formats[..6].iter().all(|f| **f == "json_schema") && formats[6..].iter().all(|f| **f == "json_object"),
        "{formats:?}"
    );

    court.forget("cache/replies");
    let flagged =
        json!({"error": {"code": 403, "message": "requires moderation", "metadata": {"flagged_input": "What"}}});
    court.set(json!({ "next": [{"usual": true}, {"raw": {"status": 403, "body": flagged}}] }));
    court.succeeds(&alone);
    assert!(court.warnings().contains("1 of 6 replies about dense are missing"), "{}", court.warnings());
}

#[test]
fn an_answer_that_is_not_judged_is_missing_and_no_zero() {
    let court = Court::new();
    court
        .set(json!({ "next": [{"usual": true}, {"refuse": "I will not."}, {"say": "?"}, {"say": "?"}, {"say": "?"}] }));
    court.succeeds(&["--set", "suite.task.judge.pairwise=false"]);
    let samples = court.table("samples");
    let missing: Vec<&Value> = samples.iter().filter(|row| row["judge_score"].is_null()).collect();
    assert_eq!(missing.len(), 2);
    assert!(samples.iter().filter_map(|row| row["judge_score"].as_f64()).all(|score| score >= 1.0));
    let metrics = court.table("metrics");
    let scores: Vec<&Value> = metrics.iter().filter(|row| row["metric"] == "judge_score").collect();
    assert_eq!((&scores[0]["n"], &scores[1]["n"]), (&json!(4), &json!(6)));
    let contrasts = court.table("contrasts");
    let contrast = contrasts.iter().find(|row| row["metric"] == "judge_score").unwrap();
    assert_eq!(contrast["n"], 4, "paired on the rows that both have");
    assert!(court.warnings().contains("2 of 6 replies about dense are missing"), "{}", court.warnings());
    // What cannot be used is kept, too: at temperature 0 it would be said again.
    court.log();
    court.succeeds(&["--set", "suite.task.judge.pairwise=false"]);
    assert_eq!(court.log().len(), 0);
    court.shop.succeeds(&["report", "results/judged", "--to", "report.md"]);
}

#[test]
fn what_the_server_will_not_take_is_missing_and_asked_for_again_and_one_that_is_gone_ends_the_run() {
    let mut court = Court::new();
    let refused = json!({ "status": 400, "say": "it is too long" });
    court.set(json!({ "next": [{"usual": true}, refused, refused, refused, refused] }));
    let alone = ["--set", "suite.task.judge.pairwise=false"];
    court.succeeds(&alone);
    let said = "4 of 6 replies about dense are missing: 127.0.0.1 refuses (400: it is too long)";
    assert!(court.warnings().contains(said), "{}", court.warnings());
    court.log();
    court.succeeds(&alone);
    assert_eq!(court.log().len(), 4);
    assert!(court.table("samples").iter().all(|row| row["judge_score"].is_number()));
    let tables = court.tables();

    court.forget("cache/replies");
    court.process.kill().unwrap();
    court.process.wait().unwrap();
    court.fails(&alone, &["127.0.0.1 is not reached", "so it was 3 times in a row", "--offline goes on without"]);
    court.succeeds(&[&alone[..], &["--offline"]].concat());
    let metrics = court.table("metrics");
    let score = metrics.iter().find(|row| row["metric"] == "judge_score").unwrap();
    assert_eq!((&score["n"], &score["ci_low"]), (&json!(0), &Value::Null), "{score}");
    assert_eq!(metrics.len(), tables[2].len());
    court.shop.succeeds(&["report", "results/judged", "--to", "report.html"]);
}

#[test]
fn json_is_asked_for_as_the_server_takes_it() {
    let court = Court::new();
    court.succeeds(&[]);
    let tables = court.tables();
    for (formats, expected) in [(json!(["json_object"]), json!("json_object")), (json!([]), Value::Null)] {
        court.forget("cache/replies");
        court.log();
        court.set(json!({ "formats": formats }));
        court.succeeds(&["--set", "suite.task.judge.concurrency=4"]);
        assert_same_tables(&tables, &court.tables());
        assert_eq!(court.log().last().unwrap()["body"]["response_format"]["type"], expected);
    }
}

#[test]
fn what_no_question_will_be_answered_for_ends_the_run_before_it_computes() {
    let court = Court::new();
    court.set(json!({ "key": "another" }));
    let stderr = court.fails(&[], &["[suite.task.judge]", "does not take the key in JUDGE_KEY", "401", "--offline"]);
    assert!(!stderr.contains("dense"), "{stderr}");
    assert_eq!(court.log().len(), 1);
    court.fails(&["--set", "suite.task.judge.key=OTHER_KEY"], &["OTHER_KEY", "is not set"]);
    court.set(json!({ "key": SECRET }));
    court.fails(&["--set", "suite.task.judge.model=gone"], &["has no model \"gone\"", "does not exist"]);
    let nowhere = "suite.task.judge.endpoint=http://127.0.0.1:9/v1";
    court.fails(&["--set", nowhere], &["127.0.0.1"]);
    court.log();
    // Where it redirects, the key does not go.
    court.set(json!({ "next": [{"redirect": true}] }));
    court.fails(&[], &["redirects to http://127.0.0.1", "give the address itself"]);
    let log = court.log();
    assert!(log.len() == 1 && log[0]["elsewhere"] == false, "{log:?}");
}

#[test]
fn the_key_is_nowhere_but_in_a_header() {
    let court = Court::new();
    court.succeeds(&[]);
    assert!(court.log().iter().all(|asked| asked["key"] == SECRET && !asked["body"].to_string().contains(SECRET)));
    let mut folders = vec![court.shop.path("results"), court.shop.path("cache")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            match entry.is_dir() {
                true => folders.push(entry),
                false => {
                    let bytes = std::fs::read(&entry).unwrap();
                    assert!(!bytes.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()), "{}", entry.display());
                }
            }
        }
    }
    // One that stands in a recipe is refused, and not printed.
    let recipe = std::fs::read_to_string(court.shop.path("judged.toml")).unwrap();
    std::fs::write(court.shop.path("judged.toml"), recipe.replace("JUDGE_KEY", "sk-abc123")).unwrap();
    for more in [&[][..], &["--set", "suite.task.judge.key=sk-abc123"]] {
        let stderr = court.fails(more, &["looks like a key itself", "OPENAI_API_KEY"]);
        assert!(!stderr.contains("sk-abc123"), "{stderr}");
    }
}

#[test]
fn a_run_that_is_killed_between_answers_asks_for_the_others_alone() {
    let court = Court::new();
    court.succeeds(&[]);
    let (tables, all) = (court.tables(), questions(&court.log()));
    court.forget("cache/replies");
    court.set(json!({ "seconds": 0.3 }));
    let mut process =
        court.command(&["run", "judged.toml"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut first = vec![];
    while questions(&first).len() < 4 {
        std::thread::sleep(Duration::from_millis(20));
        first.extend(court.log());
        assert!(process.try_wait().unwrap().is_none(), "it ended");
    }
    process.kill().unwrap();
    process.wait().unwrap();
    std::thread::sleep(Duration::from_millis(400));
    first.extend(court.log());
    court.set(json!({ "seconds": 0 }));
    court.succeeds(&[]);
    let rest = questions(&court.log());
    assert_same_tables(&tables, &court.tables());
    let first = questions(&first);
    // The one that was under way when it was killed is asked again.
    assert!((all.len()..=all.len() + 1).contains(&(first.len() + rest.len())), "{} {}", first.len(), rest.len());
    assert!(first.len() >= 4 && rest.len() < all.len());
}

#[test]
fn offline_the_replies_of_the_cache_count_and_what_is_missing_is_said() {
    let court = Court::new();
    let limited = ["--set", "suite.task.judge.limit=4"];
    court.succeeds(&limited);
    let tables = court.tables();
    let samples = court.table("samples");
    assert_eq!(samples.iter().filter(|row| row["judge_score"].is_null()).count(), 4, "two rows of two cells");
    court.log();
    let _ = std::fs::remove_dir_all(court.shop.path("results"));
    let mut command = court.command(&[&["run", "judged.toml", "--offline"], &limited[..]].concat());
    let output = command.env_remove("JUDGE_KEY").output().unwrap();
    assert!(output.status.success(), "{}", texts(&output).1);
    assert_same_tables(&tables, &court.tables());
    let stderr = court.succeeds(&["--offline", "--replace"]);
    assert!(stderr.contains("the cache does not have them, and --offline forbids asking"), "{stderr}");
    assert!(court.warnings().contains("2 of 6 replies about dense are missing"), "{}", court.warnings());
    assert_eq!(court.log().len(), 0);
    court.succeeds(&[]);
    assert!(court.table("samples").iter().all(|row| row["judge_score"].is_number()));
    assert!(court.log().len() >= 4);
}

#[test]
fn a_budget_is_not_exceeded_and_raised_it_goes_on() {
    let court = Court::new();
    let budget = |tokens: usize| {
        let all = ["max_tokens=50".into(), "repeats=0".into(), format!("max_tokens_total={tokens}")];
        let all: Vec<String> = all.map(|key| format!("suite.task.judge.{key}")).to_vec();
        all.iter().flat_map(|set| ["--set".to_owned(), set.clone()]).collect::<Vec<_>>()
    };
    let run = |tokens: usize| {
        let more = budget(tokens);
        court.succeeds(&more.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let stderr = run(800);
    let spent = 100 * questions(&court.log()).len();
    // A question may take some 200 tokens with its reply, and takes 100.
    assert!((500..=800).contains(&spent), "{spent}");
    assert!(stderr.contains("max_tokens_total has no room for them"), "{stderr}");
    assert!(court.table("samples").iter().any(|row| row["judge_score"].is_null()));
    let tables = court.tables();
    run(800);
    assert_eq!(questions(&court.log()).len(), 0);
    assert_same_tables(&tables, &court.tables());
    run(100_000);
    assert!(court.table("samples").iter().all(|row| row["judge_score"].is_number()));
}

#[test]
fn requests_keep_the_pace() {
    let court = Court::new();
    court.succeeds(&["--set", "suite.task.judge.requests_per_minute=200", "--set", "suite.task.judge.concurrency=4"]);
    let times: Vec<f64> = court.log().iter().map(|asked| asked["time"].as_f64().unwrap()).collect();
    let span = times.last().unwrap() - times[0];
    assert!(span > 0.3 * (times.len() - 1) as f64 - 0.2, "{} in {span} s", times.len());
}

#[test]
fn plan_says_what_judging_takes_and_finds_what_run_would_refuse() {
    let court = Court::new();
    let plan = |more: &[&str]| {
        let output = court.command(&[&["plan", "judged.toml"], more].concat()).output().unwrap();
        (output.status.success(), texts(&output))
    };
    let (done, (stdout, stderr)) = plan(&[]);
    assert!(done && stdout.contains("judge of suite task, judge at http://127.0.0.1"), "{stdout}{stderr}");
    court.succeeds(&[]);
    let asked = questions(&court.log()).len();
    let (_, (stdout, _)) = plan(&[]);
    assert!(stdout.contains(&format!("{asked} questions, all of them cached\n")), "{stdout}");
    assert_eq!(court.log().len(), 0, "a plan asks nobody");
    for (set, says) in [
        ("suite.task.judge.key=NO_SUCH_KEY", "NO_SUCH_KEY, which is to hold the judge's key, is not set"),
        ("suite.task.judge.endpoint=api.openai.com", "`suite.task.judge.endpoint`: \"api.openai.com\" is no address"),
        ("suite.task.judge.prompt='{{ answer'", "`suite.task.judge.prompt`: the template cannot be used"),
        ("suite.task.judge.prompt='{{ question }}'", "the judge is not shown {{ answer }}"),
        ("suite.task.judge.pairwise=false", "judge_win_rate on the suite task: the recipe no longer asks for that"),
        ("suite.task.judge.model=other", "suite.task.judge.model is \"other\", not \"judge\""),
        ("suite.task.judge.timeout=3", ""),
        ("suite.task.windows=3", "makes this one a suite of rows"),
        ("suite.task.judge.limits=3", "`limits` is no key of [suite.task.judge]"),
    ] {
        let (done, (_, stderr)) = plan(&["--set", set]);
        assert!(done == says.is_empty() && stderr.contains(says), "{set}: {stderr}");
    }
    let recipe = std::fs::read_to_string(court.shop.path("judged.toml")).unwrap();
    let (before, _) = recipe.split_once("[suite.task.judge]").unwrap();
    std::fs::write(court.shop.path("judged.toml"), before.replace("\"f1\"", "\"judge_score\"")).unwrap();
    let (done, (_, stderr)) = plan(&[]);
    assert!(!done && stderr.contains("judge_score needs a judge"), "{stderr}");
}

#[cfg(unix)]
#[test]
fn a_terminal_shows_how_many_questions_are_answered_and_the_time_that_is_left() {
    let court = Court::new();
    court.set(json!({ "seconds": 0.3 }));
    let shown = common::on_terminal(&mut court.command(&["run", "judged.toml"]), 140);
    for said in ["[1/2] dense: 6 questions to judges", "5/6 judge", "[2/2] magnitude-0.5: ", " questions to judges"] {
        assert!(shown.contains(said), "{said}: {shown}");
    }
    // While the last question about the dense model is out, others of the study are to come.
    let of_dense = shown.split("\r").filter(|line| line.contains("[1/2] dense") && line.contains("5/6 judge"));
    assert!(of_dense.filter(|line| line.contains(" s left")).count() > 0, "{shown}");
    // Nothing but judging is to be done where cells are finished.
    std::fs::remove_dir_all(court.shop.path("cache/replies")).unwrap();
    let shown = common::on_terminal(&mut court.command(&["run", "judged.toml"]), 140);
    assert!(
        shown.contains("dense: finished before") && shown.contains("[1/2] dense: 6 questions to judges"),
        "{shown}"
    );
    let first = shown.split("\r").find(|line| line.contains("0/6 judge")).unwrap_or_default();
    assert!(first.contains(" s left") && !first.contains("~"), "the pace of the first run is remembered: {first}");
}

#[test]
fn a_plan_says_how_long_judging_takes_once_the_judge_was_asked_within_the_same_limits() {
    let court = Court::new();
    let plan = |more: &[&str]| {
        let output = court.command(&[&["plan", "judged.toml"], more].concat()).output().unwrap();
        texts(&output).0
    };
    let before = plan(&[]);
    assert!(before.contains("and a time that is known once it was asked"), "{before}");
    assert!(before.contains("; judges are not counted"), "{before}");
    court.set(json!({ "seconds": 0.5 }));
    court.succeeds(&[]);
    assert!(!plan(&[]).contains("a time"), "all are answered");
    let asked = questions(&court.log()).len();
    court.forget("cache/replies");
    let rates: Value = serde_json::from_slice(&std::fs::read(court.shop.path("cache/rates.json")).unwrap()).unwrap();
    let place = format!("judge judge at {}/v1, 1 at once", court.address);
    let seen = &rates[&place]["1"]["seen"]["judge"];
    assert_eq!(seen["work"].as_f64(), Some(asked as f64), "{rates}");
    let each = seen["seconds"].as_f64().unwrap() / asked as f64;
    assert!((0.5..1.5).contains(&each), "{each}");
    // Both cells are finished, and their questions known.
    let (again, seconds) = (plan(&[]), each * asked as f64);
    let line = again.lines().find(|line| line.starts_with("judge of suite task")).unwrap();
    let told: f64 = line.rsplit_once(" and ").unwrap().1.trim_end_matches(" s").parse().unwrap();
    assert!((told - seconds).abs() <= 5.0, "{line}: {seconds}");
    // Within other limits it may answer at another pace, and never faster than it may be asked.
    assert!(plan(&["--set", "suite.task.judge.concurrency=8"]).contains("a time that is known once"));
    let slow = ["--set", "suite.task.judge.requests_per_minute=1"];
    assert!(plan(&slow).contains("a time that is known once"));
}
