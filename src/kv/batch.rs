//! Batches: the payload of a log entry or of a read. A batch has one operation for each client
//! request, a key that identifies the batch, and a flag that says whether more than one copy of the
//! batch may be in the log.
//!
//! A batch is one rkyv archive without unused bytes: first the list of encoded operations (see
//! [`Items`]), then the other fields, so that operations can be added to a batch before its key is
//! known. The archive is flat (no recursion, no shared pointers) and is only read through rkyv's
//! checked access, which validates its layout; then the list and the other fields are validated.
//! Operations are decoded one by one when they are applied, and an invalid operation does not
//! affect the others.

use bytes::Bytes;
use rkyv::api::low;
use rkyv::boxed::{ArchivedBox, BoxResolver};
use rkyv::rancor::{Failure, Fallible};
use rkyv::ser::allocator::SubAllocator;
use rkyv::ser::{Positional, Writer};
use rkyv::with::{ArchiveWith, SerializeWith};
use rkyv::{Archive, Archived, Place, Serialize};

use crate::kv::commands::items::{Items, put_item};
use crate::kv::operation::{Operation, SPARE_BYTES};
use crate::types::{ClientId, RequestId, RequestKey};

/// A decoded batch. It contains either operations that are replicated together as the payload of
/// one log entry, or read-only operations that are answered together as one read. Borrows the
/// encoded bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch<'a> {
    /// Unique id of the batch. If the batch is in the log more than once, every occurrence has the
    /// same key.
    pub key: RequestKey,
    /// Whether the batch may be in the log more than once, because the replica that forwards it to
    /// the leader may send it again. If so, only the first occurrence in the log is applied, and
    /// its outcomes are stored, to be returned for later occurrences. Every occurrence has the same
    /// flag.
    pub may_repeat: bool,
    /// The revision of the users under which the replica that received the batch's requests has
    /// checked them: its operations are refused if the users have changed since. `None` for a batch
    /// that no client has sent.
    pub users_revision: Option<u64>,
    /// Number of operations in the batch.
    count: u32,
    /// The only operation of a batch that was made by [`Batch::of_one`], whose `operations` are
    /// empty; `None` for other batches.
    single: Option<&'a [u8]>,
    operations: Items<'a>,
}

/// Why a payload was rejected: it is not a valid batch, or it was submitted as a read but contains
/// a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The encoding (an archive of the library rkyv) is corrupt or has an unknown format version.
    #[error("command batch of {length} bytes is damaged or of an unknown format version")]
    Damaged {
        /// Length in bytes of the payload that could not be decoded.
        length: usize,
    },
    /// The payload has missing or surplus bytes: its length is not what its content requires.
    #[error("command batch has {length} bytes, but its contents need {expected}")]
    Length {
        /// Actual length of the payload in bytes.
        length: usize,
        /// Length in bytes that the payload should have, computed from its content.
        expected: usize,
    },
    /// The rkyv archive is intact, but its content is invalid: the list of operations is malformed,
    /// their number is wrong or above [`BATCH_OPERATIONS_MAX`], or a flag is unknown.
    #[error(
        "command batch of {length} bytes is invalid: malformed list of operations, wrong number of \
         operations or unknown flag"
    )]
    Meaningless {
        /// Length in bytes of the rejected payload.
        length: usize,
    },
    /// The batch was submitted as a read, but an operation in it is invalid or may change the
    /// state, so it must go through the log.
    #[error("a command batch sent as a read contains an operation that changes the state")]
    NotARead,
    /// An operation in the batch of reads reads a range of keys, and the state has no complete
    /// index of keys. The batch can be read after the index has been built.
    #[error("a command batch reads a range of keys, whose index has not been built")]
    NoKeyIndex,
}

/// A group of up to [`GROUP_MAX`] consecutive operations of a batch. The memory that they access is
/// prefetched for the whole group at once, so that cache misses overlap.
#[derive(Debug)]
pub struct Group<'a> {
    operations: [Option<Operation<'a>>; GROUP_MAX],
    len: usize,
}

impl<'a> Group<'a> {
    /// Returns the operations of this group (consecutive operations of a batch), in order; `None`
    /// for an operation that could not be decoded.
    pub fn operations(&self) -> &[Option<Operation<'a>>] {
        &self.operations[..self.len]
    }
}

