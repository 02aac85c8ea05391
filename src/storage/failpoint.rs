//! Failpoints: named places at which a test makes the process kill itself. Each step of taking a
//! snapshot, of installing one and of compacting the log has a failpoint, and so has each step from
//! the run of a script to its reply. An environment variable
//! selects one when the process starts: `BOWLINE_FAILPOINT=snapshot-own-renamed`, or
//! `...=snapshot-own-renamed:3` for the third time that it is reached. A failpoint costs one atomic
//! load, and is reached at most once per chunk of a snapshot, per segment, per batch of the log or
//! per script.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Signal, getpid, kill_process};

/// Name of the environment variable that selects a failpoint: a named place in the code at which
/// the process kills itself, to test crash recovery.
pub const VARIABLE: &str = "BOWLINE_FAILPOINT";

#[derive(Debug)]
struct Failpoint {
    name: String,
    /// Number of times that the failpoint must still be reached before the process kills itself.
    /// The process dies when this counter drops from 1 to 0.
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
    /// Called each time that the failpoint `scope-step` is reached. Decrements the counter if this
    /// failpoint is the selected one, and returns whether the process must kill itself now.
    fn is_due(&self, scope: &str, step: &str) -> bool {
        let own_step = self.name.strip_prefix(scope).and_then(|rest| rest.strip_prefix('-'));
        own_step == Some(step) && self.left.fetch_sub(1, Ordering::Relaxed) == 1
    }
}

/// Selects the failpoint (a named place in the code) at which this process kills itself, to test
/// crash recovery. `text` is the failpoint's name; a suffix such as `:3` means the third time that
/// it is reached. Only the first call has an effect.
pub fn choose(text: &str) {
    let _ = CHOSEN.set(parse(text));
}

/// Marks a failpoint, named `scope-step`, in the code: kills the process if this failpoint was
/// selected with [`choose`] and has been reached the selected number of times.
pub fn reach(scope: &str, step: &str) {
    if CHOSEN.get().is_some_and(|chosen| chosen.is_due(scope, step)) {
        // Like kill -9: nothing else runs and nothing is flushed.
        let _ = kill_process(getpid(), Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failpoint_fires_only_at_the_configured_hit() {
        let chosen = parse("log-synced:2");
        assert!(!chosen.is_due("log", "synced"), "the first time");
        assert!(!chosen.is_due("log", "synced-twice") && !chosen.is_due("lo", "g-synced"));
        assert!(chosen.is_due("log", "synced"));
        assert!(!chosen.is_due("log", "synced"), "fires once");
        assert!(parse("snapshot-own-created").is_due("snapshot-own", "created"));
    }
}
