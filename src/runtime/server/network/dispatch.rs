//! Sends clients' requests to the core or to the leader, and handles refusals of requests.

use std::time::Duration;

use crossbeam::channel::TrySendError;

use crate::raft::{ClientRequest, Refusal, RefusalReason, RequestKind};
use crate::runtime::channels::{ForwardedWrite, Requests};
use crate::runtime::pass::Pass;
use crate::runtime::server::clients::request::{FailureReason, Request};
use crate::runtime::server::request_id::{READ_INDEX_CLIENT, replica_and_sequence};
use crate::types::{Instant, NodeId, RequestKey, Term};
use crate::wire::frame::{Attempt, Frame};

use super::{Parts, ServerNetwork};

/// How long no requests are sent to a replica that has refused a request because it is not the
/// leader.
pub(super) const REFUSED_PAUSE: Duration = Duration::from_millis(10);
/// Bytes of payload after which no further requests are added to a batch for the core or the
/// leader.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Maximum number of requests that are sent to the core or to the leader in one batch.
const BATCH_REQUESTS_MAX: usize = 4_096;

/// Where clients' requests are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Route {
    /// To the core of this replica, which leads.
    Core,
    /// To the leader, which is another replica.
    Leader(NodeId),
    /// Nowhere: no leader is known or connected, so requests wait.
    None,
}

/// The leader, its term, and which connection to it is used for writes. When any of the three
/// changes, writes without an outcome must be sent again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct WriteRoute {
    term: Term,
    leader: NodeId,
    /// Number of connections made to the leader since the process started, by which a new
    /// connection is recognized; 0 if this replica is the leader.
    connection_count: u64,
}

impl ServerNetwork {
    fn route(&self) -> Route {
        match self.leadership.leader {
            Some(leader) if leader == self.parts.me => Route::Core,
            Some(leader) if self.parts.outgoing.is_up(leader) => Route::Leader(leader),
            _ => Route::None,
        }
    }

    /// Returns whether requests must wait because the presumed leader has just refused some with
    /// the reason that it is not the leader.
    pub(super) fn is_paused(&self, now: Instant) -> bool {
        now < self.leader_refused_until && self.leadership.leader != Some(self.parts.me)
    }

    /// Sends clients' waiting requests to the core, if this replica leads, or to the leader.
    pub(super) fn dispatch(&mut self, now: Instant) {
        let route = self.route();
        self.dispatch_unfinished = false;
        if route == Route::None
            || (route == Route::Core && !self.core_accepts_requests())
            || self.is_paused(now)
        {
            return;
        }
        if !self.resend(route) {
            self.dispatch_unfinished = true;
            return;
        }
        let attempt = Attempt::First { term: self.leadership.term };
        let to_core = route == Route::Core && self.parts.clients.has_waiting();
        let mut batch = Vec::with_capacity(if to_core { self.batch_len } else { 0 });
        let mut pass = Pass::of_small(self.parts.clock, BATCH_REQUESTS_MAX);
        let mut bytes = 0;
        let Parts { clients, outgoing, .. } = &mut self.parts;
        let read_indexes = &mut self.read_indexes;
        clients.dispatch(route != Route::Core, |key, request| {
            if bytes > BATCH_BYTES_MAX {
                pass.end();
            }
            let Some(payload) = pass.next(|| Some(request.payload.clone())) else { return false };
            bytes += payload.len();
            let request = ClientRequest { key, kind: request.kind, payload };
            match (route, request.kind) {
                (Route::Core, _) => {
                    batch.push(request);
                    true
                }
                (Route::Leader(leader), RequestKind::Write) => {
                    let payload = request.payload;
                    outgoing.send(leader, &Frame::Forward { key, attempt, payload })
                }
                (Route::Leader(_), RequestKind::Read) => {
                    read_indexes.gather(request);
                    true
                }
                (Route::None, _) => false,
            }
        });
        self.dispatch_unfinished = pass.is_over() && clients.has_waiting();
        if let Route::Leader(leader) = route
            && let Some(ticket) = read_indexes.request(leader, now)
            && !outgoing.send(leader, &Frame::AskReadIndex { ticket })
        {
            let lost: Vec<RequestKey> =
                read_indexes.take(leader, ticket).iter().map(|read| read.key).collect();
            clients.requeue(&lost);
        }
        if !batch.is_empty() {
            self.batch_len = batch.len();
            self.submit(batch);
        }
    }

    /// Sends writes without an outcome again after the leader, its term or the connection to it has
    /// changed. Returns true once all of them are sent. They go before new requests, to keep the
    /// order of each client's requests.
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
        let mut pass = Pass::of_small(self.parts.clock, BATCH_REQUESTS_MAX);
        while let Some((sequence, key, request)) =
            pass.next(|| self.parts.clients.next_to_resend(from))
        {
            from = sequence + 1;
            let Request { payload, since, kind, .. } = request;
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

    /// Submits requests to the core. If the core's queue is full, requests of this replica's
    /// clients return to the waiting state, and requests of peers are refused.
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

    /// Submits forwarded writes to the core, in order. If the core's queue is full, first copies
    /// are refused; repeated copies are dropped, since an earlier copy may be applied.
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

    /// Handles requests that the core has refused: requests of this replica's clients fail or are
    /// sent again, depending on the reason; for others the refusal is sent to the replica that
    /// forwarded them.
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

    /// Handles the refusal of a request of this replica's client; the refused copy was not applied.
    /// Adds the request's key to `requeued` if it may be sent again.
    pub(super) fn on_refusal(
        &mut self,
        key: RequestKey,
        reason: RefusalReason,
        requeued: &mut Vec<RequestKey>,
    ) {
        let reason = match reason {
            RefusalReason::Busy => FailureReason::Busy,
            RefusalReason::DiskFull => FailureReason::DiskFull,
            RefusalReason::OutOfMemory => FailureReason::OutOfMemory,
            RefusalReason::NotLeader | RefusalReason::Replaced => {
                requeued.push(key);
                return;
            }
        };
        self.parts.clients.on_refusal(key, reason);
    }

    /// Sends a refusal to the replica that forwarded the request.
    fn refuse_forwarded(&mut self, key: RequestKey, reason: RefusalReason) {
        let (peer, sequence) = replica_and_sequence(key.request);
        let frame = if key.client == READ_INDEX_CLIENT {
            Frame::ReadIndex { ticket: sequence, index: None }
        } else {
            Frame::Refused { key, reason }
        };
        self.parts.outgoing.send(peer, &frame);
    }
}
