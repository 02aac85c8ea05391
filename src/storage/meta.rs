//! The meta record: the owner of a folder, the members of its cluster, the replica's
//! latest starts, and the segments that must exist. One file contains
//! two copies of the record. The file is replaced as a whole: it is written under a temporary name,
//! synced and renamed, and the directory is synced.
//!
//! ```text
//!  stream of one copy, in sectors; the rest of the last sector is zeros
//!  +-------+---------+---------+---------+-------------+-------+------+-------+
//!  | magic | version | cluster | replica | incarnation | first | last | flags | ..
//!  |  16   |    4    |   16    |    2    |      8      |   8   |  8   |   1   |
//!  +-------+---------+---------+---------+-------------+-------+------+-------+
//!     +--------------+---------------+--------+------------+-------------+--------+
//!  .. | member count | start count   | level  | members .. | start ids ..| crc32c |
//!     |      1       |       2       | 0 or 2 |   2 each   |   8 each    |   4    |
//!     +--------------+---------------+--------+------------+-------------+--------+
//! ```
//!
//! Little endian. The checksum covers the stream before it, so a mixture of sectors from two
//! versions of the record is never accepted. A damaged copy is replaced by the other one when the
//! log is opened.
//!
//! `level` is the feature level that a program needs to read the folder: that of the cluster,
//! recorded before anything that needs it is written. While it is the lowest, the record has
//! version 3, without this field, so that version 0.1 of the program reads it. Version 4 is refused
//! by version 0.1 before it changes anything.
//!
//! Each start of the replica draws a random number, the start id. The latest [`START_IDS_KEPT`] of
//! the `start ids` are kept, newest last; `incarnation` is the number of all starts. A folder
//! restored from an older copy reaches the same incarnations again but draws other numbers, so
//! peers can tell the two histories apart (`peers.rs`). A repair that marks the replica counts as
//! a start of its own: so the log is two starts ahead of a copy of this file that lacks the mark,
//! which shows that the copy is an old one.
//!
//! `members` are the ids of the voters with which the cluster was created, this replica included,
//! in ascending order; none if the replica was added to an existing cluster. They are written when
//! the folder is created, and never changed: later members are in the log and in snapshots. The two
//! lowest bits of `flags` mark a replica that must not vote before it has received again everything
//! that it may have acknowledged: bit 0 if it may have lost votes too, because it was bootstrapped
//! again under its old id or its folder was damaged; bit 1 if it has lost log entries or a
//! snapshot, but knows its latest term and vote. At most one of them is set.
//!
//! `first` and `last` are the sequence numbers of the first and the last segment that must exist.
//! `first` is raised only after a durable snapshot contains the entries of all earlier segments,
//! and these segments are deleted only afterwards. Recovery ignores any that reappear after a power
//! cut.
//!
//! A log cannot be opened without this file: a replica that started empty under its old id could
//! vote a second time in the same term, and would lack entries that it has acknowledged.

use crate::config::Mutant;
use crate::feature_level::FeatureLevel;
use crate::raft::{Loss, REPLICAS_MAX};
use crate::types::NodeId;

use super::disk::{Disk, io_error};
use super::error::StorageError;
use super::identity::Identity;
use super::sector::{self, PAYLOAD_BYTES, SECTOR_BYTES, Sector, sectors_for};
use super::segment::Fields;

