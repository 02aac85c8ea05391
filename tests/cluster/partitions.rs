//! Real servers whose connections to one another are delayed, cut and healed, and whose processes
//! are suspended. The tests check which replica must lead and which must not, what replies clients
//! get, and that memory stays bounded. No acknowledged write is lost, and none is applied twice.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bowline::sim::checkers::linearizability::STEPS_MAX;

use crate::client::{Client, command};
use crate::load::{self, Notes, StopAtEnd};
use crate::proxies::{Flow, Wires};
use crate::replicas::Cluster;
use crate::resident_bytes;

/// Duration of the load before an event, and after the event is over.
const LOAD: Duration = Duration::from_millis(300);
/// Duration of a partition that is longer than a write waits for its outcome: every waiting client
/// must have a reply by then.
const LONG_CUT: Duration = Duration::from_millis(4_500);
/// Duration of a partition that is longer than an election timeout and the check-quorum window.
const CUT: Duration = Duration::from_millis(2_500);
/// If no election occurs within this time, the earlier events cause none.
const CALM: Duration = Duration::from_millis(1_500);
/// Maximum growth of a replica's memory, apart from its log: bytes held for clients (64 MiB) and
/// for peers, and free memory that the allocator keeps.
const MEMORY_MAX: u64 = 448 << 20;

/// Index of the next load. Each load has its own keys, because a client may read only its own
/// values.
static ROUND: AtomicU64 = AtomicU64::new(0);

/// Runs `test` while clients write and read on all replicas, then checks their history.
fn under_load(cluster: &Cluster, test: impl FnOnce()) {
    let notes = Notes::default();
    let round = ROUND.fetch_add(1, Ordering::Relaxed);
    let stop = AtomicBool::new(false);
    let addresses: Vec<SocketAddr> = (0..3).map(|at| cluster.address(at)).collect();
    thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for (name, address) in (0..).zip([0, 1, 2].map(|at| addresses[at])) {
            let (notes, stop) = (&notes, &stop);
            scope.spawn(move || load::run(address, name, round, notes, stop));
        }
        thread::sleep(LOAD);
        test();
        cluster.wait_until_all_serve();
        thread::sleep(LOAD);
        cluster.wait_for("an acknowledged write", || notes.is_any_acknowledged());
    });
    load::read_all(&addresses, round, &notes);
    if let Err(error) = notes.history().check(STEPS_MAX) {
        panic!("{error}\n{}", cluster.logs());
    }
}

/// Asserts that `test` succeeds without an election. It is repeated, because a busy machine may
/// cause an election too, but not in every attempt.
fn is_calm(cluster: &Cluster, mut test: impl FnMut()) {
    let calm = (0..10).any(|_| {
        let before = (cluster.leader(), cluster.term());
        test();
        cluster.wait_until_all_serve();
        (cluster.leader(), cluster.term()) == before
    });
    assert!(calm, "an election each time\n{}", cluster.logs());
}

/// Asserts that the term no longer changes after everything is healed.
fn stays_calm(cluster: &Cluster) {
    cluster.wait_until_all_serve();
    is_calm(cluster, || thread::sleep(CALM));
}

/// Clients that send large writes without waiting for replies, as fast as the server accepts them.
struct Flood {
    threads: Vec<(thread::JoinHandle<()>, thread::JoinHandle<[u64; 2]>)>,
}

/// Number of clients, number of writes per client, and length of a value in bytes.
const FLOOD: (usize, usize, usize) = (3, 512, 64 << 10);

impl Flood {
    fn start(address: SocketAddr) -> Flood {
        let (clients, writes, bytes) = FLOOD;
        let value = vec![b'x'; bytes];
        let threads = (0..clients).map(|number| {
            let mut client = Client::connect(address).unwrap();
            let mut stream = client.stream.try_clone().unwrap();
            let set = command(&[b"SET", format!("flood{number}").as_bytes(), &value]);
            let sending = thread::spawn(move || {
                for _ in 0..writes {
                    std::io::Write::write_all(&mut stream, &set).unwrap();
                }
            });
            let hearing = thread::spawn(move || {
                let mut counts = [0, 0];
                for _ in 0..writes {
                    let reply = String::from_utf8(client.reply().unwrap()).unwrap();
                    let refused = ["-CLUSTERDOWN ", "-UNCERTAIN ", "-TRYAGAIN "];
                    let refused = refused.iter().any(|word| reply.starts_with(word));
                    assert!(refused || reply == "+OK\r\n", "{reply}");
                    counts[usize::from(refused)] += 1;
                }
                counts
            });
            (sending, hearing)
        });
        Flood { threads: threads.collect() }
    }

