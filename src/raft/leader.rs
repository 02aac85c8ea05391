//! The leader role: appends requests, commits what a quorum holds durably, serves reads, and steps
//! down when a quorum does not answer. What it sends, when and to which peers is in `fanout.rs`.

use std::collections::VecDeque;

use crate::record::EntryKind;
use crate::types::{Index, Instant, NodeId, Round};

use super::effects::{Effects, RefusalReason};
use super::message::{
    AppendOutcome, AppendReply, ClientRequest, DiskState, PeerMsg, Rejoin, RequestKind, SnapshotId,
};
use super::progress::Progress;
use super::reads::{self, Reads};
use super::role::Transition;
use super::rules;
use super::shared::Shared;
use super::timing;
use super::transfer::LeadershipTransfer;

/// Maximum number of recent message rounds (numbered batches of messages) whose start time is kept.
/// A reply to an older round proves only that the peer is alive: it extends no lease and gives no
/// round-trip time.
const ROUNDS_MAX: usize = 1 << 16;

/// The state of a replica that is the leader of its term.
///
/// Invariant: `progress` is in the order of the membership's peers, except while an input is being
/// handled that changes them; `rounds` is ordered by the sequence numbers of the message rounds
/// (batches of messages), and `round` is that of the last round begun. The log only grows: a leader
/// never truncates it.
#[derive(Debug)]
pub(super) struct Leader {
    pub(super) progress: Vec<Progress>,
    /// Peers that have just been removed from the members, to which the leader still tells that
    /// their removal is committed.
    pub(super) removed: Vec<Progress>,
    /// Version of the membership at which `progress` was last brought up to date.
    membership_version: u64,
    /// Index of the no-op entry that this leader appended when it was elected. Until the no-op
    /// entry is committed, the leader does not know which entries of earlier terms are committed
    /// (Raft paper, §8), and serves no reads.
    pub(super) first_index: Index,
    /// Sequence number of the last message round (batch of messages) begun; 0 before the first. All
    /// appends that are sent for one batch of inputs carry the same round number, which the
    /// followers' replies echo.
    pub(super) round: Round,
    /// The latest message rounds (numbered batches of messages), each with its number and start
    /// time. The start time is read from this replica's clock before the round's first message is
    /// sent.
    rounds: VecDeque<(Round, Instant)>,
    pub(super) reads: Reads,
    pub(super) transfer: LeadershipTransfer,
    /// Time at which this leader last probed all peers (sent each a message) because no quorum was
    /// answering; `None` if it never has.
    pub(super) quorum_probed_at: Option<Instant>,
    /// Time at which a replica with data last acknowledged further entries; at first, the time of
    /// the election.
    pub(super) advanced_at: Instant,
    /// Number of times in a row that the leader repeated its probe of all peers (a message to
    /// each), because no quorum had answered the previous probe; 0 after the first probe, and if no
    /// probe was sent.
    pub(super) quorum_probes: u32,
    /// Index of the log's last entry when the leader last sent new entries to as many peers as a
    /// quorum needs. Later entries have not been sent in this way yet.
    pub(super) attempted_index: Index,
    /// Sequence number of the message round (a numbered batch of messages) that the waiting reads
    /// needed when the leader last sent to as many peers as a quorum needs; 0 if no read was
    /// waiting then.
    pub(super) attempted_round: Round,
    /// Peers that are sent a message at the end of this batch of inputs even if no message to them
    /// is due, for example because they requested a pre-vote or rejected an append.
    pub(super) urgent: Vec<NodeId>,
    /// Time from which the delay before a notice of the commit index is measured: when the leader
    /// first found a peer to which a notice is to be sent. `None` if there is no such peer. With
    /// [`FanOut::Thrifty`](crate::config::FanOut), the delay starts again when the commit index
    /// changes.
    pub(super) commit_unsent_since: Option<Instant>,
    /// Commit index that the leader announced to its peers at the end of the last batch of inputs;
    /// 0 before the first batch.
    pub(super) last_shown_commit_index: Index,
    /// Snapshots that a peer received in full and then discarded, probably as damaged. They are
    /// reported as suspect to the driver (server or simulator) at the end of this batch of inputs.
    pub(super) suspect_snapshots: Vec<SnapshotId>,
    /// Reusable buffer of `pursue_goal`: positions of peers in the order in which they are sent to.
    pub(super) send_order: Vec<usize>,
}

