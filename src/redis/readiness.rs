//! Why a replica is not ready to serve clients, for the probes `/readyz` and `bowline admin ready`.
//!
//! Both decide alike: a replica is ready if it is a full member, so not rejoining, and can answer a
//! linearizable read. For that it needs a leader with a majority, and has to have applied
//! everything that was committed before the probe. Low disk space and a full memory do not count,
//! since the replica still serves reads, and no other replica would serve the writes.

use std::fmt;

/// A reason why a replica is not ready to serve clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unready {
    /// The replica is loading its folder.
    Loading,
    /// The replica was asked to stop.
    Stopping,
    /// The replica has lost its disk, and has not caught up yet.
    Rejoining,
    /// The replica knows no leader, or is not connected to it.
    NoLeader,
    /// The leader has not confirmed a read in time.
    Unconfirmed,
    /// The replica has not applied all committed entries in time. The number is that of the entries
    /// it lacked.
    Behind(u64),
    /// The read was refused, with this error.
    Refused(String),
    /// The replica is too busy to answer.
    Busy,
}

impl fmt::Display for Unready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unready::Loading => f.write_str("loading: the replica reads its folder"),
            Unready::Stopping => f.write_str("stopping: the replica was asked to stop"),
            Unready::Rejoining => {
                f.write_str("rejoining: the replica lost its disk; wait until it has caught up")
            }
            Unready::NoLeader => f.write_str(
                "no leader: the replica knows no leader, or is not connected to it; start the \
                 other replicas, or wait for the election",
            ),
            Unready::Unconfirmed => f.write_str(
                "no confirmation: the leader has not confirmed a read in time; it may lack a \
                 majority",
            ),
            Unready::Behind(entries) => {
                write!(f, "behind: the replica has still to apply {entries} committed entries")
            }
            Unready::Refused(error) => write!(f, "reads are refused: {error}"),
            Unready::Busy => f.write_str("busy: the network stage has not answered in time"),
        }
    }
}
