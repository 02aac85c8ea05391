//! The long script that runs on a thread of its own: whether there is one, and how it is ended.

use parking_lot::Mutex;

use crate::lua::StopFlag;

/// The long script of a replica, which the thread that runs it and the network stage share.
#[derive(Debug, Default)]
pub(super) struct LongScript(Mutex<Running>);

#[derive(Debug, Default)]
struct Running {
    /// Ends the script that is running; `None` if none is running.
    stop: Option<StopFlag>,
    was_killed: bool,
}

impl LongScript {
    /// Records that a script begins to run. Returns the flag that ends it.
    pub(super) fn begin(&self) -> StopFlag {
        let stop = StopFlag::default();
        *self.0.lock() = Running { stop: Some(stop.clone()), was_killed: false };
        stop
    }

    /// Records that the script has ended. Returns whether it was killed.
    pub(super) fn end(&self) -> bool {
        std::mem::take(&mut *self.0.lock()).was_killed
    }

    /// Ends the script that is running. Returns false if none is running.
    pub(super) fn kill(&self) -> bool {
        let mut running = self.0.lock();
        let Some(stop) = &running.stop else { return false };
        stop.set();
        running.was_killed = true;
        true
    }
}
