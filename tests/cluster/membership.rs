//! Durable membership: replicas are started with other `--peers` or with exchanged folders, or are
//! bootstrapped with other members or under a new id. All of these starts are refused with the
//! reason, and no acknowledged write is lost.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::client::Client;
use crate::refusal;
use crate::replicas::Cluster;

/// Name of the environment variable that sets another number of rounds with wrong flags.
const ROUNDS_VARIABLE: &str = "BOWLINE_MEMBERS_ROUNDS";

/// Returns the names and contents of all files in a folder.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(folder).unwrap().map(|file| {
        let file = file.unwrap();
        (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap())
    });
    files.collect()
}

fn write(cluster: &Cluster, at: usize, keys: std::ops::Range<usize>) {
    let mut client = Client::connect(cluster.address(at)).unwrap();
    for key in keys {
        let key = key.to_string();
        assert_eq!(client.call_until_ok(&[b"SET", key.as_bytes(), key.as_bytes()]), b"+OK\r\n");
    }
}

#[track_caller]
fn assert_holds(cluster: &Cluster, count: usize) {
    for at in 0..3 {
        let mut client = Client::connect(cluster.address(at)).unwrap();
        for key in 0..count {
            let key = key.to_string();
            let expected = format!("${}\r\n{key}\r\n", key.len());
            let reply = client.call_until_ok(&[b"GET", key.as_bytes()]);
            assert_eq!(reply, expected.as_bytes(), "at {at}\n{}", cluster.logs());
        }
    }
}

/// Asserts that a write at this replica is not applied, because there is no majority.
#[track_caller]
fn assert_serves_no_write(cluster: &Cluster, at: usize) {
    let mut client =
        cluster.wait_for("a server that listens", || Client::connect(cluster.address(at)).ok());
    let reply = client.call(&[b"SET", b"alone", b"1"]).unwrap();
    let shown = String::from_utf8_lossy(&reply).into_owned();
    assert!(
        ["-CLUSTERDOWN", "-LOADING", "-UNCERTAIN"].iter().any(|it| shown.starts_with(it)),
        "{shown} at replica {}\n{}",
        at + 1,
        cluster.logs()
    );
}

fn other_flags(threads: &'static str) {
    let rounds = std::env::var(ROUNDS_VARIABLE).ok().and_then(|text| text.parse().ok());
    let mut cluster = Cluster::start(3, threads);
    cluster.wait_until_all_serve();
    let wrong: [&[usize]; 3] = [&[], &[0], &[1]];
    let mut keys = 0;
    for round in 0..rounds.unwrap_or(3_usize) {
        write(&cluster, round % 3, keys..keys + 10);
        keys += 10;
        // On one, two or three replicas.
        let restarted: Vec<usize> = (0..=round % 3).map(|n| (round + n) % 3).collect();
        for &at in &restarted {
            cluster.kill(at);
        }
        for &at in &restarted {
            let named = wrong[(round / 3 + at) % 3];
            let before = files(&cluster.replica_folder(at));
            let mut all: Vec<usize> = named.iter().map(|place| place + 1).chain([at + 1]).collect();
            all.sort_unstable();
            all.dedup();
            let text = refusal(cluster.command_naming(at, named));
            let ids: Vec<String> = all.iter().map(usize::to_string).collect();
            let plural = if all.len() == 1 { "" } else { "s" };
            let words = format!("--peers and --id name replica{plural} {}, but", ids.join(", "));
            assert!(text.contains(&words), "{words}: {text}");
            assert!(text.contains("belongs to a cluster of replicas 1, 2, 3"), "{text}");
            let after = files(&cluster.replica_folder(at));
            assert!(before == after, "round {round}: a refused start changed {:?}", after.keys());
        }
        cluster.restart();
        cluster.wait_until_all_serve();
        assert_holds(&cluster, keys);
    }
}

#[test]
fn restart_with_changed_peers_is_refused_with_thread_per_stage() {
    other_flags("dedicated");
}

#[test]
fn restart_with_changed_peers_is_refused_with_shared_stage_thread() {
    other_flags("fused");
}

