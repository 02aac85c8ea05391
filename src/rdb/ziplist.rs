//! Ziplists, in which Redis before 7.0 packed small collections.
//!
//! ```text
//!  +-------+------+-------+---------------------------------+-----+------+
//!  | bytes | tail | count | length before, encoding, item   | ..  | 0xFF |
//!  |   4   |  4   |   2   |    1 or 5,    1, 2 or 5         |     |  1   |
//!  +-------+------+-------+---------------------------------+-----+------+
//! ```

use bytes::Buf as _;

use super::packed::{Malformed, PackedItem, split};

const HEADER_BYTES: usize = 10;
const WRONG: Malformed = "an invalid ziplist";

/// The items of a ziplist that have not been returned yet. The iterator ends after an error.
pub(super) struct Ziplist<'p> {
    rest: &'p [u8],
    /// Length in bytes of the item before, with its head.
    before: usize,
}

impl<'p> Ziplist<'p> {
    pub(super) fn new(bytes: &'p [u8]) -> Result<Ziplist<'p>, Malformed> {
        let (mut header, items) = bytes.split_at_checked(HEADER_BYTES).ok_or(WRONG)?;
        let [rest @ .., 0xFF] = items else { return Err(WRONG) };
        if u64::from(header.get_u32_le()) != bytes.len() as u64 {
            return Err(WRONG);
        }
        Ok(Ziplist { rest, before: 0 })
    }

    fn take(&mut self) -> Option<PackedItem<'p>> {
        let length = self.rest.len();
        let before = match self.rest.try_get_u8().ok()? {
            0xFE => usize::try_from(self.rest.try_get_u32_le().ok()?).ok()?,
            0xFF => return None,
            before => before.into(),
        };
        if before != self.before {
            return None;
        }
        let item = self.take_item()?;
        self.before = length - self.rest.len();
        Some(item)
    }

    fn take_item(&mut self) -> Option<PackedItem<'p>> {
        let rest = &mut self.rest;
        let first = rest.try_get_u8().ok()?;
        let length = match first >> 6 {
            0 => usize::from(first),
            1 => usize::from(first & 0x3F) << 8 | usize::from(rest.try_get_u8().ok()?),
            2 if first == 0x80 => usize::try_from(rest.try_get_u32().ok()?).ok()?,
            2 => return None,
            _ => {
                return Some(PackedItem::Integer(match first {
                    0xC0 => rest.try_get_i16_le().ok()?.into(),
                    0xD0 => rest.try_get_i32_le().ok()?.into(),
                    0xE0 => rest.try_get_i64_le().ok()?,
                    0xF0 => {
                        let bytes = split(rest, 3)?;
                        i64::from(i32::from_le_bytes([0, bytes[0], bytes[1], bytes[2]]) >> 8)
                    }
                    0xFE => rest.try_get_i8().ok()?.into(),
                    0xF1..=0xFD => i64::from(first & 0x0F) - 1,
                    _ => return None,
                }));
            }
        };
        split(rest, length).map(PackedItem::Text)
    }
}

impl<'p> Iterator for Ziplist<'p> {
    type Item = Result<PackedItem<'p>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let item = self.take();
        if item.is_none() {
            self.rest = &[];
        }
        Some(item.ok_or(WRONG))
    }
}
