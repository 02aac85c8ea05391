//! `bowline admin members`, `add`, `promote`, `demote`, `remove` and `replace`: show and change the
//! members of the cluster.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use serde_json::{Value, json};

use super::replicas::{Info, Replicas, TIMEOUT};
use crate::cli::connection::Connection;
use crate::cli::table;

/// Maximum time for which a change is requested again while there is no leader, or while the leader
/// refuses it because it was just elected, or because another change is not complete.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Interval between two requests, and between two reads of the members.
const INTERVAL: Duration = Duration::from_millis(100);
/// Beginnings of the refusals after which the request is repeated.
const TRANSIENT: [&str; 4] = [
    "ERR only the leader changes the members",
    "ERR the leader has just been elected",
    "ERR another change of the members is under way",
    "ERR the leader is transferring its leadership",
];

/// A change of the members.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Add {
        id: u16,
        address: String,
        promote: bool,
        /// The member that is removed when the new one becomes a voter.
        replaces: Option<u16>,
    },
    Promote(u16),
    Demote(u16),
    Remove(u16),
}

/// How a change is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    /// Whether only the result is printed.
    pub(super) dry_run: bool,
    /// Maximum time to wait until the change is complete.
    pub(super) wait: Duration,
    pub(super) json: bool,
}

impl Change {
    /// Returns the words of the command for the leader.
    fn words(&self, dry_run: bool) -> Vec<String> {
        let mut words = match self {
            Change::Add { id, address, promote, replaces } => {
                let mut words = vec!["ADD".to_owned(), id.to_string(), address.clone()];
                words.extend(promote.then(|| "PROMOTE".to_owned()));
                if let Some(old) = replaces {
                    words.extend(["REPLACING".to_owned(), old.to_string()]);
                }
                words
            }
            Change::Promote(id) => vec!["PROMOTE".to_owned(), id.to_string()],
            Change::Demote(id) => vec!["DEMOTE".to_owned(), id.to_string()],
            Change::Remove(id) => vec!["REMOVE".to_owned(), id.to_string()],
        };
        words.insert(0, "MEMBERS".to_owned());
        words.extend(dry_run.then(|| "DRYRUN".to_owned()));
        words
    }

    /// Returns whether the members show that the change is complete.
    fn is_complete(&self, members: &Info) -> bool {
        let role = |id: u16| members.part(&format!("member_{id}"), "role");
        match self {
            Change::Add { id, promote, replaces, .. } => {
                let is_new = if *promote || replaces.is_some() {
                    role(*id) == Some("voter")
                } else {
                    role(*id).is_some()
                };
                is_new && replaces.is_none_or(|old| role(old).is_none())
            }
            Change::Promote(id) => role(*id) == Some("voter"),
            Change::Demote(id) => role(*id) == Some("learner"),
            Change::Remove(id) => role(*id).is_none(),
        }
    }
}

/// Prints the members of the cluster.
pub(super) fn list(address: &str, json: bool) -> anyhow::Result<ExitCode> {
    let replicas = Replicas::ask(address)?;
    let leader = replicas.leader_or_error()?;
    let mut connection = Connection::open(&leader.address, TIMEOUT)?;
    print(&members(&mut connection)?, json);
    Ok(ExitCode::SUCCESS)
}

/// Makes a change of the members, waits until it is complete, and prints the members. With
/// `dry_run`, prints the members that would result.
pub(super) fn change(address: &str, change: &Change, how: How) -> anyhow::Result<ExitCode> {
    let until = Instant::now() + how.wait;
    let replicas = Replicas::ask(address)?;
    let result = request(address, change, how.dry_run)?;
    if how.dry_run {
        if !how.json {
            println!("the members would be:");
        }
        print(&result, how.json);
        return Ok(ExitCode::SUCCESS);
    }
    let addresses: Vec<String> = [address.to_owned()]
        .into_iter()
        .chain(replicas.list.iter().map(|replica| replica.address.clone()))
        .collect();
    loop {
        // A read that fails says nothing about the change: the leader may change meanwhile.
        let read = |address: &String| committed_members(address).ok().flatten();
        if let Some(members) = addresses.iter().find_map(read)
            && change.is_complete(&members)
        {
            print(&members, how.json);
            return Ok(ExitCode::SUCCESS);
        }
        ensure!(
            Instant::now() < until,
            "the change has begun, but is not complete after {:?}; it goes on without this \
             command, unless the leader was lost before the change was committed: see `bowline \
             admin members`",
            how.wait
        );
        thread::sleep(INTERVAL);
    }
}

/// Asks the leader for the change. Returns the members after it.
fn request(address: &str, change: &Change, dry_run: bool) -> anyhow::Result<Info> {
    let until = Instant::now() + RETRY_MAX;
    let words = change.words(dry_run);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    loop {
        let replicas = Replicas::ask(address)?;
        let leader = match replicas.leader_or_error() {
            Ok(leader) => leader,
            Err(error) if Instant::now() >= until => return Err(error),
            Err(_) => {
                thread::sleep(INTERVAL);
                continue;
            }
        };
        let replied = Connection::open(&leader.address, TIMEOUT)?.call(&words);
        let replied = replied.context(
            "the outcome of the request is not known: the change may have begun; see `bowline \
             admin members`",
        );
        let error = match replied? {
            Ok(text) => return Ok(Info::parse(&text)),
            Err(error) => error,
        };
        let is_transient = TRANSIENT.iter().any(|beginning| error.starts_with(beginning));
        if !is_transient || Instant::now() >= until {
            bail!("the leader, replica {}, refuses: {error}", leader.id);
        }
        thread::sleep(INTERVAL);
    }
}

