//! Retries at a start: a process that was killed before may hold its folder and its ports for some
//! seconds, until its last disk write has ended.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

/// How long to wait for the other process.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Interval between attempts.
const INTERVAL: Duration = Duration::from_millis(50);

/// Repeats `attempt` while its error is temporary, at most for [`TIMEOUT`].
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
                    tracing::warn!(%error, "waiting for another process to exit");
                }
                thread::sleep(INTERVAL);
            }
            result => return result,
        }
    }
}
