//! A key and what it holds, in one piece of memory: whoever looks up the one is about to read or
//! write the other, and on its way here each piece costs a wait for memory. What a table keeps of
//! it is two words, so that tables are small and a table that has to be copied is copied fast.

use std::num::NonZeroU64;

use bytes::Bytes;
use triomphe::{Arc, ThinArc};

use crate::types::Index;

use super::digest::{fingerprint, key_number, mix};
use super::expiry::Millis;
use super::number::parse_integer;
use super::object::{Kind, Object};
use super::shards::RANKS;

/// What a piece of memory takes besides what is in it, about: the allocator's share, and what it
/// is rounded up by.
const PIECE_BYTES: usize = 16;
/// What a piece begins with besides its facts: how many share it, and its length.
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
pub(super) enum Pair {
    /// The key, and behind it the string.
    String { key_bytes: u32, piece: ThinArc<Facts, u8> },
    /// The key, and the object before it.
    Object(ThinArc<ObjectFacts, u8>),
}

/// What there is to know of a pair besides its bytes.
#[derive(Clone, Copy)]
pub(super) struct Facts {
    /// Its number in the digest, kept so that the value need not be read again to be taken off it.
    fingerprint: u64,
    /// The entry that changed it last.
    revision: Index,
    /// When it ends, if it does.
    end: Option<NonZeroU64>,
}

#[derive(Clone)]
pub(super) struct ObjectFacts {
    facts: Facts,
    object: Object,
}

/// What a key is to hold.
pub(super) enum Held<'h> {
    String(&'h [u8]),
    Object(Object),
}

impl Held<'_> {
    /// Its part of a pair's number in the digest, by the key's number.
    pub(super) fn print(&self, number: u64) -> u64 {
        match self {
            Held::String(value) => fingerprint(number, value),
            Held::Object(object) => object_print(number, object),
        }
    }
}

impl Pair {
    pub(super) fn new(key: &[u8], held: Held<'_>, facts: Facts) -> Pair {
        match held {
            Held::String(value) => {
                Pair::String { key_bytes: length(key), piece: joined(key, value, facts) }
            }
            Held::Object(object) => {
                Pair::Object(ThinArc::from_header_and_slice(ObjectFacts { facts, object }, key))
            }
        }
    }

    /// Holds something else from now on; in the memory that it has, if that fits and nobody shares
    /// it.
    pub(super) fn replace(&mut self, held: Held<'_>, facts: Facts) {
        if let (Pair::String { key_bytes, piece }, Held::String(value)) = (&mut *self, &held) {
            let key_bytes = *key_bytes as usize;
            let written = piece.with_arc_mut(|piece| {
                let fits = piece.length() == key_bytes + value.len();
                let piece = Arc::get_mut(piece).filter(|_| fits)?;
                piece.slice_mut()[key_bytes..].copy_from_slice(value);
                *piece.header_mut() = facts;
                Some(())
            });
            if written.is_some() {
                return;
            }
        }
        *self = Pair::new(self.key(), held, facts);
    }

    pub(super) fn key(&self) -> &[u8] {
        match self {
            Pair::String { key_bytes, piece } => &piece.slice[..*key_bytes as usize],
            Pair::Object(piece) => &piece.slice,
        }
    }

    /// The string, if it holds one; else nothing.
    pub(super) fn value(&self) -> &[u8] {
        match self {
            Pair::String { key_bytes, piece } => &piece.slice[*key_bytes as usize..],
            Pair::Object(_) => &[],
        }
    }

    /// The string, to be kept.
    pub(super) fn shared_value(&self) -> Bytes {
        if self.value().len() > COPIED_MAX {
            Bytes::from_owner(Shared(self.clone()))
        } else {
            Bytes::copy_from_slice(self.value())
        }
    }

    /// The key, to be kept.
    pub(super) fn shared_key(&self) -> Bytes {
        Bytes::copy_from_slice(self.key())
    }

    pub(super) fn object(&self) -> Option<&Object> {
        match self {
            Pair::String { .. } => None,
            Pair::Object(piece) => Some(&piece.header.header.object),
        }
    }

    /// Changes the object, if it holds one.
    pub(super) fn change_object<R>(&mut self, change: impl FnOnce(&mut Object) -> R) -> Option<R> {
        match self {
            Pair::String { .. } => None,
            Pair::Object(piece) => Some(changed(piece, |facts| change(&mut facts.object))),
        }
    }

    pub(super) fn kind(&self) -> Kind {
        self.object().map_or(Kind::String, Object::kind)
    }

