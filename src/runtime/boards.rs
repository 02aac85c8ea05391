//! The state that the stages publish for each other besides the channels: one stage writes each
//! value, and other stages read the latest value at any time. Stages share no other memory, except
//! for the waker ([`Wake`](super::wake::Wake)) and the positions of
//! [`SnapshotScheduler`](super::stages::snapshot_scheduler::SnapshotScheduler).
//!
//! | board | written by | read by |
//! |---|---|---|
//! | [`StatusBoard`] | core | network, HTTP thread |
//! | [`RuntimeCounters`] | every stage | network, HTTP thread |
//! | [`MemoryBoard`] | core, applier, background deletion, network | the same, snapshot scheduler |
//! | [`DiskSpaceBoard`] | log writer | snapshots, network |
//! | [`SnapshotBoard`] | snapshots, applier; the growth: network | applier, core, network |
//! | [`ClockBoard`] | core; the reports of peers: network | network; the reports: core |
//! | [`ApplierBoard`] | network, applier | applier, network, HTTP thread |
//!
//! A value may be some milliseconds old, and values that are read together may have been written at
//! different times. Data that must not get lost, or must arrive in order, goes through a channel
//! instead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam::queue::ArrayQueue;
use parking_lot::Mutex;

use crate::kv::RecordedEvents;
use crate::raft::{SnapshotId, Status};
use crate::redis::LocalWrite;
use crate::runtime::long_script::LongScript;
use crate::storage::FreeSpace;
use crate::types::{Instant, NodeId};

use super::histogram::SharedHistogram;

/// Upper bound of the limit on the size of log entries in memory (1 GiB), unless the latest
/// snapshot is larger; then the size of that snapshot is the upper bound.
const LOG_BYTES_MAX: u64 = 1 << 30;
/// Lower bound of the limit on the size of log entries in memory (64 MiB), regardless of how low
/// `--maxmemory` is. A lower limit would not leave enough memory for the entries that are waiting
/// to be written to disk.
const LOG_BYTES_MIN: u64 = 64 << 20;
/// Maximum number of wall clock reports from peers that are queued for the Raft core. While the
/// queue is full, further reports are dropped; each peer soon sends a newer one.
const REPORTS_MAX: usize = 256;
/// Value that stands for an unknown difference between two clocks. Known differences are stored in
/// milliseconds.
const UNKNOWN: i64 = i64::MIN;

/// The latest status of the replica, which the Raft core publishes for other stages about every 100
/// ms.
#[derive(Debug, Default)]
pub(super) struct StatusBoard {
    latest: Mutex<Option<Status>>,
    write_count: AtomicU64,
}

impl StatusBoard {
    /// Publishes `status` as the latest status of the replica.
    pub(super) fn write(&self, status: Status) {
        *self.latest.lock() = Some(status);
        self.write_count.fetch_add(1, Ordering::Release);
    }

    /// Returns the number of times that the Raft core has published the status.
    pub(super) fn write_count(&self) -> u64 {
        self.write_count.load(Ordering::Acquire)
    }

    /// Returns the latest published status of the replica; `None` before the Raft core has
    /// published one.
    pub(super) fn read(&self) -> Option<Status> {
        self.latest.lock().clone()
    }
}

/// A counter that any stage may increment. It starts at 0 and never decreases.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Increments the counter by 1.
    pub(super) fn add_one(&self) {
        self.add(1);
    }

    /// Increments the counter by `count`.
    pub(super) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Returns the current count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters of a replica's runtime (its sockets, queues and clients), which count from the start of
