//! Reads on a replica that does not lead: it requests a read index from the leader and serves the
//! reads from its own state once that has applied the index. One request covers all reads that
//! arrived meanwhile (thesis 6.4).

use std::collections::VecDeque;
use std::time::Duration;

use crate::raft::ClientRequest;
use crate::types::{Instant, NodeId, RequestKey};

/// A read index that has not arrived in this time was lost with a connection or with the leader.
const REPLY_TIMEOUT: Duration = Duration::from_millis(500);

/// A request for a read index.
#[derive(Debug)]
struct Requested {
    ticket: u64,
    /// The leader that it was sent to. Replies of other replicas are ignored.
    leader: NodeId,
    at: Instant,
    reads: Vec<ClientRequest>,
}

/// Requests for read indexes.
///
/// Invariant: in the order in which they were sent, each with at least one read.
#[derive(Debug)]
pub(crate) struct ReadIndexRequests {
    next_ticket: u64,
    /// Reads for the next request.
    gathered: Vec<ClientRequest>,
    requested: VecDeque<Requested>,
}

impl ReadIndexRequests {
    /// Takes the random number of this opening of the log, so that a reply to an earlier opening is
    /// not accepted: it may be older than the reads.
    pub(crate) fn new(opening: u64) -> ReadIndexRequests {
        let next_ticket = (opening << 32) + 1;
        ReadIndexRequests { next_ticket, gathered: Vec::new(), requested: VecDeque::new() }
    }

    /// Adds a read to the next request.
    pub(crate) fn gather(&mut self, read: ClientRequest) {
        self.gathered.push(read);
    }

    /// Creates a request to the leader for all gathered reads, and returns its ticket. `None` if
    /// there are no reads.
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

    /// Removes a request to `leader` and returns its reads; none if there is no such request.
    pub(crate) fn take(&mut self, leader: NodeId, ticket: u64) -> Vec<ClientRequest> {
        let is_it = |it: &Requested| it.ticket == ticket && it.leader == leader;
        let at = self.requested.iter().position(is_it);
        at.and_then(|at| self.requested.remove(at)).map_or_else(Vec::new, |request| request.reads)
    }

    /// Removes the requests past their timeout and returns the keys of their reads.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<RequestKey> {
        let mut keys = Vec::new();
        while self.requested.front().is_some_and(|request| now >= request.at + REPLY_TIMEOUT)
            && let Some(request) = self.requested.pop_front()
        {
            keys.extend(request.reads.iter().map(|read| read.key));
        }
        keys
    }

    /// Removes all requests and returns the keys of their reads, after a leader change.
    pub(crate) fn take_all(&mut self) -> Vec<RequestKey> {
        let reads = self.requested.drain(..).flat_map(|request| request.reads);
        reads.map(|read| read.key).collect()
    }

    /// The earliest time at which [`ReadIndexRequests::expire`] has something to do.
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
    fn one_request_covers_all_reads_and_returns_each_once() {
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
