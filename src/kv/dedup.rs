//! Deduplication table: stores the outcomes of recently applied batches that may be in the log more
//! than once. A repeated batch is answered with its stored outcomes and not applied again.
//!
//! In the server, these are the batches that one replica forwards to another, and may have to send
//! again. A batch that the leader assembles from requests of its own clients enters the log at most
//! once, so it is not stored in the table.
//!
//! The table is part of the replicated state: its content depends only on the log. The number of
//! batches in it is bounded, and the table drops the oldest one in log order first. Keys of batches
//! are unordered, so a batch that is repeated after it was dropped cannot be recognised: a replica
//! must not send a batch again after [`DEDUP_ENTRIES_MAX`] others. The total size of the values in
//! outcomes is bounded too: beyond the bound, the oldest outcomes become [`Outcome::Forgotten`],
//! but the table still records that their batches were applied.
//!
//! The table is not an ordinary map, but laid out for the processor's cache: entries are stored in
//! a queue and are found through hash chains. Servers assign consecutive request ids, and the
//! chains of consecutive ids are adjacent in memory. Nothing is ever removed from a chain: it leads
//! from younger to older entries, so it ends at the first entry number that is no longer in the
//! queue.
//!
//! The queue consists of copy-on-write chunks, which snapshots share. Only the last chunk and
//! chunks whose values are dropped are modified, so only these may have to be copied.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _};

use crate::kv::batch::BATCH_OPERATIONS_MAX;
use crate::kv::commands::outcome::Outcome;
use crate::kv::values::codec::{put_number, take_number};
use crate::kv::values::copy_on_write::CopyOnWrite;
use crate::kv::values::digest::mix;
use crate::types::{ClientId, RequestId, RequestKey};

/// Maximum number of batches (payloads of log entries) whose outcomes the deduplication table
/// stores. Batches in the table are recognised if they are in the log again.
pub const DEDUP_ENTRIES_MAX: usize = 65_536;

/// Maximum total size in bytes of the values (byte strings) in the outcomes that the deduplication
/// table stores. While the total exceeds this limit, the table drops the values of the oldest
/// outcomes, but keeps the keys of their batches, so that it still recognises these batches.
const VALUE_BYTES_MAX: usize = 16 << 20;

/// Initial number of hash chains in the index of the deduplication table.
const CHAINS_MIN: usize = 64;
/// Minimum number of hash chains per entry of the deduplication table. When there are fewer, the
/// number of chains is doubled.
const CHAINS_PER_ENTRY: usize = 2;
/// Number of low bits of a request id that are not hashed, but select one of 64 adjacent hash
/// chains. Consecutive request ids therefore use adjacent memory, which saves cache misses.
const ADJACENT_BITS: u32 = 6;

/// Number of entries in each copy-on-write chunk of the deduplication table's queue; a power of
/// two.
const CHUNK_LEN: usize = 1_024;

/// Sequence number of an entry of the deduplication table. Entries are numbered in log order,
/// starting at 1. Numbers wrap around after 2^32 entries, far more than the table holds at a time.
type EntryNumber = u32;

/// The deduplication table: stores the outcomes of recently applied batches, so that a batch that
/// is in the log twice is applied only once.
///
/// Invariant: `queue` contains at most `capacity` entries, in log order; `first` is the sequence
/// number of its oldest entry. `chains` contains the number of the newest entry of each hash chain,
/// and each entry contains the number of the next older entry of its chain; a number that is not in
/// the queue ends the chain. `with_values` contains, in log order, the numbers of the entries whose
/// outcomes have values, and `value_bytes` is the total size of these values in bytes.
pub(super) struct DedupTable {
    queue: Queue,
    first: EntryNumber,
    chains: Vec<EntryNumber>,
    capacity: usize,
    with_values: VecDeque<EntryNumber>,
    value_bytes: usize,
}

/// An entry of the deduplication table: the key that identifies an applied batch, and the outcomes
/// (results) of the batch's operations.
#[derive(Clone)]
pub(super) struct DedupEntry {
    key: RequestKey,
    /// Sequence number of the next older entry in the same hash chain. The chain ends if the queue
    /// contains no entry with this number.
    older: EntryNumber,
    outcomes: StoredOutcomes,
}

/// The stored outcomes (results) of all operations of a batch, in compact form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StoredOutcomes {
    /// A single outcome and the number of operations that have this outcome. Used if all operations
    /// have the same outcome and it contains no byte strings, or if the batch has only one
    /// operation.
    Equal(Outcome, u32),
    /// One outcome for each operation of the batch, in order; used if the outcomes differ or
    /// contain byte strings.
    List(Arc<[Outcome]>),
}

