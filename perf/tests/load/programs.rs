//! Real servers, each in its test's folder on its own port. A test whose server is not installed is
//! skipped with a message, or fails with `BOWLINE_CLIENTS=required`.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// A server process, killed when dropped.
pub(crate) struct Program {
    pub(crate) url: String,
    child: Child,
}

impl Program {
    /// Returns Bowline's applied index.
    pub(crate) fn applied(&self) -> u64 {
        let address = self.url.strip_prefix("redis://").expect("a redis URL");
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.write_all(b"INFO raft\r\nQUIT\r\n").expect("it reads");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("it answers and hangs up");
        let applied = text.lines().find_map(|line| line.strip_prefix("raft_applied_index:"));
        applied.unwrap_or_else(|| panic!("{text}")).parse().expect("a number")
    }

    /// Kills the server.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it is ours");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The server may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns a free address with a port below the ephemeral range; an ephemeral port might be taken
/// by another test's client before the server binds it.
fn free_address() -> SocketAddr {
    static NEXT_PORT: AtomicU16 = AtomicU16::new(0);
    loop {
        let own = u16::try_from(std::process::id() % 1_500).expect("below 1,500") * 12;
        let port = 12_000 + own + NEXT_PORT.fetch_add(1, Ordering::Relaxed) % 900;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Starts a server and waits until it accepts connections.
fn start(scheme: &str, address: SocketAddr, command: &mut Command) -> Option<Program> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(child) = command.spawn() else {
        let name = command.get_program().display();
        let required = std::env::var("BOWLINE_CLIENTS").is_ok_and(|value| value == "required");
        assert!(!required, "{name} is not installed");
        eprintln!("skipped: {name} is not installed");
        return None;
    };
    let program = Program { url: format!("{scheme}://{address}"), child };
    let started = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(started.elapsed() < Duration::from_mins(2), "{} is not up", program.url);
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(program)
}

/// Starts one Bowline replica from the program beside this one; `None` if that was not built.
pub(crate) fn bowline(folder: &Path) -> Option<Program> {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_perf")).with_file_name("bowline");
    let (address, peers) = (free_address(), free_address());
    let mut command = Command::new(program);
    command
        .args(["serve", "--id", "1", "--bootstrap"])
        .args(["--listen", &address.to_string(), "--peer-listen", &peers.to_string()])
        // No warnings about a disk that takes seconds.
        .args(["--leader-wait-ms", "60000", "--command-deadline-ms", "60000"])
        .args(["--peers", &format!("1={peers}"), "--dir"])
        .arg(folder.join("data"));
    start("redis", address, &mut command)
}

/// Starts Redis without persistence; `None` if it is not installed.
pub(crate) fn redis(folder: &Path) -> Option<Program> {
    let address = free_address();
    let mut command = Command::new("redis-server");
    command
        .args(["--port", &address.port().to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no", "--dir"])
        .arg(folder);
    start("redis", address, &mut command)
}

/// Starts one etcd member; `None` if it is not installed.
pub(crate) fn etcd(folder: &Path) -> Option<Program> {
    let (address, peers) = (free_address(), free_address());
    let (client, peer) = (format!("http://{address}"), format!("http://{peers}"));
    let mut command = Command::new("etcd");
    command
        .args(["--name", "a", "--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("a={peer}"), "--data-dir"])
        .arg(folder.join("data"));
    start("etcd", address, &mut command)
}
