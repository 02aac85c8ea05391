//! How an outcome of the store becomes a reply: a command's `1` is another's `OK` or `string`.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::kv::{Outcome, Refusal};
use crate::wire::resp::{Version, Writer};

use crate::redis::commands::client::ClientQuery;

/// What each value in a reply takes beside its bytes.
const ITEM_BYTES: usize = size_of::<Option<Bytes>>();

/// What a request's reply looks like. Kept by the door while the request is under way; small, and
/// with the version that the connection spoke when it asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyFormat {
    pub(in crate::redis) kind: Kind,
    pub(in crate::redis) version: Version,
    /// The client wants no reply.
    pub(in crate::redis) muted: bool,
}

/// What a command makes of its outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::redis) enum Kind {
    /// As it is.
    Plain,
    /// Done is 1, unchanged is 0 (`SETNX`).
    Flag,
    /// Done is this number (`PUBLISH`).
    Number(u32),
    /// A transaction's: a list, part by part.
    Exec(Arc<[Part]>),
}

/// A reply within a transaction's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::redis) enum Part {
    /// It is there.
    Written(Bytes),
    /// It comes of the store's next outcome.
    Outcome(ReplyFormat),
    /// The door has still to put it in the place of this.
    Clients(ClientQuery),
}

impl Part {
    /// Writes it; with the outcome, if it takes one.
    pub(in crate::redis) fn encode(&self, outcome: &Outcome, out: &mut BytesMut) {
        match self {
            Part::Written(bytes) => out.extend_from_slice(bytes),
            Part::Outcome(reply_format) => reply_format.encode(outcome, out),
            Part::Clients(_) => Writer::new(out, Version::Two).error(b"ERR nobody was counted"),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Part::Written(bytes) => bytes.len(),
            Part::Outcome(_) | Part::Clients(_) => 0,
        }
    }
}

impl ReplyFormat {
    /// The client wants no reply (`CLIENT REPLY`).
    pub fn mute(&mut self) {
        self.muted = true;
    }

    /// Whether it wants none.
    pub fn is_muted(&self) -> bool {
        self.muted
    }

    /// How many bytes the reply has, about, and not less than it takes in memory before it is
    /// written.
    pub fn reply_bytes(&self, outcome: &Outcome) -> usize {
        match outcome {
            Outcome::Value(value) => ITEM_BYTES + value.as_ref().map_or(0, Bytes::len),
            Outcome::Values(values) => {
                let bytes: usize = values.iter().flatten().map(Bytes::len).sum();
                bytes + ITEM_BYTES * (1 + values.len())
            }
            Outcome::List(_) | Outcome::Set(_) | Outcome::Pairs(_) | Outcome::Map(_) => {
                let written = match &self.kind {
                    Kind::Exec(parts) => parts.iter().map(Part::bytes).sum(),
                    Kind::Plain | Kind::Flag | Kind::Number(_) => 0,
                };
                ITEM_BYTES + outcome.value_bytes() + written
            }
            _ => ITEM_BYTES,
        }
    }

    /// Writes the reply.
    pub fn encode(&self, outcome: &Outcome, out: &mut BytesMut) {
        write(&mut Writer::new(out, self.version), &self.kind, outcome);
    }

    /// Has what it needs of all connections written, if it needs that. To be called when the
    /// request is submitted.
    pub fn list_clients(&mut self, mut list: impl FnMut(ClientQuery) -> Bytes) {
        let Kind::Exec(parts) = &mut self.kind else { return };
        if !parts.iter().any(|part| matches!(part, Part::Clients(_))) {
            return;
        }
        let parts = parts.iter().map(|part| match part {
            Part::Clients(query) => Part::Written(list(query.clone())),
            other => other.clone(),
        });
        self.kind = Kind::Exec(parts.collect());
    }
}

fn write(writer: &mut Writer<'_>, kind: &Kind, outcome: &Outcome) {
    match (outcome, kind) {
        (Outcome::Done, Kind::Flag) => writer.integer(1),
        (Outcome::Unchanged, Kind::Flag) => writer.integer(0),
        (Outcome::Done, Kind::Number(number)) => writer.integer((*number).into()),
        (Outcome::Done, Kind::Plain | Kind::Exec(_)) => writer.ok(),
        (Outcome::Unchanged, Kind::Plain | Kind::Number(_) | Kind::Exec(_)) => writer.null(),
        (Outcome::Value(value), _) => writer.bulk_or_null(value.as_deref()),
        (Outcome::Integer(number), _) => writer.integer(*number),
        (Outcome::Double(number), _) => writer.double(number.0),
        (Outcome::Type(kind), _) => writer.simple(kind.map_or("none", |kind| kind.name())),
        (Outcome::Values(values), _) => {
            writer.array(values.len());
            for value in values {
                writer.bulk_or_null(value.as_deref());
            }
        }
        (Outcome::NoList, _) => writer.null_array(),
        (Outcome::List(outcomes), Kind::Exec(parts)) => {
            writer.array(parts.len());
            let mut outcomes = outcomes.iter();
            for part in &parts[..] {
                let outcome = match part {
                    Part::Outcome(_) => outcomes.next(),
                    Part::Written(_) | Part::Clients(_) => None,
                };
                part.encode(outcome.unwrap_or(&Outcome::Malformed), writer.buffer());
            }
        }
        (Outcome::List(outcomes), _) => {
            writer.array(outcomes.len());
            for outcome in outcomes {
                write(writer, kind, outcome);
            }
        }
        (Outcome::Set(outcomes), _) => {
            writer.set(outcomes.len());
            for outcome in outcomes {
                write(writer, kind, outcome);
            }
        }
        (Outcome::Map(pairs), _) => {
            writer.map(pairs.len());
            for (one, other) in pairs {
                write(writer, kind, one);
                write(writer, kind, other);
            }
        }
        (Outcome::Pairs(pairs), _) => {
            let nested = writer.version() == Version::Three;
            writer.array(if nested { pairs.len() } else { 2 * pairs.len() });
            for (one, other) in pairs {
                if nested {
                    writer.array(2);
                }
                write(writer, kind, one);
                write(writer, kind, other);
            }
        }
        (Outcome::Deleted(truth) | Outcome::Transferred(truth), _) => {
            writer.integer((*truth).into());
        }
        (Outcome::Refused(refusal), _) => writer.error(refusal_text(*refusal).as_bytes()),
        (Outcome::Error(text), _) => writer.error(text),
        (Outcome::Forgotten, _) => {
            writer.error(b"UNCERTAIN applied, but what came of it is no longer remembered");
        }
        // No door sends what it can't read itself.
        (Outcome::Malformed, _) => writer.error(b"ERR the command was damaged on its way"),
    }
}

