//! Replies with many elements, which are encoded a part at a time: the thread that encodes a
//! million elements at once would not handle other clients and heartbeats meanwhile. An element is
//! freed as soon as it is encoded.

use std::vec::IntoIter;

use bytes::{Bytes, BytesMut};

use crate::kv::Outcome;
use crate::wire::resp::{Version, Writer};

use super::reply_format::{
    ReplyFormat, ReplyKind, write, write_head, write_pair, write_stream_head,
};

/// Number of elements from which on a reply is encoded in parts.
const WIDE_LEN: usize = 4_096;

/// A reply with many elements that is encoded in parts.
#[derive(Debug)]
pub struct WideReply {
    version: Version,
    /// The encoded header of the array, set or map; empty once it was written.
    head: BytesMut,
    elements: Elements,
}

/// The elements of a wide reply that have not been encoded yet.
#[derive(Debug)]
enum Elements {
    Values(IntoIter<Option<Bytes>>),
    Outcomes(IntoIter<Outcome>),
    /// The elements of an [`Outcome::Pairs`].
    Pairs(IntoIter<(Outcome, Outcome)>),
    /// The elements of an [`Outcome::Map`].
    Entries(IntoIter<(Outcome, Outcome)>),
    /// The streams of an [`Outcome::Streams`], and the entries of the stream before them.
    Streams(IntoIter<(Outcome, Outcome)>, IntoIter<Outcome>),
}

impl WideReply {
    /// Returns whether the reply for `outcome` has so many elements that it must be encoded in
    /// parts. That of an `EXEC`, which is at most as wide as its transaction, is not, nor are those
    /// about functions.
    pub fn is_wide(reply_format: &ReplyFormat, outcome: &Outcome) -> bool {
        let len = match outcome {
            Outcome::Values(values) => values.len(),
            Outcome::List(outcomes) | Outcome::Set(outcomes) => outcomes.len(),
            Outcome::Pairs(pairs) | Outcome::Map(pairs) => pairs.len(),
            Outcome::Streams(streams) => {
                streams.iter().map(|(_, entries)| entries_in(entries)).sum()
            }
            _ => 0,
        };
        let is_list_of_elements = match reply_format.kind {
            ReplyKind::Plain | ReplyKind::Number(_) | ReplyKind::Script => true,
            ReplyKind::Exec(_) | ReplyKind::FunctionList { .. } | ReplyKind::FunctionDump => false,
        };
        len >= WIDE_LEN && is_list_of_elements
    }

    /// Begins to encode the reply for `outcome`.
    ///
    /// # Errors
    /// Returns the outcome if it is not wide.
    pub fn new(reply_format: &ReplyFormat, outcome: Outcome) -> Result<WideReply, Outcome> {
        if !WideReply::is_wide(reply_format, &outcome) {
            return Err(outcome);
        }
        let (version, mut head) = (reply_format.version, BytesMut::new());
        write_head(&mut Writer::new(&mut head, version), &outcome);
        let elements = match outcome {
            Outcome::Values(values) => Elements::Values(values.into_iter()),
            Outcome::List(outcomes) | Outcome::Set(outcomes) => {
                Elements::Outcomes(outcomes.into_iter())
            }
            Outcome::Pairs(pairs) => Elements::Pairs(pairs.into_iter()),
            Outcome::Map(pairs) => Elements::Entries(pairs.into_iter()),
            Outcome::Streams(streams) => {
                Elements::Streams(streams.into_iter(), Vec::new().into_iter())
            }
            other => return Err(other),
        };
        Ok(WideReply { version, head, elements })
    }

    /// Returns whether a part of the reply has been encoded.
    pub fn has_begun(&self) -> bool {
        self.head.is_empty()
    }

