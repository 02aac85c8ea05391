//! Client sessions: a request in a session is executed exactly once, no matter how often the client
//! sends it, because the session stores the outcomes of its latest requests.
//!
//! A session's id is the sequence number of the operation that opened it, so it is unique. Its
//! requests are numbered from 1, and a request is executed if its number is the next one. A
//! repeated request gets its stored outcome, or a distinct error if none is stored, but it is never
//! executed again. Sessions expire by the replicated clock, and the least recently used one is
//! closed when there are too many; requests of a closed session are rejected.
//!
//! Sessions serve clients that repeat requests to which they got no reply, over any connection.
//! Batches that a replica forwards to the leader again are recognised by the deduplication table
//! (`dedup.rs`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes};

use crate::kv::commands::outcome::Outcome;
use crate::kv::keyspace::clock::Millis;
use crate::kv::values::codec::{put_bytes, take_bytes, take_flag};
use crate::kv::values::digest::{Digest, fingerprint, mix};

/// A client session expires when no request has used it for this many milliseconds: one day.
const LIFETIME: Millis = 24 * 60 * 60 * 1_000;
/// Number of latest requests of a client session whose outcomes are stored, so that a retry of such
/// a request gets the outcome of the original.
const OUTCOMES_MAX: usize = 64;
/// Maximum encoded length in bytes of an outcome that a client session stores for retries. For a
/// longer outcome, the session stores only that the request was applied.
const ENCODED_OUTCOME_BYTES_MAX: usize = 1 << 10;
/// Maximum number of client sessions. If there are more, the least recently used ones are closed.
const SESSIONS_MAX: usize = 16_384;
/// Maximum memory usage of all client sessions combined, in bytes. If they use more, the least
/// recently used ones are closed.
const BYTES_MAX: usize = 64 << 20;
/// Approximate memory overhead of a client session, in bytes, excluding its stored outcomes.
const SESSION_BYTES: usize = 256;
/// Approximate memory overhead of a stored outcome, in bytes, excluding the encoded outcome itself.
const OUTCOME_BYTES: usize = 64;

/// All open client sessions.
///
/// Invariant: `digest` is the sum of the hashes of all sessions, and `bytes` is their total memory
/// usage. `by_use` maps the sequence number of the operation that last used a session to the
/// session's id, so its first element belongs to the least recently used session.
#[derive(Debug, Clone, Default)]
pub(super) struct ClientSessions {
    /// Client sessions by id. Snapshots share their memory (copy-on-write).
    by_id: BTreeMap<u64, Arc<ClientSession>>,
    by_use: BTreeMap<u64, u64>,
    digest: Digest,
    bytes: usize,
}

/// The state of a client session, which executes each numbered request of a client only once: when
/// the session was last used, and the outcomes of its latest requests, stored for retries.
#[derive(Debug, Clone, Default)]
pub(super) struct ClientSession {
    /// Sequence number of the session's latest request; 0 if it had no request yet.
    last_sequence: u64,
    /// Sequence number of the operation that last used the session. Operations of the state machine
    /// are numbered in log order.
    last_used: u64,
    /// Reading of the replicated clock, in milliseconds since 1970, when the session was last used.
    last_used_at: Millis,
    /// Outcomes of the session's latest requests, oldest first; the last element belongs to request
    /// `last_sequence`.
    outcomes: VecDeque<StoredOutcome>,
    /// Sum of the hashes of the session's stored outcomes. It is part of the state's digest.
    digest: Digest,
    /// Approximate memory usage of the session's stored outcomes, in bytes.
    bytes: usize,
}

/// The outcome (result) of a request of a client session, stored so that it can be returned if the
/// client sends the request again.
#[derive(Debug, Clone)]
struct StoredOutcome {
    /// Hash of the request, to detect a different request that reuses its sequence number.
    request_hash: u64,
    /// The encoded outcome of the request; `None` if it was too long to be stored.
    outcome: Option<Bytes>,
}

/// What to do with a request of a client session: execute it, or reply without executing it.
pub(super) enum Decision {
    /// Execute the request, which has the session's next sequence number, and store its outcome.
    Execute,
    /// Do not execute the request, but reply with this outcome: the stored outcome of an earlier
    /// request with this sequence number, or an error.
    Reply(Outcome),
}

