//! Scripts on a cluster of server processes: exactly once, all or nothing, on every replica, while
//! leaders are killed; and a script that never ends.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::client::Client;
use crate::load::StopAtEnd;
use crate::replicas::Cluster;

/// Name of the environment variable that sets the number of rounds in which the leader is killed.
const ROUNDS_VARIABLE: &str = "BOWLINE_SCRIPT_ROUNDS";
const LOAD: Duration = Duration::from_millis(250);
const BREATH: Duration = Duration::from_millis(2);

/// A counter with an expiration, as rate limiters have it.
const COUNTER: &[u8] = b"local v = redis.call('incr', KEYS[1]) \
    if v == 1 then redis.call('expire', KEYS[1], 1000) end return v";
/// Writes two keys, which must be equal before.
const TWINS: &[u8] = b"if redis.call('get', KEYS[1]) ~= redis.call('get', KEYS[2]) then \
    return redis.error_reply('HALF') end redis.call('set', KEYS[1], ARGV[1]) \
    redis.call('set', KEYS[2], ARGV[1]) return 'done'";

pub(crate) fn rounds() -> u64 {
    std::env::var(ROUNDS_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(2)
}

pub(crate) fn number(reply: &[u8]) -> Option<u64> {
    std::str::from_utf8(reply).ok()?.strip_prefix(':')?.trim_end().parse().ok()
}

fn is_uncertain(reply: &[u8]) -> bool {
    reply.starts_with(b"-UNCERTAIN ")
}

/// Calls `each` with a connected client until `stop` is set. The client reconnects when its replica
/// is killed; `lost` counts the calls whose replies were lost then.
pub(crate) fn run(
    address: SocketAddr,
    stop: &AtomicBool,
    lost: &AtomicU64,
    mut each: impl FnMut(&mut Client) -> std::io::Result<()>,
) {
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut client) = Client::connect(address) else {
            thread::sleep(BREATH * 5);
            continue;
        };
        while !stop.load(Ordering::Relaxed) {
            if each(&mut client).is_err() {
                lost.fetch_add(1, Ordering::Relaxed);
                break;
            }
            thread::sleep(BREATH);
        }
    }
}

#[test]
fn counter_script_is_exact_while_leaders_are_killed() {
    let mut cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let addresses: Vec<SocketAddr> = (0..3).map(|at| cluster.address(at)).collect();
    let (stop, lost, uncertain) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let seen = Mutex::new(BTreeSet::new());
    thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for client in 0..6 {
            let (address, stop, lost) = (addresses[client % 3], &stop, &lost);
            let (seen, uncertain) = (&seen, &uncertain);
            let mut previous = 0;
            scope.spawn(move || {
                run(address, stop, lost, |client| {
                    let reply = client.call(&[b"EVAL", COUNTER, b"1", b"counter"])?;
                    if let Some(value) = number(&reply) {
                        assert!(value > previous, "{value} after {previous}");
                        previous = value;
                        assert!(seen.lock().unwrap().insert(value), "{value} twice");
                    } else if is_uncertain(&reply) {
                        uncertain.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                });
            });
        }
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
    let mut client = Client::connect(addresses[0]).unwrap();
    let reply = client.call(&[b"EVAL_RO", b"return tonumber(redis.call('get','counter'))", b"0"]);
    let total = number(&reply.unwrap()).expect("a number");
    let acknowledged = seen.into_inner().unwrap().len() as u64;
    let unknown = lost.into_inner() + uncertain.into_inner();
    eprintln!("{acknowledged} acknowledged, {unknown} unknown, {total} counted");
    assert!(acknowledged > 20, "{acknowledged}");
    assert!((acknowledged..=acknowledged + unknown).contains(&total), "{total}");
    let ttl = number(&client.call(&[b"TTL", b"counter"]).unwrap()).expect("a number");
    assert!((1..=1_000).contains(&ttl), "{ttl}");
    cluster.wait_until_states_are_equal();
}

#[test]
fn script_of_two_keys_is_applied_whole_or_not_at_all() {
    let mut cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let addresses: Vec<SocketAddr> = (0..3).map(|at| cluster.address(at)).collect();
    let (stop, lost, done) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for client in 0..4 {
            let (address, stop, lost, done) = (addresses[client % 3], &stop, &lost, &done);
            let mut number = 0;
            scope.spawn(move || {
                run(address, stop, lost, |connection| {
                    number += 1;
                    let value = format!("{client}.{number}").into_bytes();
                    let reply = connection.call(&[b"EVAL", TWINS, b"2", b"one", b"two", &value])?;
                    assert!(!reply.starts_with(b"-HALF"), "half of a script was applied");
                    done.fetch_add(u64::from(reply.starts_with(b"$4\r\ndone")), Ordering::Relaxed);
                    let both = connection.call(&[b"MGET", b"one", b"two"])?;
                    if both.starts_with(b"*2\r\n") {
                        let values = &both[4..];
                        let (one, two) = values.split_at(values.len() / 2);
                        assert_eq!(one, two, "half of a script was applied");
                    }
                    Ok(())
                });
            });
        }
        for round in 0..rounds() {
            thread::sleep(LOAD / 4 * u32::try_from(round % 4 + 1).unwrap());
            let leader = cluster.leader();
            cluster.kill(leader);
            thread::sleep(LOAD);
            cluster.restart();
            cluster.wait_until_all_serve();
        }
    });
    assert!(done.into_inner() > 10);
    cluster.wait_until_states_are_equal();
}

