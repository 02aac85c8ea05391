//! The replicated clock, by which keys and client sessions expire.

/// A time shown by the replicated clock, in milliseconds since 1970, or a duration, in
/// milliseconds.
pub(in crate::kv) type Millis = u64;

/// The replicated clock: the time by which keys and client sessions expire, which only log entries
/// change.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(in crate::kv) struct ReplicatedClock {
    /// Reading of the replicated clock, in milliseconds since 1970; 0 before the first log entry
    /// that advances the clock.
    pub(in crate::kv) millis: Millis,
    /// Number of times that the replicated clock has been set back.
    pub(in crate::kv) resets: u64,
}
