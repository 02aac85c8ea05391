//! Commands on keys with values of any type.

use bytes::Bytes;

use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::row::{
    ALL_KEYS, Answer, NO_KEYS, ONE_KEY, Row, Scale, TWO_KEYS, read, write,
};
use crate::kv::keyspace::Keyspace;
use crate::kv::keyspace::databases::DatabaseId;
use crate::kv::keyspace::entry::KeyEntry;
use crate::kv::keyspace::slot::slot_of;
use crate::kv::values::encoding::EncodingLimits;
use crate::kv::values::number::parse_integer;

/// The generic commands of the state machine: number, name, key positions and function of each.
/// Append new commands at the end with the next number, because log entries contain the numbers.
pub(in crate::kv) const COMMANDS: &[Row] = &[
    read(0, "type", ONE_KEY, kind),
    read(1, "randomkey", NO_KEYS, random_key),
    read(2, "memory|usage", ONE_KEY, memory_usage),
    write(3, "rename", TWO_KEYS, rename),
    write(4, "renamenx", TWO_KEYS, renamenx),
    write(5, "copy", TWO_KEYS, copy),
    read(6, "object|encoding", ONE_KEY, encoding),
    read(7, "object|refcount", ONE_KEY, refcount),
    read(8, "object|idletime", ONE_KEY, idletime),
    read(9, "object|freq", ONE_KEY, freq),
    write(10, "del", ALL_KEYS, del),
    read(11, "exists", ALL_KEYS, exists),
    read(12, "dbsize", NO_KEYS, dbsize),
    write(13, "flushall", NO_KEYS, flushall),
    read(14, "cluster|countkeysinslot", NO_KEYS, count_keys_in_slot).per(Scale::Keyspace),
    read(15, "object|revision", ONE_KEY, revision),
];

/// Runs `DEL key [key ...]` and `UNLINK`, which are the same command here: removes keys. The time
/// does not depend on the size of their values, which are freed in the background.
#[allow(clippy::unnecessary_wraps, reason = "the signature of all commands")]
fn del(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    Ok(Outcome::count(args.all().iter().filter(|key| keyspace.delete(key)).count()))
}

/// Runs `EXISTS key [key ...]` and `TOUCH`: returns how many of the keys exist. A key that is given
/// twice counts twice.
#[allow(clippy::unnecessary_wraps, reason = "the signature of all commands")]
fn exists(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    Ok(Outcome::count(args.all().iter().filter(|key| keyspace.entry(key).is_some()).count()))
}

/// Runs `DBSIZE`: returns the number of keys, including keys that have expired but have not been
/// removed yet.
#[allow(clippy::unnecessary_wraps, reason = "the signature of all commands")]
fn dbsize(keyspace: &Keyspace, _args: &Args<'_>) -> Answer {
    Ok(Outcome::count(keyspace.len()))
}

/// Runs `FLUSHALL [ASYNC | SYNC]`: removes all keys of all databases. The option has no effect.
/// `FLUSHDB` of version 0.1, which has only database 0, is the same command.
fn flushall(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    checked_flush_options(args)?;
    keyspace.clear_all();
    Ok(Outcome::Done)
}

/// Checks the options of `FLUSHALL` and `FLUSHDB`.
///
/// # Errors
/// If there is any other than `ASYNC` and `SYNC`, or more than one.
pub(super) fn checked_flush_options(args: &Args<'_>) -> Result<(), Refusal> {
    let is_known = |option: &[u8]| {
        option.eq_ignore_ascii_case(b"ASYNC") || option.eq_ignore_ascii_case(b"SYNC")
    };
    let are_valid = args.len() <= 1 && args.all().iter().all(|option| is_known(option));
    if are_valid { Ok(()) } else { Err(Refusal::Syntax) }
}

/// Runs `CLUSTER COUNTKEYSINSLOT slot`: returns the number of keys in a hash slot. O(n), because it
/// examines every key.
fn count_keys_in_slot(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let slot = args.integer(0)?;
    let is_in_slot = |entry: &&KeyEntry| i64::from(slot_of(entry.key())) == slot;
    Ok(Outcome::count(keyspace.entries().filter(is_in_slot).count()))
}

/// Runs `TYPE key`: returns the type of a key's value.
fn kind(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    Ok(Outcome::Type(keyspace.value_type(args.get(0)?)))
}

/// Runs `RANDOMKEY`: returns a random key. The random seed selects the key by the key's hash and
/// not by its position in a hash table, so that all replicas choose the same key.
#[allow(clippy::unnecessary_wraps, reason = "the signature of all commands")]
fn random_key(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let near = keyspace.any_table(args.seed, |entry| !keyspace.is_expired(entry));
    let next = near.min_by_key(|entry| entry.key_hash() ^ args.seed.rotate_left(32));
    Ok(Outcome::Value(next.map(KeyEntry::shared_key)))
}

/// Runs `MEMORY USAGE key [SAMPLES count]`: returns the approximate memory usage of a key with its
/// value, in bytes; null if the key does not exist. The number of samples has no effect, because
/// the usage of each value is known.
fn memory_usage(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    for option in args.rest(1).chunks(2) {
        let [name, value] = option else { return Err(Refusal::Syntax) };
        if !name.eq_ignore_ascii_case(b"SAMPLES") {
            return Err(Refusal::Syntax);
        }
        if parse_integer(value).ok_or(Refusal::NotAnInteger)? < 0 {
            return Err(Refusal::Syntax);
        }
    }
    let entry = keyspace.uncounted_entry(args.get(0)?);
    Ok(entry.map_or(Outcome::Value(None), |entry| Outcome::count(entry.memory())))
}

