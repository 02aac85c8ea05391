//! Tests of the applier: replies, waiting reads, bounded passes, snapshots.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::feature_level::FeatureLevel;
use crate::kv::{Event, Operation, PIECE_BYTES, RecordedEvents};
use crate::membership::Configuration;
use crate::raft::{ApplyJob, RequestKind, SnapshotId};
use crate::record::{EntryKind, RecordBuffer};
use crate::runtime::boards::{MemoryBoard, SnapshotBoard};
use crate::runtime::channels::{Ends, channels};
use crate::runtime::clock::tests::stopped;
use crate::runtime::stages::background_delete::BackgroundDelete;
use crate::runtime::wake::tests::unused_wake;
use crate::types::{ClientId, EntryId, Index, NodeId, RequestId, RequestKey};
use bytes::Bytes;

pub(super) fn key(number: u8) -> RequestKey {
    RequestKey { client: ClientId(0x15), request: RequestId([number; 16]) }
}

pub(super) fn put(index: u64, value: &[u8], as_leader: bool) -> Committed {
    let operation = Operation::set(b"k", value);
    let payload = Batch::one(key(u8::try_from(index).unwrap()), &operation);
    let entry =
        RecordBuffer::default().encode(EntryId::new(1, index), EntryKind::Command, &payload);
    Committed { entry, as_leader }
}

pub(super) fn get(number: u8, name: &[u8]) -> ClientRequest {
    let payload = Batch::one(key(number), &Operation::get(name));
    ClientRequest { key: key(number), kind: RequestKind::Read, payload }
}

pub(super) fn batch(
    entries: Vec<Committed>,
    reads: Vec<ClientRequest>,
    bytes: usize,
) -> ApplyBatch {
    let leader = Some(NodeId(3));
    ApplyBatch { job: ApplyJob { entries, reads }, leader, bytes, ..ApplyBatch::default() }
}

fn answer(number: u8, outcome: Outcome) -> Answer {
    Answer { key: key(number), outcomes: vec![outcome], revision: None }
}

/// Returns the answers in these replies, without their revisions.
fn answers_in(replies: impl IntoIterator<Item = ReplyBatch>) -> Vec<Answer> {
    let answers = replies.into_iter().flat_map(|replies| replies.answers);
    answers.map(|answer| Answer { revision: None, ..answer }).collect()
}

fn clock_entry(index: u64, millis: u64) -> Committed {
    own_entry(index, Operation::Clock { millis, resets: 0 })
}

/// Returns an entry with an operation for which no client waits.
fn own_entry(index: u64, operation: Operation<'_>) -> Committed {
    let payload = Batch::encode(RequestKey::default(), false, &[operation]);
    let entry =
        RecordBuffer::default().encode(EntryId::new(1, index), EntryKind::Command, &payload);
    Committed { entry, as_leader: false }
}

#[test]
fn read_of_an_expired_key_waits_for_a_replicated_clock_entry() {
    let Ends { network, applier: ends, .. } = channels(&unused_wake(), false);
    let mut applier = Applier::new(ReplyPolicy::Leader, stopped(), ends);
    let args: [&[u8]; 4] = [b"k", b"v", b"PX", b"50"];
    let operation = Operation::call(crate::kv::CommandId::SET, &args[..]);
    let payload = Batch::one(key(2), &operation);
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
        let answer = |answer: &Answer| (answer.key, answer.outcomes[0].clone());
        batches[at].answers.iter().map(answer).collect::<Vec<_>>()
    };
    assert_eq!(answers(1), [(key(100), value("v")), (key(101), none.clone())]);
    // Only reads of the expired key wait.
    assert_eq!(answers(2), [(key(103), none.clone())]);
    assert_eq!(answers(3), [(key(105), none.clone())]);
    let wanted = |at: usize| batches[at].applied.clock_wanted;
    assert_eq!(
        (wanted(1), wanted(2), wanted(3), wanted(4)),
        (None, Some(1_050), Some(1_052), None)
    );
    // One clock entry serves all of them, and at its time the key has expired.
    assert_eq!(answers(4), [(key(102), none.clone()), (key(104), none)]);
}

