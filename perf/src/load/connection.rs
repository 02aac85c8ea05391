//! One connection of the load generator: its socket, its buffers, the operations in flight and its
//! state. The engine makes all decisions.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use super::encoder::RequestEncoder;
use super::etcd;
use super::generator::Operation;
use super::http2::{Ended, Http2};
use super::keys::Values;
use super::resp::Broken;

/// State of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// Closed; reconnects at `retry_at`.
    Down { retry_at: u64 },
    /// The TCP connection is being established; fails at `until`.
    Connecting { until: u64 },
    /// Connected; `CLUSTER SLOTS` was sent to find the leader. Fails at `until`.
    FindingLeader { until: u64 },
    /// Ready for requests.
    Up,
}

/// One connection.
#[allow(clippy::struct_excessive_bools, reason = "marks of the engine, each for itself")]
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Option<TcpStream>,
    pub(crate) state: State,
    /// Index into the engine's addresses.
    pub(crate) address: usize,
    /// Output buffer, and how many of its bytes were written to the socket.
    out: Vec<u8>,
    out_sent: usize,
    /// An incomplete reply.
    pub(crate) partial: Vec<u8>,
    /// HTTP/2 state; `None` for the Redis protocol.
    pub(crate) http2: Option<Box<Http2>>,
    /// Operations in flight, in the order in which they were written.
    pub(crate) in_flight: VecDeque<Operation>,
    /// Operations at the end of `in_flight` that were not passed to the kernel yet.
    unsent_count: usize,
    /// Whether the connection is in the engine's `ready` queue.
    pub(crate) queued: bool,
    /// Whether the connection is in the engine's `dirty` list: it has new bytes to send.
    pub(crate) dirty: bool,
    /// No new requests until the next housekeeping.
    pub(crate) paused: bool,
    /// Whether the connection was up before, so that the next time counts as a reconnect.
    pub(crate) was_up: bool,
    /// Consecutive failures.
    pub(crate) failures: u32,
}

/// An HTTP/2 frame: its length, and the call that it completes.
type Frame = (usize, Option<Ended>);

/// Result of a read.
#[derive(Debug)]
pub(crate) enum Input {
    /// This many bytes were read; there may be more.
    Bytes(usize),
    /// No data for now.
    Nothing,
    /// The connection was closed.
    End,
}

impl Connection {
    /// A closed connection that is due to be opened.
    pub(crate) fn new(address: usize, pipeline: usize) -> Connection {
        Connection {
            stream: None,
            state: State::Down { retry_at: 0 },
            address,
            out: Vec::new(),
            out_sent: 0,
            partial: Vec::new(),
            http2: None,
            in_flight: VecDeque::with_capacity(pipeline + 1),
            unsent_count: 0,
            queued: false,
            dirty: false,
            paused: false,
            was_up: false,
            failures: 0,
        }
    }

    /// Starts connecting to `socket`.
    pub(crate) fn open(
        &mut self,
        socket: SocketAddr,
        registry: &Registry,
        token: Token,
        until: u64,
    ) -> io::Result<()> {
        let mut stream = TcpStream::connect(socket)?;
        // Registered once for both: changing the interest would cost a system call each time.
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        self.stream = Some(stream);
        self.state = State::Connecting { until };
        Ok(())
    }

    /// Whether a pending connection attempt succeeded; called when the socket reports an event.
    pub(crate) fn is_connected(&self) -> io::Result<bool> {
        let Some(stream) = &self.stream else { return Ok(false) };
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        match stream.peer_addr() {
            Ok(_) => {
                stream.set_nodelay(true)?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Closes the connection and passes the operations in flight to `lost`.
    pub(crate) fn close(&mut self, retry_at: u64, mut lost: impl FnMut(Operation)) {
        // Dropping the socket also deregisters it from the poll.
        self.stream = None;
        self.state = State::Down { retry_at };
        self.out.clear();
        self.out_sent = 0;
        self.partial.clear();
        self.http2 = None;
        self.unsent_count = 0;
        self.paused = false;
        self.in_flight.drain(..).for_each(&mut lost);
    }

    /// Encodes an operation and adds it to those in flight.
    pub(crate) fn push(
        &mut self,
        operation: Operation,
        requests: &RequestEncoder,
        values: &Values,
    ) {
        match &mut self.http2 {
            Some(http2) => {
                etcd::call(http2, &mut self.out, &operation, values, requests.key_bytes);
            }
            None => requests.write(&mut self.out, &operation, values),
        }
        self.in_flight.push_back(operation);
        self.unsent_count += 1;
    }

    /// Starts HTTP/2 on this connection.
    pub(crate) fn start_http2(&mut self, authority: String) {
        self.http2 = Some(Box::new(Http2::start(authority, &mut self.out)));
    }

    /// Reads one HTTP/2 frame from the start of `input`; see [`Http2::read`].
    pub(crate) fn read_frame(&mut self, input: &[u8]) -> Result<Option<Frame>, Broken> {
        let http2 = self.http2.as_mut().ok_or(Broken)?;
        http2.read(input, &mut self.out)
    }

    /// Appends raw bytes to the output buffer.
    pub(crate) fn push_bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Writes the output buffer to the socket. `now` becomes the send time of operations that were
    /// not sent yet.
    pub(crate) fn flush(&mut self, now: u64) -> io::Result<()> {
        let old = self.in_flight.len() - self.unsent_count.min(self.in_flight.len());
        for operation in self.in_flight.range_mut(old..) {
            if operation.sent == 0 {
                operation.sent = now;
            }
            if operation.request_sent == 0 {
                operation.request_sent = now;
            }
        }
        self.unsent_count = 0;
        let Some(stream) = &mut self.stream else { return Ok(()) };
        while self.out_sent < self.out.len() {
            match stream.write(&self.out[self.out_sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.out_sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.out_sent = 0;
        Ok(())
    }

    /// Whether the socket's send buffer is full and bytes wait for it to drain.
    pub(crate) fn has_unsent_bytes(&self) -> bool {
        self.out_sent < self.out.len()
    }

    /// Reads into `buffer`.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Input {
        let Some(stream) = &mut self.stream else { return Input::Nothing };
        loop {
            return match stream.read(buffer) {
                Ok(0) => Input::End,
                Ok(count) => Input::Bytes(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Input::Nothing,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => Input::End,
            };
        }
    }
}
