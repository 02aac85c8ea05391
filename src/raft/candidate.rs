//! A candidate: asks first whether it would win (pre-vote, thesis 9.6) and then for the votes
//! themselves, several times within one election, because requests get lost.

use std::time::Duration;

use crate::types::{EntryId, Instant, NodeId};

use super::effects::Effects;
use super::message::{PeerMsg, RequestVote, VoteReply};
use super::quorum::quorum;
use super::replica::Transition;
use super::shared::Shared;
use super::timing;

/// What a candidate asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// Whether it would get a vote in the next term. Binds nobody and changes no term.
    PreVote,
    /// For the vote of the term that it has begun.
    Vote,
}

/// A replica that wants to lead.
///
/// Invariant: in [`Stage::Vote`] the replica's own vote of this term is for itself.
#[derive(Debug)]
pub(super) struct Candidate {
    stage: Stage,
    /// Whether the leader of the term before asked for this election.
    transfer: bool,
    /// Who has said yes, itself apart. A set: the same yes twice counts once.
    granted: Vec<NodeId>,
    /// Who has been heard at all.
    heard: Vec<NodeId>,
    /// When it goes on to stand, once a quorum has said that it would win. A little later than
    /// at once, so that one with a longer log can object: what that log holds alone would be lost.
    stand_at: Option<Instant>,
    /// Whether it leaves this election to another. Only in [`Stage::PreVote`].
    has_yielded: bool,
    attempts_left: u32,
    retry_interval: Duration,
    next_attempt_at: Instant,
    deadline: Instant,
}

impl Candidate {
    pub(super) fn new(shared: &mut Shared, stage: Stage, transfer: bool) -> Candidate {
        let attempts =
            timing::vote_attempts(&shared.config, shared.loss_permille, shared.cut_off_campaigns);
        let timeout =
            timing::campaign_timeout(&shared.config, shared.cut_off_campaigns, &mut shared.rng);
        Candidate {
            stage,
            transfer,
            granted: Vec::new(),
            heard: Vec::new(),
            stand_at: None,
            has_yielded: false,
            attempts_left: attempts,
            retry_interval: timing::vote_retry_interval(&shared.config, attempts),
            next_attempt_at: shared.now,
            deadline: shared.now + timeout,
        }
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    /// When it gives this campaign up.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(super) fn next_timeout(&self) -> Instant {
        let attempt = if self.attempts_left > 0 { self.next_attempt_at } else { Instant::MAX };
        let stand = self.stand_at.filter(|_| !self.has_yielded).unwrap_or(Instant::MAX);
        attempt.min(self.deadline).min(stand)
    }

    /// Notes that a peer can be heard, whatever it says.
    pub(super) fn note_heard(&mut self, from: NodeId) {
        if !self.heard.contains(&from) {
            self.heard.push(from);
        }
    }

    /// Another wants to stand too, and has the longer log or, with an equal one, the higher id:
    /// this one goes on answering, but asks no more in this campaign and does not stand. So of
    /// those that hear each other one goes on.
    pub(super) fn yield_to(&mut self, other: NodeId, last: EntryId, shared: &Shared) {
        if self.stage == Stage::PreVote && (last, other) > (shared.log.last(), shared.id) {
            self.attempts_left = 0;
            self.has_yielded = true;
        }
    }

    pub(super) fn handle_msg(
        &mut self,
        shared: &mut Shared,
        from: NodeId,
        message: &PeerMsg,
    ) -> Transition {
        match message {
            PeerMsg::VoteReply(reply) => self.on_vote_reply(shared, from, *reply),
            // Its own vote of this term is given. Answers to appends are for a role it has left,
            // and what a leader of this term sends has made it a follower before it comes here.
            // What is about rejoining never comes to a role.
            PeerMsg::RequestVote(_)
            | PeerMsg::AppendReply(_)
            | PeerMsg::AppendEntries(_)
            | PeerMsg::InstallReply(_)
            | PeerMsg::InstallSnapshot(_)
            | PeerMsg::TimeoutNow(_)
            | PeerMsg::Rejoin(_)
            | PeerMsg::RejoinReply(_) => {
                shared.counters.stale += 1;
                Transition::Stay
            }
        }
    }

    pub(super) fn handle_timeout(&mut self, shared: &mut Shared, out: &mut Effects) -> Transition {
        if shared.now >= self.deadline {
            if self.heard.len() + 1 < quorum(shared.replicas(), &shared.config) {
                shared.cut_off();
            } else {
                shared.cut_off_campaigns = 0;
            }
            if shared.disk.is_stalled() {
                // It could not even vote for itself.
                return Transition::Follow { term: shared.term(), leader: None };
            }
            return Transition::Campaign;
        }
        if self.attempts_left > 0 && shared.now >= self.next_attempt_at {
            self.ask(shared, out);
        }
        self.count(shared)
    }

    /// Asks all that have not said yes.
    pub(super) fn ask(&mut self, shared: &mut Shared, out: &mut Effects) {
        self.attempts_left -= 1;
        self.next_attempt_at = shared.now + self.retry_interval;
        let pre = self.stage == Stage::PreVote;
        let term = if pre { shared.term().next() } else { shared.term() };
        let last = shared.log.last();
        let request = RequestVote { term, pre, transfer: self.transfer, last };
        let silent: Vec<NodeId> =
            shared.peers.iter().copied().filter(|peer| !self.granted.contains(peer)).collect();
        for peer in silent {
            shared.send(peer, PeerMsg::RequestVote(request), out);
        }
    }

    /// Whether the election is won. The own vote counts only once it is on disk, as everybody
    /// else's does, and nobody leads a term before that: the requests leave when it is, but the
    /// answers to them may be here before the disk's word is.
    pub(super) fn count(&mut self, shared: &Shared) -> Transition {
        let waits = self.stage == Stage::Vote && !shared.hard_state_is_durable();
        let votes = self.granted.len() + 1;
        if waits || self.has_yielded || votes < quorum(shared.replicas(), &shared.config) {
            return Transition::Stay;
        }
        if self.stage == Stage::Vote {
            return Transition::Lead;
        }
        let all = self.granted.len() == shared.peers.len();
        let stand_at = *self.stand_at.get_or_insert(shared.now + shared.config.pre_vote_delay);
        if all || shared.now >= stand_at { Transition::Stand } else { Transition::Stay }
    }

    fn on_vote_reply(&mut self, shared: &mut Shared, from: NodeId, reply: VoteReply) -> Transition {
        let asked = match self.stage {
            Stage::PreVote => reply.pre && reply.term == shared.term().next(),
            Stage::Vote => !reply.pre && reply.term == shared.term(),
        };
        if !asked || !reply.granted {
            shared.counters.stale += 1;
            return Transition::Stay;
        }
        if !self.granted.contains(&from) {
            self.granted.push(from);
        }
        self.count(shared)
    }
}
