//! Which peers the leader sends to, and when: new entries, retransmissions, heartbeats, rounds for
//! reads, and the commit index.
//!
//! With [`FanOut::All`] each entry goes to all peers. With [`FanOut::Thrifty`] it goes to as many
//! peers as a quorum needs; to more of them only if replies are overdue. The peers that were sent
//! to least recently come first, so all of them get their turn. Where loss is high, more peers than
//! needed get the first attempt.

use std::cmp::Reverse;

use crate::config::FanOut;
use crate::record::Entry;
use crate::types::{EntryId, Index, Instant, Round};

use super::effects::Effects;
use super::leader::Leader;
use super::link::ABSENT_HEARTBEATS;
use super::message::{AppendEntries, PeerMsg};
use super::progress::Progress;
use super::quorum::quorum;
use super::shared::Shared;
use super::timing;

/// Threshold of message loss, in permille. At or above it, the leader sends new entries to one more
/// peer than a quorum needs ([`FanOut::Thrifty`]). At this loss, if the leader of five replicas
/// sends an entry to only two of its four peers, both replies arrive in less than half of all
/// cases.
const SPARE_LOSS_PERMILLE: u16 = 200;
/// Threshold of message loss, in permille. At or above it, the leader sends new entries and
/// retransmissions to all peers that are answering ([`FanOut::Thrifty`]). At a loss of 30 %, an
/// entry sent to three peers of a leader of five replicas is committed at the first attempt in half
/// of all cases; an entry sent to two peers, in a quarter.
const ALL_LOSS_PERMILLE: u16 = 250;
/// Threshold of message loss, in permille. At or above it, the leader retransmits sooner and, if a
/// peer seems to be down, sends to all answering peers. At this loss, the first attempt to send an
/// entry to just enough peers for a quorum fails in about 40 % of cases in a group of five, so
/// waiting for the next append would be too slow.
const LOSSY_PERMILLE: u16 = 130;
/// Threshold of message loss, in permille, that replaces [`LOSSY_PERMILLE`] for retransmissions if
/// the peers that are answering are just enough for a quorum. It is lower, because no other peer
/// can make up for a lost reply.
const NO_SPARE_LOSS_PERMILLE: u16 = 115;
/// Threshold of message loss, in permille. At or above it, [`FanOut::Thrifty`] sends no separate
/// notices of the commit index: a notice is more likely to be lost, and messages are needed for
/// retransmissions.
const NOTICE_LOSS_PERMILLE: u16 = 30;
/// Minimum number of messages, answered or counted as lost, from which the leader estimates the
/// message loss itself. Until then, it uses the previous leader's estimate.
const MEASURED_MIN: f64 = 12.0;
/// Number of missing entries above which a lagging peer is sent entries immediately, even if
/// [`FanOut::Thrifty`] would send new entries to other peers only. `append_entries_max`, the
/// maximum number of entries per append, applies instead if it is lower.
const CATCH_UP_ENTRIES: usize = 64;

/// The goal of the messages that a leader sends: `peers` of its peers acknowledge the entry at
/// `index` and answer the message round `round` (a numbered batch of messages).
#[derive(Clone, Copy, Debug)]
struct Goal {
    index: Index,
    round: Round,
    /// Number of peers that must acknowledge the entry and answer the message round.
    peers: usize,
    /// Maximum number of additional peers to which the leader sends the same entries and round
    /// number, in case messages are lost.
    spare: usize,
}

impl Goal {
    fn is_reached_by(self, progress: &Progress) -> bool {
        progress.match_index() >= self.index && progress.answered_round >= self.round
    }

    /// Returns whether the peer will reach the goal (acknowledge the entry and answer the message
    /// round) by answering the messages now in flight to it. Returns false if a reply from the peer
    /// is overdue.
    fn is_pending_at(self, progress: &Progress, shared: &Shared) -> bool {
        progress.is_awaiting_reply(shared.now, &shared.config)
            && progress.covers(self.index)
            && progress.sent_round >= self.round
    }
}