    /// Waits until each write has its reply. Returns the number of applied writes and the number of
    /// other writes.
    fn end(self) -> [u64; 2] {
        let mut sum = [0, 0];
        for (sending, hearing) in self.threads {
            sending.join().unwrap();
            let counts = hearing.join().unwrap();
            (sum[0], sum[1]) = (sum[0] + counts[0], sum[1] + counts[1]);
        }
        sum
    }
}

/// Asserts that a replica's memory has grown by at most [`MEMORY_MAX`] plus the size of its log.
fn is_bounded(cluster: &Cluster, at: usize, before: Option<u64>) {
    let (clients, writes, bytes) = FLOOD;
    let log = (clients * writes * bytes) as u64;
    if let (Some(before), Some(now)) = (before, resident_bytes(cluster.process(at))) {
        let grown = now.saturating_sub(before);
        assert!(grown < MEMORY_MAX + log, "replica {} has grown by {grown} bytes", at + 1);
    }
}

fn shown(reply: &[u8]) -> String {
    String::from_utf8_lossy(reply).into_owned()
}

/// Waits until a write through each replica other than `but` is applied.
fn others_serve(cluster: &Cluster, but: usize) {
    for at in (0..3).filter(|at| *at != but) {
        cluster.wait_for("a write without it", || {
            let mut client = Client::connect(cluster.address(at)).ok()?;
            (client.call(&[b"SET", b"others", b"1"]).ok()? == b"+OK\r\n").then_some(())
        });
    }
}

fn cut_off_leader(threads: &'static str, flow: Flow) {
    let (cluster, wires) = Cluster::start_wired(3, threads);
    cluster.wait_until_all_serve();
    under_load(&cluster, || {
        let leader = cluster.leader();
        let before = resident_bytes(cluster.process(leader));
        let mut waiting = Client::connect(cluster.address(leader)).unwrap();
        wires.set_around(leader, flow);
        let since = Instant::now();
        let flood = Flood::start(cluster.address(leader));
        // It cannot be applied now, and this replica cannot know whether it ever will be.
        let reply = shown(&waiting.call(&[b"SET", b"cut", b"off"]).unwrap());
        let words = ["-UNCERTAIN ", "-CLUSTERDOWN ", "-TRYAGAIN "];
        assert!(words.iter().any(|word| reply.starts_with(word)), "{reply}");
        assert_eq!(waiting.call(&[b"PING"]).unwrap(), b"+PONG\r\n", "the connection stays open");
        others_serve(&cluster, leader);
        thread::sleep(LONG_CUT.saturating_sub(since.elapsed()));
        is_bounded(&cluster, leader, before);
        let reply = shown(&waiting.call(&[b"SET", b"cut", b"off"]).unwrap());
        assert!(reply.starts_with("-CLUSTERDOWN "), "it has stepped down: {reply}");
        wires.set_around(leader, Flow::Open);
        // All held requests have their replies, so the replica serves clients again.
        let [_, refused] = flood.end();
        assert!(refused > 0, "a leader that is cut off did all that it was asked");
        cluster.wait_for("a write through the old leader", || {
            (waiting.call(&[b"SET", b"cut", b"healed"]).ok()? == b"+OK\r\n").then_some(())
        });
    });
    stays_calm(&cluster);
}

#[test]
fn partitioned_leader_steps_down_with_thread_per_stage() {
    cut_off_leader("dedicated", Flow::Held);
}

#[test]
fn leader_with_closed_connections_steps_down_with_shared_stage_thread() {
    cut_off_leader("fused", Flow::Cut);
}

#[test]
fn leader_that_receives_no_messages_steps_down() {
    let (cluster, wires) = Cluster::start_wired(3, "auto");
    cluster.wait_until_all_serve();
    under_load(&cluster, || {
        let term = cluster.term();
        let leader = cluster.leader();
        wires.set_to(leader, Flow::Held);
        others_serve(&cluster, leader);
        // Another replica that serves has a leader, unless a busy machine elects the next one right
        // now.
        cluster.wait_for("another leader", || cluster.leader_but(leader));
        assert!(cluster.term() > term);
        wires.set_to(leader, Flow::Open);
    });
    stays_calm(&cluster);
}

#[test]
fn partitioned_follower_causes_no_election_and_catches_up() {
    let (cluster, wires) = Cluster::start_wired(3, "auto");
    cluster.wait_until_all_serve();
    for flow in [Flow::Held, Flow::Cut] {
        is_calm(&cluster, || {
            under_load(&cluster, || {
                let follower = (cluster.leader() + 1) % 3;
                wires.set_around(follower, flow);
                thread::sleep(CUT);
                wires.set_around(follower, Flow::Open);
                caught_up(&cluster, follower);
            });
        });
    }
}

