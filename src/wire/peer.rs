//! What replicas say to each other, as bytes: a header archived by rkyv, then the entries' records
//! exactly as they lie in the log and on disk, or a snapshot's chunk.
//!
//! ```text
//!  0         1               3
//!  +---------+---------------+------------------------+----------+----------+-----
//!  | version | header length |  header (rkyv archive) |  record  |  record  | ...
//!  +---------+---------------+------------------------+----------+----------+-----
//! ```
//!
//! Where the message ends is told by whatever carries it: a datagram, a frame, a JSON field. The
//! header is a flat archive of one fixed length, read through rkyv's checked access only. It does
//! not say who sends and to whom: that is the envelope's, and the envelope's form is the door's.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rkyv::api::low;
use rkyv::rancor::Failure;
use rkyv::ser::allocator::SubAllocator;
use rkyv::ser::writer::Buffer;
use rkyv::{Archive, Archived, Serialize};

use crate::raft::{
    AppendEntries, AppendOutcome, AppendReply, DiskState, InstallReply, InstallSnapshot, PeerMsg,
    Rejoin, RejoinReply, RequestVote, SnapshotId, TimeoutNow, VoteReply,
};
use crate::record::{self, Entry, RecordError};
use crate::types::{EntryId, Index, NodeId, Round, Term};

/// The version of this layout.
const VERSION: u8 = 2;
/// Bytes before the header.
const PREFIX_BYTES: usize = 3;
/// Bytes of a header.
const HEADER_BYTES: usize = size_of::<Archived<Header>>();
/// Indexes and rounds lie below: what is counted up from 0 never gets here, so a larger number is
/// made up, and the core may add one to any that passes. Terms end with [`Term::MAX`].
const NUMBER_MAX: u64 = Index::MAX.0;

/// A message without its entries, as it is archived. New kinds go to the end.
#[derive(Archive, Serialize)]
enum Header {
    Append {
        term: u64,
        round: u64,
        prev_term: u64,
        prev_index: u64,
        commit_index: u64,
        loss_permille: u16,
        /// One more than the replica's number; zero for none.
        transfer_to: u32,
        entry_count: u32,
    },
    Match {
        term: u64,
        round: u64,
        disk: u8,
        index: u64,
    },
    Reject {
        term: u64,
        round: u64,
        disk: u8,
        refused: u64,
        hint_term: u64,
        hint_index: u64,
    },
    RequestVote {
        term: u64,
        pre: bool,
        transfer: bool,
        last_term: u64,
        last_index: u64,
    },
    VoteReply {
        term: u64,
        pre: bool,
        granted: bool,
    },
    InstallSnapshot {
        term: u64,
        round: u64,
        last_term: u64,
        last_index: u64,
        bytes: u64,
        offset: u64,
        checksum: u32,
        chunk_bytes: u32,
    },
    InstallReply {
        term: u64,
        round: u64,
        last_term: u64,
        last_index: u64,
        bytes: u64,
        received: u64,
        checksum: u32,
    },
    TimeoutNow {
        term: u64,
        last_term: u64,
        last_index: u64,
    },
    Rejoin {
        nonce: u64,
        term: u64,
        last_term: u64,
        last_index: u64,
    },
    RejoinReply {
        nonce: u64,
        term: u64,
        leads: bool,
        last_term: u64,
        last_index: u64,
    },
}

