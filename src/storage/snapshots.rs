//! [`Snapshots`]: snapshot files. A snapshot replaces the log up to the snapshot's last entry. Its
//! contents are opaque here; the caller's [`SnapshotCheck`] verifies them.
//!
//! | file | contents |
//! |---|---|
//! | `snapshot-<index>-<term>` | complete, durable and verified; named after its last entry |
//! | `snapshot-own.new` | being written by this replica |
//! | `snapshot-incoming.new` | the chunks of a leader's snapshot received so far |
//!
//! A snapshot is written under a temporary name, synced, read back and verified, and renamed, and
//! the folder is synced. Only then is the snapshot complete, and the previous one may be deleted
//! ([`Snapshots::drop_previous`]). The previous one is deleted at the latest when the next one is
//! begun, so there are never more than two, an unfinished one included. Failures with a temporary
//! file do not affect complete snapshots.
//!
//! A snapshot can be read while it is replaced: a file opened for a follower stays readable after
//! its name is deleted.

use bytes::Bytes;

use crate::config::Mutant;
use crate::raft::SnapshotId;
use crate::types::{EntryId, Index};

use super::disk::{Disk, io_error};
use super::error::StorageError;
use super::failpoint::reach;
use super::wrong_state;

const PREFIX: &str = "snapshot-";
/// Maximum number of bytes written to a new snapshot between two syncs. A larger sync would delay
/// the syncs of the log.
const UNSYNCED_BYTES_MAX: u64 = 4 << 20;
/// Number of bytes that are read at a time to verify a snapshot.
const PIECE_BYTES: usize = 256 << 10;

/// Verifies a snapshot while its contents are read piece by piece.
pub trait SnapshotCheck {
    /// Decoded contents of a snapshot that [`SnapshotCheck::finish`] returns; `()` if snapshots are
    /// verified but not decoded.
    type Whole;

    /// Checks the next bytes of the snapshot.
    ///
    /// # Errors
    /// Returns a description of the damage if the bytes are not valid.
    fn feed(&mut self, piece: &[u8]) -> Result<(), String>;

    /// Ends the verification after the last piece. Returns the snapshot's id and decoded contents.
    ///
    /// # Errors
    /// Returns a description of the damage if the snapshot is not valid or bytes are missing at its
    /// end.
    fn finish(self) -> Result<(SnapshotId, Self::Whole), String>;
}

/// Origin of a snapshot that is being written. At most one snapshot of each origin is written at a
/// time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotSource {
    /// This replica takes the snapshot of its own state.
    Own,
    /// This replica receives the snapshot in chunks from the leader.
    Incoming,
}

impl SnapshotSource {
    const fn file_name(self) -> &'static str {
        match self {
            SnapshotSource::Own => "snapshot-own.new",
            SnapshotSource::Incoming => "snapshot-incoming.new",
        }
    }

    /// Returns the name prefix of the failpoints (places where a crash test kills the process) that
    /// are reached while a snapshot from this source is written.
    const fn scope(self) -> &'static str {
        match self {
            SnapshotSource::Own => "snapshot-own",
            SnapshotSource::Incoming => "snapshot-incoming",
        }
    }
}

/// A snapshot that is being written. It must be passed to [`Snapshots::finish`] or
/// [`Snapshots::abandon`]. If it is dropped, its file stays until the next snapshot from the same
/// source is begun.
///
/// Invariant: `synced_bytes <= bytes`.
#[derive(Debug)]
pub struct SnapshotWriter<F> {
    file: F,
    source: SnapshotSource,
    bytes: u64,
    synced_bytes: u64,
}

