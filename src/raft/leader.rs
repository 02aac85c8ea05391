//! A leader: takes in requests, replicates them, commits what a quorum holds durably, answers
//! reads, and gives up its lead when it has not heard from a quorum for a while.
//!
//! Whom it sends to and when is in `fanout.rs`.

use std::collections::VecDeque;

use crate::config::Mutant;
use crate::record::EntryKind;
use crate::types::{Index, Instant, NodeId, Round};

use super::effects::{Effects, RefusalReason, SnapshotId};
use super::message::{AppendOutcome, AppendReply, ClientRequest, DiskState, PeerMsg, RequestKind};
use super::progress::Progress;
use super::quorum::{REPLICAS_MAX, reached_by_quorum};
use super::reads::{self, Reads};
use super::replica::Transition;
use super::shared::Shared;
use super::timing;
use super::transfer::Handover;

/// Rounds whose time is remembered; an answer to an older one still counts as an answer.
const ROUNDS_MAX: usize = 1 << 16;

/// The replica that leads its term.
///
/// Invariant: `progress` is in the order of `shared.peers`; `rounds` is in order, and `round` is
/// the last one begun. The log only grows while this exists: nothing here can truncate it.
#[derive(Debug)]
pub(super) struct Leader {
    pub(super) progress: Vec<Progress>,
    /// The entry that began this leadership. Until it is committed nothing is known of what
    /// earlier terms committed (§8), and no read is served.
    first_index: Index,
    /// The last round begun.
    pub(super) round: Round,
    /// When the latest rounds began, by this replica's clock before they were sent.
    rounds: VecDeque<(Round, Instant)>,
    pub(super) reads: Reads,
    /// When it last sent to all because a quorum was silent.
    pub(super) probed_at: Option<Instant>,
    /// How often it has done so since a quorum was last heard.
    pub(super) probes: u32,
    /// Up to here entries have been sent at least once.
    pub(super) tried_index: Index,
    /// The last round that was sent for reads.
    pub(super) tried_round: Round,
    /// Peers that are owed an append at once: they asked for votes, or said what they lack.
    pub(super) owed: Vec<NodeId>,
    /// Since when a living peer has not been shown the commit index, if one has not.
    pub(super) unshown_since: Option<Instant>,
    /// Snapshots that a peer had and threw away.
    pub(super) suspect_snapshots: Vec<SnapshotId>,
    /// Kept between batches for its memory.
    pub(super) order: Vec<usize>,
    /// How far it has come with handing its lead over.
    pub(super) handover: Handover,
}

impl Leader {
    /// Begins a leadership with an empty entry of its own term (§8).
    pub(super) fn new(shared: &mut Shared) -> Leader {
        let last = shared.log.last().index;
        let progress = shared.peers.iter().map(|&id| Progress::new(id, last, shared.now)).collect();
        shared.heard_leader(shared.id);
        shared.count_uncommitted();
        let first_index = shared.append(EntryKind::NoOp, &[]).index;
        Leader {
            progress,
            first_index,
            round: Round(0),
            rounds: VecDeque::new(),
            reads: Reads::default(),
            probed_at: None,
            probes: 0,
            tried_index: Index::ZERO,
            tried_round: Round(0),
            owed: Vec::new(),
            unshown_since: None,
            suspect_snapshots: Vec::new(),
            order: Vec::new(),
            handover: Handover::default(),
        }
    }

    pub(super) fn handle_msg(
        &mut self,
        shared: &mut Shared,
        from: NodeId,
        message: &PeerMsg,
    ) -> Transition {
        match message {
            PeerMsg::AppendReply(reply) => self.on_append_reply(shared, from, reply),
            PeerMsg::InstallReply(reply) => self.on_install_reply(shared, from, reply),
            PeerMsg::AppendEntries(_) | PeerMsg::InstallSnapshot(_) | PeerMsg::TimeoutNow(_) => {
                unreachable!("another leader of a term is rejected before it gets here")
            }
            // Late votes, and a candidate of this very term that lost. What is about rejoining
            // never comes to a role.
            PeerMsg::VoteReply(_)
            | PeerMsg::RequestVote(_)
            | PeerMsg::Rejoin(_)
            | PeerMsg::RejoinReply(_) => shared.counters.stale += 1,
        }
        Transition::Stay
    }

