//! The applier stage: owns the state machine. It applies committed entries in order, replies to the
//! requests that this replica must answer, answers reads, and sends the replies to the network in
//! one batch. The core learns of applied entries only after the network has handled the replies.
//!
//! A pass is bounded by a number of groups of operations and by time, because the applier may share
//! its thread with the network, and because the network takes the replies of a pass all at once.
//! The remaining work waits for the next pass, which may begin in the middle of an entry.
//!
//! The applier also starts snapshots, since it owns the state that goes into them, and installs the
//! snapshots of a leader.
//!
//! If the other replicas report another state than this one has, the applier marks the folder and
//! then does nothing more: the replica stops, and its next start rebuilds the state.

mod key_index;
mod reads;
mod scripts;
mod state_check;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use crossbeam::channel::TrySendError;

use crate::clock::AppliedClock;
use crate::kv::{Batch, GROUP_MAX, Group, KeyspaceStatistics, Outcome, Piece, StateMachine};
use crate::raft::{ClientRequest, Committed};
use crate::runtime::boards::{ApplierBoard, MemoryBoard};
use crate::runtime::channels::{
    Answer, Applied, ApplierEnds, ApplyBatch, Deletion, IndexedReads, QUEUE_LEN, ReadTimestamp,
    ReceivedSnapshot, ReplyBatch, SnapshotJob,
};
use crate::runtime::clock::Clock;
use crate::runtime::pass::Pass;
use crate::runtime::trace_board::{TraceBoard, TracedStep};
use crate::runtime::wake::Wake;
use crate::types::{EntryId, Index, RequestKey};

use super::snapshot_scheduler::SnapshotScheduler;
use key_index::KeyIndexUse;
use scripts::Scripts;
pub(crate) use state_check::StateCheck;

/// Log indexes that are multiples of this number are those at which the digest of the state is
/// kept, so that the digests of replicas can be compared under load. Equal on all replicas.
const DIGEST_INTERVAL: u64 = 256;
/// Maximum number of groups of operations that the applier handles in one pass (iteration of the
/// stage's loop). A group consists of up to [`GROUP_MAX`] consecutive operations of one batch.
const PASS_GROUPS_MAX: usize = 4_096 / GROUP_MAX;

/// Memory usage in bytes of values that the background deletion has not freed yet, above which the
/// applier frees further values itself: so clients cannot remove values faster than they are freed.
const PENDING_BYTES_MAX: u64 = 1 << 30;

/// Estimated number of steps of a group of operations (see [`StateMachine::estimate`]) from which
/// on it is long: about 10 ms, a fifth of a heartbeat interval, because some commands take several
/// times as long as estimated, and because the thread may have only a part of a processor.
const LONG_STEPS: u64 = 200_000;

/// Length in bytes of a request id's origin: the beginning of the id, which identifies the replica
/// that received the request from the client.
pub(crate) const ORIGIN_BYTES: usize = 8;

/// Decides which committed requests this replica replies to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReplyPolicy {
    /// This replica replies to the requests that it committed as the leader, as the protocol of the
    /// university course requires.
    Leader,
    /// This replica replies to the requests that clients sent to it, regardless of which replica is
    /// the leader. The ids of such requests begin with these bytes.
    Origin([u8; ORIGIN_BYTES]),
}

/// A batch of entries and reads that the applier has begun but not completed.
#[derive(Debug)]
struct Unfinished {
    batch: ApplyBatch,
    /// The index of the last log entry in the batch; `None` if the batch has no entries, or if the
    /// state had already applied all of them when the applier began the batch.
    index: Option<Index>,
    entries_done: usize,
    /// The part of the entry after those that has been applied; `None` if it has not begun.
    begun: Option<BegunEntry>,
}

/// An entry that the state machine has begun and not finished.
#[derive(Debug)]
struct BegunEntry {
    /// The batch in the entry, or the whole batch that its piece completes.
    payload: Bytes,
    /// The outcomes of the operations applied so far.
    outcomes: Vec<Outcome>,
}

/// How the applier treats operations that take long according to [`StateMachine::estimate`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LongOperations {
    /// The applier has a thread of its own, and runs long operations like all others.
    Run,
    /// The applier shares its thread: a pass ends before a long operation.
    Defer,
    /// The last pass ended before a long operation, which [`Applier::run_deferred`] must run.
    Deferred,
}