/// A builder that encodes batches of operations, one batch after another.
#[derive(Debug, Default)]
pub struct BatchBuffer {
    /// The encoded operations of the batch that is being built.
    bytes: Vec<u8>,
    count: u32,
    flags: u8,
    users_revision: Option<u64>,
    /// Length in bytes of the previous batch, used as an estimate of how much memory to reserve for
    /// the next batch.
    previous_len: usize,
}

/// Maximum number of operations of a batch. It limits the work for one log entry, and the memory
/// that is allocated for a corrupt batch that states a huge number of operations.
pub const BATCH_OPERATIONS_MAX: usize = 1_024;

/// Maximum number of operations in a [`Group`]: about the number of memory accesses that a
/// processor keeps in flight.
pub const GROUP_MAX: usize = 16;

/// Flag in an encoded batch: the batch may be in the log more than once, so only its first
/// occurrence may be applied.
const MAY_REPEAT: u8 = 1;
/// Flag in an encoded batch: the batch contains an [`Operation::ResetClock`], so the leader must
/// fill in the time before it appends the batch to the log.
const RESETS_CLOCK: u8 = 2;
/// Flag of a [`Piece`]: the encoding has a part of a batch in place of the operations, and the
/// number of the pieces after it in place of the number of operations.
const PIECE: u8 = 4;
/// Flag of a [`Piece`]: it is the first one of its batch.
const FIRST_PIECE: u8 = 8;
/// Flag in an encoded batch: it has one operation, without a length in front of it.
const SINGLE: u8 = 16;
/// Flag in an encoded batch: the operations are followed by the revision of the users under which
/// they were checked.
const CHECKED: u8 = 32;
/// Length in bytes of the revision of the users in an encoded batch.
const REVISION_BYTES: usize = size_of::<u64>();

/// The fixed-size part of an encoded batch, which follows the encoded operations, in the archive
/// format of the library rkyv.
#[derive(Archive, Serialize)]
struct Record {
    client: u32,
    request: [u8; 16],
    flags: u8,
    count: u32,
    #[rkyv(with = BytesBefore)]
    operations: usize,
}

/// Serializer of the field `operations` of a [`Record`]. It writes only an rkyv reference to the
/// encoded operations, with their length in bytes, because they have already been written directly
/// before the record.
struct BytesBefore;

impl ArchiveWith<usize> for BytesBefore {
    type Archived = ArchivedBox<[u8]>;
    type Resolver = BoxResolver;

    fn resolve_with(length: &usize, resolver: BoxResolver, out: Place<ArchivedBox<[u8]>>) {
        let length = u32::try_from(*length).expect("limits keep a batch far below 4 GiB");
        ArchivedBox::resolve_from_raw_parts(resolver, length.into(), out);
    }
}

impl<S: Fallible + Positional + Writer<S::Error> + ?Sized> SerializeWith<usize, S> for BytesBefore {
    fn serialize_with(length: &usize, serializer: &mut S) -> Result<BoxResolver, S::Error> {
        let position = serializer.pos().checked_sub(*length);
        Ok(BoxResolver::from_pos(position.expect("the bytes were written before")))
    }
}

/// Length in bytes of an encoded batch without operations.
const RECORD_BYTES: usize = size_of::<Archived<Record>>();
const _: () = assert!(RECORD_BYTES + REVISION_BYTES <= SPARE_BYTES);
/// Number of bytes in front of each encoded operation in a batch, which contain the operation's
/// length.
const OPERATION_HEAD_BYTES: usize = size_of::<u32>();

impl<'a> Batch<'a> {
    /// Returns an encoded batch that contains only `operation`. The batch is marked as possibly
    /// being in the log more than once, so replicas apply only its first occurrence.
    pub fn one(key: RequestKey, operation: &Operation<'_>) -> Bytes {
        Batch::encode(key, true, [operation])
    }

