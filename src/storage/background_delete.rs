//! Files that are deleted a piece at a time. A file system that is told to free a hundred megabytes
//! at once, and to tell its disk of it (`discard`), lets every sync wait meanwhile: 20 to 30 ms for
//! a snapshot of 150 MB (perf/results/snapshots.md). So the name goes at once, and the room behind
//! it in small pieces, from a thread that has nothing else to do.
//!
//! A crash in between leaves a file without a name, which file systems free when they are mounted.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

/// Files that are no larger are not worth it.
const PIECE_BYTES: u64 = 2 << 20;
/// The pause behind each piece: 128 MiB a second.
const PAUSE: Duration = Duration::from_millis(16);
/// So many files wait; what comes when there are more is freed at once.
const QUEUE_LEN: usize = 256;

enum Work {
    Free(File),
    /// To be told when all before it is done.
    Tell(SyncSender<()>),
}

/// The thread and what it has to do. It starts with the first file, and ends when this is dropped
/// and all is freed.
#[derive(Debug, Default)]
pub(super) struct BackgroundDelete {
    queue: OnceLock<Option<SyncSender<Work>>>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Files that are not freed yet.
    left: AtomicUsize,
    /// Somebody waits for the room.
    hurry: AtomicBool,
}

impl BackgroundDelete {
    /// Frees what a file holds that nobody else reads, if it has no name any more: it may be an
    /// operator's copy by another one.
    pub(super) fn free(&self, file: File) {
        let is_ours = |about: &Metadata| about.nlink() == 0 && about.len() > PIECE_BYTES;
        if !file.metadata().is_ok_and(|about| is_ours(&about)) {
            return;
        }
        let queue = self.queue.get_or_init(|| {
            let (queue, work) = sync_channel(QUEUE_LEN);
            let shared = Arc::clone(&self.shared);
            let pause = || thread::sleep(PAUSE);
            let started = thread::Builder::new()
                .name("letting-go".into())
                .spawn(move || run(&work, &shared, pause));
            started.ok().map(|_| queue)
        });
        let Some(queue) = queue else { return };
        self.shared.left.fetch_add(1, Ordering::Relaxed);
        // Where there is no place for it, it is closed here, and so freed.
        if queue.try_send(Work::Free(file)).is_err() {
            self.shared.left.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Frees all of it now, for somebody needs the room. False if there was nothing.
    pub(super) fn finish(&self) -> bool {
        let Some(Some(queue)) = self.queue.get() else { return false };
        if self.shared.left.load(Ordering::Relaxed) == 0 {
            return false;
        }
        self.shared.hurry.store(true, Ordering::Relaxed);
        let (done, all_done) = sync_channel(1);
        let finished = queue.send(Work::Tell(done)).is_ok() && all_done.recv().is_ok();
        self.shared.hurry.store(false, Ordering::Relaxed);
        finished
    }
}

fn run(work: &Receiver<Work>, shared: &Shared, mut pause: impl FnMut()) {
    for work in work {
        match work {
            Work::Free(file) => {
                // If it can't be cut it is closed now, and freed as a whole.
                let _ = shrink(&file, || {
                    if !shared.hurry.load(Ordering::Relaxed) {
                        pause();
                    }
                });
                drop(file);
                shared.left.fetch_sub(1, Ordering::Relaxed);
            }
            // Who asked may have given up.
            Work::Tell(done) => drop(done.send(())),
        }
    }
}

/// Cuts a file down to nothing, its end first.
fn shrink(file: &File, mut pause: impl FnMut()) -> io::Result<()> {
    let mut left = file.metadata()?.len();
    while left > 0 {
        left = left.saturating_sub(PIECE_BYTES);
        file.set_len(left)?;
        pause();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_of(bytes: u64) -> (File, File) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(bytes).unwrap();
        (file.try_clone().unwrap(), file)
    }

    #[test]
    fn a_file_shrinks_piece_by_piece() {
        let (seen, file) = file_of(2 * PIECE_BYTES + 1);
        let mut lengths = Vec::new();
        shrink(&file, || lengths.push(seen.metadata().unwrap().size())).unwrap();
        assert_eq!(lengths, [PIECE_BYTES + 1, 1, 0]);
    }

    #[test]
    fn it_takes_its_time_until_somebody_needs_the_room() {
        let shared = Shared::default();
        for (hurry, pauses) in [(false, 3), (true, 0)] {
            shared.hurry.store(hurry, Ordering::Relaxed);
            shared.left.store(1, Ordering::Relaxed);
            let (seen, file) = file_of(2 * PIECE_BYTES + 1);
            let (queue, work) = sync_channel(1);
            queue.send(Work::Free(file)).unwrap();
            drop(queue);
            let mut count = 0;
            run(&work, &shared, || count += 1);
            assert_eq!((count, seen.metadata().unwrap().len()), (pauses, 0));
            assert_eq!(shared.left.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn who_needs_the_room_waits_until_all_is_freed() {
        let background_delete = BackgroundDelete::default();
        assert!(!background_delete.finish(), "there is nothing");
        let (seen, files): (Vec<_>, Vec<_>) = (0..4).map(|_| file_of(16 << 20)).unzip();
        for file in files {
            background_delete.free(file);
        }
        assert!(background_delete.finish());
        assert!(seen.iter().all(|file| file.metadata().unwrap().len() == 0));
        assert!(!background_delete.finish(), "all is done");
    }

    #[test]
    fn a_file_that_has_another_name_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("a copy")).unwrap();
        file.set_len(2 * PIECE_BYTES).unwrap();
        let seen = file.try_clone().unwrap();
        let background_delete = BackgroundDelete::default();
        background_delete.free(file);
        assert!(!background_delete.finish() && seen.metadata().unwrap().len() == 2 * PIECE_BYTES);
    }

    #[test]
    fn small_files_take_no_thread() {
        let background_delete = BackgroundDelete::default();
        let (seen, file) = file_of(PIECE_BYTES);
        background_delete.free(file);
        assert!(!background_delete.finish() && seen.metadata().unwrap().len() == PIECE_BYTES);
    }
}
