//! A follower: takes in the leader's entries, votes, and stands for election when it has heard
//! from no leader for its election timeout.

use crate::config::Mutant;
use crate::record::Entry;
use crate::types::{EntryId, Index, Instant, NodeId, Round, Term};

use super::effects::Effects;
use super::message::{AppendEntries, AppendOutcome, AppendReply, PeerMsg, RequestVote, VoteReply};
use super::replica::Transition;
use super::shared::Shared;

/// The role of most replicas most of the time.
#[derive(Debug)]
pub(super) struct Follower {
    /// When it stands for election unless it hears from a leader or gives its vote before.
    election_at: Instant,
    /// Up to here the log is proven equal to that of this term's leader. Never past it, for the
    /// leader of a term only appends, and this replica truncates only what differs from it.
    pub(super) matched_index: Index,
    /// The round of the last chunk of a snapshot in this term; zero before the first.
    pub(super) install_round: Round,
}

impl Follower {
    pub(super) fn new(shared: &mut Shared) -> Follower {
        let timeout = shared.draw_election_timeout();
        Follower::standing_at(shared.now + timeout)
    }

    /// One that has heard nothing of this term's leader.
    fn standing_at(election_at: Instant) -> Follower {
        Follower { election_at, matched_index: Index::ZERO, install_round: Round(0) }
    }

    /// The role at the start of the process.
    pub(super) fn at_start(shared: &mut Shared) -> Follower {
        // Nobody has led a replica that has just been made: instead of the patience with a
        // leader it waits as long as its configuration says, and the random part.
        let patience = if shared.leader_heard_at.is_none() {
            shared.draw_first_election_timeout() + shared.config.first_election_delay
        } else {
            shared.draw_election_timeout()
        };
        Follower::standing_at(shared.silent_until + patience)
    }

    /// A client waits and there never was a leader: no more time is lost than it takes not to
    /// stand for election all at once.
    pub(super) fn hurry(&mut self, shared: &mut Shared) {
        if shared.leader_heard_at.is_none() && shared.term() == Term(0) {
            let random_part = shared.draw_first_election_timeout();
            let at = shared.now.max(shared.silent_until) + random_part / 4;
            self.election_at = self.election_at.min(at);
        }
    }

    /// A higher term was seen. That alone is no sign of a leader: the patience stays as it was,
    /// but nothing is proven about the new term's leader yet.
    pub(super) fn at_new_term(self) -> Follower {
        Follower::standing_at(self.election_at)
    }

    pub(super) fn election_at(&self) -> Instant {
        self.election_at
    }

    pub(super) fn handle_msg(
        &mut self,
        shared: &mut Shared,
        from: NodeId,
        message: PeerMsg,
        out: &mut Effects,
    ) -> Transition {
        match message {
            PeerMsg::TimeoutNow(now) => return Follower::on_timeout_now(shared, from, now),
            PeerMsg::AppendEntries(append) => self.on_append_entries(shared, from, &append, out),
            PeerMsg::RequestVote(request) => self.on_request_vote(shared, from, request, out),
            // Answers to a role that this replica has left. What is about rejoining never comes to
            // a role.
            PeerMsg::AppendReply(_)
            | PeerMsg::VoteReply(_)
            | PeerMsg::InstallReply(_)
            | PeerMsg::Rejoin(_)
            | PeerMsg::RejoinReply(_) => {
                shared.counters.stale += 1;
            }
            PeerMsg::InstallSnapshot(install) => {
                self.on_install_snapshot(shared, from, install, out);
            }
        }
        Transition::Stay
    }

    pub(super) fn handle_timeout(&mut self, shared: &mut Shared) -> Transition {
        if shared.now < self.election_at {
            return Transition::Stay;
        }
        if shared.disk.is_stalled() || shared.is_rejoining() || shared.term() == Term::MAX {
            // It could not even vote for itself, or must not: others may be better off.
            self.election_at = shared.now + shared.draw_election_timeout();
            return Transition::Stay;
        }
        Transition::Campaign
    }

    /// Notes that this term's leader lives.
    pub(super) fn hear(&mut self, shared: &mut Shared, from: NodeId, out: &mut Effects) {
        shared.heard_leader(from);
        shared.redirect_held(out);
        self.election_at = shared.now + shared.draw_election_timeout();
    }

    /// Up to here this log can't be replaced: it is committed, or proven equal to the log of this
    /// term's leader, which only appends.
    pub(super) fn settled(&self, shared: &Shared) -> Index {
        shared.commit_index().max(self.matched_index)
    }

