//! `CHANGES`: consumers that follow the changes of keys on every replica, while replicas are killed
//! and the leader changes, and after the history was lost.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::client::Client;
use crate::replicas::Cluster;

/// Number of writers, each with keys of its own.
const WRITERS: usize = 2;
/// Number of kills of a replica.
const KILLS: usize = 4;

/// A reply, with the elements of its arrays.
#[derive(Debug, Clone, PartialEq)]
enum Reply {
    Integer(u64),
    /// A string; `None` for nil.
    Text(Option<String>),
    Error(String),
    Array(Vec<Reply>),
}

impl Reply {
    fn parse(bytes: &[u8]) -> Reply {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Reply::take(&mut text.split("\r\n"))
    }

    fn take<'l>(lines: &mut impl Iterator<Item = &'l str>) -> Reply {
        let line = lines.next().unwrap();
        let rest = &line[1..];
        match &line[..1] {
            ":" => Reply::Integer(rest.parse().unwrap()),
            "$" => Reply::Text((rest != "-1").then(|| lines.next().unwrap().to_owned())),
            "+" => Reply::Text(Some(rest.to_owned())),
            "-" => Reply::Error(rest.to_owned()),
            "*" => Reply::Array((0..rest.parse().unwrap()).map(|_| Reply::take(lines)).collect()),
            _ => panic!("{line}"),
        }
    }

    fn array<const N: usize>(self) -> [Reply; N] {
        match self {
            Reply::Array(parts) => parts.try_into().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn list(self) -> Vec<Reply> {
        match self {
            Reply::Array(parts) => parts,
            other => panic!("{other:?}"),
        }
    }

    fn integer(&self) -> u64 {
        match self {
            Reply::Integer(number) => *number,
            other => panic!("{other:?}"),
        }
    }

    fn text(self) -> Option<String> {
        match self {
            Reply::Text(text) => text,
            other => panic!("{other:?}"),
        }
    }
}

fn call(client: &mut Client, request: &str) -> io::Result<Reply> {
    let words: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
    client.call(&words).map(|reply| Reply::parse(&reply))
}

/// Reads all keys with the prefix `in:`. Returns the revision of the first page, and the revisions
/// of the keys.
fn all_keys(client: &mut Client) -> (u64, BTreeMap<String, u64>) {
    let (mut cursor, mut keys, mut first) = ("-".to_owned(), BTreeMap::new(), None);
    loop {
        let request = format!("KEYRANGE {cursor} + PREFIX in: LIMIT 7 WITHVALUES");
        let words: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
        let [next, revision, page] = Reply::parse(&client.call_until_ok(&words)).array();
        first.get_or_insert(revision.integer());
        for entry in page.list() {
            let [key, revision, _] = entry.array();
            keys.insert(key.text().unwrap(), revision.integer());
        }
        match next.text() {
            Some(next) => cursor = next,
            None => return (first.unwrap(), keys),
        }
    }
}

/// A consumer's copy of the keys, made from a list of keys and the changes after it.
struct Copy {
    /// The revision to continue from.
    revision: u64,
    keys: BTreeMap<String, u64>,
    /// All changes: revision, event and key.
    changes: Vec<(u64, String, Option<String>)>,
}

impl Copy {
    fn of(client: &mut Client) -> Copy {
        let (revision, keys) = all_keys(client);
        Copy { revision, keys, changes: Vec::new() }
    }

    /// Applies a page of changes.
    fn apply(&mut self, reply: Reply) {
        let [next, changes] = reply.array();
        let mut last = self.revision;
        for change in changes.list() {
            let [revision, event, key] = change.array();
            let (revision, event) = (revision.integer(), event.text().unwrap());
            assert!(revision > self.revision && revision >= last, "{revision} after {last}");
            last = revision;
            let key = key.text();
            self.changes.push((revision, event.clone(), key.clone()));
            let Some(key) = key else {
                assert_eq!(event, "flushall");
                self.keys.clear();
                continue;
            };
            if ["del", "expired", "rename_from"].contains(&event.as_str()) {
                self.keys.remove(&key);
            } else {
                self.keys.insert(key, revision);
            }
        }
        assert!(next.integer() >= last, "it never goes back");
        self.revision = next.integer();
    }
}

/// Sets a flag when it is dropped.
struct StopOnDrop<'f>(&'f AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writes keys with the prefix `in:` at any available replica, until `ends` is set.
fn write(writer: usize, addresses: &[SocketAddr], ends: &AtomicBool) {
    let mut number = 0;
    'connect: while !ends.load(Ordering::Relaxed) {
        number += 1;
        let Ok(mut client) = Client::connect(addresses[number % addresses.len()]) else { continue };
        while !ends.load(Ordering::Relaxed) {
            number += 1;
            let key = format!("in:{writer}:{}", number * 7 % 30);
            let other = format!("in:{writer}:{}", number * 11 % 30);
            for request in match number % 9 {
                0 => vec![format!("DEL {key} {other}")],
                1 => vec![
                    "MULTI".to_owned(),
                    format!("SET {key} 1"),
                    format!("DEL {other}"),
                    "EXEC".to_owned(),
                ],
                2 => vec![format!("SET {key} v PX 20")],
                3 => vec![format!("RENAME {key} {other}")],
                4 => vec![
                    format!("SET out:{key} v"),
                    format!("DEL {key}"),
                    format!("RPUSH {key} a b"),
                ],
                5 => vec![format!("MSET {key} 1 {other} 2")],
                6 if number % 90 == 6 => vec!["FLUSHALL".to_owned()],
                6 => vec![format!("RPOP {key}")],
                _ => vec![format!("INCRBY in:count:{writer}:{} 1", number % 5)],
            } {
                if call(&mut client, &request).is_err() {
                    continue 'connect;
                }
            }
        }
    }
}

