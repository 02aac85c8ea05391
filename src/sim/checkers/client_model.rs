//! The client model: checks the answers to clients against a simple model of the state machine.
//! Each request takes effect at most once, every answer follows from the committed log, a read
//! reflects everything that was committed when it arrived, and a refused request has no effect. The
//! message of each violation starts with the name of the violated rule; the guide's page on
//! guarantees lists most of these rules.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::kv::{Applied, Batch, Items, Operation, Outcome, Piece};
use crate::record::{Entry, EntryKind};
use crate::sim::checkers::expirations::Expirations;
use crate::sim::keys::expires;
use crate::sim::machine::wall_clock::EPOCH;
use crate::sim::violation::{Violation, ensure};
use crate::types::{Index, Instant, NodeId, RequestKey, Term};

/// Number of latest replies that the state machine keeps per client session, to answer resent
/// requests.
const SESSION_REPLIES: usize = 64;

/// Checks all answers to clients during a simulated run against a simple model of the state
/// machine.
#[derive(Debug, Default)]
pub struct ClientModel {
    requests: HashMap<RequestKey, Request, FixedState>,
    model: Model,
    expirations: Expirations,
}

/// A client's request, with the number of attempts. A client resends an unanswered request under
/// the same key, which is another attempt.
#[derive(Debug)]
struct Request {
    /// The highest commit index in the cluster when the request first reached a replica. A
    /// linearizable read must reflect all entries up to this index.
    committed_before: Index,
    /// Virtual time at which the request first reached a replica.
    arrived_at: Instant,
    /// Number of times that the request has reached a replica: 1 plus the number of resends that
    /// arrived.
    attempts: u32,
    /// Number of the request's attempts that replicas refused.
    refused: u32,
    /// Index of the log entry by which the request was applied; `None` if it has not been applied
    /// yet.
    effect: Option<Index>,
}

/// A simple model of the state machine, which keeps all versions of each key, so that a read can be
/// checked at any log index.
#[derive(Debug, Default)]
struct Model {
    /// All versions of each key, in the order in which they were written.
    versions: BTreeMap<Bytes, Vec<Version>>,
    /// Number of operations applied so far. Each operation gets this number as the revision of the
    /// keys that it writes.
    revision: u64,
    /// For each log entry from index 1 on, the result of applying it, and the total length in bytes
    /// of the pieces of an incomplete batch that follow from it.
    results: Vec<(Applied, usize)>,
    /// The parts so far of a batch that its leader appends in pieces: the term of the leader, the
    /// request key of the batch, and the bytes. `None` between such batches.
    pieces: Option<(Term, RequestKey, Vec<u8>)>,
    /// The outcomes of the operations of each applied batch (commands applied together), by the
    /// request key of the batch.
    outcomes: HashMap<RequestKey, Vec<Outcome>, FixedState>,
    /// The outcomes of each client session's numbered requests: by session id, and in the order of
    /// their sequence numbers, which start at 1.
    sessions: BTreeMap<u64, Vec<Outcome>>,
}

/// A version of a key: its value after an operation wrote or deleted it, and the position of that
/// operation.
#[derive(Debug)]
struct Version {
    /// Index of the log entry whose operation created this version.
    index: Index,
    /// Sequence number of the operation that created this version, counted over all applied
    /// operations.
    revision: u64,
    /// The value that the operation set; `None` if it deleted the key.
    value: Option<Bytes>,
}

impl ClientModel {
    /// Records that the request `key` has reached a replica at time `now`. `committed` is the
    /// highest commit index in the cluster at that time.
    pub(in crate::sim) fn on_request(&mut self, key: RequestKey, committed: Index, now: Instant) {
        let request = self.requests.entry(key).or_insert(Request {
            committed_before: committed,
            arrived_at: now,
            attempts: 0,
            refused: 0,
            effect: None,
        });
        request.attempts += 1;
    }

