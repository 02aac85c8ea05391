//! Tests of the state machine as a whole, and a helper that applies operations one by one.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::*;
use crate::kv::batch::{BatchBuffer, BatchError};
use crate::kv::commands::registry::CommandId;
use crate::kv::digest_check::DigestResult;
use crate::kv::snapshot::SnapshotReader;
use crate::types::{ClientId, EntryId, NodeId, RequestId, Term};

/// Applies operations to a state machine, each as a new batch.
#[derive(Default)]
pub(in crate::kv) struct Feeder {
    pub(in crate::kv) store: StateMachine,
    requests: u32,
}

impl Feeder {
    pub(in crate::kv) fn new() -> Feeder {
        Feeder::default()
    }

    pub(in crate::kv) fn apply(&mut self, operation: Operation<'_>) -> Outcome {
        self.requests += 1;
        let applied = self.apply_as(self.requests, operation);
        assert!(!applied.repeated);
        let [outcome] = applied.outcomes.try_into().expect("one operation");
        outcome
    }

    /// Returns a copy whose state was written to a snapshot and restored from it.
    pub(in crate::kv) fn restored(&self) -> Feeder {
        let last = EntryId { term: Term(1), index: self.store.applied_index() };
        let mut reader = SnapshotReader::default();
        self.store.write_snapshot(last, &mut |piece| reader.feed(piece).unwrap());
        Feeder { store: reader.finish().unwrap().0, requests: self.requests }
    }

    /// Applies an operation, and checks that the history of changes has an event of each key
    /// that it changes or removes, as far as there are few keys.
    fn apply_as(&mut self, request: u32, operation: Operation<'_>) -> Applied {
        let revision = Some(self.store.users().revision()).filter(|revision| *revision > 0);
        let encoded = Bytes::from(operation.encode());
        let (batch, _) = Batch::of_one(encoded, name(request), true, revision);
        // An exchange of databases is no event of a key.
        let swaps = operation.as_call().is_some_and(|(name, _)| name == "swapdb");
        if swaps || self.store.key_count() > 100 || self.store.keyspace.has_history() {
            return self.store.apply_batch(&batch);
        }
        let revisions = |store: &StateMachine| -> BTreeMap<Bytes, u64> {
            let entries = store.keyspace.entries();
            entries.map(|entry| (entry.shared_key(), entry.revision())).collect()
        };
        let before = revisions(&self.store);
        self.store.keep_history(1 << 20);
        let applied = self.store.apply_batch(&batch);
        let after = revisions(&self.store);
        let changes: Vec<_> = self.store.keyspace.changes_after(0).collect();
        let is_recorded = |key: &Bytes| {
            changes.iter().any(|change| change.key.is_none_or(|changed| changed == *key))
        };
        let differs = |key: &&Bytes| before.get(*key) != after.get(*key);
        for key in before.keys().chain(after.keys()).filter(differs) {
            assert!(is_recorded(key), "{operation:?} changed {key:?} without an event");
        }
        self.store.keep_history(0);
        applied
    }

    /// Applies a call of `command` with these arguments, and returns its outcome.
    pub(in crate::kv) fn call(&mut self, command: &str, args: &[&str]) -> Outcome {
        let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
        self.call_bytes(command, &args)
    }

    pub(in crate::kv) fn call_bytes(&mut self, command: &str, args: &[&[u8]]) -> Outcome {
        self.apply(Operation::call(CommandId::of(command), args))
    }

    /// Reads with a call of `command` that has these arguments, and returns its outcome. Builds
    /// the index of keys if the command needs it.
    pub(in crate::kv) fn read(&mut self, command: &str, args: &[&[u8]]) -> Outcome {
        let batch = Batch::one(name(0), &Operation::call(CommandId::of(command), args));
        while self.store.read(&batch) == Err(BatchError::NoKeyIndex) {
            self.store.build_key_index();
        }
        let (_, outcomes) = self.store.read(&batch).expect("a read");
        let [outcome] = outcomes.try_into().expect("one operation");
        outcome
    }

    pub(in crate::kv) fn get(&self, key: &[u8]) -> Option<Bytes> {
        let (_, outcomes) =
            self.store.read(&Batch::one(name(0), &Operation::get(key))).expect("a read");
        match &outcomes[..] {
            [Outcome::Value(value)] => value.clone(),
            other => panic!("{other:?}"),
        }
    }
}

fn name(request: u32) -> RequestKey {
    let request = RequestId(u128::from(request).to_be_bytes());
    RequestKey { client: ClientId(1), request }
}