/// the process. The consensus core has separate [`Counters`](crate::raft::Counters).
#[derive(Debug, Default)]
pub struct RuntimeCounters {
    /// Number of received messages that the network stage could not decode: malformed, damaged or
    /// too long.
    pub unreadable: Counter,
    /// Number of received messages that the network stage decoded and then ignored, such as
    /// messages for another replica.
    pub ignored: Counter,
    /// Number of messages from peers that the network stage dropped because the Raft core's queue
    /// was full.
    pub arrivals_dropped: Counter,
    /// Number of messages to peers that the Raft core, the log writer or the snapshots stage
    /// dropped because the queue to the network stage was full.
    pub outbound_dropped: Counter,
    /// Number of messages to peers that the network stage dropped because the peer was not
    /// connected, or because too many bytes were queued for its socket.
    pub unsent: Counter,
    /// Under a simulator of the university course: number of messages that could not be sent
    /// because they were too large for the socket, because the reply could not be encoded in the
    /// simulator's protocol, or because the send failed.
    pub send_failures: Counter,
    /// Number of syncs (fsync) of the log. One sync makes all waiting log entries durable.
    pub log_syncs: Counter,
    /// Durations of the syncs of the log.
    pub log_sync_times: SharedHistogram,
    /// Number of `AppendEntries` messages from leaders that the Raft core dropped because too many
    /// bytes were in flight to the log writer and the applier, or because the log entries in memory
    /// exceeded their limit in bytes.
    pub appends_dropped: Counter,
    /// Number of clients' requests that the Raft core refused with `TRYAGAIN`, for example because
    /// too many requests were waiting, or because the log entries in memory exceeded their limit in
    /// bytes. In the server, a batch of requests counts as one.
    pub requests_busy: Counter,
    /// Number of jobs for the snapshots stage, such as snapshot chunks to send or to store, that
    /// the Raft core dropped because the stage's queue was full.
    pub chunks_dropped: Counter,
    /// Number of batches of writes that a peer forwarded again and this replica dropped. Reasons:
    /// the deduplication table might not recognize an earlier copy in the log, this replica was not
    /// the leader, or a queue was full.
    pub repeats_dropped: Counter,
    /// Number of connections from peers that this replica closed because of an invalid hello (first
    /// message), a damaged frame, or too many connections.
    pub peers_refused: Counter,
    /// Number of client connections that the server accepted.
    pub clients_accepted: Counter,
    /// Number of client connections that the server refused because too many clients were
    /// connected.
    pub clients_refused: Counter,
    /// Number of client connections that the server closed; those that the client closed are not
    /// counted.
    pub clients_closed: Counter,
    /// Number of commands received from clients.
    pub commands: Counter,
    /// Number of clients' commands answered with the error `UNCERTAIN`, which means that the write
    /// may have been applied.
    pub uncertain: Counter,
    /// Number of clients' commands answered with the error `CLUSTERDOWN`, which means that no
    /// leader was known.
    pub cluster_down: Counter,
    /// Number of clients' commands refused with the error `MISCONF` because disk space was low.
    pub disk_full: Counter,
}

/// The size of values that were removed but not freed yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct DeletionSize {
    /// Number of values.
    pub(super) objects: usize,
    /// Approximate memory usage of the values, in bytes.
    pub(super) bytes: usize,
}

/// Memory usage of the keyspace and of the log, and the memory limit, shared between the stages.
#[derive(Debug, Default)]
pub(super) struct MemoryBoard {
    store_bytes: AtomicU64,
    log_bytes: AtomicU64,
    /// Number of the values that were removed from the keyspace but not freed yet, and their memory
    /// usage in bytes.
    unlinked_objects: AtomicU64,
    unlinked_bytes: AtomicU64,
    /// Number of collected values that were freed since the network last took the number.
    freed_objects: AtomicU64,
    /// The limit `--maxmemory` on the memory usage of keyspace, log and clients combined, in bytes;
    /// 0 for no limit.
    limit_bytes: AtomicU64,
    /// Memory usage of the clients in bytes, as the network stage has published it.
    clients_bytes: AtomicU64,
    /// Whether a client has asked for free memory to be returned to the operating system.
    trim_requested: AtomicBool,
    snapshots: Arc<SnapshotBoard>,
}

impl MemoryBoard {
    /// Creates the shared record of memory usage. `limit_bytes` is the limit for keyspace, log and
    /// clients combined (0 for no limit). `snapshots` supplies the size of the latest snapshot.
    pub(super) fn new(limit_bytes: u64, snapshots: Arc<SnapshotBoard>) -> MemoryBoard {
        MemoryBoard { limit_bytes: limit_bytes.into(), snapshots, ..MemoryBoard::default() }
    }

    /// Requests that free memory is returned to the operating system. Called by the network stage.
    pub(super) fn request_trim(&self) {
        self.trim_requested.store(true, Ordering::Relaxed);
    }