    /// Checks the result of applying a log entry on replica `id` against the model. `piece_bytes`
    /// is the total length of the pieces that its state machine keeps. `leaders` is the number of
    /// terms that have had a leader so far, which shows whether the leader has
    /// changed.
    pub(in crate::sim) fn on_applied(
        &mut self,
        id: NodeId,
        entry: &Entry,
        (applied, piece_bytes): (&Applied, usize),
        (now, leaders): (Instant, usize),
    ) -> Result<(), Violation> {
        let index = entry.index();
        let place = usize::try_from(index.0 - 1).expect("a log in memory");
        if place == self.model.results.len() {
            let payload = self.model.payload_of(entry);
            let result = self.model.apply(index, &payload);
            if !result.repeated && result.key != RequestKey::default() {
                self.record_effect(result.key, index)?;
                self.record_expirations(result.key, &payload, now, leaders);
            }
            let kept = self.model.pieces.as_ref().map_or(0, |(.., bytes)| bytes.len());
            self.model.results.push((result, kept));
        }
        let (expected, kept) = self.model.results.get(place).expect("no index is skipped");
        ensure!(
            piece_bytes == *kept,
            "incomplete batches end with their leader: replica {id} keeps pieces of {piece_bytes} \
             bytes after the entry at index {index}, but in the model they have {kept} bytes"
        );
        ensure!(
            is_same(applied, expected),
            "applied once: replica {id} applied the entry at index {index} with the result \
             {applied:?}, but the result in the model is {expected:?}"
        );
        Ok(())
    }

    /// Records the expiration time of each value that a batch of commands sets with a TTL or an
    /// expiration time. `leaders` is the number of terms that have had a leader so far, which shows
    /// whether the leader has changed.
    fn record_expirations(
        &mut self,
        key: RequestKey,
        payload: &[u8],
        now: Instant,
        leaders: usize,
    ) {
        let batch = Batch::decode(payload).expect("it was applied");
        for operation in batch.operations().flatten() {
            self.record_expiration(key, operation, now, leaders);
        }
    }

    fn record_expiration(
        &mut self,
        key: RequestKey,
        operation: Operation<'_>,
        now: Instant,
        leaders: usize,
    ) {
        let Some((_, args)) = operation.as_call() else { return };
        let [_, value, option, time] = args[..] else { return };
        let Some(millis) = number(time) else { return };
        let arrived_at = self.requests[&key].arrived_at;
        let (earliest, latest) = if option == b"PX" {
            let time = Duration::from_millis(millis);
            (arrived_at + time, now + time)
        } else {
            let until = Instant::ZERO + Duration::from_millis(millis.saturating_sub(EPOCH));
            (until, until.max(now))
        };
        self.expirations.set(Bytes::copy_from_slice(value), earliest, latest, leaders);
    }

    /// Returns the number of values that a read found expired, and how many of these values had
    /// been set under an earlier leader.
    pub fn expired(&self) -> (u64, u64) {
        self.expirations.counts()
    }

    fn record_effect(&mut self, key: RequestKey, index: Index) -> Result<(), Violation> {
        let Some(request) = self.requests.get_mut(&key) else {
            return Err(Violation(format!(
                "replies match requests: the request {key:?} was applied at log index {index}, but \
                 no client has sent it"
            )));
        };
        ensure!(
            request.effect.is_none(),
            "applied once: the request {key:?} was applied at log index {:?}, and again at log \
             index {index}",
            request.effect
        );
        ensure!(
            request.refused < request.attempts,
            "refused means not applied: the request {key:?} was applied at log index {index} after \
             all its attempts had been refused"
        );
        request.effect = Some(index);
        Ok(())
    }

    /// Checks replica `id`'s answer to the write `key` against the outcomes of the write in the
    /// model.
    pub(in crate::sim) fn on_write_answered(
        &self,
        id: NodeId,
        key: RequestKey,
        outcomes: &[Outcome],
    ) -> Result<(), Violation> {
        let expected = self.model.outcomes.get(&key);
        ensure!(
            expected.is_some_and(|expected| are_same(expected, outcomes)),
            "applied once: replica {id} answered the write request {key:?} with the outcomes \
             {outcomes:?}, but the outcomes in the model are {expected:?}"
        );
        Ok(())
    }

