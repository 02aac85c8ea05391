//! What the tests of `perf` as a program share.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// An empty folder of this test's own.
pub(crate) fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).expect("an old run's files can go");
    }
    std::fs::create_dir_all(&folder).expect("the target folder is writable");
    folder
}

/// The program, to be run in this folder.
pub(crate) fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_perf"));
    command.current_dir(folder).args(arguments);
    command
}

/// Runs it.
pub(crate) fn perf(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().expect("perf was built")
}

/// What it said on stderr.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("messages are text")
}
