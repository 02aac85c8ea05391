//! Long strings, divided into chunks. A change of a string copies no more than the chunks that it
//! changes, and those only while a snapshot, a reply or another key shares them, and it hashes only
//! the words that it changes. So the cost of a change does not depend on the length of the string,
//! with one exception: while the string is shared, the list of pointers to its chunks is copied,
//! one pointer for every 32 KiB.
//!
//! The keyspace stores shorter strings together with their keys.

use std::ops::Range;
use std::sync::Arc;

use crate::kv::values::digest::mix;

/// Minimum length in bytes of a string that is divided into chunks. Equal on all replicas, because
/// it determines the hash of a string.
pub(in crate::kv) const LONG_BYTES_MIN: usize = 16 << 10;
/// Length in bytes of each chunk of a long string, except for the last one, which may be shorter.
pub(in crate::kv) const CHUNK_BYTES: usize = 32 << 10;

/// Length in bytes of a word, the unit of the hash of a string.
const WORD_BYTES: usize = 8;
/// Constant factor by which the index of a word is multiplied before it is hashed. Odd, so that
/// different indexes have different products.
const INDEX_FACTOR: u64 = 0xD6E8_FEB8_6659_FD93;
/// Approximate memory overhead of a long string without its chunks, in bytes.
const STRING_BYTES: usize = 112;
/// Approximate memory overhead of a chunk without its bytes, in bytes.
const CHUNK_OVERHEAD_BYTES: usize = 80;

type Chunk = Vec<u8>;

/// A string of at least [`LONG_BYTES_MIN`] bytes. A clone shares the memory of the original, and a
/// change of either copies the chunks that it changes. A string never becomes shorter.
#[derive(Clone)]
pub(in crate::kv) struct LongString(Arc<Content>);

/// Consecutive chunks of a long string. A clone shares their memory.
#[derive(Clone)]
pub(in crate::kv) enum Chunks {
    All(LongString),
    Part(Arc<[Arc<Chunk>]>),
}

/// The content of a long string.
///
/// Invariant: all chunks have [`CHUNK_BYTES`] bytes, except for the last one, which has at least 1.
/// `length` is the sum of their lengths, and `hash` is the sum of the hashes of all words.
#[derive(Clone, Default)]
struct Content {
    chunks: Vec<Arc<Chunk>>,
    /// Length of the string in bytes.
    length: usize,
    /// Sum of the hashes of all words, of which the last is padded with zero bytes. So a change
    /// hashes only the words that it changes. The digest of the string is a hash of this sum and
    /// the length, which distinguishes zero bytes at the end from padding.
    hash: u64,
}

impl LongString {
    /// Returns the length of the string in bytes.
    pub(in crate::kv) fn len(&self) -> usize {
        self.0.length
    }

    /// Returns a hash of the string: equal strings have equal hashes, no matter how they were
    /// built. O(1).
    pub(in crate::kv) fn digest(&self) -> u64 {
        digest_of(self.0.hash, self.0.length)
    }

    /// Returns the approximate memory usage of the string, in bytes. Depends only on the length of
    /// the string, so that it is equal on all replicas: chunks count in full, even if they are
    /// shared.
    pub(in crate::kv) fn bytes(&self) -> usize {
        let last = self.0.length % CHUNK_BYTES;
        STRING_BYTES
            + self.0.chunks.len() * CHUNK_OVERHEAD_BYTES
            + (self.0.length - last)
            + capacity_for(last)
    }

    /// Returns whether a snapshot, a reply or another key shares the string as a whole.
    pub(in crate::kv) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Iterates over the bytes in `range`, which must not extend beyond the end of the string, in
    /// slices of at most [`CHUNK_BYTES`].
    pub(in crate::kv) fn slices(&self, range: Range<usize>) -> impl Iterator<Item = &[u8]> {
        assert!(range.end <= self.len(), "{range:?} of {} bytes", self.len());
        slices_of(&self.0.chunks, range)
    }

    /// Overwrites the string from the byte `at` on with `bytes`, and extends it if it is too short:
    /// bytes between its old end and `at` are zero.
    pub(in crate::kv) fn write(&mut self, at: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let content = Arc::make_mut(&mut self.0);
        content.extend_with_zeros(at);
        let inside = bytes.len().min(content.length - at);
        let (overwriting, appended) = bytes.split_at(inside);
        content.overwrite(at, overwriting);
        content.append(appended);
    }