/// Runs `RENAME key newkey`: moves the value and the expiration time of a key to another key.
fn rename(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let (from, to) = (args.get(0)?, args.get(1)?);
    keyspace.entry(from).ok_or(Refusal::NoSuchKey)?;
    move_to(keyspace, from, to);
    Ok(Outcome::Done)
}

/// Runs `RENAMENX key newkey`: renames a key if no key with the new name exists.
fn renamenx(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let (from, to) = (args.get(0)?, args.get(1)?);
    keyspace.entry(from).ok_or(Refusal::NoSuchKey)?;
    let free = keyspace.entry(to).is_none();
    if free {
        move_to(keyspace, from, to);
    }
    Ok(Outcome::flag(free))
}

fn move_to(keyspace: &mut Keyspace, from: &[u8], to: &[u8]) {
    if from == to {
        return;
    }
    // As in Redis, the destination is a new key.
    keyspace.remove(to);
    keyspace.copy(from, to);
    keyspace.remove(from);
    keyspace.notify("rename_from", from);
    keyspace.notify("rename_to", to);
}

/// Runs `COPY source destination [DB 0] [REPLACE]`: copies a key with its value and expiration
/// time. It is the command of version 0.1, which has only database 0; `copydb` copies to others.
fn copy(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    copy_with_options(keyspace, args, |argument| match parse_database(argument)? {
        DatabaseId::FIRST => Ok(DatabaseId::FIRST),
        _ => Err(Outcome::error("ERR DB index is out of range")),
    })
}

/// Copies a key with its value and expiration time, as its options say. `database` parses the
/// number of a database.
pub(super) fn copy_with_options(
    keyspace: &mut Keyspace,
    args: &Args<'_>,
    database: impl Fn(&[u8]) -> Result<DatabaseId, Outcome>,
) -> Answer {
    let (from, to) = (args.get(0)?, args.get(1)?);
    let home = keyspace.database();
    let (mut replaces, mut target) = (false, home);
    let mut options = args.rest(2).iter();
    while let Some(option) = options.next() {
        if option.eq_ignore_ascii_case(b"REPLACE") {
            replaces = true;
        } else if option.eq_ignore_ascii_case(b"DB")
            && let Some(number) = options.next()
        {
            target = match database(number) {
                Ok(target) => target,
                Err(outcome) => return Ok(outcome),
            };
        } else {
            return Err(Refusal::Syntax);
        }
    }
    if from == to && target == home {
        return Err(Refusal::SameObject);
    }
    let is_free = || keyspace.within(target, |keyspace| keyspace.entry(to).is_none());
    let copies = keyspace.entry(from).is_some() && (replaces || is_free());
    if copies {
        keyspace.copy_to(from, (target, to));
        keyspace.within_mut(target, |keyspace| keyspace.notify("copy_to", to));
    }
    Ok(Outcome::flag(copies))
}

/// Parses the number of a database.
///
/// # Errors
/// If it is not the number of a database, with Redis's error.
pub(in crate::kv) fn parse_database(argument: &[u8]) -> Result<DatabaseId, Outcome> {
    let Some(number) = parse_integer(argument) else {
        return Err(Outcome::Refused(Refusal::NotAnInteger));
    };
    if i32::try_from(number).is_err() {
        return Err(Outcome::error(
            "ERR value is out of range, value must between -2147483648 and 2147483647",
        ));
    }
    DatabaseId::new(number).ok_or_else(|| Outcome::error("ERR DB index is out of range"))
}

/// Runs `OBJECT ENCODING key`: returns the name of the encoding that Redis would use for the value
/// if it were newly created. The server may add [`EncodingLimits`] as a second argument; without,
/// the limits are Redis's defaults.
fn encoding(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let entry = keyspace.entry_without_event(args.get(0)?);
    let limits = args.get(1).ok().and_then(EncodingLimits::from_bytes);
    let name = entry.map(|entry| match (limits, entry.collection()) {
        (Some(limits), Some(collection)) => limits.encoding_of(collection),
        _ => entry.encoding(),
    });
    Ok(Outcome::Value(name.map(|name| Bytes::from_static(name.as_bytes()))))
}

/// Runs `OBJECT REVISION key`: returns the sequence number of the operation that last changed the
/// key; null if the key does not exist.
fn revision(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let entry = keyspace.entry_without_event(args.get(0)?);
    let revision = entry.map(|entry| keyspace.revision_of_entry(entry));
    let integer = |revision: u64| Outcome::Integer(revision.cast_signed());
    Ok(revision.map_or(Outcome::Value(None), integer))
}

/// Runs `OBJECT REFCOUNT key`: returns 2^31 - 1 for strings that are integers from 0 to 9999, which
/// Redis shares between keys, and 1 for all other values.
fn refcount(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let Some(entry) = keyspace.entry_without_event(args.get(0)?) else {
        return Ok(Outcome::Value(None));
    };
    let number = entry.string().short().and_then(parse_integer);
    let shared = number.is_some_and(|number| (0..10_000).contains(&number));
    Ok(Outcome::Integer(if shared { i32::MAX.into() } else { 1 }))
}

/// Runs `OBJECT IDLETIME key`: returns 0 for every existing key, because access times are not
/// recorded.
fn idletime(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let is_there = keyspace.entry_without_event(args.get(0)?).is_some();
    Ok(if is_there { Outcome::Integer(0) } else { Outcome::Value(None) })
}

/// Runs `OBJECT FREQ key`: returns an error for every existing key, because access frequencies are
/// not recorded. Redis returns the same error if no LFU policy is selected.
fn freq(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    if keyspace.entry_without_event(args.get(0)?).is_none() {
        return Ok(Outcome::Value(None));
    }
    Ok(Outcome::error(
        "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note \
         that when switching between policies at runtime LRU and LFU data will take some time to \
         adjust.",
    ))
}