    /// Returns an encoded batch of the given operations. `may_repeat` must be true if the batch may
    /// be in the log more than once.
    pub fn encode<'o, 'p: 'o>(
        key: RequestKey,
        may_repeat: bool,
        operations: impl IntoIterator<Item = &'o Operation<'p>>,
    ) -> Bytes {
        let mut buffer = BatchBuffer::default();
        for operation in operations {
            buffer.push(&operation.encode());
        }
        buffer.finish(key, may_repeat)
    }

    /// Returns an encoded batch that contains only `operation`, a long one that
    /// [`Operation::encode_in`] has encoded, and the operation in the memory of the batch. Does not
    /// copy the operation if it is not shared.
    pub fn of_one(
        operation: Bytes,
        key: RequestKey,
        may_repeat: bool,
        users_revision: Option<u64>,
    ) -> (Bytes, Bytes) {
        let length = operation.len();
        let bytes = match operation.try_into_mut() {
            Ok(bytes) => Vec::from(bytes),
            Err(shared) => shared.to_vec(),
        };
        let flags = if may_repeat { SINGLE | MAY_REPEAT } else { SINGLE };
        let batch = archive(bytes, key, flags, 1, users_revision);
        let operation = batch.slice(..length);
        (batch, operation)
    }

    /// Returns the length in bytes of the encoded batch that [`Batch::one`] returns for
    /// `operation`.
    pub fn encoded_len_of_one(operation: &Operation<'_>) -> usize {
        RECORD_BYTES + REVISION_BYTES + OPERATION_HEAD_BYTES + operation.encoded_len()
    }

    /// Decodes a batch from the payload of a log entry or of a read. Its operations are decoded
    /// later, one by one.
    ///
    /// # Errors
    /// If the payload is not exactly one valid batch.
    pub fn decode(bytes: &'a [u8]) -> Result<Batch<'a>, BatchError> {
        let length = bytes.len();
        let record = access(bytes)?;
        let meaningless = BatchError::Meaningless { length };
        let encoded = &record.operations[..];
        let (bytes, users_revision) = if record.flags & CHECKED == 0 {
            (encoded, None)
        } else {
            let (bytes, revision) =
                encoded.split_last_chunk::<REVISION_BYTES>().ok_or(meaningless)?;
            (bytes, Some(u64::from_le_bytes(*revision)))
        };
        let single = (record.flags & SINGLE != 0).then_some(bytes);
        let list = if single.is_some() { &[] } else { bytes };
        let (operations, listed) = Items::check_counted(list).ok_or(meaningless)?;
        let found = listed + usize::from(single.is_some());
        let count = record.count.to_native();
        if record.flags & !(MAY_REPEAT | RESETS_CLOCK | SINGLE | CHECKED) != 0
            || count as usize > BATCH_OPERATIONS_MAX
            || found != count as usize
        {
            return Err(meaningless);
        }
        // rkyv finds the root at the end and ignores other bytes before it. Unused bytes must not
        // be replicated and stored.
        let expected = RECORD_BYTES + encoded.len();
        if length != expected {
            return Err(BatchError::Length { length, expected });
        }
        let request = RequestId(record.request);
        let key = RequestKey { client: ClientId(record.client.to_native()), request };
        let may_repeat = record.flags & MAY_REPEAT != 0;
        Ok(Batch { key, may_repeat, users_revision, count, single, operations })
    }

    /// Returns the number of operations in the batch.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Returns whether the batch has no operations.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Iterates over the operations in order, and decodes each; yields `None` for an invalid
    /// operation.
    pub fn operations(&self) -> impl Iterator<Item = Option<Operation<'a>>> + use<'a> {
        self.encoded_operations().map(|bytes| Operation::decode(bytes).ok())
    }

    /// Skips the first `count` operations and iterates over the others, in groups of up to
    /// [`GROUP_MAX`] operations.
    pub fn groups_after(&self, count: usize) -> impl Iterator<Item = Group<'a>> + use<'a> {
        let mut rest = self.operations().skip(count);
        std::iter::from_fn(move || {
            let mut group = Group { operations: [None; GROUP_MAX], len: 0 };
            for (place, operation) in group.operations.iter_mut().zip(rest.by_ref()) {
                *place = operation;
                group.len += 1;
            }
            (group.len > 0).then_some(group)
        })
    }

    /// Iterates over the operations in encoded form, in order.
    pub fn encoded_operations(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.single.into_iter().chain(self.operations.iter())
    }

    /// Returns whether `payload` is a batch that contains an [`Operation::ResetClock`]. O(1).
    pub fn resets_clock(payload: &[u8]) -> bool {
        access(payload).is_ok_and(|record| record.flags & RESETS_CLOCK != 0)
    }

    /// Returns a copy of the encoded batch `payload` in which the time of each
    /// [`Operation::ResetClock`] is `millis`, in milliseconds since 1970.
    ///
    /// # Errors
    /// If `payload` is not a valid batch.
    pub fn with_reset_time(payload: &[u8], millis: u64) -> Result<Bytes, BatchError> {
        let batch = Batch::decode(payload)?;
        let mut buffer = BatchBuffer::default();
        let filled = Operation::ResetClock { millis }.encode();
        for operation in batch.encoded_operations() {
            buffer.push(if Operation::resets_clock(operation) { &filled } else { operation });
        }
        buffer.set_users_revision(batch.users_revision);
        Ok(buffer.finish(batch.key, batch.may_repeat))
    }
}

