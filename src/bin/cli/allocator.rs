//! Settings of glibc's memory allocator. glibc reads them from the environment when a program
//! starts, so the server starts itself a second time with them, in the same process.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// The environment variable from which glibc reads its settings.
const VARIABLE: &str = "GLIBC_TUNABLES";

/// The settings: huge pages where the kernel allows a program to ask for them; blocks below 4 MiB,
/// as batches usually are, come from the heap; and up to 64 MiB of free memory at the heap's end
/// are kept. Without them the log in memory, which is allocated and freed all the time, costs a
/// page fault for every 4 KiB: a fifth of the processor time of small writes.
const SETTINGS: &str = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4194304:\
                        glibc.malloc.trim_threshold=67108864:glibc.malloc.top_pad=4194304";

/// Starts this program again with [`SETTINGS`], unless the environment has settings already or the
/// C library is not glibc. Returns only in these cases, and if the program could not be started.
pub(super) fn restart_with_settings() {
    if !cfg!(all(target_os = "linux", target_env = "gnu")) || std::env::var_os(VARIABLE).is_some() {
        return;
    }
    let mut arguments = std::env::args_os();
    let (Some(name), Ok(program)) = (arguments.next(), std::env::current_exe()) else { return };
    let error = Command::new(program).arg0(name).args(arguments).env(VARIABLE, SETTINGS).exec();
    // The server is slower without them, and otherwise the same.
    tracing::warn!(%error, "allocator settings not applied: cannot start this program again");
}
