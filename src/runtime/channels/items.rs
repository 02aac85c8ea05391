//! What the channels between the stages carry.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::clock::AppliedClock;
use crate::feature_level::FeatureLevel;
use crate::kv::{
    ChangedKeys, DatabaseSize, DigestComparison, Event, HistoryStatus, KeptScripts,
    KeyspaceStatistics, Operation, Outcome, StateMachine, Unlinked, Users, View,
};
use crate::membership::Configuration;
use crate::raft::{
    AppendJob, ApplyJob, ChunkStored, ClientRequest, DiskSpace, Envelope, LogStart, Persisted,
    Refusal, Replica, SnapshotChunk, SnapshotId,
};
use crate::redis::{AdminAnswer, AdminRequest, ScriptFacts, ScriptRequest, ScriptRun};
use crate::types::{Index, NodeId, RequestKey, Term};
use crate::wire::frame::Attempt;

use crate::runtime::boards::DeletionSize;

/// A message in the Raft core's inbox: Raft messages from peers, or a report or request from
/// another stage. Clients' requests arrive on a separate channel, as [`Requests`].
#[derive(Debug)]
pub(in crate::runtime) enum CoreItem {
    /// From the network stage: Raft messages from peers.
    Peers(Vec<Envelope>),
    /// From the log writer: reports of completed append jobs (whose log entries are now durable),
    /// in log order.
    Persisted {
        /// One report for each completed append job.
        completions: Vec<Persisted>,
        /// Total size in bytes of the completed jobs. The Raft core subtracts it from its bytes in
        /// flight.
        bytes: usize,
    },
    /// From the network stage: the applier's report of completed work. The network stage passes it
    /// on after it has handled the replies to clients.
    Applied(Applied),
    /// From the network stage: reads for which the leader has confirmed a read index.
    IndexedReads(IndexedReads),
    /// From the network stage: a client has requested a snapshot (`BGSAVE`).
    TakeSnapshot,
    /// From the network stage: an administrative request to the leader.
    Admin(AdminCall),
    /// From the network stage: the core must publish its status in this pass, as a sign of life.
    PublishStatus,
    /// From the snapshots stage: an event, such as the completion of a snapshot or the storage of a
    /// chunk.
    Snapshot(SnapshotEvent),
    /// From the log writer: a measurement of free disk space that the Raft core must handle.
    DiskSpace(DiskSpaceReport),
    /// From the network stage: the network stage has stopped, so all other stages must stop, too.
    Stop,
}

/// An administrative request to the leader, and who gets the answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::runtime) struct AdminCall {
    pub(in crate::runtime) caller: AdminCaller,
    pub(in crate::runtime) request: AdminRequest,
}

/// Who has made an administrative request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::runtime) enum AdminCaller {
    /// A client. The number is the sequence number of its request.
    Client(u64),
    /// The network stage: because this replica stops, or because the address of a member has
    /// changed.
    Network,
}

/// The members of the cluster as of the latest configuration in this replica's log, and the
/// cluster's feature level.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::runtime) struct Members {
    /// Index of the configuration's entry; 0 for the members with which the cluster was created.
    pub(in crate::runtime) index: Index,
    /// Whether this replica knows that the configuration is committed.
    pub(in crate::runtime) is_committed: bool,
    pub(in crate::runtime) configuration: Configuration,
    /// The cluster's feature level.
    pub(in crate::runtime) feature_level: FeatureLevel,
    /// The other replicas that messages are sent to, each with its address if one is in a
    /// configuration. They include members that are being removed.
    pub(in crate::runtime) peers: Vec<(NodeId, Option<String>)>,
}

impl Members {
    /// Returns the members according to `replica`.
    pub(in crate::runtime) fn of(replica: &Replica) -> Members {
        let address = |id: NodeId| {
            let address = replica.address_of(id)?;
            String::from_utf8(address.to_vec()).ok()
        };
        let (index, configuration) = replica.configuration();
        let peers = replica.peers().iter().map(|id| (*id, address(*id))).collect();
        let is_committed = index <= replica.commit_index();
        let (configuration, feature_level) = (configuration.clone(), replica.feature_level());
        Members { index, is_committed, configuration, feature_level, peers }
    }
}