/// Name of the file with the meta record: the replica that owns the folder, the cluster's members,
/// and a random number for each of the replica's latest process starts, which peers use to detect
/// an older copy of the folder.
pub(super) const META_FILE: &str = "meta";
/// Temporary name under which a new version of the file `meta` is written before it replaces the
/// old version.
pub(super) const META_FILE_NEW: &str = "meta.new";
const MAGIC: &[u8; 16] = b"bowline replica\n";
/// Format version of `meta` while the feature level is the lowest.
const META_VERSION_OLDEST: u32 = 3;
/// Format version of `meta` at higher feature levels.
const META_VERSION: u32 = 4;
/// Length in bytes of the fixed fields of `meta` before the feature level and the lists.
const HEAD_BYTES: usize = 66;
/// Length in bytes of the feature level in format [`META_VERSION`].
const LEVEL_BYTES: usize = 2;
const CHECKSUM_BYTES: usize = 4;
/// Flag in `meta`: the replica is rejoining after losing votes and entries.
const LOST_VOTES: u8 = 1;
/// Flag in `meta`: the replica is rejoining after losing entries, but knows its term and vote.
const LOST_ENTRIES: u8 = 2;
/// Minimum number of members with which a replica can recover lost data from the others. With only
/// two, the other replica cannot be elected without this replica's vote.
const REPAIR_MEMBERS_MIN: usize = 3;

/// Maximum length of a replica's list of its own latest process starts (one random number per
/// start), which peers use to detect an older copy of its folder. When a new start would exceed it,
/// the oldest start is removed.
pub const START_IDS_KEPT: usize = 4_096;
// The head and all members fit in the first sector.
const _: () = assert!(HEAD_BYTES + LEVEL_BYTES + REPLICAS_MAX * 2 <= PAYLOAD_BYTES);

/// Decoded contents of the file `meta`: the replica that owns the folder, the cluster's members,
/// the random number of each of the replica's latest process starts, and the sequence numbers of
/// the first and the last log segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    /// Ids of the cluster and the replica that own the folder, and the number of times that the
    /// replica has been started.
    pub(super) identity: Identity,
    /// Ids of the voters with which the cluster was created, in ascending order, this replica
    /// included; empty if the replica was added to an existing cluster.
    pub(super) members: Vec<NodeId>,
    /// Data that the replica has lost and not recovered yet: until then it is rejoining and must
    /// not vote. `None` if nothing is missing.
    pub(super) loss: Option<Loss>,
    /// Sequence number of the oldest log segment that must exist. Recovery ignores older segments.
    pub(super) first: u64,
    /// Sequence number of the newest log segment that must exist; zero before the first segment is
    /// created.
    pub(super) last: u64,
    /// Feature level that a program needs to read the folder.
    pub(super) feature_level: FeatureLevel,
    /// Random numbers that the replica drew at its latest process starts, one per start, newest
    /// last. Peers use them to distinguish this folder from an older copy of it.
    pub(super) start_ids: Vec<u64>,
}

/// Result of reading the file `meta`: the decoded record, and whether both of its copies in the
/// file were intact.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) meta: Meta,
    pub(super) is_intact: bool,
}

impl Meta {
    /// Returns the contents of the file `meta` for a new folder, whose replica has never been
    /// started.
    pub(super) fn new(
        cluster: u128,
        replica: NodeId,
        members: Vec<NodeId>,
        loss: Option<Loss>,
    ) -> Meta {
        let identity = Identity { cluster, replica, incarnation: 0 };
        let feature_level = FeatureLevel::OLDEST;
        Meta { identity, members, loss, first: 1, last: 0, feature_level, start_ids: Vec::new() }
    }

    /// Returns whether the other replicas can restore data that this folder has lost: there were at
    /// least [`REPAIR_MEMBERS_MIN`] members when the cluster was created, or the replica was added
    /// later.
    pub(super) fn can_repair(&self) -> bool {
        self.members.is_empty() || self.members.len() >= REPAIR_MEMBERS_MIN
    }

