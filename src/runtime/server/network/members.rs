//! The members of the cluster, as the network stage uses them: whom it connects to, what clients
//! are told, and the addresses that the leader records in the log.
//!
//! Each replica announces its address for peers in its hello. Once the members have been changed,
//! the configuration in the log contains their addresses, so that a replica that joins later knows
//! all others. A leader that reaches a member at the announced address, and not at the recorded
//! one, replaces the recorded one. Before the first change the addresses are those in the options
//! of each replica.

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
    /// Handles a change of the members.
    pub(crate) fn on_members(&mut self, members: Members) {
        let Members { index, is_committed, configuration, peers } = members;
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
        parts.incoming.set_members_changed(index > Index::ZERO);
        parts.clients.context.members = MembersInfo { index, is_committed, configuration };
        parts.clients.follow_member_count();
        self.update_nodes();
    }

    /// Queues a request to record the addresses that members have announced, if this replica leads
    /// and they are not those in the configuration.
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

/// Adds the addresses that the configuration lacks to a change of the members.
pub(super) fn with_addresses(mut call: AdminCall, parts: &Parts) -> AdminCall {
    if let AdminRequest::ChangeMembers { changes, .. } = &mut call.request {
        let missing = changed_addresses(parts, changes);
        changes.extend(missing);
    }
    call
}

/// Returns changes of the members' addresses from those in the configuration to those that are
/// known, for members that are not in `changes`.
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

/// Returns the address to be recorded for a member, if it is known. If the configuration has one,
/// that is only an announced address over which the member was reached after the recorded one had
/// failed, or for this replica the one in its options: what replicas announce by default may be of
/// use only on their own machines.
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
