//! A disk in memory, as unreliable as a disk may be: what was not synced may be there or not after
//! a power cut, sector by sector and name by name, in any combination.
//!
//! The crash tests and the simulator run the log over it. It has two images, the live one and the
//! durable one, and the list of what lies between them. [`MemDisk::power_cut_at`] lets the power
//! fail
//! in the middle of the n-th operation from now, [`MemDisk::fail_at`] lets that operation fail as
//! a bad disk does; [`MemDisk::restart`] goes on from what is durable.

use std::collections::BTreeMap;
use std::io;

use super::disk::Disk;

/// What the disk writes whole or not at all.
pub const SECTOR_BYTES: usize = super::sector::SECTOR_BYTES;

/// A file's contents, whatever its names are.
#[derive(Clone, Debug, Default)]
struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Writes since the last sync, in order.
    unsynced: Vec<(usize, Vec<u8>)>,
    /// Lengths that the file has had since, as appends made it longer.
    lengths: Vec<usize>,
}

/// A change of names that is not durable yet.
#[derive(Clone, Debug)]
enum NameChange {
    Create(String, usize),
    Rename(String, String, usize),
    Delete(String),
}

/// What is to happen at an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trouble {
    PowerCut,
    Failure,
}

/// What an operation does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Doing {
    Write,
    Sync,
    Names,
}

/// How an append goes wrong without anybody's being told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AppendFault {
    /// A bit of it is another.
    FlippedBit,
    /// Nothing of it is written: zeros are where it should be.
    Lost,
    /// It is written over what is at the beginning of the file, and zeros are where it should be.
    Misdirected,
}

/// How often what went wrong with a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskFaultCounts {
    /// A write failed, after a part of it.
    pub failed_writes: u64,
    /// A sync of a file failed.
    pub failed_syncs: u64,
    /// A change of names failed, or their sync.
    pub failed_names: u64,
    /// There was no room for a file or more of it.
    pub no_room: u64,
    /// Appends that went wrong without anybody's being told.
    pub bad_appends: u64,
    /// Writes of which a power cut left some sectors, but not all.
    pub torn: u64,
    /// Writes of which a power cut left nothing.
    pub lost: u64,
    /// New or changed names that a power cut has undone.
    pub names_lost: u64,
    /// Files that were deleted, and were there again after a power cut.
    pub names_back: u64,
}

/// The disk.
#[derive(Clone, Debug, Default)]
pub struct MemDisk {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    unsynced_names: Vec<NameChange>,
    operations: u64,
    trouble: Option<(u64, Trouble)>,
    power_is_out: bool,
    /// Most bytes that all files may have together, if there is a bound.
    capacity: Option<u64>,
    /// The next sync of names is to fail.
    names_fail: bool,
    /// Whether syncs of files say that they were done, and were not.
    lies: bool,
    /// How many numbers were drawn; a copy of the disk goes on by another count.
    drawn: u64,
    /// What is to happen to the next append, if anything.
    bad_append: Option<AppendFault>,
    mishaps: DiskFaultCounts,
    #[cfg(feature = "mutants")]
    mutant: Option<crate::config::Mutant>,
}

impl MemDisk {
    /// Has whoever stores something here break a rule.
    #[cfg(feature = "mutants")]
    pub fn set_mutant(&mut self, mutant: Option<crate::config::Mutant>) {
        self.mutant = mutant;
    }

    /// How many operations that change something there were: each is a place where the power
    /// may fail.
    pub fn operations(&self) -> u64 {
        self.operations
    }

    /// Lets the power fail in the middle of the operation with this number, counted from 0 as
    /// [`MemDisk::operations`] does. It and all after it give errors, until a restart.
    pub fn power_cut_at(&mut self, operation: u64) {
        self.trouble = Some((operation, Trouble::PowerCut));
    }

    /// The same, counted from the next operation on.
    pub fn power_cut_in(&mut self, operations: u64) {
        self.power_cut_at(self.operations + operations);
    }

    /// Lets that one operation fail. A write that fails has written a part. A sync that fails has
    /// synced nothing, and forgets what it was to sync, as file systems do: the next sync succeeds,
    /// and the data is not on the disk.
    pub fn fail_at(&mut self, operation: u64) {
        self.trouble = Some((operation, Trouble::Failure));
    }

