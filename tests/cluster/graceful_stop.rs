//! Graceful stop: replicas are restarted one after the other with SIGTERM, under load. Clients see
//! no error reply, and no acknowledged write is lost.

use std::io::{ErrorKind, Read as _};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::load::StopAtEnd;
use crate::replicas::Cluster;

/// Number of restarts under load.
const RESTARTS: usize = 10;
/// Duration of the load before a restart.
const LOAD: Duration = Duration::from_millis(200);

/// How a client finds the leader.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It follows `MOVED` redirects.
    FollowsRedirects,
    /// It stays at a replica, which forwards its requests.
    Plain,
}

/// Counts of what the clients observed.
#[derive(Default)]
struct Seen {
    acknowledged: AtomicU64,
    redirects: AtomicU64,
    /// Connections that were closed while no request was pending.
    closed: AtomicU64,
    /// Requests without a reply, because the connection was closed after they had been sent.
    unanswered: AtomicU64,
    /// Duration of the longest write since the last restart began.
    longest: Mutex<Duration>,
}

/// A client that writes ascending numbers to its own key.
struct Writer<'w> {
    addresses: &'w [SocketAddr],
    kind: Kind,
    key: String,
    at: SocketAddr,
    client: Option<Client>,
    seen: &'w Seen,
}

impl Writer<'_> {
    /// Returns the connection. If the server has closed it, connects to the next replica, like a
    /// client that checks its connection before it sends.
    fn connection(&mut self) -> &mut Client {
        if let Some(client) = &mut self.client {
            client.stream.set_nonblocking(true).unwrap();
            let closed = match client.stream.read(&mut [0]) {
                Err(error) => error.kind() != ErrorKind::WouldBlock,
                Ok(count) => {
                    assert_eq!(count, 0, "bytes without a request");
                    true
                }
            };
            client.stream.set_nonblocking(false).unwrap();
            if closed {
                self.seen.closed.fetch_add(1, Ordering::Relaxed);
                self.client = None;
                self.go_to_next();
            }
        }
        while self.client.is_none() {
            match Client::connect(self.at) {
                Ok(mut client) => {
                    // From now on the server sends `MOVED` instead of forwarding.
                    if self.kind == Kind::Plain || client.call(&[b"CLUSTER", b"NODES"]).is_ok() {
                        self.client = Some(client);
                    }
                }
                Err(_) => self.go_to_next(),
            }
        }
        self.client.as_mut().expect("it is connected")
    }

    fn go_to_next(&mut self) {
        let at = self.addresses.iter().position(|it| *it == self.at).expect("a known replica");
        self.at = self.addresses[(at + 1) % self.addresses.len()];
    }

    /// Writes `value`, and returns when it is acknowledged.
    fn write(&mut self, value: u64) {
        let (key, value) = (self.key.clone(), value.to_string());
        let arguments: [&[u8]; 3] = [b"SET", key.as_bytes(), value.as_bytes()];
        let started = Instant::now();
        loop {
            let Ok(reply) = self.connection().call(&arguments) else {
                self.seen.unanswered.fetch_add(1, Ordering::Relaxed);
                self.client = None;
                self.go_to_next();
                continue;
            };
            let reply = String::from_utf8(reply).unwrap();
            if let Some(place) = reply.strip_prefix("-MOVED ") {
                assert!(self.kind == Kind::FollowsRedirects, "{reply}");
                self.seen.redirects.fetch_add(1, Ordering::Relaxed);
                self.at = place.trim_end().split_once(' ').unwrap().1.parse().unwrap();
                self.client = None;
                continue;
            }
            assert_eq!(reply, "+OK\r\n", "an error reply at a client");
            break;
        }
        self.seen.acknowledged.fetch_add(1, Ordering::Relaxed);
        let mut longest = self.seen.longest.lock().unwrap();
        *longest = started.elapsed().max(*longest);
    }
}

/// Restarts the leader and a follower in turn, and returns the duration of the longest write during
/// each restart.
fn restart_all(cluster: &mut Cluster, seen: &Seen) -> Vec<Duration> {
    let mut longest = Vec::new();
    for round in 0..RESTARTS {
        let leader = cluster.leader();
        let victim = if round % 2 == 0 { leader } else { (leader + 1 + round / 2 % 2) % 3 };
        thread::sleep(LOAD);
        *seen.longest.lock().unwrap() = Duration::ZERO;
        let before = seen.acknowledged.load(Ordering::Relaxed);
        let status = cluster.stop(victim);
        assert!(status.success(), "{status}\n{}", cluster.log(victim));
        assert!(cluster.log(victim).ends_with("stopped\n"), "{}", cluster.log(victim));
        cluster.restart();
        cluster.wait_until_all_serve();
        cluster.wait_for("writes after the restart", || {
            (seen.acknowledged.load(Ordering::Relaxed) > before + 200).then_some(())
        });
        longest.push(*seen.longest.lock().unwrap());
    }
    longest
}

