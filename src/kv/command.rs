//! What a client wants done, and its bytes: the payload of a log entry and of a read alike.
//!
//! The bytes are one rkyv archive of exactly their length: no byte in them is unaccounted for. The
//! archive is flat (no recursion, nothing shared), is only ever read through rkyv's checked
//! access, and its meaning is looked at after its shape.

use bytes::Bytes;
use rkyv::api::low;
use rkyv::rancor::Failure;
use rkyv::ser::allocator::SubAllocator;
use rkyv::with::InlineAsBox;
use rkyv::{Archive, Archived, Serialize};

use crate::types::{ClientId, RequestId, RequestKey};

/// One request of a client: its name and what it wants. Borrows keys and values from the bytes
/// that it was decoded from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command<'a> {
    /// Names the request; a command that comes again under this name is not applied again.
    pub key: RequestKey,
    /// What to do.
    pub operation: Operation<'a>,
}

/// What can be done. Keys and values are any bytes, also none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Tells the value of a key.
    Get {
        /// Which key.
        key: &'a [u8],
    },
    /// Sets a key.
    Put {
        /// Which key.
        key: &'a [u8],
        /// Its new value.
        value: &'a [u8],
    },
    /// Removes a key.
    Delete {
        /// Which key.
        key: &'a [u8],
    },
    /// Moves `amount` between two accounts, if both hold a number (decimal digits) and the first
    /// holds enough. The sum over all accounts stays, which a checker can look at from outside.
    Transfer {
        /// The account that pays.
        from: &'a [u8],
        /// The account that gets; may be the same.
        to: &'a [u8],
        /// How much.
        amount: u64,
    },
}

/// Why bytes are no command, or not one that may be used so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The archive does not hold together.
    #[error("a command of {length} bytes is damaged, or of a version unknown here")]
    Damaged {
        /// How many bytes there are.
        length: usize,
    },
    /// There are bytes that belong to nothing.
    #[error("a command has {length} bytes, but what it says takes {expected}")]
    Length {
        /// How many bytes there are.
        length: usize,
        /// How many the command takes.
        expected: usize,
    },
    /// A read that would change the state: it must go through the log.
    #[error("a command that changes the state was sent as a read")]
    NotARead,
}

/// A command as it is archived.
#[derive(Archive, Serialize)]
struct Record<'a> {
    client: u32,
    request: [u8; 16],
    operation: OperationRecord<'a>,
}

/// An operation as it is archived. New kinds go to the end: the place here is the byte there.
#[derive(Archive, Serialize)]
enum OperationRecord<'a> {
    Get {
        #[rkyv(with = InlineAsBox)]
        key: &'a [u8],
    },
    Put {
        #[rkyv(with = InlineAsBox)]
        key: &'a [u8],
        #[rkyv(with = InlineAsBox)]
        value: &'a [u8],
    },
    Delete {
        #[rkyv(with = InlineAsBox)]
        key: &'a [u8],
    },
    Transfer {
        #[rkyv(with = InlineAsBox)]
        from: &'a [u8],
        #[rkyv(with = InlineAsBox)]
        to: &'a [u8],
        amount: u64,
    },
}

/// Bytes of a command beside its keys and values.
const RECORD_BYTES: usize = size_of::<Archived<Record<'static>>>();

impl Operation<'_> {
    /// Whether it leaves the state as it is, so that no log entry is needed.
    pub fn is_read(&self) -> bool {
        matches!(self, Operation::Get { .. })
    }

    /// Bytes of its keys and values.
    fn content_bytes(&self) -> usize {
        match self {
            Operation::Get { key } | Operation::Delete { key } => key.len(),
            Operation::Put { key, value } => key.len() + value.len(),
            Operation::Transfer { from, to, .. } => from.len() + to.len(),
        }
    }
}

impl<'a> Command<'a> {
    /// How many bytes [`Command::encode`] gives.
    pub fn encoded_len(&self) -> usize {
        RECORD_BYTES + self.operation.content_bytes()
    }

