//! The network stage as seen by the code that runs the threads. The university course's protocol
//! and the server each have their own implementation.

use std::io;
use std::time::Duration;

use crate::runtime::pass::StageState;

/// The network stage as seen by the code that assigns stages to threads. It owns the sockets and
/// moves messages between them and the other stages.
pub(crate) trait NetworkStage: Send {
    /// Sleeps until a socket or a queue has work, but at most for `timeout`; `None` means no limit.
    ///
    /// # Errors
    /// If the system call that polls the sockets fails.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// Waits like [`NetworkStage::wait`]. Must be called only if no other thread ever wakes the
    /// current one, so that an implementation may block in its socket instead of in `Poll`.
    ///
    /// # Errors
    /// If the system call that polls the sockets fails.
    fn wait_alone(&mut self, timeout: Duration) -> io::Result<()> {
        self.wait(Some(timeout))
    }

    /// Reads the sockets and sends the received requests and messages to the Raft core: the first
    /// half of a pass (iteration of the stage's loop). Returns whether the stage continues.
    fn receive(&mut self) -> StageState;

    /// Writes replies and messages to peers: the second half of a pass (iteration of the stage's
    /// loop).
    ///
    /// # Errors
    /// If the operating system fails to register a socket for polling.
    fn send(&mut self) -> io::Result<()>;

    /// Stops the Raft core, which stops all other stages.
    fn stop_others(self);

    /// Runs the stage's loop on the current thread until the stage itself decides to stop.
    ///
    /// # Errors
    /// If waiting or one of the two halves of a pass fails.
    fn run(&mut self) -> io::Result<()> {
        loop {
            self.wait(None)?;
            if self.receive() == StageState::Stopped {
                return Ok(());
            }
            self.send()?;
        }
    }
}
