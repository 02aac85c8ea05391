//! The client side of gRPC calls over one HTTP/2 connection (RFC 9113): frames, streams and flow
//! control. It works on bytes in memory, without a socket. Hand-written because the load generator
//! shares the machine with the server that it measures, so its clients must be equally cheap for
//! all protocols.
//!
//! A response is complete when its stream ends. Calls may complete in any order; each is identified
//! by its position among those in flight.

use std::collections::VecDeque;

use super::hpack::{self, Headers};
use super::resp::Broken;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;
/// Maximum length of a frame's payload in bytes. This is the default of HTTP/2, and neither side
/// negotiates a larger one.
const FRAME_MAX: usize = 1 << 14;
const INITIAL_WINDOW: i64 = 65_535;
const WINDOW_MAX: u32 = (1 << 31) - 1;
/// Number of received bytes after which the load generator sends a `WINDOW_UPDATE` frame to enlarge
/// the connection's receive window again.
const REFILL_AFTER: u32 = 1 << 24;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// Flag of DATA and HEADERS frames: the frame is the last one of its stream.
const END_STREAM: u8 = 1;
/// Flag of SETTINGS and PING frames: the frame is an acknowledgement.
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;

const SETTING_INITIAL_WINDOW: u16 = 4;

/// Client state of one HTTP/2 connection that carries gRPC calls.
#[derive(Debug)]
pub(crate) struct Http2 {
    authority: String,
    next_stream: u32,
    /// The gRPC calls in flight, in the order in which they were made.
    calls: VecDeque<Call>,
    /// Send window of the connection: the number of bytes that may still be sent on all streams
    /// combined. `stream_window` is the initial send window of each new stream.
    window: i64,
    stream_window: i64,
    /// Number of bytes received since the last `WINDOW_UPDATE` frame that enlarged the connection's
    /// receive window.
    received: u32,
    /// The header block that is being received, if any: the id of its stream, whether the stream
    /// ends with the block, and the bytes received so far.
    block: Option<(u32, bool, Vec<u8>)>,
    /// Empty buffers of completed calls, reused by later calls.
    spare: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Call {
    stream: u32,
    window: i64,
    /// Rest of the request message, to be sent when the send windows allow it.
    unsent: Vec<u8>,
    body: Vec<u8>,
    headers: Headers,
}

/// A completed gRPC call and its result.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Index that the completed call had among the calls in flight.
    pub(crate) place: usize,
    /// The response message without gRPC's five-byte prefix; if the call failed, the error as text.
    pub(crate) result: Result<Vec<u8>, String>,
}

impl Http2 {
    /// Starts HTTP/2 on a connection: appends the preface and the settings to `out`. `authority` is
    /// the server's `host:port`.
    pub(crate) fn start(authority: String, out: &mut Vec<u8>) -> Http2 {
        out.extend_from_slice(PREFACE);
        // No dynamic header table, no server push, and the largest receive window on every stream.
        let settings = [(1_u16, 0), (2, 0), (SETTING_INITIAL_WINDOW, WINDOW_MAX)];
        frame_head(out, settings.len() * 6, SETTINGS, 0, 0);
        for (setting, value) in settings {
            out.extend_from_slice(&setting.to_be_bytes());
            out.extend_from_slice(&value.to_be_bytes());
        }
        window_update(out, WINDOW_MAX - 65_535);
        Http2 {
            authority,
            next_stream: 1,
            calls: VecDeque::new(),
            window: INITIAL_WINDOW,
            stream_window: INITIAL_WINDOW,
            received: 0,
            block: None,
            spare: Vec::new(),
        }
    }

    /// Starts a call to the gRPC method `path` with the request message that `write` encodes.
    /// Appends the call's frames to `out`.
    pub(crate) fn call(&mut self, out: &mut Vec<u8>, path: &str, write: impl FnOnce(&mut Vec<u8>)) {
        let stream = self.next_stream;
        self.next_stream += 2;
        let head = out.len();
        frame_head(out, 0, HEADERS, END_HEADERS, stream);
        hpack::write_call(out, path, &self.authority);
        set_length(out, head);
        let mut unsent = self.spare.pop().unwrap_or_default();
        unsent.extend_from_slice(&[0; 5]);
        write(&mut unsent);
        let length = u32::try_from(unsent.len() - 5).expect("messages are far below 4 GiB");
        unsent[1..5].copy_from_slice(&length.to_be_bytes());
        let body = self.spare.pop().unwrap_or_default();
        let window = self.stream_window;
        self.calls.push_back(Call { stream, window, unsent, body, headers: Headers::default() });
        let place = self.calls.len() - 1;
        self.send(out, place);
    }

