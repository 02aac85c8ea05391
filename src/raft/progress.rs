//! The leader's view of one peer: how far its log matches, what is in flight to it, and when to
//! send again. All transitions between probing, replicating and sending a snapshot are here.

use std::time::Duration;

use crate::config::Config;
use crate::feature_level::FeatureLevel;
use crate::types::{EntryId, Index, Instant, NodeId, Round};

use super::inflights::Inflights;
use super::link::LinkEstimate;
use super::message::{DiskState, SnapshotId};

/// Number of consecutive timeouts after which the leader no longer uses
/// `retransmit_timeout_min_lossy`, the shorter minimum of the retransmission timeout that applies
/// while [`Progress::retransmits_soon`] is set.
const FAST_RETRANSMISSIONS: u32 = 3;
/// Number of consecutive timeouts after which a peer is sent only one append at a time (probing).
/// Resending all entries after each timeout would waste bandwidth on a peer that does not answer.
const PROBE_AFTER_TIMEOUTS: u32 = 3;
/// Number of unacknowledged bytes of entries above which a timeout is attributed to the peer's
/// disk, which may not have finished its sync, rather than to the network. Each such timeout
/// doubles the retransmission timeout.
const BULK_BYTES: usize = 256 << 10;
/// Number of consecutive timeouts after which a snapshot transfer restarts with the latest
/// snapshot.
const CHUNK_TIMEOUTS_MAX: u32 = 8;

/// The replication state of a peer, which determines how entries are sent to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Probe: the last matching entry is unknown. One append is sent at a time, until one is
    /// acknowledged.
    Probe,
    /// Replicate: the logs match up to `match_index`. Appends are pipelined, up to a limit of
    /// messages and bytes in flight.
    Replicate,
    /// Snapshot: the peer lacks entries that were compacted away. The leader sends it the chunks of
    /// a snapshot, and heartbeats.
    Snapshot(SnapshotTransfer),
}

/// A snapshot transfer to a peer.
///
/// Invariant: `received <= snapshot.bytes`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct SnapshotTransfer {
    snapshot: SnapshotId,
    /// Number of bytes of the snapshot that the peer has received, according to its last reply.
    received: u64,
    /// Earliest time at which the next chunk may be sent.
    next_at: Instant,
    /// Number of retransmission timeouts since the peer's last reply about this snapshot, or since
    /// the transfer began.
    timeouts: u32,
}

/// What a peer's reply to a snapshot chunk means for the snapshot transfer in progress.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ChunkReply {
    /// The reply reports how many bytes the peer has received of the snapshot that is being sent to
    /// it.
    Received,
    /// The peer received the whole snapshot and then discarded it, for example as damaged. The
    /// transfer has ended.
    Discarded,
    /// The reply is about another snapshot than the one being sent to the peer, so it is outdated.
    OtherSnapshot,
}

