//! The user's machine: where Hugging Face's files are, paths, terminals, threads, permissions, little memory, and recipes that
//! come in other ways than as a file of plain text.
#![cfg(unix)]

mod common;

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::{RECIPE, Tiny, Workshop, on_terminal, texts};
use serde_json::Value;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A recipe of one cell that finds the model and its data where it is told.
fn small(model: &str, data: &str) -> String {
    format!(
        "name = \"small\"\n[model]\nsource = \"{model}\"\ndevice = \"cpu\"\n[grid]\nmethod = [\"magnitude\"]\n\
         sparsity = [0.5]\n[suite.text]\ndataset = \"{data}\"\nwindows = 2\nlength = 16\n"
    )
}

fn small_shop() -> Workshop {
    let shop = Workshop::new(&Tiny { blocks: 1, ..Tiny::default() });
    fs::write(shop.path("small.toml"), small("path:model", "path:test.jsonl")).unwrap();
    shop
}

/// The program without the variables that others set, and with these.
fn with(shop: &Workshop, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = shop.command(arguments);
    for name in ["HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "NO_COLOR", "CLICOLOR_FORCE"] {
        command.env_remove(name);
    }
    for name in ["RAYON_NUM_THREADS", "OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK", "CALIPR_THREADS", "FORCE_COLOR"] {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied());
    command
}

/// Exit code, stdout and stderr.
fn ended(command: &mut Command) -> (Option<i32>, String, String) {
    let output: Output = command.output().unwrap();
    let (stdout, stderr) = texts(&output);
    (output.status.code(), stdout, stderr)
}

#[test]
fn models_are_found_where_hugging_faces_tools_keep_them() {
    let shop = small_shop();
    fs::write(shop.path("small.toml"), small("hf:owner/name", "path:test.jsonl")).unwrap();
    let home = shop.path("a home");
    let home = home.to_str().unwrap();
    for (folder, variables) in [
        (".cache/huggingface/hub", &[][..]),
        ("hf/hub", &[("HF_HOME", "~/hf")]),
        ("old", &[("HUGGINGFACE_HUB_CACHE", "${HOME}/old")]),
        ("new", &[("HF_HUB_CACHE", "$HOME/new"), ("HUGGINGFACE_HUB_CACHE", "/nowhere"), ("HF_HOME", "/nowhere")]),
        ("x/huggingface/hub", &[("XDG_CACHE_HOME", "~/x")]),
    ] {
        let _ = fs::remove_dir_all(home);
        let repo = Path::new(home).join(folder).join("models--owner--name");
        let snapshot = repo.join("snapshots").join(COMMIT);
        fs::create_dir_all(repo.join("refs")).unwrap();
        fs::create_dir_all(&snapshot).unwrap();
        fs::write(repo.join("refs/main"), COMMIT).unwrap();
        for name in ["config.json", "tokenizer.json", "model.safetensors"] {
            fs::copy(shop.path("model").join(name), snapshot.join(name)).unwrap();
        }
        let mut command = with(&shop, &["plan", "small.toml"], variables);
        let (code, _, stderr) = ended(command.env("HOME", home));
        assert_eq!(code, Some(0), "{variables:?}: {stderr}");

        fs::remove_file(snapshot.join("model.safetensors")).unwrap();
        let offline = || with(&shop, &["run", "small.toml", "--offline"], variables);
        let (code, _, stderr) = ended(offline().env("HOME", home));
        assert!(code == Some(1) && stderr.contains("lacks model.safetensors"), "{stderr}");
        fs::remove_dir_all(repo).unwrap();
        let (_, _, stderr) = ended(offline().env("HOME", home));
        let by = variables.first().map_or("the default", |(name, _)| name);
        assert!(
            stderr.contains(by) && stderr.contains(folder) && stderr.contains("`hf download owner/name`"),
            "{stderr}"
        );
    }
}

