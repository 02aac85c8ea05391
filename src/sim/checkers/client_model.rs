//! What clients were told, against a plain model: each request applied once, every answer the one
//! that the committed log gives, no read older than what was committed when it was asked, no
//! effect of what was refused. Rule numbers (C1 to C6) are those of the project's safety page.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::kv::{Applied, Command, Items, Operation, Outcome};
use crate::sim::checkers::expirations::Expirations;
use crate::sim::checkers::safety::{Violation, demand};
use crate::sim::machine::wall_clock::EPOCH;
use crate::sim::workload::expires;
use crate::types::{Index, Instant, NodeId, RequestKey};

/// So many replies of a session are kept.
const SESSION_REPLIES: usize = 64;

/// All requests of a run and what came of them.
#[derive(Debug, Default)]
pub struct ClientModel {
    requests: HashMap<RequestKey, Request, FixedState>,
    model: Model,
    expirations: Expirations,
}

/// A request, over all its attempts.
#[derive(Debug)]
struct Request {
    /// Committed when it first reached a replica: a read must show that much.
    floor: Index,
    /// When that was.
    asked_at: Instant,
    /// How often it reached a replica.
    attempts: u32,
    /// How many of those were refused.
    refused: u32,
    /// Where it took effect.
    effect: Option<Index>,
}

/// The state machine once more, as plainly as can be: applied once, in order, with all versions
/// of each key.
#[derive(Debug, Default)]
struct Model {
    versions: BTreeMap<Bytes, Vec<(Index, Option<Bytes>)>>,
    /// What each place of the log gave; `None` where there was no command.
    results: Vec<Option<Applied>>,
    remembered: HashMap<RequestKey, Outcome, FixedState>,
    /// What came of each session's requests, in order of their numbers from 1.
    sessions: BTreeMap<u64, Vec<Outcome>>,
}

impl ClientModel {
    /// A request reaches a replica while `committed` entries are committed.
    pub(in crate::sim) fn asked(&mut self, key: RequestKey, committed: Index, now: Instant) {
        let request = self.requests.entry(key).or_insert(Request {
            floor: committed,
            asked_at: now,
            attempts: 0,
            refused: 0,
            effect: None,
        });
        request.attempts += 1;
    }

    /// A replica applied the entry at `index`; `None` if there was nothing to apply.
    pub(in crate::sim) fn applied(
        &mut self,
        id: NodeId,
        index: Index,
        payload: &[u8],
        applied: Option<&Applied>,
        (now, leaders): (Instant, usize),
    ) -> Result<(), Violation> {
        let place = usize::try_from(index.0 - 1).expect("a log in memory");
        if place == self.model.results.len() {
            let result = applied.map(|_| self.model.apply(index, payload));
            if let Some(Applied { key, repeated: false, .. }) = result
                && key != RequestKey::default()
            {
                self.took_effect(key, index)?;
                self.note_expiration(key, payload, now, leaders);
            }
            self.model.results.push(result);
        }
        let expected = self.model.results.get(place).and_then(Option::as_ref);
        demand!(
            is_same(applied, expected),
            "C6: replica {id} got {applied:?} from entry {index}, where a plain model gets \
             {expected:?}"
        );
        Ok(())
    }

    /// Notes when a value expires that was set for a time or until a date.
    fn note_expiration(&mut self, key: RequestKey, payload: &[u8], now: Instant, leaders: usize) {
        let Ok(Command { operation: Operation::Call { words, .. }, .. }) = Command::decode(payload)
        else {
            return;
        };
        let words: Vec<&[u8]> = words.iter().collect();
        let [_, value, option, time] = words[..] else { return };
        let Some(millis) = number(time) else { return };
        let asked = self.requests[&key].asked_at;
        let (earliest, latest) = if option == b"PX" {
            let time = Duration::from_millis(millis);
            (asked + time, now + time)
        } else {
            let until = Instant::ZERO + Duration::from_millis(millis.saturating_sub(EPOCH));
            (until, until.max(now))
        };
        self.expirations.set(Bytes::copy_from_slice(value), earliest, latest, leaders);
    }

    /// Values that were seen to have expired, and how many of them under another leader than they
    /// were set.
    pub fn expired(&self) -> (u64, u64) {
        self.expirations.counts()
    }

    fn took_effect(&mut self, key: RequestKey, index: Index) -> Result<(), Violation> {
        let Some(request) = self.requests.get_mut(&key) else {
            return Err(Violation(format!("C8: {key:?} was applied at {index}, nobody asked it")));
        };
        demand!(
            request.effect.is_none(),
            "C6: {key:?} took effect at {:?} and again at {index}",
            request.effect
        );
        demand!(
            request.refused < request.attempts,
            "C5: {key:?} took effect at {index}, but every attempt was refused before"
        );
        request.effect = Some(index);
        Ok(())
    }

