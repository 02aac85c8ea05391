//! The wall clock of a simulated machine.

use crate::types::Instant;

/// What a correct wall clock shows at the start of a run, in milliseconds since 1970.
pub const EPOCH: u64 = 1_700_000_000_000;

/// Returns what a correct wall clock shows at the true (virtual) time `now`, in milliseconds since
/// 1970.
pub fn correct_time(now: Instant) -> u64 {
    EPOCH + now.0 / 1_000_000
}

/// A simulated wall clock, which may be wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WallClock {
    /// Number of milliseconds by which the clock is ahead of the correct time, except during a
    /// momentary jump; negative if the clock is behind.
    pub skew: i64,
    /// Error, in milliseconds, that is added to `skew` during a momentary jump of the clock;
    /// otherwise 0.
    pub glitch: i64,
}

impl WallClock {
    /// Returns what the clock shows at the true (virtual) time `now`, in milliseconds since 1970.
    pub fn read(&self, now: Instant) -> u64 {
        correct_time(now).saturating_add_signed(self.skew.saturating_add(self.glitch))
    }
}
