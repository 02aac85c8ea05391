//! The inputs of the core. Wire decoding can only produce [`PeerMsg`], so the types ensure that no
//! peer can forge a [`Persisted`] or [`Msg::Applied`].

use bytes::Bytes;

use crate::feature_level::FeatureLevel;
use crate::membership::Configuration;
use crate::record::Entry;
use crate::types::{EntryId, Index, JobSequence, NodeId, RequestKey, Round, Term};

pub use crate::types::{DiskState, RequestKind};

/// An input of the consensus core, to be passed to
/// [`Replica::handle_msg`](super::Replica::handle_msg).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Msg {
    /// A message from another replica.
    Peer(Envelope),
    /// A request from a client.
    Client(ClientRequest),
    /// The log writer's report that a job is durable.
    Persisted(Persisted),
    /// The applier's report that it has applied all entries up to `index` and handed over the
    /// replies for the clients whose requests the entries contain.
    Applied {
        /// Index of the last applied entry.
        index: Index,
    },
    /// A report from the driver (server or simulator) that a snapshot of this replica's own state
    /// is durable and was verified by reading it back.
    SnapshotTaken(SnapshotId),
    /// A report from the driver (server or simulator) that it has stored a chunk from
    /// [`Effects::received_chunks`](super::Effects::received_chunks).
    ChunkStored(ChunkStored),
    /// A report from the driver (server or simulator) that a leader's snapshot is complete,
    /// durable, and installed in the state machine. It comes with the members as of the snapshot's
    /// last entry, `None` if the members had not changed by then since the cluster was created, and
    /// the cluster's feature level as of that entry.
    Installed(SnapshotId, Option<Configuration>, FeatureLevel),
    /// The free disk space, reported by the driver (server or simulator). Sent when free space
    /// falls below the configured reserve, from time to time while it stays below, and when it is
    /// above the reserve again.
    DiskSpace(DiskSpace),
}

/// Free space on a replica's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Whether free disk space is below the configured reserve.
    pub low: bool,
    /// Number of bytes of log entries that are certain to fit on the disk. Meaningful only if `low`
    /// is true.
    pub bytes: u64,
}

/// A report from the driver (server or simulator) to the core that it has stored a chunk of a
/// leader's snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkStored {
    /// The term of the leader that sent the chunk.
    pub term: Term,
    /// The snapshot that the chunk belongs to.
    pub snapshot: SnapshotId,
    /// Round number in the message that contained the chunk. It identifies a batch of the leader's
    /// messages, and the reply to the leader echoes it.
    pub round: Round,
    /// Number of bytes received without a gap from the start of the snapshot, which is the offset
    /// of the next chunk.
    pub received: u64,
}

/// Identifies a snapshot by its last entry, length and checksum.
///
/// Two replicas' snapshots with the same last entry hold the same state, but may differ in their
/// bytes. So all chunks of a transfer must come from one snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotId {
    /// Id of the last entry that the snapshot covers.
    pub last: EntryId,
    /// Length of the snapshot in bytes; 0 for one without data, which a leader sends to a witness.
    pub bytes: u64,
    /// CRC-32C checksum of the whole snapshot, except for the checksum fields that it contains.
    pub checksum: u32,
}

impl SnapshotId {
    /// Returns the id of a snapshot without data, which a leader sends to a witness: only the last
    /// entry is known, and the message contains the members as of this entry.
    pub fn without_data(last: EntryId) -> SnapshotId {
        SnapshotId { last, bytes: 0, checksum: 0 }
    }

    /// Returns whether the snapshot has data. Even that of an empty state has some.
    pub fn has_data(&self) -> bool {
        self.bytes > 0
    }
}

/// A message between replicas, with its sender and its receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Id of the replica that claims to have sent the message.
    pub from: NodeId,
    /// Id of the replica that the message is addressed to.
    pub to: NodeId,
    /// The last leader known to the sender; `None` if it has known none. Required by the university
    /// course's protocol; the core never reads it.
    pub leader: Option<NodeId>,
    /// The message itself, without its sender and receiver.
    pub message: PeerMsg,
}

