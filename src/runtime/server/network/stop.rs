//! The graceful stop of a server, on SIGTERM or SIGINT.
//!
//! 1. The sockets on which the server listens for clients are closed.
//! 2. A leader transfers its leadership. Requests wait meanwhile and then go to the new leader.
//! 3. Clients that wait for changes get their replies. Connections are closed, each when its
//!    requests have their replies and no more bytes have arrived. A client that follows redirects
//!    is sent to the new leader first.
//! 4. The network stage stops, which stops all others.
//!
//! A replica whose state is wrong stops in the same way, but without step 3: requests get no
//! replies.
//!
//! Each step takes a bounded time. A client that sends its next request in the very moment in which
//! its connection is closed gets no reply to it; the request was then not applied.

use std::time::Duration;

use mio::Registry;

use crate::raft::{TransferRefusal, TransferRequest};
use crate::redis::AdminRequest;
use crate::runtime::channels::{AdminCall, AdminCaller};
use crate::runtime::pass::{Pass, StageState};
use crate::runtime::server::clients::Clients;
use crate::runtime::server::listeners::Listeners;
use crate::runtime::server::sockets::listener::Listener;
use crate::types::{Instant, NodeId};

use super::ServerNetwork;

/// Interval at which the stop is advanced while no event arrives.
pub(super) const STEP_INTERVAL: Duration = Duration::from_millis(2);
/// Maximum time for the leadership transfer, with repeated attempts.
const TRANSFER_MAX: Duration = Duration::from_secs(2);
/// Maximum time for the requests in flight, and for the rest of requests that are received in part.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// Time in which clients that follow redirects are sent to the new leader. After it, their
/// connections are closed like all others.
const REDIRECT_MAX: Duration = Duration::from_millis(500);
/// Maximum number of times that connections which wait to be accepted are accepted.
const ACCEPT_ROUNDS: usize = 64;

/// The progress of a graceful stop.
#[derive(Debug)]
pub(super) enum Stopping {
    /// The leader is transferring its leadership.
    Transferring {
        until: Instant,
        /// Whether the Raft core has not yet answered the request for a transfer.
        asked: bool,
    },
    /// Requests in flight get their replies, and connections are closed.
    Draining { since: Instant },
}

impl Stopping {
    /// Closes the connections of clients that wait for nothing. Clients that follow redirects are
    /// given time to go to the new leader.
    pub(super) fn close_clients(
        &self,
        clients: &mut Clients,
        registry: &Registry,
        space: &mut [u8],
        now: Instant,
        pass: &mut Pass,
    ) {
        if let Stopping::Draining { since } = self {
            clients.close_drained(now < *since + REDIRECT_MAX, registry, space, pass);
        }
    }
}

impl ServerNetwork {
    /// Begins the graceful stop if it was requested, and advances it. Returns
    /// [`StageState::Stopped`] when it is complete.
    pub(super) fn advance_stop(&mut self, now: Instant) -> StageState {
        let leads = self.leadership.leader == Some(self.parts.me);
        let state_is_wrong = self.parts.clients.state_is_wrong();
        match &mut self.stopping {
            None if !self.parts.stop.is_requested() && !state_is_wrong => {}
            None => {
                tracing::info!(
                    leads,
                    state_is_wrong,
                    clients = self.parts.clients.len(),
                    "stop requested"
                );
                self.close_listeners(now);
                self.stopping =
                    Some(Stopping::Transferring { until: now + TRANSFER_MAX, asked: false });
            }
            Some(Stopping::Transferring { until, asked }) => {
                let is_pending = *asked || self.leadership.transfer_target.is_some();
                if now >= *until || !is_pending && !leads {
                    if state_is_wrong {
                        return StageState::Stopped;
                    }
                    self.begin_draining(now);
                } else if !is_pending {
                    *asked = true;
                    let start = TransferRequest::Start { target: None, timeout: None };
                    let request = AdminRequest::Transfer(start);
                    let call = AdminCall { caller: AdminCaller::Network, request };
                    self.parts.clients.admin_calls.push_back(call);
                }
            }
            Some(Stopping::Draining { since }) => {
                let left = self.parts.clients.len();
                if left == 0 || state_is_wrong || now >= *since + DRAIN_MAX {
                    if left > 0 {
                        tracing::warn!(clients = left, "closing connections with open requests");
                    }
                    tracing::info!("stopped");
                    return StageState::Stopped;
                }
            }
        }
        StageState::Running
    }

    /// Handles the Raft core's answer to the request for a leadership transfer of the stop.
    pub(super) fn on_stop_transfer_answer(&mut self, answer: Result<NodeId, TransferRefusal>) {
        let Some(Stopping::Transferring { asked, .. }) = &mut self.stopping else { return };
        *asked = false;
        if let Err(reason) = answer
            && reason != TransferRefusal::InProgress
            && reason != TransferRefusal::NotLeader
        {
            tracing::warn!(?reason, "no leadership transfer before the stop");
            self.begin_draining(self.parts.clock.now());
        }
    }

    fn begin_draining(&mut self, now: Instant) {
        tracing::info!(
            leader = ?self.leadership.leader,
            clients = self.parts.clients.len(),
            "closing the connections of clients"
        );
        self.parts.clients.refuse_waits();
        self.parts.clients.refuse_held();
        self.stopping = Some(Stopping::Draining { since: now });
    }

    /// Accepts the connections of clients that wait for it, and then closes the listening sockets.
    fn close_listeners(&mut self, now: Instant) {
        let Listeners { clients, tls, sentinel, .. } = &mut self.parts.listeners;
        [clients, tls, sentinel].into_iter().flatten().for_each(Listener::on_event);
        for _ in 0..ACCEPT_ROUNDS {
            self.accept(now);
        }
        let registry = self.parts.poll.registry();
        let Listeners { clients, tls, sentinel, .. } = &mut self.parts.listeners;
        for listener in [clients, tls, sentinel].into_iter().flatten() {
            listener.close(registry);
        }
    }
}
