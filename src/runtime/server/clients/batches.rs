//! Batches of clients' requests: those that are being built, and those that were sent to the core
//! or the leader but have no outcomes yet. A batch is sent, resent, refused and answered as a
//! whole. Its requests may come from any number of connections.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use crate::kv::{BATCH_OPERATIONS_MAX, Batch, BatchBuffer, Operation};
use crate::raft::{ClientRequest, RequestKind};
use crate::runtime::server::request_id::{
    BATCH_CLIENT, NO_CLIENT, replica_and_sequence, request_id,
};
use crate::runtime::stages::applier::ORIGIN_BYTES;
use crate::types::{Index, Instant, RequestKey};

/// Maximum encoded length, in bytes, of a batch with more than one operation. A longer operation
/// gets a batch of its own.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// Total length in bytes of the batches of writes in flight at which later writes wait. Enough
/// to keep disks and network busy, and little enough to be replicated well before the deadline of
/// requests. Large batches do not count.
const SENT_BYTES_MAX: usize = 8 << 20;

/// Returns whether the operation with this encoded length is a large one, which the leader appends
/// in pieces if it is a write. Each replica has one large write in flight for its clients, so that
/// they need little memory at the leader.
pub(crate) fn is_large(operation: &[u8]) -> bool {
    operation.len() > BATCH_BYTES_MAX
}

/// Minimum number of batches of writes in flight (sent, but without outcomes) at which later writes
/// may wait to form a larger batch. With two batches in flight, one is being replicated, and the
/// other is queued behind it.
const AHEAD_BATCHES: usize = 2;
/// Minimum number of writes in flight (in batches that were sent but have no outcomes) at which
/// later writes are sent without waiting to form a larger batch.
const AHEAD_OPERATIONS: u64 = 128;

/// A batch of clients' requests that was sent to the Raft core or to the leader, and whose outcomes
/// are not known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SentBatch {
    pub(crate) kind: RequestKind,
    /// The encoded batch, kept to be sent again after a leader change or a lost connection; empty
    /// if it never has to be sent again.
    pub(crate) payload: Bytes,
    /// This replica's applied index when the batch was sent. If this is a batch of writes, its log
    /// entry has a larger index.
    pub(crate) since: Index,
    pub(crate) sent_at: Instant,
    /// Length of a batch of writes in bytes; 0 for a large one and for reads.
    counted_bytes: usize,
    /// Sequence numbers of the batch's requests, in the order of its operations. Consecutive
    /// numbers are stored as a range.
    requests: Vec<Range<u64>>,
    /// Whether more than one copy of the batch was sent. If so, the batch may be applied even if
    /// one copy is refused.
    resent: bool,
}

/// A batch of requests, all reads or all writes, that is being built.
#[derive(Debug, Default)]
struct OpenBatch {
    buffer: BatchBuffer,
    requests: Vec<Range<u64>>,
}

/// The batches of requests of this replica's clients: those being built, and those that were sent
/// to the Raft core or the leader and have no outcomes yet.
///
/// Invariant: batch numbers are never reused, and all numbers in `sent` are below `next`.
#[derive(Debug)]
pub(crate) struct Batches {
    origin: [u8; ORIGIN_BYTES],
    next: u64,
    sent: BTreeMap<u64, SentBatch>,
    /// Sum of `counted_bytes` of the batches in `sent`.
    sent_bytes: usize,
    /// Number of the latest large batch of writes.
    latest_large: u64,
    reads: OpenBatch,
    /// Reads that this replica answers from its own state.
    lagging_reads: OpenBatch,
    writes: OpenBatch,
    /// Whether the batches being built will be forwarded to another replica, the leader.
    forwarded: bool,
    /// This replica's applied index at the time `now`, when it began to build the current batches.
    since: Index,
    now: Instant,
    /// The revision of the users under which the writes of this pass were checked; `None` to leave
    /// it out.
    users_revision: Option<u64>,
    /// Maximum number of operations in each of the batches being built.
    operations_max: usize,
    /// The batches that are full or were ended since [`Batches::begin`], ready to be sent, oldest
    /// first.
    complete: Vec<ClientRequest>,
    /// Those of reads that this replica answers from its own state.
    complete_lagging: Vec<ClientRequest>,
}

/// One of the batches being built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Reads,
    LaggingReads,
    Writes,
}

impl Part {
    fn of(kind: RequestKind) -> Part {
        match kind {
            RequestKind::Read => Part::Reads,
            RequestKind::Write => Part::Writes,
        }
    }

