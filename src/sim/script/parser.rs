//! The language of golden traces: what happens to a cluster, one statement after the other.
//!
//! ```text
//! # A comment says what the trace shows.
//! cluster 3 leader=1 lease_reads=on
//! cut 1 | 2 3             both ways;  cut 1 -> 2 3  one way;  heal  takes back all cuts
//! put 1 a=1               also get 1 a, delete 1 a, transfer 1 a b 5; again 2: the last one, there
//! hold 1->2 AppendReply   keeps what comes, until  release ; also drop, and copy (keeps a copy);
//!                         * for any; a number behind: only so many; pass ends all of them
//! timeout 2               time passes until 2 stands for election; from now on nobody else does
//!                         by himself, until  impatient
//! run                     until nothing is on its way
//! run 300ms               so long, whatever happens
//! crash 1; lose 1         it is down, and its disk is lost: it restarts with an empty one
//! crash 1; restart 1      pause 1; resume 1; slow 1: its syncs end only by  sync 1 ; fast 1
//! slow_chunks 1; store 1  does not store a snapshot's chunks until  store 1
//! forge 2->3 AppendEntries term=9 round=1 prev=4@1 commit=5 entries=5@9,6@9
//! forge 2->3 RequestVote term=9 last=5@8 [transfer]   a message that 2 never sent
//! room 1 500              its disk is short of room, it can store so many bytes;  room 1  enough
//! lag 1 20ms              its applying takes so long from now on
//! clock 1 2000            goes so many ppm too fast from now on
//! show; count             what each replica knows; what was sent since the last count
//! quiet; loud             leaves messages out; times: shows the time of each event
//! ```
//!
//! Statements stand on lines of their own or behind a semicolon.

use std::time::Duration;

use crate::config::{Config, FanOut};
use crate::raft::{AppendEntries, Envelope, PeerMsg, RequestVote};
use crate::record::{Entry, EntryKind, RecordBuffer};
use crate::sim::disk::snapshots::SnapshotPlan;
use crate::types::{EntryId, Index, NodeId, Round, Term};

/// What one statement does.
#[derive(Clone, PartialEq, Debug)]
pub enum Statement {
    /// Begins a cluster; nothing stands before it.
    Cluster(Box<ClusterOptions>),
    /// A client asks a replica.
    Ask(NodeId, Wish),
    /// The last request once more, at this replica.
    Again(NodeId),
    /// Cuts all links between the groups.
    Part(Vec<Vec<NodeId>>),
    /// Cuts the links from the first to the others.
    CutOneWay(Vec<NodeId>, Vec<NodeId>),
    /// Takes back all cuts.
    Heal,
    /// Catches messages.
    Catch(Catch, Which, usize),
    /// Ends all catching.
    Pass,
    /// Delivers what was kept, at most so many.
    Release(Which, usize),
    /// Crashes a replica.
    Crash(NodeId),
    /// Its disk is lost while it is down.
    Lose(NodeId),
    /// Starts it again.
    Restart(NodeId),
    /// Stops it.
    Pause(NodeId),
    /// Lets it go on.
    Resume(NodeId),
    /// Keeps its syncs from ending.
    Slow(NodeId),
    /// Ends what its disk syncs.
    Sync(NodeId),
    /// Lets its syncs end by themselves.
    Fast(NodeId),
    /// Keeps chunks of a leader's snapshot from being stored.
    SlowChunks(NodeId),
    /// Stores the chunks that were kept from it.
    Store(NodeId),
    /// Delivers a message that its sender never sent.
    Forge(Box<Envelope>),
    /// Gives its disk so little room, or enough.
    Room(NodeId, Option<u64>),
    /// Makes its applying take so long.
    Lag(NodeId, Duration),
    /// Sets the rate of its clock.
    Clock(NodeId, i64),
    /// Lets its election timeout come, and nobody else's.
    Timeout(NodeId),
    /// Everybody may stand for election by himself again.
    Impatient,
    /// Until nothing is on its way.
    Run,
    /// So long.
    RunFor(Duration),
    /// Writes down what each replica knows.
    Show,
    /// Writes down what was sent since the last time.
    Count,
    /// Messages are not written down.
    Quiet,
    /// Messages are written down.
    Loud,
    /// Times are written down.
    Times,
}

