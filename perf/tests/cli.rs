//! `perf` as a program: what it writes, and that bad use ends with a clear message, an exit code,
//! and nothing left behind.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// An empty folder of this test's own.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).expect("an old run's files can go");
    }
    std::fs::create_dir_all(&folder).expect("the target folder is writable");
    folder
}

fn perf(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_perf"));
    command.current_dir(folder).arg("sim").args(arguments).output().expect("perf was built")
}

/// Bad use: exit code 2, `words` on stderr, nothing on stdout, no file left.
#[track_caller]
fn refused(folder: &Path, arguments: &[&str], words: &[&str]) {
    let output = perf(folder, arguments);
    let stderr = String::from_utf8(output.stderr).expect("messages are text");
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
    for word in words {
        assert!(stderr.contains(word), "{arguments:?}: `{word}` is not in: {stderr}");
    }
    assert!(output.stdout.is_empty(), "{arguments:?}");
    let out = folder.join("perf/out");
    let left = if out.exists() { std::fs::read_dir(out).expect("it is there").count() } else { 0 };
    assert_eq!(left, 0, "{arguments:?} left files");
}

#[test]
fn bad_arguments_are_refused() {
    let folder = folder("bad_arguments");
    refused(&folder, &["simple-9"], &["simple-9", "simple-1"]);
    refused(&folder, &["nowhere/x.json"], &["nowhere/x.json", "can't read"]);
    for rate in ["0", "-1", "NaN", "inf", "1e9"] {
        refused(&folder, &["simple-1", "--rate", rate], &["--rate"]);
    }
    refused(&folder, &["simple-1", "--rate", "fast"], &["--rate", "fast"]);
    refused(&folder, &["simple-1", "--seconds", "0"], &["--seconds"]);
    refused(&folder, &["simple-1", "--requests", "0"], &["--requests"]);
    refused(&folder, &["simple-1", "--replicas", "2"], &["--replicas"]);
    refused(&folder, &["simple-1", "--drops", "1.5"], &["--drops"]);
    let all = ["simple-1", "--rate", "5", "--seconds", "5", "--requests", "5"];
    refused(&folder, &all, &["two of the three"]);
    refused(&folder, &["simple-1", "--name", "../escape"], &["--name"]);
    refused(&folder, &["simple-1", "--processes"], &["--replica"]);
    refused(&folder, &["simple-1", "--processes", "--replica", "./none"], &["./none"]);
    refused(&folder, &[], &["SCENARIO"]);
}

#[test]
fn run_writes_its_files_and_names_them() {
    let folder = folder("a_run");
    let output = perf(&folder, &["simple-2", "--rate", "50", "--seconds", "5", "--name", "a"]);
    let stdout = String::from_utf8(output.stdout).expect("tables are text");
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    assert!(output.stderr.is_empty(), "no bar where there is no terminal");
    let read = |ending: &str| {
        let file = format!("perf/out/a.{ending}");
        assert!(stdout.contains(&file), "{file} is not in: {stdout}");
        std::fs::read_to_string(folder.join(file)).expect("it was written")
    };
    for ending in ["hgrm", "put.hgrm", "get.hgrm"] {
        assert!(read(ending).contains("#[Buckets"), "{ending} is whole");
    }
    assert!(read("hlog").contains("Tag=put,5.000,1.000,"), "puts from the first request on");
    let record: serde_json::Value = serde_json::from_str(&read("json")).expect("it is JSON");
    assert_eq!(record["schema"], 1);
    assert_eq!((&record["mode"], &record["report"]["passed"]), (&"virtual".into(), &true.into()));
    assert_eq!(record["rate_intended"], 50.0);
    assert_eq!(record["report"]["requests"], 250);
    assert!(record["per_second"].as_array().is_some_and(|seconds| seconds.len() >= 5));
    assert_eq!(std::fs::read_dir(folder.join("perf/out")).expect("it is there").count(), 5);
}

#[test]
fn stdout_gets_only_the_json() {
    let folder = folder("json");
    let output = perf(&folder, &["simple-1", "--rate", "20", "--seconds", "5", "--json"]);
    let record: serde_json::Value = serde_json::from_slice(&output.stdout).expect("only JSON");
    assert_eq!(record["name"], "simple-1");
}

#[test]
fn unwritable_output_is_refused_before_the_run() {
    let folder = folder("no_output");
    std::fs::write(folder.join("file"), "in the way").unwrap();
    // The replica program does not exist either: the output is checked before the run begins.
    let run = ["simple-1", "--processes", "--replica", "no-program", "--out", "file/out"];
    refused(&folder, &run, &["file/out", "--out"]);
    refused(&folder, &run[..4], &["no-program"]);
}
