//! Settings of glibc's memory allocator. glibc reads them from the environment when a program
//! starts, so the server sets them and then executes itself again, in the same process.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Name of the environment variable from which glibc reads settings of its memory allocator.
const VARIABLE: &str = "GLIBC_TUNABLES";

/// Settings of glibc's memory allocator: use huge pages where the kernel lets programs request
/// them, allocate blocks below 4 MiB (such as most batches) from the heap, and keep up to 64 MiB of
/// free memory at the end of the heap. Without these settings, the in-memory log, whose memory is
/// constantly allocated and freed, causes a page fault for every 4 KiB, which takes a fifth of the
/// CPU time of small writes.
const SETTINGS: &str = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4194304:\
                        glibc.malloc.trim_threshold=67108864:glibc.malloc.top_pad=4194304";

/// Executes this program again, in the same process (`exec`), with [`SETTINGS`] in its environment.
/// Returns only if the environment already contains allocator settings, the C library is not glibc,
/// or the program could not be executed.
pub(super) fn restart_with_settings() {
    if !cfg!(all(target_os = "linux", target_env = "gnu")) || std::env::var_os(VARIABLE).is_some() {
        return;
    }
    let mut arguments = std::env::args_os();
    let (Some(name), Ok(program)) = (arguments.next(), std::env::current_exe()) else { return };
    let error = Command::new(program).arg0(name).args(arguments).env(VARIABLE, SETTINGS).exec();
    // Without the settings the server is only slower.
    tracing::warn!(
        %error,
        "memory allocator settings not applied, because the program could not execute itself \
         again; it runs without them"
    );
}
