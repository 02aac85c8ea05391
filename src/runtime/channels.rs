//! The channels between the stages: what each carries, how much may wait in it, and what happens
//! when it is full. One item is a batch, never a single request.
//!
//! ```text
//!          core_inbox, requests           append_jobs
//!   network ----------------> core ------------------------> log writer
//!    ^ ^ ^                     | |                             |   |
//!    | | |     outbound        | |  apply_jobs                 |   | core_inbox
//!    | | +---------------------+ +-------------> applier       |   +---------> core
//!    | |                                            |          |
//!    | |                  replies                   |          |
//!    | +--------------------------------------------+          |
//!    |                    released                             |
//!    +---------------------------------------------------------+
//!
//!   core, applier, network -- snapshot_jobs --> snapshots -- core_inbox ---------> core
//!                                                  +-------- released, parts ----> network
//!
//!   applier ---- deletions ----> background deletion
//! ```
//!
//! Each channel holds up to [`QUEUE_LEN`] items. When a channel is full:
//!
//! - `requests`, [`Requests`] from the network stage: contains all clients' requests, in order. The
//!   channel is separate so that peers' messages and completions never wait behind requests; the
//!   core receives an item only after it has handled the previous one. Requests of this replica's
//!   clients are sent only while the channel is less than half full, and otherwise wait in the
//!   network stage. Under a simulator of the university course, up to [`HELD_REQUESTS_MAX`] of them
//!   wait; in the server, their number is limited by the limit on each connection's requests and
//!   replies. At these limits, the network stage stops reading. Writes forwarded by peers are not
//!   read from the peers while the channel is half full. If the channel is full nevertheless, the
//!   first copy of a forwarded write is refused as busy; a repeated copy is dropped and counted,
//!   and its client finally gets `UNCERTAIN`.
//! - `core_inbox`, [`CoreItem::Peers`] from the network stage: the messages are dropped and
//!   counted.
//! - `core_inbox`, [`CoreItem::Persisted`] and [`CoreItem::DiskSpace`] from the log writer, and
//!   [`CoreItem::Snapshot`] from the snapshots stage: the sending stage waits. The core never waits
//!   for either of these stages.
//! - `core_inbox`, [`CoreItem::Applied`], [`CoreItem::IndexedReads`], [`CoreItem::TakeSnapshot`]
//!   and [`CoreItem::Admin`] from the network stage: the items wait in the network stage for its
//!   next pass.
//! - `core_inbox`, [`CoreItem::PublishStatus`] from the network stage: the item is dropped; a busy
//!   core publishes its status anyway.
//! - `outbound`, [`Outbound`] from the core: messages to peers are dropped and counted; refusals,
//!   answers and the report of a new leader or of new members wait in the core for its next pass.
//! - `append_jobs`, [`AppendBatch`], and `apply_jobs`, [`ApplyBatch`], from the core: jobs wait in
//!   the core and join the next batch; see below.
//! - `released`, messages to peers from the log writer and the snapshots stage: the messages are
//!   dropped and counted.
//! - `snapshot_jobs`, [`SnapshotJob`]. From the core: chunks are dropped and counted; the leader
//!   sends again what is not acknowledged. From the applier: a snapshot is taken later. From the
//!   network stage: clients' reads of a snapshot wait there; it has at most [`SNAPSHOT_READS_MAX`]
//!   of them in flight.
//! - `parts`, [`SnapshotPart`] from the snapshots stage: never full, because of that limit.
//! - `deletions`, [`Deletion`] from the applier: the applier frees the values or the state itself.
//! - `replies`, [`ReplyBatch`] from the applier: the applier waits for the network, which takes
//!   none while its socket is full.
//!
//! While 4 MiB of appends are in flight, committed entries wait in the core. So clients slow down
//! to the speed of this replica's log, even if other replicas commit entries faster.
//!
//! The work waiting at the core is bounded, too. The core adds up the bytes of all jobs in flight.
//! At [`JOB_BYTES_MAX`] a leader takes no requests from its queue, so they wait there, in the
//! network stage and in the sockets; a follower drops appends, which are counted. So a stuck log
//! writer or applier, or a simulator that does not read, does not lead to unbounded memory use. The
//! core blocks only in its one receive call.
//!
//! Stages never wait for each other in a cycle: the applier waits for the network stage, the log
//! writer and the snapshots stage wait for the core, and the core and the network stage wait for no
//! stage.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use crossbeam::channel::{self, Receiver, SendError, Sender, TrySendError};

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
use crate::types::{Index, Instant, NodeId, RequestKey, Term};
use crate::wire::frame::Attempt;

