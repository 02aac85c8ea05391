//! One HTTP connection: requests in, responses out, one after the other. The next request is read
//! only when the response to the last one was written.

use std::time::Duration;

use bytes::Bytes;
use mio::Registry;

use crate::runtime::server::sockets::socket::Socket;
use crate::transport::connection::ReadResult;
use crate::types::Instant;
use crate::wire::http::{self, REQUEST_BYTES_MAX, RequestError, Status};

use super::pages::Page;

/// Time limits of connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimeLimits {
    /// Time for a client to send a request: from the first byte, or on a new connection from its
    /// start.
    pub(super) request: Duration,
    /// Time without a request after which a connection is closed. Longer than the interval at which
    /// metrics are usually read, so that a connection is reused.
    pub(super) idle: Duration,
    /// Time for a client to receive a response.
    pub(super) response: Duration,
    /// Time for a client to close its end after the last response. Until then, what it still sends
    /// is read and discarded: to close a connection with unread bytes could discard the response,
    /// too.
    pub(super) close: Duration,
}

impl Default for TimeLimits {
    fn default() -> TimeLimits {
        let seconds = Duration::from_secs;
        TimeLimits {
            request: seconds(5),
            idle: seconds(90),
            response: seconds(5),
            close: seconds(1),
        }
    }
}

/// Maximum number of bytes that are discarded after the last response.
const DISCARDED_MAX: usize = 64 << 10;

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// A request.
    Reading,
    /// The answer of the network stage to a question for this page. The number is that of the
    /// question.
    Waiting(Page, u64),
    /// The client, which receives the response.
    Writing,
    /// The time of the next event of a stream, which is the deadline of the connection.
    Streaming,
    /// The client, which closes its end. The number is that of the bytes that may still be
    /// discarded.
    Closing(usize),
}

/// What the service does next with a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Wait for an event or for an answer.
    Wait,
    /// Respond to this request.
    Respond(Result<String, RequestError>),
    /// Close the connection.
    Close,
}

/// A connection of an HTTP client.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: Socket,
    /// Received bytes that were not parsed yet; at most [`REQUEST_BYTES_MAX`].
    input: Vec<u8>,
    pub(super) state: State,
    /// When the connection is closed if it is in the same state then. An answer that does not
    /// arrive until then is replaced by an error.
    pub(super) deadline: Instant,
    /// Whether only the head of the response is wanted.
    is_head: bool,
    keeps_open: bool,
    /// Whether the response has begun, and is a stream of events.
    pub(super) is_stream: bool,
    limits: TimeLimits,
}

impl Connection {
    pub(super) fn new(socket: Socket, limits: TimeLimits, now: Instant) -> Connection {
        Connection {
            socket,
            input: Vec::new(),
            state: State::Reading,
            deadline: now + limits.request,
            is_head: false,
            keeps_open: true,
            is_stream: false,
            limits,
        }
    }

    /// Returns whether the client has not sent a complete request that is unanswered. Such a
    /// connection is closed first if there are too many.
    pub(super) fn is_idle(&self) -> bool {
        self.state == State::Reading || matches!(self.state, State::Closing(_))
    }

    /// Goes on as far as possible without waiting, at most to the next request.
    pub(super) fn advance(&mut self, space: &mut [u8], now: Instant) -> Step {
        loop {
            match self.state {
                State::Streaming | State::Waiting(..) if self.is_stream => {
                    let is_failed = self.socket.flush().is_err();
                    // A client that sends something after its request reads no events.
                    let is_ended = !matches!(self.read(space), ReadResult::WouldBlock);
                    return if is_failed || is_ended { Step::Close } else { Step::Wait };
                }
                State::Streaming | State::Waiting(..) => return Step::Wait,
                State::Writing => {
                    if self.socket.flush().is_err() {
                        return Step::Close;
                    }
                    if !self.socket.outbound.is_empty() {
                        return Step::Wait;
                    }
                    self.end_response(now);
                }
                State::Closing(left) => match self.read(space) {
                    ReadResult::Bytes(count) if count <= left => {
                        self.state = State::Closing(left - count);
                    }
                    ReadResult::WouldBlock => return Step::Wait,
                    ReadResult::Bytes(_) | ReadResult::Closed => return Step::Close,
                },
                State::Reading => match http::parse(&self.input) {
                    Ok(Some(request)) => {
                        (self.is_head, self.keeps_open) = (request.is_head, request.keeps_open);
                        let (path, length) = (request.path.to_owned(), request.length);
                        self.input.drain(..length);
                        return Step::Respond(Ok(path));
                    }
                    Err(error) => {
                        (self.is_head, self.keeps_open) = (false, false);
                        self.input = Vec::new();
                        return Step::Respond(Err(error));
                    }
                    Ok(None) => {
                        let free = REQUEST_BYTES_MAX - self.input.len();
                        let space_len = free.min(space.len());
                        match self.read(&mut space[..space_len]) {
                            ReadResult::Bytes(count) => {
                                if self.input.is_empty() {
                                    self.deadline = now + self.limits.request;
                                }
                                self.input.extend_from_slice(&space[..count]);
                            }
                            ReadResult::WouldBlock => return Step::Wait,
                            ReadResult::Closed => return Step::Close,
                        }
                    }
                },
            }
        }
    }

    fn read(&mut self, space: &mut [u8]) -> ReadResult {
        if self.socket.is_readable() { self.socket.read(space) } else { ReadResult::WouldBlock }
    }

    /// Begins to write a response.
    pub(super) fn respond(
        &mut self,
        status: Status,
        content_type: &str,
        body: &Bytes,
        now: Instant,
    ) {
        let out = self.socket.outbound.open();
        http::write_head(out, status, content_type, body.len(), self.keeps_open);
        if !self.is_head {
            self.socket.outbound.push(body);
        }
        self.state = State::Writing;
        self.deadline = now + self.limits.response;
    }

    /// Sends an event, and before the first one the head of the stream. The next event is due at
    /// `next`. A request for the head only ends here.
    pub(super) fn stream(&mut self, event: &Bytes, next: Instant, now: Instant) {
        if !self.is_stream {
            http::write_stream_head(self.socket.outbound.open());
            (self.is_stream, self.keeps_open) = (!self.is_head, false);
        }
        if self.is_head {
            self.state = State::Writing;
            self.deadline = now + self.limits.response;
            return;
        }
        self.socket.outbound.push(event);
        self.state = State::Streaming;
        self.deadline = next;
    }

    fn end_response(&mut self, now: Instant) {
        if self.keeps_open {
            self.state = State::Reading;
            // The next request may have arrived in part.
            let time = if self.input.is_empty() { self.limits.idle } else { self.limits.request };
            self.deadline = now + time;
        } else {
            self.socket.shutdown_write();
            self.state = State::Closing(DISCARDED_MAX);
            self.deadline = now + self.limits.close;
        }
    }

    pub(super) fn close(mut self, registry: &Registry) {
        self.socket.close(registry);
    }
}
