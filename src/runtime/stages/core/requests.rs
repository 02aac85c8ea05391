//! What the core admits: requests and peers' messages go to the replica, or wait until the wall
//! clocks of a quorum are known. While too many bytes are in flight, requests wait in the core's
//! queue. In the server, one request to the core is a batch of clients' requests, which is refused
//! as a whole.

use std::time::Duration;
use std::vec;

use crate::kv::{Batch, DEDUP_ENTRIES_MAX, Piece};
use crate::raft::{
    AppendEntries, ClientRequest, Envelope, Msg, PeerMsg, Refusal, RefusalReason, RequestKind,
};
use crate::record::record_bytes;
use crate::runtime::channels::{ForwardedWrite, JOB_BYTES_MAX, Requests};
use crate::types::{Index, RequestKey};
use crate::wire::frame::Attempt;

use super::Core;

/// Minimum time between two snapshots that the core requests because the log in memory is full.
const FULL_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum number of log entries between the first copy of a forwarded write and a repeated copy,
/// measured from the sender's applied index when it sent the first copy. It is less than the
/// capacity of the deduplication table, so that the table still has the outcome of the first copy.
pub(super) const AGAIN_ENTRIES_MAX: u64 = 60_000;
const _: () = assert!(AGAIN_ENTRIES_MAX < DEDUP_ENTRIES_MAX as u64);

/// What a replica that is not the leader does with a client's request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NonLeaderPolicy {
    /// The consensus code decides: it holds the request until a leader is known, or redirects the
    /// client to the leader.
    Replica,
    /// The core refuses the request at once, and the network stage holds it until a leader is
    /// known. If the core held requests itself, a forwarded write could enter the log long after
    /// its sender has sent it again.
    Refuse,
}

/// Received requests that have not been handled yet, in order of arrival.
#[derive(Debug)]
pub(super) enum PendingRequests {
    Clients(vec::IntoIter<ClientRequest>),
    Forwarded(vec::IntoIter<ForwardedWrite>),
}

/// One request to the core: either from a client of this replica, or a write forwarded by a peer.
pub(super) enum Request {
    Client(ClientRequest),
    Forwarded(ForwardedWrite),
}

impl Default for PendingRequests {
    fn default() -> PendingRequests {
        PendingRequests::Clients(Vec::new().into_iter())
    }
}

impl PendingRequests {
    pub(super) fn new(requests: Requests) -> PendingRequests {
        match requests {
            Requests::Clients(requests) => PendingRequests::Clients(requests.into_iter()),
            Requests::Forwarded(writes) => PendingRequests::Forwarded(writes.into_iter()),
        }
    }

    pub(super) fn next(&mut self) -> Option<Request> {
        match self {
            PendingRequests::Clients(requests) => requests.next().map(Request::Client),
            PendingRequests::Forwarded(writes) => writes.next().map(Request::Forwarded),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            PendingRequests::Clients(requests) => requests.as_slice().is_empty(),
            PendingRequests::Forwarded(writes) => writes.as_slice().is_empty(),
        }
    }
}

impl Core {
    /// Updates the core's clocks. Admits the held requests once the wall clocks of a quorum are
    /// known, or when this replica is no longer the leader.
    pub(super) fn update_clocks(&mut self) {
        let Some(clock) = &mut self.replicated_clock else { return };
        clock.tick(self.now, &self.clock);
        let leads = self.replica.is_leader();
        if clock.holds() && !(leads && clock.must_wait(self.now, self.replica.term())) {
            let (forwarded, messages) = clock.release();
            for write in forwarded {
                self.admit_forwarded(write);
            }
            for message in messages {
                self.admit(message);
            }
        }
    }

    /// Returns the replicated clock (which decides when keys expire) if requests must wait for it,
    /// because this replica is the leader and does not yet know the wall clocks of a quorum.
    /// Returns `None` if requests need not wait.
    fn clock_to_wait_for(&mut self) -> Option<&mut super::CoreClock> {
        if !self.replica.is_leader() {
            return None;
        }
        let (now, term) = (self.now, self.replica.term());
        let clock = self.replicated_clock.as_mut()?;
        clock.must_wait(now, term).then_some(clock)
    }

    /// Returns whether requests must wait in the core's queue, because too many bytes are in flight
    /// (sent to the log writer or the applier and not completed) or uncommitted. They wait only
    /// while this replica leads, and not for memory that may never be freed.
    pub(super) fn has_too_much_in_flight(&self) -> bool {
        self.replica.is_leader()
            && (self.in_flight.bytes() >= JOB_BYTES_MAX || self.replica.append_budget() == 0)
            && !self.is_log_full()
    }

