//! What a client wants done, and its bytes: the payload of a log entry and of a read alike.
//!
//! The bytes are one rkyv archive of exactly their length: no byte in them is unaccounted for. The
//! archive is flat (no recursion, nothing shared), is only ever read through rkyv's checked
//! access, and its meaning is looked at after its shape.

use bytes::{Bytes, BytesMut};
use rkyv::api::low;
use rkyv::rancor::Failure;
use rkyv::ser::allocator::SubAllocator;
use rkyv::ser::writer::Buffer;
use rkyv::with::InlineAsBox;
use rkyv::{Archive, Archived, Serialize};

use crate::kv::commands::items::Items;
use crate::kv::commands::registry::CommandId;
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

/// Whether a key is set, by what it is so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Whatever it is.
    Always,
    /// Only if it has no value.
    IfAbsent,
    /// Only if it has one.
    IfPresent,
}

/// What can be done. Keys and values are any bytes, also none. What comes of each is said with
/// [`Outcome`](super::Outcome).
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
    /// Sets a key under a condition, or tells its old value, or both. `Done` or `Unchanged`; with
    /// `tell_old`, `Value` in either case.
    Set {
        /// Which key.
        key: &'a [u8],
        /// Its new value.
        value: &'a [u8],
        /// When.
        condition: Condition,
        /// Whether the outcome is the old value.
        tell_old: bool,
    },
    /// Removes a key and tells its value.
    Take {
        /// Which key.
        key: &'a [u8],
    },
    /// Makes a value longer at its end; none counts as empty. `Integer`: the length then.
    Append {
        /// Which key.
        key: &'a [u8],
        /// What comes behind.
        value: &'a [u8],
    },
    /// Adds to the number that a key holds; none counts as 0. `Integer`: the sum.
    Add {
        /// Which key.
        key: &'a [u8],
        /// How much, may be negative.
        amount: i64,
    },
    /// Sets several keys at once.
    PutMany {
        /// Keys and values, in turn. Of a key that comes twice the last value stays.
        pairs: Items<'a>,
    },
    /// Removes several keys at once. `Integer`: how many of them had a value.
    DeleteMany {
        /// Which keys.
        keys: Items<'a>,
    },
    /// Removes every key.
    Clear,
    /// Tells the values of several keys, all at one moment. `Values`.
    GetMany {
        /// Which keys.
        keys: Items<'a>,
    },
    /// `Integer`: how many of the keys have a value, one that comes twice counted twice.
    Exists {
        /// Which keys.
        keys: Items<'a>,
    },
    /// `Integer`: the length of a key's value; 0 if it has none.
    Length {
        /// Which key.
        key: &'a [u8],
    },
    /// `Integer`: how many keys there are.
    Count,
    /// `Integer`: how many keys of a hash slot there are. Looks at every key.
    CountInSlot {
        /// Which slot.
        slot: u16,
    },
    /// Whatever else there is, by its verb; what comes of it is up to that.
    Call {
        /// Which.
        verb: CommandId,
        /// Its arguments.
        words: Items<'a>,
    },
    /// Moves the replicated clock forward, if it is behind and was not reset since. Proposed by
    /// leaders, and no request of a client.
    Clock {
        /// What it shows then, in milliseconds since 1970.
        millis: u64,
        /// How often it was reset, as the leader knew.
        resets: u64,
    },
    /// Several operations at one moment, with nothing between them, if the keys that were watched
    /// are as they were. `List` of their outcomes, `NoList` if one is not.
    Transaction {
        /// Keys and their revisions (8 bytes, little-endian), in turn.
        watched: Items<'a>,
        /// The operations, as [`Operation::encode`] gives them; none of them a transaction, and no
        /// clock.
        operations: Items<'a>,
    },
    /// Opens a session, which requests that must not be done twice name. `Integer`: its number.
    OpenSession,
    /// An operation that is done once, however often it is asked for: see
    /// [`StateMachine`](super::StateMachine).
    Once {
        /// The session's number.
        session: u64,
        /// The request's number in it.
        sequence: u64,
        /// The operation, as [`Operation::encode`] gives it; no session's and no clock.
        operation: &'a [u8],
    },
    /// Tells a message to whoever listens to a channel, at every replica. `Done`.
    Publish {
        /// Which channel.
        channel: &'a [u8],
        /// The message.
        message: &'a [u8],
    },
    /// Sets the replicated clock back, and with it the expiration of every key, so that each keeps
    /// the time that it has left. `Integer`: by how many milliseconds; 0 if it was not ahead.
    ResetClock {
        /// What it shows then, in milliseconds since 1970: the agreed time, filled in by the
        /// leader. 0 in a request, and where that is not known: nothing is done then.
        millis: u64,
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
    /// A list, or a word with few meanings, is none.
    #[error("a command of {length} bytes holds together, but means nothing")]
    Meaningless {
        /// How many bytes there are.
        length: usize,
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
    Set {
        #[rkyv(with = InlineAsBox)]
        key: &'a [u8],
        #[rkyv(with = InlineAsBox)]
        value: &'a [u8],
        condition: u8,
        tell_old: bool,
    },
    Take {
        #[rkyv(with = InlineAsBox)]
        key: &'a [u8],
    },
    Append {
        #[rkyv(with = InlineAsBox)]
        key: &'a [u8],
        #[rkyv(with = InlineAsBox)]
        value: &'a [u8],
    },
    Add {
        #[rkyv(with = InlineAsBox)]
        key: &'a [u8],
        amount: i64,
    },
    PutMany {
        #[rkyv(with = InlineAsBox)]
        pairs: &'a [u8],
    },
    DeleteMany {
        #[rkyv(with = InlineAsBox)]
        keys: &'a [u8],
    },
    Clear,
    GetMany {
        #[rkyv(with = InlineAsBox)]
        keys: &'a [u8],
    },
    Exists {
        #[rkyv(with = InlineAsBox)]
        keys: &'a [u8],
    },
    Length {
        #[rkyv(with = InlineAsBox)]
        key: &'a [u8],
    },
    Count,
    CountInSlot {
        slot: u16,
    },
    Call {
        verb: u16,
        #[rkyv(with = InlineAsBox)]
        words: &'a [u8],
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
    Publish {
        #[rkyv(with = InlineAsBox)]
        channel: &'a [u8],
        #[rkyv(with = InlineAsBox)]
        message: &'a [u8],
    },
    ResetClock {
        millis: u64,
    },
}

/// Size of the pieces in which [`Command::encode_in`] asks for memory.
const BUFFER_BYTES: usize = 64 << 10;

/// Bytes of a command beside its keys and values.
const RECORD_BYTES: usize = size_of::<Archived<Record<'static>>>();
/// The same of an operation by itself.
const OPERATION_BYTES: usize = size_of::<Archived<OperationRecord<'static>>>();

impl Condition {
    const ALL: [Condition; 3] = [Condition::Always, Condition::IfAbsent, Condition::IfPresent];
}

impl Operation<'_> {
    /// Whether it leaves the state as it is, so that no log entry is needed.
    pub fn is_read(&self) -> bool {
        match self {
            Operation::Get { .. }
            | Operation::GetMany { .. }
            | Operation::Exists { .. }
            | Operation::Length { .. }
            | Operation::Count
            | Operation::CountInSlot { .. } => true,
            Operation::Call { verb, .. } => verb.is_read(),
            Operation::Transaction { operations, .. } => operations
                .iter()
                .all(|one| Operation::decode(one).is_ok_and(|operation| operation.is_read())),
            Operation::Put { .. }
            | Operation::Delete { .. }
            | Operation::Transfer { .. }
            | Operation::Set { .. }
            | Operation::Take { .. }
            | Operation::Append { .. }
            | Operation::Add { .. }
            | Operation::PutMany { .. }
            | Operation::DeleteMany { .. }
            | Operation::Clear
            | Operation::Clock { .. }
            | Operation::OpenSession
            | Operation::Once { .. }
            | Operation::Publish { .. }
            | Operation::ResetClock { .. } => false,
        }
    }

    /// Bytes of its keys and values.
    fn content_bytes(&self) -> usize {
        match self {
            Operation::Get { key }
            | Operation::Delete { key }
            | Operation::Take { key }
            | Operation::Add { key, .. }
            | Operation::Length { key } => key.len(),
            Operation::Put { key, value }
            | Operation::Set { key, value, .. }
            | Operation::Append { key, value } => key.len() + value.len(),
            Operation::Transfer { from, to, .. } => from.len() + to.len(),
            Operation::PutMany { pairs: items }
            | Operation::DeleteMany { keys: items }
            | Operation::GetMany { keys: items }
            | Operation::Exists { keys: items } => items.bytes().len(),
            Operation::Call { words, .. } => words.bytes().len(),
            Operation::Transaction { watched, operations } => {
                watched.bytes().len() + operations.bytes().len()
            }
            Operation::Once { operation, .. } => operation.len(),
            Operation::Publish { channel, message } => channel.len() + message.len(),
            Operation::Clear
            | Operation::Count
            | Operation::CountInSlot { .. }
            | Operation::Clock { .. }
            | Operation::ResetClock { .. }
            | Operation::OpenSession => 0,
        }
    }

    /// As it is archived.
    fn record(&self) -> OperationRecord<'_> {
        match *self {
            Operation::Get { key } => OperationRecord::Get { key },
            Operation::Put { key, value } => OperationRecord::Put { key, value },
            Operation::Delete { key } => OperationRecord::Delete { key },
            Operation::Transfer { from, to, amount } => {
                OperationRecord::Transfer { from, to, amount }
            }
            Operation::Set { key, value, condition, tell_old } => {
                OperationRecord::Set { key, value, condition: condition as u8, tell_old }
            }
            Operation::Take { key } => OperationRecord::Take { key },
            Operation::Append { key, value } => OperationRecord::Append { key, value },
            Operation::Add { key, amount } => OperationRecord::Add { key, amount },
            Operation::PutMany { pairs } => OperationRecord::PutMany { pairs: pairs.bytes() },
            Operation::DeleteMany { keys } => OperationRecord::DeleteMany { keys: keys.bytes() },
            Operation::Clear => OperationRecord::Clear,
            Operation::GetMany { keys } => OperationRecord::GetMany { keys: keys.bytes() },
            Operation::Exists { keys } => OperationRecord::Exists { keys: keys.bytes() },
            Operation::Length { key } => OperationRecord::Length { key },
            Operation::Count => OperationRecord::Count,
            Operation::CountInSlot { slot } => OperationRecord::CountInSlot { slot },
            Operation::Call { verb, words } => {
                OperationRecord::Call { verb: verb.number(), words: words.bytes() }
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
            Operation::Publish { channel, message } => {
                OperationRecord::Publish { channel, message }
            }
        }
    }
}

/// What an archived operation means, if it means something.
fn meaning<'a>(record: &'a Archived<OperationRecord<'_>>, within: Within) -> Option<Operation<'a>> {
    use ArchivedOperationRecord as Record;
    let allowed = match record {
        Record::Clock { .. }
        | Record::ResetClock { .. }
        | Record::OpenSession
        | Record::Once { .. } => within == Within::Nothing,
        Record::Transaction { .. } => within != Within::Transaction,
        _ => true,
    };
    if !allowed {
        return None;
    }
    Some(match record {
        Record::Get { key } => Operation::Get { key },
        Record::Put { key, value } => Operation::Put { key, value },
        Record::Delete { key } => Operation::Delete { key },
        Record::Transfer { from, to, amount } => {
            Operation::Transfer { from, to, amount: amount.to_native() }
        }
        Record::Set { key, value, condition, tell_old } => {
            let condition = *Condition::ALL.get(usize::from(*condition))?;
            Operation::Set { key, value, condition, tell_old: *tell_old }
        }
        Record::Take { key } => Operation::Take { key },
        Record::Append { key, value } => Operation::Append { key, value },
        Record::Add { key, amount } => Operation::Add { key, amount: amount.to_native() },
        Record::PutMany { pairs } => {
            let pairs = Items::check(pairs)?;
            if pairs.iter().count() % 2 != 0 {
                return None;
            }
            Operation::PutMany { pairs }
        }
        Record::DeleteMany { keys } => Operation::DeleteMany { keys: Items::check(keys)? },
        Record::Clear => Operation::Clear,
        Record::GetMany { keys } => Operation::GetMany { keys: Items::check(keys)? },
        Record::Exists { keys } => Operation::Exists { keys: Items::check(keys)? },
        Record::Length { key } => Operation::Length { key },
        Record::Count => Operation::Count,
        Record::CountInSlot { slot } => Operation::CountInSlot { slot: slot.to_native() },
        Record::Call { verb, words } => Operation::Call {
            verb: CommandId::numbered(verb.to_native())?,
            words: Items::check(words)?,
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
        Record::Publish { channel, message } => Operation::Publish { channel, message },
    })
}

/// What an operation is part of. An operation in one in a transaction would be too deep: how deep
/// bytes from outside go is not left to them.
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
                .expect("a vector takes every byte, and what is in it stays far below 2 GiB");
        assert_eq!(bytes.len(), length, "rkyv padded an operation");
        bytes
    }

    /// Reads what [`Operation::encode`] gave.
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
        let operation = meaning(record, within).ok_or(CommandError::Meaningless { length })?;
        let expected = OPERATION_BYTES + operation.content_bytes();
        if length != expected {
            return Err(CommandError::Length { length, expected });
        }
        Ok(operation)
    }
}

