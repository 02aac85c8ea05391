//! [`MemDisk`]: a disk in memory that is as unreliable as a real disk may be. After a power cut,
//! any combination of the unsynced sectors and file names may be present or missing.
//!
//! The crash tests and the simulator run the storage code over it. Each file has live and durable
//! contents and the list of writes between them; names likewise. [`MemDisk::power_cut_at`] cuts the
//! power during an operation, [`MemDisk::fail_at`] makes an operation fail as a bad disk does, and
//! [`MemDisk::restart`] continues from what is durable.

mod inode;

use std::collections::BTreeMap;
use std::io;

use super::disk::Disk;
use inode::Inode;

/// Size in bytes of a sector, the unit that the simulated disk writes atomically.
pub const SECTOR_BYTES: usize = super::sector::SECTOR_BYTES;

/// An unsynced change of a file name, which a power cut may undo. `usize` is the file's position in
/// `inodes`.
#[derive(Clone, Debug)]
enum NameChange {
    Create(String, usize),
    Rename(String, String, usize),
    Delete(String),
}

/// Fault planned for one disk operation: the power fails during the operation, or the operation
/// fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    PowerCut,
    Failure,
}

/// Kind of a disk operation that changes the disk. Failures are counted separately for each kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operation {
    Write,
    Sync,
    Names,
}

/// Silent corruption of an append: how the stored bytes differ although the append reports success.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AppendFault {
    /// One bit of the appended bytes is flipped.
    FlippedBit,
    /// The file grows, but the appended bytes read as zeros.
    Lost,
    /// The appended bytes are written over the beginning of the file, and zeros are appended
    /// instead.
    Misdirected,
}

/// Number of simulated faults of each kind since the disk was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskFaultCounts {
    /// Number of writes that failed after a part of their bytes was written.
    pub failed_writes: u64,
    /// Number of failed syncs of files.
    pub failed_syncs: u64,
    /// Number of failed operations on file names: creations, renames and deletions of files, and
    /// syncs of the directory.
    pub failed_names: u64,
    /// Number of appends and file creations that failed because the disk was full.
    pub no_room: u64,
    /// Number of appends that reported success but stored corrupted bytes.
    pub bad_appends: u64,
    /// Number of torn writes, of which a power cut kept some sectors but not all.
    pub torn: u64,
    /// Number of lost writes, of which a power cut kept no sector.
    pub lost: u64,
    /// Number of file creations and renames that a power cut undid.
    pub names_lost: u64,
    /// Number of deleted files that reappeared after a power cut.
    pub names_back: u64,
}

/// A simulated disk in memory with power cuts and other faults, for tests and the simulator. A file
/// handle is an index into `inodes`; files are never removed from that list.
#[derive(Clone, Debug, Default)]
pub struct MemDisk {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    unsynced_names: Vec<NameChange>,
    /// Number of operations so far that have changed the disk. They are numbered from 0, so this is
    /// also the index of the next one.
    operations: u64,
    /// The planned fault, with the index of the operation at which it occurs; `None` if no fault is
    /// planned.
    fault: Option<(u64, Fault)>,
    power_is_out: bool,
    /// Disk capacity: maximum total length of all files in bytes; `None` for no limit.
    capacity: Option<u64>,
    /// Whether the next sync of the directory is to fail.
    dir_sync_fails: bool,
    /// Whether syncs of files report success without making anything durable.
    ignores_syncs: bool,
    /// The random number that [`Disk::draw`] returned last. Tests need numbers that are unique but
    /// reproducible, so the next call returns this number plus 1.
    drawn: u64,
    /// How to corrupt the next append; `None` to write it correctly.
    append_fault: Option<AppendFault>,
    fault_counts: DiskFaultCounts,
    #[cfg(feature = "mutants")]
    mutant: Option<crate::config::Mutant>,
}

impl MemDisk {
    /// Selects the safety rule that storage code breaks on purpose on this disk, for mutation tests
    /// of the correctness checkers; `None` for no rule.
    #[cfg(feature = "mutants")]
    pub fn set_mutant(&mut self, mutant: Option<crate::config::Mutant>) {
        self.mutant = mutant;
    }

    /// Returns the number of operations that have changed the disk. Operations are numbered from 0,
    /// so this is also the index of the next one; faults are planned by these indexes.
    pub fn operations(&self) -> u64 {
        self.operations
    }