    /// The same, counted from the next operation on.
    pub fn fail_in(&mut self, operations: u64) {
        self.fail_at(self.operations + operations);
    }

    /// Lets the next sync of names fail: names are read back that a power cut may still undo.
    pub fn fail_next_dir_sync(&mut self) {
        self.names_fail = true;
    }

    /// Whether a power cut may undo changes of names.
    pub fn has_unsynced_names(&self) -> bool {
        !self.unsynced_names.is_empty()
    }

    /// Lets syncs of files succeed without doing anything, as some disks do that hold back what
    /// they were told to write: to show that a test notices.
    pub fn ignore_syncs(&mut self) {
        self.lies = true;
    }

    /// Bounds the length of all files together.
    pub fn set_capacity(&mut self, bytes: Option<u64>) {
        self.capacity = bytes;
    }

    /// Cuts the power, if it is not out yet, and switches it on again. `choose(n)` says, for each
    /// sector and each name between its durable and its live state, how many of its n - 1 unsynced
    /// changes the disk has made: 0 none of them, n - 1 all.
    pub fn restart(&mut self, choose: &mut dyn FnMut(usize) -> usize) {
        for inode in &mut self.inodes {
            inode.lose_power(choose, &mut self.mishaps);
        }
        for change in std::mem::take(&mut self.unsynced_names) {
            if choose(2) == 1 {
                change.make(&mut self.durable_names);
            } else if matches!(change, NameChange::Delete(_)) {
                self.mishaps.names_back += 1;
            } else {
                self.mishaps.names_lost += 1;
            }
        }
        self.names = self.durable_names.clone();
        self.end_process();
    }

    /// What went wrong so far.
    pub fn fault_counts(&self) -> DiskFaultCounts {
        self.mishaps
    }

    /// Lets the next append go wrong, and say that it went well.
    pub fn corrupt_next_append(&mut self, how: AppendFault) {
        self.bad_append = Some(how);
    }

    /// Nothing is to go wrong any more, and there is room.
    pub fn clear_faults(&mut self) {
        (self.trouble, self.bad_append, self.capacity) = (None, None, None);
        self.names_fail = false;
    }

    /// What is drawn from now on was drawn by neither of the two before.
    pub fn advance_random_past(&mut self, other: &MemDisk) {
        self.drawn = self.drawn.max(other.drawn) + (1 << 32);
    }

    /// The files as they are now, all of them durable: what an operator copies.
    #[must_use]
    pub fn copy(&self) -> MemDisk {
        let mut copy = MemDisk::default();
        for (name, &inode) in &self.names {
            let live = self.inodes[inode].live.clone();
            copy.inodes.push(Inode { durable: live.clone(), live, ..Inode::default() });
            copy.names.insert(name.clone(), copy.inodes.len() - 1);
        }
        copy.durable_names.clone_from(&copy.names);
        copy.drawn = self.drawn;
        #[cfg(feature = "mutants")]
        copy.set_mutant(self.mutant);
        copy
    }

    /// The length of all files together.
    pub fn used_bytes(&self) -> u64 {
        self.names.values().map(|&inode| self.inodes[inode].live.len() as u64).sum()
    }

    /// Ends the process that uses the disk, without a power cut: all that was written stays, and
    /// is as unsynced as it was.
    pub fn kill(&mut self) {
        self.end_process();
    }

    /// Nobody has a file open any more: those without a name are gone.
    fn end_process(&mut self) {
        self.power_is_out = false;
        self.trouble = None;
        self.bad_append = None;
        self.names_fail = false;
        let mut named = vec![false; self.inodes.len()];
        self.names.values().chain(self.durable_names.values()).for_each(|&at| named[at] = true);
        for change in &self.unsynced_names {
            if let NameChange::Create(_, at) | NameChange::Rename(_, _, at) = change {
                named[*at] = true;
            }
        }
        for (inode, _) in self.inodes.iter_mut().zip(named).filter(|(_, named)| !named) {
            *inode = Inode::default();
        }
    }

