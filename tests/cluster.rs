//! Tests of real server processes on loopback: killed under load, restarted, sent invalid input.
//! They assert outcomes, never durations.
#![allow(clippy::unwrap_used, reason = "a test whose helpers can't go on fails")]

#[path = "cluster/admin.rs"]
mod admin;
#[path = "cluster/backup.rs"]
mod backup;
#[path = "cluster/bank.rs"]
mod bank;
#[path = "cluster/beside_redis.rs"]
mod beside_redis;
#[path = "cluster/blocking.rs"]
mod blocking;
#[path = "cluster/blocking_replies.rs"]
mod blocking_replies;
#[path = "cluster/blocking_streams.rs"]
mod blocking_streams;
#[path = "cluster/changes.rs"]
mod changes;
#[path = "cluster/changes_feed.rs"]
mod changes_feed;
#[path = "cluster/client.rs"]
mod client;
#[path = "cluster/client_caching.rs"]
mod client_caching;
#[path = "cluster/cluster_command.rs"]
mod cluster_command;
#[path = "cluster/databases.rs"]
mod databases;
#[path = "cluster/datagrams.rs"]
mod datagrams;
#[path = "cluster/digest.rs"]
mod digest;
#[path = "cluster/encrypted_datagrams.rs"]
mod encrypted_datagrams;
#[path = "cluster/expiration.rs"]
mod expiration;
#[path = "cluster/failover.rs"]
mod failover;
#[path = "cluster/forged_term.rs"]
mod forged_term;
#[path = "cluster/formats.rs"]
mod formats;
#[path = "cluster/functions.rs"]
mod functions;
#[path = "cluster/graceful_stop.rs"]
mod graceful_stop;
#[path = "cluster/hostile.rs"]
mod hostile;
#[path = "cluster/http.rs"]
mod http;
#[path = "cluster/info.rs"]
mod info;
#[path = "cluster/key_ranges.rs"]
mod key_ranges;
#[path = "cluster/lagging_reads.rs"]
mod lagging_reads;
#[path = "cluster/large_values.rs"]
mod large_values;
#[path = "cluster/lease_reads.rs"]
mod lease_reads;
#[path = "cluster/load.rs"]
mod load;
#[path = "cluster/locks.rs"]
mod locks;
#[path = "cluster/membership.rs"]
mod membership;
#[path = "cluster/monitor.rs"]
mod monitor;
#[path = "cluster/moving_data.rs"]
mod moving_data;
#[path = "cluster/partitions.rs"]
mod partitions;
#[path = "cluster/protected_peers.rs"]
mod protected_peers;
#[path = "cluster/proxies.rs"]
mod proxies;
#[path = "cluster/pubsub.rs"]
mod pubsub;
#[path = "redis/reference.rs"]
#[allow(dead_code, reason = "shared with tests/redis.rs")]
mod reference;
#[path = "cluster/rejoin.rs"]
mod rejoin;
#[path = "cluster/repair.rs"]
mod repair;
#[path = "cluster/replicas.rs"]
#[allow(dead_code, reason = "shared with tests/disk.rs")]
mod replicas;
#[path = "cluster/script_kills.rs"]
mod script_kills;
#[path = "cluster/scripts.rs"]
mod scripts;
#[path = "cluster/service_manager.rs"]
mod service_manager;
#[path = "cluster/snapshots.rs"]
mod snapshots;
#[path = "cluster/streams.rs"]
mod streams;
#[path = "cluster/tls.rs"]
mod tls;
#[path = "cluster/top.rs"]
mod top;
#[path = "cluster/traces.rs"]
mod traces;
#[path = "cluster/transfers.rs"]
mod transfers;
#[path = "cluster/unconfirmed_users.rs"]
mod unconfirmed_users;
#[path = "cluster/unknown_peers.rs"]
mod unknown_peers;
#[path = "cluster/upgrade.rs"]
mod upgrade;
#[path = "cluster/users.rs"]
mod users;
#[path = "cluster/witness.rs"]
mod witness;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bowline::sim::checkers::linearizability::STEPS_MAX;

