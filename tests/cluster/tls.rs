//! Clusters with TLS on all connections: input from unauthenticated senders has no effect, and
//! certificates are replaced while the cluster serves.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bowline::feature_level::FeatureLevel;
use bowline::raft::{PeerMsg, RequestVote};
use bowline::tls::{TlsFiles, client_config, peer_configs};
use bowline::types::{EntryId, Index, NodeId, Term};
use bowline::wire::frame::{self, Frame, Hello, Lane};
use bowline::wire::protocol::{ProtocolVersions, V10};
use bytes::BytesMut;
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::{ClientConnection, Stream};

use crate::client::{Client, Connector};
use crate::replicas::{CLUSTER, Cluster, TIMEOUT, free_port, make_certificates};

/// The term in forged messages, which the cluster must never reach.
const FORGED: u64 = 1 << 40;

/// A certificate authority of the test, which signs certificates that `bowline admin certs` does
/// not.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Writes a certificate with this name, valid until the given year, and its private key.
    fn issue(&self, cert: &Path, key: &Path, name: &str, until: i32) {
        let names = [name, "localhost", "127.0.0.1"].map(str::to_owned);
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(2_000, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let own = KeyPair::generate().unwrap();
        // The key is written first, so that a server that reads in between keeps the previous pair.
        fs::write(key, own.serialize_pem()).unwrap();
        fs::write(cert, params.signed_by(&own, &self.0).unwrap().pem()).unwrap();
    }

    /// Issues a certificate for replica `id`. Returns its files, with the trusted authorities `ca`.
    fn replica(&self, folder: &Path, id: u16, until: i32, ca: &Path) -> TlsFiles {
        let [cert, key] = ["crt", "key"].map(|it| folder.join(format!("made-{id}-{until}.{it}")));
        self.issue(&cert, &key, &format!("replica-{id}.test.bowline"), until);
        TlsFiles { cert, key, ca: Some(ca.to_owned()) }
    }
}

/// Returns the messages of a process that claims to be replica 2, to have lost its folder, and
/// requests the vote of replica 1 in a high term.
fn forged_request() -> BytesMut {
    let hello = Hello {
        cluster: u128::from_str_radix(CLUSTER, 16).unwrap(),
        from: NodeId(2),
        to: NodeId(1),
        incarnation: 1,
        connection: 1,
        start_ids: vec![7],
        members: [1, 2, 3].map(NodeId).to_vec(),
        rejoining: true,
        lane: Lane::Urgent,
        client_address: "127.0.0.1:1".to_owned(),
        peer_address: String::new(),
        versions: ProtocolVersions::OWN,
        level: FeatureLevel::NEWEST,
        program: "0.2.0".to_owned(),
    };
    let last = EntryId { term: Term(FORGED - 1), index: Index(FORGED) };
    let vote = RequestVote { term: Term(FORGED), pre: false, transfer: true, last };
    let mut bytes = BytesMut::new();
    frame::encode_preamble(V10, &mut bytes);
    frame::encode(&Frame::Hello(hello), V10, &mut bytes);
    frame::encode(&Frame::Peer(PeerMsg::RequestVote(vote)), V10, &mut bytes);
    bytes
}

/// Reads until the other side closes the connection. Returns the received bytes.
fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            panic!("the connection was not closed")
        }
        Ok(_) | Err(_) => rest,
    }
}

fn connect(port: u16) -> TcpStream {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap()
}

/// Sends plain bytes to a port, and waits until the connection is closed.
fn send_plain(port: u16, bytes: &[u8]) {
    let mut stream = connect(port);
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let answer = read_to_end(&mut stream);
    // At most an alert of TLS.
    assert!(answer.len() <= 7 && answer.first().is_none_or(|it| *it == 21), "{answer:?}");
}

/// Sends `bytes` with the certificate in `files` to the port for peers of replica 1, and waits
/// until it closes the connection.
fn send_as_peer(cluster: &Cluster, files: &TlsFiles, bytes: &[u8]) {
    let config = peer_configs(files).unwrap().outgoing;
    let name = "replica-1.test.bowline".try_into().unwrap();
    let mut tls = ClientConnection::new(config, name).unwrap();
    let mut stream = connect(cluster.peer_port(0));
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut tls_stream = Stream::new(&mut tls, &mut stream);
    let _ = tls_stream.write_all(bytes).and_then(|()| tls_stream.flush());
    let mut rest = Vec::new();
    let _ = tls_stream.read_to_end(&mut rest);
    assert!(rest.is_empty(), "{rest:?}");
}

