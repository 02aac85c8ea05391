//! A key and its value in one allocation, because a lookup of the key is usually followed by an
//! access to the value, and each allocation costs a cache miss. A hash table holds only one word (a
//! pointer) per entry, so tables are small and fast to copy. Collections and long strings are
//! stored outside the entry, so that a change of the entry does not copy them.
//!
//! ```text
//! count 8 | length 8 | fingerprint 8 | meta 8 | outside 8 |
//! [expiry 8] [key length 4] key [short string]
//! ```

use std::hint::black_box;
use std::num::NonZeroU64;

use bytes::Bytes;
use triomphe::{Arc, ThinArc};

use crate::kv::keyspace::clock::Millis;
use crate::kv::values::collection::{Collection, ValueType};
use crate::kv::values::digest::{fingerprint, key_hash, mix};
use crate::kv::values::long_string::{self, LONG_BYTES_MIN, LongString};
use crate::kv::values::number::parse_integer;
use crate::kv::values::string::{COPIED_BYTES_MAX, LongValue, SharedString, StringRef};

/// Approximate memory overhead of a heap allocation, in bytes: the allocator's bookkeeping and
/// rounding.
const ALLOCATION_BYTES: usize = 16;
/// Size in bytes of the reference count and the length, which precede the header in the heap
/// allocation of a keyspace entry.
const COUNT_BYTES: usize = 16;
/// Maximum length in bytes of a string for which `OBJECT ENCODING` returns `embstr`, as in Redis. A
/// longer string is `raw`.
const EMBEDDED_MAX: usize = 44;
/// Size in bytes of a cache line of most processors.
const CACHE_LINE_BYTES: usize = 64;
/// Maximum number of cache lines of an entry that are prefetched before the entry is encoded. The
/// processor itself prefetches the rest of a larger entry.
const FETCHED_LINES_MAX: usize = 8;
/// Maximum size in bytes of an entry that is assembled on the stack and then copied to the heap at
/// once. A larger entry is assembled on the heap.
const STACK_BYTES: usize = 512;

/// An entry of the keyspace: a key with its value and its expiration time. Snapshots and replies
/// can share an entry's memory; a change of a shared entry copies it first.
#[derive(Clone)]
pub(in crate::kv) struct KeyEntry(ThinArc<Header, u8>);

/// The fixed-size header in front of the key and value bytes in an entry's allocation.
#[derive(Clone)]
struct Header {
    /// Hash of the entry's key, value and expiration time, which is part of the keyspace's digest.
    /// Stored so that the entry can be removed without reading its value.
    fingerprint: u64,
    meta: PackedMeta,
    /// The entry's value if it is a collection or a long string; `None` if it is a short string,
    /// which follows the key.
    outside: Option<Box<Outside>>,
}

/// A value that is not stored in the entry's own allocation. A clone shares its memory.
#[derive(Clone)]
enum Outside {
    LongString(LongString),
    Collection(Collection),
}

/// Three values packed into 64 bits: the entry's revision (sequence number of the operation that
/// last changed it), the length of its key if the key is short, and whether it has an expiration
/// time.
#[derive(Clone, Copy, PartialEq, Eq)]
struct PackedMeta(u64);

/// The data that an entry stores in addition to its key and value: fingerprint (hash), revision and
/// expiration time.
#[derive(Clone, Copy)]
pub(in crate::kv) struct Metadata {
    fingerprint: u64,
    /// Sequence number of the operation that last changed the entry, by which `WATCH` detects
    /// changes.
    revision: u64,
    /// Expiration time of the entry, in milliseconds since 1970; `None` if it does not expire.
    expires_at: Option<NonZeroU64>,
}

/// The value of a key: a string or a collection (hash, list, set or sorted set). Regardless of its
/// variant here, a string of at least [`LONG_BYTES_MIN`] bytes is stored as a [`LongString`].
pub(in crate::kv) enum Value<'v> {
    String(&'v [u8]),
    LongString(LongString),
    Collection(Collection),
}

/// Maximum revision of an entry (sequence number of the operation that last changed it), limited by
/// the number of bits that store it: enough for a million operations per second for a century.
pub(in crate::kv) const REVISION_MAX: u64 = (1 << PackedMeta::REVISION_BITS) - 1;

impl PackedMeta {
    const REVISION_BITS: u32 = 52;
    /// Maximum length in bytes of a key whose length is part of the packed metadata. The length of
    /// a longer key is stored in front of the key.
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

