//! Ids of batches of requests, and of requests for a read index: an origin (the replica's id and
//! the random number that the replica drew when its process opened the log), then a sequence number
//! that the process never reuses. So an id is unique in the cluster. A count of the replica's
//! starts instead of the random number would not do, because it begins again when a replica is
//! replaced.

use bytes::Bytes;

use crate::raft::{ClientRequest, RequestKind};
use crate::runtime::stages::applier::ORIGIN_BYTES;
use crate::types::{ClientId, NodeId, RequestId, RequestKey};

/// Client id in the key of a peer's request for a read index.
pub(crate) const READ_INDEX_CLIENT: ClientId = ClientId(0);

/// Client id in the key of a batch of clients' requests.
pub(crate) const BATCH_CLIENT: ClientId = ClientId(1);

/// Returns the first eight bytes of all ids that `replica` makes: the replica's id in two bytes,
/// and the lower six bytes of `opening`, the random number drawn when the replica's log was opened.
pub(crate) fn origin_of(replica: NodeId, opening: u64) -> [u8; ORIGIN_BYTES] {
    let mut origin = [0; ORIGIN_BYTES];
    origin[..2].copy_from_slice(&replica.0.to_be_bytes());
    origin[2..].copy_from_slice(&opening.to_be_bytes()[2..]);
    origin
}

/// Returns the id of a batch or request: `origin`, which [`origin_of`] returns for the replica that
/// makes it, followed by the sequence number.
pub(crate) fn request_id(origin: [u8; ORIGIN_BYTES], sequence: u64) -> RequestId {
    let mut id = [0; 16];
    id[..ORIGIN_BYTES].copy_from_slice(&origin);
    id[ORIGIN_BYTES..].copy_from_slice(&sequence.to_be_bytes());
    RequestId(id)
}

/// Returns the replica that made a batch or request, and its sequence number there.
pub(crate) fn replica_and_sequence(id: RequestId) -> (NodeId, u64) {
    let replica = u16::from_be_bytes([id.0[0], id.0[1]]);
    let mut sequence = [0; 8];
    sequence.copy_from_slice(&id.0[ORIGIN_BYTES..]);
    (NodeId(replica), u64::from_be_bytes(sequence))
}

/// Returns a peer's request for a read index as the core handles it: a read without a payload.
/// `opening` is the random number drawn when the peer's log was opened; the reply carries `ticket`.
pub(crate) fn read_index_request(from: NodeId, opening: u64, ticket: u64) -> ClientRequest {
    let request = request_id(origin_of(from, opening), ticket);
    let key = RequestKey { client: READ_INDEX_CLIENT, request };
    ClientRequest { key, kind: RequestKind::Read, payload: Bytes::new() }
}