/// Redis's words for it.
fn refusal_text(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::NotAnInteger => "ERR value is not an integer or out of range",
        Refusal::Overflow => "ERR increment or decrement would overflow",
        Refusal::TooLong => "ERR string exceeds maximum allowed size (proto-max-bulk-len)",
        Refusal::WrongType => "WRONGTYPE Operation against a key holding the wrong kind of value",
        Refusal::Syntax => "ERR syntax error",
        Refusal::NotAFloat => "ERR value is not a valid float",
        Refusal::HashNotAnInteger => "ERR hash value is not an integer",
        Refusal::NoSuchKey => "ERR no such key",
        Refusal::NotPositive => "ERR value is out of range, must be positive",
        Refusal::OutOfRange => "ERR value is out of range",
        Refusal::NotAbsolute => {
            "ERR value is out of range, value must between -9223372036854775807 and \
             9223372036854775807"
        }
        Refusal::NoKeys => "ERR numkeys should be greater than 0",
        Refusal::TooManyKeys => "ERR Number of keys can't be greater than number of args",
        Refusal::NegativeLimit => "ERR LIMIT can't be negative",
        Refusal::NotFinite => "ERR increment would produce NaN or Infinity",
        Refusal::SameObject => "ERR source and destination objects are the same",
        Refusal::ScoreNaN => "ERR resulting score is not a number (NaN)",
        Refusal::WeightNotAFloat => "ERR weight value is not a float",
        Refusal::EndNotAFloat => "ERR min or max is not a float",
        Refusal::EndNotLex => "ERR min or max not valid string range item",
        Refusal::AbsentAndPresent => "ERR XX and NX options at the same time are not compatible",
        Refusal::ManyConditions => {
            "ERR GT, LT, and/or NX options at the same time are not compatible"
        }
        Refusal::ManyIncrements => "ERR INCR option supports a single increment-element pair",
        Refusal::LimitOfPlaces => {
            "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX"
        }
        Refusal::ScoresOfLex => {
            "ERR syntax error, WITHSCORES not supported in combination with BYLEX"
        }
        Refusal::NoCount => "ERR count should be greater than 0",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: Kind, outcome: &Outcome, wanted: &str) {
        let mut out = BytesMut::new();
        ReplyFormat { kind, version: Version::Two, muted: false }.encode(outcome, &mut out);
        assert_eq!(out.escape_ascii().to_string(), wanted.escape_debug().to_string());
    }

    #[test]
    fn many_values_count_even_where_they_are_small_or_none() {
        let reply_format = ReplyFormat { kind: Kind::Plain, version: Version::Two, muted: false };
        let values = vec![None; 1_000];
        let blocked = size_of_val(&values[..]);
        assert!(reply_format.reply_bytes(&Outcome::Values(values)) >= blocked);
        let value = Bytes::from(vec![b'x'; 1_000]);
        let values = vec![Some(value.clone()), None, Some(value)];
        let mut out = BytesMut::new();
        let outcome = Outcome::Values(values);
        reply_format.encode(&outcome, &mut out);
        assert!((out.len()..out.len() + 200).contains(&reply_format.reply_bytes(&outcome)));
    }

    #[test]
    fn outcomes_become_replies() {
        check(Kind::Plain, &Outcome::Done, "+OK\r\n");
        check(Kind::Plain, &Outcome::Unchanged, "$-1\r\n");
        check(Kind::Plain, &Outcome::Value(None), "$-1\r\n");
        let values = vec![Some(Bytes::from_static(b"a")), None];
        check(Kind::Plain, &Outcome::Values(values), "*2\r\n$1\r\na\r\n$-1\r\n");
        check(Kind::Plain, &Outcome::Integer(-3), ":-3\r\n");
        check(Kind::Plain, &Outcome::Deleted(true), ":1\r\n");
        check(Kind::Flag, &Outcome::Done, ":1\r\n");
        check(Kind::Flag, &Outcome::Unchanged, ":0\r\n");
        check(Kind::Plain, &Outcome::Type(None), "+none\r\n");
        check(Kind::Plain, &Outcome::Type(Some(crate::kv::ValueType::Hash)), "+hash\r\n");
        check(Kind::Plain, &Outcome::NoList, "*-1\r\n");
        let pair = vec![(Outcome::Integer(1), Outcome::Integer(2))];
        check(Kind::Plain, &Outcome::Map(pair.clone()), "*2\r\n:1\r\n:2\r\n");
        check(Kind::Plain, &Outcome::Pairs(pair), "*2\r\n:1\r\n:2\r\n");
        let refused = Outcome::Refused(Refusal::Overflow);
        check(Kind::Plain, &refused, "-ERR increment or decrement would overflow\r\n");
    }
}
