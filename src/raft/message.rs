//! The inputs of the core. Wire decoding can only produce [`PeerMsg`], so the types ensure that no
//! peer can forge a [`Persisted`] or [`Msg::Applied`].

use bytes::Bytes;

use crate::record::Entry;
use crate::types::{EntryId, Index, JobSequence, NodeId, RequestKey, Round, Term};

pub use crate::types::{DiskState, RequestKind};

/// An input of the consensus core, for [`Replica::handle_msg`](super::Replica::handle_msg).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Msg {
    /// A message from another replica.
    Peer(Envelope),
    /// A request from a client.
    Client(ClientRequest),
    /// The log writer has made a job durable.
    Persisted(Persisted),
    /// The applier has applied all entries up to `index` and has handed over the replies to the
    /// requests in them.
    Applied {
        /// Index of the last applied entry.
        index: Index,
    },
    /// A snapshot of this replica's own state is durable and was verified by reading it back.
    SnapshotTaken(SnapshotId),
    /// A chunk of a leader's snapshot was stored: the driver's answer to a chunk in
    /// [`Effects::received_chunks`](super::Effects::received_chunks).
    ChunkStored(ChunkStored),
    /// A leader's snapshot is complete and durable, and the state machine has installed it.
    Installed(SnapshotId),
    /// The free disk space of this replica. The driver sends this input when free space falls below
    /// the configured reserve, from time to time while free space stays below, and when it is above
    /// the reserve again.
    DiskSpace(DiskSpace),
}

/// Free space on a replica's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Whether the free space on the disk is below the reserve that the configuration sets.
    pub low: bool,
    /// Number of bytes of log entries for which there is certainly space. Meaningful only if `low`
    /// is true.
    pub bytes: u64,
}

/// The driver's report that it has stored a chunk of a leader's snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkStored {
    /// The term of the leader that sent the chunk.
    pub term: Term,
    /// The snapshot that the chunk belongs to.
    pub snapshot: SnapshotId,
    /// Round number of the [`InstallSnapshot`] message that carried the chunk. The reply to the
    /// leader echoes it.
    pub round: Round,
    /// Number of bytes of the snapshot that have been received without a gap from its start; equal
    /// to the offset of the next chunk.
    pub received: u64,
}

/// Identifies a snapshot by its last entry, length and checksum.
///
/// Snapshots of different replicas with the same last entry hold the same state, but their bytes
/// may differ. So all chunks of a transfer must come from one snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotId {
    /// Id of the last entry that the snapshot covers.
    pub last: EntryId,
    /// Length of the snapshot in bytes.
    pub bytes: u64,
    /// Checksum (CRC-32C) of the snapshot's content: its header and blocks, without the blocks' own
    /// checksum fields.
    pub checksum: u32,
}

/// A message between replicas, with its sender and its receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Id of the sending replica, as the message states it.
    pub from: NodeId,
    /// Id of the replica that the message is addressed to.
    pub to: NodeId,
    /// The last leader that the sender knew of; `None` if it has known none. Reported to the
    /// university course's simulator; the core never reads it.
    pub leader: Option<NodeId>,
    /// The message itself, without its sender and receiver.
    pub message: PeerMsg,
}

/// A message between replicas. Each variant carries the sender's term, except pre-vote requests and
/// the replies that grant them: these carry the term of the election that the candidate would
/// start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerMsg {
    /// Log entries from the leader, or a heartbeat, which has no entries.
    AppendEntries(AppendEntries),
    /// The reply to [`AppendEntries`]: whether the follower's log matches.
    AppendReply(AppendReply),
    /// A candidate's request for a vote or a pre-vote.
    RequestVote(RequestVote),
    /// The reply to [`RequestVote`]: whether the vote is granted.
    VoteReply(VoteReply),
    /// A chunk of a leader's snapshot, for a follower that lacks compacted entries (§7).
    InstallSnapshot(InstallSnapshot),
    /// The reply to [`InstallSnapshot`]: how much of the snapshot is stored. When the snapshot is
    /// installed, the follower replies with an [`AppendReply`] instead.
    InstallReply(InstallReply),
    /// A leader's request to a follower to campaign at once, for a leadership transfer (thesis
    /// 3.10).
    TimeoutNow(TimeoutNow),
    /// A request of a member that has lost its disk, sent to all other members; see `rejoin.rs`.
    Rejoin(Rejoin),
    /// The reply to [`Rejoin`]: the term and the last log entry of the member that answers.
    RejoinReply(RejoinReply),
}