    fn stream(&self) -> Vec<u8> {
        assert!(
            self.members.is_empty() || self.members.contains(&self.identity.replica),
            "{self:?} is not a member"
        );
        assert!(self.members.is_sorted_by(|one, next| one < next), "{:?}", self.members);
        assert!(self.members.len() <= REPLICAS_MAX, "{} members", self.members.len());
        assert!(self.start_ids.len() <= START_IDS_KEPT, "{} start ids", self.start_ids.len());
        let (count, incarnation) = (self.start_ids.len() as u64, self.identity.incarnation);
        assert!(count <= incarnation, "{count} start ids, but incarnation {incarnation}");
        assert!(
            0 < self.first && self.first - 1 <= self.last,
            "segments {} to {}",
            self.first,
            self.last
        );
        let mut stream = Vec::new();
        stream.extend_from_slice(MAGIC);
        let is_oldest = self.feature_level == FeatureLevel::OLDEST;
        let version = if is_oldest { META_VERSION_OLDEST } else { META_VERSION };
        stream.extend_from_slice(&version.to_le_bytes());
        stream.extend_from_slice(&self.identity.cluster.to_le_bytes());
        stream.extend_from_slice(&self.identity.replica.0.to_le_bytes());
        stream.extend_from_slice(&self.identity.incarnation.to_le_bytes());
        stream.extend_from_slice(&self.first.to_le_bytes());
        stream.extend_from_slice(&self.last.to_le_bytes());
        stream.push(match self.loss {
            None => 0,
            Some(Loss::Entries) => LOST_ENTRIES,
            Some(Loss::Votes) => LOST_VOTES,
        });
        stream.push(u8::try_from(self.members.len()).expect("at most REPLICAS_MAX"));
        let count = u16::try_from(self.start_ids.len()).expect("at most START_IDS_KEPT");
        stream.extend_from_slice(&count.to_le_bytes());
        assert!(stream.len() == HEAD_BYTES, "a head of {} bytes", stream.len());
        if !is_oldest {
            stream.extend_from_slice(&self.feature_level.number().to_le_bytes());
        }
        for member in &self.members {
            stream.extend_from_slice(&member.0.to_le_bytes());
        }
        for start_id in &self.start_ids {
            stream.extend_from_slice(&start_id.to_le_bytes());
        }
        stream.extend_from_slice(&crc32c::crc32c(&stream).to_le_bytes());
        let length = record_bytes(version, self.members.len(), self.start_ids.len());
        assert!(stream.len() == length, "{} of {length} bytes", stream.len());
        stream
    }

    fn encode(&self) -> Vec<u8> {
        let stream = self.stream();
        let sectors = sectors_for(stream.len());
        let mut out = Vec::with_capacity(2 * sectors * SECTOR_BYTES);
        sector::seal(0, 0, 0, &stream, &mut out);
        sector::seal(0, as_sector(sectors), 1, &stream, &mut out);
        assert!(out.len() == 2 * sectors * SECTOR_BYTES, "{} bytes", out.len());
        out
    }

    /// Decodes the contents of the file `meta`, which holds two copies of the same record. Returns
    /// the first copy, or the second if the first is damaged.
    pub(super) fn decode(file: &str, bytes: &[u8]) -> Result<Found, StorageError> {
        let damaged = |(sector, what): (usize, String)| StorageError::Damaged {
            file: file.to_owned(),
            offset: (sector * SECTOR_BYTES) as u64,
            what,
        };
        // The first sector of the second copy, unless the file was truncated.
        let middle = bytes.len() / SECTOR_BYTES / 2;
        let second = Copy { bytes, first: middle, block: 1 };
        let first_error = match (Copy { bytes, first: 0, block: 0 }).read() {
            Ok(Content::Record(meta)) => {
                let same = matches!(second.read(), Ok(Content::Record(other)) if other == meta);
                let is_intact = same && bytes.len() == meta.encode().len();
                return Ok(Found { meta, is_intact });
            }
            Ok(Content::Version(found)) => {
                let (file, known) = (file.to_owned(), META_VERSION);
                return Err(StorageError::Version { file, found, known });
            }
            Ok(Content::FeatureLevel(level)) => {
                return Err(StorageError::FeatureLevel { file: file.to_owned(), level });
            }
            Err(error) => error,
        };
        match second.read() {
            Ok(Content::Record(meta)) => Ok(Found { meta, is_intact: false }),
            _ => Err(damaged(first_error)),
        }
    }

