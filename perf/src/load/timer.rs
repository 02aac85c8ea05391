//! A timer with a finer resolution than the timeout of `Poll` in whole milliseconds, with which an
//! open loop would send requests up to a millisecond late.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// A timer that wakes a mio `Poll` at a given time, with a resolution of nanoseconds.
#[derive(Debug)]
pub(crate) struct Timer {
    timer: OwnedFd,
    /// Time at which the timer is due, in nanoseconds of the run's clock; 0 if it is not set.
    set_to: u64,
}

impl Timer {
    /// Creates a timer that wakes the `Poll` of `registry` with an event with this token.
    pub(crate) fn new(registry: &Registry, token: Token) -> io::Result<Timer> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // Edge-triggered: each expiration wakes once, so the counter need not be read.
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Timer { timer, set_to: 0 })
    }

    /// Sets the timer to the time `moment`, which must not be before `now`; both in nanoseconds of
    /// the run's clock.
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
