//! `INFO`: the server's state as fields and values. Each field has a source. Fields of Redis that
//! describe features which this server lacks are omitted, except for a few that clients and
//! dashboards need (`loading`, `blocked_clients`, `evicted_keys`), whose constant value is true.

use std::fmt::{Display, Write as _};

use crate::feature_level::FeatureLevel;
use crate::kv::{DatabaseSize, DigestComparison, DigestResult};
use crate::membership::MemberRole;
use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::context::{ClockStatus, Context, PathStatus};
use crate::redis::settings::Settings;
use crate::redis::spec::{ANYTIME, CommandSpec, CommandTable, command_with_table};
use crate::types::{DiskState, RoleName};

/// The version of Redis that `INFO` and `HELLO` report, by which clients decide which commands and
/// features they can use.
pub(in crate::redis) const VERSION: &str = "7.2.0";

/// The mode that `INFO` and `HELLO` report. It is not `cluster`, because every replica stores all
/// keys: a command may use keys of different hash slots, so clients need not split it into several
/// commands. Nevertheless, `CLUSTER` commands work, and `cluster_enabled` is 1.
pub(in crate::redis) const MODE: &str = "standalone";

/// Row of the command table for `INFO` (name, arity, flags, documentation and function).
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[command_with_table("info", -1, info)
    .flags(ANYTIME)
    .categories(&["dangerous"])
    .since("1.0.0", "server")
    .costs("O(1)")
    .about("Returns information and statistics about the server, by section.")];

/// A section of `INFO`: its name, and the function that writes its fields.
type Section = (&'static str, fn(&mut Text, &Source<'_>));

/// The state that `INFO` describes.
struct Source<'s> {
    context: &'s Context,
    settings: &'s Settings,
    table: &'static CommandTable,
}

const SECTIONS: &[Section] = &[
    ("Server", server),
    ("Clients", clients),
    ("Memory", memory),
    ("Persistence", persistence),
    ("Stats", stats),
    ("Replication", replication),
    ("CPU", cpu),
    // There are no modules, as in a Redis that has loaded none.
    ("Modules", |_, _| ()),
    ("Commandstats", command_statistics),
    ("Errorstats", error_statistics),
    ("Latencystats", latency_statistics),
    ("Cluster", cluster),
    ("Keyspace", keyspace),
    ("Raft", raft),
];

/// Names of the sections that `INFO` omits by default. `INFO` returns such a section if the client
/// asks for it by name, or for `all` or `everything`.
const EXTRA: &[&str] = &["Commandstats", "Latencystats"];

/// The text of a reply to `INFO`, to which the functions of the sections append fields.
struct Text(String);

impl Text {
    fn field(&mut self, name: &str, value: impl Display) {
        write!(self.0, "{name}:{value}\r\n").expect("writing to a string succeeds");
    }

    fn all(&mut self, fields: impl Iterator<Item = (String, String)>) {
        fields.for_each(|(name, value)| self.field(&name, value));
    }
}

/// Runs `INFO [section ...]`: returns the named sections, or the default sections.
fn info(call: &mut Call<'_>, table: &'static CommandTable) -> Action {
    let names: Vec<Vec<u8>> = call.request.rest(1).map(<[u8]>::to_ascii_lowercase).collect();
    let is_named = |section: &str| names.iter().any(|name| name == section.as_bytes());
    let all = is_named("all") || is_named("everything");
    let default = names.is_empty() || is_named("default");
    let source = Source { context: call.context, settings: call.settings, table };
    let mut text = Text(String::new());
    for (name, write_fields) in SECTIONS {
        if all || default && !EXTRA.contains(name) || is_named(&name.to_ascii_lowercase()) {
            let gap = if text.0.is_empty() { "" } else { "\r\n" };
            write!(text.0, "{gap}# {name}\r\n").expect("writing to a string succeeds");
            write_fields(&mut text, &source);
        }
    }
    call.writer.verbatim(&text.0);
    Action::Reply
}

