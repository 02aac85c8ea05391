//! Tests of the arguments, the start and the exit of the replica program. The test starts the
//! program itself and takes the role of the simulator.

use std::io::Read as _;
use std::net::UdpSocket;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// Path of the replica program that was built for the tests.
pub(crate) const REPLICA: &str = env!("CARGO_BIN_EXE_bowline-replica");

/// Timeout that is longer than anything takes, so that a test that hangs fails instead.
pub(crate) const TIMEOUT: Duration = Duration::from_mins(1);

/// A running replica program, which is killed when dropped.
pub(crate) struct Program(Child);

impl Program {
    pub(crate) fn start(folder: &Path, threads: &str, arguments: &[&str]) -> Program {
        let child = Command::new(REPLICA)
            .env("BOWLINE_THREADS", threads)
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the replica program starts");
        Program(child)
    }

    /// Returns whether the process has not exited yet.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.0.try_wait().expect("our own child").is_none()
    }

    /// Sends SIGTERM with the system's `kill`, because `std` can only send SIGKILL.
    fn terminate(&self) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").arg(&pid).status().expect("kill").success());
    }

    /// Waits until the process exits. Returns its exit status and output.
    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        let status = self.0.wait().expect("our own child");
        let mut printed = String::new();
        self.0.stdout.take().expect("piped").read_to_string(&mut printed).expect("text");
        self.0.stderr.take().expect("piped").read_to_string(&mut printed).expect("text");
        (status, printed)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // An error means that the process has already exited.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns a UDP socket that takes the role of the simulator, and its port as text.
pub(crate) fn simulator() -> (UdpSocket, String) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.set_read_timeout(Some(TIMEOUT)).expect("our own socket");
    let port = socket.local_addr().expect("our own socket").port().to_string();
    (socket, port)
}

fn refused(arguments: &[&str], variable: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let (status, printed) = Program::start(folder.path(), variable, arguments).end();
    assert_eq!(status.code(), Some(2), "{arguments:?}: {printed}");
    assert!(printed.contains("usage:"), "{printed}");
    printed
}

#[test]
fn replica_program_prints_usage_for_invalid_arguments() {
    assert!(refused(&[], "auto").contains("missing"));
    assert!(refused(&["nowhere", "0000"], "auto").contains("`nowhere`"));
    assert!(refused(&["40000", "0000", "0001", "FFFF"], "auto").contains("`FFFF`"));
    assert!(refused(&["40000", "0000", "--threads"], "auto").contains("--threads"));
    assert!(refused(&["--threads", "many", "40000", "0000"], "auto").contains("`many`"));
    assert!(refused(&["40000", "0000", "--fast"], "auto").contains("`--fast`"));
    assert!(refused(&["40000", "0000"], "few").contains("BOWLINE_THREADS"));
}

#[test]
fn replica_program_accepts_options_after_arguments() {
    let folder = tempfile::tempdir().unwrap();
    for words in ["--threads=fused P 000A 000B", "P 000A --threads dedicated 000B"] {
        let (socket, port) = simulator();
        let arguments: Vec<&str> =
            words.split(' ').map(|word| if word == "P" { &port } else { word }).collect();
        let mut replica = Program::start(folder.path(), "auto", &arguments);
        let mut buffer = [0; 1024];
        let length = socket.recv(&mut buffer).expect("a hello");
        let hello = std::str::from_utf8(&buffer[..length]).unwrap();
        assert_eq!(hello, r#"{"src":"000A","dst":"FFFF","leader":"FFFF","type":"hello"}"#);
        assert!(replica.is_alive());
        replica.terminate();
        let (status, printed) = replica.end();
        assert_eq!(status.signal(), Some(15), "SIGTERM kills it");
        assert_eq!(printed, "");
    }
}

#[test]
fn replica_exits_when_its_simulator_exits() {
    for threads in ["fused", "dedicated"] {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("0001")).unwrap();
        let replica = Program::start(folder.path(), threads, &["0001", "0000", "0002"]);
        let (stream, _): (UnixStream, _) = listener.accept().unwrap();
        drop(stream);
        let (status, printed) = replica.end();
        assert_eq!(status.code(), Some(0), "{threads}: {printed}");
        assert_eq!(printed, "");
    }
}

#[test]
fn replica_program_fails_if_its_socket_has_no_listener() {
    let folder = tempfile::tempdir().unwrap();
    drop(UnixListener::bind(folder.path().join("0001")).unwrap());
    let (status, printed) = Program::start(folder.path(), "auto", &["0001", "0000"]).end();
    assert_eq!(status.code(), Some(1));
    assert!(printed.contains("cannot connect to the simulator"), "{printed}");
}
