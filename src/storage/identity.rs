//! The identity of a replica's folder: cluster, replica, and the number of the replica's starts.

use sha2::{Digest as _, Sha256};

use crate::types::NodeId;

/// Identity of a replica's folder: the cluster and the replica that it belongs to, and the number
/// of the replica's starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Id of the cluster: a random number, drawn once when the cluster is created, or the hash of
    /// the cluster's name.
    pub cluster: u128,
    /// Id of the replica that owns the folder.
    pub replica: NodeId,
    /// Number of times that the replica has been started, the current start included. In a folder
    /// restored from an older copy, the number continues from the older value. Peers detect such a
    /// folder by the random numbers that identify the starts: each start opens the log and draws
    /// one.
    pub incarnation: u64,
}

/// Returns the fingerprint of a cluster's id, for clients and logs: half of its SHA-256. The id
/// itself is a secret of the replicas, since a sender that knows the id can pose as one of them.
pub fn cluster_fingerprint(cluster: u128) -> u128 {
    let mut hash = Sha256::new();
    hash.update(b"bowline cluster fingerprint\n");
    hash.update(cluster.to_le_bytes());
    let hash: [u8; 32] = hash.finalize().into();
    let (half, _) = hash.split_first_chunk().expect("32 bytes");
    u128::from_be_bytes(*half)
}
