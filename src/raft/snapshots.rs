//! Log compaction (§7): which entries may go once a snapshot holds them, sending a snapshot to a
//! peer that lacks entries which are gone, and taking one in.
//!
//! The core never sees a snapshot's bytes: the driver takes them, keeps them, and moves them. What
//! is decided here is when a peer needs one, at which pace its chunks leave, and what the log is
//! once it is in.

use bytes::Bytes;

use crate::config::Mutant;
use crate::types::{Index, Instant, NodeId, Round};

use super::effects::{Effects, SnapshotChunk, SnapshotId};
use super::follower::Follower;
use super::leader::Leader;
use super::message::{
    AppendOutcome, AppendReply, ChunkStored, InstallReply, InstallSnapshot, PeerMsg,
};
use super::progress::{Progress, Stored};
use super::shared::Shared;

/// Entries let go of at the end of one batch: to free all of a long log at once would take
/// milliseconds in which the core answers nobody.
const COMPACTED_MAX: usize = 8_192;

impl Shared {
    /// A snapshot of this replica's own state is on disk.
    pub(super) fn on_snapshot_taken(&mut self, snapshot: SnapshotId) {
        assert!(
            snapshot.last.index <= self.applied_index(),
            "a snapshot up to {:?}, but only {} is applied",
            snapshot.last,
            self.applied_index()
        );
        assert!(
            snapshot.last.index <= self.log.base().index || self.log.holds(snapshot.last),
            "a snapshot up to {:?}, which the log contradicts",
            snapshot.last
        );
        // One that ends where the latest does was taken since that is damaged.
        if self.snapshot.is_none_or(|latest| latest.last.index <= snapshot.last.index) {
            self.snapshot = Some(snapshot);
        }
    }

    /// Lets go of entries that are in a snapshot, as long as the log holds more than it shall
    /// keep for slow followers; not past `needed`, unless it holds more than it may.
    pub(super) fn compact(&mut self, needed: Index) {
        let Some(snapshot) = self.snapshot else { return };
        let (log, config) = (&mut self.log, &self.config);
        // Where there is no room, nothing is kept for who may need it.
        let kept = if self.disk.is_low() { 0 } else { config.log_bytes_kept };
        log.compact(snapshot.last.index.min(needed), kept, COMPACTED_MAX);
        log.compact(snapshot.last.index, config.log_bytes_max, COMPACTED_MAX);
    }

    /// A leader's snapshot is on disk and in the state machine, with all up to its last entry.
    /// Where the log holds that entry it stays as it is; else nothing that it holds can be told
    /// from what contradicts the snapshot, and it begins anew behind it (Figure 13, rules 6, 7).
    pub(super) fn install(&mut self, snapshot: SnapshotId, leads: bool) {
        let last = snapshot.last;
        if self.log.holds(last) {
            self.commit_to(last.index, leads);
            self.note_applied(last.index);
        } else if last.index > self.commit_index() {
            assert!(!leads, "a leader's log lacks {last:?}, which is committed");
            self.restart_log(last);
        }
        // Now that the log's base is not past it.
        self.on_snapshot_taken(snapshot);
    }
}

impl Follower {
    /// A part of the leader's snapshot. What it contains is already here if this replica's log is
    /// committed that far: then the logs match up to there.
    pub(super) fn on_install_snapshot(
        &mut self,
        shared: &mut Shared,
        from: NodeId,
        install: InstallSnapshot,
        out: &mut Effects,
    ) {
        let InstallSnapshot { term, round, snapshot, offset, chunk } = install;
        let settled = self.settled(shared);
        if snapshot.last.index <= settled && shared.contradicts(snapshot.last) {
            shared.reject_contradiction(from, snapshot.last, settled, out);
            return;
        }
        self.hear(shared, from, out);
        if snapshot.last.index <= shared.commit_index() {
            self.on_installed(shared, snapshot, Some(round), out);
        } else if chunk.len() as u64 > snapshot.bytes.saturating_sub(offset) {
            shared.counters.malformed += 1;
        } else {
            self.install_round = round;
            out.received_chunks.push(SnapshotChunk { term, snapshot, round, offset, chunk });
        }
    }

