//! Hostile input on every port of a cluster that is serving other clients: random bytes, bytes for
//! another kind of port, truncated requests, slow senders, half-open connections, and floods of
//! connections and datagrams. It must reveal nothing, change neither the term nor the leader, and
//! cost little memory.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bowline::sim::rng::Rng;

use crate::client::{Client, command};
use crate::load::StopAtEnd;
use crate::replicas::{Cluster, TIMEOUT, free_port};
use crate::resident_bytes;

const SECRET: &[u8] = b"private value";
/// Number of inputs for each port.
const INPUTS: usize = 60;
/// Number of connections that are left open at each port.
const HALF_OPEN: usize = 150;
/// Number of connections that are made and closed at once at each port.
const FLOOD: usize = 500;
/// Number of datagrams.
const DATAGRAMS: usize = 3_000;
/// Maximum growth of the resident memory of a replica, in bytes.
const GROWTH_MAX: u64 = 96 << 20;

/// The beginning of a TLS handshake, cut off.
const TLS_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

/// Returns up to `max` random bytes.
fn random_bytes(rng: &mut Rng, max: usize) -> Vec<u8> {
    let length = rng.index(max + 1);
    (0..length).map(|_| rng.next_u64().to_le_bytes()[0]).collect()
}

/// Returns bytes that a port may receive from a program that is not its client.
fn input(rng: &mut Rng, number: usize) -> Vec<u8> {
    let random = random_bytes(rng, 3_000);
    match number % 6 {
        0 => random,
        // Each kind of port receives bytes meant for the others.
        1 => [TLS_HELLO, &random].concat(),
        2 => [b"BOWL\x0a\x00\x00\x00".as_slice(), &random].concat(),
        3 => [b"GET /metrics HTTP/1.1\r\nhost: x\r\nx: ".as_slice(), &random].concat(),
        // Declared lengths that are far longer than the bytes that follow.
        4 => [b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$67108864\r\n".as_slice(), &random].concat(),
        _ => b"*1048576\r\n$1\r\nx\r\n".repeat(1 + rng.index(40)),
    }
}

fn connect(port: u16) -> TcpStream {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap()
}

/// Sends bytes, ends the connection's sending side, and returns the answer.
fn answer_to(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(port);
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            panic!("port {port} has not closed the connection")
        }
        Ok(_) | Err(_) => answer,
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Attacks a port in all ways. Returns the connections that are still open.
fn attack(port: u16, seed: u64) -> Vec<TcpStream> {
    let mut rng = Rng::new(seed);
    for number in 0..INPUTS {
        let bytes = input(&mut rng, number);
        let answer = answer_to(port, &bytes);
        assert!(!contains(&answer, SECRET), "port {port}, input {number}: {answer:?}");
    }
    for _ in 0..FLOOD {
        drop(connect(port));
    }
    let mut open = Vec::new();
    for number in 0..HALF_OPEN {
        let mut stream = connect(port);
        let bytes = input(&mut rng, number);
        let _ = stream.write_all(&bytes[..rng.index(bytes.len() + 1)]);
        open.push(stream);
    }
    // A slow sender gets no further than a fast one.
    let mut slow = connect(port);
    for byte in b"*2\r\n$3\r\nGET\r\n$6\r\nsecre" {
        if slow.write_all(&[*byte]).is_err() {
            break;
        }
        thread::sleep(Duration::from_millis(2));
    }
    open.push(slow);
    open
}

/// Sends random datagrams, some of which start like those of peers.
fn send_datagrams(to: u16, seed: u64) {
    let mut rng = Rng::new(seed);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut space = [0; 2_048];
    for number in 0..DATAGRAMS {
        let mut bytes = random_bytes(&mut rng, 1_500);
        if number % 2 == 0 {
            bytes.splice(..bytes.len().min(4), b"BOWL".iter().copied());
        }
        let _ = socket.send_to(&bytes, SocketAddr::from((Ipv4Addr::LOCALHOST, to)));
        while let Ok(length) = socket.recv(&mut space) {
            assert!(length <= bytes.len().max(64), "an answer larger than the question");
            assert!(!contains(&space[..length], SECRET));
        }
    }
}

/// Reads and writes until `stop`, and counts the rounds.
fn serve_meanwhile(address: SocketAddr, stop: &AtomicBool, rounds: &AtomicU64) {
    let mut client = Client::connect(address).unwrap();
    while !stop.load(Ordering::Relaxed) {
        assert_eq!(client.call(&[b"SET", b"own", b"1"]).unwrap(), b"+OK\r\n");
        assert_eq!(client.call(&[b"GET", b"own"]).unwrap(), b"$1\r\n1\r\n");
        rounds.fetch_add(1, Ordering::Relaxed);
    }
}

fn assert_survives(mut cluster: Cluster, encrypted: bool) {
    cluster.wait_until_all_serve();
    let http_ports: Vec<u16> = cluster.ports.iter().map(|_| free_port()).collect();
    for (at, port) in http_ports.iter().enumerate() {
        cluster.kill(at);
        let mut command = cluster.command(at);
        command.args(["--http-listen", &format!("127.0.0.1:{port}")]);
        cluster.start_as(at, command);
        cluster.wait_until_all_serve();
    }
    let mut client = Client::connect(cluster.address(0)).unwrap();
    assert_eq!(client.call(&[b"SET", b"secret", SECRET]).unwrap(), b"+OK\r\n");
    let (leader, term) = (cluster.leader(), cluster.term());
    let before: Vec<Option<u64>> = (0..3).map(|at| resident_bytes(cluster.process(at))).collect();
    let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    let open = thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for at in 0..3 {
            let (address, stop, rounds) = (cluster.address(at), &stop, &rounds);
            scope.spawn(move || serve_meanwhile(address, stop, rounds));
        }
        let mut open = Vec::new();
        for at in [leader, (leader + 1) % 3] {
            let mut ports = vec![cluster.ports[at], cluster.peer_port(at), http_ports[at]];
            ports.extend(encrypted.then(|| cluster.certificates(at).1));
            for (number, port) in ports.into_iter().enumerate() {
                open.extend(attack(port, (at * 10 + number) as u64));
            }
            send_datagrams(cluster.peer_port(at), at as u64);
        }
        open
    });
    assert!(rounds.load(Ordering::Relaxed) > 50, "{rounds:?}");
    // While all these connections are open.
    cluster.wait_until_all_serve();
    assert_eq!((cluster.leader(), cluster.term()), (leader, term), "{}", cluster.logs());
    for (at, before) in before.into_iter().enumerate() {
        assert_eq!(cluster.info::<u64>(at, "raft_terms_rejected"), 0);
        assert_eq!(cluster.info::<u64>(at, "raft_conflicts_rejected"), 0);
        if let (Some(before), Some(after)) = (before, resident_bytes(cluster.process(at))) {
            assert!(after <= before + GROWTH_MAX, "replica {at}: {before} to {after} bytes");
        }
        assert!(!cluster.log(at).contains("private value"), "{}", cluster.log(at));
    }
    assert_eq!(client.call(&[b"GET", b"secret"]).unwrap(), [b"$13\r\n", SECRET, b"\r\n"].concat());
    // None of it was a request.
    assert_eq!(client.call(&[b"DBSIZE"]).unwrap(), b":3\r\n");
    drop(open);
    let reply = answer_to(cluster.ports[leader], &command(&[b"PING"]));
    assert_eq!(reply, b"+PONG\r\n");
}

#[test]
fn hostile_input_on_plain_ports_has_no_effect() {
    assert_survives(Cluster::start(3, "auto"), false);
}

#[test]
fn hostile_input_on_encrypted_ports_has_no_effect() {
    assert_survives(Cluster::start_secure(3, "auto"), true);
}
