//! Requests of clients without an outcome, by sequence number, and the connection that waits for
//! each.

use std::collections::{BTreeMap, VecDeque};

use crate::runtime::server::request_id::{replica_and_sequence, request_id};
use crate::runtime::stages::applier::ORIGIN_BYTES;
use crate::types::{ClientId, Instant, RequestKey};

/// A client's request that has no outcome yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct InFlight {
    /// The index of the client's connection in the table of connections.
    pub(crate) index: usize,
    /// The id of the client that sent the request. Compared with the client now at `index`, since
    /// indexes of closed connections are reused.
    pub(crate) client: ClientId,
    /// Number of the slot in the client's queue that the reply will take.
    pub(crate) slot: u64,
    /// When the request arrived.
    pub(crate) arrived_at: Instant,
}

/// Maximum length of the list of recent requests, `recent`. When it is exceeded, the oldest request
/// is moved to the map `slow`.
const RECENT_MAX: usize = 1 << 16;

/// All requests of clients without an outcome, by sequence number.
///
/// Invariant: the request with sequence number `first + n` is at `recent[n]`, `None` if it has its
/// outcome; the front of `recent` is not `None`. Requests with numbers below `first` are in the map
/// `slow`, so that a few slow requests do not keep the entries of all later ones in memory.
#[derive(Debug)]
pub(crate) struct InFlightTable {
    origin: [u8; ORIGIN_BYTES],
    slow: BTreeMap<u64, InFlight>,
    first: u64,
    recent: VecDeque<Option<InFlight>>,
}

impl InFlightTable {
    pub(crate) fn new(origin: [u8; ORIGIN_BYTES]) -> InFlightTable {
        InFlightTable { origin, slow: BTreeMap::new(), first: 1, recent: VecDeque::new() }
    }

    /// Returns the key of a client's request: the client's id, and the request id. The request id
    /// begins with the replica's id and the random number drawn when the replica's log was opened,
    /// and ends with `sequence`.
    pub(crate) fn key(&self, client: ClientId, sequence: u64) -> RequestKey {
        RequestKey { client, request: request_id(self.origin, sequence) }
    }

    /// Returns whether a client sent the request with this key to this replica, since this
    /// replica's log was last opened.
    pub(crate) fn is_own(&self, key: RequestKey) -> bool {
        key.request.0.starts_with(&self.origin)
    }

    /// Returns the key that the next added request gets.
    pub(crate) fn next_key(&self, client: ClientId) -> RequestKey {
        self.key(client, self.first + self.recent.len() as u64)
    }

    /// Adds a request, whose key is [`InFlightTable::next_key`], and returns its sequence number.
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

    /// Returns the request with this key; `None` if it already has its outcome, or was never added.
    pub(crate) fn get(&self, key: RequestKey) -> Option<InFlight> {
        let (_, sequence) = replica_and_sequence(key.request);
        let request = match sequence.checked_sub(self.first) {
            Some(at) => (*self.recent.get(usize::try_from(at).ok()?)?)?,
            None => *self.slow.get(&sequence)?,
        };
        (request.client == key.client).then_some(request)
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

    /// Returns the oldest request with a sequence number of at least `from`, as its number and the
    /// request; `None` if there is none, or if it arrived after `before`. Sequence numbers increase
    /// in order of arrival.
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

    /// Returns when the oldest request without an outcome arrived; `None` if there are none.
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
    use crate::runtime::server::request_id::origin_of;
    use crate::types::NodeId;

    fn request(slot: u64) -> InFlight {
        InFlight { index: 3, client: ClientId(7), slot, arrived_at: Instant(slot * 10) }
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
    fn request_is_found_until_it_is_removed() {
        let origin = origin_of(NodeId(0x0102), 0xAABB_0000_0000_0005);
        assert_eq!(origin, [1, 2, 0, 0, 0, 0, 0, 5]);
        let mut table = InFlightTable::new(origin);
        let keys: Vec<_> = (0..4)
            .map(|slot| {
                let key = table.next_key(ClientId(7));
                assert_eq!(
                    replica_and_sequence(key.request),
                    (NodeId(0x0102), table.add(request(slot)))
                );
                key
            })
            .collect();
        assert!(keys.iter().all(|key| table.is_own(*key)));
        for at in [2, 0, 3, 1] {
            assert_eq!(table.get(keys[at]), Some(request(at as u64)));
            table.remove(replica_and_sequence(keys[at].request).1);
            assert_eq!(table.get(keys[at]), None);
        }
        assert!(table.recent.is_empty());
        assert_eq!(replica_and_sequence(table.next_key(ClientId(7)).request).1, 5);
    }

    #[test]
    fn request_of_another_client_or_opening_is_not_found() {
        let mut table = InFlightTable::new(origin_of(NodeId(1), 1));
        let key = table.next_key(ClientId(7));
        table.add(request(0));
        assert_eq!(table.get(RequestKey { client: ClientId(8), ..key }), None);
        let later = origin_of(NodeId(1), 2);
        let foreign = RequestKey { client: ClientId(7), request: request_id(later, 1) };
        assert!(!table.is_own(foreign));
    }

    #[test]
    fn requests_are_found_oldest_first() {
        let mut table = InFlightTable::new(origin_of(NodeId(1), 1));
        for slot in 0..5 {
            table.add(request(slot));
        }
        table.remove(2);
        assert_eq!(slots_since(&table, Instant(20)), [(1, 0), (3, 2)]);
        assert_eq!(table.oldest(), Some(Instant(0)));
    }

    #[test]
    fn slow_request_does_not_retain_slots_of_later_requests() {
        let mut table = InFlightTable::new(origin_of(NodeId(1), 1));
        let key = table.next_key(ClientId(7));
        table.add(request(0));
        let count = 4 * RECENT_MAX as u64;
        for slot in 1..=count {
            let sequence = table.add(request(slot));
            if slot < count {
                table.remove(sequence);
            }
        }
        assert!(table.recent.len() <= RECENT_MAX + 1);
        assert_eq!(table.get(key), Some(request(0)));
        assert_eq!(slots_since(&table, Instant::MAX), [(1, 0), (count + 1, count)]);
        assert_eq!(table.oldest(), Some(Instant(0)));
        table.remove(1);
        assert_eq!((table.get(key), table.oldest()), (None, Some(Instant(count * 10))));
    }
}
