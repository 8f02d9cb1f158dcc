//! How far a study is that several processes work on: what is done, what runs where, what failed, and how long it will take.

use std::collections::BTreeMap;

use crate::pipeline::Left;
use crate::table::Table;

/// A cell, and how it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    pub cell: String,
    /// What cells that take about as long have in common.
    pub method: String,
    pub state: State,
    /// How long a cell that is done took, or one that runs has been running; None where nobody knows.
    pub seconds: Option<f64>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum State {
    Free,
    /// None where it cannot be seen yet who.
    Held(Option<Holder>),
    Done,
    Failed(String),
}

/// Who computes a cell.
#[derive(Debug, Clone, PartialEq)]
pub struct Holder {
    pub host: String,
    pub pid: u32,
    /// What a scheduler calls it, such as `job 12_0`.
    pub job: Option<String>,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match &self.job {
            Some(job) => write!(f, "{}, {job}", self.host),
            None => write!(f, "{}, process {}", self.host, self.pid),
        }
    }
}

fn duration(seconds: f64) -> String {
    Left { seconds, is_rough: false }.to_string()
}

/// `1 cell`, `2 cells`.
fn counted(n: usize, unit: &str) -> String {
    format!("{n} {unit}{}", if n == 1 { "" } else { "s" })
}

/// What a person is told of a study's cells; `tables` is the folder that has the tables of all of them.
pub fn standing(name: &str, cells: &[Standing], tables: Option<&str>, columns: Option<usize>) -> String {
    let count = |is: fn(&State) -> bool| cells.iter().filter(|cell| is(&cell.state)).count();
    let [done, running, failed, free] = [
        count(|state| matches!(state, State::Done)),
        count(|state| matches!(state, State::Held(_))),
        count(|state| matches!(state, State::Failed(_))),
        count(|state| matches!(state, State::Free)),
    ];
    let mut parts = vec![format!("{done} of {} done", counted(cells.len(), "cell"))];
    let mut part = |n: usize, state: &str| parts.extend((n > 0).then(|| format!("{n} {state}")));
    part(running, "running");
    part(failed, "failed");
    part(free, "to come");
    let mut text = format!("{name}: {}\n", parts.join(", "));
    let mut table = Table::new(["cell", "state", "where", "time"]).right([3]);
    for cell in cells {
        let (state, place) = match &cell.state {
            State::Free => ("to come", String::new()),
            State::Held(holder) => ("running", holder.as_ref().map_or("?".into(), Holder::to_string)),
            State::Done => ("done", String::new()),
            State::Failed(_) => ("failed", String::new()),
        };
        let seconds = cell.seconds.filter(|_| !matches!(cell.state, State::Free));
        table.row([cell.cell.clone(), state.into(), place, seconds.map_or(String::new(), duration)]);
    }
    text += &format!("\n{}", table.fitting(columns));
    for cell in cells {
        if let State::Failed(why) = &cell.state {
            text += &format!("\n{} failed: {why}\n", cell.cell);
        }
    }
    text + &format!("\n{}\n", outlook(cells, tables))
}

/// What is to be expected of what is not done.
fn outlook(cells: &[Standing], tables: Option<&str>) -> String {
    let is_left = |cell: &&Standing| matches!(cell.state, State::Free | State::Held(_));
    let failed = cells.iter().filter(|cell| matches!(cell.state, State::Failed(_))).count();
    if !cells.iter().any(|cell| is_left(&cell)) {
        return match (failed, tables) {
            (0, Some(folder)) => format!("all cells are done, and the tables are in {folder}"),
            (0, None) => "all cells are done; `calipr run` makes the tables, where they are not made yet".into(),
            _ => "nothing is left but what failed, which `calipr run` tries again".into(),
        };
    }
    let mut workers: Vec<(&str, u32)> = cells
        .iter()
        .filter_map(|cell| match &cell.state {
            State::Held(Some(holder)) => Some((holder.host.as_str(), holder.pid)),
            _ => None,
        })
        .collect();
    workers.sort_unstable();
    workers.dedup();
    let time = seconds_left(cells, workers.len().max(1)).map(duration);
    match (workers.len(), time) {
        (0, Some(time)) => format!("nobody works on it; one worker would take about {time}"),
        (0, None) => "nobody works on it".into(),
        (n, Some(time)) => format!("{} at work; about {time} left", counted(n, "worker")),
        (n, None) => format!("{} at work; how long it will take is known when a cell is done", counted(n, "worker")),
    }
}

