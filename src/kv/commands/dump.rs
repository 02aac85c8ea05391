//! `DUMP` and `RESTORE`: values as payloads in Redis's RDB format. The log contains the payload of
//! a `RESTORE`, and every replica decodes it.

use bytes::Bytes;

use crate::feature_level::FeatureLevel;
use crate::kv::commands::args::{Args, VALUE_BYTES_MAX};
use crate::kv::commands::expiration::{From, Unit, invalid, moment};
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::row::{Answer, ONE_KEY, Row, Scale, read, write};
use crate::kv::keyspace::Keyspace;
use crate::kv::keyspace::clock::Millis;
use crate::kv::values::number::parse_integer;
use crate::kv::values::rdb::{DecodedValue, ValueBuilder};
use crate::rdb::{self, ValueWriter};

/// The commands on serialized values: number, name, key positions and function of each. Append new
/// commands at the end with the next number, because log entries contain the numbers.
pub(in crate::kv) const COMMANDS: &[Row] = &[
    read(390, "dump", ONE_KEY, dump).per(Scale::Values).since(FeatureLevel::V0_2),
    write(391, "restore", ONE_KEY, restore).since(FeatureLevel::V0_2),
];

/// Runs `DUMP key`: returns the value of a key as a payload for `RESTORE`; null if the key does not
/// exist.
fn dump(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let Some(entry) = keyspace.entry(args.get(0)?) else { return Ok(Outcome::Value(None)) };
    let mut payload = Vec::new();
    let mut writer = ValueWriter::new(&mut payload);
    match entry.collection() {
        Some(collection) => collection.write_rdb(&mut writer),
        None => entry.string().write_rdb(&mut writer),
    }
    rdb::finish_payload(&mut payload, rdb::VERSION);
    if payload.len() > VALUE_BYTES_MAX {
        return Ok(Outcome::error("ERR the value takes more than 512 MiB in the reply"));
    }
    Ok(Outcome::Value(Some(Bytes::from(payload))))
}

/// The options of `RESTORE`. Those on access times and frequencies have no effect.
#[derive(Debug, Clone, Copy, Default)]
struct Options {
    /// `REPLACE`: the key may exist.
    replaces: bool,
    /// `ABSTTL`: the TTL is a time in milliseconds since 1970.
    is_absolute: bool,
}

impl Options {
    /// Parses the options. The outcome of a failure is Redis's error.
    fn read(args: &[&[u8]]) -> Result<Options, Outcome> {
        let mut options = Options::default();
        let (mut has_idle_time, mut has_frequency) = (false, false);
        let mut args = args.iter();
        while let Some(option) = args.next() {
            let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
            let value = args.as_slice().first();
            if is("REPLACE") {
                options.replaces = true;
            } else if is("ABSTTL") {
                options.is_absolute = true;
            } else if let Some(value) = value
                && (is("IDLETIME") && !has_frequency || is("FREQ") && !has_idle_time)
            {
                let number = parse_integer(value).ok_or(Refusal::NotAnInteger)?;
                if is("IDLETIME") {
                    if number < 0 {
                        return Err(Outcome::error("ERR Invalid IDLETIME value, must be >= 0"));
                    }
                    has_idle_time = true;
                } else {
                    if !(0..=255).contains(&number) {
                        return Err(Outcome::error(
                            "ERR Invalid FREQ value, must be >= 0 and <= 255",
                        ));
                    }
                    has_frequency = true;
                }
                args.next();
            } else {
                return Err(Refusal::Syntax.into());
            }
        }
        Ok(options)
    }
}

/// Runs `RESTORE key ttl payload [REPLACE] [ABSTTL] [IDLETIME seconds] [FREQ frequency]`: sets a
/// key to the value of a payload.
fn restore(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let (key, ttl, payload) = (args.get(0)?, args.get(1)?, args.get(2)?);
    let options = match Options::read(args.rest(3)) {
        Ok(options) => options,
        Err(outcome) => return Ok(outcome),
    };
    if !options.replaces && keyspace.entry(key).is_some() {
        return Ok(Outcome::error("BUSYKEY Target key name already exists."));
    }
    let ttl = parse_integer(ttl).ok_or(Refusal::NotAnInteger)?;
    if ttl < 0 {
        return Ok(Outcome::error("ERR Invalid TTL value, must be >= 0"));
    }
    let Ok(value) = rdb::check_payload(payload) else {
        return Ok(Outcome::error("ERR DUMP payload version or checksum are wrong"));
    };
    let mut builder = ValueBuilder::default();
    let decoded = rdb::decode_payload(value, &mut builder);
    let Some(value) = builder.finish().filter(|_| decoded.is_ok()) else {
        return Ok(Outcome::error("ERR Bad data format"));
    };
    let from = if options.is_absolute { From::Epoch } else { From::Now };
    let expires_at = match ttl {
        0 => None,
        ttl => match moment(keyspace, ttl, Unit::Millis, from) {
            None => return Ok(invalid("restore")),
            Some(end) => Some(Millis::try_from(end).unwrap_or(0)),
        },
    };
    // As in Redis, a replaced key is a new key.
    let existed = keyspace.remove(key);
    if expires_at.is_some_and(|expires_at| expires_at <= keyspace.clock()) {
        if existed {
            keyspace.notify("del", key);
        }
        return Ok(Outcome::Done);
    }
    match value {
        DecodedValue::String(string) => keyspace.put(key, &string),
        DecodedValue::Collection(collection) => keyspace.put_collection(key, collection),
    }
    if expires_at.is_some() {
        keyspace.set_expiry(key, expires_at);
    }
    keyspace.notify("restore", key);
    Ok(Outcome::Done)
}
