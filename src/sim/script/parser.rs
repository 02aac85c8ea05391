//! The language of golden traces: a list of statements that act on a simulated cluster.
//!
//! ```text
//! # A comment; the first one of a script says what the trace shows.
//! cluster 3 leader=1 lease_reads=on
//! cut 1 | 2 3             cuts links in both directions; cut 1 -> 2 3: in one; heal: no cuts
//! put 1 a=1               a client's request at replica 1; also get 1 a, delete 1 a,
//!                         transfer 1 a b 5; again 2: resends the last request, to replica 2
//! hold 1->2 AppendReply   withholds messages until  release ; drop loses them; copy delivers them
//!                         and keeps a copy; * stands for any replica or type; a number limits the
//!                         count; pass ends all three
//! timeout 2               runs until 2 campaigns; no other replica times out until  timeouts
//! run                     runs until no message, request or disk operation is in flight
//! run 300ms               runs for this time
//! crash 1; lose 1         crashes, and loses the disk: 1 restarts with an empty one
//! crash 1; restart 1      pause 1; resume 1; slow 1: syncs end only with  sync 1 , until  fast 1
//! slow_chunks 1; store 1  does not store received snapshot chunks until  store 1
//! forge 2->3 AppendEntries term=9 round=1 prev=4@1 commit=5 entries=5@9,6@9
//! forge 2->3 RequestVote term=9 last=5@8 [transfer]   a message that 2 has not sent
//! failover 1 2            asks 1 to transfer its leadership to 2; failover 1: to any follower;
//!                         failover 1 abort: ends the transfer
//! disk_space 1 500        reports low disk space, 500 bytes, to replica 1; disk_space 1: enough
//! change 1 learner 4      asks 1 for a change of the members: learner 4, auto 4 (a learner that is
//!                         promoted), witness 4 (promoted, too), promote 4, demote 2, remove 3,
//!                         replace 1 4, or several
//! lag 1 20ms              applying takes 20 ms from now on
//! clock 1 2000            the clock runs 2000 ppm fast from now on
//! show; count             shows the state of all replicas; counts messages since the last count
//! quiet; loud             traces no messages; traces them; times: traces the time of each event
//! ```
//!
//! Statements are separated by line ends or semicolons.

use std::time::Duration;

use bytes::Bytes;

use crate::config::{Config, FanOut};
use crate::membership::{MemberChange, Promotion};
use crate::raft::{AppendEntries, Envelope, PeerMsg, RequestVote};
use crate::record::{Entry, EntryKind, RecordBuffer};
use crate::sim::disk::snapshots::SnapshotPlan;
use crate::types::{EntryId, Index, NodeId, Round, Term, TransferRequest};

