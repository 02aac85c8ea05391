//! Functions on a cluster of server processes: loaded once, known at every replica, after kills and
//! in a snapshot; and their effects exactly once.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::client::Client;
use crate::load::StopAtEnd;
use crate::replicas::Cluster;
use crate::scripts::{number, rounds, run};

const LOAD: Duration = Duration::from_millis(250);

/// A library that adds `step` to a counter, and counts its calls in a second key.
fn library(step: u64) -> Vec<u8> {
    format!(
        "#!lua name=lib\nredis.register_function('add', function(keys) \
         redis.call('incr', keys[2]) return redis.call('incrby', keys[1], {step}) end)\n\
         redis.register_function{{function_name='peek', callback=function(keys) \
         return tonumber(redis.call('get', keys[1]) or 0) end, flags={{'no-writes'}}}}"
    )
    .into_bytes()
}

#[test]
fn function_is_exact_while_leaders_are_killed_and_its_library_is_replaced() {
    let mut cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let addresses: Vec<SocketAddr> = (0..3).map(|at| cluster.address(at)).collect();
    let mut client = Client::connect(addresses[0]).unwrap();
    let loaded = client.call_until_ok(&[b"FUNCTION", b"LOAD", &library(1)]);
    assert_eq!(loaded, b"$3\r\nlib\r\n");
    let (stop, lost, unknown) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let (seen, loads) = (Mutex::new(BTreeSet::new()), AtomicU64::new(0));
    thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for client in 0..6 {
            let (address, stop, lost) = (addresses[client % 3], &stop, &lost);
            let (seen, unknown) = (&seen, &unknown);
            let mut previous = 0;
            scope.spawn(move || {
                run(address, stop, lost, |client| {
                    let reply = client.call(&[b"FCALL", b"add", b"2", b"sum", b"calls"])?;
                    if let Some(value) = number(&reply) {
                        assert!(value > previous, "{value} after {previous}");
                        previous = value;
                        assert!(seen.lock().unwrap().insert(value), "{value} twice");
                    } else if reply.starts_with(b"-UNCERTAIN ") {
                        unknown.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                });
            });
        }
        let (address, stop, lost, loads) = (addresses[1], &stop, &lost, &loads);
        let mut added = 1;
        scope.spawn(move || {
            run(address, stop, lost, |client| {
                added = added % 3 + 1;
                let code = library(added);
                let reply = client.call(&[b"FUNCTION", b"LOAD", b"REPLACE", &code])?;
                loads.fetch_add(u64::from(reply.starts_with(b"$3")), Ordering::Relaxed);
                thread::sleep(LOAD / 10);
                Ok(())
            });
        });
        for _ in 0..rounds() {
            thread::sleep(LOAD);
            let leader = cluster.leader();
            cluster.kill(leader);
            thread::sleep(LOAD);
            cluster.restart();
            cluster.wait_until_all_serve();
        }
        thread::sleep(LOAD);
    });
    let mut client = Client::connect(addresses[2]).unwrap();
    let calls = number(&client.call(&[b"FCALL_RO", b"peek", b"1", b"calls"]).unwrap()).unwrap();
    let sum = number(&client.call(&[b"FCALL_RO", b"peek", b"1", b"sum"]).unwrap()).unwrap();
    let seen = seen.into_inner().unwrap();
    let unknown = lost.into_inner() + unknown.into_inner();
    eprintln!("{} acknowledged, {unknown} unknown, {calls} calls, sum {sum}", seen.len());
    let acknowledged = seen.len() as u64;
    assert!(acknowledged > 20 && loads.into_inner() > 2, "{acknowledged}");
    assert!((acknowledged..=acknowledged + unknown).contains(&calls), "{calls}");
    assert!((calls..=3 * calls).contains(&sum) && seen.last() <= Some(&sum), "{sum}");
    cluster.wait_until_states_are_equal();
}