use crate::runtime::boards::DeletionSize;
use crate::runtime::wake::{COMPLETIONS, OUTBOUND, READ_PEERS, RELEASED, REPLIES, Wake};

/// Capacity of each channel between two stages, in items. One item is a batch of messages or
/// requests.
pub(super) const QUEUE_LEN: usize = 64;
/// Maximum number of clients' reads of a snapshot that the network stage has sent to the snapshots
/// stage and that have no result yet, so that they do not keep it from sending chunks to followers.
pub(super) const SNAPSHOT_READS_MAX: usize = 4;
/// Under a simulator of the university course: maximum number of messages that the network stage
/// receives from its socket before it sends them to the Raft core.
pub(super) const BATCH_MESSAGES_MAX: usize = 64;
/// Under a simulator of the university course: maximum total size, in bytes, of the messages in one
/// batch from the network stage to the Raft core. Together with [`QUEUE_LEN`], this bounds the
/// bytes in the core's queue.
pub(super) const BATCH_BYTES_MAX: usize = 256 << 10;
/// Under a simulator of the university course: maximum number of clients' requests that the network
/// stage holds while the Raft core's request queue is at least half full. At this number, the
/// network stage stops receiving.
pub(super) const HELD_REQUESTS_MAX: usize = 1_024;
/// Limit on the total size, in bytes, of the jobs in flight (sent by the Raft core to the log
/// writer or the applier but not completed). At the limit, the Raft core drops `AppendEntries`
/// messages with entries, and takes no clients' requests from its queue while it leads.
pub(super) const JOB_BYTES_MAX: usize = 32 << 20;

/// A message in the Raft core's inbox: Raft messages from peers, or a report or request from
/// another stage. Clients' requests arrive on a separate channel, as [`Requests`].
#[derive(Debug)]
pub(super) enum CoreItem {
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
pub(super) struct AdminCall {
    pub(super) caller: AdminCaller,
    pub(super) request: AdminRequest,
}

/// Who has made an administrative request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AdminCaller {
    /// A client. The number is the sequence number of its request.
    Client(u64),
    /// The network stage: because this replica stops, or because the address of a member has
    /// changed.
    Network,
}

/// The members of the cluster as of the latest configuration in this replica's log, and the
/// cluster's feature level.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Members {
    /// Index of the configuration's entry; 0 for the members with which the cluster was created.
    pub(super) index: Index,
    /// Whether this replica knows that the configuration is committed.
    pub(super) is_committed: bool,
    pub(super) configuration: Configuration,
    /// The cluster's feature level.
    pub(super) feature_level: FeatureLevel,
    /// The other replicas that messages are sent to, each with its address if one is in a
    /// configuration. They include members that are being removed.
    pub(super) peers: Vec<(NodeId, Option<String>)>,
}

