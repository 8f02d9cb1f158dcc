//! Studies on clusters: the real daemons of Slurm and HyperQueue, started for a test on this machine. Where they are not
//! installed, these tests say so and pass; `.ci/run` installs them.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Tiny, Workshop, assert_same_tables, texts};

/// A study of twelve cells and the dense one, in a folder whose names a shell would take apart.
const OUT: &str = "my 'results' 50%/tiny";

fn shop() -> Workshop {
    let shop = Workshop::new(&Tiny { hidden: 192, feed_forward: 384, blocks: 6, ..Tiny::default() });
    let recipe = common::RECIPE
        .replace("sparsity = [0.5, \"2:4\"]", "sparsity = [0.4, 0.5, 0.6, \"2:4\"]\ncalibration = [\"general\"]");
    fs::write(
        shop.path("recipe.toml"),
        recipe.replace("windows = 6", "windows = 200").replace("windows = 5", "windows = 100"),
    )
    .unwrap();
    let rows = |salt: usize| {
        (0..400).map(move |i| format!("{{\"text\": \"row {i} says {} and {}\"}}\n", i * salt, "word ".repeat(i % 7)))
    };
    fs::write(shop.path("rows.jsonl"), rows(17).collect::<String>()).unwrap();
    fs::write(shop.path("test.jsonl"), rows(23).collect::<String>()).unwrap();
    shop
}

const CELLS: usize = 13;

/// The tables that one process makes of the study, in a cache of its own.
fn alone(shop: &Workshop) -> Vec<Vec<serde_json::Value>> {
    shop.succeeds(&["run", "recipe.toml", "--out", "alone", "--cache", "cache-alone"]);
    shop.tables("alone")
}

/// Calls until it answers; what it waits for is said where it does not.
fn wait_for<T>(what: &str, seconds: u64, mut answer: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(started.elapsed() < Duration::from_secs(seconds), "waited {seconds} s for {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The process of a program with these arguments and this variable in its environment.
fn process(argument: &str, variable: &str) -> Option<i32> {
    let split = |path: PathBuf| Some(fs::read(path).ok()?.split(|b| *b == 0).map(<[u8]>::to_vec).collect::<Vec<_>>());
    let has =
        |words: Option<Vec<Vec<u8>>>, word: &str| words.is_some_and(|words| words.iter().any(|w| w == word.as_bytes()));
    let is_it = |dir: &PathBuf| {
        let name = split(dir.join("cmdline")).and_then(|words| String::from_utf8(words.first()?.clone()).ok());
        name.is_some_and(|name| name.ends_with("/calipr"))
            && has(split(dir.join("cmdline")), argument)
            && has(split(dir.join("environ")), variable)
    };
    let dirs = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    dirs.filter(is_it).find_map(|dir| dir.file_name()?.to_str()?.parse().ok())
}

fn kill(pid: i32) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

/// What the logs of jobs say, by their names.
fn logs(jobs: &Path) -> Vec<(String, String)> {
    let files = fs::read_dir(jobs).unwrap().flatten().map(|entry| entry.path());
    let logs = files.filter(|path| path.extension().is_some_and(|ending| ending == "log"));
    logs.map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(path).unwrap()))
        .collect()
}

/// What logs say of cells, each line from behind the cell's number.
fn of_cells(logs: &[(String, String)]) -> Vec<&str> {
    let lines = logs.iter().flat_map(|(_, text)| text.lines());
    lines.filter_map(|line| Some(line.split_once(" INFO [")?.1.split_once("] ")?.1)).collect()
}

/// Every cell was computed once to its end, and no more were begun than there are, and those that were given up. What was
/// pruned ahead of the dense cell was no beginning.
fn assert_nothing_is_computed_twice(logs: &[(String, String)], given_up: usize) {
    let all: String = logs.iter().map(|(name, text)| format!("==> {name}\n{text}")).collect();
    let lines = of_cells(logs);
    let mut ended: Vec<&str> = lines.iter().filter_map(|said| Some(said.split_once(": sparsity ")?.0)).collect();
    ended.sort_unstable();
    assert_eq!(ended.len(), CELLS, "{ended:?}\n{all}");
    ended.dedup();
    assert_eq!(ended.len(), CELLS, "{ended:?}\n{all}");
    let begun = lines.iter().filter(|said| ended.contains(said)).count();
    assert!(begun <= CELLS + given_up, "{begun} begun, {given_up} given up\n{all}");
}

