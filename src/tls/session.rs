//! One TLS connection without its socket: decrypts received bytes and encrypts bytes to be sent.
//! The caller passes the socket to each call.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

use super::Failure;
use super::datagrams::{DatagramKeys, SECRET_BYTES, Side};

/// Maximum number of bytes to encrypt at a time. The next ones are encrypted when the socket has
/// accepted these.
const ENCRYPTED_BYTES_MAX: usize = 64 << 10;
/// Exporter label (RFC 5705) with which the keys for datagrams are derived from a connection.
const DATAGRAMS_LABEL: &[u8] = b"EXPORTER-bowline-datagrams-1";
/// Maximum number of bytes per read from the socket.
const READ_BYTES_MAX: usize = 16 << 10;
/// Number of bytes per read from the socket if the caller's buffer may be too small for their
/// decrypted contents: what `rustls` accepts in one call.
const READ_BYTES_MIN: usize = 4 << 10;
/// Maximum size of a TLS record with its header, in bytes, in the version that allows more (TLS
/// 1.2).
const RECORD_BYTES_MAX: usize = 5 + (16 << 10) + 2_048;
/// Approximate memory usage of a connection's keys and buffers, in bytes, without encrypted bytes
/// that wait for the socket.
const SESSION_BYTES: usize = size_of::<ServerConnection>() + (8 << 10);

/// Outcome of [`Session::read`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SessionRead {
    /// The caller's buffer starts with this number of decrypted bytes.
    Bytes(usize),
    /// No decrypted bytes are available until more bytes arrive.
    Nothing,
    /// The other side closed the connection, or the connection failed.
    Closed,
}

/// One TLS connection, client or server side.
pub(crate) struct Session {
    connection: Connection,
    /// Number of decrypted bytes that the caller has not read yet.
    decrypted: usize,
    /// Whether the other side has closed its sending direction.
    has_ended: bool,
    failure: Option<Failure>,
}

impl Session {
    /// Creates the server side of a connection.
    ///
    /// # Errors
    /// If the operating system provides no random numbers.
    pub(crate) fn accept(config: Arc<ServerConfig>) -> io::Result<Session> {
        let connection = ServerConnection::new(config).map_err(io::Error::other)?;
        Ok(Session::new(connection.into()))
    }

    /// Creates the client side of a connection to the server `name`, whose certificate must contain
    /// that name.
    ///
    /// # Errors
    /// If the operating system provides no random numbers.
    pub(crate) fn connect(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Session> {
        let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
        Ok(Session::new(connection.into()))
    }

    fn new(mut connection: Connection) -> Session {
        // `Writer` limits the buffer instead.
        connection.set_buffer_limit(None);
        Session { connection, decrypted: 0, has_ended: false, failure: None }
    }

    /// Returns whether the handshake is still in progress.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Returns whether [`Session::read`] can return decrypted bytes without reading from the
    /// socket.
    pub(crate) fn has_decrypted(&self) -> bool {
        self.decrypted > 0
    }

    /// Returns whether encrypted bytes wait to be written to the socket.
    pub(crate) fn wants_write(&self) -> bool {
        self.connection.wants_write()
    }

    /// Returns why the connection failed; `None` if it has not failed.
    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// Returns the other side's certificate, which has been verified; `None` before the end of the
    /// handshake, or if the other side presented none.
    pub(crate) fn certificate(&self) -> Option<&CertificateDer<'static>> {
        let chain = self.connection.peer_certificates().filter(|_| !self.is_handshaking());
        chain.and_then(<[_]>::first)
    }

    /// Derives the keys for datagrams between the two sides; `None` before the end of the
    /// handshake.
    pub(crate) fn datagram_keys(&self) -> Option<DatagramKeys> {
        let side = match &self.connection {
            Connection::Client(_) => Side::Connecting,
            Connection::Server(_) => Side::Accepting,
        };
        let secret = [0; SECRET_BYTES];
        let secret = self.connection.export_keying_material(secret, DATAGRAMS_LABEL, None).ok()?;
        Some(DatagramKeys::new(&secret, side))
    }

