//! The meta record: whose folder this is, and what it must at least hold. One file of one sector,
//! replaced as a whole: written under another name, synced, renamed, the folder synced.
//!
//! ```text
//!  payload of the only sector, the rest zeros
//!  +--------+---------+---------+---------+-------------+-------+------+-------+-------------+
//!  | magic  | version | cluster | replica | incarnation | first | last | count | openings .. |
//!  |   16   |    4    |   16    |    2    |      8      |   8   |  8   |   2   |  8 each     |
//!  +--------+---------+---------+---------+-------------+-------+------+-------+-------------+
//! ```
//!
//! Each opening of the log draws a number of its own; the last ones are kept, newest last. A folder
//! that was put back from an older copy counts its openings as the lost one did, but draws other
//! numbers: that is how peers tell the two apart (`peers.rs`).
//!
//! `first` and `last` are the segments that must be there. Before `first` is raised, a snapshot is
//! durable that holds what the segments before it held, and only then are they deleted: what a
//! power cut leaves of them counts for nothing.
//!
//! Cluster and replica are written once, by `--bootstrap`. A folder without this file does not
//! start: a replica that comes back empty under its old id would vote again in terms in which it
//! has voted, and deny entries that it has vouched for (design.md §7 item 7).

use crate::config::Mutant;
use crate::types::NodeId;

use super::Identity;
use super::disk::Disk;
use super::error::StorageError;
use super::sector::{self, PAYLOAD_BYTES, SECTOR_BYTES};
use super::segment::{VERSION, header_fields};

/// Its name.
pub(super) const META_FILE: &str = "meta";
/// Its name while it is written.
pub(super) const META_FILE_NEW: &str = "meta.new";
const MAGIC: &[u8; 16] = b"bowline replica\n";

/// How many openings are remembered: as many as fit.
pub(super) const OPENINGS_KEPT: usize = 48;
const _: () = assert!(64 + OPENINGS_KEPT * 8 <= PAYLOAD_BYTES);

/// The meta record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    /// Whose folder, and how often its log was opened; zero before the first time.
    pub(super) identity: Identity,
    /// The first segment that the log needs.
    pub(super) first: u64,
    /// The last that there is at least; zero before the first was made.
    pub(super) last: u64,
    /// What the last openings drew, the newest last. Zero is one that was never told to anybody.
    pub(super) openings: Vec<u64>,
}

impl Meta {
    fn encode(&self) -> Vec<u8> {
        let mut stream = Vec::new();
        stream.extend_from_slice(MAGIC);
        stream.extend_from_slice(&VERSION.to_le_bytes());
        stream.extend_from_slice(&self.identity.cluster.to_le_bytes());
        stream.extend_from_slice(&self.identity.replica.0.to_le_bytes());
        stream.extend_from_slice(&self.identity.incarnation.to_le_bytes());
        stream.extend_from_slice(&self.first.to_le_bytes());
        stream.extend_from_slice(&self.last.to_le_bytes());
        let kept = &self.openings[self.openings.len().saturating_sub(OPENINGS_KEPT)..];
        let count = u16::try_from(kept.len()).expect("few are kept");
        stream.extend_from_slice(&count.to_le_bytes());
        for opening in kept {
            stream.extend_from_slice(&opening.to_le_bytes());
        }
        let mut out = Vec::with_capacity(SECTOR_BYTES);
        sector::seal(0, 0, 0, &stream, &mut out);
        out
    }

    /// Reads the record that `bytes` are.
    pub(super) fn decode(file: &str, bytes: &[u8]) -> Result<Meta, StorageError> {
        let mut fields = header_fields(file, bytes, MAGIC)?;
        if bytes.len() != SECTOR_BYTES {
            let what = format!("{} bytes where {SECTOR_BYTES} belong", bytes.len());
            let offset = SECTOR_BYTES as u64;
            return Err(StorageError::Damaged { file: file.to_owned(), offset, what });
        }
        let identity = Identity {
            cluster: u128::from_le_bytes(fields.take()),
            replica: NodeId(u16::from_le_bytes(fields.take())),
            incarnation: u64::from_le_bytes(fields.take()),
        };
        let first = u64::from_le_bytes(fields.take());
        let last = u64::from_le_bytes(fields.take());
        if first == 0 || first > last + 1 {
            let what = format!("it says that the log's segments are those from {first} to {last}");
            return Err(StorageError::Damaged { file: file.to_owned(), offset: 0, what });
        }
        let count = usize::from(u16::from_le_bytes(fields.take()));
        if count > OPENINGS_KEPT {
            let what = format!("{count} openings where at most {OPENINGS_KEPT} are kept");
            return Err(StorageError::Damaged { file: file.to_owned(), offset: 0, what });
        }
        let openings = (0..count).map(|_| u64::from_le_bytes(fields.take())).collect();
        Ok(Meta { identity, first, last, openings })
    }

    /// Adds the next opening, which drew `number`.
    pub(super) fn open(&mut self, number: u64) {
        self.identity.incarnation += 1;
        self.openings.push(number);
        let more = self.openings.len().saturating_sub(OPENINGS_KEPT);
        self.openings.drain(..more);
    }

    /// Puts it in the place of the one that is there.
    pub(super) fn write(&self, disk: &mut impl Disk) -> Result<(), StorageError> {
        replace(disk, META_FILE, META_FILE_NEW, &self.encode())
    }
}

/// Puts a small file in the place of the one that is there, as a whole: whenever the power fails,
/// one of the two is found.
pub(super) fn replace(
    disk: &mut impl Disk,
    name: &str,
    new: &str,
    bytes: &[u8],
) -> Result<(), StorageError> {
    let file = disk.describe(name);
    let io = |doing| {
        let file = file.clone();
        move |source| StorageError::Io { doing, file, source }
    };
    let mut file = disk.create(new, bytes.len() as u64).map_err(io("making a new"))?;
    disk.write_at(&mut file, 0, bytes).map_err(io("writing a new"))?;
    disk.sync(&mut file).map_err(io("syncing a new"))?;
    disk.rename(new, name).map_err(io("replacing"))?;
    if disk.mutant() == Some(Mutant::UnsyncedRecordName) {
        return Ok(());
    }
    disk.sync_dir().map_err(io("syncing the folder of"))
}