#[test]
fn written_value_can_be_read_until_it_is_deleted() {
    let mut feeder = Feeder::new();
    assert_eq!(feeder.get(b"k"), None);
    assert_eq!(feeder.apply(Operation::set(b"k", b"1")), Outcome::Done);
    assert_eq!(feeder.apply(Operation::set(b"k", b"2")), Outcome::Done);
    assert_eq!(feeder.get(b"k").as_deref(), Some(&b"2"[..]));
    let through_the_log = feeder.apply(Operation::get(b"k"));
    assert_eq!(through_the_log, Outcome::Value(Some(Bytes::from_static(b"2"))));
    assert_eq!(feeder.apply(Operation::del(b"k")), Outcome::flag(true));
    assert_eq!(feeder.apply(Operation::del(b"k")), Outcome::flag(false));
    assert_eq!(feeder.get(b"k"), None);
    assert_eq!(feeder.store.applied_index(), Index(5));
}

#[test]
fn retried_request_gets_its_reply_and_is_not_applied_again() {
    let mut feeder = Feeder::new();
    feeder.apply_as(1, Operation::set(b"k", b"1"));
    feeder.apply_as(2, Operation::del(b"k"));
    let retry = feeder.apply_as(1, Operation::set(b"k", b"1"));
    let outcomes = vec![Outcome::Done];
    assert_eq!(retry, Applied { key: name(1), outcomes, repeated: true });
    assert_eq!(feeder.get(b"k"), None);
    let retry = feeder.apply_as(2, Operation::del(b"k"));
    assert_eq!((retry.outcomes, retry.repeated), (vec![Outcome::flag(true)], true));
    assert_eq!(feeder.store.applied_index(), Index(4), "a retry has a log entry");
}

#[test]
fn operations_of_a_batch_are_applied_in_order_and_once() {
    let mut feeder = Feeder::new();
    let incr = Operation::call(CommandId::of("incr"), [&b"n"[..]]);
    let operations = [incr, Operation::get(b"n"), incr, Operation::set(b"n", b"x"), incr];
    let outcomes = vec![
        Outcome::Integer(1),
        Outcome::Value(Some(Bytes::from_static(b"1"))),
        Outcome::Integer(2),
        Outcome::Done,
        Outcome::Refused(crate::kv::Refusal::NotAnInteger),
    ];
    let batch = Batch::encode(name(7), true, &operations);
    let applied = feeder.store.apply_batch(&batch);
    assert_eq!((applied.outcomes, applied.repeated), (outcomes.clone(), false));
    assert_eq!(feeder.store.keyspace.revision_of(b"n"), 4, "the fourth operation");
    let applied = feeder.store.apply_batch(&batch);
    assert_eq!((applied.outcomes, applied.repeated), (outcomes, true));
    assert_eq!((feeder.store.revision(), feeder.store.applied_index()), (5, Index(2)));
    // A batch that is in the log only once is not looked up in the deduplication table.
    let once = Batch::encode(name(7), false, &[Operation::set(b"n", b"1"), incr]);
    let applied = feeder.store.apply_batch(&once);
    assert_eq!(applied.outcomes, [Outcome::Done, Outcome::Integer(2)]);
    assert_eq!(feeder.store.dedup.len(), 1);
}

#[cfg(feature = "mutants")]
#[test]
fn without_deduplication_retries_are_applied_again() {
    let mut feeder = Feeder { store: StateMachine::forgetful(), ..Feeder::default() };
    feeder.apply_as(1, Operation::set(b"k", b"1"));
    feeder.apply_as(2, Operation::del(b"k"));
    assert!(!feeder.apply_as(1, Operation::set(b"k", b"1")).repeated);
    assert!(feeder.get(b"k").is_some());
}

#[test]
fn transfer_command_moves_the_full_amount_or_nothing() {
    let mut feeder = Feeder::new();
    feeder.call("mset", &["a", "10", "b", "5", "full", &u64::MAX.to_string(), "text", "much"]);
    for (from, to, amount, moved) in [
        ("a", "b", "7", true),
        ("a", "b", "4", false),
        ("a", "a", "3", true),
        ("a", "full", "1", false),
        ("a", "text", "1", false),
        ("nobody", "a", "0", false),
    ] {
        let outcome = feeder.call("transfer", &[from, to, amount]);
        assert_eq!(outcome, Outcome::flag(moved), "{amount} from {from} to {to}");
    }
    assert_eq!(feeder.get(b"a").as_deref(), Some(&b"3"[..]));
    assert_eq!(feeder.get(b"b").as_deref(), Some(&b"12"[..]));
}

