//! The candidate role: requests pre-votes (thesis 9.6) and then votes (§5.2). Repeats the requests
//! within a campaign, because messages may be lost.

use std::time::Duration;

use crate::types::{EntryId, Instant, NodeId};

use super::effects::Effects;
use super::message::{PeerMsg, RequestVote, VoteReply};
use super::role::Transition;
use super::shared::Shared;
use super::timing;

/// The phase of a candidate's campaign: first pre-votes, then votes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum VotePhase {
    /// The candidate asks whether peers would vote for it in the next term. A pre-vote does not
    /// change the term, and a peer may grant pre-votes to several candidates.
    PreVote,
    /// The candidate has started a new term and voted for itself, and asks its peers for votes.
    Vote,
}

/// The state of a replica that is campaigning for leadership.
///
/// Invariant: in [`VotePhase::Vote`] the replica has voted for itself in the current term.
#[derive(Debug)]
pub(super) struct Candidate {
    phase: VotePhase,
    /// Whether this campaign is part of a leadership transfer: the previous term's leader asked
    /// this replica to campaign.
    transfer: bool,
    /// Peers that have granted a vote or, in [`VotePhase::PreVote`], a pre-vote. Each peer is
    /// listed only once.
    granted: Vec<NodeId>,
    /// Peers from which this replica has received any message during this campaign.
    heard: Vec<NodeId>,
    /// Time at which to end the pre-vote phase and start the election; `None` until a quorum has
    /// granted pre-votes. The delay after that lets a replica with a longer log campaign instead.
    /// Otherwise, uncommitted entries that only the longer log contains could be lost.
    stand_at: Option<Instant>,
    /// Whether this replica has yielded to another pre-candidate: it requests no more pre-votes and
    /// cannot win this campaign. Always false in [`VotePhase::Vote`].
    has_yielded: bool,
    attempts_left: u32,
    retry_interval: Duration,
    next_attempt_at: Instant,
    /// Time at which this campaign ends if no candidate has won by then; the replica may then start
    /// a new one.
    deadline: Instant,
}