impl StoredOutcomes {
    fn new(outcomes: &[Outcome]) -> StoredOutcomes {
        let count = u32::try_from(outcomes.len()).expect("limits keep batches far smaller");
        let Some((first, rest)) = outcomes.split_first() else {
            return StoredOutcomes::Equal(Outcome::Done, 0);
        };
        let are_equal = first.value_bytes() == 0 && rest.iter().all(|other| other == first);
        if rest.is_empty() || are_equal {
            return StoredOutcomes::Equal(first.clone(), count);
        }
        StoredOutcomes::List(outcomes.into())
    }

    /// Returns one outcome for each operation of the batch, in order.
    pub(super) fn to_vec(&self) -> Vec<Outcome> {
        match self {
            StoredOutcomes::Equal(outcome, count) => vec![outcome.clone(); *count as usize],
            StoredOutcomes::List(outcomes) => outcomes.to_vec(),
        }
    }

    /// Returns outcomes without content: [`Outcome::Forgotten`] for each operation of the batch.
    fn forgotten(&self) -> StoredOutcomes {
        let count = match self {
            StoredOutcomes::Equal(_, count) => *count,
            StoredOutcomes::List(outcomes) => {
                u32::try_from(outcomes.len()).expect("limits keep batches far smaller")
            }
        };
        StoredOutcomes::Equal(Outcome::Forgotten, count)
    }

    /// Returns the heap memory usage of the outcomes, in bytes.
    fn value_bytes(&self) -> usize {
        match self {
            StoredOutcomes::Equal(outcome, _) => outcome.value_bytes(),
            StoredOutcomes::List(outcomes) => {
                size_of_val(&outcomes[..])
                    + outcomes.iter().map(Outcome::value_bytes).sum::<usize>()
            }
        }
    }
}

/// The entries of the deduplication table, oldest first, in chunks whose memory snapshots share
/// (copy-on-write).
///
/// Invariant: every chunk but the last has [`CHUNK_LEN`] entries; the first `dropped` entries of
/// the first chunk, fewer than `CHUNK_LEN`, have been removed from the queue but are still in
/// memory.
#[derive(Default)]
struct Queue {
    chunks: VecDeque<CopyOnWrite<Vec<DedupEntry>>>,
    dropped: usize,
    len: usize,
}

impl Queue {
    fn get(&self, position: usize) -> Option<&DedupEntry> {
        let position = self.dropped.checked_add(position)?;
        self.chunks.get(position / CHUNK_LEN)?.get().get(position % CHUNK_LEN)
    }

    fn get_mut(&mut self, position: usize) -> Option<&mut DedupEntry> {
        let position = self.dropped.checked_add(position)?;
        self.chunks.get_mut(position / CHUNK_LEN)?.get_mut().get_mut(position % CHUNK_LEN)
    }

    fn push(&mut self, last: DedupEntry) {
        if (self.dropped + self.len).is_multiple_of(CHUNK_LEN) {
            self.chunks.push_back(CopyOnWrite::Exclusive(Vec::with_capacity(CHUNK_LEN)));
        }
        let chunk = self.chunks.back_mut().expect("a chunk was added if the last one was full");
        chunk.get_mut().push(last);
        self.len += 1;
    }

    /// Removes the oldest entry from the queue. Its memory is freed when all entries of its chunk
    /// have been removed.
    fn pop(&mut self) {
        self.len -= 1;
        self.dropped += 1;
        if self.dropped == CHUNK_LEN {
            self.chunks.pop_front();
            self.dropped = 0;
        }
    }
}

/// An immutable copy-on-write view of the deduplication table, from which a snapshot is written.
pub(super) struct DedupView {
    chunks: Vec<Arc<Vec<DedupEntry>>>,
    dropped: usize,
}

impl DedupView {
    /// Iterates over the keys and the stored outcomes of all batches, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&RequestKey, &StoredOutcomes)> {
        let all = self.chunks.iter().flat_map(|chunk| chunk.iter());
        all.skip(self.dropped).map(|entry| (&entry.key, &entry.outcomes))
    }
}