/// Tests that each replica counts the lookups of its own clients, and that all replicas count
/// expired keys.
#[test]
fn replica_counts_keyspace_hits_of_its_own_clients_only() {
    let Ends { network, applier: ends, .. } = channels(&unused_wake(), false);
    let policy = ReplyPolicy::Origin([2; ORIGIN_BYTES]);
    let mut applier = Applier::new(policy, stopped(), ends);
    let call = |number: u8, command: &str, args: &[&[u8]]| {
        let operation = Operation::call(crate::kv::CommandId::of(command), args);
        let payload = Batch::one(key(number), &operation);
        let id = EntryId::new(1, number.into());
        let entry = RecordBuffer::default().encode(id, EntryKind::Command, &payload);
        Committed { entry, as_leader: false }
    };
    let entries = vec![
        clock_entry(1, 1_000),
        call(2, "getset", &[b"k", b"v"]),
        call(3, "getset", &[b"k", b"w"]),
        call(4, "set", &[b"temporary", b"v", b"PXAT", b"1500"]),
        clock_entry(5, 2_000),
    ];
    applier.run_once(Some(batch(entries, vec![get(2, b"k"), get(2, b"k"), get(9, b"k")], 0)));
    let replies = network.replies.try_recv().expect("one batch of replies");
    let wanted = KeyspaceStatistics { hits: 2, misses: 1, expired: 1 };
    let average_expiry = replies.databases.first().and_then(|size| size.average_expiry);
    assert_eq!((replies.statistics, average_expiry), (wanted, None));
}

#[test]
fn applier_runs_reads_after_entries_and_replies_only_as_leader() {
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
    let replies = network.replies.try_recv().expect("one batch of replies");
    assert!(network.replies.is_empty());
    assert_eq!(replies.leader, Some(NodeId(3)));
    assert_eq!(replies.applied, Applied { index: Some(Index(4)), bytes: 12, ..Applied::default() });
    let answers = [
        answer(3, Outcome::Done),
        answer(100, Outcome::Value(Some(Bytes::from_static(b"new")))),
        answer(101, Outcome::Value(None)),
        answer(4, Outcome::Done),
    ];
    assert_eq!(answers_in([replies]), answers);
}

#[test]
fn batch_in_pieces_is_applied_with_its_last_piece() {
    let Ends { network, applier: ends, .. } = channels(&unused_wake(), false);
    let mut applier = Applier::new(ReplyPolicy::Leader, stopped(), ends);
    let value = vec![b'v'; 2 * PIECE_BYTES];
    let whole = Batch::one(key(9), &Operation::set(b"k", &value));
    let pieces = (0..whole.len()).step_by(PIECE_BYTES);
    let mut pieces = pieces.map(|start| Piece::encode(key(9), &whole, start, PIECE_BYTES));
    let mut piece = |index| {
        let id = EntryId::new(1, index);
        let payload = pieces.next().unwrap();
        let entry = RecordBuffer::default().encode(id, EntryKind::Command, &payload);
        Committed { entry, as_leader: true }
    };
    let (first, second, last) = (piece(1), piece(3), piece(4));
    let entries = vec![first, put(2, b"small", true), second];
    applier.run_once(Some(batch(entries, vec![get(100, b"k")], 0)));
    applier.run_once(Some(batch(vec![last.clone()], vec![get(101, b"k")], 0)));
    let answers: Vec<Answer> = answers_in(network.replies.try_iter());
    let found = |bytes: &'static [u8]| Outcome::Value(Some(Bytes::from_static(bytes)));
    assert_eq!(answers[0], answer(2, Outcome::Done));
    assert_eq!(answers[1], answer(100, found(b"small")));
    assert_eq!(answers[2], answer(9, Outcome::Done));
    assert_eq!((answers[3].key, answers.len()), (key(101), 4));
    assert_eq!(applier.store.applied_index(), Index(4));
    // A second copy is answered from the deduplication table, also if a snapshot contains it.
    applier.run_once(Some(batch(vec![last], vec![], 0)));
    let replies = network.replies.try_recv().unwrap();
    assert_eq!(answers_in([replies]), [answer(9, Outcome::Done)]);
}

