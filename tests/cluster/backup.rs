//! `backup`, `restore` and `force-new-cluster` with real servers: the contents of a backup, the
//! guarantees of a restored cluster, and rejection of invalid input.

use std::fs;
use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::admin::{admin, admin_at, assert_failed, content, json, stderr, stdout};
use crate::client::Client;
use crate::load::StopAtEnd;
use crate::replicas::Cluster;

/// Number of rounds under load. In every other round, snapshots are replaced often.
const ROUNDS: usize = 2;
/// Name of the environment variable that sets another number of rounds.
const ROUNDS_VARIABLE: &str = "BOWLINE_BACKUP_ROUNDS";
/// Flags with which replicas replace their snapshots often.
const OFTEN: &[&str] = &["--snapshot-log-bytes", "64kb"];
/// Number of keys that are read with one command.
const MGET_KEYS: usize = 1_000;

/// Runs `bowline admin arguments...` with these environment variables. The command needs no running
/// replica.
fn offline(arguments: &[&str], variables: &[(&str, &str)], stdin: Stdio) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bowline"));
    command.arg("admin").args(arguments).envs(variables.iter().copied());
    command.stdin(stdin).stdout(Stdio::piped());
    Cluster::run_to_end(command)
}

/// Runs `bowline admin restore` for a replica of a new cluster.
fn restore(new: &Cluster, at: usize, file: &str, variables: &[(&str, &str)]) -> Output {
    let (id, folder) = ((at + 1).to_string(), new.replica_folder(at));
    let folder = folder.to_str().unwrap();
    let arguments =
        ["restore", file, "--id", &id, "--dir", folder, "--peers", new.peers(at), "--json"];
    offline(&arguments, variables, Stdio::null())
}

/// Returns a running cluster of replicas restored from the backup `file`.
fn restored(count: usize, file: &str) -> Cluster {
    let mut new = Cluster::of_new_folders(count, "auto");
    let reports: Vec<_> = (0..count).map(|at| json(&restore(&new, at, file, &[]))).collect();
    for report in &reports {
        assert_eq!(report["index"], reports[0]["index"]);
        assert_eq!(report["cluster_fingerprint"], reports[0]["cluster_fingerprint"]);
        let backup = &report["backup"];
        assert_ne!(report["cluster_fingerprint"], backup["cluster_fingerprint"]);
    }
    new.restart();
    new.wait_until_all_serve();
    new
}

/// Opens a client session and returns its id, which is also a revision.
fn revision(client: &mut Client) -> u64 {
    let reply = client.call_until_ok(&[b"ONCE", b"OPEN"]);
    let text = String::from_utf8(reply).unwrap();
    text.trim_start_matches(':').trim_end().parse().unwrap()
}

fn key(writer: usize, number: usize) -> Vec<u8> {
    format!("writer:{writer}:{number}").into_bytes()
}

fn value(number: usize) -> Vec<u8> {
    format!("{number:0100}").into_bytes()
}

/// Asserts that keys 1 to `count` of a writer have their values at this replica.
fn assert_has_all(client: &mut Client, writer: usize, count: usize) {
    for from in (1..=count).step_by(MGET_KEYS) {
        let numbers = from..=count.min(from + MGET_KEYS - 1);
        let keys: Vec<Vec<u8>> = numbers.clone().map(|number| key(writer, number)).collect();
        let mut command: Vec<&[u8]> = vec![b"MGET"];
        command.extend(keys.iter().map(Vec::as_slice));
        let mut wanted = format!("*{}\r\n", keys.len()).into_bytes();
        for number in numbers {
            wanted.extend_from_slice(b"$100\r\n");
            wanted.extend_from_slice(&value(number));
            wanted.extend_from_slice(b"\r\n");
        }
        let found = client.call_until_ok(&command);
        assert!(found == wanted, "a write of {from} and the following of {count} is missing");
    }
}

fn exists(client: &mut Client, writer: usize, number: usize) -> bool {
    client.call_until_ok(&[b"EXISTS", &key(writer, number)]) == b":1\r\n"
}

/// Number of writes of each writer.
#[derive(Default)]
struct Counts {
    sent: [AtomicUsize; 3],
    acknowledged: [AtomicUsize; 3],
}