impl<F> SnapshotWriter<F> {
    /// Returns the number of bytes written to the snapshot so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// The snapshots that were found in the folder when the replica started.
#[derive(Debug)]
pub struct Loaded<W> {
    /// Id and decoded contents of the latest undamaged snapshot; `None` if there is no such
    /// snapshot.
    pub latest: Option<(SnapshotId, W)>,
    /// An error for each damaged snapshot that is later than `latest`.
    /// [`Recovered::check_snapshot`](super::Recovered) checks that the log has the entries of these
    /// snapshots.
    pub damaged: Vec<StorageError>,
}

/// The snapshot files of a replica, in the same folder as its log.
///
/// Invariant: the last entry of `previous` is before that of `latest`.
#[derive(Debug)]
pub struct Snapshots<D: Disk> {
    disk: D,
    latest: Option<SnapshotId>,
    /// Id of the complete snapshot before the latest one; `None` if there is none or it was
    /// deleted.
    previous: Option<SnapshotId>,
    /// Id of a snapshot that was the latest until its file was found damaged; `None` if there is
    /// none. The damaged file stays until a snapshot that ends at the same entry or later is
    /// complete.
    lost: Option<SnapshotId>,
    /// Snapshot files that stay open while followers download them.
    open: Vec<Reading<D::File>>,
}

/// A snapshot file that stays open while followers download it.
#[derive(Debug)]
struct Reading<F> {
    id: SnapshotId,
    file: F,
    /// Whether a follower has read from the file since the last snapshot was completed. If not, the
    /// file is closed when the next snapshot is completed.
    in_use: bool,
}

impl<D: Disk> Snapshots<D> {
    /// Opens the snapshots in the folder, and deletes unfinished ones. Does not read any snapshot
    /// yet; [`Snapshots::load`] does.
    ///
    /// # Errors
    /// If the folder cannot be read or written.
    pub fn open(mut disk: D) -> Result<Snapshots<D>, StorageError> {
        for name in list(&disk)? {
            if SOURCES.iter().any(|source| source.file_name() == name) {
                delete(&mut disk, &name)?;
            }
        }
        Ok(Snapshots { disk, latest: None, previous: None, lost: None, open: Vec::new() })
    }

    /// Reads and verifies the latest snapshot, or the latest undamaged one if there are damaged
    /// ones. `new_check` creates the verifier of each snapshot that is read. Must be called once,
    /// before the log is opened. Loads none if the state in the folder is marked as wrong.
    ///
    /// # Errors
    /// If the folder or a file cannot be read.
    pub fn load<C: SnapshotCheck>(
        &mut self,
        mut new_check: impl FnMut() -> C,
    ) -> Result<Loaded<C::Whole>, StorageError> {
        assert!(self.latest.is_none() && self.open.is_empty(), "snapshots are loaded once");
        let mut names = list(&self.disk)?;
        if wrong_state::is_marked(&names) {
            names.clear();
        }
        let mut found: Vec<_> =
            names.iter().filter_map(|name| Some((end_of(name)?, name))).collect();
        found.sort_unstable_by_key(|(last, _)| (last.index, last.term));
        let mut loaded = Loaded { latest: None, damaged: Vec::new() };
        for (last, name) in found.into_iter().rev() {
            match self.read_whole(name, last, new_check()) {
                Ok((id, whole)) => {
                    self.latest = Some(id);
                    loaded.latest = Some((id, whole));
                    break;
                }
                Err(error @ StorageError::Snapshot { .. }) => loaded.damaged.push(error),
                Err(error) => return Err(error),
            }
        }
        Ok(loaded)
    }

    /// Returns the id of the latest complete and durable snapshot; `None` if there is none.
    pub fn latest(&self) -> Option<SnapshotId> {
        self.latest
    }

    /// Verifies the snapshot `id` again after a follower rejected it as damaged. Does nothing if it
    /// is not the latest snapshot. If the snapshot is damaged or cannot be read, it is no longer
    /// sent to followers and may be replaced by another snapshot with the same last entry. Its file
    /// stays until then, so that a restart does not mistake an older snapshot for the latest.
    ///
    /// # Errors
    /// If the snapshot is damaged or cannot be read.
    pub fn recheck<C: SnapshotCheck>(
        &mut self,
        id: SnapshotId,
        check: C,
    ) -> Result<(), StorageError> {
        if self.latest != Some(id) {
            return Ok(());
        }
        let name = file_name(id.last);
        let error = match self.read_whole(&name, id.last, check) {
            Ok((found, _)) if found == id => return Ok(()),
            Ok(_) => self.other_than(&name, id),
            Err(error) => error,
        };
        self.open.retain(|reading| reading.id != id);
        self.lost = Some(id);
        self.latest = self.previous.take();
        Err(error)
    }

