//! What the stages publish for each other beside the channels: the latest value of something that
//! one stage writes and others read whenever they like. The one place of shared memory between the
//! stages, but for the waker ([`Wake`](super::wake::Wake)) and the positions of
//! [`SnapshotScheduler`](super::stages::snapshot_scheduler::SnapshotScheduler).
//!
//! | board | written by | read by |
//! |---|---|---|
//! | [`StatusBoard`] | core | network |
//! | [`RuntimeCounters`] | every stage | network |
//! | [`MemoryBoard`] | core, applier, network | core, network, snapshot scheduler |
//! | [`DiskSpaceBoard`] | log writer | snapshots, network |
//! | [`SnapshotBoard`] | snapshots, applier | applier, core, network |
//! | [`ClockBoard`] | core; the reports of peers: network | network; the reports: core |
//! | [`SubscriberBoard`] | network | applier |
//!
//! A value may be some milliseconds old, and values that are read together may be of different
//! moments. What must not get lost, or must come in order, goes through a channel instead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crossbeam::queue::ArrayQueue;
use parking_lot::Mutex;

use crate::raft::{SnapshotId, Status};
use crate::storage::FreeSpace;
use crate::types::{Instant, NodeId};

/// The log in memory may take this much, or as much as the latest snapshot, whichever is more.
const LOG_BYTES_MAX: u64 = 1 << 30;
/// The log's share of memory never falls below this: it must hold the jobs in flight.
const LOG_BYTES_MIN: u64 = 64 << 20;
/// Wall clock reports of peers that may wait for the core. More are dropped: newer ones follow.
const REPORTS_MAX: usize = 256;
/// Stands for an offset that is not known.
const UNKNOWN: i64 = i64::MIN;

/// The latest status of the replica. The core writes it about every 100 ms, which is seldom enough
/// for a lock.
#[derive(Debug, Default)]
pub(super) struct StatusBoard(Mutex<Option<Status>>);

impl StatusBoard {
    /// Publishes a newer status.
    pub(super) fn write(&self, status: Status) {
        *self.0.lock() = Some(status);
    }

    /// The latest status; `None` before the core's first pass.
    pub(super) fn read(&self) -> Option<Status> {
        self.0.lock().clone()
    }
}

/// A counter that any stage may raise. It starts at 0 and never falls.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub(super) fn add_one(&self) {
        self.add(1);
    }

    /// Adds `count`.
    pub(super) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of one replica's runtime since the process started. Those of the consensus core are
/// [`Counters`](crate::raft::Counters).
#[derive(Debug, Default)]
pub struct RuntimeCounters {
    /// Network: messages that could not be decoded: malformed, damaged or too long.
    pub unreadable: Counter,
    /// Network: messages that were decoded and ignored, such as those for another replica.
    pub ignored: Counter,
    /// Network: messages from peers dropped because the core's queue was full.
    pub arrivals_dropped: Counter,
    /// Core, log writer, snapshots: messages to peers dropped because the network's queue was full.
    pub outbound_dropped: Counter,
    /// Network: messages to peers dropped because the socket's buffer was full.
    pub unsent: Counter,
    /// Network: messages too large for the socket, replies without an addressee, failed sends.
    pub send_failures: Counter,
    /// Log writer: syncs of the log, each for all jobs that were waiting.
    pub log_syncs: Counter,
    /// Core: appends dropped because too many bytes were in flight, or the log in memory was full.
    pub appends_dropped: Counter,
    /// Core: requests refused with `TRYAGAIN` for the same reasons.
    pub requests_busy: Counter,
    /// Core: batches of snapshot chunks dropped because the queue of the snapshots stage was full.
    pub chunks_dropped: Counter,
    /// Core, network: repeated writes dropped because an earlier copy might not be recognised.
    pub repeats_dropped: Counter,
    /// Network: connections from peers closed because of their hello, a damaged frame, or too many
    /// of them.
    pub peers_refused: Counter,
    /// Network: client connections accepted.
    pub clients_accepted: Counter,
    /// Network: client connections refused because there were too many.
    pub clients_refused: Counter,
    /// Network: client connections closed by the server.
    pub clients_closed: Counter,
    /// Network: commands received from clients.
    pub commands: Counter,
    /// Network: commands answered with `UNCERTAIN`.
    pub uncertain: Counter,
    /// Network: commands answered with `CLUSTERDOWN`.
    pub cluster_down: Counter,
    /// Network: commands answered with `MISCONF` for want of disk space.
    pub disk_full: Counter,
}

