//! Reads of key ranges: they wait in the applier while it builds the state's index of keys, a piece
//! in each pass. Without such reads for some time, the index is dropped.

use std::time::Duration;

use super::Applier;
use crate::raft::ClientRequest;
use crate::types::Instant;

/// Time without reads of key ranges after which the index of keys is dropped. To build it again
/// takes about a second for a million keys.
const UNUSED_TIME_MAX: Duration = Duration::from_mins(10);
/// Maximum number of batches of reads waiting for the index. Further batches are dropped, and their
/// clients get an error after the command deadline.
const WAITING_MAX: usize = 1 << 12;

/// How clients use the state's index of keys.
#[derive(Debug)]
pub(super) struct KeyIndexUse {
    /// Batches of reads that need the index and wait until it is complete, at most [`WAITING_MAX`].
    waiting: Vec<ClientRequest>,
    /// When a read last used the index.
    used_at: Instant,
}

impl KeyIndexUse {
    pub(super) fn new(now: Instant) -> KeyIndexUse {
        KeyIndexUse { waiting: Vec::new(), used_at: now }
    }

    /// Returns whether reads are waiting for the index, so that each pass must build a piece.
    pub(super) fn is_wanted(&self) -> bool {
        !self.waiting.is_empty()
    }
}

impl Applier {
    /// Takes the first batch of `ready_reads`, which needs the index of keys, out of the queue
    /// until the index is complete. The network sends a read of a range in a batch of its own. If
    /// the batch has other reads nevertheless, they are answered again then.
    pub(super) fn postpone_for_key_index(&mut self) {
        self.read_outcomes.clear();
        let read = self.ready_reads.pop_front();
        if self.key_index.waiting.len() < WAITING_MAX {
            self.key_index.waiting.extend(read);
        }
    }

    /// Builds the next piece of the index if reads are waiting for it, and queues them once it is
    /// complete. Drops an index that was not used for [`UNUSED_TIME_MAX`].
    pub(super) fn advance_key_index(&mut self) {
        if self.key_index.is_wanted() {
            // The state may be another one than before, with no index.
            if self.store.build_key_index() {
                self.ready_reads.extend(self.key_index.waiting.drain(..));
            }
            self.key_index.used_at = self.clock.now();
        } else if self.store.has_key_index() {
            let now = self.clock.now();
            if self.store.take_key_index_used() {
                self.key_index.used_at = now;
            } else if now >= self.key_index.used_at + UNUSED_TIME_MAX {
                self.store.drop_key_indexes();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{batch, get, key, put};
    use super::super::{Batch, ReplyPolicy};
    use super::*;
    use crate::kv::{CommandId, Operation, Outcome};
    use crate::raft::{Committed, RequestKind};
    use crate::record::{EntryKind, RecordBuffer};
    use crate::runtime::channels::{Ends, channels};
    use crate::runtime::clock::tests::stopped;
    use crate::runtime::clock::{Clock, TestClock};
    use crate::runtime::wake::tests::unused_wake;
    use crate::types::EntryId;

    /// A clock that always shows the same time.
    #[derive(Debug)]
    struct StoppedAt(Instant);

    impl TestClock for StoppedAt {
        fn read(&self) -> Instant {
            self.0
        }
    }

    fn at(now: Instant) -> Clock {
        Clock::for_test(Box::leak(Box::new(StoppedAt(now))))
    }

    const KEYS: u32 = 4_000;

    /// An entry that sets many keys.
    fn put_many(index: u64) -> Committed {
        let keys: Vec<[u8; 4]> = (0..KEYS).map(u32::to_be_bytes).collect();
        let args: Vec<&[u8]> = keys.iter().flat_map(|key| [&key[..], b"v"]).collect();
        let payload = Batch::one(key(0), &Operation::call(CommandId::of("mset"), &args[..]));
        let id = EntryId::new(1, index);
        let entry = RecordBuffer::default().encode(id, EntryKind::Command, &payload);
        Committed { entry, as_leader: false }
    }

    fn range(number: u8) -> ClientRequest {
        let operation = Operation::call(CommandId::of("keyrange"), [&b"-"[..], b"(\0"]);
        let payload = Batch::one(key(number), &operation);
        ClientRequest { key: key(number), kind: RequestKind::Read, payload }
    }

    #[test]
    fn range_read_waits_for_the_key_index_while_others_go_on() {
        let Ends { network, applier: ends, core, .. } = channels(&unused_wake(), false);
        let mut applier = Applier::new(ReplyPolicy::Leader, stopped(), ends);
        applier.run_once(Some(batch(vec![put_many(1)], vec![], 0)));
        applier.run_once(Some(batch(vec![], vec![range(10), get(11, b"k")], 0)));
        assert!(applier.key_index.is_wanted() && applier.is_ready());
        // More entries and reads are handled while the index is being built.
        core.to_applier.send(batch(vec![put(2, b"v", true)], vec![get(12, b"k")], 0)).unwrap();
        let mut passes = 0;
        while applier.is_ready() {
            applier.run_ready(false);
            passes += 1;
        }
        assert!((3..=4).contains(&passes), "{passes} pieces of {KEYS} keys");
        let replies = network.replies.try_iter().flat_map(|replies| replies.answers);
        let keys: Vec<_> = replies.map(|answer| (answer.key, answer.outcomes)).collect();
        let order: Vec<_> = keys.iter().map(|(key, _)| *key).collect();
        assert_eq!(order, [11, 2, 12, 10].map(key));
        let Outcome::List(parts) = &keys[3].1[0] else { panic!("{:?}", keys[3].1) };
        assert_eq!(parts[1], Outcome::Integer(2), "the revision when it was read");
        // Now the index is there.
        applier.run_once(Some(batch(vec![], vec![range(13)], 0)));
        let replies: Vec<_> = network.replies.try_iter().flat_map(|it| it.answers).collect();
        assert_eq!((replies.len(), replies[0].key), (1, key(13)));
    }

    #[test]
    fn unused_key_index_is_dropped() {
        let Ends { network, applier: ends, .. } = channels(&unused_wake(), false);
        let mut applier = Applier::new(ReplyPolicy::Leader, stopped(), ends);
        applier.run_once(Some(batch(vec![], vec![range(10)], 0)));
        applier.run_once(None);
        applier.run_once(None);
        applier.clock = at(Instant::ZERO + UNUSED_TIME_MAX / 2);
        applier.run_once(Some(batch(vec![], vec![range(12)], 0)));
        let unused_at = Instant::ZERO + UNUSED_TIME_MAX / 2 + UNUSED_TIME_MAX;
        for now in [Instant::ZERO + UNUSED_TIME_MAX / 2, Instant(unused_at.0 - 1)] {
            applier.clock = at(now);
            applier.run_once(None);
            assert!(applier.store.has_key_index());
        }
        applier.clock = at(unused_at);
        applier.run_once(Some(batch(vec![], vec![get(11, b"k")], 0)));
        assert!(!applier.store.has_key_index());
        assert_eq!(network.replies.try_iter().flat_map(|it| it.answers).count(), 3);
    }
}
