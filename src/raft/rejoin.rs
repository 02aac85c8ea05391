//! Rejoining after a loss of data: a member comes back under its id with an empty folder, or with a
//! folder from which a start has removed damaged data.
//!
//! It has lost entries that it acknowledged, and perhaps its vote, so it may neither vote nor
//! acknowledge entries before it has recovered enough of them. The protocol follows the recovery of
//! Viewstamped Replication Revisited (section 4.3), adapted to Raft. In the following, R is the
//! rejoining member and *old R* is the same member before the loss.
//!
//! 1. **Ask.** R sends [`Rejoin`] to all other members until each has answered with its term. Until
//!    then R ignores every other message: it neither votes nor acknowledges. It adopts the highest
//!    term answered, T, with its vote in T spent. If a member answers that its log contains a
//!    configuration other than the one in which the cluster was created, R stops for good: a new
//!    member must replace it.
//! 2. **Catch up.** R is a follower in T or a later term. It stores and acknowledges entries and
//!    snapshots, but ignores vote requests, pre-votes and [`TimeoutNow`], and does not campaign. It
//!    keeps asking: the reply of the leader of R's current term names the leader's last entry, the
//!    *target*. The leader of a later term must name a target of its own.
//! 3. **Finish.** When R's log is durable up to the target, and matches that leader's log in that
//!    term, R hands the log writer a job with `AppendJob::rejoined`. When that job is done, R is a
//!    full member.
//!
//! If R still knows its term and its vote ([`Loss::Entries`]), it begins with step 2, with T its
//! own term. It does not need the answers of other members, so membership changes do not matter.
//!
//! A rejoining member does not answer the [`Rejoin`] requests of others. So only one member can be
//! in step 1 at a time: two would wait for each other forever, because entries that both have lost
//! may be on no other member. Any number of members can be in step 2 while there is a leader; to
//! elect one, a majority must not be rejoining. In a group of two, R can rejoin only while the
//! other member still leads, because without R's vote it cannot be elected. A group of one never
//! rejoins.
//!
//! Why R may acknowledge after step 1: a candidate makes its term durable before it asks for votes.
//! So every term in which old R voted for another member is at most T, and every leader elected
//! with such a vote has a term of at most T. R acknowledges to no leader of a term before T. A
//! majority of answers would not be enough: old R may have voted for exactly the member that has
//! not answered, and R would help the leader of an earlier term to commit entries that the new
//! leader lacks.
//!
//! With [`Loss::Entries`], the same holds without any answer, because R remembers its vote and the
//! highest term that it was in.
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
//! R. Then t is at most T: after step 1 as shown above, and with [`Loss::Entries`] because old R
//! was in term t when it acknowledged the entry. So t is at most the term of the leader that named
//! the target. If that leader has a later term than t, it has the entry by leader completeness,
//! which R preserves: it had the entry until the loss, and does not vote from the loss on. If it is
//! the leader of t, it had the entry before old R acknowledged it, and so when it named the target.
//! In both cases the entry is not past the target. The same holds for acknowledgements that arrive
//! late.
//!
//! This does not depend on how many members are rejoining: none of them votes, and each one that
//! votes again has the entry.
//!
//! What is left of old R's log may end with entries that old R had replaced later, in the part that
//! is lost. They do no harm: old R's log did once end like this, and no rule of Raft depends on an
//! uncommitted entry being gone.
//!
//! Why no member may have seen a membership change before step 1: the argument above needs an
//! answer from every member for which old R may have voted. Only a learner becomes a voter, after
//! the configuration with this learner is committed. So if old R voted for a replica that was not a
//! member when the cluster was created, or counted for an entry after that configuration, a
//! majority of the first members had this configuration durably before R asked, and at least one of
//! them is not R. Changes that begin after the answers do no harm: old R has no part in them, and R
//! counts for them with what it has acknowledged since, like any follower that votes for nobody.
//!
//! Spending the vote is a second line of defence: R finishes only with an entry of the leader's own
//! term in its log, which no candidate of that term has, so R would not vote in T anyway.
//!
//! A restart while rejoining starts again at step 1, or at step 2 with [`Loss::Entries`], with the
//! log and the term that were stored meanwhile. R has not voted since the loss, and has the entries
//! that it acknowledged since, or has lost them again.

use std::collections::BTreeMap;
use std::time::Duration;

use rand_chacha::rand_core::Rng;

use crate::config::Config;
use crate::types::{EntryId, Index, Instant, JobSequence, NodeId, Term};

use super::log::LogTail;
use super::message::{PeerMsg, Rejoin, RejoinReply};
use super::role::Loss;
use super::rules;
use super::status::RejoinStatus;

/// Number of heartbeat intervals between two [`Rejoin`] requests to the same member.
const ASK_HEARTBEATS: u32 = 2;
/// Number of heartbeat intervals for which a leader treats a peer as rejoining after the peer's
/// last [`Rejoin`] request.
pub(super) const REJOINING_HEARTBEATS: u32 = 3 * ASK_HEARTBEATS;

/// The state of a replica that has lost its disk or a part of it, and is rejoining the cluster
/// under its old id.
#[derive(Debug)]
pub(super) struct Rejoining {
    /// Random number drawn at each start of the replica. Replies echo it, so that replies to
    /// requests from before the last start are recognised.
    nonce: u64,
    /// The members that have answered the [`Rejoin`] request, each with the highest term that it
    /// has reported.
    terms: BTreeMap<NodeId, Term>,
    phase: Phase,
    /// Time at which to send the next [`Rejoin`] request.
    ask_at: Instant,
}

