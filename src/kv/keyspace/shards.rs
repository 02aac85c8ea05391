//! The entries of the keyspace, divided into 4,096 hash tables (shards). A snapshot shares all
//! tables at once, and a later write copies only the one table that it changes. Small tables also
//! bound the time that growing a table takes.

use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::kv::keyspace::entry::KeyEntry;
use crate::kv::values::copy_on_write::CopyOnWrite;

/// Number of hash tables (shards) of the keyspace. A power of two.
const SHARDS: usize = 4_096;
/// Index of the lowest bit of a key's hash that selects the key's hash table (shard). The lookup
/// within the table uses other bits.
const SHARD_SHIFT: u32 = 40;

/// Number of scan positions, and thus the position after the last one. A key's scan position
/// consists of the low bits of its hash. The highest of these bits select the key's table, so scan
/// positions and tables have the same order.
pub(in crate::kv) const SCAN_END: u64 = (SHARDS as u64) << SHARD_SHIFT;

/// A hash table (shard) of the keyspace. It contains the entries whose key hashes have the same
/// shard bits.
pub(in crate::kv) type Table = HashTable<KeyEntry>;

/// All entries of the keyspace, in copy-on-write hash tables, each of which is copied separately if
/// a write changes it while a snapshot shares it.
///
/// Invariant: `count` is the total number of entries, and `table_bytes` is the memory usage of all
/// tables combined, excluding the entries that they point to.
pub(in crate::kv) struct Shards {
    tables: Box<[CopyOnWrite<Table>]>,
    count: usize,
    table_bytes: usize,
}

impl Default for Shards {
    fn default() -> Shards {
        let tables = (0..SHARDS).map(|_| CopyOnWrite::default()).collect();
        Shards { tables, count: 0, table_bytes: 0 }
    }
}

impl Shards {
    /// Returns the entry that has this key hash and for which `is_it` holds; `None` if there is
    /// none.
    pub(in crate::kv) fn find(
        &self,
        hash: u64,
        is_it: impl FnMut(&KeyEntry) -> bool,
    ) -> Option<&KeyEntry> {
        self.tables[shard_of(hash)].get().find(hash, is_it)
    }

    /// Returns a mutable reference to the entry that has this key hash and for which `is_it` holds;
    /// `None` if there is none. If a snapshot shares the entry's table, copies the table first.
    pub(in crate::kv) fn find_mut(
        &mut self,
        hash: u64,
        is_it: impl FnMut(&KeyEntry) -> bool,
    ) -> Option<&mut KeyEntry> {
        table_mut(&mut self.tables[shard_of(hash)]).find_mut(hash, is_it)
    }

    /// Calls `put` with the table slot of the entry that has this key hash and for which `is_it`
    /// holds. `put` changes the entry or, if there is none and so the slot is vacant, may insert
    /// one.
    pub(in crate::kv) fn put(
        &mut self,
        hash: u64,
        is_it: impl FnMut(&KeyEntry) -> bool,
        put: impl FnOnce(Entry<'_, KeyEntry>),
    ) {
        let table = table_mut(&mut self.tables[shard_of(hash)]);
        let (before, bytes) = (table.len(), table.allocation_size());
        put(table.entry(hash, is_it, KeyEntry::key_hash));
        self.count += table.len() - before;
        self.table_bytes += table.allocation_size() - bytes;
    }

    /// Removes and returns the entry that has this key hash and for which `is_it` holds; `None` if
    /// there is none.
    pub(in crate::kv) fn remove(
        &mut self,
        hash: u64,
        is_it: impl Fn(&KeyEntry) -> bool,
    ) -> Option<KeyEntry> {
        let shard = &mut self.tables[shard_of(hash)];
        // Checked first so that a shared table is not copied for a missing key.
        if shard.is_shared() {
            shard.get().find(hash, &is_it)?;
        }
        let found = table_mut(shard).find_entry(hash, is_it).ok()?;
        self.count -= 1;
        Some(found.remove().0)
    }

    /// Iterates over all entries, one table after another.
    pub(in crate::kv) fn iter(&self) -> impl Iterator<Item = &KeyEntry> {
        self.tables.iter().flat_map(|table| table.get().iter())
    }

    /// Returns the entries for which `wanted` holds in the first table that contains such an entry.
    /// The search starts at the table of the hash `hash` and wraps around. Returns no entries if no
    /// table contains one.
    pub(in crate::kv) fn any_table(
        &self,
        hash: u64,
        wanted: impl Fn(&KeyEntry) -> bool,
    ) -> impl Iterator<Item = &KeyEntry> {
        let (before, from) = self.tables.split_at(shard_of(hash));
        let mut tables = from.iter().chain(before).map(CopyOnWrite::get);
        let table = tables.find(|table| table.iter().any(&wanted));
        table.into_iter().flat_map(Table::iter).filter(move |entry| wanted(entry))
    }

    /// Returns two values: the entries at or after `scan_position` in the table that contains it,
    /// in no particular order; and the first scan position of the next non-empty table, or
    /// [`SCAN_END`] if there is none.
    pub(in crate::kv) fn table_from(&self, scan_position: u64) -> (Vec<&KeyEntry>, u64) {
        let shard = shard_of(scan_position);
        let entries =
            self.tables[shard].get().iter().filter(|entry| entry.scan_position() >= scan_position);
        let mut behind = (shard + 1..SHARDS).zip(&self.tables[shard + 1..]);
        let next = behind.find(|(_, table)| !table.get().is_empty());
        let next = next.map_or(SCAN_END, |(shard, _)| (shard as u64) << SHARD_SHIFT);
        (entries.collect(), next)
    }

    /// Returns the total number of entries in all tables.
    pub(in crate::kv) fn len(&self) -> usize {
        self.count
    }

    /// Returns the memory usage of all tables combined, in bytes, excluding the entries that they
    /// point to.
    pub(in crate::kv) fn table_bytes(&self) -> usize {
        self.table_bytes
    }

    /// Returns an immutable copy-on-write view of all tables, which shares their memory.
    pub(in crate::kv) fn share(&mut self) -> Vec<Arc<Table>> {
        self.tables.iter_mut().map(CopyOnWrite::share).collect()
    }
}

/// Returns a mutable reference to a table, after copying the table if a snapshot shares it. Copying
/// increments the reference count of each entry, and the cache misses of such atomic increments do
/// not overlap. Therefore, all counts are first loaded into the processor's cache by plain reads,
/// whose cache misses do overlap.
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
    /// Returns the position of the entry in the order of `SCAN`: the low bits of the hash of its
    /// key.
    pub(in crate::kv) fn scan_position(&self) -> u64 {
        self.key_hash() & (SCAN_END - 1)
    }
}
