//! Linearizable reads without log entries: under the leader's lease, or by a read index, which a
//! round of messages confirms that begins after the read has arrived (§8; thesis 6.4, 6.4.1).

use std::collections::VecDeque;

use crate::types::{Instant, Round};

use super::message::ClientRequest;
use super::rules;
use super::shared::Shared;

/// A waiting read, and the message round (a numbered batch of messages) that a quorum must answer
/// to prove that the leader was still the leader when the read arrived.
#[derive(Debug)]
struct WaitingRead {
    round: Round,
    request: ClientRequest,
}

/// The reads that wait at the leader until a quorum confirms its leadership.
///
/// Invariant: ordered by the sequence number of the message round that confirms them.
#[derive(Debug, Default)]
pub(super) struct Reads {
    waiting: VecDeque<WaitingRead>,
}

impl Reads {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Adds a read, to be confirmed by the message round (a numbered batch of messages) after
    /// `current`, the last one begun.
    pub(super) fn push(&mut self, shared: &Shared, current: Round, request: ClientRequest) {
        let round = rules::confirming_round(current, &shared.config);
        assert!(
            self.waiting.back().is_none_or(|last| last.round <= round),
            "a read waits for {round:?} after {:?}",
            self.waiting.back()
        );
        self.waiting.push_back(WaitingRead { round, request });
    }

    /// Returns the message round (a numbered batch of messages) that a quorum must answer to
    /// confirm the oldest waiting read; `None` if no read is waiting. Later reads may need a later
    /// round.
    pub(super) fn wanted_round(&self) -> Option<Round> {
        self.waiting.front().map(|read| read.round)
    }

    /// Releases the waiting reads that are confirmed: all reads if the lease is valid, otherwise
    /// those whose message round (a numbered batch of messages) is at most `confirmed`, the last
    /// one that a quorum has answered. A released read is executed after all entries committed by
    /// now are applied.
    pub(super) fn release(&mut self, shared: &mut Shared, confirmed: Round, lease_is_valid: bool) {
        let releases = |read: &mut WaitingRead| lease_is_valid || read.round <= confirmed;
        while let Some(read) = self.waiting.pop_front_if(releases) {
            if read.round <= confirmed {
                shared.counters.read_index_reads += 1;
            } else {
                shared.counters.lease_reads += 1;
            }
            shared.ready_reads.push(read.request);
        }
        assert!(
            self.waiting.front().is_none_or(|read| read.round > confirmed),
            "{confirmed:?} is confirmed, but {:?} waits",
            self.waiting.front()
        );
    }

    /// Removes and returns all waiting reads, because the leader has stepped down.
    pub(super) fn take(&mut self) -> impl Iterator<Item = ClientRequest> + use<> {
        std::mem::take(&mut self.waiting).into_iter().map(|read| read.request)
    }
}

/// Returns whether a leader may serve reads under its lease. `confirmed_at` is the start, on this
/// replica's clock, of the last message round (a numbered batch of messages) that a quorum has
/// answered; `None` if unknown. The lease is valid as long as no member of that quorum may vote for
/// another leader.
pub(super) fn lease_is_valid(shared: &Shared, confirmed_at: Option<Instant>) -> bool {
    shared.config.lease_reads
        && confirmed_at.is_some_and(|at| rules::lease_is_valid(at, shared.now, &shared.config))
}
