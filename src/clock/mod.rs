//! Clocks of a cluster, as pure types: a replica's own wall clock with jumps filtered out, and the
//! replicated clock, by which keys expire.
//!
//! - Entries of the log move the replicated clock, so a key expires at the same entry on every
//!   replica. The leader decides what they say; apply reads no clock.
//! - Between entries the leader counts on at the rate of its monotonic clock.
//! - It moves forward beyond that only to an *agreed* time: one that the wall clocks of a quorum of
//!   the members have reached. One wrong clock of three moves nothing.
//! - Each replica filters its own wall clock against its monotonic clock, so that a jump is
//!   believed only after it has lasted ([`WallClock`]).
//! - The clock never runs backwards, but for `CLOCK RESET`, an entry of the log like any other.
//!
//! Nothing here reads a clock: drivers hand in readings, in the server and in the simulator.

mod replicated;
mod wall;

pub use replicated::{AppliedClock, ReplicatedClock};
pub use wall::{CONFIRM_AFTER, Jump, WallClock};
