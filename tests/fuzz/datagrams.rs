//! Fuzzes the datagrams of the transport between replicas, both unchanged and with corrected
//! checksums, because a fuzzer cannot guess checksums. Decoded datagrams are also passed to both
//! halves of a stream.

use std::io::Write as _;

use bowline::transport::Outbox;
use bowline::transport::receiver::Receiver;
use bowline::transport::sender::Sender;
use bowline::types::Instant;
use bowline::wire::datagram::{self, Datagram, StreamId};

/// Length in bytes of the header of a data datagram, which the checksum covers.
const DATA_HEADER_BYTES: usize = 40;
/// Window of the receiving half of the stream, in bytes.
const WINDOW: usize = 1 << 10;
const ID: StreamId = StreamId { stream: 1, cookie: 2 };

/// Splits the input into datagrams, each preceded by a byte with its length, and processes them.
pub(crate) fn datagram(bytes: &[u8]) {
    let mut receiver = Receiver::new(ID, WINDOW);
    let mut sender = Sender::new(ID.stream, WINDOW, Instant::ZERO);
    sender.on_cookie(ID.cookie, Instant::ZERO);
    let mut out = Outbox::default();
    let mut rest = bytes;
    let mut now = Instant::ZERO;
    while let Some((length, after)) = rest.split_first() {
        let (piece, after) = after.split_at(usize::from(*length).min(after.len()));
        rest = after;
        now.0 += 1_000_000;
        check(piece);
        let mended = mended(piece);
        check(&mended);
        match datagram::decode(&mended) {
            Ok(Datagram::Data(_, data)) => {
                if !receiver.on_next(&data, now) {
                    receiver.on_data(&data, now);
                }
            }
            Ok(Datagram::Ack(_, ack)) => sender.on_ack(&ack, now),
            Ok(Datagram::Reset(_)) => sender.on_reset(),
            Ok(Datagram::Open(_) | Datagram::Cookie(_)) => while receiver.read().is_some() {},
            Err(_) => {}
        }
        let _ = sender.write(piece);
        sender.transmit(now, &mut out);
        receiver.acknowledge(now, &mut out);
        out.clear();
    }
}

/// Checks that a decoded datagram can be encoded again.
fn check(bytes: &[u8]) {
    if let Ok(decoded) = datagram::decode(bytes) {
        let mut again = Vec::new();
        datagram::encode(&decoded, &mut again);
        assert_eq!(datagram::decode(&again), Ok(decoded));
    }
}

/// Returns the same bytes with the checksum and the version corrected.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if bytes.len() > 5 {
        bytes[5] = 1;
        let covered = if bytes[4] == 3 { DATA_HEADER_BYTES.min(bytes.len()) } else { bytes.len() };
        let checksum = crc32c::crc32c(&bytes[4..covered]);
        bytes[..4].copy_from_slice(&checksum.to_le_bytes());
    }
    bytes
}
