//! Large values and commands with very many arguments: they do not stop other clients, are applied
//! once whatever happens to the leader, and are refused with an error where they are too large.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::client::{Client, command};
use crate::load::StopAtEnd;
use crate::replicas::Cluster;

const MB: usize = 1_000_000;
/// Number of rounds. In at least one of them the leader must not change; on a busy machine it may
/// change in others.
const ROUNDS: usize = 6;
/// Well-behaved clients of each replica.
const OTHERS: usize = 4;
/// Lengths of the values that one client sets in a round.
const LENGTHS: [usize; 4] = [MB, 10 * MB, 40 * MB, 60 * MB];

fn shown(reply: &[u8]) -> String {
    String::from_utf8_lossy(&reply[..reply.len().min(100)]).into_owned()
}

/// Sets and reads a small key until `stop`. Returns the number of writes. Panics at any error.
fn write_and_read(address: SocketAddr, name: usize, stop: &AtomicBool) -> u64 {
    let mut client = Client::connect(address).unwrap();
    let (key, mut count) = (format!("small:{name}").into_bytes(), 0_u64);
    while !stop.load(Ordering::Relaxed) {
        count += 1;
        let value = count.to_string();
        let reply = client.call(&[b"SET", &key, value.as_bytes()]).unwrap();
        assert_eq!(shown(&reply), "+OK\r\n");
        let reply = client.call(&[b"GET", &key]).unwrap();
        assert_eq!(shown(&reply), format!("${}\r\n{value}\r\n", value.len()));
    }
    count
}

/// Checks that a key has a value of `length` bytes, all of them `byte`, at its two ends at least.
fn check_value(client: &mut Client, key: &[u8], length: usize, byte: u8) {
    assert_eq!(shown(&client.call(&[b"STRLEN", key]).unwrap()), format!(":{length}\r\n"));
    for (from, to) in [(&b"0"[..], &b"9"[..]), (b"-10", b"-1")] {
        let reply = client.call(&[b"GETRANGE", key, from, to]).unwrap();
        assert_eq!(reply, [&b"$10\r\n"[..], &[byte; 10], b"\r\n"].concat());
    }
}

/// A client of the leader and one of a follower set large values while others set small ones.
/// No client gets an error. Returns whether leader and term are unchanged.
fn large_and_small_values(cluster: &Cluster) -> bool {
    let (leader, term) = (cluster.leader(), cluster.term());
    let stop = AtomicBool::new(false);
    let small = AtomicU64::new(0);
    thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for name in 0..3 * OTHERS {
            let (address, stop, small) = (cluster.address(name % 3), &stop, &small);
            scope.spawn(move || {
                small.fetch_add(write_and_read(address, name, stop), Ordering::Relaxed);
            });
        }
        let large = |name: u8| {
            let at = if name == 0 { (leader + 1) % 3 } else { leader };
            let mut client = Client::connect(cluster.address(at)).unwrap();
            let key = [b'k', name];
            for (byte, length) in (b'a'..).zip(LENGTHS) {
                let reply = client.call(&[b"SET", &key, &vec![byte + name; length]]).unwrap();
                assert_eq!(shown(&reply), "+OK\r\n");
                check_value(&mut client, &key, length, byte + name);
            }
        };
        let threads: Vec<_> = (0..2).map(|name| scope.spawn(move || large(name))).collect();
        for thread in threads {
            thread.join().unwrap();
        }
    });
    assert!(small.into_inner() >= 3 * OTHERS as u64, "each of them was served");
    cluster.leader() == leader && cluster.term() == term
}

fn large_values_leave_others_alone(threads: &'static str) {
    let cluster = Cluster::start(3, threads);
    cluster.wait_until_all_serve();
    let calm = (0..ROUNDS).any(|_| large_and_small_values(&cluster));
    assert!(calm, "the leader changed each time\n{}", cluster.logs());
    for at in 0..3 {
        let mut client = Client::connect(cluster.address(at)).unwrap();
        for name in 0..2 {
            check_value(&mut client, &[b'k', name], LENGTHS[3], b'd' + name);
        }
    }
}

#[test]
fn large_values_stop_no_other_client_with_dedicated_threads() {
    large_values_leave_others_alone("dedicated");
}

#[test]
fn large_values_stop_no_other_client_with_fused_threads() {
    large_values_leave_others_alone("fused");
}

/// `APPEND` is not idempotent: a value that is applied twice, or in part, has another length.
#[test]
fn large_value_is_applied_once_when_the_leader_is_killed() {
    const LENGTH: usize = 30 * MB;
    let mut cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    for round in 1..=3 {
        let leader = cluster.leader();
        let address = cluster.address((leader + 1) % 3);
        let append = thread::spawn(move || {
            let mut client = Client::connect(address).unwrap();
            client.call(&[b"APPEND", format!("k{round}").as_bytes(), &vec![b'x'; LENGTH]]).unwrap()
        });
        // The log of the leader has some of the pieces, and not all of them.
        let before: u64 = cluster.info(leader, "raft_last_index");
        cluster.wait_for("the first pieces", || {
            let last: u64 = cluster.info(leader, "raft_last_index");
            (last > before + 10).then_some(())
        });
        cluster.kill(leader);
        assert_eq!(shown(&append.join().unwrap()), format!(":{LENGTH}\r\n"));
        cluster.restart();
        cluster.wait_until_all_serve();
        for at in 0..3 {
            let mut client = Client::connect(cluster.address(at)).unwrap();
            let key = format!("k{round}").into_bytes();
            check_value(&mut client, &key, LENGTH, b'x');
        }
    }
}

