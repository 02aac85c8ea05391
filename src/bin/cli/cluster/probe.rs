//! Asks a replica on this machine whether it is the leader, with `INFO raft`, as any client can.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use bowline::storage::cluster_fingerprint;

/// Timeout of a connection to a replica on this machine, and of its reply. A replica that exceeds
/// it is considered unreachable.
const TIMEOUT: Duration = Duration::from_millis(200);
/// Maximum number of bytes read from a replica's reply to `INFO raft`.
const REPLY_BYTES_MAX: u64 = 64 << 10;

/// Returns whether the replica that listens on `port` of this machine belongs to the cluster
/// `cluster` and reports that it is the leader. Another cluster's replica may have taken the port.
pub(super) fn is_leader(port: u16, cluster: u128) -> bool {
    let id = format!("raft_cluster_fingerprint:{:032x}", cluster_fingerprint(cluster));
    info(port).is_ok_and(|text| {
        text.lines().any(|line| line == id) && text.lines().any(|line| line == "raft_role:leader")
    })
}

fn info(port: u16) -> std::io::Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    // QUIT makes the replica close the connection, which ends the reply.
    stream.write_all(b"INFO raft\r\nQUIT\r\n")?;
    let mut text = String::new();
    stream.take(REPLY_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}
