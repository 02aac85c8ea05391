//! Snapshots and log compaction (§7): which entries may be removed when a snapshot covers them,
//! sending a snapshot to a peer that lacks removed entries, and installing a leader's snapshot.
//!
//! The core never sees the bytes: the driver takes, stores and sends snapshots. The core decides
//! when a peer needs one, how fast chunks are sent, and what the log is after an installation.

use bytes::Bytes;

use crate::feature_level::FeatureLevel;
use crate::membership::Configuration;
use crate::types::{Index, Instant, NodeId, Round};

use super::effects::{Effects, RejectReason, SnapshotChunk};
use super::follower::Follower;
use super::leader::Leader;
use super::message::{
    AppendOutcome, AppendReply, ChunkStored, InstallReply, InstallSnapshot, PeerMsg, SnapshotId,
};
use super::progress::{ChunkReply, Progress};
use super::rules;
use super::shared::Shared;

/// Maximum number of entries that one compaction step removes from the log in memory. Freeing a
/// long log at once would block the core for milliseconds.
const COMPACTED_MAX: usize = 8_192;

impl Shared {
    /// Records that a snapshot, of this replica's own state or from a leader, is durable. It
    /// becomes the latest snapshot unless a later one exists.
    pub(super) fn on_snapshot_taken(&mut self, snapshot: SnapshotId) {
        assert!(
            snapshot.last.index <= self.applied_index(),
            "a snapshot up to {}, but only {} is applied",
            snapshot.last,
            self.applied_index()
        );
        assert!(
            snapshot.last.index <= self.log.base().index || self.log.holds(snapshot.last),
            "a snapshot up to {}, which the log contradicts",
            snapshot.last
        );
        // A snapshot with the same end replaces one that is damaged.
        if self.snapshot.is_none_or(|latest| latest.last.index <= snapshot.last.index) {
            self.snapshot = Some(snapshot);
        }
    }

    /// Removes entries that the latest snapshot covers from the log in memory. No follower needs
    /// the entries up to index `needed`: they are removed until `log_bytes_kept` bytes remain (0
    /// bytes while disk space is low). Later entries are removed only while the log exceeds
    /// `log_bytes_max` bytes.
    pub(super) fn compact(&mut self, needed: Index) {
        let Some(snapshot) = self.snapshot else { return };
        if self.config.is_witness {
            // Its log begins after the snapshot, which has no data.
            self.log.compact(snapshot.last.index, 0, COMPACTED_MAX);
            self.membership.compact(self.log.base().index);
            return;
        }
        let (log, config) = (&mut self.log, &self.config);
        let bytes_kept = if self.disk.is_low() { 0 } else { config.log_bytes_kept };
        log.compact(snapshot.last.index.min(needed), bytes_kept, COMPACTED_MAX);
        log.compact(snapshot.last.index, config.log_bytes_max, COMPACTED_MAX);
        self.membership.compact(log.base().index);
        assert!(
            log.base().index <= snapshot.last.index,
            "the log is compacted up to {}, past the snapshot {snapshot:?}",
            log.base()
        );
    }

    /// Records that a leader's snapshot is durable and installed. Keeps the log if it contains the
    /// snapshot's last entry; otherwise replaces it with an empty one that starts after the
    /// snapshot, because its entries may contradict the snapshot (Figure 13 of the Raft paper,
    /// rules 6 and 7). `configuration` is the one as of the snapshot's last entry; `None` if the
    /// members had not changed by then. `level` is the cluster's feature level as of that entry.
    pub(super) fn install(
        &mut self,
        snapshot: SnapshotId,
        configuration: Option<Configuration>,
        level: FeatureLevel,
        is_leader: bool,
    ) {
        let last = snapshot.last;
        if self.log.holds(last) {
            self.commit_to(last.index, is_leader);
            self.applied_by_snapshot(last.index);
        } else if last.index > self.commit_index() {
            assert!(!is_leader, "a leader's log lacks the committed entry {last}");
            self.restart_log(last, configuration, level);
        }
        assert!(
            last.index <= self.commit_index(),
            "a snapshot up to {last} is installed, but only {} is committed",
            self.commit_index()
        );
        self.on_snapshot_taken(snapshot);
    }
}

