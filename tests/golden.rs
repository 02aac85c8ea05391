//! Golden traces: each file in `tests/golden/` consists of a script, a line of four dashes, and the
//! trace that the script must produce. The first line says what the trace shows. To rewrite the
//! traces:
//!
//! ```sh
//! UPDATE_GOLDEN=1 cargo test --test golden
//! ```
//!
//! Then review the diff: a changed trace must still show what its first line says.

use std::fs;
use std::path::{Path, PathBuf};

use bowline::sim::script;

/// The folders with golden files. Every file in them is run.
const FOLDERS: [&str; 2] = ["tests/golden", "tests/golden/regressions"];
const DASHES: &str = "----";

fn files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in FOLDERS {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let entries = fs::read_dir(&path).expect("the folder of golden traces");
        let paths = entries.map(|entry| entry.expect("its entries").path());
        files.extend(paths.filter(|path| path.is_file()));
    }
    files.sort();
    files
}

/// Returns the contents of a golden file with the trace that its script produces now, or an error
/// in the script.
fn run(text: &str) -> Result<String, String> {
    let script = text.split_once(DASHES).map_or(text, |(script, _)| script);
    if !script.starts_with("# ") {
        return Err("the first line must be a comment that says what the trace shows".to_owned());
    }
    let trace = script::run(script).map_err(|error| error.to_string())?;
    if trace.is_empty() {
        return Err("the trace is empty".to_owned());
    }
    Ok(format!("{}\n{DASHES}\n{}\n", script.trim_end(), trace.join("\n")))
}

/// Describes the first difference between two traces, with the lines that follow it.
fn difference(expected: &str, actual: &str) -> String {
    let (expected, actual): (Vec<&str>, Vec<&str>) =
        (expected.lines().collect(), actual.lines().collect());
    let length = expected.len().max(actual.len());
    let first =
        (0..length).find(|&place| expected.get(place) != actual.get(place)).expect("they differ");
    let show = |lines: &[&str]| {
        let from = first.min(lines.len());
        lines[from..lines.len().min(from + 5)].join("\n    ")
    };
    format!("line {}:\n  is\n    {}\n  not\n    {}", first + 1, show(&actual), show(&expected))
}

#[test]
fn simulator_runs_match_their_golden_traces() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let files = files();
    assert!(files.len() >= 25, "{} files", files.len());
    let mut failures = Vec::new();
    for path in files {
        let name = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap_or(&path).display();
        let text = fs::read_to_string(&path).expect("a golden file is text");
        match run(&text) {
            Err(error) => failures.push(format!("{name}: {error}")),
            Ok(actual) if actual == text => {}
            Ok(actual) if update => fs::write(&path, actual).expect("the file can be written"),
            Ok(actual) => failures.push(format!("{name}, {}", difference(&text, &actual))),
        }
    }
    assert!(
        failures.is_empty(),
        "{} golden traces differ (UPDATE_GOLDEN=1 rewrites them):\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn missing_or_changed_golden_trace_is_reported() {
    let script = "# A put.\ncluster 3 leader=1\nput 1 a=1; run\n";
    let whole = run(script).expect("it can be performed");
    assert_eq!(run(&whole), Ok(whole.clone()), "the trace below the dashes is not performed");
    assert_ne!(whole, script, "without dashes it differs");
    let damaged = whole.replace("commit 2", "commit 3");
    assert!(difference(&damaged, &whole).contains("commit 2"));
    assert!(run("cluster 3 leader=1\nrun").is_err(), "no story");
    assert!(run("# Nothing happens.\ncluster 3 leader=1\nrun\n").is_err(), "nothing happens");
}
