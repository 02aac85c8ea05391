//! The entries of a stream, divided into chunks. Snapshots share the chunks of a long stream, so a
//! change copies one chunk instead of all entries.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};

use super::id::StreamId;
use crate::kv::values::codec::{put_bytes, put_number, take_bytes, take_number};
use crate::kv::values::digest::{Digest, fingerprint};
use crate::kv::values::element::Element;

/// Maximum number of entries that are added to a chunk, including those that were deleted since: as
/// in Redis, whose setting `stream-node-max-entries` is 100 by default.
const CHUNK_LEN_MAX: usize = 100;
/// Total length in bytes of the entries of a chunk from which on no further entry is added to it:
/// as in Redis, whose setting `stream-node-max-bytes` is 4096 by default.
const CHUNK_BYTES_MAX: usize = 4_096;
/// Approximate memory usage of one entry, in bytes, including its fields if they are short.
const ENTRY_BYTES: usize = 56;
/// Approximate memory overhead of a chunk, in bytes.
const CHUNK_BYTES: usize = 96;
/// Salt of the hashes of chunks, which distinguishes them from those of entries.
const CHUNK_SALT: u64 = 0x6368_756E_6B00_0001;

/// The fields and values of an entry, in the order in which they were added: the encoding of each
/// field and of its value, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::kv) struct Fields(Element);

/// An entry of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::kv) struct StreamEntry {
    pub(in crate::kv) id: StreamId,
    pub(in crate::kv) fields: Fields,
}

/// Consecutive entries of a stream.
///
/// Invariant: there is at least one entry, and their ids ascend.
#[derive(Debug, Clone)]
struct Chunk {
    entries: Vec<StreamEntry>,
    /// The id of the first entry that was added to the chunk, which may have been deleted since.
    start: StreamId,
    /// The id of the last entry that was added to the chunk, which may have been deleted since.
    end: StreamId,
    /// Number of entries that were added to the chunk, at most [`CHUNK_LEN_MAX`].
    added: usize,
    /// Total length in bytes of the entries that were added.
    added_bytes: usize,
}

/// The entries of a stream, ordered by id.
///
/// Invariant: ids ascend from chunk to chunk, also `start` and `end`. `length` is the number of
/// entries, `bytes` their memory usage, and `digest` the sum of the hashes of entries and chunks.
/// The division into chunks decides how many entries an approximate trim removes, so it is part of
/// the replicated state.
#[derive(Debug, Clone, Default)]
pub(in crate::kv) struct Entries {
    chunks: VecDeque<Arc<Chunk>>,
    length: usize,
    bytes: usize,
    digest: Digest,
}

/// Which entries a trim removes from the start of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kv) enum Trim {
    /// All but this number of entries.
    Length(u64),
    /// All entries with lower ids.
    MinId(StreamId),
}

impl Fields {
    /// Returns the fields and values, which are given alternately.
    pub(in crate::kv) fn new(fields_and_values: &[&[u8]]) -> Fields {
        let length = fields_and_values.iter().map(|it| it.len() + 2).sum();
        let mut bytes = Vec::with_capacity(length);
        for item in fields_and_values {
            put_bytes(item, &mut bytes);
        }
        Fields(bytes[..].into())
    }

    /// Returns the fields and values, alternately. They share one piece of memory.
    pub(in crate::kv) fn to_shared(&self) -> Vec<Option<Bytes>> {
        let all = self.0.to_shared();
        let mut rest = &all[..];
        let mut items = Vec::new();
        while let Some(item) = take_bytes(&mut rest) {
            let end = all.len() - rest.len();
            items.push(Some(all.slice(end - item.len()..end)));
        }
        items
    }

    /// Returns whether the bytes are an even number of encoded items.
    fn are_valid(mut bytes: &[u8]) -> bool {
        let mut count = 0;
        while !bytes.is_empty() {
            if take_bytes(&mut bytes).is_none() {
                return false;
            }
            count += 1;
        }
        count > 0 && count % 2 == 0
    }
}

impl StreamEntry {
    fn fingerprint(&self) -> u64 {
        fingerprint(self.id.hash(0), &self.fields.0)
    }

    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.fields.0.allocated_bytes()
    }
}

impl Chunk {
    fn is_full(&self) -> bool {
        self.added >= CHUNK_LEN_MAX || self.added_bytes >= CHUNK_BYTES_MAX
    }

    fn position(&self, id: StreamId) -> usize {
        self.entries.partition_point(|entry| entry.id < id)
    }
}

impl Entries {
    pub(in crate::kv) fn len(&self) -> usize {
        self.length
    }

