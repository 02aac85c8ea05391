//! The errors that prevent a replica from starting, or stop it. Their messages say what failed,
//! with which address or file, why, and what to do.

use std::io;
use std::net::SocketAddr;

use crate::config::ConfigError;
use crate::storage::StorageError;
use crate::tls::TlsError;
use crate::types::NodeId;

/// The error that prevented a replica from starting, or stopped it.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is invalid, because some of its values contradict each other.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The replica's data folder cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The replica's folder is that of a witness, but the replica is not started as one, or the
    /// other way around.
    #[error(
        "the folder is that of a {}, but the replica is started {} --witness: a replica with data \
         must never use a folder without data; start it as before, or with an empty folder and a \
         new id",
        if *is_witness { "witness" } else { "replica with data" },
        if *is_witness { "without" } else { "with" }
    )]
    OtherKind {
        /// Whether the folder is that of a witness.
        is_witness: bool,
    },
    /// In protected mode and without certificates, the replica would have to connect with peers on
    /// other machines.
    #[error(
        "replica {replica} has no certificates for peers, so it connects to peers only on loopback \
         (protected mode), but {address} is not a loopback address; create certificates with \
         `bowline admin certs` and set --peer-tls-cert-file, --peer-tls-key-file and \
         --peer-tls-ca-cert-file on all replicas, or set --protected-mode no if only the replicas \
         can reach the port for peers"
    )]
    UnprotectedPeers {
        /// The replica that cannot start.
        replica: NodeId,
        /// The address of a peer, or the one on which the replica would have to listen, as
        /// `host:port`.
        address: String,
    },
    /// A listening socket could not be opened.
    #[error("cannot listen for {purpose} on {address}: {source}; {advice}")]
    Listen {
        /// The kind of connections for which the socket was to be opened: connections from clients,
        /// from Sentinel clients, or from peers.
        purpose: &'static str,
        /// The address to listen on, as given in the options.
        address: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
        /// Advice to the operator on how to resolve the error. It is the last part of the error
        /// message.
        advice: &'static str,
    },
    /// The state of the replica is wrong: a majority of the voters has another one. The folder is
    /// marked, so that the next start rebuilds the state.
    #[error("the state of this replica is wrong; the next start rebuilds it")]
    WrongState,
    /// A system call failed.
    #[error("{doing}: {source}")]
    System {
        /// The action that failed, for example "cannot set up the network". It is the first part of
        /// the error message.
        doing: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
}

impl RunError {
    /// Returns whether the error means that the replica's data folder is damaged or was lost, so
    /// that the replica must be replaced.
    pub fn is_damage(&self) -> bool {
        matches!(self, RunError::Storage(error) if error.is_damage())
    }

    /// Returns whether the error means that another process is using the replica's data folder.
    pub fn is_locked(&self) -> bool {
        matches!(self, RunError::Storage(StorageError::Locked { .. }))
    }
}

/// Returns a function that wraps an error of the operating system in [`RunError::System`], for
/// `map_err`. `doing` says which action failed, for example "cannot set up the network".
pub(crate) fn system_error(doing: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::System { doing, source }
}
