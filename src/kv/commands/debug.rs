//! Read-only commands for `DEBUG`: what the state machine shows of itself to tests.

use bytes::Bytes;

use crate::feature_level::FeatureLevel;
use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::Outcome;
use crate::kv::commands::row::{ALL_KEYS, Answer, NO_KEYS, ONE_KEY, Row, read};
use crate::kv::keyspace::Keyspace;
use crate::kv::keyspace::entry::KeyEntry;
use crate::kv::values::digest::key_hash;

/// Number of hexadecimal digits of a digest, as in Redis, whose digests are SHA-1 hashes.
const DIGEST_DIGITS: usize = 40;

/// The debugging commands of the state machine: number, name, key positions and function of each.
/// Append new commands at the end with the next number, because log entries contain the numbers.
pub(in crate::kv) const COMMANDS: &[Row] = &[
    read(496, "debug|digest", NO_KEYS, digest).since(FeatureLevel::V0_2),
    read(497, "debug|digest-value", ALL_KEYS, digest_value).since(FeatureLevel::V0_2),
    read(498, "debug|object", ONE_KEY, object).since(FeatureLevel::V0_2),
];

/// Returns a hash as a digest of Redis's length: 40 hexadecimal digits, all 0 for the hash 0.
fn digits(hash: u64) -> Bytes {
    let text = if hash == 0 {
        "0".repeat(DIGEST_DIGITS)
    } else {
        let rest = key_hash(&hash.to_le_bytes());
        format!("{hash:016x}{rest:016x}{:08x}", rest >> 32)
    };
    Bytes::from(text)
}

/// Runs `DEBUG DIGEST`: returns a digest of all keys, values and expiration times. That of an empty
/// keyspace is 0.
#[allow(clippy::unnecessary_wraps, reason = "the signature of all commands")]
fn digest(keyspace: &Keyspace, _args: &Args<'_>) -> Answer {
    let hash = if keyspace.len() == 0 { 0 } else { keyspace.digest().salted(0) };
    Ok(Outcome::Value(Some(digits(hash))))
}

/// Runs `DEBUG DIGEST-VALUE [key ...]`: returns a digest of the value and the expiration time of
/// each key; 0 for a key that does not exist.
#[allow(clippy::unnecessary_wraps, reason = "the signature of all commands")]
fn digest_value(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let digest = |key: &&[u8]| {
        let entry = keyspace.entry_without_event(key);
        Outcome::Value(Some(digits(entry.map_or(0, KeyEntry::value_fingerprint))))
    };
    Ok(Outcome::List(args.all().iter().map(digest).collect()))
}

/// Runs `DEBUG OBJECT key`: describes the value, in Redis's form. The address is that of the
/// key's entry in this process, and the length is the memory usage of the value.
fn object(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let Some(entry) = keyspace.entry_without_event(args.get(0)?) else {
        return Ok(Outcome::error("ERR no such key"));
    };
    let text = format!(
        "Value at:{:p} refcount:1 encoding:{} serializedlength:{} lru:0 lru_seconds_idle:0",
        entry.key().as_ptr(),
        entry.encoding(),
        entry.value_bytes(),
    );
    Ok(Outcome::Value(Some(text.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_have_forty_digits_and_differ() {
        assert_eq!(digits(0), "0".repeat(DIGEST_DIGITS));
        for hash in [1, 0xFEDC_BA98_7654_3210, u64::MAX] {
            let found = digits(hash);
            assert_eq!(found.len(), DIGEST_DIGITS);
            assert!(found.iter().all(u8::is_ascii_hexdigit));
        }
        assert_ne!(digits(1), digits(2));
    }
}
