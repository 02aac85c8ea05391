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

/// Most items in each channel.
pub(super) const QUEUE_LEN: usize = 64;
/// Most messages that the course's network reads from its socket in one pass.
pub(super) const BATCH_MESSAGES_MAX: usize = 64;
/// The same in bytes. With [`QUEUE_LEN`] it bounds what can wait for the core.
pub(super) const BATCH_BYTES_MAX: usize = 256 << 10;
/// Most requests that wait at the network for the core's queue.
pub(super) const HELD_REQUESTS_MAX: usize = 1_024;
/// Bytes of jobs in flight at which the core admits nothing that makes more jobs.
pub(super) const JOB_BYTES_MAX: usize = 32 << 20;

/// What the core receives besides clients' requests.
#[derive(Debug)]
pub(super) enum CoreItem {
    /// From the network: messages from peers.
    Peers(Vec<Envelope>),
    /// From the log writer: append jobs that are durable, in order.
    Persisted {
        /// One completion for each job.
        completions: Vec<Persisted>,
        /// The sum of [`AppendBatch::bytes`] of these jobs, in flight until now.
        bytes: usize,
    },
    /// From the network: replies whose bytes the socket has accepted.
    Applied(Applied),
    /// From the network: reads for which the leader has confirmed a read index.
    IndexedReads(IndexedReads),
    /// From the network: a client asks for a snapshot now (`BGSAVE`).
    TakeSnapshot,
    /// From the snapshots stage.
    Snapshot(SnapshotEvent),
    /// From the log writer: a change of free disk space that matters.
    DiskSpace(DiskSpaceReport),
    /// From the network: it has stopped, and all stages stop with it.
    Stop,
}

/// Requests for the core, in the order in which they arrived.
#[derive(Debug)]
pub(super) enum Requests {
    /// Requests of this replica's clients, and peers' requests for a read index.
    Clients(Vec<ClientRequest>),
    /// Writes that other replicas have forwarded to this one.
    Forwarded(Vec<ForwardedWrite>),
}

/// How much disk space there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct DiskSpaceReport {
    /// For the replica: whether space is low, and how many bytes of entries still fit.
    pub(super) space: DiskSpace,
    /// Whether less than twice the reserve is left, so that a snapshot should be taken.
    pub(super) is_scarce: bool,
    /// Free bytes, for log lines.
    pub(super) free_bytes: u64,
    /// How many segments the log has.
    pub(super) segment_count: u64,
}

/// What the snapshots stage reports to the core.
#[derive(Debug)]
pub(super) enum SnapshotEvent {
    /// A snapshot of this replica's own state is durable.
    Taken(SnapshotId),
    /// The latest snapshot is damaged: another one is needed.
    Lost,
    /// How much of a leader's snapshot has been stored.
    ChunkStored(ChunkStored),
    /// A leader's snapshot is complete and durable; the applier installs it.
    Received(Box<ReceivedSnapshot>),
}

/// A leader's snapshot, complete and verified.
#[derive(Debug)]
pub(super) struct ReceivedSnapshot {
    /// Its last entry, size and checksum.
    pub(super) id: SnapshotId,
    /// The state in it.
    pub(super) store: StateMachine,
}

/// Work for the snapshots stage.
#[derive(Debug)]
pub(super) enum SnapshotJob {
    /// From the core: messages to followers, to be sent with the chunks that they name.
    SendChunks(Vec<Envelope>),
    /// From the core: chunks of a leader's snapshot, to be stored.
    StoreChunks(Vec<SnapshotChunk>),
    /// From the core: snapshots to be verified, since followers found them damaged on arrival.
    Verify(Vec<SnapshotId>),
    /// From the applier: the state as it is now, to be written as a snapshot.
    Write(Box<View>),
    /// From the applier: a state that was replaced, to be freed. For a large one that takes longer
    /// than clients should wait.
    Drop(Box<StateMachine>),
}

/// A write that one replica forwards to another.
#[derive(Debug)]
pub(super) struct ForwardedWrite {
    /// Whether an earlier copy of it may be in the log.
    pub(super) attempt: Attempt,
    /// The write.
    pub(super) request: ClientRequest,
}

/// Reads that may be answered here once this replica has applied the log up to the read index that
/// the leader confirmed after they arrived.
#[derive(Debug)]
pub(super) struct IndexedReads {
    /// The read index.
    pub(super) index: Index,
    /// The reads.
    pub(super) reads: Vec<ClientRequest>,
}