/// A private Slurm, as long as this lives.
struct Slurm {
    dir: tempfile::TempDir,
    conf: String,
    started: Instant,
}

impl Slurm {
    fn script(&self, command: &str) -> Command {
        slurm(command, self.dir.path())
    }

    /// None where Slurm is not installed.
    fn up() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let started = Instant::now();
        let output = slurm("up", dir.path()).output().unwrap();
        let (stdout, stderr) = texts(&output);
        if output.status.code() == Some(69) {
            eprintln!(
                "skipped: Slurm is not installed (slurmctld, slurmd, slurm-client and munge of Debian): {stderr}"
            );
            return None;
        }
        assert!(output.status.success(), "{stdout}{stderr}");
        let conf = stdout.trim().strip_prefix("SLURM_CONF=").unwrap().to_owned();
        Some(Self { dir, conf, started })
    }

    fn ask(&self, program: &str, arguments: &[&str]) -> String {
        texts(&Command::new(program).args(arguments).env("SLURM_CONF", &self.conf).output().unwrap()).0
    }

    fn calipr(&self, shop: &Workshop, arguments: &[&str]) -> Output {
        shop.command(arguments).env("SLURM_CONF", &self.conf).output().unwrap()
    }

    /// Slurm looks at time limits every 30 seconds. Waits until it will soon.
    fn wait_for_a_look(&self) {
        let phase = self.started.elapsed().as_secs_f64() % 30.0;
        std::thread::sleep(Duration::from_secs_f64((21.0 - phase).rem_euclid(30.0)));
    }

    fn run_to_the_end(&self) {
        wait_for("the queue to be empty", 150, || self.ask("squeue", &["--noheader"]).is_empty().then_some(()));
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        let _ = self.script("down").output();
    }
}

fn slurm(command: &str, dir: &Path) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/slurm.sh");
    let mut process = Command::new("bash");
    process.arg(script).arg(command).arg(dir).stdin(Stdio::null());
    process
}

#[test]
fn workers_of_slurm_come_to_the_tables_of_one_process() {
    let Some(slurm) = Slurm::up() else { return };
    let shop = shop();
    let expected = alone(&shop);
    slurm.wait_for_a_look();
    let submit = ["submit", "recipe.toml", "--to", "slurm", "--workers", "4", "--threads", "1", "--out", OUT];
    // Of a minute, nothing is left when Slurm first looks: all workers are told then.
    let output = slurm.calipr(&shop, &[&submit[..], &["--", "--time=1", "--mem=1G", "--partition=main"]].concat());
    let (said, stderr) = texts(&output);
    assert!(output.status.success(), "{stderr}");
    let id = |part: &str| {
        said.lines().find_map(|line| line.strip_prefix(&format!("{part}: slurm job "))).unwrap().to_owned()
    };
    let (array, tables) = (id("workers"), id("tables"));
    assert!(stderr.contains("workers share it, but every machine has its own"), "{stderr}");
    assert!(
        said.contains("13 of 13 cells to compute, 4 workers") && said.contains("asks for cpus-per-task=1; "),
        "{said}"
    );

    // A second submission would make the tables twice.
    let output = slurm.calipr(&shop, &submit);
    let (_, stderr) = texts(&output);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("is submitted already") && stderr.contains(&format!("scancel {array} {tables}")),
        "{stderr}"
    );

    // One of them dies in the middle of a cell.
    let jobs = shop.path(OUT).join("jobs");
    for task in [1, 2] {
        let log = jobs.join(format!("{array}_{task}.log"));
        wait_for("a task's first cell", 60, || fs::read_to_string(&log).ok()?.contains("/13] ").then_some(()));
    }
    // Another hears that its time is up, as Slurm itself says it to whoever is still at work when it looks.
    slurm.ask("scancel", &["--batch", "--signal=USR1", &format!("{array}_2")]);
    let victim = wait_for("the second task's process", 20, || process("work", "SLURM_ARRAY_TASK_ID=1"));
    kill(victim);

    let (status, _) = texts(&slurm.calipr(&shop, &["status", OUT]));
    assert!(status.starts_with("tiny: ") && status.contains(&format!(", job {array}_")), "{status}");
    assert!(status.contains(&format!("job {tables}: 1 PENDING (Dependency)")), "{status}");

    slurm.run_to_the_end();
    let (status, stderr) = texts(&slurm.calipr(&shop, &["status", OUT]));
    assert!(
        status.starts_with("tiny: 13 of 13 cells done\n") && status.contains("no job of it waits or runs"),
        "{status}{stderr}"
    );
    let logs = logs(&jobs);
    assert_same_tables(&expected, &shop.tables(OUT));
    let all: String = logs.iter().map(|(name, text)| format!("==> {name}\n{text}")).collect();
    let killed = slurm.ask("scontrol", &["show", "job", &format!("{array}_1")]);
    assert!(killed.contains("JobState=FAILED") && killed.contains("ExitCode=137"), "{killed}{all}");
    let told = all.matches("the time limit is near: queued again").count();
    assert!(told >= 1 && all.matches(", restart ").count() >= told, "{all}");
    assert_nothing_is_computed_twice(&logs, 1 + told);
    // The two that nothing befell shared the work, and perhaps the others too.
    let workers =
        logs.iter().filter(|(name, text)| name.starts_with(&format!("{array}_")) && text.contains(": sparsity "));
    assert!(workers.count() >= 2, "{all}");
}