/// A statement of a script for a simulated cluster. A script describes a golden trace (a recorded
/// trace, with which tests compare new traces).
#[derive(Clone, PartialEq, Debug)]
pub enum Statement {
    /// Creates the cluster; must be the first statement of a script.
    Cluster(Box<ClusterOptions>),
    /// A client sends a request with this operation to the replica.
    Request(NodeId, ClientOperation),
    /// A client resends the previous request, to this replica.
    Again(NodeId),
    /// Partitions the network: cuts all links between replicas of different groups.
    Part(Vec<Vec<NodeId>>),
    /// Cuts the links from the replicas in the first list to those in the second, in this direction
    /// only.
    CutOneWay(Vec<NodeId>, Vec<NodeId>),
    /// Heals all cut links.
    Heal,
    /// From now on, intercepts messages that match the filter, at most the given number of them.
    Intercept(Interception, MessageFilter, usize),
    /// Statement that ends the effect of all earlier `Intercept` statements: messages are delivered
    /// again.
    Pass,
    /// Delivers withheld or copied messages that match the filter, at most the given number of
    /// them.
    Release(MessageFilter, usize),
    /// Crashes the replica with this id.
    Crash(NodeId),
    /// Replaces the disk of a crashed replica with an empty disk.
    Lose(NodeId),
    /// Restarts the replica with this id after a crash.
    Restart(NodeId),
    /// Pauses the replica with this id: its activities are suspended, and arriving messages wait.
    Pause(NodeId),
    /// Resumes the paused replica with this id.
    Resume(NodeId),
    /// From now on, syncs of the replica's disk complete only at [`Statement::Sync`].
    Slow(NodeId),
    /// Completes the replica's current sync, which [`Statement::Slow`] has kept from completing.
    Sync(NodeId),
    /// Ends [`Statement::Slow`]: the replica's syncs complete by themselves again.
    Fast(NodeId),
    /// From now on, the replica stores received snapshot chunks only at [`Statement::Store`].
    SlowChunks(NodeId),
    /// Ends [`Statement::SlowChunks`]: the replica stores the received snapshot chunks.
    Store(NodeId),
    /// Delivers a forged message, which its apparent sender has not sent.
    Forge(Box<Envelope>),
    /// Reports low disk space with this number of free bytes to a replica; `None` reports that
    /// there is enough space.
    DiskSpace(NodeId, Option<u64>),
    /// Requests a leadership transfer from the replica, or the abort of the transfer in progress.
    Failover(NodeId, TransferRequest),
    /// Asks the replica for a membership change.
    Change(NodeId, Vec<MemberChange>),
    /// Sets how long the replica takes to apply committed entries and execute reads.
    Lag(NodeId, Duration),
    /// Sets the rate error of a replica's monotonic clock in parts per million: positive if it runs
    /// fast, negative if slow, 0 if correct.
    Clock(NodeId, i64),
    /// Runs until the election timeout of this replica makes it campaign. From now on, the other
    /// replicas' election timeouts do not fire.
    Timeout(NodeId),
    /// Ends [`Statement::Timeout`]: the election timeouts of all replicas fire again.
    Timeouts,
    /// Runs until no message, request or disk operation is in flight.
    Run,
    /// Runs for this duration of virtual time.
    RunFor(Duration),
    /// Writes the state of all replicas to the trace.
    Show,
    /// Writes to the trace how many messages were sent since the previous count, by sender,
    /// receiver and type.
    Count,
    /// From now on, leaves messages out of the trace.
    Quiet,
    /// From now on, includes messages in the trace again.
    Loud,
    /// From now on, includes the time of each event in the trace.
    Times,
}

/// The operation of a client's request in a script.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClientOperation {
    /// Reads the value of this key.
    Get(String),
    /// Sets a key (the first string) to a value (the second).
    Put(String, String),
    /// Deletes this key.
    Delete(String),
    /// Transfers an amount from the first account to the second.
    Transfer(String, String, u64),
}

/// What an interception does with a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interception {
    /// The message is lost.
    Drop,
    /// The message is withheld until a `release` statement delivers it.
    Hold,
    /// The message is delivered, and a copy is kept until a `release` statement delivers the copy
    /// too.
    Copy,
}

/// A filter for messages by sender, receiver and type. A field that is `None` matches any message.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MessageFilter {
    /// Sender that the message must have; `None` if any sender matches.
    pub from: Option<NodeId>,
    /// Receiver that the message must have; `None` if any receiver matches.
    pub to: Option<NodeId>,
    /// Name of the type that the message must have, such as `AppendEntries`; `None` if any type
    /// matches.
    pub kind: Option<String>,
}

/// Options of the `cluster` statement, which creates the cluster.
#[derive(Clone, PartialEq, Debug)]
pub struct ClusterOptions {
    /// Number of replicas in the cluster, with ids from 1 on.
    pub replicas: u16,
    /// Number of additional replicas that are not initial members.
    pub spares: u16,
    /// The replica that is a witness, whether it is an initial member or not; `None` if there is
    /// none.
    pub witness: Option<NodeId>,
    /// Replica that is elected leader before the script continues; `None` for no election.
    pub leader: Option<NodeId>,
    /// Whether to use the protocol and configuration of the university course's simulator.
    pub course: bool,
    /// Configuration of the replicas.
    pub config: Config,
    /// Delay of each message between replicas.
    pub hop: Duration,
    /// Snapshot interval and chunk size; `None` if replicas take no snapshots.
    pub snapshots: Option<SnapshotPlan>,
    /// Length of the pieces of large writes in bytes; `None` if writes are never appended in
    /// pieces. At most one piece is uncommitted at a time.
    pub piece_bytes: Option<usize>,
    /// Seed of the random number generator, which determines the whole run.
    pub seed: u64,
}

/// The error of a script statement that is invalid or has failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct ScriptError {
    /// Line number of the statement, counted from 1.
    pub line: usize,
    /// Text of the statement, and a description of the error.
    pub what: String,
}

