//! One connection: its socket, what is on the way in both directions, and what state it is in.
//! It decides nothing; the engine does.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use super::etcd;
use super::http2::{Ended, Http2};
use super::keys::Values;
use super::requests::Requests;
use super::resp::Broken;
use super::work::Operation;

/// How far a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// To be opened at this moment.
    Down { retry_at: u64 },
    /// Being opened, or asking who leads, until this moment at most.
    Connecting { until: u64 },
    /// Connected, and has asked who leads.
    Asking { until: u64 },
    /// Takes requests.
    Up,
}

/// One connection.
#[allow(clippy::struct_excessive_bools, reason = "marks of the engine, each for itself")]
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Option<TcpStream>,
    pub(crate) state: State,
    /// Which of the addresses.
    pub(crate) address: usize,
    /// Bytes to be sent, and how many of them were.
    out: Vec<u8>,
    out_sent: usize,
    /// The beginning of an answer.
    pub(crate) partial: Vec<u8>,
    /// What HTTP/2 remembers, if that is spoken.
    pub(crate) http2: Option<Box<Http2>>,
    /// In the order in which they were written.
    pub(crate) in_flight: VecDeque<Operation>,
    /// How many of them, at the end, were not handed to the kernel yet.
    fresh: usize,
    /// Whether it stands in the engine's queue of connections with room.
    pub(crate) queued: bool,
    /// Whether it has something new to send.
    pub(crate) dirty: bool,
    /// Whether it shall not take new requests for a moment.
    pub(crate) paused: bool,
    /// Whether it was up before.
    pub(crate) was_up: bool,
    /// Attempts in a row that failed.
    pub(crate) failures: u32,
}

/// A frame's length, and the call that it ends.
type Frame = (usize, Option<Ended>);

/// What came of reading.
#[derive(Debug)]
pub(crate) enum Input {
    /// So many bytes, and there may be more.
    Some(usize),
    /// Nothing more for now.
    Nothing,
    /// The connection is gone.
    End,
}

impl Connection {
    /// One that is to be opened at once.
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
            fresh: 0,
            queued: false,
            dirty: false,
            paused: false,
            was_up: false,
            failures: 0,
        }
    }

    /// Begins to connect.
    pub(crate) fn open(
        &mut self,
        socket: SocketAddr,
        registry: &Registry,
        token: Token,
        until: u64,
    ) -> io::Result<()> {
        let mut stream = TcpStream::connect(socket)?;
        // Both at once and for good: changing what is waited for would cost a call each time.
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        self.stream = Some(stream);
        self.state = State::Connecting { until };
        Ok(())
    }

    /// Whether it has come up, once something happened while it was connecting.
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

    /// Closes it; what was under way is handed to `lost`.
    pub(crate) fn close(&mut self, retry_at: u64, mut lost: impl FnMut(Operation)) {
        // Dropping the socket takes it from the poll, too.
        self.stream = None;
        self.state = State::Down { retry_at };
        self.out.clear();
        self.out_sent = 0;
        self.partial.clear();
        self.http2 = None;
        self.fresh = 0;
        self.paused = false;
        self.in_flight.drain(..).for_each(&mut lost);
    }

    /// Puts an operation after those that are under way.
    pub(crate) fn push(&mut self, operation: Operation, requests: &Requests, values: &Values) {
        match &mut self.http2 {
            Some(http2) => {
                etcd::call(http2, &mut self.out, &operation, values, requests.key_bytes);
            }
            None => requests.write(&mut self.out, &operation, values),
        }
        self.in_flight.push_back(operation);
        self.fresh += 1;
    }

    /// Speaks HTTP/2 from now on.
    pub(crate) fn start_http2(&mut self, authority: String) {
        self.http2 = Some(Box::new(Http2::start(authority, &mut self.out)));
    }

    /// Reads a frame of HTTP/2 from the start of `input`; see [`Http2::read`].
    pub(crate) fn read_frame(&mut self, input: &[u8]) -> Result<Option<Frame>, Broken> {
        let http2 = self.http2.as_mut().ok_or(Broken)?;
        http2.read(input, &mut self.out)
    }

    /// Puts bytes of our own before all operations.
    pub(crate) fn greet(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Sends what there is; `now` is the moment that counts as that of sending.
    pub(crate) fn flush(&mut self, now: u64) -> io::Result<()> {
        let old = self.in_flight.len() - self.fresh.min(self.in_flight.len());
        for operation in self.in_flight.range_mut(old..) {
            if operation.sent == 0 {
                operation.sent = now;
            }
            if operation.step_sent == 0 {
                operation.step_sent = now;
            }
        }
        self.fresh = 0;
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

    /// Whether bytes wait for room in the kernel.
    pub(crate) fn is_stuck(&self) -> bool {
        self.out_sent < self.out.len()
    }

    /// Reads into `buffer`.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Input {
        let Some(stream) = &mut self.stream else { return Input::Nothing };
        loop {
            return match stream.read(buffer) {
                Ok(0) => Input::End,
                Ok(count) => Input::Some(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Input::Nothing,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => Input::End,
            };
        }
    }
}