/// Waits until the replica `at` has applied everything that the leader has committed by now.
fn caught_up(cluster: &Cluster, at: usize) {
    let committed: u64 = cluster.info(cluster.leader(), "raft_commit_index");
    cluster.wait_for("a follower that catches up", || {
        (cluster.info::<u64>(at, "raft_applied_index") >= committed).then_some(())
    });
}

/// Increments a counter through one replica, with pipelined commands, until `stop` is set and at
/// least one increment has succeeded. Asserts that the replies are possible. Returns the least and
/// the greatest possible value of the counter.
fn count(address: SocketAddr, stop: &AtomicBool) -> (u64, u64) {
    const PIPELINE: usize = 16;
    let (mut last, mut done, mut unknown, mut skipped) = (0, 0, 0, 0);
    let mut client = Client::connect(address).unwrap();
    let bytes = command(&[b"INCR", b"counter"]).repeat(PIPELINE);
    let mut after = 0;
    while !stop.load(Ordering::Relaxed) || done == 0 {
        after += i32::from(stop.load(Ordering::Relaxed));
        assert!(after < 20, "nothing is applied after the recovery");
        client.send(&bytes).unwrap();
        for _ in 0..PIPELINE {
            let reply = shown(&client.reply().unwrap());
            if reply.starts_with("-UNCERTAIN ") {
                (unknown, skipped) = (unknown + 1, skipped + 1);
            } else if !reply.starts_with("-CLUSTERDOWN ") && !reply.starts_with("-TRYAGAIN ") {
                let value: u64 = reply.trim_start_matches(':').trim_end().parse().unwrap();
                let most = last + 1 + skipped;
                assert!(value > last && value <= most, "{value} after {last}, {most} at most");
                // The increments before this one may still be applied.
                skipped -= value - last - 1;
                (last, done) = (value, done + 1);
            }
        }
    }
    (done, done + unknown)
}

#[test]
fn writes_forwarded_over_flapping_links_are_applied_once() {
    let (mut cluster, wires) = Cluster::start_wired(3, "auto");
    cluster.wait_until_all_serve();
    let follower = (cluster.leader() + 1) % 3;
    let address = cluster.address(follower);
    let stop = AtomicBool::new(false);
    let (least, most) = thread::scope(|scope| {
        let counting = scope.spawn(|| count(address, &stop));
        let _stop = StopAtEnd(&stop);
        for round in 0..30 {
            for flow in [Flow::Cut, Flow::Open] {
                wires.set_from(follower, flow);
                thread::sleep(Duration::from_millis(30 + round * 3));
            }
            // In one round the leader changes too, unless it is the replica that the counter uses.
            let leader = (round == 15).then(|| cluster.leader()).filter(|at| *at != follower);
            if let Some(leader) = leader {
                cluster.kill(leader);
                cluster.restart();
            }
        }
        cluster.wait_until_all_serve();
        thread::sleep(LOAD);
        stop.store(true, Ordering::Relaxed);
        counting.join().unwrap()
    });
    let value = shown(&Client::connect(address).unwrap().call_until_ok(&[b"GET", b"counter"]));
    let value: u64 = value.lines().nth(1).expect(&value).parse().unwrap();
    eprintln!("{least} additions acknowledged, {} unknown, {value} done", most - least);
    assert!(least > 0 && (least..=most).contains(&value), "{least} to {most}: {value}");
}

