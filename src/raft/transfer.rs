//! Handing the lead over (thesis 3.10; safety.md L9), here for the sake of a leader's disk: what
//! it can't write others can, and clients should not wait for it.
//!
//! 1. The leader takes in no more requests, its successor gets what it lacks, and all are told who
//!    that is. Where this is lost, the election waits for the leader's lease like any other.
//! 2. When that holds all of the leader's log durably the leader tells it so, and gives up its
//!    lease until the end of its term: whoever votes in the election that follows need not mind it.
//! 3. The successor stands for election at once, without asking first whether it would win.
//!
//! On every path this ends: with a higher term, which ends the leadership, or at the time-out,
//! after which the leader goes on as before and tries again later, with another if there is one.

use std::cmp::Reverse;

use crate::types::{Instant, NodeId};

use super::effects::Effects;
use super::follower::Follower;
use super::leader::Leader;
use super::message::{DiskState, PeerMsg, TimeoutNow};
use super::progress::Progress;
use super::quorum::quorum;
use super::rejoin::REJOINING_HEARTBEATS;
use super::replica::Transition;
use super::shared::Shared;

/// A follower that was not heard for so many heartbeat intervals is no successor.
const HEARD_HEARTBEATS: u32 = 3;

/// How far a leader has come with handing its lead over.
#[derive(Debug, Default)]
pub(super) struct Handover {
    under_way: Option<Attempt>,
    /// Who was tried last.
    last_tried: Option<NodeId>,
    /// Not before then is it tried again.
    next_at: Instant,
    /// Somebody was told to take over in this term, and may do so however late that arrives.
    told: bool,
}

/// One attempt.
#[derive(Debug)]
struct Attempt {
    to: NodeId,
    deadline: Instant,
    told: bool,
}

impl Handover {
    /// Whether requests are the successor's to take in.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    pub(super) fn successor(&self) -> Option<NodeId> {
        self.under_way.as_ref().map(|attempt| attempt.to)
    }

    /// Whom appends name as the target: the one of the attempt under way, or the last one that was
    /// told, for it may still take over.
    pub(super) fn announced(&self) -> Option<NodeId> {
        self.successor().or(self.last_tried.filter(|_| self.told))
    }

    /// Whether another may be elected although this leader was heard lately.
    pub(super) fn gave_up_lease(&self) -> bool {
        self.told
    }
}

impl Leader {
    /// Does what is due: begins, tells the successor, gives an attempt up.
    pub(super) fn hand_over(&mut self, shared: &mut Shared, out: &mut Effects) {
        let wanted = shared.disk.state() != DiskState::Healthy;
        if let Some(attempt) = &self.handover.under_way
            && (shared.now >= attempt.deadline || !wanted && !attempt.told)
        {
            self.handover.under_way = None;
            self.handover.next_at = shared.now + shared.config.leadership_transfer_interval;
        }
        if wanted
            && self.handover.under_way.is_none()
            && shared.now >= self.handover.next_at
            && let Some(to) = self.choose_successor(shared)
        {
            let deadline = shared.now + shared.config.leadership_transfer_timeout;
            self.handover.under_way = Some(Attempt { to, deadline, told: false });
            self.handover.last_tried = Some(to);
            shared.counters.leadership_transfers += 1;
            // Those that vote must know before the target asks them: with the next append, at once.
            shared.announced_transfer = Some((shared.term(), to));
            self.owe_all();
        }
        let last = shared.log.last();
        if let Some(attempt) = &mut self.handover.under_way
            && !attempt.told
            && self
                .progress
                .iter()
                .any(|there| there.id == attempt.to && there.match_index() == last.index)
        {
            attempt.told = true;
            self.handover.told = true;
            let message = PeerMsg::TimeoutNow(TimeoutNow { term: shared.term(), last });
            shared.send(attempt.to, message, out);
        }
    }

    /// When there is something to do about it although nothing comes in.
    pub(super) fn handover_at(&self, shared: &Shared) -> Instant {
        match &self.handover.under_way {
            Some(attempt) => attempt.deadline,
            None if shared.disk.state() != DiskState::Healthy => {
                self.handover.next_at.max(shared.now + shared.config.heartbeat_interval)
            }
            None => Instant::MAX,
        }
    }

    /// The follower that has come furthest, of those that answer, may vote, and whose disks are
    /// well. Nobody if those are no quorum without this replica: what they could not commit, or
    /// could not even elect, is better off here.
    fn choose_successor(&self, shared: &Shared) -> Option<NodeId> {
        let patience = shared.config.heartbeat_interval * HEARD_HEARTBEATS;
        let rejoin = shared.config.heartbeat_interval * REJOINING_HEARTBEATS;
        let fit: Vec<&Progress> = self
            .progress
            .iter()
            .filter(|there| shared.now.since(there.heard_at) <= patience)
            .filter(|there| there.disk == DiskState::Healthy && !there.is_in_transfer())
            .filter(|there| there.asked_to_rejoin_at.is_none_or(|at| shared.now.since(at) > rejoin))
            .collect();
        if fit.len() < quorum(shared.replicas(), &shared.config) {
            return None;
        }
        let furthest = fit.into_iter().max_by_key(|there| {
            let tried = self.handover.last_tried == Some(there.id);
            (!tried, there.match_index(), Reverse(there.id))
        });
        furthest.map(|there| there.id)
    }
}

impl Follower {
    /// This term's leader wants this replica to lead the next. Late or repeated, that costs an
    /// election at most.
    pub(super) fn on_timeout_now(shared: &mut Shared, from: NodeId, now: TimeoutNow) -> Transition {
        shared.heard_leader(from);
        // That it is durable the leader knows from this replica itself, whose log writer may have
        // told the leader before it told the core.
        let holds_all = shared.log.last() == now.last;
        if !holds_all || shared.disk.state() != DiskState::Healthy {
            shared.counters.stale += 1;
            return Transition::Stay;
        }
        Transition::TakeOver
    }
}
