//! The simulator as a test: it runs a sample of seeds of every profile, one seed twice, and the
//! university course's scenarios in virtual time. `bowline sim` explores more of each.

#[path = "sim/forged_messages.rs"]
mod forged_messages;
#[path = "sim/partitions.rs"]
mod partitions;

use std::cell::RefCell;
use std::process::{Command, Output};
use std::time::Duration;

use bowline::course::report::Tier;
use bowline::course::scenario::{EventKind, Overrides, Scenario, names};
use bowline::sim::cluster::trace::Trace;
use bowline::sim::course_run::{self, Options};
use bowline::sim::coverage::{Coverage, Situation};
use bowline::sim::disk::statistics::{DiskFault, FaultEffect, FaultStatistics};
use bowline::sim::fault_run;
use bowline::sim::faults::Profile;
use serde_json::Value;

/// Situations that must occur in the runs of every profile.
const ALWAYS: [Situation; 3] =
    [Situation::Election, Situation::LeaseRead, Situation::ReadIndexRead];

/// Situations that must occur in profiles with TTLs and jumps of wall clocks.
const EXPIRATION: [Situation; 4] = [
    Situation::Expiration,
    Situation::ExpirationAcrossLeaders,
    Situation::DeferredRead,
    Situation::ClockJump,
];

/// Runs seeds until one fails, and panics with the reason if so. All runs together must reach the
/// situations in [`ALWAYS`] and in `reached`. Returns the fault statistics of the disks, and how
/// many times each situation was reached.
fn hold(profile: Profile, seeds: u64, reached: &[Situation]) -> (FaultStatistics, Coverage) {
    let mut disks = FaultStatistics::default();
    let mut coverage = Coverage::default();
    for seed in 1..=seeds {
        let result = fault_run::run(profile, seed, Trace::default(), &|_| ());
        if let Ok(summary) = result {
            disks.add(&summary.disks);
            coverage.merge(&summary.coverage);
            continue;
        }
        let failure = fault_run::run(profile, seed, Trace::detailed(40), &|_| ())
            .expect_err("the same seed is the same run");
        panic!(
            "{} seed {seed} at {:?}:\n{}\n{}\nreplay: cargo run --release -- sim --profile {} \
             --seed {seed} --trace",
            profile.name(),
            failure.at,
            failure.trace.join("\n"),
            failure.violation,
            profile.name()
        );
    }
    for situation in ALWAYS.iter().chain(reached) {
        assert!(
            coverage.count(*situation) > 0,
            "{seeds} seeds of {} reached no {}: {}",
            profile.name(),
            situation.name(),
            coverage.line()
        );
    }
    (disks, coverage)
}

/// Asserts that every replica that lost its disk has rejoined.
#[track_caller]
fn assert_all_rejoined(coverage: &Coverage) {
    let (lost, back) = (coverage.count(Situation::DiskLoss), coverage.count(Situation::Rejoin));
    assert!(lost > 0 && lost == back, "{}", coverage.line());
}

#[test]
fn simulated_mixed_faults_violate_no_invariant() {
    let reached = [&[Situation::Resend, Situation::VoterDiskLoss][..], &EXPIRATION].concat();
    assert_all_rejoined(&hold(Profile::Mixed, 800, &reached).1);
}

#[test]
fn simulated_cluster_without_faults_violates_no_invariant() {
    hold(Profile::Quiet, 30, &[]);
}

#[test]
fn simulated_lossy_network_violates_no_invariant() {
    hold(Profile::Network, 120, &[Situation::Resend]);
}

#[test]
fn simulated_partitions_violate_no_invariant() {
    hold(Profile::Partitions, 120, &[Situation::Resend, Situation::RequestedTransfer]);
}

#[test]
fn simulated_crashes_and_slow_disks_violate_no_invariant() {
    assert_all_rejoined(
        &hold(Profile::Crashes, 200, &[Situation::Resend, Situation::RequestedTransfer]).1,
    );
}