/// The leader's view of one peer.
///
/// Invariant: `match_index < next_index`. The entries between the two indexes are in flight, except
/// while the peer is probed: then at most one append is in flight. The indexes in `inflights` are
/// below `next_index`; `inflights` is empty unless `state` is [`State::Replicate`].
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) id: NodeId,
    match_index: Index,
    next_index: Index,
    state: State,
    inflights: Inflights,
    link: LinkEstimate,
    /// Time from which the retransmission timeout runs: when the oldest unanswered message that
    /// needs a reply was sent or, if later, when the match index last advanced. `None` if no reply
    /// is awaited.
    awaiting_since: Option<Instant>,
    pub(super) last_sent_at: Option<Instant>,
    /// Round number of the last message sent to the peer; 0 before the first. It identifies a batch
    /// of the leader's messages.
    pub(super) sent_round: Round,
    /// Highest round number in the peer's replies; 0 before the first reply.
    pub(super) answered_round: Round,
    /// Commit index in the last `AppendEntries` sent to the peer.
    pub(super) sent_commit_index: Index,
    /// Time of the peer's last reply; before the first one, the time at which this leader was
    /// elected.
    pub(super) last_reply_at: Instant,
    /// The condition of the peer's disk, from its last
    /// [`AppendReply`](super::message::AppendReply); healthy before the first one.
    pub(super) disk: DiskState,
    /// Feature level of the peer's program, from its last
    /// [`AppendReply`](super::message::AppendReply); `None` before the first one.
    pub(super) feature_level: Option<FeatureLevel>,
    /// When the peer last asked to rejoin after losing its disk; `None` if it never did.
    pub(super) asked_to_rejoin_at: Option<Instant>,
    /// Time until which the leader sends the peer no entries, because the peer's disk is almost
    /// full; `None` if entries may be sent.
    paused_until: Option<Instant>,
    /// Number of messages sent to the peer since its last reply.
    unanswered: u32,
    /// Number of retransmission timeouts since the peer's last reply, or since the last call of
    /// [`Progress::restart_backoff`] if that is later.
    timeouts: u32,
    /// Upper bound on the bytes of entries that were sent to the peer since the last timeout and
    /// that the peer has not acknowledged.
    unacknowledged_bytes: usize,
    /// Number of consecutive timeouts with more than [`BULK_BYTES`] of unacknowledged entries. The
    /// number is reset only when the peer acknowledges further entries.
    bulk_timeouts: u32,
    /// Whether the leader retransmits sooner because of the message loss. The leader decides this
    /// for all peers together.
    pub(super) retransmits_soon: bool,
}

impl Progress {
    /// Creates a new leader's view of a peer, which is first probed. `last` is the index of the
    /// leader's last entry; the first probe asks whether the peer's log matches there.
    pub(super) fn new(id: NodeId, last: Index, now: Instant) -> Progress {
        Progress {
            id,
            match_index: Index::ZERO,
            next_index: last.next(),
            state: State::Probe,
            inflights: Inflights::default(),
            link: LinkEstimate::new(),
            awaiting_since: None,
            last_sent_at: None,
            sent_round: Round(0),
            answered_round: Round(0),
            sent_commit_index: Index::ZERO,
            last_reply_at: now,
            disk: DiskState::Healthy,
            feature_level: None,
            asked_to_rejoin_at: None,
            paused_until: None,
            unanswered: 0,
            timeouts: 0,
            unacknowledged_bytes: 0,
            bulk_timeouts: 0,
            retransmits_soon: false,
        }
    }

    pub(super) fn match_index(&self) -> Index {
        self.match_index
    }

    pub(super) fn next_index(&self) -> Index {
        self.next_index
    }

    pub(super) fn is_probing(&self) -> bool {
        self.state == State::Probe
    }

    pub(super) fn is_receiving_snapshot(&self) -> bool {
        matches!(self.state, State::Snapshot(_))
    }

    /// Returns whether the peer is probably down: it left at least 3 messages unanswered, or more
    /// under message loss (up to 15 at a loss of 100 %). The leader sends such a peer fewer
    /// messages, and ignores its disk state and missing entries. This affects only efficiency, not
    /// safety.
    pub(super) fn is_silent(&self, loss_permille: u16) -> bool {
        self.unanswered >= 3 + u32::from(loss_permille) / 80
    }

    /// Returns the average share of messages that the peer answered, from 0 to 1, and the number of
    /// messages that it is based on.
    pub(super) fn answered_share(&self) -> (f64, f64) {
        self.link.answered_share()
    }

    // Timeouts.

    /// Returns the retransmission timeout: how long to wait for a reply before sending again. It
    /// follows the measured round-trip time within the configured bounds, and doubles at each
    /// consecutive timeout.
    pub(super) fn retransmit_timeout(&self, config: &Config) -> Duration {
        let measured = self.link.reply_timeout().unwrap_or(config.retransmit_timeout_initial);
        let fast = self.retransmits_soon && self.timeouts < FAST_RETRANSMISSIONS;
        let min =
            if fast { config.retransmit_timeout_min_lossy } else { config.retransmit_timeout_min };
        let clamped = measured.clamp(min, config.retransmit_timeout_max);
        let doublings = self.timeouts.max(self.bulk_timeouts).min(8);
        (clamped * (1 << doublings)).min(config.retransmit_timeout_max)
    }

