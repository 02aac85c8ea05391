//! The monotonic clock of the core and the network, and readings of the wall clock. The core reads
//! it several times in each pass and hands the readings to the replica.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::types::Instant;

/// The monotonic clock. On Linux it advances while the machine is suspended, because a lease must
/// not outlive the elections that other replicas hold meanwhile (thesis 6.4.1). On other systems,
/// machines that use lease reads must not be suspended.
#[cfg(target_os = "linux")]
const CLOCK: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const CLOCK: ClockId = ClockId::Monotonic;

/// A reading of the wall clock counts only if the readings of the monotonic clock before and after
/// it are at most this far apart.
const SAMPLE_MAX: Duration = Duration::from_millis(5);

/// A monotonic clock that starts at zero when it is created.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    origin: Duration,
    /// Replaces the system's clock in a test.
    #[cfg(test)]
    test_clock: Option<&'static dyn TestClock>,
}

/// A source of time that a test controls.
#[cfg(test)]
pub(super) trait TestClock: std::fmt::Debug + Sync {
    /// The time now. A test may let time pass, or run other code, right after a reading.
    fn read(&self) -> Instant;
}

fn reading() -> Duration {
    let time = clock_gettime(CLOCK);
    let seconds =
        u64::try_from(time.tv_sec).expect("the monotonic clock counts from the machine's start");
    Duration::new(seconds, u32::try_from(time.tv_nsec).expect("below a second"))
}

impl Clock {
    /// A clock that reads zero now.
    pub(super) fn start() -> Clock {
        Clock {
            origin: reading(),
            #[cfg(test)]
            test_clock: None,
        }
    }

    /// A clock that a test controls.
    #[cfg(test)]
    pub(super) fn for_test(test_clock: &'static dyn TestClock) -> Clock {
        Clock { origin: Duration::ZERO, test_clock: Some(test_clock) }
    }

    /// The time since the start.
    pub(super) fn now(&self) -> Instant {
        #[cfg(test)]
        if let Some(test_clock) = self.test_clock {
            return test_clock.read();
        }
        Instant::ZERO + reading().saturating_sub(self.origin)
    }

    /// The wall clock in milliseconds since 1970, with the monotonic reading at which it showed
    /// that. `None` if the process was paused between the two readings, so that they don't belong
    /// together.
    pub(super) fn wall_millis(&self) -> Option<(Instant, u64)> {
        let before = self.now();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = self.now();
        let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        (now.since(before) <= SAMPLE_MAX).then_some((now, millis))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A clock that always shows zero.
    #[derive(Debug)]
    struct Stopped;

    impl TestClock for Stopped {
        fn read(&self) -> Instant {
            Instant::ZERO
        }
    }

    /// A clock for tests in which no time passes.
    pub(in crate::runtime) fn stopped() -> Clock {
        Clock::for_test(&Stopped)
    }

    #[test]
    fn readings_increase_with_time() {
        let clock = Clock::start();
        let first = clock.now();
        std::thread::sleep(Duration::from_millis(2));
        let second = clock.now();
        assert!(second.since(first) >= Duration::from_millis(2));
    }
}