/// Returns the members as the leader knows them, if the replica at `address` knows one; `None` if a
/// change of them is not complete.
fn committed_members(address: &str) -> anyhow::Result<Option<Info>> {
    let replicas = Replicas::ask(address)?;
    let leader = replicas.leader_or_error()?;
    let members = members(&mut Connection::open(&leader.address, TIMEOUT)?)?;
    let is = |name, value| members.number(name) == Some(value);
    let is_done = is("members_changing", 0) && is("members_committed", 1);
    Ok(is_done.then_some(members))
}

fn members(connection: &mut Connection) -> anyhow::Result<Info> {
    let text = connection.call(&["MEMBERS", "LIST"])?;
    Ok(Info::parse(&text.map_err(|error| anyhow!("MEMBERS LIST is refused: {error}"))?))
}

/// Returns the ids of the members, in ascending order.
fn ids(members: &Info) -> Vec<u16> {
    let id = |name: &str| name.strip_prefix("member_")?.parse().ok();
    let mut ids: Vec<u16> = members.names().filter_map(id).collect();
    ids.sort_unstable();
    ids
}

fn print(members: &Info, json: bool) {
    let part = |id: u16, part| members.part(&format!("member_{id}"), part);
    let survived = members.number("members_failures_survived").unwrap_or(0);
    if json {
        let rows = ids(members).into_iter().map(|id| {
            json!({
                "id": id,
                "role": part(id, "role"),
                "address": part(id, "address").filter(|address| !address.is_empty()),
                "promotion": part(id, "promotion"),
                "replaces": part(id, "replaces").and_then(|id| id.parse::<u16>().ok()),
            })
        });
        let rows: Vec<Value> = rows.collect();
        let last_id = members.number("members_last_id");
        let document =
            json!({ "members": rows, "failures_survived": survived, "last_id": last_id });
        println!("{document:#}");
        return;
    }
    let rows = ids(members).into_iter().map(|id| {
        let role = part(id, "role").unwrap_or("-");
        let plan = match (part(id, "promotion"), part(id, "replaces")) {
            (_, Some(old)) => format!("replaces {old} when it has caught up"),
            (Some(_), None) => "becomes a voter when it has caught up".to_owned(),
            (None, None) => String::new(),
        };
        let address = part(id, "address").filter(|address| !address.is_empty());
        let address = address.unwrap_or("as in --peers").to_owned();
        vec![id.to_string(), role.to_owned(), address, plan]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    println!("{}", table::aligned(&["ID", "ROLE", "ADDRESS FOR PEERS", "PLAN"], &rows));
    let failures = if survived == 1 { "failure" } else { "failures" };
    println!("the cluster survives {survived} {failures} of voters");
}

/// Parses an id that is given on the command line together with its address, `ID=HOST:PORT`.
pub(super) fn parse_member(text: &str) -> anyhow::Result<(u16, String)> {
    let (id, address) = text.split_once('=').context("expected ID=HOST:PORT")?;
    let id = id.parse().with_context(|| format!("`{id}` is no id of a replica"))?;
    Ok((id, address.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(text: &str) -> Info {
        Info::parse(&text.replace(' ', "\r\n"))
    }

    #[test]
    fn change_is_complete_when_the_members_show_its_result() {
        let add =
            |promote, replaces| Change::Add { id: 4, address: "h:1".to_owned(), promote, replaces };
        let learner = info("member_1:role=voter member_4:role=learner,address=h:1");
        let voters = info("member_1:role=voter member_4:role=voter,address=h:1");
        let replaced = info("member_4:role=voter,address=h:1");
        assert!(add(false, None).is_complete(&learner));
        assert!(!add(true, None).is_complete(&learner) && add(true, None).is_complete(&voters));
        assert!(!add(false, Some(1)).is_complete(&voters));
        assert!(add(false, Some(1)).is_complete(&replaced));
        assert!(
            !Change::Remove(1).is_complete(&voters) && Change::Remove(1).is_complete(&replaced)
        );
        assert!(Change::Demote(4).is_complete(&learner) && Change::Promote(4).is_complete(&voters));
        assert_eq!(
            add(true, Some(1)).words(true).join(" "),
            "MEMBERS ADD 4 h:1 PROMOTE REPLACING 1 DRYRUN"
        );
    }

    #[test]
    fn member_argument_has_an_id_and_an_address() {
        assert_eq!(parse_member("4=db4:7000").unwrap(), (4, "db4:7000".to_owned()));
        for wrong in ["", "4", "x=db4:7000", "70000=db4:7000"] {
            assert!(parse_member(wrong).is_err(), "{wrong}");
        }
    }
}
