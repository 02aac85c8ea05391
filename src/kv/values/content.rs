//! The trait that all collection types implement.

/// The content of a collection (hash, set, list or sorted set), with the functions that the
/// keyspace needs for all of these types.
pub(in crate::kv) trait Content: Default + Clone {
    /// Returns a hash of the content, for comparing replicas: equal contents have equal hashes.
    /// O(1), because every change updates the stored hash.
    fn digest(&self) -> u64;
    /// Returns the approximate memory usage of the collection, in bytes. O(1).
    fn bytes(&self) -> usize;
    /// Returns whether the collection is empty, in which case the keyspace removes its key.
    fn is_empty(&self) -> bool;
    /// Returns the name of the encoding that Redis with default settings would use for this
    /// collection, for `OBJECT ENCODING`.
    fn encoding(&self) -> &'static str;
    /// Appends the collection to `out`, encoded for a snapshot.
    fn encode(&self, out: &mut Vec<u8>);
    /// Decodes a collection that `encode` encoded, and removes it from the front of `from`; `None`
    /// if the bytes are malformed or the collection is empty.
    fn decode(from: &mut &[u8]) -> Option<Self>;
}
