//! Outcomes of commands. An outcome, including a refusal, follows from the log, so it is equal on
//! every replica. It is sent to the client and stored for retries.

use crate::kv::keyspace::WrongType;
use bytes::Bytes;

use crate::kv::values::collection::ValueType;

/// The outcome of a command. It is derived from the log, so it is equal on every replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A byte string, such as the value of a key (for some commands its value before the command);
    /// `None` if it does not exist (null reply).
    Value(Option<Bytes>),
    /// The command was applied; the reply is `OK` for most commands.
    Done,
    /// The payload was not a command; nothing was applied.
    Malformed,
    /// A condition of the command, such as `NX` of `SET`, was not met; nothing was changed.
    Unchanged,
    /// A 64-bit integer, such as a sum, a length, a count, or 1 or 0 for yes or no.
    Integer(i64),
    /// A list of byte strings, such as the values of several keys in the order of the request;
    /// `None` for a missing value (null).
    Values(Vec<Option<Bytes>>),
    /// The command is refused; nothing was changed.
    Refused(Refusal),
    /// The command was applied before, but its outcome is no longer stored.
    Forgotten,
    /// The type of a key's value; `None` if the key does not exist.
    Type(Option<ValueType>),
    /// A floating-point number.
    Double(Double),
    /// Null in place of a list (a null array in RESP 2).
    NoList,
    /// The command failed with this error text, which begins with the error code; nothing was
    /// changed.
    Error(Bytes),
    /// The outcomes of several calls or a list of values, in order.
    List(Vec<Outcome>),
    /// Pairs of outcomes in order, such as members with their scores: an array of two-element
    /// arrays in RESP 3, one flat array in RESP 2.
    Pairs(Vec<(Outcome, Outcome)>),
    /// Pairs of keys and values in arbitrary order: a map in RESP 3, one flat array in RESP 2.
    Map(Vec<(Outcome, Outcome)>),
    /// Several outcomes in arbitrary order: a set in RESP 3, an array in RESP 2.
    Set(Vec<Outcome>),
}

/// A floating-point number other than NaN. Two numbers are equal if their bit patterns are equal.
#[derive(Debug, Clone, Copy)]
pub struct Double(pub f64);

impl PartialEq for Double {
    fn eq(&self, other: &Double) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Double {}

/// Why a command is refused. Append new reasons at the end of `Refusal::ALL`: a reason is encoded
/// in snapshots as its index in that list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The value of the key, or an argument, is not a 64-bit integer.
    NotAnInteger,
    /// The result of an increment or decrement is out of the range of 64-bit integers.
    Overflow,
    /// The value would be longer than [`VALUE_BYTES_MAX`](crate::kv::VALUE_BYTES_MAX).
    TooLong,
    /// The key holds a value of another type than the command requires (`WRONGTYPE`).
    WrongType,
    /// The order or the number of the arguments is invalid, or an option is unknown.
    Syntax,
    /// An argument is not a floating-point number.
    NotAFloat,
    /// The value of the hash field is not a 64-bit integer.
    HashNotAnInteger,
    /// The key does not exist.
    NoSuchKey,
    /// The count argument must be an integer that is not negative.
    NotPositive,
    /// The absolute value of the count argument is above the maximum number of random elements.
    OutOfRange,
    /// The count argument is -2^63, whose absolute value does not fit into a signed 64-bit integer.
    NotAbsolute,
    /// `numkeys` must be at least 1.
    NoKeys,
    /// `numkeys` is greater than the number of arguments that follow.
    TooManyKeys,
    /// The `LIMIT` option of `SINTERCARD` or `ZINTERCARD` must not be negative.
    NegativeLimit,
    /// The result of an increment would be NaN or infinite.
    NotFinite,
    /// Source and destination are the same key.
    SameObject,
    /// The sum of a score and an increment would be NaN.
    ScoreNaN,
    /// A weight is not a floating-point number.
    WeightNotAFloat,
    /// The minimum or maximum score of a range is not a floating-point number.
    EndNotAFloat,
    /// The minimum or maximum member of a range does not begin with `[` or `(` and is not `-` or
    /// `+`.
    EndNotLex,
    /// The options `NX` and `XX` exclude each other.
    AbsentAndPresent,
    /// The options `GT`, `LT` and `NX` exclude each other.
    ManyConditions,
    /// `ZADD` with `INCR` takes a single score and member.
    ManyIncrements,
    /// The `LIMIT` option of a range command requires a range by score or by member (`BYSCORE` or
    /// `BYLEX`), not by rank.
    LimitOfPlaces,
    /// The options `WITHSCORES` and `BYLEX` of `ZRANGE` exclude each other.
    ScoresOfLex,
    /// The `COUNT` argument must be greater than 0.
    NoCount,
}