/// The applier stage: owns the state machine, applies committed entries to it, and answers reads.
///
/// Invariant: the last entry and the size of a batch are reported to the Raft core only once all
/// entries of the batch have been applied.
pub(crate) struct Applier {
    clock: Clock,
    store: StateMachine,
    reply_policy: ReplyPolicy,
    /// The batch that was still incomplete when the last pass (iteration of the stage's loop)
    /// reached its limit; `None` if there is none.
    unfinished: Option<Unfinished>,
    /// Clients' reads that are waiting until the state has applied the log up to their read index.
    early_reads: Vec<IndexedReads>,
    /// Clients' reads that can be answered now, since the log up to their read index has been
    /// applied.
    ready_reads: VecDeque<ClientRequest>,
    /// The outcomes of the reads already answered from the first batch in `ready_reads`.
    read_outcomes: Vec<Outcome>,
    /// The revision of the state when the first read of that batch was answered.
    reads_revision: u64,
    /// Batches of reads that are waiting until the replicated clock (which decides when keys
    /// expire) in the state reaches their timestamp. Holds at most [`UNCLOCKED_READS_MAX`] batches;
    /// further batches are dropped, and their clients get an error after the command deadline.
    unclocked_reads: Vec<(ReadTimestamp, ClientRequest)>,
    /// Clients' requests with scripts, and what runs them.
    scripts: Scripts,
    /// Clients' reads of key ranges that are waiting for the state's index of keys.
    key_index: KeyIndexUse,
    /// The time and the number of resets of the state's replicated clock (which decides when keys
    /// expire) when `unclocked_reads` was last checked.
    unclocked_checked_at: ReadTimestamp,
    /// The id (term and index) of the last entry that was applied to the state.
    last: EntryId,
    /// Maximum memory usage of the history of changes, in bytes; 0 if no changes are recorded.
    history_bytes: usize,
    /// The digest of the state at the applied index that was last reported to the Raft core.
    digest: u64,
    /// The revision of the users that the network stage has.
    users_revision: u64,
    /// Decides when this replica takes a snapshot; `None` if it never takes one.
    scheduler: Option<SnapshotScheduler>,
    /// Whether a snapshot has been requested but has not begun yet.
    snapshot_wanted: bool,
    board: Arc<ApplierBoard>,
    ends: ApplierEnds,
    /// Whether the last call of [`Applier::run_ready`] did nothing because the network's queue was
    /// full.
    skipped: bool,
    long_operations: LongOperations,
    state_check: StateCheck,
    trace: Arc<TraceBoard>,
}

/// Returns the replicated clock (which decides when keys expire) in the state `store`: its time,
/// the number of times it has been set back, and the time at which the next key expires.
pub(crate) fn applied_clock(store: &StateMachine) -> AppliedClock {
    let (millis, resets, next_expiry) = store.shown();
    AppliedClock { millis, resets, next_expiry }
}

impl Applier {
    /// Creates an applier with an empty state machine. It takes no snapshots unless
    /// [`Applier::with_store`] enables them.
    pub(crate) fn new(reply_policy: ReplyPolicy, clock: Clock, ends: ApplierEnds) -> Applier {
        Applier {
            clock,
            store: StateMachine::default(),
            reply_policy,
            unfinished: None,
            early_reads: Vec::new(),
            ready_reads: VecDeque::new(),
            read_outcomes: Vec::new(),
            reads_revision: 0,
            digest: StateMachine::default().digest(),
            unclocked_reads: Vec::new(),
            scripts: Scripts::default(),
            key_index: KeyIndexUse::new(clock.now()),
            unclocked_checked_at: ReadTimestamp::default(),
            last: EntryId::ZERO,
            history_bytes: 0,
            users_revision: 0,
            scheduler: None,
            snapshot_wanted: false,
            board: Arc::default(),
            ends,
            skipped: false,
            long_operations: LongOperations::Run,
            state_check: StateCheck::default(),
            trace: Arc::default(),
        }
    }

    /// Sets the state to `store`, loaded from a snapshot whose last entry is `last`, and enables
    /// snapshots with `scheduler`.
    pub(crate) fn with_store(
        mut self,
        store: StateMachine,
        last: EntryId,
        scheduler: SnapshotScheduler,
    ) -> Applier {
        assert_eq!(store.applied_index(), last.index, "the state does not end with its snapshot");
        self.users_revision = store.users().revision();
        self.store = store;
        self.last = last;
        self.digest = self.store.digest();
        scheduler.memory().note_store(self.store.memory());
        self.scheduler = Some(scheduler);
        self
    }