/// The time until all is done, where so many work side by side: of each cell what those of its method took on average, or all
/// did where none is done yet, less what those that run have been at it. Never less than the longest of these still takes.
fn seconds_left(cells: &[Standing], workers: usize) -> Option<f64> {
    let mut took: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for cell in cells.iter().filter(|cell| cell.state == State::Done) {
        took.entry(&cell.method).or_default().extend(cell.seconds);
    }
    let mean = |seconds: &[f64]| (!seconds.is_empty()).then(|| seconds.iter().sum::<f64>() / seconds.len() as f64);
    let overall = mean(&took.values().flatten().copied().collect::<Vec<_>>())?;
    let left = cells.iter().filter_map(|cell| {
        let whole = took.get(cell.method.as_str()).and_then(|seconds| mean(seconds)).unwrap_or(overall);
        match cell.state {
            State::Free => Some(whole),
            State::Held(_) => Some((whole - cell.seconds.unwrap_or(0.0)).max(0.0)),
            State::Done | State::Failed(_) => None,
        }
    });
    let left: Vec<f64> = left.collect();
    let longest = left.iter().copied().fold(0.0, f64::max);
    Some((left.iter().sum::<f64>() / workers as f64).max(longest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(cell: &str, method: &str, state: State, seconds: Option<f64>) -> Standing {
        Standing { cell: cell.into(), method: method.into(), state, seconds }
    }

    fn held(pid: u32, job: Option<&str>) -> State {
        State::Held(Some(Holder { host: "n1".into(), pid, job: job.map(str::to_owned) }))
    }

    #[test]
    fn what_is_done_what_runs_where_and_what_failed_is_said() {
        let cells = [
            cell("dense", "dense", State::Done, Some(20.0)),
            cell("wanda-0.5-a-s0", "wanda", State::Done, Some(100.0)),
            cell("wanda-0.6-a-s0", "wanda", held(7, Some("job 12_0")), Some(40.0)),
            cell("wanda-0.7-a-s0", "wanda", held(9, None), None),
            cell("wanda-0.8-a-s0", "wanda", State::Failed("not positive definite".into()), None),
            cell("wanda-0.9-a-s0", "wanda", State::Free, None),
        ];
        let expected = "\
tiny: 2 of 6 cells done, 2 running, 1 failed, 1 to come

cell            state    where              time
dense           done                        20 s
wanda-0.5-a-s0  done                2 min
wanda-0.6-a-s0  running  n1, job 12_0         40 s
wanda-0.7-a-s0  running  n1, process 9
wanda-0.8-a-s0  failed
wanda-0.9-a-s0  to come

wanda-0.8-a-s0 failed: not positive definite

2 workers at work; about 2 min left
";
        let squeezed = |text: &str| {
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
        };
        // 60 of what runs, 100 of what runs for nobody knows how long, 100 of what is to come: 260 for two.
        assert_eq!(squeezed(&standing("tiny", &cells, None, None)), squeezed(expected));
    }

    #[test]
    fn time_that_is_left_is_the_methods_own_by_the_workers() {
        let done = |method: &str, seconds| cell("x", method, State::Done, Some(seconds));
        let free = |method: &str| cell("y", method, State::Free, None);
        let cells =
            [done("wanda", 10.0), done("wanda", 20.0), done("sparsegpt", 60.0), free("wanda"), free("sparsegpt")];
        assert_eq!(seconds_left(&cells, 1), Some(75.0));
        // Two cells end no sooner than the longer one.
        assert_eq!(seconds_left(&cells, 2), Some(60.0));
        // A method that nobody has seen takes what the others do.
        assert_eq!(seconds_left(&[done("wanda", 10.0), done("sparsegpt", 30.0), free("magnitude")], 1), Some(20.0));
        // One that takes longer than its like is about to end.
        let late = cell("z", "wanda", held(1, None), Some(50.0));
        assert_eq!(seconds_left(&[done("wanda", 10.0), late], 1), Some(0.0));
        assert_eq!(seconds_left(&[free("wanda")], 3), None);
    }

    #[test]
    fn a_study_that_nobody_works_on_says_so() {
        let done = cell("a", "wanda", State::Done, Some(30.0));
        let last = |cells: &[Standing]| standing("s", cells, None, None).lines().last().unwrap().to_owned();
        assert_eq!(
            last(&[done.clone(), cell("b", "wanda", State::Free, None)]),
            "nobody works on it; one worker would take about 30 s"
        );
        assert_eq!(last(&[cell("b", "wanda", State::Free, None)]), "nobody works on it");
        assert!(last(std::slice::from_ref(&done)).starts_with("all cells are done; `calipr run` makes the tables"));
        let said = standing("s", std::slice::from_ref(&done), Some("results/s"), None);
        assert!(said.ends_with("\nall cells are done, and the tables are in results/s\n"), "{said}");
        assert!(
            last(&[done, cell("b", "wanda", State::Failed("x".into()), None)])
                .starts_with("nothing is left but what failed")
        );
        // Two devices of one process are one worker.
        let two = [cell("a", "wanda", held(1, None), None), cell("b", "wanda", held(1, None), None)];
        assert!(last(&two).starts_with("1 worker at work; how long"), "{}", last(&two));
    }
}
