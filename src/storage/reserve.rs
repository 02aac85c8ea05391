//! The disk reserve: a file that occupies disk space, so that a replica can still create files when
//! the disk is full. Its space is released in pieces, and reclaimed once there is free space.
//!
//! Space is released only to create new files. A file that could not be preallocated contains no
//! data yet, so it is safe to try again, unlike after a failed write.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Name of the file that reserves disk space, to be released when the disk is full. Its contents
/// have no meaning.
pub const RESERVE_FILE: &str = "reserve";
/// Number of bytes by which the disk reserve (the file `reserve`) grows or shrinks at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// Disk space available to a replica: the file system's free space and the replica's own disk
/// reserve.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FreeSpace {
    /// Free space of the file system in bytes, available to any process.
    pub free: u64,
    /// Size in bytes of the disk reserve, the file `reserve`, whose space only this replica can
    /// release.
    pub held: u64,
}

impl FreeSpace {
    /// Returns the number of bytes that this replica can still store: free space plus disk reserve.
    pub fn bytes(self) -> u64 {
        self.free.saturating_add(self.held)
    }
}

/// The disk reserve: a file that occupies disk space, which is released when the disk is full.
///
/// Invariant: `held <= target`.
#[derive(Debug, Default)]
pub(super) struct Reserve {
    path: PathBuf,
    /// The open reserve file; `None` if the replica keeps no reserve.
    file: Option<File>,
    /// Configured size of the reserve file in bytes, to which it grows when there is free space.
    target: u64,
    /// Disk space that the reserve file occupies now, in bytes.
    held: u64,
}

impl Reserve {
    /// Opens the disk reserve that an earlier process left in the folder. Returns an empty reserve
    /// if there is none.
    pub(super) fn open(folder: &Path) -> Reserve {
        let path = folder.join(RESERVE_FILE);
        let file = OpenOptions::new().write(true).open(&path).ok();
        let about = file.as_ref().and_then(|file| file.metadata().ok());
        // Not the length alone: a sparse file holds no space.
        let held = about.map_or(0, |about| about.len().min(about.blocks() * 512));
        Reserve { path, file, target: held, held }
    }

    /// Returns the disk space that the reserve file occupies now, in bytes.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// Sets the configured size of the reserve file in bytes; zero deletes the file. Shrinks a
    /// larger file at once, but does not grow a smaller one; see [`Reserve::refill`].
    pub(super) fn set_target(&mut self, bytes: u64) -> io::Result<()> {
        self.target = bytes;
        if bytes == 0 {
            self.file = None;
            self.held = 0;
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).open(&self.path)?;
        self.held = self.held.min(bytes);
        assert!(self.held <= self.target, "{} of {} bytes held", self.held, self.target);
        file.set_len(self.held)?;
        self.file = Some(file);
        Ok(())
    }

    /// Grows the reserve file to its configured size, as far as free space allows.
    pub(super) fn refill(&mut self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        while self.held < self.target {
            let more = (self.held + PIECE_BYTES).min(self.target);
            match preallocate(file, more) {
                Ok(true) => self.held = more,
                // This file system cannot reserve space.
                Ok(false) => return self.set_target(0),
                Err(error) if is_full(&error) => return file.set_len(self.held),
                Err(error) => return Err(error),
            }
        }
        assert!(self.held <= self.target, "{} of {} bytes held", self.held, self.target);
        Ok(())
    }

    /// Releases `bytes` bytes of the reserve, rounded up to a multiple of 1 MiB, to the file
    /// system. Returns false if the reserve was already empty.
    pub(super) fn release(&mut self, bytes: u64) -> io::Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        if self.held == 0 {
            return Ok(false);
        }
        let left = self.held.saturating_sub(bytes.max(1).next_multiple_of(PIECE_BYTES));
        assert!(left < self.held, "{bytes} bytes of {} would release nothing", self.held);
        file.set_len(left)?;
        self.held = left;
        Ok(true)
    }
}

/// Sets the length of a new file to `bytes` bytes and preallocates its disk space. Later writes
/// then cannot fail because the disk is full, and syncs are faster because the length does not
/// change. Returns false if the file system does not support preallocation: only the length is set
/// then.
pub(super) fn preallocate(file: &File, bytes: u64) -> io::Result<bool> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::retry_on_intr;
    assert!(bytes > 0, "a preallocation of nothing");
    // A signal can interrupt the call, also one that stops and continues the process.
    match retry_on_intr(|| fallocate(file, FallocateFlags::empty(), 0, bytes)) {
        Ok(()) => Ok(true),
        // This costs speed and an early report of a full disk, but no safety.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            file.set_len(bytes).map(|()| false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Returns whether an operation failed because the disk is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_space_reserve_is_released_in_pieces_and_refilled() {
        let folder = tempfile::tempdir().unwrap();
        let mut reserve = Reserve::open(folder.path());
        assert!(!reserve.release(1).unwrap(), "there is no reserve");
        reserve.set_target(3 * PIECE_BYTES + 5).unwrap();
        reserve.refill().unwrap();
        let length = || fs::metadata(folder.path().join(RESERVE_FILE)).unwrap().len();
        assert_eq!((reserve.held(), length()), (3 * PIECE_BYTES + 5, 3 * PIECE_BYTES + 5));
        assert!(reserve.release(PIECE_BYTES + 1).unwrap());
        assert_eq!((reserve.held(), length()), (PIECE_BYTES + 5, PIECE_BYTES + 5));
        assert!(reserve.release(u64::MAX / 2).unwrap());
        assert_eq!((reserve.held(), length()), (0, 0));
        assert!(!reserve.release(1).unwrap());
        reserve.refill().unwrap();
        assert_eq!(reserve.held(), 3 * PIECE_BYTES + 5);
        let mut next = Reserve::open(folder.path());
        assert!(next.held() >= 3 * PIECE_BYTES, "{}", next.held());
        next.set_target(PIECE_BYTES).unwrap();
        assert_eq!((next.held(), length()), (PIECE_BYTES, PIECE_BYTES));
        reserve.set_target(0).unwrap();
        assert_eq!(reserve.held(), 0);
        assert!(!folder.path().join(RESERVE_FILE).exists());
    }
}