    /// Returns whether that was requested since the last call. Called by the background deletion.
    pub(super) fn take_trim_request(&self) -> bool {
        self.trim_requested.swap(false, Ordering::Relaxed)
    }

    /// Changes the memory limit, in bytes, for keyspace, log and clients combined; 0 for no limit.
    pub(super) fn set_limit(&self, limit_bytes: u64) {
        self.limit_bytes.store(limit_bytes, Ordering::Relaxed);
    }

    /// Publishes the memory usage of the keyspace, in bytes. Called by the applier.
    pub(super) fn note_store(&self, bytes: usize) {
        self.store_bytes.store(bytes as u64, Ordering::Relaxed);
    }

    /// Publishes the memory usage of the log entries in memory, in bytes. Called by the Raft core.
    pub(super) fn note_log(&self, bytes: usize) {
        self.log_bytes.store(bytes as u64, Ordering::Relaxed);
    }

    /// Adds values that were removed from the keyspace but not freed yet. Called by the applier,
    /// before it publishes the memory usage of the keyspace without them.
    pub(super) fn note_unlinked(&self, size: DeletionSize) {
        self.unlinked_objects.fetch_add(size.objects as u64, Ordering::Relaxed);
        self.unlinked_bytes.fetch_add(size.bytes as u64, Ordering::Relaxed);
    }

    /// Subtracts values that were freed.
    pub(super) fn note_freed(&self, size: DeletionSize) {
        self.unlinked_objects.fetch_sub(size.objects as u64, Ordering::Relaxed);
        self.unlinked_bytes.fetch_sub(size.bytes as u64, Ordering::Relaxed);
        self.freed_objects.fetch_add(size.objects as u64, Ordering::Relaxed);
    }

    /// Returns the memory usage, in bytes, of values that were removed but not freed yet.
    pub(super) fn unlinked_bytes(&self) -> u64 {
        self.unlinked_bytes.load(Ordering::Relaxed)
    }

    /// Publishes the memory usage of the clients, in bytes. Called by the network stage.
    pub(super) fn note_clients(&self, bytes: u64) {
        self.clients_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Returns the memory usage of keyspace, log and clients, in bytes.
    pub(super) fn used_bytes(&self) -> u64 {
        let (store, log) = self.store_and_log_bytes();
        store + log + self.clients_bytes.load(Ordering::Relaxed)
    }

    /// Returns the memory usage of the keyspace, including values that were removed but not freed
    /// yet, then that of the log entries in memory, each in bytes.
    pub(super) fn store_and_log_bytes(&self) -> (u64, u64) {
        let store =
            self.store_bytes.load(Ordering::Relaxed) + self.unlinked_bytes.load(Ordering::Relaxed);
        (store, self.log_bytes.load(Ordering::Relaxed))
    }

    /// Returns the number of values that were removed but not freed yet, and the number of those
    /// that were freed since the last call.
    pub(super) fn take_freed(&self) -> (u64, u64) {
        let unlinked = self.unlinked_objects.load(Ordering::Relaxed);
        (unlinked, self.freed_objects.swap(0, Ordering::Relaxed))
    }

    /// Returns the limit on log entries in memory, in bytes, above which a leader refuses writes:
    /// half of `--maxmemory`, but at least [`LOG_BYTES_MIN`], and at most the larger of
    /// [`LOG_BYTES_MAX`] and the size of the latest snapshot. The log reaches this limit only if
    /// snapshots fail, since otherwise it is compacted long before that.
    pub(super) fn log_bytes_max(&self) -> u64 {
        let most = LOG_BYTES_MAX.max(self.snapshots.bytes());
        match self.limit_bytes.load(Ordering::Relaxed) {
            0 => most,
            limit => most.min(limit / 2).max(LOG_BYTES_MIN),
        }
    }

    /// Returns the number of bytes by which the log may grow between the beginning of one snapshot
    /// and the completion of the next; the new entries stay in memory until then. This is half of
    /// [`MemoryBoard::log_bytes_max`], or a quarter of it if `--maxmemory` is set, because that
    /// option limits keyspace and log combined.
    pub(super) fn snapshot_log_bytes_max(&self) -> u64 {
        let is_limited = self.limit_bytes.load(Ordering::Relaxed) > 0;
        self.log_bytes_max() / if is_limited { 4 } else { 2 }
    }

    /// Returns the limit on log entries in memory, in bytes, above which a follower drops the
    /// leader's appends: 1.25 times [`MemoryBoard::log_bytes_max`], the limit above which a leader
    /// refuses writes. The difference allows for replicas that compact their logs at different
    /// indexes; without it, followers might drop a write that the leader has admitted, and the
    /// client would not learn the outcome of the write.
    pub(super) fn appended_bytes_max(&self) -> u64 {
        let most = self.log_bytes_max();
        most + most / 4
    }
}

/// The latest measurement of free disk space, which the log writer makes about every 100 ms and
/// other stages read.
#[derive(Debug, Default)]
pub(super) struct DiskSpaceBoard {
    free: AtomicU64,
    held: AtomicU64,
    /// Value of the option `--disk-reserve`, in bytes: disk space counts as low while fewer bytes
    /// than this are free. 0 for no reserve. Never changes.
    pub(super) reserve: u64,
}

impl DiskSpaceBoard {
    /// Creates the shared record of free disk space, with a disk reserve of `reserve` bytes. Until
    /// the first measurement, the free space is 0.
    pub(super) fn new(reserve: u64) -> DiskSpaceBoard {
        DiskSpaceBoard { reserve, ..DiskSpaceBoard::default() }
    }

