//! Several operations at one moment, and what keys are watched by.

use bytes::Bytes;

use crate::kv::command::Operation;
use crate::kv::commands::args::Args;
use crate::kv::commands::items::Items;
use crate::kv::commands::outcome::Outcome;
use crate::kv::commands::registry::{Answer, Row, Run};
use crate::kv::state_machine::StateMachine;
use crate::kv::values::digest::mix;

pub(super) const COMMANDS: Row =
    &[("revisions", Run::Read(revisions)), ("refuse", Run::Write(refuse))];

impl StateMachine {
    /// Does one operation after another, if the keys that were watched are as they were.
    pub(super) fn transact(
        &mut self,
        watched: Items<'_>,
        operations: Items<'_>,
        seed: u64,
    ) -> Outcome {
        if !self.are_as_they_were(watched) {
            return Outcome::NoList;
        }
        let run = |(place, bytes): (u64, _)| {
            let operation = Operation::decode(bytes).expect("it was looked at as a whole");
            let seed = mix(seed, place);
            self.answer(&operation, seed).unwrap_or_else(|| self.perform(&operation, seed))
        };
        Outcome::List((0..).zip(operations.iter()).map(run).collect())
    }

    /// The same for operations that are all reads; `None` if one is not.
    pub(super) fn read_together(
        &self,
        watched: Items<'_>,
        operations: Items<'_>,
        seed: u64,
    ) -> Option<Outcome> {
        let read = |(place, bytes): (u64, _)| {
            let operation = Operation::decode(bytes).expect("it was looked at as a whole");
            self.answer(&operation, mix(seed, place))
        };
        let outcomes: Option<Vec<Outcome>> = (0..).zip(operations.iter()).map(read).collect();
        let outcomes = outcomes?;
        Some(if self.are_as_they_were(watched) { Outcome::List(outcomes) } else { Outcome::NoList })
    }

    fn are_as_they_were(&self, watched: Items<'_>) -> bool {
        watched
            .pairs()
            .all(|(key, revision)| revision == self.revision(key).to_le_bytes().as_slice())
    }
}

/// Of each key: which entry changed it last, 0 if there is no such key. Asked by doors, for
/// `WATCH`; clients have no command for it.
#[allow(clippy::unnecessary_wraps, reason = "as all verbs")]
fn revisions(store: &StateMachine, words: &Args<'_>) -> Answer {
    let revision = |key: &&[u8]| {
        let index = store.revision(key);
        Outcome::Integer(i64::try_from(index).expect("no log has so many entries"))
    };
    Ok(Outcome::List(words.rest(0).iter().map(revision).collect()))
}

