//! The conversion of a command's outcome into its reply, which depends on the command and on the
//! connection's protocol version.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::kv::{Outcome, Refusal};
use crate::redis::statistics::CommandNumber;
use crate::wire::resp::{Version, Writer};

use super::client_info::ClientQuery;
use super::function_reply::{write_dump, write_list};

/// Memory usage in bytes of each value in a reply, in addition to the content of the value.
const ITEM_BYTES: usize = size_of::<Option<Bytes>>();

/// How to write the reply to a submitted request from the outcome (result) of the request. The
/// server keeps the format while the request is in flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyFormat {
    pub(in crate::redis) kind: ReplyKind,
    /// RESP protocol version of the connection when the request was executed.
    pub(in crate::redis) version: Version,
    /// Whether the reply is suppressed because of `CLIENT REPLY`.
    pub(in crate::redis) muted: bool,
}

/// How to write a reply from an outcome; this depends on the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::redis) enum ReplyKind {
    /// Write the outcome itself as the reply.
    Plain,
    /// Reply with this number if the outcome is [`Outcome::Done`], which has no value. `PUBLISH`
    /// replies with the number of subscribers in this way.
    Number(u32),
    /// Write the reply to `EXEC`: an array with the replies to all commands of the transaction, in
    /// order, each with the id of its command.
    Exec(Arc<[(CommandNumber, ExecReply)]>),
    /// Write the libraries of functions as `FUNCTION LIST` does.
    FunctionList {
        /// Whether the code of each library is written, too.
        with_code: bool,
    },
    /// Write the libraries of functions as `FUNCTION DUMP` does.
    FunctionDump,
    /// The request contains scripts, whose run has written the reply already: the outcome only says
    /// whether the reply is right.
    Script,
}

/// The reply to one command of a transaction, as part of the reply to `EXEC`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::redis) enum ExecReply {
    /// A reply that was already written when `EXEC` ran, because it does not depend on the state
    /// machine.
    Written(Bytes),
    /// A reply that is written in this format from an outcome of the transaction. The transaction
    /// has one outcome for each reply of this kind, in the same order.
    Outcome(ReplyFormat),
    /// A reply to `CLIENT LIST`, which is written later: [`ReplyFormat::list_clients`] replaces it
    /// with [`ExecReply::Written`].
    Clients(ClientQuery),
}

impl ExecReply {
    /// Appends the reply to the command to `out`. `outcome` is the outcome of the command, which is
    /// ignored if the reply was already written.
    pub(in crate::redis) fn encode(&self, outcome: &Outcome, out: &mut BytesMut) {
        match self {
            ExecReply::Written(bytes) => out.extend_from_slice(bytes),
            ExecReply::Outcome(reply_format) => reply_format.encode(outcome, out),
            ExecReply::Clients(_) => {
                Writer::new(out, Version::Two).error(
                    b"ERR internal error: the server did not create the reply to CLIENT LIST or \
                      CLIENT INFO in this transaction; send the command again without MULTI",
                );
            }
        }
    }

    /// Takes the command's outcome from `outcomes`, the outcomes of the transaction; `None` if the
    /// reply does not depend on an outcome.
    fn outcome_from<'o>(
        &self,
        outcomes: &mut impl Iterator<Item = &'o Outcome>,
    ) -> Option<&'o Outcome> {
        match self {
            ExecReply::Outcome(_) => outcomes.next(),
            ExecReply::Written(_) | ExecReply::Clients(_) => None,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            ExecReply::Written(bytes) => bytes.len(),
            ExecReply::Outcome(_) | ExecReply::Clients(_) => 0,
        }
    }
}

impl ReplyFormat {
    /// Returns whether the request contains scripts.
    pub fn is_script(&self) -> bool {
        self.kind == ReplyKind::Script
    }

    /// Marks the reply as suppressed because of `CLIENT REPLY`, so that it is not sent.
    pub fn mute(&mut self) {
        self.muted = true;
    }

    /// Returns whether the reply is suppressed because of `CLIENT REPLY`.
    pub fn is_muted(&self) -> bool {
        self.muted
    }

    /// Estimates the length in bytes of the reply for `outcome`. The estimate is at least the
    /// memory usage of `outcome`.
    pub fn reply_bytes(&self, outcome: &Outcome) -> usize {
        match outcome {
            Outcome::Value(value) => ITEM_BYTES + value.as_ref().map_or(0, Bytes::len),
            Outcome::LongValue(value) => ITEM_BYTES + value.len(),
            Outcome::Values(values) => {
                let bytes: usize = values.iter().flatten().map(Bytes::len).sum();
                bytes + ITEM_BYTES * (1 + values.len())
            }
            Outcome::List(_)
            | Outcome::Set(_)
            | Outcome::Pairs(_)
            | Outcome::Map(_)
            | Outcome::Streams(_) => {
                let written = match &self.kind {
                    ReplyKind::Exec(replies) => {
                        replies.iter().map(|(_, reply)| reply.bytes()).sum()
                    }
                    _ => 0,
                };
                ITEM_BYTES + outcome.value_bytes() + written
            }
            _ => ITEM_BYTES,
        }
    }

