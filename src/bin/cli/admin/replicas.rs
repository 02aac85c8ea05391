//! Queries the replicas of a cluster for their state.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};

use crate::cli::connection::Connection;

/// Timeout of a connection to a replica, and of each of its replies.
pub(in crate::cli) const TIMEOUT: Duration = Duration::from_secs(2);
/// Length of the replica id, in hexadecimal digits, at the end of a node id in `CLUSTER NODES`.
const ID_DIGITS: usize = 8;

/// The fields of a replica's `INFO` reply, by name.
#[derive(Debug)]
pub(in crate::cli) struct Info(BTreeMap<String, String>);

/// A replica and its reported state.
#[derive(Debug)]
pub(in crate::cli) struct Replica {
    pub(in crate::cli) id: u16,
    /// Address that the replica announces to clients, as `host:port`.
    pub(in crate::cli) address: String,
    /// The replica's `INFO`, or why it is unknown.
    pub(in crate::cli) info: Result<Info, String>,
}

/// All known replicas of a cluster, ordered by id.
#[derive(Debug)]
pub(in crate::cli) struct Replicas {
    pub(in crate::cli) list: Vec<Replica>,
    /// Number of members of the cluster; some of them may be missing in `list`.
    pub(in crate::cli) member_count: usize,
}

impl Info {
    /// Requests `INFO` from the replica on this connection.
    pub(in crate::cli) fn ask(connection: &mut Connection) -> anyhow::Result<Info> {
        let sections =
            ["server", "clients", "memory", "persistence", "stats", "replication", "raft"];
        let command: Vec<&str> = ["INFO"].into_iter().chain(sections).collect();
        let text =
            connection.call(&command)?.map_err(|error| anyhow!("INFO is refused: {error}"))?;
        let info = Info::parse(&text);
        ensure!(info.text("raft_replica_id").is_some(), "the server is not a Bowline replica");
        Ok(info)
    }

    /// Parses lines of the form `name:value`.
    pub(in crate::cli) fn parse(text: &str) -> Info {
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Info(fields.collect())
    }

    /// Returns the names of all fields.
    pub(in crate::cli) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(in crate::cli) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(in crate::cli) fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// Describes the last comparison of the replicas' states, as reported by this replica; `None`
    /// if there has been none since its start.
    pub(in crate::cli) fn comparison(&self) -> Option<String> {
        let index = self.number("raft_digest_check_index").filter(|index| *index > 0)?;
        let differing = self.text("raft_digest_check_differing").unwrap_or_default();
        let result = match self.text("raft_digest_check_result")? {
            "equal" if differing.is_empty() => "all equal".to_owned(),
            "equal" => format!("replicas {differing} differ from a majority"),
            "no_majority" => format!("replicas {differing} differ, and no majority agrees"),
            _ => "this replica differs from a majority".to_owned(),
        };
        Some(format!("states compared by the replicas at entry {index}: {result}"))
    }

    /// Returns the value of `part` in a field of the form `part=value,part=value`.
    pub(in crate::cli) fn part(&self, name: &str, part: &str) -> Option<&str> {
        let mut parts = self.text(name)?.split(',').filter_map(|part| part.split_once('='));
        parts.find(|(found, _)| *found == part).map(|(_, value)| value)
    }

    /// Returns the id of the leader as known to this replica; `None` if unknown.
    pub(in crate::cli) fn leader_id(&self) -> Option<u16> {
        self.text("raft_leader_id")?.parse().ok()
    }

    /// Returns the role to display, the first that applies: `rejoining`; `leader`; `witness`; the
    /// membership role, such as `learner`, of a replica that is not a voter; the Raft role; `-` if
    /// unknown.
    pub(in crate::cli) fn role(&self) -> &str {
        if self.is_rejoining() {
            return "rejoining";
        }
        if self.is_witness() && self.text("raft_role") != Some("leader") {
            return "witness";
        }
        if let Some(role) = self.text("raft_member_role")
            && role != "voter"
            && self.leader_id() != self.id()
        {
            return role;
        }
        self.text("raft_role").unwrap_or("-")
    }

    /// Returns whether the replica is rejoining after the loss of its folder.
    pub(in crate::cli) fn is_rejoining(&self) -> bool {
        self.text("raft_rejoining") == Some("1")
    }

    /// Returns whether the replica is a witness, which has no data.
    pub(in crate::cli) fn is_witness(&self) -> bool {
        self.text("raft_witness") == Some("1")
    }

    /// Returns the id of this replica.
    pub(in crate::cli) fn id(&self) -> Option<u16> {
        self.text("raft_replica_id")?.parse().ok()
    }
}

impl Replica {
    /// Returns whether the replica reports that it is the leader.
    fn leads(&self) -> bool {
        self.info.as_ref().is_ok_and(|info| info.leader_id() == Some(self.id))
    }

