//! Tests of the built server on real disks that fail: failing system calls, a full disk, damage, a
//! folder restored from an older copy. The tests assert what is acknowledged, refused and reported.
//!
//! The tests use strace to make system calls fail, and a namespace to mount a small disk. If strace
//! or the namespace is not available, the test is skipped with a message, unless
//! `BOWLINE_CLIENTS=required` is set and `.ci/install-clients` could have installed it.
#![allow(clippy::unwrap_used, reason = "a test whose helpers can't go on fails")]

#[path = "cluster/client.rs"]
#[allow(dead_code, reason = "shared with tests/cluster.rs")]
mod client;
#[path = "disk/damage.rs"]
mod damage;
#[path = "disk/full.rs"]
mod full;
#[path = "disk/old_copies.rs"]
mod old_copies;
#[path = "cluster/replicas.rs"]
#[allow(dead_code, reason = "shared with tests/cluster.rs")]
mod replicas;
#[path = "disk/stall.rs"]
mod stall;
#[path = "disk/sync_order.rs"]
mod sync_order;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use client::Client;
use replicas::Cluster;

/// Exit code of a server whose disk has failed.
const EXIT_DISK: i32 = 74;
/// Length of a large value in bytes. Sixteen values of this length fill a segment.
const LARGE: usize = 512 << 10;

/// Returns whether strace works. Prints a message if not.
fn strace_is_there() -> bool {
    // Containers may forbid tracing, and old versions lack some options.
    let words = ["-f", "-qq", "--seccomp-bpf", "-y", "-o", "/dev/null", "true"];
    let there = Command::new("strace").args(words).output();
    let there = there.is_ok_and(|output| output.status.success());
    if !there {
        let required = std::env::var_os("BOWLINE_CLIENTS").is_some_and(|word| word == "required");
        assert!(!required, "strace is missing or forbidden; run .ci/install-clients");
        eprintln!("skipped: strace is missing or forbidden; .ci/install-clients installs it");
    }
    there
}

/// Returns a command that runs `command` under strace, with the options `words` and the trace in
/// the file `output`.
fn traced(words: &[&str], output: &Path, command: &Command) -> Command {
    let mut traced = Command::new("strace");
    traced.args(["-f", "-qq", "--seccomp-bpf", "-y", "-s", "16", "-o"]).arg(output).args(words);
    traced.arg(command.get_program()).args(command.get_args());
    traced.stdin(Stdio::piped()).stdout(Stdio::null());
    traced
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(status.success(), "cp -a");
}

fn key(number: usize) -> Vec<u8> {
    format!("key{number}").into_bytes()
}

/// Returns a value of `bytes` bytes that differs between keys.
fn value(number: usize, bytes: usize) -> Vec<u8> {
    number.to_string().into_bytes().into_iter().cycle().take(bytes).collect()
}

/// Writes the keys from `from` to `most` in order, until a write is not acknowledged. Returns the
/// index of the first key that was not acknowledged, or `most`.
fn write(cluster: &Cluster, at: usize, from: usize, most: usize, bytes: usize) -> usize {
    let mut client = Client::connect(cluster.address(at)).unwrap();
    for number in from..most {
        let reply = client.call(&[b"SET", &key(number), &value(number, bytes)]);
        if reply.is_ok_and(|reply| reply == b"+OK\r\n") {
            continue;
        }
        return number;
    }
    most
}

/// Asserts that the first `count` keys have their values.
#[track_caller]
fn assert_holds(cluster: &Cluster, at: usize, count: usize, bytes: usize, case: &str) {
    let mut client = Client::connect(cluster.address(at)).unwrap();
    for number in 0..count {
        let reply = client.call(&[b"GET", &key(number)]).unwrap();
        let wanted = [format!("${bytes}\r\n").as_bytes(), &value(number, bytes), b"\r\n"].concat();
        assert!(reply == wanted, "{case}: key {number} of {count} is lost\n{}", cluster.logs());
    }
}

/// Returns the value of an `INFO` field as text; `None` if the replica does not answer.
fn info(cluster: &Cluster, at: usize, field: &str) -> Option<String> {
    let text = info_text(cluster, at)?;
    Some(field_of(&text, field).unwrap_or_else(|| panic!("no {field} in {text}")))
}

fn info_text(cluster: &Cluster, at: usize) -> Option<String> {
    let reply = Client::connect(cluster.address(at)).ok()?.call(&[b"INFO"]).ok()?;
    Some(String::from_utf8(reply).unwrap())
}

fn field_of(text: &str, field: &str) -> Option<String> {
    text.lines().find_map(|line| Some(line.strip_prefix(field)?.strip_prefix(':')?.to_owned()))
}