    pub(in crate::kv) fn chunk_count(&self) -> usize {
        self.chunks.len()
    }

    pub(in crate::kv) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(in crate::kv) fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns the entry with the lowest id; `None` if there are no entries.
    pub(in crate::kv) fn first(&self) -> Option<&StreamEntry> {
        self.chunks.front()?.entries.first()
    }

    /// Returns the entry with the highest id; `None` if there are no entries.
    pub(in crate::kv) fn last(&self) -> Option<&StreamEntry> {
        self.chunks.back()?.entries.last()
    }

    /// Adds an entry, whose id must be higher than that of every entry ever added.
    pub(in crate::kv) fn push(&mut self, id: StreamId, fields: Fields) {
        let entry = StreamEntry { id, fields };
        let length = entry.fields.0.len();
        self.length += 1;
        self.bytes += entry.bytes();
        self.digest.add(entry.fingerprint());
        if let Some(chunk) = self.chunks.back_mut().filter(|chunk| !chunk.is_full()) {
            assert!(id > chunk.end, "{id} follows {}", chunk.end);
            let chunk = Arc::make_mut(chunk);
            chunk.entries.push(entry);
            chunk.end = id;
            chunk.added += 1;
            chunk.added_bytes += length;
        } else {
            let (entries, added, added_bytes) = (vec![entry], 1, length);
            self.add_chunk(Chunk { entries, start: id, end: id, added, added_bytes });
        }
    }

    fn add_chunk(&mut self, chunk: Chunk) {
        self.bytes += CHUNK_BYTES;
        self.digest.add(chunk.start.hash(CHUNK_SALT));
        self.chunks.push_back(Arc::new(chunk));
    }

    /// Updates the sums after a chunk was removed from the list of chunks.
    fn forget(&mut self, chunk: &Chunk) {
        self.bytes -= CHUNK_BYTES;
        self.digest.remove(chunk.start.hash(CHUNK_SALT));
        for entry in &chunk.entries {
            self.forget_entry(entry);
        }
    }

    fn forget_entry(&mut self, entry: &StreamEntry) {
        self.length -= 1;
        self.bytes -= entry.bytes();
        self.digest.remove(entry.fingerprint());
    }

    /// Returns the index of the first chunk whose `end` is not below `id`.
    fn chunk_of(&self, id: StreamId) -> usize {
        match self.chunks.back() {
            Some(last) if last.start <= id => self.chunks.len() - usize::from(last.end >= id),
            _ => self.chunks.partition_point(|chunk| chunk.end < id),
        }
    }

    /// Returns the entry with this id; `None` if there is none.
    pub(in crate::kv) fn get(&self, id: StreamId) -> Option<&StreamEntry> {
        let chunk = self.chunks.get(self.chunk_of(id))?;
        chunk.entries.get(chunk.position(id)).filter(|entry| entry.id == id)
    }

    /// Removes the entry with this id. Returns whether there was one.
    pub(in crate::kv) fn remove(&mut self, id: StreamId) -> bool {
        if self.get(id).is_none() {
            return false;
        }
        let at = self.chunk_of(id);
        if self.chunks[at].entries.len() == 1 {
            let chunk = self.chunks.remove(at).expect("it has the entry");
            self.forget(&chunk);
        } else {
            let chunk = Arc::make_mut(&mut self.chunks[at]);
            let entry = chunk.entries.remove(chunk.position(id));
            self.forget_entry(&entry);
        }
        true
    }

    /// Iterates over the entries with ids from `from` to `to` (inclusive), in ascending order.
    pub(in crate::kv) fn range(
        &self,
        from: StreamId,
        to: StreamId,
    ) -> impl Iterator<Item = &StreamEntry> {
        let at = self.chunk_of(from);
        let within = self.chunks.get(at).map_or(0, |chunk| chunk.position(from));
        let entries = self.chunks.range(at..).flat_map(|chunk| chunk.entries.iter());
        entries.skip(within).take_while(move |entry| entry.id <= to)
    }

    /// Iterates over the entries with ids from `to` down to `from` (inclusive), in descending
    /// order.
    pub(in crate::kv) fn range_rev(
        &self,
        from: StreamId,
        to: StreamId,
    ) -> impl Iterator<Item = &StreamEntry> {
        let end = (self.chunk_of(to) + 1).min(self.chunks.len());
        let entries = self.chunks.range(..end).rev().flat_map(|chunk| chunk.entries.iter().rev());
        entries.skip_while(move |entry| entry.id > to).take_while(move |entry| entry.id >= from)
    }