#[test]
fn what_slurm_refuses_is_said_in_its_words_and_leaves_nothing() {
    let Some(slurm) = Slurm::up() else { return };
    let shop = Workshop::new(&Tiny::default());
    let refused = |options: &[&str], says: &[&str]| {
        let output = slurm.calipr(&shop, &[&["submit", "recipe.toml", "--to", "slurm", "--"], options].concat());
        let (_, stderr) = texts(&output);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        says.iter().for_each(|says| assert!(stderr.contains(says), "{says}: {stderr}"));
        assert!(!shop.path("results").exists());
    };
    refused(&["--partition=nosuch"], &["is not submitted", "Invalid partition name specified"]);
    refused(&["--gres=gpu:1"], &["is not submitted", "Invalid generic resource"]);
    assert_eq!(slurm.ask("squeue", &["--noheader"]), "");
    // What a person cancels is not queued again.
    let submit = ["submit", "recipe.toml", "--to", "slurm", "--workers", "2", "--set", "seed=3", "--", "--hold"];
    let (said, stderr) = texts(&slurm.calipr(&shop, &submit));
    let cancel = said.lines().find_map(|line| line.split_once("to end it: ")).map(|(_, cancel)| cancel.to_owned());
    let cancel = cancel.unwrap_or_else(|| panic!("{said}{stderr}"));
    slurm.ask("bash", &["-c", &cancel]);
    wait_for("the queue to be empty", 20, || slurm.ask("squeue", &["--noheader"]).is_empty().then_some(()));
    assert!(slurm.calipr(&shop, &submit).status.success(), "what is over may be submitted again");
}

#[test]
fn a_submission_that_is_only_shown_leaves_nothing() {
    let shop = Workshop::new(&Tiny::default());
    let (text, _) =
        shop.succeeds(&["submit", "recipe.toml", "--to", "slurm", "--print", "--workers", "100", "--", "--account=me"]);
    // More workers than cells would find none to take.
    assert!(text.contains("#SBATCH --array=0-10\n") && text.contains("$ sbatch --parsable --account=me "), "{text}");
    let (text, _) = shop.succeeds(&["submit", "recipe.toml", "--to", "hq", "--print"]);
    assert!(
        text.contains("deps = [1, 2, 3, 4, 5, 6, 7, 8]") && text.contains("$ hq --output-mode=quiet job submit-file "),
        "{text}"
    );
    assert!(!shop.path("results").exists());
    let output = shop.calipr(&["submit", "recipe.toml", "--to", "pbs"]);
    assert!(texts(&output).1.contains("[possible values: slurm, hq]"));
}

#[test]
fn what_run_would_refuse_is_not_submitted() {
    let shop = Workshop::new(&Tiny::default());
    let refused = |arguments: &[&str], says: &str| {
        let output = shop.calipr(&[&["submit", "recipe.toml", "--to", "slurm", "--print"], arguments].concat());
        assert_eq!(output.status.code(), Some(2));
        assert!(texts(&output).1.contains(says), "{}", texts(&output).1);
    };
    refused(&["--set", "grid.sparsity=[2]"], "grid.sparsity");
    refused(&["--set", "suite.text.dataset=path:nosuch.jsonl"], "nosuch.jsonl");
    refused(&["--", "-a", "1-4"], "-a: --workers N says how many tasks there are");
    // Another study's results.
    shop.succeeds(&["run", "recipe.toml", "--set", "grid.sparsity=[0.5]"]);
    refused(&["--set", "grid.sparsity=[0.7]"], "has results of another study");
    let (text, _) =
        shop.succeeds(&["submit", "recipe.toml", "--to", "slurm", "--print", "--set", "grid.sparsity=[0.5]"]);
    assert!(text.starts_with("nothing is left to compute"), "{text}");
}

