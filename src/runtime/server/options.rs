//! The options of a server.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::config::Config;
use crate::runtime::error::RunError;
use crate::runtime::server::clients::Timeouts;
use crate::runtime::server::peers::PeerTransport;
use crate::runtime::stages::threads::Threads;
use crate::tls::{ClientCertificates, PeerDomain, TlsFiles};
use crate::types::NodeId;

/// The options with which a server is started.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The id of the replica that the server runs.
    pub id: NodeId,
    /// Address on which the replica listens for clients without TLS. If the port is 0 and there is
    /// a port for clients with TLS, it does not.
    pub listen: SocketAddr,
    /// The port for clients with TLS, and its certificates; `None` if there is no such port.
    pub tls: Option<ClientTls>,
    /// Address on which the replica listens for other replicas.
    pub peer_listen: SocketAddr,
    /// The ids of other replicas, and the addresses on which they listen for their peers, as
    /// `host:port`. They are used to create the cluster, and to reach members whose address is not
    /// in the log.
    pub peers: Vec<(NodeId, String)>,
    /// Transport protocol of the connections to the other replicas: TCP, UDP, or either of them
    /// depending on packet loss.
    pub peer_transport: PeerTransport,
    /// The certificates with which replicas verify each other; `None` for connections without TLS.
    pub peer_tls: Option<PeerTls>,
    /// Address at which the other replicas reach this one, as `host:port`, which it tells them;
    /// empty to tell them none; `None` to use `peer_listen`, unless that stands for all addresses
    /// of the machine.
    pub announce_peer: Option<String>,
    /// Address to which clients are redirected, as `host:port`; `None` to use `listen`, or the port
    /// for clients with TLS if there is no other.
    pub announce: Option<String>,
    /// The folder in which the replica stores its log and its snapshots.
    pub folder: PathBuf,
    /// The id of the cluster that the folder must belong to; `None` accepts a folder of any
    /// cluster.
    pub cluster: Option<u128>,
    /// How to create the replica's files in an empty folder, which also requires `cluster`; `None`
    /// if the files already exist.
    pub bootstrap: Option<Bootstrap>,
    /// Configuration of Raft: timeouts and limits.
    pub config: Config,
    /// How the stages of the replica (network, core, log writer, applier, snapshots) are assigned
    /// to threads.
    pub threads: Threads,
    /// Password of the user `default` as long as the cluster's users do not include it; `None` for
    /// none.
    pub password: Option<Password>,
    /// Whether the replica listens for clients on loopback only as long as it has no `password`,
    /// and connects to peers only on loopback as long as it has no `peer_tls`.
    pub is_protected: bool,
    /// Maximum number of client connections.
    pub clients_max: u64,
    /// Memory limit, in bytes, for the connections of all clients combined.
    pub clients_bytes_max: u64,
    /// Memory limit, in bytes, for keyspace, log and clients combined, above which commands that
    /// add data are refused; 0 for no limit.
    pub memory_max: u64,
    /// Idle time in seconds after which a client is disconnected; 0 to never disconnect idle
    /// clients.
    pub idle_seconds_max: u64,
    /// Minimum growth of the log, in bytes, before the next snapshot begins.
    pub snapshot_log_bytes: u64,
    /// Growth of the log after which the next snapshot begins, in percent of the latest snapshot's
    /// size; 0 for as much growth as memory allows.
    pub snapshot_log_percentage: u64,
    /// Maximum memory usage of the history of changes, in bytes; 0 to keep none.
    pub changes_history_bytes: usize,
    /// Address at which this replica serves metrics and probes over HTTP; `None` for no such
    /// address.
    pub http_listen: Option<SocketAddr>,
    /// Additional address at which this replica accepts Sentinel commands and reports the role of a
    /// Sentinel; `None` for no such address.
    pub sentinel_listen: Option<SocketAddr>,
    /// The name of this cluster (the master name) in Sentinel commands.
    pub sentinel_name: String,
    /// Whether clients may use the command `DEBUG`.
    pub debug: bool,
    /// Amount of free disk space, in bytes, below which the replica refuses writes while it is the
    /// leader; 0 for no limit.
    pub disk_reserve: u64,
    /// Interval at which the leader has the states of the replicas compared; zero for never.
    pub digest_check: Duration,
    /// Time limits for clients' requests: for finding a leader, for getting an outcome, and for
    /// receiving a request in full.
    pub timeouts: Timeouts,
}