    /// Returns when the reply awaited from the peer becomes overdue; `None` if no reply is awaited.
    pub(super) fn retransmit_at(&self, config: &Config) -> Option<Instant> {
        self.awaiting_since.map(|since| since + self.retransmit_timeout(config))
    }

    /// Returns whether a reply from the peer is awaited and not overdue.
    pub(super) fn is_awaiting_reply(&self, now: Instant, config: &Config) -> bool {
        self.retransmit_at(config).is_some_and(|at| now < at)
    }

    /// Allows the fast retransmissions again, because there is a new entry to send. Without this, a
    /// peer that has lost several messages in a row would get the new entry only after the longest
    /// timeout.
    pub(super) fn restart_backoff(&mut self) {
        if self.retransmits_soon {
            self.timeouts = 0;
        }
    }

    /// If the awaited reply is overdue, counts a timeout and considers all messages in flight lost,
    /// so that the entries after the match index are sent again.
    pub(super) fn expire(&mut self, now: Instant, config: &Config) {
        if self.retransmit_at(config).is_none_or(|at| now < at) {
            return;
        }
        self.timeouts += 1;
        if self.unacknowledged_bytes > BULK_BYTES {
            self.bulk_timeouts += 1;
        }
        self.clear_in_flight();
        match &mut self.state {
            State::Replicate => {
                self.next_index = self.match_index.next();
                if self.timeouts.max(self.bulk_timeouts) >= PROBE_AFTER_TIMEOUTS {
                    self.state = State::Probe;
                }
            }
            State::Snapshot(transfer) => {
                transfer.timeouts += 1;
                // The driver may not have that snapshot any more.
                if transfer.timeouts >= CHUNK_TIMEOUTS_MAX {
                    self.state = State::Probe;
                    self.next_index = self.match_index.next();
                }
            }
            State::Probe => {}
        }
        self.check();
    }

    fn clear_in_flight(&mut self) {
        self.inflights.clear();
        self.unacknowledged_bytes = 0;
        self.awaiting_since = None;
    }

    // Sending.

    /// Returns whether all entries up to `last` are acknowledged or in flight. While the peer is
    /// probed, also returns true if one append is in flight; while it is receiving a snapshot,
    /// always returns false.
    pub(super) fn covers(&self, last: Index) -> bool {
        match self.state {
            State::Probe => self.next_index > last || self.awaiting_since.is_some(),
            State::Replicate => self.next_index > last,
            State::Snapshot(_) => false,
        }
    }

    /// Returns whether another append with entries may be sent to the peer now.
    pub(super) fn can_send_entries(&self, config: &Config) -> bool {
        if self.paused_until.is_some() {
            return false;
        }
        match self.state {
            State::Probe => self.awaiting_since.is_none(),
            State::Replicate => !self.inflights.is_full(config),
            State::Snapshot(_) => false,
        }
    }

    /// Records a message sent to the peer in the message round `round` (a numbered batch of
    /// messages). `entries` is the index of the message's last entry and the total length of its
    /// entries in bytes; `None` for a message without entries.
    pub(super) fn record_sent(
        &mut self,
        now: Instant,
        round: Round,
        entries: Option<(Index, usize)>,
    ) {
        assert!(round >= self.sent_round, "round {round:?} after {:?}", self.sent_round);
        self.link.record_sent(round, now);
        self.last_sent_at = Some(now);
        self.sent_round = round;
        self.unanswered = self.unanswered.saturating_add(1);
        if let Some((last, bytes)) = entries {
            assert!(
                last >= self.next_index && !self.is_receiving_snapshot(),
                "peer {}: entries up to {last} were sent, but {} is next in {:?}",
                self.id,
                self.next_index,
                self.state
            );
            self.awaiting_since.get_or_insert(now);
            self.unacknowledged_bytes += bytes;
            if self.state == State::Replicate {
                self.inflights.push(last, bytes);
                self.next_index = last.next();
            }
        } else if self.state == State::Probe {
            self.awaiting_since.get_or_insert(now);
        }
        self.check();
    }

