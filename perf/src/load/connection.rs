//! One connection of the load generator: its socket, its buffers, its operations in flight and its
//! state. The engine makes all decisions about the connection.

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
use super::nats::{Message, Nats};
use super::resp::Broken;

/// State of one connection of the load generator. Times are in nanoseconds since the start of the
/// run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// The connection is closed, and will be opened at the time `retry_at`, in nanoseconds since
    /// the start of the run.
    Down { retry_at: u64 },
    /// The TCP connection is being established; the attempt times out at `until`, in nanoseconds
    /// since the start of the run.
    Connecting { until: u64 },
    /// The connection is established and waits for the reply to `CLUSTER SLOTS`, which names the
    /// leader. The wait times out at `until`, in nanoseconds since the start of the run.
    FindingLeader { until: u64 },
    /// The connection is ready for requests.
    Up,
}

/// A connection of the load generator to a server, with its buffers and operations in flight.
#[allow(clippy::struct_excessive_bools, reason = "marks of the engine, each for itself")]
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Option<TcpStream>,
    pub(crate) state: State,
    /// Index of the server's address in [`Engine`](super::engine::Engine)'s list of addresses.
    pub(crate) address: usize,
    /// Output buffer with encoded requests. Its first `out_sent` bytes have already been written to
    /// the socket.
    out: Vec<u8>,
    out_sent: usize,
    /// Received bytes of a reply that is still incomplete.
    pub(crate) partial: Vec<u8>,
    /// HTTP/2 state of a connection to etcd; `None` for other protocols.
    pub(crate) http2: Option<Box<Http2>>,
    /// Protocol state of a connection to NATS; `None` for other protocols.
    pub(crate) nats: Option<Box<Nats>>,
    /// Operations that are waiting for a reply, in the order in which their requests were written.
    pub(crate) in_flight: VecDeque<Operation>,
    /// Number of operations at the end of `in_flight` whose requests have been in the output buffer
    /// only since the last attempt to write the buffer to the socket.
    unsent_count: usize,
    /// Whether the connection is in the load thread's queue of connections with capacity for more
    /// requests.
    pub(crate) queued: bool,
    /// Whether the connection is in the load thread's list of connections with new bytes to send.
    pub(crate) dirty: bool,
    /// Whether the connection is paused for at most 50 ms, because the server replied that it has
    /// no leader or is overloaded. A paused connection gets no new requests.
    pub(crate) paused: bool,
    /// Whether the next reply is that to a login, which is not an operation.
    pub(crate) is_logging_in: bool,
    /// Whether the connection has been established before. If so, establishing it again counts as a
    /// reconnect.
    pub(crate) was_up: bool,
    /// Number of failures since the connection was last established.
    pub(crate) failures: u32,
}

/// Result of reading an HTTP/2 frame: its length in bytes, and the gRPC call that it completes, if
/// any.
type Frame = (usize, Option<Ended>);

/// Result of one read from the socket of a connection.
#[derive(Debug)]
pub(crate) enum Input {
    /// The given number of bytes was read into the buffer; the socket may have more.
    Bytes(usize),
    /// The socket currently has no data.
    Nothing,
    /// The server closed the connection, or reading failed.
    End,
}

impl Connection {
    /// Creates a connection that is not open yet. `address` is the index of its server in the load
    /// thread's list of addresses, and `pipeline` is the expected number of operations in flight.
    pub(crate) fn new(address: usize, pipeline: usize) -> Connection {
        Connection {
            stream: None,
            state: State::Down { retry_at: 0 },
            address,
            out: Vec::new(),
            out_sent: 0,
            partial: Vec::new(),
            http2: None,
            nats: None,
            in_flight: VecDeque::with_capacity(pipeline + 1),
            unsent_count: 0,
            queued: false,
            dirty: false,
            paused: false,
            is_logging_in: false,
            was_up: false,
            failures: 0,
        }
    }

    /// Starts to establish the connection to the address `socket`. The attempt times out at
    /// `until`, in nanoseconds since the start of the run.
    pub(crate) fn open(
        &mut self,
        socket: SocketAddr,
        registry: &Registry,
        token: Token,
        until: u64,
    ) -> io::Result<()> {
        let mut stream = TcpStream::connect(socket)?;
        // Registered once for both reading and writing, because each change of the registration
        // would cost a system call.
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        self.stream = Some(stream);
        self.state = State::Connecting { until };
        Ok(())
    }

    /// Returns whether the attempt to establish the connection has succeeded; an error if it has
    /// failed. Called when the socket reports an event.
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

    /// Closes the connection, to be reopened at `retry_at` (in nanoseconds since the start of the
    /// run). Passes each operation in flight to `lost`.
    pub(crate) fn close(&mut self, retry_at: u64, mut lost: impl FnMut(Operation)) {
        // Dropping the socket also deregisters it from the poll.
        self.stream = None;
        self.state = State::Down { retry_at };
        self.out.clear();
        self.out_sent = 0;
        self.partial.clear();
        self.http2 = None;
        self.nats = None;
        self.unsent_count = 0;
        self.paused = false;
        self.in_flight.drain(..).for_each(&mut lost);
    }

    /// Appends the next request of an operation to the output buffer, and adds the operation to
    /// those in flight.
    pub(crate) fn push(
        &mut self,
        operation: Operation,
        requests: &RequestEncoder,
        values: &Values,
    ) {
        match (&mut self.http2, &mut self.nats) {
            (Some(http2), _) => {
                etcd::call(http2, &mut self.out, &operation, values, requests.key_bytes);
            }
            (None, Some(nats)) => {
                nats.call(&mut self.out, &operation, values, requests.key_bytes);
            }
            (None, None) => requests.write(&mut self.out, &operation, values),
        }
        self.in_flight.push_back(operation);
        self.unsent_count += 1;
    }

    /// Starts HTTP/2 on this connection: puts the connection preface into the output buffer.
    /// `authority` is the `host:port` of the server.
    pub(crate) fn start_http2(&mut self, authority: String) {
        self.http2 = Some(Box::new(Http2::start(authority, &mut self.out)));
    }

    /// Starts the NATS protocol on this connection: puts its first commands into the output buffer.
    pub(crate) fn start_nats(&mut self) {
        self.nats = Some(Box::new(Nats::start(&mut self.out)));
    }

    /// Reads one line of the NATS protocol from the start of `input`; see [`Nats::read`].
    pub(crate) fn read_nats<'a>(
        &mut self,
        input: &'a [u8],
    ) -> Result<Option<(usize, Message<'a>)>, Broken> {
        let nats = self.nats.as_mut().ok_or(Broken)?;
        nats.read(input, &mut self.out)
    }

    /// Reads one HTTP/2 frame from the start of `input`; see [`Http2::read`].
    pub(crate) fn read_frame(&mut self, input: &[u8]) -> Result<Option<Frame>, Broken> {
        let http2 = self.http2.as_mut().ok_or(Broken)?;
        http2.read(input, &mut self.out)
    }

    /// Appends an encoded request that is not part of an operation, such as `CLUSTER SLOTS`, to the
    /// output buffer.
    pub(crate) fn push_bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Writes as much of the output buffer as the socket accepts. Sets the send time of the
    /// operations whose requests are in the buffer to `now`, unless they already have a send time.
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

    /// Returns whether the output buffer has bytes that have not been written to the socket, which
    /// happens when the socket's send buffer is full.
    pub(crate) fn has_unsent_bytes(&self) -> bool {
        self.out_sent < self.out.len()
    }

    /// Reads bytes from the socket into `buffer` without blocking. Returns the number of bytes
    /// read, that the socket has no data, or that the connection has ended.
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