/// Runs the storage code and the protocol together. Every kind of disk fault must occur and have
/// its expected effect.
#[test]
fn simulated_disk_faults_violate_no_invariant() {
    let reached =
        [Situation::Resend, Situation::Install, Situation::ChangedState, Situation::WrongState];
    let (disks, _) = hold(Profile::Storage, 500, &reached);
    for kind in DiskFault::ALL {
        assert!(disks.injected(kind) > 0, "no {} in\n{}", kind.name(), disks.table());
    }
    for (kind, effect) in [
        (DiskFault::FailedWrite, FaultEffect::Stopped),
        (DiskFault::FailedSync, FaultEffect::Stopped),
        (DiskFault::FailedNames, FaultEffect::Stopped),
        (DiskFault::FullDisk, FaultEffect::Abandoned),
        (DiskFault::TornWrite, FaultEffect::TailRemoved),
        (DiskFault::FlippedBit, FaultEffect::Refused),
        (DiskFault::FlippedBit, FaultEffect::Restored),
        (DiskFault::FlippedBit, FaultEffect::Repaired),
        (DiskFault::FlippedBit, FaultEffect::OlderSnapshot),
        (DiskFault::LostWrite, FaultEffect::Refused),
        (DiskFault::MisdirectedWrite, FaultEffect::Refused),
        (DiskFault::VanishedFile, FaultEffect::Refused),
        (DiskFault::CorruptSnapshot, FaultEffect::Repaired),
        (DiskFault::CorruptSnapshot, FaultEffect::Abandoned),
        (DiskFault::CorruptSnapshot, FaultEffect::Replaced),
        (DiskFault::BadSnapshotWrite, FaultEffect::Abandoned),
        (DiskFault::OldFiles, FaultEffect::Refused),
        (DiskFault::OldCopy, FaultEffect::Rejected),
        (DiskFault::PowerCut, FaultEffect::CaughtUp),
    ] {
        let text = format!("{} {}", kind.name(), effect.name());
        assert!(disks.caused(kind, effect) > 0, "no {text} in\n{}", disks.table());
    }
}

#[test]
fn simulated_faults_between_pieces_violate_no_invariant() {
    let reached = [
        Situation::Resend,
        Situation::CompletedBatch,
        Situation::RefusedPieces,
        Situation::DroppedPieces,
        Situation::PiecesInSnapshot,
    ];
    hold(Profile::LargeWrites, 400, &reached);
}

/// Runs seeds that are not in the sample and that failed before a bug was fixed. A change of the
/// random draws turns them into other runs; new seeds are added when they are found.
#[test]
fn simulator_seeds_of_fixed_bugs_violate_no_invariant() {
    for (profile, seed) in [
        // A leader outside the majority sent a snapshot in chunks so small that on a bad link it
        // took longer than any timeout.
        (Profile::Storage, 1_805),
        (Profile::Storage, 203_199),
        // Such a leader had more entries to send than its window allowed in that time.
        (Profile::Storage, 1_000_526),
        (Profile::Storage, 1_060_358),
        // A copy of the whole log was taken for a part of it, because it had an unfinished file
        // more.
        (Profile::Storage, 1_009_651),
        (Profile::Storage, 1_009_408),
        // The first segments were deleted because of a meta record whose name was not durable.
        (Profile::Storage, 1_019_040),
        // A misdirected write repaired an earlier corruption.
        (Profile::Storage, 4_002_087),
        // A corrupted snapshot that vanished was restored in its corrupted form.
        (Profile::Storage, 1_021_557),
        // A snapshot whose name a power cut had undone came back in a copy.
        (Profile::Storage, 1_021_994),
        // One key with more operations than the linearizability checker can handle.
        (Profile::Storage, 50_934),
        (Profile::Storage, 52_817),
        // An entry of the replicated clock was refused because the log was full, and the next write
        // was applied without one: its key expired at once.
        (Profile::Mixed, 711),
        // An idle client slept on when a late reply gave it work.
        (Profile::Snapshots, 906),
        // A batch that exceeded the limit of uncommitted bytes alone was refused for ever.
        (Profile::Storage, 30_001_963),
        // Clock entries used up the limit of uncommitted bytes before each write, while messages to
        // a peer that was down kept the other peer from its entries.
        (Profile::Mixed, 1_954),
        // A replica lost its disk again after its last sync before a crash had made it a member,
        // and the checker took it for one that was still rejoining.
        (Profile::Crashes, 60_000_652),
        // Entries after a joint configuration were only on replicas that it removed, and those did
        // not campaign.
        (Profile::Storage, 116),
        // A leader took the answer to a late append of its earlier term for a malformed one, since
        // it had lost the entries in a crash.
        (Profile::Members, 772),
    ] {
        let result = fault_run::run(profile, seed, Trace::default(), &|_| ());
        assert!(
            result.is_ok(),
            "{} seed {seed}: {}",
            profile.name(),
            result.unwrap_err().violation
        );
    }
}

