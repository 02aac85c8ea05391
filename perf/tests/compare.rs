//! `perf compare` as a program, with real servers and the shortest of runs. What it needs beside
//! Bowline is taken from its sight, so that it behaves as on a machine where nothing is installed.
#![allow(clippy::unwrap_used, reason = "a helper that panics fails its test")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{command, folder, perf, stderr};
use serde_json::Value;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_mins(3);

/// The server, built if it is not there yet.
fn bowline() -> PathBuf {
    let perf = Path::new(env!("CARGO_BIN_EXE_perf"));
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--package", "bowline", "--bin", "bowline"]);
    if perf.parent().unwrap().ends_with("release") {
        build.arg("--release");
    }
    let status = build.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo is there");
    assert!(status.success());
    perf.with_file_name("bowline")
}

/// Processes whose command lines name this folder.
fn processes(folder: &Path) -> Vec<String> {
    let name = folder.to_str().unwrap();
    let lines = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let path = entry.ok()?.path().join("cmdline");
        let line = String::from_utf8(fs::read(path).ok()?).ok()?;
        Some(line.replace('\0', " "))
    });
    lines.filter(|line| line.contains(name) && line.contains(" serve ")).collect()
}

#[track_caller]
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn results(folder: &Path) -> Value {
    let text = fs::read_to_string(folder.join("out/compare.json")).expect("results are there");
    serde_json::from_str(&text).expect("they are JSON")
}

#[test]
fn rounds_are_run_and_recorded() {
    let folder = folder("compare_rounds");
    let bowline = bowline();
    let arguments = ["compare", "--rounds", "2", "--seconds", "1", "--keys", "100"];
    let more = ["--only", "bowline,bowline-dedicated,etcd,redis", "--cases", "put-4,get-4-8"];
    let places = ["--dir", "data", "--out", "out", "--bowline", bowline.to_str().unwrap()];
    let output = command(&folder, &[&arguments[..], &more, &places].concat())
        .env("PATH", &folder)
        .output()
        .unwrap();
    let said = stderr(&output);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}\n{table}");
    for skipped in ["skipped: etcd: etcd is not installed", "skipped: redis: redis-server is"] {
        assert!(said.contains(skipped), "{said}");
    }
    let results = results(&folder);
    let runs = results["runs"].as_array().unwrap();
    let order: Vec<String> = runs
        .iter()
        .map(|run| format!("{} {} {}", run["round"], run["system"], run["case"]).replace('"', ""))
        .collect();
    let expected = [1, 2].map(|round| {
        ["bowline put-4", "bowline get-4-8", "bowline-dedicated put-4", "bowline-dedicated get-4-8"]
            .map(|run| format!("{round} {run}"))
    });
    assert_eq!(order, expected.concat());
    for run in runs {
        assert_eq!(run["trouble"], Value::Null, "{run}");
        assert_eq!(run["errors"], 0, "{run}");
        assert!(run["operations"].as_u64().unwrap() > 0, "{run}");
        // Only writes are synced, and what an election on a busy machine writes.
        let syncs = run["syncs"].as_u64().unwrap();
        let right = if run["case"] == "put-4" { syncs > 0 } else { syncs <= 20 };
        assert!(right, "{run}");
    }
    let summary = results["summary"].as_array().unwrap();
    assert_eq!(summary.len(), 4, "two systems, two cases");
    assert!(summary.iter().all(|found| found["runs"] == 2));
    let against = &summary[0]["against"]["bowline-dedicated"]["rate"];
    assert!(against["min"].as_f64().unwrap() <= against["max"].as_f64().unwrap());
    assert!(table.contains("bowline / bowline-dedicated: rate "), "{table}");
    for file in ["compare.html", "compare.systems.svg"] {
        assert!(folder.join("out").join(file).exists(), "{file}");
    }
    assert_eq!(fs::read_dir(folder.join("data")).unwrap().count(), 0, "data were left");
    assert_eq!(processes(&folder), [""; 0]);
}

