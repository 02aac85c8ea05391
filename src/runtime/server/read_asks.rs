//! Reads at a replica that does not lead: it asks the leader how far the log was when they came,
//! and answers them itself once its own state is there. One question for all that came meanwhile
//! (thesis 6.4).

use std::collections::VecDeque;
use std::time::Duration;

use crate::raft::ClientRequest;
use crate::types::{Instant, NodeId, RequestKey};

/// A question that has no answer by then was lost with a connection, or with the leader.
const ANSWER_PATIENCE: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct Asked {
    ticket: u64,
    /// The leader that was asked. Nobody else's answer counts.
    leader: NodeId,
    at: Instant,
    reads: Vec<ClientRequest>,
}

/// Questions under way.
///
/// Invariant: in the order in which they were asked, none without a read.
#[derive(Debug)]
pub(super) struct ReadAsks {
    next_ticket: u64,
    /// Reads for the next question.
    gathered: Vec<ClientRequest>,
    asked: VecDeque<Asked>,
}

impl ReadAsks {
    /// For this opening of the log, by its random number: an answer that was meant for an earlier
    /// one must not be taken for one of ours, for it may be older than the reads that we ask for.
    pub(super) fn new(opening: u64) -> ReadAsks {
        ReadAsks { next_ticket: (opening << 32) + 1, gathered: Vec::new(), asked: VecDeque::new() }
    }

    /// A read for the next question.
    pub(super) fn gather(&mut self, read: ClientRequest) {
        self.gathered.push(read);
    }

    /// Begins a question to the leader for all that was gathered. Its ticket, if there is one to
    /// ask.
    pub(super) fn ask(&mut self, leader: NodeId, now: Instant) -> Option<u64> {
        if self.gathered.is_empty() {
            return None;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let reads = std::mem::take(&mut self.gathered);
        self.asked.push_back(Asked { ticket, leader, at: now, reads });
        Some(ticket)
    }

    /// The reads of a question that has its answer of `leader`, or never will; none if it was
    /// given up, or if another was asked.
    pub(super) fn take(&mut self, leader: NodeId, ticket: u64) -> Vec<ClientRequest> {
        let is_it = |asked: &Asked| asked.ticket == ticket && asked.leader == leader;
        let at = self.asked.iter().position(is_it);
        at.and_then(|at| self.asked.remove(at)).map_or_else(Vec::new, |asked| asked.reads)
    }

    /// The reads of all questions that were asked before `now` by more than an answer takes.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<RequestKey> {
        let mut keys = Vec::new();
        while self.asked.front().is_some_and(|asked| now >= asked.at + ANSWER_PATIENCE)
            && let Some(asked) = self.asked.pop_front()
        {
            keys.extend(asked.reads.iter().map(|read| read.key));
        }
        keys
    }

    /// The reads of all questions: whom they were asked leads no more.
    pub(super) fn take_all(&mut self) -> Vec<RequestKey> {
        let asked = self.asked.drain(..).flat_map(|asked| asked.reads);
        asked.map(|read| read.key).collect()
    }

    /// When [`ReadAsks::overdue`] finds something.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.asked.front().map(|asked| asked.at + ANSWER_PATIENCE)
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
    fn one_question_serves_all_that_came_and_each_read_comes_back_once() {
        let mut asks = ReadAsks::new(0);
        assert_eq!(asks.ask(LEADER, Instant(0)), None);
        asks.gather(read(1));
        asks.gather(read(2));
        assert_eq!(asks.ask(LEADER, Instant(0)), Some(1));
        asks.gather(read(3));
        assert_eq!(asks.ask(LEADER, Instant(5)), Some(2));
        assert_eq!(asks.take(NodeId(2), 2), [], "another replica's answer");
        assert_eq!(asks.take(LEADER, 2), [read(3)]);
        assert_eq!(asks.take(LEADER, 2), []);
        assert_eq!(asks.overdue(Instant(1)), []);
        assert_eq!(asks.overdue(Instant::ZERO + ANSWER_PATIENCE), [read(1).key, read(2).key]);
        assert_eq!(asks.take(LEADER, 1), []);
        asks.gather(read(4));
        assert_eq!(asks.ask(LEADER, Instant(9)), Some(3));
        assert_eq!((asks.take_all(), asks.next_due()), (vec![read(4).key], None));
    }
}
