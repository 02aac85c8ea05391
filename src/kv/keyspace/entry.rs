//! A key and its value in one allocation, because a lookup of the key is usually followed by an
//! access to the value, and each allocation costs a cache miss. A hash table holds only one word (a
//! pointer) per entry, so tables are small and fast to copy.
//!
//! ```text
//! count 8 | length 8 | fingerprint 8 | meta 8 | collection 8 |
//! [expiry 8] [key length 4] key string
//! ```

use std::hint::black_box;
use std::num::NonZeroU64;

use bytes::Bytes;
use triomphe::{Arc, ThinArc};

use crate::kv::keyspace::clock::Millis;
use crate::kv::values::collection::{Collection, ValueType};
use crate::kv::values::digest::{fingerprint, key_hash, mix};
use crate::kv::values::number::parse_integer;

/// Approximate overhead in bytes of a heap allocation: the allocator's bookkeeping and rounding.
const ALLOCATION_BYTES: usize = 16;
/// Size in bytes of the two words before the header in an entry's heap allocation: the reference
/// count and the length.
const COUNT_BYTES: usize = 16;
/// Maximum length in bytes of a string that Redis encodes as `embstr` (`OBJECT ENCODING`).
const EMBEDDED_MAX: usize = 44;
/// Maximum length in bytes of a string value that is copied into a reply. A reply shares a longer
/// value with the entry by reference counting, which would cost more than copying for a short
/// value.
const COPIED_BYTES_MAX: usize = 1_024;
/// Size in bytes of a cache line of most processors.
const CACHE_LINE_BYTES: usize = 64;
/// Maximum number of cache lines that are loaded explicitly before an entry is encoded. The
/// processor prefetches the rest of a longer entry itself.
const FETCHED_LINES_MAX: usize = 8;
/// Maximum size in bytes of an entry that is assembled on the stack before it is allocated.
const STACK_BYTES: usize = 512;

/// An entry of the keyspace: a key with its value, expiration and revision. Snapshots and replies
/// may share an entry's memory; while they do, a change first copies the entry.
#[derive(Clone)]
pub(in crate::kv) struct KeyEntry(ThinArc<Header, u8>);

/// The fixed-size header in front of the key and value bytes in an entry's allocation.
#[derive(Clone)]
struct Header {
    /// Hash of the entry's key, value and expiration time; the keyspace's digest is the sum of
    /// these hashes. Stored so that removing the entry does not require reading its value.
    fingerprint: u64,
    meta: PackedMeta,
    /// The entry's value if it is a collection; `None` if the value is a string.
    collection: Option<Box<Collection>>,
}

/// An entry's revision, the length of its key (if short), and whether the entry expires, packed
/// into 64 bits.
#[derive(Clone, Copy, PartialEq, Eq)]
struct PackedMeta(u64);

/// Metadata of an entry: its fingerprint, revision and expiration time.
#[derive(Clone, Copy)]
pub(in crate::kv) struct Metadata {
    fingerprint: u64,
    /// Revision of the entry: number of the operation that last changed it.
    revision: u64,
    /// Expiration time of the entry, in milliseconds since 1970; `None` if the entry does not
    /// expire.
    expires_at: Option<NonZeroU64>,
}

/// The value of a key: a string or a collection.
pub(in crate::kv) enum Value<'v> {
    String(&'v [u8]),
    Collection(Collection),
}

/// Maximum revision of an entry, limited by the number of bits that store it: enough for a million
/// operations per second for a century.
pub(in crate::kv) const REVISION_MAX: u64 = (1 << PackedMeta::REVISION_BITS) - 1;

impl PackedMeta {
    const REVISION_BITS: u32 = 52;
    /// Maximum length in bytes of a key whose length is packed into the metadata word. The length
    /// of a longer key is stored before the key.
    const SHORT_KEY_BYTES_MAX: usize = (1 << 11) - 2;
    const LONG_KEY: u64 = (1 << 11) - 1;
    const EXPIRES: u64 = 1 << 63;
    const EXPIRY_BYTES: usize = size_of::<u64>();
    const LENGTH_BYTES: usize = size_of::<u32>();

