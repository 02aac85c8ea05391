//! Collections that Redis has packed into one string: intsets and zipmaps here, and the common type
//! of the items of ziplists and listpacks.

use std::borrow::Cow;

use bytes::Buf as _;

/// Description of what is wrong with a packed collection.
pub(super) type Malformed = &'static str;

/// An item of a packed collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PackedItem<'p> {
    Text(&'p [u8]),
    Integer(i64),
}

impl<'p> PackedItem<'p> {
    /// Returns the item as text, in which integers are decimal.
    pub(super) fn text(self) -> Cow<'p, [u8]> {
        match self {
            PackedItem::Text(text) => Cow::Borrowed(text),
            PackedItem::Integer(number) => Cow::Owned(number.to_string().into_bytes()),
        }
    }

    /// Returns the item as an integer; `None` if it is a text other than that of an integer.
    pub(super) fn integer(self) -> Option<i64> {
        match self {
            PackedItem::Integer(number) => Some(number),
            PackedItem::Text(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        }
    }
}

/// Removes `length` bytes from the front of `from`, and returns them; `None` if there are fewer.
pub(super) fn split<'p>(from: &mut &'p [u8], length: usize) -> Option<&'p [u8]> {
    let (front, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(front)
}

/// Calls `item` with each integer of an intset.
pub(super) fn for_each_of_intset<E: From<Malformed>>(
    mut bytes: &[u8],
    mut item: impl FnMut(i64) -> Result<(), E>,
) -> Result<(), E> {
    const WRONG: Malformed = "an invalid set of integers";
    let size = bytes.try_get_u32_le().map_err(|_| WRONG)?;
    let count = bytes.try_get_u32_le().map_err(|_| WRONG)?;
    let is_known = matches!(size, 2 | 4 | 8);
    if !is_known || u64::from(size) * u64::from(count) != bytes.len() as u64 {
        return Err(WRONG.into());
    }
    while !bytes.is_empty() {
        item(match size {
            2 => bytes.get_i16_le().into(),
            4 => bytes.get_i32_le().into(),
            _ => bytes.get_i64_le(),
        })?;
    }
    Ok(())
}

/// Calls `item` with each field and value of a zipmap, in which Redis before 2.6 stored hashes.
///
/// ```text
///  count | length field | length free value .. | .. | 255
/// ```
pub(super) fn for_each_of_zipmap<E: From<Malformed>>(
    bytes: &[u8],
    mut item: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    const WRONG: Malformed = "an invalid zipmap";
    let [_, rest @ .., 0xFF] = bytes else { return Err(WRONG.into()) };
    let mut rest = rest;
    while !rest.is_empty() {
        let length = zipmap_length(&mut rest).ok_or(WRONG)?;
        let field = split(&mut rest, length).ok_or(WRONG)?;
        let length = zipmap_length(&mut rest).ok_or(WRONG)?;
        let free = rest.try_get_u8().map_err(|_| WRONG)?;
        let value = split(&mut rest, length).ok_or(WRONG)?;
        split(&mut rest, free.into()).ok_or(WRONG)?;
        item(field, value)?;
    }
    Ok(())
}

fn zipmap_length(from: &mut &[u8]) -> Option<usize> {
    match from.try_get_u8().ok()? {
        0xFE => usize::try_from(from.try_get_u32_le().ok()?).ok(),
        0xFF => None,
        length => Some(length.into()),
    }
}