/// Asserts that all replicas serve, and that no replica has adopted the forged term.
fn assert_unharmed(cluster: &Cluster) {
    cluster.wait_until_all_serve();
    assert!(cluster.term() < FORGED, "term {}", cluster.term());
    for at in 0..cluster.ports.len() {
        assert_eq!(cluster.info::<u64>(at, "raft_terms_rejected"), 0, "at replica {}", at + 1);
    }
}

#[test]
fn forged_peers_have_no_effect_on_a_secure_cluster() {
    let cluster = Cluster::start_secure(3, "auto");
    cluster.wait_until_all_serve();
    let (folder, _) = cluster.certificates(0);
    let (made, ca) = (cluster.folder.path(), folder.join("ca.crt"));
    let forged = forged_request();
    let log = |words: &str| {
        cluster.wait_for(words, || cluster.log(0).contains(words).then_some(()));
    };
    let peer_port = cluster.peer_port(0);
    send_plain(peer_port, &forged);
    log("the other side does not use TLS");
    for seed in 0..40_u8 {
        let random: Vec<u8> = (0..500_u32)
            .map(|at| (at.wrapping_mul(2_654_435_761).rotate_left(u32::from(seed)) >> 24) as u8)
            .collect();
        send_plain(peer_port, &random);
    }
    let own = |id: u16| TlsFiles {
        cert: folder.join(format!("replica-{id}.crt")),
        key: folder.join(format!("replica-{id}.key")),
        ca: Some(ca.clone()),
    };
    send_as_peer(&cluster, &own(3), &forged);
    log("its certificate is not that of replica 2");
    let client = TlsFiles {
        cert: folder.join("client.crt"),
        key: folder.join("client.key"),
        ca: Some(ca.clone()),
    };
    send_as_peer(&cluster, &client, &forged);
    send_as_peer(&cluster, &Authority::new().replica(made, 2, 3_000, &ca), &forged);
    log("the certificate of the other side is invalid");
    // Without any certificate.
    let config = client_config(&ca, None).unwrap();
    let name = "replica-1.test.bowline".try_into().unwrap();
    let mut tls = ClientConnection::new(config, name).unwrap();
    let mut stream = connect(peer_port);
    let mut tls_stream = Stream::new(&mut tls, &mut stream);
    let _ = tls_stream.write_all(&forged);
    let mut rest = Vec::new();
    let _ = tls_stream.read_to_end(&mut rest);
    assert!(rest.is_empty());
    log("the other side presented no certificate");
    assert_unharmed(&cluster);
}

#[test]
fn expired_certificate_of_a_peer_is_refused() {
    let cluster = Cluster::start_secure(1, "auto");
    cluster.wait_until_all_serve();
    let (folder, _) = cluster.certificates(0);
    // The replica trusts an authority whose key the test has.
    let authority = Authority::new();
    let ca = folder.join("ca.crt");
    let both = fs::read_to_string(&ca).unwrap() + &authority.0.pem();
    fs::write(&ca, both).unwrap();
    let words = "certificates for peers loaded";
    cluster.wait_for(words, || cluster.log(0).contains(words).then_some(()));
    let forged = forged_request();
    send_as_peer(&cluster, &authority.replica(folder, 2, 2_001, &ca), &forged);
    let words = "the certificate of the other side is invalid";
    cluster.wait_for(words, || cluster.log(0).contains(words).then_some(()));
    assert!(cluster.log(0).contains("expired"), "{}", cluster.log(0));
    assert_unharmed(&cluster);
}

#[test]
fn truncated_and_idle_handshakes_block_no_other_connections() {
    let mut cluster = Cluster::start_secure(3, "auto");
    cluster.wait_until_all_serve();
    let (folder, tls_port) = cluster.certificates(0);
    let config = client_config(&folder.join("ca.crt"), None).unwrap();
    let mut tls = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).unwrap();
    let mut held = Vec::new();
    for port in [cluster.peer_port(0), tls_port] {
        for part in (0..hello.len()).step_by(hello.len() / 40) {
            let mut stream = connect(port);
            stream.write_all(&hello[..part]).unwrap();
            // Half of the connections stay open, the others are closed.
            if part % 2 == 0 {
                held.push(stream);
            }
        }
        // The header of a record of the maximum length, and nothing else.
        let mut stream = connect(port);
        stream.write_all(&[22, 3, 1, 0x40, 0]).unwrap();
        held.push(stream);
    }
    cluster.kill(1);
    cluster.restart();
    assert_unharmed(&cluster);
    let mut client = cluster.connector(0).connect().unwrap();
    assert_eq!(client.call(&[b"PING"]).unwrap(), b"+PONG\r\n");
    drop(held);
}

