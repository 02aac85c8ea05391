//! The state machine: applies committed commands to the keyspace, each request once. Called by the
//! applier and by the simulator, with the same payloads in the same order on every replica.

use std::fmt;

use crate::kv::client_sessions::{ClientSessions, Decision};
use crate::kv::command::{Command, CommandError, Operation};
use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::Outcome;
use crate::kv::dedup::{DEDUP_ENTRIES_MAX, DedupTable};
use crate::kv::keyspace::Keyspace;
use crate::kv::keyspace::clock::{Millis, ReplicatedClock};
use crate::kv::keyspace::entry::KeyEntry;
use crate::kv::keyspace::events::Event;
use crate::kv::transactions;
use crate::kv::values::digest::{Digest, fingerprint, key_hash, mix};
use crate::kv::view::View;
use crate::types::{EntryId, Index, RequestKey};

/// Maximum number of commands per call of [`StateMachine::prefetch`]: about as many memory accesses
/// as a processor keeps in flight.
pub const PREFETCH_MAX: usize = 16;

/// The result of applying a log entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Identifies the request in the log entry; all zero if the payload was not a command.
    pub key: RequestKey,
    /// The request's outcome; for a repeated request, the one stored when it was first applied.
    pub outcome: Outcome,
    /// Whether the request had been applied before: the outcome is then the stored one, and nothing
    /// was changed now.
    pub repeated: bool,
}

/// The state machine: applies log entries to the replicated state. Replicas that have applied the
/// same log entries have equal states.
pub struct StateMachine {
    pub(super) keyspace: Keyspace,
    dedup: DedupTable,
    pub(super) client_sessions: ClientSessions,
}

/// Returns the digest of a state. `content` is the digest of its entries and client sessions,
/// `index` the last applied log index, `clock` its replicated clock.
pub(super) fn digest_of(content: Digest, index: Index, clock: ReplicatedClock) -> u64 {
    [clock.millis, clock.resets]
        .into_iter()
        .filter(|number| *number != 0)
        .fold(content.salted(index.0), mix)
}

/// Returns the random seed for the commands of a request: different for every request, equal on
/// every replica.
fn seed_of(key: &RequestKey) -> u64 {
    let (halves, _) = key.request.0.as_chunks::<8>();
    halves.iter().fold(key.client.0.into(), |state, half| mix(state, u64::from_le_bytes(*half)))
}

impl Default for StateMachine {
    fn default() -> StateMachine {
        StateMachine::with_dedup_capacity(DEDUP_ENTRIES_MAX)
    }
}

impl StateMachine {
    /// Returns an empty state whose deduplication table has this capacity in requests.
    fn with_dedup_capacity(capacity: usize) -> StateMachine {
        StateMachine {
            keyspace: Keyspace::default(),
            dedup: DedupTable::new(capacity),
            client_sessions: ClientSessions::default(),
        }
    }

    /// Returns an empty state without a deduplication table, which applies retried requests again:
    /// a fault for testing the checkers (mutation testing).
    #[cfg(feature = "mutants")]
    pub fn forgetful() -> StateMachine {
        StateMachine::with_dedup_capacity(0)
    }

    /// Drops all client sessions, like a snapshot without them would: a fault for testing the
    /// checkers (mutation testing).
    #[cfg(feature = "mutants")]
    pub fn forget_sessions(&mut self) {
        self.client_sessions = ClientSessions::default();
    }

    /// Applies the log entry at `index`, which must follow the last applied one. A payload that is
    /// not a command only advances the applied index, on every replica.
    pub fn apply(&mut self, index: Index, payload: &[u8]) -> Applied {
        self.apply_decoded(index, Command::decode(payload).ok().as_ref())
    }