impl DedupTable {
    /// Returns an empty deduplication table that stores up to `capacity` batches. If `capacity` is
    /// 0, the table stores nothing, so a batch that is in the log twice is applied twice.
    pub(super) fn new(capacity: usize) -> DedupTable {
        let queue = Queue::default();
        let (chains, with_values) = (vec![0; CHAINS_MIN], VecDeque::new());
        DedupTable { queue, first: 1, chains, capacity, with_values, value_bytes: 0 }
    }

    /// Returns the stored outcomes (results of the operations) of the batch with this key; `None`
    /// if the deduplication table does not contain the batch.
    pub(super) fn outcomes(&self, key: &RequestKey) -> Option<&StoredOutcomes> {
        let mut number = self.chains[self.chain_of(key)];
        // Bounded by the length of the queue, even if numbers that wrapped around form a cycle.
        for _ in 0..self.queue.len {
            let entry = self.queue.get(self.position(number))?;
            if entry.key == *key {
                return Some(&entry.outcomes);
            }
            number = entry.older;
        }
        None
    }

    /// Adds a batch that was just applied, with its outcomes (results of its operations), to the
    /// deduplication table, which must not contain the batch yet. Removes the oldest batch if the
    /// table is full.
    pub(super) fn insert(&mut self, key: RequestKey, outcomes: &[Outcome]) {
        self.insert_stored(key, StoredOutcomes::new(outcomes));
    }

    /// Adds a batch with its outcomes to the deduplication table, like [`DedupTable::insert`], but
    /// takes the outcomes in compact form.
    pub(super) fn insert_stored(&mut self, key: RequestKey, outcomes: StoredOutcomes) {
        if self.capacity == 0 {
            return;
        }
        debug_assert!(
            self.outcomes(&key).is_none(),
            "{key:?} is in the table, but was applied again"
        );
        if self.queue.len == self.capacity {
            if self.with_values.front() == Some(&self.first) {
                self.forget_oldest_values();
            }
            self.queue.pop();
            self.first = self.first.wrapping_add(1);
        }
        if self.chains.len() < (self.queue.len + 1) * CHAINS_PER_ENTRY {
            self.grow_chains();
        }
        let value_bytes = outcomes.value_bytes();
        let number = self.number(self.queue.len);
        let chain = self.chain_of(&key);
        let older = std::mem::replace(&mut self.chains[chain], number);
        self.queue.push(DedupEntry { key, older, outcomes });
        if value_bytes > 0 {
            self.with_values.push_back(number);
            self.value_bytes += value_bytes;
        }
        while self.value_bytes > VALUE_BYTES_MAX {
            self.forget_oldest_values();
        }
    }

    /// Drops the outcomes of the oldest batch whose outcomes still contain byte strings, and stores
    /// [`Outcome::Forgotten`] instead.
    fn forget_oldest_values(&mut self) {
        let number = self.with_values.pop_front().expect("called only if `value_bytes` is above 0");
        let position = self.position(number);
        let entry =
            self.queue.get_mut(position).expect("entries leave `with_values` before the queue");
        self.value_bytes -= entry.outcomes.value_bytes();
        entry.outcomes = entry.outcomes.forgotten();
        assert_eq!(self.value_bytes == 0, self.with_values.is_empty(), "accounting of values");
    }