/// Why bytes are no message of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Too short for any message.
    #[error("a peer message of {length} bytes is too short, {needed} are needed")]
    Short {
        /// Bytes there.
        length: usize,
        /// Bytes needed.
        needed: usize,
    },
    /// Another layout than ours.
    #[error(
        "a peer message has version {version} and a header of {length} bytes, here it is \
         {VERSION} and {HEADER_BYTES}: do all replicas run the same version?"
    )]
    Version {
        /// The version it claims.
        version: u8,
        /// The length of its header, as it says.
        length: usize,
    },
    /// The header's archive does not hold together.
    #[error("the header of a peer message is damaged")]
    Header,
    /// A number that can't be.
    #[error("a peer message has {field} {value}, which can't be")]
    Number {
        /// Which number.
        field: &'static str,
        /// What it says.
        value: u64,
    },
    /// An id that no place in a log can have, or that is younger than the message.
    #[error("a peer message of term {term} names {id} as {field}, which can't be")]
    Place {
        /// Which id.
        field: &'static str,
        /// What it says.
        id: EntryId,
        /// The message's term.
        term: Term,
    },
    /// A chunk that is not as long as the message says.
    #[error("a peer message claims a chunk of {claimed} bytes and has {bytes}")]
    Chunk {
        /// Bytes claimed.
        claimed: usize,
        /// Bytes after the header.
        bytes: usize,
    },
    /// More entries than its bytes could hold.
    #[error("a peer message claims {claimed} entries in {bytes} bytes")]
    Count {
        /// Entries claimed.
        claimed: usize,
        /// Bytes after the header.
        bytes: usize,
    },
    /// An entry is damaged.
    #[error("entry {position} of a peer message: {source}")]
    Record {
        /// Which of the entries, from 0.
        position: usize,
        /// What is wrong with it.
        source: RecordError,
    },
    /// An entry does not follow the one before it, or is younger than the message.
    #[error("a peer message of term {term} has entry {found} after {previous}")]
    Order {
        /// The entry before it.
        previous: EntryId,
        /// The entry.
        found: EntryId,
        /// The message's term.
        term: Term,
    },
    /// Bytes are left over.
    #[error("{bytes} bytes follow the end of a peer message")]
    Trailing {
        /// How many.
        bytes: usize,
    },
}

/// How many bytes [`encode`] appends for `message`.
pub fn encoded_len(message: &PeerMsg) -> usize {
    PREFIX_BYTES + HEADER_BYTES + parts_of(message).map(Bytes::len).sum::<usize>()
}

/// Appends `message` to `out`.
pub fn encode(message: &PeerMsg, out: &mut BytesMut) {
    out.reserve(encoded_len(message));
    encode_head(message, out);
    for part in parts_of(message) {
        out.put_slice(part);
    }
}

/// What follows the head: the records of entries, or a chunk.
pub fn parts_of(message: &PeerMsg) -> impl Iterator<Item = &Bytes> {
    let (entries, chunk): (&[Entry], Option<&Bytes>) = match message {
        PeerMsg::AppendEntries(append) => (&append.entries, None),
        PeerMsg::InstallSnapshot(install) => (&[], Some(&install.chunk)),
        PeerMsg::AppendReply(_)
        | PeerMsg::RequestVote(_)
        | PeerMsg::VoteReply(_)
        | PeerMsg::InstallReply(_)
        | PeerMsg::TimeoutNow(_)
        | PeerMsg::Rejoin(_)
        | PeerMsg::RejoinReply(_) => (&[], None),
    };
    entries.iter().map(Entry::record).chain(chunk)
}

/// Appends everything of `message` but its parts to `out`, for who sends those from where they
/// lie.
pub fn encode_head(message: &PeerMsg, out: &mut BytesMut) {
    let header = header_of(message);
    let mut space = [0; HEADER_BYTES];
    let archive = low::to_bytes_in_with_alloc::<_, _, Failure>(
        &header,
        Buffer::from(&mut space),
        SubAllocator::empty(),
    )
    .expect("the space is the archive's size, and a flat archive needs no scratch");
    out.put_u8(VERSION);
    out.put_u16_le(u16::try_from(HEADER_BYTES).expect("some dozen bytes"));
    out.put_slice(&archive);
}

/// Reads a message, all of `bytes`. Its entries share their memory.
///
/// # Errors
/// If the bytes are not exactly one message, or if what they say contradicts itself. A message
/// that passes may still be old, or not for us: that is the core's to judge.
pub fn decode(mut bytes: Bytes) -> Result<PeerMsg, PeerError> {
    let needed = PREFIX_BYTES + HEADER_BYTES;
    let length = bytes.len();
    if length < PREFIX_BYTES {
        return Err(PeerError::Short { length, needed });
    }
    let version = bytes.get_u8();
    let header_length = usize::from(bytes.get_u16_le());
    if version != VERSION || header_length != HEADER_BYTES {
        return Err(PeerError::Version { version, length: header_length });
    }
    if length < needed {
        return Err(PeerError::Short { length, needed });
    }
    let archive = bytes.split_to(HEADER_BYTES);
    let header =
        low::access::<ArchivedHeader, Failure>(&archive).map_err(|Failure| PeerError::Header)?;
    let message = message_of(header, &mut bytes)?;
    if !bytes.is_empty() {
        return Err(PeerError::Trailing { bytes: bytes.len() });
    }
    Ok(message)
}

