//! Witnesses: voters without data (thesis 11.7.2), for two sites and a cheap third machine.
//!
//! A witness stores and acknowledges entries, votes, and counts for quorums like any other voter:
//! for elections, commits, the read index, leases, check-quorum and the wall clocks of the
//! replicated clock. Its driver applies only configurations and feature levels, so it has no data,
//! and it serves no client.
//!
//! Whether a replica is a witness is a setting of the replica (`is_witness` in
//! [`Config`](crate::config::Config)) and a property of the member in the configuration. Both must
//! agree, or the replica stops; and they stay the same for as long as it is a member.
//!
//! **Every quorum contains a replica with data**, because fewer than half of the voters are
//! witnesses. So a committed entry is durable on a replica with data.
//!
//! **Why a witness may lead.** Let A and B have data, and let leader A commit an entry with the
//! witness W while B is down. Then A fails, and B returns. The log of W is longer than that of B,
//! so W does not vote for B; and if W never led, the two would have no leader, although W has
//! everything that B lacks. So W leads: it sends B the entries that B lacks, commits its no-op with
//! B, and transfers its leadership to B at once. Meanwhile it accepts no request and no change of
//! the members; at W and at B, requests wait as in an election.
//!
//! **Replicas with data come first.** A witness adds [`timing::witness_delay`] to its election
//! timeouts, and does not campaign because another candidate has a shorter log. Of two candidates
//! with equal logs the witness yields, and a replica with data that is asked for a pre-vote by a
//! witness whose log is no longer than its own campaigns itself. No leader transfers its leadership
//! to a witness.
//!
//! **A witness that cannot help steps down.** It has no snapshot with data. If all replicas with
//! data that answer it lack entries that it has dropped, or none takes over, it steps down after
//! [`timing::witness_lead`] and waits longer before it campaigns again, so that a replica with data
//! that only others reach can be elected.
//!
//! **The log of a witness.** When it is longer than `witness_log_bytes_max` in
//! [`Config`](crate::config::Config), the witness drops its older half, but only committed entries,
//! and only while it follows a leader with data. The driver first stores the point at which the log
//! is to begin, with the members as of this point: a *snapshot without data*. A witness that lacks
//! entries which the leader has compacted gets such a point from the leader in one message, which
//! needs no snapshot file: the point is the base of the leader's log, so that the witness still
//! gets all entries that the leader has in memory.

use std::time::Duration;

use bytes::Bytes;

use crate::feature_level::FeatureLevel;
use crate::membership::Configuration;
use crate::types::{EntryId, Index, Instant, NodeId};

use super::effects::{Effects, LogStart};
use super::leader::Leader;
use super::role::Transition;
use super::rules;
use super::shared::Shared;
use super::timing;

impl Shared {
    /// Returns the leader of the current term that clients can be sent to; `None` if this replica
    /// knows none, or the leader is a witness.
    pub(super) fn serving_leader(&self) -> Option<NodeId> {
        self.leader.filter(|leader| {
            let is_self = *leader == self.id;
            is_self && rules::leads_for_clients(&self.config)
                || !is_self && !self.membership.is_witness(*leader)
        })
    }

    /// Returns the time that this replica adds to its election timeouts: zero unless it is a
    /// witness.
    pub(super) fn witness_delay(&self) -> Duration {
        if self.config.is_witness {
            timing::witness_delay(&self.config, self.witness_retreats)
        } else {
            Duration::ZERO
        }
    }

    /// Returns whether this replica, which has no leader, is a better candidate than `other`, whose
    /// log ends with `last`: its log is longer, or as long while `other` is a witness. A witness
    /// waits for its timeout.
    pub(super) fn campaigns_instead_of(&self, other: NodeId, last: EntryId) -> bool {
        let own = self.log.last();
        !self.config.is_witness && (own > last || own == last && self.membership.is_witness(other))
    }

    /// Encodes what a witness must know whose log is to begin after the entry at `index`: the
    /// cluster's feature level, which may be higher than as of this entry, and the members as of
    /// this entry, if they had changed by then.
    pub(super) fn encode_log_start(&self, index: Index) -> Bytes {
        let mut bytes = self.feature_level().number().to_le_bytes().to_vec();
        if let Some(configuration) = self.membership.as_of(index) {
            bytes.extend(configuration.encode());
        }
        bytes.into()
    }

    /// Handles the point at which a leader says that the log of this witness is to begin. `bytes`
    /// is what [`Shared::encode_log_start`] returns.
    pub(super) fn receive_log_start(&mut self, last: EntryId, bytes: &Bytes, out: &mut Effects) {
        match decode_log_start(bytes) {
            Some((level, configuration)) => {
                let is_received = true;
                out.log_start = Some(LogStart { last, configuration, level, is_received });
            }
            None => self.counters.malformed += 1,
        }
    }

    /// Has the driver store a later point at which the log of this witness is to begin, if the log
    /// is too long. Only committed entries are dropped, and as many remain as the log may have.
    pub(super) fn move_log_start(&mut self, out: &mut Effects) {
        let known = self.membership.latest().1.member(self.id);
        out.is_other_kind |= known.is_some_and(|it| it.is_witness != self.config.is_witness);
        let kept = rules::witness_log_bytes_kept(&self.config);
        let droppable = self.applied_index().min(self.log.durable_index());
        let stored = self.snapshot.map_or(self.log.base(), |snapshot| snapshot.last);
        let start = stored.index.max(self.asked_log_start);
        // Without a leader that has data, the others may need the entries.
        if !self.config.is_witness
            || self.serving_leader().is_none()
            || out.log_start.is_some()
            || self.log.bytes() <= self.config.witness_log_bytes_max.min(kept * 2)
            || droppable <= start
        {
            return;
        }
        let excess = self.log.bytes().saturating_sub(kept);
        let index = self.log.index_after_bytes(excess).min(droppable);
        if index > start {
            self.asked_log_start = index;
            let last = self.log.id_at(index);
            let configuration = self.membership.as_of(index).cloned();
            let (level, is_received) = (self.feature_level(), false);
            out.log_start = Some(LogStart { last, configuration, level, is_received });
        }
    }
}

/// Returns the feature level and the members in bytes that [`Shared::encode_log_start`] returned;
/// `None` if the bytes are invalid, or the level is one of a later version of the program.
fn decode_log_start(bytes: &[u8]) -> Option<(FeatureLevel, Option<Configuration>)> {
    let (number, members) = bytes.split_first_chunk()?;
    let level = FeatureLevel::from_number(u16::from_le_bytes(*number))?;
    let configuration = match members {
        [] => None,
        members => Some(Configuration::decode(members).ok()?),
    };
    level.is_supported().then_some((level, configuration))
}

impl Leader {
    /// Steps down if this replica is a witness and leads without making progress.
    pub(super) fn retreat(&self, shared: &mut Shared) -> Transition {
        if shared.now < self.retreats_at(shared) {
            return Transition::Stay;
        }
        shared.counters.witness_retreats += 1;
        shared.witness_retreats += 1;
        Transition::Follow { term: shared.term(), leader: None }
    }

    /// Returns when this leader, if it is a witness, steps down unless a replica with data
    /// acknowledges further entries first; otherwise [`Instant::MAX`].
    pub(super) fn retreats_at(&self, shared: &Shared) -> Instant {
        if shared.config.is_witness {
            self.advanced_at + timing::witness_lead(&shared.config)
        } else {
            Instant::MAX
        }
    }
}
