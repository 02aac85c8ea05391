//! What a replica knows of its own disk, by nothing but the jobs that it gave away and heard to be
//! done: so the thread that notices a stall is never the one that hangs in it, and in a simulation
//! a slow disk is noticed by the same code.

use crate::config::Config;
use crate::types::Instant;

use super::message::DiskState;
use super::shared::Shared;

/// How this replica's disk is.
///
/// Invariant: it is stalled only while something waits for it.
#[derive(Debug)]
pub(super) struct DiskHealth {
    /// Since when nothing was finished although something waits; `None` if nothing does.
    waiting_since: Option<Instant>,
    /// When this was last looked at.
    watched_at: Instant,
    stalled: bool,
}

impl DiskHealth {
    pub(super) fn new(now: Instant) -> DiskHealth {
        DiskHealth { waiting_since: None, watched_at: now, stalled: false }
    }

    /// A job was given to the log writer.
    pub(super) fn given(&mut self, now: Instant) {
        self.waiting_since.get_or_insert(now);
    }

    /// A job was finished; `more` tells whether others wait. A disk that gets on is only slow.
    pub(super) fn finished(&mut self, now: Instant, more: bool) {
        self.waiting_since = more.then_some(now);
        self.stalled = false;
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.stalled
    }

    pub(super) fn state(&self) -> DiskState {
        if self.stalled { DiskState::Stalled } else { DiskState::Well }
    }

    /// When to look at it again though nothing comes in.
    pub(super) fn watch_at(&self, config: &Config) -> Instant {
        match (config.disk_stall_after, self.waiting_since) {
            (Some(after), Some(since)) if !self.stalled => {
                (since + after).min(self.watched_at + after / 4)
            }
            _ => Instant::MAX,
        }
    }
}

impl Shared {
    /// Looks whether the disk is stalled. Time in which nobody looked, because the process was
    /// stopped or its machine was, counts for nothing: the disk's word may be on its way.
    pub(super) fn watch_disk(&mut self) {
        let Some(after) = self.config.disk_stall_after else { return };
        let unwatched = self.now.since(self.disk.watched_at);
        self.disk.watched_at = self.now;
        let Some(since) = &mut self.disk.waiting_since else { return };
        if unwatched > after / 2 {
            *since = (*since + unwatched).min(self.now);
        }
        if !self.disk.stalled && self.now.since(*since) >= after {
            self.disk.stalled = true;
            self.counters.disk_stalls += 1;
        }
    }
}