#[test]
fn memory_accounting_of_the_store_matches_a_full_recount() {
    let mut feeder = Feeder::new();
    let (empty, mut most) = (feeder.store.memory(), 0);
    for number in 0..2_000_u32 {
        let key = format!("key:{}", number * 7 % 300);
        let value = "x".repeat(number as usize * 13 % 500);
        match number % 9 {
            0 | 1 => feeder.call("hset", &["hash", &key, &value]),
            2 => feeder.call("hset", &[&key, "field", &value]),
            3 => feeder.call("hdel", &[&key, "field"]),
            4 => feeder.call("del", &[&key]),
            5 => feeder.call("pexpireat", &[&key, "1"]),
            6 if number == 1_005 => feeder.call("flushall", &[]),
            6 => feeder.call("mset", &[&key, &value, "other", "1"]),
            7 => feeder.call("append", &[&key, &value]),
            _ => feeder.call("set", &[&key, &value]),
        };
        let store = &feeder.store;
        store.keyspace.check_sums();
        assert_eq!(store.memory(), store.keyspace.memory() + store.dedup.memory());
        most = most.max(store.memory());
    }
    assert!(most > empty + 20_000);
}

#[test]
fn log_entry_with_invalid_payload_advances_only_applied_index() {
    let mut feeder = Feeder::new();
    let applied = feeder.store.apply_batch(b"no batch");
    assert_eq!((applied.outcomes, applied.key), (vec![], RequestKey::default()));
    assert_eq!(feeder.store.applied_index(), Index(1));
    assert!(matches!(feeder.store.read(b"?"), Err(BatchError::Damaged { length: 1 })));
    let put = Batch::one(name(1), &Operation::set(b"k", b""));
    assert_eq!(feeder.store.read(&put), Err(BatchError::NotARead));
    let get = |key| Operation::get(key).encode();
    let mut buffer = BatchBuffer::default();
    for operation in [&get(b"a")[..], b"nonsense", &get(b"b")] {
        buffer.push(operation);
    }
    let applied = feeder.store.apply_batch(&buffer.finish(name(2), true));
    let none = Outcome::Value(None);
    assert_eq!(applied.outcomes, [none.clone(), Outcome::Malformed, none]);
}

#[test]
fn states_are_compared_at_a_mark_without_changing_the_digest() {
    let voters = Configuration::of_voters([1, 2, 3].map(NodeId));
    let (mut one, mut two) = (Feeder::new(), Feeder::new());
    for feeder in [&mut one, &mut two] {
        feeder.apply(Operation::set(b"a", b"1"));
        assert_eq!(feeder.apply(Operation::DigestMark), Outcome::Done);
    }
    let (mark, digest) = one.store.take_digest_report().unwrap();
    assert_eq!((mark, digest), (Index(2), one.store.digest()));
    assert_eq!((one.store.take_digest_report(), two.store.digest()), (None, digest));
    for replica in [2, 3].map(NodeId) {
        one.apply(Operation::DigestReport { replica, mark, digest: digest ^ 1 });
        two.apply(Operation::set(b"a", b"1"));
    }
    assert_eq!(one.store.digest(), two.store.digest(), "reports are not part of the state");
    let comparison = one.store.compare_digests(&voters).unwrap();
    assert_eq!((comparison.index, comparison.result), (mark, DigestResult::Wrong));
    assert!(one.store.read(&Batch::one(name(9), &Operation::DigestMark)).is_err());
}

#[test]
fn state_digest_depends_only_on_the_current_state() {
    let (mut one, mut two) = (Feeder::new(), Feeder::new());
    let empty = one.store.digest();
    one.apply(Operation::set(b"a", b"1"));
    one.apply(Operation::set(b"b", b"2"));
    one.apply(Operation::set(b"b", b"3"));
    assert_ne!(one.store.digest(), empty);
    two.apply(Operation::set(b"b", b"3"));
    two.apply(Operation::set(b"a", b"1"));
    assert_ne!(one.store.digest(), two.store.digest(), "another applied index");
    two.store.skip(Index(3));
    assert_eq!(one.store.digest(), two.store.digest());
    one.apply(Operation::del(b"a"));
    two.apply(Operation::del(b"b"));
    assert_ne!(one.store.digest(), two.store.digest());
}

#[test]
#[should_panic(expected = "applied in order")]
fn applying_a_log_entry_after_an_index_gap_panics() {
    StateMachine::default().skip(Index(2));
}