fn header_of(message: &PeerMsg) -> Header {
    match message {
        PeerMsg::AppendEntries(append) => Header::Append {
            term: append.term.0,
            round: append.round.0,
            prev_term: append.prev.term.0,
            prev_index: append.prev.index.0,
            commit_index: append.commit_index.0,
            loss_permille: append.loss_permille,
            transfer_to: append.transfer_to.map_or(0, |to| u32::from(to.0) + 1),
            entry_count: u32::try_from(append.entries.len())
                .expect("a record takes 25 bytes, so 2^32 of them don't fit in a message"),
        },
        PeerMsg::AppendReply(AppendReply { term, round, disk, outcome }) => match outcome {
            AppendOutcome::Match { index } => Header::Match {
                term: term.0,
                round: round.0,
                disk: disk_code(*disk),
                index: index.0,
            },
            AppendOutcome::Reject { refused, hint } => Header::Reject {
                term: term.0,
                round: round.0,
                disk: disk_code(*disk),
                refused: refused.0,
                hint_term: hint.term.0,
                hint_index: hint.index.0,
            },
        },
        PeerMsg::TimeoutNow(TimeoutNow { term, last }) => {
            Header::TimeoutNow { term: term.0, last_term: last.term.0, last_index: last.index.0 }
        }
        PeerMsg::Rejoin(Rejoin { nonce, term, last }) => Header::Rejoin {
            nonce: *nonce,
            term: term.0,
            last_term: last.term.0,
            last_index: last.index.0,
        },
        PeerMsg::RejoinReply(RejoinReply { nonce, term, leads, last }) => Header::RejoinReply {
            nonce: *nonce,
            term: term.0,
            leads: *leads,
            last_term: last.term.0,
            last_index: last.index.0,
        },
        PeerMsg::RequestVote(RequestVote { term, pre, transfer, last }) => Header::RequestVote {
            term: term.0,
            pre: *pre,
            transfer: *transfer,
            last_term: last.term.0,
            last_index: last.index.0,
        },
        PeerMsg::VoteReply(VoteReply { term, pre, granted }) => {
            Header::VoteReply { term: term.0, pre: *pre, granted: *granted }
        }
        PeerMsg::InstallSnapshot(InstallSnapshot { term, round, snapshot, offset, chunk }) => {
            Header::InstallSnapshot {
                term: term.0,
                round: round.0,
                last_term: snapshot.last.term.0,
                last_index: snapshot.last.index.0,
                bytes: snapshot.bytes,
                offset: *offset,
                checksum: snapshot.checksum,
                chunk_bytes: u32::try_from(chunk.len()).expect("chunks are kept small"),
            }
        }
        PeerMsg::InstallReply(InstallReply { term, round, snapshot, received }) => {
            Header::InstallReply {
                term: term.0,
                round: round.0,
                last_term: snapshot.last.term.0,
                last_index: snapshot.last.index.0,
                bytes: snapshot.bytes,
                received: *received,
                checksum: snapshot.checksum,
            }
        }
    }
}

