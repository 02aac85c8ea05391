//! The last known start of each peer. A replica draws a random number at each start, the start id,
//! which identifies the start. A peer whose folder was wiped or restored from
//! an older copy lacks votes and acknowledged entries; these records detect such a peer. They are
//! kept in a file, so that they survive restarts. The network stage writes the file when a
//! restarted peer connects, before it accepts any of that peer's messages.
//!
//! ```text
//!  stream in the payloads of the sectors; the rest of the last sector is zeros
//!  +--------+---------+---------+---------+-------+-----------------------------------+
//!  | magic  | version | cluster | replica | count | peer, incarnation, start id ..    |
//!  |   16   |    4    |   16    |    2    |   2   |  2 + 8 + 8 each                   |
//!  +--------+---------+---------+---------+-------+-----------------------------------+
//! ```
//!
//! The file is a cache: the log is complete without it. If it is damaged or has another format, it
//! is rebuilt as peers connect.
//!
//! Limits: an old copy of a folder lacks the latest starts of its replica. A peer that was down or
//! partitioned during those starts, or that has lost this file, has no record of them and accepts
//! the old copy. If such peers and the replica that runs on the old copy form a majority, they can
//! elect a leader that lacks acknowledged entries.

use crate::config::Mutant;
use crate::raft::REPLICAS_MAX;
use crate::types::NodeId;

use super::disk::{Disk, io_error};
use super::error::StorageError;
use super::identity::Identity;
use super::meta::replace;
use super::sector::{self, PAYLOAD_BYTES, SECTOR_BYTES, Sector, sectors_for};
use super::segment::{Fields, VERSION, check_owner, header_fields};

/// Name of the file that records, for each peer, the latest process start of the peer that this
/// replica has seen. This replica uses the records to detect a peer whose folder was wiped or
/// restored from an older copy.
const PEERS_FILE: &str = "peers";
/// Temporary name under which a new version of the file `peers` is written before it replaces the
/// old version.
const PEERS_FILE_NEW: &str = "peers.new";
const MAGIC: &[u8; 16] = b"bowline peers..\n";
const HEAD_BYTES: usize = 40;
const RECORD_BYTES: usize = 18;
/// Maximum number of peers recorded in the file `peers`. That is more than the members of a
/// cluster, because earlier members are recorded too. Beyond the maximum, the record that was
/// written first is dropped.
const RECORDS_MAX: usize = 256;
const _: () = assert!(RECORDS_MAX > 4 * REPLICAS_MAX);

/// Maximum number of starts that a peer's hello message may state. A larger number is implausible,
/// and is rejected: no replica can be started that often in a year.
const INCARNATION_MAX: u64 = 1 << 32;

/// The latest process start of a peer that this replica has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStart {
    /// Id of the peer.
    pub peer: NodeId,
    /// Number of times that the peer had been started, including the start that this record
    /// describes.
    pub incarnation: u64,
    /// Start id: the random number that the peer drew at this start; never zero.
    pub start_id: u64,
}

/// The list of a replica's latest process starts, which it sends to its peers in its hello message,
/// so that they detect an older copy of its folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartHistory<'a> {
    /// Total number of times that the replica has been started.
    pub incarnation: u64,
    /// Start ids (random numbers) of the replica's latest starts, newest last.
    pub start_ids: &'a [u64],
}

/// Reason why a peer's list of its latest process starts is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// The peer's hello message is malformed: the length of its list of starts does not match its
    /// number of starts, the last random number in the list is zero, or the number of starts is
    /// implausibly large.
    #[error(
        "its list of its own process starts is malformed: it lists {listed} of {incarnation} \
         starts"
    )]
    Incomplete {
        /// Number of starts in the list that the peer sent.
        listed: usize,
        /// Number of times that the peer has been started, according to its hello message.
        incarnation: u64,
    },
    /// The peer's list of its starts does not contain the latest start that this replica has
    /// recorded for the peer: the peer's folder was wiped or restored from an older copy, or
    /// another process runs on a copy of the folder.
    #[error(
        "it was known as incarnation {seen}, and incarnation {incarnation} has another list \
         of process starts: its folder was restored from an older copy or wiped and bootstrapped \
         again, or a copy of it is running"
    )]
    Other {
        /// Number of times that the peer had been started, according to this replica's latest
        /// record of the peer.
        seen: u64,
        /// Number of times that the peer has been started, according to its hello message.
        incarnation: u64,
    },
    /// The peer's list of its starts is too short to be checked: it begins after the latest start
    /// that this replica has recorded for the peer.
    #[error(
        "it was known as incarnation {seen}, and the list of process starts of incarnation \
         {incarnation} does not reach back that far"
    )]
    Forgotten {
        /// Number of times that the peer had been started, according to this replica's latest
        /// record of the peer.
        seen: u64,
        /// Number of times that the peer has been started, according to its hello message.
        incarnation: u64,
    },
}