/// The content of a message between replicas. Each variant carries the sender's term, except
/// pre-vote requests and replies that grant them, which carry the next term, in which the candidate
/// would start an election.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerMsg {
    /// Log entries from the leader, or a heartbeat, which has no entries.
    AppendEntries(AppendEntries),
    /// The reply to [`AppendEntries`]: whether the follower's log matches the leader's, and up to
    /// which index.
    AppendReply(AppendReply),
    /// A candidate's request for a vote or a pre-vote.
    RequestVote(RequestVote),
    /// The reply to [`RequestVote`]: whether the vote is granted.
    VoteReply(VoteReply),
    /// A chunk of a leader's snapshot, sent to a follower that lacks entries which the leader has
    /// compacted (Raft paper, §7).
    InstallSnapshot(InstallSnapshot),
    /// The reply to [`InstallSnapshot`]: how many bytes of the snapshot are stored. Once the
    /// snapshot is installed, the follower replies with an [`AppendReply`] instead.
    InstallReply(InstallReply),
    /// A leader's request to a follower to start an election at once, for a leadership transfer
    /// (Raft dissertation, section 3.10).
    TimeoutNow(TimeoutNow),
    /// A request for the term and last entry of each other member, sent by a member after a loss on
    /// its disk; see `rejoin.rs`.
    Rejoin(Rejoin),
    /// The reply to [`Rejoin`]: the term and the last log entry of the replying member.
    RejoinReply(RejoinReply),
}

/// A request sent to other members by a member that has lost its disk or a part of it. It asks for
/// the receiver's term and last log entry, because the sender has forgotten acknowledgements and
/// perhaps votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejoin {
    /// Random number drawn at each start of the sender. The reply echoes it, so that replies to
    /// requests from before a restart are recognised.
    pub nonce: u64,
    /// The sender's current term. Until all members have answered, this term may be lower than the
    /// term that the sender had before the loss. It is 0 if the disk is empty.
    pub term: Term,
    /// Id of the last entry in the sender's log.
    pub last: EntryId,
}

/// The reply to [`Rejoin`]: the term and the last log entry of the replying member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RejoinReply {
    /// The nonce (random number) of the [`Rejoin`] request that this reply answers.
    pub nonce: u64,
    /// Current term of the replying member; 0 if it has seen no election.
    pub term: Term,
    /// Whether the replying member is the leader of `term`.
    pub leads: bool,
    /// Id of the last entry in the replying member's log.
    pub last: EntryId,
    /// Whether the members have changed since the cluster was created. The asking member can then
    /// not rejoin, and must be replaced by a new one.
    pub members_changed: bool,
}

/// A leader's request to a follower to start an election at once, which transfers the leadership.
///
/// After the leader has sent this request, it serves no more lease reads in its term. So voters may
/// elect the follower even if they have heard from the leader recently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutNow {
    /// The leader's term.
    pub term: Term,
    /// The leader's last entry, which the follower has acknowledged.
    pub last: EntryId,
}

/// A chunk of a leader's snapshot, sent to a follower that lacks entries which the leader has
/// compacted (Raft paper, §7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstallSnapshot {
    /// The leader's term.
    pub term: Term,
    /// Sequence number of the leader's message round. The reply echoes it. A round is a batch of
    /// messages; each snapshot chunk begins a new round.
    pub round: Round,
    /// The snapshot that the chunk belongs to.
    pub snapshot: SnapshotId,
    /// Position of the chunk in the snapshot, in bytes.
    pub offset: u64,
    /// The bytes of the chunk. Empty in the core's output: the server or simulator reads the bytes
    /// from the snapshot file before it sends the message. In a snapshot without data, the
    /// cluster's feature level (2 bytes, little endian) and the encoded configuration of the
    /// members, if they have changed since the cluster was created.
    pub chunk: Bytes,
}

/// A follower's reply to [`InstallSnapshot`]: how many bytes of the snapshot the follower has
/// stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstallReply {
    /// The follower's term.
    pub term: Term,
    /// The round number in the [`InstallSnapshot`] message that this reply answers. It identifies a
    /// batch of the leader's messages.
    pub round: Round,
    /// The snapshot that the follower is receiving.
    pub snapshot: SnapshotId,
    /// Number of bytes received without a gap from the start of the snapshot, which is the offset
    /// of the next chunk.
    pub received: u64,
}

/// A leader's entries for a follower's log, or a heartbeat (Raft paper, §5.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendEntries {
    /// The leader's term.
    pub term: Term,
    /// Sequence number of the leader's message round (batch of messages). The reply echoes it. All
    /// appends that the leader sends for one batch of inputs share a round number. A reply with
    /// this number shows that the follower still followed this leader after the round began. Round
    /// number 0 means that the message only announces the commit index: a follower whose log
    /// matches does not answer it.
    pub round: Round,
    /// Id of the entry before `entries` in the leader's log; [`EntryId::ZERO`] if `entries` start
    /// at index 1.
    pub prev: EntryId,
    /// The leader's commit index. The follower commits at most up to the last entry that this
    /// message proves to be equal in both logs.
    pub commit_index: Index,
    /// Share of messages lost in one direction, in permille, which the leader has measured over all
    /// peers that are answering. Followers adapt their timeouts to it.
    pub loss_permille: u16,
    /// The target of the leader's leadership transfer in progress, or else of its last transfer in
    /// which it sent [`TimeoutNow`] in this term; `None` if there is neither. Voters may elect this
    /// follower even if they have heard from the leader recently.
    pub transfer_to: Option<NodeId>,
    /// Consecutive log entries, the first with index `prev.index + 1`. Empty in a heartbeat.
    pub entries: Vec<Entry>,
}

