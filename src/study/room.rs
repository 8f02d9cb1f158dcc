//! What is said of room in the cache: before a study runs, and when something has to go.

use std::time::{Duration, SystemTime};

use crate::pipeline::{Cache, KnownStudy, Limit, LimitBy, Room, Trimmed, Usage};

/// Whoever ran a study so lately may come back to it.
const LATELY: Duration = Duration::from_secs(7 * 86_400);

/// Studies that are named where entries of many go.
const NAMED: usize = 3;

/// Makes room in the cache while a study runs, and says what went.
pub struct Keeper<'a> {
    pub cache: &'a Cache,
    pub limit: &'a Limit,
    /// The study that runs, where it could be noted.
    pub own: Option<KnownStudy>,
    /// What is said once, though it goes on with every cell.
    pub said: Said,
}

#[derive(Default)]
pub struct Said {
    own: bool,
    beyond: bool,
}

impl Keeper<'_> {
    /// Makes room down to the cache's limit.
    pub fn make_room(&mut self) {
        let (limit, trimmed) = (self.limit, self.cache.trim(self.limit.size));
        if trimmed.entries() > 0 {
            self.tell(&trimmed);
        }
        if let Some(error) = &trimmed.refused {
            tracing::warn!("the cache cannot make room down to its limit of {limit}: {error:#}");
        }
        if trimmed.beyond.0 > 0 && !std::mem::replace(&mut self.said.beyond, true) {
            tracing::warn!(
                "the cache holds {} more than its limit of {limit}: running studies need all of it, and nothing that they \
                 need goes",
                trimmed.beyond
            );
        }
    }

    /// Says whose entries went.
    fn tell(&mut self, trimmed: &Trimmed) {
        let (limit, gone) = (self.limit, gone(trimmed));
        let is_own = |study: &KnownStudy| self.own.as_ref().is_some_and(|own| own.is(study));
        let others: Vec<&KnownStudy> = trimmed.studies.iter().filter(|study| !is_own(study)).collect();
        if others.is_empty() && !trimmed.studies.is_empty() {
            match std::mem::replace(&mut self.said.own, true) {
                false => tracing::info!(
                    "the cache's limit of {limit} is less than this study keeps: pruned blocks of cells that are done make \
                     room ({gone}); a suite that is added later prunes those cells again"
                ),
                true => tracing::debug!("the study's own entries made room: {gone}"),
            }
            return;
        }
        let text = format!("made room in the cache down to its limit of {limit}: {gone}{}", names(&others));
        match others.iter().any(|study| is_lately(study.ran)) {
            true => tracing::warn!("{text}; {}", remedy(limit)),
            false => tracing::info!("{text}"),
        }
    }
}

/// How long ago, to the unit that matters.
pub fn ago(time: SystemTime) -> String {
    let seconds = time.elapsed().map_or(0, |e| e.as_secs());
    match seconds {
        0..60 => "just now".into(),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..86_400 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

fn is_lately(time: SystemTime) -> bool {
    time.elapsed().unwrap_or_default() < LATELY
}

/// What went: how much, of what, and when it was last used.
pub fn gone(trimmed: &Trimmed) -> String {
    let of = |usage: &Usage| format!("{} {}", usage.kind, usage.entries);
    let stages = trimmed.gone.iter().map(of).collect::<Vec<_>>().join(", ");
    let entries = if trimmed.entries() == 1 { "entry" } else { "entries" };
    let used = trimmed.used().map_or(String::new(), |used| format!(", last used {}", ago(used)));
    format!("{} {entries}, {} ({stages}){used}", trimmed.entries(), trimmed.size())
}

/// By which studies, the one that ran last first.
fn names(studies: &[&KnownStudy]) -> String {
    let said = |study: &&KnownStudy| format!("{} (run {})", study.name, ago(study.ran));
    let mut names: Vec<String> = studies.iter().take(NAMED).map(said).collect();
    if studies.len() > NAMED {
        names.push(format!("{} others", studies.len() - NAMED));
    }
    match names.len() {
        0 => String::new(),
        1 => format!(", by the study {}", names[0]),
        _ => format!(", by the studies {}", names.join(", ")),
    }
}

/// What lets the cache hold more.
fn remedy(limit: &Limit) -> &'static str {
    match limit.by {
        LimitBy::Argument => "a larger --cache-size lets the cache hold more",
        LimitBy::Variable => "a larger CALIPR_CACHE_SIZE lets the cache hold more",
        LimitBy::File(_) | LimitBy::Default => "`calipr cache limit SIZE` lets the cache hold more",
    }
}

/// What a study will need and what is free, for its plan.
pub fn lines(room: &Room) -> String {
    let needed = match (room.is_all, room.needed.0) {
        (false, 0) => "what will be added is not known yet".into(),
        (false, _) => format!("more than {} to be added", room.needed),
        (true, _) => format!("{} to be added", room.needed),
    };
    let mut text = format!("cache: {needed}, {} free of {}\n", room.free(), room.limit);
    if room.evicted().0 > 0 {
        text += &format!("       {} of what was used least recently will make room\n", room.evicted());
    }
    text + &match (room.disk, room.results_disk) {
        (Some(cache), Some(results)) => format!("disks: {cache} free for the cache, {results} for the results\n"),
        (Some(disk), None) => format!("disk: {disk} free\n"),
        _ => String::new(),
    }
}

/// Warns where a study will not find room.
pub fn warn(room: &Room, cache: &Cache) {
    let Room { limit, .. } = room;
    if let (Some(added), Some(free)) = (room.fills_disk(), room.disk) {
        tracing::warn!(
            "the disk will be full before the study is done: it adds {added} to {}, where {free} are free; --cache or \
             CALIPR_CACHE names a folder on another, and with a smaller --cache-size it keeps less",
            cache.dir().display()
        );
    }
    if room.exceeds_limit() {
        tracing::warn!(
            "the study's stages take {}, more than the cache's limit of {limit}: pruned blocks will make room as soon as \
             their cell is done, and a suite that is added later prunes again; {}",
            room.whole,
            remedy(limit)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size::Size;

    fn room() -> Room {
        Room {
            needed: Size(27_000_000),
            is_all: true,
            whole: Size(127_000_000),
            largest: Size(20_000_000),
            used: Size(40_000_000_000),
            limit: Limit { size: Size(50_000_000_000), by: LimitBy::Default },
            disk: Some(Size(77_000_000_000)),
            results_disk: None,
        }
    }

    #[test]
    fn a_plan_says_what_is_needed_and_what_is_free() {
        assert_eq!(
            lines(&room()),
            "cache: 27.0 MB to be added, 10.0 GB free of 50.0 GB (the default)\ndisk: 77.0 GB free\n"
        );
        let crowded = Room {
            is_all: false,
            used: Size(49_990_000_000),
            limit: Limit { size: Size(50_000_000_000), by: LimitBy::Argument },
            results_disk: Some(Size(1_000_000_000)),
            ..room()
        };
        assert_eq!(
            lines(&crowded),
            "cache: more than 27.0 MB to be added, 10.0 MB free of 50.0 GB (--cache-size)\n       \
             17.0 MB of what was used least recently will make room\n\
             disks: 77.0 GB free for the cache, 1.0 GB for the results\n"
        );
        let unknown = Room { needed: Size(0), is_all: false, disk: None, ..room() };
        assert!(lines(&unknown).starts_with("cache: what will be added is not known yet, 10.0 GB free"));
    }
}