/// What a client asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wish {
    /// A key's value.
    Get(String),
    /// To set a key.
    Put(String, String),
    /// To remove a key.
    Delete(String),
    /// To move an amount.
    Transfer(String, String, u64),
}

/// What is done to a message that is caught.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Catch {
    /// It is lost.
    Drop,
    /// It is kept back.
    Hold,
    /// It arrives, and a copy is kept.
    Copy,
}

/// Which messages are meant; `None` is any.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Which {
    /// Sender.
    pub from: Option<NodeId>,
    /// Addressee.
    pub to: Option<NodeId>,
    /// Name of the message.
    pub kind: Option<String>,
}

/// A cluster at the beginning of a script.
#[derive(Clone, PartialEq, Debug)]
pub struct ClusterOptions {
    /// How many replicas: 1 to this.
    pub replicas: u16,
    /// Who leads when the script begins, with everything settled.
    pub leader: Option<NodeId>,
    /// The course's protocol and configuration.
    pub course: bool,
    /// The configuration.
    pub config: Config,
    /// One way between replicas.
    pub hop: Duration,
    /// How replicas take snapshots, if they do.
    pub snapshots: Option<SnapshotPlan>,
    /// For the replicas' own draws.
    pub seed: u64,
}

/// A statement that can't be understood, or that can't be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct ScriptError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

/// Reads a script: statements with their lines and their own words.
///
/// # Errors
/// For the first statement that can't be understood.
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
    let (name, rest) = words.split_first().ok_or("nothing")?;
    let one = || match rest {
        [id] => node(id),
        _ => Err("name one replica".to_owned()),
    };
    let none = |statement| if rest.is_empty() { Ok(statement) } else { Err("too much".to_owned()) };
    match *name {
        "cluster" => Ok(Statement::Cluster(Box::new(cluster(rest)?))),
        "put" | "get" | "delete" | "transfer" => wish(name, rest),
        "again" => Ok(Statement::Again(one()?)),
        "cut" => cut(rest),
        "heal" => none(Statement::Heal),
        "drop" => caught(Catch::Drop, rest),
        "hold" => caught(Catch::Hold, rest),
        "copy" => caught(Catch::Copy, rest),
        "pass" => none(Statement::Pass),
        "release" if rest.is_empty() => Ok(Statement::Release(Which::default(), usize::MAX)),
        "release" => {
            let (which, count) = several(rest)?;
            Ok(Statement::Release(which, count))
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
        "room" => match rest {
            [id] => Ok(Statement::Room(node(id)?, None)),
            [id, bytes] => Ok(Statement::Room(node(id)?, Some(number(bytes)?))),
            _ => Err("write: room 1 500, or room 1".to_owned()),
        },
        "lag" => match rest {
            [id, time] => Ok(Statement::Lag(node(id)?, span(time)?)),
            _ => Err("write: lag 1 20ms".to_owned()),
        },
        "clock" => match rest {
            [id, ppm] => Ok(Statement::Clock(node(id)?, number(ppm)?)),
            _ => Err("write: clock 1 2000".to_owned()),
        },
        "timeout" => Ok(Statement::Timeout(one()?)),
        "impatient" => none(Statement::Impatient),
        "run" if rest.is_empty() => Ok(Statement::Run),
        "run" => Ok(Statement::RunFor(span(&rest.join(""))?)),
        "show" => none(Statement::Show),
        "count" => none(Statement::Count),
        "quiet" => none(Statement::Quiet),
        "loud" => none(Statement::Loud),
        "times" => none(Statement::Times),
        _ => Err(format!("{name} is no statement")),
    }
}

fn number<T: std::str::FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("{word} is no number"))
}

fn node(word: &str) -> Result<NodeId, String> {
    number(word).map(NodeId)
}

fn nodes(words: &[&str]) -> Result<Vec<NodeId>, String> {
    words.iter().map(|word| node(word)).collect()
}

fn span(word: &str) -> Result<Duration, String> {
    let digits = word.find(|char: char| !char.is_ascii_digit()).unwrap_or(word.len());
    let count: u64 = number(&word[..digits])?;
    match &word[digits..] {
        "us" => Ok(Duration::from_micros(count)),
        "ms" => Ok(Duration::from_millis(count)),
        "s" => Ok(Duration::from_secs(count)),
        _ => Err(format!("{word} is no span; write 5us, 5ms or 5s")),
    }
}

