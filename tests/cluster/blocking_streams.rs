//! `XREAD` and `XREADGROUP` with `BLOCK` on a cluster: readers and consumers at all replicas, the
//! number of log entries, and entries while leaders are killed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::blocking::{call, reply, send, setting, wait_until_blocked};
use crate::client::Client;
use crate::replicas::Cluster;

fn entry_of(key: &str, id: &str, value: &str) -> String {
    let (id_len, len) = (id.len(), value.len());
    format!(
        "*1\r\n*2\r\n$1\r\n{key}\r\n*1\r\n*2\r\n${id_len}\r\n{id}\r\n\
         *2\r\n$1\r\nn\r\n${len}\r\n{value}\r\n"
    )
}

/// Connects clients to a replica, each of which sends this request, and waits until all wait.
fn blocked(cluster: &Cluster, at: usize, request: &str, count: usize) -> Vec<Client> {
    let connect = |_| {
        let mut client = Client::connect(cluster.address(at)).unwrap();
        send(&mut client, request);
        client
    };
    let clients = (0..count).map(connect).collect();
    wait_until_blocked(cluster, at, count);
    clients
}

#[test]
fn readers_of_every_replica_get_every_entry() {
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let count = setting("BOWLINE_BLOCKED", 300);
    let mut producer = Client::connect(cluster.address(0)).unwrap();
    call(&mut producer, "XADD s 1-1 n before");
    let mut readers: Vec<Vec<Client>> =
        (0..3).map(|at| blocked(&cluster, at, "XREAD BLOCK 0 STREAMS s $", count)).collect();
    let leader = cluster.leader();
    let before: u64 = cluster.info(leader, "raft_applied_index");
    for round in 0..3 {
        // Changes that add nothing wake no reader for good.
        call(&mut producer, "XDEL s 1-1");
        call(&mut producer, "XTRIM s MAXLEN 5");
        let id = format!("2-{round}");
        call(&mut producer, &format!("XADD s {id} n {round}"));
        for (at, readers) in readers.iter_mut().enumerate() {
            for reader in readers.iter_mut() {
                assert_eq!(reply(reader), entry_of("s", &id, &round.to_string()));
                send(reader, "XREAD BLOCK 0 STREAMS s $");
            }
            wait_until_blocked(&cluster, at, count);
        }
    }
    let entries = cluster.info::<u64>(leader, "raft_applied_index") - before;
    assert!(entries < 30, "{entries} entries for 9 writes and reads that wait");
    println!("{count} readers at each replica: {entries} entries");
}

#[test]
fn consumers_of_a_replica_take_turns_and_cost_one_try_for_each_entry() {
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let count = setting("BOWLINE_BLOCKED", 300);
    let entries = 20;
    for at in [cluster.leader(), (cluster.leader() + 1) % 3] {
        let mut producer = Client::connect(cluster.address(at)).unwrap();
        call(&mut producer, "FLUSHALL");
        call(&mut producer, "XGROUP CREATE s g $ MKSTREAM");
        let before: u64 = cluster.info(at, "raft_applied_index");
        let mut consumers = Vec::new();
        for number in 0..count {
            let mut client = Client::connect(cluster.address(at)).unwrap();
            send(&mut client, &format!("XREADGROUP GROUP g c{number} BLOCK 0 STREAMS s >"));
            consumers.push(client);
            if number < entries {
                wait_until_blocked(&cluster, at, number + 1);
            }
        }
        wait_until_blocked(&cluster, at, count);
        for (number, consumer) in consumers.iter_mut().take(entries).enumerate() {
            let id = format!("1-{}", number + 1);
            call(&mut producer, &format!("XADD s {id} n {number}"));
            assert_eq!(reply(consumer), entry_of("s", &id, &number.to_string()));
        }
        let used = cluster.info::<u64>(at, "raft_applied_index") - before;
        let most = count as u64 / 10 + 3 * entries as u64;
        assert!(used <= most, "{used} entries of the log for {entries} of the stream");
        // The first takes all that were added at once, and the others go on waiting.
        call(&mut producer, "MULTI");
        for number in 0..5 {
            call(&mut producer, &format!("XADD s 2-{number} n {number}"));
        }
        call(&mut producer, "EXEC");
        let got = reply(&mut consumers[entries]);
        assert_eq!(got.matches("$1\r\nn\r\n").count(), 5, "{got}");
        wait_until_blocked(&cluster, at, count - entries - 1);
        assert_eq!(call(&mut producer, "XGROUP DESTROY s g"), ":1\r\n");
        for consumer in &mut consumers[entries + 1..] {
            assert!(reply(consumer).starts_with("-NOGROUP "), "all are told");
        }
        drop(consumers);
        wait_until_blocked(&cluster, at, 0);
    }
}

