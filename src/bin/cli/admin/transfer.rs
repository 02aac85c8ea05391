//! `bowline admin transfer`: transfers leadership, and reports the outcome.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use serde_json::json;

use super::replicas::{Info, Replicas, TIMEOUT};
use crate::cli::connection::Connection;

/// Maximum time from the request until a leader is known again.
const OUTCOME_MAX: Duration = Duration::from_secs(10);
/// Interval at which the former leader is polled for the outcome.
const INTERVAL: Duration = Duration::from_millis(10);

/// Transfers leadership to the replica `target`, or to a follower that the leader chooses.
pub(super) fn run(address: &str, target: Option<u16>, json: bool) -> anyhow::Result<ExitCode> {
    let replicas = Replicas::ask(address)?;
    let leader = replicas.leader_or_error()?;
    let info = leader.info.as_ref().map_err(|error| anyhow!("{error}"))?;
    let (from, term) = (leader.id, info.number("raft_term"));
    if target == Some(from) {
        return Ok(report(from, from, term, json));
    }
    let mut arguments = vec!["FAILOVER".to_owned()];
    if let Some(target) = target {
        let found = replicas.list.iter().find(|replica| replica.id == target);
        let found = found.with_context(|| {
            let ids: Vec<String> = replicas.list.iter().map(|it| it.id.to_string()).collect();
            format!("there is no replica {target}; the known replicas are {}", ids.join(", "))
        })?;
        let (host, port) = found.address.rsplit_once(':').context("an address without a port")?;
        arguments.extend(["TO", host, port].map(str::to_owned));
    }
    let mut connection = Connection::open(&leader.address, TIMEOUT)?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let Err(error) = connection.call(&arguments)? {
        bail!("the leader, replica {from}, refused the transfer: {error}");
    }
    let until = Instant::now() + OUTCOME_MAX;
    while Instant::now() < until {
        let info = Info::ask(&mut connection)?;
        match info.leader_id() {
            Some(leader) if leader == from && info.number("raft_term") == term => bail!(
                "the leadership was not transferred: the target was not elected in time; replica \
                 {from} is still the leader"
            ),
            Some(leader) => return Ok(report(from, leader, info.number("raft_term"), json)),
            None => thread::sleep(INTERVAL),
        }
    }
    bail!("no leader is known {OUTCOME_MAX:?} after the request; see `bowline admin status`")
}

fn report(from: u16, to: u16, term: Option<u64>, json: bool) -> ExitCode {
    let term = term.unwrap_or(0);
    if json {
        println!("{:#}", json!({ "from": from, "leader": to, "term": term }));
    } else if from == to {
        println!("replica {to} is already the leader, in term {term}");
    } else {
        println!("replica {to} leads in term {term}; the former leader is replica {from}");
    }
    ExitCode::SUCCESS
}
