//! The simulator's end of the connection to one replica, in the three forms that the course has
//! had. Nothing here blocks but for a moment: a socket that stays full loses the message, as in
//! the original.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, SockAddr, Socket, Type};

use super::Protocol;

/// Room for the largest datagram.
pub(super) const MESSAGE_BYTES_MAX: usize = 1 << 16;
/// The original reads so much of a packet and cuts the rest.
const PACKET_BYTES_MAX: usize = 16_384;
/// Asked for on both sides of every socket; the system gives what it allows.
const BUFFER_BYTES: usize = 4 << 20;
/// How long a full socket is waited for.
const FULL_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
/// A line longer than this is no message.
const LINE_BYTES_MAX: usize = 8 << 20;

/// What a socket had for us.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// Nothing more for now.
    Nothing,
    /// A message of so many bytes is in the buffer.
    Message(usize),
    /// A packet of so many bytes, more than the original reads.
    TooLong(usize),
    /// The connection is over, for this reason.
    Over(String),
}

/// What became of a message for the replica.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// On its way.
    Done,
    /// The socket stayed full; the message is lost.
    Full,
    /// The replica has not said hello, or not connected.
    NotThere,
    /// The connection broke.
    Over(String),
}

/// One replica's connection.
#[derive(Debug)]
pub(super) enum Link {
    /// A socket of its own on 127.0.0.1; hello says where the replica is.
    Udp { socket: UdpSocket, replica: Option<SocketAddr>, last: Option<SocketAddr> },
    /// A socket file with the replica's name, to which it connects.
    Packet { listener: Socket, connection: Option<Socket> },
    /// The same, with lines on it.
    Stream { listener: Socket, connection: Option<Socket>, lines: Lines, unsent: Vec<u8> },
}

impl Link {
    /// Opens the simulator's side. `file` is where a UNIX socket goes.
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
                lines: Lines::default(),
                unsent: Vec::new(),
            }),
        }
    }

    /// The UDP port to be told to the replica.
    pub(super) fn port(&self) -> Option<u16> {
        match self {
            Link::Udp { socket, .. } => socket.local_addr().ok().map(|address| address.port()),
            _ => None,
        }
    }

    /// Whether the replica is there to be spoken to.
    pub(super) fn is_there(&self) -> bool {
        match self {
            Link::Udp { replica, .. } => replica.is_some(),
            Link::Packet { connection, .. } | Link::Stream { connection, .. } => {
                connection.is_some()
            }
        }
    }

    /// The last datagram was a hello: its sender is the replica.
    pub(super) fn hello(&mut self) {
        if let Link::Udp { replica, last, .. } = self {
            *replica = *last;
        }
    }

    /// What to wait for.
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

    /// Takes one message, or a connection. The buffer holds [`MESSAGE_BYTES_MAX`] and grows for
    /// longer lines.
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
            Err(error) if is_passing(&error) => Received::Nothing,
            Err(error) => Received::Over(format!("broke its connection ({error})")),
        }
    }

    /// A line that came with an earlier one. Only streams have any.
    pub(super) fn buffered(&mut self, buffer: &mut Vec<u8>) -> Received {
        match self {
            Link::Stream { lines, .. } => lines.next(buffer),
            _ => Received::Nothing,
        }
    }

    /// Passes a message on.
    pub(super) fn send(&mut self, message: &[u8]) -> Sent {
        for attempt in 0..2 {
            match self.try_send(message) {
                Ok(sent) => return sent,
                Err(error) if is_passing(&error) => {
                    if attempt == 1 || !self.wait_until_writable() {
                        return Sent::Full;
                    }
                }
                Err(error) => return Sent::Over(format!("can't be sent to ({error})")),
            }
        }
        Sent::Full
    }

    fn try_send(&mut self, message: &[u8]) -> io::Result<Sent> {
        match self {
            Link::Udp { socket, replica: Some(replica), .. } => {
                match socket.send_to(message, *replica) {
                    Ok(_) => Ok(Sent::Done),
                    // What a dead replica's port answered to an earlier datagram. A living one
                    // loses nothing that it would not lose by being slow to bind.
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
                // Half a line would spoil the next one too: what does not fit now waits.
                unsent.extend_from_slice(message);
                unsent.push(b'\n');
                flush(socket, unsent).map(|()| Sent::Done)
            }
            _ => Ok(Sent::NotThere),
        }
    }

    fn wait_until_writable(&self) -> bool {
        let (fd, _) = self.interest();
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
        matches!(poll(&mut fds, Some(&FULL_WAIT)), Ok(1..))
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn enlarge(socket: &Socket) {
    // The defaults hold where the system allows no more.
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

/// Writes what waits, as far as the socket takes it.
fn flush(socket: &mut Socket, unsent: &mut Vec<u8>) -> io::Result<()> {
    let mut written = 0;
    let result = loop {
        if written == unsent.len() {
            break Ok(());
        }
        match socket.write(&unsent[written..]) {
            Ok(length) => written += length,
            Err(error) if is_passing(&error) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    unsent.drain(..written);
    result
}

/// Cuts a stream into messages, at each `}` with a newline behind it, as the original does.
#[derive(Debug, Default)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    /// Up to here no message ends.
    searched: usize,
}

impl Lines {
    fn receive(&mut self, socket: &mut Socket, buffer: &mut Vec<u8>) -> io::Result<Received> {
        let length = socket.read(buffer)?;
        if length == 0 {
            return Ok(Received::Over("closed its connection".to_owned()));
        }
        if self.bytes.len() + length > LINE_BYTES_MAX {
            let text = format!("sent {LINE_BYTES_MAX} bytes without ending a line after `}}`");
            return Ok(Received::Over(text));
        }
        self.bytes.extend_from_slice(&buffer[..length]);
        Ok(self.next(buffer))
    }

    fn next(&mut self, buffer: &mut Vec<u8>) -> Received {
        let end = self.bytes[self.searched..].windows(2).position(|pair| pair == b"}\n");
        let Some(end) = end.map(|place| self.searched + place + 1) else {
            // The last byte may be a brace whose newline is still to come.
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