    fn kind(self) -> RequestKind {
        match self {
            Part::Reads | Part::LaggingReads => RequestKind::Read,
            Part::Writes => RequestKind::Write,
        }
    }
}

impl SentBatch {
    /// Iterates over the sequence numbers of the batch's requests, in the order of its operations.
    pub(crate) fn requests(&self) -> impl Iterator<Item = u64> + use<'_> {
        self.requests.iter().cloned().flatten()
    }
}

impl OpenBatch {
    fn add(&mut self, sequence: u64, operation: &[u8]) {
        self.buffer.push(operation);
        match self.requests.last_mut() {
            Some(run) if run.end == sequence => run.end += 1,
            _ => self.requests.push(sequence..sequence + 1),
        }
    }
}

impl Batches {
    /// Creates an empty table of batches. `origin` identifies this replica and the current run of
    /// its process, and is the prefix of the request ids of all batches.
    pub(crate) fn new(origin: [u8; ORIGIN_BYTES]) -> Batches {
        Batches {
            origin,
            next: 1,
            sent: BTreeMap::new(),
            sent_bytes: 0,
            latest_large: 0,
            reads: OpenBatch::default(),
            lagging_reads: OpenBatch::default(),
            writes: OpenBatch::default(),
            forwarded: false,
            since: Index::ZERO,
            now: Instant::ZERO,
            operations_max: BATCH_OPERATIONS_MAX,
            users_revision: None,
            complete: Vec::new(),
            complete_lagging: Vec::new(),
        }
    }

    /// Returns whether the batch of requests with this key was built by this process.
    pub(crate) fn is_own(&self, key: RequestKey) -> bool {
        key.client == BATCH_CLIENT && key.request.0.starts_with(&self.origin)
    }

    fn key(&self, number: u64) -> RequestKey {
        RequestKey { client: BATCH_CLIENT, request: request_id(self.origin, number) }
    }

    /// Returns the key of a batch of operations of the replica itself, for which no client waits.
    pub(crate) fn key_without_client(&self) -> RequestKey {
        RequestKey { client: NO_CLIENT, request: request_id(self.origin, 0) }
    }

    fn number(&self, key: RequestKey) -> Option<u64> {
        self.is_own(key).then(|| replica_and_sequence(key.request).1)
    }

    /// Begins to build batches of at most `operations_max` operations. `forwarded` says whether the
    /// batches will be forwarded to another replica; `since` is this replica's applied index, and
    /// `now` the current time. `users_revision` is the revision of the users under which the writes
    /// were checked; `None` to leave it out.
    pub(crate) fn begin(
        &mut self,
        forwarded: bool,
        (since, now): (Index, Instant),
        operations_max: usize,
        users_revision: Option<u64>,
    ) {
        assert!(
            self.reads.buffer.is_empty() && self.writes.buffer.is_empty(),
            "{} reads and {} writes of an earlier pass",
            self.reads.buffer.len(),
            self.writes.buffer.len()
        );
        (self.forwarded, self.operations_max) = (forwarded, operations_max);
        (self.since, self.now) = (since, now);
        self.users_revision = users_revision;
    }

    /// Adds the request with this sequence number and its encoded operation to the current batch of
    /// its kind (read or write).
    pub(crate) fn add(&mut self, kind: RequestKind, sequence: u64, operation: &[u8]) {
        self.add_to(Part::of(kind), sequence, operation);
    }

    /// Adds the read with this sequence number and its encoded operation to the current batch of
    /// reads that this replica answers from its own state.
    pub(crate) fn add_lagging_read(&mut self, sequence: u64, operation: &[u8]) {
        self.add_to(Part::LaggingReads, sequence, operation);
    }

    fn add_to(&mut self, part: Part, sequence: u64, operation: &[u8]) {
        let open = self.open(part);
        let length = open.buffer.encoded_len() + operation.len();
        // A batch waits as a whole, so no other read may share one with a read of a range.
        let is_alone = Operation::is_range_read(operation);
        if !open.buffer.is_empty() && (length > BATCH_BYTES_MAX || is_alone) {
            self.close(part);
        }
        self.open(part).add(sequence, operation);
        if is_alone || self.open(part).buffer.len() >= self.operations_max {
            self.close(part);
        }
    }

