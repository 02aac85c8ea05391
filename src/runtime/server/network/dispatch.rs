//! Sends clients' requests, in batches, to the core or to the leader, and handles refusals of
//! batches.

use std::time::Duration;

use crossbeam::channel::TrySendError;

use crate::kv::{BATCH_OPERATIONS_MAX, Batch, Operation};
use crate::raft::{ClientRequest, Refusal, RefusalReason, RequestKind};
use crate::runtime::channels::{ForwardedWrite, IndexedReads, QUEUE_LEN, Requests};
use crate::runtime::pass::Pass;
use crate::runtime::server::clients::request::FailureReason;
use crate::runtime::server::clients::{Dispatched, SentBatch, Target};
use crate::runtime::server::freshness::StateAge;
use crate::runtime::server::request_id::{READ_INDEX_CLIENT, replica_and_sequence};
use crate::types::{Index, Instant, NodeId, RequestKey, Term};
use crate::wire::frame::{Attempt, Frame};

use super::{Parts, ServerNetwork};

/// Time for which no requests are sent to a replica after it has refused a request because it is
/// not the leader.
pub(super) const REFUSED_PAUSE: Duration = Duration::from_millis(10);
/// Maximum total size, in bytes, of the operations sent to the Raft core or the leader in one pass
/// (iteration of the stage's loop). The last operation may exceed it.
const BYTES_MAX: usize = 1 << 20;
/// Maximum number of requests that are sent to the Raft core or the leader in one pass (iteration
/// of the stage's loop).
const REQUESTS_MAX: usize = 4_096;

/// Maximum time for which writes are delayed so that more of them share a batch. Equal to the
/// shortest possible timeout of `Poll`.
const GATHER_MAX: Duration = Duration::from_millis(1);

/// The destination to which clients' requests are sent now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Route {
    /// Requests go to the Raft core of this replica, which is the leader.
    Core,
    /// Requests go to the leader, which is another replica.
    Leader(NodeId),
    /// Requests wait, because no leader is known or this replica has no connection to it.
    None,
}

/// The leader, its term, and the connection to it that is used for writes. When any of the three
/// changes, writes without an outcome must be sent again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct WriteRoute {
    term: Term,
    leader: NodeId,
    /// Number of connections made to the leader since the process started, which increases with
    /// each new connection; 0 if this replica is the leader.
    connection_count: u64,
}

/// A short delay of clients' writes, so that more of them share a batch, because each batch costs
/// system calls and wake-ups on all replicas. Writes are delayed while small batches are in flight
/// (without outcomes yet), for at most [`GATHER_MAX`].
#[derive(Debug, Default)]
pub(super) struct Gathering {
    since: Option<Instant>,
}

impl Gathering {
    /// Returns whether writes are still delayed at `now`. `may_gather` says whether a delay is
    /// useful: this replica is the leader, writes are waiting, and small batches are in flight
    /// (without outcomes yet).
    fn continues(&mut self, may_gather: bool, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        if !may_gather || now >= since + GATHER_MAX {
            self.since = None;
        }
        self.since.is_some()
    }

    /// Returns the time at which the current delay of writes ends; `None` if no writes are delayed.
    pub(super) fn ends_at(&self) -> Option<Instant> {
        self.since.map(|since| since + GATHER_MAX)
    }
}

impl ServerNetwork {
    /// Returns the destination to which clients' requests are sent now.
    pub(super) fn route(&self) -> Route {
        match self.leadership.leader {
            Some(leader) if leader == self.parts.me => Route::Core,
            Some(leader) if self.parts.outgoing.is_up(leader) => Route::Leader(leader),
            _ => Route::None,
        }
    }

    /// Returns whether requests must wait because the replica that this one considers the leader
    /// has just answered that it is not the leader. Always false on the leader.
    pub(super) fn is_paused(&self, now: Instant) -> bool {
        now < self.leader_refused_until && self.leadership.leader != Some(self.parts.me)
    }

    /// Sends clients' waiting requests to the Raft core if this replica is the leader, otherwise to
    /// the leader.
    pub(super) fn dispatch(&mut self, now: Instant) {
        let route = self.route();
        self.dispatch_unfinished = false;
        let clients = &self.parts.clients;
        let may_gather = route == Route::Core && clients.has_waiting() && clients.gathers_writes();
        // Called before the returns below, because a delay that never ends would keep the poll from
        // sleeping.
        let gathers = self.gathering.continues(may_gather, now);
        if route == Route::None || self.is_paused(now) {
            self.dispatch_lagging_reads();
            return;
        }
        if route == Route::Core && !self.core_accepts_requests() {
            return;
        }
        if !self.resend(route) {
            self.dispatch_unfinished = true;
            return;
        }
        let mut pass = Pass::of_small(self.parts.clock, REQUESTS_MAX);
        let mut bytes_left = BYTES_MAX;
        let admits = |bytes: usize| {
            if bytes_left == 0 || pass.next(|| Some(())).is_none() {
                return false;
            }
            bytes_left = bytes_left.saturating_sub(bytes);
            true
        };
        let state_age = self.state_age();
        let clients = &mut self.parts.clients;
        let target = match route {
            Route::Core if gathers => Target::CoreReads,
            Route::Core => Target::Core,
            Route::Leader(_) | Route::None => Target::Leader(state_age),
        };
        let dispatched = clients.dispatch(target, BATCH_OPERATIONS_MAX, admits);
        self.dispatch_unfinished = (bytes_left == 0 || pass.is_over()) && clients.has_waiting();
        let batches = self.queue_lagging_reads(dispatched);
        match route {
            Route::Core => self.submit(batches),
            Route::Leader(leader) => self.forward(leader, batches, now),
            Route::None => unreachable!("nothing is dispatched without a route"),
        }
    }

