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
