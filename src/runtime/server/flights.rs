//! Requests that have no answer yet, by their sequence number, and which connection waits for it.
//! The number is the last part of a request's key and never used twice by one process; with the
//! replica and the random number of this opening of its log before it, a key is unique in the
//! cluster. The count of openings would not do: it begins anew when a replica is replaced.

use std::collections::{BTreeMap, VecDeque};

use crate::runtime::stages::applier::ORIGIN_BYTES;
use crate::types::{ClientId, Instant, NodeId, RequestId, RequestKey};

/// Who waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Flight {
    /// The place of the client's connection.
    pub(super) place: usize,
    /// The connection, for its place may have another by now.
    pub(super) client: ClientId,
    /// Which of its replies.
    pub(super) slot: u64,
    /// When the request came.
    pub(super) arrived: Instant,
}

/// Requests that come behind one that waits for long, before that one is put aside.
const BEHIND_MAX: usize = 1 << 16;

/// All that wait.
///
/// Invariant: the one with sequence `first + n` is at `waiting[n]`; the front is not empty. Those
/// before `first` are in `long`: few, so that one which waits for long does not keep the places of
/// all that came and went since.
#[derive(Debug)]
pub(super) struct Flights {
    origin: [u8; ORIGIN_BYTES],
    long: BTreeMap<u64, Flight>,
    first: u64,
    waiting: VecDeque<Option<Flight>>,
}

/// The bytes that the ids of a replica's requests begin with: its id, and the lower six bytes of
/// the random number of its opening.
pub(super) fn origin_of(replica: NodeId, opening: u64) -> [u8; ORIGIN_BYTES] {
    let mut origin = [0; ORIGIN_BYTES];
    origin[..2].copy_from_slice(&replica.0.to_be_bytes());
    origin[2..].copy_from_slice(&opening.to_be_bytes()[2..]);
    origin
}

/// A request's id.
pub(super) fn request_id(origin: [u8; ORIGIN_BYTES], sequence: u64) -> RequestId {
    let mut id = [0; 16];
    id[..ORIGIN_BYTES].copy_from_slice(&origin);
    id[ORIGIN_BYTES..].copy_from_slice(&sequence.to_be_bytes());
    RequestId(id)
}

/// The replica at which a request came in, and its sequence number there.
pub(super) fn parts_of(id: RequestId) -> (NodeId, u64) {
    let replica = u16::from_be_bytes([id.0[0], id.0[1]]);
    let mut sequence = [0; 8];
    sequence.copy_from_slice(&id.0[ORIGIN_BYTES..]);
    (NodeId(replica), u64::from_be_bytes(sequence))
}

impl Flights {
    pub(super) fn new(origin: [u8; ORIGIN_BYTES]) -> Flights {
        Flights { origin, long: BTreeMap::new(), first: 1, waiting: VecDeque::new() }
    }

    /// What the ids of all requests from here begin with.
    pub(super) fn origin(&self) -> [u8; ORIGIN_BYTES] {
        self.origin
    }

    /// Whether a request came in here, in this incarnation.
    pub(super) fn is_own(&self, key: RequestKey) -> bool {
        key.request.0.starts_with(&self.origin)
    }

    /// The key that the next request gets.
    pub(super) fn next_key(&self, client: ClientId) -> RequestKey {
        let sequence = self.first + self.waiting.len() as u64;
        RequestKey { client, request: request_id(self.origin, sequence) }
    }

    /// Remembers who waits for the request of [`Flights::next_key`]; gives its number.
    pub(super) fn add(&mut self, flight: Flight) -> u64 {
        self.waiting.push_back(Some(flight));
        let sequence = self.first + self.waiting.len() as u64 - 1;
        if self.waiting.len() > BEHIND_MAX
            && let Some(front) = self.waiting.front_mut().and_then(Option::take)
        {
            self.long.insert(self.first, front);
            self.drop_empty_front();
        }
        sequence
    }

    /// Who waits for that, if anybody still does.
    pub(super) fn get(&self, key: RequestKey) -> Option<Flight> {
        let (_, sequence) = parts_of(key.request);
        let flight = match sequence.checked_sub(self.first) {
            Some(at) => (*self.waiting.get(usize::try_from(at).ok()?)?)?,
            None => *self.long.get(&sequence)?,
        };
        (flight.client == key.client).then_some(flight)
    }

    /// Nobody waits any more.
    pub(super) fn remove(&mut self, sequence: u64) {
        let Some(at) = sequence.checked_sub(self.first) else {
            self.long.remove(&sequence);
            return;
        };
        if let Some(flight) = usize::try_from(at).ok().and_then(|at| self.waiting.get_mut(at)) {
            *flight = None;
        }
        self.drop_empty_front();
    }

