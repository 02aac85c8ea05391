//! The contents of `bowline top`, computed from two samples, without terminal, sockets or clock.

use std::collections::BTreeMap;

use super::sampler::Sample;
use crate::cli::admin::replicas::{Info, Replica, Replicas};
use crate::cli::admin::status::cluster_level;
use crate::cli::table;

/// Columns of the table. `LAG` is the number of entries that the leader has committed and the
/// replica has not applied; `BEHIND`, `RTT` and `LOSS` are the leader's view of a follower.
pub(super) const COLUMNS: [&str; 14] = [
    "ID", "ADDRESS", "ROLE", "TERM", "COMMIT", "APPLIED", "LAG", "BEHIND", "RTT", "LOSS", "OPS/S",
    "CLIENTS", "MEMORY", "DISK",
];
/// Displayed for unknown values.
const UNKNOWN: &str = "-";

/// State of a replica, which determines the style of its row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mark {
    Leader,
    Follower,
    /// The replica responds, but it is not a full member, its disk is not healthy, or it knows no
    /// leader.
    Warning,
    Unreachable,
}

/// A row of the table: one replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Row {
    pub(super) cells: Vec<String>,
    pub(super) mark: Mark,
}

/// Everything displayed at one time.
#[derive(Debug)]
pub(super) struct Overview {
    /// Id of the leader; `None` if there is none.
    pub(super) leader: Option<u16>,
    /// Summary of the cluster, in one line.
    pub(super) summary: String,
    pub(super) rows: Vec<Row>,
    /// Problems with the replicas, one per line.
    pub(super) problems: Vec<String>,
    /// Whether no replica responds, so that `rows` are those of an earlier sample.
    pub(super) is_stale: bool,
}

impl Overview {
    /// Returns the overview of `current`, with rates since `previous` if that is known.
    pub(super) fn new(previous: Option<&Sample>, current: &Sample) -> Overview {
        let replicas = match &current.replicas {
            Ok(replicas) => replicas,
            Err(reason) => {
                let summary = "no replica answers".to_owned();
                let problems = vec![reason.clone()];
                return Overview { leader: None, summary, rows: vec![], problems, is_stale: true };
            }
        };
        let earlier = previous.and_then(|it| it.replicas.as_ref().ok().map(|all| (it.at, all)));
        let rates = earlier.map_or_else(BTreeMap::new, |(at, all)| {
            rates(all, replicas, current.at.saturating_duration_since(at).as_secs_f64())
        });
        let leader = replicas.leader();
        let rows = replicas.list.iter().map(|replica| row(replica, leader, &rates)).collect();
        Overview {
            leader: leader.map(|leader| leader.id),
            summary: summary(replicas, leader, &rates),
            rows,
            problems: problems(replicas),
            is_stale: false,
        }
    }

    /// Returns this overview, with the rows of `earlier` if no replica responds any more.
    pub(super) fn or_stale(mut self, earlier: Overview) -> Overview {
        if self.is_stale {
            self.rows = earlier.rows;
        }
        self
    }

    /// Returns the overview as plain text.
    pub(super) fn plain(&self) -> String {
        let rows: Vec<Vec<String>> = self.rows.iter().map(|row| row.cells.clone()).collect();
        let parts = [self.summary.clone(), table::aligned(&COLUMNS, &rows)];
        let lines: Vec<String> = parts.into_iter().chain(self.problems.iter().cloned()).collect();
        lines.join("\n")
    }
}

/// Returns for each replica the number of commands received per second between two samples,
/// `seconds` apart. A replica that was restarted in between or does not respond is missing.
fn rates(before: &Replicas, after: &Replicas, seconds: f64) -> BTreeMap<u16, f64> {
    if seconds <= 0.0 {
        return BTreeMap::new();
    }
    let counts = |replicas: &Replicas| -> BTreeMap<u16, (String, u64)> {
        let counts = replicas.answering().filter_map(|(replica, info)| {
            let run = info.text("run_id")?.to_owned();
            Some((replica.id, (run, info.number("total_commands_processed")?)))
        });
        counts.collect()
    };
    let before = counts(before);
    let rate = |(id, (run, count)): (u16, (String, u64))| {
        let (earlier_run, earlier) = before.get(&id)?;
        // `CONFIG RESETSTAT` resets the count.
        let difference = count.checked_sub(*earlier).filter(|_| run == *earlier_run)?;
        Some((id, difference as f64 / seconds))
    };
    counts(after).into_iter().filter_map(rate).collect()
}