    /// Appends as much of a call's request message to `out` as the send windows allow. `place` is
    /// the call's index among the calls in flight.
    fn send(&mut self, out: &mut Vec<u8>, place: usize) {
        let call = &mut self.calls[place];
        let mut at = 0;
        while at < call.unsent.len() {
            let window = usize::try_from(call.window.min(self.window)).unwrap_or(0);
            let length = (call.unsent.len() - at).min(window).min(FRAME_MAX);
            if length == 0 {
                break;
            }
            let end = if at + length == call.unsent.len() { END_STREAM } else { 0 };
            frame_head(out, length, DATA, end, call.stream);
            out.extend_from_slice(&call.unsent[at..at + length]);
            at += length;
            let length = i64::try_from(length).expect("a frame is small");
            call.window -= length;
            self.window -= length;
        }
        call.unsent.drain(..at);
    }

    fn send_all(&mut self, out: &mut Vec<u8>) {
        for place in 0..self.calls.len() {
            if self.window > 0 && !self.calls[place].unsent.is_empty() {
                self.send(out, place);
            }
        }
    }

    /// Reads one frame from the start of `input`. Returns the frame's length in bytes and the call
    /// that it completes, if any; `None` if the frame is incomplete. Appends frames that HTTP/2
    /// requires in response, such as acknowledgements, to `out`.
    ///
    /// # Errors
    /// If the data is not HTTP/2, or the server closes the connection.
    pub(crate) fn read(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<(usize, Option<Ended>)>, Broken> {
        let Some((head, rest)) = input.split_at_checked(FRAME_HEAD) else { return Ok(None) };
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        if length > FRAME_MAX {
            return Err(Broken);
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let (kind, flags) = (head[3], head[4]);
        let stream = number(&head[5..])? & WINDOW_MAX;
        if self.block.is_some() != (kind == CONTINUATION) {
            return Err(Broken);
        }
        let ended = match kind {
            DATA => self.on_data(stream, flags, payload, out)?,
            HEADERS => {
                let (_, mut payload) = unpad(payload, flags)?;
                if flags & PRIORITY != 0 {
                    payload = payload.get(5..).ok_or(Broken)?;
                }
                self.block = Some((stream, flags & END_STREAM != 0, payload.to_vec()));
                self.on_block(flags)?
            }
            CONTINUATION => {
                let block = self.block.as_mut().filter(|(of, ..)| *of == stream).ok_or(Broken)?;
                block.2.extend_from_slice(payload);
                self.on_block(flags)?
            }
            RST_STREAM => self.place(stream).map(|place| {
                let code = number(payload).unwrap_or(u32::MAX);
                self.end(place, Err(format!("RST_STREAM code {code}")))
            }),
            SETTINGS if flags & ACK == 0 => {
                self.on_settings(payload);
                frame_head(out, 0, SETTINGS, ACK, 0);
                self.send_all(out);
                None
            }
            PING if flags & ACK == 0 => {
                frame_head(out, payload.len(), PING, ACK, 0);
                out.extend_from_slice(payload);
                None
            }
            GOAWAY => return Err(Broken),
            WINDOW_UPDATE => {
                let more = i64::from(number(payload)? & WINDOW_MAX);
                if stream == 0 {
                    self.window += more;
                    self.send_all(out);
                } else if let Some(place) = self.place(stream) {
                    self.calls[place].window += more;
                    self.send(out, place);
                }
                None
            }
            _ => None,
        };
        Ok(Some((FRAME_HEAD + length, ended)))
    }

    /// Returns `buffer`, which held a response message, to the pool of buffers for later calls.
    pub(crate) fn recycle(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.spare.push(buffer);
    }

    fn on_data(
        &mut self,
        stream: u32,
        flags: u8,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Ended>, Broken> {
        self.received += u32::try_from(payload.len()).expect("a frame is small");
        if self.received >= REFILL_AFTER {
            window_update(out, self.received);
            self.received = 0;
        }
        let (_, data) = unpad(payload, flags)?;
        let Some(place) = self.place(stream) else { return Ok(None) };
        self.calls[place].body.extend_from_slice(data);
        Ok((flags & END_STREAM != 0).then(|| self.finish(place)))
    }

    /// Decodes the header block that is being received if the current frame, which has the flags
    /// `flags`, is the last one of the block. Returns the call that the block completes, if any.
    fn on_block(&mut self, flags: u8) -> Result<Option<Ended>, Broken> {
        if flags & END_HEADERS == 0 {
            return Ok(None);
        }
        let Some((stream, ends, block)) = self.block.take() else { return Ok(None) };
        let Some(place) = self.place(stream) else { return Ok(None) };
        hpack::read(&block, &mut self.calls[place].headers)?;
        Ok(ends.then(|| self.finish(place)))
    }

    fn on_settings(&mut self, payload: &[u8]) {
        for setting in payload.chunks_exact(6) {
            let value = number(&setting[2..]).unwrap_or(0);
            if u16::from_be_bytes([setting[0], setting[1]]) == SETTING_INITIAL_WINDOW {
                let more = i64::from(value) - self.stream_window;
                self.stream_window += more;
                self.calls.iter_mut().for_each(|call| call.window += more);
            }
        }
    }

    /// Returns the index, among the calls in flight, of the call on the stream with the id
    /// `stream`; `None` if there is no such call. Calls mostly complete in order, so the search is
    /// short.
    fn place(&self, stream: u32) -> Option<usize> {
        self.calls.iter().position(|call| call.stream == stream)
    }

    /// Removes the call at index `place`, whose stream has ended, from the calls in flight, and
    /// returns it with its result.
    fn finish(&mut self, place: usize) -> Ended {
        let call = &mut self.calls[place];
        let result = match (call.headers.http_status, call.headers.grpc_status) {
            (Some(200), Some(0)) => {
                // The body is one message: the compression flag, the length and the bytes.
                let length = call.body.get(1..5).and_then(|length| number(length).ok());
                if call.body.first() == Some(&0)
                    && length.is_some_and(|length| length as usize + 5 == call.body.len())
                {
                    call.body.drain(..5);
                    Ok(std::mem::take(&mut call.body))
                } else {
                    Err("INTERNAL invalid or missing message".to_owned())
                }
            }
            (_, Some(code)) => Err(format!("{} {}", status_name(code), call.headers.message)),
            (status, None) => Err(format!("INTERNAL HTTP status {}", status.unwrap_or(0))),
        };
        self.end(place, result)
    }

    fn end(&mut self, place: usize, result: Result<Vec<u8>, String>) -> Ended {
        let call = self.calls.remove(place).expect("it was just found");
        for buffer in [call.unsent, call.body] {
            if buffer.capacity() > 0 {
                self.recycle(buffer);
            }
        }
        Ended { place, result }
    }
}

fn frame_head(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    let length = u32::try_from(length).expect("a frame is small").to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
}

/// Completes the header of the last frame in `out` by writing the length of the frame's payload.
/// The header starts at index `head`.
fn set_length(out: &mut [u8], head: usize) {
    let length = u32::try_from(out.len() - head - FRAME_HEAD).expect("a frame is small");
    out[head..head + 3].copy_from_slice(&length.to_be_bytes()[1..]);
}

fn window_update(out: &mut Vec<u8>, more: u32) {
    frame_head(out, 4, WINDOW_UPDATE, 0, 0);
    out.extend_from_slice(&more.to_be_bytes());
}

/// Removes the padding from the payload of a DATA or HEADERS frame. Returns the number of padding
/// bytes (0 if `flags` does not contain PADDED), and the content.
fn unpad(payload: &[u8], flags: u8) -> Result<(usize, &[u8]), Broken> {
    if flags & PADDED == 0 {
        return Ok((0, payload));
    }
    let (&padding, rest) = payload.split_first().ok_or(Broken)?;
    let padding = usize::from(padding);
    let length = rest.len().checked_sub(padding).ok_or(Broken)?;
    Ok((padding, &rest[..length]))
}

fn number(bytes: &[u8]) -> Result<u32, Broken> {
    let bytes = bytes.first_chunk::<4>().ok_or(Broken)?;
    Ok(u32::from_be_bytes(*bytes))
}

/// Returns the name of a gRPC status code, such as `UNAVAILABLE`; `UNKNOWN` if the code is not
/// defined.
fn status_name(code: u32) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    usize::try_from(code).ok().and_then(|code| NAMES.get(code)).copied().unwrap_or("UNKNOWN")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        frame_head(&mut out, payload.len(), kind, flags, stream);
        out.extend_from_slice(payload);
        out
    }

    /// Reads one frame and returns the call that it completes, if any. Checks that every proper
    /// prefix of the frame is incomplete.
    #[track_caller]
    fn read(http2: &mut Http2, out: &mut Vec<u8>, frame: &[u8]) -> Option<Ended> {
        for end in 0..frame.len() {
            assert!(matches!(http2.read(&frame[..end], out), Ok(None)));
        }
        let (length, ended) = http2.read(frame, out).unwrap().unwrap();
        assert_eq!(length, frame.len());
        ended
    }

    const OK: &[u8] = b"\x00\x0bgrpc-status\x010";

    #[test]
    fn concurrent_grpc_calls_may_complete_out_of_order() {
        let mut out = Vec::new();
        let mut http2 = Http2::start("127.0.0.1:1".to_owned(), &mut out);
        assert!(out.starts_with(PREFACE));
        for message in [&b"one"[..], b"two"] {
            http2.call(&mut out, "/a/B", |out| out.extend_from_slice(message));
        }
        assert!(
            out.ends_with(b"\0\0\x08\0\x01\0\0\0\x03\0\0\0\0\x03two"),
            "{}",
            out.escape_ascii()
        );
        for stream in [3, 1] {
            let out = &mut out;
            assert!(read(&mut http2, out, &frame(HEADERS, END_HEADERS, stream, &[0x88])).is_none());
            let body = [&[0, 0, 0, 0, 2], &b"yes"[..2]].concat();
            for part in [&body[..3], &body[3..]] {
                assert!(read(&mut http2, out, &frame(DATA, 0, stream, part)).is_none());
            }
            // The trailers arrive in two frames.
            let (a, b) = OK.split_at(5);
            assert!(read(&mut http2, out, &frame(HEADERS, END_STREAM, stream, a)).is_none());
            let end = frame(CONTINUATION, END_HEADERS, stream, b);
            let ended = read(&mut http2, out, &end).expect("it is over");
            assert_eq!(ended.place, usize::from(stream == 3));
            assert_eq!(ended.result.as_deref(), Ok(&b"ye"[..]));
        }
        assert!(http2.calls.is_empty());
    }

    #[test]
    fn grpc_error_text_includes_its_status_name() {
        let mut out = Vec::new();
        let mut http2 = Http2::start("a".to_owned(), &mut out);
        for _ in 0..3 {
            http2.call(&mut out, "/a/B", |_| {});
        }
        let gone = b"\x88\x00\x0bgrpc-status\x0214\x00\x0cgrpc-message\x04gone";
        let all = END_HEADERS | END_STREAM;
        let ended = read(&mut http2, &mut out, &frame(HEADERS, all, 1, gone)).unwrap();
        assert_eq!(ended.result, Err("UNAVAILABLE gone".to_owned()));
        let ended = read(&mut http2, &mut out, &frame(RST_STREAM, 0, 3, &[0, 0, 0, 8])).unwrap();
        assert_eq!(ended.result, Err("RST_STREAM code 8".to_owned()));
        let ok = [&[0x88], OK].concat();
        let ended = read(&mut http2, &mut out, &frame(HEADERS, all, 5, &ok)).unwrap();
        assert_eq!(ended.result, Err("INTERNAL invalid or missing message".to_owned()));
        assert!(http2.read(&frame(GOAWAY, 0, 0, &[0; 8]), &mut out).is_err());
        assert!(http2.read(b"HTTP/1.1 400 Bad Request\r\n", &mut out).is_err());
    }

    #[test]
    fn large_grpc_message_waits_for_http2_flow_control_window() {
        let mut out = Vec::new();
        let mut http2 = Http2::start("a".to_owned(), &mut out);
        out.clear();
        http2.call(&mut out, "/a/B", |out| out.resize(100_000, 7));
        let sent = |out: &[u8]| out.split(|&byte| byte == 7).count() - 1;
        let before = sent(&out);
        assert!((65_000..65_535).contains(&before), "{before}");
        // Sending requires a window on both the stream and the connection.
        let more = 50_000_u32.to_be_bytes();
        read(&mut http2, &mut out, &frame(WINDOW_UPDATE, 0, 1, &more));
        assert_eq!(sent(&out), before);
        read(&mut http2, &mut out, &frame(WINDOW_UPDATE, 0, 0, &more));
        assert!(sent(&out) >= 100_000 - 5, "{}", sent(&out));
        assert!(http2.calls[0].unsent.is_empty());
    }

    #[test]
    fn http2_pings_and_settings_are_acknowledged() {
        let mut out = Vec::new();
        let mut http2 = Http2::start("a".to_owned(), &mut out);
        out.clear();
        read(&mut http2, &mut out, &frame(PING, 0, 0, b"12345678"));
        assert_eq!(out, frame(PING, ACK, 0, b"12345678"));
        out.clear();
        let settings = [&[0, 4][..], &1_000_000_u32.to_be_bytes()].concat();
        read(&mut http2, &mut out, &frame(SETTINGS, 0, 0, &settings));
        assert_eq!(out, frame(SETTINGS, ACK, 0, b""));
        assert_eq!(http2.stream_window, 1_000_000);
        read(&mut http2, &mut out, &frame(SETTINGS, ACK, 0, b""));
    }
}
