//! The errors for requests that were submitted to the consensus core but have no outcome. Clients
//! decide by the error code, which is the first word, whether to retry. Codes on which they retry
//! are used only if the request was not applied and never will be.

use std::fmt;

use bytes::BytesMut;

use crate::types::Index;
use crate::wire::resp::{Version, Writer};

/// The reason why a request that was submitted to the consensus core has no outcome, which is
/// reported to the client as an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure<'a> {
    /// No leader was known before the deadline of the request. The request was not applied.
    NoLeader,
    /// The leader cannot accept the request now. The request was not applied.
    Busy,
    /// The leader, or a majority of the replicas, has too little free disk space. The request was
    /// not applied.
    DiskFull,
    /// The command would add data, but memory usage exceeds `maxmemory`. The request was not
    /// applied.
    OutOfMemory,
    /// The scripts of other clients of this replica take too long. The request was not applied.
    BusyScript,
    /// The leader changed, and a new leader replaced the log entry of the request. The request was
    /// not applied.
    Lost,
    /// The deadline of the request passed, or the leader changed, while the request was in flight.
    /// The request may have been applied, or may still be applied later.
    Uncertain {
        /// Index of the log entry that contains the request; `None` if unknown.
        index: Option<Index>,
    },
    /// Another replica is the leader, and the client can follow a `MOVED` redirect to it. The
    /// request was not applied.
    Moved {
        /// Redis Cluster hash slot of the request's first key.
        slot: u16,
        /// Host at which clients reach the leader.
        host: &'a str,
        /// TCP port at which clients reach the leader.
        port: u16,
    },
}

impl Failure<'_> {
    /// Appends the error reply for this failure to `out`.
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
                "TRYAGAIN the leader cannot accept the request now; not applied, try again",
            ),
            // Redis's code for a server that can't persist data. Not TRYAGAIN, on which clients
            // retry at once: disk space does not become free within their retries.
            Failure::DiskFull => f.write_str(
                "MISCONF too little free disk space in the cluster, so writes are refused; not \
                 applied, see disk_free_bytes in INFO persistence",
            ),
            // Redis's text.
            Failure::OutOfMemory => {
                f.write_str("OOM command not allowed when used memory > 'maxmemory'.")
            }
            Failure::BusyScript => f.write_str(
                "BUSY other scripts of this replica take too long; not applied, try again, or use \
                 SCRIPT KILL",
            ),
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
    fn error_replies_begin_with_the_code_that_redis_clients_expect() {
        for (failure, wanted) in [
            (Failure::NoLeader, "-CLUSTERDOWN "),
            (Failure::Busy, "-TRYAGAIN "),
            (Failure::OutOfMemory, "-OOM command not allowed when used memory > 'maxmemory'.\r\n"),
            (Failure::Lost, "-TRYAGAIN "),
            (Failure::BusyScript, "-BUSY "),
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