fn summary(replicas: &Replicas, leader: Option<&Replica>, rates: &BTreeMap<u16, f64>) -> String {
    let answering = replicas.answering().count();
    let leads = leader.map_or("no leader".to_owned(), |leader| format!("leader {}", leader.id));
    let rate: f64 = rates.values().sum();
    let rate = if rates.is_empty() { UNKNOWN.to_owned() } else { format!("{rate:.0}") };
    let level = cluster_level(replicas);
    let level = level.map_or(String::new(), |level| format!(", feature level {level}"));
    let count = replicas.member_count;
    format!("{leads}, {answering} of {count} replicas answer, {rate} commands/s{level}")
}

/// Returns the problems with the replicas, one per line.
fn problems(replicas: &Replicas) -> Vec<String> {
    let mut problems = Vec::new();
    for replica in &replicas.list {
        if let Err(reason) = &replica.info {
            problems.push(format!("replica {}: {reason}", replica.id));
        }
    }
    let unknown = replicas.member_count - replicas.list.len();
    if unknown > 0 {
        problems
            .push(format!("other members that none of these replicas has heard from: {unknown}"));
    }
    if let Err(error) = replicas.leader_or_error() {
        problems.push(format!("{error:#}"));
    }
    problems
}

fn row(replica: &Replica, leader: Option<&Replica>, rates: &BTreeMap<u16, f64>) -> Row {
    let Ok(info) = &replica.info else {
        let mut cells = vec![UNKNOWN.to_owned(); COLUMNS.len()];
        cells[0] = replica.id.to_string();
        cells[1].clone_from(&replica.address);
        "unreachable".clone_into(&mut cells[2]);
        return Row { cells, mark: Mark::Unreachable };
    };
    let text = |name: &str| info.text(name).unwrap_or(UNKNOWN).to_owned();
    let shown = |value: Option<String>| value.unwrap_or_else(|| UNKNOWN.to_owned());
    let leader_info = leader.and_then(|leader| leader.info.as_ref().ok());
    let of_leader = |field: &str, part: &str| {
        let number = leader_info?.part(&format!("{field}_{}", replica.id), part)?;
        number.parse::<u64>().ok()
    };
    let missing = |all: Option<u64>, own: Option<u64>| Some(all?.saturating_sub(own?).to_string());
    let of_leaders_log = |name: &str| leader_info.and_then(|info| info.number(name));
    let lag = missing(of_leaders_log("raft_commit_index"), info.number("raft_applied_index"));
    let match_index = of_leader("raft_peer", "match_index");
    let behind = missing(match_index.and(of_leaders_log("raft_last_index")), match_index);
    let round_trip = of_leader("raft_path", "rtt_us");
    let loss = of_leader("raft_path", "loss_permille");
    let leads = leader.is_some_and(|leader| leader.id == replica.id);
    Row {
        cells: vec![
            replica.id.to_string(),
            replica.address.clone(),
            info.role().to_owned(),
            text("raft_term"),
            text("raft_commit_index"),
            text("raft_applied_index"),
            shown(lag),
            shown(behind),
            shown(round_trip.map(|us| format!("{:.1} ms", us as f64 / 1_000.0))),
            shown(loss.map(|permille| format!("{:.1} %", permille as f64 / 10.0))),
            shown(rates.get(&replica.id).map(|rate| format!("{rate:.0}"))),
            text("connected_clients"),
            text("used_memory_human"),
            text("disk_state"),
        ],
        mark: mark(info, leads),
    }
}

