//! Where calibration windows come from: data sets, and what is made of them.

mod common;

use std::fs;

use common::{RECIPE, Tiny, Workshop, assert_same_tables, texts};
use serde_json::Value;

/// A study of Wanda at one sparsity, on a model of one block, with these calibrations beside `general` and `other`.
fn shop(calibrations: &str, grid: &str) -> Workshop {
    let shop = Workshop::new(&Tiny { blocks: 2, ..Tiny::default() });
    let recipe = RECIPE
        .replace("[\"magnitude\", \"wanda\", \"sparsegpt\"]", "[\"wanda\"]")
        .replace("[0.5, \"2:4\"]", &format!("[0.5]\ncalibration = {grid}"))
        .replace("[grid]", &format!("{calibrations}\n[grid]"));
    fs::write(shop.path("recipe.toml"), recipe).unwrap();
    shop
}

fn manifest(shop: &Workshop, results: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(shop.path(results).join("run.json")).unwrap()).unwrap()
}

type Windows = Vec<Vec<u32>>;

/// All windows that the cache has, with what is said of them; null of those of data sets.
fn cached_windows(shop: &Workshop, cache: &str) -> Vec<(Windows, Value)> {
    let entries = fs::read_dir(shop.path(cache).join("windows")).unwrap();
    let read = |path| {
        let bytes = fs::read(path).unwrap();
        let entry: Value = serde_json::from_slice(&bytes[..bytes.len() - 32]).unwrap();
        let ids: Vec<u32> = serde_json::from_value(entry[0].clone()).unwrap();
        let ends: Vec<usize> = serde_json::from_value(entry[1].clone()).unwrap();
        let starts = [0].into_iter().chain(ends.clone());
        (starts.zip(&ends).map(|(start, &end)| ids[start..end].to_vec()).collect(), entry[2].clone())
    };
    entries.map(|entry| read(entry.unwrap().path())).collect()
}

const BOTH: &str = "[calibration.both]\nmix = { general = 0.75, other = 0.25 }\nwindows = 6\nlength = 40\n";

#[test]
fn a_mix_has_of_each_calibration_its_share_of_windows_shuffled() {
    let shop = shop(BOTH, "[\"both\"]\nseed = [3, 4]");
    let (plan, _) = shop.succeeds(&["plan", "recipe.toml"]);
    assert!(plan.contains("windows of calibration both, seed 3: 5 of general, 1 of other"), "{plan}");
    assert!(plan.contains("5 windows of calibration general, seed 4"), "{plan}");
    shop.succeeds(&["run", "recipe.toml"]);

    let run = manifest(&shop, "results/tiny");
    let entry = &run["calibrations"]["both"];
    for (drawn, seed) in entry["drawn"].as_array().unwrap().iter().zip([3, 4]) {
        assert_eq!((&drawn["seed"], &drawn["windows"]), (&seed.into(), &6.into()));
        assert_eq!(drawn["details"], serde_json::json!({"mix": {"general": {"windows": 5}, "other": {"windows": 1}}}));
    }
    assert!(entry.get("data").is_none());
    // Its parts' rows are recorded; they are no cells.
    assert_eq!(run["calibrations"]["general"]["drawn"], serde_json::json!([]));
    assert!(run["calibrations"]["other"]["data"]["digest"].is_string());
    let cells: Vec<Value> = shop.tables("results/tiny")[0].iter().map(|row| row["cell"].clone()).collect();
    assert_eq!(cells, ["dense", "wanda-0.5-both-s3", "wanda-0.5-both-s4"]);

    // Each mix is the windows of its parts, which were drawn by its seed, in another order.
    let all = cached_windows(&shop, "cache");
    let (mixes, parts): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, details)| !details.is_null());
    let of = |n: usize| parts.iter().map(|(w, _)| w).filter(move |w| w.len() == n && w[0].len() == 40);
    assert_eq!((mixes.len(), of(5).count(), of(1).count()), (2, 2, 2));
    assert_ne!(mixes[0], mixes[1]);
    for (mix, _) in &mixes {
        let is_made_of = |(a, b): &(&Windows, &Windows)| {
            let (mut sorted, mut parts) = (mix.clone(), [a.as_slice(), b.as_slice()].concat());
            assert_ne!(sorted, parts, "they are shuffled");
            sorted.sort();
            parts.sort();
            sorted == parts
        };
        let pairs = of(5).flat_map(|a| of(1).map(move |b| (a, b)));
        assert_eq!(pairs.filter(is_made_of).count(), 1);
    }
    let (plan, _) = shop.succeeds(&["plan", "recipe.toml"]);
    assert!(plan.contains("\nall of it is done"), "{plan}");
}

