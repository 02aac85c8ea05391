//! The errors for requests that were submitted and have no outcome. Clients decide by the first
//! word: codes that make them retry are used only where the request was not and will not be
//! applied.

use std::fmt;

use bytes::BytesMut;

use crate::types::Index;
use crate::wire::resp::{Version, Writer};

/// Why a submitted request has no outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure<'a> {
    /// No leader was found in time; not applied.
    NoLeader,
    /// The leader has too many requests in flight; not applied.
    Busy,
    /// The leader, or a majority of the replicas, is short of disk space; not applied.
    DiskFull,
    /// The request adds data and `maxmemory` is reached; not applied.
    OutOfMemory,
    /// The leader changed and the request's log entry was replaced; not applied.
    Lost,
    /// The deadline passed, or the leader changed, while the request was in flight: it may have
    /// been applied, or may still be.
    Uncertain {
        /// The index of the request's log entry, if known.
        index: Option<Index>,
    },
    /// Another replica leads, and the client follows redirects; not applied.
    Moved {
        /// The slot of the request's key.
        slot: u16,
        /// The leader's host.
        host: &'a str,
        /// The leader's port for clients.
        port: u16,
    },
}

impl Failure<'_> {
    /// Appends the error reply to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        Writer::new(out, Version::Two).error(self.to_string().as_bytes());
    }
}

impl fmt::Display for Failure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NoLeader => {
                f.write_str("CLUSTERDOWN no leader is known; not applied, try again")
            }
            Failure::Busy => f.write_str(
                "TRYAGAIN the leader has too many requests in flight; not applied, try again",
            ),
            // Redis's code for a server that can't persist. Not TRYAGAIN: clients retry that at
            // once, and disk space does not come back within their retries.
            Failure::DiskFull => f.write_str(
                "MISCONF too little free disk space in the cluster, so writes are refused; not \
                 applied, see disk_free_bytes in INFO persistence",
            ),
            // Redis's text.
            Failure::OutOfMemory => {
                f.write_str("OOM command not allowed when used memory > 'maxmemory'.")
            }
            Failure::Lost => f.write_str("TRYAGAIN the leader changed; not applied, try again"),
            Failure::Uncertain { index: Some(index) } => {
                write!(f, "UNCERTAIN may or may not have been applied, index={index}")
            }
            Failure::Uncertain { index: None } => {
                f.write_str("UNCERTAIN may or may not have been applied")
            }
            Failure::Moved { slot, host, port } => write!(f, "MOVED {slot} {host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_begin_with_the_codes_that_clients_expect() {
        for (failure, wanted) in [
            (Failure::NoLeader, "-CLUSTERDOWN "),
            (Failure::Busy, "-TRYAGAIN "),
            (Failure::OutOfMemory, "-OOM command not allowed when used memory > 'maxmemory'.\r\n"),
            (Failure::Lost, "-TRYAGAIN "),
            (Failure::DiskFull, "-MISCONF "),
            (
                Failure::Uncertain { index: Some(Index(7)) },
                "-UNCERTAIN may or may not have been applied, index=7\r\n",
            ),
            (Failure::Uncertain { index: None }, "-UNCERTAIN may or may not have been applied\r\n"),
            (
                Failure::Moved { slot: 12182, host: "127.0.0.1", port: 7002 },
                "-MOVED 12182 127.0.0.1:7002\r\n",
            ),
        ] {
            let mut out = BytesMut::new();
            failure.encode(&mut out);
            assert!(out.starts_with(wanted.as_bytes()), "{}", out.escape_ascii());
        }
    }
}