impl StoredOutcome {
    fn new(hash: u64, outcome: &Outcome) -> StoredOutcome {
        let mut bytes = Vec::new();
        // An outcome that is far too long need not be encoded to find that out.
        let fits = outcome.value_bytes() <= 8 * ENCODED_OUTCOME_BYTES_MAX;
        if fits {
            outcome.encode(&mut bytes);
        }
        let fits = fits && bytes.len() <= ENCODED_OUTCOME_BYTES_MAX;
        StoredOutcome { request_hash: hash, outcome: fits.then(|| Bytes::from(bytes)) }
    }

    fn bytes(&self) -> usize {
        OUTCOME_BYTES + self.outcome.as_ref().map_or(0, Bytes::len)
    }

    /// Returns a hash of this stored outcome and the sequence number of its request. The session's
    /// digest is the sum of these hashes.
    fn hash_at(&self, sequence: u64) -> u64 {
        let outcome =
            self.outcome.as_ref().map_or(0, |bytes| fingerprint(self.request_hash, bytes));
        mix(mix(sequence, self.request_hash), outcome)
    }

    /// Returns the reply to a repeated request that has the same sequence number as the request of
    /// this stored outcome. `hash` is the hash of the repeated request. The reply is the stored
    /// outcome, or an error if the outcome was too long to be stored or if the hashes show that the
    /// two requests differ.
    fn reply(&self, hash: u64) -> Outcome {
        if hash != self.request_hash {
            return Outcome::error(
                "REUSEDSEQ a different request has used this number; nothing was applied now",
            );
        }
        let Some(bytes) = &self.outcome else {
            return Outcome::error(format!(
                "LARGEREPLY the request was applied, but its reply exceeds \
                 {ENCODED_OUTCOME_BYTES_MAX} bytes and was not stored"
            ));
        };
        Outcome::decode(&mut &bytes[..]).expect("encoded here, or checked when it was decoded")
    }
}

impl ClientSession {
    fn memory(&self) -> usize {
        SESSION_BYTES + self.bytes
    }

    /// Returns a hash of the client session and its `id`. The sum of these hashes over all sessions
    /// is part of the state's digest.
    pub(super) fn hash(&self, id: u64) -> u64 {
        [self.last_sequence, self.last_used, self.last_used_at, self.digest.salted(0)]
            .into_iter()
            .fold(id, mix)
    }

    /// Returns the sequence number of the session's oldest request whose outcome is stored, or of
    /// its next request if no outcome is stored.
    fn oldest(&self) -> u64 {
        self.last_sequence + 1 - self.outcomes.len() as u64
    }

    fn decide(&self, sequence: u64, hash: u64) -> Decision {
        if sequence == self.last_sequence.wrapping_add(1) {
            return Decision::Execute;
        }
        Decision::Reply(if sequence > self.last_sequence {
            let next = self.last_sequence.wrapping_add(1);
            Outcome::error(format!(
                "SEQGAP the session expects request number {next}; nothing was applied"
            ))
        } else if sequence < self.oldest() || sequence == 0 {
            Outcome::error(format!(
                "STALESEQ the session stores replies from request number {} on; \
                 nothing was applied now",
                self.oldest()
            ))
        } else {
            let at = usize::try_from(sequence - self.oldest()).expect("at most OUTCOMES_MAX");
            self.outcomes[at].reply(hash)
        })
    }

    fn store(&mut self, stored: StoredOutcome) {
        self.last_sequence += 1;
        self.digest.add(stored.hash_at(self.last_sequence));
        self.bytes += stored.bytes();
        self.outcomes.push_back(stored);
        if self.outcomes.len() > OUTCOMES_MAX {
            let oldest = self.last_sequence - OUTCOMES_MAX as u64;
            let dropped = self.outcomes.pop_front().expect("more than OUTCOMES_MAX are stored");
            self.digest.remove(dropped.hash_at(oldest));
            self.bytes -= dropped.bytes();
        }
    }

    /// Appends the client session and its id to `out`, encoded for a snapshot.
    pub(super) fn encode(&self, id: u64, out: &mut Vec<u8>) {
        for number in [id, self.last_sequence, self.last_used, self.last_used_at] {
            out.put_u64_le(number);
        }
        out.put_u8(u8::try_from(self.outcomes.len()).expect("at most OUTCOMES_MAX"));
        for stored in &self.outcomes {
            out.put_u64_le(stored.request_hash);
            out.put_u8(u8::from(stored.outcome.is_some()));
            if let Some(outcome) = &stored.outcome {
                put_bytes(outcome, out);
            }
        }
    }

