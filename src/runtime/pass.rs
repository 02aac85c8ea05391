//! Bounds, in items and in time, on a pass (one iteration of a stage's loop) over a queue. Items
//! that a pass does not take stay in the queue, in order, for the next pass.
//!
//! Every loop over a queue that another stage may be filling at the same time has this or another
//! bound, so that urgent messages, above all heartbeats, never wait until a flood of other messages
//! ends.

use std::time::Duration;

use crate::types::Instant;

use super::clock::Clock;

/// Number of small items (messages or requests that are handled quickly) that a stage handles
/// before it reads the clock again, to check the time limit of a pass (iteration of its loop). A
/// reading costs about as much as handling one small item.
const ITEMS_PER_READING: usize = 32;

/// Time limit of one pass (iteration of a stage's loop) over one queue. It is short compared with
/// the heartbeat interval, and long compared with the time that it takes to wake a thread.
pub(super) const PASS_TIME: Duration = Duration::from_millis(4);

/// Whether a stage continues or has stopped after a pass (iteration of its loop).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum StageState {
    /// The stage continues with the next iteration of its loop.
    Running,
    /// The stage has stopped, so the whole replica stops.
    Stopped,
}

/// The remaining budget, in items and in time, of one pass (iteration of a stage's loop) over a
/// queue.
///
/// Invariant: `until_reading` is at least 1 before an item is taken.
#[derive(Debug)]
pub(super) struct Pass {
    clock: Clock,
    /// Time at which the time budget of the pass (iteration of the stage's loop) ends; `None`
    /// before the first item is taken, so that a pass over an empty queue does not read the clock.
    until: Option<Instant>,
    /// When the clock was last read; `None` before the first item is taken.
    read_at: Option<Instant>,
    items_left: usize,
    /// Number of items that may still be taken before the clock is read again to check the time
    /// budget.
    until_reading: usize,
    items_per_reading: usize,
}

impl Pass {
    /// Creates the budget of a pass (iteration of a stage's loop) over at most `items_max` small
    /// items. The clock is read once for several items.
    pub(super) fn of_small(clock: Clock, items_max: usize) -> Pass {
        Pass::new(clock, items_max, ITEMS_PER_READING)
    }

    /// Creates the budget of a pass (iteration of a stage's loop) over at most `items_max` items,
    /// each of which may take a long time. The clock is read for each item.
    pub(super) fn of_large(clock: Clock, items_max: usize) -> Pass {
        Pass::new(clock, items_max, 1)
    }

    fn new(clock: Clock, items_max: usize, items_per_reading: usize) -> Pass {
        let until_reading = items_per_reading;
        Pass {
            clock,
            until: None,
            read_at: None,
            items_left: items_max,
            until_reading,
            items_per_reading,
        }
    }

    /// Removes and returns the next item, which the caller must handle; `None` if the queue is
    /// empty or the budget is used up. The closure `next` must remove an item from the queue; it is
    /// called only if the budget is not used up.
    pub(super) fn next<T>(&mut self, next: impl FnOnce() -> Option<T>) -> Option<T> {
        if self.is_over() {
            return None;
        }
        let item = next()?;
        self.items_left -= 1;
        self.until_reading -= 1;
        if self.until.is_none() {
            let now = self.clock.now();
            (self.read_at, self.until) = (Some(now), Some(now + PASS_TIME));
        }
        Some(item)
    }

    /// Returns whether the budget of the pass (iteration of the stage's loop) is used up, in items
    /// or in time.
    pub(super) fn is_over(&mut self) -> bool {
        if self.items_left > 0 && self.until_reading == 0 {
            self.until_reading = self.items_per_reading;
            let now = self.clock.now();
            self.read_at = Some(now);
            if self.until.is_some_and(|until| now >= until) {
                self.items_left = 0;
            }
        }
        self.items_left == 0
    }

    /// Returns the time since the pass last read the clock, which in a pass over large items is the
    /// time since the last item was taken. 0 before the first item is taken.
    pub(super) fn since_reading(&self) -> Duration {
        self.read_at.map_or(Duration::ZERO, |at| self.clock.now().since(at))
    }

    /// Ends the pass (iteration of the stage's loop) by setting its budget to zero, so that no more
    /// items are taken.
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

    /// A clock that advances by a quarter of [`PASS_TIME`] with each reading.
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
    fn event_loop_pass_stops_at_item_limit_and_keeps_the_rest() {
        let mut queue: Vec<u32> = (0..100).collect();
        assert_eq!(taken(&mut Pass::of_large(stopped(), 64), &mut queue), 64);
        assert_eq!(queue.len(), 36, "an item was taken and dropped");
        assert_eq!(taken(&mut Pass::of_small(stopped(), 64), &mut queue), 36);
    }

    #[test]
    fn event_loop_pass_stops_at_time_limit_and_keeps_the_rest() {
        let clock = Clock::for_test(Box::leak(Box::<Quarters>::default()));
        let mut queue: Vec<u32> = (0..1_000).collect();
        let (mut pass, mut items) = (Pass::of_large(clock, 10), vec![1, 2]);
        while pass.next(|| items.pop()).is_some() {
            assert_eq!(pass.since_reading(), PASS_TIME / 4);
        }
        // The clock reading after the fourth item is the first one past the time limit.
        assert_eq!(taken(&mut Pass::of_large(clock, 1_000), &mut queue), 4);
        assert_eq!(queue.len(), 996);
        let small = taken(&mut Pass::of_small(clock, 1_000), &mut queue);
        assert_eq!(small, 4 * ITEMS_PER_READING);
        assert_eq!(queue.len(), 996 - small);
    }
}
