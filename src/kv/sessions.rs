//! The memory of requests: which of the latest requests were applied, and with what outcome, so
//! that one that comes again is answered and not applied again.
//!
//! It is part of the replicated state: what is in it follows from the log alone. Bounded by
//! number, and the oldest in log order goes first. Requests have names without an order, so one
//! that comes again after it was forgotten can't be told from a new one: a client must not
//! repeat a request after [`REMEMBERED_MAX`] others. The values in outcomes are bounded in bytes:
//! above that, the oldest give way to [`Outcome::Forgotten`]; that a request was applied stays.

use std::collections::VecDeque;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::types::RequestKey;

use super::outcome::Outcome;

/// How many requests are remembered.
pub const REMEMBERED_MAX: usize = 65_536;

/// Most bytes of values in remembered outcomes; one that is larger alone is never remembered.
const VALUE_BYTES_MAX: usize = 16 << 20;

/// The requests remembered.
///
/// Invariant: `order` holds exactly the keys of `outcomes`, each once, in log order, and at most
/// `capacity` of them. `heavy` holds those whose outcomes have bytes of values, in the same order,
/// and `value_bytes` is the sum of these.
pub(super) struct Sessions {
    outcomes: HashMap<RequestKey, Outcome, FixedState>,
    order: VecDeque<RequestKey>,
    capacity: usize,
    heavy: VecDeque<RequestKey>,
    value_bytes: usize,
}

impl Sessions {
    /// A memory for so many requests; for none, nothing is ever recognised.
    pub(super) fn new(capacity: usize) -> Sessions {
        let outcomes = HashMap::with_hasher(FixedState::with_seed(super::HASH_SEED));
        let (order, heavy) = (VecDeque::new(), VecDeque::new());
        Sessions { outcomes, order, capacity, heavy, value_bytes: 0 }
    }

    /// The outcome of a request, if it is remembered.
    pub(super) fn outcome(&self, key: &RequestKey) -> Option<&Outcome> {
        self.outcomes.get(key)
    }

    /// Remembers a request that was just applied, and forgets the oldest if there are too many.
    pub(super) fn remember(&mut self, key: RequestKey, outcome: Outcome) {
        if self.capacity == 0 {
            return;
        }
        if self.order.len() == self.capacity {
            let oldest = self.order.pop_front().expect("full, and not of capacity 0");
            if self.heavy.front() == Some(&oldest) {
                self.lighten();
            }
            self.outcomes.remove(&oldest);
        }
        let value_bytes = outcome.value_bytes();
        let known = self.outcomes.insert(key, outcome);
        assert!(known.is_none(), "{key:?} was remembered, but applied again");
        self.order.push_back(key);
        assert_eq!(self.order.len(), self.outcomes.len(), "the memory of requests fell apart");
        if value_bytes > 0 {
            self.heavy.push_back(key);
            self.value_bytes += value_bytes;
        }
        while self.value_bytes > VALUE_BYTES_MAX {
            self.lighten();
        }
    }

    /// Forgets the values in the oldest outcome that has some.
    fn lighten(&mut self) {
        let key = self.heavy.pop_front().expect("called while there are bytes of values");
        let outcome = self.outcomes.get_mut(&key).expect("it leaves `heavy` before `outcomes`");
        self.value_bytes -= outcome.value_bytes();
        *outcome = Outcome::Forgotten;
    }

    /// How many requests are remembered.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ClientId, RequestId};

    fn key(number: u8) -> RequestKey {
        RequestKey { client: ClientId(7), request: RequestId([number; 16]) }
    }

    #[test]
    fn the_oldest_is_forgotten_first() {
        let mut sessions = Sessions::new(3);
        for number in 0..5 {
            assert_eq!(sessions.outcome(&key(number)), None);
            sessions.remember(key(number), Outcome::Deleted(number % 2 == 0));
        }
        assert_eq!(sessions.len(), 3);
        assert_eq!(sessions.outcome(&key(0)), None);
        assert_eq!(sessions.outcome(&key(1)), None);
        assert_eq!(sessions.outcome(&key(2)), Some(&Outcome::Deleted(true)));
        assert_eq!(sessions.outcome(&key(3)), Some(&Outcome::Deleted(false)));
        assert_eq!(sessions.outcome(&key(4)), Some(&Outcome::Deleted(true)));
    }

    #[test]
    fn values_are_forgotten_before_requests() {
        let mut sessions = Sessions::new(4);
        let value = |bytes| Outcome::Value(Some(bytes::Bytes::from(vec![0; bytes])));
        sessions.remember(key(0), value(VALUE_BYTES_MAX - 1));
        sessions.remember(key(1), value(1));
        assert_eq!(sessions.outcome(&key(0)), Some(&value(VALUE_BYTES_MAX - 1)));
        sessions.remember(key(2), value(1));
        assert_eq!(sessions.outcome(&key(0)), Some(&Outcome::Forgotten));
        assert_eq!(sessions.outcome(&key(1)), Some(&value(1)));
        sessions.remember(key(3), value(VALUE_BYTES_MAX + 1));
        assert_eq!(sessions.outcome(&key(3)), Some(&Outcome::Forgotten));
        assert_eq!((sessions.value_bytes, sessions.heavy.len()), (0, 0));
        for number in 4..12 {
            sessions.remember(key(number), value(usize::from(number)));
        }
        assert_eq!((sessions.value_bytes, sessions.heavy.len()), (8 + 9 + 10 + 11, 4));
    }

    #[test]
    fn the_same_name_from_another_client_is_another_request() {
        let mut sessions = Sessions::new(3);
        sessions.remember(key(1), Outcome::Done);
        let other = RequestKey { client: ClientId(8), ..key(1) };
        assert_eq!(sessions.outcome(&other), None);
    }

    #[test]
    fn a_memory_for_none_remembers_none() {
        let mut sessions = Sessions::new(0);
        sessions.remember(key(1), Outcome::Done);
        sessions.remember(key(1), Outcome::Done);
        assert_eq!((sessions.outcome(&key(1)), sessions.len()), (None, 0));
    }
}
