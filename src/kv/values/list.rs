//! What a key with a list holds: values in an order, in chunks, so that a view of the state shares
//! a long one and a change copies a chunk and not the list.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes};

use crate::kv::values::codec::{put_bytes, take_bytes};
use crate::kv::values::digest::{key_hash, mix};
use crate::kv::values::object::{Content, Object};

/// Most values in a chunk. What a change costs at most while a view has the list is a copy of one
/// chunk, and of the list of chunks.
const CHUNK_LEN_MAX: usize = 128;
/// What a value takes in memory beside its bytes, about.
const VALUE_BYTES: usize = 64;
/// What a list takes in memory beside its values, about.
const LIST_BYTES: usize = 160;

/// The number whose powers places count as in a digest. Odd, so every power has an inverse.
const BASE: u64 = 0xD134_2543_DE82_EF95;
const BASE_INVERSE: u64 = inverse(BASE);

/// Which end of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kv) enum End {
    Left,
    Right,
}

type Chunk = VecDeque<Bytes>;

/// Values in an order.
///
/// Invariant: no chunk is empty. `length` counts the values, `value_bytes` their bytes. `print` is
/// the sum of each value's number times [`BASE`] to the power of its place, `power` is that of
/// the place behind the last: so an end can come or go without a look at the rest.
#[derive(Debug, Clone)]
pub(in crate::kv) struct List {
    chunks: VecDeque<Arc<Chunk>>,
    length: usize,
    value_bytes: usize,
    print: u64,
    power: u64,
}

/// What times `number`, which is odd, is 1: each round doubles the bits for which that is so.
const fn inverse(number: u64) -> u64 {
    let mut inverse = number;
    let mut round = 0;
    while round < 5 {
        inverse = inverse.wrapping_mul(2_u64.wrapping_sub(number.wrapping_mul(inverse)));
        round += 1;
    }
    inverse
}

/// A value's number.
fn print_of(value: &[u8]) -> u64 {
    key_hash(value)
}

/// The power of a place.
fn power_of(place: usize) -> u64 {
    let (mut power, mut square, mut left) = (1_u64, BASE, place);
    while left > 0 {
        if left & 1 == 1 {
            power = power.wrapping_mul(square);
        }
        square = square.wrapping_mul(square);
        left >>= 1;
    }
    power
}

impl Default for List {
    fn default() -> List {
        List { chunks: VecDeque::new(), length: 0, value_bytes: 0, print: 0, power: 1 }
    }
}

impl List {
    pub(in crate::kv) fn len(&self) -> usize {
        self.length
    }

    /// Puts a value at an end.
    pub(in crate::kv) fn push(&mut self, end: End, value: Bytes) {
        let print = print_of(&value);
        self.length += 1;
        self.value_bytes += value.len();
        match end {
            End::Left => {
                self.print = self.print.wrapping_mul(BASE).wrapping_add(print);
                match self.chunks.front_mut().filter(|chunk| chunk.len() < CHUNK_LEN_MAX) {
                    Some(chunk) => Arc::make_mut(chunk).push_front(value),
                    None => self.chunks.push_front(Arc::new(Chunk::from([value]))),
                }
            }
            End::Right => {
                self.print = self.print.wrapping_add(print.wrapping_mul(self.power));
                match self.chunks.back_mut().filter(|chunk| chunk.len() < CHUNK_LEN_MAX) {
                    Some(chunk) => Arc::make_mut(chunk).push_back(value),
                    None => self.chunks.push_back(Arc::new(Chunk::from([value]))),
                }
            }
        }
        self.power = self.power.wrapping_mul(BASE);
    }

