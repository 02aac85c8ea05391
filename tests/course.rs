//! The replica program, as a simulator of the course meets it: real processes, real sockets, every
//! transport, both arrangements of threads. What is counted is asserted; times never are, for this
//! runs on busy machines too.

#[path = "course/hostile.rs"]
mod hostile;
#[path = "course/program.rs"]
mod program;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use bowline::processes::{self, Options, Output, Protocol};
use bowline::sim::report::Report;
use bowline::sim::scenario::Scenario;
use tempfile::TempDir;

use program::REPLICA;

/// Losses, a cut and a kill in eight seconds. No request comes right before the kill, where it
/// would be lost with the leader; and after the last one there is time for every answer. Whether
/// clients have put anything yet that they could get is the generator's luck and not judged.
const SHORT: &str = r#"{
    "lifetime": 8, "start_wait": 4, "end_wait": 5, "replicas": 5, "requests": 80, "mix": 0.5,
    "drops": 0.1,
    "events": [
        {"type": "part_easy", "time": 1.55},
        {"type": "part_end", "time": 3.05},
        {"type": "kill_leader", "time": 4.56}
    ],
    "tests": {"maximum_get_generation_fail_fraction": 1, "benchmarks": {
        "total_msgs": [1000, 2000, 3000], "failures": [1, 2, 3],
        "duplicates": [1, 2, 3], "median_latency": [1, 2, 3]
    }}
}"#;

/// The replica program behind a script that chooses how its threads are arranged.
fn wrapped(threads: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder for the script");
    let script = folder.path().join("replica");
    fs::write(&script, format!("#!/bin/sh\nexec '{REPLICA}' --threads {threads} \"$@\"\n"))
        .expect("a file");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("its mode");
    (folder, script)
}

fn run_short(protocol: Protocol, threads: &str) -> Report {
    let (_folder, program) = wrapped(threads);
    let scenario = Scenario::parse("short", SHORT).expect("a scenario");
    let options = Options { program, protocol, output: Output::Keep };
    processes::run(&scenario, 7, &options, &AtomicBool::new(false), &mut |_| {})
        .expect("a run")
        .report()
}

/// All transports at once: nearly all of the time is spent waiting.
fn holds(threads: &str) {
    let protocols = [Protocol::Udp, Protocol::SeqPacket, Protocol::Stream];
    let reports = std::thread::scope(|scope| {
        let runs = protocols.map(|protocol| scope.spawn(move || run_short(protocol, threads)));
        runs.map(|run| run.join().expect("a run that can be held"))
    });
    // Only now, for a panic would end the replicas of the other runs.
    for (protocol, report) in protocols.iter().zip(reports) {
        assert!(report.passed, "{protocol:?}: {:?}: {:?}", report.verdict, report.reasons);
        assert_eq!((report.incorrect, report.died), (0, 0), "{protocol:?}: {report:?}");
        assert_eq!((report.unanswered, report.failures), (0, 0), "{protocol:?}: {report:?}");
        // One for each time that the leader may have changed (design.md §6).
        assert!(report.duplicates <= 2, "{protocol:?}: {report:?}");
        assert_eq!(report.killed, 1, "{protocol:?}: no leader was known: {report:?}");
    }
}

#[test]
fn a_short_run_holds_on_one_thread() {
    holds("fused");
}

#[test]
fn a_short_run_holds_on_a_thread_a_stage() {
    holds("dedicated");
}
