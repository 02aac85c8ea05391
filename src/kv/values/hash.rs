//! Hashes: fields and their values. A large hash is divided into buckets. Snapshots share the
//! buckets, so a change copies one bucket instead of the whole hash, and no table ever grows in one
//! long step.

use std::sync::Arc;

use bytes::{Buf as _, BufMut as _};
use foldhash::fast::FixedState;
use indexmap::IndexMap;

use crate::kv::values::codec::{put_bytes, take_bytes, take_flag};
use crate::kv::values::content::Content;
use crate::kv::values::digest::{Digest, fingerprint, key_hash};
use crate::kv::values::element::Element;

/// Approximate memory usage of one field of a hash, in bytes: its place in a bucket, including the
/// name and the value if they are short.
const FIELD_BYTES: usize = 104;
/// Maximum number of fields of a small hash, which `HSCAN` returns in one call. Equals Redis's
/// default for `hash-max-listpack-entries`. The replicated state depends on this limit, so it must
/// be equal on all replicas.
pub(in crate::kv) const SMALL_FIELDS_MAX: usize = 512;
/// Maximum length in bytes of each field and each value of a small hash, which `HSCAN` returns in
/// one call. Equals Redis's default for `hash-max-listpack-value`. The replicated state depends on
/// this limit, so it must be equal on all replicas.
pub(in crate::kv) const SMALL_BYTES_MAX: usize = 64;
/// Average number of fields per bucket above which a large hash is divided into more buckets. A
/// change of a hash that a snapshot shares copies one or two buckets and the list of buckets.
const BUCKET_FIELDS: usize = 256;
/// Maximum number of buckets of a hash, which bounds the memory that decoding a corrupt snapshot
/// allocates. Enough for four billion fields; beyond that, buckets become larger.
const BUCKETS_MAX: usize = 1 << 24;
/// Number of low bits of an `HSCAN` cursor that say how many fields of the current bucket have not
/// been returned yet.
const REMAINING_BITS: u32 = 32;
/// Value of the low bits of an `HSCAN` cursor if none of the current bucket's fields have been
/// returned yet.
const ALL_REMAINING: u64 = (1 << REMAINING_BITS) - 1;

type Fields = IndexMap<Element, Element, FixedState>;

/// A hash: a map from fields to values. A small hash keeps its fields in insertion order. In a
/// large hash, which is divided into buckets, the last field of a bucket moves to the place of a
/// removed field. A large hash stays large, and its number of buckets never decreases.
///
/// Invariant: `length` is the number of fields, `digest` is the sum of their hashes, and `bytes` is
/// their memory usage. The order of the fields, `is_large` and the number of buckets are equal on
/// all replicas: they depend only on the log, and snapshots preserve them.
#[derive(Debug, Clone, Default)]
pub(in crate::kv) struct Hash {
    buckets: Buckets,
    length: usize,
    digest: Digest,
    bytes: usize,
    is_large: bool,
}

/// The fields of a hash, divided into buckets. The hash of a field's name and the number of buckets
/// determine the field's bucket.
#[derive(Debug, Clone)]
enum Buckets {
    One(Fields),
    Many(Vec<Arc<Fields>>),
}

impl Default for Buckets {
    fn default() -> Buckets {
        Buckets::One(Fields::default())
    }
}

impl Buckets {
    fn count(&self) -> usize {
        match self {
            Buckets::One(_) => 1,
            Buckets::Many(buckets) => buckets.len(),
        }
    }

    fn bucket(&self, at: usize) -> &Fields {
        match self {
            Buckets::One(fields) => fields,
            Buckets::Many(buckets) => &buckets[at],
        }
    }

    /// Returns a mutable reference to the bucket at index `at`. Copies the bucket first if a
    /// snapshot shares it.
    fn bucket_mut(&mut self, at: usize) -> &mut Fields {
        match self {
            Buckets::One(fields) => fields,
            Buckets::Many(buckets) => Arc::make_mut(&mut buckets[at]),
        }
    }

    /// Adds a bucket, and moves some fields of one existing bucket to it (linear hashing).
    fn split(&mut self) {
        if let Buckets::One(fields) = self {
            *self = Buckets::Many(vec![Arc::new(std::mem::take(fields))]);
        }
        let Buckets::Many(buckets) = self else {
            unreachable!("converted to several buckets above")
        };
        let new = buckets.len();
        let old = Arc::make_mut(&mut buckets[new - (1 << new.ilog2())]);
        // The fields of both buckets stay in order.
        let (kept, moved) = std::mem::take(old)
            .into_iter()
            .partition(|(field, _)| bucket_of(bucket_bits(key_hash(field)), new + 1) != new);
        *old = kept;
        buckets.push(Arc::new(moved));
    }
}

