//! Fuzzes the input of a peer connection: unchanged, and as frames with corrected checksums,
//! because a fuzzer cannot guess checksums.

use bowline::wire::frame::{Decoder, Frame, encode, encode_preamble};
use bowline::wire::protocol::{V9, V10};
use bytes::{BufMut as _, BytesMut};

/// Length in bytes of a frame's header, before the kind: length and checksum.
const HEADER_BYTES: usize = 8;

pub(crate) fn frame(bytes: &[u8]) {
    let as_it_is = frames_of(bytes, bytes.len().max(1));
    assert_eq!(frames_of(bytes, 3), as_it_is, "cut elsewhere, the frames were others");
    for version in [V9, V10] {
        let mut greeted = BytesMut::new();
        encode_preamble(version, &mut greeted);
        greeted.put_slice(&mended(bytes));
        let mended = frames_of(&greeted, greeted.len());
        assert_eq!(frames_of(&greeted, 3), mended, "cut elsewhere, the frames were others");
        let mut again = BytesMut::new();
        encode_preamble(version, &mut again);
        for frame in &mended {
            encode(frame, version, &mut again);
        }
        let found = frames_of(&again, again.len());
        // A message in a frame has a version of its own, and version 9 has no level in it.
        if version == V10 {
            assert_eq!(found, mended, "what was taken was not written again");
        } else {
            assert_eq!(found.len(), mended.len(), "what was taken was not written again");
        }
    }
}

/// Decodes `bytes`, which arrive in pieces of `piece` bytes. Returns all frames before the end or
/// the first invalid frame.
fn frames_of(bytes: &[u8], piece: usize) -> Vec<Frame> {
    let mut decoder = Decoder::default();
    let mut frames = Vec::new();
    for part in bytes.chunks(piece) {
        decoder.feed(part);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return frames,
            }
        }
    }
    assert!(decoder.buffered_bytes() <= bytes.len());
    frames
}

/// Returns the same bytes with corrected checksums of all complete frames.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut rest = &mut bytes[..];
    while let Some(length) = rest.first_chunk::<4>() {
        let end = HEADER_BYTES.saturating_add(u32::from_le_bytes(*length) as usize);
        if end > rest.len() {
            break;
        }
        let (found, behind) = rest.split_at_mut(end);
        let checksum = crc32c::crc32c(&found[HEADER_BYTES..]);
        found[4..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        rest = behind;
    }
    bytes
}
