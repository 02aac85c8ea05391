//! The members of the cluster, as the network stage uses them: whom it connects to, what clients
//! are told, and the addresses that the leader records in the log.
//!
//! Each replica announces its address for peers in its hello. Once the members have been changed,
//! the configuration in the log contains their addresses, so that a replica that joins later knows
//! all others. A leader that hears another address than the recorded one replaces it. Before the
//! first change the addresses are those in the options of each replica.

use std::time::Duration;

use bytes::Bytes;

use crate::membership::{Configuration, MemberChange};
use crate::redis::AdminRequest;
use crate::runtime::channels::{AdminCall, AdminCaller, Members};
use crate::types::{Index, Instant, NodeId};

use super::{Parts, ServerNetwork};

/// Interval at which a leader compares the addresses in the configuration with the announced ones.
const ADDRESSES_INTERVAL: Duration = Duration::from_secs(1);

impl ServerNetwork {
    /// Handles a change of the members.
    pub(crate) fn on_members(&mut self, members: Members) {
        let Members { index, configuration, peers } = members;
        let parts = &mut self.parts;
        let context = &mut parts.clients.context;
        // A replica that has not been added yet keeps the peers in its options.
        if !configuration.members().is_empty() {
            parts.outgoing.set_members(&peers, parts.clock.now(), parts.poll.registry());
            let is_known =
                |id: NodeId| id == context.me || peers.iter().any(|(peer, _)| *peer == id);
            context.nodes.retain(|node| is_known(node.id));
        }
        context.members = (index, configuration);
        self.refreshed_at = None;
    }

    /// Queues a request to record the addresses that members have announced, if this replica leads
    /// and they are not those in the configuration.
    pub(super) fn record_addresses(&mut self, now: Instant) {
        if now < self.addresses_at {
            return;
        }
        self.addresses_at = now + ADDRESSES_INTERVAL;
        let (index, _) = self.parts.clients.context.members;
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
    let (_, configuration) = &parts.clients.context.members;
    let is_named = |id: NodeId| changes.iter().any(|change| change.id() == id);
    let members = configuration.members().keys().copied().filter(|id| !is_named(*id));
    let change = |id| {
        let address = known_address(parts, configuration, id)?;
        let is_new = configuration.member(id).is_some_and(|member| member.address != address);
        is_new.then(|| MemberChange::SetAddress { id, address: Bytes::from(address) })
    };
    members.filter_map(change).collect()
}

/// Returns the address that a member has announced; or, if the configuration has no address for it,
/// that in the options of this replica.
fn known_address(parts: &Parts, configuration: &Configuration, id: NodeId) -> Option<String> {
    if id == parts.me {
        return Some(parts.announced.clone()).filter(|address| !address.is_empty());
    }
    let known = parts.outgoing.addresses_of(id)?;
    let has_none = configuration.member(id).is_some_and(|member| member.address.is_empty());
    known.announced.clone().or_else(|| known.listed.clone().filter(|_| has_none))
}
