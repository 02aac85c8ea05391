//! The queues of clients that wait for keys, such as those of `BLPOP`: which clients a change
//! wakes, and in which order.
//!
//! A client in a queue is either waiting, or trying: its request is on its way through the log. The
//! client that has waited longest comes first. A change wakes as many clients as the key has
//! elements, less those that are trying already, so a push causes about one try however many
//! clients wait. Clients that take new entries of a stream for a group are woken as are needed to
//! take those that were added; if one takes as many as it may, the next one has its turn. Clients
//! that take nothing are all woken.
//!
//! No element is left over while a client waits for it. A report of a change comes with or after
//! the outcomes of all tries that were applied before the change, so a try without an outcome will
//! find what was reported. If it tries another of its keys, the change is noted, and it tries again
//! at once when it has found nothing. A client that was counted for a change and ends without
//! taking anything from the key passes its turn on to the next.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;

use crate::kv::{ChangedKey, DatabaseId, Outcome, ValueType};
use crate::redis::{AwaitedKeys, Taken, Wake};

/// A key with its database.
type DatabaseKey = (DatabaseId, Bytes);

/// A client to wake, by the index of its connection, and the key for which it is woken.
pub(super) type Woken = (usize, Bytes);

/// The queues of all keys for which clients wait.
///
/// Invariant: a client is in the queues of all its keys, under the same number; in `waiting` if its
/// state is [`State::Waiting`], otherwise in `trying`. No queue is empty.
#[derive(Debug, Default)]
pub(super) struct KeyQueues {
    queues: HashMap<DatabaseKey, Vec<Queue>>,
    /// The clients, by the indexes of their connections.
    clients: HashMap<usize, Member>,
    next_number: u64,
}

/// The clients that wait for values of one type at one key, by their numbers in order of arrival.
#[derive(Debug)]
struct Queue {
    kind: ValueType,
    wake: Wake,
    group: Bytes,
    waiting: BTreeMap<u64, usize>,
    trying: BTreeMap<u64, usize>,
    /// Whether the key may hold a value of another type, so that a new client must try.
    may_hold_other: bool,
}

/// A client in the queues.
#[derive(Debug)]
struct Member {
    number: u64,
    keys: AwaitedKeys,
    state: State,
    /// The outcome of the last try, which has found nothing; `None` before.
    nothing: Option<Outcome>,
    /// Whether it has waited.
    has_waited: bool,
}

/// What a client in the queues does.
#[derive(Debug)]
enum State {
    /// It waits for a change.
    Waiting,
    /// Its request is on its way through the log.
    Trying {
        /// The key for which it was woken; `None` if it takes from any of its keys.
        at: Option<Bytes>,
        /// The keys whose changes were noted since its request was submitted: other keys than `at`,
        /// or those for whose elements it was counted.
        changed: Vec<Bytes>,
    },
}

impl Queue {
    fn is_of(&self, keys: &AwaitedKeys) -> bool {
        (self.kind, self.wake, &self.group) == (keys.kind, keys.wake, &keys.group)
    }
}

impl KeyQueues {
    /// Returns whether the client at `index` is in the queues.
    pub(super) fn contains(&self, index: usize) -> bool {
        self.clients.contains_key(&index)
    }

    /// Returns whether a try of the client at `index` has found nothing.
    pub(super) fn has_tried(&self, index: usize) -> bool {
        self.clients.get(&index).is_some_and(|client| client.nothing.is_some())
    }

    /// Returns whether the client at `index` is in the queues and does not wait.
    pub(super) fn is_trying(&self, index: usize) -> bool {
        let client = self.clients.get(&index);
        client.is_some_and(|client| matches!(client.state, State::Trying { .. }))
    }

    /// Returns the outcome of the last try of a client that has waited before; `None` for another.
    pub(super) fn last_outcome(&self, index: usize) -> Option<Outcome> {
        let client = self.clients.get(&index).filter(|client| client.has_waited)?;
        Some(client.nothing.clone().unwrap_or(Outcome::NoList))
    }