fn read(counts: &[AtomicUsize; 3]) -> [usize; 3] {
    [0, 1, 2].map(|writer| counts[writer].load(Ordering::SeqCst))
}

/// Writes one key after the other, each once the one before is acknowledged.
fn write(cluster: &Cluster, writer: usize, counts: &Counts, stop: &AtomicBool) {
    let mut client = Client::connect(cluster.address(writer)).unwrap();
    for number in 1.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        counts.sent[writer].store(number, Ordering::SeqCst);
        let reply = client.call_until_ok(&[b"SET", &key(writer, number), &value(number)]);
        assert_eq!(reply, b"+OK\r\n");
        counts.acknowledged[writer].store(number, Ordering::SeqCst);
    }
}

/// Backs up a follower under load; if `lags` is true, it is paused and lags behind when the backup
/// begins. Returns, for each writer, the number of writes acknowledged before the backup began and
/// of those sent by its end; and the highest revision of the cluster.
fn back_up_under_load(cluster: &Cluster, file: &str, lags: bool) -> ([usize; 3], [usize; 3], u64) {
    let (counts, stop) = (Counts::default(), AtomicBool::new(false));
    thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for writer in 0..3 {
            let (counts, stop) = (&counts, &stop);
            scope.spawn(move || write(cluster, writer, counts, stop));
        }
        let wait_for_more = |more: usize| {
            let before = read(&counts.acknowledged);
            cluster.wait_for("acknowledged writes", || {
                let now = read(&counts.acknowledged);
                (0..3).all(|writer| now[writer] >= before[writer] + more).then_some(())
            });
        };
        wait_for_more(100);
        let follower = (cluster.leader() + 1) % 3;
        if lags {
            cluster.pause(follower);
            thread::sleep(Duration::from_millis(200));
        }
        let before = read(&counts.acknowledged);
        let backup = scope.spawn(move || admin(cluster, follower, &["backup", file, "--json"]));
        if lags {
            // The follower gets the first requests of the backup before it has caught up.
            thread::sleep(Duration::from_millis(100));
            cluster.resume(follower);
        }
        let report = json(&backup.join().unwrap());
        let sent = read(&counts.sent);
        assert_eq!(report["replica"], follower + 1, "{report}");
        wait_for_more(20);
        let highest = revision(&mut Client::connect(cluster.address(0)).unwrap());
        (before, sent, highest)
    })
}

fn assert_restored(new: &mut Cluster, before: [usize; 3], sent: [usize; 3], highest: u64) {
    for at in 0..3 {
        let mut client = Client::connect(new.address(at)).unwrap();
        for writer in 0..3 {
            assert_has_all(&mut client, writer, before[writer]);
            // The backup is a consistent state: it contains a write only if it contains all earlier
            // ones.
            let mut numbers = before[writer] + 1..=sent[writer];
            let first_missing = numbers.find(|number| !exists(&mut client, writer, *number));
            assert!(
                numbers.all(|number| !exists(&mut client, writer, number)),
                "{first_missing:?}"
            );
            assert!(!exists(&mut client, writer, sent[writer] + 1), "it was sent after the backup");
        }
        assert!(revision(&mut client) > highest + (1 << 40), "revisions go back");
    }
    new.wait_for("digests of all replicas", || {
        let output = admin(new, 0, &["digest"]);
        output.status.success().then_some(())
    });
    for round in 1..=2 {
        let mut client = Client::connect(new.address(0)).unwrap();
        let reply = client.call_until_ok(&[b"INCR", b"count of restarts"]);
        assert_eq!(reply, format!(":{round}\r\n").into_bytes());
        (0..3).for_each(|at| new.kill(at));
        new.restart();
        new.wait_until_all_serve();
    }
    let mut client = Client::connect(new.address(1)).unwrap();
    assert_eq!(client.call_until_ok(&[b"GET", b"count of restarts"]), b"$1\r\n2\r\n");
    assert_has_all(&mut client, 2, before[2]);
}