/// Parses a script. Returns each statement with its line number, counted from 1, and its text.
///
/// # Errors
/// For the first invalid statement.
pub fn parse(text: &str) -> Result<Vec<(usize, String, Statement)>, ScriptError> {
    let mut statements = Vec::new();
    for (place, line) in text.lines().enumerate() {
        let line_number = place + 1;
        let code = line.split('#').next().unwrap_or("");
        for part in code.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let words: Vec<&str> = part.split_whitespace().collect();
            let statement = statement(&words).map_err(|what| ScriptError {
                line: line_number,
                what: format!("{part}: {what}"),
            })?;
            statements.push((line_number, words.join(" "), statement));
        }
    }
    Ok(statements)
}

fn statement(words: &[&str]) -> Result<Statement, String> {
    let (name, rest) = words.split_first().ok_or("empty statement")?;
    let one = || match rest {
        [id] => node(id),
        _ => Err("expected one replica".to_owned()),
    };
    let none = |statement| {
        if rest.is_empty() { Ok(statement) } else { Err("unexpected argument".to_owned()) }
    };
    match *name {
        "cluster" => Ok(Statement::Cluster(Box::new(cluster(rest)?))),
        "put" | "get" | "delete" | "transfer" => request(name, rest),
        "again" => Ok(Statement::Again(one()?)),
        "cut" => cut(rest),
        "heal" => none(Statement::Heal),
        "drop" => interception(Interception::Drop, rest),
        "hold" => interception(Interception::Hold, rest),
        "copy" => interception(Interception::Copy, rest),
        "pass" => none(Statement::Pass),
        "release" if rest.is_empty() => {
            Ok(Statement::Release(MessageFilter::default(), usize::MAX))
        }
        "release" => {
            let (filter, count) = filter_and_count(rest)?;
            Ok(Statement::Release(filter, count))
        }
        "crash" => Ok(Statement::Crash(one()?)),
        "lose" => Ok(Statement::Lose(one()?)),
        "restart" => Ok(Statement::Restart(one()?)),
        "pause" => Ok(Statement::Pause(one()?)),
        "resume" => Ok(Statement::Resume(one()?)),
        "slow" => Ok(Statement::Slow(one()?)),
        "sync" => Ok(Statement::Sync(one()?)),
        "fast" => Ok(Statement::Fast(one()?)),
        "slow_chunks" => Ok(Statement::SlowChunks(one()?)),
        "store" => Ok(Statement::Store(one()?)),
        "forge" => Ok(Statement::Forge(Box::new(forged(rest)?))),
        "disk_space" => match rest {
            [id] => Ok(Statement::DiskSpace(node(id)?, None)),
            [id, bytes] => Ok(Statement::DiskSpace(node(id)?, Some(number(bytes)?))),
            _ => Err("expected: disk_space 1 500, or disk_space 1".to_owned()),
        },
        "failover" => {
            let start = |target| TransferRequest::Start { target, timeout: None };
            match rest {
                [id] => Ok(Statement::Failover(node(id)?, start(None))),
                [id, "abort"] => Ok(Statement::Failover(node(id)?, TransferRequest::Abort)),
                [id, to] => Ok(Statement::Failover(node(id)?, start(Some(node(to)?)))),
                _ => Err("expected: failover 1 2, failover 1, or failover 1 abort".to_owned()),
            }
        }
        "change" => match rest {
            [id, changes @ ..] => Ok(Statement::Change(node(id)?, member_changes(changes)?)),
            [] => Err("expected: change 1 learner 4".to_owned()),
        },
        "lag" => match rest {
            [id, time] => Ok(Statement::Lag(node(id)?, duration(time)?)),
            _ => Err("expected: lag 1 20ms".to_owned()),
        },
        "clock" => match rest {
            [id, ppm] => Ok(Statement::Clock(node(id)?, number(ppm)?)),
            _ => Err("expected: clock 1 2000".to_owned()),
        },
        "timeout" => Ok(Statement::Timeout(one()?)),
        "timeouts" => none(Statement::Timeouts),
        "run" if rest.is_empty() => Ok(Statement::Run),
        "run" => Ok(Statement::RunFor(duration(&rest.join(""))?)),
        "show" => none(Statement::Show),
        "count" => none(Statement::Count),
        "quiet" => none(Statement::Quiet),
        "loud" => none(Statement::Loud),
        "times" => none(Statement::Times),
        _ => Err(format!("unknown statement {name}")),
    }
}

