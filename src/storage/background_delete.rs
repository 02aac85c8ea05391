//! Background deletion: the name of a large file is removed at once, its disk space is freed piece
//! by piece.
//!
//! A file system that frees a hundred megabytes at once, and reports them to its disk as unused
//! (`discard`), delays all syncs until it is done: by 20 to 30 ms for a snapshot of 150 MB
//! (perf/results/snapshots.md). So a thread truncates the file in small steps. If the machine
//! crashes first, the file system frees the nameless file when it is next mounted.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

/// Number of bytes by which the deletion thread truncates a deleted file at a time. Files of at
/// most this size are freed at once by the thread that deletes them, without the deletion thread.
const PIECE_BYTES: u64 = 2 << 20;
/// Pause of the deletion thread after each freed piece. It limits the thread's rate to 125 MiB per
/// second.
const PAUSE: Duration = Duration::from_millis(16);
/// Maximum number of files in the queue of the deletion thread. When the queue is full, the thread
/// that deletes a file frees its disk space itself.
const QUEUE_LEN: usize = 256;

enum Work {
    Free(File),
    /// Asks the deletion thread to send `()` on this channel after it has freed all files queued
    /// earlier.
    Report(SyncSender<()>),
}

/// Handle to the deletion thread, which frees the disk space of deleted files, and to its queue.
/// The thread is started when the first large file is deleted. It ends once this handle has been
/// dropped and the queue is empty.
#[derive(Debug, Default)]
pub(super) struct BackgroundDelete {
    /// Queue of the deletion thread. Unset until the first large file is deleted; `None` if the
    /// thread could not be started.
    queue: OnceLock<Option<SyncSender<Work>>>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Number of deleted files whose disk space the deletion thread has not freed yet.
    pending: AtomicUsize,
    /// True while another thread waits for disk space: the deletion thread then does not pause
    /// between truncations.
    urgent: AtomicBool,
}

impl BackgroundDelete {
    /// Frees the disk space of an unlinked but still open file: a large file piece by piece on the
    /// deletion thread, a small one at once. A file that has another name, such as a hard link made
    /// by an operator, is only closed.
    pub(super) fn free(&self, file: File) {
        let is_large = |about: &Metadata| about.nlink() == 0 && about.len() > PIECE_BYTES;
        if !file.metadata().is_ok_and(|about| is_large(&about)) {
            return;
        }
        let queue = self.queue.get_or_init(|| {
            let (queue, work) = sync_channel(QUEUE_LEN);
            let shared = Arc::clone(&self.shared);
            let pause = || thread::sleep(PAUSE);
            let started = thread::Builder::new()
                .name("delete".into())
                .spawn(move || run(&work, &shared, pause));
            started.ok().map(|_| queue)
        });
        let Some(queue) = queue else { return };
        self.shared.pending.fetch_add(1, Ordering::Relaxed);
        // If the queue is full, the file is closed here, which frees its space at once.
        if queue.try_send(Work::Free(file)).is_err() {
            self.shared.pending.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Makes the deletion thread free the space of all queued files without pauses, and waits until
    /// it has done so. Called when the disk is full. Returns false if no file was queued.
    pub(super) fn finish(&self) -> bool {
        let Some(Some(queue)) = self.queue.get() else { return false };
        if self.shared.pending.load(Ordering::Relaxed) == 0 {
            return false;
        }
        self.shared.urgent.store(true, Ordering::Relaxed);
        let (done, all_done) = sync_channel(1);
        let finished = queue.send(Work::Report(done)).is_ok() && all_done.recv().is_ok();
        self.shared.urgent.store(false, Ordering::Relaxed);
        finished
    }
}

fn run(work: &Receiver<Work>, shared: &Shared, mut pause: impl FnMut()) {
    for work in work {
        match work {
            Work::Free(file) => {
                // If the file cannot be truncated, closing it frees all of its space at once.
                let _ = shrink(&file, || {
                    if !shared.urgent.load(Ordering::Relaxed) {
                        pause();
                    }
                });
                drop(file);
                let before = shared.pending.fetch_sub(1, Ordering::Relaxed);
                assert!(before > 0, "a file was freed that was not counted");
            }
            // The caller may have stopped waiting.
            Work::Report(done) => drop(done.send(())),
        }
    }
}

/// Truncates a file to zero length, [`PIECE_BYTES`] at a time from its end.
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
    fn background_deletion_truncates_a_file_in_pieces() {
        let (seen, file) = file_of(2 * PIECE_BYTES + 1);
        let mut lengths = Vec::new();
        shrink(&file, || lengths.push(seen.metadata().unwrap().size())).unwrap();
        assert_eq!(lengths, [PIECE_BYTES + 1, 1, 0]);
    }

    #[test]
    fn background_deletion_pauses_until_disk_space_is_needed() {
        let shared = Shared::default();
        for (urgent, pauses) in [(false, 3), (true, 0)] {
            shared.urgent.store(urgent, Ordering::Relaxed);
            shared.pending.store(1, Ordering::Relaxed);
            let (seen, file) = file_of(2 * PIECE_BYTES + 1);
            let (queue, work) = sync_channel(1);
            queue.send(Work::Free(file)).unwrap();
            drop(queue);
            let mut count = 0;
            run(&work, &shared, || count += 1);
            assert_eq!((count, seen.metadata().unwrap().len()), (pauses, 0));
            assert_eq!(shared.pending.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn finishing_background_deletion_waits_until_space_is_freed() {
        let deletion = BackgroundDelete::default();
        assert!(!deletion.finish(), "nothing is queued");
        let (seen, files): (Vec<_>, Vec<_>) = (0..4).map(|_| file_of(16 << 20)).unzip();
        for file in files {
            deletion.free(file);
        }
        assert!(deletion.finish());
        assert!(seen.iter().all(|file| file.metadata().unwrap().len() == 0));
        assert!(!deletion.finish(), "everything is freed");
    }

    #[test]
    fn background_deletion_does_not_truncate_a_hard_linked_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("a copy")).unwrap();
        file.set_len(2 * PIECE_BYTES).unwrap();
        let seen = file.try_clone().unwrap();
        let deletion = BackgroundDelete::default();
        deletion.free(file);
        assert!(!deletion.finish() && seen.metadata().unwrap().len() == 2 * PIECE_BYTES);
    }

    #[test]
    fn background_deletion_of_a_small_file_starts_no_thread() {
        let deletion = BackgroundDelete::default();
        let (seen, file) = file_of(PIECE_BYTES);
        deletion.free(file);
        assert!(!deletion.finish() && seen.metadata().unwrap().len() == PIECE_BYTES);
    }
}
