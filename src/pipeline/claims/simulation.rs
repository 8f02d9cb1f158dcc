//! Many workers on many machines whose file system shows changes late, whose clocks differ, and which die: a simulation in which
//! time is a number. What the protocol promises is looked at from outside, where all is known.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::claimant::Claimant;
use super::protocol::{Attempt, Ended, Protocol, Rhythm, Shared};

/// Seconds for which a machine may go on seeing what it has read, or that there was nothing to read.
const STALE: f64 = 60.0;

/// The server: files, and the time.
#[derive(Default)]
struct Server {
    now: Cell<f64>,
    files: RefCell<HashMap<String, String>>,
}

/// A machine's view: what it has read, until when it believes it.
struct Machine {
    server: Rc<Server>,
    number: usize,
    view: RefCell<HashMap<String, (f64, Option<String>)>>,
    random: RefCell<ChaCha8Rng>,
}

impl Machine {
    fn sees(&self, name: &str) -> Option<String> {
        let now = self.server.now.get();
        if let Some((until, seen)) = self.view.borrow().get(name).filter(|(until, _)| now < *until) {
            let _ = until;
            return seen.clone();
        }
        let seen = self.server.files.borrow().get(name).cloned();
        let until = now + self.random.borrow_mut().random_range(0.0..STALE);
        self.view.borrow_mut().insert(name.into(), (until, seen.clone()));
        seen
    }

    /// What it changes itself, it sees.
    fn changes(&self, name: &str, change: impl FnOnce(&mut String)) {
        let mut files = self.server.files.borrow_mut();
        let text = files.entry(name.into()).or_default();
        change(text);
        self.view.borrow_mut().insert(name.into(), (0.0, None));
    }
}

impl Shared for Rc<Machine> {
    fn create(&self, name: &str, content: &str) -> io::Result<bool> {
        if self.server.files.borrow().contains_key(name) {
            return Ok(false);
        }
        self.changes(name, |text| *text = content.into());
        Ok(true)
    }

    fn read(&self, name: &str) -> io::Result<Option<String>> {
        Ok(self.sees(name))
    }

    fn append(&self, name: &str, added: &str) -> io::Result<()> {
        self.changes(name, |text| *text += added);
        Ok(())
    }

    /// No two machines agree on the time, or on how long a second is.
    fn now(&self) -> Duration {
        let rate = 1.0 + (self.number % 5) as f64 * 1e-3;
        Duration::from_secs_f64(1e6 * self.number as f64 + rate * self.server.now.get())
    }

    fn date(&self) -> u64 {
        self.now().as_secs()
    }
}

struct Working {
    cell: usize,
    number: u32,
    until: f64,
    beat: f64,
}

struct Worker {
    protocol: Protocol<Rc<Machine>>,
    working: Option<Working>,
    /// When it looks around next.
    next: f64,
    dies: f64,
}

/// Runs a study, and gives how often each cell was computed to its end, and begun.
fn simulated(seed: u64, machines: usize, per_machine: usize, cells: usize, mortality: f64) -> (Vec<usize>, Vec<usize>) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let server = Rc::new(Server::default());
    let machines: Vec<Rc<Machine>> = (0..machines)
        .map(|number| {
            let own = RefCell::new(ChaCha8Rng::seed_from_u64(random.random()));
            Rc::new(Machine { server: server.clone(), number, view: RefCell::default(), random: own })
        })
        .collect();
    let rhythm = Rhythm::default();
    let mut born = 0;
    let mut worker = |machine: &Rc<Machine>, now: f64, random: &mut ChaCha8Rng| {
        born += 1;
        let me = Claimant::simulated(&format!("machine {}", machine.number), born);
        // The last of all live for ever, so that a study ends.
        let dies =
            if born < 400 && random.random_bool(mortality) { now + random.random_range(1.0..900.0) } else { f64::MAX };
        let protocol = Protocol::new(machine.clone(), me, rhythm);
        Worker { protocol, working: None, next: now + random.random_range(0.0..30.0), dies }
    };
    let mut workers: Vec<Worker> = vec![];
    for machine in &machines {
        workers.extend((0..per_machine).map(|_| worker(machine, 0.0, &mut random)));
    }
    let (mut begun, mut made) = (vec![0; cells], vec![0; cells]);
    let result = |cell: usize| format!("result {cell}");
    while made.contains(&0) {
        let now = server.now.get() + 1.0;
        assert!(now < 1e6, "the study does not end: {made:?}");
        server.now.set(now);
        for i in 0..workers.len() {
            if workers[i].dies <= now {
                // Another is started in its place, as a scheduler does.
                let machine = machines[random.random_range(0..machines.len())].clone();
                workers[i] = worker(&machine, now + 60.0, &mut random);
                continue;
            }
            let others: Vec<usize> = workers
                .iter()
                .enumerate()
                .filter(|(j, _)| *j != i)
                .filter_map(|(_, w)| Some(w.working.as_ref()?.cell))
                .collect();
            let Worker { protocol, working, next, .. } = &mut workers[i];
            match working {
                Some(at) if at.until <= now => {
                    assert!(protocol.shared.create(&result(at.cell), "").unwrap(), "cell {} twice", at.cell);
                    protocol.end(&at.cell.to_string(), at.number, &Ended::Done { note: Default::default() }).unwrap();
                    made[at.cell] += 1;
                    (*working, *next) = (None, now + 1.0);
                }
                Some(at) if at.beat <= now => {
                    protocol.beat(&at.cell.to_string(), at.number).unwrap();
                    at.beat = now + rhythm.beat.as_secs_f64();
                }
                Some(_) => {}
                None if *next <= now => {
                    *next = now + random.random_range(1.0..10.0);
                    let order = random.random_range(0..cells);
                    for cell in (0..cells).map(|k| (k + order) % cells) {
                        if protocol.shared.sees(&result(cell)).is_some() {
                            continue;
                        }
                        if let Attempt::Mine(number) = protocol.take(&cell.to_string(), false).unwrap() {
                            assert!(!others.contains(&cell), "two are at cell {cell} at {now}");
                            begun[cell] += 1;
                            let until = now + random.random_range(5.0..400.0);
                            let beat = now + rhythm.beat.as_secs_f64();
                            *working = Some(Working { cell, number, until, beat });
                            break;
                        }
                    }
                }
                None => {}
            }
        }
    }
    (made, begun)
}

#[test]
fn every_cell_is_made_once_on_a_file_system_that_shows_changes_late() {
    for seed in 0..20 {
        let (made, begun) = simulated(seed, 4, 2, 30, 0.0);
        assert_eq!((made, begun), (vec![1; 30], vec![1; 30]), "seed {seed}");
    }
}

#[test]
fn what_dies_is_taken_over_and_nothing_else_is_begun_twice() {
    let mut taken_over = 0;
    for seed in 0..20 {
        // Whether another is at a cell, and whether it was made before, is looked at at every step.
        let (made, begun) = simulated(seed, 4, 2, 30, 0.7);
        assert_eq!(made, vec![1; 30], "seed {seed}");
        taken_over += begun.iter().sum::<usize>() - 30;
    }
    assert!(taken_over > 20, "hardly anything died: {taken_over}");
}
