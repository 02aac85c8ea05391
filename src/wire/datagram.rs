//! Datagrams of the transport between replicas. Converts bytes to datagrams and back, without
//! sockets; `transport` says what they mean.
//!
//! ```text
//!  0        4      5         6          8        16       24
//!  +--------+------+---------+----------+--------+--------+----------+
//!  | crc32c | kind | version | reserved | stream | cookie |   body   |
//!  +--------+------+---------+----------+--------+--------+----------+
//! ```
//!
//! Little endian. The checksum covers everything after it except the payload of a data datagram,
//! whose frames have checksums of their own.
//!
//! | kind | body |
//! |---|---|
//! | 1 open | nothing; the cookie is 0 |
//! | 2 cookie | nothing |
//! | 3 data | number (8), offset (8), payload |
//! | 4 acknowledgement | largest (8), received (8), limit (8), delay in µs (4), bitmap (128) |
//! | 5 reset | nothing |

use bytes::{Buf as _, BufMut};

/// Maximum length of a UDP payload in bytes: the MTU that every IPv6 path supports, 1,280 bytes
/// (RFC 8200, section 5), minus the headers of IPv6 and UDP.
pub const DATAGRAM_BYTES_MAX: usize = 1_280 - 40 - 8;
/// Length in bytes of the header of a data datagram, which carries a part of a stream.
const DATA_HEADER_BYTES: usize = COMMON_BYTES + 16;
/// Maximum number of stream bytes that a data datagram carries.
pub const PAYLOAD_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - DATA_HEADER_BYTES;
/// Length in bytes of the header fields that all datagrams have.
const COMMON_BYTES: usize = 24;
/// Length in bytes of an acknowledgement datagram's body, without the common header fields.
const ACK_BYTES: usize = 28 + 8 * BITMAP_WORDS;
/// Version of the datagram format. Datagrams of another version are ignored.
const VERSION: u8 = 1;
/// Length of an acknowledgement's bitmap in 64-bit words.
pub const BITMAP_WORDS: usize = 16;
/// Length of an acknowledgement's bitmap in bits. Each bit tells whether one datagram was received.
pub const BITMAP_BITS: usize = 64 * BITMAP_WORDS;

/// Identity of a one-way byte stream between two replicas over UDP. An attacker that cannot read
/// the stream's datagrams cannot guess the identity, and so cannot forge datagrams of the stream.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct StreamId {
    /// Random id of the stream, drawn by the replica that sends the data.
    pub stream: u64,
    /// Cookie that the receiver sends to the sender's address, so that the sender can prove that it
    /// owns this address; 0 until the sender has received it.
    pub cookie: u64,
}

/// A decoded UDP datagram between replicas. Its payload is borrowed from the received bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Datagram<'a> {
    /// Sent to open a new stream: asks the receiver for a cookie, which proves the sender's
    /// address.
    Open(StreamId),
    /// Answers [`Datagram::Open`] with the cookie that the sender must put in all later datagrams
    /// of the stream.
    Cookie(StreamId),
    /// Carries bytes of the stream from its sender to its receiver.
    Data(StreamId, Data<'a>),
    /// Acknowledges the data that the stream's receiver has received.
    Ack(StreamId, Ack),
    /// Ends the stream: the other side has closed the stream, or does not know it.
    Reset(StreamId),
}

/// Contents of a data datagram: consecutive bytes of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Data<'a> {
    /// Packet number: counts the stream's data datagrams from 0. A retransmission has a new number.
    pub number: u64,
    /// Offset of the payload in the stream, in bytes.
    pub offset: u64,
    /// Bytes of the stream; empty if the datagram only asks for an acknowledgement.
    pub payload: &'a [u8],
}