fn access(bytes: &[u8]) -> Result<&Archived<Record>, BatchError> {
    low::access::<Archived<Record>, Failure>(bytes)
        .map_err(|Failure| BatchError::Damaged { length: bytes.len() })
}

impl BatchBuffer {
    /// Adds an operation, encoded by [`Operation::encode`], to the batch that is being built. The
    /// batch must have fewer than [`BATCH_OPERATIONS_MAX`] operations.
    pub fn push(&mut self, operation: &[u8]) {
        assert!(self.len() < BATCH_OPERATIONS_MAX, "a batch has {} operations", self.count);
        if self.bytes.capacity() == 0 {
            self.bytes.reserve(self.previous_len.max(operation.len() + 2 * RECORD_BYTES));
        }
        put_item(operation, &mut self.bytes);
        self.count += 1;
        if Operation::resets_clock(operation) {
            self.flags |= RESETS_CLOCK;
        }
    }

    /// Sets the revision of the users under which the operations of the batch that is being built
    /// were checked; `None` if no client has sent them.
    pub fn set_users_revision(&mut self, revision: Option<u64>) {
        self.users_revision = revision;
    }

    /// Returns the number of operations of the batch that is being built.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Returns whether the batch that is being built has no operations.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the length in bytes of the encoding that [`BatchBuffer::finish`] would return now.
    pub fn encoded_len(&self) -> usize {
        let revision_bytes = self.users_revision.map_or(0, |_| REVISION_BYTES);
        self.bytes.len() + revision_bytes + RECORD_BYTES
    }

    /// Returns the encoding of the batch that was built, and begins a new, empty batch. `key`
    /// identifies the batch. `may_repeat` must be true if the batch may be in the log more than
    /// once.
    pub fn finish(&mut self, key: RequestKey, may_repeat: bool) -> Bytes {
        self.previous_len = self.encoded_len();
        let flags = std::mem::take(&mut self.flags) | if may_repeat { MAY_REPEAT } else { 0 };
        let (bytes, count) = (std::mem::take(&mut self.bytes), std::mem::take(&mut self.count));
        archive(bytes, key, flags, count, self.users_revision.take())
    }
}

/// Encodes the fields of a batch or a piece after `bytes`, its operations or its part of a batch.
fn archive(
    mut bytes: Vec<u8>,
    key: RequestKey,
    mut flags: u8,
    count: u32,
    users_revision: Option<u64>,
) -> Bytes {
    bytes.reserve_exact(RECORD_BYTES + REVISION_BYTES);
    if let Some(revision) = users_revision {
        bytes.extend_from_slice(&revision.to_le_bytes());
        flags |= CHECKED;
    }
    let length = bytes.len() + RECORD_BYTES;
    let RequestKey { client, request } = key;
    let operations = bytes.len();
    let record = Record { client: client.0, request: request.0, flags, count, operations };
    // Byte slices are not copied, so no scratch space is ever needed.
    let bytes = low::to_bytes_in_with_alloc::<_, _, Failure>(&record, bytes, SubAllocator::empty())
        .expect("a vector takes every byte, and a batch stays far below 4 GiB");
    assert!(bytes.len() == length, "rkyv padded a batch to {} bytes", bytes.len());
    Bytes::from(bytes)
}

/// A part of an encoded batch that is too long for one log entry. Each piece is the payload of an
/// entry of its own, so entries of other clients can be between them. The batch is applied at the
/// index of its last piece. Borrows the encoded bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Key of the batch.
    pub key: RequestKey,
    /// Whether the piece is the first one of its batch.
    pub is_first: bool,
    /// Number of pieces of the batch that follow this one.
    pub following: u32,
    /// The part of the encoded batch.
    pub bytes: &'a [u8],
}

