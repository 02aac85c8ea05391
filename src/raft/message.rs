//! All that can come into the core. Wire decoding can only make [`PeerMsg`]: a peer cannot forge
//! `Persisted` or `Applied`, by type.

use bytes::Bytes;

use crate::record::Entry;
use crate::types::{EntryId, Index, JobSequence, NodeId, RequestKey, Round, Term};

use super::effects::SnapshotId;

pub use crate::types::{DiskState, RequestKind};

/// What a driver hands to [`Replica::handle_msg`](super::Replica::handle_msg).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Msg {
    /// From another replica.
    Peer(Envelope),
    /// From a client.
    Client(ClientRequest),
    /// From the log writer.
    Persisted(Persisted),
    /// From the apply stage.
    Applied {
        /// Everything up to here is applied, and its replies have been handed to the socket.
        index: Index,
    },
    /// A snapshot of this replica's own state is on its disk, whole and read back once.
    SnapshotTaken(SnapshotId),
    /// A chunk of a leader's snapshot was stored: see [`Effects::received_chunks`](super::Effects).
    ChunkStored(ChunkStored),
    /// A leader's snapshot is on this replica's disk and in its state machine, whole.
    Installed(SnapshotId),
    /// How much room this replica's disk has, now and then while it is short of it, and when that
    /// begins and ends.
    DiskSpace(DiskSpace),
}

/// How much room a replica's disk has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// It has less than its reserve.
    pub low: bool,
    /// Bytes of entries that it can store for sure, if it is low.
    pub bytes: u64,
}

/// How far a leader's snapshot has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkStored {
    /// The term of the leader that sent the chunk.
    pub term: Term,
    /// Which snapshot.
    pub snapshot: SnapshotId,
    /// The round of that term in which the chunk was sent.
    pub round: Round,
    /// Bytes that are here, from its beginning without gaps: where the next chunk is to begin.
    pub received: u64,
}

/// A message between replicas with its addressing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The sender, as it says.
    pub from: NodeId,
    /// The addressee.
    pub to: NodeId,
    /// Whom the sender believes to lead; `None` if it knows nobody. Only shown to the course's
    /// simulator, never decided upon.
    pub leader: Option<NodeId>,
    /// What it says.
    pub message: PeerMsg,
}

/// What replicas say to each other. Every variant carries the sender's term, but for pre-votes,
/// where it is the term that the sender would stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerMsg {
    /// A leader's entries, or its heartbeat if there are none.
    AppendEntries(AppendEntries),
    /// The answer to that.
    AppendReply(AppendReply),
    /// A candidate asks for a vote or, first, whether it would get one.
    RequestVote(RequestVote),
    /// The answer to that.
    VoteReply(VoteReply),
    /// A part of a leader's snapshot, for a follower that lacks entries which are in no log any
    /// more (§7).
    InstallSnapshot(InstallSnapshot),
    /// The answer to that, until it is installed; then [`AppendReply`] says so.
    InstallReply(InstallReply),
    /// A leader hands its lead over (thesis 3.10).
    TimeoutNow(TimeoutNow),
    /// A member that lost its disk asks to rejoin.
    Rejoin(Rejoin),
    /// The answer to that.
    RejoinReply(RejoinReply),
}

/// A member that lost its disk asks for what it may have forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejoin {
    /// Different at each start of the sender's process; the answer echoes it.
    pub nonce: u64,
    /// The sender's term; 0 or an old one until all have answered.
    pub term: Term,
    /// The last entry that the sender holds now.
    pub last: EntryId,
}

/// The answer to [`Rejoin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RejoinReply {
    /// Echo of the request's nonce.
    pub nonce: u64,
    /// The answering member's term; 0 if it never heard of an election.
    pub term: Term,
    /// Whether it leads that term.
    pub leads: bool,
    /// Its last entry.
    pub last: EntryId,
}

