//! The entries of the keyspace, divided into 4,096 hash tables (shards). A snapshot shares all
//! tables at once, and a later write copies only the one table that it changes. Small tables also
//! bound the time that growing a table takes.

use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::kv::keyspace::entry::KeyEntry;
use crate::kv::values::copy_on_write::CopyOnWrite;

/// Number of hash tables (shards) into which the keyspace is divided. A power of two.
const SHARDS: usize = 4_096;
/// Index of the lowest of the bits of a key's hash that select the key's hash table (shard). The
/// lookup within the table uses other bits of the hash.
const SHARD_SHIFT: u32 = 40;

/// Exclusive upper bound of the scan positions, which determine the order in which `SCAN` visits
/// keys. A key's scan position consists of the low bits of its hash. The highest of these bits
/// select the key's hash table (shard), so `SCAN` visits one table after another.
pub(in crate::kv) const SCAN_END: u64 = (SHARDS as u64) << SHARD_SHIFT;

/// A hash table (shard) of the keyspace. The hash of a key determines which of the tables contains
/// the key's entry.
pub(in crate::kv) type Table = HashTable<KeyEntry>;

/// All entries of the keyspace, in hash tables (shards) that a snapshot can share. A write copies
/// only the one table that it changes, and only while a snapshot shares it.
///
/// Invariant: `count` is the total number of entries, and `table_bytes` is the memory usage of all
/// tables combined, excluding the entries that they point to. There are either [`SHARDS`] tables,
/// or none while no entry was ever added, so that an empty database takes no memory.
#[derive(Default)]
pub(in crate::kv) struct Shards {
    tables: Box<[CopyOnWrite<Table>]>,
    count: usize,
    table_bytes: usize,
}

impl Shards {
    /// Returns shards without entries whose tables exist.
    pub(in crate::kv) fn allocated() -> Shards {
        let tables = (0..SHARDS).map(|_| CopyOnWrite::default()).collect();
        Shards { tables, count: 0, table_bytes: 0 }
    }

    /// Returns whether the tables exist.
    pub(in crate::kv) fn are_allocated(&self) -> bool {
        !self.tables.is_empty()
    }

    /// Returns the entry whose key has the hash `hash` and for which `is_it` returns true; `None`
    /// if there is no such entry.
    pub(in crate::kv) fn find(
        &self,
        hash: u64,
        is_it: impl FnMut(&KeyEntry) -> bool,
    ) -> Option<&KeyEntry> {
        self.tables.get(shard_of(hash))?.get().find(hash, is_it)
    }

    /// Returns a mutable reference to the entry whose key has the hash `hash` and for which `is_it`
    /// returns true; `None` if there is no such entry. Copies the entry's hash table first if a
    /// snapshot shares it.
    pub(in crate::kv) fn find_mut(
        &mut self,
        hash: u64,
        is_it: impl FnMut(&KeyEntry) -> bool,
    ) -> Option<&mut KeyEntry> {
        table_mut(self.tables.get_mut(shard_of(hash))?).find_mut(hash, is_it)
    }

