//! Tells the network stage which of its queues hold something, and wakes it only if it sleeps: a
//! wake-up is a system call, and under load the stage finds what was handed to it anyway.
//!
//! The other stages need none of this, for they wait in a channel's own `recv`. The network stage
//! waits in `Poll`, so whoever hands something to it has to get it out of there.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

/// Something is in the queue of replies.
pub(super) const REPLIES: u32 = 1;
/// Something is in the queue of what leaves the core.
pub(super) const OUTBOUND: u32 = 2;
/// Something is in the queue of what the log writer has let go.
pub(super) const RELEASED: u32 = 4;
/// Something is in the queue of the core, which shares the network's thread.
pub(super) const COMPLETIONS: u32 = 8;
/// The core wants to know what peers have sent by now.
pub(super) const READ_PEERS: u32 = 16;
/// The stage sleeps, or is about to.
const ASLEEP: u32 = 32;

/// One word between one sleeper and many wakers.
///
/// Invariant: whatever is put in a queue before its mark is set is found by a sleeper that takes
/// the mark, and no mark is set while the sleeper sleeps on. For all is in one word: a sleeper
/// falls asleep only from a word without marks, and a waker that sets a mark sees in the same step
/// whether anybody sleeps.
#[derive(Debug)]
pub(super) struct Wake {
    word: AtomicU32,
    waker: mio::Waker,
}

impl Wake {
    /// Of the stage whose `Poll` has `waker` registered.
    pub(super) fn new(waker: mio::Waker) -> Wake {
        Wake { word: AtomicU32::new(0), waker }
    }

    /// The wakers' side: something was put in the queue of `mark`.
    ///
    /// # Errors
    /// If the system call fails, after which the sleeper might sleep for ever.
    pub(super) fn notify(&self, mark: u32) -> io::Result<()> {
        let before = self.word.fetch_or(mark, Ordering::AcqRel);
        // Of several wakers only the one that takes the flag away makes the call.
        if before & ASLEEP != 0 && self.word.fetch_and(!ASLEEP, Ordering::AcqRel) & ASLEEP != 0 {
            return self.waker.wake();
        }
        Ok(())
    }

    /// The sleeper's side: takes the marks set since the last call.
    pub(super) fn take_marks(&self) -> u32 {
        // The load first: mostly there is nothing, and a load leaves the cache line shared.
        if self.word.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        self.word.swap(0, Ordering::AcqRel) & !ASLEEP
    }

    /// The sleeper's side: whether it may sleep, which it must not if there are marks to take.
    pub(super) fn begin_sleep(&self) -> bool {
        self.word.compare_exchange(0, ASLEEP, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// The sleeper's side: it is awake and will take the marks before it sleeps again.
    pub(super) fn end_sleep(&self) {
        self.word.fetch_and(!ASLEEP, Ordering::AcqRel);
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
                        wake.notify(REPLIES).unwrap();
                        wait.recv().unwrap();
                    }
                });
            }
            let mut events = Events::with_capacity(4);
            let mut count = 0;
            while count < 2 * ROUNDS {
                if wake.begin_sleep() {
                    poll.poll(&mut events, Some(Duration::from_secs(20))).unwrap();
                    assert!(!events.is_empty(), "slept on after {count} of {}", 2 * ROUNDS);
                    wake.end_sleep();
                }
                if wake.take_marks() == REPLIES {
                    for seen in receiver.try_iter() {
                        count += 1;
                        seen.send(()).unwrap();
                    }
                }
            }
        });
    }

    #[test]
    fn whoever_is_awake_is_not_woken() {
        let mut poll = Poll::new().unwrap();
        let wake = Wake::new(mio::Waker::new(poll.registry(), Token(0)).unwrap());
        let mut events = Events::with_capacity(4);
        wake.notify(REPLIES).unwrap();
        assert!(!wake.begin_sleep(), "there is something in a queue");
        wake.notify(RELEASED).unwrap();
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        assert!(events.is_empty(), "a system call was spent on a stage that was awake");
        assert_eq!(wake.take_marks(), REPLIES | RELEASED);
        assert!(wake.begin_sleep());
        wake.notify(OUTBOUND).unwrap();
        wake.notify(OUTBOUND).unwrap();
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        assert!(!events.is_empty());
    }
}
