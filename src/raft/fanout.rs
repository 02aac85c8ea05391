//! Whom a leader sends to, when, and what: new entries to all or to a thrifty, rotating quorum,
//! retransmission by measured round trip, heartbeats to whoever had nothing else, and a word to
//! all when a quorum has been silent for long.
//!
//! One rule covers new entries, retransmission, dead peers and read confirmations: the leader
//! has a goal (a log index, and a round if reads wait), some peers have reached it, of some it
//! may be hoped that they will, and where both together are too few it sends to more, those
//! first that have had nothing for the longest time.

use std::cmp::Reverse;

use crate::config::FanOut;
use crate::types::{EntryId, Index, Instant, Round};

use super::effects::Effects;
use super::leader::Leader;
use super::message::{AppendEntries, PeerMsg};
use super::progress::Progress;
use super::quorum::quorum;
use super::shared::Shared;
use super::timing;

/// What the leader wants of its peers.
#[derive(Clone, Copy, Debug)]
struct Goal {
    index: Index,
    round: Round,
    /// How many peers shall reach it.
    peers: usize,
    /// How many more to send to at the first try, lest some of the messages get lost.
    spare: usize,
}

/// From this loss on, in a thousand, thrifty sending goes to one more peer than needed: with
/// two of four the chance that both answers come at the first try is below a third there.
const SPARE_LOSS_PERMILLE: u16 = 200;

/// Messages whose fate must be known before they count for more than the estimate of the leader
/// before.
const MEASURED_MIN: f64 = 12.0;

/// A peer that lacks more entries than this, or than an append holds, is kept going.
const CATCH_UP_ENTRIES: usize = 64;

impl Goal {
    fn is_reached_by(self, progress: &Progress) -> bool {
        progress.match_index() >= self.index && progress.acked_round >= self.round
    }

    fn is_hoped_of(self, progress: &Progress, shared: &Shared) -> bool {
        progress.is_awaiting(shared.now, &shared.config)
            && progress.covers(self.index)
            && progress.sent_round >= self.round
    }
}

