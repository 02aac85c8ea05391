//! Operations, which clients' requests ask the state machine to execute, and their encoding. The
//! encoding is the same in batches, transactions and client sessions.
//!
//! ```text
//!  +--------+------+
//!  | number | body |   2 bytes; the rest
//!  +--------+------+
//! ```
//!
//! `number` is either the id of a registered command, in which case `body` contains its arguments
//! (see [`Items`]), or one of the reserved numbers above the ids of commands. Integers are little
//! endian. Untrusted bytes are validated when they are decoded. Nesting is limited: at most, a
//! request of a client session contains a transaction that contains calls.

use bytes::{Buf as _, BufMut, Bytes, BytesMut};

use crate::feature_level::FeatureLevel;
use crate::kv::commands::items::{Arguments, Items};
use crate::kv::commands::registry::CommandId;
use crate::kv::keyspace::databases::DatabaseId;
use crate::kv::keyspace::scripts::SHA_DIGITS;
use crate::kv::watched::WatchedKey;
use crate::types::{Index, NodeId};

/// An operation that the state machine applies: a command, a transaction, or an internal operation
/// such as advancing the replicated clock. Its result is an [`Outcome`](super::Outcome). Borrows
/// its arguments, usually from its encoded bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Runs a single command.
    Call {
        /// The command to run.
        command: CommandId,
        /// Arguments of the command, excluding its name.
        args: Arguments<'a>,
        /// The database in which it runs.
        database: DatabaseId,
    },
    /// Advances the replicated clock, by which keys expire, to `millis`. Has no effect if the clock
    /// already shows this time or a later one, or if the clock was reset after the leader proposed
    /// this operation. Only leaders propose this operation; clients cannot send it.
    Clock {
        /// New reading of the replicated clock, in milliseconds since 1970.
        millis: u64,
        /// How many times the replicated clock had been reset when the leader proposed this
        /// operation. If the clock is reset again before the operation is applied, the operation
        /// has no effect.
        resets: u64,
    },
    /// Runs the commands of a transaction atomically (`MULTI`/`EXEC`), unless a watched key has
    /// changed. The outcome is a `List` of the commands' outcomes, or `NoList` if a watched key has
    /// changed.
    Transaction {
        /// The watched keys ([`WatchedKey`]), each with the revision that the key had when the
        /// client sent `WATCH`. A key's revision is a number that changes whenever the key changes.
        watched: Items<'a>,
        /// The commands of the transaction, in order, each encoded as an `Operation::Call` by
        /// [`Operation::encode`].
        operations: Items<'a>,
    },
    /// Applies the effects of a script, which ran on this state as it was before, unless a key
    /// that the script has read or written has changed since. The outcome is `Done`, or `NoList` if
    /// nothing was applied because of a change.
    Effects {
        /// Seed of the random choices that the script's commands have made.
        seed: u64,
        /// The reading of the replicated clock at which the script has run: its milliseconds since
        /// 1970, and how many times it had been set back.
        clock: (u64, u64),
        /// The number of operations that must have been applied before this one, if the script has
        /// read the whole keyspace; 0 if it has not.
        whole: u64,
        /// Whether the leader may refuse the effects if its memory is full.
        needs_memory: bool,
        /// The script's SHA-1 in hexadecimal digits and its source, if the cluster must keep it
        /// for `EVALSHA`; empty otherwise. It is kept even if the effects are not applied.
        script: &'a [u8],
        /// The keys that the script has read or written, and the SHA-1s of kept scripts that have
        /// run ([`WatchedKey`]), each with a condition. A condition on the functions has an empty
        /// key.
        watched: Items<'a>,
        /// The script's commands that have changed something, in order, each encoded as an
        /// `Operation::Call` by [`Operation::encode`].
        operations: Items<'a>,
    },
    /// Opens a client session, in which each request is applied only once. The outcome is an
    /// `Integer`: the id of the new session.
    OpenSession,
    /// Runs a request of a client session. The request is applied only once, even if the client
    /// sends it several times; each repetition returns the stored outcome.
    Once {
        /// Id of the client session.
        session: u64,
        /// Sequence number of the request within its client session, starting at 1.
        sequence: u64,
        /// The operation to run, a `Call` or a `Transaction`, encoded by [`Operation::encode`].
        operation: &'a [u8],
    },
    /// Sets the replicated clock back to `millis`, and makes the expiration time of every key
    /// earlier by the same amount, so that each key keeps its remaining TTL. The outcome is an
    /// `Integer`: the number of milliseconds by which the clock was set back, 0 if it was not
    /// ahead.
    ResetClock {
        /// New reading of the replicated clock, in milliseconds since 1970. A client's request
        /// contains 0, which the leader replaces with the time that the wall clocks of a quorum
        /// have reached. If too few wall clocks are known, it stays 0, and the outcome is an error.
        millis: u64,
    },
    /// Asks every replica to report the digest that its state has after this entry, so that a
    /// replica with a wrong state is found. Changes no key. Clients cannot send it.
    DigestMark,
    /// Reports the digest of one replica's state at a mark. Changes no key. Clients cannot send it.
    DigestReport {
        /// The replica.
        replica: NodeId,
        /// Log index of the mark.
        mark: Index,
        /// Digest of the replica's state after the entry with the mark.
        digest: u64,
    },
}