/// Returns the bits of a field's hash that select the field's bucket. Lookups within a bucket use
/// another hash function.
pub(super) fn bucket_bits(hash: u64) -> u32 {
    u32::try_from(hash >> 32).expect("a u64 shifted by 32 bits")
}

/// Returns the index of the bucket for a field with the hash bits `bits`: the number formed by the
/// lowest of these bits, as many as are needed to number all `buckets` buckets.
pub(super) fn bucket_of(bits: u32, buckets: usize) -> usize {
    let among = buckets.next_power_of_two();
    let at = usize::try_from(bits).expect("32 bits fit") & (among - 1);
    if at < buckets { at } else { at - among / 2 }
}

/// Returns how many of the lowest hash bits are equal for all fields of a bucket, if the hash has
/// `buckets` buckets.
fn common_bits(bucket: usize, buckets: usize) -> u32 {
    let level = buckets.ilog2();
    let (half, split) = (1 << level, buckets - (1 << level));
    if bucket < split || bucket >= half { level + 1 } else { level }
}

impl Hash {
    pub(in crate::kv) fn len(&self) -> usize {
        self.length
    }

    pub(in crate::kv) fn get(&self, field: &[u8]) -> Option<&Element> {
        match &self.buckets {
            Buckets::One(fields) => fields.get(field),
            Buckets::Many(buckets) => {
                buckets[bucket_of(bucket_bits(key_hash(field)), buckets.len())].get(field)
            }
        }
    }

    /// Returns how many fields of this hash, which is large, are not shared with `other`.
    #[cfg(test)]
    pub(in crate::kv) fn unshared(&self, other: &Hash) -> usize {
        let (Buckets::Many(one), Buckets::Many(two)) = (&self.buckets, &other.buckets) else {
            return self.length;
        };
        let is_other = |(one, two): &(&Arc<Fields>, &Arc<Fields>)| !Arc::ptr_eq(one, two);
        one.iter().zip(two).filter(is_other).map(|(fields, _)| fields.len()).sum()
    }

    /// Sets a field of the hash to `value`. Returns whether the field is new.
    pub(in crate::kv) fn set(&mut self, field: &[u8], value: &[u8]) -> bool {
        let field_hash = key_hash(field);
        self.digest.add(fingerprint(field_hash, value));
        self.is_large |= field.len().max(value.len()) > SMALL_BYTES_MAX;
        let value = Element::from(value);
        self.bytes += value.allocated_bytes();
        let bucket = bucket_of(bucket_bits(field_hash), self.buckets.count());
        let fields = self.buckets.bucket_mut(bucket);
        if let Some(current) = fields.get_mut(field) {
            let old = std::mem::replace(current, value);
            self.digest.remove(fingerprint(field_hash, &old));
            self.bytes -= old.allocated_bytes();
            return false;
        }
        let field = Element::from(field);
        self.bytes += field.allocated_bytes() + FIELD_BYTES;
        fields.insert(field, value);
        self.length += 1;
        if self.length > SMALL_FIELDS_MAX {
            self.is_large = true;
            let wanted = self.length.div_ceil(BUCKET_FIELDS).min(BUCKETS_MAX);
            while self.buckets.count() < wanted {
                self.buckets.split();
            }
        }
        true
    }

    /// Removes a field of the hash. Returns whether the field existed.
    pub(in crate::kv) fn remove(&mut self, field: &[u8]) -> bool {
        let field_hash = key_hash(field);
        let bucket = bucket_of(bucket_bits(field_hash), self.buckets.count());
        // Checked first so that a shared bucket is not copied for a missing field.
        if !self.buckets.bucket(bucket).contains_key(field) {
            return false;
        }
        let fields = self.buckets.bucket_mut(bucket);
        let removed = if self.is_large {
            fields.swap_remove_entry(field)
        } else {
            fields.shift_remove_entry(field)
        };
        let (field, value) = removed.expect("the field exists");
        self.digest.remove(fingerprint(field_hash, &value));
        self.bytes -= field.allocated_bytes() + value.allocated_bytes() + FIELD_BYTES;
        self.length -= 1;
        if self.length == 0 {
            assert_eq!((self.bytes, self.digest), (0, Digest::default()), "sums of an empty hash");
        }
        true
    }

