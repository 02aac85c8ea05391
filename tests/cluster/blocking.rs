//! Blocking pops on a cluster: the number of log entries, the order of the clients, and elements
//! while replicas are killed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::client::{Client, command};
use crate::replicas::Cluster;

/// Returns the number in an environment variable, or `default`.
pub(crate) fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

pub(crate) fn call(client: &mut Client, request: &str) -> String {
    let arguments: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
    String::from_utf8(client.call(&arguments).unwrap()).unwrap()
}

pub(crate) fn send(client: &mut Client, request: &str) {
    let arguments: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
    client.send(&command(&arguments)).unwrap();
}

pub(crate) fn reply(client: &mut Client) -> String {
    String::from_utf8(client.reply().unwrap()).unwrap()
}

fn popped(key: &str, element: &str) -> String {
    format!("*2\r\n${}\r\n{key}\r\n${}\r\n{element}\r\n", key.len(), element.len())
}

/// Waits until this number of clients of a replica wait.
pub(crate) fn wait_until_blocked(cluster: &Cluster, at: usize, count: usize) {
    cluster.wait_for("waiting clients", || {
        let mut client = Client::connect(cluster.address(at)).ok()?;
        let text = String::from_utf8(client.call(&[b"INFO", b"clients"]).ok()?).ok()?;
        text.contains(&format!("\nblocked_clients:{count}\r")).then_some(())
    });
}

#[test]
fn waiting_clients_cost_one_try_for_each_element_and_keep_their_order() {
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let count = setting("BOWLINE_BLOCKED", 300);
    let pushes = 20;
    for at in [cluster.leader(), (cluster.leader() + 1) % 3] {
        let before: u64 = cluster.info(at, "raft_applied_index");
        let mut clients: Vec<Client> = Vec::new();
        for number in 0..count {
            let mut client = Client::connect(cluster.address(at)).unwrap();
            send(&mut client, "BLPOP queue 0");
            clients.push(client);
            if number < pushes {
                wait_until_blocked(&cluster, at, number + 1);
            }
        }
        wait_until_blocked(&cluster, at, count);
        let entries = cluster.info::<u64>(at, "raft_applied_index") - before;
        // A cluster that has just started adds some of its own.
        assert!(entries <= count as u64 / 10, "{entries} entries for {count} clients that wait");
        let mut producer = Client::connect(cluster.address(at)).unwrap();
        for (number, client) in clients.iter_mut().take(pushes).enumerate() {
            call(&mut producer, &format!("RPUSH queue {number}"));
            assert_eq!(reply(client), popped("queue", &number.to_string()));
        }
        let entries = cluster.info::<u64>(at, "raft_applied_index") - before;
        let most = count as u64 / 10 + 3 * pushes as u64;
        assert!(entries <= most, "{entries} entries for {pushes} elements");
        let rest = count - pushes;
        wait_until_blocked(&cluster, at, rest);
        let elements: Vec<String> = (0..rest).map(|number| number.to_string()).collect();
        call(&mut producer, &format!("RPUSH queue {}", elements.join(" ")));
        let served: BTreeSet<String> = clients[pushes..].iter_mut().map(reply).collect();
        assert_eq!(served.len(), rest, "one push serves all");
        let entries = cluster.info::<u64>(at, "raft_applied_index") - before;
        println!("replica {at}: {entries} entries for {count} clients and as many elements");
    }
}

#[test]
fn clients_of_every_replica_are_woken_by_all_commands_that_add_elements() {
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    for at in 0..3 {
        let mut waiting = Client::connect(cluster.address(at)).unwrap();
        let mut producer = Client::connect(cluster.address((at + 1) % 3)).unwrap();
        for (wait, adds, wanted) in [
            ("BLPOP a b 0", &["RPUSH b 1"][..], popped("b", "1")),
            ("BRPOP a 0", &["MULTI", "RPUSH a 1 2", "EXEC"], popped("a", "2")),
            ("BLPOP b 0", &["RENAME a b"], popped("b", "1")),
            ("BLPOP b 0", &["RPUSH a 7", "COPY a b"], popped("b", "7")),
            ("BLPOP b 0", &["LMOVE a b LEFT LEFT"], popped("b", "7")),
            ("BRPOPLPUSH a b 0", &["SET a x", "DEL a", "LPUSH a 5"], "$1\r\n5\r\n".to_owned()),
            ("BLMPOP 0 1 a LEFT COUNT 3", &["BRPOPLPUSH b a 0"], {
                "*2\r\n$1\r\na\r\n*1\r\n$1\r\n5\r\n".to_owned()
            }),
            (
                "BZPOPMIN a z 0",
                &["ZADD z 2 m"],
                "*3\r\n$1\r\nz\r\n$1\r\nm\r\n$1\r\n2\r\n".to_owned(),
            ),
            ("BZPOPMAX z 0", &["ZADD y 2 m", "ZUNIONSTORE z 1 y"], {
                "*3\r\n$1\r\nz\r\n$1\r\nm\r\n$1\r\n2\r\n".to_owned()
            }),
        ] {
            send(&mut waiting, wait);
            wait_until_blocked(&cluster, at, 1);
            for add in adds {
                let reply = call(&mut producer, add);
                assert!(!reply.starts_with('-'), "{add}: {reply}");
            }
            assert_eq!(reply(&mut waiting), wanted, "{wait} at replica {at}, {adds:?}");
        }
        call(&mut producer, "FLUSHALL");
    }
}