impl Leader {
    /// Creates the state of a newly elected leader, and appends a no-op entry of the new term (Raft
    /// paper, §8).
    pub(super) fn new(shared: &mut Shared) -> Leader {
        assert!(
            shared.log.last().term < shared.term(),
            "a leader of term {} finds {} in its log",
            shared.term(),
            shared.log.last()
        );
        let last = shared.log.last().index;
        let new_progress = |id: &NodeId| Progress::new(*id, last, shared.now);
        let progress = shared.membership.peers().iter().map(new_progress).collect();
        let membership_version = shared.membership.version();
        shared.heard_leader(shared.id);
        shared.start_leadership();
        let first_index = shared.append(EntryKind::NoOp, &[]).index;
        assert!(first_index == last.next(), "the no-op is {first_index} after {last}");
        Leader {
            progress,
            removed: Vec::new(),
            membership_version,
            first_index,
            round: Round(0),
            rounds: VecDeque::new(),
            reads: Reads::default(),
            transfer: LeadershipTransfer::default(),
            quorum_probed_at: None,
            advanced_at: shared.now,
            quorum_probes: 0,
            attempted_index: Index::ZERO,
            attempted_round: Round(0),
            urgent: Vec::new(),
            commit_unsent_since: None,
            last_shown_commit_index: Index::ZERO,
            suspect_snapshots: Vec::new(),
            send_order: Vec::new(),
        }
    }

    pub(super) fn handle_msg(
        &mut self,
        shared: &mut Shared,
        from: NodeId,
        message: &PeerMsg,
    ) -> Transition {
        match message {
            PeerMsg::AppendReply(reply) => self.on_append_reply(shared, from, reply),
            PeerMsg::InstallReply(reply) => self.on_install_reply(shared, from, reply),
            // Late votes, and a candidate of this term that has lost.
            PeerMsg::VoteReply(_) | PeerMsg::RequestVote(_) => shared.counters.stale += 1,
            PeerMsg::AppendEntries(_) | PeerMsg::InstallSnapshot(_) | PeerMsg::TimeoutNow(_) => {
                unreachable!("a second leader of this term is rejected first")
            }
            PeerMsg::Rejoin(_) | PeerMsg::RejoinReply(_) => {
                unreachable!("messages about rejoining are handled in every role alike")
            }
        }
        Transition::Stay
    }

    /// Steps down if a quorum has not answered within the check-quorum window (Raft dissertation,
    /// section 6.2).
    pub(super) fn handle_timeout(&mut self, shared: &mut Shared) -> Transition {
        if shared.now < self.steps_down_at(shared) {
            return self.retreat(shared);
        }
        shared.counters.quorum_losses += 1;
        shared.isolated_campaigns = shared.isolated_campaigns.max(1);
        Transition::Follow { term: shared.term(), leader: None }
    }

    /// Accepts or refuses a client's request (Raft paper, §8). An accepted write is appended to the
    /// log; an accepted read waits until a quorum, or the lease, confirms that this replica is
    /// still the leader.
    pub(super) fn on_client(
        &mut self,
        shared: &mut Shared,
        request: ClientRequest,
        out: &mut Effects,
    ) {
        if !rules::leads_for_clients(&shared.config) {
            // A replica with data takes over soon.
            shared.wait_for_leader(request, out);
            return;
        }
        if self.transfer.is_in_progress() || shared.is_removed() {
            // The target must have this leader's whole log.
            shared.refuse(request.key, RefusalReason::NotLeader, out);
            return;
        }
        let is_full = match request.kind {
            // The size of the request does not count: otherwise small requests would use up what a
            // large one waits for, and it would be refused for ever.
            RequestKind::Write => shared.append_budget() == 0,
            RequestKind::Read => self.reads.len() >= shared.config.waiting_reads_max,
        };
        match request.kind {
            RequestKind::Write if !self.has_disk_space(shared) => {
                shared.refuse(request.key, RefusalReason::DiskFull, out);
            }
            _ if is_full => shared.refuse(request.key, RefusalReason::Busy, out),
            RequestKind::Write => shared.append_request(&request),
            RequestKind::Read => self.reads.push(shared, self.round, request),
        }
    }

    /// Schedules a message to a peer that requested a pre-vote: the request shows that the peer has
    /// not heard from this leader. A replica that is no longer a member gets no message.
    pub(super) fn on_pre_vote(&mut self, from: NodeId) {
        if self.progress.iter().any(|peer| peer.id == from) {
            self.mark_urgent(from);
        }
    }