    /// Plans a power cut during the operation with the number `operation`; see
    /// [`MemDisk::operations`]. That operation and all later ones fail until [`MemDisk::restart`].
    pub fn power_cut_at(&mut self, operation: u64) {
        assert!(operation >= self.operations, "operation {operation} is over");
        self.fault = Some((operation, Fault::PowerCut));
    }

    /// Plans a power cut after `operations` more operations: 0 means during the next operation. See
    /// [`MemDisk::power_cut_at`].
    pub fn power_cut_in(&mut self, operations: u64) {
        self.power_cut_at(self.operations + operations);
    }

    /// Plans a failure of the operation with the number `operation`; see [`MemDisk::operations`]. A
    /// failed write stores only a part of its bytes. After a failed sync the next sync succeeds,
    /// but does not make the earlier writes durable, as in real file systems.
    pub fn fail_at(&mut self, operation: u64) {
        assert!(operation >= self.operations, "operation {operation} is over");
        self.fault = Some((operation, Fault::Failure));
    }

    /// Plans a failure after `operations` more operations: 0 means that the next operation fails.
    /// See [`MemDisk::fail_at`].
    pub fn fail_in(&mut self, operations: u64) {
        self.fail_at(self.operations + operations);
    }

    /// Makes the next sync of the directory fail. Earlier creations, renames and deletions of files
    /// stay visible, but a power cut may still undo them.
    pub fn fail_next_dir_sync(&mut self) {
        self.dir_sync_fails = true;
    }

    /// Returns whether creations, renames or deletions of files are not durable yet, so that a
    /// power cut may undo them.
    pub fn has_unsynced_names(&self) -> bool {
        !self.unsynced_names.is_empty()
    }

    /// Makes all later syncs of files report success without effect, like a disk with a volatile
    /// cache. Used to show that tests detect lost writes.
    pub fn ignore_syncs(&mut self) {
        self.ignores_syncs = true;
    }

    /// Limits the disk's capacity, the total length of all files, to `bytes` bytes; `None` removes
    /// the limit.
    pub fn set_capacity(&mut self, bytes: Option<u64>) {
        self.capacity = bytes;
    }

    /// Simulates a power cut, unless the power is already out, and a restart. `choose` decides
    /// which unsynced changes survive: for m unsynced changes of a sector or of a file's length,
    /// `choose(m + 1)` returns how many of them survive, oldest first. For an unsynced change of a
    /// file name, `choose(2)` returns 1 if it survives and 0 if not.
    pub fn restart(&mut self, choose: &mut dyn FnMut(usize) -> usize) {
        for inode in &mut self.inodes {
            inode.lose_power(choose, &mut self.fault_counts);
        }
        for change in std::mem::take(&mut self.unsynced_names) {
            let made = choose(2);
            assert!(made < 2, "{made} of one change was chosen");
            if made == 1 {
                change.apply(&mut self.durable_names);
            } else if matches!(change, NameChange::Delete(_)) {
                self.fault_counts.names_back += 1;
            } else {
                self.fault_counts.names_lost += 1;
            }
        }
        self.names = self.durable_names.clone();
        self.end_process();
        assert!(!self.power_is_out && self.unsynced_names.is_empty(), "the restart is incomplete");
    }

    /// Returns the number of simulated faults of each kind so far.
    pub fn fault_counts(&self) -> DiskFaultCounts {
        self.fault_counts
    }

    /// Corrupts the bytes of the next append as `fault` specifies. The append still reports
    /// success.
    pub fn corrupt_next_append(&mut self, fault: AppendFault) {
        self.append_fault = Some(fault);
    }

    /// Cancels all planned faults, and removes the limit on the disk's capacity.
    pub fn clear_faults(&mut self) {
        (self.fault, self.append_fault, self.capacity) = (None, None, None);
        self.dir_sync_fails = false;
    }

    /// Makes [`Disk::draw`] continue with numbers that neither this disk nor `other`, such as a
    /// copy of it, has returned before.
    pub fn advance_random_past(&mut self, other: &MemDisk) {
        self.drawn = self.drawn.max(other.drawn) + (1 << 32);
    }

