//! Values other than strings (hashes, sets, lists, sorted sets, streams), with a common interface
//! through which the keyspace stores, measures, compares and encodes them.

use std::hint::black_box;
use std::sync::Arc;

use crate::kv::values::content::Content;
use crate::kv::values::hash::Hash;
use crate::kv::values::list::List;
use crate::kv::values::set::Set;
use crate::kv::values::sorted_set::SortedSet;
use crate::kv::values::stream::Stream;

/// The type of a key's value, as the command `TYPE` reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    /// A string: a sequence of any bytes.
    String,
    /// A hash: a map from fields to values.
    Hash,
    /// A set: distinct members without scores.
    Set,
    /// A list: values in order, possibly repeated.
    List,
    /// A sorted set: distinct members with scores, ordered by score.
    SortedSet,
    /// A stream: entries of fields and values, ordered by their ids.
    Stream,
}

/// A value that is not a string: a hash, list, set, sorted set or stream. Snapshots can share a
/// collection's memory; a change of a shared collection copies it first.
#[derive(Clone)]
pub(in crate::kv) enum Collection {
    Hash(Arc<Hash>),
    Set(Arc<Set>),
    List(Arc<List>),
    SortedSet(Arc<SortedSet>),
    Stream(Arc<Stream>),
}

/// A type of collection (hash, list, set, sorted set or stream), with conversions from and to
/// [`Collection`], which can contain any of these types.
pub(in crate::kv) trait CollectionType: Content {
    /// Returns `content` as a [`Collection`].
    fn wrap(content: Arc<Self>) -> Collection;
    /// Returns the content of `collection` if it has this type, otherwise `None`.
    fn get(collection: &Collection) -> Option<&Arc<Self>>;
    /// Returns a mutable reference to the content of `collection` if it has this type, otherwise
    /// `None`.
    fn get_mut(collection: &mut Collection) -> Option<&mut Arc<Self>>;
}

macro_rules! collection_types {
    ($($name:ident),*) => {$(
        impl CollectionType for $name {
            fn wrap(content: Arc<$name>) -> Collection {
                Collection::$name(content)
            }

            fn get(collection: &Collection) -> Option<&Arc<$name>> {
                if let Collection::$name(content) = collection { Some(content) } else { None }
            }

            fn get_mut(collection: &mut Collection) -> Option<&mut Arc<$name>> {
                if let Collection::$name(content) = collection { Some(content) } else { None }
            }
        }
    )*};
}

collection_types!(Hash, Set, List, SortedSet, Stream);

impl ValueType {
    /// All types of values. Snapshots contain a type as its index in this list, so append new types
    /// at the end.
    pub(in crate::kv) const ALL: &[ValueType] = &[
        ValueType::String,
        ValueType::Hash,
        ValueType::Set,
        ValueType::List,
        ValueType::SortedSet,
        ValueType::Stream,
    ];

    /// Returns the name of the type, as the command `TYPE` reports it.
    pub fn name(self) -> &'static str {
        match self {
            ValueType::String => "string",
            ValueType::Hash => "hash",
            ValueType::Set => "set",
            ValueType::List => "list",
            ValueType::SortedSet => "zset",
            ValueType::Stream => "stream",
        }
    }
}

impl Collection {
    pub(in crate::kv) fn value_type(&self) -> ValueType {
        match self {
            Collection::Hash(_) => ValueType::Hash,
            Collection::Set(_) => ValueType::Set,
            Collection::List(_) => ValueType::List,
            Collection::SortedSet(_) => ValueType::SortedSet,
            Collection::Stream(_) => ValueType::Stream,
        }
    }

    pub(in crate::kv) fn digest(&self) -> u64 {
        match self {
            Collection::Hash(hash) => hash.digest(),
            Collection::Set(set) => set.digest(),
            Collection::List(list) => list.digest(),
            Collection::SortedSet(set) => set.digest(),
            Collection::Stream(stream) => stream.digest(),
        }
    }

