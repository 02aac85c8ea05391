//! The outputs of the consensus core. A driver reuses one [`Effects`] and drains it after each
//! flush.

use std::fmt;

use bytes::Bytes;

use crate::feature_level::FeatureLevel;
use crate::membership::Configuration;
use crate::record::Entry;
use crate::types::{EntryId, Index, JobSequence, NodeId, RequestKey, Round, Term};

use super::message::{ClientRequest, Envelope, SnapshotId};

/// The outputs of the consensus core, which the driver (server or simulator) carries out. The
/// driver must handle the elements of each field in order, but may handle the fields in any order.
#[derive(Debug, Default)]
pub struct Effects {
    /// Messages to peers that may be sent immediately, without waiting for a disk write.
    pub send: Vec<Envelope>,
    /// The next job for the log writer; `None` if nothing has to become durable.
    pub append: Option<AppendJob>,
    /// The next job for the applier, which applies committed entries to the state machine; may be
    /// empty.
    pub apply: ApplyJob,
    /// Client requests that the driver (server or simulator) must refuse. None of them was applied,
    /// and none ever will be.
    pub refusals: Vec<Refusal>,
    /// [`InstallSnapshot`](super::InstallSnapshot) messages to peers, without their data. For each,
    /// the driver (server or simulator) reads the chunk from the snapshot that the message names
    /// (not always the latest one), adds it and sends the message. If it cannot read the chunk, it
    /// drops the message; the core then retries, and after several attempts switches to the latest
    /// snapshot.
    pub chunks_to_send: Vec<Envelope>,
    /// Chunks of a leader's snapshot that the driver (server or simulator) must store, answering
    /// each with [`Msg::ChunkStored`](super::Msg::ChunkStored). Once the snapshot is complete,
    /// verified, durable and installed in the state machine, the driver sends
    /// [`Msg::Installed`](super::Msg::Installed).
    pub received_chunks: Vec<SnapshotChunk>,
    /// Snapshots of this replica that a peer received in full and then discarded, probably as
    /// damaged. The driver (server or simulator) verifies them on this replica's disk, and takes a
    /// new snapshot if the latest one is damaged.
    pub suspect_snapshots: Vec<SnapshotId>,
    /// The point at which the log of this replica, a witness, is to begin; `None` if it stays as it
    /// is. The driver (server or simulator) stores it durably as a snapshot without data, and then
    /// sends [`Msg::SnapshotTaken`](super::Msg::SnapshotTaken), or
    /// [`Msg::Installed`](super::Msg::Installed) if a leader sent it. It may drop it without an
    /// answer if the disk is full.
    pub log_start: Option<LogStart>,
    /// Whether the other replicas treat this one as a witness although it has data, or the other
    /// way around. The driver (server or simulator) reports this and stops the replica.
    pub is_other_kind: bool,
    /// Set if this replica has lost its votes and cannot rejoin, because the members have changed
    /// since the cluster was created: the member that said so. The driver (server or simulator)
    /// reports this and stops the replica, which a new member must replace.
    pub rejoin_refused_by: Option<NodeId>,
    /// Invalid messages from peers, for the driver (server or simulator) to log. They had no effect
    /// on this replica.
    pub rejected: Vec<RejectedMessage>,
}

/// A rejected peer message that no correct replica sends: it was forged, or its sender is faulty.
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
    /// The message's term is too far above this replica's term: elections alone cannot have raised
    /// it so fast. The term may be forged.
    Term {
        /// The term of the message.
        term: Term,
        /// The term of the replica that rejected the message.
        own: Term,
    },
    /// The message claims to come from a term's leader, but another replica is known to be the
    /// leader of that term.
    SecondLeader {
        /// The term of the message.
        term: Term,
        /// The replica that is known to be the leader of `term`.
        leader: NodeId,
    },
    /// The message contains a snapshot without data, but this replica is no witness, or the other
    /// way around.
    OtherKind {
        /// Whether the replica that rejected the message is a witness.
        is_witness: bool,
    },
    /// The message contradicts an entry of this replica's log that can no longer change, because it
    /// is committed or known to be equal to the leader's entry.
    Contradiction {
        /// Id of the entry in the message that contradicts this replica's log; for a snapshot
        /// chunk, id of the last entry that the snapshot covers.
        entry: EntryId,
        /// Index up to which this replica's log cannot change in the current term: its entries are
        /// committed, or known to be equal to the leader's.
        settled: Index,
    },
}