    /// Appends the next elements to `out`: `bytes` bytes, and the rest of the last element. Returns
    /// whether the reply is complete.
    pub fn encode(&mut self, out: &mut BytesMut, bytes: usize) -> bool {
        let end = out.len() + bytes;
        out.unsplit(self.head.split());
        let mut writer = Writer::new(out, self.version);
        while writer.buffer().len() < end {
            match &mut self.elements {
                Elements::Values(values) => match values.next() {
                    Some(value) => writer.bulk_or_null(value.as_deref()),
                    None => return true,
                },
                Elements::Outcomes(outcomes) => match outcomes.next() {
                    Some(outcome) => write(&mut writer, &ReplyKind::Plain, &outcome),
                    None => return true,
                },
                Elements::Pairs(pairs) => match pairs.next() {
                    Some((key, value)) => {
                        write_pair(&mut writer, &ReplyKind::Plain, &key, &value);
                    }
                    None => return true,
                },
                Elements::Entries(pairs) => match pairs.next() {
                    Some((key, value)) => {
                        write(&mut writer, &ReplyKind::Plain, &key);
                        write(&mut writer, &ReplyKind::Plain, &value);
                    }
                    None => return true,
                },
                Elements::Streams(streams, entries) => {
                    if let Some(entry) = entries.next() {
                        write(&mut writer, &ReplyKind::Plain, &entry);
                        continue;
                    }
                    let Some((key, next)) = streams.next() else { return true };
                    write_stream_head(&mut writer, &ReplyKind::Plain, &key, &next);
                    if let Outcome::List(next) = next {
                        *entries = next.into_iter();
                    }
                }
            }
        }
        false
    }
}

fn entries_in(outcome: &Outcome) -> usize {
    if let Outcome::List(entries) = outcome { entries.len() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ELEMENT_BYTES_MAX: usize = 100;

    /// Encodes the reply for `outcome` in parts of at least `bytes` bytes. Returns the reply, and
    /// the number of parts.
    fn encode_in_parts(
        reply_format: &ReplyFormat,
        outcome: Outcome,
        bytes: usize,
    ) -> (BytesMut, usize) {
        let mut reply = WideReply::new(reply_format, outcome).unwrap();
        let (mut out, mut parts) = (BytesMut::new(), 1);
        loop {
            let before = out.len();
            let is_complete = reply.encode(&mut out, bytes);
            assert!(out.len() - before < bytes + ELEMENT_BYTES_MAX, "{before} {}", out.len());
            if is_complete {
                return (out, parts);
            }
            parts += 1;
        }
    }

    #[test]
    fn reply_in_parts_equals_the_reply_encoded_at_once() {
        let number = |at: usize| Outcome::Integer(i64::try_from(at).unwrap());
        let text = |at: usize| Outcome::Value(Some(Bytes::from(format!("member {at}"))));
        let pairs: Vec<_> = (0..WIDE_LEN).map(|at| (text(at), number(at))).collect();
        let values = (0..WIDE_LEN).map(|at| (at % 3 > 0).then(|| Bytes::from(at.to_string())));
        let outcomes: Vec<Outcome> = (0..WIDE_LEN).map(text).collect();
        for version in [Version::Two, Version::Three] {
            let reply_format = ReplyFormat { kind: ReplyKind::Plain, version, muted: false };
            for outcome in [
                Outcome::Values(values.clone().collect()),
                Outcome::List(outcomes.clone()),
                Outcome::Set(outcomes.clone()),
                Outcome::Map(pairs.clone()),
                Outcome::Pairs(pairs.clone()),
                Outcome::Streams(vec![
                    (text(0), Outcome::List(outcomes[..WIDE_LEN - 1].to_vec())),
                    (text(1), Outcome::List(outcomes[..1].to_vec())),
                ]),
            ] {
                let mut whole = BytesMut::new();
                reply_format.encode(&outcome, &mut whole);
                let (in_parts, parts) = encode_in_parts(&reply_format, outcome, 1_000);
                assert!(in_parts == whole, "{version:?}");
                let most = whole.len().div_ceil(1_000);
                let fewest = whole.len() / (1_000 + ELEMENT_BYTES_MAX);
                assert!((fewest..=most).contains(&parts), "{version:?}: {parts} parts");
            }
        }
    }

    #[test]
    fn only_replies_with_many_elements_are_encoded_in_parts() {
        let plain = ReplyFormat { kind: ReplyKind::Plain, version: Version::Two, muted: false };
        let list = |len| Outcome::List(vec![Outcome::Done; len]);
        assert_eq!(WideReply::new(&plain, list(WIDE_LEN - 1)).unwrap_err(), list(WIDE_LEN - 1));
        assert!(WideReply::new(&plain, list(WIDE_LEN)).is_ok());
        let exec = ReplyFormat { kind: ReplyKind::Exec([].into()), ..plain };
        assert!(!WideReply::is_wide(&exec, &list(WIDE_LEN)));
    }
}
