//! Large writes: batches that are too long for one log entry. The leader appends them in pieces,
//! one batch after another, and only as fast as pieces are committed. So entries of other clients
//! get between the pieces, and wait for a few pieces at most instead of a whole value.
//!
//! A batch is applied at the index of its last piece. Until that is in the log, the first copy of a
//! batch can be refused, which is what happens if this replica stops leading. An earlier copy of a
//! resent batch may be in the log, so its sender ignores a refusal.

use std::collections::VecDeque;

use crate::kv::{PIECE_BYTES, Piece};
use crate::raft::{ClientRequest, Msg, RefusalReason};
use crate::runtime::channels::JOB_BYTES_MAX;
use crate::types::{Index, RequestKey, Term};

use super::Core;
use super::requests::AGAIN_ENTRIES_MAX;

/// Bytes of uncommitted entries at which the leader appends no more pieces. A write that arrives
/// then waits for that many bytes; fewer would leave disks and network idle between the pieces.
const UNCOMMITTED_BYTES_MAX: usize = 4 << 20;

/// Maximum number of pieces, 32 MiB, that a follower lags behind. A quorum may be faster than the
/// slowest follower, and large writes would soon leave it so far behind that it needs a snapshot.
const LAG_PIECES_MAX: usize = (32 << 20) / PIECE_BYTES;

/// Large writes that are not completely in the log.
#[derive(Debug, Default)]
pub(super) struct LargeWrites {
    /// In the order in which they arrived. Pieces of the first one may be in the log. Each replica
    /// sends one large write at a time, but another one after the client of the first has
    /// disconnected. So their total length is limited, to that of the log in memory.
    queue: VecDeque<LargeWrite>,
    /// Indexes of the latest pieces, at most [`LAG_PIECES_MAX`].
    recent: VecDeque<Index>,
}

/// A batch that is appended in pieces.
#[derive(Debug)]
pub(super) struct LargeWrite {
    request: ClientRequest,
    /// If an earlier copy of the batch may be in the log, the index that precedes that copy.
    since: Option<Index>,
    /// The term in which this replica, as the leader, has accepted the batch.
    term: Term,
    /// Number of bytes of the batch whose pieces are in the log.
    appended: usize,
}

impl Core {
    /// Accepts a large write, as the leader, to be appended in pieces. `since` is as in
    /// [`Core::admit_copy`]. Refuses it if the large writes in the queue are too long in total.
    /// Drops a resent copy of a write that is in the queue.
    pub(super) fn accept_large_write(&mut self, request: ClientRequest, since: Option<Index>) {
        let term = self.replica.term();
        let queue = &self.large_writes.queue;
        let is_queued = |write: &LargeWrite| (write.term, write.request.key) == (term, request.key);
        let queued: usize = queue.iter().map(|write| write.request.payload.len()).sum();
        let length = (queued + request.payload.len()) as u64;
        let fits = queue.is_empty() || length <= self.memory.log_bytes_max();
        if since.is_some() && (queue.iter().any(is_queued) || !fits) {
            self.counters.repeats_dropped.add_one();
        } else if !fits {
            self.refuse_busy(request.key);
        } else {
            self.large_writes.queue.push_back(LargeWrite { request, since, term, appended: 0 });
        }
    }

    /// Appends pieces of large writes until enough bytes are uncommitted, or a follower lags.
    /// Refuses the large writes of a term in which this replica does not lead any more, and the
    /// first one if the log in memory is full.
    pub(super) fn append_pieces(&mut self) {
        let leads_in = self.replica.is_leader().then(|| self.replica.term());
        let is_over = |write: &mut LargeWrite| Some(write.term) != leads_in;
        while let Some(write) = self.large_writes.queue.pop_front_if(is_over) {
            self.refuse(write.request.key, RefusalReason::NotLeader);
        }
        if self.is_log_full()
            && let Some(write) = self.large_writes.queue.pop_front()
        {
            self.refuse_busy(write.request.key);
        }
        while !self.is_log_full()
            && self.has_space_for_piece()
            && !self.has_lagging_follower()
            && let Some(write) = self.large_writes.queue.pop_front()
        {
            if let Some(write) = self.append_piece(write) {
                self.large_writes.queue.push_front(write);
            }
        }
    }