/// Contents of an acknowledgement: which data datagrams and bytes of a stream have arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ack {
    /// Largest packet number ([`Data::number`]) received on the stream.
    pub largest: u64,
    /// Which of the [`BITMAP_BITS`] datagrams before `largest` have been received. The lowest bit
    /// of the first word stands for the packet number `largest - 1`.
    pub bitmap: [u64; BITMAP_WORDS],
    /// Number of bytes received without a gap since the start of the stream.
    pub received: u64,
    /// Flow control limit: stream offset in bytes up to which the receiver accepts data. Never
    /// decreases.
    pub limit: u64,
    /// Time in microseconds between the arrival of the datagram `largest` and the sending of this
    /// acknowledgement.
    pub delay: u32,
}

impl Ack {
    /// Returns whether this acknowledgement reports the data datagram with this packet number as
    /// received. Returns false for numbers that are too old for the bitmap.
    pub fn contains(&self, number: u64) -> bool {
        match self.largest.checked_sub(number) {
            Some(0) => true,
            Some(back) if back <= BITMAP_BITS as u64 => {
                let bit = back - 1;
                let word = usize::try_from(bit / 64).expect("below the number of words");
                self.bitmap[word] >> (bit % 64) & 1 == 1
            }
            _ => false,
        }
    }
}

/// Reason why a received UDP datagram is invalid. Invalid datagrams are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    /// The datagram's length, in bytes, is not valid for its kind.
    #[error("invalid datagram from a peer: {0} bytes is not a valid length for its kind")]
    Length(usize),
    /// The datagram's checksum does not match its contents.
    #[error("invalid datagram from a peer: wrong checksum")]
    Checksum,
    /// The datagram has another format version, which is given.
    #[error(
        "datagram of unknown format version {0} from a peer; run the same version of bowline on \
         every replica"
    )]
    Version(u8),
    /// The datagram is of an unknown kind, whose number is given.
    #[error(
        "datagram of unknown kind {0} from a peer; run the same version of bowline on every replica"
    )]
    Kind(u8),
}

/// Decodes a UDP datagram received from another replica.
///
/// # Errors
/// If the bytes are not a valid datagram of this format version.
pub fn decode(bytes: &[u8]) -> Result<Datagram<'_>, DatagramError> {
    let length_error = DatagramError::Length(bytes.len());
    if bytes.len() < COMMON_BYTES {
        return Err(length_error);
    }
    let kind = bytes[4];
    let is_data = kind == 3;
    let covered = if is_data { DATA_HEADER_BYTES } else { bytes.len() };
    if bytes.len() < covered {
        return Err(length_error);
    }
    let mut rest = bytes;
    let checksum = rest.get_u32_le();
    if crc32c::crc32c(&bytes[4..covered]) != checksum {
        return Err(DatagramError::Checksum);
    }
    if bytes[5] != VERSION {
        return Err(DatagramError::Version(bytes[5]));
    }
    rest.advance(4);
    let id = StreamId { stream: rest.get_u64_le(), cookie: rest.get_u64_le() };
    let datagram = match kind {
        1 => Datagram::Open(id),
        2 => Datagram::Cookie(id),
        3 => {
            let (number, offset) = (rest.get_u64_le(), rest.get_u64_le());
            if rest.len() > PAYLOAD_BYTES_MAX {
                return Err(length_error);
            }
            return Ok(Datagram::Data(id, Data { number, offset, payload: rest }));
        }
        4 if rest.len() == ACK_BYTES => {
            let (largest, received, limit) =
                (rest.get_u64_le(), rest.get_u64_le(), rest.get_u64_le());
            let delay = rest.get_u32_le();
            let bitmap = std::array::from_fn(|_| rest.get_u64_le());
            Datagram::Ack(id, Ack { largest, bitmap, received, limit, delay })
        }
        4 => return Err(length_error),
        5 => Datagram::Reset(id),
        _ => return Err(DatagramError::Kind(kind)),
    };
    if rest.is_empty() { Ok(datagram) } else { Err(length_error) }
}

