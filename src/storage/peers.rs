//! Which opening of each other replica this one has heard last, so that a replica whose folder was
//! restored from an older copy or wiped, and which has forgotten what it acknowledged, is not taken
//! for itself. Kept in a file, for a restart must not forget it. The network stage writes it when a
//! peer calls that has started anew, before anything that peer says is believed.
//!
//! ```text
//!  payload of the only sector, the rest zeros
//!  +--------+---------+---------+---------+-------+-----------------------------------+
//!  | magic  | version | cluster | replica | count | peer, incarnation, its number ..  |
//!  |   16   |    4    |   16    |    2    |   2   |  2 + 8 + 8 each                   |
//!  +--------+---------+---------+---------+-------+-----------------------------------+
//! ```
//!
//! The file is a cache: without it the log is whole. If it is damaged or of another format it is
//! rebuilt as the peers call.
//!
//! Limits: a peer that was down or cut off while the lost openings ran has never heard of them, and
//! neither has one that has lost this file. If such peers and the old copy are a majority by
//! themselves, nobody is there to object.

use crate::config::Mutant;
use crate::types::NodeId;

use super::Identity;
use super::disk::Disk;
use super::error::StorageError;
use super::meta::replace;
use super::sector::{self, PAYLOAD_BYTES, SECTOR_BYTES};
use super::segment::{VERSION, check_owner, header_fields};

/// Its name.
const PEERS_FILE: &str = "peers";
/// Its name while it is written.
const PEERS_FILE_NEW: &str = "peers.new";
const MAGIC: &[u8; 16] = b"bowline peers..\n";
const HEAD_BYTES: usize = 40;
const SIGHTING_BYTES: usize = 18;
/// As many as fit in a sector; far more than a cluster has.
const SIGHTINGS_MAX: usize = (PAYLOAD_BYTES - HEAD_BYTES) / SIGHTING_BYTES;

/// Most openings that a replica can have counted: more than can be made in a year.
const INCARNATION_MAX: u64 = 1 << 32;

/// The opening of a peer that was heard last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerOpening {
    /// The peer.
    pub peer: NodeId,
    /// How often its log had been opened.
    pub incarnation: u64,
    /// The random number of the last of these openings; see [`super::Log::openings`].
    pub opening: u64,
}

/// What a replica says of its own past when it connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpeningHistory<'a> {
    /// How often its log was opened.
    pub incarnation: u64,
    /// The random numbers of the latest openings, the newest last.
    pub openings: &'a [u64],
}

/// Why a replica's history is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// The list of openings is not as long as it must be, or more openings than possible.
    #[error("it lists {listed} of its {incarnation} openings")]
    Incomplete {
        /// How many are listed.
        listed: usize,
        /// How many there are said to be.
        incarnation: u64,
    },
    /// It is not the replica that was heard before, nor that one later.
    #[error(
        "it was heard before as incarnation {seen}, and incarnation {incarnation} is another \
         history: its folder was restored from an older copy, wiped and bootstrapped again, or a \
         copy of it is running"
    )]
    Other {
        /// The incarnation that was heard last.
        seen: u64,
        /// The one that it says it is.
        incarnation: u64,
    },
    /// What was heard of it lies further back than its list of openings goes.
    #[error(
        "it was heard last as incarnation {seen}, and incarnation {incarnation} does not remember \
         that far back"
    )]
    Forgotten {
        /// The incarnation that was heard last.
        seen: u64,
        /// The one that it says it is.
        incarnation: u64,
    },
}

impl OpeningHistory<'_> {
    /// Whether `peer`, of which `seen` was heard last, may have this history. Gives what is to be
    /// remembered of it. Every replica remembers its latest `kept` openings.
    ///
    /// Fails closed: what lies further back than the list goes can't be checked, so it is not
    /// believed.
    ///
    /// # Errors
    /// If it is not the one that was seen, nor that one later.
    pub fn check(
        &self,
        peer: NodeId,
        seen: Option<PeerOpening>,
        kept: usize,
    ) -> Result<PeerOpening, HistoryError> {
        let OpeningHistory { incarnation, openings } = *self;
        let sighting = self.latest(peer, kept)?;
        let Some(seen) = seen else { return Ok(sighting) };
        let seen_incarnation = seen.incarnation;
        let Some(since) = incarnation.checked_sub(seen_incarnation) else {
            return Err(HistoryError::Other { seen: seen_incarnation, incarnation });
        };
        let since = usize::try_from(since).unwrap_or(usize::MAX);
        let Some(place) = (openings.len() - 1).checked_sub(since) else {
            return Err(HistoryError::Forgotten { seen: seen_incarnation, incarnation });
        };
        if openings[place] != seen.opening || seen.opening == 0 {
            return Err(HistoryError::Other { seen: seen_incarnation, incarnation });
        }
        Ok(sighting)
    }

    /// The sighting of a peer with this history, whatever was heard of it before.
    ///
    /// # Errors
    /// If the history is not complete.
    pub fn latest(&self, peer: NodeId, kept: usize) -> Result<PeerOpening, HistoryError> {
        let OpeningHistory { incarnation, openings } = *self;
        let listed = openings.len();
        let wanted = usize::try_from(incarnation).unwrap_or(usize::MAX).min(kept);
        match openings.last() {
            Some(&opening)
                if opening != 0 && listed == wanted && incarnation <= INCARNATION_MAX =>
            {
                Ok(PeerOpening { peer, incarnation, opening })
            }
            _ => Err(HistoryError::Incomplete { listed, incarnation }),
        }
    }
}