    /// Starts the retransmission timer, if it is not running, for a message without entries that
    /// needs a reply, such as one that confirms a read.
    pub(super) fn await_reply(&mut self, now: Instant) {
        self.awaiting_since.get_or_insert(now);
    }

    /// Records the condition of the peer's disk from a reply; `advanced` says whether the reply
    /// also acknowledged new entries. If the disk is almost full and the reply acknowledged no new
    /// entries, the leader sends the peer no entries for one heartbeat interval, because the peer
    /// could not store them.
    pub(super) fn record_disk(
        &mut self,
        disk: DiskState,
        advanced: bool,
        now: Instant,
        config: &Config,
    ) {
        self.disk = disk;
        if disk != DiskState::Low || advanced {
            self.paused_until = None;
        } else if !self.inflights.is_empty() || self.state == State::Probe {
            self.paused_until.get_or_insert(now + config.heartbeat_interval);
        }
    }

    /// Ends the pause in which the peer is sent no entries because its disk is almost full, if the
    /// pause has lasted long enough.
    pub(super) fn end_pause(&mut self, now: Instant) {
        self.paused_until = self.paused_until.filter(|until| now < *until);
    }

    // Replies.

    /// Records any reply from the peer to a message of the round `round` (a numbered batch of
    /// messages). `round_sent_at` is when the leader began this round; `None` if the time is no
    /// longer known.
    pub(super) fn record_reply(
        &mut self,
        now: Instant,
        round: Round,
        round_sent_at: Option<Instant>,
        config: &Config,
    ) {
        assert!(round <= self.sent_round, "reply to {round:?} of {:?}", self.sent_round);
        self.link.record_reply(round, self.last_reply_at, now, config);
        self.last_reply_at = now;
        self.unanswered = 0;
        self.timeouts = 0;
        self.answered_round = self.answered_round.max(round);
        if let Some(sent_at) = round_sent_at {
            self.link.add_round_trip(now.since(sent_at));
        }
        // A chunk is answered when it is stored, and an append with many bytes when its entries are
        // durable. Replies to heartbeats that were sent later do not wait for that.
        if self.inflights.is_empty()
            && self.answered_round >= self.sent_round
            && !self.is_receiving_snapshot()
            && self.unacknowledged_bytes <= BULK_BYTES
        {
            self.awaiting_since = None;
        }
    }

    /// Records that the peer's log is durable and equal to the leader's up to index `acked`.
    /// Returns whether the match index has advanced.
    pub(super) fn acknowledge(&mut self, acked: Index, now: Instant) -> bool {
        let advanced = acked > self.match_index;
        self.match_index = self.match_index.max(acked);
        if advanced {
            self.bulk_timeouts = 0;
        }
        self.inflights.acknowledge(acked);
        self.next_index = self.next_index.max(self.match_index.next());
        match self.state {
            State::Snapshot(transfer) if acked < transfer.snapshot.last.index => {
                self.check();
                return advanced;
            }
            // The peer answers, but nothing that was sent to it is durable yet.
            State::Probe if !advanced && self.bulk_timeouts >= PROBE_AFTER_TIMEOUTS => {
                return false;
            }
            State::Probe | State::Snapshot(_) => {
                self.state = State::Replicate;
                self.next_index = self.match_index.next();
                self.awaiting_since = None;
                self.unacknowledged_bytes = 0;
            }
            State::Replicate => {
                self.unacknowledged_bytes = self.unacknowledged_bytes.min(self.inflights.bytes());
            }
        }
        // What is still in flight was sent later: its wait starts anew if the match index advanced.
        // Not with every reply, or heartbeats would put off a retransmission for ever.
        let in_flight = !self.inflights.is_empty() || self.answered_round < self.sent_round;
        self.awaiting_since = self
            .awaiting_since
            .filter(|_| in_flight)
            .map(|since| if advanced { now } else { since });
        self.check();
        advanced
    }

