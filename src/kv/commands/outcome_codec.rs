//! Encoding of outcomes for snapshots, which contain the outcomes stored in the deduplication table
//! and in client sessions.

use bytes::{Buf as _, BufMut as _, Bytes};

use crate::kv::commands::outcome::{Double, Outcome, Refusal};
use crate::kv::values::codec::{put_bytes, take_bytes, take_flag};
use crate::kv::values::collection::ValueType;

/// Maximum nesting depth of an encoded outcome, which bounds the recursion when an untrusted
/// snapshot is decoded. It is one more than the outcome of a transaction needs.
const DEPTH_MAX: usize = 9;

impl Outcome {
    /// Appends the encoded outcome to `out`. Client sessions and snapshots store outcomes in this
    /// form.
    pub(in crate::kv) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Outcome::Done => out.put_u8(0),
            Outcome::Value(value) => {
                out.put_u8(1);
                put_value(value.as_ref(), out);
            }
            Outcome::LongValue(value) => {
                out.put_u8(1);
                put_value(Some(&value.to_bytes()), out);
            }
            Outcome::Malformed => out.put_u8(4),
            Outcome::Unchanged => out.put_u8(5),
            Outcome::Integer(number) => {
                out.put_u8(6);
                out.put_i64_le(*number);
            }
            Outcome::Values(values) => {
                out.put_u8(7);
                put_count(values.len(), out);
                for value in values {
                    put_value(value.as_ref(), out);
                }
            }
            Outcome::Refused(refusal) => {
                let position = Refusal::ALL.iter().position(|other| other == refusal);
                let byte = position.and_then(|position| u8::try_from(position).ok());
                out.put_slice(&[8, byte.expect("all refusals are in the list, which is short")]);
            }
            Outcome::Forgotten => out.put_u8(9),
            Outcome::Type(value_type) => {
                let byte = value_type.map_or(u8::MAX, |value_type| value_type as u8);
                out.put_slice(&[10, byte]);
            }
            Outcome::Double(number) => {
                out.put_u8(11);
                out.put_u64_le(number.0.to_bits());
            }
            Outcome::NoList => out.put_u8(12),
            Outcome::List(outcomes) => put_list(13, outcomes, out),
            Outcome::Set(outcomes) => put_list(14, outcomes, out),
            Outcome::Pairs(pairs) => put_pairs(15, pairs, out),
            Outcome::Map(pairs) => put_pairs(16, pairs, out),
            Outcome::Error(text) => {
                out.put_u8(17);
                put_bytes(text, out);
            }
            Outcome::Streams(streams) => put_pairs(18, streams, out),
            Outcome::Decimal(number) => {
                out.put_u8(19);
                out.put_u64_le(number.0.to_bits());
            }
            Outcome::Status(text) => {
                out.put_u8(20);
                put_bytes(text, out);
            }
        }
    }

    /// Decodes the outcome of a command, encoded by [`Outcome::encode`], and removes it from the
    /// front of `from`; `None` if the bytes are malformed.
    pub(in crate::kv) fn decode(from: &mut &[u8]) -> Option<Outcome> {
        Outcome::decode_nested(from, 0)
    }

    fn decode_nested(from: &mut &[u8], depth: usize) -> Option<Outcome> {
        if depth > DEPTH_MAX {
            return None;
        }
        Some(match from.try_get_u8().ok()? {
            0 => Outcome::Done,
            1 => Outcome::Value(take_value(from)?),
            4 => Outcome::Malformed,
            5 => Outcome::Unchanged,
            6 => Outcome::Integer(from.try_get_i64_le().ok()?),
            7 => {
                let count = from.try_get_u32_le().ok()?;
                Outcome::Values((0..count).map(|_| take_value(from)).collect::<Option<_>>()?)
            }
            8 => Outcome::Refused(*Refusal::ALL.get(usize::from(from.try_get_u8().ok()?))?),
            9 => Outcome::Forgotten,
            10 => Outcome::Type(match from.try_get_u8().ok()? {
                u8::MAX => None,
                byte => Some(*ValueType::ALL.get(usize::from(byte))?),
            }),
            11 => Outcome::Double(take_double(from)?),
            12 => Outcome::NoList,
            13 => Outcome::List(take_list(from, depth)?),
            14 => Outcome::Set(take_list(from, depth)?),
            15 => Outcome::Pairs(take_pairs(from, depth)?),
            16 => Outcome::Map(take_pairs(from, depth)?),
            17 => Outcome::Error(Bytes::copy_from_slice(take_bytes(from)?)),
            18 => Outcome::Streams(take_pairs(from, depth)?),
            19 => Outcome::Decimal(take_double(from)?),
            20 => Outcome::Status(Bytes::copy_from_slice(take_bytes(from)?)),
            _ => return None,
        })
    }
}

fn take_double(from: &mut &[u8]) -> Option<Double> {
    let number = f64::from_bits(from.try_get_u64_le().ok()?);
    Some(Double(number)).filter(|number| !number.0.is_nan())
}

fn put_count(count: usize, out: &mut Vec<u8>) {
    out.put_u32_le(u32::try_from(count).expect("the reply budget keeps lists far shorter"));
}

fn put_value(value: Option<&Bytes>, out: &mut Vec<u8>) {
    out.put_u8(u8::from(value.is_some()));
    if let Some(value) = value {
        put_bytes(value, out);
    }
}

/// Decodes an optional value that [`put_value`] encoded, and removes it from the front of `from`.
/// `None` if the bytes are malformed, `Some(None)` if the value is missing.
#[allow(clippy::option_option, reason = "malformed and missing values differ")]
fn take_value(from: &mut &[u8]) -> Option<Option<Bytes>> {
    if !take_flag(from)? {
        return Some(None);
    }
    Some(Some(Bytes::copy_from_slice(take_bytes(from)?)))
}

fn put_list(tag: u8, outcomes: &[Outcome], out: &mut Vec<u8>) {
    out.put_u8(tag);
    put_count(outcomes.len(), out);
    for outcome in outcomes {
        outcome.encode(out);
    }
}

fn take_list(from: &mut &[u8], depth: usize) -> Option<Vec<Outcome>> {
    let count = from.try_get_u32_le().ok()?;
    (0..count).map(|_| Outcome::decode_nested(from, depth + 1)).collect()
}

fn put_pairs(tag: u8, pairs: &[(Outcome, Outcome)], out: &mut Vec<u8>) {
    out.put_u8(tag);
    put_count(pairs.len(), out);
    for (first, second) in pairs {
        first.encode(out);
        second.encode(out);
    }
}

fn take_pairs(from: &mut &[u8], depth: usize) -> Option<Vec<(Outcome, Outcome)>> {
    let count = from.try_get_u32_le().ok()?;
    let mut take = || Outcome::decode_nested(from, depth + 1);
    (0..count).map(|_| Some((take()?, take()?))).collect()
}