impl Members {
    /// Returns the members according to `replica`.
    pub(super) fn of(replica: &Replica) -> Members {
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
pub(super) enum Requests {
    /// Requests from this replica's own clients, and requests from peers for a read index, which
    /// the peers need to answer reads from their clients.
    Clients(Vec<ClientRequest>),
    /// Batches of writes that other replicas have forwarded to this one.
    Forwarded(Vec<ForwardedWrite>),
}

/// The log writer's report of a change in free disk space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct DiskSpaceReport {
    /// The disk state for the consensus core: whether disk space is low, and how many more bytes of
    /// log entries fit.
    pub(super) space: DiskSpace,
    /// Whether less than twice the disk reserve is free, so that a snapshot should be taken to
    /// compact the log.
    pub(super) is_scarce: bool,
    /// Free space on the disk in bytes, shown in log lines.
    pub(super) free_bytes: u64,
    /// Number of segment files of the log on disk, shown in log lines.
    pub(super) segment_count: u64,
}

/// An event that the snapshots stage reports to the Raft core.
#[derive(Debug)]
pub(super) enum SnapshotEvent {
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
pub(super) struct ReceivedSnapshot {
    /// Id of the snapshot: its last entry, size and checksum.
    pub(super) id: SnapshotId,
    /// The state machine that was loaded from the snapshot.
    pub(super) store: StateMachine,
}

/// A job for the snapshots stage, from the Raft core or the applier.
#[derive(Debug)]
pub(super) enum SnapshotJob {
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
pub(super) struct SnapshotRead {
    /// Sequence number of the client's request.
    pub(super) sequence: u64,
    /// The snapshot to read, and the offset of the part from its start, in bytes; `None` for the
    /// id of the latest snapshot.
    pub(super) part: Option<(SnapshotId, u64)>,
}

/// The result of a [`SnapshotRead`].
#[derive(PartialEq, Eq, Debug)]
pub(super) struct SnapshotPart {
    /// Sequence number of the client's request.
    pub(super) sequence: u64,
    /// The bytes of the part, empty at the end of the snapshot, or the text of the id; `None` if
    /// the snapshot is not available.
    pub(super) part: Option<Bytes>,
}

/// What the applier has removed, to be freed in the background.
#[derive(Debug)]
pub(super) enum Deletion {
    /// Large values that commands have removed or replaced, or that have expired.
    Values(Unlinked),
    /// A state machine that a leader's snapshot has replaced.
    State(Box<StateMachine>),
}

/// A batch of writes that another replica has forwarded to this replica as the leader.
#[derive(Debug)]
pub(super) struct ForwardedWrite {
    /// Whether this is the first copy of the batch, which carries the leader's term, or a repeated
    /// copy. A repeated copy is sent after a leader change or a lost connection, so an earlier copy
    /// may already be in the log.
    pub(super) attempt: Attempt,
    /// The forwarded batch of writes, with its request key.
    pub(super) request: ClientRequest,
}

/// Reads from clients, with a read index that the leader confirmed after the reads had arrived.
/// This replica answers the reads once it has applied the log up to the read index.
#[derive(Debug)]
pub(super) struct IndexedReads {
    /// The read index: the commit index that the leader confirmed for these reads.
    pub(super) index: Index,
    /// The reads, which are waiting until this replica has applied the log up to `index`.
    pub(super) reads: Vec<ClientRequest>,
    /// Requests with scripts to run; `None` for none.
    pub(super) scripts: Option<Box<ScriptJobs>>,
}

/// Requests with scripts of this replica's clients, which the applier runs one after another on
/// one overlay.
#[derive(Debug)]
pub(super) struct ScriptJobs {
    pub(super) facts: ScriptFacts,
    /// The requests, each with its sequence number.
    pub(super) jobs: Vec<(u64, ScriptRequest)>,
}

/// The results of runs of requests with scripts.
#[derive(Debug)]
pub(super) struct ScriptResults {
    /// The revision of the users under which the requests have run.
    pub(super) users_revision: u64,
    /// Whether these are the results of a whole group, rather than of one request that has run on
    /// another thread.
    pub(super) is_group: bool,
    /// The results in the order in which the requests ran, by their sequence numbers.
    pub(super) runs: Vec<(u64, ScriptRun)>,
}

/// The current Raft term and its leader, as far as this replica knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Leadership {
    /// The current Raft term, as far as this replica knows.
    pub(super) term: Term,
    /// The leader of `term`; `None` while no leader is known, and during a leadership transfer.
    pub(super) leader: Option<NodeId>,
    /// The target of the leadership transfer in progress, if this replica leads; otherwise `None`.
    pub(super) transfer_target: Option<NodeId>,
}

/// The applier's report of completed work. The network stage passes the report on to the Raft core
/// once it has handled the replies to clients, or, under a simulator of the university course, once
/// the socket has accepted these replies.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Applied {
    /// The index of the last log entry that the applier has applied; `None` if no entry was
    /// applied, for example if only reads were answered.
    pub(super) index: Option<Index>,
    /// Total size in bytes of the completed batches. The Raft core subtracts it from its bytes in
    /// flight.
    pub(super) bytes: usize,
    /// The leader's snapshot that the applier has installed: its id, and as of its last entry the
    /// members, if they had changed by then, and the cluster's feature level. `None` if this work
    /// installed no snapshot. If both `index` and `installed` are set, the Raft core handles
    /// `index` first.
    pub(super) installed: Option<Box<(SnapshotId, Option<Configuration>, FeatureLevel)>>,
    /// The replicated clock (which decides when keys expire) in the state after this work.
    pub(super) clock: AppliedClock,
    /// The reading, in milliseconds since 1970, that the replicated clock (which decides when keys
    /// expire) must reach before the applier can answer the reads that wait for it; `None` if no
    /// reads wait for the clock.
    pub(super) clock_wanted: Option<u64>,
    /// The latest mark in the log on which this replica has to report: its index, and the digest of
    /// the state there. `None` if there is none.
    pub(super) digest_report: Option<Box<(Index, u64)>>,
}

/// The Raft core's output that the network stage can send at once, without waiting for log entries
/// to become durable.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    /// Messages to peers. When the channel is full, they are dropped.
    pub(super) peers: Vec<Envelope>,
    /// Refusals of clients' requests. When the channel is full, the Raft core keeps the refusals
    /// and sends them with the next batch.
    pub(super) refusals: Vec<Refusal>,
    /// The new term and its leader; `None` if neither has changed since the last batch.
    pub(super) leadership: Option<Leadership>,
    /// The new members; `None` if they have not changed since the last batch.
    pub(super) members: Option<Box<Members>>,
    /// Answers to administrative requests, handled after `leadership`. Kept like refusals when the
    /// channel is full.
    pub(super) answers: Vec<(AdminCaller, AdminAnswer)>,
    /// Operations of the comparison of the replicas' states, to be forwarded to the leader. When
    /// the channel is full, they are dropped.
    pub(super) forwards: Vec<Operation<'static>>,
}

