//! A replica whose folder was restored from an older copy, or wiped and bootstrapped again under
//! its id, has forgotten what it acknowledged. It must never again count for a majority, however
//! often it is restarted: its peers know which openings of it they have heard, and remember that
//! over their own restarts.

use std::path::Path;

use bowline::storage::{Log, LogOptions, RealDisk};
use bowline::types::NodeId;

use super::client::Client;
use super::replicas::Cluster;
use super::{assert_holds, copy, write};

/// Nothing that takes a majority with the old copy in it may go through.
#[track_caller]
fn assert_refused(cluster: &Cluster, at: usize, peer: usize, case: &str) {
    for place in [at, peer] {
        let mut client = cluster
            .wait_for("a server that listens", || Client::connect(cluster.address(place)).ok());
        let reply = client.call(&[b"SET", b"no", b"1"]);
        let shown = reply.map(|reply| String::from_utf8_lossy(&reply).into_owned());
        let refused = shown.as_ref().is_ok_and(|shown| {
            shown.starts_with("-CLUSTERDOWN") || shown.starts_with("-UNCERTAIN")
        });
        assert!(refused, "{case}: {shown:?} at replica {}\n{}", place + 1, cluster.logs());
    }
    let said = format!("replica {} called, but it was heard before as incarnation", at + 1);
    let advice = format!("replace it with `bowline cluster --replace {}`", at + 1);
    cluster.wait_for("a word about the old copy", || {
        let log = cluster.folder.path().join(format!("replica-{}.log", peer + 1));
        let text = std::fs::read_to_string(log).ok()?;
        (text.contains(&said) && text.contains(&advice)).then_some(())
    });
}

/// Starts of a replica, more than were once remembered.
const RESTARTS: u64 = 60;
/// How many of them are processes; the others only open the log, as a start does. Asks for more.
const PROCESSES: u64 = 2;
const PROCESSES_VARIABLE: &str = "BOWLINE_ROLLBACK_PROCESSES";

/// Restarts a replica that does not run, over and over; it does not run in the end.
fn restart_often(cluster: &mut Cluster, at: usize) {
    let asked = std::env::var(PROCESSES_VARIABLE).ok().and_then(|text| text.parse().ok());
    let processes = asked.unwrap_or(PROCESSES);
    let before = openings(&cluster.replica_folder(at), at);
    for _ in processes..RESTARTS {
        open(&cluster.replica_folder(at), at);
    }
    for _ in 0..processes {
        let log = cluster.log(at).len();
        cluster.start_as(at, cluster.command(at));
        cluster.wait_for("a start", || {
            cluster.log(at)[log..].contains("the log is open").then_some(())
        });
        cluster.kill(at);
    }
    let after = openings(&cluster.replica_folder(at), at);
    assert!(after >= before + RESTARTS, "{after} openings after {before}");
}

/// Opens the log as a start does; the count of openings.
fn open(folder: &Path, at: usize) -> u64 {
    let id = NodeId(u16::try_from(at + 1).unwrap());
    let disk = RealDisk::open(folder).unwrap();
    let (_, _, identity) = Log::open(disk, None, id, LogOptions::default(), None).unwrap();
    identity.incarnation
}

/// How often the log was opened before this.
fn openings(folder: &Path, at: usize) -> u64 {
    open(folder, at) - 1
}

/// Of three replicas two have what was acknowledged; one of the two is wiped and bootstrapped
/// again.
#[test]
fn wiped_and_bootstrapped_replica_is_refused_over_60_restarts() {
    let mut cluster = Cluster::start_hasty(3, "auto", &[]);
    cluster.wait_until_all_serve();
    // Replica 3 lacks these.
    cluster.kill(2);
    let acknowledged = (0..200).find_map(|_| match write(&cluster, 0, 0, 20, 100) {
        20 => Some(20),
        _ => None,
    });
    assert_eq!(acknowledged, Some(20), "{}", cluster.logs());
    cluster.kill(0);
    cluster.kill(1);
    std::fs::remove_dir_all(cluster.replica_folder(1)).unwrap();
    let mut command = cluster.command(1);
    command.arg("--bootstrap");
    cluster.start_as(1, command);
    cluster.start_as(2, cluster.command(2));
    assert_refused(&cluster, 1, 2, "as soon as it comes back");
    cluster.kill(1);
    restart_often(&mut cluster, 1);
    cluster.start_as(1, cluster.command(1));
    assert_refused(&cluster, 1, 2, "after many restarts");
    // Its peer remembers over a restart of its own.
    cluster.kill(2);
    cluster.start_as(2, cluster.command(2));
    assert_refused(&cluster, 1, 2, "after a restart of its peer");
    // With the one that holds them everything is there, and the wiped one is replaced.
    cluster.start_as(0, cluster.command(0));
    let serves = |cluster: &Cluster, at: usize| {
        let mut client =
            cluster.wait_for("a server that listens", || Client::connect(cluster.address(at)).ok());
        assert_eq!(client.insist(&[b"SET", b"after", b"1"]), b"+OK\r\n");
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
    cluster.wait_for("the end of rejoining", || {
        cluster.log(1)[log..].contains("rejoined: this replica holds").then_some(())
    });
    // It counts again.
    cluster.kill(0);
    serves(&cluster, 1);
    assert_holds(&cluster, 1, 20, 100, "replaced");
}

#[test]
fn restored_old_folder_is_refused_across_restarts() {
    let mut cluster = Cluster::start_hasty(3, "auto", &[]);
    cluster.wait_until_all_serve();
    let (folder, old) = (cluster.replica_folder(0), cluster.folder.path().join("old"));
    let kept = cluster.folder.path().join("kept");
    cluster.kill(0);
    copy(&folder, &old);
    cluster.restart();
    cluster.wait_until_all_serve();
    // Replica 2 is away, so the majority that acknowledges these needs replica 1.
    cluster.kill(1);
    let acknowledged = (0..200).find_map(|_| match write(&cluster, 2, 0, 20, 100) {
        20 => Some(20),
        // An election after the other's end.
        _ => None,
    });
    assert_eq!(acknowledged, Some(20), "{}", cluster.logs());
    // The same for replica 2: from here on replica 3 alone has what was acknowledged.
    cluster.kill(0);
    std::fs::rename(&folder, &kept).unwrap();
    copy(&old, &folder);
    cluster.start_as(0, cluster.command(0));
    assert_refused(&cluster, 0, 2, "as soon as it comes back");
    // A second start counts further than what its peers have seen, and is the old copy all the
    // same.
    cluster.kill(0);
    cluster.start_as(0, cluster.command(0));
    assert_refused(&cluster, 0, 2, "started twice");
    cluster.kill(0);
    restart_often(&mut cluster, 0);
    cluster.start_as(0, cluster.command(0));
    assert_refused(&cluster, 0, 2, "started very often");
    // Its peers remember over restarts of their own.
    cluster.kill(0);
    cluster.kill(2);
    cluster.start_as(2, cluster.command(2));
    cluster.start_as(0, cluster.command(0));
    assert_refused(&cluster, 0, 2, "after a restart of its peer");
    // The right folder is welcome.
    cluster.kill(0);
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::rename(&kept, &folder).unwrap();
    cluster.restart();
    cluster.wait_until_all_serve();
    for at in 0..3 {
        assert_holds(&cluster, at, 20, 100, "with the right folder back");
    }
}
