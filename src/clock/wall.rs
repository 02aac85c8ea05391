//! A replica's own wall clock, with its jumps filtered out.

use std::time::Duration;

use crate::types::Instant;

/// Largest change, in milliseconds, of a wall clock relative to the monotonic clock that does not
/// count as a jump. The drift of [`DRIFT_PPM`] is allowed in addition. A clock that is adjusted
/// gradually (slewed) stays within this bound.
const STEP_MAX: u64 = 500;
/// Largest drift between the wall clock and the monotonic clock, in parts per million, that does
/// not count as a jump.
const DRIFT_PPM: u64 = 2_000;
/// How long a jump of the wall clock must last before the server accepts the new time.
pub const CONFIRM_AFTER: Duration = Duration::from_secs(30);

/// A jump (a sudden change of the wall clock relative to the monotonic clock) that a new reading of
/// both clocks reveals.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Jump {
    /// The wall clock has jumped by this number of milliseconds. The jump is not accepted yet.
    Seen(i64),
    /// The wall clock's jump by this number of milliseconds has lasted long enough, and is now
    /// accepted.
    Accepted(i64),
    /// The wall clock has jumped back to its old course before the jump was accepted.
    Undone,
}

/// The difference between the wall clock and the monotonic clock, in milliseconds, at one reading
/// of the monotonic clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Offset {
    millis: i64,
    at: Instant,
}

/// This replica's wall clock with its jumps filtered out, as it is reported to peers.
///
/// The first reading is accepted as it is. A later one is accepted at once only if a clock that is
/// adjusted gradually (slewed) can have reached it; a jump must last for `confirm_after` first.
#[derive(Clone, Debug)]
pub struct WallClock {
    confirm_after: Duration,
    /// The accepted reading that later readings are compared with; `None` before the first reading.
    /// It is replaced at most once per `confirm_after`, because otherwise a jump in many small
    /// steps would pass for a gradual adjustment (slewing).
    anchor: Option<Offset>,
    /// The last accepted difference between the wall clock and the monotonic clock, in
    /// milliseconds.
    accepted_millis: i64,
    /// The first reading after a jump that is not accepted yet; `None` if there is no such jump.
    candidate: Option<Offset>,
    jumps: u64,
}

impl WallClock {
    /// Creates a wall clock filter without readings. A jump is accepted after it has lasted for
    /// `confirm_after`.
    pub fn new(confirm_after: Duration) -> WallClock {
        WallClock { confirm_after, anchor: None, accepted_millis: 0, candidate: None, jumps: 0 }
    }

    /// Records that the wall clock showed `wall`, in milliseconds since 1970, when the monotonic
    /// clock showed `now`. Returns the jump that this reading reveals; `None` if there is none.
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

    /// Returns the filtered wall clock's time at `now`, in milliseconds since 1970; `None` before
    /// the first reading.
    pub fn read(&self, now: Instant) -> Option<u64> {
        self.anchor?;
        Some(u64::try_from(millis_of(now).saturating_add(self.accepted_millis)).unwrap_or(0))
    }

    /// Returns the number of wall clock jumps seen so far, accepted or not.
    pub fn jumps(&self) -> u64 {
        self.jumps
    }
}

/// Returns whether a wall clock that is adjusted only gradually (slewed) can have moved from the
/// offset `from` to the offset `to`.
fn is_near(from: Offset, to: Offset) -> bool {
    let passed = u64::try_from(to.at.since(from.at).as_millis()).unwrap_or(u64::MAX);
    let bound = STEP_MAX.saturating_add(passed / 1_000_000 * DRIFT_PPM)
        + passed % 1_000_000 * DRIFT_PPM / 1_000_000;
    from.millis.abs_diff(to.millis) <= bound
}

/// Returns a reading of the monotonic clock in whole milliseconds since its origin.
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
    fn wall_clock_jump_that_is_soon_reverted_is_ignored() {
        let mut clock = clock();
        assert_eq!(clock.observe(at(2_000), 417 * DAY), Some(Jump::Seen(416 * 86_400_000 - 1_000)));
        assert_eq!(clock.observe(at(2_250), 417 * DAY + 250), None);
        assert_eq!(clock.read(at(2_250)), Some(DAY + 1_250));
        assert_eq!(clock.observe(at(2_300), DAY + 1_300), Some(Jump::Undone));
        assert_eq!((clock.read(at(2_300)), clock.jumps()), (Some(DAY + 1_300), 1));
    }

    #[test]
    fn lasting_wall_clock_jump_forward_or_back_is_accepted() {
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
    fn gradual_wall_clock_change_is_followed_up_to_a_rate_limit() {
        let mut clock = clock();
        assert_eq!(clock.observe(at(2_000), DAY + 1_400), None);
        assert_eq!(clock.read(at(2_000)), Some(DAY + 1_400));
        // Many small steps would be a jump too.
        assert!(clock.observe(at(2_100), DAY + 1_900).is_some());
        assert_eq!(clock.read(at(2_100)), Some(DAY + 1_500));
    }
}
