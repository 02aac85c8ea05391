//! The effects of a pass on their way to the other stages, and the bytes of jobs in flight. Output
//! that does not fit into a full queue stays in the core and joins the next batch; only messages to
//! peers are dropped.

use std::time::Duration;

use crossbeam::channel::TrySendError;

use crate::raft::{AppendJob, ApplyJob, DiskState, Envelope};
use crate::runtime::channels::{ApplyBatch, Leadership, Members, SnapshotJob};
use crate::runtime::fatal::{exit_on_other_kind, exit_on_refused_rejoin};
use crate::runtime::pass::StageState;
use crate::runtime::trace_board::TracedStep;
use crate::types::Instant;

use super::Core;

/// Minimum time between two updates of the replica's status that the other stages see.
const STATUS_INTERVAL: Duration = Duration::from_millis(100);

/// Bytes of append jobs in flight (sent to the log writer and not yet durable) at which the core
/// stops sending committed entries to the applier. Clients therefore cannot write faster than this
/// replica's disk, even if other replicas commit entries faster.
const APPENDS_AHEAD_BYTES: usize = 4 << 20;

/// Total sizes, in bytes, of the jobs in flight: append jobs (sent to the log writer) and apply
/// jobs (sent to the applier) that have not been reported as completed.
///
/// Invariant: `append_bytes <= bytes`.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    bytes: usize,
    append_bytes: usize,
}

/// To which stages the core sent output in its last pass (iteration of its loop).
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct PassOutput {
    /// Whether the core sent anything to the network stage: messages, refusals or a leader change.
    pub(crate) outbound: bool,
    /// Whether the core sent append jobs (log entries to be written) to the log writer.
    pub(crate) appends: bool,
    /// Whether the core sent a batch to the applier, and if so, whether clients may be waiting for
    /// the batch.
    pub(crate) applies: ApplyOutput,
}

/// Whether the core sent a batch to the applier in one pass (iteration of its loop), and whether
/// clients may be waiting for the batch.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum ApplyOutput {
    /// The core sent no batch to the applier.
    #[default]
    None,
    /// The core sent the applier a batch that clients of this replica may be waiting for.
    ForClients,
    /// The core sent the applier a batch that no client is waiting for, as far as the core knows.
    Background,
}

impl InFlight {
    /// Returns the total size in bytes of all jobs in flight, which were sent to the log writer or
    /// the applier and are not completed.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the total size in bytes of the append jobs in flight, which were sent to the log
    /// writer and are not durable yet.
    pub(super) fn append_bytes(&self) -> usize {
        self.append_bytes
    }

    pub(super) fn start_append(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.append_bytes += bytes;
    }

    pub(super) fn start_apply(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    pub(super) fn end_append(&mut self, bytes: usize) {
        assert!(bytes <= self.append_bytes, "{bytes} bytes appended of {}", self.append_bytes);
        self.append_bytes -= bytes;
        self.end_apply(bytes);
    }

    pub(super) fn end_apply(&mut self, bytes: usize) {
        assert!(bytes <= self.bytes, "{bytes} bytes done of {} in flight", self.bytes);
        self.bytes -= bytes;
        assert!(self.append_bytes <= self.bytes, "{} of {}", self.append_bytes, self.bytes);
    }
}

impl Core {
    /// Returns whether the core still has output, such as jobs or refusals, that did not fit into
    /// another stage's full queue.
    pub(super) fn has_unsent(&self) -> bool {
        !(self.outbound.refusals.is_empty()
            && self.outbound.leadership.is_none()
            && self.outbound.members.is_none()
            && self.outbound.answers.is_empty()
            && self.appends.jobs.is_empty()
            && self.applies.is_empty())
    }

