//! Slurm: workers as an array of jobs, and a job that depends on it, both by sbatch.
//!
//! What is written is plain scripts with `#SBATCH` lines; variables (`SBATCH_PARTITION`, …) go before these, and options of the
//! command line before both, as sbatch has it. Read in the manual pages of 22.05 and tried on its daemons.

use anyhow::Result;

use super::shell::{WAIT, begin, check};
use super::{Engine, Job, Waiting, Written};
use crate::fault::Fault;

pub struct Slurm;

const WORKERS: &str = "workers.sh";
const TABLES: &str = "tables.sh";

/// Processors of a worker where nothing else says: most nodes have as many, and a share of a node starts sooner than all of it.
const PROCESSORS: usize = 8;

/// How long before its time limit a worker is told, in seconds: a block is computed and saved in less, and Slurm may be a minute
/// early.
const NOTICE: usize = 120;

/// Options of which at most one is given, and what sbatch reads in their place: its variables, and the short form.
struct Rivals {
    long: &'static [&'static str],
    short: Option<char>,
    variables: &'static [&'static str],
}

const MEMORY: Rivals = Rivals {
    long: &["--mem", "--mem-per-cpu", "--mem-per-gpu"],
    short: None,
    variables: &["SBATCH_MEM_PER_NODE", "SBATCH_MEM_PER_CPU", "SBATCH_MEM_PER_GPU"],
};
const TIME: Rivals = Rivals { long: &["--time"], short: Some('t'), variables: &["SBATCH_TIMELIMIT"] };
const CPUS: Rivals = Rivals {
    long: &["--cpus-per-task", "--cpus-per-gpu"],
    short: Some('c'),
    variables: &["SBATCH_CPUS_PER_TASK", "SBATCH_CPUS_PER_GPU"],
};
const GPUS: Rivals = Rivals {
    long: &["--gres", "--gpus", "--gpus-per-node", "--gpus-per-task", "--gpus-per-socket"],
    short: Some('G'),
    variables: &[
        "SBATCH_GRES",
        "SBATCH_GPUS",
        "SBATCH_GPUS_PER_NODE",
        "SBATCH_GPUS_PER_TASK",
        "SBATCH_GPUS_PER_SOCKET",
    ],
};
/// The variable since 23.02.
const OUTPUT: Rivals = Rivals { long: &["--output"], short: Some('o'), variables: &["SBATCH_OUTPUT"] };
const ARRAY: Rivals = Rivals { long: &["--array"], short: Some('a'), variables: &[] };

impl Rivals {
    /// What the user has given of them: the option, or the variable.
    fn given<'a>(&self, job: &'a Job) -> Option<&'a str> {
        let is_one = |option: &&str| {
            let name = option.split('=').next().unwrap_or_default();
            let is_short = |c: char| option.strip_prefix('-').is_some_and(|rest| rest.starts_with(c));
            self.long.contains(&name) || self.short.is_some_and(is_short)
        };
        let options = job.options.iter().map(String::as_str);
        let variables = job.variables.iter().map(String::as_str).filter(|name| self.variables.contains(name));
        options.filter(is_one).chain(variables).next()
    }
}

impl Engine for Slurm {
    fn files(&self, job: &Job) -> Result<Vec<Written>> {
        check(job)?;
        if job.jobs.contains('\\') {
            let said =
                "has a backslash, with which Slurm reads the names of logs otherwise; --out DIR names another folder";
            return Err(Fault(format!("{} {said}", job.jobs)).into());
        }
        if let Some(given) = ARRAY.given(job) {
            return Err(Fault(format!("{given}: --workers N says how many tasks there are")).into());
        }
        if let Some(word) = stray(&job.options) {
            let said = "is no option, and sbatch would submit it in place of calipr's script; options begin with -";
            return Err(Fault(format!("{word} {said}")).into());
        }
        let workers = format!("#SBATCH --array=0-{}\n", job.workers.saturating_sub(1));
        let of_workers = "Each takes cells that nobody has taken, one after the other, until none is left.";
        let of_tables = "Finds every cell in the cache, computes what is left, and makes the tables.";
        Ok(vec![
            Written { name: WORKERS, text: script(job, of_workers, ("", "%A_%a"), &workers, &job.work) },
            Written { name: TABLES, text: script(job, of_tables, ("-tables", "%j"), "", &job.run) },
        ])
    }