    pub(super) fn is_log_full(&self) -> bool {
        self.replica.log().bytes() as u64 >= self.memory.log_bytes_max()
    }

    /// Passes a request or a peer's message to the consensus code. While too many bytes are in
    /// flight (sent to the log writer or the applier and not completed), refuses requests and drops
    /// `AppendEntries` messages with entries instead. While the log in memory is full, does the
    /// same, but still passes on reads.
    pub(super) fn admit(&mut self, message: Msg) {
        self.admit_copy(message, None);
    }

    /// Like [`Core::admit`]. If an earlier copy of the message, a client's write, may be in the
    /// log, `since` is the index after which that copy is.
    fn admit_copy(&mut self, mut message: Msg, since: Option<Index>) {
        if let Msg::Client(request) = &message {
            let key = request.key;
            if self.non_leader_policy == NonLeaderPolicy::Refuse && !self.replica.is_leader() {
                self.refuse(key, RefusalReason::NotLeader);
                return;
            }
            if let Some(clock) = self.clock_to_wait_for() {
                if clock.hold(message).is_err() {
                    self.refuse_busy(key);
                }
                return;
            }
        }
        // If no snapshot can be taken, for want of disk space perhaps, the log can't be compacted
        // and must not grow for ever. Reads add nothing to it.
        let log_is_full = self.is_log_full();
        let is_due = |at| self.now.since(at) >= FULL_LOG_INTERVAL;
        if log_is_full && self.full_log_snapshot_at.is_none_or(is_due) {
            self.full_log_snapshot_at = Some(self.now);
            self.applies.take_snapshot = true;
        }
        let is_behind = self.in_flight.bytes() >= JOB_BYTES_MAX;
        if is_behind || log_is_full {
            match message {
                Msg::Client(ClientRequest { kind: RequestKind::Read, .. }) if !is_behind => {}
                Msg::Client(request) => {
                    self.refuse_busy(request.key);
                    return;
                }
                // Heartbeats are still admitted: a slow replica must not start elections.
                Msg::Peer(Envelope {
                    message: PeerMsg::AppendEntries(AppendEntries { ref entries, .. }),
                    ..
                }) if !entries.is_empty()
                    && (is_behind
                        || self.replica.log().bytes() as u64
                            >= self.memory.appended_bytes_max()) =>
                {
                    self.counters.appends_dropped.add_one();
                    return;
                }
                Msg::Peer(_)
                | Msg::Persisted(_)
                | Msg::Applied { .. }
                | Msg::SnapshotTaken(_)
                | Msg::ChunkStored(_)
                | Msg::Installed(..)
                | Msg::DiskSpace(_) => {}
            }
        }
        if let Msg::Client(request) = message {
            if self.replica.accepts_writes() && self.large_writes.is_large(&request) {
                self.accept_large_write(request, since);
                return;
            }
            message = Msg::Client(request);
        }
        if let Msg::Client(request @ ClientRequest { kind: RequestKind::Write, .. }) = &mut message
            && self.replica.accepts_writes()
            && !self.set_clock_before(request)
        {
            let key = request.key;
            self.refuse_busy(key);
            return;
        }
        self.handle(message);
    }

    /// Proposes the clock entry (log entry that advances the replicated clock) that must precede a
    /// write, if one is needed, and sets the time in a `CLOCK RESET` request. Returns false if the
    /// log has no space for both: without the clock entry, the write would be applied at an earlier
    /// time and its key would expire too early.
    pub(super) fn set_clock_before(&mut self, request: &mut ClientRequest) -> bool {
        let Some(clock) = &mut self.replicated_clock else { return true };
        let entry = clock.before_write(self.now);
        if Batch::resets_clock(&request.payload) {
            clock.fill_reset(self.now, request);
        }
        entry.is_none_or(|entry| self.append_clock_entry(entry))
    }

    /// Appends a clock entry (log entry that advances the replicated clock) to the log. Returns
    /// false, and appends nothing, if the log would then have no space for a write. May be called
    /// only while the replica accepts writes.
    pub(super) fn append_clock_entry(&mut self, entry: ClientRequest) -> bool {
        let is_appended = self.append_unless_full(entry);
        if !is_appended && let Some(clock) = &mut self.replicated_clock {
            clock.proposal_refused(self.now);
        }
        is_appended
    }

