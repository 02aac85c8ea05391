//! The payload of a log entry or a read: the ids of client and request, and the operation.
//!
//! A command is encoded as one rkyv archive without unused bytes. The archive is flat (no
//! recursion, no shared pointers) and is only read through rkyv's checked access, which validates
//! its layout; then the values of its fields are validated.

use bytes::{Bytes, BytesMut};
use rkyv::api::low;
use rkyv::boxed::{ArchivedBox, BoxResolver};
use rkyv::rancor::{Failure, Fallible};
use rkyv::ser::allocator::SubAllocator;
use rkyv::ser::writer::Buffer;
use rkyv::ser::{Positional, Writer};
use rkyv::with::{ArchiveWith, InlineAsBox, SerializeWith};
use rkyv::{Archive, Archived, Place, Serialize};

use crate::kv::commands::items::{Arguments, Items};
use crate::kv::commands::registry::CommandId;
use crate::types::{ClientId, RequestId, RequestKey};

/// One request of a client, as it is stored in a log entry. Borrows its arguments from the bytes
/// that it was decoded from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command<'a> {
    /// Identifies the request: a write that arrives again with an equal key is not applied again.
    pub key: RequestKey,
    /// The operation that the client requests.
    pub operation: Operation<'a>,
}

/// The operation that a request asks the state machine to execute. The result is an
/// [`Outcome`](super::Outcome).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Calls a registered command.
    Call {
        /// The registered command to call.
        command: CommandId,
        /// Arguments of the call, without the command's name.
        args: Arguments<'a>,
    },
    /// Advances the replicated clock to `millis`. Has no effect if the clock already shows that
    /// time or a later one, or if it was reset since the leader proposed this operation. Only
    /// leaders propose it; clients cannot send it.
    Clock {
        /// The new reading of the replicated clock, in milliseconds since 1970.
        millis: u64,
        /// Number of times that the replicated clock had been reset when the leader proposed this;
        /// on a mismatch the operation has no effect.
        resets: u64,
    },
    /// Runs several calls atomically (`MULTI`/`EXEC`), if no watched key has changed. The outcome
    /// is a `List` of the calls' outcomes, or `NoList` if a watched key has changed.
    Transaction {
        /// Watched keys and their revisions (8 bytes each, little-endian), alternating: key,
        /// revision, key, revision.
        watched: Items<'a>,
        /// The calls of the transaction, each as written by [`Operation::encode`].
        operations: Items<'a>,
    },
    /// Opens a client session. The outcome is the session's id, an `Integer`.
    OpenSession,
    /// A request of a client session, which is applied only once even if the client sends it
    /// several times.
    Once {
        /// Id of the client session.
        session: u64,
        /// Sequence number of the request within its client session, from 1.
        sequence: u64,
        /// The call or transaction to run, as written by [`Operation::encode`].
        operation: &'a [u8],
    },
    /// Sets the replicated clock back, and the expiration of every key by the same amount, so that
    /// each key keeps its remaining TTL. The outcome is an `Integer`: the number of milliseconds by
    /// which the clock was set back, 0 if it was not ahead.
    ResetClock {
        /// The new reading of the replicated clock, in milliseconds since 1970: the time that the
        /// wall clocks of a quorum agree on, filled in by the leader. 0 in a client's request, and
        /// if there is no agreement: the command is then refused.
        millis: u64,
    },
}

/// Why a payload was rejected: it is not a valid command, or it is a write that was sent as a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The encoding (an rkyv archive) is corrupt or has an unknown format version.
    #[error("command of {length} bytes is damaged or of an unknown format version")]
    Damaged {
        /// Length in bytes of the payload that could not be decoded.
        length: usize,
    },
    /// The payload is longer or shorter than the encoding of the decoded command.
    #[error("command has {length} bytes, but its fields take {expected}")]
    Length {
        /// Actual length of the payload in bytes.
        length: usize,
        /// Length in bytes that the encoding of the decoded command has.
        expected: usize,
    },
    /// The rkyv archive is intact, but its content is invalid: a list is malformed, a command is
    /// unknown, or operations are nested too deeply.
    #[error("command of {length} bytes is invalid: unknown command, malformed list or bad nesting")]
    Meaningless {
        /// Length in bytes of the payload that was rejected.
        length: usize,
    },
    /// A command that may change the state was sent as a read; it must go through the log.
    #[error("a command that changes the state was sent as a read")]
    NotARead,
}