use client::{Client, Connector, command};
use load::{Notes, StopAtEnd};
use replicas::{Cluster, TIMEOUT, free_port};

/// Number of kill rounds in each test. There are four kinds of rounds, one after the other.
const ROUNDS: u64 = 4;
/// Name of the environment variable that sets another number of kill rounds.
const ROUNDS_VARIABLE: &str = "BOWLINE_CLUSTER_ROUNDS";
/// Duration of the load before a kill, and between the kill and the restart.
const LOAD: Duration = Duration::from_millis(300);

fn kill_rounds(mut cluster: Cluster, name: &str) {
    let rounds = std::env::var(ROUNDS_VARIABLE).ok().and_then(|text| text.parse().ok());
    cluster.wait_until_all_serve();
    let count = cluster.ports.len();
    let addresses: Vec<SocketAddr> = (0..count).map(|at| cluster.address(at)).collect();
    let servers: Vec<Connector> = (0..count).map(|at| cluster.connector(at)).collect();
    for round in 0..rounds.unwrap_or(ROUNDS) {
        let notes = Notes::default();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let _stop = StopAtEnd(&stop);
            for (name, server) in (0..).zip([0, 1, 2, 0].map(|at| servers[at].clone())) {
                let (notes, stop) = (&notes, &stop);
                scope.spawn(move || load::run(server, name, round, notes, stop));
            }
            thread::sleep(LOAD);
            for victim in load::victims(round, cluster.leader(), count) {
                cluster.kill(victim);
            }
            thread::sleep(LOAD);
            cluster.restart();
            cluster.wait_until_all_serve();
            thread::sleep(LOAD);
            cluster.wait_for("an acknowledged write", || notes.is_any_acknowledged());
        });
        load::read_all(&addresses, round, &notes);
        let acknowledged = notes.acknowledged.load(Ordering::Relaxed);
        eprintln!(
            "{name} round {round}: {} operations, {acknowledged} writes acknowledged, \
             {} refused, {} uncertain",
            notes.history().len(),
            notes.refused.load(Ordering::Relaxed),
            notes.uncertain.load(Ordering::Relaxed),
        );
        if let Err(error) = notes.history().check(STEPS_MAX) {
            panic!("round {round}: {error}\n{}", cluster.logs());
        }
    }
}

#[test]
fn acknowledged_writes_survive_kills_with_thread_per_stage() {
    kill_rounds(Cluster::start_hasty(3, "dedicated", &[]), "dedicated");
}

#[test]
fn acknowledged_writes_survive_kills_with_shared_stage_thread() {
    kill_rounds(Cluster::start_hasty(3, "fused", &[]), "fused");
}

#[test]
fn acknowledged_writes_survive_kills_with_tls_everywhere() {
    kill_rounds(Cluster::start_secure(3, "auto"), "tls");
}

/// The allocator reads its settings when a program starts, so a server executes itself again, in
/// the same process.
#[test]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn server_sets_allocator_options_and_keeps_its_process_id() {
    let mut cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let settings = |cluster: &Cluster, at| {
        let environment = fs::read(format!("/proc/{}/environ", cluster.process(at))).unwrap();
        let mut variables = environment.split(|byte| *byte == 0);
        let value = variables.find_map(|it| it.strip_prefix(b"GLIBC_TUNABLES="));
        String::from_utf8(value.unwrap_or_default().to_vec()).unwrap()
    };
    for at in 0..2 {
        cluster.kill(at);
        let mut command = cluster.command(at);
        command.env_remove("GLIBC_TUNABLES");
        if at == 1 {
            command.env("GLIBC_TUNABLES", "glibc.malloc.arena_max=3");
        }
        cluster.start_as(at, command);
    }
    cluster.wait_until_all_serve();
    assert!(settings(&cluster, 0).contains("glibc.malloc.hugetlb=1"), "{}", settings(&cluster, 0));
    assert_eq!(settings(&cluster, 1), "glibc.malloc.arena_max=3", "the user's own stay");
}

