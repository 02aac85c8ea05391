//! What a key with a hash holds: fields and their values. A large one is in parts, so that a view
//! of the state shares it and a change copies a part and not the hash; and so that none grows for
//! long.

use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes};
use foldhash::fast::FixedState;
use indexmap::IndexMap;

use crate::kv::values::codec::{put_bytes, take_bytes};
use crate::kv::values::digest::{Digest, fingerprint, key_hash};
use crate::kv::values::object::{Content, Object};

/// What a field takes in memory beside its bytes, about.
const FIELD_BYTES: usize = 96;
/// A hash with more fields than this, or a field or value of more bytes than that, is large: as
/// with Redis's settings `hash-max-listpack-entries` and `-value`. Part of the state machine, so
/// no replica may have others.
pub(in crate::kv) const SMALL_FIELDS_MAX: usize = 512;
pub(in crate::kv) const SMALL_BYTES_MAX: usize = 64;
/// How many fields a part has on average at most, where there are several. What a change costs at
/// most while a view has the hash is a copy of one part, or two, and of the list of parts.
const PART_FIELDS: usize = 256;
/// Most parts there can be: far beyond what fits into memory.
const PARTS_MAX: usize = 1 << 28;
/// In a cursor of a scan, the bits that say how many fields of a part are left.
const LEFT_BITS: u32 = 32;
/// Of a part in which the scan has not begun.
const ALL_LEFT: u64 = (1 << LEFT_BITS) - 1;

type Fields = IndexMap<Bytes, Bytes, FixedState>;

/// Fields and their values. While it is small they keep the order in which they came. In a large
/// one a field that goes leaves its place to the last one of its part, and so no field ever moves
/// to a higher place in its part: [`Hash::scan`] depends on that. A hash that was large once stays
/// so, with as many parts as it had.
///
/// Invariant: `length` counts the fields, `digest` is the sum of their fingerprints, `bytes` of
/// what they take. The order is the same on every replica: it is that of the log, and snapshots
/// keep it, as they do `is_large` and the number of parts.
#[derive(Debug, Clone, Default)]
pub(in crate::kv) struct Hash {
    parts: Parts,
    length: usize,
    digest: Digest,
    bytes: usize,
    is_large: bool,
}

/// Where a field is follows from its number and from how many parts there are.
#[derive(Debug, Clone)]
enum Parts {
    One(Fields),
    Many(Vec<Arc<Fields>>),
}

impl Default for Parts {
    fn default() -> Parts {
        Parts::One(Fields::default())
    }
}

impl Parts {
    fn count(&self) -> usize {
        match self {
            Parts::One(_) => 1,
            Parts::Many(parts) => parts.len(),
        }
    }

    fn part(&self, at: usize) -> &Fields {
        match self {
            Parts::One(fields) => fields,
            Parts::Many(parts) => &parts[at],
        }
    }

    /// To be changed: copied if a view has it.
    fn part_mut(&mut self, at: usize) -> &mut Fields {
        match self {
            Parts::One(fields) => fields,
            Parts::Many(parts) => Arc::make_mut(&mut parts[at]),
        }
    }

    /// Makes one part more of it, to which fields of another move (linear hashing).
    fn split(&mut self) {
        if let Parts::One(fields) = self {
            *self = Parts::Many(vec![Arc::new(std::mem::take(fields))]);
        }
        let Parts::Many(parts) = self else { unreachable!("it was made of many a moment ago") };
        let new = parts.len();
        let old = Arc::make_mut(&mut parts[new - (1 << new.ilog2())]);
        // Both in the order in which they were.
        let (stay, go) = std::mem::take(old)
            .into_iter()
            .partition(|(field, _)| part_of(bits_of(key_hash(field)), new + 1) != new);
        *old = stay;
        parts.push(Arc::new(go));
    }
}

/// The bits of a field's number that find its part. A part has a hasher of its own.
fn bits_of(number: u64) -> u32 {
    u32::try_from(number >> 32).expect("32 bits are left")
}

/// The part in which the fields with these bits are, if there are so many: the lowest bits say it,
/// as many as it takes.
fn part_of(bits: u32, parts: usize) -> usize {
    let among = parts.next_power_of_two();
    let at = usize::try_from(bits).expect("32 bits fit") & (among - 1);
    if at < parts { at } else { at - among / 2 }
}

/// How many of the lowest bits the fields of a part have in common, if there are so many parts.
fn common_bits(part: usize, parts: usize) -> u32 {
    let level = parts.ilog2();
    let (half, split) = (1 << level, parts - (1 << level));
    if part < split || part >= half { level + 1 } else { level }
}