/// The encoded (archived) form of a command.
#[derive(Archive, Serialize)]
struct Record<'a> {
    client: u32,
    request: [u8; 16],
    operation: OperationRecord<'a>,
}

/// The encoded form of an operation. Append new kinds of operations at the end: a variant's
/// position is its tag byte in the log.
#[derive(Archive, Serialize)]
enum OperationRecord<'a> {
    Call {
        command: u16,
        #[rkyv(with = AsItems)]
        args: Arguments<'a>,
    },
    Clock {
        millis: u64,
        resets: u64,
    },
    Transaction {
        #[rkyv(with = InlineAsBox)]
        watched: &'a [u8],
        #[rkyv(with = InlineAsBox)]
        operations: &'a [u8],
    },
    OpenSession,
    Once {
        session: u64,
        sequence: u64,
        #[rkyv(with = InlineAsBox)]
        operation: &'a [u8],
    },
    ResetClock {
        millis: u64,
    },
}

/// Encodes [`Arguments`] in the format of [`Items`], without building an intermediate list.
struct AsItems;

impl ArchiveWith<Arguments<'_>> for AsItems {
    type Archived = ArchivedBox<[u8]>;
    type Resolver = BoxResolver;

    fn resolve_with(args: &Arguments<'_>, resolver: BoxResolver, out: Place<ArchivedBox<[u8]>>) {
        let length = u32::try_from(args.encoded_len()).expect("limits keep a command below 2 GiB");
        ArchivedBox::resolve_from_raw_parts(resolver, length.into(), out);
    }
}

impl<S: Fallible + Positional + Writer<S::Error> + ?Sized> SerializeWith<Arguments<'_>, S>
    for AsItems
{
    fn serialize_with(args: &Arguments<'_>, serializer: &mut S) -> Result<BoxResolver, S::Error> {
        let position = serializer.pos();
        args.write(|bytes| serializer.write(bytes))?;
        Ok(BoxResolver::from_pos(position))
    }
}

/// Minimum number of bytes by which [`Command::encode_in`] grows a buffer.
const BUFFER_BYTES: usize = 64 << 10;

/// Encoded length in bytes of a command without its variable-length fields (arguments, watched
/// keys, nested operations).
const RECORD_BYTES: usize = size_of::<Archived<Record<'static>>>();
/// Encoded length in bytes of an operation without its variable-length fields (arguments, watched
/// keys, nested operations).
const OPERATION_BYTES: usize = size_of::<Archived<OperationRecord<'static>>>();

