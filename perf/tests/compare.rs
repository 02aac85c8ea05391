//! Tests of the program `perf compare`, with real servers and very short runs. `PATH` is empty, so
//! the tests behave as on a machine without etcd and Redis.
#![allow(clippy::unwrap_used, reason = "a helper that panics fails its test")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{command, folder, perf, stderr};
use serde_json::Value;

/// Timeout of every wait, far longer than any step takes.
const TIMEOUT: Duration = Duration::from_mins(3);

/// Returns the path of the server program. The server's own tests build it; it is built here only
/// if they did not run before.
fn bowline() -> PathBuf {
    let perf = Path::new(env!("CARGO_BIN_EXE_perf"));
    let program = perf.with_file_name("bowline");
    if !program.exists() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "bowline", "--bin", "bowline"]);
        if perf.parent().unwrap().ends_with("release") {
            build.arg("--release");
        }
        let status = build.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo starts");
        assert!(status.success());
    }
    program
}

/// Returns the command lines of server processes that mention `folder`. Omits processes that are
/// still setpriv and have not executed the server yet, because until then they are not killed with
/// their parent.
fn processes(folder: &Path) -> Vec<String> {
    let name = folder.to_str().unwrap();
    let lines = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let path = entry.ok()?.path().join("cmdline");
        let line = String::from_utf8(fs::read(path).ok()?).ok()?;
        Some(line.replace('\0', " "))
    });
    let is_server = |line: &String| line.contains(" serve ") && !line.contains("--pdeathsig");
    lines.filter(|line| line.contains(name) && is_server(line)).collect()
}

#[track_caller]
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < TIMEOUT, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn results(folder: &Path) -> Value {
    let text = fs::read_to_string(folder.join("out/compare.json")).expect("results exist");
    serde_json::from_str(&text).expect("results are JSON")
}

#[test]
fn perf_compare_runs_rounds_in_order_and_records_them() {
    let folder = folder("compare_rounds");
    let bowline = bowline();
    let arguments = ["compare", "--rounds", "2", "--seconds", "1", "--keys", "100"];
    let more = [
        "--only",
        "bowline,bowline-dedicated,etcd,redis,valkey",
        "--cases",
        "put-4,readers-3-beside-2",
    ];
    let places = ["--dir", "data", "--out", "out", "--bowline", bowline.to_str().unwrap()];
    let more = [&more[..], &["--valkey-server", "./none"]].concat();
    let output = command(&folder, &[&arguments[..], &more, &places].concat())
        .env("PATH", &folder)
        .output()
        .unwrap();
    let stderr_text = stderr(&output);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{stderr_text}\n{table}");
    for skipped in [
        "skipped: etcd: etcd is not installed",
        "skipped: redis: redis-server is not installed (Debian package: redis-server; or give \
         --redis-server)",
        "skipped: valkey: ./none does not exist; give the path of valkey-server with \
         --valkey-server",
    ] {
        assert!(stderr_text.contains(skipped), "{stderr_text}");
    }
    let results = results(&folder);
    let runs = results["runs"].as_array().unwrap();
    let order: Vec<String> = runs
        .iter()
        .map(|run| format!("{} {} {}", run["round"], run["system"], run["case"]).replace('"', ""))
        .collect();
    let expected = [1, 2].map(|round| {
        ["bowline", "bowline-dedicated"].map(|system| {
            ["put-4", "readers-3-beside-2:get", "readers-3-beside-2:put"]
                .map(|case| format!("{round} {system} {case}"))
        })
    });
    assert_eq!(order, expected.as_flattened().concat());
    for run in runs {
        assert_eq!(run["failure"], Value::Null, "{run}");
        assert_eq!(run["errors"], 0, "{run}");
        assert!(run["operations"].as_u64().unwrap() > 0, "{run}");
        assert!(run["syncs"].as_u64().unwrap() > 0, "{run}");
    }
    // Readers and writers run at the same time, on the same servers.
    for pair in runs.chunks(3).map(|of_system| &of_system[1..]) {
        let sum: u64 = pair.iter().map(|run| run["operations"].as_u64().unwrap()).sum();
        for run in pair {
            assert_eq!(run["shared_operations"], sum, "{run}");
        }
    }
    // One after the other, the runs would take at least 2 s. On a busy machine, some runs may be
    // delayed.
    let beside = runs.iter().filter(|run| run["case"] == "readers-3-beside-2:get");
    let fastest = beside.filter_map(|run| run["wall_s"].as_f64()).fold(f64::MAX, f64::min);
    assert!(fastest < 2.0, "readers and writers took turns: {fastest} s");
    let summary = results["summary"].as_array().unwrap();
    assert_eq!(summary.len(), 6, "two systems, three rows");
    assert!(summary.iter().all(|found| found["runs"] == 2));
    let against = &summary[0]["against"]["bowline-dedicated"]["rate"];
    assert!(against["min"].as_f64().unwrap() <= against["max"].as_f64().unwrap());
    assert!(table.contains("bowline / bowline-dedicated: rate "), "{table}");
    let version = results["systems"][0]["version"].as_str().unwrap();
    assert!(version.starts_with("bowline 0."), "{version}");
    assert!(table.contains(&format!("{version}: three replicas")), "{table}");
    let stolen = &summary[0]["stolen_share"];
    assert!(stolen["min"].as_f64().unwrap() <= stolen["max"].as_f64().unwrap(), "{stolen}");
    for file in ["compare.html", "compare.systems.svg"] {
        assert!(folder.join("out").join(file).exists(), "{file}");
    }
    assert_eq!(
        fs::read_dir(folder.join("data")).unwrap().count(),
        0,
        "data folders were left behind"
    );
    assert_eq!(processes(&folder), [""; 0]);
}

