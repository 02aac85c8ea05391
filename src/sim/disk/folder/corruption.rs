//! Corruption of a folder at rest: flipped bits, lost or misdirected synced writes, vanished files,
//! and old copies of files or of the whole folder. All of it must be detected; at the next start
//! the replica repairs the folder, or rejects it if that is impossible. Two cases are not
//! simulated, because no storage code could detect them: the loss of the very last block, whose
//! sync may not have returned, and the loss of a whole received snapshot before the log was
//! restarted after it.

use super::opening::{Found, open_folder, would_lose_votes};
use super::{Folder, START_IDS_KEPT, Spared};
use crate::sim::disk::statistics::{DiskFault, FaultEffect};
use crate::sim::rng::Rng;
use crate::storage::mem_disk::SECTOR_BYTES;
use crate::storage::{
    Disk as _, Identity, MemDisk, PeerRecords, SharedDisk, StartHistory, StorageError,
};
use crate::types::NodeId;

/// Damage that the simulator has done to the files of a replica while it was down.
#[derive(Debug)]
pub(super) struct Damage {
    /// Description of the damage for error messages: the damaged file, and the type of damage.
    pub(super) what: String,
    /// Whether the damage is in the log or in both copies of the meta record in the file `meta`.
    /// The next start must then repair or refuse the folder. Other damage to the files `meta` and
    /// `peers` does not matter.
    pub(super) in_log: bool,
    /// Whether the damage is in the latest snapshot. The next start must then detect it.
    pub(super) in_latest: bool,
}

/// The list of process starts (one random number per start) that a replica presents to its peers
/// after it was started from an old copy of its folder. The peers check this list to detect old
/// copies.
#[derive(Debug)]
pub(in crate::sim) struct OldCopy {
    /// How many times the replica had been started when the copy of its folder was made.
    pub(in crate::sim) copied_at: u64,
    /// How many times the replica has been started according to the old copy, including the starts
    /// from this copy.
    pub(in crate::sim) incarnation: u64,
    pub(in crate::sim) start_ids: Vec<u64>,
}

impl Folder {
    /// Restores the original contents of damaged files of a replica that is down, as an operator
    /// with a backup might. Does nothing while the replica is running, or if a start has begun to
    /// repair the damage.
    pub(in crate::sim) fn restore(&mut self) {
        if self.process.is_some() || self.is_half_repaired {
            return;
        }
        for (name, bytes) in std::mem::take(&mut self.undamaged) {
            self.disk.disk().replace(&name, Some(bytes));
        }
        if std::mem::take(&mut self.is_refused) {
            for &kind in self.new_faults.iter().filter(|kind| kind.is_damage()) {
                self.statistics.cause(kind, FaultEffect::Restored);
            }
        }
        self.new_faults.retain(|kind| !kind.is_damage());
    }

    fn read(&self, name: &str) -> Vec<u8> {
        self.disk.read(name).expect("a disk in memory does not fail")
    }

    /// Saves the content of a file before it is damaged, so that it can be restored. Keeps the
    /// content saved earlier if there is one.
    fn keep_undamaged(&mut self, name: &str) {
        if !self.undamaged.iter().any(|(known, _)| known == name) {
            self.undamaged.push((name.to_owned(), self.read(name)));
        }
    }

    /// After a start, drops the saved original contents of damaged files, except those of damaged
    /// snapshots that still exist.
    pub(super) fn forget_undamaged(&mut self) {
        let names = self.disk.list().expect("a disk in memory does not fail");
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
        self.disk.disk().tamper(name, change);
    }

    fn inject(&mut self, kind: DiskFault) {
        self.statistics.inject(kind, 1);
        self.add_fault(kind);
    }

    /// Corrupts a random file like [`Folder::corrupt_file`], unless the replica must not lose its
    /// votes but would.
    pub(super) fn corrupt(&mut self, log_holds_latest: bool, rng: &mut Rng) -> Option<Damage> {
        if self.spared != Spared::Votes {
            return self.corrupt_file(log_holds_latest, rng);
        }
        let disk = self.disk.snapshot();
        let (undamaged, new_faults) = (self.undamaged.clone(), self.new_faults.clone());
        let statistics = self.statistics;
        let damage = self.corrupt_file(log_holds_latest, rng);
        if would_lose_votes(&SharedDisk::new(self.disk.snapshot()), self.replica, self.options) {
            *self.disk.disk() = disk;
            (self.undamaged, self.new_faults) = (undamaged, new_faults);
            self.statistics = statistics;
            return None;
        }
        damage
    }

