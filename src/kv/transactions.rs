//! Transactions (`MULTI`/`EXEC`) and the effects of scripts: several calls that run atomically,
//! provided that no watched key has changed.

use crate::kv::commands::args::Args;
use crate::kv::commands::items::Items;
use crate::kv::commands::outcome::Outcome;
use crate::kv::commands::registry::CommandId;
use crate::kv::keyspace::Keyspace;
use crate::kv::keyspace::clock::ReplicatedClock;
use crate::kv::keyspace::databases::DatabaseId;
use crate::kv::operation::Operation;
use crate::kv::overlay::holds;
use crate::kv::values::digest::mix;
use crate::kv::watched::WatchedKey;

/// Maximum number of milliseconds by which the clock of a script's run may be ahead of the
/// replicated clock when the effects are applied: a replica that knows the clock from messages may
/// be a little ahead of the leader.
const AHEAD_MAX: u64 = 1_000;

/// Runs all commands of a transaction, unless a watched key has changed since the client sent
/// `WATCH`. The outcome is a `List` of the commands' outcomes, or `NoList` if a watched key has
/// changed.
pub(super) fn run(
    keyspace: &mut Keyspace,
    watched: Items<'_>,
    operations: Items<'_>,
    seed: u64,
) -> Outcome {
    if has_changed(keyspace, watched) {
        return Outcome::NoList;
    }
    let run = |Call { command, args, database }: Call<'_>| {
        keyspace.within_mut(database, |keyspace| command.run(keyspace, &args))
    };
    Outcome::List(calls(operations, seed).map(run).collect())
}

/// Applies the effects of a script, unless a condition on a key, or on the whole keyspace, does not
/// hold, or the replicated clock was set back since the script ran. The commands see the clock as
/// of the run, so that their results are those that the script has seen: ids of streams, for
/// example. The fields are those of [`Operation::Effects`]. The outcome is `Done`, or `NoList` if
/// nothing was applied.
pub(super) fn apply_effects(
    keyspace: &mut Keyspace,
    (seed, clock): (u64, ReplicatedClock),
    whole: u64,
    watched: Items<'_>,
    operations: Items<'_>,
) -> Outcome {
    let now = keyspace.replicated_clock();
    if whole != 0 && whole != keyspace.revision()
        || clock.resets != now.resets
        || clock.millis > now.millis + AHEAD_MAX
        || has_changed(keyspace, watched)
    {
        return Outcome::NoList;
    }
    keyspace.restore_clock(clock);
    for Call { command, args, database } in calls(operations, seed) {
        // The script has seen this outcome already.
        keyspace.within_mut(database, |keyspace| command.run(keyspace, &args));
    }
    keyspace.restore_clock(now);
    Outcome::Done
}

/// Runs a transaction of read-only commands, with the same outcome as [`run`]. Returns `None` if a
/// command of the transaction may change the state.
pub(super) fn read(
    keyspace: &Keyspace,
    watched: Items<'_>,
    operations: Items<'_>,
    seed: u64,
) -> Option<Outcome> {
    let read = |Call { command, args, database }: Call<'_>| {
        keyspace.within(database, |keyspace| command.read(keyspace, &args))
    };
    let outcomes: Vec<Outcome> = calls(operations, seed).map(read).collect::<Option<_>>()?;
    Some(if has_changed(keyspace, watched) { Outcome::NoList } else { Outcome::List(outcomes) })
}

/// A command of a transaction.
struct Call<'a> {
    command: CommandId,
    args: Args<'a>,
    database: DatabaseId,
}

/// Iterates over the commands of a transaction. Each command gets a different random seed, derived
/// from `seed`.
fn calls(operations: Items<'_>, seed: u64) -> impl Iterator<Item = Call<'_>> {
    (0..).zip(operations.iter()).map(move |(position, bytes)| call(bytes, mix(seed, position)))
}

fn call(bytes: &[u8], seed: u64) -> Call<'_> {
    match Operation::decode_nested(bytes) {
        Ok(Operation::Call { command, args, database }) => {
            Call { command, args: Args::new(args, seed), database }
        }
        other => unreachable!("decoding the transaction checked its calls, this is {other:?}"),
    }
}