/// Error: bytes are not a valid encoded operation. The command is unknown, a list is malformed, or
/// an operation is nested where this is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid encoded operation of {length} bytes: unknown command, malformed argument list or \
     operations nested too deeply"
)]
pub struct OperationError {
    /// Length in bytes of the invalid encoded operation.
    pub length: usize,
}

// Numbers of the operations that are not calls. Commands have lower numbers.
const CLOCK: u16 = 0xFFFF;
const TRANSACTION: u16 = 0xFFFE;
const OPEN_SESSION: u16 = 0xFFFD;
const ONCE: u16 = 0xFFFC;
const RESET_CLOCK: u16 = 0xFFFB;
const DIGEST_MARK: u16 = 0xFFFA;
const DIGEST_REPORT: u16 = 0xFFF9;
const EFFECTS: u16 = 0xFFF8;
/// In front of a command in another database than 0, followed by the number of the database
/// (1 byte) and by the command as in database 0.
const IN_DATABASE: u16 = 0xFFF7;

/// Length in bytes of what precedes a command in another database than 0.
const DATABASE_BYTES: usize = NUMBER_BYTES + 1;

/// Minimum spare capacity, in bytes, that [`Operation::encode_in`] reserves if a buffer is too
/// small.
const BUFFER_BYTES: usize = 64 << 10;

/// Number of bytes that stay free behind a long encoded operation, for the other fields of a batch
/// that has no other operation (see [`Batch::of_one`](super::Batch::of_one)).
pub(super) const SPARE_BYTES: usize = 64;

/// Length in bytes of the number at the start of an encoded operation, which says which command or
/// other operation it is.
const NUMBER_BYTES: usize = 2;

/// The context in which an operation is decoded: directly in a batch (`Nothing`), in a request of a
/// client session (`Once`), or in a transaction. The context limits which operations may be nested,
/// so that untrusted bytes cannot cause deep recursion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    Nothing,
    Once,
    Transaction,
}

impl<'a> Operation<'a> {
    /// Returns whether replicas submit the operation themselves, so that no user needs permission.
    pub(in crate::kv) fn is_internal(&self) -> bool {
        match self {
            Operation::Clock { .. } | Operation::DigestMark | Operation::DigestReport { .. } => {
                true
            }
            Operation::Call { .. }
            | Operation::Transaction { .. }
            | Operation::Effects { .. }
            | Operation::OpenSession
            | Operation::Once { .. }
            | Operation::ResetClock { .. } => false,
        }
    }

    /// Returns an operation that runs `command` with the arguments `args`.
    pub fn call(command: CommandId, args: impl Into<Arguments<'a>>) -> Operation<'a> {
        Operation::Call { command, args: args.into(), database: DatabaseId::FIRST }
    }

    /// Returns the operation with `database` as the one in which it runs, if it is a single
    /// command. Any other operation names the databases of its commands.
    #[must_use]
    pub fn in_database(mut self, id: DatabaseId) -> Operation<'a> {
        if let Operation::Call { database, .. } = &mut self {
            *database = id;
        }
        self
    }

