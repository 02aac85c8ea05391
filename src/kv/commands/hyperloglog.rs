//! Commands that estimate numbers of distinct elements with HyperLogLogs, which are strings.

use bytes::Bytes;

use crate::feature_level::FeatureLevel;
use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::row::{
    ALL_BUT_LAST, ALL_KEYS, Answer, ONE_KEY, Row, SECOND_KEY, Scale, read, write,
};
use crate::kv::keyspace::Keyspace;
use crate::kv::values::hyperloglog::{Corrupt, HyperLogLog, REGISTERS, estimate};

/// The HyperLogLog commands of the state machine: number, name, key positions and function of each.
/// Append new commands at the end with the next number, because log entries contain the numbers.
pub(in crate::kv) const COMMANDS: &[Row] = &[
    write(370, "pfadd", ONE_KEY, pfadd).since(FeatureLevel::V0_2),
    read(371, "pfcount", ALL_KEYS, pfcount).per(Scale::Values).since(FeatureLevel::V0_2),
    write(372, "pfmerge", ALL_BUT_LAST, pfmerge).per(Scale::Values).since(FeatureLevel::V0_2),
    write(373, "pfdebug", SECOND_KEY, pfdebug).per(Scale::Values).since(FeatureLevel::V0_2),
];

impl From<Corrupt> for Outcome {
    fn from(Corrupt: Corrupt) -> Outcome {
        Outcome::error("INVALIDOBJ Corrupted HLL object detected")
    }
}

/// Returns the HyperLogLog at a key; `None` if the key does not exist.
///
/// # Errors
/// If the value is not a HyperLogLog.
fn at(keyspace: &Keyspace, key: &[u8]) -> Result<Option<HyperLogLog>, Outcome> {
    let Some(string) = keyspace.string(key)? else { return Ok(None) };
    match string.short().and_then(HyperLogLog::from_bytes) {
        Some(log) => Ok(Some(log)),
        None => Err(Outcome::error("WRONGTYPE Key is not a valid HyperLogLog string value.")),
    }
}

/// Splits off the last argument, which the server adds to those of the client: the setting
/// `hll-sparse-max-bytes`, as 8 bytes, little endian.
fn split_limit<'s, 'a>(args: &'s [&'a [u8]]) -> Result<(usize, &'s [&'a [u8]]), Refusal> {
    let (last, rest) = args.split_last().ok_or(Refusal::Syntax)?;
    let limit = u64::from_le_bytes((*last).try_into().map_err(|_| Refusal::Syntax)?);
    Ok((usize::try_from(limit).unwrap_or(usize::MAX), rest))
}

/// Sets a key to a HyperLogLog, and keeps the key's expiration time.
fn put(keyspace: &mut Keyspace, key: &[u8], log: &HyperLogLog) {
    keyspace.put_keep_ttl(key, log.bytes());
    keyspace.notify("pfadd", key);
}

/// Runs `PFADD key [element ...]`: adds elements to a HyperLogLog, and returns 1 if that changed
/// its registers or created the key, else 0.
fn pfadd(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let key = args.get(0)?;
    let (sparse_bytes_max, elements) = split_limit(args.rest(1))?;
    let old = match at(keyspace, key) {
        Ok(old) => old,
        Err(error) => return Ok(error),
    };
    let mut changed = old.is_none();
    let mut log = old.unwrap_or_else(HyperLogLog::empty);
    for element in elements {
        match log.add(element, sparse_bytes_max) {
            Ok(raised) => changed |= raised,
            Err(error) => return Ok(error.into()),
        }
    }
    if changed {
        log.invalidate_estimate();
        put(keyspace, key, &log);
    }
    Ok(Outcome::flag(changed))
}

/// Runs `PFCOUNT key [key ...]`: estimates the number of distinct elements of the HyperLogLogs
/// together. It is a read, so unlike Redis it does not store the estimate in the value.
#[allow(clippy::unnecessary_wraps, reason = "the signature of all commands")]
fn pfcount(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let count = || match args.all() {
        [key] => {
            let Some(log) = at(keyspace, key)? else { return Ok(0) };
            match log.cached_estimate() {
                Some(count) => Ok(count),
                None => Ok(estimate(&log.registers()?)),
            }
        }
        keys => Ok(estimate(&union(keyspace, keys)?.0)),
    };
    Ok(count().map_or_else(|error: Outcome| error, |count| Outcome::Integer(count.cast_signed())))
}

/// Returns the greatest values of each register in the HyperLogLogs at these keys, and whether one
/// of them has the dense encoding.
///
/// # Errors
/// If a value is not a HyperLogLog, or is corrupt.
fn union(keyspace: &Keyspace, keys: &[&[u8]]) -> Result<(Vec<u8>, bool), Outcome> {
    let (mut all, mut is_dense) = (vec![0; REGISTERS], false);
    for key in keys {
        let Some(log) = at(keyspace, key)? else { continue };
        is_dense |= log.is_dense();
        for (greatest, value) in all.iter_mut().zip(log.registers()?) {
            *greatest = value.max(*greatest);
        }
    }
    Ok((all, is_dense))
}

