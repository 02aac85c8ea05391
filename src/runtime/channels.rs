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

mod items;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::channel::{self, Receiver, SendError, Sender, TrySendError};

use crate::raft::Envelope;
use crate::types::Instant;

use crate::runtime::wake::{COMPLETIONS, OUTBOUND, READ_PEERS, RELEASED, REPLIES, Wake};

pub(super) use items::{
    AdminCall, AdminCaller, Answer, AppendBatch, Applied, ApplyBatch, CoreItem, Deletion,
    DiskSpaceReport, ForwardedWrite, IndexedReads, Leadership, Members, Outbound, ReadTimestamp,
    ReceivedSnapshot, ReplyBatch, Requests, ScriptJobs, ScriptResults, SnapshotEvent, SnapshotJob,
    SnapshotPart, SnapshotRead,
};

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