    /// Sets the board that the applier shares with the network stage. It holds which events
    /// (Pub/Sub messages, keyspace notifications) the applier must collect, and since when its
    /// current pass has been running.
    pub(crate) fn with_board(mut self, board: Arc<ApplierBoard>) -> Applier {
        self.board = board;
        self
    }

    /// Sets the board that has the write that is being traced.
    pub(crate) fn with_trace(mut self, trace: Arc<TraceBoard>) -> Applier {
        self.trace = trace;
        self
    }

    /// Makes the state machine keep a history of changes of at most `bytes` bytes of memory; 0 for
    /// none.
    pub(crate) fn with_history(mut self, bytes: usize) -> Applier {
        self.history_bytes = bytes;
        self.store.keep_history(bytes);
        self
    }

    /// Makes passes end before a long operation, which [`Applier::run_deferred`] must then run on
    /// another thread. For an applier that shares its thread with other stages.
    pub(super) fn defer_long_operations(&mut self) {
        self.long_operations = LongOperations::Defer;
    }

    /// Returns whether the last pass ended before a long operation.
    pub(super) fn has_deferred(&self) -> bool {
        self.long_operations == LongOperations::Deferred
    }

    /// Runs one pass that includes the long operation before which the last pass ended. Blocks
    /// while the network's queue is full.
    pub(super) fn run_deferred(&mut self) {
        assert!(self.has_deferred() && self.has_rest(), "no operation was deferred");
        self.long_operations = LongOperations::Run;
        self.run_once(None);
        self.long_operations = LongOperations::Defer;
    }

    /// Returns the waker of the network stage.
    pub(super) fn network_wake(&self) -> Arc<Wake> {
        self.ends.to_network.wake()
    }

    /// Applies batches on the current thread, which runs only the applier, until the Raft core has
    /// stopped.
    pub(crate) fn run(&mut self) {
        loop {
            if self.has_more() {
                self.run_once(None);
            } else if let Ok(batch) = self.ends.jobs.recv() {
                self.run_once(Some(batch));
            } else {
                return;
            }
        }
    }

    /// Returns whether the last pass (iteration of the stage's loop) left work for the next pass: a
    /// part of a batch, or a read.
    fn has_rest(&self) -> bool {
        self.unfinished.is_some() || !self.ready_reads.is_empty()
    }

    /// Returns whether the applier has work that needs no new batch.
    fn has_more(&self) -> bool {
        (self.has_rest() || self.key_index.is_wanted()) && !self.state_check.is_wrong()
    }

    /// Returns whether an entry has been applied only in part. The state then lies between two log
    /// indexes: no snapshot can be taken of it, and its digest cannot be compared with that of
    /// other replicas.
    fn is_within_entry(&self) -> bool {
        self.unfinished.as_ref().is_some_and(|unfinished| unfinished.begun.is_some())
    }

    /// Returns whether the applier has work that it can do now. False if the last call of
    /// [`Applier::run_ready`] did nothing because the network's queue was full.
    pub(crate) fn is_ready(&self) -> bool {
        (self.has_more() || !self.ends.jobs.is_empty()) && !self.skipped
    }

    /// Runs one pass (iteration of the stage's loop) on a thread shared with other stages, without
    /// blocking; does nothing while the network's queue is full. `has_jobs` says whether the Raft
    /// core has sent a batch since the last call.
    pub(crate) fn run_ready(&mut self, has_jobs: bool) {
        if !has_jobs && !self.skipped && !self.is_ready() {
            return;
        }
        self.skipped = self.ends.to_network.is_full();
        if self.skipped {
            return;
        }
        if self.has_more() {
            self.run_once(None);
        } else if let Ok(batch) = self.ends.jobs.try_recv() {
            self.run_once(Some(batch));
        }
    }