    /// Publishes `space`, a new measurement of free disk space.
    pub(super) fn write(&self, space: FreeSpace) {
        self.free.store(space.free, Ordering::Relaxed);
        self.held.store(space.held, Ordering::Relaxed);
    }

    /// Returns the latest measurement of free disk space.
    pub(super) fn read(&self) -> FreeSpace {
        let (free, held) = (&self.free, &self.held);
        FreeSpace { free: free.load(Ordering::Relaxed), held: held.load(Ordering::Relaxed) }
    }

    /// Returns whether there is enough free disk space for a snapshot to write `bytes` more bytes:
    /// afterwards, an eighth of `--disk-reserve` must still be free. The file `reserve`, which
    /// holds a part of the reserve, does not count as free.
    pub(super) fn fits_snapshot(&self, bytes: u64) -> bool {
        self.read().free >= bytes.saturating_add(self.reserve / 8)
    }
}

/// How much the log must grow after the completion of the latest snapshot before the next one
/// begins: the larger of a percentage of that snapshot's size and a minimum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SnapshotGrowth {
    /// Log growth as a percentage of the latest snapshot's size; 0 if only the memory limit
    /// triggers snapshots.
    pub(super) percentage: u64,
    /// Minimum log growth in bytes, regardless of how small the latest snapshot is.
    pub(super) bytes_min: u64,
}

/// The latest snapshot of this replica, whether another snapshot is being taken, and the log growth
/// after which the next snapshot begins.
#[derive(Debug, Default)]
pub(super) struct SnapshotBoard {
    growth_percentage: AtomicU64,
    growth_bytes_min: AtomicU64,
    index: AtomicU64,
    bytes: AtomicU64,
    /// Time at which the latest snapshot was completed, or loaded at the start of the process, in
    /// seconds since 1970; 0 before the first snapshot.
    saved_at: AtomicU64,
    /// Time at which the running snapshot began, in seconds since 1970; 0 if no snapshot is
    /// running.
    begun_at: AtomicU64,
    /// Number of snapshots completed since the process started.
    saves: AtomicU64,
    /// Number of attempts to take a snapshot that have failed since the process started.
    failures: AtomicU64,
    /// Duration of the latest completed snapshot in seconds. Meaningless while `saves` is 0.
    last_seconds: AtomicU64,
    taking: AtomicBool,
    failed: AtomicBool,
    /// Whether a snapshot of this replica's state, with the right checksums, had other contents
    /// than the state's digest says.
    contradicts: AtomicBool,
}

