//! A replica of a Raft group, and the interface of the core.
//!
//! Every peer message goes through three steps: **admit** (`replica/admission.rs`) applies the rule
//! of terms, the **role** handles the message, and **enter** performs the role change that results.
//! All role changes are in this file.

mod admission;

use bytes::Bytes;

use crate::config::{Config, Mutant};
use crate::feature_level::FeatureLevel;
use crate::membership::{ChangePlan, ChangeRefusal, Configuration, MemberChange};
use crate::types::{EntryId, Index, Instant, NodeId, Term, TransferRefusal, TransferRequest};

use super::candidate::{Candidate, VotePhase};
use super::effects::{Effects, RejectReason};
use super::follower::Follower;
use super::leader::Leader;
use super::log::LogTail;
use super::message::{
    ClientRequest, DiskState, Envelope, Msg, PeerMsg, Rejoin, RejoinReply, SnapshotId,
};
use super::progress::Progress;
use super::rejoin::{Answered, CaughtUp, Rejoining};
use super::role::{Durable, RoleName, Transition};
use super::rules;
use super::shared::Shared;
use super::status::{PeerStatus, Status};

#[derive(Debug)]
enum Role {
    Follower(Follower),
    Candidate(Candidate),
    Leader(Leader),
}

/// A replica of a Raft cluster: a pure state machine, `(now, message) -> Effects`.
///
/// A driver (server or simulator) passes in all waiting inputs (`handle_msg`, `handle_timeout`),
/// then calls `flush` once and carries out the [`Effects`]. Equal seeds and equal inputs give equal
/// outputs.
#[derive(Debug)]
pub struct Replica {
    shared: Shared,
    role: Role,
}

impl Replica {
    /// Creates the replica `id` of a cluster that is created with this replica and `peers`, the
    /// other voters, in any order. See [`Replica::with_bootstrap`].
    pub fn new(
        id: NodeId,
        peers: &[NodeId],
        config: Config,
        seed: u64,
        durable: Durable,
        now: Instant,
    ) -> Replica {
        assert!(!peers.contains(&id), "replica {id} is its own peer");
        let bootstrap = Configuration::of_voters(peers.iter().copied().chain([id]));
        Replica::with_bootstrap(id, bootstrap, config, seed, durable, now)
    }

    /// Creates the replica `id` of a cluster. `bootstrap` is the configuration in which the cluster
    /// was created, which must be the same at all its members; a replica that joins later has one
    /// without members, and waits for a leader to send it the log. The replica starts as a follower
    /// with `durable`, the state on its disk.
    ///
    /// `config` must be valid, see [`Config::validate`].
    pub fn with_bootstrap(
        id: NodeId,
        bootstrap: Configuration,
        config: Config,
        seed: u64,
        durable: Durable,
        now: Instant,
    ) -> Replica {
        let mut shared = Shared::new(id, bootstrap, config, seed, durable, now);
        let role = Role::Follower(Follower::at_start(&mut shared));
        Replica { shared, role }
    }

    /// Handles one input (`msg`) at time `now`. If `now` is before the time of an earlier call, the
    /// earlier time is used, so time never goes back.
    pub fn handle_msg(&mut self, now: Instant, msg: Msg, out: &mut Effects) {
        self.shared.now = self.shared.now.max(now);
        match msg {
            Msg::Peer(envelope) => self.on_peer(envelope, out),
            // Neither commits nor completes anything, so nothing below is due.
            Msg::Client(request) => return self.on_client(request, out),
            Msg::Persisted(persisted) => {
                self.shared.on_persisted(persisted);
                let transition = match &mut self.role {
                    Role::Leader(leader) => {
                        leader.advance_commit(&mut self.shared);
                        Transition::Stay
                    }
                    Role::Candidate(candidate) => candidate.count_votes(&self.shared),
                    Role::Follower(_) => Transition::Stay,
                };
                self.enter(transition, out);
            }
            Msg::Applied { index } => self.shared.on_applied(index),
            Msg::SnapshotTaken(snapshot) => self.shared.on_snapshot_taken(snapshot),
            Msg::DiskSpace(space) => self.shared.disk.record_space(space),
            Msg::ChunkStored(stored) => {
                if let Role::Follower(_) = &self.role {
                    Follower::on_chunk_stored(&mut self.shared, stored, out);
                }
            }
            Msg::Installed(snapshot, configuration, level) => {
                self.on_installed(snapshot, configuration, level, out);
            }
        }
        if let Role::Leader(leader) = &mut self.role {
            leader.advance_membership(&mut self.shared);
        }
        self.finish_rejoining();
        self.shared.refuse_replaced(out);
        self.shared.check_cursors();
    }