/// The steps of the rejoin protocol: ask all members, catch up with the leader, finish.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Ask,
    CatchUp {
        /// The leader's last entry, up to which the log must become durable; `None` until the
        /// leader has reported it.
        target: Option<Target>,
    },
    Finish {
        /// Sequence number of the log writer's job that completes rejoining; `None` until the job
        /// is handed out.
        job: Option<JobSequence>,
    },
    /// The members have changed since the cluster was created, so the replica must not rejoin.
    Refused,
}

impl Phase {
    /// Returns the phase of a replica that knows the latest term and its vote in it.
    fn after_asking(config: &Config) -> Phase {
        if rules::must_catch_up_to_rejoin(config) {
            Phase::CatchUp { target: None }
        } else {
            Phase::Finish { job: None }
        }
    }
}

/// The entry up to which a rejoining replica's log must become durable: `last`, the leader's last
/// entry when it answered the [`Rejoin`] request, with the leader's id and term.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Target {
    leader: NodeId,
    term: Term,
    last: EntryId,
}

/// The action that a rejoining replica takes on a reply to its [`Rejoin`] request.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answered {
    /// Ignore the reply: it answers a request from before the last restart, or this replica has
    /// already finished rejoining.
    Stale,
    /// Take no further action: the reply was recorded.
    Recorded,
    /// Move to this term, the highest that any member has reported, and cast no vote in it. All
    /// members have now answered. The term may be the current one.
    Adopt(Term),
    /// Become a follower in this term, which the reply shows and which is higher than the replica's
    /// own.
    Newer(Term),
    /// Stop: the members have changed since the cluster was created. A new member must replace this
    /// one.
    Refused,
}

/// Whether a rejoining replica's log has reached the target, which is the entry that the leader
/// reported as its last.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CaughtUp {
    /// The log is durable, and equal to the leader's, up to the target.
    Yes,
    /// The log is not yet durable, or not yet known to equal the leader's, up to the target. Also
    /// returned while no target is known in this term.
    NotYet,
    /// The log matches the leader's log at the index of the target, but has a different entry
    /// there. So no correct leader of this term can have reported the target.
    Contradiction,
}

impl Rejoining {
    /// Creates the state of a replica that begins to rejoin after `loss`. Its first [`Rejoin`]
    /// request is due at `ask_at`.
    pub(super) fn new(
        loss: Loss,
        rng: &mut impl Rng,
        ask_at: Instant,
        config: &Config,
    ) -> Rejoining {
        let phase = match loss {
            Loss::Entries => Phase::after_asking(config),
            Loss::Votes => Phase::Ask,
        };
        Rejoining { nonce: rng.next_u64(), terms: BTreeMap::new(), phase, ask_at }
    }

    /// Returns when the next [`Rejoin`] request is due; [`Instant::MAX`] once the log has caught up
    /// with the leader's, or if the replica must not rejoin.
    pub(super) fn ask_at(&self) -> Instant {
        match self.phase {
            Phase::Ask | Phase::CatchUp { .. } => self.ask_at,
            Phase::Finish { .. } | Phase::Refused => Instant::MAX,
        }
    }

    /// Returns whether the log has caught up with the leader's, but the log writer's job that
    /// completes rejoining has not been handed out yet.
    pub(super) fn has_caught_up(&self) -> bool {
        self.phase == Phase::Finish { job: None }
    }

    /// Records the sequence number of the log writer's job that completes rejoining.
    pub(super) fn finish_with(&mut self, job: JobSequence) {
        assert!(self.has_caught_up(), "job {job} ends rejoining in {:?}", self.phase);
        self.phase = Phase::Finish { job: Some(job) };
    }

    /// Returns whether rejoining is complete: the log writer has finished the job that completes
    /// it. `done` is the sequence number of the last finished job.
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
                Phase::Ask | Phase::Finish { .. } | Phase::Refused => None,
            },
        }
    }

    /// Returns whether the replica must ignore this message because it is rejoining.
    pub(super) fn ignores(&self, message: &PeerMsg, config: &Config) -> bool {
        match message {
            _ if self.phase == Phase::Refused => true,
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

    /// Returns the [`Rejoin`] request to send now and its receivers; `None` if no request is due.
    /// The receivers are the members that have not answered yet. Once all members have answered,
    /// the only receiver is the leader, or all members while no leader is known. The request is
    /// repeated until rejoining is complete, because messages get lost, and because late
    /// acknowledgements from before the loss may still reach the leader. `own` is the replica's
    /// term and its last log entry. The leader need not be one of `peers`, the members that this
    /// replica knows: it may have lost the entry that added the leader.
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
        let receivers = match (self.phase, leader) {
            (Phase::Ask, _) => {
                let is_asked = |peer: &NodeId| !self.terms.contains_key(peer);
                peers.iter().copied().filter(is_asked).collect()
            }
            (_, Some(leader)) => vec![leader],
            (_, None) => peers.to_vec(),
        };
        let (term, last) = own;
        Some((Rejoin { nonce: self.nonce, term, last }, receivers))
    }

    /// Records a reply to the [`Rejoin`] request, and returns the action to take. `peers` is the
    /// number of other members.
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
            Phase::Ask if reply.members_changed => {
                self.phase = Phase::Refused;
                Answered::Refused
            }
            Phase::Ask => {
                let term = self.terms.entry(from).or_insert(reply.term);
                *term = (*term).max(reply.term);
                assert!(self.terms.len() <= peers, "{} of {peers} answers", self.terms.len());
                if self.terms.len() < rules::rejoin_answers_needed(peers, config) {
                    return Answered::Recorded;
                }
                let highest = self.terms.values().copied().max().unwrap_or_default();
                self.phase = Phase::after_asking(config);
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
            Phase::Refused => Answered::Stale,
        }
    }

    /// Returns whether the log has reached the target, the entry that the leader reported as its
    /// last. `matched` is the index up to which the log is known to equal that of `leader`, the
    /// current leader.
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