#[test]
fn kept_script_runs_at_every_replica_after_a_kill_and_a_restart() {
    let mut cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let mut client = Client::connect(cluster.address(0)).unwrap();
    let loaded = client.call(&[b"SCRIPT", b"LOAD", COUNTER]).unwrap();
    let sha = loaded.strip_prefix(b"$40\r\n").expect("a SHA-1")[..40].to_vec();
    assert_eq!(client.call(&[b"EVAL", b"return 7", b"0"]).unwrap(), b":7\r\n");
    // The SHA-1 of the script that EVAL has run.
    let by_the_way: &[u8] = b"59b6ab2fbe0ee4b25733de0f62e6cda4899ef8e9";
    let leader = cluster.leader();
    cluster.kill(leader);
    let mut count = 0;
    for at in (0..3).filter(|at| *at != leader) {
        let mut client = Client::connect(cluster.address(at)).unwrap();
        let reply = cluster.wait_for("a leader", || {
            let reply = client.call(&[b"EVALSHA", &sha, b"1", b"k"]).unwrap();
            number(&reply)
        });
        count += 1;
        assert_eq!(reply, count);
    }
    cluster.restart();
    cluster.wait_until_all_serve();
    let mut client = Client::connect(cluster.address(leader)).unwrap();
    assert_eq!(client.call(&[b"EVALSHA", &sha, b"1", b"k"]).unwrap(), b":3\r\n");
    let known = client.call(&[b"SCRIPT", b"EXISTS", &sha, by_the_way]).unwrap();
    assert_eq!(known, b"*2\r\n:1\r\n:1\r\n");
    assert_eq!(client.call(&[b"SCRIPT", b"FLUSH"]).unwrap(), b"+OK\r\n");
    for at in 0..3 {
        let mut client = Client::connect(cluster.address(at)).unwrap();
        let reply = client.call(&[b"EVALSHA", &sha, b"1", b"k"]).unwrap();
        assert!(reply.starts_with(b"-NOSCRIPT "), "{}", reply.escape_ascii());
    }
    cluster.wait_until_states_are_equal();
}

#[test]
fn endless_script_delays_no_other_client_and_causes_no_election() {
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let (leader, term) = (cluster.leader(), cluster.term());
    let address = cluster.address(leader);
    thread::scope(|scope| {
        let endless = scope.spawn(move || {
            let mut client = Client::connect(address).unwrap();
            client.call(&[b"EVAL", b"redis.call('set','x','1') while true do end", b"0"]).unwrap()
        });
        let mut other = Client::connect(address).unwrap();
        let mut calls = 0;
        cluster.wait_for("SCRIPT KILL", || {
            calls += 1;
            assert_eq!(other.call(&[b"EVAL", COUNTER, b"1", b"c"]).unwrap()[0], b':');
            assert_eq!(other.call(&[b"SET", b"k", b"v"]).unwrap(), b"+OK\r\n");
            let killed = other.call(&[b"SCRIPT", b"KILL"]).unwrap();
            assert!(killed == b"+OK\r\n" || killed.starts_with(b"-NOTBUSY "));
            (killed == b"+OK\r\n").then_some(())
        });
        let reply = endless.join().unwrap();
        assert!(reply.starts_with(b"-ERR Error running script"), "{}", reply.escape_ascii());
        assert_eq!(other.call(&[b"GET", b"x"]).unwrap(), b"$-1\r\n", "nothing was applied");
        let long = b"local s = 0 for i = 1, 3000000 do s = s + 1 end \
                     redis.call('set', 'long', s) return s";
        assert_eq!(other.call(&[b"EVAL", long, b"0"]).unwrap(), b":3000000\r\n");
        assert_eq!(other.call(&[b"GET", b"long"]).unwrap(), b"$7\r\n3000000\r\n");
    });
    assert_eq!((cluster.leader(), cluster.term()), (leader, term));
    cluster.wait_until_states_are_equal();
}