impl<'a> Operation<'a> {
    /// Returns an operation that calls a command with these arguments.
    pub fn call(command: CommandId, args: impl Into<Arguments<'a>>) -> Operation<'a> {
        Operation::Call { command, args: args.into() }
    }

    /// `GET key`
    pub fn get(key: &'a [u8]) -> Operation<'a> {
        Operation::call(CommandId::GET, [key])
    }

    /// `SET key value`
    pub fn set(key: &'a [u8], value: &'a [u8]) -> Operation<'a> {
        Operation::call(CommandId::SET, [key, value])
    }

    /// `DEL key`
    pub fn del(key: &'a [u8]) -> Operation<'a> {
        Operation::call(CommandId::DEL, [key])
    }

    /// Returns the name of the called command and its arguments; `None` if the operation is not a
    /// call.
    pub fn as_call(&self) -> Option<(&'static str, Vec<&'a [u8]>)> {
        match self {
            Operation::Call { command, args } => Some((command.name(), args.iter().collect())),
            _ => None,
        }
    }

    /// Returns whether the operation leaves the state unchanged, so that it needs no log entry.
    pub fn is_read(&self) -> bool {
        match self {
            Operation::Call { command, .. } => command.is_read(),
            Operation::Transaction { operations, .. } => operations
                .iter()
                .all(|one| Operation::decode(one).is_ok_and(|operation| operation.is_read())),
            Operation::Clock { .. }
            | Operation::OpenSession
            | Operation::Once { .. }
            | Operation::ResetClock { .. } => false,
        }
    }

    /// Returns the encoded length in bytes of the operation's variable-length fields: its
    /// arguments, watched keys or nested operations.
    fn content_bytes(&self) -> usize {
        match self {
            Operation::Call { args, .. } => args.encoded_len(),
            Operation::Transaction { watched, operations } => {
                watched.bytes().len() + operations.bytes().len()
            }
            Operation::Once { operation, .. } => operation.len(),
            Operation::Clock { .. } | Operation::ResetClock { .. } | Operation::OpenSession => 0,
        }
    }

    fn record(&self) -> OperationRecord<'a> {
        match *self {
            Operation::Call { command, args } => {
                OperationRecord::Call { command: command.number(), args }
            }
            Operation::Clock { millis, resets } => OperationRecord::Clock { millis, resets },
            Operation::ResetClock { millis } => OperationRecord::ResetClock { millis },
            Operation::Transaction { watched, operations } => OperationRecord::Transaction {
                watched: watched.bytes(),
                operations: operations.bytes(),
            },
            Operation::OpenSession => OperationRecord::OpenSession,
            Operation::Once { session, sequence, operation } => {
                OperationRecord::Once { session, sequence, operation }
            }
        }
    }
}

/// Converts the decoded record into an operation; `None` if the operation is invalid, or may not be
/// nested in `within`, such as a transaction in a transaction.
fn validate<'a>(
    record: &'a Archived<OperationRecord<'_>>,
    within: Within,
) -> Option<Operation<'a>> {
    use ArchivedOperationRecord as Record;
    let allowed = match record {
        Record::Call { .. } => true,
        Record::Transaction { .. } => within != Within::Transaction,
        Record::Clock { .. }
        | Record::ResetClock { .. }
        | Record::OpenSession
        | Record::Once { .. } => within == Within::Nothing,
    };
    if !allowed {
        return None;
    }
    Some(match record {
        Record::Call { command, args } => Operation::Call {
            command: CommandId::numbered(command.to_native())?,
            args: Items::check(args)?.into(),
        },
        Record::Clock { millis, resets } => {
            Operation::Clock { millis: millis.to_native(), resets: resets.to_native() }
        }
        Record::ResetClock { millis } => Operation::ResetClock { millis: millis.to_native() },
        Record::Transaction { watched, operations } => {
            let (watched, operations) = (Items::check(watched)?, Items::check(operations)?);
            let known = watched.pairs().all(|(_, revision)| revision.len() == 8)
                && watched.iter().count() % 2 == 0
                && operations
                    .iter()
                    .all(|one| Operation::decode_in(one, Within::Transaction).is_ok());
            known.then_some(Operation::Transaction { watched, operations })?
        }
        Record::OpenSession => Operation::OpenSession,
        Record::Once { session, sequence, operation } => {
            Operation::decode_in(operation, Within::Once).ok()?;
            let (session, sequence) = (session.to_native(), sequence.to_native());
            Operation::Once { session, sequence, operation }
        }
    })
}

/// What an operation is nested in: nothing, a session's request (`Once`) or a transaction. The
/// deepest nesting is a call in a transaction in a session's request, so untrusted bytes cannot
/// cause deep recursion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    Nothing,
    Once,
    Transaction,
}

impl<'a> Operation<'a> {
    /// Returns the encoding of the operation, to be embedded in a transaction or in a session's
    /// request.
    pub fn encode(&self) -> Vec<u8> {
        let record = self.record();
        let length = OPERATION_BYTES + self.content_bytes();
        let buffer = Vec::with_capacity(length);
        let bytes =
            low::to_bytes_in_with_alloc::<_, _, Failure>(&record, buffer, SubAllocator::empty())
                .expect("a vector takes every byte, and a command stays far below 2 GiB");
        assert_eq!(bytes.len(), length, "rkyv padded an operation");
        bytes
    }

