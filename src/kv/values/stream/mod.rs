//! Streams: entries with ascending ids, which consist of fields and values, and consumer groups,
//! which remember how far they have read and which entries are not acknowledged yet.

pub(in crate::kv) mod entries;
pub(in crate::kv) mod group;
pub(in crate::kv) mod id;
pub(in crate::kv) mod id_map;
#[cfg(test)]
mod tests;

use crate::kv::values::codec::{put_number, take_number};
use crate::kv::values::content::Content;
use crate::kv::values::digest::mix;
use entries::{Entries, Fields, Trim};
use group::{Group, Groups};
use id::{PartialId, Sequence, StreamId};

/// Approximate memory usage of a stream without entries and groups, in bytes.
const STREAM_BYTES: usize = 200;

/// A stream. A change of a stream that a snapshot shares copies only the chunk that it changes.
///
/// Unlike other collections, a stream may be empty, because it remembers its last id.
///
/// Invariant: no entry has a higher id than `last_id`, which never falls unless a client sets it.
#[derive(Debug, Clone, Default)]
pub(in crate::kv) struct Stream {
    entries: Entries,
    pub(in crate::kv) groups: Groups,
    last_id: StreamId,
    max_deleted_id: StreamId,
    entries_added: u64,
}

/// The id that an entry is to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kv) enum WantedId {
    /// The time of the replicated clock, in milliseconds since 1970, or the id after the last one
    /// if that is higher.
    At(u64),
    /// This id, whose sequence number may be chosen.
    Given(PartialId),
}

/// Error: the id of a new entry is not higher than the last id of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kv) struct IdTooLow;

impl Stream {
    pub(in crate::kv) fn entries(&self) -> &Entries {
        &self.entries
    }

    /// Returns the id of the first entry; [`StreamId::MIN`] if there is none.
    pub(in crate::kv) fn first_id(&self) -> StreamId {
        self.entries.first().map_or(StreamId::MIN, |entry| entry.id)
    }

    /// Returns the highest id that any entry has ever had, unless a client has set another one.
    pub(in crate::kv) fn last_id(&self) -> StreamId {
        self.last_id
    }

    /// Returns the highest id of an entry that was deleted by its id; [`StreamId::MIN`] if none
    /// was.
    pub(in crate::kv) fn max_deleted_id(&self) -> StreamId {
        self.max_deleted_id
    }

    /// Returns the number of entries that were ever added.
    pub(in crate::kv) fn entries_added(&self) -> u64 {
        self.entries_added
    }

    /// Returns the id that a new entry would get.
    ///
    /// # Errors
    /// If it is not higher than the last id of the stream.
    fn new_id(&self, wanted: WantedId) -> Result<StreamId, IdTooLow> {
        let id = match wanted {
            WantedId::At(now) if now > self.last_id.millis => StreamId::new(now, 0),
            WantedId::At(_) => self.last_id.next().ok_or(IdTooLow)?,
            WantedId::Given(PartialId { millis, sequence: Sequence::Automatic }) => {
                let last = Some(self.last_id).filter(|last| last.millis == millis);
                let sequence = last.map_or(Some(0), |last| last.sequence.checked_add(1));
                StreamId::new(millis, sequence.ok_or(IdTooLow)?)
            }
            WantedId::Given(id) => id.complete(0).ok_or(IdTooLow)?,
        };
        if id > self.last_id { Ok(id) } else { Err(IdTooLow) }
    }

    /// Adds an entry, and returns its id.
    ///
    /// # Errors
    /// If the id is not higher than the last id of the stream.
    pub(in crate::kv) fn add(
        &mut self,
        wanted: WantedId,
        fields: Fields,
    ) -> Result<StreamId, IdTooLow> {
        let id = self.new_id(wanted)?;
        assert!(id > self.last_id, "id {id} follows {}", self.last_id);
        self.entries.push(id, fields);
        self.last_id = id;
        self.entries_added = self.entries_added.wrapping_add(1);
        Ok(id)
    }

    /// Removes entries by their ids, and returns the number of removed entries.
    pub(in crate::kv) fn delete(&mut self, ids: &[StreamId]) -> usize {
        let mut count = 0;
        for id in ids {
            if self.entries.remove(*id) {
                count += 1;
                self.max_deleted_id = self.max_deleted_id.max(*id);
            }
        }
        count
    }