#[test]
fn a_mix_does_not_depend_on_threads_is_reproduced_and_exported() {
    let nested = format!("{BOTH}[calibration.nested]\nmix = {{ both = 0.5, other = 0.5 }}\nwindows = 4\nlength = 30\n");
    let shop = shop(&nested, "[\"both\", \"nested\"]");
    let run = |threads: &str| {
        let arguments = ["run", "recipe.toml", "--threads", threads, "--cache", threads, "--out", threads];
        shop.succeeds(&arguments);
        shop.tables(threads)
    };
    assert_same_tables(&run("1"), &run("2"));
    let details = &manifest(&shop, "1")["calibrations"]["nested"]["drawn"][0]["details"]["mix"];
    let parts = serde_json::json!({"mix": {"general": {"windows": 2}}});
    assert_eq!(details["both"], serde_json::json!({"windows": 2, "details": parts}));

    let (report, _) = shop.succeeds(&["report", "1", "--to", "report.md"]);
    let report = report + &fs::read_to_string(shop.path("report.md")).unwrap();
    assert!(report.contains("a mix of 0.75 general and 0.25 other: 6 windows of 40 tokens"), "{report}");
    assert!(report.contains("other calibrations draw from it"), "{report}");
    let (printed, _) = shop.succeeds(&["reproduce", "1"]);
    assert!(printed.contains("values are equal to the last bit"), "{printed}");
    let (exported, _) = shop.succeeds(&["export", "1", "wanda-0.5-nested-s0", "--to", "model2", "--cache", "fresh"]);
    assert!(shop.path("model2/model.safetensors").is_file(), "{exported}");
    let card = fs::read_to_string(shop.path("model2/README.md")).unwrap();
    assert!(card.contains("[calibration.both.mix]\ngeneral = 0.75\n"), "{card}");
    assert!(card.contains("windows of 30 tokens of `nested` (a mix of 0.5 both and 0.5 other, seed 0)"), "{card}");

    // Another study is one whose parts are others; how a part would be drawn alone is nothing to the mix.
    let refused = |set: &str, says: &str| {
        let (_, stderr) = texts(&shop.calipr(&["plan", "recipe.toml", "--out", "1", "--set", set]));
        assert!(stderr.contains(says), "{set}: {stderr}");
    };
    refused(
        "calibration.both.mix={ general = 0.5, other = 0.5 }",
        "calibration.both.mix is {\"general\":0.5,\"other\":0.5}, not {",
    );
    refused("calibration.other.dataset=path:test.jsonl", "its rows are those of path:test.jsonl, not of path:other");
    shop.succeeds(&["plan", "recipe.toml", "--out", "1", "--set", "calibration.other.windows=2"]);
}

#[test]
fn what_no_cell_draws_from_is_not_fetched() {
    let missing = "[calibration.missing]\ndataset = \"hf:datasets/nobody/nothing/rows.jsonl\"\nlength = 48\n";
    let shop = shop(&format!("{BOTH}{missing}"), "[\"both\"]");
    shop.succeeds(&["run", "recipe.toml", "--offline"]);
    let through_a_mix = "calibration.both.mix={ general = 0.5, missing = 0.25 }";
    let output = shop.calipr(&["run", "recipe.toml", "--offline", "--out", "other", "--set", through_a_mix]);
    let (_, stderr) = texts(&output);
    assert!(stderr.contains("hf:datasets/nobody/nothing/rows.jsonl"), "{stderr}");
}

