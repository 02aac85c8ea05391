//! Rejoining after the loss of a disk: a member comes back under its id with an empty folder.
//!
//! It has forgotten the votes it gave and the entries it acknowledged, so it may neither vote nor
//! acknowledge before it has recovered enough of what it forgot. The protocol follows the recovery
//! of Viewstamped Replication Revisited (section 4.3), adapted to Raft. In the following, R is the
//! rejoining member and *old R* is the same member before it lost its disk.
//!
//! 1. **Ask.** R sends [`Rejoin`] to all other members until each has answered with its term. Until
//!    then R ignores every other message: it neither votes nor acknowledges. It adopts the highest
//!    term answered, T, with its vote in T spent.
//! 2. **Catch up.** R is a follower in T or a later term. It stores and acknowledges entries and
//!    snapshots, but ignores vote requests, pre-votes and [`TimeoutNow`], and does not campaign. It
//!    keeps asking: the reply of the leader of R's current term names the leader's last entry, the
//!    *target*. The leader of a later term must name a target of its own.
//! 3. **Finish.** When R's log is durable up to the target, and matches that leader's log in that
//!    term, R hands the log writer a job with `AppendJob::rejoined`. When that job is done, R is a
//!    full member.
//!
//! A rejoining member does not answer other members' questions. So only one member can rejoin at a
//! time: two would wait for each other forever, because what both forgot may be known to no one
//! else. In a group of two, R can rejoin only while the other member still leads, because without
//! R's vote it cannot be elected. A group of one never rejoins.
//!
//! Why R may acknowledge after step 1: a candidate makes its term durable before it asks for votes.
//! So every term in which old R voted for another member is at most T, and every leader elected
//! with such a vote has a term of at most T. R acknowledges to no leader of a term before T. A
//! majority of answers would not be enough: old R may have voted for exactly the member that has
//! not answered, and R would help the leader of an earlier term to commit entries that the new
//! leader lacks.
//!
//! Old R may have voted for itself in a term later than T. Forgetting that vote is harmless,
//! because old R no longer becomes leader. A request of that candidacy may arrive late and be
//! granted, and R may count the reply if it campaigns in the same term. The voter then compared its
//! log with that of old R, which ends in a term of at most T. So does the voter's own log, and the
//! committed entries in it are not past the target: those that leaders before the target's leader
//! committed, that leader has; and old R had no entry of that leader's term that the leader itself
//! lacked.
//!
//! Why R may vote after step 3: let an entry be committed in term t with an acknowledgement of old
//! R. Then t is at most T, and so at most the term of the leader that named the target. If that
//! leader has a later term than t, it has the entry by leader completeness, which R preserves: it
//! had the entry until the loss, and does not vote from the loss on. If it is the leader of t, it
//! had the entry before old R acknowledged it, and so when it named the target. In both cases the
//! entry is not past the target. The same holds for acknowledgements that arrive late.
//!
//! Spending the vote is a second line of defence: R finishes only with an entry of the leader's own
//! term in its log, which no candidate of that term has, so R would not vote in T anyway.
//!
//! A restart while rejoining starts again at step 1, with the log and the term that were stored
//! meanwhile. R has not voted since the loss, and has the entries that it acknowledged since.

use std::collections::BTreeMap;
use std::time::Duration;

use rand_chacha::rand_core::Rng;

use crate::config::Config;
use crate::types::{EntryId, Index, Instant, JobSequence, NodeId, Term};

use super::log::LogTail;
use super::message::{PeerMsg, Rejoin, RejoinReply};
use super::rules;
use super::status::RejoinStatus;

/// Number of heartbeat intervals between two [`Rejoin`] requests to the same member.
const ASK_HEARTBEATS: u32 = 2;
/// Number of heartbeat intervals for which a peer counts as rejoining after its last [`Rejoin`]
/// request.
pub(super) const REJOINING_HEARTBEATS: u32 = 3 * ASK_HEARTBEATS;

/// The state of a replica that has lost its disk and is rejoining its group.
#[derive(Debug)]
pub(super) struct Rejoining {
    /// Random number generated at each start of the process. Replies echo it, so that replies to
    /// requests from before the last start are recognised.
    nonce: u64,
    /// The members that have answered the [`Rejoin`] request, each with the highest term in its
    /// answers.
    terms: BTreeMap<NodeId, Term>,
    phase: Phase,
    /// When to send the next [`Rejoin`] request.
    ask_at: Instant,
}

