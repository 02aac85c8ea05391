//! `CLUSTER` and related commands. A Redis Cluster client sees a cluster of one shard with all
//! slots, in which the leader is the master and the other replicas are its replicas.

use std::fmt::Write as _;
use std::time::Duration;

use crate::feature_level::FeatureLevel;
use crate::kv::{CommandId, DatabaseId, Operation, SLOT_COUNT, parse_integer, slot_of};
use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::context::{Context, ReplicaInfo};
use crate::redis::session::reply_format::ReplyKind;
use crate::redis::spec::{ANYTIME_FAST, CommandSpec, command, subcommand};

use super::help::{container, help_row};

/// Maximum of the option `MAXLAG` of `READONLY`, in milliseconds.
const LAG_MILLIS_MAX: u64 = 3_600_000;

/// Rows of the command table for cluster commands (name, arity, flags, documentation and function),
/// sorted by name.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    command("asking", 1, asking)
        .flags(&["fast"])
        .categories(&["connection"])
        .since("3.0.0", "cluster")
        .costs("O(1)")
        .about("Has no effect: this server never replies with an ASK redirection."),
    container("cluster")
        .since("3.0.0", "cluster")
        .about("A container for cluster commands.")
        .with(CLUSTER),
    command("readonly", -1, readonly)
        .flags(ANYTIME_FAST)
        .categories(&["connection"])
        .since("3.0.0", "cluster")
        .costs("O(1)")
        .about(
            "Lets followers serve the connection's reads, with MAXLAG from a state that may lag.",
        ),
    command("readwrite", 1, readwrite)
        .flags(ANYTIME_FAST)
        .categories(&["connection"])
        .since("3.0.0", "cluster")
        .costs("O(1)")
        .about("Ends the effect of READONLY on the connection."),
    command("role", 1, role)
        .flags(&["noscript", "loading", "stale", "fast"])
        .categories(&["admin", "dangerous"])
        .since("2.8.12", "server")
        .costs("O(1)")
        .about("Returns the replication role of this replica. The leader is the master."),
];

const CLUSTER: &[CommandSpec] = &[
    row("count-failure-reports", "cluster|count-failure-reports", 3, count_failure_reports)
        .flags(&["admin", "stale"])
        .categories(&["dangerous"])
        .costs("O(1)")
        .about("Returns 0: replicas do not report failures of others to each other."),
    row("countkeysinslot", "cluster|countkeysinslot", 3, countkeysinslot)
        .costs("O(N), N being the number of keys")
        .about("Returns the number of keys in a hash slot."),
    row("getkeysinslot", "cluster|getkeysinslot", 4, getkeysinslot)
        .needs(FeatureLevel::V0_2)
        .costs("O(N), N being the number of keys")
        .about("Returns keys in a hash slot."),
    help_row("cluster|help").since("5.0.0", "cluster"),
    row("info", "cluster|info", 2, info).costs("O(1)").about("Returns the state of the cluster."),
    row("keyslot", "cluster|keyslot", 3, keyslot)
        .costs("O(N), N being the length of the key")
        .about("Returns the hash slot of a key."),
    row("myid", "cluster|myid", 2, myid).costs("O(1)").about("Returns the id of this replica."),
    row("myshardid", "cluster|myshardid", 2, myshardid)
        .since("7.2.0", "cluster")
        .costs("O(1)")
        .about("Returns the id of the cluster's only shard."),
    row("nodes", "cluster|nodes", 2, nodes)
        .costs("O(N), N being the number of replicas")
        .about("Returns the replicas of the cluster as text, one per line."),
    row("replicas", "cluster|replicas", 3, replicas)
        .flags(&["admin", "stale"])
        .categories(&["dangerous"])
        .since("5.0.0", "cluster")
        .costs("O(N), N being the number of replicas")
        .about("Returns the followers of the leader with the given id, as lines of text."),
    row("shards", "cluster|shards", 2, shards)
        .since("7.0.0", "cluster")
        .costs("O(N), N being the number of replicas")
        .about("Returns the cluster's only shard and its replicas."),
    row("slaves", "cluster|slaves", 3, replicas)
        .flags(&["admin", "stale"])
        .categories(&["dangerous"])
        .costs("O(N), N being the number of replicas")
        .about("Returns the followers of the leader with the given id, as lines of text."),
    row("slots", "cluster|slots", 2, slots)
        .costs("O(N), N being the number of replicas")
        .about("Returns the only range of hash slots and its replicas, the leader first."),
];