/// Runs `PFMERGE destination [source ...]`: adds the elements of HyperLogLogs to another.
#[allow(clippy::unnecessary_wraps, reason = "the signature of all commands")]
fn pfmerge(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let (sparse_bytes_max, keys) = split_limit(args.all())?;
    let to = keys.first().ok_or(Refusal::Syntax)?;
    let merged = || {
        let (registers, is_dense) = union(keyspace, keys)?;
        let mut log = at(keyspace, to)?.unwrap_or_else(HyperLogLog::empty);
        log.merge(&registers, is_dense, sparse_bytes_max)?;
        Ok(log)
    };
    match merged() {
        Ok(log) => {
            put(keyspace, to, &log);
            Ok(Outcome::Done)
        }
        Err(error) => Ok(error),
    }
}

/// Runs `PFDEBUG <DECODE | ENCODING | GETREG | TODENSE> key`: returns the runs of the sparse
/// encoding, the encoding or the registers of a HyperLogLog. `GETREG` and `TODENSE` switch to the
/// dense encoding.
fn pfdebug(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let (name, key) = (args.get(0)?, args.get(1)?);
    let mut log = match at(keyspace, key) {
        Ok(Some(log)) => log,
        Ok(None) => return Ok(Outcome::error("ERR The specified key does not exist")),
        Err(error) => return Ok(error),
    };
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    if is("DECODE") {
        let text = log.describe().map(|text| Outcome::Value(Some(Bytes::from(text))));
        return Ok(text.unwrap_or_else(|| Outcome::error("ERR HLL encoding is not sparse")));
    }
    if is("ENCODING") {
        let encoding: &[u8] = if log.is_dense() { b"dense" } else { b"sparse" };
        return Ok(Outcome::Status(Bytes::from_static(encoding)));
    }
    if !is("GETREG") && !is("TODENSE") {
        let text = [b"ERR Unknown PFDEBUG subcommand '", name].concat();
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        return Ok(Outcome::Error(Bytes::from([text, b"'"].concat())));
    }
    let was_sparse = match log.make_dense() {
        Ok(was_sparse) => was_sparse,
        Err(error) => return Ok(error.into()),
    };
    if was_sparse {
        keyspace.put_keep_ttl(key, log.bytes());
        keyspace.note_change("pfdebug", key);
    }
    if is("TODENSE") {
        return Ok(Outcome::flag(was_sparse));
    }
    let registers = log.registers().unwrap_or_default();
    Ok(Outcome::List(registers.into_iter().map(|value| Outcome::Integer(value.into())).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::state_machine::tests::Feeder;

    /// The argument that the server adds.
    const LIMIT: &str = "\u{38}\u{b}\0\0\0\0\0\0\0";

    fn add(feeder: &mut Feeder, key: &str, elements: &[&str]) -> Outcome {
        feeder.call("pfadd", &[&[key], elements, &[&LIMIT[..8]]].concat())
    }

    #[test]
    fn pfcount_estimates_the_union_of_hyperloglogs() {
        let mut feeder = Feeder::new();
        let one = Outcome::Integer(1);
        assert_eq!(add(&mut feeder, "a", &[]), one);
        assert_eq!(add(&mut feeder, "a", &[]), Outcome::Integer(0));
        assert_eq!(add(&mut feeder, "a", &["x", "y", "z"]), one);
        assert_eq!(add(&mut feeder, "a", &["x"]), Outcome::Integer(0));
        assert_eq!(add(&mut feeder, "b", &["x", "t"]), one);
        let digest = feeder.store.digest();
        for (keys, count) in
            [(&["a"][..], 3), (&["b"], 2), (&["a", "b", "none"], 4), (&["none"], 0)]
        {
            assert_eq!(feeder.call("pfcount", keys), Outcome::Integer(count), "{keys:?}");
        }
        assert_ne!(feeder.store.digest(), digest, "another place in the log");
        let merge = ["b", "none", "a", &LIMIT[..8]];
        assert_eq!(feeder.call("pfmerge", &merge), Outcome::Done);
        assert_eq!(feeder.call("pfcount", &["b"]), Outcome::Integer(4));
        assert_eq!(feeder.call("pfdebug", &["todense", "a"]), one);
        assert_eq!(feeder.call("pfdebug", &["todense", "a"]), Outcome::Integer(0));
        assert_eq!(feeder.call("pfcount", &["a"]), Outcome::Integer(3));
    }

    #[test]
    fn invalid_hyperloglog_is_refused_without_a_change() {
        let mut feeder = Feeder::new();
        let invalid = Outcome::error("WRONGTYPE Key is not a valid HyperLogLog string value.");
        let corrupt = Outcome::error("INVALIDOBJ Corrupted HLL object detected");
        feeder.call("set", &["text", "HYLL"]);
        feeder.call("sadd", &["set", "x"]);
        add(&mut feeder, "cut", &["x"]);
        feeder.call("setrange", &["cut", "16", "\0"]);
        assert_eq!(add(&mut feeder, "text", &["x"]), invalid);
        assert_eq!(feeder.call("pfcount", &["text"]), invalid);
        assert_eq!(add(&mut feeder, "set", &["x"]), Outcome::Refused(Refusal::WrongType));
        assert_eq!(feeder.call("pfcount", &["cut", "none"]), corrupt);
        assert_eq!(feeder.call("pfdebug", &["getreg", "cut"]), corrupt);
        assert_eq!(feeder.call("pfmerge", &["new", "cut", &LIMIT[..8]]), corrupt);
        assert_eq!(feeder.call("exists", &["new"]), Outcome::Integer(0));
    }
}
