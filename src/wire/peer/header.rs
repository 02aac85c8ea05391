//! The header of a peer message: its archived form, and the checks of its fields.

use bytes::Bytes;
use rkyv::{Archive, Serialize};

use crate::feature_level::FeatureLevel;
use crate::raft::{
    AppendEntries, AppendOutcome, AppendReply, DiskState, InstallReply, InstallSnapshot, PeerMsg,
    Rejoin, RejoinReply, RequestVote, SnapshotId, TimeoutNow, VoteReply,
};
use crate::record::{self, Entry};
use crate::types::{EntryId, Index, NodeId, Round, Term};

use super::PeerError;

/// Upper bound (exclusive) on log indexes, numbers of heartbeat rounds and lengths in messages
/// between replicas. Correct replicas never reach it, since all of these count from 0; the bound
/// lets the Raft code add to received numbers without overflow. Terms have their own bound,
/// [`Term::MAX`].
pub(super) const NUMBER_MAX: u64 = Index::MAX.0;

/// All fields of a message between replicas except log entries and snapshot chunks, in the form in
/// which rkyv serializes them. For compatibility, new variants are added at the end.
#[derive(Archive, Serialize)]
pub(super) enum Header {
    Append {
        term: u64,
        round: u64,
        prev_term: u64,
        prev_index: u64,
        commit_index: u64,
        loss_permille: u16,
        /// Target of a leadership transfer in progress, encoded as the replica's id plus 1; 0 if
        /// there is no transfer.
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
        members_changed: bool,
        last_term: u64,
        last_index: u64,
    },
}

