//! Large writes: the core appends them in pieces (`src/large_writes.rs`), within the limits on the
//! log in memory and on the bytes in flight.

use crate::large_writes::{Dropped, PieceAppender};
use crate::raft::{ClientRequest, Msg, RefusalReason, Replica};
use crate::runtime::channels::JOB_BYTES_MAX;
use crate::types::{Index, RequestKey};

use super::Core;
use super::requests::AGAIN_ENTRIES_MAX;

impl Core {
    /// Accepts a large write, as the leader, to be appended in pieces. `since` is as in
    /// [`Core::admit_copy`]. Refuses it if the large writes in the queue are too long in total.
    /// Drops a resent copy of a write that is in the queue.
    pub(super) fn accept_large_write(&mut self, request: ClientRequest, since: Option<Index>) {
        let (key, term) = (request.key, self.replica.term());
        let bytes_max = self.memory.log_bytes_max();
        match self.large_writes.accept(request, since, term, bytes_max) {
            Ok(()) => {}
            Err(Dropped::Copy) => self.counters.repeats_dropped.add_one(),
            Err(Dropped::Busy) => self.refuse_busy(key),
        }
    }

    /// Appends pieces of large writes until enough bytes are uncommitted, or a follower lags.
    /// Refuses the large writes of a term in which this replica does not lead any more, and the
    /// first one if the log in memory is full.
    pub(super) fn append_pieces(&mut self) {
        if self.large_writes.is_empty() {
            return;
        }
        let mut large_writes = std::mem::take(&mut self.large_writes);
        large_writes.refuse_deposed(self);
        if self.is_log_full() {
            large_writes.refuse_first(self);
        }
        large_writes.append_pieces(self, self.now);
        self.large_writes = large_writes;
    }

    /// Returns whether the deduplication table is certain to recognize a copy of a batch that is
    /// appended now, if an earlier copy may be in the log after the index `since`.
    pub(super) fn may_follow_copy(&self, since: Option<Index>) -> bool {
        let last = self.replica.log().last().index.0;
        since.is_none_or(|since| last.saturating_sub(since.0) < AGAIN_ENTRIES_MAX)
    }
}

impl PieceAppender for Core {
    fn replica(&self) -> &Replica {
        &self.replica
    }

    fn has_space(&self, is_uncommitted: bool) -> bool {
        let bytes_max = if is_uncommitted { JOB_BYTES_MAX / 2 } else { JOB_BYTES_MAX };
        !self.is_log_full() && self.in_flight.bytes() < bytes_max
    }

    fn before_last_piece(
        &mut self,
        request: &mut ClientRequest,
        since: Option<Index>,
    ) -> Result<(), Dropped> {
        if !self.may_follow_copy(since) {
            self.counters.repeats_dropped.add_one();
            return Err(Dropped::Copy);
        }
        if self.set_clock_before(request) { Ok(()) } else { Err(Dropped::Busy) }
    }

    fn propose(&mut self, piece: ClientRequest) -> Option<RefusalReason> {
        let refusal_count = self.effects.refusals.len();
        self.handle(Msg::Client(piece));
        let is_refused = self.effects.refusals.len() > refusal_count;
        is_refused.then(|| self.effects.refusals.pop())?.map(|refusal| refusal.reason)
    }