#[test]
fn paths_may_begin_at_home_hold_variables_spaces_and_any_letters() {
    let shop = small_shop();
    let folder = shop.path("a home/modèle 模型");
    fs::create_dir_all(folder.parent().unwrap()).unwrap();
    fs::rename(shop.path("model"), &folder).unwrap();
    fs::rename(shop.path("test.jsonl"), shop.path("a home/rows.jsonl")).unwrap();
    fs::write(shop.path("small.toml"), small("path:~/modèle 模型", "path:$DATA/rows.jsonl")).unwrap();
    let home = shop.path("a home");
    let variables = [("HOME", home.to_str().unwrap()), ("DATA", home.to_str().unwrap()), ("LANG", "C")];
    let (code, stdout, stderr) = ended(&mut with(&shop, &["run", "small.toml"], &variables));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("dense"));
    let (code, _, stderr) = ended(&mut with(&shop, &["run", "small.toml"], &variables[..1]));
    assert!(code == Some(2) && stderr.contains("$DATA is not set"), "{stderr}");
    // The cache too may be named by who has no shell.
    let variables = [&variables[..], &[("CALIPR_CACHE", "~/kept")]].concat();
    ended(&mut with(&shop, &["run", "small.toml"], &variables));
    assert!(home.join("kept/scores").is_dir());
}

#[test]
fn what_the_user_can_mend_in_recipe_or_data_ends_with_2() {
    let shop = small_shop();
    let good = fs::read_to_string(shop.path("test.jsonl")).unwrap();
    let run = |data: &str, set: &str| {
        fs::write(shop.path("test.jsonl"), data).unwrap();
        ended(&mut with(&shop, &["run", "small.toml", "--set", set], &[]))
    };
    for (data, set, says) in [
        (format!("{{\"text\": 1\n{good}"), "seed=0", "line 2"),
        ("{\"text\": \"short\"}\n".into(), "seed=0", "too little data"),
        (good.clone(), "suite.text.windows=100000", "too little data"),
        (good.clone(), "suite.text.dataset=test.jsonl", "did you mean \"path:test.jsonl\"?"),
        (good.clone(), "suite.text.dataset=allenai/c4", "did you mean \"hf:datasets/allenai/c4\"?"),
        (good.clone(), "suite.text.dataset=hf:allenai/c4", "did you mean \"hf:datasets/allenai/c4\"?"),
        (good.clone(), "model.source=owner/name", "did you mean \"hf:owner/name\"?"),
        (good.clone(), "model.source=model", "did you mean \"path:model\"?"),
        (good.clone(), "model.source=hf:datasets/a/b/c.json", "names a data set"),
        (good.clone(), "model.source=path:test.jsonl", "`model.source`: test.jsonl is neither a .gguf file"),
        (good.clone(), "method.magnitude.power=2", "no key of [method.magnitude], which has none"),
        (good.clone(), "sparsity=0.7", "did you mean `grid.sparsity`?"),
        (good.clone(), "cache_size=5 GB", "what the cache may hold is the cache's own: `calipr cache limit SIZE`"),
    ] {
        let (code, _, stderr) = run(&data, set);
        assert_eq!(code, Some(2), "{set}: {stderr}");
        assert!(stderr.contains(says), "{set}: {stderr}");
    }
    for arguments in
        [&["cache", "trim", "--to", "5"][..], &["cache", "limit", "5"], &["run", "small.toml", "--cache-size", "5"]]
    {
        let (code, _, stderr) = ended(&mut with(&shop, arguments, &[]));
        assert!(code == Some(2) && stderr.contains("has no unit"), "{stderr}");
    }
}

