//! The files of a run: begun before it, so that a folder that can't be written is noticed at once,
//! and put in their places after it, all or none, so that a run that fails leaves the last one's.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Files under way. Dropped without [`Files::finish`], they leave nothing behind.
#[derive(Debug)]
pub(crate) struct Files {
    folder: PathBuf,
    name: String,
    begun: Vec<Begun>,
}

#[derive(Debug)]
struct Begun {
    ending: String,
    file: BufWriter<File>,
}

impl Files {
    /// Begins `folder/name.ending` for each ending.
    pub(crate) fn begin(folder: &Path, name: &str, endings: &[&str]) -> anyhow::Result<Files> {
        let plain = |char: char| char.is_ascii_alphanumeric() || "-_.".contains(char);
        anyhow::ensure!(
            !name.is_empty() && !name.starts_with('.') && name.chars().all(plain),
            "`{name}` can't be a file's name here; give --name with letters, digits, `-`, `_` \
             and `.` only"
        );
        fs::create_dir_all(folder).with_context(|| cannot_write(folder))?;
        let mut files =
            Files { folder: folder.to_owned(), name: name.to_owned(), begun: Vec::new() };
        for &ending in endings {
            let path = files.unfinished(ending);
            let file = File::create(&path).with_context(|| cannot_write(&path))?;
            files.begun.push(Begun { ending: ending.to_owned(), file: BufWriter::new(file) });
        }
        Ok(files)
    }

    /// The file with this ending, to write to.
    pub(crate) fn get(&mut self, ending: &str) -> &mut BufWriter<File> {
        let begun = self.begun.iter_mut().find(|begun| begun.ending == ending);
        &mut begun.expect("callers ask for what they began").file
    }

    /// Puts all files in their places, and names them.
    pub(crate) fn finish(mut self) -> anyhow::Result<Vec<PathBuf>> {
        for begun in &mut self.begun {
            begun.file.flush().with_context(|| cannot_write(&self.folder))?;
        }
        let mut paths = Vec::new();
        for begun in &self.begun {
            let path = self.folder.join(format!("{}.{}", self.name, begun.ending));
            fs::rename(self.unfinished(&begun.ending), &path)
                .with_context(|| cannot_write(&path))?;
            paths.push(path);
        }
        Ok(paths)
    }

    fn unfinished(&self, ending: &str) -> PathBuf {
        self.folder.join(format!(".{}.{ending}.{}", self.name, std::process::id()))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for begun in &self.begun {
            // What was finished is gone from here; of the rest nothing is worth a second error.
            let _ = fs::remove_file(self.unfinished(&begun.ending));
        }
    }
}

fn cannot_write(path: &Path) -> String {
    format!("can't write {}; free it or give --out FOLDER", path.display())
}
