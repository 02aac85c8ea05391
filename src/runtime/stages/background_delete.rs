//! The background deletion: frees large values that the applier has removed from the state, on a
//! thread of its own. Freeing takes time for each element of a value, and on the applier's thread
//! all clients would wait for it.
//!
//! It also returns free memory to the operating system.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError};

use crate::runtime::boards::MemoryBoard;
use crate::runtime::channels::Deletion;
use crate::runtime::malloc_trim::Trimmer;
use crate::runtime::process_usage::ProcessUsage;

/// Interval at which the stage checks whether to return free memory to the operating system.
const TRIM_INTERVAL: Duration = Duration::from_secs(10);
/// Interval at which the stage checks whether a client has asked for that.
const REQUEST_INTERVAL: Duration = Duration::from_secs(1);

/// The background deletion stage.
pub(crate) struct BackgroundDelete {
    jobs: Receiver<Deletion>,
    memory: Arc<MemoryBoard>,
}

impl BackgroundDelete {
    pub(crate) fn new(jobs: Receiver<Deletion>, memory: Arc<MemoryBoard>) -> BackgroundDelete {
        BackgroundDelete { jobs, memory }
    }

    /// Runs the stage's loop on the current thread until the applier has stopped.
    pub(crate) fn run(&self) {
        let mut trimmer = Trimmer::default();
        let mut trim_at = Instant::now() + TRIM_INTERVAL;
        loop {
            match self.jobs.recv_timeout(REQUEST_INTERVAL) {
                Ok(deletion) => {
                    let size = deletion.size();
                    drop(deletion);
                    self.memory.note_freed(size);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let resident = || ProcessUsage::read().resident_bytes;
            if self.memory.take_trim_request() {
                trimmer.trim(self.memory.used_bytes(), resident);
            }
            if Instant::now() >= trim_at {
                trimmer.trim_if_unused(self.memory.used_bytes(), resident);
                trim_at = Instant::now() + TRIM_INTERVAL;
            }
        }
    }
}