/// The notes of one replica about its peers, in its folder.
#[derive(Debug)]
pub struct PeerRecords<D: Disk> {
    disk: D,
    owner: Identity,
    sightings: Vec<PeerOpening>,
    /// The file says less: it could not be written, or was damaged.
    behind: bool,
    /// Why the file that was there is not used.
    damage: Option<StorageError>,
}

impl<D: Disk> PeerRecords<D> {
    /// Reads what was noted in the folder whose log is open as `owner`. Notes that are damaged, of
    /// another format or another replica's count for nothing; [`PeerRecords::damage`] has the
    /// reason.
    ///
    /// # Errors
    /// If they can't be read, or the folder can't be written.
    pub fn open(mut disk: D, owner: Identity) -> Result<PeerRecords<D>, StorageError> {
        let file = disk.describe(PEERS_FILE);
        let io = |doing| {
            let file = file.clone();
            move |source| StorageError::Io { doing, file, source }
        };
        let names = disk.list().map_err(io("looking for"))?;
        if names.iter().any(|name| name == PEERS_FILE_NEW) {
            disk.delete(PEERS_FILE_NEW).map_err(io("deleting an unfinished"))?;
        }
        let (mut sightings, mut damage) = (Vec::new(), None);
        if names.iter().any(|name| name == PEERS_FILE) {
            let bytes = disk.read(PEERS_FILE).map_err(io("reading"))?;
            match decode(&file, &bytes, &owner) {
                Ok(found) => sightings = found,
                Err(error) => damage = Some(error),
            }
        }
        let behind = damage.is_some();
        Ok(PeerRecords { disk, owner, sightings, behind, damage })
    }

    /// Why the notes that were found in the folder are not used, if they are not.
    pub fn damage(&self) -> Option<&StorageError> {
        self.damage.as_ref()
    }

    /// What is known of a peer, if it has ever called.
    pub fn of(&self, peer: NodeId) -> Option<PeerOpening> {
        if self.disk.mutant() == Some(Mutant::AcceptOldCopy) {
            return None;
        }
        self.sightings.iter().find(|sighting| sighting.peer == peer).copied()
    }

    /// Whether a peer may have this history; see [`OpeningHistory::check`].
    ///
    /// # Errors
    /// If it must not be believed.
    pub fn check(
        &self,
        peer: NodeId,
        history: OpeningHistory<'_>,
        kept: usize,
    ) -> Result<PeerOpening, HistoryError> {
        match history.check(peer, self.of(peer), kept) {
            Err(HistoryError::Forgotten { .. })
                if self.disk.mutant() == Some(Mutant::ForgetOldOpenings) =>
            {
                history.latest(peer, kept)
            }
            checked => checked,
        }
    }

    /// Makes durable what was heard of a peer, in place of what was known.
    ///
    /// # Errors
    /// If it can't be written. Where there was only no room for it, it is remembered all the same,
    /// and written with the next note; after anything else the process must end.
    pub fn note(&mut self, new: PeerOpening) -> Result<(), StorageError> {
        if self.of(new.peer) == Some(new) && !self.behind {
            return Ok(());
        }
        if std::mem::replace(&mut self.behind, true) {
            // Left by the attempt that failed, if that came so far.
            let _ = self.disk.delete(PEERS_FILE_NEW);
        }
        self.sightings.retain(|sighting| sighting.peer != new.peer);
        self.sightings.push(new);
        assert!(self.sightings.len() <= SIGHTINGS_MAX, "{} peers", self.sightings.len());
        let bytes = self.encode();
        replace(&mut self.disk, PEERS_FILE, PEERS_FILE_NEW, &bytes)?;
        self.behind = false;
        Ok(())
    }

