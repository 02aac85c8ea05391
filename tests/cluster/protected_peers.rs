//! Protected mode on the port for peers: a replica without certificates connects only to peers on
//! loopback.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::client::Client;
use crate::replicas::{Cluster, free_port};

/// Returns an address of this machine that is not on loopback; `None` if it has none.
fn other_address() -> Option<IpAddr> {
    // Connecting a datagram socket sends nothing, but selects the address of this machine.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let found = socket.connect("203.0.113.1:9").and_then(|()| socket.local_addr());
    let found = found.ok().map(|address| address.ip()).filter(|it| !it.is_loopback());
    if found.is_none() {
        eprintln!("SKIPPED in part: this machine has loopback addresses only");
    }
    found
}

/// Returns the command that starts a replica, with another value of one flag and additional flags.
fn command_with(cluster: &Cluster, at: usize, flag: &str, value: &str, added: &[&str]) -> Command {
    let command = cluster.command(at);
    let mut arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let place = arguments.iter().position(|argument| argument == flag).unwrap();
    arguments[place + 1] = value.into();
    let mut changed = Command::new(command.get_program());
    changed.args(arguments).args(added).stdin(Stdio::piped()).stdout(Stdio::null());
    changed
}

/// Restarts a replica with this command, and waits until it serves.
fn restart_as(cluster: &mut Cluster, at: usize, command: Command) {
    cluster.kill(at);
    cluster.start_as(at, command);
    cluster.wait_until_all_serve();
}

/// Returns whether a socket receives datagrams at `address`. If there is none, the kernel reports
/// an error.
fn takes_datagrams(address: SocketAddr) -> bool {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    socket.send(b"no peer").unwrap();
    let refused =
        socket.recv(&mut [0; 16]).is_err_and(|it| it.kind() == ErrorKind::ConnectionRefused);
    !refused
}

#[test]
fn replica_without_peer_certificates_listens_for_peers_on_loopback_only() {
    let Some(other) = other_address() else { return };
    let mut cluster = Cluster::start(1, "auto");
    cluster.wait_until_all_serve();
    assert!(cluster.log(0).contains("no certificates for peers are set"), "{}", cluster.log(0));
    let port = cluster.peer_port(0);
    let (remote, all) = (SocketAddr::new(other, port), format!("0.0.0.0:{port}"));
    let warning =
        "only on loopback (protected mode); create certificates with `bowline admin certs`";
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, port));

    let command = command_with(&cluster, 0, "--peer-listen", &all, &[]);
    restart_as(&mut cluster, 0, command);
    let refused = TcpStream::connect(remote).map_err(|error| error.kind());
    assert_eq!(refused.err(), Some(ErrorKind::ConnectionRefused));
    assert!(!takes_datagrams(remote), "the datagram socket is open to other machines");
    assert!(TcpStream::connect(loopback).is_ok() && takes_datagrams(loopback));
    assert_eq!(cluster.log(0).matches(warning).count(), 1, "{}", cluster.log(0));

    let flags = ["--protected-mode", "no"];
    let command = command_with(&cluster, 0, "--peer-listen", &all, &flags);
    restart_as(&mut cluster, 0, command);
    assert!(TcpStream::connect(remote).is_ok() && takes_datagrams(remote));
    // A password for clients does not open the port for peers.
    let flags = ["--requirepass", "secret"];
    let command = command_with(&cluster, 0, "--peer-listen", &all, &flags);
    cluster.kill(0);
    cluster.start_as(0, command);
    cluster.wait_for("a warning", || (cluster.log(0).matches(warning).count() == 2).then_some(()));
    cluster.wait_for("the port", || TcpStream::connect(loopback).ok());
    assert!(TcpStream::connect(remote).is_err() && !takes_datagrams(remote));
}

#[test]
fn peers_with_certificates_may_be_on_other_machines() {
    let Some(other) = other_address() else { return };
    let mut cluster = Cluster::start_secure(1, "auto");
    cluster.wait_until_all_serve();
    let remote = SocketAddr::new(other, cluster.peer_port(0));
    let command = command_with(&cluster, 0, "--peer-listen", &remote.to_string(), &[]);
    restart_as(&mut cluster, 0, command);
    assert!(TcpStream::connect(remote).is_ok() && takes_datagrams(remote));
    assert!(!cluster.log(0).contains("no certificates for peers"), "{}", cluster.log(0));
}

#[test]
fn start_without_certificates_names_the_peer_on_another_machine() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let data = folder.path().join("data");
    let start = |flags: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bowline"));
        let output = command
            .args(["serve", "--id", "1", "--listen", "127.0.0.1:0", "--dir"])
            .arg(&data)
            .args(flags)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(!output.status.success());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        for advice in ["`bowline admin certs`", "--peer-tls-cert-file", "--protected-mode no"] {
            assert!(text.contains(advice), "{advice}: {text}");
        }
        assert!(!data.exists(), "a refused start has made files");
        text
    };
    let own = format!("127.0.0.1:{port}");
    for host in ["192.0.2.7", "[2001:db8::7]", "bowline-2.bowline-pods"] {
        let peers = format!("1={own},2={host}:16379");
        let text = start(&["--bootstrap", "--peer-listen", &own, "--peers", &peers]);
        assert!(text.contains(&format!("{host}:16379 is not a loopback address")), "{text}");
    }
    // It would wait for a leader that cannot connect.
    let all = format!("0.0.0.0:{port}");
    let text = start(&["--join", "--cluster", "name", "--peer-listen", &all]);
    assert!(text.contains(&format!("{all} is not a loopback address")), "{text}");
}

/// An address in the log may be on another machine without being in the options.
#[test]
fn replica_without_certificates_does_not_connect_to_members_on_other_machines() {
    let Some(other) = other_address() else { return };
    let listener = TcpListener::bind((other, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let mut cluster = Cluster::start_with(1, "auto", &["--peer-transport", "tcp"]);
    cluster.wait_until_all_serve();
    let own = format!("127.0.0.1:{}", cluster.peer_port(0));
    let command = command_with(&cluster, 0, "--peer-listen", &own, &["--protected-mode", "no"]);
    restart_as(&mut cluster, 0, command);
    let mut client = Client::connect(cluster.address(0)).unwrap();
    let reply = client.call(&[b"MEMBERS", b"ADD", b"2", address.to_string().as_bytes()]).unwrap();
    assert!(!reply.starts_with(b"-"), "{}", String::from_utf8_lossy(&reply));
    cluster.wait_for("a connection", || listener.accept().ok());
    // Acknowledged only after the change of the members is on disk.
    assert_eq!(client.call(&[b"SET", b"after", b"1"]).unwrap(), b"+OK\r\n");

    let command = cluster.command(0);
    restart_as(&mut cluster, 0, command);
    let words = "not connecting to a peer on another machine without certificates";
    cluster.wait_for(words, || cluster.log(0).contains(words).then_some(()));
    while listener.accept().is_ok() {}
    // Attempts follow each other twice a second.
    thread::sleep(Duration::from_millis(1_500));
    let before = listener.accept().map_err(|error| error.kind());
    assert_eq!(before.err(), Some(ErrorKind::WouldBlock), "it has connected");
    assert!(cluster.log(0).matches(words).count() <= 2, "{}", cluster.log(0));
}
