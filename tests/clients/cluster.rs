//! Runs `bowline cluster` in its own folder, on free ports, until the test ends.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Number of replicas in the cluster.
const REPLICAS: u16 = 3;
/// Difference between a replica's peer port and its client port.
const PEER_PORT_OFFSET: u16 = 1_000;
/// Difference between a replica's Sentinel port and its client port.
pub(crate) const SENTINEL_PORT_OFFSET: u16 = 2_000;
/// Difference between the port of a replica's live page and its client port.
const PAGE_PORT_OFFSET: u16 = 3_000;
/// Maximum time for the cluster to start, also on a busy machine.
const TIMEOUT: Duration = Duration::from_mins(1);

/// A running cluster, which is stopped when dropped.
pub(crate) struct Cluster {
    process: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Cluster {
    /// Starts a cluster and waits until every replica serves requests.
    pub(crate) fn start() -> Cluster {
        Cluster::start_with(|_| Vec::new())
    }

    /// Starts a cluster with live pages, and waits until every replica serves requests.
    pub(crate) fn start_with_pages() -> Cluster {
        Cluster::start_with(|port| {
            vec!["--http-port".to_owned(), (port + PAGE_PORT_OFFSET).to_string()]
        })
    }

    fn start_with(flags: impl Fn(u16) -> Vec<String>) -> Cluster {
        let cluster = Cluster::spawn(flags);
        for port in cluster.ports() {
            let until = Instant::now() + TIMEOUT;
            while !serves(port) {
                assert!(Instant::now() < until, "the replica on port {port} does not serve");
                thread::sleep(Duration::from_millis(50));
            }
        }
        cluster
    }

    /// Starts a cluster with TLS everywhere, and waits until every replica serves requests.
    pub(crate) fn start_secure() -> Cluster {
        let cluster = Cluster::spawn(|_| vec!["--secure".to_owned()]);
        let folder = cluster.certificates();
        for port in cluster.ports() {
            let until = Instant::now() + TIMEOUT;
            let is_ready = || {
                Command::new(env!("CARGO_BIN_EXE_bowline"))
                    .args(["admin", "ready", "--addr", &format!("127.0.0.1:{port}"), "--tls"])
                    .arg("--cacert")
                    .arg(folder.join("ca.crt"))
                    .arg("--cert")
                    .arg(folder.join("client.crt"))
                    .arg("--key")
                    .arg(folder.join("client.key"))
                    .output()
                    .is_ok_and(|output| output.status.success())
            };
            while !is_ready() {
                assert!(Instant::now() < until, "the replica on port {port} does not serve");
                thread::sleep(Duration::from_millis(50));
            }
        }
        cluster
    }

    /// Runs `bowline cluster` with the flags that `flags` returns for the first client port.
    fn spawn(flags: impl Fn(u16) -> Vec<String>) -> Cluster {
        let folder = tempfile::tempdir().expect("a folder for its data");
        let port = free_ports();
        let process = Command::new(env!("CARGO_BIN_EXE_bowline"))
            .args(["cluster", "--replicas", &REPLICAS.to_string(), "--port", &port.to_string()])
            .args(["--sentinel-port", &(port + SENTINEL_PORT_OFFSET).to_string()])
            .args(flags(port))
            .arg("--dir")
            .arg(folder.path().join("data"))
            // Long deadlines for each replica: an election on a busy machine, or a slow disk, must
            // only delay replies, not cause errors.
            .envs([("BOWLINE_LEADER_WAIT_MS", "60000"), ("BOWLINE_COMMAND_DEADLINE_MS", "60000")])
            .stdout(Stdio::null())
            .spawn()
            .expect("the program was built for this test");
        Cluster { process, port, folder }
    }

    /// Returns the folder with the certificates of a cluster with TLS.
    pub(crate) fn certificates(&self) -> PathBuf {
        self.folder.path().join("data/certs")
    }

    /// Returns the client ports of the replicas.
    pub(crate) fn ports(&self) -> Vec<u16> {
        (self.port..self.port + REPLICAS).collect()
    }

    /// Returns the client ports as command-line arguments.
    pub(crate) fn port_words(&self) -> Vec<String> {
        self.ports().iter().map(u16::to_string).collect()
    }

    /// Returns the ports of the live pages as command-line arguments.
    pub(crate) fn page_port_words(&self) -> Vec<String> {
        self.ports().iter().map(|port| (port + PAGE_PORT_OFFSET).to_string()).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Ctrl-C, so that it stops its replicas; it may have exited already.
        let id = self.process.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &id]).status();
        let until = Instant::now() + TIMEOUT;
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < until {
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns whether the replica on this port serves a write, which goes through the log.
fn serves(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return false };
    let set = stream.set_read_timeout(Some(TIMEOUT));
    let mut reply = [0; 5];
    set.and_then(|()| stream.write_all(b"SET ready yes\r\n"))
        .and_then(|()| stream.read_exact(&mut reply))
        .is_ok_and(|()| reply == *b"+OK\r\n")
}

/// Index of the next row of ports to try. Tests run concurrently, each with its own cluster.
static NEXT_ROW: AtomicU16 = AtomicU16::new(0);
/// Number of rows of ports for one test process.
const ROWS: u16 = 16;

/// Returns the first port of a free row: its client ports, and the peer, Sentinel and page ports
/// that belong to them, are free. The ports are below the range that the system uses for outgoing
/// connections.
fn free_ports() -> u16 {
    let first = 12_000 + u16::try_from(std::process::id() % 300).expect("below 300") * 48;
    let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    (0..ROWS)
        .map(|_| first + NEXT_ROW.fetch_add(1, Ordering::Relaxed) % ROWS * REPLICAS)
        .find(|start| {
            (*start..start + REPLICAS).all(|port| {
                let offsets = [0, PEER_PORT_OFFSET, SENTINEL_PORT_OFFSET, PAGE_PORT_OFFSET];
                offsets.iter().all(|offset| free(port + offset))
            })
        })
        .expect("three free ports in a row")
}
