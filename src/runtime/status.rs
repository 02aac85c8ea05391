//! What the runtime dropped, refused or could not read, counted. Shared words beside the path of
//! requests: written with relaxed additions, read by whoever wants to look inside.

use std::sync::atomic::{AtomicU64, Ordering};

/// One count that any stage may raise.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub(super) fn add_one(&self) {
        self.add(1);
    }

    /// So many more.
    pub(super) fn add(&self, more: usize) {
        self.0.fetch_add(more as u64, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counts of one replica's runtime since it started. The core's own are in
/// [`Counters`](crate::raft::Counters).
#[derive(Debug, Default)]
pub struct Counts {
    /// Network: messages that could not be read: no JSON, wrong fields, damaged bytes, too long.
    pub unreadable: Count,
    /// Network: readable messages that ask for nothing, such as those for another replica.
    pub ignored: Count,
    /// Network: peers' messages dropped on arrival because the core's queue was full.
    pub arrivals_dropped: Count,
    /// Core and log writer: messages to peers dropped because the network's queue was full.
    pub departures_dropped: Count,
    /// Network: messages to peers dropped because the socket took no more.
    pub unsent: Count,
    /// Network: messages larger than the socket can carry, answers to nobody, failed sends.
    pub send_failures: Count,
    /// Core: appends dropped because the log writer or the applier was too far behind.
    pub appends_dropped: Count,
    /// Core: requests answered busy for the same reason.
    pub requests_busy: Count,
}
