//! The network stage as the threads see it. The course and the server have one each.

use std::io;
use std::time::Duration;

use crate::runtime::pass::StageState;

/// The stage that owns the sockets.
pub(crate) trait NetworkStage: Send {
    /// Sleeps until a socket or a queue needs work, for at most `timeout`; `None` for any time.
    ///
    /// # Errors
    /// If the system refuses to poll.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// The same where no other thread ever has to wake this one, so that the stage may sleep in its
    /// socket instead.
    ///
    /// # Errors
    /// If the system refuses to poll.
    fn wait_alone(&mut self, timeout: Duration) -> io::Result<()> {
        self.wait(Some(timeout))
    }

    /// The first half of a pass: reads the sockets and hands what they held to the core.
    fn receive(&mut self) -> StageState;

    /// The second half of a pass: writes replies and messages to peers.
    ///
    /// # Errors
    /// If the system refuses to watch a socket.
    fn send(&mut self) -> io::Result<()>;

    /// Stops the core, and through it all other stages.
    fn stop_others(self);

    /// Runs passes on a thread of its own until the stage stops by itself.
    ///
    /// # Errors
    /// If a half of a pass fails.
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
