//! Every channel between the stages: what travels on it, how much may wait, and what happens when
//! it is full. One item is a batch, never a single request.
//!
//! ```text
//!          core_inbox, requests           append_jobs
//!   network ----------------> core ------------------------> log writer
//!    ^ ^ ^                     | |                             |   |
//!    | | |     departures      | |  apply_jobs                 |   | core_inbox
//!    | | +---------------------+ +-------------> applier       |   +---------> core
//!    | |                                            |          |
//!    | |                  replies                   |          |
//!    | +--------------------------------------------+          |
//!    |                    released                             |
//!    +---------------------------------------------------------+
//!
//!   core, applier ---- snapshot_work ----> snapshots ---- core_inbox ----> core
//!                                              +--------- released -------> network
//! ```
//!
//! Each holds up to [`QUEUE_LEN`] items. What happens when it is full:
//!
//! - `requests`, [`Requests`] from the network: everything that clients ask, in order. It has a
//!   channel of its own so that peers' messages and completions never wait behind it; the core
//!   receives the next item only when it has handled the last one. Clients' requests are put in
//!   only while it is under half full; else they wait at the network, [`HELD_REQUESTS_MAX`] of
//!   them, and beyond that the network stops reading. Writes that peers pass on are left with the
//!   peers while it is half full. Where it is full all the same, a first copy is answered busy,
//!   and another is dropped and counted; its client hears that nobody knows.
//! - `core_inbox`, [`CoreItem::Peers`] from the network: dropped and counted.
//! - `core_inbox`, [`CoreItem::Persisted`] and [`CoreItem::DiskSpace`] from the log writer: wait, for
//!   the core never does.
//! - `core_inbox`, [`CoreItem::Applied`] and [`CoreItem::IndexedReads`] from the network: wait at the
//!   network for its next pass.
//! - `core_inbox`, [`CoreItem::TakeSnapshot`] from the network: waits there for its next pass.
//! - `core_inbox`, [`CoreItem::Snapshot`] from the snapshots stage: waits, for the core never
//!   does.
//! - `departures`, [`Outbound`]: peers' messages are dropped and counted; refusals, and the news
//!   who leads, wait at the core for its next pass.
//! - `append_jobs`, [`AppendBatch`], and `apply_jobs`, [`ApplyBatch`]: jobs wait at the core and
//!   join the next batch; see below.
//! - `released`, messages to peers that a job has let go, or that carry a snapshot's chunks:
//!   dropped and counted.
//! - `snapshot_work`, [`SnapshotJob`] from the core: chunks are dropped and counted, for a leader
//!   sends again what nobody tells it the arrival of. From the applier: a view is not taken, and
//!   taken later; a state to be freed is freed there and then.
//! - `replies`, [`ReplyBatch`]: the applier waits for the network, which takes none while its
//!   socket is full.
//!
//! While the log writer is some mebibytes behind, what is committed waits at the core, and with it
//! the clients: they go as fast as this log, not as fast as the others' logs.
//!
//! What waits at the core is bounded, too: it counts the bytes of all jobs that are under way, and
//! at [`JOB_BYTES_MAX`] it drops appends of peers and answers requests busy, both counted. So a
//! stuck log writer or applier, or a simulator that reads nothing, ends in refusals and not in
//! memory, and the core still blocks nowhere but in its one receive.
//!
//! Whoever waits for another stage waits for one further down this list, and the core for none:
//! applier -> network, log writer -> core, snapshots -> core, network -> nobody. There is no
//! circle.

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

/// Items on each channel.
pub(super) const QUEUE_LEN: usize = 64;
/// Most messages that the network takes from its socket before it hands them over.
pub(super) const BATCH_MESSAGES_MAX: usize = 64;
/// The same in bytes: with [`QUEUE_LEN`] it bounds what can wait at the core.
pub(super) const BATCH_BYTES_MAX: usize = 256 << 10;
/// Most requests that wait at the network for the core's queue.
pub(super) const HELD_REQUESTS_MAX: usize = 1_024;
/// Bytes of jobs under way at which the core takes in no more of what makes jobs.
pub(super) const JOB_BYTES_MAX: usize = 32 << 20;