#[test]
fn what_the_cache_may_hold_is_said_by_the_command_line_the_environment_or_the_cache_itself() {
    let shop = small_shop();
    let limit = |arguments: &[&str], variable: Option<&str>| {
        let variables: Vec<_> = variable.map(|size| ("CALIPR_CACHE_SIZE", size)).into_iter().collect();
        let (code, stdout, stderr) = ended(&mut with(&shop, arguments, &variables));
        assert_eq!(code, Some(0), "{stderr}");
        stdout.lines().find(|line| line.starts_with("cache:") || line.starts_with("limit of")).unwrap().to_owned()
    };
    let (plan, ls) = (["plan", "small.toml"], ["cache", "ls"]);
    assert!(limit(&plan, None).ends_with("50.0 GB free of 50.0 GB (the default)"));
    assert!(limit(&ls, None).starts_with("limit of the stages: 50.0 GB (the default), of which 50.0 GB are free"));
    assert!(!shop.path("cache/config.toml").exists(), "nobody asked for it");
    let (_, said, _) = ended(&mut with(&shop, &["cache", "limit", "3 GB"], &[]));
    assert!(said.ends_with("cache may hold 3.0 GB of stages; it holds 0 B\n"), "{said}");
    assert!(limit(&ls, None).contains(" 3.0 GB (") && limit(&ls, None).contains("cache/config.toml)"));
    assert!(limit(&plan, Some("2 GB")).ends_with("2.0 GB (CALIPR_CACHE_SIZE)"));
    assert!(limit(&ls, Some("2 GB")).contains("2.0 GB (CALIPR_CACHE_SIZE)"));
    assert!(limit(&ls, Some("")).contains("config.toml)"), "set to nothing is not set");
    let asked = [&plan[..], &["--cache-size", "1 GB"]].concat();
    assert!(limit(&asked, Some("2 GB")).ends_with("1.0 GB (--cache-size)"));
    let (_, said, _) = ended(&mut with(&shop, &["cache", "limit", "4 GB"], &[("CALIPR_CACHE_SIZE", "2 GB")]));
    assert!(said.contains("CALIPR_CACHE_SIZE says so, its limit is 2.0 GB"), "{said}");

    fs::write(shop.path("cache/config.toml"), "# ours\nsize = 5\n").unwrap();
    for arguments in
        [&["run", "small.toml"][..], &plan, &ls, &["cache", "limit", "3 GB"], &["reproduce", "results/small"]]
    {
        if arguments[0] == "reproduce" {
            let (code, _, stderr) = ended(&mut with(&shop, &["run", "small.toml", "--cache-size", "1 GB"], &[]));
            assert_eq!(code, Some(0), "{stderr}");
        }
        let (code, _, stderr) = ended(&mut with(&shop, arguments, &[]));
        let says = stderr.contains("cache/config.toml:2:8: ") && stderr.contains("a size with its unit");
        assert!(code == Some(2) && says, "{arguments:?}: {stderr}");
    }
    let (code, _, stderr) = ended(&mut with(&shop, &plan, &[("CALIPR_CACHE_SIZE", "5")]));
    assert!(
        code == Some(2) && stderr.contains("environment variable CALIPR_CACHE_SIZE: \"5\" has no unit"),
        "{stderr}"
    );
}

#[test]
fn what_others_set_for_programs_in_rust_changes_nothing() {
    let shop = small_shop();
    let config = fs::read_to_string(shop.path("model/config.json")).unwrap();
    let noisy = [("RUST_BACKTRACE", "full"), ("RUST_LIB_BACKTRACE", "1"), ("RUST_LOG", "trace")];
    let wrong = config.replace("\"hidden_size\":32", "\"hidden_size\":64");
    for (config, tokenizer) in [(config, None), (wrong, None), ("{".into(), None), ("{}".into(), Some("{}"))] {
        fs::write(shop.path("model/config.json"), config).unwrap();
        tokenizer.iter().for_each(|text| fs::write(shop.path("model/tokenizer.json"), text).unwrap());
        let said = |variables: &[(&str, &str)]| {
            let _ = fs::remove_dir_all(shop.path("cache"));
            let (code, stdout, stderr) = ended(&mut with(&shop, &["run", "small.toml"], variables));
            // Of a run that ends well, what does not differ from one to the next: what came before the first seconds.
            let before = stderr.split(" s (").next().unwrap_or_default().rsplit_once(", ").map(|(text, _)| text);
            let timeless =
                before.map(|text| text.lines().map(|line| without_time(line).1).collect::<Vec<_>>().join("\n"));
            (code, stdout, if code == Some(0) { timeless.unwrap_or_default() } else { stderr })
        };
        assert_eq!(said(&noisy), said(&[]));
    }
}

