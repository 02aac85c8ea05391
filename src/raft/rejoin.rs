//! Rejoining after the loss of a disk: a member comes back under its old id with an empty folder.
//! It has forgotten the votes it gave and the entries it acknowledged, so it may do neither again
//! before it knows enough of what it forgot. A recovery protocol in the manner of Viewstamped
//! Replication Revisited (section 4.3), adapted to Raft. R is the rejoining member; its *former
//! life* is everything before its disk was lost.
//!
//! 1. **Ask.** R sends [`Rejoin`] to all other members until each of them has answered with its
//!    term. Meanwhile R ignores every other message: it neither votes nor acknowledges. The term
//!    T that R adopts is the highest of those answered, with its vote in T spent.
//! 2. **Catch up.** R is a follower in T or a later term. It stores and acknowledges entries and
//!    snapshots, but ignores requests for votes and pre-votes and [`TimeoutNow`], and does not
//!    campaign. It goes on asking: an answer of the leader of R's present term names the leader's
//!    last entry, the *target*. A leader of a later term must name a target of its own.
//! 3. **End.** Once R holds everything up to the target durably, as matched with that leader in
//!    that term, it hands the log writer a job with `AppendJob::rejoined`. When that job is
//!    durable, R is a full member.
//!
//! A member that is itself rejoining answers nobody. So at most one member can rejoin at a time:
//! two wait for each other for ever, because what both forgot may be known to nobody else. In a
//! group of two R can rejoin only while the other member still leads, because without R's vote
//! nobody is elected; a lone replica never rejoins.
//!
//! Why R may acknowledge after step 1: a candidate makes its term durable before it asks for
//! votes, so every term in which R voted for another is at most T, and every leader elected with
//! such a vote has a term of at most T. R acknowledges to no leader of an earlier term than T. A
//! majority of answers would not do: R may have voted for exactly the member that did not
//! answer, and would then help the leader of an earlier term to commit what the new leader lacks.
//!
//! A vote that R gave itself as a candidate may be of a later term than T, and forgetting it is no
//! harm: the former life no longer comes to lead. A request of that candidacy may arrive late and
//! be granted, and R may count the vote if it comes to stand in that same term. The voter then
//! compared its log with that of the former life, which ends in a term of at most T. So does the
//! voter's, and what it holds of what was committed is not past the target: what a leader before
//! the one that named the target committed, that one holds; and of its own entries the former
//! life had none that it did not have.
//!
//! Why R may vote after step 3: let an entry be committed in term t with an acknowledgement of
//! the former life. Then t is at most T, and so at most the term of the leader that named the
//! target. If that leader is of a later term than t, it holds the entry by leader completeness,
//! in which R takes part as a member that holds the entry until the loss and does not vote from
//! the loss on. If it is the leader of t, it had the entry before R acknowledged it, and so when
//! it answered. In both cases the entry is not past the target. The same holds for
//! acknowledgements that arrive late.
//!
//! The spent vote is a second line of defence: R rejoins only with an entry of the leader's own
//! term in its log, which no candidate of that term has, so it would not vote in T anyway.
//!
//! A restart while rejoining begins anew at step 1, with the log and the term that were stored
//! meanwhile. R has not voted since the loss, and what it acknowledged since then it holds.

use std::collections::BTreeMap;

use rand_chacha::rand_core::Rng;

use crate::config::Mutant;
use crate::types::{EntryId, Index, Instant, JobSequence, NodeId, Term};

use super::effects::Effects;
use super::leader::Leader;
use super::message::{PeerMsg, Rejoin, RejoinReply, TimeoutNow};
use super::quorum::quorum;
use super::shared::Shared;
use super::status::RejoinStatus;

/// Heartbeat intervals from one request to rejoin to the next.
const ASK_HEARTBEATS: u32 = 2;
/// A peer that asked to rejoin within this many heartbeat intervals counts as still rejoining.
pub(super) const REJOINING_HEARTBEATS: u32 = 3 * ASK_HEARTBEATS;

/// How far a rejoining replica has come.
#[derive(Debug)]
pub(super) struct Rejoining {
    /// Tells the answers to this start of the process from those to an earlier one.
    nonce: u64,
    /// The terms answered so far.
    terms: BTreeMap<NodeId, Term>,
    step: Step,
    /// When to ask again.
    ask_at: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Ask,
    CatchUp {
        target: Option<Target>,
    },
    /// `job` is the job that ends it, once that is handed out.
    End {
        job: Option<JobSequence>,
    },
}