#[test]
fn replicas_with_different_member_lists_refuse_each_other() {
    let mut cluster = Cluster::start_hasty(3, "auto", &[]);
    cluster.wait_until_all_serve();
    write(&cluster, 1, 0..10);
    cluster.kill(0);
    let kept = cluster.folder.path().join("kept");
    fs::rename(cluster.replica_folder(0), &kept).unwrap();
    let mut command = cluster.command_naming(0, &[0, 1]);
    command.arg("--bootstrap");
    cluster.start_as(0, command);
    for (at, words) in [
        (0, "replica 2 connected as a member of a cluster that was created with replicas 1, 2, 3,"),
        (0, "replica 3 connected as a member of a cluster that was created with replicas 1, 2, 3,"),
        (
            1,
            "replica 1 connected as a member of a cluster that was created with replicas 1, 2, but",
        ),
    ] {
        cluster.wait_for(words, || cluster.log(at).contains(words).then_some(()));
    }
    assert_serves_no_write(&cluster, 0);
    write(&cluster, 1, 10..20);
    // With its own folder it starts.
    cluster.kill(0);
    fs::remove_dir_all(cluster.replica_folder(0)).unwrap();
    fs::rename(kept, cluster.replica_folder(0)).unwrap();
    cluster.restart();
    cluster.wait_until_all_serve();
    assert_holds(&cluster, 20);
}

/// The replica to be replaced is the leader. It comes back when its replacement has been refused.
#[test]
fn replacement_replica_with_a_new_id_is_refused_by_members() {
    let mut cluster = Cluster::start_hasty(3, "auto", &[]);
    cluster.wait_until_all_serve();
    write(&cluster, 1, 0..10);
    let leader = cluster.leader();
    cluster.kill(leader);
    // Replica 4 takes its place, at the same ports.
    let peers: Vec<String> = (0..3)
        .map(|at| {
            let id = if at == leader { 4 } else { at + 1 };
            format!("{id}=127.0.0.1:{}", cluster.peer_port(at))
        })
        .collect();
    let folder = cluster.folder.path().join("replica-4");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_bowline"));
    command
        .args(["serve", "--stop-with-stdin", "--bootstrap", "--id", "4"])
        .args(["--listen", &cluster.address(leader).to_string()])
        .args(["--peer-listen", &format!("127.0.0.1:{}", cluster.peer_port(leader))])
        .args(["--peers", &peers.join(",")])
        .args(["--cluster", crate::replicas::CLUSTER])
        .arg("--dir")
        .arg(folder)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null());
    cluster.start_as(leader, command);
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    for at in others {
        let words = "but this one was created with replicas 1, 2, 3: one of the two was";
        cluster.wait_for(words, || cluster.log(at).contains(words).then_some(()));
        let words = "add it as a new replica with `bowline serve --join` and `bowline admin add`";
        assert!(cluster.log(at).contains(words), "{}", cluster.log(at));
    }
    assert_serves_no_write(&cluster, leader);
    let write_at_others = || {
        let mut client = Client::connect(cluster.address(others[0])).unwrap();
        let reply = client.call_until_ok(&[b"SET", b"10", b"10"]);
        assert_eq!(reply, b"+OK\r\n", "{}", cluster.logs());
    };
    write_at_others();
    cluster.kill(leader);
    cluster.restart();
    cluster.wait_until_all_serve();
    assert_holds(&cluster, 11);
}

#[test]
fn replica_start_with_swapped_data_folders_is_refused() {
    let mut cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    write(&cluster, 0, 0..10);
    let exchange = |cluster: &Cluster| {
        let (one, two) = (cluster.replica_folder(0), cluster.replica_folder(1));
        let between = cluster.folder.path().join("between");
        fs::rename(&one, &between).unwrap();
        fs::rename(&two, &one).unwrap();
        fs::rename(&between, &two).unwrap();
    };
    cluster.kill(0);
    cluster.kill(1);
    exchange(&cluster);
    for (at, other) in [(0, 2), (1, 1)] {
        let before = files(&cluster.replica_folder(at));
        let text = refusal(cluster.command(at));
        assert!(text.contains(&format!("belongs to replica {other:04}, not to")), "{text}");
        assert!(before == files(&cluster.replica_folder(at)), "a refused start changed a file");
    }
    exchange(&cluster);
    cluster.restart();
    cluster.wait_until_all_serve();
    assert_holds(&cluster, 10);
}
