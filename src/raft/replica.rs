//! A replica of the consensus group. Every message goes three steps: **admit** (right addressee,
//! and the rule of terms), **role** (follower, candidate or leader), **enter** (the change of
//! role that came of it). The rule of terms and all changes of role are in this file alone.

use crate::config::{Config, Mutant};
use crate::record::Entry;
use crate::types::{EntryId, Index, Instant, NodeId, Term};

use super::candidate::{Candidate, Stage};
use super::effects::{Effects, HardState, RejectReason, SnapshotId};
use super::follower::Follower;
use super::leader::Leader;
use super::log::LogTail;
use super::message::{
    AppendOutcome, AppendReply, ClientRequest, DiskState, Envelope, InstallReply, InstallSnapshot,
    Msg, PeerMsg, Rejoin, RejoinReply, RequestVote, TimeoutNow, VoteReply,
};
use super::progress::Progress;
use super::rejoin::{Answered, Rejoining};
use super::shared::Shared;
use super::status::{PeerStatus, RoleName, Status};

/// What a replica's disk held when it started. The default is an empty disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durable {
    /// Term and vote.
    pub hard_state: HardState,
    /// The latest whole snapshot; `None` if none was ever taken.
    pub snapshot: Option<SnapshotId>,
    /// The log behind the snapshot's last entry, or from index 1, without gaps.
    pub entries: Vec<Entry>,
    /// Whether the disk was lost and replaced, and the replica has not rejoined since: it has
    /// forgotten votes and acknowledgements.
    pub rejoining: bool,
}

/// What a role wants to become. Roles never build one another.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transition {
    /// What it is.
    Stay,
    /// A follower in `term`, of `leader` if that is known.
    Follow {
        /// This term or a higher one.
        term: Term,
        /// Who leads it.
        leader: Option<NodeId>,
    },
    /// One that asks whether it would win an election.
    Campaign,
    /// A candidate in the next term, because this term's leader wants it so.
    TakeOver,
    /// A candidate in the next term.
    Stand,
    /// The leader of this term.
    Lead,
}

#[derive(Debug)]
enum Role {
    Follower(Follower),
    Candidate(Candidate),
    Leader(Leader),
}

/// One replica. Pure: it is told the time and what came in, and says what is to be done.
///
/// A driver hands in all that waits (`handle_msg`, `handle_timeout`), then calls `flush` once
/// and carries out the [`Effects`].
#[derive(Debug)]
pub struct Replica {
    shared: Shared,
    role: Role,
}

impl Replica {
    /// A replica `id` among `peers` (the others, in any order), that found `durable` on its disk.
    /// It starts as a follower; equal seeds and equal inputs give equal outputs.
    ///
    /// `config` must be valid, see [`Config::validate`].
    pub fn new(
        id: NodeId,
        peers: &[NodeId],
        config: Config,
        seed: u64,
        durable: Durable,
        now: Instant,
    ) -> Replica {
        let mut shared = Shared::new(id, peers, config, seed, durable, now);
        let role = Role::Follower(Follower::at_start(&mut shared));
        Replica { shared, role }
    }

    /// Takes in one message. Time never runs backwards: an earlier `now` counts as the last one.
    pub fn handle_msg(&mut self, now: Instant, msg: Msg, out: &mut Effects) {
        self.shared.now = self.shared.now.max(now);
        match msg {
            Msg::Peer(envelope) => self.on_peer(envelope, out),
            Msg::Client(request) => self.on_client(request, out),
            Msg::Persisted(persisted) => {
                self.shared.on_persisted(persisted);
                let transition = match &mut self.role {
                    Role::Leader(leader) => {
                        leader.advance_commit(&mut self.shared);
                        Transition::Stay
                    }
                    Role::Candidate(candidate) => candidate.count(&self.shared),
                    Role::Follower(_) => Transition::Stay,
                };
                self.enter(transition, out);
            }
            Msg::Applied { index } => self.shared.on_applied(index),
            Msg::SnapshotTaken(snapshot) => self.shared.on_snapshot_taken(snapshot),
            Msg::DiskSpace(room) => self.shared.disk.note_room(room),
            Msg::ChunkStored(stored) => {
                if let Role::Follower(_) = &self.role {
                    Follower::on_chunk_stored(&mut self.shared, stored, out);
                }
            }
            Msg::Installed(snapshot) => self.on_installed(snapshot, out),
        }
        self.note_caught_up();
        self.shared.refuse_replaced(out);
    }