    /// Returns a new disk with the current contents of all files, all of them durable. Simulates a
    /// backup of the folder made by an operator.
    #[must_use]
    pub fn copy(&self) -> MemDisk {
        let mut copy = MemDisk::default();
        for (name, &inode) in &self.names {
            copy.inodes.push(Inode::durable(self.inodes[inode].live.clone()));
            copy.names.insert(name.clone(), copy.inodes.len() - 1);
        }
        copy.durable_names.clone_from(&copy.names);
        assert!(copy.used_bytes() == self.used_bytes(), "{} bytes", copy.used_bytes());
        copy.drawn = self.drawn;
        #[cfg(feature = "mutants")]
        copy.set_mutant(self.mutant);
        copy
    }

    /// Returns the total length of all files in bytes.
    pub fn used_bytes(&self) -> u64 {
        self.names.values().map(|&inode| self.inodes[inode].live.len() as u64).sum()
    }

    /// Simulates a crash of the process that uses the disk, without a power cut: unsynced writes
    /// stay visible, but are still not durable. Cancels planned faults.
    pub fn kill(&mut self) {
        self.end_process();
    }

    /// Simulates a restart of the process that uses the disk: frees the contents of deleted files,
    /// cancels planned faults, and switches the power on.
    fn end_process(&mut self) {
        self.power_is_out = false;
        self.fault = None;
        self.append_fault = None;
        self.dir_sync_fails = false;
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

    /// Durably applies `change` to a file's contents without reporting an error. Simulates bit rot,
    /// or a file that was restored from a backup.
    pub fn tamper(&mut self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let inode = &mut self.inodes[self.names[name]];
        let mut bytes = std::mem::take(&mut inode.live);
        change(&mut bytes);
        *inode = Inode::durable(bytes);
    }

    /// Durably replaces the contents of a file with `bytes`, or deletes the file if `bytes` is
    /// `None`. Also makes all other unsynced changes of file names durable.
    pub fn replace(&mut self, name: &str, bytes: Option<Vec<u8>>) {
        self.names.remove(name);
        if let Some(bytes) = bytes {
            self.inodes.push(Inode::durable(bytes));
            self.names.insert(name.to_owned(), self.inodes.len() - 1);
        }
        self.durable_names.clone_from(&self.names);
        self.unsynced_names.clear();
    }

    /// Begins an operation that changes the disk: counts it, and returns the fault planned for it,
    /// if any. Fails if the power is out.
    fn begin(&mut self, operation: Operation) -> io::Result<Option<Fault>> {
        if self.power_is_out {
            return Err(io::Error::other("the power is out"));
        }
        let number = self.operations;
        self.operations += 1;
        let fault = self.fault.filter(|(at, _)| *at == number).map(|(_, fault)| fault);
        self.power_is_out = fault == Some(Fault::PowerCut);
        if fault == Some(Fault::Failure) {
            let counts = &mut self.fault_counts;
            *match operation {
                Operation::Write => &mut counts.failed_writes,
                Operation::Sync => &mut counts.failed_syncs,
                Operation::Names => &mut counts.failed_names,
            } += 1;
        }
        Ok(fault)
    }

    fn inode_of(&self, name: &str) -> io::Result<usize> {
        let inode = self.names.get(name).copied();
        assert!(inode.is_none_or(|inode| inode < self.inodes.len()), "{name} has no inode");
        inode.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// Creates, renames or deletes a file. The change becomes durable with the next sync of the
    /// directory.
    fn change_names(&mut self, change: NameChange) -> io::Result<()> {
        let fault = self.begin(Operation::Names)?;
        if fault != Some(Fault::Failure) {
            change.apply(&mut self.names);
            self.unsynced_names.push(change);
        }
        outcome(fault)
    }

    fn check_capacity(&mut self, more_bytes: u64) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if self.used_bytes() + more_bytes > capacity => {
                self.fault_counts.no_room += 1;
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
            _ => Ok(()),
        }
    }
}

fn outcome(fault: Option<Fault>) -> io::Result<()> {
    match fault {
        None => Ok(()),
        Some(Fault::PowerCut) => Err(io::Error::other("the power fails")),
        Some(Fault::Failure) => Err(io::Error::other("the disk fails")),
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
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
        self.check_capacity(bytes)?;
        let zeros = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
        self.inodes.push(Inode::unsynced(zeros));
        let inode = self.inodes.len() - 1;
        self.change_names(NameChange::Create(name.to_owned(), inode))?;
        Ok(inode)
    }

    fn open(&mut self, name: &str) -> io::Result<usize> {
        self.inode_of(name)
    }

    fn write_at(&mut self, file: &mut usize, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let fault = self.begin(Operation::Write)?;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        // The page cache is filled page by page: a write that ends early ends between sectors.
        let half = bytes.len() / SECTOR_BYTES / 2 * SECTOR_BYTES;
        let written = if fault == Some(Fault::Failure) { half } else { bytes.len() };
        self.inodes[*file].write_at(offset, &bytes[..written]);
        outcome(fault)
    }

    fn append(&mut self, file: &mut usize, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.check_capacity(bytes.len() as u64)?;
        let fault = self.begin(Operation::Write)?;
        let inode = &mut self.inodes[*file];
        assert!(offset == inode.live.len() as u64, "an append at {offset} is not at the end");
        let written = if fault == Some(Fault::Failure) { bytes.len() / 2 } else { bytes.len() };
        let mut written = bytes[..written].to_vec();
        if let Some(fault) = self.append_fault.take_if(|_| !written.is_empty()) {
            self.fault_counts.bad_appends += 1;
            inode.corrupt(fault, &mut written);
        }
        inode.append(written);
        outcome(fault)
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
        let fault = self.begin(Operation::Sync)?;
        let inode = &mut self.inodes[*file];
        match fault {
            None if self.ignores_syncs => {}
            None => inode.sync(),
            Some(Fault::Failure) => inode.forget_unsynced(),
            Some(Fault::PowerCut) => {}
        }
        outcome(fault)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let inode = self.inode_of(from)?;
        assert!(from != to, "{from} is renamed to itself");
        self.change_names(NameChange::Rename(from.to_owned(), to.to_owned(), inode))
    }

    fn delete(&mut self, name: &str) -> io::Result<()> {
        self.inode_of(name)?;
        self.change_names(NameChange::Delete(name.to_owned()))
    }

    /// Deletes the file and empties it at once, so that tests fail if a caller wrongly keeps
    /// reading the file through an open handle.
    fn delete_in_background(&mut self, name: &str) -> io::Result<()> {
        let inode = self.inode_of(name)?;
        self.delete(name)?;
        self.inodes[inode].live.clear();
        Ok(())
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.dir_sync_fails) {
            self.fail_in(0);
        }
        let fault = self.begin(Operation::Names)?;
        // After a failure the changes stay unsynced: names are in the file system's journal, which,
        // unlike the page cache, does not forget them.
        if fault.is_none() {
            for change in self.unsynced_names.drain(..) {
                change.apply(&mut self.durable_names);
            }
            debug_assert_eq!(self.durable_names, self.names, "names differ after a sync");
        }
        outcome(fault)
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
    fn power_cut_loses_unsynced_file_name_despite_synced_contents() {
        let mut disk = MemDisk::default();
        let mut kept = disk.create("kept", 512).unwrap();
        disk.sync_dir().unwrap();
        disk.write_at(&mut kept, 0, &[1; 512]).unwrap();
        disk.sync(&mut kept).unwrap();
        let mut lost = disk.create("lost", 512).unwrap();
        disk.write_at(&mut lost, 0, &[2; 512]).unwrap();
        disk.sync(&mut lost).unwrap();
        disk.rename("kept", "moved").unwrap();
        let mut complete = disk.clone();
        disk.restart(&mut |_| 0);
        assert_eq!(disk.list().unwrap(), ["kept"]);
        assert_eq!(disk.read("kept").unwrap(), [1; 512]);
        complete.restart(&mut |states| states - 1);
        assert_eq!(complete.list().unwrap(), ["lost", "moved"]);
        assert_eq!(complete.read("lost").unwrap(), [2; 512]);
    }

    #[test]
    fn power_cut_keeps_a_prefix_of_writes_to_each_sector() {
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
    fn writes_of_a_failed_sync_are_lost_though_the_next_succeeds() {
        let mut disk = MemDisk::default();
        let mut file = disk.create("file", 512).unwrap();
        disk.sync(&mut file).unwrap();
        disk.sync_dir().unwrap();
        disk.write_at(&mut file, 0, &[1; 512]).unwrap();
        disk.fail_at(disk.operations());
        assert!(disk.sync(&mut file).is_err());
        disk.sync(&mut file).unwrap();
        assert_eq!(disk.read("file").unwrap(), [1; 512], "the page cache still has it");
        disk.restart(&mut |states| states - 1);
        assert_eq!(disk.read("file").unwrap(), [0; 512], "it never reached the disk");
    }
}
