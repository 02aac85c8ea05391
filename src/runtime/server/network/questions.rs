//! Answers the questions of the HTTP thread: the state of the replica for metrics, signs of life,
//! and whether the replica is ready.
//!
//! A replica is ready if it could answer a linearizable read that arrives now. So the check is such
//! a read without a key: a follower asks the leader for a read index, and a leader asks its own
//! core, which confirms its leadership with a majority; then the state must reach that index.

use std::time::Duration;

use crate::redis::Unready;
use crate::runtime::channels::{CoreItem, QUEUE_LEN};
use crate::runtime::server::http::{Answer, Question, QueueFill, Report};
use crate::runtime::server::request_id::{read_index_request, replica_and_sequence};
use crate::types::{Index, Instant, NodeId, RequestId};

use super::ServerNetwork;
use super::dispatch::Route;

/// Maximum time for a check of readiness.
const READINESS_MAX: Duration = Duration::from_millis(1_500);
/// Interval at which a replica that has just started asks for a read index, until it gets one.
const USERS_INTERVAL: Duration = Duration::from_millis(20);

/// A check of readiness that has not ended.
#[derive(Debug)]
pub(super) struct ReadinessCheck {
    asked_at: Instant,
    /// The request for a read index to this replica's own core; `None` if none is in flight.
    ticket: Option<u64>,
    /// The confirmed read index, which the state must reach; `None` if it is not known yet.
    index: Option<Index>,
}

impl ReadinessCheck {
    /// Returns when the check ends in any case.
    pub(super) fn ends_at(&self) -> Instant {
        self.asked_at + READINESS_MAX
    }
}

/// The check after the start whether the users of this replica's state are current: a linearizable
/// read without a key, like [`ReadinessCheck`], but without a time limit.
#[derive(Debug, Default)]
pub(super) struct UsersCheck {
    /// The request for a read index to this replica's own core; `None` if none is in flight.
    ticket: Option<u64>,
    /// The confirmed read index, which the state must reach; `None` if it is not known yet.
    index: Option<Index>,
    /// When a read index is next asked for, if none is known.
    ask_at: Instant,
}

impl UsersCheck {
    /// Returns when [`ServerNetwork::confirm_users`] must be called again if nothing else happens.
    pub(super) fn next_attempt(&self) -> Instant {
        self.ask_at
    }
}

impl ServerNetwork {
    /// Serves all requests of clients once a leader has confirmed that the users are current.
    pub(super) fn confirm_users(&mut self, now: Instant) {
        if !self.parts.clients.awaits_users() {
            return;
        }
        let applied = self.parts.clients.context.applied_index;
        // Every read index that this process was told of was asked for since it started.
        match self.users_check.index.or(self.freshness.index()) {
            Some(index) if applied >= index => self.parts.clients.confirm_users(),
            Some(_) => self.users_check.ask_at = now + USERS_INTERVAL,
            None if now >= self.users_check.ask_at => {
                self.users_check.ask_at = now + USERS_INTERVAL;
                let ticket = self.ask_read_index(self.users_check.ticket);
                self.users_check.ticket = ticket;
            }
            None => {}
        }
    }

    /// Answers the questions of the HTTP thread that can be answered at `now`. Costs next to
    /// nothing if there are none.
    pub(super) fn answer_questions(&mut self, now: Instant) {
        while let Some(question) =
            self.parts.http.as_ref().and_then(|http| http.questions.try_recv().ok())
        {
            match question {
                Question::Report => {
                    let report = self.report(now);
                    self.answer(Answer::Report(Box::new(report)));
                }
                Question::Readiness => {
                    let (ticket, index) = (None, None);
                    self.readiness = Some(ReadinessCheck { asked_at: now, ticket, index });
                }
                Question::Liveness => {
                    // If the queue is full, the core publishes its status without being asked.
                    let _ = self.parts.ends.to_core.try_send(CoreItem::PublishStatus);
                    self.answer(Answer::Liveness);
                }
            }
        }
        if let Some(readiness) = self.check_readiness(now) {
            self.readiness = None;
            self.answer(Answer::Readiness(readiness));
        }
    }

