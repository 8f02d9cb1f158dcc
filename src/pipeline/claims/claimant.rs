//! Who has a claim.

use std::fmt;
use std::fs;

use serde::{Deserialize, Serialize};

use crate::clock;

/// A process that claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimant {
    pub host: String,
    pub pid: u32,
    /// What tells the machine, as long as it is up, and its set of process numbers from others; None where the system does not tell.
    #[serde(default)]
    pub(super) machine: Option<String>,
    /// When the process began, in the machine's own count.
    #[serde(default)]
    pub(super) born: Option<u64>,
    /// What a scheduler calls it.
    #[serde(default)]
    pub job: Option<String>,
    /// When it claimed, in seconds since 1970 by its machine's clock: for people to read, and nothing else.
    pub since: u64,
}

impl fmt::Display for Claimant {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "process {} on {}", self.pid, self.host)?;
        self.job.as_ref().map_or(Ok(()), |job| write!(f, " ({job})"))
    }
}

impl Claimant {
    /// This process.
    pub fn this() -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        // Containers of one machine may number their processes alike.
        let namespace = fs::read_link("/proc/self/ns/pid").ok();
        let machine = boot.zip(namespace).map(|(boot, pids)| format!("{} {}", boot.trim(), pids.display()));
        let pid = std::process::id();
        Self {
            host: crate::lock::host(),
            pid,
            machine,
            born: born(pid),
            job: job(|name| std::env::var(name).ok()),
            since: clock::now().as_secs(),
        }
    }

    /// A process that is none.
    #[cfg(test)]
    pub fn simulated(machine: &str, pid: u32) -> Self {
        Self { host: machine.into(), pid, machine: Some(machine.into()), born: None, job: None, since: 0 }
    }

    /// Whether both are processes of one machine, which sees its files at once.
    pub fn is_of_machine(&self, other: &Self) -> bool {
        self.machine.is_some() && self.machine == other.machine
    }

    /// Whether it surely runs no more: only of one's own machine that can be known.
    pub fn has_ended(&self, me: &Self) -> bool {
        self.is_of_machine(me) && self.born.is_some() && born(self.pid) != self.born
    }
}

/// When a process of this machine began; None where there is none.
fn born(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in brackets, and may have any in it; a zombie has ended.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    // Field 22 of proc(5), of which the state is the third.
    fields.nth(18)?.parse().ok()
}

/// What Slurm or HyperQueue call the job that this process belongs to.
fn job(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let array = variable("SLURM_ARRAY_JOB_ID").zip(variable("SLURM_ARRAY_TASK_ID"));
    let slurm = array.map(|(job, task)| format!("{job}_{task}")).or_else(|| variable("SLURM_JOB_ID"));
    let hq = || Some(format!("{}@{}", variable("HQ_JOB_ID")?, variable("HQ_TASK_ID")?));
    slurm.or_else(hq).map(|job| format!("job {job}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one_of_its_number() {
        let me = Claimant::this();
        assert!(!me.has_ended(&me));
        if cfg!(target_os = "linux") {
            assert!(me.is_of_machine(&me));
            assert!(Claimant { born: me.born.map(|born| born + 1), ..me.clone() }.has_ended(&me));
            let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
            let claimant = Claimant { pid: child.id(), born: born(child.id()), ..me.clone() };
            assert!(claimant.born.is_some() && !claimant.has_ended(&me));
            child.kill().unwrap();
            // Killed, but nobody has asked what became of it.
            while born(child.id()).is_some() {
                std::thread::yield_now();
            }
            assert!(claimant.has_ended(&me));
            child.wait().unwrap();
        }
        let elsewhere = Claimant { machine: Some("another".into()), pid: 1, born: Some(1), ..me.clone() };
        assert!(!elsewhere.has_ended(&me) && !elsewhere.is_of_machine(&me));
    }

    #[test]
    fn schedulers_jobs_are_told_as_they_call_them() {
        let of = |set: &[(&str, &str)]| {
            job(|name| set.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string()))
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("SLURM_JOB_ID", "9")]).unwrap(), "job 9");
        let array = [("SLURM_JOB_ID", "9"), ("SLURM_ARRAY_JOB_ID", "7"), ("SLURM_ARRAY_TASK_ID", "2")];
        assert_eq!(of(&array).unwrap(), "job 7_2");
        assert_eq!(of(&[("HQ_JOB_ID", "3"), ("HQ_TASK_ID", "0")]).unwrap(), "job 3@0");
    }
}