fn server(text: &mut Text, Source { context, .. }: &Source<'_>) {
    let uptime = context.now.since(context.started).as_secs();
    text.field("redis_version", VERSION);
    text.field("redis_mode", MODE);
    text.field("bowline_version", env!("CARGO_PKG_VERSION"));
    text.field("bowline_feature_level", FeatureLevel::NEWEST);
    text.field("os", &context.system.os);
    text.field("arch_bits", usize::BITS);
    text.field("multiplexing_api", if cfg!(target_os = "linux") { "epoll" } else { "kqueue" });
    text.field("process_id", context.process_id);
    text.field("run_id", format_args!("{:040x}", context.run_id));
    text.field("tcp_port", context.node(context.me).map_or(0, |me| me.port));
    text.field("server_time_usec", context.wall_clock.as_micros());
    text.field("uptime_in_seconds", uptime);
    text.field("uptime_in_days", uptime / 86_400);
    text.field("executable", &context.system.executable);
}

fn clients(text: &mut Text, Source { context, settings, .. }: &Source<'_>) {
    text.field("connected_clients", context.traffic.clients);
    text.field("cluster_connections", context.nodes.iter().filter(|node| node.connected).count());
    text.field("maxclients", settings.clients_max());
    text.field("blocked_clients", context.blocked_clients);
    text.field("tracking_clients", context.tracking.clients);
}

/// Formats a number of bytes as Redis does, such as `1.50K`.
fn human(bytes: u64) -> String {
    let units = ["K", "M", "G", "T", "P"];
    let mut scaled = bytes as f64 / 1024.0;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < units.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    if bytes < 1024 { format!("{bytes}B") } else { format!("{scaled:.2}{}", units[unit]) }
}

/// Returns `part / whole`; 0 if `whole` is 0.
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn memory(text: &mut Text, Source { context, settings, .. }: &Source<'_>) {
    let mut bytes = |name: &str, bytes: u64| {
        text.field(name, bytes);
        text.field(&format!("{name}_human"), human(bytes));
    };
    let (used, peak) = (context.used_memory, context.used_memory_peak);
    let (resident, dataset) = (context.resident_bytes, context.dataset_bytes);
    bytes("used_memory", used);
    bytes("used_memory_rss", resident);
    bytes("used_memory_peak", peak);
    bytes("total_system_memory", context.system.memory_bytes);
    bytes("maxmemory", settings.memory_max());
    let kept = context.kept_scripts;
    let (scripts, functions) = (kept.script_bytes as u64, kept.function_bytes as u64);
    bytes("used_memory_scripts", scripts + functions);
    text.field("used_memory_peak_perc", format_args!("{:.2}%", 100.0 * ratio(used, peak)));
    text.field("used_memory_overhead", used.saturating_sub(dataset));
    text.field("used_memory_dataset", dataset);
    text.field("used_memory_dataset_perc", format_args!("{:.2}%", 100.0 * ratio(dataset, used)));
    text.field("used_memory_log", context.log_bytes);
    text.field("used_memory_scripts_eval", scripts);
    text.field("number_of_cached_scripts", kept.script_count);
    text.field("number_of_functions", kept.function_count);
    text.field("number_of_libraries", kept.library_count);
    text.field("used_memory_functions", functions);
    text.field("maxmemory_policy", settings.value("maxmemory-policy"));
    text.field("mem_fragmentation_ratio", format_args!("{:.2}", ratio(resident, used)));
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    text.field("mem_fragmentation_bytes", signed(resident) - signed(used));
    text.field("mem_clients_normal", context.clients_bytes);
    text.field("maxmemory_clients", settings.clients_bytes_max());
    text.field("lazyfree_pending_objects", context.lazyfree_pending_objects);
    text.field("lazyfreed_objects", context.lazyfreed_objects);
}

