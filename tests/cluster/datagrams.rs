//! Replicas that exchange datagrams: over relays that lose some of the datagrams, under attack by
//! forged datagrams, and together with replicas that use TCP.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bowline::wire::datagram::{self, Ack, Data, Datagram, StreamId};
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::client::Client;
use crate::replicas::{Cluster, free_port};
use crate::snapshots::info;
use crate::{kill_rounds, resident_bytes};

/// Name of the environment variable that sets another number of forged datagrams.
const FORGED_VARIABLE: &str = "BOWLINE_FORGED_DATAGRAMS";
const UDP: &[&str] = &["--peer-transport", "udp"];

/// Relays between all pairs of replicas. Each relay loses datagrams in both directions.
pub(crate) struct Relays {
    /// For each sender, then for each receiver: the port of the relay to which the sender sends.
    pub(crate) ports: Vec<Vec<u16>>,
    /// Share of datagrams that the relays lose, in permille.
    pub(crate) loss: Arc<AtomicU32>,
    /// The first datagrams that the relays forwarded, up to [`SEEN_MAX`].
    pub(crate) seen: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// Forwards TCP connections from this port to `target`, without any loss.
pub(crate) fn forward_tcp(port: u16, target: u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    thread::spawn(move || {
        for from in listener.incoming().flatten() {
            // Dropping the connection refuses it, as a replica that is down would.
            let Ok(to) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)) else { continue };
            for (mut from, mut to) in
                [(from.try_clone(), to.try_clone()), (to.try_clone(), from.try_clone())]
                    .map(|(from, to)| (from.unwrap(), to.unwrap()))
            {
                thread::spawn(move || {
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        }
    });
}

/// Maximum number of forwarded datagrams that are recorded in `seen`.
const SEEN_MAX: usize = 5_000;

impl Relays {
    /// Starts relays to replicas that listen on the ports `targets`. The relays run until the
    /// process ends.
    pub(crate) fn new(targets: &[u16], loss: u32) -> Relays {
        let loss = Arc::new(AtomicU32::new(loss));
        let seen = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let relay = |target: u16| {
            let bind = |port| Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).unwrap());
            // Free for TCP as well.
            let port = free_port();
            let (front, back) = (bind(port), bind(0));
            // The address of the sender; the last one, if it restarts.
            let sender = Arc::new(Mutex::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 1))));
            for is_forward in [true, false] {
                let (from, to) = if is_forward { (&front, &back) } else { (&back, &front) };
                let (from, to) = (Arc::clone(from), Arc::clone(to));
                let (sender, loss) = (Arc::clone(&sender), Arc::clone(&loss));
                let seen = Arc::clone(&seen);
                thread::spawn(move || {
                    let mut rng = ChaCha8Rng::seed_from_u64(port.into());
                    let mut space = [0; 2_000];
                    loop {
                        // An error refers to an earlier datagram, sent to a replica that is down.
                        let Ok((count, address)) = from.recv_from(&mut space) else { continue };
                        if is_forward {
                            *sender.lock() = address;
                        }
                        if rng.random_range(0..1_000) < loss.load(Ordering::Relaxed) {
                            continue;
                        }
                        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, target));
                        let target = if is_forward { target } else { *sender.lock() };
                        let _ = to.send_to(&space[..count], target);
                        let mut seen = seen.lock();
                        if seen.len() < SEEN_MAX {
                            seen.push(space[..count].to_vec());
                        }
                    }
                });
            }
            port
        };
        let from = |_| targets.iter().map(|target| relay(*target)).collect();
        Relays { ports: (0..targets.len()).map(from).collect(), loss, seen }
    }
}

/// Starts three replicas with relays between them.
fn between_relays(threads: &'static str, loss: u32) -> (Cluster, Relays) {
    many_between_relays(3, threads, loss)
}

/// Starts `count` replicas with relays between them.
fn many_between_relays(count: usize, threads: &'static str, loss: u32) -> (Cluster, Relays) {
    let ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
    let relays = Relays::new(&ports, loss);
    let cluster = Cluster::start_between(ports, threads, UDP, |from, to| relays.ports[from][to]);
    (cluster, relays)
}

#[test]
fn writes_survive_kills_over_lossy_udp_with_thread_per_stage() {
    kill_rounds(between_relays("dedicated", 200).0, "dedicated over datagrams");
}

#[test]
fn writes_survive_kills_over_lossy_udp_with_shared_stage_thread() {
    kill_rounds(between_relays("fused", 300).0, "fused over datagrams");
}

#[test]
fn writes_survive_kills_over_lossy_udp_with_five_replicas() {
    kill_rounds(many_between_relays(5, "auto", 200).0, "five replicas over datagrams");
}

#[test]
fn writes_survive_kills_over_lossy_udp_with_seven_replicas() {
    kill_rounds(many_between_relays(7, "auto", 200).0, "seven replicas over datagrams");
}

