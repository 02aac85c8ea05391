//! Streams: producers add entries, and the consumers of a group read and acknowledge them at all
//! replicas, while leaders are killed. No entry is lost, and ids never fall.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::client::Client;
use crate::replicas::Cluster;

/// Number of producers, and of consumers.
const WORKERS: usize = 3;
/// Number of kills of a leader.
const KILLS: usize = 3;
/// Number of acknowledged entries between two kills.
const ENTRIES_PER_KILL: usize = 60;

/// The id of an entry: a time in milliseconds and a sequence number.
type Id = (u64, u64);

/// The entries that a producer has added: their ids and values, in the order of the replies.
type Added = Vec<(Id, String)>;

fn parse_id(text: &str) -> Id {
    let (millis, sequence) = text.split_once('-').unwrap();
    (millis.parse().unwrap(), sequence.parse().unwrap())
}

/// Returns the bulk strings of a reply, in order; an error if the reply is one.
fn strings(client: &mut Client, request: &str) -> io::Result<Vec<String>> {
    let words: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
    let reply = String::from_utf8(client.call(&words)?).unwrap();
    if reply.starts_with('-') {
        return Err(io::Error::other(reply));
    }
    let mut lines = reply.split("\r\n");
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        if line.starts_with('$') && line != "$-1" {
            found.push(lines.next().unwrap().to_owned());
        }
    }
    Ok(found)
}

/// Returns the ids and values in a reply whose first `skipped` strings are something else.
fn entries(strings: &[String], skipped: usize) -> Vec<(Id, String)> {
    let rows = strings.get(skipped..).unwrap_or_default().chunks_exact(3);
    rows.map(|row| (parse_id(&row[0]), row[2].clone())).collect()
}

/// Adds entries at any available replica until `ends` is set. After an error, the entry may have
/// been added, so its value is not reused.
fn produce(
    worker: usize,
    addresses: &[SocketAddr],
    ends: &AtomicBool,
    has_added: &AtomicBool,
) -> Added {
    let (mut added, mut number) = (Added::new(), worker);
    while !ends.load(Ordering::Relaxed) {
        number += 1;
        let Ok(mut client) = Client::connect(addresses[number % addresses.len()]) else { continue };
        while !ends.load(Ordering::Relaxed) {
            number += 1;
            let value = format!("{worker}:{number}");
            let Ok(reply) = strings(&mut client, &format!("XADD s * n {value}")) else { break };
            added.push((parse_id(&reply[0]), value));
            has_added.store(added.len() >= ENTRIES_PER_KILL, Ordering::Relaxed);
        }
    }
    added
}

/// Reads and acknowledges entries at any available replica, until the producers are done and
/// nothing is left to read. Returns the entries in the order in which they were read.
fn consume(worker: usize, addresses: &[SocketAddr], ends: &AtomicBool) -> Vec<(Id, String)> {
    let (mut read, mut turn) = (Vec::new(), worker);
    let request = format!("XREADGROUP GROUP g c{worker} COUNT 10 STREAMS s");
    'connect: loop {
        turn += 1;
        let Ok(mut client) = Client::connect(addresses[turn % addresses.len()]) else { continue };
        // First the entries that were delivered before the connection was lost, then new ones.
        let mut after = "0";
        loop {
            let is_last = ends.load(Ordering::Relaxed);
            let Ok(reply) = strings(&mut client, &format!("{request} {after}")) else {
                continue 'connect;
            };
            let got = entries(&reply, 1);
            if got.is_empty() && after == ">" && is_last {
                return read;
            }
            if got.is_empty() {
                after = ">";
                continue;
            }
            let ids: Vec<&str> = reply[1..].chunks_exact(3).map(|row| row[0].as_str()).collect();
            let acknowledges = format!("XACK s g {}", ids.join(" "));
            read.extend(got);
            if strings(&mut client, &acknowledges).is_err() {
                continue 'connect;
            }
        }
    }
}