/// What the core receives besides clients' requests.
#[derive(Debug)]
pub(super) enum CoreItem {
    /// From the network: messages from peers.
    Peers(Vec<Envelope>),
    /// From the log writer: jobs that are done, in order.
    Persisted {
        /// Which.
        completions: Vec<Persisted>,
        /// [`AppendBatch::bytes`] of those jobs, given back.
        bytes: usize,
    },
    /// From the network: replies that the socket has.
    Applied(Applied),
    /// From the network: reads that the leader has named a place in the log for.
    IndexedReads(IndexedReads),
    /// From the network: somebody wants a snapshot now.
    TakeSnapshot,
    /// From the snapshots stage.
    Snapshot(SnapshotEvent),
    /// From the log writer: how much room there is now.
    DiskSpace(DiskSpaceReport),
    /// From the network: it has ended, and so do all.
    Stop,
}

/// Requests for the core, in the order in which they came.
#[derive(Debug)]
pub(super) enum Requests {
    /// Of clients here, and read indexes for peers.
    Clients(Vec<ClientRequest>),
    /// Writes that have been passed on.
    Forwarded(Vec<ForwardedWrite>),
}

/// How much room the disk has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct DiskSpaceReport {
    /// For the replica.
    pub(super) room: DiskSpace,
    /// Less than twice the reserve is left: time to cut the log.
    pub(super) tight: bool,
    /// Bytes that are free, for the log.
    pub(super) free: u64,
    /// Segments of the log.
    pub(super) segments: u64,
}

/// What the snapshots stage has done.
#[derive(Debug)]
pub(super) enum SnapshotEvent {
    /// One of this replica's own state is durable.
    Taken(SnapshotId),
    /// The latest is damaged: another is needed.
    Lost,
    /// So much of a leader's is here.
    ChunkStored(ChunkStored),
    /// A leader's is durable, and this is the state in it, for the applier.
    Received(Box<ReceivedSnapshot>),
}

/// A leader's snapshot on its way into the state.
#[derive(Debug)]
pub(super) struct ReceivedSnapshot {
    /// Which one.
    pub(super) snapshot: SnapshotId,
    /// The state in it.
    pub(super) store: StateMachine,
}

/// Work for the snapshots stage.
#[derive(Debug)]
pub(super) enum SnapshotJob {
    /// From the core: messages that lack their chunks.
    SendChunks(Vec<Envelope>),
    /// From the core: chunks of a leader's snapshot.
    StoreChunks(Vec<SnapshotChunk>),
    /// From the core: what a follower had and threw away may be damaged here.
    Verify(Vec<SnapshotId>),
    /// From the applier: the state as it is now, to be written.
    Write(Box<View>),
    /// From the applier: a state that is not needed any more. To free a large one takes longer
    /// than clients should wait.
    Drop(Box<StateMachine>),
}

/// A write that went from one replica to another, or was meant to.
#[derive(Debug)]
pub(super) struct ForwardedWrite {
    /// Whether another copy of it may be in the log.
    pub(super) attempt: Attempt,
    /// The write.
    pub(super) request: ClientRequest,
}

/// Reads that may be answered here once the state has come as far as the leader's was when it
/// still led after they came.
#[derive(Debug)]
pub(super) struct IndexedReads {
    /// That far.
    pub(super) index: Index,
    /// The reads.
    pub(super) reads: Vec<ClientRequest>,
}

/// Who leads, as the core knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Leadership {
    /// In which term.
    pub(super) term: Term,
    /// Who; `None` while nobody is known to.
    pub(super) leader: Option<NodeId>,
}

/// What the core may forget about once the replies are with the socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Applied {
    /// The last entry; `None` if there were only reads.
    pub(super) index: Option<Index>,
    /// [`ApplyBatch::bytes`], given back.
    pub(super) bytes: usize,
    /// A leader's snapshot that is in the state now. It counts after `index`.
    pub(super) installed: Option<SnapshotId>,
    /// The replicated clock in the state as it is now.
    pub(super) clock: AppliedClock,
    /// What it must show for reads that wait; `None` if none wait.
    pub(super) clock_wanted: Option<u64>,
}