#[test]
fn next_leader_drops_the_pieces_of_an_incomplete_batch() {
    let Ends { network, applier: ends, .. } = channels(&unused_wake(), false);
    let mut applier = Applier::new(ReplyPolicy::Leader, stopped(), ends);
    let whole = Batch::one(key(9), &Operation::set(b"k", &vec![b'v'; PIECE_BYTES]));
    let committed = |id, kind, payload: &[u8]| {
        let entry = RecordBuffer::default().encode(id, kind, payload);
        Committed { entry, as_leader: true }
    };
    let piece = |id, start| {
        committed(id, EntryKind::Command, &Piece::encode(key(9), &whole, start, PIECE_BYTES))
    };
    let entries = vec![
        piece(EntryId::new(1, 1), 0),
        committed(EntryId::new(2, 2), EntryKind::NoOp, b""),
        piece(EntryId::new(1, 3), PIECE_BYTES),
    ];
    applier.run_once(Some(batch(entries, vec![get(100, b"k")], 0)));
    let answers: Vec<Answer> = answers_in(network.replies.try_iter());
    assert_eq!(answers, [answer(100, Outcome::Value(None))]);
}

#[test]
fn malformed_command_batch_in_the_log_is_skipped_without_reply() {
    let Ends { network, applier: ends, .. } = channels(&unused_wake(), false);
    let mut applier = Applier::new(ReplyPolicy::Leader, stopped(), ends);
    let entry = RecordBuffer::default().encode(EntryId::new(1, 1), EntryKind::Command, b"garbage");
    applier.run_once(Some(batch(vec![Committed { entry, as_leader: true }], vec![], 1)));
    let replies = network.replies.try_recv().unwrap();
    assert_eq!(replies.answers, []);
    assert_eq!(replies.applied.index, Some(Index(1)));
}

#[test]
fn snapshot_from_the_leader_replaces_an_older_state() {
    let Ends { network, deletions, applier: ends, .. } = channels(&unused_wake(), false);
    let mut applier = Applier::new(ReplyPolicy::Leader, stopped(), ends);
    let mut ahead = StateMachine::default();
    for index in 1..=3 {
        let committed = put(index, &[u8::try_from(index).unwrap()], true);
        ahead.apply(&committed.entry);
    }
    let id = SnapshotId { last: EntryId::new(1, 3), ..SnapshotId::default() };
    let install = |store| Some(Box::new(ReceivedSnapshot { id, store }));
    applier.run_once(Some(batch(vec![put(1, b"1", false)], vec![], 1)));
    network.replies.try_recv().unwrap();
    // Entries in the snapshot are not applied again, but answered from its deduplication table.
    let entries = vec![put(2, b"2", true), put(3, b"3", false), put(4, b"4", true)];
    let first = ApplyBatch { install: install(ahead), ..batch(entries, vec![], 7) };
    applier.run_once(Some(first));
    let replies = network.replies.try_recv().unwrap();
    let installed = Some(Box::new((id, None, FeatureLevel::OLDEST)));
    let index = Some(Index(4));
    assert_eq!(
        replies.applied,
        Applied { index, bytes: 7, installed: installed.clone(), ..Applied::default() }
    );
    let done = |number| answer(number, Outcome::Done);
    assert_eq!(answers_in([replies]), [done(2), done(4)]);
    assert!(matches!(deletions.try_recv(), Ok(Deletion::State(_))));
    // An older snapshot changes nothing, but is reported to the core.
    let late = ApplyBatch { install: install(StateMachine::default()), ..ApplyBatch::default() };
    applier.run_once(Some(late));
    let replies = network.replies.try_recv().unwrap();
    assert_eq!(replies.applied, Applied { installed, ..Applied::default() });
    assert_eq!((applier.store.applied_index(), applier.last), (Index(4), EntryId::new(1, 4)));
    applier.run_once(Some(batch(vec![put(4, b"4", false)], vec![], 1)));
    let replies = network.replies.try_recv().unwrap();
    assert_eq!(replies.applied.index, None, "the core knows that entry");
}

