//! Named places at which a test lets a process kill itself: each step of taking a snapshot, of
//! taking one in, and of cutting the log behind it. Which one is told by the environment when the
//! process starts, `BOWLINE_FAILPOINT=snapshot-own-renamed`, or `..=snapshot-own-renamed:3` for the
//! third time that it is reached. They lie only on paths that are walked once for a snapshot, a
//! piece of one, or a segment, and cost a load there.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Signal, getpid, kill_process};

/// Where the environment says which one.
pub const VARIABLE: &str = "BOWLINE_FAILPOINT";

#[derive(Debug)]
struct Failpoint {
    name: String,
    /// How often it is still to be passed before.
    left: AtomicU64,
}

static CHOSEN: OnceLock<Failpoint> = OnceLock::new();

fn parse(text: &str) -> Failpoint {
    let (name, count) = match text.rsplit_once(':') {
        Some((name, count)) => (name, count.parse().unwrap_or(1)),
        None => (text, 1),
    };
    Failpoint { name: name.to_owned(), left: AtomicU64::new(count) }
}

impl Failpoint {
    /// Whether it is this one, for the last time.
    fn is_here(&self, who: &str, step: &str) -> bool {
        let step_of_it = self.name.strip_prefix(who).and_then(|rest| rest.strip_prefix('-'));
        step_of_it == Some(step) && self.left.fetch_sub(1, Ordering::Relaxed) == 1
    }
}

/// From now on the process is to end at this one.
pub fn choose(text: &str) {
    let _ = CHOSEN.set(parse(text));
}

/// The place `who-step` is reached.
pub fn reach(who: &str, step: &str) {
    if CHOSEN.get().is_some_and(|chosen| chosen.is_here(who, step)) {
        // As by kill -9: nothing more runs, nothing is flushed.
        let _ = kill_process(getpid(), Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_named_one_at_the_given_time_only() {
        let chosen = parse("log-cut:2");
        assert!(!chosen.is_here("log", "cut"), "the first time");
        assert!(!chosen.is_here("log", "cut-noted") && !chosen.is_here("lo", "g-cut"));
        assert!(chosen.is_here("log", "cut"));
        assert!(!chosen.is_here("log", "cut"), "it is over");
        assert!(parse("snapshot-own-made").is_here("snapshot-own", "made"));
    }
}
