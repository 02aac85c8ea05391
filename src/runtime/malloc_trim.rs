//! Returns free memory of glibc's allocator to the operating system.
//!
//! By itself, glibc returns only the free end of each heap, so one small allocation in use keeps up
//! to 64 MiB resident. After values of 512 MiB were deleted, 400 to 540 MiB stayed resident
//! indefinitely; glibc's function `malloc_trim` returns them. There is no safe interface to it, so
//! this file is the only one with `unsafe`.

/// Unused resident memory, in bytes, that is left alone in addition to as much as is in use. A
/// replica under load stays below: its log is allocated and freed all the time, and returning that
/// memory would cost page faults.
const UNUSED_BYTES_MAX: u64 = 32 << 20;
/// Free memory at the end of the main heap that is kept, in bytes.
const KEPT_BYTES: usize = 4 << 20;

/// Decides when to return free memory to the operating system.
#[derive(Debug, Default)]
pub(crate) struct Trimmer {
    /// Resident memory in bytes that was not in use after the latest call of `malloc_trim`, or a
    /// smaller value that was seen since.
    unused: u64,
}

impl Trimmer {
    /// Returns free memory to the operating system if much of the resident memory is not in use,
    /// unless the last attempt could not return it. `used` is the memory in use in bytes;
    /// `resident` returns the resident memory of the process in bytes.
    pub(crate) fn trim_if_unused(&mut self, used: u64, resident: impl Fn() -> u64) {
        if self.is_due(used, resident()) {
            self.trim(used, resident);
        }
    }

    /// Returns free memory to the operating system, although little of it may be unused. `used`
    /// and `resident` are as for [`Trimmer::trim_if_unused`].
    pub(crate) fn trim(&mut self, used: u64, resident: impl Fn() -> u64) {
        trim();
        self.unused = resident().saturating_sub(used);
    }

    fn is_due(&mut self, used: u64, resident: u64) -> bool {
        let unused = resident.saturating_sub(used);
        self.unused = self.unused.min(unused);
        unused > used + UNUSED_BYTES_MAX && unused > self.unused + UNUSED_BYTES_MAX / 2
    }
}

/// Returns free memory to the operating system. Takes some milliseconds, in which other threads
/// wait if they allocate memory. Does nothing with another C library than glibc.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn trim() {
    #[allow(unsafe_code, reason = "a declaration of glibc's function, which has no preconditions")]
    unsafe extern "C" {
        /// Returns free memory of all heaps to the operating system, except for `pad` bytes at the
        /// end of the main one. Returns 1 if it returned any.
        safe fn malloc_trim(pad: usize) -> std::ffi::c_int;
    }
    malloc_trim(KEPT_BYTES);
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn trim() {
    let _ = KEPT_BYTES;
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn memory_is_returned_only_if_most_of_it_is_unused() {
        for (used, resident, wanted) in [
            (0, 32 * MIB, false),
            (0, 33 * MIB, true),
            (300 * MIB, 632 * MIB, false),
            (300 * MIB, 633 * MIB, true),
        ] {
            let is_due = Trimmer::default().is_due(used, resident);
            assert_eq!(is_due, wanted, "{used} of {resident}");
        }
    }

    #[test]
    fn memory_that_could_not_be_returned_is_not_tried_again() {
        let mut trimmer = Trimmer { unused: 100 * MIB };
        assert!(!trimmer.is_due(10 * MIB, 126 * MIB));
        assert!(trimmer.is_due(10 * MIB, 127 * MIB), "the process has grown");
        assert!(trimmer.is_due(0, 117 * MIB), "more is unused");
        assert!(!trimmer.is_due(10 * MIB, 50 * MIB), "it has become less");
        assert!(trimmer.is_due(10 * MIB, 70 * MIB));
    }

    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn free_memory_between_allocations_is_returned() {
        use crate::runtime::process_usage::ProcessUsage;

        const COUNT: usize = 8 << 10;
        let mut chunks: Vec<Vec<u8>> = (0..COUNT).map(|_| vec![1; 32 << 10]).collect();
        let mut number = 0;
        chunks.retain(|_| {
            number += 1;
            number % 1_024 == 0
        });
        let before = ProcessUsage::read().resident_bytes;
        trim();
        let after = ProcessUsage::read().resident_bytes;
        // Other tests allocate memory meanwhile.
        assert!(after + 128 * MIB < before, "{after} bytes of {before}, {} in use", chunks.len());
    }
}
