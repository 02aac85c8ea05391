//! What outlives a role: identity, hard state, log, cursors, and the requests that wait for
//! something. Roles change it through methods that keep its invariants.

use std::collections::VecDeque;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::config::{Config, Mutant};
use crate::record::{Entry, EntryKind};
use crate::types::{ClientId, EntryId, Index, Instant, JobSequence, NodeId, RequestKey, Term};

use super::disk_health::DiskHealth;
use super::effects::{
    AppendJob, Committed, Effects, HardState, Refusal, RefusalReason, RejectReason,
    RejectedMessage, SnapshotId,
};
use super::log::LogTail;
use super::message::{ClientRequest, Envelope, PeerMsg, Persisted, RequestVote};
use super::quorum::REPLICAS_MAX;
use super::rejoin::Rejoining;
use super::replica::Durable;
use super::status::Counters;
use super::term_budget::TermBudget;
use super::timing;

/// Clients remembered as sent to the leader; beyond it requests wait for the next sign of life.
const REDIRECTED_MAX: usize = 1024;
/// Rejected messages that are reported in one batch; all are counted.
const REJECTED_MAX: usize = 16;

/// A request that waits until somebody leads.
#[derive(Debug)]
struct Held {
    deadline: Instant,
    request: ClientRequest,
}

/// State that all roles share.
///
/// Invariants: `applied_index <= commit_index <= log.last()`; `commit_index` never falls;
/// `hard_state.term` never falls, and within a term the vote changes only from nobody to
/// somebody; `held` is in order of its deadlines.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) id: NodeId,
    /// The other replicas, in order of their ids.
    pub(super) peers: Vec<NodeId>,
    pub(super) config: Config,
    pub(super) rng: ChaCha8Rng,
    /// Set once on entry, so that one step sees one time.
    pub(super) now: Instant,
    /// Before this instant the replica sends and takes nothing.
    pub(super) silent_until: Instant,
    pub(super) log: LogTail,
    /// The latest snapshot on disk. The log's base is never past its last entry.
    pub(super) snapshot: Option<SnapshotId>,
    /// The log begins anew behind this entry, which the log writer does not know yet.
    restart_after: Option<EntryId>,
    /// The log's base when the log writer was last told of it.
    compacted_to: Index,
    /// Who leads this term, once that is known.
    pub(super) leader: Option<NodeId>,
    /// Who has led this term. Stays when that leader is given up, for a term has only one.
    pub(super) leader_of_term: Option<NodeId>,
    /// The latest leadership transfer that a leader has announced: in which term, and to whom.
    pub(super) announced_transfer: Option<(Term, NodeId)>,
    /// How far messages may still raise the term.
    term_budget: TermBudget,
    /// Who led last, as far as known: what the simulator is told while `leader` is unknown.
    pub(super) last_known_leader: Option<NodeId>,
    /// When a leader was last heard: within the lowest election timeout from then nobody votes.
    pub(super) leader_heard_at: Option<Instant>,
    /// Messages lost one way, in a thousand, as the last leader measured it.
    pub(super) loss_permille: u16,
    /// Campaigns in a row in which not even a quorum was heard: this replica is cut off.
    pub(super) cut_off_campaigns: u32,
    pub(super) counters: Counters,
    /// How this replica's disk is.
    pub(super) disk: DiskHealth,
    /// Set as long as it is rejoining after the loss of its disk.
    pub(super) rejoining: Option<Rejoining>,
    hard_state: HardState,
    hard_state_changed: bool,
    /// The job that makes the current hard state durable.
    hard_state_job: JobSequence,
    last_job: JobSequence,
    durable_job: JobSequence,
    /// Entries from here on have not been given to the log writer.
    unwritten_from: Option<Index>,
    release: Vec<Envelope>,
    commit_index: Index,
    applied_index: Index,
    committed: Vec<Committed>,
    /// Reads that may be answered once everything committed so far is applied.
    pub(super) ready_reads: Vec<ClientRequest>,
    held: VecDeque<Held>,
    /// Who was sent to the leader since that was last heard. Whoever of them comes back did not
    /// find it, and waits here for its next sign of life.
    redirected: Vec<ClientId>,
    /// Requests appended in the current leadership, in order.
    pending: VecDeque<(EntryId, RequestKey)>,
    /// Requests appended in earlier leaderships whose fate the log has not told yet.
    orphans: Vec<(EntryId, RequestKey)>,
    /// Bytes of the entries past the commit index, while this replica leads; else zero.
    uncommitted_bytes: usize,
}