    /// Takes the value at an end, if there is any.
    pub(in crate::kv) fn pop(&mut self, end: End) -> Option<Bytes> {
        let value;
        match end {
            End::Left => {
                let chunk = Arc::make_mut(self.chunks.front_mut()?);
                value = chunk.pop_front().expect("no chunk is empty");
                if chunk.is_empty() {
                    self.chunks.pop_front();
                }
                self.print = self.print.wrapping_sub(print_of(&value)).wrapping_mul(BASE_INVERSE);
                self.power = self.power.wrapping_mul(BASE_INVERSE);
            }
            End::Right => {
                let chunk = Arc::make_mut(self.chunks.back_mut()?);
                value = chunk.pop_back().expect("no chunk is empty");
                if chunk.is_empty() {
                    self.chunks.pop_back();
                }
                self.power = self.power.wrapping_mul(BASE_INVERSE);
                self.print = self.print.wrapping_sub(print_of(&value).wrapping_mul(self.power));
            }
        }
        self.length -= 1;
        self.value_bytes -= value.len();
        Some(value)
    }

    /// The values from that place on.
    pub(in crate::kv) fn from(&self, place: usize) -> impl Iterator<Item = &Bytes> {
        let (chunk, within) = self.locate(place);
        let (first, rest) = match self.chunks.get(chunk) {
            Some(first) => (first.range(within..), self.chunks.range(chunk + 1..)),
            None => (EMPTY.range(..), self.chunks.range(chunk..)),
        };
        first.chain(rest.flat_map(|chunk| chunk.iter()))
    }

    /// The values from the last one on.
    pub(in crate::kv) fn backwards(&self) -> impl Iterator<Item = &Bytes> {
        self.chunks.iter().rev().flat_map(|chunk| chunk.iter().rev())
    }

    /// In which chunk a place is, and where in that; behind the last chunk if there is no such
    /// place.
    fn locate(&self, place: usize) -> (usize, usize) {
        if place >= self.length {
            return (self.chunks.len(), 0);
        }
        if place < self.length / 2 {
            let mut left = place;
            for (at, chunk) in self.chunks.iter().enumerate() {
                match left.checked_sub(chunk.len()) {
                    None => return (at, left),
                    Some(less) => left = less,
                }
            }
        } else {
            // How many values are between the place and the end, itself counted.
            let mut left = self.length - place;
            for (at, chunk) in self.chunks.iter().enumerate().rev() {
                match chunk.len().checked_sub(left) {
                    Some(within) => return (at, within),
                    None => left -= chunk.len(),
                }
            }
        }
        unreachable!("the chunks have {} values", self.length)
    }

    /// Puts another value at a place that is there.
    pub(in crate::kv) fn set(&mut self, place: usize, value: Bytes) {
        let (chunk, within) = self.locate(place);
        self.value_bytes += value.len();
        let print = print_of(&value);
        let old = std::mem::replace(&mut Arc::make_mut(&mut self.chunks[chunk])[within], value);
        self.value_bytes -= old.len();
        let change = print.wrapping_sub(print_of(&old));
        self.print = self.print.wrapping_add(change.wrapping_mul(power_of(place)));
    }

    /// Puts a value in, before the one at that place or at the end.
    pub(in crate::kv) fn insert(&mut self, place: usize, value: Bytes) {
        if place == self.length {
            return self.push(End::Right, value);
        }
        let (mut before, mut power) = (0_u64, 1_u64);
        for value in self.from(0).take(place) {
            before = before.wrapping_add(print_of(value).wrapping_mul(power));
            power = power.wrapping_mul(BASE);
        }
        let behind = self.print.wrapping_sub(before).wrapping_mul(BASE);
        let own = print_of(&value).wrapping_mul(power);
        self.print = before.wrapping_add(own).wrapping_add(behind);
        self.power = self.power.wrapping_mul(BASE);
        let (mut at, mut within) = self.locate(place);
        self.length += 1;
        self.value_bytes += value.len();
        if self.chunks[at].len() >= CHUNK_LEN_MAX {
            let half = CHUNK_LEN_MAX / 2;
            let behind = Arc::make_mut(&mut self.chunks[at]).split_off(half);
            self.chunks.insert(at + 1, Arc::new(behind));
            if within > half {
                (at, within) = (at + 1, within - half);
            }
        }
        Arc::make_mut(&mut self.chunks[at]).insert(within, value);
    }