    /// Returns a copy of the packed metadata in which the entry's revision (sequence number of the
    /// operation that last changed it) is `revision`.
    fn with_revision(self, revision: u64) -> PackedMeta {
        assert!(revision <= REVISION_MAX, "revision {revision} does not fit into an entry");
        PackedMeta(self.0 >> PackedMeta::REVISION_BITS << PackedMeta::REVISION_BITS | revision)
    }

    fn revision(self) -> u64 {
        self.0 & REVISION_MAX
    }

    /// Returns whether the entry has an expiration time, which is then stored in the first 8 bytes
    /// after the header.
    fn expires(self) -> bool {
        self.0 & PackedMeta::EXPIRES != 0
    }

    /// Returns the offsets at which the key starts and ends (exclusive) in `bytes`, the entry's
    /// bytes after the header.
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
    /// Returns the value in the form in which it is stored: divided into chunks if it is a long
    /// string.
    pub(in crate::kv) fn stored(self) -> Self {
        match self {
            Value::String(value) if value.len() >= LONG_BYTES_MIN => {
                Value::LongString(value.into())
            }
            other => other,
        }
    }

    /// Returns the fingerprint (hash) of an entry with this value, without an expiration time.
    /// `key_hash` is the hash of the entry's key.
    pub(in crate::kv) fn fingerprint(&self, key_hash: u64) -> u64 {
        match self {
            Value::String(value) if value.len() >= LONG_BYTES_MIN => {
                let digest = long_string::digest_of_bytes(value);
                outside_fingerprint(key_hash, ValueType::String, digest)
            }
            Value::String(value) => fingerprint(key_hash, value),
            Value::LongString(string) => {
                outside_fingerprint(key_hash, ValueType::String, string.digest())
            }
            Value::Collection(collection) => {
                outside_fingerprint(key_hash, collection.value_type(), collection.digest())
            }
        }
    }
}

impl Outside {
    fn value_type(&self) -> ValueType {
        match self {
            Outside::LongString(_) => ValueType::String,
            Outside::Collection(collection) => collection.value_type(),
        }
    }

    fn digest(&self) -> u64 {
        match self {
            Outside::LongString(string) => string.digest(),
            Outside::Collection(collection) => collection.digest(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Outside::LongString(string) => string.bytes(),
            Outside::Collection(collection) => collection.bytes(),
        }
    }

    fn is_shared(&self) -> bool {
        match self {
            Outside::LongString(string) => string.is_shared(),
            Outside::Collection(collection) => collection.is_shared(),
        }
    }
}

impl From<Outside> for Value<'_> {
    fn from(outside: Outside) -> Self {
        match outside {
            Outside::LongString(string) => Value::LongString(string),
            Outside::Collection(collection) => Value::Collection(collection),
        }
    }
}

impl KeyEntry {
    pub(in crate::kv) fn new(key: &[u8], new_value: Value<'_>, metadata: Metadata) -> KeyEntry {
        let (outside, value) = match new_value.stored() {
            Value::String(value) => (None, value),
            Value::LongString(string) => (Some(Outside::LongString(string)), &[][..]),
            Value::Collection(collection) => (Some(Outside::Collection(collection)), &[][..]),
        };
        let meta = PackedMeta::new(key, &metadata);
        let outside = outside.map(Box::new);
        let header = Header { fingerprint: metadata.fingerprint, meta, outside };
        let expiry = metadata.expires_at.map(|expiry| expiry.get().to_le_bytes());
        let expiry = expiry.as_ref().map_or(&[][..], |expiry| expiry);
        let length = u32::try_from(key.len()).expect("a key is far shorter than 4 GiB");
        let length = length.to_le_bytes();
        let length = if key.len() > PackedMeta::SHORT_KEY_BYTES_MAX { &length[..] } else { &[] };
        KeyEntry(concatenate(header, [expiry, length, key, value]))
    }

    /// Replaces the entry's value and metadata, and returns the old entry. Reuses the allocation,
    /// and returns `None`, if it is not shared, the old and the new value are short strings of
    /// equal length, and the entry has an expiration time either both before and after or never.
    pub(in crate::kv) fn replace(
        &mut self,
        new_value: Value<'_>,
        metadata: Metadata,
    ) -> Option<KeyEntry> {
        if let Value::String(value) = &new_value
            && self.rewrite(value, metadata)
        {
            return None;
        }
        let new = KeyEntry::new(self.key(), new_value, metadata);
        Some(std::mem::replace(self, new))
    }

