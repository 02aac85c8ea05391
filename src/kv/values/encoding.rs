//! The names of the encodings that Redis would choose for values, by limits that can be set.

use crate::kv::values::collection::Collection;
use crate::kv::values::number::parse_integer;

/// The settings by which Redis chooses the encodings of small collections. Here they only determine
/// what `OBJECT ENCODING` replies: collections have another layout in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodingLimits {
    /// Maximum number of fields of a hash with the encoding `listpack`.
    pub hash_fields_max: u64,
    /// Maximum length in bytes of each field and value of such a hash.
    pub hash_bytes_max: u64,
    /// Maximum number of members of a set with the encoding `intset`.
    pub integers_max: u64,
    /// Maximum number of members of a sorted set with the encoding `listpack`.
    pub sorted_set_members_max: u64,
    /// Maximum length in bytes of each member of such a sorted set.
    pub sorted_set_bytes_max: u64,
}

/// Number of limits.
const LIMITS: usize = 5;

impl Default for EncodingLimits {
    fn default() -> EncodingLimits {
        EncodingLimits {
            hash_fields_max: 512,
            hash_bytes_max: 64,
            integers_max: 512,
            sorted_set_members_max: 128,
            sorted_set_bytes_max: 64,
        }
    }
}

impl EncodingLimits {
    /// Returns the limits as an argument of the state machine's command `object|encoding`.
    pub fn to_bytes(self) -> [u8; 8 * LIMITS] {
        let limits = [
            self.hash_fields_max,
            self.hash_bytes_max,
            self.integers_max,
            self.sorted_set_members_max,
            self.sorted_set_bytes_max,
        ];
        let mut bytes = [0; 8 * LIMITS];
        for (place, limit) in bytes.chunks_exact_mut(8).zip(limits) {
            place.copy_from_slice(&limit.to_le_bytes());
        }
        bytes
    }

    /// Returns the limits of which [`EncodingLimits::to_bytes`] has made `bytes`; `None` if the
    /// length is wrong.
    pub(in crate::kv) fn from_bytes(bytes: &[u8]) -> Option<EncodingLimits> {
        let bytes: &[u8; 8 * LIMITS] = bytes.try_into().ok()?;
        let (limits, _) = bytes.as_chunks::<8>();
        let limit = |at: usize| u64::from_le_bytes(limits[at]);
        Some(EncodingLimits {
            hash_fields_max: limit(0),
            hash_bytes_max: limit(1),
            integers_max: limit(2),
            sorted_set_members_max: limit(3),
            sorted_set_bytes_max: limit(4),
        })
    }

    /// Returns the name of the encoding that Redis would use with these limits if the collection
    /// were newly created.
    pub(in crate::kv) fn encoding_of(&self, collection: &Collection) -> &'static str {
        let fits = |count: usize, max: u64| count as u64 <= max;
        match collection {
            Collection::Hash(hash) => {
                let is_short = |bytes: &[u8]| fits(bytes.len(), self.hash_bytes_max);
                let are_short =
                    || hash.iter().all(|(name, value)| is_short(name) && is_short(value));
                let is_small = fits(hash.len(), self.hash_fields_max) && are_short();
                if is_small { "listpack" } else { "hashtable" }
            }
            Collection::Set(set) => {
                let are_integers = || set.iter().all(|member| parse_integer(member).is_some());
                let is_small = fits(set.len(), self.integers_max) && are_integers();
                if is_small { "intset" } else { "hashtable" }
            }
            Collection::SortedSet(set) => {
                let is_short = |member: &[u8]| fits(member.len(), self.sorted_set_bytes_max);
                let is_small = fits(set.len(), self.sorted_set_members_max)
                    && set.iter().all(|(member, _)| is_short(member));
                if is_small { "listpack" } else { "skiplist" }
            }
            Collection::List(_) | Collection::Stream(_) => collection.encoding(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::kv::values::collection::CollectionType as _;
    use crate::kv::values::hash::Hash;
    use crate::kv::values::set::Set;
    use crate::kv::values::sorted_set::SortedSet;

    #[test]
    fn encodings_depend_on_the_limits() {
        let mut hash = Hash::default();
        hash.set(b"field", b"12345678");
        let mut set = Set::default();
        let mut sorted = SortedSet::default();
        for number in 0..3_u8 {
            set.add(&[b'0' + number]);
            sorted.set(&[b'm', number], 1.0);
        }
        let (hash, set) = (Hash::wrap(Arc::new(hash)), Set::wrap(Arc::new(set)));
        let sorted = SortedSet::wrap(Arc::new(sorted));
        let all = |limits: EncodingLimits| {
            let back = EncodingLimits::from_bytes(&limits.to_bytes()).unwrap();
            assert_eq!(back, limits);
            [&hash, &set, &sorted].map(|it| limits.encoding_of(it))
        };
        let usual = EncodingLimits::default();
        assert_eq!(all(usual), ["listpack", "intset", "listpack"]);
        assert_eq!(all(EncodingLimits { hash_bytes_max: 7, ..usual })[0], "hashtable");
        assert_eq!(all(EncodingLimits { hash_bytes_max: 8, ..usual })[0], "listpack");
        assert_eq!(all(EncodingLimits { hash_fields_max: 0, ..usual })[0], "hashtable");
        assert_eq!(all(EncodingLimits { integers_max: 2, ..usual })[1], "hashtable");
        assert_eq!(all(EncodingLimits { sorted_set_members_max: 2, ..usual })[2], "skiplist");
        assert_eq!(all(EncodingLimits { sorted_set_bytes_max: 1, ..usual })[2], "skiplist");
        assert_eq!(EncodingLimits::from_bytes(b"short"), None);
    }
}
