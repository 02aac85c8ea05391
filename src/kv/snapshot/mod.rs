//! Snapshots: the whole state as bytes, for the disk and for followers that are far behind.
//!
//! ```text
//!  +-------+---------+------------+----------+--------+---------+-------+--------+  header: 16,
//!  | magic | version | last entry | revision | digest | entries | clock | resets |  4 and 16, then
//!  +-------+---------+------------+----------+--------+---------+-------+--------+  8 bytes each
//!  +------+-------+--------+-----------+--------+   blocks: 1, 4, 8, length and 4 bytes; kinds in
//!  | kind | count | length |   items   | crc32c |   order: entries, batches, client sessions if
//!  +------+-------+--------+-----------+--------+   there are any, end
//! ```
//!
//! Integers are little endian; lengths and other small numbers have a variable length. Items
//! encode themselves: entries of the keyspace in `keyspace/restore.rs`, batches of the
//! deduplication table with their outcomes in `dedup.rs`, client sessions in `client_sessions.rs`.
//!
//! The checksum of a block continues that of the block before, and the first one that of the
//! header, so blocks cannot be omitted, repeated or reordered. Replicas with equal states may write
//! their entries in different orders; only the digest is equal.

mod reader;
mod writer;

#[cfg(test)]
mod tests;

use crate::types::EntryId;

pub use reader::SnapshotReader;
pub use writer::SnapshotWriter;

const MAGIC: &[u8; 16] = b"bowline snapshot";
const VERSION: u32 = 7;
const HEADER_BYTES: usize = 16 + 4 + 16 + 8 + 8 + 8 + 8 + 8;
/// Length in bytes of a block's head: kind, item count and length of the items.
const BLOCK_HEAD_BYTES: usize = 1 + 4 + 8;
/// Length in bytes of the checksum at the end of a block.
const CHECKSUM_BYTES: usize = 4;
/// A block is closed when it has reached this length in bytes. A longer block ends with a
/// large item: a key with its whole value.
const BLOCK_BYTES: usize = 64 << 10;

/// Kind byte of a block with entries of the keyspace. The blocks of a snapshot are in ascending
/// order of their kinds: entries, batches, client sessions, end.
const ENTRIES: u8 = 1;
const BATCHES: u8 = 2;
const CLIENT_SESSIONS: u8 = 3;
/// Kind byte of the last block, which has no items. Kinds between that of client sessions and this
/// one are reserved.
const END: u8 = 9;

/// Why the bytes that were read are not a valid snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The magic number is wrong.
    #[error("not a snapshot (bad magic number)")]
    Magic,
    /// The snapshot has another format version.
    #[error(
        "snapshot has format version {found}, this program reads {VERSION}; open it with the \
         version that wrote it"
    )]
    Version {
        /// Format version of the snapshot.
        found: u32,
    },
    /// A block is corrupt.
    #[error("snapshot is corrupt in the block at byte {offset}: {what}")]
    Damaged {
        /// Offset of the start of the block in the snapshot, in bytes.
        offset: u64,
        /// What is wrong with the block.
        what: &'static str,
    },
    /// The snapshot is incomplete.
    #[error("snapshot is incomplete: it ends after {bytes} bytes")]
    Short {
        /// Length in bytes of the snapshot as far as it was received.
        bytes: u64,
    },
    /// The content does not match the header.
    #[error("snapshot of {keys} keys does not match the key count or digest in its header")]
    Contents {
        /// Number of keys read from the snapshot.
        keys: u64,
    },
}

/// Identifies a complete snapshot by its last log entry, length and checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotMark {
    /// The last log entry that the snapshot contains.
    pub last: EntryId,
    /// Length of the snapshot in bytes.
    pub bytes: u64,
    /// CRC-32C of the snapshot's header and blocks (without the blocks' checksum fields).
    pub checksum: u32,
}
