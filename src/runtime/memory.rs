//! What the stages hold in memory, and what of it is bounded by what: shared words beside the path
//! of requests. The applier says what the state takes, the core what the log does; the network adds
//! what clients hold, and decides whether a write that would add to it is let in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::snapshots::SnapshotBoard;

/// The log in memory may take so much, or as much as the latest snapshot, whichever is more.
const LOG_BYTES_MAX: u64 = 1 << 30;
/// And so much, however little memory there may be in all: it must hold what is under way.
const LOG_BYTES_MIN: u64 = 64 << 20;

/// The words.
#[derive(Debug, Default)]
pub(super) struct MemoryBoard {
    store_bytes: AtomicU64,
    log_bytes: AtomicU64,
    /// What the operator allows for all; 0 for any amount.
    most_bytes: AtomicU64,
    saved: Arc<SnapshotBoard>,
}

impl MemoryBoard {
    /// The operator allows so much, and the size of the latest snapshot can be read there.
    pub(super) fn new(most_bytes: u64, saved: Arc<SnapshotBoard>) -> MemoryBoard {
        let most_bytes = most_bytes.into();
        MemoryBoard { most_bytes, saved, ..MemoryBoard::default() }
    }

    /// The operator allows so much; 0 for any amount.
    pub(super) fn allow(&self, most_bytes: u64) {
        self.most_bytes.store(most_bytes, Ordering::Relaxed);
    }

    /// The state takes so much.
    pub(super) fn note_store(&self, bytes: usize) {
        self.store_bytes.store(bytes as u64, Ordering::Relaxed);
    }

    /// The log in memory takes so much.
    pub(super) fn note_log(&self, bytes: usize) {
        self.log_bytes.store(bytes as u64, Ordering::Relaxed);
    }

    /// What state and log take.
    pub(super) fn store_and_log(&self) -> (u64, u64) {
        (self.store_bytes.load(Ordering::Relaxed), self.log_bytes.load(Ordering::Relaxed))
    }

    /// Bytes of the log in memory at which a leader takes no more writes in: half of what the
    /// operator allows, within the bounds above. Snapshots are taken long before, so it is reached
    /// only where they fail.
    pub(super) fn log_bytes_max(&self) -> u64 {
        let most = LOG_BYTES_MAX.max(self.saved.bytes());
        match self.most_bytes.load(Ordering::Relaxed) {
            0 => most,
            allowed => most.min(allowed / 2).max(LOG_BYTES_MIN),
        }
    }

    /// Bytes of the log in memory at which a follower drops appends. More, for replicas cut their
    /// logs at places of their own: a leader that takes a write in can't know that the others would
    /// not, and nobody could tell what becomes of it.
    pub(super) fn appended_bytes_max(&self) -> u64 {
        let most = self.log_bytes_max();
        most + most / 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logs_part_is_half_of_what_is_allowed_within_bounds() {
        let board = MemoryBoard::default();
        assert_eq!(board.log_bytes_max(), LOG_BYTES_MAX);
        for (allowed, log) in [(1, LOG_BYTES_MIN), (400 << 20, 200 << 20), (9 << 30, 1 << 30)] {
            board.allow(allowed);
            assert_eq!(board.log_bytes_max(), log, "of {allowed}");
        }
    }
}