impl Leader {
    /// Sends all messages that are due: entries, retransmissions, heartbeats, probes, the commit
    /// index and snapshot chunks. Called once at the end of each batch of inputs, so that one
    /// message to a peer covers the whole batch.
    pub(super) fn replicate(&mut self, shared: &mut Shared, out: &mut Effects) {
        self.measure_loss(shared);
        let is_first_attempt = shared.log.last().index > self.attempted_index;
        // Not while a quorum is silent: then new entries are not sent, so each call would restart
        // it.
        let restarts_backoff = is_first_attempt
            && shared.now < self.quorum_silent_at(shared)
            && self.sends_to_all(shared);
        for progress in &mut self.progress {
            if restarts_backoff {
                progress.restart_backoff();
            }
            progress.end_pause(shared.now);
            progress.expire(shared.now, &shared.config);
        }
        self.send_snapshots(shared, out);
        let round_before = self.round;
        for peer in std::mem::take(&mut self.urgent) {
            let position = self.progress.iter().position(|progress| progress.id == peer);
            let position = position.expect("admitted peers only");
            self.send(position, true, round_before, shared, out);
        }
        if shared.now >= self.quorum_probe_at(shared) {
            let is_first = self.quorum_probed_at.is_none_or(|at| at < self.quorum_heard_at(shared));
            self.quorum_probes = if is_first { 0 } else { self.quorum_probes + 1 };
            self.quorum_probed_at = Some(shared.now);
            for position in 0..self.progress.len() {
                self.send(position, true, round_before, shared, out);
            }
        }
        if shared.now < self.quorum_silent_at(shared) {
            self.pursue_goal(round_before, shared, out);
        }
        self.catch_up(round_before, shared, out);
        for position in 0..self.progress.len() {
            if shared.now >= self.heartbeat_at(position, shared) {
                let is_silent = self.progress[position].is_silent(shared.loss_permille);
                self.send(position, !is_silent, round_before, shared, out);
            }
        }
        self.send_commit_index(round_before, shared, out);
        self.dismiss_removed(shared, out);
        assert!(
            self.round <= round_before.next(),
            "a batch began rounds {round_before:?} to {:?}",
            self.round
        );
    }

    /// Sends the commit index, in an append without entries, to each peer to which no other message
    /// has carried the commit index within [`Config::commit_notice_after`](crate::config::Config).
    /// Skips peers that are not answering or are receiving a snapshot. With [`FanOut::Thrifty`],
    /// also skips those for which [`Leader::is_worth_a_notice`] is false. `round_before` is the
    /// sequence number of the last message round (batch of messages) that began before this batch
    /// of inputs.
    fn send_commit_index(&mut self, round_before: Round, shared: &mut Shared, out: &mut Effects) {
        let Some(delay) = shared.config.commit_notice_after else { return };
        let commit_index = shared.shown_commit_index();
        let is_thrifty = shared.fan_out() == FanOut::Thrifty;
        if is_thrifty && commit_index != self.last_shown_commit_index {
            // Only a pause is worth a message: the next entries carry the commit index for free.
            self.commit_unsent_since = None;
        }
        self.last_shown_commit_index = commit_index;
        let is_due = |leader: &Leader, position: usize, shared: &Shared| {
            let progress = &leader.progress[position];
            progress.sent_commit_index < commit_index
                && !progress.is_silent(shared.loss_permille)
                && !progress.is_receiving_snapshot()
                && (!is_thrifty || leader.is_worth_a_notice(position, commit_index, shared))
        };
        if !(0..self.progress.len()).any(|position| is_due(self, position, shared)) {
            self.commit_unsent_since = None;
            return;
        }
        let since = *self.commit_unsent_since.get_or_insert(shared.now);
        if shared.now < since + delay {
            return;
        }
        self.commit_unsent_since = None;
        for position in 0..self.progress.len() {
            if !is_due(self, position, shared) {
                continue;
            }
            if is_thrifty {
                self.send_notice(position, commit_index, shared, out);
            } else {
                self.send(position, false, round_before, shared, out);
            }
        }
    }

