//! The socket to the simulator of the university course, of any of the three kinds that the course
//! has used. Frames messages but does not parse them, and queues outgoing messages that the socket
//! does not accept yet. Only [`Connection::wait`] blocks.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::runtime::course::line_buffer::{Line, LineBuffer};

/// Maximum size of a received message, in bytes. The kernel truncates a longer datagram, which then
/// cannot be decoded; a longer line is skipped.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// Maximum total size of the queued outgoing messages, in bytes. When it is reached, messages with
/// [`Delivery::MayBeLost`] are dropped instead of queued.
const OUTGOING_BYTES_MAX: usize = 256 << 10;

/// Number of datagrams reported by the kernel as refused, without a datagram received in between,
/// after which the replica assumes that the simulator has exited.
const REFUSALS_MAX: u32 = 200;

/// Minimum receive timeout of the socket. The kernel interprets a timeout of zero as no timeout.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// How messages are framed on the socket to the simulator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// UDP: each datagram is one message.
    Datagram,
    /// UNIX `SOCK_SEQPACKET`: each packet is one message.
    Packet,
    /// UNIX `SOCK_STREAM`: each line is one message.
    Stream,
}

impl Kind {
    /// Returns the maximum size, in bytes, of a message that the simulator can receive in full:
    /// UDP's limit for datagrams, the simulator's buffer size for packets, and no limit for lines.
    fn send_bytes_max(self) -> usize {
        match self {
            Kind::Datagram => 65_507,
            Kind::Packet => 16_384,
            Kind::Stream => usize::MAX,
        }
    }
}

/// The result of [`Connection::receive`]: a message, or why none was returned.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received<'a> {
    /// A complete received message.
    Message(&'a [u8]),
    /// A received line was longer than [`MESSAGE_BYTES_MAX`] and was skipped.
    TooLong,
    /// No more messages are available until `Poll` reports the socket as readable again.
    Drained,
    /// The simulator has closed the connection, or the connection has failed.
    Closed,
}

/// Whether an outgoing message may be dropped when the socket accepts no more bytes and the queue
/// is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Delivery {
    /// The message may be dropped. Used for messages between replicas, which Raft sends again.
    MayBeLost,
    /// The message must be queued, not dropped. Used for replies to clients, which are sent only
    /// once.
    MustArrive,
}

/// The result of [`Connection::send`]: what happened to the message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sent {
    /// The message was written to the socket or queued.
    Accepted,
    /// The message was dropped because the queue is full.
    Dropped,
    /// The message is too large for the socket, or the connection is closed.
    Failed,
}

/// Queue of outgoing messages that the socket has not accepted yet, oldest first.
#[derive(Debug, Default)]
struct Outgoing {
    messages: VecDeque<Box<[u8]>>,
    /// Number of bytes of the first queued message that the socket has accepted; always 0 unless
    /// the socket is a stream.
    written_of_first: usize,
    bytes: usize,
}

/// The socket to the simulator, with its receive buffers and its queue of outgoing messages.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Socket,
    kind: Kind,
    /// Buffer for the most recently received datagram or packet.
    datagram: Box<[u8]>,
    /// Receive buffer of a stream socket, which splits the received bytes into lines.
    lines: LineBuffer,
    /// Length, in bytes, of the message in `datagram` if [`Connection::receive`] has not returned
    /// it yet; otherwise `None`.
    arrived: Option<usize>,
    /// Whether the socket may have more bytes to receive. Since `Poll` is edge-triggered, this
    /// becomes false only when the socket has no more bytes for now.
    readable: bool,
    /// Whether the line buffer may hold complete lines that [`Connection::receive`] has not
    /// returned yet.
    buffered: bool,
    outgoing: Outgoing,
    /// Number of messages written to the socket or queued since the connection was opened.
    accepted: u64,
    /// Number of messages that, since the connection was opened, were written to the socket in full
    /// or dropped from the queue after a send error.
    written: u64,
    /// Number of datagrams that the kernel reported as refused since a datagram was last received.
    refusals: u32,
    closed: bool,
    last_wait: Wait,
}

