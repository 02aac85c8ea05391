//! Replaces a replica of a local cluster if its folder is damaged or lost: moves the folder aside
//! and creates an empty one with which the replica rejoins. Deletes nothing.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use bowline::runtime::{Bootstrap, FolderState, bootstrap, inspect};
use bowline::types::NodeId;

use super::Arguments;
use super::folder::{self, members};
use crate::cli::options::REJOIN_MEMBERS_MIN;

/// Problem with a replica's data folder: the reason why the replica cannot start, or does not vote
/// in the cluster yet.
enum Problem {
    /// The replica's folder is damaged beyond repair or missing, as the given error message says.
    Damage(String),
    /// The replica's folder is damaged, as the given error message says, and the next start repairs
    /// it.
    Repairable(String),
    /// The replica cannot start for another reason, which the given error message states, for
    /// example because its folder belongs to another cluster.
    Other(String),
    /// The replica was replaced, and does not vote because it has not caught up with the leader
    /// yet.
    Rejoining,
}

/// Returns the reason why no replica can be replaced in a cluster of `replicas` replicas; `None` if
/// replacing is possible.
pub(super) fn impossible(replicas: u16) -> Option<String> {
    (usize::from(replicas) < REJOIN_MEMBERS_MIN).then(|| {
        format!(
            "a cluster of {replicas} cannot replace a replica, because the others must elect a \
             leader without it; restore its folder as it was, or create a new cluster from a backup"
        )
    })
}

/// Replaces replica `id`: renames its data folder and creates an empty one, with which the replica
/// rejoins the cluster. Fails if any replica of the cluster is running, or if another replica is
/// damaged or rejoining.
pub(super) fn replace(arguments: &Arguments, cluster: u128, id: u16) -> anyhow::Result<()> {
    let replicas = arguments.replicas;
    ensure!(
        (1..=replicas).contains(&id),
        "--replace {id}: there is no such replica; the cluster has replicas 1 to {replicas}"
    );
    if let Some(reason) = impossible(replicas) {
        bail!("--replace {id}: {reason}");
    }
    let mut problem = None;
    for other in 1..=replicas {
        let found = check(&arguments.dir, cluster, other, replicas)?;
        if other == id {
            problem = found;
            continue;
        }
        match found {
            None => {}
            Some(Problem::Rejoining) => bail!(
                "--replace {id}: replica {other} is still rejoining, and only one replica can \
                 rejoin at a time; start without --replace and wait until the log of replica \
                 {other} says \"rejoined\""
            ),
            Some(Problem::Repairable(reason)) => bail!(
                "--replace {id}: the folder of replica {other} is damaged ({reason}), and only one \
                 replica can rejoin at a time; start without --replace and wait until the log of \
                 replica {other} says \"rejoined\""
            ),
            Some(Problem::Damage(reason) | Problem::Other(reason)) => bail!(
                "--replace {id}: replica {other} cannot start either ({reason}). A replica can be \
                 replaced only while all others run, since writes known to those two alone would \
                 be lost; restore one of the two folders as it was"
            ),
        }
    }
    let own = folder::replica(&arguments.dir, id);
    match problem {
        Some(Problem::Damage(reason)) => println!("replacing replica {id}: {reason}"),
        Some(Problem::Repairable(reason)) if !arguments.force => bail!(
            "--replace {id}: the folder of replica {id} is damaged ({reason}), but the replica \
             repairs it at its next start; start without --replace, or add --force to replace it \
             anyway"
        ),
        _ if arguments.force => println!("replacing replica {id} because of --force"),
        Some(Problem::Other(reason)) => {
            bail!(
                "--replace {id}: replica {id} cannot start ({reason}), but its folder is not \
                 damaged; add --force to replace it anyway"
            )
        }
        Some(Problem::Rejoining | Problem::Repairable(_)) => {
            bail!(
                "--replace {id}: replica {id} was replaced already and is rejoining; start without \
                 --replace"
            )
        }
        None => bail!(
            "--replace {id}: the folder {} is undamaged, so replica {id} need not be replaced; \
             start without --replace. If the other replicas refuse it because its folder is an \
             older copy, add --force",
            own.display()
        ),
    }
    let cannot_move = || format!("cannot move {} aside; check its permissions", own.display());
    if own.exists() {
        let aside = unused_name(&own);
        fs::rename(&own, &aside).with_context(cannot_move)?;
        fs::File::open(&arguments.dir)
            .and_then(|folder| folder.sync_all())
            .with_context(cannot_move)?;
        println!(
            "moved the folder of replica {id} to {}; delete it once the replica has rejoined",
            aside.display()
        );
    }
    let created = bootstrap(&own, cluster, NodeId(id), &members(replicas), Bootstrap::Rejoin);
    // The error's text already includes its source.
    created.map_err(|error| anyhow::anyhow!("{error}"))
}