/// How much memory the state and the log take, and how much the log may.
#[derive(Debug, Default)]
pub(super) struct MemoryBoard {
    store_bytes: AtomicU64,
    log_bytes: AtomicU64,
    /// `--maxmemory`; 0 for no limit.
    limit_bytes: AtomicU64,
    snapshots: Arc<SnapshotBoard>,
}

impl MemoryBoard {
    /// A board with the operator's limit for everything together (0: none), and the size of the
    /// latest snapshot.
    pub(super) fn new(limit_bytes: u64, snapshots: Arc<SnapshotBoard>) -> MemoryBoard {
        MemoryBoard { limit_bytes: limit_bytes.into(), snapshots, ..MemoryBoard::default() }
    }

    /// Changes the limit for everything together; 0 for none.
    pub(super) fn set_limit(&self, limit_bytes: u64) {
        self.limit_bytes.store(limit_bytes, Ordering::Relaxed);
    }

    /// Publishes the size of the state (the applier's side).
    pub(super) fn note_store(&self, bytes: usize) {
        self.store_bytes.store(bytes as u64, Ordering::Relaxed);
    }

    /// Publishes the size of the log in memory (the core's side).
    pub(super) fn note_log(&self, bytes: usize) {
        self.log_bytes.store(bytes as u64, Ordering::Relaxed);
    }

    /// The bytes of the state and of the log in memory.
    pub(super) fn store_and_log_bytes(&self) -> (u64, u64) {
        (self.store_bytes.load(Ordering::Relaxed), self.log_bytes.load(Ordering::Relaxed))
    }

    /// Bytes of the log in memory at which a leader refuses writes: half of the operator's limit,
    /// within the bounds above. Snapshots are due long before, so this is reached only when they
    /// fail.
    pub(super) fn log_bytes_max(&self) -> u64 {
        let most = LOG_BYTES_MAX.max(self.snapshots.bytes());
        match self.limit_bytes.load(Ordering::Relaxed) {
            0 => most,
            limit => most.min(limit / 2).max(LOG_BYTES_MIN),
        }
    }

    /// Bytes of the log in memory at which a follower drops appends: a quarter more than
    /// [`MemoryBoard::log_bytes_max`]. Replicas compact their logs at different indexes, and a
    /// leader that admits a write can't know that its followers would not, which would leave the
    /// write's outcome open.
    pub(super) fn appended_bytes_max(&self) -> u64 {
        let most = self.log_bytes_max();
        most + most / 4
    }
}

/// How much disk space is free, as the log writer measured it at most 100 ms ago.
#[derive(Debug, Default)]
pub(super) struct DiskSpaceBoard {
    free: AtomicU64,
    held: AtomicU64,
    /// `--disk-reserve` in bytes; 0 for none. It never changes.
    pub(super) reserve: u64,
}

impl DiskSpaceBoard {
    /// A board for a reserve of this many bytes, with no space free before the first measurement.
    pub(super) fn new(reserve: u64) -> DiskSpaceBoard {
        DiskSpaceBoard { reserve, ..DiskSpaceBoard::default() }
    }

    /// Publishes a measurement.
    pub(super) fn write(&self, space: FreeSpace) {
        self.free.store(space.free, Ordering::Relaxed);
        self.held.store(space.held, Ordering::Relaxed);
    }

    /// The latest measurement.
    pub(super) fn read(&self) -> FreeSpace {
        let (free, held) = (&self.free, &self.held);
        FreeSpace { free: free.load(Ordering::Relaxed), held: held.load(Ordering::Relaxed) }
    }

    /// Whether `bytes` of a snapshot may be written. A snapshot may use the part of the reserve
    /// that the reserve file does not hold, except for its last eighth.
    pub(super) fn fits_snapshot(&self, bytes: u64) -> bool {
        self.read().free >= bytes.saturating_add(self.reserve / 8)
    }
}

/// The latest snapshot of this replica, and whether the next one is being taken.
#[derive(Debug, Default)]
pub(super) struct SnapshotBoard {
    index: AtomicU64,
    bytes: AtomicU64,
    /// When the latest was taken, in seconds since 1970.
    saved_at: AtomicU64,
    taking: AtomicBool,
    failed: AtomicBool,
}

