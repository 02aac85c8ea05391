//! `bowline admin status`: a table of all replicas.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::EXIT_FAILED;
use super::replicas::{Info, Replica, Replicas};
use crate::cli::table;

/// The columns of the table. Those from `MATCH` to `LOSS` are the leader's view of a follower.
const COLUMNS: [&str; 14] = [
    "ID", "ADDRESS", "ROLE", "TERM", "LAST", "COMMIT", "APPLIED", "MATCH", "RTT", "LOSS", "DISK",
    "SNAPSHOT", "VERSION", "LEVEL",
];

/// Prints the state of all replicas. Returns an exit code other than 0 if there is no leader.
pub(super) fn run(address: &str, json: bool) -> anyhow::Result<ExitCode> {
    let replicas = Replicas::ask(address)?;
    let leader = replicas.leader();
    if json {
        let rows: Vec<Value> = replicas.list.iter().map(|it| as_json(it, leader)).collect();
        let leader_id = leader.map(|leader| leader.id);
        let members = replicas.member_count;
        let level = cluster_level(&replicas);
        let document = json!({
            "leader": leader_id,
            "members": members,
            "feature_level": level,
            "replicas": rows,
        });
        println!("{document:#}");
    } else {
        let rows: Vec<Vec<String>> = replicas.list.iter().map(|it| row(it, leader)).collect();
        println!("{}", table::aligned(&COLUMNS, &rows));
        if let Some(level) = cluster_level(&replicas) {
            println!("feature level of the cluster: {level}");
        }
        for replica in &replicas.list {
            if let Err(reason) = &replica.info {
                println!("replica {}: {reason}", replica.id);
            }
        }
        if let Some(comparison) = leader.and_then(|leader| leader.info.as_ref().ok()?.comparison())
        {
            println!("{comparison}");
        }
        let unknown = replicas.member_count - replicas.list.len();
        if unknown > 0 {
            println!("other members that none of these replicas has heard from: {unknown}");
        }
    }
    if let Err(error) = replicas.leader_or_error() {
        eprintln!("bowline: {error:#}");
        return Ok(ExitCode::from(EXIT_FAILED));
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the cluster's feature level: the highest level that a replica reports; `None` if none
/// does.
pub(in crate::cli) fn cluster_level(replicas: &Replicas) -> Option<u64> {
    let infos = replicas.list.iter().filter_map(|replica| replica.info.as_ref().ok());
    infos.filter_map(|info| info.number("cluster_feature_level")).max()
}

/// Returns a field of the leader's `INFO` about a follower: `part` of `raft_peer_N` or
/// `raft_path_N`.
fn by_leader<'l>(
    leader: Option<&'l Replica>,
    replica: &Replica,
    field: &str,
    part: &str,
) -> Option<&'l str> {
    let leader = leader.filter(|leader| leader.id != replica.id)?;
    leader.info.as_ref().ok()?.part(&format!("{field}_{}", replica.id), part)
}

fn row(replica: &Replica, leader: Option<&Replica>) -> Vec<String> {
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<f64>().ok());
    let of_leader = |field, part| by_leader(leader, replica, field, part);
    let own = |name| match &replica.info {
        Ok(info) => info.text(name).unwrap_or("-").to_owned(),
        Err(_) => "-".to_owned(),
    };
    let round_trip = number(of_leader("raft_path", "rtt_us"));
    let loss = number(of_leader("raft_path", "loss_permille"));
    vec![
        replica.id.to_string(),
        replica.address.clone(),
        replica.info.as_ref().map_or("unreachable", Info::role).to_owned(),
        own("raft_term"),
        own("raft_last_index"),
        own("raft_commit_index"),
        own("raft_applied_index"),
        of_leader("raft_peer", "match_index").unwrap_or("-").to_owned(),
        round_trip.map_or("-".to_owned(), |micros| format!("{:.1} ms", micros / 1_000.0)),
        loss.map_or("-".to_owned(), |permille| format!("{:.1} %", permille / 10.0)),
        own("disk_state"),
        own("raft_snapshot_index"),
        own("bowline_version"),
        own("bowline_feature_level"),
    ]
}

fn as_json(replica: &Replica, leader: Option<&Replica>) -> Value {
    let mut object = json!({ "id": replica.id, "address": replica.address });
    let info = match &replica.info {
        Ok(info) => info,
        Err(reason) => {
            object["error"] = json!(reason);
            return object;
        }
    };
    object["role"] = json!(info.role());
    for (name, field) in [
        ("term", "raft_term"),
        ("last_index", "raft_last_index"),
        ("durable_index", "raft_durable_index"),
        ("commit_index", "raft_commit_index"),
        ("applied_index", "raft_applied_index"),
        ("snapshot_index", "raft_snapshot_index"),
        ("digest_check_index", "raft_digest_check_index"),
        ("disk_free_bytes", "disk_free_bytes"),
        ("feature_level", "bowline_feature_level"),
    ] {
        object[name] = json!(info.number(field));
    }
    for (name, field) in [
        ("disk", "disk_state"),
        ("version", "bowline_version"),
        ("digest_check_result", "raft_digest_check_result"),
    ] {
        object[name] = json!(info.text(field));
    }
    for (name, field, part) in [
        ("match_index", "raft_peer", "match_index"),
        ("rtt_us", "raft_path", "rtt_us"),
        ("loss_permille", "raft_path", "loss_permille"),
    ] {
        let value = by_leader(leader, replica, field, part);
        object[name] = json!(value.and_then(|text| text.parse::<u64>().ok()));
    }
    object
}