    /// Corrupts a random file of a replica that is down, and returns the damage; `None` if nothing
    /// was damaged. `log_holds_latest` says whether the log contains the last entry of the latest
    /// snapshot.
    fn corrupt_file(&mut self, log_holds_latest: bool, rng: &mut Rng) -> Option<Damage> {
        let names = self.relevant_names();
        let name = rng.choose(&names).clone();
        let latest = names.iter().filter(|name| is_snapshot(name)).max();
        let in_latest =
            |places: &[&str]| places.iter().any(|name| Some(*name) == latest.map(String::as_str));
        let bytes = self.read(&name);
        match rng.below(10) {
            0..4 => {
                let bit = rng.index(bytes.len() * 8);
                self.tamper(&name, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
                self.inject(DiskFault::FlippedBit);
                let in_log = self.is_damage_to_log(&name);
                let what = format!("a flipped bit {bit} of {name}");
                return Some(Damage { what, in_log, in_latest: in_latest(&[&name]) });
            }
            4 if !is_snapshot(&name) || log_holds_latest => {
                // No record says that a snapshot or an empty new segment exists.
                let is_new = bytes.iter().skip(SECTOR_BYTES).all(|&byte| byte == 0);
                let is_told = name == "meta" || !is_snapshot(&name) && !is_new;
                let places: &[&str] = if is_told { &[&name] } else { &[] };
                self.keep_undamaged(&name);
                self.disk.disk().replace(&name, None);
                self.inject(DiskFault::VanishedFile);
                let in_log = places.iter().any(|name| !is_snapshot(name) && *name != "peers");
                let what = format!("a vanished file {name}");
                return Some(Damage { what, in_log, in_latest: in_latest(places) });
            }
            _ => {}
        }
        // The other faults concern a synced sector that does not belong to the very last block.
        let sector = self.written_sector(&names, &name, rng)?;
        let place = sector * SECTOR_BYTES..((sector + 1) * SECTOR_BYTES).min(bytes.len());
        if rng.permille(500) {
            self.tamper(&name, |bytes| bytes[place].fill(0));
            self.inject(DiskFault::LostWrite);
            let in_log = self.is_damage_to_log(&name);
            let what = format!("a lost sector {sector} of {name}");
            return Some(Damage { what, in_log, in_latest: in_latest(&[&name]) });
        }
        let content = bytes[place.clone()].to_vec();
        let other = rng.choose(&names).clone();
        let there = self.read(&other);
        let targets = there.len() / SECTOR_BYTES;
        if targets == 0 || content.len() < SECTOR_BYTES {
            return None;
        }
        let target = rng.index(targets);
        let target_place = target * SECTOR_BYTES..(target + 1) * SECTOR_BYTES;
        if there[target_place.clone()] == content[..] {
            return None;
        }
        self.tamper(&other, |bytes| bytes[target_place].copy_from_slice(&content));
        let mut places = vec![other.as_str()];
        // The sector may be missing at its proper position, or be written twice.
        let is_gone = rng.permille(500) && !(other == name && target == sector);
        if is_gone {
            self.tamper(&name, |bytes| bytes[place].fill(0));
            places.push(&name);
        }
        // Earlier damage at that position may be undone by now.
        places.retain(|name| !self.is_undamaged(name));
        self.inject(DiskFault::MisdirectedWrite);
        let what = format!("sector {sector} of {name} written to sector {target} of {other}");
        let in_log = places.iter().any(|name| self.is_damage_to_log(name));
        Some(Damage { what, in_log, in_latest: in_latest(&places) })
    }

    /// Returns whether the damage to the file `name` must prevent the replica from starting. This
    /// is the case for every file of the log, and for the file `meta`, which holds the replica's
    /// identity twice, if both copies are damaged.
    fn is_damage_to_log(&self, name: &str) -> bool {
        if name == "peers" || is_snapshot(name) || self.is_undamaged(name) {
            return false;
        }
        let before = self.undamaged.iter().find(|(known, _)| known == name);
        let (_, before) = before.expect("the content was kept before the damage");
        let now = self.read(name);
        let middle = now.len() / 2;
        let is_one_copy_whole =
            before[..middle] == now[..middle] || before[middle..] == now[middle..];
        name != "meta" || !is_one_copy_whole
    }

    /// Returns the names of all complete files that a start of the replica keeps. Files that the
    /// start deletes need not be corrupted.
    fn relevant_names(&self) -> Vec<String> {
        let mut names = self.disk.list().expect("a disk in memory does not fail");
        names.retain(|name| name.strip_suffix(".new").is_none() && !is_set_aside(name));
        let opened = SharedDisk::new(self.disk.disk().copy());
        if open_folder(&opened, self.replica, self.options).is_ok() {
            let left = opened.list().expect("a disk in memory does not fail");
            names.retain(|name| left.contains(name));
        }
        names
    }

    /// Returns the index, from the start of the file, of a random written sector that is not in the
    /// last block of the log (the entries of one sync); `None` if there is no such sector. Damage
    /// to the last block could not be distinguished from an unfinished write.
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
        (!written.is_empty()).then(|| *rng.choose(&written))
    }

