//! Ids of stream entries: a time in milliseconds and a sequence number.

use std::fmt;

use bytes::{Buf as _, BufMut as _};

use crate::kv::values::codec::{put_number, take_number};
use crate::kv::values::digest::mix;

/// Maximum length in bytes of an id in a request, as in Redis.
const TEXT_BYTES_MAX: usize = 127;

/// The id of an entry of a stream. Ids are ordered by time, then by sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(in crate::kv) struct StreamId {
    /// Usually the time at which the entry was added, in milliseconds since 1970.
    pub(in crate::kv) millis: u64,
    /// Sequence number among the entries with the same time.
    pub(in crate::kv) sequence: u64,
}

/// An id in a request whose sequence number may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kv) struct PartialId {
    pub(in crate::kv) millis: u64,
    pub(in crate::kv) sequence: Sequence,
}

/// The sequence number of an id in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kv) enum Sequence {
    Given(u64),
    /// The id is only a time, without a hyphen.
    Missing,
    /// The id is a time followed by `-*`.
    Automatic,
}

impl StreamId {
    pub(in crate::kv) const MIN: StreamId = StreamId::new(0, 0);
    pub(in crate::kv) const MAX: StreamId = StreamId::new(u64::MAX, u64::MAX);

    pub(in crate::kv) const fn new(millis: u64, sequence: u64) -> StreamId {
        StreamId { millis, sequence }
    }

    /// Returns the next higher id; `None` for [`StreamId::MAX`].
    pub(in crate::kv) fn next(self) -> Option<StreamId> {
        match self.sequence.checked_add(1) {
            Some(sequence) => Some(StreamId { sequence, ..self }),
            None => Some(StreamId::new(self.millis.checked_add(1)?, 0)),
        }
    }

    /// Returns the next lower id; `None` for [`StreamId::MIN`].
    pub(in crate::kv) fn previous(self) -> Option<StreamId> {
        match self.sequence.checked_sub(1) {
            Some(sequence) => Some(StreamId { sequence, ..self }),
            None => Some(StreamId::new(self.millis.checked_sub(1)?, u64::MAX)),
        }
    }

    /// Returns a hash of the id combined with `salt`.
    pub(in crate::kv) fn hash(self, salt: u64) -> u64 {
        mix(mix(salt, self.millis), self.sequence)
    }

    /// Appends the id to `out`, encoded for a snapshot as a difference from the id `before`, which
    /// must not be higher.
    pub(in crate::kv) fn encode_after(self, before: StreamId, out: &mut Vec<u8>) {
        let millis = self.millis - before.millis;
        let base = if millis == 0 { before.sequence } else { 0 };
        put_number(millis, out);
        put_number(self.sequence - base, out);
    }

    /// Decodes an id that [`StreamId::encode_after`] encoded, and removes it from the front of
    /// `from`; `None` if the bytes are malformed.
    pub(in crate::kv) fn decode_after(before: StreamId, from: &mut &[u8]) -> Option<StreamId> {
        let millis = take_number(from)?;
        let base = if millis == 0 { before.sequence } else { 0 };
        let sequence = base.checked_add(take_number(from)?)?;
        Some(StreamId::new(before.millis.checked_add(millis)?, sequence))
    }

    /// Appends the id to `out`, encoded for a snapshot in 16 bytes.
    pub(in crate::kv) fn encode(self, out: &mut Vec<u8>) {
        out.put_u64_le(self.millis);
        out.put_u64_le(self.sequence);
    }

    /// Decodes an id that [`StreamId::encode`] encoded, and removes it from the front of `from`;
    /// `None` if there are not enough bytes.
    pub(in crate::kv) fn decode(from: &mut &[u8]) -> Option<StreamId> {
        Some(StreamId::new(from.try_get_u64_le().ok()?, from.try_get_u64_le().ok()?))
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}-{}", self.millis, self.sequence)
    }
}

impl PartialId {
    /// Parses an id of the form `millis`, `millis-sequence` or `millis-*`; `None` if it has another
    /// form.
    pub(in crate::kv) fn parse(text: &[u8]) -> Option<PartialId> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        // As in Redis, a NUL byte ends the id.
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        match text.iter().position(|byte| *byte == b'-') {
            None => Some(PartialId { millis: parse_number(text)?, sequence: Sequence::Missing }),
            Some(hyphen) => {
                let sequence = match &text[hyphen + 1..] {
                    b"*" => Sequence::Automatic,
                    digits => Sequence::Given(parse_number(digits)?),
                };
                Some(PartialId { millis: parse_number(&text[..hyphen])?, sequence })
            }
        }
    }

    /// Returns the id, with the sequence number `missing` if it has none; `None` if the sequence
    /// number is to be chosen.
    pub(in crate::kv) fn complete(self, missing: u64) -> Option<StreamId> {
        let sequence = match self.sequence {
            Sequence::Given(sequence) => sequence,
            Sequence::Missing => missing,
            Sequence::Automatic => return None,
        };
        Some(StreamId::new(self.millis, sequence))
    }
}

/// Parses an unsigned number as Redis does, which accepts what C's `strtoull` accepts: leading
/// white space, a sign and leading zeros. A number that is negative in its usual form is refused.
fn parse_number(text: &[u8]) -> Option<u64> {
    let after_space = text.trim_ascii_start();
    let (is_negative, digits) = match after_space {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] | digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let is_usual = after_space.len() == text.len() && digits[0] != b'0';
    if is_negative && is_usual && digits.len() < 20 {
        return None;
    }
    let number = digits.iter().try_fold(0_u64, |number, digit| {
        number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    })?;
    Some(if is_negative { number.wrapping_neg() } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_ids_are_parsed_as_in_redis() {
        let given = |millis, sequence| Some((millis, Sequence::Given(sequence)));
        for (text, wanted) in [
            (&b"5"[..], Some((5, Sequence::Missing))),
            (b"5-*", Some((5, Sequence::Automatic))),
            (b"5-7", given(5, 7)),
            (b"05-+7", given(5, 7)),
            (b" 5-7", given(5, 7)),
            (b"5-7\0x", given(5, 7)),
            (b"18446744073709551615-18446744073709551615", given(u64::MAX, u64::MAX)),
            (b"18446744073709551616", None),
            (b"5--7", None),
            (b"5--07", given(5, 7_u64.wrapping_neg())),
            (b"5-", None),
            (b"-", None),
            (b"", None),
            (b"5-7 ", None),
            (b"5-*x", None),
            (b"x-1", None),
        ] {
            let parsed = PartialId::parse(text).map(|id| (id.millis, id.sequence));
            assert_eq!(parsed, wanted, "{}", text.escape_ascii());
        }
        assert_eq!(PartialId::parse(&[b'0'; TEXT_BYTES_MAX + 1]), None);
    }

    #[test]
    fn stream_ids_have_successors_and_predecessors() {
        let ids = [StreamId::MIN, StreamId::new(3, 9), StreamId::new(3, u64::MAX), StreamId::MAX];
        for id in ids {
            assert!(id.next().is_none_or(|next| next > id && next.previous() == Some(id)));
            assert!(id.previous().is_none_or(|one| one < id && one.next() == Some(id)));
            for before in ids.into_iter().filter(|before| *before <= id) {
                let mut bytes = Vec::new();
                id.encode_after(before, &mut bytes);
                assert_eq!(StreamId::decode_after(before, &mut &bytes[..]), Some(id));
            }
        }
        assert_eq!((StreamId::MIN.previous(), StreamId::MAX.next()), (None, None));
    }
}
