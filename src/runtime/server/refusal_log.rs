//! Limits the log lines about refused connections of clients and peers: equal ones appear at most
//! once per [`LOG_INTERVAL`].

use std::time::Duration;

use crate::types::Instant;

/// Minimum interval between two log lines about equal refusals. A refused peer tries again twice a
/// second.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum number of distinct refusals for which the time of the last log line is kept.
const LOGGED_MAX: usize = 16;

/// A refusal, with the time of the last log line about it.
#[derive(Debug)]
struct Logged<E> {
    error: E,
    at: Instant,
    /// Number of refusals equal to this one that have not been logged since that log line.
    suppressed: u64,
}

/// Limits how often equal refusals of connections are logged.
#[derive(Debug)]
pub(super) struct RefusalLog<E> {
    /// The most recently logged distinct refusals, at most [`LOGGED_MAX`] of them.
    logged: Vec<Logged<E>>,
}

impl<E> Default for RefusalLog<E> {
    fn default() -> RefusalLog<E> {
        RefusalLog { logged: Vec::new() }
    }
}

impl<E: Clone + PartialEq> RefusalLog<E> {
    /// Counts a refusal. If it must be logged now, returns the number of equal refusals that were
    /// not logged since the last log line about them; otherwise returns `None`.
    pub(super) fn count(&mut self, error: &E, now: Instant) -> Option<u64> {
        let at = self.logged.iter().position(|logged| logged.error == *error);
        if let Some(at) = at
            && now < self.logged[at].at + LOG_INTERVAL
        {
            self.logged[at].suppressed += 1;
            return None;
        }
        let suppressed = at.map_or(0, |at| self.logged.remove(at).suppressed);
        if self.logged.len() == LOGGED_MAX {
            self.logged.remove(0);
        }
        self.logged.push(Logged { error: error.clone(), at: now, suppressed: 0 });
        Some(suppressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_refusals_of_peers_are_logged_at_intervals() {
        let mut log = RefusalLog::default();
        let later = Instant::ZERO + LOG_INTERVAL;
        let mut count = |error, at| log.count(&error, at);
        assert_eq!(count(1, Instant(0)), Some(0));
        assert_eq!(count(2, Instant(0)), Some(0));
        assert_eq!(count(1, Instant(1)), None);
        assert_eq!(count(1, Instant(2)), None);
        assert_eq!(count(1, later), Some(2));
        assert_eq!(count(1, later), None);
        for number in 10..1_000 {
            assert_eq!(count(number, later), Some(0));
        }
        assert_eq!(log.logged.len(), LOGGED_MAX);
    }
}