#[test]
fn simulated_snapshots_and_compaction_violate_no_invariant() {
    let (disks, coverage) =
        hold(Profile::Snapshots, 200, &[Situation::Resend, Situation::InterruptedInstall]);
    // Those that repaired their folders have rejoined, too.
    let repairs: u64 =
        DiskFault::ALL.iter().map(|kind| disks.caused(*kind, FaultEffect::Repaired)).sum();
    let (lost, back) = (coverage.count(Situation::DiskLoss), coverage.count(Situation::Rejoin));
    // A replica whose state was wrong rejoins only if its log had been compacted.
    let wrong = coverage.count(Situation::WrongState);
    let rejoined = lost + repairs..=lost + repairs + wrong;
    let message = format!("{repairs} repairs: {}", coverage.line());
    assert!(lost > 0 && wrong > 0 && rejoined.contains(&back), "{message}");
    let installs = coverage.count(Situation::Install);
    assert!(installs > 700, "only {installs} snapshots were installed");
    assert!(disks.restarts > 200 && disks.segments_deleted > 1_000, "{disks:?}");
    assert!(
        disks.interrupted_compactions > 10 && disks.injected(DiskFault::FlippedBit) > 0,
        "{disks:?}"
    );
}

#[test]
fn simulated_clock_skew_and_pauses_violate_no_invariant() {
    hold(Profile::Clocks, 80, &[&[Situation::Resend][..], &EXPIRATION].concat());
}

/// Runs the server's transport and the protocol together.
#[test]
fn simulated_udp_streams_with_loss_violate_no_invariant() {
    let reached = [
        Situation::Resend,
        Situation::Install,
        Situation::DatagramLoss,
        Situation::Retransmission,
        Situation::StreamReset,
        Situation::UnsentMessage,
        Situation::SplitMessage,
    ];
    let (_, coverage) = hold(Profile::Streams, 150, &reached);
    assert_all_rejoined(&coverage);
    let opened = coverage.count(Situation::StreamOpened);
    assert!(opened > 5_000, "only {opened} streams were opened");
}

/// Changes the members all the time, under all types of faults.
#[test]
fn simulated_membership_changes_violate_no_invariant() {
    let reached = [
        Situation::Resend,
        Situation::Install,
        Situation::NewMemberLeads,
        Situation::RemovedLeader,
        Situation::ConfigurationTruncated,
        Situation::InheritedJoint,
        Situation::WitnessLeads,
        Situation::WitnessLogMoved,
        Situation::WitnessInstall,
    ];
    let (_, coverage) = hold(Profile::Members, 200, &reached);
    let changes = coverage.count(Situation::MemberChange);
    assert!(changes > 500, "only {changes} changes of the members");
}

/// Returns every event of a run, as text.
fn events(profile: Profile, seed: u64) -> Vec<String> {
    thread_local! {
        static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }
    let keep = |line: &str| LINES.with_borrow_mut(|lines| lines.push(line.to_owned()));
    fault_run::run(profile, seed, Trace::streaming(keep), &|_| ()).expect("this seed holds");
    LINES.take()
}

