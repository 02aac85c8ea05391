//! The linearizability checker: determines whether the operations on each key can be ordered so
//! that each takes effect at one moment between its call and its reply, and every reply is correct
//! in that order.
//!
//! The search uses Wing and Gong's algorithm with Lowe's cache: pick an operation that may be next,
//! remember the pair (operations placed, value), and backtrack when a reply does not fit. Keys are
//! checked separately, which is sound because linearizability is local. An operation without a
//! reply may take effect at any later moment, or never.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use bytes::Bytes;
use foldhash::fast::FixedState;
use hashbrown::HashSet;

/// The kind of an operation on a key, with the arguments of its call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Call {
    /// Reads the value of the key.
    Get,
    /// Sets the key to this value.
    Put(Bytes),
    /// Deletes the key, if it exists.
    Delete,
}

/// The reply to a client's operation on a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// The reply to a get: the value, or `None` if the key did not exist.
    Value(Option<Bytes>),
    /// The reply to a put, which has set the value.
    Done,
    /// The reply to a delete: true if the key existed before.
    Deleted(bool),
}

/// Identifies an operation in a [`History`] of calls and replies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OperationId(usize);

/// The history of a run: the clients' operations, with the order of their calls and replies.
#[derive(Debug, Default)]
pub struct History {
    operations: Vec<Operation>,
    /// Number of calls and replies recorded so far, which serves as the logical time of the latest
    /// one.
    moment: u64,
}

#[derive(Debug)]
struct Operation {
    key: Bytes,
    call: Call,
    called: u64,
    completion: Completion,
}

#[derive(Debug)]
enum Completion {
    /// The operation was not answered: it may have been applied, may still be applied, or may never
    /// be applied.
    Unknown,
    /// The operation was refused and is never applied.
    Refused,
    /// The operation was answered. The number is the logical time of the reply, that is, its
    /// position among all calls and replies. The operation took effect before that time.
    Answered(u64, Reply),
}

/// The reason why a history fails the linearizability check.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinearizabilityError {
    /// No order of the operations on a key explains all replies.
    #[error(
        "the history of key {key:?} is not linearizable: no order of the operations on the key \
         explains all replies; the longest order that explains replies stops at this operation, \
         shown with the operations that overlap it:\n{around}"
    )]
    NotLinearizable {
        /// The key whose history is not linearizable.
        key: String,
        /// The operation at which the search got stuck, and the operations that overlap it in time,
        /// one per line.
        around: String,
    },
    /// The search exceeded its maximum number of steps, so it is unknown whether the history is
    /// linearizable.
    #[error(
        "the search for an order of the {operations} operations on key {key:?} ({unknown} of them \
         unanswered) exceeded the limit of {steps} steps; use more keys, fewer clients or a \
         shorter run"
    )]
    TooLarge {
        /// The key whose history was searched.
        key: String,
        /// Number of operations on the key.
        operations: usize,
        /// Number of unanswered operations on the key, which make the search expensive.
        unknown: usize,
        /// The maximum number of search steps that was exceeded.
        steps: u64,
    },
}

/// Default limit on the number of search steps per key. A search of this length takes seconds; the
/// histories of simulated runs need far fewer steps.
pub const STEPS_MAX: u64 = 20_000_000;

impl History {
    /// Records the call of an operation on `key`, and returns the id with which the caller records
    /// the outcome.
    pub fn call(&mut self, key: Bytes, call: Call) -> OperationId {
        self.moment += 1;
        self.operations.push(Operation {
            key,
            call,
            called: self.moment,
            completion: Completion::Unknown,
        });
        OperationId(self.operations.len() - 1)
    }

    /// Records the reply to an operation.
    pub fn answer(&mut self, id: OperationId, reply: Reply) {
        self.moment += 1;
        self.operations[id.0].completion = Completion::Answered(self.moment, reply);
    }

    /// Records that an operation was refused and has no effect.
    pub fn refuse(&mut self, id: OperationId) {
        self.operations[id.0].completion = Completion::Refused;
    }

