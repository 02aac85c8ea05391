//! The payload of a log entry and of a read: which request of which client, and what it asks for.
//!
//! The bytes are one rkyv archive of exactly their length: no byte in them is unaccounted for. The
//! archive is flat (no recursion, nothing shared) and is only ever read through rkyv's checked
//! access; the meaning of its fields is checked after its layout.

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

/// One request of a client. Borrows its arguments from the bytes that it was decoded from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command<'a> {
    /// Identifies the request: a write that arrives again under this key is not applied again.
    pub key: RequestKey,
    /// What to do.
    pub operation: Operation<'a>,
}

/// What a request asks the state machine for. The result is an [`Outcome`](super::Outcome).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Calls a registered command.
    Call {
        /// Which command.
        command: CommandId,
        /// Its arguments, without its name.
        args: Arguments<'a>,
    },
    /// Moves the replicated clock forward, if it is behind `millis` and was not reset since.
    /// Proposed by leaders; no client sends it.
    Clock {
        /// The new reading, in milliseconds since 1970.
        millis: u64,
        /// How often the clock was reset, as far as the leader knew.
        resets: u64,
    },
    /// Runs several calls with nothing between them, if no watched key has changed. The outcome is
    /// a `List` of their outcomes, or `NoList` if a watched key has changed.
    Transaction {
        /// Keys and their revisions (8 bytes, little-endian), alternating.
        watched: Items<'a>,
        /// The calls, as written by [`Operation::encode`].
        operations: Items<'a>,
    },
    /// Opens a client session. The outcome is its number, an `Integer`.
    OpenSession,
    /// A request of a client session, which is applied once however often it is sent.
    Once {
        /// The session's number.
        session: u64,
        /// The request's number within the session, from 1.
        sequence: u64,
        /// A call or a transaction, as written by [`Operation::encode`].
        operation: &'a [u8],
    },
    /// Sets the replicated clock back, and the expiration of every key with it, so that each key
    /// keeps its remaining TTL. The outcome is by how many milliseconds, an `Integer`; 0 if the
    /// clock was not ahead.
    ResetClock {
        /// The new reading, in milliseconds since 1970: the time that a quorum's wall clocks agree
        /// on, filled in by the leader. 0 in a client's request, and where there is no agreement:
        /// then the command is refused.
        millis: u64,
    },
}

/// Why bytes are not a command, or not one that may be used this way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The archive is inconsistent.
    #[error("command of {length} bytes is damaged or of an unknown format version")]
    Damaged {
        /// Length of the payload in bytes.
        length: usize,
    },
    /// There are bytes that belong to no field.
    #[error("command has {length} bytes, but its fields take {expected}")]
    Length {
        /// Length of the payload in bytes.
        length: usize,
        /// Length of the command that was decoded from it.
        expected: usize,
    },
    /// The archive is consistent, but a list is malformed, a command is unknown, or operations are
    /// nested too deeply.
    #[error("command of {length} bytes is well-formed, but has no meaning")]
    Meaningless {
        /// Length of the payload in bytes.
        length: usize,
    },
    /// The command may change the state, so it must go through the log.
    #[error("a command that changes the state was sent as a read")]
    NotARead,
}

/// The archived form of a command.
#[derive(Archive, Serialize)]
struct Record<'a> {
    client: u32,
    request: [u8; 16],
    operation: OperationRecord<'a>,
}

/// The archived form of an operation. New kinds go to the end: the position is the tag byte.
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

/// Archives arguments as the bytes of [`Items`], without building these first.
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

/// Size of the chunks in which [`Command::encode_in`] reserves memory.
const BUFFER_BYTES: usize = 64 << 10;

/// Bytes of a command besides its arguments.
const RECORD_BYTES: usize = size_of::<Archived<Record<'static>>>();
/// The same for an operation by itself.
const OPERATION_BYTES: usize = size_of::<Archived<OperationRecord<'static>>>();

impl<'a> Operation<'a> {
    /// A call of a command.
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

    /// The name of the command that is called and its arguments; `None` if it is no call.
    pub fn as_call(&self) -> Option<(&'static str, Vec<&'a [u8]>)> {
        match self {
            Operation::Call { command, args } => Some((command.name(), args.iter().collect())),
            _ => None,
        }
    }

    /// Whether it leaves the state as it is, so that no log entry is needed.
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

    /// Bytes of its lists and strings.
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

/// The operation that a record stands for; `None` if it is not a valid one here.
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

/// What an operation is part of. Nesting is limited to a call in a transaction in a session's
/// request, so that bytes from outside cannot choose the depth of a recursion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    Nothing,
    Once,
    Transaction,
}

impl<'a> Operation<'a> {
    /// The operation's own bytes, to be part of another.
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

    /// Decodes what [`Operation::encode`] wrote.
    ///
    /// # Errors
    /// If the bytes are not exactly one operation that may be part of another.
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

    /// Whether these are the bytes of an [`Operation::ResetClock`], whose time the leader fills in.
    /// Costs one comparison for every command with arguments.
    pub fn resets_clock(bytes: &[u8]) -> bool {
        bytes.len() == RECORD_BYTES
            && Command::decode(bytes)
                .is_ok_and(|command| matches!(command.operation, Operation::ResetClock { .. }))
    }

    /// Length of the bytes that [`Command::encode`] returns.
    pub fn encoded_len(&self) -> usize {
        RECORD_BYTES + self.operation.content_bytes()
    }

    /// The command's bytes, in one allocation of their exact size.
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

    /// Encodes the command behind the contents of `buffer`, which stay. Small commands share the
    /// buffer's memory, so only a few of them cost an allocation.
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

    /// Decodes a command.
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
        // rkyv finds the root at the end and does not care what else lies before it. Bytes that
        // nobody reads must not be replicated and stored.
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
    fn commands_in_one_buffer_equal_those_on_their_own() {
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
        let nested = |operation: Operation<'_>, inner: &Operation<'_>| {
            let mut list = ItemsBuffer::default();
            list.push(&inner.encode());
            let encoded = inner.encode();
            let operation = match operation {
                Operation::OpenSession => {
                    Operation::Once { session: 1, sequence: 1, operation: &encoded }
                }
                _ => {
                    let watched = ItemsBuffer::default();
                    let transaction = Operation::Transaction {
                        watched: watched.items(),
                        operations: list.items(),
                    };
                    return (
                        transaction.encode(),
                        Command { key, operation: transaction }.encode(),
                    );
                }
            };
            (operation.encode(), Command { key, operation }.encode())
        };
        let get = Operation::get(b"k");
        let (transaction, alone) = nested(get, &get);
        assert!(Command::decode(&alone).is_ok());
        let transaction = Operation::decode(&transaction).unwrap();
        let (once, alone) = nested(Operation::OpenSession, &transaction);
        assert!(Command::decode(&alone).is_ok());
        assert!(Operation::decode(&once).is_err(), "a session's request is part of nothing");
        let (_, alone) = nested(get, &transaction);
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
