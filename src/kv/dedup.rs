//! The memory of requests: which of the latest requests were applied, and with what outcome, so
//! that one that comes again is answered and not applied again.
//!
//! It is part of the replicated state: what is in it follows from the log alone. Bounded by
//! number, and the oldest in log order goes first. Requests have names without an order, so one
//! that comes again after it was forgotten can't be told from a new one: a client must not
//! repeat a request after [`DEDUP_ENTRIES_MAX`] others. Values in outcomes are bounded in bytes:
//! above that, the oldest give way to [`Outcome::Forgotten`]; that a request was applied stays.
//!
//! Every write comes by here, so it is laid out for the processor's cache and not as a map: what is
//! remembered lies in a row, and a table of chains finds it. Requests that are named one after the
//! other, as a server's are, find their chains side by side. Nothing is ever taken out of the
//! table: a chain leads from younger to older, so it ends where the first forgotten one would be.
//!
//! The row is in pieces, which a view shares as it does the tables of pairs: only the last one, and
//! those whose values are forgotten, are written to and so may have to be copied.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::kv::commands::outcome::Outcome;
use crate::kv::values::copy_on_write::Share;
use crate::kv::values::digest::mix;
use crate::types::RequestKey;

/// How many requests are remembered.
pub const DEDUP_ENTRIES_MAX: usize = 65_536;

/// Most bytes of values in remembered outcomes; one that is larger alone is never remembered.
const VALUE_BYTES_MAX: usize = 16 << 20;

/// Chains at first, and how many there are for each request remembered, at least.
const CHAINS_MIN: usize = 64;
const CHAINS_PER_REQUEST: usize = 2;
/// So many requests named one after the other have their chains side by side.
const NEIGHBOURS_BITS: u32 = 6;

/// Requests in a piece of the row. A power of two.
const PIECE: usize = 1_024;

/// Numbers what was remembered, in log order, from 1; begins anew after 2^32, far behind what is
/// remembered.
type Number = u32;

/// The requests remembered.
///
/// Invariant: `row` holds at most `capacity` requests in log order, the first of which has the
/// number `first`. `chains` leads to the youngest of each chain, and that and every other one in
/// it to the next older; a number that is not in the row any more ends the chain. `heavy` numbers
/// those whose outcomes have bytes of values, in the same order, and `value_bytes` is the sum of
/// these.
pub(super) struct DedupTable {
    row: Row,
    first: Number,
    chains: Vec<Number>,
    capacity: usize,
    heavy: VecDeque<Number>,
    value_bytes: usize,
}

/// A request that was applied.
#[derive(Clone)]
pub(super) struct DedupEntry {
    key: RequestKey,
    /// The next older one of its chain.
    older: Number,
    outcome: Outcome,
}

/// What is remembered, oldest first.
///
/// Invariant: each piece but the last one holds [`PIECE`] requests, and the first `gone` of the
/// first piece are forgotten, fewer than it holds.
#[derive(Default)]
struct Row {
    pieces: VecDeque<Share<Vec<DedupEntry>>>,
    gone: usize,
    len: usize,
}

impl Row {
    fn get(&self, position: usize) -> Option<&DedupEntry> {
        let place = self.gone.checked_add(position)?;
        self.pieces.get(place / PIECE)?.get().get(place % PIECE)
    }

    fn get_mut(&mut self, position: usize) -> Option<&mut DedupEntry> {
        let place = self.gone.checked_add(position)?;
        self.pieces.get_mut(place / PIECE)?.get_mut().get_mut(place % PIECE)
    }

    fn push(&mut self, last: DedupEntry) {
        if (self.gone + self.len).is_multiple_of(PIECE) {
            self.pieces.push_back(Share::Own(Vec::with_capacity(PIECE)));
        }
        let piece = self.pieces.back_mut().expect("one was put there if need be");
        piece.get_mut().push(last);
        self.len += 1;
    }

    /// Forgets the first. Its memory goes with that of its piece.
    fn pop(&mut self) {
        self.len -= 1;
        self.gone += 1;
        if self.gone == PIECE {
            self.pieces.pop_front();
            self.gone = 0;
        }
    }
}

/// What was remembered at one moment, shared with the row.
pub(super) struct DedupView {
    pieces: Vec<Arc<Vec<DedupEntry>>>,
    gone: usize,
}

impl DedupView {
    /// All of it, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&RequestKey, &Outcome)> {
        let all = self.pieces.iter().flat_map(|piece| piece.iter());
        all.skip(self.gone).map(|there| (&there.key, &there.outcome))
    }
}

impl DedupTable {
    /// A memory for so many requests; for none, nothing is ever recognised.
    pub(super) fn new(capacity: usize) -> DedupTable {
        let row = Row::default();
        let (chains, heavy) = (vec![0; CHAINS_MIN], VecDeque::new());
        DedupTable { row, first: 1, chains, capacity, heavy, value_bytes: 0 }
    }

