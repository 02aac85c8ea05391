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
//!   core, applier ---- snapshot_jobs ----> snapshots ---- core_inbox ----> core
//!                                              +--------- released -------> network
//! ```
//!
//! Each holds up to [`QUEUE_LEN`] items. When it is full:
//!
//! - `requests`, [`Requests`] from the network: every request of a client, in order. This channel
//!   is separate so that peers' messages and completions never wait behind requests; the core
//!   receives an item only after it has handled the one before. Requests of this replica's clients
//!   are sent while the channel is less than half full; the others wait at the network, up to
//!   [`HELD_REQUESTS_MAX`] of them in the course, in the server up to the bounds of each
//!   connection's replies. Beyond that the network stops reading. Writes forwarded by peers are not
//!   read from the peers while the channel is half full. If it is full all the same, a first copy
//!   is refused as busy; a repeated copy is dropped and counted, and its client gets `UNCERTAIN` in
//!   the end.
//! - `core_inbox`, [`CoreItem::Peers`] from the network: the messages are dropped and counted.
//! - `core_inbox`, [`CoreItem::Persisted`] and [`CoreItem::DiskSpace`] from the log writer, and
//!   [`CoreItem::Snapshot`] from the snapshots stage: the stage waits. The core never waits for it.
//! - `core_inbox`, [`CoreItem::Applied`], [`CoreItem::IndexedReads`] and [`CoreItem::TakeSnapshot`]
//!   from the network: they wait at the network for its next pass.
//! - `outbound`, [`Outbound`] from the core: messages to peers are dropped and counted; refusals
//!   and a new leader wait at the core for its next pass.
//! - `append_jobs`, [`AppendBatch`], and `apply_jobs`, [`ApplyBatch`], from the core: jobs wait at
//!   the core and join the next batch; see below.
//! - `released`, messages to peers that a job has released or that carry a chunk of a snapshot:
//!   they are dropped and counted.
//! - `snapshot_jobs`, [`SnapshotJob`]. From the core: chunks are dropped and counted; the leader
//!   sends again what is not acknowledged. From the applier: a snapshot is taken later, and a state
//!   that was replaced is freed by the applier itself.
//! - `replies`, [`ReplyBatch`] from the applier: the applier waits for the network, which takes
//!   none while its socket is full.
//!
//! While 4 MiB of appends are in flight, committed entries wait at the core, and with them the
//! clients: they go as fast as this log, not as fast as the logs of the other replicas.
//!
//! What waits at the core is bounded, too. It sums up the bytes of all jobs in flight, and at
//! [`JOB_BYTES_MAX`] it drops appends and refuses requests as busy, both counted. So a stuck log
//! writer or applier, or a simulator that does not read, leads to refusals and not to unbounded
//! memory, and the core waits only in its one receive.
//!
//! No stages wait for each other in a circle: the applier waits for the network, the log writer and
//! the snapshots stage wait for the core, and the core and the network wait for no stage.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::channel::{self, Receiver, SendError, Sender, TrySendError};

use crate::clock::AppliedClock;
use crate::kv::{Event, Outcome, StateMachine, View};
use crate::raft::{
    AppendJob, ApplyJob, ChunkStored, ClientRequest, DiskSpace, Envelope, Persisted, Refusal,
    SnapshotChunk, SnapshotId,
};
use crate::types::{Index, Instant, NodeId, RequestKey, Term};
use crate::wire::frame::Attempt;

use crate::runtime::wake::{COMPLETIONS, OUTBOUND, READ_PEERS, RELEASED, REPLIES, Wake};