/// A delivery: the id and the value of an entry.
type Delivery = (String, u64);

/// What the clients of the test with kills have seen.
#[derive(Default)]
struct Seen {
    added: BTreeSet<u64>,
    /// The deliveries to each consumer.
    delivered: BTreeMap<String, Vec<Delivery>>,
    /// Number of requests of consumers whose outcome is unknown.
    lost_replies: usize,
}

/// Adds numbered entries until `stop`, each number once.
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
        match connected.call(&[b"XADD", b"s", b"*", b"n", number.to_string().as_bytes()]) {
            Ok(reply) if reply.starts_with(b"$") => drop(seen.added.insert(number)),
            Ok(_) => {}
            Err(_) => client = None,
        }
    }
    seen
}

/// Reads new entries as a consumer until `stop`, by requests that wait.
fn consume(address: SocketAddr, name: &str, options: &str, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let request = format!("XREADGROUP GROUP g {name} {options} STREAMS s >");
    let request: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut client) = Client::connect(address) else {
            thread::sleep(Duration::from_millis(5));
            continue;
        };
        while !stop.load(Ordering::Relaxed) {
            match client.call(&request) {
                Ok(reply) if reply.starts_with(b"*1") => {
                    let text = String::from_utf8(reply).unwrap();
                    let words = text.split("\r\n").filter(|word| !word.starts_with(['*', '$']));
                    let words: Vec<&str> = words.collect();
                    let rows = words[1..].chunks_exact(3);
                    let rows = rows.map(|row| (row[0].to_owned(), row[2].parse().unwrap()));
                    seen.delivered.entry(name.to_owned()).or_default().extend(rows);
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

/// Ends the waits of all clients again and again, until `done`.
fn unblock_all(cluster: &Cluster, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        for at in 0..3 {
            let Ok(mut client) = Client::connect(cluster.address(at)) else { continue };
            let list = call(&mut client, "CLIENT LIST");
            for line in list.lines().filter(|line| line.contains(" flags=b ")) {
                let id = line.split("id=").nth(1).unwrap().split(' ').next().unwrap();
                call(&mut client, &format!("CLIENT UNBLOCK {id}"));
            }
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Returns the consumer of each pending entry, by id.
fn pending(client: &mut Client) -> BTreeMap<String, String> {
    let request: [&[u8]; 6] = [b"XPENDING", b"s", b"g", b"-", b"+", b"10000000"];
    let text = String::from_utf8(client.call_until_ok(&request)).unwrap();
    let words: Vec<&str> =
        text.split("\r\n").filter(|word| !word.starts_with(['*', '$'])).collect();
    let rows = words.chunks_exact(4);
    rows.map(|row| {
        assert_eq!(row[3], ":1", "entry {} was delivered once", row[0]);
        (row[0].to_owned(), row[1].to_owned())
    })
    .collect()
}

#[test]
fn entry_is_delivered_to_one_consumer_while_leaders_are_killed() {
    let rounds = setting("BOWLINE_BLOCKING_ROUNDS", 3);
    let mut cluster = Cluster::start_hasty(3, "auto", &[]);
    cluster.wait_until_all_serve();
    let mut client = Client::connect(cluster.address(0)).unwrap();
    assert_eq!(call(&mut client, "XGROUP CREATE s g $ MKSTREAM"), "+OK\r\n");
    let (next, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut threads = Vec::new();
    for at in 0..3 {
        let address = cluster.address(at);
        let (next, stopped) = (Arc::clone(&next), Arc::clone(&stop));
        threads.push(thread::spawn(move || produce(address, &next, &stopped)));
        for options in ["BLOCK 300", "COUNT 1 BLOCK 0", "COUNT 2 BLOCK 0", "BLOCK 0"] {
            let name = format!("{at}:{}", options.replace(' ', ":"));
            let stopped = Arc::clone(&stop);
            threads.push(thread::spawn(move || consume(address, &name, options, &stopped)));
        }
    }
    for _ in 0..rounds {
        thread::sleep(Duration::from_millis(300));
        let leader = cluster.leader();
        cluster.kill(leader);
        thread::sleep(Duration::from_millis(300));
        cluster.restart_one(leader);
        cluster.wait_until_all_serve();
    }
    stop.store(true, Ordering::Relaxed);
    // For the consumers that wait without a limit.
    let done = AtomicBool::new(false);
    let seen: Vec<Seen> = thread::scope(|scope| {
        scope.spawn(|| unblock_all(&cluster, &done));
        let seen = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        done.store(true, Ordering::Relaxed);
        seen
    });
    let mut all = Seen::default();
    for mut part in seen {
        all.added.append(&mut part.added);
        all.delivered.append(&mut part.delivered);
        all.lost_replies += part.lost_replies;
    }
    println!("{rounds} rounds: {}", check(&cluster, &all));
    let delivered: usize = all.delivered.values().map(Vec::len).sum();
    assert!(delivered > 10 * rounds, "only {delivered} delivered");
    cluster.wait_until_states_are_equal();
}

/// Checks what the clients have seen against the state. Returns the counts.
fn check(cluster: &Cluster, all: &Seen) -> String {
    let mut client = Client::connect(cluster.address(0)).unwrap();
    let pending = pending(&mut client);
    let mut delivered = BTreeSet::new();
    for (consumer, deliveries) in &all.delivered {
        for (id, number) in deliveries {
            assert!(delivered.insert(*number), "{number} was delivered twice");
            assert_eq!(pending.get(id), Some(consumer), "the only consumer of {id}");
        }
    }
    let left = call(&mut client, "XREADGROUP GROUP g last STREAMS s >");
    let left: BTreeSet<u64> = left.split("\r\n").filter_map(|word| word.parse().ok()).collect();
    assert!(delivered.is_disjoint(&left), "a delivered entry was still new");
    let lost = pending.len() - delivered.len();
    let count = |number: &&u64| !delivered.contains(number) && !left.contains(number);
    let missing = all.added.iter().filter(count).count();
    assert!(missing <= lost, "{missing} entries lost, {lost} pending without a reply");
    // A reply without `COUNT` has as many entries as were added meanwhile.
    assert!(lost == 0 || all.lost_replies > 0, "{lost} without a reply, but no reply was lost");
    format!(
        "{} added, {} delivered, {} left, {lost} delivered without a reply, {} replies lost",
        all.added.len(),
        delivered.len(),
        left.len(),
        all.lost_replies,
    )
}

#[test]
fn waiting_readers_and_consumers_survive_a_leader_change() {
    let mut cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let leader = cluster.leader();
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    let mut producer = Client::connect(cluster.address(others[0])).unwrap();
    assert_eq!(call(&mut producer, "XGROUP CREATE s g $ MKSTREAM"), "+OK\r\n");
    let mut waiting = others.map(|at| {
        let mut clients = blocked(&cluster, at, "XREAD BLOCK 0 STREAMS s $", 1);
        let mut consumer = Client::connect(cluster.address(at)).unwrap();
        send(&mut consumer, &format!("XREADGROUP GROUP g c{at} COUNT 1 BLOCK 0 STREAMS s >"));
        wait_until_blocked(&cluster, at, 2);
        clients.push(consumer);
        clients
    });
    cluster.kill(leader);
    cluster.wait_for("a leader", || cluster.leader_but(leader));
    producer.call_until_ok(&[b"SET", b"probe", b"1"]);
    for request in ["MULTI", "XADD s 5-1 n 1", "XADD s 5-2 n 2", "EXEC"] {
        call(&mut producer, request);
    }
    for clients in &mut waiting {
        let got = reply(&mut clients[0]);
        assert!(got.contains("5-1") && got.contains("5-2"), "{got}");
    }
    let served: BTreeSet<String> =
        waiting.iter_mut().map(|clients| reply(&mut clients[1])).collect();
    assert_eq!(served, BTreeSet::from([entry_of("s", "5-1", "1"), entry_of("s", "5-2", "2")]));
    // A graceful stop ends the waits with an error.
    send(&mut waiting[0][0], "XREAD BLOCK 0 STREAMS s $");
    wait_until_blocked(&cluster, others[0], 1);
    cluster.restart_one(leader);
    cluster.wait_until_all_serve();
    cluster.terminate(others[0]);
    let reply = reply(&mut waiting[0][0]);
    assert!(reply.starts_with("-UNBLOCKED "), "{reply}");
}
