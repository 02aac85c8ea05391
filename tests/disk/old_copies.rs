//! A replica whose folder was restored from an older copy, or wiped and bootstrapped again under
//! its id, lacks entries that it acknowledged. It must never again count towards a majority,
//! however often it is restarted: its peers know its last start, and keep it across their own
//! restarts.

use std::path::Path;
use std::time::Duration;

use bowline::storage::{Log, LogOptions, RealDisk, StorageError};
use bowline::types::NodeId;

use super::client::Client;
use super::replicas::Cluster;
use super::{assert_holds, copy, write};

/// Asserts that requests that need a majority fail, both at the old copy (`at`) and at a peer
/// (`peer`), and that the peer reports the old copy.
#[track_caller]
fn assert_refused(cluster: &Cluster, at: usize, peer: usize, case: &str) {
    for place in [at, peer] {
        let mut client = cluster
            .wait_for("a server that listens", || Client::connect(cluster.address(place)).ok());
        let reply = client.call(&[b"SET", b"no", b"1"]);
        let shown = reply.map(|reply| String::from_utf8_lossy(&reply).into_owned());
        let refused = shown.as_ref().is_ok_and(|shown| {
            ["-CLUSTERDOWN", "-LOADING", "-UNCERTAIN"].iter().any(|it| shown.starts_with(it))
        });
        assert!(refused, "{case}: {shown:?} at replica {}\n{}", place + 1, cluster.logs());
    }
    let said = format!("replica {} connected, but it was known as incarnation", at + 1);
    let advice = format!("or replace it with `bowline cluster --replace {}`", at + 1);
    cluster.wait_for("a report of the old copy", || {
        let log = cluster.folder.path().join(format!("replica-{}.log", peer + 1));
        let text = std::fs::read_to_string(log).ok()?;
        (text.contains(&said) && text.contains(&advice)).then_some(())
    });
}

/// Number of starts of a replica: more than the number of starts that a record in the folder once
/// kept.
const RESTARTS: u64 = 60;
/// Number of these starts that run a server process, while the others only open the log; an
/// environment variable can set another number.
const PROCESSES: u64 = 2;
const PROCESSES_VARIABLE: &str = "BOWLINE_ROLLBACK_PROCESSES";

/// Starts a stopped replica [`RESTARTS`] times, and leaves it stopped.
fn restart_often(cluster: &mut Cluster, at: usize) {
    let asked = std::env::var(PROCESSES_VARIABLE).ok().and_then(|text| text.parse().ok());
    let processes = asked.unwrap_or(PROCESSES);
    let before = start_count(&cluster.replica_folder(at), at);
    for _ in processes..RESTARTS {
        open(&cluster.replica_folder(at), at);
    }
    for _ in 0..processes {
        let log = cluster.log(at).len();
        cluster.start_as(at, cluster.command(at));
        cluster.wait_for("a start", || {
            cluster.log(at)[log..].contains("replica started").then_some(())
        });
        cluster.kill(at);
    }
    let after = start_count(&cluster.replica_folder(at), at);
    assert!(after >= before + RESTARTS, "{after} starts after {before}");
}

/// Opens the log as a server start does. Returns how many times the log has been opened.
fn open(folder: &Path, at: usize) -> u64 {
    let id = NodeId(u16::try_from(at + 1).unwrap());
    let disk = open_disk(folder);
    let (_, _, identity) = Log::open(disk, None, id, LogOptions::default(), None).unwrap();
    identity.incarnation
}

/// Opens a folder. It may still be locked by a handle that was closed before: a process that
/// another test is starting has a copy of the handle until it executes its program.
fn open_disk(folder: &Path) -> RealDisk {
    for _ in 0..500 {
        match RealDisk::open(folder) {
            Err(StorageError::Locked { .. }) => std::thread::sleep(Duration::from_millis(20)),
            opened => return opened.unwrap(),
        }
    }
    panic!("{} stays locked", folder.display());
}

/// Writes 20 keys at a replica, and repeats this if an election interrupts the writes.
fn write_20(cluster: &Cluster, at: usize) {
    let done = (0..200).any(|_| write(cluster, at, 0, 20, 100) == 20);
    assert!(done, "{}", cluster.logs());
}

