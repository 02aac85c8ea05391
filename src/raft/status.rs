//! A read-only view of a replica for traces, metrics and tests. No decision depends on it.

use crate::types::{EntryId, Index, NodeId, Term};

use super::message::DiskState;
use super::role::RoleName;

/// The state of a replica at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// The replica's id.
    pub id: NodeId,
    /// Its role.
    pub role: RoleName,
    /// Its term.
    pub term: Term,
    /// Its vote in that term.
    pub voted_for: Option<NodeId>,
    /// The leader of that term, if known.
    pub leader: Option<NodeId>,
    /// The entry before the first one in the log; a snapshot covers everything up to it.
    pub base: EntryId,
    /// The last entry of the log.
    pub last: EntryId,
    /// Index of the last durable entry.
    pub durable_index: Index,
    /// Index of the last entry that is known to be committed.
    pub commit_index: Index,
    /// Index of the last applied entry.
    pub applied_index: Index,
    /// The condition of its disk.
    pub disk: DiskState,
    /// The target of a leadership transfer in progress.
    pub transfer_target: Option<NodeId>,
    /// Progress of rejoining after the loss of the disk; `None` for a full member.
    pub rejoining: Option<RejoinStatus>,
    /// A leader's view of its peers, ordered by id; empty in other roles.
    pub peers: Vec<PeerStatus>,
    /// Event counts since the start.
    pub counters: Counters,
}

/// Progress of a member that has lost its disk. If it waits for no answer and has no target, it
/// waits for a leader.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RejoinStatus {
    /// Members that have not answered yet, ordered by id. A member that is itself rejoining does
    /// not answer.
    pub waiting_for: Vec<NodeId>,
    /// Index up to which the log must be durable before the member rejoins; `None` until a leader
    /// has named it.
    pub target: Option<Index>,
}

/// A leader's view of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    /// The peer's id.
    pub id: NodeId,
    /// Index up to which the peer's log is durable and equal to the leader's.
    pub match_index: Index,
    /// Index of the next entry to send.
    pub next_index: Index,
    /// Whether the leader is still looking for the last matching entry.
    pub probing: bool,
    /// The condition of the peer's disk in its last reply.
    pub disk: DiskState,
}

/// Event counts since the replica started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Messages to another replica, from an unknown one, or during the silence after the start.
    pub misdirected: u64,
    /// Messages of an earlier term, and replies that nothing waits for.
    pub stale: u64,
    /// Messages whose fields contradict each other or what this replica sent.
    pub malformed: u64,
    /// Messages rejected for a term that elections cannot have reached.
    pub terms_rejected: u64,
    /// Messages rejected because they contradict a committed entry or the leader of their term.
    pub conflicts_rejected: u64,
    /// Client requests refused because too much was in flight.
    pub busy: u64,
    /// Pre-vote rounds started.
    pub pre_votes: u64,
    /// Elections started.
    pub elections: u64,
    /// Elections won.
    pub leaderships: u64,
    /// Times it stepped down because a quorum did not answer.
    pub quorum_losses: u64,
    /// Leadership transfers started.
    pub leadership_transfers: u64,
    /// Times its disk stalled.
    pub disk_stalls: u64,
    /// Messages ignored while rejoining, vote requests among them.
    pub ignored_while_rejoining: u64,
    /// Times it rejoined after the loss of its disk: 0 or 1.
    pub rejoined: u64,
    /// Reads served under the lease before a quorum had confirmed their round.
    pub lease_reads: u64,
    /// Reads served after a quorum had confirmed their round.
    pub read_index_reads: u64,
}