    /// Overwrites the string value and the metadata in the existing allocation. Returns false, and
    /// changes nothing, if the allocation is shared, if the length of the value would change, or if
    /// the entry would gain or lose an expiration time.
    fn rewrite(&mut self, value: &[u8], metadata: Metadata) -> bool {
        let meta = self.meta();
        let (_, key_end) = meta.key(&self.0.slice);
        let fits = meta.expires() == metadata.expires_at.is_some()
            && self.0.slice.len() == key_end + value.len()
            && self.0.header.header.outside.is_none();
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

    /// Returns the short string that is the entry's value; an empty string if the value is a
    /// collection or a long string.
    fn value(&self) -> &[u8] {
        let (_, key_end) = self.meta().key(&self.0.slice);
        &self.0.slice[key_end..]
    }

    /// Returns the entry's string value; an empty string if the value is a collection.
    pub(in crate::kv) fn string(&self) -> StringRef<'_> {
        self.long_string().map_or_else(|| StringRef::Short(self.value()), StringRef::Long)
    }

    fn long_string(&self) -> Option<&LongString> {
        match self.0.header.header.outside.as_deref() {
            Some(Outside::LongString(string)) => Some(string),
            _ => None,
        }
    }

    /// Returns the string value in a form that can outlive the borrow of the entry. It shares the
    /// entry's memory if the string is longer than [`COPIED_BYTES_MAX`] and is a copy otherwise.
    pub(in crate::kv) fn shared_string(&self) -> SharedString {
        if let Some(string) = self.long_string() {
            SharedString::Long(LongValue::new(string.clone(), 0..string.len()))
        } else if self.value().len() > COPIED_BYTES_MAX {
            SharedString::Short(Bytes::from_owner(Shared(self.clone())))
        } else {
            SharedString::Short(Bytes::copy_from_slice(self.value()))
        }
    }