    /// Appends the reply for `outcome` to `out`, in the RESP protocol version of the connection.
    pub fn encode(&self, outcome: &Outcome, out: &mut BytesMut) {
        write(&mut Writer::new(out, self.version), &self.kind, outcome);
    }

    /// Returns the commands that ran inside the request: for each, the command's id and, if the
    /// reply to the command is an error, the error text. Empty if the request is not an `EXEC`, or
    /// if `outcome` says that the transaction was aborted.
    pub fn nested_calls(&self, outcome: &Outcome) -> Vec<(CommandNumber, Option<Bytes>)> {
        let (ReplyKind::Exec(replies), Outcome::List(outcomes)) = (&self.kind, outcome) else {
            return Vec::new();
        };
        let mut outcomes = outcomes.iter();
        let call = |(command, reply): &(CommandNumber, ExecReply)| {
            let error = match reply {
                ExecReply::Written(bytes) => bytes.starts_with(b"-").then(|| bytes.slice(1..)),
                _ => reply.outcome_from(&mut outcomes).and_then(error_text),
            };
            (*command, error)
        };
        replies.iter().map(call).collect()
    }

    /// Calls `list` for each `CLIENT LIST` inside a transaction, and stores the replies that it
    /// returns. The server must call this function when it submits the transaction.
    pub fn list_clients(&mut self, mut list: impl FnMut(ClientQuery) -> Bytes) {
        let ReplyKind::Exec(replies) = &mut self.kind else { return };
        if !replies.iter().any(|(_, reply)| matches!(reply, ExecReply::Clients(_))) {
            return;
        }
        let replies = replies.iter().map(|(command, reply)| match reply {
            ExecReply::Clients(query) => (*command, ExecReply::Written(list(query.clone()))),
            other => (*command, other.clone()),
        });
        self.kind = ReplyKind::Exec(replies.collect());
    }
}

/// Writes the header of the reply for an outcome with elements; nothing for another outcome.
pub(super) fn write_head(writer: &mut Writer<'_>, outcome: &Outcome) {
    match outcome {
        Outcome::Values(values) => writer.array(values.len()),
        Outcome::List(outcomes) => writer.array(outcomes.len()),
        Outcome::Set(outcomes) => writer.set(outcomes.len()),
        Outcome::Map(pairs) => writer.map(pairs.len()),
        Outcome::Pairs(pairs) => {
            let nested = writer.version() == Version::Three;
            writer.array(if nested { pairs.len() } else { 2 * pairs.len() });
        }
        Outcome::Streams(streams) => match writer.version() {
            Version::Two => writer.array(streams.len()),
            Version::Three => writer.map(streams.len()),
        },
        _ => {}
    }
}

/// Writes an element of an [`Outcome::Pairs`].
pub(super) fn write_pair(
    writer: &mut Writer<'_>,
    kind: &ReplyKind,
    key: &Outcome,
    value: &Outcome,
) {
    if writer.version() == Version::Three {
        writer.array(2);
    }
    write(writer, kind, key);
    write(writer, kind, value);
}

/// Writes the key of a stream of an [`Outcome::Streams`], and the header of the list of its
/// entries, which follow.
pub(super) fn write_stream_head(
    writer: &mut Writer<'_>,
    kind: &ReplyKind,
    key: &Outcome,
    entries: &Outcome,
) {
    if writer.version() == Version::Two {
        writer.array(2);
    }
    write(writer, kind, key);
    write_head(writer, entries);
}

