//! Judges whether what clients saw of single keys could have come from one copy of the data, each
//! operation taking effect at one moment between its call and its answer (linearizability).
//!
//! The search is Wing and Gong's with Lowe's memory of what was tried: take any operation that may
//! come next, remember (operations taken, value), go back where no answer fits. Keys are judged
//! one by one, which is sound because linearizability is local. An operation without an answer
//! may take effect at any later moment, or never.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use bytes::Bytes;
use foldhash::fast::FixedState;
use hashbrown::HashSet;

/// What was asked of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Call {
    /// Its value.
    Get,
    /// To set it.
    Put(Bytes),
    /// To remove it.
    Delete,
}

/// What was answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// To a get: the value, if there was one.
    Value(Option<Bytes>),
    /// To a put.
    Done,
    /// To a delete: whether there was anything.
    Deleted(bool),
}

/// Names an operation of a [`History`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OperationId(usize);

/// All operations of a run in the order in which calls and answers happened.
#[derive(Debug, Default)]
pub struct History {
    operations: Vec<Operation>,
    /// Counts calls and answers: two of them never happen at the same moment.
    moment: u64,
}

#[derive(Debug)]
struct Operation {
    key: Bytes,
    call: Call,
    called: u64,
    end: End,
}

#[derive(Debug)]
enum End {
    /// May have taken effect or may still.
    Unknown,
    /// Certainly took no effect and never will.
    Refused,
    /// Took effect before this moment.
    Answered(u64, Reply),
}

/// Why a history is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinearError {
    /// No order of the operations explains the answers.
    #[error(
        "the answers about key {key:?} fit no order of its operations; the furthest order stops \
         at:\n{around}"
    )]
    NotLinearizable {
        /// Which key.
        key: String,
        /// The operation that could not be placed and those that overlap it.
        around: String,
    },
    /// The search was given up.
    #[error(
        "the {operations} operations on key {key:?} ({unknown} of them unanswered) were not \
         decided within {steps} steps; use more keys, fewer clients or a shorter run"
    )]
    TooLarge {
        /// Which key.
        key: String,
        /// Operations on it.
        operations: usize,
        /// Those without an answer, which make the search wide.
        unknown: usize,
        /// The bound.
        steps: u64,
    },
}

/// Steps after which the search of one key is given up: seconds of work, far more than a run of
/// the simulator needs.
pub const STEPS_MAX: u64 = 20_000_000;

impl History {
    /// Notes that a client asks now.
    pub fn call(&mut self, key: Bytes, call: Call) -> OperationId {
        self.moment += 1;
        self.operations.push(Operation { key, call, called: self.moment, end: End::Unknown });
        OperationId(self.operations.len() - 1)
    }

    /// Notes that the client hears the answer now.
    pub fn answer(&mut self, id: OperationId, reply: Reply) {
        self.moment += 1;
        self.operations[id.0].end = End::Answered(self.moment, reply);
    }

    /// Notes that the operation certainly has no effect.
    pub fn refuse(&mut self, id: OperationId) {
        self.operations[id.0].end = End::Refused;
    }

    /// How many operations were called.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether nothing was called.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Judges all keys, none of which has a value at first.
    ///
    /// # Errors
    /// For the first key whose answers no order explains, or whose search takes more than
    /// `steps_max` steps.
    pub fn check(&self, steps_max: u64) -> Result<(), LinearError> {
        let mut keys: BTreeMap<&Bytes, Vec<&Operation>> = BTreeMap::new();
        for operation in &self.operations {
            let idle = match operation.end {
                End::Unknown => operation.call == Call::Get,
                End::Refused => true,
                End::Answered(..) => false,
            };
            if !idle {
                keys.entry(&operation.key).or_default().push(operation);
            }
        }
        keys.into_iter()
            .try_for_each(|(key, operations)| Search::new(key, operations).run(steps_max))
    }
}

/// The value of a key during the search: a number for each value that was ever put.
type Value = Option<u32>;

/// Place of nothing in the list.
const NOWHERE: usize = usize::MAX;

/// The search through the orders of one key's operations.
///
/// `events` holds each call and each answer; `next` and `previous` chain those that are still to
/// be placed, in time, from `next[head]` on.
struct Search<'a> {
    key: &'a Bytes,
    operations: Vec<&'a Operation>,
    steps: Vec<Step>,
    events: Vec<Event>,
    next: Vec<usize>,
    previous: Vec<usize>,
}