    /// Removes values that are equal to `wanted`, at most so many, those nearest to an end; how
    /// many.
    pub(in crate::kv) fn remove(&mut self, wanted: &[u8], most: usize, end: End) -> usize {
        let power = match end {
            End::Left => 1,
            End::Right => self.power.wrapping_mul(BASE_INVERSE),
        };
        let (left, print) = (most, self.print);
        let mut removal = Removal { wanted, left, end, print, passed: 0, power };
        let count = self.chunks.len();
        for turn in 0..count {
            if removal.left == 0 {
                break;
            }
            let at = if end == End::Left { turn } else { count - 1 - turn };
            removal.pass(&mut self.chunks[at]);
        }
        let removed = most - removal.left;
        self.print = removal.print;
        self.length -= removed;
        self.value_bytes -= removed * wanted.len();
        self.power = (0..removed).fold(self.power, |power, _| power.wrapping_mul(BASE_INVERSE));
        self.join_small_chunks();
        removed
    }

    /// Keeps the values from one place to before another.
    pub(in crate::kv) fn keep(&mut self, from: usize, to: usize) {
        if to - from < self.length / 2 {
            // Quicker to begin anew.
            let mut kept = List::default();
            for value in self.from(from).take(to - from) {
                kept.push(End::Right, value.clone());
            }
            *self = kept;
            return;
        }
        for _ in to..self.length {
            self.pop(End::Right);
        }
        for _ in 0..from {
            self.pop(End::Left);
        }
    }

    /// So that a list does not end as many chunks of a value each.
    fn join_small_chunks(&mut self) {
        let mut joined: VecDeque<Arc<Chunk>> = VecDeque::with_capacity(self.chunks.len());
        for chunk in self.chunks.drain(..).filter(|chunk| !chunk.is_empty()) {
            match joined.back_mut() {
                Some(last) if last.len() + chunk.len() <= CHUNK_LEN_MAX / 2 => {
                    Arc::make_mut(last).extend(chunk.iter().cloned());
                }
                _ => joined.push_back(chunk),
            }
        }
        self.chunks = joined;
    }
}

/// Values on their way out of a list.
struct Removal<'w> {
    wanted: &'w [u8],
    /// How many more may go.
    left: usize,
    /// From where on they go.
    end: End,
    /// The list's sum. What lies beyond one that goes moves by a place.
    print: u64,
    /// The part of the sum between the end and here.
    passed: u64,
    /// That of the next place.
    power: u64,
}

impl Removal<'_> {
    fn pass(&mut self, chunk: &mut Arc<Chunk>) {
        if !chunk.iter().any(|value| value == self.wanted) {
            match self.end {
                End::Left => chunk.iter().for_each(|value| self.stay(value)),
                End::Right => chunk.iter().rev().for_each(|value| self.stay(value)),
            }
            return;
        }
        let chunk = Arc::make_mut(chunk);
        if self.end == End::Left {
            chunk.retain(|value| self.stays(value));
        } else {
            let values = std::mem::take(chunk).into_iter().rev();
            *chunk = values.filter(|value| self.stays(value)).collect();
            chunk.make_contiguous().reverse();
        }
    }

    fn stays(&mut self, value: &Bytes) -> bool {
        if self.left == 0 || value != self.wanted {
            self.stay(value);
            return true;
        }
        self.left -= 1;
        let own = print_of(value).wrapping_mul(self.power);
        let beyond = self.print.wrapping_sub(self.passed).wrapping_sub(own);
        self.print = match self.end {
            End::Left => self.passed.wrapping_add(beyond.wrapping_mul(BASE_INVERSE)),
            End::Right => {
                self.passed = self.passed.wrapping_mul(BASE_INVERSE);
                self.power = self.power.wrapping_mul(BASE_INVERSE);
                self.passed.wrapping_add(beyond)
            }
        };
        false
    }

    fn stay(&mut self, value: &Bytes) {
        self.passed = self.passed.wrapping_add(print_of(value).wrapping_mul(self.power));
        let step = if self.end == End::Left { BASE } else { BASE_INVERSE };
        self.power = self.power.wrapping_mul(step);
    }
}