/// The time that a line of a log begins with, and the rest.
fn without_time(line: &str) -> (&str, &str) {
    line.split_once(' ').unwrap_or((line, ""))
}

#[test]
fn a_log_tells_the_time_and_of_every_cell_that_begins_and_ends() {
    let shop = Workshop::new(&Tiny { blocks: 1, ..Tiny::default() });
    let (code, _, log) = ended(&mut with(&shop, &["run", "recipe.toml", "-v"], &[]));
    assert_eq!(code, Some(0), "{log}");
    for line in log.lines() {
        let shape: String = without_time(line).0.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000-00-00T00:00:00Z", "{log}");
    }
    let ids = ["dense", "magnitude-0.5", "magnitude-2:4", "wanda-0.5-general-s0", "wanda-0.5-other-s0"];
    for (i, id) in ids.iter().enumerate() {
        let name = format!(" [{}/11] {id}", i + 1);
        assert!(log.lines().any(|line| line.ends_with(&name)), "{name}: {log}");
        let end = log.lines().find(|line| line.contains(&format!("{name}: sparsity "))).unwrap();
        assert!(end.contains("); ") && end.ends_with(" left of the study"), "{end}");
    }
    assert!(log.contains(" block 0/1: prune\n") && log.contains(" suite 0/1: score\n"), "{log}");
    // Nothing is left behind the last cell, and nothing is expected of what was finished before.
    let last = log.lines().rfind(|line| line.contains(": sparsity ")).unwrap();
    assert!(last.contains("[11/11] ") && !last.contains("left"), "{last}");
    let (_, _, log) = ended(&mut with(&shop, &["run", "recipe.toml"], &[]));
    assert!(log.contains(" INFO [4/11] wanda-0.5-general-s0: finished before\n") && !log.contains("left"), "{log}");
}

#[test]
fn a_terminal_shows_the_time_left_and_breaks_log_lines_between_words() {
    let shop = Workshop::new(&Tiny { blocks: 1, ..Tiny::default() });
    let shown = on_terminal(&mut with(&shop, &["run", "recipe.toml"], &[("TERM", "xterm"), ("NO_COLOR", "1")]), 80);
    // Without what moves about on the terminal.
    let plain: String =
        shown.split('\x1b').map(|part| part.split_once(char::is_alphabetic).map_or(part, |p| p.1)).collect();
    let logged = plain.split(['\r', '\n']).filter(|line| line.starts_with(" INFO ")).collect::<Vec<_>>();
    assert!(logged.len() == 11 && logged.iter().all(|line| line.chars().count() <= 80), "{logged:?}");
    assert!(logged[0].starts_with(" INFO [1/11] dense: sparsity 0.0000, "), "{logged:?}");
    assert!(shown.contains("\n      "), "{shown}");
    assert!(shown.contains(" s left") || shown.contains("? left"), "{shown}");
}