/// What a leader named as its last entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Target {
    leader: NodeId,
    term: Term,
    last: EntryId,
}

/// What a replica does about an answer to its request to rejoin.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answered {
    /// Nothing more.
    Noted,
    /// It adopts this term, which may be its own, with its vote spent: all have answered.
    Adopt(Term),
    /// It follows in this later term.
    Newer(Term),
}

impl Rejoining {
    /// Begins to rejoin. It asks from `ask_at` on.
    pub(super) fn new(rng: &mut impl Rng, ask_at: Instant) -> Rejoining {
        Rejoining { nonce: rng.next_u64(), terms: BTreeMap::new(), step: Step::Ask, ask_at }
    }

    /// When it asks next.
    pub(super) fn ask_at(&self) -> Instant {
        if matches!(self.step, Step::End { .. }) { Instant::MAX } else { self.ask_at }
    }

    /// Whether the job that ends it has not been handed out yet.
    pub(super) fn has_caught_up(&self) -> bool {
        self.step == Step::End { job: None }
    }

    /// The job that ends it was handed out.
    pub(super) fn end_with(&mut self, job: JobSequence) {
        assert!(self.has_caught_up(), "a replica ends rejoining at {:?}", self.step);
        self.step = Step::End { job: Some(job) };
    }

    /// Whether it is over once everything up to `durable` is durable.
    pub(super) fn is_over(&self, durable: JobSequence) -> bool {
        matches!(self.step, Step::End { job: Some(job) } if job <= durable)
    }

    pub(super) fn status(&self, peers: &[NodeId], own: Term) -> RejoinStatus {
        let waits = |peer: &NodeId| self.step == Step::Ask && !self.terms.contains_key(peer);
        RejoinStatus {
            waiting_for: peers.iter().copied().filter(waits).collect(),
            target: match self.step {
                Step::CatchUp { target } => {
                    target.filter(|target| target.term == own).map(|target| target.last.index)
                }
                Step::Ask | Step::End { .. } => None,
            },
        }
    }
}

impl Shared {
    /// Whether this replica lost its disk and is no full member yet.
    pub(super) fn is_rejoining(&self) -> bool {
        self.rejoining.is_some()
    }

    /// Whether a rejoining replica ignores this message.
    pub(super) fn ignores_to_rejoin(&self, message: &PeerMsg) -> bool {
        let Some(rejoining) = &self.rejoining else { return false };
        match message {
            PeerMsg::RejoinReply(_) => false,
            // Not even another that rejoins is told a term: this one may have forgotten a higher.
            PeerMsg::Rejoin(_) | PeerMsg::TimeoutNow(TimeoutNow { .. }) => true,
            PeerMsg::RequestVote(_) => !self.config.breaks(Mutant::VoteWhileRejoining),
            PeerMsg::AppendEntries(_)
            | PeerMsg::AppendReply(_)
            | PeerMsg::VoteReply(_)
            | PeerMsg::InstallSnapshot(_)
            | PeerMsg::InstallReply(_) => rejoining.step == Step::Ask,
        }
    }

    /// Asks the others, if it is time: first those that have not answered, then the leader, or
    /// everybody while none is known. Messages get lost, and acknowledgements of the former life
    /// may arrive at the leader between two requests, so it asks until it is done.
    pub(super) fn ask_to_rejoin(&mut self, out: &mut Effects) {
        let (term, last) = (self.term(), self.log.last());
        let Some(rejoining) = &mut self.rejoining else { return };
        if self.now < rejoining.ask_at() {
            return;
        }
        rejoining.ask_at = self.now + self.config.heartbeat_interval * ASK_HEARTBEATS;
        let (nonce, terms, leader) = (rejoining.nonce, &rejoining.terms, self.leader);
        let is_asked = |peer: &NodeId| match rejoining.step {
            Step::Ask => !terms.contains_key(peer),
            Step::CatchUp { .. } | Step::End { .. } => leader.is_none_or(|leader| leader == *peer),
        };
        let asked: Vec<NodeId> = self.peers.iter().copied().filter(is_asked).collect();
        for peer in asked {
            self.send(peer, PeerMsg::Rejoin(Rejoin { nonce, term, last }), out);
        }
    }