    /// Removes entries from the start of the stream, and returns their number. If `is_approximate`,
    /// removes only whole chunks. If `limit` is not 0, stops before a chunk with which more than
    /// `limit` entries would be removed.
    pub(in crate::kv) fn trim(&mut self, trim: Trim, is_approximate: bool, limit: u64) -> usize {
        let before = self.length;
        while let Some(chunk) = self.chunks.front() {
            let (length, count) = (self.length as u64, chunk.entries.len());
            let removed = before - self.length + count;
            if matches!(trim, Trim::Length(most) if length <= most)
                || limit != 0 && removed as u64 > limit
            {
                break;
            }
            let removes_chunk = match trim {
                Trim::Length(most) => length - count as u64 >= most,
                Trim::MinId(id) => chunk.end < id,
            };
            if removes_chunk {
                let chunk = self.chunks.pop_front().expect("there is a first chunk");
                self.forget(&chunk);
                continue;
            }
            if !is_approximate {
                self.trim_first_chunk(trim);
            }
            break;
        }
        before - self.length
    }

    /// Removes entries of the first chunk, which has an entry that is not removed or was deleted
    /// before.
    fn trim_first_chunk(&mut self, trim: Trim) {
        let chunk = &self.chunks[0];
        let count = match trim {
            Trim::Length(most) => self.length - usize::try_from(most).unwrap_or(self.length),
            Trim::MinId(id) => chunk.position(id),
        };
        if count >= chunk.entries.len() {
            let chunk = self.chunks.pop_front().expect("there is a first chunk");
            self.forget(&chunk);
        } else if count > 0 {
            let removed: Vec<StreamEntry> =
                Arc::make_mut(&mut self.chunks[0]).entries.drain(..count).collect();
            for entry in &removed {
                self.forget_entry(entry);
            }
        }
    }

    /// Appends the entries to `out`, encoded for a snapshot: the number of chunks, and for each
    /// chunk its start, its end, the number and the length of the added entries, the number of
    /// entries, and the entries.
    pub(in crate::kv) fn encode(&self, out: &mut Vec<u8>) {
        put_number(self.chunks.len() as u64, out);
        for chunk in &self.chunks {
            chunk.start.encode(out);
            chunk.end.encode_after(chunk.start, out);
            put_number(chunk.added as u64, out);
            put_number(chunk.added_bytes as u64, out);
            put_number(chunk.entries.len() as u64, out);
            let mut before = chunk.start;
            for entry in &chunk.entries {
                entry.id.encode_after(before, out);
                put_bytes(&entry.fields.0, out);
                before = entry.id;
            }
        }
    }

    /// Decodes entries that [`Entries::encode`] encoded, and removes them from the front of `from`;
    /// `None` if the bytes are malformed.
    pub(in crate::kv) fn decode(from: &mut &[u8]) -> Option<Entries> {
        let mut entries = Entries::default();
        for _ in 0..take_number(from)? {
            let chunk = Chunk::decode(from)?;
            if entries.chunks.back().is_some_and(|last| last.end >= chunk.start) {
                return None;
            }
            for entry in &chunk.entries {
                entries.length += 1;
                entries.bytes += entry.bytes();
                entries.digest.add(entry.fingerprint());
            }
            entries.add_chunk(chunk);
        }
        Some(entries)
    }
}

#[cfg(test)]
impl Entries {
    /// Returns the number of chunks that are the same memory as chunks of `other`.
    pub(in crate::kv) fn shared_chunks(&self, other: &Entries) -> usize {
        let is_shared =
            |chunk: &&Arc<Chunk>| other.chunks.iter().any(|one| Arc::ptr_eq(one, chunk));
        self.chunks.iter().filter(is_shared).count()
    }
}

impl Chunk {
    fn decode(from: &mut &[u8]) -> Option<Chunk> {
        let start = StreamId::decode(from)?;
        let end = StreamId::decode_after(start, from)?;
        let added = usize::try_from(take_number(from)?).ok()?;
        let added_bytes = usize::try_from(take_number(from)?).ok()?;
        let count = usize::try_from(take_number(from)?).ok()?;
        if !(1..=added).contains(&count) || added > CHUNK_LEN_MAX || from.remaining() < count {
            return None;
        }
        let mut entries: Vec<StreamEntry> = Vec::with_capacity(count);
        for _ in 0..count {
            let last = entries.last().map(|last| last.id);
            let id = StreamId::decode_after(last.unwrap_or(start), from)?;
            let bytes = take_bytes(from)?;
            if last == Some(id) || id > end || !Fields::are_valid(bytes) {
                return None;
            }
            entries.push(StreamEntry { id, fields: Fields(bytes.into()) });
        }
        Some(Chunk { entries, start, end, added, added_bytes })
    }
}
