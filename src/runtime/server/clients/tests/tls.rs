//! Clients with TLS, and bytes that are not what a port expects.

use std::io::{ErrorKind, Read as _, Write as _};

use super::*;
use crate::tls::testing::Authority;
use crate::tls::{ClientCertificates, Session, SessionRead, client_config, server_config};

/// A client with TLS.
struct TlsClient {
    stream: TcpStream,
    session: Session,
    received: Vec<u8>,
}

impl TlsClient {
    /// Connects to the fixture's server, without a handshake.
    fn connect(fixture: &mut Fixture, authority: &Authority) -> TlsClient {
        let config = client_config(&authority.ca(), None).unwrap();
        let session = Session::connect(config, "localhost".try_into().unwrap()).unwrap();
        TlsClient { stream: connect(fixture, authority), session, received: Vec::new() }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.session.writer().write_all(bytes).unwrap();
    }

    /// Exchanges bytes with the server once. Returns false if it has closed the connection.
    fn exchange(&mut self) -> bool {
        if self.session.write(&mut self.stream).is_err() {
            return false;
        }
        let mut space = vec![0; 40_000];
        match self.session.read(&mut self.stream, &mut space, &mut false) {
            Ok(SessionRead::Bytes(count)) => self.received.extend_from_slice(&space[..count]),
            Ok(SessionRead::Closed) => return false,
            Ok(SessionRead::Nothing) => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
        true
    }
}

/// Connects to the port for TLS, without a handshake.
fn connect(fixture: &mut Fixture, authority: &Authority) -> TcpStream {
    let files = authority.issue(&["localhost"], 3_000);
    let config = server_config(&files, ClientCertificates::Ignored).unwrap();
    fixture.tls = Some(config);
    let stream = fixture.connect();
    fixture.tls = None;
    stream
}

/// Returns whether the server has closed the connection. Nothing but alerts may arrive on it.
fn is_closed(stream: &mut TcpStream) -> Option<()> {
    let mut space = [0; 64];
    match stream.read(&mut space) {
        Ok(0) => Some(()),
        Ok(count) => {
            assert_eq!(space[0], 21, "not an alert: {:?}", &space[..count]);
            None
        }
        Err(error) => (error.kind() != ErrorKind::WouldBlock).then_some(()),
    }
}

#[test]
fn pipelined_commands_of_a_tls_client_get_replies() {
    let (mut fixture, authority) = (Fixture::new(), Authority::new());
    let mut client = TlsClient::connect(&mut fixture, &authority);
    client.send(b"PING\r\n");
    fixture.until("a reply", |_| {
        assert!(client.exchange());
        (client.received == b"+PONG\r\n").then_some(())
    });
    let argument = vec![b'x'; 100_000];
    for _ in 0..20 {
        client.received.clear();
        let mut request = format!("*2\r\n$4\r\nECHO\r\n${}\r\n", argument.len()).into_bytes();
        request.extend_from_slice(&argument);
        request.extend_from_slice(b"\r\nPING\r\n");
        let (mut sent, length) = (0, 9 + argument.len() + 2 + 7);
        fixture.until("an echo", |_| {
            if !client.session.wants_write() && sent < request.len() {
                sent += client.session.writer().write(&request[sent..]).unwrap();
            }
            assert!(client.exchange());
            (client.received.len() == length).then_some(())
        });
        assert!(client.received.ends_with(b"x\r\n+PONG\r\n"));
    }
    assert_eq!(fixture.clients.context.traffic.commands, 41);
}

#[test]
fn unread_replies_to_a_tls_client_stay_within_its_budget() {
    let (mut fixture, authority) = (Fixture::with_small_buffers(), Authority::new());
    let mut client = TlsClient::connect(&mut fixture, &authority);
    let handshaking = fixture.clients.memory.used_bytes();
    fixture.until("the handshake", |_| {
        client.exchange();
        (!client.session.is_handshaking()).then_some(())
    });
    let request = b"*2\r\n$4\r\nECHO\r\n$8000\r\n".iter().copied();
    let request: Vec<u8> = request.chain([b'x'; 8_000]).chain(*b"\r\n").collect();
    let mut echoed = 0;
    for _ in 0..3_000 {
        if !client.session.wants_write() && client.session.writer().write_all(&request).is_ok() {
            echoed += 1;
        }
        client.session.write(&mut client.stream).unwrap();
        fixture.pass();
        let used = fixture.clients.memory.used_bytes();
        assert!(used <= handshaking + MEMORY, "{used} bytes after {echoed} requests");
    }
    assert!(echoed > 10, "{echoed}");
    client.received.clear();
    fixture.until("all replies", |_| {
        assert!(client.exchange());
        (client.received.len() == echoed * (7 + 8_000 + 2)).then_some(())
    });
}

#[test]
fn plain_commands_at_the_tls_port_are_not_executed() {
    for bytes in
        [&b"PING\r\n"[..], b"*1\r\n$8\r\nFLUSHALL\r\n", b"GET / HTTP/1.1\r\n\r\n", &[0; 90]]
    {
        let (mut fixture, authority) = (Fixture::new(), Authority::new());
        let mut stream = connect(&mut fixture, &authority);
        stream.write_all(bytes).unwrap();
        fixture.until("the end", |_| is_closed(&mut stream));
        assert_eq!(fixture.clients.len(), 0);
        assert_eq!(fixture.clients.context.traffic.commands, 0);
    }
}

#[test]
fn handshake_at_the_plain_port_is_refused_and_no_value_is_taken_for_one() {
    let mut fixture = Fixture::new();
    let mut stream = fixture.connect();
    stream.write_all(b"*2\r\n$4\r\nECHO\r\n$5\r\n").unwrap();
    for _ in 0..10 {
        fixture.pass();
    }
    stream.write_all(b"\x16\x03\x01\r\n\r\n").unwrap();
    let mut space = [0; 64];
    let count = fixture.until("the echo", |_| stream.read(&mut space).ok());
    assert_eq!(&space[..count], b"$5\r\n\x16\x03\x01\r\n\r\n");
    stream.write_all(b"\x16\x03\x01\x02\x00\x01\nPING\r\n").unwrap();
    fixture.until("the end", |_| is_closed(&mut stream));
    assert_eq!(fixture.clients.context.traffic.commands, 1);
}

#[test]
fn handshake_that_takes_too_long_is_closed() {
    let (mut fixture, authority) = (Fixture::new(), Authority::new());
    let mut silent = connect(&mut fixture, &authority);
    let mut half = TlsClient::connect(&mut fixture, &authority);
    let mut hello = Vec::new();
    half.session.write(&mut hello).unwrap();
    let mut whole = TlsClient::connect(&mut fixture, &authority);
    fixture.until("the handshake", |_| {
        whole.exchange();
        let is_complete = !whole.session.is_handshaking() && !whole.session.wants_write();
        is_complete.then_some(())
    });
    // The server may still have to read the end of it.
    for _ in 0..10 {
        fixture.pass();
    }
    // One byte per second.
    for byte in &hello[..9] {
        half.stream.write_all(&[*byte]).unwrap();
        fixture.now = fixture.now + Duration::from_secs(1);
        fixture.pass();
        fixture.clients.sweep(fixture.now, fixture.poll.registry());
        assert_eq!(fixture.clients.len(), 3);
    }
    fixture.now = fixture.now + Duration::from_secs(2);
    fixture.pass();
    fixture.clients.sweep(fixture.now, fixture.poll.registry());
    assert_eq!(fixture.clients.len(), 1);
    for stream in [&mut silent, &mut half.stream] {
        fixture.until("the end", |_| is_closed(stream));
    }
    whole.send(b"PING\r\n");
    fixture.until("a reply", |_| {
        whole.exchange();
        (whole.received == b"+PONG\r\n").then_some(())
    });
}