    fn encode(&self) -> Vec<u8> {
        let mut stream = Vec::new();
        stream.extend_from_slice(MAGIC);
        stream.extend_from_slice(&VERSION.to_le_bytes());
        stream.extend_from_slice(&self.owner.cluster.to_le_bytes());
        stream.extend_from_slice(&self.owner.replica.0.to_le_bytes());
        let count = u16::try_from(self.sightings.len()).expect("they fit in a sector");
        stream.extend_from_slice(&count.to_le_bytes());
        for sighting in &self.sightings {
            stream.extend_from_slice(&sighting.peer.0.to_le_bytes());
            stream.extend_from_slice(&sighting.incarnation.to_le_bytes());
            stream.extend_from_slice(&sighting.opening.to_le_bytes());
        }
        let mut out = Vec::with_capacity(SECTOR_BYTES);
        sector::seal(0, 0, 0, &stream, &mut out);
        out
    }
}

fn decode(file: &str, bytes: &[u8], owner: &Identity) -> Result<Vec<PeerOpening>, StorageError> {
    let mut fields = header_fields(file, bytes, MAGIC)?;
    let damaged = |offset, what| StorageError::Damaged { file: file.to_owned(), offset, what };
    if bytes.len() != SECTOR_BYTES {
        let what = format!("{} bytes where {SECTOR_BYTES} belong", bytes.len());
        return Err(damaged(SECTOR_BYTES as u64, what));
    }
    let cluster = u128::from_le_bytes(fields.take());
    check_owner(file, (cluster, NodeId(u16::from_le_bytes(fields.take()))), owner)?;
    let count = usize::from(u16::from_le_bytes(fields.take()));
    if count > SIGHTINGS_MAX {
        return Err(damaged(0, format!("{count} peers where {SIGHTINGS_MAX} fit")));
    }
    let sightings = (0..count).map(|_| PeerOpening {
        peer: NodeId(u16::from_le_bytes(fields.take())),
        incarnation: u64::from_le_bytes(fields.take()),
        opening: u64::from_le_bytes(fields.take()),
    });
    Ok(sightings.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemDisk;

    const OWNER: Identity = Identity { cluster: 9, replica: NodeId(1), incarnation: 4 };

    fn sighting(peer: u16, incarnation: u64, opening: u64) -> PeerOpening {
        PeerOpening { peer: NodeId(peer), incarnation, opening }
    }

    /// What each replica remembers in these tests.
    const KEPT: usize = 4;

    #[test]
    fn only_a_complete_history_of_the_same_replica_is_believed() {
        let seen = sighting(2, 5, 55);
        let other = |incarnation| Err(HistoryError::Other { seen: 5, incarnation });
        let incomplete =
            |listed, incarnation| Err(HistoryError::Incomplete { listed, incarnation });
        let later = |incarnation, opening| Ok(sighting(2, incarnation, opening));
        for (incarnation, openings, expected) in [
            (5, &[22, 33, 44, 55][..], later(5, 55)),
            (7, &[44, 55, 66, 77], later(7, 77)),
            (8, &[55, 66, 77, 88], later(8, 88)),
            // Restored from a copy, or bootstrapped again: it counts as far, or further, and drew
            // other numbers.
            (1, &[11], other(1)),
            (4, &[12, 22, 33, 44], other(4)),
            (5, &[22, 33, 44, 54], other(5)),
            (6, &[33, 44, 54, 66], other(6)),
            // The opening that was seen lies further back than the list goes.
            (9, &[66, 77, 88, 99], Err(HistoryError::Forgotten { seen: 5, incarnation: 9 })),
            (60, &[6, 7, 8, 9], Err(HistoryError::Forgotten { seen: 5, incarnation: 60 })),
            // The list must be complete as far as anything is remembered.
            (0, &[], incomplete(0, 0)),
            (5, &[], incomplete(0, 5)),
            (5, &[44, 55], incomplete(2, 5)),
            (3, &[33, 44, 55, 66], incomplete(4, 3)),
            (9, &[55, 66, 77, 88, 99], incomplete(5, 9)),
            (7, &[44, 55, 66, 0], incomplete(4, 7)),
            (u64::MAX, &[1, 2, 3, 4], incomplete(4, u64::MAX)),
        ] {
            let history = OpeningHistory { incarnation, openings };
            let found = history.check(NodeId(2), Some(seen), KEPT);
            assert_eq!(found, expected, "incarnation {incarnation}, {openings:?}");
        }
    }

    #[test]
    fn first_hello_with_impossible_history_is_not_believed() {
        let check = |incarnation, openings| {
            OpeningHistory { incarnation, openings }.check(NodeId(2), None, KEPT)
        };
        assert_eq!(check(2, &[8, 9]), Ok(sighting(2, 2, 9)));
        assert_eq!(check(6, &[6, 7, 8, 9]), Ok(sighting(2, 6, 9)));
        for (incarnation, openings) in
            [(2, &[9][..]), (6, &[8, 9]), (i64::MAX.unsigned_abs(), &[6, 7, 8, 9])]
        {
            let listed = openings.len();
            let expected = Err(HistoryError::Incomplete { listed, incarnation });
            assert_eq!(check(incarnation, openings), expected);
        }
    }

    #[test]
    fn opening_that_is_not_known_any_more_matches_nothing() {
        let history = OpeningHistory { incarnation: 3, openings: &[0, 8, 9] };
        let seen = Some(sighting(2, 1, 0));
        let expected = Err(HistoryError::Other { seen: 1, incarnation: 3 });
        assert_eq!(history.check(NodeId(2), seen, KEPT), expected);
    }

    #[test]
    fn notes_survive_a_power_cut_at_any_operation() {
        let mut cuts = 0;
        loop {
            let mut disk = MemDisk::default();
            PeerRecords::open(&mut disk, OWNER).unwrap().note(sighting(2, 1, 10)).unwrap();
            disk.power_cut_in(cuts);
            let mut notes = PeerRecords::open(&mut disk, OWNER).unwrap();
            let outcome =
                notes.note(sighting(3, 1, 11)).and_then(|()| notes.note(sighting(2, 2, 12)));
            disk.restart(&mut |states| usize::try_from(cuts).unwrap() % states);
            // Whatever was left unfinished is in nobody's way.
            let mut notes = PeerRecords::open(&mut disk, OWNER).unwrap();
            let of_two = notes.of(NodeId(2));
            assert!(of_two == Some(sighting(2, 1, 10)) || of_two == Some(sighting(2, 2, 12)));
            notes.note(sighting(3, 9, 13)).unwrap();
            if outcome.is_ok() {
                assert_eq!(of_two, Some(sighting(2, 2, 12)));
                break;
            }
            cuts += 1;
        }
        assert!(cuts >= 10, "only {cuts} operations");
    }

    #[test]
    fn without_room_notes_are_kept_in_memory_and_written_later() {
        let mut disk = MemDisk::default();
        let mut notes = PeerRecords::open(&mut disk, OWNER).unwrap();
        notes.note(sighting(2, 1, 10)).unwrap();
        notes.disk.set_capacity(Some(600));
        for _ in 0..2 {
            let error = notes.note(sighting(2, 2, 11)).unwrap_err();
            assert!(error.is_disk_full(), "{error}");
        }
        assert_eq!(notes.of(NodeId(2)), Some(sighting(2, 2, 11)));
        notes.disk.set_capacity(None);
        // A name that a failed attempt has left is in nobody's way.
        notes.disk.create(PEERS_FILE_NEW, 100).unwrap();
        notes.note(sighting(2, 2, 11)).unwrap();
        let notes = PeerRecords::open(&mut disk, OWNER).unwrap();
        assert_eq!(notes.of(NodeId(2)), Some(sighting(2, 2, 11)));
    }

    #[test]
    fn damaged_or_foreign_notes_are_rebuilt_from_nothing() {
        let mut disk = MemDisk::default();
        PeerRecords::open(&mut disk, OWNER).unwrap().note(sighting(2, 1, 10)).unwrap();
        let whole = disk.read(PEERS_FILE).unwrap();
        for bit in 0..whole.len() * 8 {
            disk.tamper(PEERS_FILE, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            let mut notes = PeerRecords::open(&mut disk, OWNER).unwrap();
            let damage = notes.damage().map(StorageError::to_string).unwrap_or_default();
            assert!(damage.contains("peers is damaged at byte 0"), "bit {bit}: {damage}");
            assert_eq!(notes.of(NodeId(2)), None);
            // The same opening is written again, though it is what the file said once.
            notes.note(sighting(2, 1, 10)).unwrap();
            assert_eq!(disk.read(PEERS_FILE).unwrap(), whole, "bit {bit}");
        }
        let other = Identity { replica: NodeId(7), ..OWNER };
        let notes = PeerRecords::open(&mut disk, other).unwrap();
        assert!(matches!(notes.damage(), Some(StorageError::OtherReplica { .. })));
        assert_eq!(notes.of(NodeId(2)), None);
        let notes = PeerRecords::open(&mut disk, OWNER).unwrap();
        assert!(notes.damage().is_none());
        assert_eq!(notes.of(NodeId(3)), None);
    }
}
