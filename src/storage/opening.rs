//! The start of a replica's log: reads and checks the whole folder without a change, then repairs
//! it and counts the opening.
//!
//! The two steps are apart so that the caller can do in between whatever else a start needs and can
//! fail. A start that fails before [`Recovered::open`] leaves the log and the meta record as they
//! were; only an opening that peers may hear of is counted.

use crate::config::Mutant;
use crate::raft::{Durable, SnapshotId};
use crate::types::{Index, NodeId};

use super::Identity;
use super::disk::Disk;
use super::error::StorageError;
use super::log::{
    Log, LogOptions, LogStats, Segment, UNFINISHED, bytes_of, first_segment, io, make_segment,
};
use super::meta::{Found, META_FILE, Meta};
use super::recovery::Replay;
use super::sector::SECTOR_BYTES;
use super::segment::{self, BlockBuilder, SegmentHeader, check_owner};
use super::snapshots::newest_snapshot;

/// What the caller knows of a folder; the folder must agree.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The cluster; `None` takes what the folder says.
    pub cluster: Option<u128>,
    /// The replica.
    pub replica: NodeId,
    /// The ids of all voters, this replica included, in any order; `None` takes what the folder
    /// says.
    pub members: Option<&'a [NodeId]>,
}

/// A replica's log as its folder holds it, read and checked, and not changed yet.
#[derive(Debug)]
pub struct Recovered<D: Disk> {
    disk: D,
    options: LogOptions,
    names: Vec<String>,
    /// As it was found.
    found: Meta,
    /// As it will be once this opening is counted.
    next: Meta,
    replay: Replay,
    is_meta_intact: bool,
}

impl<D: Disk> Log<D> {
    /// Reads and checks all of a replica's log. Changes nothing.
    ///
    /// # Errors
    /// If the folder is not what is expected, or anything in it is not as it was written.
    pub fn recover(
        mut disk: D,
        options: LogOptions,
        expected: &Expected<'_>,
    ) -> Result<Recovered<D>, StorageError> {
        let names = disk.list().map_err(|source| io(&disk, "listing", "", source))?;
        let Found { meta: found, is_intact: is_meta_intact } = read_meta(&disk, &names)?;
        let cluster = expected.cluster.unwrap_or(found.identity.cluster);
        let identity = Identity { cluster, replica: expected.replica, ..found.identity };
        let owner = (found.identity.cluster, found.identity.replica);
        check_owner(&disk.describe(META_FILE), owner, &identity)?;
        let members = members_of(&disk, &found, expected)?;
        let replay = read_segments(&disk, &names, &found)?;
        let mut next = Meta { members, ..found.clone() };
        // Zero stands for a number that is not known.
        next.open(disk.draw().max(1), options.openings_kept);
        Ok(Recovered { disk, options, names, found, next, replay, is_meta_intact })
    }
}

impl<D: Disk> Recovered<D> {
    /// Whose log it is; this opening is counted already.
    pub fn identity(&self) -> Identity {
        self.next.identity
    }

    /// The random numbers of the latest openings, this one's last.
    pub fn openings(&self) -> &[u64] {
        &self.next.openings
    }

    /// The ids of all voters, ascending; this replica is one of them.
    pub fn members(&self) -> &[NodeId] {
        &self.next.members
    }

    /// Whether the replica has lost what it had acknowledged, and does not hold it again yet.
    pub fn is_rejoining(&self) -> bool {
        self.next.rejoining
    }

    /// Whether the folder did not say who the members are, so that [`Expected::members`] are
    /// written into it by this opening.
    pub fn adopts_members(&self) -> bool {
        self.found.members.is_empty()
    }

    /// Whether a copy of the meta record was damaged; this opening replaces it.
    pub fn repairs_meta(&self) -> bool {
        !self.is_meta_intact
    }

