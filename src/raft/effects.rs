//! The outputs of the core. A driver reuses one [`Effects`] and drains it after each flush.

use std::fmt;

use bytes::Bytes;

use crate::record::Entry;
use crate::types::{EntryId, Index, JobSequence, NodeId, RequestKey, Round, Term};

use super::message::{ClientRequest, Envelope, SnapshotId};

/// The outputs of the core: what the driver has to do. The items of a field must be carried out in
/// order; the fields themselves in any order.
#[derive(Debug, Default)]
pub struct Effects {
    /// Messages to peers that may be sent now, without waiting for the disk.
    pub send: Vec<Envelope>,
    /// A job for the log writer, set by `flush`; `None` if nothing has to become durable.
    pub append: Option<AppendJob>,
    /// A job for the applier, set by `flush`; may be empty.
    pub apply: ApplyJob,
    /// Client requests to be refused. They were not applied and never will be.
    pub refusals: Vec<Refusal>,
    /// [`InstallSnapshot`](super::InstallSnapshot) messages without their chunks. The driver reads
    /// each chunk from the snapshot that the message names, which may be older than the latest, and
    /// sends the message. The driver drops a message whose chunk it cannot read; the core repeats
    /// the request, and after several attempts switches to the latest snapshot.
    pub chunks_to_send: Vec<Envelope>,
    /// Chunks of a leader's snapshot that the driver must store. The driver answers each with
    /// [`Msg::ChunkStored`](super::Msg::ChunkStored). When the snapshot is complete, verified,
    /// durable and installed in the state machine, the driver sends
    /// [`Msg::Installed`](super::Msg::Installed).
    pub received_chunks: Vec<SnapshotChunk>,
    /// Snapshots of this replica that a peer received completely and then discarded, as it does
    /// with a damaged one. The driver verifies them on its own disk. If the latest snapshot is
    /// damaged, the driver takes a new one.
    pub suspect_snapshots: Vec<SnapshotId>,
    /// Peer messages that were rejected, to be logged. They had no other effect.
    pub rejected: Vec<RejectedMessage>,
}

/// A message that a correct peer cannot have sent: it was forged, or its sender is faulty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RejectedMessage {
    /// Id of the sending replica, as the message states it.
    pub from: NodeId,
    /// Why the message was rejected.
    pub reason: RejectReason,
}

/// The reason why a peer's message was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectReason {
    /// The message names a term so far above this replica's own term that elections cannot have
    /// reached it in the time that has passed; the term may be forged.
    Term {
        /// The term of the message.
        term: Term,
        /// The replica's own term.
        own: Term,
    },
    /// The message claims to come from the leader of a term, but another replica is known to lead
    /// that term.
    SecondLeader {
        /// The term of the message.
        term: Term,
        /// The known leader of `term`.
        leader: NodeId,
    },
    /// The message contradicts an entry that is committed or known to be equal to the leader's.
    Contradiction {
        /// Id of the contradicting entry in the message, or of the last entry of its snapshot.
        entry: EntryId,
        /// Index up to which this replica's log is final: committed, or equal to the current
        /// leader's log.
        settled: Index,
    },
}

/// A chunk of a leader's snapshot, for the driver to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotChunk {
    /// Term of the leader that sent the chunk.
    pub term: Term,
    /// The snapshot that the chunk belongs to.
    pub snapshot: SnapshotId,
    /// Number of the leader's round of messages in which the chunk was sent.
    pub round: Round,
    /// Offset of the chunk in the snapshot, in bytes.
    pub offset: u64,
    /// The bytes of the chunk.
    pub chunk: Bytes,
}

/// The term and vote that Raft must keep on disk (Figure 2): stored as one record, which is durable
/// before any message reveals the term or the vote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The highest term that the replica has seen.
    pub term: Term,
    /// The candidate that received this replica's vote in `term`; `None` if it has not voted.
    pub voted_for: Option<NodeId>,
}

/// A job for the log writer: what must become durable, and what may be sent after that. Jobs are
/// done in order.
#[derive(Debug, PartialEq, Eq)]
pub struct AppendJob {
    /// Number of the job: one more than the previous job's. The first job of a process has number
    /// 1.
    pub sequence: JobSequence,
    /// The hard state to be written; `None` if it has not changed since the previous job.
    pub hard_state: Option<HardState>,
    /// If set, the log writer first replaces the log on disk by an empty log that starts after this
    /// entry, the last one of a durable snapshot. `None` if the log on disk stays.
    pub restart_after: Option<EntryId>,
    /// Index up to which all entries are in a durable snapshot and will not be read again, so their
    /// log segments may be removed; `None` if nothing new may be removed.
    pub compact_to: Option<Index>,
    /// Entries to be written, without gaps. The first one replaces everything in the log from its
    /// index on.
    pub entries: Vec<Entry>,
    /// Whether a member that had lost its disk becomes a full member with this job. When everything
    /// else in this job and in earlier jobs is durable, the log writer removes the mark on disk
    /// that says that this replica is rejoining. The job is done, and its messages may be sent,
    /// when the removal is durable too.
    pub rejoined: bool,
    /// Messages to peers that may be sent only when this job and all earlier ones are done.
    pub release: Vec<Envelope>,
}

/// A job for the applier, which first applies all `entries` in order and then answers the `reads`.
#[derive(Debug, Default)]
pub struct ApplyJob {
    /// Committed entries to be applied in order. Over all jobs they have no gaps.
    pub entries: Vec<Committed>,
    /// Reads to be answered from the state after all `entries` are applied.
    pub reads: Vec<ClientRequest>,
}

/// A committed entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The entry.
    pub entry: Entry,
    /// Whether this replica committed the entry as leader. In the course's simulator the leader
    /// that commits an entry answers its client, also for entries that an earlier leader appended.
    pub as_leader: bool,
}

/// A refused client request: it was not applied and never will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The id of the refused request.
    pub key: RequestKey,
    /// Why the request was refused.
    pub reason: RefusalReason,
    /// The current leader, which the client can send the request to; `None` if it is unknown.
    pub leader: Option<NodeId>,
}

/// The reason why a client request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// Another replica leads, or no leader was found in time.
    NotLeader,
    /// The request was appended to the log, but a later leader committed another entry in its
    /// place.
    Replaced,
    /// The limit of uncommitted bytes, waiting reads or waiting requests is reached.
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
    /// Returns whether the job contains neither entries nor reads.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.reads.is_empty()
    }
}

impl Effects {
    /// Returns whether the driver has nothing to do.
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
