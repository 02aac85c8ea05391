//! The wall clock of a simulated machine.

use crate::types::Instant;

/// The correct wall clock time at the true time zero, in milliseconds since 1970.
pub const EPOCH: u64 = 1_700_000_000_000;

/// Returns the correct wall clock time, in milliseconds since 1970.
pub fn correct_time(now: Instant) -> u64 {
    EPOCH + now.0 / 1_000_000
}

/// A wall clock with an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WallClock {
    /// Milliseconds that the clock is ahead of the correct time; negative if behind.
    pub skew: i64,
    /// Additional error for a moment, in milliseconds.
    pub glitch: i64,
}

impl WallClock {
    /// Returns the reading at the true time `now`, in milliseconds since 1970.
    pub fn read(&self, now: Instant) -> u64 {
        correct_time(now).saturating_add_signed(self.skew.saturating_add(self.glitch))
    }
}
