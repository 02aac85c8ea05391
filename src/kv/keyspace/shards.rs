//! The store's pairs, in 4,096 tables, so that the state can be looked at for long while it
//! changes: a [`View`](super::View) shares all tables at once, and only a table that is written to
//! meanwhile is copied. It is also why no table ever grows for long.

use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::kv::keyspace::entry::KeyEntry;
use crate::kv::values::copy_on_write::Share;

/// How many tables there are. A power of two.
const SHARDS: usize = 4_096;
/// Bits of a key's number that a table does not use to find a place or to tell keys apart.
const SHARD_SHIFT: u32 = 40;

/// How many ranks there are. A key's rank is the last bits of its number: those that choose its
/// table come first in it, so ranks and tables are in the same order.
pub(in crate::kv) const RANKS: u64 = (SHARDS as u64) << SHARD_SHIFT;

/// The pairs whose keys' numbers agree in some bits.
pub(in crate::kv) type Table = HashTable<KeyEntry>;

/// All pairs.
///
/// Invariant: `count` is the sum of all tables' lengths, `table_bytes` that of the memory which
/// they have asked for.
pub(in crate::kv) struct Shards {
    tables: Box<[Share<Table>]>,
    count: usize,
    table_bytes: usize,
}

impl Default for Shards {
    fn default() -> Shards {
        let tables = (0..SHARDS).map(|_| Share::default()).collect();
        Shards { tables, count: 0, table_bytes: 0 }
    }
}

impl Shards {
    /// The pair of that number for which `is_it` holds.
    pub(in crate::kv) fn find(
        &self,
        number: u64,
        is_it: impl FnMut(&KeyEntry) -> bool,
    ) -> Option<&KeyEntry> {
        self.tables[place(number)].get().find(number, is_it)
    }

    /// The same, to be changed.
    pub(in crate::kv) fn find_mut(
        &mut self,
        number: u64,
        is_it: impl FnMut(&KeyEntry) -> bool,
    ) -> Option<&mut KeyEntry> {
        self.tables[place(number)].get_mut().find_mut(number, is_it)
    }

    /// Changes the pair of that number for which `is_it` holds, or puts one in.
    pub(in crate::kv) fn put(
        &mut self,
        number: u64,
        is_it: impl FnMut(&KeyEntry) -> bool,
        put: impl FnOnce(Entry<'_, KeyEntry>),
    ) {
        let table = self.tables[place(number)].get_mut();
        let (before, bytes) = (table.len(), table.allocation_size());
        put(table.entry(number, is_it, KeyEntry::number));
        self.count += table.len() - before;
        self.table_bytes += table.allocation_size() - bytes;
    }

    /// Takes out the pair of that number for which `is_it` holds.
    pub(in crate::kv) fn remove(
        &mut self,
        number: u64,
        is_it: impl Fn(&KeyEntry) -> bool,
    ) -> Option<KeyEntry> {
        let shard = &mut self.tables[place(number)];
        // A shared table is not copied for nothing.
        if shard.is_shared() {
            shard.get().find(number, &is_it)?;
        }
        let found = shard.get_mut().find_entry(number, is_it).ok()?;
        self.count -= 1;
        Some(found.remove().0)
    }

    /// All pairs.
    pub(in crate::kv) fn iter(&self) -> impl Iterator<Item = &KeyEntry> {
        self.tables.iter().flat_map(|table| table.get().iter())
    }

    /// The pairs of one table: the first, from that number's on, of which one is `wanted`; none if
    /// there is no such table.
    pub(in crate::kv) fn some_table(
        &self,
        number: u64,
        wanted: impl Fn(&KeyEntry) -> bool,
    ) -> impl Iterator<Item = &KeyEntry> {
        let (before, from) = self.tables.split_at(place(number));
        let mut tables = from.iter().chain(before).map(Share::get);
        let table = tables.find(|table| table.iter().any(&wanted));
        table.into_iter().flat_map(Table::iter).filter(move |pair| wanted(pair))
    }

    /// The pairs of one table whose rank is that or a later one, in no order, and the first rank
    /// of the next table in which there is anything; [`RANKS`] if there is none.
    pub(in crate::kv) fn table_from(&self, rank: u64) -> (Vec<&KeyEntry>, u64) {
        let place = place(rank);
        let pairs = self.tables[place].get().iter().filter(|pair| pair.rank() >= rank);
        let mut behind = (place + 1..SHARDS).zip(&self.tables[place + 1..]);
        let next = behind.find(|(_, table)| !table.get().is_empty());
        let next = next.map_or(RANKS, |(place, _)| (place as u64) << SHARD_SHIFT);
        (pairs.collect(), next)
    }

    /// How many there are.
    pub(in crate::kv) fn len(&self) -> usize {
        self.count
    }

    /// Bytes of memory that the tables take, without what their pairs point to.
    pub(in crate::kv) fn table_bytes(&self) -> usize {
        self.table_bytes
    }

    /// All tables as they are now, to be kept.
    pub(in crate::kv) fn share(&mut self) -> Vec<Arc<Table>> {
        self.tables.iter_mut().map(Share::share).collect()
    }
}

fn place(number: u64) -> usize {
    usize::try_from(number >> SHARD_SHIFT & (SHARDS as u64 - 1)).expect("below their number")
}
