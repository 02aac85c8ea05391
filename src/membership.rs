//! The members of a cluster: configurations, their encoding, and planning of membership changes.
//!
//! A log entry of kind [`EntryKind::Configuration`](crate::record::EntryKind) contains the whole
//! configuration, so it can be interpreted without earlier entries:
//!
//! ```text
//!  +--------+-------+---------+--------------------------------------------------------+
//!  | format | count | last id | members, by id: | id | flags | replaces | len | address |
//!  +--------+-------+---------+--------------------------------------------------------+
//! ```
//!
//! `format`, `flags` and `count` have one byte, the other integers two, little endian. `replaces`
//! is zero unless the flags say that the learner replaces a member. `last id` is the highest id
//! that any member has ever had: ids are never reused.
//!
//! A *witness* is a member that keeps the log and votes, but stores no data. A member never stops
//! being a witness: if it became a replica with data, it would count for quorums before it has the
//! data. In every configuration, fewer than half of the voters are witnesses. Every quorum then
//! contains a replica with data, so no committed entry is stored by witnesses alone. One more
//! witness, which would make half of the voters witnesses, would not let the cluster survive more
//! failures anyway.
//!
//! A change to the set of voters goes through a *joint* configuration, in which decisions need a
//! quorum of the old voters and a quorum of the new ones (Raft paper, §6). Joint consensus is used
//! even for a single voter, so that all changes, including changes of several members at once, are
//! safe for the same reason: no two successive configurations have disjoint quorums.

use std::collections::BTreeMap;
use std::fmt;

use bytes::{Buf as _, BufMut as _, Bytes};

use crate::feature_level::FeatureLevel;
use crate::types::NodeId;

mod change;

pub use change::{ChangePlan, ChangeRefusal, MemberChange, PlanError};

/// Maximum number of members of a configuration.
pub const REPLICAS_MAX: usize = 31;
/// Maximum length of a member's address, in bytes.
pub const ADDRESS_BYTES_MAX: usize = 512;
/// Maximum difference between the id of a new member and the highest id used so far. Ids are never
/// reused, so a mistyped id would make all ids below it unusable.
pub const ID_STEP_MAX: u16 = 1_000;

const FORMAT: u8 = 1;
/// Values of the two lowest bits of a member's flags: its role.
const VOTER: u8 = 0;
const LEARNER: u8 = 1;
const LEAVING: u8 = 2;
const ROLE: u8 = 3;
/// The learner is promoted automatically when it has caught up.
const AUTOMATIC: u8 = 4;
/// The learner's promotion removes the member whose id is in `replaces`.
const REPLACES: u8 = 8;
/// The member is an outgoing voter of a joint configuration.
const OUTGOING: u8 = 16;
/// The member is a witness.
const WITNESS: u8 = 32;
const FLAGS: u8 = ROLE | AUTOMATIC | REPLACES | OUTGOING | WITNESS;

/// Returns whether `text` is an address of the form `host:port` that is at most
/// [`ADDRESS_BYTES_MAX`] bytes long and contains only printable ASCII without `,` and `=`.
pub fn is_address(text: &[u8]) -> bool {
    let split = std::str::from_utf8(text).ok().and_then(|text| text.rsplit_once(':'));
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b',' && byte != b'=';
    split.is_some_and(|(host, port)| {
        text.len() <= ADDRESS_BYTES_MAX
            && !host.is_empty()
            && host.bytes().all(is_plain)
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

/// Role of a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemberRole {
    /// Has the log, votes and counts for quorums.
    Voter,
    /// Has the log, but counts for no quorum and never campaigns.
    Learner(Promotion),
    /// Will be removed when the joint configuration ends. Until then it counts as an outgoing
    /// voter.
    Leaving,
}

/// When a learner becomes a voter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Promotion {
    /// On request, by [`MemberChange::Promote`].
    Manual,
    /// Automatically, as soon as it has caught up.
    Automatic {
        /// The member to remove in the same change; `None` for none.
        replaces: Option<NodeId>,
    },
}

/// A member of a configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Role of the member in the final configuration, when the configuration is no longer joint.
    pub role: MemberRole,
    /// Whether the member is a voter of the old configuration. Always false in a configuration that
    /// is not joint.
    pub outgoing: bool,
    /// Whether the member is a witness: it keeps the log and votes, but stores no data.
    pub is_witness: bool,
    /// Address for peers, at most [`ADDRESS_BYTES_MAX`] bytes; empty if the replicas take it from
    /// their options. Neither the consensus core nor the state machine reads it.
    pub address: Bytes,
}