    /// The command's bytes, in one allocation of their exact size.
    pub fn encode(&self) -> Bytes {
        let record = Record {
            client: self.key.client.0,
            request: self.key.request.0,
            operation: match self.operation {
                Operation::Get { key } => OperationRecord::Get { key },
                Operation::Put { key, value } => OperationRecord::Put { key, value },
                Operation::Delete { key } => OperationRecord::Delete { key },
                Operation::Transfer { from, to, amount } => {
                    OperationRecord::Transfer { from, to, amount }
                }
            },
        };
        let buffer = Vec::with_capacity(self.encoded_len());
        // Byte slices are copied whole, so no scratch space is ever asked for.
        let bytes =
            low::to_bytes_in_with_alloc::<_, _, Failure>(&record, buffer, SubAllocator::empty())
                .expect(
                    "a vector takes every byte, and keys and values stay far below rkyv's 2 GiB",
                );
        assert_eq!(bytes.len(), self.encoded_len(), "rkyv padded a command");
        Bytes::from(bytes)
    }

    /// Reads a command.
    ///
    /// # Errors
    /// If the bytes are not exactly one command.
    pub fn decode(bytes: &'a [u8]) -> Result<Command<'a>, CommandError> {
        let length = bytes.len();
        let record = low::access::<Archived<Record<'a>>, Failure>(bytes)
            .map_err(|Failure| CommandError::Damaged { length })?;
        let operation = match &record.operation {
            ArchivedOperationRecord::Get { key } => Operation::Get { key },
            ArchivedOperationRecord::Put { key, value } => Operation::Put { key, value },
            ArchivedOperationRecord::Delete { key } => Operation::Delete { key },
            ArchivedOperationRecord::Transfer { from, to, amount } => {
                Operation::Transfer { from, to, amount: amount.to_native() }
            }
        };
        let key = RequestKey {
            client: ClientId(record.client.to_native()),
            request: RequestId(record.request),
        };
        let command = Command { key, operation };
        // rkyv finds the root at the end and would not mind what else lies before it; we want to
        // know that nothing travels and gets stored that no one reads.
        let expected = command.encoded_len();
        if length != expected {
            return Err(CommandError::Length { length, expected });
        }
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Command<'static>> {
        let key = RequestKey { client: ClientId(0x1A), request: RequestId(*b"ABCDEFGHIJ012345") };
        [
            Operation::Get { key: b"k" },
            Operation::Get { key: b"" },
            Operation::Put { key: b"key", value: b"value" },
            Operation::Put { key: b"", value: &[0; 1_000] },
            Operation::Delete { key: b"gone" },
            Operation::Transfer { from: b"a", to: b"bb", amount: u64::MAX },
        ]
        .into_iter()
        .map(|operation| Command { key, operation })
        .collect()
    }

    #[test]
    fn what_was_encoded_comes_back_at_any_alignment() {
        for command in samples() {
            let bytes = command.encode();
            for offset in 0..8 {
                let mut shifted = vec![0; offset];
                shifted.extend_from_slice(&bytes);
                assert_eq!(Command::decode(&shifted[offset..]), Ok(command));
            }
        }
    }

    #[test]
    fn cut_and_padded_commands_are_refused() {
        for command in samples() {
            let bytes = command.encode();
            for length in 0..bytes.len() {
                assert!(Command::decode(&bytes[..length]).is_err(), "cut to {length}");
                assert!(Command::decode(&bytes[length + 1..]).is_err(), "{length} bytes lost");
            }
            let before = [b"x", &bytes[..]].concat();
            assert!(matches!(Command::decode(&before), Err(CommandError::Length { .. })));
            let behind = [&bytes[..], b"x"].concat();
            assert!(Command::decode(&behind).is_err());
        }
    }

    #[test]
    fn no_flipped_bit_makes_a_command_panic() {
        for command in samples() {
            let bytes = command.encode();
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes.to_vec();
                damaged[bit / 8] ^= 1 << (bit % 8);
                // Checksums are the log's business: a flipped bit in a value is just another value.
                if let Ok(other) = Command::decode(&damaged) {
                    let again = other.encode();
                    assert_eq!(Command::decode(&again), Ok(other), "bit {bit}");
                }
            }
        }
    }
}
