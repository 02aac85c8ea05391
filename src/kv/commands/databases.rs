//! Commands on databases: those that name another database than that of the connection, and those
//! on all keys of one.

use crate::feature_level::FeatureLevel;
use crate::kv::commands::args::Args;
use crate::kv::commands::generic::{checked_flush_options, copy_with_options, parse_database};
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::row::{Answer, NO_KEYS, ONE_KEY, Row, TWO_KEYS, write};
use crate::kv::keyspace::Keyspace;
use crate::kv::keyspace::databases::DatabaseId;
use crate::kv::values::number::parse_integer;

/// The commands on databases: number, name, key positions and function of each. Append new commands
/// at the end with the next number, because log entries contain the numbers.
pub(in crate::kv) const COMMANDS: &[Row] = &[
    write(400, "move", ONE_KEY, move_key).since(FeatureLevel::V0_2),
    write(401, "swapdb", NO_KEYS, swap).since(FeatureLevel::V0_2),
    write(402, "flushdb", NO_KEYS, flush).since(FeatureLevel::V0_2),
    write(403, "copydb", TWO_KEYS, copy).since(FeatureLevel::V0_2),
];

/// Runs `MOVE key db`: moves a key with its value and its expiration time to another database,
/// unless that has the key.
fn move_key(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let (key, home) = (args.get(0)?, keyspace.database());
    let other = match parse_database(args.get(1)?) {
        Ok(other) => other,
        Err(outcome) => return Ok(outcome),
    };
    if other == home {
        return Err(Refusal::SameObject);
    }
    let moves = keyspace.entry(key).is_some()
        && keyspace.within(other, |keyspace| keyspace.entry(key).is_none());
    if moves {
        keyspace.copy_to(key, (other, key));
        keyspace.remove(key);
        keyspace.notify("move_from", key);
        keyspace.within_mut(other, |keyspace| keyspace.notify("move_to", key));
    }
    Ok(Outcome::flag(moves))
}

/// Runs `SWAPDB index1 index2`: exchanges the keys of two databases. The time does not depend on
/// their number.
fn swap(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let mut ids = [DatabaseId::FIRST; 2];
    for (position, which) in ["first", "second"].into_iter().enumerate() {
        let number = parse_integer(args.get(position)?);
        if number.is_none_or(|number| i32::try_from(number).is_err()) {
            return Ok(Outcome::error(format!("ERR invalid {which} DB index")));
        }
    }
    for (position, id) in ids.iter_mut().enumerate() {
        match parse_database(args.get(position)?) {
            Ok(found) => *id = found,
            Err(outcome) => return Ok(outcome),
        }
    }
    keyspace.swap_databases(ids[0], ids[1]);
    Ok(Outcome::Done)
}

/// Runs `FLUSHDB [ASYNC | SYNC]`: removes all keys of the database. The option has no effect.
fn flush(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    checked_flush_options(args)?;
    keyspace.clear();
    Ok(Outcome::Done)
}

