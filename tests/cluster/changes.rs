//! Membership changes by `bowline admin`: a cluster grows, and shrinks to entirely different
//! replicas, under load and kills; replicas come back at other addresses; used ids, wiped folders
//! and changes without a quorum are refused.

use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bowline::sim::checkers::linearizability::STEPS_MAX;

use crate::client::Client;
use crate::load::{self, Notes, StopAtEnd};
use crate::replicas::{Cluster, TIMEOUT, free_port};

/// Name of the environment variable that sets another number of rounds of growth and shrinkage.
const ROUNDS_VARIABLE: &str = "BOWLINE_CHANGE_ROUNDS";
/// Pause between two kills, and between a kill and the restart.
const PAUSE: Duration = Duration::from_millis(300);

/// Runs `bowline admin arguments...`, asking the replica at `address`.
fn admin(address: SocketAddr, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bowline"));
    command.args(["admin", "--addr", &address.to_string()]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    Cluster::run_to_end(command)
}

/// Runs `bowline admin arguments...`, which must succeed, and returns what it prints.
fn admin_ok(cluster: &Cluster, at: usize, arguments: &[&str]) -> String {
    let output = admin(cluster.address(at), arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {out}{error}\n{}", cluster.logs());
    out
}

/// Runs `bowline admin arguments...`, which must fail, and returns its error.
fn admin_error(cluster: &Cluster, at: usize, arguments: &[&str]) -> String {
    let output = admin(cluster.address(at), arguments);
    assert!(!output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Returns the ids of the voters, as reported by the leader that the replica at `address` knows;
/// `None` if it cannot be asked.
fn voters(address: SocketAddr) -> Option<Vec<u64>> {
    let output = admin(address, &["--json", "members"]);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let rows = document["members"].as_array()?.iter();
    rows.filter(|row| row["role"] == "voter").map(|row| row["id"].as_u64()).collect()
}

/// Changes the members while replicas are killed: repeats the command until the voters are
/// `wanted`.
fn change_despite_kills(asked: &[SocketAddr], arguments: &[&str], wanted: &[u64]) {
    let until = Instant::now() + TIMEOUT;
    let mut last = String::new();
    for address in asked.iter().cycle() {
        if asked.iter().any(|address| voters(*address).is_some_and(|found| found == wanted)) {
            return;
        }
        let output = admin(*address, arguments);
        last = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(Instant::now() < until, "{arguments:?} in vain: {last}");
    }
    unreachable!("no replica to ask for {arguments:?}: {last}");
}

/// Grows a cluster from 3 to 5 voters, and shrinks it to 3 entirely different ones.
fn replace_all(addresses: &[SocketAddr], new: &[String]) {
    let with = |id: usize| format!("{id}={}", new[id - 4]);
    let first = &addresses[..3];
    change_despite_kills(first, &["add", &with(4), "--promote", "--wait", "5"], &[1, 2, 3, 4]);
    change_despite_kills(first, &["add", &with(5), "--promote", "--wait", "5"], &[1, 2, 3, 4, 5]);
    let last = &addresses[3..5];
    change_despite_kills(last, &["replace", "1", &with(6), "--wait", "5"], &[2, 3, 4, 5, 6]);
    change_despite_kills(last, &["remove", "2", "--wait", "5"], &[3, 4, 5, 6]);
    change_despite_kills(last, &["remove", "3", "--wait", "5"], &[4, 5, 6]);
}

/// Starts a cluster of three replicas, and three more replicas to be added to it. Returns the
/// addresses of the latter.
fn three_and_three(threads: &'static str) -> (Cluster, Vec<String>) {
    let mut cluster = Cluster::start_hasty(3, threads, &[]);
    cluster.wait_until_all_serve();
    let new = (0..3).map(|_| cluster.add_joining()).collect();
    (cluster, new)
}

fn grow_and_shrink_under_kills(threads: &'static str, round: u64) {
    let (mut cluster, new) = three_and_three(threads);
    let addresses: Vec<SocketAddr> = (0..6).map(|at| cluster.address(at)).collect();
    let notes = Notes::default();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for (name, address) in (0..).zip([0, 1, 3, 4, 5].map(|at| addresses[at])) {
            let (notes, stop) = (&notes, &stop);
            scope.spawn(move || load::run(address, name, round, notes, stop));
        }
        let changes = scope.spawn(|| replace_all(&addresses, &new));
        for turn in 0.. {
            if changes.is_finished() {
                break;
            }
            thread::sleep(PAUSE);
            let victim = (turn * 5 + usize::try_from(round).unwrap()) % 6;
            cluster.kill(victim);
            thread::sleep(PAUSE);
            cluster.restart();
        }
        changes.join().unwrap();
        // The removed replicas are stopped for good. The others must serve without them.
        for at in 0..3 {
            cluster.kill(at);
        }
        let serves = |at: usize| {
            let mut client = Client::connect(cluster.address(at)).ok()?;
            (client.call(&[b"SET", b"probe", b"1"]).ok()? == b"+OK\r\n").then_some(())
        };
        for at in 3..6 {
            cluster.wait_for("a new replica that serves", || serves(at));
        }
        thread::sleep(PAUSE);
    });
    load::read_all(&addresses[3..], round, &notes);
    eprintln!(
        "changes {threads} round {round}: {} operations, {} writes acknowledged, {} refused, {} \
         uncertain",
        notes.history().len(),
        notes.acknowledged.load(Ordering::Relaxed),
        notes.refused.load(Ordering::Relaxed),
        notes.uncertain.load(Ordering::Relaxed),
    );
    if let Err(error) = notes.history().check(STEPS_MAX) {
        panic!("round {round}: {error}\n{}", cluster.logs());
    }
    let acknowledged = notes.acknowledged.load(Ordering::Relaxed);
    assert!(acknowledged > 100, "{acknowledged} writes\n{}", cluster.logs());
    assert_eq!(voters(addresses[4]), Some(vec![4, 5, 6]));
}

#[test]
fn cluster_grows_and_shrinks_under_load_and_kills() {
    let rounds = std::env::var(ROUNDS_VARIABLE).ok().and_then(|text| text.parse().ok());
    for round in 0..rounds.unwrap_or(1) {
        grow_and_shrink_under_kills(if round % 2 == 0 { "fused" } else { "dedicated" }, round);
    }
}

#[test]
fn changes_with_wrong_input_or_without_a_quorum_are_refused() {
    let (mut cluster, new) = three_and_three("auto");
    let add = |id: usize| format!("{id}={}", new[id - 4]);
    assert!(admin_ok(&cluster, 0, &["add", &add(5), "--dry-run"]).contains("the members would be"));
    let members = admin_ok(&cluster, 1, &["--json", "members"]);
    assert!(members.contains("\"last_id\": 3"), "a dry run changes nothing: {members}");
    admin_ok(&cluster, 1, &["add", &add(5)]);
    for (arguments, reason) in [
        (vec!["add", "4=127.0.0.1:1"], "the lowest possible id is 6"),
        (vec!["add", "5=127.0.0.1:1"], "replica 5 is a member already"),
        (vec!["add", "6=nowhere"], "must be host:port"),
        (vec!["replace", "9", "6=127.0.0.1:1"], "replica 9 is not a member"),
        (vec!["promote", "1"], "replica 1 is a voter already"),
        (vec!["demote", "5"], "replica 5 is a learner already"),
        (vec!["remove", "7"], "replica 7 is not a member"),
        (vec!["promote", "7"], "replica 7 is not a member"),
    ] {
        let error = admin_error(&cluster, 2, &arguments);
        assert!(error.contains(reason), "{arguments:?}: {error}");
    }
    // A learner that the leader has never reached must not become a voter.
    let unreachable = format!("6=127.0.0.1:{}", free_port());
    admin_ok(&cluster, 0, &["add", &unreachable]);
    let error = admin_error(&cluster, 0, &["promote", "6"]);
    assert!(error.contains("learner 6 has not caught up"), "{error}");
    let leader = cluster.leader();
    let follower = (leader + 1) % 3;
    cluster.kill(follower);
    let other = (leader + 2) % 3;
    cluster.wait_for("a refusal because voters are missing", || {
        let id = (other + 1).to_string();
        let output = admin(cluster.address(leader), &["demote", &id, "--dry-run"]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        error.contains("no quorum of the new voters is answering").then_some(())
    });
    cluster.kill(leader);
    let error = admin_error(&cluster, other, &["add", "7=127.0.0.1:1"]);
    assert!(error.contains("no leader"), "{error}");
    cluster.restart();
    cluster.wait_for("the voters", || voters(cluster.address(4)).filter(|it| *it == [1, 2, 3]));
}

/// The first change cannot be committed, because the followers are paused. The second one survives
/// SIGKILL of the leader right after the reply.
#[test]
fn membership_change_is_answered_only_when_it_is_committed() {
    let mut cluster = Cluster::start_hasty(3, "auto", &[]);
    cluster.wait_until_all_serve();
    let leader = cluster.leader();
    let add = |cluster: &Cluster, at: usize, id: &str| {
        let mut client = Client::connect(cluster.address(at)).unwrap();
        let reply = client.call(&[b"MEMBERS", b"ADD", id.as_bytes(), b"127.0.0.1:1"]).unwrap();
        String::from_utf8_lossy(&reply).into_owned()
    };
    let followers = [(leader + 1) % 3, (leader + 2) % 3];
    for at in followers {
        cluster.pause(at);
    }
    let reply = add(&cluster, leader, "4");
    assert!(reply.starts_with("-UNCERTAIN the leader changed before"), "{reply}");
    for at in followers {
        cluster.resume(at);
    }
    cluster.wait_until_all_serve();
    // A new leader refuses changes until it has committed an entry of its term.
    let (leader, reply) = cluster.wait_for("a change that is not refused", || {
        let leader = cluster.leader();
        let reply = add(&cluster, leader, "5");
        (!reply.starts_with("-ERR")).then_some((leader, reply))
    });
    cluster.kill(leader);
    assert!(reply.contains("members_committed:1\r\n"), "{reply}");
    let other = (leader + 1) % 3;
    let members = cluster.wait_for("the members", || {
        let output = admin(cluster.address(other), &["members"]);
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    });
    assert!(members.contains("5   learner"), "{members}");
}

/// Replica 4 is added, and restarted at other ports: first while the others run, then after all of
/// them were killed. It is started without `--peers`.
#[test]
fn replica_that_was_added_comes_back_at_another_address() {
    let (mut cluster, new) = three_and_three("auto");
    admin_ok(&cluster, 0, &["add", &format!("4={}", new[0]), "--promote"]);
    let serves = |cluster: &Cluster, at: usize| {
        cluster.wait_for("a replica that serves", || {
            let mut client = Client::connect(cluster.address(at)).ok()?;
            (client.call(&[b"SET", b"k", b"1"]).ok()? == b"+OK\r\n").then_some(())
        });
    };
    serves(&cluster, 3);
    for others_are_killed in [false, true] {
        cluster.kill(3);
        cluster.move_ports(3);
        if others_are_killed {
            (0..3).for_each(|at| cluster.kill(at));
        }
        cluster.restart();
        serves(&cluster, 3);
        let address = format!("127.0.0.1:{}", cluster.peer_port(3));
        cluster.wait_for("the new address in the log", || {
            let output = admin(cluster.address(0), &["members"]);
            String::from_utf8_lossy(&output.stdout).contains(&address).then_some(())
        });
    }
}

/// The folder of a member is lost after the members have changed. It cannot rejoin under its id,
/// which might have voted for members that it does not know, and must be replaced.
#[test]
fn wiped_replica_of_a_changed_cluster_is_replaced_in_one_step() {
    let (mut cluster, new) = three_and_three("auto");
    admin_ok(&cluster, 0, &["add", &format!("4={}", new[0]), "--promote"]);
    let mut client = Client::connect(cluster.address(0)).unwrap();
    assert_eq!(client.call_until_ok(&[b"SET", b"kept", b"yes"]), b"+OK\r\n");
    cluster.kill(1);
    fs::remove_dir_all(cluster.replica_folder(1)).unwrap();
    let mut command = cluster.command(1);
    command.arg("--rejoin");
    cluster.start_as(1, command);
    assert!(!cluster.end_of(1).success());
    let log = cluster.log(1);
    assert!(log.contains("members of the cluster have changed; replace"), "{log}");
    admin_ok(&cluster, 0, &["replace", "2", &format!("5={}", new[1])]);
    assert_eq!(voters(cluster.address(0)), Some(vec![1, 3, 4, 5]));
    let mut client = Client::connect(cluster.address(4)).unwrap();
    assert_eq!(client.call_until_ok(&[b"GET", b"kept"]), b"$3\r\nyes\r\n");
}

/// A leader and a follower are removed while they run: both log it, no longer campaign, and are no
/// longer listed to clients.
#[test]
fn removed_replicas_learn_of_their_removal() {
    let (cluster, new) = three_and_three("auto");
    admin_ok(&cluster, 0, &["add", &format!("4={}", new[0]), "--promote"]);
    admin_ok(&cluster, 0, &["add", &format!("5={}", new[1]), "--promote"]);
    let leader = cluster.leader();
    let follower = (leader + 1) % 3;
    for removed in [leader, follower] {
        admin_ok(&cluster, 3, &["remove", &(removed + 1).to_string()]);
        let line = "this replica was removed from the cluster";
        cluster.wait_for(line, || cluster.log(removed).contains(line).then_some(()));
        assert_eq!(cluster.info::<String>(removed, "raft_member_role"), "removed");
    }
    let mut client = Client::connect(cluster.address(4)).unwrap();
    assert_eq!(client.call_until_ok(&[b"SET", b"k", b"1"]), b"+OK\r\n");
    // Every member lists all members, and no other replica.
    for at in [(leader + 2) % 3, 3, 4] {
        cluster.wait_for("the members in CLUSTER NODES", || {
            let mut client = Client::connect(cluster.address(at)).ok()?;
            let reply = client.call(&[b"CLUSTER", b"NODES"]).ok()?;
            let reply = String::from_utf8_lossy(&reply).into_owned();
            (reply.matches("connected").count() == 3).then_some(())
        });
    }
}

/// A voter loses its folder and is started as a new replica under its old id. It counts for no
/// quorum.
#[test]
fn replica_that_joins_under_its_old_id_is_refused() {
    let (mut cluster, _) = three_and_three("auto");
    cluster.kill(1);
    fs::remove_dir_all(cluster.replica_folder(1)).unwrap();
    let mut command = cluster.command(1);
    command.arg("--join");
    cluster.start_as(1, command);
    let line = "replica 2 connected as one that was added later, but the cluster was created with";
    for at in [0, 2] {
        cluster.wait_for(line, || cluster.log(at).contains(line).then_some(()));
    }
    assert_eq!(cluster.info::<String>(1, "raft_member_role"), "joining");
    let mut client = Client::connect(cluster.address(0)).unwrap();
    assert_eq!(client.call_until_ok(&[b"SET", b"k", b"1"]), b"+OK\r\n");
}

/// A bit flips in the middle of the log of a replica that was added later. The replica copies the
/// lost entries from the others, although the membership has changed, because its votes are not
/// lost.
#[test]
fn damaged_replica_that_was_added_repairs_itself() {
    let (mut cluster, new) = three_and_three("auto");
    admin_ok(&cluster, 0, &["add", &format!("4={}", new[0]), "--promote"]);
    let mut client = Client::connect(cluster.address(3)).unwrap();
    for key in 0..100_u32 {
        let value = vec![b'x'; 1_000];
        assert_eq!(client.call_until_ok(&[b"SET", key.to_string().as_bytes(), &value]), b"+OK\r\n");
    }
    cluster.kill(3);
    let path = cluster.replica_folder(3).join("segment-0000000001");
    let mut bytes = fs::read(&path).unwrap();
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[written / 2] ^= 1;
    fs::write(&path, bytes).unwrap();
    cluster.restart();
    let line = "damaged folder repaired";
    cluster.wait_for(line, || cluster.log(3).contains(line).then_some(()));
    cluster.wait_for("the end of the repair", || {
        (cluster.info::<u8>(3, "raft_rejoining") == 0).then_some(())
    });
    let mut client = Client::connect(cluster.address(3)).unwrap();
    let reply = client.call_until_ok(&[b"DBSIZE"]);
    assert!(reply.starts_with(b":10"), "{}", String::from_utf8_lossy(&reply));
    assert_eq!(voters(cluster.address(3)), Some(vec![1, 2, 3, 4]));
}