/// Gives the error that it is told, for what must be answered under a number and can't be done.
/// Said by doors; clients have no command for it.
fn refuse(_store: &mut StateMachine, words: &Args<'_>) -> Answer {
    Ok(Outcome::Error(Bytes::copy_from_slice(words.get(0)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::command::{Command, CommandError};
    use crate::kv::commands::items::ItemsBuffer;
    use crate::kv::state_machine::tests::Feeder;
    use crate::types::RequestKey;

    /// Keys and their revisions.
    fn watched(feeder: &mut Feeder, keys: &[&str]) -> ItemsBuffer {
        let Outcome::List(revisions) = feeder.call("revisions", keys) else { panic!("no list") };
        let mut watched = ItemsBuffer::default();
        for (key, revision) in keys.iter().zip(revisions) {
            let Outcome::Integer(revision) = revision else { panic!("{revision:?}") };
            watched.push(key.as_bytes());
            watched.push(&revision.to_le_bytes());
        }
        watched
    }

    fn list(operations: &[Operation<'_>]) -> ItemsBuffer {
        let mut list = ItemsBuffer::default();
        for operation in operations {
            list.push(&operation.encode());
        }
        list
    }

    #[test]
    fn a_transaction_is_done_whole_if_what_was_watched_is_as_it_was() {
        let mut feeder = Feeder::new();
        feeder.apply(Operation::Put { key: b"a", value: b"1" });
        let operations = list(&[
            Operation::Add { key: b"a", amount: 1 },
            Operation::Add { key: b"b", amount: 2 },
            Operation::Get { key: b"a" },
        ]);
        let transact = |feeder: &mut Feeder, watched: &ItemsBuffer| {
            let (watched, operations) = (watched.items(), operations.items());
            feeder.apply(Operation::Transaction { watched, operations })
        };
        let before = watched(&mut feeder, &["a", "b"]);
        let outcomes = Outcome::List(vec![
            Outcome::Integer(2),
            Outcome::Integer(2),
            Outcome::Value(Some(Bytes::from_static(b"2"))),
        ]);
        assert_eq!(transact(&mut feeder, &before), outcomes);
        assert_eq!(transact(&mut feeder, &before), Outcome::NoList, "both have changed");
        let only_a = watched(&mut feeder, &["a"]);
        let other = watched(&mut feeder, &["other"]);
        assert_ne!(transact(&mut feeder, &other), Outcome::NoList, "nobody made it");
        assert_eq!(transact(&mut feeder, &only_a), Outcome::NoList);
        assert_eq!(feeder.get(b"b").as_deref(), Some(&b"4"[..]));
    }

    #[test]
    fn a_watched_key_that_ends_or_is_to_end_has_changed() {
        let mut feeder = Feeder::new();
        feeder.apply(Operation::Put { key: b"k", value: b"v" });
        let none = ItemsBuffer::default();
        let holds = |feeder: &mut Feeder, watched: &ItemsBuffer| {
            let (watched, operations) = (watched.items(), none.items());
            feeder.apply(Operation::Transaction { watched, operations }) != Outcome::NoList
        };
        let before = watched(&mut feeder, &["k"]);
        assert!(holds(&mut feeder, &before));
        feeder.call("pexpire", &["k", "100"]);
        assert!(!holds(&mut feeder, &before));
        let before = watched(&mut feeder, &["k"]);
        feeder.apply(Operation::Clock { millis: 99, resets: 0 });
        assert!(holds(&mut feeder, &before));
        feeder.apply(Operation::Clock { millis: 100, resets: 0 });
        assert!(!holds(&mut feeder, &before));
        let gone = watched(&mut feeder, &["k"]);
        assert!(holds(&mut feeder, &gone));
    }

    #[test]
    fn reads_together_need_no_entry() {
        let mut feeder = Feeder::new();
        feeder.apply(Operation::Put { key: b"a", value: b"1" });
        let before = watched(&mut feeder, &["a"]);
        let reads = list(&[Operation::Get { key: b"a" }, Operation::Count]);
        let ask = |feeder: &Feeder, watched: &ItemsBuffer, operations: &ItemsBuffer| {
            let (watched, operations) = (watched.items(), operations.items());
            let operation = Operation::Transaction { watched, operations };
            let command = Command { key: RequestKey::default(), operation };
            assert_eq!(
                operation.is_read(),
                feeder.store.read(&command.encode()) != Err(CommandError::NotARead)
            );
            feeder.store.read(&command.encode()).map(|(_, outcome)| outcome)
        };
        let both = vec![Outcome::Value(Some(Bytes::from_static(b"1"))), Outcome::Integer(1)];
        assert_eq!(ask(&feeder, &before, &reads), Ok(Outcome::List(both)));
        let writes = list(&[Operation::Get { key: b"a" }, Operation::Clear]);
        assert_eq!(ask(&feeder, &before, &writes), Err(CommandError::NotARead));
        feeder.apply(Operation::Put { key: b"a", value: b"1" });
        assert_eq!(ask(&feeder, &before, &reads), Ok(Outcome::NoList));
    }

    #[test]
    fn what_is_refused_in_a_transaction_leaves_the_rest_done() {
        let mut feeder = Feeder::new();
        feeder.apply(Operation::Put { key: b"text", value: b"x" });
        let none = ItemsBuffer::default();
        let operations = list(&[
            Operation::Add { key: b"n", amount: 1 },
            Operation::Add { key: b"text", amount: 1 },
            Operation::Add { key: b"n", amount: 1 },
        ]);
        let (watched, operations) = (none.items(), operations.items());
        let outcome = feeder.apply(Operation::Transaction { watched, operations });
        let Outcome::List(outcomes) = outcome else { panic!("{outcome:?}") };
        assert!(matches!(outcomes[1], Outcome::Refused(_)));
        assert_eq!(outcomes[2], Outcome::Integer(2));
    }
}