impl StartHistory<'_> {
    /// Checks this list of process starts, which `peer` has sent: it must contain `seen`, the
    /// latest start that this replica has recorded for the peer. Returns the latest start in the
    /// list, which the caller must record. `kept` is the maximum length of such a list.
    ///
    /// # Errors
    /// If the list is malformed, does not contain `seen`, or is too short to reach back to it.
    pub fn check(
        &self,
        peer: NodeId,
        seen: Option<PeerStart>,
        kept: usize,
    ) -> Result<PeerStart, HistoryError> {
        let StartHistory { incarnation, start_ids } = *self;
        let latest = self.latest(peer, kept)?;
        let Some(seen) = seen else { return Ok(latest) };
        let seen_incarnation = seen.incarnation;
        assert!(seen.peer == peer, "the record of {} for {peer}", seen.peer);
        let Some(since) = incarnation.checked_sub(seen_incarnation) else {
            return Err(HistoryError::Other { seen: seen_incarnation, incarnation });
        };
        let since = usize::try_from(since).unwrap_or(usize::MAX);
        let Some(place) = (start_ids.len() - 1).checked_sub(since) else {
            return Err(HistoryError::Forgotten { seen: seen_incarnation, incarnation });
        };
        if start_ids[place] != seen.start_id || seen.start_id == 0 {
            return Err(HistoryError::Other { seen: seen_incarnation, incarnation });
        }
        assert!(latest.incarnation >= seen_incarnation, "{latest:?} before {seen:?}");
        Ok(latest)
    }

    /// Returns the latest start in this list of process starts, which `peer` has sent. Does not
    /// compare the list with an earlier record of the peer. `kept` is the maximum length of such a
    /// list.
    ///
    /// # Errors
    /// If the list is malformed.
    pub fn latest(&self, peer: NodeId, kept: usize) -> Result<PeerStart, HistoryError> {
        let StartHistory { incarnation, start_ids } = *self;
        assert!(kept > 0, "no start ids are kept");
        let listed = start_ids.len();
        let wanted = usize::try_from(incarnation).unwrap_or(usize::MAX).min(kept);
        match start_ids.last() {
            Some(&start_id)
                if start_id != 0 && listed == wanted && incarnation <= INCARNATION_MAX =>
            {
                Ok(PeerStart { peer, incarnation, start_id })
            }
            _ => Err(HistoryError::Incomplete { listed, incarnation }),
        }
    }
}

/// For each peer, the latest process start that this replica has seen, recorded durably in this
/// replica's folder. Used to detect a peer whose folder was wiped or restored from an older copy.
#[derive(Debug)]
pub struct PeerRecords<D: Disk> {
    disk: D,
    owner: Identity,
    records: Vec<PeerStart>,
    /// Whether the file `peers` must be rewritten because it differs from `records` in memory: its
    /// last write failed, or the file was found damaged.
    stale: bool,
    /// Reason why the contents of the file `peers` were ignored at the start; `None` if they were
    /// used or the file did not exist.
    damage: Option<StorageError>,
}

impl<D: Disk> PeerRecords<D> {
    /// Reads the records of peers' process starts from the folder of `owner`, this replica. Ignores
    /// the file if it is damaged, has another format or belongs to another replica;
    /// [`PeerRecords::damage`] returns the reason.
    ///
    /// # Errors
    /// If the file cannot be read, or an unfinished new version of it cannot be deleted.
    pub fn open(mut disk: D, owner: Identity) -> Result<PeerRecords<D>, StorageError> {
        let file = disk.describe(PEERS_FILE);
        let names = disk.list().map_err(io_error(&disk, "list", ""))?;
        if names.iter().any(|name| name == PEERS_FILE_NEW) {
            disk.delete(PEERS_FILE_NEW).map_err(io_error(&disk, "delete", PEERS_FILE_NEW))?;
        }
        let (mut records, mut damage) = (Vec::new(), None);
        if names.iter().any(|name| name == PEERS_FILE) {
            let bytes = disk.read(PEERS_FILE).map_err(io_error(&disk, "read", PEERS_FILE))?;
            match decode(&file, &bytes, &owner) {
                Ok(found) => records = found,
                Err(error) => damage = Some(error),
            }
        }
        let stale = damage.is_some();
        Ok(PeerRecords { disk, owner, records, stale, damage })
    }