/// What leaves the core at once.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    /// To peers.
    pub(super) peers: Vec<Envelope>,
    /// To clients.
    pub(super) refusals: Vec<Refusal>,
    /// Who leads now, if that has changed.
    pub(super) leadership: Option<Leadership>,
}

/// Jobs for the log writer, in order.
#[derive(Debug, Default)]
pub(super) struct AppendBatch {
    /// The jobs.
    pub(super) jobs: Vec<AppendJob>,
    /// Their size, as the core counts it.
    pub(super) bytes: usize,
}

/// Work for the applier.
#[derive(Debug, Default)]
pub(super) struct ApplyBatch {
    /// Committed entries, then reads.
    pub(super) job: ApplyJob,
    /// Reads that wait for a place in the log, maybe beyond the job's.
    pub(super) indexed_reads: Vec<IndexedReads>,
    /// What the replicated clock must show in the state for the job's reads.
    pub(super) read_timestamp: ReadTimestamp,
    /// Whom the core believed to lead when it handed this over; answers name it.
    pub(super) leader: Option<NodeId>,
    /// The job's size, as the core counts it.
    pub(super) bytes: usize,
    /// A leader's snapshot, which comes before the job.
    pub(super) install: Option<Box<ReceivedSnapshot>>,
    /// Somebody wants a snapshot now.
    pub(super) save: bool,
}

/// When reads were let go, by the replicated clock: no key may be shown to them that had expired
/// then. Zero for any state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct ReadTimestamp {
    /// What it showed.
    pub(super) millis: u64,
    /// How often it had been reset.
    pub(super) resets: u64,
}

/// Answers on their way to clients.
#[derive(Debug, Default)]
pub(super) struct ReplyBatch {
    /// In the order of the log, then the reads.
    pub(super) answers: Vec<Answer>,
    /// Peers' questions how far the state must be for a read that came when they asked.
    pub(super) read_indexes: Vec<(RequestKey, Index)>,
    /// What happened, for who listens here.
    pub(super) events: VecDeque<Event>,
    /// From [`ApplyBatch::leader`].
    pub(super) leader: Option<NodeId>,
    /// How many keys there are now.
    pub(super) key_count: usize,
    /// How many of them end some day.
    pub(super) expires_count: usize,
    /// The state as a number.
    pub(super) digest: u64,
    /// What the core may know once these answers are with the socket.
    pub(super) applied: Applied,
}

/// One answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// To which request.
    pub(super) key: RequestKey,
    /// What came of it.
    pub(super) outcome: Outcome,
}

impl Applied {
    /// Both in one, `later` being the later one.
    pub(super) fn merge(&mut self, later: Applied) {
        self.index = later.index.or(self.index);
        self.bytes += later.bytes;
        self.installed = later.installed.or(self.installed);
        self.clock = later.clock;
        self.clock_wanted = later.clock_wanted;
    }
}

impl ApplyBatch {
    /// Whether there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        self.job.is_empty() && self.indexed_reads.is_empty() && self.install.is_none() && !self.save
    }
}

/// The sending end of a channel to the network, which sleeps in `Poll` and must be rung.
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

    /// Puts `item` in if there is room.
    pub(super) fn try_send(&self, item: T) -> Result<(), TrySendError<T>> {
        self.sender.try_send(item)?;
        self.notify();
        Ok(())
    }

    /// Puts `item` in, and waits for room if there is none.
    pub(super) fn send(&self, item: T) -> Result<(), SendError<T>> {
        self.sender.send(item)?;
        self.notify();
        Ok(())
    }

    /// Whether [`ToNetwork::send`] would wait.
    pub(super) fn is_full(&self) -> bool {
        self.sender.is_full()
    }

    /// Has the network look at its peers' sockets, and say when it has, see [`PeersRead`].
    pub(super) fn read_peers(&self) {
        self.wake.notify(READ_PEERS).expect("a write to the waker's own descriptor");
    }

    fn notify(&self) {
        // A network that can't be woken leaves a replica that hears and says nothing.
        self.wake.notify(self.mark).expect("a write to the waker's own descriptor");
    }
}

