//! Real servers that take snapshots all the time: their folders stay small, acknowledged writes
//! survive kills, and a follower that was away for a long time catches up by a snapshot.
#![allow(clippy::unwrap_used, reason = "a test whose helpers can't go on fails")]

#[path = "failpoints.rs"]
mod failpoints;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use bowline::sim::checkers::linearizability::STEPS_MAX;
use rustix::process::{Pid, Signal, kill_process};

use crate::client::{Client, command};
use crate::load::{self, Notes, StopAtEnd};
use crate::replicas::Cluster;

/// Flags that make the replicas take snapshots so often that every test sees many log compactions.
const OFTEN: &[&str] = &["--snapshot-log-bytes", "64kb"];
/// Number of kill rounds in each test; an environment variable can set another number.
const ROUNDS: u64 = 4;
const ROUNDS_VARIABLE: &str = "BOWLINE_SNAPSHOT_ROUNDS";
/// Duration of the load before a kill, between the kill and the restart, and after the restart.
const LOAD: Duration = Duration::from_millis(300);
/// Number of keys for the bulk of the data, and length of each value in bytes.
const BULK_KEYS: usize = 64;
const BULK_BYTES: usize = 16 << 10;
/// Minimum size of a segment of the log.
const SEGMENT_BYTES: u64 = 8 << 20;

fn bulk_key(number: usize) -> Vec<u8> {
    format!("bulk:{}", number % BULK_KEYS).into_bytes()
}

/// Returns a value that contains the index of its write.
fn bulk_value(number: usize) -> Vec<u8> {
    format!("{number:08}").into_bytes().repeat(BULK_BYTES / 8)
}

/// Sends pipelined writes until all of them are acknowledged. During a leader change, writes that
/// were overtaken by later ones are refused, which means that they were not applied.
fn send_until_done(client: &mut Client, mut writes: Vec<Vec<u8>>) {
    while !writes.is_empty() {
        client.send(&writes.concat()).unwrap();
        writes.retain(|_| {
            let reply = client.reply().unwrap();
            let refused = reply.starts_with(b"-TRYAGAIN ");
            assert!(refused || reply == b"+OK\r\n", "{}", reply.escape_ascii());
            refused
        });
    }
}

/// Writes the bulk values with these numbers, a few at a time. All must be acknowledged.
fn write_bulk(client: &mut Client, numbers: std::ops::Range<usize>) {
    let set = |number| command(&[b"SET", &bulk_key(number), &bulk_value(number)]);
    for start in numbers.clone().step_by(16) {
        send_until_done(client, (start..numbers.end.min(start + 16)).map(set).collect());
    }
}

/// Asserts that, for each key, a replica returns the last of the first `written` bulk values.
fn read_bulk(address: SocketAddr, written: usize) {
    let mut client = Client::connect(address).unwrap();
    for number in written.saturating_sub(BULK_KEYS)..written {
        let reply = client.call(&[b"GET", &bulk_key(number)]).unwrap();
        let value = bulk_value(number);
        let expected = [format!("${}\r\n", value.len()).as_bytes(), &value, b"\r\n"].concat();
        assert!(reply == expected, "{} of write {number}", String::from_utf8_lossy(&reply[..20]));
    }
}

/// Returns numbers from a single `INFO` reply.
fn infos<const N: usize>(address: SocketAddr, fields: [&str; N]) -> Option<[u64; N]> {
    let reply = Client::connect(address).ok()?.call(&[b"INFO"]).ok()?;
    let text = String::from_utf8(reply).unwrap();
    Some(fields.map(|field| {
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {field} in {text}")).parse().unwrap()
    }))
}

/// Returns a number from `INFO`.
pub(crate) fn info(address: SocketAddr, field: &str) -> Option<u64> {
    infos(address, [field]).map(|[number]| number)
}

/// Returns how often the text `words` occurs in the logs of the replicas.
fn said(cluster: &Cluster, words: &str) -> usize {
    let log = |at: usize| {
        let path = cluster.folder.path().join(format!("replica-{}.log", at + 1));
        fs::read_to_string(path).unwrap().matches(words).count()
    };
    (0..3).map(log).sum()
}

