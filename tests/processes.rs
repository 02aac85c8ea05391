//! Tests of the process simulator, `bowline sim --processes`, from end to end, with replica
//! programs that are correct or misbehave. For each fault, the tests check the message and the exit
//! code, and that no process is left behind. They assert counts, never durations.

#![expect(clippy::unwrap_used, reason = "a test that can't go on may panic")]

#[path = "processes/course.rs"]
mod course;
#[path = "processes/misbehaving_replica.rs"]
mod misbehaving_replica;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use misbehaving_replica::Habit;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use tempfile::TempDir;

const HABIT: &str = "BOWLINE_TEST_HABIT";
const ARGUMENTS: &str = "BOWLINE_TEST_ARGUMENTS";

/// A short scenario: four seconds for five programs to start, and 1.5 seconds after the last
/// request for the last replies. Both are far more than needed.
const SHORT: &str = r#"{
    "lifetime": 5, "replicas": 5, "requests": 200, "mix": 0.5, "start_wait": 4, "end_wait": 1.5,
    "max_packets": 2000, "events": EVENTS,
    "tests": {
        "maximum_get_generation_fail_fraction": 1,
        "benchmarks": {
            "total_msgs": [1000, 2000, 3000], "failures": [1, 2, 3],
            "duplicates": [1, 2, 3], "median_latency": [0.1, 1, 10]
        }
    }
}"#;

/// Not a test, but the replica program that the other tests use. The simulator starts a script,
/// which starts this test program with an environment variable that makes it a replica.
#[test]
fn not_a_test_but_the_replica_program_of_other_tests() {
    let habits = [
        Habit::Sound,
        Habit::QuitsLater,
        Habit::Floods,
        Habit::SendsBrokenJson,
        Habit::Lies,
        Habit::AnswersTwice,
        Habit::Mute,
    ];
    let (Ok(wanted), Ok(arguments)) = (std::env::var(HABIT), std::env::var(ARGUMENTS)) else {
        return;
    };
    let habit = habits.into_iter().find(|habit| format!("{habit:?}") == wanted).unwrap();
    let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
    misbehaving_replica::run(habit, &arguments)
}

/// A folder with a replica program, which records the ids of its processes in the folder.
struct Stage {
    folder: TempDir,
}

impl Stage {
    fn with_script(body: &str) -> Stage {
        let folder = tempfile::tempdir().unwrap();
        let pids = folder.path().join("pids");
        let text = format!("#!/bin/sh\necho $$ >> '{}'\n{body}\n", pids.display());
        Stage::with_file(folder, &text, 0o755)
    }

    fn with_file(folder: TempDir, text: &str, mode: u32) -> Stage {
        let stage = Stage { folder };
        // The file is written by another process. While this process has a file open for writing,
        // another thread may start a child that inherits the open file, and an open file cannot be
        // executed.
        let mut writer = Command::new("/bin/sh")
            .args(["-c", "cat > \"$0\" && chmod \"$1\" \"$0\""])
            .arg(stage.program())
            .arg(format!("{mode:o}"))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        writer.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(writer.wait().unwrap().success());
        stage
    }

