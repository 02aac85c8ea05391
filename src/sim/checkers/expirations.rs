//! Checks expirations against the true time: a read that arrives after a value's expiration does
//! not see the value, no value expires early, and a value that a read found expired does not come
//! back.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::sim::violation::{Violation, ensure};
use crate::types::{Instant, NodeId};

/// Maximum time by which a key may expire early or late while the wall clocks of a majority are
/// correct. Covers the update interval of the replicated clock, the delay of clock reports between
/// replicas, and clock drift.
pub(in crate::sim) const BOUND: Duration = Duration::from_millis(250);

/// The interval of virtual time within which a value expires. The exact time is unknown, because a
/// TTL starts when a replica applies the write.
#[derive(Clone, Copy, Debug)]
struct Lifetime {
    earliest: Instant,
    latest: Instant,
    /// Number of terms that had a leader by the time at which the value was set. If the number is
    /// larger at a later read, the leader has changed since then.
    leaders: usize,
}

/// The values that were set with an expiration, and which of them a read has found expired. All
/// values are distinct, so a value identifies its write.
#[derive(Debug, Default)]
pub(in crate::sim) struct Expirations {
    lifetimes: BTreeMap<Bytes, Lifetime>,
    /// The values that a read has found expired, each with the time of the first such read.
    expired: BTreeMap<Bytes, Instant>,
    /// Number of values that were set under one leader and found expired under a later one.
    across_leaders: u64,
}

impl Expirations {
    /// Records that `value` was set and expires between the times `earliest` and `latest`.
    /// `leaders` is the number of terms that have had a leader so far, which shows whether the
    /// leader has changed.
    pub(in crate::sim) fn set(
        &mut self,
        value: Bytes,
        earliest: Instant,
        latest: Instant,
        leaders: usize,
    ) {
        self.lifetimes.insert(value, Lifetime { earliest, latest, leaders });
    }

    /// Returns the number of values that a read found expired, and how many of these values had
    /// been set under an earlier leader.
    pub(in crate::sim) fn counts(&self) -> (u64, u64) {
        (self.expired.len() as u64, self.across_leaders)
    }

    /// Checks replica `id`'s answer to a read: the read arrived at time `asked` and was answered at
    /// time `now`. `current` is the last value written to the key; `is_shown` is true if the answer
    /// was this value, and false if the answer was that the key has no value. `leaders` is the
    /// number of terms that have had a leader so far.
    pub(in crate::sim) fn answered(
        &mut self,
        id: NodeId,
        asked: Instant,
        now: Instant,
        current: &Bytes,
        is_shown: bool,
        leaders: usize,
    ) -> Result<(), Violation> {
        let Some(Lifetime { earliest, latest, leaders: leaders_before }) =
            self.lifetimes.get(current).copied()
        else {
            return Err(Violation(format!(
                "replies match requests: no client has set the value {current:?} with an \
                 expiration time"
            )));
        };
        if is_shown {
            ensure!(
                asked <= latest + BOUND,
                "reads wait for the clock: replica {id} returned the value {current:?} to a read \
                 that arrived at time {asked:?}, but the value expired at time {latest:?}"
            );
            ensure!(
                self.expired.get(current).is_none_or(|expired| asked <= *expired),
                "reads wait for the clock: replica {id} returned the value {current:?} to a read \
                 that arrived at time {asked:?}, but an earlier read had found the value expired"
            );
            return Ok(());
        }
        ensure!(
            now + BOUND >= earliest,
            "agreed clock: replica {id} answered a read at time {now:?} as if the value \
             {current:?} had expired, but the value expires only at time {earliest:?}"
        );
        if !self.expired.contains_key(current) {
            self.expired.insert(current.clone(), now);
            self.across_leaders += u64::from(leaders > leaders_before);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant(millis * 1_000_000)
    }

    #[test]
    fn checker_detects_early_late_and_reverted_key_expirations() {
        let value = Bytes::from_static(b"v");
        let mut expirations = Expirations::default();
        expirations.set(value.clone(), at(1_000), at(1_010), 1);
        let mut answered = |asked, now, is_shown| {
            expirations.answered(NodeId(1), at(asked), at(now), &value, is_shown, 2).is_ok()
        };
        assert!(answered(1_260, 1_300, true) && !answered(1_261, 1_300, true));
        assert!(answered(700, 750, false) && !answered(700, 749, false));
        assert!(answered(750, 800, true), "both reads were in progress");
        assert!(!answered(751, 800, true));
        assert_eq!(expirations.counts(), (1, 1));
    }
}