/// Makes the replica `wanted` the leader by killing other leaders.
fn lead(cluster: &mut Cluster, wanted: usize) {
    loop {
        let leader = cluster.leader();
        if leader == wanted {
            return;
        }
        cluster.kill(leader);
        cluster.wait_for("another leader", || cluster.leader_but(leader));
        cluster.restart();
        cluster.wait_until_all_serve();
        thread::sleep(Duration::from_millis(100));
    }
}

/// Faults of system calls that the log writer makes. Each row has the name of the system call, how
/// it fails, from which call on (counted on each thread), and the text of the resulting error.
/// Opening the log, on the main thread, needs fewer calls.
const FAILURES: &[(&str, &str, usize, &str)] = &[
    ("fdatasync", "error=EIO", 60, "cannot sync"),
    ("fdatasync", "error=ENOSPC", 61, "free disk space"),
    ("pwrite64", "error=EIO", 60, "cannot write"),
    ("pwrite64", "error=ENOSPC", 61, "free disk space"),
    // Nothing is written.
    ("pwrite64", "retval=0", 62, "cannot write"),
];

/// Like [`FAILURES`], for system calls that create a segment. Creating a segment makes two of each.
const ROTATION_FAILURES: &[(&str, &str, usize, &str)] = &[
    ("fallocate", "error=ENOSPC", 2, "free disk space"),
    ("fallocate", "error=ENOSPC", 3, "free disk space"),
    ("/^rename", "error=EIO", 2, "cannot replace"),
    ("/^rename", "error=EIO", 3, "cannot rename"),
    ("fsync", "error=EIO", 3, "cannot sync"),
    ("fsync", "error=EIO", 4, "cannot sync the folder"),
];

/// Runs a cluster of one replica with each fault in turn, and restarts it without the fault. An
/// acknowledged write is on this replica's disk or lost.
fn fail_and_come_back(failures: &[(&str, &str, usize, &str)], bytes: usize) {
    if !strace_is_there() {
        return;
    }
    // No snapshots: a compaction makes the same calls.
    let mut cluster = Cluster::start_with(1, "auto", &["--snapshot-log-bytes", "1gb"]);
    cluster.wait_until_all_serve();
    let mut held = 0;
    for &(call, how, from, words) in failures {
        let case = format!("{call} gives {how} from number {from} on");
        cluster.kill(0);
        let inject = format!("inject={call}:{how}:when={from}+");
        let trace = format!("trace={call}");
        let notes = cluster.folder.path().join("strace");
        let words_of_strace = ["-e", trace.as_str(), "-e", inject.as_str()];
        cluster.start_as(0, traced(&words_of_strace, &notes, &cluster.command(0)));
        cluster.wait_until_all_serve();
        let acknowledged = write(&cluster, 0, held, held + 200, bytes);
        assert!(acknowledged < held + 200, "{case}: it did not fail\n{}", cluster.logs());
        let status = cluster.end_of(0);
        assert_eq!(status.code(), Some(EXIT_DISK), "{case}\n{}", cluster.logs());
        let logs = cluster.logs();
        assert!(
            logs.contains("disk write failed, shutting down") && logs.contains(words),
            "{case}: {logs}"
        );
        let log = cluster.folder.path().join("replica-1.log");
        fs::remove_file(log).unwrap();
        cluster.restart();
        cluster.wait_until_all_serve();
        assert_holds(&cluster, 0, acknowledged, bytes, &case);
        held = acknowledged;
    }
    assert!(held > 10 * failures.len(), "only {held} writes were acknowledged");
}

#[test]
fn failed_disk_write_or_sync_stops_server_and_loses_no_write() {
    fail_and_come_back(FAILURES, 100);
}

#[test]
fn failed_log_segment_creation_stops_server_and_loses_no_write() {
    fail_and_come_back(ROTATION_FAILURES, LARGE);
}

#[test]
fn majority_serves_without_a_replica_with_a_failed_disk() {
    if !strace_is_there() {
        return;
    }
    let mut cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let victim = (cluster.leader() + 1) % 3;
    cluster.kill(victim);
    let notes = cluster.folder.path().join("strace");
    let words = ["-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=40+"];
    cluster.start_as(victim, traced(&words, &notes, &cluster.command(victim)));
    let other = (victim + 1) % 3;
    let mut acknowledged = 0;
    while cluster.runs(victim) {
        acknowledged = write(&cluster, other, acknowledged, acknowledged + 10, 100);
    }
    assert_eq!(cluster.end_of(victim).code(), Some(EXIT_DISK), "{}", cluster.logs());
    acknowledged = write(&cluster, other, acknowledged, acknowledged + 50, 100);
    cluster.restart();
    cluster.wait_until_all_serve();
    assert!(acknowledged >= 50, "{acknowledged} were acknowledged\n{}", cluster.logs());
    for at in 0..3 {
        assert_holds(&cluster, at, acknowledged, 100, "after the failure of one disk");
    }
}