    /// The outcome of a request, if it is remembered.
    pub(super) fn outcome(&self, key: &RequestKey) -> Option<&Outcome> {
        let mut number = self.chains[self.chain_of(key)];
        // Longer than the row no chain is, whatever a number that came around again may lead to.
        for _ in 0..self.row.len {
            let there = self.row.get(self.position(number))?;
            if there.key == *key {
                return Some(&there.outcome);
            }
            number = there.older;
        }
        None
    }

    /// Remembers a request that was just applied and was not remembered, and forgets the oldest if
    /// there are too many.
    pub(super) fn remember(&mut self, key: RequestKey, outcome: Outcome) {
        if self.capacity == 0 {
            return;
        }
        debug_assert!(self.outcome(&key).is_none(), "{key:?} was remembered, but applied again");
        if self.row.len == self.capacity {
            if self.heavy.front() == Some(&self.first) {
                self.lighten();
            }
            self.row.pop();
            self.first = self.first.wrapping_add(1);
        }
        if self.chains.len() < (self.row.len + 1) * CHAINS_PER_REQUEST {
            self.lengthen();
        }
        let value_bytes = outcome.value_bytes();
        let number = self.number(self.row.len);
        let chain = self.chain_of(&key);
        let older = std::mem::replace(&mut self.chains[chain], number);
        self.row.push(DedupEntry { key, older, outcome });
        if value_bytes > 0 {
            self.heavy.push_back(number);
            self.value_bytes += value_bytes;
        }
        while self.value_bytes > VALUE_BYTES_MAX {
            self.lighten();
        }
    }

    /// Forgets the values in the oldest outcome that has some.
    fn lighten(&mut self) {
        let number = self.heavy.pop_front().expect("called while there are bytes of values");
        let position = self.position(number);
        let there = self.row.get_mut(position).expect("it leaves `heavy` before the row");
        self.value_bytes -= there.outcome.value_bytes();
        there.outcome = Outcome::Forgotten;
    }