#[test]
fn restored_cluster_has_all_writes_acknowledged_before_backup() {
    let rounds = std::env::var(ROUNDS_VARIABLE).ok().and_then(|text| text.parse().ok());
    for round in 0..rounds.unwrap_or(ROUNDS) {
        let lags = round % 2 == 0;
        // With a short log, the paused follower would install the leader's snapshot instead of
        // catching up from the log.
        let flags = if lags { &[] } else { OFTEN };
        let mut cluster = Cluster::start_with(3, "auto", flags);
        cluster.wait_until_all_serve();
        let file = cluster.folder.path().join("backup");
        let file = file.to_str().unwrap();
        let (before, sent, highest) = back_up_under_load(&cluster, file, lags);
        assert!(!Path::new(&format!("{file}.partial")).exists());
        (0..3).for_each(|at| cluster.kill(at));
        let mut new = restored(3, file);
        assert_restored(&mut new, before, sent, highest);
        let in_backup = new.info::<u64>(0, "raft_applied_index");
        eprintln!("round {round}: {before:?} acknowledged before, {sent:?} sent, {in_backup}");
    }
}

/// Returns a stopped cluster of one replica with some keys, and a backup of it.
fn small_backup() -> (Cluster, String) {
    let mut cluster = Cluster::start(1, "auto");
    cluster.wait_until_all_serve();
    let mut client = Client::connect(cluster.address(0)).unwrap();
    for number in 1..=1_000 {
        let reply = client.call_until_ok(&[b"SET", &key(0, number), &value(number)]);
        assert_eq!(reply, b"+OK\r\n");
    }
    let file = cluster.folder.path().join("backup").to_str().unwrap().to_owned();
    let report = json(&admin(&cluster, 0, &["backup", &file, "--json"]));
    assert!(report["bytes"].as_u64().unwrap() > 100_000, "{report}");
    // To standard output, and back from standard input.
    let copy = format!("{file}.copy");
    let mut command = Command::new(env!("CARGO_BIN_EXE_bowline"));
    command.args(["admin", "--addr", &cluster.address(0).to_string(), "backup", "-"]);
    command.stdout(fs::File::create(&copy).unwrap());
    let piped = Cluster::run_to_end(command);
    assert!(piped.status.success() && stderr(&piped).contains("backup up to entry"));
    let input = || Stdio::from(fs::File::open(&copy).unwrap());
    let checked = json(&offline(&["check", "-", "--json"], &[], input()));
    // The cluster may have added an entry of its own between the two.
    assert!(checked["index"].as_u64() >= report["index"].as_u64(), "{checked} {report}");
    let folder = cluster.folder.path().join("piped");
    let folder = folder.to_str().unwrap();
    let arguments = ["restore", "-", "--id", "3", "--dir", folder, "--json"];
    assert_eq!(json(&offline(&arguments, &[], input()))["keys"], 1_001);
    cluster.kill(0);
    (cluster, file)
}

#[test]
fn damaged_backup_is_refused_with_the_position() {
    let (cluster, file) = small_backup();
    let bytes = fs::read(&file).unwrap();
    let damaged = cluster.folder.path().join("damaged").to_str().unwrap().to_owned();
    let new = Cluster::of_new_folders(1, "auto");
    let assert_refused = |bytes: &[u8], wanted: &str| {
        fs::write(&damaged, bytes).unwrap();
        let check = offline(&["check", &damaged], &[], Stdio::null());
        assert_failed(&check, 65, &[&format!("the backup {damaged} "), wanted]);
        assert_failed(&restore(&new, 0, &damaged, &[]), 65, &[&damaged, wanted]);
        assert!(!new.replica_folder(0).exists(), "{wanted}");
    };
    for length in [0, 50, 80, 70_000, bytes.len() - 1] {
        assert_refused(&bytes[..length], &format!("is truncated at byte {length}"));
    }
    for (at, wanted) in [
        (3, "is not a backup of bowline"),
        (20, "its header has a wrong checksum"),
        (90, "the block at byte 76 has a wrong checksum"),
        (66_000, "the block at byte 65616 has a wrong checksum"),
        (bytes.len() - 2, "the trailer at byte"),
    ] {
        let mut flipped = bytes.clone();
        flipped[at] ^= 16;
        assert_refused(&flipped, wanted);
    }
    assert_refused(&[&bytes[..], b"x"].concat(), "there is data after its end");
}

