//! [`Disk`]: the operations on one folder of files that the log, the snapshots and the records
//! need.

use std::io;

use crate::config::Mutant;

use super::error::StorageError;

/// One folder of files.
///
/// A write survives a power cut only after [`Disk::sync`] of its file, and a created, renamed or
/// deleted name only after [`Disk::sync_dir`]. After an error of any operation but a read, the
/// state of the disk is unknown.
pub trait Disk {
    /// An open file.
    type File: std::fmt::Debug;

    /// The path of a file for messages to the operator; of the folder if `name` is empty.
    fn describe(&self, name: &str) -> String;

    /// The names of all files, sorted.
    ///
    /// # Errors
    /// If the folder cannot be read.
    fn list(&self) -> io::Result<Vec<String>>;

    /// The contents of a file.
    ///
    /// # Errors
    /// If the file cannot be read.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// Creates a file of `bytes` zeros, with disk space allocated for them, for reading and
    /// writing.
    ///
    /// # Errors
    /// If the file exists or cannot be created, or the space cannot be allocated.
    fn create(&mut self, name: &str, bytes: u64) -> io::Result<Self::File>;

    /// Opens a file for writing.
    ///
    /// # Errors
    /// If the file does not exist or cannot be opened.
    fn open(&mut self, name: &str) -> io::Result<Self::File>;

    /// Writes all of `bytes` at `offset`, within the file's length.
    ///
    /// # Errors
    /// If not all bytes could be written; some may have been.
    fn write_at(&mut self, file: &mut Self::File, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Appends all of `bytes`; `offset` is the file's length.
    ///
    /// # Errors
    /// If not all bytes could be written; some may have been.
    fn append(&mut self, file: &mut Self::File, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Opens a file for reading. It stays readable after its name is deleted.
    ///
    /// # Errors
    /// If the file does not exist or cannot be opened.
    fn open_to_read(&self, name: &str) -> io::Result<Self::File>;

    /// Length of a file in bytes.
    ///
    /// # Errors
    /// If the system does not tell.
    fn length(&self, file: &Self::File) -> io::Result<u64>;

    /// Fills `bytes` with the file's contents at `offset`.
    ///
    /// # Errors
    /// If the file cannot be read or ends before.
    fn read_at(&self, file: &Self::File, offset: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Makes all earlier writes to the file durable.
    ///
    /// # Errors
    /// If that failed. A second call that succeeds proves nothing: the system may have dropped the
    /// writes.
    fn sync(&mut self, file: &mut Self::File) -> io::Result<()>;

    /// Renames a file, replacing a file with the new name.
    ///
    /// # Errors
    /// If that failed.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Deletes a file.
    ///
    /// # Errors
    /// If that failed.
    fn delete(&mut self, name: &str) -> io::Result<()>;

    /// Deletes the name of a file that nothing has open, and frees its disk space gradually.
    ///
    /// # Errors
    /// If the name cannot be deleted.
    fn delete_in_background(&mut self, name: &str) -> io::Result<()>;

    /// Makes all earlier changes of names durable.
    ///
    /// # Errors
    /// If that failed.
    fn sync_dir(&mut self) -> io::Result<()>;

    /// A random number that no other process has drawn.
    fn draw(&mut self) -> u64;

    /// The rule that code over this disk must break: only in the simulator, with the feature
    /// `mutants`.
    fn mutant(&self) -> Option<Mutant> {
        None
    }
}

/// The error of an operation on the file `name`, or on the folder if `name` is empty; for
/// `map_err`.
pub(super) fn io_error<D: Disk>(
    disk: &D,
    action: &'static str,
    name: &str,
) -> impl FnOnce(io::Error) -> StorageError + use<D> {
    let file = disk.describe(name);
    move |source| StorageError::Io { action, file, source }
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
