//! [`RealDisk`]: a folder of the machine's file system.
#![allow(clippy::disallowed_types, reason = "stages on several threads share one reserve")]

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::background_delete::BackgroundDelete;
use super::disk::Disk;
use super::error::StorageError;
use super::reserve::{FreeSpace, RESERVE_FILE, Reserve, is_full, preallocate};

/// Name of the file that a process locks while it has the folder open. The file is empty, and need
/// not survive a power cut.
pub(super) const LOCK_FILE: &str = "lock";

/// A replica's data folder in the file system, locked against other processes while any handle to
/// it exists.
#[derive(Debug)]
pub struct RealDisk {
    folder: PathBuf,
    /// Handle of the open folder, used to sync its directory entries.
    handle: File,
    /// Handle of the lock file. The lock is released when the last copy of this handle is closed,
    /// or the process ends.
    lock: File,
    /// The disk reserve: a file whose space is released when the disk is full, shared by all
    /// handles of the folder. The mutex is held only while a file is created, the reserve is
    /// resized or free space is measured.
    reserve: Arc<Mutex<Reserve>>,
    background_delete: Arc<BackgroundDelete>,
}

impl RealDisk {
    /// Opens a folder for `--bootstrap` or `--rejoin`, and creates it first if it does not exist.
    ///
    /// # Errors
    /// If the folder cannot be created, opened or written, or another process has it open.
    pub fn create(folder: &Path) -> Result<RealDisk, StorageError> {
        make_folder(folder)?;
        RealDisk::open(folder)
    }

    /// Opens an existing folder.
    ///
    /// # Errors
    /// If the folder cannot be opened or written, or another process has it open.
    pub fn open(folder: &Path) -> Result<RealDisk, StorageError> {
        let handle = File::open(folder).map_err(|source| failed("open", folder, source))?;
        let path = folder.join(LOCK_FILE);
        let lock = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|source| failed("open", &path, source))?;
        match lock.try_lock() {
            Ok(()) => {
                let reserve = Arc::new(Mutex::new(Reserve::open(folder)));
                let background_delete = Arc::default();
                Ok(RealDisk { folder: folder.to_owned(), handle, lock, reserve, background_delete })
            }
            Err(TryLockError::WouldBlock) => {
                Err(StorageError::Locked { folder: folder.display().to_string() })
            }
            Err(TryLockError::Error(source)) => Err(failed("lock", &path, source)),
        }
    }

    /// Returns another handle of the same folder under the same lock. The log writer uses one
    /// handle; the writers of snapshots and of peer records use their own.
    ///
    /// # Errors
    /// If the process has no file descriptor left.
    pub fn share(&self) -> Result<RealDisk, StorageError> {
        let again = |file: &File| {
            file.try_clone()
                .map_err(|source| failed("open another handle of", &self.folder, source))
        };
        let (handle, lock) = (again(&self.handle)?, again(&self.lock)?);
        let reserve = Arc::clone(&self.reserve);
        let background_delete = Arc::clone(&self.background_delete);
        Ok(RealDisk { folder: self.folder.clone(), handle, lock, reserve, background_delete })
    }

    /// Sets the size of the disk reserve (a file whose space is released when the disk is full) to
    /// `bytes` bytes, and grows the file as far as free space allows.
    ///
    /// # Errors
    /// If the reserve file cannot be created or resized.
    pub fn keep_reserve(&self, bytes: u64) -> Result<(), StorageError> {
        let mut reserve = self.reserve();
        let kept = reserve.set_target(bytes).and_then(|()| reserve.refill());
        kept.map_err(|source| failed("reserve disk space in", &self.folder, source))
    }

    /// Grows the disk reserve (a file whose space is released when the disk is full) back to its
    /// configured size, as far as free space allows.
    ///
    /// # Errors
    /// If the reserve file cannot be resized.
    pub fn refill_reserve(&self) -> Result<(), StorageError> {
        let refilled = self.reserve().refill();
        refilled.map_err(|source| failed("reserve disk space in", &self.folder, source))
    }

    /// Returns the free disk space of the folder's file system, and the current size of the disk
    /// reserve.
    ///
    /// # Errors
    /// If the file system does not report its free space.
    pub fn free_space(&self) -> Result<FreeSpace, StorageError> {
        let counts = rustix::fs::fstatvfs(&self.handle)
            .map_err(|source| failed("measure the free space of", &self.folder, source.into()))?;
        let free = counts.f_bavail.saturating_mul(counts.f_frsize);
        Ok(FreeSpace { free, held: self.reserve().held() })
    }

    /// Returns the path of this data folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn reserve(&self) -> MutexGuard<'_, Reserve> {
        self.reserve.lock()
    }

    /// Runs `create`, which needs `bytes` bytes of disk space. While it fails because the disk is
    /// full, frees space and runs it again: first the space of deleted files that still occupy the
    /// disk, then space of the disk reserve, until the reserve is empty.
    fn with_reserve<T>(
        &self,
        bytes: u64,
        mut create: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            match create() {
                Err(error) if is_full(&error) && self.background_delete.finish() => {}
                Err(error) if is_full(&error) && self.reserve().release(bytes)? => {}
                result => return result,
            }
        }
    }
}

