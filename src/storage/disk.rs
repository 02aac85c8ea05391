//! What a log needs of a disk, and the machine's own disk. With `reserve` and `background_delete`
//! all of
//! `storage` that touches the machine.
#![allow(clippy::disallowed_types, reason = "stages on several threads share one reserve")]

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::Mutant;

use super::background_delete::BackgroundDelete;
use super::error::StorageError;
use super::reserve::{FreeSpace, RESERVE_FILE, Reserve, is_full};

/// One folder of files.
///
/// Nothing is promised to survive a power cut before the file was synced, and no name before
/// [`Disk::sync_dir`]. All errors but those of reading leave the disk in an unknown state.
pub trait Disk {
    /// A file open for writing.
    type File: std::fmt::Debug;

    /// How a message to the operator calls this file, or the folder if `name` is empty.
    fn describe(&self, name: &str) -> String;

    /// The names of all files, in order.
    ///
    /// # Errors
    /// If the folder can't be read.
    fn list(&self) -> io::Result<Vec<String>>;

    /// A whole file.
    ///
    /// # Errors
    /// If it can't be read.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// Makes a new file of so many zeros, for which room is set aside, to read and to write.
    ///
    /// # Errors
    /// If it can't be made, or is there.
    fn create(&mut self, name: &str, bytes: u64) -> io::Result<Self::File>;

    /// Opens a file for writing.
    ///
    /// # Errors
    /// If it is not there or can't be opened.
    fn open(&mut self, name: &str) -> io::Result<Self::File>;

