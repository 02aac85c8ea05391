//! The keyspace: the keys of all databases with their values and expirations, the replicated clock,
//! and the events for this replica's subscribers.
//!
//! For callers, an expired key does not exist, even if it has not been removed yet. Every change
//! updates the digest, the memory usage and the expiration index. The keyspace is independent of
//! commands.

pub(in crate::kv) mod clock;
pub(in crate::kv) mod databases;
pub(in crate::kv) mod entry;
pub(in crate::kv) mod events;
pub(in crate::kv) mod expiration;
pub(in crate::kv) mod functions;
pub(in crate::kv) mod history;
mod key_index;
pub(in crate::kv) mod restore;
pub(in crate::kv) mod scripts;
pub(in crate::kv) mod shards;
pub(in crate::kv) mod slot;
pub(in crate::kv) mod statistics;
pub(in crate::kv) mod unlinked;

use std::sync::Arc;

use hashbrown::hash_table::Entry;

use crate::kv::values::collection::{Collection, CollectionType, ValueType};
use crate::kv::values::digest::{Digest, key_hash};
use crate::kv::values::long_string::{LONG_BYTES_MIN, LongString};
use crate::kv::values::string::{SharedString, StringEdit, StringRef};
use clock::{Millis, ReplicatedClock};
use databases::{Database, DatabaseId, Databases, SharedDatabase, digest_of_all};
use entry::{KeyEntry, Metadata, Value};
use events::Events;
use functions::Functions;
use restore::RestoredEntry;
use scripts::Scripts;
use statistics::Counts;
use unlinked::Unlinked;

/// The keyspace: all keys with their values and expiration times, in several databases. Unless they
/// say otherwise, its methods use the selected database.
#[derive(Default)]
pub(in crate::kv) struct Keyspace {
    databases: Databases,
    clock: ReplicatedClock,
    /// Number of operations applied so far, including the current one. A key that the current
    /// operation changes stores this number as its revision.
    revision: u64,
    events: Events,
    /// The scripts that the cluster keeps for `EVALSHA`. They are no keys.
    pub(in crate::kv) scripts: Scripts,
    /// The libraries of functions that the cluster keeps for `FCALL`. They are no keys.
    pub(in crate::kv) functions: Functions,
    /// Counts for `INFO`, not part of the state.
    counts: Counts,
    /// Large values that were removed and are not freed yet, not part of the state.
    unlinked: Unlinked,
}

/// Error: the key holds a value of a different type than the caller requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kv) struct WrongType;

/// Methods that read the keyspace.
impl Keyspace {
    /// Returns the entry of a key; `None` if the key does not exist or has expired.
    pub(in crate::kv) fn entry(&self, key: &[u8]) -> Option<&KeyEntry> {
        let entry = self.uncounted_entry(key);
        if self.counts.count_lookup(entry.is_some()) {
            self.events.note_miss(self.database(), key);
        }
        entry
    }

    /// Returns the entry of a key like [`Keyspace::entry`], except that a read command that does
    /// not find the key records no keyspace notification.
    pub(in crate::kv) fn entry_without_event(&self, key: &[u8]) -> Option<&KeyEntry> {
        let entry = self.uncounted_entry(key);
        self.counts.count_lookup(entry.is_some());
        entry
    }

    /// Returns the entry of a key like [`Keyspace::entry`], for a lookup that `INFO` must not count
    /// as a hit or a miss.
    pub(in crate::kv) fn uncounted_entry(&self, key: &[u8]) -> Option<&KeyEntry> {
        let shards = &self.databases.selected().shards;
        shards
            .find(key_hash(key), |entry| entry.key() == key)
            .filter(|entry| !self.is_expired(entry))
    }

    /// Returns whether an entry has expired by the replicated clock. An expired entry stays in its
    /// hash table until [`Keyspace::remove_expired`] removes it.
    pub(in crate::kv) fn is_expired(&self, entry: &KeyEntry) -> bool {
        entry.is_expired(self.clock.millis)
    }

    /// Returns the type of a key's value; `None` if the key does not exist.
    pub(in crate::kv) fn value_type(&self, key: &[u8]) -> Option<ValueType> {
        self.entry(key).map(KeyEntry::value_type)
    }