    /// Returns an operation that runs `GET key`.
    pub fn get(key: &'a [u8]) -> Operation<'a> {
        Operation::call(CommandId::GET, [key])
    }

    /// Returns an operation that runs `SET key value`.
    pub fn set(key: &'a [u8], value: &'a [u8]) -> Operation<'a> {
        Operation::call(CommandId::SET, [key, value])
    }

    /// Returns an operation that runs `DEL key`.
    pub fn del(key: &'a [u8]) -> Operation<'a> {
        Operation::call(CommandId::DEL, [key])
    }

    /// Returns the name and the arguments of the command that the operation runs; `None` if the
    /// operation is not a single command.
    pub fn as_call(&self) -> Option<(&'static str, Vec<&'a [u8]>)> {
        match self {
            Operation::Call { command, args, .. } => Some((command.name(), args.iter().collect())),
            _ => None,
        }
    }

    /// Returns the feature level that the cluster must have before the operation may be in its log.
    /// That of a nested operation was checked when it was received.
    pub fn feature_level(&self) -> FeatureLevel {
        match self {
            Operation::Call { command, database: DatabaseId::FIRST, .. } => command.feature_level(),
            Operation::Call { command, .. } => command.feature_level().max(FeatureLevel::V0_2),
            Operation::Transaction { .. }
            | Operation::Clock { .. }
            | Operation::OpenSession
            | Operation::Once { .. }
            | Operation::ResetClock { .. } => FeatureLevel::V0_1,
            Operation::DigestMark | Operation::DigestReport { .. } | Operation::Effects { .. } => {
                FeatureLevel::V0_2
            }
        }
    }

    /// Returns whether the operation is read-only, so that it needs no log entry.
    pub fn is_read(&self) -> bool {
        match self {
            Operation::Call { command, .. } => command.is_read(),
            Operation::Transaction { operations, .. } => operations.iter().all(|one| {
                Operation::decode_nested(one).is_ok_and(|operation| operation.is_read())
            }),
            Operation::Clock { .. }
            | Operation::OpenSession
            | Operation::Once { .. }
            | Operation::Effects { .. }
            | Operation::ResetClock { .. }
            | Operation::DigestMark
            | Operation::DigestReport { .. } => false,
        }
    }

    /// Returns whether `bytes`, an operation encoded by [`Operation::encode`], is an
    /// [`Operation::ResetClock`].
    pub(super) fn resets_clock(bytes: &[u8]) -> bool {
        bytes.starts_with(&RESET_CLOCK.to_le_bytes())
    }

    /// Returns whether an encoded operation reads a range of keys, so that it may wait until the
    /// index of keys has been built.
    pub fn is_range_read(bytes: &[u8]) -> bool {
        call_number(bytes) == Some(CommandId::KEYRANGE.number())
    }

    /// Returns whether two encoded operations run the same command or, if they are not single
    /// commands, are of the same kind.
    pub fn are_same_command(one: &[u8], other: &[u8]) -> bool {
        call_number(one) == call_number(other)
    }

    /// Returns the length in bytes of the encoding that [`Operation::encode`] returns.
    pub fn encoded_len(&self) -> usize {
        let body = match self {
            Operation::Call { args, database, .. } => {
                let is_first = *database == DatabaseId::FIRST;
                args.encoded_len() + if is_first { 0 } else { DATABASE_BYTES }
            }
            Operation::Transaction { watched, operations } => {
                size_of::<u32>() + watched.bytes().len() + operations.bytes().len()
            }
            Operation::Effects { script, watched, operations, .. } => {
                4 * size_of::<u64>()
                    + 1
                    + 2 * size_of::<u32>()
                    + script.len()
                    + watched.bytes().len()
                    + operations.bytes().len()
            }
            Operation::Once { operation, .. } => 2 * size_of::<u64>() + operation.len(),
            Operation::Clock { .. } => 2 * size_of::<u64>(),
            Operation::ResetClock { .. } => size_of::<u64>(),
            Operation::OpenSession | Operation::DigestMark => 0,
            Operation::DigestReport { .. } => size_of::<u16>() + 2 * size_of::<u64>(),
        };
        NUMBER_BYTES + body
    }

    fn put(&self, out: &mut impl BufMut) {
        match *self {
            Operation::Call { command, args, database } => {
                if database != DatabaseId::FIRST {
                    out.put_u16_le(IN_DATABASE);
                    out.put_u8(database.number());
                }
                out.put_u16_le(command.number());
                args.put(out);
            }
            Operation::Clock { millis, resets } => {
                out.put_u16_le(CLOCK);
                out.put_u64_le(millis);
                out.put_u64_le(resets);
            }
            Operation::Transaction { watched, operations } => {
                out.put_u16_le(TRANSACTION);
                put_with_length(watched.bytes(), out);
                out.put_slice(operations.bytes());
            }
            Operation::Effects {
                seed,
                clock: (millis, resets),
                whole,
                needs_memory,
                script,
                watched,
                operations,
            } => {
                out.put_u16_le(EFFECTS);
                out.put_u64_le(seed);
                out.put_u64_le(millis);
                out.put_u64_le(resets);
                out.put_u64_le(whole);
                out.put_u8(needs_memory.into());
                put_with_length(script, out);
                put_with_length(watched.bytes(), out);
                out.put_slice(operations.bytes());
            }
            Operation::OpenSession => out.put_u16_le(OPEN_SESSION),
            Operation::Once { session, sequence, operation } => {
                out.put_u16_le(ONCE);
                out.put_u64_le(session);
                out.put_u64_le(sequence);
                out.put_slice(operation);
            }
            Operation::ResetClock { millis } => {
                out.put_u16_le(RESET_CLOCK);
                out.put_u64_le(millis);
            }
            Operation::DigestMark => out.put_u16_le(DIGEST_MARK),
            Operation::DigestReport { replica, mark, digest } => {
                out.put_u16_le(DIGEST_REPORT);
                out.put_u16_le(replica.0);
                out.put_u64_le(mark.0);
                out.put_u64_le(digest);
            }
        }
    }

    /// Returns the encoding of the operation: a number that identifies the command or the kind of
    /// operation, followed by the arguments or fields.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.encoded_len());
        self.put(&mut bytes);
        bytes
    }

