//! The client side of the part of NATS's text protocol that its key-value store needs. As in NATS's
//! own clients, a put publishes a message that a stream acknowledges, and a get requests the last
//! message of a subject. Replies may arrive in any order; the last token of a reply's subject
//! identifies the request.

use std::collections::VecDeque;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use super::generator::{Operation, Request};
use super::keys::{Values, write_key};
use super::reply::Reply;
use super::resp::Broken;

/// Prefix of the NATS subjects that represent the keys of the key-value bucket `perf`. The bucket's
/// stream, `KV_perf`, must exist.
const KEYS: &str = "$KV.perf.";
/// Prefix of the NATS subject to which a get is sent. The subject of the key follows it.
const LAST_MESSAGE: &str = "$JS.API.DIRECT.GET.KV_perf.";
const CONNECT: &str = "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\
    \"no_responders\":true,\"lang\":\"bowline-perf\",\"version\":\"1\"}\r\n";
/// Maximum length in bytes of a line of the NATS protocol. INFO lines are the longest; longer lines
/// are rejected.
const LINE_MAX: usize = 1 << 16;

/// Client state of one connection to a NATS server.
#[derive(Debug)]
pub(crate) struct Nats {
    /// Prefix of the NATS subjects on which this connection receives replies. It differs from the
    /// prefixes of the load generator's other connections.
    inbox: String,
    next_id: u64,
    /// Ids of the requests in flight, in ascending order.
    ids: VecDeque<u64>,
}

/// Result of reading a line of the NATS protocol: the index, among the requests in flight, of the
/// request that the line completes, and the reply. `None` if the line completes no request.
pub(crate) type Message<'a> = Option<(usize, Reply<'a>)>;

impl Nats {
    /// Starts the NATS protocol on a connection: appends the commands that connect and subscribe to
    /// replies to `out`.
    pub(crate) fn start(out: &mut Vec<u8>) -> Nats {
        static STARTED: AtomicU64 = AtomicU64::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let inbox = format!("_INBOX.{}-{number}", std::process::id());
        append(out, format_args!("{CONNECT}SUB {inbox}.* 1\r\n"));
        Nats { inbox, next_id: 0, ids: VecDeque::new() }
    }

