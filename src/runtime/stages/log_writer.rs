//! The log writer stage: makes append jobs durable, in order, then lets go what had to wait for it
//! and tells the core. It never looks into what it lets go.
//!
//! Group commit: all jobs that wait are written and synced as one. What comes meanwhile waits for
//! the next sync, so the slower the disk, the more it gets at once.
//!
//! A write or a sync that fails ends the process: nobody knows then what the disk holds, and a
//! replica that can't know must not vouch for anything (safety.md D1).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crossbeam::channel::RecvTimeoutError;

use crate::raft::{AppendJob, Persisted};
use crate::storage::{Log, RealDisk, StorageError};

use crate::runtime::boards::{DiskSpaceBoard, RuntimeCounters};
use crate::runtime::channels::{AppendBatch, CoreItem, LogWriterEnds};
use crate::runtime::course::NeverRestarts;
use crate::runtime::fatal::exit_on_disk_failure;
use crate::runtime::stages::disk_space::{DiskSpaceMonitor, INTERVAL};
use crate::runtime::stages::snapshot_scheduler::SnapshotScheduler;

/// The stage.
pub(crate) struct LogWriter {
    /// `None` only under a simulator that never restarts what it has killed: then jobs complete at
    /// once. [`NeverRestarts`] keeps that from any other replica.
    log: Option<Box<Log<RealDisk>>>,
    ends: LogWriterEnds,
    /// A pass on a shared thread was put off.
    put_off: bool,
    /// How much room the disk has; `None` where there is no disk.
    room: Option<DiskSpaceMonitor>,
    /// What the log is cut behind, and must not leave behind; `None` likewise.
    scheduler: Option<SnapshotScheduler>,
    /// Whether hellos to peers say that this replica rejoins.
    rejoining: Arc<AtomicBool>,
    counters: Arc<RuntimeCounters>,
}

impl LogWriter {
    /// A writer that forgets: what it vouches for is gone with the process. Only to be had with
    /// the proof that nobody will start the process again under the same name.
    pub(crate) fn forgetful(
        _proof: NeverRestarts,
        ends: LogWriterEnds,
        counters: Arc<RuntimeCounters>,
    ) -> LogWriter {
        let rejoining = Arc::default();
        LogWriter {
            log: None,
            ends,
            put_off: false,
            room: None,
            scheduler: None,
            rejoining,
            counters,
        }
    }

    /// A writer that makes durable what it vouches for.
    pub(crate) fn durable(
        log: Log<RealDisk>,
        room: &Arc<DiskSpaceBoard>,
        scheduler: &SnapshotScheduler,
        ends: LogWriterEnds,
        counters: &Arc<RuntimeCounters>,
    ) -> LogWriter {
        scheduler.note_end(log.stats().end);
        let room = Some(DiskSpaceMonitor::new(Arc::clone(room)));
        let (log, scheduler, counters) =
            (Some(Box::new(log)), Some(scheduler.clone()), Arc::clone(counters));
        let rejoining = Arc::default();
        LogWriter { log, ends, put_off: false, room, scheduler, rejoining, counters }
    }

    /// The same writer, which clears this flag when the replica has rejoined.
    pub(crate) fn rejoining(mut self, flag: Arc<AtomicBool>) -> LogWriter {
        self.rejoining = flag;
        self
    }

    /// A writer that forgets, for tests.
    #[cfg(test)]
    pub(crate) fn in_memory(ends: LogWriterEnds) -> LogWriter {
        let (rejoining, counters) = (Arc::default(), Arc::default());
        LogWriter {
            log: None,
            ends,
            put_off: false,
            room: None,
            scheduler: None,
            rejoining,
            counters,
        }
    }

    /// Whether it never waits for a disk, so that it may share a thread with the core.
    pub(crate) fn completes_at_once(&self) -> bool {
        self.log.is_none()
    }

