//! Lists of byte strings, such as the arguments of a call or the keys that a transaction watches.
//!
//! A list is encoded as one byte string, so that an operation with many arguments has no nested
//! structure: each item is its length (4 bytes, little-endian) and its bytes. An untrusted list is
//! checked as a whole when it is decoded; iteration then needs no checks.

use std::fmt;

use bytes::BufMut;

/// Length in bytes of the length field in front of each byte string of an encoded list.
const LENGTH_BYTES: usize = 4;

/// Maximum number of arguments that [`Arguments`] can store in its own array, without borrowing a
/// slice.
const INLINE: usize = 2;

/// An encoded list of byte strings, such as the arguments of a command, borrowed from a buffer.
///
/// Invariant: the total length of the encoding is the sum of the lengths of the byte strings and of
/// their length fields.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Items<'a> {
    bytes: &'a [u8],
}

/// A builder for an encoded list of byte strings (see [`Items`]).
#[derive(Debug, Clone, Default)]
pub struct ItemsBuffer {
    bytes: Vec<u8>,
}

/// The arguments of a command, either as an encoded list or as byte strings that are not encoded
/// yet. Two values are equal if they contain the same arguments, regardless of their forms.
#[derive(Clone, Copy)]
pub struct Arguments<'a>(Form<'a>);

#[derive(Clone, Copy)]
enum Form<'a> {
    Encoded(Items<'a>),
    Inline([&'a [u8]; INLINE], usize),
    Slices(&'a [&'a [u8]]),
}

impl<'a> Items<'a> {
    /// Returns `bytes` as an encoded list; `None` if they are not a valid encoding.
    pub(in crate::kv) fn check(bytes: &'a [u8]) -> Option<Items<'a>> {
        Some(Items::check_counted(bytes)?.0)
    }

    /// Returns `bytes` as an encoded list, and the number of byte strings in the list; `None` if
    /// they are not a valid encoding.
    pub(in crate::kv) fn check_counted(bytes: &'a [u8]) -> Option<(Items<'a>, usize)> {
        let (mut rest, mut count) = (bytes, 0);
        while !rest.is_empty() {
            (_, rest) = split(rest)?;
            count += 1;
        }
        Some((Items { bytes }, count))
    }

    /// Iterates over the byte strings of the list, in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = self.bytes;
        std::iter::from_fn(move || {
            let item;
            (item, rest) = split(rest)?;
            Some(item)
        })
    }

    /// Iterates over the byte strings of the list two at a time: first and second, third and
    /// fourth, and so on. Omits the last byte string if their number is odd.
    pub fn pairs(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut items = self.iter();
        std::iter::from_fn(move || Some((items.next()?, items.next()?)))
    }

    /// Returns the encoding of the list.
    pub(in crate::kv) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// Splits the first byte string off an encoded list. Returns the byte string and the remaining
/// encoded list; `None` if the list is empty or malformed.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

/// Appends the byte string `item` to the encoded list in `out`.
pub(in crate::kv) fn put_item(item: &[u8], out: &mut impl BufMut) {
    out.put_slice(&length_of(item));
    out.put_slice(item);
}

fn length_of(item: &[u8]) -> [u8; LENGTH_BYTES] {
    u32::try_from(item.len()).expect("limits keep an item far below 4 GiB").to_le_bytes()
}

impl ItemsBuffer {
    /// Appends the byte string `item` to the list.
    pub fn push(&mut self, item: &[u8]) {
        put_item(item, &mut self.bytes);
    }

    /// Returns the encoded list of all byte strings that were added.
    pub fn items(&self) -> Items<'_> {
        Items { bytes: &self.bytes }
    }
}

impl<'b> FromIterator<&'b [u8]> for ItemsBuffer {
    fn from_iter<T: IntoIterator<Item = &'b [u8]>>(items: T) -> ItemsBuffer {
        let mut buffer = ItemsBuffer::default();
        items.into_iter().for_each(|item| buffer.push(item));
        buffer
    }
}

