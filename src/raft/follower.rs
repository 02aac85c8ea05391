//! The follower role: merges the leader's entries, votes, and campaigns when it has not heard a
//! leader for an election timeout.

use crate::record::Entry;
use crate::types::{EntryId, Index, Instant, NodeId, Round, Term};

use super::effects::{Effects, RejectReason};
use super::message::{AppendEntries, AppendOutcome, AppendReply, PeerMsg, RequestVote, VoteReply};
use super::role::Transition;
use super::rules::{self, Acknowledgement};
use super::shared::Shared;
use super::transfer;

/// The state of a replica that is following a leader or waiting for one.
///
/// Invariant: `matched_index` is never past the log's end, because the leader of a term only
/// appends to its log, and this replica truncates its log only where it differs from the leader's.
#[derive(Debug)]
pub(super) struct Follower {
    /// Time at which the follower starts a campaign if until then it neither hears from a leader
    /// nor grants a vote.
    election_at: Instant,
    /// Index up to which this replica's log is known to be equal to the log of the current term's
    /// leader.
    pub(super) matched_index: Index,
    /// Round number of the last snapshot chunk that this replica accepted for storage in this term;
    /// 0 if there was none. It identifies a batch of the leader's messages. When the snapshot is
    /// installed, the reply that reports this to the leader echoes the number.
    pub(super) install_round: Round,
}

impl Follower {
    /// Returns a follower with a new random election timeout and a `matched_index` of zero.
    pub(super) fn new(shared: &mut Shared) -> Follower {
        let timeout = shared.draw_election_timeout();
        Follower::with_timeout_at(shared.now + timeout)
    }

    fn with_timeout_at(election_at: Instant) -> Follower {
        Follower { election_at, matched_index: Index::ZERO, install_round: Round(0) }
    }

    /// Returns the follower state of a replica that has just started. The election timeout is
    /// measured from the end of the silent period after the start, in which peer messages are
    /// ignored.
    pub(super) fn at_start(shared: &mut Shared) -> Follower {
        // A new replica has had no leader to wait for: it waits as configured.
        let timeout = if shared.leader_heard_at.is_none() {
            shared.draw_first_election_timeout() + shared.config.first_election_delay
        } else {
            shared.draw_election_timeout()
        };
        Follower::with_timeout_at(shared.silent_until + timeout)
    }

    /// Shortens the election timeout of a new replica (in term 0, and without having heard from a
    /// leader), because a client's request is waiting. The timeout stays partly random, so that the
    /// replicas of a new cluster do not all campaign at once.
    pub(super) fn hurry_first_election(&mut self, shared: &mut Shared) {
        if shared.leader_heard_at.is_none() && shared.term() == Term(0) && !shared.config.is_witness
        {
            let random_part = shared.draw_first_election_timeout();
            let at = shared.now.max(shared.silent_until) + random_part / 4;
            self.election_at = self.election_at.min(at);
        }
    }