/// Clients' requests for the Raft core, in the order in which they arrived at the network stage. In
/// the server, each element is a batch of requests.
#[derive(Debug)]
pub(in crate::runtime) enum Requests {
    /// Requests from this replica's own clients, and requests from peers for a read index, which
    /// the peers need to answer reads from their clients.
    Clients(Vec<ClientRequest>),
    /// Batches of writes that other replicas have forwarded to this one.
    Forwarded(Vec<ForwardedWrite>),
}

/// The log writer's report of a change in free disk space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::runtime) struct DiskSpaceReport {
    /// The disk state for the consensus core: whether disk space is low, and how many more bytes of
    /// log entries fit.
    pub(in crate::runtime) space: DiskSpace,
    /// Whether less than twice the disk reserve is free, so that a snapshot should be taken to
    /// compact the log.
    pub(in crate::runtime) is_scarce: bool,
    /// Free space on the disk in bytes, shown in log lines.
    pub(in crate::runtime) free_bytes: u64,
    /// Number of segment files of the log on disk, shown in log lines.
    pub(in crate::runtime) segment_count: u64,
}

/// An event that the snapshots stage reports to the Raft core.
#[derive(Debug)]
pub(in crate::runtime) enum SnapshotEvent {
    /// A snapshot that this replica took of its own state is durable.
    Taken(SnapshotId),
    /// This replica's latest snapshot is damaged, so the replica must take another one.
    Lost,
    /// A chunk of a leader's snapshot was stored. Reports how much of that snapshot is stored now.
    ChunkStored(ChunkStored),
    /// A snapshot received from a leader is complete and durable, and the applier must install it.
    Received(Box<ReceivedSnapshot>),
}

/// A snapshot received from a leader, complete and verified, that the applier has to install.
#[derive(Debug)]
pub(in crate::runtime) struct ReceivedSnapshot {
    /// Id of the snapshot: its last entry, size and checksum.
    pub(in crate::runtime) id: SnapshotId,
    /// The state machine that was loaded from the snapshot.
    pub(in crate::runtime) store: StateMachine,
}

/// A job for the snapshots stage, from the Raft core or the applier.
#[derive(Debug)]
pub(in crate::runtime) enum SnapshotJob {
    /// From the Raft core: snapshot messages to followers. The snapshots stage reads the chunk for
    /// each message, and sends the message with its chunk.
    SendChunks(Vec<Envelope>),
    /// From the Raft core: received chunks of a leader's snapshot, to be stored on disk.
    StoreChunks(Vec<SnapshotChunk>),
    /// From the Raft core of a witness: the point at which its log is to begin, to be stored as a
    /// snapshot without data.
    StoreLogStart(LogStart),
    /// From the Raft core, if this replica is the leader: ids of its snapshots that followers have
    /// received and found damaged. The snapshots stage reads and verifies these snapshots on this
    /// replica's disk.
    Verify(Vec<SnapshotId>),
    /// From the applier: an immutable view of the current state, to be written as a snapshot.
    Write(Box<View>),
    /// From the network stage: a client's request for the latest snapshot, or a part of one.
    Read(SnapshotRead),
}

/// A client's request for the id of the latest snapshot on this replica's disk (`SNAPSHOT OPEN`),
/// or for a part of a snapshot (`SNAPSHOT READ`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::runtime) struct SnapshotRead {
    /// Sequence number of the client's request.
    pub(in crate::runtime) sequence: u64,
    /// The snapshot to read, and the offset of the part from its start, in bytes; `None` for the
    /// id of the latest snapshot.
    pub(in crate::runtime) part: Option<(SnapshotId, u64)>,
}

/// The result of a [`SnapshotRead`].
#[derive(PartialEq, Eq, Debug)]
pub(in crate::runtime) struct SnapshotPart {
    /// Sequence number of the client's request.
    pub(in crate::runtime) sequence: u64,
    /// The bytes of the part, empty at the end of the snapshot, or the text of the id; `None` if
    /// the snapshot is not available.
    pub(in crate::runtime) part: Option<Bytes>,
}