    /// Returns whether few enough bytes are uncommitted and in flight for another piece. One piece
    /// is always allowed if there is any space, so that small writes cannot stop the large ones.
    fn has_space_for_piece(&self) -> bool {
        let commit_index = self.replica.commit_index();
        let is_piece_uncommitted =
            self.large_writes.recent.back().is_some_and(|latest| *latest > commit_index);
        if is_piece_uncommitted {
            self.replica.uncommitted_bytes() < UNCOMMITTED_BYTES_MAX
                && self.in_flight.bytes() < JOB_BYTES_MAX / 2
        } else {
            self.replica.append_budget() > 2 * PIECE_BYTES && self.in_flight.bytes() < JOB_BYTES_MAX
        }
    }

    /// Returns whether a follower that keeps up has not acknowledged the oldest of the latest
    /// [`LAG_PIECES_MAX`] pieces.
    fn has_lagging_follower(&self) -> bool {
        let recent = &self.large_writes.recent;
        recent.len() >= LAG_PIECES_MAX
            && recent.front().is_some_and(|oldest| *oldest > self.replica.followed_index())
    }

    /// Appends the next piece of `write`. Returns the write unless that was its last piece, or the
    /// write was refused.
    fn append_piece(&mut self, mut write: LargeWrite) -> Option<LargeWrite> {
        let ClientRequest { key, kind, payload } = &write.request;
        let (key, start) = (*key, write.appended);
        write.appended = payload.len().min(start + PIECE_BYTES);
        let is_last = write.appended == payload.len();
        if is_last && !self.may_follow_copy(write.since) {
            self.counters.repeats_dropped.add_one();
            return None;
        }
        // No client waits for the other pieces.
        let piece_key = if is_last { key } else { RequestKey::default() };
        let payload = Piece::encode(key, payload, start);
        let mut piece = ClientRequest { key: piece_key, kind: *kind, payload };
        if is_last && !self.set_clock_before(&mut piece) {
            self.refuse_busy(key);
            return None;
        }
        let refusal_count = self.effects.refusals.len();
        self.handle(Msg::Client(piece));
        if let Some(refusal) = self.effects.refusals.get_mut(refusal_count) {
            refusal.key = key;
            return None;
        }
        let recent = &mut self.large_writes.recent;
        recent.push_back(self.replica.log().last().index);
        if recent.len() > LAG_PIECES_MAX {
            recent.pop_front();
        }
        (!is_last).then_some(write)
    }

