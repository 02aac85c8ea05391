//! Tests of the queues of clients that wait for keys.

use super::*;

/// No client.
const NONE: [usize; 0] = [];

fn keys(keys: &[&'static str]) -> AwaitedKeys {
    let keys = keys.iter().map(|key| Bytes::from_static(key.as_bytes())).collect();
    let (kind, database, wake) = (ValueType::List, DatabaseId::FIRST, Wake::Elements);
    AwaitedKeys { kind, database, keys, wake, entries_max: 1, group: Bytes::new() }
}

fn list(key: &'static str, elements: usize) -> ChangedKey {
    let key = Bytes::from_static(key.as_bytes());
    let (database, kind) = (DatabaseId::FIRST, Some(ValueType::List));
    ChangedKey { database, key, kind, elements, news: usize::MAX }
}

/// Queues in which each of `waiting` clients waits for the key `k`, numbered from 0.
fn waiting_for_k(waiting: usize) -> KeyQueues {
    let mut queues = KeyQueues::default();
    for index in 0..waiting {
        if queues.join(index, keys(&["k"]), false) {
            assert_eq!(nothing(&mut queues, index), None);
        }
    }
    queues
}

/// A try of this client finds nothing. Returns the key that it must try again at once.
fn nothing(queues: &mut KeyQueues, index: usize) -> Option<Bytes> {
    queues.on_nothing_found(index, &Outcome::NoList)
}

fn change(queues: &mut KeyQueues, changed: &ChangedKey) -> Vec<usize> {
    let mut woken = VecDeque::new();
    queues.on_changed(changed, &mut woken);
    assert!(woken.iter().all(|(_, key)| *key == changed.key) && queues.is_consistent());
    woken.into_iter().map(|(index, _)| index).collect()
}

fn leave(queues: &mut KeyQueues, index: usize, has_taken: bool) -> Vec<usize> {
    let taken = if has_taken { Taken::Whole } else { Taken::Nothing };
    leave_after(queues, index, taken)
}

fn leave_after(queues: &mut KeyQueues, index: usize, taken: Taken) -> Vec<usize> {
    let mut woken = VecDeque::new();
    queues.leave(index, taken, None, &mut woken);
    assert!(queues.is_consistent());
    woken.into_iter().map(|(index, _)| index).collect()
}

#[test]
fn a_push_wakes_as_many_clients_as_there_are_elements_in_order() {
    let mut queues = waiting_for_k(10_000);
    assert_eq!(change(&mut queues, &list("other", 5)), NONE);
    assert_eq!(change(&mut queues, &list("k", 1)), [0]);
    assert_eq!(change(&mut queues, &list("k", 3)), [1, 2], "one is trying already");
    assert_eq!(leave(&mut queues, 0, true), NONE);
    assert_eq!(change(&mut queues, &list("k", 2)), NONE, "two are trying");
    assert_eq!(change(&mut queues, &list("k", 4)), [3, 4]);
}

#[test]
fn only_the_first_client_of_an_empty_key_tries_at_once() {
    let mut queues = KeyQueues::default();
    assert!(queues.join(0, keys(&["k"]), false));
    assert!(queues.join(1, keys(&["k"]), false), "the first is still trying");
    assert_eq!(nothing(&mut queues, 0), None);
    assert!(!queues.join(2, keys(&["k"]), false));
    assert!(queues.join(3, keys(&["k"]), true));
    assert!(queues.join(4, keys(&["k", "l"]), false), "no client waits for the other key");
    let mut set = list("k", 0);
    set.kind = Some(ValueType::Set);
    assert_eq!(change(&mut queues, &set), NONE);
    assert!(queues.join(5, keys(&["k"]), false), "it must find the wrong type");
    assert!(queues.has_tried(0) && !queues.has_tried(2));
}

#[test]
fn keys_of_different_databases_have_their_own_queues() {
    let mut queues = KeyQueues::default();
    let [one, two] = [1, 2].map(|number| DatabaseId::new(number).expect("a database"));
    for (index, database) in [one, two].into_iter().enumerate() {
        assert!(queues.join(index, AwaitedKeys { database, ..keys(&["k"]) }, false));
        assert_eq!(nothing(&mut queues, index), None);
    }
    assert_eq!(change(&mut queues, &list("k", 5)), NONE);
    assert_eq!(change(&mut queues, &ChangedKey { database: two, ..list("k", 5) }), [1]);
    assert_eq!(change(&mut queues, &ChangedKey { database: one, ..list("k", 5) }), [0]);
    assert_eq!(leave(&mut queues, 0, true), NONE);
    assert_eq!(leave(&mut queues, 1, true), NONE);
    assert!(queues.queues.is_empty());
}

#[test]
fn client_that_finds_nothing_keeps_its_place() {
    let mut queues = waiting_for_k(3);
    assert_eq!(change(&mut queues, &list("k", 1)), [0]);
    assert_eq!(nothing(&mut queues, 0), None);
    assert_eq!(change(&mut queues, &list("k", 2)), [0, 1]);
}

#[test]
fn change_of_another_key_during_a_try_is_not_missed() {
    let mut queues = KeyQueues::default();
    assert!(queues.join(0, keys(&["a", "b"]), false));
    assert_eq!(change(&mut queues, &list("b", 1)), NONE, "its try takes from both keys");
    assert_eq!(nothing(&mut queues, 0), None, "another client took it");
    assert_eq!(change(&mut queues, &list("a", 1)), [0]);
    assert_eq!(change(&mut queues, &list("b", 1)), NONE);
    assert_eq!(nothing(&mut queues, 0).as_deref(), Some(&b"b"[..]));
    assert_eq!(nothing(&mut queues, 0), None);
}

#[test]
fn client_that_takes_nothing_passes_its_turn_on() {
    let mut queues = waiting_for_k(4);
    assert_eq!(change(&mut queues, &list("k", 2)), [0, 1]);
    assert_eq!(leave(&mut queues, 0, false), [2], "its connection was closed");
    assert_eq!(leave(&mut queues, 3, false), NONE, "it was not trying");
    assert_eq!(leave(&mut queues, 1, true), NONE);
    assert_eq!(leave(&mut queues, 2, true), NONE);
    assert!(queues.queues.is_empty() && queues.clients.is_empty());
}

#[test]
fn client_that_takes_from_another_key_passes_its_turn_on() {
    let mut queues = KeyQueues::default();
    assert!(queues.join(0, keys(&["a"]), false));
    assert_eq!(nothing(&mut queues, 0), None);
    assert!(queues.join(1, keys(&["b", "a"]), false));
    assert_eq!(nothing(&mut queues, 1), None);
    // The first is woken for one element, and the second for the other.
    assert_eq!(change(&mut queues, &list("a", 1)), [0]);
    assert_eq!(change(&mut queues, &list("b", 1)), [1]);
    assert_eq!(leave(&mut queues, 0, true), NONE);
    assert!(queues.join(2, keys(&["a"]), false));
    assert_eq!(nothing(&mut queues, 2), None);
    assert_eq!(change(&mut queues, &list("a", 1)), [2], "the other tries only the key b");
    assert_eq!(leave(&mut queues, 1, true), NONE);
    assert_eq!(leave(&mut queues, 2, true), NONE);
    // A new client that takes from either key is counted for the key a, and takes from b.
    assert!(queues.join(3, keys(&["b", "a"]), true));
    assert!(queues.join(4, keys(&["a"]), true));
    assert_eq!(nothing(&mut queues, 4), None);
    assert_eq!(change(&mut queues, &list("a", 1)), NONE);
    assert_eq!(leave(&mut queues, 3, true), [4]);
}

#[test]
fn report_of_unknown_changes_wakes_one_client_for_each_key() {
    let mut queues = waiting_for_k(3);
    assert!(queues.join(7, keys(&["l"]), false));
    let mut woken = VecDeque::new();
    queues.on_any_change(&mut woken);
    assert_eq!(woken, [(0, Bytes::from_static(b"k"))]);
    assert_eq!(nothing(&mut queues, 7), None);
    assert_eq!(nothing(&mut queues, 0), None);
    assert!(queues.join(8, keys(&["k"]), false), "the key may hold another type");
}

#[test]
fn values_of_another_type_wake_no_client() {
    let mut queues = waiting_for_k(2);
    let mut set = list("k", 5);
    set.kind = Some(ValueType::SortedSet);
    assert_eq!(change(&mut queues, &set), NONE);
    set.kind = None;
    assert_eq!(change(&mut queues, &set), NONE);
    assert_eq!(change(&mut queues, &list("k", 9)), [0, 1]);
}

/// A client that waits for entries of the stream `k` for the group `g`, at most `entries_max` at a
/// time.
fn consumer(entries_max: usize) -> AwaitedKeys {
    let (kind, wake, group) = (ValueType::Stream, Wake::News, Bytes::from_static(b"g"));
    AwaitedKeys { kind, wake, entries_max, group, ..keys(&["k"]) }
}

fn stream(news: usize) -> ChangedKey {
    ChangedKey { kind: Some(ValueType::Stream), news, ..list("k", 0) }
}

#[test]
fn new_entries_wake_as_many_consumers_as_can_take_them() {
    let mut queues = KeyQueues::default();
    for (index, entries_max) in [1, 2, 1_000, 1].into_iter().enumerate() {
        assert_eq!(queues.join(index, consumer(entries_max), false), index == 0);
        if index == 0 {
            assert_eq!(nothing(&mut queues, index), None);
        }
    }
    assert_eq!(change(&mut queues, &stream(0)), NONE, "entries were removed");
    assert_eq!(change(&mut queues, &stream(4)), [0, 1, 2]);
    // Those that were woken take the entries of then.
    assert_eq!(change(&mut queues, &stream(1)), [3]);
    for index in 0..4 {
        assert_eq!(nothing(&mut queues, index), None, "another replica's consumers took them");
    }
    assert_eq!(change(&mut queues, &stream(1)), [0]);
    assert_eq!(leave_after(&mut queues, 0, Taken::Whole), NONE);
    assert_eq!(change(&mut queues, &stream(1)), [1]);
    assert_eq!(leave_after(&mut queues, 1, Taken::Part), [2], "there may be more");
    assert_eq!(leave_after(&mut queues, 2, Taken::Nothing), [3], "its connection was closed");
}

#[test]
fn all_consumers_learn_that_the_stream_or_the_group_is_gone() {
    for changed in [stream(usize::MAX), ChangedKey { kind: None, ..stream(0) }, list("k", 1)] {
        let mut queues = KeyQueues::default();
        for index in 0..3 {
            assert!(queues.join(index, consumer(usize::MAX), true));
            assert_eq!(nothing(&mut queues, index), None);
        }
        let mut other = consumer(1);
        other.group = Bytes::from_static(b"h");
        assert!(queues.join(7, other, false), "no client waits for the other group");
        assert_eq!(nothing(&mut queues, 7), None);
        assert_eq!(change(&mut queues, &changed), [0, 1, 2, 7], "{changed:?}");
        assert_eq!(leave_after(&mut queues, 0, Taken::Nothing), NONE);
    }
    let mut queues = KeyQueues::default();
    for index in 0..3 {
        queues.join(index, consumer(1), true);
        assert_eq!(nothing(&mut queues, index), None);
    }
    let mut woken = VecDeque::new();
    queues.on_any_change(&mut woken);
    assert_eq!(woken.len(), 3);
}

#[test]
fn new_entries_wake_all_readers() {
    let mut queues = KeyQueues::default();
    let reader = || AwaitedKeys { wake: Wake::All, group: Bytes::new(), ..consumer(1) };
    for index in 0..3 {
        assert!(queues.join(index, reader(), false), "it may ask for old entries");
        assert_eq!(nothing(&mut queues, index), None);
    }
    assert!(queues.join(3, consumer(1), false));
    assert_eq!(nothing(&mut queues, 3), None);
    assert_eq!(change(&mut queues, &stream(0)), NONE);
    assert_eq!(change(&mut queues, &list("k", 1)), [3], "readers wait for another stream");
    assert_eq!(nothing(&mut queues, 3), None);
    assert_eq!(change(&mut queues, &stream(2)), [0, 1, 2, 3]);
    assert_eq!(leave_after(&mut queues, 0, Taken::Whole), NONE);
    assert_eq!(leave_after(&mut queues, 1, Taken::Nothing), NONE);
    assert_eq!(nothing(&mut queues, 2), None);
    let mut woken = VecDeque::new();
    queues.on_any_change(&mut woken);
    assert_eq!(woken.len(), 1, "the other one is still trying");
}
