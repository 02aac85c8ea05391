//! What goes wrong with a folder at rest: bits that flip, writes that are gone or somewhere else
//! though their sync had returned, files that vanish, and older copies that are put back. All of it
//! in a way that must be noticed; what nothing can notice is not done: the very last block lost,
//! for nothing can tell whether its sync had returned, and a leader's snapshot gone as a whole
//! before the log has followed it.

use super::{Files, Found, OPENINGS_KEPT, open_folder};
use crate::sim::disk::statistics::{DiskFault, FaultEffect};
use crate::sim::rng::Rng;
use crate::storage::mem_disk::SECTOR_BYTES;
use crate::storage::{
    Disk as _, Identity, MemDisk, OpeningHistory, PeerRecords, SharedDisk, StorageError,
};
use crate::types::NodeId;

/// Damage that was done.
#[derive(Debug)]
pub(super) struct Damage {
    /// What, in words.
    pub(super) what: String,
    /// In the log or in both copies of the meta record, which are always read: so it must be
    /// refused. Damage to one copy of the meta record is repaired, and damaged notes are rebuilt.
    pub(super) in_log: bool,
    /// In the latest snapshot: so that must be found damaged, or all be refused.
    pub(super) in_latest: bool,
}

/// An older copy of the folder that was put back and opened.
#[derive(Debug)]
pub(in crate::sim) struct Ghost {
    /// How often the folder had been opened when the copy was made.
    pub(in crate::sim) copied_at: u64,
    /// What its hello says.
    pub(in crate::sim) incarnation: u64,
    pub(in crate::sim) openings: Vec<u64>,
}

impl Files {
    /// Puts back what was damaged, as an operator may do who has the file from this very disk, and
    /// whose replica does not start. One that runs has to help itself.
    pub(in crate::sim) fn restore(&mut self) {
        if self.process.is_some() {
            return;
        }
        for (name, bytes) in std::mem::take(&mut self.undamaged) {
            self.folder.disk().replace(&name, Some(bytes));
        }
        if std::mem::take(&mut self.is_refused) {
            for &kind in self.since.iter().filter(|kind| kind.is_damage()) {
                self.statistics.cause(kind, FaultEffect::Restored);
            }
            self.since.retain(|kind| !kind.is_damage());
        }
    }

    fn read(&self, name: &str) -> Vec<u8> {
        self.folder.read(name).expect("memory does not fail")
    }

    /// Remembers a file as it is, unless it was damaged before.
    fn keep_undamaged(&mut self, name: &str) {
        if !self.undamaged.iter().any(|(known, _)| known == name) {
            self.undamaged.push((name.to_owned(), self.read(name)));
        }
    }

    /// The folder was opened: what was damaged did no harm, and is gone or never read again. But
    /// for a snapshot that was passed over, which lies there as it is.
    pub(super) fn forget_undamaged(&mut self) {
        let names = self.folder.list().expect("memory does not fail");
        let mut undamaged = std::mem::take(&mut self.undamaged);
        undamaged.retain(|(name, bytes)| {
            is_snapshot(name) && names.contains(name) && self.read(name) != *bytes
        });
        self.undamaged = undamaged;
    }

    fn is_undamaged(&self, name: &str) -> bool {
        let before = self.undamaged.iter().find(|(known, _)| known == name);
        before.is_none_or(|(_, bytes)| *bytes == self.read(name))
    }

    fn tamper(&mut self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        self.keep_undamaged(name);
        self.folder.disk().tamper(name, change);
    }

    fn harm(&mut self, kind: DiskFault) {
        self.statistics.inject(kind, 1);
        self.note(kind);
    }

