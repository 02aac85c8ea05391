//! Clients that pipeline without pause while replicas are killed, and record a history of requests
//! and replies.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use bowline::sim::checkers::linearizability::{Call, History, OperationId, Reply};
use bytes::Bytes;

use crate::client::{Client, Connector, command};

/// Number of keys that all clients share in one round. Each round has new keys, because unknown
/// outcomes make the search for a linearization expensive.
const SHARED_KEYS: u64 = 12;
/// Number of steps whose commands a client sends before it reads the first reply.
const PIPELINE: u64 = 8;
/// Pause between pipelines, so that the history of a round stays small enough to be checked.
const BREATH: Duration = Duration::from_millis(4);

/// Sets the clients' stop flag when dropped. This also happens when the test fails: otherwise, the
/// test would wait for the clients forever.
pub(crate) struct StopAtEnd<'s>(pub(crate) &'s AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The history of all rounds, and the counts of replies to writes.
#[derive(Default)]
pub(crate) struct Notes {
    history: Mutex<History>,
    pub(crate) acknowledged: AtomicU64,
    pub(crate) uncertain: AtomicU64,
    pub(crate) refused: AtomicU64,
}

/// A command in a pipeline, and how its reply is checked.
enum Sent {
    /// A command on a shared key. The history checks it against all other operations on the key.
    Shared(OperationId, Call),
    /// A write to a key that no other client writes. The reply must be `OK`.
    Own(u64),
    /// A read of the client's own key. It must return the client's latest write, or an older one if
    /// the later writes may not have been applied.
    ReadOwn,
    /// An `ECHO`, which must return exactly these bytes.
    Echo(Vec<u8>),
}

impl Notes {
    pub(crate) fn is_any_acknowledged(&self) -> Option<()> {
        (self.acknowledged.load(Ordering::Relaxed) > 0).then_some(())
    }

    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shared_key(round: u64, number: u64) -> Bytes {
    Bytes::from(format!("round{round}:key{}", number % SHARED_KEYS))
}

/// Runs one client until `stop` is set. The client always uses the same replica, and reconnects
/// when that replica was killed. Panics at an impossible reply.
pub(crate) fn run(
    server: impl Into<Connector>,
    name: u64,
    round: u64,
    notes: &Notes,
    stop: &AtomicBool,
) {
    let server = server.into();
    let own_key = format!("own{name}:round{round}").into_bytes();
    // For the client's own key: the newest value certainly applied, and the newest possibly
    // applied.
    let (mut sure, mut possible) = (0, 0);
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut client) = server.connect() else {
            thread::sleep(BREATH * 5);
            continue;
        };
        while !stop.load(Ordering::Relaxed) {
            let mut bytes = Vec::new();
            let mut sent = Vec::new();
            for _ in 0..PIPELINE {
                number += 1;
                let key = shared_key(round, number * 7 + name);
                let text = format!("{name}:{round}:{number}").into_bytes();
                match number % 5 {
                    0 | 1 => {
                        bytes.extend(command(&[b"SET", &key, &text]));
                        let call = Call::Put(Bytes::from(text));
                        let id = notes.history().call(key, call.clone());
                        sent.push(Sent::Shared(id, call));
                    }
                    2 => {
                        bytes.extend(command(&[b"GET", &key]));
                        let id = notes.history().call(key, Call::Get);
                        sent.push(Sent::Shared(id, Call::Get));
                    }
                    3 => {
                        possible += 1;
                        bytes.extend(command(&[b"SET", &own_key, possible.to_string().as_bytes()]));
                        bytes.extend(command(&[b"GET", &own_key]));
                        sent.extend([Sent::Own(possible), Sent::ReadOwn]);
                    }
                    _ => {
                        bytes.extend(command(&[b"ECHO", &text]));
                        sent.push(Sent::Echo(text));
                    }
                }
            }
            let mut broken = client.send(&bytes).is_err();
            for next in sent {
                let reply = if broken { None } else { client.reply().ok() };
                match (reply, next) {
                    (Some(reply), next) => judge(next, &reply, &mut sure, possible, notes),
                    (None, next) => {
                        broken = true;
                        // A read without a reply had no effect.
                        if let Sent::Shared(id, Call::Get) = next {
                            notes.history().refuse(id);
                        }
                    }
                }
            }
            if broken {
                break;
            }
            thread::sleep(BREATH);
        }
    }
}

