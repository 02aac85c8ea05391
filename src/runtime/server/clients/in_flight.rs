//! Clients' requests that have no outcome yet, by sequence number, each with the connection that is
//! waiting for the outcome.

use std::collections::{BTreeMap, VecDeque};

use crate::redis::CommandNumber;
use crate::types::{ClientId, Instant};

/// A client's request that has no outcome yet: the client and the slot to which the reply belongs,
/// and when the request arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct InFlight {
    /// The index of the client's connection in the table of connections.
    pub(crate) index: usize,
    /// The id of the client that sent the request. It must match the id of the client now at
    /// `index`, since the indexes of closed connections are reused.
    pub(crate) client: ClientId,
    /// Sequence number of the slot in the client's queue in which the reply will be stored.
    pub(crate) slot: u64,
    /// When the request arrived from the client.
    pub(crate) arrived_at: Instant,
    /// The command of the request, for the statistics.
    pub(crate) command: CommandNumber,
}

/// Maximum length of the list of recent requests, `recent`. When the list becomes longer, its
/// oldest request is moved to the map `slow`.
const RECENT_MAX: usize = 1 << 16;

/// All clients' requests that have no outcome yet, by sequence number.
///
/// Invariant: the request with sequence number `first + n` is at `recent[n]`, `None` if it has its
/// outcome; the front of `recent` is not `None`. Requests with sequence numbers below `first` are
/// in the map `slow`, so that a few slow requests do not keep the list elements of all later
/// requests in memory.
#[derive(Debug)]
pub(crate) struct InFlightTable {
    slow: BTreeMap<u64, InFlight>,
    first: u64,
    recent: VecDeque<Option<InFlight>>,
}

impl Default for InFlightTable {
    fn default() -> InFlightTable {
        InFlightTable { slow: BTreeMap::new(), first: 1, recent: VecDeque::new() }
    }
}

impl InFlightTable {
    /// Adds a request and returns the sequence number that it gets.
    pub(crate) fn add(&mut self, request: InFlight) -> u64 {
        self.recent.push_back(Some(request));
        let sequence = self.first + self.recent.len() as u64 - 1;
        if self.recent.len() > RECENT_MAX
            && let Some(front) = self.recent.front_mut().and_then(Option::take)
        {
            self.slow.insert(self.first, front);
            self.drop_empty_front();
        }
        sequence
    }

    /// Returns the request with this sequence number; `None` if the request already has its
    /// outcome, or was never added.
    pub(crate) fn get(&self, sequence: u64) -> Option<InFlight> {
        match sequence.checked_sub(self.first) {
            Some(at) => *self.recent.get(usize::try_from(at).ok()?)?,
            None => self.slow.get(&sequence).copied(),
        }
    }

    /// Removes the request with this sequence number, if it exists.
    pub(crate) fn remove(&mut self, sequence: u64) {
        let Some(at) = sequence.checked_sub(self.first) else {
            self.slow.remove(&sequence);
            return;
        };
        if let Some(request) = usize::try_from(at).ok().and_then(|at| self.recent.get_mut(at)) {
            *request = None;
        }
        self.drop_empty_front();
    }

    fn drop_empty_front(&mut self) {
        while let Some(None) = self.recent.front() {
            self.recent.pop_front();
            self.first += 1;
        }
    }

    /// Returns the oldest request with a sequence number of at least `from`, together with its
    /// sequence number. Returns `None` if there is no such request, or if it arrived after
    /// `before`. Sequence numbers increase in order of arrival.
    pub(crate) fn next_since(&self, from: u64, before: Instant) -> Option<(u64, InFlight)> {
        let slow = self.slow.range(from..).next().map(|(sequence, request)| (*sequence, *request));
        let recent = || {
            let from = from.max(self.first);
            let at = usize::try_from(from - self.first).ok()?.min(self.recent.len());
            let mut recent = (from..).zip(self.recent.range(at..));
            recent.find_map(|(sequence, request)| Some((sequence, (*request)?)))
        };
        slow.or_else(recent).filter(|(_, request)| request.arrived_at <= before)
    }

    /// Returns the time at which the oldest request without an outcome arrived; `None` if all
    /// requests have their outcomes.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        if let Some((_, request)) = self.slow.first_key_value() {
            return Some(request.arrived_at);
        }
        Some(self.recent.front()?.as_ref()?.arrived_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    fn request(slot: u64) -> InFlight {
        let (arrived_at, command) = (Instant(slot * 10), CommandNumber::default());
        InFlight { index: 3, client: ClientId(7), slot, arrived_at, command }
    }

    fn slots_since(table: &InFlightTable, before: Instant) -> Vec<(u64, u64)> {
        let mut from = 0;
        std::iter::from_fn(|| {
            let (number, request) = table.next_since(from, before)?;
            from = number + 1;
            Some((number, request.slot))
        })
        .collect()
    }

    #[test]
    fn in_flight_request_can_be_looked_up_until_it_is_removed() {
        let mut table = InFlightTable::default();
        let sequences: Vec<u64> = (0..4).map(|slot| table.add(request(slot))).collect();
        assert_eq!(sequences, [1, 2, 3, 4]);
        for at in [2, 0, 3, 1] {
            assert_eq!(table.get(sequences[at]), Some(request(at as u64)));
            table.remove(sequences[at]);
            assert_eq!(table.get(sequences[at]), None);
        }
        assert!(table.recent.is_empty());
        assert_eq!(table.add(request(9)), 5);
    }

    #[test]
    fn in_flight_requests_are_listed_oldest_first() {
        let mut table = InFlightTable::default();
        for slot in 0..5 {
            table.add(request(slot));
        }
        table.remove(2);
        assert_eq!(slots_since(&table, Instant(20)), [(1, 0), (3, 2)]);
        assert_eq!(table.oldest(), Some(Instant(0)));
    }

    #[test]
    fn slow_request_does_not_retain_memory_of_later_requests() {
        let mut table = InFlightTable::default();
        let slow = table.add(request(0));
        let count = 4 * RECENT_MAX as u64;
        for slot in 1..=count {
            let sequence = table.add(request(slot));
            if slot < count {
                table.remove(sequence);
            }
        }
        assert!(table.recent.len() <= RECENT_MAX + 1);
        assert_eq!(table.get(slow), Some(request(0)));
        assert_eq!(slots_since(&table, Instant::MAX), [(1, 0), (count + 1, count)]);
        assert_eq!(table.oldest(), Some(Instant(0)));
        table.remove(1);
        assert_eq!((table.get(slow), table.oldest()), (None, Some(Instant(count * 10))));
    }
}