/// The members of a cluster according to one log entry.
///
/// Invariant: at most [`REPLICAS_MAX`] members. A configuration without members means that the
/// members are unknown. Every other configuration has a voter, and fewer than half of its voters
/// are witnesses. A joint configuration has at least one outgoing member; any other has neither
/// outgoing nor leaving members. `last_id` is at least the highest id of the members.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Configuration {
    members: BTreeMap<NodeId, Member>,
    /// Highest id that any member has ever had.
    last_id: NodeId,
}

/// Why bytes are not a valid encoded configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// The configuration is truncated, or bytes follow it.
    #[error("a configuration of the members has the wrong length")]
    Length,
    /// The format is unknown to this version of the program.
    #[error("a configuration of the members has unknown format {0}")]
    Format(u8),
    /// The members violate a rule of configurations.
    #[error("a configuration of the members is invalid: {0}")]
    Members(&'static str),
}

impl Member {
    /// Returns whether the member is a voter in the final configuration, after any joint one.
    pub fn is_voter(&self) -> bool {
        self.role == MemberRole::Voter
    }
}

/// Lists the ids by role, such as `voters 1 2 4, before 1 2 3, learners 5, witnesses 4`. The old
/// voters of a joint configuration follow `before`.
impl fmt::Display for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_learner = |id: &NodeId| {
            self.member(*id).is_some_and(|it| matches!(it.role, MemberRole::Learner(_)))
        };
        let learners = self.members.keys().copied().filter(is_learner).collect();
        let groups: [(&str, Vec<NodeId>); 4] = [
            ("voters", self.voters().collect()),
            (", before", self.outgoing().collect()),
            (", learners", learners),
            (", witnesses", self.witnesses().collect()),
        ];
        for (name, ids) in groups.iter().filter(|(_, ids)| !ids.is_empty()) {
            f.write_str(name)?;
            for id in ids {
                write!(f, " {}", id.0)?;
            }
        }
        Ok(())
    }
}

impl Configuration {
    /// Creates a configuration of voters without addresses.
    pub fn of_voters(ids: impl IntoIterator<Item = NodeId>) -> Configuration {
        Configuration::of_members(ids, &[])
    }

    /// Creates a configuration of voters without addresses. Those in `witnesses` are witnesses.
    pub fn of_members(
        ids: impl IntoIterator<Item = NodeId>,
        witnesses: &[NodeId],
    ) -> Configuration {
        let voter = |id: &NodeId| Member {
            role: MemberRole::Voter,
            outgoing: false,
            is_witness: witnesses.contains(id),
            address: Bytes::new(),
        };
        let members: BTreeMap<_, _> = ids.into_iter().map(|id| (id, voter(&id))).collect();
        assert!(members.len() <= REPLICAS_MAX, "{} voters", members.len());
        let last_id = members.keys().next_back().copied().unwrap_or_default();
        Configuration { members, last_id }
    }

    /// Returns the highest id that any member has ever had.
    pub fn last_id(&self) -> NodeId {
        self.last_id
    }

    /// Returns the members, by id.
    pub fn members(&self) -> &BTreeMap<NodeId, Member> {
        &self.members
    }

    /// Returns the member with this id; `None` if there is no such member.
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// Returns the voters; those of the new configuration if this one is joint.
    pub fn voters(&self) -> impl Iterator<Item = NodeId> {
        self.members.iter().filter(|(_, member)| member.is_voter()).map(|(id, _)| *id)
    }