    /// Steps down if a quorum was silent for the whole window (thesis 6.2).
    pub(super) fn handle_timeout(&mut self, shared: &mut Shared) -> Transition {
        if shared.now < self.steps_down_at(shared) {
            return Transition::Stay;
        }
        shared.counters.quorum_losses += 1;
        shared.cut_off_campaigns = shared.cut_off_campaigns.max(1);
        Transition::Follow { term: shared.term(), leader: None }
    }

    /// Takes in a client's request (§8). A write is in the log when this returns.
    pub(super) fn on_client(
        &mut self,
        shared: &mut Shared,
        request: ClientRequest,
        out: &mut Effects,
    ) {
        if self.handover.is_under_way() {
            // It is the successor's to take in, which then has all that this log will ever hold.
            shared.refuse(request.key, RefusalReason::NotLeader, out);
            return;
        }
        let full = match request.kind {
            RequestKind::Write => {
                shared.uncommitted_bytes() + request.payload.len()
                    > shared.config.uncommitted_bytes_max
            }
            RequestKind::Read => self.reads.len() >= shared.config.waiting_reads_max,
        };
        match request.kind {
            RequestKind::Write if !self.has_room(shared) => {
                shared.refuse(request.key, RefusalReason::DiskFull, out);
            }
            _ if full => shared.refuse(request.key, RefusalReason::Busy, out),
            RequestKind::Write => shared.append_request(&request),
            RequestKind::Read => self.reads.push(shared, self.round, request),
        }
    }

    /// A peer stands for election, so it has not heard this leader: it gets an append at once.
    pub(super) fn on_pre_vote(&mut self, from: NodeId) {
        self.owe(from);
    }

    /// All peers get an append at once.
    pub(super) fn owe_all(&mut self) {
        self.owed.clear();
        self.owed.extend(self.progress.iter().map(|progress| progress.id));
    }

    /// Owes a peer an append at once.
    pub(super) fn owe(&mut self, from: NodeId) {
        if !self.owed.contains(&from) {
            self.owed.push(from);
        }
    }

    fn on_append_reply(&mut self, shared: &mut Shared, from: NodeId, reply: &AppendReply) {
        let last = shared.log.last().index;
        let sent_at = self.round_sent_at(reply.round);
        let progress =
            self.progress.iter_mut().find(|progress| progress.id == from).expect("admitted a peer");
        // What this leader never sent can't be answered: bytes that only look like an answer.
        let possible = match reply.outcome {
            AppendOutcome::Match { index } => index <= last,
            AppendOutcome::Reject { refused, hint } => refused <= last && hint.index <= refused,
        };
        if !possible || reply.round > progress.sent_round {
            shared.counters.malformed += 1;
            return;
        }
        progress.heard(shared.now, reply.round, sent_at, &shared.config);
        match reply.outcome {
            AppendOutcome::Match { index } => {
                let news = progress.acknowledge(index, shared.now);
                progress.note_disk(reply.disk, news, shared.now, &shared.config);
                if news {
                    self.advance_commit(shared);
                }
            }
            AppendOutcome::Reject { refused, hint } => {
                let agreement = shared.log.last_agreement(hint);
                let lacks = progress.rejected(refused, agreement);
                progress.note_disk(reply.disk, false, shared.now, &shared.config);
                if !lacks {
                    shared.counters.stale += 1;
                } else if reply.disk != DiskState::Low {
                    // It lives and has just said what it lacks: it gets that at once, whatever
                    // may still be hoped of others.
                    self.owe(from);
                }
            }
        }
    }

