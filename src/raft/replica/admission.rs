//! Admission of peer messages: the rule of terms (§5.1), and the answers that need no role.

use crate::types::{EntryId, Index, NodeId, Round, Term};

use super::{Replica, Role};
use crate::raft::candidate::VotePhase;
use crate::raft::effects::{Effects, RejectReason};
use crate::raft::message::{AppendOutcome, AppendReply, PeerMsg, RequestVote, VoteReply};
use crate::raft::role::Transition;
use crate::raft::rules;

impl Replica {
    /// Applies Raft's term rules (Raft paper, §5.1) to a peer's message: moves to the message's
    /// term if it is higher, and drops or answers the message if its term is lower. Returns whether
    /// the message must then be handled by the code of the replica's role (follower, candidate or
    /// leader).
    pub(super) fn admit(&mut self, from: NodeId, message: &PeerMsg, out: &mut Effects) -> bool {
        match message {
            PeerMsg::RequestVote(request) if request.pre => {
                self.on_pre_vote(from, *request, out);
                false
            }
            PeerMsg::RequestVote(request) => self.admit_vote_request(from, request, out),
            // A granted pre-vote names the next term, which has not begun.
            PeerMsg::VoteReply(VoteReply { pre: true, granted: true, .. }) => true,
            PeerMsg::VoteReply(reply) => self.admit_reply(from, reply.term, out),
            PeerMsg::AppendReply(reply) => self.admit_reply(from, reply.term, out),
            PeerMsg::InstallReply(reply) => self.admit_reply(from, reply.term, out),
            PeerMsg::AppendEntries(append) => {
                let is_well_formed = append.is_well_formed();
                self.admit_from_leader(from, append.term, is_well_formed, message, out)
            }
            PeerMsg::InstallSnapshot(install) => {
                let is_well_formed = install.is_well_formed();
                self.admit_from_leader(from, install.term, is_well_formed, message, out)
            }
            PeerMsg::TimeoutNow(now) => self.admit_from_leader(from, now.term, true, message, out),
            PeerMsg::Rejoin(_) | PeerMsg::RejoinReply(_) => {
                unreachable!("messages about rejoining are handled in every role alike")
            }
        }
    }

    fn admit_vote_request(
        &mut self,
        from: NodeId,
        request: &RequestVote,
        out: &mut Effects,
    ) -> bool {
        let own = self.shared.term();
        if request.term < own {
            self.deny_vote(from, false, out);
            return false;
        }
        if request.term > own {
            if self.leader_may_hold_lease() && !self.shared.is_announced_transfer(from, request) {
                self.shared.counters.stale += 1;
                return false;
            }
            return self.raise_term(from, request.term, None, out);
        }
        if self.is_free_pre_candidate() {
            // It has not started a term of its own: it votes as the follower that it was.
            self.enter(Transition::Follow { term: own, leader: None }, out);
        }
        true
    }

    fn admit_reply(&mut self, from: NodeId, term: Term, out: &mut Effects) -> bool {
        let own = self.shared.term();
        if term > own {
            self.raise_term(from, term, None, out);
            return false;
        }
        let is_current = rules::reply_is_current(term, own, &self.shared.config);
        self.shared.counters.stale += u64::from(!is_current);
        is_current
    }

    /// Checks a message of a type that only leaders send, and returns whether the message must then
    /// be handled by the code of the replica's role. A candidate of the same term becomes a
    /// follower of the sender (Figure 2 of the Raft paper).
    fn admit_from_leader(
        &mut self,
        from: NodeId,
        term: Term,
        is_well_formed: bool,
        message: &PeerMsg,
        out: &mut Effects,
    ) -> bool {
        let own = self.shared.term();
        if !is_well_formed {
            self.shared.counters.malformed += 1;
            return false;
        }
        if term < own {
            self.shared.counters.stale += 1;
            self.tell_deposed_leader(from, message, out);
            return false;
        }
        if term > own {
            return self.raise_term(from, term, Some(from), out);
        }
        if let Some(leader) = self.shared.leader_of_term.filter(|&known| known != from) {
            self.shared.reject(from, RejectReason::SecondLeader { term, leader }, out);
            return false;
        }
        if matches!(self.role, Role::Candidate(_)) {
            self.enter(Transition::Follow { term, leader: Some(from) }, out);
        }
        true
    }