    /// Iterates over all fields with their values, one bucket after another.
    pub(in crate::kv) fn iter(&self) -> impl Iterator<Item = (&Element, &Element)> {
        (0..self.buckets.count()).flat_map(|bucket| self.buckets.bucket(bucket))
    }

    /// Returns the fields at the given positions in the order of iteration, with their values.
    pub(in crate::kv) fn at(&self, positions: &[usize]) -> Vec<(&Element, &Element)> {
        let lengths = (0..self.buckets.count()).map(|bucket| self.buckets.bucket(bucket).len());
        let end_of = |end: &mut usize, length| {
            *end += length;
            Some(*end)
        };
        let ends: Vec<usize> = lengths.scan(0, end_of).collect();
        let find = |position: &usize| {
            let bucket = ends.partition_point(|end| end <= position);
            let fields = self.buckets.bucket(bucket);
            fields.get_index(position + fields.len() - ends[bucket])
        };
        positions.iter().filter_map(find).collect()
    }

    /// Returns the next cursor of an `HSCAN`, and about `count` fields with their values. The
    /// cursor is 0 at the start and at the end of a scan. A small hash is returned in one call; a
    /// large hash is scanned one bucket after another, each from its end to its start.
    ///
    /// A field that stays in the hash during the whole scan is returned: new fields are appended to
    /// their bucket, and other fields move only to lower indexes in their bucket, or to a new
    /// bucket when their bucket is split. The buckets are visited in the order of their reversed
    /// hash bits, in which a new bucket follows the one that was split.
    pub(in crate::kv) fn scan(
        &self,
        cursor: u64,
        count: usize,
    ) -> (u64, Vec<(&Element, &Element)>) {
        if !self.is_large {
            return (0, self.iter().collect());
        }
        let buckets = self.buckets.count();
        let (mut reversed, mut remaining) = (cursor >> REMAINING_BITS, cursor & ALL_REMAINING);
        if cursor == 0 {
            remaining = ALL_REMAINING;
        }
        let mut found = Vec::new();
        while let Ok(bits) = u32::try_from(reversed).map(u32::reverse_bits) {
            if found.len() >= count {
                return (reversed << REMAINING_BITS | remaining, found);
            }
            let bucket = bucket_of(bits, buckets);
            let fields = self.buckets.bucket(bucket);
            let to = usize::try_from(remaining).expect("32 bits fit").min(fields.len());
            let from = to.saturating_sub(count - found.len());
            found
                .extend(fields.get_range(from..to).expect("the range is within the bucket").iter());
            remaining = from as u64;
            if from == 0 {
                let suffix = (1 << (u32::BITS - common_bits(bucket, buckets))) - 1;
                (reversed, remaining) = ((reversed | suffix) + 1, ALL_REMAINING);
            }
        }
        (0, found)
    }
}

impl Content for Hash {
    fn digest(&self) -> u64 {
        self.digest.salted(0)
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn encoding(&self) -> &'static str {
        if self.is_large { "hashtable" } else { "listpack" }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(self.is_large.into());
        out.put_u32_le(u32::try_from(self.buckets.count()).expect("below BUCKETS_MAX"));
        out.put_u64_le(self.length as u64);
        for (field, value) in self.iter() {
            put_bytes(field, out);
            put_bytes(value, out);
        }
    }