    /// Returns the number of operations in the history.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Returns whether the history has no operations.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Checks that the history of each key is linearizable. Initially no key exists.
    ///
    /// # Errors
    /// Returns an error for the first key whose history is not linearizable, or whose search
    /// exceeds `steps_max` steps.
    pub fn check(&self, steps_max: u64) -> Result<(), LinearizabilityError> {
        let mut keys: BTreeMap<&Bytes, Vec<&Operation>> = BTreeMap::new();
        for operation in &self.operations {
            let irrelevant = match operation.completion {
                Completion::Unknown => operation.call == Call::Get,
                Completion::Refused => true,
                Completion::Answered(..) => false,
            };
            if !irrelevant {
                keys.entry(&operation.key).or_default().push(operation);
            }
        }
        keys.into_iter()
            .try_for_each(|(key, operations)| Search::new(key, operations).run(steps_max))
    }
}

/// The value of a key during the search: a number that stands for a distinct value, or `None` if
/// the key does not exist.
type Value = Option<u32>;

/// Stands for "no event" in place of an index into the list of events.
const NOWHERE: usize = usize::MAX;

/// The search for an order of one key's operations that explains all replies (Wing and Gong's
/// algorithm).
///
/// `events` holds each call and each reply. `next` and `previous` form a linked list, sorted by
/// time, of the events of operations that have no place in the order yet. The list starts at
/// `next[head]`.
struct Search<'a> {
    key: &'a Bytes,
    operations: Vec<&'a Operation>,
    effects: Vec<Effect>,
    events: Vec<Event>,
    next: Vec<usize>,
    previous: Vec<usize>,
}

/// The effect of an operation on a key. Each distinct value is represented by a number.
#[derive(Clone, Copy)]
enum Effect {
    Read(Value),
    Write(u32),
    /// Deletes the key. The field is whether the key existed according to the reply; `None` if
    /// there was no reply.
    Delete(Option<bool>),
}

#[derive(Clone, Copy)]
struct Event {
    operation: usize,
    /// For a call, the index of the reply in the list of events, or [`NOWHERE`] if there is no
    /// reply. Unused for a reply.
    answer: usize,
    is_call: bool,
}