    /// Adds the client at `index` to the queues of its keys, behind all others. Returns whether its
    /// request must be submitted. If not, it waits: other clients wait for each of the keys, so the
    /// keys are empty as far as this replica knows. With `must_try`, it is submitted in any case.
    pub(super) fn join(&mut self, index: usize, keys: AwaitedKeys, must_try: bool) -> bool {
        let number = self.next_number;
        self.next_number += 1;
        let is_empty = |key: &Bytes| {
            let queue = self.queues.get(&(keys.database, key.clone())).and_then(|queues| {
                queues.iter().find(|queue| queue.is_of(&keys) && !queue.may_hold_other)
            });
            queue.is_some_and(|queue| !queue.waiting.is_empty())
        };
        // One that takes nothing may have asked for entries that the others have seen already.
        let tries = must_try || keys.wake == Wake::All || !keys.keys.iter().all(is_empty);
        let state =
            if tries { State::Trying { at: None, changed: Vec::new() } } else { State::Waiting };
        for key in &keys.keys {
            let queues = self.queues.entry((keys.database, key.clone())).or_default();
            let at = queues.iter().position(|queue| queue.is_of(&keys));
            let at = at.unwrap_or_else(|| {
                queues.push(Queue {
                    kind: keys.kind,
                    wake: keys.wake,
                    group: keys.group.clone(),
                    waiting: BTreeMap::new(),
                    trying: BTreeMap::new(),
                    may_hold_other: false,
                });
                queues.len() - 1
            });
            let queue = &mut queues[at];
            let list = if tries { &mut queue.trying } else { &mut queue.waiting };
            list.insert(number, index);
        }
        let member = Member { number, keys, state, nothing: None, has_waited: !tries };
        let earlier = self.clients.insert(index, member);
        assert!(earlier.is_none(), "client {index} is queued twice");
        tries
    }

    /// Handles a report that a key has changed. Adds the clients to wake to `woken`; they count as
    /// trying from now on.
    pub(super) fn on_changed(&mut self, changed: &ChangedKey, woken: &mut VecDeque<Woken>) {
        let key = (changed.database, changed.key.clone());
        let Some(queues) = self.queues.get_mut(&key) else { return };
        let mut chosen = Vec::new();
        for queue in queues {
            queue.may_hold_other = changed.kind.is_some_and(|kind| kind != queue.kind);
            let is_right = changed.kind == Some(queue.kind);
            // The number of elements or new entries to take; usize::MAX to wake all.
            let count = match queue.wake {
                Wake::All if is_right && changed.news > 0 => usize::MAX,
                Wake::Elements if is_right => changed.elements,
                Wake::News if is_right => changed.news,
                // There may be nothing to wait for any more.
                Wake::News => usize::MAX,
                Wake::All | Wake::Elements => continue,
            };
            let mut claimed: usize = 0;
            for (place, index) in queue.trying.values().enumerate() {
                let client = self.clients.get_mut(index).expect("it is in a queue");
                claimed = claimed.saturating_add(client.note_change(&changed.key, place < count));
            }
            for index in queue.waiting.values() {
                if claimed >= count {
                    break;
                }
                chosen.push(*index);
                if count < usize::MAX {
                    claimed = claimed.saturating_add(self.clients[index].keys.entries_max);
                }
            }
        }
        for index in chosen {
            self.wake(index, &changed.key, woken);
        }
    }

    /// Handles a report that any key may have changed: for each key, the change is noted at the
    /// clients that are trying, and the first that waits is woken, or all if they wait for entries.
    pub(super) fn on_any_change(&mut self, woken: &mut VecDeque<Woken>) {
        let mut chosen = Vec::new();
        for ((_, key), queues) in &mut self.queues {
            for queue in queues {
                queue.may_hold_other = true;
                for index in queue.trying.values() {
                    let client = self.clients.get_mut(index).expect("it is in a queue");
                    client.note_change(key, true);
                }
                let count = if queue.wake == Wake::Elements { 1 } else { usize::MAX };
                chosen.extend(queue.waiting.values().take(count).map(|it| (*it, key.clone())));
            }
        }
        for (index, key) in chosen {
            self.wake(index, &key, woken);
        }
    }

    /// Makes a waiting client a trying one, for the key `at`. Returns false if it does not wait.
    pub(super) fn begin_try(&mut self, index: usize, at: Option<Bytes>) -> bool {
        let Some(client) = self.clients.get_mut(&index) else { return false };
        if !matches!(client.state, State::Waiting) {
            return false;
        }
        client.state = State::Trying { at, changed: Vec::new() };
        let number = client.number;
        for key in &client.keys.keys {
            let key = (client.keys.database, key.clone());
            let queues = self.queues.get_mut(&key).into_iter().flatten();
            for queue in queues.filter(|queue| queue.is_of(&client.keys)) {
                queue.waiting.remove(&number);
                queue.trying.insert(number, index);
            }
        }
        true
    }

    fn wake(&mut self, index: usize, key: &Bytes, woken: &mut VecDeque<Woken>) {
        if self.begin_try(index, Some(key.clone())) {
            woken.push_back((index, key.clone()));
        }
    }

