//! Cores, messages and jobs for the unit tests of this folder.

use std::time::Duration;

use bytes::Bytes;

use crate::clock::AppliedClock;
use crate::config::Config;
use crate::feature_level::FeatureLevel;
use crate::membership::Configuration;
use crate::raft::{
    AppendEntries, AppendJob, ClientRequest, Durable, Effects, Envelope, HardState, Msg, PeerMsg,
    Persisted, Replica, RequestKind, VoteReply,
};
use crate::record::{EntryKind, RecordBuffer};
use crate::runtime::boards::ClockBoard;
use crate::runtime::channels::{ApplierEnds, Ends, LogWriterEnds, NetworkEnds, channels};
use crate::runtime::clock::Clock;
use crate::runtime::clock::tests::stopped;
use crate::runtime::wake::tests::unused_wake;
use crate::types::{
    ClientId, EntryId, Index, JobSequence, NodeId, RequestId, RequestKey, Round, Term,
};
use std::sync::Arc;

use super::replicated_clock::CoreClock;
use super::{Core, NonLeaderPolicy};

/// Creates a core in term 0 whose clock never advances, so that its replica never starts an
/// election. Returns the core and the other stages' ends of its channels.
pub(super) fn quiet_core() -> (Core, NetworkEnds, LogWriterEnds, ApplierEnds) {
    quiet_core_in(Term(0))
}

/// Creates a core in `term` whose clock never advances, so that its replica never starts an
/// election. Returns the core and the other stages' ends of its channels.
pub(super) fn quiet_core_in(term: Term) -> (Core, NetworkEnds, LogWriterEnds, ApplierEnds) {
    let Ends { network, core: ends, log_writer, applier, .. } = channels(&unused_wake(), false);
    let clock = stopped();
    let peers = [NodeId(1), NodeId(2)];
    let hard_state = HardState { term, voted_for: None };
    let durable = Durable { hard_state, ..Durable::default() };
    let replica = Replica::new(NodeId(0), &peers, Config::course(), 7, durable, clock.now());
    let policy = NonLeaderPolicy::Replica;
    let core = Core::new(replica, clock, ends, policy, Arc::default(), Arc::default());
    (core, network, log_writer, applier)
}

/// Creates a core whose replica is the only member of its cluster and the leader in term 2. The log
/// has `entries` entries and the new leader's no-op. The clock never advances.
pub(super) fn leading_core(entries: u64) -> (Core, NetworkEnds, LogWriterEnds, ApplierEnds) {
    leading_core_at(stopped(), entries)
}

/// Creates a core with the clock `clock`, whose replica is the only member of its cluster and the
/// leader in term 2. The log has `entries` entries and the new leader's no-op.
pub(super) fn leading_core_at(
    clock: Clock,
    entries: u64,
) -> (Core, NetworkEnds, LogWriterEnds, ApplierEnds) {
    let Ends { network, core: ends, log_writer, applier, .. } = channels(&unused_wake(), false);
    let mut buffer = RecordBuffer::default();
    let entries = (1..=entries)
        .map(|index| buffer.encode(EntryId::new(1, index), EntryKind::Command, b"x"))
        .collect();
    let hard_state = HardState { term: Term(1), voted_for: None };
    let durable = Durable { hard_state, entries, ..Durable::default() };
    let mut replica = Replica::new(NodeId(0), &[], Config::server(), 7, durable, clock.now());
    let later = clock.now() + Duration::from_secs(10);
    let mut effects = Effects::default();
    replica.handle_timeout(later, &mut effects);
    replica.flush(later, &mut effects);
    let sequence = effects.append.take().expect("its own vote").sequence;
    let persisted = Msg::Persisted(Persisted { sequence, last: None });
    replica.handle_msg(later, persisted, &mut effects);
    assert!(replica.is_leader() && replica.term() == Term(2));
    let policy = NonLeaderPolicy::Refuse;
    let core = Core::new(replica, clock, ends, policy, Arc::default(), Arc::default());
    (core, network, log_writer, applier)
}

/// Creates a core whose replica leads these followers in term 1, and whose clock never advances.
/// The log has the leader's no-op.
pub(super) fn leading_core_of(
    followers: &[NodeId],
) -> (Core, NetworkEnds, LogWriterEnds, ApplierEnds) {
    let Ends { network, core: ends, log_writer, applier, .. } = channels(&unused_wake(), false);
    let (clock, durable) = (stopped(), Durable::default());
    let mut replica = Replica::new(NodeId(0), followers, Config::server(), 7, durable, clock.now());
    let later = clock.now() + Duration::from_secs(10);
    let mut effects = Effects::default();
    replica.handle_timeout(later, &mut effects);
    for pre in [true, false] {
        for from in followers {
            let vote = PeerMsg::VoteReply(VoteReply { term: Term(1), pre, granted: true });
            let envelope = Envelope { from: *from, to: NodeId(0), leader: None, message: vote };
            replica.handle_msg(later, Msg::Peer(envelope), &mut effects);
        }
        replica.flush(later, &mut effects);
        if let Some(job) = effects.append.take() {
            let persisted = Persisted { sequence: job.sequence, last: None };
            replica.handle_msg(later, Msg::Persisted(persisted), &mut effects);
        }
    }
    assert!(replica.is_leader() && replica.term() == Term(1));
    let policy = NonLeaderPolicy::Refuse;
    let core = Core::new(replica, clock, ends, policy, Arc::default(), Arc::default());
    (core, network, log_writer, applier)
}

/// Adds a replicated clock to `core`, for a replica with these peers.
pub(super) fn with_clock(core: Core, peers: &[NodeId]) -> Core {
    let clock = core.clock;
    let core_clock = CoreClock::new(Arc::<ClockBoard>::default(), AppliedClock::default(), &clock);
    let mut core = core.with_clock(core_clock);
    let me = core.replica.id();
    let members = Configuration::of_voters(peers.iter().copied().chain([me]));
    core.replicated_clock.as_mut().expect("just added").set_members(me, &members);
    core
}

/// Returns an `AppendEntries` message from leader 1 in term 1 with `entries` entries, the first of
/// them at index 1.
pub(super) fn append(entries: usize) -> Envelope {
    let mut buffer = RecordBuffer::default();
    let entries = (1..=entries as u64)
        .map(|index| buffer.encode(EntryId::new(1, index), EntryKind::Command, b"x"))
        .collect();
    let message = PeerMsg::AppendEntries(AppendEntries {
        term: Term(1),
        round: Round(1),
        prev: EntryId::ZERO,
        commit_index: Index::ZERO,
        loss_permille: 0,
        transfer_to: None,
        entries,
    });
    Envelope { from: NodeId(1), to: NodeId(0), leader: None, message }
}

/// Returns an append job that contains no entries and no messages.
pub(super) fn append_job(sequence: u64) -> AppendJob {
    AppendJob {
        sequence: JobSequence(sequence),
        hard_state: Some(HardState::default()),
        entries: Vec::new(),
        feature_level: FeatureLevel::OLDEST,
        rejoined: false,
        release: Vec::new(),
        restart_after: None,
        compact_to: None,
    }
}

/// Returns a client's write request with `number` in its request id, so that requests with
/// different numbers have different keys.
pub(super) fn write(number: u8) -> ClientRequest {
    let key = RequestKey { client: ClientId(7), request: RequestId([number; 16]) };
    ClientRequest { key, kind: RequestKind::Write, payload: Bytes::from_static(b"x") }
}