impl Leader {
    /// Sends what there is to send. Called once at the end of a batch, so that one append
    /// carries all that the batch brought.
    pub(super) fn replicate(&mut self, shared: &mut Shared, out: &mut Effects) {
        self.measure_loss(shared);
        for progress in &mut self.progress {
            progress.end_rest(shared.now);
            progress.expire(shared.now, &shared.config);
        }
        self.send_snapshots(shared, out);
        let round_before = self.round;
        for peer in std::mem::take(&mut self.owed) {
            let position = self.progress.iter().position(|progress| progress.id == peer);
            self.send(position.expect("admitted a peer"), true, round_before, shared, out);
        }
        if shared.now >= self.quorum_probe_at(shared) {
            let first = self.probed_at.is_none_or(|at| at < self.quorum_heard_at(shared));
            self.probes = if first { 0 } else { self.probes + 1 };
            self.probed_at = Some(shared.now);
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
                let silent = self.progress[position].is_silent(shared.loss_permille);
                self.send(position, !silent, round_before, shared, out);
            }
        }
        self.show_commit(round_before, shared, out);
    }

    /// Sends the commit index by itself to whom nothing else has brought it in time.
    fn show_commit(&mut self, round_before: Round, shared: &mut Shared, out: &mut Effects) {
        let Some(patience) = shared.config.commit_notice_after else { return };
        let commit_index = shared.shown_commit_index();
        let unshown = |progress: &Progress, shared: &Shared| {
            progress.shown_commit_index < commit_index
                && !progress.is_silent(shared.loss_permille)
                && !progress.is_in_transfer()
        };
        if !self.progress.iter().any(|progress| unshown(progress, shared)) {
            self.unshown_since = None;
            return;
        }
        let since = *self.unshown_since.get_or_insert(shared.now);
        if shared.now < since + patience {
            return;
        }
        self.unshown_since = None;
        for position in 0..self.progress.len() {
            if unshown(&self.progress[position], shared) {
                self.send(position, false, round_before, shared, out);
            }
        }
    }

    /// When there is something to do for `replicate` although nothing came in.
    pub(super) fn next_timeout(&self, shared: &Shared) -> Instant {
        let mut next = self.steps_down_at(shared).min(self.quorum_probe_at(shared));
        next = next.min(self.next_chunk_at(shared)).min(self.handover_at(shared));
        let goal = self.goal(shared);
        let reached = self.progress.iter().filter(|progress| goal.is_reached_by(progress)).count();
        for (position, progress) in self.progress.iter().enumerate() {
            next = next.min(self.heartbeat_at(position, shared));
            if reached < goal.peers && !goal.is_reached_by(progress) {
                let at = progress.retransmit_at(&shared.config);
                next = next.min(at.unwrap_or(Instant::MAX));
            }
        }
        if let (Some(since), Some(patience)) =
            (self.unshown_since, shared.config.commit_notice_after)
        {
            next = next.min(since + patience);
        }
        next
    }

    fn goal(&self, shared: &Shared) -> Goal {
        let last = shared.log.last().index;
        let round = self.reads.wanted_round().unwrap_or(Round(0));
        let thrifty = quorum(shared.replicas(), &shared.config) - 1;
        let first_try = last > self.tried_index || round > self.tried_round;
        let spare = usize::from(first_try && shared.loss_permille >= SPARE_LOSS_PERMILLE);
        match shared.config.fan_out {
            FanOut::All => Goal { index: last, round, peers: self.progress.len(), spare: 0 },
            // What is committed already reaches the others in their turn.
            FanOut::Thrifty if last > shared.commit_index() => {
                Goal { index: last, round, peers: thrifty, spare }
            }
            FanOut::Thrifty => Goal { index: Index::ZERO, round, peers: thrifty, spare },
        }
    }

    fn pursue_goal(&mut self, round_before: Round, shared: &mut Shared, out: &mut Effects) {
        let goal = self.goal(shared);
        let reached = self.progress.iter().filter(|there| goal.is_reached_by(there)).count();
        if reached >= goal.peers {
            return;
        }
        let hoped = self
            .progress
            .iter()
            .filter(|there| !goal.is_reached_by(there) && goal.is_hoped_of(there, shared))
            .count();
        let mut order = std::mem::take(&mut self.order);
        order.clear();
        order.extend((0..self.progress.len()).filter(|&position| {
            let progress = &self.progress[position];
            !goal.is_reached_by(progress)
                && !goal.is_hoped_of(progress, shared)
                && !self.spares(position, shared)
        }));
        // Least recently served first: the chosen set rotates, nobody falls behind, and those
        // passed over now hear from the leader next time. Those that seem dead come last, and
        // among those served at the same time whoever gave a sign of life first.
        order.sort_unstable_by_key(|&position| {
            let progress = &self.progress[position];
            let silent = progress.is_silent(shared.loss_permille);
            (silent, progress.last_sent_at, Reverse(progress.heard_at), progress.id)
        });
        self.tried_index = shared.log.last().index;
        self.tried_round = goal.round;
        let mut missing = (goal.peers + goal.spare).saturating_sub(reached + hoped);
        for &position in &order {
            if missing == 0 {
                break;
            }
            if self.send_towards(position, goal, round_before, shared, out) {
                missing -= 1;
            }
        }
        self.order = order;
    }

    /// Keeps a peer going that is behind by more than one append. Its turn in the rotation, or
    /// a heartbeat, would bring it only one more each time.
    fn catch_up(&mut self, round_before: Round, shared: &mut Shared, out: &mut Effects) {
        let enough = shared.config.append_entries_max.min(CATCH_UP_ENTRIES) as u64;
        let last = shared.log.last().index;
        for position in 0..self.progress.len() {
            let progress = &self.progress[position];
            let behind = (last.next().0 - progress.next_index().0) > enough;
            if behind
                && !progress.is_probing()
                && !progress.is_silent(shared.loss_permille)
                && progress.has_room(&shared.config)
                && !self.spares(position, shared)
            {
                self.send(position, true, round_before, shared, out);
            }
        }
    }

    /// Sends to a peer what brings it to the goal, as far as its window has room. Whether the
    /// goal may be hoped of it then.
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
            let lacks_round = progress.sent_round.max(progress.acked_round) < goal.round;
            let may_send = lacks_round || (lacks_entries && progress.has_room(&shared.config));
            if !may_send {
                break;
            }
            let probing = progress.is_probing();
            let sent_before = progress.next_index();
            self.send(position, true, round_before, shared, out);
            self.progress[position].await_answer(shared.now);
            let advanced = self.progress[position].next_index() > sent_before;
            if shared.config.fan_out == FanOut::Thrifty || probing || !advanced {
                break;
            }
        }
        goal.is_hoped_of(&self.progress[position], shared)
    }

    /// Sends one append: entries from the next index on if there are any and the window has
    /// room, else a heartbeat. Once a peer was served in this flush a mere heartbeat is left out.
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
        let entries = if may_store && progress.has_room(&shared.config) {
            shared.log.slice(
                progress.next_index(),
                shared.config.append_entries_max,
                shared.config.append_bytes_max,
            )
        } else {
            Vec::new()
        };
        let served = self.round > round_before && progress.sent_round == self.round;
        if entries.is_empty() && served {
            return;
        }
        // A heartbeat proves itself where the logs are known to agree; one that pointed past
        // entries still on their way would be refused if it overtook them.
        let prev = if progress.is_in_transfer() {
            // What it lacks is gone: this shows that the leader lives, and proves nothing.
            EntryId::ZERO
        } else if entries.is_empty() && !progress.is_probing() {
            shared.log.id_at(progress.match_index())
        } else {
            shared.log.id_at(progress.next_index().previous())
        };
        if self.round == round_before {
            self.begin_round(shared);
        }
        let sent = entries
            .last()
            .map(|last| (last.index(), entries.iter().map(|entry| entry.record().len()).sum()));
        let progress = &mut self.progress[position];
        progress.shown_commit_index = shared.shown_commit_index();
        progress.sent(shared.now, self.round, sent);
        let append = AppendEntries {
            term: shared.term(),
            round: self.round,
            prev,
            commit_index: shared.shown_commit_index(),
            loss_permille: shared.loss_permille,
            transfer_to: self.handover.announced(),
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

    /// When most of the check-quorum window has passed without word from a quorum. From then on
    /// nothing can commit, and only the probes to all are sent; they carry entries too.
    fn quorum_silent_at(&self, shared: &Shared) -> Instant {
        if self.progress.is_empty() {
            return Instant::MAX;
        }
        let window = timing::check_quorum_window(&shared.config, shared.loss_permille);
        self.quorum_heard_at(shared) + window * 5 / 8
    }

    /// When to send to all because of that: with a rotating few and lost
    /// messages a leader would otherwise lose its lead although everybody is well.
    fn quorum_probe_at(&self, shared: &Shared) -> Instant {
        if self.progress.is_empty() {
            return Instant::MAX;
        }
        let silent = self.quorum_silent_at(shared);
        match self.probed_at {
            Some(at) if at >= self.quorum_heard_at(shared) => {
                silent.max(at + shared.config.quorum_probe_interval * (1 << self.probes.min(2)))
            }
            _ => silent,
        }
    }

    /// One way, from the share of answered messages: both ways lose alike. Peers that seem dead
    /// tell nothing about the network.
    fn measure_loss(&mut self, shared: &mut Shared) {
        let living = self.progress.iter().filter(|there| !there.is_silent(shared.loss_permille));
        let (answered, judged) = living
            .map(Progress::answered_share)
            .fold((0.0, 0.0), |(sum, all), (share, judged)| (sum + share * judged, all + judged));
        if judged >= MEASURED_MIN {
            let one_way = (answered / judged).clamp(0.0, 1.0).sqrt();
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 0 and 1000"
            )]
            let permille = ((1.0 - one_way) * 1000.0).round() as u16;
            shared.loss_permille = permille;
        }
        for progress in &mut self.progress {
            progress.loss_permille = shared.loss_permille;
        }
    }
}
