//! Outcomes of commands. An outcome, even if it is a refusal, depends only on the log, so it is
//! equal on every replica. It is sent to the client and stored for retries.

use std::borrow::Cow;

use bytes::Bytes;

use crate::kv::keyspace::WrongType;
use crate::kv::values::collection::ValueType;
use crate::kv::values::string::{LongValue, SharedString};

/// The result of a command, from which the server writes the reply. All replicas compute the same
/// outcome for a command in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A byte string, such as the value of a key; `None` if the key does not exist (null reply).
    Value(Option<Bytes>),
    /// A byte string that shares the memory of a long string in the keyspace. The reply is the same
    /// as for [`Outcome::Value`]. A stored outcome of this kind is decoded as a `Value`.
    LongValue(LongValue),
    /// The command succeeded and has no other result. For most commands, the reply is `OK`.
    Done,
    /// The operation could not be decoded, so nothing was applied.
    Malformed,
    /// A condition of the command, such as `NX` of `SET`, was not met, so nothing was changed.
    Unchanged,
    /// A 64-bit integer, such as a count or a length, or 1 for true and 0 for false.
    Integer(i64),
    /// A list of byte strings, such as the values of several keys in the order of the request;
    /// `None` for a missing value (null).
    Values(Vec<Option<Bytes>>),
    /// The command was refused for this reason, and nothing was changed.
    Refused(Refusal),
    /// The request repeats a request that was applied before and whose outcome is no longer stored.
    Forgotten,
    /// The type of a key's value; `None` if the key does not exist.
    Type(Option<ValueType>),
    /// A floating-point number.
    Double(Double),
    /// A floating-point number that is written with a decimal point and without an exponent, such
    /// as a coordinate.
    Decimal(Double),
    /// A short text, such as the name of a state, that is not a value of the keyspace (a simple
    /// string).
    Status(Bytes),
    /// Null in place of a list (a null array in RESP2).
    NoList,
    /// The command failed with this error text, which begins with an error code such as `ERR`.
    /// Nothing was changed.
    Error(Bytes),
    /// A list of outcomes, such as those of the commands of a transaction, in order.
    List(Vec<Outcome>),
    /// Ordered pairs of outcomes, such as members with their scores: an array of two-element arrays
    /// in RESP3, a flat array in RESP2.
    Pairs(Vec<(Outcome, Outcome)>),
    /// Pairs of keys and values in arbitrary order: a map in RESP3, a flat array in RESP2.
    Map(Vec<(Outcome, Outcome)>),
    /// A set of outcomes in arbitrary order: a set in RESP3, an array in RESP2.
    Set(Vec<Outcome>),
    /// Keys of streams, each with a list of entries: a map in RESP3, an array of two-element arrays
    /// in RESP2.
    Streams(Vec<(Outcome, Outcome)>),
}

/// A floating-point number other than NaN. Two numbers count as equal only if their bits are equal,
/// so 0 differs from -0.
#[derive(Debug, Clone, Copy)]
pub struct Double(pub f64);

impl PartialEq for Double {
    fn eq(&self, other: &Double) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Double {}

/// The reason why a command was refused. Snapshots store a reason as its index in `Refusal::ALL`,
/// so append new reasons at the end of that list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The value of the key or an argument is not a 64-bit integer.
    NotAnInteger,
    /// The result of an increment or decrement does not fit into a 64-bit integer.
    Overflow,
    /// The new value would be longer than `proto-max-bulk-len` of the replica that received the
    /// command, or than [`VALUE_BYTES_MAX`](crate::kv::VALUE_BYTES_MAX).
    TooLong,
    /// The value of the key has a different type than the command requires (`WRONGTYPE`).
    WrongType,
    /// The order or the number of the arguments is invalid, or an option is unknown.
    Syntax,
    /// An argument is not a floating-point number.
    NotAFloat,
    /// The value of the hash field is not a 64-bit integer.
    HashNotAnInteger,
    /// The key does not exist.
    NoSuchKey,
    /// The count argument is not an integer or is negative.
    NotPositive,
    /// The absolute value of the count argument exceeds the maximum number of random elements.
    OutOfRange,
    /// The count argument is -2^63, whose absolute value does not fit into a 64-bit integer.
    NotAbsolute,
    /// The `numkeys` argument is less than 1.
    NoKeys,
    /// The `numkeys` argument is greater than the number of arguments that follow it.
    TooManyKeys,
    /// The option `LIMIT` of `SINTERCARD` or `ZINTERCARD` is negative.
    NegativeLimit,
    /// The result of an increment would be NaN or infinite.
    NotFinite,
    /// Source and destination of the command are the same key.
    SameObject,
    /// The sum of a score and an increment would be NaN.
    ScoreNaN,
    /// A weight of a sorted-set command is not a floating-point number.
    WeightNotAFloat,
    /// The minimum or maximum score of a range is not a floating-point number.
    EndNotAFloat,
    /// The minimum or maximum member of a range does not begin with `[` or `(` and is not `-` or
    /// `+`.
    EndNotLex,
    /// The options `NX` and `XX` were both given, but exclude each other.
    AbsentAndPresent,
    /// More than one of the options `GT`, `LT` and `NX` was given, but they exclude each other.
    ManyConditions,
    /// `ZADD` with the option `INCR` was given more than one score and member.
    ManyIncrements,
    /// The option `LIMIT` was given for a range of ranks, but is allowed only for a range of scores
    /// or members (`BYSCORE` or `BYLEX`).
    LimitOfPlaces,
    /// The options `WITHSCORES` and `BYLEX` of `ZRANGE` were both given, but exclude each other.
    ScoresOfLex,
    /// The value of the option `COUNT` is not greater than 0.
    NoCount,
    /// The users were changed after the replica that received the request had checked it, so the
    /// replica must check it again. The server does so before it replies.
    UsersChanged,
}