/// Capacity of each channel, in items. An item is a batch of messages or requests.
pub(super) const QUEUE_LEN: usize = 64;
/// Maximum number of messages that the network stage, under a simulator of the course, receives
/// from its socket before it sends them to the core.
pub(super) const BATCH_MESSAGES_MAX: usize = 64;
/// Maximum bytes of messages that the network stage, under a simulator of the course, sends to the
/// core in one item. With [`QUEUE_LEN`] it bounds the bytes in the core's queue.
pub(super) const BATCH_BYTES_MAX: usize = 256 << 10;
/// Maximum number of clients' requests that the network stage holds, under a simulator of the
/// course, while the core's queue of requests is at least half full. At this number it stops
/// receiving.
pub(super) const HELD_REQUESTS_MAX: usize = 1_024;
/// Limit in bytes on jobs in flight (sent to the log writer or the applier and not completed). At
/// the limit the core drops `AppendEntries` messages and refuses clients' requests.
pub(super) const JOB_BYTES_MAX: usize = 32 << 20;

/// Input of the core other than clients' requests.
#[derive(Debug)]
pub(super) enum CoreItem {
    /// From the network: messages from peers.
    Peers(Vec<Envelope>),
    /// From the log writer: append jobs whose entries are durable now, in order.
    Persisted {
        /// One completion report for each append job that has become durable.
        completions: Vec<Persisted>,
        /// Total [`AppendBatch::bytes`] of the completed jobs, which are no longer in flight.
        bytes: usize,
    },
    /// From the network: what the applier has completed, sent once the socket has accepted the
    /// replies to clients.
    Applied(Applied),
    /// From the network: reads for which the leader has confirmed a read index.
    IndexedReads(IndexedReads),
    /// From the network: a client asks for a snapshot now (`BGSAVE`).
    TakeSnapshot,
    /// From the snapshots stage: an event such as a completed snapshot or a stored chunk.
    Snapshot(SnapshotEvent),
    /// From the log writer: a change of free disk space that the core must handle.
    DiskSpace(DiskSpaceReport),
    /// From the network: it has stopped, and all stages stop with it.
    Stop,
}

/// Clients' requests for the core, in the order of their arrival at the network. In the server each
/// of them is a batch of requests.
#[derive(Debug)]
pub(super) enum Requests {
    /// Requests of this replica's clients, and requests of peers for a read index (for their own
    /// clients' reads).
    Clients(Vec<ClientRequest>),
    /// Batches of writes that other replicas have forwarded to this one.
    Forwarded(Vec<ForwardedWrite>),
}

/// A measurement of free disk space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct DiskSpaceReport {
    /// Whether disk space is low, and how many bytes of log entries still fit on the disk: the
    /// input of the consensus code.
    pub(super) space: DiskSpace,
    /// Whether less than twice the disk reserve is free, so that a snapshot should be taken to
    /// compact the log.
    pub(super) is_scarce: bool,
    /// Free bytes on the disk, for log lines.
    pub(super) free_bytes: u64,
    /// Number of segment files of the log.
    pub(super) segment_count: u64,
}

/// What the snapshots stage reports to the core.
#[derive(Debug)]
pub(super) enum SnapshotEvent {
    /// A snapshot of this replica's own state is durable.
    Taken(SnapshotId),
    /// The latest snapshot is damaged, so the replica must take another one.
    Lost,
    /// How much of a leader's snapshot has been stored.
    ChunkStored(ChunkStored),
    /// A leader's snapshot is complete and durable; the applier installs it.
    Received(Box<ReceivedSnapshot>),
}

/// A leader's snapshot, complete and verified.
#[derive(Debug)]
pub(super) struct ReceivedSnapshot {
    /// Identifies the snapshot by its last entry, size and checksum.
    pub(super) id: SnapshotId,
    /// The state machine loaded from the snapshot.
    pub(super) store: StateMachine,
}