impl<'a> Search<'a> {
    fn new(key: &'a Bytes, operations: Vec<&'a Operation>) -> Search<'a> {
        let mut numbers: BTreeMap<&Bytes, u32> = BTreeMap::new();
        let mut number = |value: &'a Bytes| {
            let next = u32::try_from(numbers.len()).expect("fewer than 2^32 values in a run");
            *numbers.entry(value).or_insert(next)
        };
        let mut effects = Vec::with_capacity(operations.len());
        let mut moments = Vec::with_capacity(operations.len() * 2);
        for (place, operation) in operations.iter().enumerate() {
            moments.push((operation.called, place, true));
            if let Completion::Answered(moment, _) = operation.completion {
                moments.push((moment, place, false));
            }
            effects.push(match (&operation.call, &operation.completion) {
                (Call::Put(value), _) => Effect::Write(number(value)),
                (Call::Delete, Completion::Answered(_, Reply::Deleted(was))) => {
                    Effect::Delete(Some(*was))
                }
                (Call::Delete, _) => Effect::Delete(None),
                (Call::Get, Completion::Answered(_, Reply::Value(value))) => {
                    Effect::Read(value.as_ref().map(&mut number))
                }
                (Call::Get, end) => panic!("a get of {key:?} ended with {end:?}"),
            });
        }
        moments.sort_unstable();
        let mut events: Vec<Event> = Vec::with_capacity(moments.len());
        let mut call_places = vec![NOWHERE; operations.len()];
        for &(_, operation, is_call) in &moments {
            if is_call {
                call_places[operation] = events.len();
            } else {
                let place = events.len();
                events[call_places[operation]].answer = place;
            }
            events.push(Event { operation, answer: NOWHERE, is_call });
        }
        // One more place than events: the list's head, which is also its end.
        let length = events.len() + 1;
        let next = (0..length).map(|place| (place + 1) % length).collect();
        let previous = (0..length).map(|place| (place + length - 1) % length).collect();
        Search { key, operations, effects, events, next, previous }
    }

    fn head(&self) -> usize {
        self.events.len()
    }

    fn run(mut self, steps_max: u64) -> Result<(), LinearizabilityError> {
        let words = self.operations.len().div_ceil(64);
        let mut taken = vec![0_u64; words];
        let mut value: Value = None;
        let mut order: Vec<(usize, Value)> = Vec::new();
        let mut tried: HashSet<(Box<[u64]>, Value), FixedState> = HashSet::default();
        let mut furthest = (0, NOWHERE);
        let mut place = self.next[self.head()];
        for _ in 0..steps_max {
            if place == self.head() {
                // All replies are explained; the remaining operations may never take effect.
                return Ok(());
            }
            let event = self.events[place];
            if event.is_call {
                let after = self.effects[event.operation].apply(value);
                place = match after {
                    Some(after) => {
                        let (word, bit) = (event.operation / 64, 1 << (event.operation % 64));
                        taken[word] |= bit;
                        if tried.insert((taken.clone().into_boxed_slice(), after)) {
                            order.push((place, value));
                            value = after;
                            self.take(place);
                            self.next[self.head()]
                        } else {
                            taken[word] &= !bit;
                            self.next[place]
                        }
                    }
                    None => self.next[place],
                };
            } else {
                // The operation of this reply could not be placed: backtrack.
                if furthest.1 == NOWHERE || order.len() > furthest.0 {
                    furthest = (order.len(), event.operation);
                }
                let Some((last, before)) = order.pop() else {
                    return Err(self.not_linearizable(furthest.1));
                };
                let operation = self.events[last].operation;
                taken[operation / 64] &= !(1 << (operation % 64));
                value = before;
                self.put_back(last);
                place = self.next[last];
            }
        }
        Err(LinearizabilityError::TooLarge {
            key: String::from_utf8_lossy(self.key).into_owned(),
            operations: self.operations.len(),
            unknown: self
                .operations
                .iter()
                .filter(|o| matches!(o.completion, Completion::Unknown))
                .count(),
            steps: steps_max,
        })
    }

    /// Removes the events of a call and its reply from the linked list of unplaced operations,
    /// because the search has placed the operation next in the order.
    fn take(&mut self, call: usize) {
        for place in [call, self.events[call].answer] {
            if place != NOWHERE {
                let (previous, next) = (self.previous[place], self.next[place]);
                self.next[previous] = next;
                self.previous[next] = previous;
            }
        }
    }

    /// Undoes [`Search::take`]: puts the events of a call and its reply back into the linked list.
    /// Calls must be put back in the reverse order of their removal.
    fn put_back(&mut self, call: usize) {
        for place in [self.events[call].answer, call] {
            if place != NOWHERE {
                let (previous, next) = (self.previous[place], self.next[place]);
                self.next[previous] = place;
                self.previous[next] = place;
            }
        }
    }

    fn not_linearizable(&self, stuck: usize) -> LinearizabilityError {
        let operation = self.operations[stuck];
        let until = match operation.completion {
            Completion::Answered(moment, _) => moment,
            Completion::Unknown | Completion::Refused => u64::MAX,
        };
        let overlaps = |other: &&&Operation| {
            let ended = match other.completion {
                Completion::Answered(moment, _) => moment,
                Completion::Unknown | Completion::Refused => u64::MAX,
            };
            other.called < until && ended > operation.called
        };
        let mut around = format!("  {operation}   <- fits nowhere");
        for other in
            self.operations.iter().filter(overlaps).filter(|o| !std::ptr::eq(**o, operation))
        {
            let _ = write!(around, "\n  {other}");
        }
        LinearizabilityError::NotLinearizable {
            key: String::from_utf8_lossy(self.key).into_owned(),
            around,
        }
    }
}

