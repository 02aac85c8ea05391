//! What the runtime dropped, refused or could not read, counted. Shared words beside the path of
//! requests: written with relaxed additions, read by whoever wants to look inside.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::raft::Status;
use crate::storage::Room;

/// The core's latest view of itself, beside the path of requests: written now and then, read by
/// whoever wants to look inside.
#[derive(Debug, Default)]
pub(super) struct Board(Mutex<Option<Status>>);

impl Board {
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
pub struct Count(AtomicU64);

impl Count {
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
pub struct Counts {
    /// Network: messages that could not be read: no JSON, wrong fields, damaged bytes, too long.
    pub unreadable: Count,
    /// Network: readable messages that ask for nothing, such as those for another replica.
    pub ignored: Count,
    /// Network: peers' messages dropped on arrival because the core's queue was full.
    pub arrivals_dropped: Count,
    /// Core and log writer: messages to peers dropped because the network's queue was full.
    pub departures_dropped: Count,
    /// Network: messages to peers dropped because the socket took no more.
    pub unsent: Count,
    /// Network: messages larger than the socket can carry, answers to nobody, failed sends.
    pub send_failures: Count,
    /// Log writer: syncs of the log, each for all jobs that waited.
    pub log_syncs: Count,
    /// Core: appends dropped because the log writer or the applier was too far behind.
    pub appends_dropped: Count,
    /// Core: requests answered busy for the same reason.
    pub requests_busy: Count,
    /// Core: a snapshot's chunks, to be sent or kept, dropped because the snapshots stage was too
    /// far behind.
    pub chunks_dropped: Count,
    /// Core: writes sent again and dropped, because an earlier copy might not be recognised.
    pub again_dropped: Count,
    /// Network: connections of peers closed: another cluster or version, an older incarnation, a
    /// damaged frame, too many.
    pub peers_refused: Count,
    /// Network: connections of clients taken in.
    pub clients_accepted: Count,
    /// Network: clients refused because there were too many.
    pub clients_refused: Count,
    /// Network: clients closed for what they sent.
    pub clients_closed: Count,
    /// Network: commands of clients.
    pub commands: Count,
    /// Network: commands answered `UNCERTAIN`.
    pub uncertain: Count,
    /// Network: commands answered `CLUSTERDOWN`.
    pub cluster_down: Count,
    /// Network: commands answered `MISCONF`, for want of room on disks.
    pub disk_full: Count,
}

/// How much room the disk has, at a recent moment: written by the log writer, read by the snapshots
/// stage and by whoever looks inside.
#[derive(Debug, Default)]
pub(super) struct RoomBoard {
    free: AtomicU64,
    held: AtomicU64,
    /// The setting, which never changes.
    pub(super) reserve: u64,
}

impl RoomBoard {
    pub(super) fn new(reserve: u64) -> RoomBoard {
        RoomBoard { reserve, ..RoomBoard::default() }
    }

    pub(super) fn write(&self, room: Room) {
        self.free.store(room.free, Ordering::Relaxed);
        self.held.store(room.held, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Room {
        let (free, held) = (&self.free, &self.held);
        Room { free: free.load(Ordering::Relaxed), held: held.load(Ordering::Relaxed) }
    }

    /// Whether so many bytes of a snapshot can be written: that may take of the reserve what no
    /// file holds, but not all.
    pub(super) fn fits_snapshot(&self, bytes: u64) -> bool {
        self.read().free >= bytes.saturating_add(self.reserve / 8)
    }
}