static EMPTY: Chunk = Chunk::new();

impl Content for List {
    fn wrap(content: Arc<List>) -> Object {
        Object::List(content)
    }

    fn of(object: &Object) -> Option<&Arc<List>> {
        if let Object::List(list) = object { Some(list) } else { None }
    }

    fn of_mut(object: &mut Object) -> Option<&mut Arc<List>> {
        if let Object::List(list) = object { Some(list) } else { None }
    }

    fn digest(&self) -> u64 {
        mix(self.print, self.length as u64)
    }

    fn bytes(&self) -> usize {
        LIST_BYTES + self.length * VALUE_BYTES + self.value_bytes
    }

    fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn encoding(&self) -> &'static str {
        "quicklist"
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.put_u64_le(self.length as u64);
        self.from(0).for_each(|value| put_bytes(value, out));
    }

    fn read(from: &mut &[u8]) -> Option<List> {
        let mut list = List::default();
        for _ in 0..from.try_get_u64_le().ok()? {
            list.push(End::Right, Bytes::copy_from_slice(take_bytes(from)?));
        }
        Some(list)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list_of<V: AsRef<[u8]>>(values: impl IntoIterator<Item = V>) -> List {
        let mut list = List::default();
        for value in values {
            list.push(End::Right, Bytes::copy_from_slice(value.as_ref()));
        }
        list
    }

    /// What a list is, looked at from both ends, and that it is what it says.
    fn check(list: &List, wanted: &VecDeque<Vec<u8>>) {
        assert_eq!(list.len(), wanted.len());
        assert!(list.from(0).eq(wanted), "{list:?} {wanted:?}");
        assert!(list.backwards().eq(wanted.iter().rev()));
        for place in [0, 1, wanted.len() / 2, wanted.len().saturating_sub(1), wanted.len() + 3] {
            assert!(list.from(place).eq(wanted.iter().skip(place)), "from {place}");
        }
        let again = list_of(wanted);
        assert_eq!(list.digest(), again.digest(), "by another way to the same");
        assert_eq!(list.bytes(), again.bytes());
        assert_eq!((list.print, list.power), (again.print, again.power));
        assert!(list.chunks.iter().all(|chunk| (1..=CHUNK_LEN_MAX).contains(&chunk.len())));
        let mut bytes = Vec::new();
        list.write(&mut bytes);
        let mut rest = &bytes[..];
        let copy = List::read(&mut rest).unwrap();
        assert!(rest.is_empty() && copy.from(0).eq(wanted));
    }

    #[derive(Debug, Clone)]
    enum Change {
        Push(End, u8, usize),
        Pop(End, usize),
        Set(prop::sample::Index, u8),
        Insert(prop::sample::Index, u8),
        Remove(u8, usize, End),
        Keep(prop::sample::Index, prop::sample::Index),
    }

    fn change() -> impl Strategy<Value = Change> {
        let end = || prop_oneof![Just(End::Left), Just(End::Right)];
        let (place, kind) = (any::<prop::sample::Index>, || 0..4_u8);
        let push = (end(), kind(), 0..300_usize);
        let remove = (kind(), 0..200_usize, end());
        prop_oneof![
            4 => push.prop_map(|(end, value, times)| Change::Push(end, value, times)),
            2 => (end(), 0..200_usize).prop_map(|(end, times)| Change::Pop(end, times)),
            2 => (place(), kind()).prop_map(|(place, value)| Change::Set(place, value)),
            3 => (place(), kind()).prop_map(|(place, value)| Change::Insert(place, value)),
            2 => remove.prop_map(|(value, most, end)| Change::Remove(value, most, end)),
            1 => (place(), place()).prop_map(|(from, to)| Change::Keep(from, to)),
        ]
    }

    fn value(number: u8) -> Vec<u8> {
        b"ab\0d"[..usize::from(number)].to_vec()
    }

    /// Does the same to a list and to its naive twin.
    fn apply(list: &mut List, twin: &mut VecDeque<Vec<u8>>, change: &Change) {
        let bytes = |number: u8| Bytes::from(value(number));
        match change {
            Change::Push(end, number, times) => {
                for turn in 0..*times {
                    let number = (number + u8::try_from(turn % 4).unwrap()) % 4;
                    list.push(*end, bytes(number));
                    match end {
                        End::Left => twin.push_front(value(number)),
                        End::Right => twin.push_back(value(number)),
                    }
                }
            }
            Change::Pop(end, times) => {
                for _ in 0..*times {
                    let popped = match end {
                        End::Left => twin.pop_front(),
                        End::Right => twin.pop_back(),
                    };
                    assert_eq!(list.pop(*end).map(Vec::from), popped);
                }
            }
            Change::Set(place, number) if !twin.is_empty() => {
                let place = place.index(twin.len());
                list.set(place, bytes(*number));
                twin[place] = value(*number);
            }
            Change::Set(..) => {}
            Change::Insert(place, number) => {
                let place = place.index(twin.len() + 1);
                list.insert(place, bytes(*number));
                twin.insert(place, value(*number));
            }
            Change::Remove(number, most, end) => {
                let (wanted, mut removed) = (value(*number), 0);
                let mut stays = |there: &Vec<u8>| {
                    let goes = removed < *most && *there == wanted;
                    removed += usize::from(goes);
                    !goes
                };
                let mut kept: VecDeque<Vec<u8>> = match end {
                    End::Left => twin.iter().filter(|value| stays(value)).cloned().collect(),
                    End::Right => twin.iter().rev().filter(|value| stays(value)).cloned().collect(),
                };
                if *end == End::Right {
                    kept.make_contiguous().reverse();
                }
                *twin = kept;
                assert_eq!(list.remove(&wanted, *most, *end), removed);
            }
            Change::Keep(from, to) => {
                let (one, other) = (from.index(twin.len() + 1), to.index(twin.len() + 1));
                let (from, to) = (one.min(other), one.max(other));
                list.keep(from, to);
                *twin = twin.range(from..to).cloned().collect();
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_list_is_what_its_naive_twin_is(changes in proptest::collection::vec(change(), 1..25)) {
            let (mut list, mut twin) = (List::default(), VecDeque::new());
            let mut seen = Vec::new();
            for change in &changes {
                apply(&mut list, &mut twin, change);
                check(&list, &twin);
                seen.push((list.clone(), twin.clone()));
            }
            // What was looked at meanwhile has not changed.
            for (list, twin) in &seen {
                check(list, twin);
            }
        }
    }

    #[test]
    fn order_and_number_of_values_show_in_the_digest() {
        let digest = |values: &[&str]| list_of(values).digest();
        let lists: [&[&str]; 9] = [
            &[],
            &[""],
            &["", ""],
            &["a"],
            &["a", "b"],
            &["b", "a"],
            &["ab"],
            &["a", "b", ""],
            &["", "a", "b"],
        ];
        for (at, one) in lists.iter().enumerate() {
            for other in &lists[at + 1..] {
                assert_ne!(digest(one), digest(other), "{one:?} {other:?}");
            }
        }
        assert_eq!(BASE.wrapping_mul(BASE_INVERSE), 1);
    }

    #[test]
    fn a_change_copies_a_chunk_and_not_the_list() {
        let mut list = list_of((0..10_000).map(|number| number.to_string()));
        let view = list.clone();
        list.push(End::Left, Bytes::from_static(b"first"));
        list.set(5_000, Bytes::from_static(b"other"));
        list.pop(End::Right);
        let mut shared = list.chunks.iter();
        let of_view = |chunk: &&Arc<Chunk>| view.chunks.iter().any(|one| Arc::ptr_eq(one, chunk));
        let own = shared.by_ref().filter(|chunk| !of_view(chunk)).count();
        assert_eq!(own, 3, "of {}", list.chunks.len());
    }
}
