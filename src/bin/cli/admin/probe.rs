//! `bowline admin ping` and `bowline admin ready`: probes of one replica, for container health
//! checks and for rolling upgrades.

use std::process::ExitCode;

use anyhow::{anyhow, ensure};
use bowline::redis::Unready;

use super::replicas::{Info, TIMEOUT};
use crate::cli::connection::Connection;

/// Checks that the replica answers `PING`, which needs neither a leader nor other replicas. Fails
/// if there is no reply within [`TIMEOUT`].
pub(super) fn ping(address: &str) -> anyhow::Result<ExitCode> {
    let mut connection = Connection::open(address, TIMEOUT)?;
    match connection.call(&["PING"])? {
        // A replica that requires a login is alive, too.
        Err(error) if error.starts_with("NOAUTH ") => {}
        reply => {
            reply.map_err(|error| anyhow!("PING is refused: {error}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Checks that the replica serves: that it is not rejoining, and answers a linearizable read. Such
/// a read needs a leader with a majority, and a replica that has applied every entry committed
/// before it. A witness, which serves no reads, needs only a leader. Fails if the replica does not
/// answer within [`TIMEOUT`].
pub(super) fn ready(address: &str) -> anyhow::Result<ExitCode> {
    let mut connection = Connection::open(address, TIMEOUT)?;
    let info = Info::ask(&mut connection)?;
    let unready = |reason: Unready| anyhow!("the replica at {address} is not ready: {reason}");
    ensure!(!info.is_rejoining(), unready(Unready::Rejoining));
    if info.is_witness() {
        ensure!(info.leader_id().is_some(), unready(Unready::NoLeader));
        return Ok(ExitCode::SUCCESS);
    }
    // The reply does not depend on the key, which need not exist.
    let reply = connection.call(&["EXISTS", "bowline"])?;
    reply.map_err(|error| unready(Unready::Refused(error)))?;
    Ok(ExitCode::SUCCESS)
}