/// Returns whether a watched key has changed: its revision (sequence number of the operation that
/// last changed it) differs from the revision at the time of `WATCH`. A read that checks a script
/// may also have a condition on the functions.
fn has_changed(keyspace: &Keyspace, watched: Items<'_>) -> bool {
    !WatchedKey::all_in(watched).all(|watched| holds(keyspace, &watched))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::kv::batch::{Batch, BatchError};
    use crate::kv::commands::items::ItemsBuffer;
    use crate::kv::state_machine::tests::Feeder;
    use crate::types::RequestKey;

    /// Returns the given keys, each followed by its current revision.
    fn watched(feeder: &mut Feeder, keys: &[&str]) -> ItemsBuffer {
        let Outcome::List(revisions) = feeder.call("revisions", keys) else { panic!("no list") };
        let mut watched = ItemsBuffer::default();
        for (key, revision) in keys.iter().zip(revisions) {
            let Outcome::Integer(revision) = revision else { panic!("{revision:?}") };
            let (key, number) = (key.as_bytes(), revision.cast_unsigned());
            WatchedKey { database: DatabaseId::FIRST, key, number }.push(&mut watched);
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
    fn transaction_runs_only_if_no_watched_key_has_changed() {
        let mut feeder = Feeder::new();
        feeder.apply(Operation::set(b"a", b"1"));
        let operations = list(&[
            Operation::call(CommandId::of("incrby"), [&b"a"[..], b"1"]),
            Operation::call(CommandId::of("incrby"), [&b"b"[..], b"2"]),
            Operation::get(b"a"),
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
        assert_ne!(transact(&mut feeder, &other), Outcome::NoList, "it does not exist");
        assert_eq!(transact(&mut feeder, &only_a), Outcome::NoList);
        assert_eq!(feeder.get(b"b").as_deref(), Some(&b"4"[..]));
    }

    #[test]
    fn transaction_watches_and_changes_several_databases() {
        let mut feeder = Feeder::new();
        let [one, two] = [1, 2].map(|number| DatabaseId::new(number).unwrap());
        let set = |value: &'static [u8]| Operation::set(b"k", value);
        feeder.apply(set(b"1").in_database(one));
        let watch = |feeder: &Feeder, database| {
            let revision = feeder.store.keyspace.within(database, |it| it.revision_of(b"k"));
            let mut watched = ItemsBuffer::default();
            WatchedKey { database, key: b"k", number: revision }.push(&mut watched);
            watched
        };
        let run = |feeder: &mut Feeder, watched: &ItemsBuffer| {
            let operations = list(&[
                set(b"a").in_database(two),
                Operation::get(b"k"),
                Operation::get(b"k").in_database(one),
            ]);
            let (watched, operations) = (watched.items(), operations.items());
            feeder.apply(Operation::Transaction { watched, operations })
        };
        let outcomes = Outcome::List(vec![
            Outcome::Done,
            Outcome::Value(None),
            Outcome::Value(Some(Bytes::from_static(b"1"))),
        ]);
        let before = watch(&feeder, one);
        assert_eq!(run(&mut feeder, &before), outcomes);
        // The same key of another database does not matter.
        feeder.apply(set(b"b").in_database(DatabaseId::new(3).unwrap()));
        assert_eq!(run(&mut feeder, &before), outcomes);
        let unchanged = watch(&feeder, two);
        feeder.apply(Operation::call(CommandId::of("swapdb"), [&b"1"[..], b"2"]));
        assert_eq!(run(&mut feeder, &before), Outcome::NoList);
        assert_eq!(run(&mut feeder, &unchanged), Outcome::NoList);
        feeder.store.check_sums();
    }

    #[test]
    fn expiration_of_a_watched_key_aborts_the_transaction() {
        let mut feeder = Feeder::new();
        feeder.apply(Operation::set(b"k", b"v"));
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
    fn read_only_transaction_is_served_without_a_log_entry() {
        let mut feeder = Feeder::new();
        feeder.apply(Operation::set(b"a", b"1"));
        let before = watched(&mut feeder, &["a"]);
        let reads = list(&[Operation::get(b"a"), Operation::call(CommandId::of("dbsize"), [])]);
        let ask = |feeder: &Feeder, watched: &ItemsBuffer, operations: &ItemsBuffer| {
            let (watched, operations) = (watched.items(), operations.items());
            let operation = Operation::Transaction { watched, operations };
            let batch = Batch::one(RequestKey::default(), &operation);
            let read = feeder.store.read(&batch);
            assert_eq!(operation.is_read(), read != Err(BatchError::NotARead));
            read.map(|(_, mut outcomes)| outcomes.remove(0))
        };
        let both = vec![Outcome::Value(Some(Bytes::from_static(b"1"))), Outcome::Integer(1)];
        assert_eq!(ask(&feeder, &before, &reads), Ok(Outcome::List(both)));
        let writes = list(&[Operation::get(b"a"), Operation::call(CommandId::of("flushall"), [])]);
        assert_eq!(ask(&feeder, &before, &writes), Err(BatchError::NotARead));
        feeder.apply(Operation::set(b"a", b"1"));
        assert_eq!(ask(&feeder, &before, &reads), Ok(Outcome::NoList));
    }

    #[test]
    fn failed_command_does_not_abort_the_transaction() {
        let mut feeder = Feeder::new();
        feeder.apply(Operation::set(b"text", b"x"));
        let none = ItemsBuffer::default();
        let operations = list(&[
            Operation::call(CommandId::of("incrby"), [&b"n"[..], b"1"]),
            Operation::call(CommandId::of("incrby"), [&b"text"[..], b"1"]),
            Operation::call(CommandId::of("incrby"), [&b"n"[..], b"1"]),
        ]);
        let (watched, operations) = (none.items(), operations.items());
        let outcome = feeder.apply(Operation::Transaction { watched, operations });
        let Outcome::List(outcomes) = outcome else { panic!("{outcome:?}") };
        assert!(matches!(outcomes[1], Outcome::Refused(_)));
        assert_eq!(outcomes[2], Outcome::Integer(2));
    }
}
