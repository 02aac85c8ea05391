//! Shared by the tests that run the `perf` program.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Returns an empty folder for the test `name`.
pub(crate) fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).expect("files of an earlier run can be deleted");
    }
    std::fs::create_dir_all(&folder).expect("the target folder is writable");
    folder
}

/// Returns a command that runs `perf` with `arguments` in `folder`.
pub(crate) fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_perf"));
    command.current_dir(folder).args(arguments);
    command
}

/// Runs `perf` with `arguments` in `folder`, and returns its output.
pub(crate) fn perf(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().expect("perf was built")
}

/// Returns the stderr of a program's output as text.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("stderr is UTF-8")
}