    /// Returns the reason why the contents of the file `peers` were ignored at the start; `None` if
    /// they were used or the file did not exist.
    pub fn damage(&self) -> Option<&StorageError> {
        self.damage.as_ref()
    }

    /// Returns the latest recorded start of a peer; `None` if the peer has never connected, or if
    /// the records were lost.
    pub fn of(&self, peer: NodeId) -> Option<PeerStart> {
        if self.disk.mutant() == Some(Mutant::AcceptOldCopy) {
            return None;
        }
        self.records.iter().find(|record| record.peer == peer).copied()
    }

    /// Checks that `history`, the list of process starts that `peer` has sent, contains the latest
    /// start that this replica has recorded for the peer; see [`StartHistory::check`].
    ///
    /// # Errors
    /// If the list must be rejected.
    pub fn check(
        &self,
        peer: NodeId,
        history: StartHistory<'_>,
        kept: usize,
    ) -> Result<PeerStart, HistoryError> {
        match history.check(peer, self.of(peer), kept) {
            Err(HistoryError::Forgotten { .. })
                if self.disk.mutant() == Some(Mutant::ForgetOldStarts) =>
            {
                history.latest(peer, kept)
            }
            checked => checked,
        }
    }

    /// Durably records `new` as the latest known start of its peer, in place of the peer's earlier
    /// record.
    ///
    /// # Errors
    /// If the file cannot be written. If the disk is full, the record is kept in memory and written
    /// together with the next one; after any other error the process must exit.
    pub fn note(&mut self, new: PeerStart) -> Result<(), StorageError> {
        if self.of(new.peer) == Some(new) && !self.stale {
            return Ok(());
        }
        if std::mem::replace(&mut self.stale, true) {
            // The failed attempt may have left a temporary file.
            let _ = self.disk.delete(PEERS_FILE_NEW);
        }
        self.records.retain(|record| record.peer != new.peer);
        self.records.push(new);
        let excess = self.records.len().saturating_sub(RECORDS_MAX);
        self.records.drain(..excess);
        assert!(new.start_id != 0, "zero stands for an unknown start id");
        let bytes = self.encode();
        replace(&mut self.disk, PEERS_FILE, PEERS_FILE_NEW, &bytes)?;
        self.stale = false;
        Ok(())
    }

    fn encode(&self) -> Vec<u8> {
        let mut stream = Vec::new();
        stream.extend_from_slice(MAGIC);
        stream.extend_from_slice(&VERSION.to_le_bytes());
        stream.extend_from_slice(&self.owner.cluster.to_le_bytes());
        stream.extend_from_slice(&self.owner.replica.0.to_le_bytes());
        let count = u16::try_from(self.records.len()).expect("RECORDS_MAX is small");
        stream.extend_from_slice(&count.to_le_bytes());
        for record in &self.records {
            stream.extend_from_slice(&record.peer.0.to_le_bytes());
            stream.extend_from_slice(&record.incarnation.to_le_bytes());
            stream.extend_from_slice(&record.start_id.to_le_bytes());
        }
        let mut out = Vec::new();
        sector::seal(0, 0, 0, &stream, &mut out);
        out
    }
}