fn mark(info: &Info, leads: bool) -> Mark {
    let healthy = info.text("disk_state") == Some("ok");
    if !healthy || info.is_rejoining() || info.leader_id().is_none() {
        Mark::Warning
    } else if leads {
        Mark::Leader
    } else {
        Mark::Follower
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// Returns a sample at `seconds` in which replicas 1 to 3 report these `INFO` fields, separated
    /// by spaces; `None` for a replica that does not respond.
    pub(crate) fn sample(start: Instant, seconds: u64, reports: &[Option<&str>]) -> Sample {
        let replica = |(id, report): (u16, Option<&str>)| Replica {
            id,
            address: format!("10.0.0.{id}:6379"),
            info: match report {
                Some(fields) => Ok(Info::parse(&fields.replace(' ', "\r\n"))),
                None => Err("cannot connect: Connection refused".to_owned()),
            },
        };
        let list: Vec<Replica> = (1..).zip(reports.iter().copied()).map(replica).collect();
        let replicas = Ok(Replicas { list, member_count: 3 });
        Sample { at: start + Duration::from_secs(seconds), replicas }
    }

    pub(crate) const LEADER: &str = "raft_replica_id:1 raft_role:leader raft_term:4 \
        raft_leader_id:1 raft_last_index:120 raft_commit_index:110 raft_applied_index:110 run_id:a \
        raft_peer_2:match_index=95,link=connected raft_path_2:rtt_us=1500,loss_permille=25 \
        raft_peer_3:match_index=0,link=disconnected total_commands_processed:300 \
        connected_clients:7 used_memory_human:1.50M disk_state:ok cluster_feature_level:2";
    const FOLLOWER: &str = "raft_replica_id:2 raft_role:follower raft_term:4 raft_leader_id:1 \
        raft_commit_index:95 raft_applied_index:90 run_id:b total_commands_processed:50 \
        connected_clients:1 used_memory_human:1.40M disk_state:ok";

    fn row_of(overview: &Overview, place: usize, columns: &[&str]) -> Vec<String> {
        let column = |name: &&str| COLUMNS.iter().position(|column| column == name).unwrap();
        columns.iter().map(|name| overview.rows[place].cells[column(name)].clone()).collect()
    }

    #[test]
    fn top_shows_lag_rates_and_the_leaders_view() {
        let start = Instant::now();
        let earlier = LEADER.replace("processed:300", "processed:100");
        let before = sample(start, 0, &[Some(&earlier), Some(FOLLOWER), None]);
        let after = sample(start, 2, &[Some(LEADER), Some(FOLLOWER), None]);
        let overview = Overview::new(Some(&before), &after);
        assert_eq!(overview.leader, Some(1));
        assert_eq!(
            overview.summary,
            "leader 1, 2 of 3 replicas answer, 100 commands/s, feature level 2"
        );
        let columns = ["ROLE", "LAG", "BEHIND", "RTT", "LOSS", "OPS/S", "CLIENTS", "MEMORY"];
        let leader = ["leader", "0", "-", "-", "-", "100", "7", "1.50M"];
        assert_eq!(row_of(&overview, 0, &columns), leader);
        let follower = ["follower", "20", "25", "1.5 ms", "2.5 %", "0", "1", "1.40M"];
        assert_eq!(row_of(&overview, 1, &columns), follower);
        assert_eq!(row_of(&overview, 2, &["ID", "ROLE", "OPS/S"]), ["3", "unreachable", "-"]);
        assert_eq!(overview.problems, ["replica 3: cannot connect: Connection refused"]);
        let marks: Vec<Mark> = overview.rows.iter().map(|row| row.mark).collect();
        assert_eq!(marks, [Mark::Leader, Mark::Follower, Mark::Unreachable]);
    }

    #[test]
    fn top_shows_no_rate_after_a_restart_or_counter_reset() {
        let start = Instant::now();
        let rate = |before: &str, after: &str| {
            let before = sample(start, 0, &[Some(before)]);
            let overview = Overview::new(Some(&before), &sample(start, 1, &[Some(after)]));
            row_of(&overview, 0, &["OPS/S"]).remove(0)
        };
        assert_eq!(rate(LEADER, &LEADER.replace("processed:300", "processed:301")), "1");
        assert_eq!(rate(LEADER, &LEADER.replace("processed:300", "processed:299")), "-");
        let restarted = LEADER.replace("processed:300", "processed:900");
        assert_eq!(rate(LEADER, &restarted.replace("run_id:a", "run_id:c")), "-");
    }

    #[test]
    fn top_warns_of_bad_disk_rejoining_replica_and_missing_leader() {
        let start = Instant::now();
        for (from, to) in [
            ("disk_state:ok", "disk_state:stalled"),
            ("raft_leader_id:1", "raft_leader_id:none"),
            ("disk_state:ok", "disk_state:ok raft_rejoining:1"),
        ] {
            let overview =
                Overview::new(None, &sample(start, 0, &[Some(&LEADER.replace(from, to))]));
            assert_eq!(overview.rows[0].mark, Mark::Warning, "{to}");
        }
        let alone = sample(start, 0, &[None, Some(FOLLOWER), None]);
        let overview = Overview::new(None, &alone);
        assert_eq!((overview.leader, overview.rows.len()), (None, 3));
        assert!(overview.summary.starts_with("no leader, 1 of 3"), "{}", overview.summary);
        assert!(overview.problems[2].contains("a majority is 2"), "{:?}", overview.problems);
    }

    #[test]
    fn top_keeps_the_last_table_while_no_replica_answers() {
        let start = Instant::now();
        let before = Overview::new(None, &sample(start, 0, &[Some(LEADER)]));
        let silent = Sample { at: start, replicas: Err("cannot connect".to_owned()) };
        let overview = Overview::new(None, &silent).or_stale(before);
        assert!(overview.is_stale);
        assert_eq!((overview.leader, overview.rows.len()), (None, 1));
        assert_eq!(overview.problems, ["cannot connect"]);
    }
}