    fn command(&self, job: &Job, ids: &[String]) -> Option<Vec<String>> {
        let mut command = vec!["sbatch".to_owned(), "--parsable".to_owned()];
        command.extend(job.options.iter().cloned());
        let script = match ids {
            [] => WORKERS,
            [array] => {
                let (number, cluster) = parts(array);
                // Behind the user's: an array may wait for something else, the tables wait for the array.
                command.push(format!("--dependency=afterany:{number}"));
                command.push("--kill-on-invalid-dep=yes".into());
                command.extend(cluster.map(|cluster| format!("--clusters={cluster}")));
                TABLES
            }
            _ => return None,
        };
        command.push(format!("{}/{script}", job.jobs));
        Some(command)
    }

    fn id(&self, printed: &str) -> Option<String> {
        let is_id = |line: &&str| parts(line).0.parse::<u64>().is_ok();
        // Some sites greet first.
        printed.lines().map(str::trim).rfind(is_id).map(str::to_owned)
    }

    fn parts(&self) -> &'static [&'static str] {
        &["workers", "tables"]
    }

    fn logs(&self, job: &Job, ids: &[String]) -> Option<String> {
        let names = ids.iter().map(|id| parts(id).0).zip(["_*.log", ".log"]);
        let names = || names.map(|(id, ending)| format!("{id}{ending}")).collect::<Vec<_>>().join(", ");
        OUTPUT.given(job).is_none().then(names)
    }

    fn cancel(&self, ids: &[String], _: &[String]) -> Vec<String> {
        on_cluster("scancel", ids, |numbers| numbers)
    }

    fn queue(&self, ids: &[String], _: &[String]) -> Vec<String> {
        let listed = |numbers: Vec<String>| {
            let mut rest: Vec<String> = ["--noheader", "--array", "--format=%F %T %r"].map(str::to_owned).to_vec();
            rest.push(format!("--jobs={}", numbers.join(",")));
            rest
        };
        on_cluster("squeue", ids, listed)
    }

    fn waiting(&self, printed: &str) -> Vec<Waiting> {
        let mut all: Vec<Waiting> = vec![];
        for line in printed.lines() {
            // With --clusters, squeue begins with a line that names the cluster.
            let mut words = line.trim().splitn(3, ' ');
            let (Some(job), Some(state)) = (words.next().filter(|id| id.parse::<u64>().is_ok()), words.next()) else {
                continue;
            };
            let reason = words.next().filter(|reason| *reason != "None");
            let state = reason.map_or(state.to_owned(), |reason| format!("{state} ({reason})"));
            match all.iter_mut().find(|seen| seen.job == job && seen.state == state) {
                Some(seen) => seen.tasks += 1,
                None => all.push(Waiting { job: job.into(), state, tasks: 1 }),
            }
        }
        all
    }

    fn asked(&self, job: &Job) -> String {
        let asked = asked(job);
        let is_left = |rivals: &Rivals| {
            let is_asked = |option: &String| rivals.long.contains(&option.split('=').next().unwrap_or_default());
            !asked.iter().any(is_asked) && rivals.given(job).is_none()
        };
        let names: Vec<&str> = asked.iter().map(|option| option.trim_start_matches("--")).collect();
        let left: Vec<&str> =
            [(&MEMORY, "memory"), (&TIME, "time")].into_iter().filter(|(r, _)| is_left(r)).map(|(_, n)| n).collect();
        let names = if names.is_empty() { String::new() } else { format!("each asks for {}; ", names.join(", ")) };
        let left = if left.is_empty() {
            String::new()
        } else {
            format!("{} as the cluster has it by default; ", left.join(" and "))
        };
        format!("{names}{left}others: -- --mem=8G --time=4:00:00, or what else sbatch has")
    }

    fn remedy(&self, refusal: &str) -> Option<&'static str> {
        let is_said = |words: &str| refusal.contains(words);
        match () {
            () if is_said("Invalid job array specification") => Some(
                "--workers N asks for fewer tasks; the cluster allows as many as `scontrol show config` has as MaxArraySize",
            ),
            () if is_said("node configuration is not available") => Some(
                "-- --cpus-per-task=N or --threads N asks for fewer processors, -- --partition=NAME for other nodes",
            ),
            () => None,
        }
    }
}