fn wish(name: &str, rest: &[&str]) -> Result<Statement, String> {
    let wish = match (name, rest) {
        ("put", [_, pair]) => {
            let (key, value) = pair.split_once('=').ok_or("write: put 1 key=value")?;
            Wish::Put(key.to_owned(), value.to_owned())
        }
        ("get", [_, key]) => Wish::Get((*key).to_owned()),
        ("delete", [_, key]) => Wish::Delete((*key).to_owned()),
        ("transfer", [_, from, to, amount]) => {
            Wish::Transfer((*from).to_owned(), (*to).to_owned(), number(amount)?)
        }
        _ => return Err("name the replica, then what is asked".to_owned()),
    };
    Ok(Statement::Ask(node(rest[0])?, wish))
}

fn cut(rest: &[&str]) -> Result<Statement, String> {
    if let Some(arrow) = rest.iter().position(|word| *word == "->") {
        return Ok(Statement::CutOneWay(nodes(&rest[..arrow])?, nodes(&rest[arrow + 1..])?));
    }
    let groups: Vec<Vec<NodeId>> =
        rest.split(|word| *word == "|").map(nodes).collect::<Result<_, _>>()?;
    if groups.len() < 2 || groups.iter().any(Vec::is_empty) {
        return Err("write: cut 1 | 2 3, or: cut 1 -> 2 3".to_owned());
    }
    Ok(Statement::Part(groups))
}

