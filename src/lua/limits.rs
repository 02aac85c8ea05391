//! What one run of a script may use, and the flag that ends it from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bounds of one run of a script.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Instructions of the Lua machine. Functions of the libraries that may work for long count as
    /// many.
    pub instructions: u64,
    /// Bytes that the Lua state may hold in addition to what it held before the run. The reply, and
    /// each string that a library builds, may have as many.
    pub memory_bytes: usize,
    /// Ends the script when it is set.
    pub stop: StopFlag,
    /// Seed of `math.random`: equal seeds give equal numbers.
    pub seed: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            instructions: 1_000_000_000,
            memory_bytes: 64 << 20,
            stop: StopFlag::default(),
            seed: 0,
        }
    }
}

/// A flag that another thread sets to end the script that is running (`SCRIPT KILL`).
///
/// The script notices within about 1,000 instructions. The flag stays set until it is cleared.
#[derive(Clone, Debug, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// Ends the script that runs under this flag.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Allows scripts to run again.
    pub fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Returns whether the flag is set.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