    fn drop_empty_front(&mut self) {
        while let Some(None) = self.waiting.front() {
            self.waiting.pop_front();
            self.first += 1;
        }
    }

    /// The first request from number `from` on that came by `before`, with its number.
    /// Requests are in the order in which they came.
    pub(super) fn next_since(&self, from: u64, before: Instant) -> Option<(u64, Flight)> {
        let long = self.long.range(from..).next().map(|(sequence, flight)| (*sequence, *flight));
        let numbered = || {
            let from = from.max(self.first);
            let at = usize::try_from(from - self.first).ok()?.min(self.waiting.len());
            let mut waiting = (from..).zip(self.waiting.range(at..));
            waiting.find_map(|(sequence, flight)| Some((sequence, (*flight)?)))
        };
        long.or_else(numbered).filter(|(_, flight)| flight.arrived <= before)
    }

    /// When the one came that has waited longest.
    pub(super) fn oldest(&self) -> Option<Instant> {
        if let Some((_, flight)) = self.long.first_key_value() {
            return Some(flight.arrived);
        }
        Some(self.waiting.front()?.as_ref()?.arrived)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(slot: u64) -> Flight {
        Flight { place: 3, client: ClientId(7), slot, arrived: Instant(slot * 10) }
    }

    fn slots_since(flights: &Flights, before: Instant) -> Vec<(u64, u64)> {
        let mut from = 0;
        std::iter::from_fn(|| {
            let (number, flight) = flights.next_since(from, before)?;
            from = number + 1;
            Some((number, flight.slot))
        })
        .collect()
    }

    #[test]
    fn answers_find_who_waits_in_any_order_and_once() {
        let origin = origin_of(NodeId(0x0102), 0xAABB_0000_0000_0005);
        assert_eq!(origin, [1, 2, 0, 0, 0, 0, 0, 5]);
        let mut flights = Flights::new(origin);
        let keys: Vec<_> = (0..4)
            .map(|slot| {
                let key = flights.next_key(ClientId(7));
                assert_eq!(parts_of(key.request), (NodeId(0x0102), flights.add(flight(slot))));
                key
            })
            .collect();
        assert!(keys.iter().all(|key| flights.is_own(*key)));
        for at in [2, 0, 3, 1] {
            assert_eq!(flights.get(keys[at]), Some(flight(at as u64)));
            flights.remove(parts_of(keys[at].request).1);
            assert_eq!(flights.get(keys[at]), None);
        }
        assert!(flights.waiting.is_empty());
        assert_eq!(parts_of(flights.next_key(ClientId(7)).request).1, 5);
    }

    #[test]
    fn the_same_place_with_another_client_is_not_who_waits() {
        let mut flights = Flights::new(origin_of(NodeId(1), 1));
        let key = flights.next_key(ClientId(7));
        flights.add(flight(0));
        assert_eq!(flights.get(RequestKey { client: ClientId(8), ..key }), None);
        let later = origin_of(NodeId(1), 2);
        let foreign = RequestKey { client: ClientId(7), request: request_id(later, 1) };
        assert!(!flights.is_own(foreign));
    }

    #[test]
    fn those_that_wait_longest_come_first() {
        let mut flights = Flights::new(origin_of(NodeId(1), 1));
        for slot in 0..5 {
            flights.add(flight(slot));
        }
        flights.remove(2);
        assert_eq!(slots_since(&flights, Instant(20)), [(1, 0), (3, 2)]);
        assert_eq!(flights.oldest(), Some(Instant(0)));
    }

    #[test]
    fn one_that_waits_for_long_keeps_no_places_of_others() {
        let mut flights = Flights::new(origin_of(NodeId(1), 1));
        let key = flights.next_key(ClientId(7));
        flights.add(flight(0));
        let count = 4 * BEHIND_MAX as u64;
        for slot in 1..=count {
            let sequence = flights.add(flight(slot));
            if slot < count {
                flights.remove(sequence);
            }
        }
        assert!(flights.waiting.len() <= BEHIND_MAX + 1);
        assert_eq!(flights.get(key), Some(flight(0)));
        assert_eq!(slots_since(&flights, Instant::MAX), [(1, 0), (count + 1, count)]);
        assert_eq!(flights.oldest(), Some(Instant(0)));
        flights.remove(1);
        assert_eq!((flights.get(key), flights.oldest()), (None, Some(Instant(count * 10))));
    }
}