    /// Returns whether [`FanOut::Thrifty`], which saves messages, should send the peer at
    /// `position` a message just to announce `commit_index`. If this peer became the leader, it
    /// would answer again the requests whose entries it does not know to be committed. Returns true
    /// if there are several such requests, or at least one while a peer seems to be down. Returns
    /// false if the peer lacks a committed entry, because it cannot be elected.
    fn is_worth_a_notice(&self, position: usize, commit_index: Index, shared: &Shared) -> bool {
        let progress = &self.progress[position];
        let unknown_max = u64::from(!self.lacks_a_peer(shared));
        shared.loss_permille < NOTICE_LOSS_PERMILLE
            && progress.match_index() >= commit_index
            && commit_index.0 > progress.sent_commit_index.0 + unknown_max
    }

    /// Tells peers that have been removed from the members that their removal is committed, so that
    /// they do not campaign. Only once: if the message is lost, their campaigns do no harm.
    fn dismiss_removed(&mut self, shared: &mut Shared, out: &mut Effects) {
        let base = shared.log.base().index;
        for progress in std::mem::take(&mut self.removed) {
            if progress.match_index() >= base {
                self.notify(&progress, shared.shown_commit_index(), shared, out);
            }
        }
    }

    /// Sends the peer at `position` the commit index in an append with round number 0, to which the
    /// peer does not reply.
    fn send_notice(
        &mut self,
        position: usize,
        commit_index: Index,
        shared: &mut Shared,
        out: &mut Effects,
    ) {
        self.progress[position].sent_commit_index = commit_index;
        self.notify(&self.progress[position], commit_index, shared, out);
    }

    fn notify(
        &self,
        progress: &Progress,
        commit_index: Index,
        shared: &mut Shared,
        out: &mut Effects,
    ) {
        let append = AppendEntries {
            term: shared.term(),
            round: Round(0),
            prev: shared.log.id_at(progress.match_index()),
            commit_index,
            loss_permille: shared.loss_permille,
            transfer_to: self.transfer.announced_target(),
            entries: Vec::new(),
        };
        let to = progress.id;
        shared.send(to, PeerMsg::AppendEntries(append), out);
    }

    /// Returns whether at least one peer seems to be down: it has left several messages unanswered,
    /// and has not replied for [`ABSENT_HEARTBEATS`] heartbeat intervals. Message loss alone hardly
    /// ever causes this.
    fn lacks_a_peer(&self, shared: &Shared) -> bool {
        let absence = shared.config.heartbeat_interval * ABSENT_HEARTBEATS;
        self.progress.iter().any(|peer| {
            peer.is_silent(shared.loss_permille) && shared.now.since(peer.last_reply_at) > absence
        })
    }

    /// Returns the next time at which the leader must act even if no message arrives: to
    /// retransmit, to send a heartbeat, a snapshot chunk or the commit index, or to step down.
    pub(super) fn next_timeout(&self, shared: &Shared) -> Instant {
        let mut next = self.steps_down_at(shared).min(self.quorum_probe_at(shared));
        next = next.min(self.next_chunk_at(shared)).min(self.transfer.next_timeout(shared));
        next = next.min(self.retreats_at(shared));
        let goal = self.goal(shared);
        let reached = self.progress.iter().filter(|progress| goal.is_reached_by(progress)).count();
        for (position, progress) in self.progress.iter().enumerate() {
            next = next.min(self.heartbeat_at(position, shared));
            if reached < goal.peers && !goal.is_reached_by(progress) {
                let at = progress.retransmit_at(&shared.config);
                next = next.min(at.unwrap_or(Instant::MAX));
            }
        }
        if let (Some(since), Some(delay)) =
            (self.commit_unsent_since, shared.config.commit_notice_after)
        {
            next = next.min(since + delay);
        }
        next
    }

    fn goal(&self, shared: &Shared) -> Goal {
        let last = shared.log.last().index;
        let round = self.reads.wanted_round().unwrap_or(Round(0));
        // Without a count there are learners or two quorums, and the leader sends to all.
        let quorum_peers = shared
            .membership
            .plain_voter_count()
            .map_or(self.progress.len(), |voters| quorum(voters, &shared.config) - 1);
        let is_first_attempt = last > self.attempted_index || round > self.attempted_round;
        let spare = if self.sends_to_all(shared) {
            self.progress.len()
        } else {
            usize::from(is_first_attempt && shared.loss_permille >= SPARE_LOSS_PERMILLE)
        };
        match shared.fan_out() {
            FanOut::All => Goal { index: last, round, peers: self.progress.len(), spare: 0 },
            FanOut::Thrifty if last > shared.commit_index() => {
                Goal { index: last, round, peers: quorum_peers, spare }
            }
            // Everything is committed; the other peers get the entries in their turn.
            FanOut::Thrifty => Goal { index: Index::ZERO, round, peers: quorum_peers, spare },
        }
    }

