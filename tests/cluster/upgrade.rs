//! Rolling upgrades with the previous version of the program: a cluster of it is upgraded replica
//! by replica under load, in every combination of old and new leaders and followers.
//!
//! The environment variable `BOWLINE_PREVIOUS` names the program of the previous version. Without
//! it, the tests that need it do nothing. `.ci/run` builds it from the history.
#![allow(clippy::unwrap_used, reason = "a test whose helpers can't go on fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use bowline::feature_level::FeatureLevel;
use bowline::sim::checkers::linearizability::STEPS_MAX;

use crate::client::Client;
use crate::load::{self, Notes, StopAtEnd};
use crate::replicas::Cluster;

/// Name of the environment variable with the path of the previous version's program.
const PREVIOUS_VARIABLE: &str = "BOWLINE_PREVIOUS";
/// Flags that make the replicas take snapshots and compact their logs often, so that a replica that
/// was down catches up by a snapshot.
const FLAGS: &[&str] = &["--snapshot-log-bytes", "64kb"];
/// Duration of the load before and after each step.
const LOAD: Duration = Duration::from_millis(300);
/// Number and length in bytes of the values that are written while a replica is down, which are
/// more than the log keeps.
const BULK_VALUES: usize = 40;
const BULK_BYTES: usize = 16 << 10;

/// Returns the program of the previous version; `None` if the environment names none.
fn previous() -> Option<PathBuf> {
    let path = std::env::var_os(PREVIOUS_VARIABLE).map(PathBuf::from);
    if path.is_none() {
        eprintln!("skipped: set {PREVIOUS_VARIABLE} to the program of the previous version");
    }
    path
}

fn present() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_bowline"))
}

/// A cluster that is being upgraded, with clients at all replicas during each step.
struct Upgrade {
    cluster: Cluster,
    round: u64,
}

impl Upgrade {
    /// Performs a step under load, and checks that the history of all clients' requests is
    /// linearizable.
    fn step(&mut self, what: &str, change: impl FnOnce(&mut Cluster)) {
        let (notes, stop, round) = (Notes::default(), AtomicBool::new(false), self.round);
        let addresses: Vec<_> = (0..3).map(|at| self.cluster.address(at)).collect();
        let cluster = &mut self.cluster;
        thread::scope(|scope| {
            let _stop = StopAtEnd(&stop);
            for (name, address) in (0..).zip(&addresses) {
                let (notes, stop) = (&notes, &stop);
                scope.spawn(move || load::run(*address, name, round, notes, stop));
            }
            thread::sleep(LOAD);
            change(cluster);
            cluster.wait_until_all_serve();
            let before = notes.acknowledged.load(Ordering::Relaxed);
            thread::sleep(LOAD);
            cluster.wait_for("writes after the step", || {
                (notes.acknowledged.load(Ordering::Relaxed) > before).then_some(())
            });
        });
        load::read_all(&addresses, round, &notes);
        let count = notes.history().len();
        if let Err(error) = notes.history().check(STEPS_MAX) {
            panic!("{what}: {error}\n{}", self.cluster.logs());
        }
        wait_until_equal(&self.cluster);
        eprintln!("{what}: {count} operations are linearizable");
        self.round += 1;
    }
}

/// Waits until all replicas have the same digest at the same index.
fn wait_until_equal(cluster: &Cluster) {
    cluster.wait_for("equal digests", || {
        let states = [0, 1, 2].map(|at| {
            let index: u64 = cluster.info(at, "raft_applied_index");
            (index, cluster.info::<String>(at, "raft_state_digest"))
        });
        (states[0] == states[1] && states[1] == states[2]).then_some(())
    });
}

/// Transfers leadership to a replica.
fn lead(cluster: &Cluster, target: usize) {
    let port = cluster.ports[target].to_string();
    cluster.wait_for("the transfer", || {
        if cluster.leader() == target {
            return Some(());
        }
        let mut client = Client::connect(cluster.address(cluster.leader())).ok()?;
        client.call(&[b"FAILOVER", b"TO", b"127.0.0.1", port.as_bytes()]).ok()?;
        thread::sleep(LOAD);
        None
    });
}

/// Writes so much that a replica that is down must catch up by a snapshot.
fn write_bulk(cluster: &Cluster, at: usize) {
    let mut client = Client::connect(cluster.address(at)).unwrap();
    let value = vec![b'v'; BULK_BYTES];
    for number in 0..BULK_VALUES {
        let key = format!("bulk:{}", number % 8);
        assert_eq!(client.call_until_ok(&[b"SET", key.as_bytes(), &value]), b"+OK\r\n");
    }
}

/// Kills a replica with SIGKILL, and starts it with another program after it has missed so much
/// that it needs a snapshot of the leader.
fn replace_far_behind(cluster: &mut Cluster, at: usize, program: &Path) {
    let leader = cluster.leader();
    assert_ne!(leader, at, "a follower is to be replaced");
    cluster.kill(at);
    let before: u64 = cluster.info(leader, "raft_applied_index");
    write_bulk(cluster, leader);
    cluster.wait_for("compaction", || {
        (cluster.info::<u64>(leader, "raft_first_index") > before + 1).then_some(())
    });
    cluster.set_program(at, program);
    cluster.restart();
}