    fn with_habit(habit: Habit) -> Stage {
        let own = std::env::current_exe().unwrap();
        Stage::with_script(&format!(
            "export {HABIT}={habit:?} {ARGUMENTS}=\"$*\"\n\
             exec '{}' --exact not_a_test_but_the_replica_program_of_other_tests --nocapture",
            own.display()
        ))
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("replica")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bowline"));
        command.args(["sim", "--processes", "--replica"]).arg(self.program()).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Run {
        Run::of(self.command(arguments).output().unwrap())
    }

    /// Runs the simulator with one second of requests and these events.
    fn run_short(&self, events: &str, arguments: &[&str]) -> Run {
        let scenario = SHORT.replace("EVENTS", events);
        self.run(&[&["--seconds", "1", &scenario], arguments].concat())
    }

    fn pids(&self) -> Vec<Pid> {
        let text = fs::read_to_string(self.folder.path().join("pids")).unwrap_or_default();
        text.lines().map(|line| Pid::from_raw(line.trim().parse().unwrap()).unwrap()).collect()
    }

    /// Asserts that `started` processes were started and that none of them is left.
    #[track_caller]
    fn assert_no_process_left(&self, started: usize) {
        let pids = self.pids();
        assert_eq!(pids.len(), started, "processes started");
        pids.into_iter().for_each(assert_gone);
    }
}

/// Asserts that a process is gone. Waits a little, because the system may take a moment to reap a
/// process whose parent is gone.
#[track_caller]
fn assert_gone(pid: Pid) {
    for _ in 0..1_000 {
        if test_kill_process(pid).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{pid:?} was left behind");
}

/// The result of a run of the simulator: its exit code and output.
struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Run {
    fn of(output: Output) -> Run {
        Run {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    fn assert_failed(&self, code: i32, parts: &[&str]) {
        let text = format!("{}{}", self.out, self.err);
        assert_eq!(self.code, Some(code), "{text}");
        for part in parts {
            assert!(text.contains(part), "`{part}` is missing in:\n{text}");
        }
    }

    fn report(&self) -> Value {
        let list: Value = serde_json::from_str(&self.out).expect(&self.err);
        list[0].clone()
    }
}

#[test]
fn correct_replica_program_passes_a_scenario_over_udp() {
    let stage = Stage::with_habit(Habit::Sound);
    let run = stage.run_short("[]", &["--json", "--seed", "9"]);
    assert_eq!(run.code, Some(0), "{}{}", run.out, run.err);
    let report = run.report();
    assert_eq!(report["passed"], true);
    assert_eq!((&report["seed"], &report["failures"]), (&9.into(), &0.into()));
    assert_eq!(report["overrides"][0], "seconds=1");
    let (puts, gets) = (&report["put_latency"]["count"], &report["get_latency"]["count"]);
    let puts = puts.as_u64().unwrap();
    assert_eq!(puts + gets.as_u64().unwrap(), 40);
    assert_eq!(report["total_msgs"], 4 * puts, "a put is sent to four others");
    assert_eq!(report["leaders"], serde_json::json!(["0000"]));
    stage.assert_no_process_left(5);
}

#[test]
fn correct_replica_program_passes_a_scenario_over_unix_sockets() {
    for protocol in ["seqpacket", "stream"] {
        let stage = Stage::with_habit(Habit::Sound);
        let run =
            stage.run_short("[]", &["--protocol", protocol, "--discard-output", "--runs", "2"]);
        assert_eq!(run.code, Some(0), "{protocol}: {}{}", run.out, run.err);
        assert!(run.out.contains("2 of 2 passed"), "{}", run.out);
        stage.assert_no_process_left(10);
    }
}

/// Regression test: `--trace` used to be refused with `--processes`.
#[test]
fn trace_option_shows_each_message_between_processes() {
    let stage = Stage::with_habit(Habit::Sound);
    let events = r#"[{"type": "kill_non_leader", "time": 2}]"#;
    let run = stage.run_short(events, &["--discard-output", "--trace", "--requests", "20"]);
    assert_eq!(run.code, Some(0), "{}{}", run.out, run.err);
    let count = |part: &str| run.out.lines().filter(|line| line.contains(part)).count();
    let redirects = count("\"type\":\"redirect\"");
    assert_eq!(count("s client -> "), 20 + redirects, "each redirect is followed: {}", run.out);
    assert_eq!(count(" killed by the scenario"), 1, "{}", run.out);
    assert!(count(" -> client {") > 0 && count("s 0000 -> 0001 {") > 0, "{}", run.out);
    stage.assert_no_process_left(5);
}

#[test]
fn replica_killed_by_the_scenario_does_not_fail_the_run() {
    let stage = Stage::with_habit(Habit::Sound);
    let events =
        r#"[{"type": "kill_non_leader", "time": 2}, {"type": "kill_non_leader", "time": 4}]"#;
    let run = stage.run_short(events, &["--json"]);
    assert_eq!(run.code, Some(0), "{}{}", run.out, run.err);
    let report = run.report();
    assert_eq!((&report["killed"], &report["died"]), (&2.into(), &0.into()));
    assert_eq!(report["unavailability"][0]["event"], "kill_non_leader");
    stage.assert_no_process_left(5);
}

#[test]
fn missing_replica_program_is_named_in_the_error() {
    let run = |program: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bowline"));
        command.args(["sim", "--processes", "simple-1", "--replica"]).arg(program);
        Run::of(command.output().unwrap())
    };
    let folder = tempfile::tempdir().unwrap();
    run(&folder.path().join("none")).assert_failed(2, &["none`: no such file; give its path"]);
    run(folder.path()).assert_failed(2, &["not a file"]);
}

#[test]
fn unexecutable_replica_program_is_named_in_the_error() {
    let plain = Stage::with_file(tempfile::tempdir().unwrap(), "text", 0o644);
    plain.run(&["simple-1"]).assert_failed(2, &["not executable; run `chmod +x"]);
    let lost = "#!/no/such/interpreter\n";
    for text in ["\u{1}\u{2}\u{3}", lost] {
        let stage = Stage::with_file(tempfile::tempdir().unwrap(), text, 0o755);
        let run = stage.run(&["simple-1"]);
        run.assert_failed(2, &["cannot start", "first line", "built for this"]);
    }
}

#[test]
fn replica_exit_at_start_is_reported_with_its_output() {
    let stage = Stage::with_script("echo 'ModuleNotFoundError: raft' >&2; exit 3");
    let run = stage.run_short("[]", &[]);
    run.assert_failed(
        1,
        &["replica 0000 died: exited with code 3", "ModuleNotFoundError: raft", "FAIL"],
    );
    stage.assert_no_process_left(5);
}

#[test]
fn replica_exit_during_the_run_is_reported() {
    let stage = Stage::with_habit(Habit::QuitsLater);
    for protocol in ["udp", "stream"] {
        let run = stage.run_short("[]", &["--protocol", protocol]);
        run.assert_failed(1, &["died: exited with code 7", "the disk is full"]);
    }
    stage.assert_no_process_left(10);
}

#[test]
fn scenario_run_ends_when_a_replica_floods_messages() {
    let stage = Stage::with_habit(Habit::Floods);
    let run = stage.run_short("[]", &["--json"]);
    run.assert_failed(1, &["max_packets", "messages that trigger each other"]);
    let report = run.report();
    // Up to five broadcasts are counted before the limit is checked.
    assert!((2_000..2_020).contains(&report["total_msgs"].as_u64().unwrap()), "{report}");
    // The run may end before the last program has recorded its id.
    stage.pids().into_iter().for_each(assert_gone);
}

#[test]
fn invalid_json_from_a_replica_is_quoted_in_the_error() {
    let stage = Stage::with_habit(Habit::SendsBrokenJson);
    let run = stage.run_short("[]", &["--json"]);
    run.assert_failed(1, &["sent a message that is not valid JSON (", r#"`{\"src\": \"0000\", `"#]);
    assert_eq!(run.report()["incorrect"], 40);
    stage.assert_no_process_left(5);
}

#[test]
fn wrong_values_and_repeated_replies_count_as_incorrect() {
    let stage = Stage::with_habit(Habit::Lies);
    stage.run_short("[]", &[]).assert_failed(1, &["with the value `a lie`, but the client's last"]);
    stage.assert_no_process_left(5);
    let stage = Stage::with_habit(Habit::AnswersTwice);
    stage.run_short("[]", &[]).assert_failed(1, &["already answered with redirect or fail"]);
    stage.assert_no_process_left(5);
}

#[test]
fn replica_that_sends_no_hello_counts_as_dead() {
    let stage = Stage::with_habit(Habit::Mute);
    let run = stage.run_short("[]", &[]);
    run.assert_failed(1, &["was sent a message before it sent a hello; send a hello at once"]);
    stage.assert_no_process_left(5);
    // A script that only waits never connects either, and its child processes are killed with it.
    let stage = Stage::with_script("sleep 1000 & echo $! >> \"$0.children\"; wait");
    let run = stage.run_short("[]", &["--protocol", "seqpacket"]);
    run.assert_failed(1, &["before it connected; connect at once"]);
    stage.assert_no_process_left(5);
    let children = fs::read_to_string(stage.folder.path().join("replica.children")).unwrap();
    assert_eq!(children.lines().count(), 5);
    for line in children.lines() {
        assert_gone(Pid::from_raw(line.parse().unwrap()).unwrap());
    }
}

#[test]
fn replica_that_ignores_sigterm_is_killed() {
    let stage = Stage::with_script("trap '' TERM\nsleep 1000");
    let run = stage.run_short("[]", &[]);
    run.assert_failed(1, &["before it sent a hello"]);
    stage.assert_no_process_left(5);
}

#[test]
fn interrupting_the_simulator_stops_all_replica_processes() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let stage = Stage::with_habit(Habit::Sound);
        let mut command = stage.command(&["simple-1"]);
        let mut simulator = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        while stage.pids().len() < 5 {
            assert!(simulator.try_wait().unwrap().is_none(), "it runs until it is interrupted");
            std::thread::sleep(Duration::from_millis(5));
        }
        kill_process(Pid::from_child(&simulator), signal).unwrap();
        let run = Run::of(simulator.wait_with_output().unwrap());
        run.assert_failed(130, &["interrupted by a signal", "all replicas were stopped"]);
        stage.assert_no_process_left(5);
    }
}

#[test]
fn invalid_scenario_is_refused_before_replicas_start() {
    let stage = Stage::with_habit(Habit::Sound);
    for (argument, parts) in [
        ("simple-9", ["there is no scenario `simple-9`", "advanced-4"]),
        ("missing.json", ["cannot read the scenario file missing.json", "path"]),
        (r#"{"lifetime": 3}"#, ["`lifetime` is 3", "from 5"]),
        ("{", ["not JSON", "line 1"]),
    ] {
        stage.run(&[argument]).assert_failed(2, &parts);
    }
    let run = stage.run(&["simple-1", "--drops", "2"]);
    run.assert_failed(2, &["`--drops` is 2", "a probability"]);
    stage.assert_no_process_left(0);
}
