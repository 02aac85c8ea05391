//! Cross traffic for `perf lossy`: TCP connections that send as fast as they can, from each host to
//! each other one. This program runs itself on each host (`perf cross-traffic`).

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;

/// Port on which each host receives cross traffic, by which the relay knows it.
pub(super) const PORT: u16 = 9_999;
/// Number of bytes of one system call.
const BUFFER_BYTES: usize = 16 << 10;
/// Time after a failure until the next attempt to connect, or to accept a connection.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Arguments of `perf cross-traffic`.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Addresses to send to.
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',', required = true)]
    to: Vec<Ipv4Addr>,
}

/// Runs `perf cross-traffic`: sends to all given addresses, and receives from all hosts, until the
/// process is killed.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))
        .with_context(|| format!("cannot listen on port {PORT} for cross traffic"))?;
    for &to in &arguments.to {
        thread::spawn(move || {
            loop {
                // The connection may be refused, or fail when most packets are lost.
                let _ = send(SocketAddr::from((to, PORT)));
                thread::sleep(RETRY_AFTER);
            }
        });
    }
    loop {
        match listener.accept() {
            Ok((connection, _)) => {
                thread::spawn(move || receive(connection));
            }
            // The connection may have failed before it was accepted.
            Err(error) => {
                eprintln!("perf: warning: cannot accept a connection of cross traffic: {error}");
                thread::sleep(RETRY_AFTER);
            }
        }
    }
}

/// Sends until the connection fails.
fn send(to: SocketAddr) -> io::Result<()> {
    let mut connection = TcpStream::connect(to)?;
    let bytes = [0; BUFFER_BYTES];
    loop {
        connection.write_all(&bytes)?;
    }
}

/// Receives until the connection ends or fails.
fn receive(mut connection: TcpStream) {
    let mut buffer = [0; BUFFER_BYTES];
    while connection.read(&mut buffer).is_ok_and(|count| count > 0) {}
}