impl Shared {
    pub(super) fn new(
        id: NodeId,
        peers: &[NodeId],
        config: Config,
        seed: u64,
        durable: Durable,
        now: Instant,
    ) -> Shared {
        let mut peers = peers.to_vec();
        peers.sort_unstable();
        peers.dedup();
        assert!(!peers.contains(&id), "replica {id} is named as its own peer");
        assert!(peers.len() < REPLICAS_MAX, "{} peers are too many", peers.len());
        // After a restart this replica may have helped a leader to a lease just before it
        // stopped: it keeps the promise as if it had heard that leader now. Also if it has lost its
        // disk since.
        let restarted = durable.rejoining || durable.hard_state != HardState::default();
        // Of a rejoining replica the state is lost, and the others' terms are all that it can know.
        let is_new = durable.hard_state == HardState::default()
            && durable.snapshot.is_none()
            && durable.entries.is_empty();
        let base = durable.snapshot.map_or(EntryId::ZERO, |snapshot| snapshot.last);
        // A snapshot may be on disk before the term of its last entry is. No vote of that term was
        // shown then, for votes are shown only when they are on disk.
        let hard_state_changed = base.term > durable.hard_state.term;
        let hard_state = if hard_state_changed {
            HardState { term: base.term, voted_for: None }
        } else {
            durable.hard_state
        };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let silent_until = now + config.silence_after_start;
        let rejoining = durable.rejoining.then(|| Rejoining::new(&mut rng, silent_until));
        Shared {
            id,
            peers,
            rng,
            now,
            silent_until,
            log: LogTail::recovered(base, durable.entries),
            snapshot: durable.snapshot,
            restart_after: None,
            compacted_to: base.index,
            leader: None,
            leader_of_term: None,
            announced_transfer: None,
            term_budget: TermBudget::new(now, is_new),
            last_known_leader: None,
            leader_heard_at: restarted.then_some(now),
            loss_permille: timing::LOSS_UNKNOWN_PERMILLE,
            cut_off_campaigns: 0,
            counters: Counters::default(),
            disk: DiskHealth::new(now),
            rejoining,
            hard_state,
            hard_state_changed,
            hard_state_job: JobSequence(0),
            last_job: JobSequence(0),
            durable_job: JobSequence(0),
            unwritten_from: None,
            release: Vec::new(),
            commit_index: base.index,
            applied_index: base.index,
            committed: Vec::new(),
            ready_reads: Vec::new(),
            held: VecDeque::new(),
            redirected: Vec::new(),
            pending: VecDeque::new(),
            orphans: Vec::new(),
            uncommitted_bytes: 0,
            config,
        }
    }

    pub(super) fn term(&self) -> Term {
        self.hard_state.term
    }

    pub(super) fn voted_for(&self) -> Option<NodeId> {
        self.hard_state.voted_for
    }

    pub(super) fn commit_index(&self) -> Index {
        self.commit_index
    }

    pub(super) fn applied_index(&self) -> Index {
        self.applied_index
    }

    /// How many replicas there are, this one included.
    pub(super) fn replicas(&self) -> usize {
        self.peers.len() + 1
    }

    /// Moves to a higher term, with the vote that goes with it from the start.
    pub(super) fn set_term(&mut self, term: Term, voted_for: Option<NodeId>) {
        assert!(term > self.term(), "term {} after {}: a term fell", term, self.term());
        self.hard_state = HardState { term, voted_for };
        self.hard_state_changed = true;
        (self.leader, self.leader_of_term) = (None, None);
        // Answers of the old term that have not left vouch for entries that the new term's
        // leader may replace before they are ever written. To lose an answer is always safe.
        self.release.retain(|envelope| !matches!(envelope.message, PeerMsg::AppendReply(_)));
    }