    /// Runs one pass (iteration of the stage's loop): handles the work left over from the last
    /// pass, then `first`, then the batches in the queue, within the limits of a pass. `first` must
    /// be `None` if work is left over.
    pub(crate) fn run_once(&mut self, first: Option<ApplyBatch>) {
        if self.state_check.is_wrong() {
            return;
        }
        assert!(first.is_none() || !self.has_rest(), "a batch before the end of the last one");
        let mut replies = ReplyBatch::default();
        self.board.begin_pass(self.clock.now());
        self.store.listen(self.board.get());
        self.write_locally();
        self.note_contradiction();
        let mut groups = Pass::of_large(self.clock, PASS_GROUPS_MAX);
        let mut batches = Pass::of_large(self.clock, QUEUE_LEN);
        if let Some(unfinished) = self.unfinished.take() {
            self.apply(unfinished, &mut groups, &mut replies);
        }
        self.advance_key_index();
        self.answer_ready_reads(&mut groups, &mut replies);
        let mut first = first;
        while !self.has_rest()
            && !self.state_check.is_wrong()
            && let Some(batch) =
                batches.next(|| first.take().or_else(|| self.ends.jobs.try_recv().ok()))
        {
            let unfinished = self.begin(batch, &mut replies);
            self.apply(unfinished, &mut groups, &mut replies);
        }
        self.run_scripts();
        if self.state_check.is_wrong() {
            self.end_serving();
            return;
        }
        debug_assert_eq!(self.store.applied_index(), self.last.index, "entries were skipped");
        replies.databases = self.store.database_sizes();
        replies.kept_scripts = self.store.kept_scripts();
        replies.digest = self.digest;
        let users = self.store.users();
        if users.revision() != std::mem::replace(&mut self.users_revision, users.revision()) {
            replies.users = Some(Box::new(users.clone()));
        }
        let unlinked = self.store.take_unlinked();
        if !unlinked.is_empty() {
            self.delete(Deletion::Values(unlinked));
        }
        if let Some(scheduler) = &self.scheduler {
            scheduler.memory().note_store(self.store.memory());
        }
        replies.events.extend(self.store.take_events());
        if !self.is_within_entry() {
            // Not before the outcomes of the same entry: a client that found nothing would miss it.
            let changed = self.store.take_changed();
            (replies.changed.changes, replies.changed.keys) = (changed.changes, changed.keys);
            replies.changed.others |= changed.others;
        }
        replies.history = self.store.history();
        replies.applied.clock = applied_clock(&self.store);
        replies.applied.clock_wanted = self.unclocked_reads.iter().map(|(at, _)| at.millis).max();
        self.board.end_pass();
        self.trace.note(TracedStep::Applied, self.last.index);
        // An error means that the network has stopped, and then so does this stage.
        let _ = self.ends.to_network.send(replies);
        // Last, because no client waits for it.
        self.take_snapshot();
    }

    /// Starts a snapshot if one is due: sends an immutable view of the state to the snapshots
    /// stage. Not on a witness, which has no state.
    fn take_snapshot(&mut self) {
        let Some(scheduler) = self.scheduler.as_ref().filter(|_| !self.store.is_witness()) else {
            return;
        };
        if self.is_within_entry()
            || !scheduler.is_due(self.snapshot_wanted)
            || self.last == EntryId::ZERO
            || self.ends.to_snapshots.is_full()
        {
            return;
        }
        scheduler.begin();
        let view = Box::new(self.store.view(self.last));
        if self.ends.to_snapshots.try_send(SnapshotJob::Write(view)).is_ok() {
            self.snapshot_wanted = false;
        } else {
            scheduler.give_up(false);
        }
    }

    /// Replaces the state with a leader's snapshot, unless the state has already applied the
    /// snapshot's last entry.
    fn install(&mut self, received: ReceivedSnapshot, replies: &mut ReplyBatch) {
        let ReceivedSnapshot { id, mut store } = received;
        let configuration = store.configuration().cloned();
        let installed = Some(Box::new((id, configuration, store.feature_level())));
        if id.last.index > self.store.applied_index() {
            // So that no events of this pass are lost.
            replies.events.extend(self.store.take_events());
            store.listen(self.board.get());
            store.keep_history(self.history_bytes);
            store.report_changes(self.board.reports_changes());
            replies.changed.others = true;
            std::mem::swap(&mut self.store, &mut store);
            self.last = id.last;
            self.digest = self.store.digest();
            if let Some(scheduler) = &self.scheduler {
                scheduler.installed();
            }
        }
        replies.applied.merge(Applied { installed, ..Applied::default() });
        self.delete(Deletion::State(Box::new(store)));
    }

