//! The log on disk, as the log writer uses it. Besides writing the files, it measures free disk
//! space, and slows the log writer down if a running snapshot could not keep up otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::raft::AppendJob;
use crate::runtime::boards::{DiskSpaceBoard, RuntimeCounters};
use crate::runtime::channels::DiskSpaceReport;
use crate::runtime::fatal::exit_on_disk_failure;
use crate::storage::{Log, RealDisk, StorageError};
use crate::types::Index;

use super::disk_space::DiskSpaceMonitor;
use super::log_writer::LogStorage;
use super::snapshot_scheduler::SnapshotScheduler;

/// Log storage in segment files. Also measures free disk space, and delays appends while a snapshot
/// is written too slowly for the growth of the log.
pub(crate) struct DiskLog {
    log: Log<RealDisk>,
    disk_space: DiskSpaceMonitor,
    scheduler: SnapshotScheduler,
    /// Whether this replica is rejoining after the loss of its folder. The replica states this in
    /// the hellos (first frames of connections) that it sends to its peers.
    rejoining: Arc<AtomicBool>,
    counters: Arc<RuntimeCounters>,
    /// The index of the last entry that may be removed from the log, according to the jobs appended
    /// since the last compaction; `None` if these jobs allow no entries to be removed.
    compact_to: Option<Index>,
    /// Whether a job appended since the last sync has made this replica a full member again after
    /// the loss of its folder.
    rejoined: bool,
}

impl DiskLog {
    /// Creates the storage for an open log. `scheduler` delays appends while the log grows too fast
    /// for the running snapshot. `rejoining` is set to false once the replica is a full member
    /// again.
    pub(crate) fn new(
        log: Log<RealDisk>,
        disk_space: &Arc<DiskSpaceBoard>,
        scheduler: SnapshotScheduler,
        rejoining: Arc<AtomicBool>,
        counters: Arc<RuntimeCounters>,
    ) -> DiskLog {
        scheduler.note_end(log.stats().end);
        DiskLog {
            log,
            disk_space: DiskSpaceMonitor::new(Arc::clone(disk_space)),
            scheduler,
            rejoining,
            counters,
            compact_to: None,
            rejoined: false,
        }
    }
}

impl LogStorage for DiskLog {
    fn append(&mut self, job: &AppendJob) {
        self.compact_to = job.compact_to.or(self.compact_to);
        self.rejoined |= job.rejoined;
        write(&mut self.log, job).unwrap_or_else(|error| exit_on_disk_failure(&error));
    }

    fn sync(&mut self) {
        let has_unsynced = self.log.has_unsynced();
        let began_at = Instant::now();
        self.log.sync().unwrap_or_else(|error| exit_on_disk_failure(&error));
        if has_unsynced {
            self.counters.log_sync_times.add(began_at.elapsed());
            self.counters.log_syncs.add_one();
        }
        if std::mem::take(&mut self.rejoined) {
            self.log.end_rejoining().unwrap_or_else(|error| exit_on_disk_failure(&error));
            // New connections must not announce this replica as rejoining any more.
            self.rejoining.store(false, Ordering::Release);
            tracing::info!("rejoined: this replica is a full member and votes again");
        }
        self.scheduler.note_end(self.log.stats().end);
    }

    fn compact(&mut self) {
        if let Some(index) = self.compact_to.take() {
            self.log.compact_to(index).unwrap_or_else(|error| exit_on_disk_failure(&error));
        }
    }

    fn waits_for_disk(&self) -> bool {
        true
    }

    fn delay(&self) -> Option<Duration> {
        self.scheduler.delay()
    }

    fn pass_bytes_max(&self) -> usize {
        self.scheduler.pass_bytes_max()
    }

    fn measure_space(&mut self) -> Option<DiskSpaceReport> {
        let segment_count = self.log.stats().segments;
        self.disk_space.measure(self.log.disk_mut(), segment_count)
    }
}

/// Writes an append job to the log. The order is: the job's feature level, its hard state (term and
/// vote), the restart of the log after a snapshot, if any, and the job's entries. The order
/// matters, because the log must have stored a term before it contains an entry of that term.
fn write(log: &mut Log<RealDisk>, job: &AppendJob) -> Result<(), StorageError> {
    log.raise_feature_level(job.feature_level)?;
    log.append(job.hard_state, &[])?;
    if let Some(last) = job.restart_after {
        log.restart_after(last)?;
    }
    log.append(None, &job.entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feature_level::FeatureLevel;
    use crate::raft::{HardState, SnapshotId};
    use crate::record::{EntryKind, RecordBuffer};
    use crate::storage::LogOptions;
    use crate::types::{EntryId, JobSequence, NodeId, Term};

    /// Tests that a log that is reset after a leader's snapshot accepts the snapshot's term if the
    /// hard state in the same append job has that term.
    #[test]
    fn log_restart_after_snapshot_accepts_a_term_written_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = RealDisk::create(folder.path()).unwrap();
        Log::bootstrap(&mut disk, 5, NodeId(1), &[NodeId(1)]).unwrap();
        let options = LogOptions::default();
        let (mut log, ..) = Log::open(disk, Some(5), NodeId(1), options, None).unwrap();
        let last = EntryId::new(3, 9);
        let hard_state = HardState { term: Term(3), voted_for: None };
        let entries =
            vec![RecordBuffer::default().encode(EntryId::new(3, 10), EntryKind::Command, b"x")];
        let job = AppendJob {
            sequence: JobSequence(1),
            hard_state: Some(hard_state),
            entries: entries.clone(),
            feature_level: FeatureLevel::OLDEST,
            rejoined: false,
            release: Vec::new(),
            restart_after: Some(last),
            compact_to: None,
        };
        write(&mut log, &job).unwrap();
        log.sync().unwrap();
        let snapshot = SnapshotId { last, bytes: 1, checksum: 1 };
        let disk = log.into_disk();
        let (_, durable, _) = Log::open(disk, None, NodeId(1), options, Some(snapshot)).unwrap();
        assert_eq!((durable.hard_state, durable.entries), (hard_state, entries));
    }
}
