//! The databases of a keyspace: 16 sets of keys that are independent of each other, as in Redis.
//!
//! Each command runs in one database, which its caller selects before and deselects after it. So a
//! command needs not know in which database it runs, and one that names another database selects
//! that for a while.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use super::Keyspace;
use super::clock::Millis;
use super::expiration::ExpirationIndex;
use super::key_index::KeyIndex;
use super::shards::{Shards, Table};
use crate::kv::values::digest::Digest;

/// The number of a database.
///
/// Invariant: below [`DatabaseId::COUNT`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct DatabaseId(u8);

impl DatabaseId {
    /// Number of databases.
    pub const COUNT: usize = 16;
    /// Database 0, in which every connection begins.
    pub const FIRST: DatabaseId = DatabaseId(0);

    /// Returns the database with this number; `None` if there is none.
    pub fn new(number: impl TryInto<u8>) -> Option<DatabaseId> {
        let number = number.try_into().ok()?;
        (usize::from(number) < DatabaseId::COUNT).then_some(DatabaseId(number))
    }

    /// Returns the number of the database, below [`DatabaseId::COUNT`].
    pub fn number(self) -> u8 {
        self.0
    }

    /// Returns all databases, in the order of their numbers.
    pub fn all() -> impl Iterator<Item = DatabaseId> {
        (0..DatabaseId::COUNT).filter_map(DatabaseId::new)
    }

    /// Returns the index of the database in an array of all. The remainder, which changes nothing,
    /// spares a check of the bounds.
    fn index(self) -> usize {
        usize::from(self.0) % DatabaseId::COUNT
    }
}

/// Writes the number of the database.
impl fmt::Display for DatabaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The size of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DatabaseSize {
    /// The database.
    pub id: DatabaseId,
    /// Number of keys, including keys that have expired but have not been removed yet.
    pub key_count: usize,
    /// Number of keys that have an expiration time.
    pub expires_count: usize,
    /// Average expiration time of the keys that have one, in milliseconds since 1970; `None` if no
    /// key expires.
    pub average_expiry: Option<u64>,
}

/// The keys of one database, with their values and expiration times.
///
/// Invariant: `digest` is the sum of the fingerprints (hashes) of all entries, `entry_bytes` is
/// their total heap memory in bytes, and `expirations` contains every entry that has an expiration
/// time. Nothing depends on the order of entries in the hash tables.
#[derive(Default)]
pub(super) struct Database {
    pub(super) shards: Shards,
    pub(super) digest: Digest,
    pub(super) entry_bytes: usize,
    pub(super) expirations: ExpirationIndex,
    /// All keys in byte order, if a client has read a range of keys. Not part of the state.
    pub(super) key_index: KeyIndex,
    /// The revision of the last operation that has exchanged the keys for those of another
    /// database, which counts as a change of every key; 0 if there was none.
    pub(super) swapped_at: u64,
}

/// The hash tables of a database, as a copy-on-write view for a snapshot.
pub(in crate::kv) struct SharedDatabase {
    pub(in crate::kv) id: DatabaseId,
    /// See [`Keyspace::swapped_at`].
    pub(in crate::kv) swapped_at: u64,
    pub(in crate::kv) tables: Vec<Arc<Table>>,
}

/// All databases of a keyspace, of which one is selected.
///
/// Invariant: a database whose number is not below `used` has no keys and takes no memory on the
/// heap. Database 0 is selected, except while a command runs in another one.
pub(super) struct Databases {
    all: [Database; DatabaseId::COUNT],
    selected: Cell<DatabaseId>,
    used: Cell<u8>,
}

impl Default for Databases {
    fn default() -> Databases {
        let mut all: [Database; DatabaseId::COUNT] = std::array::from_fn(|_| Database::default());
        all[0].shards = Shards::allocated();
        Databases { all, selected: Cell::default(), used: Cell::new(1) }
    }
}

impl Databases {
    /// Returns the number of the selected database.
    pub(super) fn id(&self) -> DatabaseId {
        self.selected.get()
    }

    /// Returns the selected database.
    pub(super) fn selected(&self) -> &Database {
        &self.all[self.selected.get().index()]
    }