/// The port for clients with TLS, and its certificates.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientTls {
    /// The port, at the host of `listen`.
    pub port: u16,
    /// The certificate of the server, and the authorities of the clients' certificates.
    pub files: TlsFiles,
    /// Whether clients must present a certificate.
    pub client_certificates: ClientCertificates,
}

/// The certificates with which replicas verify each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerTls {
    /// The certificate of this replica, and the authorities of the others' certificates.
    pub files: TlsFiles,
    /// The domain of the names in the certificates.
    pub domain: PeerDomain,
}

/// How to create the files of a replica in an empty folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bootstrap {
    /// The replica is a member of a new cluster, which has no data yet.
    New,
    /// The replica is added to an existing cluster, under an id that was never used in it. It does
    /// nothing until the leader sends it the log.
    Join,
    /// The replica replaces one with the same id whose folder was lost. It neither votes nor
    /// campaigns until it has received everything that the lost replica may have acknowledged.
    Rejoin,
}

/// A password, which is not shown in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Returns `address` if it is on loopback, otherwise the loopback address of the same kind and with
/// the same port.
fn loopback(address: SocketAddr) -> SocketAddr {
    let port = address.port();
    match address {
        _ if is_loopback(address.ip()) => address,
        SocketAddr::V4(_) => (Ipv4Addr::LOCALHOST, port).into(),
        SocketAddr::V6(_) => (Ipv6Addr::LOCALHOST, port).into(),
    }
}

/// Returns whether an IP address is on loopback, also if it is an IPv4 address in the form of an
/// IPv6 address.
pub(super) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Returns whether the host of `address`, a `host:port`, is on loopback: an IP address there, or
/// `localhost`. Any other name counts as another machine.
fn has_loopback_host(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(is_loopback)
}

impl ServerOptions {
    /// Returns the options with which the server runs. In protected mode, it listens for clients on
    /// loopback only if it has no password, and for peers on loopback only if it has no
    /// certificates for them.
    ///
    /// # Errors
    /// [`RunError::UnprotectedPeers`] if the replica could then not reach a replica in the options,
    /// or a replica that it must hear from.
    pub(crate) fn protected(&self) -> Result<ServerOptions, RunError> {
        let mut options = self.clone();
        if self.password.is_none() && self.is_protected {
            options.listen = loopback(self.listen);
            options.sentinel_listen = self.sentinel_listen.map(loopback);
            let listen = options.listen;
            if (listen, options.sentinel_listen) == (self.listen, self.sentinel_listen) {
                tracing::info!(
                    %listen,
                    "no password is set; this replica listens for clients on loopback only"
                );
            } else {
                tracing::warn!(
                    %listen,
                    "no password is set, so this replica listens for clients on loopback only \
                     (protected mode); set --requirepass, or --protected-mode no"
                );
            }
        }
        if self.peers_are_on_loopback() {
            options.peer_listen = self.protected_peer_listen()?;
        }
        Ok(options)
    }

    /// Returns whether the replica must connect with peers on loopback only, because it has no
    /// certificates for them.
    pub(crate) fn peers_are_on_loopback(&self) -> bool {
        self.is_protected && self.peer_tls.is_none()
    }