    /// Returns the approximate memory usage of the connection, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        SESSION_BYTES + if self.wants_write() { ENCRYPTED_BYTES_MAX } else { 0 }
    }

    /// Reads from the socket at most once, decrypts, and stores decrypted bytes at the beginning of
    /// `space`. The rest of `space` may be overwritten. Sets `is_empty` if the socket has no more
    /// bytes. Replies of the protocol itself, such as those of the handshake, wait for
    /// [`Session::write`].
    ///
    /// # Errors
    /// If the read fails or would block.
    pub(crate) fn read(
        &mut self,
        socket: &mut impl Read,
        space: &mut [u8],
        is_empty: &mut bool,
    ) -> io::Result<SessionRead> {
        if self.decrypted > 0 || self.has_ended || self.failure.is_some() {
            return Ok(self.decrypt(&[], space));
        }
        // Bytes received earlier may be part of the same record.
        if space.len() >= 2 * READ_BYTES_MAX + RECORD_BYTES_MAX {
            let (space, buffer) = space.split_at_mut(space.len() - READ_BYTES_MAX);
            return self.receive(socket, buffer, space, is_empty);
        }
        self.receive(socket, &mut [0; READ_BYTES_MIN], space, is_empty)
    }

    fn receive(
        &mut self,
        socket: &mut impl Read,
        buffer: &mut [u8],
        space: &mut [u8],
        is_empty: &mut bool,
    ) -> io::Result<SessionRead> {
        let count = socket.read(buffer)?;
        *is_empty = count < buffer.len();
        // Messages carry their length, so a truncated stream is noticed even without a closing
        // alert.
        self.has_ended = count == 0;
        Ok(self.decrypt(&buffer[..count], space))
    }

    fn decrypt(&mut self, mut received: &[u8], space: &mut [u8]) -> SessionRead {
        let mut count = self.take(space);
        while !received.is_empty() && self.failure.is_none() {
            // It copies up to `READ_BYTES_MIN` bytes, and fails only if it has no space for them.
            if self.connection.read_tls(&mut received).is_err() {
                let error = rustls::Error::General("a record is too long".to_owned());
                self.failure = Some(Failure::from(&error));
                break;
            }
            match self.connection.process_new_packets() {
                Ok(state) => {
                    self.decrypted = state.plaintext_bytes_to_read();
                    self.has_ended |= state.peer_has_closed();
                }
                Err(error) => self.failure = Some(Failure::from(&error)),
            }
            count += self.take(&mut space[count..]);
        }
        match count {
            // Bytes decrypted before a failure are discarded: the connection is closed anyway.
            _ if self.failure.is_some() => SessionRead::Closed,
            0 if self.has_ended => SessionRead::Closed,
            0 => SessionRead::Nothing,
            count => SessionRead::Bytes(count),
        }
    }

    /// Copies decrypted bytes to `space`. Returns their number.
    fn take(&mut self, space: &mut [u8]) -> usize {
        if self.decrypted == 0 || space.is_empty() {
            return 0;
        }
        let count = self.connection.reader().read(space).unwrap_or(0);
        self.decrypted -= count.min(self.decrypted);
        count
    }

    /// Writes encrypted bytes until none are left or the socket would block. Returns whether none
    /// are left.
    ///
    /// # Errors
    /// If writing to the socket fails for another reason.
    pub(crate) fn write(&mut self, socket: &mut impl Write) -> io::Result<bool> {
        while self.connection.wants_write() {
            match self.connection.write_tls(socket) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Returns a writer that encrypts at most [`ENCRYPTED_BYTES_MAX`] bytes. Then its writes fail
    /// with [`ErrorKind::WouldBlock`].
    pub(crate) fn writer(&mut self) -> impl Write {
        Writer { connection: &mut self.connection, left: ENCRYPTED_BYTES_MAX }
    }

    /// Queues the alert that this side closes its sending direction (`close_notify`).
    pub(crate) fn end(&mut self) {
        self.connection.send_close_notify();
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("failure", &self.failure).finish_non_exhaustive()
    }
}

struct Writer<'c> {
    connection: &'c mut Connection,
    left: usize,
}

