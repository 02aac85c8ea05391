//! A replica's own wall clock, with jumps filtered out.

use std::time::Duration;

use crate::types::Instant;

/// How far the wall clock may move against the monotonic clock at once and be believed, in
/// milliseconds, and how much more for each millisecond that has passed: a clock that is slewed.
const STEP_MAX: u64 = 500;
const DRIFT_PPM: u64 = 2_000;
/// How long a jump must have lasted to be believed, in the server.
pub const CONFIRM_AFTER: Duration = Duration::from_secs(30);

/// What an observation showed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Jump {
    /// The wall clock jumped by this many milliseconds, which is not believed yet.
    Seen(i64),
    /// A jump has lasted and is believed now.
    Accepted(i64),
    /// A jump was undone before it was believed.
    Undone,
}

/// The difference of wall clock and monotonic clock, in milliseconds, at one reading of the latter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Offset {
    millis: i64,
    at: Instant,
}

/// The wall clock as this replica believes it, and tells it to its peers.
///
/// The first observation is believed as it is: the replica may have been down for long. Later ones
/// are believed at once only as far as a clock may be slewed; a jump must last first.
#[derive(Clone, Debug)]
pub struct WallClock {
    confirm_after: Duration,
    /// What later observations are compared with; moves on as slowly as jumps are believed.
    anchor: Option<Offset>,
    believed: i64,
    /// A jump that is not believed yet, and when it was seen first.
    candidate: Option<Offset>,
    jumps: u64,
}

impl WallClock {
    /// A clock that was never observed, and believes a jump once it has lasted so long.
    pub fn new(confirm_after: Duration) -> WallClock {
        WallClock { confirm_after, anchor: None, believed: 0, candidate: None, jumps: 0 }
    }

    /// Takes in that the wall clock showed `wall`, in milliseconds since 1970, at the reading `now`
    /// of the monotonic clock.
    pub fn observe(&mut self, now: Instant, wall: u64) -> Option<Jump> {
        let millis = i64::try_from(wall).unwrap_or(i64::MAX).saturating_sub(millis_of(now));
        let seen = Offset { millis, at: now };
        let Some(anchor) = self.anchor else {
            (self.anchor, self.believed) = (Some(seen), millis);
            return None;
        };
        if is_near(anchor, seen) {
            self.believed = millis;
            if now.since(anchor.at) >= self.confirm_after {
                self.anchor = Some(seen);
            }
            return self.candidate.take().map(|_| Jump::Undone);
        }
        match self.candidate.filter(|candidate| is_near(*candidate, seen)) {
            Some(candidate) if now.since(candidate.at) >= self.confirm_after => {
                let by = millis.saturating_sub(self.believed);
                (self.anchor, self.candidate, self.believed) = (Some(seen), None, millis);
                Some(Jump::Accepted(by))
            }
            Some(_) => None,
            None => {
                self.candidate = Some(seen);
                self.jumps += 1;
                Some(Jump::Seen(millis.saturating_sub(self.believed)))
            }
        }
    }

    /// What it shows at `now`, in milliseconds since 1970; `None` before the first observation.
    pub fn read(&self, now: Instant) -> Option<u64> {
        self.anchor?;
        Some(u64::try_from(millis_of(now).saturating_add(self.believed)).unwrap_or(0))
    }

    /// Jumps that were seen, believed or not.
    pub fn jumps(&self) -> u64 {
        self.jumps
    }
}

/// Whether a clock that was slewed can have come from one difference to the other.
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
    fn a_glitch_is_not_believed() {
        let mut clock = clock();
        assert_eq!(clock.observe(at(2_000), 417 * DAY), Some(Jump::Seen(416 * 86_400_000 - 1_000)));
        assert_eq!(clock.observe(at(2_250), 417 * DAY + 250), None);
        assert_eq!(clock.read(at(2_250)), Some(DAY + 1_250));
        assert_eq!(clock.observe(at(2_300), DAY + 1_300), Some(Jump::Undone));
        assert_eq!((clock.read(at(2_300)), clock.jumps()), (Some(DAY + 1_300), 1));
    }

    #[test]
    fn a_jump_that_lasts_is_believed_in_both_directions() {
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
    fn a_slewed_clock_is_followed_at_once_and_bounded_over_time() {
        let mut clock = clock();
        assert_eq!(clock.observe(at(2_000), DAY + 1_400), None);
        assert_eq!(clock.read(at(2_000)), Some(DAY + 1_400));
        // Again and again by little would be a jump too.
        assert!(clock.observe(at(2_100), DAY + 1_900).is_some());
        assert_eq!(clock.read(at(2_100)), Some(DAY + 1_500));
    }
}