#[test]
fn same_simulator_seed_gives_byte_for_byte_the_same_run() {
    for (profile, seed) in
        [(Profile::Mixed, 1), (Profile::Crashes, 3), (Profile::Storage, 2), (Profile::Streams, 2)]
    {
        let (first, second) = (events(profile, seed), events(profile, seed));
        assert!(first.len() > 1_000, "{} events", first.len());
        if let Some(place) = (0..first.len()).find(|&place| first.get(place) != second.get(place)) {
            panic!("event {place}: {:?} and {:?}", first[place], second.get(place));
        }
        assert_eq!(first.len(), second.len());
    }
}

#[test]
fn tracing_does_not_change_a_simulation_run() {
    let silent = fault_run::run(Profile::Mixed, 5, Trace::default(), &|_| ());
    assert_eq!(silent, fault_run::run(Profile::Mixed, 5, Trace::detailed(10), &|_| ()));
    let other = fault_run::run(Profile::Mixed, 6, Trace::default(), &|_| ());
    assert_ne!(silent, other, "another seed is another run");
}

#[test]
fn all_built_in_scenarios_pass_in_virtual_time() {
    for name in names() {
        let scenario = Scenario::built_in(name).expect("a built-in scenario");
        let mut redirects = Vec::new();
        for seed in 1..=5 {
            let report = course_run::run(&scenario, seed, Options::default()).report;
            assert!(report.passed, "{name} seed {seed}: {:?}", report.reasons);
            redirects.push(report.redirects);
        }
        redirects.sort_unstable();
        let most = 25 + 25 * scenario.events.len() as u64;
        assert!(redirects[2] <= most, "{name}: {redirects:?} redirects, mostly more than {most}");
    }
}

/// Checks the balance between few messages and low latency (`Config::course`). The tier for
/// messages must be Bonus in all scenarios except advanced-1 to advanced-4, and the tier for the
/// median latency must be Full credit in all scenarios. At most one duplicate may occur in crash-3
/// and crash-4: the request that the killed leader could no longer answer and that its successor
/// answers again.
#[test]
fn built_in_scenarios_keep_their_performance_tiers() {
    for name in names() {
        let scenario = Scenario::built_in(name).expect("a built-in scenario");
        for seed in 1..=20 {
            let report = course_run::run(&scenario, seed, Options::default()).report;
            // A run that failed only because of the request generator has no tiers.
            let Some(tiers) = report.tiers else { continue };
            let is_advanced = name.starts_with("advanced");
            assert!(
                is_advanced || tiers.total_msgs == Tier::Bonus,
                "{name} seed {seed}: {report:?}"
            );
            for tier in [tiers.total_msgs, tiers.failures, tiers.median_latency] {
                assert!(matches!(tier, Tier::Bonus | Tier::Full), "{name} seed {seed}: {report:?}");
            }
            if matches!(name, "crash-3" | "crash-4") {
                assert!(report.duplicates <= 1, "{name} seed {seed}: {report:?}");
            }
        }
    }
}

/// Half of all messages are lost, the leader is killed, and the last ten seconds are without loss:
/// by their end, every request to a live replica must have its reply.
#[test]
fn every_request_completes_despite_loss_and_leader_kill() {
    let scenario = Scenario::built_in("advanced-3").expect("a built-in scenario");
    let changes = Overrides { drops: Some(0.5), ..Overrides::default() };
    let scenario = scenario.with(&changes).expect("a valid share");
    assert_eq!(scenario.events[0].kind, EventKind::KillLeader);
    for seed in 1..=200 {
        let lossless_tail = Duration::from_secs(10);
        let run = course_run::run(&scenario, seed, Options { lossless_tail, ..Options::default() });
        assert_eq!(run.report.incorrect, 0, "seed {seed}: {:?}", run.report.reasons);
        assert!(run.hanging.is_empty(), "seed {seed}: {:?} hang", run.hanging);
    }
}

// The command line.

fn bowline(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bowline"));
    command.arg("sim").args(arguments).output().expect("bowline can be started")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("JSON on standard output")
}