    /// Returns whether [`Snapshots::recheck`] found the snapshot `id` damaged and no other snapshot
    /// has replaced it yet.
    pub fn is_lost(&self, id: SnapshotId) -> bool {
        self.lost == Some(id)
    }

    /// Creates the file of a new snapshot. To free disk space, first deletes an unfinished snapshot
    /// from the same source and all complete snapshots before the latest.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn begin(
        &mut self,
        source: SnapshotSource,
    ) -> Result<SnapshotWriter<D::File>, StorageError> {
        let new = source.file_name();
        let latest = self.latest.map(|latest| file_name(latest.last));
        for name in list(&self.disk)? {
            // A damaged snapshot that is later than the latest undamaged one stays, because it is
            // not known yet whether the log contains its entries.
            let older = end_of(&name)
                .is_some_and(|last| self.latest.is_some_and(|it| last.index < it.last.index));
            let early = self.disk.mutant() == Some(Mutant::RemoveLatestSnapshotEarly)
                && Some(&name) == latest.as_ref();
            if name == new || (older && Some(&name) != latest.as_ref()) || early {
                self.delete_in_background(&name)?;
            }
        }
        self.previous = None;
        let file = self.disk.create(new, 0).map_err(io_error(&self.disk, "create", new))?;
        reach(source.scope(), "created");
        Ok(SnapshotWriter { file, source, bytes: 0, synced_bytes: 0 })
    }

    /// Appends bytes to a snapshot that is being written. Each call writes to the file, so the
    /// caller should combine small pieces.
    ///
    /// # Errors
    /// If the write failed; complete snapshots are not affected. If the disk is full, the caller
    /// may abandon this snapshot; after any other error the process must exit.
    pub fn write(
        &mut self,
        writer: &mut SnapshotWriter<D::File>,
        bytes: &[u8],
    ) -> Result<(), StorageError> {
        let name = writer.source.file_name();
        self.disk
            .append(&mut writer.file, writer.bytes, bytes)
            .map_err(io_error(&self.disk, "write", name))?;
        writer.bytes += bytes.len() as u64;
        reach(writer.source.scope(), "written");
        if writer.bytes - writer.synced_bytes >= UNSYNCED_BYTES_MAX {
            self.sync(writer)?;
        }
        Ok(())
    }

    fn sync(&mut self, writer: &mut SnapshotWriter<D::File>) -> Result<(), StorageError> {
        let name = writer.source.file_name();
        self.disk.sync(&mut writer.file).map_err(io_error(&self.disk, "sync", name))?;
        assert!(writer.synced_bytes <= writer.bytes, "synced beyond the end of {name}");
        writer.synced_bytes = writer.bytes;
        Ok(())
    }

