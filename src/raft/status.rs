//! A read-only view of a replica, for traces, metrics and tests. Nothing decides upon it.

use crate::types::{EntryId, Index, NodeId, Term};

use super::message::DiskState;

pub use crate::types::RoleName;

/// A replica at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// Which replica.
    pub id: NodeId,
    /// Its role.
    pub role: RoleName,
    /// Its term.
    pub term: Term,
    /// Its vote in that term.
    pub voted_for: Option<NodeId>,
    /// Whom it believes to lead.
    pub leader: Option<NodeId>,
    /// The entry before the first in its log: all up to there is in a snapshot.
    pub base: EntryId,
    /// Its last entry.
    pub last: EntryId,
    /// Up to here its log is on disk.
    pub durable_index: Index,
    /// Up to here its log is committed, as far as it knows.
    pub commit_index: Index,
    /// Up to here its state machine has come.
    pub applied_index: Index,
    /// How its disk is.
    pub disk: DiskState,
    /// To whom it is handing its lead over.
    pub transfer_target: Option<NodeId>,
    /// How far it has come with rejoining, if it lost its disk; `None` for a full member.
    pub rejoining: Option<RejoinStatus>,
    /// A leader's knowledge of its peers, in order of their ids; empty in other roles.
    pub peers: Vec<PeerStatus>,
    /// What it refused and dropped so far.
    pub counters: Counters,
}

/// How far a member that lost its disk has come with rejoining. It is waiting for a leader while
/// it waits for no answer and has no target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RejoinStatus {
    /// Members whose answers are missing, in order of their ids. A member that is itself rejoining
    /// does not answer.
    pub waiting_for: Vec<NodeId>,
    /// It rejoins when it holds the log up to here durably; `None` until a leader has named it.
    pub target: Option<Index>,
}

/// What a leader knows of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    /// Which peer.
    pub id: NodeId,
    /// Durable and equal up to here.
    pub match_index: Index,
    /// The next entry to send.
    pub next_index: Index,
    /// Whether it is still being probed.
    pub probing: bool,
    /// How its disk is, as it last said.
    pub disk: DiskState,
}

/// Counts of what was refused or given up, and of elections, since the replica started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Messages for another replica, from unknown ones, or before the silence after the start
    /// was over.
    pub misdirected: u64,
    /// Messages of an earlier term, or answers to nothing.
    pub stale: u64,
    /// Appends whose entries contradict themselves.
    pub malformed: u64,
    /// Messages rejected for a term that no elections can have reached.
    pub terms_rejected: u64,
    /// Messages rejected because they contradict a committed entry or the leader of their term.
    pub conflicts_rejected: u64,
    /// Requests refused because too much was under way.
    pub busy: u64,
    /// Pre-votes started.
    pub pre_votes: u64,
    /// Elections stood for.
    pub elections: u64,
    /// Times it became leader.
    pub leaderships: u64,
    /// Times it gave up its lead because a quorum was silent.
    pub quorum_losses: u64,
    /// Times it tried to hand its lead over.
    pub leadership_transfers: u64,
    /// Times its disk stalled.
    pub disk_stalls: u64,
    /// Messages ignored because it was rejoining, requests for votes among them.
    pub ignored_while_rejoining: u64,
    /// Times it rejoined after the loss of its disk: 0 or 1.
    pub rejoined: u64,
    /// Reads released under the lease before a quorum had confirmed their round.
    pub lease_reads: u64,
    /// Reads released because a quorum had confirmed their round.
    pub read_index_reads: u64,
}