impl Candidate {
    pub(super) fn new(shared: &mut Shared, phase: VotePhase, transfer: bool) -> Candidate {
        assert!(
            phase == VotePhase::PreVote || shared.voted_for() == Some(shared.id),
            "a candidate that voted for {:?} in term {}",
            shared.voted_for(),
            shared.term()
        );
        let attempts = timing::vote_attempts(
            &shared.config,
            shared.loss_permille,
            shared.isolated_campaigns,
            shared.lost_campaigns,
        );
        let timeout =
            timing::campaign_timeout(&shared.config, shared.isolated_campaigns, &mut shared.rng);
        Candidate {
            phase,
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

    pub(super) fn phase(&self) -> VotePhase {
        self.phase
    }

    /// Returns the time at which this campaign ends if no candidate has won by then.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(super) fn next_timeout(&self) -> Instant {
        let attempt = if self.attempts_left > 0 { self.next_attempt_at } else { Instant::MAX };
        let stand = self.stand_at.filter(|_| !self.has_yielded).unwrap_or(Instant::MAX);
        attempt.min(self.deadline).min(stand)
    }

    /// Records that this replica has received a message from the peer `from` during this campaign.
    pub(super) fn record_heard(&mut self, from: NodeId) {
        if !self.heard.contains(&from) {
            self.heard.push(from);
        }
    }

    /// Yields to the pre-candidate `other`, whose log ends with `last`, if that log is more up to
    /// date than this replica's. If the logs are equally up to date, a witness yields to a replica
    /// with data, and otherwise the one with the lower id yields. Replicas without a vote, such as
    /// removed ones, are not yielded to. This replica then requests no more
    /// pre-votes in this campaign, but still grants them. So of several competing pre-candidates,
    /// only one continues.
    pub(super) fn yield_to(&mut self, other: NodeId, last: EntryId, shared: &Shared) {
        if self.phase == VotePhase::PreVote
            && shared.membership.votes(other)
            && (last, !shared.membership.is_witness(other), other)
                > (shared.log.last(), !shared.config.is_witness, shared.id)
        {
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
            PeerMsg::VoteReply(reply) => return self.on_vote_reply(shared, from, *reply),
            // This replica has voted for itself in this term, and the replies are to messages that
            // it sent as an earlier leader.
            PeerMsg::RequestVote(_) | PeerMsg::AppendReply(_) | PeerMsg::InstallReply(_) => {
                shared.counters.stale += 1;
            }
            PeerMsg::AppendEntries(_) | PeerMsg::InstallSnapshot(_) | PeerMsg::TimeoutNow(_) => {
                unreachable!("a message of this term's leader makes a candidate a follower first")
            }
            PeerMsg::Rejoin(_) | PeerMsg::RejoinReply(_) => {
                unreachable!("messages about rejoining are handled in every role alike")
            }
        }
        Transition::Stay
    }

    pub(super) fn handle_timeout(&mut self, shared: &mut Shared, out: &mut Effects) -> Transition {
        if shared.now >= self.deadline {
            if shared.has_quorum(|id| id == shared.id || self.heard.contains(&id)) {
                shared.isolated_campaigns = 0;
                shared.lost_campaigns += 1;
            } else {
                shared.record_isolated_campaign();
            }
            if shared.disk.is_stalled() || !shared.may_campaign() || shared.config.is_witness {
                // A stalled disk could not make this replica's own vote durable. A witness waits
                // before it campaigns again.
                return Transition::Follow { term: shared.term(), leader: None };
            }
            return Transition::Campaign;
        }
        if self.attempts_left > 0 && shared.now >= self.next_attempt_at {
            self.ask(shared, out);
        }
        self.count_votes(shared)
    }

    /// Sends a vote request (or pre-vote request) to all peers that have not granted one yet.
    pub(super) fn ask(&mut self, shared: &mut Shared, out: &mut Effects) {
        assert!(self.attempts_left > 0, "a candidate asks more often than planned");
        self.attempts_left -= 1;
        self.next_attempt_at = shared.now + self.retry_interval;
        let pre = self.phase == VotePhase::PreVote;
        let term = if pre { shared.term().next() } else { shared.term() };
        let last = shared.log.last();
        let request = RequestVote { term, pre, transfer: self.transfer, last };
        let is_asked = |peer: &NodeId| shared.membership.votes(*peer);
        let peers = shared.membership.peers().iter().copied().filter(is_asked);
        let unanswered: Vec<NodeId> = peers.filter(|peer| !self.granted.contains(peer)).collect();
        for peer in unanswered {
            shared.send(peer, PeerMsg::RequestVote(request), out);
        }
    }

    /// Returns the transition to the next phase or to leader if a quorum has granted pre-votes or
    /// votes; otherwise [`Transition::Stay`].
    ///
    /// The replica's own vote is counted only once it is durable. So the replica cannot become
    /// leader earlier, even if its peers' votes have already arrived.
    pub(super) fn count_votes(&mut self, shared: &Shared) -> Transition {
        let has_vote = |id: NodeId| id == shared.id || self.granted.contains(&id);
        let own_counts = self.phase == VotePhase::PreVote || shared.hard_state_is_durable();
        if !shared.has_quorum(has_vote) {
            // An installed snapshot can bring other voters.
            self.stand_at = None;
            return Transition::Stay;
        }
        if !own_counts || self.has_yielded {
            return Transition::Stay;
        }
        if self.phase == VotePhase::Vote {
            return Transition::Lead;
        }
        let has_every_vote = shared.membership.all_voters(has_vote);
        let stand_at = *self.stand_at.get_or_insert(shared.now + shared.config.pre_vote_delay);
        if has_every_vote || shared.now >= stand_at { Transition::Stand } else { Transition::Stay }
    }

    fn on_vote_reply(&mut self, shared: &mut Shared, from: NodeId, reply: VoteReply) -> Transition {
        let is_answer = match self.phase {
            VotePhase::PreVote => reply.pre && reply.term == shared.term().next(),
            VotePhase::Vote => !reply.pre && reply.term == shared.term(),
        };
        if !is_answer || !reply.granted {
            shared.counters.stale += 1;
            return Transition::Stay;
        }
        if !self.granted.contains(&from) {
            self.granted.push(from);
        }
        self.count_votes(shared)
    }

    /// Panics if the invariant of [`Candidate`] is violated.
    pub(super) fn check(&self, shared: &Shared) {
        assert!(
            self.phase == VotePhase::PreVote || shared.voted_for() == Some(shared.id),
            "a candidate that voted for {:?} in term {}",
            shared.voted_for(),
            shared.term()
        );
        assert!(
            !self.has_yielded || self.phase == VotePhase::PreVote,
            "a candidate yields in an election"
        );
        assert!(shared.leader.is_none(), "a candidate that follows {:?}", shared.leader);
    }
}