    /// Returns whether new entries and retransmissions go to all peers that are answering although
    /// [`FanOut::Thrifty`] is configured, because many messages are lost.
    fn sends_to_all(&self, shared: &Shared) -> bool {
        let limit = if self.lacks_a_peer(shared) { LOSSY_PERMILLE } else { ALL_LOSS_PERMILLE };
        // The loss is only assumed to be high until it is measured.
        shared.fan_out() == FanOut::Thrifty
            && shared.loss_permille != timing::LOSS_UNKNOWN_PERMILLE
            && shared.loss_permille >= limit
    }

    /// Sends the newest entries to more peers until enough peers have acknowledged the entries or
    /// have them in flight: all peers or, with [`FanOut::Thrifty`], just enough for a quorum.
    /// Starts with the peers to which the leader has sent nothing for the longest time. The peers'
    /// replies also confirm waiting reads. `round_before` is the sequence number of the last
    /// message round (batch of messages) that began before this batch of inputs.
    fn pursue_goal(&mut self, round_before: Round, shared: &mut Shared, out: &mut Effects) {
        let goal = self.goal(shared);
        let reached = self.progress.iter().filter(|peer| goal.is_reached_by(peer)).count();
        if reached >= goal.peers {
            return;
        }
        // The reply of a peer that seems to be down may never arrive. If it counted, the messages
        // that such a peer is sent from time to time would keep a live one from its entries.
        let pending = self
            .progress
            .iter()
            .filter(|peer| !goal.is_reached_by(peer) && goal.is_pending_at(peer, shared))
            .filter(|peer| !(peer.is_probing() && peer.is_silent(shared.loss_permille)))
            .count();
        assert!(
            goal.peers <= self.progress.len() && reached + pending <= self.progress.len(),
            "{reached} and {pending} of {} peers, {} needed",
            self.progress.len(),
            goal.peers
        );
        let mut order = std::mem::take(&mut self.send_order);
        order.clear();
        order.extend((0..self.progress.len()).filter(|&position| {
            let progress = &self.progress[position];
            !goal.is_reached_by(progress)
                && !goal.is_pending_at(progress, shared)
                && !self.spares(position, shared)
        }));
        // Least recently sent to first: the chosen set rotates, so no peer falls behind. Peers that
        // seem to be down come last; of those sent to at the same time, the one that replied last
        // comes first.
        order.sort_unstable_by_key(|&position| {
            let progress = &self.progress[position];
            let is_silent = progress.is_silent(shared.loss_permille);
            (is_silent, progress.last_sent_at, Reverse(progress.last_reply_at), progress.id)
        });
        self.attempted_index = shared.log.last().index;
        self.attempted_round = goal.round;
        let missing = goal.peers.saturating_sub(reached + pending);
        let missing_with_spare = (goal.peers + goal.spare).saturating_sub(reached + pending);
        let mut sent = 0;
        for &position in &order {
            // A peer that seems to be down is no spare.
            let is_silent = self.progress[position].is_silent(shared.loss_permille);
            if sent >= if is_silent { missing } else { missing_with_spare } {
                break;
            }
            if self.send_towards(position, goal, round_before, shared, out) {
                sent += 1;
            }
        }
        self.send_order = order;
    }

    /// Sends entries to each lagging peer that is answering, within the limit on entries in flight.
    /// Without this, a lagging peer would get only one append per heartbeat or per new entry sent
    /// to it. `round_before` is the sequence number of the last message round (batch of messages)
    /// that began before this batch of inputs.
    fn catch_up(&mut self, round_before: Round, shared: &mut Shared, out: &mut Effects) {
        let threshold = shared.config.append_entries_max.min(CATCH_UP_ENTRIES) as u64;
        let last = shared.log.last().index;
        for position in 0..self.progress.len() {
            let progress = &self.progress[position];
            assert!(
                progress.next_index() <= last.next(),
                "peer {} has next {}, but the log ends at {last}",
                progress.id,
                progress.next_index()
            );
            let lacking = last.next().0 - progress.next_index().0;
            if lacking > threshold
                && !progress.is_probing()
                && !progress.is_silent(shared.loss_permille)
                && progress.can_send_entries(&shared.config)
                && !self.spares(position, shared)
            {
                self.send(position, true, round_before, shared, out);
            }
        }
    }