fn persistence(text: &mut Text, Source { context, .. }: &Source<'_>) {
    let snapshot = context.snapshot;
    let (taking, status) = (u8::from(snapshot.taking), if snapshot.failed { "err" } else { "ok" });
    let seconds = |seconds: Option<u64>| {
        seconds.map_or(-1, |seconds| i64::try_from(seconds).unwrap_or(i64::MAX))
    };
    // A replica accepts clients only after it has loaded its state.
    text.field("loading", 0);
    // Log entries applied since the snapshot; Redis counts changed keys.
    let changes = context.applied_index.0.saturating_sub(snapshot.index.0);
    text.field("rdb_changes_since_last_save", changes);
    text.field("rdb_bgsave_in_progress", taking);
    text.field("rdb_last_save_time", snapshot.saved_at);
    text.field("rdb_last_bgsave_status", status);
    text.field("rdb_last_bgsave_time_sec", seconds(snapshot.last_seconds));
    text.field("rdb_current_bgsave_time_sec", seconds(snapshot.current_seconds));
    text.field("rdb_saves", snapshot.saves);
    text.field("aof_enabled", 1);
    // In this server, the counterpart of rewriting the append-only file is a snapshot, after which
    // the log is compacted.
    text.field("aof_rewrite_in_progress", taking);
    text.field("aof_last_rewrite_time_sec", seconds(snapshot.last_seconds));
    text.field("aof_current_rewrite_time_sec", seconds(snapshot.current_seconds));
    text.field("aof_last_bgrewrite_status", status);
    let writes = if context.disk == DiskState::Healthy { "ok" } else { "err" };
    text.field("aof_last_write_status", writes);
    text.field("disk_state", disk_name(context.disk));
    text.field("disk_free_bytes", context.disk_free);
    text.field("disk_reserve_bytes", context.disk_reserve);
    text.field("disk_refused_writes", context.disk_refused);
    text.field("disk_stalls", context.counters.disk_stalls);
}

/// Returns what this replica does as a member of the cluster, such as `voter`.
pub fn member_role(context: &Context) -> &'static str {
    let configuration = &context.members.configuration;
    match configuration.member(context.me).map(|member| member.role) {
        Some(MemberRole::Voter) => "voter",
        Some(MemberRole::Learner(_)) => "learner",
        Some(MemberRole::Leaving) => "leaving",
        None if configuration.members().is_empty() => "joining",
        None => "removed",
    }
}

/// Returns the name of a role, such as `leader`.
pub fn role_name(role: RoleName) -> &'static str {
    match role {
        RoleName::Follower => "follower",
        RoleName::PreCandidate => "pre-candidate",
        RoleName::Candidate => "candidate",
        RoleName::Leader => "leader",
    }
}

/// Returns the name of the condition of a disk, such as `ok`.
pub fn disk_name(disk: DiskState) -> &'static str {
    match disk {
        DiskState::Healthy => "ok",
        DiskState::Low => "low",
        DiskState::Stalled => "stalled",
    }
}

fn stats(text: &mut Text, Source { context, .. }: &Source<'_>) {
    let (traffic, rates) = (context.traffic, context.rates.per_second());
    let keyspace = context.keyspace_statistics;
    let kib = |rate: f64| format!("{:.2}", rate / 1024.0);
    text.field("total_connections_received", traffic.connections);
    text.field("total_commands_processed", traffic.commands);
    text.field("instantaneous_ops_per_sec", format_args!("{:.0}", rates.commands));
    text.field("total_net_input_bytes", traffic.bytes_in);
    text.field("total_net_output_bytes", traffic.bytes_out);
    text.field("instantaneous_input_kbps", kib(rates.bytes_in));
    text.field("instantaneous_output_kbps", kib(rates.bytes_out));
    text.field("rejected_connections", traffic.connections_refused);
    text.field("expired_keys", keyspace.expired);
    // The only eviction policy is `noeviction`.
    text.field("evicted_keys", 0);
    text.field("evicted_clients", traffic.clients_evicted);
    text.field("keyspace_hits", keyspace.hits);
    text.field("keyspace_misses", keyspace.misses);
    text.field("pubsub_channels", context.subscriptions.channel_count());
    text.field("pubsub_patterns", context.subscriptions.pattern_count());
    text.field("pubsubshard_channels", context.subscriptions.shard_channel_count());
    text.field("tracking_total_keys", context.tracking.keys);
    text.field("tracking_total_items", context.tracking.items);
    text.field("tracking_total_prefixes", context.tracking.prefixes);
    text.field("total_error_replies", context.statistics.error_count());
    text.field("acl_access_denied_auth", context.acl_log.denied_logins);
    text.field("acl_access_denied_cmd", context.acl_log.denied_commands);
    text.field("acl_access_denied_key", context.acl_log.denied_keys);
    text.field("acl_access_denied_channel", context.acl_log.denied_channels);
    text.field("total_reads_processed", traffic.reads);
    text.field("total_writes_processed", traffic.writes);
}