    /// Records a new start of the replica: increments the number of starts, and appends `number`,
    /// the random number drawn at this start, to the list of starts. Keeps only the latest `kept`
    /// starts in the list.
    pub(super) fn open(&mut self, number: u64, kept: usize) {
        assert!((1..=START_IDS_KEPT).contains(&kept), "{kept} start ids to keep");
        assert!(number != 0, "zero stands for an unknown start id");
        self.identity.incarnation += 1;
        self.start_ids.push(number);
        let more = self.start_ids.len().saturating_sub(kept);
        self.start_ids.drain(..more);
        assert!(self.start_ids.last() == Some(&number), "start id {number} is not the last");
    }

    /// Durably replaces the folder's file `meta` with this record.
    pub(super) fn write(&self, disk: &mut impl Disk) -> Result<(), StorageError> {
        let bytes = self.encode();
        debug_assert!(
            Meta::decode(META_FILE, &bytes)
                .is_ok_and(|found| found.is_intact && found.meta.identity == self.identity),
            "{self:?} is not read back"
        );
        replace(disk, META_FILE, META_FILE_NEW, &bytes)
    }
}

/// Returns the length in bytes of one copy of the record in the file `meta` of this format version,
/// without padding, for a cluster of `members` members and a list of `start_ids` start ids.
fn record_bytes(version: u32, members: usize, start_ids: usize) -> usize {
    let level = if version == META_VERSION_OLDEST { 0 } else { LEVEL_BYTES };
    HEAD_BYTES + level + members * 2 + start_ids * 8 + CHECKSUM_BYTES
}

fn as_sector(count: usize) -> u32 {
    u32::try_from(count).expect("a record has few sectors")
}

/// One of the two copies of the record in the file `meta`. `bytes` are the contents of the whole
/// file, `first` is the index of the copy's first sector, and `block` is 0 for the first copy and 1
/// for the second; each sector stores the index of its copy.
struct Copy<'a> {
    bytes: &'a [u8],
    first: usize,
    block: u32,
}

/// Contents of a copy of the meta record whose checksums are correct.
enum Content {
    Record(Meta),
    /// The record has a format version, given here, that this program cannot read.
    Version(u32),
    /// The folder needs this feature level, which the program does not support.
    FeatureLevel(FeatureLevel),
}

/// Index of a damaged sector in a file, and a description of the damage.
type Damage = (usize, String);

impl Copy<'_> {
    fn sector(&self, number: usize) -> Result<&[u8], Damage> {
        let at = self.first + number;
        let damaged = |what: &str| Err((at, what.to_owned()));
        let Some(bytes) = self.bytes.get(at * SECTOR_BYTES..(at + 1) * SECTOR_BYTES) else {
            return Err((at, format!("the file ends after {} bytes", self.bytes.len())));
        };
        match sector::read(0, as_sector(at), bytes) {
            Sector::Written { block, payload } if block == self.block => Ok(payload),
            Sector::Written { block, .. } => {
                Err((at, format!("a sector of block {block} instead of {}", self.block)))
            }
            Sector::Unwritten => damaged("zeros instead of the record"),
            Sector::Damaged => damaged("wrong checksum"),
        }
    }

    fn read(&self) -> Result<Content, Damage> {
        let head = self.sector(0)?;
        let mut fields = Fields::of(head);
        if fields.take::<16>() != *MAGIC {
            return Err((self.first, "the header is that of another kind of file".to_owned()));
        }
        let version = u32::from_le_bytes(fields.take());
        if !(META_VERSION_OLDEST..=META_VERSION).contains(&version) {
            return Ok(Content::Version(version));
        }
        let counts = &head[HEAD_BYTES - 3..HEAD_BYTES];
        let (members, start_ids) =
            (usize::from(counts[0]), usize::from(u16::from_le_bytes([counts[1], counts[2]])));
        let length = record_bytes(version, members, start_ids);
        if members > REPLICAS_MAX || start_ids > START_IDS_KEPT {
            return Err((self.first, format!("{members} members and {start_ids} start ids")));
        }
        let mut stream = Vec::with_capacity(length + PAYLOAD_BYTES);
        for number in 0..sectors_for(length) {
            stream.extend_from_slice(self.sector(number)?);
        }
        stream.truncate(length);
        match decode_stream(version, &stream, members, start_ids) {
            Ok(meta) if !meta.feature_level.is_supported() => {
                Ok(Content::FeatureLevel(meta.feature_level))
            }
            decoded => decoded.map(Content::Record).map_err(|what| (self.first, what)),
        }
    }
}

