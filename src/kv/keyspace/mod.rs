//! The keyspace: all keys with their values and expirations, the replicated clock, and the events
//! for this replica's subscribers.
//!
//! For callers, an expired key does not exist, even if it has not been removed yet. Every change
//! updates the digest, the memory usage and the expiration index. The keyspace is independent of
//! commands.

pub(in crate::kv) mod clock;
pub(in crate::kv) mod entry;
pub(in crate::kv) mod events;
pub(in crate::kv) mod expiration;
pub(in crate::kv) mod restore;
pub(in crate::kv) mod shards;
pub(in crate::kv) mod slot;

use std::sync::Arc;

use bytes::Bytes;
use hashbrown::hash_table::Entry;

use crate::kv::values::collection::{Collection, CollectionType, ValueType};
use crate::kv::values::digest::{Digest, key_hash};
use clock::{Millis, ReplicatedClock};
use entry::{KeyEntry, Metadata, Value};
use events::Events;
use expiration::ExpirationIndex;
use restore::RestoredEntry;
use shards::{Shards, Table};

/// The keyspace: all keys with their values and expirations.
///
/// Invariant: `digest` is the sum of the fingerprints of all entries, `entry_bytes` is the sum of
/// their heap memory in bytes, and `expirations` contains every entry that has an expiration time.
/// Nothing depends on the order of entries in the tables.
#[derive(Default)]
pub(in crate::kv) struct Keyspace {
    shards: Shards,
    digest: Digest,
    entry_bytes: usize,
    expirations: ExpirationIndex,
    clock: ReplicatedClock,
    /// Number of operations applied so far, including the current one. It becomes the revision of
    /// every key that the current operation changes.
    revision: u64,
    events: Events,
}

/// Error: the key holds a value of a different type than the caller requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kv) struct WrongType;

/// Methods that read the keyspace.
impl Keyspace {
    /// Returns the entry for a key; `None` if the key does not exist or has expired.
    pub(in crate::kv) fn entry(&self, key: &[u8]) -> Option<&KeyEntry> {
        self.shards
            .find(key_hash(key), |entry| entry.key() == key)
            .filter(|entry| !self.is_expired(entry))
    }

    /// Returns whether an entry has expired at the replicated clock's current reading. An expired
    /// entry stays in its table until it is removed.
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
    pub(in crate::kv) fn string(&self, key: &[u8]) -> Result<Option<&[u8]>, WrongType> {
        Ok(self.string_entry(key)?.map(KeyEntry::value))
    }

    /// Returns the string value of a key as reference-counted bytes, which do not borrow from the
    /// keyspace; `None` if the key does not exist.
    ///
    /// # Errors
    /// If the value is not a string.
    pub(in crate::kv) fn shared_string(&self, key: &[u8]) -> Result<Option<Bytes>, WrongType> {
        Ok(self.string_entry(key)?.map(KeyEntry::shared_value))
    }

    fn string_entry(&self, key: &[u8]) -> Result<Option<&KeyEntry>, WrongType> {
        match self.entry(key) {
            Some(entry) if entry.value_type() != ValueType::String => Err(WrongType),
            entry => Ok(entry),
        }
    }

    /// Returns the collection at a key; `None` if the key does not exist.
    ///
    /// # Errors
    /// If the value is of another type.
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

    /// Returns the revision of a key, which is the number of the operation that last changed the
    /// key; 0 if the key does not exist. `WATCH` compares revisions.
    pub(in crate::kv) fn revision_of(&self, key: &[u8]) -> u64 {
        self.entry(key).map_or(0, KeyEntry::revision)
    }

    /// Returns the number of keys, including expired keys that have not been removed yet.
    pub(in crate::kv) fn len(&self) -> usize {
        self.shards.len()
    }

    /// Iterates over all entries in arbitrary order, including expired ones that have not been
    /// removed yet.
    pub(in crate::kv) fn entries(&self) -> impl Iterator<Item = &KeyEntry> {
        self.shards.iter()
    }

    /// Returns those entries of one hash table for which `wanted` holds. [`Shards::any_table`]
    /// describes which table is chosen.
    pub(in crate::kv) fn any_table(
        &self,
        hash: u64,
        wanted: impl Fn(&KeyEntry) -> bool,
    ) -> impl Iterator<Item = &KeyEntry> {
        self.shards.any_table(hash, wanted)
    }

    /// Returns two values: the entries at or after `scan_position` in the hash table that contains
    /// it, in no particular order; and the first scan position of the next non-empty table, or
    /// [`SCAN_END`] if there is none.
    pub(in crate::kv) fn table_from(&self, scan_position: u64) -> (Vec<&KeyEntry>, u64) {
        self.shards.table_from(scan_position)
    }

