//! Kills servers at each step from the run of a script, or of a function, to its reply. Its effects
//! must be applied whole or not at all, and once. And scripts that read and write under load while
//! leaders are killed must be linearizable, together with plain commands.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bowline::sim::checkers::linearizability::{Call, History, Reply, STEPS_MAX};
use bytes::Bytes;

use crate::client::Client;
use crate::load::StopAtEnd;
use crate::replicas::Cluster;

/// Name of the environment variable that sets the number of kills in each test.
const KILLS_VARIABLE: &str = "BOWLINE_SCRIPT_KILLS";

/// The steps of a script at which a replica is killed.
const POINTS: &[&str] = &[
    "script-run",
    "script-result",
    "script-sent",
    "log-appended",
    "log-synced",
    "script-outcome",
    "script-answered",
];

/// Writes three keys of different types; the last has the name of the call.
const BODY: &str = "local n = redis.call('incr', KEYS[1]) redis.call('hset', KEYS[2], ARGV[1], n) \
                    redis.call('rpush', KEYS[3], ARGV[1]) return n";

/// The beginnings of replies to calls that were certainly not applied.
const REFUSED: [&[u8]; 4] = [b"-CLUSTERDOWN ", b"-LOADING ", b"-TRYAGAIN ", b"-ERR nothing was "];