/// The number and the cluster of an id as `sbatch --parsable` prints it: `123`, or `123;alpha`.
fn parts(id: &str) -> (&str, Option<&str>) {
    match id.split_once(';') {
        Some((number, cluster)) => (number, Some(cluster)),
        None => (id, None),
    }
}

/// A word among sbatch's options that is surely no option and no option's value: the first, or one that follows a long option
/// with its value.
fn stray(options: &[String]) -> Option<&str> {
    let is_whole = |option: &String| option.starts_with("--") && option.contains('=');
    let before = std::iter::once(None).chain(options.iter().map(Some));
    let mut words = options.iter().zip(before).filter(|(option, _)| !option.starts_with('-'));
    words.find(|(_, before)| before.is_none_or(is_whole)).map(|(word, _)| word.as_str())
}

/// A command on the cluster that the jobs are of.
fn on_cluster(program: &str, ids: &[String], rest: impl FnOnce(Vec<String>) -> Vec<String>) -> Vec<String> {
    let cluster = ids.first().and_then(|id| parts(id).1).map(|cluster| format!("--clusters={cluster}"));
    let numbers = ids.iter().map(|id| parts(id).0.to_owned()).collect();
    std::iter::once(program.to_owned()).chain(cluster).chain(rest(numbers)).collect()
}

/// What a worker asks for, but for what the user asks for otherwise.
fn asked(job: &Job) -> Vec<String> {
    let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
    let minutes = |seconds: f64| (seconds / 60.0).ceil() as u64;
    let processors = job.needs.threads.unwrap_or(PROCESSORS);
    let all = [
        (CPUS, Some(format!("--cpus-per-task={processors}"))),
        (MEMORY, job.needs.memory.map(|bytes| format!("--mem={}M", mebibytes(bytes)))),
        (TIME, job.needs.seconds.map(|seconds| format!("--time={}", minutes(seconds)))),
        (GPUS, Some(job.needs.gpus).filter(|&gpus| gpus > 0).map(|gpus| format!("--gres=gpu:{gpus}"))),
    ];
    all.into_iter().filter(|(rivals, _)| rivals.given(job).is_none()).filter_map(|(_, option)| option).collect()
}

const ENDS: &str = "\
if [ \"$told\" = limit ] && [ \"$code\" -eq 130 ] && requeue; then
    exit 0
fi
exit \"$code\"
";