/// (the calibrations, what the error must say)
const WRONG: &[(&str, &[&str])] = &[
    (
        "[calibration.a]\nwindows = 3",
        &[":16:", "`calibration.a`: nothing says where its windows come from", "`dataset`"],
    ),
    (
        "[calibration.a]\ndataset = \"path:rows.jsonl\"\nmix = { general = 1 }",
        &[":18:1", "`calibration.a.mix`: `dataset` says already where the windows come from"],
    ),
    ("[calibration.a]\nmix = { }", &[":17:1", "`calibration.a.mix`: it names no calibration"]),
    ("[calibration.a]\nmix = { general = 0.5, other = 0.4 }", &[":17:1", "the shares sum to 0.9; expected 1"]),
    (
        "[calibration.a]\nmix = { general = 1.5, other = -0.5 }",
        &[":17:9", "`calibration.a.mix.general`: 1.5 is no share"],
    ),
    (
        "[calibration.a]\nmix = { general = 0.5, othr = 0.5 }",
        &[":17:24", "\"othr\" is no calibration", "did you mean \"other\"?"],
    ),
    ("[calibration.a]\nmix = { general = 0.5, a = 0.5 }", &[":17:24", "a would draw from itself: a from a"]),
    (
        "[calibration.a]\nmix = { b = 1.0 }\n[calibration.b]\nmix = { a = 1.0 }",
        &[":17:9", "a would draw from itself: a from b from a", ":19:9"],
    ),
    ("[calibration.a]\nmix = { general = 0.99, other = 0.01 }\nwindows = 5", &["of 5 windows none falls to 0.01"]),
    ("[calibration.a]\nmix = [\"general\"]", &[":17:1", "`calibration.a.mix`"]),
    (
        "[calibration.a]\nmix = { general = 0.5, other = 0.5 }\nlength = 48\nwindows = 5000",
        &["[calibration.a], a mix of 0.5 general and 0.5 other: [calibration.general], data set", "too little data"],
    ),
];

/// `plan` and `run` refuse the recipe, which has such calibrations, and say all of this.
fn assert_refused(shop: &Workshop, calibrations: &str, says: &[&str]) {
    for command in ["plan", "run"] {
        let output = shop.calipr(&[command, "recipe.toml"]);
        let (_, stderr) = texts(&output);
        assert_eq!(output.status.code(), Some(2), "{calibrations}: {stderr}");
        for part in says {
            assert!(stderr.contains(part), "{command} {calibrations}: \"{part}\" is missing from {stderr}");
        }
    }
}

#[test]
fn a_wrong_source_is_refused_with_its_place() {
    for (calibrations, says) in WRONG {
        let shop = shop(calibrations, "[\"a\"]");
        assert_refused(&shop, calibrations, says);
    }
}

#[test]
fn keys_of_rows_beside_a_mix_are_said_to_change_nothing() {
    let shop = shop(&BOTH.replace("windows = 6", "windows = 6\npacking = \"crop\""), "[\"both\"]");
    let (_, stderr) = shop.succeeds(&["plan", "recipe.toml"]);
    assert!(stderr.contains("`calibration.both.packing`: it is for a data set's rows"), "{stderr}");
}

/// Rows of a task: sums, which are short, and one that is as long as no window.
fn write_sums(shop: &Workshop, with_a_long_one: bool) {
    let sum =
        |i: usize| serde_json::json!({"q": format!("{i} + {}", i * i), "a": (i + i * i).to_string(), "why": "carry"});
    let mut rows: Vec<Value> = (1..60).map(sum).collect();
    let long = with_a_long_one.then(|| serde_json::json!({"q": "x".repeat(70), "a": "1", "why": "long"}));
    rows.extend(long);
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::write(shop.path("sums.jsonl"), text).unwrap();
    fs::create_dir_all(shop.path("datasets")).unwrap();
    let definition = "source = \"path:../sums.jsonl\"\nseparator = \"\\n\"\n[template]\nprompt = \"Q: {{ q }}=\"\ntarget = \"{{ a }}\"\n";
    fs::write(shop.path("datasets/sums.toml"), definition).unwrap();
}

fn texts_of(windows: &Windows) -> Vec<String> {
    let text = |ids: &Vec<u32>| String::from_utf8(ids.iter().map(|&id| id as u8).collect()).unwrap();
    windows.iter().map(text).collect()
}

/// The windows of the calibration of this number of windows, as texts: a token of the model is a byte.
fn drawn_texts(shop: &Workshop, windows: usize) -> Vec<String> {
    let all = cached_windows(shop, "cache");
    let of: Vec<_> = all.iter().filter(|(of, _)| of.len() == windows).collect();
    assert_eq!(of.len(), 1);
    texts_of(&of[0].0)
}

