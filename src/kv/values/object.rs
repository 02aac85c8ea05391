//! Values that are more than one string, behind one face: what the store needs of each kind to
//! keep it, count it, compare it and write it to a snapshot.

use std::sync::Arc;

use crate::kv::values::hash::Hash;
use crate::kv::values::list::List;
use crate::kv::values::set::Set;
use crate::kv::values::sorted_set::SortedSet;

/// What a key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    /// Bytes.
    String,
    /// Fields and their values.
    Hash,
    /// Different members.
    Set,
    /// Values in an order.
    List,
    /// Members in the order of their scores.
    SortedSet,
}

/// A value that is no string. Shared with views of the state; copied when it is changed meanwhile.
#[derive(Clone)]
pub(in crate::kv) enum Object {
    Hash(Arc<Hash>),
    Set(Arc<Set>),
    List(Arc<List>),
    SortedSet(Arc<SortedSet>),
}

/// One kind of value.
pub(in crate::kv) trait Content: Default + Clone {
    /// As a value of a key.
    fn wrap(content: Arc<Self>) -> Object;
    /// The object's content, if it is of this kind.
    fn of(object: &Object) -> Option<&Arc<Self>>;
    /// The same, to be changed.
    fn of_mut(object: &mut Object) -> Option<&mut Arc<Self>>;
    /// A number that equal contents have in common and others in all likelihood not. Kept up, so
    /// it costs nothing to ask.
    fn digest(&self) -> u64;
    /// Bytes of memory it takes, about. Kept up, too.
    fn bytes(&self) -> usize;
    /// Whether nothing is in it: then its key goes.
    fn is_empty(&self) -> bool;
    /// What Redis calls the way in which it keeps such a content, by its default limits.
    fn encoding(&self) -> &'static str;
    /// Writes all that is in it, for a snapshot.
    fn write(&self, out: &mut Vec<u8>);
    /// Reads what `write` wrote; `None` if it can't have written that.
    fn read(from: &mut &[u8]) -> Option<Self>;
}

impl ValueType {
    /// All kinds, by the byte that stands for each in a snapshot.
    pub(in crate::kv) const ALL: &[ValueType] = &[
        ValueType::String,
        ValueType::Hash,
        ValueType::Set,
        ValueType::List,
        ValueType::SortedSet,
    ];

    /// What Redis calls it.
    pub fn name(self) -> &'static str {
        match self {
            ValueType::String => "string",
            ValueType::Hash => "hash",
            ValueType::Set => "set",
            ValueType::List => "list",
            ValueType::SortedSet => "zset",
        }
    }
}

impl Object {
    pub(in crate::kv) fn value_type(&self) -> ValueType {
        match self {
            Object::Hash(_) => ValueType::Hash,
            Object::Set(_) => ValueType::Set,
            Object::List(_) => ValueType::List,
            Object::SortedSet(_) => ValueType::SortedSet,
        }
    }

    pub(in crate::kv) fn digest(&self) -> u64 {
        match self {
            Object::Hash(hash) => hash.digest(),
            Object::Set(set) => set.digest(),
            Object::List(list) => list.digest(),
            Object::SortedSet(set) => set.digest(),
        }
    }

    pub(in crate::kv) fn bytes(&self) -> usize {
        match self {
            Object::Hash(hash) => hash.bytes(),
            Object::Set(set) => set.bytes(),
            Object::List(list) => list.bytes(),
            Object::SortedSet(set) => set.bytes(),
        }
    }

    pub(in crate::kv) fn encoding(&self) -> &'static str {
        match self {
            Object::Hash(hash) => hash.encoding(),
            Object::Set(set) => set.encoding(),
            Object::List(list) => list.encoding(),
            Object::SortedSet(set) => set.encoding(),
        }
    }

    pub(in crate::kv) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Object::Hash(hash) => hash.write(out),
            Object::Set(set) => set.write(out),
            Object::List(list) => list.write(out),
            Object::SortedSet(set) => set.write(out),
        }
    }

    /// Reads what `write` wrote of an object of that kind, which is no string.
    pub(in crate::kv) fn read(kind: ValueType, from: &mut &[u8]) -> Option<Object> {
        match kind {
            ValueType::String => None,
            ValueType::Hash => Hash::read(from).map(|hash| Object::Hash(Arc::new(hash))),
            ValueType::Set => Set::read(from).map(|set| Object::Set(Arc::new(set))),
            ValueType::List => List::read(from).map(|list| Object::List(Arc::new(list))),
            ValueType::SortedSet => {
                SortedSet::read(from).map(|set| Object::SortedSet(Arc::new(set)))
            }
        }
    }
}