    /// Returns the string value of a key; `None` if the key does not exist.
    ///
    /// # Errors
    /// If the value is not a string.
    pub(in crate::kv) fn string(&self, key: &[u8]) -> Result<Option<StringRef<'_>>, WrongType> {
        Ok(self.string_entry(key)?.map(KeyEntry::string))
    }

    /// Returns the string value of a key in a form that can outlive the borrow of the keyspace;
    /// `None` if the key does not exist.
    ///
    /// # Errors
    /// If the value is not a string.
    pub(in crate::kv) fn shared_string(
        &self,
        key: &[u8],
    ) -> Result<Option<SharedString>, WrongType> {
        Ok(self.string_entry(key)?.map(KeyEntry::shared_string))
    }

    fn string_entry(&self, key: &[u8]) -> Result<Option<&KeyEntry>, WrongType> {
        match self.entry(key) {
            Some(entry) if entry.value_type() != ValueType::String => Err(WrongType),
            entry => Ok(entry),
        }
    }

    /// Returns the collection (hash, list, set or sorted set) at a key; `None` if the key does not
    /// exist.
    ///
    /// # Errors
    /// If the value is not a collection of type `C`.
    pub(in crate::kv) fn collection<C: CollectionType>(
        &self,
        key: &[u8],
    ) -> Result<Option<&C>, WrongType> {
        let Some(entry) = self.entry(key) else { return Ok(None) };
        let content = entry.collection().and_then(C::get).ok_or(WrongType)?;
        Ok(Some(content))
    }

    /// Returns the expiration time of a key, in milliseconds since 1970; `None` if the key does not
    /// expire or does not exist.
    pub(in crate::kv) fn expires_at(&self, key: &[u8]) -> Option<Millis> {
        self.entry(key)?.expires_at()
    }

    /// Returns the revision of a key, which is the sequence number of the operation that last
    /// changed the key; 0 if the key does not exist. A transaction compares revisions to detect
    /// changes of watched keys.
    pub(in crate::kv) fn revision_of(&self, key: &[u8]) -> u64 {
        self.uncounted_entry(key).map_or(0, |entry| self.revision_of_entry(entry))
    }

    /// Returns the revision of the key of an entry, which is in the selected database.
    pub(in crate::kv) fn revision_of_entry(&self, entry: &KeyEntry) -> u64 {
        entry.revision().max(self.swapped_at())
    }

    /// Returns the number of keys, including keys that have expired but have not been removed yet.
    pub(in crate::kv) fn len(&self) -> usize {
        self.databases.selected().shards.len()
    }

    /// Iterates over all entries in arbitrary order, including entries that have expired but have
    /// not been removed yet.
    pub(in crate::kv) fn entries(&self) -> impl Iterator<Item = &KeyEntry> {
        self.databases.selected().shards.iter()
    }

    /// Searches the hash tables, starting with the table for the hash `hash` and wrapping around,
    /// for a table with an entry for which `wanted` returns true. Iterates over all such entries in
    /// that table. Used to choose a random key.
    pub(in crate::kv) fn any_table(
        &self,
        hash: u64,
        wanted: impl Fn(&KeyEntry) -> bool,
    ) -> impl Iterator<Item = &KeyEntry> {
        self.databases.selected().shards.any_table(hash, wanted)
    }

    /// Returns two values for `SCAN`: the entries at or after `scan_position` in the hash table
    /// that contains this position, in arbitrary order; and the first position of the next
    /// non-empty table, or [`SCAN_END`] if there is none.
    pub(in crate::kv) fn table_from(&self, scan_position: u64) -> (Vec<&KeyEntry>, u64) {
        self.databases.selected().shards.table_from(scan_position)
    }

    /// Returns an entry of a database whose key has the hash `hash`; `None` if there is none. If
    /// different keys have this hash, returns the entry of any of them, so the result is suitable
    /// only for prefetching.
    pub(in crate::kv) fn entry_with_hash(&self, id: DatabaseId, hash: u64) -> Option<&KeyEntry> {
        self.databases.get(id).shards.find(hash, |_| true)
    }

    /// Returns the digest of all databases, for comparing replicas.
    pub(in crate::kv) fn digest(&self) -> Digest {
        digest_of_all(self.databases.used().map(|(id, database)| (id, database.digest)))
    }

    /// Calls `change`, and sets the digest of the selected database to that from before, as if bits
    /// of a value had flipped in memory.
    pub(in crate::kv) fn change_silently(&mut self, change: impl FnOnce(&mut Keyspace)) {
        let digest = self.databases.selected().digest;
        change(self);
        self.databases.selected_mut().digest = digest;
    }

    /// Returns the approximate memory usage of all databases, in bytes, including the indexes of
    /// keys. O(1).
    pub(in crate::kv) fn memory(&self) -> usize {
        let bytes = self.databases.used().map(|(_, database)| {
            database.entry_bytes + database.shards.table_bytes() + database.key_index.bytes()
        });
        bytes.sum::<usize>() + self.scripts.bytes() + self.functions.memory()
    }

    /// Returns the number of operations applied so far, including the one that is being applied.
    pub(in crate::kv) fn revision(&self) -> u64 {
        self.revision
    }
}