    /// Returns the selected database.
    pub(super) fn selected_mut(&mut self) -> &mut Database {
        &mut self.all[self.selected.get().index()]
    }

    /// Returns all databases that may have keys, in the order of their numbers.
    pub(super) fn used(&self) -> impl Iterator<Item = (DatabaseId, &Database)> {
        DatabaseId::all().zip(&self.all[..usize::from(self.used.get())])
    }

    /// Returns the numbers of all databases that may have keys, in ascending order.
    pub(super) fn used_ids(&self) -> impl Iterator<Item = DatabaseId> + use<> {
        (0..self.used.get()).map(DatabaseId)
    }

    /// Returns the same databases once more, for reads. The copy has only the hash tables.
    pub(super) fn frozen(&mut self) -> Databases {
        let mut frozen = Databases::default();
        for id in self.used_ids() {
            let (copy, swapped_at) = (self.get_mut(id).shards.copy(), self.get(id).swapped_at);
            *frozen.get_mut(id) = Database { shards: copy, swapped_at, ..Database::default() };
        }
        frozen
    }

    /// Returns a database.
    pub(super) fn get(&self, id: DatabaseId) -> &Database {
        &self.all[id.index()]
    }

    /// Returns a database, which may get keys.
    pub(super) fn get_mut(&mut self, id: DatabaseId) -> &mut Database {
        self.used.set(self.used.get().max(id.0 + 1));
        &mut self.all[id.index()]
    }
}

/// Returns the digest of several databases, from those of each. That of database 0 counts as it is,
/// so that the digest of a keyspace with no other keys is that of version 0.1, which has no other
/// databases. Takes the same time for any number of keys, also after `SWAPDB`.
pub(in crate::kv) fn digest_of_all(digests: impl Iterator<Item = (DatabaseId, Digest)>) -> Digest {
    let mut all = Digest::default();
    for (id, digest) in digests {
        if id == DatabaseId::FIRST {
            all = all.union(digest);
        } else if digest != Digest::default() {
            all.add(digest.salted(id.0.into()));
        }
    }
    all
}

/// Methods on several databases.
impl Keyspace {
    /// Returns the number of the selected database.
    pub(in crate::kv) fn database(&self) -> DatabaseId {
        self.databases.id()
    }

    /// Selects a database. Returns the one that was selected before, which the caller must select
    /// again.
    pub(in crate::kv) fn select(&self, id: DatabaseId) -> DatabaseId {
        let databases = &self.databases;
        databases.used.set(databases.used.get().max(id.0 + 1));
        databases.selected.replace(id)
    }

    /// Calls `read` while a database is selected.
    pub(in crate::kv) fn within<'k, R>(
        &'k self,
        id: DatabaseId,
        read: impl FnOnce(&'k Keyspace) -> R,
    ) -> R {
        let before = self.select(id);
        let result = read(self);
        self.select(before);
        result
    }

    /// Calls `change` while a database is selected.
    pub(in crate::kv) fn within_mut<R>(
        &mut self,
        id: DatabaseId,
        change: impl FnOnce(&mut Keyspace) -> R,
    ) -> R {
        let before = self.select(id);
        let result = change(self);
        self.select(before);
        result
    }

    /// Calls `change` for each database that may have keys while it is selected, in the order of
    /// their numbers.
    pub(super) fn for_each_database(&mut self, mut change: impl FnMut(&mut Keyspace)) {
        for id in self.databases.used_ids() {
            self.within_mut(id, &mut change);
        }
    }

    /// Exchanges the keys of two databases. Takes the same time for any number of keys.
    pub(in crate::kv) fn swap_databases(&mut self, one: DatabaseId, other: DatabaseId) {
        if one == other {
            return;
        }
        for id in [one, other] {
            self.databases.get_mut(id).swapped_at = self.revision;
        }
        self.databases.all.swap(one.index(), other.index());
        self.events.note_swap();
    }

    /// Returns the revision of the operation that last exchanged the keys of the selected database
    /// for those of another one; 0 if there was none, or none since the replica has loaded its
    /// state.
    pub(in crate::kv) fn swapped_at(&self) -> u64 {
        self.databases.selected().swapped_at
    }

