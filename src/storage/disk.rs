//! [`Disk`]: the file operations, within one folder, that the log, the snapshots and the records
//! need.

use std::io;

use crate::config::Mutant;

use super::error::StorageError;

/// One folder of files: the interface through which the storage code accesses the file system, or a
/// simulated disk in tests.
///
/// A write survives a power cut only after [`Disk::sync`] of its file; the creation, renaming or
/// deletion of a file survives only after [`Disk::sync_dir`]. If any operation except a read fails,
/// the state of the disk is unknown.
pub trait Disk {
    /// Handle of an open file on this disk.
    type File: std::fmt::Debug;

    /// Returns the path of the file `name`, for messages to the operator; the path of the folder if
    /// `name` is empty.
    fn describe(&self, name: &str) -> String;

    /// Returns the names of all files in the folder, in sorted order.
    ///
    /// # Errors
    /// If the folder cannot be read.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Returns the whole contents of a file.
    ///
    /// # Errors
    /// If the file cannot be read.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// Creates a file of `bytes` zero bytes, preallocates its disk space, and opens it for reading
    /// and writing.
    ///
    /// # Errors
    /// If the file exists or cannot be created, or the space cannot be allocated.
    fn create(&mut self, name: &str, bytes: u64) -> io::Result<Self::File>;

    /// Opens a file for writing.
    ///
    /// # Errors
    /// If the file does not exist or cannot be opened.
    fn open(&mut self, name: &str) -> io::Result<Self::File>;

    /// Writes all of `bytes` at byte `offset` of the file. The range must lie within the file's
    /// length.
    ///
    /// # Errors
    /// If the write fails. Some of the bytes may have been written.
    fn write_at(&mut self, file: &mut Self::File, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Appends all of `bytes` to the file. `offset` must be the file's current length.
    ///
    /// # Errors
    /// If the write fails. Some of the bytes may have been written.
    fn append(&mut self, file: &mut Self::File, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Opens a file for reading. The handle stays readable after the file is deleted.
    ///
    /// # Errors
    /// If the file does not exist or cannot be opened.
    fn open_to_read(&self, name: &str) -> io::Result<Self::File>;

    /// Returns the length of an open file in bytes.
    ///
    /// # Errors
    /// If the file system does not report the length.
    fn length(&self, file: &Self::File) -> io::Result<u64>;

    /// Fills the buffer `bytes` with the file's contents, starting at byte `offset` of the file.
    ///
    /// # Errors
    /// If the file cannot be read, or ends before `bytes` is full.
    fn read_at(&self, file: &Self::File, offset: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Makes all earlier writes to the file durable (`fdatasync`).
    ///
    /// # Errors
    /// If the sync failed. Retrying is useless: the operating system may have dropped the writes,
    /// so a later successful sync does not make them durable.
    fn sync(&mut self, file: &mut Self::File) -> io::Result<()>;

    /// Renames a file, replacing any file that already has the new name.
    ///
    /// # Errors
    /// If the file cannot be renamed.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Deletes a file.
    ///
    /// # Errors
    /// If the file cannot be deleted.
    fn delete(&mut self, name: &str) -> io::Result<()>;

    /// Deletes a file that this process has not opened. Removes the name at once, and frees the
    /// disk space gradually.
    ///
    /// # Errors
    /// If the name cannot be deleted.
    fn delete_in_background(&mut self, name: &str) -> io::Result<()>;

    /// Makes all earlier creations, renames and deletions of files in this folder durable (`fsync`
    /// of the directory).
    ///
    /// # Errors
    /// If the sync of the directory failed.
    fn sync_dir(&mut self) -> io::Result<()>;

    /// Returns a random 64-bit number. A replica draws one at each start to distinguish that start
    /// from all others.
    fn draw(&mut self) -> u64;

    /// Returns the safety rule that the storage code breaks on purpose, for mutation tests of the
    /// correctness checkers. `None`, which means no rule, unless the simulator was built with the
    /// feature `mutants`.
    fn mutant(&self) -> Option<Mutant> {
        None
    }
}

/// Returns a closure for `map_err` that wraps an [`io::Error`] in a [`StorageError::Io`]. The error
/// says that `action` failed on the file `name`; an empty `name` stands for the folder.
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
