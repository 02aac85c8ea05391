//! Outcomes of commands. An outcome follows from the log, so it is the same on every replica, and
//! also where a command is refused. It is sent to the client and kept for retries.

use crate::kv::keyspace::WrongType;
use bytes::Bytes;

use crate::kv::values::collection::ValueType;

/// The outcome of a command, the same on every replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The value of a key, or its value before the command; `None` if it had none.
    Value(Option<Bytes>),
    /// The command was applied.
    Done,
    /// The payload was not a command; nothing was applied.
    Malformed,
    /// A condition was not met; nothing was changed.
    Unchanged,
    /// A number: a sum, a length or a count.
    Integer(i64),
    /// The values of several keys, in the order of the request.
    Values(Vec<Option<Bytes>>),
    /// The command is refused; nothing was changed.
    Refused(Refusal),
    /// The command was applied, but so long ago that its outcome is no longer stored.
    Forgotten,
    /// The type of a key's value; `None` if the key does not exist.
    Type(Option<ValueType>),
    /// A floating-point number.
    Double(Double),
    /// Null in the place of a list.
    NoList,
    /// The command failed with this error, which begins with its code; nothing was changed.
    Error(Bytes),
    /// Several outcomes in order.
    List(Vec<Outcome>),
    /// Pairs of outcomes in order, which RESP 2 clients receive as one flat array.
    Pairs(Vec<(Outcome, Outcome)>),
    /// Keys and values in arbitrary order.
    Map(Vec<(Outcome, Outcome)>),
    /// Several outcomes in arbitrary order.
    Set(Vec<Outcome>),
}

/// A floating-point number other than NaN; equal if the bits are equal.
#[derive(Debug, Clone, Copy)]
pub struct Double(pub f64);

impl PartialEq for Double {
    fn eq(&self, other: &Double) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Double {}

/// Why a command is refused. New reasons go to the end of `Refusal::ALL`: the position there is the
/// byte in snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The value or an argument is not a 64-bit integer.
    NotAnInteger,
    /// The sum is out of range.
    Overflow,
    /// The value would be longer than [`VALUE_BYTES_MAX`](super::VALUE_BYTES_MAX).
    TooLong,
    /// The key holds a value of another type.
    WrongType,
    /// Arguments in an invalid order or number.
    Syntax,
    /// The argument is not a number.
    NotAFloat,
    /// The value of the hash's field is not an integer.
    HashNotAnInteger,
    /// The key does not exist.
    NoSuchKey,
    /// The argument must be positive.
    NotPositive,
    /// The count is out of range.
    OutOfRange,
    /// The argument must be a number that can be negated.
    NotAbsolute,
    /// At least one key is required.
    NoKeys,
    /// The number of keys is greater than the number of arguments.
    TooManyKeys,
    /// `LIMIT` must not be negative.
    NegativeLimit,
    /// The sum would be NaN or infinite.
    NotFinite,
    /// Source and destination are the same key.
    SameObject,
    /// The sum of scores would be NaN.
    ScoreNaN,
    /// A weight is not a number.
    WeightNotAFloat,
    /// The minimum or maximum score is not a number.
    EndNotAFloat,
    /// The minimum or maximum member does not begin with `[` or `(` and is not `-` or `+`.
    EndNotLex,
    /// `NX` and `XX` exclude each other.
    AbsentAndPresent,
    /// `GT`, `LT` and `NX` exclude each other.
    ManyConditions,
    /// `INCR` takes a single member.
    ManyIncrements,
    /// `LIMIT` requires `BYSCORE` or `BYLEX`.
    LimitOfPlaces,
    /// `WITHSCORES` is not possible with `BYLEX`.
    ScoresOfLex,
    /// The count must be positive.
    NoCount,
}

impl Refusal {
    /// All refusals, by their byte in snapshots.
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
    /// A number of things in memory.
    pub(in crate::kv) fn count(count: usize) -> Outcome {
        Outcome::Integer(i64::try_from(count).expect("counts are below 2^63"))
    }

    /// An error, which begins with its code.
    pub(in crate::kv) fn error(text: impl Into<String>) -> Outcome {
        Outcome::Error(Bytes::from(text.into()))
    }

    /// An error that quotes an argument at its end, up to its first NUL, as Redis does.
    pub(in crate::kv) fn error_quoting(text: &str, word: &[u8]) -> Outcome {
        let end = word.iter().position(|byte| *byte == 0).unwrap_or(word.len());
        Outcome::Error(Bytes::from([text.as_bytes(), &word[..end]].concat()))
    }

    /// The error for a number of arguments that the command's arity does not rule out.
    pub(in crate::kv) fn wrong_number(command: &str) -> Outcome {
        Outcome::error(format!("ERR wrong number of arguments for '{command}' command"))
    }

    /// 1 or 0.
    pub(in crate::kv) fn flag(truth: bool) -> Outcome {
        Outcome::Integer(truth.into())
    }

    /// Memory of its values in bytes, besides its own size.
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
