//! The memory usage of keyspace, log and clients, and the free disk space.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::storage::FreeSpace;

use super::snapshot::SnapshotBoard;

/// Upper bound of the limit on the size of log entries in memory (1 GiB), unless the latest
/// snapshot is larger; then the size of that snapshot is the upper bound.
const LOG_BYTES_MAX: u64 = 1 << 30;
/// Lower bound of the limit on the size of log entries in memory (64 MiB), regardless of how low
/// `--maxmemory` is. A lower limit would not leave enough memory for the entries that are waiting
/// to be written to disk.
const LOG_BYTES_MIN: u64 = 64 << 20;
/// The size of values that were removed but not freed yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::runtime) struct DeletionSize {
    /// Number of values.
    pub(in crate::runtime) objects: usize,
    /// Approximate memory usage of the values, in bytes.
    pub(in crate::runtime) bytes: usize,
}

/// Memory usage of the keyspace and of the log, and the memory limit, shared between the stages.
#[derive(Debug, Default)]
pub(in crate::runtime) struct MemoryBoard {
    store_bytes: AtomicU64,
    log_bytes: AtomicU64,
    /// Number of the values that were removed from the keyspace but not freed yet, and their memory
    /// usage in bytes.
    unlinked_objects: AtomicU64,
    unlinked_bytes: AtomicU64,
    /// Number of collected values that were freed since the network last took the number.
    freed_objects: AtomicU64,
    /// The limit `--maxmemory` on the memory usage of keyspace, log and clients combined, in bytes;
    /// 0 for no limit.
    limit_bytes: AtomicU64,
    /// Memory usage of the clients in bytes, as the network stage has published it.
    clients_bytes: AtomicU64,
    /// Whether a client has asked for free memory to be returned to the operating system.
    trim_requested: AtomicBool,
    snapshots: Arc<SnapshotBoard>,
}

impl MemoryBoard {
    /// Creates the shared record of memory usage. `limit_bytes` is the limit for keyspace, log and
    /// clients combined (0 for no limit). `snapshots` supplies the size of the latest snapshot.
    pub(in crate::runtime) fn new(limit_bytes: u64, snapshots: Arc<SnapshotBoard>) -> MemoryBoard {
        MemoryBoard { limit_bytes: limit_bytes.into(), snapshots, ..MemoryBoard::default() }
    }

    /// Requests that free memory is returned to the operating system. Called by the network stage.
    pub(in crate::runtime) fn request_trim(&self) {
        self.trim_requested.store(true, Ordering::Relaxed);
    }

    /// Returns whether that was requested since the last call. Called by the background deletion.
    pub(in crate::runtime) fn take_trim_request(&self) -> bool {
        self.trim_requested.swap(false, Ordering::Relaxed)
    }

    /// Changes the memory limit, in bytes, for keyspace, log and clients combined; 0 for no limit.
    pub(in crate::runtime) fn set_limit(&self, limit_bytes: u64) {
        self.limit_bytes.store(limit_bytes, Ordering::Relaxed);
    }

    /// Publishes the memory usage of the keyspace, in bytes. Called by the applier.
    pub(in crate::runtime) fn note_store(&self, bytes: usize) {
        self.store_bytes.store(bytes as u64, Ordering::Relaxed);
    }

    /// Publishes the memory usage of the log entries in memory, in bytes. Called by the Raft core.
    pub(in crate::runtime) fn note_log(&self, bytes: usize) {
        self.log_bytes.store(bytes as u64, Ordering::Relaxed);
    }

    /// Adds values that were removed from the keyspace but not freed yet. Called by the applier,
    /// before it publishes the memory usage of the keyspace without them.
    pub(in crate::runtime) fn note_unlinked(&self, size: DeletionSize) {
        self.unlinked_objects.fetch_add(size.objects as u64, Ordering::Relaxed);
        self.unlinked_bytes.fetch_add(size.bytes as u64, Ordering::Relaxed);
    }

    /// Subtracts values that were freed.
    pub(in crate::runtime) fn note_freed(&self, size: DeletionSize) {
        self.unlinked_objects.fetch_sub(size.objects as u64, Ordering::Relaxed);
        self.unlinked_bytes.fetch_sub(size.bytes as u64, Ordering::Relaxed);
        self.freed_objects.fetch_add(size.objects as u64, Ordering::Relaxed);
    }

    /// Returns the memory usage, in bytes, of values that were removed but not freed yet.
    pub(in crate::runtime) fn unlinked_bytes(&self) -> u64 {
        self.unlinked_bytes.load(Ordering::Relaxed)
    }

