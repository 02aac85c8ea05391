//! Membership in the network stage: which peers it connects to, what clients are told about the
//! members, and the addresses that the leader records in the log.
//!
//! Each replica announces its address for peers in its hello. From the first membership change on,
//! the configuration in the log contains the addresses of all members, so that a replica that joins
//! later knows them. If a leader reaches a member only at its announced address, it records that
//! address instead. Before the first change, each replica uses the addresses in its own options.

use std::time::Duration;

use bytes::Bytes;

use crate::membership::{Configuration, MemberChange};
use crate::redis::{AdminRequest, MembersInfo};
use crate::runtime::channels::{AdminCall, AdminCaller, Members};
use crate::types::{Index, Instant, NodeId};

use super::{Parts, ServerNetwork};

/// Interval at which a leader compares the addresses in the configuration with the announced ones.
const ADDRESSES_INTERVAL: Duration = Duration::from_secs(1);

impl ServerNetwork {
    /// Handles a new membership: updates the connections to peers, and what clients are told.
    pub(crate) fn on_members(&mut self, members: Members) {
        let Members { index, is_committed, configuration, feature_level, peers } = members;
        let parts = &mut self.parts;
        // A replica that has not been added yet keeps the peers in its options.
        if !configuration.members().is_empty() {
            parts.outgoing.set_members(&peers, parts.clock.now());
        }
        if let Some(own) = configuration.member(parts.me)
            && !parts.is_address_set
            && let Ok(address) = std::str::from_utf8(&own.address)
        {
            parts.outgoing.announce(address);
        }
        parts.outgoing.set_feature_level(feature_level);
        parts.incoming.set_feature_level(feature_level);
        parts.incoming.set_members_changed(index > Index::ZERO);
        parts.clients.context.members =
            MembersInfo { index, is_committed, configuration, feature_level };
        parts.clients.follow_member_count();
        self.update_nodes();
    }

    /// Queues a membership change that records the addresses of members, if this replica leads and
    /// known addresses differ from those in the configuration. Checks at most once per
    /// [`ADDRESSES_INTERVAL`].
    pub(super) fn record_addresses(&mut self, now: Instant) {
        if now < self.addresses_at {
            return;
        }
        self.addresses_at = now + ADDRESSES_INTERVAL;
        let index = self.parts.clients.context.members.index;
        let leads = self.leadership.leader == Some(self.parts.me);
        if !leads || index == Index::ZERO || changed_addresses(&self.parts, &[]).is_empty() {
            return;
        }
        let request = AdminRequest::ChangeMembers { changes: Vec::new(), dry_run: false };
        let call = AdminCall { caller: AdminCaller::Network, request };
        self.parts.clients.admin_calls.push_back(call);
    }
}

/// Adds the addresses that the configuration lacks to a requested membership change.
pub(super) fn with_addresses(mut call: AdminCall, parts: &Parts) -> AdminCall {
    if let AdminRequest::ChangeMembers { changes, .. } = &mut call.request {
        let missing = changed_addresses(parts, changes);
        changes.extend(missing);
    }
    call
}

/// Returns a [`MemberChange::SetAddress`] for each member whose known address differs from the one
/// in the configuration. Skips the members in `changes`.
fn changed_addresses(parts: &Parts, changes: &[MemberChange]) -> Vec<MemberChange> {
    let configuration = &parts.clients.context.members.configuration;
    let is_named = |id: NodeId| changes.iter().any(|change| change.id() == id);
    let members = configuration.members().keys().copied().filter(|id| !is_named(*id));
    let change = |id| {
        let address = known_address(parts, configuration, id)?;
        let is_new = configuration.member(id).is_some_and(|member| member.address != address);
        is_new.then(|| MemberChange::SetAddress { id, address: Bytes::from(address) })
    };
    members.filter_map(change).collect()
}

/// Returns the address to record for a member; `None` if none is reliable enough. An address in the
/// configuration is replaced only by an announced one at which the member was reached after the
/// recorded one had failed, or, for this replica, by one that is set in its options. The address
/// that a replica announces by default may be valid only on its own machine.
fn known_address(parts: &Parts, configuration: &Configuration, id: NodeId) -> Option<String> {
    let has_none = configuration.member(id).is_some_and(|member| member.address.is_empty());
    if id == parts.me {
        let is_sure = has_none || parts.is_address_set;
        let own = Some(&parts.announced).filter(|address| is_sure && !address.is_empty());
        return own.cloned();
    }
    let proven = parts.outgoing.proven_address_of(id);
    let known = parts.outgoing.addresses_of(id)?;
    let known = if has_none {
        proven.or(known.listed.as_deref()).or(known.announced.as_deref())
    } else {
        proven.filter(|address| known.announced.as_deref() == Some(address))
    };
    known.map(str::to_owned)
}
