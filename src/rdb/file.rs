//! Reads whole files, record by record.

use std::io::Read;

use super::error::RdbError;
use super::input::Input;
use super::item::Sink;
use super::value::{self, module_name};
use super::{FILE_VERSION_MAX, VERSION_MAX, payload, records};

/// The first version with a checksum.
const CHECKSUM_SINCE: u16 = 5;

/// A record of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A fact about the file or the server that wrote it.
    Fact {
        /// Its name, such as `redis-ver`.
        name: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
    },
    /// The source of a library of functions.
    Library(Vec<u8>),
    /// The database of the keys that follow.
    Database(u64),
    /// The number of keys in the database.
    Sizes {
        /// All keys.
        keys: u64,
        /// The keys that expire.
        expiring: u64,
    },
    /// A key. [`RdbReader::value`] must read its value.
    Key {
        /// The key.
        key: Vec<u8>,
        /// When the key expires, in milliseconds since 1970; `None` if it does not.
        expires_at: Option<i64>,
        /// Offset of the record's type from the start of the file, in bytes.
        offset: u64,
    },
}

/// A streaming reader of files. Holds one record or one string of a value in memory.
pub struct RdbReader<R> {
    input: Input<R>,
    version: u16,
    /// Type of the value that must be read next, and its offset.
    pending: Option<(u8, u64)>,
    ended: bool,
}

impl<R> std::fmt::Debug for RdbReader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RdbReader").field("version", &self.version).finish_non_exhaustive()
    }
}

impl<R: Read> RdbReader<R> {
    /// Reads the beginning of a file.
    ///
    /// # Errors
    /// If it cannot be read, or is not that of a file of a known version.
    pub fn new(reader: R) -> Result<RdbReader<R>, RdbError> {
        let mut input = Input::new(reader);
        let magic: [u8; 5] = input.array()?;
        let digits: [u8; 4] = input.array()?;
        let version = std::str::from_utf8(&digits).ok().and_then(|digits| digits.parse().ok());
        let Some(version) = version.filter(|_| magic == *b"REDIS") else {
            return Err(RdbError::Magic);
        };
        if !(1..=FILE_VERSION_MAX).contains(&version) {
            return Err(RdbError::Version { found: version });
        }
        Ok(RdbReader { input, version, pending: None, ended: false })
    }

    /// Returns the version of the file.
    pub fn version(&self) -> u16 {
        self.version
    }

    /// Returns the number of bytes read so far.
    pub fn offset(&self) -> u64 {
        self.input.offset()
    }

    /// Reads the next record; `None` at the end of the file, whose checksum is then verified.
    ///
    /// # Errors
    /// If the file cannot be read or is malformed.
    ///
    /// # Panics
    /// If the value of the last key was not read.
    pub fn next_record(&mut self) -> Result<Option<Record>, RdbError> {
        assert!(self.pending.is_none(), "the value of the last key was not read");
        let mut expires_at = None;
        while !self.ended {
            let offset = self.input.offset();
            match self.input.byte()? {
                records::END => self.end()?,
                records::AUX => {
                    let (name, value) = (self.input.string()?, self.input.string()?);
                    return Ok(Some(Record::Fact { name, value }));
                }
                records::SELECT_DATABASE => {
                    return Ok(Some(Record::Database(self.input.length()?)));
                }
                records::SIZES => {
                    let (keys, expiring) = (self.input.length()?, self.input.length()?);
                    return Ok(Some(Record::Sizes { keys, expiring }));
                }
                records::LIBRARY => return Ok(Some(Record::Library(self.input.string()?))),
                records::EXPIRES_AT_MILLIS => {
                    expires_at = Some(i64::from_le_bytes(self.input.array()?));
                }
                records::EXPIRES_AT_SECONDS => {
                    let seconds = i32::from_le_bytes(self.input.array()?);
                    expires_at = Some(i64::from(seconds) * 1_000);
                }
                // Access times and frequencies are not recorded.
                records::IDLE => drop(self.input.length()?),
                records::FREQUENCY => drop(self.input.byte()?),
                records::SLOT => {
                    for _ in 0..3 {
                        self.input.length()?;
                    }
                }
                records::MODULE_AUX => {
                    let name = module_name(self.input.length()?);
                    return Err(RdbError::Module { offset, name });
                }
                kind if kind > records::SLOT => return Err(RdbError::Record { offset, kind }),
                number => {
                    if value::kind_of(number).is_none() && !value::is_module(number) {
                        return Err(RdbError::Type { offset, kind: number });
                    }
                    let key = self.input.string()?;
                    self.pending = Some((number, offset));
                    return Ok(Some(Record::Key { key, expires_at, offset }));
                }
            }
        }
        Ok(None)
    }

    /// Reads the value of the key that [`RdbReader::next_record`] has returned, and passes its
    /// items to `sink`. Also returns the value as a payload for `RESTORE`, if that has at most
    /// `payload_bytes_max` bytes.
    ///
    /// # Errors
    /// If the file cannot be read or is malformed, or `sink` refuses an item.
    ///
    /// # Panics
    /// If [`RdbReader::next_record`] has not returned a key.
    pub fn value(
        &mut self,
        payload_bytes_max: usize,
        sink: &mut dyn Sink,
    ) -> Result<Option<Vec<u8>>, RdbError> {
        let (number, offset) = self.pending.take().expect("there is a key");
        self.input.keep(number, payload_bytes_max);
        value::decode(number, offset, &mut self.input, sink)?;
        let kept = self.input.take_kept();
        Ok(kept.map(|mut kept| {
            payload::finish_payload(&mut kept, self.version.min(VERSION_MAX));
            kept
        }))
    }

    fn end(&mut self) -> Result<(), RdbError> {
        self.ended = true;
        if self.version < CHECKSUM_SINCE {
            return Ok(());
        }
        let (offset, computed) = (self.input.offset(), self.input.checksum());
        let stored = u64::from_le_bytes(self.input.array()?);
        // Zero if the server does not compute checksums.
        if stored != computed && stored != 0 {
            return Err(RdbError::Checksum { offset, stored, computed });
        }
        Ok(())
    }

    /// Checks that nothing follows the end of the file.
    ///
    /// # Errors
    /// If something does.
    pub fn finish(mut self) -> Result<(), RdbError> {
        self.input.end()
    }
}
