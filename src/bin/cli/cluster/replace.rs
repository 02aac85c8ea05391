//! Replaces a replica of a local cluster whose folder is damaged or was lost: moves the folder
//! aside and bootstraps an empty one that rejoins. Deletes nothing.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use bowline::runtime::{Bootstrap, Folder, bootstrap, inspect};
use bowline::types::NodeId;

use super::Arguments;
use super::folder::{self, members};
use crate::cli::settings::REJOIN_MEMBERS_MIN;

/// Why a replica can't start with its folder.
enum Trouble {
    /// The folder is damaged or missing.
    Damage(String),
    /// It is not what this cluster's replica should have.
    Other(String),
    /// It can, but has been replaced and rejoins.
    Rejoining,
}

/// Why a cluster of so few replicas can't replace one, if it can't.
pub(super) fn impossible(replicas: u16) -> Option<String> {
    (usize::from(replicas) < REJOIN_MEMBERS_MIN).then(|| {
        format!(
            "a cluster of {replicas} can't replace a replica: the others must elect a leader \
             without it; bring its own folder back as it was, or make a new cluster from a backup"
        )
    })
}

/// Replaces replica `id`, of a cluster none of whose replicas runs.
pub(super) fn replace(arguments: &Arguments, cluster: u128, id: u16) -> anyhow::Result<()> {
    let replicas = arguments.replicas;
    ensure!(
        (1..=replicas).contains(&id),
        "--replace {id}: the cluster has the replicas 1 to {replicas}"
    );
    if let Some(why) = impossible(replicas) {
        bail!("--replace {id}: {why}");
    }
    let mut trouble = None;
    for other in 1..=replicas {
        let found = look(&arguments.dir, cluster, other, replicas)?;
        if other == id {
            trouble = found;
            continue;
        }
        match found {
            None => {}
            Some(Trouble::Rejoining) => bail!(
                "--replace {id}: replica {other} still rejoins, and one at a time can; start \
                 without --replace until its log says that it has rejoined"
            ),
            Some(Trouble::Damage(why) | Trouble::Other(why)) => bail!(
                "--replace {id}: replica {other} is broken too ({why}). A replica can only be \
                 replaced while all others run, for what two have forgotten nobody else may know: \
                 bring one of the two folders back as it was"
            ),
        }
    }
    let own = folder::replica(&arguments.dir, id);
    match trouble {
        Some(Trouble::Damage(why)) => println!("replica {id} is replaced: {why}"),
        _ if arguments.force => println!("replica {id} is replaced, as --force says"),
        Some(Trouble::Other(why)) => {
            bail!(
                "--replace {id}: its folder is not damaged: {why}. --force replaces it all the same"
            )
        }
        Some(Trouble::Rejoining) => {
            bail!("--replace {id}: it has been replaced and rejoins; start without --replace")
        }
        None => bail!(
            "--replace {id}: {} is whole, so there is nothing to replace; start without \
             --replace. If the other replicas refuse it, because it is an older copy, add --force",
            own.display()
        ),
    }
    let rights = || format!("can't move {} aside; look at its rights", own.display());
    if own.exists() {
        let aside = free_name(&own);
        fs::rename(&own, &aside).with_context(rights)?;
        fs::File::open(&arguments.dir).and_then(|folder| folder.sync_all()).with_context(rights)?;
        println!("its folder was moved to {}; delete that when all is well", aside.display());
    }
    let made = bootstrap(&own, cluster, NodeId(id), &members(replicas), Bootstrap::Rejoin);
    // Its sentence holds what lies behind it already.
    made.map_err(|error| anyhow::anyhow!("{error}"))
}