impl Refusal {
    /// All refusals. A refusal is encoded in snapshots as its index in this list.
    pub(in crate::kv) const ALL: &[Refusal] = &[
        Refusal::NotAnInteger,
        Refusal::Overflow,
        Refusal::TooLong,
        Refusal::WrongType,
        Refusal::Syntax,
        Refusal::NotAFloat,
        Refusal::HashNotAnInteger,
        Refusal::NoSuchKey,
        Refusal::NotPositive,
        Refusal::OutOfRange,
        Refusal::NotAbsolute,
        Refusal::NoKeys,
        Refusal::TooManyKeys,
        Refusal::NegativeLimit,
        Refusal::NotFinite,
        Refusal::SameObject,
        Refusal::ScoreNaN,
        Refusal::WeightNotAFloat,
        Refusal::EndNotAFloat,
        Refusal::EndNotLex,
        Refusal::AbsentAndPresent,
        Refusal::ManyConditions,
        Refusal::ManyIncrements,
        Refusal::LimitOfPlaces,
        Refusal::ScoresOfLex,
        Refusal::NoCount,
    ];
}

impl From<Refusal> for Outcome {
    fn from(refusal: Refusal) -> Outcome {
        Outcome::Refused(refusal)
    }
}

impl Outcome {
    /// Returns a count of elements or bytes as an integer outcome.
    pub(in crate::kv) fn count(count: usize) -> Outcome {
        Outcome::Integer(i64::try_from(count).expect("counts are below 2^63"))
    }

    /// Returns an error outcome. `text` begins with the error code, such as `ERR`.
    pub(in crate::kv) fn error(text: impl Into<String>) -> Outcome {
        Outcome::Error(Bytes::from(text.into()))
    }

    /// Returns an error outcome that consists of `text` and the argument `word` up to its first NUL
    /// byte, as in Redis.
    pub(in crate::kv) fn error_quoting(text: &str, word: &[u8]) -> Outcome {
        let end = word.iter().position(|byte| *byte == 0).unwrap_or(word.len());
        Outcome::Error(Bytes::from([text.as_bytes(), &word[..end]].concat()))
    }

    /// Returns the error for a call of `command` with a wrong number of arguments that a check of
    /// the command's arity does not detect, such as `HSET` with a field but no value.
    pub(in crate::kv) fn wrong_number(command: &str) -> Outcome {
        Outcome::error(format!("ERR wrong number of arguments for '{command}' command"))
    }

    /// Returns the integer outcome 1 for true and 0 for false.
    pub(in crate::kv) fn flag(truth: bool) -> Outcome {
        Outcome::Integer(truth.into())
    }

    /// Returns the heap memory usage of the values in this outcome, in bytes, without the size of
    /// the outcome itself.
    pub fn value_bytes(&self) -> usize {
        let both = |(one, other): &(Outcome, Outcome)| one.value_bytes() + other.value_bytes();
        match self {
            Outcome::List(outcomes) | Outcome::Set(outcomes) => {
                size_of_val(&outcomes[..])
                    + outcomes.iter().map(Outcome::value_bytes).sum::<usize>()
            }
            Outcome::Pairs(pairs) | Outcome::Map(pairs) => {
                size_of_val(&pairs[..]) + pairs.iter().map(both).sum::<usize>()
            }
            Outcome::Value(value) => value.as_ref().map_or(0, Bytes::len),
            Outcome::Error(text) => text.len(),
            Outcome::Values(values) => values.iter().flatten().map(Bytes::len).sum(),
            Outcome::Done
            | Outcome::Malformed
            | Outcome::Unchanged
            | Outcome::Integer(_)
            | Outcome::Refused(_)
            | Outcome::Forgotten
            | Outcome::Type(_)
            | Outcome::Double(_)
            | Outcome::NoList => 0,
        }
    }
}
impl From<WrongType> for Refusal {
    fn from(WrongType: WrongType) -> Refusal {
        Refusal::WrongType
    }
}

impl From<WrongType> for Outcome {
    fn from(error: WrongType) -> Outcome {
        Outcome::Refused(error.into())
    }
}