/// The reply to a pipelined write that was not applied because the leader changed.
const REFUSED: &[u8] = b"-TRYAGAIN the leader changed; not applied, try again\r\n";

#[test]
fn every_replica_replies_identically_and_in_request_order() {
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let bulk = |value: &str| format!("${}\r\n{value}\r\n", value.len()).into_bytes();
    let mut there = b"$-1\r\n".to_vec();
    for at in 0..3 {
        let mut client = Client::connect(cluster.address(at)).unwrap();
        let mut bytes = Vec::new();
        for number in 0..500 {
            let value = number.to_string();
            bytes.extend(command(&[b"SET", b"k", value.as_bytes()]));
            bytes.extend(command(&[b"GET", b"k"]));
            bytes.extend(command(&[b"INCR", format!("counter{at}").as_bytes()]));
            bytes.extend(command(&[b"PING"]));
        }
        let term = cluster.term();
        client.send(&bytes).unwrap();
        let (mut count, mut refused) = (0, 0);
        // The reply, or `None` if the leader was lost.
        let mut hear = |client: &mut Client| {
            let reply = client.reply().unwrap();
            refused += usize::from(reply == REFUSED);
            (reply != REFUSED).then_some(reply)
        };
        for number in 0..500 {
            if let Some(reply) = hear(&mut client) {
                assert_eq!(reply, b"+OK\r\n");
                there = bulk(&number.to_string());
            }
            if let Some(reply) = hear(&mut client) {
                assert_eq!(reply, there, "at replica {}", at + 1);
            }
            if let Some(reply) = hear(&mut client) {
                count += 1;
                assert_eq!(reply, format!(":{count}\r\n").as_bytes());
            }
            assert_eq!(client.reply().unwrap(), b"+PONG\r\n");
        }
        // On a busy machine an election may occur; nothing else may cause a write to be refused.
        assert!(refused == 0 || cluster.term() > term, "{refused} refused\n{}", cluster.logs());
        // A client that has closed its sending side still gets its replies.
        client.send(&command(&[b"GET", b"k"])).unwrap();
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(client.reply().unwrap(), there);
        assert!(client.reply().is_err(), "the connection should have ended");
    }
}

#[test]
fn majority_serves_requests_and_lone_replica_refuses_them() {
    let mut cluster = Cluster::start_hasty(3, "auto", &[]);
    cluster.wait_until_all_serve();
    let leader = cluster.leader();
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    let mut client = Client::connect(cluster.address(others[0])).unwrap();
    cluster.kill(leader);
    // A request in flight is answered once there is a leader, or the client gets an error that asks
    // it to retry.
    cluster.wait_for("a write without the old leader", || {
        let reply = client.call(&[b"SET", b"after", b"1"]).unwrap();
        (reply == b"+OK\r\n").then_some(())
    });
    cluster.kill(others[1]);
    let reply = client.call(&[b"SET", b"alone", b"1"]).unwrap();
    let shown = String::from_utf8_lossy(&reply).into_owned();
    assert!(
        ["-CLUSTERDOWN", "-LOADING", "-UNCERTAIN"].iter().any(|it| shown.starts_with(it)),
        "{shown}"
    );
    assert_eq!(client.call(&[b"PING"]).unwrap(), b"+PONG\r\n", "the connection stays open");
    cluster.restart();
    cluster.wait_until_all_serve();
    assert_eq!(client.call_until_ok(&[b"GET", b"after"]), b"$1\r\n1\r\n");
}

