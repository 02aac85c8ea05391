//! The state that outlives a role: identity, term and vote, log, commit index, the known leader,
//! and unanswered client requests. Roles change it through methods that keep its invariants.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::config::{Config, FanOut};
use crate::feature_level::FeatureLevel;
use crate::membership::Configuration;
use crate::record::{self, Entry, EntryKind};
use crate::types::{EntryId, Index, Instant, NodeId, RequestKey, Term};

use super::append_jobs::AppendJobs;
use super::disk_health::DiskHealth;
use super::effects::{
    Committed, Effects, HardState, Refusal, RefusalReason, RejectReason, RejectedMessage,
};
use super::hard_state::TermAndVote;
use super::log::LogTail;
use super::membership::Membership;
use super::message::{ClientRequest, Envelope, PeerMsg, Persisted, RequestVote, SnapshotId};
use super::pending::{AppendedRequests, WaitingRequests};
use super::rejoin::Rejoining;
use super::role::Durable;
use super::rules;
use super::status::Counters;
use super::term_budget::TermBudget;
use super::timing;

/// Maximum number of rejected messages per batch of inputs that are reported for logging. Further
/// ones are only counted.
const REJECTED_MAX: usize = 16;

/// The part of a replica's state that does not depend on its role.
///
/// Invariant: `applied_index <= commit_index <= log.last()`; `commit_index` never decreases;
/// `log.base()` is at most the end of `snapshot`; no entry has a term above the current one.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) id: NodeId,
    /// The members of the cluster: the configuration in use, and those to return to.
    pub(super) membership: Membership,
    pub(super) config: Config,
    pub(super) rng: ChaCha8Rng,
    /// The time of the current input. It never decreases.
    pub(super) now: Instant,
    /// End of the silent period after the replica's start, in which it neither sends nor accepts
    /// peer messages.
    pub(super) silent_until: Instant,
    pub(super) log: LogTail,
    /// The latest durable snapshot; `None` if there is none.
    pub(super) snapshot: Option<SnapshotId>,
    /// The leader that this replica follows in the current term; `None` if unknown, or if the
    /// replica has started a campaign because the leader seems to have failed.
    pub(super) leader: Option<NodeId>,
    /// The leader of the current term; `None` if unknown. Unlike `leader`, it stays set when this
    /// replica stops following the leader, so that a second leader of the term is detected.
    pub(super) leader_of_term: Option<NodeId>,
    /// The last leader that was known, in any term; `None` if there was none. Used in reports only.
    pub(super) last_known_leader: Option<NodeId>,
    /// Time at which this replica last heard from a leader; `None` for a new replica that has heard
    /// from none. After a restart, this is the time of the restart, because the replica may have
    /// heard from a leader just before, and that leader may still hold a lease.
    pub(super) leader_heard_at: Option<Instant>,
    /// The last leadership transfer that a leader announced: the leader's term, and the follower
    /// that is to become leader. `None` if no transfer was announced.
    pub(super) announced_transfer: Option<(Term, NodeId)>,
    /// Share of messages lost in one direction, in permille, as announced by the latest leader.
    pub(super) loss_permille: u16,
    /// Number of consecutive campaigns in which this replica did not hear from a quorum.
    pub(super) isolated_campaigns: u32,
    /// Number of consecutive campaigns in which this replica heard from a quorum, but was not
    /// elected.
    pub(super) lost_campaigns: u32,
    /// Number of times in a row that this replica, a witness, has led without being able to bring a
    /// replica with data up to date.
    pub(super) witness_retreats: u32,
    /// The last entry before the log that this replica, a witness, last asked its driver to store.
    pub(super) asked_log_start: Index,
    pub(super) counters: Counters,
    pub(super) disk: DiskHealth,
    /// The progress of rejoining the cluster after a loss on this replica's disk; `None` for a
    /// full member.
    pub(super) rejoining: Option<Rejoining>,
    /// Confirmed reads that the applier will execute after it has applied all entries committed so
    /// far.
    pub(super) ready_reads: Vec<ClientRequest>,
    /// The cluster's feature level as of the last committed entry.
    feature_level: FeatureLevel,
    hard_state: TermAndVote,
    term_budget: TermBudget,
    jobs: AppendJobs,
    commit_index: Index,
    applied_index: Index,
    /// Committed entries that have not been handed to the applier yet.
    committed: Vec<Committed>,
    waiting: WaitingRequests,
    appended: AppendedRequests,
}