fn cpu(text: &mut Text, Source { context, .. }: &Source<'_>) {
    let seconds = |time: std::time::Duration| format!("{:.6}", time.as_secs_f64());
    text.field("used_cpu_sys", seconds(context.cpu_system));
    text.field("used_cpu_user", seconds(context.cpu_user));
}

fn command_statistics(text: &mut Text, Source { context, table, .. }: &Source<'_>) {
    let fields = table
        .numbered()
        .filter_map(|(number, spec)| context.statistics.command(number, spec.full_name));
    text.all(fields);
}

fn error_statistics(text: &mut Text, Source { context, .. }: &Source<'_>) {
    text.all(context.statistics.errors());
}

fn latency_statistics(text: &mut Text, Source { context, table, .. }: &Source<'_>) {
    let fields = table
        .numbered()
        .filter_map(|(number, spec)| context.statistics.latency(number, spec.full_name));
    text.all(fields);
}

fn replication(text: &mut Text, Source { context, .. }: &Source<'_>) {
    if context.leads() {
        text.field("role", "master");
        let followers = || context.data_nodes().filter(|node| node.id != context.me);
        text.field("connected_slaves", followers().filter(|node| node.connected).count());
        for (number, node) in followers().enumerate() {
            let state = if node.connected { "online" } else { "wait_bgsave" };
            let offset = context.replication_offset(node);
            let lag = context.last_index.0.saturating_sub(offset);
            let facts = format!("port={},state={state},offset={offset},lag={lag}", node.port);
            text.field(&format!("slave{number}"), format_args!("ip={},{facts}", node.host));
        }
    } else {
        let leader = context.leader();
        text.field("role", "slave");
        text.field("master_host", leader.map_or("", |leader| &leader.host));
        text.field("master_port", leader.map_or(0, |leader| leader.port));
        text.field("master_link_status", if leader.is_some() { "up" } else { "down" });
        text.field("slave_repl_offset", context.applied_index);
        text.field("slave_read_only", 0);
        text.field("connected_slaves", 0);
    }
    let failover = context.transfer_target.map_or("no-failover", |_| "failover-in-progress");
    text.field("master_failover_state", failover);
    text.field("master_replid", format_args!("{:040x}", context.cluster_fingerprint));
    text.field("master_repl_offset", context.applied_index);
}

fn cluster(text: &mut Text, _source: &Source<'_>) {
    text.field("cluster_enabled", 1);
}

fn keyspace(text: &mut Text, Source { context, .. }: &Source<'_>) {
    for DatabaseSize { id, key_count, expires_count, average_expiry } in &context.databases {
        let ttl = average_expiry.unwrap_or(0).saturating_sub(context.clocks.replicated);
        let size = format_args!("keys={key_count},expires={expires_count},avg_ttl={ttl}");
        text.field(&format!("db{id}"), size);
    }
}

fn replicated_clock(text: &mut Text, clocks: &ClockStatus) {
    text.field("replicated_clock_ms", clocks.replicated);
    let signed = |millis: u64| i64::try_from(millis).unwrap_or(i64::MAX);
    match clocks.agreed {
        Some(agreed) => {
            let ahead = signed(clocks.replicated) - signed(agreed);
            text.field("replicated_clock_ahead_ms", ahead);
        }
        None => text.field("replicated_clock_ahead_ms", "unknown"),
    }
    text.field("replicated_clock_resets", clocks.resets);
    text.field("wall_clock_jumps", clocks.jumps);
    for (peer, ahead) in &clocks.peers {
        let name = format!("wall_clock_peer_{}_ahead_ms", peer.0);
        match ahead {
            Some(ahead) => text.field(&name, ahead),
            None => text.field(&name, "unknown"),
        }
    }
}

/// Returns the result of the last comparison of this replica's state with those of the others, such
/// as `equal`; `none` if there was none.
pub fn digest_result(comparison: Option<&DigestComparison>) -> &'static str {
    match comparison.map(|comparison| comparison.result) {
        None => "none",
        Some(DigestResult::Equal) => "equal",
        Some(DigestResult::Wrong) => "wrong",
        Some(DigestResult::NoMajority) => "no_majority",
    }
}

