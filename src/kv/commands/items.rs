//! A list of byte strings as one byte string, so that a command of many keys stays a flat archive:
//! each item is its length (4 bytes, little-endian) and its bytes. Checked as a whole when it comes
//! from outside; from then on it is walked without a check.

use std::fmt;

/// Bytes that say an item's length.
const LENGTH_BYTES: usize = 4;

/// A list of byte strings, borrowed.
///
/// Invariant: it was checked, or written by [`ItemsBuffer`]: the lengths in it add up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Items<'a> {
    bytes: &'a [u8],
}

/// Writes a list.
#[derive(Debug, Clone, Default)]
pub struct ItemsBuffer {
    bytes: Vec<u8>,
}

impl<'a> Items<'a> {
    /// Takes bytes as a list, if their lengths add up.
    pub(in crate::kv) fn check(bytes: &'a [u8]) -> Option<Items<'a>> {
        let mut rest = bytes;
        while !rest.is_empty() {
            (_, rest) = split(rest)?;
        }
        Some(Items { bytes })
    }

    /// The items in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = self.bytes;
        std::iter::from_fn(move || {
            let item;
            (item, rest) = split(rest)?;
            Some(item)
        })
    }

    /// The items two by two; a last one without a partner is left out.
    pub fn pairs(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut items = self.iter();
        std::iter::from_fn(move || Some((items.next()?, items.next()?)))
    }

    /// The list as it is written.
    pub(in crate::kv) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// Takes the first item off.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

impl ItemsBuffer {
    /// Appends an item.
    pub fn push(&mut self, item: &[u8]) {
        let length = u32::try_from(item.len()).expect("limits keep an item far below 4 GiB");
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(item);
    }

    /// What was written so far.
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

impl fmt::Debug for Items<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(<[u8]>::escape_ascii)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_comes_back_in_order() {
        let wanted: [&[u8]; 4] = [b"a", b"", b"\0\0\0\0", b"a longer one"];
        let buffer: ItemsBuffer = wanted.into_iter().collect();
        let items = Items::check(buffer.items().bytes()).unwrap();
        assert_eq!(items.iter().collect::<Vec<_>>(), wanted);
        assert_eq!(items.pairs().count(), 2);
        assert_eq!(Items::check(b"").unwrap().iter().count(), 0);
    }

    #[test]
    fn lengths_that_do_not_add_up_are_refused() {
        let buffer: ItemsBuffer = [&b"abc"[..], b"de"].into_iter().collect();
        let bytes = buffer.items().bytes();
        for length in (1..bytes.len()).filter(|length| *length != 7) {
            assert!(Items::check(&bytes[..length]).is_none(), "cut to {length}");
        }
        assert!(Items::check(&[0xFF; 8]).is_none());
    }
}
