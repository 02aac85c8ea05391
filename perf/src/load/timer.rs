//! A timer with a finer resolution than the timeout of `Poll`, whose resolution of a millisecond
//! would delay the requests of an open loop by up to a millisecond.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// A timer with nanosecond resolution that wakes a mio `Poll` at a given time.
#[derive(Debug)]
pub(crate) struct Timer {
    timer: OwnedFd,
    /// Time for which the timer was last set, in nanoseconds since the start of the run; 0 if it
    /// has never been set.
    set_to: u64,
}

impl Timer {
    /// Creates a timer that wakes the `Poll` of `registry`. Its events have the token `token`.
    pub(crate) fn new(registry: &Registry, token: Token) -> io::Result<Timer> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // Events are edge-triggered: each expiration wakes the poll once, so the timer's counter
        // need not be read.
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Timer { timer, set_to: 0 })
    }

    /// Sets the timer to fire at the time `moment`; it fires at once if `moment` is not after
    /// `now`, the current time. Both are in nanoseconds since the start of the run.
    pub(crate) fn set(&mut self, moment: u64, now: u64) -> io::Result<()> {
        if self.set_to == moment && moment > now {
            return Ok(());
        }
        self.set_to = moment;
        let wait = moment.saturating_sub(now).max(1);
        let value = Timespec {
            tv_sec: i64::try_from(wait / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(wait % 1_000_000_000).expect("below a second"),
        };
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let setting = Itimerspec { it_interval: never, it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &setting)?;
        Ok(())
    }
}