    /// Removes entries from the start of the stream like [`Entries::trim`].
    pub(in crate::kv) fn trim(&mut self, trim: Trim, is_approximate: bool, limit: u64) -> usize {
        self.entries.trim(trim, is_approximate, limit)
    }

    /// Sets the last id, which must not be below that of the last entry. Also sets the number of
    /// entries that were ever added, and the highest deleted id, if they are given.
    pub(in crate::kv) fn set_last_id(
        &mut self,
        last_id: StreamId,
        entries_added: Option<u64>,
        max_deleted_id: Option<StreamId>,
    ) {
        let last = self.entries.last().map_or(StreamId::MIN, |entry| entry.id);
        assert!(last <= last_id, "last id {last_id} below that of the entry {last}");
        self.last_id = last_id;
        self.entries_added = entries_added.unwrap_or(self.entries_added);
        self.max_deleted_id = max_deleted_id.unwrap_or(self.max_deleted_id);
    }

    /// Returns whether an entry after the first one, with an id of at least `from`, may have been
    /// deleted by its id.
    pub(in crate::kv) fn has_deleted_from(&self, from: StreamId) -> bool {
        self.has_gaps() && self.entries.len() > 0 && from <= self.max_deleted_id
    }

    /// Returns whether an entry after the first one may have been deleted by its id.
    fn has_gaps(&self) -> bool {
        self.max_deleted_id != StreamId::MIN && self.max_deleted_id >= self.first_id()
    }

    /// Returns the number of entries that were ever added up to the id `id`; `None` if it is
    /// unknown.
    pub(in crate::kv) fn added_until(&self, id: StreamId) -> Option<u64> {
        if self.entries_added == 0 {
            return Some(0);
        }
        if self.entries.len() == 0 && id <= self.last_id || id == self.last_id {
            return Some(self.entries_added);
        }
        let first = self.first_id();
        if id > self.last_id || self.has_gaps() || id > first {
            return None;
        }
        let before_first = self.entries_added.wrapping_sub(self.entries.len() as u64);
        Some(before_first.wrapping_add(u64::from(id == first)))
    }

    /// Returns the number of entries that a group has not read yet, which is negative if a client
    /// has set a wrong number of read entries; `None` if it is unknown.
    pub(in crate::kv) fn lag(&self, group: &Group) -> Option<i64> {
        if self.entries_added == 0 {
            return Some(0);
        }
        let known = group.entries_read.filter(|_| !self.has_deleted_from(group.last_id));
        let read = known.or_else(|| self.added_until(group.last_id))?;
        Some(self.entries_added.wrapping_sub(read).cast_signed())
    }

    /// Makes a group remember that it has read the entries with these ids, which ascend.
    pub(in crate::kv) fn advance(&mut self, name: &[u8], ids: &[StreamId]) {
        let Some(group) = self.groups.get(name) else { return };
        let (mut last, mut read) = (group.last_id, group.entries_read);
        for id in ids.iter().copied().filter(|id| *id > group.last_id) {
            last = id;
            read = match read {
                Some(read) if !self.has_deleted_from(id) => Some(read.wrapping_add(1)),
                before if self.entries_added == 0 => before,
                _ => self.added_until(id),
            };
        }
        self.groups.change(name, |group| (group.last_id, group.entries_read) = (last, read));
    }
}

impl Content for Stream {
    fn digest(&self) -> u64 {
        let ids = self.max_deleted_id.hash(self.last_id.hash(self.entries_added));
        mix(ids, self.entries.digest().union(self.groups.digest()).salted(0))
    }

    fn bytes(&self) -> usize {
        STREAM_BYTES + self.entries.bytes() + self.groups.bytes()
    }

    fn is_empty(&self) -> bool {
        // A stream without entries stays.
        false
    }

    fn encoding(&self) -> &'static str {
        "stream"
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.last_id.encode(out);
        self.max_deleted_id.encode(out);
        put_number(self.entries_added, out);
        self.entries.encode(out);
        self.groups.encode(out);
    }

    fn decode(from: &mut &[u8]) -> Option<Stream> {
        let last_id = StreamId::decode(from)?;
        let max_deleted_id = StreamId::decode(from)?;
        let entries_added = take_number(from)?;
        let entries = Entries::decode(from)?;
        let groups = Groups::decode(from)?;
        let stream = Stream { entries, groups, last_id, max_deleted_id, entries_added };
        let highest = stream.entries.last().map_or(StreamId::MIN, |entry| entry.id);
        (highest <= last_id).then_some(stream)
    }
}
