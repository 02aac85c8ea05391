//! The long script or function that runs on a thread of its own: whether there is one, and how it
//! is ended.

use parking_lot::Mutex;

use crate::lua::StopFlag;
use crate::redis::RunningScript;
use crate::types::Instant;

/// The long script of a replica, which the thread that runs it and the network stage share.
#[derive(Debug, Default)]
pub(super) struct LongScript(Mutex<Running>);

#[derive(Debug, Default)]
struct Running {
    /// Ends the script that is running; `None` if none is running.
    stop: Option<StopFlag>,
    script: RunningScript,
    began_at: Instant,
    was_killed: bool,
}

/// Why a long script is not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotKilled {
    /// None is running.
    NotRunning,
    /// A function is running, and a script was to be ended; or the other way round.
    IsOther,
}

impl LongScript {
    /// Records that a script, which its replica has sent to be run at `began_at`, begins to run.
    /// Returns the flag that ends it.
    pub(super) fn begin(&self, script: RunningScript, began_at: Instant) -> StopFlag {
        let stop = StopFlag::default();
        let running = Running { stop: Some(stop.clone()), script, began_at, was_killed: false };
        *self.0.lock() = running;
        stop
    }

    /// Records that the script has ended. Returns whether it was killed.
    pub(super) fn end(&self) -> bool {
        std::mem::take(&mut *self.0.lock()).was_killed
    }

    /// Returns the script that is running, and when it was sent to be run; `None` if none is
    /// running.
    pub(super) fn running(&self) -> Option<(RunningScript, Instant)> {
        let running = self.0.lock();
        running.stop.is_some().then(|| (running.script.clone(), running.began_at))
    }

    /// Ends the script that is running, or the function if `is_function`.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn kill(&self, is_function: bool) -> Result<(), NotKilled> {
        let mut running = self.0.lock();
        let Some(stop) = &running.stop else { return Err(NotKilled::NotRunning) };
        if running.script.is_function != is_function {
            return Err(NotKilled::IsOther);
        }
        stop.set();
        running.was_killed = true;
        Ok(())
    }
}
