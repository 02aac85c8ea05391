//! Asks a replica of this machine whether it leads, as any client would: `INFO raft`.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use bowline::storage::cluster_fingerprint;

/// A replica of this machine that takes longer is as good as away.
const PATIENCE: Duration = Duration::from_millis(200);
/// Most bytes of an answer that are looked at.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Whether the replica at this port is one of `cluster` and says that it leads. Another cluster's
/// may listen there, while ours can't.
pub(super) fn leads(port: u16, cluster: u128) -> bool {
    let id = format!("raft_cluster_fingerprint:{:032x}", cluster_fingerprint(cluster));
    info(port).is_ok_and(|text| {
        text.lines().any(|line| line == id) && text.lines().any(|line| line == "raft_role:leader")
    })
}

fn info(port: u16) -> std::io::Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // After the second one the replica ends the connection, and with it the answer.
    stream.write_all(b"INFO raft\r\nQUIT\r\n")?;
    let mut text = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}