    /// Brings `progress` up to date with the members: begins to follow new peers, and forgets those
    /// that have been removed.
    pub(super) fn update_progress(&mut self, shared: &Shared) {
        let version = shared.membership.version();
        if std::mem::replace(&mut self.membership_version, version) == version {
            return;
        }
        let last = shared.log.last().index;
        let mut known = std::mem::take(&mut self.progress);
        for &id in shared.membership.peers() {
            let position = known.iter().position(|peer| peer.id == id);
            let progress = position.map(|position| known.swap_remove(position));
            self.progress.push(progress.unwrap_or_else(|| {
                let mut new = Progress::new(id, last, shared.now);
                // A replica that was a member before may still answer earlier rounds.
                new.sent_round = self.round;
                new
            }));
        }
        self.removed.append(&mut known);
        let peers = shared.membership.peers();
        self.removed.retain(|peer| !peers.contains(&peer.id));
        self.urgent.retain(|id| peers.contains(id));
    }

    /// Schedules a message to every peer at the end of this batch of inputs, even if no message is
    /// due.
    pub(super) fn mark_all_urgent(&mut self) {
        self.urgent.clear();
        self.urgent.extend(self.progress.iter().map(|peer| peer.id));
    }

    /// Schedules a message to `peer` at the end of this batch of inputs, even if no message is due.
    pub(super) fn mark_urgent(&mut self, peer: NodeId) {
        if !self.urgent.contains(&peer) {
            self.urgent.push(peer);
        }
    }

    /// Returns the leader's view of the peer with this id. Panics if the id is not that of a peer.
    pub(super) fn progress_of(&mut self, peer: NodeId) -> &mut Progress {
        self.progress.iter_mut().find(|progress| progress.id == peer).expect("admitted peers only")
    }

    fn on_append_reply(&mut self, shared: &mut Shared, from: NodeId, reply: &AppendReply) {
        let last = shared.log.last().index;
        let sent_at = self.round_began_at(reply.round);
        let progress = self.progress_of(from);
        // A correct follower replies only to what this leader has sent.
        let is_possible = match reply.outcome {
            AppendOutcome::Match { index } => index <= last,
            AppendOutcome::Reject { refused, hint } => refused <= last && hint.index <= refused,
        };
        if !is_possible || reply.round > progress.sent_round {
            // The peer may have answered a late append of an earlier term, in which this leader had
            // led, too, and had sent entries that it lost in a crash.
            let is_late =
                matches!(reply.outcome, AppendOutcome::Reject { .. }) && reply.round == Round(0);
            let counters = &mut shared.counters;
            *if is_late { &mut counters.stale } else { &mut counters.malformed } += 1;
            return;
        }
        progress.record_reply(shared.now, reply.round, sent_at, &shared.config);
        progress.feature_level = Some(reply.level);
        match reply.outcome {
            AppendOutcome::Match { index } => {
                let advanced = progress.acknowledge(index, shared.now);
                progress.record_disk(reply.disk, advanced, shared.now, &shared.config);
                if advanced {
                    if !shared.membership.is_witness(from) {
                        self.advanced_at = shared.now;
                    }
                    self.advance_commit(shared);
                }
            }
            AppendOutcome::Reject { refused, hint } => {
                let agreement = shared.log.last_agreement(hint);
                let is_current = progress.reject(refused, agreement);
                progress.record_disk(reply.disk, false, shared.now, &shared.config);
                if !is_current {
                    shared.counters.stale += 1;
                } else if reply.disk != DiskState::Low {
                    // It is alive, and has just told which entries it lacks.
                    self.mark_urgent(from);
                }
            }
        }
    }

    /// Advances the commit index to the last entry that is durable on a quorum, if that entry is of
    /// the current term (Raft paper, §5.4.2). This replica's own copy of an entry is counted
    /// towards the quorum only if it is durable.
    pub(super) fn advance_commit(&self, shared: &mut Shared) {
        let (durable, last) = (shared.log.durable_index(), shared.log.last().index);
        let own = rules::own_match_index(durable, last, &shared.config);
        let reached = self.reached(shared, own, Progress::match_index);
        assert!(reached <= last, "a quorum holds {reached}, but the log ends at {last}");
        if reached > shared.commit_index()
            && rules::may_commit(shared.log.term_at(reached), shared.term(), &shared.config)
        {
            shared.commit_to(reached, true);
        }
    }