    /// Rejects an append or snapshot from the leader of an earlier term. The reply carries the
    /// current term, so that the old leader steps down.
    fn tell_deposed_leader(&mut self, to: NodeId, message: &PeerMsg, out: &mut Effects) {
        let refused = match message {
            PeerMsg::AppendEntries(append) => append.prev.index,
            PeerMsg::InstallSnapshot(_) => Index::ZERO,
            _ => return,
        };
        let outcome = AppendOutcome::Reject { refused, hint: EntryId::ZERO };
        let (term, disk) = (self.shared.term(), self.shared.disk.state());
        let level = self.shared.config.feature_level;
        let reply = AppendReply { term, round: Round(0), disk, level, outcome };
        self.shared.send(to, PeerMsg::AppendReply(reply), out);
    }

    /// Moves the replica to a message's higher term and returns true. If the term is too high to
    /// have been reached by elections, rejects the message and returns false.
    fn raise_term(
        &mut self,
        from: NodeId,
        term: Term,
        leader: Option<NodeId>,
        out: &mut Effects,
    ) -> bool {
        let own = self.shared.term();
        if !self.shared.may_raise_term(term) {
            self.shared.reject(from, RejectReason::Term { term, own }, out);
            return false;
        }
        self.enter(Transition::Follow { term, leader }, out);
        assert!(
            self.shared.term() == term && self.shared.leader == leader,
            "followed {leader:?} to term {term}, but {:?} leads term {}",
            self.shared.leader,
            self.shared.term()
        );
        true
    }

    /// Returns whether a leader may hold a lease, so that this replica must not vote: within the
    /// minimum election timeout it has heard from a leader or, if it leads itself, from a quorum.
    fn leader_may_hold_lease(&self) -> bool {
        if let Role::Leader(leader) = &self.role {
            let heard_at = leader.quorum_heard_at(&self.shared);
            return self.shared.now.since(heard_at) < self.shared.config.election_timeout_min;
        }
        self.shared.leader_may_hold_lease()
    }

    /// Returns whether this replica is a pre-candidate (asking peers for pre-votes) that has not
    /// voted in the current term.
    fn is_free_pre_candidate(&self) -> bool {
        matches!(&self.role, Role::Candidate(candidate) if candidate.phase() == VotePhase::PreVote)
            && self.shared.voted_for().is_none()
    }

    /// Handles a pre-vote request. Granting a pre-vote changes nothing on this replica. A refusal
    /// is sent only if this replica's term is at least the requested one, so that the sender learns
    /// the term.
    fn on_pre_vote(&mut self, from: NodeId, request: RequestVote, out: &mut Effects) {
        if let Role::Candidate(candidate) = &mut self.role {
            candidate.yield_to(from, request.last, &self.shared);
        }
        if let Role::Leader(leader) = &mut self.role {
            // The leader's message shows this term; if the other's is higher, the reply shows that.
            leader.on_pre_vote(from);
        } else if request.term <= self.shared.term() {
            self.deny_vote(from, true, out);
        } else if !self.shared.may_raise_term(request.term) {
            // It would not get the vote either.
            let reason = RejectReason::Term { term: request.term, own: self.shared.term() };
            self.shared.reject(from, reason, out);
        } else if matches!(self.role, Role::Follower(_))
            && !self.shared.is_rejoining()
            && self.shared.may_campaign()
            && !self.leader_may_hold_lease()
            && self.shared.campaigns_instead_of(from, request.last)
        {
            // This replica has no leader either, and is the better candidate.
            self.enter(Transition::Campaign, out);
        } else if !self.leader_may_hold_lease() && self.shared.is_up_to_date(request.last) {
            let reply = VoteReply { term: request.term, pre: true, granted: true };
            self.shared.send(from, PeerMsg::VoteReply(reply), out);
        }
    }

    fn deny_vote(&mut self, to: NodeId, pre: bool, out: &mut Effects) {
        let reply = VoteReply { term: self.shared.term(), pre, granted: false };
        self.shared.send(to, PeerMsg::VoteReply(reply), out);
    }
}