#[test]
fn snapshot_is_taken_at_a_log_size_or_on_request() {
    let Ends { network, snapshots, applier: ends, .. } = channels(&unused_wake(), false);
    let board = Arc::new(SnapshotBoard::default());
    let scheduler = SnapshotScheduler::new(800, Arc::clone(&board), Arc::default());
    let applier = Applier::new(ReplyPolicy::Leader, stopped(), ends);
    let mut applier = applier.with_store(StateMachine::default(), EntryId::ZERO, scheduler.clone());
    let mut taken = |from: u64, take_snapshot| {
        // The log grows by 400 bytes each time.
        scheduler.note_end(from.next_multiple_of(2) * 200);
        let entries = vec![put(from, &[1; 100], true), put(from + 1, &[1; 100], true)];
        applier.run_once(Some(ApplyBatch { take_snapshot, ..batch(entries, vec![], 1) }));
        network.replies.try_recv().unwrap();
        match snapshots.jobs.try_recv() {
            Ok(SnapshotJob::Write(view)) => Some(view.last().index.0),
            Ok(other) => unreachable!("{other:?}"),
            Err(_) => None,
        }
    };
    assert_eq!(taken(1, false), None, "the log has not grown enough");
    assert_eq!(taken(3, false), Some(4));
    assert!(board.is_taking());
    assert_eq!(taken(5, true), None, "a snapshot is being taken");
    scheduler.succeed();
    assert_eq!(taken(7, false), Some(8), "requested meanwhile");
    scheduler.give_up(true);
    assert_eq!(taken(9, false), Some(10), "the last attempt failed");
    scheduler.succeed();
    assert_eq!(taken(11, false), None);
}

#[test]
fn partly_applied_log_entry_is_not_visible_to_reads() {
    const OPERATIONS: usize = 1_000;
    let Ends { network, core, snapshots, applier: ends, .. } = channels(&unused_wake(), false);
    let scheduler = SnapshotScheduler::new(1 << 30, Arc::default(), Arc::default());
    let applier = Applier::new(ReplyPolicy::Leader, stopped(), ends);
    let mut applier = applier.with_store(StateMachine::default(), EntryId::ZERO, scheduler);
    let increment = crate::kv::CommandId::named("incr").unwrap();
    let arguments: &[&[u8]] = &[b"k"];
    let increments = vec![Operation::call(increment, arguments); OPERATIONS];
    let mut expected = StateMachine::default();
    let mut digests = Vec::new();
    let mut jobs = (1..=5).map(|index| {
        let payload = Batch::encode(key(u8::try_from(index).unwrap()), false, &increments);
        expected.apply_batch(&payload);
        digests.push(expected.digest());
        let id = EntryId::new(1, index);
        let entry = RecordBuffer::default().encode(id, EntryKind::Command, &payload);
        Committed { entry, as_leader: true }
    });
    let first = batch(jobs.by_ref().take(4).collect(), vec![], 7);
    let last = batch(jobs.collect(), vec![get(100, b"k")], 9);
    let pass = PASS_GROUPS_MAX * GROUP_MAX;
    assert!(4 * OPERATIONS < pass && pass < 5 * OPERATIONS, "a pass ends within the last entry");
    core.to_applier.send(ApplyBatch { take_snapshot: true, ..last }).unwrap();
    applier.run_once(Some(first));
    let replies = network.replies.try_recv().unwrap();
    assert_eq!(replies.answers.len(), 4);
    let report = Applied { index: Some(Index(4)), bytes: 7, ..Applied::default() };
    assert_eq!((replies.digest, replies.applied), (digests[3], report));
    assert!(applier.has_rest() && snapshots.jobs.is_empty());
    applier.run_once(None);
    let replies = network.replies.try_recv().unwrap();
    let [last, read] = &replies.answers[..] else { panic!("{:?}", replies.answers) };
    assert_eq!((last.key, last.outcomes.len()), (key(5), OPERATIONS));
    assert_eq!(last.outcomes.last(), Some(&Outcome::Integer(5_000)), "each is applied once");
    assert_eq!((last.revision, read.revision), (Some(5_000), Some(5_000)));
    assert_eq!(read.outcomes, [Outcome::Value(Some(Bytes::from_static(b"5000")))]);
    let report = Applied { index: Some(Index(5)), bytes: 9, ..Applied::default() };
    assert_eq!((replies.digest, replies.applied), (digests[4], report));
    let Ok(SnapshotJob::Write(view)) = snapshots.jobs.try_recv() else { panic!("no snapshot") };
    assert_eq!(view.last().index, Index(5));
}