    /// Appends an entry for which no client waits to the log. Returns false, and appends nothing,
    /// if the log would then have no space for a write. May be called only while the replica
    /// accepts writes.
    pub(super) fn append_unless_full(&mut self, entry: ClientRequest) -> bool {
        let is_affordable = record_bytes(&entry.payload) < self.replica.append_budget();
        if is_affordable {
            self.handle(Msg::Client(entry));
        }
        is_affordable
    }

    /// Admits a write that a peer has forwarded, but only if the deduplication table of the state
    /// machine, whose size is bounded, is certain to recognize any other copy of the write in the
    /// log. This is decided when the write gets its index, because a copy may have been delayed for
    /// long.
    ///
    /// - A first copy is admitted only in the term that it names. After a change of the term or of
    ///   the connection, its sender sends a repeated copy, and what is left on the old connection
    ///   is never read. So a first copy precedes all other copies in the log, or never enters it.
    /// - A repeated copy is admitted only if few entries were appended to the log since the first
    ///   copy was sent, so that the table still has the outcomes of earlier copies. Otherwise the
    ///   repeated copy is dropped, and its client gets `UNCERTAIN`.
    pub(super) fn admit_forwarded(&mut self, write: ForwardedWrite) {
        if let Some(clock) = self.clock_to_wait_for() {
            match clock.hold_forwarded(write) {
                Ok(()) => {}
                Err(ForwardedWrite { attempt: Attempt::First { .. }, request }) => {
                    self.refuse(request.key, RefusalReason::Busy);
                }
                Err(ForwardedWrite { attempt: Attempt::Again { .. }, .. }) => {
                    self.counters.repeats_dropped.add_one();
                }
            }
            return;
        }
        // Only leaders make pieces. A forged one would replace those of a large write.
        if Piece::decode(&write.request.payload).is_some() {
            self.refuse_busy(write.request.key);
            return;
        }
        match write.attempt {
            Attempt::First { term } if self.replica.is_leader() && self.replica.term() == term => {
                self.admit(Msg::Client(write.request));
            }
            Attempt::First { .. } => self.refuse(write.request.key, RefusalReason::NotLeader),
            Attempt::Again { since } => {
                if self.replica.is_leader() && self.may_follow_copy(Some(since)) {
                    self.admit_copy(Msg::Client(write.request), Some(since));
                } else {
                    self.counters.repeats_dropped.add_one();
                }
            }
        }
    }

    pub(super) fn refuse(&mut self, key: RequestKey, reason: RefusalReason) {
        let leader = self.replica.last_known_leader();
        self.effects.refusals.push(Refusal { key, reason, leader });
    }