fn decode_stream(
    version: u32,
    stream: &[u8],
    members: usize,
    start_ids: usize,
) -> Result<Meta, String> {
    let length = record_bytes(version, members, start_ids);
    assert!(stream.len() == length, "{} of {length} bytes", stream.len());
    let (covered, checksum) = stream.split_at(stream.len() - CHECKSUM_BYTES);
    if crc32c::crc32c(covered).to_le_bytes() != checksum {
        return Err("wrong checksum of the record".to_owned());
    }
    let mut fields = Fields::of(&covered[20..]);
    let identity = Identity {
        cluster: u128::from_le_bytes(fields.take()),
        replica: NodeId(u16::from_le_bytes(fields.take())),
        incarnation: u64::from_le_bytes(fields.take()),
    };
    let first = u64::from_le_bytes(fields.take());
    let last = u64::from_le_bytes(fields.take());
    if first == 0 || first - 1 > last {
        return Err(format!("segments {first} to {last}"));
    }
    let [flags, _] = fields.take();
    let _count: [u8; 2] = fields.take();
    let feature_level = if version == META_VERSION_OLDEST {
        FeatureLevel::OLDEST
    } else {
        let number = u16::from_le_bytes(fields.take());
        let level = FeatureLevel::from_number(number).filter(|it| *it > FeatureLevel::OLDEST);
        level.ok_or_else(|| format!("feature level {number}"))?
    };
    let members: Vec<NodeId> =
        (0..members).map(|_| NodeId(u16::from_le_bytes(fields.take()))).collect();
    let start_ids: Vec<u64> = (0..start_ids).map(|_| u64::from_le_bytes(fields.take())).collect();
    let loss = match flags {
        0 => None,
        LOST_ENTRIES => Some(Loss::Entries),
        LOST_VOTES => Some(Loss::Votes),
        _ => return Err(format!("unknown flags {flags:08b}")),
    };
    let names_owner = members.is_empty() || members.contains(&identity.replica);
    if !members.is_sorted_by(|one, next| one < next) || !names_owner {
        let replica = identity.replica.0;
        return Err(format!("replica {replica} with the members {members:?}"));
    }
    if start_ids.len() as u64 > identity.incarnation {
        let (count, incarnation) = (start_ids.len(), identity.incarnation);
        return Err(format!("{count} start ids, but incarnation {incarnation}"));
    }
    Ok(Meta { identity, members, loss, first, last, feature_level, start_ids })
}

