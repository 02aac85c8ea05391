//! The files of the repository.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the path of the repository's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns every file that is not ignored, as a path relative to the root, sorted.
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
        let name = path
            .strip_prefix(root())
            .expect("the path starts with the root")
            .to_string_lossy()
            .into_owned();
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

/// Returns whether `.gitignore`, whose text is `ignored`, contains this file or folder. Supports
/// plain names and paths, but no globs.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gitignored_paths_are_skipped() {
        let rules = "/target\n/perf/out\nfuzz/artifacts/\n*.swp\nnames\n";
        for path in ["target", "perf/out", "fuzz/artifacts", "deep/names"] {
            assert!(is_ignored(path, rules), "{path}");
        }
        for path in ["src/target", "perf", "src/names.rs"] {
            assert!(!is_ignored(path, rules), "{path}");
        }
    }
}