/// Stops a replica with SIGTERM, and starts it with another program.
fn replace(cluster: &mut Cluster, at: usize, program: &Path) {
    assert!(cluster.stop(at).success());
    cluster.set_program(at, program);
    cluster.restart();
}

fn levels(cluster: &Cluster, some: &[usize]) -> Vec<u16> {
    some.iter().map(|at| cluster.info(*at, "cluster_feature_level")).collect()
}

#[test]
fn cluster_is_upgraded_replica_by_replica_under_load() {
    let Some(previous) = previous() else { return };
    let (old, new) = (&*previous, present());
    let cluster = Cluster::start_program(3, old, FLAGS);
    cluster.wait_until_all_serve();
    let mut upgrade = Upgrade { cluster, round: 0 };
    upgrade.step("new follower installs a snapshot of an old leader", |cluster| {
        lead(cluster, 0);
        replace_far_behind(cluster, 2, new);
    });
    upgrade.step("old follower installs a snapshot of a new leader", |cluster| {
        lead(cluster, 2);
        replace_far_behind(cluster, 1, old);
    });
    assert_eq!(levels(&upgrade.cluster, &[2]), [1], "two replicas are old");
    upgrade.step("downgrade before the level is raised", |cluster| {
        lead(cluster, 0);
        replace(cluster, 2, old);
    });
    upgrade.step("upgrade again, with the leadership moving both ways", |cluster| {
        replace(cluster, 2, new);
        lead(cluster, 2);
        lead(cluster, 1);
    });
    upgrade.step("second upgrade after SIGKILL of the leader", |cluster| {
        lead(cluster, 0);
        cluster.kill(0);
        cluster.set_program(0, new);
        cluster.wait_for("another leader", || cluster.leader_but(0));
        cluster.restart();
    });
    assert_eq!(levels(&upgrade.cluster, &[0, 2]), [1, 1], "one replica is old");
    upgrade.step("last upgrade", |cluster| replace(cluster, 1, new));
    let cluster = &mut upgrade.cluster;
    cluster.wait_for("the new feature level", || {
        let newest = FeatureLevel::NEWEST.number();
        (levels(cluster, &[0, 1, 2]) == [newest; 3]).then_some(())
    });
    upgrade.step("new cluster with kills", |cluster| {
        for at in 0..3 {
            cluster.kill(at);
        }
        cluster.restart();
    });
    previous_version_is_refused(&mut upgrade.cluster, old);
    upgrade.step("after the refusals", |_| ());
}

/// Checks that the previous version does not start with a folder of a cluster with the new level,
/// and that the replicas of such a cluster refuse it.
fn previous_version_is_refused(cluster: &mut Cluster, old: &Path) {
    assert!(cluster.stop(2).success());
    let content = |folder: &Path| {
        let mut files: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().path())
            .filter(|path| !path.ends_with("lock") && !path.ends_with("reserve"))
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect();
        files.sort();
        files
    };
    let folder = cluster.replica_folder(2);
    let before = content(&folder);
    cluster.set_program(2, old);
    let output = Cluster::run_to_end(cluster.command(2));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("meta has format version 4, which this version of bowline"), "{text}");
    assert!(content(&folder) == before, "the refused start changed a file");
    // Other replicas reject it even with a folder that it can read.
    let aside = folder.with_extension("aside");
    fs::rename(&folder, &aside).unwrap();
    let mut command = cluster.command(2);
    command.arg("--rejoin");
    cluster.start_as(2, command);
    let refusal = "replica 3 connected with bowline 0.1, which has feature level 1, but the \
                   feature level of this cluster is 2: run version 0.2 or later there";
    for at in [0, 1] {
        cluster.wait_for("the refusal", || cluster.log(at).contains(refusal).then_some(()));
    }
    cluster.kill(2);
    fs::remove_dir_all(&folder).unwrap();
    fs::rename(&aside, &folder).unwrap();
    cluster.set_program(2, present());
    cluster.restart();
}

#[test]
fn new_cluster_gets_the_newest_feature_level_when_all_members_are_connected() {
    let mut cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let newest = FeatureLevel::NEWEST.number();
    cluster.wait_for("the newest level", || {
        (levels(&cluster, &[0, 1, 2]) == [newest; 3]).then_some(())
    });
    // A restarted replica knows the level from its folder.
    cluster.kill(0);
    cluster.restart();
    cluster.wait_until_all_serve();
    assert_eq!(levels(&cluster, &[0]), [newest]);
    let mut client = Client::connect(cluster.address(1)).unwrap();
    let members = String::from_utf8(client.call(&[b"MEMBERS", b"LIST"]).unwrap()).unwrap();
    let program = format!("version={},level={newest}", env!("CARGO_PKG_VERSION"));
    assert_eq!(members.matches(&program).count(), 3, "{members}");
    assert!(members.contains(&format!("members_feature_level:{newest}")), "{members}");
}