/// A batch of append jobs (log entries and hard state to be written) that the Raft core sends to
/// the log writer.
#[derive(Debug, Default)]
pub(super) struct AppendBatch {
    /// The append jobs. The log writer makes the log entries in them durable in this order.
    pub(super) jobs: Vec<AppendJob>,
    /// Size of the jobs in bytes. The Raft core limits the total size of all jobs in flight to
    /// [`JOB_BYTES_MAX`].
    pub(super) bytes: usize,
}

/// A batch of work that the Raft core sends to the applier: entries to apply, reads to answer, and
/// snapshots to install or take.
#[derive(Debug, Default)]
pub(super) struct ApplyBatch {
    /// Committed entries to be applied, and reads to be answered after them.
    pub(super) job: ApplyJob,
    /// Reads for which the leader has confirmed a read index. Reads whose read index is above the
    /// last entry in `job` wait in the applier until that index has been applied.
    pub(super) indexed_reads: Vec<IndexedReads>,
    /// The reading that the replicated clock (which decides when keys expire) must have reached in
    /// the state before the applier answers the reads in `job`.
    pub(super) read_timestamp: ReadTimestamp,
    /// The leader, as far as the Raft core knew when it sent this batch; `None` if unknown. Used
    /// only under a simulator of the university course, where replies name the leader.
    pub(super) leader: Option<NodeId>,
    /// Size of this batch in bytes. The Raft core limits the total size of all jobs in flight to
    /// [`JOB_BYTES_MAX`].
    pub(super) bytes: usize,
    /// A leader's snapshot that the applier must install before it handles `job`; `None` if there
    /// is nothing to install.
    pub(super) install: Option<Box<ReceivedSnapshot>>,
    /// Whether the applier must start taking a snapshot of its state now.
    pub(super) take_snapshot: bool,
}

/// The replicated clock at the time when the leader confirmed a read. The applier answers the read
/// only from a state whose clock has reached this reading, so that the read sees no key that had
/// expired by then. The default, zero, allows any state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct ReadTimestamp {
    /// Reading of the replicated clock (which decides when keys expire) when the leader confirmed
    /// the read, in milliseconds since 1970.
    pub(super) millis: u64,
    /// How many times `CLOCK RESET` had reset the replicated clock (which decides when keys expire)
    /// when the leader confirmed the read.
    pub(super) resets: u64,
}

