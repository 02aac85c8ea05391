//! Redis's RDB format: the values in replies to `DUMP`, and whole files of keys, for moving data
//! from and to other servers. Reads all encodings of values that Redis 2.6 to 7.2 writes, and
//! writes format 10, which Redis 7.0 and later versions read. Knows neither keys in memory nor
//! sockets.
//!
//! ```text
//!  +-----------+-----------------+------------------------------------+-----+----------+
//!  | REDIS0010 | AUX name value  | SELECTDB, RESIZEDB, records, ..... | EOF | CRC-64   |
//!  +-----------+-----------------+------------------------------------+-----+----------+
//!   a record: [EXPIRETIME_MS time] [IDLE or FREQ] type key value
//!
//!  +------+-------+---------+--------+
//!  | type | value | version | CRC-64 |    a payload of DUMP
//!  +------+-------+---------+--------+
//! ```
//!
//! All bytes are untrusted: no input causes a panic, and no memory is allocated for a length that
//! the input only states. A value is decoded into [`Item`]s, one after the other, so that memory
//! usage depends on its longest string, not on the number of its elements. Redis packs small
//! collections into one string, which then is the longest.

mod decoder;
mod error;
mod file;
mod input;
mod item;
mod libraries;
mod listpack;
mod lzf;
mod output;
mod packed;
mod payload;
mod stream;
#[cfg(test)]
mod tests;
mod value;
mod ziplist;

pub use error::RdbError;
pub use file::{RdbReader, Record};
pub use item::{GroupReads, Item, Sink, Stop, ValueKind};
pub use libraries::{LibrariesError, decode_libraries, encode_libraries};
pub use output::{FileWriter, ValueWriter};
pub use payload::{PayloadError, check_payload, decode_payload, finish_payload};

/// Format version that this program writes, that of Redis 7.0.
pub const VERSION: u16 = 10;
/// Highest format version that this program reads, that of Redis 7.2 and of Valkey 8.
pub const VERSION_MAX: u16 = 11;
/// Highest format version of files that this program reads. Redis 7.4 and 8.0 write version 12,
/// which has other types of hashes, but is otherwise the same.
pub const FILE_VERSION_MAX: u16 = 12;
/// Maximum length in bytes of a string, as in Redis with default settings.
pub const STRING_BYTES_MAX: usize = 512 << 20;

/// The id of an entry of a stream: a time in milliseconds since 1970, and a sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EntryId {
    /// Time in milliseconds since 1970.
    pub millis: u64,
    /// Sequence number among the entries with the same time.
    pub sequence: u64,
}

/// The checksum of payloads and files.
static CHECKSUM: crc::Crc<u64, crc::Table<16>> =
    crc::Crc::<u64, crc::Table<16>>::new(&crc::CRC_64_REDIS);

/// Numbers of the types of values.
mod types {
    pub(super) const STRING: u8 = 0;
    pub(super) const LIST: u8 = 1;
    pub(super) const SET: u8 = 2;
    pub(super) const ZSET: u8 = 3;
    pub(super) const HASH: u8 = 4;
    pub(super) const ZSET_2: u8 = 5;
    /// The first version of modules' types, which only Redis 4.0 before its release wrote.
    pub(super) const MODULE: u8 = 6;
    pub(super) const MODULE_2: u8 = 7;
    pub(super) const HASH_ZIPMAP: u8 = 9;
    pub(super) const LIST_ZIPLIST: u8 = 10;
    pub(super) const SET_INTSET: u8 = 11;
    pub(super) const ZSET_ZIPLIST: u8 = 12;
    pub(super) const HASH_ZIPLIST: u8 = 13;
    pub(super) const LIST_QUICKLIST: u8 = 14;
    pub(super) const STREAM_LISTPACKS: u8 = 15;
    pub(super) const HASH_LISTPACK: u8 = 16;
    pub(super) const ZSET_LISTPACK: u8 = 17;
    pub(super) const LIST_QUICKLIST_2: u8 = 18;
    pub(super) const STREAM_LISTPACKS_2: u8 = 19;
    pub(super) const SET_LISTPACK: u8 = 20;
    pub(super) const STREAM_LISTPACKS_3: u8 = 21;
}

/// Numbers of the records of files that are not keys.
mod records {
    pub(super) const SLOT: u8 = 244;
    pub(super) const LIBRARY: u8 = 245;
    pub(super) const MODULE_AUX: u8 = 247;
    pub(super) const IDLE: u8 = 248;
    pub(super) const FREQUENCY: u8 = 249;
    pub(super) const AUX: u8 = 250;
    pub(super) const SIZES: u8 = 251;
    pub(super) const EXPIRES_AT_MILLIS: u8 = 252;
    pub(super) const EXPIRES_AT_SECONDS: u8 = 253;
    pub(super) const SELECT_DATABASE: u8 = 254;
    pub(super) const END: u8 = 255;
}