/// The message of a header, with its entries taken off `bytes`.
#[expect(clippy::too_many_lines, reason = "one arm for each kind of message")]
fn message_of(header: &ArchivedHeader, bytes: &mut Bytes) -> Result<PeerMsg, PeerError> {
    Ok(match header {
        ArchivedHeader::Append {
            term,
            round,
            prev_term,
            prev_index,
            commit_index,
            loss_permille,
            transfer_to,
            entry_count,
        } => {
            let term = own_term(term.to_native())?;
            // An entry of the leader's own term may come right before.
            let prev = place("prev", prev_term.to_native(), prev_index.to_native(), term, term)?;
            PeerMsg::AppendEntries(AppendEntries {
                term,
                round: Round(number("round", round.to_native())?),
                prev,
                commit_index: Index(number("commit_index", commit_index.to_native())?),
                loss_permille: permille(loss_permille.to_native())?,
                transfer_to: replica("transfer_to", transfer_to.to_native())?,
                entries: entries(term, prev, entry_count.to_native() as usize, bytes)?,
            })
        }
        ArchivedHeader::Match { term, round, disk, index } => PeerMsg::AppendReply(AppendReply {
            term: own_term(term.to_native())?,
            round: Round(number("round", round.to_native())?),
            disk: disk_of(*disk)?,
            outcome: AppendOutcome::Match { index: Index(number("index", index.to_native())?) },
        }),
        ArchivedHeader::Reject { term, round, disk, refused, hint_term, hint_index } => {
            let term = own_term(term.to_native())?;
            PeerMsg::AppendReply(AppendReply {
                term,
                round: Round(number("round", round.to_native())?),
                disk: disk_of(*disk)?,
                outcome: AppendOutcome::Reject {
                    refused: Index(number("refused", refused.to_native())?),
                    hint: place("hint", hint_term.to_native(), hint_index.to_native(), term, term)?,
                },
            })
        }
        ArchivedHeader::TimeoutNow { term, last_term, last_index } => {
            let term = own_term(term.to_native())?;
            // A leader has begun its term with an entry, so its log ends in it.
            let last = place("last", last_term.to_native(), last_index.to_native(), term, term)?;
            PeerMsg::TimeoutNow(TimeoutNow { term, last })
        }
        ArchivedHeader::Rejoin { nonce, term, last_term, last_index } => {
            let term = Term(number("term", term.to_native())?);
            let last = place("last", last_term.to_native(), last_index.to_native(), term, term)?;
            PeerMsg::Rejoin(Rejoin { nonce: nonce.to_native(), term, last })
        }
        ArchivedHeader::RejoinReply { nonce, term, leads, last_term, last_index } => {
            let term = Term(number("term", term.to_native())?);
            let last = place("last", last_term.to_native(), last_index.to_native(), term, term)?;
            if *leads && (last.term != term || term == Term(0)) {
                // A leader has begun its term with an entry, so its log ends in it.
                return Err(PeerError::Place { field: "last", id: last, term });
            }
            let (nonce, leads) = (nonce.to_native(), *leads);
            PeerMsg::RejoinReply(RejoinReply { nonce, term, leads, last })
        }
        ArchivedHeader::RequestVote { term, pre, transfer, last_term, last_index } => {
            let term = own_term(term.to_native())?;
            // A candidate's log ends before the term that it stands for.
            let newest = Term(term.0 - 1);
            let last = place("last", last_term.to_native(), last_index.to_native(), term, newest)?;
            let (pre, transfer) = (*pre, *transfer);
            PeerMsg::RequestVote(RequestVote { term, pre, transfer, last })
        }
        ArchivedHeader::VoteReply { term, pre, granted } => PeerMsg::VoteReply(VoteReply {
            term: own_term(term.to_native())?,
            pre: *pre,
            granted: *granted,
        }),
        ArchivedHeader::InstallSnapshot {
            term,
            round,
            last_term,
            last_index,
            bytes: length,
            offset,
            checksum,
            chunk_bytes,
        } => {
            let term = own_term(term.to_native())?;
            let last = place("last", last_term.to_native(), last_index.to_native(), term, term)?;
            let length = number("bytes", length.to_native())?;
            PeerMsg::InstallSnapshot(InstallSnapshot {
                term,
                round: Round(number("round", round.to_native())?),
                snapshot: SnapshotId { last, bytes: length, checksum: checksum.to_native() },
                offset: within("offset", offset.to_native(), length)?,
                chunk: chunk(chunk_bytes.to_native() as usize, bytes)?,
            })
        }
        ArchivedHeader::InstallReply {
            term,
            round,
            last_term,
            last_index,
            bytes: length,
            received,
            checksum,
        } => {
            let term = own_term(term.to_native())?;
            let last = place("last", last_term.to_native(), last_index.to_native(), term, term)?;
            let length = number("bytes", length.to_native())?;
            PeerMsg::InstallReply(InstallReply {
                term,
                round: Round(number("round", round.to_native())?),
                snapshot: SnapshotId { last, bytes: length, checksum: checksum.to_native() },
                received: within("received", received.to_native(), length)?,
            })
        }
    })
}

fn disk_code(disk: DiskState) -> u8 {
    match disk {
        DiskState::Healthy => 0,
        DiskState::Low => 1,
        DiskState::Stalled => 2,
    }
}

fn disk_of(code: u8) -> Result<DiskState, PeerError> {
    Ok(match code {
        0 => DiskState::Healthy,
        1 => DiskState::Low,
        2 => DiskState::Stalled,
        _ => return Err(PeerError::Number { field: "disk", value: code.into() }),
    })
}

