//! `bowline cluster` as a user runs it: started, stopped, restarted, with damaged or missing
//! folders, and with a replica that is replaced.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::refusal;
use crate::replicas::TIMEOUT;

/// Name of the environment variable that sets the number of rounds of damage and replacement, for
/// each thread arrangement.
const ROUNDS_VARIABLE: &str = "BOWLINE_REPLACE_ROUNDS";

/// Returns the first port of a free row for `bowline cluster`. Rows are outside the range of
/// `free_port`, and do not overlap.
fn free_row() -> u16 {
    static NEXT_ROW: AtomicU16 = AtomicU16::new(0);
    let own = u16::try_from(std::process::id() % 100).expect("below 100");
    (0..30)
        .map(|_| 31_000 + (own * 5 + NEXT_ROW.fetch_add(1, Ordering::Relaxed)) % 200 * 3)
        .find(|port| {
            let all = (0..3).flat_map(|n| [port + n, port + 1_000 + n]);
            all.map(|port| TcpListener::bind(("127.0.0.1", port))).all(|bound| bound.is_ok())
        })
        .expect("six free ports")
}

/// A running `bowline cluster`, which is stopped when the test ends.
struct Running(std::process::Child);

impl Running {
    /// Returns the `bowline cluster` command for a folder and a row of ports that starts at `port`.
    fn command(folder: &Path, port: u16, flags: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bowline"));
        command.args(["cluster", "--port", &port.to_string(), "--dir"]).arg(folder).args(flags);
        // The deadlines are as long as those of replicas in other tests.
        command
            .envs([("BOWLINE_LEADER_WAIT_MS", "60000"), ("BOWLINE_COMMAND_DEADLINE_MS", "60000")]);
        command.stdout(std::process::Stdio::piped());
        command
    }

    /// Starts the cluster and waits for a leader. Returns the running cluster and its output so
    /// far.
    fn start(folder: &Path, port: u16, flags: &[&str]) -> (Running, String) {
        Running::start_until(folder, port, flags, "is the leader")
    }

    /// Starts the cluster and waits until its output contains the text `words`. Returns the running
    /// cluster and its output so far.
    fn start_until(folder: &Path, port: u16, flags: &[&str], words: &str) -> (Running, String) {
        let mut command = Running::command(folder, port, flags);
        let mut running = Running(command.spawn().unwrap());
        let mut shown = BufReader::new(running.0.stdout.take().unwrap());
        let mut text = String::new();
        while !text.contains(words) {
            let count = shown.read_line(&mut text).unwrap();
            assert!(count > 0, "it ended after:\n{text}");
        }
        // The cluster continues to write to its output.
        thread::spawn(move || std::io::copy(&mut shown, &mut std::io::sink()));
        (running, text)
    }

    /// Stops the cluster with Ctrl-C. Returns whether it exited with success.
    fn stop(&mut self) -> bool {
        let id = rustix::process::Pid::from_child(&self.0);
        // An error means that it has already exited.
        let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        self.0.wait().unwrap().success()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

#[test]
fn bowline_cluster_command_on_used_ports_exits_with_an_error() {
    let (folder, port) = (tempfile::tempdir().unwrap(), free_row());
    let (_first, _) = Running::start(&folder.path().join("first"), port, &[]);
    let refused = refusal(Running::command(&folder.path().join("second"), port, &[]));
    assert!(refused.contains("another process listens there"), "{refused}");
    // The first cluster is not affected.
    let mut client = Client::connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    assert_eq!(client.call(&[b"SET", b"k", b"1"]).unwrap(), b"+OK\r\n");
}

#[test]
fn bowline_cluster_command_restarts_cluster_with_its_data() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_row();
    for round in 0..2 {
        let (mut running, text) = Running::start(folder.path(), port, &[]);
        assert!(text.contains("redis-cli -p"), "{text}");
        let address = |at| SocketAddr::from(([127, 0, 0, 1], port + at));
        let mut client = Client::connect(address(1)).unwrap();
        if round == 0 {
            assert_eq!(client.call(&[b"SET", b"kept", b"yes"]).unwrap(), b"+OK\r\n");
        } else {
            assert_eq!(client.call(&[b"GET", b"kept"]).unwrap(), b"$3\r\nyes\r\n");
        }
        assert!(running.stop());
        for at in 0..3 {
            assert!(TcpStream::connect(address(at)).is_err(), "a replica outlived the cluster");
        }
    }
}

fn address(port: u16, at: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port + at))
}

