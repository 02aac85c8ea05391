//! Connections between replicas. A replica sends on the connections that it opens, and receives on
//! those that its peers open. There are two connections per peer and direction, so that a heartbeat
//! never waits behind a megabyte of entries.
//!
//! | file | contents |
//! |---|---|
//! | `outgoing` | connections to all peers |
//! | `peer` | connections to one peer, and which transport they use |
//! | `incoming` | connections from peers |
//! | `addresses` | known addresses of peers, and the resolution of host names |
//! | `datagram_keys` | keys with which datagrams are encrypted |
//! | `handshake` | whether to accept the hello with which a connection starts |
//!
//! The behaviour of connections, independent of TCP or datagrams, is in `transport::outgoing` and
//! `transport::incoming`. The simulator also runs that code, as with `--peer-transport udp`:
//! without TCP, and without the change between TCP connections and streams.

pub(crate) mod addresses;
pub(crate) mod datagram_keys;
mod handshake;
pub(crate) mod incoming;
pub(crate) mod outgoing;
mod peer;

use std::str::FromStr;

/// Transport protocol of a replica's connections to its peers. Regardless of this option, a replica
/// accepts both TCP connections and datagram streams from its peers. With certificates, a datagram
/// stream needs keys from a TCP connection first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerTransport {
    /// Small messages use datagram streams over UDP, which also measure packet loss. Large messages
    /// use TCP while the loss is low, and a datagram stream otherwise. If no datagrams get through,
    /// all messages use TCP.
    Auto,
    /// All messages use TCP connections.
    Tcp,
    /// All messages use datagram streams over UDP, for networks with packet loss.
    Udp,
}

impl FromStr for PeerTransport {
    type Err = ();

    fn from_str(text: &str) -> Result<PeerTransport, ()> {
        match text {
            "auto" => Ok(PeerTransport::Auto),
            "tcp" => Ok(PeerTransport::Tcp),
            "udp" => Ok(PeerTransport::Udp),
            _ => Err(()),
        }
    }
}
