//! Reads on a replica that is not the leader: the replica requests a read index from the leader,
//! and serves the reads from its own state once the state has applied the log up to that index. One
//! request covers all reads that arrived since the previous request (Raft thesis 6.4).

use std::collections::VecDeque;
use std::time::Duration;

use crate::raft::ClientRequest;
use crate::types::{Instant, NodeId, RequestKey};

/// Time after which a request for a read index is considered lost, for example because the
/// connection or the leader was lost.
const REPLY_TIMEOUT: Duration = Duration::from_millis(500);

/// A request for a read index that was sent to the leader and has no reply yet.
#[derive(Debug)]
struct Requested {
    ticket: u64,
    /// The leader to which the request was sent. Replies from other replicas are ignored.
    leader: NodeId,
    at: Instant,
    reads: Vec<ClientRequest>,
}

/// The requests for a read index that are waiting for the leader's reply.
///
/// Invariant: the requests in `requested` are in the order in which they were sent.
#[derive(Debug)]
pub(crate) struct ReadIndexRequests {
    next_ticket: u64,
    /// Reads that the next request for a read index will cover.
    gathered: Vec<ClientRequest>,
    /// Whether a read index is wanted even for no read, to know how current this replica's state
    /// is.
    renewal_wanted: bool,
    requested: VecDeque<Requested>,
}

impl ReadIndexRequests {
    /// Creates an empty list of requests. A ticket is the number by which a reply is matched to its
    /// request. Tickets start at a value derived from `start_id`, the random number that identifies
    /// this start of the replica, so that late replies to requests from an earlier start are not
    /// accepted.
    pub(crate) fn new(start_id: u64) -> ReadIndexRequests {
        let next_ticket = (start_id << 32) + 1;
        let (gathered, requested) = (Vec::new(), VecDeque::new());
        ReadIndexRequests { next_ticket, gathered, renewal_wanted: false, requested }
    }

    /// Adds a read to those that the next request for a read index will cover.
    pub(crate) fn gather(&mut self, read: ClientRequest) {
        self.gathered.push(read);
    }

    /// Asks for a read index even if no read needs it, unless one is requested already.
    pub(crate) fn renew(&mut self) {
        self.renewal_wanted = self.requested.is_empty();
    }

    /// Creates a request to the leader `leader` that covers all gathered reads. Returns the
    /// request's ticket, the number that the leader's reply will contain; `None` if there are no
    /// gathered reads and [`ReadIndexRequests::renew`] was not called. `now` must be read from the
    /// clock before the request is sent.
    pub(crate) fn request(&mut self, leader: NodeId, now: Instant) -> Option<u64> {
        if !std::mem::take(&mut self.renewal_wanted) && self.gathered.is_empty() {
            return None;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let reads = std::mem::take(&mut self.gathered);
        self.requested.push_back(Requested { ticket, leader, at: now, reads });
        Some(ticket)
    }

    /// Removes the request for a read index that was sent to `leader` with the ticket `ticket`, and
    /// returns the time at which it was created and the reads that it covers. Returns `None` if
    /// there is no such request.
    pub(crate) fn take(
        &mut self,
        leader: NodeId,
        ticket: u64,
    ) -> Option<(Instant, Vec<ClientRequest>)> {
        let is_it = |it: &Requested| it.ticket == ticket && it.leader == leader;
        let at = self.requested.iter().position(is_it)?;
        self.requested.remove(at).map(|request| (request.at, request.reads))
    }

    /// Removes the requests for a read index that are older than [`REPLY_TIMEOUT`], and returns the
    /// keys of the clients' reads that these requests covered.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<RequestKey> {
        let mut keys = Vec::new();
        while self.requested.front().is_some_and(|request| now >= request.at + REPLY_TIMEOUT)
            && let Some(request) = self.requested.pop_front()
        {
            keys.extend(request.reads.iter().map(|read| read.key));
        }
        keys
    }

    /// Removes all requests for a read index because the leader or the term has changed. Returns
    /// the keys of the clients' reads that these requests covered.
    pub(crate) fn take_all(&mut self) -> Vec<RequestKey> {
        let reads = self.requested.drain(..).flat_map(|request| request.reads);
        reads.map(|read| read.key).collect()
    }

    /// Returns the earliest time at which [`ReadIndexRequests::expire`] may have a request to
    /// remove; `None` if no request is waiting for a reply.
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
        assert_eq!(requests.take(NodeId(2), 2), None, "the reply of another replica");
        assert_eq!(requests.take(LEADER, 2), Some((Instant(5), vec![read(3)])));
        assert_eq!(requests.take(LEADER, 2), None);
        assert_eq!(requests.expire(Instant(1)), []);
        assert_eq!(requests.expire(Instant::ZERO + REPLY_TIMEOUT), [read(1).key, read(2).key]);
        assert_eq!(requests.take(LEADER, 1), None);
        requests.gather(read(4));
        assert_eq!(requests.request(LEADER, Instant(9)), Some(3));
        assert_eq!((requests.take_all(), requests.next_expiry()), (vec![read(4).key], None));
    }

    #[test]
    fn renewal_requests_a_read_index_for_no_read_once() {
        let mut requests = ReadIndexRequests::new(0);
        requests.renew();
        requests.renew();
        assert_eq!(requests.request(LEADER, Instant(3)), Some(1));
        assert_eq!(requests.request(LEADER, Instant(4)), None);
        requests.renew();
        assert_eq!(requests.request(LEADER, Instant(5)), None, "one is requested already");
        assert_eq!(requests.take(LEADER, 1), Some((Instant(3), vec![])));
        requests.renew();
        requests.gather(read(1));
        assert_eq!(requests.request(LEADER, Instant(6)), Some(2));
        assert_eq!(requests.take(LEADER, 2), Some((Instant(6), vec![read(1)])));
        assert_eq!(requests.request(LEADER, Instant(7)), None);
    }
}
