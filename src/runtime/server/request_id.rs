//! Ids of requests between replicas: the replica's id and the random number of this opening of its
//! log (together the origin), then a sequence number that a process never reuses. So an id is
//! unique in the cluster. The count of openings would not do, because it starts again when a
//! replica is replaced.

use bytes::Bytes;

use crate::raft::{ClientRequest, RequestKind};
use crate::runtime::stages::applier::ORIGIN_BYTES;
use crate::types::{ClientId, NodeId, RequestId, RequestKey};

/// Stands for a peer that requests a read index, in place of a client. Clients count from 1.
pub(crate) const READ_INDEX_CLIENT: ClientId = ClientId(0);

/// The first bytes of the ids of a replica's requests: its id, and the lower six bytes of the
/// random number of its opening.
pub(crate) fn origin_of(replica: NodeId, opening: u64) -> [u8; ORIGIN_BYTES] {
    let mut origin = [0; ORIGIN_BYTES];
    origin[..2].copy_from_slice(&replica.0.to_be_bytes());
    origin[2..].copy_from_slice(&opening.to_be_bytes()[2..]);
    origin
}

/// Builds the id of a request.
pub(crate) fn request_id(origin: [u8; ORIGIN_BYTES], sequence: u64) -> RequestId {
    let mut id = [0; 16];
    id[..ORIGIN_BYTES].copy_from_slice(&origin);
    id[ORIGIN_BYTES..].copy_from_slice(&sequence.to_be_bytes());
    RequestId(id)
}

/// The replica that received a request from its client, and the request's sequence number there.
pub(crate) fn replica_and_sequence(id: RequestId) -> (NodeId, u64) {
    let replica = u16::from_be_bytes([id.0[0], id.0[1]]);
    let mut sequence = [0; 8];
    sequence.copy_from_slice(&id.0[ORIGIN_BYTES..]);
    (NodeId(replica), u64::from_be_bytes(sequence))
}

/// A peer's request for a read index, as the core handles it: a read without a payload.
pub(crate) fn read_index_request(from: NodeId, opening: u64, ticket: u64) -> ClientRequest {
    let request = request_id(origin_of(from, opening), ticket);
    let key = RequestKey { client: READ_INDEX_CLIENT, request };
    ClientRequest { key, kind: RequestKind::Read, payload: Bytes::new() }
}
