//! The event queue of a simulated cluster: events in chronological order, and in order of insertion
//! at equal times.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::raft::{ClientRequest, Envelope};
use crate::types::Instant;

/// A future event of the machine at index `slot`, or an alarm. An event with an `incarnation`
/// (number of starts and crashes of the machine's replica) is ignored if the replica has started or
/// crashed since the event was queued.
#[derive(Debug)]
pub(super) enum Event {
    /// A message arrives at the machine. `sender` is the incarnation (number of starts and crashes)
    /// in which the sending replica sent it.
    Deliver { slot: usize, sender: u64, envelope: Envelope },
    /// A client's request arrives at the replica.
    Request { slot: usize, request: ClientRequest },
    /// The replica handles all messages that have arrived, as one batch.
    Step { slot: usize, incarnation: u64 },
    /// The replica's next timeout is due.
    Timer { slot: usize, incarnation: u64 },
    /// The replica's current sync of its log ends.
    Synced { slot: usize, incarnation: u64 },
    /// The replica applies committed entries and executes reads.
    Apply { slot: usize, incarnation: u64 },
    /// The replica's own snapshot, which is being written, becomes durable.
    SnapshotTaken { slot: usize, incarnation: u64 },
    /// The received chunks of a leader's snapshot become durable.
    ChunksStored { slot: usize, incarnation: u64 },
    /// The replica installs a leader's snapshot that it has received in full.
    Install { slot: usize, incarnation: u64 },
    /// The replica stops because its disk failed.
    Stop { slot: usize, incarnation: u64 },
    /// An alarm set by the driver of the simulation, with its number, is due.
    Alarm(u64),
}

/// The event queue, ordered by time and, at equal times, by insertion. The heap holds small keys
/// instead of whole events.
#[derive(Debug, Default)]
pub(super) struct Queue {
    order: BinaryHeap<Reverse<(Instant, u64, u32)>>,
    events: Vec<Option<Event>>,
    free: Vec<u32>,
    sequence: u64,
    /// Number of queued messages, requests and disk operations: all events except timers and
    /// alarms.
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
    fn simulated_events_are_ordered_by_time_then_insertion() {
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
