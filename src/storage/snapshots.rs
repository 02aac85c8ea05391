//! Snapshots in files: the state as bytes, which take the place of the log up to their last entry.
//! Storage knows nothing of what is in them; who does checks them ([`SnapshotCheck`]).
//!
//! | file | what it is |
//! |---|---|
//! | `snapshot-<index>-<term>` | whole, durable and read back; named after its last entry |
//! | `snapshot-own.new` | one that is being taken |
//! | `snapshot-incoming.new` | a leader's, as far as its chunks have come |
//!
//! One is written under a temporary name, synced, read back and checked, renamed, and its name made
//! durable; then it counts (safety.md D8), and the one before it may go
//! ([`Snapshots::drop_previous`]). It goes at the latest when the next is begun: so there are never
//! more than two, the one in the making included. What goes wrong with a temporary file touches
//! none that counts.
//!
//! A snapshot may be read while it is replaced: what was read for a follower since stays open,
//! though it has no name any more.

use std::io;

use bytes::Bytes;

use crate::config::Mutant;
use crate::raft::SnapshotId;
use crate::types::EntryId;

use super::disk::Disk;
use super::error::StorageError;
use super::failpoint::reach;

const PREFIX: &str = "snapshot-";
/// How many bytes are written before they are synced: a sync of very much at once would let the
/// log's own syncs wait for it.
const UNSYNCED_BYTES_MAX: u64 = 4 << 20;
/// How much is read at once to check it.
const PIECE_BYTES: u64 = 256 << 10;

/// Reads a snapshot's bytes, piece by piece, to tell whether they are one.
pub trait SnapshotCheck {
    /// What they are, in the end.
    type Whole;

    /// Takes in the next piece.
    ///
    /// # Errors
    /// What is wrong with it.
    fn feed(&mut self, piece: &[u8]) -> Result<(), String>;

    /// The snapshot is whole. What it is told by, and what it is.
    ///
    /// # Errors
    /// What is wrong with it.
    fn finish(self) -> Result<(SnapshotId, Self::Whole), String>;
}

/// Who makes a snapshot: one of each at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotSource {
    /// This replica, of its own state.
    Own,
    /// A leader, in chunks.
    Incoming,
}

impl SnapshotSource {
    const fn file_name(self) -> &'static str {
        match self {
            SnapshotSource::Own => "snapshot-own.new",
            SnapshotSource::Incoming => "snapshot-incoming.new",
        }
    }

    /// How the places are called at which it can be killed (`failpoint.rs`).
    const fn place(self) -> &'static str {
        match self {
            SnapshotSource::Own => "snapshot-own",
            SnapshotSource::Incoming => "snapshot-incoming",
        }
    }
}

/// A snapshot in the making. To be given to [`Snapshots::finish`] or [`Snapshots::abandon`]; one
/// that is only dropped leaves its file until the next is begun.
#[derive(Debug)]
pub struct SnapshotWriter<F> {
    file: F,
    source: SnapshotSource,
    bytes: u64,
    synced_bytes: u64,
}

impl<F> SnapshotWriter<F> {
    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// What was found at the start.
#[derive(Debug)]
pub struct Loaded<W> {
    /// The latest snapshot that is whole, and what it is; `None` if there is none.
    pub latest: Option<(SnapshotId, W)>,
    /// Later ones that are damaged. They are told loudly, and then it is for the log to say whether
    /// it can do without them.
    pub damaged: Vec<StorageError>,
}

/// A replica's snapshots, beside its log in the same folder.
#[derive(Debug)]
pub struct Snapshots<D: Disk> {
    disk: D,
    latest: Option<SnapshotId>,
    /// The one before it, while it is there.
    previous: Option<SnapshotId>,
    /// What was the latest, and is damaged: only one that ends no earlier takes its place.
    lost: Option<SnapshotId>,
    /// Open to be read by followers.
    open: Vec<Reading<D::File>>,
}

/// A snapshot that is open.
#[derive(Debug)]
struct Reading<F> {
    id: SnapshotId,
    file: F,
    /// Read since the last time that a snapshot was finished.
    in_use: bool,
}

impl<D: Disk> Snapshots<D> {
    /// The snapshots in this folder: removes what was never completed. None is read before
    /// [`Snapshots::load`].
    ///
    /// # Errors
    /// If the folder can't be read or written.
    pub fn open(mut disk: D) -> Result<Snapshots<D>, StorageError> {
        for name in list(&disk)? {
            if SOURCES.iter().any(|source| source.file_name() == name) {
                delete(&mut disk, &name)?;
            }
        }
        Ok(Snapshots { disk, latest: None, previous: None, lost: None, open: Vec::new() })
    }

