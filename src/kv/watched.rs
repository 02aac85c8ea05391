//! The keys that a transaction or a script watches, each with a number that says in which state it
//! must be: a revision, or a condition on it.
//!
//! Encoded, each is two items: the key, and its number (8 bytes, little endian), followed by the
//! number of its database (1 byte) unless that is database 0.

use crate::kv::commands::items::{Items, ItemsBuffer};
use crate::kv::keyspace::databases::DatabaseId;

/// Length in bytes of the encoded number.
const NUMBER_BYTES: usize = size_of::<u64>();

/// A watched key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchedKey<'a> {
    /// The database of the key.
    pub database: DatabaseId,
    /// The name of the key.
    pub key: &'a [u8],
    /// The revision that the key must have, or an encoded condition.
    pub number: u64,
}

impl<'a> WatchedKey<'a> {
    /// Appends the watched key to `items`.
    pub fn push(&self, items: &mut ItemsBuffer) {
        let mut second = [0; NUMBER_BYTES + 1];
        second[..NUMBER_BYTES].copy_from_slice(&self.number.to_le_bytes());
        second[NUMBER_BYTES] = self.database.number();
        let is_first = self.database == DatabaseId::FIRST;
        items.push(self.key);
        items.push(if is_first { &second[..NUMBER_BYTES] } else { &second });
    }

    /// Iterates over the watched keys in `items`, which [`WatchedKey::push`] has encoded, up to the
    /// first invalid one.
    pub fn all_in(items: Items<'a>) -> impl Iterator<Item = WatchedKey<'a>> {
        items.pairs().map_while(|(key, second)| WatchedKey::decode(key, second))
    }

    /// Returns whether `items` consists of valid watched keys.
    pub(super) fn are_valid(items: Items<'_>) -> bool {
        items.iter().count().is_multiple_of(2)
            && items.pairs().all(|(key, second)| WatchedKey::decode(key, second).is_some())
    }

    fn decode(key: &'a [u8], second: &[u8]) -> Option<WatchedKey<'a>> {
        let (number, database) = second.split_first_chunk()?;
        let database = match *database {
            [] => DatabaseId::FIRST,
            [number] if number != 0 => DatabaseId::new(number)?,
            _ => return None,
        };
        Some(WatchedKey { database, key, number: u64::from_le_bytes(*number) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watched_keys_round_trip_through_their_encoding() {
        let keys: Vec<WatchedKey<'_>> = DatabaseId::all()
            .zip([&b""[..], b"a", b"bc"].into_iter().cycle())
            .map(|(database, key)| WatchedKey { database, key, number: u64::MAX - 5 })
            .collect();
        let mut items = ItemsBuffer::default();
        for key in &keys {
            key.push(&mut items);
        }
        assert!(WatchedKey::are_valid(items.items()));
        assert!(WatchedKey::all_in(items.items()).eq(keys));
    }

    #[test]
    fn malformed_watched_keys_are_invalid() {
        for second in [&b"seven b"[..], b"8 bytes.\0", b"8 bytes.\x10", b"8 bytes.\x01\x01"] {
            let mut items = ItemsBuffer::default();
            items.push(b"key");
            items.push(second);
            assert!(!WatchedKey::are_valid(items.items()), "{second:?}");
            assert_eq!(WatchedKey::all_in(items.items()).next(), None);
        }
        let mut items = ItemsBuffer::default();
        items.push(b"key");
        assert!(!WatchedKey::are_valid(items.items()), "a key alone");
    }
}