impl Follower {
    /// Accepts a chunk of the leader's snapshot, for the driver (server or simulator) to store. If
    /// this replica has already committed all entries that the snapshot covers, replies instead
    /// that the logs match up to the snapshot's end.
    pub(super) fn on_install_snapshot(
        &mut self,
        shared: &mut Shared,
        from: NodeId,
        install: InstallSnapshot,
        out: &mut Effects,
    ) {
        let InstallSnapshot { term, round, snapshot, offset, chunk } = install;
        if snapshot.has_data() == shared.config.is_witness {
            let is_witness = shared.config.is_witness;
            shared.reject(from, RejectReason::OtherKind { is_witness }, out);
            return;
        }
        let settled = self.settled_index(shared);
        if snapshot.last.index <= settled && shared.contradicts(snapshot.last) {
            let reason = RejectReason::Contradiction { entry: snapshot.last, settled };
            shared.reject(from, reason, out);
            return;
        }
        self.heard_leader(shared, from, out);
        if snapshot.last.index <= shared.commit_index() {
            self.on_installed(shared, snapshot, Some(round), out);
        } else if !snapshot.has_data() && shared.log.holds(snapshot.last) {
            // The witness keeps what it has: another replica may need it.
            shared.commit_to(snapshot.last.index, false);
            self.on_installed(shared, snapshot, Some(round), out);
        } else if !snapshot.has_data() {
            self.install_round = round;
            shared.receive_log_start(snapshot.last, &chunk, out);
        } else if chunk.len() as u64 > snapshot.bytes.saturating_sub(offset) {
            shared.counters.malformed += 1;
        } else {
            self.install_round = round;
            out.received_chunks.push(SnapshotChunk { term, snapshot, round, offset, chunk });
        }
    }

    /// Reports to the current leader how much of its snapshot this replica has stored. Drops a
    /// report about a chunk of an earlier term: the current leader would mistake the chunk's round
    /// number (sequence number of a batch of messages) for one of its own, and might wrongly
    /// confirm reads.
    pub(super) fn on_chunk_stored(shared: &mut Shared, stored: ChunkStored, out: &mut Effects) {
        let ChunkStored { term, snapshot, round, received } = stored;
        if !rules::chunk_is_current(term, shared.term(), &shared.config) {
            shared.counters.stale += 1;
            return;
        }
        if let Some(leader) = shared.leader {
            let term = shared.term();
            let reply = InstallReply { term, round, snapshot, received };
            shared.send(leader, PeerMsg::InstallReply(reply), out);
        }
    }

    /// Tells the leader that this replica's log matches up to the end of an installed snapshot: all
    /// entries up to there are committed, so every later leader has them. The message echoes the
    /// round number `round`, which identifies a batch of the leader's messages; if `round` is
    /// `None`, it echoes the round number of the last snapshot chunk accepted for storage.
    pub(super) fn on_installed(
        &mut self,
        shared: &mut Shared,
        snapshot: SnapshotId,
        round: Option<Round>,
        out: &mut Effects,
    ) {
        let last = shared.log.last().index;
        self.matched_index = self.matched_index.max(snapshot.last.index).min(last);
        self.check(shared);
        let Some(leader) = shared.leader else { return };
        let index = self.matched_index.min(shared.log.durable_index());
        let outcome = AppendOutcome::Match { index };
        let round = round.unwrap_or(self.install_round);
        // This need not wait until the log on disk is reset: the snapshot is durable, and a start
        // that finds it drops a log that does not contain its last entry.
        let (term, disk) = (shared.term(), shared.disk.state());
        let level = shared.config.feature_level;
        let reply = PeerMsg::AppendReply(AppendReply { term, round, disk, level, outcome });
        shared.send(leader, reply, out);
    }
}

