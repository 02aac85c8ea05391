//! The interface that all collection types implement.

/// What each collection type (hash, set, list, sorted set) implements so that the keyspace can
/// hash, measure and encode it.
pub(in crate::kv) trait Content: Default + Clone {
    /// Returns the hash of the content: equal contents have equal hashes. Maintained incrementally,
    /// so this is O(1).
    fn digest(&self) -> u64;
    /// Returns the approximate memory of the content in bytes. O(1).
    fn bytes(&self) -> usize;
    /// Returns whether the collection is empty. Empty collections are removed from the keyspace.
    fn is_empty(&self) -> bool;
    /// Returns the name of the encoding that Redis with default settings uses for this content
    /// (`OBJECT ENCODING`).
    fn encoding(&self) -> &'static str;
    /// Encodes the content for a snapshot.
    fn encode(&self, out: &mut Vec<u8>);
    /// Decodes content that `encode` wrote. `None` if the bytes are malformed or the content is
    /// empty.
    fn decode(from: &mut &[u8]) -> Option<Self>;
}
