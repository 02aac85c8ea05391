//! Decoding frames from the pieces in which bytes arrive.

use bytes::{Buf, Bytes, BytesMut};

use crate::feature_level::FeatureLevel;
use crate::raft::{REPLICAS_MAX, RefusalReason};
use crate::types::{ClientId, Index, NodeId, RequestId, RequestKey, Term};

use super::super::peer;
use super::{
    ADDRESS_BYTES_MAX, Attempt, FIRST_ATTEMPT, FIRST_FRAME_BYTES_MAX, FRAME_BYTES_MAX, Frame,
    FrameError, HEADER_BYTES, HELLO_BYTES, Hello, KEY_BYTES, Lane, MAGIC, PREAMBLE_BYTES,
    PROGRAM_BYTES_MAX, ProtocolVersion, ProtocolVersions, REJOINING, START_IDS_MAX, protocol,
};

/// Decodes the frames (length-prefixed messages) that arrive on a connection between replicas. The
/// bytes may arrive in pieces of any size.
#[derive(Debug)]
pub struct Decoder {
    pub(super) buffer: BytesMut,
    /// Version of the protocol in the preamble at the start of the connection; `None` until the
    /// preamble has been decoded.
    version: Option<ProtocolVersion>,
    /// Maximum length of the next frame in bytes, excluding its header. It is [`FRAME_BYTES_MAX`],
    /// except for the first frame of a peer that has not identified itself, which must be shorter.
    max: usize,
}

impl Default for Decoder {
    /// Creates a decoder for a connection to a known peer, whose first frame may be as long as any
    /// other: up to [`FRAME_BYTES_MAX`].
    fn default() -> Decoder {
        Decoder { buffer: BytesMut::new(), version: None, max: FRAME_BYTES_MAX }
    }
}

impl Decoder {
    /// Creates a decoder for a connection from a peer that has not identified itself. Its first
    /// frame may be no longer than a hello message, so that an unknown peer cannot make the replica
    /// buffer more.
    pub fn for_unknown_peer() -> Decoder {
        Decoder { max: FIRST_FRAME_BYTES_MAX, ..Decoder::default() }
    }

    /// Appends bytes that were received on the connection to the decoder's buffer.
    pub fn feed(&mut self, bytes: &[u8]) {
        if !self.buffer.try_reclaim(bytes.len()) {
            // The buffer doubles, but not beyond the end of its first frame: the entries of the
            // frame stay in the log for long, and keep the whole buffer allocated.
            let length = self.buffer.len() + bytes.len();
            let capacity = self.first_frame_bytes().min(2 * length).max(length);
            let mut buffer = BytesMut::with_capacity(capacity);
            buffer.extend_from_slice(&self.buffer);
            self.buffer = buffer;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the length in bytes, with its header, of the frame that the buffer begins with; 0 if
    /// it is not known yet or invalid.
    fn first_frame_bytes(&self) -> usize {
        let header = self.buffer.get(..HEADER_BYTES).filter(|_| self.version.is_some());
        let length = header.map_or(0, |mut header| header.get_u32_le() as usize);
        if length <= self.max { HEADER_BYTES + length } else { 0 }
    }

    /// Returns the number of received bytes that wait in the buffer for the rest of their frame.
    pub fn buffered_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Decodes and returns the next frame (message) of the connection; `None` if it has not
    /// completely arrived. Log entries, snapshot chunks and write payloads share the buffer's
    /// memory instead of being copied.
    ///
    /// # Errors
    /// If the bytes are not a valid frame. The connection must be closed then.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let version = match self.version {
            Some(version) => version,
            None if self.buffer.len() < PREAMBLE_BYTES => return Ok(None),
            None => self.preamble()?,
        };
        let Some(mut header) = self.buffer.get(..HEADER_BYTES) else { return Ok(None) };
        let length = header.get_u32_le() as usize;
        let stored = header.get_u32_le();
        if !(1..=self.max).contains(&length) {
            return Err(FrameError::Length { claimed: length, max: self.max });
        }
        if self.buffer.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(HEADER_BYTES);
        let mut body = self.buffer.split_to(length).freeze();
        let computed = crc32c::crc32c(&body);
        if computed != stored {
            return Err(FrameError::Checksum { computed, stored });
        }
        let kind = body.get_u8();
        let frame = decode_body(version, kind, body)?;
        self.max = FRAME_BYTES_MAX;
        Ok(Some(frame))
    }

    fn preamble(&mut self) -> Result<ProtocolVersion, FrameError> {
        let mut preamble = self.buffer.split_to(PREAMBLE_BYTES);
        let mut magic = [0; 4];
        preamble.copy_to_slice(&mut magic);
        if magic != MAGIC {
            return Err(FrameError::Magic(magic));
        }
        let version = preamble.get_u16_le();
        if !ProtocolVersions::OWN.contains(version) {
            return Err(FrameError::Version(version));
        }
        self.version = Some(version);
        Ok(version)
    }
}