    /// Checks replica `id`'s answer to a batch of reads against the model at log index `state`, the
    /// last index that the replica had applied when it executed the reads. The answer must reflect
    /// all entries that were committed before the reads arrived. `time` is the current time and the
    /// number of terms that have had a leader so far.
    pub(in crate::sim) fn on_read_answered(
        &mut self,
        id: NodeId,
        key: RequestKey,
        payload: &[u8],
        outcomes: &[Outcome],
        state: Index,
        time: (Instant, usize),
    ) -> Result<(), Violation> {
        let Some(request) = self.requests.get(&key) else {
            return Err(Violation(format!(
                "replies match requests: replica {id} answered the read request {key:?}, but no \
                 client has sent it"
            )));
        };
        ensure!(
            state >= request.committed_before,
            "linearizability: replica {id} answered the read request {key:?} from its state at \
             applied index {state}, but entries up to index {} had been committed before the \
             request arrived",
            request.committed_before
        );
        let arrived_at = request.arrived_at;
        let batch = Batch::decode(payload).expect("it was answered");
        ensure!(
            batch.len() == outcomes.len(),
            "replies match requests: replica {id} answered the {} reads of the request {key:?} \
             with a different number of outcomes: {outcomes:?}",
            batch.len()
        );
        for (operation, outcome) in batch.operations().flatten().zip(outcomes) {
            self.check_read((id, key, arrived_at), operation, outcome, state, time)?;
        }
        Ok(())
    }

    /// Checks the outcome of one read operation. The operation belongs to the batch of reads with
    /// the request key `key`; the batch arrived at time `arrived_at`.
    fn check_read(
        &mut self,
        (id, key, arrived_at): (NodeId, RequestKey, Instant),
        operation: Operation<'_>,
        outcome: &Outcome,
        state: Index,
        (now, leaders): (Instant, usize),
    ) -> Result<(), Violation> {
        let expected = self.model.read_one(operation, state);
        if let Some(("get", args)) = operation.as_call()
            && expires(args[0])
            && let Outcome::Value(Some(current)) = &expected
            && (*outcome == expected || *outcome == Outcome::Value(None))
        {
            let is_shown = *outcome == expected;
            return self.expirations.answered(id, arrived_at, now, current, is_shown, leaders);
        }
        ensure!(
            *outcome == expected,
            "linearizability: replica {id} answered the read request {key:?} from its state at \
             applied index {state} with the outcome {outcome:?}, but the outcome in the model is \
             {expected:?}"
        );
        Ok(())
    }

    /// Records that replica `id` refused an attempt of the request `key`, and checks that the
    /// request has not been applied if all its attempts were refused.
    pub(in crate::sim) fn on_refused(
        &mut self,
        id: NodeId,
        key: RequestKey,
    ) -> Result<(), Violation> {
        let Some(request) = self.requests.get_mut(&key) else {
            return Err(Violation(format!(
                "replies match requests: replica {id} refused the request {key:?}, but no client \
                 has sent it"
            )));
        };
        request.refused += 1;
        ensure!(
            request.refused <= request.attempts,
            "refused means not applied: replica {id} refused the request {key:?}, which has now \
             been refused {} times but has arrived at replicas only {} times; a refusal without an \
             attempt that it answers does not prove that the request was not applied",
            request.refused,
            request.attempts
        );
        ensure!(
            request.refused < request.attempts || request.effect.is_none(),
            "refused means not applied: replica {id} refused the last attempt of the request \
             {key:?}, so all attempts were refused, but the request was applied at log index {:?}",
            request.effect
        );
        Ok(())
    }

    /// Returns the number of keys that have a value after all entries applied so far. Counts only
    /// the keys for which `choose` returns true.
    pub fn count(&self, choose: impl Fn(&[u8]) -> bool) -> u64 {
        let chosen = self.model.versions.iter().filter(|(key, _)| choose(key));
        chosen.filter(|(_, versions)| versions.last().is_some_and(|it| it.value.is_some())).count()
            as u64
    }

    /// Returns the sum of the numeric values, after all entries applied so far, of the keys for
    /// which `choose` returns true.
    pub fn sum(&self, choose: impl Fn(&[u8]) -> bool) -> u64 {
        let chosen = self.model.versions.iter().filter(|(key, _)| choose(key));
        let newest = chosen.filter_map(|(_, versions)| versions.last()?.value.as_ref());
        newest.filter_map(|value| number(value)).sum()
    }
}

impl Model {
    /// Returns the bytes to apply for a log entry: its payload, or the whole batch if the entry is
    /// the last piece of one; empty if there is nothing to apply.
    fn payload_of(&mut self, entry: &Entry) -> Bytes {
        if entry.kind() == EntryKind::NoOp {
            self.pieces = None;
            return Bytes::new();
        }
        let Some(piece) = Piece::decode(entry.payload()) else { return entry.shared_payload() };
        if piece.is_first {
            self.pieces = Some((entry.term(), piece.key, Vec::new()));
        }
        match &mut self.pieces {
            Some((term, key, bytes)) if (*term, *key) == (entry.term(), piece.key) => {
                bytes.extend_from_slice(piece.bytes);
            }
            _ => return Bytes::new(),
        }
        let whole = self.pieces.take_if(|_| piece.following == 0);
        whole.map_or_else(Bytes::new, |(.., bytes)| Bytes::from(bytes))
    }