fn number<T: std::str::FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("{word} is not a number"))
}

fn node(word: &str) -> Result<NodeId, String> {
    number(word).map(NodeId)
}

fn nodes(words: &[&str]) -> Result<Vec<NodeId>, String> {
    words.iter().map(|word| node(word)).collect()
}

fn duration(word: &str) -> Result<Duration, String> {
    let digits = word.find(|char: char| !char.is_ascii_digit()).unwrap_or(word.len());
    let count: u64 = number(&word[..digits])?;
    match &word[digits..] {
        "us" => Ok(Duration::from_micros(count)),
        "ms" => Ok(Duration::from_millis(count)),
        "s" => Ok(Duration::from_secs(count)),
        _ => Err(format!("{word} is not a duration such as 5us, 5ms or 5s")),
    }
}

fn request(name: &str, rest: &[&str]) -> Result<Statement, String> {
    let operation = match (name, rest) {
        ("put", [_, pair]) => {
            let (key, value) = pair.split_once('=').ok_or("expected: put 1 key=value")?;
            ClientOperation::Put(key.to_owned(), value.to_owned())
        }
        ("get", [_, key]) => ClientOperation::Get((*key).to_owned()),
        ("delete", [_, key]) => ClientOperation::Delete((*key).to_owned()),
        ("transfer", [_, from, to, amount]) => {
            ClientOperation::Transfer((*from).to_owned(), (*to).to_owned(), number(amount)?)
        }
        _ => return Err("expected a replica and the arguments of the request".to_owned()),
    };
    Ok(Statement::Request(node(rest[0])?, operation))
}

fn cut(rest: &[&str]) -> Result<Statement, String> {
    if let Some(arrow) = rest.iter().position(|word| *word == "->") {
        return Ok(Statement::CutOneWay(nodes(&rest[..arrow])?, nodes(&rest[arrow + 1..])?));
    }
    let groups: Vec<Vec<NodeId>> =
        rest.split(|word| *word == "|").map(nodes).collect::<Result<_, _>>()?;
    if groups.len() < 2 || groups.iter().any(Vec::is_empty) {
        return Err("expected: cut 1 | 2 3, or cut 1 -> 2 3".to_owned());
    }
    Ok(Statement::Part(groups))
}

/// Names of the message types that a script may use in message filters.
const MESSAGE_TYPES: [&str; 11] = [
    "AppendEntries",
    "AppendReply",
    "RequestVote",
    "VoteReply",
    "PreVote",
    "PreVoteReply",
    "InstallSnapshot",
    "InstallReply",
    "TimeoutNow",
    "Rejoin",
    "RejoinReply",
];

fn filter(words: &[&str]) -> Result<MessageFilter, String> {
    let end = |word: &str| if word == "*" { Ok(None) } else { node(word).map(Some) };
    let (link, kind) = match words {
        [link] | [link, "*"] => (link, None),
        [link, kind] => (link, Some((*kind).to_owned())),
        _ => return Err("expected: 1->2 AppendEntries".to_owned()),
    };
    if let Some(kind) = &kind
        && !MESSAGE_TYPES.contains(&kind.as_str())
    {
        return Err(format!(
            "unknown message type {kind}; the types are {}",
            MESSAGE_TYPES.join(", ")
        ));
    }
    let (from, to) = link.split_once("->").ok_or("expected a link such as 1->2 or *->2")?;
    Ok(MessageFilter { from: end(from)?, to: end(to)?, kind })
}

/// Parses the arguments of a `forge` statement, and returns the forged message.
fn forged(rest: &[&str]) -> Result<Envelope, String> {
    let [link, kind, fields @ ..] = rest else {
        return Err("expected: forge 2->3 RequestVote term=9 last=5@8".to_owned());
    };
    let MessageFilter { from: Some(from), to: Some(to), .. } = filter(&[link])? else {
        return Err("expected both ends of the link".to_owned());
    };
    let field =
        |name: &str| fields.iter().find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    let term = Term(number(field("term").ok_or("expected term=")?)?);
    let message = match *kind {
        "AppendEntries" => PeerMsg::AppendEntries(AppendEntries {
            term,
            round: Round(field("round").map_or(Ok(1), number)?),
            prev: field("prev").map_or(Ok(EntryId::ZERO), entry_id)?,
            commit_index: Index(field("commit").map_or(Ok(0), number)?),
            loss_permille: 0,
            transfer_to: None,
            entries: field("entries").map_or(Ok(Vec::new()), entries)?,
        }),
        "RequestVote" => PeerMsg::RequestVote(RequestVote {
            term,
            pre: false,
            transfer: fields.contains(&"transfer"),
            last: field("last").map_or(Ok(EntryId::ZERO), entry_id)?,
        }),
        _ => return Err("only AppendEntries and RequestVote can be forged".to_owned()),
    };
    Ok(Envelope { from, to, leader: None, message })
}