    /// Flips a random bit of a snapshot file of a running replica, which may be sending the
    /// snapshot.
    pub(in crate::sim) fn corrupt_snapshot(&mut self, rng: &mut Rng) {
        let mut names = self.disk.list().expect("a disk in memory does not fail");
        names.retain(|name| is_snapshot(name) && name.strip_suffix(".new").is_none());
        if names.is_empty() {
            return;
        }
        let name = rng.choose(&names).clone();
        let bit = rng.index(self.read(&name).len() * 8);
        self.tamper(&name, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        self.inject(DiskFault::CorruptSnapshot);
    }

    /// Starts the replica from an old copy of its whole folder: once, three times, or more times
    /// than its list of latest starts (one random number per start) can hold. Peers use this list
    /// to detect old copies. The folder itself stays unchanged. Returns the list after the last of
    /// these starts, or the error of a failed start; `None` if there is no copy.
    pub(in crate::sim) fn start_old_copy(&mut self) -> Option<Result<OldCopy, StorageError>> {
        let (copy, copied_at) = self.copy.take()?;
        let mut copy = copy.copy();
        // Starts from the copy must draw other random numbers than starts from the folder did.
        copy.advance_random_past(&self.disk.disk());
        let copy = SharedDisk::new(copy);
        let starts = match copied_at % 4 {
            0 | 2 => START_IDS_KEPT + 2,
            some => usize::try_from(some).expect("below 4"),
        };
        let mut last = None;
        for _ in 0..starts {
            let opened = match open_folder(&copy, self.replica, self.options) {
                Ok(opened) => opened,
                Err(error) => return Some(Err(error)),
            };
            let log = &opened.process.log;
            let incarnation = log.identity().incarnation;
            last = Some(OldCopy { copied_at, incarnation, start_ids: log.start_ids().to_vec() });
        }
        last.map(Ok)
    }

    /// Returns whether this replica accepts `peer` after the peer was started from the old copy
    /// `copy` of its folder. `None` if this replica cannot tell, because its own folder cannot be
    /// opened or its peer records are lost.
    pub(in crate::sim) fn accepts(&self, peer: NodeId, copy: &OldCopy) -> Option<bool> {
        let history = StartHistory { incarnation: copy.incarnation, start_ids: &copy.start_ids };
        if let Some(process) = &self.process {
            return Some(process.notes.check(peer, history, START_IDS_KEPT).is_ok());
        }
        let owner = Identity { cluster: super::CLUSTER, replica: self.replica, incarnation: 0 };
        let notes = PeerRecords::open(self.disk.disk().copy(), owner).ok()?;
        let is_lost = notes.damage().is_some() || self.has_lost_notes();
        (!is_lost).then(|| notes.check(peer, history, START_IDS_KEPT).is_ok())
    }

    /// Returns whether the file `peers`, in which this replica records the latest known start of
    /// each peer, has vanished.
    pub(super) fn has_lost_notes(&self) -> bool {
        let names = self.disk.list().expect("a disk in memory does not fail");
        !self.noted.is_empty() && !names.iter().any(|name| name == "peers")
    }

    /// Returns how many times `peer` had been started according to this replica's last durable
    /// record of the peer; 0 if there is no record.
    pub(in crate::sim) fn noted_start_id(&self, peer: NodeId) -> u64 {
        self.noted.get(&peer).copied().unwrap_or(0)
    }

    /// Adds to the fault statistics that all peers rejected an old copy of the folder.
    pub(in crate::sim) fn count_rejected_copy(&mut self) {
        self.statistics.inject(DiskFault::OldCopy, 1);
        self.statistics.cause(DiskFault::OldCopy, FaultEffect::Rejected);
    }

    /// Opens a copy of the folder in which some files are replaced by older versions. The folder
    /// itself stays unchanged. Returns a description of the replaced files and the outcome of
    /// opening, which the caller checks; `None` if no file was replaced, or if the whole log is the
    /// older one, which only peers could detect.
    pub(in crate::sim) fn open_with_old_files(
        &mut self,
        rng: &mut Rng,
    ) -> Option<(String, Result<Found, StorageError>)> {
        let (copy, _) = self.copy.as_ref()?;
        let mut mixed = self.disk.disk().copy();
        let mut older = Vec::new();
        for name in copy.list().expect("a disk in memory does not fail") {
            let bytes = copy.read(&name).expect("a disk in memory does not fail");
            // The only effect of old peer records is that the replica knows less about its peers.
            let same = mixed.read(&name).is_ok_and(|there| there == bytes);
            if !same && name != "peers" && name.strip_suffix(".new").is_none() && rng.permille(400)
            {
                replace(&mut mixed, &name, bytes);
                older.push(name);
            }
        }
        let is_log = |name: &String| name == "meta" || name.starts_with("segment-");
        let log_of = |disk: &MemDisk| {
            let first = disk.read("meta").map(|meta| first_segment(&meta)).unwrap_or_default();
            let mut names = disk.list().expect("a disk in memory does not fail");
            names.retain(|name| is_log(name) && name.strip_suffix(".new").is_none());
            names.retain(|name| name == "meta" || *name >= first);
            names.into_iter().map(|name| (disk.read(&name).ok(), name)).collect::<Vec<_>>()
        };
        // A whole old log can only be detected by peers.
        if older.is_empty() || older.iter().any(is_log) && log_of(&mixed) == log_of(copy) {
            return None;
        }
        let opened = open_folder(&SharedDisk::new(mixed), self.replica, self.options);
        self.statistics.inject(DiskFault::OldFiles, 1);
        let effect = match &opened {
            Ok(opened) if opened.log.is_some() => FaultEffect::Repaired,
            Ok(_) => FaultEffect::Intact,
            Err(_) => FaultEffect::Refused,
        };
        self.statistics.cause(DiskFault::OldFiles, effect);
        let found = opened.map(|opened| Found {
            durable: opened.durable,
            snapshot: opened.snapshot,
            may_be_older: true,
            log: opened.log,
        });
        Some((format!("old copies of {}", older.join(", ")), found))
    }
}

fn replace(disk: &mut MemDisk, name: &str, bytes: Vec<u8>) {
    disk.replace(name, Some(bytes));
}

/// Returns the file name of the log's first segment. `meta` is the content of the folder's file
/// `meta`, which stores the segment's number.
fn first_segment(meta: &[u8]) -> String {
    let number = u64::from_le_bytes(meta[58..66].try_into().expect("eight bytes"));
    format!("segment-{number:010}")
}

/// Returns whether an earlier repair has kept the file for the operator.
fn is_set_aside(name: &str) -> bool {
    name.starts_with("damaged-")
}

fn is_snapshot(name: &str) -> bool {
    name.starts_with("snapshot-")
}
