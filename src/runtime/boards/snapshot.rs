//! The latest snapshot of this replica, and when the next one begins.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::raft::SnapshotId;

/// How much the log must grow after the completion of the latest snapshot before the next one
/// begins: the larger of a percentage of that snapshot's size and a minimum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::runtime) struct SnapshotGrowth {
    /// Log growth as a percentage of the latest snapshot's size; 0 if only the memory limit
    /// triggers snapshots.
    pub(in crate::runtime) percentage: u64,
    /// Minimum log growth in bytes, regardless of how small the latest snapshot is.
    pub(in crate::runtime) bytes_min: u64,
}

/// The latest snapshot of this replica, whether another snapshot is being taken, and the log growth
/// after which the next snapshot begins.
#[derive(Debug, Default)]
pub(in crate::runtime) struct SnapshotBoard {
    growth_percentage: AtomicU64,
    growth_bytes_min: AtomicU64,
    index: AtomicU64,
    bytes: AtomicU64,
    /// Time at which the latest snapshot was completed, or loaded at the start of the process, in
    /// seconds since 1970; 0 before the first snapshot.
    saved_at: AtomicU64,
    /// Time at which the running snapshot began, in seconds since 1970; 0 if no snapshot is
    /// running.
    begun_at: AtomicU64,
    /// Number of snapshots completed since the process started.
    saves: AtomicU64,
    /// Number of attempts to take a snapshot that have failed since the process started.
    failures: AtomicU64,
    /// Duration of the latest completed snapshot in seconds. Meaningless while `saves` is 0.
    last_seconds: AtomicU64,
    taking: AtomicBool,
    failed: AtomicBool,
    /// Whether a snapshot of this replica's state, with the right checksums, had other contents
    /// than the state's digest says.
    contradicts: AtomicBool,
}

/// The status of this replica's snapshots, as read from [`SnapshotBoard`] at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::runtime) struct SnapshotStatus {
    /// The index of the last entry in the latest snapshot; 0 before the first snapshot.
    pub(in crate::runtime) index: u64,
    /// The size of the latest snapshot in bytes; 0 before the first snapshot.
    pub(in crate::runtime) bytes: u64,
    /// Time at which the latest snapshot was completed, or loaded at the start of the process, in
    /// seconds since 1970; 0 before the first snapshot.
    pub(in crate::runtime) saved_at: u64,
    /// Whether a snapshot is being taken now.
    pub(in crate::runtime) taking: bool,
    /// Whether the last attempt to take a snapshot failed.
    pub(in crate::runtime) failed: bool,
    /// Number of snapshots completed since the process started.
    pub(in crate::runtime) saves: u64,
    /// Number of attempts to take a snapshot that have failed since the process started.
    pub(in crate::runtime) failures: u64,
    /// Duration of the latest completed snapshot in seconds; `None` before the first.
    pub(in crate::runtime) last_seconds: Option<u64>,
    /// Time in seconds since the running snapshot began; `None` if no snapshot is running.
    pub(in crate::runtime) current_seconds: Option<u64>,
}

/// Returns the time of the wall clock in seconds since 1970.
fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl SnapshotBoard {
    /// Changes the log growth after which a snapshot begins.
    pub(in crate::runtime) fn set_growth(&self, growth: SnapshotGrowth) {
        self.growth_percentage.store(growth.percentage, Ordering::Relaxed);
        self.growth_bytes_min.store(growth.bytes_min, Ordering::Relaxed);
    }

    /// Records that the state of this replica contradicts its digest.
    pub(in crate::runtime) fn note_contradiction(&self) {
        self.contradicts.store(true, Ordering::Relaxed);
    }

    /// Returns whether the state of this replica has been found to contradict its digest since the
    /// last call.
    pub(in crate::runtime) fn take_contradiction(&self) -> bool {
        self.contradicts.load(Ordering::Relaxed) && self.contradicts.swap(false, Ordering::Relaxed)
    }

    /// Returns the log growth after which a snapshot begins.
    pub(in crate::runtime) fn growth(&self) -> SnapshotGrowth {
        SnapshotGrowth {
            percentage: self.growth_percentage.load(Ordering::Relaxed),
            bytes_min: self.growth_bytes_min.load(Ordering::Relaxed),
        }
    }

    /// Records that a snapshot has begun, because the applier has sent an immutable view of the
    /// state to the snapshots stage.
    pub(in crate::runtime) fn begin(&self) {
        self.begun_at.store(unix_seconds(), Ordering::Relaxed);
        self.taking.store(true, Ordering::Relaxed);
    }

    /// Returns whether a snapshot is being taken.
    pub(in crate::runtime) fn is_taking(&self) -> bool {
        self.taking.load(Ordering::Relaxed)
    }

    /// Returns the size of the latest snapshot in bytes; 0 before the first snapshot.
    pub(in crate::runtime) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Records that the running snapshot has ended: it has failed if `failed` is true, and is
    /// complete otherwise.
    pub(in crate::runtime) fn end(&self, failed: bool) {
        self.failed.store(failed, Ordering::Relaxed);
        self.failures.fetch_add(failed.into(), Ordering::Relaxed);
        self.taking.store(false, Ordering::Relaxed);
    }

    /// Records that the running snapshot is complete, and its duration.
    pub(in crate::runtime) fn note_saved(&self) {
        let seconds = unix_seconds().saturating_sub(self.begun_at.load(Ordering::Relaxed));
        self.last_seconds.store(seconds, Ordering::Relaxed);
        self.saves.fetch_add(1, Ordering::Relaxed);
    }

    /// Publishes `latest` as this replica's latest snapshot: its index, its size, and the current
    /// time as the time of its completion.
    pub(in crate::runtime) fn note(&self, latest: SnapshotId) {
        self.index.store(latest.last.index.0, Ordering::Relaxed);
        self.bytes.store(latest.bytes, Ordering::Relaxed);
        self.saved_at.store(unix_seconds(), Ordering::Relaxed);
    }

    /// Returns the status of this replica's snapshots. Its fields are read one by one, so during an
    /// update they may belong to different snapshots.
    pub(in crate::runtime) fn read(&self) -> SnapshotStatus {
        let saves = self.saves.load(Ordering::Relaxed);
        let last_seconds = self.last_seconds.load(Ordering::Relaxed);
        let begun_at = self.begun_at.load(Ordering::Relaxed);
        SnapshotStatus {
            saves,
            failures: self.failures.load(Ordering::Relaxed),
            last_seconds: (saves > 0).then_some(last_seconds),
            current_seconds: self.is_taking().then(|| unix_seconds().saturating_sub(begun_at)),
            index: self.index.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            saved_at: self.saved_at.load(Ordering::Relaxed),
            taking: self.taking.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }
}
