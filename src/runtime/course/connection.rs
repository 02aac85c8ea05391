//! One socket to a simulator, of any of the three kinds that they use: framing, what is left to
//! write, and nothing about what the messages say. Never blocks. Used by the course's door.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::runtime::course::line_buffer::{Line, LineBuffer};

/// Longest message that is taken in. A longer datagram is cut by the kernel and then unreadable,
/// a longer line is skipped.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// What may wait for a socket that takes no more; beyond it, messages that may be lost are.
const OUTGOING_BYTES_MAX: usize = 256 << 10;

/// A simulator that refuses so many datagrams in a row, with none received in between, is gone.
const REFUSALS_MAX: u32 = 200;

/// Shortest wait in the socket: zero would be for ever.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// How messages are kept apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// UDP: a datagram is a message.
    Datagram,
    /// UNIX `SOCK_SEQPACKET`: a packet is a message.
    Packet,
    /// UNIX `SOCK_STREAM`: a line is a message.
    Stream,
}

impl Kind {
    /// Longest message that the other side reads whole: what UDP can carry; the size of the
    /// simulators' buffer for packets; lines have no limit there.
    fn send_bytes_max(self) -> usize {
        match self {
            Kind::Datagram => 65_507,
            Kind::Packet => 16_384,
            Kind::Stream => usize::MAX,
        }
    }
}

/// What [`Connection::receive`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received<'a> {
    /// A whole message.
    Message(&'a [u8]),
    /// A line longer than [`MESSAGE_BYTES_MAX`], which was skipped.
    TooLong,
    /// Nothing for now: wait until the socket is readable.
    Drained,
    /// Nothing ever again.
    Closed,
}

/// Whether a message may be given up when the socket takes no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Delivery {
    /// It may: the protocol sends it again, as with everything between replicas.
    MayBeLost,
    /// It may not: nobody would say it again, as with answers to clients.
    MustArrive,
}

/// What became of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sent {
    /// The socket has it, or it waits in order for the socket to take it.
    Accepted,
    /// Dropped, because too much waits already.
    NoRoom,
    /// It can't be sent: larger than the socket carries, or the other side is gone.
    Failed,
}

/// What the socket did not take at once, in order.
#[derive(Debug, Default)]
struct Outgoing {
    messages: VecDeque<Box<[u8]>>,
    /// Bytes of the first message that the socket has already (streams only).
    written_of_first: usize,
    bytes: usize,
}

/// One socket with its buffers.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Socket,
    kind: Kind,
    /// What the last datagram or packet was read into.
    datagram: Box<[u8]>,
    /// What a stream was read into.
    lines: LineBuffer,
    /// Length of a message in `datagram` that has not been handed out.
    arrived: Option<usize>,
    /// The socket may hold more to read. Cleared once it said that it does not: `Poll` tells of
    /// each arrival only once.
    readable: bool,
    /// Whole lines may wait in `lines`, whatever the socket holds.
    buffered: bool,
    outgoing: Outgoing,
    /// Messages accepted, and of those the ones that the socket has.
    accepted: u64,
    written: u64,
    refusals: u32,
    closed: bool,
    last_wait: Wait,
}

/// How a read waited.
#[derive(Debug)]
struct Wait {
    /// How long at most, as the socket knows it for the next one, too.
    limit: Duration,
    /// Nothing came.
    in_vain: bool,
}

/// What one write came to.
enum Wrote {
    Bytes(usize),
    Later,
    Failed,
}