    /// Adds the effects of requests with scripts, by sequence number, as a batch of their own, in
    /// this order. Returns the key of the batch.
    pub(crate) fn add_effects(&mut self, effects: &[(u64, Bytes)]) -> RequestKey {
        assert!(!effects.is_empty(), "a batch without operations");
        if !self.writes.buffer.is_empty() {
            self.close(Part::Writes);
        }
        let key = self.key(self.next);
        for (sequence, operation) in effects {
            self.writes.add(*sequence, operation);
        }
        self.close(Part::Writes);
        key
    }

    /// Returns whether the batch with this key has no outcomes yet.
    pub(crate) fn is_in_flight(&self, key: RequestKey) -> bool {
        self.number(key).is_some_and(|number| self.sent.contains_key(&number))
    }

    /// Adds the write with this sequence number and its operation, a large one, as a batch of its
    /// own. Returns the operation in the memory of the batch.
    pub(crate) fn add_large(&mut self, sequence: u64, operation: Bytes) -> Bytes {
        let kind = RequestKind::Write;
        if !self.writes.buffer.is_empty() {
            self.close(Part::Writes);
        }
        self.latest_large = self.next;
        let key = self.key(self.next);
        let (payload, operation) =
            Batch::of_one(operation, key, self.forwarded, self.users_revision);
        let requests = std::iter::once(sequence..sequence + 1).collect();
        let batch = self.complete(ClientRequest { key, kind, payload }, requests);
        self.complete.push(batch);
        operation
    }

    /// Returns whether a write with this encoded operation must wait for outcomes of earlier ones:
    /// a large one for the outcome of another large one, any other while many bytes are in flight.
    pub(crate) fn must_wait(&self, operation: &[u8]) -> bool {
        if is_large(operation) { self.has_large() } else { self.has_many_bytes() }
    }

    fn has_large(&self) -> bool {
        self.sent.contains_key(&self.latest_large)
    }

    /// Returns whether the writes in flight exceed [`SENT_BYTES_MAX`], so that all but large writes
    /// must wait.
    pub(crate) fn has_many_bytes(&self) -> bool {
        self.sent_bytes + self.writes.buffer.encoded_len() > SENT_BYTES_MAX
    }

    fn take(&mut self, number: u64) -> Option<SentBatch> {
        let batch = self.sent.remove(&number)?;
        self.sent_bytes -= batch.counted_bytes;
        Some(batch)
    }

    fn open(&mut self, part: Part) -> &mut OpenBatch {
        match part {
            Part::Reads => &mut self.reads,
            Part::LaggingReads => &mut self.lagging_reads,
            Part::Writes => &mut self.writes,
        }
    }

    fn close(&mut self, part: Part) {
        let kind = part.kind();
        let (key, may_repeat) = (self.key(self.next), self.may_repeat(kind));
        let users_revision = self.users_revision.filter(|_| part == Part::Writes);
        let open = self.open(part);
        open.buffer.set_users_revision(users_revision);
        let payload = open.buffer.finish(key, may_repeat);
        let requests = std::mem::take(&mut open.requests);
        let batch = self.complete(ClientRequest { key, kind, payload }, requests);
        match part {
            Part::Reads | Part::Writes => self.complete.push(batch),
            Part::LaggingReads => self.complete_lagging.push(batch),
        }
    }

    /// Returns whether a batch of this kind may be sent again. A batch that this replica appends as
    /// the leader is never sent again.
    fn may_repeat(&self, kind: RequestKind) -> bool {
        self.forwarded && kind == RequestKind::Write
    }

    /// Adds a batch with the next number to those in flight, and returns it.
    fn complete(&mut self, batch: ClientRequest, requests: Vec<Range<u64>>) -> ClientRequest {
        let (number, kind) = (self.next, batch.kind);
        self.next += 1;
        let counts = kind == RequestKind::Write && number != self.latest_large;
        let counted_bytes = if counts { batch.payload.len() } else { 0 };
        self.sent_bytes += counted_bytes;
        let payload = if self.may_repeat(kind) { batch.payload.clone() } else { Bytes::new() };
        let (since, sent_at) = (self.since, self.now);
        let resent = false;
        let sent = SentBatch { kind, payload, since, sent_at, counted_bytes, requests, resent };
        self.sent.insert(number, sent);
        batch
    }

