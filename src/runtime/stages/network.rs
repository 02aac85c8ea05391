//! What every network stage does: the course's and the server's.

use std::io;
use std::time::Duration;

use crate::runtime::stages::StageState;

/// The stage at the sockets, of which there are two: the course's and the server's.
pub(crate) trait NetworkStage: Send {
    /// Sleeps until there is something to do, but not longer than `patience`.
    fn wait(&mut self, patience: Option<Duration>) -> io::Result<()>;

    /// The same on a thread that no other stage has to wake.
    fn wait_alone(&mut self, patience: Duration) -> io::Result<()> {
        self.wait(Some(patience))
    }

    /// One pass in: takes what the sockets hold and hands it to the core.
    fn receive(&mut self) -> StageState;

    /// One pass out: replies, then what goes to peers.
    fn send(&mut self) -> io::Result<()>;

    /// The last word to the core, after which all stages end.
    fn stop_others(self);

    /// Passes without end, on a thread of its own, until the stage ends by itself.
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
