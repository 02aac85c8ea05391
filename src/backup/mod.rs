//! Backup files: `bowline admin backup` stores a snapshot in this format outside of a replica's
//! data folder, and `bowline admin restore` creates the data folders of a new cluster from it.
//! ```text
//!  +-------+---------+-------------+------------+------+-------+-------+----------+--------+
//!  | magic | version | fingerprint | created at | term | index | bytes | snapshot | crc32c |
//!  |  16   |    4    |     16      |     8      |  8   |   8   |   8   |    4     |   4    |
//!  +-------+---------+-------------+------------+------+-------+-------+----------+--------+
//!  | bytes of the snapshot: 65,536, fewer in the last block                       | crc32c | ..
//!  +-------+-------+-------------+--------+---------------------------------------+--------+
//!  | magic | bytes | block count | crc32c |
//!  |  16   |   8   |      8      |   4    |
//!  +-------+-------+-------------+--------+
//! ```
//!
//! A header, then blocks, then a trailer. Integers are little endian. `term` and `index` are those
//! of the last log entry that the snapshot covers, `bytes` is the length of the snapshot, and
//! `snapshot` is its checksum. The header determines the length of the file and the position of
//! each block. Each `crc32c` is cumulative: it covers all bytes of the file before it, except the
//! earlier checksums. So a missing, duplicated or reordered block, or one from another backup, is
//! detected at its position, like a flipped bit.
//!
//! The file is read and written from the beginning to the end, one block at a time.

mod reader;
mod writer;

#[cfg(test)]
mod tests;

use std::io;

use crate::kv::SnapshotMark;

pub use self::reader::BackupReader;
pub use self::writer::BackupWriter;

/// Number of bytes of the snapshot in each block except the last one, which may have fewer.
pub const BLOCK_BYTES: usize = 64 << 10;
/// Format version of backup files that this program writes and reads.
pub const BACKUP_VERSION: u32 = 1;

const MAGIC: &[u8; 16] = b"bowline backup\n\0";
const TRAILER_MAGIC: &[u8; 16] = b"end of backup\n\0\0";
const CHECKSUM_BYTES: usize = 4;
const HEADER_BYTES: usize = 16 + 4 + 16 + 8 + 8 + 8 + 8 + 4 + CHECKSUM_BYTES;
const TRAILER_BYTES: usize = 16 + 8 + 8 + CHECKSUM_BYTES;

/// The header of a backup file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupHeader {
    /// One-way hash of the id of the cluster that the backup was taken from.
    pub cluster_fingerprint: u128,
    /// Wall-clock time at which the backup was started, in milliseconds since 1970, on the machine
    /// that wrote it.
    pub created_at: u64,
    /// The snapshot that the backup contains: its last log entry, its length and its checksum.
    pub snapshot: SnapshotMark,
}

/// Identifies the contents of a complete backup file: its header, size and checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupSummary {
    /// The header.
    pub header: BackupHeader,
    /// Number of blocks.
    pub block_count: u64,
    /// Length of the file in bytes.
    pub file_bytes: u64,
    /// The checksum in the trailer, which covers the whole file before it.
    pub checksum: u32,
}

/// Why a backup file is rejected. The messages complete the sentence "the backup FILE …".
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file does not start with the magic number of backups.
    #[error("is not a backup of bowline (bad magic number)")]
    Magic,
    /// The backup has a format version that this program cannot read.
    #[error(
        "has format version {found}, but this program reads {BACKUP_VERSION}; use the version of \
         bowline that wrote it"
    )]
    Version {
        /// Format version of the backup.
        found: u32,
    },
    /// The file is truncated.
    #[error("is truncated at byte {at}")]
    Truncated {
        /// Length of the file in bytes.
        at: u64,
    },
    /// The checksum of the header is wrong.
    #[error("is damaged: its header has a wrong checksum")]
    Header,
    /// The checksum of a block is wrong.
    #[error("is damaged: the block at byte {at} has a wrong checksum")]
    Block {
        /// Offset of the block from the start of the file, in bytes.
        at: u64,
    },
    /// The trailer does not match the data before it.
    #[error("is damaged: the trailer at byte {at} does not match the blocks")]
    Trailer {
        /// Offset of the trailer from the start of the file, in bytes.
        at: u64,
    },
    /// Data follows the trailer.
    #[error("is damaged: there is data after its end at byte {at}")]
    Longer {
        /// Offset of the end of the trailer from the start of the file, in bytes.
        at: u64,
    },
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[source] io::Error),
}

impl BackupError {
    /// Returns whether the file is damaged or not a backup. False for I/O errors and for other
    /// format versions.
    pub fn is_damage(&self) -> bool {
        !matches!(self, BackupError::Io(_) | BackupError::Version { .. })
    }
}
