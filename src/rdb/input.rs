//! Reads the parts of which everything in the RDB format consists: bytes, lengths and strings.
//! Counts the bytes, computes their checksum, and can keep a copy of them.

use std::io::{ErrorKind, Read};

use super::error::RdbError;
use super::{CHECKSUM, EntryId, STRING_BYTES_MAX, lzf};

/// Number of bytes by which a buffer grows while a string is read. No more memory is allocated
/// before these bytes have arrived.
const PIECE_BYTES: usize = 256 << 10;

/// A number at the start of a string, or a length.
enum Length {
    Number(u64),
    /// The string follows in one of the encodings that are numbered from 0.
    Encoded(u8),
}

/// A reader of the parts of the RDB format.
pub(super) struct Input<R> {
    reader: R,
    offset: u64,
    checksum: crc::Digest<'static, u64, crc::Table<16>>,
    /// A copy of the bytes read since [`Input::keep`], if there are not too many.
    kept: Option<Vec<u8>>,
    kept_bytes_max: usize,
}

impl<R: Read> Input<R> {
    pub(super) fn new(reader: R) -> Input<R> {
        let checksum = CHECKSUM.digest();
        Input { reader, offset: 0, checksum, kept: None, kept_bytes_max: 0 }
    }

    /// Returns the number of bytes read so far.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns the checksum of the bytes read so far.
    pub(super) fn checksum(&self) -> u64 {
        self.checksum.clone().finalize()
    }

    /// Begins to keep a copy of what is read, of at most `bytes_max` bytes, which starts with
    /// `first`.
    pub(super) fn keep(&mut self, first: u8, bytes_max: usize) {
        self.kept = (bytes_max > 0).then(|| vec![first]);
        self.kept_bytes_max = bytes_max;
    }

    /// Returns the copy that [`Input::keep`] began; `None` if it would be too long.
    pub(super) fn take_kept(&mut self) -> Option<Vec<u8>> {
        self.kept.take()
    }

    pub(super) fn malformed(&self, what: &'static str) -> RdbError {
        RdbError::Malformed { offset: self.offset, what }
    }

    /// Fills `bytes`.
    ///
    /// # Errors
    /// If the input cannot be read or ends before.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), RdbError> {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.reader.read(&mut bytes[filled..]) {
                Ok(0) => {
                    return Err(RdbError::Truncated { offset: self.offset + filled as u64 });
                }
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => return Err(RdbError::Io { offset: self.offset, source }),
            }
        }
        self.offset += bytes.len() as u64;
        self.checksum.update(bytes);
        if let Some(kept) = &mut self.kept {
            if kept.len() + bytes.len() <= self.kept_bytes_max {
                kept.extend_from_slice(bytes);
            } else {
                self.kept = None;
            }
        }
        Ok(())
    }

    /// Reads `LENGTH` bytes.
    pub(super) fn array<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], RdbError> {
        let mut bytes = [0; LENGTH];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn byte(&mut self) -> Result<u8, RdbError> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    /// Reads `length` bytes. Allocates memory only as they arrive.
    pub(super) fn bytes(&mut self, length: u64) -> Result<Vec<u8>, RdbError> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > STRING_BYTES_MAX {
            return Err(self.malformed("a string of more than 512 MiB"));
        }
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let start = bytes.len();
            bytes.resize(length.min(start + PIECE_BYTES), 0);
            self.fill(&mut bytes[start..])?;
        }
        Ok(bytes)
    }

    fn number(&mut self) -> Result<Length, RdbError> {
        let first = self.byte()?;
        Ok(match first >> 6 {
            0 => Length::Number((first & 0x3F).into()),
            1 => Length::Number(u16::from_be_bytes([first & 0x3F, self.byte()?]).into()),
            3 => Length::Encoded(first & 0x3F),
            _ if first == 0x80 => Length::Number(u32::from_be_bytes(self.array()?).into()),
            _ if first == 0x81 => Length::Number(u64::from_be_bytes(self.array()?)),
            _ => return Err(self.malformed("an unknown encoding of a length")),
        })
    }

    /// Reads a length or another number.
    pub(super) fn length(&mut self) -> Result<u64, RdbError> {
        match self.number()? {
            Length::Number(number) => Ok(number),
            Length::Encoded(_) => Err(self.malformed("a string in place of a length")),
        }
    }

    /// Reads a string, which may be encoded as an integer or compressed.
    pub(super) fn string(&mut self) -> Result<Vec<u8>, RdbError> {
        let integer = |number: i32| number.to_string().into_bytes();
        match self.number()? {
            Length::Number(length) => self.bytes(length),
            Length::Encoded(0) => Ok(integer(i8::from_le_bytes(self.array()?).into())),
            Length::Encoded(1) => Ok(integer(i16::from_le_bytes(self.array()?).into())),
            Length::Encoded(2) => Ok(integer(i32::from_le_bytes(self.array()?))),
            Length::Encoded(3) => {
                let compressed = self.length()?;
                let length = self.length()?;
                let compressed = self.bytes(compressed)?;
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                if length > STRING_BYTES_MAX {
                    return Err(self.malformed("a string of more than 512 MiB"));
                }
                lzf::decompress(&compressed, length)
                    .ok_or_else(|| self.malformed("an invalid compressed string"))
            }
            Length::Encoded(_) => Err(self.malformed("an unknown encoding of a string")),
        }
    }

    /// Reads a floating-point number in the eight bytes of its binary form.
    pub(super) fn double(&mut self) -> Result<f64, RdbError> {
        Ok(f64::from_le_bytes(self.array()?))
    }

    /// Reads a floating-point number as text, with its length before it.
    pub(super) fn double_as_text(&mut self) -> Result<f64, RdbError> {
        match self.byte()? {
            0xFF => Ok(f64::NEG_INFINITY),
            0xFE => Ok(f64::INFINITY),
            0xFD => Ok(f64::NAN),
            length => {
                let text = self.bytes(length.into())?;
                parse_double(&text).ok_or_else(|| self.malformed("an invalid number"))
            }
        }
    }

    /// Reads the id of an entry of a stream, as two numbers.
    pub(super) fn entry_id(&mut self) -> Result<EntryId, RdbError> {
        Ok(EntryId { millis: self.length()?, sequence: self.length()? })
    }

    /// Reads the id of an entry of a stream in 16 bytes.
    pub(super) fn raw_entry_id(&mut self) -> Result<EntryId, RdbError> {
        let (millis, sequence) = (self.array()?, self.array()?);
        Ok(EntryId { millis: u64::from_be_bytes(millis), sequence: u64::from_be_bytes(sequence) })
    }

    /// Checks that the input has ended.
    pub(super) fn end(&mut self) -> Result<(), RdbError> {
        let offset = self.offset;
        match self.byte() {
            Err(RdbError::Truncated { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(RdbError::Longer { offset }),
        }
    }
}

/// Parses the text of a floating-point number; `None` if it is none.
pub(super) fn parse_double(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
