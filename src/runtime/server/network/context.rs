//! The values that `INFO`, `ROLE`, `CLUSTER` and other commands report. They are kept up to date
//! from the boards (shared status records) of the other stages and from the hellos of peers.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::raft::{DiskState, RoleName};
use crate::redis::{
    ProgramInfo, RaftCounters, RejoinProgress, ReplicaInfo, SAMPLE_INTERVAL, SWITCH_MASTER_CHANNEL,
    SnapshotInfo, switch_master_message,
};
use crate::runtime::boards::{SnapshotGrowth, SnapshotStatus};
use crate::runtime::channels::Leadership;
use crate::runtime::process_usage::ProcessUsage;
use crate::types::{Index, Instant, NodeId};

use super::{CLIENT_ADDRESSES_MAX, ServerNetwork};

impl ServerNetwork {
    /// Updates the values that must be current whenever a command uses them: clock readings and
    /// memory usage.
    pub(super) fn update_context(&mut self, now: Instant) {
        let parts = &mut self.parts;
        parts.clients.context.now = now;
        parts.clients.context.wall_clock =
            SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (store_bytes, log_bytes) = parts.memory.store_and_log_bytes();
        parts.clients.set_memory(store_bytes, log_bytes);
        parts.memory.note_clients(parts.clients.context.clients_bytes);
        let context = &mut parts.clients.context;
        let (unlinked, freed) = parts.memory.take_freed();
        context.lazyfree_pending_objects = unlinked;
        context.lazyfreed_objects += freed;
        // In this order: an old number of resets with a newer clock does no harm.
        (context.clocks.jumps, context.clocks.resets) = parts.clocks.jumps_and_resets();
        context.clocks.replicated = parts.clocks.replicated(now).unwrap_or(0);
    }

    /// Refreshes the values that `INFO` and other commands report, at most once per
    /// [`SAMPLE_INTERVAL`].
    pub(super) fn refresh_context(&mut self, now: Instant) {
        if self.refreshed_at.is_some_and(|at| now.since(at) < SAMPLE_INTERVAL) {
            return;
        }
        self.refreshed_at = Some(now);
        let parts = &mut self.parts;
        let status = parts.status.read();
        parts.memory.set_limit(parts.clients.memory_max());
        let (percentage, bytes_min) = parts.clients.rewrite_growth();
        parts.snapshots.set_growth(SnapshotGrowth { percentage, bytes_min });
        let context = &mut parts.clients.context;
        context.snapshot = SnapshotInfo::from(parts.snapshots.read());
        context.log_syncs = parts.counters.log_syncs.get();
        context.disk_free = parts.disk_space.read().free;
        context.disk_reserve = parts.disk_space.reserve;
        context.disk_refused = parts.counters.disk_full.get();
        let usage = ProcessUsage::read();
        context.resident_bytes = usage.resident_bytes;
        (context.cpu_user, context.cpu_system) = (usage.cpu_user, usage.cpu_system);
        context.rates.sample(now, &context.traffic);
        context.clocks.agreed = parts.clocks.agreed(now);
        context.clocks.peers = parts.clocks.peers();
        if let Some(status) = status {
            context.first_index = status.base.index.next();
            context.term = status.term;
            context.role = status.role;
            context.durable_index = status.durable_index;
            context.disk = status.disk;
            let counters = &status.counters;
            context.counters = RaftCounters {
                disk_stalls: counters.disk_stalls,
                lease_reads: counters.lease_reads,
                read_index_reads: counters.read_index_reads,
                leadership_transfers: counters.leadership_transfers,
                terms_rejected: counters.terms_rejected,
                conflicts_rejected: counters.conflicts_rejected,
            };
            context.rejoining = status.rejoining.map(|status| RejoinProgress {
                waiting_for: status.waiting_for,
                target: status.target,
            });
            context.note_log(status.last.index, status.commit_index);
            for node in &mut context.nodes {
                let peer = status.peers.iter().find(|peer| peer.id == node.id);
                node.match_index = peer.map(|peer| peer.match_index);
                node.disk = peer.map_or(DiskState::Healthy, |peer| peer.disk);
                node.connected = node.id == parts.me || parts.outgoing.is_up(node.id);
                node.path = parts.outgoing.path_to(node.id);
            }
        }
    }