impl Leader {
    /// Returns the index up to which no answering peer needs the entries of this leader's log;
    /// `Index(u64::MAX)` if no peer is answering. Later entries are kept while the log is within
    /// its maximum size.
    pub(super) fn log_needed_after(&self, shared: &Shared) -> Index {
        self.progress
            .iter()
            .filter(|progress| !progress.is_silent(shared.loss_permille))
            .map(Progress::needs_log_after)
            .min()
            .unwrap_or(Index(u64::MAX))
    }

    /// Starts a transfer of the latest snapshot to each peer that lacks entries which this leader
    /// has compacted, and sends the chunks that are due.
    pub(super) fn send_snapshots(&mut self, shared: &mut Shared, out: &mut Effects) {
        let base = shared.log.base().index;
        out.suspect_snapshots.append(&mut self.suspect_snapshots);
        for position in 0..self.progress.len() {
            let progress = &mut self.progress[position];
            let is_witness = shared.membership.is_witness(progress.id);
            let needs_no_data = rules::needs_no_data(is_witness, &shared.config);
            if let Some(snapshot) = shared.snapshot.filter(|_| !needs_no_data) {
                progress.prefer_snapshot(snapshot);
            }
            if needs_no_data && progress.next_chunk(shared.now).is_some() {
                // The members as of an earlier base may be forgotten.
                progress.prefer_snapshot(SnapshotId::without_data(shared.log.base()));
            }
            if progress.lacks_compacted(base) {
                let snapshot = if needs_no_data || shared.config.is_witness {
                    SnapshotId::without_data(shared.log.base())
                } else {
                    shared.snapshot.expect("a compacted log has a snapshot")
                };
                assert!(base <= snapshot.last.index, "base {base} is past {snapshot:?}");
                progress.begin_snapshot(snapshot, shared.now);
            }
            if !needs_no_data && shared.config.is_witness {
                // It has no data to send.
                continue;
            }
            let Some((snapshot, offset)) = progress.next_chunk(shared.now) else { continue };
            assert!(offset <= snapshot.bytes, "a chunk at {offset} of {snapshot:?}");
            self.begin_round(shared);
            let progress = &mut self.progress[position];
            progress.record_chunk_sent(shared.now, self.round, &shared.config);
            let (to, term, round) = (progress.id, shared.term(), self.round);
            let mut install =
                InstallSnapshot { term, round, snapshot, offset, chunk: Bytes::new() };
            if snapshot.has_data() {
                let envelope = shared.envelope(to, PeerMsg::InstallSnapshot(install));
                out.chunks_to_send.push(envelope);
            } else {
                install.chunk = shared.encode_log_start(snapshot.last.index);
                shared.send(to, PeerMsg::InstallSnapshot(install), out);
            }
        }
    }

    pub(super) fn on_install_reply(
        &mut self,
        shared: &mut Shared,
        from: NodeId,
        reply: &InstallReply,
    ) {
        let sent_at = self.round_began_at(reply.round);
        let progress = self.progress_of(from);
        if reply.round > progress.sent_round || reply.received > reply.snapshot.bytes {
            shared.counters.malformed += 1;
            return;
        }
        progress.record_reply(shared.now, reply.round, sent_at, &shared.config);
        match progress.record_chunk_reply(reply.snapshot, reply.received) {
            ChunkReply::Received => {}
            ChunkReply::Discarded if !reply.snapshot.has_data() => {}
            ChunkReply::Discarded => self.suspect_snapshots.push(reply.snapshot),
            ChunkReply::OtherSnapshot => shared.counters.stale += 1,
        }
    }

    /// Returns when the next snapshot chunk to any peer is due, or when a chunk in flight is
    /// considered lost; [`Instant::MAX`] if no snapshot is being sent.
    pub(super) fn next_chunk_at(&self, shared: &Shared) -> Instant {
        let due = |progress: &Progress| progress.next_chunk_at(&shared.config);
        let may_send = |progress: &&Progress| {
            let is_witness = shared.membership.is_witness(progress.id);
            !shared.config.is_witness || rules::needs_no_data(is_witness, &shared.config)
        };
        self.progress.iter().filter(may_send).filter_map(due).min().unwrap_or(Instant::MAX)
    }
}
