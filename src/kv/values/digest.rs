//! A number that tells two states apart, kept up while they change: the sum of one number for
//! each pair of key and value. A sum does not care for order, so no order of a map can show in it.
//!
//! The function is written here, and not taken from a hasher's crate, because it must not change
//! with a version or a processor: replicas compare its results. It is made for speed and for
//! telling apart states that should be equal; against somebody who looks for collisions it is no
//! protection.

/// The state's number so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::kv) struct Digest(u64);

/// An odd number without a pattern (the digits of the golden ratio).
const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

impl Digest {
    /// A pair has come.
    pub(in crate::kv) fn add(&mut self, fingerprint: u64) {
        self.0 = self.0.wrapping_add(fingerprint);
    }

    /// A pair has gone.
    pub(in crate::kv) fn remove(&mut self, fingerprint: u64) {
        self.0 = self.0.wrapping_sub(fingerprint);
    }

    /// That of both together.
    pub(in crate::kv) fn and(self, other: Digest) -> Digest {
        Digest(self.0.wrapping_add(other.0))
    }

    /// The number of the state at `place`.
    pub(in crate::kv) fn at(self, place: u64) -> u64 {
        mix(self.0, place)
    }
}

/// The number of a key: where its pair's number begins, and its place in a map.
pub(in crate::kv) fn key_hash(key: &[u8]) -> u64 {
    // The key's length goes in first, or moving a byte from the key to the value would not show.
    absorb(mix(MULTIPLIER, key.len() as u64), key)
}

/// The number of a pair, by that of its key.
pub(in crate::kv) fn fingerprint(key_hash: u64, value: &[u8]) -> u64 {
    absorb(key_hash, value)
}

/// Mixes bytes into a number, eight at a time.
fn absorb(mut state: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        state = mix(state, u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    // The length tells trailing zero bytes from padding.
    mix(mix(state, u64::from_le_bytes(last)), bytes.len() as u64)
}

/// Mixes a word into a number: both halves of their 128-bit product, folded.
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
    fn the_numbers_stay_what_they_were() {
        assert_eq!(fingerprint(b"", b""), 0x091F_E210_6B17_4058);
        assert_eq!(fingerprint(b"key", b"a longer value"), 0x46AE_7F49_B721_A15C);
    }

    #[test]
    fn pairs_that_look_alike_differ() {
        let mut seen = BTreeSet::new();
        let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for length in 0..40 {
            pairs.push((vec![0; length], vec![]));
            pairs.push((b"k".to_vec(), vec![0; length]));
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
    fn order_does_not_matter_and_what_goes_leaves_no_trace() {
        let (a, b) = (fingerprint(b"a", b"1"), fingerprint(b"b", b"2"));
        let (mut one, mut two) = (Digest::default(), Digest::default());
        one.add(a);
        one.add(b);
        two.add(b);
        two.add(a);
        assert_eq!(one, two);
        assert_ne!(one.at(1), two.at(2));
        one.remove(b);
        one.remove(a);
        assert_eq!(one, Digest::default());
    }
}