/// The sending end of the channel to the core for who is not the network. On a thread that the core
/// shares with the network it sleeps in `Poll` too, and must be rung.
#[derive(Debug)]
pub(super) struct ToCore {
    sender: Sender<CoreItem>,
    wake: Option<Arc<Wake>>,
}

impl ToCore {
    /// Puts `item` in, and waits for room if there is none.
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

/// When the network last found nothing more to read from peers: everything that had arrived by
/// then is in the core's queue, or was dropped.
///
/// The core asks before it acts on the silence of peers. Where this process was stopped, or its
/// network was busy, their messages may lie in its sockets.
#[derive(Debug, Default)]
pub(super) struct PeersRead(AtomicU64);

impl PeersRead {
    /// The network's side: `at` is a reading of the clock from before it looked at the sockets, and
    /// what it found is in the core's queue.
    pub(super) fn note(&self, at: Instant) {
        self.0.store(at.0, Ordering::Release);
    }

    /// The core's side: what was there by this instant is found in the queue by a look at it from
    /// now on.
    pub(super) fn at(&self) -> Instant {
        Instant(self.0.load(Ordering::Acquire))
    }
}

/// The network's ends.
#[derive(Debug)]
pub(super) struct NetworkEnds {
    pub(super) to_core: Sender<CoreItem>,
    pub(super) requests: Sender<Requests>,
    pub(super) peers_read: Arc<PeersRead>,
    pub(super) replies: Receiver<ReplyBatch>,
    pub(super) outbound: Receiver<Outbound>,
    pub(super) released: Receiver<Vec<Envelope>>,
}

/// The core's ends.
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

/// The log writer's ends.
#[derive(Debug)]
pub(super) struct LogWriterEnds {
    pub(super) jobs: Receiver<AppendBatch>,
    pub(super) to_network: ToNetwork<Vec<Envelope>>,
    pub(super) to_core: ToCore,
}

/// The applier's ends.
#[derive(Debug)]
pub(super) struct ApplierEnds {
    pub(super) jobs: Receiver<ApplyBatch>,
    pub(super) to_network: ToNetwork<ReplyBatch>,
    pub(super) to_snapshots: Sender<SnapshotJob>,
}

/// The snapshots stage's ends.
#[derive(Debug)]
pub(super) struct SnapshotEnds {
    pub(super) work: Receiver<SnapshotJob>,
    pub(super) to_network: ToNetwork<Vec<Envelope>>,
    pub(super) to_core: ToCore,
}

/// The ends of all stages.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) network: NetworkEnds,
    pub(super) core: CoreEnds,
    pub(super) log_writer: LogWriterEnds,
    pub(super) applier: ApplierEnds,
    pub(super) snapshots: SnapshotEnds,
}

/// All channels of one replica, as the ends that each stage owns. `core_sleeps_in_poll` tells
/// whether a stage on a thread of its own has to ring for the core.
pub(super) fn channels(wake: &Arc<Wake>, core_sleeps_in_poll: bool) -> Ends {
    let (to_core, inbox) = channel::bounded(QUEUE_LEN);
    let (requests_in, requests) = channel::bounded(QUEUE_LEN);
    let peers_read = Arc::<PeersRead>::default();
    let (departures_in, outbound) = channel::bounded(QUEUE_LEN);
    let (to_log_writer, append_jobs) = channel::bounded(QUEUE_LEN);
    let (to_applier, apply_jobs) = channel::bounded(QUEUE_LEN);
    let (released_in, released) = channel::bounded(QUEUE_LEN);
    let (replies_in, replies) = channel::bounded(QUEUE_LEN);
    let (to_snapshots, work) = channel::bounded(QUEUE_LEN);
    let ring_core =
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
            to_core: ring_core(),
        },
        applier: ApplierEnds {
            jobs: apply_jobs,
            to_network: ToNetwork::new(replies_in, REPLIES, wake),
            to_snapshots,
        },
        snapshots: SnapshotEnds { work, to_network: release(), to_core: ring_core() },
    }
}