/// A reading of [`SnapshotBoard`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SnapshotStatus {
    /// The last entry in the latest snapshot; 0 before the first snapshot.
    pub(super) index: u64,
    /// Its size in bytes.
    pub(super) bytes: u64,
    /// When it was taken, in seconds since 1970.
    pub(super) saved_at: u64,
    /// Whether a snapshot is being taken now.
    pub(super) taking: bool,
    /// Whether the last attempt failed.
    pub(super) failed: bool,
}

impl SnapshotBoard {
    /// Notes that the applier has handed over a view of the state to be written.
    pub(super) fn begin(&self) {
        self.taking.store(true, Ordering::Relaxed);
    }

    /// Whether a snapshot is being taken.
    pub(super) fn is_taking(&self) -> bool {
        self.taking.load(Ordering::Relaxed)
    }

    /// The size of the latest snapshot in bytes; 0 before the first one.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Notes that no snapshot is being taken any more, and whether the last attempt failed.
    pub(super) fn end(&self, failed: bool) {
        self.failed.store(failed, Ordering::Relaxed);
        self.taking.store(false, Ordering::Relaxed);
    }

    /// Publishes the latest snapshot, which was completed now.
    pub(super) fn note(&self, latest: SnapshotId) {
        self.index.store(latest.last.index.0, Ordering::Relaxed);
        self.bytes.store(latest.bytes, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.saved_at.store(now.as_secs(), Ordering::Relaxed);
    }

    /// All values, field by field: not all of them need be of the same snapshot.
    pub(super) fn read(&self) -> SnapshotStatus {
        SnapshotStatus {
            index: self.index.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            saved_at: self.saved_at.load(Ordering::Relaxed),
            taking: self.taking.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }
}

/// What the core knows of all clocks, and, in the other direction, the wall clocks that peers have
/// reported.
#[derive(Debug)]
pub(super) struct ClockBoard {
    own: Offset,
    agreed: Offset,
    replicated: Offset,
    jumps: AtomicU64,
    resets: AtomicU64,
    /// How many milliseconds each peer's wall clock is ahead of the own one; [`UNKNOWN`] without a
    /// recent report.
    peers: Box<[(NodeId, AtomicI64)]>,
    /// Reports for the core: from whom, the monotonic clock when it came, the peer's wall clock.
    reports: ArrayQueue<(NodeId, Instant, u64)>,
}

/// The core's clocks at one moment; wall clocks in milliseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClockReadings {
    /// The own wall clock without its jumps; `None` if it could not be read yet.
    pub(super) own: Option<u64>,
    /// The latest time that the wall clocks of a quorum have reached; `None` if too few are known.
    pub(super) agreed: Option<u64>,
    /// The replicated clock.
    pub(super) replicated: u64,
    /// How often the own wall clock has jumped.
    pub(super) jumps: u64,
    /// How often the replicated clock was reset.
    pub(super) resets: u64,
}

impl ClockBoard {
    /// A board of a replica with these peers, on which no clock is known yet.
    pub(super) fn new(peers: &[NodeId]) -> ClockBoard {
        ClockBoard {
            own: Offset::default(),
            agreed: Offset::default(),
            replicated: Offset::default(),
            jumps: AtomicU64::new(0),
            resets: AtomicU64::new(0),
            peers: peers.iter().map(|&peer| (peer, AtomicI64::new(UNKNOWN))).collect(),
            reports: ArrayQueue::new(REPORTS_MAX),
        }
    }

    /// The network's side: a peer has reported its wall clock, `millis` since 1970. `now` was read
    /// after the report was received.
    pub(super) fn report(&self, from: NodeId, now: Instant, millis: u64) {
        // A full queue drops the report: the core has enough of them.
        let _ = self.reports.push((from, now, millis));
    }

    /// The core's side: the oldest report that it has not taken yet.
    pub(super) fn next_report(&self) -> Option<(NodeId, Instant, u64)> {
        self.reports.pop()
    }

    /// The core's side: publishes the clocks at `now`, and for each peer by how many milliseconds
    /// its wall clock is ahead of the own one.
    pub(super) fn publish(
        &self,
        now: Instant,
        readings: ClockReadings,
        ahead_of_own: impl Fn(NodeId) -> Option<i64>,
    ) {
        self.own.write(now, readings.own);
        self.agreed.write(now, readings.agreed);
        self.replicated.write(now, Some(readings.replicated));
        self.jumps.store(readings.jumps, Ordering::Relaxed);
        // After the clock: a reader that sees this reset must not see an older clock.
        self.resets.store(readings.resets, Ordering::Release);
        for (peer, ahead) in &self.peers {
            ahead.store(ahead_of_own(*peer).unwrap_or(UNKNOWN), Ordering::Relaxed);
        }
    }