/// A batch of replies that the applier sends to the network stage, with the key counts and the
/// digest of the applied state.
#[derive(Debug, Default)]
pub(super) struct ReplyBatch {
    /// Replies to writes in log order, then replies to reads.
    pub(super) answers: Vec<Answer>,
    /// Replies to peers that requested a read index: the key of each peer's request, and the log
    /// index that the peer must have applied before it answers its client's read.
    pub(super) read_indexes: Vec<(RequestKey, Index)>,
    /// Pub/Sub messages and keyspace notifications, to be delivered to this replica's subscribers.
    pub(super) events: VecDeque<Event>,
    /// The keys that have changed since the previous batch, if the board says that clients wait for
    /// changes or cache values.
    pub(super) changed: ChangedKeys,
    /// The extent of the history of changes, and the revision of the applied state.
    pub(super) history: HistoryStatus,
    /// The leader to name in the replies to clients, copied from [`ApplyBatch::leader`]; `None` if
    /// unknown.
    pub(super) leader: Option<NodeId>,
    /// The users of the cluster, if they have changed since the previous batch of replies.
    pub(super) users: Option<Box<Users>>,
    /// Sizes of the databases of the applied state that have keys.
    pub(super) databases: Vec<DatabaseSize>,
    /// How many scripts and functions the applied state has.
    pub(super) kept_scripts: KeptScripts,
    /// Number of lookups by this replica's clients, and number of expired keys, since the previous
    /// batch of replies.
    pub(super) statistics: KeyspaceStatistics,
    /// Digest (hash) of the applied state. Replicas that have applied the log up to the same index
    /// have equal digests.
    pub(super) digest: u64,
    /// The digests of the state at those log indexes, among the ones applied now, at which every
    /// replica keeps its digest. In log order.
    pub(super) digest_marks: Vec<(Index, u64)>,
    /// The latest result of a comparison of this replica's state with the others; `None` if there
    /// is no new one.
    pub(super) comparison: Option<DigestComparison>,
    /// The applier's report of completed work. The network stage passes the report on to the Raft
    /// core once it has handled these replies.
    pub(super) applied: Applied,
}

/// The outcomes of one batch of clients' requests. The network stage writes the replies from them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// Key (client id and request id) of the batch of requests.
    pub(super) key: RequestKey,
    /// Outcomes of the batch's operations, in the order of the operations.
    pub(super) outcomes: Vec<Outcome>,
    /// The revision of the state in which all operations of a batch of reads were run, or after the
    /// last operation of a batch of writes; `None` if it is not known, or if reads were run in
    /// different states.
    pub(super) revision: Option<u64>,
}