    /// Changes a file's bytes behind everybody's back, durably: damage, or a copy put back.
    pub fn tamper(&mut self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let inode = &mut self.inodes[self.names[name]];
        change(&mut inode.live);
        inode.durable.clone_from(&inode.live);
        inode.unsynced.clear();
        inode.lengths.clear();
    }

    /// Takes a file away or puts one there behind everybody's back, durably.
    pub fn replace(&mut self, name: &str, bytes: Option<Vec<u8>>) {
        self.names.remove(name);
        if let Some(live) = bytes {
            self.inodes.push(Inode { durable: live.clone(), live, ..Inode::default() });
            self.names.insert(name.to_owned(), self.inodes.len() - 1);
        }
        self.durable_names.clone_from(&self.names);
        self.unsynced_names.clear();
    }

    /// Counts an operation. What is to happen at it, if anything.
    fn begin(&mut self, doing: Doing) -> io::Result<Option<Trouble>> {
        if self.power_is_out {
            return Err(io::Error::other("the power is out"));
        }
        let number = self.operations;
        self.operations += 1;
        let trouble = self.trouble.filter(|(at, _)| *at == number).map(|(_, trouble)| trouble);
        self.power_is_out = trouble == Some(Trouble::PowerCut);
        if trouble == Some(Trouble::Failure) {
            let mishaps = &mut self.mishaps;
            *match doing {
                Doing::Write => &mut mishaps.failed_writes,
                Doing::Sync => &mut mishaps.failed_syncs,
                Doing::Names => &mut mishaps.failed_names,
            } += 1;
        }
        Ok(trouble)
    }

    fn inode_of(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// Makes a change of names, which is not durable before the next sync of them.
    fn change_names(&mut self, change: NameChange) -> io::Result<()> {
        let trouble = self.begin(Doing::Names)?;
        if trouble != Some(Trouble::Failure) {
            change.make(&mut self.names);
            self.unsynced_names.push(change);
        }
        outcome(trouble)
    }

    fn check_room(&mut self, more: u64) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if self.used_bytes() + more > capacity => {
                self.mishaps.no_room += 1;
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
            _ => Ok(()),
        }
    }
}

fn outcome(trouble: Option<Trouble>) -> io::Result<()> {
    match trouble {
        None => Ok(()),
        Some(Trouble::PowerCut) => Err(io::Error::other("the power fails")),
        Some(Trouble::Failure) => Err(io::Error::other("the disk fails")),
    }
}

impl NameChange {
    fn make(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            NameChange::Create(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            NameChange::Rename(from, to, inode) => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
            NameChange::Delete(name) => {
                names.remove(name);
            }
        }
    }
}

impl Inode {
    /// Makes something else of what is to be appended.
    fn spoil(&mut self, how: AppendFault, bytes: &mut [u8]) {
        match how {
            AppendFault::FlippedBit => bytes[bytes.len() / 2] ^= 4,
            AppendFault::Lost => bytes.fill(0),
            AppendFault::Misdirected => {
                let there = bytes.len().min(self.live.len());
                self.live[..there].copy_from_slice(&bytes[..there]);
                self.unsynced.push((0, bytes[..there].to_vec()));
                bytes.fill(0);
            }
        }
    }

