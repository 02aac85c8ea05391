//! The search for all prefixes of a key in a map by prefix.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

/// Returns the entries of `map` whose keys are prefixes of `key`.
pub(super) fn prefixes_of<'m, V>(
    map: &'m BTreeMap<Bytes, V>,
    key: &[u8],
) -> Vec<(&'m Bytes, &'m V)> {
    let up_to = |last: &[u8]| map.range::<[u8], _>((Bound::Unbounded, Bound::Included(last)));
    let mut found = Vec::new();
    // In byte order, no prefix of the key comes after it. If the last entry up to the key is no
    // prefix of it, any that remain are no longer than the part that both have in common.
    let mut candidates = up_to(key);
    while let Some((prefix, value)) = candidates.next_back() {
        let common = prefix.iter().zip(key).take_while(|(one, other)| one == other).count();
        if common == prefix.len() {
            found.push((prefix, value));
        } else {
            candidates = up_to(&key[..common]);
        }
    }
    found
}