/// An open file, with one handle for direct I/O and one for I/O through the page cache.
#[derive(Debug)]
pub struct RealFile {
    file: File,
    /// Handle for direct I/O. `None` if the file is only read, or if the file system does not
    /// support direct I/O or has rejected a direct write.
    direct: Option<File>,
}

/// Alignment in bytes, in memory and in the file, of writes with direct I/O on disks with 512-byte
/// sectors. A disk with a larger sector size rejects such writes, which are then repeated through
/// the page cache.
const DIRECT_ALIGN: usize = 512;

impl RealFile {
    fn new(file: File, path: &Path) -> RealFile {
        RealFile { file, direct: open_direct(path).ok() }
    }

    fn to_read(file: File) -> RealFile {
        RealFile { file, direct: None }
    }
}

/// Opens a log file for direct I/O, which bypasses the page cache. A running replica does not read
/// its log from disk, so copying the data to the page cache would only cost time.
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
        assert!(name != LOCK_FILE && name != RESERVE_FILE, "{name} is not a file of the log");
        let path = self.folder.join(name);
        let options = OpenOptions::new().read(true).write(true).create_new(true).clone();
        let file = self.with_reserve(0, || options.open(&path))?;
        if bytes > 0 {
            self.with_reserve(bytes, || preallocate(&file, bytes))?;
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
                // Rejected, not failed: this disk needs another alignment.
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
        assert!(from != to, "{from} is renamed to itself");
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

/// Creates a folder and its missing parent folders, and makes their directory entries durable.
///
/// # Errors
/// If one of these folders cannot be created or synced.
pub fn make_folder(folder: &Path) -> Result<(), StorageError> {
    make_and_sync(folder).map_err(|source| failed("create", folder, source))
}

fn make_and_sync(folder: &Path) -> io::Result<()> {
    let above = match folder.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    if folder.is_dir() {
        // An earlier start may have created it and lost power before the sync, or an operator
        // created it: it must be durable all the same. Without read access to the folder above,
        // this user cannot have created it.
        return match File::open(above) {
            Ok(above) => above.sync_all(),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            Err(error) => Err(error),
        };
    }
    make_and_sync(above)?;
    match fs::create_dir(folder) {
        // Two replicas that start at once may create the same folder above theirs.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        other => other,
    }?;
    File::open(above)?.sync_all()
}

pub(super) fn failed(action: &'static str, path: &Path, source: io::Error) -> StorageError {
    StorageError::Io { action, file: path.display().to_string(), source }
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
    fn log_survives_a_restart_on_a_real_disk() {
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
    fn second_process_cannot_open_a_data_folder_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let disk = RealDisk::create(folder.path()).unwrap();
        // The lock belongs to the handle, so a second one in this process acts as another process.
        let error = RealDisk::open(folder.path()).unwrap_err();
        assert!(matches!(error, StorageError::Locked { .. }), "{error}");
        assert!(error.to_string().contains("another process"), "{error}");
        drop(disk);
        RealDisk::open(folder.path()).unwrap();
    }

    #[test]
    fn opening_a_missing_data_folder_does_not_create_it() {
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