/// The reply to [`AppendEntries`]: whether the follower's log matches the leader's, and up to which
/// index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendReply {
    /// The follower's term. If it is higher than the leader's, the leader steps down.
    pub term: Term,
    /// The round number in the `AppendEntries` that this reply answers; 0 if the `AppendEntries`
    /// was of an earlier term. It identifies a batch of the leader's messages.
    pub round: Round,
    /// The condition of the follower's disk.
    pub disk: DiskState,
    /// The feature level of the follower's program; [`FeatureLevel::V0_1`] if that does not tell.
    pub level: FeatureLevel,
    /// Whether the follower's log matches the leader's, and up to which index.
    pub outcome: AppendOutcome,
}

/// The result of an `AppendEntries`: whether the follower's log matches the leader's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOutcome {
    /// The follower's log is durable and equal to the leader's up to `index`.
    Match {
        /// Index up to which all entries are acknowledged, including those of earlier messages;
        /// [`Index::ZERO`] acknowledges none.
        index: Index,
    },
    /// The follower's log lacks the entry `prev` of the leader's message, or the message was from
    /// an earlier term's leader.
    Reject {
        /// Index of the entry `prev` in the leader's message, which the follower's log lacks. The
        /// leader recognises late replies by this index.
        refused: Index,
        /// Id of the last entry of the follower's log that may also be in the leader's log. The
        /// leader probes from there.
        hint: EntryId,
    },
}

/// A candidate's request for a vote (Raft paper, §5.2) or a pre-vote (Raft dissertation, section
/// 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestVote {
    /// The term of the election; for a pre-vote, the term that the sender would start.
    pub term: Term,
    /// Whether this is a pre-vote request: it asks whether the receiver would grant its vote,
    /// without starting the term.
    pub pre: bool,
    /// Whether the previous term's leader asked the sender to campaign (leadership transfer), and
    /// so has given up its lease.
    pub transfer: bool,
    /// Id of the last entry in the candidate's log. Voters compare it with the end of their own
    /// log.
    pub last: EntryId,
}

/// A voter's reply to [`RequestVote`], for a vote or a pre-vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteReply {
    /// The request's term if the vote or pre-vote is granted, else the voter's own term.
    pub term: Term,
    /// Whether this reply answers a pre-vote request; false if it answers a vote request.
    pub pre: bool,
    /// Whether the vote or pre-vote is granted.
    pub granted: bool,
}

impl PeerMsg {
    /// Returns the name of the message type, for traces and counters.
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

impl PeerMsg {
    /// Returns whether a replica accepts the message from a sender that is no member of its
    /// configuration: everything that a leader or candidate of a later configuration sends, which
    /// this replica may not know yet, and a removed member's request to rejoin. Replies are to
    /// messages of this replica, so their senders are members.
    pub(super) fn is_for_non_members(&self) -> bool {
        match self {
            PeerMsg::AppendEntries(_)
            | PeerMsg::InstallSnapshot(_)
            | PeerMsg::RequestVote(_)
            | PeerMsg::Rejoin(_)
            | PeerMsg::TimeoutNow(_) => true,
            PeerMsg::AppendReply(_)
            | PeerMsg::InstallReply(_)
            | PeerMsg::VoteReply(_)
            | PeerMsg::RejoinReply(_) => false,
        }
    }
}

impl AppendEntries {
    /// Returns whether the entries follow `prev` without gaps, and their terms never decrease or
    /// exceed the message's term. Wire decoders check this too; this check protects the core from
    /// faulty drivers (server or simulator).
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
    /// message's term, and its index is within the allowed range.
    pub(super) fn is_well_formed(&self) -> bool {
        self.snapshot.last.index <= Index::MAX && self.snapshot.last.term <= self.term
    }
}

/// A client's request or, in the server, a batch of requests that are replicated together in one
/// log entry. The consensus core never reads the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRequest {
    /// The id of the request; the reply carries the same id.
    pub key: RequestKey,
    /// Whether the request is a write, which becomes a log entry, or a read, which does not.
    pub kind: RequestKind,
    /// The encoded batch of operations, which only the state machine decodes.
    pub payload: Bytes,
}

/// The log writer's report that a job and all earlier jobs are durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persisted {
    /// Sequence number of the last job that is durable.
    pub sequence: JobSequence,
    /// Id of the last entry that the job wrote; `None` if the job had no entries. The id includes
    /// the term, so the core ignores the report if another entry has replaced this entry in the log
    /// since.
    pub last: Option<EntryId>,
}
