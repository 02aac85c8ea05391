//! Connections between replicas. Each replica sends on the connections that it makes and receives
//! on those that its peers make. There are two connections per peer and direction, so that a
//! heartbeat never waits behind a megabyte of entries.
//!
//! | file | contents |
//! |---|---|
//! | `outgoing` | connections to peers |
//! | `incoming` | connections from peers |
//! | `handshake` | whether to accept the hello that begins a connection |

mod handshake;
pub(crate) mod incoming;
pub(crate) mod outgoing;

use std::str::FromStr;

/// What the connections to peers are made of. A replica accepts both kinds from its peers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerTransport {
    /// TCP connections.
    Tcp,
    /// Streams over UDP datagrams, for networks that lose packets.
    Udp,
}

impl FromStr for PeerTransport {
    type Err = ();

    fn from_str(text: &str) -> Result<PeerTransport, ()> {
        match text {
            "tcp" => Ok(PeerTransport::Tcp),
            "udp" => Ok(PeerTransport::Udp),
            _ => Err(()),
        }
    }
}