    /// Moves the output of the consensus code (messages, jobs, refusals) to the batches that the
    /// core sends to other stages next. Also publishes the replica's status if that is due.
    pub(super) fn collect(&mut self) {
        self.log_disk_state();
        self.rejected_log.report(&mut self.effects.rejected, self.now);
        if let Some(member) = self.effects.rejoin_refused_by {
            exit_on_refused_rejoin(member);
        }
        if std::mem::take(&mut self.effects.is_other_kind) {
            exit_on_other_kind(self.replica.is_witness());
        }
        self.note_leadership();
        self.note_members();
        self.answer_change();
        if self.now >= self.published_at + STATUS_INTERVAL {
            self.published_at = self.now;
            self.status_board.write(self.replica.status());
            self.memory.note_log(self.replica.log().bytes());
            self.log_removal();
        }
        append_or_take(&mut self.outbound.peers, &mut self.effects.send);
        append_or_take(&mut self.outbound.refusals, &mut self.effects.refusals);
        if !self.effects.chunks_to_send.is_empty() {
            let envelopes = std::mem::take(&mut self.effects.chunks_to_send);
            self.send_snapshot_job(SnapshotJob::SendChunks(envelopes));
        }
        if !self.effects.suspect_snapshots.is_empty() {
            let suspects = std::mem::take(&mut self.effects.suspect_snapshots);
            self.send_snapshot_job(SnapshotJob::Verify(suspects));
        }
        if !self.effects.received_chunks.is_empty() {
            let chunks = std::mem::take(&mut self.effects.received_chunks);
            self.send_snapshot_job(SnapshotJob::StoreChunks(chunks));
        }
        if let Some(start) = self.effects.log_start.take() {
            self.send_snapshot_job(SnapshotJob::StoreLogStart(start));
        }
        if let Some(job) = self.effects.append.take() {
            let bytes = append_bytes(&job);
            self.in_flight.start_append(bytes);
            self.appends.bytes += bytes;
            self.appends.jobs.push(job);
        }
        if !self.effects.apply.is_empty() {
            if let Some(last) = self.effects.apply.entries.last() {
                self.trace.note(TracedStep::Committed, last.entry.id().index);
            }
            let bytes = apply_bytes(&self.effects.apply);
            self.in_flight.start_apply(bytes);
            self.applies.bytes += bytes;
            if !self.effects.apply.reads.is_empty() {
                self.set_read_timestamp();
            }
            append_or_take(&mut self.applies.job.entries, &mut self.effects.apply.entries);
            append_or_take(&mut self.applies.job.reads, &mut self.effects.apply.reads);
        }
    }

    /// Reports a change of the term or the leader to the network stage. During a leadership
    /// transfer, and while a witness leads, the report names no leader, so that requests wait in
    /// the network stage and then go to the new leader.
    fn note_leadership(&mut self) {
        let transfer_target = self.replica.transfer_target();
        let leader = if transfer_target.is_some() { None } else { self.replica.serving_leader() };
        let leadership = Leadership { term: self.replica.term(), leader, transfer_target };
        if leadership == self.leadership {
            return;
        }
        match (self.leadership.transfer_target, transfer_target) {
            (before, Some(target)) if before != Some(target) => {
                tracing::info!(%target, disk = ?self.disk, "leadership transfer started");
            }
            (Some(target), None) if self.replica.is_leader() => tracing::warn!(
                %target,
                "leadership transfer ended without success: it was aborted, or the target did not \
                 become the leader in time; this replica is still the leader"
            ),
            (Some(target), None) => {
                tracing::info!(%target, "leadership transfer ended: no longer the leader");
            }
            _ => {}
        }
        self.leadership = leadership;
        if let Some(clock) = &mut self.replicated_clock {
            clock.leader_changed();
        }
        self.outbound.leadership = Some(leadership);
        self.published_at = Instant::ZERO;
    }

    /// Reports a membership change, or a new feature level, to the network stage and to the
    /// replicated clock.
    pub(super) fn note_members(&mut self) {
        let version = (self.replica.members_version(), self.replica.feature_level());
        if version == self.members_version {
            return;
        }
        if version.1 > self.members_version.1 {
            tracing::info!(level = %version.1, "feature level of the cluster raised");
        }
        self.members_version = version;
        let (index, configuration) = self.replica.configuration();
        if let Some(clock) = &mut self.replicated_clock {
            clock.set_members(self.replica.id(), configuration);
        }
        if index != self.members_logged {
            tracing::info!(%index, members = %configuration, "members of the cluster changed");
            self.members_logged = index;
        }
        self.outbound.members = Some(Box::new(Members::of(&self.replica)));
    }

