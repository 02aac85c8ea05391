//! The pieces of a batch that is too long for one log entry, between the first piece and the last.
//!
//! A leader appends the pieces of one batch after another, with entries of other batches between
//! them. If it loses its leadership before the last piece, the batch is never completed; the no-op
//! with which the next leader begins drops its pieces.

use bytes::{Buf as _, BufMut as _, Bytes};

use crate::kv::batch::Piece;
use crate::kv::values::codec::{put_bytes, put_number, take_bytes, take_number};
use crate::kv::values::digest::{Digest, fingerprint, key_hash, mix};
use crate::types::{ClientId, RequestId, RequestKey, Term};

/// The pieces of the batch that the current leader is appending, that have been applied so far.
///
/// Invariant: `bytes` is the total length of `pieces`, and `digest` the sum of their hashes;
/// without pieces, all fields have their default values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PartialBatch {
    term: Term,
    key: RequestKey,
    /// Number of pieces that follow those in `pieces`.
    following: u32,
    pieces: Vec<Bytes>,
    bytes: usize,
    digest: Digest,
}

/// A piece in a snapshot, with the term of the leader that appended it.
#[derive(Debug)]
pub(super) struct RestoredPiece<'a> {
    term: Term,
    key: RequestKey,
    following: u32,
    bytes: &'a [u8],
}

impl<'a> RestoredPiece<'a> {
    /// Decodes a piece, encoded by [`PartialBatch::encode_piece`], and removes it from the front of
    /// `from`; `None` if the bytes are malformed.
    pub(super) fn decode(from: &mut &'a [u8]) -> Option<RestoredPiece<'a>> {
        let term = Term(from.try_get_u64_le().ok()?);
        let client = ClientId(from.try_get_u32_le().ok()?);
        let mut request = [0; 16];
        from.try_copy_to_slice(&mut request).ok()?;
        let key = RequestKey { client, request: RequestId(request) };
        let following = u32::try_from(take_number(from)?).ok()?;
        let bytes = take_bytes(from)?;
        (following > 0).then_some(RestoredPiece { term, key, following, bytes })
    }

    /// Returns the hash of the piece, of which the digest of the state has the sum.
    pub(super) fn hash(&self) -> u64 {
        hash(self.term, self.key, self.following, self.bytes)
    }
}

fn hash(term: Term, key: RequestKey, following: u32, bytes: &[u8]) -> u64 {
    let numbers = [key.client.0.into(), term.0, following.into()];
    fingerprint(numbers.into_iter().fold(key_hash(&key.request.0), mix), bytes)
}

impl PartialBatch {
    /// Appends the encoding of the piece `bytes`, which `following` pieces follow.
    pub(super) fn encode_piece(&self, following: u32, bytes: &[u8], out: &mut Vec<u8>) {
        out.put_u64_le(self.term.0);
        out.put_u32_le(self.key.client.0);
        out.put_slice(&self.key.request.0);
        put_number(following.into(), out);
        put_bytes(bytes, out);
    }

    /// Adds a piece from a snapshot. Returns false if it does not continue this batch.
    pub(super) fn restore(&mut self, piece: &RestoredPiece<'_>) -> bool {
        let &RestoredPiece { term, key, following, bytes } = piece;
        let is_first = self.pieces.is_empty();
        let piece = Piece { key, is_first, following, bytes };
        self.add(term, &piece, Bytes::copy_from_slice(bytes))
    }

    /// Returns the total length of the pieces, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the sum of the hashes of the pieces, which is part of the state's digest.
    pub(super) fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns the pieces, oldest first, each with the number of pieces that follow it.
    pub(super) fn pieces(&self) -> impl Iterator<Item = (u32, &Bytes)> {
        let first = self.following + u32::try_from(self.pieces.len()).expect("few pieces");
        (0..first).rev().zip(&self.pieces)
    }

    /// Returns whether `piece`, from an entry of `term`, is the next one of this batch.
    fn continues_with(&self, term: Term, piece: &Piece<'_>) -> bool {
        !piece.is_first
            && !self.pieces.is_empty()
            && (self.term, self.key) == (term, piece.key)
            && self.following.checked_sub(1) == Some(piece.following)
    }

    /// Returns the whole batch, and drops its pieces, if `piece`, from an entry of `term`, is its
    /// last piece.
    pub(super) fn complete(&mut self, term: Term, piece: &Piece<'_>) -> Option<Bytes> {
        if piece.following > 0 || !self.continues_with(term, piece) {
            return None;
        }
        let mut whole = Vec::with_capacity(self.bytes + piece.bytes.len());
        std::mem::take(self).pieces.iter().for_each(|bytes| whole.extend_from_slice(bytes));
        whole.extend_from_slice(piece.bytes);
        Some(Bytes::from(whole))
    }

