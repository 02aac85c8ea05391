//! Shared by the tests that run the `perf` program.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// An empty folder for one test.
pub(crate) fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).expect("files of an earlier run can be deleted");
    }
    std::fs::create_dir_all(&folder).expect("the target folder is writable");
    folder
}

/// A command that runs the program in this folder.
pub(crate) fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_perf"));
    command.current_dir(folder).args(arguments);
    command
}

/// Runs the program in this folder.
pub(crate) fn perf(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().expect("perf was built")
}

/// Its stderr.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("stderr is UTF-8")
}
