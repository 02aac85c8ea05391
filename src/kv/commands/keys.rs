//! `KEYS` and `SCAN`: iteration over all keys. `KEYRANGE` and `CHANGES` have files of their own.
//!
//! The order is that of scan positions, which are the last 52 bits of key hashes; the tables of the
//! keyspace are in the same order. A cursor is the lowest position that was not visited yet, so it
//! has the same meaning on every replica, no matter which keys were added and removed: a key that
//! exists during the whole scan is returned exactly once. Cursors fit into the integers of
//! JavaScript.

use bytes::Bytes;

use crate::feature_level::FeatureLevel;
use crate::kv::commands::args::Args;
use crate::kv::commands::changes::changes;
use crate::kv::commands::key_range::key_range;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::row::{Answer, NO_KEYS, Row, Scale, own_read, range_read, read};
use crate::kv::commands::scan::{self, Options};
use crate::kv::keyspace::Keyspace;
use crate::kv::keyspace::entry::KeyEntry;
use crate::kv::keyspace::shards::SCAN_END;
use crate::kv::keyspace::slot::slot_of;
use crate::kv::values::glob;

/// The `KEYS`, `SCAN`, `KEYRANGE` and `CHANGES` commands of the state machine: number, name, key
/// positions and function of each. Append new commands at the end with the next number, because
/// log entries contain the numbers.
pub(in crate::kv) const COMMANDS: &[Row] = &[
    read(24, "keys", NO_KEYS, keys).per(Scale::Keyspace),
    read(25, "scan", NO_KEYS, scan_keys),
    range_read(26, "keyrange", key_range),
    own_read(27, "changes", changes),
];

/// The `CLUSTER GETKEYSINSLOT` command of the state machine.
pub(in crate::kv) const OF_SLOT: &[Row] =
    &[read(404, "cluster|getkeysinslot", NO_KEYS, keys_in_slot)
        .per(Scale::Keyspace)
        .since(FeatureLevel::V0_2)];

/// Maximum number of keys that one `SCAN` call examines, even if its `COUNT` is higher. Keys with
/// equal scan positions (low bits of the hash) are examined together, so a call may exceed the
/// maximum slightly.
const LOOKED_AT_MAX: usize = 1 << 14;

/// Runs `KEYS pattern`: returns the matching keys. Examines all keys, which takes some tenths of a
/// second for a million keys, and no other command is applied in that time. `SCAN` avoids this.
fn keys(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let pattern = args.get(0)?;
    if !pattern.iter().any(|byte| b"*?[\\".contains(byte)) {
        let key = keyspace.uncounted_entry(pattern).map(KeyEntry::shared_key);
        return Ok(Outcome::Values(key.into_iter().map(Some).collect()));
    }
    let is_wanted = |key: &[u8]| pattern == b"*" || glob::matches(pattern, key);
    Ok(found_keys(keyspace, is_wanted, usize::MAX))
}

/// Runs `CLUSTER GETKEYSINSLOT slot count`: returns up to `count` keys of a hash slot. Examines all
/// keys.
fn keys_in_slot(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let (slot, count) = (args.integer(0)?, args.integer(1)?);
    let count = usize::try_from(count).map_err(|_| Refusal::Syntax)?;
    Ok(found_keys(keyspace, |key| i64::from(slot_of(key)) == slot, count))
}

/// Returns the first `count` keys for which `is_wanted` returns true, in an order that is the same
/// on every replica.
fn found_keys(keyspace: &Keyspace, is_wanted: impl Fn(&[u8]) -> bool, count: usize) -> Outcome {
    let found = keyspace.entries().filter(|entry| is_wanted(entry.key()));
    let found = found.filter(|entry| !keyspace.is_expired(entry));
    let mut found: Vec<_> = found.map(|entry| (entry.scan_position(), entry.key())).collect();
    // Nearly the order of the tables.
    found.sort_unstable();
    // One allocation for all keys: with one for each, freeing the reply would take long.
    let keys: Vec<&[u8]> = found.into_iter().take(count).map(|(_, key)| key).collect();
    let mut bytes = Bytes::from(keys.concat());
    Outcome::Values(keys.into_iter().map(|key| Some(bytes.split_to(key.len()))).collect())
}