/// What is wrong with a replica's folder.
///
/// # Errors
/// If the replica runs.
fn look(dir: &Path, cluster: u128, id: u16, replicas: u16) -> anyhow::Result<Option<Trouble>> {
    let own = folder::replica(dir, id);
    if !own.exists() {
        return Ok(Some(Trouble::Damage(format!("its folder {} is missing", own.display()))));
    }
    match inspect(&own, cluster, NodeId(id), &members(replicas)) {
        Ok(Folder::Whole) => Ok(None),
        Ok(Folder::Rejoining) => Ok(Some(Trouble::Rejoining)),
        Err(error) if error.is_locked() => bail!(
            "replica {id} is running: stop the cluster first, with Ctrl-C where it was started"
        ),
        Err(error) if error.is_damage() => Ok(Some(Trouble::Damage(error.to_string()))),
        Err(error) => Ok(Some(Trouble::Other(error.to_string()))),
    }
}

/// The first of `replica-2.broken-1`, `replica-2.broken-2`, .. that is not taken.
fn free_name(own: &Path) -> PathBuf {
    let name = own.file_name().and_then(OsStr::to_str).expect("replica-ID");
    let names = (1_u32..).map(|number| own.with_file_name(format!("{name}.broken-{number}")));
    names.into_iter().find(|path| !path.exists()).expect("numbers do not run out")
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
        let words = ["bowline", "--dir", dir, "--replicas", &replicas.to_string()];
        Program::parse_from(words).arguments
    }

    fn refusal(arguments: &Arguments, cluster: u128, id: u16) -> String {
        format!("{:#}", replace(arguments, cluster, id).expect_err("it must be refused"))
    }

    #[test]
    fn damaged_folder_is_moved_aside_and_a_healthy_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut arguments = arguments(dir.path(), 3);
        let cluster = folder::prepare(dir.path(), 3).unwrap();
        assert!(refusal(&arguments, cluster, 4).contains("the replicas 1 to 3"));
        assert!(refusal(&arguments, cluster, 2).contains("nothing to replace"));
        let own = folder::replica(dir.path(), 2);
        let marker = fs::read(own.join("meta")).unwrap()[..100].to_vec();
        fs::write(own.join("meta"), &marker).unwrap();
        replace(&arguments, cluster, 2).unwrap();
        let aside = dir.path().join("replica-2.broken-1");
        assert_eq!(fs::read(aside.join("meta")).unwrap(), marker);
        assert!(refusal(&arguments, cluster, 2).contains("it has been replaced and rejoins"));
        assert!(refusal(&arguments, cluster, 1).contains("replica 2 still rejoins"));
        arguments.force = true;
        replace(&arguments, cluster, 2).unwrap();
        assert!(dir.path().join("replica-2.broken-2").exists());
        // A replica that is missing needs no --force.
        arguments.force = false;
        fs::remove_dir_all(&own).unwrap();
        replace(&arguments, cluster, 2).unwrap();
        assert!(own.join("meta").exists());
        assert!(!dir.path().join("replica-2.broken-3").exists());
        // Only one at a time.
        fs::remove_dir_all(&own).unwrap();
        fs::remove_dir_all(folder::replica(dir.path(), 3)).unwrap();
        assert!(refusal(&arguments, cluster, 2).contains("replica 3 is broken too"));
        assert!(!own.exists());
    }

    #[test]
    fn replica_of_a_cluster_of_two_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let arguments = arguments(dir.path(), 2);
        let cluster = folder::prepare(dir.path(), 2).unwrap();
        fs::remove_dir_all(folder::replica(dir.path(), 2)).unwrap();
        assert!(refusal(&arguments, cluster, 2).contains("a cluster of 2 can't replace"));
        assert!(!folder::replica(dir.path(), 2).exists());
    }

    #[test]
    fn running_replica_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let arguments = arguments(dir.path(), 3);
        let cluster = folder::prepare(dir.path(), 3).unwrap();
        let disk = bowline::storage::RealDisk::open(&folder::replica(dir.path(), 1)).unwrap();
        fs::remove_dir_all(folder::replica(dir.path(), 2)).unwrap();
        assert!(refusal(&arguments, cluster, 2).contains("replica 1 is running"));
        drop(disk);
        replace(&arguments, cluster, 2).unwrap();
    }
}