/// A place in a snapshot, or its end.
fn within(field: &'static str, value: u64, length: u64) -> Result<u64, PeerError> {
    if value <= length { Ok(value) } else { Err(PeerError::Number { field, value }) }
}

/// A snapshot's chunk, all that is left.
fn chunk(claimed: usize, bytes: &mut Bytes) -> Result<Bytes, PeerError> {
    if claimed > bytes.len() {
        return Err(PeerError::Chunk { claimed, bytes: bytes.len() });
    }
    Ok(bytes.split_to(claimed))
}

fn number(field: &'static str, value: u64) -> Result<u64, PeerError> {
    if value < NUMBER_MAX { Ok(value) } else { Err(PeerError::Number { field, value }) }
}

/// The message's own term: in term 0 nobody has anything to say.
fn own_term(value: u64) -> Result<Term, PeerError> {
    if value == 0 || Term(value) > Term::MAX {
        return Err(PeerError::Number { field: "term", value });
    }
    Ok(Term(value))
}

/// A replica's number and one, or zero for none.
fn replica(field: &'static str, value: u32) -> Result<Option<NodeId>, PeerError> {
    let Some(id) = value.checked_sub(1) else { return Ok(None) };
    match u16::try_from(id) {
        Ok(id) => Ok(Some(NodeId(id))),
        Err(_) => Err(PeerError::Number { field, value: value.into() }),
    }
}

fn permille(value: u16) -> Result<u16, PeerError> {
    if value <= 1_000 {
        return Ok(value);
    }
    Err(PeerError::Number { field: "loss_permille", value: u64::from(value) })
}

/// A place in a log: both numbers zero or none, and the entry not younger than `newest`.
fn place(
    field: &'static str,
    entry_term: u64,
    index: u64,
    term: Term,
    newest: Term,
) -> Result<EntryId, PeerError> {
    let id = EntryId::new(entry_term, index);
    let whole = (entry_term == 0) == (index == 0);
    if whole && index < NUMBER_MAX && id.term <= newest {
        return Ok(id);
    }
    Err(PeerError::Place { field, id, term })
}

