//! The identity of a replica's folder: cluster, replica, and the number of the replica's starts.

use sha2::{Digest as _, Sha256};

use crate::types::NodeId;

/// Owner of a data folder: the ids of the cluster and the replica, and how many times that replica
/// has been started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Id of the cluster: a random number, drawn once when the cluster is created, or the hash of
    /// the cluster's name.
    pub cluster: u128,
    /// Id of the replica that owns the folder.
    pub replica: NodeId,
    /// Number of times that the replica has been started, the current start included. A replica
    /// that runs on an older copy of its folder repeats earlier counts. Its peers detect this,
    /// because each start also draws a random number, which differs from that of the earlier start
    /// with the same count.
    pub incarnation: u64,
}

/// Returns the first 128 bits of the SHA-256 of a cluster's id, which clients and logs may show.
/// The id itself is secret: a sender that knows it can pose as a replica of the cluster.
pub fn cluster_fingerprint(cluster: u128) -> u128 {
    let mut hash = Sha256::new();
    hash.update(b"bowline cluster fingerprint\n");
    hash.update(cluster.to_le_bytes());
    let hash: [u8; 32] = hash.finalize().into();
    let (half, _) = hash.split_first_chunk().expect("32 bytes");
    u128::from_be_bytes(*half)
}