    /// Adds `piece`, from an entry of `term`, with its bytes, unless it is the last one of its
    /// batch. A first piece replaces what there is of another batch. Returns false, and changes
    /// nothing, if the piece is not added, because it does not continue this batch, or is the last.
    pub(super) fn add(&mut self, term: Term, piece: &Piece<'_>, bytes: Bytes) -> bool {
        if piece.following == 0 || !piece.is_first && !self.continues_with(term, piece) {
            return false;
        }
        if piece.is_first {
            *self = PartialBatch { term, key: piece.key, ..PartialBatch::default() };
        }
        self.following = piece.following;
        self.bytes += bytes.len();
        self.digest.add(hash(term, piece.key, piece.following, &bytes));
        self.pieces.push(bytes);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::batch::{Batch, PIECE_BYTES};
    use crate::kv::operation::Operation;

    const TERM: Term = Term(4);

    fn key(number: u8) -> RequestKey {
        RequestKey { client: ClientId(1), request: RequestId([number; 16]) }
    }

    /// Returns a batch and its encoded pieces.
    fn batch(number: u8) -> (Bytes, Vec<Bytes>) {
        let value = vec![number; 2 * PIECE_BYTES + 100];
        let whole = Batch::one(key(number), &Operation::set(b"k", &value));
        let starts = (0..whole.len()).step_by(PIECE_BYTES);
        let encode = |start| Piece::encode(key(number), &whole, start, PIECE_BYTES);
        let pieces = starts.map(encode).collect();
        (whole, pieces)
    }

    fn add(partial: &mut PartialBatch, term: Term, encoded: &Bytes) -> bool {
        let piece = Piece::decode(encoded).unwrap();
        partial.add(term, &piece, encoded.slice(..piece.bytes.len()))
    }

    fn complete(partial: &mut PartialBatch, term: Term, encoded: &Bytes) -> Option<Bytes> {
        partial.complete(term, &Piece::decode(encoded).unwrap())
    }

    #[test]
    fn batch_completes_once_after_all_pieces_in_order() {
        let ((whole, pieces), (_, others)) = (batch(1), batch(2));
        assert_eq!(pieces.len(), 3);
        for encoded in &pieces {
            assert!(Batch::decode(encoded).is_err(), "a piece is no batch");
        }
        assert_eq!(Piece::decode(&whole), None, "a batch is no piece");
        let mut partial = PartialBatch::default();
        assert!(!add(&mut partial, TERM, &pieces[1]), "the first piece is missing");
        assert!(add(&mut partial, TERM, &others[0]) && add(&mut partial, TERM, &others[1]));
        // A first piece replaces a batch that will not be completed.
        assert!(add(&mut partial, TERM, &pieces[0]) && partial.bytes() == PIECE_BYTES);
        assert!(!add(&mut partial, TERM, &pieces[2]), "the second piece is missing");
        assert!(!add(&mut partial, TERM, &others[1]), "a piece of another batch");
        assert!(!add(&mut partial, Term(5), &pieces[1]), "a piece of another leader");
        assert!(add(&mut partial, TERM, &pieces[1]));
        assert_eq!(partial.bytes(), 2 * PIECE_BYTES);
        assert!(!add(&mut partial, TERM, &pieces[2]), "the last piece is not kept");
        assert_eq!(complete(&mut partial, TERM, &others[2]), None);
        assert_eq!(complete(&mut partial, Term(5), &pieces[2]), None);
        assert_eq!(complete(&mut partial, TERM, &pieces[2]), Some(whole));
        assert_eq!(partial, PartialBatch::default());
        assert_eq!(complete(&mut partial, TERM, &pieces[2]), None);
    }

    /// Flips each bit of the last piece: the batch is then completed only if the bit belongs to its
    /// bytes, which the log's checksums protect. No other piece changes what has been kept.
    #[test]
    fn damaged_last_piece_of_another_batch_or_position_is_refused() {
        let (whole, pieces) = batch(1);
        let encoded = &pieces[2];
        let original = Piece::decode(encoded).unwrap();
        for length in 0..encoded.len() {
            assert_eq!(Piece::decode(&encoded[..length]), None, "cut to {length}");
        }
        let mut kept = PartialBatch::default();
        pieces[..2].iter().for_each(|piece| assert!(add(&mut kept, TERM, piece)));
        let (mut completed, mut refused) = (0, 0);
        for bit in 0..encoded.len() * 8 {
            let mut damaged = encoded.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let damaged = Bytes::from(damaged);
            let Some(piece) = Piece::decode(&damaged) else { continue };
            let mut partial = kept.clone();
            if let Some(found) = complete(&mut partial, TERM, &damaged) {
                assert_eq!(Piece { bytes: original.bytes, ..piece }, original, "bit {bit}");
                let differing = found.iter().zip(&whole).map(|(one, two)| (one ^ two).count_ones());
                assert_eq!((found.len(), differing.sum::<u32>()), (whole.len(), 1), "bit {bit}");
                completed += 1;
            } else {
                assert_eq!(piece.bytes, original.bytes, "bit {bit}");
                assert!(!add(&mut partial, TERM, &damaged) && partial == kept, "bit {bit}");
                refused += 1;
            }
        }
        assert_eq!(completed, 8 * original.bytes.len());
        // The bits of the key, one bit that makes it a first piece, and those of the number of
        // pieces behind it, of which 9 give a possible number.
        assert_eq!(refused, 8 * (4 + 16) + 1 + 9);
    }

    #[test]
    fn pieces_round_trip_through_their_encoding_in_snapshots() {
        let (whole, pieces) = batch(1);
        let mut partial = PartialBatch::default();
        pieces[..2].iter().for_each(|piece| assert!(add(&mut partial, TERM, piece)));
        let mut encoded = Vec::new();
        for (following, bytes) in partial.pieces() {
            partial.encode_piece(following, bytes, &mut encoded);
        }
        let (mut from, mut restored) = (&encoded[..], PartialBatch::default());
        while !from.is_empty() {
            assert!(restored.restore(&RestoredPiece::decode(&mut from).unwrap()));
        }
        assert_eq!(restored, partial);
        assert_eq!(complete(&mut restored, TERM, &pieces[2]), Some(whole));
        let mut from = &encoded[..encoded.len() - 1];
        RestoredPiece::decode(&mut from).unwrap();
        assert!(RestoredPiece::decode(&mut from).is_none());
    }
}