/// Runs `SCAN cursor [MATCH pattern] [COUNT count] [TYPE kind]`: returns the next cursor and some
/// keys.
fn scan_keys(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let mut cursor = match scan::cursor(args.get(0)?) {
        Ok(cursor) => cursor,
        Err(outcome) => return Ok(outcome),
    };
    let wanted = Options::read_of_keys(args, 1)?;
    let mut left = wanted.count.min(LOOKED_AT_MAX);
    let mut found = Vec::new();
    while left > 0 && cursor < SCAN_END {
        let (mut entries, next_table) = keyspace.table_from(cursor);
        entries.sort_unstable_by_key(|entry| (entry.scan_position(), entry.key()));
        let mut taken = entries.len().min(left);
        // Keys with the same position are returned together: a cursor cannot point between them.
        while taken > 0
            && entries
                .get(taken)
                .is_some_and(|p| p.scan_position() == entries[taken - 1].scan_position())
        {
            taken += 1;
        }
        left = left.saturating_sub(taken);
        cursor = entries.get(taken).map_or(next_table, |next| next.scan_position());
        let is_wanted = |entry: &&&KeyEntry| {
            !keyspace.is_expired(entry)
                && wanted.fits(entry.key())
                && wanted
                    .value_type
                    .is_none_or(|k| entry.value_type().name().as_bytes().eq_ignore_ascii_case(k))
        };
        found.extend(
            entries[..taken].iter().filter(is_wanted).map(|entry| Some(entry.shared_key())),
        );
    }
    let cursor = if cursor < SCAN_END { cursor } else { 0 };
    Ok(scan::reply(cursor, found))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;

    use super::*;
    use crate::kv::state_machine::tests::Feeder;

    fn step(feeder: &mut Feeder, cursor: u64, options: &[&str]) -> (u64, Vec<Bytes>) {
        let cursor = cursor.to_string();
        let args = [&[&cursor[..]], options].concat();
        match feeder.call("scan", &args) {
            Outcome::List(outcomes) => match &outcomes[..] {
                [Outcome::Value(Some(cursor)), Outcome::Values(keys)] => {
                    let cursor = str::from_utf8(cursor).unwrap().parse().unwrap();
                    (cursor, keys.iter().flatten().cloned().collect())
                }
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn scan_returns_keys_present_throughout_the_scan_exactly_once() {
        for count in ["1", "10", "9999999"] {
            let mut feeder = Feeder::new();
            for number in 0..1_500 {
                feeder.call("set", &[&format!("key:{number}"), "v"]);
            }
            let (mut cursor, mut times, mut steps) = (0, BTreeMap::new(), 0);
            loop {
                let (next, keys) = step(&mut feeder, cursor, &["COUNT", count]);
                assert!(keys.len() <= count.parse().unwrap());
                assert!(next == 0 || next > cursor, "the cursor advances");
                for key in keys {
                    *times.entry(key).or_insert(0) += 1;
                }
                cursor = next;
                // Other keys are added and removed during the scan.
                feeder.call("set", &[&format!("new:{steps}"), "v"]);
                if steps % 3 == 0 && steps < 500 {
                    feeder.call("delex", &[&format!("key:{}", 1_000 + steps)]);
                }
                steps += 1;
                if cursor == 0 {
                    break;
                }
            }
            for number in 0..1_000 {
                let key = format!("key:{number}");
                assert_eq!(times.get(key.as_bytes()), Some(&1), "{key}, {count} at once");
            }
            assert!(times.values().all(|times| *times == 1), "none comes twice");
        }
    }

    #[test]
    fn scan_of_a_small_keyspace_takes_one_call() {
        let mut feeder = Feeder::new();
        assert_eq!(step(&mut feeder, 0, &[]), (0, vec![]));
        for key in ["a", "b", "c"] {
            feeder.call("set", &[key, "v"]);
        }
        feeder.call("hset", &["h", "f", "v"]);
        let (cursor, keys) = step(&mut feeder, 0, &[]);
        assert_eq!((cursor, keys.len()), (0, 4));
        assert_eq!(step(&mut feeder, 0, &["TYPE", "hash"]).1, [Bytes::from_static(b"h")]);
        assert_eq!(step(&mut feeder, 0, &["MATCH", "[ab]"]).1.len(), 2);
        assert_eq!(step(&mut feeder, u64::MAX, &[]), (0, vec![]));
    }

    #[test]
    fn scan_call_visits_a_bounded_number_of_keys() {
        let mut feeder = Feeder::new();
        for number in 0..LOOKED_AT_MAX + 1_000 {
            feeder.call("set", &[&number.to_string(), "v"]);
        }
        let (cursor, keys) = step(&mut feeder, 0, &["COUNT", "1000000000"]);
        assert_eq!(keys.len(), LOOKED_AT_MAX);
        assert_ne!(cursor, 0);
    }
}
