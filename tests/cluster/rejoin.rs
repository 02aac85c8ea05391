//! A replica that lost its folder comes back under its id with an empty folder, with `--rejoin`.
//! The servers run singly, as on separate machines; `cluster_command.rs` has the same test for
//! `bowline cluster`.

use std::fs;

use crate::admin::admin;
use crate::client::Client;
use crate::refusal;
use crate::replicas::Cluster;

/// Name of the environment variable that sets another number of disk losses.
const ROUNDS_VARIABLE: &str = "BOWLINE_REJOIN_ROUNDS";

fn rejoin_rounds(threads: &'static str) {
    let rounds = std::env::var(ROUNDS_VARIABLE).ok().and_then(|text| text.parse().ok());
    let mut cluster = Cluster::start(3, threads);
    cluster.wait_until_all_serve();
    let mut keys = 0_usize;
    let write = |cluster: &Cluster, at: usize, keys: &mut usize| {
        let mut client = Client::connect(cluster.address(at)).unwrap();
        for _ in 0..20 {
            let key = keys.to_string();
            assert_eq!(client.call_until_ok(&[b"SET", key.as_bytes(), key.as_bytes()]), b"+OK\r\n");
            *keys += 1;
        }
    };
    for round in 0..rounds.unwrap_or(2_usize) {
        let lost = round % 3;
        let others = [(lost + 1) % 3, (lost + 2) % 3];
        // Only the lost replica and one other one have these writes.
        cluster.kill(others[1]);
        write(&cluster, lost, &mut keys);
        cluster.kill(lost);
        fs::remove_dir_all(cluster.replica_folder(lost)).unwrap();
        let before = cluster.log(lost).len();
        let mut command = cluster.command(lost);
        command.arg("--rejoin");
        cluster.start_as(lost, command);
        // It cannot complete the rejoin yet, so it must not count as ready.
        cluster.wait_for("a probe that reports the rejoin", || {
            let output = admin(&cluster, lost, &["ready"]);
            assert!(!output.status.success(), "a rejoining replica is ready");
            String::from_utf8_lossy(&output.stderr).contains("rejoining: ").then_some(())
        });
        // A replica without these writes must not become the leader with the help of the lost one,
        // and the rejoin must not complete before the other one is back.
        cluster.restart();
        cluster.wait_until_all_serve();
        write(&cluster, others[1], &mut keys);
        cluster.wait_for("the end of the rejoin", || {
            cluster.log(lost)[before..].contains("rejoined: this replica is").then_some(())
        });
        // The replica is a full member: it forms a majority with either of the others, also after a
        // restart.
        cluster.kill(lost);
        let mut command = cluster.command(lost);
        command.arg("--rejoin");
        let text = refusal(command);
        assert!(text.contains("already exists, so the folder is not empty"), "{text}");
        cluster.restart();
        cluster.wait_until_all_serve();
        cluster.kill(others[round / 3 % 2]);
        write(&cluster, lost, &mut keys);
        cluster.restart();
        cluster.wait_until_all_serve();
        for at in 0..3 {
            let mut client = Client::connect(cluster.address(at)).unwrap();
            for key in 0..keys {
                let key = key.to_string();
                let expected = format!("${}\r\n{key}\r\n", key.len());
                let reply = client.call_until_ok(&[b"GET", key.as_bytes()]);
                assert_eq!(reply, expected.as_bytes(), "round {round}, at {at}");
            }
        }
        cluster.wait_until_states_are_equal();
        eprintln!("{threads} round {round}: {keys} keys");
    }
}

#[test]
fn lost_replica_rejoins_under_its_old_id_with_thread_per_stage() {
    rejoin_rounds("dedicated");
}

#[test]
fn lost_replica_rejoins_under_its_old_id_with_shared_stage_thread() {
    rejoin_rounds("fused");
}

#[test]
fn rejoin_flag_with_two_members_or_bootstrap_is_refused() {
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    // Two members cannot rebuild one of them.
    let mut command = cluster.command_naming(0, &[0, 1]);
    command.arg("--rejoin");
    let text = refusal(command);
    assert!(text.contains("--rejoin needs a cluster of at least 3 replicas"), "{text}");
    let mut command = cluster.command(0);
    command.args(["--rejoin", "--bootstrap"]);
    let text = refusal(command);
    assert!(text.contains("cannot be used with"), "{text}");
}