    /// Returns an entry whose key has this hash; `None` if there is none. If several keys have the
    /// same hash, returns any one of their entries, so this is only suitable for prefetching.
    pub(in crate::kv) fn entry_with_hash(&self, hash: u64) -> Option<&KeyEntry> {
        self.shards.find(hash, |_| true)
    }

    /// Returns the digest of all entries: the sum of their fingerprints.
    pub(in crate::kv) fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns the approximate memory usage of the keyspace, in bytes. O(1).
    pub(in crate::kv) fn memory(&self) -> usize {
        self.entry_bytes + self.shards.table_bytes()
    }

    /// Returns the number of operations applied to this state so far, including the current one.
    pub(in crate::kv) fn revision(&self) -> u64 {
        self.revision
    }
}

/// Methods that change the keyspace.
impl Keyspace {
    /// Increments the number of applied operations. The new number is the revision of all keys that
    /// the operation that begins now changes.
    pub(in crate::kv) fn begin_command(&mut self) {
        self.revision += 1;
    }

    /// Sets the number of applied operations to `revision`, for a state restored from a snapshot.
    pub(in crate::kv) fn restore_revision(&mut self, revision: u64) {
        self.revision = revision;
    }

    /// Sets a key to a copy of `value`, without expiration. Sharing the bytes of the log record
    /// instead would keep a whole batch of records in memory for one small value.
    pub(in crate::kv) fn put(&mut self, key: &[u8], value: &[u8]) {
        self.put_expiring(key, value, None);
    }

    /// Sets a key to a copy of `value`, with an expiration time in milliseconds since 1970.
    pub(in crate::kv) fn put_expiring(
        &mut self,
        key: &[u8],
        value: &[u8],
        expires_at: Option<Millis>,
    ) {
        self.upsert(key, Value::String(value), expires_at);
    }

    /// Sets a key to a copy of the string `value`, and keeps the key's expiration time, if any.
    pub(in crate::kv) fn put_keep_ttl(&mut self, key: &[u8], value: &[u8]) {
        self.put_expiring(key, value, self.expires_at(key));
    }

    /// Appends `suffix` to the string at a key, and keeps the key's expiration time, if any.
    /// Returns the string's new length in bytes.
    pub(in crate::kv) fn append_string(&mut self, key: &[u8], suffix: &[u8]) -> usize {
        let (old, expires_at) =
            self.entry(key).map_or((&[][..], None), |entry| (entry.value(), entry.expires_at()));
        let value = [old, suffix].concat();
        self.upsert(key, Value::String(&value), expires_at);
        value.len()
    }

    /// Sets a key to a collection, without expiration.
    pub(in crate::kv) fn put_collection(&mut self, key: &[u8], collection: Collection) {
        self.upsert(key, Value::Collection(collection), None);
    }

    /// Copies the value and the expiration time of the key `from` to the key `to`. Returns false,
    /// without copying anything, if `from` does not exist.
    pub(in crate::kv) fn copy(&mut self, from: &[u8], to: &[u8]) -> bool {
        let Some(entry) = self.entry(from).cloned() else { return false };
        let collection = entry.collection().cloned();
        let value = collection.map_or(Value::String(entry.value()), Value::Collection);
        self.upsert(to, value, entry.expires_at());
        true
    }

    /// Applies `change` to the collection at a key, or to a new empty collection if the key does
    /// not exist. `change` returns its result and whether it changed the collection. Removes the
    /// key if the collection is then empty.
    ///
    /// # Errors
    /// If the value is of another type.
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

    /// Like [`Keyspace::update`], but returns `None`, without calling `change`, if the key does not
    /// exist.
    ///
    /// # Errors
    /// If the value is of another type.
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

    /// Applies `change` to the collection at a key, which must exist and have a value of type `C`.
    /// `change` returns its result and whether it changed the collection. Removes the key if the
    /// collection is then empty. Returns the result of `change`.
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

    /// Sets the expiration time of a key, which must exist, to `expires_at`; `None` removes it.
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

    /// Applies `change` to the entry that has this key hash and for which `is_it` holds; such an
    /// entry must exist. Updates the keyspace's digest, memory usage and expiration index, and
    /// returns the result of `change`.
    fn modify<R>(
        &mut self,
        hash: u64,
        is_it: impl FnMut(&KeyEntry) -> bool,
        change: impl FnOnce(&mut KeyEntry) -> R,
    ) -> R {
        let entry = self.shards.find_mut(hash, is_it).expect("the key exists");
        let (fingerprint, bytes) = (entry.fingerprint(), entry.heap_bytes());
        let expires_at = entry.expires_at();
        let result = change(entry);
        self.digest.remove(fingerprint);
        self.digest.add(entry.fingerprint());
        self.entry_bytes = self.entry_bytes - bytes + entry.heap_bytes();
        self.expirations.update(hash, expires_at, entry.expires_at());
        result
    }