    /// Handles a request to transfer the leadership, or to abort the transfer in progress, and
    /// returns the target of the transfer. As after any input, the driver must call `flush`
    /// afterwards.
    ///
    /// # Errors
    /// The reason why no transfer begins, or why none can be aborted.
    pub fn request_transfer(
        &mut self,
        now: Instant,
        request: TransferRequest,
    ) -> Result<NodeId, TransferRefusal> {
        self.shared.now = self.shared.now.max(now);
        let Role::Leader(Leader { transfer, progress, .. }) = &mut self.role else {
            return Err(TransferRefusal::NotLeader);
        };
        match request {
            TransferRequest::Start { target, timeout } => {
                transfer.request(target, timeout, progress, &mut self.shared)
            }
            TransferRequest::Abort => transfer.abort(&self.shared),
        }
    }

    /// Handles the timeouts that are due by `now`, if any.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Effects) {
        self.shared.now = self.shared.now.max(now);
        self.shared.watch_disk();
        let transition = match &mut self.role {
            Role::Follower(follower) => follower.handle_timeout(&mut self.shared),
            Role::Candidate(candidate) => candidate.handle_timeout(&mut self.shared, out),
            Role::Leader(leader) => leader.handle_timeout(&mut self.shared),
        };
        self.enter(transition, out);
        self.ask_to_rejoin(out);
        self.shared.refuse_overdue(out);
        self.shared.check_cursors();
    }

    /// Ends a batch of inputs: outputs the messages to peers, and at most one job each for the log
    /// writer and the applier. The driver (server or simulator) must already have taken the jobs of
    /// the previous flush.
    pub fn flush(&mut self, now: Instant, out: &mut Effects) {
        self.shared.now = self.shared.now.max(now);
        self.shared.watch_disk();
        let mut log_needed_after = Index(u64::MAX);
        let mut is_removed = false;
        if let Role::Leader(leader) = &mut self.role {
            leader.promote_learner(&mut self.shared);
            leader.raise_feature_level(&mut self.shared);
            if leader.transfer.advance(&leader.progress, &mut self.shared, out) {
                leader.mark_all_urgent();
            }
            leader.release_reads(&mut self.shared);
            leader.replicate(&mut self.shared, out);
            log_needed_after = leader.log_needed_after(&self.shared);
            is_removed = self.shared.is_removed() && !leader.transfer.is_in_progress();
        }
        if is_removed {
            self.enter(Transition::Follow { term: self.shared.term(), leader: None }, out);
        }
        self.shared.move_log_start(out);
        self.shared.compact(log_needed_after);
        self.shared.flush(out);
        self.shared.check_cursors();
    }

    /// Returns when the driver (server or simulator) must call `handle_timeout` and `flush` if no
    /// input arrives before.
    pub fn next_timeout(&self) -> Instant {
        let role = match &self.role {
            Role::Follower(follower) => follower.election_at(),
            Role::Candidate(candidate) => candidate.next_timeout(),
            Role::Leader(leader) => leader.next_timeout(&self.shared),
        };
        let disk = self.shared.disk.watch_at(&self.shared.config);
        let rejoin = self.shared.rejoining.as_ref().map_or(Instant::MAX, Rejoining::ask_at);
        role.min(self.shared.next_waiting_deadline()).min(disk).min(rejoin)
    }

    /// Returns the next time at which this replica acts because it has received no messages: a
    /// follower campaigns, a candidate gives up its campaign, or a leader steps down. Before it
    /// calls `handle_timeout` at or after this time, the driver (server or simulator) must pass in
    /// all peer messages that have arrived.
    pub fn silence_deadline(&self) -> Instant {
        match &self.role {
            Role::Follower(follower) => follower.election_at(),
            Role::Candidate(candidate) => candidate.deadline(),
            Role::Leader(leader) => leader.steps_down_at(&self.shared),
        }
    }

    /// Returns the earliest time at which this replica may vote for another replica: until then,
    /// the leader that it last heard from may hold a lease. `None` if it has heard from no leader.
    #[cfg(test)]
    pub(crate) fn may_vote_at(&self) -> Option<Instant> {
        let heard_at = self.shared.leader_heard_at?;
        Some(heard_at + self.shared.config.election_timeout_min)
    }

    /// Returns whether the safety rule of `mutant` is broken on purpose in this replica (mutation
    /// testing). Used by drivers, which implement some of the safety rules themselves.
    pub(crate) fn breaks(&self, mutant: Mutant) -> bool {
        self.shared.config.breaks(mutant)
    }

    /// Returns the leader of the current term; `None` if this replica knows none.
    pub fn leader(&self) -> Option<NodeId> {
        self.shared.leader
    }

    /// Returns the leader of the current term that clients can be sent to; `None` if this replica
    /// knows none, or the leader is a witness, which serves no client.
    pub fn serving_leader(&self) -> Option<NodeId> {
        self.shared.serving_leader()
    }

    /// Returns the last leader that was known, in any term; `None` if there was none. Used in
    /// reports only.
    pub fn last_known_leader(&self) -> Option<NodeId> {
        self.shared.last_known_leader
    }

    /// Returns whether this replica is the leader of its term. Another replica may already be the
    /// leader of a higher term.
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// Returns the follower that this leader is transferring its leadership to, or `None`. During a
    /// transfer the leader refuses client requests.
    pub fn transfer_target(&self) -> Option<NodeId> {
        match &self.role {
            Role::Leader(leader) => leader.transfer.target(),
            Role::Follower(_) | Role::Candidate(_) => None,
        }
    }

    /// Returns whether roles and disks allow this replica to accept a client's write: it leads, it
    /// is not transferring its leadership, and there is free space on its own disk and on the disks
    /// of a quorum.
    pub fn accepts_writes(&self) -> bool {
        match &self.role {
            Role::Leader(leader) => {
                !leader.transfer.is_in_progress()
                    && rules::leads_for_clients(&self.shared.config)
                    && !self.shared.is_removed()
                    && leader.has_disk_space(&self.shared)
            }
            Role::Follower(_) | Role::Candidate(_) => false,
        }
    }

    /// Returns how many bytes of log records this replica, if it leads, may append before it
    /// refuses writes with [`RefusalReason::Busy`](super::RefusalReason::Busy). While at least one
    /// byte is left, it accepts a write of any size. So a driver that appends an entry of its own
    /// before a client's write must leave at least one byte.
    pub fn append_budget(&self) -> usize {
        self.shared.append_budget()
    }

    /// Returns the total length in bytes of the log records that this replica, if it leads, has not
    /// committed; 0 if it does not lead.
    pub fn uncommitted_bytes(&self) -> usize {
        self.shared.uncommitted_bytes()
    }

    /// Returns the latest configuration of the members in this replica's log, which is in use, and
    /// the index of its entry: 0 for the one in which the cluster was created, and the end of the
    /// snapshot for one from a snapshot.
    pub fn configuration(&self) -> (Index, &Configuration) {
        self.shared.membership.latest()
    }

    /// Returns the cluster's feature level as of the last entry that is known to be committed.
    pub fn feature_level(&self) -> FeatureLevel {
        self.shared.feature_level()
    }

    /// Returns a number that changes with each change of [`Replica::configuration`] and
    /// [`Replica::peers`].
    pub fn members_version(&self) -> u64 {
        self.shared.membership.version()
    }

    /// Returns where `peer` is reached according to the latest configuration of which it is a
    /// member; `None` if it is no peer, or no address is recorded.
    pub fn address_of(&self, peer: NodeId) -> Option<&Bytes> {
        self.shared.membership.address_of(peer)
    }

    /// Returns whether this replica is a witness: it keeps the log and votes, but has no data.
    pub fn is_witness(&self) -> bool {
        self.shared.config.is_witness
    }

    /// Returns the id of this replica.
    pub fn id(&self) -> NodeId {
        self.shared.id
    }

    /// Returns the other replicas that this replica may send messages to, ordered by id: the
    /// members, and those that are being removed.
    pub fn peers(&self) -> &[NodeId] {
        self.shared.membership.peers()
    }

    /// Returns the result of a membership change without making it, if this replica leads.
    ///
    /// # Errors
    /// If the change is refused.
    pub fn plan_change(&self, changes: &[MemberChange]) -> Result<ChangePlan, ChangeRefusal> {
        match &self.role {
            Role::Leader(leader) => leader.plan_change(&self.shared, changes),
            Role::Follower(_) | Role::Candidate(_) => {
                Err(ChangeRefusal::NotLeader { leader: self.shared.leader })
            }
        }
    }

    /// Begins a membership change, if this replica leads: appends the next configuration, which is
    /// in use from now on. Returns the id of its entry. A joint configuration is followed by
    /// another one, which this leader or a later one appends. The change is complete when
    /// [`Replica::configuration`] returns one that is not joint, and its entry is committed.
    ///
    /// # Errors
    /// If the change is refused. It has then no effect.
    pub fn change_members(
        &mut self,
        now: Instant,
        changes: &[MemberChange],
    ) -> Result<EntryId, ChangeRefusal> {
        self.shared.now = self.shared.now.max(now);
        match &mut self.role {
            Role::Leader(leader) => {
                let id = leader.change_members(&mut self.shared, changes)?;
                self.shared.check_cursors();
                Ok(id)
            }
            Role::Follower(_) | Role::Candidate(_) => {
                Err(ChangeRefusal::NotLeader { leader: self.shared.leader })
            }
        }
    }

    /// Returns the index up to which all voters that keep up have acknowledged the log of this
    /// leader: those that answer, whose disk is healthy, and that are not being sent a snapshot.
    /// Returns the last index if there are none, or if this replica does not lead.
    pub fn followed_index(&self) -> Index {
        match &self.role {
            Role::Leader(leader) => leader.followed_index(&self.shared),
            Role::Follower(_) | Role::Candidate(_) => self.shared.log.last().index,
        }
    }

    /// Returns the condition of this replica's disk: healthy, almost full or stalled.
    pub fn disk(&self) -> DiskState {
        self.shared.disk.state()
    }

    /// Returns this replica's current term.
    pub fn term(&self) -> Term {
        self.shared.term()
    }

    /// Returns the part of this replica's log that is in memory.
    pub fn log(&self) -> &LogTail {
        &self.shared.log
    }

    /// Returns the index of the last entry that is known to be committed.
    pub fn commit_index(&self) -> Index {
        self.shared.commit_index()
    }

    /// Returns a copy of the replica's state, for traces, metrics and tests.
    pub fn status(&self) -> Status {
        let shared = &self.shared;
        let role = match &self.role {
            Role::Follower(_) => RoleName::Follower,
            Role::Candidate(candidate) => match candidate.phase() {
                VotePhase::PreVote => RoleName::PreCandidate,
                VotePhase::Vote => RoleName::Candidate,
            },
            Role::Leader(_) => RoleName::Leader,
        };
        let peer_status = |progress: &Progress| PeerStatus {
            id: progress.id,
            match_index: progress.match_index(),
            next_index: progress.next_index(),
            probing: progress.is_probing(),
            disk: progress.disk,
            feature_level: progress.feature_level,
        };
        Status {
            id: shared.id,
            role,
            term: shared.term(),
            voted_for: shared.voted_for(),
            leader: shared.leader,
            base: shared.log.base(),
            last: shared.log.last(),
            durable_index: shared.log.durable_index(),
            commit_index: shared.commit_index(),
            applied_index: shared.applied_index(),
            disk: self.disk(),
            feature_level: shared.feature_level(),
            transfer_target: self.transfer_target(),
            rejoining: shared
                .rejoining
                .as_ref()
                .map(|it| it.status(shared.membership.peers(), shared.term())),
            peers: match &self.role {
                Role::Leader(leader) => leader.progress.iter().map(peer_status).collect(),
                Role::Follower(_) | Role::Candidate(_) => Vec::new(),
            },
            counters: shared.counters,
        }
    }

    /// Panics if an invariant of the replica is violated. May be called between any two inputs.
    pub fn check(&self) {
        self.shared.check();
        assert!(
            !self.shared.is_rejoining() || matches!(self.role, Role::Follower(_)),
            "replica {} is rejoining, but not a follower",
            self.shared.id
        );
        match &self.role {
            Role::Follower(follower) => follower.check(&self.shared),
            Role::Candidate(candidate) => candidate.check(&self.shared),
            Role::Leader(leader) => leader.check(&self.shared),
        }
    }

    /// Returns the state that all roles share, for unit tests.
    #[cfg(test)]
    pub(super) fn shared_mut(&mut self) -> &mut Shared {
        &mut self.shared
    }

    // Inputs.

    fn on_client(&mut self, request: ClientRequest, out: &mut Effects) {
        match (&mut self.role, self.shared.leader) {
            (Role::Leader(leader), _) => leader.on_client(&mut self.shared, request, out),
            (Role::Follower(_), Some(_)) if self.shared.serving_leader().is_some() => {
                self.shared.redirect(request, out);
            }
            (Role::Follower(follower), _) => {
                follower.hurry_first_election(&mut self.shared);
                self.shared.wait_for_leader(request, out);
            }
            (Role::Candidate(_), _) => self.shared.wait_for_leader(request, out),
        }
    }

    fn on_peer(&mut self, envelope: Envelope, out: &mut Effects) {
        let Envelope { from, to, message, .. } = envelope;
        // After a loss on its disk, this replica may not know a member that already leads it.
        let is_peer = self.shared.membership.peers().contains(&from)
            || self.shared.is_rejoining() && self.shared.leader == Some(from);
        let is_vote_request = matches!(message, PeerMsg::RequestVote(_));
        if to != self.shared.id
            || from == self.shared.id
            || !is_peer && !message.is_for_non_members()
            || is_vote_request && !rules::may_vote(self.shared.membership.latest().1)
            || self.shared.now < self.shared.silent_until
        {
            self.shared.counters.misdirected += 1;
            return;
        }
        if let Role::Candidate(candidate) = &mut self.role {
            candidate.record_heard(from);
        }
        let rejoining = self.shared.rejoining.as_ref();
        if rejoining.is_some_and(|it| it.ignores(&message, &self.shared.config)) {
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

    /// Handles the driver's report that it has installed a leader's snapshot. The term in which the
    /// leader sent the snapshot does not matter, because the snapshot's last entry is committed.
    fn on_installed(
        &mut self,
        snapshot: SnapshotId,
        configuration: Option<Configuration>,
        level: FeatureLevel,
        out: &mut Effects,
    ) {
        let last = snapshot.last;
        let is_leader = self.is_leader();
        let settled =
            if is_leader { self.shared.log.last().index } else { self.shared.commit_index() };
        let contradicts = last.index <= settled && self.shared.contradicts(last);
        if contradicts || is_leader && last.index > settled {
            // No correct leader can have sent it, because this log has everything that is
            // committed. The sender is no longer known.
            let reason = RejectReason::Contradiction { entry: last, settled };
            self.shared.reject(self.shared.id, reason, out);
            if last.index <= self.shared.commit_index() {
                return;
            }
            // The state machine is ahead of this log now: it must not lead.
            self.enter(Transition::Follow { term: self.shared.term(), leader: None }, out);
        }
        self.shared.install(snapshot, configuration, level, self.is_leader());
        if matches!(self.role, Role::Candidate(_)) && !self.shared.may_campaign() {
            self.enter(Transition::Follow { term: self.shared.term(), leader: None }, out);
        }
        if let Role::Follower(follower) = &mut self.role {
            follower.on_installed(&mut self.shared, snapshot, None, out);
        }
    }

    // Rejoining.

    /// Answers a [`Rejoin`] request, which a peer sends after losing its disk. A sender that is no
    /// member any longer must hear that it cannot rejoin. The reply names this
    /// replica's term and last entry. If this replica leads, it also corrects its view of the
    /// peer's log.
    fn on_rejoin(&mut self, from: NodeId, rejoin: Rejoin, out: &mut Effects) {
        assert!(!self.shared.is_rejoining(), "a rejoining replica would answer {from}");
        if !self.shared.membership.peers().contains(&from) {
            if self.shared.membership.is_bootstrap() {
                self.shared.counters.misdirected += 1;
                return;
            }
        } else if let Role::Leader(leader) = &mut self.role {
            leader.on_rejoin(&self.shared, from, rejoin);
        }
        let reply = RejoinReply {
            nonce: rejoin.nonce,
            term: self.shared.term(),
            leads: self.is_leader(),
            last: self.shared.log.last(),
            members_changed: !self.shared.membership.is_bootstrap(),
        };
        self.shared.send(from, PeerMsg::RejoinReply(reply), out);
    }

    fn on_rejoin_reply(&mut self, from: NodeId, reply: RejoinReply, out: &mut Effects) {
        let (term, own) = (reply.term, self.shared.term());
        if term > own && !self.shared.may_raise_term(term) {
            self.shared.reject(from, RejectReason::Term { term, own }, out);
            return;
        }
        let Shared { rejoining, membership, now, config, .. } = &mut self.shared;
        let answered = rejoining.as_mut().map_or(Answered::Stale, |it| {
            it.record_reply(from, reply, own, membership.peers().len(), *now, config)
        });
        match answered {
            Answered::Stale => self.shared.counters.stale += 1,
            Answered::Recorded => {}
            Answered::Adopt(term) => {
                self.enter(Transition::Follow { term, leader: None }, out);
                // The peer may have voted in this term before it lost its disk.
                if self.shared.term() > Term(0) && self.shared.voted_for().is_none() {
                    self.shared.vote_for(self.shared.id);
                }
            }
            Answered::Newer(term) => self.enter(Transition::Follow { term, leader: None }, out),
            Answered::Refused => out.rejoin_refused_by = Some(from),
        }
    }

    /// Sends a [`Rejoin`] request to other members if this replica is rejoining and the request is
    /// due.
    fn ask_to_rejoin(&mut self, out: &mut Effects) {
        let own = (self.shared.term(), self.shared.log.last());
        let Shared { rejoining, membership, now, config, leader, .. } = &mut self.shared;
        let Some(rejoining) = rejoining else { return };
        let interval = config.heartbeat_interval;
        let peers = membership.peers();
        let Some((question, receivers)) = rejoining.question(*now, interval, own, peers, *leader)
        else {
            return;
        };
        for peer in receivers {
            self.shared.send(peer, PeerMsg::Rejoin(question), out);
        }
    }

    /// Checks whether a rejoining replica's log has reached the entry that the leader named; if so,
    /// arranges that the log writer's next job ends rejoining.
    fn finish_rejoining(&mut self) {
        let Role::Follower(follower) = &self.role else { return };
        let (own, leader) = (self.shared.term(), self.shared.leader);
        let Some(rejoining) = &mut self.shared.rejoining else { return };
        let matched = follower.matched_index;
        match rejoining.compare_with_target(own, leader, matched, &self.shared.log) {
            CaughtUp::Yes | CaughtUp::NotYet => {}
            CaughtUp::Contradiction => self.shared.counters.malformed += 1,
        }
    }

    // Role changes.

    /// Performs a role change and the further role changes that immediately follow from it.
    fn enter(&mut self, mut transition: Transition, out: &mut Effects) {
        loop {
            transition = match transition {
                Transition::Stay => return,
                Transition::Follow { term, leader } => self.follow(term, leader, out),
                // There is no term left to campaign in.
                Transition::Campaign | Transition::Stand | Transition::TakeOver
                    if self.shared.term() == Term::MAX =>
                {
                    self.follow(Term::MAX, None, out)
                }
                Transition::Campaign => self.campaign(VotePhase::PreVote, false, out),
                Transition::Stand | Transition::TakeOver => {
                    let (term, id) = (self.shared.term().next(), self.shared.id);
                    self.shared.start_term(term, Some(id));
                    self.campaign(VotePhase::Vote, transition == Transition::TakeOver, out)
                }
                Transition::Lead => self.lead(out),
            };
        }
    }

    fn follow(&mut self, term: Term, leader: Option<NodeId>, out: &mut Effects) -> Transition {
        let own = self.shared.term();
        assert!(term >= own, "following in term {term} after {own}");
        assert!(leader != Some(self.shared.id), "following itself in term {term}");
        if term > own {
            self.shared.raise_term(term);
        }
        let new = Role::Follower(Follower::new(&mut self.shared));
        match std::mem::replace(&mut self.role, new) {
            Role::Follower(follower) if term > own => {
                self.role = Role::Follower(follower.at_new_term());
            }
            Role::Follower(follower) => self.role = Role::Follower(follower),
            Role::Candidate(_) => {}
            Role::Leader(mut leader) => {
                self.shared.end_leadership();
                // No log contains the reads: they may wait for the next leader.
                for request in leader.reads.take() {
                    self.shared.wait_for_leader(request, out);
                }
            }
        }
        if let Some(leader) = leader {
            self.shared.heard_leader(leader);
            self.shared.redirect_waiting(out);
        }
        assert!(
            self.shared.term() == term && matches!(self.role, Role::Follower(_)),
            "not a follower in term {term}, but in {}",
            self.shared.term()
        );
        Transition::Stay
    }

    fn campaign(&mut self, phase: VotePhase, transfer: bool, out: &mut Effects) -> Transition {
        assert!(!matches!(self.role, Role::Leader(_)), "a leader campaigns");
        assert!(!self.shared.is_rejoining(), "a rejoining replica campaigns");
        self.shared.leader = None;
        match phase {
            VotePhase::PreVote => self.shared.counters.pre_votes += 1,
            VotePhase::Vote => self.shared.counters.elections += 1,
        }
        let mut candidate = Candidate::new(&mut self.shared, phase, transfer);
        candidate.ask(&mut self.shared, out);
        let transition = candidate.count_votes(&self.shared);
        self.role = Role::Candidate(candidate);
        transition
    }

    fn lead(&mut self, out: &mut Effects) -> Transition {
        assert!(
            self.shared.voted_for() == Some(self.shared.id) && self.shared.hard_state_is_durable(),
            "leading term {} without a durable vote for itself",
            self.shared.term()
        );
        assert!(
            self.shared.leader_of_term.is_none(),
            "leading term {}, which {:?} leads",
            self.shared.term(),
            self.shared.leader_of_term
        );
        self.shared.counters.leaderships += 1;
        let mut leader = Leader::new(&mut self.shared);
        let waiting: Vec<ClientRequest> = self.shared.take_waiting().collect();
        for request in waiting {
            // A witness lets them wait for the next leader.
            leader.on_client(&mut self.shared, request, out);
        }
        self.role = Role::Leader(leader);
        Transition::Stay
    }
}