    /// Makes some of the unsynced writes durable, for each sector a beginning of those that
    /// touched it, and forgets the rest.
    fn lose_power(
        &mut self,
        choose: &mut dyn FnMut(usize) -> usize,
        mishaps: &mut DiskFaultCounts,
    ) {
        let lengths = std::mem::take(&mut self.lengths);
        if !lengths.is_empty() {
            // The length is noted apart from the contents: what is missing of these reads as zeros.
            let made = choose(lengths.len() + 1);
            self.durable
                .resize(made.checked_sub(1).map_or(self.durable.len(), |at| lengths[at]), 0);
        } else if self.durable.len() < self.live.len()
            && (!self.durable.is_empty() || choose(2) == 1)
        {
            self.durable.resize(self.live.len(), 0);
        }
        let mut touched: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (write, (offset, bytes)) in self.unsynced.iter().enumerate() {
            let end = offset + bytes.len();
            for sector in offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
                touched.entry(sector).or_default().push(write);
            }
        }
        // Of each write how many sectors are there, and how many should be.
        let mut kept = vec![(0, 0); self.unsynced.len()];
        for (sector, writes) in touched {
            let made = choose(writes.len() + 1);
            for (place, &write) in writes.iter().enumerate() {
                kept[write].0 += usize::from(place < made);
                kept[write].1 += 1;
            }
            for &write in writes.iter().take(made) {
                let (offset, bytes) = &self.unsynced[write];
                let from = (sector * SECTOR_BYTES).max(*offset);
                let to = ((sector + 1) * SECTOR_BYTES).min(offset + bytes.len());
                let to = to.min(self.durable.len());
                if from < to {
                    self.durable[from..to].copy_from_slice(&bytes[from - offset..to - offset]);
                }
            }
        }
        for (there, all) in kept {
            mishaps.lost += u64::from(there == 0 && all > 0);
            mishaps.torn += u64::from(there > 0 && there < all);
        }
        self.unsynced.clear();
        self.live.clone_from(&self.durable);
    }
}

impl Disk for MemDisk {
    type File = usize;

    fn describe(&self, name: &str) -> String {
        if name.is_empty() { "the folder in memory".to_owned() } else { name.to_owned() }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        Ok(self.inodes[self.inode_of(name)?].live.clone())
    }

