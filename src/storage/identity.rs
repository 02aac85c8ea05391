//! The identity of a replica's folder: cluster, replica, and how often its log was opened.

use sha2::{Digest as _, Sha256};

use crate::types::NodeId;

/// The owner of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's id: a random number, drawn once when the cluster is created.
    pub cluster: u128,
    /// The replica's id.
    pub replica: NodeId,
    /// How often the log was opened, this time included. It never repeats, so peers can tell a
    /// replica from an older copy of itself.
    pub incarnation: u64,
}

/// The fingerprint of a cluster's id, for clients and logs: half of its SHA-256. The id itself is a
/// secret of the replicas, since a sender that knows it can pose as one of them.
pub fn cluster_fingerprint(cluster: u128) -> u128 {
    let mut hash = Sha256::new();
    hash.update(b"bowline cluster fingerprint\n");
    hash.update(cluster.to_le_bytes());
    let hash: [u8; 32] = hash.finalize().into();
    let (half, _) = hash.split_first_chunk().expect("32 bytes");
    u128::from_be_bytes(*half)
}
