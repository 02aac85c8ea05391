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

/// Maximum time to retry a request while there is no leader, or while the leader refuses it with
/// one of [`RETRIED_ERRORS`].
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Timeout of the leader's reply to a change. The leader sends it when the change is committed.
const COMMIT_MAX: Duration = Duration::from_secs(10);
/// Interval between retries of a request, and between reads of the members.
const INTERVAL: Duration = Duration::from_millis(100);
/// Prefixes of temporary errors, after which a request is retried.
const RETRIED_ERRORS: [&str; 5] = [
    "ERR only the leader",
    "ERR the leader has just been elected",
    "ERR another",
    "ERR the leader is transferring its leadership",
    "ERR a witness leads until",
];

/// A requested membership change.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Add {
        id: u16,
        address: String,
        promote: bool,
        /// Whether the new member is a witness.
        witness: bool,
        /// The member that is removed when the new one becomes a voter.
        replaces: Option<u16>,
    },
    Promote(u16),
    Demote(u16),
    Remove(u16),
}

/// Options of a membership change.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChangeOptions {
    /// Whether to print the resulting members without changing them.
    pub(super) dry_run: bool,
    /// Maximum time to wait until the change is complete. Unused for a dry run.
    pub(super) wait: Duration,
    pub(super) json: bool,
}

impl Change {
    /// Returns the arguments of the command to send to the leader.
    fn arguments(&self, dry_run: bool) -> Vec<String> {
        let mut arguments = match self {
            Change::Add { id, address, promote, witness, replaces } => {
                let mut arguments = vec!["ADD".to_owned(), id.to_string(), address.clone()];
                arguments.extend(witness.then(|| "WITNESS".to_owned()));
                arguments.extend(promote.then(|| "PROMOTE".to_owned()));
                if let Some(old) = replaces {
                    arguments.extend(["REPLACING".to_owned(), old.to_string()]);
                }
                arguments
            }
            Change::Promote(id) => vec!["PROMOTE".to_owned(), id.to_string()],
            Change::Demote(id) => vec!["DEMOTE".to_owned(), id.to_string()],
            Change::Remove(id) => vec!["REMOVE".to_owned(), id.to_string()],
        };
        arguments.insert(0, "MEMBERS".to_owned());
        arguments.extend(dry_run.then(|| "DRYRUN".to_owned()));
        arguments
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

/// Requests a membership change, waits until it is complete, and prints the members. For a dry run,
/// only prints the members that would result.
pub(super) fn change(
    address: &str,
    change: &Change,
    options: ChangeOptions,
) -> anyhow::Result<ExitCode> {
    let until = Instant::now() + options.wait;
    let replicas = Replicas::ask(address)?;
    let result = request(address, change, options.dry_run)?;
    if options.dry_run {
        if !options.json {
            println!("the members would be:");
        }
        print(&result, options.json);
        return Ok(ExitCode::SUCCESS);
    }
    let addresses: Vec<String> = [address.to_owned()]
        .into_iter()
        .chain(replicas.list.iter().map(|replica| replica.address.clone()))
        .collect();
    loop {
        // Ignore failed reads: the leader may change meanwhile.
        let read = |address: &String| committed_members(address).ok().flatten();
        if let Some(members) = addresses.iter().find_map(read)
            && change.is_complete(&members)
        {
            print(&members, options.json);
            return Ok(ExitCode::SUCCESS);
        }
        ensure!(
            Instant::now() < until,
            "the change is committed, but not complete after {:?}; it continues in the background, \
             check with `bowline admin members`",
            options.wait
        );
        thread::sleep(INTERVAL);
    }
}

/// Sends the change to the leader. Returns the members in the committed configuration; for a dry
/// run those that would result.
fn request(address: &str, change: &Change, dry_run: bool) -> anyhow::Result<Info> {
    let until = Instant::now() + RETRY_MAX;
    let arguments = change.arguments(dry_run);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
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
        let mut connection = Connection::open(&leader.address, TIMEOUT)?;
        connection.set_timeout(COMMIT_MAX);
        let reply = connection.call(&arguments).context(
            "the outcome is unknown: the change may or may not have been made; check with `bowline \
             admin members`",
        );
        let error = match reply? {
            Ok(text) => return Ok(Info::parse(&text)),
            Err(error) => error,
        };
        if error.starts_with("UNCERTAIN") {
            bail!("{error}");
        }
        let is_temporary = RETRIED_ERRORS.iter().any(|prefix| error.starts_with(prefix));
        if !is_temporary || Instant::now() >= until {
            bail!("the leader, replica {}, refused the change: {error}", leader.id);
        }
        thread::sleep(INTERVAL);
    }
}

/// Requests the members from the leader, which the replica at `address` must know. Returns `None`
/// while a membership change is not complete.
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
    Ok(Info::parse(&text.map_err(|error| anyhow!("the leader refused MEMBERS LIST: {error}"))?))
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
                "witness": part(id, "witness") == Some("1"),
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
        let mut role = part(id, "role").unwrap_or("-").to_owned();
        if part(id, "witness") == Some("1") {
            role.push_str(", witness");
        }
        let plan = match (part(id, "promotion"), part(id, "replaces")) {
            (_, Some(old)) => format!("replaces {old} when it has caught up"),
            (Some(_), None) => "becomes a voter when it has caught up".to_owned(),
            (None, None) => String::new(),
        };
        let address = part(id, "address").filter(|address| !address.is_empty());
        let address = address.unwrap_or("as in --peers").to_owned();
        vec![id.to_string(), role, address, plan]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    println!("{}", table::aligned(&["ID", "ROLE", "ADDRESS FOR PEERS", "PLAN"], &rows));
    let failures = if survived == 1 { "failure" } else { "failures" };
    println!("the cluster tolerates {survived} voter {failures}");
}

/// Parses a replica's id and address on the command line, `ID=HOST:PORT`.
pub(super) fn parse_member(text: &str) -> anyhow::Result<(u16, String)> {
    let (id, address) = text.split_once('=').context("expected ID=HOST:PORT")?;
    let id = id.parse().with_context(|| format!("`{id}` is not a replica id"))?;
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
        let add = |promote, replaces: Option<u16>| Change::Add {
            id: 4,
            address: "h:1".to_owned(),
            promote,
            witness: replaces.is_some(),
            replaces,
        };
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
            add(true, Some(1)).arguments(true).join(" "),
            "MEMBERS ADD 4 h:1 WITNESS PROMOTE REPLACING 1 DRYRUN"
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
