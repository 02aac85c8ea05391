//! `SENTINEL`: lets clients of Redis Sentinel find the leader.
//!
//! Every replica acts as a Sentinel that monitors one master, the cluster, on its port for clients.
//! Clients that check the role of a Sentinel need the separate Sentinel port, on which `ROLE`
//! replies `sentinel`.

use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::context::{Context, ReplicaInfo};
use crate::redis::spec::{CommandSpec, subcommand};
use crate::wire::resp::Writer;

use super::help::{container, help_row};

/// Row of the command table for `SENTINEL` (name, arity, flags, documentation and function), with
/// its subcommands.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[container("sentinel")
    .since("2.8.4", "sentinel")
    .about("A container for Redis Sentinel commands.")
    .with(SENTINEL)];

const SENTINEL: &[CommandSpec] = &[
    row("ckquorum", "sentinel|ckquorum", 3, quorum)
        .about("Checks whether a majority of the replicas is connected."),
    row("get-master-addr-by-name", "sentinel|get-master-addr-by-name", 3, address)
        .about("Returns the address of the leader."),
    help_row("sentinel|help"),
    row("master", "sentinel|master", 3, master).about("Returns details about the leader."),
    row("masters", "sentinel|masters", 2, masters)
        .about("Returns a list with one element, which describes the leader."),
    row("myid", "sentinel|myid", 2, my_id).about("Returns the id of this replica."),
    row("replicas", "sentinel|replicas", 3, replicas)
        .about("Returns details about the replicas other than the leader."),
    row("sentinels", "sentinel|sentinels", 3, sentinels)
        .about("Returns details about the other replicas, each of which is a Sentinel."),
    row("slaves", "sentinel|slaves", 3, replicas)
        .about("Returns details about the replicas other than the leader."),
];

