//! The inputs of the core. Wire decoding can only produce [`PeerMsg`], so by type no peer can forge
//! a [`Persisted`] or [`Msg::Applied`].

use bytes::Bytes;

use crate::record::Entry;
use crate::types::{EntryId, Index, JobSequence, NodeId, RequestKey, Round, Term};

pub use crate::types::{DiskState, RequestKind};

/// An input of [`Replica::handle_msg`](super::Replica::handle_msg).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Msg {
    /// A message from another replica.
    Peer(Envelope),
    /// A request from a client.
    Client(ClientRequest),
    /// The log writer has made a job durable.
    Persisted(Persisted),
    /// The applier has applied all entries up to `index` and has passed their replies on.
    Applied {
        /// Index of the last applied entry.
        index: Index,
    },
    /// A snapshot of this replica's own state is durable and has been read back.
    SnapshotTaken(SnapshotId),
    /// A chunk of a leader's snapshot was stored: the reply to a chunk in
    /// [`Effects::received_chunks`](super::Effects::received_chunks).
    ChunkStored(ChunkStored),
    /// A leader's snapshot is complete and durable, and the state machine has installed it.
    Installed(SnapshotId),
    /// Free disk space of this replica: sent when it falls below the reserve, now and then while
    /// it is below, and when it is above again.
    DiskSpace(DiskSpace),
}

/// Free space on a replica's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Whether the disk has less free space than the reserve.
    pub low: bool,
    /// Bytes of entries that can certainly be stored. Meaningful only if `low`.
    pub bytes: u64,
}

/// Progress of receiving a leader's snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkStored {
    /// The term of the leader that sent the chunk.
    pub term: Term,
    /// The snapshot that the chunk belongs to.
    pub snapshot: SnapshotId,
    /// The round of that term in which the chunk was sent.
    pub round: Round,
    /// Bytes received from the start without a gap: the offset of the next chunk.
    pub received: u64,
}

/// Identifies a snapshot.
///
/// Two replicas' snapshots with the same last entry hold the same state, but their bytes may
/// differ. So all chunks of a transfer come from one snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotId {
    /// The last entry that the snapshot covers.
    pub last: EntryId,
    /// Length in bytes.
    pub bytes: u64,
    /// Checksum of all bytes.
    pub checksum: u32,
}

/// A message between replicas with its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The sender, as the message states it.
    pub from: NodeId,
    /// The receiver.
    pub to: NodeId,
    /// The leader that the sender knows of, or `None`. Reported to the course's simulator; the core
    /// never reads it.
    pub leader: Option<NodeId>,
    /// The message.
    pub message: PeerMsg,
}

/// A message between replicas. Each variant carries the sender's term, except pre-votes and granted
/// pre-vote replies, which carry the term of the election that they ask about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerMsg {
    /// Entries of a leader; a heartbeat if there are none.
    AppendEntries(AppendEntries),
    /// The reply to [`AppendEntries`].
    AppendReply(AppendReply),
    /// A candidate's request for a vote or a pre-vote.
    RequestVote(RequestVote),
    /// The reply to [`RequestVote`].
    VoteReply(VoteReply),
    /// A chunk of a leader's snapshot, for a follower that lacks compacted entries (§7).
    InstallSnapshot(InstallSnapshot),
    /// The reply to [`InstallSnapshot`] until the snapshot is installed, which an [`AppendReply`]
    /// reports.
    InstallReply(InstallReply),
    /// A leader's request to campaign at once: leadership transfer (thesis 3.10).
    TimeoutNow(TimeoutNow),
    /// The question of a member that has lost its disk, see `rejoin.rs`.
    Rejoin(Rejoin),
    /// The reply to [`Rejoin`].
    RejoinReply(RejoinReply),
}

/// Asks another member for what the sender may have forgotten with its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejoin {
    /// A random number for each start of the sender's process; the reply echoes it.
    pub nonce: u64,
    /// The sender's term; 0 or an old one until all members have answered.
    pub term: Term,
    /// The last entry of the sender's log.
    pub last: EntryId,
}

/// The reply to [`Rejoin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RejoinReply {
    /// The nonce of the question.
    pub nonce: u64,
    /// The sender's term; 0 if it has seen no election.
    pub term: Term,
    /// Whether the sender leads that term.
    pub leads: bool,
    /// The last entry of the sender's log.
    pub last: EntryId,
}