    /// Handles a rejected append: the peer's log lacks the leader's entry at index `refused`. The
    /// peer is then probed from `agreement`, the last entry that the two logs may share. Returns
    /// false, and changes nothing, if the reply is stale.
    pub(super) fn reject(&mut self, refused: Index, agreement: EntryId) -> bool {
        let is_stale = match self.state {
            State::Probe => refused.next() != self.next_index,
            State::Replicate => false,
            State::Snapshot(_) => true,
        };
        if is_stale || refused <= self.match_index {
            return false;
        }
        self.state = State::Probe;
        self.clear_in_flight();
        // At least one entry back, but never below what is known to match.
        let back = agreement.index.next().min(refused);
        self.next_index = back.max(self.match_index.next());
        assert!(
            self.next_index <= refused,
            "peer {} rejected {refused}, but {} is next",
            self.id,
            self.next_index
        );
        self.check();
        true
    }

    /// Handles the peer's loss of its disk: its log now ends at `last`. Resets the match index to
    /// zero, the only event that lowers it, and probes the peer from `last` on. A snapshot transfer
    /// continues, because the peer's replies say how much of the snapshot it has.
    pub(super) fn reset(&mut self, last: Index) {
        assert!(
            last < self.match_index,
            "peer {} is reset to {last}, but only {} matches",
            self.id,
            self.match_index
        );
        self.match_index = Index::ZERO;
        self.clear_in_flight();
        self.paused_until = None;
        (self.bulk_timeouts, self.timeouts) = (0, 0);
        self.next_index = if self.is_receiving_snapshot() {
            Index::ZERO.next()
        } else {
            self.state = State::Probe;
            self.next_index.min(last.next())
        };
        self.check();
    }

    // Snapshots.

    /// Returns whether the peer needs entries that the leader has compacted (those up to index
    /// `base`), and no snapshot transfer to it is in progress.
    pub(super) fn lacks_compacted(&self, base: Index) -> bool {
        match self.state {
            State::Probe => self.next_index <= base,
            State::Replicate => self.match_index < base,
            State::Snapshot(_) => false,
        }
    }

    /// Returns the index up to which the leader no longer needs its log entries for this peer.
    pub(super) fn needs_log_after(&self) -> Index {
        match self.state {
            State::Probe => self.next_index.previous(),
            State::Replicate => self.match_index,
            State::Snapshot(transfer) => transfer.snapshot.last.index,
        }
    }

    /// Starts a transfer of `snapshot` to the peer. Entries in flight are considered lost.
    pub(super) fn begin_snapshot(&mut self, snapshot: SnapshotId, now: Instant) {
        assert!(
            self.match_index < snapshot.last.index,
            "peer {} matches up to {}, past the snapshot {snapshot:?}",
            self.id,
            self.match_index
        );
        self.state =
            State::Snapshot(SnapshotTransfer { snapshot, received: 0, next_at: now, timeouts: 0 });
        self.bulk_timeouts = 0;
        self.clear_in_flight();
        self.next_index = self.match_index.next();
        self.check();
    }

    /// Returns the snapshot being sent to the peer, and the offset of the next chunk in bytes;
    /// `None` if no chunk may be sent now. After the last chunk, an empty chunk asks whether the
    /// peer has installed the snapshot.
    pub(super) fn next_chunk(&self, now: Instant) -> Option<(SnapshotId, u64)> {
        match self.state {
            State::Snapshot(transfer)
                if self.awaiting_since.is_none() && now >= transfer.next_at =>
            {
                Some((transfer.snapshot, transfer.received))
            }
            _ => None,
        }
    }