    fn new(key: &[u8], metadata: &Metadata) -> PackedMeta {
        let length = if key.len() > PackedMeta::SHORT_KEY_BYTES_MAX {
            PackedMeta::LONG_KEY
        } else {
            key.len() as u64
        };
        let expires = if metadata.expires_at.is_some() { PackedMeta::EXPIRES } else { 0 };
        PackedMeta(length << PackedMeta::REVISION_BITS | expires).with_revision(metadata.revision)
    }

    /// Returns a copy of the metadata word in which the revision is `revision`.
    fn with_revision(self, revision: u64) -> PackedMeta {
        assert!(revision <= REVISION_MAX, "revision {revision} does not fit into an entry");
        PackedMeta(self.0 >> PackedMeta::REVISION_BITS << PackedMeta::REVISION_BITS | revision)
    }

    fn revision(self) -> u64 {
        self.0 & REVISION_MAX
    }

    /// Returns whether the entry has an expiration time. If so, the entry's bytes start with it.
    fn expires(self) -> bool {
        self.0 & PackedMeta::EXPIRES != 0
    }

    /// Returns the offsets of the start and the end (exclusive) of the key in `bytes`, which are
    /// the bytes after the header of the entry.
    fn key(self, bytes: &[u8]) -> (usize, usize) {
        let start = if self.expires() { PackedMeta::EXPIRY_BYTES } else { 0 };
        let length = self.0 >> PackedMeta::REVISION_BITS & PackedMeta::LONG_KEY;
        if length < PackedMeta::LONG_KEY {
            return (start, start + length as usize);
        }
        let key = start + PackedMeta::LENGTH_BYTES;
        let length = bytes[start..key].try_into().expect("four bytes");
        (key, key + u32::from_le_bytes(length) as usize)
    }
}

impl Value<'_> {
    /// Returns the fingerprint (hash) of an entry that has this value, a key with the hash
    /// `key_hash`, and no expiration time.
    pub(in crate::kv) fn fingerprint(&self, key_hash: u64) -> u64 {
        match self {
            Value::String(value) => fingerprint(key_hash, value),
            Value::Collection(collection) => collection_fingerprint(key_hash, collection),
        }
    }
}

impl KeyEntry {
    pub(in crate::kv) fn new(key: &[u8], new_value: Value<'_>, metadata: Metadata) -> KeyEntry {
        let (collection, value) = match new_value {
            Value::String(value) => (None, value),
            Value::Collection(collection) => (Some(Box::new(collection)), &[][..]),
        };
        let meta = PackedMeta::new(key, &metadata);
        let header = Header { fingerprint: metadata.fingerprint, meta, collection };
        let expiry = metadata.expires_at.map(|expiry| expiry.get().to_le_bytes());
        let expiry = expiry.as_ref().map_or(&[][..], |expiry| expiry);
        let length = u32::try_from(key.len()).expect("a key is far shorter than 4 GiB");
        let length = length.to_le_bytes();
        let length = if key.len() > PackedMeta::SHORT_KEY_BYTES_MAX { &length[..] } else { &[] };
        KeyEntry(concatenate(header, [expiry, length, key, value]))
    }

    /// Replaces the entry's value and metadata. Reuses the allocation if the old and the new value
    /// are strings of equal length, the entry expires both before and after or not at all, and the
    /// memory is not shared.
    pub(in crate::kv) fn replace(&mut self, new_value: Value<'_>, metadata: Metadata) {
        if let Value::String(value) = &new_value
            && self.rewrite(value, metadata)
        {
            return;
        }
        *self = KeyEntry::new(self.key(), new_value, metadata);
    }