    /// A replica answers a write, from its memory of requests or as it applies it.
    pub(in crate::sim) fn answered_write(
        &self,
        id: NodeId,
        key: RequestKey,
        outcome: &Outcome,
    ) -> Result<(), Violation> {
        let told = self.model.remembered.get(&key);
        demand!(
            told == Some(outcome)
                || matches!((told, outcome), (Some(Outcome::Error(_)), Outcome::Error(_))),
            "C5: replica {id} answers {key:?} with {outcome:?}, its effect was {told:?}"
        );
        Ok(())
    }

    /// A replica answers a read from its state at `state`.
    pub(in crate::sim) fn answered_read(
        &mut self,
        id: NodeId,
        key: RequestKey,
        payload: &[u8],
        outcome: &Outcome,
        state: Index,
        (now, leaders): (Instant, usize),
    ) -> Result<(), Violation> {
        let Some(request) = self.requests.get(&key) else {
            return Err(Violation(format!("C8: replica {id} answers {key:?}, nobody asked it")));
        };
        demand!(
            state >= request.floor,
            "C1: replica {id} answers the read {key:?} from its state at {state}, but {} entries \
             were committed before it was asked",
            request.floor
        );
        let expected = self.model.read(payload, state);
        if let Ok(Command { operation: Operation::Get { key }, .. }) = Command::decode(payload)
            && expires(key)
            && let Outcome::Value(Some(current)) = &expected
            && (*outcome == expected || *outcome == Outcome::Value(None))
        {
            let (asked, is_shown) = (request.asked_at, *outcome == expected);
            return self.expirations.answered(id, asked, now, current, is_shown, leaders);
        }
        demand!(
            *outcome == expected,
            "C1: replica {id} answers the read {key:?} with {outcome:?}; at {state} it is \
             {expected:?}"
        );
        Ok(())
    }

    /// A replica refuses an attempt.
    pub(in crate::sim) fn refused(&mut self, id: NodeId, key: RequestKey) -> Result<(), Violation> {
        let Some(request) = self.requests.get_mut(&key) else {
            return Err(Violation(format!("C8: replica {id} refuses {key:?}, nobody asked it")));
        };
        request.refused += 1;
        demand!(
            request.refused <= request.attempts,
            "C5: {key:?} was refused {} times, but asked {} times",
            request.refused,
            request.attempts
        );
        demand!(
            request.refused < request.attempts || request.effect.is_none(),
            "C5: replica {id} refuses {key:?}, which took effect at {:?}",
            request.effect
        );
        Ok(())
    }

    /// How many of the keys that `choose` picks have a value in the newest state.
    pub fn count(&self, choose: impl Fn(&[u8]) -> bool) -> u64 {
        let chosen = self.model.versions.iter().filter(|(key, _)| choose(key));
        chosen.filter(|(_, versions)| versions.last().is_some_and(|(_, v)| v.is_some())).count()
            as u64
    }

    /// The sum of all values that are numbers, among keys that `choose` picks, in the newest state.
    pub fn sum(&self, choose: impl Fn(&[u8]) -> bool) -> u64 {
        let chosen = self.model.versions.iter().filter(|(key, _)| choose(key));
        let newest = chosen.filter_map(|(_, versions)| versions.last()?.1.as_ref());
        newest.filter_map(|value| number(value)).sum()
    }
}

impl Model {
    fn apply(&mut self, index: Index, payload: &[u8]) -> Applied {
        let Ok(Command { key, operation }) = Command::decode(payload) else {
            let key = RequestKey::default();
            return Applied { key, outcome: Outcome::Malformed, repeated: false };
        };
        if let Operation::Clock { .. } = operation {
            return Applied { key, outcome: Outcome::Done, repeated: false };
        }
        if let Operation::Get { key: pair } = operation {
            return Applied { key, outcome: Outcome::Value(self.newest(pair)), repeated: false };
        }
        if let Some(outcome) = self.remembered.get(&key) {
            return Applied { key, outcome: outcome.clone(), repeated: true };
        }
        let outcome = self.perform(index, operation);
        self.remembered.insert(key, outcome.clone());
        Applied { key, outcome, repeated: false }
    }