#[test]
fn wrong_state_ends_all_replies_including_those_of_its_pass() {
    let Ends { network, core, applier: ends, .. } = channels(&unused_wake(), false);
    let (board, is_marked) = (Arc::<ApplierBoard>::default(), Arc::<AtomicBool>::default());
    let marked = Arc::clone(&is_marked);
    let mark = Box::new(move || marked.store(true, Ordering::Relaxed));
    let voters = Configuration::of_voters([1, 2, 3].map(NodeId));
    let mut applier = Applier::new(ReplyPolicy::Leader, stopped(), ends)
        .with_board(Arc::clone(&board))
        .with_state_check(StateCheck::new(voters, mark));
    let entries = vec![put(1, b"a", true), own_entry(2, Operation::DigestMark)];
    applier.run_once(Some(batch(entries, vec![], 0)));
    let replies = network.replies.try_recv().unwrap();
    let (mark, digest) = *replies.applied.digest_report.expect("the mark was applied");
    assert_eq!((mark, replies.answers.len()), (Index(2), 1));
    let report = |index, replica| {
        let replica = NodeId(replica);
        own_entry(index, Operation::DigestReport { replica, mark, digest: digest ^ 1 })
    };
    let entries = vec![put(3, b"b", true), report(4, 2)];
    applier.run_once(Some(batch(entries, vec![get(100, b"k")], 0)));
    assert_eq!(network.replies.try_recv().unwrap().answers.len(), 2, "one report is no majority");
    assert!(!is_marked.load(Ordering::Relaxed));
    core.to_applier.send(batch(vec![], vec![get(101, b"k")], 0)).unwrap();
    let entries = vec![put(5, b"c", true), report(6, 3), put(7, b"d", true)];
    applier.run_once(Some(batch(entries, vec![get(102, b"k")], 0)));
    let replies = network.replies.try_recv().unwrap();
    assert_eq!((replies.answers, replies.applied.index), (vec![], None));
    assert!(is_marked.load(Ordering::Relaxed) && board.state_is_wrong());
    applier.run_once(Some(batch(vec![], vec![get(103, b"k")], 0)));
    assert!(network.replies.try_recv().is_err());
}