    /// While no leader can be asked, answers the reads that accept a lag from this replica's own
    /// state, as long as that is recent enough for them.
    fn dispatch_lagging_reads(&mut self) {
        if !self.parts.clients.has_lagging_reads() {
            return;
        }
        let mut pass = Pass::of_small(self.parts.clock, REQUESTS_MAX);
        let admits = |_| pass.next(|| Some(())).is_some();
        let target = Target::Own(self.state_age());
        let clients = &mut self.parts.clients;
        let dispatched = clients.dispatch(target, BATCH_OPERATIONS_MAX, admits);
        self.dispatch_unfinished = pass.is_over() && clients.has_waiting();
        let batches = self.queue_lagging_reads(dispatched);
        assert!(batches.is_empty(), "{} batches without a leader", batches.len());
    }

    /// Returns the age of this replica's state for the requests that have arrived. Reads the clock
    /// only if a client has ever sent a read that accepts a lag.
    fn state_age(&self) -> StateAge {
        let is_asked = self.parts.clients.has_lagging_reads();
        if is_asked { self.freshness.age(self.parts.clock.now()) } else { StateAge::default() }
    }

    /// Queues the reads that accept a lag for the applier, and returns the other batches.
    fn queue_lagging_reads(&mut self, dispatched: Dispatched) -> Vec<ClientRequest> {
        let Dispatched { batches, lagging_reads: reads, is_aging, scripts } = dispatched;
        if scripts.is_some() {
            // Whatever state they see is compared with that at their place in the log.
            let (index, reads) = (Index::ZERO, Vec::new());
            self.indexed_reads.push_back(IndexedReads { index, reads, scripts });
        }
        if !reads.is_empty() {
            let index = self.freshness.index().expect("the state is known to be recent");
            self.indexed_reads.push_back(IndexedReads { index, reads, scripts: None });
        }
        if is_aging {
            self.read_indexes.renew();
        }
        batches
    }

    /// Sends batches of writes to the leader, and requests a read index for batches of reads.
    /// Requests that cannot be sent return to the waiting state.
    fn forward(&mut self, leader: NodeId, batches: Vec<ClientRequest>, now: Instant) {
        let attempt = Attempt::First { term: self.leadership.term };
        let Parts { clients, outgoing, .. } = &mut self.parts;
        let mut lost = Vec::new();
        for batch in batches {
            let ClientRequest { key, kind, payload } = batch;
            if kind == RequestKind::Read {
                self.read_indexes.gather(ClientRequest { key, kind, payload });
            // After a batch that could not be sent, no other batch is sent, because both may
            // contain writes of the same client.
            } else if !lost.is_empty()
                || !outgoing.send(leader, &Frame::Forward { key, attempt, payload })
            {
                lost.push(key);
            }
        }
        if let Some(ticket) = self.read_indexes.request(leader, now)
            && !outgoing.send(leader, &Frame::AskReadIndex { ticket })
        {
            let reads = self.read_indexes.take(leader, ticket).map(|(_, reads)| reads);
            lost.extend(reads.iter().flatten().map(|read| read.key));
        }
        clients.requeue(&lost);
    }