    /// Encodes the operation at the end of `buffer`, then splits off the encoded bytes and returns
    /// them. The earlier content of `buffer` is unchanged. Saves allocations: the encodings of many
    /// small operations share one. A long one gets memory of its own.
    pub fn encode_in(&self, buffer: &mut BytesMut) -> Bytes {
        let (start, length) = (buffer.len(), self.encoded_len());
        if length > BUFFER_BYTES {
            let mut bytes = Vec::with_capacity(length + SPARE_BYTES);
            self.put(&mut bytes);
            return Bytes::from(bytes);
        }
        if buffer.capacity() - start < length {
            buffer.reserve(BUFFER_BYTES);
        }
        self.put(buffer);
        assert!(buffer.len() == start + length, "{} bytes of {length}", buffer.len() - start);
        // At offset 0, `split_off` would move the buffer's spare capacity to the returned bytes;
        // `split` does not.
        if start == 0 { buffer.split() } else { buffer.split_off(start) }.freeze()
    }

    /// Decodes an operation from a request of a client session or from a transaction.
    ///
    /// # Errors
    /// If the bytes are not exactly one command or one transaction, the only operations that may be
    /// nested.
    pub fn decode_nested(bytes: &'a [u8]) -> Result<Operation<'a>, OperationError> {
        Operation::decode_in(bytes, Within::Once)
    }

    /// Decodes an operation that [`Operation::encode`] encoded.
    ///
    /// # Errors
    /// If the bytes are not exactly one valid operation.
    pub fn decode(bytes: &'a [u8]) -> Result<Operation<'a>, OperationError> {
        Operation::decode_in(bytes, Within::Nothing)
    }

    fn decode_in(bytes: &'a [u8], within: Within) -> Result<Operation<'a>, OperationError> {
        let length = bytes.len();
        let invalid = OperationError { length };
        let (number, body) = bytes.split_first_chunk::<NUMBER_BYTES>().ok_or(invalid)?;
        let number = u16::from_le_bytes(*number);
        if let Some(command) = CommandId::numbered(number) {
            let args = Items::check(body).ok_or(invalid)?.into();
            return Ok(Operation::Call { command, args, database: DatabaseId::FIRST });
        }
        let other = match number {
            IN_DATABASE => decode_in_database(body),
            _ => decode_other(number, body, within),
        };
        other.ok_or(invalid)
    }
}

/// Decodes a command in another database than 0, from what follows the number [`IN_DATABASE`].
fn decode_in_database(body: &[u8]) -> Option<Operation<'_>> {
    let (database, call) = body.split_first()?;
    let database = DatabaseId::new(*database).filter(|id| *id != DatabaseId::FIRST)?;
    let (number, body) = call.split_first_chunk::<NUMBER_BYTES>()?;
    let command = CommandId::numbered(u16::from_le_bytes(*number))?;
    Some(Operation::Call { command, args: Items::check(body)?.into(), database })
}

/// Returns the number in an encoded operation: that of the command, in whatever database, or that
/// of the kind of operation. `None` if there is none.
fn call_number(bytes: &[u8]) -> Option<u16> {
    let number = bytes.first_chunk().copied().map(u16::from_le_bytes)?;
    match number {
        IN_DATABASE => bytes.get(DATABASE_BYTES..)?.first_chunk().copied().map(u16::from_le_bytes),
        _ => Some(number),
    }
}

/// Appends `part` after its length (4 bytes).
fn put_with_length(part: &[u8], out: &mut impl BufMut) {
    out.put_u32_le(u32::try_from(part.len()).expect("limits keep a request far below 4 GiB"));
    out.put_slice(part);
}

/// Splits off the part at the front of `body` that [`put_with_length`] has appended; `None` if it
/// is incomplete.
fn take_with_length<'a>(body: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = body.try_get_u32_le().ok()? as usize;
    let (part, rest) = body.split_at_checked(length)?;
    *body = rest;
    Some(part)
}

/// Decodes an operation other than a single command from its `number` and its `body`, which
/// contains the encoded fields. Returns `None` if the operation is invalid, or not allowed in the
/// context `within`, such as a transaction in a transaction.
fn decode_other(number: u16, mut body: &[u8], within: Within) -> Option<Operation<'_>> {
    let allowed = match number {
        TRANSACTION => within != Within::Transaction,
        _ => within == Within::Nothing,
    };
    if !allowed {
        return None;
    }
    let operation = match number {
        CLOCK => Operation::Clock {
            millis: body.try_get_u64_le().ok()?,
            resets: body.try_get_u64_le().ok()?,
        },
        RESET_CLOCK => Operation::ResetClock { millis: body.try_get_u64_le().ok()? },
        OPEN_SESSION => Operation::OpenSession,
        DIGEST_MARK => Operation::DigestMark,
        DIGEST_REPORT => Operation::DigestReport {
            replica: NodeId(body.try_get_u16_le().ok()?),
            mark: Index(body.try_get_u64_le().ok()?),
            digest: body.try_get_u64_le().ok()?,
        },
        TRANSACTION => {
            let watched = take_with_length(&mut body)?;
            return transaction(Items::check(watched)?, Items::check(body)?);
        }
        EFFECTS => {
            let seed = body.try_get_u64_le().ok()?;
            let clock = (body.try_get_u64_le().ok()?, body.try_get_u64_le().ok()?);
            let whole = body.try_get_u64_le().ok()?;
            let needs_memory = match body.try_get_u8().ok()? {
                0 => false,
                1 => true,
                _ => return None,
            };
            let script = take_with_length(&mut body)?;
            let watched = Items::check(take_with_length(&mut body)?)?;
            let operations = Items::check(body)?;
            transaction(watched, operations)?;
            let is_valid = script.is_empty() || script.len() >= SHA_DIGITS;
            return is_valid.then_some(Operation::Effects {
                seed,
                clock,
                whole,
                needs_memory,
                script,
                watched,
                operations,
            });
        }
        ONCE => {
            let (session, sequence) = (body.try_get_u64_le().ok()?, body.try_get_u64_le().ok()?);
            Operation::decode_in(body, Within::Once).ok()?;
            return Some(Operation::Once { session, sequence, operation: body });
        }
        _ => return None,
    };
    body.is_empty().then_some(operation)
}

