//! How current the state of a replica that is not the leader is known to be, for reads that accept
//! a bounded lag (`READONLY MAXLAG`).
//!
//! A confirmed read index is the only proof: the leader, after a quorum had confirmed that it still
//! led, reported an index that includes every write acknowledged before this replica asked. So the
//! age of the proof is the time since this replica *asked*, by its own monotonic clock. It depends
//! on no other clock and on no delay of a message, and a leader that was deposed gives no proof.

use std::time::Duration;

use crate::types::{Index, Instant};

/// The latest read index that a leader has confirmed for this replica.
///
/// Invariant: a state that has applied the log up to `index` includes every write that was
/// acknowledged before `asked_at`. This stays true after the leader and the term have changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Proof {
    index: Index,
    asked_at: Instant,
}

/// How current the state of this replica is known to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Freshness {
    /// `None` before the first read index is confirmed.
    proof: Option<Proof>,
}

/// Upper bound on the age of this replica's state at one time: every write that was acknowledged
/// longer ago is part of the state once that has applied the log up to [`Freshness::index`].
/// `None`, the default, if there is no bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct StateAge(Option<Duration>);

/// Whether a read that accepts a bounded lag can be answered from this replica's own state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LagCheck {
    /// The state is recent enough.
    Recent,
    /// The state is recent enough, but more than half of the accepted lag has passed: a new read
    /// index must be requested now, so that later reads need not wait for it.
    Aging,
    /// The state may be too old, or nothing is known about it.
    TooOld,
}

impl Freshness {
    /// Records that the leader has confirmed the read index `index`, which this replica requested
    /// at `asked_at` by its own clock, read before the request was sent.
    pub(crate) fn confirm(&mut self, asked_at: Instant, index: Index) {
        if self.proof.is_none_or(|proof| proof.asked_at < asked_at) {
            self.proof = Some(Proof { index, asked_at });
        }
    }

    /// Returns the log index up to which this replica must have applied the log before it answers
    /// reads from its own state; `None` before the first read index is confirmed.
    pub(crate) fn index(self) -> Option<Index> {
        self.proof.map(|proof| proof.index)
    }

    /// Returns the latest confirmed read index if this replica requested it at `since` or later.
    pub(crate) fn confirmed_since(self, since: Instant) -> Option<Index> {
        self.proof.filter(|proof| proof.asked_at >= since).map(|proof| proof.index)
    }

    /// Returns the maximum age of the state for reads that have arrived before `now` was read from
    /// the clock. A clock reading from before their arrival is not enough: the process may have
    /// been suspended in between.
    pub(crate) fn age(self, now: Instant) -> StateAge {
        StateAge(self.proof.map(|proof| now.since(proof.asked_at)))
    }
}

impl StateAge {
    /// Decides whether a read that accepts a lag of `lag_max` can be answered from this replica's
    /// own state once that has applied [`Freshness::index`].
    pub(crate) fn check(self, lag_max: Duration) -> LagCheck {
        match self.0 {
            Some(age) if age <= lag_max / 2 => LagCheck::Recent,
            Some(age) if age <= lag_max => LagCheck::Aging,
            Some(_) | None => LagCheck::TooOld,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAG: Duration = Duration::from_millis(100);

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn state_is_recent_until_the_lag_has_passed_since_the_request() {
        let mut freshness = Freshness::default();
        let check = |freshness: Freshness, now| freshness.age(at(now)).check(LAG);
        assert_eq!((check(freshness, 0), freshness.index()), (LagCheck::TooOld, None));
        freshness.confirm(at(1_000), Index(7));
        let confirmed = |since| freshness.confirmed_since(at(since));
        assert_eq!((confirmed(1_000), confirmed(1_001)), (Some(Index(7)), None));
        assert_eq!(freshness.index(), Some(Index(7)));
        for (now, wanted) in [
            (1_000, LagCheck::Recent),
            (1_050, LagCheck::Recent),
            (1_051, LagCheck::Aging),
            (1_100, LagCheck::Aging),
            (1_101, LagCheck::TooOld),
            (9_999_999, LagCheck::TooOld),
        ] {
            assert_eq!(check(freshness, now), wanted, "{now}");
        }
        assert_eq!(freshness.age(at(1_001)).check(Duration::ZERO), LagCheck::TooOld);
        assert_eq!(StateAge::default().check(Duration::MAX), LagCheck::TooOld);
    }

    /// The time at which a reply arrives says nothing: it may have been delayed for long.
    #[test]
    fn late_reply_to_an_earlier_request_does_not_renew_the_proof() {
        let mut freshness = Freshness::default();
        freshness.confirm(at(200), Index(9));
        freshness.confirm(at(100), Index(8));
        assert_eq!(freshness.index(), Some(Index(9)));
        assert_eq!(freshness.age(at(300)).check(LAG), LagCheck::Aging);
        assert_eq!(freshness.age(at(301)).check(LAG), LagCheck::TooOld);
        freshness.confirm(at(250), Index(9));
        assert_eq!(freshness.age(at(300)).check(LAG), LagCheck::Recent);
    }
}
