//! What the stages publish for each other beside the path of requests: status, counters, memory,
//! disk space, snapshots, clocks.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::raft::{SnapshotId, Status};
use crate::storage::FreeSpace;
use crate::types::{Instant, NodeId};

/// The core's latest view of itself, beside the path of requests: written now and then, read by
/// whoever wants to look inside.
#[derive(Debug, Default)]
pub(super) struct StatusBoard(Mutex<Option<Status>>);

impl StatusBoard {
    /// Puts a newer view there.
    pub(super) fn write(&self, status: Status) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
    }

    /// The latest view; `None` before the first one.
    pub(super) fn read(&self) -> Option<Status> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One count that any stage may raise.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub(super) fn add_one(&self) {
        self.add(1);
    }

    /// So many more.
    pub(super) fn add(&self, more: usize) {
        self.0.fetch_add(more as u64, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counts of one replica's runtime since it started. The core's own are in
/// [`Counters`](crate::raft::Counters).
#[derive(Debug, Default)]
pub struct RuntimeCounters {
    /// Network: messages that could not be read: no JSON, wrong fields, damaged bytes, too long.
    pub unreadable: Counter,
    /// Network: readable messages that ask for nothing, such as those for another replica.
    pub ignored: Counter,
    /// Network: peers' messages dropped on arrival because the core's queue was full.
    pub arrivals_dropped: Counter,
    /// Core and log writer: messages to peers dropped because the network's queue was full.
    pub outbound_dropped: Counter,
    /// Network: messages to peers dropped because the socket took no more.
    pub unsent: Counter,
    /// Network: messages larger than the socket can carry, answers to nobody, failed sends.
    pub send_failures: Counter,
    /// Log writer: syncs of the log, each for all jobs that waited.
    pub log_syncs: Counter,
    /// Core: appends dropped because the log writer or the applier was too far behind.
    pub appends_dropped: Counter,
    /// Core: requests answered busy for the same reason.
    pub requests_busy: Counter,
    /// Core: a snapshot's chunks, to be sent or kept, dropped because the snapshots stage was too
    /// far behind.
    pub chunks_dropped: Counter,
    /// Core: writes sent again and dropped, because an earlier copy might not be recognised.
    pub again_dropped: Counter,
    /// Network: connections of peers closed: another cluster or version, an older incarnation, a
    /// damaged frame, too many.
    pub peers_refused: Counter,
    /// Network: connections of clients taken in.
    pub clients_accepted: Counter,
    /// Network: clients refused because there were too many.
    pub clients_refused: Counter,
    /// Network: clients closed for what they sent.
    pub clients_closed: Counter,
    /// Network: commands of clients.
    pub commands: Counter,
    /// Network: commands answered `UNCERTAIN`.
    pub uncertain: Counter,
    /// Network: commands answered `CLUSTERDOWN`.
    pub cluster_down: Counter,
    /// Network: commands answered `MISCONF`, for want of room on disks.
    pub disk_full: Counter,
}

/// How much room the disk has, at a recent moment: written by the log writer, read by the snapshots
/// stage and by whoever looks inside.
#[derive(Debug, Default)]
pub(super) struct DiskSpaceBoard {
    free: AtomicU64,
    held: AtomicU64,
    /// The setting, which never changes.
    pub(super) reserve: u64,
}

impl DiskSpaceBoard {
    pub(super) fn new(reserve: u64) -> DiskSpaceBoard {
        DiskSpaceBoard { reserve, ..DiskSpaceBoard::default() }
    }

    pub(super) fn write(&self, room: FreeSpace) {
        self.free.store(room.free, Ordering::Relaxed);
        self.held.store(room.held, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> FreeSpace {
        let (free, held) = (&self.free, &self.held);
        FreeSpace { free: free.load(Ordering::Relaxed), held: held.load(Ordering::Relaxed) }
    }

    /// Whether so many bytes of a snapshot can be written: that may take of the reserve what no
    /// file holds, but not all.
    pub(super) fn fits_snapshot(&self, bytes: u64) -> bool {
        self.read().free >= bytes.saturating_add(self.reserve / 8)
    }
}

/// The log in memory may take so much, or as much as the latest snapshot, whichever is more.
const LOG_BYTES_MAX: u64 = 1 << 30;
/// And so much, however little memory there may be in all: it must hold what is under way.
const LOG_BYTES_MIN: u64 = 64 << 20;

/// The words.
#[derive(Debug, Default)]
pub(super) struct MemoryBoard {
    store_bytes: AtomicU64,
    log_bytes: AtomicU64,
    /// What the operator allows for all; 0 for any amount.
    most_bytes: AtomicU64,
    saved: Arc<SnapshotBoard>,
}

impl MemoryBoard {
    /// The operator allows so much, and the size of the latest snapshot can be read there.
    pub(super) fn new(most_bytes: u64, saved: Arc<SnapshotBoard>) -> MemoryBoard {
        let most_bytes = most_bytes.into();
        MemoryBoard { most_bytes, saved, ..MemoryBoard::default() }
    }

    /// The operator allows so much; 0 for any amount.
    pub(super) fn allow(&self, most_bytes: u64) {
        self.most_bytes.store(most_bytes, Ordering::Relaxed);
    }

    /// The state takes so much.
    pub(super) fn note_store(&self, bytes: usize) {
        self.store_bytes.store(bytes as u64, Ordering::Relaxed);
    }

    /// The log in memory takes so much.
    pub(super) fn note_log(&self, bytes: usize) {
        self.log_bytes.store(bytes as u64, Ordering::Relaxed);
    }

    /// What state and log take.
    pub(super) fn store_and_log(&self) -> (u64, u64) {
        (self.store_bytes.load(Ordering::Relaxed), self.log_bytes.load(Ordering::Relaxed))
    }

    /// Bytes of the log in memory at which a leader takes no more writes in: half of what the
    /// operator allows, within the bounds above. Snapshots are taken long before, so it is reached
    /// only where they fail.
    pub(super) fn log_bytes_max(&self) -> u64 {
        let most = LOG_BYTES_MAX.max(self.saved.bytes());
        match self.most_bytes.load(Ordering::Relaxed) {
            0 => most,
            allowed => most.min(allowed / 2).max(LOG_BYTES_MIN),
        }
    }

    /// Bytes of the log in memory at which a follower drops appends. More, for replicas cut their
    /// logs at places of their own: a leader that takes a write in can't know that the others would
    /// not, and nobody could tell what becomes of it.
    pub(super) fn appended_bytes_max(&self) -> u64 {
        let most = self.log_bytes_max();
        most + most / 4
    }
}

/// What others may know of the snapshots: written here, read by the applier and by whoever looks
/// inside.
#[derive(Debug, Default)]
pub(super) struct SnapshotBoard {
    index: AtomicU64,
    bytes: AtomicU64,
    /// When the latest was taken, in seconds since 1970.
    saved_at: AtomicU64,
    taking: AtomicBool,
    failed: AtomicBool,
}

/// The same at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SnapshotStatus {
    pub(super) index: u64,
    pub(super) bytes: u64,
    pub(super) saved_at: u64,
    pub(super) taking: bool,
    pub(super) failed: bool,
}

impl SnapshotBoard {
    /// The applier hands a view over.
    pub(super) fn begin(&self) {
        self.taking.store(true, Ordering::Relaxed);
    }

    /// Whether one is being taken.
    pub(super) fn is_taking(&self) -> bool {
        self.taking.load(Ordering::Relaxed)
    }

    /// The latest one's size.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// None is being taken any more; whether that was a failure.
    pub(super) fn end(&self, failed: bool) {
        self.failed.store(failed, Ordering::Relaxed);
        self.taking.store(false, Ordering::Relaxed);
    }

    /// There is a new one.
    pub(super) fn note(&self, latest: SnapshotId) {
        self.index.store(latest.last.index.0, Ordering::Relaxed);
        self.bytes.store(latest.bytes, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.saved_at.store(now.as_secs(), Ordering::Relaxed);
    }

    /// All of it; what is written meanwhile may show in part.
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

/// Reports of peers that wait for the core; more are dropped, for newer ones follow.
pub(super) const REPORTS_MAX: usize = 256;

/// An offset that is not known.
const UNKNOWN: i64 = i64::MIN;

/// What network and core tell each other of clocks, beside the path of requests. Offsets are to
/// this process's monotonic clock, in milliseconds.
#[derive(Debug)]
pub(super) struct ClockBoard {
    pub(super) own: AtomicI64,
    pub(super) agreed: AtomicI64,
    pub(super) replicated: AtomicI64,
    pub(super) jumps: AtomicU64,
    pub(super) resets: AtomicU64,
    /// From peers, for the core.
    pub(super) reports: Mutex<Vec<(NodeId, Instant, u64)>>,
    pub(super) has_reports: AtomicBool,
    /// How far each peer's wall clock is ahead of the own one.
    pub(super) peers: Mutex<Vec<(NodeId, Option<i64>)>>,
}

impl Default for ClockBoard {
    fn default() -> ClockBoard {
        ClockBoard {
            own: AtomicI64::new(UNKNOWN),
            agreed: AtomicI64::new(UNKNOWN),
            replicated: AtomicI64::new(UNKNOWN),
            jumps: AtomicU64::new(0),
            resets: AtomicU64::new(0),
            reports: Mutex::default(),
            has_reports: AtomicBool::new(false),
            peers: Mutex::default(),
        }
    }
}

impl ClockBoard {
    /// Takes in a peer's report of its wall clock.
    pub(super) fn hear(&self, from: NodeId, now: Instant, millis: u64) {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        if reports.len() < REPORTS_MAX {
            reports.push((from, now, millis));
        }
        self.has_reports.store(true, Ordering::Release);
    }

    /// The own wall clock, jumps filtered out, in milliseconds since 1970; `None` if unknown.
    pub(super) fn own(&self, now: Instant) -> Option<u64> {
        read(&self.own, now)
    }

    /// What a quorum's wall clocks have reached.
    pub(super) fn agreed(&self, now: Instant) -> Option<u64> {
        read(&self.agreed, now)
    }

    /// What the replicated clock shows by now, as far as this replica knows.
    pub(super) fn replicated(&self, now: Instant) -> Option<u64> {
        read(&self.replicated, now)
    }

    /// Jumps of the own wall clock, and resets of the replicated clock.
    pub(super) fn jumps_and_resets(&self) -> (u64, u64) {
        (self.jumps.load(Ordering::Relaxed), self.resets.load(Ordering::Acquire))
    }

    /// How far each peer's wall clock is ahead of the own one, in milliseconds.
    pub(super) fn peers(&self) -> Vec<(NodeId, Option<i64>)> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn millis_of(now: Instant) -> i64 {
    i64::try_from(now.0 / 1_000_000).expect("2^64 nanoseconds are 2^44 milliseconds")
}

fn read(offset: &AtomicI64, now: Instant) -> Option<u64> {
    let offset = Some(offset.load(Ordering::Relaxed)).filter(|offset| *offset != UNKNOWN)?;
    u64::try_from(offset.saturating_add(millis_of(now))).ok()
}

pub(super) fn write_offset(offset: &AtomicI64, now: Instant, millis: Option<u64>) {
    let known = millis.and_then(|millis| i64::try_from(millis).ok());
    offset.store(known.map_or(UNKNOWN, |millis| millis - millis_of(now)), Ordering::Relaxed);
}

/// Who listens. A change counts from the applier's next pass.
#[derive(Debug, Default)]
pub(super) struct SubscriberBoard {
    messages: AtomicBool,
    keys: AtomicBool,
}

impl SubscriberBoard {
    /// From now on.
    pub(super) fn set(&self, messages: bool, keys: bool) {
        self.messages.store(messages, Ordering::Relaxed);
        self.keys.store(keys, Ordering::Relaxed);
    }

    /// To messages, and to what befalls keys.
    pub(super) fn get(&self) -> (bool, bool) {
        (self.messages.load(Ordering::Relaxed), self.keys.load(Ordering::Relaxed))
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logs_part_is_half_of_what_is_allowed_within_bounds() {
        let board = MemoryBoard::default();
        assert_eq!(board.log_bytes_max(), LOG_BYTES_MAX);
        for (allowed, log) in [(1, LOG_BYTES_MIN), (400 << 20, 200 << 20), (9 << 30, 1 << 30)] {
            board.allow(allowed);
            assert_eq!(board.log_bytes_max(), log, "of {allowed}");
        }
    }
}
