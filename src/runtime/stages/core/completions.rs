//! How the core handles reports from other stages: completed jobs, snapshots, and free disk space.

use std::time::Duration;

use crate::raft::{Msg, Persisted, SnapshotId};
use crate::runtime::channels::{
    Applied, DiskSpaceReport, IndexedReads, ReceivedSnapshot, SnapshotEvent,
};

use super::Core;

/// Minimum number of segment files of the log at which the core requests a snapshot because disk
/// space is scarce; a newer snapshot allows segments to be removed. If free space is even below the
/// disk reserve, the minimum is [`LOW_SEGMENTS_MIN`] instead.
const SCARCE_SEGMENTS_MIN: u64 = 4;
const LOW_SEGMENTS_MIN: u64 = 2;
/// Minimum time between two snapshots that the core requests because disk space is scarce.
const SCARCE_DISK_INTERVAL: Duration = Duration::from_secs(20);

impl Core {
    pub(super) fn on_persisted(&mut self, completions: Vec<Persisted>, bytes: usize) {
        self.in_flight.end_append(bytes);
        for completion in completions {
            self.handle(Msg::Persisted(completion));
        }
    }

    pub(super) fn on_applied(&mut self, applied: Applied) {
        let Applied { index, bytes, installed, clock: applied_clock, clock_wanted, digest_report } =
            applied;
        self.in_flight.end_apply(bytes);
        if let Some(clock) = &mut self.replicated_clock {
            clock.note_applied(self.now, applied_clock);
            clock.set_read_target(clock_wanted);
        }
        if let Some(index) = index {
            self.handle(Msg::Applied { index });
        }
        if let Some(report) = digest_report {
            self.digest_schedule.set_report(*report);
        }
        if let Some(installed) = installed {
            self.digest_schedule.note_installed();
            let (snapshot, configuration, level) = *installed;
            self.handle(Msg::Installed(snapshot, configuration, level));
        }
        self.announce_snapshot();
    }

    pub(super) fn on_snapshot_event(&mut self, event: SnapshotEvent) {
        match event {
            SnapshotEvent::Taken(snapshot) => {
                self.unannounced_snapshot = Some(snapshot);
                self.announce_snapshot();
            }
            SnapshotEvent::Lost => self.applies.take_snapshot = true,
            SnapshotEvent::ChunkStored(stored) => self.handle(Msg::ChunkStored(stored)),
            SnapshotEvent::Received(received) => {
                let end = |snapshot: &ReceivedSnapshot| snapshot.id.last.index;
                // If two snapshots wait here, the later one includes the other.
                let waiting = self.applies.install.as_deref();
                if waiting.is_none_or(|waiting| end(waiting) < end(&received)) {
                    self.applies.install = Some(received);
                }
            }
        }
    }

    /// Handles a report on free disk space: informs the consensus code. Also requests a snapshot if
    /// space is scarce and the log has enough segment files, which a snapshot makes removable.
    pub(super) fn on_disk_space(&mut self, report: DiskSpaceReport) {
        self.free_bytes = report.free_bytes;
        let segments_min = if report.space.low { LOW_SEGMENTS_MIN } else { SCARCE_SEGMENTS_MIN };
        if report.is_scarce
            && report.segment_count >= segments_min
            && self.now >= self.scarce_disk_snapshot_at + SCARCE_DISK_INTERVAL
        {
            self.scarce_disk_snapshot_at = self.now;
            self.applies.take_snapshot = true;
        }
        self.handle(Msg::DiskSpace(report.space));
    }

    /// Informs the consensus code of a completed snapshot of this replica, once the consensus code
    /// knows that all entries in the snapshot were applied. The report of the snapshot may reach
    /// the core before the report of the entries.
    fn announce_snapshot(&mut self) {
        let is_applied =
            |snapshot: &SnapshotId| snapshot.last.index <= self.replica.status().applied_index;
        if let Some(snapshot) = self.unannounced_snapshot.take_if(|it| is_applied(it)) {
            self.handle(Msg::SnapshotTaken(snapshot));
        }
    }

    /// Adds reads whose read index the leader has confirmed to the next batch for the applier.
    pub(super) fn queue_reads(&mut self, reads: IndexedReads) {
        let bytes: usize = reads.reads.iter().map(|read| read.payload.len()).sum();
        self.in_flight.start_apply(bytes);
        self.applies.bytes += bytes;
        self.applies.indexed_reads.push(reads);
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::quiet_core_in;
    use super::*;
    use crate::feature_level::FeatureLevel;
    use crate::runtime::channels::CoreItem;
    use crate::types::{EntryId, Index, Term};

    #[test]
    fn raft_learns_of_a_snapshot_only_after_its_entries_are_applied() {
        let (mut core, ..) = quiet_core_in(Term(2));
        let last = EntryId::new(1, 5);
        let snapshot = SnapshotId { last, ..SnapshotId::default() };
        core.run_once(Some(CoreItem::Snapshot(SnapshotEvent::Taken(snapshot))));
        assert_eq!(core.unannounced_snapshot, Some(snapshot), "nothing is applied yet");
        // A snapshot from the leader has advanced the state further.
        let id = SnapshotId { last: EntryId::new(2, 9), ..snapshot };
        let installed = Some(Box::new((id, None, FeatureLevel::OLDEST)));
        core.run_once(Some(CoreItem::Applied(Applied { installed, ..Applied::default() })));
        assert_eq!((core.unannounced_snapshot, core.replica.commit_index()), (None, Index(9)));
    }
}