    fn decode(from: &mut &[u8]) -> Option<Hash> {
        let is_large = take_flag(from)?;
        let mut hash = Hash { is_large, ..Hash::default() };
        let buckets = usize::try_from(from.try_get_u32_le().ok()?).ok()?;
        if !(1..=BUCKETS_MAX).contains(&buckets) || buckets > 1 && !is_large {
            return None;
        }
        if buckets > 1 {
            // All buckets share one empty table until they get fields, so the claimed number of
            // buckets costs only 8 bytes each.
            hash.buckets = Buckets::Many(vec![Arc::default(); buckets]);
        }
        for _ in 0..from.try_get_u64_le().ok()? {
            let (field, value) = (take_bytes(from)?, take_bytes(from)?);
            if !hash.set(field, value) {
                return None;
            }
        }
        Some(hash).filter(|hash| !hash.is_empty() && hash.is_large == is_large)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn filled(count: usize) -> Hash {
        let mut hash = Hash::default();
        for number in 0..count {
            assert!(hash.set(format!("field:{number:012}").as_bytes(), b"value"));
        }
        hash
    }

    fn check(hash: &Hash) {
        assert_eq!(hash.iter().count(), hash.len());
        let mut again = Hash::default();
        for (field, value) in hash.iter() {
            assert_eq!(hash.get(field), Some(value));
            again.set(field, value);
        }
        assert_eq!((again.digest(), again.bytes()), (hash.digest(), hash.bytes()));
        let all: Vec<_> = hash.iter().collect();
        let places: Vec<usize> = (0..hash.len()).rev().collect();
        assert!(hash.at(&places).into_iter().eq(all.into_iter().rev()));
        let mut bytes = Vec::new();
        hash.encode(&mut bytes);
        let mut rest = &bytes[..];
        let Some(copy) = Hash::decode(&mut rest) else { return assert!(hash.is_empty()) };
        assert!(rest.is_empty() && copy.iter().eq(hash.iter()), "in the same order");
        assert_eq!(copy.buckets.count(), hash.buckets.count());
    }

    #[test]
    fn fields_of_a_large_hash_are_spread_over_buckets() {
        for count in [0, 1, SMALL_FIELDS_MAX, SMALL_FIELDS_MAX + 1, 5_000, 20_000] {
            let mut hash = filled(count);
            check(&hash);
            let buckets = hash.buckets.count();
            assert_eq!(buckets > 1, count > SMALL_FIELDS_MAX);
            assert!(
                buckets == 1 || buckets == count.div_ceil(BUCKET_FIELDS),
                "{buckets} for {count}"
            );
            let longest = (0..buckets).map(|bucket| hash.buckets.bucket(bucket).len()).max();
            assert!(longest <= Some(3 * BUCKET_FIELDS), "{longest:?} of {count}");
            for number in (0..count).filter(|number| number % 3 != 0) {
                assert!(hash.remove(format!("field:{number:012}").as_bytes()));
            }
            assert_eq!(hash.len(), count.div_ceil(3));
            check(&hash);
            assert_eq!(hash.buckets.count(), buckets);
            assert!(!hash.remove(b"nothing"));
        }
    }

    #[test]
    fn hash_write_copies_only_the_bucket_it_changes() {
        let mut hash = filled(20_000);
        let view = hash.clone();
        hash.set(b"field:000000000077", b"other");
        hash.remove(b"nothing");
        let (Buckets::Many(own), Buckets::Many(seen)) = (&hash.buckets, &view.buckets) else {
            panic!("expected several buckets");
        };
        let copied = own.iter().zip(seen).filter(|(one, other)| !Arc::ptr_eq(one, other));
        assert_eq!(copied.count(), 1, "of {}", own.len());
        assert_eq!(view.get(b"field:000000000077").unwrap()[..], b"value"[..]);
        check(&view);
    }

    #[test]
    fn hash_scan_returns_each_field_present_during_whole_scan() {
        for (grows, shrinks) in [(true, false), (false, true), (true, true), (false, false)] {
            let mut hash = filled(3_000);
            let (mut cursor, mut seen, mut rounds) = (0, BTreeSet::new(), 0);
            loop {
                let (next, found) = hash.scan(cursor, 10);
                assert!(found.len() <= 10);
                seen.extend(found.into_iter().map(|(field, _)| field.clone()));
                for turn in 0..10 {
                    let number = rounds * 10 + turn;
                    if grows {
                        hash.set(format!("new:{number}").as_bytes(), b"");
                    }
                    let number = number * 7 % 3_000;
                    if shrinks && number % 5 != 0 {
                        hash.remove(format!("field:{number:012}").as_bytes());
                    }
                }
                rounds += 1;
                if next == 0 {
                    break;
                }
                cursor = next;
            }
            assert!((60..2_000).contains(&rounds), "{rounds}");
            assert!(grows || shrinks || rounds == 300, "no field twice if nothing changes");
            let wanted = (0..3_000).filter(|number| !shrinks || number % 5 == 0);
            for number in wanted {
                let field = format!("field:{number:012}").into_bytes();
                assert!(seen.contains(&field[..]), "{number}, {grows} {shrinks}");
            }
        }
    }
}