    /// Completes a snapshot: syncs the file, reads it back, verifies its contents and that its id
    /// is `id`, and makes it the latest snapshot. If the latest snapshot already ends at the same
    /// entry or later, deletes the new one instead. Returns the decoded contents in both cases.
    ///
    /// # Errors
    /// [`StorageError::Snapshot`] if the new snapshot is damaged or its id is not `id`: the new
    /// snapshot is then deleted, and the existing snapshots stay. Other errors as with
    /// [`Snapshots::write`].
    pub fn finish<C: SnapshotCheck>(
        &mut self,
        mut writer: SnapshotWriter<D::File>,
        id: SnapshotId,
        check: C,
    ) -> Result<C::Whole, StorageError> {
        let (new, scope) = (writer.source.file_name(), writer.source.scope());
        let synced = match self.disk.mutant() {
            Some(Mutant::UnsyncedSnapshot) => Ok(()),
            _ => self.sync(&mut writer),
        };
        drop(writer);
        if synced.is_err() {
            // The disk may be full: free its space.
            delete(&mut self.disk, new)?;
        }
        synced?;
        reach(scope, "synced");
        let whole = match self.read_whole(new, id.last, check) {
            Ok((found, whole)) if found == id => whole,
            other => {
                self.delete_in_background(new)?;
                return Err(other.err().unwrap_or_else(|| self.other_than(new, id)));
            }
        };
        if self.latest.is_some_and(|latest| latest.last.index >= id.last.index)
            || self.lost.is_some_and(|lost| lost.last.index > id.last.index)
        {
            self.delete_in_background(new)?;
            return Ok(whole);
        }
        reach(scope, "verified");
        let name = file_name(id.last);
        self.disk.rename(new, &name).map_err(io_error(&self.disk, "rename", new))?;
        reach(scope, "renamed");
        if self.disk.mutant() != Some(Mutant::UnsyncedSnapshotName) {
            self.disk.sync_dir().map_err(io_error(&self.disk, "sync", ""))?;
        }
        reach(scope, "durable");
        self.previous = self.latest.replace(id);
        assert!(
            self.previous.is_none_or(|previous| previous.last.index < id.last.index),
            "{id:?} replaces {:?}",
            self.previous
        );
        self.lost = None;
        let previous = self.previous;
        for other in list(&self.disk)? {
            let is_kept = |last| last == id.last || previous.is_some_and(|it| it.last == last);
            if end_of(&other).is_some_and(|last| !is_kept(last)) {
                self.delete_in_background(&other)?;
            }
        }
        self.open.retain(|reading| reading.in_use);
        assert!(self.latest == Some(id), "{:?} in place of {id:?}", self.latest);
        for reading in &mut self.open {
            reading.in_use = false;
        }
        Ok(whole)
    }

    /// Deletes the complete snapshot before the latest one, if there is one. Followers that are
    /// downloading it through [`Snapshots::read`] can finish.
    ///
    /// # Errors
    /// If the file cannot be deleted.
    pub fn drop_previous(&mut self) -> Result<(), StorageError> {
        let Some(previous) = self.previous.take() else { return Ok(()) };
        let latest = self.latest.map_or(Index::ZERO, |latest| latest.last.index);
        assert!(previous.last.index < latest, "{previous:?} is not before {latest}");
        self.delete_in_background(&file_name(previous.last))?;
        reach("snapshot", "previous-deleted");
        Ok(())
    }

    /// Deletes the unfinished snapshot that `writer` was writing.
    ///
    /// # Errors
    /// If the file cannot be deleted.
    pub fn abandon(&mut self, writer: SnapshotWriter<D::File>) -> Result<(), StorageError> {
        let name = writer.source.file_name();
        drop(writer);
        self.delete_in_background(name)
    }

    /// Deletes a snapshot file's name at once. Frees its disk space in the background, or when it
    /// is closed if followers are still downloading it.
    fn delete_in_background(&mut self, name: &str) -> Result<(), StorageError> {
        let is_latest = self.latest.is_some_and(|latest| file_name(latest.last) == name);
        assert!(!is_latest || self.disk.mutant().is_some(), "the latest snapshot {name} is in use");
        if self.open.iter().any(|reading| file_name(reading.id.last) == name) {
            return delete(&mut self.disk, name);
        }
        self.disk.delete_in_background(name).map_err(io_error(&self.disk, "delete", name))
    }

