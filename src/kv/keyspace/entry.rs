//! A key and what it holds, in one piece of memory: whoever looks up the one is about to read or
//! write the other, and on its way here each piece costs a wait for memory. What a table keeps of
//! it is one word, so that tables are small and a table that has to be copied is copied fast.
//!
//! ```text
//! count 8 | length 8 | fingerprint 8 | about 8 | object 8 | [end 8] [key's length 4] key string
//! ```

use std::hint::black_box;
use std::num::NonZeroU64;

use bytes::Bytes;
use triomphe::{Arc, ThinArc};

use crate::kv::keyspace::expiration::Millis;
use crate::kv::keyspace::shards::RANKS;
use crate::kv::values::digest::{fingerprint, key_hash, mix};
use crate::kv::values::number::parse_integer;
use crate::kv::values::object::{Object, ValueType};
use crate::types::Index;

/// What a piece of memory takes besides what is in it, about: the allocator's share, and what it
/// is rounded up by.
const PIECE_BYTES: usize = 16;
/// What a piece begins with besides its header: how many share it, and its length.
const COUNT_BYTES: usize = 16;
/// Longest string that Redis keeps beside what it knows of it.
const EMBEDDED_MAX: usize = 44;
/// Longer strings are shared with whoever wants to keep them; to copy a shorter one costs less than
/// to count who has it.
const COPIED_MAX: usize = 1_024;
/// Pieces up to this are put together without asking for memory in between.
const SMALL: usize = 512;

/// A key and what it holds. Its memory may be shared with views of the state and with replies; then
/// it is copied when it is changed.
#[derive(Clone)]
pub(in crate::kv) struct KeyEntry(ThinArc<Header, u8>);

/// What stands in front of a pair's bytes.
#[derive(Clone)]
struct Header {
    /// Its number in the digest, kept so that the value need not be read again to be taken off it.
    fingerprint: u64,
    about: About,
    /// Nothing, if it holds a string.
    object: Option<Box<Object>>,
}

/// The entry that changed a pair last, and how its bytes lie, in one word.
#[derive(Clone, Copy, PartialEq, Eq)]
struct About(u64);

/// What there is to know of a pair besides what it holds.
#[derive(Clone, Copy)]
pub(in crate::kv) struct Facts {
    fingerprint: u64,
    /// The entry that changed it last.
    revision: Index,
    /// When it ends, if it does.
    end: Option<NonZeroU64>,
}

/// What a key is to hold.
pub(in crate::kv) enum Held<'h> {
    String(&'h [u8]),
    Object(Object),
}

/// No entry has a later index: enough for a million a second, for a century.
pub(in crate::kv) const REVISION_MAX: Index = Index((1 << About::REVISION_BITS) - 1);

impl About {
    const REVISION_BITS: u32 = 52;
    /// A longer key's length stands before it.
    const SHORT_KEY_MAX: usize = (1 << 11) - 2;
    const LONG_KEY: u64 = (1 << 11) - 1;
    const HAS_END: u64 = 1 << 63;
    const END_BYTES: usize = size_of::<u64>();
    const LENGTH_BYTES: usize = size_of::<u32>();

    fn new(key: &[u8], facts: &Facts) -> About {
        let length =
            if key.len() > About::SHORT_KEY_MAX { About::LONG_KEY } else { key.len() as u64 };
        let end = if facts.end.is_some() { About::HAS_END } else { 0 };
        About(length << About::REVISION_BITS | end).at(facts.revision)
    }

    /// The same of a pair that another entry changed.
    fn at(self, revision: Index) -> About {
        assert!(revision <= REVISION_MAX, "no log has {revision:?}");
        About(self.0 >> About::REVISION_BITS << About::REVISION_BITS | revision.0)
    }

    fn revision(self) -> u64 {
        self.0 & REVISION_MAX.0
    }

    /// Whether the bytes begin with when the pair ends.
    fn has_end(self) -> bool {
        self.0 & About::HAS_END != 0
    }

    /// Where in `bytes` the key begins, and where it ends.
    fn key(self, bytes: &[u8]) -> (usize, usize) {
        let start = if self.has_end() { About::END_BYTES } else { 0 };
        let length = self.0 >> About::REVISION_BITS & About::LONG_KEY;
        if length < About::LONG_KEY {
            return (start, start + length as usize);
        }
        let key = start + About::LENGTH_BYTES;
        let length = bytes[start..key].try_into().expect("as many bytes");
        (key, key + u32::from_le_bytes(length) as usize)
    }
}

impl Held<'_> {
    /// Its part of a pair's number in the digest, by the key's number.
    pub(in crate::kv) fn print(&self, number: u64) -> u64 {
        match self {
            Held::String(value) => fingerprint(number, value),
            Held::Object(object) => object_print(number, object),
        }
    }
}