    /// Appends the next request of an operation to `out`, and adds it to the requests in flight.
    pub(crate) fn call(
        &mut self,
        out: &mut Vec<u8>,
        operation: &Operation,
        values: &Values,
        key_bytes: usize,
    ) {
        let id = self.next_id;
        self.next_id += 1;
        self.ids.push_back(id);
        let prefix = if operation.request == Request::Get { LAST_MESSAGE } else { "" };
        append(out, format_args!("PUB {prefix}{KEYS}"));
        write_key(out, operation.key, key_bytes);
        let length = if operation.request == Request::Put { values.length() } else { 0 };
        append(out, format_args!(" {}.{id} {length}\r\n", self.inbox));
        if operation.request == Request::Put {
            values.write(out, operation.mark);
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Parses the NATS protocol line at the start of `input`, with its message if it has one.
    /// Returns the length of both in bytes, and the request that they complete, if any. Returns
    /// `None` if `input` is incomplete. Appends the answer to a PING to `out`.
    ///
    /// # Errors
    /// If `input` does not begin with a valid line, or the line reports an error or replies to an
    /// unknown request.
    pub(crate) fn read<'a>(
        &mut self,
        input: &'a [u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<(usize, Message<'a>)>, Broken> {
        let Some(end) = input.windows(2).take(LINE_MAX).position(|pair| pair == b"\r\n") else {
            return if input.len() > LINE_MAX { Err(Broken) } else { Ok(None) };
        };
        let line = std::str::from_utf8(&input[..end]).map_err(|_| Broken)?;
        let start = end + 2;
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let number = |text: &str| text.parse::<usize>().map_err(|_| Broken);
        let (subject, head, length) = match words[..] {
            ["MSG", subject, _, length] => (subject, 0, number(length)?),
            ["HMSG", subject, _, head, length] => (subject, number(head)?, number(length)?),
            ["PING"] => {
                out.extend_from_slice(b"PONG\r\n");
                return Ok(Some((start, None)));
            }
            ["PONG" | "+OK"] | ["INFO", ..] => return Ok(Some((start, None))),
            _ => return Err(Broken),
        };
        let whole = start.checked_add(length).and_then(|end| end.checked_add(2)).ok_or(Broken)?;
        if input.len() < whole {
            return Ok(None);
        }
        let message = &input[start..whole - 2];
        let (head, body) = message.split_at_checked(head).ok_or(Broken)?;
        let id: u64 = subject.rsplit('.').next().unwrap_or("").parse().map_err(|_| Broken)?;
        let place = self.ids.binary_search(&id).map_err(|_| Broken)?;
        self.ids.remove(place);
        Ok(Some((whole, Some((place, reply(head, body))))))
    }
}

/// Decodes a reply from NATS: a message without a header (`head` is empty) acknowledges a put, and
/// one with a header answers a get.
fn reply<'a>(head: &'a [u8], body: &'a [u8]) -> Reply<'a> {
    let Some(status) = head.strip_prefix(b"NATS/1.0") else {
        let has = |text: &[u8]| body.windows(text.len()).any(|part| part == text);
        let stored = head.is_empty() && has(b"\"seq\":") && !has(b"\"error\":");
        return if stored { Reply::Done } else { Reply::Error(b"REFUSED by JetStream") };
    };
    match status {
        [b'\r', b'\n', ..] => Reply::Value(Some(body)),
        [b' ', b'4', b'0', b'4', ..] => Reply::Value(None),
        [b' ', b'5', b'0', b'3', ..] => Reply::Error(b"NO_RESPONDERS"),
        _ => Reply::Error(b"REFUSED by JetStream"),
    }
}

fn append(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to memory cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_requests(count: u64) -> Nats {
        Nats { inbox: "i".to_owned(), next_id: count, ids: (0..count).collect() }
    }

    #[test]
    fn nats_replies_out_of_order_are_matched_to_their_requests() {
        let mut nats = with_requests(3);
        let mut out = Vec::new();
        let stored = b"MSG i.1 1 28\r\n{\"stream\":\"KV_perf\",\"seq\":1}\r\n";
        for end in 0..stored.len() {
            assert_eq!(nats.read(&stored[..end], &mut out), Ok(None));
        }
        assert_eq!(nats.read(stored, &mut out), Ok(Some((44, Some((1, Reply::Done))))));
        let value = b"HMSG i.2 1 12 14\r\nNATS/1.0\r\n\r\nab\r\nPING\r\n";
        let found = Some((34, Some((1, Reply::Value(Some(&b"ab"[..]))))));
        assert_eq!(nats.read(value, &mut out), Ok(found));
        assert_eq!(nats.read(&value[34..], &mut out), Ok(Some((6, None))));
        assert_eq!(out, b"PONG\r\n");
        let missing = b"HMSG i.0 1 34 34\r\nNATS/1.0 404 Message Not Found\r\n\r\n\r\n";
        let read = nats.read(missing, &mut out).unwrap().unwrap();
        assert_eq!(read.1, Some((0, Reply::Value(None))));
        assert!(nats.ids.is_empty());
    }

    #[test]
    fn requests_refused_by_nats_are_reported_as_errors() {
        let error = b"{\"error\":{\"code\":503},\"seq\":0}";
        assert!(matches!(reply(b"", error), Reply::Error(_)));
        assert!(matches!(reply(b"", b"{}"), Reply::Error(_)));
        assert!(matches!(reply(b"NATS/1.0 503\r\n\r\n", b""), Reply::Error(b"NO_RESPONDERS")));
        assert!(matches!(reply(b"NATS/1.0 408 Timeout\r\n\r\n", b""), Reply::Error(_)));
    }

    #[test]
    fn invalid_nats_protocol_lines_are_rejected() {
        for text in [
            "-ERR 'Authorization Violation'\r\n",
            "MSG i.7 1 0\r\n\r\n",
            "MSG i.x 1 0\r\n\r\n",
            "MSG i.0 1 x\r\n",
            "HMSG i.0 1 9 2\r\nab\r\n",
            "HTTP/1.1 400\r\n",
            "\r\n",
        ] {
            assert_eq!(
                with_requests(1).read(text.as_bytes(), &mut Vec::new()),
                Err(Broken),
                "{text}"
            );
        }
    }
}
