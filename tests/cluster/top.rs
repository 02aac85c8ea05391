//! `bowline top` against real servers, without a terminal. The view in a terminal is tested beside
//! its code.

use std::process::{Command, Output, Stdio};

use crate::client::Client;
use crate::replicas::Cluster;

fn top(cluster: &Cluster, at: usize, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bowline"));
    command.args(["top", "--addr", &format!("127.0.0.1:{}", cluster.ports[at])]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    Cluster::run_to_end(command)
}

/// Returns the cells of the line about a replica in the output of `--once`.
fn cells(output: &Output, at: usize) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let id = (at + 1).to_string();
    let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = lines.find(|words| words.first() == Some(&&*id)).expect("a line for each replica");
    line.into_iter().map(str::to_owned).collect()
}

#[test]
fn top_prints_one_table_of_all_replicas_for_scripts() {
    let mut cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let leader = cluster.leader();
    let mut client = Client::connect(cluster.address(leader)).unwrap();
    assert_eq!(client.call_until_ok(&[b"SET", b"key", b"value"]), b"+OK\r\n");
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    let output = cluster.wait_for("a table with all addresses", || {
        let output = top(&cluster, others[0], &["--once"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.contains("3 of 3 replicas answer").then_some(output)
    });
    assert!(output.status.success());
    for (at, role) in [(leader, "leader"), (others[0], "follower"), (others[1], "follower")] {
        let cells = cells(&output, at);
        assert_eq!(cells[1], cluster.address(at).to_string());
        assert_eq!((&*cells[2], cells.last().map(String::as_str)), (role, Some("ok")));
    }
    cluster.kill(others[1]);
    let output = top(&cluster, leader, &["--once"]);
    assert!(output.status.success());
    assert_eq!(cells(&output, others[1])[2], "unreachable");
    cluster.kill(others[0]);
    let output = cluster.wait_for("the loss of the leader", || {
        let output = top(&cluster, leader, &["--once"]);
        (output.status.code() == Some(1)).then_some(output)
    });
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("no leader: 1 of 3 replicas answer"), "{text}");
}

#[test]
fn top_without_a_terminal_or_a_replica_fails() {
    let mut cluster = Cluster::start(1, "auto");
    cluster.wait_until_all_serve();
    let refused = |output: &Output, reason: &str| {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(reason), "{text}");
    };
    refused(&top(&cluster, 0, &[]), "needs a terminal; use --once");
    cluster.kill(0);
    refused(&top(&cluster, 0, &["--once"]), "cannot connect");
}