/// What the applier has removed, to be freed in the background.
#[derive(Debug)]
pub(in crate::runtime) enum Deletion {
    /// Large values that commands have removed or replaced, or that have expired.
    Values(Unlinked),
    /// A state machine that a leader's snapshot has replaced.
    State(Box<StateMachine>),
}

/// A batch of writes that another replica has forwarded to this replica as the leader.
#[derive(Debug)]
pub(in crate::runtime) struct ForwardedWrite {
    /// Whether this is the first copy of the batch, which carries the leader's term, or a repeated
    /// copy. A repeated copy is sent after a leader change or a lost connection, so an earlier copy
    /// may already be in the log.
    pub(in crate::runtime) attempt: Attempt,
    /// The forwarded batch of writes, with its request key.
    pub(in crate::runtime) request: ClientRequest,
}

/// Reads from clients, with a read index that the leader confirmed after the reads had arrived.
/// This replica answers the reads once it has applied the log up to the read index.
#[derive(Debug)]
pub(in crate::runtime) struct IndexedReads {
    /// The read index: the commit index that the leader confirmed for these reads.
    pub(in crate::runtime) index: Index,
    /// The reads, which are waiting until this replica has applied the log up to `index`.
    pub(in crate::runtime) reads: Vec<ClientRequest>,
    /// Requests with scripts to run; `None` for none.
    pub(in crate::runtime) scripts: Option<Box<ScriptJobs>>,
}

/// Requests with scripts of this replica's clients, which the applier runs one after another on
/// one overlay.
#[derive(Debug)]
pub(in crate::runtime) struct ScriptJobs {
    pub(in crate::runtime) facts: ScriptFacts,
    /// The requests, each with its sequence number.
    pub(in crate::runtime) jobs: Vec<(u64, ScriptRequest)>,
}

/// The results of runs of requests with scripts.
#[derive(Debug)]
pub(in crate::runtime) struct ScriptResults {
    /// The revision of the users under which the requests have run.
    pub(in crate::runtime) users_revision: u64,
    /// Whether these are the results of a whole group, rather than of one request that has run on
    /// another thread.
    pub(in crate::runtime) is_group: bool,
    /// The results in the order in which the requests ran, by their sequence numbers.
    pub(in crate::runtime) runs: Vec<(u64, ScriptRun)>,
}

/// The current Raft term and its leader, as far as this replica knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::runtime) struct Leadership {
    /// The current Raft term, as far as this replica knows.
    pub(in crate::runtime) term: Term,
    /// The leader of `term`; `None` while no leader is known, and during a leadership transfer.
    pub(in crate::runtime) leader: Option<NodeId>,
    /// The target of the leadership transfer in progress, if this replica leads; otherwise `None`.
    pub(in crate::runtime) transfer_target: Option<NodeId>,
}

/// The applier's report of completed work. The network stage passes the report on to the Raft core
/// once it has handled the replies to clients, or, under a simulator of the university course, once
/// the socket has accepted these replies.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(in crate::runtime) struct Applied {
    /// The index of the last log entry that the applier has applied; `None` if no entry was
    /// applied, for example if only reads were answered.
    pub(in crate::runtime) index: Option<Index>,
    /// Total size in bytes of the completed batches. The Raft core subtracts it from its bytes in
    /// flight.
    pub(in crate::runtime) bytes: usize,
    /// The leader's snapshot that the applier has installed: its id, and as of its last entry the
    /// members, if they had changed by then, and the cluster's feature level. `None` if this work
    /// installed no snapshot. If both `index` and `installed` are set, the Raft core handles
    /// `index` first.
    pub(in crate::runtime) installed:
        Option<Box<(SnapshotId, Option<Configuration>, FeatureLevel)>>,
    /// The replicated clock (which decides when keys expire) in the state after this work.
    pub(in crate::runtime) clock: AppliedClock,
    /// The reading, in milliseconds since 1970, that the replicated clock (which decides when keys
    /// expire) must reach before the applier can answer the reads that wait for it; `None` if no
    /// reads wait for the clock.
    pub(in crate::runtime) clock_wanted: Option<u64>,
    /// The latest mark in the log on which this replica has to report: its index, and the digest of
    /// the state there. `None` if there is none.
    pub(in crate::runtime) digest_report: Option<Box<(Index, u64)>>,
}

