//! What is written for a shell, and where things lie for the other machines of a cluster.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::Job;
use crate::fault::Fault;

/// A word as a shell takes it: as it is where it is plain, else in single quotes.
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-=:/+,@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// A command as a shell takes it.
pub fn line(words: &[String]) -> String {
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// The file that the recipe's copy goes to, so that what was submitted is what is computed.
pub const RECIPE: &str = "recipe.toml";

/// What a script does before all else, and the program in `main`.
///
/// A recipe that was changed meanwhile ends it: its cells would be those of another study than the one that was checked.
pub fn begin(job: &Job, arguments: &[String]) -> String {
    let mut text = String::new();
    for (name, value) in &job.environment {
        text += &format!("export {name}={}\n", quoted(value));
    }
    text += &format!("cd {} || exit 1\n", quoted(&job.folder));
    if let Some(recipe) = &job.recipe {
        let copy = format!("{}/{RECIPE}", job.jobs);
        text += &format!(
            "if [ \"$(cat {})\" != \"$(cat {})\" ]; then\n    echo {} >&2\n    exit 2\nfi\n",
            quoted(recipe),
            quoted(&copy),
            quoted(&format!("{recipe} was changed since it was submitted; calipr submit again, with what it is now")),
        );
    }
    let command: Vec<String> = std::iter::once(&job.program).chain(arguments).cloned().collect();
    text + &format!("main() {{ exec {}; }}\n", line(&command))
}

/// Runs `main` and waits for it, whatever signals come meanwhile; leaves its exit code in `code`.
pub const WAIT: &str = include_str!("wait.sh");

/// Refuses what no line of a script can have.
///
/// # Errors
/// Where a path or an argument has a line break.
pub fn check(job: &Job) -> Result<()> {
    let words = [&job.program, &job.folder, &job.jobs].into_iter().chain(&job.work).chain(&job.run).chain(&job.options);
    match words.into_iter().find(|word| word.contains(['\n', '\r', '\0'])) {
        Some(word) => Err(Fault(format!("{word:?} has a line break, which a job's script cannot")).into()),
        None => Ok(()),
    }
}

/// The working folder by the name that the user has for it, which on clusters may lead to it on every machine where the
/// name that the system has for it here does not.
///
/// # Errors
/// Where it is gone, or may not be looked at.
pub fn working_folder() -> std::io::Result<PathBuf> {
    let here = env::current_dir()?;
    let named = env::var_os("PWD").map(PathBuf::from).filter(|path| path.is_absolute());
    Ok(named.filter(|path| path.canonicalize().is_ok_and(|path| path == here)).unwrap_or(here))
}

/// Whether a folder lies where other machines of a cluster have one of their own.
pub fn is_of_one_machine(folder: &Path) -> bool {
    let usual = ["/tmp", "/var/tmp", "/dev/shm", "/run"].map(PathBuf::from);
    let own = env::var_os("TMPDIR").map(PathBuf::from).filter(|path| path.is_absolute() && *path != Path::new("/"));
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    usual.into_iter().chain(own).any(|of_one| folder.starts_with(&of_one) || real(folder).starts_with(real(&of_one)))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_shell_takes_words_as_they_were() {
        for word in
            ["plain", "two words", "it's", "\"$HOME\" `x` \\ \\n", "", "a=[0.5, \"2:4\"]", "ü", "*", "~", "#", "!!"]
        {
            let said = Command::new("bash").args(["-c", &format!("printf %s {}", quoted(word))]).output().unwrap();
            assert_eq!(String::from_utf8(said.stdout).unwrap(), word);
        }
        assert_eq!(quoted("--set=grid.seed=1"), "--set=grid.seed=1");
    }

    #[test]
    fn a_line_break_is_refused() {
        let mut job = crate::cluster::tests::job();
        assert!(check(&job).is_ok());
        job.folder += "\nrm";
        assert!(check(&job).unwrap_err().to_string().contains("line break"));
    }

    #[test]
    fn temporary_folders_are_of_one_machine() {
        assert!(is_of_one_machine(Path::new("/tmp/cache")) && is_of_one_machine(Path::new("/dev/shm")));
        assert!(!is_of_one_machine(Path::new("/home/me/tmp")) && !is_of_one_machine(Path::new("/tmpfs/x")));
    }
}