#[test]
fn clients_and_peers_on_the_wrong_port_are_rejected_and_logged() {
    let cluster = Cluster::start_secure(1, "auto");
    cluster.wait_until_all_serve();
    let (_, tls_port) = cluster.certificates(0);
    let mut client = Client::connect(cluster.address(0)).unwrap();
    assert_eq!(client.call(&[b"SET", b"kept", b"yes"]).unwrap(), b"+OK\r\n");
    send_plain(tls_port, b"FLUSHALL\r\n");
    let words = "the other side does not use TLS";
    cluster.wait_for(words, || cluster.log(0).contains(words).then_some(()));
    let mut stream = connect(cluster.ports[0]);
    stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\nFLUSHALL\r\n").unwrap();
    assert_eq!(read_to_end(&mut stream), b"");
    let words = "the client uses TLS, but this port is plain";
    cluster.wait_for(words, || cluster.log(0).contains(words).then_some(()));
    assert_eq!(client.call(&[b"GET", b"kept"]).unwrap(), b"$3\r\nyes\r\n");
}

#[test]
fn clients_without_a_valid_certificate_are_refused() {
    let cluster = Cluster::start_secure(1, "auto");
    cluster.wait_until_all_serve();
    let (folder, port) = cluster.certificates(0);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let ca = folder.join("ca.crt");
    let ping = |config| {
        let connector = Connector::with_tls(address, config);
        connector.connect().and_then(|mut client| client.call(&[b"PING"]))
    };
    let [cert, key] = ["client.crt", "client.key"].map(|name| folder.join(name));
    let good = client_config(&ca, Some((&cert, &key))).unwrap();
    assert_eq!(ping(good).unwrap(), b"+PONG\r\n");
    assert!(ping(client_config(&ca, None).unwrap()).is_err());
    let foreign = Authority::new();
    let [cert, key] = ["f.crt", "f.key"].map(|name| folder.join(name));
    foreign.issue(&cert, &key, "client", 3_000);
    assert!(ping(client_config(&ca, Some((&cert, &key))).unwrap()).is_err());
    // The client refuses a server of another authority.
    let other_ca = folder.join("other.crt");
    fs::write(&other_ca, foreign.0.pem()).unwrap();
    assert!(ping(client_config(&other_ca, None).unwrap()).is_err());
    assert_unharmed(&cluster);
}

#[test]
fn recorded_bytes_of_a_peer_cannot_be_replayed() {
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let recorded = Arc::<Mutex<Vec<Vec<u8>>>>::default();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let tapped = listener.local_addr().unwrap().port();
    // Replica 2 reaches replica 1 through the test.
    let (target, shared) = (ports[0], Arc::clone(&recorded));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let shared = Arc::clone(&shared);
            thread::spawn(move || tap(stream, target, &shared));
        }
    });
    let port = |from: usize, to: usize| if (from, to) == (1, 0) { tapped } else { ports[to] };
    let cluster = Cluster::start_secure_between(ports.clone(), "auto", port);
    cluster.wait_until_all_serve();
    let mut client = Client::connect(cluster.address(1)).unwrap();
    for number in 0..50 {
        let value = format!("secret value {number}");
        assert_eq!(client.call_until_ok(&[b"SET", b"key", value.as_bytes()]), b"+OK\r\n");
    }
    let connections = recorded.lock().unwrap().clone();
    assert!(connections.iter().any(|bytes| bytes.len() > 1_000), "nothing was recorded");
    for bytes in &connections {
        let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        assert!(!has(b"secret value") && !has(b"BOWL"), "sent in the clear");
        let mut stream = connect(cluster.peer_port(0));
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        read_to_end(&mut stream);
    }
    assert_unharmed(&cluster);
    assert_eq!(client.call_until_ok(&[b"GET", b"key"]), b"$15\r\nsecret value 49\r\n");
}