    /// Writes a log line once this replica knows that it was removed from the cluster.
    fn log_removal(&mut self) {
        let (index, configuration) = self.replica.configuration();
        let is_removed = index <= self.replica.commit_index()
            && !configuration.members().is_empty()
            && configuration.member(self.replica.id()).is_none();
        if is_removed && !self.removal_logged {
            tracing::warn!(
                %index,
                "this replica was removed from the cluster: it receives no more entries and serves \
                 no requests; stop it, and delete its folder"
            );
        }
        self.removal_logged = is_removed;
    }

    /// Sets the reading that the replicated clock (which decides when keys expire) in the applied
    /// state must reach before the applier answers the reads that the leader has confirmed now.
    fn set_read_timestamp(&mut self) {
        let Some(clock) = &mut self.replicated_clock else { return };
        // A leader without disk space cannot advance the clock. Then no key expires, but reads are
        // answered.
        let lacks_space = self.replica.is_leader()
            && !self.replica.accepts_writes()
            && self.replica.transfer_target().is_none();
        if !lacks_space {
            self.applies.read_timestamp = clock.for_reads(self.now);
        }
    }

    /// Writes a log line if the disk's state (healthy, low on space or stalled) has changed.
    fn log_disk_state(&mut self) {
        let disk = self.replica.disk();
        if disk == self.disk {
            return;
        }
        let before = std::mem::replace(&mut self.disk, disk);
        self.published_at = Instant::ZERO;
        let free_bytes = self.free_bytes;
        match disk {
            DiskState::Stalled => tracing::warn!(
                "disk stalled: no write has finished for a second; this replica transfers \
                 leadership if it leads, and does not campaign"
            ),
            DiskState::Low if before == DiskState::Healthy => tracing::warn!(
                free_bytes,
                "disk space low: less than --disk-reserve is free; this replica refuses writes \
                 while it leads; free disk space"
            ),
            DiskState::Healthy if before == DiskState::Low => {
                tracing::info!(
                    free_bytes,
                    "disk space is no longer low; this replica accepts writes again while it leads"
                );
            }
            DiskState::Low | DiskState::Healthy => {
                tracing::info!(
                    ?before,
                    now = ?disk,
                    "disk no longer stalled: a write has finished"
                );
            }
        }
    }

    /// Sends a job to the snapshots stage. If the stage's queue is full, drops and counts the job.
    /// Dropped chunks of a snapshot are sent again, since they are not acknowledged.
    fn send_snapshot_job(&self, job: SnapshotJob) {
        if self.ends.to_snapshots.try_send(job).is_err() {
            self.counters.chunks_dropped.add_one();
        }
    }