    fn perform(&mut self, index: Index, operation: Operation<'_>) -> Outcome {
        match operation {
            Operation::Get { key: pair } => Outcome::Value(self.newest(pair)),
            Operation::Put { key: pair, value } => {
                self.set(index, pair, Some(Bytes::copy_from_slice(value)));
                Outcome::Done
            }
            Operation::Delete { key: pair } => {
                let was = self.newest(pair).is_some();
                self.set(index, pair, None);
                Outcome::Deleted(was)
            }
            Operation::Transfer { from, to, amount } => {
                Outcome::Transferred(self.transfer(index, from, to, amount).is_some())
            }
            Operation::Add { key: pair, amount } => {
                let held = self.newest(pair).and_then(|value| number(&value)).unwrap_or(0);
                let sum = held.cast_signed() + amount;
                self.set(index, pair, Some(Bytes::from(sum.to_string())));
                Outcome::Integer(sum)
            }
            Operation::Transaction { watched, operations } => {
                if !self.are_as_they_were(watched, index) {
                    return Outcome::NoList;
                }
                let inner = operations.iter().map(|one| Operation::decode(one).expect("one"));
                Outcome::List(inner.map(|one| self.perform(index, one)).collect())
            }
            Operation::Call { verb, words } if verb.name() == "set" => {
                let words: Vec<&[u8]> = words.iter().collect();
                self.set(index, words[0], Some(Bytes::copy_from_slice(words[1])));
                Outcome::Done
            }
            Operation::OpenSession => {
                self.sessions.insert(index.0, Vec::new());
                Outcome::Integer(index.0.cast_signed())
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
                    self.perform(index, Operation::decode(operation).expect("an operation"));
                self.sessions.entry(session).or_default().push(outcome.clone());
                outcome
            }
            other => unreachable!("the workload asks for no {other:?}"),
        }
    }

    /// Whether keys have the revisions that they were watched by, before the entry at `index`, or
    /// within it.
    fn are_as_they_were(&self, watched: Items<'_>, index: Index) -> bool {
        watched
            .pairs()
            .all(|(key, revision)| revision == self.revision(key, index).to_le_bytes().as_slice())
    }

    /// Which entry gave a key the value that it has at `state`; 0 if it has none.
    fn revision(&self, key: &[u8], state: Index) -> u64 {
        self.at(key, state).filter(|(_, value)| value.is_some()).map_or(0, |(index, _)| index.0)
    }

    fn at(&self, key: &[u8], state: Index) -> Option<&(Index, Option<Bytes>)> {
        let versions = self.versions.get(key)?;
        let length = versions.partition_point(|(index, _)| *index <= state);
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
        if let Some(versions) = self.versions.get_mut(key) {
            versions.push((index, value));
        } else {
            self.versions.insert(Bytes::copy_from_slice(key), vec![(index, value)]);
        }
    }

    fn newest(&self, key: &[u8]) -> Option<Bytes> {
        self.versions.get(key)?.last()?.1.clone()
    }

    fn read(&self, payload: &[u8], state: Index) -> Outcome {
        Command::decode(payload)
            .map_or(Outcome::Malformed, |command| self.read_one(command.operation, state))
    }

    fn read_one(&self, operation: Operation<'_>, state: Index) -> Outcome {
        match operation {
            Operation::Get { key } => {
                Outcome::Value(self.at(key, state).and_then(|(_, value)| value.clone()))
            }
            Operation::Call { verb, words } if verb.name() == "revisions" => {
                let revision = |key| self.revision(key, state).cast_signed();
                Outcome::List(words.iter().map(revision).map(Outcome::Integer).collect())
            }
            Operation::Transaction { watched, .. } if !self.are_as_they_were(watched, state) => {
                Outcome::NoList
            }
            Operation::Transaction { operations, .. } => {
                let inner = operations.iter().map(|one| Operation::decode(one).expect("one"));
                Outcome::List(inner.map(|one| self.read_one(one, state)).collect())
            }
            _ => Outcome::Malformed,
        }
    }
}

/// What a refused request of a session is told begins like this; more the model does not know.
fn error(code: &'static str) -> Outcome {
    Outcome::Error(Bytes::from_static(code.as_bytes()))
}

fn is_same(one: Option<&Applied>, other: Option<&Applied>) -> bool {
    let code = |text: &Bytes| text.split(|byte| *byte == b' ').next().map(<[u8]>::to_vec);
    match (one, other) {
        (
            Some(Applied { key, outcome: Outcome::Error(text), repeated }),
            Some(Applied { key: known, outcome: Outcome::Error(wanted), repeated: again }),
        ) => (key, repeated) == (known, again) && code(text) == code(wanted),
        _ => one == other,
    }
}

fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ClientId, RequestId};

    const ID: NodeId = NodeId(1);
    /// The true time, and how many leaders there were.
    const NOW: (Instant, usize) = (Instant::ZERO, 1);

    fn key(number: u8) -> RequestKey {
        RequestKey { client: ClientId(1), request: RequestId([number; 16]) }
    }

    fn put(number: u8, value: &str) -> Bytes {
        let operation = Operation::Put { key: b"k", value: value.as_bytes() };
        Command { key: key(number), operation }.encode()
    }

    fn done(number: u8, repeated: bool) -> Applied {
        Applied { key: key(number), outcome: Outcome::Done, repeated }
    }

    fn asked(numbers: &[u8]) -> ClientModel {
        let mut client_model = ClientModel::default();
        for &number in numbers {
            client_model.asked(key(number), Index(0), Instant::ZERO);
        }
        client_model
    }

    #[test]
    fn a_retry_that_is_applied_again_is_noticed() {
        let mut client_model = asked(&[1, 1]);
        let payload = put(1, "a");
        client_model.applied(ID, Index(1), &payload, Some(&done(1, false)), NOW).unwrap();
        client_model.applied(NodeId(2), Index(1), &payload, Some(&done(1, false)), NOW).unwrap();
        let twice =
            client_model.applied(ID, Index(2), &payload, Some(&done(1, false)), NOW).unwrap_err();
        assert!(twice.0.starts_with("C6"), "{twice}");
        client_model.applied(NodeId(2), Index(2), &payload, Some(&done(1, true)), NOW).unwrap();
        client_model.answered_write(ID, key(1), &Outcome::Done).unwrap();
        assert!(client_model.answered_write(ID, key(2), &Outcome::Done).is_err());
    }

    #[test]
    fn reads_must_be_as_new_as_what_was_committed_when_they_were_asked() {
        let mut client_model = asked(&[1, 2]);
        client_model.applied(ID, Index(1), &put(1, "a"), Some(&done(1, false)), NOW).unwrap();
        client_model.applied(ID, Index(2), &put(2, "b"), Some(&done(2, false)), NOW).unwrap();
        client_model.asked(key(3), Index(2), Instant::ZERO);
        let read = Command { key: key(3), operation: Operation::Get { key: b"k" } }.encode();
        let value = |text: &str| Outcome::Value(Some(Bytes::copy_from_slice(text.as_bytes())));
        client_model.answered_read(ID, key(3), &read, &value("b"), Index(2), NOW).unwrap();
        assert!(client_model.answered_read(ID, key(3), &read, &value("a"), Index(2), NOW).is_err());
        let stale =
            client_model.answered_read(ID, key(3), &read, &value("a"), Index(1), NOW).unwrap_err();
        assert!(stale.0.starts_with("C1"), "{stale}");
    }

    #[test]
    fn a_refused_attempt_has_no_effect() {
        let mut client_model = asked(&[1, 2, 2]);
        client_model.refused(ID, key(1)).unwrap();
        client_model.refused(ID, key(2)).unwrap();
        client_model.applied(ID, Index(1), &put(2, "b"), Some(&done(2, false)), NOW).unwrap();
        assert!(
            client_model.applied(ID, Index(2), &put(1, "a"), Some(&done(1, false)), NOW).is_err()
        );
        assert!(client_model.refused(ID, key(2)).is_err());
    }

    #[test]
    fn transfers_keep_the_sum() {
        let mut client_model = asked(&[1, 2]);
        let account = |number: u8, name: &'static [u8], value: &'static [u8]| {
            let operation = Operation::Put { key: name, value };
            Command { key: key(number), operation }.encode()
        };
        client_model
            .applied(ID, Index(1), &account(1, b"a", b"70"), Some(&done(1, false)), NOW)
            .unwrap();
        client_model
            .applied(ID, Index(2), &account(2, b"b", b"30"), Some(&done(2, false)), NOW)
            .unwrap();
        for (number, amount, moved) in [(3, 60, true), (4, 11, false)] {
            client_model.asked(key(number), Index(2), Instant::ZERO);
            let operation = Operation::Transfer { from: b"a", to: b"b", amount };
            let payload = Command { key: key(number), operation }.encode();
            let outcome = Outcome::Transferred(moved);
            let applied = Applied { key: key(number), outcome, repeated: false };
            client_model
                .applied(ID, Index(u64::from(number)), &payload, Some(&applied), NOW)
                .unwrap();
        }
        assert_eq!(client_model.sum(|key| key != b"c"), 100);
        assert_eq!(client_model.sum(|key| key == b"a"), 10);
    }
}
