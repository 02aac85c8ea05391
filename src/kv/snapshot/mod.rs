//! Snapshots: the encoding of the whole state, which is stored on disk and sent to followers that
//! are far behind.
//!
//! ```text
//!  +-------+---------+------------+----------+--------+---------+-------+--------+  header: 16,
//!  | magic | version | last entry | revision | digest | entries | clock | resets |  4 and 16, then
//!  +-------+---------+------------+----------+--------+---------+-------+--------+  8 bytes each
//!  +------+-------+--------+-----------+--------+   blocks: 1, 4, 8, length and 4 bytes; kinds in
//!  | kind | count | length |   items   | crc32c |   order: entries, those of other databases each
//!  +------+-------+--------+-----------+--------+   after its database, batches, client sessions,
//!                                                   pieces, members, level if needed, witness,
//!                                                   users, scripts, functions, end
//! ```
//!
//! Integers are little endian. Within items, lengths and other small numbers have a variable
//! length. The encodings of items are in other modules: entries of the keyspace in
//! `keyspace/restore.rs`, batches of the deduplication table with their outcomes in `dedup.rs`,
//! client sessions in `client_sessions.rs`, pieces of an incomplete batch in `partial_batch.rs`,
//! and the members, if they have changed since the cluster was created, in `membership.rs`.
//!
//! The format version depends on the cluster's feature level: while it is 1, snapshots are written
//! in format 10, which replicas of version 0.1 read too. Those of a higher level have format 11, in
//! which one block contains the level (2 bytes).
//!
//! Entries are those of database 0 until the block of another database: its number (1 byte, higher
//! than those before) and the number of operations since its keys were last exchanged for those of
//! another database, plus 1; 0 for never. Database 0 has a block if its keys were exchanged.
//! Databases without keys have none.
//!
//! The snapshot of a witness is a *snapshot without data*: it has no items but the members and the
//! level, and a block that says so. It says only where the log of the witness begins, and must
//! never be loaded as the state of a replica with data.
//!
//! The checksum of a block covers the header and all blocks up to this one, so a reader detects
//! blocks that are omitted, repeated or reordered. Replicas with equal states may write their
//! entries in different orders, so their snapshots may differ; only the digests are equal.

mod export;
mod reader;
mod writer;

#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use crate::feature_level::FeatureLevel;
use crate::types::EntryId;

pub use reader::SnapshotReader;
pub use writer::SnapshotWriter;

const MAGIC: &[u8; 16] = b"bowline snapshot";
/// Format version of the snapshots of a cluster with the lowest feature level.
const VERSION_OLDEST: u32 = 10;
/// Format version of the snapshots of any other cluster.
const VERSION: u32 = 11;
const HEADER_BYTES: usize = 16 + 4 + 16 + 8 + 8 + 8 + 8 + 8;
/// Length in bytes of a block's head: kind, item count and length of the items.
const BLOCK_HEAD_BYTES: usize = 1 + 4 + 8;
/// Length in bytes of the checksum at the end of a block.
const CHECKSUM_BYTES: usize = 4;
/// Length in bytes at which a block is closed. A block may exceed this length by at most one item,
/// such as a key with its whole value.
const BLOCK_BYTES: usize = 64 << 10;

/// Kind byte of a block with entries of the keyspace. The blocks of a snapshot are in ascending
/// order of their kinds: entries, batches, client sessions, pieces, members, level, users, scripts,
/// functions; then the end, whose kind is that of version 0.1. Blocks of kind [`DATABASE`] are
/// among those with entries.
const ENTRIES: u8 = 1;
const BATCHES: u8 = 2;
const CLIENT_SESSIONS: u8 = 3;
const PIECES: u8 = 4;
/// Kind byte of the block with the configuration of the members, which is its only item.
const MEMBERS: u8 = 5;
/// Kind byte of the block with the feature level, which is its only item. Only in format 11.
const LEVEL: u8 = 6;
/// Kind byte of the block that marks the snapshot of a witness. It has no items.
const WITNESS: u8 = 7;
/// Kind byte of a block with users: first their revision, then each user. Only in format 11.
const USERS: u8 = 8;
/// Kind byte of a block with scripts: first the number of scripts ever added, then each script.
/// Only in format 11.
const SCRIPTS: u8 = 10;
/// Kind byte of a block with libraries of functions: first their revision, then each library. Only
/// in format 11.
const FUNCTIONS: u8 = 11;
/// Kind byte of a block with the number of the database of the entries in the blocks that follow,
/// which is its only item. Only in format 11.
const DATABASE: u8 = 12;
/// Kind byte of the last block, which has no items.
const END: u8 = 9;

