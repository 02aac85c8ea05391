//! Tests of frames: encoding, decoding from pieces, damage, limits.

use super::*;
use crate::raft::{AppendEntries, AppendOutcome, AppendReply, DiskState, RequestVote};
use crate::record::{EntryKind, RecordBuffer};
use crate::types::{ClientId, EntryId, RequestId, Round};
use crate::wire::protocol::{V9, V10};

fn key() -> RequestKey {
    RequestKey {
        client: ClientId(7),
        request: RequestId(*b"\0\x01\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03"),
    }
}

fn frames() -> Vec<Frame> {
    let mut buffer = RecordBuffer::default();
    let entries = (3..6)
        .map(|index| buffer.encode(EntryId::new(2, index), EntryKind::Command, b"payload"))
        .collect();
    let append = AppendEntries {
        term: Term(2),
        round: Round(4),
        prev: EntryId::new(1, 2),
        commit_index: Index(2),
        loss_permille: 0,
        transfer_to: None,
        entries,
    };
    let last = EntryId::new(2, 5);
    let vote = RequestVote { term: Term(3), pre: true, transfer: false, last };
    let hello = Hello {
        cluster: 0xFEED,
        from: NodeId(1),
        to: NodeId(2),
        incarnation: 9,
        connection: 4,
        start_ids: vec![7, u64::MAX],
        members: vec![NodeId(1), NodeId(2), NodeId(9)],
        rejoining: true,
        lane: Lane::Bulk,
        client_address: "127.0.0.1:7001".to_owned(),
        peer_address: "127.0.0.1:8001".to_owned(),
        versions: ProtocolVersions { oldest: V10, newest: V10 + 1 },
        level: FeatureLevel::V0_2,
        program: "0.2.7".to_owned(),
    };
    vec![
        Frame::Hello(hello),
        Frame::Peer(PeerMsg::AppendEntries(append)),
        Frame::Peer(PeerMsg::RequestVote(vote)),
        Frame::Forward {
            key: key(),
            attempt: Attempt::First { term: Term(2) },
            payload: Bytes::from_static(b"command"),
        },
        Frame::Forward {
            key: key(),
            attempt: Attempt::Again { since: Index(8) },
            payload: Bytes::new(),
        },
        Frame::Refused { key: key(), reason: RefusalReason::Busy },
        Frame::Refused { key: key(), reason: RefusalReason::OutOfMemory },
        Frame::AskReadIndex { ticket: 11 },
        Frame::ReadIndex { ticket: 11, index: Some(Index(5)) },
        Frame::ReadIndex { ticket: 12, index: None },
        Frame::WallClock { millis: 1_700_000_000_000 },
    ]
}

fn encoded(frames: &[Frame]) -> BytesMut {
    encoded_in(V10, frames)
}

fn encoded_in(version: ProtocolVersion, frames: &[Frame]) -> BytesMut {
    let mut bytes = BytesMut::new();
    encode_preamble(version, &mut bytes);
    for frame in frames {
        encode(frame, version, &mut bytes);
    }
    bytes
}

/// Decodes the first frame of a connection.
fn first_of(bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
    let mut decoder = Decoder::for_unknown_peer();
    decoder.feed(bytes);
    decoder.next_frame()
}

#[test]
fn peer_frames_are_decoded_from_input_pieces_of_any_size() {
    let bytes = encoded(&frames());
    for piece in [1, 3, 17, bytes.len()] {
        let mut decoder = Decoder::default();
        let mut found = Vec::new();
        for part in bytes.chunks(piece) {
            decoder.feed(part);
            while let Some(frame) = decoder.next_frame().unwrap() {
                found.push(frame);
            }
        }
        assert_eq!(found, frames(), "pieces of {piece} bytes");
        assert_eq!(decoder.buffered_bytes(), 0);
    }
}

#[test]
fn flipped_bits_in_a_peer_frame_are_always_detected() {
    let bytes = encoded(&frames()[1..2]);
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let mut decoder = Decoder::default();
        decoder.feed(&damaged);
        assert!(!matches!(decoder.next_frame(), Ok(Some(_))), "bit {bit} was not noticed");
    }
}

