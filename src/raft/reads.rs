//! Linearizable reads without log entries: by the leader's lease, or by a read index confirmed
//! in a round that began after the read came (§8; thesis 6.4, 6.4.1).

use std::collections::VecDeque;

use crate::config::Mutant;
use crate::types::{Instant, Round};

use super::message::ClientRequest;
use super::shared::Shared;

/// A read and the first round whose answers prove that its leader still led when it came.
#[derive(Debug)]
struct Waiting {
    round: Round,
    request: ClientRequest,
}

/// A leader's reads that are not confirmed yet.
///
/// Invariant: in order of the rounds that they need.
#[derive(Debug, Default)]
pub(super) struct Reads {
    waiting: VecDeque<Waiting>,
}

impl Reads {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Takes in a read; `current` is the last round begun.
    pub(super) fn push(&mut self, shared: &Shared, current: Round, request: ClientRequest) {
        let round =
            if shared.config.breaks(Mutant::ReadOnOldRound) { Round(0) } else { current.next() };
        debug_assert!(self.waiting.back().is_none_or(|last| last.round <= round));
        self.waiting.push_back(Waiting { round, request });
    }

    /// The round that the oldest read waits for. Later ones wait for the next confirmation, so
    /// that one serves all that came meanwhile.
    pub(super) fn wanted_round(&self) -> Option<Round> {
        self.waiting.front().map(|read| read.round)
    }

    /// Lets go what `confirmed` proves, or everything under a valid lease. The state that they
    /// are answered from is the one after all that is committed now, which is no older than the
    /// one that was committed when they came.
    pub(super) fn release(&mut self, shared: &mut Shared, confirmed: Round, lease_valid: bool) {
        while self.waiting.front().is_some_and(|read| lease_valid || read.round <= confirmed) {
            let read = self.waiting.pop_front().expect("there is a front");
            if read.round <= confirmed {
                shared.counters.read_index_reads += 1;
            } else {
                shared.counters.lease_reads += 1;
            }
            shared.ready_reads.push(read.request);
        }
    }

    /// All that wait, for a leader that leads no more.
    pub(super) fn take(&mut self) -> impl Iterator<Item = ClientRequest> + use<> {
        std::mem::take(&mut self.waiting).into_iter().map(|read| read.request)
    }
}

/// Whether a leader may answer alone at `now`: a quorum, itself included, answered rounds begun
/// (`confirmed_at`, by this replica's clock before they were sent) so lately that none of them
/// votes for another yet.
pub(super) fn lease_is_valid(shared: &Shared, confirmed_at: Option<Instant>) -> bool {
    let mut length = shared.config.lease_length();
    if shared.config.breaks(Mutant::LeaseTooLong) {
        length *= 2;
    }
    shared.config.lease_reads && confirmed_at.is_some_and(|sent_at| shared.now < sent_at + length)
}