    /// The own wall clock without its jumps, in milliseconds since 1970; `None` if unknown.
    pub(super) fn own(&self, now: Instant) -> Option<u64> {
        self.own.read(now)
    }

    /// The latest time that the wall clocks of a quorum have reached; `None` if too few are known.
    pub(super) fn agreed(&self, now: Instant) -> Option<u64> {
        self.agreed.read(now)
    }

    /// The replicated clock in milliseconds since 1970; `None` before the core's first pass.
    pub(super) fn replicated(&self, now: Instant) -> Option<u64> {
        self.replicated.read(now)
    }

    /// How often the own wall clock has jumped, and how often the replicated clock was reset.
    pub(super) fn jumps_and_resets(&self) -> (u64, u64) {
        (self.jumps.load(Ordering::Relaxed), self.resets.load(Ordering::Acquire))
    }

    /// By how many milliseconds each peer's wall clock is ahead of the own one; `None` without a
    /// recent report.
    pub(super) fn peers(&self) -> Vec<(NodeId, Option<i64>)> {
        let known = |ahead: &AtomicI64| {
            Some(ahead.load(Ordering::Relaxed)).filter(|ahead| *ahead != UNKNOWN)
        };
        self.peers.iter().map(|(peer, ahead)| (*peer, known(ahead))).collect()
    }
}

/// A wall clock as its difference to the monotonic clock in milliseconds, so that a reader gets the
/// time of its own reading and not that of the last write.
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

/// Which events subscribers at this replica want. The applier collects no others.
/// A change counts from the applier's next pass.
#[derive(Debug, Default)]
pub(super) struct SubscriberBoard {
    messages: AtomicBool,
    key_events: AtomicBool,
}

impl SubscriberBoard {
    /// Publishes whether a client subscribes to anything, and whether keyspace notifications are
    /// on.
    pub(super) fn set(&self, messages: bool, key_events: bool) {
        self.messages.store(messages, Ordering::Relaxed);
        self.key_events.store(key_events, Ordering::Relaxed);
    }

    /// Whether Pub/Sub messages, and whether keyspace notifications, are to be collected.
    pub(super) fn get(&self) -> (bool, bool) {
        (self.messages.load(Ordering::Relaxed), self.key_events.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_share_is_half_of_the_limit_within_bounds() {
        let board = MemoryBoard::default();
        assert_eq!(board.log_bytes_max(), LOG_BYTES_MAX);
        for (limit, log) in [(1, LOG_BYTES_MIN), (400 << 20, 200 << 20), (9 << 30, 1 << 30)] {
            board.set_limit(limit);
            assert_eq!(board.log_bytes_max(), log, "of {limit}");
        }
    }

    #[test]
    fn clock_board_extrapolates_known_clocks_only() {
        let at = |millis: u64| Instant(millis * 1_000_000);
        let board = ClockBoard::new(&[NodeId(2), NodeId(3)]);
        assert_eq!((board.own(at(5)), board.agreed(at(5))), (None, None));
        let mut readings =
            ClockReadings { own: Some(1_005), agreed: None, replicated: 9, jumps: 1, resets: 2 };
        board.publish(at(5), readings, |peer| (peer == NodeId(3)).then_some(-7));
        assert_eq!((board.own(at(7)), board.agreed(at(7))), (Some(1_007), None));
        assert_eq!((board.replicated(at(6)), board.jumps_and_resets()), (Some(10), (1, 2)));
        assert_eq!(board.peers(), [(NodeId(2), None), (NodeId(3), Some(-7))]);
        readings.own = None;
        board.publish(at(7), readings, |_| None);
        assert_eq!(board.own(at(7)), None);
    }

    #[test]
    fn reports_beyond_the_queue_are_dropped() {
        let board = ClockBoard::new(&[NodeId(2)]);
        for millis in 0..2 * REPORTS_MAX as u64 {
            board.report(NodeId(2), Instant(millis), millis);
        }
        assert_eq!(board.next_report(), Some((NodeId(2), Instant(0), 0)));
        assert_eq!(std::iter::from_fn(|| board.next_report()).count(), REPORTS_MAX - 1);
    }
}