impl Writer<'_> {
    fn note(&mut self, written: io::Result<usize>) -> io::Result<usize> {
        self.left -= written.as_ref().copied().unwrap_or(0);
        written
    }
}

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let count = bytes.len().min(self.left);
        let written = self.connection.writer().write(&bytes[..count]);
        self.note(written)
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        // Small slices share one TLS record.
        let mut total = 0;
        let whole = slices.iter().take_while(|slice| {
            total += slice.len();
            total <= self.left
        });
        match whole.count() {
            0 => self.write(slices.first().map_or(&[], |slice| slice)),
            count => {
                let written = self.connection.writer().write_vectored(&slices[..count]);
                self.note(written)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::Authority;
    use crate::tls::{
        ClientCertificates, FailureKind, PeerDomain, client_config, peer_configs, server_config,
    };
    use crate::types::NodeId;

    /// A pipe that accepts at most `capacity` bytes, and returns at most `step` bytes per read.
    struct Pipe {
        bytes: Vec<u8>,
        capacity: usize,
        step: usize,
    }

    impl Pipe {
        fn new(capacity: usize, step: usize) -> Pipe {
            Pipe { bytes: Vec::new(), capacity, step }
        }
    }

    impl Read for Pipe {
        fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
            if self.bytes.is_empty() {
                return Err(ErrorKind::WouldBlock.into());
            }
            let count = space.len().min(self.step).min(self.bytes.len());
            space[..count].copy_from_slice(&self.bytes[..count]);
            self.bytes.drain(..count);
            Ok(count)
        }
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.capacity - self.bytes.len());
            self.bytes.extend_from_slice(&bytes[..count]);
            if count == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(count) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Two connected sides, and the pipes that carry the bytes to each of them.
    struct Pair {
        sides: [Session; 2],
        pipes: [Pipe; 2],
    }

    impl Pair {
        fn new(client: Session, server: Session, capacity: usize, step: usize) -> Pair {
            let pipes = [Pipe::new(capacity, step), Pipe::new(capacity, step)];
            Pair { sides: [client, server], pipes }
        }

        /// Writes on both sides, and then reads on side `at` into `space`.
        fn read(&mut self, at: usize, space: &mut [u8]) -> SessionRead {
            for side in 0..2 {
                self.sides[side].write(&mut self.pipes[1 - side]).unwrap();
            }
            let mut is_empty = false;
            match self.sides[at].read(&mut self.pipes[at], space, &mut is_empty) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => SessionRead::Nothing,
                read => read.unwrap(),
            }
        }

        /// Completes the handshake. Returns false if a side rejects it.
        fn shake_hands(&mut self) -> bool {
            for _ in 0..2_000 {
                for at in 0..2 {
                    if self.read(at, &mut [0; 64]) == SessionRead::Closed {
                        return false;
                    }
                }
                let is_complete = |side: &Session| !side.is_handshaking() && !side.wants_write();
                if self.sides.iter().all(is_complete)
                    && self.pipes.iter().all(|pipe| pipe.bytes.is_empty())
                {
                    return true;
                }
            }
            false
        }
    }

    fn of_client(authority: &Authority, certificates: ClientCertificates) -> Pair {
        let files = authority.issue(&["localhost"], 3_000);
        let client = client_config(&authority.ca(), None).unwrap();
        let client = Session::connect(client, "localhost".try_into().unwrap()).unwrap();
        let server = Session::accept(server_config(&files, certificates).unwrap()).unwrap();
        Pair::new(client, server, 5_000, 700)
    }

    #[test]
    fn bytes_arrive_in_order_through_narrow_pipes_and_small_buffers() {
        let mut pair = of_client(&Authority::new(), ClientCertificates::Ignored);
        assert!(pair.shake_hands());
        let sent: Vec<u8> = (0..300_000_u64).map(|at| (at * at % 251) as u8).collect();
        for (from, space) in [(0, 100), (1, 60_000)] {
            let (mut given, mut received) = (0, Vec::new());
            while received.len() < sent.len() {
                if !pair.sides[from].wants_write() && given < sent.len() {
                    given += pair.sides[from].writer().write(&sent[given..]).unwrap();
                    assert!(pair.sides[from].held_bytes() <= SESSION_BYTES + ENCRYPTED_BYTES_MAX);
                }
                let mut space = vec![0; space];
                if let SessionRead::Bytes(count) = pair.read(1 - from, &mut space) {
                    received.extend_from_slice(&space[..count]);
                }
            }
            assert_eq!(received, sent);
        }
    }

    #[test]
    fn encrypted_bytes_are_bounded_and_small_slices_share_a_record() {
        let mut pair = of_client(&Authority::new(), ClientCertificates::Ignored);
        assert!(pair.shake_hands());
        let mut writer = pair.sides[0].writer();
        let slices = [b"ab".as_slice(), b"cd", b"ef"].map(io::IoSlice::new);
        assert_eq!(writer.write_vectored(&slices).unwrap(), 6);
        let large = vec![1; 1 << 20];
        let slices = [large.as_slice(), b"x"].map(io::IoSlice::new);
        assert_eq!(writer.write_vectored(&slices).unwrap(), ENCRYPTED_BYTES_MAX - 6);
        assert_eq!(writer.write(b"x").unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(writer);
        let mut space = vec![0; 40_000];
        let read = loop {
            match pair.read(1, &mut space) {
                SessionRead::Nothing => {}
                read => break read,
            }
        };
        assert_eq!(read, SessionRead::Bytes(6));
        assert_eq!(&space[..6], b"abcdef");
    }

    #[test]
    fn corrupted_record_closes_the_session_unread() {
        let mut pair = of_client(&Authority::new(), ClientCertificates::Ignored);
        assert!(pair.shake_hands());
        pair.sides[0].writer().write_all(b"secret").unwrap();
        pair.sides[0].write(&mut pair.pipes[1]).unwrap();
        *pair.pipes[1].bytes.last_mut().unwrap() ^= 1;
        assert_eq!(pair.read(1, &mut [0; 64]), SessionRead::Closed);
        assert_eq!(pair.sides[1].failure().unwrap().kind(), FailureKind::Protocol);
    }

    #[test]
    fn replayed_record_closes_the_session() {
        let mut pair = of_client(&Authority::new(), ClientCertificates::Ignored);
        assert!(pair.shake_hands());
        pair.sides[0].writer().write_all(b"once").unwrap();
        pair.sides[0].write(&mut pair.pipes[1]).unwrap();
        let record = pair.pipes[1].bytes.clone();
        assert_eq!(pair.read(1, &mut [0; 64]), SessionRead::Bytes(4));
        pair.pipes[1].bytes = record;
        assert_eq!(pair.read(1, &mut [0; 64]), SessionRead::Closed);
    }

    /// Damages `bytes` in one of four ways, at a position that `seed` determines.
    fn damage(bytes: &mut Vec<u8>, seed: u64) {
        let number = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
        let at = usize::try_from(number % bytes.len().max(1) as u64).unwrap();
        match seed % 4 {
            0 => bytes.truncate(at),
            1 => bytes.splice(at..at, number.to_le_bytes()).for_each(drop),
            2 => bytes.drain(at..(at + 9).min(bytes.len())).for_each(drop),
            _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (number % 8)),
        }
    }

    #[test]
    fn damaged_bytes_yield_nothing_that_was_not_sent() {
        let authority = Authority::new();
        let files = authority.issue(&["localhost"], 3_000);
        let server = server_config(&files, ClientCertificates::Ignored).unwrap();
        let client = client_config(&authority.ca(), None).unwrap();
        for seed in 0..400 {
            let side = Session::connect(Arc::clone(&client), "localhost".try_into().unwrap());
            let other = Session::accept(Arc::clone(&server)).unwrap();
            let mut pair = Pair::new(side.unwrap(), other, 1 << 20, 1 << 20);
            // Without a handshake before it, the damage hits the handshake.
            if seed % 8 < 4 {
                assert!(pair.shake_hands());
            }
            let sent: Vec<u8> = (0..40_000_u64).map(|at| (at * seed % 241) as u8).collect();
            pair.sides[0].writer().write_all(&sent).unwrap();
            pair.sides[0].write(&mut pair.pipes[1]).unwrap();
            damage(&mut pair.pipes[1].bytes, seed);
            let mut received = Vec::new();
            for _ in 0..20 {
                let mut space = vec![0; 40_000];
                match pair.read(1, &mut space) {
                    SessionRead::Bytes(count) => received.extend_from_slice(&space[..count]),
                    SessionRead::Nothing => {}
                    SessionRead::Closed => break,
                }
                pair.read(0, &mut [0; 64]);
            }
            assert!(sent.starts_with(&received), "seed {seed}");
        }
    }

    #[test]
    fn plain_text_and_missing_certificates_are_rejected() {
        let authority = Authority::new();
        let mut pair = of_client(&authority, ClientCertificates::Required);
        assert!(!pair.shake_hands());
        assert_eq!(pair.sides[1].failure().unwrap().kind(), FailureKind::NoCertificate);
        let mut pair = of_client(&authority, ClientCertificates::Optional);
        assert!(pair.shake_hands());
        let mut pair = of_client(&authority, ClientCertificates::Optional);
        pair.pipes[1].bytes = b"*1\r\n$4\r\nPING\r\n".to_vec();
        let mut is_empty = false;
        let read = pair.sides[1].read(&mut pair.pipes[1], &mut [0; 64], &mut is_empty);
        assert_eq!(read.unwrap(), SessionRead::Closed);
        assert_eq!(pair.sides[1].failure().unwrap().kind(), FailureKind::NotTls);
    }

    #[test]
    fn replicas_accept_only_valid_certificates_of_their_authority() {
        let (own, foreign) = (Authority::new(), Authority::new());
        let domain = PeerDomain::new("test.bowline").unwrap();
        let pair = |from: &crate::tls::TlsFiles, to: &crate::tls::TlsFiles| {
            let (from, to) = (peer_configs(from).unwrap(), peer_configs(to).unwrap());
            let name = domain.server_name(NodeId(2));
            let client = Session::connect(from.outgoing, name).unwrap();
            Pair::new(client, Session::accept(to.incoming).unwrap(), 1 << 16, 1 << 16)
        };
        let names = ["replica-1.test.bowline", "replica-2.test.bowline"];
        let [one, two] = names.map(|name| own.issue(&[name], 3_000));
        let mut right = pair(&one, &two);
        assert!(right.shake_hands());
        assert!(domain.names(right.sides[1].certificate().unwrap(), NodeId(1)));
        assert!(domain.names(right.sides[0].certificate().unwrap(), NodeId(2)));
        let [mut keys, mut others] = right.sides.each_ref().map(|it| it.datagram_keys().unwrap());
        let mut sealed = Vec::new();
        keys.seal(b"datagram", &mut sealed);
        assert_eq!(others.open(&mut sealed), Some(&b"datagram"[..]));
        let foreign = names.map(|name| foreign.issue(&[name], 3_000));
        let expired = names.map(|name| own.issue(&[name], 2_001));
        let mixed = |files: &crate::tls::TlsFiles| crate::tls::TlsFiles {
            ca: one.ca.clone(),
            ..files.clone()
        };
        for (from, to) in [
            (&foreign[0], &two),
            (&one, &foreign[1]),
            (&mixed(&foreign[0]), &two),
            (&expired[0], &two),
            (&one, &expired[1]),
            // Another replica than the expected one answers.
            (&one, &one),
        ] {
            assert!(!pair(from, to).shake_hands(), "{from:?} {to:?}");
        }
    }
}