    /// Returns the address on which a replica that has no certificates for peers listens for them
    /// in protected mode, and logs it.
    fn protected_peer_listen(&self) -> Result<SocketAddr, RunError> {
        let unprotected = |address: &str| {
            Err(RunError::UnprotectedPeers { address: address.to_owned(), replica: self.id })
        };
        let others = self.peers.iter().filter(|(id, _)| *id != self.id);
        let mut addresses = others.map(|(_, address)| address.as_str());
        if let Some(address) = addresses.find(|address| !has_loopback_host(address)) {
            return unprotected(address);
        }
        let peer_listen = loopback(self.peer_listen);
        // It would wait forever for the leader to connect.
        let waits = matches!(self.bootstrap, Some(Bootstrap::Join | Bootstrap::Rejoin));
        if waits && peer_listen != self.peer_listen {
            return unprotected(&self.peer_listen.to_string());
        }
        if peer_listen == self.peer_listen {
            tracing::info!(
                %peer_listen,
                "no certificates for peers are set; this replica connects to peers only on loopback"
            );
        } else {
            tracing::warn!(
                %peer_listen,
                "no certificates for peers are set, so this replica connects to peers only on \
                 loopback (protected mode); create certificates with `bowline admin certs` and \
                 set --peer-tls-cert-file, --peer-tls-key-file and --peer-tls-ca-cert-file, or set \
                 --protected-mode no"
            );
        }
        Ok(peer_listen)
    }

    /// Returns the address to which clients are redirected, as `host:port`.
    pub(crate) fn announced(&self) -> String {
        let own = || self.plain_listen().or(self.tls_listen()).unwrap_or(self.listen).to_string();
        self.announce.clone().unwrap_or_else(own)
    }

    /// Returns the address on which the replica listens for clients without TLS; `None` if it does
    /// not.
    pub(crate) fn plain_listen(&self) -> Option<SocketAddr> {
        (self.tls.is_none() || self.listen.port() != 0).then_some(self.listen)
    }

    /// Returns the address on which the replica listens for clients with TLS; `None` if it does
    /// not.
    pub(crate) fn tls_listen(&self) -> Option<SocketAddr> {
        self.tls.as_ref().map(|tls| SocketAddr::new(self.listen.ip(), tls.port))
    }

    /// Returns the address at which the other replicas reach this one, as `host:port`; empty if it
    /// is not known, or not to be told.
    pub(crate) fn announced_to_peers(&self) -> String {
        let is_usable = !self.peer_listen.ip().is_unspecified();
        let own = || if is_usable { self.peer_listen.to_string() } else { String::new() };
        self.announce_peer.clone().unwrap_or_else(own)
    }

    /// Returns the interval at which this replica compares states; zero for a witness, which has
    /// none.
    pub(crate) fn digest_check_interval(&self) -> Duration {
        if self.config.is_witness { Duration::ZERO } else { self.digest_check }
    }

    /// Returns the ids of all replicas that the options name, including this one.
    pub fn members(&self) -> Vec<NodeId> {
        self.peers.iter().map(|(peer, _)| *peer).chain([self.id]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_addresses_and_localhost_are_on_this_machine() {
        for own in ["127.0.0.1:1", "127.8.9.1:1", "[::1]:1", "localhost:1", "LOCALHOST:2"] {
            assert!(has_loopback_host(own), "{own}");
        }
        assert!(has_loopback_host("[::ffff:127.0.0.1]:1"));
        let others = [
            "192.0.2.1:1",
            "[2001:db8::1]:1",
            "0.0.0.0:1",
            "[::]:1",
            "bowline-1:1",
            "127.0.0.1.x:1",
        ];
        for other in others {
            assert!(!has_loopback_host(other), "{other}");
        }
        for (address, wanted) in [
            ("0.0.0.0:5", "127.0.0.1:5"),
            ("[::]:5", "[::1]:5"),
            ("127.0.0.2:5", "127.0.0.2:5"),
            ("192.0.2.1:5", "127.0.0.1:5"),
        ] {
            assert_eq!(loopback(address.parse().unwrap()).to_string(), wanted);
        }
    }
}
