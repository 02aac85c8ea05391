//! Wakes the network stage, and only if it sleeps: a wake-up is a system call, and under load the
//! stage finds what was handed to it anyway.
//!
//! The other stages need none of this, for they wait in a channel's own `recv`. The network stage
//! waits in `Poll`, so whoever hands something to it has to get it out of there.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// The flag between one sleeper and many wakers.
///
/// Invariant: a sleeper that found its queues empty in [`Wake::fall_asleep`] is woken by whatever
/// is put in one of them afterwards. Both sides write, fence, then read: the sleeper its flag and
/// then the queues, a waker its queue and then the flag. So at least one of them sees the other.
#[derive(Debug)]
pub(super) struct Wake {
    asleep: AtomicBool,
    waker: mio::Waker,
}

impl Wake {
    /// Of the stage whose `Poll` has `waker` registered.
    pub(super) fn new(waker: mio::Waker) -> Wake {
        Wake { asleep: AtomicBool::new(false), waker }
    }

    /// The sleeper's side: declares the intention to sleep, then looks at the queues once more.
    /// False if one of them holds something: then it must not sleep.
    pub(super) fn fall_asleep(&self, nothing_waits: impl FnOnce() -> bool) -> bool {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if nothing_waits() {
            return true;
        }
        self.asleep.store(false, Ordering::Relaxed);
        false
    }

    /// The sleeper's side: it is awake and will look at its queues before it sleeps again.
    pub(super) fn rise(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// The wakers' side: to be called after something was put in a queue of the sleeper's.
    ///
    /// # Errors
    /// If the system call fails, after which the sleeper might sleep for ever.
    pub(super) fn ring(&self) -> io::Result<()> {
        fence(Ordering::SeqCst);
        // The load first, for it leaves the cache line where it is: mostly the sleeper is awake.
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            return self.waker.wake();
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crossbeam::channel;
    use mio::{Events, Poll, Token};
    use std::sync::Arc;
    use std::time::Duration;

    /// For channels of which nobody sleeps at the other end.
    pub(in crate::runtime) fn unused_wake() -> Arc<Wake> {
        let poll = Poll::new().unwrap();
        Arc::new(Wake::new(mio::Waker::new(poll.registry(), Token(0)).unwrap()))
    }

    /// Two wakers hand over one number after the other, each waiting for the sleeper to have seen
    /// it, so that the sleeper is about to sleep nearly every time: a lost wake-up would leave it
    /// in `poll` until the time-out, which fails the test.
    #[test]
    fn no_wake_up_is_lost() {
        const ROUNDS: u32 = 5_000;
        let mut poll = Poll::new().unwrap();
        let wake = Wake::new(mio::Waker::new(poll.registry(), Token(0)).unwrap());
        let (sender, receiver) = channel::bounded::<channel::Sender<()>>(4);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let (sender, wake) = (sender.clone(), &wake);
                scope.spawn(move || {
                    let (seen, wait) = channel::bounded(1);
                    for _ in 0..ROUNDS {
                        sender.send(seen.clone()).unwrap();
                        wake.ring().unwrap();
                        wait.recv().unwrap();
                    }
                });
            }
            let mut events = Events::with_capacity(4);
            let mut count = 0;
            while count < 2 * ROUNDS {
                if wake.fall_asleep(|| receiver.is_empty()) {
                    poll.poll(&mut events, Some(Duration::from_secs(20))).unwrap();
                    assert!(!events.is_empty(), "slept on after {count} of {}", 2 * ROUNDS);
                    wake.rise();
                }
                for seen in receiver.try_iter() {
                    count += 1;
                    seen.send(()).unwrap();
                }
            }
        });
    }

    #[test]
    fn whoever_is_awake_is_not_woken() {
        let mut poll = Poll::new().unwrap();
        let wake = Wake::new(mio::Waker::new(poll.registry(), Token(0)).unwrap());
        let mut events = Events::with_capacity(4);
        wake.ring().unwrap();
        assert!(!wake.fall_asleep(|| false));
        wake.ring().unwrap();
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        assert!(events.is_empty(), "a system call was spent on a stage that was awake");
        assert!(wake.fall_asleep(|| true));
        wake.ring().unwrap();
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        assert!(!events.is_empty());
    }
}
