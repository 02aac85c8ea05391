//! The condition of this replica's disk: whether it is stalled, and how much free space it has.
//!
//! A stall is detected by jobs that were handed to the log writer and not reported done. So the
//! thread that notices never hangs itself, and the simulator runs the same code.
//!
//! The driver reports free space. While it is low, a leader refuses writes and transfers its
//! leadership if it can, and followers get new entries only if they are needed for a quorum.
//! Entries that were accepted before must still be stored, and so must votes: the driver's reserve
//! is for them, and for the snapshot that lets the log be compacted.

use crate::config::Config;
use crate::record::Entry;
use crate::types::Instant;

use super::log::LogTail;
use super::message::{DiskSpace, DiskState};

/// The condition of this replica's disk: stalled or not, low on space or not.
///
/// Invariant: the disk is stalled only while the log writer has an unfinished job.
#[derive(Debug)]
pub(super) struct DiskHealth {
    /// When the log writer last finished a job, or was handed its first one; `None` if it has no
    /// job.
    waiting_since: Option<Instant>,
    /// When [`DiskHealth::watch`] last checked for a stall.
    watched_at: Instant,
    is_stalled: bool,
    /// Bytes of log entries that the disk can still store; `None` if free space is not low.
    low_space: Option<u64>,
}

impl DiskHealth {
    pub(super) fn new(now: Instant) -> DiskHealth {
        DiskHealth { waiting_since: None, watched_at: now, is_stalled: false, low_space: None }
    }

    /// Records that a job was handed to the log writer.
    pub(super) fn job_started(&mut self, now: Instant) {
        self.waiting_since.get_or_insert(now);
    }

    /// Records that the log writer has done a job; `more` tells whether other jobs wait. Ends a
    /// stall: a disk that makes progress is slow, not stalled.
    pub(super) fn job_done(&mut self, now: Instant, more: bool) {
        assert!(self.waiting_since.is_some(), "a job is done that the log writer never got");
        self.waiting_since = more.then_some(now);
        self.is_stalled = false;
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.is_stalled
    }

    pub(super) fn is_low(&self) -> bool {
        self.low_space.is_some()
    }

    pub(super) fn state(&self) -> DiskState {
        if self.is_stalled {
            DiskState::Stalled
        } else if self.is_low() {
            DiskState::Low
        } else {
            DiskState::Healthy
        }
    }

    pub(super) fn record_space(&mut self, space: DiskSpace) {
        self.low_space = space.low.then_some(space.bytes);
    }

    /// Returns when [`DiskHealth::watch`] must check next; [`Instant::MAX`] if no job waits, a
    /// stall is already known, or stalls are not detected.
    pub(super) fn watch_at(&self, config: &Config) -> Instant {
        match (config.disk_stall_timeout, self.waiting_since) {
            (Some(timeout), Some(since)) if !self.is_stalled => {
                (since + timeout).min(self.watched_at + timeout / 4)
            }
            _ => Instant::MAX,
        }
    }

    /// Checks for a stall; returns whether one has begun. Time during which this check did not run,
    /// because the process or its machine was stopped, does not count: the log writer's reports may
    /// be waiting to be read.
    pub(super) fn watch(&mut self, now: Instant, config: &Config) -> bool {
        let Some(timeout) = config.disk_stall_timeout else { return false };
        assert!(
            !self.is_stalled || self.waiting_since.is_some(),
            "the disk is stalled, but no job waits"
        );
        let unwatched = now.since(self.watched_at);
        self.watched_at = now;
        let Some(since) = &mut self.waiting_since else { return false };
        if unwatched > timeout / 2 {
            *since = (*since + unwatched).min(now);
        }
        let stalls = !self.is_stalled && now.since(*since) >= timeout;
        self.is_stalled |= stalls;
        stalls
    }

    /// Returns the longest prefix of a leader's `entries` that this replica may store: all of them
    /// if the new ones fit on the disk, otherwise only those that the log already contains.
    /// `entries` must follow an entry of the log. While free space is low, the length of the new
    /// entries is subtracted from it.
    pub(super) fn storable<'e>(&mut self, entries: &'e [Entry], log: &LogTail) -> &'e [Entry] {
        let Some(space) = &mut self.low_space else { return entries };
        assert!(
            entries.first().is_none_or(|first| first.index() <= log.last().index.next()),
            "{:?} does not follow a log that ends with {}",
            entries.first(),
            log.last()
        );
        let held = entries.iter().take_while(|entry| log.holds(entry.id())).count();
        let bytes = entries[held..].iter().map(|entry| entry.record().len() as u64).sum();
        match space.checked_sub(bytes) {
            Some(rest) => {
                *space = rest;
                entries
            }
            None => &entries[..held],
        }
    }
}
