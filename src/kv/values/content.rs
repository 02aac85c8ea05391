//! The trait that all collection types implement.

/// A collection type (hash, set, list or sorted set) that the keyspace can hash, measure and
/// encode.
pub(in crate::kv) trait Content: Default + Clone {
    /// Returns a hash of the collection's content: equal contents have equal hashes. O(1), because
    /// every change updates the hash.
    fn digest(&self) -> u64;
    /// Returns the approximate memory usage of the collection, in bytes. O(1).
    fn bytes(&self) -> usize;
    /// Returns whether the collection is empty. The keyspace removes a key when its collection
    /// becomes empty.
    fn is_empty(&self) -> bool;
    /// Returns the name of the encoding that Redis, with default settings, uses for this collection
    /// (`OBJECT ENCODING`).
    fn encoding(&self) -> &'static str;
    /// Appends the encoding of the collection in snapshots to `out`.
    fn encode(&self, out: &mut Vec<u8>);
    /// Decodes a collection that `encode` wrote, and removes it from the front of `from`; `None` if
    /// the bytes are malformed or the collection is empty.
    fn decode(from: &mut &[u8]) -> Option<Self>;
}