/// Atomically and durably replaces the contents of the small file `name` with `bytes`. Writes the
/// temporary file `new` and renames it, so that a power cut leaves either the old or the new
/// contents.
pub(super) fn replace(
    disk: &mut impl Disk,
    name: &str,
    new: &str,
    bytes: &[u8],
) -> Result<(), StorageError> {
    assert!(name != new, "{name} would be overwritten in place");
    assert!(bytes.len().is_multiple_of(SECTOR_BYTES), "{name} has {} bytes", bytes.len());
    let size = bytes.len() as u64;
    let mut file = disk.create(new, size).map_err(io_error(disk, "create a new", name))?;
    disk.write_at(&mut file, 0, bytes).map_err(io_error(disk, "write a new", name))?;
    disk.sync(&mut file).map_err(io_error(disk, "sync a new", name))?;
    disk.rename(new, name).map_err(io_error(disk, "replace", name))?;
    if disk.mutant() == Some(Mutant::UnsyncedRecordName) {
        return Ok(());
    }
    disk.sync_dir().map_err(io_error(disk, "sync the folder of", name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(start_ids: u64) -> Meta {
        let members = vec![NodeId(1), NodeId(2), NodeId(5)];
        let losses = [None, Some(Loss::Entries), Some(Loss::Votes)];
        let loss = losses[usize::try_from(start_ids % 3).unwrap()];
        let mut meta = Meta::new(9, NodeId(2), members, loss);
        (1..=start_ids).for_each(|start_id| meta.open(start_id << 20, START_IDS_KEPT));
        let feature_level =
            if start_ids.is_multiple_of(2) { FeatureLevel::V0_1 } else { FeatureLevel::V0_2 };
        Meta { first: 3, last: 4, feature_level, ..meta }
    }

    #[test]
    fn storage_meta_record_of_any_length_round_trips() {
        for start_ids in [0, 1, 52, 53, 60, 4_095, 4_096, 5_000] {
            let meta = meta(start_ids);
            let bytes = meta.encode();
            assert_eq!(bytes.len() % (2 * SECTOR_BYTES), 0);
            assert_eq!(Meta::decode("meta", &bytes).unwrap(), Found { meta, is_intact: true });
        }
    }

    #[test]
    fn damaged_meta_record_is_repaired_from_its_other_copy() {
        let meta = meta(100);
        let bytes = meta.encode();
        let repaired = |bytes: &[u8], case: &str| {
            let found = Meta::decode("meta", bytes).unwrap_or_else(|e| panic!("{case}: {e}"));
            assert_eq!(found, Found { meta: meta.clone(), is_intact: false }, "{case}");
        };
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            repaired(&damaged, &format!("bit {bit}"));
        }
        for sector in 0..bytes.len() / SECTOR_BYTES {
            let mut damaged = bytes.clone();
            damaged[sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES].fill(0);
            repaired(&damaged, &format!("sector {sector}"));
        }
        repaired(&bytes[..bytes.len() / 2], "without the second copy");
    }

    #[test]
    fn damage_to_both_copies_of_the_meta_record_is_refused() {
        let bytes = meta(100).encode();
        for other in [0, SECTOR_BYTES + 7, bytes.len() / 2 - 1] {
            let mut damaged = bytes.clone();
            damaged[other] ^= 1;
            damaged[bytes.len() - 1 - other] ^= 1;
            let error = Meta::decode("meta", &damaged).unwrap_err();
            assert!(matches!(error, StorageError::Damaged { .. }), "{error}");
        }
        for length in [0, 1, 511, 512, 1_000] {
            assert!(Meta::decode("meta", &bytes[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn meta_record_of_a_higher_feature_level_is_rejected() {
        let later = FeatureLevel::from_number(FeatureLevel::NEWEST.number() + 1).unwrap();
        let bytes = Meta { feature_level: later, ..meta(1) }.encode();
        let error = Meta::decode("meta", &bytes).unwrap_err();
        let expected = "meta belongs to a cluster with feature level 3: start the replica with a \
                        version later than 0.2 of bowline; nothing in the folder was changed";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn meta_record_of_another_format_is_rejected() {
        for version in [2, 9] {
            let mut stream = meta(1).stream();
            stream[16] = version;
            let mut bytes = Vec::new();
            sector::seal(0, 0, 0, &stream, &mut bytes);
            let error = Meta::decode("meta", &bytes).unwrap_err();
            assert!(
                matches!(error, StorageError::Version { found, known: 4, .. }
                    if found == u32::from(version)),
                "{error}"
            );
        }
    }
}