    /// Does what is due by `now`. Harmless if nothing is.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Effects) {
        self.shared.now = self.shared.now.max(now);
        self.shared.watch_disk();
        let transition = match &mut self.role {
            Role::Follower(follower) => follower.handle_timeout(&mut self.shared),
            Role::Candidate(candidate) => candidate.handle_timeout(&mut self.shared, out),
            Role::Leader(leader) => leader.handle_timeout(&mut self.shared),
        };
        self.enter(transition, out);
        self.shared.ask_to_rejoin(out);
        self.shared.refuse_overdue(out);
    }

    /// Ends a batch: at most one job for the log writer, one for the apply stage, and the
    /// appends that bring the peers what the batch brought. The driver must have taken the jobs
    /// of the flush before.
    pub fn flush(&mut self, now: Instant, out: &mut Effects) {
        self.shared.now = self.shared.now.max(now);
        self.shared.watch_disk();
        if let Role::Leader(leader) = &mut self.role {
            leader.hand_over(&mut self.shared, out);
            leader.release_reads(&mut self.shared);
            leader.replicate(&mut self.shared, out);
        }
        let needed = match &self.role {
            Role::Leader(leader) => leader.needed_after(&self.shared),
            Role::Follower(_) | Role::Candidate(_) => Index(u64::MAX),
        };
        self.shared.compact(needed);
        self.shared.flush(out);
    }

    /// When to call `handle_timeout` and `flush` if no message comes before.
    pub fn next_timeout(&self) -> Instant {
        let role = match &self.role {
            Role::Follower(follower) => follower.election_at(),
            Role::Candidate(candidate) => candidate.next_timeout(),
            Role::Leader(leader) => leader.next_timeout(&self.shared),
        };
        let disk = self.shared.disk.watch_at(&self.shared.config);
        let rejoin = self.shared.rejoining.as_ref().map_or(Instant::MAX, Rejoining::ask_at);
        role.min(self.shared.held_deadline()).min(disk).min(rejoin)
    }

    /// When `handle_timeout` takes it that peers are silent: a follower stands for election, a
    /// candidate gives up, a leader steps down. Before it acts, a driver must have handed in
    /// everything from peers that had arrived by then: a replica that did not read its messages
    /// knows nothing of its peers.
    pub fn silence_deadline(&self) -> Instant {
        match &self.role {
            Role::Follower(follower) => follower.election_at(),
            Role::Candidate(candidate) => candidate.deadline(),
            Role::Leader(leader) => leader.steps_down_at(&self.shared),
        }
    }

    /// Before this instant it votes for nobody, for a leader may count on a lease; `None` if it has
    /// heard no leader.
    #[cfg(test)]
    pub(crate) fn may_vote_at(&self) -> Option<Instant> {
        let heard_at = self.shared.leader_heard_at?;
        Some(heard_at + self.shared.config.election_timeout_min)
    }

    /// Whether it is to break `mutant`'s rule, for drivers that keep one too.
    pub(crate) fn breaks(&self, mutant: Mutant) -> bool {
        self.shared.config.breaks(mutant)
    }

    /// Whom this replica names as leader: the one it knows or, while it knows none, the last one
    /// it knew. Nothing is decided upon it.
    pub fn last_known_leader(&self) -> Option<NodeId> {
        self.shared.last_known_leader
    }

    /// Who leads its term, once it knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.shared.leader
    }

    /// Whether it leads, as far as it knows.
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// To whom it is handing its lead over, if it is: it takes in nothing meanwhile.
    pub fn transfer_target(&self) -> Option<NodeId> {
        match &self.role {
            Role::Leader(leader) => leader.handover.successor(),
            Role::Follower(_) | Role::Candidate(_) => None,
        }
    }

    /// Whether it leads and would take a write in, for all that it knows of disks and of who is to
    /// lead.
    pub fn accepts_writes(&self) -> bool {
        match &self.role {
            Role::Leader(leader) => {
                !leader.handover.is_under_way() && leader.has_room(&self.shared)
            }
            Role::Follower(_) | Role::Candidate(_) => false,
        }
    }

    /// How its disk is.
    pub fn disk(&self) -> DiskState {
        self.shared.disk.state()
    }

    /// Its term.
    pub fn term(&self) -> Term {
        self.shared.term()
    }

    /// Its log.
    pub fn log(&self) -> &LogTail {
        &self.shared.log
    }

    /// Up to here the log is committed, as far as this replica knows.
    pub fn commit_index(&self) -> Index {
        self.shared.commit_index()
    }

    /// A view of its state.
    pub fn status(&self) -> Status {
        let role = match &self.role {
            Role::Follower(_) => RoleName::Follower,
            Role::Candidate(candidate) if candidate.stage() == Stage::PreVote => {
                RoleName::PreCandidate
            }
            Role::Candidate(_) => RoleName::Candidate,
            Role::Leader(_) => RoleName::Leader,
        };
        let peer_status = |progress: &Progress| PeerStatus {
            id: progress.id,
            match_index: progress.match_index(),
            next_index: progress.next_index(),
            probing: progress.is_probing(),
            disk: progress.disk,
        };
        Status {
            id: self.shared.id,
            role,
            term: self.shared.term(),
            voted_for: self.shared.voted_for(),
            leader: self.shared.leader,
            base: self.shared.log.base(),
            last: self.shared.log.last(),
            durable_index: self.shared.log.durable_index(),
            commit_index: self.shared.commit_index(),
            applied_index: self.shared.applied_index(),
            disk: self.disk(),
            transfer_target: self.transfer_target(),
            rejoining: self
                .shared
                .rejoining
                .as_ref()
                .map(|there| there.status(&self.shared.peers, self.shared.term())),
            peers: match &self.role {
                Role::Leader(leader) => leader.progress.iter().map(peer_status).collect(),
                Role::Follower(_) | Role::Candidate(_) => Vec::new(),
            },
            counters: self.shared.counters,
        }
    }

    /// Asserts what must hold between any two steps.
    pub fn check(&self) {
        self.shared.check();
        assert!(
            !self.shared.is_rejoining() || matches!(self.role, Role::Follower(_)),
            "replica {} is no follower, but is rejoining",
            self.shared.id
        );
        if let Role::Leader(leader) = &self.role {
            leader.check(&self.shared);
        }
    }

    /// A leader's snapshot is in the state machine. It does not matter in which term it was sent:
    /// what it ends with is committed, and the answer is of this term.
    fn on_installed(&mut self, snapshot: SnapshotId, out: &mut Effects) {
        let last = snapshot.last;
        let leads = self.is_leader();
        let settled = if leads { self.shared.log.last().index } else { self.shared.commit_index() };
        if last.index <= settled && self.shared.contradicts(last) || leads && last.index > settled {
            // No correct leader has sent it, for this log has all that is committed. Who did is
            // not known any more.
            self.shared.reject_contradiction(self.shared.id, last, settled, out);
            if last.index <= self.shared.commit_index() {
                return;
            }
            // The state machine has left this log behind. Others may be better off.
            self.enter(Transition::Follow { term: self.shared.term(), leader: None }, out);
        }
        self.shared.install(snapshot, self.is_leader());
        if let Role::Follower(follower) = &mut self.role {
            follower.on_installed(&mut self.shared, snapshot, None, out);
        }
    }

    fn on_client(&mut self, request: ClientRequest, out: &mut Effects) {
        match (&mut self.role, self.shared.leader) {
            (Role::Leader(leader), _) => leader.on_client(&mut self.shared, request, out),
            (Role::Follower(_), Some(_)) => self.shared.redirect(request, out),
            (Role::Follower(follower), None) => {
                follower.hurry(&mut self.shared);
                self.shared.hold(request, out);
            }
            (Role::Candidate(_), _) => self.shared.hold(request, out),
        }
    }

    fn on_peer(&mut self, envelope: Envelope, out: &mut Effects) {
        let Envelope { from, to, message, .. } = envelope;
        if to != self.shared.id
            || !self.shared.peers.contains(&from)
            || self.shared.now < self.shared.silent_until
        {
            self.shared.counters.misdirected += 1;
            return;
        }
        if let Role::Candidate(candidate) = &mut self.role {
            candidate.note_heard(from);
        }
        if self.shared.ignores_to_rejoin(&message) {
            self.shared.counters.ignored_while_rejoining += 1;
            return;
        }
        match message {
            PeerMsg::Rejoin(rejoin) => return self.on_rejoin(from, rejoin, out),
            PeerMsg::RejoinReply(reply) => return self.on_rejoin_reply(from, reply, out),
            _ => {}
        }
        if !self.admit(from, &message, out) {
            return;
        }
        let shared = &mut self.shared;
        let transition = match &mut self.role {
            Role::Follower(follower) => follower.handle_msg(shared, from, message, out),
            Role::Candidate(candidate) => candidate.handle_msg(shared, from, &message),
            Role::Leader(leader) => leader.handle_msg(shared, from, &message),
        };
        self.enter(transition, out);
    }

    /// A peer has lost its disk: a leader forgets what it knew of it, and everybody answers.
    fn on_rejoin(&mut self, from: NodeId, rejoin: Rejoin, out: &mut Effects) {
        if let Role::Leader(leader) = &mut self.role {
            leader.on_rejoin(&self.shared, from, rejoin);
        }
        let leads = self.is_leader();
        self.shared.answer_rejoin(from, rejoin, leads, out);
    }

    fn on_rejoin_reply(&mut self, from: NodeId, reply: RejoinReply, out: &mut Effects) {
        let (term, own) = (reply.term, self.shared.term());
        if term > own && !self.shared.may_raise_term(term) {
            self.shared.reject(from, RejectReason::Term { term, own }, out);
            return;
        }
        match self.shared.on_rejoin_reply(from, reply) {
            Answered::Noted => {}
            Answered::Adopt(term) => {
                self.enter(Transition::Follow { term, leader: None }, out);
                self.shared.spend_vote();
            }
            Answered::Newer(term) => self.enter(Transition::Follow { term, leader: None }, out),
        }
    }

    /// For the tests of its parts.
    #[cfg(test)]
    pub(super) fn shared_mut(&mut self) -> &mut Shared {
        &mut self.shared
    }

    fn note_caught_up(&mut self) {
        if let Role::Follower(follower) = &self.role {
            self.shared.note_caught_up(follower.matched_index);
        }
    }

    /// The rule of terms (§5.1): a higher term makes a follower, a lower one is refused. True if
    /// the role shall see the message.
    fn admit(&mut self, from: NodeId, message: &PeerMsg, out: &mut Effects) -> bool {
        let own = self.shared.term();
        match message {
            PeerMsg::RequestVote(request) if request.pre => {
                self.on_pre_vote(from, *request, out);
                false
            }
            // A granted pre-vote names the term that was asked about, which nobody has begun.
            PeerMsg::VoteReply(VoteReply { pre: true, granted: true, .. }) => true,
            PeerMsg::RequestVote(request @ RequestVote { term, .. }) => {
                if *term < own {
                    self.deny(from, false, out);
                    return false;
                }
                if *term > own {
                    if self.leader_may_hold_lease()
                        && !self.shared.is_announced_transfer(from, request)
                    {
                        self.shared.counters.stale += 1;
                        return false;
                    }
                    return self.raise_term(from, *term, None, out);
                } else if self.only_asks_and_is_free() {
                    // It has not begun a term of its own: it votes as the follower that it was.
                    self.enter(Transition::Follow { term: own, leader: None }, out);
                }
                true
            }
            PeerMsg::AppendEntries(append) => {
                if !is_consistent(append) {
                    self.shared.counters.malformed += 1;
                    return false;
                }
                if append.term < own {
                    self.reject_old(from, append.prev.index, out);
                    return false;
                }
                self.admit_leader(from, append.term, out)
            }
            PeerMsg::TimeoutNow(TimeoutNow { term, .. }) => {
                if *term < own {
                    self.shared.counters.stale += 1;
                    return false;
                }
                self.admit_leader(from, *term, out)
            }
            PeerMsg::InstallSnapshot(install) => {
                let InstallSnapshot { term, snapshot, .. } = install;
                if snapshot.last.index > Index::MAX || snapshot.last.term > *term {
                    self.shared.counters.malformed += 1;
                    return false;
                }
                if *term < own {
                    self.reject_old(from, Index::ZERO, out);
                    return false;
                }
                self.admit_leader(from, *term, out)
            }
            PeerMsg::AppendReply(AppendReply { term, .. })
            | PeerMsg::InstallReply(InstallReply { term, .. })
            | PeerMsg::VoteReply(VoteReply { term, .. }) => {
                if *term > own {
                    self.raise_term(from, *term, None, out);
                    return false;
                }
                let current = *term == own || self.shared.config.breaks(Mutant::ReplyOfOldTerm);
                self.shared.counters.stale += u64::from(!current);
                current
            }
            PeerMsg::Rejoin(_) | PeerMsg::RejoinReply(_) => false,
        }
    }

    /// Follows a message to its higher term, if elections can have led there.
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
        true
    }

    /// A message that only the leader of its term sends, which is this replica's own term or a
    /// later one. A candidate yields to the leader of its term (Figure 2).
    fn admit_leader(&mut self, from: NodeId, term: Term, out: &mut Effects) -> bool {
        if term > self.shared.term() {
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

    /// Whether somebody may hold a lease that this replica has helped to: the leader that it
    /// heard, or itself.
    fn leader_may_hold_lease(&self) -> bool {
        if let Role::Leader(leader) = &self.role {
            let heard = leader.quorum_heard_at(&self.shared);
            return self.shared.now.since(heard) < self.shared.config.election_timeout_min;
        }
        self.shared.leader_may_hold_lease()
    }

    /// Whether this replica is in the pre-vote stage with its vote of this term still to give.
    fn only_asks_and_is_free(&self) -> bool {
        matches!(&self.role, Role::Candidate(candidate) if candidate.stage() == Stage::PreVote)
            && self.shared.voted_for().is_none()
    }

    /// Answers a pre-vote: a yes binds nobody and moves no timer. A no is silent unless this
    /// replica's term is higher, which the other has to learn.
    fn on_pre_vote(&mut self, from: NodeId, request: RequestVote, out: &mut Effects) {
        if let Role::Candidate(candidate) = &mut self.role {
            candidate.yield_to(from, request.last, &self.shared);
        }
        if let Role::Leader(leader) = &mut self.role {
            // The append shows this term; if the other's is higher, its answer shows that.
            leader.on_pre_vote(from);
        } else if request.term <= self.shared.term() {
            self.deny(from, true, out);
        } else if !self.shared.may_raise_term(request.term) {
            // Nor would it be given the vote.
            let reason = RejectReason::Term { term: request.term, own: self.shared.term() };
            self.shared.reject(from, reason, out);
        } else if matches!(self.role, Role::Follower(_))
            && !self.shared.is_rejoining()
            && !self.leader_may_hold_lease()
            && self.shared.log.last() > request.last
        {
            // No leader here either, and the longer log: better to stand than to say no.
            self.enter(Transition::Campaign, out);
        } else if !self.leader_may_hold_lease() && self.shared.is_up_to_date(request.last) {
            let reply = VoteReply { term: request.term, pre: true, granted: true };
            self.shared.send(from, PeerMsg::VoteReply(reply), out);
        }
    }

    fn deny(&mut self, to: NodeId, pre: bool, out: &mut Effects) {
        let reply = VoteReply { term: self.shared.term(), pre, granted: false };
        self.shared.send(to, PeerMsg::VoteReply(reply), out);
    }

    /// Tells a leader of an earlier term that its time is over.
    fn reject_old(&mut self, to: NodeId, refused: Index, out: &mut Effects) {
        self.shared.counters.stale += 1;
        let outcome = AppendOutcome::Reject { refused, hint: EntryId::ZERO };
        let term = self.shared.term();
        let (round, disk) = (crate::types::Round(0), self.shared.disk.state());
        let reply = AppendReply { term, round, disk, outcome };
        self.shared.send(to, PeerMsg::AppendReply(reply), out);
    }

    /// Performs a change of role, and those that follow from it at once.
    fn enter(&mut self, mut transition: Transition, out: &mut Effects) {
        loop {
            transition = match transition {
                Transition::Stay => return,
                Transition::Follow { term, leader } => self.follow(term, leader, out),
                // No term is left to stand for election in.
                Transition::Campaign | Transition::Stand | Transition::TakeOver
                    if self.shared.term() == Term::MAX =>
                {
                    self.follow(Term::MAX, None, out)
                }
                Transition::Campaign => self.campaign(Stage::PreVote, false, out),
                Transition::Stand | Transition::TakeOver => {
                    let (term, id) = (self.shared.term().next(), self.shared.id);
                    self.shared.set_term(term, Some(id));
                    self.campaign(Stage::Vote, transition == Transition::TakeOver, out)
                }
                Transition::Lead => self.lead(out),
            };
        }
    }

    fn follow(&mut self, term: Term, leader: Option<NodeId>, out: &mut Effects) -> Transition {
        assert!(term >= self.shared.term(), "to follow in {term} from {}", self.shared.term());
        let newer = term > self.shared.term();
        if newer {
            self.shared.raise_term(term);
        }
        let placeholder = Role::Follower(Follower::new(&mut self.shared));
        match std::mem::replace(&mut self.role, placeholder) {
            Role::Follower(follower) if newer => {
                self.role = Role::Follower(follower.at_new_term());
            }
            Role::Follower(follower) => self.role = Role::Follower(follower),
            Role::Candidate(_) => {}
            Role::Leader(mut led) => {
                self.shared.leader = None;
                self.shared.orphan_pending();
                // Reads are in nobody's log: they may wait for the next leader, or go to it.
                for request in led.reads.take() {
                    self.shared.hold(request, out);
                }
            }
        }
        if let Some(leader) = leader {
            self.shared.heard_leader(leader);
            self.shared.redirect_held(out);
        }
        Transition::Stay
    }

    fn campaign(&mut self, stage: Stage, transfer: bool, out: &mut Effects) -> Transition {
        assert!(!matches!(self.role, Role::Leader(_)), "a leader that stands for election");
        assert!(!self.shared.is_rejoining(), "a rejoining replica stands for election");
        self.shared.leader = None;
        match stage {
            Stage::PreVote => self.shared.counters.pre_votes += 1,
            Stage::Vote => self.shared.counters.elections += 1,
        }
        let mut candidate = Candidate::new(&mut self.shared, stage, transfer);
        candidate.ask(&mut self.shared, out);
        let transition = candidate.count(&self.shared);
        self.role = Role::Candidate(candidate);
        transition
    }

    fn lead(&mut self, out: &mut Effects) -> Transition {
        assert!(
            self.shared.voted_for() == Some(self.shared.id) && self.shared.hard_state_is_durable(),
            "to lead term {} without an own durable vote",
            self.shared.term()
        );
        self.shared.counters.leaderships += 1;
        let mut leader = Leader::new(&mut self.shared);
        let held: Vec<ClientRequest> = self.shared.take_held().collect();
        for request in held {
            leader.on_client(&mut self.shared, request, out);
        }
        self.role = Role::Leader(leader);
        Transition::Stay
    }
}

/// Whether an append's entries follow `prev` without gaps, in terms that never fall and never
/// pass the message's own. Wire decoders check this too; here it protects the core from every
/// driver.
fn is_consistent(append: &super::message::AppendEntries) -> bool {
    // No log comes near the bound, so that an index can always be added to below.
    let end = append.prev.index.0.checked_add(append.entries.len() as u64);
    let in_bounds = end.is_some_and(|end| end <= Index::MAX.0);
    let mut before = append.prev;
    in_bounds
        && before.term <= append.term
        && append.entries.iter().all(|entry| {
            let follows = entry.index() == before.index.next() && entry.term() >= before.term;
            before = entry.id();
            follows && entry.term() <= append.term
        })
}