/// Runs a command whose start must be refused, and returns the error.
fn refusal(command: Command) -> String {
    let output = Cluster::run_to_end(command);
    assert!(!output.status.success(), "it should have been refused");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn server_start_waits_for_the_previous_process_to_exit() {
    let mut cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    cluster.kill(0);
    // Like a killed process that waits for its disk.
    let held = fs::File::open(cluster.replica_folder(0).join("lock")).unwrap();
    held.lock().unwrap();
    cluster.restart();
    thread::sleep(Duration::from_millis(500));
    assert!(cluster.runs(0), "{}", cluster.logs());
    drop(held);
    cluster.wait_until_all_serve();
}

#[test]
fn server_start_with_used_port_or_wrong_folder_is_refused() {
    let mut cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    // A port in use by the same replica.
    let text = refusal(cluster.command(0));
    assert!(text.contains("another process listens there"), "{text}");
    // A folder in use.
    let text = refusal(cluster.command_at(0, free_port(), free_port()));
    assert!(text.contains("in use by another process"), "{text}");
    cluster.kill(0);
    fs::rename(cluster.replica_folder(0), cluster.folder.path().join("kept")).unwrap();
    // No folder: a wiped replica must not start by itself.
    let text = refusal(cluster.command(0));
    assert!(text.contains("check the path") || text.contains("--bootstrap"), "{text}");
    fs::create_dir(cluster.replica_folder(0)).unwrap();
    let text = refusal(cluster.command(0));
    assert!(text.contains("was never bootstrapped") && text.contains("--rejoin"), "{text}");
    fs::remove_dir_all(cluster.replica_folder(0)).unwrap();
    // Another replica's folder.
    cluster.kill(1);
    fs::rename(cluster.replica_folder(1), cluster.replica_folder(0)).unwrap();
    let text = refusal(cluster.command(0));
    assert!(text.contains("belongs to replica 0002"), "{text}");
    fs::rename(cluster.replica_folder(0), cluster.replica_folder(1)).unwrap();
    fs::rename(cluster.folder.path().join("kept"), cluster.replica_folder(0)).unwrap();
    cluster.restart();
    cluster.wait_until_all_serve();
}

#[test]
fn server_start_with_unwritable_data_folder_is_refused() {
    let cluster = Cluster::start(1, "auto");
    cluster.wait_until_all_serve();
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o500)).unwrap();
    if fs::write(folder.path().join("probe"), "x").is_ok() {
        // Root can write anywhere, but not into a file in place of the folder.
        let file = folder.path().join("probe");
        let text = refusal(start_alone(&file.join("replica")));
        assert!(text.contains("probe"), "{text}");
        return;
    }
    let text = refusal(start_alone(&folder.path().join("replica")));
    assert!(text.contains("write access"), "{text}");
}

fn start_alone(folder: &std::path::Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bowline"));
    command
        .args(["serve", "--id", "1", "--bootstrap", "--stop-with-stdin"])
        .args(["--listen", &format!("127.0.0.1:{}", free_port())])
        .args(["--peer-listen", &format!("127.0.0.1:{}", free_port())])
        .arg("--dir")
        .arg(folder)
        .stdin(std::process::Stdio::piped());
    command
}

#[test]
fn malformed_input_closes_only_its_own_connection() {
    let mut cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let mut good = Client::connect(cluster.address(0)).unwrap();
    for (bytes, words) in [
        (&b"*1\r\n$999999999999\r\n"[..], "invalid bulk length"),
        (b"*99999999999\r\n", "invalid multibulk length"),
        (b"*1\r\nnonsense\r\n", "expected '$'"),
    ] {
        let mut client = Client::connect(cluster.address(0)).unwrap();
        client.send(bytes).unwrap();
        let reply = String::from_utf8(client.reply().unwrap()).unwrap();
        assert!(reply.contains(words), "{reply}");
        assert!(client.reply().is_err(), "the connection should have ended");
    }
    // Half a command and then silence: no reply and no harm.
    let mut half = Client::connect(cluster.address(0)).unwrap();
    half.send(b"*2\r\n$3\r\nGET\r\n$1").unwrap();
    drop(half);
    // Invalid connections to the peer port: a wrong greeting, a claimed length of 4 GiB, half a
    // frame.
    let peer_port = cluster.peer_port(0);
    for bytes in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], b"BOWL\x09\x00", b"BOWL\x03\x00\xff\xff\xff\xff\0\0\0\0"]
    {
        let mut stream = TcpStream::connect(("127.0.0.1", peer_port)).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.write_all(bytes).unwrap();
        let mut rest = Vec::new();
        // Closed or reset: both end the connection.
        let ended = stream.read_to_end(&mut rest);
        assert!(ended.is_err() || rest.is_empty(), "{rest:?}");
    }
    let mut stream = TcpStream::connect(("127.0.0.1", peer_port)).unwrap();
    stream.write_all(b"BOWL\x03\x00\x30\0\0\0").unwrap();
    drop(stream);
    assert_eq!(good.call(&[b"SET", b"fine", b"1"]).unwrap(), b"+OK\r\n");
    assert!((0..3).all(|at| cluster.runs(at)), "{}", cluster.logs());
}

