//! Who leads, in the ways in which clients ask for it: one range of slots, of which the leader is
//! the master and the others are its replicas (redis.md §3).

use std::fmt::Write as _;

use crate::kv::{Operation, SLOT_COUNT, parse_integer, slot_of};
use crate::types::NodeId;

use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::context::{Context, ReplicaInfo};
use crate::redis::session::reply_format::Kind;

const LAST_SLOT: i64 = SLOT_COUNT as i64 - 1;

/// `CLUSTER SLOTS`
pub(in crate::redis) fn slots(call: &mut Call<'_>) -> Action {
    call.connection.follows_redirects = true;
    let Some(leader) = call.context.leader() else {
        // Nobody can serve a slot now; clients ask again.
        call.writer.array(0);
        return Action::Reply;
    };
    let (context, writer) = (call.context, &mut call.writer);
    writer.array(1);
    writer.array(2 + context.nodes.len());
    writer.integer(0);
    writer.integer(LAST_SLOT);
    for node in leader_first(context, leader) {
        writer.array(4);
        writer.bulk(node.host.as_bytes());
        writer.integer(node.port.into());
        writer.bulk(context.name_of(node.id).as_bytes());
        writer.array(0);
    }
    Action::Reply
}

/// `CLUSTER SHARDS`
pub(in crate::redis) fn shards(call: &mut Call<'_>) -> Action {
    call.connection.follows_redirects = true;
    let (context, writer) = (call.context, &mut call.writer);
    writer.array(1);
    writer.map(2);
    writer.bulk(b"slots");
    if context.leader().is_some() {
        writer.array(2);
        writer.integer(0);
        writer.integer(LAST_SLOT);
    } else {
        writer.array(0);
    }
    writer.bulk(b"nodes");
    writer.array(context.nodes.len());
    for node in &context.nodes {
        let role = if context.leader == Some(node.id) { "master" } else { "replica" };
        let health = if node.connected { "online" } else { "fail" };
        let offset = i64::try_from(offset_of(context, node)).unwrap_or(i64::MAX);
        writer.map(7);
        writer.bulk(b"id");
        writer.bulk(context.name_of(node.id).as_bytes());
        writer.bulk(b"port");
        writer.integer(node.port.into());
        for (field, text) in [("ip", &*node.host), ("endpoint", &node.host), ("role", role)] {
            writer.bulk(field.as_bytes());
            writer.bulk(text.as_bytes());
        }
        writer.bulk(b"replication-offset");
        writer.integer(offset);
        writer.bulk(b"health");
        writer.bulk(health.as_bytes());
    }
    Action::Reply
}

/// `CLUSTER NODES`
pub(in crate::redis) fn nodes(call: &mut Call<'_>) -> Action {
    call.connection.follows_redirects = true;
    let context = call.context;
    let mut text = String::new();
    for node in &context.nodes {
        let leads = context.leader == Some(node.id);
        let myself = if node.id == context.me { "myself," } else { "" };
        let role = if leads { "master" } else { "slave" };
        let master = match context.leader() {
            Some(leader) if !leads => context.name_of(leader.id),
            _ => "-".to_owned(),
        };
        let link = if node.connected { "connected" } else { "disconnected" };
        let range = if leads { format!(" 0-{LAST_SLOT}") } else { String::new() };
        writeln!(
            text,
            "{} {}:{}@{} {myself}{role} {master} 0 0 {} {link}{range}",
            context.name_of(node.id),
            node.host,
            node.port,
            node.peer_port,
            context.term,
        )
        .expect("a string takes all");
    }
    call.writer.verbatim(&text);
    Action::Reply
}

