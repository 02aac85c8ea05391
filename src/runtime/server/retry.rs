//! Retries when a replica starts: a process that was killed before may hold the replica's folder
//! and ports for some seconds, until its last disk write has completed.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

/// Maximum time to wait for another process to release the folder or a port.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Interval between two attempts to open the folder or a port.
const INTERVAL: Duration = Duration::from_millis(50);

/// Repeats `attempt` at intervals while it fails with an error for which `is_temporary` returns
/// true, for at most [`TIMEOUT`].
pub(crate) fn retry_while<T, E: fmt::Display>(
    mut attempt: impl FnMut() -> Result<T, E>,
    is_temporary: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let started = Instant::now();
    let mut logged = false;
    loop {
        match attempt() {
            Err(error) if is_temporary(&error) && started.elapsed() < TIMEOUT => {
                if !std::mem::replace(&mut logged, true) {
                    tracing::warn!(
                        %error,
                        "folder or address in use, waiting for another process to exit"
                    );
                }
                thread::sleep(INTERVAL);
            }
            result => return result,
        }
    }
}
