//! Why a replica could not start, or had to stop.

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
    /// The folder can't be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// An address can't be listened on.
    #[error("can't listen for {whom} on {address}: {source}; {advice}")]
    Listen {
        /// For clients or for peers.
        whom: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
        /// What to change.
        advice: &'static str,
    },
    /// The system refused something.
    #[error("{doing}: {source}")]
    System {
        /// What we were doing.
        doing: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl RunError {
    /// Whether the replica can't start because its folder is damaged or was lost, so that only its
    /// replacement helps.
    pub fn is_damage(&self) -> bool {
        matches!(self, RunError::Storage(error) if error.is_damage())
    }

    /// Whether another process has the folder open.
    pub fn is_locked(&self) -> bool {
        matches!(self, RunError::Storage(StorageError::Locked { .. }))
    }
}

pub(crate) fn system_error(doing: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::System { doing, source }
}
