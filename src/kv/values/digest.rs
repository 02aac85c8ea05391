//! An incremental hash of the state: the sum of one fingerprint per entry, by which replicas
//! compare their states. Addition is commutative, so the order of entries in hash tables does not
//! affect the hash.
//!
//! The hash function is implemented here instead of imported, because its results must not change
//! with a crate version or a processor. It is fast and non-cryptographic: it detects accidental
//! differences, not deliberate collisions.

/// A hash of a set of fingerprints (hashes of entries): their sum modulo 2^64. Fingerprints can be
/// added and removed in any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::kv) struct Digest(u64);

/// Constant factor for mixing hashes: 2^64 divided by the golden ratio, rounded to an odd integer.
/// A common choice because its bits have no obvious pattern.
const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

impl Digest {
    /// Adds the fingerprint (hash) of an entry to the digest.
    pub(in crate::kv) fn add(&mut self, fingerprint: u64) {
        self.0 = self.0.wrapping_add(fingerprint);
    }

    /// Removes the fingerprint (hash) of an entry, which must have been added before, from the
    /// digest.
    pub(in crate::kv) fn remove(&mut self, fingerprint: u64) {
        self.0 = self.0.wrapping_sub(fingerprint);
    }

    /// Returns the sum of two digests, which is the digest of all fingerprints (hashes of entries)
    /// that were added to either.
    pub(in crate::kv) fn union(self, other: Digest) -> Digest {
        Digest(self.0.wrapping_add(other.0))
    }

    /// Returns a hash of this digest combined with the number `salt`.
    pub(in crate::kv) fn salted(self, salt: u64) -> u64 {
        mix(self.0, salt)
    }
}

/// Returns the hash of a key, which determines where hash tables store the key and from which the
/// fingerprint of its entry is computed.
pub(in crate::kv) fn key_hash(key: &[u8]) -> u64 {
    // The length of the key is hashed first, so that moving a byte from the key to the value
    // changes the fingerprint.
    absorb(mix(MULTIPLIER, key.len() as u64), key)
}

/// Returns the fingerprint (hash) of an entry with the string `value` and without an expiration
/// time. `key_hash` is the hash of the entry's key.
pub(in crate::kv) fn fingerprint(key_hash: u64, value: &[u8]) -> u64 {
    absorb(key_hash, value)
}

/// Number of hashes that are computed in parallel for a long byte string, so that the processor
/// overlaps their multiplications.
const LANES: usize = 4;

/// Updates the hash `state` with `bytes`, and returns the new hash.
fn absorb(mut state: u64, bytes: &[u8]) -> u64 {
    let (mut words, rest) = bytes.as_chunks::<8>();
    if words.len() >= 2 * LANES {
        let (rows, left) = words.as_chunks::<LANES>();
        let mut lanes: [u64; LANES] = std::array::from_fn(|lane| mix(state, lane as u64));
        for row in rows {
            for (lane, word) in lanes.iter_mut().zip(row) {
                *lane = mix(*lane, u64::from_le_bytes(*word));
            }
        }
        state = lanes.into_iter().fold(state, mix);
        words = left;
    }
    for word in words {
        state = mix(state, u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    // The length distinguishes trailing zero bytes from padding.
    mix(mix(state, u64::from_le_bytes(last)), bytes.len() as u64)
}

/// Updates the hash `state` with a 64-bit word, and returns the new hash: multiplies the XOR of
/// `state`, `word` and a constant by another constant, and folds the 128-bit product to 64 bits.
pub(in crate::kv) fn mix(state: u64, word: u64) -> u64 {
    let (low, high) = (state ^ word ^ MULTIPLIER).carrying_mul(MULTIPLIER.rotate_left(32), 0);
    (low ^ high).wrapping_add(state.rotate_left(23))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn fingerprint(key: &[u8], value: &[u8]) -> u64 {
        super::fingerprint(key_hash(key), value)
    }

    #[test]
    fn key_entry_fingerprint_matches_fixed_reference_values() {
        assert_eq!(fingerprint(b"", b""), 0x091F_E210_6B17_4058);
        assert_eq!(fingerprint(b"key", b"a longer value"), 0x46AE_7F49_B721_A15C);
    }

    #[test]
    fn similar_key_entries_have_different_fingerprints() {
        let mut seen = BTreeSet::new();
        let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for length in 0..40 {
            pairs.push((vec![0; length], vec![]));
            pairs.push((b"k".to_vec(), vec![0; length]));
            pairs.push((b"k".to_vec(), vec![0; length + 90]));
            let mut one_bit = vec![0; 128];
            one_bit[length * 3] = 1;
            pairs.push((b"k".to_vec(), one_bit));
            pairs.push((b"abcdefghij"[..length.min(10)].to_vec(), b"z".repeat(length)));
            pairs.push((length.to_string().into_bytes(), b"1".to_vec()));
            pairs.push((b"1".to_vec(), length.to_string().into_bytes()));
        }
        pairs.sort();
        pairs.dedup();
        for (key, value) in &pairs {
            assert!(seen.insert(fingerprint(key, value)), "{key:?} {value:?}");
        }
    }

    #[test]
    fn state_digest_ignores_entry_order_and_removed_entries() {
        let (a, b) = (fingerprint(b"a", b"1"), fingerprint(b"b", b"2"));
        let (mut one, mut two) = (Digest::default(), Digest::default());
        one.add(a);
        one.add(b);
        two.add(b);
        two.add(a);
        assert_eq!(one, two);
        assert_ne!(one.salted(1), two.salted(2));
        one.remove(b);
        one.remove(a);
        assert_eq!(one, Digest::default());
    }
}
