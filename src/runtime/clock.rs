//! The process's clock. The one place where the runtime reads it; the core stage asks, once a
//! pass, and hands the reading to the replica.

use std::time::Instant as Reading;

use crate::types::Instant;

/// A monotonic clock that starts at zero when it is made.
///
/// It stands still while the machine is suspended (`CLOCK_MONOTONIC`). A lease would then outlive
/// the elections of others, so a server that offers lease reads on machines that suspend needs
/// another clock; a replica under a simulator on the same machine does not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    origin: Reading,
}

impl Clock {
    /// A clock that reads zero now.
    pub(super) fn start() -> Clock {
        Clock { origin: Reading::now() }
    }

    /// The time since the start.
    pub(super) fn now(&self) -> Instant {
        Instant::ZERO + self.origin.elapsed()
    }

    /// The standard library's instant for `instant`, for what waits until then. `None` if it is
    /// too far off for that type, which is as good as never.
    pub(super) fn reading_at(&self, instant: Instant) -> Option<Reading> {
        self.origin.checked_add(instant.since(Instant::ZERO))
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
        let reading = clock.reading_at(second).expect("soon enough");
        assert_eq!(reading.duration_since(clock.origin), second.since(Instant::ZERO));
    }

    #[test]
    fn never_is_a_reading_or_none_but_no_panic() {
        let clock = Clock::start();
        assert!(clock.reading_at(Instant::MAX).is_none_or(|reading| reading > clock.origin));
    }
}
