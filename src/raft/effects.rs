//! All that can come out of the core. A driver reuses one [`Effects`] and drains it after each
//! flush.

use std::fmt;

use bytes::Bytes;

use crate::record::Entry;
use crate::types::{EntryId, Index, JobSequence, NodeId, RequestKey, Round, Term};

use super::message::{ClientRequest, Envelope};

/// What the driver has to do, in any order between the fields, in order within each.
#[derive(Debug, Default)]
pub struct Effects {
    /// May leave at once.
    pub send: Vec<Envelope>,
    /// For the log writer: filled by `flush`, at most one job a batch.
    pub append: Option<AppendJob>,
    /// For the apply stage: filled by `flush`, at most one job a batch.
    pub apply: ApplyJob,
    /// Requests that are refused here and now. They are in nobody's log.
    pub refusals: Vec<Refusal>,
    /// Messages [`InstallSnapshot`](super::InstallSnapshot) that lack their chunks: the driver
    /// reads these from the snapshot, which may not be the latest any more, and sends them. What
    /// it can't read it drops; the core asks again, in the end for another snapshot.
    pub chunks_to_send: Vec<Envelope>,
    /// Chunks of a leader's snapshot, for whoever puts them together. To each the driver says
    /// [`Msg::ChunkStored`](super::Msg) sooner or later, and once the snapshot is whole, checked,
    /// on disk and in the state machine, [`Msg::Installed`](super::Msg).
    pub received_chunks: Vec<SnapshotChunk>,
    /// Snapshots of this replica of which a peer had all chunks and threw them away, as it does
    /// where they are none together. The driver looks whether they are still whole on its disk;
    /// where the latest is not, it takes another, that ends no earlier.
    pub suspect_snapshots: Vec<SnapshotId>,
    /// Messages of peers that no correct peer sends, for the operator to hear of. Nothing else
    /// came of them.
    pub rejected: Vec<RejectedMessage>,
}

/// A message that a correct peer cannot have sent: it was forged, or its sender is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RejectedMessage {
    /// The sender, as it says.
    pub from: NodeId,
    /// Why it was rejected.
    pub reason: RejectReason,
}

/// Why a message of a peer was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectReason {
    /// No elections can have raised the term that far.
    Term {
        /// The term that the message names.
        term: Term,
        /// The replica's own.
        own: Term,
    },
    /// Another replica is known to lead the term of the message.
    SecondLeader {
        /// The term of the message.
        term: Term,
        /// The leader of that term.
        leader: NodeId,
    },
    /// It has another entry where this replica's log is committed, or is known to be the same as
    /// that of the leader.
    Contradiction {
        /// An entry or the end of a snapshot, as the message has it.
        entry: EntryId,
        /// Up to here the replica's log can't be replaced.
        settled: Index,
    },
}

/// Names a snapshot. Those of two replicas that end with the same entry hold the same state but
/// need not be the same bytes, so a transfer is of one of them from beginning to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotId {
    /// The last entry that is in it.
    pub last: EntryId,
    /// Its length.
    pub bytes: u64,
    /// A checksum over all of it.
    pub checksum: u32,
}

/// A part of a leader's snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotChunk {
    /// The term of the leader that sent it.
    pub term: Term,
    /// Which snapshot.
    pub snapshot: SnapshotId,
    /// The round of that term in which it was sent.
    pub round: Round,
    /// Where in it the chunk begins.
    pub offset: u64,
    /// Its bytes.
    pub chunk: Bytes,
}

/// The term and the vote: one record, durable before any message shows it (Figure 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// Latest term seen.
    pub term: Term,
    /// Who got this replica's vote in that term.
    pub voted_for: Option<NodeId>,
}

/// What must be durable, and what may leave only then. Jobs are done in order.
#[derive(Debug, PartialEq, Eq)]
pub struct AppendJob {
    /// Its number, one more than the job's before.
    pub sequence: JobSequence,
    /// New hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// Before anything else in this job the log begins anew behind this entry, the end of a
    /// snapshot that is on disk; all that it held is gone.
    pub restart_after: Option<EntryId>,
    /// Entries up to here are in a snapshot on disk and will not be asked for again: their files
    /// may go.
    pub compact_to: Option<Index>,
    /// Entries in order without gaps. The first replaces whatever the log held from its index on.
    pub entries: Vec<Entry>,
    /// With this job a member that lost its disk has rejoined. Once everything else of this job
    /// and of the ones before it is durable, the log writer removes the durable mark that says
    /// that this replica is rejoining; only when that is durable too is the job done, and only
    /// then do its messages leave.
    pub rejoined: bool,
    /// Messages to peers that vouch for what this job and the ones before it make durable.
    pub release: Vec<Envelope>,
}

/// What goes to the state machine: first all entries, in order, then the reads.
#[derive(Debug, Default)]
pub struct ApplyJob {
    /// Committed entries, without gaps over all jobs.
    pub entries: Vec<Committed>,
    /// Reads that may be answered from the state after `entries`.
    pub reads: Vec<ClientRequest>,
}

/// A committed entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The entry.
    pub entry: Entry,
    /// Whether this replica led when it committed. Under the course's door the leader that
    /// commits an entry answers it, its own and inherited ones alike.
    pub as_leader: bool,
}

/// Why a request is refused. In every case it is certain that it was not and will not be applied
/// by this attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which request.
    pub key: RequestKey,
    /// Why.
    pub reason: RefusalReason,
    /// Whom to ask instead, if anybody is known.
    pub leader: Option<NodeId>,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// Another replica leads, or nobody was found to in time.
    NotLeader,
    /// It was appended here, but another entry was committed in its place.
    Replaced,
    /// Too much is under way.
    Busy,
    /// There is too little room on the disks that would have to hold it.
    DiskFull,
    /// It would add to what is in memory, and that is full. Said by the driver: the core knows
    /// nothing of memory.
    OutOfMemory,
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RejectReason::Term { term, own } => write!(
                f,
                "it names term {term}, which no elections can have reached from term {own}"
            ),
            RejectReason::SecondLeader { term, leader } => {
                write!(f, "it was sent by a leader of term {term}, which {leader} leads")
            }
            RejectReason::Contradiction { entry, settled } => write!(
                f,
                "it has entry {entry}, but this log differs there and is settled up to {settled}"
            ),
        }
    }
}

impl ApplyJob {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.reads.is_empty()
    }
}

impl Effects {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.send.is_empty()
            && self.append.is_none()
            && self.apply.is_empty()
            && self.refusals.is_empty()
            && self.chunks_to_send.is_empty()
            && self.received_chunks.is_empty()
            && self.suspect_snapshots.is_empty()
            && self.rejected.is_empty()
    }
}