impl KeyEntry {
    pub(in crate::kv) fn new(key: &[u8], held: Held<'_>, facts: Facts) -> KeyEntry {
        let (object, value) = match held {
            Held::String(value) => (None, value),
            Held::Object(object) => (Some(Box::new(object)), &[][..]),
        };
        let about = About::new(key, &facts);
        let header = Header { fingerprint: facts.fingerprint, about, object };
        let end = facts.end.map(|end| end.get().to_le_bytes());
        let end = end.as_ref().map_or(&[][..], |end| end);
        let length = u32::try_from(key.len()).expect("a command is far shorter than 4 GiB");
        let length = length.to_le_bytes();
        let length = if key.len() > About::SHORT_KEY_MAX { &length[..] } else { &[] };
        KeyEntry(joined(header, [end, length, key, value]))
    }

    /// Holds something else from now on; in the memory that it has, if that fits and nobody shares
    /// it.
    pub(in crate::kv) fn replace(&mut self, held: Held<'_>, facts: Facts) {
        if let Held::String(value) = &held
            && self.rewrite(value, facts)
        {
            return;
        }
        *self = KeyEntry::new(self.key(), held, facts);
    }

    /// Whether that was possible in the memory that it has.
    fn rewrite(&mut self, value: &[u8], facts: Facts) -> bool {
        let about = self.about();
        let (_, key_end) = about.key(&self.0.slice);
        let fits = about.has_end() == facts.end.is_some()
            && self.0.slice.len() == key_end + value.len()
            && self.0.header.header.object.is_none();
        fits && self.0.with_arc_mut(|piece| {
            let Some(piece) = Arc::get_mut(piece) else { return false };
            let bytes = piece.slice_mut();
            bytes[key_end..].copy_from_slice(value);
            if let Some(end) = facts.end {
                write_end(bytes, end);
            }
            let header = piece.header_mut();
            (header.fingerprint, header.about) = (facts.fingerprint, about.at(facts.revision));
            true
        })
    }

    fn about(&self) -> About {
        self.0.header.header.about
    }

    pub(in crate::kv) fn key(&self) -> &[u8] {
        let (start, end) = self.about().key(&self.0.slice);
        &self.0.slice[start..end]
    }

    /// The string, if it holds one; else nothing.
    pub(in crate::kv) fn value(&self) -> &[u8] {
        let (_, key_end) = self.about().key(&self.0.slice);
        &self.0.slice[key_end..]
    }

    /// The string, to be kept.
    pub(in crate::kv) fn shared_value(&self) -> Bytes {
        if self.value().len() > COPIED_MAX {
            Bytes::from_owner(Shared(self.clone()))
        } else {
            Bytes::copy_from_slice(self.value())
        }
    }

    /// The key, to be kept.
    pub(in crate::kv) fn shared_key(&self) -> Bytes {
        Bytes::copy_from_slice(self.key())
    }

    pub(in crate::kv) fn object(&self) -> Option<&Object> {
        self.0.header.header.object.as_deref()
    }

    /// Changes the object, if it holds one.
    pub(in crate::kv) fn change_object<R>(
        &mut self,
        change: impl FnOnce(&mut Object) -> R,
    ) -> Option<R> {
        self.object()?;
        self.change(|header| header.object.as_deref_mut().map(change))
    }

    /// Changes the header, or that of a copy if the piece is shared.
    fn change<R>(&mut self, change: impl FnOnce(&mut Header) -> R) -> R {
        if ThinArc::strong_count(&self.0) > 1 {
            let header = self.0.header.header.clone();
            self.0 = ThinArc::from_header_and_slice(header, &self.0.slice);
        }
        // Nobody but us can share it anew.
        self.0.with_arc_mut(|piece| {
            change(Arc::get_mut(piece).expect("shared by nobody").header_mut())
        })
    }

    pub(in crate::kv) fn value_type(&self) -> ValueType {
        self.object().map_or(ValueType::String, Object::value_type)
    }

