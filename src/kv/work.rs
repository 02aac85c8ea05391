//! Prepares operations before they run: prefetches their entries, and estimates their running time.

use crate::kv::batch::{GROUP_MAX, Group};
use crate::kv::commands::items::Arguments;
use crate::kv::commands::registry::CommandId;
use crate::kv::commands::row::{ONE_KEY, Scale};
use crate::kv::commands::sets::REPEATED_MAX;
use crate::kv::keyspace::Keyspace;
use crate::kv::keyspace::databases::DatabaseId;
use crate::kv::keyspace::entry::KeyEntry;
use crate::kv::operation::Operation;
use crate::kv::values::digest::key_hash;
use crate::kv::values::number::parse_integer;

/// Number of steps for each argument: about the time to add a new member to a large set.
const STEPS_PER_ARGUMENT: u64 = 4;
/// Number of bytes of arguments and of values that count as one step: about one element of a
/// collection.
const BYTES_PER_STEP: u64 = 64;

/// Number of steps to sort an element of a collection, in addition to one to go through it.
const STEPS_PER_SORTED: u64 = 10;

/// Maximum number of keys of one operation, after its first key, whose entries are prefetched. More
/// might evict each other from the processor's cache.
const OTHER_KEYS_MAX: usize = 64;

/// Loads the keyspace entries that the operations of `group` will access into the processor's
/// cache, so that their cache misses overlap. Does not change the state. Returns the entry of each
/// operation's first key, if it has one.
pub(super) fn prefetch<'k>(
    keyspace: &'k Keyspace,
    group: &Group<'_>,
) -> [Option<&'k KeyEntry>; GROUP_MAX] {
    // Short loops, so that out-of-order execution overlaps several iterations.
    let mut keys = [None; GROUP_MAX];
    for (key, operation) in keys.iter_mut().zip(group.operations()) {
        *key = operation.as_ref().and_then(first_key_hash);
    }
    let mut entries = [None; GROUP_MAX];
    for (entry, key) in entries.iter_mut().zip(keys) {
        *entry = key.and_then(|(database, hash)| find(keyspace, database, hash));
    }
    entries.iter().flatten().for_each(|entry| entry.fetch());
    for (entry, operation) in entries.iter().zip(group.operations()) {
        let Some(Operation::Call { command, args, database }) = operation else { continue };
        if let Some(step) = command.keys().step_to_end() {
            prefetch_keys(keyspace, *database, args.iter().step_by(step).skip(1));
        } else if let Some(entry) = entry
            && let Some(collection) = entry.collection()
        {
            let mut args = args.iter().skip(1);
            if let Some(first) = args.next() {
                collection.fetch_element(first, args.next());
            }
        }
    }
    entries
}

/// Loads the entries of the keys that an operation has after its first key, at most
/// [`OTHER_KEYS_MAX`].
fn prefetch_keys<'a>(
    keyspace: &Keyspace,
    database: DatabaseId,
    keys: impl Iterator<Item = &'a [u8]>,
) {
    let mut keys = keys.take(OTHER_KEYS_MAX);
    loop {
        let mut entries = [None; GROUP_MAX];
        let slots = entries.iter_mut().zip(keys.by_ref());
        let find = |key| find(keyspace, database, key_hash(key));
        let count = slots.map(|(entry, key)| *entry = find(key)).count();
        entries.iter().flatten().for_each(|entry| entry.fetch());
        if count < GROUP_MAX {
            return;
        }
    }
}

/// Prefetches like [`prefetch`]. Returns an estimate of the time that the operations will take, in
/// steps of about 50 ns: [`STEPS_PER_ARGUMENT`] for each argument, one for each [`BYTES_PER_STEP`]
/// of their arguments and of the values that they go through, and one for each key if they go
/// through all keys.
pub(super) fn estimate(keyspace: &Keyspace, group: &Group<'_>) -> u64 {
    let operations = group.operations().iter().zip(prefetch(keyspace, group));
    let steps = operations.map(|(operation, first)| {
        operation.as_ref().map_or(0, |operation| steps(keyspace, operation, first))
    });
    steps.fold(0, u64::saturating_add)
}

/// Returns the hash of the first key of a command, with its database; `None` if its first argument
/// is not a key.
fn first_key_hash(operation: &Operation<'_>) -> Option<(DatabaseId, u64)> {
    match operation {
        Operation::Call { command, args, database } if command.keys().starts_at_first() => {
            args.first().map(|key| (*database, key_hash(key)))
        }
        _ => None,
    }
}

/// Returns the entry of a database whose key has this hash. With very high probability the first
/// entry with this hash is the right one.
fn find(keyspace: &Keyspace, database: DatabaseId, hash: u64) -> Option<&KeyEntry> {
    keyspace.entry_with_hash(database, hash)
}

/// Returns the estimate of [`estimate`] for one call of a command.
pub(super) fn steps_of_call(keyspace: &Keyspace, operation: &Operation<'_>) -> u64 {
    let first = first_key_hash(operation).and_then(|(id, hash)| find(keyspace, id, hash));
    steps(keyspace, operation, first)
}