/// Returns the value of an `INFO` field of the replica with index `at`, in the cluster whose first
/// port is `port`.
fn info(port: u16, at: u16, field: &str) -> Option<String> {
    let mut client = Client::connect(address(port, at)).ok()?;
    let text = String::from_utf8(client.call(&[b"INFO"]).ok()?).unwrap();
    text.lines().find_map(|line| Some(line.strip_prefix(field)?.strip_prefix(':')?.to_owned()))
}

fn wait_for(what: &str, mut look: impl FnMut() -> bool) {
    let until = Instant::now() + TIMEOUT;
    while !look() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn write(port: u16, at: u16, keys: std::ops::Range<usize>) {
    let mut client = Client::connect(address(port, at)).unwrap();
    for key in keys {
        let key = key.to_string();
        assert_eq!(client.call_until_ok(&[b"SET", key.as_bytes(), key.as_bytes()]), b"+OK\r\n");
    }
}

/// Waits until all three replicas have the same keys, then reads every key on each replica.
fn assert_equal_and_whole(port: u16, keys: usize) {
    let fields = ["raft_applied_index", "raft_state_digest"];
    let state = |at| fields.map(|field| info(port, at, field));
    wait_for("equal states", || {
        let first = state(0);
        first.iter().all(Option::is_some) && (1..3).all(|at| state(at) == first)
    });
    for at in 0..3 {
        let mut client = Client::connect(address(port, at)).unwrap();
        for key in 0..keys {
            let key = key.to_string();
            let expected = format!("${}\r\n{key}\r\n", key.len());
            assert_eq!(
                client.call_until_ok(&[b"GET", key.as_bytes()]),
                expected.as_bytes(),
                "at {at}"
            );
        }
    }
}

fn flip(path: &Path, bit: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[bit / 8] ^= 1 << (bit % 8);
    fs::write(path, bytes).unwrap();
}

/// Damages both copies of the record in the file `meta`.
fn damage_meta(own: &Path) {
    let meta = own.join("meta");
    let bits = fs::read(&meta).unwrap().len() * 8;
    flip(&meta, 999);
    flip(&meta, bits - 999);
}

/// Damages a replica's data folder beyond repair in one of several ways, selected by `how`. Returns
/// the text that the cluster's output must contain.
fn damage(own: &Path, how: u64) -> String {
    match how % 3 {
        0 => {
            fs::remove_dir_all(own).unwrap();
            format!("its folder {} is missing", own.display())
        }
        1 => {
            damage_meta(own);
            "meta is damaged at byte".to_owned()
        }
        _ => {
            fs::remove_file(own.join("meta")).unwrap();
            "meta is missing".to_owned()
        }
    }
}

fn replace_rounds(threads: &str) {
    let rounds = std::env::var(ROUNDS_VARIABLE).ok().and_then(|text| text.parse().ok());
    let folder = tempfile::tempdir().unwrap();
    let (dir, port) = (folder.path(), free_row());
    let flags = ["--threads", threads];
    let (mut running, _) = Running::start(dir, port, &flags);
    write(port, 0, 0..50);
    let mut keys = 50;
    for round in 0..rounds.unwrap_or(2_u64) {
        assert!(running.stop());
        let broken = u16::try_from(round % 3).unwrap();
        let id = broken + 1;
        let own = dir.join(format!("replica-{id}"));
        let why = damage(&own, round);
        let shown = running_beside(dir, port, &flags, id, &why, &mut keys);
        let command =
            shown.lines().find(|line| line.ends_with(&format!("--replace {id}"))).unwrap();
        let words: Vec<&str> = command.split_whitespace().collect();
        assert!(words.ends_with(&["--replace", &id.to_string()]), "{command}");
        assert!(words.contains(&"--threads") && words.contains(&"--dir"), "{command}");
        let log = dir.join(format!("replica-{id}.log"));
        let before = fs::read_to_string(&log).unwrap_or_default().len();
        let replace = ["--threads", threads, "--replace", &id.to_string()];
        (running, _) = Running::start(dir, port, &replace);
        write(port, broken, keys..keys + 20);
        keys += 20;
        wait_for("the end of the rejoin", || {
            fs::read_to_string(&log).unwrap()[before..].contains("rejoined: this replica is")
        });
        assert_equal_and_whole(port, keys);
        eprintln!("{threads} round {round}: replica {id}, {why}, {keys} keys");
    }
    // A replaced replica is a full member, also after a restart.
    assert!(running.stop());
    (running, _) = Running::start(dir, port, &flags);
    assert_equal_and_whole(port, keys);
    assert!(running.stop());
    assert!(dir.join("replica-2.broken-1").exists(), "the damaged folder was not kept");
}

/// Starts the cluster with a broken replica, `id`, and writes through the other replicas. Returns
/// the output of the cluster.
fn running_beside(
    dir: &Path,
    port: u16,
    flags: &[&str],
    id: u16,
    why: &str,
    keys: &mut usize,
) -> String {
    let words = format!("--replace {id}");
    let (mut running, mut shown) = Running::start_until(dir, port, flags, &words);
    assert!(shown.contains(&format!("replica {id} cannot start")), "{shown}");
    assert!(shown.contains(why), "{why}: {shown}");
    let healthy = id % 3;
    wait_for("a leader", || info(port, healthy, "raft_role").is_some());
    write(port, healthy, *keys..*keys + 20);
    *keys += 20;
    assert!(TcpStream::connect(address(port, id - 1)).is_err(), "replica {id} runs");
    assert!(running.stop());
    shown.push('\n');
    shown
}

#[test]
fn damaged_replica_is_replaced_under_load_with_thread_per_stage() {
    replace_rounds("dedicated");
}

#[test]
fn damaged_replica_is_replaced_under_load_with_shared_stage_thread() {
    replace_rounds("fused");
}

#[test]
fn bowline_cluster_command_reports_why_no_majority_started() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, port) = (folder.path(), free_row());
    let (mut running, _) = Running::start(dir, port, &[]);
    // A replica that is running is not replaced.
    let text = refusal(Running::command(dir, port, &["--replace", "2"]));
    assert!(text.contains("is running; stop the cluster first"), "{text}");
    assert!(running.stop());
    let text = refusal(Running::command(dir, port, &["--replace", "2"]));
    assert!(text.contains("need not be replaced"), "{text}");
    // Nor is one that repairs itself.
    flip(&dir.join("replica-2/segment-0000000001"), 600 * 8);
    let text = refusal(Running::command(dir, port, &["--replace", "2"]));
    assert!(text.contains("the replica repairs it at its next start"), "{text}");
    fs::remove_dir_all(dir.join("replica-1")).unwrap();
    let text = refusal(Running::command(dir, port, &["--replace", "1"]));
    assert!(text.contains("only one replica can rejoin at a time"), "{text}");
    flip(&dir.join("replica-2/segment-0000000001"), 600 * 8);
    damage_meta(&dir.join("replica-3"));
    let text = refusal(Running::command(dir, port, &[]));
    assert!(text.contains("no majority of the 3 replicas can start"), "{text}");
    assert!(text.contains("replica-1 is missing"), "{text}");
    assert!(text.contains("meta is damaged at byte"), "{text}");
    // Two replicas that lost their folders cannot be replaced.
    let text = refusal(Running::command(dir, port, &["--replace", "1"]));
    assert!(text.contains("replica 3 cannot start either"), "{text}");
    let text = refusal(Running::command(&dir.join("none"), port, &["--replace", "1"]));
    assert!(text.contains("no cluster in"), "{text}");
}