/// Delays a write on its way to the leader, which is then deposed. Another leader applies the
/// write, and only then does the delayed copy reach the first leader, which leads again. Returns
/// false if the case did not occur: the replica that the client uses became the leader in between,
/// or there was no leader for long, so that nothing was in flight any more.
fn stuck_write(cluster: &mut Cluster, wires: &Wires, key: &[u8]) -> bool {
    cluster.wait_until_all_serve();
    let old = cluster.leader();
    let (follower, other) = ((old + 1) % 3, (old + 2) % 3);
    let mut client = Client::connect(cluster.address(follower)).unwrap();
    let passing = |reply: &str| {
        ["-CLUSTERDOWN ", "-TRYAGAIN ", "-UNCERTAIN "].iter().any(|word| reply.starts_with(word))
    };
    let first = shown(&client.call(&[b"INCR", key]).unwrap());
    assert!(first == ":1\r\n" || passing(&first), "{first}");
    if passing(&first) {
        return false;
    }
    wires.set(follower, old, Flow::BulkHeld);
    client.send(&command(&[b"INCR", key])).unwrap();
    thread::sleep(LOAD);
    wires.set_from(old, Flow::Held);
    let reply = shown(&client.reply().unwrap());
    wires.set_from(old, Flow::Open);
    // If it took too long on this machine, the outcome is unknown and the write may still be
    // applied.
    let known = reply == ":2\r\n";
    assert!(known || passing(&reply), "{reply}");
    if cluster.wait_for("a new leader", || cluster.leader_but(old)) == follower {
        wires.set(follower, old, Flow::Open);
        return false;
    }
    for turn in 0.. {
        let leader = cluster.leader();
        if leader == old {
            break;
        }
        if leader == follower || turn == 4 {
            wires.set(follower, old, Flow::Open);
            return false;
        }
        caught_up(cluster, old);
        // Without incoming messages it cannot be elected.
        wires.set_from(follower, Flow::Held);
        cluster.kill(other);
        cluster.restart();
        cluster.wait_for("a leader", || cluster.leader_of(&[old, other]));
        wires.set(follower, other, Flow::Open);
        wires.set(follower, old, Flow::BulkHeld);
        caught_up(cluster, follower);
    }
    wires.set(follower, old, Flow::Open);
    thread::sleep(LOAD);
    cluster.wait_until_all_serve();
    let value =
        shown(&Client::connect(cluster.address(other)).unwrap().call_until_ok(&[b"GET", key]));
    assert!(value == "$1\r\n2\r\n" || (!known && value == "$1\r\n1\r\n"), "{value}");
    known
}

#[test]
fn delayed_forwarded_write_is_not_applied_twice() {
    let (mut cluster, wires) = Cluster::start_wired(3, "auto");
    // Every second time, and more often on a busy machine, the replica that the client uses wins
    // the election.
    let bites =
        (0..40).any(|n| stuck_write(&mut cluster, &wires, format!("counter{n}").as_bytes()));
    assert!(bites, "no write was stuck as it should be\n{}", cluster.logs());
}

#[test]
fn majority_serves_while_a_replica_is_paused() {
    let (cluster, _wires) = Cluster::start_wired(3, "auto");
    cluster.wait_until_all_serve();
    under_load(&cluster, || {
        let leader = cluster.leader();
        let follower = (leader + 1) % 3;
        let before: Vec<_> = (0..3).map(|at| resident_bytes(cluster.process(at))).collect();
        cluster.pause(follower);
        let flood = Flood::start(cluster.address(leader));
        thread::sleep(CUT);
        is_bounded(&cluster, leader, before[leader]);
        let [done, _] = flood.end();
        assert!(done > 0, "two of three did nothing");
        cluster.resume(follower);
        caught_up(&cluster, follower);
    });
    under_load(&cluster, || {
        let leader = cluster.leader();
        let follower = (leader + 1) % 3;
        let before: Vec<_> = (0..3).map(|at| resident_bytes(cluster.process(at))).collect();
        cluster.pause(leader);
        let flood = Flood::start(cluster.address(follower));
        cluster.wait_for("another leader", || cluster.leader_of(&[follower, (leader + 2) % 3]));
        thread::sleep(LOAD);
        cluster.resume(leader);
        let [done, _] = flood.end();
        assert!(done > 0, "two of three did nothing");
        (0..3).for_each(|at| is_bounded(&cluster, at, before[at]));
    });
}

#[test]
fn maximum_size_values_cause_no_election() {
    const LARGE: usize = 60 << 20;
    let (cluster, _wires) = Cluster::start_wired(3, "auto");
    cluster.wait_until_all_serve();
    let value = vec![b'x'; LARGE];
    is_calm(&cluster, || {
        let term = cluster.term();
        let leader = cluster.leader();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let _stop = StopAtEnd(&stop);
            for at in 0..3 {
                let (stop, address) = (&stop, cluster.address(at));
                scope.spawn(move || {
                    let mut client = Client::connect(address).unwrap();
                    let key = format!("small{at}");
                    while !stop.load(Ordering::Relaxed) {
                        // Applied, or refused because too much is in flight: both are right. An
                        // election is not; it is checked below.
                        let reply = shown(&client.call(&[b"SET", key.as_bytes(), b"1"]).unwrap());
                        let words = ["+OK", "-TRYAGAIN ", "-UNCERTAIN ", "-CLUSTERDOWN "];
                        assert!(words.iter().any(|word| reply.starts_with(word)), "{reply}");
                    }
                });
            }
            // On the replica that proposes it, and on one that forwards it.
            for at in [leader, (leader + 1) % 3] {
                let mut client = Client::connect(cluster.address(at)).unwrap();
                let reply = shown(&client.call(&[b"SET", b"large", &value]).unwrap());
                let taken = reply == "+OK\r\n" || reply.starts_with("-UNCERTAIN ");
                assert!(taken || cluster.term() > term, "{reply}");
            }
        });
    });
}