    /// Extends the string with zero bytes to `length` bytes. Has no effect if it is not shorter.
    pub(in crate::kv) fn extend_with_zeros(&mut self, length: usize) {
        if length > self.len() {
            Arc::make_mut(&mut self.0).extend_with_zeros(length);
        }
    }
}

impl Chunks {
    /// Iterates over the bytes in `range`, in slices of at most [`CHUNK_BYTES`]. Ends early if the
    /// range extends beyond the last chunk.
    pub(in crate::kv) fn slices(&self, range: Range<usize>) -> impl Iterator<Item = &[u8]> {
        slices_of(self.all(), range)
    }

    fn all(&self) -> &[Arc<Chunk>] {
        match self {
            Chunks::All(string) => &string.0.chunks,
            Chunks::Part(chunks) => chunks,
        }
    }

    /// Returns the chunks that contain the bytes in `range`, and the range counted from the start
    /// of the first of these chunks. If these are all chunks of the string, shares the whole
    /// string.
    pub(in crate::kv) fn part(&self, range: Range<usize>) -> (Chunks, Range<usize>) {
        let (first, end) = (range.start / CHUNK_BYTES, range.end.div_ceil(CHUNK_BYTES));
        if (first, end) == (0, self.all().len()) {
            return (self.clone(), range);
        }
        let start = first * CHUNK_BYTES;
        let chunks = Arc::from(&self.all()[first..end]);
        (Chunks::Part(chunks), range.start - start..range.end - start)
    }
}

/// Iterates over the bytes in `range` of consecutive chunks, counted from the first of them.
fn slices_of(chunks: &[Arc<Chunk>], range: Range<usize>) -> impl Iterator<Item = &[u8]> {
    let first = range.start / CHUNK_BYTES;
    let chunks = chunks.iter().enumerate().skip(first);
    chunks
        .map(move |(at, chunk)| {
            let start = at * CHUNK_BYTES;
            let from = range.start.max(start) - start;
            let to = range.end.saturating_sub(start).min(chunk.len());
            chunk.get(from..to).unwrap_or_default()
        })
        .take_while(|slice| !slice.is_empty())
}

impl From<&[u8]> for LongString {
    /// Copies `bytes` into a new long string. If `bytes` are too few for a long string, the caller
    /// must extend the string before storing it.
    fn from(bytes: &[u8]) -> LongString {
        let mut content = Content::default();
        content.append(bytes);
        LongString(Arc::new(content))
    }
}

impl Content {
    /// Overwrites existing bytes from the byte `at` on.
    fn overwrite(&mut self, mut at: usize, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (index, from) = (at / CHUNK_BYTES, at % CHUNK_BYTES);
            let to = (from + bytes.len()).min(CHUNK_BYTES);
            let (now, rest) = bytes.split_at(to - from);
            self.change(index, from..to, |chunk| chunk[from..to].copy_from_slice(now));
            (at, bytes) = (at + now.len(), rest);
        }
    }

    fn append(&mut self, mut bytes: &[u8]) {
        self.chunks.reserve(bytes.len() / CHUNK_BYTES);
        while !bytes.is_empty() {
            let from = self.length % CHUNK_BYTES;
            let (now, rest) = bytes.split_at(bytes.len().min(CHUNK_BYTES - from));
            self.extend_last(now.len(), |chunk| chunk.extend_from_slice(now));
            bytes = rest;
        }
    }

    /// Extends the string with zero bytes to `length` bytes. Has no effect if it is not shorter.
    /// Whole chunks of zero bytes share the memory of one, until they are changed.
    fn extend_with_zeros(&mut self, length: usize) {
        let missing = |content: &Content| length.saturating_sub(content.length);
        let unfilled = self.length.next_multiple_of(CHUNK_BYTES) - self.length;
        self.append_zeros(unfilled.min(missing(self)));
        let count = missing(self) / CHUNK_BYTES;
        if count > 0 {
            let zeros = Arc::new(vec![0; CHUNK_BYTES]);
            self.chunks.extend(std::iter::repeat_n(zeros, count));
            self.length += count * CHUNK_BYTES;
        }
        self.append_zeros(missing(self));
    }

    /// Appends `count` zero bytes, which must fit into the last chunk or into a new one.
    fn append_zeros(&mut self, count: usize) {
        if count > 0 {
            self.extend_last(count, |chunk| chunk.resize(chunk.len() + count, 0));
        }
    }

    /// Extends the last chunk by `count` bytes, which `extend` appends to it and which must fit, or
    /// adds a chunk if the last one is full.
    fn extend_last(&mut self, count: usize, extend: impl FnOnce(&mut Chunk)) {
        let from = self.length % CHUNK_BYTES;
        if from == 0 {
            self.chunks.push(Arc::default());
        }
        let to = from + count;
        self.change(self.chunks.len() - 1, from..to, |chunk| {
            if chunk.capacity() < to {
                chunk.reserve_exact(capacity_for(to) - from);
            }
            extend(chunk);
        });
        self.length += count;
    }

    /// Applies `change` to the chunk with this index, of which it may change only the bytes in
    /// `range`. Copies the chunk first if it is shared, and updates the hash of the string.
    fn change(&mut self, index: usize, range: Range<usize>, change: impl FnOnce(&mut Chunk)) {
        let chunk = &mut self.chunks[index];
        touched::note_change(chunk, &range);
        let chunk = Arc::make_mut(chunk);
        let position = index * CHUNK_BYTES;
        let before = hash_within(chunk, position, range.clone());
        change(chunk);
        let after = hash_within(chunk, position, range);
        self.hash = self.hash.wrapping_sub(before).wrapping_add(after);
    }
}

