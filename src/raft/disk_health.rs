//! The condition of this replica's disk: whether it is stalled, and how much free space it has.
//!
//! A disk counts as stalled when the log writer has taken too long to report a job as done. Because
//! the stall is detected from missing reports, the thread that detects it never blocks on the disk
//! itself, and the simulator runs the same code.
//!
//! The driver reports the free disk space. While it is low on a leader, the leader refuses writes
//! and transfers its leadership if it can; a follower that is low on space gets new entries only if
//! it is needed for a quorum. Votes, and entries that were accepted before, must still be stored.
//! The driver keeps a reserve of disk space for these, and for the snapshot that allows the log to
//! be compacted.

use crate::config::Config;
use crate::record::Entry;
use crate::types::Instant;

use super::log::LogTail;
use super::message::{DiskSpace, DiskState};

/// The condition of this replica's disk: whether it is stalled, and whether it is low on space.
///
/// Invariant: the disk is stalled only while the log writer has an unfinished job.
#[derive(Debug)]
pub(super) struct DiskHealth {
    /// Time at which the log writer began its current job: when the job was handed over or, if
    /// later, when the previous job was finished. `None` if the log writer is idle.
    waiting_since: Option<Instant>,
    /// Time at which [`DiskHealth::watch`] last checked for a stall.
    watched_at: Instant,
    is_stalled: bool,
    /// Number of bytes of log entries that the disk can still store; `None` while free disk space
    /// is not low.
    low_space: Option<u64>,
}

impl DiskHealth {
    pub(super) fn new(now: Instant) -> DiskHealth {
        DiskHealth { waiting_since: None, watched_at: now, is_stalled: false, low_space: None }
    }

    /// Records that a job was handed to the log writer at the time `now`.
    pub(super) fn job_started(&mut self, now: Instant) {
        self.waiting_since.get_or_insert(now);
    }

    /// Records that the log writer has finished a job; `more` says whether further jobs are
    /// waiting. A stalled disk is then no longer marked as stalled, because a disk that makes
    /// progress is slow, not stalled.
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

    /// Returns when [`DiskHealth::watch`] must be called next; [`Instant::MAX`] if the log writer
    /// is idle, the disk is already marked as stalled, or stall detection is disabled.
    pub(super) fn watch_at(&self, config: &Config) -> Instant {
        match (config.disk_stall_timeout, self.waiting_since) {
            (Some(timeout), Some(since)) if !self.is_stalled => {
                (since + timeout).min(self.watched_at + timeout / 4)
            }
            _ => Instant::MAX,
        }
    }

    /// Checks for a disk stall: a log writer's job that takes longer than `disk_stall_timeout`.
    /// Returns true only when a stall is first detected. Does not count time in which the process
    /// or the machine was suspended, because jobs may have been completed but not reported in that
    /// time.
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

    /// Returns the longest prefix of a leader's `entries` that this replica has disk space for: all
    /// entries if the new ones fit on the disk, otherwise only the entries that are already in the
    /// log. `entries` must follow an entry of the log. While free disk space is low, also subtracts
    /// the size of the new entries from the remaining space.
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