/// Maximum length in bytes of an encoded batch that is the payload of one log entry. A longer one
/// is split into pieces.
pub const WHOLE_BATCH_BYTES_MAX: usize = (1 << 20) + (64 << 10);
/// Maximum length in bytes of the part of a batch in a [`Piece`].
pub const PIECE_BYTES: usize = 256 << 10;
/// Maximum number of pieces of a batch, which limits the memory for a corrupt one.
const PIECES_MAX: u32 = 512;

impl<'a> Piece<'a> {
    /// Returns the encoded piece with the part of `batch` from the byte `start` on, of at most
    /// `bytes_max` bytes. `key` is the key of the batch.
    pub fn encode(key: RequestKey, batch: &[u8], start: usize, bytes_max: usize) -> Bytes {
        assert!(start < batch.len(), "a piece from byte {start} of {}", batch.len());
        assert!((1..=PIECE_BYTES).contains(&bytes_max), "pieces of {bytes_max} bytes");
        let end = batch.len().min(start + bytes_max);
        let following = (batch.len() - end).div_ceil(bytes_max);
        let following = u32::try_from(following).expect("a batch is far below 4 GiB");
        assert!(following < PIECES_MAX, "a batch of {} bytes", batch.len());
        let mut bytes = Vec::with_capacity(end - start + RECORD_BYTES);
        bytes.extend_from_slice(&batch[start..end]);
        let flags = if start == 0 { PIECE | FIRST_PIECE } else { PIECE };
        archive(bytes, key, flags, following, None)
    }