/// Follows the changes at any available replica, until it has seen the change of the key `in:end`.
fn follow(mut copy: Copy, count: usize, addresses: &[SocketAddr]) -> Copy {
    let mut at = 0;
    loop {
        at += 1;
        let Ok(mut client) = Client::connect(addresses[at % addresses.len()]) else { continue };
        // Several pages per replica, so that every replica is used.
        for _ in 0..50 {
            let request =
                format!("CHANGES FROM {} PREFIX in: COUNT {count} BLOCK 200", copy.revision);
            match call(&mut client, &request) {
                Ok(Reply::Error(error)) => {
                    assert!(error.starts_with("CLUSTERDOWN"), "{error}");
                    break;
                }
                Ok(page) => copy.apply(page),
                Err(_) => break,
            }
            if copy.keys.contains_key("in:end") {
                return copy;
            }
        }
    }
}

fn consumer_misses_no_change(threads: &'static str) {
    let mut cluster = Cluster::start_hasty(3, threads, &[]);
    cluster.wait_until_all_serve();
    let addresses: Vec<SocketAddr> = (0..3).map(|at| cluster.address(at)).collect();
    let (addresses, ends) = (&addresses[..], &AtomicBool::new(false));
    thread::scope(|scope| {
        // Also if this thread panics.
        let stop = StopOnDrop(ends);
        let writers =
            (0..WRITERS).map(|writer| scope.spawn(move || write(writer, addresses, ends)));
        let writers: Vec<_> = writers.collect();
        // The list and the changes after it, while keys change.
        let mut client = Client::connect(addresses[1]).unwrap();
        let consumers = [1, 20].map(|count| {
            let copy = Copy::of(&mut client);
            scope.spawn(move || (copy.revision, follow(copy, count, addresses)))
        });
        for round in 0..KILLS {
            thread::sleep(Duration::from_millis(300));
            let victim = if round % 2 == 0 { cluster.leader() } else { round % 3 };
            cluster.kill(victim);
            thread::sleep(Duration::from_millis(300));
            cluster.restart();
            cluster.wait_until_all_serve();
        }
        drop(stop);
        for writer in writers {
            writer.join().unwrap();
        }
        let mut client = Client::connect(addresses[0]).unwrap();
        // Keys with an expiration expire first. `INFO` counts them only if there is a key.
        cluster.wait_until_all_serve();
        cluster.wait_for("all expirations", || {
            let info = client.call(&[b"INFO", b"keyspace"]).ok()?;
            String::from_utf8(info).unwrap().contains(",expires=0,").then_some(())
        });
        assert_eq!(client.call_until_ok(&[b"SET", b"in:end", b"1"]), b"+OK\r\n");
        let (_, keys) = all_keys(&mut client);
        // One replica's history from the beginning.
        let mut all = Copy { revision: 0, keys: BTreeMap::new(), changes: Vec::new() };
        while !all.keys.contains_key("in:end") {
            let request = format!("CHANGES FROM {} PREFIX in: COUNT 4096", all.revision);
            all.apply(call(&mut client, &request).unwrap());
        }
        assert!(all.changes.len() > 100, "{} changes", all.changes.len());
        for consumer in consumers {
            let (start, copy) = consumer.join().unwrap();
            assert_eq!(copy.keys, keys);
            let later = all.changes.iter().filter(|(revision, ..)| *revision > start);
            assert!(copy.changes.iter().eq(later), "a change was missed or repeated");
        }
    });
}

#[test]
fn consumer_misses_no_change_while_replicas_are_killed_with_thread_per_stage() {
    consumer_misses_no_change("dedicated");
}

#[test]
fn consumer_misses_no_change_while_replicas_are_killed_with_shared_stage_thread() {
    consumer_misses_no_change("fused");
}

