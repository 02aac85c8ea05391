//! The store's pairs, in 4,096 tables, so that the state can be looked at for long while it
//! changes: a [`View`](super::View) shares all tables at once, and only a table that is written to
//! meanwhile is copied. It is also why no table ever grows for long.

use std::mem;
use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::store::Pair;

/// How many tables there are. A power of two.
const SHARDS: usize = 4_096;
/// Bits of a key's number that a table does not use to find a place or to tell keys apart.
const SHARD_SHIFT: u32 = 40;

/// The pairs whose keys' numbers agree in some bits.
pub(super) type Table = HashTable<Pair>;

/// All pairs.
///
/// Invariant: `count` is the sum of all tables' lengths.
pub(super) struct Shards {
    shards: Box<[Shard]>,
    count: usize,
}

/// One table. Owned where it can be: then it is changed without asking whether anybody else sees
/// it.
enum Shard {
    Own(Table),
    Shared(Arc<Table>),
}

impl Shard {
    fn table(&self) -> &Table {
        match self {
            Shard::Own(table) => table,
            Shard::Shared(table) => table,
        }
    }

    /// To be changed: copied if a view still has it.
    fn table_mut(&mut self) -> &mut Table {
        if let Shard::Shared(_) = self {
            self.make_own();
        }
        match self {
            Shard::Own(table) => table,
            Shard::Shared(_) => unreachable!("it was made our own"),
        }
    }

    #[cold]
    fn make_own(&mut self) {
        if let Shard::Shared(table) = mem::replace(self, Shard::Own(Table::new())) {
            *self = Shard::Own(Arc::try_unwrap(table).unwrap_or_else(|table| (*table).clone()));
        }
    }

    fn share(&mut self) -> Arc<Table> {
        if let Shard::Own(table) = self {
            *self = Shard::Shared(Arc::new(mem::take(table)));
        }
        match self {
            Shard::Shared(table) => Arc::clone(table),
            Shard::Own(_) => unreachable!("it was made to be shared"),
        }
    }
}

impl Default for Shards {
    fn default() -> Shards {
        let shards = (0..SHARDS).map(|_| Shard::Own(Table::new())).collect();
        Shards { shards, count: 0 }
    }
}

impl Shards {
    /// The pair of that number for which `is_it` holds.
    pub(super) fn find(&self, number: u64, is_it: impl FnMut(&Pair) -> bool) -> Option<&Pair> {
        self.shards[place(number)].table().find(number, is_it)
    }

    /// The same, to be changed.
    pub(super) fn find_mut(
        &mut self,
        number: u64,
        is_it: impl FnMut(&Pair) -> bool,
    ) -> Option<&mut Pair> {
        self.shards[place(number)].table_mut().find_mut(number, is_it)
    }

    /// Changes the pair of that number for which `is_it` holds, or puts one in.
    pub(super) fn put(
        &mut self,
        number: u64,
        is_it: impl FnMut(&Pair) -> bool,
        put: impl FnOnce(Entry<'_, Pair>),
    ) {
        let table = self.shards[place(number)].table_mut();
        let before = table.len();
        put(table.entry(number, is_it, |pair| pair.number));
        self.count += table.len() - before;
    }

    /// Takes out the pair of that number for which `is_it` holds.
    pub(super) fn remove(&mut self, number: u64, is_it: impl Fn(&Pair) -> bool) -> Option<Pair> {
        let shard = &mut self.shards[place(number)];
        // A shared table is not copied for nothing.
        if let Shard::Shared(table) = shard {
            table.find(number, &is_it)?;
        }
        let found = shard.table_mut().find_entry(number, is_it).ok()?;
        self.count -= 1;
        Some(found.remove().0)
    }

    /// All pairs.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Pair> {
        self.shards.iter().flat_map(|shard| shard.table().iter())
    }

    /// The pairs of one table: the first, from that number's on, of which one is `wanted`; none if
    /// there is no such table.
    pub(super) fn some_table(
        &self,
        number: u64,
        wanted: impl Fn(&Pair) -> bool,
    ) -> impl Iterator<Item = &Pair> {
        let (before, from) = self.shards.split_at(place(number));
        let mut tables = from.iter().chain(before).map(Shard::table);
        let table = tables.find(|table| table.iter().any(&wanted));
        table.into_iter().flat_map(Table::iter).filter(move |pair| wanted(pair))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// All tables as they are now, to be kept.
    pub(super) fn share(&mut self) -> Vec<Arc<Table>> {
        self.shards.iter_mut().map(Shard::share).collect()
    }
}

fn place(number: u64) -> usize {
    usize::try_from(number >> SHARD_SHIFT & (SHARDS as u64 - 1)).expect("below their number")
}