/// The status of this replica's snapshots, as read from [`SnapshotBoard`] at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SnapshotStatus {
    /// The index of the last entry in the latest snapshot; 0 before the first snapshot.
    pub(super) index: u64,
    /// The size of the latest snapshot in bytes; 0 before the first snapshot.
    pub(super) bytes: u64,
    /// Time at which the latest snapshot was completed, or loaded at the start of the process, in
    /// seconds since 1970; 0 before the first snapshot.
    pub(super) saved_at: u64,
    /// Whether a snapshot is being taken now.
    pub(super) taking: bool,
    /// Whether the last attempt to take a snapshot failed.
    pub(super) failed: bool,
    /// Number of snapshots completed since the process started.
    pub(super) saves: u64,
    /// Number of attempts to take a snapshot that have failed since the process started.
    pub(super) failures: u64,
    /// Duration of the latest completed snapshot in seconds; `None` before the first.
    pub(super) last_seconds: Option<u64>,
    /// Time in seconds since the running snapshot began; `None` if no snapshot is running.
    pub(super) current_seconds: Option<u64>,
}

/// Returns the time of the wall clock in seconds since 1970.
fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl SnapshotBoard {
    /// Changes the log growth after which a snapshot begins.
    pub(super) fn set_growth(&self, growth: SnapshotGrowth) {
        self.growth_percentage.store(growth.percentage, Ordering::Relaxed);
        self.growth_bytes_min.store(growth.bytes_min, Ordering::Relaxed);
    }

    /// Records that the state of this replica contradicts its digest.
    pub(super) fn note_contradiction(&self) {
        self.contradicts.store(true, Ordering::Relaxed);
    }

    /// Returns whether the state of this replica has been found to contradict its digest since the
    /// last call.
    pub(super) fn take_contradiction(&self) -> bool {
        self.contradicts.load(Ordering::Relaxed) && self.contradicts.swap(false, Ordering::Relaxed)
    }

    /// Returns the log growth after which a snapshot begins.
    pub(super) fn growth(&self) -> SnapshotGrowth {
        SnapshotGrowth {
            percentage: self.growth_percentage.load(Ordering::Relaxed),
            bytes_min: self.growth_bytes_min.load(Ordering::Relaxed),
        }
    }

    /// Records that a snapshot has begun, because the applier has sent an immutable view of the
    /// state to the snapshots stage.
    pub(super) fn begin(&self) {
        self.begun_at.store(unix_seconds(), Ordering::Relaxed);
        self.taking.store(true, Ordering::Relaxed);
    }

    /// Returns whether a snapshot is being taken.
    pub(super) fn is_taking(&self) -> bool {
        self.taking.load(Ordering::Relaxed)
    }

    /// Returns the size of the latest snapshot in bytes; 0 before the first snapshot.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Records that the running snapshot has ended: it has failed if `failed` is true, and is
    /// complete otherwise.
    pub(super) fn end(&self, failed: bool) {
        self.failed.store(failed, Ordering::Relaxed);
        self.failures.fetch_add(failed.into(), Ordering::Relaxed);
        self.taking.store(false, Ordering::Relaxed);
    }

    /// Records that the running snapshot is complete, and its duration.
    pub(super) fn note_saved(&self) {
        let seconds = unix_seconds().saturating_sub(self.begun_at.load(Ordering::Relaxed));
        self.last_seconds.store(seconds, Ordering::Relaxed);
        self.saves.fetch_add(1, Ordering::Relaxed);
    }

    /// Publishes `latest` as this replica's latest snapshot: its index, its size, and the current
    /// time as the time of its completion.
    pub(super) fn note(&self, latest: SnapshotId) {
        self.index.store(latest.last.index.0, Ordering::Relaxed);
        self.bytes.store(latest.bytes, Ordering::Relaxed);
        self.saved_at.store(unix_seconds(), Ordering::Relaxed);
    }

    /// Returns the status of this replica's snapshots. Its fields are read one by one, so during an
    /// update they may belong to different snapshots.
    pub(super) fn read(&self) -> SnapshotStatus {
        let saves = self.saves.load(Ordering::Relaxed);
        let last_seconds = self.last_seconds.load(Ordering::Relaxed);
        let begun_at = self.begun_at.load(Ordering::Relaxed);
        SnapshotStatus {
            saves,
            failures: self.failures.load(Ordering::Relaxed),
            last_seconds: (saves > 0).then_some(last_seconds),
            current_seconds: self.is_taking().then(|| unix_seconds().saturating_sub(begun_at)),
            index: self.index.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            saved_at: self.saved_at.load(Ordering::Relaxed),
            taking: self.taking.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }
}

/// Clock readings that the Raft core publishes for other stages, and the queue in which the network
/// stage passes peers' wall clock reports to the core.
#[derive(Debug)]
pub(super) struct ClockBoard {
    own: Offset,
    agreed: Offset,
    replicated: Offset,
    jumps: AtomicU64,
    resets: AtomicU64,
    /// For each peer, by how many milliseconds its wall clock is ahead of this replica's; `None` if
    /// the peer has not reported its clock recently.
    peers: Mutex<Vec<(NodeId, Option<i64>)>>,
    /// Queue of wall clock reports from peers, for the Raft core. Each element holds the id of the
    /// peer, a reading of this replica's monotonic clock after the report was received, and the
    /// peer's wall clock in milliseconds since 1970.
    reports: ArrayQueue<(NodeId, Instant, u64)>,
}

/// Readings of the Raft core's clocks, all taken at the same instant, in milliseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClockReadings {
    /// This replica's wall clock in milliseconds since 1970. A jump of the clock is ignored until
    /// it has lasted for some time. `None` if the clock could not be read yet.
    pub(super) own: Option<u64>,
    /// The latest time, in milliseconds since 1970, that the wall clocks of a quorum have reached;
    /// `None` if the wall clocks of a quorum are not known.
    pub(super) agreed: Option<u64>,
    /// The replicated clock, which log entries advance and which decides when keys expire, in
    /// milliseconds since 1970.
    pub(super) replicated: u64,
    /// Number of jumps of this replica's wall clock since the process started, including jumps that
    /// were soon undone.
    pub(super) jumps: u64,
    /// Number of times that the command `CLOCK RESET` has reset the replicated clock (which decides
    /// when keys expire).
    pub(super) resets: u64,
}