/// Work for the snapshots stage.
#[derive(Debug)]
pub(super) enum SnapshotJob {
    /// From the core: snapshot messages to followers. The stage reads the chunk that each message
    /// names, and sends both.
    SendChunks(Vec<Envelope>),
    /// From the core: chunks of a leader's snapshot, to be stored.
    StoreChunks(Vec<SnapshotChunk>),
    /// From the core: snapshots that followers found damaged on arrival, to be read and verified.
    Verify(Vec<SnapshotId>),
    /// From the applier: an immutable view of the current state, to be written as a snapshot.
    Write(Box<View>),
    /// From the applier: a state that a leader's snapshot has replaced, to be freed here. Freeing a
    /// large one on the applier's thread would delay clients.
    Drop(Box<StateMachine>),
}

/// A write that one replica forwards to another.
#[derive(Debug)]
pub(super) struct ForwardedWrite {
    /// Whether this is the first copy of the write that was sent, with the leader's term, or a
    /// repeated copy, so that an earlier copy may already be in the log.
    pub(super) attempt: Attempt,
    /// The write, as the client sent it.
    pub(super) request: ClientRequest,
}

/// Clients' reads with a read index, which the leader confirmed after the reads had arrived. This
/// replica answers the reads once it has applied the log up to the read index.
#[derive(Debug)]
pub(super) struct IndexedReads {
    /// The commit index that the leader confirmed for these reads.
    pub(super) index: Index,
    /// Clients' reads that wait for the index to be applied.
    pub(super) reads: Vec<ClientRequest>,
}

/// The current Raft term and its leader, as far as this replica's core knows them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Leadership {
    /// The Raft term of this replica's core.
    pub(super) term: Term,
    /// The leader of the term; `None` while no leader is known, and during a leadership transfer.
    pub(super) leader: Option<NodeId>,
}

/// Report of what the applier has completed. The network passes the report on to the core once the
/// socket has accepted the replies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Applied {
    /// The index of the last log entry applied; `None` if no entry was applied, for example if only
    /// reads were answered.
    pub(super) index: Option<Index>,
    /// Total [`ApplyBatch::bytes`] of the completed batches, which are no longer in flight.
    pub(super) bytes: usize,
    /// The leader's snapshot that the applier has installed; `None` if it installed none. The core
    /// handles `index` first.
    pub(super) installed: Option<SnapshotId>,
    /// The replicated clock in the applied state.
    pub(super) clock: AppliedClock,
    /// The time in milliseconds since 1970 that the replicated clock must reach before the applier
    /// can answer the reads that wait for it; `None` if no reads wait.
    pub(super) clock_wanted: Option<u64>,
}

/// What the core sends to the network without waiting for an append job to become durable.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    /// Messages to peers. Dropped when the channel is full.
    pub(super) peers: Vec<Envelope>,
    /// Refusals of clients' requests. Kept for the next batch when the channel is full.
    pub(super) refusals: Vec<Refusal>,
    /// The new leadership; `None` if it has not changed since the last batch.
    pub(super) leadership: Option<Leadership>,
}

/// Jobs for the log writer, in order.
#[derive(Debug, Default)]
pub(super) struct AppendBatch {
    /// Append jobs, to be made durable in this order.
    pub(super) jobs: Vec<AppendJob>,
    /// Bytes of the jobs as the core counts them towards [`JOB_BYTES_MAX`].
    pub(super) bytes: usize,
}

/// Work for the applier.
#[derive(Debug, Default)]
pub(super) struct ApplyBatch {
    /// Committed entries to be applied, and reads to be answered after them.
    pub(super) job: ApplyJob,
    /// Reads with a read index, which may be larger than the index of the last entry in `job`.
    pub(super) indexed_reads: Vec<IndexedReads>,
    /// The replicated clock that the state must have reached before the applier answers the reads
    /// in `job`.
    pub(super) read_timestamp: ReadTimestamp,
    /// The leader known to the core when it sent this batch; `None` if unknown. Used only for
    /// replies in the protocol of the course's simulators, which name the leader.
    pub(super) leader: Option<NodeId>,
    /// Bytes of this batch as the core counts them towards [`JOB_BYTES_MAX`].
    pub(super) bytes: usize,
    /// A leader's snapshot to be installed before `job` is handled.
    pub(super) install: Option<Box<ReceivedSnapshot>>,
    /// Whether the applier must start taking a snapshot of its state now.
    pub(super) take_snapshot: bool,
}