#[test]
fn leader_change_ends_no_wait() {
    let mut cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let leader = cluster.leader();
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    let mut waiting = others.map(|at| {
        let mut client = Client::connect(cluster.address(at)).unwrap();
        send(&mut client, "BLPOP queue 0");
        wait_until_blocked(&cluster, at, 1);
        client
    });
    cluster.kill(leader);
    let mut producer = Client::connect(cluster.address(others[0])).unwrap();
    // It is not sent again: a repeated push would add two elements.
    cluster.wait_for("a leader", || cluster.leader_but(leader));
    producer.call_until_ok(&[b"SET", b"probe", b"1"]);
    assert_eq!(call(&mut producer, "RPUSH queue 1 2"), ":2\r\n");
    let served: BTreeSet<String> = waiting.iter_mut().map(reply).collect();
    assert_eq!(served, BTreeSet::from([popped("queue", "1"), popped("queue", "2")]));
    // A graceful stop ends the waits with an error.
    send(&mut waiting[0], "BLPOP queue 0");
    wait_until_blocked(&cluster, others[0], 1);
    cluster.restart_one(leader);
    cluster.wait_until_all_serve();
    cluster.terminate(others[0]);
    let reply = reply(&mut waiting[0]);
    assert!(reply.starts_with("-UNBLOCKED "), "{reply}");
}

/// What the clients of the test with kills have seen.
#[derive(Default)]
struct Seen {
    pushed: BTreeSet<u64>,
    /// Elements whose push may have been applied.
    maybe_pushed: BTreeSet<u64>,
    /// How often each element was popped.
    popped: BTreeMap<u64, usize>,
    /// Number of pops whose outcome is unknown, each of which may have taken one element.
    lost_replies: usize,
}

/// Pushes numbers until `stop`, each once.
fn produce(address: SocketAddr, next: &AtomicU64, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut client = None;
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(1));
        if client.is_none() {
            client = Client::connect(address).ok();
        }
        let Some(connected) = &mut client else { continue };
        let number = next.fetch_add(1, Ordering::Relaxed);
        match connected.call(&[b"RPUSH", b"jobs", number.to_string().as_bytes()]) {
            Ok(reply) if reply.starts_with(b":") => drop(seen.pushed.insert(number)),
            Ok(reply) if reply.starts_with(b"-UNCERTAIN") => {
                seen.maybe_pushed.insert(number);
            }
            Ok(_) => {}
            Err(_) => {
                seen.maybe_pushed.insert(number);
                client = None;
            }
        }
    }
    seen
}

/// Pops until `stop`, by requests that wait.
fn consume(address: SocketAddr, request: &[&[u8]], stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut client) = Client::connect(address) else {
            thread::sleep(Duration::from_millis(5));
            continue;
        };
        while !stop.load(Ordering::Relaxed) {
            match client.call(request) {
                Ok(reply) if reply.starts_with(b"*2") => {
                    let text = String::from_utf8(reply).unwrap();
                    let element = text.trim_end().rsplit("\r\n").next().unwrap();
                    *seen.popped.entry(element.parse().unwrap()).or_default() += 1;
                }
                Ok(reply) if reply.starts_with(b"-UNCERTAIN") => seen.lost_replies += 1,
                // Nothing in time, or certainly not applied.
                Ok(_) => {}
                Err(_) => {
                    seen.lost_replies += 1;
                    break;
                }
            }
        }
    }
    seen
}