    /// Hands waiting reads to the applier: all of them while the lease is valid, otherwise those
    /// for which a quorum has confirmed that this replica is still the leader. Hands over no reads
    /// before the leader's no-op entry is committed.
    pub(super) fn release_reads(&mut self, shared: &mut Shared) {
        let confirmed = self.confirmed_round(shared);
        assert!(confirmed <= self.round.next(), "{confirmed:?} is confirmed of {:?}", self.round);
        if !rules::may_serve_reads(shared.commit_index(), self.first_index, &shared.config) {
            return;
        }
        let lease_is_valid = !self.transfer.is_lease_given_up()
            && reads::lease_is_valid(shared, self.confirmed_at(shared));
        self.reads.release(shared, confirmed, lease_is_valid);
    }

    /// Handles a peer's loss of its disk: the peer's log now ends with `rejoin.last`, so the leader
    /// sends it later entries again.
    ///
    /// Entries that were committed with the peer's earlier acknowledgements stay committed: the
    /// peer does not vote until it has these entries again, and without its vote no replica that
    /// lacks them can be elected. A late acknowledgement from before the loss may raise the match
    /// index again; the peer repeats its rejoin request until it has caught up, and each request
    /// resets the match index.
    pub(super) fn on_rejoin(&mut self, shared: &Shared, from: NodeId, rejoin: Rejoin) {
        let progress = self.progress_of(from);
        progress.asked_to_rejoin_at = Some(shared.now);
        let is_behind = progress.match_index() > rejoin.last.index;
        if is_behind {
            progress.reset(rejoin.last.index);
        }
        // A peer that follows in this term already accepts entries.
        if is_behind || rejoin.term == shared.term() {
            self.mark_urgent(from);
        }
    }

    /// Returns the index up to which all voters that keep up have acknowledged the log: those that
    /// answer, whose disk is healthy, and that are not being sent a snapshot. Returns the last
    /// index if there are none.
    pub(super) fn followed_index(&self, shared: &Shared) -> Index {
        let keeps_up = |peer: &&Progress| {
            shared.membership.votes(peer.id)
                && !peer.is_silent(shared.loss_permille)
                && !peer.is_receiving_snapshot()
                && peer.disk == DiskState::Healthy
        };
        let acknowledged = self.progress.iter().filter(keeps_up).map(Progress::match_index);
        acknowledged.min().unwrap_or(shared.log.last().index)
    }

    // Disk space.

    /// Returns whether new entries can be stored: this replica's disk has space, and either no
    /// peer's disk is almost full or a quorum still has space. Ignores peers that are not
    /// answering.
    pub(super) fn has_disk_space(&self, shared: &Shared) -> bool {
        let is_low =
            |peer: &Progress| peer.disk == DiskState::Low && !peer.is_silent(shared.loss_permille);
        !shared.disk.is_low()
            && (!self.progress.iter().any(is_low) || self.quorum_has_disk_space(shared))
    }

    /// Returns whether to send no entries to the follower at `position`: the follower's disk is
    /// almost full, and the other replicas with enough disk space form a quorum.
    pub(super) fn spares(&self, position: usize, shared: &Shared) -> bool {
        self.progress[position].disk == DiskState::Low && self.quorum_has_disk_space(shared)
    }

    /// Returns whether the replicas with enough disk space form a quorum. A peer that is not
    /// answering is assumed to have no space.
    fn quorum_has_disk_space(&self, shared: &Shared) -> bool {
        let can_store = |peer: &Progress| {
            peer.disk == DiskState::Healthy && !peer.is_silent(shared.loss_permille)
        };
        shared.has_quorum(|id| match self.peer(id) {
            Some(peer) => can_store(peer),
            None => !shared.disk.is_low(),
        })
    }

    // Rounds.

    /// Begins a message round (a numbered batch of messages): assigns the next round number and
    /// records the start time. Must be called before the round's first message is sent.
    pub(super) fn begin_round(&mut self, shared: &Shared) {
        self.round = self.round.next();
        assert!(
            self.rounds.back().is_none_or(|&(last, at)| last < self.round && at <= shared.now),
            "round {:?} after {:?}",
            self.round,
            self.rounds.back()
        );
        self.rounds.push_back((self.round, shared.now));
        // Replies to rounds older than any check-quorum window prove nothing useful.
        let window = timing::check_quorum_window(&shared.config, u16::MAX);
        while self.rounds.len() > ROUNDS_MAX
            || self.rounds.front().is_some_and(|&(_, at)| shared.now.since(at) > window)
        {
            self.rounds.pop_front();
        }
    }