    /// Tells the leader how much of its snapshot is here. A chunk that an earlier leader sent is
    /// not answered: its round is one of an earlier term, and in this term's leader it could
    /// confirm reads that came after it. This leader finds out with the next chunk that it sends.
    pub(super) fn on_chunk_stored(shared: &mut Shared, stored: ChunkStored, out: &mut Effects) {
        let ChunkStored { term, snapshot, round, received } = stored;
        if term != shared.term() && !shared.config.breaks(Mutant::ChunkReplyOfOldTerm) {
            shared.counters.stale += 1;
            return;
        }
        if let Some(leader) = shared.leader {
            let term = shared.term();
            let reply = InstallReply { term, round, snapshot, received };
            shared.send(leader, PeerMsg::InstallReply(reply), out);
        }
    }

    /// Everything up to the snapshot's end is here, and committed, so the leader of any later
    /// term has the same there.
    pub(super) fn on_installed(
        &mut self,
        shared: &mut Shared,
        snapshot: SnapshotId,
        round: Option<Round>,
        out: &mut Effects,
    ) {
        let end = shared.log.last().index;
        self.matched_index = self.matched_index.max(snapshot.last.index).min(end);
        let Some(leader) = shared.leader else { return };
        let index = self.matched_index.min(shared.log.durable_index());
        let outcome = AppendOutcome::Match { index };
        let round = round.unwrap_or(self.install_round);
        // The snapshot is on disk, and whoever finds it there lets a log go that lacks its end: so
        // this need not wait for the log to begin anew.
        let (term, disk) = (shared.term(), shared.disk.state());
        let reply = PeerMsg::AppendReply(AppendReply { term, round, disk, outcome });
        shared.send(leader, reply, out);
    }
}

impl Leader {
    /// Up to here no living follower needs the log: it is compacted no further while that costs
    /// no more than memory.
    pub(super) fn needed_after(&self, shared: &Shared) -> Index {
        self.progress
            .iter()
            .filter(|progress| !progress.is_silent(shared.loss_permille))
            .map(Progress::needs_after)
            .min()
            .unwrap_or(Index(u64::MAX))
    }

    /// Begins to send the latest snapshot to peers that lack entries which are gone, and sends
    /// each of them the next chunk if it is time.
    pub(super) fn send_snapshots(&mut self, shared: &mut Shared, out: &mut Effects) {
        let base = shared.log.base().index;
        out.suspect_snapshots.append(&mut self.suspect_snapshots);
        for position in 0..self.progress.len() {
            let progress = &mut self.progress[position];
            if let Some(snapshot) = shared.snapshot {
                progress.prefer(snapshot);
            }
            if progress.lacks_compacted(base) {
                let snapshot = shared.snapshot.expect("a log is compacted behind a snapshot");
                progress.begin_transfer(snapshot, shared.now);
            }
            let Some((snapshot, offset)) = progress.next_chunk(shared.now) else { continue };
            self.begin_round(shared);
            let progress = &mut self.progress[position];
            progress.sent_chunk(shared.now, self.round, &shared.config);
            let install = InstallSnapshot {
                term: shared.term(),
                round: self.round,
                snapshot,
                offset,
                chunk: Bytes::new(),
            };
            let envelope = shared.envelope(progress.id, PeerMsg::InstallSnapshot(install));
            out.chunks_to_send.push(envelope);
        }
    }

    pub(super) fn on_install_reply(
        &mut self,
        shared: &mut Shared,
        from: NodeId,
        reply: &InstallReply,
    ) {
        let sent_at = self.round_sent_at(reply.round);
        let progress =
            self.progress.iter_mut().find(|progress| progress.id == from).expect("admitted a peer");
        if reply.round > progress.sent_round || reply.received > reply.snapshot.bytes {
            shared.counters.malformed += 1;
            return;
        }
        progress.heard(shared.now, reply.round, sent_at, &shared.config);
        match progress.stored(reply.snapshot, reply.received) {
            Stored::Here => {}
            Stored::ThrownAway => self.suspect_snapshots.push(reply.snapshot),
            Stored::Another => shared.counters.stale += 1,
        }
    }

    /// When the next chunk is due, if one is.
    pub(super) fn next_chunk_at(&self, shared: &Shared) -> Instant {
        let due = |progress: &Progress| progress.chunk_at(&shared.config);
        self.progress.iter().filter_map(due).min().unwrap_or(Instant::MAX)
    }
}
