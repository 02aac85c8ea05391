//! Ids of batches of requests, and of requests for a read index. An id consists of an origin and a
//! sequence number that the process never reuses. The origin is the replica's id and the random
//! number that identifies its current start, generated when the process opened the log. So an id is
//! unique in the cluster, except with negligible probability. A counter of the replica's starts
//! could not replace the random number, because it begins again when a replica is replaced.

use bytes::Bytes;

use crate::raft::{ClientRequest, RequestKind};
use crate::runtime::stages::applier::ORIGIN_BYTES;
use crate::types::{ClientId, NodeId, RequestId, RequestKey};

/// Client id in the request key of a peer's request for a read index.
pub(crate) const READ_INDEX_CLIENT: ClientId = ClientId(0);

/// Client id in the request key of a batch of clients' requests.
pub(crate) const BATCH_CLIENT: ClientId = ClientId(1);

/// Client id in the request key of an operation of the replica itself, for which no client waits.
pub(crate) const NO_CLIENT: ClientId = ClientId(2);

/// Returns the first eight bytes of all ids that `replica` creates: the replica's id in two bytes,
/// and the lower six bytes of `start_id`, the random number that identifies the replica's current
/// start and was generated when it opened its log.
pub(crate) fn origin_of(replica: NodeId, start_id: u64) -> [u8; ORIGIN_BYTES] {
    let mut origin = [0; ORIGIN_BYTES];
    origin[..2].copy_from_slice(&replica.0.to_be_bytes());
    origin[2..].copy_from_slice(&start_id.to_be_bytes()[2..]);
    origin
}

/// Returns the id of a batch or of a request for a read index: `origin` followed by the sequence
/// number. `origin` is the result of [`origin_of`] for the replica that creates the id.
pub(crate) fn request_id(origin: [u8; ORIGIN_BYTES], sequence: u64) -> RequestId {
    let mut id = [0; 16];
    id[..ORIGIN_BYTES].copy_from_slice(&origin);
    id[ORIGIN_BYTES..].copy_from_slice(&sequence.to_be_bytes());
    RequestId(id)
}

/// Returns the replica that created the batch or request with this id, and its sequence number.
pub(crate) fn replica_and_sequence(id: RequestId) -> (NodeId, u64) {
    let replica = u16::from_be_bytes([id.0[0], id.0[1]]);
    let mut sequence = [0; 8];
    sequence.copy_from_slice(&id.0[ORIGIN_BYTES..]);
    (NodeId(replica), u64::from_be_bytes(sequence))
}

/// Returns a peer's request for a read index in the form in which the Raft core handles it: a read
/// without a payload. `start_id` is the random number that identifies the peer's current start,
/// generated when the peer opened its log. `ticket` is the number that the reply will contain.
pub(crate) fn read_index_request(from: NodeId, start_id: u64, ticket: u64) -> ClientRequest {
    let request = request_id(origin_of(from, start_id), ticket);
    let key = RequestKey { client: READ_INDEX_CLIENT, request };
    ClientRequest { key, kind: RequestKind::Read, payload: Bytes::new() }
}
