//! `bowline admin check`: checks the folder of a replica that is not running, or a backup file.

use std::path::Path;
use std::process::ExitCode;

use anyhow::anyhow;
use bowline::backup::BackupSummary;
use bowline::runtime::{self, FolderReport};
use bowline::storage::cluster_fingerprint;
use serde_json::json;

use super::utc::utc;
use super::{backup, restore};
use crate::cli::serve::EXIT_DAMAGED;

/// Checks the folder or backup file at `path` and prints its contents. Returns [`EXIT_DAMAGED`] for
/// a backup that cannot be restored, and for a folder with which a replica could not start, or
/// would have to copy lost data from the other replicas.
pub(super) fn run(path: &Path, json: bool) -> anyhow::Result<ExitCode> {
    if path.is_file() || path == Path::new("-") {
        check_backup(path, json)
    } else {
        check_folder(path, json)
    }
}

fn check_backup(path: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let (name, input) = backup::open(path)?;
    let summary = match runtime::check_backup(&name, input) {
        Ok(summary) => summary,
        Err(error) => {
            if json && error.is_damage() {
                println!("{:#}", json!({ "damage": error.to_string() }));
            }
            return restore::failure(&error);
        }
    };
    if json {
        println!("{:#}", backup::description(&summary));
    } else {
        let BackupSummary { header, block_count, file_bytes, .. } = summary;
        println!(
            "backup of a cluster with the fingerprint {:032x}, up to entry {} of term {}, begun \
             {}",
            header.cluster_fingerprint,
            header.snapshot.last.index,
            header.snapshot.last.term,
            utc(header.created_at),
        );
        println!("{file_bytes} bytes in {block_count} blocks; all checksums are right");
    }
    Ok(ExitCode::SUCCESS)
}

fn check_folder(folder: &Path, json: bool) -> anyhow::Result<ExitCode> {
    match runtime::check(folder) {
        Ok(report) => {
            if json {
                println!("{:#}", as_json(&report));
            } else {
                print(&report);
            }
            Ok(match &report.damage {
                Some(damage) => {
                    eprintln!("bowline: {}", damage.what);
                    ExitCode::from(EXIT_DAMAGED)
                }
                None => ExitCode::SUCCESS,
            })
        }
        Err(error) if error.is_damage() => {
            if json {
                println!("{:#}", json!({ "damage": error.to_string() }));
            }
            eprintln!("bowline: {error}\na start with this folder would be refused");
            Ok(ExitCode::from(EXIT_DAMAGED))
        }
        Err(error) => Err(anyhow!("{error}")),
    }
}

/// Describes what a start with the folder would do, one step per string.
fn steps(report: &FolderReport) -> Vec<String> {
    let mut steps = Vec::new();
    if let Some(damage) = &report.damage {
        steps.push(format!(
            "remove what is damaged, and keep the entries up to {}: {} lost",
            damage.last_kept.index, damage.lost
        ));
    }
    steps.extend(report.repairable.iter().map(|damage| format!("repair or ignore: {damage}")));
    if let Some(snapshot) = &report.snapshot {
        steps.push(format!("load the snapshot up to entry {}", snapshot.last.index));
    }
    let log = &report.log;
    if log.has_torn_block {
        steps.push("remove an incomplete write at the end of the log".to_owned());
    }
    if !log.obsolete.is_empty() {
        steps.push(format!("remove {}", log.obsolete.join(", ")));
    }
    let end = report.snapshot.map_or(0, |snapshot| snapshot.last.index.0);
    if log.last.index.0 > end {
        steps.push(format!(
            "apply entries {} to {} as far as the leader has committed them",
            end + 1,
            log.last.index
        ));
    }
    if report.rejoining {
        steps.push(
            "rejoin the cluster: the replica does not vote until it has copied what is lost from \
             the others"
                .to_owned(),
        );
    }
    steps
}

fn print(report: &FolderReport) {
    let FolderReport { identity, members, log, snapshot, .. } = report;
    let ids: Vec<String> = members.iter().map(|id| id.0.to_string()).collect();
    println!(
        "replica {} of a cluster of replicas {}; start number {}; cluster fingerprint {:032x}",
        identity.replica.0,
        ids.join(", "),
        identity.incarnation,
        cluster_fingerprint(identity.cluster),
    );
    let vote = log.hard_state.voted_for.map_or("no replica".to_owned(), |id| id.0.to_string());
    println!("term {}, vote for {vote}", log.hard_state.term);
    println!("log: entries {} to {}, {} segments", log.first, log.last.index, log.segment_count);
    match snapshot {
        Some(snapshot) => {
            let kind = if report.is_witness { ", without data: of a witness" } else { "" };
            let (index, bytes) = (snapshot.last.index, snapshot.bytes);
            println!("snapshot: up to entry {index}, {bytes} bytes{kind}");
        }
        None => println!("snapshot: none"),
    }
    let state = if report.damage.is_some() { "damaged" } else { "all checksums are right" };
    println!("{state}; a start would:");
    for step in steps(report) {
        println!("- {step}");
    }
    println!("- serve");
}

fn as_json(report: &FolderReport) -> serde_json::Value {
    let FolderReport { identity, members, rejoining, damage, log, snapshot, .. } = report;
    let members: Vec<u16> = members.iter().map(|id| id.0).collect();
    let snapshot = snapshot.map(|it| json!({ "index": it.last.index.0, "bytes": it.bytes }));
    json!({
        "replica": identity.replica.0,
        "members": members,
        "starts": identity.incarnation,
        "cluster_fingerprint": format!("{:032x}", cluster_fingerprint(identity.cluster)),
        "rejoining": rejoining,
        "damage": damage.as_ref().map(|damage| &damage.what),
        "last_kept_index": damage.as_ref().map(|damage| damage.last_kept.index.0),
        "term": log.hard_state.term.0,
        "voted_for": log.hard_state.voted_for.map(|id| id.0),
        "first_index": log.first.0,
        "last_index": log.last.index.0,
        "segments": log.segment_count,
        "snapshot": snapshot,
        "witness": report.is_witness,
        "repairable": report.repairable,
        "steps": steps(report),
    })
}
