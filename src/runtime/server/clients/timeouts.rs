//! Timeouts of clients: requests that wait too long, idle connections, incomplete requests. This
//! module also redirects waiting requests to a new leader, for clients that follow redirects.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mio::Registry;

use crate::redis::Failure;
use crate::types::Instant;

use super::Clients;
use super::replies::sender;
use crate::runtime::pass::Pass;
use crate::runtime::server::clients::request::{FailureReason, Reply, Wait};

/// Interval at which the server searches for idle connections and for incomplete requests that have
/// exceeded their timeout.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Running time of the applier's pass above which it counts as a long operation. That time does not
/// count for the timeouts of requests. Other passes take a few milliseconds.
const LONG_PASS: Duration = Duration::from_millis(100);
/// Minimum rate, in bytes per second, at which a client must send the rest of a request once the
/// [`Timeouts::request_read`] timeout has passed.
const REQUEST_BYTES_PER_SECOND: usize = 64 << 10;
/// Maximum number of timeouts by which the wait of a request is extended while long operations and
/// large values of other clients make progress. Without this limit, a request whose outcome was
/// lost might wait for as long as other clients send large values.
const EXTENSION_MAX: u32 = 15;

/// Timeouts of clients' requests: how long a request may wait to be sent and then for its outcome,
/// and how long a client may take to send one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// How long a request may wait to be sent to the Raft core or the leader before the server
    /// refuses it. The usual reason for waiting is that no leader is known.
    pub leader_wait: Duration,
    /// How long a client waits for the outcome of a request after the request was sent to the Raft
    /// core or to the leader.
    pub command_deadline: Duration,
    /// Time limit for a client to send the rest of an incomplete request, extended by one second
    /// for each 64 KiB received. When it has passed, the connection is closed.
    pub request_read: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            leader_wait: Duration::from_secs(2),
            command_deadline: Duration::from_secs(4),
            request_read: Duration::from_secs(30),
        }
    }
}