    /// Overwrites the string value and the metadata in place, and returns true. Returns false, and
    /// changes nothing, if the length of the value would change, if the entry would gain or lose an
    /// expiration time, or if the memory is shared.
    fn rewrite(&mut self, value: &[u8], metadata: Metadata) -> bool {
        let meta = self.meta();
        let (_, key_end) = meta.key(&self.0.slice);
        let fits = meta.expires() == metadata.expires_at.is_some()
            && self.0.slice.len() == key_end + value.len()
            && self.0.header.header.collection.is_none();
        fits && self.0.with_arc_mut(|memory| {
            let Some(memory) = Arc::get_mut(memory) else { return false };
            let bytes = memory.slice_mut();
            bytes[key_end..].copy_from_slice(value);
            if let Some(expiry) = metadata.expires_at {
                write_expiry(bytes, expiry);
            }
            let header = memory.header_mut();
            (header.fingerprint, header.meta) =
                (metadata.fingerprint, meta.with_revision(metadata.revision));
            true
        })
    }

    fn meta(&self) -> PackedMeta {
        self.0.header.header.meta
    }

    pub(in crate::kv) fn key(&self) -> &[u8] {
        let (start, end) = self.meta().key(&self.0.slice);
        &self.0.slice[start..end]
    }

    /// Returns the entry's string value; an empty string if the value is a collection.
    pub(in crate::kv) fn value(&self) -> &[u8] {
        let (_, key_end) = self.meta().key(&self.0.slice);
        &self.0.slice[key_end..]
    }

    /// Returns the string value as reference-counted bytes. They share the entry's memory if the
    /// string is longer than [`COPIED_BYTES_MAX`], and are a copy otherwise.
    pub(in crate::kv) fn shared_value(&self) -> Bytes {
        if self.value().len() > COPIED_BYTES_MAX {
            Bytes::from_owner(Shared(self.clone()))
        } else {
            Bytes::copy_from_slice(self.value())
        }
    }

    /// Returns a copy of the entry's key as reference-counted bytes.
    pub(in crate::kv) fn shared_key(&self) -> Bytes {
        Bytes::copy_from_slice(self.key())
    }

    pub(in crate::kv) fn collection(&self) -> Option<&Collection> {
        self.0.header.header.collection.as_deref()
    }

    /// Applies `change` to the entry's collection, and returns the result of `change`; `None` if
    /// the value is a string.
    pub(in crate::kv) fn change_collection<R>(
        &mut self,
        change: impl FnOnce(&mut Collection) -> R,
    ) -> Option<R> {
        self.collection()?;
        self.change(|header| header.collection.as_deref_mut().map(change))
    }

    /// Applies `change` to the entry's header, after copying the entry if its memory is shared.
    /// Returns the result of `change`.
    fn change<R>(&mut self, change: impl FnOnce(&mut Header) -> R) -> R {
        if ThinArc::strong_count(&self.0) > 1 {
            let header = self.0.header.header.clone();
            self.0 = ThinArc::from_header_and_slice(header, &self.0.slice);
        }
        // The memory is not shared any more, and `&mut self` prevents new clones.
        self.0.with_arc_mut(|memory| {
            change(Arc::get_mut(memory).expect("the only reference").header_mut())
        })
    }

    pub(in crate::kv) fn value_type(&self) -> ValueType {
        self.collection().map_or(ValueType::String, Collection::value_type)
    }