    /// Returns when the next chunk may be sent or, if a chunk is in flight, when that chunk is
    /// considered lost; `None` if no snapshot is being sent to the peer.
    pub(super) fn next_chunk_at(&self, config: &Config) -> Option<Instant> {
        match self.state {
            State::Snapshot(transfer) => {
                Some(self.retransmit_at(config).unwrap_or(transfer.next_at))
            }
            State::Probe | State::Replicate => None,
        }
    }

    /// Records that a snapshot chunk was sent in the message round `round`, and schedules the next
    /// chunk.
    pub(super) fn record_chunk_sent(&mut self, now: Instant, round: Round, config: &Config) {
        self.record_sent(now, round, None);
        self.await_reply(now);
        let State::Snapshot(transfer) = &mut self.state else {
            panic!("peer {} was sent a chunk in {:?}", self.id, self.state)
        };
        let is_complete = transfer.received == transfer.snapshot.bytes;
        // Verifying and installing takes a while; until then the peer is asked now and then.
        let pause = if is_complete {
            config.retransmit_timeout_max
        } else {
            config.snapshot_chunk_interval
        };
        transfer.next_at = now + pause;
    }

    /// Records a peer's reply that it has received `received` bytes of `snapshot`, and returns how
    /// the reply relates to the transfer in progress. If the peer reports no bytes after it
    /// reported all of them, it has discarded the snapshot: the transfer ends, so that the latest
    /// snapshot is sent instead.
    pub(super) fn record_chunk_reply(&mut self, snapshot: SnapshotId, received: u64) -> ChunkReply {
        assert!(received <= snapshot.bytes, "{received} bytes of {snapshot:?}");
        match &mut self.state {
            State::Snapshot(transfer) if transfer.snapshot == snapshot => {
                let was_complete = transfer.received == snapshot.bytes;
                transfer.received = received;
                transfer.timeouts = 0;
                self.awaiting_since = None;
                if was_complete && received == 0 {
                    // The bytes from our disk are damaged, or the peer's disk is. By now there may
                    // be another snapshot.
                    self.abandon_snapshot();
                    return ChunkReply::Discarded;
                }
                ChunkReply::Received
            }
            _ => ChunkReply::OtherSnapshot,
        }
    }

    /// Ends the snapshot transfer to the peer if `latest` is another snapshot and the peer has
    /// received no bytes yet, so that `latest` is sent instead.
    pub(super) fn prefer_snapshot(&mut self, latest: SnapshotId) {
        if let State::Snapshot(SnapshotTransfer { snapshot, received: 0, .. }) = self.state
            && snapshot != latest
        {
            self.abandon_snapshot();
        }
    }

    fn abandon_snapshot(&mut self) {
        self.state = State::Probe;
        self.awaiting_since = None;
        self.next_index = self.match_index.next();
        self.check();
    }

    /// Panics if the invariant of [`Progress`] is violated.
    pub(super) fn check(&self) {
        assert!(
            self.match_index < self.next_index,
            "peer {}: match {} is not below next {}",
            self.id,
            self.match_index,
            self.next_index
        );
        assert!(
            self.inflights.last().is_none_or(|last| last < self.next_index),
            "peer {}: appends in flight up to {:?}, but {} is next",
            self.id,
            self.inflights.last(),
            self.next_index
        );
        assert!(
            self.state == State::Replicate || self.inflights.is_empty(),
            "peer {}: {} appends in flight in {:?}",
            self.id,
            self.inflights.len(),
            self.state
        );
        assert!(
            self.answered_round <= self.sent_round,
            "peer {} answered {:?} of {:?}",
            self.id,
            self.answered_round,
            self.sent_round
        );
        self.inflights.check();
    }
}

#[cfg(test)]
mod tests;