    /// Checks that the log goes on where a snapshot ends: the latest that
    /// [`Snapshots::load`](super::Snapshots::load) found whole.
    ///
    /// # Errors
    /// If entries are missing between the snapshot and the log, or the folder holds a later
    /// snapshot, which then is damaged, and the log does not reach to its end.
    pub fn check_snapshot(&self, snapshot: Option<SnapshotId>) -> Result<(), StorageError> {
        let Recovered { disk, names, replay, .. } = self;
        let end = snapshot.map_or(Index::ZERO, |snapshot| snapshot.last.index);
        let (first, folder) = (replay.base.index.next(), disk.describe(""));
        if first > end.next() {
            return Err(StorageError::Uncovered { folder, first, end });
        }
        match newest_snapshot(names) {
            Some((name, last)) if last.index > end && !replay.holds(last) => {
                let file = disk.describe(name);
                Err(StorageError::SnapshotLost { file, last, end })
            }
            _ => Ok(()),
        }
    }

    /// Cuts off a torn tail, makes durable that the log was opened once more, and gives back what
    /// it holds behind the snapshot, for which [`Recovered::check_snapshot`] succeeded. Where the
    /// log does not hold the snapshot's last entry, as when the power failed between a snapshot's
    /// installation and the log's beginning anew, the log begins anew here.
    ///
    /// # Errors
    /// If the folder can't be written. Then the opening does not count, and the next one draws
    /// another number.
    pub fn open(self, snapshot: Option<SnapshotId>) -> Result<(Log<D>, Durable), StorageError> {
        let Recovered { mut disk, options, names, found, next, replay, .. } = self;
        let early = disk.mutant() == Some(Mutant::DeleteBeforeSync);
        for name in names.iter().filter(|name| early && is_left_over(name, &found)) {
            disk.delete(name).map_err(|source| io(&disk, "deleting", name, source))?;
        }
        // What a killed process wrote and did not sync is read back all the same, out of memory.
        // Nothing may be vouched for that the disk does not hold, and nothing deleted since a meta
        // record or a snapshot says so whose name is not durable.
        disk.sync_dir().map_err(|source| io(&disk, "syncing", "", source))?;
        for name in names.iter().filter(|name| !early && is_left_over(name, &found)) {
            disk.delete(name).map_err(|source| io(&disk, "deleting", name, source))?;
        }
        let mut stats = LogStats::default();
        let mut bases = replay.bases.clone();
        let segment = if let Some(header) = replay.header {
            stats.torn_bytes = u64::from(replay.torn_end - replay.end) * SECTOR_BYTES as u64;
            reopen(&mut disk, &header, &replay)?
        } else {
            bases.push_back((1, Index::ZERO));
            make_segment(&mut disk, &first_segment(&found, options))?
        };
        stats.end = replay.bytes_before + bytes_of(segment.next);
        let mut meta = Meta { members: next.members.clone(), ..found };
        if meta.last != segment.number {
            // The making of the last segment came this far only.
            meta.last = segment.number;
            meta.write(&mut disk)?;
        }
        let mut log = Log {
            disk,
            options,
            meta,
            bases,
            chain: replay.chain,
            written_by: replay.incarnation,
            hard_state: replay.durable.hard_state,
            last: replay.last(),
            durable_last: replay.last(),
            durable_state: replay.durable.hard_state,
            block: BlockBuilder::default(),
            waiting: true,
            image: Vec::new(),
            failed: false,
            stats,
            segment,
        };
        // First in the log, then in the meta record: so neither can be restored from an older copy
        // without the other showing it. If the power failed between the two the last time, that
        // opening was never heard of, and this one takes its place.
        log.write_block(next.identity.incarnation)?;
        let (identity, openings) = (next.identity, next.openings);
        log.meta = Meta { identity, openings, ..log.meta };
        log.meta.write(&mut log.disk)?;
        if let Some(number) = replay.restarted {
            // The power failed before they were deleted.
            log.delete_before(number)?;
        }
        let durable = log.cut_behind(snapshot, replay)?;
        Ok((log, durable))
    }
}

/// Who the members are: what the folder says, or what is expected if it is of a format that did not
/// say.
fn members_of<D: Disk>(
    disk: &D,
    found: &Meta,
    expected: &Expected<'_>,
) -> Result<Vec<NodeId>, StorageError> {
    let Some(members) = expected.members else {
        // A folder without members and a caller that does not know them: it belongs to one alone.
        let alone = || vec![found.identity.replica];
        return Ok(Some(found.members.clone()).filter(|it| !it.is_empty()).unwrap_or_else(alone));
    };
    let mut members = members.to_vec();
    members.sort_unstable();
    assert!(members.contains(&expected.replica), "{members:?} without {}", expected.replica);
    if found.members.is_empty() || found.members == members {
        return Ok(members);
    }
    let file = disk.describe(META_FILE);
    Err(StorageError::OtherMembers { file, found: found.members.clone(), expected: members })
}