    /// Reads and checks the latest snapshot, and where that is damaged the one before it. To be
    /// called once, before the log is opened.
    ///
    /// # Errors
    /// If the folder or a file can't be read, for another reason than damage.
    pub fn load<C: SnapshotCheck>(
        &mut self,
        mut new_check: impl FnMut() -> C,
    ) -> Result<Loaded<C::Whole>, StorageError> {
        let names = list(&self.disk)?;
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

    /// The latest that is whole and durable.
    pub fn latest(&self) -> Option<SnapshotId> {
        self.latest
    }

    /// Reads a snapshot again that somebody doubts. The latest counts no more if it is damaged or
    /// can't be read: nobody is sent it again, and one with the same end may take its place. Its
    /// file stays until one has, so that nobody takes an older one for all that there was.
    ///
    /// # Errors
    /// What is wrong with it.
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

    /// Whether it was found to be damaged, and none has taken its place yet.
    pub fn is_lost(&self, id: SnapshotId) -> bool {
        self.lost == Some(id)
    }

    /// Begins one, of which nothing is known but who makes it. An unfinished one of the same source
    /// is thrown away, and so are all whole ones but the latest, to make room.
    ///
    /// # Errors
    /// If the folder can't be written.
    pub fn begin(
        &mut self,
        source: SnapshotSource,
    ) -> Result<SnapshotWriter<D::File>, StorageError> {
        let new = source.file_name();
        let latest = self.latest.map(|latest| file_name(latest.last));
        for name in list(&self.disk)? {
            // A damaged one that is later than the latest stays: the log may not have been asked
            // yet whether it can do without.
            let older = end_of(&name)
                .is_some_and(|last| self.latest.is_some_and(|it| last.index < it.last.index));
            let early = self.disk.mutant() == Some(Mutant::RemoveLatestSnapshotEarly)
                && Some(&name) == latest.as_ref();
            if name == new || (older && Some(&name) != latest.as_ref()) || early {
                self.delete_in_background(&name)?;
            }
        }
        self.previous = None;
        let file = self.disk.create(new, 0).map_err(io(&self.disk, "making", new))?;
        reach(source.place(), "made");
        Ok(SnapshotWriter { file, source, bytes: 0, synced_bytes: 0 })
    }

    /// Writes the next bytes. Small pieces are the caller's to gather.
    ///
    /// # Errors
    /// If that failed. Whole snapshots are untouched then, so for want of room this one may be
    /// abandoned; any other failure is the disk's, and the process must end.
    pub fn write(
        &mut self,
        writer: &mut SnapshotWriter<D::File>,
        bytes: &[u8],
    ) -> Result<(), StorageError> {
        let name = writer.source.file_name();
        self.disk.append(&mut writer.file, writer.bytes, bytes).map_err(io(
            &self.disk,
            "writing to",
            name,
        ))?;
        writer.bytes += bytes.len() as u64;
        reach(writer.source.place(), "written");
        if writer.bytes - writer.synced_bytes >= UNSYNCED_BYTES_MAX {
            self.sync(writer)?;
        }
        Ok(())
    }

    fn sync(&mut self, writer: &mut SnapshotWriter<D::File>) -> Result<(), StorageError> {
        let name = writer.source.file_name();
        self.disk.sync(&mut writer.file).map_err(io(&self.disk, "syncing", name))?;
        writer.synced_bytes = writer.bytes;
        Ok(())
    }

    /// Makes it durable, reads it back, which must give `id`, and only then makes it the latest.
    /// If a later one, or another with the same end, became the latest meanwhile, it is whole all
    /// the same but not kept. Gives what the check made of it.
    ///
    /// # Errors
    /// [`StorageError::Snapshot`] if it is not what it should be: then it is gone, and nothing else
    /// has changed. Other errors are the disk's, as with [`Snapshots::write`].
    pub fn finish<C: SnapshotCheck>(
        &mut self,
        mut writer: SnapshotWriter<D::File>,
        id: SnapshotId,
        check: C,
    ) -> Result<C::Whole, StorageError> {
        let (new, place) = (writer.source.file_name(), writer.source.place());
        let synced = match self.disk.mutant() {
            Some(Mutant::UnsyncedSnapshot) => Ok(()),
            _ => self.sync(&mut writer),
        };
        drop(writer);
        if synced.is_err() {
            // Perhaps there was no room for it: then it must not go on taking what there is.
            delete(&mut self.disk, new)?;
        }
        synced?;
        reach(place, "synced");
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
        reach(place, "verified");
        let name = file_name(id.last);
        self.disk.rename(new, &name).map_err(io(&self.disk, "renaming", new))?;
        reach(place, "renamed");
        if self.disk.mutant() != Some(Mutant::UnsyncedSnapshotName) {
            self.disk.sync_dir().map_err(io(&self.disk, "syncing", ""))?;
        }
        reach(place, "durable");
        self.previous = self.latest.replace(id);
        self.lost = None;
        let previous = self.previous;
        for other in list(&self.disk)? {
            let is_kept = |last| last == id.last || previous.is_some_and(|it| it.last == last);
            if end_of(&other).is_some_and(|last| !is_kept(last)) {
                self.delete_in_background(&other)?;
            }
        }
        self.open.retain(|reading| reading.in_use);
        for reading in &mut self.open {
            reading.in_use = false;
        }
        Ok(whole)
    }

    /// Deletes the snapshot before the latest, for the latest was read back: as large as it is, and
    /// for as long as it would lie there, it costs more than it is good for. A leader's followers
    /// go on reading it where [`Snapshots::read`] has opened it.
    ///
    /// # Errors
    /// If it can't be deleted.
    pub fn drop_previous(&mut self) -> Result<(), StorageError> {
        let Some(previous) = self.previous.take() else { return Ok(()) };
        self.delete_in_background(&file_name(previous.last))?;
        reach("snapshot", "previous-deleted");
        Ok(())
    }

    /// Throws away one in the making.
    ///
    /// # Errors
    /// If the file can't be deleted.
    pub fn abandon(&mut self, writer: SnapshotWriter<D::File>) -> Result<(), StorageError> {
        let name = writer.source.file_name();
        drop(writer);
        self.delete_in_background(name)
    }

    /// Deletes a file: at leisure, if no follower is sent what is in it.
    fn delete_in_background(&mut self, name: &str) -> Result<(), StorageError> {
        if self.open.iter().any(|reading| file_name(reading.id.last) == name) {
            return delete(&mut self.disk, name);
        }
        self.disk.delete_in_background(name).map_err(io(&self.disk, "deleting", name))
    }

    /// Up to `bytes_max` bytes of a snapshot from `offset` on, for a follower; `None` if it is
    /// neither the latest nor the one before it, as long as that is there, nor still open from an
    /// earlier read.
    ///
    /// # Errors
    /// If it can't be read.
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
                    self.disk.open_to_read(&name).map_err(io(&self.disk, "opening", &name))?;
                self.open.push(Reading { id, file, in_use: true });
                self.open.len() - 1
            }
            None => return Ok(None),
        };
        let reading = &mut self.open[place];
        reading.in_use = true;
        let left = usize::try_from(id.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; left.min(bytes_max)];
        self.disk
            .read_at(&reading.file, offset, &mut bytes)
            .map_err(io(&self.disk, "reading", &name))?;
        Ok(Some(Bytes::from(bytes)))
    }

    /// The disk, for whoever simulates one and decides what goes wrong with it.
    pub fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }

    /// Gives the disk back.
    pub fn into_disk(self) -> D {
        self.disk
    }

    fn other_than(&self, name: &str, id: SnapshotId) -> StorageError {
        let what = format!("it is another than {id:?}");
        StorageError::Snapshot { file: self.disk.describe(name), what }
    }

    /// Reads a whole file through a check. Its name must tell its end.
    fn read_whole<C: SnapshotCheck>(
        &self,
        name: &str,
        last: EntryId,
        mut check: C,
    ) -> Result<(SnapshotId, C::Whole), StorageError> {
        let damaged = |what| StorageError::Snapshot { file: self.disk.describe(name), what };
        let file = self.disk.open_to_read(name).map_err(io(&self.disk, "opening", name))?;
        let length = self.disk.length(&file).map_err(io(&self.disk, "reading", name))?;
        let mut piece = Vec::new();
        for offset in (0..length).step_by(usize::try_from(PIECE_BYTES).expect("a small piece")) {
            let bytes = PIECE_BYTES.min(length - offset);
            piece.resize(usize::try_from(bytes).expect("a small piece"), 0);
            self.disk
                .read_at(&file, offset, &mut piece)
                .map_err(io(&self.disk, "reading", name))?;
            check.feed(&piece).map_err(damaged)?;
        }
        let (id, whole) = check.finish().map_err(damaged)?;
        if id.last != last || id.bytes != length {
            let expected = format!("{length} bytes up to {last} were expected");
            return Err(damaged(format!("it has {} up to {}; {expected}", id.bytes, id.last)));
        }
        Ok((id, whole))
    }
}