fn rolling_restart(threads: &'static str) {
    let mut cluster = Cluster::start(3, threads);
    cluster.wait_until_all_serve();
    let addresses: Vec<SocketAddr> = (0..3).map(|at| cluster.address(at)).collect();
    let (redirected, plain) = (Seen::default(), Seen::default());
    let stop = AtomicBool::new(false);
    let mut longest = Vec::new();
    thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        let writing: Vec<_> = (0..6)
            .map(|name| {
                let (kind, seen) = if name % 2 == 0 {
                    (Kind::FollowsRedirects, &redirected)
                } else {
                    (Kind::Plain, &plain)
                };
                let (addresses, stop, key) = (&addresses[..], &stop, format!("key{name}"));
                scope.spawn(move || {
                    let (at, mut value) = (addresses[name / 2], 0);
                    let mut writer =
                        Writer { addresses, kind, key: key.clone(), at, client: None, seen };
                    while !stop.load(Ordering::Relaxed) {
                        value += 1;
                        writer.write(value);
                    }
                    (key, value)
                })
            })
            .collect();
        longest = restart_all(&mut cluster, &redirected);
        stop.store(true, Ordering::Relaxed);
        let mut client = Client::connect(addresses[0]).unwrap();
        for writer in writing {
            let (key, value) = writer.join().unwrap();
            let reply = client.call(&[b"GET", key.as_bytes()]).unwrap();
            let value = value.to_string();
            assert_eq!(
                String::from_utf8(reply).unwrap(),
                format!("${}\r\n{value}\r\n", value.len())
            );
        }
    });
    let counts = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    longest.sort_unstable();
    eprintln!(
        "{threads}: {RESTARTS} restarts; longest write of clients that follow redirects: median \
         {:?}, all {longest:?}; {} acknowledged, {} redirects, {} connections closed, {} requests \
         unanswered; plain clients: {} acknowledged, {} connections closed, {} requests unanswered",
        longest[RESTARTS / 2],
        counts(&redirected.acknowledged),
        counts(&redirected.redirects),
        counts(&redirected.closed),
        counts(&redirected.unanswered),
        counts(&plain.acknowledged),
        counts(&plain.closed),
        counts(&plain.unanswered),
    );
    assert_eq!(counts(&redirected.unanswered), 0, "closed during a request\n{}", cluster.logs());
    assert!(counts(&redirected.redirects) > 0 && counts(&plain.closed) > 0, "nothing happened");
}

#[test]
fn rolling_restart_causes_no_error_with_thread_per_stage() {
    rolling_restart("dedicated");
}

#[test]
fn rolling_restart_causes_no_error_with_shared_stage_thread() {
    rolling_restart("fused");
}

#[test]
fn pipeline_received_before_the_stop_is_answered() {
    for follower in [false, true] {
        let mut cluster = Cluster::start(3, "auto");
        cluster.wait_until_all_serve();
        let leader = cluster.leader();
        let at = if follower { (leader + 1) % 3 } else { leader };
        let mut client = Client::connect(cluster.address(at)).unwrap();
        let count = 500;
        let request = crate::client::command(&[b"INCR", b"pipelined"]);
        client.send(&request.repeat(count)).unwrap();
        // The first reply shows that the server reads the connection.
        assert_eq!(client.reply().unwrap(), b":1\r\n");
        assert!(cluster.stop(at).success());
        for number in 2..=count {
            let reply = client.reply().unwrap();
            assert_eq!(String::from_utf8_lossy(&reply), format!(":{number}\r\n"));
        }
        assert!(client.reply().is_err(), "the connection stays open");
    }
}

#[test]
fn requests_in_flight_are_answered_before_close() {
    let mut cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let leader = cluster.leader();
    let at = (leader + 1) % 3;
    let mut client = Client::connect(cluster.address(at)).unwrap();
    assert_eq!(client.call(&[b"INCR", b"waiting"]).unwrap(), b":1\r\n");
    // Until the leader continues, or another one is elected, no request can be answered.
    cluster.pause(leader);
    let count = 50;
    client.send(&crate::client::command(&[b"INCR", b"waiting"]).repeat(count)).unwrap();
    cluster.terminate(at);
    cluster.wait_for("the stop", || {
        cluster.log(at).contains("closing the connections of clients").then_some(())
    });
    cluster.resume(leader);
    for number in 2..count + 2 {
        let reply = client.reply().unwrap();
        assert_eq!(String::from_utf8_lossy(&reply), format!(":{number}\r\n"));
    }
    assert!(client.reply().is_err(), "the connection stays open");
    assert!(cluster.end_of(at).success(), "{}", cluster.log(at));
}

#[test]
fn leader_without_followers_stops_in_bounded_time() {
    let mut cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let leader = cluster.leader();
    cluster.kill((leader + 1) % 3);
    cluster.kill((leader + 2) % 3);
    assert!(cluster.stop(leader).success(), "{}", cluster.log(leader));
}

#[test]
fn second_signal_ends_the_process_at_once() {
    let mut cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let leader = cluster.leader();
    for at in 0..3 {
        if at != leader {
            cluster.pause(at);
        }
    }
    // A request that cannot be answered keeps the replica from stopping.
    let mut client = Client::connect(cluster.address(leader)).unwrap();
    client.send(&crate::client::command(&[b"SET", b"key", b"1"])).unwrap();
    cluster.terminate(leader);
    cluster.wait_for("the stop", || cluster.log(leader).contains("stop requested").then_some(()));
    assert!(cluster.runs(leader), "{}", cluster.log(leader));
    let status = cluster.stop(leader);
    assert!(!status.success(), "{status}\n{}", cluster.log(leader));
    for at in 0..3 {
        if at != leader {
            cluster.resume(at);
        }
    }
}