    /// Sends the pending batches to the stages whose queues have space. The applier's batch is sent
    /// first, because clients are waiting for it. Returns [`StageState::Stopped`] if the network
    /// has stopped.
    pub(super) fn send(&mut self) -> StageState {
        self.output = PassOutput::default();
        if !self.applies.is_empty() && self.in_flight.append_bytes() < APPENDS_AHEAD_BYTES {
            let mut batch = std::mem::take(&mut self.applies);
            batch.leader = self.replica.last_known_leader();
            self.output.applies = if serves_clients(&batch) {
                ApplyOutput::ForClients
            } else {
                ApplyOutput::Background
            };
            if let Err(refused) = self.ends.to_applier.try_send(batch) {
                self.applies = refused.into_inner();
            }
        }
        if !(self.outbound.peers.is_empty()
            && self.outbound.refusals.is_empty()
            && self.outbound.leadership.is_none()
            && self.outbound.members.is_none()
            && self.outbound.answers.is_empty()
            && self.outbound.forwards.is_empty())
        {
            let batch = std::mem::take(&mut self.outbound);
            self.output.outbound = true;
            match self.ends.to_network.try_send(batch) {
                Ok(()) => {}
                Err(TrySendError::Full(mut batch)) => {
                    self.counters.outbound_dropped.add(batch.peers.len());
                    batch.peers.clear();
                    batch.forwards.clear();
                    self.outbound = batch;
                }
                Err(TrySendError::Disconnected(_)) => return StageState::Stopped,
            }
        }
        if !self.appends.jobs.is_empty() {
            let batch = std::mem::take(&mut self.appends);
            self.output.appends = true;
            if let Err(refused) = self.ends.to_log_writer.try_send(batch) {
                self.appends = refused.into_inner();
            }
        }
        StageState::Running
    }
}

/// Moves all elements of `more` to the end of `list`. If `list` is empty, which is the usual case,
/// swaps the two lists instead.
fn append_or_take<T>(list: &mut Vec<T>, more: &mut Vec<T>) {
    if list.is_empty() {
        std::mem::swap(list, more);
    } else {
        list.append(more);
    }
}

/// Returns whether clients of this replica are probably waiting for the batch: true if it contains
/// reads, or entries that this replica committed as the leader. If false, clients may still be
/// waiting for entries committed by another leader.
fn serves_clients(batch: &ApplyBatch) -> bool {
    let ApplyBatch { job, indexed_reads, .. } = batch;
    !(job.reads.is_empty() && indexed_reads.is_empty())
        || job.entries.iter().any(|committed| committed.as_leader)
}

/// Returns the number of bytes that an append job adds to the bytes in flight: the size of its
/// entries, plus a fixed size for the job and for each of its messages, so that the number of empty
/// jobs is limited, too.
fn append_bytes(job: &AppendJob) -> usize {
    let entries: usize = job.entries.iter().map(|entry| entry.record().len()).sum();
    entries + (1 + job.release.len()) * size_of::<Envelope>()
}

fn apply_bytes(job: &ApplyJob) -> usize {
    let entries: usize = job.entries.iter().map(|committed| committed.entry.record().len()).sum();
    let reads: usize = job.reads.iter().map(|read| read.payload.len()).sum();
    entries + reads
}

#[cfg(test)]
mod tests {
    use super::super::RETRY;
    use super::super::test_support::{append_job, quiet_core};
    use super::*;
    use crate::feature_level::FeatureLevel;
    use crate::raft::{
        AppendOutcome, AppendReply, Committed, PeerMsg, Refusal, RefusalReason, SnapshotId,
        TransferRefusal, TransferRequest,
    };
    use crate::record::{EntryKind, RecordBuffer};
    use crate::redis::{AdminAnswer, AdminRequest};
    use crate::runtime::channels::{AdminCall, AdminCaller, CoreItem, QUEUE_LEN};
    use crate::types::{EntryId, Index, NodeId, RequestKey, Round, Term};

    fn to_peer() -> Envelope {
        let outcome = AppendOutcome::Match { index: Index::ZERO };
        let disk = DiskState::Healthy;
        let reply = AppendReply {
            term: Term(1),
            round: Round(1),
            level: FeatureLevel::OLDEST,
            disk,
            outcome,
        };
        let message = PeerMsg::AppendReply(reply);
        Envelope { from: NodeId(0), to: NodeId(1), leader: None, message }
    }

    fn refusal() -> Refusal {
        let key = RequestKey::default();
        Refusal { key, reason: RefusalReason::NotLeader, leader: Some(NodeId(1)) }
    }

    #[test]
    fn applying_entries_waits_while_log_writes_are_far_behind() {
        let (mut core, _network, log_writer, applier) = quiet_core();
        let mut job = append_job(1);
        let mut buffer = RecordBuffer::default();
        let payload = vec![0; APPENDS_AHEAD_BYTES];
        let entry = buffer.encode(EntryId::new(1, 1), EntryKind::Command, &payload);
        job.entries.push(entry);
        core.effects.append = Some(job);
        let entry = buffer.encode(EntryId::new(1, 1), EntryKind::NoOp, b"");
        core.effects.apply.entries.push(Committed { entry, as_leader: false });
        core.collect();
        core.send();
        let bytes = log_writer.jobs.try_recv().unwrap().bytes;
        assert!(applier.jobs.try_recv().is_err(), "applied before the log caught up");
        core.run_once(Some(CoreItem::Persisted { completions: vec![], bytes }));
        assert_eq!(applier.jobs.try_recv().unwrap().job.entries.len(), 1);
    }