    /// Returns the voters of the old configuration; none unless this configuration is joint.
    pub fn outgoing(&self) -> impl Iterator<Item = NodeId> {
        self.members.iter().filter(|(_, member)| member.outgoing).map(|(id, _)| *id)
    }

    /// Returns the witnesses, both voters and learners.
    pub fn witnesses(&self) -> impl Iterator<Item = NodeId> {
        self.members.iter().filter(|(_, member)| member.is_witness).map(|(id, _)| *id)
    }

    /// Returns whether the member is a witness: it keeps the log and votes, but stores no data.
    pub fn is_witness(&self, id: NodeId) -> bool {
        self.member(id).is_some_and(|member| member.is_witness)
    }

    /// Returns whether fewer than half of the voters are witnesses; in a joint configuration, of
    /// the old voters and of the new ones.
    fn has_few_witnesses(&self) -> bool {
        let is_few = |voters: Vec<NodeId>| {
            let witnesses = voters.iter().filter(|id| self.is_witness(**id)).count();
            witnesses == 0 || 2 * witnesses < voters.len()
        };
        is_few(self.voters().collect()) && is_few(self.outgoing().collect())
    }

    /// Returns whether the configuration is joint: decisions need a quorum of the old voters and a
    /// quorum of the new ones.
    pub fn is_joint(&self) -> bool {
        self.outgoing().next().is_some()
    }

    /// Returns whether the replica counts for a quorum of this configuration, old or new voters.
    pub fn votes(&self, id: NodeId) -> bool {
        self.member(id).is_some_and(|member| member.is_voter() || member.outgoing)
    }

    /// Returns the number of voters that may fail while the others are still a quorum.
    pub fn failures_survived(&self) -> usize {
        let survived = |voters: usize| voters.saturating_sub(1) / 2;
        let after = survived(self.voters().count());
        if self.is_joint() { after.min(survived(self.outgoing().count())) } else { after }
    }

    /// Returns the final configuration that follows this joint one.
    #[must_use]
    pub fn after_joint(&self) -> Configuration {
        let mut members = self.members.clone();
        members.retain(|_, member| member.role != MemberRole::Leaving);
        for member in members.values_mut() {
            member.outgoing = false;
        }
        Configuration { members, last_id: self.last_id }
    }

    /// Returns the configuration to append for `changes` to this one: a joint one if the set of
    /// voters changes.
    ///
    /// # Errors
    /// If the changes contradict this configuration or each other, or lead to an invalid
    /// configuration.
    ///
    /// # Panics
    /// If this configuration is joint.
    pub fn plan(&self, changes: &[MemberChange]) -> Result<Configuration, PlanError> {
        assert!(!self.is_joint(), "a change to the joint configuration {self:?}");
        let mut next = self.clone();
        let mut named = Vec::new();
        for change in changes {
            let id = change.id();
            if named.contains(&id) {
                return Err(PlanError::Duplicate(id));
            }
            named.push(id);
            next.apply(change)?;
        }
        let Configuration { mut members, last_id } = next;
        let votes = |id| self.member(id).is_some_and(Member::is_voter);
        let is_joint = members.iter().any(|(id, member)| member.is_voter() != votes(*id));
        for (id, member) in &mut members {
            member.outgoing = is_joint && votes(*id);
        }
        // A leaving learner is not part of the joint configuration: it is removed at once.
        members.retain(|_, member| member.role != MemberRole::Leaving || member.outgoing);
        let planned = Configuration { members, last_id }.without_stale_replacements();
        if planned.voters().next().is_none() {
            return Err(PlanError::NoVoter);
        }
        if !planned.has_few_witnesses() || !planned.may_promote_those_after(self.last_id) {
            return Err(PlanError::Witnesses);
        }
        if planned.members.len() > REPLICAS_MAX {
            return Err(PlanError::TooMany(planned.members.len()));
        }
        if planned == *self {
            return Err(PlanError::Nothing);
        }
        Ok(planned)
    }

