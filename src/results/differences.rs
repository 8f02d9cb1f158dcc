//! What the results of two runs of one study may differ by.

use std::collections::BTreeMap;

use super::{DataEntry, Manifest};
use crate::digest::Digest;

/// Something that is not the same in two runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub what: String,
    /// None where there was none.
    pub recorded: Option<String>,
    pub now: Option<String>,
    /// Whether it makes another study of it: of other files, tokens or templates. Versions and machines do not.
    pub is_of_the_study: bool,
}

impl Manifest {
    /// What is different in another run of the same recipe: what it was, and what it is there.
    pub fn differences(&self, now: &Self) -> Vec<Difference> {
        let mut found = Vec::new();
        let mut compare = |what: String, recorded: Option<String>, now: Option<String>, is_of_the_study: bool| {
            if recorded != now {
                found.push(Difference { what, recorded, now, is_of_the_study });
            }
        };
        for (what, recorded, now) in both(&self.study_facts(), &now.study_facts()) {
            compare(what, recorded, now, true);
        }
        for (what, recorded, now) in both(&self.run_facts(), &now.run_facts()) {
            compare(what, recorded, now, false);
        }
        found
    }

    /// Digests of all that the study's values come of.
    fn study_facts(&self) -> Vec<(String, String)> {
        let mut facts = Vec::new();
        for (file, digest) in &self.model.files {
            facts.push((format!("the model's {file}"), digest.clone()));
        }
        facts.push(("the tokenizer".into(), self.model.tokenizer.digest.clone()));
        for (name, template) in &self.model.chat_templates {
            facts.push((format!("the chat template {name}"), Digest::of_bytes(template.as_bytes()).to_string()));
        }
        for (name, checkpoint) in &self.checkpoints {
            for (file, digest) in &checkpoint.files {
                facts.push((format!("{file} of checkpoint.{name}"), digest.clone()));
            }
        }
        for (source, author) in &self.authors {
            for (file, digest) in &author.files {
                facts.push((format!("{file} of {source}, which writes texts"), digest.clone()));
            }
        }
        for (name, entry) in &self.datasets {
            facts.push((format!("the definition of the data set {name}"), entry.definition.digest().to_string()));
        }
        let data =
            |what: String, entry: &DataEntry| (format!("the data of {what}, {}", entry.source), entry.digest.clone());
        for (name, entry) in &self.calibrations {
            facts.extend(entry.data.iter().map(|entry| data(format!("calibration.{name}"), entry)));
            for drawn in &entry.drawn {
                facts.push((format!("the tokens of calibration.{name}, seed {}", drawn.seed), drawn.digest.clone()));
            }
        }
        for (name, entry) in &self.suites {
            facts.push(data(format!("suite.{name}"), &entry.data));
            facts.extend(entry.shots.iter().map(|shots| data(format!("the shots of suite.{name}"), shots)));
            facts.push((format!("the tokens of suite.{name}"), entry.digest.clone()));
        }
        facts
    }

    /// Versions and the machine.
    fn run_facts(&self) -> Vec<(String, String)> {
        let machine = &self.machine;
        let versions = self.versions.iter().map(|(name, version)| (format!("{name}'s version"), version.clone()));
        let mut facts: Vec<(String, String)> = versions.collect();
        facts.push(("operating system".into(), machine.os.clone()));
        facts.push(("architecture".into(), machine.architecture.clone()));
        facts.extend(machine.cpu.clone().map(|cpu| ("processor".into(), cpu)));
        facts.push(("threads".into(), machine.threads.to_string()));
        facts.push(("device".into(), machine.device.clone()));
        facts.extend(machine.device_name.clone().map(|name| ("name of the device".into(), name)));
        facts
    }
}

/// Facts of two runs by what they are of, in the order of the first.
fn both(recorded: &[(String, String)], now: &[(String, String)]) -> Vec<(String, Option<String>, Option<String>)> {
    let values = |facts: &[(String, String)]| facts.iter().cloned().collect::<BTreeMap<String, String>>();
    let (was, is) = (values(recorded), values(now));
    let added = now.iter().filter(|(what, _)| !was.contains_key(what));
    let facts = recorded.iter().chain(added).map(|(what, _)| what);
    facts.map(|what| (what.clone(), was.get(what).cloned(), is.get(what).cloned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_that_only_one_run_has_are_there_too() {
        let fact = |what: &str, value: &str| (what.to_owned(), value.to_owned());
        let some = |text: &str| Some(text.to_owned());
        let found = both(&[fact("b", "1"), fact("a", "2")], &[fact("c", "3"), fact("a", "4")]);
        assert_eq!(
            found,
            [("b".into(), some("1"), None), ("a".into(), some("2"), some("4")), ("c".into(), None, some("3"))]
        );
    }
}