/// Parses the id of a log entry, written as `index@term`.
fn entry_id(word: &str) -> Result<EntryId, String> {
    let (index, term) = word.split_once('@').ok_or("expected an entry as index@term")?;
    Ok(EntryId::new(number(term)?, number(index)?))
}

fn entries(words: &str) -> Result<Vec<Entry>, String> {
    let mut buffer = RecordBuffer::default();
    let encode = |word| Ok(buffer.encode(entry_id(word)?, EntryKind::NoOp, b""));
    words.split(',').map(encode).collect()
}

fn member_changes(mut words: &[&str]) -> Result<Vec<MemberChange>, String> {
    let mut changes = Vec::new();
    while let [verb, id, rest @ ..] = words {
        words = rest;
        let id = node(id)?;
        let learner = |promotion, is_witness| MemberChange::AddLearner {
            id,
            promotion,
            is_witness,
            address: Bytes::new(),
        };
        match *verb {
            "learner" => changes.push(learner(Promotion::Manual, false)),
            "auto" => changes.push(learner(Promotion::Automatic { replaces: None }, false)),
            "witness" => changes.push(learner(Promotion::Automatic { replaces: None }, true)),
            "promote" => changes.push(MemberChange::Promote(id)),
            "demote" => changes.push(MemberChange::Demote(id)),
            "remove" => changes.push(MemberChange::Remove(id)),
            "replace" => {
                let (new, rest) = rest.split_first().ok_or("expected: replace 1 4")?;
                words = rest;
                changes.extend(MemberChange::replace(id, node(new)?));
            }
            _ => return Err(format!("unknown change {verb}")),
        }
    }
    if words.is_empty() { Ok(changes) } else { Err("expected a replica".to_owned()) }
}

fn filter_and_count(rest: &[&str]) -> Result<(MessageFilter, usize), String> {
    match rest {
        [link, kind, count] => Ok((filter(&[link, kind])?, number(count)?)),
        _ => Ok((filter(rest)?, usize::MAX)),
    }
}

fn interception(interception: Interception, rest: &[&str]) -> Result<Statement, String> {
    let (filter, count) = filter_and_count(rest)?;
    Ok(Statement::Intercept(interception, filter, count))
}

fn cluster(rest: &[&str]) -> Result<ClusterOptions, String> {
    let (count, settings) = rest.split_first().ok_or("expected the number of replicas")?;
    let course = settings.contains(&"course");
    // Separate messages about the commit index would clutter every trace. A script enables them if
    // it needs them.
    let base = if course { Config::course() } else { Config::server() };
    let config = Config { commit_notice_after: None, ..base };
    let mut cluster = ClusterOptions {
        replicas: number(count)?,
        spares: 0,
        witness: None,
        leader: None,
        course,
        config,
        hop: Duration::from_millis(1),
        snapshots: None,
        piece_bytes: None,
        seed: 1,
    };
    for setting in settings.iter().filter(|setting| **setting != "course") {
        let (name, value) = setting.split_once('=').ok_or("expected settings as name=value")?;
        set(&mut cluster, name, value)?;
    }
    if cluster.replicas == 0 || cluster.leader.is_some_and(|id| id.0 > cluster.replicas) {
        return Err("replica ids are from 1 to the number of replicas".to_owned());
    }
    cluster.config.validate().map_err(|error| error.to_string())?;
    Ok(cluster)
}

