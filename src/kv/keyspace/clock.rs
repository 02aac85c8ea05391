//! The replicated clock, by which keys and client sessions expire.

/// Milliseconds since 1970 by the replicated clock.
pub(in crate::kv) type Millis = u64;

/// The replicated clock.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(in crate::kv) struct ReplicatedClock {
    /// 0 before the first log entry that sets it.
    pub(in crate::kv) millis: Millis,
    /// How often the clock was set back.
    pub(in crate::kv) resets: u64,
}