/// Returns the names and sizes of the files in a replica's folder, without the disk reserve.
fn files(cluster: &Cluster, at: usize) -> Vec<(String, u64)> {
    let (mut files, mut seen) = (Vec::new(), Vec::new());
    for file in fs::read_dir(cluster.replica_folder(at)).unwrap() {
        let file = file.unwrap();
        if file.file_name() == bowline::storage::RESERVE_FILE {
            continue;
        }
        // The file may have been deleted or renamed since.
        if let Ok(about) = file.metadata()
            && !seen.contains(&about.ino())
        {
            seen.push(about.ino());
            files.push((file.file_name().into_string().unwrap(), about.len()));
        }
    }
    files
}

#[test]
fn compacted_data_folder_stays_small_and_restores_all_data() {
    let mut cluster = Cluster::start_with(3, "auto", OFTEN);
    cluster.wait_until_all_serve();
    let written = 5_000;
    let log_bytes = (written * BULK_BYTES) as u64;
    write_bulk(&mut Client::connect(cluster.address(0)).unwrap(), 0..written);
    for at in 0..3 {
        // The compaction happens with later writes.
        cluster.wait_for("a folder of three segments and a snapshot", || {
            let mut client = Client::connect(cluster.address(at)).ok()?;
            client.call(&[b"SET", b"more", b"1"]).ok()?;
            let bytes: u64 = files(&cluster, at).iter().map(|(_, bytes)| bytes).sum();
            let live = (BULK_KEYS * BULK_BYTES) as u64;
            let bound = 3 * SEGMENT_BYTES + live + live / 8;
            assert!(bound < log_bytes, "the test writes too little");
            // A slow replica has a small folder too.
            let first = info(cluster.address(at), "raft_first_index")?;
            (bytes < bound && first > written as u64 / 2).then_some(())
        });
        // If the next snapshot is taken in between, INFO and the folder may differ.
        cluster.wait_for("a file of the reported size", || {
            let fields = ["raft_first_index", "raft_snapshot_index", "raft_snapshot_bytes"];
            let [first, snapshot, bytes] = infos(cluster.address(at), fields).unwrap();
            assert!(first <= snapshot + 1, "{first}, {snapshot}");
            let name = format!("snapshot-{snapshot:020}");
            let files = files(&cluster, at);
            let (_, length) = files.iter().find(|(file, _)| file.starts_with(&name))?;
            (*length == bytes).then_some(())
        });
    }
    for at in 0..3 {
        cluster.kill(at);
    }
    cluster.restart();
    cluster.wait_until_all_serve();
    for at in 0..3 {
        read_bulk(cluster.address(at), written);
        assert!(info(cluster.address(at), "raft_snapshot_index").unwrap() > 0);
    }
}

/// Measures the folders of all replicas until `stop` is set. Returns the maximum size of each
/// folder in bytes, and the number of measurements.
fn most_bytes(cluster: &Cluster, stop: &AtomicBool) -> ([u64; 3], usize) {
    let (mut most, mut count) = ([0; 3], 0);
    while !stop.load(Ordering::Relaxed) {
        for (at, most) in most.iter_mut().enumerate() {
            *most = files(cluster, at).iter().map(|(_, bytes)| bytes).sum::<u64>().max(*most);
        }
        count += 1;
        thread::sleep(Duration::from_millis(2));
    }
    (most, count)
}

