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

mod applier;
mod clock;
mod memory;
mod snapshot;

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::raft::Status;

use super::histogram::SharedHistogram;

pub(super) use applier::ApplierBoard;
pub(super) use clock::{ClockBoard, ClockReadings};
pub(super) use memory::{DeletionSize, DiskSpaceBoard, MemoryBoard};
pub(super) use snapshot::{SnapshotBoard, SnapshotGrowth, SnapshotStatus};

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