impl Shared {
    pub(super) fn new(
        id: NodeId,
        bootstrap: Configuration,
        config: Config,
        seed: u64,
        durable: Durable,
        now: Instant,
    ) -> Shared {
        // Just before a restart this replica may have given a leader a lease, so it counts as
        // having heard that leader now; also if it has lost its disk since.
        let is_restarted = durable.loss.is_some() || durable.hard_state != HardState::default();
        // A rejoining replica has lost its state, so the first term it hears is free for it too.
        let is_new = durable.hard_state == HardState::default()
            && durable.snapshot.is_none()
            && durable.entries.is_empty();
        let base = durable.snapshot.map_or(EntryId::ZERO, |snapshot| snapshot.last);
        let base_configuration = (base.index, durable.configuration);
        let mut membership = Membership::new(id, bootstrap, base_configuration, &config);
        for entry in &durable.entries {
            if let Some(configuration) = entry.configuration() {
                membership.append(entry.index(), configuration, &config);
            }
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let silent_until = now + config.silence_after_start;
        let rejoining =
            durable.loss.map(|loss| Rejoining::new(loss, &mut rng, silent_until, &config));
        let shared = Shared {
            id,
            membership,
            rng,
            now,
            silent_until,
            log: LogTail::recovered(base, durable.entries),
            snapshot: durable.snapshot,
            leader: None,
            leader_of_term: None,
            last_known_leader: None,
            leader_heard_at: is_restarted.then_some(now),
            announced_transfer: None,
            loss_permille: timing::LOSS_UNKNOWN_PERMILLE,
            isolated_campaigns: 0,
            lost_campaigns: 0,
            witness_retreats: 0,
            asked_log_start: base.index,
            counters: Counters::default(),
            disk: DiskHealth::new(now),
            rejoining,
            ready_reads: Vec::new(),
            feature_level: durable.feature_level,
            hard_state: TermAndVote::recovered(durable.hard_state, base.term),
            term_budget: TermBudget::new(now, is_new),
            jobs: AppendJobs::new(base.index),
            commit_index: base.index,
            applied_index: base.index,
            committed: Vec::new(),
            waiting: WaitingRequests::default(),
            appended: AppendedRequests::default(),
            config,
        };
        shared.check_cursors();
        shared
    }

    pub(super) fn term(&self) -> Term {
        self.hard_state.term()
    }

    pub(super) fn voted_for(&self) -> Option<NodeId> {
        self.hard_state.voted_for()
    }

    pub(super) fn commit_index(&self) -> Index {
        self.commit_index
    }

    /// Returns the cluster's feature level as of the last committed entry.
    pub(super) fn feature_level(&self) -> FeatureLevel {
        self.feature_level
    }

    pub(super) fn applied_index(&self) -> Index {
        self.applied_index
    }

    /// Returns whether this replica is a voter of the configuration in use.
    pub(super) fn is_voter(&self) -> bool {
        self.membership.votes(self.id)
    }

    /// Returns whether a committed configuration has no vote for this replica, so that it must not
    /// lead any longer.
    pub(super) fn is_removed(&self) -> bool {
        self.membership.is_settled() && !self.membership.latest().1.votes(self.id)
    }

    /// Returns whether this replica may campaign.
    pub(super) fn may_campaign(&self) -> bool {
        rules::may_campaign(self.membership.may_be_needed(), &self.config)
    }

    /// Returns whether the replicas for which `holds` is true form a quorum of the configuration in
    /// use.
    pub(super) fn has_quorum(&self, holds: impl Fn(NodeId) -> bool) -> bool {
        self.membership.has_quorum(&self.config, holds)
    }

    /// Returns to which peers the leader sends new entries. While there are learners, or a change
    /// of the members is under way, it sends to all.
    pub(super) fn fan_out(&self) -> FanOut {
        match self.membership.plain_voter_count() {
            Some(_) => self.config.fan_out,
            None => FanOut::All,
        }
    }

    /// Returns whether this replica has lost its disk or a part of it, and is not yet a full member
    /// of the cluster again.
    pub(super) fn is_rejoining(&self) -> bool {
        self.rejoining.is_some()
    }

    // Term and vote.

    /// Moves this replica to the higher `term`. `voted_for` is this replica if it campaigns in the
    /// new term, else `None`.
    pub(super) fn start_term(&mut self, term: Term, voted_for: Option<NodeId>) {
        assert!(
            voted_for.is_none_or(|voted| voted == self.id),
            "term {term} starts with a vote for {voted_for:?}"
        );
        self.hard_state.start_term(term, voted_for);
        (self.leader, self.leader_of_term) = (None, None);
        // Acknowledgements of the old term are for entries that the new term's leader may replace
        // before they are written.
        self.jobs.drop_append_replies();
    }

    /// Returns whether a message may raise this replica's term to `term`. The term budget limits
    /// how far messages can raise the term, so that forged messages cannot exhaust the range of
    /// terms.
    pub(super) fn may_raise_term(&mut self, term: Term) -> bool {
        self.term_budget.covers(self.term(), term, self.now)
    }

    /// Moves this replica to `term`, the term of a received message, which must be higher than its
    /// current term. Subtracts the difference from the term budget (the limit on how far messages
    /// can raise the term). The caller must first have checked [`Shared::may_raise_term`].
    pub(super) fn raise_term(&mut self, term: Term) {
        self.term_budget.pay(self.term(), term);
        self.start_term(term, None);
    }

    /// Records this replica's vote for `candidate` in the current term. A replica votes once per
    /// term (Raft paper, §5.2).
    pub(super) fn vote_for(&mut self, candidate: NodeId) {
        self.hard_state.vote_for(candidate, &self.config);
    }

    /// Returns whether the current term and vote are durable.
    pub(super) fn hard_state_is_durable(&self) -> bool {
        self.hard_state.is_durable(self.jobs.done())
    }

    // The leader.

    /// Records that a message from `leader`, the current term's leader, has arrived.
    pub(super) fn heard_leader(&mut self, leader: NodeId) {
        assert!(
            self.leader_of_term.is_none_or(|known| known == leader),
            "{leader} and {:?} both lead term {}",
            self.leader_of_term,
            self.term()
        );
        (self.leader, self.leader_of_term) = (Some(leader), Some(leader));
        self.last_known_leader = Some(leader);
        self.leader_heard_at = Some(self.now);
        (self.isolated_campaigns, self.lost_campaigns) = (0, 0);
        if leader != self.id {
            self.witness_retreats = 0;
        }
        self.waiting.forget_redirected();
    }

    /// Returns whether this replica heard from a leader so recently that the leader may hold a
    /// lease. Until the lease has ended, the replica must not vote for another leader (last
    /// paragraph of §6 of the Raft paper; Raft dissertation, section 6.4.1).
    pub(super) fn leader_may_hold_lease(&self) -> bool {
        rules::leader_is_protected(self.leader_heard_at, self.now, &self.config)
    }

    /// Returns whether the leader of the previous term has announced a leadership transfer to
    /// `from`, as the vote request claims. Without this check, any candidate could depose the
    /// leader by claiming a transfer.
    pub(super) fn is_announced_transfer(&self, from: NodeId, request: &RequestVote) -> bool {
        request.transfer
            && self
                .announced_transfer
                .is_some_and(|(term, target)| target == from && term.next() == request.term)
    }

    /// Returns whether a candidate's log, which ends with `last`, is at least as up to date as this
    /// replica's log (Raft paper, §5.4.1).
    pub(super) fn is_up_to_date(&self, last: EntryId) -> bool {
        rules::is_up_to_date(last, self.log.last(), &self.config)
    }

    pub(super) fn draw_first_election_timeout(&mut self) -> Duration {
        timing::first_election_timeout(&self.config, &mut self.rng) + self.witness_delay()
    }

    /// Returns a random election timeout. While a leader is known, the timeout grows with the
    /// message loss.
    pub(super) fn draw_election_timeout(&mut self) -> Duration {
        let loss_permille = if self.leader.is_some() { self.loss_permille } else { 0 };
        timing::election_timeout(&self.config, loss_permille, &mut self.rng) + self.witness_delay()
    }

    // Messages.

    /// Sends a message to the peer `to` once this replica's term and vote are durable, because the
    /// message reveals them (Figure 2 of the Raft paper).
    pub(super) fn send(&mut self, to: NodeId, message: PeerMsg, out: &mut Effects) {
        if rules::may_show_hard_state(self.hard_state_is_durable(), &self.config) {
            let envelope = self.envelope(to, message);
            out.send.push(envelope);
        } else {
            self.send_when_durable(to, message);
        }
    }

    /// Sends a message to the peer `to` once all entries now in the log are durable.
    pub(super) fn send_when_durable(&mut self, to: NodeId, message: PeerMsg) {
        let envelope = self.envelope(to, message);
        self.jobs.release_when_done(envelope);
    }

    pub(super) fn envelope(&self, to: NodeId, message: PeerMsg) -> Envelope {
        debug_assert!(to != self.id, "a message of {to} to itself");
        Envelope { from: self.id, to, leader: self.last_known_leader, message }
    }

    /// Counts an invalid message, which no correct peer sends, and reports it for logging.
    pub(super) fn reject(&mut self, from: NodeId, reason: RejectReason, out: &mut Effects) {
        match reason {
            RejectReason::Term { .. } => self.counters.terms_rejected += 1,
            RejectReason::SecondLeader { .. }
            | RejectReason::Contradiction { .. }
            | RejectReason::OtherKind { .. } => {
                self.counters.conflicts_rejected += 1;
            }
        }
        if out.rejected.len() < REJECTED_MAX {
            out.rejected.push(RejectedMessage { from, reason });
        }
    }

    /// Returns whether the log has an entry with another term at the index of `entry`; false if it
    /// has no entry there.
    pub(super) fn contradicts(&self, entry: EntryId) -> bool {
        self.log.term_at(entry.index).is_some_and(|term| term != entry.term)
    }

    // Log and commit index.

    /// Appends a new entry of the current term as leader, and returns its id.
    pub(super) fn append(&mut self, kind: EntryKind, payload: &[u8]) -> EntryId {
        let term = self.term();
        let entry = self.log.append(term, kind, payload);
        let (id, bytes) = (entry.id(), entry.record().len());
        self.appended.add_bytes(bytes);
        self.jobs.write_from(id.index);
        id
    }

    /// Appends a configuration of the members as leader. It is in use from now on.
    pub(super) fn append_configuration(&mut self, configuration: Configuration) -> EntryId {
        let id = self.append(EntryKind::Configuration, &configuration.encode());
        self.membership.append(id.index, configuration, &self.config);
        self.counters.configurations += 1;
        id
    }

    /// Appends an entry as leader that raises the cluster's feature level to `level`.
    pub(super) fn append_feature_level(&mut self, level: FeatureLevel) {
        assert!(level <= self.config.feature_level, "raised to {level} by an earlier version");
        self.append(EntryKind::FeatureLevel, &record::level_payload(level));
    }

    /// Appends a client's write to the log as leader, and remembers the request until its entry is
    /// committed or replaced.
    pub(super) fn append_request(&mut self, request: &ClientRequest) {
        let id = self.append(EntryKind::Command, &request.payload);
        self.appended.push(id, request.key);
    }

    /// Merges a leader's entries into the log, and hands the new entries to the log writer with its
    /// next job. The entries must follow an entry of this log.
    pub(super) fn splice(&mut self, entries: &[Entry]) {
        let spliced = self.log.splice(entries, self.commit_index, &self.config);
        let Some(from) = spliced.changed_from else { return };
        self.jobs.write_from(from);
        self.membership.truncate_from(from, &self.config);
        for entry in entries.iter().filter(|entry| entry.index() >= from) {
            if let Some(configuration) = entry.configuration() {
                self.membership.append(entry.index(), configuration, &self.config);
            }
        }
    }

    /// Raises the commit index to `index` and queues the newly committed entries for the applier,
    /// in log order. Does nothing if `index` is not higher. `as_leader` says whether this replica
    /// commits the entries as leader.
    pub(super) fn commit_to(&mut self, index: Index, as_leader: bool) {
        if index <= self.commit_index {
            return;
        }
        assert!(
            index <= self.log.last().index,
            "commit index {index} past the log's end {}",
            self.log.last()
        );
        assert!(
            self.committed.last().is_none_or(|it| it.entry.index() == self.commit_index),
            "the applier gets {:?} last, but {} is committed",
            self.committed.last(),
            self.commit_index
        );
        for next in self.commit_index.0 + 1..=index.0 {
            let entry = self.log.entry(Index(next)).expect("up to the last index").clone();
            if as_leader {
                self.appended.subtract_bytes(entry.record().len());
            }
            if let Some(level) = entry.feature_level() {
                self.feature_level = self.feature_level.max(level);
            }
            self.committed.push(Committed { entry, as_leader });
        }
        self.commit_index = index;
        self.appended.commit(index);
        self.membership.commit(index, &self.config);
    }

    /// Returns the commit index that this leader sends to its peers: its own, or the lower applied
    /// index if [`Config::commit_index_after_replies`] is set.
    pub(super) fn shown_commit_index(&self) -> Index {
        if self.config.commit_index_after_replies { self.applied_index } else { self.commit_index }
    }

    pub(super) fn on_applied(&mut self, index: Index) {
        assert!(
            self.applied_index <= index && index <= self.commit_index,
            "applied {index} after {}, but only {} is committed",
            self.applied_index,
            self.commit_index
        );
        self.applied_index = index;
    }

    /// Records that the state machine has reached the entry at `index` by installing a snapshot.
    pub(super) fn applied_by_snapshot(&mut self, index: Index) {
        assert!(
            index <= self.commit_index,
            "a snapshot up to {index}, but only {} is committed",
            self.commit_index
        );
        self.applied_index = self.applied_index.max(index);
    }

    /// Replaces the log with an empty one that starts after `last`, the last entry of an installed
    /// snapshot. `configuration` is the one as of this entry; `None` if the members had not changed
    /// by then. `level` is the cluster's feature level as of this entry.
    pub(super) fn restart_log(
        &mut self,
        last: EntryId,
        configuration: Option<Configuration>,
        level: FeatureLevel,
    ) {
        assert!(
            last.index > self.commit_index && self.appended.is_empty(),
            "the log is reset to begin after {last}, but {} is committed",
            self.commit_index
        );
        self.log.restart(last);
        self.jobs.restart_log(last);
        self.membership.restart(last.index, configuration, &self.config);
        self.feature_level = self.feature_level.max(level);
        // Their entries are in the snapshot.
        self.committed.clear();
        self.commit_index = last.index;
        self.applied_index = last.index;
    }

    /// Handles the log writer's report that a job is done: its entries are now durable, and
    /// rejoining is complete if this job completes it.
    pub(super) fn on_persisted(&mut self, persisted: Persisted) {
        self.jobs.complete(persisted.sequence);
        self.disk.job_done(self.now, self.jobs.is_busy());
        if self.rejoining.as_ref().is_some_and(|it| it.is_finished(self.jobs.done())) {
            self.rejoining = None;
            self.counters.rejoined += 1;
        }
        if let Some(last) = persisted.last {
            self.log.mark_durable(last, &self.config);
        }
    }

    /// Checks whether the disk has stalled, and counts a new stall.
    pub(super) fn watch_disk(&mut self) {
        if self.disk.watch(self.now, &self.config) {
            self.counters.disk_stalls += 1;
        }
    }

    // Client requests.

    /// Records that this replica has become leader. Uncommitted entries of earlier terms are
    /// included in the uncommitted bytes, which are limited.
    pub(super) fn start_leadership(&mut self) {
        self.appended.start_leadership(&self.log, self.commit_index);
    }

    /// Records that this replica is no longer leader. Later leaders decide whether its uncommitted
    /// requests are committed or replaced.
    pub(super) fn end_leadership(&mut self) {
        self.leader = None;
        self.appended.end_leadership();
    }

    /// Returns the total length in bytes of the uncommitted entries while this replica leads, else
    /// 0.
    pub(super) fn uncommitted_bytes(&self) -> usize {
        self.appended.uncommitted_bytes()
    }

    /// Returns how many bytes of entries this leader may append before it reaches the limit on
    /// uncommitted bytes.
    pub(super) fn append_budget(&self) -> usize {
        self.config.uncommitted_bytes_max.saturating_sub(self.appended.uncommitted_bytes())
    }

    /// Refuses client requests that this replica appended as an earlier leader and whose entries
    /// were replaced by another leader's.
    pub(super) fn refuse_replaced(&mut self, out: &mut Effects) {
        let leader = self.serving_leader();
        self.appended.retain_undecided(&self.log, self.commit_index, |key| {
            out.refusals.push(Refusal { key, reason: RefusalReason::Replaced, leader });
        });
    }

    /// Redirects a client to the leader if this replica has heard from the leader recently, and has
    /// not redirected this client since. Otherwise the request waits for the leader's next message
    /// or for a new leader, so that the clients of a failed leader are not sent back and forth
    /// between replicas.
    pub(super) fn redirect(&mut self, request: ClientRequest, out: &mut Effects) {
        let age_max = self.config.heartbeat_interval * 5 / 4;
        let is_alive = self.leader_heard_at.is_some_and(|at| self.now.since(at) <= age_max);
        if is_alive && self.waiting.may_redirect(request.key.client) {
            self.refuse(request.key, RefusalReason::NotLeader, out);
        } else {
            self.wait_for_leader(request, out);
        }
    }

    /// Redirects all client requests that are waiting for a leader to the current leader, from
    /// which a message has just arrived.
    pub(super) fn redirect_waiting(&mut self, out: &mut Effects) {
        if self.serving_leader().is_none() {
            return;
        }
        while let Some(key) = self.waiting.pop_redirected() {
            self.refuse(key, RefusalReason::NotLeader, out);
        }
    }

    /// Lets a client's request wait until a leader is known, for a little longer than an election
    /// takes. Refuses it with [`RefusalReason::Busy`] if too many requests are waiting.
    pub(super) fn wait_for_leader(&mut self, request: ClientRequest, out: &mut Effects) {
        if self.waiting.len() >= self.config.waiting_requests_max {
            self.refuse(request.key, RefusalReason::Busy, out);
            return;
        }
        self.waiting.push(request, self.now + self.request_wait());
    }

    fn request_wait(&self) -> Duration {
        if self.isolated_campaigns > 0 {
            self.config.request_wait_isolated
        } else {
            self.config.request_wait
        }
    }

    /// Records a campaign in which this replica heard from no quorum. Waiting requests are then
    /// refused sooner, because their clients may reach a leader through another replica.
    pub(super) fn record_isolated_campaign(&mut self) {
        self.isolated_campaigns += 1;
        self.lost_campaigns = 0;
        self.waiting.limit_deadlines(self.now + self.request_wait());
    }

    /// Removes and returns all client requests that are waiting for a leader.
    pub(super) fn take_waiting(&mut self) -> impl Iterator<Item = ClientRequest> + use<> {
        self.waiting.take()
    }

    /// Refuses client requests that have waited too long for a leader. They were never appended to
    /// the log.
    pub(super) fn refuse_overdue(&mut self, out: &mut Effects) {
        while let Some(key) = self.waiting.pop_overdue(self.now) {
            self.refuse(key, RefusalReason::NotLeader, out);
        }
    }

    /// Returns when the next waiting client request is to be refused; [`Instant::MAX`] if none is
    /// waiting.
    pub(super) fn next_waiting_deadline(&self) -> Instant {
        self.waiting.next_deadline()
    }

    pub(super) fn refuse(&mut self, key: RequestKey, reason: RefusalReason, out: &mut Effects) {
        if reason == RefusalReason::Busy {
            self.counters.busy += 1;
        }
        out.refusals.push(Refusal { key, reason, leader: self.serving_leader() });
    }

    // The end of a batch.

    /// Outputs the results of a batch of inputs: at most one job each for the log writer and the
    /// applier.
    pub(super) fn flush(&mut self, out: &mut Effects) {
        assert!(out.append.is_none(), "the driver has not taken the job of the last flush");
        out.apply.entries.append(&mut self.committed);
        out.apply.reads.append(&mut self.ready_reads);
        // The log in memory may keep more, for slow followers. A restart reads nothing that is in
        // the snapshot.
        let in_snapshot = self.snapshot.map_or(Index::ZERO, |snapshot| snapshot.last.index);
        let compact_to = self.log.base().index.max(in_snapshot.min(self.log.durable_index()));
        out.append = self.jobs.next_job(
            &self.log,
            &mut self.hard_state,
            self.rejoining.as_mut(),
            compact_to,
            self.disk.is_low(),
            self.feature_level,
        );
        if out.append.is_some() {
            self.disk.job_started(self.now);
        }
        assert!(
            !self.hard_state.is_unwritten() && self.committed.is_empty(),
            "a flush left term {} or {} committed entries",
            self.term(),
            self.committed.len()
        );
    }

    /// Panics if the log's base (last compacted), durable, applied, commit and last indexes are out
    /// of order, or if the last entry's term is higher than the current term.
    pub(super) fn check_cursors(&self) {
        let (base, last) = (self.log.base().index, self.log.last());
        let snapshot = self.snapshot.map_or(Index::ZERO, |snapshot| snapshot.last.index);
        assert!(
            self.applied_index <= self.commit_index && self.commit_index <= last.index,
            "applied {}, committed {}, last {last}",
            self.applied_index,
            self.commit_index
        );
        assert!(
            self.log.durable_index() <= last.index && base <= self.log.durable_index(),
            "base {base}, durable {}, last {last}",
            self.log.durable_index()
        );
        assert!(
            base <= snapshot && base <= self.applied_index,
            "base {base}, snapshot up to {snapshot}, applied {}",
            self.applied_index
        );
        assert!(last.term <= self.term(), "the log ends with {last} in term {}", self.term());
    }

    /// Panics if an invariant of the shared state is violated.
    pub(super) fn check(&self) {
        self.check_cursors();
        assert!(
            self.leader.is_none() || self.leader == self.leader_of_term,
            "{:?} leads, but {:?} is the leader of term {}",
            self.leader,
            self.leader_of_term,
            self.term()
        );
        self.membership.check(self.commit_index, self.log.last().index);
        self.waiting.check();
        self.appended.check(self.leader == Some(self.id), self.commit_index);
    }
}