    /// Resets the state for a higher term: no entry is known to match the new leader's log. Keeps
    /// the election timeout running, because a higher term alone does not prove that there is a
    /// leader.
    pub(super) fn at_new_term(self) -> Follower {
        Follower::with_timeout_at(self.election_at)
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
            PeerMsg::TimeoutNow(now) => return transfer::on_timeout_now(shared, from, now),
            PeerMsg::AppendEntries(append) => self.on_append_entries(shared, from, &append, out),
            PeerMsg::RequestVote(request) => self.on_request_vote(shared, from, request, out),
            PeerMsg::InstallSnapshot(install) => {
                self.on_install_snapshot(shared, from, install, out);
            }
            // Replies to an earlier role of this replica.
            PeerMsg::AppendReply(_) | PeerMsg::VoteReply(_) | PeerMsg::InstallReply(_) => {
                shared.counters.stale += 1;
            }
            PeerMsg::Rejoin(_) | PeerMsg::RejoinReply(_) => {
                unreachable!("messages about rejoining are handled in every role alike")
            }
        }
        Transition::Stay
    }

    pub(super) fn handle_timeout(&mut self, shared: &mut Shared) -> Transition {
        if shared.now < self.election_at {
            return Transition::Stay;
        }
        if shared.disk.is_stalled()
            || shared.is_rejoining()
            || !shared.may_campaign()
            || shared.term() == Term::MAX
        {
            // It could not make its own vote durable, or must not campaign.
            self.election_at = shared.now + shared.draw_election_timeout();
            return Transition::Stay;
        }
        Transition::Campaign
    }

    /// Records a message from this term's leader, and restarts the election timeout.
    pub(super) fn heard_leader(&mut self, shared: &mut Shared, from: NodeId, out: &mut Effects) {
        shared.heard_leader(from);
        shared.redirect_waiting(out);
        self.election_at = shared.now + shared.draw_election_timeout();
    }

    /// Returns the index up to which this replica's log can no longer change in this term: its
    /// entries are committed, or known to be equal to the leader's.
    pub(super) fn settled_index(&self, shared: &Shared) -> Index {
        shared.commit_index().max(self.matched_index)
    }

    /// Returns the id of the first entry of an append (including `prev`) that differs from an entry
    /// of this replica's log that can no longer change; `None` if there is no such entry.
    fn find_contradiction(&self, shared: &Shared, append: &AppendEntries) -> Option<EntryId> {
        let settled = self.settled_index(shared);
        std::iter::once(append.prev)
            .chain(append.entries.iter().map(Entry::id))
            .take_while(|id| id.index <= settled)
            .find(|&id| shared.contradicts(id))
    }

    /// Handles an `AppendEntries` of the current term's leader: receiver rules 2 to 5 in Figure 2
    /// of the Raft paper. Rule 1, the check of the term, is in `replica/admission.rs`.
    fn on_append_entries(
        &mut self,
        shared: &mut Shared,
        from: NodeId,
        append: &AppendEntries,
        out: &mut Effects,
    ) {
        if let Some(entry) = self.find_contradiction(shared, append) {
            let settled = self.settled_index(shared);
            shared.reject(from, RejectReason::Contradiction { entry, settled }, out);
            return;
        }
        shared.loss_permille = append.loss_permille.min(1_000);
        if let Some(target) = append.transfer_to {
            shared.announced_transfer = Some((append.term, target));
        }
        self.heard_leader(shared, from, out);
        // Entries up to the base are committed, so this term's leader has them too.
        let base = shared.log.base().index;
        if append.prev.index >= base && !shared.log.holds(append.prev) {
            // `prev` itself differs, so the logs agree before it at most.
            let before = append.prev.index.previous().min(shared.log.last().index);
            let hint = EntryId { term: append.prev.term, index: before };
            let hint = shared.log.last_agreement(hint);
            assert!(hint.index <= before, "hint {hint} for a rejected {}", append.prev);
            let outcome = AppendOutcome::Reject { refused: append.prev.index, hint };
            let reply = reply_to(append, outcome, shared);
            shared.send(from, reply, out);
            return;
        }
        let compacted = append.entries.partition_point(|entry| entry.index() <= base);
        let entries = shared.disk.storable(&append.entries[compacted..], &shared.log);
        shared.splice(entries);
        let proven = Index(append.prev.index.0 + (compacted + entries.len()) as u64);
        self.matched_index = self.matched_index.max(proven).max(base);
        self.check(shared);
        let commit_index = rules::proven_commit_index(
            append.commit_index,
            self.matched_index,
            shared.log.last().index,
            &shared.config,
        );
        shared.commit_to(commit_index, false);
        assert!(shared.leader == Some(from), "{:?} leads, not {from}", shared.leader);
        // A notice of the commit index asks for no reply.
        if append.round > Round(0) {
            self.acknowledge(shared, from, append, out);
        }
    }

    /// Acknowledges to the leader the entries that are durable and equal to the leader's log. The
    /// reply to a heartbeat is sent at once; the reply to an append with entries waits until these
    /// entries are durable.
    fn acknowledge(
        &self,
        shared: &mut Shared,
        from: NodeId,
        append: &AppendEntries,
        out: &mut Effects,
    ) {
        let acknowledgement = rules::acknowledgement(
            self.matched_index,
            shared.log.durable_index(),
            shared.log.last().index,
            !append.entries.is_empty(),
            &shared.config,
        );
        match acknowledgement {
            Acknowledgement::Now(index) => {
                let reply = reply_to(append, AppendOutcome::Match { index }, shared);
                shared.send(from, reply, out);
            }
            Acknowledgement::WhenDurable(index) => {
                let reply = reply_to(append, AppendOutcome::Match { index }, shared);
                shared.send_when_durable(from, reply);
            }
        }
    }

    /// Grants a vote if receiver rule 2 of `RequestVote` (Figure 2 of the Raft paper) allows it and
    /// no leader can be holding a lease. The request's term must be the current one. Sends no reply
    /// to a refused request, because candidates count granted votes only.
    fn on_request_vote(
        &mut self,
        shared: &mut Shared,
        from: NodeId,
        request: RequestVote,
        out: &mut Effects,
    ) {
        assert!(
            request.term == shared.term(),
            "a request for term {} in term {}",
            request.term,
            shared.term()
        );
        let is_repeated = shared.voted_for() == Some(from);
        // This is also checked where a request raises the term. It is checked here because another
        // message may have raised the term while the previous term's leader may still hold a lease.
        let is_lease_protected = !is_repeated
            && !shared.is_announced_transfer(from, &request)
            && shared.leader_may_hold_lease();
        if is_lease_protected
            || !rules::vote_is_free(shared.voted_for(), from, &shared.config)
            || !shared.is_up_to_date(request.last)
        {
            return;
        }
        shared.vote_for(from);
        self.election_at = shared.now + shared.draw_election_timeout();
        let reply = VoteReply { term: request.term, pre: false, granted: true };
        shared.send(from, PeerMsg::VoteReply(reply), out);
    }

    /// Panics if the invariant of [`Follower`] is violated.
    pub(super) fn check(&self, shared: &Shared) {
        assert!(
            self.matched_index <= shared.log.last().index,
            "matched up to {}, but the log ends with {}",
            self.matched_index,
            shared.log.last()
        );
    }
}

fn reply_to(append: &AppendEntries, outcome: AppendOutcome, shared: &Shared) -> PeerMsg {
    let disk = shared.disk.state();
    let (term, round, level) = (append.term, append.round, shared.config.feature_level);
    PeerMsg::AppendReply(AppendReply { term, round, disk, level, outcome })
}
