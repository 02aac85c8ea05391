//! The applier stage: owns the store. Applies committed entries in order, gives the answers that
//! are this replica's to give, then answers the reads, and hands the answers to the network in one
//! batch, with the note that the core gets once they are with the socket.
//!
//! A pass is bounded in commands and in time, for it may share its thread with the network, and the
//! network takes what it gives in one piece. The rest of a batch waits here for the next pass.
//!
//! It also decides when a snapshot is taken, for it knows how much of the log is in the state, and
//! puts a leader's snapshot in the place of the state.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::kv::{Command, Outcome, PREFETCH_MAX, StateMachine};
use crate::raft::{ClientRequest, Committed};
use crate::record::EntryKind;
use crate::types::{EntryId, Index, RequestKey};

use crate::runtime::boards::SubscriberBoard;
use crate::runtime::channels::{
    Answer, Applied, ApplierEnds, ApplyBatch, IndexedReads, QUEUE_LEN, ReadTimestamp,
    ReceivedSnapshot, ReplyBatch, SnapshotJob,
};
use crate::runtime::clock::Clock;
use crate::runtime::pass::Pass;
use crate::runtime::stages::core::replicated_clock::shown_by;
use crate::runtime::stages::snapshot_scheduler::SnapshotScheduler;

/// Most groups of commands in one pass; each has up to [`PREFETCH_MAX`].
const PASS_GROUPS_MAX: usize = 4_096 / PREFETCH_MAX;

/// Bytes of a request's id that say where it came in.
pub(crate) const ORIGIN_BYTES: usize = 8;

/// Most reads that wait for the replicated clock.
const EARLY_READS_MAX: usize = 1 << 16;

/// Which writes this replica answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReplyPolicy {
    /// Those that it committed as the leader, as the course's simulator wants it.
    Leader,
    /// Those that came in here, whoever leads: their ids begin like this.
    Origin([u8; ORIGIN_BYTES]),
}

/// A batch of which a part is done.
#[derive(Debug)]
struct Unfinished {
    batch: ApplyBatch,
    /// Its last entry, if that was not in the state when the batch was begun.
    index: Option<Index>,
    /// How many of its entries and reads are done.
    entries_done: usize,
    reads_done: usize,
}

/// The stage.
///
/// Invariant: the core is told of the last entry of a batch, and given back its bytes, when all of
/// the batch is done.
pub(crate) struct Applier {
    clock: Clock,
    store: StateMachine,
    reply_policy: ReplyPolicy,
    /// The batch at which the last pass stopped.
    unfinished: Option<Unfinished>,
    /// Reads for which the state has not come far enough.
    early: Vec<IndexedReads>,
    /// Reads for which it has.
    ready: VecDeque<ClientRequest>,
    /// Reads for which the state's clock has not come far enough. At most
    /// [`EARLY_READS_MAX`]: more are dropped, and their clients are told that no answer came.
    unclocked: Vec<(ReadTimestamp, ClientRequest)>,
    /// What that clock showed when they were last looked at, and how often it had been reset.
    unclocked_since: (u64, u64),
    /// The last entry in the state.
    last: EntryId,
    /// When snapshots are taken; `None` for never.
    scheduler: Option<SnapshotScheduler>,
    /// Somebody wants one now.
    save: bool,
    /// Who listens at this replica.
    subscribers: Arc<SubscriberBoard>,
    ends: ApplierEnds,
    /// A pass on a shared thread was put off.
    put_off: bool,
}

/// The next commands that are done together.
fn group<T>(all: &[T], done: usize) -> Option<&[T]> {
    all[done..].chunks(PREFETCH_MAX).next()
}

impl Applier {
    /// With an empty store, and no snapshots ever.
    pub(crate) fn new(reply_policy: ReplyPolicy, clock: Clock, ends: ApplierEnds) -> Applier {
        Applier {
            clock,
            store: StateMachine::default(),
            reply_policy,
            unfinished: None,
            early: Vec::new(),
            ready: VecDeque::new(),
            unclocked: Vec::new(),
            unclocked_since: (0, 0),
            last: EntryId::ZERO,
            scheduler: None,
            save: false,
            subscribers: Arc::default(),
            ends,
            put_off: false,
        }
    }