    pub(super) fn refuse_busy(&mut self, key: RequestKey) {
        self.counters.requests_busy.add_one();
        self.refuse(key, RefusalReason::Busy);
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{
        append, leading_core, leading_core_at, quiet_core, with_clock, write,
    };
    use super::*;
    use crate::clock::AppliedClock;
    use crate::kv::Operation;
    use crate::raft::{AppendJob, Persisted};
    use crate::record::Entry;
    use crate::runtime::boards::MemoryBoard;
    use crate::runtime::channels::{Applied, CoreItem, LogWriterEnds};
    use crate::runtime::clock::Clock;
    use crate::types::{ClientId, Index, NodeId, RequestId, Term};
    use bytes::Bytes;
    use std::sync::Arc;

    fn forwarded(number: u8, attempt: Attempt) -> ForwardedWrite {
        let key = RequestKey { client: ClientId(7), request: RequestId([number; 16]) };
        let request = ClientRequest { key, kind: RequestKind::Write, payload: Bytes::new() };
        ForwardedWrite { attempt, request }
    }

    /// Returns the clock entries that the core has sent to the log writer.
    fn clock_entries(log_writer: &LogWriterEnds) -> Vec<u64> {
        let jobs = log_writer.jobs.try_iter().flat_map(|batch| batch.jobs);
        let entries: Vec<_> = jobs.flat_map(|job| job.entries).collect();
        let millis = |payload: &[u8]| match Batch::decode(payload).ok()?.operations().next()? {
            Some(Operation::Clock { millis, .. }) => Some(millis),
            _ => None,
        };
        entries.iter().filter_map(|entry| millis(entry.payload())).collect()
    }

    #[test]
    fn replicated_clock_entry_precedes_writes_and_serves_reads() {
        let (core, network, log_writer, _applier) = leading_core_at(Clock::start(), 0);
        let mut core = with_clock(core, &[]);
        network.requests.try_send(Requests::Clients(vec![write(1), write(2)])).unwrap();
        core.run_once(None);
        let first = clock_entries(&log_writer);
        assert_eq!(first.len(), 1, "{first:?}");
        let clock = AppliedClock { millis: first[0], resets: 0, next_expiry: None };
        let applied = Applied { clock, clock_wanted: Some(first[0] + 1), ..Applied::default() };
        core.run_once(Some(CoreItem::Applied(applied)));
        let mut second = clock_entries(&log_writer);
        while second.is_empty() {
            // The wanted time has not come yet; the core wakes up without input.
            core.wait();
            core.run_once(None);
            second = clock_entries(&log_writer);
        }
        assert!(second.len() == 1 && second[0] > first[0], "{second:?}");
    }

    #[test]
    fn leader_holds_requests_until_it_knows_a_quorum_of_wall_clocks() {
        let (core, network, log_writer, _applier) = leading_core_at(Clock::start(), 0);
        let mut core = with_clock(core, &[NodeId(8), NodeId(9)]);
        network.requests.try_send(Requests::Clients(vec![write(1)])).unwrap();
        core.run_once(None);
        let last = core.replica.log().last().index;
        let write = forwarded(2, Attempt::First { term: Term(2) });
        network.requests.try_send(Requests::Forwarded(vec![write])).unwrap();
        core.run_once(None);
        assert_eq!((core.replica.log().last().index, clock_entries(&log_writer)), (last, vec![]));
        let (now, wall) = core.clock.wall_millis().expect("two readings close together");
        let clock = core.replicated_clock.as_mut().expect("this core has one");
        clock.report(NodeId(8), now, wall);
        core.run_once(None);
        assert_eq!(core.replica.log().last().index.0, last.0 + 3, "two writes and the clock");
        assert_eq!(clock_entries(&log_writer).len(), 1);
    }

    #[test]
    fn replicated_clock_entry_is_appended_only_if_its_write_fits() {
        let (core, _network, log_writer, _applier) = leading_core_at(Clock::start(), 0);
        let mut core = with_clock(core, &[]);
        let entry_bytes = record_bytes(&Batch::one(
            RequestKey::default(),
            &Operation::Clock { millis: 1 << 40, resets: 0 },
        ));
        let filler = core.replica.append_budget() - entry_bytes - record_bytes(b"");
        let payload = Bytes::from(vec![0; filler]);
        core.handle(Msg::Client(ClientRequest { payload, ..write(1) }));
        assert_eq!(core.replica.append_budget(), entry_bytes);
        let last = core.replica.log().last();
        core.admit(Msg::Client(write(2)));
        assert_eq!(core.replica.log().last(), last);
        assert_eq!(core.effects.refusals.pop().map(|it| it.reason), Some(RefusalReason::Busy));
        core.run_once(None);
        let jobs = log_writer.jobs.try_iter().flat_map(|batch| batch.jobs);
        let persisted = |job: AppendJob| {
            let last = job.entries.last().map(Entry::id);
            Persisted { sequence: job.sequence, last }
        };
        let completions = jobs.map(persisted).collect();
        core.run_once(Some(CoreItem::Persisted { completions, bytes: 0 }));
        core.in_flight = super::super::InFlight::default();
        let last = core.replica.log().last().index;
        core.admit(Msg::Client(write(2)));
        assert_eq!(core.replica.log().last().index.0, last.0 + 2, "the clock and the write");
        assert!(core.effects.refusals.is_empty());
    }

    #[test]
    fn forwarded_write_sent_in_another_term_is_refused() {
        let (mut core, network, ..) = leading_core(3);
        let last = core.replica.log().last().index;
        let writes = [1, 2, 3, 2].map(|term| Attempt::First { term: Term(term) });
        let writes = (1..).zip(writes).map(|(number, attempt)| forwarded(number, attempt));
        network.requests.try_send(Requests::Forwarded(writes.collect())).unwrap();
        core.run_once(None);
        assert_eq!(core.replica.log().last().index.0, last.0 + 2, "the writes of term 2");
        let outbound = network.outbound.try_recv().unwrap();
        let refused: Vec<_> = outbound
            .refusals
            .iter()
            .map(|refusal| (refusal.key.request.0[0], refusal.reason))
            .collect();
        assert_eq!(refused, [(1, RefusalReason::NotLeader), (3, RefusalReason::NotLeader)]);
    }

    #[test]
    fn resent_write_beyond_the_dedup_window_is_dropped() {
        let (mut core, network, ..) = leading_core(AGAIN_ENTRIES_MAX + 10);
        let last = core.replica.log().last().index.0;
        let oldest = last + 1 - AGAIN_ENTRIES_MAX;
        let writes = [oldest - 1, oldest, last].map(|since| Attempt::Again { since: Index(since) });
        let writes = (1..).zip(writes).map(|(number, attempt)| forwarded(number, attempt));
        network.requests.try_send(Requests::Forwarded(writes.collect())).unwrap();
        core.run_once(None);
        // The first write is neither admitted nor refused, because an earlier copy may be in the
        // log.
        assert_eq!(core.counters.repeats_dropped.get(), 1);
        assert!(network.outbound.try_iter().all(|outbound| outbound.refusals.is_empty()));
        // The second write has no copy up to `oldest`, and is now the last entry but one.
        let index = core.replica.log().last().index.0 - 1;
        assert_eq!((index, index - oldest), (last + 1, AGAIN_ENTRIES_MAX));
    }

    #[test]
    fn client_requests_above_the_in_flight_byte_limit_are_refused() {
        let (mut core, network, ..) = quiet_core();
        core.in_flight.start_apply(JOB_BYTES_MAX);
        let request = ClientRequest {
            key: RequestKey::default(),
            kind: RequestKind::Write,
            payload: Bytes::new(),
        };
        network.requests.try_send(Requests::Clients(vec![request])).unwrap();
        core.run_once(Some(CoreItem::Peers(vec![append(2), append(0)])));
        assert_eq!(core.counters.requests_busy.get(), 1);
        assert_eq!(core.counters.appends_dropped.get(), 1, "a heartbeat is admitted");
        let outbound = network.outbound.try_recv().unwrap();
        let reasons: Vec<_> = outbound.refusals.iter().map(|refusal| refusal.reason).collect();
        assert_eq!(reasons, [RefusalReason::Busy]);
        core.run_once(Some(CoreItem::Applied(Applied { bytes: 1, ..Applied::default() })));
        assert_eq!(core.in_flight.bytes(), JOB_BYTES_MAX - 1);
        core.run_once(Some(CoreItem::Peers(vec![append(2)])));
        assert_eq!(core.counters.appends_dropped.get(), 1, "appends are admitted again");
    }

    #[test]
    fn log_that_cannot_be_compacted_stays_in_its_memory_share() {
        let (core, network, log_writer, _applier) = leading_core(3);
        let memory = Arc::new(MemoryBoard::default());
        let mut core = core.with_memory(Arc::clone(&memory));
        // This gives the log its smallest share of memory.
        memory.set_limit(1);
        let share = usize::try_from(memory.log_bytes_max()).unwrap();
        let request = |number: u8, kind| {
            let key = RequestKey { client: ClientId(1), request: RequestId([number; 16]) };
            let payload = Bytes::from(vec![0; 1 << 20]);
            ClientRequest { key, kind, payload }
        };
        let mut refused = 0;
        for number in 0..100 {
            core.in_flight = super::super::InFlight::default();
            let requests = Requests::Clients(vec![request(number, RequestKind::Write)]);
            network.requests.try_send(requests).unwrap();
            core.run_once(None);
            let jobs = log_writer.jobs.try_iter().flat_map(|batch| batch.jobs);
            let persisted = jobs.map(|job| {
                let last = job.entries.last().map(Entry::id);
                Persisted { sequence: job.sequence, last }
            });
            let completions = persisted.collect();
            core.run_once(Some(CoreItem::Persisted { completions, bytes: 0 }));
            refused += network.outbound.try_iter().map(|it| it.refusals.len()).sum::<usize>();
        }
        let bytes = core.replica.log().bytes();
        assert!(bytes >= share && bytes < share + (2 << 20), "{bytes} of {share}");
        assert!(refused >= 30, "{refused} refused");
        assert!(core.full_log_snapshot_at.is_some(), "a snapshot is requested");
        core.in_flight = super::super::InFlight::default();
        let last = core.replica.log().last();
        core.admit(Msg::Client(request(200, RequestKind::Read)));
        core.admit(Msg::Peer(append(0)));
        assert_eq!((core.replica.log().last(), core.effects.refusals.len()), (last, 0));
        memory.set_limit(4 * share as u64);
        core.admit(Msg::Client(request(201, RequestKind::Write)));
        // A clock entry may have preceded the write.
        assert!(core.replica.log().last().index > last.index, "writes are admitted again");
    }
}
