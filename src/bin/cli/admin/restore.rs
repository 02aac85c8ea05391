//! `bowline admin restore`: creates the folder of a replica of a new cluster from a backup.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::anyhow;
use bowline::runtime::{self, LoadedBackup, RestoreError};
use bowline::storage::cluster_fingerprint;
use serde_json::json;

use super::backup;
use crate::cli::options::NewMember;
use crate::cli::serve::EXIT_DAMAGED;
use crate::cli::settings::MemberArguments;

/// Command-line arguments of `bowline admin restore`.
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    /// The backup file; `-` reads it from standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Data folder of the restored replica, which must be empty or not exist [default:
    /// bowline-data/replica-ID].
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    member: MemberArguments,
}

/// Creates the folder of a replica of a new cluster from the backup. Returns [`EXIT_DAMAGED`] if
/// the backup is damaged.
pub(super) fn run(arguments: &Arguments, json: bool) -> anyhow::Result<ExitCode> {
    let Arguments { file, dir, member } = arguments;
    let member = member.resolve(dir.as_deref())?;
    let (name, input) = backup::open(file)?;
    let restored = runtime::check_empty(&member.folder)
        .and_then(|()| runtime::load_backup(&name, input))
        .and_then(|backup| {
            restore(&backup, &member, &member.folder).map(|cluster| (backup, cluster))
        });
    match restored {
        Ok((backup, cluster)) => {
            report(&backup, &member, cluster, json);
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => failure(&error),
    }
}

/// Creates the folder `folder` of a replica of a new cluster from a backup. Returns the id of the
/// cluster.
pub(super) fn restore(
    backup: &LoadedBackup,
    member: &NewMember,
    folder: &Path,
) -> Result<u128, RestoreError> {
    let cluster = member.cluster_id_for(&backup.summary);
    runtime::restore(backup, folder, cluster, member.id, &member.members)?;
    Ok(cluster)
}

/// Prints an error that means damage, and returns [`EXIT_DAMAGED`]. Returns other errors.
pub(super) fn failure(error: &RestoreError) -> anyhow::Result<ExitCode> {
    if error.is_damage() {
        eprintln!("bowline: {error}");
        return Ok(ExitCode::from(EXIT_DAMAGED));
    }
    // The message already includes the source.
    Err(anyhow!("{error}"))
}

pub(super) fn report(backup: &LoadedBackup, member: &NewMember, cluster: u128, json: bool) {
    let NewMember { id, folder, .. } = member;
    let (keys, last) = (backup.key_count(), backup.last());
    let fingerprint = format!("{:032x}", cluster_fingerprint(cluster));
    if json {
        let members: Vec<u16> = member.members.iter().map(|id| id.0).collect();
        let document = json!({
            "replica": id.0,
            "members": members,
            "folder": folder.display().to_string(),
            "backup": backup::description(&backup.summary),
            "keys": keys,
            "index": last.index.0,
            "cluster_fingerprint": fingerprint,
        });
        println!("{document:#}");
        return;
    }
    println!(
        "replica {} of a new cluster: {} restored with {keys} keys, up to entry {} of the old \
         cluster, which is entry {} of the new one; cluster fingerprint {fingerprint}",
        id.0,
        folder.display(),
        backup.summary.header.snapshot.last.index,
        last.index,
    );
    println!("restore the other replicas from the same backup, then start all without --bootstrap");
}