fn transaction<'a>(watched: Items<'a>, operations: Items<'a>) -> Option<Operation<'a>> {
    let is_valid = WatchedKey::are_valid(watched)
        && operations.iter().all(|one| Operation::decode_in(one, Within::Transaction).is_ok());
    is_valid.then_some(Operation::Transaction { watched, operations })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::kv::commands::items::ItemsBuffer;

    /// Returns operations of every kind, including calls with no, few and many arguments.
    pub(in crate::kv) fn samples() -> Vec<Operation<'static>> {
        let mut inner = ItemsBuffer::default();
        inner.push(&Operation::get(b"k").encode());
        let inner: &'static [u8] = inner.items().bytes().to_vec().leak();
        let several: &[&[u8]] = &[b"key", b"a", b"", b"1", b"", b"bb"];
        vec![
            Operation::get(b"k"),
            Operation::get(b""),
            Operation::set(b"key", b"value"),
            Operation::set(b"", &[0; 1_000]),
            Operation::get(b"k").in_database(DatabaseId::new(1).unwrap()),
            Operation::call(CommandId::of("hset"), several)
                .in_database(DatabaseId::new(15).unwrap()),
            Operation::call(CommandId::of("dbsize"), []),
            Operation::call(CommandId::of("hset"), several),
            Operation::call(CommandId::of("mget"), Items::check(b"\x01\0\0\0a\0\0\0\0").unwrap()),
            Operation::Clock { millis: 1_700_000_000_000, resets: 1 },
            Operation::ResetClock { millis: 1_700_000_000_000 },
            Operation::DigestMark,
            Operation::DigestReport { replica: NodeId(3), mark: Index(9), digest: 1 << 60 },
            Operation::Transaction {
                watched: Items::check(b"\x01\0\0\0a\x08\0\0\0revision").unwrap(),
                operations: Items::check(inner).unwrap(),
            },
            Operation::Effects {
                seed: 5,
                clock: (7, 8),
                whole: 6,
                needs_memory: true,
                script: b"0123456789012345678901234567890123456789return 1",
                watched: Items::check(b"\x01\0\0\0a\x08\0\0\0revision").unwrap(),
                operations: Items::check(inner).unwrap(),
            },
            Operation::OpenSession,
            Operation::Once { session: 7, sequence: 1, operation: &inner[4..] },
        ]
    }

    #[test]
    fn kv_operations_round_trip_through_their_encoding() {
        let mut buffer = BytesMut::new();
        for before in [&b""[..], b"before"] {
            for operation in samples() {
                let bytes = operation.encode();
                assert_eq!(bytes.len(), operation.encoded_len());
                assert_eq!(Operation::decode(&bytes), Ok(operation));
                buffer.extend_from_slice(before);
                assert_eq!(operation.encode_in(&mut buffer), bytes);
                assert_eq!(buffer, before);
                buffer.clear();
                let get = Operation::get(b"other").encode();
                let is_get = operation.as_call().is_some_and(|(name, _)| name == "get");
                assert_eq!(Operation::are_same_command(&bytes, &get), is_get);
                assert!(!Operation::is_range_read(&bytes));
                assert!(Operation::are_same_command(&bytes, &bytes));
                let resets = matches!(operation, Operation::ResetClock { .. });
                assert_eq!(Operation::resets_clock(&bytes), resets);
            }
        }
    }

    #[test]
    fn decoding_truncated_or_padded_kv_operations_fails() {
        for operation in samples() {
            let bytes = operation.encode();
            for length in 0..bytes.len() {
                // The remaining bytes may be a valid call with fewer arguments.
                let cut = Operation::decode(&bytes[..length]);
                assert_ne!(cut, Ok(operation), "cut to {length}");
            }
            let behind = [&bytes[..], b"x"].concat();
            assert!(Operation::decode(&behind).is_err(), "{operation:?}");
        }
    }

    #[test]
    fn decoding_malformed_kv_operation_or_unknown_command_fails() {
        let refused = |bytes: &[u8]| {
            let length = bytes.len();
            assert_eq!(Operation::decode(bytes), Err(OperationError { length }));
        };
        let mut bytes = Operation::get(b"a").encode();
        bytes[..2].copy_from_slice(&CommandId::SET.number().to_le_bytes());
        let decoded = Operation::decode(&bytes);
        assert_eq!(decoded, Ok(Operation::call(CommandId::SET, [&b"a"[..]])));
        bytes[2] = 2;
        refused(&bytes);
        bytes[2] = 1;
        for number in [511_u16, 512, 0xFFF0] {
            bytes[..2].copy_from_slice(&number.to_le_bytes());
            refused(&bytes);
        }
        refused(b"");
        refused(b"x");
    }

    #[test]
    fn call_in_another_database_is_the_call_behind_its_number() {
        let range = Operation::call(CommandId::KEYRANGE, [&b"-"[..], b"+"]);
        let in_9 = range.in_database(DatabaseId::new(9).unwrap());
        let (bytes, wrapped) = (range.encode(), in_9.encode());
        assert_eq!(wrapped, [&[0xF7, 0xFF, 9][..], &bytes].concat());
        assert!(Operation::is_range_read(&wrapped) && Operation::is_range_read(&bytes));
        assert!(Operation::are_same_command(&wrapped, &bytes));
        assert_eq!(range.feature_level(), FeatureLevel::V0_1);
        assert_eq!(in_9.feature_level(), FeatureLevel::V0_2);
        // One encoding for each operation, no unknown database, and no other operation inside.
        for malformed in [
            [&[0xF7, 0xFF, 0][..], &bytes].concat(),
            [&[0xF7, 0xFF, 16][..], &bytes].concat(),
            [&[0xF7, 0xFF, 1][..], &wrapped].concat(),
            [&[0xF7, 0xFF, 1][..], &Operation::OpenSession.encode()].concat(),
            vec![0xF7, 0xFF, 1],
        ] {
            assert!(Operation::decode(&malformed).is_err(), "{malformed:?}");
        }
    }

    #[test]
    fn kv_operations_nest_no_deeper_than_session_transaction_command() {
        let in_session = |inner: &Operation<'_>| {
            let operation = &inner.encode();
            Operation::Once { session: 1, sequence: 1, operation }.encode()
        };
        let in_transaction = |inner: &Operation<'_>| {
            let (watched, mut list) = (ItemsBuffer::default(), ItemsBuffer::default());
            list.push(&inner.encode());
            let (watched, operations) = (watched.items(), list.items());
            Operation::Transaction { watched, operations }.encode()
        };
        let get = Operation::get(b"k");
        let transaction = in_transaction(&get);
        assert!(Operation::decode(&transaction).is_ok());
        let transaction = Operation::decode_nested(&transaction).unwrap();
        let once = in_session(&transaction);
        assert!(Operation::decode(&once).is_ok());
        assert!(Operation::decode_nested(&once).is_err(), "a session's request is part of nothing");
        let nested = in_transaction(&transaction);
        assert!(Operation::decode(&nested).is_err(), "a transaction in a transaction");
    }

    #[test]
    fn decoding_a_kv_operation_with_flipped_bits_never_panics() {
        for operation in samples() {
            let bytes = operation.encode();
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                // The encoding has no checksum (the log has one), so a flipped bit in a value
                // results in another valid value.
                if let Ok(other) = Operation::decode(&damaged) {
                    assert_eq!(other.encode(), damaged, "bit {bit}");
                }
            }
        }
    }
}
