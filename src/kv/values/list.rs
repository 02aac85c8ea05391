//! Lists: values in order, divided into chunks. Snapshots share the chunks of a long list, so a
//! change copies one chunk instead of the whole list.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _};

use crate::kv::values::codec::{put_bytes, take_bytes};
use crate::kv::values::content::Content;
use crate::kv::values::digest::{key_hash, mix};
use crate::kv::values::element::Element;

/// Maximum number of values in a chunk of a list. A change of a list that a snapshot shares copies
/// one chunk and the list of chunks.
const CHUNK_LEN_MAX: usize = 128;
/// Approximate memory usage of one value of a list, in bytes: its place in a chunk, including the
/// value if it is short.
const VALUE_BYTES: usize = 40;
/// Approximate memory overhead of a list without its values, in bytes.
const LIST_BYTES: usize = 160;

/// Base of the polynomial hash of a list, in which the weight of the value at index i is BASE to
/// the power of i. Odd, so that it has an inverse modulo 2^64.
const BASE: u64 = 0xD134_2543_DE82_EF95;
const BASE_INVERSE: u64 = inverse(BASE);

/// An end of a list: left is before the first value, right is after the last value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kv) enum End {
    Left,
    Right,
}

type Chunk = VecDeque<Element>;

/// A list of values, divided into chunks. A change of a list that a snapshot shares copies only the
/// chunk that it changes.
///
/// Invariant: no chunk is empty. `length` is the number of values, and `value_bytes` is the sum of
/// their lengths in bytes. `hash` is the sum, over all values, of the value's hash times [`BASE`]
/// to the power of its index, and `power` is `BASE` to the power of `length`, so that adding or
/// removing a value at an end does not read the other values.
#[derive(Debug, Clone)]
pub(in crate::kv) struct List {
    chunks: VecDeque<Arc<Chunk>>,
    length: usize,
    value_bytes: usize,
    hash: u64,
    power: u64,
}

/// Returns the multiplicative inverse modulo 2^64 of an odd number. Each iteration of Newton's
/// method doubles the number of correct bits.
const fn inverse(number: u64) -> u64 {
    let mut inverse = number;
    let mut round = 0;
    while round < 5 {
        inverse = inverse.wrapping_mul(2_u64.wrapping_sub(number.wrapping_mul(inverse)));
        round += 1;
    }
    inverse
}

/// Returns the hash of a value, which is multiplied by a weight in the hash of the list.
fn hash_of(value: &[u8]) -> u64 {
    key_hash(value)
}

/// Returns [`BASE`] to the power of `index`, modulo 2^64, which is the weight of the value at this
/// index in the hash of a list.
fn power_of(index: usize) -> u64 {
    let (mut power, mut square, mut left) = (1_u64, BASE, index);
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
        List { chunks: VecDeque::new(), length: 0, value_bytes: 0, hash: 0, power: 1 }
    }
}

impl List {
    pub(in crate::kv) fn len(&self) -> usize {
        self.length
    }

    /// Adds a value at one end of the list.
    pub(in crate::kv) fn push(&mut self, end: End, value: Element) {
        let hash = hash_of(&value);
        self.length += 1;
        self.value_bytes += value.allocated_bytes();
        match end {
            End::Left => {
                self.hash = self.hash.wrapping_mul(BASE).wrapping_add(hash);
                match self.chunks.front_mut().filter(|chunk| chunk.len() < CHUNK_LEN_MAX) {
                    Some(chunk) => Arc::make_mut(chunk).push_front(value),
                    None => self.chunks.push_front(Arc::new(Chunk::from([value]))),
                }
            }
            End::Right => {
                self.hash = self.hash.wrapping_add(hash.wrapping_mul(self.power));
                match self.chunks.back_mut().filter(|chunk| chunk.len() < CHUNK_LEN_MAX) {
                    Some(chunk) => Arc::make_mut(chunk).push_back(value),
                    None => self.chunks.push_back(Arc::new(Chunk::from([value]))),
                }
            }
        }
        self.power = self.power.wrapping_mul(BASE);
    }