/// Asks a follower to campaign at once.
///
/// From this message to the end of its term the leader serves no reads under a lease, so voters may
/// elect its successor although they have heard from the leader recently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutNow {
    /// The leader's term.
    pub term: Term,
    /// The leader's last entry, which the follower has acknowledged.
    pub last: EntryId,
}

/// A chunk of a leader's snapshot (§7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstallSnapshot {
    /// The leader's term.
    pub term: Term,
    /// The round in which the chunk was sent; the reply echoes it.
    pub round: Round,
    /// The snapshot that the chunk belongs to.
    pub snapshot: SnapshotId,
    /// Position of the chunk in the snapshot, in bytes.
    pub offset: u64,
    /// The chunk. Empty in what the core emits: the driver reads it from the snapshot file.
    pub chunk: Bytes,
}

/// The reply to [`InstallSnapshot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstallReply {
    /// The follower's term.
    pub term: Term,
    /// The round of the message that this answers.
    pub round: Round,
    /// The snapshot that is being received.
    pub snapshot: SnapshotId,
    /// Bytes received from the start without a gap: the offset of the next chunk.
    pub received: u64,
}

/// A leader's entries (§5.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendEntries {
    /// The leader's term.
    pub term: Term,
    /// The round in which the message was sent; the reply echoes it.
    pub round: Round,
    /// The entry that precedes `entries`; [`EntryId::ZERO`] before the first one.
    pub prev: EntryId,
    /// The leader's commit index; may be past the entries that this message proves.
    pub commit_index: Index,
    /// Message loss in one direction, in permille, as the leader measures it over all peers that
    /// answer.
    pub loss_permille: u16,
    /// The target of a leadership transfer, from before its [`TimeoutNow`] to the end of the term.
    /// Voters elect it although they have heard from the leader recently.
    pub transfer_to: Option<NodeId>,
    /// Entries without gaps, the first at `prev.index + 1`. Empty in a heartbeat.
    pub entries: Vec<Entry>,
}

/// The reply to [`AppendEntries`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendReply {
    /// The follower's term: the leader's, or a higher one that deposes the leader.
    pub term: Term,
    /// The round of the message that this answers; 0 if that was of an earlier term.
    pub round: Round,
    /// The condition of the follower's disk.
    pub disk: DiskState,
    /// Whether the logs match.
    pub outcome: AppendOutcome,
}

/// Whether a follower's log matches the leader's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOutcome {
    /// The follower's log is durable and equal to the leader's up to an index.
    Match {
        /// That index; covers all earlier messages of this leader. [`Index::ZERO`] promises
        /// nothing.
        index: Index,
    },
    /// The follower's log does not contain `prev`, or the message was of an earlier term.
    Reject {
        /// Index of the `prev` that was rejected; tells a late reply from a current one.
        refused: Index,
        /// The last entry of the follower's log that may be equal to the leader's.
        hint: EntryId,
    },
}

/// A request for a vote (§5.2) or a pre-vote (thesis 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestVote {
    /// The term of the election; for a pre-vote, the term that the sender would start.
    pub term: Term,
    /// Whether this is a pre-vote: it asks for the vote without taking it.
    pub pre: bool,
    /// Whether the previous term's leader asked for this election and has given up its lease.
    pub transfer: bool,
    /// The last entry of the candidate's log.
    pub last: EntryId,
}

/// The reply to [`RequestVote`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteReply {
    /// The term of the request if the vote is granted, else the voter's own term.
    pub term: Term,
    /// Whether this answers a pre-vote.
    pub pre: bool,
    /// Whether the vote is granted.
    pub granted: bool,
}

impl PeerMsg {
    /// Returns the message's name in traces and counters.
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
    /// not exceed the message's term. Wire decoders check this too; here it protects the core from
    /// every driver.
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
    /// Returns whether the snapshot's last entry is possible in a message of this term.
    pub(super) fn is_well_formed(&self) -> bool {
        self.snapshot.last.index <= Index::MAX && self.snapshot.last.term <= self.term
    }
}

/// A client's request. The core never reads the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRequest {
    /// The request's id, which the reply carries too.
    pub key: RequestKey,
    /// Whether the request becomes a log entry.
    pub kind: RequestKind,
    /// A command for the state machine.
    pub payload: Bytes,
}

/// The log writer's report that a job, and all jobs before it, are durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persisted {
    /// The job's number.
    pub sequence: JobSequence,
    /// The job's last entry, `None` if the job had no entries. It includes the term, so that the
    /// sync of an entry that has been replaced since does not count for its replacement.
    pub last: Option<EntryId>,
}