    /// Passes removed values to the background deletion. Frees them on this thread, which may take
    /// long, if its queue is full, if it is behind by [`PENDING_BYTES_MAX`], or if this replica has
    /// none.
    fn delete(&self, deletion: Deletion) {
        let size = deletion.size();
        let memory = self.scheduler.as_ref().map(SnapshotScheduler::memory);
        let pending = memory.map_or(0, MemoryBoard::unlinked_bytes);
        if let Some(memory) = memory {
            memory.note_unlinked(size);
            // So that no value counts twice while this thread frees it.
            memory.note_store(self.store.memory());
        }
        let refused = if pending > PENDING_BYTES_MAX {
            Some(deletion)
        } else {
            self.ends.deletions.try_send(deletion).err().map(TrySendError::into_inner)
        };
        if refused.is_some() {
            drop(refused);
            if let Some(memory) = memory {
                memory.note_freed(size);
            }
        }
    }

    /// Begins to handle a batch: installs the leader's snapshot if the batch has one, and records
    /// whether the Raft core requests a snapshot. Returns the batch with none of its entries
    /// applied yet.
    fn begin(&mut self, mut batch: ApplyBatch, replies: &mut ReplyBatch) -> Unfinished {
        // Read again for each batch: a client may wait for changes as soon as its read is answered.
        self.store.report_changes(self.board.reports_changes());
        if let Some(received) = batch.install.take() {
            self.install(*received, replies);
        }
        self.snapshot_wanted |= std::mem::take(&mut batch.take_snapshot);
        // The core knows already that entries of an installed snapshot are applied.
        let last = batch.job.entries.last().map(|committed| committed.entry.index());
        let index = last.filter(|last| *last > self.store.applied_index());
        Unfinished { batch, index, entries_done: 0, begun: None }
    }

    /// Applies the entries of a batch and answers its reads, as far as the budget of this pass
    /// (`groups`, in groups of operations) allows, and keeps the rest for the next pass. Appends
    /// the replies to `replies`.
    fn apply(&mut self, work: Unfinished, groups: &mut Pass, replies: &mut ReplyBatch) {
        let Unfinished { mut batch, index, mut entries_done, mut begun } = work;
        replies.leader = batch.leader;
        let mut entries = batch.job.entries[entries_done..].iter();
        while let Some(committed) = entries.next()
            && self.apply_entry(committed, &mut begun, groups, replies)
        {
            entries_done += 1;
            if self.compare_states(replies) {
                return;
            }
            let at = self.store.applied_index();
            if at.0.is_multiple_of(DIGEST_INTERVAL) {
                replies.digest_marks.push((at, self.store.digest()));
            }
        }
        if entries_done < batch.job.entries.len() {
            self.unfinished = Some(Unfinished { batch, index, entries_done, begun });
            return;
        }
        self.release_unclocked_reads();
        self.queue_reads(std::mem::take(&mut batch.job.reads), batch.read_timestamp);
        replies.applied.merge(Applied { index, bytes: batch.bytes, ..Applied::default() });
        self.digest = self.store.digest();
        self.early_reads.extend(batch.indexed_reads);
        let applied = self.store.applied_index();
        for reads in self.early_reads.extract_if(.., |reads| reads.index <= applied) {
            // The leader confirmed their index only after the clock showed enough for them.
            self.ready_reads.extend(reads.reads);
            self.scripts.add(reads.scripts);
        }
        self.answer_ready_reads(groups, replies);
    }

    /// Applies an entry, or as many groups of its operations as the budget of this pass (`groups`)
    /// allows. `begun` is the part that earlier passes have applied. Returns whether the whole
    /// entry has been applied; `begun` is then `None`.
    fn apply_entry(
        &mut self,
        committed: &Committed,
        begun: &mut Option<BegunEntry>,
        groups: &mut Pass,
        replies: &mut ReplyBatch,
    ) -> bool {
        let Committed { entry, as_leader } = committed;
        let piece = Piece::decode(entry.payload());
        let is_last_piece = piece.is_some_and(|piece| piece.following == 0);
        if entry.index() <= self.last.index {
            if groups.next(|| Some(())).is_none() {
                return false;
            }
            let batch = Batch::decode(entry.payload()).ok().filter(|batch| batch.may_repeat);
            let key = piece.filter(|_| is_last_piece).map(|piece| piece.key);
            self.answer_installed(key.or(batch.map(|batch| batch.key)), *as_leader, replies);
            return true;
        }
        if begun.is_none() {
            if is_last_piece && self.long_operations == LongOperations::Defer {
                // To put a large batch together takes long, too.
                self.long_operations = LongOperations::Deferred;
                groups.end();
            }
            if groups.is_over() {
                return false;
            }
            let payload = self.store.begin(entry);
            *begun = payload.map(|payload| BegunEntry { payload, outcomes: Vec::new() });
        }
        if let Some(part) = begun {
            if !self.apply_batch(committed, part, groups, replies) {
                return false;
            }
            *begun = None;
        } else {
            groups.next(|| Some(()));
        }
        self.last = entry.id();
        if piece.is_some() {
            self.board.note_piece(self.clock.now());
        }
        true
    }

