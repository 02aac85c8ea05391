//! The encoding of keyspace entries in snapshots.
//!
//! ```text
//!  +------+--------+------+-----+--------------+-------+
//!  | head | expiry | type | key | value length | value |  of a string
//!  +------+--------+------+-----+--------------+-------+
//! ```
//!
//! `head` is four times the number of operations since the key's revision, plus 2 if the key
//! expires, plus 1 if the value is a collection. `expiry` is present only if the key expires.
//! `type` is present only for a collection, whose own encoding then replaces the value and its
//! length. So the entry of a string takes about seven bytes more than its key and value. A compact
//! encoding matters because a data directory temporarily holds two snapshots.

use bytes::{Buf as _, BufMut as _};

use super::clock::Millis;
use super::entry::{KeyEntry, Metadata, Value};
use crate::kv::values::codec::{put_bytes, put_number, take_bytes, take_number};
use crate::kv::values::collection::{Collection, ValueType};
use crate::kv::values::digest::key_hash;

/// Number of flag bits, which are the lowest bits of `head`, the first number of an encoded
/// keyspace entry. The other bits of `head` contain the number of operations that were applied
/// after the operation that last changed the entry.
const FLAG_BITS: u32 = 2;
const EXPIRES: u64 = 2;
const IS_COLLECTION: u64 = 1;

/// A keyspace entry that was decoded from a snapshot.
pub(in crate::kv) struct RestoredEntry<'r> {
    pub(in crate::kv) key: &'r [u8],
    pub(in crate::kv) value: Value<'r>,
    pub(in crate::kv) revision: u64,
    /// Expiration time of the key in milliseconds since 1970, at least 1; `None` if the key does
    /// not expire.
    pub(in crate::kv) expires_at: Option<Millis>,
}

impl KeyEntry {
    /// Appends the entry to `out`, encoded for a snapshot. `last` is the number of operations that
    /// have been applied to the state.
    pub(in crate::kv) fn encode(&self, last: u64, out: &mut Vec<u8>) {
        self.encode_head(last, out);
        match self.collection() {
            None => {
                let string = self.string();
                string.slices(0..string.len()).for_each(|slice| out.put_slice(slice));
            }
            Some(collection) => collection.encode(out),
        }
    }

    /// Appends the part of the encoded entry before the bytes of a string or the encoding of a
    /// collection.
    pub(in crate::kv) fn encode_head(&self, last: u64, out: &mut Vec<u8>) {
        let (expires_at, collection) = (self.expires_at(), self.collection());
        let age = last.checked_sub(self.revision()).expect("no entry is newer than the state");
        let flags = EXPIRES * u64::from(expires_at.is_some())
            + IS_COLLECTION * u64::from(collection.is_some());
        put_number(age << FLAG_BITS | flags, out);
        if let Some(expires_at) = expires_at {
            put_number(expires_at, out);
        }
        if collection.is_some() {
            out.put_u8(self.value_type() as u8);
        }
        put_bytes(self.key(), out);
        if collection.is_none() {
            put_number(self.string().len() as u64, out);
        }
    }
}

impl<'r> RestoredEntry<'r> {
    /// Decodes an entry of a snapshot and removes it from the front of `from`; `None` if the bytes
    /// are malformed. `last` is the number of operations that were applied to the snapshot's state.
    pub(in crate::kv) fn decode(from: &mut &'r [u8], last: u64) -> Option<RestoredEntry<'r>> {
        let head = take_number(from)?;
        let revision = last.checked_sub(head >> FLAG_BITS)?;
        let expires_at = match head & EXPIRES {
            0 => None,
            _ => Some(take_number(from).filter(|expires_at| *expires_at != 0)?),
        };
        let value_type = match head & IS_COLLECTION {
            0 => ValueType::String,
            _ => *ValueType::ALL.get(usize::from(from.try_get_u8().ok()?))?,
        };
        let key = take_bytes(from)?;
        let value = match head & IS_COLLECTION {
            0 => Value::String(take_bytes(from)?),
            _ => Value::Collection(Collection::decode(value_type, from)?),
        };
        Some(RestoredEntry { key, value, revision, expires_at })
    }

    /// Returns a hash of the entry's key, value and expiration time. The sum of these hashes over
    /// all entries is the digest of the keyspace.
    pub(in crate::kv) fn fingerprint(&self) -> u64 {
        let fingerprint = self.value.fingerprint(key_hash(self.key));
        Metadata::new(fingerprint, self.expires_at, self.revision).fingerprint()
    }
}