    fn answer(&self, answer: Answer) {
        if let Some(http) = &self.parts.http {
            http.answer(answer);
        }
    }

    /// Returns a copy of this replica's state, which is refreshed first.
    fn report(&mut self, now: Instant) -> Report {
        self.refreshed_at = None;
        self.refresh_context(now);
        let ends = &self.parts.ends;
        let queues = [
            ("messages_to_core", ends.to_core.len()),
            ("requests_to_core", ends.requests.len()),
            ("messages_from_core", ends.outbound.len()),
            ("messages_from_disk", ends.released.len()),
            ("replies_from_applier", ends.replies.len()),
            ("jobs_to_snapshots", ends.to_snapshots.len()),
        ];
        let clients = &mut self.parts.clients;
        let (channels, patterns) = (
            clients.context.subscriptions.channel_count(),
            clients.context.subscriptions.pattern_count(),
        );
        Report {
            subscriptions: (channels, patterns),
            clients_max: clients.settings().clients_max(),
            clients_bytes_max: clients.settings().clients_bytes_max() as u64,
            memory_max: clients.memory_max(),
            queues: queues.map(|(name, items)| QueueFill { name, items }).into(),
            queue_items_max: QUEUE_LEN,
            context: clients.context.copy_for_metrics(),
        }
    }

    /// Advances the check of readiness. Returns its result once it is known; `None` if there is no
    /// check, or it goes on.
    fn check_readiness(&mut self, now: Instant) -> Option<Result<(), Unready>> {
        let asked_at = self.readiness.as_ref()?.asked_at;
        if self.stopping.is_some() {
            return Some(Err(Unready::Stopping));
        }
        if self.parts.clients.context.rejoining.is_some() {
            return Some(Err(Unready::Rejoining));
        }
        let route = self.route();
        let applied = self.parts.clients.context.applied_index;
        let index = self.readiness.as_ref()?.index.or(self.freshness.confirmed_since(asked_at));
        if index.is_some_and(|index| applied >= index) {
            return Some(Ok(()));
        }
        if now >= asked_at + READINESS_MAX {
            let lag = |index: Index| Unready::Behind(index.0.saturating_sub(applied.0));
            // A transfer of the leadership, or an election, may have ended by now.
            let missing =
                if route == Route::None { Unready::NoLeader } else { Unready::Unconfirmed };
            return Some(Err(index.map_or(missing, lag)));
        }
        if index.is_none() {
            let ticket = self.ask_read_index(self.readiness.as_ref()?.ticket);
            if let Some(check) = &mut self.readiness {
                check.ticket = ticket;
            }
        }
        None
    }

    /// Asks for a read index for a check whose request to this replica's own core is `ticket`,
    /// unless one is requested already. Returns the request to the own core that is in flight now.
    fn ask_read_index(&mut self, ticket: Option<u64>) -> Option<u64> {
        match self.route() {
            Route::Leader(_) => self.read_indexes.renew(),
            Route::Core if ticket.is_none() => {
                self.readiness_count += 1;
                let ticket = Some(self.readiness_count);
                // Another number than that of this start, so that the applier answers as for a
                // peer: with the index.
                let start_id = !self.parts.start_id;
                self.submit(vec![read_index_request(
                    self.parts.me,
                    start_id,
                    self.readiness_count,
                )]);
                return ticket;
            }
            Route::Core | Route::None => {}
        }
        ticket
    }

    /// Handles the answer of this replica's own core to the request for a read index with this id:
    /// the index, or `None` if the core has refused. Returns false if the request is of a peer.
    pub(super) fn on_own_read_index(&mut self, id: RequestId, index: Option<Index>) -> bool {
        let (replica, ticket): (NodeId, u64) = replica_and_sequence(id);
        if replica != self.parts.me {
            return false;
        }
        let check = &mut self.users_check;
        if check.ticket == Some(ticket) {
            (check.ticket, check.index) = (index.map(|_| ticket), index);
        }
        if let Some(check) = self.readiness.as_mut().filter(|check| check.ticket == Some(ticket)) {
            // Asked again if it was refused.
            check.ticket = index.map(|_| ticket);
            check.index = index;
        }
        true
    }
}