#[test]
fn interrupted_perf_compare_keeps_its_results() {
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
    assert_eq!(processes(&folder), [""; 0], "children are waited for");
    let results = results(&folder);
    assert!(results["partial"].as_str().unwrap().contains("interrupted in round 1"));
    assert_eq!(results["summary"].as_array().unwrap().len(), 0);
}

#[test]
fn killing_perf_compare_kills_the_servers_that_it_measures() {
    let setpriv = Command::new("setpriv").arg("--version").stdout(Stdio::null()).status();
    if !setpriv.is_ok_and(|status| status.success()) {
        eprintln!("skipped: setpriv is not installed (Debian package: util-linux)");
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
    wait_until("all replicas have exited", || processes(&folder).is_empty());
}

/// Asserts that perf rejects `arguments`: exit code 2, all `texts` on stderr, no processes and no
/// files.
#[track_caller]
fn assert_rejected(folder: &Path, arguments: &[&str], texts: &[&str]) {
    let output = perf(folder, arguments);
    let stderr_text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr_text}");
    for text in texts {
        assert!(stderr_text.contains(text), "{arguments:?}: `{text}` is not in: {stderr_text}");
    }
    let left = fs::read_dir(folder.join("perf/out")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "{arguments:?} left files");
}

#[test]
fn perf_compare_rejects_invalid_arguments() {
    let folder = folder("compare_bad");
    assert_rejected(&folder, &["compare", "--cases", "put"], &["`put`", "put-rate"]);
    assert_rejected(&folder, &["compare", "--cases", "put-1,put-1"], &["twice"]);
    assert_rejected(&folder, &["compare", "--only", "mysql"], &["mysql", "bowline-dedicated"]);
    assert_rejected(&folder, &["compare", "--rounds", "0"], &["--rounds"]);
    assert_rejected(&folder, &["compare", "--seconds", "NaN"], &["--seconds"]);
    assert_rejected(&folder, &["compare", "--rate", "0"], &["--rate"]);
    assert_rejected(&folder, &["compare", "--name", "a/b"], &["--name"]);
    let missing = ["compare", "--only", "bowline", "--bowline", "./none"];
    assert_rejected(
        &folder,
        &missing,
        &["nothing can be measured", "./none", "cargo build --release"],
    );
    let program = bowline();
    let rto = ["compare", "--only", "bowline-rto5", "--bowline", program.to_str().unwrap()];
    assert_rejected(&folder, &rto, &["skipped: bowline-rto5", "use perf lossy"]);
    assert_rejected(&folder, &["lossy", "--losses", "95"], &["--losses 95"]);
    assert_rejected(&folder, &["lossy", "--losses", "5,5"], &["twice"]);
    assert_rejected(&folder, &["lossy", "--only", "redis"], &["single process"]);
    let bursts = ["lossy", "--burst", "4", "--losses"];
    assert_rejected(&folder, &[&bursts[..], &["90"]].concat(), &["--burst 4", "no packet between"]);
    assert_rejected(&folder, &["lossy", "--burst", "0"], &["--burst"]);
    assert_rejected(&folder, &["lossy", "--rtt-ms", "1001"], &["--rtt-ms"]);
    assert_rejected(&folder, &["lossy", "--replicas", "9"], &["--replicas"]);
    let fixed = ["lossy", "--only", "bowline5", "--replicas", "5"];
    assert_rejected(&folder, &fixed, &["bowline5 always has 5 servers"]);
    fs::write(folder.join("file"), "in the way").unwrap();
    assert_rejected(&folder, &["compare", "--out", "file/out"], &["file/out", "--out"]);
}

