//! Listpacks, in which Redis 7.0 packs small collections and the entries of streams.
//!
//! ```text
//!  +-------+-------+----------------------------------+-----+------+
//!  | bytes | count | encoding, item, length backwards | ..  | 0xFF |
//!  |   4   |   2   |     1 to 5,       1 to 5         |     |  1   |
//!  +-------+-------+----------------------------------+-----+------+
//! ```
//!
//! The length backwards is that of the encoding and the item, so that the list can be read from
//! its end. A count of 65,535 means that it is unknown.

use bytes::Buf as _;

use super::packed::{Malformed, PackedItem, split};

const HEADER_BYTES: usize = 6;
const COUNT_UNKNOWN: u16 = u16::MAX;
const WRONG: Malformed = "an invalid listpack";

/// The items of a listpack that have not been returned yet. The iterator ends after an error.
pub(super) struct Listpack<'p> {
    rest: &'p [u8],
}

impl<'p> Listpack<'p> {
    pub(super) fn new(bytes: &'p [u8]) -> Result<Listpack<'p>, Malformed> {
        let (mut header, items) = bytes.split_at_checked(HEADER_BYTES).ok_or(WRONG)?;
        let [rest @ .., 0xFF] = items else { return Err(WRONG) };
        if u64::from(header.get_u32_le()) != bytes.len() as u64 {
            return Err(WRONG);
        }
        Ok(Listpack { rest })
    }

    fn take(&mut self) -> Option<PackedItem<'p>> {
        let length = self.rest.len();
        let item = self.take_item()?;
        let (backwards, count) = backwards(length - self.rest.len());
        (split(&mut self.rest, count)? == &backwards[..count]).then_some(item)
    }

    fn take_item(&mut self) -> Option<PackedItem<'p>> {
        let rest = &mut self.rest;
        let first = rest.try_get_u8().ok()?;
        let length = match first {
            0..=0x7F => return Some(PackedItem::Integer(first.into())),
            0x80..=0xBF => usize::from(first & 0x3F),
            0xC0..=0xDF => {
                let number = u16::from_be_bytes([first & 0x1F, rest.try_get_u8().ok()?]);
                // 13 bits in two's complement.
                return Some(PackedItem::Integer(((number << 3).cast_signed() >> 3).into()));
            }
            0xE0..=0xEF => usize::from(first & 0x0F) << 8 | usize::from(rest.try_get_u8().ok()?),
            0xF0 => usize::try_from(rest.try_get_u32_le().ok()?).ok()?,
            _ => {
                return Some(PackedItem::Integer(match first {
                    0xF1 => rest.try_get_i16_le().ok()?.into(),
                    0xF2 => {
                        let bytes = split(rest, 3)?;
                        i64::from(i32::from_le_bytes([0, bytes[0], bytes[1], bytes[2]]) >> 8)
                    }
                    0xF3 => rest.try_get_i32_le().ok()?.into(),
                    0xF4 => rest.try_get_i64_le().ok()?,
                    _ => return None,
                }));
            }
        };
        split(rest, length).map(PackedItem::Text)
    }
}

impl<'p> Iterator for Listpack<'p> {
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

/// Returns the encoding of the length backwards, and its number of bytes.
fn backwards(length: usize) -> ([u8; 5], usize) {
    let count = match length {
        0..=127 => 1,
        // As in Redis, which compares with `<`.
        128..=16_382 => 2,
        16_383..=2_097_150 => 3,
        2_097_151..=268_435_454 => 4,
        _ => 5,
    };
    let mut bytes = [0; 5];
    let mut left = length;
    for at in (0..count).rev() {
        bytes[at] = left.to_le_bytes()[0] & 0x7F | if at == 0 { 0 } else { 0x80 };
        left >>= 7;
    }
    (bytes, count)
}

/// A listpack that is being written.
pub(super) struct ListpackWriter {
    bytes: Vec<u8>,
    count: usize,
}

impl ListpackWriter {
    pub(super) fn new() -> ListpackWriter {
        ListpackWriter { bytes: vec![0; HEADER_BYTES], count: 0 }
    }