    /// Tells a peer that lost its disk this replica's term and last entry.
    pub(super) fn answer_rejoin(
        &mut self,
        from: NodeId,
        rejoin: Rejoin,
        leads: bool,
        out: &mut Effects,
    ) {
        assert!(!self.is_rejoining(), "{} answers {from}, but is itself rejoining", self.id);
        let (nonce, term, last) = (rejoin.nonce, self.term(), self.log.last());
        self.send(from, PeerMsg::RejoinReply(RejoinReply { nonce, term, leads, last }), out);
    }

    /// Takes in an answer to the request to rejoin.
    pub(super) fn on_rejoin_reply(&mut self, from: NodeId, reply: RejoinReply) -> Answered {
        let (own, replicas) = (self.term(), self.replicas());
        let Some(rejoining) = self.rejoining.as_mut().filter(|there| there.nonce == reply.nonce)
        else {
            self.counters.stale += 1;
            return Answered::Noted;
        };
        match &mut rejoining.step {
            Step::Ask => {
                let term = rejoining.terms.entry(from).or_insert(reply.term);
                *term = (*term).max(reply.term);
                let enough = if self.config.breaks(Mutant::RejoinWithoutAll) {
                    quorum(replicas, &self.config) - 1
                } else {
                    self.peers.len()
                };
                if rejoining.terms.len() < enough {
                    return Answered::Noted;
                }
                let highest = rejoining.terms.values().copied().max().unwrap_or_default();
                rejoining.step = if self.config.breaks(Mutant::RejoinBeforeCaughtUp) {
                    Step::End { job: None }
                } else {
                    Step::CatchUp { target: None }
                };
                // The leader names its last entry when it is asked again.
                rejoining.ask_at = self.now;
                Answered::Adopt(highest.max(own))
            }
            Step::CatchUp { .. } | Step::End { .. } if reply.term > own => {
                Answered::Newer(reply.term)
            }
            Step::CatchUp { target } => {
                let named_before = target.is_some_and(|target| target.term == own);
                if reply.leads && reply.term == own && !named_before {
                    *target = Some(Target { leader: from, term: own, last: reply.last });
                }
                Answered::Noted
            }
            Step::End { .. } => Answered::Noted,
        }
    }

    /// Spends the vote of the present term: it may have been given in the former life. No
    /// candidacy goes with it.
    pub(super) fn spend_vote(&mut self) {
        assert!(self.is_rejoining(), "{} spends its vote without need", self.id);
        if self.term() > Term(0) && self.voted_for().is_none() {
            self.vote_for(self.id);
        }
    }

    /// Notes whether a rejoining replica, whose log matches that of this term's leader up to
    /// `matched`, holds everything up to the target durably.
    pub(super) fn note_caught_up(&mut self, matched: Index) {
        let own = self.term();
        let Some(Rejoining { step: Step::CatchUp { target }, .. }) = &mut self.rejoining else {
            return;
        };
        let Some(Target { leader, term, last }) = *target else { return };
        if term != own || self.leader != Some(leader) {
            return;
        }
        if last.index > matched.min(self.log.durable_index()) {
            return;
        }
        if last.index > self.log.base().index && !self.log.holds(last) {
            // No leader of this term has said that: its log has another entry there.
            *target = None;
            self.counters.malformed += 1;
            return;
        }
        if let Some(rejoining) = &mut self.rejoining {
            rejoining.step = Step::End { job: None };
        }
    }
}

impl Leader {
    /// A peer lost its disk and says where its log ends. What it acknowledged beyond that it
    /// acknowledged in its former life, and no longer has: it is sent everything again.
    ///
    /// That it was counted is no harm. It did hold those entries when it acknowledged them, so
    /// what was committed with that was committed; until it holds them again it does not vote,
    /// and nobody can be elected without them but by its vote. An acknowledgement that is late
    /// may raise the match index once more. The peer asks until it has caught up, and is reset
    /// each time.
    pub(super) fn on_rejoin(&mut self, shared: &Shared, from: NodeId, rejoin: Rejoin) {
        let progress =
            self.progress.iter_mut().find(|progress| progress.id == from).expect("a known peer");
        progress.asked_to_rejoin_at = Some(shared.now);
        let reset = progress.match_index() > rejoin.last.index;
        if reset {
            progress.reset(rejoin.last.index);
        }
        // One that follows in this term already takes entries.
        if reset || rejoin.term == shared.term() {
            self.owe(from);
        }
    }
}

#[cfg(test)]
mod tests;