/// Request of a member that has lost its disk: asks another member for its term and its last log
/// entry, because the sender has forgotten its own votes and acknowledgements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejoin {
    /// Random number that the sender generates at each start of its process; the reply echoes it.
    pub nonce: u64,
    /// The sender's current term. Until all members have answered, it may be lower than the
    /// sender's term before the loss of its disk, or 0.
    pub term: Term,
    /// Id of the last entry in the sender's log.
    pub last: EntryId,
}

/// The reply to [`Rejoin`]: the term and the last entry of the member that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RejoinReply {
    /// The nonce of the [`Rejoin`] request that this reply answers.
    pub nonce: u64,
    /// Current term of the member that answers; 0 if this member has seen no election.
    pub term: Term,
    /// Whether the member that answers is the leader of `term`.
    pub leads: bool,
    /// Id of the last entry in the sender's log.
    pub last: EntryId,
}

/// A leader's request to a follower to campaign at once (leadership transfer).
///
/// Once the leader has sent this message, it serves no more reads under a lease in its term. So
/// voters may elect its successor even if they have heard from the leader recently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutNow {
    /// The leader's term.
    pub term: Term,
    /// The leader's last entry, which the follower has acknowledged.
    pub last: EntryId,
}

/// A chunk of a leader's snapshot, sent to a follower that lacks compacted entries (§7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstallSnapshot {
    /// The leader's term.
    pub term: Term,
    /// Number of the round that the message belongs to; the reply echoes it. A leader numbers its
    /// rounds of messages; each chunk begins a new round.
    pub round: Round,
    /// The snapshot that the chunk belongs to.
    pub snapshot: SnapshotId,
    /// Position of the chunk in the snapshot, in bytes.
    pub offset: u64,
    /// The bytes of the chunk. Empty in the core's output: the driver reads the chunk from the
    /// snapshot file before it sends the message.
    pub chunk: Bytes,
}

/// The reply to [`InstallSnapshot`]: how much of the snapshot the follower has stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstallReply {
    /// The follower's term.
    pub term: Term,
    /// Round number of the [`InstallSnapshot`] message that this reply answers.
    pub round: Round,
    /// The snapshot that the follower is receiving.
    pub snapshot: SnapshotId,
    /// Number of bytes of the snapshot that have been received without a gap from its start; equal
    /// to the offset of the next chunk.
    pub received: u64,
}

/// A leader's entries for a follower's log, or a heartbeat (§5.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendEntries {
    /// The leader's term.
    pub term: Term,
    /// Number of the round that the message belongs to; the reply echoes it. A leader numbers its
    /// rounds of messages; all appends of one flush belong to the same round.
    pub round: Round,
    /// Id of the entry that precedes `entries` in the leader's log; [`EntryId::ZERO`] if they start
    /// at index 1.
    pub prev: EntryId,
    /// The leader's commit index. It may be past the last entry that this message proves to be in
    /// both logs; the follower then commits only up to that entry.
    pub commit_index: Index,
    /// Share of messages lost in one direction, in permille, as the leader has measured it over all
    /// peers that answer.
    pub loss_permille: u16,
    /// The follower that the leader is transferring its leadership to; without a transfer in
    /// progress, the latest such follower if the leader has sent [`TimeoutNow`] in this term, else
    /// `None`. Voters may elect this follower even if they have heard from the leader recently.
    pub transfer_to: Option<NodeId>,
    /// Consecutive log entries, the first with index `prev.index + 1`. Empty in a heartbeat.
    pub entries: Vec<Entry>,
}

/// The reply to [`AppendEntries`]: whether the follower's log matches the leader's, and up to
/// where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendReply {
    /// The follower's term: equal to the leader's, or a higher one that makes the leader step down.
    pub term: Term,
    /// Round number of the message that this reply answers; 0 if that message was from the leader
    /// of an earlier term.
    pub round: Round,
    /// The condition of the follower's disk.
    pub disk: DiskState,
    /// Whether the follower's log matches the leader's.
    pub outcome: AppendOutcome,
}

