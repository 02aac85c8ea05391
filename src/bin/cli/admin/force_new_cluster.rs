//! `bowline admin force-new-cluster`: creates a new cluster from the folder of a replica whose
//! cluster has permanently lost a majority.
//!
//! It writes the folder's state to a backup, `FOLDER.backup`, restores a new folder from it, and
//! swaps it with the old folder, which is renamed. The other replicas of the new cluster are
//! restored from the same backup.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use bowline::runtime::{self, Survivor};
use bowline::types::NodeId;
use serde_json::json;

use super::atomic_file::{AtomicFile, sync_parent, with_suffix};
use super::utc::utc;
use super::{EXIT_FAILED, backup, restore};
use crate::cli::options::NewMember;
use crate::cli::settings::MemberArguments;

/// Command-line arguments of `bowline admin force-new-cluster`.
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    /// The data folder of the replica.
    folder: PathBuf,
    #[command(flatten)]
    member: MemberArguments,
    /// Create the new cluster. Without this flag, only print the consequences.
    #[arg(long)]
    yes: bool,
}

/// Creates a new cluster from a replica's folder; without `--yes`, only prints the consequences.
pub(super) fn run(arguments: &Arguments, json: bool) -> anyhow::Result<ExitCode> {
    let Arguments { folder, member, yes } = arguments;
    let member = member.resolve(Some(folder))?;
    let survivor = match Survivor::read(folder) {
        Ok(survivor) => survivor,
        Err(error) => return restore::failure(&error),
    };
    let owner = survivor.identity.replica;
    ensure!(
        owner == member.id,
        "{} is the folder of replica {}, not of replica {}; check the folder and --id",
        folder.display(),
        owner.0,
        member.id.0
    );
    let text = consequences(&survivor, &member).join("\n");
    if json {
        eprintln!("{text}");
    } else {
        println!("{text}");
    }
    if !yes {
        if json {
            println!("{:#}", json!({ "changed": false, "last_index": survivor.last.index.0 }));
        }
        eprintln!("bowline: nothing was changed; to make the new cluster, add --yes");
        return Ok(ExitCode::from(EXIT_FAILED));
    }
    make(survivor, &member, json)
}

/// Describes the contents of the folder and the consequences of creating a new cluster from it, one
/// sentence per line.
fn consequences(survivor: &Survivor, member: &NewMember) -> Vec<String> {
    let Survivor { identity, members, rejoining, committed, last, .. } = survivor;
    let list = |ids: &[NodeId]| {
        let ids: Vec<String> = ids.iter().map(|id| id.0.to_string()).collect();
        ids.join(", ")
    };
    let time = survivor.clock().map_or("unknown".to_owned(), utc);
    let mut lines = vec![
        format!(
            "replica {} of a cluster of replicas {}: {} keys",
            identity.replica.0,
            list(members),
            survivor.key_count()
        ),
        format!("last entry {} of term {}; replicated clock: {time}", last.index, last.term),
        format!("a new cluster of replicas {} begins with this state:", list(&member.members)),
        format!(
            "- may be lost: writes after entry {}, which other replicas may have acknowledged",
            last.index
        ),
    ];
    if last.index > *committed {
        lines.push(format!(
            "- may appear: writes in entries {} to {}, some of which may never have been \
             acknowledged, or were reported as UNCERTAIN",
            committed.next(),
            last.index
        ));
    }
    if *rejoining {
        lines.push(
            "- the replica was rejoining: its folder may lack entries that it acknowledged \
             before, so use another replica's folder if there is one"
                .to_owned(),
        );
    }
    lines.push(
        "- the other replicas of the old cluster must never run again: their clients would see \
         another history"
            .to_owned(),
    );
    lines
}

/// Creates the new cluster: writes the backup, restores a new folder from it, and renames the old
/// folder.
fn make(survivor: Survivor, member: &NewMember, json: bool) -> anyhow::Result<ExitCode> {
    let folder = &member.folder;
    let (file, new) = (with_suffix(folder, ".backup"), with_suffix(folder, ".new"));
    if let Err(error) = runtime::check_empty(&new) {
        return restore::failure(&error);
    }
    let created_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let created_at = u64::try_from(created_at.as_millis()).unwrap_or(u64::MAX);
    let (output, writer) = AtomicFile::create(&file)?;
    let writer = survivor.write_backup(writer, created_at).context("cannot write the backup")?;
    output.commit(writer)?;
    let survivor = survivor.keep_locked();
    let (name, input) = backup::open(&file)?;
    let restored = runtime::load_backup(&name, input).and_then(|backup| {
        let cluster = restore::restore(&backup, member, &new)?;
        Ok((backup, cluster))
    });
    let (backup, cluster) = match restored {
        Ok(restored) => restored,
        Err(error) => return restore::failure(&error),
    };
    let aside = (1..).map(|number| with_suffix(folder, &format!(".before-{number}")));
    let aside = aside.into_iter().find(|path| !path.exists()).expect("numbers do not end");
    replace(folder, &new, &aside)?;
    drop(survivor);
    if !json {
        println!("old folder: {}; backup: {}", aside.display(), file.display());
    }
    restore::report(&backup, member, cluster, json);
    Ok(ExitCode::SUCCESS)
}

/// Renames `folder` to `aside`, and `new` to `folder`.
fn replace(folder: &Path, new: &Path, aside: &Path) -> anyhow::Result<()> {
    let (name, new_name, aside_name) = (folder.display(), new.display(), aside.display());
    fs::rename(folder, aside).with_context(|| {
        format!("cannot move {name} to {aside_name}; the new folder is {new_name}")
    })?;
    fs::rename(new, folder).with_context(|| {
        format!("cannot move {new_name} to {name}; the old folder is {aside_name}: move it by hand")
    })?;
    sync_parent(folder)
}