impl<'a> Arguments<'a> {
    /// Iterates over the arguments, in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (mut encoded, slices): (&[u8], &[&[u8]]) = match self.0 {
            Form::Encoded(items) => (items.bytes, &[]),
            Form::Inline(..) => (&[], &[]),
            Form::Slices(slices) => (&[], slices),
        };
        let (inline, count) = match self.0 {
            Form::Inline(inline, count) => (inline, count),
            _ => ([&[][..]; INLINE], 0),
        };
        let encoded = std::iter::from_fn(move || {
            let item;
            (item, encoded) = split(encoded)?;
            Some(item)
        });
        encoded.chain(slices.iter().copied()).chain(inline.into_iter().take(count))
    }

    /// Calls `each` with every argument, in order. Faster than [`Arguments::iter`].
    pub(in crate::kv) fn for_each(&self, each: impl FnMut(&'a [u8])) {
        match self.0 {
            Form::Encoded(items) => items.iter().for_each(each),
            Form::Inline(inline, count) => inline.into_iter().take(count).for_each(each),
            Form::Slices(slices) => slices.iter().copied().for_each(each),
        }
    }

    /// Returns the first argument, which is a key for most commands; `None` if there are no
    /// arguments.
    pub(in crate::kv) fn first(&self) -> Option<&'a [u8]> {
        match self.0 {
            Form::Encoded(items) => split(items.bytes).map(|(first, _)| first),
            Form::Inline(inline, count) => inline[..count].first().copied(),
            Form::Slices(slices) => slices.first().copied(),
        }
    }

    /// Returns the length in bytes of the arguments when encoded as a list.
    pub(in crate::kv) fn encoded_len(&self) -> usize {
        let encoded = |slices: &[&[u8]]| slices.iter().map(|one| LENGTH_BYTES + one.len()).sum();
        match &self.0 {
            Form::Encoded(items) => items.bytes.len(),
            Form::Inline(inline, count) => encoded(&inline[..*count]),
            Form::Slices(slices) => encoded(slices),
        }
    }

    /// Appends the arguments to `out`, encoded as a list.
    pub(in crate::kv) fn put(&self, out: &mut impl BufMut) {
        let slices = match &self.0 {
            Form::Encoded(items) => return out.put_slice(items.bytes),
            Form::Inline(inline, count) => &inline[..*count],
            Form::Slices(slices) => slices,
        };
        for item in slices {
            put_item(item, out);
        }
    }
}

impl<'a> From<Items<'a>> for Arguments<'a> {
    fn from(items: Items<'a>) -> Arguments<'a> {
        Arguments(Form::Encoded(items))
    }
}

impl<'a> From<&'a [&'a [u8]]> for Arguments<'a> {
    fn from(slices: &'a [&'a [u8]]) -> Arguments<'a> {
        Arguments(Form::Slices(slices))
    }
}

impl<'a, const COUNT: usize> From<&'a [&'a [u8]; COUNT]> for Arguments<'a> {
    fn from(slices: &'a [&'a [u8]; COUNT]) -> Arguments<'a> {
        Arguments(Form::Slices(slices))
    }
}

impl<'a> Arguments<'a> {
    /// Returns the arguments `few`, of which there must be at most [`INLINE`], stored in an array.
    fn inline(few: &[&'a [u8]]) -> Arguments<'a> {
        let mut inline = [&[][..]; INLINE];
        inline[..few.len()].copy_from_slice(few);
        Arguments(Form::Inline(inline, few.len()))
    }
}

impl<'a> From<[&'a [u8]; 0]> for Arguments<'a> {
    fn from(few: [&'a [u8]; 0]) -> Arguments<'a> {
        Arguments::inline(&few)
    }
}

impl<'a> From<[&'a [u8]; 1]> for Arguments<'a> {
    fn from(few: [&'a [u8]; 1]) -> Arguments<'a> {
        Arguments::inline(&few)
    }
}

impl<'a> From<[&'a [u8]; 2]> for Arguments<'a> {
    fn from(few: [&'a [u8]; 2]) -> Arguments<'a> {
        Arguments::inline(&few)
    }
}

impl PartialEq for Arguments<'_> {
    fn eq(&self, other: &Arguments<'_>) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Arguments<'_> {}

impl fmt::Debug for Items<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(<[u8]>::escape_ascii)).finish()
    }
}

impl fmt::Debug for Arguments<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(<[u8]>::escape_ascii)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_argument_lists_round_trip_through_their_encoding() {
        let wanted: [&[u8]; 4] = [b"a", b"", b"\0\0\0\0", b"a longer one"];
        let buffer: ItemsBuffer = wanted.into_iter().collect();
        let items = Items::check(buffer.items().bytes()).unwrap();
        assert_eq!(items.iter().collect::<Vec<_>>(), wanted);
        assert_eq!(items.pairs().count(), 2);
        assert_eq!(Items::check(b"").unwrap().iter().count(), 0);
    }

    #[test]
    fn decoding_truncated_or_inconsistent_argument_lists_fails() {
        let buffer: ItemsBuffer = [&b"abc"[..], b"de"].into_iter().collect();
        let bytes = buffer.items().bytes();
        for length in (1..bytes.len()).filter(|length| *length != 7) {
            assert!(Items::check(&bytes[..length]).is_none(), "cut to {length}");
        }
        assert!(Items::check(&[0xFF; 8]).is_none());
    }

    #[test]
    fn command_argument_list_equals_its_encoded_form() {
        let slices: &[&[u8]] = &[b"key", b""];
        let buffer: ItemsBuffer = slices.iter().copied().collect();
        let forms: [Arguments<'_>; 3] =
            [buffer.items().into(), slices.into(), [slices[0], slices[1]].into()];
        for form in forms {
            assert_eq!(form, forms[0]);
            assert_eq!(form.first(), Some(&b"key"[..]));
            let mut all = Vec::new();
            form.for_each(|argument| all.push(argument));
            assert_eq!(all, slices);
            assert_eq!(form.encoded_len(), buffer.items().bytes().len());
            let mut written = Vec::new();
            form.put(&mut written);
            assert_eq!(written, buffer.items().bytes());
        }
        assert_ne!(forms[0], Arguments::from([&b"key"[..]]));
    }
}