/// Returns the estimate of [`estimate`] for one operation. `first` is the entry of the command's
/// first key, if it has one.
fn steps(keyspace: &Keyspace, operation: &Operation<'_>, first: Option<&KeyEntry>) -> u64 {
    let nested = |bytes| {
        let Ok(operation) = Operation::decode_nested(bytes) else { return 0 };
        let first = first_key_hash(&operation).and_then(|(id, hash)| find(keyspace, id, hash));
        steps(keyspace, &operation, first)
    };
    let (command, args, database) = match operation {
        Operation::Call { command, args, database } => (*command, *args, *database),
        Operation::Once { operation, .. } => return nested(operation),
        Operation::Transaction { operations, .. } | Operation::Effects { operations, .. } => {
            return operations.iter().map(nested).fold(0, u64::saturating_add);
        }
        Operation::Clock { .. }
        | Operation::OpenSession
        | Operation::ResetClock { .. }
        | Operation::DigestMark
        | Operation::DigestReport { .. } => return 0,
    };
    keyspace.within(database, |keyspace| steps_within(keyspace, command, args, first))
}

/// Returns the estimate of [`estimate`] for a call of a command in the selected database.
fn steps_within(
    keyspace: &Keyspace,
    command: CommandId,
    args: Arguments<'_>,
    first: Option<&KeyEntry>,
) -> u64 {
    let of_value = |entry: &KeyEntry| steps_of(entry.value_bytes());
    let values = match command.scale() {
        Scale::Arguments => 0,
        Scale::Count => sum_of_keys(keyspace, command, args, first, |found| {
            counted_steps(args, of_value(found))
        }),
        Scale::Values => sum_of_keys(keyspace, command, args, first, of_value),
        Scale::OptionalCount => {
            let count = optional_count(args);
            sum_of_keys(keyspace, command, args, first, |found| of_value(found).min(count))
        }
        Scale::Sort => first.map_or(0, |found| of_value(found) * (1 + STEPS_PER_SORTED)),
        Scale::Keyspace => keyspace.len() as u64,
    };
    let arguments = args.iter().count() as u64 * STEPS_PER_ARGUMENT + steps_of(args.encoded_len());
    values.saturating_add(arguments)
}

fn steps_of(bytes: usize) -> u64 {
    bytes as u64 / BYTES_PER_STEP
}

/// Returns the sum of `steps` over the entries of a command's keys. `first` is the entry of the
/// first key, if it exists. Allocates no memory if the command has only one key.
fn sum_of_keys(
    keyspace: &Keyspace,
    command: CommandId,
    args: Arguments<'_>,
    first: Option<&KeyEntry>,
    steps: impl Fn(&KeyEntry) -> u64,
) -> u64 {
    let is_single = command.keys().starts_at_first() && args.iter().nth(1).is_none();
    if command.keys() == ONE_KEY || is_single {
        return first.map_or(0, steps);
    }
    let keys = command.keys_in(args).unwrap_or_default().into_iter();
    let entries = keys.filter_map(|key| find(keyspace, keyspace.database(), key_hash(key)));
    entries.map(steps).fold(0, u64::saturating_add)
}

/// Returns the number of steps of a command that returns or removes a number of elements, from a
/// value of `value_steps` steps. The number is the largest integer among the arguments after the
/// first; 0 if there is none. A negative number allows repetitions, and is not limited by the
/// value.
fn counted_steps(args: Arguments<'_>, value_steps: u64) -> u64 {
    let counts = args.iter().skip(1).filter_map(parse_integer);
    let steps = counts.map(|count| match u64::try_from(count) {
        Ok(count) => count.min(value_steps),
        Err(_) => count.unsigned_abs().min(REPEATED_MAX as u64),
    });
    steps.max().unwrap_or(0)
}