    /// Returns whether each automatic promotion of a learner with an id above `last_id` would keep
    /// the witnesses fewer than half of the voters.
    fn may_promote_those_after(&self, last_id: NodeId) -> bool {
        let after = self.after_joint();
        after.members.iter().filter(|(id, _)| **id > last_id).all(|(id, member)| {
            let MemberRole::Learner(Promotion::Automatic { replaces }) = member.role else {
                return true;
            };
            let mut promoted = after.clone();
            promoted.members.get_mut(id).expect("it is a member").role = MemberRole::Voter;
            promoted.members.retain(|id, _| Some(*id) != replaces);
            promoted.has_few_witnesses()
        })
    }

    /// Applies one part of a change.
    fn apply(&mut self, change: &MemberChange) -> Result<(), PlanError> {
        let id = change.id();
        if let MemberChange::AddLearner { promotion, is_witness, address, .. } = change {
            if self.members.contains_key(&id) {
                return Err(PlanError::Duplicate(id));
            }
            if id <= self.last_id {
                return Err(PlanError::Used { id, last: self.last_id });
            }
            if id.0 - self.last_id.0 > ID_STEP_MAX {
                return Err(PlanError::TooHigh { id, last: self.last_id });
            }
            if address.len() > ADDRESS_BYTES_MAX {
                return Err(PlanError::Address(id));
            }
            if let Promotion::Automatic { replaces: Some(old) } = promotion
                && !self.members.contains_key(old)
            {
                return Err(PlanError::Unknown(*old));
            }
            let (role, address) = (MemberRole::Learner(*promotion), address.clone());
            let member = Member { role, outgoing: false, is_witness: *is_witness, address };
            self.members.insert(id, member);
            self.last_id = id;
            return Ok(());
        }
        let member = self.members.get_mut(&id).ok_or(PlanError::Unknown(id))?;
        match change {
            MemberChange::Promote(_) if member.is_voter() => return Err(PlanError::Voter(id)),
            MemberChange::Promote(_) => member.role = MemberRole::Voter,
            MemberChange::Demote(_) if !member.is_voter() => return Err(PlanError::Learner(id)),
            MemberChange::Demote(_) => member.role = MemberRole::Learner(Promotion::Manual),
            MemberChange::Remove(_) => member.role = MemberRole::Leaving,
            MemberChange::SetAddress { address, .. } if address.len() > ADDRESS_BYTES_MAX => {
                return Err(PlanError::Address(id));
            }
            MemberChange::SetAddress { address, .. } => member.address = address.clone(),
            MemberChange::AddLearner { .. } => unreachable!("handled above"),
        }
        Ok(())
    }

    /// Removes the `replaces` of learners whose member to be replaced will not remain.
    fn without_stale_replacements(mut self) -> Configuration {
        let remains = |member: &Member| member.role != MemberRole::Leaving;
        let remaining: Vec<NodeId> =
            self.members.iter().filter(|(_, member)| remains(member)).map(|(id, _)| *id).collect();
        for member in self.members.values_mut() {
            if let MemberRole::Learner(Promotion::Automatic { replaces }) = &mut member.role {
                *replaces = replaces.filter(|id| remaining.contains(id));
            }
        }
        self
    }

    /// Returns the feature level that the cluster needs before a leader may append this
    /// configuration.
    pub fn feature_level(&self) -> FeatureLevel {
        let has_witness = self.witnesses().next().is_some();
        if has_witness { FeatureLevel::V0_2 } else { FeatureLevel::V0_1 }
    }