#[test]
fn loaded_script_runs_in_transactions_at_every_replica_at_once() {
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let mut clients: Vec<Client> =
        (0..3).map(|at| Client::connect(cluster.address(at)).unwrap()).collect();
    for round in 0..100 {
        let source = format!("return {round}");
        let sha = clients[round % 3].call(&[b"SCRIPT", b"LOAD", source.as_bytes()]).unwrap();
        let sha = sha[5..45].to_vec();
        let client = &mut clients[(round + 1) % 3];
        for command in [&[&b"MULTI"[..]][..], &[b"INCR", b"n"], &[b"EVALSHA", &sha, b"0"]] {
            assert!(client.call(command).unwrap().starts_with(b"+"));
        }
        let reply = client.call(&[b"EXEC"]).unwrap();
        let wanted = format!("*2\r\n:{}\r\n:{round}\r\n", round + 1);
        assert_eq!(reply, wanted.as_bytes(), "{}", reply.escape_ascii());
    }
}

#[test]
fn denied_calls_of_scripts_are_in_the_acl_log() {
    let cluster = Cluster::start(1, "auto");
    cluster.wait_until_all_serve();
    let mut admin = Client::connect(cluster.address(0)).unwrap();
    let rules = [&b"ACL"[..], b"SETUSER", b"u", b"on", b">p", b"+@all", b"~k*", b"resetchannels"];
    assert_eq!(admin.call_until_ok(&rules), b"+OK\r\n");
    let mut user = Client::connect(cluster.address(0)).unwrap();
    assert_eq!(user.call(&[b"AUTH", b"u", b"p"]).unwrap(), b"+OK\r\n");
    let script = b"redis.pcall('get', 'x') redis.pcall('publish', 'd', 'x') return 1";
    assert_eq!(user.call(&[b"EVAL", script, b"0"]).unwrap(), b":1\r\n");
    let log = admin.call(&[b"ACL", b"LOG"]).unwrap();
    let log = String::from_utf8(log).unwrap();
    assert!(log.starts_with("*2\r\n"), "{log}");
    assert_eq!(log.matches("$3\r\nlua\r\n").count(), 2, "{log}");
    let info = String::from_utf8(admin.call(&[b"INFO", b"stats"]).unwrap()).unwrap();
    for field in ["acl_access_denied_key:1\r\n", "acl_access_denied_channel:1\r\n"] {
        assert!(info.contains(field), "{info}");
    }
}

/// Scripts whose instructions take long, each with enough of them for many seconds.
const SLOW: &[&str] = &[
    "local s = string.rep('x', 2000000) for i = 1, 200000 do local x = string.upper(s) end",
    "local s = string.rep('x', 2000000) for i = 1, 200000 do local x = s .. i end",
    "local s = string.rep('x', 4000000) for i = 1, 10000 do redis.sha1hex(s) end",
    "local t = {} for i = 1, 7000 do t[i] = i end for i = 1, 1000000 do unpack(t) end",
    "for i = 1, 100000 do redis.pcall('get', 'big') end",
    "local t = {} for i = 1, 1000000 do t[i] = i end while #t > 0 do table.remove(t, 1) end",
];