    /// Returns a value that is equal to the value of this entry, and shares its memory unless it is
    /// a short string.
    pub(in crate::kv) fn cloned_value(&self) -> Value<'_> {
        let outside = self.0.header.header.outside.as_deref();
        outside.map_or_else(|| Value::String(self.value()), |outside| outside.clone().into())
    }

    /// Returns a copy of the entry's key as reference-counted bytes.
    pub(in crate::kv) fn shared_key(&self) -> Bytes {
        Bytes::copy_from_slice(self.key())
    }

    pub(in crate::kv) fn collection(&self) -> Option<&Collection> {
        match self.0.header.header.outside.as_deref() {
            Some(Outside::Collection(collection)) => Some(collection),
            _ => None,
        }
    }

    /// Returns whether the value is a collection or a long string, and something else shares the
    /// entry, and with it its value, or shares the value alone.
    pub(in crate::kv) fn is_value_shared(&self) -> bool {
        let outside = self.0.header.header.outside.as_deref();
        outside.is_some_and(|value| ThinArc::strong_count(&self.0) > 1 || value.is_shared())
    }

    /// Applies `change` to the entry's collection, and returns the result of `change`. Returns
    /// `None`, without calling `change`, if the value is a string.
    pub(in crate::kv) fn change_collection<R>(
        &mut self,
        change: impl FnOnce(&mut Collection) -> R,
    ) -> Option<R> {
        self.collection()?;
        self.change(|header| match header.outside.as_deref_mut() {
            Some(Outside::Collection(collection)) => Some(change(collection)),
            _ => None,
        })
    }

    /// Applies `change` to the entry's long string, and returns the result of `change`. Returns
    /// `None`, without calling `change`, if the value is a collection or a short string.
    pub(in crate::kv) fn change_long_string<R>(
        &mut self,
        change: impl FnOnce(&mut LongString) -> R,
    ) -> Option<R> {
        self.long_string()?;
        self.change(|header| match header.outside.as_deref_mut() {
            Some(Outside::LongString(string)) => Some(change(string)),
            _ => None,
        })
    }

    /// Applies `change` to the header of the entry, and returns the result of `change`. Copies the
    /// entry first if its memory is shared.
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
        self.0.header.header.outside.as_ref().map_or(ValueType::String, |it| it.value_type())
    }

    /// Returns the encoding that Redis would use for the entry's value, as `OBJECT ENCODING`
    /// reports it.
    pub(in crate::kv) fn encoding(&self) -> &'static str {
        match self.collection() {
            Some(collection) => collection.encoding(),
            None if self.string().len() > EMBEDDED_MAX => "raw",
            None if parse_integer(self.value()).is_some() => "int",
            None => "embstr",
        }
    }

    pub(in crate::kv) fn revision(&self) -> u64 {
        self.meta().revision()
    }

    /// Returns a hash of the entry's key, value and expiration time. The sum of these hashes over
    /// all entries is the digest of the keyspace.
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
    /// must then call [`KeyEntry::mark_changed`] to update the fingerprint (hash) of the entry.
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
        *self = KeyEntry::new(self.key(), self.cloned_value(), metadata);
    }

    /// Records that the operation with the number `revision` changed the entry, and updates the
    /// entry's fingerprint (hash).
    pub(in crate::kv) fn mark_changed(&mut self, revision: u64) {
        let fingerprint = self.compute_fingerprint();
        self.change(|header| {
            (header.fingerprint, header.meta) = (fingerprint, header.meta.with_revision(revision));
        });
    }

    fn compute_fingerprint(&self) -> u64 {
        self.fingerprint_with(self.key_hash())
    }

    /// Returns a hash of the entry's value and expiration time, which is equal for all keys.
    pub(in crate::kv) fn value_fingerprint(&self) -> u64 {
        self.fingerprint_with(0)
    }

    /// Returns the fingerprint that the entry would have if `key_hash` were the hash of its key.
    fn fingerprint_with(&self, key_hash: u64) -> u64 {
        let content = match self.0.header.header.outside.as_deref() {
            None => fingerprint(key_hash, self.value()),
            Some(outside) => outside_fingerprint(key_hash, outside.value_type(), outside.digest()),
        };
        with_expiry(content, self.expiry())
    }

    /// Returns the memory usage of the value, in bytes: the length of a string, or the approximate
    /// memory usage of a collection.
    pub(in crate::kv) fn value_bytes(&self) -> usize {
        self.collection().map_or_else(|| self.string().len(), Collection::bytes)
    }

    /// Prefetches the entry: reads its memory so that it is loaded into the processor's cache.
    pub(in crate::kv) fn fetch(&self) {
        // Without `black_box`, the compiler would remove the reads.
        black_box((self.revision(), self.value().last().copied()));
    }

    /// Prefetches the start of the entry, which contains the reference count: reads it so that it
    /// is loaded into the processor's cache.
    pub(in crate::kv) fn fetch_start(&self) {
        black_box(self.revision());
    }

    /// Prefetches the whole entry, up to [`FETCHED_LINES_MAX`] cache lines. Unlike in
    /// [`KeyEntry::fetch`], the reads do not depend on each other, so that the cache misses of many
    /// entries overlap.
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

    /// Returns the approximate memory usage of the entry, in bytes, including the pointer in the
    /// hash table that refers to it.
    pub(in crate::kv) fn memory(&self) -> usize {
        size_of::<KeyEntry>() + self.heap_bytes()
    }

    /// Returns the approximate heap memory usage of the entry, in bytes, excluding the pointer in
    /// the hash table that refers to it.
    pub(in crate::kv) fn heap_bytes(&self) -> usize {
        let outside = self.0.header.header.outside.as_deref();
        let outside = outside.map_or(0, |outside| size_of::<Outside>() + outside.bytes());
        COUNT_BYTES + size_of::<Header>() + self.0.slice.len() + ALLOCATION_BYTES + outside
    }
}

impl Metadata {
    /// Returns the metadata of an entry with the given expiration time and revision. `fingerprint`
    /// is the hash of the entry's key and value.
    pub(in crate::kv) fn new(
        fingerprint: u64,
        expires_at: Option<Millis>,
        revision: u64,
    ) -> Metadata {
        let expires_at = expiry(expires_at);
        Metadata { fingerprint: with_expiry(fingerprint, expires_at), revision, expires_at }
    }

    /// Returns a hash of the entry's key, value and expiration time.
    pub(in crate::kv) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

/// A reference to an entry that keeps it allocated while a reply uses the memory of its short
/// string.
struct Shared(KeyEntry);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.value()
    }
}