/// Runs `COPY source destination DB number [REPLACE]`: copies a key to a database.
fn copy(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    copy_with_options(keyspace, args, parse_database)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::kv::commands::registry::CommandId;
    use crate::kv::keyspace::events::{Event, RecordedEvents};
    use crate::kv::operation::Operation;
    use crate::kv::state_machine::tests::Feeder;

    fn id(number: u8) -> DatabaseId {
        DatabaseId::new(number).unwrap()
    }

    fn call(feeder: &mut Feeder, database: u8, line: &str) -> Outcome {
        let mut words = line.split(' ');
        let command = CommandId::of(words.next().unwrap());
        let args: Vec<&[u8]> = words.map(str::as_bytes).collect();
        feeder.apply(Operation::call(command, &args[..]).in_database(id(database)))
    }

    fn value(text: &'static str) -> Outcome {
        Outcome::Value(Some(Bytes::from_static(text.as_bytes())))
    }

    #[test]
    fn each_database_has_its_own_keys() {
        let mut feeder = Feeder::new();
        call(&mut feeder, 0, "set k zero");
        call(&mut feeder, 3, "set k three");
        call(&mut feeder, 3, "set l three");
        assert_eq!(call(&mut feeder, 0, "get k"), value("zero"));
        assert_eq!(call(&mut feeder, 3, "get k"), value("three"));
        assert_eq!(call(&mut feeder, 4, "get k"), Outcome::Value(None));
        for (database, count) in [(0, 1), (3, 2), (4, 0)] {
            assert_eq!(call(&mut feeder, database, "dbsize"), Outcome::Integer(count));
        }
        assert_eq!(call(&mut feeder, 4, "randomkey"), Outcome::Value(None));
        assert_eq!(call(&mut feeder, 4, "keys *"), Outcome::Values(vec![]));
        assert_eq!(call(&mut feeder, 3, "flushdb"), Outcome::Done);
        assert_eq!(
            (call(&mut feeder, 3, "dbsize"), feeder.store.key_count()),
            (Outcome::Integer(0), 1)
        );
        call(&mut feeder, 9, "set k nine");
        assert_eq!(call(&mut feeder, 5, "flushall"), Outcome::Done);
        assert_eq!(feeder.store.key_count(), 0);
        feeder.store.check_sums();
    }

    #[test]
    fn move_takes_the_value_and_the_expiration_along() {
        let mut feeder = Feeder::new();
        feeder.store.listen(RecordedEvents { keys: true, ..RecordedEvents::default() });
        call(&mut feeder, 0, "set k v PXAT 500");
        call(&mut feeder, 0, "set both v");
        call(&mut feeder, 2, "set both w");
        feeder.store.take_events();
        assert_eq!(call(&mut feeder, 0, "move k 2"), Outcome::Integer(1));
        let events = feeder.store.take_events().into_iter().map(|event| match event {
            Event::Key { name, database, .. } => (name, database.number()),
            Event::Message { .. } => panic!("no message was published"),
        });
        assert_eq!(events.collect::<Vec<_>>(), [("new", 2), ("move_from", 0), ("move_to", 2)]);
        assert_eq!(call(&mut feeder, 2, "pexpiretime k"), Outcome::Integer(500));
        assert_eq!(call(&mut feeder, 0, "exists k"), Outcome::Integer(0));
        assert_eq!(call(&mut feeder, 0, "move k 2"), Outcome::Integer(0), "it does not exist");
        assert_eq!(call(&mut feeder, 0, "move both 2"), Outcome::Integer(0), "it exists there");
        assert_eq!(call(&mut feeder, 2, "move k 2"), Outcome::Refused(Refusal::SameObject));
        assert_eq!(
            call(&mut feeder, 2, "move k 16"),
            Outcome::error("ERR DB index is out of range")
        );
        feeder.apply(Operation::Clock { millis: 500, resets: 0 });
        assert_eq!(call(&mut feeder, 2, "exists k both"), Outcome::Integer(1));
        feeder.store.check_sums();
    }

    #[test]
    fn copy_to_a_database_replaces_only_if_asked() {
        let mut feeder = Feeder::new();
        call(&mut feeder, 1, "rpush l a b");
        assert_eq!(call(&mut feeder, 1, "copydb l l DB 5"), Outcome::Integer(1));
        call(&mut feeder, 1, "rpush l c");
        assert_eq!(call(&mut feeder, 5, "llen l"), Outcome::Integer(2));
        assert_eq!(call(&mut feeder, 1, "copydb l l DB 5"), Outcome::Integer(0));
        assert_eq!(call(&mut feeder, 1, "copydb l l REPLACE DB 5"), Outcome::Integer(1));
        assert_eq!(call(&mut feeder, 5, "llen l"), Outcome::Integer(3));
        assert_eq!(call(&mut feeder, 1, "copydb l l DB 1"), Outcome::Refused(Refusal::SameObject));
        // The command of version 0.1, whose log entries replicas of this version apply as well.
        let refused = Outcome::error("ERR DB index is out of range");
        assert_eq!(call(&mut feeder, 0, "copy l l DB 5"), refused);
        feeder.store.check_sums();
    }

    #[test]
    fn swap_and_its_arguments_are_those_of_redis() {
        let mut feeder = Feeder::new();
        call(&mut feeder, 0, "set k v");
        assert_eq!(call(&mut feeder, 9, "swapdb 0 15"), Outcome::Done);
        assert_eq!(call(&mut feeder, 15, "get k"), value("v"));
        assert_eq!(call(&mut feeder, 0, "swapdb 15 15"), Outcome::Done);
        for (args, error) in [
            ("x 16", "ERR invalid first DB index"),
            ("16 x", "ERR invalid second DB index"),
            ("99999999999 0", "ERR invalid first DB index"),
            ("0 16", "ERR DB index is out of range"),
            ("-1 0", "ERR DB index is out of range"),
        ] {
            assert_eq!(call(&mut feeder, 0, &format!("swapdb {args}")), Outcome::error(error));
        }
        assert_eq!(call(&mut feeder, 15, "get k"), value("v"));
    }
}
