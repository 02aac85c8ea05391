//! The outputs of the consensus core. A driver reuses one [`Effects`] and drains it after each
//! flush.

use std::fmt;

use bytes::Bytes;

use crate::record::Entry;
use crate::types::{EntryId, Index, JobSequence, NodeId, RequestKey, Round, Term};

use super::message::{ClientRequest, Envelope, SnapshotId};

/// The outputs of the consensus core: what the driver has to do. The driver must handle the items
/// of one field in order, but may handle the fields in any order.
#[derive(Debug, Default)]
pub struct Effects {
    /// Messages to peers that may be sent immediately, without waiting for a disk write.
    pub send: Vec<Envelope>,
    /// The job that the last flush of the core created for the log writer; `None` if nothing has to
    /// become durable.
    pub append: Option<AppendJob>,
    /// The job that the last flush of the core created for the applier; may be empty.
    pub apply: ApplyJob,
    /// Client requests that the driver must refuse. They were not applied and never will be.
    pub refusals: Vec<Refusal>,
    /// [`InstallSnapshot`](super::InstallSnapshot) messages to peers, still without their chunks.
    /// The driver reads each chunk from the snapshot that the message names, which is not always
    /// the latest one, adds it to the message, and sends the message. The driver drops a message
    /// whose chunk it cannot read; the core then repeats the message, and after several attempts
    /// switches to the latest snapshot.
    pub chunks_to_send: Vec<Envelope>,
    /// Chunks of a leader's snapshot that the driver must store. The driver answers each with
    /// [`Msg::ChunkStored`](super::Msg::ChunkStored). Once the snapshot is complete, verified,
    /// durable and installed in the state machine, the driver sends the core
    /// [`Msg::Installed`](super::Msg::Installed).
    pub received_chunks: Vec<SnapshotChunk>,
    /// Snapshots of this replica that a peer received in full and then discarded, probably because
    /// they are damaged. The driver verifies these snapshots on this replica's disk. If the latest
    /// snapshot is damaged, the driver takes a new one.
    pub suspect_snapshots: Vec<SnapshotId>,
    /// Messages from peers that were rejected, for the driver to log. They had no effect on the
    /// core.
    pub rejected: Vec<RejectedMessage>,
}

/// A rejected message, which no correct peer can have sent: it was forged, or its sender is faulty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RejectedMessage {
    /// Id of the replica that the message claims to come from.
    pub from: NodeId,
    /// Reason why the message was rejected.
    pub reason: RejectReason,
}

/// The reason why a peer's message was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectReason {
    /// The message contains a term that is too far above this replica's own term to have been
    /// reached by elections in the time that has passed; the term may be forged.
    Term {
        /// The term of the message.
        term: Term,
        /// The current term of this replica.
        own: Term,
    },
    /// The message claims to come from the leader of a term, but another replica is known to lead
    /// that term.
    SecondLeader {
        /// The term of the message.
        term: Term,
        /// The replica that is known to be the leader of `term`.
        leader: NodeId,
    },
    /// The message contradicts an entry of this replica's log that is committed or known to be
    /// equal to the entry in the leader's log.
    Contradiction {
        /// Id of the entry in the message that contradicts this replica's log, or of the last entry
        /// covered by the message's snapshot.
        entry: EntryId,
        /// Index up to which this replica's log cannot change in the current term: its entries are
        /// committed, or known to be equal to the leader's.
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
    /// Round number in the leader's message that contained the chunk. The driver repeats it in
    /// [`ChunkStored`](super::ChunkStored).
    pub round: Round,
    /// Offset of the chunk in the snapshot, in bytes.
    pub offset: u64,
    /// Content of the chunk: the snapshot's bytes from `offset` on.
    pub chunk: Bytes,
}

/// The term and vote that Raft must keep on disk (Figure 2). They are stored as one record, which
/// must be durable before any message reveals the term or the vote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The highest term that the replica has seen.
    pub term: Term,
    /// The candidate that received this replica's vote in `term`; `None` if it has not voted.
    pub voted_for: Option<NodeId>,
}

/// A job for the log writer: what must become durable, and which messages may be sent after that.
/// The log writer does jobs in order.
#[derive(Debug, PartialEq, Eq)]
pub struct AppendJob {
    /// Number of the job: one more than that of the previous job. The first job after a start of
    /// the replica has number 1.
    pub sequence: JobSequence,
    /// The term and vote to write to disk; `None` if neither has changed since they were last
    /// handed to the log writer.
    pub hard_state: Option<HardState>,
    /// If set, the log writer first replaces the log on disk with an empty log that starts after
    /// this entry, which is the last one covered by a durable snapshot. `None` if the log on disk
    /// is kept.
    pub restart_after: Option<EntryId>,
    /// Index up to which all entries are covered by a durable snapshot and will not be read again,
    /// so that the log writer may remove their log segments. `None` if it may not remove more than
    /// before.
    pub compact_to: Option<Index>,
    /// Entries to write to the log, with consecutive indexes. They replace all entries of the log
    /// on disk from the index of the first one on.
    pub entries: Vec<Entry>,
    /// Whether this replica, which is rejoining after losing its disk, becomes a full member with
    /// this job. If so, once everything else in this job and in earlier jobs is durable, the log
    /// writer removes the on-disk mark that says that the replica is rejoining. The job is done,
    /// and its messages may be sent, only when that removal is durable too.
    pub rejoined: bool,
    /// Messages to peers that may be sent only after this job and all earlier ones are done.
    pub release: Vec<Envelope>,
}

/// A job for the applier. The applier first applies all `entries` in order, and then answers the
/// `reads`.
#[derive(Debug, Default)]
pub struct ApplyJob {
    /// Committed entries to apply, in log order. Their indexes have no gaps, within a job and from
    /// one job to the next.
    pub entries: Vec<Committed>,
    /// Reads to answer from the state after all `entries` are applied.
    pub reads: Vec<ClientRequest>,
}

/// A committed log entry for the applier, and whether this replica committed it as leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The log entry to apply.
    pub entry: Entry,
    /// Whether this replica was the leader when it committed the entry. In the university course's
    /// protocol, the leader that commits an entry answers its client, even if an earlier leader
    /// appended the entry.
    pub as_leader: bool,
}

/// A refused client request: it was not applied and never will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Key that identifies the refused request.
    pub key: RequestKey,
    /// Reason why the request was refused.
    pub reason: RefusalReason,
    /// The current leader, to which the client can send the request instead; `None` if no leader is
    /// known.
    pub leader: Option<NodeId>,
}

/// The reason why a client request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// This replica is not the leader: another replica is, or no leader became known in time.
    NotLeader,
    /// The request was appended to the log, but a later leader committed a different entry at its
    /// index.
    Replaced,
    /// The limit on uncommitted bytes, waiting reads or waiting requests has been reached.
    Busy,
    /// Free disk space is too low on this leader, or on a majority of the replicas.
    DiskFull,
    /// The memory limit has been reached. Only drivers use this reason, because the core does not
    /// measure memory.
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
    /// Returns whether all outputs are empty, so that the driver has nothing to do.
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