fn consumers_of_a_group_read_every_entry(threads: &'static str) {
    let mut cluster = Cluster::start_hasty(3, threads, &[]);
    cluster.wait_until_all_serve();
    let addresses: Vec<SocketAddr> = (0..3).map(|at| cluster.address(at)).collect();
    let mut client = Client::connect(addresses[0]).unwrap();
    assert_eq!(
        client.call(&[b"XGROUP", b"CREATE", b"s", b"g", b"0", b"MKSTREAM"]).unwrap(),
        b"+OK\r\n"
    );
    let has_added: [AtomicBool; WORKERS] = Default::default();
    let (addresses, has_added) = (&addresses[..], &has_added);
    let (no_more, all_added) = (&AtomicBool::new(false), &AtomicBool::new(false));
    let (added, read) = thread::scope(|scope| {
        let producers: Vec<_> = (0..WORKERS)
            .map(|at| scope.spawn(move || produce(at, addresses, no_more, &has_added[at])))
            .collect();
        let consumers: Vec<_> =
            (0..WORKERS).map(|at| scope.spawn(move || consume(at, addresses, all_added))).collect();
        for _ in 0..KILLS {
            let leader = cluster.leader();
            let before = length(&mut Client::connect(addresses[leader]).unwrap());
            cluster.wait_for("new entries", || {
                let client = Client::connect(addresses[leader]).ok();
                (length(&mut client?) > before + ENTRIES_PER_KILL).then_some(())
            });
            cluster.kill(leader);
            cluster.wait_for("another leader", || cluster.leader_but(leader));
            cluster.restart_one(leader);
            cluster.wait_until_all_serve();
        }
        cluster.wait_for("entries of all producers", || {
            has_added.iter().all(|has| has.load(Ordering::Relaxed)).then_some(())
        });
        no_more.store(true, Ordering::Relaxed);
        let added: Vec<Added> = producers.into_iter().map(|it| it.join().unwrap()).collect();
        all_added.store(true, Ordering::Relaxed);
        let read: Vec<_> = consumers.into_iter().flat_map(|it| it.join().unwrap()).collect();
        (added, read)
    });
    check(&cluster, &added, &read);
}

fn length(client: &mut Client) -> usize {
    let reply = client.call_until_ok(&[b"XLEN", b"s"]);
    String::from_utf8(reply).unwrap()[1..].trim().parse().unwrap()
}

fn check(cluster: &Cluster, added: &[Added], read: &[(Id, String)]) {
    let mut client = Client::connect(cluster.address(0)).unwrap();
    let stored = strings(&mut client, "XRANGE s - +").unwrap();
    let stored: Vec<(Id, String)> = entries(&stored, 0);
    assert!(stored.is_sorted_by(|one, other| one.0 < other.0), "ids ascend");
    let by_id: BTreeMap<Id, &String> = stored.iter().map(|(id, value)| (*id, value)).collect();
    for producer in added {
        assert!(producer.is_sorted_by(|one, other| one.0 < other.0), "in the order of the replies");
        for (id, value) in producer {
            assert_eq!(by_id.get(id), Some(&value), "an acknowledged entry");
        }
    }
    for (id, value) in read {
        assert_eq!(by_id.get(id), Some(&value), "a delivered entry");
    }
    let seen: BTreeSet<Id> = read.iter().map(|(id, _)| *id).collect();
    let missing: Vec<&Id> = by_id.keys().filter(|id| !seen.contains(id)).collect();
    assert!(missing.is_empty(), "{missing:?} of {} were never delivered", stored.len());
    let pending = client.call_until_ok(&[b"XPENDING", b"s", b"g"]);
    assert_eq!(String::from_utf8(pending).unwrap(), "*4\r\n:0\r\n$-1\r\n$-1\r\n*-1\r\n");
    let groups = client.call_until_ok(&[b"XINFO", b"GROUPS", b"s"]);
    let groups = String::from_utf8(groups).unwrap();
    let count = stored.len();
    assert!(
        groups.contains(&format!("entries-read\r\n:{count}\r\n$3\r\nlag\r\n:0\r\n")),
        "{groups}"
    );
    cluster.wait_until_states_are_equal();
}

#[test]
fn consumer_groups_lose_no_entry_when_leaders_are_killed() {
    consumers_of_a_group_read_every_entry("auto");
}

#[test]
fn consumer_groups_lose_no_entry_with_dedicated_threads() {
    consumers_of_a_group_read_every_entry("dedicated");
}
