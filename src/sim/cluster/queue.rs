//! The queue of events: earliest first, and in the order of their making where the time is equal.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::raft::{ClientRequest, Envelope};
use crate::types::Instant;

/// Something that will happen to a replica (by its place), or an alarm of the driver's.
#[derive(Debug)]
pub(super) enum Event {
    /// `sender` is the incarnation of the replica that sent it.
    Deliver {
        place: usize,
        sender: u64,
        envelope: Envelope,
    },
    Request {
        place: usize,
        request: ClientRequest,
    },
    Step {
        place: usize,
        incarnation: u64,
    },
    Timer {
        place: usize,
        incarnation: u64,
    },
    Synced {
        place: usize,
        incarnation: u64,
    },
    Apply {
        place: usize,
        incarnation: u64,
    },
    Taken {
        place: usize,
        incarnation: u64,
    },
    /// Chunks of a leader's snapshot are stored.
    Stored {
        place: usize,
        incarnation: u64,
    },
    Install {
        place: usize,
        incarnation: u64,
    },
    /// Its disk failed.
    Stop {
        place: usize,
        incarnation: u64,
    },
    Alarm(u64),
}

/// Events by time, then by the order of their making. The heap moves small keys only.
#[derive(Debug, Default)]
pub(super) struct Queue {
    order: BinaryHeap<Reverse<(Instant, u64, u32)>>,
    events: Vec<Option<Event>>,
    free: Vec<u32>,
    sequence: u64,
    /// How many of the events are messages, requests, syncs and the like: work on its way, as
    /// opposed to timers and alarms.
    pub(super) under_way: usize,
}

impl Event {
    fn is_under_way(&self) -> bool {
        !matches!(self, Event::Timer { .. } | Event::Alarm(_))
    }
}

impl Queue {
    pub(super) fn push(&mut self, at: Instant, event: Event) {
        self.under_way += usize::from(event.is_under_way());
        let slot = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            u32::try_from(self.events.len() - 1).expect("fewer than 2^32 events at a time")
        });
        self.events[slot as usize] = Some(event);
        self.sequence += 1;
        self.order.push(Reverse((at, self.sequence, slot)));
    }

    pub(super) fn next_at(&self) -> Option<Instant> {
        self.order.peek().map(|Reverse((at, ..))| *at)
    }

    pub(super) fn pop(&mut self) -> Option<(Instant, Event)> {
        let Reverse((at, _, slot)) = self.order.pop()?;
        let event = self.events[slot as usize].take().expect("a queued slot holds its event");
        self.free.push(slot);
        self.under_way -= usize::from(event.is_under_way());
        Some((at, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_in_the_order_of_their_making() {
        let mut queue = Queue::default();
        for (at, number) in [(5, 1), (3, 2), (5, 3), (3, 4), (4, 5)] {
            queue.push(Instant(at), Event::Alarm(number));
        }
        queue.push(Instant(9), Event::Step { place: 0, incarnation: 1 });
        assert_eq!((queue.next_at(), queue.under_way), (Some(Instant(3)), 1));
        let mut seen = Vec::new();
        while let Some((at, event)) = queue.pop() {
            if let Event::Alarm(number) = event {
                seen.push((at.0, number));
            }
        }
        assert_eq!(seen, [(3, 2), (3, 4), (4, 5), (5, 1), (5, 3)]);
        assert_eq!((queue.next_at(), queue.under_way), (None, 0));
    }
}
