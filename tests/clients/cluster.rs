//! `bowline cluster` in a folder of its own, on ports that were free, until the test ends.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How many replicas.
const REPLICAS: u16 = 3;
/// Where peers' ports lie above clients' ports.
const PEER_PORT_OFFSET: u16 = 1_000;
/// Where those lie at which replicas say that they are Sentinels.
pub(crate) const SENTINEL_PORT_OFFSET: u16 = 2_000;
/// Until then it must answer, also on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// The running cluster; ends with this.
pub(crate) struct Cluster {
    process: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Cluster {
    /// Starts one and waits until every replica serves.
    pub(crate) fn start() -> Cluster {
        let folder = tempfile::tempdir().expect("a folder for its data");
        let port = free_ports();
        let process = Command::new(env!("CARGO_BIN_EXE_bowline"))
            .args(["cluster", "--replicas", &REPLICAS.to_string(), "--port", &port.to_string()])
            .args(["--sentinel-port", &(port + SENTINEL_PORT_OFFSET).to_string()])
            .arg("--dir")
            .arg(folder.path().join("data"))
            // For each of its replicas: an election on a busy machine, or a disk that takes
            // seconds, shall cost clients time and no errors.
            .envs([("BOWLINE_LEADER_WAIT_MS", "60000"), ("BOWLINE_COMMAND_DEADLINE_MS", "60000")])
            .stdout(Stdio::null())
            .spawn()
            .expect("the program was built for this test");
        let cluster = Cluster { process, port, _folder: folder };
        for port in cluster.ports() {
            let until = Instant::now() + PATIENCE;
            while !serves(port) {
                assert!(Instant::now() < until, "the replica on port {port} does not serve");
                thread::sleep(Duration::from_millis(50));
            }
        }
        cluster
    }

    /// The replicas' ports for clients.
    pub(crate) fn ports(&self) -> Vec<u16> {
        (self.port..self.port + REPLICAS).collect()
    }

    /// The same as words of a command line.
    pub(crate) fn port_words(&self) -> Vec<String> {
        self.ports().iter().map(u16::to_string).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // As Ctrl-C does it, so that it ends its replicas; if it has ended by itself, the better.
        let id = self.process.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &id]).status();
        let until = Instant::now() + PATIENCE;
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < until {
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether a replica there has somebody to ask: it answers what must go through the log.
fn serves(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return false };
    let set = stream.set_read_timeout(Some(PATIENCE));
    let mut reply = [0; 5];
    set.and_then(|()| stream.write_all(b"SET ready yes\r\n"))
        .and_then(|()| stream.read_exact(&mut reply))
        .is_ok_and(|()| reply == *b"+OK\r\n")
}

/// Which row of ports is looked at next: tests run side by side, and each has a cluster of its own.
static NEXT_ROW: AtomicU16 = AtomicU16::new(0);
/// Rows of ports for one process.
const ROWS: u16 = 16;

/// The first of so many ports in a row that nobody listens on, and so for the peers' and Sentinels'
/// ones. Below those that the system gives to connections.
fn free_ports() -> u16 {
    let first = 12_000 + u16::try_from(std::process::id() % 300).expect("below 300") * 48;
    let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    (0..ROWS)
        .map(|_| first + NEXT_ROW.fetch_add(1, Ordering::Relaxed) % ROWS * REPLICAS)
        .find(|start| {
            (*start..start + REPLICAS).all(|port| {
                free(port) && free(port + PEER_PORT_OFFSET) && free(port + SENTINEL_PORT_OFFSET)
            })
        })
        .expect("three free ports in a row")
}