/// The steps of the rejoin protocol: ask all members, catch up with the leader, finish.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Ask,
    CatchUp {
        /// The entry up to which the log must be durable: the leader's last entry; `None` until a
        /// leader has named this entry.
        target: Option<Target>,
    },
    Finish {
        /// Number of the log writer's job whose completion ends rejoining; `None` until the job is
        /// handed to the log writer.
        job: Option<JobSequence>,
    },
}

/// The entry that a rejoining replica's log must contain before rejoining ends, with the id and the
/// term of the leader that named it. `last` was the leader's last entry when the leader answered
/// the [`Rejoin`] request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Target {
    leader: NodeId,
    term: Term,
    last: EntryId,
}

/// What a rejoining replica must do after a reply to its [`Rejoin`] request.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answered {
    /// Nothing: the reply answers a request that was sent before the process last started, or this
    /// replica is a full member again.
    Stale,
    /// Nothing: the reply was recorded.
    Recorded,
    /// Adopt this term, which is the highest that any member has named, and cast no vote in it,
    /// because all members have answered. The term may be the current one.
    Adopt(Term),
    /// Follow the sender to this term, which is higher than the replica's own.
    Newer(Term),
}

/// Whether a rejoining replica's log has reached the entry that the leader named (the target).
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CaughtUp {
    /// The log is durable up to the target, and equal to the leader's.
    Yes,
    /// No leader of the current term has named a target, or the log up to the target is not yet
    /// durable, or not yet known to be equal to that leader's log.
    NotYet,
    /// The log is equal to the leader's log up to or past the target's index, but has a different
    /// entry at that index. So no correct leader of this term can have named the target.
    Contradiction,
}

impl Rejoining {
    /// Returns the state of a replica that is starting to rejoin. Its first [`Rejoin`] request is
    /// due at `ask_at`.
    pub(super) fn new(rng: &mut impl Rng, ask_at: Instant) -> Rejoining {
        Rejoining { nonce: rng.next_u64(), terms: BTreeMap::new(), phase: Phase::Ask, ask_at }
    }

    /// Returns when the next [`Rejoin`] request is due; [`Instant::MAX`] once the log has caught
    /// up.
    pub(super) fn ask_at(&self) -> Instant {
        if matches!(self.phase, Phase::Finish { .. }) { Instant::MAX } else { self.ask_at }
    }

    /// Returns whether the log has caught up with the leader, but the log writer's job that ends
    /// rejoining has not been handed out yet.
    pub(super) fn has_caught_up(&self) -> bool {
        self.phase == Phase::Finish { job: None }
    }

    /// Records that rejoining ends when the log writer has done `job`.
    pub(super) fn finish_with(&mut self, job: JobSequence) {
        assert!(self.has_caught_up(), "job {job} ends rejoining in {:?}", self.phase);
        self.phase = Phase::Finish { job: Some(job) };
    }

    /// Returns whether rejoining has ended: whether the job that ends it is among the jobs up to
    /// number `done`, which the log writer has done.
    pub(super) fn is_finished(&self, done: JobSequence) -> bool {
        matches!(self.phase, Phase::Finish { job: Some(job) } if job <= done)
    }

    pub(super) fn status(&self, peers: &[NodeId], own_term: Term) -> RejoinStatus {
        let is_missing = |peer: &NodeId| self.phase == Phase::Ask && !self.terms.contains_key(peer);
        RejoinStatus {
            waiting_for: peers.iter().copied().filter(is_missing).collect(),
            target: match self.phase {
                Phase::CatchUp { target } => {
                    target.filter(|target| target.term == own_term).map(|target| target.last.index)
                }
                Phase::Ask | Phase::Finish { .. } => None,
            },
        }
    }

    /// Returns whether the replica ignores this message because it is rejoining.
    pub(super) fn ignores(&self, message: &PeerMsg, config: &Config) -> bool {
        match message {
            PeerMsg::RejoinReply(_) => false,
            // Another rejoining member gets no answer: this one may have forgotten a higher term.
            PeerMsg::Rejoin(_) | PeerMsg::TimeoutNow(_) => true,
            PeerMsg::RequestVote(_) => rules::ignores_vote_requests_while_rejoining(config),
            PeerMsg::AppendEntries(_)
            | PeerMsg::AppendReply(_)
            | PeerMsg::VoteReply(_)
            | PeerMsg::InstallSnapshot(_)
            | PeerMsg::InstallReply(_) => self.phase == Phase::Ask,
        }
    }

