//! Leadership transfer (thesis 3.10): on request (`FAILOVER`, a graceful stop); because the
//! leader's disk is stalled or low on space and enough other replicas have healthy disks; because a
//! membership change has removed the leader; or because the leader is a witness.
//!
//! 1. The leader refuses new requests, sends the target the entries that it lacks, and announces
//!    the target to all peers. If a voter misses the announcement, it votes only after the leader's
//!    lease has ended, as in any election.
//! 2. When the target has acknowledged the leader's whole log, the leader sends it [`TimeoutNow`],
//!    and serves no more reads under a lease in this term. So voters need not wait for its lease.
//!    It repeats the message at each heartbeat, in case it was lost, and when its log has grown,
//!    because the target campaigns only with the whole log.
//! 3. The target starts an election at once, without a pre-vote.
//!
//! Every transfer ends: with a higher term, in which the leader steps down; with a timeout; or with
//! an abort. After a timeout or an abort the leader accepts requests again. If the reason was the
//! leader's disk or its removal, it starts another transfer later, to another target if there is
//! one.

use std::cmp::Reverse;
use std::time::Duration;

use crate::types::{EntryId, Index, Instant, NodeId, Round};

use super::effects::Effects;
use super::message::{DiskState, PeerMsg, TimeoutNow};
use super::progress::Progress;
use super::rejoin::REJOINING_HEARTBEATS;
use super::role::Transition;
use super::rules;
use super::shared::Shared;

pub use crate::types::{TransferRefusal, TransferRequest};

/// Maximum age, in heartbeat intervals, of a follower's last reply for it to be chosen as the
/// target of a leadership transfer.
const REPLIED_HEARTBEATS: u32 = 3;
/// Maximum lag, in bytes of log entries, of a replica that the cluster is about to depend on: the
/// target of a requested transfer, since requests wait until it has caught up, and a learner that
/// is promoted.
pub(super) const LAG_BYTES_MAX: usize = 4 << 20;

/// The state of a leader's leadership transfers.
///
/// Invariant: `is_lease_given_up` is set when the first [`TimeoutNow`] is sent, and stays set; a
/// target that is not announced yet was not asked to campaign.
#[derive(Debug, Default)]
pub(super) struct LeadershipTransfer {
    /// The leadership transfer in progress; `None` if there is none.
    current: Option<Box<TransferTarget>>,
    /// The target of the leader's latest leadership transfer, even if the transfer has ended;
    /// `None` if there was no transfer.
    last_target: Option<NodeId>,
    /// Earliest time at which the next transfer may start.
    next_at: Instant,
    /// Whether this leader has sent a [`TimeoutNow`] in its term. It then serves no more lease
    /// reads, because the receiver may start an election at any time.
    is_lease_given_up: bool,
}

/// The target of the leadership transfer in progress: the follower that is to become leader.
#[derive(Debug)]
struct TransferTarget {
    id: NodeId,
    /// Time at which the leader ends the transfer if it still leads.
    deadline: Instant,
    /// Whether the transfer was requested; false if it began because of the leader's disk or its
    /// removal.
    is_requested: bool,
    /// Whether the target still has to be announced to all peers.
    is_new: bool,
    /// The last [`TimeoutNow`], the request to start an election, that the leader has sent the
    /// target; `None` before the first.
    asked: Option<Asked>,
}

/// A [`TimeoutNow`] that was sent.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// Last entry of the leader's log, which the target must have.
    last: EntryId,
    /// Time at which the message is sent again.
    repeat_at: Instant,
}

impl LeadershipTransfer {
    /// Returns whether a leadership transfer is in progress. During a transfer the leader refuses
    /// client requests.
    pub(super) fn is_in_progress(&self) -> bool {
        self.current.is_some()
    }

    /// Returns the follower that the leadership is being transferred to; `None` if no transfer is
    /// in progress.
    pub(super) fn target(&self) -> Option<NodeId> {
        self.current.as_ref().map(|target| target.id)
    }

    /// Returns the transfer target to announce in `AppendEntries`: the target of the transfer in
    /// progress, or else of the last transfer if this leader has sent a [`TimeoutNow`], because the
    /// receiver of that request may still start an election. Otherwise `None`.
    pub(super) fn announced_target(&self) -> Option<NodeId> {
        self.target().or(self.last_target.filter(|_| self.is_lease_given_up))
    }

    /// Returns whether this leader has given up its lease for the rest of its term by sending a
    /// [`TimeoutNow`], so that voters may elect another replica even if they have heard from this
    /// leader recently.
    pub(super) fn is_lease_given_up(&self) -> bool {
        self.is_lease_given_up
    }

