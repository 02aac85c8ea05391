//! A replica's own wall clock, without its jumps.

use std::time::Duration;

use crate::types::Instant;

/// A clock that is slewed, not set, moves against the monotonic clock by at most this many
/// milliseconds at once, and by this rate (in parts per million) over time.
const STEP_MAX: u64 = 500;
const DRIFT_PPM: u64 = 2_000;
/// How long a jump must last before it counts, in the server.
pub const CONFIRM_AFTER: Duration = Duration::from_secs(30);

/// What an observation of the wall clock showed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Jump {
    /// The wall clock jumped by this many milliseconds. The jump does not count yet.
    Seen(i64),
    /// A jump by this many milliseconds has lasted, and counts from now on.
    Accepted(i64),
    /// A jump was undone before it counted.
    Undone,
}

/// The wall clock less the monotonic clock in milliseconds, at one reading of the latter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Offset {
    millis: i64,
    at: Instant,
}

/// The wall clock as this replica reports it to its peers.
///
/// The first observation counts as it is, because the replica may have been down for long. A later
/// one counts at once only if a slewed clock can have got there; a jump must last first.
#[derive(Clone, Debug)]
pub struct WallClock {
    confirm_after: Duration,
    /// Later observations are compared with this one. It is replaced no sooner than a jump counts,
    /// so that many small steps do not add up to a jump.
    anchor: Option<Offset>,
    /// The wall clock less the monotonic clock, as it counts.
    accepted_millis: i64,
    /// A jump that does not count yet, when it was first seen.
    candidate: Option<Offset>,
    jumps: u64,
}

impl WallClock {
    /// A clock before its first observation. A jump counts once it has lasted `confirm_after`.
    pub fn new(confirm_after: Duration) -> WallClock {
        WallClock { confirm_after, anchor: None, accepted_millis: 0, candidate: None, jumps: 0 }
    }

    /// Notes that the wall clock showed `wall`, in milliseconds since 1970, at the reading `now` of
    /// the monotonic clock.
    pub fn observe(&mut self, now: Instant, wall: u64) -> Option<Jump> {
        let millis = i64::try_from(wall).unwrap_or(i64::MAX).saturating_sub(millis_of(now));
        let seen = Offset { millis, at: now };
        let Some(anchor) = self.anchor else {
            (self.anchor, self.accepted_millis) = (Some(seen), millis);
            return None;
        };
        if is_near(anchor, seen) {
            self.accepted_millis = millis;
            if now.since(anchor.at) >= self.confirm_after {
                self.anchor = Some(seen);
            }
            return self.candidate.take().map(|_| Jump::Undone);
        }
        match self.candidate.filter(|candidate| is_near(*candidate, seen)) {
            Some(candidate) if now.since(candidate.at) >= self.confirm_after => {
                let by = millis.saturating_sub(self.accepted_millis);
                (self.anchor, self.candidate, self.accepted_millis) = (Some(seen), None, millis);
                Some(Jump::Accepted(by))
            }
            Some(_) => None,
            None => {
                self.candidate = Some(seen);
                self.jumps += 1;
                Some(Jump::Seen(millis.saturating_sub(self.accepted_millis)))
            }
        }
    }

    /// The wall clock at `now` in milliseconds since 1970; `None` before the first observation.
    pub fn read(&self, now: Instant) -> Option<u64> {
        self.anchor?;
        Some(u64::try_from(millis_of(now).saturating_add(self.accepted_millis)).unwrap_or(0))
    }

    /// How many jumps were seen, whether they lasted or not.
    pub fn jumps(&self) -> u64 {
        self.jumps
    }
}

/// Whether a slewed clock can have come from one offset to the other.
fn is_near(from: Offset, to: Offset) -> bool {
    let passed = u64::try_from(to.at.since(from.at).as_millis()).unwrap_or(u64::MAX);
    let bound = STEP_MAX.saturating_add(passed / 1_000_000 * DRIFT_PPM)
        + passed % 1_000_000 * DRIFT_PPM / 1_000_000;
    from.millis.abs_diff(to.millis) <= bound
}

/// A monotonic reading in milliseconds.
pub(super) fn millis_of(now: Instant) -> i64 {
    i64::try_from(now.0 / 1_000_000).expect("2^64 nanoseconds are 2^44 milliseconds")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000;

    fn at(millis: u64) -> Instant {
        Instant(millis * 1_000_000)
    }

    fn clock() -> WallClock {
        let mut clock = WallClock::new(CONFIRM_AFTER);
        assert_eq!((clock.read(at(0)), clock.observe(at(1_000), DAY)), (None, None));
        clock
    }

    #[test]
    fn short_jump_does_not_count() {
        let mut clock = clock();
        assert_eq!(clock.observe(at(2_000), 417 * DAY), Some(Jump::Seen(416 * 86_400_000 - 1_000)));
        assert_eq!(clock.observe(at(2_250), 417 * DAY + 250), None);
        assert_eq!(clock.read(at(2_250)), Some(DAY + 1_250));
        assert_eq!(clock.observe(at(2_300), DAY + 1_300), Some(Jump::Undone));
        assert_eq!((clock.read(at(2_300)), clock.jumps()), (Some(DAY + 1_300), 1));
    }

    #[test]
    fn lasting_jump_counts_in_both_directions() {
        for target in [9 * DAY, 7_000] {
            let mut clock = clock();
            for second in 2..32 {
                clock.observe(at(second * 1_000), target + second * 1_000);
                assert_eq!(clock.read(at(second * 1_000)), Some(DAY + (second - 1) * 1_000));
            }
            let last = clock.observe(at(32_000), target + 32_000);
            assert!(matches!(last, Some(Jump::Accepted(_))), "{last:?}");
            assert_eq!(clock.read(at(32_000)), Some(target + 32_000));
        }
    }

    #[test]
    fn slewed_clock_counts_at_once_within_its_rate() {
        let mut clock = clock();
        assert_eq!(clock.observe(at(2_000), DAY + 1_400), None);
        assert_eq!(clock.read(at(2_000)), Some(DAY + 1_400));
        // Many small steps would be a jump too.
        assert!(clock.observe(at(2_100), DAY + 1_900).is_some());
        assert_eq!(clock.read(at(2_100)), Some(DAY + 1_500));
    }
}
