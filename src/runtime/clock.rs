//! The monotonic clock of the core and the network, and readings of the wall clock. The core reads
//! the monotonic clock several times in each pass, and passes the readings to the replica.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::types::Instant;

/// Source of the monotonic clock. On Linux, the clock also advances while the machine is suspended,
/// because a lease must have expired before the other replicas elect a new leader (Raft thesis
/// 6.4.1). On other systems, machines must not be suspended if lease reads are used.
#[cfg(target_os = "linux")]
const CLOCK: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const CLOCK: ClockId = ClockId::Monotonic;

/// Maximum time between the readings of the monotonic clock right before and right after a reading
/// of the wall clock. If more time has passed between them, the wall clock reading is discarded as
/// inaccurate.
const SAMPLE_MAX: Duration = Duration::from_millis(5);

/// A monotonic clock that reads zero at the time it is created.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    origin: Duration,
    /// The clock that replaces the system's clock in a test; `None` to read the system's clock.
    #[cfg(test)]
    test_clock: Option<&'static dyn TestClock>,
}

/// A simulated clock for tests, whose time the test controls.
#[cfg(test)]
pub(super) trait TestClock: std::fmt::Debug + Sync {
    /// Returns the current time of the test clock. An implementation may advance the time or run
    /// other code after it has determined the time to return.
    fn read(&self) -> Instant;
}

fn reading() -> Duration {
    let time = clock_gettime(CLOCK);
    let seconds =
        u64::try_from(time.tv_sec).expect("the monotonic clock counts from the machine's start");
    Duration::new(seconds, u32::try_from(time.tv_nsec).expect("below a second"))
}

impl Clock {
    /// Creates a monotonic clock that starts now, so that its first readings are near zero.
    pub(super) fn start() -> Clock {
        Clock {
            origin: reading(),
            #[cfg(test)]
            test_clock: None,
        }
    }

    /// Creates a clock that reads its time from `test_clock`.
    #[cfg(test)]
    pub(super) fn for_test(test_clock: &'static dyn TestClock) -> Clock {
        Clock { origin: Duration::ZERO, test_clock: Some(test_clock) }
    }

    /// Returns the current reading of the clock: the time since it was created.
    pub(super) fn now(&self) -> Instant {
        #[cfg(test)]
        if let Some(test_clock) = self.test_clock {
            return test_clock.read();
        }
        Instant::ZERO + reading().saturating_sub(self.origin)
    }

    /// Reads the monotonic clock and the wall clock at the same instant, and returns both readings,
    /// that of the wall clock in milliseconds since 1970. Returns `None` if the readings are too
    /// far apart, for example because the process was paused between them.
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

    /// A clock that always reads zero.
    #[derive(Debug)]
    struct Stopped;

    impl TestClock for Stopped {
        fn read(&self) -> Instant {
            Instant::ZERO
        }
    }

    /// Returns a clock for tests that always reads zero.
    pub(in crate::runtime) fn stopped() -> Clock {
        Clock::for_test(&Stopped)
    }

    #[test]
    fn monotonic_clock_advances_with_real_time() {
        let clock = Clock::start();
        let first = clock.now();
        std::thread::sleep(Duration::from_millis(2));
        let second = clock.now();
        assert!(second.since(first) >= Duration::from_millis(2));
    }
}