    /// Writes all of `bytes` from `offset` on, within the file's length.
    ///
    /// # Errors
    /// If not all of it could be written; a part may be.
    fn write_at(&mut self, file: &mut Self::File, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Writes all of `bytes` from `offset` on, which is the end of the file: it grows by them.
    ///
    /// # Errors
    /// If not all of it could be written; a part may be.
    fn append(&mut self, file: &mut Self::File, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Opens a file for reading. What is open can be read also when its name is gone.
    ///
    /// # Errors
    /// If it is not there or can't be opened.
    fn open_to_read(&self, name: &str) -> io::Result<Self::File>;

    /// How many bytes a file has.
    ///
    /// # Errors
    /// If nobody can say.
    fn length(&self, file: &Self::File) -> io::Result<u64>;

    /// Fills `bytes` from `offset` on, all within the file's length.
    ///
    /// # Errors
    /// If not all of it can be read.
    fn read_at(&self, file: &Self::File, offset: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Makes durable what was written to the file.
    ///
    /// # Errors
    /// If that failed. To call it once more proves nothing.
    fn sync(&mut self, file: &mut Self::File) -> io::Result<()>;

    /// Gives a file another name, in place of one that has it.
    ///
    /// # Errors
    /// If that is not possible.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Deletes a file.
    ///
    /// # Errors
    /// If that is not possible.
    fn delete(&mut self, name: &str) -> io::Result<()>;

    /// Deletes a file that nobody has open. What is in it goes by and by, and its room comes back.
    ///
    /// # Errors
    /// If that is not possible.
    fn delete_in_background(&mut self, name: &str) -> io::Result<()>;

    /// Makes durable which names there are.
    ///
    /// # Errors
    /// If that failed.
    fn sync_dir(&mut self) -> io::Result<()>;

    /// A number that nobody has drawn before, to tell one process from another.
    fn draw(&mut self) -> u64;

    /// The rule that whoever stores something here is to break: only in the simulator, and only
    /// with the feature `mutants`.
    fn mutant(&self) -> Option<Mutant> {
        None
    }
}

impl<D: Disk> Disk for &mut D {
    type File = D::File;

    fn describe(&self, name: &str) -> String {
        (**self).describe(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        (**self).list()
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        (**self).read(name)
    }

    fn create(&mut self, name: &str, bytes: u64) -> io::Result<Self::File> {
        (**self).create(name, bytes)
    }

    fn open(&mut self, name: &str) -> io::Result<Self::File> {
        (**self).open(name)
    }

    fn write_at(&mut self, file: &mut Self::File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        (**self).write_at(file, offset, bytes)
    }

    fn append(&mut self, file: &mut Self::File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        (**self).append(file, offset, bytes)
    }

    fn open_to_read(&self, name: &str) -> io::Result<Self::File> {
        (**self).open_to_read(name)
    }

    fn length(&self, file: &Self::File) -> io::Result<u64> {
        (**self).length(file)
    }

    fn read_at(&self, file: &Self::File, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        (**self).read_at(file, offset, bytes)
    }

    fn sync(&mut self, file: &mut Self::File) -> io::Result<()> {
        (**self).sync(file)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        (**self).rename(from, to)
    }

    fn delete(&mut self, name: &str) -> io::Result<()> {
        (**self).delete(name)
    }

    fn delete_in_background(&mut self, name: &str) -> io::Result<()> {
        (**self).delete_in_background(name)
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        (**self).sync_dir()
    }

    fn draw(&mut self) -> u64 {
        (**self).draw()
    }

    fn mutant(&self) -> Option<Mutant> {
        (**self).mutant()
    }
}

/// Held by the process that has the folder open. Empty; nothing depends on its being durable.
pub const LOCK_FILE: &str = "lock";

/// A folder of the machine's file system, locked against other processes for as long as this
/// lives.
#[derive(Debug)]
pub struct RealDisk {
    folder: PathBuf,
    /// The folder itself, to sync its names.
    handle: File,
    /// Its lock ends when it is closed, also by the process's death.
    lock: File,
    /// Shared by all that have this folder open. Locked only when a file is made or room measured.
    reserve: Arc<Mutex<Reserve>>,
    background_delete: Arc<BackgroundDelete>,
}

impl RealDisk {
    /// Opens a folder, and makes it first if need be: for `--bootstrap`.
    ///
    /// # Errors
    /// If it can't be made, opened or written, or another process has it.
    pub fn create(folder: &Path) -> Result<RealDisk, StorageError> {
        make_folder(folder)?;
        RealDisk::open(folder)
    }

    /// Opens a folder.
    ///
    /// # Errors
    /// If it can't be opened or written, or another process has it.
    pub fn open(folder: &Path) -> Result<RealDisk, StorageError> {
        let handle = File::open(folder).map_err(|source| failed("opening", folder, source))?;
        let path = folder.join(LOCK_FILE);
        let lock = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|source| failed("opening", &path, source))?;
        match lock.try_lock() {
            Ok(()) => {
                let reserve = Arc::new(Mutex::new(Reserve::of(folder)));
                let background_delete = Arc::default();
                Ok(RealDisk { folder: folder.to_owned(), handle, lock, reserve, background_delete })
            }
            Err(TryLockError::WouldBlock) => {
                Err(StorageError::Locked { folder: folder.display().to_string() })
            }
            Err(TryLockError::Error(source)) => Err(failed("locking", &path, source)),
        }
    }

    /// The same folder once more, under the same lock: for what is kept beside the log.
    ///
    /// # Errors
    /// If the process has no file descriptor left for it.
    pub fn share(&self) -> Result<RealDisk, StorageError> {
        let again = |file: &File| {
            file.try_clone().map_err(|source| failed("opening once more", &self.folder, source))
        };
        let (handle, lock) = (again(&self.handle)?, again(&self.lock)?);
        let reserve = Arc::clone(&self.reserve);
        let background_delete = Arc::clone(&self.background_delete);
        Ok(RealDisk { folder: self.folder.clone(), handle, lock, reserve, background_delete })
    }

    /// From now on so many bytes are held in reserve, as far as there is room: files that must be
    /// made take what they need of it when there is no other.
    ///
    /// # Errors
    /// If its file can't be made or changed.
    pub fn keep_reserve(&self, bytes: u64) -> Result<(), StorageError> {
        let mut reserve = self.reserve();
        let kept = reserve.want(bytes).and_then(|()| reserve.refill());
        kept.map_err(|source| failed("keeping in reserve", &self.folder, source))
    }

    /// Makes the reserve whole again, as far as there is room.
    ///
    /// # Errors
    /// If its file can't be changed.
    pub fn refill_reserve(&self) -> Result<(), StorageError> {
        let refilled = self.reserve().refill();
        refilled.map_err(|source| failed("keeping in reserve", &self.folder, source))
    }

    /// How much room there is.
    ///
    /// # Errors
    /// If the system doesn't say.
    pub fn free_space(&self) -> Result<FreeSpace, StorageError> {
        let counts = rustix::fs::fstatvfs(&self.handle)
            .map_err(|source| failed("measuring the room in", &self.folder, source.into()))?;
        let free = counts.f_bavail.saturating_mul(counts.f_frsize);
        Ok(FreeSpace { free, held: self.reserve().held() })
    }

    fn reserve(&self) -> MutexGuard<'_, Reserve> {
        self.reserve.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what needs so much room, if need be with that of what is being deleted, and with the
    /// reserve's.
    fn with_reserve<T>(
        &self,
        bytes: u64,
        mut make: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            match make() {
                Err(error) if is_full(&error) && self.background_delete.finish() => {}
                Err(error) if is_full(&error) && self.reserve().give_up(bytes)? => {}
                result => return result,
            }
        }
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// A file of the machine's, open twice: to write past the system's cache where the bytes lie so
/// that this is possible, and through it else.
#[derive(Debug)]
pub struct RealFile {
    file: File,
    /// `None` where the file system can't, or has turned out not to.
    direct: Option<File>,
}

/// How bytes must lie, in memory and in the file, to be written past the system's cache: to what
/// that wants where sectors have 512 bytes. What other disks refuse goes through the cache.
const DIRECT_ALIGN: usize = 512;

impl RealFile {
    fn new(file: File, path: &Path) -> RealFile {
        RealFile { file, direct: open_direct(path).ok() }
    }

    /// One that nobody writes to.
    fn to_read(file: File) -> RealFile {
        RealFile { file, direct: None }
    }
}

/// The log writes each byte once, and reads none while it runs: to copy them to the system's cache
/// first, and find memory for it there, would cost more time than all else it does for them.
#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let flags = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).map_err(io::Error::other)?;
    OpenOptions::new().write(true).custom_flags(flags).open(path)
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_path: &Path) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Disk for RealDisk {
    type File = RealFile;

    fn describe(&self, name: &str) -> String {
        if name.is_empty() { self.folder.clone() } else { self.folder.join(name) }
            .display()
            .to_string()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for file in fs::read_dir(&self.folder)? {
            let name = file?.file_name().to_string_lossy().into_owned();
            if name != LOCK_FILE && name != RESERVE_FILE {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.folder.join(name))
    }

    fn create(&mut self, name: &str, bytes: u64) -> io::Result<RealFile> {
        let path = self.folder.join(name);
        let options = OpenOptions::new().read(true).write(true).create_new(true).clone();
        let file = self.with_reserve(0, || options.open(&path))?;
        if bytes > 0 {
            self.with_reserve(bytes, || set_aside(&file, bytes))?;
        }
        Ok(RealFile::new(file, &path))
    }

    fn open(&mut self, name: &str) -> io::Result<RealFile> {
        let path = self.folder.join(name);
        let file = OpenOptions::new().write(true).open(&path)?;
        Ok(RealFile::new(file, &path))
    }

    fn write_at(&mut self, file: &mut RealFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let is_aligned = bytes.as_ptr().align_offset(DIRECT_ALIGN) == 0
            && bytes.len().is_multiple_of(DIRECT_ALIGN)
            && offset.is_multiple_of(DIRECT_ALIGN as u64);
        if is_aligned && let Some(direct) = &file.direct {
            match direct.write_all_at(bytes, offset) {
                // Not written so: this disk wants bytes to lie otherwise.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => file.direct = None,
                written => return written,
            }
        }
        file.file.write_all_at(bytes, offset)
    }

    fn append(&mut self, file: &mut RealFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
        file.file.write_all_at(bytes, offset)
    }

    fn open_to_read(&self, name: &str) -> io::Result<RealFile> {
        Ok(RealFile::to_read(File::open(self.folder.join(name))?))
    }

    fn length(&self, file: &RealFile) -> io::Result<u64> {
        Ok(file.file.metadata()?.len())
    }

    fn read_at(&self, file: &RealFile, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        file.file.read_exact_at(bytes, offset)
    }

    fn sync(&mut self, file: &mut RealFile) -> io::Result<()> {
        file.file.sync_data()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.folder.join(from), self.folder.join(to))
    }

    fn delete(&mut self, name: &str) -> io::Result<()> {
        fs::remove_file(self.folder.join(name))
    }

    fn delete_in_background(&mut self, name: &str) -> io::Result<()> {
        let path = self.folder.join(name);
        let file = OpenOptions::new().write(true).open(&path);
        fs::remove_file(path)?;
        if let Ok(file) = file {
            self.background_delete.free(file);
        }
        Ok(())
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        self.handle.sync_all()
    }

    fn draw(&mut self) -> u64 {
        // The keys of the standard library's hash maps come from the system's random numbers.
        use std::hash::{BuildHasher as _, RandomState};
        RandomState::new().hash_one(std::process::id())
    }
}

/// Makes a folder and those above it that are missing, each durable in the one above.
///
/// # Errors
/// If one of them can't be made.
pub fn make_folder(folder: &Path) -> Result<(), StorageError> {
    make_and_sync(folder).map_err(|source| failed("making", folder, source))
}

fn make_and_sync(folder: &Path) -> io::Result<()> {
    let above = match folder.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    if folder.is_dir() {
        // Perhaps a first start made it and lost its power, or an operator did: it must be durable
        // all the same. Who may not read the folder above can't make that sure, and has not made
        // the folder either.
        return match File::open(above) {
            Ok(above) => above.sync_all(),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            Err(error) => Err(error),
        };
    }
    make_and_sync(above)?;
    match fs::create_dir(folder) {
        // Two replicas that start at once may make the same folder above theirs.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        other => other,
    }?;
    File::open(above)?.sync_all()
}

/// Gives a new file its length, and its room if the file system can set it aside: then no later
/// write can fail for want of it, and none changes the file's size, which a sync would have to
/// write too. Whether it could.
pub(super) fn set_aside(file: &File, bytes: u64) -> io::Result<bool> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::retry_on_intr;
    // A signal may interrupt it, one that stops the process and lets it go on among them.
    match retry_on_intr(|| fallocate(file, FallocateFlags::empty(), 0, bytes)) {
        Ok(()) => Ok(true),
        // Some file systems can't. What is lost is speed and an early "no space", not safety.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            file.set_len(bytes).map(|()| false)
        }
        Err(error) => Err(error.into()),
    }
}

fn failed(doing: &'static str, path: &Path, source: io::Error) -> StorageError {
    StorageError::Io { doing, file: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::{Durable, HardState};
    use crate::record::{Entry, EntryKind, RecordBuffer};
    use crate::storage::{Log, LogOptions};
    use crate::types::{EntryId, NodeId, Term};

    const OPTIONS: LogOptions = LogOptions::with_segment_bytes(64 << 10);

    fn entries(indexes: std::ops::Range<u64>) -> Vec<Entry> {
        let mut buffer = RecordBuffer::default();
        let encode = |index| buffer.encode(EntryId::new(1, index), EntryKind::Command, &[7; 500]);
        indexes.map(encode).collect()
    }

    #[test]
    fn a_log_in_real_files_is_there_again() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("deep/down");
        let mut disk = RealDisk::create(&folder).unwrap();
        Log::bootstrap(&mut disk, 5, NodeId(1), &[NodeId(1)]).unwrap();
        let mut expected = Durable::default();
        let (mut log, durable, _) = Log::open(disk, Some(5), NodeId(1), OPTIONS, None).unwrap();
        assert_eq!(durable, expected);
        expected.hard_state = HardState { term: Term(1), voted_for: Some(NodeId(1)) };
        log.append(Some(expected.hard_state), &[]).unwrap();
        for first in (1..400).step_by(10) {
            let some = entries(first..first + 10);
            log.append(None, &some).unwrap();
            log.sync().unwrap();
            expected.entries.extend(some);
        }
        assert!(log.stats().segments > 2, "{:?}", log.stats());
        drop(log);
        let disk = RealDisk::open(&folder).unwrap();
        let (log, durable, identity) = Log::open(disk, None, NodeId(1), OPTIONS, None).unwrap();
        assert_eq!(durable, expected);
        assert_eq!(identity.incarnation, 2);
        for name in log.into_disk().list().unwrap() {
            let bytes = fs::metadata(folder.join(&name)).unwrap().len();
            assert!(name == "meta" || bytes == OPTIONS.segment_bytes, "{name} has {bytes} bytes");
        }
    }

    #[test]
    fn one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let disk = RealDisk::create(folder.path()).unwrap();
        // A second handle in this process stands for another process: the lock is the handle's.
        let error = RealDisk::open(folder.path()).unwrap_err();
        assert!(matches!(error, StorageError::Locked { .. }), "{error}");
        assert!(error.to_string().contains("another process"), "{error}");
        drop(disk);
        RealDisk::open(folder.path()).unwrap();
    }

    #[test]
    fn a_folder_that_is_not_there_is_not_made_by_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let error = RealDisk::open(&missing).unwrap_err().to_string();
        assert!(error.contains("missing") && error.contains("check the path"), "{error}");
        assert!(!missing.exists());
        let file = folder.path().join("file");
        fs::write(&file, b"x").unwrap();
        assert!(RealDisk::create(&file.join("below")).is_err());
    }
}