/// Returns the integer after the option `COUNT`; the maximum if the option is missing or is not
/// positive.
fn optional_count(args: Arguments<'_>) -> u64 {
    let is_count = |name: &[u8]| name.eq_ignore_ascii_case(b"COUNT");
    let mut args = args.iter().skip_while(|argument| !is_count(argument)).skip(1);
    let count = args.next().and_then(parse_integer).and_then(|count| u64::try_from(count).ok());
    count.filter(|count| *count > 0).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::batch::Batch;
    use crate::kv::commands::registry::CommandId;
    use crate::kv::state_machine::StateMachine;
    use crate::types::{EntryId, Index, RequestKey, Term};

    /// More than the steps of a command with few arguments.
    const SHORT: u64 = 40;

    fn call<'a>(name: &str, args: &'a [&'a [u8]]) -> Operation<'a> {
        Operation::call(CommandId::named(name).unwrap(), args)
    }

    fn apply(state: &mut StateMachine, operation: &Operation<'_>) {
        let key = RequestKey::default();
        state.apply_batch(&Batch::encode(key, false, &[*operation]));
    }

    fn estimate(state: &StateMachine, operation: &Operation<'_>) -> u64 {
        let bytes = Batch::one(RequestKey::default(), operation);
        let batch = Batch::decode(&bytes).unwrap();
        batch.groups_after(0).map(|group| state.estimate(&group)).sum()
    }

    /// A state with a set of 50,000 members, and the members.
    fn large_set() -> StateMachine {
        let mut state = StateMachine::default();
        let members: Vec<Vec<u8>> = (0..50_000_u32).map(|it| it.to_string().into_bytes()).collect();
        let mut args: Vec<&[u8]> = vec![b"set"];
        args.extend(members.iter().map(|member| &member[..]));
        let operation = call("sadd", &args);
        assert!(estimate(&state, &operation) > 200_000, "the arguments count");
        apply(&mut state, &operation);
        state
    }

    #[test]
    fn command_cost_estimate_is_high_for_scans_of_whole_collections() {
        let mut state = large_set();
        let all = estimate(&state, &call("smembers", &[b"set"]));
        assert!(all > 10_000, "{all}");
        assert!(estimate(&state, &call("smembers", &[b"none"])) < SHORT);
        let union = call("sunionstore", &[b"to", b"set", b"set", b"set"]);
        assert!(estimate(&state, &union) >= 3 * all);
        let (encoded, once) = (union.encode(), 5);
        let once = Operation::Once { session: 1, sequence: once, operation: &encoded };
        assert!(estimate(&state, &once) >= 3 * all);
        for short in [
            call("sismember", &[b"set", b"7"]),
            call("sadd", &[b"set", b"7"]),
            call("get", &[b"set"]),
            call("keys", &[b"*"]),
        ] {
            assert!(estimate(&state, &short) < SHORT, "{short:?}");
        }
        for number in 0..100_u8 {
            apply(&mut state, &Operation::set(&[number], b"v"));
        }
        assert!((101..101 + SHORT).contains(&estimate(&state, &call("keys", &[b"*"]))));
        apply(&mut state, &Operation::set(b"one", &[b'a'; 10_000]));
        assert!(estimate(&state, &call("bitcount", &[b"one"])) > 100);
    }

    #[test]
    fn command_cost_estimate_excludes_copy_on_write_of_a_collection() {
        let mut state = large_set();
        let _view = state.view(EntryId { term: Term(1), index: Index(1) });
        assert!(estimate(&state, &call("sadd", &[b"set", b"another"])) < SHORT);
        assert!(estimate(&state, &call("smove", &[b"set", b"other", b"7"])) < SHORT);
    }

    #[test]
    fn command_cost_estimate_of_a_list_push_excludes_a_list_copy() {
        let mut state = StateMachine::default();
        let elements: Vec<&[u8]> = std::iter::repeat_n(&[b'e'; 100][..], 20_000).collect();
        apply(&mut state, &call("rpush", &[&[&b"list"[..]], &elements[..]].concat()));
        assert!(estimate(&state, &call("lrange", &[b"list", b"0", b"-1"])) > 10_000);
        let _view = state.view(EntryId { term: Term(1), index: Index(1) });
        assert!(estimate(&state, &call("rpush", &[b"list", b"e"])) < SHORT);
    }

    #[test]
    fn removing_or_replacing_values_takes_constant_time() {
        let mut state = large_set();
        apply(&mut state, &Operation::set(b"k", &vec![b'a'; 1 << 20]));
        for short in [
            call("set", &[b"set", b"v"]),
            call("setex", &[b"set", b"9", b"v"]),
            call("mset", &[b"set", b"v", b"k", b"v"]),
            call("rename", &[b"k", b"set"]),
            call("copy", &[b"k", b"set", b"replace"]),
            call("del", &[b"set", b"k"]),
            call("getdel", &[b"k"]),
            call("flushall", &[]),
        ] {
            assert!(estimate(&state, &short) < SHORT, "{short:?}");
        }
    }

    #[test]
    fn command_cost_estimate_grows_with_the_count_argument() {
        let state = large_set();
        let steps = |name, args: &[&[u8]]| estimate(&state, &call(name, args));
        let all = steps("smembers", &[b"set"]);
        for name in ["spop", "srandmember", "zpopmin", "zpopmax", "lpop", "rpop", "hrandfield"] {
            assert!(steps(name, &[b"set"]) < SHORT, "{name}");
            assert!((1_000..1_000 + SHORT).contains(&steps(name, &[b"set", b"1000"])), "{name}");
            assert!((all..all + SHORT).contains(&steps(name, &[b"set", b"9999999"])), "{name}");
        }
        for (name, end) in [("lmpop", b"LEFT"), ("zmpop", b"MIN_")] {
            let args: &[&[u8]] = &[b"2", b"none", b"set", end, b"COUNT", b"9999999"];
            assert!((all..all + SHORT).contains(&steps(name, args)), "{name}");
            assert!(steps(name, &args[..4]) < SHORT, "{name}");
        }
        assert!(steps("srandmember", &[b"set", b"-1000000"]) >= 1_000_000, "with repetitions");
        assert!(steps("zrandmember", &[b"none", b"-1000000"]) < SHORT);
    }
}