    /// Returns the name of the encoding that Redis uses for the entry's value (`OBJECT ENCODING`).
    pub(in crate::kv) fn encoding(&self) -> &'static str {
        match self.collection() {
            Some(collection) => collection.encoding(),
            None if parse_integer(self.value()).is_some() => "int",
            None if self.value().len() <= EMBEDDED_MAX => "embstr",
            None => "raw",
        }
    }

    pub(in crate::kv) fn revision(&self) -> u64 {
        self.meta().revision()
    }

    /// Returns the hash of the entry's key, value and expiration time. The keyspace's digest is the
    /// sum of the fingerprints of all entries.
    pub(in crate::kv) fn fingerprint(&self) -> u64 {
        self.0.header.header.fingerprint
    }

    pub(in crate::kv) fn expires_at(&self) -> Option<Millis> {
        self.expiry().map(NonZeroU64::get)
    }

    fn expiry(&self) -> Option<NonZeroU64> {
        let bytes = self.0.slice.first_chunk().filter(|_| self.meta().expires());
        bytes.and_then(|bytes| NonZeroU64::new(u64::from_le_bytes(*bytes)))
    }

    /// Returns whether the entry has expired when the replicated clock shows `clock`.
    pub(in crate::kv) fn is_expired(&self, clock: Millis) -> bool {
        self.expires_at().is_some_and(|expiry| expiry <= clock)
    }

    /// Sets the entry's expiration time, in milliseconds since 1970; `None` removes it. The caller
    /// must call [`KeyEntry::mark_changed`] afterwards to recompute the fingerprint.
    pub(in crate::kv) fn set_expiry(&mut self, expires_at: Option<Millis>) {
        let expires_at = expiry(expires_at);
        if let Some(expiry) = expires_at
            && self.meta().expires()
            && self.0.with_arc_mut(|memory| {
                Arc::get_mut(memory)
                    .map(|memory| write_expiry(memory.slice_mut(), expiry))
                    .is_some()
            })
        {
            return;
        }
        let metadata =
            Metadata { fingerprint: self.fingerprint(), revision: self.revision(), expires_at };
        let new_value = match self.collection() {
            None => Value::String(self.value()),
            Some(collection) => Value::Collection(collection.clone()),
        };
        *self = KeyEntry::new(self.key(), new_value, metadata);
    }

    /// Sets the entry's revision to the number of the operation that changed it, and recomputes its
    /// fingerprint.
    pub(in crate::kv) fn mark_changed(&mut self, revision: u64) {
        let fingerprint = self.compute_fingerprint();
        self.change(|header| {
            (header.fingerprint, header.meta) = (fingerprint, header.meta.with_revision(revision));
        });
    }

    fn compute_fingerprint(&self) -> u64 {
        let key_hash = self.key_hash();
        let content = match self.collection() {
            None => fingerprint(key_hash, self.value()),
            Some(collection) => collection_fingerprint(key_hash, collection),
        };
        with_expiry(content, self.expiry())
    }

    /// Reads the entry's memory to load it into the processor's cache (prefetch).
    pub(in crate::kv) fn fetch(&self) {
        // Without `black_box`, the compiler would remove the reads.
        black_box((self.revision(), self.value().last().copied()));
    }

    /// Reads the start of the entry's memory, which contains the reference count, to load it into
    /// the processor's cache.
    pub(in crate::kv) fn fetch_start(&self) {
        black_box(self.revision());
    }

    /// Reads all of the entry's memory, up to [`FETCHED_LINES_MAX`] cache lines, to load it into
    /// the processor's cache. Unlike the reads of [`KeyEntry::fetch`], these do not depend on each
    /// other, so the cache misses of many entries overlap.
    pub(in crate::kv) fn fetch_all(&self) {
        self.fetch_start();
        for line in self.0.slice.chunks(CACHE_LINE_BYTES).take(FETCHED_LINES_MAX) {
            black_box(line[0]);
        }
    }

    /// Returns the hash of the entry's key.
    pub(in crate::kv) fn key_hash(&self) -> u64 {
        key_hash(self.key())
    }

    /// Returns the approximate memory usage of the entry, in bytes, including the pointer to it in
    /// the hash table.
    pub(in crate::kv) fn memory(&self) -> usize {
        size_of::<KeyEntry>() + self.heap_bytes()
    }

    /// Returns the approximate heap memory usage of the entry, in bytes, excluding the pointer to
    /// it in the hash table.
    pub(in crate::kv) fn heap_bytes(&self) -> usize {
        let collection =
            self.collection().map_or(0, |collection| size_of::<Collection>() + collection.bytes());
        COUNT_BYTES + size_of::<Header>() + self.0.slice.len() + ALLOCATION_BYTES + collection
    }
}