    fn apply(&mut self, index: Index, payload: &[u8]) -> Applied {
        let Ok(batch) = Batch::decode(payload) else {
            let key = RequestKey::default();
            return Applied { key, outcomes: vec![], repeated: false };
        };
        let key = batch.key;
        if batch.may_repeat
            && let Some(outcomes) = self.outcomes.get(&key)
        {
            return Applied { key, outcomes: outcomes.clone(), repeated: true };
        }
        let apply = |operation: Option<Operation<'_>>| {
            self.revision += 1;
            match operation {
                None => Outcome::Malformed,
                Some(
                    Operation::Clock { .. }
                    | Operation::DigestMark
                    | Operation::DigestReport { .. },
                ) => Outcome::Done,
                Some(operation) => self.perform(index, operation),
            }
        };
        let outcomes: Vec<Outcome> = batch.operations().map(apply).collect();
        if batch.may_repeat {
            self.outcomes.insert(key, outcomes.clone());
        }
        Applied { key, outcomes, repeated: false }
    }

    fn perform(&mut self, index: Index, operation: Operation<'_>) -> Outcome {
        match operation {
            Operation::Call { .. } => self.call(index, operation),
            Operation::Transaction { watched, operations } => {
                if !self.are_unchanged(watched, index) {
                    return Outcome::NoList;
                }
                let inner =
                    operations.iter().map(|one| Operation::decode_nested(one).expect("one"));
                Outcome::List(inner.map(|one| self.perform(index, one)).collect())
            }
            Operation::OpenSession => {
                self.sessions.insert(self.revision, Vec::new());
                Outcome::Integer(self.revision.cast_signed())
            }
            Operation::Once { session, sequence, operation } => {
                let Some(there) = self.sessions.get(&session) else { return error("NOSESSION") };
                let done = there.len() as u64;
                if sequence > done + 1 {
                    return error("SEQGAP");
                }
                if sequence <= done {
                    let at = usize::try_from(sequence - 1).expect("numbers begin with 1");
                    let kept = there.len() - at <= SESSION_REPLIES;
                    return if kept { there[at].clone() } else { error("STALESEQ") };
                }
                let outcome =
                    self.perform(index, Operation::decode_nested(operation).expect("an operation"));
                self.sessions.entry(session).or_default().push(outcome.clone());
                outcome
            }
            Operation::Clock { .. }
            | Operation::ResetClock { .. }
            | Operation::Effects { .. }
            | Operation::DigestMark
            | Operation::DigestReport { .. } => {
                unreachable!("the workload sends no {operation:?}")
            }
        }
    }

    fn call(&mut self, index: Index, operation: Operation<'_>) -> Outcome {
        let (name, args) = operation.as_call().expect("only calls come here");
        match (name, &args[..]) {
            ("get", [key]) => Outcome::Value(self.newest(key)),
            ("set", [key, value, ..]) => {
                self.set(index, key, Some(Bytes::copy_from_slice(value)));
                Outcome::Done
            }
            ("del", [key]) => {
                let existed = self.newest(key).is_some();
                self.set(index, key, None);
                Outcome::Integer(existed.into())
            }
            ("transfer", [from, to, amount]) => {
                let amount = number(amount).expect("the workload transfers a number");
                Outcome::Integer(self.transfer(index, from, to, amount).is_some().into())
            }
            ("incr", [key]) => {
                let held = self.newest(key).and_then(|value| number(&value)).unwrap_or(0);
                let sum = held + 1;
                self.set(index, key, Some(Bytes::from(sum.to_string())));
                Outcome::Integer(sum.cast_signed())
            }
            other => unreachable!("the workload does not call {other:?}"),
        }
    }

    /// Returns whether the watched keys of a transaction are unchanged: at log index `index`, each
    /// key still has the revision that the client has read. A key's revision is the sequence number
    /// of the operation that last wrote the key.
    fn are_unchanged(&self, watched: Items<'_>, index: Index) -> bool {
        watched
            .pairs()
            .all(|(key, revision)| revision == self.revision(key, index).to_le_bytes().as_slice())
    }

    /// Returns the revision of a key at log index `state`: the sequence number of the operation
    /// that last wrote the key, counted over all applied operations, or 0 if the key has no value.
    fn revision(&self, key: &[u8], state: Index) -> u64 {
        self.at(key, state).filter(|it| it.value.is_some()).map_or(0, |version| version.revision)
    }

    fn at(&self, key: &[u8], state: Index) -> Option<&Version> {
        let versions = self.versions.get(key)?;
        let length = versions.partition_point(|version| version.index <= state);
        versions[..length].last()
    }

    fn transfer(&mut self, index: Index, from: &[u8], to: &[u8], amount: u64) -> Option<()> {
        let (holds, held) = (number(&self.newest(from)?)?, number(&self.newest(to)?)?);
        let left = holds.checked_sub(amount)?;
        if from != to {
            let sum = held.checked_add(amount)?;
            self.set(index, from, Some(Bytes::from(left.to_string())));
            self.set(index, to, Some(Bytes::from(sum.to_string())));
        }
        Some(())
    }

    fn set(&mut self, index: Index, key: &[u8], value: Option<Bytes>) {
        let version = Version { index, revision: self.revision, value };
        if let Some(versions) = self.versions.get_mut(key) {
            versions.push(version);
        } else {
            self.versions.insert(Bytes::copy_from_slice(key), vec![version]);
        }
    }

    fn newest(&self, key: &[u8]) -> Option<Bytes> {
        self.versions.get(key)?.last()?.value.clone()
    }

    fn read_one(&self, operation: Operation<'_>, state: Index) -> Outcome {
        match operation {
            Operation::Call { .. } => match operation.as_call() {
                Some(("get", args)) => {
                    Outcome::Value(self.at(args[0], state).and_then(|it| it.value.clone()))
                }
                Some(("revisions", args)) => {
                    let revision = |key: &[u8]| self.revision(key, state).cast_signed();
                    let revisions = args.into_iter().map(revision).map(Outcome::Integer);
                    Outcome::List(revisions.collect())
                }
                _ => Outcome::Malformed,
            },
            Operation::Transaction { watched, .. } if !self.are_unchanged(watched, state) => {
                Outcome::NoList
            }
            Operation::Transaction { operations, .. } => {
                let inner =
                    operations.iter().map(|one| Operation::decode_nested(one).expect("one"));
                Outcome::List(inner.map(|one| self.read_one(one, state)).collect())
            }
            _ => Outcome::Malformed,
        }
    }
}

