//! The meta record: whose folder this is, and what it must at least hold. One file of one sector,
//! replaced as a whole: written under another name, synced, renamed, the folder synced.
//!
//! ```text
//!  payload of the only sector, the rest zeros
//!  +--------+---------+---------+---------+-------------+----------+
//!  | magic  | version | cluster | replica | incarnation | segments |
//!  |   16   |    4    |   16    |    2    |      8      |    8     |
//!  +--------+---------+---------+---------+-------------+----------+
//! ```
//!
//! Cluster and replica are written once, by `--bootstrap`. A folder without this file does not
//! start: a replica that comes back empty under its old id would vote again in terms in which it
//! has voted, and deny entries that it has vouched for (design.md §7 item 7).

use crate::types::NodeId;

use super::Identity;
use super::disk::Disk;
use super::error::StorageError;
use super::sector::{self, SECTOR_BYTES};
use super::segment::{VERSION, header_fields};

/// Its name.
pub(super) const META_FILE: &str = "meta";
/// Its name while it is written.
pub(super) const META_FILE_NEW: &str = "meta.new";
const MAGIC: &[u8; 16] = b"bowline replica\n";

/// The meta record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    /// Whose folder, and how often its log was opened; zero before the first time.
    pub(super) identity: Identity,
    /// How many segments there are at least.
    pub(super) segments: u64,
}

impl Meta {
    fn encode(&self) -> Vec<u8> {
        let mut stream = Vec::new();
        stream.extend_from_slice(MAGIC);
        stream.extend_from_slice(&VERSION.to_le_bytes());
        stream.extend_from_slice(&self.identity.cluster.to_le_bytes());
        stream.extend_from_slice(&self.identity.replica.0.to_le_bytes());
        stream.extend_from_slice(&self.identity.incarnation.to_le_bytes());
        stream.extend_from_slice(&self.segments.to_le_bytes());
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
        Ok(Meta { identity, segments: u64::from_le_bytes(fields.take()) })
    }

    /// Puts it in the place of the one that is there.
    pub(super) fn write(&self, disk: &mut impl Disk) -> Result<(), StorageError> {
        let name = disk.describe(META_FILE);
        let io = |doing| {
            let file = name.clone();
            move |source| StorageError::Io { doing, file, source }
        };
        let bytes = self.encode();
        let mut file =
            disk.create(META_FILE_NEW, bytes.len() as u64).map_err(io("making a new"))?;
        disk.write_at(&mut file, 0, &bytes).map_err(io("writing a new"))?;
        disk.sync(&mut file).map_err(io("syncing a new"))?;
        disk.rename(META_FILE_NEW, META_FILE).map_err(io("replacing"))?;
        disk.sync_dir().map_err(io("syncing the folder of"))
    }
}