impl Default for ClockBoard {
    /// Returns the clock readings that the stages share, all unknown at first.
    fn default() -> ClockBoard {
        ClockBoard {
            own: Offset::default(),
            agreed: Offset::default(),
            replicated: Offset::default(),
            jumps: AtomicU64::new(0),
            resets: AtomicU64::new(0),
            peers: Mutex::default(),
            reports: ArrayQueue::new(REPORTS_MAX),
        }
    }
}

impl ClockBoard {
    /// Queues a report of a peer's wall clock for the Raft core. Called by the network stage.
    /// `from` is the peer, `millis` its wall clock in milliseconds since 1970, and `now` a reading
    /// of this replica's monotonic clock after the report was received.
    pub(super) fn report(&self, from: NodeId, now: Instant, millis: u64) {
        // If the queue is full, the report is dropped: the core has enough reports.
        let _ = self.reports.push((from, now, millis));
    }

    /// Removes and returns the oldest queued report of a peer's wall clock; `None` if the queue is
    /// empty. A report contains the peer, a reading of this replica's monotonic clock after the
    /// report was received, and the peer's wall clock in milliseconds since 1970. Called by the
    /// Raft core.
    pub(super) fn next_report(&self) -> Option<(NodeId, Instant, u64)> {
        self.reports.pop()
    }

    /// Publishes clock readings taken at `now`. Called by the Raft core. `peers` has, for each
    /// peer, by how many milliseconds its wall clock is ahead of this replica's; `None` if unknown.
    pub(super) fn publish(
        &self,
        now: Instant,
        readings: ClockReadings,
        peers: impl Iterator<Item = (NodeId, Option<i64>)>,
    ) {
        self.own.write(now, readings.own);
        self.agreed.write(now, readings.agreed);
        self.replicated.write(now, Some(readings.replicated));
        self.jumps.store(readings.jumps, Ordering::Relaxed);
        // Stored after the replicated clock: a reader that sees this reset must not see an older
        // clock.
        self.resets.store(readings.resets, Ordering::Release);
        let mut published = self.peers.lock();
        published.clear();
        published.extend(peers);
    }

    /// Returns this replica's wall clock at `now`, in milliseconds since 1970; `None` if unknown. A
    /// jump of the clock is ignored until it has lasted for some time.
    pub(super) fn own(&self, now: Instant) -> Option<u64> {
        self.own.read(now)
    }

