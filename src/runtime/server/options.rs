//! The options of a server.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::Config;
use crate::runtime::server::clients::Timeouts;
use crate::runtime::stages::threads::Threads;
use crate::types::NodeId;

/// The options of a server.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The id of this replica.
    pub id: NodeId,
    /// Address where the replica listens for clients.
    pub listen: SocketAddr,
    /// Address where the replica listens for other replicas.
    pub peer_listen: SocketAddr,
    /// The ids of the other replicas, and the addresses where they listen for peers.
    pub peers: Vec<(NodeId, SocketAddr)>,
    /// Address that clients are redirected to, as `host:port`; `None` to use `listen`.
    pub announce: Option<String>,
    /// The replica's folder.
    pub folder: PathBuf,
    /// The id of the cluster that the folder must belong to; `None` accepts any.
    pub cluster: Option<u128>,
    /// How to create the replica's files in an empty folder, which requires `cluster`; `None` if
    /// they exist.
    pub bootstrap: Option<Bootstrap>,
    /// Consensus configuration: timeouts and limits.
    pub config: Config,
    /// How the stages are distributed over threads.
    pub threads: Threads,
    /// Maximum number of client connections.
    pub clients_max: u64,
    /// Memory limit in bytes for the connections of all clients together.
    pub clients_bytes_max: u64,
    /// Memory limit in bytes for keyspace, log and clients together. Above it, commands that add
    /// data are refused; 0 for no limit.
    pub memory_max: u64,
    /// Idle time in seconds after which a client is disconnected; 0 for never.
    pub idle_seconds_max: u64,
    /// Minimum log growth in bytes after which a snapshot begins.
    pub snapshot_log_bytes: u64,
    /// Log growth after which a snapshot begins, in percent of the latest snapshot's size; 0 for as
    /// much as memory allows.
    pub snapshot_log_percentage: u64,
    /// Additional address where this replica reports the role of a Sentinel; `None` for none.
    pub sentinel_listen: Option<SocketAddr>,
    /// The name of this cluster (the master name) in Sentinel commands.
    pub sentinel_name: String,
    /// Whether clients may use `DEBUG`.
    pub debug: bool,
    /// Bytes of free disk space below which the replica refuses writes while it leads; 0 for no
    /// limit.
    pub disk_reserve: u64,
    /// Timeouts of clients' requests.
    pub timeouts: Timeouts,
}

/// How to create the files of a replica whose folder is empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bootstrap {
    /// The replica is a member of a new cluster.
    New,
    /// The replica replaces one with the same id whose folder was lost. It does not vote or
    /// campaign until it has everything that the lost one may have acknowledged.
    Rejoin,
}

impl ServerOptions {
    /// Returns the address that clients are redirected to, as `host:port`.
    pub(crate) fn announced(&self) -> String {
        self.announce.clone().unwrap_or_else(|| self.listen.to_string())
    }

    /// Returns the ids of all members of the cluster, including this replica.
    pub fn members(&self) -> Vec<NodeId> {
        self.peers.iter().map(|(peer, _)| *peer).chain([self.id]).collect()
    }
}
