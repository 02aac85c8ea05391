//! Commands that clients cannot name: the network stage sends them for `WATCH` and `ONCE`, and the
//! simulator to check that transfers conserve a sum.

use bytes::Bytes;

use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::registry::{ALL_KEYS, Answer, NO_KEYS, Row, TWO_KEYS, read, write};
use crate::kv::keyspace::Keyspace;

/// New rows go to the end, with the next number.
pub(in crate::kv) const COMMANDS: &[Row] = &[
    read(296, "revisions", ALL_KEYS, revisions),
    write(297, "refuse", NO_KEYS, refuse),
    write(298, "transfer", TWO_KEYS, transfer),
];

/// `revisions key [key ...]`: the index of the entry that last changed each key, 0 for a key that
/// does not exist. Sent for `WATCH`.
#[allow(clippy::unnecessary_wraps, reason = "the signature of all commands")]
fn revisions(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let revision = |key: &&[u8]| {
        let index = keyspace.revision(key);
        Outcome::Integer(i64::try_from(index).expect("revisions have 52 bits"))
    };
    Ok(Outcome::List(args.all().iter().map(revision).collect()))
}

/// `refuse text`: fails with this error. Sent for a command in `ONCE` that is refused before it is
/// run, so that the refusal is the outcome of that request.
fn refuse(_store: &mut Keyspace, args: &Args<'_>) -> Answer {
    Ok(Outcome::Error(Bytes::copy_from_slice(args.get(0)?)))
}

/// `transfer from to amount`: moves an amount between two keys that both hold an unsigned integer,
/// if the first holds at least as much. Whether it did; the sum of all keys stays the same.
fn transfer(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let (from, to) = (args.get(0)?, args.get(1)?);
    let amount = parse_unsigned(args.get(2)?).ok_or(Refusal::NotAnInteger)?;
    Ok(Outcome::flag(moved(keyspace, from, to, amount).is_some()))
}

/// Moves an amount; `None`, and nothing has changed, if that is not possible.
fn moved(keyspace: &mut Keyspace, from: &[u8], to: &[u8], amount: u64) -> Option<()> {
    let left = balance(keyspace, from)?.checked_sub(amount)?;
    let sum = balance(keyspace, to)?;
    if from != to {
        let sum = sum.checked_add(amount)?;
        keyspace.put_keep_ttl(from, left.to_string().as_bytes());
        keyspace.put_keep_ttl(to, sum.to_string().as_bytes());
    }
    Some(())
}

/// The unsigned integer that a key holds.
fn balance(keyspace: &Keyspace, key: &[u8]) -> Option<u64> {
    parse_unsigned(keyspace.string(key).ok()??)
}

fn parse_unsigned(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