/// Forwards a connection in both directions, and records what the connecting side sends.
fn tap(mut from: TcpStream, target: u16, recorded: &Mutex<Vec<Vec<u8>>>) {
    let Ok(mut to) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)) else { return };
    let (mut back_from, mut back_to) = (to.try_clone().unwrap(), from.try_clone().unwrap());
    thread::spawn(move || {
        let _ = std::io::copy(&mut back_from, &mut back_to);
        let _ = back_to.shutdown(std::net::Shutdown::Both);
    });
    let at = {
        let mut recorded = recorded.lock().unwrap();
        recorded.push(Vec::new());
        recorded.len() - 1
    };
    let mut space = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut space) {
        recorded.lock().unwrap()[at].extend_from_slice(&space[..count]);
        if to.write_all(&space[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

#[test]
fn replica_without_certificates_is_kept_out_of_a_secure_cluster() {
    let mut cluster = Cluster::start_secure(3, "auto");
    cluster.wait_until_all_serve();
    cluster.kill(2);
    let secure = cluster.command(2);
    let mut plain = Command::new(secure.get_program());
    let mut arguments = secure.get_args();
    while let Some(argument) = arguments.next() {
        if argument.to_string_lossy().contains("tls-") {
            arguments.next();
        } else {
            plain.arg(argument);
        }
    }
    plain.stdin(Stdio::piped()).stdout(Stdio::null());
    cluster.start_as(2, plain);
    let words = "the other side does not use TLS";
    let before = cluster.log(0).matches(words).count();
    cluster.wait_for(words, || (cluster.log(0).matches(words).count() > before).then_some(()));
    // The others try to reach it with TLS.
    let words = "which is TLS";
    cluster.wait_for(words, || cluster.log(2).contains(words).then_some(()));
    let mut client = Client::connect(cluster.address(0)).unwrap();
    assert_eq!(client.call_until_ok(&[b"SET", b"without", b"it"]), b"+OK\r\n");
    let mut client = Client::connect(cluster.address(2)).unwrap();
    let reply = client.call(&[b"GET", b"without"]).unwrap();
    assert!(reply.starts_with(b"-LOADING"), "{}", String::from_utf8_lossy(&reply));
    cluster.kill(2);
    cluster.restart();
    assert_unharmed(&cluster);
}

#[test]
fn replaced_authority_excludes_a_replica_until_its_certificate_is_replaced() {
    let cluster = Cluster::start_secure(3, "auto");
    cluster.wait_until_all_serve();
    let (folder, _) = cluster.certificates(0);
    let new = cluster.folder.path().join("new");
    make_certificates(&new, 3);
    let hang_up = |at: usize| {
        let id = cluster.process(at).to_string();
        assert!(Command::new("kill").args(["-HUP", &id]).status().unwrap().success());
    };
    let replace = |id: usize, ending: &str| {
        let name = format!("replica-{id}.{ending}");
        fs::copy(new.join(&name), folder.join(&name)).unwrap();
    };
    // A certificate without its key is rejected, and the previous one stays in use.
    replace(1, "crt");
    hang_up(0);
    let words = "new certificates for clients rejected, keeping the previous ones";
    cluster.wait_for(words, || cluster.log(0).contains(words).then_some(()));
    let mut client = cluster.connector(0).connect().unwrap();
    assert_eq!(client.call(&[b"PING"]).unwrap(), b"+PONG\r\n");
    // Replicas 1 and 2 get all files, replica 3 only the authority, because all share its file.
    // This revokes the old certificate of replica 3.
    replace(1, "key");
    replace(2, "crt");
    replace(2, "key");
    for name in ["ca.crt", "client.crt", "client.key"] {
        fs::copy(new.join(name), folder.join(name)).unwrap();
    }
    (0..3).for_each(hang_up);
    let words = "connections to and from peers are made again";
    for at in 0..3 {
        cluster.wait_for(words, || cluster.log(at).contains(words).then_some(()));
    }
    let words = "the certificate of the other side is invalid";
    cluster.wait_for(words, || cluster.log(0).contains(words).then_some(()));
    let mut client = cluster.connector(0).connect().unwrap();
    assert_eq!(client.call_until_ok(&[b"SET", b"two", b"suffice"]), b"+OK\r\n");
    let mut client = Client::connect(cluster.address(2)).unwrap();
    let reply = client.call(&[b"GET", b"two"]).unwrap();
    assert!(reply.starts_with(b"-CLUSTERDOWN"), "{}", String::from_utf8_lossy(&reply));
    // This time without a signal: the replica detects the change of the files.
    replace(3, "key");
    replace(3, "crt");
    assert_unharmed(&cluster);
    assert_eq!(client.call_until_ok(&[b"GET", b"two"]), b"$7\r\nsuffice\r\n");
}

/// Runs `bowline` to its end.
fn bowline(arguments: &[&str], folder: &Path) -> Output {
    let file = |name: &str| folder.join(name).into_os_string();
    Command::new(env!("CARGO_BIN_EXE_bowline"))
        .args(arguments)
        .arg("--tls")
        .args(["--cacert".into(), file("ca.crt")])
        .args(["--cert".into(), file("client.crt"), "--key".into(), file("client.key")])
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn secure_local_cluster_is_administered_with_tls() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    // Outside of the port range of the other tests.
    let is_free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let first = 9_000 + u16::try_from(std::process::id() % 200).unwrap() * 4;
    let port = (first..9_900)
        .step_by(4)
        .find(|port| (*port..port + 3).all(|port| is_free(port) && is_free(port + 1_000)))
        .unwrap();
    let output = folder.path().join("output");
    let mut process = Command::new(env!("CARGO_BIN_EXE_bowline"))
        .args(["cluster", "--secure", "--port", &port.to_string(), "--dir"])
        .arg(&data)
        .stdout(fs::File::create(&output).unwrap())
        .spawn()
        .unwrap();
    let mut left = TIMEOUT;
    while !fs::read_to_string(&output).unwrap().contains("try: redis-cli --tls --cacert ") {
        assert!(!left.is_zero(), "{}", fs::read_to_string(&output).unwrap());
        thread::sleep(Duration::from_millis(50));
        left = left.saturating_sub(Duration::from_millis(50));
    }
    let certificates = data.join("certs");
    let addr = format!("127.0.0.1:{port}");
    let backup = folder.path().join("backup");
    let file = backup.display().to_string();
    for (arguments, words) in [
        (&["admin", "status", "--addr", &addr][..], &addr[..]),
        (&["admin", "ping", "--addr", &addr], ""),
        (&["admin", "ready", "--addr", &addr], ""),
        (&["admin", "backup", &file, "--addr", &addr], ""),
        (&["top", "--once", "--addr", &addr], &addr),
    ] {
        let output = bowline(arguments, &certificates);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains(words), "{arguments:?}: {output:?}");
    }
    // Without TLS, and with an address that the certificate does not have.
    let plain = Command::new(env!("CARGO_BIN_EXE_bowline"))
        .args(["admin", "ping", "--addr", &addr])
        .output()
        .unwrap();
    assert!(!plain.status.success(), "{plain:?}");
    let other = bowline(&["admin", "ping", "--addr", &format!("127.0.0.2:{port}")], &certificates);
    assert!(!other.status.success(), "{other:?}");
    Command::new("kill").args(["-TERM", &process.id().to_string()]).status().unwrap();
    process.wait().unwrap();
}

/// Accepts a connection from replica 1 with this certificate, and returns the first bytes that the
/// replica sends.
fn accept_with(listener: &TcpListener, files: &TlsFiles) -> Vec<u8> {
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut tls = rustls::ServerConnection::new(peer_configs(files).unwrap().incoming).unwrap();
    let mut space = [0; 64];
    // None if the other side closes the connection.
    let length = Stream::new(&mut tls, &mut stream).read(&mut space).unwrap_or(0);
    space[..length].to_vec()
}

#[test]
fn replica_sends_nothing_to_a_peer_with_a_wildcard_certificate() {
    let cluster = Cluster::start_secure(1, "auto");
    cluster.wait_until_all_serve();
    let (folder, _) = cluster.certificates(0);
    let authority = Authority::new();
    let ca = folder.join("ca.crt");
    fs::write(&ca, fs::read_to_string(&ca).unwrap() + &authority.0.pem()).unwrap();
    let words = "certificates for peers loaded";
    cluster.wait_for(words, || cluster.log(0).contains(words).then_some(()));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut client = Client::connect(cluster.address(0)).unwrap();
    let reply = client.call(&[b"MEMBERS", b"ADD", b"2", address.as_bytes()]).unwrap();
    assert!(!reply.starts_with(b"-"), "{}", String::from_utf8_lossy(&reply));
    let [cert, key] = ["all.crt", "all.key"].map(|name| folder.join(name));
    authority.issue(&cert, &key, "*.test.bowline", 3_000);
    let all = TlsFiles { cert, key, ca: Some(ca.clone()) };
    for _ in 0..4 {
        assert_eq!(accept_with(&listener, &all), b"");
    }
    let words = "not connecting to a peer whose certificate is for all replicas of its domain";
    cluster.wait_for(words, || cluster.log(0).contains(words).then_some(()));
    let own = authority.replica(folder, 2, 3_000, &ca);
    cluster.wait_for("a hello", || accept_with(&listener, &own).starts_with(b"BOWL").then_some(()));
}
