//! Errors that end a replica: what failed, on what, why, and what to do.

use std::io;
use std::net::SocketAddr;

use crate::config::ConfigError;
use crate::storage::StorageError;

/// Why a replica could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration contradicts itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The replica's folder can't be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A listening socket could not be opened.
    #[error("cannot listen for {whom} on {address}: {source}; {advice}")]
    Listen {
        /// Who would connect there: clients, a Sentinel's clients or peers.
        whom: &'static str,
        /// The address from the settings.
        address: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
        /// What the operator can do about it.
        advice: &'static str,
    },
    /// A system call failed.
    #[error("{doing}: {source}")]
    System {
        /// What the replica was doing.
        doing: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
}

impl RunError {
    /// Whether the replica's folder is damaged or was lost, so that the replica must be replaced.
    pub fn is_damage(&self) -> bool {
        matches!(self, RunError::Storage(error) if error.is_damage())
    }

    /// Whether another process has the folder open.
    pub fn is_locked(&self) -> bool {
        matches!(self, RunError::Storage(StorageError::Locked { .. }))
    }
}

/// Wraps an error of the operating system, for `map_err`. `doing` says what the replica was doing.
pub(crate) fn system_error(doing: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::System { doing, source }
}