    #[test]
    fn full_network_queue_drops_peer_messages_but_no_client_errors() {
        let (mut core, network, ..) = quiet_core();
        for _ in 0..QUEUE_LEN + 3 {
            core.effects.send.push(to_peer());
            core.effects.refusals.push(refusal());
            core.run_once(None);
        }
        assert_eq!(core.counters.outbound_dropped.get(), 3);
        assert!(core.poll_timeout() <= RETRY, "it must try again soon");
        let before: usize = network.outbound.try_iter().map(|it| it.refusals.len()).sum();
        core.run_once(None);
        let after = network.outbound.try_recv().unwrap();
        assert_eq!((before, after.refusals.len(), after.peers.len()), (QUEUE_LEN, 3, 0));
        assert!(core.poll_timeout() > RETRY);
    }

    #[test]
    fn full_network_queue_keeps_answers_to_transfer_requests() {
        let (mut core, network, ..) = quiet_core();
        let caller = AdminCaller::Client(7);
        let request = AdminRequest::Transfer(TransferRequest::Abort);
        let call = AdminCall { caller, request };
        for _ in 0..QUEUE_LEN + 2 {
            core.run_once(Some(CoreItem::Admin(call.clone())));
        }
        let sent: usize = network.outbound.try_iter().map(|it| it.answers.len()).sum();
        core.run_once(None);
        let kept = network.outbound.try_recv().unwrap().answers;
        let refused = (caller, AdminAnswer::Transfer(Err(TransferRefusal::NotLeader)));
        assert_eq!((sent, kept), (QUEUE_LEN, vec![refused; 2]));
    }

    #[test]
    fn append_and_apply_jobs_keep_their_order_when_queues_are_full() {
        let (mut core, _network, log_writer, applier) = quiet_core();
        let mut buffer = RecordBuffer::default();
        let count = QUEUE_LEN as u64 + 3;
        for number in 1..=count {
            core.effects.append = Some(append_job(number));
            let entry = buffer.encode(EntryId::new(1, number), EntryKind::NoOp, b"");
            core.effects.apply.entries.push(Committed { entry, as_leader: false });
            core.collect();
            core.send();
        }
        let mut sequences: Vec<u64> = Vec::new();
        let mut indexes: Vec<u64> = Vec::new();
        let mut bytes = 0;
        for _ in 0..2 {
            for batch in log_writer.jobs.try_iter() {
                bytes += batch.bytes;
                sequences.extend(batch.jobs.iter().map(|job| job.sequence.0));
            }
            for batch in applier.jobs.try_iter() {
                bytes += batch.bytes;
                indexes.extend(batch.job.entries.iter().map(|committed| committed.entry.index().0));
            }
            core.run_once(None);
        }
        assert!(sequences.iter().copied().eq(1..=count), "{sequences:?}");
        assert!(indexes.iter().copied().eq(1..=count), "{indexes:?}");
        assert_eq!(core.in_flight.bytes(), bytes);
    }

    #[test]
    fn jobs_for_a_stopped_snapshot_stage_are_dropped_and_counted() {
        let (mut core, ..) = quiet_core();
        for _ in 0..QUEUE_LEN + 2 {
            core.effects.suspect_snapshots.push(SnapshotId::default());
            core.collect();
        }
        // The test's snapshots stage no longer exists, so every job is dropped.
        assert_eq!(core.counters.chunks_dropped.get(), QUEUE_LEN as u64 + 2);
    }

    #[test]
    fn raft_core_stops_on_request_or_when_network_stage_ended() {
        let (mut core, network, ..) = quiet_core();
        assert_eq!(core.run_once(None), StageState::Running);
        assert_eq!(core.run_once(Some(CoreItem::Stop)), StageState::Stopped);
        drop(network);
        core.effects.send.push(to_peer());
        assert_eq!(core.run_once(None), StageState::Stopped);
    }
}