pub(super) fn write(writer: &mut Writer<'_>, kind: &ReplyKind, outcome: &Outcome) {
    match (outcome, kind) {
        (Outcome::Done, ReplyKind::Number(number)) => writer.integer((*number).into()),
        (Outcome::Done, _) => writer.ok(),
        (Outcome::Unchanged, _) => writer.null(),
        (Outcome::Value(value), _) => writer.bulk_or_null(value.as_deref()),
        (Outcome::LongValue(value), _) => writer.bulk_in_slices(value.len(), value.slices()),
        (Outcome::Integer(number), _) => writer.integer(*number),
        (Outcome::Double(number), _) => writer.double(number.0),
        (Outcome::Decimal(number), _) => writer.decimal(number.0),
        (Outcome::Status(text), _) => writer.simple(&String::from_utf8_lossy(text)),
        (Outcome::Type(kind), _) => writer.simple(kind.map_or("none", |kind| kind.name())),
        (Outcome::Values(codes), ReplyKind::FunctionDump) => write_dump(writer, codes),
        (Outcome::List(libraries), ReplyKind::FunctionList { with_code }) => {
            write_list(writer, libraries, *with_code);
        }
        (Outcome::Values(values), _) => {
            write_head(writer, outcome);
            for value in values {
                writer.bulk_or_null(value.as_deref());
            }
        }
        (Outcome::NoList, _) => writer.null_array(),
        (Outcome::List(outcomes), ReplyKind::Exec(replies)) => {
            writer.array(replies.len());
            let mut outcomes = outcomes.iter();
            for (_, reply) in &replies[..] {
                let outcome = reply.outcome_from(&mut outcomes);
                reply.encode(outcome.unwrap_or(&Outcome::Malformed), writer.buffer());
            }
        }
        (Outcome::List(outcomes) | Outcome::Set(outcomes), _) => {
            write_head(writer, outcome);
            for outcome in outcomes {
                write(writer, kind, outcome);
            }
        }
        (Outcome::Map(pairs), _) => {
            write_head(writer, outcome);
            for (key, value) in pairs {
                write(writer, kind, key);
                write(writer, kind, value);
            }
        }
        (Outcome::Pairs(pairs), _) => {
            write_head(writer, outcome);
            for (key, value) in pairs {
                write_pair(writer, kind, key, value);
            }
        }
        (Outcome::Streams(streams), _) => {
            write_head(writer, outcome);
            for (key, entries) in streams {
                write_stream_head(writer, kind, key, entries);
                if let Outcome::List(entries) = entries {
                    for entry in entries {
                        write(writer, kind, entry);
                    }
                }
            }
        }
        (Outcome::Refused(_) | Outcome::Error(_) | Outcome::Forgotten | Outcome::Malformed, _) => {
            let text = error_text(outcome).expect("these outcomes are errors");
            writer.error(&text);
        }
    }
}

/// Returns whether the reply for an outcome is an error, so that it has an [`error_text`].
pub fn is_error(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Error(_) | Outcome::Refused(_) | Outcome::Forgotten | Outcome::Malformed
    )
}

/// Returns the text of the error reply for an outcome, which begins with an error code; `None` if
/// the outcome is not an error.
pub fn error_text(outcome: &Outcome) -> Option<Bytes> {
    let text = match outcome {
        Outcome::Error(text) => return Some(text.clone()),
        Outcome::Refused(refusal) => refusal_text(*refusal),
        Outcome::Forgotten => "UNCERTAIN applied, but its outcome is no longer remembered",
        // Happens only if the command was damaged, because this replica has encoded it.
        Outcome::Malformed => "ERR the command in the log is malformed; it was not applied",
        _ => return None,
    };
    Some(Bytes::from_static(text.as_bytes()))
}

/// Returns Redis's error text for the reason why the state machine refused a command.
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
        Refusal::UsersChanged => "TRYAGAIN the users were changed; not applied, try again",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: ReplyKind, outcome: &Outcome, wanted: &str) {
        let mut out = BytesMut::new();
        ReplyFormat { kind, version: Version::Two, muted: false }.encode(outcome, &mut out);
        assert_eq!(out.escape_ascii().to_string(), wanted.escape_debug().to_string());
    }

    #[test]
    fn reply_size_estimate_counts_every_value() {
        let reply_format =
            ReplyFormat { kind: ReplyKind::Plain, version: Version::Two, muted: false };
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
    fn command_outcomes_are_encoded_as_resp_replies() {
        check(ReplyKind::Plain, &Outcome::Done, "+OK\r\n");
        check(ReplyKind::Plain, &Outcome::Unchanged, "$-1\r\n");
        check(ReplyKind::Plain, &Outcome::Value(None), "$-1\r\n");
        let values = vec![Some(Bytes::from_static(b"a")), None];
        check(ReplyKind::Plain, &Outcome::Values(values), "*2\r\n$1\r\na\r\n$-1\r\n");
        check(ReplyKind::Plain, &Outcome::Integer(-3), ":-3\r\n");
        check(ReplyKind::Plain, &Outcome::Type(None), "+none\r\n");
        check(ReplyKind::Plain, &Outcome::Type(Some(crate::kv::ValueType::Hash)), "+hash\r\n");
        check(ReplyKind::Plain, &Outcome::NoList, "*-1\r\n");
        let pair = vec![(Outcome::Integer(1), Outcome::Integer(2))];
        check(ReplyKind::Plain, &Outcome::Map(pair.clone()), "*2\r\n:1\r\n:2\r\n");
        check(ReplyKind::Plain, &Outcome::Pairs(pair), "*2\r\n:1\r\n:2\r\n");
        let refused = Outcome::Refused(Refusal::Overflow);
        check(ReplyKind::Plain, &refused, "-ERR increment or decrement would overflow\r\n");
    }
}