/// The entries of an append: in order, without gaps, terms never falling, none of a later term.
fn entries(
    term: Term,
    prev: EntryId,
    claimed: usize,
    bytes: &mut Bytes,
) -> Result<Vec<Entry>, PeerError> {
    // Before anything is allocated: what is claimed must be able to be there.
    if claimed > bytes.len() / record::HEADER_BYTES {
        return Err(PeerError::Count { claimed, bytes: bytes.len() });
    }
    let mut entries = Vec::with_capacity(claimed);
    let mut previous = prev;
    for position in 0..claimed {
        let entry =
            Entry::decode(bytes).map_err(|source| PeerError::Record { position, source })?;
        let found = entry.id();
        let in_order = found.index == previous.index.next() && found.term >= previous.term;
        if !in_order || found.term > term || found.index.0 >= NUMBER_MAX {
            return Err(PeerError::Order { previous, found, term });
        }
        previous = found;
        entries.push(entry);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{EntryKind, RecordBuffer};

    fn entry(term: u64, index: u64) -> Entry {
        let id = EntryId::new(term, index);
        RecordBuffer::default().encode(id, EntryKind::Command, b"payload")
    }

    fn append(prev: EntryId, entries: Vec<Entry>) -> AppendEntries {
        AppendEntries {
            term: Term(5),
            round: Round(17),
            prev,
            commit_index: Index(40),
            loss_permille: 300,
            transfer_to: None,
            entries,
        }
    }

    const SNAPSHOT: SnapshotId =
        SnapshotId { last: EntryId::new(3, 1_000), bytes: 9_999, checksum: 0xDEAD_BEEF };

    fn vote(term: u64, pre: bool, transfer: bool, last: EntryId) -> PeerMsg {
        PeerMsg::RequestVote(RequestVote { term: Term(term), pre, transfer, last })
    }

    fn rejoin_reply(term: u64, leads: bool, last: EntryId) -> RejoinReply {
        RejoinReply { nonce: 1 << 63, term: Term(term), leads, last }
    }

    fn samples() -> Vec<PeerMsg> {
        let disk = DiskState::Stalled;
        let reply = |outcome| AppendReply { term: Term(5), round: Round(0), disk, outcome };
        let (refused, hint) = (Index(9), EntryId::new(3, 4));
        vec![
            PeerMsg::AppendEntries(append(EntryId::ZERO, vec![])),
            PeerMsg::AppendEntries(append(EntryId::new(5, 41), vec![])),
            PeerMsg::AppendEntries(append(EntryId::ZERO, vec![entry(1, 1)])),
            PeerMsg::AppendEntries(append(
                EntryId::new(2, 7),
                vec![entry(2, 8), entry(4, 9), entry(5, 10)],
            )),
            PeerMsg::AppendReply(reply(AppendOutcome::Match { index: Index::ZERO })),
            PeerMsg::AppendReply(reply(AppendOutcome::Match { index: Index(12) })),
            PeerMsg::AppendReply(reply(AppendOutcome::Reject { refused, hint })),
            PeerMsg::AppendReply(reply(AppendOutcome::Reject { refused, hint: EntryId::ZERO })),
            vote(1, true, false, EntryId::ZERO),
            vote(9, false, false, hint),
            vote(9, false, true, hint),
            PeerMsg::TimeoutNow(TimeoutNow { term: Term(5), last: EntryId::new(5, 4) }),
            PeerMsg::Rejoin(Rejoin { nonce: u64::MAX, term: Term(0), last: EntryId::ZERO }),
            PeerMsg::Rejoin(Rejoin { nonce: 0, term: Term(3), last: hint }),
            PeerMsg::RejoinReply(rejoin_reply(0, false, EntryId::ZERO)),
            PeerMsg::RejoinReply(rejoin_reply(7, false, hint)),
            PeerMsg::RejoinReply(rejoin_reply(3, true, hint)),
            PeerMsg::VoteReply(VoteReply { term: Term(9), pre: true, granted: false }),
            PeerMsg::VoteReply(VoteReply { term: Term(9), pre: false, granted: true }),
            PeerMsg::InstallSnapshot(InstallSnapshot {
                term: Term(5),
                round: Round(3),
                snapshot: SNAPSHOT,
                offset: 5_000,
                chunk: Bytes::from_static(b"a part of a snapshot"),
            }),
            PeerMsg::InstallReply(InstallReply {
                term: Term(5),
                round: Round(3),
                snapshot: SNAPSHOT,
                received: SNAPSHOT.bytes,
            }),
        ]
    }

    fn bytes_of(message: &PeerMsg) -> Bytes {
        let mut out = BytesMut::new();
        encode(message, &mut out);
        assert_eq!(out.len(), encoded_len(message));
        out.freeze()
    }

    #[test]
    fn what_was_encoded_comes_back_at_any_alignment() {
        for message in samples() {
            let bytes = bytes_of(&message);
            for offset in 0..8 {
                let shifted = Bytes::from([&vec![0; offset][..], &bytes].concat());
                assert_eq!(decode(shifted.slice(offset..)), Ok(message.clone()));
            }
        }
    }

    #[test]
    fn cut_padded_and_flipped_messages_never_panic() {
        for message in samples() {
            let bytes = bytes_of(&message);
            for length in 0..bytes.len() {
                assert!(decode(bytes.slice(..length)).is_err(), "{message:?} cut to {length}");
            }
            let padded = Bytes::from([&bytes[..], b"x"].concat());
            assert_eq!(decode(padded), Err(PeerError::Trailing { bytes: 1 }));
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes.to_vec();
                damaged[bit / 8] ^= 1 << (bit % 8);
                if let Ok(other) = decode(Bytes::from(damaged)) {
                    assert_eq!(decode(bytes_of(&other)), Ok(other), "bit {bit}");
                }
            }
        }
    }

    #[test]
    fn entries_out_of_order_are_refused() {
        let refused = |prev, entries| {
            let bytes = bytes_of(&PeerMsg::AppendEntries(append(prev, entries)));
            decode(bytes).unwrap_err()
        };
        let prev = EntryId::new(2, 7);
        let order = |previous, found| PeerError::Order { previous, found, term: Term(5) };
        let gap = refused(prev, vec![entry(2, 9)]);
        assert_eq!(gap, order(prev, EntryId::new(2, 9)));
        let repeated = refused(prev, vec![entry(2, 8), entry(2, 8)]);
        assert_eq!(repeated, order(EntryId::new(2, 8), EntryId::new(2, 8)));
        let falling = refused(prev, vec![entry(4, 8), entry(3, 9)]);
        assert_eq!(falling, order(EntryId::new(4, 8), EntryId::new(3, 9)));
        let below_prev = refused(prev, vec![entry(1, 8)]);
        assert_eq!(below_prev, order(prev, EntryId::new(1, 8)));
        let too_young = refused(prev, vec![entry(6, 8)]);
        assert_eq!(too_young, order(prev, EntryId::new(6, 8)));
    }

    #[test]
    fn impossible_numbers_and_places_are_refused() {
        let refused = |message: PeerMsg| decode(bytes_of(&message)).unwrap_err();
        let young = refused(PeerMsg::AppendEntries(append(EntryId::new(6, 1), vec![])));
        assert!(matches!(young, PeerError::Place { field: "prev", .. }));
        let half = refused(PeerMsg::AppendEntries(append(EntryId::new(0, 1), vec![])));
        assert!(matches!(half, PeerError::Place { field: "prev", .. }));
        let mut lossy = append(EntryId::ZERO, vec![]);
        lossy.loss_permille = 1_001;
        let lossy = refused(PeerMsg::AppendEntries(lossy));
        assert_eq!(lossy, PeerError::Number { field: "loss_permille", value: 1_001 });
        let vote = |term, last| {
            PeerMsg::RequestVote(RequestVote { term, pre: false, transfer: false, last })
        };
        let own = refused(vote(Term(3), EntryId::new(3, 1)));
        assert!(matches!(own, PeerError::Place { field: "last", .. }));
        let zero = refused(vote(Term(0), EntryId::ZERO));
        assert_eq!(zero, PeerError::Number { field: "term", value: 0 });
        let end = refused(vote(Term(u64::MAX), EntryId::ZERO));
        assert_eq!(end, PeerError::Number { field: "term", value: u64::MAX });
    }

    #[test]
    fn impossible_rejoin_messages_are_refused() {
        let refused = |message: PeerMsg| decode(bytes_of(&message)).unwrap_err();
        let ask = |term| PeerMsg::Rejoin(Rejoin { nonce: 1, term, last: EntryId::new(3, 1) });
        assert!(matches!(refused(ask(Term(2))), PeerError::Place { field: "last", .. }));
        let far = refused(ask(Term(NUMBER_MAX)));
        assert_eq!(far, PeerError::Number { field: "term", value: NUMBER_MAX });
        let reply = |term, leads, last| PeerMsg::RejoinReply(rejoin_reply(term, leads, last));
        let term = refused(reply(u64::MAX, false, EntryId::ZERO));
        assert_eq!(term, PeerError::Number { field: "term", value: u64::MAX });
        let newer = refused(reply(3, false, EntryId::new(4, 1)));
        assert!(matches!(newer, PeerError::Place { field: "last", .. }));
        for (term, last) in [(0, EntryId::ZERO), (3, EntryId::ZERO), (3, EntryId::new(2, 1))] {
            let leads = refused(reply(term, true, last));
            assert!(matches!(leads, PeerError::Place { field: "last", .. }), "{term} {last}");
        }
    }

    #[test]
    fn a_claim_of_many_entries_allocates_nothing() {
        let mut bytes = BytesMut::new();
        let message = append(EntryId::ZERO, vec![entry(1, 1)]);
        encode(&PeerMsg::AppendEntries(message), &mut bytes);
        // The count is the last field of the kind; longer kinds make the header longer.
        let mut count = PREFIX_BYTES + HEADER_BYTES - 4;
        while bytes[count..count + 4] != 1u32.to_le_bytes() {
            count -= 1;
        }
        assert_eq!(bytes[count..count + 4], 1u32.to_le_bytes());
        bytes[count..count + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        let claimed = u32::MAX as usize;
        let bytes_behind = entry(1, 1).record().len();
        assert_eq!(decode(bytes.freeze()), Err(PeerError::Count { claimed, bytes: bytes_behind }));
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = BytesMut::from(&bytes_of(&samples()[0])[..]);
        bytes[0] = VERSION + 1;
        let error = decode(bytes.freeze()).unwrap_err();
        assert_eq!(error, PeerError::Version { version: VERSION + 1, length: HEADER_BYTES });
        assert!(error.to_string().contains("same version"));
    }
}