    fn term(&self) -> u64 {
        self.info.as_ref().ok().and_then(|info| info.number("raft_term")).unwrap_or(0)
    }
}

impl Replicas {
    /// Queries the replica at `address`, and then all replicas that the queried ones know, each at
    /// the address that it announces to clients.
    ///
    /// # Errors
    /// If the replica at `address` cannot be queried.
    pub(in crate::cli) fn ask(address: &str) -> anyhow::Result<Replicas> {
        let (first, nodes) = ask(address).with_context(|| {
            format!("cannot ask the replica at {address}; give --addr HOST:PORT of another one")
        })?;
        let first_id = first.id().context("the id of the replica is not a number")?;
        let member_count = first.number("raft_member_count").unwrap_or(0);
        let member_count = usize::try_from(member_count).unwrap_or(0).max(nodes.len());
        let mut known: BTreeMap<u16, String> = nodes.into_iter().collect();
        let mut asked = BTreeMap::from([(first_id, Ok(first))]);
        // Other replicas may know some that the first one has not heard from since its start.
        loop {
            let new: Vec<_> = known.iter().filter(|(id, _)| !asked.contains_key(id)).collect();
            if new.is_empty() {
                break;
            }
            let answers: Vec<_> = thread::scope(|scope| {
                let asking: Vec<_> =
                    new.iter().map(|(id, at)| (**id, scope.spawn(move || ask(at)))).collect();
                let join = |(id, thread): (u16, thread::ScopedJoinHandle<'_, _>)| {
                    (id, thread.join().expect("asking does not panic"))
                };
                asking.into_iter().map(join).collect()
            });
            for (id, answer) in answers {
                let answer = answer.and_then(|(info, nodes)| {
                    ensure!(info.id() == Some(id), "another replica answers at its address");
                    for (id, at) in nodes {
                        known.entry(id).or_insert(at);
                    }
                    Ok(info)
                });
                asked.insert(id, answer.map_err(|error| format!("{error:#}")));
            }
        }
        let list = asked.into_iter().map(|(id, info)| {
            let address = known.remove(&id).unwrap_or_else(|| address.to_owned());
            Replica { id, address, info }
        });
        let list: Vec<Replica> = list.collect();
        let member_count = member_count.max(list.len());
        Ok(Replicas { list, member_count })
    }

    /// Returns the leader: of the replicas that report to lead, the one with the highest term.
    /// `None` if there is none.
    pub(in crate::cli) fn leader(&self) -> Option<&Replica> {
        self.list.iter().filter(|replica| replica.leads()).max_by_key(|replica| replica.term())
    }

    /// Returns the leader; without one, an error with the number of replicas that respond.
    pub(in crate::cli) fn leader_or_error(&self) -> anyhow::Result<&Replica> {
        self.leader().with_context(|| {
            let answering = self.answering().count();
            let majority = self.member_count / 2 + 1;
            format!(
                "no leader: {answering} of {} replicas answer, and a majority is {majority}; \
                 start the others, or wait for the election",
                self.member_count
            )
        })
    }

    /// Returns the replicas that have responded.
    pub(in crate::cli) fn answering(&self) -> impl Iterator<Item = (&Replica, &Info)> {
        self.list.iter().filter_map(|it| Some((it, it.info.as_ref().ok()?)))
    }
}

/// Requests `INFO` from a replica, and the ids and addresses of all replicas that it knows.
fn ask(address: &str) -> anyhow::Result<(Info, Vec<(u16, String)>)> {
    let mut connection = Connection::open(address, TIMEOUT)?;
    let info = Info::ask(&mut connection)?;
    let nodes = connection.call(&["CLUSTER", "NODES"])?;
    let nodes = nodes.map_err(|error| anyhow!("CLUSTER NODES is refused: {error}"))?;
    Ok((info, nodes.lines().filter_map(node).collect()))
}

/// Parses a line of `CLUSTER NODES`: returns the replica's id and address.
fn node(line: &str) -> Option<(u16, String)> {
    let mut words = line.split(' ');
    let (name, address) = (words.next()?, words.next()?);
    let digits = name.get(name.len().checked_sub(ID_DIGITS)?..)?;
    let id = u32::from_str_radix(digits, 16).ok()?.try_into().ok()?;
    Some((id, address.split_once('@')?.0.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_of_cluster_nodes_gives_id_and_address() {
        let name = format!("{:032x}{:08x}", u128::MAX, 12);
        let line = format!("{name} 127.0.0.1:7001@8001 myself,master - 0 0 3 connected 0-16383");
        assert_eq!(node(&line), Some((12, "127.0.0.1:7001".to_owned())));
        for wrong in ["", "x", "short 127.0.0.1:7001@8001", "äöüäöüäöü h:1@2"] {
            assert_eq!(node(wrong), None, "{wrong}");
        }
    }
}
