//! The folder of a local cluster. The first start creates it, with a folder for each replica and
//! the file `cluster.toml`. If a replica's folder is missing at a later start, it is not created
//! again, because the replica has lost what it acknowledged; see `replace.rs`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use bowline::runtime::{Bootstrap, bootstrap};
use bowline::storage::make_folder;
use bowline::types::NodeId;

/// Name of the file in the local cluster's folder that records the cluster's id, the number of
/// replicas, and whether the folders of all replicas have been created.
const CLUSTER_FILE: &str = "cluster.toml";

/// Returns the path of the data folder of replica `id`, inside the cluster's folder.
pub(super) fn replica(folder: &Path, id: u16) -> PathBuf {
    folder.join(format!("replica-{id}"))
}

/// Returns the ids of all replicas of a local cluster: 1 to `replicas`.
pub(super) fn members(replicas: u16) -> Vec<NodeId> {
    (1..=replicas).map(NodeId).collect()
}

/// Returns whether `folder` contains a cluster, that is, whether `cluster.toml` exists.
pub(super) fn exists(folder: &Path) -> bool {
    folder.join(CLUSTER_FILE).exists()
}

/// Opens the local cluster in `folder` and returns its id. If there is none, first creates the
/// cluster and the folders of all replicas. Fails if an existing cluster has a number of replicas
/// other than `replicas`.
pub(super) fn open_or_create(folder: &Path, replicas: u16) -> anyhow::Result<u128> {
    let cannot_use =
        || format!("cannot use the folder {}; check its permissions", folder.display());
    // The error's text already includes its source.
    make_folder(folder).map_err(|error| anyhow::anyhow!("{error}"))?;
    let file = folder.join(CLUSTER_FILE);
    if !file.exists() {
        write(&file, random_id(), replicas, false).with_context(cannot_use)?;
    }
    let (cluster, created_for, ready) = read(&file)?;
    ensure!(
        created_for == replicas,
        "{} holds a cluster of {created_for} replicas; start it with --replicas {created_for}, or \
         choose another folder with --dir",
        folder.display()
    );
    if !ready {
        // No replica has run yet: existing folders were left by a start that was interrupted.
        for id in 1..=replicas {
            let own = replica(folder, id);
            if own.exists() {
                fs::remove_dir_all(&own).with_context(cannot_use)?;
            }
            let created = bootstrap(&own, cluster, NodeId(id), &members(replicas), Bootstrap::New);
            created.map_err(|error| anyhow::anyhow!("{error}"))?;
        }
        write(&file, cluster, replicas, true).with_context(cannot_use)?;
    }
    Ok(cluster)
}

fn write(path: &Path, cluster: u128, replicas: u16, ready: bool) -> std::io::Result<()> {
    let text = format!("cluster = \"{cluster:032x}\"\nreplicas = {replicas}\nready = {ready}\n");
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::File::open(&new)?.sync_all()?;
    fs::rename(new, path)?;
    // Without this sync, a power failure could bring back the file with `ready = false`, and the
    // next start would delete what the replicas have acknowledged since then.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Reads `cluster.toml`. Returns the cluster's id, its number of replicas, and whether the folders
/// of all replicas have been created.
fn read(path: &Path) -> anyhow::Result<(u128, u16, bool)> {
    let text = fs::read_to_string(path).with_context(|| {
        format!(
            "cannot read {}, which describes the cluster; check its permissions",
            path.display()
        )
    })?;
    let table: Option<toml::Table> = text.parse().ok();
    let parse = |table: &toml::Table| {
        let cluster = u128::from_str_radix(table.get("cluster")?.as_str()?, 16).ok()?;
        let replicas = u16::try_from(table.get("replicas")?.as_integer()?).ok()?;
        Some((cluster, replicas, table.get("ready")?.as_bool()?))
    };
    match table.as_ref().and_then(parse) {
        Some(parsed) => Ok(parsed),
        None => {
            bail!(
                "{}, which describes the cluster, is damaged; restore it, or choose another folder \
                 with --dir",
                path.display()
            )
        }
    }
}

/// Returns a random id for a new cluster. The operating system provides the randomness.
fn random_id() -> u128 {
    use std::hash::{BuildHasher as _, RandomState};
    let half = |salt: u8| u128::from(RandomState::new().hash_one(salt));
    half(1) << 64 | half(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_cluster_is_created_once_with_a_fixed_replica_count() {
        let folder = tempfile::tempdir().unwrap();
        let cluster = open_or_create(folder.path(), 2).unwrap();
        assert_eq!(open_or_create(folder.path(), 2).unwrap(), cluster);
        let error = open_or_create(folder.path(), 3).unwrap_err();
        assert!(error.to_string().contains("--replicas 2"), "{error}");
        fs::remove_dir_all(replica(folder.path(), 1)).unwrap();
        open_or_create(folder.path(), 2).unwrap();
        assert!(!replica(folder.path(), 1).exists(), "a lost replica was created again");
    }

    #[test]
    fn interrupted_cluster_creation_is_completed_at_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(CLUSTER_FILE);
        write(&file, 5, 2, false).unwrap();
        fs::create_dir(replica(folder.path(), 1)).unwrap();
        fs::write(replica(folder.path(), 1).join("half"), "x").unwrap();
        assert_eq!(open_or_create(folder.path(), 2).unwrap(), 5);
        assert_eq!(read(&file).unwrap(), (5, 2, true));
    }

    #[test]
    fn damaged_local_cluster_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(CLUSTER_FILE), "cluster = 3").unwrap();
        assert!(open_or_create(folder.path(), 2).unwrap_err().to_string().contains("damaged"));
    }
}
