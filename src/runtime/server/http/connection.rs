//! One HTTP connection: reads requests and writes responses, one at a time. The next request is
//! parsed only after the previous response has been written.

use std::time::Duration;

use bytes::Bytes;
use mio::Registry;

use crate::runtime::server::sockets::socket::Socket;
use crate::transport::connection::ReadResult;
use crate::types::Instant;
use crate::wire::http::{self, REQUEST_BYTES_MAX, RequestError, Status};

use super::pages::Page;

/// Timeouts of an HTTP connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimeLimits {
    /// Maximum time for a client to send a request, from its first byte; on a new connection from
    /// the start of the connection.
    pub(super) request: Duration,
    /// Time without a request after which a connection is closed. It is longer than usual scrape
    /// intervals, so that Prometheus reuses its connection.
    pub(super) idle: Duration,
    /// Maximum time for a client to receive a response.
    pub(super) response: Duration,
    /// Maximum time for a client to close its side after the last response. Bytes that arrive until
    /// then are read and discarded: closing a socket that has unread bytes could make the operating
    /// system discard the response.
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

/// Maximum number of bytes to discard after the last response.
const DISCARDED_MAX: usize = 64 << 10;

/// State of a connection: the event that it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// A request from the client.
    Reading,
    /// The network stage's answer to the question with this number, for this page.
    Waiting(Page, u64),
    /// The client receiving the rest of the response.
    Writing,
    /// The connection's deadline, at which the next event of its event stream is due.
    Streaming,
    /// The client closing its side. At most this number of further bytes are discarded.
    Closing(usize),
}

/// Next step of the service for a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Wait for a socket event or an answer.
    Wait,
    /// Respond to a request: its path, or why it is invalid.
    Respond(Result<String, RequestError>),
    /// Close the connection.
    Close,
}

/// A connection of an HTTP client.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: Socket,
    /// Received bytes that have not been parsed yet; at most [`REQUEST_BYTES_MAX`].
    input: Vec<u8>,
    pub(super) state: State,
    /// When the current state times out. A request that still waits for an answer then gets an
    /// error response, an event stream continues, and any other connection is closed.
    pub(super) deadline: Instant,
    /// Whether the request was `HEAD`, so that the response has no body.
    is_head: bool,
    keeps_open: bool,
    /// Whether the response is an event stream that has started.
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

    /// Returns whether the connection has no complete request that waits for a response. When there
    /// are too many connections, such a connection is closed first.
    pub(super) fn is_idle(&self) -> bool {
        self.state == State::Reading || matches!(self.state, State::Closing(_))
    }

    /// Advances as far as possible without blocking, at most to the next request.
    pub(super) fn advance(&mut self, space: &mut [u8], now: Instant) -> Step {
        loop {
            match self.state {
                State::Streaming | State::Waiting(..) if self.is_stream => {
                    let is_failed = self.socket.flush().is_err();
                    // No client sends anything while it reads an event stream.
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

    /// Starts to write a response.
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

    /// Sends an event of an event stream, with the response's head before the first one. The next
    /// event is due at `next`. A `HEAD` request gets the head alone.
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
            // A part of the next request may have arrived already.
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