/// The replicated clock at the time when the leader confirmed a read. The read is answered only
/// from a state whose clock has reached it, so that the read sees no key that had expired by then.
/// The default, zero, allows any state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct ReadTimestamp {
    /// The replicated clock when the leader confirmed the read, in milliseconds since 1970.
    pub(super) millis: u64,
    /// How often the replicated clock had been reset by `CLOCK RESET` when the leader confirmed the
    /// read.
    pub(super) resets: u64,
}

/// Replies to clients, with the key counts and the digest of the applied state.
#[derive(Debug, Default)]
pub(super) struct ReplyBatch {
    /// Replies to writes in log order, then replies to reads.
    pub(super) answers: Vec<Answer>,
    /// Replies to peers that requested a read index: the key of each peer's request, and the log
    /// index that the peer must have applied before it answers its client's read.
    pub(super) read_indexes: Vec<(RequestKey, Index)>,
    /// Pub/Sub messages and keyspace notifications for this replica's subscribers.
    pub(super) events: VecDeque<Event>,
    /// The leader that the replies to clients name, copied from [`ApplyBatch::leader`]; `None` if
    /// unknown.
    pub(super) leader: Option<NodeId>,
    /// Number of keys in the keyspace.
    pub(super) key_count: usize,
    /// Number of keys with an expiration.
    pub(super) expires_count: usize,
    /// Digest (hash) of the applied state. Replicas that have applied the log up to the same index
    /// have equal digests.
    pub(super) digest: u64,
    /// Report that the network sends to the core once the socket has accepted these replies.
    pub(super) applied: Applied,
}

/// The replies to a batch of requests.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The key of the batch that is answered.
    pub(super) key: RequestKey,
    /// The outcomes of the batch's operations, in order.
    pub(super) outcomes: Vec<Outcome>,
}

impl Applied {
    /// Adds to `self` the report `later`, on work that the applier completed after the work in
    /// `self`.
    pub(super) fn merge(&mut self, later: Applied) {
        self.index = later.index.or(self.index);
        self.bytes += later.bytes;
        self.installed = later.installed.or(self.installed);
        self.clock = later.clock;
        self.clock_wanted = later.clock_wanted;
    }
}

impl ApplyBatch {
    /// Returns whether the batch has no work for the applier.
    pub(super) fn is_empty(&self) -> bool {
        self.job.is_empty()
            && self.indexed_reads.is_empty()
            && self.install.is_none()
            && !self.take_snapshot
    }
}

/// The sending end of a channel to the network stage. A send also wakes the network stage, which
/// sleeps in `mio::Poll` and not in the channel.
#[derive(Debug)]
pub(super) struct ToNetwork<T> {
    sender: Sender<T>,
    /// The bit of this channel in `wake`, which tells the network that the channel has items.
    mark: u32,
    wake: Arc<Wake>,
}

impl<T> ToNetwork<T> {
    fn new(sender: Sender<T>, mark: u32, wake: &Arc<Wake>) -> ToNetwork<T> {
        ToNetwork { sender, mark, wake: Arc::clone(wake) }
    }

    /// Sends `item` without waiting.
    pub(super) fn try_send(&self, item: T) -> Result<(), TrySendError<T>> {
        self.sender.try_send(item)?;
        self.notify();
        Ok(())
    }

    /// Sends `item`; waits while the channel is full.
    pub(super) fn send(&self, item: T) -> Result<(), SendError<T>> {
        self.sender.send(item)?;
        self.notify();
        Ok(())
    }

    /// Returns whether the channel is full, so that [`ToNetwork::send`] would wait.
    pub(super) fn is_full(&self) -> bool {
        self.sender.is_full()
    }