    /// An entry of an append that differs from this log where that can't be replaced.
    fn contradiction(&self, shared: &Shared, append: &AppendEntries) -> Option<EntryId> {
        let settled = self.settled(shared);
        std::iter::once(append.prev)
            .chain(append.entries.iter().map(Entry::id))
            .take_while(|there| there.index <= settled)
            .find(|&there| shared.contradicts(there))
    }

    /// Receiver rules 2 to 5 of `AppendEntries` (Figure 2); rule 1 is the term rule in `Replica`.
    fn on_append_entries(
        &mut self,
        shared: &mut Shared,
        from: NodeId,
        append: &AppendEntries,
        out: &mut Effects,
    ) {
        let settled = self.settled(shared);
        if let Some(entry) = self.contradiction(shared, append) {
            shared.reject_contradiction(from, entry, settled, out);
            return;
        }
        shared.loss_permille = append.loss_permille.min(1_000);
        if let Some(to) = append.transfer_to {
            shared.announced_transfer = Some((append.term, to));
        }
        self.hear(shared, from, out);
        let disk = shared.disk.state();
        let (term, round) = (append.term, append.round);
        let answer = |outcome| PeerMsg::AppendReply(AppendReply { term, round, disk, outcome });
        // Everything up to the base is committed, so this term's leader holds the same there.
        let base = shared.log.base().index;
        if append.prev.index >= base && !shared.log.holds(append.prev) {
            // Not past `prev`, and not `prev` itself: that is what differs.
            let before = Index(append.prev.index.previous().0.min(shared.log.last().index.0));
            let hint = shared.log.last_agreement(EntryId { term: append.prev.term, index: before });
            let outcome = AppendOutcome::Reject { refused: append.prev.index, hint };
            shared.send(from, answer(outcome), out);
            return;
        }
        let known = append.entries.partition_point(|entry| entry.index() <= base);
        let entries = shared.storable(&append.entries[known..]);
        shared.splice(entries);
        let proven = Index(append.prev.index.0 + (known + entries.len()) as u64);
        self.matched_index = self.matched_index.max(proven).max(base);
        let known = if shared.config.breaks(Mutant::CommitUnclamped) {
            append.commit_index.min(shared.log.last().index)
        } else {
            append.commit_index.min(self.matched_index)
        };
        shared.commit_to(known, false);
        self.acknowledge(shared, from, append, &answer, out);
    }

    /// Answers how far the log is durable and matching. With entries that are not yet on disk
    /// the answer waits for them; without, it leaves at once and vouches for less.
    fn acknowledge(
        &self,
        shared: &mut Shared,
        from: NodeId,
        append: &AppendEntries,
        answer: &dyn Fn(AppendOutcome) -> PeerMsg,
        out: &mut Effects,
    ) {
        let durable_index = shared.log.durable_index();
        if shared.config.breaks(Mutant::AcknowledgeOwnLast) {
            let index = shared.log.last().index;
            shared.send_when_durable(from, answer(AppendOutcome::Match { index }));
        } else if append.entries.is_empty()
            || self.matched_index <= durable_index
            || shared.config.breaks(Mutant::AcknowledgeBeforeSync)
        {
            let index = if shared.config.breaks(Mutant::AcknowledgeBeforeSync) {
                self.matched_index
            } else {
                self.matched_index.min(durable_index)
            };
            shared.send(from, answer(AppendOutcome::Match { index }), out);
        } else {
            let index = self.matched_index;
            shared.send_when_durable(from, answer(AppendOutcome::Match { index }));
        }
    }

    /// Receiver rule 2 of `RequestVote` (Figure 2); the term is this replica's own by now. Who
    /// gets no vote gets no answer: it counts votes, not refusals, and messages cost.
    fn on_request_vote(
        &mut self,
        shared: &mut Shared,
        from: NodeId,
        request: RequestVote,
        out: &mut Effects,
    ) {
        let free = shared.voted_for().is_none_or(|voted| voted == from)
            || shared.config.breaks(Mutant::VoteTwice);
        // The lease is asked about here too and not only where a term is adopted: a late answer
        // may have raised this replica's term while the leader of the one before still serves.
        let repeated = shared.voted_for() == Some(from);
        let bound = !repeated
            && !shared.is_announced_transfer(from, &request)
            && shared.leader_may_hold_lease();
        if !free || bound || !shared.is_up_to_date(request.last) {
            return;
        }
        shared.vote_for(from);
        self.election_at = shared.now + shared.draw_election_timeout();
        let reply = VoteReply { term: request.term, pre: false, granted: true };
        shared.send(from, PeerMsg::VoteReply(reply), out);
    }
}
