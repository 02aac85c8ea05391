//! Clients on whose connections TLS has failed: plain bytes at the port for TLS, TLS at the plain
//! port, a failed handshake, or one that takes too long. They are disconnected and logged; nothing
//! that they have sent has an effect.

use std::time::Duration;

use mio::Registry;

use super::Clients;
use super::client::Client;
use crate::tls::FailureKind;
use crate::types::Instant;

/// Maximum time of a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The first bytes of a handshake: a record of this type, and the major version of the protocol.
const HANDSHAKE_PREFIX: [u8; 2] = [0x16, 0x03];

/// Why a client was disconnected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    /// TLS has failed.
    Failure(FailureKind),
    /// The handshake was not complete in time.
    Slow,
    /// The client has begun a handshake on a plain connection.
    Stray,
}

impl Client {
    /// Returns whether the client has not completed its handshake in time.
    pub(super) fn is_handshake_overdue(&self, now: Instant) -> bool {
        // No bytes count as received before the end of the handshake.
        self.socket.is_handshaking() && now >= self.active_at + HANDSHAKE_TIMEOUT
    }
}

impl Clients {
    /// Returns whether the client at `index` has begun a handshake on a plain connection with
    /// `received`. No command begins like that.
    pub(super) fn is_stray_handshake(&mut self, index: usize, received: &[u8]) -> bool {
        received.starts_with(&HANDSHAKE_PREFIX) && {
            let client = self.client(index);
            // Else it may be in the middle of a value.
            let begins_request = client.input.is_empty() && client.parser.is_between_requests();
            begins_request && !client.socket.is_encrypted()
        }
    }

    /// Disconnects a client that has begun a handshake on a plain connection.
    pub(super) fn close_stray(&mut self, index: usize, registry: &Registry) {
        let reason = "the client uses TLS, but this port is plain; connect to --tls-port";
        self.close_refused(index, Refusal::Stray, reason, registry);
    }

    /// Disconnects a client on whose connection TLS has failed.
    pub(super) fn close_failed(&mut self, index: usize, registry: &Registry) {
        let Some(failure) = self.client(index).socket.tls_failure().cloned() else { return };
        let refusal = Refusal::Failure(failure.kind());
        self.close_refused(index, refusal, &failure.to_string(), registry);
    }

    /// Disconnects the client at `index` if its handshake was not complete in time. Returns whether
    /// it was disconnected.
    pub(super) fn close_slow_handshake(&mut self, index: usize, registry: &Registry) -> bool {
        let now = self.context.now;
        let is_slow = self.client(index).is_handshake_overdue(now);
        if is_slow {
            let reason = "the TLS handshake was not complete in time";
            self.close_refused(index, Refusal::Slow, reason, registry);
        }
        is_slow
    }

    fn close_refused(&mut self, index: usize, refusal: Refusal, reason: &str, registry: &Registry) {
        self.counters.clients_closed.add_one();
        if let Some(suppressed) = self.tls_refusals.count(&refusal, self.context.now) {
            let address = self.client(index).socket.address();
            let address = address.map_or_else(String::new, |address| address.to_string());
            tracing::warn!(address, suppressed, reason, "client disconnected");
        }
        self.close(index, registry);
    }
}
