//! What a replica knows of its own disk, and what follows from it.
//!
//! That it is stalled is told by nothing but the jobs that were given away and not heard to be
//! done: so the thread that notices is never the one that hangs, and in a simulation a slow disk is
//! noticed by the same code.
//!
//! How much room it has the driver says. While that is little, a leader takes in no writes, and
//! hands its lead over if it can; followers get new entries only if they are needed for a quorum,
//! and take in what they can store. What was taken in before must be stored, and so must votes:
//! the reserve is for that, and for the snapshot that lets the log be cut.

use crate::config::Config;
use crate::record::Entry;
use crate::types::Instant;

use super::leader::Leader;
use super::message::{DiskSpace, DiskState};
use super::progress::Progress;
use super::quorum::quorum;
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
    /// Bytes of entries that can be stored, if there is little room.
    room: Option<u64>,
}

impl DiskHealth {
    pub(super) fn new(now: Instant) -> DiskHealth {
        DiskHealth { waiting_since: None, watched_at: now, stalled: false, room: None }
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
        match self.room {
            _ if self.stalled => DiskState::Stalled,
            Some(_) => DiskState::Low,
            None => DiskState::Healthy,
        }
    }

    pub(super) fn is_low(&self) -> bool {
        self.room.is_some()
    }

    pub(super) fn note_room(&mut self, room: DiskSpace) {
        self.room = room.low.then_some(room.bytes);
    }

    /// Whether so many bytes can be stored, which takes their room.
    fn take_room(&mut self, bytes: u64) -> bool {
        let Some(room) = &mut self.room else { return true };
        let fits = bytes <= *room;
        if fits {
            *room -= bytes;
        }
        fits
    }

    /// When to look at it again though nothing comes in.
    pub(super) fn watch_at(&self, config: &Config) -> Instant {
        match (config.disk_stall_timeout, self.waiting_since) {
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
        let Some(after) = self.config.disk_stall_timeout else { return };
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

    /// Of entries that follow one that the log holds, those that it holds too or can store.
    pub(super) fn storable<'e>(&mut self, entries: &'e [Entry]) -> &'e [Entry] {
        if !self.disk.is_low() {
            return entries;
        }
        let held = entries.iter().take_while(|entry| self.log.holds(entry.id())).count();
        let bytes: usize = entries[held..].iter().map(|entry| entry.record().len()).sum();
        if self.disk.take_room(bytes as u64) { entries } else { &entries[..held] }
    }
}

impl Leader {
    /// Whether what it takes in can be stored where it must be: on its own disk, for it may need
    /// it, and on a quorum's. Peers that don't answer say nothing of their disks.
    pub(super) fn has_room(&self, shared: &Shared) -> bool {
        let is_low = |there: &&Progress| there.disk == DiskState::Low && !is_lost(there, shared);
        !shared.disk.is_low()
            && (!self.progress.iter().any(|there| is_low(&there)) || self.others_suffice(shared))
    }

    /// Whether a follower that is short of room gets no entries: there is a quorum without it.
    pub(super) fn spares(&self, position: usize, shared: &Shared) -> bool {
        self.progress[position].disk == DiskState::Low && self.others_suffice(shared)
    }

    /// Whether those that answer and have room are a quorum.
    fn others_suffice(&self, shared: &Shared) -> bool {
        let fit = |there: &&Progress| there.disk == DiskState::Healthy && !is_lost(there, shared);
        let count = self.progress.iter().filter(fit).count() + usize::from(!shared.disk.is_low());
        count >= quorum(shared.replicas(), &shared.config)
    }
}

/// Whether a peer seems to be gone.
fn is_lost(peer: &Progress, shared: &Shared) -> bool {
    peer.is_silent(shared.loss_permille)
}
