//! Reads on a replica that does not lead: the replica requests a read index from the leader, and
//! serves the reads from its own state once the state has applied the index. One request covers all
//! reads that arrived since the request before (Raft thesis 6.4).

use std::collections::VecDeque;
use std::time::Duration;

use crate::raft::ClientRequest;
use crate::types::{Instant, NodeId, RequestKey};

/// Time after which a request for a read index counts as lost, together with its connection or its
/// leader.
const REPLY_TIMEOUT: Duration = Duration::from_millis(500);

/// A request for a read index, sent to the leader.
#[derive(Debug)]
struct Requested {
    ticket: u64,
    /// The leader that the request was sent to. Replies of other replicas are ignored.
    leader: NodeId,
    at: Instant,
    reads: Vec<ClientRequest>,
}

/// The requests for a read index that wait for a reply of the leader.
///
/// Invariant: `requested` is in the order of sending, and each request has at least one read.
#[derive(Debug)]
pub(crate) struct ReadIndexRequests {
    next_ticket: u64,
    /// Reads that the next request for a read index will cover.
    gathered: Vec<ClientRequest>,
    requested: VecDeque<Requested>,
}

impl ReadIndexRequests {
    /// Creates an empty list. `opening` is the random number drawn when the replica's log was
    /// opened. Tickets start from it, so that replies to a request of an earlier process, which may
    /// be older than the reads, are not accepted.
    pub(crate) fn new(opening: u64) -> ReadIndexRequests {
        let next_ticket = (opening << 32) + 1;
        ReadIndexRequests { next_ticket, gathered: Vec::new(), requested: VecDeque::new() }
    }

    /// Adds a read to those that the next request for a read index will cover.
    pub(crate) fn gather(&mut self, read: ClientRequest) {
        self.gathered.push(read);
    }

    /// Creates a request to the leader that covers all gathered reads, and returns its ticket, the
    /// number that the reply will carry. `None` if there are no reads.
    pub(crate) fn request(&mut self, leader: NodeId, now: Instant) -> Option<u64> {
        if self.gathered.is_empty() {
            return None;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let reads = std::mem::take(&mut self.gathered);
        self.requested.push_back(Requested { ticket, leader, at: now, reads });
        Some(ticket)
    }

    /// Removes the request for a read index that was sent to `leader` with the number `ticket`, and
    /// returns the reads that wait for it; empty if no such request exists.
    pub(crate) fn take(&mut self, leader: NodeId, ticket: u64) -> Vec<ClientRequest> {
        let is_it = |it: &Requested| it.ticket == ticket && it.leader == leader;
        let at = self.requested.iter().position(is_it);
        at.and_then(|at| self.requested.remove(at)).map_or_else(Vec::new, |request| request.reads)
    }

    /// Removes the requests for a read index that are older than [`REPLY_TIMEOUT`], and returns the
    /// keys of the clients' reads that they covered.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<RequestKey> {
        let mut keys = Vec::new();
        while self.requested.front().is_some_and(|request| now >= request.at + REPLY_TIMEOUT)
            && let Some(request) = self.requested.pop_front()
        {
            keys.extend(request.reads.iter().map(|read| read.key));
        }
        keys
    }

    /// Removes all requests for a read index, because the leader has changed, and returns the keys
    /// of the clients' reads that they covered.
    pub(crate) fn take_all(&mut self) -> Vec<RequestKey> {
        let reads = self.requested.drain(..).flat_map(|request| request.reads);
        reads.map(|read| read.key).collect()
    }

    /// Returns the earliest time at which [`ReadIndexRequests::expire`] may have a request to
    /// remove; `None` if no request is pending.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.requested.front().map(|request| request.at + REPLY_TIMEOUT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::RequestKind;
    use crate::types::{ClientId, RequestId};
    use bytes::Bytes;

    const LEADER: NodeId = NodeId(1);

    fn read(number: u8) -> ClientRequest {
        let key = RequestKey { client: ClientId(1), request: RequestId([number; 16]) };
        ClientRequest { key, kind: RequestKind::Read, payload: Bytes::new() }
    }

    #[test]
    fn one_read_index_request_covers_all_waiting_reads() {
        let mut requests = ReadIndexRequests::new(0);
        assert_eq!(requests.request(LEADER, Instant(0)), None);
        requests.gather(read(1));
        requests.gather(read(2));
        assert_eq!(requests.request(LEADER, Instant(0)), Some(1));
        requests.gather(read(3));
        assert_eq!(requests.request(LEADER, Instant(5)), Some(2));
        assert_eq!(requests.take(NodeId(2), 2), [], "the reply of another replica");
        assert_eq!(requests.take(LEADER, 2), [read(3)]);
        assert_eq!(requests.take(LEADER, 2), []);
        assert_eq!(requests.expire(Instant(1)), []);
        assert_eq!(requests.expire(Instant::ZERO + REPLY_TIMEOUT), [read(1).key, read(2).key]);
        assert_eq!(requests.take(LEADER, 1), []);
        requests.gather(read(4));
        assert_eq!(requests.request(LEADER, Instant(9)), Some(3));
        assert_eq!((requests.take_all(), requests.next_expiry()), (vec![read(4).key], None));
    }
}