/// Checks the bound in `src/runtime/stages/snapshot_scheduler.rs`: a folder contains at most two
/// snapshots, and a log that grows no further than snapshots keep up with, however fast clients
/// write.
#[test]
fn data_folder_size_is_bounded_under_fast_writes() {
    const KEYS: usize = 512;
    const WRITES: usize = 32 * KEYS;
    const LOG_BYTES: u64 = 1 << 20;
    let cluster = Cluster::start_with(3, "auto", &["--snapshot-log-bytes", "1mb"]);
    cluster.wait_until_all_serve();
    let stop = AtomicBool::new(false);
    let (most, count) = thread::scope(|scope| {
        let counter = scope.spawn(|| most_bytes(&cluster, &stop));
        let _stop = StopAtEnd(&stop);
        let writers = (0..2).map(|writer| {
            let address = cluster.address(cluster.leader());
            scope.spawn(move || {
                let mut client = Client::connect(address).unwrap();
                for from in (writer..WRITES / 16).step_by(2) {
                    let sets = (from * 16..from * 16 + 16).map(|number| {
                        let key = format!("key:{:012}", number % KEYS);
                        command(&[b"SET", key.as_bytes(), &bulk_value(number)])
                    });
                    send_until_done(&mut client, sets.collect());
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.join().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        counter.join().unwrap()
    });
    let written = (WRITES * BULK_BYTES) as u64;
    let snapshot = (KEYS * (BULK_BYTES + 32)) as u64;
    // The growth of the log between two snapshots.
    let growth = LOG_BYTES.max(snapshot);
    // One append, and files created during the measurement.
    let bound = 2 * snapshot + 2 * growth + 4 * SEGMENT_BYTES + (2 << 20);
    eprintln!("{most:?} of at most {bound} bytes in {count} samples, {written} written");
    assert!(3 * bound < written, "{written} bytes are too few to show anything");
    assert!(count > 100, "the files were counted {count} times");
    assert!(most.iter().all(|most| *most > snapshot), "{most:?}");
    for (at, most) in most.iter().enumerate() {
        // A replica that lags so far that it receives the leader's snapshot keeps its own until
        // then.
        let receives = cluster.log(at).contains("receiving the leader's snapshot");
        let bound = bound + if receives { snapshot } else { 0 };
        assert!(*most <= bound, "replica {}: {most} above {bound}\n{}", at + 1, cluster.logs());
    }
    // One snapshot is completed for each `growth` of the log, or for almost twice as much where the
    // log writer waits for it, and as long as the snapshot is small after each MiB.
    let taken = said(&cluster, "snapshot taken") as u64;
    let (fewest, most) = (written / (2 * growth), written / growth + snapshot / LOG_BYTES);
    assert!((3 * fewest..=3 * most).contains(&taken), "{taken} snapshots\n{}", cluster.logs());
}

/// On one replica, `CONFIG SET` changes the log growth after which this replica takes a snapshot.
#[test]
fn config_set_changes_log_growth_before_the_next_snapshot() {
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let index = |at| info(cluster.address(at), "raft_snapshot_index").unwrap();
    let mut client = Client::connect(cluster.address(1)).unwrap();
    write_bulk(&mut client, 0..200);
    assert_eq!([0, 1, 2].map(index), [0; 3], "64 MiB are the default");
    let config: [&[&[u8]]; 2] = [
        &[b"CONFIG", b"SET", b"auto-aof-rewrite-min-size", b"64kb"],
        &[b"CONFIG", b"SET", b"auto-aof-rewrite-percentage", b"10"],
    ];
    for words in config {
        assert_eq!(client.call(words).unwrap(), b"+OK\r\n");
    }
    cluster.wait_for("a snapshot at this replica", || {
        assert_eq!(client.call(&[b"SET", b"more", b"1"]).unwrap(), b"+OK\r\n");
        (index(1) > 0).then_some(())
    });
    assert_eq!([0, 2].map(index), [0; 2], "the others have their own settings");
}

#[test]
fn bgsave_and_save_commands_take_a_snapshot() {
    let mut cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let address = cluster.address(1);
    let mut client = Client::connect(address).unwrap();
    assert_eq!(client.call(&[b"LASTSAVE"]).unwrap(), b":0\r\n");
    assert_eq!(client.call(&[b"SET", b"k", b"v"]).unwrap(), b"+OK\r\n");
    assert_eq!(info(address, "raft_snapshot_index"), Some(0));
    let applied = info(address, "raft_applied_index").unwrap();
    assert_eq!(client.call(&[b"BGSAVE"]).unwrap(), b"+Background saving started\r\n");
    cluster.wait_for("a snapshot", || {
        info(address, "raft_snapshot_index").filter(|index| *index >= applied)
    });
    cluster
        .wait_for("its time", || (client.call(&[b"LASTSAVE"]).unwrap() != b":0\r\n").then_some(()));
    assert_eq!(client.call(&[b"SAVE"]).unwrap(), b"+OK\r\n");
    cluster.wait_for("its file", || {
        files(&cluster, 1).iter().any(|(name, _)| name.starts_with("snapshot-0")).then_some(())
    });
    cluster.kill(1);
    cluster.restart();
    cluster.wait_until_all_serve();
    assert!(info(address, "raft_snapshot_index").unwrap() >= applied);
    let mut client = Client::connect(address).unwrap();
    assert_eq!(client.call(&[b"GET", b"k"]).unwrap(), b"$1\r\nv\r\n");
}

/// Suspends a follower until the leader has compacted the entries that the follower lacks, and
/// resumes it. Returns whether there was no election meanwhile.
fn stop_and_continue(cluster: &Cluster, written: &mut usize) -> bool {
    let leader = cluster.leader();
    let away = (leader + 1) % 3;
    let process = Pid::from_raw(i32::try_from(cluster.process(away)).unwrap()).unwrap();
    let term = info(cluster.address(leader), "raft_term");
    let installed = said(cluster, "leader's snapshot received");
    let reached = info(cluster.address(away), "raft_last_index").unwrap();
    kill_process(process, Signal::STOP).unwrap();
    let mut client = Client::connect(cluster.address(leader)).unwrap();
    cluster.wait_for("a log that begins behind what the follower has", || {
        write_bulk(&mut client, *written..*written + BULK_KEYS);
        *written += BULK_KEYS;
        info(cluster.address(leader), "raft_first_index").filter(|first| *first > reached + 1_000)
    });
    kill_process(process, Signal::CONT).unwrap();
    cluster.wait_for("the follower's return", || {
        let reached = info(cluster.address(away), "raft_applied_index")?;
        (reached >= info(cluster.address(leader), "raft_commit_index")?).then_some(())
    });
    read_bulk(cluster.address(away), *written);
    // Another leader's log may reach further back.
    let calm = info(cluster.address(leader), "raft_term") == term;
    assert!(
        !calm || said(cluster, "leader's snapshot received") > installed,
        "it came back by the log\n{}",
        cluster.logs()
    );
    calm
}

fn comes_back(threads: &'static str) {
    let cluster = Cluster::start_with(3, threads, OFTEN);
    cluster.wait_until_all_serve();
    let mut written = 0;
    // On a busy machine an election may occur too, but not every time.
    let calm = (0..10).any(|_| stop_and_continue(&cluster, &mut written));
    assert!(calm, "an election each time\n{}", cluster.logs());
}

#[test]
fn lagging_follower_catches_up_by_snapshot_with_thread_per_stage() {
    comes_back("dedicated");
}

#[test]
fn lagging_follower_catches_up_by_snapshot_with_shared_stage_thread() {
    comes_back("fused");
}

/// A replica is suspended right after it has forwarded a write, and gets the write's entry as a
/// part of a snapshot. Its client gets the outcome all the same, long before its deadline.
#[test]
fn writes_that_an_installed_snapshot_covers_are_answered() {
    let cluster = Cluster::start_with(3, "auto", OFTEN);
    cluster.wait_until_all_serve();
    let leader = cluster.leader();
    let away = (leader + 1) % 3;
    let process = Pid::from_raw(cluster.process(away).cast_signed()).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for name in 0..8 {
            let (cluster, stop) = (&cluster, &stop);
            scope.spawn(move || {
                let mut client = Client::connect(cluster.address(away)).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let reply = client.call(&[b"INCR", name.to_string().as_bytes()]).unwrap();
                    let is_known = reply[0] == b':' || reply.starts_with(b"-TRYAGAIN ");
                    assert!(is_known, "{}\n{}", reply.escape_ascii(), cluster.logs());
                }
            });
        }
        let mut client = Client::connect(cluster.address(leader)).unwrap();
        for round in 0..12 {
            kill_process(process, Signal::STOP).unwrap();
            write_bulk(&mut client, round * 256..round * 256 + 256);
            kill_process(process, Signal::CONT).unwrap();
            thread::sleep(LOAD / 10);
        }
    });
}

/// Writes large values until `stop` is set, so that logs are compacted. Ignores the outcomes.
fn fill(address: SocketAddr, stop: &AtomicBool) {
    let value = vec![b'x'; BULK_BYTES];
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut client) = Client::connect(address) else {
            thread::sleep(LOAD / 10);
            continue;
        };
        for number in 0.. {
            let sent = client.call(&[b"SET", &bulk_key(number), &value]);
            if sent.is_err() || stop.load(Ordering::Relaxed) {
                break;
            }
        }
    }
}