    /// Publishes the memory usage of the clients, in bytes. Called by the network stage.
    pub(in crate::runtime) fn note_clients(&self, bytes: u64) {
        self.clients_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Returns the memory usage of keyspace, log and clients, in bytes.
    pub(in crate::runtime) fn used_bytes(&self) -> u64 {
        let (store, log) = self.store_and_log_bytes();
        store + log + self.clients_bytes.load(Ordering::Relaxed)
    }

    /// Returns the memory usage of the keyspace, including values that were removed but not freed
    /// yet, then that of the log entries in memory, each in bytes.
    pub(in crate::runtime) fn store_and_log_bytes(&self) -> (u64, u64) {
        let store =
            self.store_bytes.load(Ordering::Relaxed) + self.unlinked_bytes.load(Ordering::Relaxed);
        (store, self.log_bytes.load(Ordering::Relaxed))
    }

    /// Returns the number of values that were removed but not freed yet, and the number of those
    /// that were freed since the last call.
    pub(in crate::runtime) fn take_freed(&self) -> (u64, u64) {
        let unlinked = self.unlinked_objects.load(Ordering::Relaxed);
        (unlinked, self.freed_objects.swap(0, Ordering::Relaxed))
    }

    /// Returns the limit on log entries in memory, in bytes, above which a leader refuses writes:
    /// half of `--maxmemory`, but at least [`LOG_BYTES_MIN`], and at most the larger of
    /// [`LOG_BYTES_MAX`] and the size of the latest snapshot. The log reaches this limit only if
    /// snapshots fail, since otherwise it is compacted long before that.
    pub(in crate::runtime) fn log_bytes_max(&self) -> u64 {
        let most = LOG_BYTES_MAX.max(self.snapshots.bytes());
        match self.limit_bytes.load(Ordering::Relaxed) {
            0 => most,
            limit => most.min(limit / 2).max(LOG_BYTES_MIN),
        }
    }

    /// Returns the number of bytes by which the log may grow between the beginning of one snapshot
    /// and the completion of the next; the new entries stay in memory until then. This is half of
    /// [`MemoryBoard::log_bytes_max`], or a quarter of it if `--maxmemory` is set, because that
    /// option limits keyspace and log combined.
    pub(in crate::runtime) fn snapshot_log_bytes_max(&self) -> u64 {
        let is_limited = self.limit_bytes.load(Ordering::Relaxed) > 0;
        self.log_bytes_max() / if is_limited { 4 } else { 2 }
    }

    /// Returns the limit on log entries in memory, in bytes, above which a follower drops the
    /// leader's appends: 1.25 times [`MemoryBoard::log_bytes_max`], the limit above which a leader
    /// refuses writes. The difference allows for replicas that compact their logs at different
    /// indexes; without it, followers might drop a write that the leader has admitted, and the
    /// client would not learn the outcome of the write.
    pub(in crate::runtime) fn appended_bytes_max(&self) -> u64 {
        let most = self.log_bytes_max();
        most + most / 4
    }
}

/// The latest measurement of free disk space, which the log writer makes about every 100 ms and
/// other stages read.
#[derive(Debug, Default)]
pub(in crate::runtime) struct DiskSpaceBoard {
    free: AtomicU64,
    held: AtomicU64,
    /// Value of the option `--disk-reserve`, in bytes: disk space counts as low while fewer bytes
    /// than this are free. 0 for no reserve. Never changes.
    pub(in crate::runtime) reserve: u64,
}

impl DiskSpaceBoard {
    /// Creates the shared record of free disk space, with a disk reserve of `reserve` bytes. Until
    /// the first measurement, the free space is 0.
    pub(in crate::runtime) fn new(reserve: u64) -> DiskSpaceBoard {
        DiskSpaceBoard { reserve, ..DiskSpaceBoard::default() }
    }

    /// Publishes `space`, a new measurement of free disk space.
    pub(in crate::runtime) fn write(&self, space: FreeSpace) {
        self.free.store(space.free, Ordering::Relaxed);
        self.held.store(space.held, Ordering::Relaxed);
    }

    /// Returns the latest measurement of free disk space.
    pub(in crate::runtime) fn read(&self) -> FreeSpace {
        let (free, held) = (&self.free, &self.held);
        FreeSpace { free: free.load(Ordering::Relaxed), held: held.load(Ordering::Relaxed) }
    }

    /// Returns whether there is enough free disk space for a snapshot to write `bytes` more bytes:
    /// afterwards, an eighth of `--disk-reserve` must still be free. The file `reserve`, which
    /// holds a part of the reserve, does not count as free.
    pub(in crate::runtime) fn fits_snapshot(&self, bytes: u64) -> bool {
        self.read().free >= bytes.saturating_add(self.reserve / 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raft_log_memory_share_is_half_of_maxmemory_within_bounds() {
        let board = MemoryBoard::default();
        assert_eq!(board.log_bytes_max(), LOG_BYTES_MAX);
        for (limit, log) in [(1, LOG_BYTES_MIN), (400 << 20, 200 << 20), (9 << 30, 1 << 30)] {
            board.set_limit(limit);
            assert_eq!(board.log_bytes_max(), log, "of {limit}");
        }
    }
}