#[test]
fn interrupted_comparison_keeps_finished_rounds() {
    let folder = folder("compare_interrupted");
    let bowline = bowline();
    let arguments = ["compare", "--rounds", "1", "--seconds", "30", "--cases", "put-4"];
    let places = ["--dir", "data", "--out", "out", "--bowline", bowline.to_str().unwrap()];
    let mut child = command(&folder, &[&arguments[..], &["--only", "bowline"], &places].concat())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("three replicas are up", || processes(&folder).len() == 3);
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    let status = child.wait().unwrap();
    assert!(!status.success());
    assert_eq!(processes(&folder), [""; 0], "it waits for its children's end");
    let results = results(&folder);
    assert!(results["partial"].as_str().unwrap().contains("interrupted in round 1"));
    assert_eq!(results["summary"].as_array().unwrap().len(), 0);
}

#[test]
fn killed_comparison_stops_its_servers() {
    let setpriv = Command::new("setpriv").arg("--version").stdout(Stdio::null()).status();
    if !setpriv.is_ok_and(|status| status.success()) {
        eprintln!("skipped: setpriv is not installed (Debian's package: util-linux)");
        return;
    }
    let folder = folder("compare_killed");
    let bowline = bowline();
    let arguments = ["compare", "--rounds", "1", "--seconds", "30", "--cases", "put-4"];
    let places = ["--dir", "data", "--out", "out", "--bowline", bowline.to_str().unwrap()];
    let mut child = command(&folder, &[&arguments[..], &["--only", "bowline"], &places].concat())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("three replicas are up", || processes(&folder).len() == 3);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("no replica outlives it", || processes(&folder).is_empty());
}

/// Exit code 2, `words` on stderr, nothing started and nothing left.
#[track_caller]
fn refused(folder: &Path, arguments: &[&str], words: &[&str]) {
    let output = perf(folder, arguments);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{arguments:?}: `{word}` is not in: {said}");
    }
    let left = fs::read_dir(folder.join("perf/out")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "{arguments:?} left files");
}

#[test]
fn bad_arguments_are_refused() {
    let folder = folder("compare_bad");
    refused(&folder, &["compare", "--cases", "put"], &["`put`", "put-rate"]);
    refused(&folder, &["compare", "--cases", "put-1,put-1"], &["twice"]);
    refused(&folder, &["compare", "--only", "mysql"], &["mysql", "bowline-dedicated"]);
    refused(&folder, &["compare", "--rounds", "0"], &["--rounds"]);
    refused(&folder, &["compare", "--seconds", "NaN"], &["--seconds"]);
    refused(&folder, &["compare", "--rate", "0"], &["--rate"]);
    refused(&folder, &["compare", "--name", "a/b"], &["--name"]);
    let nobody = ["compare", "--only", "bowline", "--bowline", "./none"];
    refused(&folder, &nobody, &["nothing can be measured", "./none", "cargo build --release"]);
    refused(&folder, &["lossy", "--losses", "95"], &["--losses has 95"]);
    refused(&folder, &["lossy", "--losses", "5,5"], &["twice"]);
    refused(&folder, &["lossy", "--only", "redis"], &["one process"]);
    fs::write(folder.join("file"), "in the way").unwrap();
    refused(&folder, &["compare", "--out", "file/out"], &["file/out", "--out"]);
}

#[test]
fn packet_loss_affects_only_replica_links() {
    let folder = folder("compare_lossy");
    let bowline = bowline();
    let arguments = ["lossy", "--only", "bowline", "--losses", "0,10", "--connections", "4"];
    let lengths = ["--rounds", "1", "--seconds", "2", "--keys", "100"];
    let places = ["--dir", "data", "--out", "out", "--bowline", bowline.to_str().unwrap()];
    let output = perf(&folder, &[&arguments[..], &lengths, &places].concat());
    let said = stderr(&output);
    let cannot = ["root only", "is not installed", "unshare failed", "can't be made here"];
    if let Some(why) = cannot.iter().find(|why| said.contains(**why)) {
        assert_ne!(output.status.code(), Some(0));
        eprintln!("skipped, for networks can't be made here ({why}): {said}");
        return;
    }
    let text = fs::read_to_string(folder.join("out/lossy.json")).expect("results are there");
    let results: Value = serde_json::from_str(&text).unwrap();
    let runs = results["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2, "{said}");
    for run in runs {
        assert_eq!(run["trouble"], Value::Null, "{run}");
        assert!(run["operations"].as_u64().unwrap() > 0, "{run}");
    }
    assert_eq!(results["cases"][1]["step"]["value"], 10.0);
    assert!(folder.join("out/lossy.row-1.svg").exists());
    assert_eq!(processes(&folder), [""; 0]);
}