    /// Applies the batch that the committed entry contains or completes, like
    /// [`Applier::apply_entry`].
    fn apply_batch(
        &mut self,
        committed: &Committed,
        begun: &mut BegunEntry,
        groups: &mut Pass,
        replies: &mut ReplyBatch,
    ) -> bool {
        let Committed { entry, as_leader } = committed;
        let BegunEntry { payload, outcomes } = begun;
        let batch = Batch::decode(payload).ok();
        let stored = batch.as_ref().filter(|_| outcomes.is_empty());
        let stored = stored.and_then(|batch| self.store.outcomes_of(batch));
        let is_repeated = stored.is_some();
        let Some(batch) = batch.filter(|_| !is_repeated) else {
            if groups.next(|| Some(())).is_none() {
                return false;
            }
            self.store.skip(entry.index());
            // No client waits for a malformed batch.
            if let (Some(outcomes), Some(batch)) = (stored, batch) {
                self.answer(batch.key, *as_leader, outcomes, None, replies);
            }
            return true;
        };
        outcomes.reserve(batch.len() - outcomes.len());
        let mut rest = batch.groups_after(outcomes.len());
        while let Some(group) = groups.next(|| rest.next()) {
            if self.defers(&group) {
                groups.end();
                break;
            }
            self.store.apply_group(&batch, &group, outcomes);
        }
        replies.statistics.add(self.statistics_of(batch.key));
        if outcomes.len() < batch.len() {
            return false;
        }
        self.store.finish(entry.index(), &batch, outcomes);
        let revision = Some(self.store.revision());
        self.answer(batch.key, *as_leader, std::mem::take(outcomes), revision, replies);
        true
    }

    /// Prepares for the operations of `group`. Returns true if they must not be run now, because
    /// this thread is shared and they would delay the other stages for too long: the pass then ends
    /// before them, and [`Applier::run_deferred`] continues with them on another thread.
    fn defers(&mut self, group: &Group<'_>) -> bool {
        if self.long_operations == LongOperations::Run {
            self.store.prefetch(group);
        } else if self.store.estimate(group) >= LONG_STEPS {
            self.long_operations = LongOperations::Deferred;
        }
        self.has_deferred()
    }

    /// Adds the outcomes of a batch of writes to `replies`, if this replica must reply to the
    /// batch. Otherwise another replica replies.
    fn answer(
        &self,
        key: RequestKey,
        as_leader: bool,
        outcomes: Vec<Outcome>,
        revision: Option<u64>,
        replies: &mut ReplyBatch,
    ) {
        let answers = match self.reply_policy {
            ReplyPolicy::Leader => as_leader,
            ReplyPolicy::Origin(_) => self.is_own(key),
        };
        if answers {
            replies.answers.push(Answer { key, outcomes, revision });
        }
    }

    /// Takes the statistics of a batch that was just applied. If another replica's clients sent the
    /// batch, omits its lookups, because that replica counts them.
    fn statistics_of(&mut self, key: RequestKey) -> KeyspaceStatistics {
        let statistics = self.store.take_statistics();
        if self.is_own(key) {
            statistics
        } else {
            KeyspaceStatistics { expired: statistics.expired, ..KeyspaceStatistics::default() }
        }
    }

    /// Answers the batch of writes with this key, whose effects are already part of an installed
    /// snapshot, if this replica must reply and the deduplication table has the outcomes. Otherwise
    /// the clients get `UNCERTAIN`.
    fn answer_installed(&self, key: Option<RequestKey>, as_leader: bool, replies: &mut ReplyBatch) {
        if let Some(key) = key
            && let Some(outcomes) = self.store.stored_outcomes(key)
        {
            self.answer(key, as_leader, outcomes, None, replies);
        }
    }

    /// Returns whether the request comes from a client of this replica rather than from a peer.
    /// Always true under the university course's simulator.
    fn is_own(&self, key: RequestKey) -> bool {
        match self.reply_policy {
            ReplyPolicy::Leader => true,
            ReplyPolicy::Origin(origin) => key.request.0.starts_with(&origin),
        }
    }
}