impl Hash {
    pub(in crate::kv) fn len(&self) -> usize {
        self.length
    }

    pub(in crate::kv) fn get(&self, field: &[u8]) -> Option<&Bytes> {
        match &self.parts {
            Parts::One(fields) => fields.get(field),
            Parts::Many(parts) => parts[part_of(bits_of(key_hash(field)), parts.len())].get(field),
        }
    }

    /// Sets a field; whether it is new.
    pub(in crate::kv) fn set(&mut self, field: &[u8], value: &[u8]) -> bool {
        let number = key_hash(field);
        self.digest.add(fingerprint(number, value));
        self.bytes += value.len();
        self.is_large |= field.len().max(value.len()) > SMALL_BYTES_MAX;
        let value = Bytes::copy_from_slice(value);
        let part = part_of(bits_of(number), self.parts.count());
        let fields = self.parts.part_mut(part);
        if let Some(there) = fields.get_mut(field) {
            let old = std::mem::replace(there, value);
            self.digest.remove(fingerprint(number, &old));
            self.bytes -= old.len();
            return false;
        }
        fields.insert(Bytes::copy_from_slice(field), value);
        self.bytes += field.len() + FIELD_BYTES;
        self.length += 1;
        if self.length > SMALL_FIELDS_MAX {
            self.is_large = true;
            while self.length > self.parts.count() * PART_FIELDS {
                self.parts.split();
            }
        }
        true
    }

    /// Takes a field out; whether it was there.
    pub(in crate::kv) fn remove(&mut self, field: &[u8]) -> bool {
        let number = key_hash(field);
        let part = part_of(bits_of(number), self.parts.count());
        // A part that a view has is not copied for nothing.
        if !self.parts.part(part).contains_key(field) {
            return false;
        }
        let fields = self.parts.part_mut(part);
        let removed = if self.is_large {
            fields.swap_remove_entry(field)
        } else {
            fields.shift_remove_entry(field)
        };
        let (field, value) = removed.expect("it was there a moment ago");
        self.digest.remove(fingerprint(number, &value));
        self.bytes -= field.len() + value.len() + FIELD_BYTES;
        self.length -= 1;
        true
    }

    /// All fields and their values.
    pub(in crate::kv) fn iter(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        (0..self.parts.count()).flat_map(|part| self.parts.part(part))
    }

    /// The fields at those places, each below the number of fields.
    pub(in crate::kv) fn at(&self, places: &[usize]) -> Vec<(&Bytes, &Bytes)> {
        let lengths = (0..self.parts.count()).map(|part| self.parts.part(part).len());
        let expires_at = |end: &mut usize, length| {
            *end += length;
            Some(*end)
        };
        let ends: Vec<usize> = lengths.scan(0, expires_at).collect();
        let find = |place: &usize| {
            let part = ends.partition_point(|end| end <= place);
            let fields = self.parts.part(part);
            fields.get_index(place + fields.len() - ends[part])
        };
        places.iter().filter_map(find).collect()
    }

    /// The next fields of a scan, about so many, and the cursor to go on with: 0 at the beginning
    /// and behind the end. A small hash is told at once; of a large one each part in turn, from its
    /// end to its beginning.
    ///
    /// Fields come at the end of a part and only ever move to lower places in it, or to the new
    /// part when theirs is split. Parts are told in the order of their common bits read backwards,
    /// so the new part is the next one. So no field that stays can get from what is left to what
    /// was told, and a hash that grows is told to its end all the same.
    pub(in crate::kv) fn scan(&self, cursor: u64, count: usize) -> (u64, Vec<(&Bytes, &Bytes)>) {
        if !self.is_large {
            return (0, self.iter().collect());
        }
        let parts = self.parts.count();
        let (mut backwards, mut left) = (cursor >> LEFT_BITS, cursor & ALL_LEFT);
        if cursor == 0 {
            left = ALL_LEFT;
        }
        let mut found = Vec::new();
        while let Ok(bits) = u32::try_from(backwards).map(u32::reverse_bits) {
            if found.len() >= count {
                return (backwards << LEFT_BITS | left, found);
            }
            let part = part_of(bits, parts);
            let fields = self.parts.part(part);
            let to = usize::try_from(left).expect("32 bits fit").min(fields.len());
            let from = to.saturating_sub(count - found.len());
            found.extend(fields.get_range(from..to).expect("it is within the part").iter());
            left = from as u64;
            if from == 0 {
                let others = (1 << (u32::BITS - common_bits(part, parts))) - 1;
                (backwards, left) = ((backwards | others) + 1, ALL_LEFT);
            }
        }
        (0, found)
    }
}