/// Whether nothing depends on a file any more, or ever did: it was never completed, or a snapshot
/// took its place.
fn is_left_over(name: &str, meta: &Meta) -> bool {
    if let Some(number) = segment::number_of(name) {
        return number < meta.first;
    }
    let complete = name.strip_suffix(UNFINISHED);
    complete.is_some_and(|name| name == META_FILE || segment::number_of(name).is_some())
}

fn read_meta<D: Disk>(disk: &D, names: &[String]) -> Result<Found, StorageError> {
    let file = disk.describe(META_FILE);
    if !names.iter().any(|name| name == META_FILE) {
        return Err(StorageError::NoIdentity { file });
    }
    let bytes = disk.read(META_FILE).map_err(|source| io(disk, "reading", META_FILE, source))?;
    Meta::decode(&file, &bytes)
}

/// Reads all segments and holds them against the meta record.
fn read_segments<D: Disk>(disk: &D, names: &[String], meta: &Meta) -> Result<Replay, StorageError> {
    let mut replay = Replay::new(meta.identity, meta.first);
    replay.mutant = disk.mutant();
    let numbers = names.iter().filter_map(|name| segment::number_of(name));
    let numbers: Vec<u64> = numbers.filter(|&number| number >= meta.first).collect();
    let count = numbers.last().copied().unwrap_or(0).max(meta.last);
    for number in meta.first..=count {
        let name = segment::file_name(number);
        let file = disk.describe(&name);
        if numbers.binary_search(&number).is_err() {
            return Err(StorageError::Missing { file });
        }
        let bytes = disk.read(&name).map_err(|source| io(disk, "reading", &name, source))?;
        replay.segment(&file, &bytes, number == count)?;
    }
    let (opened, written) = (meta.identity.incarnation, replay.incarnation);
    if written < opened {
        let file = disk.describe(&segment::file_name(count));
        let what = format!("it ends with opening {written}, the meta record knows of {opened}");
        return Err(StorageError::RolledBack { file, what });
    }
    if written > opened + 1 || count > meta.last + 1 {
        let file = disk.describe(META_FILE);
        let what = format!(
            "it knows of {opened} openings and of segments up to {}, the log of {written} and \
             {count}",
            meta.last
        );
        return Err(StorageError::RolledBack { file, what });
    }
    Ok(replay)
}

/// Opens the last segment to go on writing to it. A torn tail is made zeros again: the next
/// block is then written to sectors that hold nothing, like any other.
fn reopen<D: Disk>(
    disk: &mut D,
    header: &SegmentHeader,
    replay: &Replay,
) -> Result<Segment<D::File>, StorageError> {
    let name = segment::file_name(header.number);
    let mut file = disk.open(&name).map_err(|source| io(disk, "opening", &name, source))?;
    let place = |sector: u32| u64::from(sector) * SECTOR_BYTES as u64;
    // A sync that failed may have thrown away what it was to write, and a new process reads it
    // out of memory all the same, and syncs it with success. That can be the last block only: it is
    // written again as it is, and then the sync is worth something.
    if disk.mutant() != Some(Mutant::TrustLastBlock) {
        disk.write_at(&mut file, place(replay.last_block), &replay.last_image)
            .map_err(|source| io(disk, "writing the last block again to", &name, source))?;
    }
    let torn = (replay.torn_end - replay.end) as usize;
    if torn > 0 {
        disk.write_at(&mut file, place(replay.end), &vec![0; torn * SECTOR_BYTES])
            .map_err(|source| io(disk, "cutting the torn tail of", &name, source))?;
    }
    disk.sync(&mut file).map_err(|source| io(disk, "syncing", &name, source))?;
    Ok(Segment {
        file,
        number: header.number,
        salt: header.salt(),
        sectors: header.sectors,
        next: replay.end,
        written: replay.end,
        blocks: replay.blocks,
    })
}