#[test]
fn a_terminal_of_forty_columns_shows_all_numbers_and_no_line_is_too_long() {
    let shop = Workshop::new(&Tiny { blocks: 1, ..Tiny::default() });
    let quiet = |arguments: &[&'static str]| [arguments, &["--quiet"]].concat();
    let term = [("TERM", "xterm"), ("NO_COLOR", "1")];
    // The first run says what cells took, the next that nothing was computed.
    ended(&mut with(&shop, &quiet(&["run", "recipe.toml"]), &[]));
    for arguments in [
        quiet(&["run", "recipe.toml"]),
        vec!["report", "results/tiny"],
        quiet(&["plan", "recipe.toml"]),
        vec!["cache", "ls"],
    ] {
        let wide = ended(&mut with(&shop, &arguments, &[])).1;
        for columns in [40, 60, 80] {
            let narrow = on_terminal(&mut with(&shop, &arguments, &term), columns).replace('\r', "");
            let (narrow_words, words) = (narrow.split_whitespace(), wide.split_whitespace());
            let shown: Vec<&str> = narrow_words.collect();
            for word in words.filter(|word| word.chars().any(|c| c.is_ascii_digit())) {
                assert!(shown.contains(&word), "{arguments:?} at {columns}: {word} is missing from\n{narrow}\n{word}");
            }
            let longest = narrow.lines().filter(|line| line.contains("  ")).map(|line| line.chars().count()).max();
            assert!(longest.unwrap_or(0) <= usize::from(columns), "{arguments:?} at {columns}:\n{narrow}");
        }
    }
    // The help shows what the variable holds, however long.
    let help = on_terminal(with(&shop, &["run", "--help"], &term).env_remove("CALIPR_CACHE"), 40);
    assert!(help.replace('\r', "").lines().all(|line| line.chars().count() <= 40), "{help}");
}

#[test]
fn colours_and_progress_are_for_terminals_that_want_them() {
    let shop = small_shop();
    let shown = |variables: &[(&str, &str)]| {
        let _ = fs::remove_dir_all(shop.path("cache"));
        on_terminal(&mut with(&shop, &["run", "small.toml"], variables), 100)
    };
    assert!(shown(&[("TERM", "xterm")]).contains("\x1b[32m"));
    let dumb = shown(&[("TERM", "dumb")]);
    assert!(!dumb.contains('\x1b') && dumb.contains("dense: sparsity"), "{dumb}");
    assert!(!shown(&[("TERM", "xterm"), ("NO_COLOR", "1")]).contains("\x1b[32m"));
    assert!(!shown(&[("TERM", "xterm"), ("CLICOLOR", "0")]).contains("\x1b[32m"));
    let piped = ended(&mut with(&shop, &["run", "small.toml"], &[("TERM", "xterm")]));
    assert!(!(piped.1 + &piped.2).contains('\x1b'));
    assert!(ended(&mut with(&shop, &["run", "small.toml"], &[("CLICOLOR_FORCE", "1")])).2.contains("\x1b[32m"));
}

#[test]
fn threads_are_those_asked_for_or_those_that_openmp_or_slurm_give() {
    let shop = small_shop();
    let run = |arguments: &[&str], variables: &[(&str, &str)]| {
        let arguments = [&["run", "small.toml"], arguments].concat();
        let (code, _, stderr) = ended(&mut with(&shop, &arguments, variables));
        assert_eq!(code, Some(0), "{stderr}");
        let run: Value =
            serde_json::from_str(&fs::read_to_string(shop.path("results/small/run.json")).unwrap()).unwrap();
        (run["machine"]["threads"].as_u64().unwrap(), stderr)
    };
    assert_eq!(run(&[], &[("OMP_NUM_THREADS", "1")]).0, 1);
    assert_eq!(run(&[], &[("OMP_NUM_THREADS", "3")]).0, 3);
    assert_eq!(run(&[], &[("SLURM_CPUS_PER_TASK", "1")]).0, 1);
    assert_eq!(run(&["--threads", "2"], &[("OMP_NUM_THREADS", "1"), ("SLURM_CPUS_PER_TASK", "1")]).0, 2);
    assert_eq!(run(&[], &[("CALIPR_THREADS", "2"), ("OMP_NUM_THREADS", "1")]).0, 2);
    let (_, stderr) = run(&[], &[("OMP_NUM_THREADS", "all"), ("CALIPR_THREADS", "")]);
    assert!(stderr.contains("OMP_NUM_THREADS is \"all\", which is no number of threads"), "{stderr}");
    let (code, _, stderr) = ended(&mut with(&shop, &["run", "small.toml", "--threads", "0"], &[]));
    assert!(code == Some(2) && stderr.contains("--threads"), "{stderr}");
    let (code, _, stderr) = ended(&mut with(&shop, &["run", "small.toml", "--threads", "100000"], &[]));
    assert!(code == Some(2) && stderr.contains("at most 4096"), "{stderr}");
    let (code, _, stderr) = ended(&mut with(&shop, &["run", "small.toml"], &[("CALIPR_THREADS", "many")]));
    assert!(code == Some(2) && stderr.contains("the variable CALIPR_THREADS says so"), "{stderr}");
}

/// The program as a user to whom permissions matter.
fn as_a_user(shop: &Workshop, arguments: &[&str]) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = with(shop, arguments, &[("HOME", "/nonexistent")]);
    // SAFETY: it only tells who runs this.
    if unsafe { libc::geteuid() } == 0 {
        // Nobody may not look into where this was built.
        let program = shop.path("calipr");
        if !program.exists() {
            fs::copy(env!("CARGO_BIN_EXE_calipr"), &program).unwrap();
        }
        let mut copy = Command::new(program);
        copy.args(arguments).current_dir(shop.dir.path()).uid(65534).gid(65534);
        copy.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command = copy;
    }
    command
}