impl Metadata {
    /// Returns the metadata of an entry. `fingerprint` is the fingerprint that the entry would have
    /// without an expiration time.
    pub(in crate::kv) fn new(
        fingerprint: u64,
        expires_at: Option<Millis>,
        revision: u64,
    ) -> Metadata {
        let expires_at = expiry(expires_at);
        Metadata { fingerprint: with_expiry(fingerprint, expires_at), revision, expires_at }
    }

    /// Returns the hash of the entry's key, value and expiration time, like
    /// [`KeyEntry::fingerprint`].
    pub(in crate::kv) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

/// A handle that keeps an entry allocated while a reply shares the memory of the entry's string.
struct Shared(KeyEntry);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.value()
    }
}

/// Writes the expiration time, in milliseconds since 1970, into the first 8 bytes of `bytes`, the
/// bytes of an entry whose key expires.
fn write_expiry(bytes: &mut [u8], expiry: NonZeroU64) {
    bytes[..PackedMeta::EXPIRY_BYTES].copy_from_slice(&expiry.get().to_le_bytes());
}

/// Allocates an entry that consists of `header`, followed by the concatenation of `parts`.
fn concatenate(header: Header, parts: [&[u8]; 4]) -> ThinArc<Header, u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    if length > STACK_BYTES {
        return ThinArc::from_header_and_slice(header, &parts.concat());
    }
    let mut bytes = [0; STACK_BYTES];
    let mut end = 0;
    for part in parts {
        bytes[end..end + part.len()].copy_from_slice(part);
        end += part.len();
    }
    ThinArc::from_header_and_slice(header, &bytes[..length])
}

/// Returns the fingerprint of an entry that has this collection, a key with the hash `key_hash`,
/// and no expiration time.
fn collection_fingerprint(key_hash: u64, collection: &Collection) -> u64 {
    mix(mix(key_hash, collection.value_type() as u64 + 1), collection.digest())
}

/// Returns the fingerprint of an entry with the expiration time `expiry`, given its `fingerprint`
/// without one. `None` for `expiry` returns `fingerprint` unchanged.
fn with_expiry(fingerprint: u64, expiry: Option<NonZeroU64>) -> u64 {
    expiry.map_or(fingerprint, |expiry| mix(fingerprint, expiry.get()))
}