#[test]
fn element_is_popped_once_or_still_there_while_replicas_are_killed() {
    let rounds = setting("BOWLINE_BLOCKING_ROUNDS", 3);
    let mut cluster = Cluster::start_hasty(3, "auto", &[]);
    cluster.wait_until_all_serve();
    let (next, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut threads = Vec::new();
    for at in 0..3 {
        let address = cluster.address(at);
        let (next, stopped) = (Arc::clone(&next), Arc::clone(&stop));
        threads.push(thread::spawn(move || produce(address, &next, &stopped)));
        for request in
            [&[b"BLPOP" as &[u8], b"jobs", b"0.3"][..], &[b"BRPOP", b"no", b"jobs", b"0"]]
        {
            for _ in 0..2 {
                let stopped = Arc::clone(&stop);
                threads.push(thread::spawn(move || consume(address, request, &stopped)));
            }
        }
    }
    for round in 0..rounds {
        thread::sleep(Duration::from_millis(300));
        let leader = cluster.leader();
        let victim = if round % 2 == 0 { leader } else { (leader + 1) % 3 };
        cluster.kill(victim);
        thread::sleep(Duration::from_millis(300));
        cluster.restart_one(victim);
        cluster.wait_until_all_serve();
    }
    stop.store(true, Ordering::Relaxed);
    // For the consumers that wait without a limit.
    let mut client = Client::connect(cluster.address(0)).unwrap();
    let done = AtomicBool::new(false);
    let seen: Vec<Seen> = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for at in 0..3 {
                    let Ok(mut client) = Client::connect(cluster.address(at)) else { continue };
                    let list = String::from_utf8(client.call(&[b"CLIENT", b"LIST"]).unwrap());
                    for line in list.unwrap().lines().filter(|line| line.contains(" flags=b ")) {
                        let id = line.split("id=").nth(1).unwrap().split(' ').next().unwrap();
                        call(&mut client, &format!("CLIENT UNBLOCK {id}"));
                    }
                }
                thread::sleep(Duration::from_millis(10));
            }
        });
        let seen = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        done.store(true, Ordering::Relaxed);
        seen
    });
    let mut all = Seen::default();
    for mut part in seen {
        all.pushed.append(&mut part.pushed);
        all.maybe_pushed.append(&mut part.maybe_pushed);
        all.lost_replies += part.lost_replies;
        for (element, times) in part.popped {
            *all.popped.entry(element).or_default() += times;
        }
    }
    let left = client.call_until_ok(&[b"LRANGE", b"jobs", b"0", b"-1"]);
    let left: Vec<u64> = String::from_utf8(left)
        .unwrap()
        .split("\r\n")
        .filter_map(|line| line.parse().ok())
        .collect();
    for element in left {
        *all.popped.entry(element).or_default() += 1;
    }
    let repeated: Vec<_> = all.popped.iter().filter(|(_, times)| **times > 1).collect();
    assert!(repeated.is_empty(), "popped more than once: {repeated:?}");
    let known = |element: &&u64| all.pushed.contains(element) || all.maybe_pushed.contains(element);
    assert!(all.popped.keys().all(|element| known(&element)), "popped, but never pushed");
    let lost = all.pushed.iter().filter(|element| !all.popped.contains_key(element)).count();
    println!(
        "{rounds} rounds: {} pushed, {} uncertain; {} popped or left; {lost} taken without a \
         reply, {} replies lost",
        all.pushed.len(),
        all.maybe_pushed.len(),
        all.popped.len(),
        all.lost_replies,
    );
    assert!(lost <= all.lost_replies, "{lost} elements lost, {} replies", all.lost_replies);
    assert!(all.pushed.len() > 10 * rounds, "only {} pushed", all.pushed.len());
    cluster.wait_until_states_are_equal();
}

#[test]
fn wait_counts_the_replicas_that_have_the_write() {
    let mut cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let leader = cluster.leader();
    let mut client = Client::connect(cluster.address(leader)).unwrap();
    call(&mut client, "SET k 1");
    assert_eq!(call(&mut client, "WAIT 2 0"), ":2\r\n");
    assert_eq!(call(&mut client, "WAITAOF 1 2 0"), "*2\r\n:1\r\n:2\r\n");
    let lost = (leader + 1) % 3;
    cluster.kill(lost);
    call(&mut client, "SET k 2");
    assert_eq!(call(&mut client, "WAIT 1 0"), ":1\r\n", "a majority has it");
    assert_eq!(call(&mut client, "WAIT 2 100"), ":1\r\n");
    send(&mut client, "WAIT 2 0");
    wait_until_blocked(&cluster, leader, 1);
    cluster.restart_one(lost);
    assert_eq!(reply(&mut client), ":2\r\n");
    let mut other = Client::connect(cluster.address(lost)).unwrap();
    other.call_until_ok(&[b"SET", b"k", b"3"]);
    assert_eq!(call(&mut other, "WAIT 2 0"), ":1\r\n", "a follower replies at once");
}