    fn create(&mut self, name: &str, bytes: u64) -> io::Result<usize> {
        if self.names.contains_key(name) {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        self.check_room(bytes)?;
        let live = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
        self.inodes.push(Inode { live, ..Inode::default() });
        let inode = self.inodes.len() - 1;
        self.change_names(NameChange::Create(name.to_owned(), inode))?;
        Ok(inode)
    }

    fn open(&mut self, name: &str) -> io::Result<usize> {
        self.inode_of(name)
    }

    fn write_at(&mut self, file: &mut usize, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let trouble = self.begin(Doing::Write)?;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let inode = &mut self.inodes[*file];
        assert!(offset + bytes.len() <= inode.live.len(), "a write behind a file's end");
        // The page cache is filled page by page: a write that ends early ends between sectors.
        let half = bytes.len() / SECTOR_BYTES / 2 * SECTOR_BYTES;
        let written = if trouble == Some(Trouble::Failure) { half } else { bytes.len() };
        inode.live[offset..offset + written].copy_from_slice(&bytes[..written]);
        inode.unsynced.push((offset, bytes[..written].to_vec()));
        outcome(trouble)
    }

    fn append(&mut self, file: &mut usize, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.check_room(bytes.len() as u64)?;
        let trouble = self.begin(Doing::Write)?;
        let inode = &mut self.inodes[*file];
        assert!(offset == inode.live.len() as u64, "an append at {offset} is not at the end");
        let written = if trouble == Some(Trouble::Failure) { bytes.len() / 2 } else { bytes.len() };
        let mut written = bytes[..written].to_vec();
        if let Some(how) = self.bad_append.take_if(|_| !written.is_empty()) {
            self.mishaps.bad_appends += 1;
            inode.spoil(how, &mut written);
        }
        inode.live.extend_from_slice(&written);
        inode.unsynced.push((inode.live.len() - written.len(), written));
        inode.lengths.push(inode.live.len());
        outcome(trouble)
    }

    fn open_to_read(&self, name: &str) -> io::Result<usize> {
        self.inode_of(name)
    }

    fn length(&self, file: &usize) -> io::Result<u64> {
        Ok(self.inodes[*file].live.len() as u64)
    }

    fn read_at(&self, file: &usize, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let there = self.inodes[*file].live.get(start..start.saturating_add(bytes.len()));
        let there = there.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        bytes.copy_from_slice(there);
        Ok(())
    }

    fn sync(&mut self, file: &mut usize) -> io::Result<()> {
        let trouble = self.begin(Doing::Sync)?;
        let inode = &mut self.inodes[*file];
        match trouble {
            None if self.lies => {}
            None => {
                inode.durable.resize(inode.live.len(), 0);
                inode.lengths.clear();
                for (offset, bytes) in inode.unsynced.drain(..) {
                    inode.durable[offset..offset + bytes.len()].copy_from_slice(&bytes);
                }
            }
            // The live image keeps what the durable one will never get.
            Some(Trouble::Failure) => {
                inode.unsynced.clear();
                inode.lengths.clear();
            }
            Some(Trouble::PowerCut) => {}
        }
        outcome(trouble)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let inode = self.inode_of(from)?;
        self.change_names(NameChange::Rename(from.to_owned(), to.to_owned(), inode))
    }

    fn delete(&mut self, name: &str) -> io::Result<()> {
        self.inode_of(name)?;
        self.change_names(NameChange::Delete(name.to_owned()))
    }

    /// Whoever has it open for all that finds nothing in it any more.
    fn delete_in_background(&mut self, name: &str) -> io::Result<()> {
        let inode = self.inode_of(name)?;
        self.delete(name)?;
        self.inodes[inode].live.clear();
        Ok(())
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.names_fail) {
            self.fail_in(0);
        }
        let trouble = self.begin(Doing::Names)?;
        // Where it fails the changes wait on: names are in the file system's journal, which does
        // not forget them as it does pages.
        if trouble.is_none() {
            for change in self.unsynced_names.drain(..) {
                change.make(&mut self.durable_names);
            }
            debug_assert_eq!(self.durable_names, self.names);
        }
        outcome(trouble)
    }

    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.drawn
    }

    #[cfg(feature = "mutants")]
    fn mutant(&self) -> Option<crate::config::Mutant> {
        self.mutant
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_lost_until_the_folder_is_synced_however_well_the_file_is() {
        let mut disk = MemDisk::default();
        let mut kept = disk.create("kept", 512).unwrap();
        disk.sync_dir().unwrap();
        disk.write_at(&mut kept, 0, &[1; 512]).unwrap();
        disk.sync(&mut kept).unwrap();
        let mut lost = disk.create("lost", 512).unwrap();
        disk.write_at(&mut lost, 0, &[2; 512]).unwrap();
        disk.sync(&mut lost).unwrap();
        disk.rename("kept", "moved").unwrap();
        let mut lucky = disk.clone();
        disk.restart(&mut |_| 0);
        assert_eq!(disk.list().unwrap(), ["kept"]);
        assert_eq!(disk.read("kept").unwrap(), [1; 512]);
        lucky.restart(&mut |states| states - 1);
        assert_eq!(lucky.list().unwrap(), ["lost", "moved"]);
        assert_eq!(lucky.read("lost").unwrap(), [2; 512]);
    }

    #[test]
    fn each_sector_has_its_own_luck_and_keeps_the_order_of_its_writes() {
        let mut disk = MemDisk::default();
        let mut file = disk.create("file", 1_024).unwrap();
        disk.sync(&mut file).unwrap();
        disk.sync_dir().unwrap();
        disk.write_at(&mut file, 0, &[1; 1_024]).unwrap();
        disk.write_at(&mut file, 512, &[2; 512]).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for first in 0..2 {
            for second in 0..3 {
                let mut disk = disk.clone();
                let mut choices = [first, second].into_iter();
                disk.restart(&mut |_| choices.next().expect("two sectors were written"));
                let bytes = disk.read("file").unwrap();
                seen.insert((bytes[0], bytes[1_023]));
            }
        }
        assert_eq!(Vec::from_iter(seen), [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]);
    }

    #[test]
    fn a_failed_sync_forgets_and_the_next_one_claims_to_have_done_it() {
        let mut disk = MemDisk::default();
        let mut file = disk.create("file", 512).unwrap();
        disk.sync(&mut file).unwrap();
        disk.sync_dir().unwrap();
        disk.write_at(&mut file, 0, &[1; 512]).unwrap();
        disk.fail_at(disk.operations());
        assert!(disk.sync(&mut file).is_err());
        disk.sync(&mut file).unwrap();
        assert_eq!(disk.read("file").unwrap(), [1; 512], "out of memory");
        disk.restart(&mut |states| states - 1);
        assert_eq!(disk.read("file").unwrap(), [0; 512], "never on the disk");
    }
}