#[test]
fn where_there_is_no_slurm_that_is_said() {
    let shop = Workshop::new(&Tiny::default());
    let output =
        shop.command(&["submit", "recipe.toml", "--to", "slurm"]).env("PATH", "/nonexistent").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(texts(&output).1.contains("sbatch is not here"), "{}", texts(&output).1);
    assert!(!shop.path("results").exists());
}

/// A private HyperQueue, as long as this lives.
struct HyperQueue {
    dir: tempfile::TempDir,
    /// Its server, and its workers where they are processes of their own.
    processes: Vec<Child>,
    /// The folder of the program `hq`.
    bin: PathBuf,
}

const HQ_WORKERS: usize = 5;

impl HyperQueue {
    /// None where HyperQueue is not installed.
    fn up() -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/hq/bin");
        let Some(bin) = std::env::split_paths(&path).chain([own]).find(|folder| folder.join("hq").is_file()) else {
            eprintln!("skipped: HyperQueue is not installed (hq, or target/hq of the PyPI package hyperqueue)");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let server = dir.path().join("server");
        let mut up = Self { dir, processes: vec![], bin };
        let is_whole = Command::new(up.bin.join("hq")).arg("--version").output().is_ok_and(|o| o.status.success());
        if is_whole {
            up.start(&["server", "start", "--host", "localhost"]);
            wait_for("HyperQueue's server", 20, || server.join("hq-current/access.json").exists().then_some(()));
            (0..HQ_WORKERS).for_each(|_| up.start(&["worker", "start", "--cpus", "1"]));
        } else {
            let server = server.to_str().unwrap().to_owned();
            up.start(&["cluster", &server, &HQ_WORKERS.to_string()]);
            let log = up.dir.path().join("log-0");
            wait_for("HyperQueue's cluster", 30, || fs::read_to_string(&log).ok()?.contains("ready").then_some(()));
        }
        Some(up)
    }

    fn start(&mut self, arguments: &[&str]) {
        let log = fs::File::create(self.dir.path().join(format!("log-{}", self.processes.len()))).unwrap();
        let mut command = Command::new(self.bin.join("hq"));
        command.args(arguments).env("HQ_SERVER_DIR", self.dir.path().join("server")).stdin(Stdio::null());
        self.processes.push(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }
}

impl Drop for HyperQueue {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            let _ = Command::new("kill").arg(process.id().to_string()).status();
            let _ = process.wait();
        }
    }
}

#[test]
fn workers_of_hyperqueue_come_to_the_tables_of_one_process() {
    let Some(hq) = HyperQueue::up() else { return };
    let shop = shop();
    let expected = alone(&shop);
    let server = format!("--server-dir={}", hq.dir.path().join("server").display());
    let path = std::env::join_paths(
        std::iter::once(hq.bin.clone()).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    )
    .unwrap();
    let submit =
        ["submit", "recipe.toml", "--to", "hq", "--workers", "4", "--threads", "1", "--out", OUT, "--", &server];
    let output = shop.command(&submit).env("PATH", path).output().unwrap();
    let (said, stderr) = texts(&output);
    assert!(output.status.success(), "{stderr}");
    let job = said.lines().find_map(|line| line.strip_prefix("workers and tables: hq job ")).unwrap().to_owned();
    let jobs = shop.path(OUT).join("jobs");
    let log = |task: usize| jobs.join(format!("hq-{job}-{task}.log"));
    wait_for("a cell of the second task", 60, || fs::read_to_string(log(2)).ok()?.contains("/13] ").then_some(()));
    kill(wait_for("the second task's process", 20, || process("work", "HQ_TASK_ID=2")));
    // The last task's log ends with the tables.
    wait_for("the tables", 120, || fs::read_to_string(log(5)).ok()?.contains("\ntables: ").then_some(()));
    let logs = logs(&jobs);
    assert_same_tables(&expected, &shop.tables(OUT));
    let all: String = logs.iter().map(|(name, text)| format!("==> {name}\n{text}")).collect();
    assert!(fs::read_to_string(log(2)).unwrap().contains("the worker ended with exit code 137"), "{all}");
    assert_nothing_is_computed_twice(&logs, 1);
}