    /// Decodes a client session and its id, encoded by [`ClientSession::encode`], and removes them
    /// from the front of `from`; `None` if the bytes are malformed.
    pub(super) fn decode(from: &mut &[u8]) -> Option<(u64, ClientSession)> {
        let mut number = || from.try_get_u64_le().ok();
        let (id, last_sequence) = (number()?, number()?);
        let (last_used, last_used_at) = (number()?, number()?);
        let count = from.try_get_u8().ok()?;
        if usize::from(count) > OUTCOMES_MAX {
            return None;
        }
        // `store` increments the sequence number for each outcome.
        let last_sequence = last_sequence.checked_sub(u64::from(count))?;
        let mut session =
            ClientSession { last_sequence, last_used, last_used_at, ..Default::default() };
        for _ in 0..count {
            let request_hash = from.try_get_u64_le().ok()?;
            let mut outcome = None;
            if take_flag(from)? {
                let bytes = take_bytes(from)?;
                let mut rest = bytes;
                Outcome::decode(&mut rest).filter(|_| rest.is_empty())?;
                outcome = Some(Bytes::copy_from_slice(bytes));
            }
            session.store(StoredOutcome { request_hash, outcome });
        }
        Some((id, session))
    }
}

impl ClientSessions {
    /// Returns the sum of the hashes of all client sessions, which is part of the state's digest.
    pub(super) fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns the number of open client sessions.
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Returns the approximate memory usage of all client sessions combined, in bytes. O(1).
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns all client sessions with their ids, ordered by id, for a snapshot. Their memory is
    /// shared (copy-on-write), so later changes do not affect the returned sessions.
    pub(super) fn share(&self) -> Vec<(u64, Arc<ClientSession>)> {
        self.by_id.iter().map(|(id, session)| (*id, Arc::clone(session))).collect()
    }

    /// Opens a client session with the id `revision`, which is the sequence number of the operation
    /// that opens it. `clock` is the reading of the replicated clock.
    pub(super) fn open(&mut self, revision: u64, clock: Millis) {
        let session =
            ClientSession { last_used: revision, last_used_at: clock, ..Default::default() };
        let is_new = self.insert(revision, session);
        assert!(is_new, "operation {revision} has opened a session before");
        self.evict(clock);
    }

    /// Decides whether to execute request number `sequence` of the client session `id`, or to reply
    /// with a stored outcome or an error. `request_hash` is the hash of the request, by which a
    /// different request with the same sequence number is detected. Returns `None` if the session
    /// does not exist.
    pub(super) fn decide(&self, id: u64, sequence: u64, request_hash: u64) -> Option<Decision> {
        self.by_id.get(&id).map(|session| session.decide(sequence, request_hash))
    }

    /// Records that the operation with the number `revision` used the client session `id` when the
    /// replicated clock showed `clock`.
    pub(super) fn touch(&mut self, id: u64, revision: u64, clock: Millis) {
        self.change(id, revision, clock, |_| ());
    }

    /// Stores the outcome of the next request of the client session `id`. The operation with the
    /// number `revision` executed the request when the replicated clock showed `clock`.
    pub(super) fn store(
        &mut self,
        id: u64,
        revision: u64,
        clock: Millis,
        request_hash: u64,
        outcome: &Outcome,
    ) {
        let stored = StoredOutcome::new(request_hash, outcome);
        self.change(id, revision, clock, |session| session.store(stored));
        self.evict(clock);
    }

    /// Adds a client session that was restored from a snapshot or is new. Returns false, without
    /// adding it, if there is a session with the same id or the same `last_used`.
    pub(super) fn insert(&mut self, id: u64, session: ClientSession) -> bool {
        if self.by_id.contains_key(&id) || self.by_use.contains_key(&session.last_used) {
            return false;
        }
        self.digest.add(session.hash(id));
        self.bytes += session.memory();
        self.by_use.insert(session.last_used, id);
        self.by_id.insert(id, Arc::new(session));
        true
    }

