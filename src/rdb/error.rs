//! Reasons why bytes are not a file or a value in the RDB format.

use std::io;

use super::FILE_VERSION_MAX;

/// Reason why an RDB file or value is refused. Each message completes the sentence "the file FILE
/// …". Offsets are counted in bytes from the start of the file or value.
#[derive(Debug, thiserror::Error)]
pub enum RdbError {
    /// The input cannot be read.
    #[error("cannot be read at byte {offset}: {source}")]
    Io {
        /// Where the read failed.
        offset: u64,
        /// The error of the read.
        source: io::Error,
    },
    /// The file does not begin with `REDIS` and a version.
    #[error("is not an RDB file: it does not begin with REDIS and a version")]
    Magic,
    /// The file has a version that this program cannot read.
    #[error("has RDB version {found}, but this program reads 1 to {FILE_VERSION_MAX}")]
    Version {
        /// Version of the file.
        found: u16,
    },
    /// The input ends too early.
    #[error("is truncated at byte {offset}")]
    Truncated {
        /// Length of the input.
        offset: u64,
    },
    /// The checksum at the end of the file is wrong.
    #[error(
        "is damaged: the checksum at byte {offset} is {stored:016x} instead of {computed:016x}"
    )]
    Checksum {
        /// Where the checksum is.
        offset: u64,
        /// The checksum in the file.
        stored: u64,
        /// The checksum of what precedes it.
        computed: u64,
    },
    /// There are bytes after the end.
    #[error("has data after its end at byte {offset}")]
    Longer {
        /// Where the input should end.
        offset: u64,
    },
    /// A value or a record of a module.
    #[error("has data of the module type {name} at byte {offset}; modules are not supported")]
    Module {
        /// Where the record or value begins.
        offset: u64,
        /// Name of the module's type, empty if it is unknown.
        name: String,
    },
    /// A record of a kind that this program does not know.
    #[error("has a record of the unknown kind {kind} at byte {offset}")]
    Record {
        /// Where the record begins.
        offset: u64,
        /// The unknown number.
        kind: u8,
    },
    /// A value of a type that this program does not know.
    #[error("has a value of the unknown type {kind} at byte {offset}")]
    Type {
        /// Where the type is.
        offset: u64,
        /// The unknown number.
        kind: u8,
    },
    /// The bytes have no meaning in this format.
    #[error("is damaged: {what} at byte {offset}")]
    Malformed {
        /// Where the malformed part begins.
        offset: u64,
        /// Description of what is wrong.
        what: &'static str,
    },
    /// The receiver of the items has refused one of them.
    #[error("has a value that is refused at byte {offset}")]
    Stopped {
        /// The number of bytes read before.
        offset: u64,
    },
}