/// Returns an error outcome with this error code, such as `NOSESSION`. The model does not know the
/// rest of the error message.
fn error(code: &'static str) -> Outcome {
    Outcome::Error(Bytes::from_static(code.as_bytes()))
}

/// Returns whether two results of applying an entry are equal. Errors count as equal if they have
/// the same code.
fn is_same(actual: &Applied, expected: &Applied) -> bool {
    (actual.key, actual.repeated) == (expected.key, expected.repeated)
        && are_same(&actual.outcomes, &expected.outcomes)
}

/// Returns whether two lists of outcomes are equal. Errors count as equal if they have the same
/// code.
fn are_same(actual: &[Outcome], expected: &[Outcome]) -> bool {
    let code = |text: &Bytes| text.split(|byte| *byte == b' ').next().map(<[u8]>::to_vec);
    actual.len() == expected.len()
        && actual.iter().zip(expected).all(|pair| match pair {
            (Outcome::Error(text), Outcome::Error(wanted)) => code(text) == code(wanted),
            (outcome, wanted) => outcome == wanted,
        })
}

fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::CommandId;
    use crate::record::RecordBuffer;
    use crate::types::{ClientId, EntryId, RequestId};

    const ID: NodeId = NodeId(1);
    /// The current true time, and the number of terms that have had a leader.
    const NOW: (Instant, usize) = (Instant::ZERO, 1);

    fn key(number: u8) -> RequestKey {
        RequestKey { client: ClientId(1), request: RequestId([number; 16]) }
    }

    fn put(number: u8, value: &str) -> Bytes {
        let operation = Operation::set(b"k", value.as_bytes());
        Batch::one(key(number), &operation)
    }

    fn entry(index: Index, payload: &[u8]) -> Entry {
        let id = EntryId { term: Term(1), index };
        RecordBuffer::default().encode(id, EntryKind::Command, payload)
    }

    fn done(number: u8, repeated: bool) -> Applied {
        Applied { key: key(number), outcomes: vec![Outcome::Done], repeated }
    }

    fn after_requests(numbers: &[u8]) -> ClientModel {
        let mut model = ClientModel::default();
        for &number in numbers {
            model.on_request(key(number), Index(0), Instant::ZERO);
        }
        model
    }

    #[test]
    fn client_model_detects_a_retry_applied_twice() {
        let mut model = after_requests(&[1, 1]);
        let payload = put(1, "a");
        model.on_applied(ID, &entry(Index(1), &payload), (&done(1, false), 0), NOW).unwrap();
        model.on_applied(NodeId(2), &entry(Index(1), &payload), (&done(1, false), 0), NOW).unwrap();
        let twice = model
            .on_applied(ID, &entry(Index(2), &payload), (&done(1, false), 0), NOW)
            .unwrap_err();
        assert!(twice.0.starts_with("applied once"), "{twice}");
        model.on_applied(NodeId(2), &entry(Index(2), &payload), (&done(1, true), 0), NOW).unwrap();
        model.on_write_answered(ID, key(1), &[Outcome::Done]).unwrap();
        assert!(model.on_write_answered(ID, key(2), &[Outcome::Done]).is_err());
    }

    #[test]
    fn client_model_detects_a_stale_read() {
        let mut model = after_requests(&[1, 2]);
        model.on_applied(ID, &entry(Index(1), &put(1, "a")), (&done(1, false), 0), NOW).unwrap();
        model.on_applied(ID, &entry(Index(2), &put(2, "b")), (&done(2, false), 0), NOW).unwrap();
        model.on_request(key(3), Index(2), Instant::ZERO);
        let read = Batch::one(key(3), &Operation::get(b"k"));
        let value = |text: &str| Outcome::Value(Some(Bytes::copy_from_slice(text.as_bytes())));
        model.on_read_answered(ID, key(3), &read, &[value("b")], Index(2), NOW).unwrap();
        assert!(model.on_read_answered(ID, key(3), &read, &[value("a")], Index(2), NOW).is_err());
        let stale =
            model.on_read_answered(ID, key(3), &read, &[value("a")], Index(1), NOW).unwrap_err();
        assert!(stale.0.starts_with("linearizability"), "{stale}");
    }

    #[test]
    fn client_model_detects_a_refused_request_that_was_applied() {
        let mut model = after_requests(&[1, 2, 2]);
        model.on_refused(ID, key(1)).unwrap();
        model.on_refused(ID, key(2)).unwrap();
        model.on_applied(ID, &entry(Index(1), &put(2, "b")), (&done(2, false), 0), NOW).unwrap();
        assert!(
            model
                .on_applied(ID, &entry(Index(2), &put(1, "a")), (&done(1, false), 0), NOW)
                .is_err()
        );
        assert!(model.on_refused(ID, key(2)).is_err());
    }

    #[test]
    fn client_model_keeps_the_total_balance_over_transfers() {
        let mut model = after_requests(&[1, 2]);
        let account = |number: u8, name: &'static [u8], value: &'static [u8]| {
            let operation = Operation::set(name, value);
            Batch::one(key(number), &operation)
        };
        model
            .on_applied(ID, &entry(Index(1), &account(1, b"a", b"70")), (&done(1, false), 0), NOW)
            .unwrap();
        model
            .on_applied(ID, &entry(Index(2), &account(2, b"b", b"30")), (&done(2, false), 0), NOW)
            .unwrap();
        for (number, amount, moved) in [(3, 60_u64, true), (4, 11, false)] {
            model.on_request(key(number), Index(2), Instant::ZERO);
            let (amount, transfer) = (amount.to_string(), CommandId::of("transfer"));
            let args = [b"a", b"b", amount.as_bytes()];
            let operation = Operation::call(transfer, &args[..]);
            let payload = Batch::one(key(number), &operation);
            let outcome = Outcome::Integer(i64::from(moved));
            let applied = Applied { key: key(number), outcomes: vec![outcome], repeated: false };
            model
                .on_applied(ID, &entry(Index(u64::from(number)), &payload), (&applied, 0), NOW)
                .unwrap();
        }
        assert_eq!(model.sum(|key| key != b"c"), 100);
        assert_eq!(model.sum(|key| key == b"a"), 10);
    }
}