#[test]
fn full_network_queue_does_not_block_applier_on_shared_thread() {
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

/// Returns a committed entry with these operations.
fn commit(index: u64, operations: &[Operation<'_>]) -> Committed {
    let payload = Batch::encode(key(u8::try_from(index).unwrap()), false, operations);
    let id = EntryId::new(1, index);
    let entry = RecordBuffer::default().encode(id, EntryKind::Command, &payload);
    Committed { entry, as_leader: true }
}

#[test]
fn applier_on_a_shared_thread_defers_long_operations() {
    let Ends { network, core, snapshots, applier: ends, .. } = channels(&unused_wake(), false);
    let scheduler = SnapshotScheduler::new(1 << 30, Arc::default(), Arc::default());
    let applier = Applier::new(ReplyPolicy::Leader, stopped(), ends);
    let mut applier = applier.with_store(StateMachine::default(), EntryId::ZERO, scheduler);
    let command = |name| crate::kv::CommandId::named(name).unwrap();
    // A command with a large value is long if it names the value often enough.
    let large = vec![1; 1 << 20];
    let names: Vec<&[u8]> = vec![b"large"; 70];
    applier.run_once(Some(batch(vec![commit(1, &[Operation::set(b"large", &large)])], vec![], 1)));
    network.replies.try_recv().unwrap();
    applier.defer_long_operations();
    let pass = |applier: &mut Applier, deferred: bool| {
        if deferred {
            applier.run_deferred();
        } else {
            applier.run_ready(true);
        }
        let replies: Vec<ReplyBatch> = network.replies.try_iter().collect();
        (answers_in(replies), applier.has_deferred())
    };
    let argument: &[&[u8]] = &[b"k"];
    let increment = Operation::call(command("incr"), argument);
    let long_arguments = [&[&b"OR"[..], b"to"], &names[..]].concat();
    let long = Operation::call(command("bitop"), &long_arguments[..]);
    let mut operations = vec![increment; GROUP_MAX];
    operations.extend([long, increment]);
    let first = batch(vec![commit(2, &operations)], vec![get(100, b"k")], 1);
    core.to_applier.send(ApplyBatch { take_snapshot: true, ..first }).unwrap();
    assert_eq!(pass(&mut applier, false), (vec![], true));
    assert!(applier.is_within_entry() && snapshots.jobs.is_empty());
    let integers = (1..=GROUP_MAX).chain([1 << 20, GROUP_MAX + 1]);
    let outcomes = integers.map(|count| Outcome::Integer(i64::try_from(count).unwrap())).collect();
    let read = answer(100, Outcome::Value(Some(Bytes::from_static(b"17"))));
    assert_eq!(
        pass(&mut applier, true),
        (vec![Answer { key: key(2), outcomes, revision: None }, read], false)
    );
    assert!(matches!(snapshots.jobs.try_recv(), Ok(SnapshotJob::Write(_))));
    // The command is only estimated to be long: it fails, because the values are not sets.
    let payload = Batch::one(key(101), &Operation::call(command("sunion"), &names[..]));
    let long_read = ClientRequest { key: key(101), kind: RequestKind::Read, payload };
    core.to_applier.send(batch(vec![], vec![long_read, get(102, b"k")], 0)).unwrap();
    assert_eq!(pass(&mut applier, false), (vec![], true));
    let (answers, is_deferred) = pass(&mut applier, true);
    let keys: Vec<RequestKey> = answers.iter().map(|answer| answer.key).collect();
    assert_eq!((keys, is_deferred), (vec![key(101), key(102)], false));
    assert!(!applier.has_rest());
}

#[test]
fn keyspace_events_before_a_snapshot_install_are_not_lost() {
    let Ends { network, core, applier: ends, .. } = channels(&unused_wake(), false);
    let board = Arc::new(ApplierBoard::default());
    board.set(RecordedEvents { messages: false, keys: true, misses: false });
    let mut applier = Applier::new(ReplyPolicy::Leader, stopped(), ends).with_board(board);
    let mut ahead = StateMachine::default();
    for index in 1..=2 {
        ahead.apply(&put(index, b"v", true).entry);
    }
    let id = SnapshotId { last: EntryId::new(1, 2), ..SnapshotId::default() };
    let install = Some(Box::new(ReceivedSnapshot { id, store: ahead }));
    let second = ApplyBatch { install, ..batch(vec![put(3, b"w", false)], vec![], 1) };
    core.to_applier.send(second).unwrap();
    applier.run_once(Some(batch(vec![put(1, b"v", false)], vec![], 1)));
    let replies = network.replies.try_recv().unwrap();
    let names = replies.events.iter().map(|event| match event {
        Event::Key { name, .. } => *name,
        Event::Message { .. } => panic!("no message was published"),
    });
    assert_eq!(names.collect::<Vec<_>>(), ["new", "set", "set"]);
}

#[test]
fn removed_values_are_freed_in_the_background() {
    let Ends { network, deletions, applier: ends, .. } = channels(&unused_wake(), false);
    let memory = Arc::<MemoryBoard>::default();
    let scheduler = SnapshotScheduler::new(1 << 30, Arc::default(), Arc::clone(&memory));
    let applier = Applier::new(ReplyPolicy::Leader, stopped(), ends);
    let mut applier = applier.with_store(StateMachine::default(), EntryId::ZERO, scheduler);
    let large = vec![b'a'; 1 << 20];
    let set = Operation::set(b"large", &large);
    let mut index = 0;
    let mut run = |operations: &[Operation<'_>]| {
        index += 1;
        applier.run_once(Some(batch(vec![commit(index, operations)], vec![], 1)));
        network.replies.try_recv().unwrap();
        memory.store_and_log_bytes().0
    };
    let used = run(&[set]);
    let replaced = run(&[set, set]);
    assert!(replaced > used + 2 * (1 << 20), "{replaced} bytes, in the state and not freed yet");
    let stage = BackgroundDelete::new(deletions.clone(), Arc::clone(&memory));
    assert_eq!((deletions.len(), memory.take_freed()), (1, (2, 0)));
    for _ in 1..QUEUE_LEN {
        run(&[set]);
    }
    assert_eq!((deletions.len(), memory.take_freed()), (QUEUE_LEN, (QUEUE_LEN as u64 + 1, 0)));
    run(&[set]);
    assert_eq!(memory.take_freed(), (QUEUE_LEN as u64 + 1, 1), "the queue was full");
    drop((applier, deletions));
    stage.run();
    assert_eq!(memory.take_freed(), (0, QUEUE_LEN as u64 + 1));
    assert_eq!(memory.store_and_log_bytes().0, used);
}