    /// Asks the network stage to read its peers' sockets, and to record in [`PeersRead`] when it
    /// has read them.
    pub(super) fn read_peers(&self) {
        self.wake.notify(READ_PEERS).expect("a write to the waker's own descriptor");
    }

    fn notify(&self) {
        // A network that can't be woken would leave a replica that neither receives nor sends.
        self.wake.notify(self.mark).expect("a write to the waker's own descriptor");
    }
}

/// The sending end of the channel to the core, for the log writer and the snapshots stage. If core
/// and network share a thread, a send also wakes that thread from `mio::Poll`.
#[derive(Debug)]
pub(super) struct ToCore {
    sender: Sender<CoreItem>,
    wake: Option<Arc<Wake>>,
}

impl ToCore {
    /// Sends `item`; waits while the channel is full.
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

/// The latest instant at which the network had read everything from its peers' sockets: messages
/// that had arrived by then are in the core's queue, or were dropped.
///
/// The core checks it before it treats a peer as silent (election timeout, lost lease): after a
/// pause of this process, or while the network is busy, the peer's messages may still be in a
/// socket.
#[derive(Debug, Default)]
pub(super) struct PeersRead(AtomicU64);

impl PeersRead {
    /// Records `at`, an instant after which the network stage has read the peers' sockets until
    /// they were empty. Called by the network once the messages are in the core's queue.
    pub(super) fn note(&self, at: Instant) {
        self.0.store(at.0, Ordering::Release);
    }

    /// Returns the latest recorded instant: all peers' messages that had arrived by that instant
    /// are in the core's queue, or were dropped. Called by the core.
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
    pub(super) outbound: Receiver<Outbound>,
    pub(super) released: Receiver<Vec<Envelope>>,
}

/// The channel ends that the core stage owns: its receivers, and its senders to other stages.
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
    pub(super) to_snapshots: Sender<SnapshotJob>,
}

/// The channel ends that the snapshots stage owns: its receiver, and its senders to other stages.
#[derive(Debug)]
pub(super) struct SnapshotEnds {
    pub(super) jobs: Receiver<SnapshotJob>,
    pub(super) to_network: ToNetwork<Vec<Envelope>>,
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
}

/// Creates the channels of one replica. `core_sleeps_in_poll` says whether core and network share a
/// thread that sleeps in `mio::Poll`, so that senders to the core must wake it through `wake`.
pub(super) fn channels(wake: &Arc<Wake>, core_sleeps_in_poll: bool) -> Ends {
    let (to_core, inbox) = channel::bounded(QUEUE_LEN);
    let (requests_in, requests) = channel::bounded(QUEUE_LEN);
    let peers_read = Arc::<PeersRead>::default();
    let (outbound_in, outbound) = channel::bounded(QUEUE_LEN);
    let (to_log_writer, append_jobs) = channel::bounded(QUEUE_LEN);
    let (to_applier, apply_jobs) = channel::bounded(QUEUE_LEN);
    let (released_in, released) = channel::bounded(QUEUE_LEN);
    let (replies_in, replies) = channel::bounded(QUEUE_LEN);
    let (to_snapshots, snapshot_jobs) = channel::bounded(QUEUE_LEN);
    let to_core_with_wake =
        || ToCore { sender: to_core.clone(), wake: core_sleeps_in_poll.then(|| Arc::clone(wake)) };
    let release = || ToNetwork::new(released_in.clone(), RELEASED, wake);
    Ends {
        network: NetworkEnds {
            to_core: to_core.clone(),
            requests: requests_in,
            peers_read: Arc::clone(&peers_read),
            replies,
            outbound,
            released,
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
            to_snapshots,
        },
        snapshots: SnapshotEnds {
            jobs: snapshot_jobs,
            to_network: release(),
            to_core: to_core_with_wake(),
        },
    }
}