/// An operation on numbered values.
#[derive(Clone, Copy)]
enum Step {
    Read(Value),
    Write(u32),
    /// Removes; `Some` if it is known whether there was anything.
    Remove(Option<bool>),
}

#[derive(Clone, Copy)]
struct Event {
    operation: usize,
    /// Place of the answer, for a call; [`NOWHERE`] if there is none.
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
        let mut steps = Vec::with_capacity(operations.len());
        let mut moments = Vec::with_capacity(operations.len() * 2);
        for (place, operation) in operations.iter().enumerate() {
            moments.push((operation.called, place, true));
            if let End::Answered(moment, _) = operation.end {
                moments.push((moment, place, false));
            }
            steps.push(match (&operation.call, &operation.end) {
                (Call::Put(value), _) => Step::Write(number(value)),
                (Call::Delete, End::Answered(_, Reply::Deleted(was))) => Step::Remove(Some(*was)),
                (Call::Delete, _) => Step::Remove(None),
                (Call::Get, End::Answered(_, Reply::Value(value))) => {
                    Step::Read(value.as_ref().map(&mut number))
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
        Search { key, operations, steps, events, next, previous }
    }

    fn head(&self) -> usize {
        self.events.len()
    }

    fn run(mut self, steps_max: u64) -> Result<(), LinearError> {
        let words = self.operations.len().div_ceil(64);
        let mut taken = vec![0_u64; words];
        let mut value: Value = None;
        let mut order: Vec<(usize, Value)> = Vec::new();
        let mut tried: HashSet<(Box<[u64]>, Value), FixedState> = HashSet::default();
        let mut furthest = (0, NOWHERE);
        let mut place = self.next[self.head()];
        for _ in 0..steps_max {
            if place == self.head() {
                // No answer is left to explain; what remains may never take effect.
                return Ok(());
            }
            let event = self.events[place];
            if event.is_call {
                let after = self.steps[event.operation].apply(value);
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
                // This answer came before any operation that is left could be placed: go back.
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
        Err(LinearError::TooLarge {
            key: String::from_utf8_lossy(self.key).into_owned(),
            operations: self.operations.len(),
            unknown: self.operations.iter().filter(|o| matches!(o.end, End::Unknown)).count(),
            steps: steps_max,
        })
    }

    /// Takes a call and its answer out of the list.
    fn take(&mut self, call: usize) {
        for place in [call, self.events[call].answer] {
            if place != NOWHERE {
                let (previous, next) = (self.previous[place], self.next[place]);
                self.next[previous] = next;
                self.previous[next] = previous;
            }
        }
    }

    /// Undoes the last [`Search::take`] that is not undone yet.
    fn put_back(&mut self, call: usize) {
        for place in [self.events[call].answer, call] {
            if place != NOWHERE {
                let (previous, next) = (self.previous[place], self.next[place]);
                self.next[previous] = place;
                self.previous[next] = place;
            }
        }
    }

    fn not_linearizable(&self, stuck: usize) -> LinearError {
        let operation = self.operations[stuck];
        let until = match operation.end {
            End::Answered(moment, _) => moment,
            End::Unknown | End::Refused => u64::MAX,
        };
        let overlaps = |other: &&&Operation| {
            let ended = match other.end {
                End::Answered(moment, _) => moment,
                End::Unknown | End::Refused => u64::MAX,
            };
            other.called < until && ended > operation.called
        };
        let mut around = format!("  {operation}   <- can't be placed");
        for other in
            self.operations.iter().filter(overlaps).filter(|o| !std::ptr::eq(**o, operation))
        {
            let _ = write!(around, "\n  {other}");
        }
        LinearError::NotLinearizable { key: String::from_utf8_lossy(self.key).into_owned(), around }
    }
}

impl Step {
    /// The value afterwards; `None` if the answer says that it can't be now.
    fn apply(self, value: Value) -> Option<Value> {
        match self {
            Step::Read(seen) => (seen == value).then_some(value),
            Step::Write(new) => Some(Some(new)),
            Step::Remove(None) => Some(None),
            Step::Remove(Some(was)) => (was == value.is_some()).then_some(None),
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
        match &self.end {
            End::Unknown => write!(f, " called at {}, never answered", self.called),
            End::Refused => write!(f, " called at {}, refused", self.called),
            End::Answered(moment, reply) => {
                write!(f, " called at {}, answered at {moment}: ", self.called)?;
                match reply {
                    Reply::Value(Some(value)) => write!(f, "{}", text(value)),
                    Reply::Value(None) => write!(f, "no value"),
                    Reply::Done => write!(f, "done"),
                    Reply::Deleted(was) => {
                        write!(f, "{}", if *was { "gone" } else { "nothing there" })
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

    /// Builds a history from words: `p1=a` calls a put by client 1, `g2`, `d3` call a get, a
    /// delete; `1.` answers client 1 with done, `2:a` with value a, `2:` with none, `3+` and `3-`
    /// say deleted or nothing there, `1x` refuses.
    fn history(words: &str) -> History {
        let mut history = History::default();
        let mut open: BTreeMap<char, OperationId> = BTreeMap::new();
        for word in words.split_whitespace() {
            let letters: Vec<char> = word.chars().collect();
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
                _ => panic!("{word}"),
            }
        }
        history
    }

    fn good(words: &str) {
        assert_eq!(history(words).check(STEPS_MAX), Ok(()), "{words}");
    }

    fn bad(words: &str) {
        let judged = history(words).check(STEPS_MAX);
        assert!(matches!(judged, Err(LinearError::NotLinearizable { .. })), "{words}: {judged:?}");
    }

    #[test]
    fn histories_in_order_are_accepted() {
        good("");
        good("g1 1:");
        good("p1=a 1. g1 1:a d1 1+ g1 1: d1 1-");
    }

    #[test]
    fn overlapping_operations_may_take_either_order() {
        good("p1=a p2=b 1. 2. g1 1:a");
        good("p1=a p2=b 1. 2. g1 1:b");
        good("p1=a g2 g3 2:a 3: 1.");
        good("p1=a 1. p1=b d2 2+ 1. g2 2:b");
    }

    #[test]
    fn a_stale_read_is_rejected() {
        bad("p1=a 1. p1=b 1. g2 2:a");
        bad("p1=a 1. g2 2:");
    }

    #[test]
    fn a_value_that_nobody_put_is_rejected() {
        bad("g1 1:a");
        bad("p1=a 1. g1 1:b");
    }

    #[test]
    fn reads_may_not_go_back_in_time() {
        // The put still runs, but once a read has seen it, a later one must too.
        bad("p1=a 1. p1=b g2 2:b g3 3:a 1.");
        bad("p1=a p2=b 1. 2. g3 3:a g3 3:b");
    }

    #[test]
    fn a_put_that_took_effect_twice_is_rejected() {
        bad("p1=a 1. p2=b 2. g3 3:b g3 3:a");
        bad("p1=a 1. d1 1+ g2 2:a");
    }

    #[test]
    fn unknown_outcomes_take_effect_later_or_never() {
        good("p1=a 1. p2=b g1 1:a g1 1:a");
        good("p1=a 1. p2=b g1 1:a g1 1:b g1 1:b");
        bad("p1=a 1. p2=b g1 1:b g1 1:a");
        // Called only after the read was answered.
        bad("g1 1:b p2=b");
    }

    #[test]
    fn refused_operations_never_take_effect() {
        good("p1=a 1. p2=b 2x g1 1:a");
        bad("p1=a 1. p2=b 2x g1 1:b");
    }

    #[test]
    fn deletes_say_whether_there_was_anything() {
        bad("p1=a 1. d2 2-");
        bad("d1 1+");
        bad("p1=a 1. d1 1+ d2 2+");
        good("p1=a 1. d1 d2 1+ 2-");
        bad("p1=a 1. d1 d2 1+ 2+");
    }

    #[test]
    fn keys_are_judged_apart() {
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
    fn a_search_that_is_too_large_says_so() {
        let mut history = History::default();
        for number in 0..40 {
            history.call(bytes("k"), Call::Put(bytes(&number.to_string())));
        }
        for value in ["0", "1", "0"] {
            let get = history.call(bytes("k"), Call::Get);
            history.answer(get, Reply::Value(Some(bytes(value))));
        }
        let error = history.check(10_000).unwrap_err();
        assert!(matches!(error, LinearError::TooLarge { unknown: 40, .. }), "{error}");
    }

    /// Histories of a real register with overlapping clients are accepted, and the same with one
    /// read's answer changed to a value it can't have had are rejected.
    #[test]
    fn random_histories_of_a_register_are_accepted_and_damaged_ones_are_not() {
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
                        let place = rng.place(pending.len());
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
                        let place = rng.place(pending.len());
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