/// Returns the capacity in bytes of a chunk that contains `length` bytes: up to an eighth more, so
/// that many small appends cost few copies. Depends only on the length, so that the memory usage of
/// a string is equal on all replicas.
fn capacity_for(length: usize) -> usize {
    let step = (length.next_power_of_two() / 16).max(WORD_BYTES);
    length.next_multiple_of(step).min(CHUNK_BYTES)
}

/// Returns the sum of the hashes of the words of `chunk` that contain bytes in `range`, which may
/// extend beyond the end of the chunk. The chunk begins at the byte `position` of the string.
fn hash_within(chunk: &[u8], position: usize, range: Range<usize>) -> u64 {
    let from = range.start / WORD_BYTES * WORD_BYTES;
    let to = range.end.next_multiple_of(WORD_BYTES).min(chunk.len());
    chunk.get(from..to).map_or(0, |bytes| hash_of(bytes, position + from))
}

/// Returns the sum of the hashes of the words in `bytes`, which begin at the byte `position` of a
/// string, a multiple of the length of a word. The last word is padded with zero bytes.
fn hash_of(bytes: &[u8], position: usize) -> u64 {
    touched::note(bytes.len());
    let (words, rest) = bytes.as_chunks::<WORD_BYTES>();
    let mut index = (position / WORD_BYTES) as u64;
    let mut hash = 0_u64;
    for word in words {
        hash = hash.wrapping_add(word_hash(index, u64::from_le_bytes(*word)));
        index += 1;
    }
    let mut last = [0; WORD_BYTES];
    last[..rest.len()].copy_from_slice(rest);
    hash.wrapping_add(word_hash(index, u64::from_le_bytes(last)))
}

/// Returns the hash of the word at `index` of a string: 0 for a zero word, so that extending a
/// string with zero bytes does not change its hash.
fn word_hash(index: u64, word: u64) -> u64 {
    if word == 0 { 0 } else { mix(index.wrapping_mul(INDEX_FACTOR), word) }
}

/// Returns the hash of a long string, given the sum of the hashes of its words and its length. The
/// length distinguishes zero bytes at the end from padding.
fn digest_of(hash: u64, length: usize) -> u64 {
    mix(hash, length as u64)
}

/// Returns the hash that a long string with the content `bytes` would have, without building it.
pub(in crate::kv) fn digest_of_bytes(bytes: &[u8]) -> u64 {
    digest_of(hash_of(bytes, 0), bytes.len())
}

/// Counts the bytes that changes of long strings write, copy and hash, so that tests can check that
/// the work does not depend on the length of the string. Does nothing in other builds.
pub(in crate::kv) mod touched {
    use super::{Arc, Chunk, Range};

    #[cfg(test)]
    thread_local! {
        static BYTES: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }

    #[cfg(test)]
    pub(super) fn note(bytes: usize) {
        BYTES.set(BYTES.get() + bytes);
    }

    #[cfg(not(test))]
    pub(super) const fn note(_bytes: usize) {}

