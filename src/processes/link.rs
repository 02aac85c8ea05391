//! The process simulator's end of the connection to one replica, over one of the university
//! course's three transports. If the socket is full, a send waits for at most [`FULL_WAIT`] and
//! then drops the message, like the course's simulator.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, SockAddr, Socket, Type};

use super::Protocol;

/// Minimum size of the receive buffer in bytes, which holds the largest possible UDP datagram.
pub(super) const MESSAGE_BYTES_MAX: usize = 1 << 16;
/// Maximum number of bytes that the university course's simulator reads from a SEQPACKET packet.
/// The rest of a longer packet is lost.
const PACKET_BYTES_MAX: usize = 16_384;
/// Size requested for each socket's send and receive buffers, in bytes. The operating system may
/// grant less.
const BUFFER_BYTES: usize = 4 << 20;
/// Maximum time for which a send waits for space in the socket's send buffer before the message is
/// dropped.
const FULL_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
/// Maximum length of a message on a stream socket, in bytes. The simulator ends the connection when
/// a longer message arrives.
const LINE_BYTES_MAX: usize = 8 << 20;

/// The result of an attempt to receive a message from a replica.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// No complete message is available yet.
    Nothing,
    /// A message of this length in bytes was received, and is at the start of the buffer.
    Message(usize),
    /// The received packet, of this length in bytes, is longer than the university course's
    /// simulator can read.
    TooLong(usize),
    /// The connection has ended, for the reason in the text.
    Over(String),
}

/// The result of an attempt to send a message to a replica.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// The operating system has accepted the message for sending.
    Done,
    /// The message was dropped, because the socket's send buffer stayed full for 10 milliseconds
    /// ([`FULL_WAIT`]).
    Full,
    /// The replica has not connected yet; with UDP, it has not sent its hello message yet.
    NotConnected,
    /// The connection has ended, for the reason in the text.
    Over(String),
}

/// The process simulator's end of the connection to one replica.
#[derive(Debug)]
pub(super) enum Link {
    /// A UDP socket on 127.0.0.1. `replica` is the replica's address, known from its hello message;
    /// `None` until then. `last` is the source address of the last received datagram; `None` before
    /// the first.
    Udp { socket: UdpSocket, replica: Option<SocketAddr>, last: Option<SocketAddr> },
    /// A UNIX SEQPACKET socket. The replica connects to `listener`'s socket file, which is named
    /// after the replica's id; `connection` is `None` until then.
    Packet { listener: Socket, connection: Option<Socket> },
    /// A UNIX stream socket with one message per line. The replica connects to `listener`'s socket
    /// file, which is named after the replica's id; `connection` is `None` until then. `unsent`
    /// holds the rest of a line for which the socket's send buffer had no space.
    Stream { listener: Socket, connection: Option<Socket>, lines: LineBuffer, unsent: Vec<u8> },
}

impl Link {
    /// Opens the simulator's socket for one replica. `file` is the path of the UNIX socket file to
    /// create; unused for UDP.
    pub(super) fn open(protocol: Protocol, file: &Path) -> io::Result<Link> {
        match protocol {
            Protocol::Udp => {
                let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
                enlarge(&socket);
                socket.set_nonblocking(true)?;
                socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
                Ok(Link::Udp { socket: socket.into(), replica: None, last: None })
            }
            Protocol::SeqPacket => {
                Ok(Link::Packet { listener: listen(Type::SEQPACKET, file)?, connection: None })
            }
            Protocol::Stream => Ok(Link::Stream {
                listener: listen(Type::STREAM, file)?,
                connection: None,
                lines: LineBuffer::default(),
                unsent: Vec::new(),
            }),
        }
    }

    /// Returns the port of the simulator's UDP socket, which is passed to the replica on its
    /// command line; `None` for UNIX sockets.
    pub(super) fn port(&self) -> Option<u16> {
        match self {
            Link::Udp { socket, .. } => socket.local_addr().ok().map(|address| address.port()),
            _ => None,
        }
    }

    /// Returns whether the replica has connected; with UDP, whether it has sent its hello message.
    pub(super) fn is_connected(&self) -> bool {
        match self {
            Link::Udp { replica, .. } => replica.is_some(),
            Link::Packet { connection, .. } | Link::Stream { connection, .. } => {
                connection.is_some()
            }
        }
    }

    /// Records that the last received UDP datagram was the replica's hello message: from now on,
    /// messages are sent to its source address. Does nothing for UNIX sockets.
    pub(super) fn on_hello(&mut self) {
        if let Link::Udp { replica, last, .. } = self {
            *replica = *last;
        }
    }