    fn refuse(&mut self, key: RequestKey, reason: RefusalReason) {
        if reason == RefusalReason::Busy {
            self.refuse_busy(key);
        } else {
            Core::refuse(self, key, reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{
        leading_core, leading_core_at, leading_core_of, quiet_core, with_clock, write,
    };
    use super::*;
    use crate::feature_level::FeatureLevel;
    use crate::kv::{
        Batch, CommandId, Operation, Outcome, PIECE_BYTES, Piece, StateMachine,
        WHOLE_BATCH_BYTES_MAX,
    };
    use crate::large_writes::{LAG_WAIT_MAX, LargeWrites, PieceLimits};
    use crate::raft::{
        AppendJob, AppendOutcome, AppendReply, DiskSpace, DiskState, Envelope, PeerMsg, Persisted,
    };
    use crate::record::Entry;
    use crate::runtime::boards::MemoryBoard;
    use crate::runtime::channels::{
        CoreItem, ForwardedWrite, LogWriterEnds, NetworkEnds, Requests,
    };
    use crate::runtime::clock::Clock;
    use crate::types::{NodeId, Round, Term};
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
            assert!(
                uncommitted < PieceLimits::SERVER.uncommitted_bytes_max + (1 << 20),
                "{uncommitted}"
            );
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
        assert_eq!((core.large_writes.len(), refusals.count()), (0, 0));
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
        for number in [1, 2] {
            // In an earlier term.
            core.large_writes.accept(large(number), None, Term(1), u64::MAX).unwrap();
        }
        core.run_once(None);
        let refused = |number| (large(number).key, RefusalReason::NotLeader);
        assert_eq!(refusals(&network), [refused(1), refused(2)]);
        assert!(core.large_writes.is_empty());
        // A leader that steps down without an election stays in its term.
        let (mut core, network, ..) = quiet_core();
        let term = core.replica.term();
        core.large_writes.accept(large(1), None, term, u64::MAX).unwrap();
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
        assert!(core.replica.uncommitted_bytes() > PieceLimits::SERVER.uncommitted_bytes_max);
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
        assert_eq!(core.large_writes.len(), most);
        let again = |number| ForwardedWrite {
            attempt: Attempt::Again { since: Index(1) },
            request: large(number),
        };
        let resend = |core: &mut Core, number| {
            network.requests.try_send(Requests::Forwarded(vec![again(number)])).unwrap();
            core.take_requests();
            (core.counters.repeats_dropped.get(), core.large_writes.len())
        };
        assert_eq!(resend(&mut core, count + 1), (1, most), "the queue is full");
        core.large_writes = LargeWrites::default();
        core.accept_large_write(large(1), None);
        assert_eq!(resend(&mut core, 1), (2, 1), "it is in the queue");
        assert_eq!(resend(&mut core, 2), (2, 2));
        core.large_writes = LargeWrites::default();
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
        assert!(core.large_writes.is_empty());
    }

    /// Number of pieces that a follower may lag behind in the tests.
    const LAG: usize = 4;

    /// A large write of 20 pieces, with the limits of [`core_with_followers`].
    fn write_of_20_pieces(number: u8) -> ClientRequest {
        ClientRequest { payload: Bytes::from(vec![number; 2_000]), ..write(number) }
    }

    /// Creates a leader of the followers 1 and 2 that has acknowledged nothing yet.
    fn core_with_followers() -> Core {
        let limits = PieceLimits {
            whole_bytes_max: 1_000,
            piece_bytes: 100,
            uncommitted_bytes_max: 1 << 20,
            lag_pieces_max: LAG,
        };
        leading_core_of(&[NodeId(1), NodeId(2)]).0.with_piece_limits(limits)
    }

    /// Lets a follower acknowledge the whole log. Returns the number of entries that the core then
    /// appends.
    fn acknowledge(core: &mut Core, follower: u16) -> u64 {
        let index = core.replica.log().last().index;
        let message = PeerMsg::AppendReply(AppendReply {
            term: core.replica.term(),
            round: Round(0),
            level: FeatureLevel::OLDEST,
            disk: DiskState::Healthy,
            outcome: AppendOutcome::Match { index },
        });
        let (from, to) = (NodeId(follower), NodeId(0));
        core.handle(Msg::Peer(Envelope { from, to, leader: None, message }));
        appended(core)
    }

    /// Returns the number of entries that the core appends now.
    fn appended(core: &mut Core) -> u64 {
        let before = core.replica.log().last().index.0;
        core.append_pieces();
        core.replica.log().last().index.0 - before
    }

    #[test]
    fn large_write_waits_for_a_lagging_follower() {
        let mut core = core_with_followers();
        core.accept_large_write(write_of_20_pieces(1), None);
        assert_eq!(appended(&mut core), LAG as u64);
        assert_eq!((appended(&mut core), acknowledge(&mut core, 1)), (0, 0), "2 lags behind");
        assert_eq!(acknowledge(&mut core, 2), LAG as u64);
        assert_eq!((acknowledge(&mut core, 2), acknowledge(&mut core, 1)), (0, LAG as u64));
    }

    #[test]
    fn wait_for_a_lagging_follower_is_bounded_for_each_large_write() {
        let mut core = core_with_followers();
        core.accept_large_write(write_of_20_pieces(1), None);
        core.accept_large_write(write_of_20_pieces(2), None);
        assert_eq!(appended(&mut core), LAG as u64);
        core.now = core.now + LAG_WAIT_MAX / 2;
        assert_eq!((appended(&mut core), acknowledge(&mut core, 1)), (0, 0));
        core.now = core.now + LAG_WAIT_MAX / 2;
        assert_eq!((appended(&mut core), core.large_writes.len()), (20 - LAG as u64, 1));
        // The second one begins a wait of its own, although the first follower has all pieces.
        assert_eq!((appended(&mut core), acknowledge(&mut core, 1)), (0, 0));
        assert_eq!(acknowledge(&mut core, 2), LAG as u64);
        core.now = core.now + LAG_WAIT_MAX;
        assert_eq!((appended(&mut core), core.large_writes.len()), (20 - LAG as u64, 0));
    }

    #[test]
    fn clock_entry_precedes_the_last_piece() {
        let (core, network, log_writer, _applier) = leading_core_at(Clock::start(), 0);
        let mut core = with_clock(core, &[]);
        persist(&mut core, &log_writer);
        let value = vec![b'v'; 2 * WHOLE_BATCH_BYTES_MAX];
        let args = [b"k", &value[..], b"PX", b"1000"];
        let set = Operation::call(CommandId::SET, &args);
        let request = ClientRequest { payload: Batch::one(write(1).key, &set), ..write(1) };
        network.requests.try_send(Requests::Clients(vec![request])).unwrap();
        let mut found = Vec::new();
        while found.is_empty() || !core.large_writes.is_empty() {
            core.run_once(None);
            found.append(&mut persist(&mut core, &log_writer));
        }
        let clock_of =
            |entry: &Entry| match Batch::decode(entry.payload()).ok()?.operations().next() {
                Some(Some(Operation::Clock { millis, .. })) => Some(millis),
                _ => None,
            };
        let [.., before, clock, last] = &found[..] else { panic!("{} entries", found.len()) };
        let following = |entry: &Entry| Piece::decode(entry.payload()).map(|it| it.following);
        assert_eq!((following(before), following(last)), (Some(1), Some(0)));
        // The clock entry does not end the batch, whose command sees its time.
        let mut state = StateMachine::default();
        let applied: Vec<_> = found.iter().map(|entry| state.apply(entry).outcomes).collect();
        assert_eq!(applied.last().unwrap(), &[Outcome::Done]);
        assert_eq!(state.next_expiry(), clock_of(clock).map(|millis| millis + 1_000));
    }

    #[test]
    fn forged_piece_from_a_peer_is_refused() {
        let (mut core, network, log_writer, _applier) = leading_core(0);
        persist(&mut core, &log_writer);
        let payload = Piece::encode(write(1).key, &large(1).payload, 0, PIECE_BYTES);
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
        assert_eq!((core.counters.repeats_dropped.get(), core.large_writes.len()), (1, 0));
    }
}