/// Messages as traces name them.
const KINDS: [&str; 11] = [
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

fn which(words: &[&str]) -> Result<Which, String> {
    let end = |word: &str| if word == "*" { Ok(None) } else { node(word).map(Some) };
    let (link, kind) = match words {
        [link] | [link, "*"] => (link, None),
        [link, kind] => (link, Some((*kind).to_owned())),
        _ => return Err("write: 1->2 AppendEntries".to_owned()),
    };
    if let Some(kind) = &kind
        && !KINDS.contains(&kind.as_str())
    {
        return Err(format!("{kind} is none of {}", KINDS.join(", ")));
    }
    let (from, to) = link.split_once("->").ok_or("name a link: 1->2, or *->2")?;
    Ok(Which { from: end(from)?, to: end(to)?, kind })
}

/// A message that its sender never sent.
fn forged(rest: &[&str]) -> Result<Envelope, String> {
    let [link, kind, fields @ ..] = rest else {
        return Err("write: forge 2->3 RequestVote term=9 last=5@8".to_owned());
    };
    let Which { from: Some(from), to: Some(to), .. } = which(&[link])? else {
        return Err("name both ends of the link".to_owned());
    };
    let field =
        |name: &str| fields.iter().find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    let term = Term(number(field("term").ok_or("say in which term")?)?);
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

/// An entry as traces name it: `index@term`.
fn entry_id(word: &str) -> Result<EntryId, String> {
    let (index, term) = word.split_once('@').ok_or("name an entry as index@term")?;
    Ok(EntryId::new(number(term)?, number(index)?))
}

fn entries(words: &str) -> Result<Vec<Entry>, String> {
    let mut buffer = RecordBuffer::default();
    let encode = |word| Ok(buffer.encode(entry_id(word)?, EntryKind::NoOp, b""));
    words.split(',').map(encode).collect()
}

fn several(rest: &[&str]) -> Result<(Which, usize), String> {
    match rest {
        [link, kind, count] => Ok((which(&[link, kind])?, number(count)?)),
        _ => Ok((which(rest)?, usize::MAX)),
    }
}

fn caught(catch: Catch, rest: &[&str]) -> Result<Statement, String> {
    let (which, count) = several(rest)?;
    Ok(Statement::Catch(catch, which, count))
}

fn cluster(rest: &[&str]) -> Result<ClusterOptions, String> {
    let (count, settings) = rest.split_first().ok_or("say how many replicas")?;
    let course = settings.contains(&"course");
    // A notice of the commit index in every trace would drown what the trace is about: who wants
    // it says so.
    let base = if course { Config::course() } else { Config::server() };
    let config = Config { commit_notice_after: None, ..base };
    let mut cluster = ClusterOptions {
        replicas: number(count)?,
        leader: None,
        course,
        config,
        hop: Duration::from_millis(1),
        snapshots: None,
        seed: 1,
    };
    for setting in settings.iter().filter(|setting| **setting != "course") {
        let (name, value) = setting.split_once('=').ok_or("settings are name=value")?;
        set(&mut cluster, name, value)?;
    }
    if cluster.replicas == 0 || cluster.leader.is_some_and(|id| id.0 > cluster.replicas) {
        return Err("replicas are numbered from 1".to_owned());
    }
    cluster.config.validate().map_err(|error| error.to_string())?;
    Ok(cluster)
}

fn set(cluster: &mut ClusterOptions, name: &str, value: &str) -> Result<(), String> {
    let config = &mut cluster.config;
    match name {
        "leader" => cluster.leader = Some(node(value)?),
        "hop" => cluster.hop = span(value)?,
        "seed" => cluster.seed = number(value)?,
        "fan_out" => {
            config.fan_out = match value {
                "all" => FanOut::All,
                "thrifty" => FanOut::Thrifty,
                _ => return Err("fan_out is all or thrifty".to_owned()),
            }
        }
        "lease_reads" => {
            config.lease_reads = match value {
                "on" => true,
                "off" => false,
                _ => return Err("lease_reads is on or off".to_owned()),
            }
        }
        "heartbeat_interval" => config.heartbeat_interval = span(value)?,
        "commit_notice_after" => config.commit_notice_after = Some(span(value)?),
        "check_quorum_window" => {
            config.check_quorum_window = span(value)?;
            config.check_quorum_window_lossy =
                config.check_quorum_window_lossy.max(config.check_quorum_window);
        }
        "append_entries_max" => config.append_entries_max = number(value)?,
        "log_bytes_kept" => {
            config.log_bytes_kept = number(value)?;
            config.log_bytes_max = config.log_bytes_max.max(config.log_bytes_kept);
        }
        // After so many entries, sent in chunks of so many bytes.
        "snapshots" => {
            let (every, chunk) = value.split_once('/').ok_or("snapshots are entries/bytes")?;
            cluster.snapshots =
                Some(SnapshotPlan { every: number(every)?, chunk_bytes: number(chunk)? });
        }
        "inflight_appends_max" => config.inflight_appends_max = number(value)?,
        "uncommitted_bytes_max" => config.uncommitted_bytes_max = number(value)?,
        "request_wait" => config.request_wait = span(value)?,
        "waiting_requests_max" => config.waiting_requests_max = number(value)?,
        _ => return Err(format!("{name} can't be set here")),
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
    fn statements_are_read() {
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
            Statement::Ask(NodeId(1), Wish::Put("a".into(), "b=c".into()))
        );
        assert_eq!(only("run 1500us"), Statement::RunFor(Duration::from_micros(1_500)));
        let which = Which { from: None, to: Some(NodeId(2)), kind: Some("AppendReply".into()) };
        assert_eq!(only("hold *->2 AppendReply 3"), Statement::Catch(Catch::Hold, which, 3));
        assert_eq!(only("release"), Statement::Release(Which::default(), usize::MAX));
        let Statement::Cluster(cluster) = only("cluster 5 course leader=2 lease_reads=off") else {
            panic!("no cluster")
        };
        assert_eq!((cluster.replicas, cluster.leader), (5, Some(NodeId(2))));
        assert!(!cluster.config.lease_reads && cluster.config.fan_out == FanOut::Thrifty);
    }

    #[test]
    fn a_line_may_hold_several() {
        let statements = parse("# story\ncrash 1; restart 1\n\nrun").unwrap();
        let lines: Vec<usize> = statements.iter().map(|(line, ..)| *line).collect();
        assert_eq!(lines, [2, 2, 4]);
    }

    #[test]
    fn what_is_not_understood_is_named_with_its_line() {
        for (text, part) in [
            ("run\nfly 1", "line 2: fly 1: fly is no statement"),
            ("cut 1", "cut 1 | 2 3"),
            ("put 1 a", "put 1 key=value"),
            ("hold 1->2 Append", "Append is none of"),
            ("run 5", "5 is no span"),
            ("cluster 3 leader=4", "numbered from 1"),
            ("cluster 3 speed=4", "speed can't be set"),
            ("crash", "name one replica"),
            ("heal 1", "too much"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
