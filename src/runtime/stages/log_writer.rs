//! The log writer stage: makes append jobs durable, in order, then sends the messages that must not
//! be sent before that, and reports the completed jobs to the core. It does not interpret the
//! messages that it sends.
//!
//! Group commit: all waiting jobs are written and synced together. Jobs that arrive meanwhile wait
//! for the next sync, so on a slower disk each sync covers more jobs.
//!
//! A [`LogStorage`] decides where the entries are stored. A failed write or sync ends the process,
//! because the content of the disk is then unknown and the replica must not acknowledge anything
//! any more.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam::channel::RecvTimeoutError;

use crate::raft::{AppendJob, Persisted};
use crate::record::Entry;
use crate::runtime::boards::RuntimeCounters;
use crate::runtime::channels::{AppendBatch, CoreItem, DiskSpaceReport, LogWriterEnds};
use crate::runtime::trace_board::{TraceBoard, TracedStep};
use crate::storage::failpoint::reach;

use super::disk_space;

/// Storage to which the log writer writes the Raft log. Its methods return no errors, because every
/// failed disk operation ends the process.
pub(crate) trait LogStorage: Send {
    /// Writes an append job, that is, log entries and hard state (term and vote). They are durable
    /// after the next [`LogStorage::sync`].
    fn append(&mut self, job: &AppendJob);

    /// Makes everything durable that [`LogStorage::append`] has written.
    fn sync(&mut self);

    /// Compacts the log: removes its first entries, up to the index permitted by the jobs that were
    /// appended since the last call.
    fn compact(&mut self);

    /// Returns whether a call of [`LogStorage::sync`] blocks until a disk has completed its writes,
    /// so that the log writer needs a thread of its own.
    fn waits_for_disk(&self) -> bool;

    /// Returns how long the log writer must wait before it writes the next jobs, so that a running
    /// snapshot can keep up; `None` if it need not wait.
    fn delay(&self) -> Option<Duration> {
        None
    }

    /// Returns the maximum total size, in bytes, of the append jobs in one pass (iteration of the
    /// log writer's loop). The last job may exceed it.
    fn pass_bytes_max(&self) -> usize {
        usize::MAX
    }

    /// Measures free disk space if a measurement is due. Returns a report if the Raft core must be
    /// informed, otherwise `None`. Storage without a disk always returns `None`.
    fn measure_space(&mut self) -> Option<DiskSpaceReport> {
        None
    }
}

/// The log writer stage: makes append jobs (log entries and hard state, term and vote) durable, in
/// order.
pub(crate) struct LogWriter {
    log: Box<dyn LogStorage>,
    ends: LogWriterEnds,
    /// Whether the last call of [`LogWriter::run_ready`] did nothing because the Raft core's queue
    /// was full.
    skipped: bool,
    counters: Arc<RuntimeCounters>,
    trace: Arc<TraceBoard>,
}

impl LogWriter {
    /// Creates a log writer that writes to `log`, which is either the segment files on disk or,
    /// under the university course's simulator, a storage that keeps nothing.
    pub(crate) fn new(
        log: Box<dyn LogStorage>,
        ends: LogWriterEnds,
        counters: Arc<RuntimeCounters>,
    ) -> LogWriter {
        LogWriter { log, ends, skipped: false, counters, trace: Arc::default() }
    }

    /// Sets the board that has the write that is being traced.
    pub(crate) fn with_trace(mut self, trace: Arc<TraceBoard>) -> LogWriter {
        self.trace = trace;
        self
    }

    /// Returns whether the log writer blocks until a disk has completed its writes, so that it must
    /// not share a thread with the Raft core.
    pub(crate) fn waits_for_disk(&self) -> bool {
        self.log.waits_for_disk()
    }