fn is_sum(example: &str) -> bool {
    let Some((terms, sum)) = example.strip_prefix("Q: ").and_then(|text| text.split_once('=')) else { return false };
    let terms: usize = terms.split(" + ").map(|term| term.parse::<usize>().unwrap()).sum();
    sum.parse() == Ok(terms)
}

#[test]
fn solved_examples_are_joined_as_many_as_fit_and_none_is_cut() {
    let calibration = |name: &str, how: &str, windows: usize| {
        format!("[calibration.{name}]\ndataset = \"sums\"\n{how}packing = \"pack\"\nwindows = {windows}\nlength = 64\n")
    };
    let sets = [
        calibration("icl", "in_context = { }\n", 7),
        calibration("two", "in_context = { shots = 2 }\n", 8),
        calibration("why", "in_context.template = { prompt = \"{{ q }}: \", target = \"{{ why }}, {{ a }}\" }\n", 9),
        calibration("rows", "", 10),
    ];
    let shop = shop(&sets.concat(), "[\"icl\", \"two\", \"why\", \"rows\"]");
    write_sums(&shop, true);
    shop.succeeds(&["plan", "recipe.toml"]);
    let (_, stderr) = shop.succeeds(&["run", "recipe.toml"]);
    let said = "1 rows are longer than a window of 64 tokens and were passed over";
    assert!(stderr.contains(said), "{stderr}");
    let run = manifest(&shop, "results/tiny");
    let examples = |name: &str| run["calibrations"][name]["drawn"][0]["details"]["examples"].as_u64().unwrap() as usize;

    let icl = drawn_texts(&shop, 7);
    assert_eq!(icl.iter().map(|window| window.lines().count()).sum::<usize>(), examples("icl"));
    for (window, next) in icl.iter().zip(&icl[1..]) {
        assert!(window.lines().all(is_sum) && window.len() <= 64, "{window}");
        // The next example would not have fitted.
        assert!(window.len() + 1 + next.lines().next().unwrap().len() > 64, "{window}\n\n{next}");
    }
    let seen: Vec<&str> = icl.iter().flat_map(|window| window.lines()).collect();
    assert!(seen.iter().enumerate().all(|(i, example)| !seen[..i].contains(example)), "{seen:?}");
    let two = drawn_texts(&shop, 8);
    assert!(two.iter().all(|window| window.lines().count() == 2 && window.lines().all(is_sum)), "{two:?}");
    assert_eq!(examples("two"), 16);
    let why = drawn_texts(&shop, 9);
    assert!(why.iter().flat_map(|window| window.lines()).all(|line| line.contains(": carry, ")), "{why:?}");
    // Rows of any data set are packed alike: by one seed into the windows of its solved examples.
    let rows = drawn_texts(&shop, 10);
    assert_eq!(rows[..7], icl[..]);
}

#[test]
fn solved_examples_read_as_those_in_front_of_a_suites_prompts() {
    let set = "[calibration.icl]\ndataset = \"sums\"\nin_context = { shots = 3, chat = CHAT }\npacking = \"pack\"\nwindows = 3\nlength = 120\n";
    let suite =
        "[suite.sums]\ndataset = \"sums\"\nshots = 2\nlimit = 4\nchat = CHAT\nmax_new_tokens = 1\nmetrics = [\"f1\"]\n";
    for chat in ["false", "true"] {
        let shop = shop(&set.replace("CHAT", chat), "[\"icl\"]");
        write_sums(&shop, false);
        let template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
        fs::write(shop.path("model/chat_template.jinja"), template).unwrap();
        let recipe = fs::read_to_string(shop.path("recipe.toml")).unwrap() + &suite.replace("CHAT", chat);
        fs::write(shop.path("recipe.toml"), recipe).unwrap();
        shop.succeeds(&["run", "recipe.toml"]);
        let windows = drawn_texts(&shop, 3);
        let samples = common::read_table(&shop.path("results/tiny/samples.parquet"));
        let prompts: Vec<&str> = samples.iter().filter_map(|row| row["prompt"].as_str()).collect();
        let (between, end) = if chat == "true" { ("<user>", "<user>") } else { ("\n", "Q: ") };
        let examples = |text: &str| -> Vec<String> {
            text.split(between).filter(|example| !example.is_empty()).map(str::to_owned).collect()
        };
        // Every shot of a prompt is one of 60 rows; those that a window has too are there letter for letter.
        let shots: Vec<String> = prompts
            .iter()
            .flat_map(|prompt| {
                let mut all = examples(prompt);
                all.pop();
                all
            })
            .collect();
        assert!(!shots.is_empty() && prompts.iter().all(|prompt| prompt.contains(end)), "{prompts:?}");
        let is_like = |example: &str| match chat {
            "true" => example.split_once("<assistant>").is_some_and(|(q, a)| is_sum(&format!("{q}{a}"))),
            _ => is_sum(example),
        };
        for window in &windows {
            let examples = examples(window);
            assert!(examples.len() == 3 && examples.iter().all(|example| is_like(example)), "{window}");
        }
        assert!(shots.iter().filter(|shot| !shot.contains("xx")).all(|shot| is_like(shot)), "{shots:?}");
    }
}