#[test]
fn acknowledged_write_is_in_the_changes_of_every_replica() {
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let mut clients: Vec<Client> =
        (0..3).map(|at| Client::connect(cluster.address(at)).unwrap()).collect();
    let mut revision = call(&mut clients[0], "CHANGES FROM $").unwrap().array::<2>()[0].integer();
    for number in 0..150 {
        let (writer, reader) = (number % 3, number / 3 % 3);
        let key = format!("k{number}");
        let set = call(&mut clients[writer], &format!("SET {key} v{number}"));
        assert_eq!(set.unwrap(), Reply::Text(Some("OK".to_owned())));
        let page = call(&mut clients[reader], &format!("CHANGES FROM {revision} VALUES"));
        let [next, changes] = page.unwrap().array();
        let [change] = changes.array();
        let [changed_at, event, found, value] = change.array();
        assert_eq!((event.text().unwrap(), found.text().unwrap()), ("set".to_owned(), key));
        assert_eq!(value.text().unwrap(), format!("v{number}"));
        assert!(changed_at.integer() > revision && changed_at == next);
        revision = next.integer();
    }
    // Clients of all replicas wait for one key.
    for client in &mut clients {
        let request = format!("CHANGES FROM {revision} PREFIX one: BLOCK 0");
        let words: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
        client.send(&crate::client::command(&words)).unwrap();
    }
    for at in 0..3 {
        let mut client = Client::connect(cluster.address(at)).unwrap();
        cluster.wait_for("a blocked client", || {
            let info = String::from_utf8(client.call(&[b"INFO", b"clients"]).unwrap()).unwrap();
            info.contains("blocked_clients:1").then_some(())
        });
    }
    let mut writer = Client::connect(cluster.address(0)).unwrap();
    call(&mut writer, "SET two: v").unwrap();
    call(&mut writer, "SET one:1 v").unwrap();
    let replies: Vec<Reply> =
        clients.iter_mut().map(|client| Reply::parse(&client.reply().unwrap())).collect();
    assert!(replies.iter().all(|reply| *reply == replies[0]), "{replies:?}");
    let [_, changes] = replies[0].clone().array();
    assert_eq!(changes.list().len(), 1);
    call(&mut writer, "MULTI").unwrap();
    let refused = call(&mut writer, "CHANGES FROM 0").unwrap();
    assert_eq!(refused, Reply::Error("ERR Command not allowed inside a transaction".to_owned()));
}

/// Returns the revision that the error `HISTORYGONE` names as the oldest to continue from.
fn oldest(reply: Reply) -> u64 {
    let Reply::Error(error) = reply else { panic!("{reply:?}") };
    assert!(error.starts_with("HISTORYGONE the changes after revision "), "{error}");
    let (_, rest) = error.split_once("those after revision ").unwrap();
    rest.split_once(';').unwrap().0.parse().unwrap()
}

#[test]
fn request_for_a_lost_revision_gets_historygone() {
    let flags = &["--changes-history-memory", "1mb"];
    let mut cluster = Cluster::start_with(3, "auto", flags);
    cluster.wait_until_all_serve();
    let mut client = Client::connect(cluster.address(0)).unwrap();
    let write = |client: &mut Client, from: usize| {
        let keys: Vec<String> = (from..from + 2_000).map(|key| format!("in:{key} v")).collect();
        call(client, &format!("MSET {}", keys.join(" "))).unwrap();
    };
    (0..20).for_each(|round| write(&mut client, round * 100));
    for at in 0..3 {
        let mut client = Client::connect(cluster.address(at)).unwrap();
        let start = oldest(call(&mut client, "CHANGES FROM 1").unwrap());
        assert_eq!(
            oldest(call(&mut client, &format!("CHANGES FROM {}", start - 1)).unwrap()),
            start
        );
        let [next, changes] = call(&mut client, &format!("CHANGES FROM {start}")).unwrap().array();
        // The clock may have advanced in between, which has a revision too.
        assert!(next.integer() > start);
        assert_eq!(changes.list().len(), 2_000, "one MSET");
        let memory: u64 = cluster.info(at, "changes_history_bytes");
        assert!((1 << 19..1 << 20).contains(&memory), "{memory}");
        assert_eq!(cluster.info::<u64>(at, "changes_history_start"), start);
        // Does what the error message recommends.
        let mut copy = Copy::of(&mut client);
        write(&mut client, 5_000);
        let page =
            call(&mut client, &format!("CHANGES FROM {} PREFIX in:", copy.revision)).unwrap();
        copy.apply(page);
        assert_eq!(copy.keys, all_keys(&mut client).1);
    }
    // A replica begins a new history after the snapshot from which it starts.
    assert_eq!(call(&mut client, "SAVE").unwrap(), Reply::Text(Some("OK".to_owned())));
    cluster.wait_for("a snapshot", || {
        (cluster.info::<u64>(0, "raft_snapshot_index") > 0).then_some(())
    });
    cluster.kill(0);
    cluster.restart();
    cluster.wait_until_all_serve();
    let mut client = Client::connect(cluster.address(0)).unwrap();
    let start = oldest(call(&mut client, "CHANGES FROM 1").unwrap());
    let [_, changes] = call(&mut client, &format!("CHANGES FROM {start}")).unwrap().array();
    let keys = changes.list().into_iter().map(|change| change.array::<3>()[2].clone().text());
    assert!(keys.clone().count() > 0 && keys.flatten().all(|key| key == "probe"));
}
