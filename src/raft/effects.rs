//! The outputs of the core. A driver reuses one [`Effects`] and drains it after each flush.

use std::fmt;

use bytes::Bytes;

use crate::record::Entry;
use crate::types::{EntryId, Index, JobSequence, NodeId, RequestKey, Round, Term};

use super::message::{ClientRequest, Envelope, SnapshotId};

/// What the driver has to do. Within a field in order; between fields in any order.
#[derive(Debug, Default)]
pub struct Effects {
    /// Messages to peers that may be sent at once.
    pub send: Vec<Envelope>,
    /// A job for the log writer; at most one, set by `flush`.
    pub append: Option<AppendJob>,
    /// A job for the applier, set by `flush`.
    pub apply: ApplyJob,
    /// Refused client requests. No log contains them.
    pub refusals: Vec<Refusal>,
    /// [`InstallSnapshot`](super::InstallSnapshot) messages without their chunks. The driver reads
    /// each chunk from the named snapshot, which may not be the latest any more, and sends the
    /// message. It drops a message whose chunk it cannot read; the core asks again, and after some
    /// attempts for another snapshot.
    pub chunks_to_send: Vec<Envelope>,
    /// Chunks of a leader's snapshot, to be stored. The driver answers each with
    /// [`Msg::ChunkStored`](super::Msg::ChunkStored). When the snapshot is complete, verified,
    /// durable and installed in the state machine, it sends
    /// [`Msg::Installed`](super::Msg::Installed).
    pub received_chunks: Vec<SnapshotChunk>,
    /// Snapshots of this replica that a peer received completely and then discarded, as it does
    /// with a damaged one. The driver verifies them on its disk. If the latest is damaged, it takes
    /// another one, which ends no earlier.
    pub suspect_snapshots: Vec<SnapshotId>,
    /// Rejected peer messages, to be logged. They had no other effect.
    pub rejected: Vec<RejectedMessage>,
}

/// A message that a correct peer cannot have sent: it was forged, or its sender is faulty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RejectedMessage {
    /// The sender, as the message states it.
    pub from: NodeId,
    /// The reason.
    pub reason: RejectReason,
}

/// The reason why a peer's message was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectReason {
    /// The message names a term that elections cannot have reached.
    Term {
        /// The term of the message.
        term: Term,
        /// The replica's own term.
        own: Term,
    },
    /// The message claims to come from the leader of a term that another replica leads.
    SecondLeader {
        /// The term of the message.
        term: Term,
        /// The leader of that term.
        leader: NodeId,
    },
    /// The message contradicts an entry that is committed or known to be the leader's.
    Contradiction {
        /// The entry, or the last entry of a snapshot, in the message.
        entry: EntryId,
        /// The last index up to which this replica's log is final.
        settled: Index,
    },
}

/// A chunk of a leader's snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotChunk {
    /// The term of the leader that sent it.
    pub term: Term,
    /// The snapshot that it belongs to.
    pub snapshot: SnapshotId,
    /// The round of that term in which it was sent.
    pub round: Round,
    /// Its position in the snapshot, in bytes.
    pub offset: u64,
    /// Its bytes.
    pub chunk: Bytes,
}

/// Term and vote: one record, durable before any message shows it (Figure 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The highest term seen.
    pub term: Term,
    /// The candidate that received this replica's vote in that term; `None` if none has.
    pub voted_for: Option<NodeId>,
}

/// A job for the log writer: what must become durable, and what may be sent after that. Jobs are
/// done in order.
#[derive(Debug, PartialEq, Eq)]
pub struct AppendJob {
    /// The job's number: that of the previous job plus 1.
    pub sequence: JobSequence,
    /// The new hard state; `None` if it has not changed.
    pub hard_state: Option<HardState>,
    /// If set, the log is first replaced by an empty one that starts after this entry, the end of a
    /// durable snapshot.
    pub restart_after: Option<EntryId>,
    /// Entries up to here are in a durable snapshot and will not be read again: their segments may
    /// be removed.
    pub compact_to: Option<Index>,
    /// Entries without gaps. The first replaces everything in the log from its index on.
    pub entries: Vec<Entry>,
    /// Whether a member that had lost its disk rejoins with this job. When everything else in this
    /// job and in those before it is durable, the log writer removes the durable mark that says
    /// that this replica is rejoining. The job is done, and its messages may leave, when that is
    /// durable too.
    pub rejoined: bool,
    /// Messages to peers that depend on this job and those before it: sent when it is done.
    pub release: Vec<Envelope>,
}

/// A job for the applier: first all entries in order, then the reads.
#[derive(Debug, Default)]
pub struct ApplyJob {
    /// Committed entries, without gaps over all jobs.
    pub entries: Vec<Committed>,
    /// Reads to be answered from the state after `entries`.
    pub reads: Vec<ClientRequest>,
}

/// A committed entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The entry.
    pub entry: Entry,
    /// Whether this replica committed the entry as leader. In the course's simulator the leader
    /// that commits an entry answers its client, also for entries that it inherited.
    pub as_leader: bool,
}

/// A refused client request: it was not applied and never will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The request's id.
    pub key: RequestKey,
    /// The reason.
    pub reason: RefusalReason,
    /// The current leader, if known.
    pub leader: Option<NodeId>,
}

/// The reason why a client request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// Another replica leads, or no leader was found in time.
    NotLeader,
    /// The request was appended, but another entry was committed instead.
    Replaced,
    /// Too much is in flight.
    Busy,
    /// There is too little free disk space on this leader or on a majority.
    DiskFull,
    /// The memory limit is reached. Only drivers use this reason: the core does not measure memory.
    OutOfMemory,
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RejectReason::Term { term, own } => {
                write!(f, "term {term} cannot have been reached by elections from term {own}")
            }
            RejectReason::SecondLeader { term, leader } => {
                write!(f, "sent as leader of term {term}, which {leader} leads")
            }
            RejectReason::Contradiction { entry, settled } => write!(
                f,
                "entry {entry} contradicts this replica's log, which is final up to {settled}"
            ),
        }
    }
}

impl ApplyJob {
    /// Returns whether there are neither entries nor reads.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.reads.is_empty()
    }
}

impl Effects {
    /// Returns whether there is nothing to do.
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