/// Checks the data folder of replica `id`. Returns the problem that keeps the replica from starting
/// as a full member; `None` if there is none.
///
/// # Errors
/// If the replica is running.
fn check(dir: &Path, cluster: u128, id: u16, replicas: u16) -> anyhow::Result<Option<Problem>> {
    let own = folder::replica(dir, id);
    if !own.exists() {
        return Ok(Some(Problem::Damage(format!("its folder {} is missing", own.display()))));
    }
    match inspect(&own, cluster, NodeId(id), &members(replicas)) {
        Ok(FolderState::Intact) => Ok(None),
        Ok(FolderState::Rejoining) => Ok(Some(Problem::Rejoining)),
        Ok(FolderState::Damaged(what)) => Ok(Some(Problem::Repairable(what))),
        Err(error) if error.is_locked() => {
            bail!("replica {id} is running; stop the cluster first, with Ctrl-C in its terminal")
        }
        Err(error) if error.is_damage() => Ok(Some(Problem::Damage(error.to_string()))),
        Err(error) => Ok(Some(Problem::Other(error.to_string()))),
    }
}

/// Returns an unused path to which the data folder `own` can be renamed. For `replica-2` it is the
/// first of `replica-2.broken-1`, `replica-2.broken-2` and so on that does not exist.
fn unused_name(own: &Path) -> PathBuf {
    let name = own.file_name().and_then(OsStr::to_str).expect("replica-ID");
    let names = (1_u32..).map(|number| own.with_file_name(format!("{name}.broken-{number}")));
    names.into_iter().find(|path| !path.exists()).expect("a number is unused")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(dir: &Path, replicas: u16) -> Arguments {
        use clap::Parser as _;
        #[derive(clap::Parser)]
        struct Program {
            #[command(flatten)]
            arguments: Arguments,
        }
        let dir = dir.to_str().unwrap();
        let replicas = replicas.to_string();
        Program::parse_from(["bowline", "--dir", dir, "--replicas", &replicas]).arguments
    }

    fn refusal(arguments: &Arguments, cluster: u128, id: u16) -> String {
        format!("{:#}", replace(arguments, cluster, id).expect_err("it is refused"))
    }

    #[test]
    fn replica_replacement_moves_aside_only_a_damaged_data_folder() {
        let dir = tempfile::tempdir().unwrap();
        let mut arguments = arguments(dir.path(), 3);
        let cluster = folder::open_or_create(dir.path(), 3).unwrap();
        assert!(refusal(&arguments, cluster, 4).contains("replicas 1 to 3"));
        assert!(refusal(&arguments, cluster, 2).contains("need not be replaced"));
        let own = folder::replica(dir.path(), 2);
        let marker = fs::read(own.join("meta")).unwrap()[..100].to_vec();
        fs::write(own.join("meta"), &marker).unwrap();
        replace(&arguments, cluster, 2).unwrap();
        let aside = dir.path().join("replica-2.broken-1");
        assert_eq!(fs::read(aside.join("meta")).unwrap(), marker);
        assert!(refusal(&arguments, cluster, 2).contains("was replaced already"));
        assert!(refusal(&arguments, cluster, 1).contains("replica 2 is still rejoining"));
        arguments.force = true;
        replace(&arguments, cluster, 2).unwrap();
        assert!(dir.path().join("replica-2.broken-2").exists());
        // A missing folder needs no --force.
        arguments.force = false;
        fs::remove_dir_all(&own).unwrap();
        replace(&arguments, cluster, 2).unwrap();
        assert!(own.join("meta").exists());
        assert!(!dir.path().join("replica-2.broken-3").exists());
        // Only one replica can be replaced at a time.
        fs::remove_dir_all(&own).unwrap();
        fs::remove_dir_all(folder::replica(dir.path(), 3)).unwrap();
        assert!(refusal(&arguments, cluster, 2).contains("replica 3 cannot start either"));
        assert!(!own.exists());
    }

    #[test]
    fn two_replica_cluster_cannot_replace_a_replica() {
        let dir = tempfile::tempdir().unwrap();
        let arguments = arguments(dir.path(), 2);
        let cluster = folder::open_or_create(dir.path(), 2).unwrap();
        fs::remove_dir_all(folder::replica(dir.path(), 2)).unwrap();
        assert!(refusal(&arguments, cluster, 2).contains("a cluster of 2 cannot replace"));
        assert!(!folder::replica(dir.path(), 2).exists());
    }

    #[test]
    fn replica_replacement_is_refused_while_another_replica_runs() {
        let dir = tempfile::tempdir().unwrap();
        let arguments = arguments(dir.path(), 3);
        let cluster = folder::open_or_create(dir.path(), 3).unwrap();
        let disk = bowline::storage::RealDisk::open(&folder::replica(dir.path(), 1)).unwrap();
        fs::remove_dir_all(folder::replica(dir.path(), 2)).unwrap();
        assert!(refusal(&arguments, cluster, 2).contains("replica 1 is running"));
        drop(disk);
        replace(&arguments, cluster, 2).unwrap();
    }
}
