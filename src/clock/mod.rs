//! The clocks of a cluster, as pure types: a replica's own wall clock with its jumps filtered out,
//! and the replicated clock, by which keys expire.
//!
//! - Entries of the log move the replicated clock, so a key expires at the same entry on every
//!   replica. The leader decides which time they set; applying an entry reads no clock.
//! - Between entries the leader extrapolates by its monotonic clock.
//! - Beyond that the clock moves forward only to an *agreed* time: one that the wall clocks of a
//!   quorum of the members have reached. One wrong clock among three has no effect.
//! - Each replica filters its own wall clock by its monotonic clock, so that a jump counts only
//!   after it has lasted ([`WallClock`]).
//! - The clock never runs backwards, except by `CLOCK RESET`, which is an entry of the log as well.
//!
//! Nothing here reads a clock: the drivers of server and simulator pass in readings.

mod replicated;
mod wall;

pub use replicated::{AppliedClock, ReplicatedClock};
pub use wall::{CONFIRM_AFTER, Jump, WallClock};