/// (the calibration, what the error must say)
const WRONG_EXAMPLES: &[(&str, &[&str])] = &[
    ("dataset = \"sums\"\nin_context = { }", &[":18:1", "expected packing = \"pack\""]),
    ("mix = { general = 1 }\nin_context = { }", &[":18:1", "expected `dataset` beside it"]),
    ("dataset = \"sums\"\npacking = \"pack\"\nin_context = { shots = 0 }", &[":19:16", "0 is too small"]),
    (
        "dataset = \"sums\"\npacking = \"pack\"\nin_context = { shot = 2 }",
        &["`shot` is no key", "did you mean `shots`?"],
    ),
    (
        "dataset = \"sums\"\npacking = \"pack\"\nin_context.template = { prompt = \"{{ q\" }",
        &[":19:", "`calibration.a.in_context.template`", "is wrong"],
    ),
    (
        "dataset = \"path:rows.jsonl\"\npacking = \"pack\"\nlength = 64\nin_context = { }",
        &["[calibration.a], data set \"path:rows.jsonl\": row 1 has no answer, and is no solved example"],
    ),
    (
        "dataset = \"sums\"\npacking = \"pack\"\nlength = 12\nin_context = { }",
        &["too little data: 9 of 60 rows have at least 2 tokens and at most 12", "make 9 windows of 12, not 128"],
    ),
    (
        "dataset = \"sums\"\npacking = \"pack\"\nlength = 64\nin_context = { chat = true }",
        &["[calibration.a]", "chat template"],
    ),
];

#[test]
fn rows_that_are_no_solved_examples_are_refused() {
    for (calibration, says) in WRONG_EXAMPLES {
        let shop = shop(&format!("[calibration.a]\n{calibration}\n"), "[\"a\"]");
        write_sums(&shop, true);
        assert_refused(&shop, calibration, says);
    }
}

const CHOSEN: &str = "windows = 3\nlength = 40\n";

/// Calibrations that choose 3 of 9 windows of `general`.
fn chosen(part: &str) -> String {
    let select = format!("select = {{ from = \"general\", by = \"perplexity\", part = \"{part}\", of = 9 }}");
    format!("[calibration.{part}]\n{select}\n{CHOSEN}")
}