#[test]
fn what_may_not_be_read_or_written_is_named_with_what_to_do() {
    let shop = small_shop();
    let set = |path: &str, mode| fs::set_permissions(shop.path(path), Permissions::from_mode(mode)).unwrap();
    let open = |path: &str| {
        fs::create_dir_all(shop.path(path)).unwrap();
        set(path, 0o777);
    };
    set("", 0o755);
    ["config.json", "tokenizer.json", "model.safetensors"].iter().for_each(|name| set(&format!("model/{name}"), 0o644));
    ["cache", "results", "elsewhere"].into_iter().for_each(open);
    let run = |arguments: &[&str]| ended(&mut as_a_user(&shop, &[&["run", "small.toml"], arguments].concat()));
    let (code, _, stderr) = run(&[]);
    assert_eq!(code, Some(0), "{stderr}");

    // The cache, which is nobody's data set.
    fs::create_dir(shop.path("closed")).unwrap();
    set("closed", 0o555);
    for cache in ["closed", "closed/below"] {
        let (code, _, stderr) = run(&["--cache", cache]);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains("cannot write the cache entry closed") && stderr.contains("CALIPR_CACHE"), "{stderr}");
        assert!(stderr.contains("Permission denied") && !stderr.contains("data set"), "{stderr}");
    }
    let (code, _, stderr) = run(&["--out", "closed/results"]);
    assert!(code == Some(1) && stderr.contains("closed/results") && stderr.contains("--out"), "{stderr}");

    for (path, closed, opened) in [
        ("model/model.safetensors", 0o000, 0o644),
        ("model/config.json", 0o000, 0o644),
        ("model", 0o000, 0o755),
        ("test.jsonl", 0o000, 0o644),
    ] {
        set(path, closed);
        let (code, _, stderr) = run(&["--cache", "elsewhere"]);
        set(path, opened);
        assert_eq!(code, Some(1), "{path}: {stderr}");
        assert!(stderr.contains(path) && stderr.contains("Permission denied"), "{path}: {stderr}");
        assert!(!stderr.contains("does not exist"), "{path}: {stderr}");
    }
    set("small.toml", 0o000);
    let (code, _, stderr) = run(&[]);
    assert!(code == Some(2) && stderr.contains("small.toml: cannot read the recipe: Permission denied"), "{stderr}");
}

