//! Two replicas with data and a witness: any of the three may fail, also one after another. The
//! witness stores no data, serves no clients, and leads only until a replica with data can.

use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use bowline::sim::checkers::linearizability::STEPS_MAX;

use crate::admin::admin;
use crate::client::Client;
use crate::load::{self, Notes, StopAtEnd};
use crate::refusal;
use crate::replicas::Cluster;

/// Duration of the load before a kill, and between the kill and the restart.
const LOAD: Duration = Duration::from_millis(300);
/// Index of the witness.
const WITNESS: usize = 2;

/// Starts two replicas with data, and adds a witness.
fn two_and_a_witness(threads: &'static str, flags: &'static [&'static str]) -> Cluster {
    let mut cluster = Cluster::start_hasty(2, threads, flags);
    cluster.wait_until_all_serve();
    cluster.wait_for("a cluster that may have witnesses", || {
        (cluster.info::<u64>(0, "cluster_feature_level") >= 2).then_some(())
    });
    add_witness(&mut cluster, &["add"]);
    cluster
}

/// Starts a witness and adds it to the cluster. `words` precede its id and address in the command.
fn add_witness(cluster: &mut Cluster, words: &[&str]) {
    let address = cluster.add_witness();
    let member = format!("{}={address}", cluster.ports.len());
    let words: Vec<&str> = words.iter().copied().chain([&*member, "--witness"]).collect();
    for dry_run in [&["--dry-run"][..], &[]] {
        let words: Vec<&str> = words.iter().chain(dry_run).copied().collect();
        let output = admin(cluster, 0, &words);
        let (out, error) = (&output.stdout, &output.stderr);
        let text = format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(error));
        assert!(output.status.success(), "{words:?}: {text}\n{}", cluster.logs());
        assert!(text.contains("witness"), "{text}");
    }
}

fn write(cluster: &Cluster, at: usize, keys: std::ops::Range<usize>, value: &[u8]) {
    let mut client = connect(cluster, at);
    for key in keys {
        let reply = client.call_until_ok(&[b"SET", format!("key{key}").as_bytes(), value]);
        assert_eq!(reply, b"+OK\r\n", "{}", cluster.logs());
    }
}

fn connect(cluster: &Cluster, at: usize) -> Client {
    cluster.wait_for("a server that listens", || Client::connect(cluster.address(at)).ok())
}

fn member_failures_survived(cluster: &Cluster) -> u64 {
    let output = admin(cluster, 0, &["members", "--json"]);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    document["failures_survived"].as_u64().unwrap()
}

fn memory(cluster: &Cluster, at: usize, field: &str) -> u64 {
    let text = connect(cluster, at).call(&[b"INFO", b"memory"]).unwrap();
    let text = String::from_utf8(text).unwrap();
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(name, _)| *name == field).unwrap().1.parse().unwrap()
}

/// Kills the leader, the other replica with data and the witness in turn, under load.
fn kills_under_load(threads: &'static str) {
    let mut cluster = two_and_a_witness(threads, &[]);
    assert_eq!(member_failures_survived(&cluster), 1);
    let addresses: Vec<SocketAddr> = (0..2).map(|at| cluster.address(at)).collect();
    for round in 0..3 {
        let notes = Notes::default();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let _stop = StopAtEnd(&stop);
            for (name, address) in (0..).zip([0, 1, 0].map(|at| addresses[at])) {
                let (notes, stop) = (&notes, &stop);
                scope.spawn(move || load::run(address, name, round, notes, stop));
            }
            thread::sleep(LOAD);
            let leader = cluster.leader();
            let victim = [leader, 1 - leader, WITNESS][usize::try_from(round).unwrap()];
            cluster.kill(victim);
            thread::sleep(LOAD);
            let before = notes.acknowledged.load(Ordering::Relaxed);
            cluster.wait_for("a write without one replica", || {
                (notes.acknowledged.load(Ordering::Relaxed) > before).then_some(())
            });
            cluster.restart();
            thread::sleep(LOAD);
        });
        load::read_all(&addresses, round, &notes);
        if let Err(error) = notes.history().check(STEPS_MAX) {
            panic!("round {round}: {error}\n{}", cluster.logs());
        }
    }
    assert!(cluster.leader() != WITNESS, "the witness leads\n{}", cluster.logs());
}

