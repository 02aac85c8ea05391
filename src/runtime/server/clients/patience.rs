//! What time alone does to clients: requests that wait too long are answered, connections that
//! are idle, or keep half a request open, are closed. And what becomes of requests that wait when
//! it turns out that somebody else leads.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mio::Registry;

use crate::redis::Failure;
use crate::types::{Instant, RequestKey};

use super::Clients;
use crate::runtime::pass::Pass;
use crate::runtime::server::client::{Reason, Reply, Wait};
use crate::runtime::server::flights::request_id;

/// How often to look who is idle.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// A request that is large and comes slowly gets a second more for so many bytes.
const BYTES_A_SECOND_MIN: usize = 64 << 10;

/// How long a client waits, and how long it is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// For a leader, before its request is refused.
    pub leader_wait: Duration,
    /// For the outcome of a write that was handed on, before it is told that nobody knows.
    pub command_deadline: Duration,
    /// For the rest of a request that has begun, before its connection is closed; longer the more
    /// of it has come.
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
    /// When [`Clients::expire`] has something to do, at the earliest.
    pub(in crate::runtime::server) fn next_due(&self) -> Option<Instant> {
        self.flights.oldest().map(|arrived| arrived + self.timeouts.leader_wait)
    }

    /// When [`Clients::sweep`] has something to do, at the earliest.
    pub(in crate::runtime::server) fn next_sweep(&self) -> Option<Instant> {
        (self.connected.len() > 0).then(|| self.swept_at + SWEEP_INTERVAL)
    }

    /// Answers those that have waited too long, until the pass is over; the next one goes on from
    /// there.
    pub(in crate::runtime::server) fn expire(&mut self, now: Instant, pass: &mut Pass) {
        let Timeouts { leader_wait, command_deadline, .. } = self.timeouts;
        let earliest = u64::try_from(leader_wait.as_nanos()).unwrap_or(u64::MAX);
        let before = Instant(now.0.saturating_sub(earliest));
        while let Some((sequence, flight)) =
            pass.next(|| self.flights.next_since(self.expire_from, before))
        {
            self.expire_from = sequence + 1;
            let request = request_id(self.flights.origin(), sequence);
            let key = RequestKey { client: flight.client, request };
            let client = self.connected.get_mut(flight.place);
            let Some(client) = client.filter(|there| there.id == flight.client) else {
                self.flights.remove(sequence);
                continue;
            };
            let (since, patience, reason) = match client.wait(flight.slot, flight.arrived) {
                None => continue,
                Some(Wait::Waiting { since, behind_own }) => {
                    let patience = if behind_own { command_deadline } else { leader_wait };
                    let leader = self.context.leader.is_some();
                    (since, patience, if leader { Reason::Busy } else { Reason::NoLeader })
                }
                Some(Wait::Flying { since, write: true }) => {
                    (since, command_deadline, Reason::Uncertain)
                }
                Some(Wait::Flying { since, write: false }) => {
                    (since, command_deadline, Reason::NoLeader)
                }
            };
            if now >= since + patience {
                self.fail(key, reason);
            }
        }
        if !pass.is_over() {
            self.expire_from = 0;
        }
    }

    /// Closes the connections that are idle for longer than they may be, and those that keep half a
    /// request open. Takes up what was set meanwhile.
    pub(in crate::runtime::server) fn sweep(&mut self, now: Instant, registry: &Registry) {
        if now < self.swept_at + SWEEP_INTERVAL {
            return;
        }
        self.swept_at = now;
        self.memory.allow(self.settings.clients_bytes_max());
        let idle_max = self.settings.idle_max();
        let half_max = self.timeouts.request_read;
        let over = self.connected.iter_mut().filter(|(_, client)| {
            let slow = client.half_since.is_some_and(|since| {
                let seconds = client.input.len() / BYTES_A_SECOND_MIN;
                // What it has sent is not looked at while it does not read what it is owed.
                client.may_parse() && now >= since + half_max + Duration::from_secs(seconds as u64)
            });
            let idle = idle_max.is_some_and(|most| {
                !client.is_flying() && !client.has_waiting() && now >= client.heard + most
            });
            slow || idle
        });
        let places: Vec<usize> = over.map(|(place, _)| place).collect();
        for place in places {
            self.counters.clients_closed.add_one();
            self.close(place, registry);
        }
    }

    /// Somebody leads: clients that want to hear so are told, instead of waiting longer.
    pub(in crate::runtime::server) fn redirect(&mut self) {
        if self.context.leads() || self.context.leader().is_none() {
            return;
        }
        let follow = self.connected.iter_mut().filter(|(_, it)| it.connection.follows_redirects());
        let places: Vec<usize> = follow.map(|(place, _)| place).collect();
        for place in places {
            self.redirect_waiting(place);
        }
    }

    /// The same for one client.
    pub(super) fn redirect_waiting(&mut self, place: usize) {
        let Some(client) = self.connected.get_mut(place) else { return };
        let Some(leader) = self.context.leader().filter(|_| !self.context.leads()) else { return };
        let waiting = client.to_redirect();
        let id = client.id;
        let mut text = BytesMut::new();
        let replies = waiting.into_iter().map(|(number, sequence, slot)| {
            text.clear();
            Failure::Moved { slot, host: &leader.host, port: leader.port }.encode(&mut text);
            (number, sequence, Bytes::copy_from_slice(&text))
        });
        for (number, sequence, reply) in replies.collect::<Vec<_>>() {
            let request = request_id(self.flights.origin(), sequence);
            let key = RequestKey { client: id, request };
            if let Some(flight) = self.flights.get(key) {
                self.finish(flight, key, |there| there.finish(number, Reply::Written(reply)));
            }
        }
    }
}
