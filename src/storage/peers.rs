//! Which openings of other replicas this one has heard: so that one whose folder was put back from
//! an older copy, and has forgotten what it vouched for, is not taken for itself (safety.md D6).
//! Kept in a file, for a restart must not forget it. The network stage writes it, when a peer calls
//! that has started anew, before anything that peer says is believed.
//!
//! ```text
//!  payload of the only sector, the rest zeros
//!  +--------+---------+---------+---------+-------+-----------------------------------+
//!  | magic  | version | cluster | replica | count | peer, incarnation, its number ..  |
//!  |   16   |    4    |   16    |    2    |   2   |  2 + 8 + 8 each                   |
//!  +--------+---------+---------+---------+-------+-----------------------------------+
//! ```
//!
//! What it can't do: a peer that was down or cut off while the lost openings ran has never heard of
//! them. If such peers and the old copy are a majority by themselves, nobody is there to object.

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

/// The latest that was heard of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// The peer.
    pub peer: NodeId,
    /// How often its log had been opened.
    pub incarnation: u64,
    /// What the last of these openings drew; see [`super::Log::openings`].
    pub opening: u64,
}

impl Sighting {
    /// Whether a replica whose log was opened `incarnation` times, the last times with the numbers
    /// `openings`, can be the one that was seen, or that one later. What lies further back than the
    /// numbers go is believed.
    pub fn can_become(&self, incarnation: u64, openings: &[u64]) -> bool {
        let Some(since) = incarnation.checked_sub(self.incarnation) else { return false };
        let place = usize::try_from(since).ok().and_then(|since| openings.len().checked_sub(since));
        match place.and_then(|place| place.checked_sub(1)) {
            Some(place) => openings[place] == self.opening,
            None => true,
        }
    }
}

/// The notes of one replica about its peers, in its folder.
#[derive(Debug)]
pub struct PeerNotes<D: Disk> {
    disk: D,
    owner: Identity,
    sightings: Vec<Sighting>,
    /// The file says less: it could not be written.
    behind: bool,
}

impl<D: Disk> PeerNotes<D> {
    /// Reads what was noted in the folder whose log is open as `owner`.
    ///
    /// # Errors
    /// If the notes are damaged or another's, or can't be read.
    pub fn open(mut disk: D, owner: Identity) -> Result<PeerNotes<D>, StorageError> {
        let file = disk.describe(PEERS_FILE);
        let io = |doing| {
            let file = file.clone();
            move |source| StorageError::Io { doing, file, source }
        };
        let names = disk.list().map_err(io("looking for"))?;
        if names.iter().any(|name| name == PEERS_FILE_NEW) {
            disk.delete(PEERS_FILE_NEW).map_err(io("deleting an unfinished"))?;
        }
        let mut sightings = Vec::new();
        if names.iter().any(|name| name == PEERS_FILE) {
            let bytes = disk.read(PEERS_FILE).map_err(io("reading"))?;
            sightings = decode(&file, &bytes, &owner)?;
        }
        Ok(PeerNotes { disk, owner, sightings, behind: false })
    }

    /// What is known of a peer, if it has ever called.
    pub fn of(&self, peer: NodeId) -> Option<Sighting> {
        if self.disk.mutant() == Some(Mutant::BelieveOldCopy) {
            return None;
        }
        self.sightings.iter().find(|sighting| sighting.peer == peer).copied()
    }

    /// Makes durable what was heard of a peer, in place of what was known.
    ///
    /// # Errors
    /// If it can't be written. Where there was only no room for it, it is remembered all the same,
    /// and written with the next note; after anything else the process must end.
    pub fn note(&mut self, new: Sighting) -> Result<(), StorageError> {
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

fn decode(file: &str, bytes: &[u8], owner: &Identity) -> Result<Vec<Sighting>, StorageError> {
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
    let sightings = (0..count).map(|_| Sighting {
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

    fn sighting(peer: u16, incarnation: u64, opening: u64) -> Sighting {
        Sighting { peer: NodeId(peer), incarnation, opening }
    }

    #[test]
    fn only_what_a_replica_was_can_become_it() {
        let seen = sighting(2, 5, 55);
        for (incarnation, openings, expected) in [
            (5, &[44, 55][..], true),
            (7, &[44, 55, 66, 77], true),
            // Put back from a copy: it counts as far, or further, and drew other numbers.
            (4, &[33, 44], false),
            (5, &[44, 54], false),
            (6, &[44, 54, 66], false),
            // Further back than its memory goes.
            (8, &[66, 77, 88], true),
            (5, &[], true),
            (u64::MAX, &[1], true),
        ] {
            assert_eq!(seen.can_become(incarnation, openings), expected, "{incarnation}");
        }
    }

    #[test]
    fn notes_survive_a_power_cut_at_any_operation() {
        let mut cuts = 0;
        loop {
            let mut disk = MemDisk::default();
            PeerNotes::open(&mut disk, OWNER).unwrap().note(sighting(2, 1, 10)).unwrap();
            disk.cut_in(cuts);
            let mut notes = PeerNotes::open(&mut disk, OWNER).unwrap();
            let outcome =
                notes.note(sighting(3, 1, 11)).and_then(|()| notes.note(sighting(2, 2, 12)));
            disk.restart(&mut |states| usize::try_from(cuts).unwrap() % states);
            // Whatever was left unfinished is in nobody's way.
            let mut notes = PeerNotes::open(&mut disk, OWNER).unwrap();
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
        let mut notes = PeerNotes::open(&mut disk, OWNER).unwrap();
        notes.note(sighting(2, 1, 10)).unwrap();
        notes.disk.set_capacity(Some(600));
        for _ in 0..2 {
            let error = notes.note(sighting(2, 2, 11)).unwrap_err();
            assert!(error.is_no_room(), "{error}");
        }
        assert_eq!(notes.of(NodeId(2)), Some(sighting(2, 2, 11)));
        notes.disk.set_capacity(None);
        // A name that a failed attempt has left is in nobody's way.
        notes.disk.create(PEERS_FILE_NEW, 100).unwrap();
        notes.note(sighting(2, 2, 11)).unwrap();
        let notes = PeerNotes::open(&mut disk, OWNER).unwrap();
        assert_eq!(notes.of(NodeId(2)), Some(sighting(2, 2, 11)));
    }

    #[test]
    fn damaged_or_foreign_notes_are_refused_by_name() {
        let mut disk = MemDisk::default();
        PeerNotes::open(&mut disk, OWNER).unwrap().note(sighting(2, 1, 10)).unwrap();
        for bit in 0..disk.read(PEERS_FILE).unwrap().len() * 8 {
            let flip = |bytes: &mut Vec<u8>| bytes[bit / 8] ^= 1 << (bit % 8);
            disk.tamper(PEERS_FILE, flip);
            let error = PeerNotes::open(&mut disk, OWNER).unwrap_err().to_string();
            assert!(error.contains("peers is damaged at byte 0"), "bit {bit}: {error}");
            disk.tamper(PEERS_FILE, flip);
        }
        let other = Identity { replica: NodeId(7), ..OWNER };
        let error = PeerNotes::open(&mut disk, other).unwrap_err();
        assert!(matches!(error, StorageError::OtherReplica { .. }), "{error}");
        assert_eq!(PeerNotes::open(&mut disk, OWNER).unwrap().of(NodeId(3)), None);
    }
}
