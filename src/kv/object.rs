//! Values that are more than one string, behind one face: what the store needs of each kind to
//! keep it, count it, compare it and write it to a snapshot.

use std::sync::Arc;

use super::hashes::Hash;
use super::lists::List;
use super::sets::Set;
use super::sorted_sets::SortedSet;

/// What a key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
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
pub(super) enum Object {
    Hash(Arc<Hash>),
    Set(Arc<Set>),
    List(Arc<List>),
    SortedSet(Arc<SortedSet>),
}

/// One kind of value.
pub(super) trait Content: Default + Clone {
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

impl Kind {
    /// All kinds, by the byte that stands for each in a snapshot.
    pub(super) const ALL: &[Kind] =
        &[Kind::String, Kind::Hash, Kind::Set, Kind::List, Kind::SortedSet];

    /// What Redis calls it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::String => "string",
            Kind::Hash => "hash",
            Kind::Set => "set",
            Kind::List => "list",
            Kind::SortedSet => "zset",
        }
    }
}

impl Object {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Object::Hash(_) => Kind::Hash,
            Object::Set(_) => Kind::Set,
            Object::List(_) => Kind::List,
            Object::SortedSet(_) => Kind::SortedSet,
        }
    }

    pub(super) fn digest(&self) -> u64 {
        match self {
            Object::Hash(hash) => hash.digest(),
            Object::Set(set) => set.digest(),
            Object::List(list) => list.digest(),
            Object::SortedSet(set) => set.digest(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Object::Hash(hash) => hash.bytes(),
            Object::Set(set) => set.bytes(),
            Object::List(list) => list.bytes(),
            Object::SortedSet(set) => set.bytes(),
        }
    }

    pub(super) fn encoding(&self) -> &'static str {
        match self {
            Object::Hash(hash) => hash.encoding(),
            Object::Set(set) => set.encoding(),
            Object::List(list) => list.encoding(),
            Object::SortedSet(set) => set.encoding(),
        }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Object::Hash(hash) => hash.write(out),
            Object::Set(set) => set.write(out),
            Object::List(list) => list.write(out),
            Object::SortedSet(set) => set.write(out),
        }
    }

    /// Reads what `write` wrote of an object of that kind, which is no string.
    pub(super) fn read(kind: Kind, from: &mut &[u8]) -> Option<Object> {
        match kind {
            Kind::String => None,
            Kind::Hash => Hash::read(from).map(|hash| Object::Hash(Arc::new(hash))),
            Kind::Set => Set::read(from).map(|set| Object::Set(Arc::new(set))),
            Kind::List => List::read(from).map(|list| Object::List(Arc::new(list))),
            Kind::SortedSet => SortedSet::read(from).map(|set| Object::SortedSet(Arc::new(set))),
        }
    }
}
