//! Writing what an engine says, and giving its commands: all of it, or nothing that is left behind.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, anyhow};

use super::shell::{RECIPE, line, quoted};
use super::{Asked, EngineName, Job, Record, Waiting};

/// Variables of a Slurm job that this may run in, which say nothing of the job that is handed over, and others of Slurm's that do.
const OF_A_JOB: &str = "SLURM_";
const OF_SLURM: [&str; 3] = ["SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT"];

/// What a cluster's program would not do, in its own words.
#[derive(Debug)]
pub struct Failed(String);

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

/// What [`submit`] would write and do, for people.
///
/// # Errors
/// What the engine cannot be told.
pub fn printed(name: EngineName, job: &Job) -> Result<String> {
    let engine = name.engine();
    let mut text = String::new();
    for file in engine.files(job)? {
        text += &format!("==> {}/{} <==\n{}\n", job.jobs, file.name, file.text);
    }
    let mut ids = vec![];
    while let Some(command) = engine.command(job, &ids) {
        text += &format!("$ {}\n", line(&command));
        ids.push(engine.parts()[ids.len()].to_uppercase());
    }
    Ok(text)
}

/// Writes the job's files and a copy of its recipe, gives the engine's commands, and leaves a record.
///
/// # Errors
/// Where something cannot be written, or a command cannot be given or refuses; then what was handed over is taken back, and
/// what was written is removed.
pub fn submit(name: EngineName, job: &Job, recipe: &str, asked: Asked) -> Result<Record> {
    let engine = name.engine();
    let files = engine.files(job)?;
    let jobs = Path::new(&job.jobs);
    let mut made = Made::default();
    made.folder(jobs)?;
    made.file(&jobs.join(RECIPE), recipe)?;
    for file in &files {
        made.file(&jobs.join(file.name), &file.text)?;
    }
    let mut ids: Vec<String> = vec![];
    while let Some(command) = engine.command(job, &ids) {
        match given(&command).and_then(|said| id(name, &command, &said)) {
            Ok(id) => ids.push(id),
            Err(error) => {
                let taken_back = if ids.is_empty() { String::new() } else { take_back(name, &ids, job) };
                let remedy =
                    engine.remedy(&error.to_string()).map_or(String::new(), |remedy| format!("\n       = {remedy}"));
                return Err(anyhow!("the study is not submitted{taken_back}: {error:#}{remedy}"));
            }
        }
    }
    let record = Record { engine: name, ids, options: job.options.clone(), asked };
    record.write(jobs)?;
    made.keep();
    Ok(record)
}

/// Ends what the commands before the one that failed have handed over, and says so.
fn take_back(name: EngineName, ids: &[String], job: &Job) -> String {
    let command = name.engine().cancel(ids, &job.options);
    match given(&command) {
        Ok(_) => format!("; job {} is cancelled", ids.join(" ")),
        Err(error) => format!("; job {} is, and cannot be cancelled ({error:#}): {}", ids.join(" "), line(&command)),
    }
}

/// What of a record's jobs waits or runs.
///
/// # Errors
/// Where the engine cannot be asked, and so nobody knows.
pub fn waiting(record: &Record) -> Result<Vec<Waiting>> {
    let engine = record.engine.engine();
    let command = engine.queue(&record.ids, &record.options);
    match given(&command) {
        Ok(output) => Ok(engine.waiting(&String::from_utf8_lossy(&output.stdout))),
        // What is over for a while is forgotten.
        Err(error) if error.is::<Failed>() && error.to_string().contains("Invalid job id") => Ok(vec![]),
        Err(error) => Err(error),
    }
}

/// Runs a command of the cluster's to its end.
fn given(command: &[String]) -> Result<Output> {
    let (program, arguments) = command.split_first().context("an engine without a command")?;
    let mut process = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with(OF_A_JOB) && !OF_SLURM.contains(&&*name) {
            process.env_remove(&*name);
        }
    }
    let output = process.args(arguments).stdin(Stdio::null()).output().map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            anyhow!("{program} is not here: this is to be run where jobs are submitted, such as a login node")
        }
        _ => anyhow!("cannot run {program}: {error}"),
    })?;
    if output.status.success() {
        return Ok(output);
    }
    let said = [&output.stderr, &output.stdout].map(|bytes| String::from_utf8_lossy(bytes).trim().to_owned());
    let said: Vec<String> = said.into_iter().filter(|text| !text.is_empty()).collect();
    let said = if said.is_empty() { format!("{program} {}", output.status) } else { said.join("\n") };
    let words = said.lines().map(|line| format!("\n         {line}")).collect::<String>();
    Err(Failed(format!("`{}` is refused:{words}", line(command))).into())
}

/// The id that a command has answered with.
fn id(name: EngineName, command: &[String], output: &Output) -> Result<String> {
    let said = String::from_utf8_lossy(&output.stderr);
    said.lines().map(str::trim).filter(|line| !line.is_empty()).for_each(|line| tracing::info!("{line}"));
    let printed = String::from_utf8_lossy(&output.stdout);
    name.engine()
        .id(&printed)
        .with_context(|| format!("`{}` has answered with no job's id: {}", line(command), printed.trim()))
}

/// Writes a file that is whole or not there.
pub fn write(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let whole = || -> Result<()> {
        let mut file = tempfile::Builder::new().prefix(crate::UNFINISHED).tempfile_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.persist(path)?;
        Ok(())
    };
    whole().with_context(|| format!("cannot write {}", quoted(&path.display().to_string())))
}

/// What was made of folders and files, and is removed again unless all goes well.
#[derive(Default)]
struct Made {
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
}

impl Made {
    fn folder(&mut self, folder: &Path) -> Result<()> {
        let new: Vec<PathBuf> = folder.ancestors().take_while(|path| !path.exists()).map(Path::to_owned).collect();
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        self.folders.extend(new);
        Ok(())
    }

    fn file(&mut self, path: &Path, text: &str) -> Result<()> {
        write(path, text)?;
        self.files.push(path.to_owned());
        Ok(())
    }

    fn keep(mut self) {
        self.files.clear();
        self.folders.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // What cannot be removed does no harm; a folder with something of somebody else's stays.
        self.files.iter().for_each(|path| drop(fs::remove_file(path)));
        self.folders.iter().for_each(|path| drop(fs::remove_dir(path)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_kept_is_removed_and_what_was_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let jobs = dir.path().join("results/tiny/jobs");
        let make = || {
            let mut made = Made::default();
            made.folder(&jobs).unwrap();
            made.file(&jobs.join("a"), "text").unwrap();
            made
        };
        drop(make());
        assert!(!dir.path().join("results").exists());
        make().keep();
        assert_eq!(fs::read_to_string(jobs.join("a")).unwrap(), "text");
        drop(make());
        assert!(jobs.exists() && !jobs.join("a").exists());
    }

    #[test]
    fn all_that_would_be_done_is_printed() {
        let text = printed(EngineName::Slurm, &crate::cluster::tests::job()).unwrap();
        let commands: Vec<&str> = text.lines().filter(|line| line.starts_with("$ ")).collect();
        assert_eq!(commands.len(), 2, "{text}");
        assert!(commands[1].contains("--dependency=afterany:WORKERS "), "{}", commands[1]);
        assert_eq!(text.matches("==> ").count(), 2);
    }
}