/// Half of all datagrams are lost, but large values are still written.
#[test]
fn large_values_replicate_at_50_percent_packet_loss() {
    let (cluster, relays) = between_relays("auto", 500);
    cluster.wait_until_all_serve();
    let leader = cluster.leader();
    let term = info(cluster.address(leader), "raft_term").unwrap();
    let mut client = Client::connect(cluster.address(leader)).unwrap();
    let value = vec![7; 1 << 20];
    for number in 0..10_u8 {
        assert_eq!(client.call(&[b"SET", &[number], &value]).unwrap(), b"+OK\r\n");
    }
    let peer = (leader + 1) % 3;
    let path = cluster.wait_for("a measured loss", || {
        let field = format!("raft_path_{}", peer + 1);
        let text = String::from_utf8(client.call(&[b"INFO", b"raft"]).ok()?).ok()?;
        let text = text.lines().find(|line| line.starts_with(&field))?.to_owned();
        let loss = text.split("loss_permille=").nth(1)?.split(',').next()?.parse::<u32>().ok()?;
        (350..650).contains(&loss).then_some(text)
    });
    assert!(path.contains("rtt_us="), "{path}");
    relays.loss.store(0, Ordering::Relaxed);
    for at in 0..3 {
        let mut reader = Client::connect(cluster.address(at)).unwrap();
        assert_eq!(reader.call(&[b"STRLEN", &[9]]).unwrap(), b":1048576\r\n");
    }
    let later = info(cluster.address(leader), "raft_term").unwrap();
    assert_eq!(later, term, "no election\n{}", cluster.logs());
}

/// Random, forged and replayed datagrams from another address cause no election and no lost write,
/// and memory usage does not grow.
#[test]
fn forged_and_replayed_datagrams_are_ignored() {
    let rounds = std::env::var(FORGED_VARIABLE).ok().and_then(|text| text.parse().ok());
    let rounds = rounds.unwrap_or(40_000);
    let (cluster, relays) = between_relays("auto", 0);
    cluster.wait_until_all_serve();
    let is_connected = |at| cluster.log(at).matches("connected to a peer").count() == 2;
    cluster.wait_for("lasting connections", || (0..3).all(is_connected).then_some(()));
    let leader = cluster.leader();
    let mut client = Client::connect(cluster.address(leader)).unwrap();
    let mut sum = 0;
    let mut add = || {
        let begin = Instant::now();
        sum += 1;
        assert_eq!(client.call(&[b"INCRBY", b"sum", b"1"]).unwrap(), reply_of(sum));
        begin.elapsed()
    };
    let alone: Vec<Duration> = (0..2_000).map(|_| add()).collect();
    let term = info(cluster.address(leader), "raft_term").unwrap();
    let before: Vec<u64> =
        (0..3).map(|at| resident_bytes(cluster.process(at)).unwrap_or(0)).collect();
    let replayed = relays.seen.lock().clone();
    assert!(replayed.len() > 100, "{} datagrams were seen", replayed.len());
    let targets = [0, 1, 2].map(|at| cluster.peer_port(at));
    let attacker = thread::spawn(move || attack(rounds, &replayed, targets));
    let mut during = Vec::new();
    while !attacker.is_finished() {
        during.push(add());
    }
    let took = attacker.join().unwrap();
    eprintln!(
        "{rounds} forged datagrams in {took:?}; p99 of a write: alone {:?}, attacked {:?}",
        p99(alone),
        p99(during)
    );
    assert_eq!(info(cluster.address(leader), "raft_term").unwrap(), term, "{}", cluster.logs());
    assert!(!cluster.logs().contains("connection to a peer lost"), "{}", cluster.logs());
    for (at, before) in before.iter().enumerate() {
        let now = resident_bytes(cluster.process(at)).unwrap_or(0);
        assert!(now < before + (64 << 20), "replica {}: {before} to {now} bytes", at + 1);
    }
}

/// Sends `rounds` forged datagrams to the targets in turn, at most 50,000 per second in total.
/// Returns how long the attack took.
fn attack(rounds: u64, replayed: &[Vec<u8>], targets: [u16; 3]) -> Duration {
    let begin = Instant::now();
    let attacker = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let ids: Vec<StreamId> = replayed.iter().filter_map(|bytes| id_of(bytes)).collect();
    assert!(!ids.is_empty(), "no stream was seen");
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    for (round, target) in (0..rounds).zip(targets.into_iter().cycle()) {
        let mut bytes = Vec::new();
        // The id of an existing stream, with a guessed cookie.
        let known = ids[rng.random_range(0..ids.len())];
        let id = StreamId { cookie: rng.random(), ..known };
        match round / 3 % 6 {
            0 => datagram::encode(
                &Datagram::Open(StreamId { stream: rng.random(), cookie: 0 }),
                &mut bytes,
            ),
            1 => {
                let data = Data { number: rng.random(), offset: rng.random(), payload: b"x" };
                datagram::encode(&Datagram::Data(id, data), &mut bytes);
            }
            2 => {
                let ack = Ack { largest: 5, received: 1 << 40, limit: u64::MAX, ..Ack::default() };
                datagram::encode(&Datagram::Ack(id, ack), &mut bytes);
            }
            3 => datagram::encode(&Datagram::Reset(id), &mut bytes),
            4 => bytes = (0..rng.random_range(0..200)).map(|_| rng.random()).collect(),
            _ => bytes.clone_from(&replayed[rng.random_range(0..replayed.len())]),
        }
        let _ = attacker.send_to(&bytes, (Ipv4Addr::LOCALHOST, target));
        if round % 50 == 0 {
            let due = Duration::from_millis(round / 50);
            thread::sleep(due.saturating_sub(begin.elapsed()));
        }
    }
    begin.elapsed()
}