    /// With the store that a snapshot held which ended with `last`.
    pub(crate) fn with(
        mut self,
        store: StateMachine,
        last: EntryId,
        scheduler: SnapshotScheduler,
    ) -> Applier {
        assert_eq!(store.applied_index(), last.index, "a store that ends elsewhere");
        self.store = store;
        self.last = last;
        scheduler.memory().note_store(self.store.memory());
        self.scheduler = Some(scheduler);
        self
    }

    /// With who listens at this replica.
    pub(crate) fn with_subscribers(mut self, subscribers: Arc<SubscriberBoard>) -> Applier {
        self.subscribers = subscribers;
        self
    }

    /// Passes without end, on a thread of its own, until the core has ended.
    pub(crate) fn run(&mut self) {
        loop {
            if self.has_rest() {
                self.run_once(None);
            } else if let Ok(batch) = self.ends.jobs.recv() {
                self.run_once(Some(batch));
            } else {
                return;
            }
        }
    }

    /// Whether the last pass left something over.
    fn has_rest(&self) -> bool {
        self.unfinished.is_some() || !self.ready.is_empty()
    }

    /// Whether another pass has something to do now, on a thread that must not be blocked.
    pub(crate) fn is_ready(&self) -> bool {
        (self.has_rest() || !self.ends.jobs.is_empty()) && !self.put_off
    }

    /// A pass for whom must not be blocked: puts off what was handed on while the network's queue
    /// is full.
    pub(crate) fn run_ready(&mut self, handed_on: bool) {
        if !handed_on && !self.put_off && !self.has_rest() && self.ends.jobs.is_empty() {
            return;
        }
        self.put_off = self.ends.to_network.is_full();
        if self.put_off {
            return;
        }
        if self.has_rest() {
            self.run_once(None);
        } else if let Ok(batch) = self.ends.jobs.try_recv() {
            self.run_once(Some(batch));
        }
    }

    /// One pass: what the last one left over, `first`, and what waits behind it, as far as a pass
    /// goes.
    ///
    /// A pass that has something left over gets no `first`.
    pub(crate) fn run_once(&mut self, first: Option<ApplyBatch>) {
        assert!(first.is_none() || !self.has_rest(), "a batch before the end of the last one");
        let mut replies = ReplyBatch::default();
        let (messages, keys) = self.subscribers.get();
        self.store.listen(messages, keys);
        let mut groups = Pass::of_large(self.clock, PASS_GROUPS_MAX);
        let mut batches = Pass::of_large(self.clock, QUEUE_LEN);
        if let Some(unfinished) = self.unfinished.take() {
            self.apply(unfinished, &mut groups, &mut replies);
        }
        self.read_ready(&mut groups, &mut replies);
        let mut first = first;
        while !self.has_rest()
            && let Some(batch) =
                batches.next(|| first.take().or_else(|| self.ends.jobs.try_recv().ok()))
        {
            let unfinished = self.begin(batch, &mut replies);
            self.apply(unfinished, &mut groups, &mut replies);
        }
        replies.key_count = self.store.key_count();
        replies.expires_count = self.store.expires_count();
        replies.digest = self.store.digest();
        if let Some(scheduler) = &self.scheduler {
            scheduler.memory().note_store(self.store.memory());
        }
        replies.events = self.store.take_events().into();
        replies.applied.clock = shown_by(&self.store);
        replies.applied.clock_wanted = self.unclocked.iter().map(|(at, _)| at.millis).max();
        // An error means that the network has ended, and then so do we.
        let _ = self.ends.to_network.send(replies);
        // Nobody waits for that.
        self.take_snapshot();
    }

    /// Hands a view of the state over, if it is time.
    fn take_snapshot(&mut self) {
        let Some(scheduler) = &self.scheduler else { return };
        if !scheduler.is_due(self.save)
            || self.last == EntryId::ZERO
            || self.ends.to_snapshots.is_full()
        {
            return;
        }
        scheduler.begin();
        let view = Box::new(self.store.view(self.last));
        if self.ends.to_snapshots.try_send(SnapshotJob::Write(view)).is_ok() {
            self.save = false;
        } else {
            scheduler.give_up(false);
        }
    }

    /// A leader's snapshot takes the place of the state, unless that has come further.
    fn install(&mut self, install: ReceivedSnapshot, replies: &mut ReplyBatch) {
        let ReceivedSnapshot { snapshot, mut store } = install;
        if snapshot.last.index > self.store.applied_index() {
            std::mem::swap(&mut self.store, &mut store);
            self.last = snapshot.last;
            if let Some(scheduler) = &self.scheduler {
                scheduler.installed();
            }
        }
        replies.applied.merge(Applied { installed: Some(snapshot), ..Applied::default() });
        // Where there is no room it is freed here, which takes a while.
        let _ = self.ends.to_snapshots.try_send(SnapshotJob::Drop(Box::new(store)));
    }

