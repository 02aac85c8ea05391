//! The monotonic clock of a simulated machine.

use crate::types::Instant;

/// A simulated monotonic clock, which may start at any reading and run fast or slow.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Virtual time of the last change of the clock's rate.
    anchor: Instant,
    /// The clock's reading at the virtual time `anchor`.
    reading: Instant,
    /// Rate error of the clock in parts per million: positive if it runs fast, negative if slow.
    rate_ppm: i64,
}

impl Clock {
    /// Creates a clock that shows `reading` at the virtual time `now`. `rate_ppm` is its rate error
    /// in parts per million: positive if it runs fast, negative if slow.
    pub fn new(now: Instant, reading: Instant, rate_ppm: i64) -> Clock {
        assert!(rate_ppm > -1_000_000, "a monotonic clock does not go backwards");
        Clock { anchor: now, reading, rate_ppm }
    }

    /// Returns the clock's reading at the virtual time `now`.
    pub fn read(&self, now: Instant) -> Instant {
        let passed = i128::from(now.0.saturating_sub(self.anchor.0));
        let shown = passed * i128::from(1_000_000 + self.rate_ppm) / 1_000_000;
        Instant(self.reading.0.saturating_add(u64::try_from(shown).unwrap_or(u64::MAX)))
    }

    /// Returns the earliest virtual time at which the clock shows `reading` or later.
    pub fn when(&self, reading: Instant) -> Instant {
        if reading == Instant::MAX {
            return Instant::MAX;
        }
        let ahead = i128::from(reading.0.saturating_sub(self.reading.0));
        let rate = i128::from(1_000_000 + self.rate_ppm);
        let passed = (ahead * 1_000_000 + rate - 1) / rate;
        Instant(self.anchor.0.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX)))
    }

    /// Changes the clock's rate error, in parts per million, from the virtual time `now` on. The
    /// reading does not jump.
    pub fn set_rate(&mut self, now: Instant, rate_ppm: i64) {
        *self = Clock::new(now, self.read(now), rate_ppm);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simulated_clock_conversion_is_invertible_at_every_rate() {
        for rate in [-300_000, -2_000, 0, 7, 2_000, 500_000] {
            let mut clock = Clock::new(Instant(1_000), Instant(77), rate);
            assert_eq!(clock.read(Instant(1_000)), Instant(77));
            for reading in [77, 78, 1_000, 999_999_937] {
                let at = clock.when(Instant(reading));
                assert!(clock.read(at) >= Instant(reading));
                assert!(at == Instant(1_000) || clock.read(Instant(at.0 - 1)) < Instant(reading));
            }
            let before = clock.read(Instant(5_000_000));
            clock.set_rate(Instant(5_000_000), -rate);
            assert_eq!(clock.read(Instant(5_000_000)), before);
        }
        let fast = Clock::new(Instant::ZERO, Instant::ZERO, 2_000);
        assert_eq!(fast.read(Instant(1_000_000_000)), Instant(1_002_000_000));
        assert_eq!(fast.when(Instant::MAX), Instant::MAX);
    }
}