/// Writes the expiration time of an entry, in milliseconds since 1970, to the start of `bytes`,
/// which are the entry's bytes after its header.
fn write_expiry(bytes: &mut [u8], expiry: NonZeroU64) {
    bytes[..PackedMeta::EXPIRY_BYTES].copy_from_slice(&expiry.get().to_le_bytes());
}

/// Allocates an entry that consists of `header` and the concatenated `parts`.
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

/// Returns the fingerprint (hash) of an entry whose value is a collection or a long string, without
/// an expiration time. `key_hash` is the hash of the entry's key, `digest` that of the value.
fn outside_fingerprint(key_hash: u64, value_type: ValueType, digest: u64) -> u64 {
    mix(mix(key_hash, value_type as u64 + 1), digest)
}

/// Returns the fingerprint (hash) of an entry with the expiration time `expiry`, given the
/// `fingerprint` of its key and value. Without an expiration time, returns `fingerprint` unchanged.
fn with_expiry(fingerprint: u64, expiry: Option<NonZeroU64>) -> u64 {
    expiry.map_or(fingerprint, |expiry| mix(fingerprint, expiry.get()))
}

/// Converts an expiration time in milliseconds since 1970 to the form in which entries store it: 0
/// becomes 1, because 0 cannot be stored. `None` means no expiration time.
fn expiry(expires_at: Option<Millis>) -> Option<NonZeroU64> {
    expires_at.map(|millis| NonZeroU64::new(millis).unwrap_or(NonZeroU64::MIN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::commands::outcome::Outcome;
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
    fn key_entry_takes_8_bytes_and_its_heap_header_24_bytes() {
        assert_eq!((size_of::<KeyEntry>(), size_of::<Header>()), (8, 24));
    }

    #[test]
    fn setting_the_ttl_of_a_key_entry_preserves_key_and_value() {
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
    fn shared_collection_value_is_copied_on_write() {
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
    fn keys_and_string_values_of_any_length_are_stored() {
        for length in
            [0, 1, STACK_BYTES - 1, STACK_BYTES, STACK_BYTES + 1, 2_046, 2_047, 2_048, 100_000]
        {
            let (long, short) = (vec![7; length], b"k");
            for (key, value) in [(&short[..], &long[..]), (&long, short), (&long, b"")] {
                let entry = string(key, value);
                assert!(entry.key() == key && entry.string() == *value, "{length}");
                assert_eq!(Outcome::string(Some(entry.shared_string())).value().unwrap(), value);
                assert_eq!(entry.shared_key(), key);
            }
        }
    }

    #[test]
    fn string_value_from_a_size_threshold_on_is_stored_in_chunks() {
        for length in [LONG_BYTES_MIN - 1, LONG_BYTES_MIN] {
            let bytes = vec![7; length];
            let mut entry = string(b"k", &bytes);
            assert_eq!(entry.string().short().is_some(), length < LONG_BYTES_MIN);
            assert_eq!((entry.value_type(), entry.encoding()), (ValueType::String, "raw"));
            assert!(entry.collection().is_none());
            let direct = Value::String(&bytes).fingerprint(entry.key_hash());
            assert_eq!(direct, Value::String(&bytes).stored().fingerprint(entry.key_hash()));
            entry.mark_changed(2);
            assert_eq!(entry.fingerprint(), direct);
            entry.replace(Value::String(b"short"), metadata_of(3));
            assert_eq!(entry.string().short(), Some(&b"short"[..]));
        }
    }

    #[test]
    fn string_value_of_the_same_length_is_replaced_in_place() {
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
    fn shared_key_entry_is_unaffected_by_later_writes() {
        let long = vec![1; COPIED_BYTES_MAX + 1];
        let mut entry = string(b"k", &long);
        let (view, reply) = (entry.clone(), entry.shared_string());
        entry.replace(Value::String(&vec![2; long.len()]), metadata_of(2));
        entry.set_expiry(Some(9));
        assert_eq!((view.value(), view.expires_at(), view.fingerprint()), (&long[..], None, 1));
        assert_eq!(Outcome::string(Some(reply.clone())).value().unwrap(), long);
        assert_eq!((entry.value()[0], entry.expires_at()), (2, Some(9)));
        drop((view, reply));
        let before = address(&entry);
        entry.mark_changed(5);
        assert_eq!((entry.revision(), address(&entry)), (5, before), "not shared any more");
    }
}