    /// Handles a leader change: sends reads that are waiting for a read index from the earlier
    /// leader again, and redirects clients that follow redirects.
    pub(super) fn on_leadership(&mut self, leadership: Leadership) {
        let is_new_term = self.led_term != Some(leadership.term) && leadership.leader.is_some();
        self.leadership = leadership;
        self.leader_refused_until = Instant::ZERO;
        let me = self.parts.me;
        let context = &mut self.parts.clients.context;
        if is_new_term {
            self.led_term = Some(leadership.term);
            context.leader_changes += 1;
        }
        (context.leader, context.term) = (leadership.leader, leadership.term);
        context.transfer_target = leadership.transfer_target;
        context.role = if leadership.leader == Some(me) || leadership.transfer_target.is_some() {
            RoleName::Leader
        } else {
            RoleName::Follower
        };
        if let Some(leader) = leadership.leader {
            tracing::info!(term = leadership.term.0, %leader, "leader elected");
            let before = self.last_leader.replace(leader).and_then(|before| context.node(before));
            let change = before.zip(context.node(leader)).filter(|(from, to)| from.id != to.id);
            if let Some((from, to)) = change {
                let message = switch_master_message(context, from, to);
                self.parts.clients.publish_message(SWITCH_MASTER_CHANNEL, message.as_bytes());
            }
        } else if leadership.transfer_target.is_none() {
            tracing::info!(
                term = leadership.term.0,
                "no leader is known: it was lost, or an election is in progress"
            );
        }
        let reads = self.read_indexes.take_all();
        self.parts.clients.requeue(&reads);
        self.parts.clients.redirect_all();
    }

    /// Stores the address, as `host:port`, on which the peer `peer` listens for clients.
    pub(super) fn update_address(&mut self, peer: NodeId, address: &str) {
        let Some((host, port)) = address.rsplit_once(':') else { return };
        let Ok(port) = port.parse::<u16>() else { return };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_full = self.client_addresses.len() >= CLIENT_ADDRESSES_MAX;
        if is_full && !self.client_addresses.contains_key(&peer) {
            return;
        }
        self.client_addresses.insert(peer, (host, port));
        self.update_nodes();
    }

    /// Makes the replicas that clients are told about the members whose address is known, and this
    /// replica. A replica that has not been added yet tells all that it knows.
    pub(super) fn update_nodes(&mut self) {
        let parts = &mut self.parts;
        let context = &mut parts.clients.context;
        let members = context.members.configuration.members();
        let is_told = |id: &NodeId| members.is_empty() || members.contains_key(id);
        let mut nodes: Vec<ReplicaInfo> = context.node(context.me).cloned().into_iter().collect();
        for (id, (host, port)) in &self.client_addresses {
            if *id == context.me || !is_told(id) {
                continue;
            }
            let known = context.node(*id).cloned();
            let mut node = known.unwrap_or_else(|| ReplicaInfo {
                id: *id,
                host: String::new(),
                port: 0,
                peer_port: 0,
                connected: true,
                match_index: None,
                path: None,
                disk: DiskState::Healthy,
                program: None,
            });
            node.host.clone_from(host);
            node.port = *port;
            node.peer_port = parts.outgoing.port_of(*id);
            let program = parts.outgoing.program_of(*id);
            node.program = program.map(|(version, level)| {
                let version = version.to_owned();
                ProgramInfo { version, level }
            });
            nodes.push(node);
        }
        nodes.sort_by_key(|node| node.id);
        context.nodes = nodes;
        self.refreshed_at = None;
    }
}

impl From<SnapshotStatus> for SnapshotInfo {
    fn from(status: SnapshotStatus) -> SnapshotInfo {
        let SnapshotStatus { index, bytes, saved_at, taking, failed, .. } = status;
        let SnapshotStatus { saves, failures, last_seconds, current_seconds, .. } = status;
        let index = Index(index);
        SnapshotInfo {
            index,
            bytes,
            saved_at,
            taking,
            failed,
            saves,
            failures,
            last_seconds,
            current_seconds,
        }
    }
}