/// The receive timeout of the socket, and the outcome of the most recent call of
/// [`Connection::wait`].
#[derive(Debug)]
struct Wait {
    /// The receive timeout that was last set on the socket.
    limit: Duration,
    /// Whether the most recent wait ended at its timeout, without a message.
    timed_out: bool,
}

/// The outcome of one attempt to write an outgoing message to the socket.
enum Write {
    Written(usize),
    WouldBlock,
    Failed,
}

impl Connection {
    /// Opens a UDP socket on a free port of 127.0.0.1 and connects it to `port` of 127.0.0.1.
    pub(super) fn open_udp(port: u16) -> io::Result<Connection> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        // On a connected socket the kernel drops datagrams from other senders, and a send needs no
        // route lookup.
        socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
        Ok(Connection::new(socket, Kind::Datagram))
    }

    /// Connects to the UNIX socket at `path` as `SOCK_SEQPACKET`, or, if that fails, as
    /// `SOCK_STREAM`.
    pub(super) fn open_unix(path: &Path) -> io::Result<Connection> {
        let address = SockAddr::unix(path)?;
        let connect = |socket_type| {
            let socket = Socket::new(Domain::UNIX, socket_type, None)?;
            socket.connect(&address).map(|()| socket)
        };
        // The first attempt fails with EPROTOTYPE on a stream socket, and with another error on a
        // system without SEQPACKET. In both cases the error to report is that of the second
        // attempt.
        match connect(Type::SEQPACKET) {
            Ok(socket) => Ok(Connection::new(socket, Kind::Packet)),
            Err(_) => Ok(Connection::new(connect(Type::STREAM)?, Kind::Stream)),
        }
    }

    fn new(socket: Socket, kind: Kind) -> Connection {
        // The socket stays in blocking mode: each call passes its own non-blocking flag.
        Connection {
            socket,
            kind,
            datagram: vec![0; MESSAGE_BYTES_MAX].into(),
            lines: LineBuffer::new(MESSAGE_BYTES_MAX),
            arrived: None,
            readable: true,
            buffered: false,
            outgoing: Outgoing::default(),
            accepted: 0,
            written: 0,
            refusals: 0,
            closed: false,
            last_wait: Wait { limit: Duration::MAX, timed_out: false },
        }
    }

    /// Returns the file descriptor of the socket, for registration with `Poll`.
    pub(super) fn raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Returns the kind of the socket, which determines how messages are framed.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Records that `Poll` has reported the socket as readable.
    pub(super) fn set_readable(&mut self) {
        self.readable = true;
    }

    /// Returns whether a call of [`Connection::receive`] may return a message or find the
    /// connection closed. If false, the caller must first wait for `Poll` to report the socket as
    /// readable.
    pub(super) fn is_readable(&self) -> bool {
        self.readable || self.buffered || self.arrived.is_some() || self.closed
    }

    /// Returns whether any outgoing messages are waiting for the socket to become writable.
    pub(super) fn has_outgoing(&self) -> bool {
        !self.outgoing.messages.is_empty()
    }

    /// Returns whether the queue of outgoing messages is below its limit in bytes, so that more
    /// replies may be sent.
    pub(super) fn can_queue(&self) -> bool {
        self.outgoing.bytes < OUTGOING_BYTES_MAX
    }

    /// Returns the number of messages written to the socket or queued since the connection was
    /// opened.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Returns how many of the [`accepted`](Connection::accepted) messages are no longer queued,
    /// because they were written to the socket in full or dropped after a send error. Messages
    /// leave the queue in order.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Returns the next received message, or the reason why there is none. Does not block.
    pub(super) fn receive(&mut self) -> Received<'_> {
        loop {
            if self.closed {
                return Received::Closed;
            }
            if let Some(length) = self.arrived.take() {
                return Received::Message(&self.datagram[..length]);
            }
            match self.lines.next() {
                Some(Line::Whole(line)) => return Received::Message(self.lines.get(line)),
                Some(Line::TooLong) => return Received::TooLong,
                None => self.buffered = false,
            }
            if !self.readable {
                return Received::Drained;
            }
            self.read(RecvFlags::DONTWAIT);
        }
    }

    /// Blocks until a message arrives, but at most for about `timeout`. Needs one system call per
    /// message, whereas polling and then receiving needs two.
    pub(super) fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let timeout = timeout.max(WAIT_MIN);
        // Waiting too briefly does no harm, so the socket's timeout is raised only after a wait
        // that timed out. This saves a system call while messages keep arriving.
        let Wait { limit, timed_out } = self.last_wait;
        if limit > timeout || (timed_out && limit < timeout) {
            self.socket.set_read_timeout(Some(timeout))?;
            self.last_wait.limit = timeout;
        }
        self.readable = true;
        self.read(RecvFlags::empty());
        self.last_wait.timed_out = self.arrived.is_none() && !self.buffered;
        Ok(())
    }

    fn read(&mut self, flags: RecvFlags) {
        let stream = self.kind == Kind::Stream;
        let buffer = if stream { self.lines.free() } else { &mut self.datagram };
        let capacity = buffer.len();
        match rustix::net::recv(&self.socket, buffer, flags) {
            // An empty datagram counts as a message, although an invalid one.
            Ok((0, _)) if self.kind != Kind::Datagram => self.closed = true,
            Ok((length, _)) if stream => {
                self.lines.filled(length);
                self.buffered = true;
                // If a stream has filled only a part of the buffer, it has no more bytes for now,
                // and `Poll` reports later arrivals. This saves a receive that would block.
                self.readable = length == capacity;
            }
            Ok((length, _)) => {
                self.arrived = Some(length);
                self.refusals = 0;
            }
            Err(error) => self.note_read_error(&error.into()),
        }
    }

    fn note_read_error(&mut self, error: &io::Error) {
        match error.kind() {
            ErrorKind::Interrupted => {}
            ErrorKind::WouldBlock => self.readable = false,
            // An earlier datagram was refused. The receive has cleared the error.
            ErrorKind::ConnectionRefused if self.kind == Kind::Datagram => self.note_refusal(),
            _ => self.closed = true,
        }
    }

    fn note_refusal(&mut self) {
        self.refusals += 1;
        self.closed = self.refusals >= REFUSALS_MAX;
    }

    /// Sends a message, or queues it if the socket does not accept it yet. On a stream socket,
    /// first appends a newline to `message`.
    pub(super) fn send(&mut self, message: &mut Vec<u8>, delivery: Delivery) -> Sent {
        if message.len() > self.kind.send_bytes_max() || self.closed {
            return Sent::Failed;
        }
        if delivery == Delivery::MayBeLost && !self.can_queue() {
            return Sent::Dropped;
        }
        if self.kind == Kind::Stream {
            message.push(b'\n');
        }
        let mut written = 0;
        if !self.has_outgoing() {
            match self.write(message) {
                Write::Written(length) if length == message.len() => {
                    self.accepted += 1;
                    self.written += 1;
                    return Sent::Accepted;
                }
                Write::Written(length) => written = length,
                Write::WouldBlock => {}
                Write::Failed => return Sent::Failed,
            }
            self.outgoing.written_of_first = written;
        }
        self.outgoing.bytes += message.len();
        self.outgoing.messages.push_back(message.as_slice().into());
        self.accepted += 1;
        Sent::Accepted
    }

    /// Writes queued messages until the socket would block.
    pub(super) fn flush(&mut self) {
        while let Some(message) = self.outgoing.messages.pop_front() {
            let from = self.outgoing.written_of_first;
            match self.write(&message[from..]) {
                Write::Written(length) if from + length == message.len() => {}
                // The error may concern only this message, so the next ones are tried too.
                Write::Failed => {}
                Write::Written(length) => {
                    self.outgoing.written_of_first += length;
                    self.outgoing.messages.push_front(message);
                    continue;
                }
                Write::WouldBlock => {
                    self.outgoing.messages.push_front(message);
                    return;
                }
            }
            self.outgoing.written_of_first = 0;
            self.outgoing.bytes -= message.len();
            self.written += 1;
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Write {
        let mut refused = false;
        loop {
            match rustix::net::send(&self.socket, bytes, SendFlags::DONTWAIT) {
                Ok(length) => return Write::Written(length),
                Err(error) => match io::Error::from(error).kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock => return Write::WouldBlock,
                    // The error belongs to an earlier datagram, and this one was not sent: retry.
                    // A second error within this call belongs to this datagram.
                    ErrorKind::ConnectionRefused if self.kind == Kind::Datagram => {
                        self.note_refusal();
                        if refused || self.closed {
                            return Write::Failed;
                        }
                        refused = true;
                    }
                    _ => {
                        // A datagram may fail on its own, for example because of its size; on a
                        // UNIX socket the error is final.
                        self.closed |= self.kind != Kind::Datagram;
                        return Write::Failed;
                    }
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::UdpSocket;

    /// Returns a connection over a UNIX socket pair, and the simulator's end of the pair.
    fn connected(kind: Kind) -> (Connection, Socket) {
        let socket_type = if kind == Kind::Packet { Type::SEQPACKET } else { Type::STREAM };
        let (ours, theirs) = Socket::pair(Domain::UNIX, socket_type, None).unwrap();
        theirs.set_nonblocking(true).unwrap();
        (Connection::new(ours, kind), theirs)
    }

    fn received(connection: &mut Connection) -> Vec<Vec<u8>> {
        connection.set_readable();
        let mut messages = Vec::new();
        while let Received::Message(message) = connection.receive() {
            messages.push(message.to_vec());
        }
        messages
    }

    /// Receives and returns everything that has arrived at `theirs`, the simulator's end of the
    /// socket pair, with a buffer of the simulator's size. Each element is the result of one
    /// receive.
    fn read_all(mut theirs: &Socket) -> Vec<Vec<u8>> {
        let mut buffer = vec![0; 16 << 10];
        let mut pieces = Vec::new();
        while let Ok(length) = theirs.read(&mut buffer) {
            pieces.push(buffer[..length].to_vec());
        }
        pieces
    }

    fn send(connection: &mut Connection, message: &[u8], delivery: Delivery) -> Sent {
        connection.send(&mut message.to_vec(), delivery)
    }

    #[test]
    fn two_lines_from_one_socket_read_are_received_one_by_one() {
        let (mut connection, theirs) = connected(Kind::Stream);
        theirs.send(b"one\ntwo\n").unwrap();
        assert_eq!(connection.receive(), Received::Message(b"one"));
        assert!(connection.is_readable(), "`Poll` does not report the second line");
        assert_eq!(connection.receive(), Received::Message(b"two"));
        assert_eq!(connection.receive(), Received::Drained);
        assert!(!connection.is_readable());
    }

    #[test]
    fn seqpacket_connection_delivers_messages_until_it_is_closed() {
        let (mut connection, theirs) = connected(Kind::Packet);
        theirs.send(b"one").unwrap();
        theirs.send(b"two").unwrap();
        assert_eq!(received(&mut connection), [b"one", b"two"]);
        assert_eq!(send(&mut connection, b"answer", Delivery::MustArrive), Sent::Accepted);
        assert_eq!(read_all(&theirs), [b"answer"]);
        drop(theirs);
        connection.set_readable();
        assert_eq!(connection.receive(), Received::Closed);
        assert_eq!(send(&mut connection, b"late", Delivery::MustArrive), Sent::Failed);
    }

    #[test]
    fn full_socket_drops_only_messages_marked_as_droppable() {
        for kind in [Kind::Packet, Kind::Stream] {
            let (mut connection, theirs) = connected(kind);
            let message = |number: usize| {
                let mut text = format!("{number:06}").into_bytes();
                text.resize(1_000, b'.');
                text
            };
            let mut sent = 0;
            while connection.can_queue() {
                let text = message(sent);
                assert_eq!(send(&mut connection, &text, Delivery::MayBeLost), Sent::Accepted);
                sent += 1;
                assert!(sent < 10_000, "the socket never fills");
            }
            assert!(connection.written() < connection.accepted());
            let text = message(sent);
            assert_eq!(send(&mut connection, &text, Delivery::MayBeLost), Sent::Dropped);
            assert_eq!(send(&mut connection, &text, Delivery::MustArrive), Sent::Accepted);
            sent += 1;
            let mut read = Vec::new();
            while connection.has_outgoing() {
                read.extend(read_all(&theirs).concat());
                connection.flush();
            }
            read.extend(read_all(&theirs).concat());
            let mut expected: Vec<u8> = Vec::new();
            for number in 0..sent {
                expected.extend(message(number));
                expected.extend((kind == Kind::Stream).then_some(b'\n'));
            }
            assert!(read == expected, "{kind:?}: not what was sent, in order");
            assert_eq!(connection.written(), connection.accepted());
            assert_eq!(connection.accepted(), sent as u64);
        }
    }

    #[test]
    fn socket_wait_ends_on_message_timeout_or_close() {
        for kind in [Kind::Packet, Kind::Stream] {
            let (mut connection, theirs) = connected(kind);
            connection.wait(Duration::from_millis(3)).unwrap();
            assert!(!connection.is_readable());
            // The timeout is raised only after a wait that timed out, but lowered at once.
            connection.wait(Duration::from_millis(5)).unwrap();
            assert_eq!(connection.last_wait.limit, Duration::from_millis(5));
            theirs.send(b"one\n").unwrap();
            connection.wait(Duration::from_mins(1)).unwrap();
            assert!(connection.is_readable());
            assert!(matches!(connection.receive(), Received::Message(b"one" | b"one\n")));
            assert_eq!(connection.receive(), Received::Drained);
            connection.wait(Duration::ZERO).unwrap();
            assert_eq!(connection.last_wait.limit, WAIT_MIN);
            drop(theirs);
            connection.wait(Duration::from_mins(1)).unwrap();
            assert_eq!(connection.receive(), Received::Closed);
        }
    }

    #[test]
    fn message_above_the_receivers_size_limit_is_not_sent() {
        let (mut connection, theirs) = connected(Kind::Packet);
        let fits = vec![b'x'; 16_384];
        assert_eq!(send(&mut connection, &fits, Delivery::MayBeLost), Sent::Accepted);
        let large = vec![b'x'; 16_385];
        assert_eq!(send(&mut connection, &large, Delivery::MayBeLost), Sent::Failed);
        assert_eq!(read_all(&theirs), [fits]);
    }

    #[test]
    fn datagrams_not_from_the_simulator_are_dropped() {
        let simulator = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut connection = Connection::open_udp(simulator.local_addr().unwrap().port()).unwrap();
        assert_eq!(send(&mut connection, b"hello", Delivery::MayBeLost), Sent::Accepted);
        let mut buffer = [0; 16];
        let (length, address) = simulator.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"hello");
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"stranger", address).unwrap();
        simulator.send_to(b"", address).unwrap();
        simulator.send_to(b"request", address).unwrap();
        assert_eq!(received(&mut connection), [&b""[..], b"request"]);
    }

    #[test]
    fn simulator_connection_closes_after_many_refused_datagrams() {
        let simulator = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut connection = Connection::open_udp(simulator.local_addr().unwrap().port()).unwrap();
        drop(simulator);
        for _ in 0..3 {
            send(&mut connection, b"message", Delivery::MayBeLost);
        }
        connection.set_readable();
        assert_eq!(connection.receive(), Received::Drained);
        for _ in 0..2 * REFUSALS_MAX {
            send(&mut connection, b"message", Delivery::MayBeLost);
        }
        assert_eq!(connection.receive(), Received::Closed);
    }
}
