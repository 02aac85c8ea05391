//! The memory of requests: which of the latest requests were applied, and with what outcome, so
//! that one that comes again is answered and not applied again.
//!
//! It is part of the replicated state: what is in it follows from the log alone. Bounded by
//! number, and the oldest in log order goes first. Requests have names without an order, so one
//! that comes again after it was forgotten can't be told from a new one: a client must not
//! repeat a request after [`REMEMBERED_MAX`] others.

use std::collections::VecDeque;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::types::RequestKey;

use super::store::Outcome;

/// How many requests are remembered.
pub(super) const REMEMBERED_MAX: usize = 65_536;

/// The requests remembered.
///
/// Invariant: `order` holds exactly the keys of `outcomes`, each once, in log order, and at most
/// `capacity` of them.
pub(super) struct Sessions {
    outcomes: HashMap<RequestKey, Outcome, FixedState>,
    order: VecDeque<RequestKey>,
    capacity: usize,
}

impl Sessions {
    /// A memory for so many requests; for none, nothing is ever recognised.
    pub(super) fn new(capacity: usize) -> Sessions {
        let outcomes = HashMap::with_hasher(FixedState::with_seed(super::HASH_SEED));
        Sessions { outcomes, order: VecDeque::new(), capacity }
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
            self.outcomes.remove(&oldest);
        }
        let known = self.outcomes.insert(key, outcome);
        assert!(known.is_none(), "{key:?} was remembered, but applied again");
        self.order.push_back(key);
        assert_eq!(self.order.len(), self.outcomes.len(), "the memory of requests fell apart");
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
