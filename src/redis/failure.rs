//! What a client is told when a request comes to nothing (design.md §6). Clients act on the first
//! word: those that make them try again by themselves stand only where the request surely was not
//! and will not be applied.

use std::fmt;

use bytes::BytesMut;

use crate::types::Index;
use crate::wire::resp::{Version, Writer};

/// Why there is no outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure<'a> {
    /// No leader was found in time; not applied.
    NoLeader,
    /// The leader has too much under way; not applied.
    Busy,
    /// Disks are short of room; not applied.
    DiskFull,
    /// It would add to what is in memory, of which no more may be used; not applied.
    OutOfMemory,
    /// Its entry was replaced by another leader's; not applied, and never will be.
    Lost,
    /// It was on its way when the time was over or the leader changed: it may have been applied,
    /// or may still be.
    Uncertain {
        /// Where its entry is in the log, if that is known.
        index: Option<Index>,
    },
    /// Somebody else leads: for clients that follow such hints.
    Moved {
        /// The slot of the request's key.
        slot: u16,
        /// The leader's host.
        host: &'a str,
        /// Its port for clients.
        port: u16,
    },
}

impl Failure<'_> {
    /// Writes the error reply.
    pub fn encode(&self, out: &mut BytesMut) {
        Writer::new(out, Version::Two).error(self.to_string().as_bytes());
    }
}

impl fmt::Display for Failure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NoLeader => f.write_str("CLUSTERDOWN no leader is known; nothing was done"),
            Failure::Busy => {
                f.write_str("TRYAGAIN the leader has too much under way; nothing was done")
            }
            // The word that Redis has for a server that can't persist: no client tries again by
            // itself, as with TRYAGAIN, for room does not come within its retries.
            Failure::DiskFull => f.write_str(
                "MISCONF there is too little room on the cluster's disks, so writes are refused \
                 until there is more (INFO persistence); nothing was done",
            ),
            // Redis's own words.
            Failure::OutOfMemory => {
                f.write_str("OOM command not allowed when used memory > 'maxmemory'.")
            }
            Failure::Lost => f.write_str("TRYAGAIN the leader changed; nothing was done"),
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
    fn clients_find_the_words_that_they_act_on() {
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