    /// What Redis would call the way in which it keeps this value.
    pub(super) fn encoding(&self) -> &'static str {
        match self.object() {
            Some(object) => object.encoding(),
            None if parse_integer(self.value()).is_some() => "int",
            None if self.value().len() <= EMBEDDED_MAX => "embstr",
            None => "raw",
        }
    }

    fn facts(&self) -> &Facts {
        match self {
            Pair::String { piece, .. } => &piece.header.header,
            Pair::Object(piece) => &piece.header.header.facts,
        }
    }

    fn change_facts(&mut self, change: impl FnOnce(&mut Facts)) {
        match self {
            Pair::String { piece, .. } => changed(piece, change),
            Pair::Object(piece) => changed(piece, |facts| change(&mut facts.facts)),
        }
    }

    pub(super) fn revision(&self) -> u64 {
        self.facts().revision.0
    }

    /// Its number in the digest.
    pub(super) fn fingerprint(&self) -> u64 {
        self.facts().fingerprint
    }

    pub(super) fn end(&self) -> Option<Millis> {
        self.facts().end.map(NonZeroU64::get)
    }

    /// Whether its time is over.
    pub(super) fn has_ended(&self, clock: Millis) -> bool {
        self.end().is_some_and(|end| end <= clock)
    }

    /// Moves its end; the number in the digest is then another.
    pub(super) fn set_end(&mut self, end: Option<Millis>) {
        self.change_facts(|facts| facts.end = moment(end));
    }

    /// What it holds was changed by the entry at `revision`: its number in the digest anew.
    pub(super) fn has_changed(&mut self, revision: Index) {
        let fingerprint = self.print();
        self.change_facts(|facts| (facts.fingerprint, facts.revision) = (fingerprint, revision));
    }

    fn print(&self) -> u64 {
        let number = self.number();
        let content = match self.object() {
            None => fingerprint(number, self.value()),
            Some(object) => object_print(number, object),
        };
        with_end(content, self.facts().end)
    }

    /// Of the key: where it is in the table.
    pub(super) fn number(&self) -> u64 {
        key_number(self.key())
    }

    /// Its place in the order of all pairs.
    pub(super) fn rank(&self) -> u64 {
        self.number() & (RANKS - 1)
    }

    /// Bytes of memory it takes, about.
    pub(super) fn memory(&self) -> usize {
        size_of::<Pair>() + self.bytes_behind()
    }

    /// Those that it points to.
    pub(super) fn bytes_behind(&self) -> usize {
        let piece = match self {
            Pair::String { piece, .. } => size_of::<Facts>() + piece.slice.len(),
            Pair::Object(piece) => {
                let ObjectFacts { object, .. } = &piece.header.header;
                size_of::<ObjectFacts>() + piece.slice.len() + object.bytes()
            }
        };
        COUNT_BYTES + piece + PIECE_BYTES
    }
}

impl Facts {
    /// Of a pair whose number, if it never ended, is `print`.
    pub(super) fn new(print: u64, end: Option<Millis>, revision: Index) -> Facts {
        let end = moment(end);
        Facts { fingerprint: with_end(print, end), revision, end }
    }

    /// See [`Pair::fingerprint`].
    pub(super) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

/// A pair whose string somebody keeps.
struct Shared(Pair);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.value()
    }
}

/// Changes the facts of a piece, or of a copy of it if it is shared.
fn changed<H: Clone, R>(piece: &mut ThinArc<H, u8>, change: impl FnOnce(&mut H) -> R) -> R {
    if ThinArc::strong_count(piece) > 1 {
        *piece = ThinArc::from_header_and_slice(piece.header.header.clone(), &piece.slice);
    }
    // Nobody but us can share it anew.
    piece.with_arc_mut(|piece| change(Arc::get_mut(piece).expect("shared by nobody").header_mut()))
}

/// A piece with the key and the string behind it.
fn joined(key: &[u8], value: &[u8], facts: Facts) -> ThinArc<Facts, u8> {
    let length = key.len() + value.len();
    if length > SMALL {
        return ThinArc::from_header_and_slice(facts, &[key, value].concat());
    }
    let mut bytes = [0; SMALL];
    bytes[..key.len()].copy_from_slice(key);
    bytes[key.len()..length].copy_from_slice(value);
    ThinArc::from_header_and_slice(facts, &bytes[..length])
}

fn length(key: &[u8]) -> u32 {
    u32::try_from(key.len()).expect("a command is far shorter than 4 GiB")
}

/// The number of a pair with an object, as long as it does not end.
fn object_print(number: u64, object: &Object) -> u64 {
    mix(mix(number, object.kind() as u64 + 1), object.digest())
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

    fn facts(print: u64) -> Facts {
        Facts::new(print, None, Index(1))
    }

    fn string(key: &[u8], value: &[u8]) -> Pair {
        Pair::new(key, Held::String(value), facts(1))
    }

    fn place(pair: &Pair) -> *const u8 {
        pair.key().as_ptr()
    }

    #[test]
    fn a_table_keeps_two_words_of_a_pair() {
        assert_eq!(size_of::<Pair>(), 16);
    }

    #[test]
    fn key_and_string_of_any_length_come_back() {
        for length in [0, 1, SMALL - 1, SMALL, SMALL + 1, 100_000] {
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
        pair.replace(Held::String(b"two"), facts(2));
        assert_eq!((pair.value(), pair.fingerprint(), place(&pair)), (&b"two"[..], 2, before));
        pair.replace(Held::String(b"three"), facts(3));
        assert_eq!((pair.key(), pair.value(), pair.fingerprint()), (&b"k"[..], &b"three"[..], 3));
    }

    #[test]
    fn what_somebody_keeps_stays_as_it_was() {
        let long = vec![1; COPIED_MAX + 1];
        let mut pair = string(b"k", &long);
        let (view, reply) = (pair.clone(), pair.shared_value());
        pair.replace(Held::String(&vec![2; long.len()]), facts(2));
        pair.set_end(Some(9));
        assert_eq!((view.value(), view.end(), view.fingerprint()), (&long[..], None, 1));
        assert_eq!(reply, long);
        assert_eq!((pair.value()[0], pair.end()), (2, Some(9)));
        drop((view, reply));
        let before = place(&pair);
        pair.has_changed(Index(5));
        assert_eq!((pair.revision(), place(&pair)), (5, before), "nobody keeps it any more");
    }
}