#[test]
fn bowline_sim_runs_and_lists_all_scenarios_by_default() {
    let output = bowline(&["--json"]);
    assert!(output.status.success(), "{output:?}");
    let reports = json(&output);
    let reports = reports.as_array().expect("a list");
    assert_eq!(reports.len(), 17);
    for report in reports {
        assert_eq!(report["passed"], true, "{report}");
        for field in ["total_msgs", "failures", "duplicates", "redirects", "seed"] {
            assert!(report[field].is_u64(), "{field} of {report}");
        }
        assert!(report["scenario"].is_string() && report["median_latency_s"].is_f64());
    }
    let table = bowline(&[]);
    assert!(table.status.success());
    let table = String::from_utf8(table.stdout).expect("text");
    assert!(names().all(|name| table.contains(name)), "{table}");
}

#[test]
fn failing_simulator_run_prints_the_command_to_replay_it() {
    // No client can commit in a cluster with only two of five replicas left.
    let kills = r#"[{"type": "kill_leader", "time": 1}, {"type": "kill_non_leader", "time": 1},
        {"type": "kill_non_leader", "time": 1}]"#;
    let scenario = format!(
        r#"{{"lifetime": 8, "replicas": 5, "requests": 80, "mix": 0.2, "events": {kills},
        "tests": {{"benchmarks": {{"total_msgs": [1, 2, 3], "failures": [1, 2, 3],
        "duplicates": [1, 2, 3], "median_latency": [1, 2, 3]}}}}}}"#
    );
    let output = bowline(&[&scenario, "--seed", "5", "--seeds", "2", "--drops", "0.1"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let errors = String::from_utf8(output.stderr).expect("text");
    assert!(errors.contains("seed 5 failed") && errors.contains("seed 6 failed"), "{errors}");
    assert!(errors.contains("--drops 0.1 --seed 6 --trace"), "{errors}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("2 seeds, 2 failed"));
}

/// Regression test: a run in which nothing is answered used to list each of its requests.
#[test]
fn bowline_sim_lists_at_most_ten_unanswered_requests() {
    let output = bowline(&["simple-1", "--seed", "1", "--drops", "1"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let errors = String::from_utf8(output.stderr).expect("text");
    assert_eq!(
        errors.lines().filter(|line| line.contains("never answered")).count(),
        10,
        "{errors}"
    );
    assert!(errors.contains("more requests") && errors.lines().count() < 60, "{errors}");
}

/// Regression test: a run of zero seeds used to pass.
#[test]
fn bowline_sim_rejects_zero_runs_or_seeds() {
    for arguments in
        [&["--seeds", "0"][..], &["--runs", "0"], &["--profile", "mixed", "--seeds", "0"]]
    {
        let output = bowline(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains("0 is not in 1.."), "{errors}");
    }
}

#[test]
fn bowline_sim_with_a_fault_profile_prints_a_summary() {
    let output = bowline(&["--profile", "mixed", "--seed", "3", "--seeds", "4", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let summary = json(&output);
    assert_eq!((&summary["seeds"], &summary["passed"]), (&4.into(), &true.into()), "{summary}");
    assert!(summary["virtual_s"].as_f64() > Some(40.0), "{summary}");
}

#[test]
fn bowline_sim_with_the_trace_option_prints_events() {
    let output = bowline(&["--profile", "quiet", "--seed", "1", "--trace"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.lines().any(|line| line.ends_with(" leader")), "no replica became the leader");
}

#[test]
fn bowline_sim_error_for_invalid_argument_lists_valid_ones() {
    for (arguments, part) in [
        (&["--profile", "nonsense"][..], "the profiles are mixed"),
        (&["nonsense"], "no scenario `nonsense`"),
        (&["--profile", "mixed", "simple-1"], "cannot be used with"),
        (&["simple-1", "--drops", "2"], "drops"),
    ] {
        let output = bowline(arguments);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{errors}");
        assert!(errors.contains(part), "{errors}");
    }
}
