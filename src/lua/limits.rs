//! What one run of a script may use, and what ends it from outside: a flag, and a deadline.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Number of Lua instructions that the code of a library may take when it is loaded: about 5 ms.
pub const LOAD_INSTRUCTIONS_MAX: u64 = 400_000;

/// Bounds of one run of a script.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Instructions of the Lua machine. Functions of the libraries that may work for long count as
    /// many.
    pub instructions: u64,
    /// Bytes that the Lua state may hold in addition to what it held before the run. The reply, and
    /// each string that a library builds, may have as many.
    pub memory_bytes: usize,
    /// Length of code that may be compiled, in bytes: the compiler cannot be interrupted.
    pub code_bytes: usize,
    /// Ends the script when it is set.
    pub stop: StopFlag,
    /// Ends the script like a lack of instructions, because some take long: a concatenation takes
    /// as long as its strings are.
    pub deadline: Deadline,
    /// Seed of `math.random`: equal seeds give equal numbers.
    pub seed: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            instructions: 1_000_000_000,
            memory_bytes: 64 << 20,
            code_bytes: usize::MAX,
            stop: StopFlag::default(),
            deadline: Deadline::default(),
            seed: 0,
        }
    }
}

/// Tells whether a run has taken too long. By default, it never has.
#[derive(Clone, Default)]
pub struct Deadline(Option<Arc<dyn Fn() -> bool + Send + Sync>>);

impl Deadline {
    /// Returns a deadline that is over when `is_over` returns true. The script calls it after about
    /// every 50 instructions.
    pub fn new(is_over: impl Fn() -> bool + Send + Sync + 'static) -> Deadline {
        Deadline(Some(Arc::new(is_over)))
    }

    /// Returns whether the deadline is over.
    pub fn is_over(&self) -> bool {
        self.0.as_ref().is_some_and(|is_over| is_over())
    }
}

impl fmt::Debug for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Deadline").field(&self.0.is_some()).finish()
    }
}

/// A flag that another thread sets to end the script that is running (`SCRIPT KILL`).
///
/// The script notices within about 50 instructions. The flag stays set until it is cleared.
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
