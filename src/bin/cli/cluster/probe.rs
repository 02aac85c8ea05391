//! Asks a replica on this machine whether it is the leader, with `INFO raft`, as any client can.

use std::time::Duration;

use bowline::storage::cluster_fingerprint;

use crate::cli::connection::Connection;

/// Timeout of a connection to a replica on this machine, and of its reply. A replica that exceeds
/// it is considered unreachable.
const TIMEOUT: Duration = Duration::from_millis(200);

/// Returns whether the replica that listens on `port` of this machine belongs to the cluster
/// `cluster` and reports that it is the leader. Another cluster's replica may have taken the port.
pub(super) fn is_leader(port: u16, cluster: u128) -> bool {
    let id = format!("raft_cluster_fingerprint:{:032x}", cluster_fingerprint(cluster));
    info(port).is_ok_and(|text| {
        text.lines().any(|line| line == id) && text.lines().any(|line| line == "raft_role:leader")
    })
}

fn info(port: u16) -> anyhow::Result<String> {
    let mut connection = Connection::open(&format!("127.0.0.1:{port}"), TIMEOUT)?;
    Ok(connection.call(&["INFO", "raft"])?.unwrap_or_default())
}
