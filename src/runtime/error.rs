//! Errors that end a replica: what failed, on what, why, and what to do.

use std::io;
use std::net::SocketAddr;

use crate::config::ConfigError;
use crate::storage::StorageError;

/// The error that prevented a replica from starting, or stopped it.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is invalid: some of its values contradict each other.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The replica's folder can't be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A listening socket could not be opened.
    #[error("cannot listen for {whom} on {address}: {source}; {advice}")]
    Listen {
        /// Whose connections the socket was to accept: those of clients, of clients of the Sentinel
        /// commands, or of peers.
        whom: &'static str,
        /// The address to listen on, from the options.
        address: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
        /// Advice to the operator, who may resolve the error by it: the end of the error message.
        advice: &'static str,
    },
    /// A system call failed.
    #[error("{doing}: {source}")]
    System {
        /// What failed, for example "cannot set up the network": the beginning of the error
        /// message.
        doing: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
}

impl RunError {
    /// Returns whether the replica's folder is damaged or was lost, so that the replica must be
    /// replaced.
    pub fn is_damage(&self) -> bool {
        matches!(self, RunError::Storage(error) if error.is_damage())
    }

    /// Returns whether another process has the replica's folder open.
    pub fn is_locked(&self) -> bool {
        matches!(self, RunError::Storage(StorageError::Locked { .. }))
    }
}

/// Returns a function that wraps an error of the operating system in [`RunError::System`], for
/// `map_err`. `doing` says what failed, for example "cannot set up the network".
pub(crate) fn system_error(doing: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::System { doing, source }
}
