//! The errors for requests that were submitted to the consensus core and have no outcome. Clients
//! decide by the error code, the first word: codes on which they retry are used only if the request
//! was not applied and will not be.

use std::fmt;

use bytes::BytesMut;

use crate::types::Index;
use crate::wire::resp::{Version, Writer};

/// Why a request that was submitted to the consensus core has no outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure<'a> {
    /// No leader was found before the deadline. The request was not applied.
    NoLeader,
    /// The leader has too many requests in flight. The request was not applied.
    Busy,
    /// The leader, or a majority of the replicas, is short of disk space. The request was not
    /// applied.
    DiskFull,
    /// The request would add data while memory in use exceeds `maxmemory`. It was not applied.
    OutOfMemory,
    /// The leader changed and another entry replaced the request's log entry. The request was not
    /// applied.
    Lost,
    /// The deadline passed, or the leader changed, while the request was in flight: it may have
    /// been applied already, may be applied later, or may never be.
    Uncertain {
        /// Index of the request's log entry; `None` if unknown.
        index: Option<Index>,
    },
    /// Another replica leads, and the client follows `MOVED` redirections. The request was not
    /// applied.
    Moved {
        /// Redis Cluster hash slot of the request's first key.
        slot: u16,
        /// Host of the leader, for clients.
        host: &'a str,
        /// TCP port of the leader for clients.
        port: u16,
    },
}

impl Failure<'_> {
    /// Appends this failure as an error reply to `out`.
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
                write!(
                    f,
                    "UNCERTAIN the deadline passed or the leader changed; the command may or may \
                     not have been applied, check before retrying, index={index}"
                )
            }
            Failure::Uncertain { index: None } => f.write_str(
                "UNCERTAIN the deadline passed or the leader changed; the command may or may not \
                 have been applied, check before retrying",
            ),
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
                "-UNCERTAIN the deadline passed or the leader changed; the command may or may not \
                 have been applied, check before retrying, index=7\r\n",
            ),
            (
                Failure::Uncertain { index: None },
                "-UNCERTAIN the deadline passed or the leader changed; the command may or may not \
                 have been applied, check before retrying\r\n",
            ),
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