impl Content for Hash {
    fn wrap(content: Arc<Hash>) -> Object {
        Object::Hash(content)
    }

    fn of(object: &Object) -> Option<&Arc<Hash>> {
        if let Object::Hash(hash) = object { Some(hash) } else { None }
    }

    fn of_mut(object: &mut Object) -> Option<&mut Arc<Hash>> {
        if let Object::Hash(hash) = object { Some(hash) } else { None }
    }

    fn digest(&self) -> u64 {
        self.digest.at(0)
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

    fn write(&self, out: &mut Vec<u8>) {
        out.put_u8(self.is_large.into());
        out.put_u32_le(u32::try_from(self.parts.count()).expect("there are far fewer"));
        out.put_u64_le(self.length as u64);
        for (field, value) in self.iter() {
            put_bytes(field, out);
            put_bytes(value, out);
        }
    }

    fn read(from: &mut &[u8]) -> Option<Hash> {
        let mut hash = Hash { is_large: from.try_get_u8().ok()? != 0, ..Hash::default() };
        let parts = usize::try_from(from.try_get_u32_le().ok()?).ok()?;
        if !(1..=PARTS_MAX).contains(&parts) {
            return None;
        }
        if parts > 1 {
            hash.parts = Parts::Many((0..parts).map(|_| Arc::default()).collect());
        }
        for _ in 0..from.try_get_u64_le().ok()? {
            let (field, value) = (take_bytes(from)?, take_bytes(from)?);
            if !hash.set(field, value) {
                return None;
            }
        }
        Some(hash)
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
        hash.write(&mut bytes);
        let mut rest = &bytes[..];
        let copy = Hash::read(&mut rest).unwrap();
        assert!(rest.is_empty() && copy.iter().eq(hash.iter()), "in the same order");
        assert_eq!(copy.parts.count(), hash.parts.count());
    }

    #[test]
    fn fields_are_spread_over_parts_and_found_there() {
        for count in [0, 1, SMALL_FIELDS_MAX, SMALL_FIELDS_MAX + 1, 5_000, 20_000] {
            let mut hash = filled(count);
            check(&hash);
            let parts = hash.parts.count();
            assert_eq!(parts > 1, count > SMALL_FIELDS_MAX);
            assert!(parts == 1 || parts == count.div_ceil(PART_FIELDS), "{parts} for {count}");
            let longest = (0..parts).map(|part| hash.parts.part(part).len()).max();
            assert!(longest <= Some(3 * PART_FIELDS), "{longest:?} of {count}");
            for number in (0..count).filter(|number| number % 3 != 0) {
                assert!(hash.remove(format!("field:{number:012}").as_bytes()));
            }
            assert_eq!(hash.len(), count.div_ceil(3));
            check(&hash);
            assert_eq!(hash.parts.count(), parts);
            assert!(!hash.remove(b"nothing"));
        }
    }

    #[test]
    fn a_change_copies_a_part_and_not_the_hash() {
        let mut hash = filled(20_000);
        let view = hash.clone();
        hash.set(b"field:000000000077", b"other");
        hash.remove(b"nothing");
        let (Parts::Many(own), Parts::Many(seen)) = (&hash.parts, &view.parts) else {
            panic!("it is in one part");
        };
        let copied = own.iter().zip(seen).filter(|(one, other)| !Arc::ptr_eq(one, other));
        assert_eq!(copied.count(), 1, "of {}", own.len());
        assert_eq!(view.get(b"field:000000000077").unwrap(), &b"value"[..]);
        check(&view);
    }

    #[test]
    fn a_scan_tells_every_field_that_stays_while_parts_are_made() {
        for (grows, shrinks) in [(true, false), (false, true), (true, true), (false, false)] {
            let mut hash = filled(3_000);
            let (mut cursor, mut told, mut rounds) = (0, BTreeSet::new(), 0);
            loop {
                let (next, found) = hash.scan(cursor, 10);
                assert!(found.len() <= 10);
                told.extend(found.into_iter().map(|(field, _)| field.clone()));
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
            assert!(grows || shrinks || rounds == 300, "none twice where nothing changes");
            let wanted = (0..3_000).filter(|number| !shrinks || number % 5 == 0);
            for number in wanted {
                let field = format!("field:{number:012}").into_bytes();
                assert!(told.contains(&field[..]), "{number}, {grows} {shrinks}");
            }
        }
    }
}
