//! The reserve: a file that holds room on a replica's disk for what must be stored when somebody
//! else has taken all the rest. It is given up piece by piece, and made whole again when there is
//! room.
//!
//! Only what is new and depends on nothing is made with its help: a file that could not be
//! preallocated is none yet, so to try that once more loses nothing (safety.md D1, D2).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::disk::set_aside;

/// The file. Nothing depends on what it holds, which is nothing.
pub const RESERVE_FILE: &str = "reserve";
/// It is given up in pieces of this.
const PIECE_BYTES: u64 = 1 << 20;

/// How much room there is on a replica's disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FreeSpace {
    /// Bytes that are free for anybody.
    pub free: u64,
    /// Bytes that the reserve holds.
    pub held: u64,
}

impl FreeSpace {
    /// All that this replica can still store.
    pub fn bytes(self) -> u64 {
        self.free.saturating_add(self.held)
    }
}

/// The file and what it holds.
#[derive(Debug, Default)]
pub(super) struct Reserve {
    path: PathBuf,
    /// `None` where none is kept.
    file: Option<File>,
    wanted: u64,
    held: u64,
}

impl Reserve {
    /// What the process before left there.
    pub(super) fn of(folder: &Path) -> Reserve {
        let path = folder.join(RESERVE_FILE);
        let file = OpenOptions::new().write(true).open(&path).ok();
        let about = file.as_ref().and_then(|file| file.metadata().ok());
        // A length alone may be a hole.
        let held = about.map_or(0, |about| about.len().min(about.blocks() * 512));
        Reserve { path, file, wanted: held, held }
    }

    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// From now on it is to hold so many bytes.
    pub(super) fn want(&mut self, bytes: u64) -> io::Result<()> {
        self.wanted = bytes;
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
        file.set_len(self.held)?;
        self.file = Some(file);
        Ok(())
    }

    /// Makes it whole, as far as there is room.
    pub(super) fn refill(&mut self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        while self.held < self.wanted {
            let more = (self.held + PIECE_BYTES).min(self.wanted);
            match set_aside(file, more) {
                Ok(true) => self.held = more,
                // This file system can't hold room.
                Ok(false) => return self.want(0),
                Err(error) if is_full(&error) => return file.set_len(self.held),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Gives so many bytes up, or a little more. False if it holds nothing any more.
    pub(super) fn give_up(&mut self, bytes: u64) -> io::Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        if self.held == 0 {
            return Ok(false);
        }
        let left = self.held.saturating_sub(bytes.max(1).next_multiple_of(PIECE_BYTES));
        file.set_len(left)?;
        self.held = left;
        Ok(true)
    }
}

/// Whether this is for want of room.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_filled_given_up_in_pieces_and_filled_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut reserve = Reserve::of(folder.path());
        assert!(!reserve.give_up(1).unwrap(), "there is none");
        reserve.want(3 * PIECE_BYTES + 5).unwrap();
        reserve.refill().unwrap();
        let length = || fs::metadata(folder.path().join(RESERVE_FILE)).unwrap().len();
        assert_eq!((reserve.held(), length()), (3 * PIECE_BYTES + 5, 3 * PIECE_BYTES + 5));
        assert!(reserve.give_up(PIECE_BYTES + 1).unwrap());
        assert_eq!((reserve.held(), length()), (PIECE_BYTES + 5, PIECE_BYTES + 5));
        assert!(reserve.give_up(u64::MAX / 2).unwrap());
        assert_eq!((reserve.held(), length()), (0, 0));
        assert!(!reserve.give_up(1).unwrap());
        reserve.refill().unwrap();
        assert_eq!(reserve.held(), 3 * PIECE_BYTES + 5);
        let mut next = Reserve::of(folder.path());
        assert!(next.held() >= 3 * PIECE_BYTES, "{}", next.held());
        next.want(PIECE_BYTES).unwrap();
        assert_eq!((next.held(), length()), (PIECE_BYTES, PIECE_BYTES));
        reserve.want(0).unwrap();
        assert_eq!(reserve.held(), 0);
        assert!(!folder.path().join(RESERVE_FILE).exists());
    }
}
