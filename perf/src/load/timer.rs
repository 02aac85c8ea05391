//! A timer with finer resolution than `Poll`'s timeout of whole milliseconds, with which an open
//! loop would send up to a millisecond late.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// A timer that wakes a `Poll`.
#[derive(Debug)]
pub(crate) struct Timer {
    timer: OwnedFd,
    /// Time it is set to in nanoseconds; 0 if it is not set.
    set_to: u64,
}

impl Timer {
    /// A timer that wakes the poll of `registry` with `token`.
    pub(crate) fn new(registry: &Registry, token: Token) -> io::Result<Timer> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // Edge-triggered: each expiration wakes once, so the counter need not be read.
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Timer { timer, set_to: 0 })
    }

    /// Sets the timer to `moment`, which is `now` or later.
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