/// Returns the resident memory of a process in bytes; `None` if the system does not report it.
fn resident_bytes(process: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1_024)
}

#[test]
fn client_that_never_reads_uses_bounded_server_memory() {
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    // On a busy machine an election may occur too, but not every time.
    let calm = (0..10).any(|_| feed_and_flood(&cluster));
    assert!(calm, "an election each time, for one client\n{}", cluster.logs());
}

/// Computes the union of many copies of a large set, in one operation that takes longer than an
/// election timeout and longer than the default deadline of a command. The operation may delay
/// other requests, but they must not fail.
fn long_operation_delays_others_only(threads: &'static str) {
    let cluster = Cluster::start_hasty(3, threads, &[]);
    cluster.wait_until_all_serve();
    let leader = cluster.leader();
    let mut client = Client::connect(cluster.address(leader)).unwrap();
    let members: Vec<String> = (0..200_000).map(|number| number.to_string()).collect();
    let mut add: Vec<&[u8]> = vec![b"SADD", b"set"];
    add.extend(members.iter().map(String::as_bytes));
    assert_eq!(client.call(&add).unwrap(), b":200000\r\n");
    let mut union: Vec<&[u8]> = vec![b"ZUNIONSTORE", b"union", b"60"];
    union.extend([&b"set"[..]; 60]);
    let term = cluster.term();
    let (sent, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    // Calls until the union has ended, and at least one pair of calls that began after the union
    // was sent. None of them may fail.
    let others = |at: usize| {
        let (cluster, sent, stop) = (&cluster, &sent, &stop);
        move || {
            let mut other = Client::connect(cluster.address(at)).unwrap();
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) || count == 0 {
                let is_sent = sent.load(Ordering::Relaxed);
                assert_eq!(other.call(&[b"SET", b"k", b"v"]).unwrap(), b"+OK\r\n");
                assert_eq!(other.call(&[b"GET", b"k"]).unwrap(), b"$1\r\nv\r\n");
                count += usize::from(is_sent);
            }
            count
        }
    };
    thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        let others = [0, 1, 2].map(|at| scope.spawn(others(at)));
        let begin = Instant::now();
        client.send(&command(&union)).unwrap();
        sent.store(true, Ordering::Relaxed);
        assert_eq!(client.reply().unwrap(), b":200000\r\n");
        eprintln!("{threads}: the union took {:?}", begin.elapsed());
        stop.store(true, Ordering::Relaxed);
        for other in others {
            assert!(other.join().unwrap() > 0);
        }
    });
    assert_eq!(cluster.term(), term, "{}", cluster.logs());
}

#[test]
fn long_command_causes_no_errors_for_others_with_thread_per_stage() {
    long_operation_delays_others_only("dedicated");
}

#[test]
fn long_command_causes_no_errors_for_others_with_shared_stage_thread() {
    long_operation_delays_others_only("fused");
}