    /// Removes and returns the value at one end of the list; `None` if the list is empty.
    pub(in crate::kv) fn pop(&mut self, end: End) -> Option<Element> {
        let value;
        match end {
            End::Left => {
                let chunk = Arc::make_mut(self.chunks.front_mut()?);
                value = chunk.pop_front().expect("no chunk is empty");
                if chunk.is_empty() {
                    self.chunks.pop_front();
                }
                self.hash = self.hash.wrapping_sub(hash_of(&value)).wrapping_mul(BASE_INVERSE);
                self.power = self.power.wrapping_mul(BASE_INVERSE);
            }
            End::Right => {
                let chunk = Arc::make_mut(self.chunks.back_mut()?);
                value = chunk.pop_back().expect("no chunk is empty");
                if chunk.is_empty() {
                    self.chunks.pop_back();
                }
                self.power = self.power.wrapping_mul(BASE_INVERSE);
                self.hash = self.hash.wrapping_sub(hash_of(&value).wrapping_mul(self.power));
            }
        }
        self.length -= 1;
        self.value_bytes -= value.allocated_bytes();
        self.check_empty();
        Some(value)
    }

    /// Iterates over the values from `index` to the right end of the list.
    pub(in crate::kv) fn iter_from(&self, index: usize) -> impl Iterator<Item = &Element> {
        let (chunk, within) = self.locate(index);
        let (first, rest) = match self.chunks.get(chunk) {
            Some(first) => (first.range(within..), self.chunks.range(chunk + 1..)),
            None => (EMPTY.range(..), self.chunks.range(chunk..)),
        };
        first.chain(rest.flat_map(|chunk| chunk.iter()))
    }

    /// Iterates over the values from the right end of the list to the left.
    pub(in crate::kv) fn iter_rev(&self) -> impl Iterator<Item = &Element> {
        self.chunks.iter().rev().flat_map(|chunk| chunk.iter().rev())
    }

    /// Returns two values: the index of the chunk that contains the value at `index`, and the
    /// value's position within this chunk. If `index` is out of range, the first value is the
    /// number of chunks.
    fn locate(&self, index: usize) -> (usize, usize) {
        if index >= self.length {
            return (self.chunks.len(), 0);
        }
        if index < self.length / 2 {
            let mut left = index;
            for (at, chunk) in self.chunks.iter().enumerate() {
                match left.checked_sub(chunk.len()) {
                    None => return (at, left),
                    Some(less) => left = less,
                }
            }
        } else {
            // Distance of `index` from the end of the list, at least 1.
            let mut left = self.length - index;
            for (at, chunk) in self.chunks.iter().enumerate().rev() {
                match chunk.len().checked_sub(left) {
                    Some(within) => return (at, within),
                    None => left -= chunk.len(),
                }
            }
        }
        unreachable!("the chunks have {} values", self.length)
    }

    /// Replaces the value at `index`, which must be less than the length of the list.
    pub(in crate::kv) fn set(&mut self, index: usize, value: Element) {
        let (chunk, within) = self.locate(index);
        self.value_bytes += value.allocated_bytes();
        let hash = hash_of(&value);
        let old = std::mem::replace(&mut Arc::make_mut(&mut self.chunks[chunk])[within], value);
        self.value_bytes -= old.allocated_bytes();
        let change = hash.wrapping_sub(hash_of(&old));
        self.hash = self.hash.wrapping_add(change.wrapping_mul(power_of(index)));
    }