/// Converts an expiration time, in milliseconds since 1970, to the form in which entries store it:
/// 0 becomes 1, since 0 cannot be stored. `None` stands for no expiration.
fn expiry(expires_at: Option<Millis>) -> Option<NonZeroU64> {
    expires_at.map(|millis| NonZeroU64::new(millis).unwrap_or(NonZeroU64::MIN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::values::collection::CollectionType as _;
    use crate::kv::values::list::List;
    use crate::kv::values::set::Set;

    fn metadata_of(fingerprint: u64) -> Metadata {
        Metadata::new(fingerprint, None, 1)
    }

    fn string(key: &[u8], value: &[u8]) -> KeyEntry {
        KeyEntry::new(key, Value::String(value), metadata_of(1))
    }

    fn address(entry: &KeyEntry) -> *const u8 {
        entry.key().as_ptr()
    }

    #[test]
    fn key_entry_is_8_bytes_and_its_header_24_bytes() {
        assert_eq!((size_of::<KeyEntry>(), size_of::<Header>()), (8, 24));
    }

    #[test]
    fn setting_expiry_preserves_key_and_value() {
        for key in [
            &b"k"[..],
            &[7; PackedMeta::SHORT_KEY_BYTES_MAX],
            &[7; PackedMeta::SHORT_KEY_BYTES_MAX + 1],
        ] {
            let mut entry = string(key, b"one");
            entry.set_expiry(Some(u64::MAX));
            assert_eq!(
                (entry.expires_at(), entry.key(), entry.value()),
                (Some(u64::MAX), key, &b"one"[..])
            );
            let before = address(&entry);
            entry.set_expiry(Some(6));
            assert_eq!(
                (entry.expires_at(), address(&entry)),
                (Some(6), before),
                "changed in place"
            );
            let metadata = Metadata::new(2, Some(5), REVISION_MAX);
            entry.replace(Value::String(b"two"), metadata);
            assert_eq!(
                (entry.expires_at(), entry.key(), entry.value()),
                (Some(5), key, &b"two"[..])
            );
            assert_eq!((entry.revision(), address(&entry)), (metadata.revision, before));
            entry.replace(Value::String(b"six"), metadata_of(3));
            assert_eq!((entry.expires_at(), entry.key(), entry.value()), (None, key, &b"six"[..]));
            entry.set_expiry(Some(0));
            assert_eq!(entry.expires_at(), Some(1), "no expiration before 1970");
            entry.set_expiry(None);
            assert_eq!(
                (entry.expires_at(), entry.revision(), entry.value()),
                (None, 1, &b"six"[..])
            );
        }
    }

    #[test]
    fn shared_collection_is_copied_on_change() {
        let list = List::wrap(std::sync::Arc::default());
        let set = Set::wrap(std::sync::Arc::default());
        let mut entry = KeyEntry::new(b"k", Value::Collection(list), metadata_of(1));
        let view = entry.clone();
        entry.change_collection(|collection| *collection = set);
        entry.mark_changed(2);
        entry.set_expiry(Some(7));
        assert_eq!((entry.key(), entry.expires_at(), entry.revision()), (&b"k"[..], Some(7), 2));
        assert_eq!((view.key(), view.expires_at(), view.revision()), (&b"k"[..], None, 1));
        assert!(view.value_type() == ValueType::List && entry.value_type() == ValueType::Set);
        assert!(entry.value().is_empty());
        entry.replace(Value::String(b""), metadata_of(3));
        assert!(entry.collection().is_none() && entry.change_collection(|_| ()).is_none());
    }

    #[test]
    fn keys_and_strings_of_any_length_are_stored() {
        for length in
            [0, 1, STACK_BYTES - 1, STACK_BYTES, STACK_BYTES + 1, 2_046, 2_047, 2_048, 100_000]
        {
            let (long, short) = (vec![7; length], b"k");
            for (key, value) in [(&short[..], &long[..]), (&long, short), (&long, b"")] {
                let entry = string(key, value);
                assert_eq!((entry.key(), entry.value()), (key, value));
                assert_eq!(entry.shared_value(), value);
                assert_eq!(entry.shared_key(), key);
            }
        }
    }

    #[test]
    fn string_of_the_same_length_is_replaced_in_place() {
        let mut entry = string(b"k", b"one");
        let before = address(&entry);
        entry.replace(Value::String(b"two"), metadata_of(2));
        assert_eq!((entry.value(), entry.fingerprint(), address(&entry)), (&b"two"[..], 2, before));
        entry.replace(Value::String(b"three"), metadata_of(3));
        assert_eq!(
            (entry.key(), entry.value(), entry.fingerprint()),
            (&b"k"[..], &b"three"[..], 3)
        );
    }

    #[test]
    fn shared_entry_is_immutable() {
        let long = vec![1; COPIED_BYTES_MAX + 1];
        let mut entry = string(b"k", &long);
        let (view, reply) = (entry.clone(), entry.shared_value());
        entry.replace(Value::String(&vec![2; long.len()]), metadata_of(2));
        entry.set_expiry(Some(9));
        assert_eq!((view.value(), view.expires_at(), view.fingerprint()), (&long[..], None, 1));
        assert_eq!(reply, long);
        assert_eq!((entry.value()[0], entry.expires_at()), (2, Some(9)));
        drop((view, reply));
        let before = address(&entry);
        entry.mark_changed(5);
        assert_eq!((entry.revision(), address(&entry)), (5, before), "not shared any more");
    }
}