    /// Decodes the payload of a log entry; `None` if it is not a piece.
    pub fn decode(payload: &'a [u8]) -> Option<Piece<'a>> {
        let record = access(payload).ok()?;
        if record.flags & PIECE == 0 {
            return None;
        }
        let bytes = &record.operations[..];
        let following = record.count.to_native();
        let is_valid = payload.len() == RECORD_BYTES + bytes.len()
            && (1..=PIECE_BYTES).contains(&bytes.len())
            && following < PIECES_MAX
            && record.flags & !(PIECE | FIRST_PIECE) == 0;
        let request = RequestId(record.request);
        let key = RequestKey { client: ClientId(record.client.to_native()), request };
        let is_first = record.flags & FIRST_PIECE != 0;
        is_valid.then_some(Piece { key, is_first, following, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::operation::tests::samples;
    use bytes::BytesMut;

    fn key() -> RequestKey {
        RequestKey { client: ClientId(0x1A), request: RequestId(*b"ABCDEFGHIJ012345") }
    }

    /// Returns encoded batches: one of each sample operation, one of all samples, and an empty one.
    fn batches() -> Vec<Bytes> {
        let mut batches: Vec<Bytes> =
            samples().iter().map(|operation| Batch::one(key(), operation)).collect();
        batches.push(Batch::encode(key(), false, &samples()));
        batches.push(Batch::encode(key(), true, []));
        batches
    }

    #[test]
    fn command_batches_round_trip_at_any_memory_alignment() {
        let bytes = Batch::encode(key(), false, &samples());
        for offset in 0..8 {
            let mut shifted = vec![0; offset];
            shifted.extend_from_slice(&bytes);
            let batch = Batch::decode(&shifted[offset..]).unwrap();
            assert_eq!((batch.key, batch.may_repeat), (key(), false));
            assert_eq!(batch.len(), samples().len());
            assert!(batch.operations().eq(samples().into_iter().map(Some)));
        }
        for (operation, bytes) in samples().iter().zip(batches()) {
            let batch = Batch::decode(&bytes).unwrap();
            assert!(batch.may_repeat && batch.operations().eq([Some(*operation)]));
        }
    }

    #[test]
    fn command_batch_buffer_can_be_reused_for_the_next_batch() {
        let mut buffer = BatchBuffer::default();
        for batch in batches() {
            let decoded = Batch::decode(&batch).unwrap();
            for operation in decoded.encoded_operations() {
                buffer.push(operation);
            }
            assert_eq!((buffer.len(), buffer.encoded_len()), (decoded.len(), batch.len()));
            assert_eq!(buffer.finish(decoded.key, decoded.may_repeat), batch);
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn batch_split_into_command_groups_keeps_operation_order() {
        let keys: Vec<Vec<u8>> = (0..50_u8).map(|number| vec![number]).collect();
        let operations: Vec<_> = keys.iter().map(|key| Operation::get(key)).collect();
        let bytes = Batch::encode(key(), true, &operations);
        let batch = Batch::decode(&bytes).unwrap();
        for count in [0, 1, 16, 33, 50] {
            let groups: Vec<Group<'_>> = batch.groups_after(count).collect();
            assert_eq!(groups.len(), (50 - count).div_ceil(GROUP_MAX));
            let all = groups.iter().flat_map(|group| group.operations().iter().copied());
            assert!(all.eq(operations[count..].iter().copied().map(Some)), "after {count}");
        }
    }

    #[test]
    fn batch_of_one_long_operation_is_made_without_a_copy() {
        let value = vec![7; 100_000];
        let set = Operation::set(b"k", &value);
        let encoded = set.encode_in(&mut BytesMut::new());
        let (place, expected) = (encoded.as_ptr(), encoded.clone().to_vec());
        for may_repeat in [false, true] {
            let (bytes, operation) =
                Batch::of_one(Bytes::from(expected.clone()), key(), may_repeat, None);
            let batch = Batch::decode(&bytes).unwrap();
            assert_eq!((batch.key, batch.may_repeat, batch.len()), (key(), may_repeat, 1));
            assert!(batch.operations().eq([Some(set)]) && operation == expected);
            assert!(batch.encoded_operations().eq([&expected[..]]));
            for length in 0..200 {
                assert!(Batch::decode(&bytes[..bytes.len() - 1 - length]).is_err());
                assert!(Batch::decode(&bytes[1 + length..]).is_err());
            }
        }
        let (bytes, operation) = Batch::of_one(encoded, key(), true, Some(7));
        assert_eq!((bytes.as_ptr(), operation.as_ptr()), (place, place));
    }

    #[test]
    fn decoding_truncated_or_padded_command_batches_fails() {
        for bytes in batches() {
            for length in 0..bytes.len() {
                assert!(Batch::decode(&bytes[..length]).is_err(), "cut to {length}");
                assert!(Batch::decode(&bytes[length + 1..]).is_err(), "{length} bytes lost");
            }
            let before = [b"x", &bytes[..]].concat();
            assert!(matches!(Batch::decode(&before), Err(BatchError::Length { .. })));
            let behind = [&bytes[..], b"x"].concat();
            assert!(Batch::decode(&behind).is_err());
        }
    }

    #[test]
    fn undecodable_operation_does_not_affect_others_in_its_batch() {
        let mut buffer = BatchBuffer::default();
        buffer.push(&Operation::get(b"a").encode());
        buffer.push(b"nonsense");
        buffer.push(&Operation::get(b"b").encode());
        let bytes = buffer.finish(key(), true);
        let batch = Batch::decode(&bytes).unwrap();
        let wanted = [Some(Operation::get(b"a")), None, Some(Operation::get(b"b"))];
        assert!(batch.operations().eq(wanted));
    }

    #[test]
    fn clock_reset_commands_of_a_batch_get_the_given_reset_time() {
        let reset = Operation::ResetClock { millis: 0 };
        let bytes = Batch::encode(key(), true, &[Operation::get(b"a"), reset, reset]);
        assert!(Batch::resets_clock(&bytes));
        let filled = Batch::with_reset_time(&bytes, 7).unwrap();
        assert!(Batch::resets_clock(&filled));
        let reset = Some(Operation::ResetClock { millis: 7 });
        let batch = Batch::decode(&filled).unwrap();
        assert!(batch.operations().eq([Some(Operation::get(b"a")), reset, reset]));
        let other = Batch::one(key(), &Operation::get(b"a"));
        assert!(!Batch::resets_clock(&other));
        assert!(Batch::with_reset_time(b"?", 7).is_err() && !Batch::resets_clock(b"?"));
    }

    #[test]
    fn decoding_a_command_batch_with_flipped_bits_never_panics() {
        for bytes in batches() {
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes.to_vec();
                damaged[bit / 8] ^= 1 << (bit % 8);
                // Checksums belong to the log: a flipped bit in a value is just another value.
                if let Ok(batch) = Batch::decode(&damaged) {
                    assert!(batch.operations().count() == batch.len(), "bit {bit}");
                }
            }
        }
    }
}
