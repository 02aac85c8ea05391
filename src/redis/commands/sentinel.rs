//! The face of a Redis Sentinel: clients that ask one who the master is find the leader here, and
//! keep to one server as they would alone. Every replica is such a sentinel, at its own port for
//! clients, and all of them watch one master: the cluster. For clients that look at the role of
//! whom they ask, there may be a port beside, at which the role is that of a Sentinel.

use crate::wire::resp::Writer;

use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::context::{Context, ReplicaInfo};

/// The channel on which clients hear of another leader.
pub const SWITCH_MASTER_CHANNEL: &[u8] = b"+switch-master";

/// What a client hears on that channel: whom it left, and whom it finds.
pub fn switch_master_message(context: &Context, from: &ReplicaInfo, to: &ReplicaInfo) -> String {
    let name = &context.sentinel_name;
    format!("{name} {} {} {} {}", from.host, from.port, to.host, to.port)
}

/// Whether the word at that place is the name of our master; else the client is told.
fn names_us(call: &mut Call<'_>) -> bool {
    let ours = call.argument(2) == call.context.sentinel_name.as_bytes();
    if !ours {
        call.writer.error(b"ERR No such master with that name");
    }
    ours
}

/// `SENTINEL MYID`
pub(in crate::redis) fn my_id(call: &mut Call<'_>) -> Action {
    let id = call.context.name_of(call.context.me);
    call.writer.bulk(id.as_bytes());
    Action::Reply
}

/// `SENTINEL GET-MASTER-ADDR-BY-NAME name`: nothing while nobody leads.
pub(in crate::redis) fn address(call: &mut Call<'_>) -> Action {
    let ours = call.argument(2) == call.context.sentinel_name.as_bytes();
    match call.context.leader().filter(|_| ours) {
        Some(leader) => {
            call.writer.array(2);
            call.writer.bulk(leader.host.as_bytes());
            call.writer.bulk(leader.port.to_string().as_bytes());
        }
        None => call.writer.null_array(),
    }
    Action::Reply
}

/// `SENTINEL MASTERS`
pub(in crate::redis) fn masters(call: &mut Call<'_>) -> Action {
    match call.context.leader() {
        Some(leader) => {
            call.writer.array(1);
            describe_master(call.context, leader, &mut call.writer);
        }
        None => call.writer.array(0),
    }
    Action::Reply
}

/// `SENTINEL MASTER name`
pub(in crate::redis) fn master(call: &mut Call<'_>) -> Action {
    if !names_us(call) {
        return Action::Reply;
    }
    match call.context.leader() {
        Some(leader) => describe_master(call.context, leader, &mut call.writer),
        None => call.writer.error(b"ERR No such master with that name"),
    }
    Action::Reply
}

/// `SENTINEL REPLICAS name`, and `SLAVES` as older clients say.
pub(in crate::redis) fn replicas(call: &mut Call<'_>) -> Action {
    if !names_us(call) {
        return Action::Reply;
    }
    let context = call.context;
    let leader = context.leader;
    let replicas = context.nodes.iter().filter(|node| Some(node.id) != leader);
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

/// `SENTINEL SENTINELS name`: the others.
pub(in crate::redis) fn sentinels(call: &mut Call<'_>) -> Action {
    if !names_us(call) {
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

/// `SENTINEL CKQUORUM name`
pub(in crate::redis) fn quorum(call: &mut Call<'_>) -> Action {
    if !names_us(call) {
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
        ("num-slaves", others.to_string()),
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