#[test]
fn scripts_with_slow_instructions_delay_no_other_client() {
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let (leader, term) = (cluster.leader(), cluster.term());
    let address = cluster.address(leader);
    let mut other = Client::connect(address).unwrap();
    let big = vec![b'x'; 8 << 20];
    assert_eq!(other.call(&[b"SET", b"big", &big]).unwrap(), b"+OK\r\n");
    // Many short scripts in one transaction take long together.
    let short = "local i = 0 while i < 120000 do i = i + 1 end";
    let many: Vec<&str> = vec![short; 2_000];
    let scripts = SLOW.iter().map(|script| vec![*script]).chain([many]);
    for scripts in scripts {
        let is_transaction = scripts.len() > 1;
        let slow = thread::spawn(move || {
            let mut client = Client::connect(address).unwrap();
            if is_transaction {
                client.call(&[b"MULTI"]).unwrap();
            }
            for script in &scripts {
                let reply = client.call(&[b"EVAL", script.as_bytes(), b"0"]).unwrap();
                if !is_transaction {
                    return reply;
                }
                assert_eq!(reply, b"+QUEUED\r\n");
            }
            client.call(&[b"EXEC"]).unwrap()
        });
        // Until the script has been moved to a thread of its own, where it is killed.
        cluster.wait_for("SCRIPT KILL", || {
            assert_eq!(other.call(&[b"SET", b"k", b"v"]).unwrap(), b"+OK\r\n");
            (other.call(&[b"SCRIPT", b"KILL"]).unwrap() == b"+OK\r\n" || slow.is_finished())
                .then_some(())
        });
        let reply = slow.join().unwrap();
        assert!(reply.starts_with(b"-"), "{}", reply.escape_ascii());
    }
    assert_eq!((cluster.leader(), cluster.term()), (leader, term));
    assert_eq!(other.call(&[b"EVAL", b"return 1", b"0"]).unwrap(), b":1\r\n");
}

/// In an idle cluster, no log entry advances the replicated clock.
#[test]
fn expiration_and_id_that_a_script_sets_count_from_the_present_time() {
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    thread::sleep(Duration::from_secs(3));
    for replica in 0..3 {
        let mut client = Client::connect(cluster.address(replica)).unwrap();
        let source = b"redis.call('set', KEYS[1], 'v', 'EX', 2) \
            local id = redis.call('xadd', KEYS[2], '*', 'f', 'v') \
            return #redis.call('xrange', KEYS[2], id, id)";
        let reply = client.call(&[b"EVAL", source, b"2", b"k", b"s"]).unwrap();
        assert_eq!(reply, b":1\r\n", "{}", String::from_utf8_lossy(&reply));
        assert_eq!(client.call(&[b"GET", b"k"]).unwrap(), b"$1\r\nv\r\n", "replica {replica}");
    }
    let mut client = Client::connect(cluster.address(1)).unwrap();
    // The scripts have seen the ids that the entries have.
    let source = b"local found = redis.call('xrange', KEYS[1], '-', '+') \
        for place, entry in ipairs(found) do \
            if #redis.call('xrange', KEYS[1], entry[1], entry[1]) ~= 1 then return -1 end end \
        return #found";
    assert_eq!(client.call(&[b"EVAL", source, b"1", b"s"]).unwrap(), b":3\r\n");
}

#[test]
fn flushed_script_runs_at_no_replica() {
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let leader = cluster.leader();
    let mut at_leader = Client::connect(cluster.address(leader)).unwrap();
    let mut at_follower = Client::connect(cluster.address((leader + 1) % 3)).unwrap();
    for source in [&b"return 1"[..], b"return redis.call('incr', 'n')"] {
        for round in 1..=30 {
            let reply = at_leader.call(&[b"SCRIPT", b"LOAD", source]).unwrap();
            let sha = String::from_utf8(reply).unwrap().lines().nth(1).unwrap().to_owned();
            let request: [&[u8]; 3] = [b"EVALSHA", sha.as_bytes(), b"0"];
            let reply = at_follower.call(&request).unwrap();
            assert!(number(&reply).is_some(), "{}", reply.escape_ascii());
            assert_eq!(at_leader.call(&[b"SCRIPT", b"FLUSH"]).unwrap(), b"+OK\r\n");
            let reply = at_follower.call(&request).unwrap();
            assert!(reply.starts_with(b"-NOSCRIPT "), "{round}: {}", reply.escape_ascii());
        }
    }
    let reply = at_leader.call(&[b"GET", b"n"]).unwrap();
    assert_eq!(reply, b"$2\r\n30\r\n", "no flushed script has written");
}