fn judge(sent: Sent, reply: &[u8], sure: &mut u64, possible: u64, notes: &Notes) {
    let shown = || String::from_utf8_lossy(reply).into_owned();
    let refused =
        [&b"-CLUSTERDOWN "[..], b"-LOADING ", b"-TRYAGAIN "].iter().any(|it| reply.starts_with(it));
    let uncertain = reply.starts_with(b"-UNCERTAIN ");
    if refused || uncertain {
        let count = if refused { &notes.refused } else { &notes.uncertain };
        count.fetch_add(1, Ordering::Relaxed);
        assert!(!matches!(sent, Sent::Echo(_)), "an ECHO got {}", shown());
    }
    match sent {
        Sent::Shared(id, _) if refused => notes.history().refuse(id),
        // The write may have been applied, or may still be applied later: the history assumes so
        // until it has a reply.
        Sent::Shared(_, Call::Put(_)) if uncertain => {}
        Sent::Shared(id, Call::Put(_)) => {
            assert_eq!(shown(), "+OK\r\n", "in answer to a SET");
            notes.acknowledged.fetch_add(1, Ordering::Relaxed);
            notes.history().answer(id, Reply::Done);
        }
        Sent::Shared(id, _) => notes.history().answer(id, Reply::Value(bulk(reply))),
        Sent::Own(_) | Sent::ReadOwn if refused || uncertain => {}
        Sent::Own(value) => {
            assert_eq!(shown(), "+OK\r\n", "in answer to a SET");
            *sure = value;
        }
        Sent::ReadOwn => {
            let value = bulk(reply).map_or(0, |value| {
                std::str::from_utf8(&value).unwrap().parse::<u64>().expect("a number was written")
            });
            assert!(
                (*sure..=possible).contains(&value),
                "{value} was read where {sure} is acknowledged and {possible} the last sent"
            );
        }
        Sent::Echo(text) => assert_eq!(bulk(reply).as_deref(), Some(&text[..]), "{}", shown()),
    }
}

/// Returns the contents of a bulk string reply; `None` for a null reply.
fn bulk(reply: &[u8]) -> Option<Bytes> {
    assert_eq!(reply[0], b'$', "{} is no bulk string", String::from_utf8_lossy(reply));
    if reply == b"$-1\r\n" {
        return None;
    }
    let start = reply.windows(2).position(|pair| pair == b"\r\n").expect("a whole reply") + 2;
    Some(Bytes::copy_from_slice(&reply[start..reply.len() - 2]))
}

/// Reads all shared keys of a round on every replica, as the last operations in the round's
/// history.
pub(crate) fn read_all(addresses: &[SocketAddr], round: u64, notes: &Notes) {
    for address in addresses {
        let mut client = Client::connect(*address).unwrap();
        for number in 0..SHARED_KEYS {
            let key = shared_key(round, number);
            let id = notes.history().call(key.clone(), Call::Get);
            let reply = client.call_until_ok(&[b"GET", &key]);
            notes.history().answer(id, Reply::Value(bulk(&reply)));
        }
    }
}

/// Returns the indexes of the replicas that a round kills, in a cluster of `count` replicas. In
/// turn: the leader and as many followers as may fail with it; as many followers as may fail; a
/// majority that includes the leader; all replicas.
pub(crate) fn victims(round: u64, leader: usize, count: usize) -> Vec<usize> {
    let failures = (count - 1) / 2;
    let from_leader =
        |offsets: std::ops::Range<usize>| offsets.map(|offset| (leader + offset) % count).collect();
    match round % 4 {
        0 => from_leader(0..failures),
        1 => from_leader(1..1 + failures),
        2 => from_leader(0..1 + failures),
        _ => from_leader(0..count),
    }
}