#[test]
fn without_a_home_there_is_still_a_cache() {
    let shop = small_shop();
    for home in [None, Some(""), Some("relative"), Some("/dev/null")] {
        let mut command = with(&shop, &["plan", "small.toml"], &[]);
        command.env_remove("HOME").env_remove("CALIPR_CACHE").envs(home.map(|home| ("HOME", home)));
        let (code, _, stderr) = ended(&mut command);
        assert_eq!(code, Some(0), "{home:?}: {stderr}");
    }
    assert!(!shop.path("relative").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn a_limited_address_space_ends_in_words_and_never_by_a_signal() {
    let shop = small_shop();
    // Whether it succeeds with so many kB; if not, it says so.
    let succeeds = |arguments: &str, kilobytes: usize| {
        let script = format!("ulimit -v {kilobytes}; exec \"$0\" {arguments}");
        let mut command = Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_calipr")]).current_dir(shop.dir.path());
        let (code, _, stderr) = ended(command.env("CALIPR_CACHE", shop.path(&kilobytes.to_string())));
        // With less than the program's own size, the system does not even start it.
        let started =
            code == Some(0) || !(stderr.is_empty() || stderr.contains("error while loading shared libraries"));
        let said = code == Some(0) || stderr.contains("ulimit -v") || stderr.contains("of memory");
        assert!(!started || matches!(code, Some(0 | 1 | 3)), "{kilobytes} kB: {code:?} {stderr}");
        assert!(!started || said && !stderr.contains("panicked"), "{kilobytes} kB: {stderr}");
        code == Some(0)
    };
    let megabytes = [20, 40, 80, 120, 160, 200, 250, 300, 400, 600, 1000, 2000, 4000];
    let succeeded = megabytes.into_iter().filter(|&megabytes| succeeds("run small.toml --threads 2", megabytes << 10));
    let succeeded = succeeded.count();
    assert!(succeeded >= 2, "only {succeeded}");

    // Where the last pages are lacking that a thread begins with.
    let (mut too_little, mut enough) = (20 << 10, 4000 << 10);
    while enough - too_little > 4 {
        let between = usize::midpoint(too_little, enough) / 4 * 4;
        *(if succeeds("--version", between) { &mut enough } else { &mut too_little }) = between;
    }
    (0..=64).for_each(|pages| _ = succeeds("--version", enough - 4 * pages));
}

#[test]
fn recipes_come_from_anywhere_in_any_form_of_utf_8() {
    let shop = Workshop::new(&Tiny { blocks: 1, ..Tiny::default() });
    let plan = |arguments: &[&str]| ended(&mut with(&shop, &[&["plan"], arguments].concat(), &[]));
    let expected = plan(&["recipe.toml"]);
    assert_eq!(expected.0, Some(0), "{}", expected.2);

    fs::write(shop.path("windows.toml"), format!("\u{feff}{}", RECIPE.replace('\n', "\r\n"))).unwrap();
    assert_eq!(plan(&["windows.toml"]).1, expected.1);
    assert_eq!(plan(&["recipe"]).1, expected.1);
    let mut command = with(&shop, &["plan", "-"], &[]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(RECIPE.as_bytes()).unwrap();
    assert_eq!(String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap(), expected.1);

    // A link elsewhere, to a recipe beside its data.
    fs::create_dir(shop.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink("../recipe.toml", shop.path("elsewhere/link.toml")).unwrap();
    let mut command = with(&shop, &["plan", "link.toml"], &[]);
    let (code, stdout, stderr) = ended(command.current_dir(shop.path("elsewhere")));
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(stdout, expected.1);

    fs::write(shop.path("latin.toml"), b"name = \"tiny\"\n# caf\xe9\n").unwrap();
    for (arguments, says) in [
        (&["latin.toml"][..], "latin.toml:2:6: the byte 0xE9"),
        (&["recpie.toml"], "did you mean recipe.toml?"),
        (&["model"], "it is a folder"),
        (&["-"], "standard input: "),
    ] {
        let mut command = with(&shop, &[&["plan"], arguments].concat(), &[]);
        let (code, _, stderr) = ended(command.stdin(Stdio::null()));
        assert!(code == Some(2) && stderr.contains(says), "{arguments:?}: {stderr}");
    }
}

#[test]
fn readers_that_have_gone_are_no_error() {
    let shop = small_shop();
    for script in [
        "\"$0\" plan small.toml | true",
        "\"$0\" plan small.toml >&-",
        "\"$0\" run none.toml 2>&-",
        "\"$0\" plan small.toml <&-",
    ] {
        let mut command = Command::new("sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_calipr")]).current_dir(shop.dir.path());
        let (code, _, stderr) = ended(command.env("CALIPR_CACHE", shop.path("cache")));
        assert!(matches!(code, Some(0 | 2)) && !stderr.contains("panicked"), "{script}: {code:?} {stderr}");
    }
    let mut command = Command::new("sh");
    command.args(["-c", "\"$0\" schema > /dev/full", env!("CARGO_BIN_EXE_calipr")]);
    let (code, _, stderr) = ended(&mut command);
    assert!(code == Some(1) && stderr.contains("cannot write to standard output"), "{stderr}");
}
