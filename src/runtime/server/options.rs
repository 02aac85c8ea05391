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
    /// This replica.
    pub id: NodeId,
    /// Address for clients.
    pub listen: SocketAddr,
    /// Address for peers.
    pub peer_listen: SocketAddr,
    /// The other replicas and their addresses for peers.
    pub peers: Vec<(NodeId, SocketAddr)>,
    /// Address that clients are redirected to, as `host:port`; `None` for `listen`.
    pub announce: Option<String>,
    /// The replica's folder.
    pub folder: PathBuf,
    /// The cluster that the folder must belong to; `None` accepts any.
    pub cluster: Option<u128>,
    /// How to create the replica's files in an empty folder, which requires `cluster`; `None` if
    /// they exist.
    pub bootstrap: Option<Bootstrap>,
    /// Timeouts and limits of consensus.
    pub config: Config,
    /// The threads of the stages.
    pub threads: Threads,
    /// Maximum number of client connections.
    pub clients_max: u64,
    /// Memory limit in bytes for all clients together.
    pub clients_bytes_max: u64,
    /// Memory limit in bytes for data, log and clients, above which commands that add data are
    /// refused; 0 for none.
    pub memory_max: u64,
    /// Idle time in seconds after which a client is disconnected; 0 for never.
    pub idle_seconds_max: u64,
    /// Bytes of log growth within which the next snapshot completes, or 7/16 of the snapshot if
    /// that is more.
    pub snapshot_log_bytes: u64,
    /// Additional address where this replica reports the role of a Sentinel; `None` for none.
    pub sentinel_listen: Option<SocketAddr>,
    /// Name of this cluster in Sentinel commands.
    pub sentinel_name: String,
    /// Whether clients may use `DEBUG`.
    pub debug: bool,
    /// Bytes of free disk space below which the replica refuses writes; 0 for no limit.
    pub disk_reserve: u64,
    /// Timeouts of requests.
    pub timeouts: Timeouts,
}

/// How to create a replica's files in an empty folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bootstrap {
    /// As a member of a new cluster.
    New,
    /// In place of a folder that was lost. The replica keeps its id, and neither votes nor
    /// campaigns until it has everything that it may have acknowledged.
    Rejoin,
}

impl ServerOptions {
    /// The address that clients are redirected to, as `host:port`.
    pub(crate) fn announced(&self) -> String {
        self.announce.clone().unwrap_or_else(|| self.listen.to_string())
    }

    /// The ids of all members, this replica included.
    pub fn members(&self) -> Vec<NodeId> {
        self.peers.iter().map(|(peer, _)| *peer).chain([self.id]).collect()
    }
}