fn decode(file: &str, bytes: &[u8], owner: &Identity) -> Result<Vec<PeerStart>, StorageError> {
    let mut fields = header_fields(file, bytes, MAGIC)?;
    let damaged = |offset, what| StorageError::Damaged { file: file.to_owned(), offset, what };
    let cluster = u128::from_le_bytes(fields.take());
    check_owner(file, (cluster, NodeId(u16::from_le_bytes(fields.take()))), owner)?;
    let count = usize::from(u16::from_le_bytes(fields.take()));
    if count > RECORDS_MAX {
        return Err(damaged(0, format!("{count} peers, at most {RECORDS_MAX} fit")));
    }
    let sectors = sectors_for(HEAD_BYTES + count * RECORD_BYTES);
    if bytes.len() != sectors * SECTOR_BYTES {
        let what = format!("{} bytes instead of {sectors} sectors", bytes.len());
        return Err(damaged(bytes.len() as u64, what));
    }
    let mut stream = Vec::with_capacity(sectors * PAYLOAD_BYTES);
    for (number, bytes) in (0..).zip(bytes.chunks(SECTOR_BYTES)) {
        match sector::read(0, number, bytes) {
            Sector::Written { block: 0, payload } => stream.extend_from_slice(payload),
            _ => return Err(damaged(sector::offset_of(number), "a damaged sector".to_owned())),
        }
    }
    let mut fields = Fields::of(&stream[HEAD_BYTES..]);
    let records = (0..count).map(|_| PeerStart {
        peer: NodeId(u16::from_le_bytes(fields.take())),
        incarnation: u64::from_le_bytes(fields.take()),
        start_id: u64::from_le_bytes(fields.take()),
    });
    Ok(records.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemDisk;

    const OWNER: Identity = Identity { cluster: 9, replica: NodeId(1), incarnation: 4 };

    fn last_start(peer: u16, incarnation: u64, start_id: u64) -> PeerStart {
        PeerStart { peer: NodeId(peer), incarnation, start_id }
    }

    /// Number of starts that each replica keeps in its history in these tests.
    const KEPT: usize = 4;

    #[test]
    fn peer_hello_with_wrong_or_gapped_restart_history_is_rejected() {
        let seen = last_start(2, 5, 55);
        let other = |incarnation| Err(HistoryError::Other { seen: 5, incarnation });
        let incomplete =
            |listed, incarnation| Err(HistoryError::Incomplete { listed, incarnation });
        let later = |incarnation, start_id| Ok(last_start(2, incarnation, start_id));
        for (incarnation, start_ids, expected) in [
            (5, &[22, 33, 44, 55][..], later(5, 55)),
            (7, &[44, 55, 66, 77], later(7, 77)),
            (8, &[55, 66, 77, 88], later(8, 88)),
            // Restored from a copy, or bootstrapped again: any count, and other numbers.
            (1, &[11], other(1)),
            (4, &[12, 22, 33, 44], other(4)),
            (5, &[22, 33, 44, 54], other(5)),
            (6, &[33, 44, 54, 66], other(6)),
            // The list does not reach back to the known start id.
            (9, &[66, 77, 88, 99], Err(HistoryError::Forgotten { seen: 5, incarnation: 9 })),
            (60, &[6, 7, 8, 9], Err(HistoryError::Forgotten { seen: 5, incarnation: 60 })),
            // The list must be complete.
            (0, &[], incomplete(0, 0)),
            (5, &[], incomplete(0, 5)),
            (5, &[44, 55], incomplete(2, 5)),
            (3, &[33, 44, 55, 66], incomplete(4, 3)),
            (9, &[55, 66, 77, 88, 99], incomplete(5, 9)),
            (7, &[44, 55, 66, 0], incomplete(4, 7)),
            (u64::MAX, &[1, 2, 3, 4], incomplete(4, u64::MAX)),
        ] {
            let history = StartHistory { incarnation, start_ids };
            let found = history.check(NodeId(2), Some(seen), KEPT);
            assert_eq!(found, expected, "incarnation {incarnation}, {start_ids:?}");
        }
    }

    #[test]
    fn starts_of_more_peers_than_a_cluster_has_are_kept() {
        let mut disk = MemDisk::default();
        let mut records = PeerRecords::open(&mut disk, OWNER).unwrap();
        let last = u16::try_from(RECORDS_MAX).unwrap() + 3;
        for peer in 1..=last {
            records.note(last_start(peer, 1, peer.into())).unwrap();
        }
        drop(records);
        let records = PeerRecords::open(&mut disk, OWNER).unwrap();
        assert!(records.damage().is_none(), "{:?}", records.damage());
        assert_eq!(records.of(NodeId(3)), None, "the first ones are dropped");
        for peer in 4..=last {
            assert_eq!(records.of(NodeId(peer)), Some(last_start(peer, 1, peer.into())));
        }
        // A flipped bit in any sector is noticed.
        let bytes = disk.read(PEERS_FILE).unwrap();
        for sector in 0..bytes.len() / SECTOR_BYTES {
            let mut flipped = bytes.clone();
            flipped[sector * SECTOR_BYTES + 40] ^= 1;
            assert!(decode(PEERS_FILE, &flipped, &OWNER).is_err(), "sector {sector}");
        }
        assert!(decode(PEERS_FILE, &bytes[..bytes.len() - SECTOR_BYTES], &OWNER).is_err());
    }

    #[test]
    fn first_peer_hello_with_short_restart_history_is_rejected() {
        let check = |incarnation, start_ids| {
            StartHistory { incarnation, start_ids }.check(NodeId(2), None, KEPT)
        };
        assert_eq!(check(2, &[8, 9]), Ok(last_start(2, 2, 9)));
        assert_eq!(check(6, &[6, 7, 8, 9]), Ok(last_start(2, 6, 9)));
        for (incarnation, start_ids) in
            [(2, &[9][..]), (6, &[8, 9]), (i64::MAX.unsigned_abs(), &[6, 7, 8, 9])]
        {
            let listed = start_ids.len();
            let expected = Err(HistoryError::Incomplete { listed, incarnation });
            assert_eq!(check(incarnation, start_ids), expected);
        }
    }

    #[test]
    fn peer_restart_history_with_a_zero_id_never_matches() {
        let history = StartHistory { incarnation: 3, start_ids: &[0, 8, 9] };
        let seen = Some(last_start(2, 1, 0));
        let expected = Err(HistoryError::Other { seen: 1, incarnation: 3 });
        assert_eq!(history.check(NodeId(2), seen, KEPT), expected);
    }

    #[test]
    fn peer_restart_records_survive_a_power_cut_at_any_operation() {
        let mut cuts = 0;
        loop {
            let mut disk = MemDisk::default();
            PeerRecords::open(&mut disk, OWNER).unwrap().note(last_start(2, 1, 10)).unwrap();
            disk.power_cut_in(cuts);
            let mut records = PeerRecords::open(&mut disk, OWNER).unwrap();
            let outcome = records
                .note(last_start(3, 1, 11))
                .and_then(|()| records.note(last_start(2, 2, 12)));
            disk.restart(&mut |states| usize::try_from(cuts).unwrap() % states);
            // Unfinished files are no obstacle.
            let mut records = PeerRecords::open(&mut disk, OWNER).unwrap();
            let of_two = records.of(NodeId(2));
            assert!(of_two == Some(last_start(2, 1, 10)) || of_two == Some(last_start(2, 2, 12)));
            records.note(last_start(3, 9, 13)).unwrap();
            if outcome.is_ok() {
                assert_eq!(of_two, Some(last_start(2, 2, 12)));
                break;
            }
            cuts += 1;
        }
        assert!(cuts >= 10, "only {cuts} operations");
    }

    #[test]
    fn full_disk_keeps_peer_restart_records_in_memory_until_writable() {
        let mut disk = MemDisk::default();
        let mut records = PeerRecords::open(&mut disk, OWNER).unwrap();
        records.note(last_start(2, 1, 10)).unwrap();
        records.disk.set_capacity(Some(600));
        for _ in 0..2 {
            let error = records.note(last_start(2, 2, 11)).unwrap_err();
            assert!(error.is_disk_full(), "{error}");
        }
        assert_eq!(records.of(NodeId(2)), Some(last_start(2, 2, 11)));
        records.disk.set_capacity(None);
        // A temporary file of a failed attempt is no obstacle.
        records.disk.create(PEERS_FILE_NEW, 100).unwrap();
        records.note(last_start(2, 2, 11)).unwrap();
        let records = PeerRecords::open(&mut disk, OWNER).unwrap();
        assert_eq!(records.of(NodeId(2)), Some(last_start(2, 2, 11)));
    }

    #[test]
    fn damaged_or_foreign_peer_restart_records_are_rebuilt() {
        let mut disk = MemDisk::default();
        PeerRecords::open(&mut disk, OWNER).unwrap().note(last_start(2, 1, 10)).unwrap();
        let whole = disk.read(PEERS_FILE).unwrap();
        for bit in 0..whole.len() * 8 {
            disk.tamper(PEERS_FILE, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            let mut records = PeerRecords::open(&mut disk, OWNER).unwrap();
            let damage = records.damage().map(StorageError::to_string).unwrap_or_default();
            assert!(damage.contains("peers is damaged at byte 0"), "bit {bit}: {damage}");
            assert_eq!(records.of(NodeId(2)), None);
            // The same start id is written again.
            records.note(last_start(2, 1, 10)).unwrap();
            assert_eq!(disk.read(PEERS_FILE).unwrap(), whole, "bit {bit}");
        }
        let other = Identity { replica: NodeId(7), ..OWNER };
        let records = PeerRecords::open(&mut disk, other).unwrap();
        assert!(matches!(records.damage(), Some(StorageError::OtherReplica { .. })));
        assert_eq!(records.of(NodeId(2)), None);
        let records = PeerRecords::open(&mut disk, OWNER).unwrap();
        assert!(records.damage().is_none());
        assert_eq!(records.of(NodeId(3)), None);
    }
}