/// `CLUSTER INFO`
pub(in crate::redis) fn info(call: &mut Call<'_>) -> Action {
    let context = call.context;
    let (state, slots) = if context.leader().is_some() { ("ok", SLOT_COUNT) } else { ("fail", 0) };
    let fields = [
        ("cluster_state", state.to_owned()),
        ("cluster_slots_assigned", SLOT_COUNT.to_string()),
        ("cluster_slots_ok", slots.to_string()),
        ("cluster_slots_pfail", "0".to_owned()),
        ("cluster_slots_fail", (SLOT_COUNT - slots).to_string()),
        ("cluster_known_nodes", context.nodes.len().to_string()),
        ("cluster_size", "1".to_owned()),
        ("cluster_current_epoch", context.term.to_string()),
        ("cluster_my_epoch", context.term.to_string()),
    ];
    let mut text = String::new();
    for (field, value) in fields {
        write!(text, "{field}:{value}\r\n").expect("a string takes all");
    }
    call.writer.verbatim(&text);
    Action::Reply
}

/// `CLUSTER MYID`
pub(in crate::redis) fn myid(call: &mut Call<'_>) -> Action {
    call.writer.bulk(call.context.name_of(call.context.me).as_bytes());
    Action::Reply
}

/// `CLUSTER KEYSLOT key`
pub(in crate::redis) fn keyslot(call: &mut Call<'_>) -> Action {
    let slot = slot_of(call.argument(2));
    call.writer.integer(slot.into());
    Action::Reply
}

/// `CLUSTER COUNTKEYSINSLOT slot`
pub(in crate::redis) fn countkeysinslot(call: &mut Call<'_>) -> Action {
    let Some(number) = parse_integer(call.argument(2)) else {
        return call.error(&"ERR Invalid or out of range slot");
    };
    match u16::try_from(number) {
        Ok(slot) if slot < SLOT_COUNT => call.submit(Operation::CountInSlot { slot }, Kind::Plain),
        _ => call.error(&"ERR Invalid slot"),
    }
}

/// `ASKING`: what a client says before a request that an `ASK` sent here. None does here.
pub(in crate::redis) fn asking(call: &mut Call<'_>) -> Action {
    call.ok()
}

/// `READONLY`: read from whom it is asked.
pub(in crate::redis) fn readonly(call: &mut Call<'_>) -> Action {
    call.connection.reads_from_followers = true;
    call.ok()
}

/// `READWRITE`
pub(in crate::redis) fn readwrite(call: &mut Call<'_>) -> Action {
    call.connection.reads_from_followers = false;
    call.ok()
}

/// `ROLE`: the leader is the master, its followers are slaves.
pub(in crate::redis) fn role(call: &mut Call<'_>) -> Action {
    let (context, writer) = (call.context, &mut call.writer);
    if call.connection.is_on_sentinel_port {
        writer.array(2);
        writer.bulk(b"sentinel");
        writer.array(1);
        writer.bulk(context.sentinel_name.as_bytes());
        return Action::Reply;
    }
    let applied = i64::try_from(context.applied_index.0).unwrap_or(i64::MAX);
    if context.leads() {
        let followers = || context.nodes.iter().filter(|node| node.id != context.me);
        writer.array(3);
        writer.bulk(b"master");
        writer.integer(applied);
        writer.array(followers().count());
        for node in followers() {
            writer.array(3);
            writer.bulk(node.host.as_bytes());
            writer.bulk(node.port.to_string().as_bytes());
            writer.bulk(offset_of(context, node).to_string().as_bytes());
        }
        return Action::Reply;
    }
    let leader = context.leader();
    writer.array(5);
    writer.bulk(b"slave");
    writer.bulk(leader.map_or(&b""[..], |leader| leader.host.as_bytes()));
    writer.integer(leader.map_or(0, |leader| leader.port.into()));
    writer.bulk(if leader.is_some() { b"connected" } else { b"connect" });
    writer.integer(if leader.is_some() { applied } else { -1 });
    Action::Reply
}

/// All replicas, the leader first.
fn leader_first<'c>(
    context: &'c Context,
    leader: &'c ReplicaInfo,
) -> impl Iterator<Item = &'c ReplicaInfo> {
    let is_leader = |id: NodeId| id == leader.id;
    std::iter::once(leader).chain(context.nodes.iter().filter(move |node| !is_leader(node.id)))
}

/// How far a replica is, as far as this one knows.
pub(in crate::redis) fn offset_of(context: &Context, node: &ReplicaInfo) -> u64 {
    let known = if node.id == context.me { Some(context.applied_index) } else { node.match_index };
    known.unwrap_or_default().0
}