    /// Forwards operations of this replica itself, for which no client waits, to the leader. They
    /// are dropped if there is no connection to it.
    pub(super) fn forward_own(&mut self, operations: &[Operation<'_>]) {
        let (Route::Leader(leader), term) = (self.route(), self.leadership.term) else { return };
        for operation in operations {
            let key = self.parts.clients.key_without_client();
            let payload = Batch::encode(key, false, std::slice::from_ref(operation));
            let attempt = Attempt::First { term };
            self.parts.outgoing.send(leader, &Frame::Forward { key, attempt, payload });
        }
    }

    /// Sends the writes without an outcome again after a change of the leader, its term or the
    /// connection to it. Returns true once all of them are sent. They are sent before any new
    /// request, to keep the order of each client's requests.
    fn resend(&mut self, route: Route) -> bool {
        let (leader, connection_count) = match route {
            Route::Core => (self.parts.me, 0),
            Route::Leader(leader) => (leader, self.parts.outgoing.connection_count(leader)),
            Route::None => return false,
        };
        let term = self.leadership.term;
        let write_route = Some(WriteRoute { term, leader, connection_count });
        if self.write_route != write_route {
            self.write_route = write_route;
            self.resend_from = Some(0);
        }
        let Some(mut from) = self.resend_from else { return true };
        let mut to_core = Vec::new();
        let mut pass = Pass::of_large(self.parts.clock, QUEUE_LEN);
        while let Some((number, key, batch)) = pass.next(|| self.parts.clients.next_to_resend(from))
        {
            from = number + 1;
            let SentBatch { payload, since, kind, .. } = batch;
            let attempt = Attempt::Again { since };
            if route == Route::Core {
                let request = ClientRequest { key, kind, payload };
                to_core.push(ForwardedWrite { attempt, request });
            } else if !self.parts.outgoing.send(leader, &Frame::Forward { key, attempt, payload }) {
                self.parts.counters.repeats_dropped.add_one();
            }
        }
        self.resend_from = pass.is_over().then_some(from);
        self.submit_forwarded(to_core);
        self.resend_from.is_none()
    }

    /// Submits batches of requests, and peers' requests for a read index, to the Raft core. If the
    /// core's queue is full, the requests of this replica's clients return to the waiting state,
    /// and those of peers are refused.
    pub(super) fn submit(&mut self, requests: Vec<ClientRequest>) {
        if requests.is_empty() {
            return;
        }
        let Err(TrySendError::Full(Requests::Clients(requests))) =
            self.parts.ends.requests.try_send(Requests::Clients(requests))
        else {
            return;
        };
        let mut requeued = Vec::new();
        for request in requests {
            if self.parts.clients.is_own(request.key) {
                requeued.push(request.key);
            } else {
                self.refuse_forwarded(request.key, RefusalReason::Busy);
            }
        }
        self.parts.clients.requeue(&requeued);
    }

    /// Submits forwarded batches to the Raft core, in order. If the core's queue is full, refuses a
    /// batch that was sent for the first time. Drops a batch that was sent again, since an earlier
    /// copy of it may have been applied or may still be applied.
    pub(super) fn submit_forwarded(&mut self, writes: Vec<ForwardedWrite>) {
        if writes.is_empty() {
            return;
        }
        let Err(TrySendError::Full(Requests::Forwarded(writes))) =
            self.parts.ends.requests.try_send(Requests::Forwarded(writes))
        else {
            return;
        };
        for ForwardedWrite { attempt, request } in writes {
            match attempt {
                Attempt::First { .. } => self.refuse_forwarded(request.key, RefusalReason::Busy),
                Attempt::Again { .. } => self.parts.counters.repeats_dropped.add_one(),
            }
        }
    }

    /// Handles batches that the Raft core has refused. Requests of this replica's clients fail or
    /// are sent again, depending on the reason. If another replica forwarded the batch, the refusal
    /// is sent to that replica.
    pub(super) fn on_refusals(&mut self, refusals: &[Refusal]) {
        let mut requeued = Vec::new();
        for refusal in refusals {
            if self.parts.clients.is_own(refusal.key) {
                self.on_refusal(refusal.key, refusal.reason, &mut requeued);
            } else {
                self.refuse_forwarded(refusal.key, refusal.reason);
            }
        }
        self.parts.clients.requeue(&requeued);
    }

    /// Handles the refusal of a copy of one of this replica's batches; the copy was not applied.
    /// Adds the batch's key to `requeued` if the requests in the batch may be sent again.
    pub(super) fn on_refusal(
        &mut self,
        key: RequestKey,
        reason: RefusalReason,
        requeued: &mut Vec<RequestKey>,
    ) {
        let reason = match reason {
            RefusalReason::Busy => FailureReason::Busy,
            RefusalReason::DiskFull => FailureReason::DiskFull,
            RefusalReason::OutOfMemory => {
                self.parts.clients.on_full_memory(key);
                return;
            }
            RefusalReason::NotLeader | RefusalReason::Replaced => {
                requeued.push(key);
                return;
            }
        };
        self.parts.clients.on_refusal(key, reason);
    }

    /// Sends a refusal to the replica that forwarded the batch or requested the read index.
    fn refuse_forwarded(&mut self, key: RequestKey, reason: RefusalReason) {
        let (peer, sequence) = replica_and_sequence(key.request);
        if key.client == READ_INDEX_CLIENT && self.on_own_read_index(key.request, None) {
            return;
        }
        let frame = if key.client == READ_INDEX_CLIENT {
            Frame::ReadIndex { ticket: sequence, index: None }
        } else {
            Frame::Refused { key, reason }
        };
        self.parts.outgoing.send(peer, &frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_batching_delays_a_write_by_a_bounded_time() {
        let mut gathering = Gathering::default();
        let at = |micros| Instant::ZERO + Duration::from_micros(micros);
        assert!(!gathering.continues(false, at(0)) && gathering.ends_at().is_none());
        assert!(gathering.continues(true, at(100)) && gathering.continues(true, at(900)));
        assert_eq!(gathering.ends_at(), Some(at(1_100)));
        assert!(!gathering.continues(true, at(1_100)), "the first write has waited long enough");
        assert!(gathering.continues(true, at(1_200)));
        // For example, another replica leads now. A time in the past would keep the poll awake.
        assert!(!gathering.continues(false, at(1_300)));
        assert_eq!(gathering.ends_at(), None);
    }
}