#[test]
fn library_is_at_every_replica_after_a_kill_and_in_the_words_of_info() {
    let mut cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let mut client = Client::connect(cluster.address(1)).unwrap();
    assert!(client.call(&[b"FUNCTION", b"LOAD", &library(1)]).unwrap().starts_with(b"$3"));
    assert!(client.call(&[b"FUNCTION", b"LOAD", &library(1)]).unwrap().starts_with(b"-ERR Lib"));
    let leader = cluster.leader();
    cluster.kill(leader);
    let mut count = 0;
    for at in (0..3).filter(|at| *at != leader) {
        let mut client = Client::connect(cluster.address(at)).unwrap();
        let reply = cluster.wait_for("a leader", || {
            number(&client.call(&[b"FCALL", b"ADD", b"2", b"k", b"c"]).unwrap())
        });
        count += 1;
        assert_eq!(reply, count);
    }
    cluster.restart();
    cluster.wait_until_all_serve();
    let mut client = Client::connect(cluster.address(leader)).unwrap();
    assert_eq!(client.call(&[b"FCALL", b"add", b"2", b"k", b"c"]).unwrap(), b":3\r\n");
    for at in 0..3 {
        let mut client = Client::connect(cluster.address(at)).unwrap();
        // The read makes sure that the replica has applied the load.
        assert!(client.call(&[b"FUNCTION", b"LIST"]).unwrap().starts_with(b"*1\r\n"));
        let info = client.call(&[b"INFO", b"memory"]).unwrap();
        let info = String::from_utf8_lossy(&info).into_owned();
        for wanted in ["number_of_libraries:1\r\n", "number_of_functions:2\r\n"] {
            assert!(info.contains(wanted), "replica {at}: {info}");
        }
    }
    let payload = client.call(&[b"FUNCTION", b"DUMP"]).unwrap();
    let from = payload.windows(2).position(|pair| pair == b"\r\n").unwrap() + 2;
    assert_eq!(client.call(&[b"FLUSHALL"]).unwrap(), b"+OK\r\n");
    assert_eq!(client.call(&[b"FCALL", b"add", b"2", b"k", b"c"]).unwrap(), b":1\r\n");
    assert_eq!(client.call(&[b"FUNCTION", b"FLUSH"]).unwrap(), b"+OK\r\n");
    for at in 0..3 {
        let mut client = Client::connect(cluster.address(at)).unwrap();
        let reply = client.call(&[b"FCALL", b"add", b"2", b"k", b"c"]).unwrap();
        assert_eq!(reply, b"-ERR Function not found\r\n");
    }
    let payload = &payload[from..payload.len() - 2];
    assert_eq!(client.call(&[b"FUNCTION", b"RESTORE", payload]).unwrap(), b"+OK\r\n");
    assert_eq!(client.call(&[b"FCALL", b"add", b"2", b"k", b"c"]).unwrap(), b":2\r\n");
    cluster.wait_until_states_are_equal();
}

#[test]
fn endless_function_is_shown_and_killed_without_delay_of_others() {
    let cluster = Cluster::start(1, "auto");
    cluster.wait_until_all_serve();
    let address = cluster.address(0);
    let mut other = Client::connect(address).unwrap();
    let code = b"#!lua name=lib\nredis.register_function('f', function(keys) \
        redis.call('set', keys[1], 'v') while true do end end)";
    assert!(other.call_until_ok(&[b"FUNCTION", b"LOAD", code]).starts_with(b"$3"));
    thread::scope(|scope| {
        let endless = scope.spawn(move || {
            let mut client = Client::connect(address).unwrap();
            client.call(&[b"FCALL", b"f", b"1", b"key"]).unwrap()
        });
        let stats = cluster.wait_for("a running function", || {
            let stats = other.call(&[b"FUNCTION", b"STATS"]).unwrap();
            let is_running = stats.windows(7).any(|it| it == b"command");
            is_running.then_some(stats)
        });
        let shown = String::from_utf8_lossy(&stats).into_owned();
        for wanted in ["name\r\n$1\r\nf\r\n", "*4\r\n$5\r\nFCALL\r\n", "duration_ms\r\n:"] {
            assert!(shown.contains(wanted), "{shown}");
        }
        assert!(other.call(&[b"SCRIPT", b"KILL"]).unwrap().starts_with(b"-BUSY "));
        assert_eq!(other.call(&[b"FUNCTION", b"KILL"]).unwrap(), b"+OK\r\n");
        assert!(endless.join().unwrap().starts_with(b"-ERR Error running script"));
        assert_eq!(other.call(&[b"GET", b"key"]).unwrap(), b"$-1\r\n", "nothing was applied");
        assert!(other.call(&[b"FUNCTION", b"KILL"]).unwrap().starts_with(b"-NOTBUSY "));
    });
}