const fn row(
    name: &'static str,
    full_name: &'static str,
    arity: i8,
    run: fn(&mut Call<'_>) -> Action,
) -> CommandSpec {
    subcommand(name, full_name, arity, run).flags(&["admin"])
}

/// The Pub/Sub channel on which Sentinel clients are notified of a new leader.
pub const SWITCH_MASTER_CHANNEL: &[u8] = b"+switch-master";

/// Returns the message with which Sentinel clients are notified of a leader change: the master
/// name, and the addresses of the old and the new leader.
pub fn switch_master_message(context: &Context, from: &ReplicaInfo, to: &ReplicaInfo) -> String {
    let name = &context.sentinel_name;
    format!("{name} {} {} {} {}", from.host, from.port, to.host, to.port)
}

/// Returns whether the request contains the master name of this cluster. If not, writes an error
/// reply.
fn names_cluster(call: &mut Call<'_>) -> bool {
    let is_own = call.argument(2) == call.context.sentinel_name.as_bytes();
    if !is_own {
        call.writer.error(b"ERR No such master with that name");
    }
    is_own
}

/// Runs `SENTINEL MYID`: replies with the id of this replica, which acts as a Sentinel.
fn my_id(call: &mut Call<'_>) -> Action {
    let id = call.context.name_of(call.context.me);
    call.writer.bulk(id.as_bytes());
    Action::Reply
}

/// Runs `SENTINEL GET-MASTER-ADDR-BY-NAME name`: replies with the host and port of the leader; null
/// if no leader is known or `name` is not the master name of this cluster.
fn address(call: &mut Call<'_>) -> Action {
    let is_own = call.argument(2) == call.context.sentinel_name.as_bytes();
    match call.context.leader().filter(|_| is_own) {
        Some(leader) => {
            call.writer.array(2);
            call.writer.bulk(leader.host.as_bytes());
            call.writer.bulk(leader.port.to_string().as_bytes());
        }
        None => call.writer.null_array(),
    }
    Action::Reply
}

/// Runs `SENTINEL MASTERS`: describes the leader as the only master; an empty list while no leader
/// is known.
fn masters(call: &mut Call<'_>) -> Action {
    match call.context.leader() {
        Some(leader) => {
            call.writer.array(1);
            describe_master(call.context, leader, &mut call.writer);
        }
        None => call.writer.array(0),
    }
    Action::Reply
}

/// Runs `SENTINEL MASTER name`: describes the leader as the master; an error while no leader is
/// known.
fn master(call: &mut Call<'_>) -> Action {
    if !names_cluster(call) {
        return Action::Reply;
    }
    match call.context.leader() {
        Some(leader) => describe_master(call.context, leader, &mut call.writer),
        None => call.writer.error(b"ERR No such master with that name"),
    }
    Action::Reply
}

/// Runs `SENTINEL REPLICAS name` and its old form `SENTINEL SLAVES name`: describes all replicas
/// except the leader.
fn replicas(call: &mut Call<'_>) -> Action {
    if !names_cluster(call) {
        return Action::Reply;
    }
    let context = call.context;
    let leader = context.leader;
    let replicas = context.data_nodes().filter(|node| Some(node.id) != leader);
    call.writer.array(replicas.clone().count());
    for node in replicas {
        let flags = if node.connected { "slave" } else { "s_down,slave,disconnected" };
        let (host, port) = match context.leader() {
            Some(leader) => (leader.host.clone(), leader.port.to_string()),
            None => ("?".to_owned(), "0".to_owned()),
        };
        let name = format!("{}:{}", node.host, node.port);
        let link = if context.leader().is_some() { "ok" } else { "err" };
        let more = [
            ("role-reported", "slave".to_owned()),
            ("master-link-status", link.to_owned()),
            ("master-host", host),
            ("master-port", port),
            ("slave-priority", "100".to_owned()),
            ("slave-repl-offset", node.match_index.map_or(0, |index| index.0).to_string()),
        ];
        describe(context, node, &name, flags, &more, &mut call.writer);
    }
    Action::Reply
}

/// Runs `SENTINEL SENTINELS name`: describes all replicas except this one as Sentinels.
fn sentinels(call: &mut Call<'_>) -> Action {
    if !names_cluster(call) {
        return Action::Reply;
    }
    let context = call.context;
    let others = context.nodes.iter().filter(|node| node.id != context.me);
    call.writer.array(others.clone().count());
    for node in others {
        let flags = if node.connected { "sentinel" } else { "s_down,sentinel" };
        let name = context.name_of(node.id);
        let more = [("voted-leader", "?".to_owned())];
        describe(context, node, &name, flags, &more, &mut call.writer);
    }
    Action::Reply
}

/// Runs `SENTINEL CKQUORUM name`: replies whether this replica is connected to a majority of the
/// replicas, including itself.
fn quorum(call: &mut Call<'_>) -> Action {
    if !names_cluster(call) {
        return Action::Reply;
    }
    let nodes = &call.context.nodes;
    let usable = nodes.iter().filter(|node| node.connected).count();
    if usable > nodes.len() / 2 {
        call.writer.simple(&format!(
            "OK {usable} usable Sentinels. Quorum and failover authorization can be reached"
        ));
    } else {
        let text = format!(
            "NOQUORUM {usable} usable Sentinels. Not enough available Sentinels to reach the \
             majority and authorize a failover"
        );
        call.writer.error(text.as_bytes());
    }
    Action::Reply
}

fn describe_master(context: &Context, leader: &ReplicaInfo, writer: &mut Writer<'_>) {
    let others = context.nodes.len() - 1;
    let more = [
        ("role-reported", "master".to_owned()),
        ("config-epoch", context.term.0.to_string()),
        ("num-slaves", (context.data_nodes().count() - 1).to_string()),
        ("num-other-sentinels", others.to_string()),
        ("quorum", (context.nodes.len() / 2 + 1).to_string()),
    ];
    describe(context, leader, &context.sentinel_name, "master", &more, writer);
}

fn describe(
    context: &Context,
    node: &ReplicaInfo,
    name: &str,
    flags: &str,
    more: &[(&str, String)],
    writer: &mut Writer<'_>,
) {
    let port = node.port.to_string();
    let id = context.name_of(node.id);
    let common = [
        ("name", name),
        ("ip", &node.host),
        ("port", &port),
        ("runid", &id),
        ("flags", flags),
        ("link-pending-commands", "0"),
        ("link-refcount", "1"),
        ("last-ping-sent", "0"),
        ("last-ok-ping-reply", "0"),
        ("last-ping-reply", "0"),
        ("down-after-milliseconds", "1000"),
    ];
    writer.map(common.len() + more.len());
    for (field, value) in common {
        writer.bulk(field.as_bytes());
        writer.bulk(value.as_bytes());
    }
    for (field, value) in more {
        writer.bulk(field.as_bytes());
        writer.bulk(value.as_bytes());
    }
}
