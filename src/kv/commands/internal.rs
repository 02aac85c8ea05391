//! Commands that clients cannot name: the network stage sends them for `WATCH` and `ONCE`, and the
//! simulator sends one to check that transfers between keys do not change the sum of the values.

use bytes::Bytes;

use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::row::{ALL_KEYS, Answer, NO_KEYS, Row, TWO_KEYS, read, write};
use crate::kv::keyspace::Keyspace;

/// The internal commands of the state machine: number, name, key positions and function of each.
/// Append new commands at the end with the next number, because log entries contain the numbers.
pub(in crate::kv) const COMMANDS: &[Row] = &[
    read(296, "revisions", ALL_KEYS, revisions),
    write(297, "refuse", NO_KEYS, refuse),
    write(298, "transfer", TWO_KEYS, transfer),
];

/// Runs `revisions key [key ...]`: returns the revision of each key, which is the sequence number
/// of the operation that last changed it; 0 for a key that does not exist. The server uses this
/// command for `WATCH`; clients cannot call it.
#[allow(clippy::unnecessary_wraps, reason = "the signature of all commands")]
fn revisions(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let revision = |key: &&[u8]| {
        let revision = keyspace.revision_of(key);
        Outcome::Integer(i64::try_from(revision).expect("revisions have 52 bits"))
    };
    Ok(Outcome::List(args.all().iter().map(revision).collect()))
}

/// Runs `refuse text`: changes nothing and returns the error `text`. If the server rejects a
/// command inside a `ONCE` request of a client session, it submits this command instead, so that
/// the session stores the error as the result of the request. Clients cannot call it.
fn refuse(_store: &mut Keyspace, args: &Args<'_>) -> Answer {
    Ok(Outcome::Error(Bytes::copy_from_slice(args.get(0)?)))
}

/// Runs `transfer from to amount`: moves `amount` from the unsigned integer at the key `from` to
/// that at the key `to`, and returns 1; returns 0 and changes nothing if this is impossible. The
/// simulator uses this command to check that the sum of all integers never changes.
fn transfer(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let (from, to) = (args.get(0)?, args.get(1)?);
    let amount = parse_unsigned(args.get(2)?).ok_or(Refusal::NotAnInteger)?;
    Ok(Outcome::flag(moved(keyspace, from, to, amount).is_some()))
}

/// Subtracts `amount` from the unsigned integer at the key `from` and adds it to that at the key
/// `to`. Returns `None`, and changes nothing, if the integer at `from` is less than `amount`, the
/// value of a key is not an unsigned integer, or the sum overflows.
fn moved(keyspace: &mut Keyspace, from: &[u8], to: &[u8], amount: u64) -> Option<()> {
    let left = balance(keyspace, from)?.checked_sub(amount)?;
    let sum = balance(keyspace, to)?;
    if from != to {
        let sum = sum.checked_add(amount)?;
        keyspace.put_keep_ttl(from, left.to_string().as_bytes());
        keyspace.put_keep_ttl(to, sum.to_string().as_bytes());
        keyspace.notify("set", from);
        keyspace.notify("set", to);
    }
    Some(())
}

/// Returns the unsigned integer at a key; `None` if the key does not exist or its value is not an
/// unsigned integer.
fn balance(keyspace: &Keyspace, key: &[u8]) -> Option<u64> {
    parse_unsigned(keyspace.string(key).ok()??.short()?)
}

fn parse_unsigned(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