    /// Returns whether a snapshot or a copy of the key shares the collection's memory, so that a
    /// change copies the collection first.
    pub(in crate::kv) fn is_shared(&self) -> bool {
        let owners = match self {
            Collection::Hash(hash) => Arc::strong_count(hash),
            Collection::Set(set) => Arc::strong_count(set),
            Collection::List(list) => Arc::strong_count(list),
            Collection::SortedSet(set) => Arc::strong_count(set),
            Collection::Stream(stream) => Arc::strong_count(stream),
        };
        owners > 1
    }

    /// Prefetches the element that a command with these arguments (after the key) probably accesses
    /// first: looks it up, so that its memory is loaded into the processor's cache.
    pub(in crate::kv) fn fetch_element(&self, first: &[u8], second: Option<&[u8]>) {
        // Without `black_box`, the compiler would remove the lookups.
        match self {
            Collection::Hash(hash) => {
                black_box(hash.get(first).and_then(|value| value.last().copied()));
            }
            Collection::Set(set) => {
                black_box(set.contains(first));
            }
            // `ZADD` has the score first.
            Collection::SortedSet(set) => {
                black_box(set.score(second.unwrap_or(first)));
            }
            Collection::List(_) | Collection::Stream(_) => {}
        }
    }

    pub(in crate::kv) fn bytes(&self) -> usize {
        match self {
            Collection::Hash(hash) => hash.bytes(),
            Collection::Set(set) => set.bytes(),
            Collection::List(list) => list.bytes(),
            Collection::SortedSet(set) => set.bytes(),
            Collection::Stream(stream) => stream.bytes(),
        }
    }

    pub(in crate::kv) fn encoding(&self) -> &'static str {
        match self {
            Collection::Hash(hash) => hash.encoding(),
            Collection::Set(set) => set.encoding(),
            Collection::List(list) => list.encoding(),
            Collection::SortedSet(set) => set.encoding(),
            Collection::Stream(stream) => stream.encoding(),
        }
    }

    pub(in crate::kv) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Collection::Hash(hash) => hash.encode(out),
            Collection::Set(set) => set.encode(out),
            Collection::List(list) => list.encode(out),
            Collection::SortedSet(set) => set.encode(out),
            Collection::Stream(stream) => stream.encode(out),
        }
    }

    /// Decodes a collection of the type `value_type`, and removes it from the front of `from`;
    /// `None` if the bytes are malformed or the type is `String`.
    pub(in crate::kv) fn decode(value_type: ValueType, from: &mut &[u8]) -> Option<Collection> {
        match value_type {
            ValueType::String => None,
            ValueType::Hash => Hash::decode(from).map(|hash| Collection::Hash(Arc::new(hash))),
            ValueType::Set => Set::decode(from).map(|set| Collection::Set(Arc::new(set))),
            ValueType::List => List::decode(from).map(|list| Collection::List(Arc::new(list))),
            ValueType::SortedSet => {
                SortedSet::decode(from).map(|set| Collection::SortedSet(Arc::new(set)))
            }
            ValueType::Stream => {
                Stream::decode(from).map(|stream| Collection::Stream(Arc::new(stream)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut as _;
    use proptest::prelude::*;

    use super::*;

    const COLLECTIONS: &[ValueType] = &[
        ValueType::Hash,
        ValueType::Set,
        ValueType::List,
        ValueType::SortedSet,
        ValueType::Stream,
    ];

    #[test]
    fn decoding_an_empty_collection_fails() {
        let collections =
            [Hash::wrap(Arc::default()), Set::wrap(Arc::default()), List::wrap(Arc::default())];
        for collection in collections.into_iter().chain([SortedSet::wrap(Arc::default())]) {
            let mut bytes = Vec::new();
            collection.encode(&mut bytes);
            assert!(Collection::decode(collection.value_type(), &mut &bytes[..]).is_none());
        }
    }

    #[test]
    fn decoding_a_hash_with_too_many_buckets_fails() {
        let mut bytes = vec![1];
        bytes.put_u32_le(u32::MAX);
        bytes.put_u64_le(0);
        assert!(Collection::decode(ValueType::Hash, &mut &bytes[..]).is_none());
    }

    proptest! {
        #[test]
        fn decoding_arbitrary_bytes_as_a_collection_never_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            for value_type in COLLECTIONS {
                let _ = Collection::decode(*value_type, &mut &bytes[..]);
            }
        }
    }
}