    /// Sends the peer at `position` the entries and the round number that it needs to reach `goal`
    /// (acknowledge an entry and answer a message round), within the limit on entries in flight.
    /// Returns whether the peer will reach the goal by answering the messages now in flight.
    /// `round_before` is the sequence number of the last message round (batch of messages) that
    /// began before this batch of inputs.
    fn send_towards(
        &mut self,
        position: usize,
        goal: Goal,
        round_before: Round,
        shared: &mut Shared,
        out: &mut Effects,
    ) -> bool {
        loop {
            let progress = &self.progress[position];
            let lacks_entries = progress.match_index() < goal.index && !progress.covers(goal.index);
            let lacks_round = progress.sent_round.max(progress.answered_round) < goal.round;
            let can_send_entries = progress.can_send_entries(&shared.config);
            let may_send = lacks_round || lacks_entries && can_send_entries;
            if !may_send {
                break;
            }
            let was_probing = progress.is_probing();
            let next_before = progress.next_index();
            self.send(position, true, round_before, shared, out);
            self.progress[position].await_reply(shared.now);
            let has_advanced = self.progress[position].next_index() > next_before;
            if shared.fan_out() == FanOut::Thrifty || was_probing || !has_advanced {
                break;
            }
        }
        goal.is_pending_at(&self.progress[position], shared)
    }

    /// Sends one `AppendEntries` to the peer at `position`. If `with_entries` is set, the message
    /// contains the entries from the peer's next index on, within the limit on entries in flight;
    /// without entries the message is a heartbeat. Skips a heartbeat if the peer was already sent a
    /// message in this batch of inputs. `round_before` is the sequence number of the last message
    /// round (batch of messages) that began before this batch of inputs.
    fn send(
        &mut self,
        position: usize,
        with_entries: bool,
        round_before: Round,
        shared: &mut Shared,
        out: &mut Effects,
    ) {
        let progress = &self.progress[position];
        let may_store = with_entries && !self.spares(position, shared);
        let entries = if may_store && progress.can_send_entries(&shared.config) {
            shared.log.slice(
                progress.next_index(),
                shared.config.append_entries_max,
                shared.config.append_bytes_max,
            )
        } else {
            Vec::new()
        };
        let was_sent_to = self.round > round_before && progress.sent_round == self.round;
        if entries.is_empty() && was_sent_to {
            return;
        }
        if self.round == round_before {
            self.begin_round(shared);
        }
        if !entries.is_empty() && !was_sent_to && self.confirms_reads_apart(position, shared) {
            self.emit(position, Vec::new(), shared, out);
        }
        self.emit(position, entries, shared, out);
    }

    /// Returns whether to send the peer at `position` a separate heartbeat before an append with
    /// entries. The peer answers a heartbeat at once, but an append only after its disk sync, so
    /// the heartbeat confirms waiting reads sooner. Returns false with [`FanOut::Thrifty`], which
    /// saves messages.
    fn confirms_reads_apart(&self, position: usize, shared: &Shared) -> bool {
        shared.fan_out() == FanOut::All
            && self.reads.wanted_round().is_some()
            && !self.progress[position].is_probing()
    }

