//! [`ReadOnlyDisk`]: a data folder opened for checking, without changing it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::disk::Disk;
use super::error::StorageError;
use super::real_disk::{LOCK_FILE, failed};
use super::reserve::RESERVE_FILE;

/// A data folder that is only read. Deleting a file, as a start does, only hides it; all other
/// changes fail.
#[derive(Debug)]
pub struct ReadOnlyDisk {
    folder: PathBuf,
    /// Names of the deleted files, which this disk hides.
    deleted: Vec<String>,
    /// Handle of the locked lock file; `None` if the folder has none.
    _lock: Option<File>,
}

impl ReadOnlyDisk {
    /// Opens an existing folder, and locks it against a starting replica if it has a lock file.
    ///
    /// # Errors
    /// If the folder cannot be opened, or another process has it open.
    pub fn open(folder: &Path) -> Result<ReadOnlyDisk, StorageError> {
        fs::read_dir(folder).map_err(|source| failed("open", folder, source))?;
        let path = folder.join(LOCK_FILE);
        let lock = match File::open(&path) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(failed("open", &path, source)),
        };
        match lock.as_ref().map(File::try_lock) {
            None | Some(Ok(())) => {}
            Some(Err(TryLockError::WouldBlock)) => {
                return Err(StorageError::Locked { folder: folder.display().to_string() });
            }
            Some(Err(TryLockError::Error(source))) => return Err(failed("lock", &path, source)),
        }
        Ok(ReadOnlyDisk { folder: folder.to_owned(), deleted: Vec::new(), _lock: lock })
    }

    /// Returns the names of the files that were deleted, and so are hidden.
    pub fn deleted(&self) -> &[String] {
        &self.deleted
    }
}

/// Returns the error for an operation that would change the folder.
fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Disk for ReadOnlyDisk {
    type File = File;

    fn describe(&self, name: &str) -> String {
        if name.is_empty() { self.folder.clone() } else { self.folder.join(name) }
            .display()
            .to_string()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for file in fs::read_dir(&self.folder)? {
            let name = file?.file_name().to_string_lossy().into_owned();
            if name != LOCK_FILE && name != RESERVE_FILE && !self.deleted.contains(&name) {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.folder.join(name))
    }

    fn create(&mut self, _: &str, _: u64) -> io::Result<File> {
        refused()
    }

    fn open(&mut self, _: &str) -> io::Result<File> {
        refused()
    }

    fn write_at(&mut self, _: &mut File, _: u64, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn append(&mut self, _: &mut File, _: u64, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn open_to_read(&self, name: &str) -> io::Result<File> {
        File::open(self.folder.join(name))
    }

    fn length(&self, file: &File) -> io::Result<u64> {
        Ok(file.metadata()?.len())
    }

    fn read_at(&self, file: &File, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        file.read_exact_at(bytes, offset)
    }

    fn sync(&mut self, _: &mut File) -> io::Result<()> {
        refused()
    }

    fn rename(&mut self, _: &str, _: &str) -> io::Result<()> {
        refused()
    }

    fn delete(&mut self, name: &str) -> io::Result<()> {
        self.deleted.push(name.to_owned());
        Ok(())
    }

    fn delete_in_background(&mut self, name: &str) -> io::Result<()> {
        self.delete(name)
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn draw(&mut self) -> u64 {
        1
    }
}