    /// Does what comes before a batch's entries.
    fn begin(&mut self, mut batch: ApplyBatch, replies: &mut ReplyBatch) -> Unfinished {
        if let Some(install) = batch.install.take() {
            self.install(*install, replies);
        }
        self.save |= std::mem::take(&mut batch.save);
        // What is in a snapshot that was taken in meanwhile is known to be applied by that.
        let last = batch.job.entries.last().map(|committed| committed.entry.index());
        let index = last.filter(|last| *last > self.store.applied_index());
        Unfinished { batch, index, entries_done: 0, reads_done: 0 }
    }

    /// Does as much of a batch as `groups` allows; the rest is kept.
    fn apply(&mut self, work: Unfinished, groups: &mut Pass, replies: &mut ReplyBatch) {
        let Unfinished { batch, index, mut entries_done, mut reads_done } = work;
        replies.leader = batch.leader;
        let ApplyBatch { job, .. } = &batch;
        while let Some(some) = groups.next(|| group(&job.entries, entries_done)) {
            self.apply_some(some, replies);
            entries_done += some.len();
        }
        self.read_unclocked(replies);
        while let Some(some) = groups.next(|| group(&job.reads, reads_done)) {
            self.read_some(some, batch.read_timestamp, replies);
            reads_done += some.len();
        }
        if entries_done < job.entries.len() || reads_done < job.reads.len() {
            self.unfinished = Some(Unfinished { batch, index, entries_done, reads_done });
            return;
        }
        replies.applied.merge(Applied { index, bytes: batch.bytes, ..Applied::default() });
        self.early.extend(batch.indexed_reads);
        let applied = self.store.applied_index();
        for at in self.early.extract_if(.., |at| at.index <= applied) {
            self.ready.extend(at.reads);
        }
        self.read_ready(groups, replies);
    }

    /// Answers reads that the state has come far enough for.
    fn read_ready(&mut self, groups: &mut Pass, replies: &mut ReplyBatch) {
        while let Some(some) = groups.next(|| {
            let count = self.ready.len().min(PREFETCH_MAX);
            (count > 0).then(|| self.ready.drain(..count).collect::<Vec<_>>())
        }) {
            // What the clock must show for these the leader has seen to.
            self.read_some(&some, ReadTimestamp::default(), replies);
        }
    }

    fn apply_some(&mut self, entries: &[Committed], replies: &mut ReplyBatch) {
        let mut commands = [None; PREFETCH_MAX];
        for (command, committed) in commands.iter_mut().zip(entries) {
            *command = Command::decode(committed.entry.payload()).ok();
        }
        self.store.prefetch(&commands);
        for (command, Committed { entry, as_leader }) in commands.iter().zip(entries) {
            if entry.index() <= self.last.index {
                self.answer_installed(command.as_ref(), *as_leader, replies);
                continue;
            }
            self.last = entry.id();
            if entry.kind() == EntryKind::NoOp {
                self.store.skip(entry.index());
                continue;
            }
            let applied = self.store.apply_decoded(entry.index(), command.as_ref());
            // Malformed: nobody's request, so nobody waits. What is another's to answer is left to
            // it; two answers would be one too many.
            if self.answers(applied.key, *as_leader) && applied.outcome != Outcome::Malformed {
                replies.answers.push(Answer { key: applied.key, outcome: applied.outcome });
            }
        }
    }

    /// Answers a write that is in the state by a snapshot, if what came of it is remembered there.
    /// Else its client hears that nobody knows.
    fn answer_installed(
        &self,
        command: Option<&Command<'_>>,
        as_leader: bool,
        replies: &mut ReplyBatch,
    ) {
        if let Some(Command { key, .. }) = command
            && self.answers(*key, as_leader)
            && let Some(outcome) = self.store.outcome_of(key)
        {
            replies.answers.push(Answer { key: *key, outcome: outcome.clone() });
        }
    }

    /// Answers reads that waited for an entry of the replicated clock, if one has come.
    fn read_unclocked(&mut self, replies: &mut ReplyBatch) {
        let shown = (self.store.clock(), self.store.clock_resets());
        if shown == self.unclocked_since || self.unclocked.is_empty() {
            return;
        }
        for (at, read) in std::mem::take(&mut self.unclocked) {
            self.read_some(&[read], at, replies);
        }
        self.unclocked_since = shown;
    }