    /// Writes jobs on the current thread, which runs only the log writer, until the Raft core has
    /// stopped.
    pub(crate) fn run(&mut self) {
        loop {
            if let Some(report) = self.log.measure_space() {
                // An error means that the core has stopped, and then so does this stage.
                let _ = self.ends.to_core.send(CoreItem::DiskSpace(report));
            }
            match self.ends.jobs.recv_timeout(disk_space::INTERVAL) {
                Ok(batch) => {
                    // Jobs that arrive during the delay are written in the same pass. A vote is not
                    // delayed.
                    let has_vote = batch.jobs.iter().any(|job| job.hard_state.is_some());
                    if !has_vote && let Some(delay) = self.log.delay() {
                        thread::sleep(delay);
                    }
                    self.run_once(batch);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Runs one pass (iteration of the stage's loop) on a thread shared with other stages, without
    /// blocking; does nothing while the Raft core's queue is full. `has_jobs` says whether the core
    /// has sent a job since the last call.
    pub(crate) fn run_ready(&mut self, has_jobs: bool) {
        if !has_jobs && !self.skipped {
            return;
        }
        self.skipped = self.ends.to_core.is_full();
        if !self.skipped
            && let Ok(batch) = self.ends.jobs.try_recv()
        {
            self.run_once(batch);
        }
    }

    /// Runs one pass (iteration of the stage's loop): writes and syncs `first` together with the
    /// jobs in the queue, then sends the messages and the completions of these jobs.
    pub(crate) fn run_once(&mut self, first: AppendBatch) {
        let mut completions = Vec::with_capacity(first.jobs.len());
        let mut released = Vec::new();
        let mut bytes = 0;
        let waiting = self.ends.jobs.len();
        let bytes_max = self.log.pass_bytes_max();
        for batch in std::iter::once(first).chain(self.ends.jobs.try_iter().take(waiting)) {
            bytes += batch.bytes;
            for mut job in batch.jobs {
                self.log.append(&job);
                let last = job.entries.last().map(Entry::id);
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
        debug_assert!(
            completions.is_sorted_by(|one, next| one.sequence < next.sequence),
            "jobs out of order: {completions:?}"
        );
        reach("log", "appended");
        self.log.sync();
        if let Some(last) = completions.iter().rev().find_map(|it| it.last) {
            self.trace.note(TracedStep::Durable, last.index);
        }
        reach("log", "synced");
        // Sent after the sync and not before: a follower that lost power in between would restart
        // without entries that it had acknowledged.
        if !released.is_empty()
            && let Err(refused) = self.ends.to_network.try_send(released)
        {
            self.counters.outbound_dropped.add(refused.into_inner().len());
        }
        // An error means that the core has stopped, and then so does this stage.
        let _ = self.ends.to_core.send(CoreItem::Persisted { completions, bytes });
        // Last, because nothing waits for it.
        self.log.compact();
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::feature_level::FeatureLevel;
    use crate::raft::{AppendOutcome, AppendReply, DiskState, Envelope, HardState, PeerMsg};
    use crate::record::{EntryKind, RecordBuffer};
    use crate::runtime::channels::{Ends, QUEUE_LEN, channels};
    use crate::runtime::wake::tests::unused_wake;
    use crate::types::{EntryId, Index, JobSequence, NodeId, Round, Term};

    /// Log storage for tests that completes every append job at once and keeps nothing.
    pub(in crate::runtime::stages) struct NoStorage;

    impl LogStorage for NoStorage {
        fn append(&mut self, _job: &AppendJob) {}

        fn sync(&mut self) {}

        fn compact(&mut self) {}

        fn waits_for_disk(&self) -> bool {
            false
        }
    }

    fn writer(ends: LogWriterEnds) -> LogWriter {
        LogWriter::new(Box::new(NoStorage), ends, Arc::default())
    }

    fn acknowledgement(index: u64) -> Envelope {
        let outcome = AppendOutcome::Match { index: Index(index) };
        let disk = DiskState::Healthy;
        let reply = AppendReply {
            term: Term(1),
            round: Round(1),
            level: FeatureLevel::OLDEST,
            disk,
            outcome,
        };
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
            feature_level: FeatureLevel::OLDEST,
            rejoined: false,
            release: vec![acknowledgement(sequence)],
            restart_after: None,
            compact_to: None,
        }
    }

    #[test]
    fn log_writes_complete_in_order_and_release_waiting_messages() {
        let Ends { network, core, log_writer: ends, .. } = channels(&unused_wake(), false);
        let mut log_writer = writer(ends);
        let batch = |jobs, bytes| AppendBatch { jobs, bytes };
        core.to_log_writer.send(batch(vec![job(3, Some(9))], 30)).unwrap();
        log_writer.run_once(batch(vec![job(1, Some(7)), job(2, None)], 12));
        let released = network.released.try_recv().expect("one batch for all jobs");
        assert_eq!(released, [acknowledgement(1), acknowledgement(2), acknowledgement(3)]);
        let item = core.inbox.try_recv().unwrap();
        let CoreItem::Persisted { completions, bytes } = item else {
            unreachable!("{item:?} is not a completion");
        };
        let persisted = |sequence, last: Option<u64>| Persisted {
            sequence: JobSequence(sequence),
            last: last.map(|index| EntryId::new(1, index)),
        };
        assert_eq!(completions, [persisted(1, Some(7)), persisted(2, None), persisted(3, Some(9))]);
        assert_eq!(bytes, 42);
    }

    #[test]
    fn full_network_queue_drops_messages_but_log_writes_complete() {
        let Ends { network, core, log_writer: ends, .. } = channels(&unused_wake(), false);
        let mut log_writer = writer(ends);
        for sequence in 1..=QUEUE_LEN as u64 + 1 {
            log_writer.run_once(AppendBatch { jobs: vec![job(sequence, None)], bytes: 1 });
            assert!(core.inbox.try_recv().is_ok(), "job {sequence} is not completed");
        }
        assert_eq!(network.released.len(), QUEUE_LEN);
        assert_eq!(log_writer.counters.outbound_dropped.get(), 1);
    }
}