    /// Commits what a quorum holds durably, if it is of this term (§5.4.2). This replica counts
    /// itself only as far as its own disk has come.
    pub(super) fn advance_commit(&self, shared: &mut Shared) {
        let own = if shared.config.breaks(Mutant::CountSelfEarly) {
            shared.log.last().index
        } else {
            shared.log.durable_index()
        };
        let reached = self.reached(shared, own, Progress::match_index);
        if reached > shared.commit_index()
            && (shared.log.term_at(reached) == Some(shared.term())
                || shared.config.breaks(Mutant::CommitOldTerms))
        {
            shared.commit_to(reached, true);
        }
    }

    /// Lets reads go that are confirmed by now.
    pub(super) fn release_reads(&mut self, shared: &mut Shared) {
        let confirmed = self.confirmed_round(shared);
        let early = shared.config.breaks(Mutant::ReadBeforeOwnTerm);
        if shared.commit_index() < self.first_index && !early {
            return;
        }
        let lease_valid = !self.handover.gave_up_lease()
            && reads::lease_is_valid(shared, self.confirmed_at(shared));
        self.reads.release(shared, confirmed, lease_valid);
    }

    // Rounds.

    /// Begins a round, before anything of it is sent.
    pub(super) fn begin_round(&mut self, shared: &Shared) {
        self.round = self.round.next();
        self.rounds.push_back((self.round, shared.now));
        // An answer to an older round proves nothing that is still of use.
        let window = timing::check_quorum_window(&shared.config, u16::MAX);
        while self.rounds.len() > ROUNDS_MAX
            || self.rounds.front().is_some_and(|&(_, at)| shared.now.since(at) > window)
        {
            self.rounds.pop_front();
        }
    }

    pub(super) fn round_sent_at(&self, round: Round) -> Option<Instant> {
        let position = self.rounds.binary_search_by_key(&round, |&(there, _)| there).ok()?;
        Some(self.rounds[position].1)
    }

    /// The latest round that a quorum has answered.
    fn confirmed_round(&self, shared: &Shared) -> Round {
        if self.progress.is_empty() {
            // Alone it is a quorum: whatever it is about to begin is confirmed already.
            return self.round.next();
        }
        self.reached(shared, self.round, |progress| progress.acked_round)
    }

    /// The latest instant at which rounds began that a quorum has answered since; now, where
    /// this replica is a quorum by itself.
    pub(super) fn confirmed_at(&self, shared: &Shared) -> Option<Instant> {
        if self.progress.is_empty() {
            return Some(shared.now);
        }
        self.round_sent_at(self.confirmed_round(shared))
    }

    /// When a quorum was last heard.
    pub(super) fn quorum_heard_at(&self, shared: &Shared) -> Instant {
        self.reached(shared, shared.now, |progress| progress.heard_at)
    }

    /// What a quorum has reached, this replica at `own` included. On the stack: it is asked
    /// several times a batch.
    fn reached<T: Ord + Copy>(&self, shared: &Shared, own: T, of: impl Fn(&Progress) -> T) -> T {
        let mut values = [own; REPLICAS_MAX];
        for (value, progress) in values[1..].iter_mut().zip(&self.progress) {
            *value = of(progress);
        }
        reached_by_quorum(&mut values[..shared.replicas()], &shared.config)
    }

    /// When this leader gives up unless it hears from a quorum before.
    pub(super) fn steps_down_at(&self, shared: &Shared) -> Instant {
        if self.progress.is_empty() {
            return Instant::MAX;
        }
        let window = timing::check_quorum_window(&shared.config, shared.loss_permille);
        self.quorum_heard_at(shared) + window
    }

    pub(super) fn check(&self, shared: &Shared) {
        assert!(shared.leader == Some(shared.id), "a leader that follows {:?}", shared.leader);
        assert!(
            self.first_index <= shared.log.base().index
                || shared.log.term_at(self.first_index) == Some(shared.term()),
            "the first entry of this leadership is gone"
        );
        for progress in &self.progress {
            progress.check();
            assert!(
                progress.match_index() <= shared.log.last().index,
                "peer {} holds {} of a log that ends with {:?}",
                progress.id,
                progress.match_index(),
                shared.log.last()
            );
        }
    }
}
