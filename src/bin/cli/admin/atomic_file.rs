//! A file that appears under its name only when it is complete and durable.

use std::fs::{self, File, OpenOptions};
use std::io::BufWriter;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

/// Size of the write buffer in bytes.
const BUFFER_BYTES: usize = 1 << 20;

/// A file that is written under a temporary name. [`AtomicFile::commit`] renames it; otherwise it
/// is deleted. Only its owner can read it, because a backup contains all data.
#[derive(Debug)]
pub(super) struct AtomicFile {
    path: PathBuf,
    partial: PathBuf,
    committed: bool,
}

impl AtomicFile {
    /// Creates the file for `path` under its temporary name, which is `path` with the suffix
    /// `.partial`. Overwrites a file of that name, which an earlier process may have left.
    pub(super) fn create(path: &Path) -> anyhow::Result<(AtomicFile, BufWriter<File>)> {
        ensure!(!path.is_dir(), "{} is a folder; name a file", path.display());
        ensure!(path.file_name().is_some(), "{} is not the name of a file", path.display());
        let partial = with_suffix(path, ".partial");
        let file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial);
        let file = file.with_context(|| {
            format!("cannot create {}; check that the folder exists", partial.display())
        })?;
        let writer = BufWriter::with_capacity(BUFFER_BYTES, file);
        Ok((AtomicFile { path: path.to_owned(), partial, committed: false }, writer))
    }

    /// Makes the file durable, renames it, and makes the new name durable. Replaces an existing
    /// file of that name.
    pub(super) fn commit(mut self, writer: BufWriter<File>) -> anyhow::Result<()> {
        let path = self.path.display();
        let file = writer.into_inner().with_context(|| format!("cannot write {path}"))?;
        file.sync_all().with_context(|| format!("cannot sync {path}"))?;
        fs::rename(&self.partial, &self.path)
            .with_context(|| format!("cannot rename {} to {path}", self.partial.display()))?;
        self.committed = true;
        sync_parent(&self.path)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.committed {
            // A failure here matters less than the error that is being reported.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// Returns `path` with `suffix` appended to its last component.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    // Drops a slash at the end, which would make the suffix the name of a file inside a folder.
    let mut name = path.components().collect::<PathBuf>().into_os_string();
    name.push(suffix);
    PathBuf::from(name)
}

/// Makes the names in the folder that contains `path` durable.
pub(super) fn sync_parent(path: &Path) -> anyhow::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let synced = File::open(parent).and_then(|folder| folder.sync_all());
    synced.with_context(|| format!("cannot sync the folder {}", parent.display()))
}