    /// Removes the client session `id`, which must exist.
    fn remove(&mut self, id: u64) {
        let session = self.by_id.remove(&id).expect("the session exists");
        self.digest.remove(session.hash(id));
        self.bytes -= session.memory();
        self.by_use.remove(&session.last_used);
        if self.by_id.is_empty() {
            assert_eq!((self.bytes, self.digest), (0, Digest::default()), "sums without sessions");
        }
    }

    /// Returns the least recently used client session and its id; `None` if there are no sessions.
    fn oldest(&self) -> Option<(u64, &ClientSession)> {
        let (_, id) = self.by_use.first_key_value()?;
        Some((*id, &self.by_id[id]))
    }

    /// Closes the client sessions that have expired when the replicated clock shows `clock`. Then
    /// closes the least recently used sessions until the number and the memory usage of all
    /// sessions are within the limits.
    pub(super) fn evict(&mut self, clock: Millis) {
        while let Some((id, session)) = self.oldest()
            && (session.last_used_at.saturating_add(LIFETIME) <= clock
                || self.by_id.len() > SESSIONS_MAX
                || self.bytes > BYTES_MAX)
        {
            self.remove(id);
        }
    }

    /// Applies `change` to the client session `id`, which must exist, and records that the
    /// operation with the number `revision` used it when the replicated clock showed `clock`.
    fn change(
        &mut self,
        id: u64,
        revision: u64,
        clock: Millis,
        change: impl FnOnce(&mut ClientSession),
    ) {
        let session = self.by_id.get_mut(&id).expect("the session exists");
        self.digest.remove(session.hash(id));
        self.bytes -= session.memory();
        self.by_use.remove(&session.last_used);
        let session = Arc::make_mut(session);
        change(session);
        (session.last_used, session.last_used_at) = (revision, clock);
        self.digest.add(session.hash(id));
        self.bytes += session.memory();
        self.by_use.insert(revision, id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::commands::registry::CommandId;
    use crate::kv::operation::Operation;
    use crate::kv::state_machine::tests::Feeder;

    fn open(feeder: &mut Feeder) -> u64 {
        match feeder.apply(Operation::OpenSession) {
            Outcome::Integer(number) => number.cast_unsigned(),
            other => panic!("{other:?}"),
        }
    }

    fn add(feeder: &mut Feeder, session: u64, sequence: u64, amount: i64) -> Outcome {
        let amount = amount.to_string();
        let operation =
            Operation::call(CommandId::of("incrby"), [&b"n"[..], amount.as_bytes()]).encode();
        feeder.apply(Operation::Once { session, sequence, operation: &operation })
    }

    /// Returns the first word of an error outcome, which is the error code.
    fn code(outcome: &Outcome) -> &str {
        let Outcome::Error(text) = outcome else { panic!("{outcome:?} is no error") };
        std::str::from_utf8(text).unwrap().split(' ').next().unwrap()
    }

    #[test]
    fn session_request_is_executed_once_and_retries_get_its_reply() {
        let mut feeder = Feeder::new();
        let (one, two) = (open(&mut feeder), open(&mut feeder));
        assert_eq!((one, two), (1, 2), "ids are numbers of operations");
        for sequence in 1..=3 {
            let sum = i64::try_from(sequence).unwrap() * 10;
            for _ in 0..3 {
                assert_eq!(add(&mut feeder, one, sequence, 10), Outcome::Integer(sum));
            }
        }
        assert_eq!(add(&mut feeder, one, 1, 10), Outcome::Integer(10));
        assert_eq!(code(&add(&mut feeder, one, 5, 10)), "SEQGAP");
        assert_eq!(code(&add(&mut feeder, one, 2, 11)), "REUSEDSEQ");
        assert_eq!(code(&add(&mut feeder, one, 0, 10)), "STALESEQ");
        assert_eq!(code(&add(&mut feeder, 3, 1, 10)), "NOSESSION");
        assert_eq!(add(&mut feeder, two, 1, 10), Outcome::Integer(40));
        assert_eq!(feeder.get(b"n").as_deref(), Some(&b"40"[..]));
    }

    #[test]
    fn failed_session_command_consumes_its_sequence_number() {
        let mut feeder = Feeder::new();
        let session = open(&mut feeder);
        feeder.apply(Operation::set(b"n", b"text"));
        let refused = add(&mut feeder, session, 1, 1);
        assert!(matches!(refused, Outcome::Refused(_)));
        feeder.apply(Operation::set(b"n", b"1"));
        assert_eq!(add(&mut feeder, session, 1, 1), refused);
        assert_eq!(add(&mut feeder, session, 2, 1), Outcome::Integer(2));
    }

    #[test]
    fn session_retry_without_cached_reply_is_not_executed_again() {
        let mut feeder = Feeder::new();
        let session = open(&mut feeder);
        for sequence in 1..=100 {
            add(&mut feeder, session, sequence, 1);
        }
        assert_eq!(code(&add(&mut feeder, session, 36, 1)), "STALESEQ");
        assert_eq!(add(&mut feeder, session, 37, 1), Outcome::Integer(37));
        feeder.apply(Operation::set(b"large", &[b'x'; 2_000]));
        let take = Operation::call(CommandId::of("getdel"), [&b"large"[..]]).encode();
        let once = Operation::Once { session, sequence: 101, operation: &take };
        assert!(matches!(feeder.apply(once), Outcome::Value(Some(_))));
        feeder.apply(Operation::set(b"large", b"another"));
        assert_eq!(code(&feeder.apply(once)), "LARGEREPLY");
        assert_eq!(feeder.get(b"large").as_deref(), Some(&b"another"[..]));
        assert_eq!(add(&mut feeder, session, 102, 1), Outcome::Integer(101));
    }

    #[test]
    fn client_sessions_expire_and_least_recently_used_is_evicted() {
        let mut feeder = Feeder::new();
        feeder.apply(Operation::Clock { millis: 1_000, resets: 0 });
        let (one, two) = (open(&mut feeder), open(&mut feeder));
        feeder.apply(Operation::Clock { millis: LIFETIME, resets: 0 });
        add(&mut feeder, two, 1, 1);
        feeder.apply(Operation::Clock { millis: LIFETIME + 1_000, resets: 0 });
        assert_eq!(code(&add(&mut feeder, one, 1, 1)), "NOSESSION");
        assert_eq!(add(&mut feeder, two, 2, 1), Outcome::Integer(2));
        let mut last = 0;
        for _ in 0..SESSIONS_MAX - 1 {
            last = open(&mut feeder);
        }
        assert_eq!(feeder.store.session_count(), SESSIONS_MAX);
        add(&mut feeder, two, 3, 1);
        open(&mut feeder);
        assert_eq!(feeder.store.session_count(), SESSIONS_MAX);
        assert_eq!(add(&mut feeder, two, 4, 1), Outcome::Integer(4), "just used");
        assert_eq!(add(&mut feeder, last, 1, 1), Outcome::Integer(5));
    }

    #[test]
    fn memory_of_client_sessions_is_bounded() {
        let mut feeder = Feeder::new();
        let value = [b'x'; 900];
        feeder.apply(Operation::set(b"k", &value));
        let set = Operation::call(CommandId::of("getset"), [&b"k"[..], &value]).encode();
        let mut sessions = Vec::new();
        for _ in 0..1_200 {
            let session = open(&mut feeder);
            sessions.push(session);
            for sequence in 1..=OUTCOMES_MAX as u64 {
                feeder.apply(Operation::Once { session, sequence, operation: &set });
            }
            assert!(feeder.store.client_sessions.bytes() <= BYTES_MAX);
        }
        assert!(feeder.store.session_count() < 1_200);
        let operation = &set;
        let first = Operation::Once { session: sessions[0], sequence: 1, operation };
        assert_eq!(code(&feeder.apply(first)), "NOSESSION");
        let last = Operation::Once { session: sessions[1_199], sequence: 1, operation };
        assert!(matches!(feeder.apply(last), Outcome::Value(Some(_))));
    }

    #[test]
    fn client_sessions_survive_flushall_and_are_in_state_digest() {
        let mut feeder = Feeder::new();
        let before = feeder.store.digest();
        let session = open(&mut feeder);
        add(&mut feeder, session, 1, 1);
        feeder.call("flushall", &[]);
        let mut other = Feeder::new();
        for _ in 0..3 {
            other.call("flushall", &[]);
        }
        assert_ne!(feeder.store.digest(), other.store.digest());
        assert_ne!(feeder.store.digest(), before);
        assert_eq!(add(&mut feeder, session, 1, 1), Outcome::Integer(1));
    }
}