/// Decodes a hello; `None` if it is malformed.
fn hello_of(version: ProtocolVersion, mut body: Bytes) -> Option<Hello> {
    let check = |holds: bool| holds.then_some(());
    check(body.len() >= HELLO_BYTES)?;
    let cluster = body.get_u128_le();
    let (from, to) = (NodeId(body.get_u16_le()), NodeId(body.get_u16_le()));
    let incarnation = body.get_u64_le();
    let connection = body.get_u64_le();
    let lane = match body.get_u8() {
        0 => Lane::Urgent,
        1 => Lane::Bulk,
        _ => return None,
    };
    let flags = body.get_u8();
    check(flags & !REJOINING == 0)?;
    let member_count = usize::from(body.get_u8());
    let count = usize::from(body.get_u16_le());
    check(member_count <= REPLICAS_MAX && count <= START_IDS_MAX)?;
    check(body.len() >= member_count * 2 + count * 8)?;
    let members: Vec<NodeId> = (0..member_count).map(|_| NodeId(body.get_u16_le())).collect();
    check(members.is_sorted_by(|one, next| one < next))?;
    check(members.is_empty() || members.contains(&from))?;
    let start_ids = (0..count).map(|_| body.get_u64_le()).collect();
    let mut hello = Hello {
        cluster,
        from,
        to,
        incarnation,
        connection,
        start_ids,
        members,
        rejoining: flags == REJOINING,
        lane,
        client_address: String::new(),
        peer_address: String::new(),
        versions: ProtocolVersions::V0_1,
        level: FeatureLevel::V0_1,
        program: String::new(),
    };
    if version == protocol::V9 {
        let (client_address, peer_address) = std::str::from_utf8(&body).ok()?.split_once(' ')?;
        hello.client_address = printable(client_address, ADDRESS_BYTES_MAX)?;
        hello.peer_address = printable(peer_address, ADDRESS_BYTES_MAX)?;
        if connection & protocol::SPEAKS_V10 != 0 {
            (hello.versions, hello.level) = (ProtocolVersions::OWN, FeatureLevel::V0_2);
        }
        return Some(hello);
    }
    let (oldest, newest) = (body.try_get_u16_le().ok()?, body.try_get_u16_le().ok()?);
    hello.versions = ProtocolVersions { oldest, newest };
    check(hello.versions.contains(version))?;
    hello.level = FeatureLevel::from_number(body.try_get_u16_le().ok()?)?;
    hello.client_address = text_of(&mut body, ADDRESS_BYTES_MAX)?;
    hello.peer_address = text_of(&mut body, ADDRESS_BYTES_MAX)?;
    hello.program = text_of(&mut body, PROGRAM_BYTES_MAX)?;
    Some(hello)
}

/// Decodes a text with its length, and removes it from `body`; `None` if it is malformed.
fn text_of(body: &mut Bytes, bytes_max: usize) -> Option<String> {
    let length = usize::from(body.try_get_u16_le().ok()?);
    let text = (length <= body.len()).then(|| body.split_to(length))?;
    printable(std::str::from_utf8(&text).ok()?, bytes_max)
}

/// Returns the text if it is not too long and has only printable characters: clients are redirected
/// to an address, and the texts are shown.
fn printable(text: &str, bytes_max: usize) -> Option<String> {
    let is_valid = text.len() <= bytes_max && text.bytes().all(|byte| byte.is_ascii_graphic());
    is_valid.then(|| text.to_owned())
}

fn decode_body(version: ProtocolVersion, kind: u8, mut body: Bytes) -> Result<Frame, FrameError> {
    let check = |holds: bool| if holds { Ok(()) } else { Err(FrameError::Body(kind)) };
    Ok(match kind {
        1 => Frame::Hello(hello_of(version, body).ok_or(FrameError::Body(kind))?),
        2 => Frame::Peer(peer::decode(body)?),
        3 => {
            check(body.len() >= KEY_BYTES + 8)?;
            let key = get_key(&mut body);
            let number = body.get_u64_le();
            let attempt = if number & FIRST_ATTEMPT == 0 {
                Attempt::Again { since: Index(number) }
            } else {
                Attempt::First { term: Term(number & !FIRST_ATTEMPT) }
            };
            Frame::Forward { key, attempt, payload: body }
        }
        4 => {
            check(body.len() == KEY_BYTES + 1)?;
            let key = get_key(&mut body);
            let reason = match body.get_u8() {
                0 => RefusalReason::NotLeader,
                1 => RefusalReason::Replaced,
                2 => RefusalReason::Busy,
                3 => RefusalReason::DiskFull,
                4 => RefusalReason::OutOfMemory,
                _ => return Err(FrameError::Body(kind)),
            };
            Frame::Refused { key, reason }
        }
        5 => {
            check(body.len() == 8)?;
            Frame::AskReadIndex { ticket: body.get_u64_le() }
        }
        9 => {
            check(body.len() == 8)?;
            Frame::WallClock { millis: body.get_u64_le() }
        }
        6 => {
            check(body.len() == 8 || body.len() == 16)?;
            let ticket = body.get_u64_le();
            let index = (!body.is_empty()).then(|| Index(body.get_u64_le()));
            Frame::ReadIndex { ticket, index }
        }
        other => return Err(FrameError::Kind(other)),
    })
}

fn get_key(body: &mut Bytes) -> RequestKey {
    let client = ClientId(body.get_u32_le());
    let mut request = [0; 16];
    body.copy_to_slice(&mut request);
    RequestKey { client, request: RequestId(request) }
}