    /// Inserts a value at `index`, before the value that is there now. `index` must not exceed the
    /// length of the list; if it equals the length, appends the value.
    pub(in crate::kv) fn insert(&mut self, index: usize, value: Element) {
        if index == self.length {
            return self.push(End::Right, value);
        }
        let (mut before, mut power) = (0_u64, 1_u64);
        for value in self.iter_from(0).take(index) {
            before = before.wrapping_add(hash_of(value).wrapping_mul(power));
            power = power.wrapping_mul(BASE);
        }
        let behind = self.hash.wrapping_sub(before).wrapping_mul(BASE);
        let own = hash_of(&value).wrapping_mul(power);
        self.hash = before.wrapping_add(own).wrapping_add(behind);
        self.power = self.power.wrapping_mul(BASE);
        let (mut at, mut within) = self.locate(index);
        self.length += 1;
        self.value_bytes += value.allocated_bytes();
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

    /// Removes up to `most` values equal to `wanted`, starting from the end `end` of the list.
    /// Returns the number of removed values.
    pub(in crate::kv) fn remove(&mut self, wanted: &[u8], most: usize, end: End) -> usize {
        let power = match end {
            End::Left => 1,
            End::Right => self.power.wrapping_mul(BASE_INVERSE),
        };
        let (left, hash) = (most, self.hash);
        let mut removal = Removal { wanted, left, end, hash, passed: 0, power };
        let count = self.chunks.len();
        for turn in 0..count {
            if removal.left == 0 {
                break;
            }
            let at = if end == End::Left { turn } else { count - 1 - turn };
            removal.visit(&mut self.chunks[at]);
        }
        let removed = most - removal.left;
        self.hash = removal.hash;
        self.length -= removed;
        self.value_bytes -= removed * Element::allocated_bytes_of(wanted.len());
        self.power = (0..removed).fold(self.power, |power, _| power.wrapping_mul(BASE_INVERSE));
        self.join_small_chunks();
        self.check_empty();
        removed
    }

    /// Asserts that an empty list has the hash and the size of a new list, to detect errors in the
    /// updates of both.
    fn check_empty(&self) {
        if self.length == 0 {
            assert_eq!((self.value_bytes, self.hash, self.power), (0, 0, 1), "of an empty list");
        }
    }

    /// Removes all values except those at the indexes from `from` (inclusive) to `to` (exclusive).
    pub(in crate::kv) fn trim(&mut self, from: usize, to: usize) {
        if to - from < self.length / 2 {
            // Rebuilding is cheaper than removing most values.
            let mut kept = List::default();
            for value in self.iter_from(from).take(to - from) {
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

    /// Removes empty chunks and merges small adjacent chunks, after values were removed from the
    /// middle of the list.
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

/// The state of [`List::remove`] while it visits the values of the list one after another.
struct Removal<'w> {
    wanted: &'w [u8],
    /// Maximum number of values that may still be removed.
    left: usize,
    /// The end of the list at which the removal starts.
    end: End,
    /// Hash of the list without the values removed so far. Removing a value changes the weights of
    /// all values to its right, because their indexes decrease by one.
    hash: u64,
    /// The part of the list's hash that belongs to the values between `end` and the current value.
    passed: u64,
    /// Weight of the current value in the list's hash: [`BASE`] to the power of the value's index.
    power: u64,
}

impl Removal<'_> {
    fn visit(&mut self, chunk: &mut Arc<Chunk>) {
        if !chunk.iter().any(|value| **value == *self.wanted) {
            match self.end {
                End::Left => chunk.iter().for_each(|value| self.keep(value)),
                End::Right => chunk.iter().rev().for_each(|value| self.keep(value)),
            }
            return;
        }
        let chunk = Arc::make_mut(chunk);
        if self.end == End::Left {
            chunk.retain(|value| self.retain(value));
        } else {
            let values = std::mem::take(chunk).into_iter().rev();
            *chunk = values.filter(|value| self.retain(value)).collect();
            chunk.make_contiguous().reverse();
        }
    }

    fn retain(&mut self, value: &Element) -> bool {
        if self.left == 0 || **value != *self.wanted {
            self.keep(value);
            return true;
        }
        self.left -= 1;
        let own = hash_of(value).wrapping_mul(self.power);
        let beyond = self.hash.wrapping_sub(self.passed).wrapping_sub(own);
        self.hash = match self.end {
            End::Left => self.passed.wrapping_add(beyond.wrapping_mul(BASE_INVERSE)),
            End::Right => {
                self.passed = self.passed.wrapping_mul(BASE_INVERSE);
                self.power = self.power.wrapping_mul(BASE_INVERSE);
                self.passed.wrapping_add(beyond)
            }
        };
        false
    }

    fn keep(&mut self, value: &Element) {
        self.passed = self.passed.wrapping_add(hash_of(value).wrapping_mul(self.power));
        let step = if self.end == End::Left { BASE } else { BASE_INVERSE };
        self.power = self.power.wrapping_mul(step);
    }
}

static EMPTY: Chunk = Chunk::new();

impl Content for List {
    fn digest(&self) -> u64 {
        mix(self.hash, self.length as u64)
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

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64_le(self.length as u64);
        self.iter_from(0).for_each(|value| put_bytes(value, out));
    }

    fn decode(from: &mut &[u8]) -> Option<List> {
        let mut list = List::default();
        for _ in 0..from.try_get_u64_le().ok()? {
            list.push(End::Right, take_bytes(from)?.into());
        }
        Some(list).filter(|list| !list.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list_of<V: AsRef<[u8]>>(values: impl IntoIterator<Item = V>) -> List {
        let mut list = List::default();
        for value in values {
            list.push(End::Right, value.as_ref().into());
        }
        list
    }

    /// Asserts that a list is equal to its model and that its invariants hold.
    fn check(list: &List, wanted: &VecDeque<Vec<u8>>) {
        let elements: Vec<Element> = wanted.iter().map(|value| value[..].into()).collect();
        assert_eq!(list.len(), wanted.len());
        assert!(list.iter_from(0).eq(&elements), "{list:?} {wanted:?}");
        assert!(list.iter_rev().eq(elements.iter().rev()));
        for place in [0, 1, wanted.len() / 2, wanted.len().saturating_sub(1), wanted.len() + 3] {
            assert!(list.iter_from(place).eq(elements.iter().skip(place)), "from {place}");
        }
        let again = list_of(wanted);
        assert_eq!(list.digest(), again.digest(), "equal lists built differently");
        assert_eq!(list.bytes(), again.bytes());
        assert_eq!((list.hash, list.power), (again.hash, again.power));
        assert!(list.chunks.iter().all(|chunk| (1..=CHUNK_LEN_MAX).contains(&chunk.len())));
        let mut bytes = Vec::new();
        list.encode(&mut bytes);
        let mut rest = &bytes[..];
        let Some(copy) = List::decode(&mut rest) else { return assert!(list.is_empty()) };
        assert!(rest.is_empty() && copy.iter_from(0).eq(&elements));
    }

    #[derive(Debug, Clone)]
    enum Change {
        Push(End, u8, usize),
        Pop(End, usize),
        Set(prop::sample::Index, u8),
        Insert(prop::sample::Index, u8),
        Remove(u8, usize, End),
        Trim(prop::sample::Index, prop::sample::Index),
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
            1 => (place(), place()).prop_map(|(from, to)| Change::Trim(from, to)),
        ]
    }

    fn value(number: u8) -> Vec<u8> {
        b"ab\0d"[..usize::from(number)].to_vec()
    }

    /// Applies a change to a list and to its model.
    fn apply(list: &mut List, model: &mut VecDeque<Vec<u8>>, change: &Change) {
        let bytes = |number: u8| Element::from(&value(number)[..]);
        match change {
            Change::Push(end, number, times) => {
                for turn in 0..*times {
                    let number = (number + u8::try_from(turn % 4).unwrap()) % 4;
                    list.push(*end, bytes(number));
                    match end {
                        End::Left => model.push_front(value(number)),
                        End::Right => model.push_back(value(number)),
                    }
                }
            }
            Change::Pop(end, times) => {
                for _ in 0..*times {
                    let popped = match end {
                        End::Left => model.pop_front(),
                        End::Right => model.pop_back(),
                    };
                    assert_eq!(list.pop(*end).map(|value| value.to_vec()), popped);
                }
            }
            Change::Set(place, number) if !model.is_empty() => {
                let place = place.index(model.len());
                list.set(place, bytes(*number));
                model[place] = value(*number);
            }
            Change::Set(..) => {}
            Change::Insert(place, number) => {
                let place = place.index(model.len() + 1);
                list.insert(place, bytes(*number));
                model.insert(place, value(*number));
            }
            Change::Remove(number, most, end) => {
                let (wanted, mut removed) = (value(*number), 0);
                let mut retain = |there: &Vec<u8>| {
                    let goes = removed < *most && *there == wanted;
                    removed += usize::from(goes);
                    !goes
                };
                let mut kept: VecDeque<Vec<u8>> = match end {
                    End::Left => model.iter().filter(|value| retain(value)).cloned().collect(),
                    End::Right => {
                        model.iter().rev().filter(|value| retain(value)).cloned().collect()
                    }
                };
                if *end == End::Right {
                    kept.make_contiguous().reverse();
                }
                *model = kept;
                assert_eq!(list.remove(&wanted, *most, *end), removed);
            }
            Change::Trim(from, to) => {
                let (one, other) = (from.index(model.len() + 1), to.index(model.len() + 1));
                let (from, to) = (one.min(other), one.max(other));
                list.trim(from, to);
                *model = model.range(from..to).cloned().collect();
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn list_operations_match_a_vecdeque_model(
            changes in proptest::collection::vec(change(), 1..25),
        ) {
            let (mut list, mut model) = (List::default(), VecDeque::new());
            let mut seen = Vec::new();
            for change in &changes {
                apply(&mut list, &mut model, change);
                check(&list, &model);
                seen.push((list.clone(), model.clone()));
            }
            // Clones that were made earlier have not changed.
            for (list, model) in &seen {
                check(list, model);
            }
        }
    }

    #[test]
    fn list_digest_depends_on_order_and_number_of_elements() {
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
    fn list_write_copies_only_the_chunk_it_changes() {
        let mut list = list_of((0..10_000).map(|number| number.to_string()));
        let view = list.clone();
        list.push(End::Left, b"first"[..].into());
        list.set(5_000, b"other"[..].into());
        list.pop(End::Right);
        let mut shared = list.chunks.iter();
        let of_view = |chunk: &&Arc<Chunk>| view.chunks.iter().any(|one| Arc::ptr_eq(one, chunk));
        let own = shared.by_ref().filter(|chunk| !of_view(chunk)).count();
        assert_eq!(own, 3, "of {}", list.chunks.len());
    }
}