    /// Iterates over the keys and the stored outcomes of all batches, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&RequestKey, &StoredOutcomes)> {
        let all = self.queue.chunks.iter().flat_map(CopyOnWrite::get);
        all.skip(self.queue.dropped).map(|entry| (&entry.key, &entry.outcomes))
    }

    /// Returns an immutable copy-on-write view of the deduplication table, which shares the memory
    /// of its entries.
    pub(super) fn share(&mut self) -> DedupView {
        let Queue { chunks, dropped, .. } = &mut self.queue;
        DedupView { chunks: chunks.iter_mut().map(CopyOnWrite::share).collect(), dropped: *dropped }
    }

    /// Returns the number of batches in the deduplication table.
    pub(super) fn len(&self) -> usize {
        self.queue.len
    }

    /// Returns the approximate memory usage of the deduplication table, in bytes. O(1).
    pub(super) fn memory(&self) -> usize {
        let queue = self.queue.chunks.len() * CHUNK_LEN * size_of::<DedupEntry>();
        let numbers = (self.chains.len() + self.with_values.capacity()) * size_of::<EntryNumber>();
        queue + numbers + self.value_bytes
    }

    /// Doubles the number of hash chains, and puts every entry into its new chain.
    fn grow_chains(&mut self) {
        self.chains = vec![self.first.wrapping_sub(1); self.chains.len() * 2];
        for position in 0..self.queue.len {
            let number = self.number(position);
            let entry = self.queue.get(position).expect("the position is in range");
            let chain = self.chain_of(&entry.key);
            let older = std::mem::replace(&mut self.chains[chain], number);
            self.queue.get_mut(position).expect("the position is in range").older = older;
        }
    }

    fn number(&self, position: usize) -> EntryNumber {
        let position =
            EntryNumber::try_from(position).expect("the table has fewer than 2^32 entries");
        self.first.wrapping_add(position)
    }

    /// Returns the position in the queue of the entry with this number; a position beyond the end
    /// of the queue if the entry was removed.
    fn position(&self, number: EntryNumber) -> usize {
        number.wrapping_sub(self.first) as usize
    }

    fn chain_of(&self, key: &RequestKey) -> usize {
        let ([before, last], []) = key.request.0.as_chunks::<8>() else {
            unreachable!("a request id has 16 bytes")
        };
        // The last bytes of the request ids that servers assign are a counter.
        let (before, last) = (u64::from_be_bytes(*before), u64::from_be_bytes(*last));
        let group = mix(mix(0, before), last >> ADJACENT_BITS);
        let within_group = last & ((1 << ADJACENT_BITS) - 1);
        let chain = group << ADJACENT_BITS | within_group;
        // The number of chains is a power of two.
        let chain = chain & (self.chains.len() as u64 - 1);
        usize::try_from(chain).expect("below the number of chains")
    }
}

/// Appends the key and the outcomes of a batch to `out`, encoded for a snapshot: the key, the
/// number of outcomes with a flag that says whether all are equal, and then either the one outcome
/// or all of them.
pub(super) fn encode_batch(key: &RequestKey, outcomes: &StoredOutcomes, out: &mut Vec<u8>) {
    out.put_u32_le(key.client.0);
    out.put_slice(&key.request.0);
    match outcomes {
        StoredOutcomes::Equal(outcome, count) => {
            put_number(u64::from(*count) << 1 | 1, out);
            outcome.encode(out);
        }
        StoredOutcomes::List(outcomes) => {
            put_number((outcomes.len() as u64) << 1, out);
            outcomes.iter().for_each(|outcome| outcome.encode(out));
        }
    }
}