impl Deletion {
    pub(super) fn size(&self) -> DeletionSize {
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
    pub(super) fn merge(&mut self, later: Applied) {
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
    pub(super) fn is_empty(&self) -> bool {
        self.job.is_empty()
            && self.indexed_reads.is_empty()
            && self.install.is_none()
            && !self.take_snapshot
    }
}

/// The sending end of a channel to the network stage. Sending also wakes the network stage, which
/// waits in `mio::Poll` and would not notice a new item in the channel.
#[derive(Debug)]
pub(super) struct ToNetwork<T> {
    sender: Sender<T>,
    /// The bit of this channel in `wake`, by which the network stage learns that the channel may
    /// have items.
    mark: u32,
    wake: Arc<Wake>,
}

impl<T> ToNetwork<T> {
    /// Creates the sending end of a channel whose receiving end the network stage has.
    pub(super) fn new(sender: Sender<T>, mark: u32, wake: &Arc<Wake>) -> ToNetwork<T> {
        ToNetwork { sender, mark, wake: Arc::clone(wake) }
    }

    /// Returns another sending end of the same channel.
    pub(super) fn another(&self) -> ToNetwork<T> {
        ToNetwork::new(self.sender.clone(), self.mark, &self.wake)
    }

    /// Sends `item` to the network stage without waiting. Fails if the channel is full or the
    /// network stage has stopped.
    pub(super) fn try_send(&self, item: T) -> Result<(), TrySendError<T>> {
        self.sender.try_send(item)?;
        self.notify();
        Ok(())
    }

    /// Sends `item` to the network stage, and waits while the channel is full. Fails if the network
    /// stage has stopped.
    pub(super) fn send(&self, item: T) -> Result<(), SendError<T>> {
        self.sender.send(item)?;
        self.notify();
        Ok(())
    }

    /// Returns whether the channel is full, so that [`ToNetwork::send`] would wait.
    pub(super) fn is_full(&self) -> bool {
        self.sender.is_full()
    }

    /// Asks the network stage to read all peers' sockets, and to record in [`PeersRead`] that it
    /// has done so.
    pub(super) fn read_peers(&self) {
        self.wake.notify(READ_PEERS).expect("a write to the waker's own descriptor");
    }

    /// Returns the waker of the network stage.
    pub(super) fn wake(&self) -> Arc<Wake> {
        Arc::clone(&self.wake)
    }

    fn notify(&self) {
        // If the network stage cannot be woken, the replica can neither receive nor send.
        self.wake.notify(self.mark).expect("a write to the waker's own descriptor");
    }
}

/// The sending end of the channel to the Raft core, for the log writer and the snapshots stage. If
/// the core and the network stage share a thread, sending also wakes that thread from `mio::Poll`.
#[derive(Debug)]
pub(super) struct ToCore {
    sender: Sender<CoreItem>,
    wake: Option<Arc<Wake>>,
}

impl ToCore {
    /// Sends `item` to the Raft core, and waits while the channel is full. Fails if the core has
    /// stopped.
    pub(super) fn send(&self, item: CoreItem) -> Result<(), SendError<CoreItem>> {
        self.sender.send(item)?;
        if let Some(wake) = &self.wake {
            wake.notify(COMPLETIONS).expect("a write to the waker's own descriptor");
        }
        Ok(())
    }

    /// Returns whether the channel is full, so that [`ToCore::send`] would wait.
    pub(super) fn is_full(&self) -> bool {
        self.sender.is_full()
    }
}

/// The latest instant up to which the network stage has read the peers' sockets: all messages that
/// had arrived there by this instant are in the Raft core's queue or were dropped.
///
/// The core checks this instant before it treats a peer as silent (election timeout, lost lease),
/// because after a pause of this process, or while the network stage is busy, messages from the
/// peer may still be in a socket.
#[derive(Debug, Default)]
pub(super) struct PeersRead(AtomicU64);

impl PeersRead {
    /// Records that all peers' messages that had arrived by the instant `at` were read from the
    /// sockets. Called by the network stage once the messages are in the Raft core's queue.
    pub(super) fn note(&self, at: Instant) {
        self.0.store(at.0, Ordering::Release);
    }

    /// Returns the latest recorded instant. All peers' messages that had arrived by that instant
    /// are in the Raft core's queue or were dropped. Called by the core.
    pub(super) fn at(&self) -> Instant {
        Instant(self.0.load(Ordering::Acquire))
    }
}

/// The channel ends that the network stage owns: its receivers, and its senders to other stages.
#[derive(Debug)]
pub(super) struct NetworkEnds {
    pub(super) to_core: Sender<CoreItem>,
    pub(super) requests: Sender<Requests>,
    pub(super) peers_read: Arc<PeersRead>,
    pub(super) replies: Receiver<ReplyBatch>,
    pub(super) script_results: Receiver<ScriptResults>,
    pub(super) outbound: Receiver<Outbound>,
    pub(super) released: Receiver<Vec<Envelope>>,
    pub(super) to_snapshots: Sender<SnapshotJob>,
    pub(super) parts: Receiver<SnapshotPart>,
}

/// The channel ends that the Raft core stage owns: its receivers, and its senders to other stages.
#[derive(Debug)]
pub(super) struct CoreEnds {
    pub(super) inbox: Receiver<CoreItem>,
    pub(super) requests: Receiver<Requests>,
    pub(super) peers_read: Arc<PeersRead>,
    pub(super) to_network: ToNetwork<Outbound>,
    pub(super) to_log_writer: Sender<AppendBatch>,
    pub(super) to_applier: Sender<ApplyBatch>,
    pub(super) to_snapshots: Sender<SnapshotJob>,
}

/// The channel ends that the log writer stage owns: its receiver, and its senders to other stages.
#[derive(Debug)]
pub(super) struct LogWriterEnds {
    pub(super) jobs: Receiver<AppendBatch>,
    pub(super) to_network: ToNetwork<Vec<Envelope>>,
    pub(super) to_core: ToCore,
}

/// The channel ends that the applier stage owns: its receiver, and its senders to other stages.
#[derive(Debug)]
pub(super) struct ApplierEnds {
    pub(super) jobs: Receiver<ApplyBatch>,
    pub(super) to_network: ToNetwork<ReplyBatch>,
    pub(super) script_results: ToNetwork<ScriptResults>,
    pub(super) to_snapshots: Sender<SnapshotJob>,
    pub(super) deletions: Sender<Deletion>,
}

/// The channel ends that the snapshots stage owns: its receiver, and its senders to other stages.
#[derive(Debug)]
pub(super) struct SnapshotEnds {
    pub(super) jobs: Receiver<SnapshotJob>,
    pub(super) to_network: ToNetwork<Vec<Envelope>>,
    pub(super) parts: ToNetwork<SnapshotPart>,
    pub(super) to_core: ToCore,
}

/// The ends of all channels of one replica, grouped by stage.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) network: NetworkEnds,
    pub(super) core: CoreEnds,
    pub(super) log_writer: LogWriterEnds,
    pub(super) applier: ApplierEnds,
    pub(super) snapshots: SnapshotEnds,
    /// The receiving end of the background deletion, which frees what the applier has removed.
    pub(super) deletions: Receiver<Deletion>,
}

/// Creates the channels of one replica. If `core_sleeps_in_poll` is true, the Raft core and the
/// network stage share a thread that sleeps in `mio::Poll`, so senders to the core must wake that
/// thread through `wake`.
pub(super) fn channels(wake: &Arc<Wake>, core_sleeps_in_poll: bool) -> Ends {
    let (to_core, inbox) = channel::bounded(QUEUE_LEN);
    let (requests_in, requests) = channel::bounded(QUEUE_LEN);
    let peers_read = Arc::<PeersRead>::default();
    let (outbound_in, outbound) = channel::bounded(QUEUE_LEN);
    let (to_log_writer, append_jobs) = channel::bounded(QUEUE_LEN);
    let (to_applier, apply_jobs) = channel::bounded(QUEUE_LEN);
    let (released_in, released) = channel::bounded(QUEUE_LEN);
    let (replies_in, replies) = channel::bounded(QUEUE_LEN);
    let (script_results_in, script_results) = channel::bounded(QUEUE_LEN);
    let (to_snapshots, snapshot_jobs) = channel::bounded(QUEUE_LEN);
    let (parts_in, parts) = channel::bounded(SNAPSHOT_READS_MAX);
    let (deletions_in, deletions) = channel::bounded(QUEUE_LEN);
    let to_core_with_wake =
        || ToCore { sender: to_core.clone(), wake: core_sleeps_in_poll.then(|| Arc::clone(wake)) };
    let release = || ToNetwork::new(released_in.clone(), RELEASED, wake);
    Ends {
        network: NetworkEnds {
            to_core: to_core.clone(),
            requests: requests_in,
            peers_read: Arc::clone(&peers_read),
            replies,
            script_results,
            outbound,
            released,
            to_snapshots: to_snapshots.clone(),
            parts,
        },
        core: CoreEnds {
            inbox,
            requests,
            peers_read,
            to_network: ToNetwork::new(outbound_in, OUTBOUND, wake),
            to_log_writer,
            to_applier,
            to_snapshots: to_snapshots.clone(),
        },
        log_writer: LogWriterEnds {
            jobs: append_jobs,
            to_network: release(),
            to_core: to_core_with_wake(),
        },
        applier: ApplierEnds {
            jobs: apply_jobs,
            to_network: ToNetwork::new(replies_in, REPLIES, wake),
            script_results: ToNetwork::new(script_results_in, REPLIES, wake),
            to_snapshots,
            deletions: deletions_in,
        },
        snapshots: SnapshotEnds {
            jobs: snapshot_jobs,
            to_network: release(),
            parts: ToNetwork::new(parts_in, RELEASED, wake),
            to_core: to_core_with_wake(),
        },
        deletions,
    }
}
