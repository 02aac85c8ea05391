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
use entry::{KeyEntry, Metadata, Value};
use events::Events;
use expiration::ExpirationIndex;
use functions::Functions;
use key_index::KeyIndex;
use restore::RestoredEntry;
use scripts::Scripts;
use shards::{Shards, Table};
use statistics::Counts;
use unlinked::Unlinked;

/// The keyspace: all keys with their values and expiration times.
///
/// Invariant: `digest` is the sum of the fingerprints (hashes) of all entries, `entry_bytes` is
/// their total heap memory in bytes, and `expirations` contains every entry that has an expiration
/// time. Nothing depends on the order of entries in the hash tables.
#[derive(Default)]
pub(in crate::kv) struct Keyspace {
    shards: Shards,
    digest: Digest,
    entry_bytes: usize,
    expirations: ExpirationIndex,
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
    /// All keys in byte order, if a client has read a range of keys. Not part of the state.
    key_index: KeyIndex,
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
            self.events.note_miss(key);
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
        self.shards
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
        self.uncounted_entry(key).map_or(0, KeyEntry::revision)
    }

    /// Returns the number of keys, including keys that have expired but have not been removed yet.
    pub(in crate::kv) fn len(&self) -> usize {
        self.shards.len()
    }

    /// Iterates over all entries in arbitrary order, including entries that have expired but have
    /// not been removed yet.
    pub(in crate::kv) fn entries(&self) -> impl Iterator<Item = &KeyEntry> {
        self.shards.iter()
    }

    /// Searches the hash tables, starting with the table for the hash `hash` and wrapping around,
    /// for a table with an entry for which `wanted` returns true. Iterates over all such entries in
    /// that table. Used to choose a random key.
    pub(in crate::kv) fn any_table(
        &self,
        hash: u64,
        wanted: impl Fn(&KeyEntry) -> bool,
    ) -> impl Iterator<Item = &KeyEntry> {
        self.shards.any_table(hash, wanted)
    }

    /// Returns two values for `SCAN`: the entries at or after `scan_position` in the hash table
    /// that contains this position, in arbitrary order; and the first position of the next
    /// non-empty table, or [`SCAN_END`] if there is none.
    pub(in crate::kv) fn table_from(&self, scan_position: u64) -> (Vec<&KeyEntry>, u64) {
        self.shards.table_from(scan_position)
    }

    /// Returns an entry whose key has the hash `hash`; `None` if there is none. If different keys
    /// have this hash, returns the entry of any of them, so the result is suitable only for
    /// prefetching.
    pub(in crate::kv) fn entry_with_hash(&self, hash: u64) -> Option<&KeyEntry> {
        self.shards.find(hash, |_| true)
    }

    /// Returns the digest of the keyspace, for comparing replicas: the sum of the fingerprints
    /// (hashes) of all entries.
    pub(in crate::kv) fn digest(&self) -> Digest {
        self.digest
    }

    /// Sets the digest to one that need not be the sum of the fingerprints, as if bits of a value
    /// had flipped in memory.
    pub(in crate::kv) fn falsify_digest(&mut self, digest: Digest) {
        self.digest = digest;
    }

    /// Returns the approximate memory usage of the keyspace, in bytes, including the index of keys.
    /// O(1).
    pub(in crate::kv) fn memory(&self) -> usize {
        self.entry_bytes + self.shards.table_bytes() + self.key_index.bytes() + self.kept_bytes()
    }

    /// Returns the approximate memory usage of the scripts and functions that the cluster keeps, in
    /// bytes.
    pub(in crate::kv::keyspace) fn kept_bytes(&self) -> usize {
        self.scripts.bytes() + self.functions.memory()
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
        let Some(entry) = self.entry(from).cloned() else { return false };
        self.upsert(to, entry.cloned_value(), entry.expires_at());
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

    /// Sets the value and the expiration time of a key, which is created if it does not exist.
    fn upsert(&mut self, key: &[u8], value: Value<'_>, expires_at: Option<Millis>) {
        let (hash, value) = (key_hash(key), value.stored());
        let metadata = Metadata::new(value.fingerprint(hash), expires_at, self.revision);
        let (digest, entry_bytes) = (&mut self.digest, &mut self.entry_bytes);
        let (expirations, expired) = (&mut self.expirations, &mut self.counts.expired);
        let (events, clock) = (&mut self.events, self.clock.millis);
        let revision = self.revision;
        let (key_index, unlinked) = (&mut self.key_index, &mut self.unlinked);
        digest.add(metadata.fingerprint());
        self.shards.put(
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
                        note_expired(expired, events, revision, key);
                        events.note_new(key);
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
                    events.note_new(key);
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
        let removed = self.shards.remove(key_hash(key), |entry| entry.key() == key);
        let Some(entry) = removed else { return false };
        let is_expired = self.is_expired(&entry);
        self.unlink(entry);
        if is_expired {
            note_expired(&mut self.counts.expired, &mut self.events, self.revision, key);
        }
        !is_expired
    }

    /// Updates the keyspace's digest, memory usage and indexes after `entry` was removed from its
    /// hash table. Frees the entry, or collects it if that takes long.
    fn unlink(&mut self, entry: KeyEntry) {
        self.digest.remove(entry.fingerprint());
        self.expirations.update(entry.key_hash(), entry.expires_at(), None);
        self.key_index.remove(entry.key());
        let bytes = entry.heap_bytes();
        assert!(bytes <= self.entry_bytes, "{bytes} of {} bytes removed", self.entry_bytes);
        self.entry_bytes -= bytes;
        if self.shards.len() == 0 {
            let sums = (self.digest, self.entry_bytes, self.expirations.len());
            assert_eq!(sums, (Digest::default(), 0, 0), "sums of an empty keyspace");
        }
        self.unlinked.add(entry, bytes);
    }
}

/// Counts an expired key that the operation with the number `revision` removes or replaces, and
/// records the event `expired`.
fn note_expired(expired: &mut u64, events: &mut Events, revision: u64, key: &[u8]) {
    *expired += 1;
    events.note_key(revision, "expired", key);
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
            shards: self.shards.copy(),
            clock: self.clock,
            revision: self.revision,
            scripts: self.scripts.clone(),
            functions: self.functions.clone(),
            ..Keyspace::default()
        }
    }

    /// Returns an immutable copy-on-write view of all tables. Takes the same time for any number of
    /// keys; the first write to a shared table copies that table.
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