/// Returns the number of earlier starts of the replica.
fn start_count(folder: &Path, at: usize) -> u64 {
    open(folder, at) - 1
}

/// Two of three replicas have the acknowledged writes. One of the two is wiped and bootstrapped
/// again.
#[test]
fn wiped_and_bootstrapped_replica_is_refused_by_its_peers() {
    let mut cluster = Cluster::start_hasty(3, "auto", &[]);
    cluster.wait_until_all_serve();
    // Replica 3 lacks these writes.
    cluster.kill(2);
    write_20(&cluster, 0);
    cluster.kill(0);
    cluster.kill(1);
    std::fs::remove_dir_all(cluster.replica_folder(1)).unwrap();
    let mut command = cluster.command(1);
    command.arg("--bootstrap");
    cluster.start_as(1, command);
    cluster.start_as(2, cluster.command(2));
    assert_refused(&cluster, 1, 2, "right after its restart");
    cluster.kill(1);
    restart_often(&mut cluster, 1);
    cluster.start_as(1, cluster.command(1));
    assert_refused(&cluster, 1, 2, "after many restarts");
    // Its peer keeps the record across a restart.
    cluster.kill(2);
    cluster.start_as(2, cluster.command(2));
    assert_refused(&cluster, 1, 2, "after a restart of its peer");
    // With the replica that has them everything is there, and the wiped one is replaced.
    cluster.start_as(0, cluster.command(0));
    let serves = |cluster: &Cluster, at: usize| {
        let mut client =
            cluster.wait_for("a server that listens", || Client::connect(cluster.address(at)).ok());
        assert_eq!(client.call_until_ok(&[b"SET", b"after", b"1"]), b"+OK\r\n");
    };
    serves(&cluster, 0);
    assert_holds(&cluster, 0, 20, 100, "without the wiped one");
    cluster.kill(1);
    let kept = cluster.folder.path().join("broken");
    std::fs::rename(cluster.replica_folder(1), kept).unwrap();
    let log = cluster.log(1).len();
    let mut command = cluster.command(1);
    command.arg("--rejoin");
    cluster.start_as(1, command);
    cluster.wait_for("the end of the rejoin", || {
        cluster.log(1)[log..].contains("rejoined: this replica is").then_some(())
    });
    // It counts towards majorities again.
    cluster.kill(0);
    serves(&cluster, 1);
    assert_holds(&cluster, 1, 20, 100, "replaced");
}

#[test]
fn replica_restored_from_an_old_copy_is_refused_by_its_peers() {
    let mut cluster = Cluster::start_hasty(3, "auto", &[]);
    cluster.wait_until_all_serve();
    let (folder, old) = (cluster.replica_folder(0), cluster.folder.path().join("old"));
    let kept = cluster.folder.path().join("kept");
    cluster.kill(0);
    copy(&folder, &old);
    cluster.restart();
    cluster.wait_until_all_serve();
    // Replica 2 is down, so these writes need replica 1 for a majority.
    cluster.kill(1);
    write_20(&cluster, 2);
    // The same for replica 2: from here on only replica 3 has the acknowledged writes.
    cluster.kill(0);
    std::fs::rename(&folder, &kept).unwrap();
    copy(&old, &folder);
    cluster.start_as(0, cluster.command(0));
    assert_refused(&cluster, 0, 2, "right after its restart");
    // A second start has a higher count than its peers know, but is still the old copy.
    cluster.kill(0);
    cluster.start_as(0, cluster.command(0));
    assert_refused(&cluster, 0, 2, "started twice");
    cluster.kill(0);
    restart_often(&mut cluster, 0);
    cluster.start_as(0, cluster.command(0));
    assert_refused(&cluster, 0, 2, "started very often");
    // Its peers keep the record across their own restarts.
    cluster.kill(0);
    cluster.kill(2);
    cluster.start_as(2, cluster.command(2));
    cluster.start_as(0, cluster.command(0));
    assert_refused(&cluster, 0, 2, "after a restart of its peer");
    // With the current folder it is accepted.
    cluster.kill(0);
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::rename(&kept, &folder).unwrap();
    cluster.restart();
    cluster.wait_until_all_serve();
    for at in 0..3 {
        assert_holds(&cluster, at, 20, 100, "with the right folder back");
    }
}
