//! What comes of commands. An outcome is a fact of the log: the same on every replica, and also
//! where a command is refused. It is answered to the client and kept in the memory of requests.

use bytes::Bytes;

/// What came of a command: the same on every replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A key's value, if it has one; or had, before the command.
    Value(Option<Bytes>),
    /// The key is set.
    Done,
    /// The key has no value now; whether it had one.
    Deleted(bool),
    /// Whether the amount was moved.
    Transferred(bool),
    /// The payload was no command; nothing was done.
    Malformed,
    /// The condition did not hold; nothing was done.
    Unchanged,
    /// A number: a sum, a length or a count.
    Integer(i64),
    /// The values of several keys, in the order in which they were asked for.
    Values(Vec<Option<Bytes>>),
    /// It can't be done with the values there are; nothing was done.
    Refused(Refusal),
    /// It was done, but long ago: what came of it is no longer remembered.
    Forgotten,
}

/// Why a command can't be done with the values there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The value is no whole number of 64 bits.
    NotAnInteger,
    /// The sum would be none.
    Overflow,
    /// The value would be longer than [`VALUE_BYTES_MAX`](super::VALUE_BYTES_MAX).
    TooLong,
}

impl Outcome {
    /// A count of things in memory.
    pub(super) fn count(count: usize) -> Outcome {
        Outcome::Integer(i64::try_from(count).expect("there are fewer bytes than 2^63"))
    }

    /// Bytes of values that it holds in memory.
    pub(super) fn value_bytes(&self) -> usize {
        match self {
            Outcome::Value(value) => value.as_ref().map_or(0, Bytes::len),
            Outcome::Values(values) => values.iter().flatten().map(Bytes::len).sum(),
            Outcome::Done
            | Outcome::Deleted(_)
            | Outcome::Transferred(_)
            | Outcome::Malformed
            | Outcome::Unchanged
            | Outcome::Integer(_)
            | Outcome::Refused(_)
            | Outcome::Forgotten => 0,
        }
    }
}