/// Methods that change the keyspace.
impl Keyspace {
    /// Increments the number of applied operations, before an operation is applied. Each key that
    /// the operation changes stores the new number as its revision.
    pub(in crate::kv) fn begin_command(&mut self) {
        self.revision += 1;
    }

    /// Sets the number of applied operations to `revision`, when the state is restored from a
    /// snapshot.
    pub(in crate::kv) fn restore_revision(&mut self, revision: u64) {
        self.revision = revision;
        self.restart_history(revision);
    }

    /// Sets a key to a string, without expiration. Copies `value`, because sharing its memory would
    /// keep a whole log entry in memory for one small value.
    pub(in crate::kv) fn put(&mut self, key: &[u8], value: &[u8]) {
        self.put_expiring(key, value, None);
    }

    /// Sets a key to a string that expires at `expires_at`, a time in milliseconds since 1970.
    pub(in crate::kv) fn put_expiring(
        &mut self,
        key: &[u8],
        value: &[u8],
        expires_at: Option<Millis>,
    ) {
        self.upsert(key, Value::String(value), expires_at);
    }

    /// Sets a key to a string, and keeps the key's expiration time, if it has one.
    pub(in crate::kv) fn put_keep_ttl(&mut self, key: &[u8], value: &[u8]) {
        self.put_expiring(key, value, self.expires_at(key));
    }