/// The Raft core's output that the network stage can send at once, without waiting for log entries
/// to become durable.
#[derive(Debug, Default)]
pub(in crate::runtime) struct Outbound {
    /// Messages to peers. When the channel is full, they are dropped.
    pub(in crate::runtime) peers: Vec<Envelope>,
    /// Refusals of clients' requests. When the channel is full, the Raft core keeps the refusals
    /// and sends them with the next batch.
    pub(in crate::runtime) refusals: Vec<Refusal>,
    /// The new term and its leader; `None` if neither has changed since the last batch.
    pub(in crate::runtime) leadership: Option<Leadership>,
    /// The new members; `None` if they have not changed since the last batch.
    pub(in crate::runtime) members: Option<Box<Members>>,
    /// Answers to administrative requests, handled after `leadership`. Kept like refusals when the
    /// channel is full.
    pub(in crate::runtime) answers: Vec<(AdminCaller, AdminAnswer)>,
    /// Operations of the comparison of the replicas' states, to be forwarded to the leader. When
    /// the channel is full, they are dropped.
    pub(in crate::runtime) forwards: Vec<Operation<'static>>,
}

/// A batch of append jobs (log entries and hard state to be written) that the Raft core sends to
/// the log writer.
#[derive(Debug, Default)]
pub(in crate::runtime) struct AppendBatch {
    /// The append jobs. The log writer makes the log entries in them durable in this order.
    pub(in crate::runtime) jobs: Vec<AppendJob>,
    /// Size of the jobs in bytes. The Raft core limits the total size of all jobs in flight to
    /// [`JOB_BYTES_MAX`].
    pub(in crate::runtime) bytes: usize,
}

/// A batch of work that the Raft core sends to the applier: entries to apply, reads to answer, and
/// snapshots to install or take.
#[derive(Debug, Default)]
pub(in crate::runtime) struct ApplyBatch {
    /// Committed entries to be applied, and reads to be answered after them.
    pub(in crate::runtime) job: ApplyJob,
    /// Reads for which the leader has confirmed a read index. Reads whose read index is above the
    /// last entry in `job` wait in the applier until that index has been applied.
    pub(in crate::runtime) indexed_reads: Vec<IndexedReads>,
    /// The reading that the replicated clock (which decides when keys expire) must have reached in
    /// the state before the applier answers the reads in `job`.
    pub(in crate::runtime) read_timestamp: ReadTimestamp,
    /// The leader, as far as the Raft core knew when it sent this batch; `None` if unknown. Used
    /// only under a simulator of the university course, where replies name the leader.
    pub(in crate::runtime) leader: Option<NodeId>,
    /// Size of this batch in bytes. The Raft core limits the total size of all jobs in flight to
    /// [`JOB_BYTES_MAX`].
    pub(in crate::runtime) bytes: usize,
    /// A leader's snapshot that the applier must install before it handles `job`; `None` if there
    /// is nothing to install.
    pub(in crate::runtime) install: Option<Box<ReceivedSnapshot>>,
    /// Whether the applier must start taking a snapshot of its state now.
    pub(in crate::runtime) take_snapshot: bool,
}

/// The replicated clock at the time when the leader confirmed a read. The applier answers the read
/// only from a state whose clock has reached this reading, so that the read sees no key that had
/// expired by then. The default, zero, allows any state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::runtime) struct ReadTimestamp {
    /// Reading of the replicated clock (which decides when keys expire) when the leader confirmed
    /// the read, in milliseconds since 1970.
    pub(in crate::runtime) millis: u64,
    /// How many times `CLOCK RESET` had reset the replicated clock (which decides when keys expire)
    /// when the leader confirmed the read.
    pub(in crate::runtime) resets: u64,
}