    /// Damages the files of a replica that is down.
    pub(super) fn rot(&mut self, log_holds_latest: bool, rng: &mut Rng) -> Option<Damage> {
        let names = self.names_that_count();
        let name = rng.pick(&names).clone();
        let latest = names.iter().filter(|name| is_snapshot(name)).max();
        let in_latest =
            |places: &[&str]| places.iter().any(|name| Some(*name) == latest.map(String::as_str));
        let bytes = self.read(&name);
        match rng.below(10) {
            0..4 => {
                let bit = rng.place(bytes.len() * 8);
                self.tamper(&name, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
                self.harm(DiskFault::FlippedBit);
                let in_log = self.is_damage_to_log(&name);
                let what = format!("bit {bit} of {name}, flipped,");
                return Some(Damage { what, in_log, in_latest: in_latest(&[&name]) });
            }
            4 if !is_snapshot(&name) || log_holds_latest => {
                // Of a snapshot nothing says that it was there, nor of a segment that was just
                // made, and in which nothing was written yet.
                let is_new = bytes.iter().skip(SECTOR_BYTES).all(|&byte| byte == 0);
                let is_told = name == "meta" || !is_snapshot(&name) && !is_new;
                let places: &[&str] = if is_told { &[&name] } else { &[] };
                self.keep_undamaged(&name);
                self.folder.disk().replace(&name, None);
                self.harm(DiskFault::VanishedFile);
                let in_log = places.iter().any(|name| !is_snapshot(name) && *name != "peers");
                let what = format!("{name}, vanished,");
                return Some(Damage { what, in_log, in_latest: in_latest(places) });
            }
            _ => {}
        }
        // The others concern a sector that was written and synced, and is not of the very last
        // block.
        let sector = self.written_sector(&names, &name, rng)?;
        let place = sector * SECTOR_BYTES..((sector + 1) * SECTOR_BYTES).min(bytes.len());
        if rng.chance(500) {
            self.tamper(&name, |bytes| bytes[place].fill(0));
            self.harm(DiskFault::LostWrite);
            let in_log = self.is_damage_to_log(&name);
            let what = format!("sector {sector} of {name}, lost,");
            return Some(Damage { what, in_log, in_latest: in_latest(&[&name]) });
        }
        let content = bytes[place.clone()].to_vec();
        let other = rng.pick(&names).clone();
        let there = self.read(&other);
        let targets = there.len() / SECTOR_BYTES;
        if targets == 0 || content.len() < SECTOR_BYTES {
            return None;
        }
        let target = rng.place(targets);
        let target_place = target * SECTOR_BYTES..(target + 1) * SECTOR_BYTES;
        if there[target_place.clone()] == content[..] {
            return None;
        }
        self.tamper(&other, |bytes| bytes[target_place].copy_from_slice(&content));
        let mut places = vec![other.as_str()];
        // There it is, and where it should be it is in some cases too: then it was written twice.
        let is_gone = rng.chance(500) && !(other == name && target == sector);
        if is_gone {
            self.tamper(&name, |bytes| bytes[place].fill(0));
            places.push(&name);
        }
        // What was damaged there before may be whole again now.
        places.retain(|name| !self.is_undamaged(name));
        self.harm(DiskFault::MisdirectedWrite);
        let what = format!("sector {sector} of {name}, written to sector {target} of {other},");
        let in_log = places.iter().any(|name| self.is_damage_to_log(name));
        Some(Damage { what, in_log, in_latest: in_latest(&places) })
    }

    /// Whether a file that was damaged must keep the replica from starting.
    fn is_damage_to_log(&self, name: &str) -> bool {
        if name == "peers" || is_snapshot(name) || self.is_undamaged(name) {
            return false;
        }
        let before = self.undamaged.iter().find(|(known, _)| known == name);
        let (_, before) = before.expect("it is kept when it is damaged");
        let now = self.read(name);
        let middle = now.len() / 2;
        let is_one_copy_whole =
            before[..middle] == now[..middle] || before[middle..] == now[middle..];
        name != "meta" || !is_one_copy_whole
    }

    /// Files but those that were never completed, and those that a snapshot took the place of.
    fn names_that_count(&self) -> Vec<String> {
        let mut names = self.folder.list().expect("memory does not fail");
        names.retain(|name| name.strip_suffix(".new").is_none());
        let opened = SharedDisk::new(self.folder.disk().copy());
        if open_folder(&opened, self.replica, self.options).is_ok() {
            let left = opened.list().expect("memory does not fail");
            names.retain(|name| left.contains(name));
        }
        names
    }

    fn written_sector(&self, names: &[String], name: &str, rng: &mut Rng) -> Option<usize> {
        let bytes = self.read(name);
        let block = |sector: &[u8]| u32::from_le_bytes(sector[8..12].try_into().expect("4 bytes"));
        let is_last_segment = names.iter().rfind(|name| name.starts_with("segment-"));
        let last = (is_last_segment.map(String::as_str) == Some(name))
            .then(|| bytes.chunks(SECTOR_BYTES).map(block).max())
            .flatten();
        let written: Vec<usize> = bytes
            .chunks(SECTOR_BYTES)
            .enumerate()
            .filter(|(sector, content)| {
                content.iter().any(|&byte| byte != 0)
                    && (*sector == 0 || last.is_none() || Some(block(content)) != last)
            })
            .map(|(sector, _)| sector)
            .collect();
        (!written.is_empty()).then(|| *rng.pick(&written))
    }

    /// Damages a snapshot while the replica runs, and may be sending it.
    pub(in crate::sim) fn rot_snapshot(&mut self, rng: &mut Rng) {
        let mut names = self.folder.list().expect("memory does not fail");
        names.retain(|name| is_snapshot(name) && name.strip_suffix(".new").is_none());
        if names.is_empty() {
            return;
        }
        let name = rng.pick(&names).clone();
        let bit = rng.place(self.read(&name).len() * 8);
        self.tamper(&name, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        self.harm(DiskFault::RottenSnapshot);
    }

    /// Puts an older copy of the whole folder back, and opens it: once, some times, or more often
    /// than is remembered. Everything is as before afterwards.
    pub(in crate::sim) fn put_back(&mut self) -> Option<Result<Ghost, StorageError>> {
        let (copy, copied_at) = self.copy.take()?;
        let mut copy = copy.copy();
        // What is drawn anew is another number than was drawn then.
        copy.advance_random_past(&self.folder.disk());
        let copy = SharedDisk::new(copy);
        let starts = match copied_at % 4 {
            0 | 2 => OPENINGS_KEPT + 2,
            some => usize::try_from(some).expect("below 4"),
        };
        let mut ghost = None;
        for _ in 0..starts {
            let opened = match open_folder(&copy, self.replica, self.options) {
                Ok(opened) => opened,
                Err(error) => return Some(Err(error)),
            };
            let log = &opened.process.log;
            let incarnation = log.identity().incarnation;
            ghost = Some(Ghost { copied_at, incarnation, openings: log.openings().to_vec() });
        }
        ghost.map(Ok)
    }

    /// Whether this replica believes who says that it is `peer`; `None` if it can't say, as it does
    /// not start itself, or has lost its notes.
    pub(in crate::sim) fn believes(&self, peer: NodeId, ghost: &Ghost) -> Option<bool> {
        let history = OpeningHistory { incarnation: ghost.incarnation, openings: &ghost.openings };
        if let Some(process) = &self.process {
            return Some(process.notes.check(peer, history, OPENINGS_KEPT).is_ok());
        }
        let owner = Identity { cluster: super::CLUSTER, replica: self.replica, incarnation: 0 };
        let notes = PeerRecords::open(self.folder.disk().copy(), owner).ok()?;
        let is_lost = notes.damage().is_some() || self.has_lost_notes();
        (!is_lost).then(|| notes.check(peer, history, OPENINGS_KEPT).is_ok())
    }

    /// Whether the notes about peers have vanished, all of them.
    pub(super) fn has_lost_notes(&self) -> bool {
        let names = self.folder.list().expect("memory does not fail");
        !self.noted.is_empty() && !names.iter().any(|name| name == "peers")
    }

    /// How often the peer's folder had been opened when this replica last heard of that.
    pub(in crate::sim) fn has_noted(&self, peer: NodeId) -> u64 {
        self.noted.get(&peer).copied().unwrap_or(0)
    }

    /// The ghost was denied by all.
    pub(in crate::sim) fn note_denied(&mut self) {
        self.statistics.inject(DiskFault::OldCopy, 1);
        self.statistics.cause(DiskFault::OldCopy, FaultEffect::Denied);
    }

    /// Puts older copies of some files back, and opens the folder. Everything is as before
    /// afterwards. What was done, and what came of it; the caller says whether that is right.
    pub(in crate::sim) fn put_files_back(
        &mut self,
        rng: &mut Rng,
    ) -> Option<(String, Result<Found, StorageError>)> {
        let (copy, _) = self.copy.as_ref()?;
        let mut mixed = self.folder.disk().copy();
        let mut older = Vec::new();
        for name in copy.list().expect("memory does not fail") {
            let bytes = copy.read(&name).expect("memory does not fail");
            // Notes are for others to be told by; whoever has old ones only remembers less.
            let same = mixed.read(&name).is_ok_and(|there| there == bytes);
            if !same && name != "peers" && name.strip_suffix(".new").is_none() && rng.chance(400) {
                replace(&mut mixed, &name, bytes);
                older.push(name);
            }
        }
        let is_log = |name: &String| name == "meta" || name.starts_with("segment-");
        let log_of = |disk: &MemDisk| {
            let first = disk.read("meta").map(|meta| first_segment(&meta)).unwrap_or_default();
            let mut names = disk.list().expect("memory does not fail");
            names.retain(|name| is_log(name) && name.strip_suffix(".new").is_none());
            names.retain(|name| name == "meta" || *name >= first);
            names.into_iter().map(|name| (disk.read(&name).ok(), name)).collect::<Vec<_>>()
        };
        // All of an older log is what only peers can tell.
        if older.is_empty() || older.iter().any(is_log) && log_of(&mixed) == log_of(copy) {
            return None;
        }
        let opened = open_folder(&SharedDisk::new(mixed), self.replica, self.options);
        self.statistics.inject(DiskFault::OldFiles, 1);
        let effect = if opened.is_ok() { FaultEffect::Whole } else { FaultEffect::Refused };
        self.statistics.cause(DiskFault::OldFiles, effect);
        let found = opened.map(|opened| Found {
            durable: opened.durable,
            snapshot: opened.snapshot,
            may_be_older: true,
        });
        Some((format!("older copies of {}", older.join(", ")), found))
    }
}

fn replace(disk: &mut MemDisk, name: &str, bytes: Vec<u8>) {
    disk.replace(name, Some(bytes));
}

/// The first segment that a meta record wants.
fn first_segment(meta: &[u8]) -> String {
    let number = u64::from_le_bytes(meta[58..66].try_into().expect("eight bytes"));
    format!("segment-{number:010}")
}

fn is_snapshot(name: &str) -> bool {
    name.starts_with("snapshot-")
}