/// Returns the 99th percentile of the durations.
fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

pub(crate) fn reply_of(number: u32) -> Vec<u8> {
    format!(":{number}\r\n").into_bytes()
}

fn id_of(bytes: &[u8]) -> Option<StreamId> {
    match datagram::decode(bytes) {
        Ok(Datagram::Data(id, _) | Datagram::Ack(id, _)) => Some(id),
        _ => None,
    }
}

/// By default, small messages measure the packet loss. Where TCP is blocked, as by these relays,
/// entries are sent in datagrams too.
#[test]
fn log_entries_replicate_over_udp_where_tcp_is_blocked() {
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let relays = Relays::new(&ports, 100);
    let cluster = Cluster::start_between(ports, "auto", &[], |from, to| relays.ports[from][to]);
    cluster.wait_until_all_serve();
    let mut client = Client::connect(cluster.address(cluster.leader())).unwrap();
    for number in 1..=200 {
        assert_eq!(client.call(&[b"INCR", b"sum"]).unwrap(), reply_of(number));
    }
    assert!(cluster.logs().contains("log entries to a peer switched"), "{}", cluster.logs());
}

/// By default, entries are sent over TCP until packets begin to get lost, and in datagrams from
/// then on.
#[test]
fn log_entries_switch_from_tcp_to_udp_under_packet_loss() {
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let relays = Relays::new(&ports, 0);
    for row in &relays.ports {
        for (port, target) in row.iter().zip(&ports) {
            forward_tcp(*port, *target);
        }
    }
    let cluster = Cluster::start_between(ports, "auto", &[], |from, to| relays.ports[from][to]);
    cluster.wait_until_all_serve();
    let leader = cluster.leader();
    let mut client = Client::connect(cluster.address(leader)).unwrap();
    let changed = |at| cluster.log(at).matches("log entries to a peer switched").count();
    let mut sum = 0;
    let mut increment = |client: &mut Client| {
        sum += 1;
        assert_eq!(client.call(&[b"INCR", b"sum"]).unwrap(), reply_of(sum));
    };
    (0..200).for_each(|_| increment(&mut client));
    assert_eq!(changed(leader), 0, "{}", cluster.logs());
    relays.loss.store(200, Ordering::Relaxed);
    cluster.wait_for("entries as datagrams to both peers", || {
        increment(&mut client);
        (changed(leader) == 2).then_some(())
    });
    (0..200).for_each(|_| increment(&mut client));
}

/// When a replica is down, TCP connections to it fail, but this says nothing about the network.
#[test]
fn replica_restart_does_not_switch_log_entries_to_udp() {
    let mut cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    cluster.kill(1);
    thread::sleep(Duration::from_millis(500));
    cluster.restart();
    cluster.wait_until_all_serve();
    // Longer than the time for which TCP must fail before the transport changes.
    thread::sleep(Duration::from_secs(9));
    assert!(!cluster.logs().contains("log entries to a peer switched"), "{}", cluster.logs());
}

#[test]
fn default_transport_sends_log_entries_over_tcp_and_probes_udp() {
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    for at in 0..3 {
        let mut client = Client::connect(cluster.address(at)).unwrap();
        cluster.wait_for("the paths to both peers", || {
            let text = String::from_utf8(client.call(&[b"INFO", b"raft"]).ok()?).ok()?;
            (text.matches("raft_path_").count() == 2).then_some(())
        });
    }
    assert!(!cluster.logs().contains("log entries to a peer switched"), "{}", cluster.logs());
}

/// The transport can be changed on one replica at a time.
#[test]
fn replicas_with_tcp_and_udp_transports_form_a_cluster() {
    let mut cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    for at in 0..3 {
        cluster.kill(at);
        let mut command = cluster.command(at);
        command.args(UDP);
        cluster.start_as(at, command);
        cluster.wait_until_all_serve();
        thread::sleep(Duration::from_millis(100));
    }
    assert!((0..3).all(|at| cluster.runs(at)), "{}", cluster.logs());
}