/// The point at which the log of a witness begins. The witness has no state as of this point; a
/// replica with data has a snapshot there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogStart {
    /// Id of the last entry before the log.
    pub last: EntryId,
    /// The members as of this entry; `None` if they had not changed by then since the cluster was
    /// created.
    pub configuration: Option<Configuration>,
    /// The cluster's feature level, at least that as of this entry.
    pub level: FeatureLevel,
    /// Whether a leader sent it, because it no longer has the entries before.
    pub is_received: bool,
}

/// A chunk of a leader's snapshot, for the driver (server or simulator) to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotChunk {
    /// Term of the leader that sent the chunk.
    pub term: Term,
    /// The snapshot that the chunk belongs to.
    pub snapshot: SnapshotId,
    /// Round number in the message that contained the chunk. It identifies a batch of the leader's
    /// messages. The driver (server or simulator) copies it into
    /// [`ChunkStored`](super::ChunkStored), so that the reply to the leader can echo it.
    pub round: Round,
    /// Offset of the chunk in the snapshot, in bytes.
    pub offset: u64,
    /// Content of the chunk: the snapshot's bytes from `offset` on.
    pub chunk: Bytes,
}

/// A replica's term and vote, which Raft requires to be on disk (Figure 2 of the Raft paper). They
/// are stored as one record, which must be durable before any message reveals the term or the vote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The highest term that the replica has seen.
    pub term: Term,
    /// The candidate that received this replica's vote in `term`; `None` if it has not voted.
    pub voted_for: Option<NodeId>,
}

/// A job for the log writer: data to make durable, and messages to send after that. The log writer
/// processes jobs in order.
#[derive(Debug, PartialEq, Eq)]
pub struct AppendJob {
    /// Sequence number of the job, counted from 1 since the replica started.
    pub sequence: JobSequence,
    /// The term and vote to write to disk; `None` if unchanged since they were last written.
    pub hard_state: Option<HardState>,
    /// If set, the log writer first replaces the log on disk with an empty log that starts after
    /// this entry, which is the last one covered by a durable snapshot. `None` if the log on disk
    /// is kept.
    pub restart_after: Option<EntryId>,
    /// Index up to which the log writer may delete log segments, because a durable snapshot covers
    /// all entries up to it; `None` if the limit has not changed.
    pub compact_to: Option<Index>,
    /// Entries to write to the log, with consecutive indexes. They replace all entries of the log
    /// on disk from the index of the first one on.
    pub entries: Vec<Entry>,
    /// Feature level that a program needs to read the log after this job. The log writer records it
    /// durably before it writes the entries, so that the folder is refused by an earlier version.
    pub feature_level: FeatureLevel,
    /// Whether this job completes rejoining after a loss on the disk. If so, once this job and all
    /// earlier ones are durable, the log writer durably removes the on-disk marker that says that
    /// the replica is rejoining. The job is done, and its messages may be sent, only after that.
    pub rejoined: bool,
    /// Messages to peers that may be sent only after this job and all earlier ones are durable.
    pub release: Vec<Envelope>,
}

/// A job for the applier. The applier first applies all `entries` in order, and then answers the
/// `reads`.
#[derive(Debug, Default)]
pub struct ApplyJob {
    /// Committed entries to apply, in log order. There are no gaps within a job or between
    /// successive jobs.
    pub entries: Vec<Committed>,
    /// Reads to execute after all `entries` have been applied.
    pub reads: Vec<ClientRequest>,
}

/// A committed log entry to apply, and whether this replica committed the entry as leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The log entry to apply.
    pub entry: Entry,
    /// Whether this replica committed the entry as leader. Used by the university course's
    /// protocol, in which the leader that commits an entry answers the client, even if an earlier
    /// leader appended the entry.
    pub as_leader: bool,
}

/// A client request that was refused. It was not applied and never will be.
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
    /// This replica is not the leader: another replica is, or no leader was elected within the time
    /// that a request may wait.
    NotLeader,
    /// This replica appended the request to its log as leader, but a later leader committed a
    /// different entry in its place.
    Replaced,
    /// A limit has been reached: on the bytes of uncommitted entries, on the number of waiting
    /// reads, or on the number of waiting requests. The client may retry later.
    Busy,
    /// Free disk space is too low on the leader, or on too many replicas for a quorum to store the
    /// entry.
    DiskFull,
    /// The server's memory limit has been reached. Only drivers use this reason, because the core
    /// does not measure memory.
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
            RejectReason::OtherKind { is_witness: true } => {
                f.write_str("a snapshot with data, but this replica is a witness")
            }
            RejectReason::OtherKind { is_witness: false } => {
                f.write_str("a snapshot without data, but this replica is no witness")
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
            && self.log_start.is_none()
            && !self.is_other_kind
            && self.rejoin_refused_by.is_none()
            && self.rejected.is_empty()
    }
}