#[test]
fn backup_and_restore_refuse_wrong_input() {
    let (mut cluster, file) = small_backup();
    let new = Cluster::of_new_folders(1, "auto");
    let here = cluster.folder.path().to_str().unwrap().to_owned();
    let dir = new.replica_folder(0).to_str().unwrap().to_owned();
    let run = |arguments: &[&str]| offline(arguments, &[], Stdio::null());
    let restore = |arguments: &[&str]| run(&[&["restore", "--dir", &dir], arguments].concat());
    assert_failed(&restore(&["no/such/file", "--id", "1"]), 1, &["cannot open the backup no/"]);
    assert_failed(&restore(&[&here, "--id", "1"]), 1, &["is a folder; name the file"]);
    assert_failed(&restore(&[&file]), 1, &["--id is required"]);
    assert_failed(&restore(&[&file, "--id", "0"]), 1, &["a replica id from 1"]);
    assert_failed(&restore(&[&file, "--id", "1", "--peers", "2"]), 1, &["1=127.0.0.1:8001"]);
    assert_failed(&restore(&["-", "--id", "1"]), 65, &["on standard input is truncated at byte 0"]);
    let same = restore(&[&file, "--id", "1", "--cluster", crate::replicas::CLUSTER]);
    assert_failed(&same, 1, &["a cluster with the same id", "--cluster"]);
    assert!(!new.replica_folder(0).exists());
    assert!(restore(&[&file, "--id", "1"]).status.success());
    let before = content(&new.replica_folder(0));
    assert_failed(&restore(&[&file, "--id", "1"]), 1, &["already exists", "not empty"]);
    assert!(content(&new.replica_folder(0)) == before, "it was changed");
    let old = cluster.replica_folder(0);
    let refused = run(&["restore", &file, "--id", "1", "--dir", old.to_str().unwrap()]);
    assert_failed(&refused, 1, &["not empty"]);
    cluster.restart();
    cluster.wait_until_all_serve();
    let refused = admin(&cluster, 0, &["backup", &here]);
    assert_failed(&refused, 1, &["is a folder; name a file"]);
    let refused = admin(&cluster, 0, &["backup", "no/such/folder/file"]);
    assert_failed(&refused, 1, &["cannot create no/such/folder/file.partial"]);
    let port = cluster.ports[0];
    cluster.kill(0);
    let output = admin_at(port, &["backup", &format!("{here}/unreached")]);
    assert_failed(&output, 1, &["cannot connect"]);
    assert!(!Path::new(&format!("{here}/unreached.partial")).exists());
}

#[test]
fn backup_without_a_quorum_is_refused() {
    let mut cluster = Cluster::start_hasty(3, "auto", &[]);
    cluster.wait_until_all_serve();
    cluster.kill(0);
    cluster.kill(1);
    let file = cluster.folder.path().join("backup");
    let output = admin(&cluster, 2, &["backup", file.to_str().unwrap()]);
    assert_failed(&output, 1, &["so there is no snapshot", "a majority of the replicas must run"]);
    assert!(!file.exists() && !cluster.folder.path().join("backup.partial").exists());
}

/// The failpoints of a restore before the folder is complete.
const RESTORING: [&str; 7] = [
    "snapshot-own-created",
    "snapshot-own-written",
    "snapshot-own-synced",
    "snapshot-own-verified",
    "snapshot-own-renamed",
    "snapshot-own-durable",
    "restore-snapshot-complete",
];

#[test]
fn interrupted_restore_leaves_a_folder_that_is_refused() {
    let (_cluster, file) = small_backup();
    let mut new = Cluster::of_new_folders(1, "auto");
    let kill_at = |new: &Cluster, point: &str| {
        let output = restore(new, 0, &file, &[("BOWLINE_FAILPOINT", point)]);
        assert_eq!(output.status.signal(), Some(9), "{point}: {}", stderr(&output));
    };
    for point in RESTORING {
        kill_at(&new, point);
        new.restart();
        assert_eq!(new.end_of(0).code(), Some(65), "{point}\n{}", new.logs());
        assert!(new.log(0).contains("meta is missing"), "{point}\n{}", new.logs());
        assert_failed(&restore(&new, 0, &file, &[]), 1, &["not empty", "was interrupted"]);
        fs::remove_dir_all(new.replica_folder(0)).unwrap();
    }
    kill_at(&new, "restore-complete");
    new.restart();
    new.wait_until_all_serve();
    assert_has_all(&mut Client::connect(new.address(0)).unwrap(), 0, 1_000);
}