/// Decodes the key and the outcomes of a batch, encoded by [`encode_batch`], and removes them from
/// the front of `from`; `None` if the bytes are malformed.
pub(super) fn decode_batch(from: &mut &[u8]) -> Option<(RequestKey, StoredOutcomes)> {
    let client = ClientId(from.try_get_u32_le().ok()?);
    let mut request = [0; 16];
    from.try_copy_to_slice(&mut request).ok()?;
    let key = RequestKey { client, request: RequestId(request) };
    let head = take_number(from)?;
    let count = u32::try_from(head >> 1).ok().filter(|it| *it as usize <= BATCH_OPERATIONS_MAX)?;
    let outcomes = if head & 1 == 1 {
        StoredOutcomes::Equal(Outcome::decode(from)?, count)
    } else {
        let outcomes = (0..count).map(|_| Outcome::decode(from)).collect::<Option<Vec<_>>>()?;
        StoredOutcomes::List(outcomes.into())
    };
    Some((key, outcomes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> RequestKey {
        RequestKey { client: ClientId(7), request: RequestId([number; 16]) }
    }

    /// Returns the outcome of a batch that has exactly one outcome; `None` if the batch is not in
    /// the table.
    fn out(table: &DedupTable, key: &RequestKey) -> Option<Outcome> {
        let mut outcomes = table.outcomes(key)?.to_vec();
        assert_eq!(outcomes.len(), 1);
        outcomes.pop()
    }

    #[test]
    fn deduplication_table_drops_the_oldest_entries_first() {
        let mut table = DedupTable::new(3);
        for number in 0..5 {
            assert_eq!(out(&table, &key(number)), None);
            table.insert(key(number), &[Outcome::flag(number % 2 == 0)]);
        }
        assert_eq!(table.len(), 3);
        assert_eq!(out(&table, &key(0)), None);
        assert_eq!(out(&table, &key(1)), None);
        assert_eq!(out(&table, &key(2)), Some(Outcome::flag(true)));
        assert_eq!(out(&table, &key(3)), Some(Outcome::flag(false)));
        assert_eq!(out(&table, &key(4)), Some(Outcome::flag(true)));
    }

    #[test]
    fn deduplication_table_drops_replies_before_request_ids() {
        let mut table = DedupTable::new(4);
        let value = |bytes| Outcome::Value(Some(bytes::Bytes::from(vec![0; bytes])));
        table.insert(key(0), &[value(VALUE_BYTES_MAX - 1)]);
        table.insert(key(1), &[value(1)]);
        assert_eq!(out(&table, &key(0)), Some(value(VALUE_BYTES_MAX - 1)));
        table.insert(key(2), &[value(1)]);
        assert_eq!(out(&table, &key(0)), Some(Outcome::Forgotten));
        assert_eq!(out(&table, &key(1)), Some(value(1)));
        table.insert(key(3), &[value(VALUE_BYTES_MAX + 1)]);
        assert_eq!(out(&table, &key(3)), Some(Outcome::Forgotten));
        assert_eq!((table.value_bytes, table.with_values.len()), (0, 0));
        for number in 4..12 {
            table.insert(key(number), &[value(usize::from(number))]);
        }
        assert_eq!((table.value_bytes, table.with_values.len()), (8 + 9 + 10 + 11, 4));
    }

    #[test]
    fn same_request_id_from_another_client_is_no_duplicate() {
        let mut table = DedupTable::new(3);
        table.insert(key(1), &[Outcome::Done]);
        let other = RequestKey { client: ClientId(8), ..key(1) };
        assert_eq!(out(&table, &other), None);
    }

    /// Compares the table with a vector as a model. Uses consecutive and random request ids, and
    /// lets the number of chains grow.
    #[test]
    fn deduplication_table_matches_a_naive_model() {
        let names = (0..4_000_u64).map(|number| {
            // Batches come from three sources: two with consecutive ids, one with random ids.
            let (source, count) = (number % 3, number / 3);
            let last = if source == 2 { count.wrapping_mul(0x9E37_79B9_7F4A_7C15) } else { count };
            let id = u128::from(source) << 64 | u128::from(last);
            RequestKey { client: ClientId(7), request: RequestId(id.to_be_bytes()) }
        });
        let names: Vec<RequestKey> = names.collect();
        let mut table = DedupTable::new(700);
        // The entry numbers wrap around during the test.
        table.first = EntryNumber::MAX - 1_000;
        table.chains.fill(table.first - 1);
        for (at, name) in names.iter().enumerate() {
            assert_eq!(out(&table, name), None, "{at}");
            table.insert(*name, &[Outcome::count(at)]);
            let known = names[..=at].iter().rev().take(700);
            if at % 97 == 0 {
                for (back, known) in known.enumerate() {
                    let outcome = Outcome::count(at - back);
                    assert_eq!(out(&table, known), Some(outcome), "{back} before {at}");
                }
                let forgotten = at.checked_sub(700).map(|at| &names[at]);
                assert!(forgotten.is_none_or(|name| out(&table, name).is_none()));
            }
        }
        assert_eq!((table.len(), table.chains.len()), (700, 2_048));
    }

    #[test]
    fn copy_on_write_view_of_deduplication_table_is_immutable() {
        let name = |number: usize| {
            let id = RequestId((number as u128).to_be_bytes());
            RequestKey { client: ClientId(7), request: id }
        };
        let value = |number: usize| {
            let value = || bytes::Bytes::from(vec![0; VALUE_BYTES_MAX / 4]);
            Outcome::Value((number % CHUNK_LEN == 9).then(value))
        };
        let capacity = CHUNK_LEN * 3 + 5;
        let mut table = DedupTable::new(capacity);
        let mut shared = Vec::new();
        for number in 0..CHUNK_LEN * 8 {
            table.insert(name(number), &[value(number)]);
            if number % 700 == 699 {
                let entry = || table.iter().map(|(key, outcome)| (*key, outcome.clone()));
                let entry: Vec<_> = entry().collect();
                shared.push((table.share(), entry));
                assert_eq!(table.len(), capacity.min(number + 1));
                assert!(table.queue.chunks.len() <= capacity / CHUNK_LEN + 2);
            }
        }
        for (memory, entry) in shared {
            assert!(memory.iter().eq(entry.iter().map(|(key, outcome)| (key, outcome))));
        }
    }

    #[test]
    fn deduplication_table_of_capacity_0_stays_empty() {
        let mut table = DedupTable::new(0);
        table.insert(key(1), &[Outcome::Done]);
        table.insert(key(1), &[Outcome::Done]);
        assert_eq!((out(&table, &key(1)), table.len()), (None, 0));
    }
}