    /// Finds the place of an entry in its hash table and passes the place to `put`, which replaces
    /// or inserts the entry. The place is occupied if there is an entry whose key has the hash
    /// `hash` and for which `is_it` returns true; otherwise it is vacant.
    pub(in crate::kv) fn put(
        &mut self,
        hash: u64,
        is_it: impl FnMut(&KeyEntry) -> bool,
        put: impl FnOnce(Entry<'_, KeyEntry>),
    ) {
        if !self.are_allocated() {
            *self = Shards::allocated();
        }
        let table = table_mut(&mut self.tables[shard_of(hash)]);
        let (before, bytes) = (table.len(), table.allocation_size());
        put(table.entry(hash, is_it, KeyEntry::key_hash));
        self.count += table.len() - before;
        self.table_bytes += table.allocation_size() - bytes;
    }

    /// Removes and returns the entry whose key has the hash `hash` and for which `is_it` returns
    /// true; `None` if there is no such entry.
    pub(in crate::kv) fn remove(
        &mut self,
        hash: u64,
        is_it: impl Fn(&KeyEntry) -> bool,
    ) -> Option<KeyEntry> {
        let shard = self.tables.get_mut(shard_of(hash))?;
        // Checked first so that a shared table is not copied for a missing key.
        if shard.is_shared() {
            shard.get().find(hash, &is_it)?;
        }
        let found = table_mut(shard).find_entry(hash, is_it).ok()?;
        self.count -= 1;
        Some(found.remove().0)
    }

    /// Iterates over all entries, one hash table (shard) after another.
    pub(in crate::kv) fn iter(&self) -> impl Iterator<Item = &KeyEntry> {
        self.tables.iter().flat_map(|table| table.get().iter())
    }

    /// Searches the hash tables, starting with the table for the hash `hash` and wrapping around,
    /// for a table with an entry for which `wanted` returns true. Iterates over all such entries in
    /// that table. Yields nothing if there is no such table.
    pub(in crate::kv) fn any_table(
        &self,
        hash: u64,
        wanted: impl Fn(&KeyEntry) -> bool,
    ) -> impl Iterator<Item = &KeyEntry> {
        let (before, from) = self.tables.split_at(shard_of(hash).min(self.tables.len()));
        let mut tables = from.iter().chain(before).map(CopyOnWrite::get);
        let table = tables.find(|table| table.iter().any(&wanted));
        table.into_iter().flat_map(Table::iter).filter(move |entry| wanted(entry))
    }

    /// Returns two values for `SCAN`: the entries at or after `scan_position` in the hash table
    /// that contains this position, in arbitrary order; and the first position of the next
    /// non-empty table, or [`SCAN_END`] if there is none.
    pub(in crate::kv) fn table_from(&self, scan_position: u64) -> (Vec<&KeyEntry>, u64) {
        if !self.are_allocated() {
            return (Vec::new(), SCAN_END);
        }
        let shard = shard_of(scan_position);
        let entries =
            self.tables[shard].get().iter().filter(|entry| entry.scan_position() >= scan_position);
        let mut behind = (shard + 1..SHARDS).zip(&self.tables[shard + 1..]);
        let next = behind.find(|(_, table)| !table.get().is_empty());
        let next = next.map_or(SCAN_END, |(shard, _)| (shard as u64) << SHARD_SHIFT);
        (entries.collect(), next)
    }

    /// Returns the total number of entries in all hash tables.
    pub(in crate::kv) fn len(&self) -> usize {
        self.count
    }

    /// Returns the memory usage of all hash tables combined, in bytes, excluding the entries that
    /// they point to.
    pub(in crate::kv) fn table_bytes(&self) -> usize {
        self.table_bytes
    }

    /// Returns the same hash tables once more. Changes of either are not seen by the other.
    pub(in crate::kv) fn copy(&mut self) -> Shards {
        let tables = self.tables.iter_mut().map(|table| CopyOnWrite::Shared(table.share()));
        Shards { tables: tables.collect(), count: self.count, table_bytes: self.table_bytes }
    }

    /// Returns an immutable copy-on-write view of all hash tables, for a snapshot.
    pub(in crate::kv) fn share(&mut self) -> Vec<Arc<Table>> {
        self.tables.iter_mut().map(CopyOnWrite::share).collect()
    }
}

/// Returns a mutable reference to a hash table, and copies the table first if a snapshot shares it.
/// Before copying, reads the reference counts of all entries, because the cache misses of these
/// reads overlap, whereas those of the atomic increments during the copying do not.
fn table_mut(table: &mut CopyOnWrite<Table>) -> &mut Table {
    if let Some(table) = table.to_copy() {
        table.iter().for_each(KeyEntry::fetch_start);
    }
    table.get_mut()
}

fn shard_of(hash: u64) -> usize {
    usize::try_from(hash >> SHARD_SHIFT & (SHARDS as u64 - 1)).expect("below SHARDS")
}

impl KeyEntry {
    /// Returns the entry's position in the order in which `SCAN` visits keys: the low bits of the
    /// hash of its key.
    pub(in crate::kv) fn scan_position(&self) -> u64 {
        self.key_hash() & (SCAN_END - 1)
    }
}