    /// Inserts an entry for the key, or replaces the value and the expiration time of its existing
    /// entry.
    fn upsert(&mut self, key: &[u8], value: Value<'_>, expires_at: Option<Millis>) {
        let hash = key_hash(key);
        let metadata = Metadata::new(value.fingerprint(hash), expires_at, self.revision);
        let (digest, entry_bytes) = (&mut self.digest, &mut self.entry_bytes);
        let expirations = &mut self.expirations;
        digest.add(metadata.fingerprint());
        self.shards.put(
            hash,
            |entry| entry.key() == key,
            |slot| match slot {
                Entry::Occupied(mut slot) => {
                    let entry = slot.get_mut();
                    digest.remove(entry.fingerprint());
                    *entry_bytes -= entry.heap_bytes();
                    let before = entry.expires_at();
                    entry.replace(value, metadata);
                    expirations.update(hash, before, entry.expires_at());
                    *entry_bytes += entry.heap_bytes();
                }
                Entry::Vacant(slot) => {
                    let entry = KeyEntry::new(key, value, metadata);
                    expirations.update(hash, None, entry.expires_at());
                    *entry_bytes += entry.heap_bytes();
                    slot.insert(entry);
                }
            },
        );
    }

    /// Removes a key and, if it existed and had not expired, records a `del` keyspace notification.
    /// Returns whether the key existed and had not expired.
    pub(in crate::kv) fn delete(&mut self, key: &[u8]) -> bool {
        let existed = self.remove(key);
        if existed {
            self.notify("del", key);
        }
        existed
    }

    /// Removes a key without recording a keyspace notification. Returns true if the key existed and
    /// had not expired.
    pub(in crate::kv) fn remove(&mut self, key: &[u8]) -> bool {
        let removed = self.shards.remove(key_hash(key), |entry| entry.key() == key);
        let Some(entry) = removed else { return false };
        self.subtract(&entry);
        !self.is_expired(&entry)
    }

    /// Updates the digest, the memory usage and the expiration index after `entry` was removed from
    /// its table.
    fn subtract(&mut self, entry: &KeyEntry) {
        self.digest.remove(entry.fingerprint());
        self.expirations.update(entry.key_hash(), entry.expires_at(), None);
        let bytes = entry.heap_bytes();
        assert!(bytes <= self.entry_bytes, "{bytes} of {} bytes removed", self.entry_bytes);
        self.entry_bytes -= bytes;
        if self.shards.len() == 0 {
            let sums = (self.digest, self.entry_bytes, self.expirations.len());
            assert_eq!(sums, (Digest::default(), 0, 0), "sums of an empty keyspace");
        }
    }

    /// Removes all keys, without recording keyspace notifications.
    pub(in crate::kv) fn clear(&mut self) {
        self.shards = Shards::default();
        self.digest = Digest::default();
        self.expirations.clear();
        self.entry_bytes = 0;
    }
}

#[cfg(test)]
impl Keyspace {
    /// Recomputes the digest, the memory usage and the counts from the entries, and asserts that
    /// the stored ones are equal.
    pub(in crate::kv) fn check_sums(&self) {
        let (mut digest, mut bytes, mut expire_count) = (Digest::default(), 0, 0);
        for entry in self.entries() {
            digest.add(entry.fingerprint());
            bytes += entry.heap_bytes();
            expire_count += usize::from(entry.expires_at().is_some());
        }
        let sums = (self.digest, self.entry_bytes, self.expirations.len(), self.len());
        assert_eq!(sums, (digest, bytes, expire_count, self.entries().count()));
    }
}

/// Methods for writing and restoring snapshots.
impl Keyspace {
    /// Returns an immutable copy-on-write view of all tables. The time does not depend on the
    /// number of keys; the first write to a shared table copies that table.
    pub(in crate::kv) fn share(&mut self) -> Vec<Arc<Table>> {
        self.shards.share()
    }

    /// Inserts an entry that was decoded from a snapshot. Returns false if the key already existed.
    pub(in crate::kv) fn restore(&mut self, restored: RestoredEntry<'_>) -> bool {
        let RestoredEntry { key, value, revision, expires_at } = restored;
        let is_new = self.shards.find(key_hash(key), |entry| entry.key() == key).is_none();
        let current = std::mem::replace(&mut self.revision, revision);
        self.upsert(key, value, expires_at);
        self.revision = current;
        is_new
    }
}
