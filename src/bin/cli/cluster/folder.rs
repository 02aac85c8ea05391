//! The folder of a local cluster: made once, with a folder for each replica and a note that says
//! whose they are. A replica's folder that has gone missing is not made again by a mere start: a
//! replica without its disk has forgotten what it acknowledged (`replace.rs`).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use bowline::runtime::{Bootstrap, bootstrap};
use bowline::storage::make_folder;
use bowline::types::NodeId;

/// The note.
const NOTE: &str = "cluster.toml";

/// Where a replica keeps its log.
pub(super) fn replica(folder: &Path, id: u16) -> PathBuf {
    folder.join(format!("replica-{id}"))
}

/// The ids of the replicas.
pub(super) fn members(replicas: u16) -> Vec<NodeId> {
    (1..=replicas).map(NodeId).collect()
}

/// Whether a cluster has been made in this folder.
pub(super) fn is_made(folder: &Path) -> bool {
    folder.join(NOTE).exists()
}

/// Makes everything at the first start. Gives the cluster's id.
pub(super) fn prepare(folder: &Path, replicas: u16) -> anyhow::Result<u128> {
    let trouble = || format!("can't use the folder {}; look at its rights", folder.display());
    // Its sentence holds what lies behind it already.
    make_folder(folder).map_err(|error| anyhow::anyhow!("{error}"))?;
    let note = folder.join(NOTE);
    if !note.exists() {
        // Nobody has run yet, so whatever is there is left from a start that was cut short.
        write_note(&note, draw(), replicas, false).with_context(trouble)?;
    }
    let (cluster, made_for, ready) = read_note(&note)?;
    ensure!(
        made_for == replicas,
        "{} was made for {made_for} replicas; start it with --replicas {made_for}, or choose \
         another folder with --dir",
        folder.display()
    );
    if !ready {
        for id in 1..=replicas {
            let own = replica(folder, id);
            if own.exists() {
                fs::remove_dir_all(&own).with_context(trouble)?;
            }
            let made = bootstrap(&own, cluster, NodeId(id), &members(replicas), Bootstrap::New);
            // Its sentence holds what lies behind it already.
            made.map_err(|error| anyhow::anyhow!("{error}"))?;
        }
        write_note(&note, cluster, replicas, true).with_context(trouble)?;
    }
    Ok(cluster)
}

fn write_note(path: &Path, cluster: u128, replicas: u16, ready: bool) -> std::io::Result<()> {
    let text = format!("cluster = \"{cluster:032x}\"\nreplicas = {replicas}\nready = {ready}\n");
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::File::open(&new)?.sync_all()?;
    fs::rename(new, path)?;
    // Or a power cut brings back the note that says that nobody has run yet, and the next start
    // throws away what replicas have acknowledged since.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn read_note(path: &Path) -> anyhow::Result<(u128, u16, bool)> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("can't read {}; look at its rights", path.display()))?;
    let table: Option<toml::Table> = text.parse().ok();
    let read = |table: &toml::Table| {
        let cluster = u128::from_str_radix(table.get("cluster")?.as_str()?, 16).ok()?;
        let replicas = u16::try_from(table.get("replicas")?.as_integer()?).ok()?;
        Some((cluster, replicas, table.get("ready")?.as_bool()?))
    };
    match table.as_ref().and_then(read) {
        Some(note) => Ok(note),
        None => {
            bail!("{} is damaged; put it back, or choose another folder with --dir", path.display())
        }
    }
}

/// A number that no other cluster has, from the system's source of random numbers.
fn draw() -> u128 {
    use std::hash::{BuildHasher as _, RandomState};
    let half = |salt: u8| u128::from(RandomState::new().hash_one(salt));
    half(1) << 64 | half(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_made_once_and_for_so_many() {
        let folder = tempfile::tempdir().unwrap();
        let cluster = prepare(folder.path(), 2).unwrap();
        assert_eq!(prepare(folder.path(), 2).unwrap(), cluster);
        let error = prepare(folder.path(), 3).unwrap_err();
        assert!(error.to_string().contains("--replicas 2"), "{error}");
        fs::remove_dir_all(replica(folder.path(), 1)).unwrap();
        prepare(folder.path(), 2).unwrap();
        assert!(!replica(folder.path(), 1).exists(), "a lost replica was made again");
    }

    #[test]
    fn a_first_start_that_was_cut_short_begins_again() {
        let folder = tempfile::tempdir().unwrap();
        let note = folder.path().join(NOTE);
        write_note(&note, 5, 2, false).unwrap();
        fs::create_dir(replica(folder.path(), 1)).unwrap();
        fs::write(replica(folder.path(), 1).join("half"), "x").unwrap();
        assert_eq!(prepare(folder.path(), 2).unwrap(), 5);
        assert_eq!(read_note(&note).unwrap(), (5, 2, true));
    }

    #[test]
    fn a_damaged_note_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(NOTE), "cluster = 3").unwrap();
        assert!(prepare(folder.path(), 2).unwrap_err().to_string().contains("damaged"));
    }
}