/// Takes a snapshot after a write.
fn take_snapshot(cluster: &Cluster, client: &mut Client) {
    assert_eq!(client.call_until_ok(&[b"INCR", b"snapshots"])[0], b':');
    assert!(admin(cluster, 0, &["snapshot"]).status.success());
}

/// Opens the latest snapshot and returns its id.
fn open_snapshot(client: &mut Client) -> String {
    let reply = String::from_utf8(client.call(&[b"SNAPSHOT", b"OPEN"]).unwrap()).unwrap();
    reply.lines().nth(1).expect("a bulk string").to_owned()
}

#[test]
fn snapshot_stays_readable_for_a_client_after_it_is_replaced() {
    let cluster = Cluster::start(1, "auto");
    cluster.wait_until_all_serve();
    let mut client = Client::connect(cluster.address(0)).unwrap();
    let reply = client.call(&[b"SNAPSHOT", b"OPEN"]).unwrap();
    assert!(reply.starts_with(b"-ERR no such snapshot"), "none was taken yet");
    client.call_until_ok(&[b"SET", b"large", &vec![b'v'; 600_000]]);
    take_snapshot(&cluster, &mut client);
    let read = open_snapshot(&mut client);
    let part = |client: &mut Client, id: &str, offset: usize| {
        let arguments =
            [&b"SNAPSHOT"[..], b"READ", id.as_bytes(), &offset.to_string().into_bytes()];
        client.call(&arguments).unwrap()
    };
    let first = part(&mut client, &read, 0);
    assert!(first.starts_with(b"$262144\r\nbowline snapshot"));
    for _ in 0..2 {
        take_snapshot(&cluster, &mut client);
    }
    assert_ne!(open_snapshot(&mut client), read);
    let unknown = read.replacen('-', "-7", 1);
    assert!(part(&mut client, &unknown, 0).starts_with(b"-ERR no such snapshot"));
    let bytes: usize = read.split('-').nth(2).unwrap().parse().unwrap();
    assert!(part(&mut client, &read, 262_144).starts_with(b"$262144\r\n"));
    let last = part(&mut client, &read, 524_288);
    assert!(last.starts_with(format!("${}\r\n", bytes - 524_288).as_bytes()));
    assert_eq!(part(&mut client, &read, bytes), b"$0\r\n\r\n");
    assert_eq!(part(&mut client, &read, bytes + 9), b"$0\r\n\r\n");
    assert!(part(&mut client, "1-2-3", 0).starts_with(b"-ERR invalid id of a snapshot"));
    client.call(&[b"MULTI"]).unwrap();
    let queued = part(&mut client, &read, 0);
    assert!(queued.starts_with(b"-ERR Command not allowed inside a transaction"));
}