    /// Returns the [`Rejoin`] request to be sent and its receivers; `None` if no request is due.
    /// The receivers are the members that have not answered yet; once all have answered, only the
    /// leader, or all members while no leader is known. The request is repeated until rejoining is
    /// over, because messages get lost, and because late acknowledgements from before the loss of
    /// the disk may reach the leader in between. `own` is the replica's term and its last log
    /// entry.
    pub(super) fn question(
        &mut self,
        now: Instant,
        heartbeat_interval: Duration,
        own: (Term, EntryId),
        peers: &[NodeId],
        leader: Option<NodeId>,
    ) -> Option<(Rejoin, Vec<NodeId>)> {
        if now < self.ask_at() {
            return None;
        }
        self.ask_at = now + heartbeat_interval * ASK_HEARTBEATS;
        let is_asked = |peer: &NodeId| match self.phase {
            Phase::Ask => !self.terms.contains_key(peer),
            Phase::CatchUp { .. } | Phase::Finish { .. } => {
                leader.is_none_or(|leader| leader == *peer)
            }
        };
        let receivers = peers.iter().copied().filter(is_asked).collect();
        let (term, last) = own;
        Some((Rejoin { nonce: self.nonce, term, last }, receivers))
    }

    /// Records a reply to the [`Rejoin`] request, and returns what the replica must do. `peers` is
    /// the number of other members.
    pub(super) fn record_reply(
        &mut self,
        from: NodeId,
        reply: RejoinReply,
        own_term: Term,
        peers: usize,
        now: Instant,
        config: &Config,
    ) -> Answered {
        if reply.nonce != self.nonce {
            return Answered::Stale;
        }
        match &mut self.phase {
            Phase::Ask => {
                let term = self.terms.entry(from).or_insert(reply.term);
                *term = (*term).max(reply.term);
                assert!(self.terms.len() <= peers, "{} of {peers} answers", self.terms.len());
                if self.terms.len() < rules::rejoin_answers_needed(peers, config) {
                    return Answered::Recorded;
                }
                let highest = self.terms.values().copied().max().unwrap_or_default();
                self.phase = if rules::must_catch_up_to_rejoin(config) {
                    Phase::CatchUp { target: None }
                } else {
                    Phase::Finish { job: None }
                };
                // The leader names its last entry when it is asked again.
                self.ask_at = now;
                Answered::Adopt(highest.max(own_term))
            }
            Phase::CatchUp { .. } | Phase::Finish { .. } if reply.term > own_term => {
                Answered::Newer(reply.term)
            }
            Phase::CatchUp { target } => {
                let has_target = target.is_some_and(|target| target.term == own_term);
                if reply.leads && reply.term == own_term && !has_target {
                    *target = Some(Target { leader: from, term: own_term, last: reply.last });
                }
                Answered::Recorded
            }
            Phase::Finish { .. } => Answered::Recorded,
        }
    }

    /// Returns whether the log has reached the entry that the leader named (the target). `matched`
    /// is the index up to which the log is equal to the log of `leader`, the leader of the current
    /// term.
    pub(super) fn compare_with_target(
        &mut self,
        own_term: Term,
        leader: Option<NodeId>,
        matched: Index,
        log: &LogTail,
    ) -> CaughtUp {
        let Phase::CatchUp { target: Some(target) } = self.phase else {
            return CaughtUp::NotYet;
        };
        if target.term != own_term || leader != Some(target.leader) {
            return CaughtUp::NotYet;
        }
        if target.last.index > matched.min(log.durable_index()) {
            return CaughtUp::NotYet;
        }
        if target.last.index > log.base().index && !log.holds(target.last) {
            self.phase = Phase::CatchUp { target: None };
            return CaughtUp::Contradiction;
        }
        assert!(
            target.last.index <= log.last().index,
            "caught up to {}, but the log ends with {}",
            target.last,
            log.last()
        );
        self.phase = Phase::Finish { job: None };
        CaughtUp::Yes
    }
}

#[cfg(test)]
mod tests;