impl Clients {
    /// Returns the earliest time at which a request may exceed its timeout, so that
    /// [`Clients::expire`] must be called; `None` if all requests have their outcomes.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.in_flight.oldest().map(|arrived_at| arrived_at + self.timeouts.leader_wait)
    }

    /// Returns the time at which [`Clients::sweep`] is due; `None` if no client is connected.
    pub(crate) fn next_sweep(&self) -> Option<Instant> {
        (self.connected.len() > 0).then(|| self.swept_at + SWEEP_INTERVAL)
    }

    /// Fails the requests that have waited longer than their timeout, until the limits of `pass`
    /// (number of requests checked and time) are reached. The next call continues with the request
    /// after the last one checked.
    pub(crate) fn expire(&mut self, now: Instant, pass: &mut Pass) {
        let Timeouts { leader_wait, command_deadline, .. } = self.timeouts;
        if self.board.pass_time(now) >= LONG_PASS {
            self.applier_resumed_at = now;
        }
        let resumed_at = self.applier_resumed_at.max(self.board.piece_applied_at());
        let shortest = u64::try_from(leader_wait.as_nanos()).unwrap_or(u64::MAX);
        let before = Instant(now.0.saturating_sub(shortest));
        while let Some((sequence, request)) =
            pass.next(|| self.in_flight.next_since(self.expire_from, before))
        {
            self.expire_from = sequence + 1;
            let Some(client) = sender(&mut self.connected, request) else {
                self.in_flight.remove(sequence);
                continue;
            };
            let has_script = client.has_script_to_run(request.slot);
            let (since, timeout, reason) = match client.wait(request.slot, request.arrived_at) {
                None => continue,
                // It waits for the end of the pause, or runs right after it.
                Some(Wait::Queued { .. }) if has_script && self.context.pause.is_some() => continue,
                Some(Wait::Queued { since, behind_own }) => {
                    let timeout = if behind_own { command_deadline } else { leader_wait };
                    let has_leader = self.context.leader.is_some();
                    let reason =
                        if has_leader { FailureReason::Busy } else { FailureReason::NoLeader };
                    // While the writes before it have their outcomes, it waits for its turn.
                    let since = if has_leader { since.max(self.outcomes_at) } else { since };
                    (since, timeout, reason)
                }
                Some(Wait::InFlight { since, write: true }) => {
                    (since, command_deadline, FailureReason::Uncertain)
                }
                // It runs on this replica, without the leader.
                Some(Wait::InFlight { since, .. }) if has_script => {
                    (since, command_deadline, FailureReason::BusyScript)
                }
                Some(Wait::InFlight { since, write: false }) => {
                    (since, command_deadline, FailureReason::NoLeader)
                }
            };
            // Behind a long operation or a large value of another client, requests wait as they do
            // in Redis.
            let since = match self.context.leader {
                Some(_) => since.max(resumed_at.min(since + timeout * EXTENSION_MAX)),
                None => since,
            };
            if now >= since + timeout {
                self.fail(sequence, reason);
            }
        }
        if !pass.is_over() {
            self.expire_from = 0;
        }
    }

    /// Closes connections that have been idle for too long, whose handshake or incomplete request
    /// has exceeded its timeout, or that have not read Pub/Sub messages for too long. Also applies
    /// the current `CONFIG` value of the memory limit for clients.
    pub(crate) fn sweep(&mut self, now: Instant, registry: &Registry) {
        if now < self.swept_at + SWEEP_INTERVAL {
            return;
        }
        self.swept_at = now;
        self.memory.set_limit(self.settings.clients_bytes_max());
        self.end_reports();
        let in_flight = &self.in_flight;
        self.batches.retain(|sequence| in_flight.get(sequence).is_some());
        let idle_max = self.settings.idle_max();
        let request_read = self.timeouts.request_read;
        let overdue = self.connected.iter_mut().filter_map(|(index, client)| {
            let slow = client.partial_since.is_some_and(|since| {
                let extra = client.input.len() / REQUEST_BYTES_PER_SECOND;
                // Not while the client is over its budget, when its input is not parsed.
                client.may_parse()
                    && now >= since + request_read + Duration::from_secs(extra as u64)
            });
            let idle = idle_max.is_some_and(|idle_max| {
                !client.has_in_flight()
                    && !client.has_waiting()
                    && now >= client.active_at + idle_max
            });
            let lags = client.is_backlog_overdue(now);
            if lags {
                client.warn_of_backlog();
            }
            (slow || idle || lags || client.is_handshake_overdue(now)).then_some(index)
        });
        let indexes: Vec<usize> = overdue.collect();
        for index in indexes {
            if !self.close_slow_handshake(index, registry) {
                self.counters.clients_closed.add_one();
                self.close(index, registry);
            }
        }
    }

    /// Redirects waiting requests to the leader, for all clients that follow redirects.
    pub(crate) fn redirect_all(&mut self) {
        if self.context.leads() || self.context.leader().is_none() {
            return;
        }
        self.try_redirected();
        let followers =
            self.connected.iter_mut().filter(|(_, client)| client.connection.follows_redirects());
        let indexes: Vec<usize> = followers.map(|(index, _)| index).collect();
        for index in indexes {
            self.redirect_client(index);
        }
    }

    /// Redirects the waiting requests of the client at `index` if the client follows redirects and
    /// another replica is the leader.
    pub(super) fn redirect_client(&mut self, index: usize) {
        let Some(client) = self.connected.get_mut(index) else { return };
        let leader = self.context.leader().filter(|_| !self.context.leads());
        let Some(leader) = leader else { return };
        let waiting = client.redirectable();
        let mut text = BytesMut::new();
        let replies = waiting.into_iter().map(|(slot, sequence, hash_slot)| {
            text.clear();
            let moved = Failure::Moved { slot: hash_slot, host: &leader.host, port: leader.port };
            moved.encode(&mut text);
            (slot, sequence, Bytes::copy_from_slice(&text))
        });
        for (slot, sequence, reply) in replies.collect::<Vec<_>>() {
            if let Some(request) = self.in_flight.get(sequence) {
                self.context.statistics.count_error(&reply[1..]);
                self.context.statistics.count_rejected(request.command);
            }
            self.finish(sequence, |client, found| {
                assert_eq!(found, slot, "slot of request {sequence}");
                client.finish(slot, Reply::Encoded(reply))
            });
        }
    }
}