const fn row(
    name: &'static str,
    full_name: &'static str,
    arity: i8,
    run: fn(&mut Call<'_>) -> Action,
) -> CommandSpec {
    subcommand(name, full_name, arity, run).flags(&["stale"]).since("3.0.0", "cluster")
}

const COUNT_KEYS_IN_SLOT: CommandId = CommandId::of("cluster|countkeysinslot");
const KEYS_IN_SLOT: CommandId = CommandId::of("cluster|getkeysinslot");
const LAST_SLOT: i64 = SLOT_COUNT as i64 - 1;

/// Makes the connection follow redirects from now on, unless it has selected another database than
/// 0: clients with redirects know only that one.
fn follow_redirects(call: &mut Call<'_>) {
    call.connection.follows_redirects = call.connection.database == DatabaseId::FIRST;
}

/// Runs `CLUSTER SLOTS`: returns a single range of all hash slots, with the addresses of all
/// replicas, the leader first; an empty list while no leader is known.
fn slots(call: &mut Call<'_>) -> Action {
    follow_redirects(call);
    let Some(leader) = call.context.leader() else {
        // Without a leader no slot is served, so clients ask again.
        call.writer.array(0);
        return Action::Reply;
    };
    let (context, writer) = (call.context, &mut call.writer);
    writer.array(1);
    writer.array(2 + leader_first(context, leader).count());
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

/// Runs `CLUSTER SHARDS`: describes the cluster as a single shard with all replicas. The shard has
/// all hash slots, or none while no leader is known.
fn shards(call: &mut Call<'_>) -> Action {
    follow_redirects(call);
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
    writer.array(context.data_nodes().count());
    for node in context.data_nodes() {
        let role = if context.leader == Some(node.id) { "master" } else { "replica" };
        let health = if node.connected { "online" } else { "fail" };
        let offset = i64::try_from(context.replication_offset(node)).unwrap_or(i64::MAX);
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

/// Runs `CLUSTER NODES`: describes the replicas, one per line, with all hash slots assigned to the
/// leader. A witness is listed as a master without slots.
fn nodes(call: &mut Call<'_>) -> Action {
    follow_redirects(call);
    let context = call.context;
    let lines = context.nodes.iter().map(|node| node_line(context, node) + "\n");
    call.writer.verbatim(&lines.collect::<String>());
    Action::Reply
}

/// Returns the line that describes a replica in the reply to `CLUSTER NODES`.
fn node_line(context: &Context, node: &ReplicaInfo) -> String {
    let leads = context.leader == Some(node.id);
    let has_data = context.data_nodes().any(|it| it.id == node.id);
    let myself = if node.id == context.me { "myself," } else { "" };
    // Clients send nothing to a master without slots.
    let role = if leads || !has_data { "master" } else { "slave" };
    let master = match context.leader() {
        Some(leader) if !leads && has_data => context.name_of(leader.id),
        _ => "-".to_owned(),
    };
    let link = if node.connected { "connected" } else { "disconnected" };
    let range = if leads { format!(" 0-{LAST_SLOT}") } else { String::new() };
    format!(
        "{} {}:{}@{} {myself}{role} {master} 0 0 {} {link}{range}",
        context.name_of(node.id),
        node.host,
        node.port,
        node.peer_port,
        context.term,
    )
}

/// Returns the replica whose id, as a Redis Cluster node, is the argument of the request; otherwise
/// writes an error.
fn named_node<'c>(call: &mut Call<'c>) -> Result<&'c ReplicaInfo, Action> {
    let (context, name) = (call.context, call.argument(2));
    let found = context.nodes.iter().find(|node| context.name_of(node.id).as_bytes() == name);
    let unknown = || format!("ERR Unknown node {}", String::from_utf8_lossy(name));
    found.ok_or_else(|| call.error(&unknown()))
}

/// Runs `CLUSTER COUNT-FAILURE-REPORTS id`: returns 0.
fn count_failure_reports(call: &mut Call<'_>) -> Action {
    match named_node(call) {
        Ok(_) => call.integer(0),
        Err(action) => action,
    }
}

/// Runs `CLUSTER MYSHARDID`: returns the id of the only shard, 40 hexadecimal digits, which is
/// equal on all replicas.
fn myshardid(call: &mut Call<'_>) -> Action {
    call.writer.bulk(format!("{:040x}", call.context.cluster_fingerprint).as_bytes());
    Action::Reply
}

/// Runs `CLUSTER REPLICAS id` and `CLUSTER SLAVES id`: describes the followers of the leader, which
/// must have this id.
fn replicas(call: &mut Call<'_>) -> Action {
    let leader = match named_node(call) {
        Ok(node) => node.id,
        Err(action) => return action,
    };
    let context = call.context;
    if context.leader != Some(leader) {
        return call.error(&"ERR The specified node is not a master");
    }
    let followers = || context.data_nodes().filter(|node| node.id != leader);
    call.writer.array(followers().count());
    for node in followers() {
        call.writer.bulk(node_line(context, node).as_bytes());
    }
    Action::Reply
}

/// Runs `CLUSTER INFO`: returns the state of the cluster, which is `ok` while a leader is known,
/// otherwise `fail`.
fn info(call: &mut Call<'_>) -> Action {
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
        write!(text, "{field}:{value}\r\n").expect("writing to a string succeeds");
    }
    call.writer.verbatim(&text);
    Action::Reply
}

/// Runs `CLUSTER MYID`: returns the id of this replica as a Redis Cluster node, 40 hexadecimal
/// digits.
fn myid(call: &mut Call<'_>) -> Action {
    call.writer.bulk(call.context.name_of(call.context.me).as_bytes());
    Action::Reply
}

/// Runs `CLUSTER KEYSLOT key`: returns the hash slot of the key.
fn keyslot(call: &mut Call<'_>) -> Action {
    let slot = slot_of(call.argument(2));
    call.integer(slot)
}

/// Runs `CLUSTER COUNTKEYSINSLOT slot`: returns the number of keys in the hash slot.
fn countkeysinslot(call: &mut Call<'_>) -> Action {
    let Some(number) = parse_integer(call.argument(2)) else {
        return call.error(&"ERR Invalid or out of range slot");
    };
    match u16::try_from(number) {
        Ok(slot) if slot < SLOT_COUNT => {
            let operation = Operation::call(COUNT_KEYS_IN_SLOT, [call.argument(2)]);
            call.submit(operation, ReplyKind::Plain)
        }
        _ => call.error(&"ERR Invalid slot"),
    }
}

/// Runs `CLUSTER GETKEYSINSLOT slot count`: returns up to `count` keys in the hash slot.
fn getkeysinslot(call: &mut Call<'_>) -> Action {
    let (slot, count) = (call.argument(2), call.argument(3));
    let Some(number) = parse_integer(slot) else {
        return call.error(&"ERR Invalid or out of range slot");
    };
    let Some(wanted) = parse_integer(count) else {
        return call.error(&"ERR value is not an integer or out of range");
    };
    if !(0..=LAST_SLOT).contains(&number) || wanted < 0 {
        return call.error(&"ERR Invalid slot or number of keys");
    }
    call.submit(Operation::call(KEYS_IN_SLOT, [slot, count]), ReplyKind::Plain)
}

/// Runs `ASKING`, which Redis Cluster clients send before a request that an `ASK` error has
/// redirected. Replies `OK` without any effect, because this server never sends `ASK` errors.
fn asking(call: &mut Call<'_>) -> Action {
    call.ok()
}

/// Runs `READONLY`: from now on, a follower answers the client's reads itself instead of
/// redirecting the client to the leader.
///
/// With `MAXLAG milliseconds`, it may answer them from a state that lags behind by at most this
/// time. Without, they are linearizable.
fn readonly(call: &mut Call<'_>) -> Action {
    let lag_max = match call.request.len() {
        1 => None,
        3 if call.argument(1).eq_ignore_ascii_case(b"MAXLAG") => {
            let millis = parse_integer(call.argument(2)).and_then(|lag| u64::try_from(lag).ok());
            match millis.filter(|millis| (1..=LAG_MILLIS_MAX).contains(millis)) {
                Some(millis) => Some(Duration::from_millis(millis)),
                None => return call.error(&"ERR MAXLAG must be from 1 to 3600000 milliseconds"),
            }
        }
        _ => return call.error(&"ERR wrong number of arguments for 'readonly' command"),
    };
    call.connection.lag_max = lag_max;
    call.connection.reads_from_followers = true;
    call.ok()
}

/// Runs `READWRITE`: ends the effect of `READONLY`, so that a follower redirects the client's reads
/// to the leader again.
fn readwrite(call: &mut Call<'_>) -> Action {
    call.connection.reads_from_followers = false;
    call.connection.lag_max = None;
    call.ok()
}

/// Runs `ROLE`: reports this replica as a Redis master if it is the leader, otherwise as a slave;
/// on the Sentinel port, reports the role `sentinel`.
fn role(call: &mut Call<'_>) -> Action {
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
        let followers = || context.data_nodes().filter(|node| node.id != context.me);
        writer.array(3);
        writer.bulk(b"master");
        writer.integer(applied);
        writer.array(followers().count());
        for node in followers() {
            writer.array(3);
            writer.bulk(node.host.as_bytes());
            writer.bulk(node.port.to_string().as_bytes());
            writer.bulk(context.replication_offset(node).to_string().as_bytes());
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

/// Iterates over all replicas of the cluster that have data, the leader first.
fn leader_first<'c>(
    context: &'c Context,
    leader: &'c ReplicaInfo,
) -> impl Iterator<Item = &'c ReplicaInfo> {
    let others = context.data_nodes().filter(move |node| node.id != leader.id);
    std::iter::once(leader).chain(others)
}