    /// Applies `edit` to the string at a key, or to an empty string if the key does not exist, and
    /// then extends the string with zero bytes to `length_min` bytes. `edit` must not extend it
    /// further. Keeps the key's expiration time. `edit` returns a result for the caller, and
    /// whether it changed the string. Returns the result, and whether the string was changed,
    /// extended or created. A long string is changed in place, a short one is copied.
    ///
    /// # Errors
    /// If the value is not a string.
    pub(in crate::kv) fn edit_string<R>(
        &mut self,
        key: &[u8],
        length_min: usize,
        edit: impl FnOnce(&mut StringEdit<'_>) -> (R, bool),
    ) -> Result<(R, bool), WrongType> {
        let entry = self.string_entry(key)?;
        let old = entry.map(KeyEntry::string).unwrap_or_default();
        let grows = entry.is_none() || old.len() < length_min;
        let expires_at = entry.and_then(KeyEntry::expires_at);
        let Some(short) = old.short() else {
            return Ok(self.edit_long_string(key, length_min, grows, edit));
        };
        if length_min < LONG_BYTES_MIN {
            let mut value = Vec::with_capacity(short.len().max(length_min));
            value.extend_from_slice(short);
            let (result, changed) = edit(&mut StringEdit::Short(&mut value));
            value.resize(value.len().max(length_min), 0);
            if changed || grows {
                self.upsert(key, Value::String(&value), expires_at);
            }
            return Ok((result, changed || grows));
        }
        let mut string = LongString::from(short);
        let (result, _) = edit(&mut StringEdit::Long(&mut string));
        string.extend_with_zeros(length_min);
        self.upsert(key, Value::LongString(string), expires_at);
        Ok((result, true))
    }

    /// Applies `edit` to the long string at a key, which must exist, and then extends the string
    /// with zero bytes to `length_min` bytes. [`Keyspace::edit_string`] calls this with its own
    /// `length_min`, and sets `grows` if the string is shorter than that: the string then counts as
    /// changed even if `edit` changes nothing.
    fn edit_long_string<R>(
        &mut self,
        key: &[u8],
        length_min: usize,
        grows: bool,
        edit: impl FnOnce(&mut StringEdit<'_>) -> (R, bool),
    ) -> (R, bool) {
        let revision = self.revision;
        self.modify(
            key_hash(key),
            |entry| entry.key() == key,
            |entry| {
                let change = |string: &mut LongString| {
                    let (result, changed) = edit(&mut StringEdit::Long(string));
                    string.extend_with_zeros(length_min);
                    (result, changed || grows)
                };
                let changed = entry.change_long_string(change).expect("a long string");
                if changed.1 {
                    entry.mark_changed(revision);
                }
                changed
            },
        )
    }

    /// Sets a key to a collection (hash, list, set or sorted set), without expiration.
    pub(in crate::kv) fn put_collection(&mut self, key: &[u8], collection: Collection) {
        self.upsert(key, Value::Collection(collection), None);
    }

    /// Copies the value and the expiration time of the key `from` to the key `to`. Both share the
    /// memory of the value, unless it is a short string. Returns false, and changes nothing, if
    /// `from` does not exist.
    pub(in crate::kv) fn copy(&mut self, from: &[u8], to: &[u8]) -> bool {
        self.copy_to(from, (self.database(), to))
    }

    /// Copies like [`Keyspace::copy`] to a key in the database `id`.
    pub(in crate::kv) fn copy_to(&mut self, from: &[u8], (id, to): (DatabaseId, &[u8])) -> bool {
        let Some(entry) = self.entry(from).cloned() else { return false };
        self.within_mut(id, |it| it.upsert(to, entry.cloned_value(), entry.expires_at()));
        true
    }

    /// Applies `change` to the collection at a key, or to a new empty collection if the key does
    /// not exist, and removes the key if the collection is empty afterwards. `change` returns a
    /// result for the caller, and whether it changed the collection.
    ///
    /// # Errors
    /// If the value is not a collection of type `C`.
    pub(in crate::kv) fn update<C: CollectionType, R>(
        &mut self,
        key: &[u8],
        change: impl FnOnce(&mut C) -> (R, bool),
    ) -> Result<R, WrongType> {
        if self.collection::<C>(key)?.is_none() {
            self.put_collection(key, C::wrap(Arc::new(C::default())));
        }
        Ok(self.update_collection(key, change))
    }

    /// Applies `change` to the collection at a key, like [`Keyspace::update`]. Returns `None`,
    /// without calling `change`, if the key does not exist.
    ///
    /// # Errors
    /// If the value is not a collection of type `C`.
    pub(in crate::kv) fn update_existing<C: CollectionType, R>(
        &mut self,
        key: &[u8],
        change: impl FnOnce(&mut C) -> (R, bool),
    ) -> Result<Option<R>, WrongType> {
        if self.collection::<C>(key)?.is_none() {
            return Ok(None);
        }
        Ok(Some(self.update_collection(key, change)))
    }

    /// Applies `change` to the collection at a key, which must exist and have a value of type `C`,
    /// and removes the key if the collection is empty afterwards. `change` returns a result for the
    /// caller, and whether it changed the collection.
    fn update_collection<C: CollectionType, R>(
        &mut self,
        key: &[u8],
        change: impl FnOnce(&mut C) -> (R, bool),
    ) -> R {
        let revision = self.revision;
        let (result, is_empty) = self.modify(
            key_hash(key),
            |entry| entry.key() == key,
            |entry| {
                let change = |collection: &mut Collection| {
                    let content =
                        Arc::make_mut(C::get_mut(collection).expect("the type was checked"));
                    let (result, changed) = change(content);
                    (result, changed, content.is_empty())
                };
                let changed = entry.change_collection(change);
                let (result, changed, is_empty) = changed.expect("the type was checked");
                if changed {
                    entry.mark_changed(revision);
                }
                (result, is_empty)
            },
        );
        if is_empty {
            self.remove(key);
        }
        result
    }

    /// Sets the expiration time of a key, which must exist, to `expires_at`, in milliseconds since
    /// 1970; `None` removes the expiration time.
    pub(in crate::kv) fn set_expiry(&mut self, key: &[u8], expires_at: Option<Millis>) {
        let revision = self.revision;
        self.modify(
            key_hash(key),
            |entry| entry.key() == key,
            |entry| {
                entry.set_expiry(expires_at);
                entry.mark_changed(revision);
            },
        );
    }

    /// Applies `change` to the entry whose key has the hash `hash` and for which `is_it` returns
    /// true. The entry must exist. Updates the keyspace's digest, memory usage and expiration index
    /// accordingly, and returns the result of `change`.
    fn modify<R>(
        &mut self,
        hash: u64,
        is_it: impl FnMut(&KeyEntry) -> bool,
        change: impl FnOnce(&mut KeyEntry) -> R,
    ) -> R {
        let database = self.databases.selected_mut();
        let entry = database.shards.find_mut(hash, is_it).expect("the key exists");
        let (fingerprint, bytes) = (entry.fingerprint(), entry.heap_bytes());
        let expires_at = entry.expires_at();
        let result = change(entry);
        database.digest.remove(fingerprint);
        database.digest.add(entry.fingerprint());
        database.entry_bytes = database.entry_bytes - bytes + entry.heap_bytes();
        database.expirations.update(hash, expires_at, entry.expires_at());
        result
    }

    /// Sets the value and the expiration time of a key, which is created if it does not exist.
    fn upsert(&mut self, key: &[u8], value: Value<'_>, expires_at: Option<Millis>) {
        let (hash, value) = (key_hash(key), value.stored());
        let metadata = Metadata::new(value.fingerprint(hash), expires_at, self.revision);
        let id = self.database();
        let Database { shards, digest, entry_bytes, expirations, key_index, .. } =
            self.databases.selected_mut();
        let (expired, unlinked) = (&mut self.counts.expired, &mut self.unlinked);
        let (events, clock) = (&mut self.events, self.clock.millis);
        let revision = self.revision;
        digest.add(metadata.fingerprint());
        shards.put(
            hash,
            |entry| entry.key() == key,
            |slot| match slot {
                Entry::Occupied(mut slot) => {
                    let entry = slot.get_mut();
                    digest.remove(entry.fingerprint());
                    let bytes = entry.heap_bytes();
                    *entry_bytes -= bytes;
                    let before = entry.expires_at();
                    if entry.is_expired(clock) {
                        note_expired(expired, events, revision, (id, key));
                        events.note_new(id, key);
                    }
                    if let Some(replaced) = entry.replace(value, metadata) {
                        unlinked.add(replaced, bytes);
                    }
                    expirations.update(hash, before, entry.expires_at());
                    *entry_bytes += entry.heap_bytes();
                }
                Entry::Vacant(slot) => {
                    let entry = KeyEntry::new(key, value, metadata);
                    expirations.update(hash, None, entry.expires_at());
                    *entry_bytes += entry.heap_bytes();
                    slot.insert(entry);
                    key_index.insert(key);
                    events.note_new(id, key);
                }
            },
        );
    }

    /// Removes a key, and records a `del` keyspace notification. Returns false, and records
    /// nothing, if the key did not exist or had expired.
    pub(in crate::kv) fn delete(&mut self, key: &[u8]) -> bool {
        let existed = self.remove(key);
        if existed {
            self.notify("del", key);
        }
        existed
    }

    /// Removes a key. Returns whether the key existed and had not expired. Records no keyspace
    /// notification, except for `expired` if the key had expired.
    pub(in crate::kv) fn remove(&mut self, key: &[u8]) -> bool {
        let shards = &mut self.databases.selected_mut().shards;
        let removed = shards.remove(key_hash(key), |entry| entry.key() == key);
        let Some(entry) = removed else { return false };
        let is_expired = self.is_expired(&entry);
        self.unlink(entry);
        if is_expired {
            let key = (self.database(), key);
            note_expired(&mut self.counts.expired, &mut self.events, self.revision, key);
        }
        !is_expired
    }

    /// Updates the digest, the memory usage and the indexes of the selected database after `entry`
    /// was removed from its hash table. Frees the entry, or collects it if that takes long.
    fn unlink(&mut self, entry: KeyEntry) {
        let Database { shards, digest, entry_bytes, expirations, key_index, .. } =
            self.databases.selected_mut();
        digest.remove(entry.fingerprint());
        expirations.update(entry.key_hash(), entry.expires_at(), None);
        key_index.remove(entry.key());
        let bytes = entry.heap_bytes();
        assert!(bytes <= *entry_bytes, "{bytes} of {entry_bytes} bytes removed");
        *entry_bytes -= bytes;
        if shards.len() == 0 {
            let sums = (*digest, *entry_bytes, expirations.len());
            assert_eq!(sums, (Digest::default(), 0, 0), "sums of an empty database");
        }
        self.unlinked.add(entry, bytes);
    }
}

/// Counts an expired key that the operation with the number `revision` removes or replaces, and
/// records the event `expired`.
fn note_expired(
    expired: &mut u64,
    events: &mut Events,
    revision: u64,
    (database, key): (DatabaseId, &[u8]),
) {
    *expired += 1;
    events.note_key(revision, "expired", (database, key));
}

#[cfg(test)]
impl Keyspace {
    /// Recomputes the digest, the memory usage and the counts of each database from its entries,
    /// and asserts that the stored ones are equal.
    pub(in crate::kv) fn check_sums(&self) {
        assert_eq!(self.database(), DatabaseId::FIRST, "no command is running");
        for id in DatabaseId::all() {
            self.within(id, Keyspace::check_database);
        }
    }

    fn check_database(&self) {
        let (mut digest, mut bytes, mut expire_count) = (Digest::default(), 0, 0);
        for entry in self.entries() {
            digest.add(entry.fingerprint());
            bytes += entry.heap_bytes();
            expire_count += usize::from(entry.expires_at().is_some());
        }
        let Database { digest: sum, entry_bytes, expirations, .. } = self.databases.selected();
        let sums = (*sum, *entry_bytes, expirations.len(), self.len());
        assert_eq!(sums, (digest, bytes, expire_count, self.entries().count()));
        self.check_key_index();
    }
}

/// Methods for writing and restoring snapshots.
impl Keyspace {
    /// Returns an immutable copy of the keys, the clock, the scripts and the functions, for reads.
    /// Takes the same time for any number of keys; the first write to a shared table copies that
    /// table.
    pub(in crate::kv) fn frozen(&mut self) -> Keyspace {
        Keyspace {
            databases: self.databases.frozen(),
            clock: self.clock,
            revision: self.revision,
            scripts: self.scripts.clone(),
            functions: self.functions.clone(),
            ..Keyspace::default()
        }
    }

    /// Returns an immutable copy-on-write view of the tables of each database. Takes the same time
    /// for any number of keys; the first write to a shared table copies that table.
    pub(in crate::kv) fn share(&mut self) -> Vec<SharedDatabase> {
        let mut shared = Vec::new();
        self.for_each_database(|keyspace| {
            let (id, swapped_at) = (keyspace.database(), keyspace.swapped_at());
            let tables = keyspace.databases.selected_mut().shards.share();
            shared.push(SharedDatabase { id, swapped_at, tables });
        });
        shared
    }

    /// Inserts an entry that was decoded from a snapshot. Returns false if the key already existed.
    pub(in crate::kv) fn restore(&mut self, restored: RestoredEntry<'_>) -> bool {
        let RestoredEntry { key, value, revision, expires_at } = restored;
        let shards = &self.databases.selected().shards;
        let is_new = shards.find(key_hash(key), |entry| entry.key() == key).is_none();
        let current = std::mem::replace(&mut self.revision, revision);
        self.upsert(key, value, expires_at);
        self.revision = current;
        is_new
    }
}