#[test]
fn full_leader_takes_what_a_script_may_add_at_a_follower() {
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let leader = cluster.leader();
    let mut at_leader = Client::connect(cluster.address(leader)).unwrap();
    let mut at_follower = Client::connect(cluster.address((leader + 1) % 3)).unwrap();
    at_leader.call(&[b"MSET", b"a", b"1", b"b", b"1"]).unwrap();
    at_leader.call(&[b"CONFIG", b"SET", b"maxmemory", b"1"]).unwrap();
    cluster.wait_for("a full leader", || {
        let reply = at_leader.call(&[b"SET", b"a", b"2"]).unwrap();
        reply.starts_with(b"-OOM ").then_some(())
    });
    let mut eval = |source: &str| {
        let reply = at_follower.call(&[b"EVAL", source.as_bytes(), b"0"]).unwrap();
        String::from_utf8(reply).unwrap()
    };
    assert!(eval("return redis.call('set', 'a', '3')").starts_with("-OOM "));
    assert_eq!(eval("return redis.call('del', 'b')"), ":1\r\n");
    let allowed = "#!lua flags=allow-oom\nreturn redis.call('set', 'a', '4')";
    assert_eq!(eval(allowed), "+OK\r\n");
    assert_eq!(at_leader.call(&[b"GET", b"a"]).unwrap(), b"$1\r\n4\r\n");
}

#[test]
fn calls_of_scripts_are_counted_and_their_lines_are_logged_once() {
    let cluster = Cluster::start(1, "auto");
    cluster.wait_until_all_serve();
    let mut client = Client::connect(cluster.address(0)).unwrap();
    let source =
        b"redis.log(redis.LOG_NOTICE, 'a line', 'of it') redis.log(redis.LOG_DEBUG, 'low') \
        for i = 1, 3 do redis.call('incr', KEYS[1]) end redis.pcall('lpush', KEYS[1], 'x') \
        redis.pcall('get') redis.pcall('nonsense') return redis.call('command', 'count') > 200";
    client.call_until_ok(&[b"SET", b"k", b"0"]);
    assert_eq!(client.call(&[b"CONFIG", b"RESETSTAT"]).unwrap(), b"+OK\r\n");
    assert_eq!(client.call(&[b"EVAL", source, b"1", b"k"]).unwrap(), b":1\r\n");
    let info = client.call(&[b"INFO", b"everything"]).unwrap();
    let info = String::from_utf8_lossy(&info).into_owned();
    for (wanted, end) in [
        ("cmdstat_incr:calls=3,", "rejected_calls=0,failed_calls=0"),
        ("cmdstat_lpush:calls=1,", "rejected_calls=0,failed_calls=1"),
        ("cmdstat_get:calls=0,", "rejected_calls=1,failed_calls=0"),
        ("cmdstat_eval:calls=1,", "rejected_calls=0,failed_calls=0"),
        ("latency_percentiles_usec_incr:", ""),
        ("errorstat_WRONGTYPE:count=1", ""),
        ("errorstat_ERR:count=2", ""),
        ("number_of_cached_scripts:1", ""),
    ] {
        let line = info.lines().find(|line| line.starts_with(wanted));
        assert!(line.is_some_and(|line| line.ends_with(end)), "{wanted}: {line:?}");
    }
    let log = cluster.log(0);
    assert_eq!(log.matches("a line of it").count(), 1, "{log}");
}

#[test]
fn publish_in_a_script_returns_the_subscribers_of_its_replica() {
    let cluster = Cluster::start(1, "auto");
    cluster.wait_until_all_serve();
    let mut subscriber = Client::connect(cluster.address(0)).unwrap();
    assert!(subscriber.call(&[b"SUBSCRIBE", b"channel"]).unwrap().starts_with(b"*3"));
    let mut client = Client::connect(cluster.address(0)).unwrap();
    let source = b"return {redis.call('publish', 'channel', 'hello'), \
        redis.call('publish', 'other', 'x'), redis.call('pubsub', 'channels')}";
    client.call_until_ok(&[b"SET", b"k", b"v"]);
    let reply = client.call(&[b"EVAL", source, b"0"]).unwrap();
    assert_eq!(reply, b"*3\r\n:1\r\n:0\r\n*1\r\n$7\r\nchannel\r\n");
    let message = b"*3\r\n$7\r\nmessage\r\n$7\r\nchannel\r\n$5\r\nhello\r\n";
    assert_eq!(subscriber.reply().unwrap(), message);
}