const SOURCES: [SnapshotSource; 2] = [SnapshotSource::Own, SnapshotSource::Incoming];

/// The file of the snapshot that ends with `last`. Names sort as indexes do.
fn file_name(last: EntryId) -> String {
    format!("{PREFIX}{:020}-{}", last.index.0, last.term.0)
}

/// The end of the snapshot with that name.
fn end_of(name: &str) -> Option<EntryId> {
    let (index, term) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let last = EntryId::new(term.parse().ok()?, index.parse().ok()?);
    (file_name(last) == name).then_some(last)
}

/// The name and the end of the latest snapshot among these files, whole or not.
pub(super) fn newest_snapshot(names: &[String]) -> Option<(&str, EntryId)> {
    let found = names.iter().filter_map(|name| Some((name.as_str(), end_of(name)?)));
    found.max_by_key(|(_, last)| (last.index, last.term))
}

fn list<D: Disk>(disk: &D) -> Result<Vec<String>, StorageError> {
    disk.list().map_err(io(disk, "listing", ""))
}

fn delete<D: Disk>(disk: &mut D, name: &str) -> Result<(), StorageError> {
    disk.delete(name).map_err(io(disk, "deleting", name))
}

fn io<D: Disk>(
    disk: &D,
    doing: &'static str,
    name: &str,
) -> impl FnOnce(io::Error) -> StorageError + use<D> {
    let file = disk.describe(name);
    move |source| StorageError::Io { doing, file, source }
}
