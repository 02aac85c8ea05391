//! A read-only view of a replica for traces, metrics and tests. No decision depends on it.

use crate::feature_level::FeatureLevel;
use crate::types::{EntryId, Index, NodeId, Term};

use super::message::DiskState;
use super::role::RoleName;

/// A copy of a replica's state at one moment, for traces, metrics and tests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// The replica's id.
    pub id: NodeId,
    /// The replica's role.
    pub role: RoleName,
    /// The replica's current term.
    pub term: Term,
    /// The replica's vote in its current term; `None` if it has not voted.
    pub voted_for: Option<NodeId>,
    /// The leader that the replica follows in the current term, or the replica itself if it leads;
    /// `None` if it follows none.
    pub leader: Option<NodeId>,
    /// Id of the entry just before the first one in memory: the last compacted entry. A snapshot
    /// covers all entries up to it.
    pub base: EntryId,
    /// Id of the last entry of the log.
    pub last: EntryId,
    /// Index of the last entry that is known to be durable on this replica's disk.
    pub durable_index: Index,
    /// Index of the last entry that is known to be committed.
    pub commit_index: Index,
    /// Index of the last entry that the state machine has applied.
    pub applied_index: Index,
    /// The condition of the replica's disk: healthy, almost full or stalled.
    pub disk: DiskState,
    /// The cluster's feature level as of the last entry that is known to be committed.
    pub feature_level: FeatureLevel,
    /// The follower to which this replica, as leader, is transferring its leadership; `None` if no
    /// transfer is in progress.
    pub transfer_target: Option<NodeId>,
    /// Progress of rejoining after a loss on the disk; `None` for a full member.
    pub rejoining: Option<RejoinStatus>,
    /// The replica's view of each peer, ordered by id; empty unless the replica is the leader.
    pub peers: Vec<PeerStatus>,
    /// Event counts since the replica's process started.
    pub counters: Counters,
}

/// Progress of a member that has lost its disk or a part of it and is rejoining the cluster. If
/// `waiting_for` is empty and `target` is `None`, either the leader has not reported its last entry
/// yet, or the member has caught up and is about to finish.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RejoinStatus {
    /// Members that have not yet answered the rejoining member's request for their terms, ordered
    /// by id. A member that is itself rejoining does not answer.
    pub waiting_for: Vec<NodeId>,
    /// Index up to which the rejoining member's log must become durable: the leader's last entry.
    /// `None` until the leader of the current term has reported its last entry, and again once the
    /// log has caught up.
    pub target: Option<Index>,
}

/// A leader's view of one peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    /// The peer's id.
    pub id: NodeId,
    /// Index up to which the peer's log is durable and equal to the leader's.
    pub match_index: Index,
    /// Index of the next entry that the leader will send to the peer.
    pub next_index: Index,
    /// Whether the peer is being probed: the leader is still looking for the last entry at which
    /// the two logs match.
    pub probing: bool,
    /// The condition of the peer's disk, according to its last reply.
    pub disk: DiskState,
    /// Feature level of the peer's program, according to its last reply to this leader; `None`
    /// before the first.
    pub feature_level: Option<FeatureLevel>,
}

/// Event counts since the replica's process started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Number of peer messages dropped because they were addressed to another replica, came from
    /// outside the cluster, or arrived in the silent period after the start
    /// (`silence_after_start`).
    pub misdirected: u64,
    /// Number of peer messages dropped as outdated, for example because they were of an earlier
    /// term or replies that this replica no longer awaited.
    pub stale: u64,
    /// Number of peer messages dropped as malformed: their fields contradict each other, or
    /// contradict what this replica has sent.
    pub malformed: u64,
    /// Number of peer messages rejected because their term is too high to have been reached by
    /// elections.
    pub terms_rejected: u64,
    /// Number of peer messages rejected because they contradict a committed entry or the known
    /// leader of their term.
    pub conflicts_rejected: u64,
    /// Number of client requests refused because a limit on waiting requests, waiting reads or
    /// uncommitted bytes was reached.
    pub busy: u64,
    /// Number of pre-vote campaigns that this replica has started.
    pub pre_votes: u64,
    /// Number of elections that this replica has started.
    pub elections: u64,
    /// Number of elections that this replica has won.
    pub leaderships: u64,
    /// Number of times that this replica stepped down as leader because a quorum did not answer.
    pub quorum_losses: u64,
    /// Number of leadership transfers that this replica has started as leader.
    pub leadership_transfers: u64,
    /// Number of times that this replica, a witness, stepped down as leader because it could bring
    /// no replica with data up to date.
    pub witness_retreats: u64,
    /// Number of configurations of the members that this replica has appended as leader.
    pub configurations: u64,
    /// Number of times that this replica's disk stalled.
    pub disk_stalls: u64,
    /// Number of peer messages, including vote requests, that were ignored because this replica was
    /// rejoining after the loss of its disk.
    pub ignored_while_rejoining: u64,
    /// Number of times that this replica finished rejoining after the loss of its disk: 0 or 1.
    pub rejoined: u64,
    /// Number of reads that this replica, as leader, served under its lease, without waiting for
    /// replies from a quorum.
    pub lease_reads: u64,
    /// Number of reads that this replica, as leader, served by read index: after a quorum had
    /// answered messages that were sent after the read arrived.
    pub read_index_reads: u64,
}