    /// Sends the peer at `position` one `AppendEntries` of the current message round (numbered
    /// batch of messages). `entries` start at the peer's next index; without entries, the message
    /// is a heartbeat.
    fn emit(
        &mut self,
        position: usize,
        entries: Vec<Entry>,
        shared: &mut Shared,
        out: &mut Effects,
    ) {
        let progress = &self.progress[position];
        let prev = if progress.is_receiving_snapshot() {
            // The log no longer has what the peer lacks. This proves nothing about its log, only
            // that the leader is alive.
            EntryId::ZERO
        } else if entries.is_empty() && !progress.is_probing() {
            // A `prev` past entries in flight would be rejected if the heartbeat overtook them.
            shared.log.id_at(progress.match_index())
        } else {
            shared.log.id_at(progress.next_index().previous())
        };
        let sent = entries
            .last()
            .map(|last| (last.index(), entries.iter().map(|entry| entry.record().len()).sum()));
        assert!(
            entries.first().is_none_or(|first| first.index() == prev.index.next()),
            "{:?} is sent after {prev}",
            entries.first()
        );
        let commit_index = shared.shown_commit_index();
        assert!(
            prev.index <= shared.log.last().index && commit_index <= shared.commit_index(),
            "a message with prev {prev} and commit index {commit_index}, but {} is committed",
            shared.commit_index()
        );
        let progress = &mut self.progress[position];
        progress.sent_commit_index = commit_index;
        progress.record_sent(shared.now, self.round, sent);
        let append = AppendEntries {
            term: shared.term(),
            round: self.round,
            prev,
            commit_index,
            loss_permille: shared.loss_permille,
            transfer_to: self.transfer.announced_target(),
            entries,
        };
        let to = progress.id;
        shared.send(to, PeerMsg::AppendEntries(append), out);
    }

    fn heartbeat_at(&self, position: usize, shared: &Shared) -> Instant {
        let progress = &self.progress[position];
        let interval = if progress.is_silent(shared.loss_permille) {
            shared.config.heartbeat_interval_silent
        } else {
            shared.config.heartbeat_interval
        };
        progress.last_sent_at.map_or(shared.now, |at| at + interval)
    }

    /// Returns when 5/8 of the check-quorum window will have passed without replies from a quorum;
    /// [`Instant::MAX`] if this replica is the only voter. After that time, and until a quorum
    /// answers again, the leader no longer sends new entries as they arrive, because they could not
    /// be committed.
    fn quorum_silent_at(&self, shared: &Shared) -> Instant {
        if shared.membership.is_only_voter() {
            return Instant::MAX;
        }
        let window = timing::check_quorum_window(&shared.config, shared.loss_permille);
        self.quorum_heard_at(shared) + window * 5 / 8
    }

    /// Returns when to probe all peers because no quorum has answered. Without these probes, a
    /// leader that sends to a rotating subset of peers could step down after a few lost messages
    /// although all replicas are healthy. The intervals between probes are 1, 2, and from then on 4
    /// times `quorum_probe_interval`.
    fn quorum_probe_at(&self, shared: &Shared) -> Instant {
        if shared.membership.is_only_voter() {
            return Instant::MAX;
        }
        let silent = self.quorum_silent_at(shared);
        match self.quorum_probed_at {
            Some(at) if at >= self.quorum_heard_at(shared) => {
                let interval = shared.config.quorum_probe_interval;
                silent.max(at + interval * (1 << self.quorum_probes.min(2)))
            }
            _ => silent,
        }
    }

    /// Estimates the message loss in one direction from the share of the leader's messages that
    /// peers answered, assuming that messages and replies are lost equally often. Ignores peers
    /// that seem to be down.
    fn measure_loss(&mut self, shared: &mut Shared) {
        let alive = self.progress.iter().filter(|peer| !peer.is_silent(shared.loss_permille));
        let (answered, samples) =
            alive.map(Progress::answered_share).fold((0.0, 0.0), |(sum, all), (share, samples)| {
                (sum + share * samples, all + samples)
            });
        if samples >= MEASURED_MIN {
            let one_way = (answered / samples).clamp(0.0, 1.0).sqrt();
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 0 and 1000"
            )]
            let permille = ((1.0 - one_way) * 1000.0).round() as u16;
            assert!(permille <= 1000, "a loss of {permille} permille");
            shared.loss_permille = permille;
        }
        let answering = self.progress.iter().filter(|peer| !peer.is_silent(shared.loss_permille));
        let answering = answering.count() + 1;
        let voters = shared.membership.plain_voter_count();
        let is_exact_quorum =
            voters.is_some_and(|voters| answering == quorum(voters, &shared.config));
        let limit = if is_exact_quorum { NO_SPARE_LOSS_PERMILLE } else { LOSSY_PERMILLE };
        for progress in &mut self.progress {
            progress.retransmits_soon = shared.loss_permille >= limit;
        }
    }
}