/// Converts a message's fixed-length fields to the form in which they are serialized.
pub(super) fn header_of(message: &PeerMsg) -> Header {
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
                .expect("a message holds fewer than 2^32 records"),
        },
        PeerMsg::AppendReply(AppendReply { term, round, disk, outcome, .. }) => match outcome {
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
        PeerMsg::RejoinReply(RejoinReply { nonce, term, leads, members_changed, last }) => {
            Header::RejoinReply {
                nonce: *nonce,
                term: term.0,
                leads: *leads,
                members_changed: *members_changed,
                last_term: last.term.0,
                last_index: last.index.0,
            }
        }
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
                chunk_bytes: u32::try_from(chunk.len()).expect("a chunk is shorter than 4 GiB"),
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

/// Decodes a message between replicas from its header, and checks all fields. Takes the message's
/// log entries or snapshot chunk from the front of `bytes`.
#[expect(clippy::too_many_lines, reason = "one arm for each kind of message")]
pub(super) fn message_of(header: &ArchivedHeader, bytes: &mut Bytes) -> Result<PeerMsg, PeerError> {
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
            // The previous entry may be of the leader's own term.
            let prev = entry_id("prev", prev_term.to_native(), prev_index.to_native(), term, term)?;
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
            level: FeatureLevel::V0_1,
            outcome: AppendOutcome::Match { index: Index(number("index", index.to_native())?) },
        }),
        ArchivedHeader::Reject { term, round, disk, refused, hint_term, hint_index } => {
            let term = own_term(term.to_native())?;
            PeerMsg::AppendReply(AppendReply {
                term,
                round: Round(number("round", round.to_native())?),
                disk: disk_of(*disk)?,
                level: FeatureLevel::V0_1,
                outcome: AppendOutcome::Reject {
                    refused: Index(number("refused", refused.to_native())?),
                    hint: entry_id(
                        "hint",
                        hint_term.to_native(),
                        hint_index.to_native(),
                        term,
                        term,
                    )?,
                },
            })
        }
        ArchivedHeader::TimeoutNow { term, last_term, last_index } => {
            let term = own_term(term.to_native())?;
            // A leader begins its term with an entry, so its log ends in that term.
            let last = entry_id("last", last_term.to_native(), last_index.to_native(), term, term)?;
            PeerMsg::TimeoutNow(TimeoutNow { term, last })
        }
        ArchivedHeader::Rejoin { nonce, term, last_term, last_index } => {
            let term = Term(number("term", term.to_native())?);
            let last = entry_id("last", last_term.to_native(), last_index.to_native(), term, term)?;
            PeerMsg::Rejoin(Rejoin { nonce: nonce.to_native(), term, last })
        }
        ArchivedHeader::RejoinReply {
            nonce,
            term,
            leads,
            members_changed,
            last_term,
            last_index,
        } => {
            let term = Term(number("term", term.to_native())?);
            let last = entry_id("last", last_term.to_native(), last_index.to_native(), term, term)?;
            if *leads && (last.term != term || term == Term(0)) {
                // A leader begins its term with an entry, so its log ends in that term.
                return Err(PeerError::Place { field: "last", id: last, term });
            }
            let (nonce, leads, members_changed) = (nonce.to_native(), *leads, *members_changed);
            PeerMsg::RejoinReply(RejoinReply { nonce, term, leads, last, members_changed })
        }
        ArchivedHeader::RequestVote { term, pre, transfer, last_term, last_index } => {
            let term = own_term(term.to_native())?;
            // A candidate's log ends before the term of the election.
            let newest = Term(term.0 - 1);
            let last =
                entry_id("last", last_term.to_native(), last_index.to_native(), term, newest)?;
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
            let last = entry_id("last", last_term.to_native(), last_index.to_native(), term, term)?;
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
            let last = entry_id("last", last_term.to_native(), last_index.to_native(), term, term)?;
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

/// Returns `value`, a byte position in a snapshot, after checking that it is at most `length`, the
/// snapshot's length. `field` is the name of the value in the error.
fn within(field: &'static str, value: u64, length: u64) -> Result<u64, PeerError> {
    if value <= length { Ok(value) } else { Err(PeerError::Number { field, value }) }
}

/// Takes a snapshot chunk from the front of `bytes` and returns it. `claimed` is the chunk's length
/// in bytes according to the message.
fn chunk(claimed: usize, bytes: &mut Bytes) -> Result<Bytes, PeerError> {
    if claimed > bytes.len() {
        return Err(PeerError::Chunk { claimed, bytes: bytes.len() });
    }
    Ok(bytes.split_to(claimed))
}

fn number(field: &'static str, value: u64) -> Result<u64, PeerError> {
    if value < NUMBER_MAX { Ok(value) } else { Err(PeerError::Number { field, value }) }
}

/// Returns the Raft term of a message after checking that it is at least 1 and at most
/// [`Term::MAX`].
fn own_term(value: u64) -> Result<Term, PeerError> {
    if value == 0 || Term(value) > Term::MAX {
        return Err(PeerError::Number { field: "term", value });
    }
    Ok(Term(value))
}

/// Decodes an optional replica id: 0 is `None`, any other value is the id plus 1. `field` is the
/// name of the value in the error.
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

/// Checks the id of a log entry in a message and returns it. Term and index must both be zero or
/// both be non-zero, the index must be below [`NUMBER_MAX`], and the term at most `newest`. `field`
/// is the name of the entry id in the error, and `term` the message's term.
fn entry_id(
    field: &'static str,
    entry_term: u64,
    index: u64,
    term: Term,
    newest: Term,
) -> Result<EntryId, PeerError> {
    let id = EntryId::new(entry_term, index);
    let is_consistent = (entry_term == 0) == (index == 0);
    if is_consistent && index < NUMBER_MAX && id.term <= newest {
        return Ok(id);
    }
    Err(PeerError::Place { field, id, term })
}

/// Takes `claimed` log entries from the front of `bytes` and decodes them. Checks that their
/// indexes follow `prev` without gaps, that their terms do not decrease, and that no term exceeds
/// the message's `term`.
fn entries(
    term: Term,
    prev: EntryId,
    claimed: usize,
    bytes: &mut Bytes,
) -> Result<Vec<Entry>, PeerError> {
    // Checked before the allocation, which has to be bounded by the bytes received.
    if claimed > bytes.len() / record::HEADER_BYTES {
        return Err(PeerError::Count { claimed, bytes: bytes.len() });
    }
    let mut entries = Vec::with_capacity(claimed);
    let mut previous = prev;
    for position in 0..claimed {
        let entry =
            Entry::decode(bytes).map_err(|source| PeerError::Record { position, source })?;
        let found = entry.id();
        let is_next = found.index == previous.index.next() && found.term >= previous.term;
        if !is_next || found.term > term || found.index.0 >= NUMBER_MAX {
            return Err(PeerError::Order { previous, found, term });
        }
        previous = found;
        entries.push(entry);
    }
    Ok(entries)
}