    /// Completes the batches being built. Returns all batches that were completed since
    /// [`Batches::begin`], oldest first, and separately those of reads that this replica answers
    /// from its own state.
    pub(crate) fn finish(&mut self) -> (Vec<ClientRequest>, Vec<ClientRequest>) {
        for part in [Part::Reads, Part::LaggingReads, Part::Writes] {
            if !self.open(part).buffer.is_empty() {
                self.close(part);
            }
        }
        (std::mem::take(&mut self.complete), std::mem::take(&mut self.complete_lagging))
    }

    /// Returns whether later writes should wait to form a larger batch, because the batches in
    /// flight are small: at least [`AHEAD_BATCHES`] batches of writes have no outcomes yet, and
    /// they contain fewer than [`AHEAD_OPERATIONS`] writes in total.
    pub(crate) fn are_small_batches_ahead(&self) -> bool {
        let writes = self.sent.values().filter(|batch| batch.kind == RequestKind::Write);
        let (mut batches, mut operations) = (0, 0);
        for batch in writes {
            batches += 1;
            operations += batch.requests.iter().map(|run| run.end - run.start).sum::<u64>();
        }
        batches >= AHEAD_BATCHES && operations < AHEAD_OPERATIONS
    }

    /// Removes and returns the batch with this key, because its outcomes are now known; `None` if
    /// the batch was removed already, or if this process did not build it.
    pub(crate) fn remove(&mut self, key: RequestKey) -> Option<SentBatch> {
        self.take(self.number(key)?)
    }

    /// Removes and returns the batch with this key, because a copy of it was refused. Returns
    /// `None` and keeps the batch if more than one copy was sent, since another copy may be
    /// applied. Also returns `None` if there is no such batch.
    pub(crate) fn remove_refused(&mut self, key: RequestKey) -> Option<SentBatch> {
        let number = self.number(key)?;
        if self.sent.get(&number)?.resent {
            return None;
        }
        self.take(number)
    }

    /// Returns the next batch to send again, with its number and key: the first forwarded batch of
    /// writes that has a number of at least `from` and contains a request for which `is_unanswered`
    /// returns true. Records that more than one copy of the batch may exist.
    pub(crate) fn next_to_resend(
        &mut self,
        from: u64,
        is_unanswered: impl Fn(u64) -> bool,
    ) -> Option<(u64, RequestKey, SentBatch)> {
        let is_due =
            |batch: &SentBatch| !batch.payload.is_empty() && batch.requests().any(&is_unanswered);
        let (number, batch) = self.sent.range_mut(from..).find(|(_, batch)| is_due(batch))?;
        batch.resent = true;
        let (number, batch) = (*number, batch.clone());
        Some((number, self.key(number), batch))
    }

    /// Returns the sequence numbers of the requests of a sent batch.
    pub(super) fn requests_of(&self, key: RequestKey) -> Vec<u64> {
        self.sent[&replica_and_sequence(key.request).1].requests().collect()
    }