    /// Returns the latest time, in milliseconds since 1970, that the wall clocks of a quorum have
    /// reached at `now`; `None` if the wall clocks of a quorum are not known.
    pub(super) fn agreed(&self, now: Instant) -> Option<u64> {
        self.agreed.read(now)
    }

    /// Returns the replicated clock (which decides when keys expire) at `now`, in milliseconds
    /// since 1970; `None` before the Raft core has published it.
    pub(super) fn replicated(&self, now: Instant) -> Option<u64> {
        self.replicated.read(now)
    }

    /// Returns the number of jumps of this replica's wall clock and the number of resets of the
    /// replicated clock (which decides when keys expire), in this order.
    pub(super) fn jumps_and_resets(&self) -> (u64, u64) {
        (self.jumps.load(Ordering::Relaxed), self.resets.load(Ordering::Acquire))
    }

    /// Returns, for each peer, its id and by how many milliseconds its wall clock is ahead of this
    /// replica's (negative if behind); the latter is `None` if the peer has not reported its clock
    /// recently.
    pub(super) fn peers(&self) -> Vec<(NodeId, Option<i64>)> {
        self.peers.lock().clone()
    }
}

/// A clock, stored as its offset in milliseconds from the monotonic clock, so that a reader gets
/// the time at the instant of reading rather than at the last update. [`UNKNOWN`] if the clock is
/// not known.
#[derive(Debug)]
struct Offset(AtomicI64);

impl Default for Offset {
    fn default() -> Offset {
        Offset(AtomicI64::new(UNKNOWN))
    }
}

impl Offset {
    fn read(&self, now: Instant) -> Option<u64> {
        let offset = Some(self.0.load(Ordering::Relaxed)).filter(|offset| *offset != UNKNOWN)?;
        u64::try_from(offset.saturating_add(millis_of(now))).ok()
    }

    fn write(&self, now: Instant, millis: Option<u64>) {
        let known = millis.and_then(|millis| i64::try_from(millis).ok());
        self.0.store(known.map_or(UNKNOWN, |millis| millis - millis_of(now)), Ordering::Relaxed);
    }
}

fn millis_of(now: Instant) -> i64 {
    i64::try_from(now.0 / 1_000_000).expect("2^64 nanoseconds are 2^44 milliseconds")
}

/// Values that the network stage and the applier publish for each other.
///
/// The network stage publishes which events this replica's subscribers need: Pub/Sub messages,
/// keyspace notifications, both or neither. The applier reads this setting once in each iteration
/// of its loop, and collects only these events. The applier publishes since when its current pass
/// (iteration of its loop) has been running, so that the network stage notices operations that take
/// long.
#[derive(Debug, Default)]
pub(super) struct ApplierBoard {
    messages: AtomicBool,
    key_events: AtomicBool,
    misses: AtomicBool,
    /// Whether the applier must report changed keys, because clients wait for changes.
    changes: AtomicBool,
    /// Time at which the applier's current pass began, in nanoseconds of the monotonic clock; 0 if
    /// the applier is waiting for work.
    pass_began_at: AtomicU64,
    /// When the applier last applied a piece of a large batch, in nanoseconds of the monotonic
    /// clock; 0 before the first.
    piece_applied_at: AtomicU64,
    /// Whether the applier has found that its state is wrong and has marked the folder, so that
    /// the replica must stop.
    state_is_wrong: AtomicBool,
    /// What the applier must set in the state of this replica only; `None` if there is nothing.
    local_write: Mutex<Option<LocalWrite>>,
    long_script: LongScript,
}

impl ApplierBoard {
    /// Returns the script that runs on a thread of its own.
    pub(super) fn long_script(&self) -> &LongScript {
        &self.long_script
    }

    /// Sets which events the applier collects. It must collect Pub/Sub messages if any client of
    /// this replica has a subscription, and also keyspace notifications if they are enabled.
    pub(super) fn set(&self, recorded: RecordedEvents) {
        self.messages.store(recorded.messages, Ordering::Relaxed);
        self.key_events.store(recorded.keys, Ordering::Relaxed);
        self.misses.store(recorded.misses, Ordering::Relaxed);
    }