#[test]
fn windows_are_chosen_by_the_losses_that_the_same_windows_have_as_a_suite() {
    let parts = ["lowest", "middle", "highest"];
    let sets = parts.map(chosen).concat();
    let shop = shop(&sets, "[\"lowest\", \"middle\", \"highest\"]");
    let (plan, _) = shop.succeeds(&["plan", "recipe.toml"]);
    assert_eq!(plan.matches("losses of 9 windows of calibration general, seed 0").count(), 1, "{plan}");
    assert_eq!(plan.matches("9 windows of calibration general, seed 0").count(), 2, "{plan}");
    shop.succeeds(&["run", "recipe.toml"]);
    let (plan, _) = shop.succeeds(&["plan", "recipe.toml"]);
    assert!(plan.contains("\nall of it is done"), "{plan}");
    // What the model makes of the candidates is computed once.
    assert_eq!(fs::read_dir(shop.path("cache/losses")).unwrap().count(), 1);

    let candidates = cached_windows(&shop, "cache").into_iter().find(|(windows, _)| windows.len() == 9).unwrap().0;
    let rows: String = candidates.iter().map(|ids| format!("{}\n", serde_json::json!({"input_ids": ids}))).collect();
    fs::write(shop.path("candidates.jsonl"), rows).unwrap();
    let suite =
        "suite.same={ dataset = \"path:candidates.jsonl\", packing = \"single\", length = 40, metrics = [\"loss\"] }";
    shop.succeeds(&["run", "recipe.toml", "--out", "same", "--set", suite]);
    let samples = common::read_table(&shop.path("same/samples.parquet"));
    let of_dense = samples.iter().filter(|row| row["suite"] == "same" && row["cell"] == "dense");
    let losses: Vec<f64> = of_dense.map(|row| row["loss"].as_f64().unwrap()).collect();
    assert_eq!(losses.len(), 9);

    let run = manifest(&shop, "results/tiny");
    let mut order: Vec<usize> = (0..9).collect();
    order.sort_by(|&a, &b| losses[a].total_cmp(&losses[b]));
    let all = cached_windows(&shop, "cache");
    for (part, places) in parts.into_iter().zip([&order[..3], &order[3..6], &order[6..]]) {
        let details = &run["calibrations"][part]["drawn"][0]["details"]["select"];
        let scores: Vec<f64> = serde_json::from_value(details["scores"].clone()).unwrap();
        for (score, loss) in scores.iter().zip(&losses) {
            assert!((score - loss).abs() < 2e-6, "{scores:?} {losses:?}");
        }
        let mut places = places.to_vec();
        places.sort();
        assert_eq!(details["kept"], serde_json::json!(places));
        assert_eq!((&details["from"], &details["of"], &details["part"]), (&"general".into(), &9.into(), &part.into()));
        let kept: Windows = places.iter().map(|&place| candidates[place].clone()).collect();
        assert!(all.iter().any(|(windows, _)| *windows == kept), "{part}");
    }
}

#[test]
fn a_selection_does_not_depend_on_threads_is_mixed_reproduced_and_exported() {
    let mix = format!(
        "{}[calibration.both]\nmix = {{ lowest = 0.5, other = 0.5 }}\nwindows = 4\nlength = 40\n",
        chosen("lowest")
    );
    let shop = shop(&mix, "[\"both\", \"lowest\"]");
    let run = |threads: &str| {
        shop.succeeds(&["run", "recipe.toml", "--threads", threads, "--cache", threads, "--out", threads]);
        shop.tables(threads)
    };
    assert_same_tables(&run("1"), &run("2"));
    let details = &manifest(&shop, "1")["calibrations"]["both"]["drawn"][0]["details"]["mix"]["lowest"];
    assert_eq!(details["details"]["select"]["kept"].as_array().unwrap().len(), 2);
    let (printed, _) = shop.succeeds(&["reproduce", "1"]);
    assert!(printed.contains("values are equal to the last bit"), "{printed}");
    shop.succeeds(&["export", "1", "wanda-0.5-both-s0", "--to", "exported", "--cache", "fresh"]);
    assert!(shop.path("exported/model.safetensors").is_file());
    // All that the study is made of belongs to it: nothing of it is left to others.
    let (listed, _) = shop.succeeds(&["cache", "ls", "--cache", "1"]);
    assert!(listed.contains("losses"), "{listed}");
}

/// Rows about two things, and a task about one of them.
fn write_two_kinds(shop: &Workshop) {
    let row = |i: usize| match i % 2 {
        0 => serde_json::json!({"text": format!("an apple and a pear in orchard {i}")}),
        _ => serde_json::json!({"text": format!("an engine with a piston in garage {i}")}),
    };
    let rows: String = (0..30).map(|i| format!("{}\n", row(i))).collect();
    fs::write(shop.path("pool.jsonl"), rows).unwrap();
    let task = "{\"prompt\": \"what moves in an engine?\", \"completion\": \"the piston\"}\n{\"prompt\": \"where is it?\", \"completion\": \"garage\"}\n";
    fs::write(shop.path("task.jsonl"), task).unwrap();
}