    /// What Redis would call the way in which it keeps this value.
    pub(in crate::kv) fn encoding(&self) -> &'static str {
        match self.object() {
            Some(object) => object.encoding(),
            None if parse_integer(self.value()).is_some() => "int",
            None if self.value().len() <= EMBEDDED_MAX => "embstr",
            None => "raw",
        }
    }

    pub(in crate::kv) fn revision(&self) -> u64 {
        self.about().revision()
    }

    /// Its number in the digest.
    pub(in crate::kv) fn fingerprint(&self) -> u64 {
        self.0.header.header.fingerprint
    }

    pub(in crate::kv) fn expires_at(&self) -> Option<Millis> {
        self.moment().map(NonZeroU64::get)
    }

    fn moment(&self) -> Option<NonZeroU64> {
        let bytes = self.0.slice.first_chunk().filter(|_| self.about().has_end());
        bytes.and_then(|bytes| NonZeroU64::new(u64::from_le_bytes(*bytes)))
    }

    /// Whether its time is over.
    pub(in crate::kv) fn is_expired(&self, clock: Millis) -> bool {
        self.expires_at().is_some_and(|end| end <= clock)
    }

    /// Moves its end; the number in the digest is then another.
    pub(in crate::kv) fn set_expiry(&mut self, end: Option<Millis>) {
        let end = moment(end);
        if let Some(end) = end
            && self.about().has_end()
            && self.0.with_arc_mut(|piece| {
                Arc::get_mut(piece).map(|piece| write_end(piece.slice_mut(), end)).is_some()
            })
        {
            return;
        }
        let facts =
            Facts { fingerprint: self.fingerprint(), revision: Index(self.revision()), end };
        let held = match self.object() {
            None => Held::String(self.value()),
            Some(object) => Held::Object(object.clone()),
        };
        *self = KeyEntry::new(self.key(), held, facts);
    }

    /// What it holds was changed by the entry at `revision`: its number in the digest anew.
    pub(in crate::kv) fn has_changed(&mut self, revision: Index) {
        let print = self.print();
        self.change(|header| {
            (header.fingerprint, header.about) = (print, header.about.at(revision));
        });
    }

    fn print(&self) -> u64 {
        let number = self.number();
        let content = match self.object() {
            None => fingerprint(number, self.value()),
            Some(object) => object_print(number, object),
        };
        with_end(content, self.moment())
    }

    /// Has its memory fetched.
    pub(in crate::kv) fn fetch(&self) {
        // Used for something, or the compiler would leave it out.
        black_box((self.revision(), self.value().last().copied()));
    }

    /// Of the key: where it is in the table.
    pub(in crate::kv) fn number(&self) -> u64 {
        key_hash(self.key())
    }

    /// Its place in the order of all pairs.
    pub(in crate::kv) fn rank(&self) -> u64 {
        self.number() & (RANKS - 1)
    }

    /// Bytes of memory it takes, about.
    pub(in crate::kv) fn memory(&self) -> usize {
        size_of::<KeyEntry>() + self.bytes_behind()
    }

    /// Those that it points to.
    pub(in crate::kv) fn bytes_behind(&self) -> usize {
        let object = self.object().map_or(0, |object| size_of::<Object>() + object.bytes());
        COUNT_BYTES + size_of::<Header>() + self.0.slice.len() + PIECE_BYTES + object
    }
}

impl Facts {
    /// Of a pair whose number, if it never ended, is `print`.
    pub(in crate::kv) fn new(print: u64, end: Option<Millis>, revision: Index) -> Facts {
        let end = moment(end);
        Facts { fingerprint: with_end(print, end), revision, end }
    }

    /// See [`KeyEntry::fingerprint`].
    pub(in crate::kv) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

/// A pair whose string somebody keeps.
struct Shared(KeyEntry);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.value()
    }
}

/// Writes when a pair ends in front of its bytes, where there is a place for it.
fn write_end(bytes: &mut [u8], end: NonZeroU64) {
    bytes[..About::END_BYTES].copy_from_slice(&end.get().to_le_bytes());
}

/// A piece with these bytes one behind the other.
fn joined(header: Header, parts: [&[u8]; 4]) -> ThinArc<Header, u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    if length > SMALL {
        return ThinArc::from_header_and_slice(header, &parts.concat());
    }
    let mut bytes = [0; SMALL];
    let mut end = 0;
    for part in parts {
        bytes[end..end + part.len()].copy_from_slice(part);
        end += part.len();
    }
    ThinArc::from_header_and_slice(header, &bytes[..length])
}

/// The number of a pair with an object, as long as it does not end.
fn object_print(number: u64, object: &Object) -> u64 {
    mix(mix(number, object.value_type() as u64 + 1), object.digest())
}

/// The number of a pair, by that of the same without an end.
fn with_end(content: u64, end: Option<NonZeroU64>) -> u64 {
    end.map_or(content, |end| mix(content, end.get()))
}

