//! HyperQueue: one job, whose last task waits for the others, by `hq job submit-file`.
//!
//! The file is what HyperQueue calls a job definition file (docs/jobs/jobfile.md there). Of 0.26 its source was read and its
//! server and workers tried: a task that fails takes with it those that wait for it, the files of both outputs are
//! written over where they are one, and a task is told to end by SIGINT.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Serialize;

use super::shell::{WAIT, begin, check, quoted};
use super::{Engine, Job, Waiting, Written};

pub struct HyperQueue;

const WORKERS: &str = "hq-workers.sh";
const TABLES: &str = "hq-tables.sh";
const FILE: &str = "hq.toml";

/// Processors of a worker with a GPU, so that a node with several takes several workers.
const BESIDE_GPU: usize = 4;

/// What the file says of a job.
#[derive(Serialize)]
struct Definition {
    name: String,
    task: Vec<Task>,
}

#[derive(Serialize)]
struct Task {
    id: usize,
    command: [String; 2],
    cwd: String,
    stdout: &'static str,
    stderr: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    deps: Vec<usize>,
    request: [Request; 1],
}

#[derive(Serialize)]
struct Request {
    #[serde(skip_serializing_if = "Option::is_none")]
    time_request: Option<String>,
    resources: BTreeMap<&'static str, Amount>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Amount {
    Of(u64),
    All(&'static str),
}

impl Engine for HyperQueue {
    fn files(&self, job: &Job) -> Result<Vec<Written>> {
        check(job)?;
        let task = |id, script: &str, deps| Task {
            id,
            command: ["bash".into(), format!("{}/{script}", job.jobs)],
            cwd: job.folder.clone(),
            stdout: "none",
            stderr: "none",
            deps,
            request: [request(job)],
        };
        let workers: Vec<usize> = (1..=job.workers).collect();
        let mut tasks: Vec<Task> = workers.iter().map(|&id| task(id, WORKERS, vec![])).collect();
        tasks.push(task(job.workers + 1, TABLES, workers));
        let definition = Definition { name: format!("calipr-{}", job.name), task: tasks };
        let of_workers = "Each takes cells that nobody has taken, one after the other, until none is left.";
        let of_tables = "Finds every cell in the cache, computes what is left, and makes the tables.";
        // The tables are made after the workers however these ended, and a task that fails would take theirs with it.
        let ends_well = "[ \"$code\" -eq 0 ] || echo \"the worker ended with exit code $code\" >&2\nexit 0\n";
        Ok(vec![
            Written { name: WORKERS, text: script(job, of_workers, &job.work, ends_well) },
            Written { name: TABLES, text: script(job, of_tables, &job.run, "exit \"$code\"\n") },
            Written { name: FILE, text: toml::to_string(&definition).context("the job's file")? },
        ])
    }

    fn command(&self, job: &Job, ids: &[String]) -> Option<Vec<String>> {
        let file = format!("{}/{FILE}", job.jobs);
        ids.is_empty().then(|| hq(&job.options, &["--output-mode=quiet", "job", "submit-file", &file]))
    }

    fn id(&self, printed: &str) -> Option<String> {
        printed.lines().map(str::trim).rfind(|line| line.parse::<u64>().is_ok()).map(str::to_owned)
    }

    fn parts(&self) -> &'static [&'static str] {
        &["workers and tables"]
    }

    fn logs(&self, _: &Job, ids: &[String]) -> Option<String> {
        Some(ids.iter().map(|id| format!("hq-{id}-*.log")).collect::<Vec<_>>().join(", "))
    }

    fn cancel(&self, ids: &[String], options: &[String]) -> Vec<String> {
        hq(options, &["job", "cancel", &ids.join(",")])
    }

    fn queue(&self, ids: &[String], options: &[String]) -> Vec<String> {
        hq(options, &["--output-mode=json", "job", "info", &ids.join(",")])
    }

    fn waiting(&self, printed: &str) -> Vec<Waiting> {
        let jobs: Vec<serde_json::Value> = serde_json::from_str(printed).unwrap_or_default();
        let of_job = |job: &serde_json::Value| {
            let id = job["info"]["id"].to_string();
            let counted = ["running", "waiting"].map(|state| (state, job["info"]["task_stats"][state].as_u64()));
            counted.map(|(state, tasks)| Waiting {
                job: id.clone(),
                state: state.into(),
                tasks: tasks.unwrap_or(0) as usize,
            })
        };
        jobs.iter().flat_map(of_job).filter(|waiting| waiting.tasks > 0).collect()
    }

    fn asked(&self, job: &Job) -> String {
        let names: Vec<String> = (request(job).resources.iter())
            .map(|(name, amount)| match amount {
                Amount::Of(amount) => format!("{name} {amount}"),
                Amount::All(all) => format!("{name} {all}"),
            })
            .collect();
        format!("each asks for {} of a HyperQueue worker; others: --threads N", names.join(", "))
    }
}