/// Kills replicas while snapshots are taken, sent and installed.
fn kill_rounds(threads: &'static str) {
    let rounds = std::env::var(ROUNDS_VARIABLE).ok().and_then(|text| text.parse().ok());
    let mut cluster = Cluster::start_hasty(3, threads, OFTEN);
    cluster.wait_until_all_serve();
    let addresses: Vec<SocketAddr> = (0..3).map(|at| cluster.address(at)).collect();
    for round in 0..rounds.unwrap_or(ROUNDS) {
        let notes = Notes::default();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for (name, address) in (0..).zip(&addresses) {
                let (notes, stop) = (&notes, &stop);
                scope.spawn(move || load::run(*address, name, round, notes, stop));
                scope.spawn(move || fill(*address, stop));
            }
            let _stop = StopAtEnd(&stop);
            thread::sleep(LOAD);
            let leader = cluster.leader();
            let victims = load::victims(round, leader, 3);
            let reached = info(addresses[victims[0]], "raft_last_index").unwrap();
            for victim in &victims {
                cluster.kill(*victim);
            }
            if round % 4 == 0 {
                // This goes on until the next entries of the killed replica are missing in every
                // other log, whichever replica leads when it restarts.
                for living in [1, 2].map(|next| addresses[(victims[0] + next) % 3]) {
                    cluster.wait_for("a log that was cut", || {
                        info(living, "raft_first_index").filter(|first| *first > reached + 1_000)
                    });
                }
            } else {
                thread::sleep(LOAD);
            }
            cluster.restart();
            // Some are killed again right after the restart, while a snapshot is in flight.
            if round % 4 == 0 {
                let again = (cluster.leader() + 1) % 3;
                cluster.kill(again);
                cluster.restart();
            }
            cluster.wait_until_all_serve();
            thread::sleep(LOAD);
            cluster.wait_for("an acknowledged write", || notes.is_any_acknowledged());
        });
        load::read_all(&addresses, round, &notes);
        let acknowledged = notes.acknowledged.load(Ordering::Relaxed);
        eprintln!(
            "{threads} round {round}: {acknowledged} writes acknowledged, {} uncertain; so far {} \
             snapshots taken, {} taken in",
            notes.uncertain.load(Ordering::Relaxed),
            said(&cluster, "snapshot taken"),
            said(&cluster, "leader's snapshot received"),
        );
        if let Err(error) = notes.history().check(STEPS_MAX) {
            panic!("round {round}: {error}\n{}", cluster.logs());
        }
    }
    assert!(said(&cluster, "snapshot taken") > 0, "{}", cluster.logs());
    assert!(said(&cluster, "leader's snapshot received") > 0, "{}", cluster.logs());
    assert_eq!(said(&cluster, "panicked"), 0, "{}", cluster.logs());
}

#[test]
fn writes_survive_kills_during_snapshots_with_thread_per_stage() {
    kill_rounds("dedicated");
}

#[test]
fn writes_survive_kills_during_snapshots_with_shared_stage_thread() {
    kill_rounds("fused");
}