/// `named` ends the names of the job and of its log.
fn script(job: &Job, says: &str, named: (&str, &str), array: &str, arguments: &[String]) -> String {
    let (ending, log) = named;
    // Slurm puts other things in the place of % and a letter, in folders too.
    let log = format!("{}/{log}.log", job.jobs.replace('%', "%%").replace('"', "\\\""));
    let mut text = format!("#!/bin/bash\n# {says}\n#SBATCH --job-name=calipr-{}{ending}\n{array}", job.name);
    text += &format!("#SBATCH --output=\"{log}\"\n#SBATCH --open-mode=append\n");
    text += &format!("#SBATCH --requeue\n#SBATCH --signal=B:USR1@{NOTICE}\n");
    asked(job).iter().for_each(|option| text += &format!("#SBATCH {option}\n"));
    text += "\n";
    text += "echo \"job $SLURM_JOB_ID on $(hostname), $(date -u +%FT%TZ)${SLURM_RESTART_COUNT:+, restart $SLURM_RESTART_COUNT}\"\n";
    text += &begin(job, arguments);
    text + include_str!("slurm.sh") + WAIT + ENDS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::tests::job;

    fn lines(text: &str, start: &str) -> Vec<String> {
        text.lines().filter(|line| line.starts_with(start)).map(str::to_owned).collect()
    }

    #[test]
    fn workers_are_an_array_and_tables_wait_for_it() {
        let job = job();
        let files = Slurm.files(&job).unwrap();
        assert_eq!([files[0].name, files[1].name], ["workers.sh", "tables.sh"]);
        assert_eq!(
            lines(&files[0].text, "#SBATCH"),
            [
                "#SBATCH --job-name=calipr-tiny",
                "#SBATCH --array=0-3",
                "#SBATCH --output=\"/home/o'neil/it's here/results/tiny/jobs/%A_%a.log\"",
                "#SBATCH --open-mode=append",
                "#SBATCH --requeue",
                "#SBATCH --signal=B:USR1@120",
                "#SBATCH --cpus-per-task=8",
            ]
        );
        assert!(lines(&files[1].text, "#SBATCH --array").is_empty() && files[1].text.contains("/jobs/%j.log\""));
        assert!(
            files[0]
                .text
                .contains("\nexport CALIPR_MODEL__DTYPE=bf16\ncd '/home/o'\\''neil/it'\\''s here' || exit 1\n")
        );
        let main = "main() { exec '/opt/my programs/calipr' work recipe.toml --set 'grid.sparsity=[0.5]' --cache /shared/cache; }";
        assert_eq!(lines(&files[0].text, "main()"), [main]);
        let jobs = &job.jobs;
        let words = |command: Option<Vec<String>>| command.unwrap().join(" ");
        assert_eq!(words(Slurm.command(&job, &[])), format!("sbatch --parsable {jobs}/workers.sh"));
        let after = "--dependency=afterany:12 --kill-on-invalid-dep=yes";
        assert_eq!(words(Slurm.command(&job, &["12".into()])), format!("sbatch --parsable {after} {jobs}/tables.sh"));
        assert_eq!(Slurm.command(&job, &["12".into(), "13".into()]), None);
    }

    #[test]
    fn what_the_user_asks_for_stands_in_the_place_of_what_is_usual() {
        let needs = crate::cluster::Needs { threads: Some(3), memory: Some(5 << 30), seconds: Some(5000.0), gpus: 2 };
        let asked_with = |options: &[&str], variables: &[&str]| {
            let text = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
            asked(&Job { needs, options: text(options), variables: text(variables), ..job() }).join(" ")
        };
        let all = "--cpus-per-task=3 --mem=5120M --time=84 --gres=gpu:2";
        assert_eq!(asked_with(&[], &[]), all);
        assert_eq!(asked_with(&["--partition=gpu", "--account", "me", "--qos=low"], &["SBATCH_PARTITION"]), all);
        assert_eq!(asked_with(&["--mem-per-cpu=4G", "-c", "4"], &[]), "--time=84 --gres=gpu:2");
        assert_eq!(asked_with(&["-c4", "-t5", "-Ga100:1", "--mem", "0"], &[]), "");
        // sbatch refuses --mem beside this variable.
        assert_eq!(
            asked_with(&["--gpus-per-task=1"], &["SBATCH_MEM_PER_CPU", "SBATCH_TIMELIMIT"]),
            "--cpus-per-task=3"
        );
        let job = Job { options: vec!["-a1-9".into()], ..job() };
        assert!(Slurm.files(&job).unwrap_err().to_string().starts_with("-a1-9: --workers N says"));
    }

    #[test]
    fn another_script_among_the_options_is_refused() {
        let files = |options: &[&str]| {
            Slurm.files(&Job { options: options.iter().map(|&option| option.into()).collect(), ..job() })
        };
        for options in [&["other.sh"][..], &["--mem=4G", "other.sh"], &["-p", "long", "--mem=4G", "other.sh", "x"]] {
            assert!(files(options).unwrap_err().to_string().starts_with("other.sh is no option"), "{options:?}");
        }
        for options in [&["-p", "long"][..], &["--partition", "long", "--mem=4G", "--exclusive"], &["-plong"]] {
            assert!(files(options).is_ok(), "{options:?}");
        }
    }

    #[test]
    fn a_dependency_of_the_users_is_the_arrays() {
        let job = Job { options: vec!["--dependency=afterok:7".into(), "--clusters=alpha,beta".into()], ..job() };
        let of_tables = Slurm.command(&job, &["12;beta".into()]).unwrap();
        let said: Vec<&str> = of_tables.iter().map(String::as_str).filter(|option| option.starts_with("--")).collect();
        let own = ["--dependency=afterok:7", "--clusters=alpha,beta"];
        let last = ["--dependency=afterany:12", "--kill-on-invalid-dep=yes", "--clusters=beta"];
        assert_eq!(said, [&["--parsable"][..], &own, &last].concat());
    }

    #[test]
    fn ids_are_read_with_and_without_a_cluster() {
        assert_eq!(Slurm.id("123\n").as_deref(), Some("123"));
        assert_eq!(Slurm.id("Welcome!\n 2 jobs are yours\n123;alpha\n").as_deref(), Some("123;alpha"));
        assert_eq!(Slurm.id("Submitted\n"), None);
        let ids = ["12;alpha".to_owned(), "13;alpha".to_owned()];
        assert_eq!(Slurm.cancel(&ids, &[]).join(" "), "scancel --clusters=alpha 12 13");
        assert_eq!(
            Slurm.queue(&ids[..1], &[]).join(" "),
            "squeue --clusters=alpha --noheader --array --format=%F %T %r --jobs=12"
        );
        assert_eq!(Slurm.logs(&job(), &ids).as_deref(), Some("12_*.log, 13.log"));
    }

    #[test]
    fn where_logs_go_by_an_option_of_the_users_is_not_said_to_be_elsewhere() {
        let ids = ["12".to_owned(), "13".to_owned()];
        for options in [vec!["--output=%j.txt".into()], vec!["-o".into(), "a.txt".into()], vec!["-oa.txt".into()]] {
            assert_eq!(Slurm.logs(&Job { options, ..job() }, &ids), None);
        }
        let job = Job { options: vec!["--open-mode=append".into(), "--oversubscribe".into()], ..job() };
        assert!(Slurm.logs(&job, &ids).is_some());
    }

    #[test]
    fn tasks_that_wait_or_run_are_counted() {
        let printed = "CLUSTER: alpha\n12 RUNNING None\n12 RUNNING None\n12 PENDING Resources\n13 PENDING Dependency\n";
        let waiting = |job: &str, state: &str, tasks| Waiting { job: job.into(), state: state.into(), tasks };
        let expected = [
            waiting("12", "RUNNING", 2),
            waiting("12", "PENDING (Resources)", 1),
            waiting("13", "PENDING (Dependency)", 1),
        ];
        assert_eq!(Slurm.waiting(printed), expected);
        assert_eq!(Slurm.waiting(""), []);
    }

    #[test]
    fn names_of_logs_are_written_as_slurm_reads_them() {
        let job = Job { jobs: "/a \"b\"/100%j/jobs".into(), ..job() };
        let text = &Slurm.files(&job).unwrap()[0].text;
        assert_eq!(lines(text, "#SBATCH --output"), ["#SBATCH --output=\"/a \\\"b\\\"/100%%j/jobs/%A_%a.log\""]);
        let job = Job { jobs: "/a\\b".into(), ..job };
        assert!(Slurm.files(&job).unwrap_err().to_string().contains("backslash"));
    }

    #[test]
    fn what_is_left_to_the_cluster_is_said() {
        let said = Slurm.asked(&job());
        assert!(
            said.starts_with("each asks for cpus-per-task=8; memory and time as the cluster has it by default; "),
            "{said}"
        );
        let job = Job { options: vec!["--mem=4G".into(), "-t".into(), "60".into(), "-c4".into()], ..job() };
        assert!(Slurm.asked(&job).starts_with("others: -- --mem=8G"), "{}", Slurm.asked(&job));
    }
}