#[test]
fn windows_near_to_a_suite_are_those_with_its_words() {
    let sets = "[calibration.pool]\ndataset = \"path:pool.jsonl\"\npacking = \"single\"\nlength = 60\n\
                [calibration.near]\nselect = { from = \"pool\", near = \"task\", of = 30 }\nwindows = 12\nlength = 60\n";
    let shop = shop(sets, "[\"near\"]");
    write_two_kinds(&shop);
    let suite = "[suite.task]\ndataset = \"path:task.jsonl\"\nmetrics = [\"loss\"]\nlimit = 2\n";
    let recipe = fs::read_to_string(shop.path("recipe.toml")).unwrap() + suite;
    fs::write(shop.path("recipe.toml"), recipe).unwrap();
    shop.succeeds(&["run", "recipe.toml"]);
    let near = drawn_texts(&shop, 12);
    assert!(near.iter().all(|window| window.contains("piston")), "{near:?}");
    let details = &manifest(&shop, "results/tiny")["calibrations"]["near"]["drawn"][0]["details"]["select"];
    assert_eq!((&details["near"], details["scores"].as_array().unwrap().len()), (&"task".into(), 30));
    assert!(!shop.path("cache/losses").exists(), "no model is run for it");
    shop.succeeds(&["export", "results/tiny", "wanda-0.5-near-s0", "--to", "exported", "--cache", "fresh"]);
    assert!(shop.path("exported/model.safetensors").is_file());
    let (printed, _) = shop.succeeds(&["reproduce", "results/tiny"]);
    assert!(printed.contains("values are equal to the last bit"), "{printed}");
}

/// (the calibration, what the error must say)
const WRONG_SELECTIONS: &[(&str, &[&str])] = &[
    ("select = { from = \"general\", of = 9 }", &[":17:1", "nothing says what windows are chosen by"]),
    ("select = { from = \"general\", by = \"perplexity\", of = 9 }", &[":17:30", "expected part = \"lowest\""]),
    ("select = { from = \"general\", by = \"perplexty\", of = 9 }", &["did you mean \"perplexity\"?"]),
    (
        "select = { from = \"general\", by = \"perplexity\", part = \"lowest\", near = \"text\", of = 9 }",
        &[":17:66", "`by` says already what windows are chosen by"],
    ),
    ("select = { from = \"general\", near = \"text\", part = \"lowest\", of = 9 }", &[":17:45", "it goes with `by`"]),
    (
        "select = { from = \"general\", near = \"txt\", of = 9 }",
        &[":17:30", "\"txt\" is no suite", "did you mean \"text\"?"],
    ),
    ("select = { from = \"genral\", near = \"text\", of = 9 }", &[":17:12", "\"genral\" is no calibration"]),
    ("select = { from = \"a\", near = \"text\", of = 9 }", &[":17:12", "a would draw from itself: a from a"]),
    (
        "windows = 10\nselect = { from = \"general\", near = \"text\", of = 9 }",
        &[":18:45", "9 are too few to choose 10"],
    ),
    ("select = { from = \"general\", near = \"text\" }", &["lacks the key `of`"]),
    (
        "windows = 3\nlength = 48\nselect = { from = \"general\", near = \"text\", of = 5000 }",
        &[
            "[calibration.a], those of 5000 windows of general that are nearest to the suite text: [calibration.general]",
            "too little data",
        ],
    ),
];

#[test]
fn a_wrong_selection_is_refused_with_its_place() {
    for (calibration, says) in WRONG_SELECTIONS {
        let length = if calibration.contains("windows") { "" } else { "windows = 2\nlength = 40\n" };
        let shop = shop(&format!("[calibration.a]\n{calibration}\n{length}"), "[\"a\"]");
        assert_refused(&shop, calibration, says);
    }
}

#[test]
fn a_recorded_recipe_whose_calibrations_draw_from_themselves_is_refused() {
    let shop = shop(BOTH, "[\"both\"]");
    shop.succeeds(&["run", "recipe.toml"]);
    let path = shop.path("results/tiny/run.json");
    let text = fs::read_to_string(&path).unwrap();
    let run: Value = serde_json::from_str(&text).unwrap();
    for (mix, says) in [
        (serde_json::json!({"both": 1.0}), "calibration.both draws from itself"),
        (serde_json::json!({"nothing": 1.0}), "it has no calibration.nothing"),
    ] {
        let mut changed = run.clone();
        changed["recipe"]["calibration"]["both"]["mix"] = mix;
        fs::write(&path, changed.to_string()).unwrap();
        for arguments in [&["reproduce", "results/tiny"][..], &["export", "results/tiny", "--to", "model2"]] {
            let output = shop.calipr(arguments);
            let (_, stderr) = texts(&output);
            assert!(matches!(output.status.code(), Some(1 | 2)) && stderr.contains(says), "{arguments:?}: {stderr}");
        }
    }
}