#[test]
fn requests_behind_a_large_write_are_executed_in_order() {
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    for at in 0..3 {
        let mut client = Client::connect(cluster.address(at)).unwrap();
        for round in 0..10_usize {
            let small = round.to_string().into_bytes();
            let large = vec![b'x'; 3 * MB + round];
            let mut bytes = command(&[b"SET", b"k", b"first"]);
            bytes.extend(command(&[b"SET", b"k", &large]));
            bytes.extend(command(&[b"STRLEN", b"k"]));
            bytes.extend(command(&[b"APPEND", b"k", b"y"]));
            bytes.extend(command(&[b"SET", b"k", &small]));
            bytes.extend(command(&[b"GET", b"k"]));
            client.send(&bytes).unwrap();
            let length = large.len();
            let wanted = [
                "+OK\r\n".to_owned(),
                "+OK\r\n".to_owned(),
                format!(":{length}\r\n"),
                format!(":{}\r\n", length + 1),
                "+OK\r\n".to_owned(),
                format!("${}\r\n{round}\r\n", small.len()),
            ];
            for wanted in wanted {
                assert_eq!(shown(&client.reply().unwrap()), wanted);
            }
        }
    }
}

/// Redis accepts up to 2,147,483,647 arguments.
#[test]
fn commands_with_millions_of_arguments_work() {
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    for (at, count) in [(0, 1_048_577_u32), (1, 3_000_000)] {
        let mut client = Client::connect(cluster.address(at)).unwrap();
        let key = format!("set:{count}").into_bytes();
        let mut bytes = format!("*{}\r\n", count + 2).into_bytes();
        for word in [b"SADD", &key[..]] {
            write!(bytes, "${}\r\n", word.len()).unwrap();
            bytes.extend_from_slice(word);
            bytes.extend_from_slice(b"\r\n");
        }
        for member in 0..count {
            write!(bytes, "$7\r\n{member:07}\r\n").unwrap();
        }
        client.send(&bytes).unwrap();
        assert_eq!(shown(&client.reply().unwrap()), format!(":{count}\r\n"));
        let mut client = Client::connect(cluster.address(at + 1)).unwrap();
        assert_eq!(shown(&client.call(&[b"SCARD", &key]).unwrap()), format!(":{count}\r\n"));
    }
}

#[test]
fn too_large_requests_get_an_error_and_keep_their_connection() {
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let mut client = Client::connect(cluster.address(0)).unwrap();
    let mut refused = |request: &[&[u8]], error: &str| {
        let reply = client.call(request).unwrap();
        assert!(shown(&reply).starts_with(error), "{}", shown(&reply));
        assert_eq!(client.call(&[b"PING"]).unwrap(), b"+PONG\r\n");
    };
    let limit = vec![b'x'; 64 << 20];
    let half = vec![b'x'; 40 * MB];
    refused(&[b"SET", b"k", &limit], "-ERR the command is too large: it takes 671089");
    refused(
        &[b"MSET", b"a", &half, b"b", &half, b"c", &half],
        "-ERR the request is too large: at most 68157440 bytes are allowed\r\n",
    );
    refused(&[b"EXISTS", b"k", b"a", b"b"], ":0\r\n");
    // A request that was not queued aborts its transaction, as in Redis.
    assert_eq!(client.call(&[b"MULTI"]).unwrap(), b"+OK\r\n");
    let reply = client.call(&[b"SET", b"k", b"1"]).unwrap();
    assert_eq!(shown(&reply), "+QUEUED\r\n");
    assert!(client.call(&[b"MSET", b"a", &half, b"b", &half]).unwrap().starts_with(b"-ERR the re"));
    assert!(client.call(&[b"EXEC"]).unwrap().starts_with(b"-EXECABORT "));
    // An argument beyond the limit is a protocol error, as in Redis.
    client
        .send(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n", limit.len() + 1).as_bytes())
        .unwrap();
    let reply = client.reply().unwrap();
    assert_eq!(shown(&reply), "-ERR Protocol error: invalid bulk length\r\n");
    assert!(client.reply().is_err(), "the connection is closed");
}

#[test]
fn disconnect_during_a_large_request_frees_its_memory() {
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    for at in 0..3 {
        let mut client = Client::connect(cluster.address(at)).unwrap();
        let held = |client: &mut Client| -> u64 {
            let text = String::from_utf8(client.call(&[b"INFO", b"memory"]).unwrap()).unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix("mem_clients_normal:"));
            line.unwrap().parse().unwrap()
        };
        let request = command(&[b"SET", b"k", &vec![b'x'; 30 * MB]]);
        for _ in 0..2 {
            let mut other = Client::connect(cluster.address(at)).unwrap();
            other.send(&request[..request.len() / 2]).unwrap();
            cluster.wait_for("half of a request", || (held(&mut client) > 10 << 20).then_some(()));
        }
        // One that is complete, and does not wait for its reply.
        Client::connect(cluster.address(at)).unwrap().send(&request).unwrap();
        cluster
            .wait_for("memory that is free again", || (held(&mut client) < 1 << 20).then_some(()));
        let value = vec![b'y'; 5 * MB];
        assert_eq!(client.call(&[b"SET", b"other", &value]).unwrap(), b"+OK\r\n");
    }
}