    /// Encodes the configuration.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        bytes.put_u8(u8::try_from(self.members.len()).expect("checked against REPLICAS_MAX"));
        bytes.put_u16_le(self.last_id.0);
        for (id, member) in &self.members {
            let (mut flags, replaces) = match member.role {
                MemberRole::Voter => (VOTER, None),
                MemberRole::Leaving => (LEAVING, None),
                MemberRole::Learner(Promotion::Manual) => (LEARNER, None),
                MemberRole::Learner(Promotion::Automatic { replaces }) => {
                    (LEARNER | AUTOMATIC, replaces)
                }
            };
            flags |= if replaces.is_some() { REPLACES } else { 0 };
            flags |= if member.outgoing { OUTGOING } else { 0 };
            flags |= if member.is_witness { WITNESS } else { 0 };
            bytes.put_u16_le(id.0);
            bytes.put_u8(flags);
            bytes.put_u16_le(replaces.map_or(0, |id| id.0));
            let length = u16::try_from(member.address.len());
            bytes.put_u16_le(length.expect("checked against ADDRESS_BYTES_MAX"));
            bytes.put_slice(&member.address);
        }
        bytes
    }

    /// Decodes and validates a configuration. Each configuration has exactly one encoding.
    ///
    /// # Errors
    /// If the bytes are not the encoding of a valid configuration that has members.
    pub fn decode(mut bytes: &[u8]) -> Result<Configuration, ConfigurationError> {
        use ConfigurationError::{Format, Length, Members};
        let format = bytes.try_get_u8().map_err(|_| Length)?;
        if format != FORMAT {
            return Err(Format(format));
        }
        let count = bytes.try_get_u8().map_err(|_| Length)?;
        if usize::from(count) > REPLICAS_MAX {
            return Err(Members("too many members"));
        }
        let last_id = NodeId(bytes.try_get_u16_le().map_err(|_| Length)?);
        let mut members = BTreeMap::new();
        for _ in 0..count {
            let (id, member) = decode_member(&mut bytes)?;
            if members.last_key_value().is_some_and(|(last, _)| *last >= id) {
                return Err(Members("the members are not in the order of their ids"));
            }
            members.insert(id, member);
        }
        if !bytes.is_empty() {
            return Err(Length);
        }
        if members.last_key_value().is_some_and(|(last, _)| *last > last_id) {
            return Err(Members("a member has a higher id than the last one"));
        }
        let configuration = Configuration { members, last_id };
        if configuration.voters().next().is_none() {
            return Err(Members("no member votes"));
        }
        if !configuration.has_few_witnesses() {
            return Err(Members("half of the voters or more are witnesses"));
        }
        Ok(configuration)
    }
}

fn decode_member(bytes: &mut &[u8]) -> Result<(NodeId, Member), ConfigurationError> {
    use ConfigurationError::{Length, Members};
    if bytes.len() < 7 {
        return Err(Length);
    }
    let (id, flags) = (NodeId(bytes.get_u16_le()), bytes.get_u8());
    let (other, length) = (NodeId(bytes.get_u16_le()), usize::from(bytes.get_u16_le()));
    if length > ADDRESS_BYTES_MAX {
        return Err(Members("an address is too long"));
    }
    let address = bytes.split_off(..length).ok_or(Length)?;
    let (outgoing, is_replacing) = (flags & OUTGOING != 0, flags & REPLACES != 0);
    if flags & !FLAGS != 0 || !is_replacing && other != NodeId(0) {
        return Err(Members("unknown flags"));
    }
    let replaces = is_replacing.then_some(other);
    let role = match (flags & ROLE, flags & AUTOMATIC != 0) {
        (LEARNER, true) => MemberRole::Learner(Promotion::Automatic { replaces }),
        _ if is_replacing => return Err(Members("only a learner replaces a member")),
        (VOTER, false) => MemberRole::Voter,
        (LEARNER, false) => MemberRole::Learner(Promotion::Manual),
        (LEAVING, false) if outgoing => MemberRole::Leaving,
        _ => return Err(Members("unknown flags")),
    };
    let is_witness = flags & WITNESS != 0;
    Ok((id, Member { role, outgoing, is_witness, address: Bytes::copy_from_slice(address) }))
}

#[cfg(test)]
mod tests;