    /// Sets the revision that [`Keyspace::swapped_at`] returns, when the state is restored from a
    /// snapshot.
    pub(in crate::kv) fn restore_swapped_at(&mut self, revision: u64) {
        self.databases.selected_mut().swapped_at = revision;
    }

    /// Removes all keys of all databases, like [`Keyspace::clear`]. Of those above 0, only the ones
    /// that have keys are in the history of changes, so that it is the same on every replica,
    /// whatever databases its clients have read.
    pub(in crate::kv) fn clear_all(&mut self) {
        self.for_each_database(|keyspace| {
            if keyspace.database() == DatabaseId::FIRST || keyspace.len() > 0 {
                keyspace.clear();
            }
        });
    }

    /// Returns the number of keys of all databases, including keys that have expired but have not
    /// been removed yet.
    pub(in crate::kv) fn total_len(&self) -> usize {
        self.databases.used().map(|(_, database)| database.shards.len()).sum()
    }

    /// Returns the sizes of the databases that have keys, in the order of their numbers.
    pub(in crate::kv) fn sizes(&self) -> Vec<DatabaseSize> {
        let size = |(id, database): (DatabaseId, &Database)| DatabaseSize {
            id,
            key_count: database.shards.len(),
            expires_count: database.expirations.len(),
            average_expiry: database.expirations.average(),
        };
        self.databases.used().map(size).filter(|size| size.key_count > 0).collect()
    }

    /// Returns the earliest expiration time of all keys of all databases, in milliseconds since
    /// 1970; `None` if no key expires. The time may have passed already, if the expired key has not
    /// been removed yet.
    pub(in crate::kv) fn next_expiry(&self) -> Option<Millis> {
        let first = |(_, database): (_, &Database)| database.expirations.first();
        self.databases.used().filter_map(first).map(|(expires_at, _)| expires_at).min()
    }