/// Appends the encoded form of a datagram to `out`.
pub fn encode(datagram: &Datagram<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    let (kind, id) = match datagram {
        Datagram::Open(id) => (1, id),
        Datagram::Cookie(id) => (2, id),
        Datagram::Data(id, _) => (3, id),
        Datagram::Ack(id, _) => (4, id),
        Datagram::Reset(id) => (5, id),
    };
    out.put_u32_le(0);
    out.put_slice(&[kind, VERSION, 0, 0]);
    out.put_u64_le(id.stream);
    out.put_u64_le(id.cookie);
    let mut payload: &[u8] = &[];
    match datagram {
        Datagram::Data(_, data) => {
            out.put_u64_le(data.number);
            out.put_u64_le(data.offset);
            payload = data.payload;
        }
        Datagram::Ack(_, ack) => {
            for number in [ack.largest, ack.received, ack.limit] {
                out.put_u64_le(number);
            }
            out.put_u32_le(ack.delay);
            for word in ack.bitmap {
                out.put_u64_le(word);
            }
        }
        Datagram::Open(_) | Datagram::Cookie(_) | Datagram::Reset(_) => {}
    }
    let checksum = crc32c::crc32c(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(payload);
    assert!(out.len() - start <= DATAGRAM_BYTES_MAX, "{datagram:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: StreamId = StreamId { stream: 0x1122_3344_5566_7788, cookie: 0x99AA_BBCC_DDEE_FF00 };

    fn examples() -> Vec<Datagram<'static>> {
        let mut bitmap = [0; BITMAP_WORDS];
        (bitmap[0], bitmap[1], bitmap[15]) = (5, 1 << 63, 7);
        let ack = Ack { largest: 70, bitmap, received: 9_000, limit: 1 << 40, delay: 12 };
        vec![
            Datagram::Open(StreamId { cookie: 0, ..ID }),
            Datagram::Cookie(ID),
            Datagram::Data(ID, Data { number: 7, offset: 1 << 33, payload: b"payload" }),
            Datagram::Data(ID, Data { number: 8, offset: 1 << 33, payload: b"" }),
            Datagram::Ack(ID, ack),
            Datagram::Reset(ID),
        ]
    }

    #[test]
    fn udp_datagrams_round_trip_and_header_damage_is_detected() {
        for datagram in examples() {
            let mut bytes = Vec::new();
            encode(&datagram, &mut bytes);
            assert_eq!(decode(&bytes), Ok(datagram));
            for cut in 0..bytes.len() {
                // A shorter payload is noticed by the checksums of the frames in it.
                let is_payload = matches!(datagram, Datagram::Data(..)) && cut >= DATA_HEADER_BYTES;
                assert_eq!(decode(&bytes[..cut]).is_ok(), is_payload, "{datagram:?} cut to {cut}");
            }
            for at in 0..bytes.len().min(DATA_HEADER_BYTES) {
                bytes[at] ^= 0x10;
                assert!(decode(&bytes).is_err(), "{datagram:?} with byte {at} changed");
                bytes[at] ^= 0x10;
            }
        }
    }

    #[test]
    fn largest_allowed_payload_fits_in_a_udp_datagram() {
        let payload = vec![1; PAYLOAD_BYTES_MAX];
        let mut bytes = Vec::new();
        encode(&Datagram::Data(ID, Data { number: 1, offset: 2, payload: &payload }), &mut bytes);
        assert_eq!(bytes.len(), DATAGRAM_BYTES_MAX);
        assert!(decode(&bytes).is_ok());
        bytes.push(0);
        assert_eq!(decode(&bytes), Err(DatagramError::Length(bytes.len())));
    }

    #[test]
    fn udp_ack_bitmap_counts_back_from_largest_datagram_number() {
        let mut bitmap = [0; BITMAP_WORDS];
        (bitmap[0], bitmap[15]) = (1, 1 << 63);
        let ack = Ack { largest: 3_000, bitmap, ..Ack::default() };
        let contained: Vec<u64> = (0..4_000).filter(|&number| ack.contains(number)).collect();
        assert_eq!(contained, [3_000 - BITMAP_BITS as u64, 2_999, 3_000]);
    }
}
