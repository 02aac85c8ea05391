//! Keys for datagrams from peers. Each TLS connection for urgent messages that a peer opens yields
//! new keys.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;

use crate::tls::{DatagramKeys, key_id};
use crate::transport::Outbox;
use crate::types::NodeId;

/// Maximum number of keys kept per peer. A datagram stream may keep using the keys of an earlier
/// connection for a while.
const KEYS_PER_PEER_MAX: usize = 4;

/// Source or destination of datagrams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PeerAddress {
    pub(crate) address: SocketAddr,
    /// Id of the keys that encrypt them; `None` if replicas use no certificates.
    pub(crate) key: Option<u64>,
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key {
            None => self.address.fmt(f),
            // A cookie is valid only with the same keys.
            Some(key) => write!(f, "{} with the keys {key:016x}", self.address),
        }
    }
}

/// The keys of all peers' connections, oldest first.
#[derive(Debug, Default)]
pub(super) struct IncomingKeys(VecDeque<(NodeId, DatagramKeys)>);

impl IncomingKeys {
    /// Adds the keys of a new connection from `peer`. Discards the peer's oldest keys if it has too
    /// many.
    pub(super) fn add(&mut self, peer: NodeId, keys: DatagramKeys) {
        self.0.push_back((peer, keys));
        if self.0.iter().filter(|(it, _)| *it == peer).count() > KEYS_PER_PEER_MAX
            && let Some(oldest) = self.0.iter().position(|(it, _)| *it == peer)
        {
            self.0.remove(oldest);
        }
    }

    /// Discards all keys, so that no datagram is accepted until the peers have connected again.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Returns the peer that the keys with this id belong to.
    pub(super) fn peer_of(&self, id: u64) -> Option<NodeId> {
        self.0.iter().find(|(_, keys)| keys.id() == id).map(|(peer, _)| *peer)
    }

    fn keys(&mut self, id: u64) -> Option<&mut DatagramKeys> {
        self.0.iter_mut().map(|(_, keys)| keys).find(|keys| keys.id() == id)
    }

    /// Decrypts a datagram in place and removes its header and tag. Returns false if it was not
    /// encrypted with a peer's keys, or has arrived before; its contents are then undefined.
    pub(super) fn open(&mut self, sealed: &mut Vec<u8>) -> bool {
        key_id(sealed).and_then(|id| self.keys(id)).is_some_and(|keys| open(keys, sealed))
    }

    /// Encrypts all datagrams in `from` with the keys `id`, and appends them to `to`. Appends
    /// nothing if those keys have been discarded.
    pub(super) fn seal(&mut self, id: u64, from: &Outbox, to: &mut Outbox) {
        if let Some(keys) = self.keys(id) {
            seal(keys, from, to);
        }
    }
}

/// Decrypts a datagram in place and removes its header and tag. Returns false if it was not
/// encrypted with these keys, or has arrived before; its contents are then undefined.
pub(super) fn open(keys: &mut DatagramKeys, sealed: &mut Vec<u8>) -> bool {
    let Some(opened) = keys.open(sealed).map(<[u8]>::len) else { return false };
    let header = DatagramKeys::HEADER_BYTES;
    sealed.truncate(header + opened);
    sealed.drain(..header);
    true
}

/// Encrypts all datagrams in `from` and appends them to `to`.
pub(super) fn seal(keys: &mut DatagramKeys, from: &Outbox, to: &mut Outbox) {
    for datagram in from.datagrams() {
        to.push_with(|out| keys.seal(datagram, out));
    }
}
