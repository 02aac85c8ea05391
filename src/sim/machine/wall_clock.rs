//! The wall clock of a simulated machine.

use crate::types::Instant;

/// Reading of a correct wall clock at the start of a run, in milliseconds since 1970.
pub const EPOCH: u64 = 1_700_000_000_000;

/// Returns the reading of a correct wall clock at the virtual time `now`, in milliseconds since
/// 1970.
pub fn correct_time(now: Instant) -> u64 {
    EPOCH + now.0 / 1_000_000
}

/// A simulated wall clock, which may show a wrong time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WallClock {
    /// Lasting error of the clock in milliseconds: positive if it is ahead, negative if behind.
    pub skew: i64,
    /// Error in milliseconds during a momentary jump, in addition to `skew`; otherwise 0.
    pub glitch: i64,
}

impl WallClock {
    /// Returns the clock's reading at the virtual time `now`, in milliseconds since 1970.
    pub fn read(&self, now: Instant) -> u64 {
        correct_time(now).saturating_add_signed(self.skew.saturating_add(self.glitch))
    }
}