fn set(cluster: &mut ClusterOptions, name: &str, value: &str) -> Result<(), String> {
    let config = &mut cluster.config;
    match name {
        "leader" => cluster.leader = Some(node(value)?),
        "spares" => cluster.spares = number(value)?,
        "witness" => cluster.witness = Some(node(value)?),
        "witness_log_bytes_max" => config.witness_log_bytes_max = number(value)?,
        "hop" => cluster.hop = duration(value)?,
        "seed" => cluster.seed = number(value)?,
        "pieces" => cluster.piece_bytes = Some(number(value)?),
        "fan_out" => {
            config.fan_out = match value {
                "all" => FanOut::All,
                "thrifty" => FanOut::Thrifty,
                _ => return Err("fan_out must be all or thrifty".to_owned()),
            }
        }
        "lease_reads" => {
            config.lease_reads = match value {
                "on" => true,
                "off" => false,
                _ => return Err("lease_reads must be on or off".to_owned()),
            }
        }
        "heartbeat_interval" => config.heartbeat_interval = duration(value)?,
        "commit_notice_after" => config.commit_notice_after = Some(duration(value)?),
        "check_quorum_window" => {
            config.check_quorum_window = duration(value)?;
            config.check_quorum_window_lossy =
                config.check_quorum_window_lossy.max(config.check_quorum_window);
        }
        "append_entries_max" => config.append_entries_max = number(value)?,
        "log_bytes_kept" => {
            config.log_bytes_kept = number(value)?;
            config.log_bytes_max = config.log_bytes_max.max(config.log_bytes_kept);
        }
        // Entries per snapshot, and bytes per chunk.
        "snapshots" => {
            let (every, chunk) = value.split_once('/').ok_or("snapshots must be entries/bytes")?;
            cluster.snapshots =
                Some(SnapshotPlan { every: number(every)?, chunk_bytes: number(chunk)? });
        }
        "inflight_appends_max" => config.inflight_appends_max = number(value)?,
        "uncommitted_bytes_max" => config.uncommitted_bytes_max = number(value)?,
        "request_wait" => config.request_wait = duration(value)?,
        "waiting_requests_max" => config.waiting_requests_max = number(value)?,
        _ => return Err(format!("unknown setting {name}")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(text: &str) -> Statement {
        let mut statements = parse(text).unwrap();
        assert_eq!(statements.len(), 1, "{statements:?}");
        statements.remove(0).2
    }

    #[test]
    fn simulator_script_statements_are_parsed() {
        assert_eq!(
            only("cut 1 | 2 3"),
            Statement::Part(vec![vec![NodeId(1)], vec![NodeId(2), NodeId(3)]])
        );
        assert_eq!(
            only("cut 1 -> 2 3 # deaf"),
            Statement::CutOneWay(vec![NodeId(1)], vec![NodeId(2), NodeId(3)])
        );
        assert_eq!(
            only("put 1 a=b=c"),
            Statement::Request(NodeId(1), ClientOperation::Put("a".into(), "b=c".into()))
        );
        assert_eq!(only("run 1500us"), Statement::RunFor(Duration::from_micros(1_500)));
        let filter =
            MessageFilter { from: None, to: Some(NodeId(2)), kind: Some("AppendReply".into()) };
        assert_eq!(
            only("hold *->2 AppendReply 3"),
            Statement::Intercept(Interception::Hold, filter, 3)
        );
        assert_eq!(only("release"), Statement::Release(MessageFilter::default(), usize::MAX));
        let Statement::Cluster(cluster) = only("cluster 5 course leader=2 lease_reads=off") else {
            panic!("not a cluster statement")
        };
        assert_eq!((cluster.replicas, cluster.leader), (5, Some(NodeId(2))));
        assert!(!cluster.config.lease_reads && cluster.config.fan_out == FanOut::Thrifty);
    }

    #[test]
    fn semicolons_separate_simulator_script_statements() {
        let statements = parse("# story\ncrash 1; restart 1\n\nrun").unwrap();
        let lines: Vec<usize> = statements.iter().map(|(line, ..)| *line).collect();
        assert_eq!(lines, [2, 2, 4]);
    }

    #[test]
    fn invalid_simulator_script_error_names_the_line() {
        for (text, part) in [
            ("run\nfly 1", "line 2: fly 1: unknown statement fly"),
            ("cut 1", "cut 1 | 2 3"),
            ("put 1 a", "put 1 key=value"),
            ("hold 1->2 Append", "unknown message type Append"),
            ("run 5", "5 is not a duration"),
            ("cluster 3 leader=4", "replica ids are from 1"),
            ("cluster 3 speed=4", "unknown setting speed"),
            ("crash", "expected one replica"),
            ("heal 1", "unexpected argument"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