    /// Removes the sent batches without any request that is still waiting for a reply, for example
    /// because their clients have disconnected. `is_unanswered` returns whether the request with a
    /// sequence number is still waiting.
    pub(crate) fn retain(&mut self, is_unanswered: impl Fn(u64) -> bool) {
        self.sent.retain(|_, batch| batch.requests().any(&is_unanswered));
        self.sent_bytes = self.sent.values().map(|batch| batch.counted_bytes).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::CommandId;
    use crate::runtime::server::request_id::origin_of;
    use crate::types::NodeId;

    fn batches() -> Batches {
        Batches::new(origin_of(NodeId(1), 1))
    }

    fn set(value: &[u8]) -> Vec<u8> {
        Operation::set(b"k", value).encode()
    }

    fn members(batch: &SentBatch) -> Vec<u64> {
        batch.requests().collect()
    }

    #[test]
    fn client_requests_are_batched_as_reads_or_writes_within_limits() {
        let mut batches = batches();
        batches.begin(true, (Index(7), Instant(1)), 3, None);
        let large = set(&vec![0; BATCH_BYTES_MAX]);
        for sequence in [1, 2, 4, 5] {
            batches.add(RequestKind::Write, sequence, &set(b"v"));
        }
        batches.add(RequestKind::Read, 3, &Operation::get(b"k").encode());
        batches.add(RequestKind::Write, 6, &large);
        batches.add(RequestKind::Write, 7, &set(b"v"));
        let built = batches.finish().0;
        let sizes: Vec<_> = built
            .iter()
            .map(|ClientRequest { key, kind, payload }| {
                let batch = Batch::decode(payload).unwrap();
                assert_eq!((batch.key, batch.may_repeat), (*key, *kind == RequestKind::Write));
                (*kind, batch.len())
            })
            .collect();
        let (read, write) = (RequestKind::Read, RequestKind::Write);
        assert_eq!(sizes, [(write, 3), (write, 1), (write, 1), (read, 1), (write, 1)]);
        let wanted: [&[u64]; 5] = [&[1, 2, 4], &[5], &[6], &[3], &[7]];
        for (request, wanted) in built.iter().zip(wanted) {
            let key = request.key;
            let batch = batches.remove(key).unwrap();
            assert_eq!((members(&batch), batch.since), (wanted.to_vec(), Index(7)));
            assert_eq!(batches.remove(key), None);
        }
        batches.begin(false, (Index(8), Instant(2)), 3, None);
        batches.add(RequestKind::Write, 8, &set(b"v"));
        let [ClientRequest { payload, .. }] = &batches.finish().0[..] else { panic!("one batch") };
        assert!(!Batch::decode(payload).unwrap().may_repeat, "this replica leads");
    }

    #[test]
    fn range_reads_and_lagging_reads_get_batches_of_their_own() {
        let mut batches = batches();
        batches.begin(false, (Index(7), Instant(1)), 10, None);
        let get = Operation::get(b"k").encode();
        let range = Operation::call(CommandId::of("keyrange"), [&b"-"[..], b"+"]).encode();
        for (sequence, operation) in (1..).zip([&get, &get, &range, &range, &get]) {
            batches.add(RequestKind::Read, sequence, operation);
        }
        for (sequence, operation) in (6..).zip([&get, &range, &get, &get]) {
            batches.add_lagging_read(sequence, operation);
        }
        let (reads, lagging) = batches.finish();
        for (built, wanted) in [
            (reads, vec![vec![1, 2], vec![3], vec![4], vec![5]]),
            (lagging, vec![vec![6], vec![7], vec![8, 9]]),
        ] {
            let of = |request: &ClientRequest| members(&batches.remove(request.key).unwrap());
            assert_eq!(built.iter().map(of).collect::<Vec<_>>(), wanted);
            assert!(built.iter().all(|request| request.kind == RequestKind::Read));
        }
        assert_eq!(batches.finish(), (vec![], vec![]));
    }

    #[test]
    fn writes_wait_while_two_small_write_batches_are_in_flight() {
        let mut batches = batches();
        let mut build = |kind, count| {
            batches.begin(false, (Index(1), Instant(1)), BATCH_OPERATIONS_MAX, None);
            for sequence in 0..count {
                batches.add(kind, sequence, &set(b"v"));
            }
            (batches.finish().0.remove(0).key, batches.are_small_batches_ahead())
        };
        assert!(!build(RequestKind::Read, 1).1 && !build(RequestKind::Read, 1).1);
        assert!(!build(RequestKind::Write, 1).1 && build(RequestKind::Write, 1).1);
        let (large, waits) = build(RequestKind::Write, AHEAD_OPERATIONS);
        assert!(!waits, "enough is on its way");
        assert!(batches.remove(large).is_some() && batches.are_small_batches_ahead());
    }

    #[test]
    fn only_writes_forwarded_to_the_leader_are_resent() {
        let mut batches = batches();
        let mut build = |forwarded, kind, sequence| {
            batches.begin(forwarded, (Index(1), Instant(1)), 3, None);
            batches.add(kind, sequence, &set(b"v"));
            batches.finish().0[0].key
        };
        let own = build(false, RequestKind::Write, 1);
        let read = build(true, RequestKind::Read, 2);
        let failed = build(true, RequestKind::Write, 3);
        let write = build(true, RequestKind::Write, 4);
        let (number, key, batch) = batches.next_to_resend(0, |sequence| sequence != 3).unwrap();
        assert_eq!((key, members(&batch)), (write, vec![4]));
        assert_eq!(batches.next_to_resend(number + 1, |_| true), None);
        assert_eq!(batches.remove_refused(write), None, "another copy may be applied");
        assert!(batches.remove(failed).is_some_and(|batch| !batch.resent));
        for key in [own, read] {
            assert!(batches.remove_refused(key).is_some());
        }
        batches.retain(|_| false);
        assert_eq!(batches.remove(write), None);
        let foreign = Batches::new(origin_of(NodeId(1), 2)).key(4);
        assert!(!batches.is_own(foreign) && batches.remove(foreign).is_none());
    }
}