    /// Answers reads, but for those that have to wait for an entry of the replicated clock.
    fn read_some(&mut self, reads: &[ClientRequest], at: ReadTimestamp, replies: &mut ReplyBatch) {
        let mut commands = [None; PREFETCH_MAX];
        for (command, read) in commands.iter_mut().zip(reads) {
            // A peer reads its own state. What it lacks is how far that must have come.
            if self.is_own(read.key) {
                let decoded = Command::decode(&read.payload);
                *command = Some(decoded.expect("the door made this payload"));
            }
        }
        self.store.prefetch(&commands);
        // Hardly ever: then each is looked at for itself.
        let may_wait = self.store.is_behind(None, at.millis, at.resets);
        for (command, read) in commands.iter().zip(reads) {
            if may_wait && self.store.is_behind(command.as_ref(), at.millis, at.resets) {
                if self.unclocked.len() < EARLY_READS_MAX {
                    self.unclocked_since = (self.store.clock(), self.store.clock_resets());
                    self.unclocked.push((at, read.clone()));
                }
                continue;
            }
            if let Some(command) = command {
                let (key, outcome) = self.store.read_decoded(command).expect("the door says reads");
                replies.answers.push(Answer { key, outcome });
            } else {
                replies.read_indexes.push((read.key, self.store.applied_index()));
            }
        }
    }

    fn answers(&self, key: RequestKey, as_leader: bool) -> bool {
        match self.reply_policy {
            ReplyPolicy::Leader => as_leader,
            ReplyPolicy::Origin(_) => self.is_own(key),
        }
    }