    /// Applies the decoded command of the log entry at `index`; `None` if the payload was not a
    /// command.
    pub fn apply_decoded(&mut self, index: Index, command: Option<&Command<'_>>) -> Applied {
        self.advance(index);
        let Some(&Command { key, operation }) = command else {
            let key = RequestKey::default();
            return Applied { key, outcome: Outcome::Malformed, repeated: false };
        };
        if let Operation::Clock { millis, resets } = operation
            && resets == self.clock_resets()
        {
            self.keyspace.advance_clock(millis);
        }
        self.keyspace.remove_expired();
        let seed = seed_of(&key);
        // A read that came through the log changes nothing, so a retry may run it again, and its
        // outcome is not stored. Clock entries do not belong to a request.
        if let Some(outcome) = self.answer(&operation, seed) {
            return Applied { key, outcome, repeated: false };
        }
        if let Some(outcome) = self.dedup.outcome(&key) {
            return Applied { key, outcome: outcome.clone(), repeated: true };
        }
        let outcome = self.perform(&operation, seed);
        self.dedup.insert(key, outcome.clone());
        Applied { key, outcome, repeated: false }
    }

    /// Loads the memory that `commands` will access into the processor's cache, for at most
    /// [`PREFETCH_MAX`] commands, so that their cache misses overlap. Does not change the state.
    pub fn prefetch(&self, commands: &[Option<Command<'_>>]) {
        // In short loops, so that out-of-order execution overlaps several iterations.
        let mut hashes = [None; PREFETCH_MAX];
        for (hash, command) in hashes.iter_mut().zip(commands) {
            if let Some(Command { operation: Operation::Call { command, args }, .. }) = command
                && command.keys().starts_at_first()
                && let Some(key) = args.first()
            {
                *hash = Some(key_hash(key));
            }
        }
        let mut entries = [None; PREFETCH_MAX];
        for (entry, hash) in entries.iter_mut().zip(hashes) {
            // The first entry with this hash is the right one in all likelihood.
            *entry = hash.and_then(|hash| self.keyspace.entry_with_hash(hash));
        }
        entries.into_iter().flatten().for_each(KeyEntry::fetch);
    }

    /// Advances the applied index over the log entry at `index`, which is not a command.
    pub fn skip(&mut self, index: Index) {
        self.advance(index);
    }

    /// Decodes a read and answers it from the current state.
    ///
    /// # Errors
    /// If the payload is not a command, or may change the state.
    pub fn read(&self, payload: &[u8]) -> Result<(RequestKey, Outcome), CommandError> {
        self.read_decoded(&Command::decode(payload)?)
    }

    /// Answers a decoded read from the current state.
    ///
    /// # Errors
    /// If the command may change the state.
    pub fn read_decoded(
        &self,
        command: &Command<'_>,
    ) -> Result<(RequestKey, Outcome), CommandError> {
        let Command { key, operation } = command;
        let outcome = match operation {
            // A clock entry leaves the keys unchanged, but is not a read.
            Operation::Clock { .. } => None,
            Operation::Transaction { watched, operations } => {
                transactions::read(&self.keyspace, *watched, *operations, seed_of(key))
            }
            _ => self.answer(operation, seed_of(key)),
        };
        Ok((*key, outcome.ok_or(CommandError::NotARead)?))
    }

    /// Returns the index of the last applied log entry.
    pub fn applied_index(&self) -> Index {
        self.keyspace.applied_index()
    }

    /// Returns the digest of the state. At the same applied index, equal states have equal digests
    /// on every replica, and different states in all likelihood different ones. O(1).
    pub fn digest(&self) -> u64 {
        self.digest_as(self.applied_index(), self.keyspace.replicated_clock())
    }

    /// Returns the digest that the state would have at the applied index `index` with this
    /// replicated clock.
    pub(super) fn digest_as(&self, index: Index, clock: ReplicatedClock) -> u64 {
        digest_of(self.keyspace.digest().union(self.client_sessions.digest()), index, clock)
    }

    /// Number of keys.
    pub fn key_count(&self) -> usize {
        self.keyspace.len()
    }

    /// Returns the approximate memory of the state in bytes. O(1).
    pub fn memory(&self) -> usize {
        self.keyspace.memory() + self.dedup.memory() + self.client_sessions.bytes()
    }

    /// Returns the stored outcome of a request; `None` if the request was not applied, or so long
    /// ago that it left the deduplication table.
    pub fn outcome_of(&self, key: &RequestKey) -> Option<&Outcome> {
        self.dedup.outcome(key)
    }

    /// Returns an immutable copy-on-write view of the state. `last` is the log entry that was
    /// applied last. Cheap even for a large state, because nothing is copied: a later write copies
    /// only the part that it changes, such as one hash table.
    pub fn view(&mut self, last: EntryId) -> View {
        assert_eq!(last.index, self.applied_index(), "a view is of the current state");
        let (digest, key_count) = (self.digest(), self.key_count());
        let (dedup, client_sessions) = (self.dedup.share(), self.client_sessions.share());
        let clock = self.keyspace.replicated_clock();
        let tables = self.keyspace.share();
        View { last, digest, clock, key_count, tables, dedup, client_sessions }
    }

    /// Iterates over the requests in the deduplication table with their outcomes, oldest first.
    pub(super) fn remembered(&self) -> impl Iterator<Item = (&RequestKey, &Outcome)> {
        self.dedup.iter()
    }

    /// Adds a request from a snapshot to the deduplication table. Returns false if it is already
    /// there.
    pub(super) fn restore_request(&mut self, key: RequestKey, outcome: Outcome) -> bool {
        let fresh = self.dedup.outcome(&key).is_none();
        if fresh {
            self.dedup.insert(key, outcome);
        }
        fresh
    }

    /// Sets the applied index and the replicated clock of a state that was restored from a
    /// snapshot.
    pub(super) fn move_to(&mut self, index: Index, clock: ReplicatedClock) {
        self.keyspace.set_applied_index(index);
        self.keyspace.restore_clock(clock);
    }

    fn advance(&mut self, index: Index) {
        let next = self.applied_index().next();
        assert_eq!(index, next, "entries are applied in order");
        self.keyspace.set_applied_index(next);
    }

    /// Returns the outcome of a call of a read-only command, or of a `Clock` operation; `None` for
    /// any other operation.
    pub(super) fn answer(&self, operation: &Operation<'_>, seed: u64) -> Option<Outcome> {
        match operation {
            Operation::Call { command, args } if command.is_read() => {
                command.read(&self.keyspace, &Args::new(*args, seed))
            }
            Operation::Clock { .. } => Some(Outcome::Done),
            _ => None,
        }
    }

    /// Runs an operation that may change the state.
    pub(super) fn perform(&mut self, operation: &Operation<'_>, seed: u64) -> Outcome {
        match *operation {
            Operation::Call { command, args } => {
                command.run(&mut self.keyspace, &Args::new(args, seed))
            }
            Operation::Transaction { watched, operations } => {
                transactions::run(&mut self.keyspace, watched, operations, seed)
            }
            Operation::OpenSession => self.open_session(),
            Operation::ResetClock { millis } => self.reset_clock(millis),
            Operation::Once { session, sequence, operation } => {
                self.execute_once(session, sequence, operation, seed)
            }
            Operation::Clock { .. } => Outcome::Done,
        }
    }

    /// Returns the reading of the replicated clock, in milliseconds since 1970.
    pub fn clock(&self) -> Millis {
        self.keyspace.clock()
    }

    /// Returns the number of times that the replicated clock was set back.
    pub fn clock_resets(&self) -> u64 {
        self.keyspace.replicated_clock().resets
    }

    /// Returns the earliest expiration time of all keys, in milliseconds since 1970; `None` if no
    /// key expires. When this time has come, the leader advances the replicated clock; it may
    /// already have passed.
    pub fn next_expiry(&self) -> Option<u64> {
        self.keyspace.next_expiry()
    }

    /// Returns the number of keys that expire.
    pub fn expires_count(&self) -> usize {
        self.keyspace.expires_count()
    }

    /// Returns the replicated clock in milliseconds since 1970, the number of clock resets, and the
    /// earliest expiration time of all keys (`None`: no key expires).
    pub fn shown(&self) -> (u64, u64, Option<u64>) {
        (self.clock(), self.clock_resets(), self.next_expiry())
    }

    /// Returns whether the state is too old for a read that arrived when the replicated clock
    /// showed `millis` after `resets` resets: a key that the command may access had expired by
    /// then, but still exists at the state's own clock. A `command` of `None` stands for a read
    /// that may access any key.
    pub fn is_behind(&self, command: Option<&Command<'_>>, millis: u64, resets: u64) -> bool {
        if self.clock() >= millis
            || self.clock_resets() != resets
            || !self.keyspace.expires_until(millis)
        {
            return false;
        }
        let is_expired = |key: &[u8]| {
            self.keyspace.expires_at(key).is_some_and(|expires_at| expires_at <= millis)
        };
        let Some(Operation::Call { command, args }) = command.map(|command| command.operation)
        else {
            return true;
        };
        command.keys_in(args).is_none_or(|keys| keys.into_iter().any(is_expired))
    }

    /// Sets the replicated clock back to `millis`, in milliseconds since 1970: the time that the
    /// wall clocks of a quorum agree on. The outcome is the number of milliseconds by which the
    /// clock was set back, or an error if `millis` is 0 (no agreement).
    fn reset_clock(&mut self, millis: Millis) -> Outcome {
        if millis == 0 {
            return Outcome::error(
                "ERR cannot reset the clock: too few wall clocks of voters are known; try again",
            );
        }
        let back = self.keyspace.set_back_clock(millis);
        Outcome::Integer(i64::try_from(back).unwrap_or(i64::MAX))
    }

    /// Opens a client session. The outcome is the session's id.
    fn open_session(&mut self) -> Outcome {
        let index = self.applied_index().0;
        self.client_sessions.open(index, self.keyspace.clock());
        Outcome::Integer(i64::try_from(index).expect("log indexes are far below 2^63"))
    }

    /// Executes an encoded operation if `sequence` is the session's next request number; otherwise
    /// returns the stored outcome of the request with this number, or an error.
    fn execute_once(&mut self, session: u64, sequence: u64, bytes: &[u8], seed: u64) -> Outcome {
        let (index, clock) = (self.applied_index().0, self.clock());
        self.client_sessions.evict(clock);
        let request_hash = fingerprint(key_hash(&[]), bytes);
        match self.client_sessions.decide(session, sequence, request_hash) {
            None => Outcome::error(
                "NOSESSION the session does not exist or has expired; nothing was applied now",
            ),
            Some(Decision::Reply(outcome)) => {
                self.client_sessions.touch(session, index, clock);
                outcome
            }
            Some(Decision::Execute) => {
                let operation = Operation::decode(bytes).expect("decoding the command checked it");
                let outcome = self.answer(&operation, seed);
                let outcome = outcome.unwrap_or_else(|| self.perform(&operation, seed));
                self.client_sessions.store(session, index, clock, request_hash, &outcome);
                outcome
            }
        }
    }

    /// Returns the number of open client sessions.
    pub fn session_count(&self) -> usize {
        self.client_sessions.len()
    }

    /// Sets which events are recorded for subscribers connected to this replica: published messages
    /// if `messages`, keyspace notifications if `keys`.
    pub fn listen(&mut self, messages: bool, keys: bool) {
        self.keyspace.record_events(messages, keys);
    }

    /// Returns the recorded events, oldest first, and clears the list of recorded events.
    pub fn take_events(&mut self) -> Vec<Event> {
        self.keyspace.take_events()
    }
}

impl fmt::Debug for StateMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateMachine")
            .field("applied_index", &self.applied_index())
            .field("keys", &self.keyspace.len())
            .field("clock", &self.clock())
            .field("remembered", &self.dedup.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::kv::commands::registry::CommandId;
    use crate::kv::snapshot::SnapshotReader;
    use crate::types::{ClientId, RequestId, Term};

    /// Applies operations, each as a new request.
    #[derive(Default)]
    pub(in crate::kv) struct Feeder {
        pub(in crate::kv) store: StateMachine,
        requests: u32,
    }

    impl Feeder {
        pub(in crate::kv) fn new() -> Feeder {
            Feeder::default()
        }

        pub(in crate::kv) fn apply(&mut self, operation: Operation<'_>) -> Outcome {
            self.requests += 1;
            let applied = self.apply_as(self.requests, operation);
            assert!(!applied.repeated);
            applied.outcome
        }

        /// A copy that went through a snapshot.
        pub(in crate::kv) fn restored(&self) -> Feeder {
            let last = EntryId { term: Term(1), index: self.store.applied_index() };
            let mut reader = SnapshotReader::default();
            self.store.write_snapshot(last, &mut |piece| reader.feed(piece).unwrap());
            Feeder { store: reader.finish().unwrap().0, requests: self.requests }
        }

        fn apply_as(&mut self, request: u32, operation: Operation<'_>) -> Applied {
            let payload = Command { key: name(request), operation }.encode();
            self.store.apply(self.store.applied_index().next(), &payload)
        }

        /// Applies a call of a command.
        pub(in crate::kv) fn call(&mut self, command: &str, args: &[&str]) -> Outcome {
            let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
            self.call_bytes(command, &args)
        }

        pub(in crate::kv) fn call_bytes(&mut self, command: &str, args: &[&[u8]]) -> Outcome {
            self.apply(Operation::call(CommandId::of(command), args))
        }

        pub(in crate::kv) fn get(&self, key: &[u8]) -> Option<Bytes> {
            let command = Command { key: name(0), operation: Operation::get(key) };
            match self.store.read(&command.encode()) {
                Ok((_, Outcome::Value(value))) => value,
                other => panic!("{other:?}"),
            }
        }
    }

    fn name(request: u32) -> RequestKey {
        let request = RequestId(u128::from(request).to_be_bytes());
        RequestKey { client: ClientId(1), request }
    }

    #[test]
    fn values_can_be_read_until_they_are_deleted() {
        let mut feeder = Feeder::new();
        assert_eq!(feeder.get(b"k"), None);
        assert_eq!(feeder.apply(Operation::set(b"k", b"1")), Outcome::Done);
        assert_eq!(feeder.apply(Operation::set(b"k", b"2")), Outcome::Done);
        assert_eq!(feeder.get(b"k").as_deref(), Some(&b"2"[..]));
        let through_the_log = feeder.apply(Operation::get(b"k"));
        assert_eq!(through_the_log, Outcome::Value(Some(Bytes::from_static(b"2"))));
        assert_eq!(feeder.apply(Operation::del(b"k")), Outcome::flag(true));
        assert_eq!(feeder.apply(Operation::del(b"k")), Outcome::flag(false));
        assert_eq!(feeder.get(b"k"), None);
        assert_eq!(feeder.store.applied_index(), Index(5));
    }

    #[test]
    fn retries_are_answered_and_not_applied_again() {
        let mut feeder = Feeder::new();
        feeder.apply_as(1, Operation::set(b"k", b"1"));
        feeder.apply_as(2, Operation::del(b"k"));
        let retry = feeder.apply_as(1, Operation::set(b"k", b"1"));
        assert_eq!(retry, Applied { key: name(1), outcome: Outcome::Done, repeated: true });
        assert_eq!(feeder.get(b"k"), None);
        let retry = feeder.apply_as(2, Operation::del(b"k"));
        assert_eq!((retry.outcome, retry.repeated), (Outcome::flag(true), true));
        assert_eq!(feeder.store.applied_index(), Index(4), "a retry has a log entry");
    }

    #[cfg(feature = "mutants")]
    #[test]
    fn without_deduplication_retries_are_applied_again() {
        let mut feeder = Feeder { store: StateMachine::forgetful(), ..Feeder::default() };
        feeder.apply_as(1, Operation::set(b"k", b"1"));
        feeder.apply_as(2, Operation::del(b"k"));
        assert!(!feeder.apply_as(1, Operation::set(b"k", b"1")).repeated);
        assert!(feeder.get(b"k").is_some());
    }

    #[test]
    fn transfer_moves_the_full_amount_or_nothing() {
        let mut feeder = Feeder::new();
        feeder.call("mset", &["a", "10", "b", "5", "full", &u64::MAX.to_string(), "text", "much"]);
        for (from, to, amount, moved) in [
            ("a", "b", "7", true),
            ("a", "b", "4", false),
            ("a", "a", "3", true),
            ("a", "full", "1", false),
            ("a", "text", "1", false),
            ("nobody", "a", "0", false),
        ] {
            let outcome = feeder.call("transfer", &[from, to, amount]);
            assert_eq!(outcome, Outcome::flag(moved), "{amount} from {from} to {to}");
        }
        assert_eq!(feeder.get(b"a").as_deref(), Some(&b"3"[..]));
        assert_eq!(feeder.get(b"b").as_deref(), Some(&b"12"[..]));
    }

    #[test]
    fn memory_accounting_matches_a_recount() {
        let mut feeder = Feeder::new();
        let (empty, mut most) = (feeder.store.memory(), 0);
        for number in 0..2_000_u32 {
            let key = format!("key:{}", number * 7 % 300);
            let value = "x".repeat(number as usize * 13 % 500);
            match number % 9 {
                0 | 1 => feeder.call("hset", &["hash", &key, &value]),
                2 => feeder.call("hset", &[&key, "field", &value]),
                3 => feeder.call("hdel", &[&key, "field"]),
                4 => feeder.call("del", &[&key]),
                5 => feeder.call("pexpireat", &[&key, "1"]),
                6 if number == 1_005 => feeder.call("flushall", &[]),
                6 => feeder.call("mset", &[&key, &value, "other", "1"]),
                7 => feeder.call("append", &[&key, &value]),
                _ => feeder.call("set", &[&key, &value]),
            };
            let store = &feeder.store;
            store.keyspace.check_sums();
            assert_eq!(store.memory(), store.keyspace.memory() + store.dedup.memory());
            most = most.max(store.memory());
        }
        assert!(most > empty + 20_000);
    }

    #[test]
    fn invalid_payloads_advance_only_the_index() {
        let mut feeder = Feeder::new();
        let applied = feeder.store.apply(Index(1), b"no command");
        assert_eq!((applied.outcome, applied.key), (Outcome::Malformed, RequestKey::default()));
        assert_eq!(feeder.store.applied_index(), Index(1));
        assert!(matches!(feeder.store.read(b"?"), Err(CommandError::Damaged { length: 1 })));
        let put = Command { key: name(1), operation: Operation::set(b"k", b"") };
        assert_eq!(feeder.store.read(&put.encode()), Err(CommandError::NotARead));
    }

    #[test]
    fn digest_depends_on_the_state_and_not_its_history() {
        let (mut one, mut two) = (Feeder::new(), Feeder::new());
        let empty = one.store.digest();
        one.apply(Operation::set(b"a", b"1"));
        one.apply(Operation::set(b"b", b"2"));
        one.apply(Operation::set(b"b", b"3"));
        assert_ne!(one.store.digest(), empty);
        two.apply(Operation::set(b"b", b"3"));
        two.apply(Operation::set(b"a", b"1"));
        assert_ne!(one.store.digest(), two.store.digest(), "another applied index");
        two.store.skip(Index(3));
        assert_eq!(one.store.digest(), two.store.digest());
        one.apply(Operation::del(b"a"));
        two.apply(Operation::del(b"b"));
        assert_ne!(one.store.digest(), two.store.digest());
    }

    #[test]
    #[should_panic(expected = "applied in order")]
    fn applying_past_a_log_index_gap_panics() {
        StateMachine::default().skip(Index(2));
    }
}