/// The leader, as far as the core knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Leadership {
    /// The core's term.
    pub(super) term: Term,
    /// The leader of that term; `None` while none is known, and during a leadership transfer.
    pub(super) leader: Option<NodeId>,
}

/// What the applier has done. The core learns of it once the socket has accepted the replies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Applied {
    /// The last entry applied; `None` after reads only.
    pub(super) index: Option<Index>,
    /// [`ApplyBatch::bytes`], in flight until now.
    pub(super) bytes: usize,
    /// The leader's snapshot that was installed, if any. It counts after `index`.
    pub(super) installed: Option<SnapshotId>,
    /// The replicated clock in the state.
    pub(super) clock: AppliedClock,
    /// What that clock must show for the reads that wait for it, in milliseconds since 1970; `None`
    /// if none wait.
    pub(super) clock_wanted: Option<u64>,
}

/// What the core sends at once, without waiting for the log.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    /// Messages to peers.
    pub(super) peers: Vec<Envelope>,
    /// Requests that are refused.
    pub(super) refusals: Vec<Refusal>,
    /// The leader, if it has changed.
    pub(super) leadership: Option<Leadership>,
}

/// Jobs for the log writer, in order.
#[derive(Debug, Default)]
pub(super) struct AppendBatch {
    /// The jobs.
    pub(super) jobs: Vec<AppendJob>,
    /// Their size as the core counts it.
    pub(super) bytes: usize,
}

/// Work for the applier.
#[derive(Debug, Default)]
pub(super) struct ApplyBatch {
    /// Committed entries, and reads to be answered after them.
    pub(super) job: ApplyJob,
    /// Reads with a read index, which may be beyond the job's entries.
    pub(super) indexed_reads: Vec<IndexedReads>,
    /// What the replicated clock must show in the state before it answers the job's reads.
    pub(super) read_timestamp: ReadTimestamp,
    /// The leader when the core sent this batch; replies of the course's protocol name it.
    pub(super) leader: Option<NodeId>,
    /// Its size as the core counts it.
    pub(super) bytes: usize,
    /// A leader's snapshot, to be installed before the job.
    pub(super) install: Option<Box<ReceivedSnapshot>>,
    /// Whether a snapshot is to be taken now.
    pub(super) take_snapshot: bool,
}

/// The replicated clock when reads were confirmed: they must not see a key that had expired by
/// then. The default, zero, admits any state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct ReadTimestamp {
    /// Milliseconds since 1970.
    pub(super) millis: u64,
    /// How often the clock had been reset.
    pub(super) resets: u64,
}

/// Replies to clients, with what the network publishes of the state.
#[derive(Debug, Default)]
pub(super) struct ReplyBatch {
    /// Replies to writes in the order of the log, then replies to reads.
    pub(super) answers: Vec<Answer>,
    /// Read indexes that peers asked for.
    pub(super) read_indexes: Vec<(RequestKey, Index)>,
    /// Pub/Sub messages and keyspace events for subscribers at this replica.
    pub(super) events: VecDeque<Event>,
    /// [`ApplyBatch::leader`].
    pub(super) leader: Option<NodeId>,
    /// How many keys there are.
    pub(super) key_count: usize,
    /// How many of them have an expiration.
    pub(super) expires_count: usize,
    /// The digest of the state, for comparison with other replicas.
    pub(super) digest: u64,
    /// For the core, once the socket has accepted these replies.
    pub(super) applied: Applied,
}

/// The reply to one request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The request.
    pub(super) key: RequestKey,
    /// Its outcome.
    pub(super) outcome: Outcome,
}

impl Applied {
    /// Adds what was done after this.
    pub(super) fn merge(&mut self, later: Applied) {
        self.index = later.index.or(self.index);
        self.bytes += later.bytes;
        self.installed = later.installed.or(self.installed);
        self.clock = later.clock;
        self.clock_wanted = later.clock_wanted;
    }
}

impl ApplyBatch {
    /// Whether the batch has no work.
    pub(super) fn is_empty(&self) -> bool {
        self.job.is_empty()
            && self.indexed_reads.is_empty()
            && self.install.is_none()
            && !self.take_snapshot
    }
}

