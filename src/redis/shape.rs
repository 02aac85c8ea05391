//! How an outcome of the store becomes a reply: a command's `1` is another's `OK` or `string`.

use bytes::{Bytes, BytesMut};

use crate::kv::{Outcome, Refusal};
use crate::wire::resp::{Version, Writer};

/// What each value in a reply takes beside its bytes.
const ITEM_BYTES: usize = size_of::<Option<Bytes>>();

/// What a request's reply looks like. Kept by the door while the request is under way; small, and
/// with the version that the connection spoke when it asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub(super) kind: Kind,
    pub(super) version: Version,
}

/// What a command makes of its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// As it is.
    Plain,
    /// Done is 1, unchanged is 0 (`SETNX`).
    Flag,
    /// A key's type, by how often it exists.
    Type,
}

impl Shape {
    /// How many bytes the reply has, about, and not less than it takes in memory before it is
    /// written.
    pub fn reply_bytes(self, outcome: &Outcome) -> usize {
        match outcome {
            Outcome::Value(value) => ITEM_BYTES + value.as_ref().map_or(0, Bytes::len),
            Outcome::Values(values) => {
                let bytes: usize = values.iter().flatten().map(Bytes::len).sum();
                bytes + ITEM_BYTES * (1 + values.len())
            }
            _ => ITEM_BYTES,
        }
    }

    /// Writes the reply.
    pub fn encode(self, outcome: &Outcome, out: &mut BytesMut) {
        let mut writer = Writer::new(out, self.version);
        match (outcome, self.kind) {
            (Outcome::Done, Kind::Flag) => writer.integer(1),
            (Outcome::Unchanged, Kind::Flag) => writer.integer(0),
            (Outcome::Integer(0), Kind::Type) => writer.simple("none"),
            (Outcome::Integer(_), Kind::Type) => writer.simple("string"),
            (Outcome::Done, _) => writer.ok(),
            (Outcome::Unchanged, _) => writer.null(),
            (Outcome::Value(value), _) => writer.bulk_or_null(value.as_deref()),
            (Outcome::Integer(number), _) => writer.integer(*number),
            (Outcome::Values(values), _) => {
                writer.array(values.len());
                for value in values {
                    writer.bulk_or_null(value.as_deref());
                }
            }
            (Outcome::Deleted(truth) | Outcome::Transferred(truth), _) => {
                writer.integer((*truth).into());
            }
            (Outcome::Refused(refusal), _) => writer.error(refusal_text(*refusal).as_bytes()),
            (Outcome::Forgotten, _) => {
                writer.error(b"UNCERTAIN applied, but what came of it is no longer remembered");
            }
            // No door sends what it can't read itself.
            (Outcome::Malformed, _) => writer.error(b"ERR the command was damaged on its way"),
        }
    }
}

/// Redis's words for it.
fn refusal_text(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::NotAnInteger => "ERR value is not an integer or out of range",
        Refusal::Overflow => "ERR increment or decrement would overflow",
        Refusal::TooLong => "ERR string exceeds maximum allowed size (proto-max-bulk-len)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: Kind, outcome: &Outcome, wanted: &str) {
        let mut out = BytesMut::new();
        Shape { kind, version: Version::Two }.encode(outcome, &mut out);
        assert_eq!(out.escape_ascii().to_string(), wanted.escape_debug().to_string());
    }

    #[test]
    fn many_values_count_even_where_they_are_small_or_none() {
        let shape = Shape { kind: Kind::Plain, version: Version::Two };
        let values = vec![None; 1_000];
        let held = size_of_val(&values[..]);
        assert!(shape.reply_bytes(&Outcome::Values(values)) >= held);
        let value = Bytes::from(vec![b'x'; 1_000]);
        let values = vec![Some(value.clone()), None, Some(value)];
        let mut out = BytesMut::new();
        let outcome = Outcome::Values(values);
        shape.encode(&outcome, &mut out);
        assert!((out.len()..out.len() + 200).contains(&shape.reply_bytes(&outcome)));
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
        check(Kind::Type, &Outcome::Integer(0), "+none\r\n");
        check(Kind::Type, &Outcome::Integer(1), "+string\r\n");
        let refused = Outcome::Refused(Refusal::Overflow);
        check(Kind::Plain, &refused, "-ERR increment or decrement would overflow\r\n");
    }
}