/// Runs `perf lossy` with `arguments`, and returns its results and stderr; `None` if this machine
/// or user cannot create network namespaces.
fn lossy(folder: &Path, arguments: &[&str]) -> Option<(Value, String)> {
    let bowline = bowline();
    let lengths = ["--rounds", "1", "--seconds", "2", "--keys", "100", "--connections", "4"];
    let places = ["--dir", "data", "--out", "out", "--bowline", bowline.to_str().unwrap()];
    let output = perf(folder, &[&["lossy"], arguments, &lengths, &places].concat());
    let stderr_text = stderr(&output);
    let cannot = [
        "needs root",
        "is not installed",
        "unshare failed",
        "cannot create a network bridge",
        "cannot create a TUN device",
        "cannot use the TCP congestion control",
    ];
    if let Some(why) = cannot.iter().find(|why| stderr_text.contains(**why)) {
        assert_ne!(output.status.code(), Some(0));
        eprintln!("skipped: cannot create network namespaces here ({why}): {stderr_text}");
        return None;
    }
    assert_eq!(processes(folder), [""; 0]);
    let text = fs::read_to_string(folder.join("out/lossy.json")).expect("results exist");
    let results: Value = serde_json::from_str(&text).unwrap();
    for run in results["runs"].as_array().unwrap() {
        assert_eq!(run["failure"], Value::Null, "{run}");
        assert!(run["operations"].as_u64().unwrap() > 0, "{run}");
        assert!(run["leader_changes"].is_u64(), "{run}");
    }
    Some((results, stderr_text))
}

#[test]
fn perf_compare_drops_only_packets_between_replicas() {
    let folder = folder("compare_lossy");
    let arguments = ["--losses", "0,10", "--only", "bowline,bowline-rto5"];
    let Some((results, stderr_text)) = lossy(&folder, &arguments) else { return };
    let runs = results["runs"].as_array().unwrap();
    let has_timer = !stderr_text.contains("skipped: bowline-rto5");
    assert_eq!(runs.len(), if has_timer { 4 } else { 2 }, "{stderr_text}");
    for run in runs {
        let retransmitted = run["counters"]["tcp_RetransSegs"].as_u64().unwrap_or(0);
        assert!(run["case"] == "loss-0" || retransmitted > 0, "{run}");
    }
    assert!(stderr_text.contains("choose longer runs"), "{stderr_text}");
    let network = &results["network"];
    assert_eq!(network["TCP congestion control"], "cubic");
    for name in ["offloads", "packets", "packet loss", "packet delay", "TCP minimal timer"] {
        assert!(!network[name].as_str().unwrap().is_empty(), "{network}");
    }
    assert_eq!(results["cases"][1]["sweep"]["value"], 10.0);
    assert!(folder.join("out/lossy.sweep-1.svg").exists());
    for summary in results["summary"].as_array().unwrap() {
        let is_lossy = summary["case"] != "loss-0";
        assert_eq!(summary["of_lossless"]["rate"]["median"].is_f64(), is_lossy, "{summary}");
    }
}

#[test]
fn perf_compare_delays_and_burst_drops_packets_of_replicas() {
    let folder = folder("compare_delayed");
    let conditions = ["--losses", "0,20", "--burst", "4", "--rtt-ms", "20", "--replicas", "5"];
    let arguments = [&conditions[..], &["--only", "bowline"]].concat();
    let Some((results, stderr_text)) = lossy(&folder, &arguments) else { return };
    let runs = results["runs"].as_array().unwrap();
    let names: Vec<&Value> = runs.iter().map(|run| &run["case"]).collect();
    let expected = ["loss-0", "loss-20"].map(|loss| format!("{loss}-burst-4-rtt-20-replicas-5"));
    assert_eq!(names, expected.each_ref(), "{stderr_text}");
    for run in runs {
        // A write takes at least one round trip, even on the fastest machine.
        assert!(run["p50_s"].as_f64().unwrap() > 0.02, "{run}");
        let retransmitted = run["counters"]["tcp_RetransSegs"].as_u64().unwrap_or(0);
        assert!(run["case"] == *names[0] || retransmitted > 0, "{run}");
        let packets = run["counters"]["relay_packets"].as_u64().unwrap();
        assert!(packets > run["operations"].as_u64().unwrap() / 4, "{run}");
    }
    assert_eq!(results["systems"][0]["about"], "five replicas, --threads auto");
    assert_eq!(results["systems"][0]["copies"], 3);
    let page = fs::read_to_string(folder.join("out/lossy.html")).unwrap();
    for text in ["Relative to the same round", "leader changes", "bursts of 4 packets on average"] {
        assert!(page.contains(text), "{text}");
    }
}