impl Effect {
    /// Returns the key's value after the operation, given `value`, the key's value before the
    /// operation; `None` if the operation's reply contradicts `value`.
    fn apply(self, value: Value) -> Option<Value> {
        match self {
            Effect::Read(seen) => (seen == value).then_some(value),
            Effect::Write(new) => Some(Some(new)),
            Effect::Delete(None) => Some(None),
            Effect::Delete(Some(was)) => (was == value.is_some()).then_some(None),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Bytes| String::from_utf8_lossy(value).into_owned();
        match &self.call {
            Call::Get => write!(f, "get")?,
            Call::Put(value) => write!(f, "put {}", text(value))?,
            Call::Delete => write!(f, "delete")?,
        }
        match &self.completion {
            Completion::Unknown => write!(f, " called at {}, never answered", self.called),
            Completion::Refused => write!(f, " called at {}, refused", self.called),
            Completion::Answered(moment, reply) => {
                write!(f, " called at {}, answered at {moment}: ", self.called)?;
                match reply {
                    Reply::Value(Some(value)) => write!(f, "{}", text(value)),
                    Reply::Value(None) => write!(f, "no value"),
                    Reply::Done => write!(f, "done"),
                    Reply::Deleted(was) => {
                        write!(f, "{}", if *was { "deleted" } else { "no value" })
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::rng::Rng;

    fn bytes(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    /// Builds a history from a list of tokens. Calls: `p1=a` is a put of the value a by client 1,
    /// `g2` a get by client 2, `d3` a delete by client 3. Replies: `1.` tells client 1 that its put
    /// is done, `2:a` returns the value a to client 2 and `2:` no value, `3+` and `3-` tell client
    /// 3 that the key was deleted or did not exist. `1x` is a refusal of client 1's operation.
    fn history(tokens: &str) -> History {
        let mut history = History::default();
        let mut open: BTreeMap<char, OperationId> = BTreeMap::new();
        for token in tokens.split_whitespace() {
            let letters: Vec<char> = token.chars().collect();
            let key = bytes("k");
            match letters[..] {
                ['p', client, '=', value] => {
                    open.insert(client, history.call(key, Call::Put(bytes(&value.to_string()))));
                }
                ['g', client] => {
                    open.insert(client, history.call(key, Call::Get));
                }
                ['d', client] => {
                    open.insert(client, history.call(key, Call::Delete));
                }
                [client, '.'] => history.answer(open[&client], Reply::Done),
                [client, 'x'] => history.refuse(open[&client]),
                [client, '+'] => history.answer(open[&client], Reply::Deleted(true)),
                [client, '-'] => history.answer(open[&client], Reply::Deleted(false)),
                [client, ':'] => history.answer(open[&client], Reply::Value(None)),
                [client, ':', value] => {
                    history.answer(open[&client], Reply::Value(Some(bytes(&value.to_string()))));
                }
                _ => panic!("{token}"),
            }
        }
        history
    }

    fn accepted(tokens: &str) {
        assert_eq!(history(tokens).check(STEPS_MAX), Ok(()), "{tokens}");
    }

    fn rejected(tokens: &str) {
        let result = history(tokens).check(STEPS_MAX);
        assert!(
            matches!(result, Err(LinearizabilityError::NotLinearizable { .. })),
            "{tokens}: {result:?}"
        );
    }

    #[test]
    fn linearizable_sequential_histories_are_accepted() {
        accepted("");
        accepted("g1 1:");
        accepted("p1=a 1. g1 1:a d1 1+ g1 1: d1 1-");
    }

    #[test]
    fn either_order_of_concurrent_operations_is_linearizable() {
        accepted("p1=a p2=b 1. 2. g1 1:a");
        accepted("p1=a p2=b 1. 2. g1 1:b");
        accepted("p1=a g2 g3 2:a 3: 1.");
        accepted("p1=a 1. p1=b d2 2+ 1. g2 2:b");
    }

    #[test]
    fn history_with_a_stale_read_is_rejected() {
        rejected("p1=a 1. p1=b 1. g2 2:a");
        rejected("p1=a 1. g2 2:");
    }

    #[test]
    fn history_with_a_read_of_a_value_never_put_is_rejected() {
        rejected("g1 1:a");
        rejected("p1=a 1. g1 1:b");
    }

    #[test]
    fn history_with_reads_going_back_in_time_is_rejected() {
        // The put is still in progress, but after one read has seen it, later ones must see it,
        // too.
        rejected("p1=a 1. p1=b g2 2:b g3 3:a 1.");
        rejected("p1=a p2=b 1. 2. g3 3:a g3 3:b");
    }

    #[test]
    fn history_with_a_put_that_took_effect_twice_is_rejected() {
        rejected("p1=a 1. p2=b 2. g3 3:b g3 3:a");
        rejected("p1=a 1. d1 1+ g2 2:a");
    }

    #[test]
    fn unanswered_operations_may_take_effect_later_or_never() {
        accepted("p1=a 1. p2=b g1 1:a g1 1:a");
        accepted("p1=a 1. p2=b g1 1:a g1 1:b g1 1:b");
        rejected("p1=a 1. p2=b g1 1:b g1 1:a");
        // Called only after the read was answered.
        rejected("g1 1:b p2=b");
    }

    #[test]
    fn history_where_a_refused_put_took_effect_is_rejected() {
        accepted("p1=a 1. p2=b 2x g1 1:a");
        rejected("p1=a 1. p2=b 2x g1 1:b");
    }

    #[test]
    fn history_with_a_wrong_delete_reply_is_rejected() {
        rejected("p1=a 1. d2 2-");
        rejected("d1 1+");
        rejected("p1=a 1. d1 1+ d2 2+");
        accepted("p1=a 1. d1 d2 1+ 2-");
        rejected("p1=a 1. d1 d2 1+ 2+");
    }

    #[test]
    fn linearizability_is_checked_separately_for_each_key() {
        let mut history = History::default();
        for (key, value) in [("x", "1"), ("y", "2")] {
            let put = history.call(bytes(key), Call::Put(bytes(value)));
            history.answer(put, Reply::Done);
        }
        let get = history.call(bytes("y"), Call::Get);
        history.answer(get, Reply::Value(Some(bytes("1"))));
        let error = history.check(STEPS_MAX).unwrap_err().to_string();
        assert!(error.contains("key \"y\"") && error.contains("answered at 6: 1"), "{error}");
    }

    #[test]
    fn linearizability_search_beyond_its_limit_is_reported() {
        let mut history = History::default();
        for number in 0..40 {
            history.call(bytes("k"), Call::Put(bytes(&number.to_string())));
        }
        for value in ["0", "1", "0"] {
            let get = history.call(bytes("k"), Call::Get);
            history.answer(get, Reply::Value(Some(bytes(value))));
        }
        let error = history.check(10_000).unwrap_err();
        assert!(matches!(error, LinearizabilityError::TooLarge { unknown: 40, .. }), "{error}");
    }

    /// Checks histories of a register with concurrent clients: they are accepted, but rejected
    /// after one more read that returns a value that was never put.
    #[test]
    fn random_linearizable_histories_are_accepted() {
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let mut history = History::default();
            let mut register: Option<Bytes> = None;
            let mut pending: Vec<(OperationId, Call, Option<Reply>)> = Vec::new();
            let mut serial = 0;
            for _ in 0..120 {
                match rng.below(3) {
                    0 if pending.len() < 5 => {
                        serial += 1;
                        let call = match rng.below(4) {
                            0 | 1 => Call::Put(bytes(&serial.to_string())),
                            2 => Call::Get,
                            _ => Call::Delete,
                        };
                        pending.push((history.call(bytes("k"), call.clone()), call, None));
                    }
                    1 if !pending.is_empty() => {
                        let place = rng.index(pending.len());
                        let (_, call, reply) = &mut pending[place];
                        reply.get_or_insert_with(|| match call {
                            Call::Get => Reply::Value(register.clone()),
                            Call::Put(value) => {
                                register = Some(value.clone());
                                Reply::Done
                            }
                            Call::Delete => Reply::Deleted(register.take().is_some()),
                        });
                    }
                    _ if !pending.is_empty() => {
                        let place = rng.index(pending.len());
                        if let Some(reply) = pending[place].2.clone() {
                            history.answer(pending.swap_remove(place).0, reply);
                        }
                    }
                    _ => {}
                }
            }
            assert_eq!(history.check(STEPS_MAX), Ok(()), "seed {seed}");
            let get = history.call(bytes("k"), Call::Get);
            history.answer(get, Reply::Value(Some(bytes("never put"))));
            assert!(history.check(STEPS_MAX).is_err(), "seed {seed}, damaged");
        }
    }
}
