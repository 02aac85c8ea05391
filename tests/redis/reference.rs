//! A real Redis server that runs beside the test, on a UNIX socket in a temporary folder.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A running Redis server, which is stopped when dropped.
pub(crate) struct Reference {
    process: Child,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl Reference {
    /// Starts Redis. Prints a message and returns `None` if the version to compare with is not
    /// installed.
    pub(crate) fn start() -> Option<Reference> {
        let version = Command::new("redis-server").arg("--version").output().ok();
        let version = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        if !version.as_ref().is_some_and(|version| version.contains("v=7.")) {
            let required =
                std::env::var_os("BOWLINE_CLIENTS").is_some_and(|word| word == "required");
            assert!(!required, "redis-server 7 is missing; run .ci/install-clients");
            eprintln!("skipped: no redis-server of version 7 is installed ({version:?})");
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder for its socket");
        let socket = folder.path().join("redis");
        let process = Command::new("redis-server")
            // The same maximum length of strings as in this server.
            .args(["--port", "0", "--save", "", "--appendonly", "no"])
            .args(["--proto-max-bulk-len", "64mb"])
            .arg("--unixsocket")
            .arg(&socket)
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("it printed its version");
        let reference = Reference { process, socket, _folder: folder };
        let deadline = Instant::now() + Duration::from_mins(1);
        while UnixStream::connect(&reference.socket).is_err() {
            assert!(Instant::now() < deadline, "redis-server does not listen");
            thread::sleep(Duration::from_millis(10));
        }
        Some(reference)
    }

    /// Opens a new connection to Redis.
    pub(crate) fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_mins(1))).expect("a timeout of seconds");
        stream
    }

    /// Sends `bytes`, and returns everything that Redis replies until it closes the connection.
    pub(crate) fn until_closed(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect();
        stream.write_all(bytes).expect("it reads");
        let mut replies = Vec::new();
        match stream.read_to_end(&mut replies) {
            // Redis closes the connection with unread bytes.
            Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{error}"),
            _ => replies,
        }
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        // An error means that Redis has already exited.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