    /// Advances the leadership transfer: starts one if the disk is stalled or low on space or this
    /// leader was removed, sends [`TimeoutNow`] once the target has the whole log, and ends an
    /// overdue transfer. Returns whether a new target must be announced to all peers.
    pub(super) fn advance(
        &mut self,
        progress: &[Progress],
        shared: &mut Shared,
        out: &mut Effects,
    ) -> bool {
        assert!(shared.leader == Some(shared.id), "{:?} leads this term", shared.leader);
        let is_wanted = is_wanted(shared);
        if let Some(target) = &self.current
            && (shared.now >= target.deadline
                || !is_wanted && target.asked.is_none() && !target.is_requested)
        {
            self.end(shared);
        }
        if is_wanted
            && self.current.is_none()
            && shared.now >= self.next_at
            && let Some(id) = self.choose_target(progress, shared)
        {
            self.start(id, shared.config.leadership_transfer_timeout, false, shared);
        }
        // Voters must know the target before it asks them.
        let is_new = self.current.as_mut().is_some_and(|target| std::mem::take(&mut target.is_new));
        let last = shared.log.last();
        let repeat_after = shared.config.heartbeat_interval;
        if let Some(target) = &mut self.current
            && target.asked.is_none_or(|asked| asked.last != last || shared.now >= asked.repeat_at)
        {
            let repeat_at = shared.now + repeat_after;
            if match_index_of(progress, target.id) != last.index {
                // It lacks entries that were appended since, and is asked when it has them.
                if let Some(asked) = &mut target.asked {
                    asked.repeat_at = repeat_at;
                }
                return is_new;
            }
            target.asked = Some(Asked { last, repeat_at });
            self.is_lease_given_up = true;
            let message = PeerMsg::TimeoutNow(TimeoutNow { term: shared.term(), last });
            shared.send(target.id, message, out);
        }
        assert!(
            self.is_lease_given_up
                || self.current.as_ref().is_none_or(|target| target.asked.is_none()),
            "{:?} was asked to campaign under a lease",
            self.current
        );
        is_new
    }

    /// Starts a leadership transfer to `target`, or to the most suitable follower if it is `None`,
    /// and returns the follower. The transfer ends after `timeout`, or after the configured timeout
    /// if that is shorter or `timeout` is `None`.
    pub(super) fn request(
        &mut self,
        target: Option<NodeId>,
        timeout: Option<Duration>,
        progress: &[Progress],
        shared: &mut Shared,
    ) -> Result<NodeId, TransferRefusal> {
        if self.is_in_progress() {
            return Err(TransferRefusal::InProgress);
        }
        let id = match target {
            Some(id) if id == shared.id => return Err(TransferRefusal::AlreadyLeads),
            Some(id) => {
                let peer = progress.iter().find(|peer| peer.id == id);
                readiness(peer.ok_or(TransferRefusal::UnknownTarget)?, shared)?;
                id
            }
            None => {
                let ready = progress.iter().filter(|peer| readiness(peer, shared).is_ok());
                self.best(ready).ok_or(TransferRefusal::NoTarget)?
            }
        };
        let timeout_max = shared.config.leadership_transfer_timeout;
        self.start(id, timeout.map_or(timeout_max, |it| it.min(timeout_max)), true, shared);
        Ok(id)
    }

    /// Ends the leadership transfer in progress and returns its target. If a [`TimeoutNow`] was
    /// sent already, the target may still become the leader.
    pub(super) fn abort(&mut self, shared: &Shared) -> Result<NodeId, TransferRefusal> {
        let target = self.target().ok_or(TransferRefusal::NotInProgress)?;
        self.end(shared);
        Ok(target)
    }

    fn start(&mut self, id: NodeId, timeout: Duration, is_requested: bool, shared: &mut Shared) {
        assert!(id != shared.id, "{id} transfers its leadership to itself");
        assert!(self.current.is_none(), "{:?} is the target of a transfer already", self.current);
        let deadline = shared.now + timeout;
        let target = TransferTarget { id, deadline, is_requested, is_new: true, asked: None };
        self.current = Some(Box::new(target));
        self.last_target = Some(id);
        shared.counters.leadership_transfers += 1;
        shared.announced_transfer = Some((shared.term(), id));
    }

    fn end(&mut self, shared: &Shared) {
        self.current = None;
        // Nothing is served while a witness leads.
        let pause = if shared.config.is_witness {
            shared.config.heartbeat_interval
        } else {
            shared.config.leadership_transfer_interval
        };
        self.next_at = shared.now + pause;
    }

    /// Returns when [`LeadershipTransfer::advance`] must be called next even if no message arrives;
    /// [`Instant::MAX`] if no call is needed.
    pub(super) fn next_timeout(&self, shared: &Shared) -> Instant {
        match &self.current {
            Some(target) => {
                target.deadline.min(target.asked.map_or(Instant::MAX, |asked| asked.repeat_at))
            }
            None if is_wanted(shared) => {
                self.next_at.max(shared.now + shared.config.heartbeat_interval)
            }
            None => Instant::MAX,
        }
    }