    /// Returns which events the applier must collect.
    pub(super) fn get(&self) -> RecordedEvents {
        RecordedEvents {
            messages: self.messages.load(Ordering::Relaxed),
            keys: self.key_events.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
        }
    }

    /// Sets whether the applier must report changed keys.
    pub(super) fn set_reports_changes(&self, reports: bool) {
        self.changes.store(reports, Ordering::Relaxed);
    }

    /// Returns whether the applier must report changed keys.
    pub(super) fn reports_changes(&self) -> bool {
        self.changes.load(Ordering::Relaxed)
    }

    /// Records that the applier begins a pass (iteration of its loop) at `now`.
    pub(super) fn begin_pass(&self, now: Instant) {
        self.pass_began_at.store(now.0, Ordering::Relaxed);
    }

    /// Records that the applier's pass has ended.
    pub(super) fn end_pass(&self) {
        self.pass_began_at.store(0, Ordering::Relaxed);
    }

    /// Records that the state is wrong, and that the folder is marked.
    pub(super) fn note_wrong_state(&self) {
        self.state_is_wrong.store(true, Ordering::Release);
    }

    /// Returns whether the state is wrong, so that the replica must stop.
    pub(super) fn state_is_wrong(&self) -> bool {
        self.state_is_wrong.load(Ordering::Acquire)
    }

    /// Makes the applier set a key in the state of this replica only (`DEBUG DIVERGE`).
    pub(super) fn write_locally(&self, write: LocalWrite) {
        *self.local_write.lock() = Some(write);
    }

    /// Returns what the applier must set in the state of this replica only.
    pub(super) fn take_local_write(&self) -> Option<LocalWrite> {
        self.local_write.lock().take()
    }

    /// Records that the applier has applied a piece of a large batch at `now`.
    pub(super) fn note_piece(&self, now: Instant) {
        self.piece_applied_at.store(now.0, Ordering::Relaxed);
    }

    /// Returns when the applier last applied a piece of a large batch; [`Instant::ZERO`] before the
    /// first.
    pub(super) fn piece_applied_at(&self) -> Instant {
        Instant(self.piece_applied_at.load(Ordering::Relaxed))
    }

    /// Returns for how long the applier's current pass has been running at `now`; zero if the
    /// applier is waiting for work.
    pub(super) fn pass_time(&self, now: Instant) -> Duration {
        match self.pass_began_at.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            began_at => now.since(Instant(began_at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raft_log_memory_share_is_half_of_maxmemory_within_bounds() {
        let board = MemoryBoard::default();
        assert_eq!(board.log_bytes_max(), LOG_BYTES_MAX);
        for (limit, log) in [(1, LOG_BYTES_MIN), (400 << 20, 200 << 20), (9 << 30, 1 << 30)] {
            board.set_limit(limit);
            assert_eq!(board.log_bytes_max(), log, "of {limit}");
        }
    }

    #[test]
    fn wall_clock_without_a_reading_is_not_extrapolated() {
        let at = |millis: u64| Instant(millis * 1_000_000);
        let board = ClockBoard::default();
        assert_eq!((board.own(at(5)), board.agreed(at(5))), (None, None));
        let mut readings =
            ClockReadings { own: Some(1_005), agreed: None, replicated: 9, jumps: 1, resets: 2 };
        let peers = [(NodeId(2), None), (NodeId(3), Some(-7))];
        board.publish(at(5), readings, peers.into_iter());
        assert_eq!((board.own(at(7)), board.agreed(at(7))), (Some(1_007), None));
        assert_eq!((board.replicated(at(6)), board.jumps_and_resets()), (Some(10), (1, 2)));
        assert_eq!(board.peers(), peers);
        readings.own = None;
        board.publish(at(7), readings, std::iter::empty());
        assert_eq!(board.own(at(7)), None);
    }

    #[test]
    fn wall_clock_reports_beyond_queue_capacity_are_dropped() {
        let board = ClockBoard::default();
        for millis in 0..2 * REPORTS_MAX as u64 {
            board.report(NodeId(2), Instant(millis), millis);
        }
        assert_eq!(board.next_report(), Some((NodeId(2), Instant(0), 0)));
        assert_eq!(std::iter::from_fn(|| board.next_report()).count(), REPORTS_MAX - 1);
    }
}