/// A command of hq's, with the user's options, such as `--server-dir=DIR`.
fn hq(options: &[String], words: &[&str]) -> Vec<String> {
    let words = words.iter().map(|word| (*word).to_owned());
    std::iter::once("hq".to_owned()).chain(options.iter().cloned()).chain(words).collect()
}

fn request(job: &Job) -> Request {
    let needs = &job.needs;
    let cpus = match needs.threads {
        Some(threads) => Amount::Of(threads as u64),
        None if needs.gpus > 0 => Amount::Of((BESIDE_GPU * needs.gpus) as u64),
        None => Amount::All("all"),
    };
    let mut resources = BTreeMap::from([("cpus", cpus)]);
    // HyperQueue counts memory in mebibytes.
    resources.extend(needs.memory.map(|bytes| ("mem", Amount::Of(bytes.div_ceil(1 << 20)))));
    resources.extend(Some(needs.gpus as u64).filter(|&gpus| gpus > 0).map(|gpus| ("gpus/nvidia", Amount::Of(gpus))));
    Request { time_request: None, resources }
}

fn script(job: &Job, says: &str, arguments: &[String], ends: &str) -> String {
    // Both outputs in one file, behind what an earlier try has left there.
    let log = format!("{}/hq-", job.jobs);
    let mut text = format!("#!/bin/bash\n# {says}\nexec >>{}\"$HQ_JOB_ID-$HQ_TASK_ID.log\" 2>&1\n", quoted(&log));
    text += "echo \"job $HQ_JOB_ID, task $HQ_TASK_ID on $(hostname), $(date -u +%FT%TZ), try $HQ_INSTANCE_ID\"\n";
    text += &begin(job, arguments);
    text + include_str!("hq.sh") + WAIT + ends
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Needs;
    use crate::cluster::tests::job;

    fn file(job: &Job) -> toml::Table {
        HyperQueue.files(job).unwrap().pop().unwrap().text.parse().unwrap()
    }

    #[test]
    fn the_last_task_waits_for_all_others() {
        let job = Job { workers: 3, ..job() };
        let file = file(&job);
        assert_eq!(file["name"].as_str(), Some("calipr-tiny"));
        let tasks = file["task"].as_array().unwrap();
        let deps: Vec<String> =
            tasks.iter().map(|task| task.get("deps").map_or("-".into(), ToString::to_string)).collect();
        assert_eq!(deps, ["-", "-", "-", "[1, 2, 3]"]);
        let command = tasks[0]["command"].as_array().unwrap();
        assert_eq!(command[1].as_str(), Some("/home/o'neil/it's here/results/tiny/jobs/hq-workers.sh"));
        assert_eq!(tasks[0]["cwd"].as_str(), Some("/home/o'neil/it's here"));
        assert_eq!(tasks[0]["request"][0]["resources"]["cpus"].as_str(), Some("all"));
    }

    #[test]
    fn a_worker_that_fails_does_not_take_the_tables_with_it() {
        let files = HyperQueue.files(&job()).unwrap();
        assert!(files[0].text.ends_with("\nexit 0\n") && files[1].text.ends_with("\nexit \"$code\"\n"));
        assert!(files[0].text.contains(
            "\nexec >>'/home/o'\\''neil/it'\\''s here/results/tiny/jobs/hq-'\"$HQ_JOB_ID-$HQ_TASK_ID.log\" 2>&1\n"
        ));
    }

    #[test]
    fn needs_are_asked_for_in_its_units() {
        let of = |needs: Needs| file(&Job { needs, ..job() })["task"][0]["request"][0]["resources"].to_string();
        let needs = Needs { threads: Some(3), memory: Some((5 << 30) + 1), seconds: None, gpus: 0 };
        assert_eq!(of(needs), "{ cpus = 3, mem = 5121 }");
        assert_eq!(of(Needs { gpus: 2, ..Needs::default() }), "{ cpus = 8, \"gpus/nvidia\" = 2 }");
    }

    #[test]
    fn its_server_is_the_one_that_options_name() {
        let job = Job { options: vec!["--server-dir=/shared/hq".into()], ..job() };
        let said = HyperQueue.command(&job, &[]).unwrap().join(" ");
        assert!(said.starts_with("hq --server-dir=/shared/hq --output-mode=quiet job submit-file /home/"), "{said}");
        assert_eq!(HyperQueue.command(&job, &["1".into()]), None);
        assert_eq!(HyperQueue.cancel(&["4".into()], &job.options).join(" "), "hq --server-dir=/shared/hq job cancel 4");
    }

    #[test]
    fn tasks_that_wait_or_run_are_read() {
        let printed =
            r#"[{"info": {"id": 4, "task_stats": {"running": 2, "waiting": 1, "finished": 3, "failed": 0}}}]"#;
        let waiting = |state: &str, tasks| Waiting { job: "4".into(), state: state.into(), tasks };
        assert_eq!(HyperQueue.waiting(printed), [waiting("running", 2), waiting("waiting", 1)]);
        assert_eq!(HyperQueue.waiting("no job"), []);
        assert_eq!(HyperQueue.id("7\n").as_deref(), Some("7"));
    }
}