    /// Returns whether the deduplication table is certain to recognize a copy of a batch that is
    /// appended now, if an earlier copy may be in the log after the index `since`.
    pub(super) fn may_follow_copy(&self, since: Option<Index>) -> bool {
        let last = self.replica.log().last().index.0;
        since.is_none_or(|since| last.saturating_sub(since.0) < AGAIN_ENTRIES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{leading_core, quiet_core, write};
    use super::*;
    use crate::kv::WHOLE_BATCH_BYTES_MAX;
    use crate::raft::{AppendJob, DiskSpace, Persisted};
    use crate::record::Entry;
    use crate::runtime::boards::MemoryBoard;
    use crate::runtime::channels::{
        CoreItem, ForwardedWrite, LogWriterEnds, NetworkEnds, Requests,
    };
    use crate::wire::frame::Attempt;
    use bytes::Bytes;
    use std::sync::Arc;

    const LARGE_BYTES: usize = 10 << 20;

    fn large(number: u8) -> ClientRequest {
        ClientRequest { payload: Bytes::from(vec![number; LARGE_BYTES]), ..write(number) }
    }

    /// Completes the jobs that the core has sent to the log writer. Returns their entries.
    fn persist(core: &mut Core, log_writer: &LogWriterEnds) -> Vec<Entry> {
        let batches: Vec<_> = log_writer.jobs.try_iter().collect();
        let bytes = batches.iter().map(|batch| batch.bytes).sum();
        let jobs: Vec<AppendJob> = batches.into_iter().flat_map(|batch| batch.jobs).collect();
        let persisted = |job: &AppendJob| {
            let last = job.entries.last().map(Entry::id);
            Persisted { sequence: job.sequence, last }
        };
        let completions = jobs.iter().map(persisted).collect();
        core.in_flight = super::super::InFlight::default();
        core.in_flight.start_append(bytes);
        core.run_once(Some(CoreItem::Persisted { completions, bytes }));
        jobs.into_iter().flat_map(|job| job.entries).collect()
    }

    #[test]
    fn pieces_of_a_large_write_interleave_with_other_entries() {
        let (mut core, network, log_writer, _applier) = leading_core(0);
        persist(&mut core, &log_writer);
        network.requests.try_send(Requests::Clients(vec![large(1), large(2)])).unwrap();
        let (mut found, mut small) = (Vec::new(), 3);
        for _ in 0..40 {
            core.run_once(None);
            let uncommitted = core.replica.uncommitted_bytes();
            assert!(uncommitted < UNCOMMITTED_BYTES_MAX + (1 << 20), "{uncommitted}");
            network.requests.try_send(Requests::Clients(vec![write(small)])).unwrap();
            small += 1;
            found.append(&mut persist(&mut core, &log_writer));
        }
        let of = |number: u8| {
            let pieces = found.iter().filter_map(|entry| Piece::decode(entry.payload()));
            let bytes = pieces.filter(|it| it.key == large(number).key).flat_map(|it| it.bytes);
            bytes.copied().collect::<Vec<u8>>()
        };
        assert!(of(1) == large(1).payload && of(2) == large(2).payload, "in order and complete");
        let is_piece = |entry: &Entry| Piece::decode(entry.payload()).is_some();
        let last = found.iter().rposition(is_piece).unwrap();
        let between = found[..last].iter().filter(|entry| !is_piece(entry)).count();
        assert!(between >= 3, "{between} small entries between the pieces");
        let refusals = network.outbound.try_iter().flat_map(|batch| batch.refusals);
        assert_eq!((core.large_writes.queue.len(), refusals.count()), (0, 0));
        assert_eq!(core.large_writes.recent.len(), 2 * LARGE_BYTES / PIECE_BYTES);
    }

    /// Returns the refusals that the core has sent to the network.
    fn refusals(network: &NetworkEnds) -> Vec<(RequestKey, RefusalReason)> {
        let refusals = network.outbound.try_iter().flat_map(|batch| batch.refusals);
        refusals.map(|it| (it.key, it.reason)).collect()
    }

    #[test]
    fn incomplete_large_write_is_refused_when_leadership_ends() {
        let (mut core, network, log_writer, _applier) = leading_core(0);
        persist(&mut core, &log_writer);
        network.requests.try_send(Requests::Clients(vec![large(1), large(2)])).unwrap();
        core.run_once(None);
        assert_eq!(core.large_writes.queue.len(), 2);
        for write in &mut core.large_writes.queue {
            write.term = Term(1);
        }
        core.run_once(None);
        let refused = |number| (large(number).key, RefusalReason::NotLeader);
        assert_eq!(refusals(&network), [refused(1), refused(2)]);
        assert!(core.large_writes.queue.is_empty());
        // A leader that steps down without an election stays in its term.
        let (mut core, network, ..) = quiet_core();
        let term = core.replica.term();
        let write = LargeWrite { request: large(1), since: None, term, appended: 0 };
        core.large_writes.queue.push_back(write);
        core.run_once(None);
        assert_eq!(refusals(&network), [refused(1)]);
    }

    #[test]
    fn small_writes_cannot_stop_a_large_one() {
        let (mut core, network, log_writer, _applier) = leading_core(0);
        persist(&mut core, &log_writer);
        let medium = |number| ClientRequest {
            payload: Bytes::from(vec![number; WHOLE_BATCH_BYTES_MAX]),
            ..write(number)
        };
        let mut requests: Vec<_> = (10..18).map(medium).collect();
        requests.push(large(1));
        network.requests.try_send(Requests::Clients(requests)).unwrap();
        core.run_once(None);
        assert!(core.replica.uncommitted_bytes() > UNCOMMITTED_BYTES_MAX);
        let found = persist(&mut core, &log_writer);
        let pieces = found.iter().filter(|entry| Piece::decode(entry.payload()).is_some());
        assert_eq!(pieces.count(), 1);
    }

    #[test]
    fn queue_of_large_writes_is_bounded_and_has_no_repeats() {
        let (mut core, network, ..) = leading_core(0);
        let memory = Arc::new(MemoryBoard::default());
        memory.set_limit(1);
        core.memory = Arc::clone(&memory);
        let most = usize::try_from(memory.log_bytes_max()).unwrap() / LARGE_BYTES;
        let count = u8::try_from(most + 2).unwrap();
        let requests = (0..count).map(|number| large(number + 1)).collect();
        network.requests.try_send(Requests::Clients(requests)).unwrap();
        core.take_requests();
        assert_eq!(core.large_writes.queue.len(), most);
        let again = |number| ForwardedWrite {
            attempt: Attempt::Again { since: Index(1) },
            request: large(number),
        };
        let resend = |core: &mut Core, number| {
            network.requests.try_send(Requests::Forwarded(vec![again(number)])).unwrap();
            core.take_requests();
            (core.counters.repeats_dropped.get(), core.large_writes.queue.len())
        };
        assert_eq!(resend(&mut core, count + 1), (1, most), "the queue is full");
        core.large_writes.queue.truncate(1);
        assert_eq!(resend(&mut core, 1), (2, 1), "it is in the queue");
        assert_eq!(resend(&mut core, 2), (2, 2));
        core.large_writes.queue.clear();
        core.run_once(None);
        let refused = |number| (large(number).key, RefusalReason::Busy);
        assert_eq!(refusals(&network), [refused(count - 1), refused(count)]);
    }

    #[test]
    fn large_write_is_refused_under_its_key_if_a_piece_is_refused() {
        let (mut core, network, log_writer, _applier) = leading_core(0);
        persist(&mut core, &log_writer);
        network.requests.try_send(Requests::Clients(vec![large(1)])).unwrap();
        core.run_once(None);
        let full = DiskSpace { low: true, bytes: 0 };
        core.handle(Msg::DiskSpace(full));
        persist(&mut core, &log_writer);
        assert_eq!(refusals(&network), [(large(1).key, RefusalReason::DiskFull)]);
        assert!(core.large_writes.queue.is_empty());
    }

    #[test]
    fn forged_piece_from_a_peer_is_refused() {
        let (mut core, network, log_writer, _applier) = leading_core(0);
        persist(&mut core, &log_writer);
        let payload = Piece::encode(write(1).key, &large(1).payload, 0);
        let request = ClientRequest { payload, ..write(1) };
        let attempt = Attempt::First { term: core.replica.term() };
        let forwarded = ForwardedWrite { attempt, request };
        network.requests.try_send(Requests::Forwarded(vec![forwarded])).unwrap();
        core.run_once(None);
        assert_eq!(refusals(&network), [(write(1).key, RefusalReason::Busy)]);
        let found = persist(&mut core, &log_writer);
        assert!(found.iter().all(|entry| Piece::decode(entry.payload()).is_none()));
    }

    #[test]
    fn resent_large_write_beyond_the_dedup_window_is_not_completed() {
        let (mut core, network, log_writer, _applier) = leading_core(AGAIN_ENTRIES_MAX - 20);
        persist(&mut core, &log_writer);
        let attempt = Attempt::Again { since: Index(1) };
        let resent = ForwardedWrite { attempt, request: large(1) };
        network.requests.try_send(Requests::Forwarded(vec![resent])).unwrap();
        let mut found = Vec::new();
        for _ in 0..10 {
            core.run_once(None);
            found.append(&mut persist(&mut core, &log_writer));
        }
        let mut pieces = found.iter().filter_map(|entry| Piece::decode(entry.payload()));
        assert!(pieces.all(|piece| piece.following > 0));
        assert_eq!((core.counters.repeats_dropped.get(), core.large_writes.queue.len()), (1, 0));
    }
}