    /// Returns the file descriptor to poll and the poll events to wait for.
    pub(super) fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        match self {
            Link::Udp { socket, .. } => (socket.as_fd(), PollFlags::IN),
            Link::Packet { listener, connection } => {
                (connection.as_ref().unwrap_or(listener).as_fd(), PollFlags::IN)
            }
            Link::Stream { listener, connection, unsent, .. } => {
                let write = if unsent.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
                (connection.as_ref().unwrap_or(listener).as_fd(), PollFlags::IN | write)
            }
        }
    }

    /// Receives one message into `buffer`, or accepts the replica's connection if it has not
    /// connected yet. `buffer` must have at least [`MESSAGE_BYTES_MAX`] bytes; it is enlarged for a
    /// longer message from a stream socket.
    pub(super) fn receive(&mut self, buffer: &mut Vec<u8>) -> Received {
        let result = match self {
            Link::Udp { socket, last, .. } => socket.recv_from(buffer).map(|(length, from)| {
                *last = Some(from);
                match length {
                    0 => Received::Over("sent an empty datagram".to_owned()),
                    length => Received::Message(length),
                }
            }),
            Link::Packet { listener, connection } => match connection {
                None => accept(listener, connection),
                Some(socket) => socket.read(buffer).map(|length| match length {
                    0 => Received::Over("closed its connection".to_owned()),
                    length if length > PACKET_BYTES_MAX => Received::TooLong(length),
                    length => Received::Message(length),
                }),
            },
            Link::Stream { listener, connection, lines, unsent } => match connection {
                None => accept(listener, connection),
                Some(socket) => flush(socket, unsent).and_then(|()| lines.receive(socket, buffer)),
            },
        };
        match result {
            Ok(received) => received,
            Err(error) if is_temporary(&error) => Received::Nothing,
            Err(error) => Received::Over(format!("lost its connection ({error})")),
        }
    }

    /// Returns the next complete message among the bytes that were already read from a stream
    /// socket, without reading more from it. Returns [`Received::Nothing`] if there is none, or if
    /// the transport is not a stream socket.
    pub(super) fn buffered(&mut self, buffer: &mut Vec<u8>) -> Received {
        match self {
            Link::Stream { lines, .. } => lines.next(buffer),
            _ => Received::Nothing,
        }
    }

    /// Sends a message to the replica. Waits for at most [`FULL_WAIT`] if the socket's send buffer
    /// is full.
    pub(super) fn send(&mut self, message: &[u8]) -> Sent {
        for attempt in 0..2 {
            match self.try_send(message) {
                Ok(sent) => return sent,
                Err(error) if is_temporary(&error) => {
                    if attempt == 1 || !self.wait_until_writable() {
                        return Sent::Full;
                    }
                }
                Err(error) => return Sent::Over(format!("cannot be sent to ({error})")),
            }
        }
        Sent::Full
    }

    fn try_send(&mut self, message: &[u8]) -> io::Result<Sent> {
        match self {
            Link::Udp { socket, replica: Some(replica), .. } => {
                match socket.send_to(message, *replica) {
                    Ok(_) => Ok(Sent::Done),
                    // The port of a dead replica refused an earlier datagram. If the replica is
                    // alive, this one is lost as any datagram may be.
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(Sent::Done),
                    Err(error) => Err(error),
                }
            }
            Link::Packet { connection: Some(socket), .. } => {
                socket.send(message).map(|_| Sent::Done)
            }
            Link::Stream { connection: Some(socket), unsent, .. } => {
                flush(socket, unsent)?;
                if !unsent.is_empty() {
                    return Err(ErrorKind::WouldBlock.into());
                }
                // The part that does not fit is kept, since a partial line would corrupt the next
                // line too.
                unsent.extend_from_slice(message);
                unsent.push(b'\n');
                flush(socket, unsent).map(|()| Sent::Done)
            }
            _ => Ok(Sent::NotConnected),
        }
    }

    fn wait_until_writable(&self) -> bool {
        let (fd, _) = self.interest();
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
        matches!(poll(&mut fds, Some(&FULL_WAIT)), Ok(1..))
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn enlarge(socket: &Socket) {
    // On failure the default sizes stay.
    drop(socket.set_recv_buffer_size(BUFFER_BYTES));
    drop(socket.set_send_buffer_size(BUFFER_BYTES));
}

fn listen(kind: Type, file: &Path) -> io::Result<Socket> {
    let listener = Socket::new(Domain::UNIX, kind, None)?;
    listener.bind(&SockAddr::unix(file)?)?;
    listener.listen(1)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn accept(listener: &Socket, connection: &mut Option<Socket>) -> io::Result<Received> {
    let (socket, _) = listener.accept()?;
    enlarge(&socket);
    socket.set_nonblocking(true)?;
    *connection = Some(socket);
    Ok(Received::Nothing)
}

/// Writes as much of `unsent` as the socket accepts without blocking, and removes it from `unsent`.
fn flush(socket: &mut Socket, unsent: &mut Vec<u8>) -> io::Result<()> {
    let mut written = 0;
    let result = loop {
        if written == unsent.len() {
            break Ok(());
        }
        match socket.write(&unsent[written..]) {
            Ok(length) => written += length,
            Err(error) if is_temporary(&error) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    unsent.drain(..written);
    result
}

/// Splits the bytes of a stream into messages. As in the university course's simulator, a message
/// ends at a `}` that is followed by a newline.
#[derive(Debug, Default)]
pub(super) struct LineBuffer {
    bytes: Vec<u8>,
    /// Number of bytes at the start of `bytes` that are known not to contain the end of a message.
    searched: usize,
}

impl LineBuffer {
    fn receive(&mut self, socket: &mut Socket, buffer: &mut Vec<u8>) -> io::Result<Received> {
        let length = socket.read(buffer)?;
        if length == 0 {
            return Ok(Received::Over("closed its connection".to_owned()));
        }
        if self.bytes.len() + length > LINE_BYTES_MAX {
            let text = format!("sent {LINE_BYTES_MAX} bytes without a newline after `}}`");
            return Ok(Received::Over(text));
        }
        self.bytes.extend_from_slice(&buffer[..length]);
        Ok(self.next(buffer))
    }

    fn next(&mut self, buffer: &mut Vec<u8>) -> Received {
        let end = self.bytes[self.searched..].windows(2).position(|bytes| bytes == b"}\n");
        let Some(end) = end.map(|at| self.searched + at + 1) else {
            // The last byte may be a brace whose newline has not arrived yet.
            self.searched = self.bytes.len().saturating_sub(1);
            return Received::Nothing;
        };
        if buffer.len() < end {
            buffer.resize(end, 0);
        }
        buffer[..end].copy_from_slice(&self.bytes[..end]);
        self.bytes.drain(..=end);
        self.searched = 0;
        Received::Message(end)
    }
}