#[test]
fn oversized_peer_frame_is_rejected_without_allocation() {
    let longest = u32::try_from(FRAME_BYTES_MAX).unwrap();
    for length in [0, longest + 1, u32::MAX] {
        let mut decoder = Decoder::default();
        let mut bytes = encoded(&[]);
        bytes.put_u32_le(length);
        bytes.put_u32_le(0);
        decoder.feed(&bytes);
        let (claimed, max) = (length as usize, FRAME_BYTES_MAX);
        assert_eq!(decoder.next_frame(), Err(FrameError::Length { claimed, max }));
    }
    let mut decoder = Decoder::default();
    let mut bytes = encoded(&[]);
    bytes.put_u32_le(longest);
    bytes.put_u32_le(0);
    decoder.feed(&bytes);
    assert_eq!(decoder.next_frame(), Ok(None));
    assert!(decoder.buffer.capacity() < 1 << 10, "memory was allocated for a claimed length");
}

/// Bug: the buffer doubled until a large frame fitted, and its entries kept twice their size
/// allocated as long as they were in the log.
#[test]
fn buffer_is_no_larger_than_a_large_frame() {
    const PIECE: usize = 64 << 10;
    let payload = vec![7; 5 << 20];
    let entry =
        RecordBuffer::default().encode(EntryId::new(2, 3), EntryKind::Command, &payload[..]);
    let mut frames = frames();
    let Frame::Peer(PeerMsg::AppendEntries(append)) = &mut frames[1] else {
        panic!("the second one is an append")
    };
    append.entries = vec![entry];
    let large = frames[1].clone();
    let bytes = encoded(&[large.clone(), frames[0].clone(), large]);
    let mut decoder = Decoder::default();
    let mut count = 0;
    for piece in bytes.chunks(PIECE) {
        decoder.feed(piece);
        let capacity = decoder.buffer.capacity();
        assert!(capacity <= payload.len() + 2 * PIECE, "{capacity} bytes");
        while decoder.next_frame().unwrap().is_some() {
            count += 1;
        }
    }
    assert_eq!((count, decoder.buffered_bytes()), (3, 0));
}

#[test]
fn connecting_peer_may_only_send_a_hello_frame_first() {
    let mut frames = frames();
    let Frame::Hello(hello) = &mut frames[0] else { panic!("the first one is a hello") };
    hello.client_address = "x".repeat(ADDRESS_BYTES_MAX);
    hello.peer_address = "y".repeat(ADDRESS_BYTES_MAX);
    hello.start_ids = vec![5; START_IDS_MAX];
    hello.members = (1..=u16::try_from(REPLICAS_MAX).unwrap()).map(NodeId).collect();
    let mut large = RecordBuffer::default();
    let entries =
        vec![large.encode(EntryId::new(2, 3), EntryKind::Command, &[7; FIRST_FRAME_BYTES_MAX])];
    let Frame::Peer(PeerMsg::AppendEntries(append)) = &mut frames[1] else {
        panic!("the second one is an append")
    };
    append.entries = entries;
    let mut decoder = Decoder::for_unknown_peer();
    decoder.feed(&encoded(&frames[1..2]));
    assert!(matches!(
        decoder.next_frame(),
        Err(FrameError::Length { max: FIRST_FRAME_BYTES_MAX, .. })
    ));
    let mut decoder = Decoder::for_unknown_peer();
    decoder.feed(&encoded(&frames));
    let found: Vec<_> = std::iter::from_fn(|| decoder.next_frame().unwrap()).collect();
    assert_eq!(found, frames, "larger frames are accepted after the hello");
}

#[test]
fn peer_hello_with_an_invalid_member_list_is_rejected() {
    let hello = |members: &[u16]| {
        let Frame::Hello(hello) = &frames()[0] else { panic!("the first one is a hello") };
        let members = members.iter().copied().map(NodeId).collect();
        Frame::Hello(Hello { members, ..hello.clone() })
    };
    for (members, is_valid) in [
        (&[1][..], true),
        (&[1, 7], true),
        (&[], true),
        (&[2, 3], false),
        (&[2, 1], false),
        (&[1, 1], false),
    ] {
        let mut decoder = Decoder::for_unknown_peer();
        decoder.feed(&encoded(&[hello(members)]));
        let found = decoder.next_frame();
        if is_valid {
            assert_eq!(found, Ok(Some(hello(members))), "{members:?}");
        } else {
            assert_eq!(found, Err(FrameError::Body(1)), "{members:?}");
        }
    }
    // Counts beyond their limits, and more start ids than the frame has bytes.
    let whole = encoded(&[hello(&[1, 2])]);
    let counts = PREAMBLE_BYTES + HEADER_BYTES + HELLO_BYTES - 2;
    for (place, byte) in [(counts, 200), (counts + 1, 100), (counts + 2, 0x80)] {
        let mut bytes = whole.clone();
        bytes[place] = byte;
        let body = &bytes[PREAMBLE_BYTES + HEADER_BYTES..];
        let checksum = crc32c::crc32c(body).to_le_bytes();
        bytes[PREAMBLE_BYTES + 4..PREAMBLE_BYTES + 8].copy_from_slice(&checksum);
        let mut decoder = Decoder::for_unknown_peer();
        decoder.feed(&bytes);
        assert_eq!(decoder.next_frame(), Err(FrameError::Body(1)), "byte {place}");
    }
}