    /// Counts a change of the bytes in `range` of a chunk, and the copies of the chunk that the
    /// change causes: one if the chunk is shared, and one if its memory is too small.
    pub(super) fn note_change(chunk: &Arc<Chunk>, range: &Range<usize>) {
        let is_shared = Arc::strong_count(chunk) > 1;
        let capacity = if is_shared { chunk.len() } else { chunk.capacity() };
        let copies = usize::from(is_shared) + usize::from(capacity < range.end);
        note(copies * chunk.len() + range.len());
    }

    /// Returns the number of bytes that this thread has written, copied and hashed since the last
    /// call.
    #[cfg(test)]
    pub(in crate::kv) fn take() -> usize {
        BYTES.take()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn long(length: usize) -> LongString {
        let bytes: Vec<u8> = (1..=251).cycle().take(length).collect();
        LongString::from(&bytes[..])
    }

    fn bytes_of(string: &LongString) -> Vec<u8> {
        string.slices(0..string.len()).collect::<Vec<_>>().concat()
    }

    /// Asserts that a string is equal to its model and that its invariants hold.
    fn check(string: &LongString, model: &[u8]) {
        assert!(bytes_of(string) == model, "{} bytes, {} wanted", string.len(), model.len());
        assert_eq!(string.len(), model.len());
        let again = LongString::from(model);
        assert_eq!(string.digest(), again.digest(), "equal strings built differently");
        assert_eq!(string.digest(), digest_of_bytes(model));
        assert_eq!(string.bytes(), again.bytes());
        let (last, others) = string.0.chunks.split_last().expect("not empty");
        assert!(others.iter().all(|chunk| chunk.len() == CHUNK_BYTES));
        assert!((1..=CHUNK_BYTES).contains(&last.len()));
        for range in [0..1, model.len() / 3..model.len() / 2, model.len() - 1..model.len()] {
            let slices: Vec<&[u8]> = string.slices(range.clone()).collect();
            assert!(slices.concat() == model[range.clone()], "{range:?}");
        }
    }

    /// Returns the number of chunks that only `one` of two strings has.
    fn own_chunk_count(one: &LongString, other: &LongString) -> usize {
        let is_shared = |chunk: &Arc<Chunk>| other.0.chunks.iter().any(|it| Arc::ptr_eq(it, chunk));
        one.0.chunks.iter().filter(|chunk| !is_shared(chunk)).count()
    }

    #[derive(Debug, Clone)]
    enum Change {
        Write(usize, Vec<u8>),
        ExtendWithZeros(usize),
    }

    fn change() -> impl Strategy<Value = Change> {
        let place = || {
            let near = (0..4_usize, 0..20_usize)
                .prop_map(|(chunk, by)| (chunk * CHUNK_BYTES + by).saturating_sub(10));
            prop_oneof![near, 0..4 * CHUNK_BYTES]
        };
        let bytes = prop_oneof![
            3 => proptest::collection::vec(any::<u8>(), 0..40),
            1 => (any::<u8>(), 0..3 * CHUNK_BYTES).prop_map(|(byte, count)| vec![byte; count]),
        ];
        prop_oneof![
            4 => (place(), bytes).prop_map(|(at, bytes)| Change::Write(at, bytes)),
            1 => place().prop_map(Change::ExtendWithZeros),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn long_string_writes_match_a_byte_vector_model(
            changes in proptest::collection::vec(change(), 1..25),
        ) {
            let mut string = long(LONG_BYTES_MIN);
            let mut model = bytes_of(&string);
            let mut seen = Vec::new();
            for change in &changes {
                match change {
                    Change::Write(at, bytes) if !bytes.is_empty() => {
                        string.write(*at, bytes);
                        model.resize(model.len().max(at + bytes.len()), 0);
                        model[*at..at + bytes.len()].copy_from_slice(bytes);
                    }
                    Change::Write(at, bytes) => string.write(*at, bytes),
                    Change::ExtendWithZeros(length) => {
                        string.extend_with_zeros(*length);
                        model.resize(model.len().max(*length), 0);
                    }
                }
                check(&string, &model);
                seen.push((string.clone(), model.clone()));
            }
            // Clones that were made earlier have not changed.
            for (string, model) in &seen {
                check(string, model);
            }
        }
    }

    #[test]
    fn long_string_write_copies_only_the_shared_chunks_it_changes() {
        let mut string = long(512 * CHUNK_BYTES);
        let view = string.clone();
        touched::take();
        string.write(100 * CHUNK_BYTES + 5, b"one");
        assert_eq!(touched::take(), CHUNK_BYTES + 3 + 2 * WORD_BYTES, "the chunk, then two words");
        assert_eq!(own_chunk_count(&string, &view), 1);
        string.write(100 * CHUNK_BYTES + 50, b"two");
        assert_eq!(touched::take(), 3 + 2 * WORD_BYTES, "the chunk was copied before");
        string.write(300 * CHUNK_BYTES - 2, b"four");
        assert_eq!(own_chunk_count(&string, &view), 3);
        drop(view);
        touched::take();
        string.write(7 * CHUNK_BYTES, b"alone");
        assert_eq!(touched::take(), 5 + 2 * WORD_BYTES, "nothing is shared any more");
    }

    #[test]
    fn part_of_a_long_string_references_only_its_own_chunks() {
        let string = long(10 * CHUNK_BYTES);
        let whole = bytes_of(&string);
        let range = 3 * CHUNK_BYTES + 5..5 * CHUNK_BYTES;
        let (part, within) = Chunks::All(string.clone()).part(range.clone());
        let (nested, inner) = part.part(within.start + CHUNK_BYTES..within.end);
        assert!(part.slices(within).collect::<Vec<_>>().concat() == whole[range.clone()]);
        let end = range.start + CHUNK_BYTES..range.end;
        assert!(nested.slices(inner).collect::<Vec<_>>().concat() == whole[end]);
        let owners = string.0.chunks.iter().map(Arc::strong_count).collect::<Vec<_>>();
        assert_eq!(owners, [1, 1, 1, 2, 3, 1, 1, 1, 1, 1]);
        assert_eq!(Arc::strong_count(&string.0), 1, "no part keeps the whole string");
    }

    #[test]
    fn small_appends_to_a_long_string_cost_linear_work() {
        let mut string = long(64 * CHUNK_BYTES);
        touched::take();
        for _ in 0..4 * CHUNK_BYTES / 8 {
            string.write(string.len(), b"8 bytes.");
        }
        let most = 16 * 4 * CHUNK_BYTES;
        assert!(touched::take() < most, "fewer than 16 bytes for each appended one");
        assert_eq!(string.len(), 68 * CHUNK_BYTES);
    }

    #[test]
    fn zero_filled_gap_of_a_long_string_shares_one_chunk() {
        let mut string = long(LONG_BYTES_MIN);
        touched::take();
        string.write(10_000 * CHUNK_BYTES, b"end");
        assert!(
            touched::take() < 2 * CHUNK_BYTES,
            "the last chunk is filled, the others are shared"
        );
        let (first, second) = (&string.0.chunks[1], &string.0.chunks[9_999]);
        assert!(Arc::ptr_eq(first, second));
        let whole = bytes_of(&string);
        assert_eq!(string.digest(), digest_of_bytes(&whole));
        string.write(5_000 * CHUNK_BYTES, b"x");
        assert_eq!(
            string.slices(5_001 * CHUNK_BYTES..5_001 * CHUNK_BYTES + 1).next(),
            Some(&[0][..])
        );
    }

    #[test]
    fn similar_long_strings_have_different_digests() {
        let mut seen = BTreeSet::new();
        let base = vec![7; 2 * CHUNK_BYTES];
        let mut strings = vec![base.clone(), vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES + 1]];
        for at in [0, 1, 8, 9, 4_000, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 8] {
            for bit in 0..8 {
                let mut changed = base.clone();
                changed[at] ^= 1 << bit;
                strings.push(changed);
            }
            let mut shorter = base.clone();
            shorter.truncate(at + LONG_BYTES_MIN);
            strings.push(shorter);
        }
        // Two words of different content, in either order.
        for (one, other) in [(0, 8), (8, 0), (16, CHUNK_BYTES)] {
            let mut changed = base.clone();
            changed[one..one + 8].copy_from_slice(b"abcdefgh");
            changed[other..other + 8].copy_from_slice(b"ABCDEFGH");
            strings.push(changed);
        }
        for string in &strings {
            assert!(seen.insert(digest_of_bytes(string)), "{} bytes", string.len());
        }
    }

    #[test]
    fn chunk_capacity_exceeds_its_length_by_at_most_an_eighth() {
        for length in 1..=CHUNK_BYTES {
            let capacity = capacity_for(length);
            assert!((length..=CHUNK_BYTES).contains(&capacity), "{length}: {capacity}");
            assert!(capacity - length <= (length / 8).max(WORD_BYTES), "{length}: {capacity}");
        }
    }
}
