//! The bound of one pass of a stage over a queue: how many items it takes, and for how long. What
//! it does not take stays in the queue, in order, for the next pass.
//!
//! Every loop over a queue that others fill while it runs has one of these or a bound of its own,
//! so that nothing that must leave in time, a heartbeat above all, waits for the end of a flood.

use std::time::Duration;

use crate::types::Instant;

use crate::runtime::clock::Clock;

/// Items between two readings of the clock: small ones, or a reading would cost as much as they do.
const ITEMS_PER_READING: usize = 32;

/// How long one stage works on one queue before it looks after everything else. A few of these
/// together must be far less than a heartbeat interval, and each far more than a wake-up.
pub(super) const PASS_TIME: Duration = Duration::from_millis(4);

/// What is left of one pass.
#[derive(Debug)]
pub(super) struct Pass {
    clock: Clock,
    /// When it ends; `None` until its first item, for a clock is not read for an empty queue.
    until: Option<Instant>,
    items_left: usize,
    /// Items until the clock is read again.
    unread: usize,
    /// Items between two readings.
    stride: usize,
}

impl Pass {
    /// Of at most `items_max` small items.
    pub(super) fn of_small(clock: Clock, items_max: usize) -> Pass {
        Pass::new(clock, items_max, ITEMS_PER_READING)
    }

    /// Of at most `items_max` items each of which may take long.
    pub(super) fn of_large(clock: Clock, items_max: usize) -> Pass {
        Pass::new(clock, items_max, 1)
    }

    fn new(clock: Clock, items_max: usize, stride: usize) -> Pass {
        Pass { clock, until: None, items_left: items_max, unread: stride, stride }
    }

    /// The next item; `None` if there is none, or if the pass is over. `next` is asked only for an
    /// item that is then given back, so none is taken that nobody handles.
    pub(super) fn next<T>(&mut self, next: impl FnOnce() -> Option<T>) -> Option<T> {
        if self.is_over() {
            return None;
        }
        let item = next()?;
        self.items_left -= 1;
        self.unread -= 1;
        if self.until.is_none() {
            self.until = Some(self.clock.now() + PASS_TIME);
        }
        Some(item)
    }

    /// Whether it takes no more.
    pub(super) fn is_over(&mut self) -> bool {
        if self.items_left > 0 && self.unread == 0 {
            self.unread = self.stride;
            if self.until.is_some_and(|until| self.clock.now() >= until) {
                self.items_left = 0;
            }
        }
        self.items_left == 0
    }

    /// Ends it.
    pub(super) fn end(&mut self) {
        self.items_left = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::clock::TestClock;
    use crate::runtime::clock::tests::stopped;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Each reading takes a quarter of a pass.
    #[derive(Debug, Default)]
    struct Quarters(AtomicU64);

    impl TestClock for Quarters {
        fn read(&self) -> Instant {
            Instant::ZERO
                + PASS_TIME / 4 * u32::try_from(self.0.fetch_add(1, Ordering::Relaxed)).unwrap()
        }
    }

    fn taken(pass: &mut Pass, queue: &mut Vec<u32>) -> usize {
        let mut count = 0;
        while pass.next(|| queue.pop()).is_some() {
            count += 1;
        }
        count
    }

    #[test]
    fn a_pass_ends_at_its_items_and_leaves_the_rest() {
        let mut queue: Vec<u32> = (0..100).collect();
        assert_eq!(taken(&mut Pass::of_large(stopped(), 64), &mut queue), 64);
        assert_eq!(queue.len(), 36, "an item was taken and dropped");
        assert_eq!(taken(&mut Pass::of_small(stopped(), 64), &mut queue), 36);
    }

    #[test]
    fn a_pass_ends_in_time_and_leaves_the_rest() {
        let clock = Clock::for_test(Box::leak(Box::<Quarters>::default()));
        let mut queue: Vec<u32> = (0..1_000).collect();
        // The reading behind the fourth item is the first at the end.
        assert_eq!(taken(&mut Pass::of_large(clock, 1_000), &mut queue), 4);
        assert_eq!(queue.len(), 996);
        let small = taken(&mut Pass::of_small(clock, 1_000), &mut queue);
        assert_eq!(small, 4 * ITEMS_PER_READING);
        assert_eq!(queue.len(), 996 - small);
    }
}
