//! Counters of servers and of the network that help to explain the results of a run, such as leader
//! changes, failed proposals and TCP retransmissions. They are read before and after the run.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;

use super::hosts::Host;
use super::query;
use super::systems::Protocol;

/// Counters of server events by name, summed over all servers. The counter of leader changes is
/// instead the maximum over all servers.
pub(crate) type Counters = BTreeMap<String, u64>;

/// Name under which [`Counters`] holds the number of leader changes.
pub(crate) const LEADER_CHANGES: &str = "leader_changes";
/// Fields of Bowline's INFO that count unusual events, by name.
const BOWLINE: &[&str] = &[
    "raft_leadership_transfers",
    "raft_terms_rejected",
    "raft_conflicts_rejected",
    "disk_stalls",
    "disk_refused_writes",
];
/// Metrics of etcd that count unusual events, by name.
const ETCD: &[&str] =
    &["etcd_server_proposals_failed_total", "etcd_server_heartbeat_send_failures_total"];
/// TCP counters of the kernel, each with its file, group and name: retransmitted segments, expired
/// retransmission timeouts, and connections aborted after a timeout.
const TCP: &[(&str, &str, &str)] = &[
    ("snmp", "Tcp:", "RetransSegs"),
    ("netstat", "TcpExt:", "TCPTimeouts"),
    ("netstat", "TcpExt:", "TCPAbortOnTimeout"),
];

/// Reads the counters of all servers that reply. For Bowline, the counter of leader changes is the
/// current term, which also counts elections without a winner; for etcd, it is the number of leader
/// changes that a member has seen.
pub(crate) fn of_servers(protocol: Protocol, clients: &[SocketAddr]) -> Counters {
    let mut counters = Counters::new();
    for client in clients {
        let (text, changes, names) = match protocol {
            Protocol::Etcd => {
                let changes = "etcd_server_leader_changes_seen_total";
                (query::http(*client, "/metrics"), changes, ETCD)
            }
            Protocol::Nats => continue,
            Protocol::Redis => (query::redis(*client, &["INFO"]), "raft_term", BOWLINE),
        };
        add(&mut counters, &text.unwrap_or_default(), changes, names);
    }
    counters
}

/// Adds the counters with the names `names` of one server to `counters`. `text` contains the
/// server's metrics. `changes` is the name of the server's counter of leader changes. All servers
/// count the same leader changes, so the maximum is kept instead of the sum.
fn add(counters: &mut Counters, text: &str, changes: &str, names: &[&str]) {
    if let Some(seen) = query::number(text, changes) {
        let most = counters.entry(LEADER_CHANGES.to_owned()).or_default();
        *most = seen.max(*most);
    }
    for name in names {
        if let Some(count) = query::number(text, name) {
            *counters.entry((*name).to_owned()).or_default() += count;
        }
    }
}

/// Reads the TCP counters of all hosts that have their own network namespace, and adds them up.
pub(crate) fn of_network(hosts: &[Host]) -> Counters {
    let mut counters = Counters::new();
    for process in hosts.iter().filter_map(|host| host.within) {
        for (file, group, name) in TCP {
            let text = fs::read_to_string(format!("/proc/{process}/net/{file}"));
            if let Some(count) = tcp_counter(&text.unwrap_or_default(), group, name) {
                *counters.entry(format!("tcp_{name}")).or_default() += count;
            }
        }
    }
    counters
}

/// Returns the TCP counter `name` of the group `group`; `None` if it is missing. `text` is the
/// content of `/proc/net/snmp` or `/proc/net/netstat`, which has a line of names and a line of
/// values for each group.
fn tcp_counter(text: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with(group));
    let (names, values) = (lines.next()?, lines.next()?);
    let at = names.split_whitespace().position(|found| found == name)?;
    values.split_whitespace().nth(at)?.parse().ok()
}

/// Returns the increase of each counter between two readings. A counter that is missing in the
/// first reading counts as 0 there, except that of leader changes, whose increase is then unknown
/// and omitted.
pub(crate) fn rise(before: &Counters, after: &Counters) -> Counters {
    let known = |name: &String| before.contains_key(name) || name != LEADER_CHANGES;
    after
        .iter()
        .filter(|(name, _)| known(name))
        .map(|(name, count)| {
            (name.clone(), count.saturating_sub(before.get(name).copied().unwrap_or(0)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_counters_are_summed_but_leader_changes_use_max_term() {
        let of = |texts: [&str; 2]| {
            let mut counters = Counters::new();
            for text in texts {
                add(&mut counters, text, "raft_term", BOWLINE);
            }
            counters
        };
        let before = of(["raft_term:3\r\ndisk_stalls:1\r\n", "raft_term:2\r\ndisk_stalls:0\r\n"]);
        let after = of(["raft_term:5\r\ndisk_stalls:2\r\n", "raft_term:5\r\ndisk_stalls:4\r\n"]);
        let rise = rise(&before, &after);
        assert_eq!(rise[LEADER_CHANGES], 2);
        assert_eq!((rise["disk_stalls"], rise.len()), (5, 2));
        assert_eq!(super::rise(&Counters::new(), &after).get(LEADER_CHANGES), None);
    }

    #[test]
    fn kernel_tcp_counters_are_parsed_by_protocol_and_name() {
        let text = "Ip: A RetransSegs\nIp: 1 2\nTcp: InSegs RetransSegs\nTcp: 70 -1\n\
            TcpExt: A TCPTimeouts\nTcpExt: 5 6\n";
        assert_eq!(tcp_counter(text, "Tcp:", "InSegs"), Some(70));
        assert_eq!(tcp_counter(text, "TcpExt:", "TCPTimeouts"), Some(6));
        assert_eq!(tcp_counter(text, "Tcp:", "RetransSegs"), None, "not a count");
        assert_eq!(tcp_counter(text, "Udp:", "InSegs"), None);
        let own = std::process::id();
        let host = Host { within: Some(own), ..super::super::hosts::LOOPBACK };
        assert!(of_network(&[host]).contains_key("tcp_RetransSegs"));
    }
}
