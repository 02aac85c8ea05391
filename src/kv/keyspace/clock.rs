//! The replicated clock, by which keys and client sessions expire.

/// A time in milliseconds since 1970, as shown by the replicated clock, or a duration in
/// milliseconds.
pub(in crate::kv) type Millis = u64;

/// The replicated clock: the time by which keys and client sessions expire. Only log entries change
/// it, so it is equal on all replicas that have applied the same entries.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(in crate::kv) struct ReplicatedClock {
    /// Reading of the replicated clock, in milliseconds since 1970; 0 before a log entry has
    /// advanced the clock for the first time.
    pub(in crate::kv) millis: Millis,
    /// Number of times that the replicated clock has been set back.
    pub(in crate::kv) resets: u64,
}
