//! What the running script may still use, and buffers of Rust code that count towards it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mlua::Lua;

use super::raise::{self, Ending};
use super::{Deadline, Limits, StopFlag};

/// Bytes of output that count as one instruction.
const BYTES_PER_INSTRUCTION: usize = 8;

/// Instructions as which the reading of one Lua value by Rust counts.
pub(super) const INSTRUCTIONS_PER_VALUE: usize = 32;

/// Instructions and bytes that are left to the running script.
#[derive(Debug, Default)]
pub(super) struct Meter {
    left: AtomicU64,
    bytes_max: AtomicUsize,
    ends: Mutex<(StopFlag, Deadline)>,
    /// Whether the script reached a limit, or was stopped.
    ended: AtomicBool,
}

impl Meter {
    /// Begins a run.
    pub(super) fn limit(&self, limits: &Limits) {
        self.left.store(limits.instructions, Ordering::Relaxed);
        self.bytes_max.store(limits.memory_bytes, Ordering::Relaxed);
        self.ended.store(false, Ordering::Relaxed);
        *locked(&self.ends) = (limits.stop.clone(), limits.deadline.clone());
    }

    /// Ends a run: what follows is the interpreter's own work.
    pub(super) fn relax(&self) {
        self.left.store(u64::MAX, Ordering::Relaxed);
        self.bytes_max.store(usize::MAX, Ordering::Relaxed);
        self.ended.store(false, Ordering::Relaxed);
        *locked(&self.ends) = <_>::default();
    }

    /// Counts instructions, or work of a library function that takes as long as that many.
    pub(super) fn charge(&self, instructions: u64) -> Result<(), Ending> {
        let (stops, is_over) = {
            let (stop, deadline) = &*locked(&self.ends);
            (stop.is_set(), deadline.is_over())
        };
        if stops {
            self.ended.store(true, Ordering::Relaxed);
            return Err(Ending::Stopped);
        }
        let left = self.left.load(Ordering::Relaxed);
        self.left.store(left.saturating_sub(instructions), Ordering::Relaxed);
        if is_over || left < instructions || self.ended.load(Ordering::Relaxed) {
            self.ended.store(true, Ordering::Relaxed);
            return Err(Ending::Instructions);
        }
        Ok(())
    }

    /// Returns the meter of a Lua state.
    pub(super) fn of(lua: &Lua) -> Arc<Self> {
        lua.app_data_ref::<Arc<Self>>().map(|meter| Arc::clone(&meter)).unwrap_or_default()
    }

    /// Counts work, and raises the error that ends the script if there was too much of it.
    pub(super) fn work(&self, instructions: u64) -> mlua::Result<()> {
        self.charge(instructions).map_err(raise::ending)
    }

    /// Counts the work of a library function on strings of `bytes` bytes in total.
    pub(super) fn work_on_bytes(&self, bytes: usize) -> mlua::Result<()> {
        self.work((bytes / BYTES_PER_INSTRUCTION) as u64)
    }

    /// Raises an error if a buffer of this many bytes is more than the script may use.
    pub(super) fn check_bytes(&self, bytes: usize) -> mlua::Result<()> {
        if bytes > self.bytes_max.load(Ordering::Relaxed) {
            return Err(raise::plain_error("not enough memory"));
        }
        Ok(())
    }
}

/// Locks what only one thread uses, or what is valid after every step.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A string that a library function builds. It counts towards the script's limits, so that a table
/// that contains another one many times cannot fill the memory of the process.
pub(super) struct Output {
    pub(super) bytes: Vec<u8>,
    meter: Arc<Meter>,
    uncharged: usize,
}

impl Output {
    pub(super) fn new(lua: &Lua) -> Self {
        Self { bytes: Vec::new(), meter: Meter::of(lua), uncharged: 0 }
    }

    pub(super) fn push(&mut self, byte: u8) -> mlua::Result<()> {
        self.extend(&[byte])
    }

    pub(super) fn extend(&mut self, bytes: &[u8]) -> mlua::Result<()> {
        self.count(bytes.len())?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Counts the reading of one value, which takes as long as some dozen instructions.
    pub(super) fn count_value(&mut self) -> mlua::Result<()> {
        self.count(INSTRUCTIONS_PER_VALUE * BYTES_PER_INSTRUCTION)
    }

    /// Counts work without output, or output that is kept elsewhere.
    pub(super) fn count(&mut self, bytes: usize) -> mlua::Result<()> {
        self.uncharged += bytes;
        if self.uncharged >= 4096 {
            self.meter.work((self.uncharged / BYTES_PER_INSTRUCTION) as u64)?;
            self.uncharged = 0;
            self.meter.check_bytes(self.bytes.len().saturating_add(bytes))?;
        }
        Ok(())
    }
}