    /// Whether the request came in at this replica. Under the course's simulator a read never
    /// travels.
    fn is_own(&self, key: RequestKey) -> bool {
        match self.reply_policy {
            ReplyPolicy::Leader => true,
            ReplyPolicy::Origin(origin) => key.request.0.starts_with(&origin),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::Operation;
    use crate::raft::{ApplyJob, RequestKind, SnapshotId};
    use crate::record::RecordBuffer;
    use crate::runtime::boards::SnapshotBoard;
    use crate::runtime::channels::{Ends, channels};
    use crate::runtime::clock::tests::stopped;
    use crate::runtime::wake::tests::unused_wake;
    use crate::types::{ClientId, EntryId, Index, NodeId, RequestId, RequestKey};
    use bytes::Bytes;

    fn key(number: u8) -> RequestKey {
        RequestKey { client: ClientId(0x15), request: RequestId([number; 16]) }
    }

    fn put(index: u64, value: &[u8], as_leader: bool) -> Committed {
        let operation = Operation::Put { key: b"k", value };
        let payload = Command { key: key(u8::try_from(index).unwrap()), operation }.encode();
        let entry =
            RecordBuffer::default().encode(EntryId::new(1, index), EntryKind::Command, &payload);
        Committed { entry, as_leader }
    }

    fn get(number: u8, pair: &[u8]) -> ClientRequest {
        let payload =
            Command { key: key(number), operation: Operation::Get { key: pair } }.encode();
        ClientRequest { key: key(number), kind: RequestKind::Read, payload }
    }

    fn batch(entries: Vec<Committed>, reads: Vec<ClientRequest>, bytes: usize) -> ApplyBatch {
        let leader = Some(NodeId(3));
        ApplyBatch { job: ApplyJob { entries, reads }, leader, bytes, ..ApplyBatch::default() }
    }

    fn clock_entry(index: u64, millis: u64) -> Committed {
        let operation = Operation::Clock { millis, resets: 0 };
        let payload = Command { key: RequestKey::default(), operation }.encode();
        let entry =
            RecordBuffer::default().encode(EntryId::new(1, index), EntryKind::Command, &payload);
        Committed { entry, as_leader: false }
    }

    #[test]
    fn reads_wait_for_a_clock_entry_where_a_key_has_expired() {
        let Ends { network, applier: ends, .. } = channels(&unused_wake(), false);
        let mut applier = Applier::new(ReplyPolicy::Leader, stopped(), ends);
        let mut words = crate::kv::ItemsBuffer::default();
        for word in [&b"k"[..], b"v", b"PX", b"50"] {
            words.push(word);
        }
        let verb = crate::kv::CommandId::named("set").unwrap();
        let operation = Operation::Call { verb, words: words.items() };
        let payload = Command { key: key(2), operation }.encode();
        let set = RecordBuffer::default().encode(EntryId::new(1, 2), EntryKind::Command, &payload);
        let set = Committed { entry: set, as_leader: false };
        let reads = |number: u8, millis| {
            let reads = vec![get(number, b"k"), get(number + 1, b"other")];
            let read_timestamp = ReadTimestamp { millis, resets: 0 };
            ApplyBatch { read_timestamp, ..batch(vec![], reads, 0) }
        };
        applier.run_once(Some(batch(vec![clock_entry(1, 1_000), set], vec![], 0)));
        applier.run_once(Some(reads(100, 1_049)));
        applier.run_once(Some(reads(102, 1_050)));
        applier.run_once(Some(reads(104, 1_052)));
        applier.run_once(Some(batch(vec![clock_entry(3, 1_051)], vec![], 0)));
        let batches: Vec<ReplyBatch> = network.replies.try_iter().collect();
        let value = |text: &'static str| Outcome::Value(Some(Bytes::from_static(text.as_bytes())));
        let none = Outcome::Value(None);
        let answers = |at: usize| {
            let answer = |answer: &Answer| (answer.key, answer.outcome.clone());
            batches[at].answers.iter().map(answer).collect::<Vec<_>>()
        };
        assert_eq!(answers(1), [(key(100), value("v")), (key(101), none.clone())]);
        // Only those wait that look at the key.
        assert_eq!(answers(2), [(key(103), none.clone())]);
        assert_eq!(answers(3), [(key(105), none.clone())]);
        let wanted = |at: usize| batches[at].applied.clock_wanted;
        assert_eq!(
            (wanted(1), wanted(2), wanted(3), wanted(4)),
            (None, Some(1_050), Some(1_052), None)
        );
        // One entry serves all of them; the key is gone by it.
        assert_eq!(answers(4), [(key(102), none.clone()), (key(104), none)]);
    }

    #[test]
    fn leaders_answer_and_reads_see_what_was_applied_before_them() {
        let Ends { network, core, applier: ends, .. } = channels(&unused_wake(), false);
        let mut applier = Applier::new(ReplyPolicy::Leader, stopped(), ends);
        let no_operation = RecordBuffer::default().encode(EntryId::new(1, 1), EntryKind::NoOp, b"");
        let entries = vec![
            Committed { entry: no_operation, as_leader: true },
            put(2, b"old", false),
            put(3, b"new", true),
        ];
        let reads = vec![get(100, b"k"), get(101, b"nothing")];
        core.to_applier.send(batch(vec![put(4, b"newer", true)], vec![], 5)).unwrap();
        applier.run_once(Some(batch(entries, reads, 7)));
        let replies = network.replies.try_recv().expect("one batch for all that waited");
        assert!(network.replies.is_empty());
        assert_eq!(replies.leader, Some(NodeId(3)));
        assert_eq!(
            replies.applied,
            Applied { index: Some(Index(4)), bytes: 12, ..Applied::default() }
        );
        let answers = [
            Answer { key: key(3), outcome: Outcome::Done },
            Answer { key: key(100), outcome: Outcome::Value(Some(Bytes::from_static(b"new"))) },
            Answer { key: key(101), outcome: Outcome::Value(None) },
            Answer { key: key(4), outcome: Outcome::Done },
        ];
        assert_eq!(replies.answers, answers);
    }

    #[test]
    fn a_command_that_is_none_is_passed_over_in_silence() {
        let Ends { network, applier: ends, .. } = channels(&unused_wake(), false);
        let mut applier = Applier::new(ReplyPolicy::Leader, stopped(), ends);
        let entry =
            RecordBuffer::default().encode(EntryId::new(1, 1), EntryKind::Command, b"rubbish");
        applier.run_once(Some(batch(vec![Committed { entry, as_leader: true }], vec![], 1)));
        let replies = network.replies.try_recv().unwrap();
        assert_eq!(replies.answers, []);
        assert_eq!(replies.applied.index, Some(Index(1)));
    }

    #[test]
    fn a_leaders_snapshot_takes_the_place_of_the_state() {
        let Ends { network, snapshots, applier: ends, .. } = channels(&unused_wake(), false);
        let mut applier = Applier::new(ReplyPolicy::Leader, stopped(), ends);
        let mut ahead = StateMachine::default();
        for index in 1..=3 {
            let committed = put(index, &[u8::try_from(index).unwrap()], true);
            ahead.apply(Index(index), committed.entry.payload());
        }
        let snapshot = SnapshotId { last: EntryId::new(1, 3), ..SnapshotId::default() };
        let install = |store| Some(Box::new(ReceivedSnapshot { snapshot, store }));
        applier.run_once(Some(batch(vec![put(1, b"1", false)], vec![], 1)));
        network.replies.try_recv().unwrap();
        // What is in it is not applied again, but answered from its memory of requests.
        let entries = vec![put(2, b"2", true), put(3, b"3", false), put(4, b"4", true)];
        let first = ApplyBatch { install: install(ahead), ..batch(entries, vec![], 7) };
        applier.run_once(Some(first));
        let replies = network.replies.try_recv().unwrap();
        let installed = Some(snapshot);
        assert_eq!(
            replies.applied,
            Applied { index: Some(Index(4)), bytes: 7, installed, ..Applied::default() }
        );
        let done = |number| Answer { key: key(number), outcome: Outcome::Done };
        assert_eq!(replies.answers, [done(2), done(4)]);
        assert!(matches!(snapshots.work.try_recv(), Ok(SnapshotJob::Drop(_))));
        // One that ends before the state changes nothing, but the core hears of it all the same.
        let late =
            ApplyBatch { install: install(StateMachine::default()), ..ApplyBatch::default() };
        applier.run_once(Some(late));
        let replies = network.replies.try_recv().unwrap();
        assert_eq!(replies.applied, Applied { installed, ..Applied::default() });
        assert_eq!((applier.store.applied_index(), applier.last), (Index(4), EntryId::new(1, 4)));
        applier.run_once(Some(batch(vec![put(4, b"4", false)], vec![], 1)));
        let replies = network.replies.try_recv().unwrap();
        assert_eq!(replies.applied.index, None, "the core knows that already");
    }

    #[test]
    fn a_snapshot_is_taken_by_size_or_when_asked_for_one_at_a_time() {
        let Ends { network, snapshots, applier: ends, .. } = channels(&unused_wake(), false);
        let board = Arc::new(SnapshotBoard::default());
        let scheduler = SnapshotScheduler::new(800, Arc::clone(&board), Arc::default());
        let applier = Applier::new(ReplyPolicy::Leader, stopped(), ends);
        let mut applier = applier.with(StateMachine::default(), EntryId::ZERO, scheduler.clone());
        let mut taken = |from: u64, save| {
            // Each time the log has grown by 400 bytes.
            scheduler.note_end(from.next_multiple_of(2) * 200);
            let entries = vec![put(from, &[1; 100], true), put(from + 1, &[1; 100], true)];
            applier.run_once(Some(ApplyBatch { save, ..batch(entries, vec![], 1) }));
            network.replies.try_recv().unwrap();
            match snapshots.work.try_recv() {
                Ok(SnapshotJob::Write(view)) => Some(view.last().index.0),
                Ok(other) => unreachable!("{other:?}"),
                Err(_) => None,
            }
        };
        assert_eq!(taken(1, false), None, "too little");
        assert_eq!(taken(3, false), Some(4));
        assert!(board.is_taking());
        assert_eq!(taken(5, true), None, "one is being taken");
        scheduler.succeed();
        assert_eq!(taken(7, false), Some(8), "asked for meanwhile");
        scheduler.give_up(true);
        assert_eq!(taken(9, false), Some(10), "the last one failed, so soon");
        scheduler.succeed();
        assert_eq!(taken(11, false), None);
    }

    #[test]
    fn on_a_shared_thread_it_rests_while_nobody_takes_its_answers() {
        let Ends { network, core, applier: ends, .. } = channels(&unused_wake(), false);
        let mut applier = Applier::new(ReplyPolicy::Leader, stopped(), ends);
        for number in 0..=QUEUE_LEN {
            let read = get(u8::try_from(number).unwrap(), b"k");
            core.to_applier.try_send(batch(vec![], vec![read], 1)).unwrap();
            applier.run_ready(true);
        }
        assert_eq!((network.replies.len(), applier.ends.jobs.len()), (QUEUE_LEN, 1));
        network.replies.try_recv().unwrap();
        applier.run_ready(false);
        assert_eq!((network.replies.len(), applier.ends.jobs.len()), (QUEUE_LEN, 0));
    }
}
