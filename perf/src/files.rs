//! Output files of a run. The files are created before the run, so that an unwritable folder is
//! noticed at once. They are moved into place after the run, so that a failed run leaves the
//! previous results unchanged.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Output files that have temporary names until [`Files::finish`] renames them. If this value is
/// dropped before that, the files are deleted.
#[derive(Debug)]
pub(crate) struct Files {
    folder: PathBuf,
    name: String,
    open: Vec<OpenFile>,
}

#[derive(Debug)]
struct OpenFile {
    ending: String,
    file: BufWriter<File>,
}

impl Files {
    /// Creates the temporary files for the output files `folder/name.ending`, one for each ending
    /// in `endings`.
    pub(crate) fn create(folder: &Path, name: &str, endings: &[&str]) -> anyhow::Result<Files> {
        let plain = |char: char| char.is_ascii_alphanumeric() || "-_.".contains(char);
        anyhow::ensure!(
            !name.is_empty() && !name.starts_with('.') && name.chars().all(plain),
            "`{name}` is not a valid name for result files; choose a --name of letters, digits, \
             `-`, `_` and `.` that does not begin with `.`"
        );
        fs::create_dir_all(folder).with_context(|| cannot_write(folder))?;
        let mut files =
            Files { folder: folder.to_owned(), name: name.to_owned(), open: Vec::new() };
        for &ending in endings {
            let path = files.unfinished(ending);
            let file = File::create(&path).with_context(|| cannot_write(&path))?;
            files.open.push(OpenFile { ending: ending.to_owned(), file: BufWriter::new(file) });
        }
        Ok(files)
    }

    /// Returns a writer for the output file whose name ends with `ending`.
    pub(crate) fn get(&mut self, ending: &str) -> &mut BufWriter<File> {
        let open = self.open.iter_mut().find(|open| open.ending == ending);
        &mut open.expect("the ending was passed to `create`").file
    }

    /// Flushes all output files, renames them from their temporary to their final names, and
    /// returns their paths.
    pub(crate) fn finish(mut self) -> anyhow::Result<Vec<PathBuf>> {
        for open in &mut self.open {
            open.file.flush().with_context(|| cannot_write(&self.folder))?;
        }
        let mut paths = Vec::new();
        for open in &self.open {
            let path = self.folder.join(format!("{}.{}", self.name, open.ending));
            fs::rename(self.unfinished(&open.ending), &path)
                .with_context(|| cannot_write(&path))?;
            paths.push(path);
        }
        Ok(paths)
    }

    /// Returns an error message that says that the output file whose name ends with `ending` cannot
    /// be written.
    pub(crate) fn cannot_write(&self, ending: &str) -> String {
        cannot_write(&self.folder.join(format!("{}.{ending}", self.name)))
    }

    fn unfinished(&self, ending: &str) -> PathBuf {
        self.folder.join(format!(".{}.{ending}.{}", self.name, std::process::id()))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for open in &self.open {
            // Finished files have been renamed. For the others, an error while removing them is not
            // worth reporting.
            let _ = fs::remove_file(self.unfinished(&open.ending));
        }
    }
}

fn cannot_write(path: &Path) -> String {
    format!(
        "cannot write {}; check free space and permissions, or give another --out",
        path.display()
    )
}