/// The sending end of a channel to the network, which sleeps in `Poll` and must be woken.
#[derive(Debug)]
pub(super) struct ToNetwork<T> {
    sender: Sender<T>,
    /// This channel's mark in `wake`.
    mark: u32,
    wake: Arc<Wake>,
}

impl<T> ToNetwork<T> {
    fn new(sender: Sender<T>, mark: u32, wake: &Arc<Wake>) -> ToNetwork<T> {
        ToNetwork { sender, mark, wake: Arc::clone(wake) }
    }

    /// Sends `item`, unless the channel is full.
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

    /// Whether [`ToNetwork::send`] would wait.
    pub(super) fn is_full(&self) -> bool {
        self.sender.is_full()
    }

    /// Asks the network to read its peers' sockets, and to note in [`PeersRead`] when it has.
    pub(super) fn read_peers(&self) {
        self.wake.notify(READ_PEERS).expect("a write to the waker's own descriptor");
    }

    fn notify(&self) {
        // A network that can't be woken would leave a replica that neither receives nor sends.
        self.wake.notify(self.mark).expect("a write to the waker's own descriptor");
    }
}

/// The sending end of the channel to the core, for stages other than the network. A core that
/// shares its thread with the network sleeps in `Poll` too, and must be woken.
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

    /// Whether [`ToCore::send`] would wait.
    pub(super) fn is_full(&self) -> bool {
        self.sender.is_full()
    }
}

/// When the network last found nothing more to read from peers: everything that had arrived by then
/// is in the core's queue, or was dropped.
///
/// The core checks it before it acts on the silence of peers. After a pause of this process, or
/// while its network is busy, their messages may still be in its sockets.
#[derive(Debug, Default)]
pub(super) struct PeersRead(AtomicU64);

impl PeersRead {
    /// The network's side: `at` was read from the clock before the sockets were read, and what they
    /// held is in the core's queue.
    pub(super) fn note(&self, at: Instant) {
        self.0.store(at.0, Ordering::Release);
    }

    /// The core's side: messages that had arrived by this instant are in the core's queue now.
    pub(super) fn at(&self) -> Instant {
        Instant(self.0.load(Ordering::Acquire))
    }
}

/// The network's ends of the channels.
#[derive(Debug)]
pub(super) struct NetworkEnds {
    pub(super) to_core: Sender<CoreItem>,
    pub(super) requests: Sender<Requests>,
    pub(super) peers_read: Arc<PeersRead>,
    pub(super) replies: Receiver<ReplyBatch>,
    pub(super) outbound: Receiver<Outbound>,
    pub(super) released: Receiver<Vec<Envelope>>,
}

/// The core's ends of the channels.
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

/// The log writer's ends of the channels.
#[derive(Debug)]
pub(super) struct LogWriterEnds {
    pub(super) jobs: Receiver<AppendBatch>,
    pub(super) to_network: ToNetwork<Vec<Envelope>>,
    pub(super) to_core: ToCore,
}

/// The applier's ends of the channels.
#[derive(Debug)]
pub(super) struct ApplierEnds {
    pub(super) jobs: Receiver<ApplyBatch>,
    pub(super) to_network: ToNetwork<ReplyBatch>,
    pub(super) to_snapshots: Sender<SnapshotJob>,
}

/// The snapshots stage's ends of the channels.
#[derive(Debug)]
pub(super) struct SnapshotEnds {
    pub(super) jobs: Receiver<SnapshotJob>,
    pub(super) to_network: ToNetwork<Vec<Envelope>>,
    pub(super) to_core: ToCore,
}

/// Both ends of all channels, by stage.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) network: NetworkEnds,
    pub(super) core: CoreEnds,
    pub(super) log_writer: LogWriterEnds,
    pub(super) applier: ApplierEnds,
    pub(super) snapshots: SnapshotEnds,
}

/// Creates the channels of one replica. `core_sleeps_in_poll` says whether the core shares the
/// network's thread, so that stages on other threads must wake that.
pub(super) fn channels(wake: &Arc<Wake>, core_sleeps_in_poll: bool) -> Ends {
    let (to_core, inbox) = channel::bounded(QUEUE_LEN);
    let (requests_in, requests) = channel::bounded(QUEUE_LEN);
    let peers_read = Arc::<PeersRead>::default();
    let (departures_in, outbound) = channel::bounded(QUEUE_LEN);
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
            to_network: ToNetwork::new(departures_in, OUTBOUND, wake),
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
