//! The process's clock. The one place where the runtime reads it; the core stage asks, once a
//! pass, and hands the reading to the replica.

use std::time::{Duration, Instant as Reading, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::types::Instant;

/// It goes on while the machine is suspended: a lease must not outlive the elections that others
/// hold meanwhile (thesis 6.4.1). Where a system has no such clock, machines that lease reads must
/// not be suspended.
#[cfg(target_os = "linux")]
const CLOCK: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const CLOCK: ClockId = ClockId::Monotonic;

/// How far two readings of it may be apart between which the wall clock was read.
const SAMPLE_MAX: Duration = Duration::from_millis(5);

/// A monotonic clock that starts at zero when it is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    origin: Duration,
}

fn reading() -> Duration {
    let time = clock_gettime(CLOCK);
    let seconds = u64::try_from(time.tv_sec).expect("time since the machine's start");
    Duration::new(seconds, u32::try_from(time.tv_nsec).expect("below a second"))
}

impl Clock {
    /// A clock that reads zero now.
    pub(super) fn start() -> Clock {
        Clock { origin: reading() }
    }

    /// The time since the start.
    pub(super) fn now(&self) -> Instant {
        Instant::ZERO + reading().saturating_sub(self.origin)
    }

    /// The wall clock, in milliseconds since 1970, with the reading of this clock at which it
    /// showed that. `None` if the process was stopped between the readings: they don't belong
    /// together then.
    pub(super) fn wall_millis(&self) -> Option<(Instant, u64)> {
        let before = self.now();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = self.now();
        let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        (now.since(before) <= SAMPLE_MAX).then_some((now, millis))
    }

    /// The standard library's instant for `instant`, for what waits until then. `None` if it is
    /// too far off for that type, which is as good as never.
    pub(super) fn reading_at(&self, instant: Instant) -> Option<Reading> {
        Reading::now().checked_add(instant.since(self.now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn readings_rise_and_translate_back() {
        let clock = Clock::start();
        let first = clock.now();
        std::thread::sleep(Duration::from_millis(2));
        let second = clock.now();
        assert!(second.since(first) >= Duration::from_millis(2));
        let later = clock.reading_at(second + Duration::from_secs(5)).expect("soon enough");
        let ahead = later.duration_since(Reading::now());
        assert!(ahead > Duration::from_secs(1) && ahead <= Duration::from_secs(5), "{ahead:?}");
        assert!(clock.reading_at(first).is_some_and(|reading| reading <= Reading::now()));
    }

    #[test]
    fn never_is_a_reading_or_none_but_no_panic() {
        let clock = Clock::start();
        assert!(clock.reading_at(Instant::MAX).is_none_or(|reading| reading > Reading::now()));
    }
}