/// Many client libraries send a whole pipeline of requests before they read the first reply.
#[test]
fn client_may_send_a_whole_pipeline_before_it_reads_replies() {
    const COUNT: usize = 200_000;
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let key = [b'k'; 100];
    let reply = [&b"$1000\r\n"[..], &[b'v'; 1_000], b"\r\n"].concat();
    for at in 0..3 {
        let mut client = Client::connect(cluster.address(at)).unwrap();
        assert_eq!(client.call(&[b"SET", &key, &[b'v'; 1_000]]).unwrap(), b"+OK\r\n");
        client.send(&command(&[b"GET", &key]).repeat(COUNT)).unwrap();
        for _ in 0..COUNT {
            assert_eq!(client.reply().unwrap(), reply);
        }
    }
}

/// One client sends many more requests than it reads replies to, while another client works.
/// Returns whether the leader stayed the same.
fn feed_and_flood(cluster: &Cluster) -> bool {
    let leader = cluster.leader();
    let mut good = Client::connect(cluster.address(leader)).unwrap();
    let large = vec![b'x'; 1 << 20];
    assert_eq!(good.call(&[b"SET", b"large", &large]).unwrap(), b"+OK\r\n");
    let mut greedy = Client::connect(cluster.address(leader)).unwrap();
    let asked = command(&[b"GET", b"large"]).repeat(5_000);
    // The server accepts the bytes or closes the connection: both are right.
    let _ = greedy.send(&asked);
    for number in 0..200 {
        let value = i32::to_string(&number);
        assert_eq!(good.call(&[b"SET", b"k", value.as_bytes()]).unwrap(), b"+OK\r\n");
    }
    if let Some(bytes) = resident_bytes(cluster.process(leader)) {
        assert!(bytes < 1 << 30, "{bytes} bytes for one client");
    }
    cluster.leader() == leader
}

#[test]
fn server_recovers_from_file_descriptor_exhaustion() {
    let mut cluster = Cluster::start_short_of_files(3, 64);
    cluster.wait_until_all_serve();
    let mut early = Client::connect(cluster.address(0)).unwrap();
    assert_eq!(early.call(&[b"PING"]).unwrap(), b"+PONG\r\n");
    let crowd: Vec<TcpStream> =
        (0..100).map(|_| TcpStream::connect(cluster.address(0)).unwrap()).collect();
    for _ in 0..50 {
        assert_eq!(early.call(&[b"SET", b"k", b"1"]).unwrap(), b"+OK\r\n");
    }
    drop(crowd);
    // A client that connects before the server has noticed the closed connections gets the error
    // for too many clients.
    cluster.wait_for("a free slot for a late client", || {
        let mut late = Client::connect(cluster.address(0)).ok()?;
        (late.call(&[b"GET", b"k"]).ok()? == b"$1\r\n1\r\n").then_some(())
    });
    assert!((0..3).all(|at| cluster.runs(at)));
}

#[test]
fn cluster_client_is_redirected_to_the_leader() {
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    // On a busy machine the leader may change, so the test asks for it each time.
    cluster.wait_for("a hint to the leader", || {
        let leader = cluster.leader();
        let mut client = Client::connect(cluster.address((leader + 1) % 3)).unwrap();
        assert_eq!(client.call(&[b"SET", b"k", b"1"]).unwrap(), b"+OK\r\n", "forwarded");
        let slots = client.call(&[b"CLUSTER", b"SLOTS"]).unwrap();
        let slots = String::from_utf8_lossy(&slots).into_owned();
        let all = cluster.ports.iter().all(|port| slots.contains(&format!(":{port}\r\n")));
        assert!(all || slots == "*0\r\n", "a port is not in {slots}");
        let moved = client.call(&[b"GET", b"k"]).unwrap();
        let moved = String::from_utf8_lossy(&moved).into_owned();
        let address = format!(" 127.0.0.1:{}\r\n", cluster.ports[leader]);
        (all && moved.starts_with("-MOVED ") && moved.ends_with(&address)).then_some(())
    });
}
