//! `LATENCY TRACE` of real processes: the steps of writes, in the order in which they happen.

use std::collections::BTreeMap;

use crate::client::Client;
use crate::replicas::Cluster;

/// The steps that follow each other. `durable` is not among them: a majority of other replicas may
/// be faster than the leader's own disk.
const STEPS: [&str; 5] = ["sent", "appended", "committed", "applied", "answered"];

/// Returns the latest trace of a `SET` at a replica; `None` if there is none.
fn latest(client: &mut Client) -> Option<BTreeMap<String, String>> {
    let reply = client.call(&[b"LATENCY", b"TRACE"]).ok()?;
    let reply = String::from_utf8(reply).ok()?;
    let traces = reply.split("$7\r\ncommand\r\n").skip(1);
    let fields = traces.map(|trace| {
        let lines = trace.split("\r\n").filter(|line| !line.starts_with(['$', '*']));
        let words: Vec<&str> = lines.map(|line| line.trim_start_matches(':')).collect();
        let named = words[1..].chunks_exact(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned()));
        [("command".to_owned(), words[0].to_owned())].into_iter().chain(named).collect()
    });
    fields.into_iter().find(|trace: &BTreeMap<_, _>| trace["command"] == "set")
}

/// Writes until a trace has all these steps, and returns when they were done, in microseconds.
fn times(cluster: &Cluster, at: usize, steps: &[&str]) -> Vec<u64> {
    let mut client = Client::connect(cluster.address(at)).unwrap();
    cluster.wait_for("a trace", || {
        client.call_until_ok(&[b"SET", b"k", b"v"]);
        let trace = latest(&mut client)?;
        assert_eq!(trace["requests"], "1");
        steps.iter().map(|step| trace.get(*step)?.parse().ok()).collect()
    })
}

fn traces_show_each_step(threads: &'static str) {
    let cluster = Cluster::start(3, threads);
    cluster.wait_until_all_serve();
    let leader = cluster.leader();
    let at_leader = times(&cluster, leader, &STEPS);
    assert!(at_leader.is_sorted(), "{STEPS:?}: {at_leader:?}");
    let durable = times(&cluster, leader, &["appended", "durable"]);
    assert!(durable.is_sorted(), "appended, durable: {durable:?}");
    let follower = (leader + 1) % 3;
    let forwarded = times(&cluster, follower, &["sent", "answered"]);
    assert!(forwarded.is_sorted(), "sent, answered: {forwarded:?}");
    let mut client = Client::connect(cluster.address(follower)).unwrap();
    let trace = latest(&mut client).unwrap();
    assert!(!trace.contains_key("appended"), "only the leader knows: {trace:?}");
}

#[test]
fn latency_trace_shows_each_step_of_a_write_on_shared_threads() {
    traces_show_each_step("fused");
}

#[test]
fn latency_trace_shows_each_step_of_a_write_on_dedicated_threads() {
    traces_show_each_step("dedicated");
}