    /// Whether a candidate stands because the leader of the term before has told it to, as that
    /// leader itself has announced. The candidate's word alone would let it depose any leader.
    pub(super) fn is_announced_transfer(&self, from: NodeId, request: &RequestVote) -> bool {
        request.transfer
            && self
                .announced_transfer
                .is_some_and(|(term, to)| to == from && term.next() == request.term)
    }

    /// Whether a message may raise the term to this higher one.
    pub(super) fn may_raise_term(&mut self, term: Term) -> bool {
        self.term_budget.covers(self.term(), term, self.now)
    }

    /// Moves to the higher term of a message, which [`Shared::may_raise_term`] allows.
    pub(super) fn raise_term(&mut self, term: Term) {
        self.term_budget.pay(self.term(), term);
        self.set_term(term, None);
    }

    /// Counts a message that no correct peer sends, and reports it.
    pub(super) fn reject(&mut self, from: NodeId, reason: RejectReason, out: &mut Effects) {
        match reason {
            RejectReason::Term { .. } => self.counters.terms_rejected += 1,
            RejectReason::SecondLeader { .. } | RejectReason::Contradiction { .. } => {
                self.counters.conflicts_rejected += 1;
            }
        }
        if out.rejected.len() < REJECTED_MAX {
            out.rejected.push(RejectedMessage { from, reason });
        }
    }

    /// Whether another entry is known at the place of this one.
    pub(super) fn contradicts(&self, entry: EntryId) -> bool {
        self.log.term_at(entry.index).is_some_and(|term| term != entry.term)
    }

    /// Rejects a message with an entry that differs from this log where that can't be replaced.
    pub(super) fn reject_contradiction(
        &mut self,
        from: NodeId,
        entry: EntryId,
        settled: Index,
        out: &mut Effects,
    ) {
        self.reject(from, RejectReason::Contradiction { entry, settled }, out);
    }

    /// Gives the vote of this term, once (§5.2).
    pub(super) fn vote_for(&mut self, candidate: NodeId) {
        if self.hard_state.voted_for == Some(candidate) {
            return;
        }
        assert!(
            self.hard_state.voted_for.is_none() || self.config.breaks(Mutant::VoteTwice),
            "a second vote in term {}: for {candidate} after {:?}",
            self.term(),
            self.hard_state.voted_for
        );
        self.hard_state.voted_for = Some(candidate);
        self.hard_state_changed = true;
    }

    /// The job whose completion makes the current hard state durable.
    pub(super) fn hard_state_is_durable(&self) -> bool {
        !self.hard_state_changed && self.hard_state_job <= self.durable_job
    }

    /// Sends as soon as the disk holds what the message shows: term and vote (Figure 2).
    pub(super) fn send(&mut self, to: NodeId, message: PeerMsg, out: &mut Effects) {
        let early = self.config.breaks(Mutant::VoteBeforeSync);
        if self.hard_state_is_durable() || early {
            let envelope = self.envelope(to, message);
            out.send.push(envelope);
        } else {
            self.send_when_durable(to, message);
        }
    }

    /// Sends once everything that the log holds now is on disk.
    pub(super) fn send_when_durable(&mut self, to: NodeId, message: PeerMsg) {
        let envelope = self.envelope(to, message);
        self.release.push(envelope);
    }

    pub(super) fn envelope(&self, to: NodeId, message: PeerMsg) -> Envelope {
        Envelope { from: self.id, to, leader: self.last_known_leader, message }
    }

