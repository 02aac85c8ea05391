//! What operations will cost: prefetching, and an estimate of their running time before they run.

use crate::kv::batch::{GROUP_MAX, Group};
use crate::kv::commands::row::{ONE_KEY, Scale};
use crate::kv::keyspace::Keyspace;
use crate::kv::keyspace::entry::KeyEntry;
use crate::kv::operation::Operation;
use crate::kv::values::digest::key_hash;

/// Number of bytes of arguments that count as one step. An element of a collection is at least as
/// long, with the length field that its encoding has.
const ARGUMENT_BYTES_PER_STEP: u64 = 16;
/// Number of bytes of values that count as one step: about one element of a collection.
const VALUE_BYTES_PER_STEP: u64 = 64;

/// Loads the keyspace entries that the operations of `group` will access into the processor's
/// cache, so that their cache misses overlap. Does not change the state.
///
/// Returns an estimate of the time that the operations will take, in steps of about 50 ns: one for
/// each [`ARGUMENT_BYTES_PER_STEP`] of their arguments, one for each [`VALUE_BYTES_PER_STEP`] of
/// the values that they go through or copy, and one for each key if they go through all keys.
pub(super) fn prepare(keyspace: &Keyspace, group: &Group<'_>) -> u64 {
    // Short loops, so that out-of-order execution overlaps several iterations.
    let mut hashes = [None; GROUP_MAX];
    for (hash, operation) in hashes.iter_mut().zip(group.operations()) {
        *hash = operation.as_ref().and_then(first_key_hash);
    }
    let mut entries = [None; GROUP_MAX];
    for (entry, hash) in entries.iter_mut().zip(hashes) {
        *entry = hash.and_then(|hash| find(keyspace, hash));
    }
    entries.iter().flatten().for_each(|(_, entry)| entry.fetch());
    let operations = group.operations().iter().zip(entries);
    let steps = operations.map(|(operation, first)| {
        operation.as_ref().map_or(0, |operation| steps(keyspace, operation, first))
    });
    steps.fold(0, u64::saturating_add)
}

/// Returns the hash of the first key of a command; `None` if its first argument is not a key.
fn first_key_hash(operation: &Operation<'_>) -> Option<u64> {
    match operation {
        Operation::Call { command, args } if command.keys().starts_at_first() => {
            args.first().map(key_hash)
        }
        _ => None,
    }
}

/// Returns the entry whose key has this hash, with the hash. With very high probability the first
/// entry with this hash is the right one.
fn find(keyspace: &Keyspace, hash: u64) -> Option<(u64, &KeyEntry)> {
    Some((hash, keyspace.entry_with_hash(hash)?))
}

/// Returns the estimate of [`prepare`] for one operation. `first` is the hash and the entry of the
/// command's first key, if it has one.
fn steps(keyspace: &Keyspace, operation: &Operation<'_>, first: Option<(u64, &KeyEntry)>) -> u64 {
    let nested = |bytes| {
        let Ok(operation) = Operation::decode_nested(bytes) else { return 0 };
        let first = first_key_hash(&operation).and_then(|hash| find(keyspace, hash));
        steps(keyspace, &operation, first)
    };
    let (command, args) = match operation {
        Operation::Call { command, args } => (*command, *args),
        Operation::Once { operation, .. } => return nested(operation),
        Operation::Transaction { operations, .. } => {
            return operations.iter().map(nested).fold(0, u64::saturating_add);
        }
        Operation::Clock { .. } | Operation::OpenSession | Operation::ResetClock { .. } => {
            return 0;
        }
    };
    let bytes_of = |entry: Option<&KeyEntry>| entry.map_or(0, KeyEntry::value_bytes) as u64;
    let values = match command.scale() {
        Scale::Arguments if command.is_read() => 0,
        Scale::Arguments => {
            let copied = first.filter(|(hash, entry)| keyspace.is_shared(*hash, entry));
            bytes_of(copied.map(|(_, entry)| entry)) / VALUE_BYTES_PER_STEP
        }
        Scale::Values if command.keys() == ONE_KEY => {
            bytes_of(first.map(|(_, entry)| entry)) / VALUE_BYTES_PER_STEP
        }
        Scale::Values => {
            let keys = command.keys_in(args).unwrap_or_default().into_iter();
            let bytes = keys.map(|key| bytes_of(keyspace.entry_with_hash(key_hash(key))));
            bytes.sum::<u64>() / VALUE_BYTES_PER_STEP
        }
        Scale::Keyspace => keyspace.len() as u64,
    };
    values.saturating_add(args.encoded_len() as u64 / ARGUMENT_BYTES_PER_STEP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::batch::Batch;
    use crate::kv::commands::registry::CommandId;
    use crate::kv::state_machine::StateMachine;
    use crate::types::{EntryId, Index, RequestKey, Term};

    fn call<'a>(name: &str, args: &'a [&'a [u8]]) -> Operation<'a> {
        Operation::call(CommandId::named(name).unwrap(), args)
    }

    fn apply(state: &mut StateMachine, operation: &Operation<'_>) {
        let key = RequestKey::default();
        let index = state.applied_index().next();
        state.apply(index, &Batch::encode(key, false, &[*operation]));
    }

    fn estimate(state: &StateMachine, operation: &Operation<'_>) -> u64 {
        let bytes = Batch::one(RequestKey::default(), operation);
        let batch = Batch::decode(&bytes).unwrap();
        batch.groups_after(0).map(|group| state.prepare(&group)).sum()
    }

    /// A state with a set of 50,000 members, and the members.
    fn large_set() -> StateMachine {
        let mut state = StateMachine::default();
        let members: Vec<Vec<u8>> = (0..50_000_u32).map(|it| it.to_string().into_bytes()).collect();
        let mut args: Vec<&[u8]> = vec![b"set"];
        args.extend(members.iter().map(|member| &member[..]));
        let operation = call("sadd", &args);
        assert!(estimate(&state, &operation) > 20_000, "the arguments count");
        apply(&mut state, &operation);
        state
    }

    #[test]
    fn commands_that_go_through_values_or_keys_are_long() {
        let mut state = large_set();
        let all = estimate(&state, &call("smembers", &[b"set"]));
        assert!(all > 10_000, "{all}");
        assert_eq!(estimate(&state, &call("smembers", &[b"none"])), 0);
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
            assert!(estimate(&state, &short) < 10, "{short:?}");
        }
        for number in 0..100_u8 {
            apply(&mut state, &Operation::set(&[number], b"v"));
        }
        assert!((101..110).contains(&estimate(&state, &call("keys", &[b"*"]))));
        apply(&mut state, &Operation::set(b"one", &[b'a'; 10_000]));
        assert!(estimate(&state, &call("bitcount", &[b"one"])) > 100);
    }

    #[test]
    fn change_of_a_collection_in_a_snapshot_counts_its_copy() {
        let mut state = large_set();
        let add = call("sadd", &[b"set", b"another"]);
        assert!(estimate(&state, &add) < 10);
        let view = state.view(EntryId { term: Term(1), index: Index(1) });
        assert!(estimate(&state, &add) > 10_000);
        assert!(estimate(&state, &call("sismember", &[b"set", b"7"])) < 10);
        drop(view);
        assert!(estimate(&state, &add) < 10);
    }
}
