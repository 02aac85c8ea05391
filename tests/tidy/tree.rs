//! The files of the repository, as they are and as README draws them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file that is not ignored, as a path from the root, sorted.
pub(crate) fn files() -> Vec<String> {
    let ignored = fs::read_to_string(root().join(".gitignore")).expect(".gitignore is tracked");
    let mut files = Vec::new();
    collect(root(), &ignored, &mut files);
    files.sort();
    files
}

fn collect(folder: &Path, ignored: &str, files: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("the repository is readable") {
        let path: PathBuf = entry.expect("the repository is readable").path();
        let name = path.strip_prefix(root()).expect("it is below").to_string_lossy().into_owned();
        if name == ".git" || is_ignored(&name, ignored) {
            continue;
        }
        if path.is_dir() {
            collect(&path, ignored, files);
        } else {
            files.push(name);
        }
    }
}

/// Whether a `.gitignore` of plain names and paths (no globs) has this file or folder.
fn is_ignored(path: &str, ignored: &str) -> bool {
    ignored.lines().any(|line| {
        let rule = line.trim_end_matches('/');
        match rule.strip_prefix('/') {
            Some(rooted) => path == rooted,
            None if rule.contains('/') => path == rule,
            None => !rule.is_empty() && path.rsplit('/').next() == Some(rule),
        }
    })
}

/// What README's tree of the source leaves out of what must be there, and what it invents.
///
/// Every line of the tree begins with one or more names, folders ending in `/`, two spaces deeper
/// than the folder that they are in; what follows is a description.
pub(crate) fn check_tree(readme: &str, files: &[String]) -> Vec<String> {
    let Some(tree) = readme.split("```").find(|block| block.contains("\nsrc/")) else {
        return vec!["README.md: no fenced block draws the tree of src/".to_owned()];
    };
    let drawn = drawn_paths(tree);
    let mut complaints = Vec::new();
    for path in &drawn {
        let is_folder = path.ends_with('/');
        let exists = files
            .iter()
            .any(|file| if is_folder { file.starts_with(path.as_str()) } else { file == path });
        if !exists {
            complaints.push(format!("README.md: the tree draws {path}, which is not there"));
        }
    }
    for file in files.iter().filter(|file| must_be_drawn(file)) {
        if !drawn.contains(file) {
            complaints.push(format!("README.md: the tree lacks {file}"));
        }
    }
    complaints
}

/// All of `src/`, and what stands directly in the other folders of code.
fn must_be_drawn(file: &str) -> bool {
    let Some((folder, name)) = file.rsplit_once('/') else { return false };
    let is_code = name.strip_suffix(".rs").is_some();
    is_code
        && (folder == "src"
            || folder.starts_with("src/")
            || matches!(folder, "tests" | "benches" | "perf/src"))
}

fn drawn_paths(tree: &str) -> BTreeSet<String> {
    let mut folders: Vec<String> = Vec::new();
    let mut drawn = BTreeSet::new();
    // The first line is the rest of the fence, such as `text`.
    for line in tree.lines().skip(1) {
        let depth = (line.len() - line.trim_start().len()) / 2;
        folders.truncate(depth);
        let is_path = |word: &&str| word.contains('.') || word.ends_with('/');
        for name in line.split_whitespace().take_while(is_path) {
            let path = format!("{}{name}", folders.concat());
            drawn.insert(path);
            if name.ends_with('/') {
                folders.truncate(depth);
                folders.push(name.to_owned());
            }
        }
    }
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(files: &[&str]) -> Vec<String> {
        files.iter().map(|file| (*file).to_owned()).collect()
    }

    const README: &str = "\
x
```text
Cargo.toml
src/  code
  lib.rs  a map. And more
  raft/
    log.rs  mod.rs  two files
tests/
  tidy.rs
```
y";

    #[test]
    fn a_tree_that_matches_passes() {
        let files = names(&[
            "Cargo.toml",
            "src/lib.rs",
            "src/raft/log.rs",
            "src/raft/mod.rs",
            "tests/tidy.rs",
        ]);
        assert_eq!(check_tree(README, &files), [""; 0]);
    }

    #[test]
    fn missing_and_invented_files_are_named() {
        let files = names(&["Cargo.toml", "src/lib.rs", "src/kv/store.rs", "src/raft/mod.rs"]);
        let complaints = check_tree(README, &files);
        assert_eq!(complaints.len(), 4, "{complaints:?}");
        assert!(complaints[0].contains("src/raft/log.rs, which is not"));
        assert!(complaints[1].contains("tests/"));
        assert!(complaints[3].contains("lacks src/kv/store.rs"));
        assert_eq!(check_tree("no tree", &files).len(), 1);
    }

    #[test]
    fn ignored_folders_are_skipped() {
        let rules = "/target\n/perf/out\nfuzz/artifacts/\n*.swp\nnames\n";
        for path in ["target", "perf/out", "fuzz/artifacts", "deep/names"] {
            assert!(is_ignored(path, rules), "{path}");
        }
        for path in ["src/target", "perf", "src/names.rs"] {
            assert!(!is_ignored(path, rules), "{path}");
        }
    }
}
