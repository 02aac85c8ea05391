//! Tests of the program `perf sim`: it writes its output files, and rejects invalid arguments with
//! a clear message and exit code, without leaving files.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Returns an empty folder for the test `name`.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).expect("files of an earlier run can be deleted");
    }
    std::fs::create_dir_all(&folder).expect("the target folder is writable");
    folder
}

fn perf(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_perf"));
    command.current_dir(folder).arg("sim").args(arguments).output().expect("perf was built")
}

/// Asserts that `perf sim` rejects `arguments`: exit code 2, all `texts` on stderr, nothing on
/// stdout and no files.
#[track_caller]
fn assert_rejected(folder: &Path, arguments: &[&str], texts: &[&str]) {
    let output = perf(folder, arguments);
    let stderr = String::from_utf8(output.stderr).expect("stderr is UTF-8");
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
    for text in texts {
        assert!(stderr.contains(text), "{arguments:?}: `{text}` is not in: {stderr}");
    }
    assert!(output.stdout.is_empty(), "{arguments:?}");
    let out = folder.join("perf/out");
    let left = if out.exists() {
        std::fs::read_dir(out).expect("the folder is readable").count()
    } else {
        0
    };
    assert_eq!(left, 0, "{arguments:?} left files");
}

#[test]
fn perf_sim_rejects_invalid_arguments() {
    let folder = folder("bad_arguments");
    assert_rejected(&folder, &["simple-9"], &["simple-9", "simple-1"]);
    assert_rejected(&folder, &["nowhere/x.json"], &["nowhere/x.json", "cannot read"]);
    for rate in ["0", "-1", "NaN", "inf", "1e9"] {
        assert_rejected(&folder, &["simple-1", "--rate", rate], &["--rate"]);
    }
    assert_rejected(&folder, &["simple-1", "--rate", "fast"], &["--rate", "fast"]);
    assert_rejected(&folder, &["simple-1", "--seconds", "0"], &["--seconds"]);
    assert_rejected(&folder, &["simple-1", "--requests", "0"], &["--requests"]);
    assert_rejected(&folder, &["simple-1", "--replicas", "2"], &["--replicas"]);
    assert_rejected(&folder, &["simple-1", "--drops", "1.5"], &["--drops"]);
    let all = ["simple-1", "--rate", "5", "--seconds", "5", "--requests", "5"];
    assert_rejected(&folder, &all, &["two of the three"]);
    assert_rejected(&folder, &["simple-1", "--name", "../escape"], &["--name"]);
    assert_rejected(&folder, &["simple-1", "--processes"], &["--replica"]);
    assert_rejected(&folder, &["simple-1", "--processes", "--replica", "./none"], &["./none"]);
    assert_rejected(&folder, &["simple-1", "--protocol", "stream"], &["--processes"]);
    let protocols = ["seqpacket", "stream", "udp"];
    assert_rejected(&folder, &["simple-1", "--protocol", "x", "--processes"], &protocols);
    assert_rejected(&folder, &[], &["SCENARIO"]);
}

#[test]
fn perf_sim_writes_all_result_files_and_lists_them() {
    let folder = folder("a_run");
    let output = perf(&folder, &["simple-2", "--rate", "50", "--seconds", "5", "--name", "a"]);
    let stdout = String::from_utf8(output.stdout).expect("stdout is UTF-8");
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    assert!(output.stderr.is_empty(), "no progress bar without a terminal");
    let read = |ending: &str| {
        let file = format!("perf/out/a.{ending}");
        assert!(stdout.contains(&file), "{file} is not in: {stdout}");
        std::fs::read_to_string(folder.join(file)).expect("the file exists")
    };
    for ending in ["hgrm", "put.hgrm", "get.hgrm"] {
        assert!(read(ending).contains("#[Buckets"), "{ending} is whole");
    }
    assert!(read("hlog").contains("Tag=put,5.000,1.000,"), "puts start with the first request");
    let record: serde_json::Value = serde_json::from_str(&read("json")).expect("the file is JSON");
    assert_eq!(record["schema"], 1);
    assert_eq!((&record["mode"], &record["report"]["passed"]), (&"virtual".into(), &true.into()));
    assert_eq!(record["rate_intended"], 50.0);
    assert_eq!(record["report"]["requests"], 250);
    assert!(record["per_second"].as_array().is_some_and(|seconds| seconds.len() >= 5));
    assert_eq!(
        std::fs::read_dir(folder.join("perf/out")).expect("the folder is readable").count(),
        5
    );
}

#[test]
fn perf_sim_json_option_prints_only_json() {
    let folder = folder("json");
    let output = perf(&folder, &["simple-1", "--rate", "20", "--seconds", "5", "--json"]);
    let record: serde_json::Value = serde_json::from_slice(&output.stdout).expect("only JSON");
    assert_eq!(record["name"], "simple-1");
}

#[test]
fn perf_sim_reports_unwritable_output_folder_before_the_run() {
    let folder = folder("no_output");
    std::fs::write(folder.join("file"), "in the way").unwrap();
    // The replica program does not exist either: the output is checked first.
    let run = ["simple-1", "--processes", "--replica", "no-program", "--out", "file/out"];
    assert_rejected(&folder, &run, &["file/out", "--out"]);
    assert_rejected(&folder, &run[..4], &["no-program"]);
}