impl Refusal {
    /// All reasons for a refusal. Snapshots store a reason as its index in this list, so append new
    /// reasons at the end.
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
        Refusal::UsersChanged,
    ];
}

impl From<Refusal> for Outcome {
    fn from(refusal: Refusal) -> Outcome {
        Outcome::Refused(refusal)
    }
}

impl Outcome {
    /// Returns the outcome of a command that returns a string; `None` means that the key does not
    /// exist (null reply).
    pub(in crate::kv) fn string(string: Option<SharedString>) -> Outcome {
        match string {
            None => Outcome::Value(None),
            Some(SharedString::Short(bytes)) => Outcome::Value(Some(bytes)),
            Some(SharedString::Long(value)) => Outcome::LongValue(value),
        }
    }

    /// Returns the outcome of a command that returns several strings, where `None` is a missing
    /// string.
    pub(in crate::kv) fn strings(strings: impl Iterator<Item = Option<SharedString>>) -> Outcome {
        let strings: Vec<Option<SharedString>> = strings.collect();
        if strings.iter().any(|string| matches!(string, Some(SharedString::Long(_)))) {
            return Outcome::List(strings.into_iter().map(Outcome::string).collect());
        }
        let short = |string| match string {
            Some(SharedString::Short(bytes)) => Some(bytes),
            _ => None,
        };
        Outcome::Values(strings.into_iter().map(short).collect())
    }

    /// Returns an integer outcome for a number of elements or bytes.
    pub(in crate::kv) fn count(count: usize) -> Outcome {
        Outcome::Integer(i64::try_from(count).expect("counts are below 2^63"))
    }

    /// Returns an error outcome. `text` must begin with an error code, such as `ERR`.
    pub(in crate::kv) fn error(text: impl Into<String>) -> Outcome {
        Outcome::Error(Bytes::from(text.into()))
    }

    /// Returns an error outcome: `text`, followed by the argument `word` up to its first NUL byte,
    /// as in Redis.
    pub(in crate::kv) fn error_quoting(text: &str, word: &[u8]) -> Outcome {
        let end = word.iter().position(|byte| *byte == 0).unwrap_or(word.len());
        Outcome::Error(Bytes::from([text.as_bytes(), &word[..end]].concat()))
    }

    /// Returns the error outcome for a wrong number of arguments of `command`, such as for `HSET`
    /// with a field but no value. The general check of the number of arguments cannot detect such
    /// cases.
    pub(in crate::kv) fn wrong_number(command: &str) -> Outcome {
        Outcome::error(format!("ERR wrong number of arguments for '{command}' command"))
    }

    /// Returns the integer outcome that stands for a boolean: 1 for true, 0 for false.
    pub(in crate::kv) fn flag(truth: bool) -> Outcome {
        Outcome::Integer(truth.into())
    }

    /// Returns the value in the outcome of a read, which is empty if the key does not exist; `None`
    /// if the outcome is not a value.
    pub fn value(&self) -> Option<Cow<'_, [u8]>> {
        match self {
            Outcome::Value(value) => Some(Cow::Borrowed(value.as_deref().unwrap_or_default())),
            Outcome::LongValue(value) => Some(Cow::Owned(value.to_bytes().into())),
            _ => None,
        }
    }

    /// Returns the heap memory usage of the outcome's values, in bytes, without the size of the
    /// outcome itself.
    pub fn value_bytes(&self) -> usize {
        let both = |(one, other): &(Outcome, Outcome)| one.value_bytes() + other.value_bytes();
        match self {
            Outcome::List(outcomes) | Outcome::Set(outcomes) => {
                size_of_val(&outcomes[..])
                    + outcomes.iter().map(Outcome::value_bytes).sum::<usize>()
            }
            Outcome::Pairs(pairs) | Outcome::Map(pairs) | Outcome::Streams(pairs) => {
                size_of_val(&pairs[..]) + pairs.iter().map(both).sum::<usize>()
            }
            Outcome::Value(value) => value.as_ref().map_or(0, Bytes::len),
            Outcome::LongValue(value) => value.len(),
            Outcome::Error(text) | Outcome::Status(text) => text.len(),
            Outcome::Values(values) => values.iter().flatten().map(Bytes::len).sum(),
            Outcome::Done
            | Outcome::Malformed
            | Outcome::Unchanged
            | Outcome::Integer(_)
            | Outcome::Refused(_)
            | Outcome::Forgotten
            | Outcome::Type(_)
            | Outcome::Double(_)
            | Outcome::Decimal(_)
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