/// Writes the last comparison of this replica's state with those of the others.
fn digest_comparison(text: &mut Text, comparison: Option<&DigestComparison>) {
    let result = digest_result(comparison);
    let differing = comparison.map_or(&[][..], |comparison| &comparison.differing);
    let differing: Vec<String> = differing.iter().map(|id| id.0.to_string()).collect();
    text.field("raft_digest_check_result", result);
    text.field("raft_digest_check_index", comparison.map_or(0, |comparison| comparison.index.0));
    text.field("raft_digest_check_differing", differing.join(","));
}

fn raft(text: &mut Text, Source { context, .. }: &Source<'_>) {
    let fingerprint = context.cluster_fingerprint;
    text.field("raft_cluster_fingerprint", format_args!("{fingerprint:032x}"));
    text.field("raft_replica_id", context.me.0);
    text.field("raft_role", role_name(context.role));
    text.field("raft_term", context.term);
    match context.leader {
        Some(leader) => text.field("raft_leader_id", leader.0),
        None => text.field("raft_leader_id", "none"),
    }
    match context.transfer_target {
        Some(target) => text.field("raft_transfer_target", target.0),
        None => text.field("raft_transfer_target", "none"),
    }
    text.field("cluster_feature_level", context.members.feature_level);
    text.field("raft_member_count", context.members.configuration.members().len());
    text.field("raft_member_role", member_role(context));
    text.field("raft_witness", u8::from(context.is_witness));
    text.field("raft_replicas", context.nodes.len());
    text.field("raft_first_index", context.first_index);
    text.field("raft_last_index", context.last_index);
    text.field("raft_durable_index", context.durable_index);
    text.field("raft_commit_index", context.commit_index);
    text.field("raft_applied_index", context.applied_index);
    text.field("raft_state_digest", format_args!("{:016x}", context.state_digest));
    let marks = context.digest_marks.iter().map(|(index, digest)| format!("{index}={digest:016x}"));
    text.field("raft_digest_marks", marks.collect::<Vec<_>>().join(","));
    text.field("revision", context.history.revision);
    text.field("changes_history_start", context.history.start);
    text.field("changes_history_events", context.history.events);
    text.field("changes_history_bytes", context.history.bytes);
    digest_comparison(text, context.digest_comparison.as_ref());
    text.field("raft_snapshot_index", context.snapshot.index);
    text.field("raft_snapshot_bytes", context.snapshot.bytes);
    text.field("raft_log_syncs", context.log_syncs);
    text.field("raft_lease_reads", context.counters.lease_reads);
    text.field("raft_read_index_reads", context.counters.read_index_reads);
    text.field("raft_lagging_reads", context.lagging_reads);
    text.field("raft_leadership_transfers", context.counters.leadership_transfers);
    text.field("raft_rejoining", u8::from(context.rejoining.is_some()));
    if let Some(rejoining) = &context.rejoining {
        let ids: Vec<String> = rejoining.waiting_for.iter().map(|id| id.0.to_string()).collect();
        text.field("raft_rejoining_waiting_for", ids.join(","));
        text.field("raft_rejoining_target", rejoining.target.map_or(0, |index| index.0));
    }
    text.field("raft_terms_rejected", context.counters.terms_rejected);
    text.field("raft_conflicts_rejected", context.counters.conflicts_rejected);
    replicated_clock(text, &context.clocks);
    for node in &context.nodes {
        if let Some(index) = node.match_index {
            let link = if node.connected { "connected" } else { "disconnected" };
            let name = format!("raft_peer_{}", node.id.0);
            let (host, port) = (&node.host, node.peer_port);
            let disk = disk_name(node.disk);
            let program = node.program.as_ref().map(|program| format!(",{program}"));
            let program = program.unwrap_or_default();
            let facts =
                format!("addr={host}:{port},match_index={index},link={link},disk={disk}{program}");
            text.field(&name, facts);
        }
        if let Some(PathStatus { round_trip_us, loss_permille, resent }) = node.path {
            let name = format!("raft_path_{}", node.id.0);
            let facts =
                format!("rtt_us={round_trip_us},loss_permille={loss_permille},resent={resent}");
            text.field(&name, facts);
        }
    }
}