    /// Chooses the target of a leadership transfer: the voter with the highest match index among
    /// those that are answering, have a healthy disk, and are neither rejoining nor receiving a
    /// snapshot. The previous target is chosen only if no other follower qualifies. `None` if fewer
    /// than a quorum of them and of such witnesses remain, because they could not elect a leader
    /// without this replica. A witness that leads votes for its target itself, and chooses only one
    /// that can soon have its whole log.
    fn choose_target(&self, progress: &[Progress], shared: &Shared) -> Option<NodeId> {
        if shared.config.is_witness {
            // It has just been elected, and does not know yet who answers.
            let is_ready = |peer: &&Progress| {
                peer.answered_round > Round(0) && readiness(peer, shared).is_ok()
            };
            return self.best(progress.iter().filter(is_ready));
        }
        let may_vote = |peer: &&Progress| {
            let able = can_take_over(peer, shared);
            matches!(able, Ok(()) | Err(TransferRefusal::TargetWitness))
        };
        let voters = || progress.iter().filter(may_vote);
        if !shared.has_quorum(|id| voters().any(|peer| peer.id == id)) {
            return None;
        }
        self.best(voters().filter(|peer| can_take_over(peer, shared).is_ok()))
    }

    /// Returns the follower with the highest match index, and the previous target only if there is
    /// no other follower.
    fn best<'p>(&self, followers: impl Iterator<Item = &'p Progress>) -> Option<NodeId> {
        let best = followers.max_by_key(|peer| {
            let is_new = self.last_target != Some(peer.id);
            (is_new, peer.match_index(), Reverse(peer.id))
        });
        best.map(|peer| peer.id)
    }
}

/// Returns whether the leader transfers its leadership without a request.
fn is_wanted(shared: &Shared) -> bool {
    shared.disk.state() != DiskState::Healthy
        || shared.is_removed()
        || !rules::leads_for_clients(&shared.config)
}

/// Returns an error if the follower cannot become the leader now: it has no vote or is being
/// removed, it is not answering, its disk is not healthy, it is rejoining, it is receiving a
/// snapshot, or it is a witness.
fn can_take_over(peer: &Progress, shared: &Shared) -> Result<(), TransferRefusal> {
    let reply_age_max = shared.config.heartbeat_interval * REPLIED_HEARTBEATS;
    let rejoin_age_max = shared.config.heartbeat_interval * REJOINING_HEARTBEATS;
    let rejoins = peer.asked_to_rejoin_at.is_some_and(|at| shared.now.since(at) <= rejoin_age_max);
    if !shared.membership.remains_voter(peer.id) {
        Err(TransferRefusal::TargetVoteless)
    } else if shared.now.since(peer.last_reply_at) > reply_age_max {
        Err(TransferRefusal::TargetSilent)
    } else if peer.disk != DiskState::Healthy {
        Err(TransferRefusal::TargetDisk)
    } else if rejoins || peer.is_receiving_snapshot() {
        Err(TransferRefusal::TargetBehind)
    } else if !rules::may_take_over(shared.membership.is_witness(peer.id), &shared.config) {
        Err(TransferRefusal::TargetWitness)
    } else {
        Ok(())
    }
}

/// Returns an error if the follower cannot become the leader soon: see [`can_take_over`]; or it
/// lacks more than [`LAG_BYTES_MAX`] of the log.
fn readiness(peer: &Progress, shared: &Shared) -> Result<(), TransferRefusal> {
    can_take_over(peer, shared)?;
    if shared.log.is_short_after(peer.match_index(), LAG_BYTES_MAX) {
        Ok(())
    } else {
        Err(TransferRefusal::TargetBehind)
    }
}

fn match_index_of(progress: &[Progress], id: NodeId) -> Index {
    let peer = progress.iter().find(|peer| peer.id == id).expect("the target is a peer");
    peer.match_index()
}

/// Handles [`TimeoutNow`] on a follower: returns the transition that starts an election if the
/// follower has the leader's whole log and a healthy disk. A late or repeated message causes at
/// most one needless election.
pub(super) fn on_timeout_now(shared: &mut Shared, from: NodeId, now: TimeoutNow) -> Transition {
    shared.heard_leader(from);
    // That entry is durable: the leader knows it from this replica. This core may not know it yet,
    // because the log writer sends the acknowledgement before it reports to the core.
    let has_all = shared.log.last() == now.last;
    if !has_all || !shared.is_voter() || shared.disk.state() != DiskState::Healthy {
        shared.counters.stale += 1;
        return Transition::Stay;
    }
    Transition::TakeOver
}