    /// Reads up to `bytes_max` bytes of a snapshot from byte `offset` on, to send them to a
    /// follower. Returns `None` if the snapshot is neither the latest nor the previous one, nor
    /// still open from an earlier read.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(
        &mut self,
        id: SnapshotId,
        offset: u64,
        bytes_max: usize,
    ) -> Result<Option<Bytes>, StorageError> {
        let name = file_name(id.last);
        let place = match self.open.iter().position(|reading| reading.id == id) {
            Some(place) => place,
            None if self.latest == Some(id) || self.previous == Some(id) => {
                let file =
                    self.disk.open_to_read(&name).map_err(io_error(&self.disk, "open", &name))?;
                self.open.push(Reading { id, file, in_use: true });
                self.open.len() - 1
            }
            None => return Ok(None),
        };
        let reading = &mut self.open[place];
        reading.in_use = true;
        assert!(reading.id == id, "{:?} is open for {id:?}", reading.id);
        let left = usize::try_from(id.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; left.min(bytes_max)];
        self.disk
            .read_at(&reading.file, offset, &mut bytes)
            .map_err(io_error(&self.disk, "read", &name))?;
        Ok(Some(Bytes::from(bytes)))
    }

    /// Returns the disk that stores the snapshots, so that a simulation can plan disk faults.
    pub fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }

    /// Closes all snapshot files, and returns the disk that stores them.
    pub fn into_disk(self) -> D {
        self.disk
    }

    fn other_than(&self, name: &str, id: SnapshotId) -> StorageError {
        let what = format!("its contents are not those of {id:?}");
        StorageError::Snapshot { file: self.disk.describe(name), what }
    }

    /// Reads a whole snapshot file and verifies it with `check`. Fails if the id of the snapshot's
    /// last entry is not `last`.
    fn read_whole<C: SnapshotCheck>(
        &self,
        name: &str,
        last: EntryId,
        mut check: C,
    ) -> Result<(SnapshotId, C::Whole), StorageError> {
        let damaged = |what| StorageError::Snapshot { file: self.disk.describe(name), what };
        let file = self.disk.open_to_read(name).map_err(io_error(&self.disk, "open", name))?;
        let length = self.disk.length(&file).map_err(io_error(&self.disk, "read", name))?;
        let mut piece = Vec::new();
        for offset in (0..length).step_by(PIECE_BYTES) {
            let left = usize::try_from(length - offset).unwrap_or(usize::MAX);
            piece.resize(left.min(PIECE_BYTES), 0);
            self.disk
                .read_at(&file, offset, &mut piece)
                .map_err(io_error(&self.disk, "read", name))?;
            check.feed(&piece).map_err(damaged)?;
        }
        let (id, whole) = check.finish().map_err(damaged)?;
        if id.last != last || id.bytes != length {
            return Err(damaged(format!(
                "{} bytes up to entry {}, expected {length} bytes up to entry {last}",
                id.bytes, id.last
            )));
        }
        Ok((id, whole))
    }
}

const SOURCES: [SnapshotSource; 2] = [SnapshotSource::Own, SnapshotSource::Incoming];

/// Returns the file name of the snapshot whose last entry is `last`. File names sort in the order
/// of the last entries' indexes.
fn file_name(last: EntryId) -> String {
    format!("{PREFIX}{:020}-{}", last.index.0, last.term.0)
}

/// Returns the id of the last entry of the snapshot with this file name; `None` if the file is not
/// a snapshot.
pub(super) fn end_of(name: &str) -> Option<EntryId> {
    let (index, term) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let last = EntryId::new(term.parse().ok()?, index.parse().ok()?);
    (file_name(last) == name).then_some(last)
}

/// Returns whether a file is a completely written snapshot. It may be damaged nevertheless.
pub(super) fn is_snapshot(name: &str) -> bool {
    end_of(name).is_some()
}

/// Returns the file name of the latest snapshot among the files `names`, and the id of its last
/// entry. The snapshot may be damaged. `None` if there is no snapshot.
pub(super) fn newest_snapshot(names: &[String]) -> Option<(&str, EntryId)> {
    let found = names.iter().filter_map(|name| Some((name.as_str(), end_of(name)?)));
    found.max_by_key(|(_, last)| (last.index, last.term))
}

fn list<D: Disk>(disk: &D) -> Result<Vec<String>, StorageError> {
    disk.list().map_err(io_error(disk, "list", ""))
}

fn delete<D: Disk>(disk: &mut D, name: &str) -> Result<(), StorageError> {
    disk.delete(name).map_err(io_error(disk, "delete", name))
}