fn kills(default: usize) -> usize {
    std::env::var(KILLS_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The calls of scripts so far.
#[derive(Default)]
struct Calls {
    count: u64,
    acknowledged: BTreeSet<String>,
    /// The calls that had no reply, or an uncertain one.
    unknown: BTreeSet<String>,
}

/// Returns the strings in an array of bulk strings.
fn strings(reply: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(reply);
    assert!(text.starts_with('*'), "{text}");
    text.lines().skip(2).step_by(2).map(str::to_owned).collect()
}

impl Calls {
    /// Runs scripts and functions until the connection fails.
    fn run(&mut self, address: SocketAddr) {
        let Ok(mut client) = Client::connect(address) else { return };
        loop {
            self.count += 1;
            let name = format!("call{}", self.count);
            let (keys, name_bytes) = ([&b"n"[..], b"hash", b"list"], name.as_bytes());
            let mut request: Vec<&[u8]> = match self.count % 2 {
                0 => vec![b"EVAL", BODY.as_bytes(), b"3"],
                _ => vec![b"FCALL", b"write", b"3"],
            };
            request.extend(keys);
            request.push(name_bytes);
            match client.call(&request) {
                Ok(reply) if reply.starts_with(b":") => {
                    self.acknowledged.insert(name);
                }
                Ok(reply) if reply.starts_with(b"-UNCERTAIN ") => {
                    self.unknown.insert(name);
                }
                Ok(reply) => {
                    let is_refused = REFUSED.iter().any(|it| reply.starts_with(it));
                    assert!(is_refused, "{}", reply.escape_ascii());
                }
                Err(_) => {
                    self.unknown.insert(name);
                    return;
                }
            }
        }
    }

    /// Checks that each call was applied whole and once, or not at all if that is not known.
    fn judge(&self, address: SocketAddr, point: &str) {
        let mut client = Client::connect(address).unwrap();
        let listed = strings(&client.call_until_ok(&[b"LRANGE", b"list", b"0", b"-1"]));
        let hashed = strings(&client.call_until_ok(&[b"HKEYS", b"hash"]));
        let (list, hash): (BTreeSet<&String>, BTreeSet<&String>) =
            (listed.iter().collect(), hashed.iter().collect());
        assert_eq!(list.len(), listed.len(), "{point}: a call was applied twice");
        assert_eq!(list, hash, "{point}: a part of a call was applied");
        let count = client.call_until_ok(&[b"GET", b"n"]);
        let count = String::from_utf8_lossy(&count).into_owned();
        let wanted = if listed.is_empty() { "$-1".to_owned() } else { listed.len().to_string() };
        assert_eq!(count.lines().last(), Some(&*wanted), "{point}: a part of a call was applied");
        for name in &self.acknowledged {
            assert!(list.contains(name), "{point}: {name} was acknowledged and is lost");
        }
        for name in list {
            let is_known = self.acknowledged.contains(name) || self.unknown.contains(name);
            assert!(is_known, "{point}: {name} was refused and applied");
        }
    }
}

fn kill_at_each_point(count: usize, default_kills: usize) {
    let mut cluster = Cluster::start(count, "auto");
    cluster.wait_until_all_serve();
    let mut client = Client::connect(cluster.address(0)).unwrap();
    let body = BODY.replace("KEYS", "keys").replace("ARGV", "args");
    let code = format!(
        "#!lua name=lib\nredis.register_function('write', function(keys, args) {body} end)"
    );
    assert!(client.call_until_ok(&[b"FUNCTION", b"LOAD", code.as_bytes()]).starts_with(b"$3"));
    let mut calls = Calls::default();
    for round in 0..kills(default_kills) {
        let (point, nth) = (POINTS[round % POINTS.len()], 1 + (round + round / POINTS.len()) % 5);
        let at = round % count;
        cluster.kill(at);
        let mut command = cluster.command(at);
        command.env("BOWLINE_FAILPOINT", format!("{point}:{nth}")).stdin(Stdio::piped());
        cluster.start_as(at, command);
        let address = cluster.address(at);
        // The replica may die before it answers.
        while cluster.runs(at) {
            calls.run(address);
            thread::sleep(Duration::from_millis(5));
        }
        let end = cluster.end_of(at);
        assert_eq!(end.signal(), Some(9), "{point}: it ended with {end}\n{}", cluster.logs());
        cluster.restart_one(at);
        cluster.wait_until_all_serve();
        calls.judge(cluster.address(at), point);
    }
    let acknowledged = calls.acknowledged.len();
    eprintln!("{acknowledged} calls acknowledged, {} unknown", calls.unknown.len());
    assert!(acknowledged > 0);
    cluster.wait_until_all_serve();
    cluster.wait_until_states_are_equal();
}

#[test]
fn script_is_whole_and_once_or_absent_wherever_its_replica_is_killed() {
    kill_at_each_point(1, POINTS.len());
}

#[test]
fn forwarded_script_is_whole_and_once_or_absent_wherever_its_replica_is_killed() {
    kill_at_each_point(3, 3);
}

const READ: &[u8] = b"return redis.call('get', KEYS[1])";
const WRITE: &[u8] = b"redis.call('set', KEYS[1], ARGV[1]) return 'done'";
const REMOVE: &[u8] = b"return redis.call('del', KEYS[1])";
const KEYS: u64 = 6;

/// Sends one call, and records it with its reply. Returns an error if the connection failed.
fn step(
    client: &mut Client,
    history: &Mutex<History>,
    (name, number): (u64, u64),
) -> std::io::Result<()> {
    let key = Bytes::from(format!("key{}", (number * 7 + name) % KEYS));
    let value = format!("{name}:{number}");
    let (call, request): (Call, Vec<&[u8]>) = match number % 6 {
        0 => (Call::Get, vec![b"GET", &key]),
        1 => (Call::Put(value.clone().into()), vec![b"SET", &key, value.as_bytes()]),
        2 => (Call::Delete, vec![b"EVAL", REMOVE, b"1", &key]),
        3 => (Call::Get, vec![b"EVAL", READ, b"1", &key]),
        4 => (Call::Get, vec![b"EVAL_RO", READ, b"1", &key]),
        _ => (Call::Put(value.clone().into()), vec![b"EVAL", WRITE, b"1", &key, value.as_bytes()]),
    };
    let id = history.lock().unwrap().call(key.clone(), call.clone());
    let reply = client.call(&request);
    let mut history = history.lock().unwrap();
    let Ok(reply) = reply else {
        if call == Call::Get {
            history.refuse(id);
        }
        return reply.map(drop);
    };
    if REFUSED.iter().any(|it| reply.starts_with(it)) {
        history.refuse(id);
    } else if reply.starts_with(b"-UNCERTAIN ") {
        if call == Call::Get {
            history.refuse(id);
        }
    } else {
        let text = String::from_utf8_lossy(&reply).into_owned();
        history.answer(
            id,
            match call {
                Call::Get if text == "$-1\r\n" => Reply::Value(None),
                Call::Get => Reply::Value(text.lines().nth(1).map(|it| it.to_owned().into())),
                Call::Put(_) => {
                    assert!(text == "+OK\r\n" || text == "$4\r\ndone\r\n", "{text}");
                    Reply::Done
                }
                Call::Delete => Reply::Deleted(text == ":1\r\n"),
            },
        );
    }
    Ok(())
}

#[test]
fn scripts_are_linearizable_while_leaders_are_killed() {
    let mut cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let addresses: Vec<SocketAddr> = (0..3).map(|at| cluster.address(at)).collect();
    let (history, stop, steps) =
        (Mutex::new(History::default()), AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for (name, address) in (0..6).map(|client: usize| (client as u64, addresses[client % 3])) {
            let (history, stop, steps) = (&history, &stop, &steps);
            scope.spawn(move || {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    let Ok(mut client) = Client::connect(address) else {
                        thread::sleep(Duration::from_millis(20));
                        continue;
                    };
                    while !stop.load(Ordering::Relaxed) {
                        number += 1;
                        if step(&mut client, history, (name, number)).is_err() {
                            break;
                        }
                        steps.fetch_add(1, Ordering::Relaxed);
                        thread::sleep(Duration::from_millis(4));
                    }
                }
            });
        }
        for _ in 0..kills(2).min(10) {
            thread::sleep(Duration::from_millis(250));
            let leader = cluster.leader();
            cluster.kill(leader);
            thread::sleep(Duration::from_millis(250));
            cluster.restart();
            cluster.wait_until_all_serve();
        }
    });
    let history = history.into_inner().unwrap();
    let steps = steps.into_inner();
    history.check(STEPS_MAX).unwrap_or_else(|error| panic!("{error}"));
    assert!(steps > 100, "{steps}");
    cluster.wait_until_states_are_equal();
}