    /// Passes without end, on a thread of its own, until the core has ended.
    pub(crate) fn run(&mut self) {
        loop {
            self.measure_disk_space();
            match self.ends.jobs.recv_timeout(INTERVAL) {
                Ok(batch) => {
                    // More may come meanwhile, and is then written with it. A vote does not wait.
                    let votes = batch.jobs.iter().any(|job| job.hard_state.is_some());
                    let scheduler = self.scheduler.as_ref().filter(|_| !votes);
                    if let Some(delay) = scheduler.and_then(SnapshotScheduler::delay) {
                        thread::sleep(delay);
                    }
                    self.run_once(batch);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn measure_disk_space(&mut self) {
        let (Some(log), Some(room)) = (&mut self.log, &mut self.room) else { return };
        let segments = log.stats().segments;
        if let Some(news) = room.measure(log.disk_mut(), segments) {
            // An error means that the core has ended, and then so do we.
            let _ = self.ends.to_core.send(CoreItem::DiskSpace(news));
        }
    }

    /// A pass for whom must not be blocked: puts off what was handed on while the core's queue is
    /// full.
    pub(crate) fn run_ready(&mut self, handed_on: bool) {
        if !handed_on && !self.put_off {
            return;
        }
        self.put_off = self.ends.to_core.is_full();
        if !self.put_off
            && let Ok(batch) = self.ends.jobs.try_recv()
        {
            self.run_once(batch);
        }
    }

    /// One pass: `first` and all that waits behind it.
    pub(crate) fn run_once(&mut self, first: AppendBatch) {
        let mut completions = Vec::with_capacity(first.jobs.len());
        let mut released = Vec::new();
        let mut bytes = 0;
        let mut compact_to = None;
        let mut rejoined = false;
        let waiting = self.ends.jobs.len();
        let bytes_max = self.scheduler.as_ref().map_or(usize::MAX, SnapshotScheduler::pass_bytes);
        for batch in std::iter::once(first).chain(self.ends.jobs.try_iter().take(waiting)) {
            bytes += batch.bytes;
            for mut job in batch.jobs {
                compact_to = job.compact_to.or(compact_to);
                rejoined |= job.rejoined;
                if let Some(log) = &mut self.log {
                    write(log, &job).unwrap_or_else(|error| exit_on_disk_failure(&error));
                }
                let last = job.entries.last().map(crate::record::Entry::id);
                completions.push(Persisted { sequence: job.sequence, last });
                if released.is_empty() {
                    released = job.release;
                } else {
                    released.append(&mut job.release);
                }
            }
            if bytes >= bytes_max {
                break;
            }
        }
        if let Some(log) = &mut self.log {
            self.counters.log_syncs.add(log.is_waiting().into());
            log.sync().unwrap_or_else(|error| exit_on_disk_failure(&error));
            if rejoined {
                log.end_rejoining().unwrap_or_else(|error| exit_on_disk_failure(&error));
                // New connections must not announce this replica as rejoining any more.
                self.rejoining.store(false, Ordering::Release);
                tracing::info!(
                    "rejoined: this replica holds what the others hold, and votes again"
                );
            }
            if let Some(scheduler) = &self.scheduler {
                scheduler.note_end(log.stats().end);
            }
        }
        // The messages leave after the sync and not with the write: a follower that lost power in
        // between would come back without entries it had vouched for.
        if !released.is_empty()
            && let Err(refused) = self.ends.to_network.try_send(released)
        {
            self.counters.outbound_dropped.add(refused.into_inner().len());
        }
        // An error means that the core has ended, and then so do we.
        let _ = self.ends.to_core.send(CoreItem::Persisted { completions, bytes });
        // Nobody waits for that.
        if let (Some(log), Some(index)) = (&mut self.log, compact_to) {
            log.compact_to(index).unwrap_or_else(|error| exit_on_disk_failure(&error));
        }
    }
}

/// Hands a job to the log. The term comes first, for the log may begin anew behind an entry of it.
fn write(log: &mut Log<RealDisk>, job: &AppendJob) -> Result<(), StorageError> {
    log.append(job.hard_state, &[])?;
    if let Some(last) = job.restart_after {
        log.restart_after(last)?;
    }
    log.append(None, &job.entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::{AppendOutcome, AppendReply, DiskState, Envelope, HardState, PeerMsg};
    use crate::record::{EntryKind, RecordBuffer};
    use crate::runtime::channels::{Ends, QUEUE_LEN, channels};
    use crate::runtime::wake::tests::unused_wake;
    use crate::types::{EntryId, Index, JobSequence, NodeId, Round, Term};

    fn vouch(index: u64) -> Envelope {
        let outcome = AppendOutcome::Match { index: Index(index) };
        let reply =
            AppendReply { term: Term(1), round: Round(1), disk: DiskState::Healthy, outcome };
        Envelope {
            from: NodeId(1),
            to: NodeId(0),
            leader: Some(NodeId(0)),
            message: PeerMsg::AppendReply(reply),
        }
    }

    fn job(sequence: u64, last: Option<u64>) -> AppendJob {
        let entries = last.map(|index| {
            RecordBuffer::default().encode(EntryId::new(1, index), EntryKind::Command, b"x")
        });
        AppendJob {
            sequence: JobSequence(sequence),
            hard_state: Some(HardState::default()),
            entries: entries.into_iter().collect(),
            rejoined: false,
            release: vec![vouch(sequence)],
            restart_after: None,
            compact_to: None,
        }
    }

    #[test]
    fn every_job_is_completed_in_order_and_lets_go_what_waited() {
        let Ends { network, core, log_writer: ends, .. } = channels(&unused_wake(), false);
        let mut log_writer = LogWriter::in_memory(ends);
        let batch = |jobs, bytes| AppendBatch { jobs, bytes };
        core.to_log_writer.send(batch(vec![job(3, Some(9))], 30)).unwrap();
        log_writer.run_once(batch(vec![job(1, Some(7)), job(2, None)], 12));
        let released = network.released.try_recv().expect("one batch for all that waited");
        assert_eq!(released, [vouch(1), vouch(2), vouch(3)]);
        let item = core.inbox.try_recv().unwrap();
        let CoreItem::Persisted { completions, bytes } = item else {
            unreachable!("{item:?} is no completion");
        };
        let persisted = |sequence, last: Option<u64>| Persisted {
            sequence: JobSequence(sequence),
            last: last.map(|index| EntryId::new(1, index)),
        };
        assert_eq!(completions, [persisted(1, Some(7)), persisted(2, None), persisted(3, Some(9))]);
        assert_eq!(bytes, 42);
    }

    /// The term may be as new as the snapshot.
    #[test]
    fn a_log_begins_anew_behind_an_entry_of_the_jobs_own_term() {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = RealDisk::create(folder.path()).unwrap();
        Log::bootstrap(&mut disk, 5, NodeId(1), &[NodeId(1)]).unwrap();
        let options = crate::storage::LogOptions::default();
        let (mut log, ..) = Log::open(disk, Some(5), NodeId(1), options, None).unwrap();
        let last = EntryId::new(3, 9);
        let hard_state = HardState { term: Term(3), voted_for: None };
        let entries =
            vec![RecordBuffer::default().encode(EntryId::new(3, 10), EntryKind::Command, b"x")];
        let job = AppendJob {
            hard_state: Some(hard_state),
            restart_after: Some(last),
            entries: entries.clone(),
            ..job(1, None)
        };
        write(&mut log, &job).unwrap();
        log.sync().unwrap();
        let snapshot = crate::raft::SnapshotId { last, bytes: 1, checksum: 1 };
        let disk = log.into_disk();
        let (_, durable, _) = Log::open(disk, None, NodeId(1), options, Some(snapshot)).unwrap();
        assert_eq!((durable.hard_state, durable.entries), (hard_state, entries));
    }

    #[test]
    fn what_a_full_network_does_not_take_is_dropped_and_counted_but_completed() {
        let Ends { network, core, log_writer: ends, .. } = channels(&unused_wake(), false);
        let mut log_writer = LogWriter::in_memory(ends);
        for sequence in 1..=QUEUE_LEN as u64 + 1 {
            log_writer.run_once(AppendBatch { jobs: vec![job(sequence, None)], bytes: 1 });
            assert!(core.inbox.try_recv().is_ok(), "job {sequence} is not completed");
        }
        assert_eq!(network.released.len(), QUEUE_LEN);
        assert_eq!(log_writer.counters.outbound_dropped.get(), 1);
    }
}