#[test]
fn slow_backup_receiver_delays_no_client_and_gets_all_data() {
    let cluster = Cluster::start(1, "auto");
    cluster.wait_until_all_serve();
    let mut client = Client::connect(cluster.address(0)).unwrap();
    client.call_until_ok(&[b"SET", b"large", &vec![b'v'; 2_000_000]]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_bowline"));
    command.args(["admin", "--addr", &cluster.address(0).to_string(), "backup", "-"]);
    let mut backup = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut output = backup.stdout.take().unwrap();
    let mut bytes = vec![0; 16];
    output.read_exact(&mut bytes).unwrap();
    // The pipe is full. Meanwhile clients write, and later snapshots replace the one in the backup.
    for _ in 0..2 {
        take_snapshot(&cluster, &mut client);
    }
    output.read_to_end(&mut bytes).unwrap();
    assert!(backup.wait().unwrap().success());
    let file = cluster.folder.path().join("backup").to_str().unwrap().to_owned();
    fs::write(&file, &bytes).unwrap();
    let checked = json(&offline(&["check", &file, "--json"], &[], Stdio::null()));
    assert_eq!(checked["bytes"], bytes.len());
    assert!(checked["index"].as_u64() < Some(cluster.info(0, "raft_snapshot_index")));
}

/// Runs `bowline admin force-new-cluster` on a replica's folder.
fn force(folder: &Path, id: &str, peers: &str, more: &[&str]) -> Output {
    force_with(&[], folder, id, peers, more)
}

/// Like [`force`], with these environment variables.
fn force_with(
    variables: &[(&str, &str)],
    folder: &Path,
    id: &str,
    peers: &str,
    more: &[&str],
) -> Output {
    let folder = folder.to_str().unwrap();
    let arguments = ["force-new-cluster", folder, "--id", id, "--peers", peers];
    offline(&[&arguments, more].concat(), variables, Stdio::null())
}

#[test]
fn forced_cluster_has_all_data_of_the_surviving_folder() {
    let mut cluster = Cluster::start_with(3, "auto", OFTEN);
    cluster.wait_until_all_serve();
    let mut client = Client::connect(cluster.address(0)).unwrap();
    for number in 1..=2_000 {
        client.call_until_ok(&[b"SET", &key(0, number), &value(number)]);
    }
    let highest = revision(&mut client);
    let survivor = cluster.leader();
    let (id, folder) = ((survivor + 1).to_string(), cluster.replica_folder(survivor));
    cluster.wait_for("a log on disk", || {
        let index = |field| cluster.info::<u64>(survivor, field);
        (index("raft_durable_index") >= index("raft_last_index")).then_some(())
    });
    let mut new = Cluster::of_new_folders(3, "auto");
    let peers = new.peers(survivor).to_owned();
    assert_failed(&force(&folder, &id, &peers, &["--yes"]), 1, &["in use by another process"]);
    (0..3).for_each(|at| cluster.kill(at));
    let before = content(&folder);
    let output = force(&folder, &id, &peers, &[]);
    assert_failed(&output, 1, &["nothing was changed", "--yes"]);
    for part in ["may be lost: writes after entry", "may appear: writes in entries"] {
        assert!(stdout(&output).contains(part), "{}", stdout(&output));
    }
    let other = ((survivor + 1) % 3 + 1).to_string();
    assert_failed(&force(&folder, &other, &peers, &["--yes"]), 1, &["check the folder and --id"]);
    assert_failed(&force(Path::new("no/folder"), &id, &peers, &["--yes"]), 1, &["no/folder"]);
    let beside = |suffix: &str| PathBuf::from(format!("{}{suffix}", folder.display()));
    let point = [("BOWLINE_FAILPOINT", "restore-snapshot-complete")];
    let killed = force_with(&point, &folder, &id, &peers, &["--yes"]);
    assert_eq!(killed.status.signal(), Some(9), "{}", stderr(&killed));
    let again = force(&folder, &id, &peers, &["--yes"]);
    assert_failed(&again, 1, &[".new/snapshot-", "was interrupted"]);
    fs::remove_dir_all(beside(".new")).unwrap();
    assert!(content(&folder) == before, "it was changed");
    let report = json(&force(&folder, &id, &peers, &["--yes", "--json"]));
    assert!(report["index"].as_u64().unwrap() > 1 << 42, "{report}");
    assert!(content(&beside(".before-1")) == before, "the old folder was changed");
    let backup = beside(".backup");
    fs::rename(&folder, new.replica_folder(survivor)).unwrap();
    for at in (0..3).filter(|at| *at != survivor) {
        let restored = json(&restore(&new, at, backup.to_str().unwrap(), &[]));
        assert_eq!(restored["cluster_fingerprint"], report["cluster_fingerprint"]);
    }
    new.restart();
    new.wait_until_all_serve();
    for at in 0..3 {
        let mut client = Client::connect(new.address(at)).unwrap();
        assert_has_all(&mut client, 0, 2_000);
        assert!(revision(&mut client) > highest + (1 << 40));
    }
    new.wait_for("digests of all replicas", || {
        admin(&new, 0, &["digest"]).status.success().then_some(())
    });
}
