//! Wakes the network stage when another stage has put an item into one of its queues. A wake-up is
//! a system call, so it is made only while the network stage is sleeping in `Poll`; under load the
//! network stage is awake and finds the items anyway. The other stages sleep in a channel's own
//! `recv` and need no waker.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

/// Mark (bit of [`Wake`]): the network stage's queue of replies from the applier may have items.
pub(super) const REPLIES: u32 = 1;
/// Mark (bit of [`Wake`]): the network stage's queue of batches from the Raft core may have items.
pub(super) const OUTBOUND: u32 = 2;
/// Mark (bit of [`Wake`]): the network stage's queue of messages from the log writer and the
/// snapshots stage, or its queue of parts of snapshots, may have items.
pub(super) const RELEASED: u32 = 4;
/// Mark (bit of [`Wake`]): the Raft core's queue may have items. Set only if the core shares a
/// thread with the network stage.
pub(super) const COMPLETIONS: u32 = 8;
/// Mark (bit of [`Wake`]): the Raft core asks the network stage to read the sockets of its peers.
pub(super) const READ_PEERS: u32 = 16;
/// Mark (bit of [`Wake`]): the network stage is sleeping in `Poll` or about to sleep, so it must be
/// woken.
const ASLEEP: u32 = 32;
/// Mark (bit of [`Wake`]): the server is asked to stop.
pub(super) const STOP: u32 = 64;
/// Mark (bit of [`Wake`]): the network stage's queue of questions from the HTTP thread may have
/// items.
pub(super) const QUESTIONS: u32 = 128;

/// Wakes the network stage from its `Poll`. Another stage that has put an item into one of the
/// network stage's queues sets the mark (bit) for that queue; the network stage takes the marks and
/// reads the marked queues.
///
/// Invariant: if the network takes a mark, it finds the item that was put into the queue before the
/// mark was set, and the network never sleeps while a mark is set. This holds because all marks,
/// including [`ASLEEP`], are bits of one atomic: the network falls asleep only while no mark is
/// set, and setting a mark reads [`ASLEEP`] in the same operation.
#[derive(Debug)]
pub(super) struct Wake {
    marks: AtomicU32,
    waker: mio::Waker,
}

impl Wake {
    /// Creates a `Wake` for the network stage. `waker` must be registered with the `Poll` in which
    /// that stage sleeps.
    pub(super) fn new(waker: mio::Waker) -> Wake {
        Wake { marks: AtomicU32::new(0), waker }
    }

    /// Sets `mark`, the bit that represents a queue, and wakes the network stage if it is sleeping.
    /// Called by another stage after it has put an item into that queue.
    ///
    /// # Errors
    /// If the system call fails. The network stage might then sleep forever.
    pub(super) fn notify(&self, mark: u32) -> io::Result<()> {
        let before = self.marks.fetch_or(mark, Ordering::AcqRel);
        // If several stages call this at once, only the one that clears the flag makes the system
        // call.
        if before & ASLEEP != 0 && self.marks.fetch_and(!ASLEEP, Ordering::AcqRel) & ASLEEP != 0 {
            return self.waker.wake();
        }
        Ok(())
    }

    /// Returns the marks (one bit per queue) that were set since the last call, and clears them.
    /// Called by the network stage.
    pub(super) fn take_marks(&self) -> u32 {
        // Most of the time there are no marks, and a plain load leaves the cache line shared.
        if self.marks.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        self.marks.swap(0, Ordering::AcqRel) & !ASLEEP
    }

    /// Returns whether the network stage may sleep, and if so, records that it is sleeping. Returns
    /// false if a queue may have items. Called by the network stage.
    pub(super) fn begin_sleep(&self) -> bool {
        self.marks.compare_exchange(0, ASLEEP, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Records that the network stage is awake, so that other stages need not wake it. Called by
    /// the network stage.
    pub(super) fn end_sleep(&self) {
        self.marks.fetch_and(!ASLEEP, Ordering::AcqRel);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crossbeam::channel;
    use mio::{Events, Poll, Token};
    use std::sync::Arc;
    use std::time::Duration;

    /// A waker that wakes no stage, for tests of channels.
    pub(in crate::runtime) fn unused_wake() -> Arc<Wake> {
        let poll = Poll::new().unwrap();
        Arc::new(Wake::new(mio::Waker::new(poll.registry(), Token(0)).unwrap()))
    }

    /// Tests that no wake-up is lost: two threads send items in turn, each waiting until the
    /// sleeping thread has received its item. So that thread is about to sleep nearly every time an
    /// item is sent, and a lost wake-up would leave it in `poll` until the timeout, which fails the
    /// test.
    #[test]
    fn concurrent_wake_ups_of_a_stage_are_not_lost() {
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
                    assert!(
                        !events.is_empty(),
                        "a wake-up was lost after {count} of {}",
                        2 * ROUNDS
                    );
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
    fn wake_up_is_skipped_while_the_stage_is_awake() {
        let mut poll = Poll::new().unwrap();
        let wake = Wake::new(mio::Waker::new(poll.registry(), Token(0)).unwrap());
        let mut events = Events::with_capacity(4);
        wake.notify(REPLIES).unwrap();
        assert!(!wake.begin_sleep(), "a queue is not empty");
        wake.notify(RELEASED).unwrap();
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        assert!(events.is_empty(), "the stage was woken while it was awake");
        assert_eq!(wake.take_marks(), REPLIES | RELEASED);
        assert!(wake.begin_sleep());
        wake.notify(OUTBOUND).unwrap();
        wake.notify(OUTBOUND).unwrap();
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        assert!(!events.is_empty());
    }
}