/// A batch of replies that the applier sends to the network stage, with the key counts and the
/// digest of the applied state.
#[derive(Debug, Default)]
pub(in crate::runtime) struct ReplyBatch {
    /// Replies to writes in log order, then replies to reads.
    pub(in crate::runtime) answers: Vec<Answer>,
    /// Replies to peers that requested a read index: the key of each peer's request, and the log
    /// index that the peer must have applied before it answers its client's read.
    pub(in crate::runtime) read_indexes: Vec<(RequestKey, Index)>,
    /// Pub/Sub messages and keyspace notifications, to be delivered to this replica's subscribers.
    pub(in crate::runtime) events: VecDeque<Event>,
    /// The keys that have changed since the previous batch, if the board says that clients wait for
    /// changes or cache values.
    pub(in crate::runtime) changed: ChangedKeys,
    /// The extent of the history of changes, and the revision of the applied state.
    pub(in crate::runtime) history: HistoryStatus,
    /// The leader to name in the replies to clients, copied from [`ApplyBatch::leader`]; `None` if
    /// unknown.
    pub(in crate::runtime) leader: Option<NodeId>,
    /// The users of the cluster, if they have changed since the previous batch of replies.
    pub(in crate::runtime) users: Option<Box<Users>>,
    /// Sizes of the databases of the applied state that have keys.
    pub(in crate::runtime) databases: Vec<DatabaseSize>,
    /// How many scripts and functions the applied state has.
    pub(in crate::runtime) kept_scripts: KeptScripts,
    /// Number of lookups by this replica's clients, and number of expired keys, since the previous
    /// batch of replies.
    pub(in crate::runtime) statistics: KeyspaceStatistics,
    /// Digest (hash) of the applied state. Replicas that have applied the log up to the same index
    /// have equal digests.
    pub(in crate::runtime) digest: u64,
    /// The digests of the state at those log indexes, among the ones applied now, at which every
    /// replica keeps its digest. In log order.
    pub(in crate::runtime) digest_marks: Vec<(Index, u64)>,
    /// The latest result of a comparison of this replica's state with the others; `None` if there
    /// is no new one.
    pub(in crate::runtime) comparison: Option<DigestComparison>,
    /// The applier's report of completed work. The network stage passes the report on to the Raft
    /// core once it has handled these replies.
    pub(in crate::runtime) applied: Applied,
}

/// The outcomes of one batch of clients' requests. The network stage writes the replies from them.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::runtime) struct Answer {
    /// Key (client id and request id) of the batch of requests.
    pub(in crate::runtime) key: RequestKey,
    /// Outcomes of the batch's operations, in the order of the operations.
    pub(in crate::runtime) outcomes: Vec<Outcome>,
    /// The revision of the state in which all operations of a batch of reads were run, or after the
    /// last operation of a batch of writes; `None` if it is not known, or if reads were run in
    /// different states.
    pub(in crate::runtime) revision: Option<u64>,
}

impl Deletion {
    pub(in crate::runtime) fn size(&self) -> DeletionSize {
        match self {
            Deletion::Values(values) => {
                DeletionSize { objects: values.objects(), bytes: values.bytes() }
            }
            Deletion::State(state) => {
                DeletionSize { objects: state.key_count(), bytes: state.memory() }
            }
        }
    }
}

impl Applied {
    /// Adds the report `later` to `self`. `later` must be about work that the applier completed
    /// after the work in `self`.
    pub(in crate::runtime) fn merge(&mut self, later: Applied) {
        self.index = later.index.or(self.index);
        self.bytes += later.bytes;
        self.installed = later.installed.or(self.installed.take());
        self.clock = later.clock;
        self.clock_wanted = later.clock_wanted;
        self.digest_report = later.digest_report.or(self.digest_report.take());
    }
}

impl ApplyBatch {
    /// Returns whether the batch contains no work for the applier.
    pub(in crate::runtime) fn is_empty(&self) -> bool {
        self.job.is_empty()
            && self.indexed_reads.is_empty()
            && self.install.is_none()
            && !self.take_snapshot
    }
}