#[test]
fn witness_keeps_two_replicas_available_with_thread_per_stage() {
    kills_under_load("dedicated");
}

#[test]
fn witness_keeps_two_replicas_available_with_shared_stage_thread() {
    kills_under_load("fused");
}

/// One replica commits writes with the witness alone, and is lost when the other one returns: only
/// the witness has the writes. Both ways.
#[test]
fn witness_brings_a_returned_replica_up_to_date() {
    let mut cluster = two_and_a_witness("auto", &[]);
    let mut count = 0;
    for (absent, lost) in [(1, 0), (0, 1)] {
        cluster.kill(absent);
        write(&cluster, lost, count..count + 20, b"committed with the witness");
        count += 20;
        cluster.kill(lost);
        cluster.restart_one(absent);
        let mut client = connect(&cluster, absent);
        for key in 0..count {
            let reply = client.call_until_ok(&[b"GET", format!("key{key}").as_bytes()]);
            assert_eq!(reply, b"$26\r\ncommitted with the witness\r\n", "{}", cluster.logs());
        }
        assert_eq!(cluster.leader(), absent, "{}", cluster.logs());
        cluster.restart_one(lost);
        write(&cluster, lost, 0..1, b"committed with the witness");
    }
    let output = admin(&cluster, 0, &["digest"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The witness keeps a short log and no data, also if the leader no longer has what it lacks, and
/// can be replaced when its folder is lost.
#[test]
fn witness_without_data_is_small_and_replaceable() {
    let flags = &["--snapshot-log-bytes", "256kb", "--witness-log-bytes", "256kb"];
    let mut cluster = two_and_a_witness("auto", flags);
    let value = [b'x'; 16 << 10];
    write(&cluster, 0, 0..200, &value);
    let shortened = "log of this witness shortened";
    cluster.wait_for(shortened, || cluster.log(WITNESS).contains(shortened).then_some(()));
    // The leader compacts its log while the witness is down.
    let had: u64 = cluster.info(WITNESS, "raft_last_index");
    cluster.kill(WITNESS);
    write(&cluster, 0, 200..600, &value);
    let last: u64 = cluster.info(0, "raft_last_index");
    let leader = cluster.leader();
    cluster.wait_for("a compacted log", || {
        (cluster.info::<u64>(leader, "raft_first_index") > had + 1).then_some(())
    });
    cluster.restart_one(WITNESS);
    let received = "start of the log received from the leader";
    cluster.wait_for(received, || cluster.log(WITNESS).contains(received).then_some(()));
    cluster.wait_for("a witness with the whole log", || {
        (cluster.info::<u64>(WITNESS, "raft_applied_index") >= last).then_some(())
    });
    assert!(cluster.info::<u64>(WITNESS, "raft_snapshot_bytes") < 1_000);
    let used = [0, WITNESS].map(|at| memory(&cluster, at, "used_memory_dataset"));
    assert!(used[0] > 600 * value.len() as u64 && used[1] < used[0] / 10, "{used:?}");
    // Its folder has the expected contents, and no replica with data starts with it.
    cluster.kill(WITNESS);
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_bowline"))
        .args(["admin", "check"])
        .arg(cluster.replica_folder(WITNESS))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("without data: of a witness"), "{text}");
    let mut command = cluster.command(WITNESS);
    let words: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
    command = std::process::Command::new(env!("CARGO_BIN_EXE_bowline"));
    command.args(words.iter().filter(|word| *word != "--witness"));
    command.stdin(std::process::Stdio::piped());
    let text = refusal(command);
    assert!(text.contains("the folder is that of a witness"), "{text}");
    // Its folder is lost; a new witness replaces it.
    fs::remove_dir_all(cluster.replica_folder(WITNESS)).unwrap();
    add_witness(&mut cluster, &["replace", "3"]);
    assert_eq!(member_failures_survived(&cluster), 1);
    let leader = cluster.leader();
    cluster.kill(leader);
    write(&cluster, 1 - leader, 600..610, &value);
}

#[test]
fn witness_refuses_clients_and_is_no_replica_for_them() {
    let cluster = two_and_a_witness("auto", &[]);
    let mut client = connect(&cluster, WITNESS);
    for command in [
        &[&b"GET"[..], b"k"][..],
        &[b"SET", b"k", b"v"],
        &[b"SUBSCRIBE", b"channel"],
        &[b"READONLY"],
        &[b"SNAPSHOT", b"OPEN"],
        &[b"CLUSTER", b"COUNTKEYSINSLOT", b"0"],
    ] {
        let reply = client.call(command).unwrap();
        let text = String::from_utf8_lossy(&reply);
        assert!(text.contains(" this replica is a witness"), "{command:?}: {text}");
    }
    // A witness has no users, so without a password anyone could change it or inspect its clients.
    for command in [
        &[&b"CONFIG"[..], b"SET", b"maxclients", b"2"][..],
        &[b"CONFIG", b"GET", b"*"],
        &[b"CLIENT", b"LIST"],
        &[b"CLIENT", b"KILL", b"TYPE", b"normal"],
        &[b"MEMBERS", b"REMOVE", b"1"],
        &[b"FAILOVER"],
        &[b"SLOWLOG", b"GET"],
        &[b"ACL", b"LIST"],
        &[b"MONITOR"],
    ] {
        let reply = client.call(command).unwrap();
        let text = String::from_utf8_lossy(&reply);
        let is_refused = text
            .starts_with("-NOPERM this replica is a witness, which knows no users")
            || text.starts_with("-ERR ");
        assert!(is_refused, "{command:?}: {text}");
    }
    assert_eq!(client.call(&[b"PING"]).unwrap(), b"+PONG\r\n");
    assert_eq!(cluster.info::<u64>(WITNESS, "raft_witness"), 1);
    for at in 0..3 {
        let slots = cluster.wait_for("the slots", || {
            let reply = connect(&cluster, at).call(&[b"CLUSTER", b"SLOTS"]).ok()?;
            reply.starts_with(b"*1\r\n*4\r\n").then_some(reply)
        });
        let text = String::from_utf8_lossy(&slots).into_owned();
        assert!(!text.contains(&format!(":{}\r\n", cluster.ports[WITNESS])), "{text}");
    }
    let output = admin(&cluster, 0, &["status"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(text.matches("witness").count(), 1, "{text}");
    let output = admin(&cluster, 0, &["transfer", "--to", "3"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("witness"), "{text}");
}

#[test]
fn witness_with_a_password_is_administered_after_a_login() {
    let mut cluster = two_and_a_witness("auto", &[]);
    cluster.kill(WITNESS);
    let mut command = cluster.command(WITNESS);
    command.args(["--requirepass", "secret"]);
    cluster.start_as(WITNESS, command);
    let mut client = connect(&cluster, WITNESS);
    for command in [&[&b"INFO"[..]][..], &[b"PING"], &[b"CONFIG", b"GET", b"maxclients"]] {
        assert_eq!(client.call(command).unwrap(), b"-NOAUTH Authentication required.\r\n");
    }
    assert_eq!(client.call(&[b"AUTH", b"secret"]).unwrap(), b"+OK\r\n");
    assert!(client.call(&[b"CONFIG", b"GET", b"maxclients"]).unwrap().starts_with(b"*2\r\n"));
    assert!(client.call(&[b"CLIENT", b"LIST"]).unwrap().starts_with(b"$"));
    assert!(client.call(&[b"GET", b"k"]).unwrap().starts_with(b"-ERR this replica is a witness"));
}
