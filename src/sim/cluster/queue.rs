//! The event queue: events in order of time, and in order of insertion at equal times.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::raft::{ClientRequest, Envelope};
use crate::types::Instant;

/// A future event of the machine at `slot`, or an alarm of the driver. Events of another
/// incarnation of the machine are ignored.
#[derive(Debug)]
pub(super) enum Event {
    /// A message arrives. `sender` is the incarnation of the replica that sent it.
    Deliver { slot: usize, sender: u64, envelope: Envelope },
    /// A client request arrives.
    Request { slot: usize, request: ClientRequest },
    /// A batch is complete, and the replica handles it.
    Step { slot: usize, incarnation: u64 },
    /// The replica's next timeout is due.
    Timer { slot: usize, incarnation: u64 },
    /// The sync in progress ends.
    Synced { slot: usize, incarnation: u64 },
    /// The committed entries handed over so far are applied.
    Apply { slot: usize, incarnation: u64 },
    /// The snapshot being written becomes durable.
    SnapshotTaken { slot: usize, incarnation: u64 },
    /// The received chunks of the leader's snapshot are stored.
    ChunksStored { slot: usize, incarnation: u64 },
    /// The leader's snapshot, which is complete, is installed.
    Install { slot: usize, incarnation: u64 },
    /// The replica stops because its disk failed.
    Stop { slot: usize, incarnation: u64 },
    /// The driver's alarm with this number.
    Alarm(u64),
}

/// The events in order of time, then of insertion. The heap holds only keys, which are small.
#[derive(Debug, Default)]
pub(super) struct Queue {
    order: BinaryHeap<Reverse<(Instant, u64, u32)>>,
    events: Vec<Option<Event>>,
    free: Vec<u32>,
    sequence: u64,
    /// Number of queued events other than timers and alarms: messages, requests, disk operations.
    pub(super) in_flight: usize,
}

impl Event {
    fn is_in_flight(&self) -> bool {
        !matches!(self, Event::Timer { .. } | Event::Alarm(_))
    }
}

impl Queue {
    pub(super) fn push(&mut self, at: Instant, event: Event) {
        self.in_flight += usize::from(event.is_in_flight());
        let slot = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            u32::try_from(self.events.len() - 1).expect("fewer than 2^32 queued events")
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
        self.in_flight -= usize::from(event.is_in_flight());
        Some((at, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_ordered_by_time_then_insertion() {
        let mut queue = Queue::default();
        for (at, number) in [(5, 1), (3, 2), (5, 3), (3, 4), (4, 5)] {
            queue.push(Instant(at), Event::Alarm(number));
        }
        queue.push(Instant(9), Event::Step { slot: 0, incarnation: 1 });
        assert_eq!((queue.next_at(), queue.in_flight), (Some(Instant(3)), 1));
        let mut seen = Vec::new();
        while let Some((at, event)) = queue.pop() {
            if let Event::Alarm(number) = event {
                seen.push((at.0, number));
            }
        }
        assert_eq!(seen, [(3, 2), (3, 4), (4, 5), (5, 1), (5, 3)]);
        assert_eq!((queue.next_at(), queue.in_flight), (None, 0));
    }
}