    /// Decodes an operation from the bytes that [`Operation::encode`] wrote.
    ///
    /// # Errors
    /// If the bytes are not exactly one call or one transaction. Other operations cannot be nested.
    pub fn decode(bytes: &'a [u8]) -> Result<Operation<'a>, CommandError> {
        Operation::decode_in(bytes, Within::Once)
    }

    fn decode_in(bytes: &'a [u8], within: Within) -> Result<Operation<'a>, CommandError> {
        let length = bytes.len();
        let record = low::access::<Archived<OperationRecord<'a>>, Failure>(bytes)
            .map_err(|Failure| CommandError::Damaged { length })?;
        let operation = validate(record, within).ok_or(CommandError::Meaningless { length })?;
        let expected = OPERATION_BYTES + operation.content_bytes();
        if length != expected {
            return Err(CommandError::Length { length, expected });
        }
        Ok(operation)
    }
}

impl<'a> Command<'a> {
    fn record(&self) -> Record<'a> {
        Record {
            client: self.key.client.0,
            request: self.key.request.0,
            operation: self.operation.record(),
        }
    }

    /// Returns whether these bytes encode an [`Operation::ResetClock`], whose time the leader fills
    /// in before it proposes the command. Cheap for a command with arguments: its length already
    /// differs, so it is not decoded.
    pub fn resets_clock(bytes: &[u8]) -> bool {
        bytes.len() == RECORD_BYTES
            && Command::decode(bytes)
                .is_ok_and(|command| matches!(command.operation, Operation::ResetClock { .. }))
    }

    /// Returns the length in bytes of what [`Command::encode`] returns.
    pub fn encoded_len(&self) -> usize {
        RECORD_BYTES + self.operation.content_bytes()
    }

    /// Returns the encoded command, in an allocation of exactly its length.
    pub fn encode(&self) -> Bytes {
        let record = self.record();
        let buffer = Vec::with_capacity(self.encoded_len());
        // Byte slices are copied whole, so no scratch space is ever needed.
        let bytes =
            low::to_bytes_in_with_alloc::<_, _, Failure>(&record, buffer, SubAllocator::empty())
                .expect("a vector takes every byte, and a command stays far below 2 GiB");
        assert_eq!(bytes.len(), self.encoded_len(), "rkyv padded a command");
        Bytes::from(bytes)
    }

    /// Encodes the command into the spare capacity of `buffer`, and splits the encoded bytes off
    /// and returns them; earlier contents of `buffer` stay. Consecutive small commands share one
    /// allocation.
    pub fn encode_in(&self, buffer: &mut BytesMut) -> Bytes {
        let (start, length) = (buffer.len(), self.encoded_len());
        if buffer.capacity() - start < length {
            buffer.reserve(length.max(BUFFER_BYTES));
        }
        buffer.resize(start + length, 0);
        low::to_bytes_in_with_alloc::<_, _, Failure>(
            &self.record(),
            Buffer::from(&mut buffer[start..]),
            SubAllocator::empty(),
        )
        .expect("the buffer was reserved, and a command stays far below 2 GiB");
        // `split_off` at the end would take the buffer's spare capacity along; at the start
        // `split` does not.
        if start == 0 { buffer.split() } else { buffer.split_off(start) }.freeze()
    }

    /// Decodes a command from the payload of a log entry or a read.
    ///
    /// # Errors
    /// If the bytes are not exactly one command.
    pub fn decode(bytes: &'a [u8]) -> Result<Command<'a>, CommandError> {
        let length = bytes.len();
        let record = low::access::<Archived<Record<'a>>, Failure>(bytes)
            .map_err(|Failure| CommandError::Damaged { length })?;
        let operation = validate(&record.operation, Within::Nothing)
            .ok_or(CommandError::Meaningless { length })?;
        let key = RequestKey {
            client: ClientId(record.client.to_native()),
            request: RequestId(record.request),
        };
        let command = Command { key, operation };
        // rkyv finds the root at the end and ignores other bytes before it. Unused bytes must not
        // be replicated and stored.
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
    use crate::kv::commands::items::ItemsBuffer;

    #[test]
    fn command_encoding_in_shared_buffer_equals_standalone() {
        let mut buffer = BytesMut::new();
        for before in [&b""[..], b"before"] {
            for command in samples() {
                buffer.extend_from_slice(before);
                assert_eq!(command.encode_in(&mut buffer), command.encode());
                assert_eq!(buffer, before);
                buffer.clear();
            }
        }
    }

    fn samples() -> Vec<Command<'static>> {
        let mut inner = ItemsBuffer::default();
        inner.push(&Operation::get(b"k").encode());
        let inner: &'static [u8] = inner.items().bytes().to_vec().leak();
        let key = RequestKey { client: ClientId(0x1A), request: RequestId(*b"ABCDEFGHIJ012345") };
        let several: &[&[u8]] = &[b"key", b"a", b"", b"1", b"", b"bb"];
        [
            Operation::get(b"k"),
            Operation::get(b""),
            Operation::set(b"key", b"value"),
            Operation::set(b"", &[0; 1_000]),
            Operation::call(CommandId::of("dbsize"), []),
            Operation::call(CommandId::of("hset"), several),
            Operation::call(CommandId::of("mget"), Items::check(b"\x01\0\0\0a\0\0\0\0").unwrap()),
            Operation::Clock { millis: 1_700_000_000_000, resets: 1 },
            Operation::ResetClock { millis: 1_700_000_000_000 },
            Operation::Transaction {
                watched: Items::check(b"\x01\0\0\0a\x08\0\0\0revision").unwrap(),
                operations: Items::check(inner).unwrap(),
            },
            Operation::OpenSession,
            Operation::Once { session: 7, sequence: 1, operation: &inner[4..] },
        ]
        .into_iter()
        .map(|operation| Command { key, operation })
        .collect()
    }

    #[test]
    fn commands_decode_as_encoded_at_any_alignment() {
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
    fn truncated_and_padded_commands_are_refused() {
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
    fn malformed_lists_and_unknown_commands_are_refused() {
        let refused = |bytes: &[u8]| {
            let length = bytes.len();
            assert_eq!(Command::decode(bytes), Err(CommandError::Meaningless { length }));
        };
        let command = Command { key: RequestKey::default(), operation: Operation::get(b"a") };
        let mut bytes = command.encode().to_vec();
        bytes[0] = 2;
        refused(&bytes);
        let bytes = command.encode();
        let number = CommandId::GET.number().to_le_bytes();
        let at = (0..bytes.len() - 2)
            .find(|at| {
                let mut other = bytes.to_vec();
                other[*at..*at + 2].copy_from_slice(&[0xFF; 2]);
                bytes[*at..*at + 2] == number
                    && matches!(Command::decode(&other), Err(CommandError::Meaningless { .. }))
            })
            .expect("the command's number is in its bytes");
        let mut other = bytes.to_vec();
        other[at..at + 2].copy_from_slice(&CommandId::SET.number().to_le_bytes());
        let decoded = Command::decode(&other).map(|command| command.operation);
        assert_eq!(decoded, Ok(Operation::call(CommandId::SET, [&b"a"[..]])));
    }

    #[test]
    fn operations_nest_no_deeper_than_call_in_transaction_in_session() {
        let key = RequestKey::default();
        let encodings =
            |operation: Operation<'_>| (operation.encode(), Command { key, operation }.encode());
        let in_session = |inner: &Operation<'_>| {
            let operation = &inner.encode();
            encodings(Operation::Once { session: 1, sequence: 1, operation })
        };
        let in_transaction = |inner: &Operation<'_>| {
            let (watched, mut list) = (ItemsBuffer::default(), ItemsBuffer::default());
            list.push(&inner.encode());
            let (watched, operations) = (watched.items(), list.items());
            encodings(Operation::Transaction { watched, operations })
        };
        let get = Operation::get(b"k");
        let (transaction, alone) = in_transaction(&get);
        assert!(Command::decode(&alone).is_ok());
        let transaction = Operation::decode(&transaction).unwrap();
        let (once, alone) = in_session(&transaction);
        assert!(Command::decode(&alone).is_ok());
        assert!(Operation::decode(&once).is_err(), "a session's request is part of nothing");
        let (_, alone) = in_transaction(&transaction);
        assert!(Command::decode(&alone).is_err(), "a transaction in a transaction");
    }

    #[test]
    fn flipped_bits_never_make_decoding_panic() {
        for command in samples() {
            let bytes = command.encode();
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes.to_vec();
                damaged[bit / 8] ^= 1 << (bit % 8);
                // Checksums belong to the log: a flipped bit in a value is just another value.
                if let Ok(other) = Command::decode(&damaged) {
                    let again = other.encode();
                    assert_eq!(Command::decode(&again), Ok(other), "bit {bit}");
                }
            }
        }
    }
}