/// A leader asks a follower to stand for election at once: it has all that the leader has, and the
/// leader takes in nothing more for a while. It is for the leader of the term that the leader gives
/// up leases with it until the term's end: whoever votes in that election does not mind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutNow {
    /// The leader's term.
    pub term: Term,
    /// The leader's last entry, which the follower holds durably, as it has told the leader.
    pub last: EntryId,
}

/// A part of a leader's snapshot (§7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstallSnapshot {
    /// The leader's term.
    pub term: Term,
    /// The round in which it was sent; the answer echoes it.
    pub round: Round,
    /// Which snapshot.
    pub snapshot: SnapshotId,
    /// Where in it the chunk begins.
    pub offset: u64,
    /// Its bytes. Empty in what the core hands out: the driver has the snapshot.
    pub chunk: Bytes,
}

/// A follower's answer to [`InstallSnapshot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstallReply {
    /// The follower's term.
    pub term: Term,
    /// Echo of the round answered.
    pub round: Round,
    /// Which snapshot.
    pub snapshot: SnapshotId,
    /// Where the next chunk is to begin.
    pub received: u64,
}

/// A leader's entries (§5.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendEntries {
    /// The leader's term.
    pub term: Term,
    /// The round in which it was sent; the answer echoes it.
    pub round: Round,
    /// The entry right before `entries`; [`EntryId::ZERO`] before the first.
    pub prev: EntryId,
    /// What the leader shows as committed; may lie beyond what this message proves.
    pub commit_index: Index,
    /// Messages lost one way, in a thousand, as the leader measures it over its living peers.
    pub loss_permille: u16,
    /// The replica that the leader asks, or is about to ask, to take over in the next term. In
    /// that election its leases don't count.
    pub transfer_to: Option<NodeId>,
    /// Entries in order, without gaps, the first at `prev.index + 1`. Empty in a heartbeat.
    pub entries: Vec<Entry>,
}

/// A follower's answer to [`AppendEntries`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendReply {
    /// The follower's term: the leader's, or a higher one that deposes it.
    pub term: Term,
    /// Echo of the round answered; zero where the append was of a lower term.
    pub round: Round,
    /// How the follower's disk is.
    pub disk: DiskState,
    /// What came of it.
    pub outcome: AppendOutcome,
}

/// What came of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOutcome {
    /// The follower's log is durable and equal to the leader's up to here. It covers all that
    /// this leader sent before too. [`Index::ZERO`] vouches for nothing.
    Match {
        /// Up to here.
        index: Index,
    },
    /// The follower's log does not hold `prev`, or the append's term is old.
    Reject {
        /// The `prev.index` that was refused: tells a late answer from a fresh one.
        refused: Index,
        /// Where the follower's log may still agree with the leader's.
        hint: EntryId,
    },
}

/// A candidate's plea (§5.2), or its pre-vote (thesis 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestVote {
    /// The term it stands for; in a pre-vote, the one it would stand for.
    pub term: Term,
    /// Only asks; binds nobody.
    pub pre: bool,
    /// The leader of the term before asked for this election, and has given up its lease.
    pub transfer: bool,
    /// The candidate's last durable entry.
    pub last: EntryId,
}

/// The answer to [`RequestVote`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteReply {
    /// If granted, the term asked for; if not, the term of the one who refuses.
    pub term: Term,
    /// Answers a pre-vote.
    pub pre: bool,
    /// Whether the vote is given.
    pub granted: bool,
}

impl PeerMsg {
    /// Its name, as in traces and counters.
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

/// A client's request. The core never looks into the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRequest {
    /// Names it, in replies too.
    pub key: RequestKey,
    /// Whether it goes into the log.
    pub kind: RequestKind,
    /// For the state machine.
    pub payload: Bytes,
}

/// The log writer has made a job durable, and with it all jobs before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persisted {
    /// Which job.
    pub sequence: JobSequence,
    /// The last entry of the job, `None` if it had none. Named by term too: an entry replaced
    /// meanwhile is not taken for the one synced.
    pub last: Option<EntryId>,
}
