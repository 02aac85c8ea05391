//! Rules about keys that expire, by the true time: none is shown to a read that came after its
//! time, none is gone before it, and none that was seen to be gone comes back.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::sim::checkers::safety::{Violation, demand};
use crate::types::{Instant, NodeId};

/// Within this bound expirations are exact while the wall clocks of a majority are right: the
/// interval of the replicated clock, the delay of clock reports, and drift.
pub(in crate::sim) const BOUND: Duration = Duration::from_millis(250);

/// When a value expires: between these, for its key's time begins when the write is applied.
#[derive(Clone, Copy, Debug)]
struct Lifetime {
    earliest: Instant,
    latest: Instant,
    /// Terms that had had a leader when it was set.
    leaders: usize,
}

/// All values that expire, each of which is set once.
#[derive(Debug, Default)]
pub(in crate::sim) struct Expirations {
    lifetimes: BTreeMap<Bytes, Lifetime>,
    /// Values that a read did not find any more, and when the first one did not.
    expired: BTreeMap<Bytes, Instant>,
    across_leaders: u64,
}

impl Expirations {
    /// A value was set.
    pub(in crate::sim) fn set(
        &mut self,
        value: Bytes,
        earliest: Instant,
        latest: Instant,
        leaders: usize,
    ) {
        self.lifetimes.insert(value, Lifetime { earliest, latest, leaders });
    }

    /// Values that were seen to have expired, and how many of them under another leader than they
    /// were set.
    pub(in crate::sim) fn counts(&self) -> (u64, u64) {
        (self.expired.len() as u64, self.across_leaders)
    }

    /// A read that came at `asked` is answered `now`, from a state in which the key's last value
    /// is `current` if it has not expired.
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
            return Err(Violation(format!("C7: {current:?} was never set")));
        };
        if is_shown {
            demand!(
                asked <= latest + BOUND,
                "C7: replica {id} shows {current:?} to a read that came at {asked:?}, after it had \
                 expired at {latest:?}"
            );
            demand!(
                self.expired.get(current).is_none_or(|expired| asked <= *expired),
                "C7: replica {id} shows {current:?} to a read that came at {asked:?}, but it was \
                 seen to have expired"
            );
            return Ok(());
        }
        demand!(
            now + BOUND >= earliest,
            "C7: at replica {id} {current:?} is gone at {now:?}, but expires at {earliest:?}"
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
    fn late_early_and_returning_values_are_noticed() {
        let value = Bytes::from_static(b"v");
        let mut expirations = Expirations::default();
        expirations.set(value.clone(), at(1_000), at(1_010), 1);
        let mut answered = |asked, now, is_shown| {
            expirations.answered(NodeId(1), at(asked), at(now), &value, is_shown, 2).is_ok()
        };
        assert!(answered(1_260, 1_300, true) && !answered(1_261, 1_300, true));
        assert!(answered(700, 750, false) && !answered(700, 749, false));
        assert!(answered(750, 800, true), "it may have been under way");
        assert!(!answered(751, 800, true));
        assert_eq!(expirations.counts(), (1, 1));
    }
}