    /// Returns the start time of the message round `round` (a numbered batch of messages); `None`
    /// if the round is too old to be remembered or was never begun.
    pub(super) fn round_began_at(&self, round: Round) -> Option<Instant> {
        let position = self.rounds.binary_search_by_key(&round, |&(begun, _)| begun).ok()?;
        Some(self.rounds[position].1)
    }

    /// Returns the sequence number of the last message round (a numbered batch of messages) that a
    /// quorum has answered. If this replica is the only voter, returns that of the next round,
    /// because this replica alone is a quorum.
    fn confirmed_round(&self, shared: &Shared) -> Round {
        if shared.membership.is_only_voter() {
            // A lone voter is a quorum: even its next round is confirmed.
            return self.round.next();
        }
        self.reached(shared, self.round, |peer| peer.answered_round)
    }

    /// Returns the start time of the last message round (a numbered batch of messages) that a
    /// quorum has answered, or the current time if this replica is the only voter; `None` if that
    /// round is too old to be remembered.
    pub(super) fn confirmed_at(&self, shared: &Shared) -> Option<Instant> {
        if shared.membership.is_only_voter() {
            return Some(shared.now);
        }
        self.round_began_at(self.confirmed_round(shared))
    }

    /// Returns the latest time T such that a quorum of replicas has replied to this leader at or
    /// after T. The leader itself, if it is a voter, counts as if it had replied now.
    pub(super) fn quorum_heard_at(&self, shared: &Shared) -> Instant {
        self.reached(shared, shared.now, |peer| peer.last_reply_at)
    }

    /// Returns the highest value that a quorum of replicas has reached, such as a match index.
    /// `own` is this replica's value; `of` returns the value of a peer. Allocates no memory,
    /// because it is called several times per batch.
    fn reached<T: Ord + Copy>(&self, shared: &Shared, own: T, of: impl Fn(&Progress) -> T) -> T {
        shared.membership.reached(&shared.config, |id| {
            let peer = self.peer(id);
            assert!(peer.is_some() || id == shared.id, "the voter {id} is no peer of the leader");
            peer.map_or(own, &of)
        })
    }

    /// Returns the leader's view of the peer with this id; `None` if there is no such peer.
    pub(super) fn peer(&self, id: NodeId) -> Option<&Progress> {
        self.progress.iter().find(|peer| peer.id == id)
    }

    /// Returns when this leader steps down unless a quorum answers first; [`Instant::MAX`] if it is
    /// the only voter.
    pub(super) fn steps_down_at(&self, shared: &Shared) -> Instant {
        if shared.membership.is_only_voter() {
            return Instant::MAX;
        }
        let window = timing::check_quorum_window(&shared.config, shared.loss_permille);
        self.quorum_heard_at(shared) + window
    }

    /// Panics if the invariant of [`Leader`] is violated.
    pub(super) fn check(&self, shared: &Shared) {
        assert!(shared.leader == Some(shared.id), "a leader that follows {:?}", shared.leader);
        assert!(
            shared.voted_for() == Some(shared.id),
            "a leader of term {} that voted for {:?}",
            shared.term(),
            shared.voted_for()
        );
        assert!(
            self.first_index <= shared.log.base().index
                || shared.log.term_at(self.first_index) == Some(shared.term()),
            "the no-op {} of term {} is missing",
            self.first_index,
            shared.term()
        );
        let last = shared.log.last().index;
        let peers = shared.membership.peers();
        assert!(
            self.progress.len() == peers.len(),
            "the progress of {} peers of {peers:?}",
            self.progress.len()
        );
        for (progress, &peer) in self.progress.iter().zip(peers) {
            progress.check();
            assert!(
                progress.id == peer,
                "the progress of {} is in the place of {peer}",
                progress.id
            );
            assert!(
                progress.match_index() <= last && progress.next_index() <= last.next(),
                "peer {peer}: match {}, next {}, but the log ends at {last}",
                progress.match_index(),
                progress.next_index()
            );
            assert!(
                progress.sent_round <= self.round && progress.sent_commit_index <= last,
                "peer {peer} was sent {:?} of {:?} and commit index {}",
                progress.sent_round,
                self.round,
                progress.sent_commit_index
            );
        }
    }
}