#[test]
fn hello_of_version_9_tells_by_its_connection_number_that_10_is_spoken() {
    let Frame::Hello(hello) = frames().swap_remove(0) else { panic!("the first one is a hello") };
    for (connection, versions, level) in [
        (4, ProtocolVersions::V0_1, FeatureLevel::V0_1),
        (protocol::SPEAKS_V10 | 4, ProtocolVersions::OWN, FeatureLevel::V0_2),
    ] {
        let sent = Hello { connection, ..hello.clone() };
        let bytes = encoded_in(V9, &[Frame::Hello(sent.clone())]);
        let expected = Hello { versions, level, program: String::new(), ..sent };
        assert_eq!(first_of(&bytes), Ok(Some(Frame::Hello(expected))));
    }
}

#[test]
fn fields_that_later_versions_add_to_a_hello_are_skipped() {
    let hello = frames().swap_remove(0);
    let mut body = encoded(std::slice::from_ref(&hello)).split_off(PREAMBLE_BYTES + HEADER_BYTES);
    body.put_bytes(7, HELLO_ADDED_BYTES_MAX);
    let mut bytes = encoded(&[]);
    bytes.put_u32_le(u32::try_from(body.len()).unwrap());
    bytes.put_u32_le(crc32c::crc32c(&body));
    bytes.put_slice(&body);
    assert_eq!(first_of(&bytes), Ok(Some(hello)));
}

#[test]
fn hello_without_the_version_of_its_connection_is_rejected() {
    let Frame::Hello(hello) = frames().swap_remove(0) else { panic!("the first one is a hello") };
    for (oldest, newest) in [(V9, V9), (V10 + 1, V10 + 2), (V10, V9)] {
        let versions = ProtocolVersions { oldest, newest };
        let bytes = encoded(&[Frame::Hello(Hello { versions, ..hello.clone() })]);
        assert_eq!(first_of(&bytes), Err(FrameError::Body(1)), "{versions}");
    }
}

#[test]
fn append_reply_tells_the_feature_level_from_version_10_on() {
    let outcome = AppendOutcome::Match { index: Index(4) };
    let (disk, level) = (DiskState::Healthy, FeatureLevel::V0_2);
    let reply = AppendReply { term: Term(2), round: Round(1), disk, level, outcome };
    let frame = |level| Frame::Peer(PeerMsg::AppendReply(AppendReply { level, ..reply }));
    for (version, received) in [(V9, FeatureLevel::V0_1), (V10, FeatureLevel::V0_2)] {
        assert_eq!(first_of(&encoded_in(version, &[frame(level)])), Ok(Some(frame(received))));
    }
}

#[test]
fn peer_connection_of_another_protocol_or_version_is_rejected() {
    let mut decoder = Decoder::default();
    decoder.feed(b"GET / HTTP/1.1");
    assert_eq!(decoder.next_frame(), Err(FrameError::Magic(*b"GET ")));
    let mut decoder = Decoder::default();
    decoder.feed(b"BOWL\x02\x00");
    assert_eq!(decoder.next_frame(), Err(FrameError::Version(2)));
}

#[test]
fn peer_frame_encoded_in_parts_equals_its_full_encoding() {
    for frame in frames() {
        let (mut head, mut whole) = (BytesMut::new(), BytesMut::new());
        encode_head(&frame, V10, &mut head);
        encode(&frame, V10, &mut whole);
        for part in frame.parts() {
            head.put_slice(part);
        }
        assert_eq!(head, whole);
    }
}

#[test]
fn operations_guide_names_the_peer_protocol_version() {
    let page = include_str!("../../guide/operations.md");
    let own = ProtocolVersions::OWN;
    let wanted = format!("and {own} for connections between replicas");
    assert!(page.contains(&wanted), "src/guide/operations.md lacks: {wanted}");
}