    /// Returns the length of the listpack in bytes, if nothing else is appended.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() + 1
    }

    pub(super) fn integer(&mut self, number: i64) {
        let start = self.bytes.len();
        if let Ok(number @ 0..=127) = i8::try_from(number) {
            self.bytes.push(number.cast_unsigned());
        } else if (-4_096..4_096).contains(&number) {
            let [low, high, ..] = number.to_le_bytes();
            self.bytes.extend_from_slice(&[0xC0 | high & 0x1F, low]);
        } else if let Ok(number) = i16::try_from(number) {
            self.bytes.push(0xF1);
            self.bytes.extend_from_slice(&number.to_le_bytes());
        } else if let Ok(number) = i32::try_from(number) {
            self.bytes.push(0xF3);
            self.bytes.extend_from_slice(&number.to_le_bytes());
        } else {
            self.bytes.push(0xF4);
            self.bytes.extend_from_slice(&number.to_le_bytes());
        }
        self.end_item(start);
    }

    pub(super) fn count(&mut self, count: usize) {
        self.integer(i64::try_from(count).expect("counts are below 2^63"));
    }

    pub(super) fn text(&mut self, text: &[u8]) {
        let start = self.bytes.len();
        let [low, high, ..] = text.len().to_le_bytes();
        match text.len() {
            0..=63 => self.bytes.push(0x80 | low),
            64..=4_095 => self.bytes.extend_from_slice(&[0xE0 | high, low]),
            length => {
                let length = u32::try_from(length).expect("strings are far below 4 GiB");
                self.bytes.push(0xF0);
                self.bytes.extend_from_slice(&length.to_le_bytes());
            }
        }
        self.bytes.extend_from_slice(text);
        self.end_item(start);
    }

    fn end_item(&mut self, start: usize) {
        let (bytes, count) = backwards(self.bytes.len() - start);
        self.bytes.extend_from_slice(&bytes[..count]);
        self.count += 1;
    }

    /// Replaces the item at the start, an integer from 0 to 127, with another such integer.
    pub(super) fn set_first(&mut self, number: u8) {
        assert!(number <= 127 && self.bytes[HEADER_BYTES] <= 127, "{number} fits into a byte");
        self.bytes[HEADER_BYTES] = number;
    }

    /// Returns the complete listpack.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.push(0xFF);
        let length = u32::try_from(self.bytes.len()).expect("listpacks are far below 4 GiB");
        let count = u16::try_from(self.count).unwrap_or(COUNT_UNKNOWN);
        self.bytes[..4].copy_from_slice(&length.to_le_bytes());
        self.bytes[4..HEADER_BYTES].copy_from_slice(&count.to_le_bytes());
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listpacks_keep_their_items() {
        let numbers = [
            0,
            1,
            127,
            128,
            -1,
            4_095,
            -4_096,
            4_096,
            -4_097,
            32_767,
            -32_768,
            32_768,
            8_388_607,
            -8_388_609,
            i64::from(i32::MIN),
            i64::from(i32::MAX) + 1,
            i64::MIN,
            i64::MAX,
        ];
        let texts: Vec<Vec<u8>> =
            [0, 1, 63, 64, 4_095, 4_096, 20_000, 3 << 20].map(|length| vec![b'x'; length]).into();
        let mut writer = ListpackWriter::new();
        for number in numbers {
            writer.integer(number);
        }
        for text in &texts {
            writer.text(text);
        }
        let length = writer.len();
        let bytes = writer.finish();
        assert_eq!(bytes.len(), length);
        let items: Vec<PackedItem<'_>> =
            Listpack::new(&bytes).unwrap().collect::<Result<_, _>>().unwrap();
        let integers = numbers.iter().map(|number| PackedItem::Integer(*number));
        let wanted = integers.chain(texts.iter().map(|text| PackedItem::Text(text)));
        assert!(wanted.eq(items));
        for end in 0..bytes.len().min(200) {
            assert!(Listpack::new(&bytes[..end]).is_err(), "{end}");
        }
    }
}