    /// Notes a living leader of this term.
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
        self.cut_off_campaigns = 0;
        self.redirected.clear();
    }

    /// Whether a leader was heard so lately that its lease may last: nobody gets a vote then
    /// (§6, last paragraph; thesis 6.4.1).
    pub(super) fn leader_may_hold_lease(&self) -> bool {
        if self.config.breaks(Mutant::VoteUnderLease) {
            return false;
        }
        self.leader_heard_at
            .is_some_and(|heard| self.now.since(heard) < self.config.election_timeout_min)
    }

    /// Whether a log that ends with `last` may lead this replica (§5.4.1).
    pub(super) fn is_up_to_date(&self, last: EntryId) -> bool {
        last >= self.log.last() || self.config.breaks(Mutant::VoteForShorterLog)
    }

    pub(super) fn draw_first_election_timeout(&mut self) -> Duration {
        timing::first_election_timeout(&self.config, &mut self.rng)
    }

    /// Longer where messages are lost, but only for patience with a leader: without one there
    /// is nothing to be patient with.
    pub(super) fn draw_election_timeout(&mut self) -> Duration {
        let loss_permille = if self.leader.is_some() { self.loss_permille } else { 0 };
        timing::election_timeout(&self.config, loss_permille, &mut self.rng)
    }

    // Log and commit.

    /// Appends a leader's own entry.
    pub(super) fn append(&mut self, kind: EntryKind, payload: &[u8]) -> EntryId {
        let term = self.term();
        let entry = self.log.append(term, kind, payload);
        let (id, bytes) = (entry.id(), entry.record().len());
        self.uncommitted_bytes += bytes;
        self.note_unwritten(id.index);
        id
    }

    /// Appends a client's write in the current leadership and remembers who asked.
    pub(super) fn append_request(&mut self, request: &ClientRequest) {
        let id = self.append(EntryKind::Command, &request.payload);
        self.pending.push_back((id, request.key));
    }

    /// Takes in a leader's entries, which follow one that the log holds.
    pub(super) fn splice(&mut self, entries: &[Entry]) {
        let spliced = self.log.splice(entries, self.commit_index, &self.config);
        if let Some(from) = spliced.changed_from {
            self.note_unwritten(from);
        }
    }

    fn note_unwritten(&mut self, from: Index) {
        self.unwritten_from = Some(self.unwritten_from.map_or(from, |there| there.min(from)));
    }

    /// Commits up to `index`, if that is news. Entries go to the state machine in this order
    /// and only once.
    pub(super) fn commit_to(&mut self, index: Index, as_leader: bool) {
        if index <= self.commit_index {
            return;
        }
        assert!(
            index <= self.log.last().index,
            "commit index {index} past the log's end {:?}",
            self.log.last()
        );
        for place in self.commit_index.0 + 1..=index.0 {
            let entry = self.log.entry(Index(place)).expect("up to the last index").clone();
            if as_leader {
                self.uncommitted_bytes -= entry.record().len();
            }
            self.committed.push(Committed { entry, as_leader });
        }
        self.commit_index = index;
        while self.pending.front().is_some_and(|(id, _)| id.index <= index) {
            self.pending.pop_front();
        }
    }

    /// Refuses the requests of earlier leaderships that are certainly dead by now: another entry
    /// is committed in their place, or one of a later term before them. Terms
    /// never fall within a log, so behind that no leader's log can hold them any more.
    pub(super) fn refuse_replaced(&mut self, out: &mut Effects) {
        if self.orphans.is_empty() {
            return;
        }
        let (commit_index, log, leader) = (self.commit_index, &self.log, self.leader);
        let base = log.base().index;
        self.orphans.retain(|&(id, key)| {
            if id.index < base {
                // It may be in a snapshot that was taken in: nobody here can tell any more.
                return false;
            }
            let committed = log.id_at(id.index.min(commit_index));
            let dead = committed.term > id.term
                || (committed.index == id.index && committed.term != id.term);
            if dead {
                out.refusals.push(Refusal { key, reason: RefusalReason::Replaced, leader });
            }
            !dead && id.index > commit_index
        });
    }

    /// The commit index that peers may see.
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

    /// The state machine has come to `index` by a snapshot.
    pub(super) fn note_applied(&mut self, index: Index) {
        self.applied_index = self.applied_index.max(index);
    }

    /// The log begins anew behind `last`, the end of a snapshot in the state machine.
    pub(super) fn restart_log(&mut self, last: EntryId) {
        assert!(
            last.index > self.commit_index && self.pending.is_empty(),
            "a log that is committed up to {} began anew behind {last:?}",
            self.commit_index
        );
        self.log.restart(last);
        self.restart_after = Some(last);
        self.compacted_to = last.index;
        self.unwritten_from = None;
        // They are in the snapshot.
        self.committed.clear();
        self.commit_index = last.index;
        self.applied_index = last.index;
        // Answers that have not left vouch for entries that are gone; to lose one is always safe.
        self.release.retain(|envelope| !matches!(envelope.message, PeerMsg::AppendReply(_)));
    }

    /// True if more of the log, or the hard state, is durable now.
    pub(super) fn on_persisted(&mut self, persisted: Persisted) {
        assert!(
            persisted.sequence == self.durable_job.next() && persisted.sequence <= self.last_job,
            "job {} is said to be done after {} of {}",
            persisted.sequence,
            self.durable_job,
            self.last_job
        );
        self.durable_job = persisted.sequence;
        self.disk.finished(self.now, self.durable_job < self.last_job);
        if self.rejoining.as_ref().is_some_and(|there| there.is_over(self.durable_job)) {
            self.rejoining = None;
            self.counters.rejoined += 1;
        }
        if let Some(last) = persisted.last {
            self.log.mark_durable(last, &self.config);
        }
    }

    // Requests that wait.

    /// Begins a leadership: what it inherits uncommitted counts against the same limit.
    pub(super) fn count_uncommitted(&mut self) {
        let inherited = self.log.tail(self.commit_index.next());
        self.uncommitted_bytes = inherited.iter().map(|entry| entry.record().len()).sum();
    }

    pub(super) fn uncommitted_bytes(&self) -> usize {
        self.uncommitted_bytes
    }

    /// Ends a leadership: its unanswered requests wait for the log's verdict.
    pub(super) fn orphan_pending(&mut self) {
        self.orphans.extend(self.pending.drain(..));
        self.uncommitted_bytes = 0;
    }

    /// Sends a client to the leader, if that seems to live; else the request waits for a sign of
    /// life or for another leader. Without this every client of a leader that has just died
    /// would be sent to and fro between it and the followers.
    pub(super) fn redirect(&mut self, request: ClientRequest, out: &mut Effects) {
        let patience = self.config.heartbeat_interval * 5 / 4;
        let alive = self.leader_heard_at.is_some_and(|heard| self.now.since(heard) <= patience);
        if alive
            && self.redirected.len() < REDIRECTED_MAX
            && !self.redirected.contains(&request.key.client)
        {
            self.redirected.push(request.key.client);
            self.refuse(request.key, RefusalReason::NotLeader, out);
        } else {
            self.hold(request, out);
        }
    }

    /// Sends all that wait to the leader, which has just shown that it lives.
    pub(super) fn redirect_held(&mut self, out: &mut Effects) {
        while let Some(held) = self.held.pop_front() {
            self.redirected.push(held.request.key.client);
            self.refuse(held.request.key, RefusalReason::NotLeader, out);
        }
    }

    /// Keeps a request until somebody leads, or for a little more than one election.
    pub(super) fn hold(&mut self, request: ClientRequest, out: &mut Effects) {
        if self.held.len() >= self.config.waiting_requests_max {
            self.refuse(request.key, RefusalReason::Busy, out);
            return;
        }
        let wanted = self.now + self.hold_time();
        let deadline = self.held.back().map_or(wanted, |held| held.deadline.max(wanted));
        self.held.push_back(Held { deadline, request });
    }

    fn hold_time(&self) -> Duration {
        if self.cut_off_campaigns > 0 {
            self.config.request_wait_isolated
        } else {
            self.config.request_wait
        }
    }

    /// A whole campaign did not hear from a quorum: whoever waits here may do better elsewhere.
    pub(super) fn cut_off(&mut self) {
        self.cut_off_campaigns += 1;
        let latest = self.now + self.hold_time();
        for held in &mut self.held {
            held.deadline = held.deadline.min(latest);
        }
    }

    pub(super) fn take_held(&mut self) -> impl Iterator<Item = ClientRequest> + use<> {
        std::mem::take(&mut self.held).into_iter().map(|held| held.request)
    }

    /// Refuses what was held too long. None of it was ever appended.
    pub(super) fn refuse_overdue(&mut self, out: &mut Effects) {
        while self.held.front().is_some_and(|held| held.deadline <= self.now) {
            let key = self.held.pop_front().expect("there is a front").request.key;
            self.refuse(key, RefusalReason::NotLeader, out);
        }
    }

    pub(super) fn held_deadline(&self) -> Instant {
        self.held.front().map_or(Instant::MAX, |held| held.deadline)
    }

    pub(super) fn refuse(&mut self, key: RequestKey, reason: RefusalReason, out: &mut Effects) {
        if reason == RefusalReason::Busy {
            self.counters.busy += 1;
        }
        out.refusals.push(Refusal { key, reason, leader: self.leader });
    }

    // The end of a batch.

    /// Hands over what the batch made: one job for the log writer, one for the apply stage.
    pub(super) fn flush(&mut self, out: &mut Effects) {
        assert!(out.append.is_none(), "the driver flushed twice without taking the first job");
        out.apply.entries.append(&mut self.committed);
        out.apply.reads.append(&mut self.ready_reads);
        let entries: Vec<Entry> =
            self.unwritten_from.take().map_or_else(Vec::new, |from| self.log.tail(from));
        // It goes along with what there is to write, unless the room is needed.
        // In memory more is kept, for slow followers; a start gives nothing back of what is in the
        // snapshot.
        let saved = self.snapshot.map_or(Index::ZERO, |snapshot| snapshot.last.index);
        let base = self.log.base().index.max(saved.min(self.log.durable_index()));
        let compact_to = (base > self.compacted_to).then_some(base);
        let mut rejoining = self.rejoining.as_mut().filter(|there| there.has_caught_up());
        if entries.is_empty()
            && !self.hard_state_changed
            && self.release.is_empty()
            && self.restart_after.is_none()
            && rejoining.is_none()
            && !(compact_to.is_some() && self.disk.is_low())
        {
            return;
        }
        self.compacted_to = base;
        self.last_job = self.last_job.next();
        self.disk.given(self.now);
        let hard_state = self.hard_state_changed.then_some(self.hard_state);
        if hard_state.is_some() {
            self.hard_state_changed = false;
            self.hard_state_job = self.last_job;
        }
        if let Some(rejoining) = &mut rejoining {
            rejoining.end_with(self.last_job);
        }
        out.append = Some(AppendJob {
            sequence: self.last_job,
            hard_state,
            restart_after: self.restart_after.take(),
            compact_to,
            entries,
            rejoined: rejoining.is_some(),
            release: std::mem::take(&mut self.release),
        });
    }

    pub(super) fn check(&self) {
        let snapshot = self.snapshot.map_or(Index::ZERO, |snapshot| snapshot.last.index);
        assert!(
            self.log.base().index <= snapshot,
            "the log's base {:?} is past the latest snapshot, which ends at {snapshot}",
            self.log.base()
        );
        assert!(
            self.applied_index <= self.commit_index,
            "applied {} past the commit index {}",
            self.applied_index,
            self.commit_index
        );
        assert!(
            self.commit_index <= self.log.last().index,
            "commit index {} past the log's end {:?}",
            self.commit_index,
            self.log.last()
        );
        assert!(
            self.log.last().term <= self.term(),
            "the log ends with {:?} in term {}",
            self.log.last(),
            self.term()
        );
        assert!(
            self.held.iter().zip(self.held.iter().skip(1)).all(|(a, b)| a.deadline <= b.deadline),
            "held requests are out of order"
        );
    }
}
