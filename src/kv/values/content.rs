//! What all types of collections have in common.

/// The content of a collection.
pub(in crate::kv) trait Content: Default + Clone {
    /// Hash of the content: equal contents have equal hashes. Maintained incrementally, so reading
    /// it is O(1).
    fn digest(&self) -> u64;
    /// Approximate memory in bytes. O(1).
    fn bytes(&self) -> usize;
    /// Whether the collection is empty; empty collections are removed from the keyspace.
    fn is_empty(&self) -> bool;
    /// The name of Redis's encoding for such a content with its default settings (`OBJECT
    /// ENCODING`).
    fn encoding(&self) -> &'static str;
    /// Encodes the content for a snapshot.
    fn encode(&self, out: &mut Vec<u8>);
    /// Decodes what `encode` wrote. `None` if the bytes are malformed or the content is empty.
    fn decode(from: &mut &[u8]) -> Option<Self>;
}