    /// Handles the outcome of a try that has found nothing. Returns the key for which the client
    /// must try again at once; otherwise it waits from now on.
    pub(super) fn on_nothing_found(&mut self, index: usize, outcome: &Outcome) -> Option<Bytes> {
        let client = self.clients.get_mut(&index).expect("it is trying");
        client.nothing = Some(outcome.clone());
        let State::Trying { at, changed } = &mut client.state else {
            unreachable!("client {index} waits already")
        };
        if at.is_some()
            && let Some(key) = changed.pop()
        {
            *at = Some(key.clone());
            return Some(key);
        }
        self.stop_trying(index);
        None
    }

    /// Makes a trying client, whose request was not applied, wait again. Returns the key for which
    /// it was trying.
    pub(super) fn stop_trying(&mut self, index: usize) -> Option<Bytes> {
        let client = self.clients.get_mut(&index)?;
        let number = client.number;
        client.has_waited = true;
        let State::Trying { at, .. } = std::mem::replace(&mut client.state, State::Waiting) else {
            return None;
        };
        for key in &client.keys.keys {
            let key = (client.keys.database, key.clone());
            let queues = self.queues.get_mut(&key).into_iter().flatten();
            for queue in queues.filter(|queue| queue.is_of(&client.keys)) {
                queue.trying.remove(&number);
                queue.waiting.insert(number, index);
            }
        }
        at
    }

    /// Removes a client from the queues. `taken` is what its try has taken. If that is nothing, or
    /// if there may be more, its turn passes on to the next. `due_at` is the key for which it was
    /// waiting to try again, if there is one.
    pub(super) fn leave(
        &mut self,
        index: usize,
        taken: Taken,
        due_at: Option<Bytes>,
        woken: &mut VecDeque<Woken>,
    ) {
        let Some(client) = self.clients.remove(&index) else { return };
        for key in &client.keys.keys {
            let key = (client.keys.database, key.clone());
            let Some(queues) = self.queues.get_mut(&key) else { continue };
            for queue in queues.iter_mut() {
                queue.waiting.remove(&client.number);
                queue.trying.remove(&client.number);
            }
            queues.retain(|queue| !queue.waiting.is_empty() || !queue.trying.is_empty());
            if queues.is_empty() {
                self.queues.remove(&key);
            }
        }
        let mut passed_on: Vec<Bytes> = due_at.into_iter().collect();
        if client.keys.wake == Wake::All {
            // The others were woken together with it.
            return;
        }
        if taken == Taken::Part {
            passed_on.clone_from(&client.keys.keys);
        } else if let State::Trying { at, changed } = client.state {
            let has_taken = taken == Taken::Whole;
            // What is left at the key from which it has taken is reported as a change.
            let took_the_only_one = has_taken && client.keys.keys.len() == 1;
            passed_on.extend(changed.into_iter().filter(|_| !took_the_only_one));
            passed_on.extend(at.filter(|_| !has_taken));
        }
        for key in passed_on {
            let of_database = (client.keys.database, key.clone());
            let queues = self.queues.get(&of_database).into_iter().flatten();
            let queue = queues.into_iter().find(|queue| queue.is_of(&client.keys));
            let next = queue.and_then(|queue| queue.waiting.values().next().copied());
            if let Some(next) = next {
                self.wake(next, &key, woken);
            }
        }
    }

    #[cfg(test)]
    fn is_consistent(&self) -> bool {
        let count: usize = self
            .queues
            .values()
            .flatten()
            .map(|queue| {
                assert!(!queue.waiting.is_empty() || !queue.trying.is_empty());
                queue.waiting.len() + queue.trying.len()
            })
            .sum();
        count == self.clients.values().map(|client| client.keys.keys.len()).sum::<usize>()
    }
}

impl Member {
    /// Notes at a trying client that `key` has changed, if `is_first`: if it is among the first, as
    /// many as there are elements. Returns how many of the elements or new entries its try may
    /// take, as far as it was not woken to take others.
    fn note_change(&mut self, key: &Bytes, is_first: bool) -> usize {
        let State::Trying { at, changed } = &mut self.state else {
            unreachable!("client {} waits, but is listed as trying", self.number)
        };
        if at.as_ref() == Some(key) {
            // All elements are reported each time, but only entries that are new.
            return usize::from(self.keys.wake == Wake::Elements);
        }
        if is_first && !changed.contains(key) {
            changed.push(key.clone());
        }
        if at.is_none() { self.keys.entries_max } else { 0 }
    }
}

#[cfg(test)]
#[path = "key_queues_tests.rs"]
mod tests;