    /// Returns whether any key of any database expires after the current reading of the replicated
    /// clock and not later than `millis`.
    pub(in crate::kv) fn expires_until(&self, millis: Millis) -> bool {
        self.databases.used().any(|(_, database)| {
            let first = database.expirations.first_after(self.clock.millis);
            first.is_some_and(|first| first <= millis)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::keyspace::expiration::REMOVED_MAX;

    fn id(number: u8) -> DatabaseId {
        DatabaseId::new(number).unwrap()
    }

    /// Sets a key in a database to a string that expires at `expires_at`.
    fn put(keyspace: &mut Keyspace, database: u8, key: &[u8], expires_at: Option<Millis>) {
        keyspace.within_mut(id(database), |it| it.put_expiring(key, b"v", expires_at));
    }

    fn keys(keyspace: &Keyspace, database: u8) -> usize {
        keyspace.within(id(database), Keyspace::len)
    }

    #[test]
    fn database_numbers_are_those_from_0_to_15() {
        let numbers: Vec<u8> = DatabaseId::all().map(DatabaseId::number).collect();
        assert_eq!(numbers, (0..16).collect::<Vec<u8>>());
        assert_eq!((DatabaseId::new(16), DatabaseId::new(-1_i64)), (None, None));
        assert_eq!(DatabaseId::new(256 + 3), None);
    }

    #[test]
    fn empty_databases_take_no_heap_memory() {
        let mut keyspace = Keyspace::default();
        let empty = keyspace.memory();
        for number in 1..16 {
            assert_eq!(keys(&keyspace, number), 0);
            let entries = keyspace.within(id(number), |it| it.entries().count());
            assert_eq!(entries, 0);
        }
        assert_eq!(keyspace.memory(), empty);
        put(&mut keyspace, 15, b"k", None);
        assert!(keyspace.memory() > empty);
        keyspace.clear_all();
        assert_eq!(keyspace.memory(), empty);
    }

    #[test]
    fn digest_depends_on_the_database_of_each_key() {
        let digest = |entries: &[(u8, &[u8])]| {
            let mut keyspace = Keyspace::default();
            for (database, key) in entries {
                put(&mut keyspace, *database, key, None);
            }
            keyspace.check_sums();
            keyspace.digest()
        };
        let all: [&[(u8, &[u8])]; 6] = [
            &[],
            &[(0, b"a")],
            &[(1, b"a")],
            &[(2, b"a")],
            &[(1, b"a"), (2, b"b")],
            &[(1, b"b"), (2, b"a")],
        ];
        for (position, one) in all.iter().enumerate() {
            for other in &all[..position] {
                assert_ne!(digest(one), digest(other), "{one:?} {other:?}");
            }
        }
        assert_eq!(digest(&[(1, b"a"), (2, b"b")]), digest(&[(2, b"b"), (1, b"a")]));
    }

    #[test]
    fn swapped_databases_have_the_digest_of_the_same_keys_written_there() {
        let (mut swapped, mut written) = (Keyspace::default(), Keyspace::default());
        for key in [&b"a"[..], b"b", b"c"] {
            put(&mut swapped, 0, key, Some(9));
            put(&mut written, 7, key, Some(9));
        }
        put(&mut swapped, 7, b"x", None);
        put(&mut written, 0, b"x", None);
        assert_ne!(swapped.digest(), written.digest());
        swapped.swap_databases(id(7), id(0));
        assert_eq!(swapped.digest(), written.digest());
        assert_eq!((keys(&swapped, 0), keys(&swapped, 7)), (1, 3));
        swapped.check_sums();
        // Into a database that was never used.
        swapped.swap_databases(id(0), id(12));
        assert_eq!((keys(&swapped, 0), keys(&swapped, 12)), (0, 1));
        put(&mut swapped, 0, b"new", None);
        swapped.check_sums();
    }

    #[test]
    fn swap_counts_as_a_change_of_every_key() {
        let mut keyspace = Keyspace::default();
        keyspace.begin_command();
        put(&mut keyspace, 0, b"both", None);
        put(&mut keyspace, 1, b"both", None);
        put(&mut keyspace, 1, b"one", None);
        let revision = |keyspace: &Keyspace, key: &[u8]| keyspace.revision_of(key);
        assert_eq!((revision(&keyspace, b"both"), revision(&keyspace, b"one")), (1, 0));
        keyspace.begin_command();
        keyspace.swap_databases(id(0), id(1));
        assert_eq!((revision(&keyspace, b"both"), revision(&keyspace, b"one")), (2, 2));
        assert_eq!(revision(&keyspace, b"none"), 0);
        keyspace.begin_command();
        put(&mut keyspace, 0, b"both", None);
        assert_eq!(revision(&keyspace, b"both"), 3);
        keyspace.swap_databases(id(0), id(0));
        assert_eq!(revision(&keyspace, b"one"), 2, "nothing was exchanged");
    }

    #[test]
    fn expired_keys_of_every_database_are_removed_in_the_order_of_the_databases() {
        let mut keyspace = Keyspace::default();
        for (database, key, expires_at) in
            [(3, &b"a"[..], 10), (0, b"b", 20), (3, b"c", 30), (9, b"d", 5), (9, b"e", 99)]
        {
            put(&mut keyspace, database, key, Some(expires_at));
        }
        assert_eq!(keyspace.next_expiry(), Some(5));
        assert!(keyspace.expires_until(5) && !keyspace.expires_until(4));
        keyspace.advance_clock(25);
        keyspace.remove_expired(2);
        assert_eq!([0, 3, 9].map(|database| keys(&keyspace, database)), [0, 1, 2]);
        keyspace.remove_expired(REMOVED_MAX);
        assert_eq!([0, 3, 9].map(|database| keys(&keyspace, database)), [0, 1, 1]);
        assert_eq!(keyspace.database(), DatabaseId::FIRST);
        assert_eq!(keyspace.set_back_clock(15), 10);
        assert_eq!(keyspace.next_expiry(), Some(20));
        let sizes = keyspace.sizes();
        let size = |number, average_expiry| DatabaseSize {
            id: id(number),
            key_count: 1,
            expires_count: 1,
            average_expiry: Some(average_expiry),
        };
        assert_eq!(sizes, [size(3, 20), size(9, 89)]);
        keyspace.check_sums();
    }
}
