//! The replica program under the university course's simulator: real processes, real sockets, every
//! transport, both thread arrangements. The tests assert counts, never durations, because they also
//! run on busy machines.

#[path = "hostile_network.rs"]
mod hostile_network;
#[path = "replica_program.rs"]
mod replica_program;

use std::process::Command;

use serde_json::{Value, json};

use replica_program::REPLICA;

/// A scenario with message loss, a partition and a kill in eight seconds. No request comes right
/// before the kill, and after the last request there is time for every reply. Whether clients can
/// read what they have written depends on the random requests and is not judged.
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

/// Runs the scenario once under the process simulator, started as from a terminal, and returns the
/// report.
fn run_short(protocol: &str, threads: &str) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_bowline"))
        .args(["sim", "--processes", "--replica", REPLICA, "--protocol", protocol])
        .args(["--seed", "7", "--json", SHORT])
        .env("BOWLINE_THREADS", threads)
        .output()
        .expect("our own program starts");
    let complaints = String::from_utf8_lossy(&output.stderr);
    let reports: Value = serde_json::from_slice(&output.stdout).expect(&complaints);
    reports[0].clone()
}

/// Runs all transports at the same time, because the runs spend nearly all of their time waiting,
/// and checks the reports.
fn holds(threads: &str) {
    let protocols = ["udp", "seqpacket", "stream"];
    let reports = std::thread::scope(|scope| {
        let runs = protocols.map(|protocol| scope.spawn(move || run_short(protocol, threads)));
        runs.map(|run| run.join().expect("a run that was held"))
    });
    for (protocol, report) in protocols.iter().zip(reports) {
        for (count, expected) in [
            ("passed", json!(true)),
            ("incorrect", json!(0)),
            ("died", json!(0)),
            ("killed", json!(1)),
        ] {
            assert_eq!(report[count], expected, "{protocol}: {count}: {report}");
        }
        // A request that the killed leader had not replicated yet, because messages were lost,
        // cannot be answered.
        assert!(report["failures"].as_u64() <= Some(1), "{protocol}: {report}");
        // One duplicate for each time that the leader may have changed.
        assert!(report["duplicates"].as_u64() <= Some(2), "{protocol}: {report}");
    }
}

#[test]
fn partition_and_kill_scenario_passes_with_shared_stage_thread() {
    holds("fused");
}

#[test]
fn partition_and_kill_scenario_passes_with_thread_per_stage() {
    holds("dedicated");
}