/// Whether a follower's log matches the leader's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOutcome {
    /// The follower's log is durable and equal to the leader's up to an index.
    Match {
        /// Index up to which the follower's log is durable and equal to the leader's. Acknowledges
        /// all entries up to this index, including those of earlier messages; [`Index::ZERO`]
        /// acknowledges none.
        index: Index,
    },
    /// The follower's log does not contain the entry `prev` of the leader's message, or the message
    /// was from the leader of an earlier term.
    Reject {
        /// Index of the leader's `prev` that the follower rejected. The leader uses it to recognise
        /// stale replies.
        refused: Index,
        /// Id of the last entry of the follower's log that may also be in the leader's log.
        hint: EntryId,
    },
}

/// A request for a vote (§5.2) or a pre-vote (thesis 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestVote {
    /// The term of the election; for a pre-vote, the term that the sender would start.
    pub term: Term,
    /// Whether this is a pre-vote request, which asks whether the receiver would vote for the
    /// sender but does not start the term.
    pub pre: bool,
    /// Whether this election is part of a leadership transfer: the leader of the previous term has
    /// asked the sender to campaign and has given up its lease.
    pub transfer: bool,
    /// Id of the last entry in the candidate's log, which the receiver compares with its own log.
    pub last: EntryId,
}

/// The reply to [`RequestVote`], for a vote or a pre-vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteReply {
    /// The term of the request if the vote or pre-vote is granted, else the voter's own term.
    pub term: Term,
    /// Whether this reply answers a pre-vote request; false if it answers a vote request.
    pub pre: bool,
    /// Whether the vote or pre-vote is granted.
    pub granted: bool,
}

impl PeerMsg {
    /// Returns the name of the message type, as shown in traces and counters.
    pub fn name(&self) -> &'static str {
        match self {
            PeerMsg::AppendEntries(_) => "AppendEntries",
            PeerMsg::AppendReply(_) => "AppendReply",
            PeerMsg::RequestVote(RequestVote { pre: true, .. }) => "PreVote",
            PeerMsg::RequestVote(_) => "RequestVote",
            PeerMsg::VoteReply(VoteReply { pre: true, .. }) => "PreVoteReply",
            PeerMsg::VoteReply(_) => "VoteReply",
            PeerMsg::InstallSnapshot(_) => "InstallSnapshot",
            PeerMsg::InstallReply(_) => "InstallReply",
            PeerMsg::TimeoutNow(_) => "TimeoutNow",
            PeerMsg::Rejoin(_) => "Rejoin",
            PeerMsg::RejoinReply(_) => "RejoinReply",
        }
    }
}

impl AppendEntries {
    /// Returns whether the entries follow `prev` without gaps, in terms that never decrease and do
    /// not exceed the message's term. Wire decoders check this too; this check protects the core
    /// from any other driver.
    pub(super) fn is_well_formed(&self) -> bool {
        // Bounded, so that later additions to an index cannot overflow.
        let end = self.prev.index.0.checked_add(self.entries.len() as u64);
        let in_bounds = end.is_some_and(|end| end <= Index::MAX.0);
        let mut before = self.prev;
        in_bounds
            && before.term <= self.term
            && self.entries.iter().all(|entry| {
                let follows = entry.index() == before.index.next() && entry.term() >= before.term;
                before = entry.id();
                follows && entry.term() <= self.term
            })
    }
}

impl InstallSnapshot {
    /// Returns whether the id of the snapshot's last entry is valid: its term is at most the
    /// message's term, and its index within the allowed range.
    pub(super) fn is_well_formed(&self) -> bool {
        self.snapshot.last.index <= Index::MAX && self.snapshot.last.term <= self.term
    }
}

/// A client's request or, in the server, a batch of requests. The core never reads the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRequest {
    /// The id of the request; the reply carries the same id.
    pub key: RequestKey,
    /// Whether the request is a write, which becomes a log entry, or a read, which does not.
    pub kind: RequestKind,
    /// The encoded batch of operations for the state machine.
    pub payload: Bytes,
}

/// The log writer's report that a job and all earlier jobs are durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persisted {
    /// Sequence number of the last job that is durable.
    pub sequence: JobSequence,
    /// Id of the last entry that the job wrote; `None` if the job had no entries. The id includes
    /// the term, so that the report does not count for an entry that has since replaced this one.
    pub last: Option<EntryId>,
}