    /// All of them, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&RequestKey, &Outcome)> {
        let all = self.row.pieces.iter().flat_map(Share::get);
        all.skip(self.row.gone).map(|there| (&there.key, &there.outcome))
    }

    /// All of them as they are now, to be kept.
    pub(super) fn share(&mut self) -> DedupView {
        let Row { pieces, gone, .. } = &mut self.row;
        DedupView { pieces: pieces.iter_mut().map(Share::share).collect(), gone: *gone }
    }

    /// How many requests are remembered.
    pub(super) fn len(&self) -> usize {
        self.row.len
    }

    /// Bytes of memory that it takes.
    pub(super) fn memory(&self) -> usize {
        let row = self.row.pieces.len() * PIECE * size_of::<DedupEntry>();
        let numbers = (self.chains.len() + self.heavy.capacity()) * size_of::<Number>();
        row + numbers + self.value_bytes
    }

    /// Makes room for twice as many chains, and puts everybody into its own anew.
    fn lengthen(&mut self) {
        self.chains = vec![self.first.wrapping_sub(1); self.chains.len() * 2];
        for position in 0..self.row.len {
            let number = self.number(position);
            let there = self.row.get(position).expect("the row is so long");
            let chain = self.chain_of(&there.key);
            let older = std::mem::replace(&mut self.chains[chain], number);
            self.row.get_mut(position).expect("it was there a moment ago").older = older;
        }
    }

    fn number(&self, position: usize) -> Number {
        let position = Number::try_from(position).expect("no more are remembered than 2^32");
        self.first.wrapping_add(position)
    }

    /// Where in the row a number would be; behind its end if it is forgotten.
    fn position(&self, number: Number) -> usize {
        number.wrapping_sub(self.first) as usize
    }

    fn chain_of(&self, key: &RequestKey) -> usize {
        let ([before, last], []) = key.request.0.as_chunks::<8>() else {
            unreachable!("an id has twice eight bytes")
        };
        // The last bytes of a server's ids count requests.
        let (before, last) = (u64::from_be_bytes(*before), u64::from_be_bytes(*last));
        let apart = mix(mix(0, before), last >> NEIGHBOURS_BITS);
        let side_by_side = last & ((1 << NEIGHBOURS_BITS) - 1);
        let chain = apart << NEIGHBOURS_BITS | side_by_side;
        // There is a power of two of them.
        let chain = chain & (self.chains.len() as u64 - 1);
        usize::try_from(chain).expect("below the number of chains")
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
        let mut table = DedupTable::new(3);
        for number in 0..5 {
            assert_eq!(table.outcome(&key(number)), None);
            table.remember(key(number), Outcome::Deleted(number % 2 == 0));
        }
        assert_eq!(table.len(), 3);
        assert_eq!(table.outcome(&key(0)), None);
        assert_eq!(table.outcome(&key(1)), None);
        assert_eq!(table.outcome(&key(2)), Some(&Outcome::Deleted(true)));
        assert_eq!(table.outcome(&key(3)), Some(&Outcome::Deleted(false)));
        assert_eq!(table.outcome(&key(4)), Some(&Outcome::Deleted(true)));
    }

    #[test]
    fn values_are_forgotten_before_requests() {
        let mut table = DedupTable::new(4);
        let value = |bytes| Outcome::Value(Some(bytes::Bytes::from(vec![0; bytes])));
        table.remember(key(0), value(VALUE_BYTES_MAX - 1));
        table.remember(key(1), value(1));
        assert_eq!(table.outcome(&key(0)), Some(&value(VALUE_BYTES_MAX - 1)));
        table.remember(key(2), value(1));
        assert_eq!(table.outcome(&key(0)), Some(&Outcome::Forgotten));
        assert_eq!(table.outcome(&key(1)), Some(&value(1)));
        table.remember(key(3), value(VALUE_BYTES_MAX + 1));
        assert_eq!(table.outcome(&key(3)), Some(&Outcome::Forgotten));
        assert_eq!((table.value_bytes, table.heavy.len()), (0, 0));
        for number in 4..12 {
            table.remember(key(number), value(usize::from(number)));
        }
        assert_eq!((table.value_bytes, table.heavy.len()), (8 + 9 + 10 + 11, 4));
    }

    #[test]
    fn the_same_name_from_another_client_is_another_request() {
        let mut table = DedupTable::new(3);
        table.remember(key(1), Outcome::Done);
        let other = RequestKey { client: ClientId(8), ..key(1) };
        assert_eq!(table.outcome(&other), None);
    }

    /// Against a map and a list, with names in every order and chains that grow meanwhile.
    #[test]
    fn it_remembers_as_a_map_would() {
        let names = (0..4_000_u64).map(|number| {
            // Three sources: two that count, and one that does not.
            let (source, count) = (number % 3, number / 3);
            let last = if source == 2 { count.wrapping_mul(0x9E37_79B9_7F4A_7C15) } else { count };
            let id = u128::from(source) << 64 | u128::from(last);
            RequestKey { client: ClientId(7), request: RequestId(id.to_be_bytes()) }
        });
        let names: Vec<RequestKey> = names.collect();
        let mut table = DedupTable::new(700);
        // The numbers come around on the way.
        table.first = Number::MAX - 1_000;
        table.chains.fill(table.first - 1);
        for (at, name) in names.iter().enumerate() {
            assert_eq!(table.outcome(name), None, "{at}");
            table.remember(*name, Outcome::count(at));
            let known = names[..=at].iter().rev().take(700);
            if at % 97 == 0 {
                for (back, known) in known.enumerate() {
                    let outcome = Outcome::count(at - back);
                    assert_eq!(table.outcome(known), Some(&outcome), "{back} before {at}");
                }
                let forgotten = at.checked_sub(700).map(|at| &names[at]);
                assert!(forgotten.is_none_or(|name| table.outcome(name).is_none()));
            }
        }
        assert_eq!((table.len(), table.chains.len()), (700, 2_048));
    }

    #[test]
    fn what_a_view_shares_stays_while_requests_come_and_go() {
        let name = |number: usize| {
            let id = RequestId((number as u128).to_be_bytes());
            RequestKey { client: ClientId(7), request: id }
        };
        let value = |number: usize| {
            let value = || bytes::Bytes::from(vec![0; VALUE_BYTES_MAX / 4]);
            Outcome::Value((number % PIECE == 9).then(value))
        };
        let capacity = PIECE * 3 + 5;
        let mut table = DedupTable::new(capacity);
        let mut shared = Vec::new();
        for number in 0..PIECE * 8 {
            table.remember(name(number), value(number));
            if number % 700 == 699 {
                let there = || table.iter().map(|(key, outcome)| (*key, outcome.clone()));
                let there: Vec<_> = there().collect();
                shared.push((table.share(), there));
                assert_eq!(table.len(), capacity.min(number + 1));
                assert!(table.row.pieces.len() <= capacity / PIECE + 2);
            }
        }
        for (memory, there) in shared {
            assert!(memory.iter().eq(there.iter().map(|(key, outcome)| (key, outcome))));
        }
    }

    #[test]
    fn a_memory_for_none_remembers_none() {
        let mut table = DedupTable::new(0);
        table.remember(key(1), Outcome::Done);
        table.remember(key(1), Outcome::Done);
        assert_eq!((table.outcome(&key(1)), table.len()), (None, 0));
    }
}