/// A moment as it is kept. There is no key that ended before 1970.
fn moment(end: Option<Millis>) -> Option<NonZeroU64> {
    end.map(|end| NonZeroU64::new(end).unwrap_or(NonZeroU64::MIN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::values::list::List;
    use crate::kv::values::object::Content as _;
    use crate::kv::values::set::Set;

    fn facts_at(print: u64) -> Facts {
        Facts::new(print, None, Index(1))
    }

    fn string(key: &[u8], value: &[u8]) -> KeyEntry {
        KeyEntry::new(key, Held::String(value), facts_at(1))
    }

    fn place(pair: &KeyEntry) -> *const u8 {
        pair.key().as_ptr()
    }

    #[test]
    fn a_table_keeps_one_word_of_a_pair() {
        assert_eq!((size_of::<KeyEntry>(), size_of::<Header>()), (8, 24));
    }

    #[test]
    fn ends_come_and_go_and_change_nothing_else() {
        for key in [&b"k"[..], &[7; About::SHORT_KEY_MAX], &[7; About::SHORT_KEY_MAX + 1]] {
            let mut pair = string(key, b"one");
            pair.set_expiry(Some(u64::MAX));
            assert_eq!(
                (pair.expires_at(), pair.key(), pair.value()),
                (Some(u64::MAX), key, &b"one"[..])
            );
            let before = place(&pair);
            pair.set_expiry(Some(6));
            assert_eq!(
                (pair.expires_at(), place(&pair)),
                (Some(6), before),
                "there is a place for it"
            );
            let facts = Facts::new(2, Some(5), REVISION_MAX);
            pair.replace(Held::String(b"two"), facts);
            assert_eq!((pair.expires_at(), pair.key(), pair.value()), (Some(5), key, &b"two"[..]));
            assert_eq!((pair.revision(), place(&pair)), (facts.revision.0, before));
            pair.replace(Held::String(b"six"), facts_at(3));
            assert_eq!((pair.expires_at(), pair.key(), pair.value()), (None, key, &b"six"[..]));
            pair.set_expiry(Some(0));
            assert_eq!(pair.expires_at(), Some(1), "there is no end before 1970");
            pair.set_expiry(None);
            assert_eq!((pair.expires_at(), pair.revision(), pair.value()), (None, 1, &b"six"[..]));
        }
    }

    #[test]
    fn an_object_stays_with_its_key_and_is_copied_where_somebody_looks() {
        let list = List::wrap(std::sync::Arc::default());
        let set = Set::wrap(std::sync::Arc::default());
        let mut pair = KeyEntry::new(b"k", Held::Object(list), facts_at(1));
        let view = pair.clone();
        pair.change_object(|object| *object = set);
        pair.has_changed(Index(2));
        pair.set_expiry(Some(7));
        assert_eq!((pair.key(), pair.expires_at(), pair.revision()), (&b"k"[..], Some(7), 2));
        assert_eq!((view.key(), view.expires_at(), view.revision()), (&b"k"[..], None, 1));
        assert!(view.value_type() == ValueType::List && pair.value_type() == ValueType::Set);
        assert!(pair.value().is_empty());
        pair.replace(Held::String(b""), facts_at(3));
        assert!(pair.object().is_none() && pair.change_object(|_| ()).is_none());
    }

    #[test]
    fn key_and_string_of_any_length_come_back() {
        for length in [0, 1, SMALL - 1, SMALL, SMALL + 1, 2_046, 2_047, 2_048, 100_000] {
            let (long, short) = (vec![7; length], b"k");
            for (key, value) in [(&short[..], &long[..]), (&long, short), (&long, b"")] {
                let pair = string(key, value);
                assert_eq!((pair.key(), pair.value()), (key, value));
                assert_eq!(pair.shared_value(), value);
                assert_eq!(pair.shared_key(), key);
            }
        }
    }

    #[test]
    fn a_string_of_the_same_length_takes_the_place_of_the_one_before() {
        let mut pair = string(b"k", b"one");
        let before = place(&pair);
        pair.replace(Held::String(b"two"), facts_at(2));
        assert_eq!((pair.value(), pair.fingerprint(), place(&pair)), (&b"two"[..], 2, before));
        pair.replace(Held::String(b"three"), facts_at(3));
        assert_eq!((pair.key(), pair.value(), pair.fingerprint()), (&b"k"[..], &b"three"[..], 3));
    }

    #[test]
    fn what_somebody_keeps_stays_as_it_was() {
        let long = vec![1; COPIED_MAX + 1];
        let mut pair = string(b"k", &long);
        let (view, reply) = (pair.clone(), pair.shared_value());
        pair.replace(Held::String(&vec![2; long.len()]), facts_at(2));
        pair.set_expiry(Some(9));
        assert_eq!((view.value(), view.expires_at(), view.fingerprint()), (&long[..], None, 1));
        assert_eq!(reply, long);
        assert_eq!((pair.value()[0], pair.expires_at()), (2, Some(9)));
        drop((view, reply));
        let before = place(&pair);
        pair.has_changed(Index(5));
        assert_eq!((pair.revision(), place(&pair)), (5, before), "nobody keeps it any more");
    }
}