impl Connection {
    /// A UDP socket on any free port of this machine that speaks with `port` alone.
    pub(super) fn open_udp(port: u16) -> io::Result<Connection> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        // Connected: the kernel then keeps strangers' datagrams away, and a send looks up no route.
        socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
        Ok(Connection::new(socket, Kind::Datagram))
    }

    /// A connection to the UNIX socket at `path`, of whichever kind that one is.
    pub(super) fn open_unix(path: &Path) -> io::Result<Connection> {
        let address = SockAddr::unix(path)?;
        let connect = |socket_type| {
            let socket = Socket::new(Domain::UNIX, socket_type, None)?;
            socket.connect(&address).map(|()| socket)
        };
        // A socket of the other kind says EPROTOTYPE, a system without packets something else;
        // whatever it is, the second try tells what is wrong.
        match connect(Type::SEQPACKET) {
            Ok(socket) => Ok(Connection::new(socket, Kind::Packet)),
            Err(_) => Ok(Connection::new(connect(Type::STREAM)?, Kind::Stream)),
        }
    }

    fn new(socket: Socket, kind: Kind) -> Connection {
        // Left blocking: each call says for itself whether it waits.
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
            last_wait: Wait { limit: Duration::MAX, in_vain: false },
        }
    }

    /// For `Poll`.
    pub(super) fn raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// How messages are kept apart.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// `Poll` says that there is something to read.
    pub(super) fn set_readable(&mut self) {
        self.readable = true;
    }

    /// Whether [`Connection::receive`] is worth a call.
    pub(super) fn is_readable(&self) -> bool {
        self.readable || self.buffered || self.arrived.is_some() || self.closed
    }

    /// Whether something waits for the socket to take it.
    pub(super) fn has_outgoing(&self) -> bool {
        !self.outgoing.messages.is_empty()
    }

    /// Whether messages that must arrive may be added.
    pub(super) fn has_room(&self) -> bool {
        self.outgoing.bytes < OUTGOING_BYTES_MAX
    }

    /// How many messages were accepted so far.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted
    }

    /// How many of the accepted messages have been handed to the socket, which takes them in
    /// order.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// The next message, if one has come.
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

    /// Waits in the socket itself, until something has come or for about `patience`. Where nothing
    /// else has to be waited for, that is one call for a message where `Poll` and a read are two.
    pub(super) fn wait(&mut self, patience: Duration) -> io::Result<()> {
        let patience = patience.max(WAIT_MIN);
        // A wait that is too short does no harm, so the limit is only made longer after one that
        // was in vain: that is, never where messages come and time is short.
        let Wait { limit, in_vain } = self.last_wait;
        if limit > patience || (in_vain && limit < patience) {
            self.socket.set_read_timeout(Some(patience))?;
            self.last_wait.limit = patience;
        }
        self.readable = true;
        self.read(RecvFlags::empty());
        self.last_wait.in_vain = self.arrived.is_none() && !self.buffered;
        Ok(())
    }

    fn read(&mut self, flags: RecvFlags) {
        let stream = self.kind == Kind::Stream;
        let buffer = if stream { self.lines.free() } else { &mut self.datagram };
        let asked = buffer.len();
        match rustix::net::recv(&self.socket, buffer, flags) {
            // Where a datagram may be empty that is a message, if a useless one.
            Ok((0, _)) if self.kind != Kind::Datagram => self.closed = true,
            Ok((length, _)) if stream => {
                self.lines.filled(length);
                self.buffered = true;
                // A stream that gives less than was asked for holds no more, and `Poll` will tell
                // of what comes later: that saves the call that finds nothing.
                self.readable = length == asked;
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
            // An earlier datagram found nobody. Reading takes the error away.
            ErrorKind::ConnectionRefused if self.kind == Kind::Datagram => self.note_refusal(),
            _ => self.closed = true,
        }
    }

    fn note_refusal(&mut self) {
        self.refusals += 1;
        self.closed = self.refusals >= REFUSALS_MAX;
    }

    /// Sends a message; for a stream, ends it with the newline that belongs there.
    pub(super) fn send(&mut self, message: &mut Vec<u8>, delivery: Delivery) -> Sent {
        if message.len() > self.kind.send_bytes_max() || self.closed {
            return Sent::Failed;
        }
        if delivery == Delivery::MayBeLost && !self.has_room() {
            return Sent::NoRoom;
        }
        if self.kind == Kind::Stream {
            message.push(b'\n');
        }
        let mut written = 0;
        if !self.has_outgoing() {
            match self.write(message) {
                Wrote::Bytes(length) if length == message.len() => {
                    self.accepted += 1;
                    self.written += 1;
                    return Sent::Accepted;
                }
                Wrote::Bytes(length) => written = length,
                Wrote::Later => {}
                Wrote::Failed => return Sent::Failed,
            }
            self.outgoing.written_of_first = written;
        }
        self.outgoing.bytes += message.len();
        self.outgoing.messages.push_back(message.as_slice().into());
        self.accepted += 1;
        Sent::Accepted
    }

    /// Hands on what waits, as far as the socket takes it.
    pub(super) fn flush(&mut self) {
        while let Some(message) = self.outgoing.messages.pop_front() {
            let from = self.outgoing.written_of_first;
            match self.write(&message[from..]) {
                Wrote::Bytes(length) if from + length == message.len() => {}
                // Whatever is wrong with this message, those behind it have their own try.
                Wrote::Failed => {}
                Wrote::Bytes(length) => {
                    self.outgoing.written_of_first += length;
                    self.outgoing.messages.push_front(message);
                    continue;
                }
                Wrote::Later => {
                    self.outgoing.messages.push_front(message);
                    return;
                }
            }
            self.outgoing.written_of_first = 0;
            self.outgoing.bytes -= message.len();
            self.written += 1;
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Wrote {
        let mut refused = false;
        loop {
            match rustix::net::send(&self.socket, bytes, SendFlags::DONTWAIT) {
                Ok(length) => return Wrote::Bytes(length),
                Err(error) => match io::Error::from(error).kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock => return Wrote::Later,
                    // What an earlier datagram met with is told to this one, which was not sent:
                    // so once more. Twice in one call would be this one's own.
                    ErrorKind::ConnectionRefused if self.kind == Kind::Datagram => {
                        self.note_refusal();
                        if refused || self.closed {
                            return Wrote::Failed;
                        }
                        refused = true;
                    }
                    _ => {
                        // A datagram may be too large or out of memory; a connection is broken.
                        self.closed |= self.kind != Kind::Datagram;
                        return Wrote::Failed;
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

    /// A connection and the simulator's end of it.
    fn pair(kind: Kind) -> (Connection, Socket) {
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

    /// All that the simulator's end holds, as read in calls of the simulators' size.
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
    fn lines_that_were_read_are_not_forgotten_by_a_caller_that_takes_one_at_a_time() {
        let (mut connection, theirs) = pair(Kind::Stream);
        theirs.send(b"one\ntwo\n").unwrap();
        assert_eq!(connection.receive(), Received::Message(b"one"));
        assert!(connection.is_readable(), "`Poll` will not tell of the second line");
        assert_eq!(connection.receive(), Received::Message(b"two"));
        assert_eq!(connection.receive(), Received::Drained);
        assert!(!connection.is_readable());
    }

    #[test]
    fn packets_are_messages_and_an_end_is_an_end() {
        let (mut connection, theirs) = pair(Kind::Packet);
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
    fn a_full_socket_delays_answers_and_loses_only_what_may_be_lost() {
        for kind in [Kind::Packet, Kind::Stream] {
            let (mut connection, theirs) = pair(kind);
            let message = |number: usize| {
                let mut text = format!("{number:06}").into_bytes();
                text.resize(1_000, b'.');
                text
            };
            let mut sent = 0;
            while connection.has_room() {
                let text = message(sent);
                assert_eq!(send(&mut connection, &text, Delivery::MayBeLost), Sent::Accepted);
                sent += 1;
                assert!(sent < 10_000, "the socket is never full");
            }
            assert!(connection.written() < connection.accepted());
            let text = message(sent);
            assert_eq!(send(&mut connection, &text, Delivery::MayBeLost), Sent::NoRoom);
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
    fn a_wait_ends_with_a_message_with_time_and_with_the_end() {
        for kind in [Kind::Packet, Kind::Stream] {
            let (mut connection, theirs) = pair(kind);
            connection.wait(Duration::from_millis(3)).unwrap();
            assert!(!connection.is_readable());
            // Longer from here on, for nothing came; shorter at once, for something is due.
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
    fn what_no_reader_takes_whole_is_not_sent() {
        let (mut connection, theirs) = pair(Kind::Packet);
        let fits = vec![b'x'; 16_384];
        assert_eq!(send(&mut connection, &fits, Delivery::MayBeLost), Sent::Accepted);
        let large = vec![b'x'; 16_385];
        assert_eq!(send(&mut connection, &large, Delivery::MayBeLost), Sent::Failed);
        assert_eq!(read_all(&theirs), [fits]);
    }

    #[test]
    fn datagrams_come_from_the_simulator_alone() {
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
    fn a_simulator_that_is_gone_is_noticed_in_the_end_and_not_at_once() {
        let simulator = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut connection = Connection::open_udp(simulator.local_addr().unwrap().port()).unwrap();
        drop(simulator);
        for _ in 0..3 {
            send(&mut connection, b"anybody?", Delivery::MayBeLost);
        }
        connection.set_readable();
        assert_eq!(connection.receive(), Received::Drained);
        for _ in 0..2 * REFUSALS_MAX {
            send(&mut connection, b"anybody?", Delivery::MayBeLost);
        }
        assert_eq!(connection.receive(), Received::Closed);
    }
}