impl<'a> Command<'a> {
    fn record(&self) -> Record<'_> {
        Record {
            client: self.key.client.0,
            request: self.key.request.0,
            operation: self.operation.record(),
        }
    }

    /// Whether these are the bytes of a [`Operation::ResetClock`], whose time the leader fills in.
    /// Costs one comparison for all commands with a key.
    pub fn resets_clock(bytes: &[u8]) -> bool {
        bytes.len() == RECORD_BYTES
            && Command::decode(bytes)
                .is_ok_and(|command| matches!(command.operation, Operation::ResetClock { .. }))
    }

    /// How many bytes [`Command::encode`] gives.
    pub fn encoded_len(&self) -> usize {
        RECORD_BYTES + self.operation.content_bytes()
    }

    /// The command's bytes, in one allocation of their exact size.
    pub fn encode(&self) -> Bytes {
        let record = self.record();
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

    /// The same, behind what `buffer` holds, which stays: of many small commands in one buffer only
    /// a few cost an allocation.
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
        .expect("there is room for all, and keys and values stay far below rkyv's 2 GiB");
        // What is split off at the end takes the buffer's room with it, at the beginning not.
        if start == 0 { buffer.split() } else { buffer.split_off(start) }.freeze()
    }

    /// Reads a command.
    ///
    /// # Errors
    /// If the bytes are not exactly one command.
    pub fn decode(bytes: &'a [u8]) -> Result<Command<'a>, CommandError> {
        let length = bytes.len();
        let record = low::access::<Archived<Record<'a>>, Failure>(bytes)
            .map_err(|Failure| CommandError::Damaged { length })?;
        let operation = meaning(&record.operation, Within::Nothing)
            .ok_or(CommandError::Meaningless { length })?;
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
    use crate::kv::commands::items::ItemsBuffer;

    #[test]
    fn commands_in_one_buffer_are_those_on_their_own() {
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

    fn list() -> Items<'static> {
        Items::check(b"\x01\0\0\0a\0\0\0\0").unwrap()
    }

    fn samples() -> Vec<Command<'static>> {
        let mut inner = ItemsBuffer::default();
        inner.push(&Operation::Clear.encode());
        let inner: &'static [u8] = inner.items().bytes().to_vec().leak();
        let key = RequestKey { client: ClientId(0x1A), request: RequestId(*b"ABCDEFGHIJ012345") };
        [
            Operation::Get { key: b"k" },
            Operation::Get { key: b"" },
            Operation::Put { key: b"key", value: b"value" },
            Operation::Put { key: b"", value: &[0; 1_000] },
            Operation::Delete { key: b"gone" },
            Operation::Transfer { from: b"a", to: b"bb", amount: u64::MAX },
            Operation::Set {
                key: b"k",
                value: b"v",
                condition: Condition::IfAbsent,
                tell_old: true,
            },
            Operation::Take { key: b"k" },
            Operation::Append { key: b"k", value: b"more" },
            Operation::Add { key: b"k", amount: -7 },
            Operation::PutMany { pairs: list() },
            Operation::DeleteMany { keys: list() },
            Operation::Clear,
            Operation::GetMany { keys: list() },
            Operation::Exists { keys: list() },
            Operation::Length { key: b"k" },
            Operation::Count,
            Operation::CountInSlot { slot: 16_383 },
            Operation::Call { verb: CommandId::named("hset").unwrap(), words: list() },
            Operation::Clock { millis: 1_700_000_000_000, resets: 1 },
            Operation::ResetClock { millis: 1_700_000_000_000 },
            Operation::Transaction {
                watched: Items::check(b"\x01\0\0\0a\x08\0\0\0revision").unwrap(),
                operations: Items::check(inner).unwrap(),
            },
            Operation::OpenSession,
            Operation::Once { session: 7, sequence: 1, operation: &inner[4..] },
            Operation::Publish { channel: b"news", message: b"all is well" },
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
    fn what_holds_together_must_also_mean_something() {
        let command = |operation| Command { key: RequestKey::default(), operation };
        let refused = |bytes: &[u8]| {
            let length = bytes.len();
            assert_eq!(Command::decode(bytes), Err(CommandError::Meaningless { length }));
        };
        let odd = Items::check(b"\x01\0\0\0a").unwrap();
        refused(&command(Operation::PutMany { pairs: odd }).encode());
        let mut bytes = command(Operation::GetMany { keys: odd }).encode().to_vec();
        bytes[0] = 2;
        refused(&bytes);
        let condition = Condition::IfPresent;
        let set = Operation::Set { key: b"", value: b"", condition, tell_old: false };
        let bytes = command(set).encode();
        // Somewhere there is the byte of the condition.
        let raised = (0..bytes.len()).filter(|at| {
            let mut other = bytes.to_vec();
            other[*at] = 3;
            matches!(Command::decode(&other), Err(CommandError::Meaningless { .. }))
        });
        assert_eq!(raised.count(), 1);
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