/// The reason why bytes are not a valid snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The bytes do not begin with the magic number of snapshots.
    #[error("not a snapshot (bad magic number)")]
    Magic,
    /// The snapshot has a format version that this program cannot read.
    #[error(
        "snapshot has format version {found}, this program reads {VERSION_OLDEST} to {VERSION}; \
         open it with the version that wrote it"
    )]
    Version {
        /// Format version of the snapshot.
        found: u32,
    },
    /// The snapshot is of a cluster whose feature level this program does not support.
    #[error(
        "snapshot of a cluster with feature level {}: run {} of bowline",
        .0, .0.needed_version()
    )]
    FeatureLevel(FeatureLevel),
    /// A block of the snapshot is corrupt.
    #[error("snapshot is corrupt in the block at byte {offset}: {what}")]
    Damaged {
        /// Offset of the corrupt block from the start of the snapshot, in bytes.
        offset: u64,
        /// Description of what is wrong with the block.
        what: &'static str,
    },
    /// The snapshot ends before its last block.
    #[error("snapshot is incomplete: it ends after {bytes} bytes")]
    Short {
        /// Number of received bytes of the snapshot.
        bytes: u64,
    },
    /// The snapshot is one of a witness, but has data.
    #[error("snapshot of a witness with data")]
    Witness,
    /// The number of keys or the digest in the snapshot's header does not match the snapshot's
    /// content.
    #[error("snapshot of {keys} keys does not match the key count or digest in its header")]
    Contents {
        /// Number of keys that the snapshot actually contains.
        keys: u64,
    },
}

/// Identifies a complete snapshot by the last log entry that it contains, its length and its
/// checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotMark {
    /// Id of the last log entry whose effects the snapshot contains.
    pub last: EntryId,
    /// Length of the snapshot in bytes.
    pub bytes: u64,
    /// CRC-32C of the snapshot's header and blocks, excluding the blocks' checksum fields.
    pub checksum: u32,
}

/// Number by which the log index and the revisions of a snapshot rise when a new cluster begins
/// with it. The cluster that took the snapshot may have applied more operations since, which are
/// lost. While these are fewer than this number, the new cluster repeats none of their indexes and
/// revisions. At a million operations per second, that takes 50 days.
pub const NEW_CLUSTER_GAP: u64 = 1 << 42;

/// Writes the mark in the form `index-term-bytes-checksum`, with the checksum in hexadecimal.
impl fmt::Display for SnapshotMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SnapshotMark { last, bytes, checksum } = self;
        write!(f, "{}-{}-{bytes}-{checksum:08x}", last.index.0, last.term.0)
    }
}

/// The text is not the mark of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the mark of a snapshot")]
pub struct MarkError;

impl FromStr for SnapshotMark {
    type Err = MarkError;

    fn from_str(text: &str) -> Result<SnapshotMark, MarkError> {
        let parts: Vec<&str> = text.split('-').collect();
        let [index, term, bytes, checksum] = parts[..] else { return Err(MarkError) };
        let number = |text: &str| text.parse::<u64>().map_err(|_| MarkError);
        let mark = SnapshotMark {
            last: EntryId::new(number(term)?, number(index)?),
            bytes: number(bytes)?,
            checksum: u32::from_str_radix(checksum, 16).map_err(|_| MarkError)?,
        };
        // There is one text for each mark.
        if mark.to_string() == text { Ok(mark) } else { Err(MarkError) }
    }
}
