//! Every setting that `CONFIG SET` accepts has an effect here, or in the stage that reads it.

use super::*;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::kv::{ChangedKeys, Operation, RecordedEvents};
use crate::membership::Configuration;

/// Settings that have only one possible value, each with a different value, which is refused.
const REFUSED: &[(&str, &str)] = &[
    ("save", "900 1"),
    ("appendonly", "no"),
    ("appendfsync", "everysec"),
    ("maxmemory-policy", "allkeys-lru"),
    ("bind", "0.0.0.0"),
    ("port", "1"),
    ("dir", "elsewhere"),
    ("databases", "4"),
    ("cluster-enabled", "no"),
    ("daemonize", "yes"),
    ("replicaof", "127.0.0.1 6379"),
    ("slaveof", "127.0.0.1 6379"),
];

/// Changes a setting with `CONFIG SET`, and asserts that the change is accepted.
#[track_caller]
fn set(fixture: &mut Fixture, client: &mut TcpStream, name: &str, value: &str) {
    client.write_all(format!("CONFIG SET {name} {value}\r\n").as_bytes()).unwrap();
    fixture.expect(client, "+OK\r\n");
}

/// Sends a read, advances the clock by `elapsed`, and answers the read.
fn read_for(fixture: &mut Fixture, client: &mut TcpStream, elapsed: Duration) {
    client.write_all(b"GET k\r\n").unwrap();
    let sent = fixture.dispatch_some();
    fixture.advance(elapsed);
    fixture.on_outcome(sent[0].key, Outcome::Value(None));
    fixture.expect(client, "$-1\r\n");
}

/// Returns the fields of a section of `INFO`.
fn info(fixture: &mut Fixture, client: &mut TcpStream, section: &str) -> String {
    client.write_all(format!("INFO {section}\r\n").as_bytes()).unwrap();
    String::from_utf8(fixture.reply(client, 1)).unwrap()
}

/// Reads more keys than may be in the table for client-side caching.
fn check_tracked_keys_max(fixture: &mut Fixture, client: &mut TcpStream, name: &str) {
    set(fixture, client, name, "2");
    client.write_all(b"CLIENT TRACKING ON\r\n").unwrap();
    fixture.expect(client, "+OK\r\n");
    client.write_all(b"MGET a b c d\r\n").unwrap();
    let key = fixture.dispatch_some()[0].key;
    fixture.clients.begin_changes(ChangedKeys::default());
    fixture.clients.on_answer(key, vec![Outcome::Values(vec![None; 4])], Some(1));
    drop(fixture.clients.end_changes());
    fixture.expect(client, &format!("*4\r\n{}", "$-1\r\n".repeat(4)));
    assert_eq!(fixture.clients.context.tracking.keys, 2);
    client.write_all(b"CLIENT TRACKING OFF\r\n").unwrap();
    fixture.expect(client, "+OK\r\n");
}

fn check_effect(name: &str) {
    let mut fixture = Fixture::new();
    let (mut client, mut other) = (fixture.connect(), fixture.connect());
    let (fixture, client) = (&mut fixture, &mut client);
    match name {
        "maxmemory" => {
            set(fixture, client, name, "1000");
            fixture.clients.set_memory(1_001, 0);
            client.write_all(b"SET k v\r\n").unwrap();
            assert!(fixture.reply(client, 10).starts_with(b"-OOM "));
            assert_eq!(fixture.clients.memory_max(), 1_000, "what the network stage publishes");
        }
        "maxclients" => check_maximum_of_clients(fixture, client),
        "proto-max-bulk-len" => check_maximum_of_arguments(fixture, client, &mut other),
        "maxmemory-clients" => {
            let before = fixture.clients.memory.budget(1).reply_bytes;
            set(fixture, client, name, "1gb");
            fixture.advance(Duration::from_secs(2));
            assert!(fixture.clients.memory.budget(1).reply_bytes > before);
        }
        "requirepass" => {
            set(fixture, client, name, "secret");
            let mut late = fixture.connect();
            late.write_all(b"PING\r\nAUTH secret\r\nPING\r\n").unwrap();
            fixture.expect(&mut late, "-NOAUTH Authentication required.\r\n+OK\r\n+PONG\r\n");
        }
        "timeout" => {
            set(fixture, client, name, "10");
            fixture.advance(Duration::from_secs(11));
            assert!(!read(&mut other, &mut Vec::new()), "it was idle for too long");
        }
        "auto-aof-rewrite-percentage" => {
            set(fixture, client, name, "70");
            assert_eq!(fixture.clients.rewrite_growth().0, 70);
        }
        "auto-aof-rewrite-min-size" => {
            set(fixture, client, name, "1mb");
            assert_eq!(fixture.clients.rewrite_growth().1, 1 << 20);
        }
        "tcp-keepalive" => {
            set(fixture, client, name, "1");
            let _late = fixture.connect();
            let sockets = fixture.clients.connected.iter_mut();
            let times: Vec<_> = sockets.map(|(_, client)| client.socket.keep_alive()).collect();
            assert_eq!(times, [300, 300, 1].map(|time| Some(Duration::from_secs(time))));
        }
        "notify-keyspace-events" => {
            client.write_all(b"SUBSCRIBE c\r\n").unwrap();
            fixture.reply(client, 10);
            let events = |keys, misses| RecordedEvents { messages: true, keys, misses };
            assert_eq!(fixture.clients.board.get(), events(false, false));
            set(fixture, &mut other, name, "KEA");
            assert_eq!(fixture.clients.board.get(), events(true, false));
            set(fixture, &mut other, name, "Km");
            assert_eq!(fixture.clients.board.get(), events(true, true));
        }
        "slowlog-log-slower-than" | "slowlog-max-len" => {
            read_for(fixture, client, Duration::from_millis(9));
            client.write_all(b"SLOWLOG LEN\r\n").unwrap();
            fixture.expect(client, ":0\r\n");
            set(fixture, client, "slowlog-log-slower-than", "8000");
            for _ in 0..3 {
                read_for(fixture, client, Duration::from_millis(9));
            }
            set(fixture, client, "slowlog-max-len", "2");
            client.write_all(b"SLOWLOG LEN\r\n").unwrap();
            fixture.expect(client, ":2\r\n");
        }
        "latency-monitor-threshold" => {
            set(fixture, client, name, "8");
            read_for(fixture, client, Duration::from_millis(7));
            client.write_all(b"LATENCY LATEST\r\n").unwrap();
            fixture.expect(client, "*0\r\n");
            read_for(fixture, client, Duration::from_millis(9));
            client.write_all(b"LATENCY LATEST\r\n").unwrap();
            assert!(fixture.reply(client, 10).starts_with(b"*1\r\n"));
        }
        "tracking-table-max-keys" => check_tracked_keys_max(fixture, client, name),
        "set-max-intset-entries" => check_encoding_limit(fixture, client, name),
        name if name.starts_with("hash-max") => check_encoding_limit(fixture, client, name),
        name if name.starts_with("zset-max") => check_encoding_limit(fixture, client, name),
        "hll-sparse-max-bytes" => check_sparse_bytes_max(fixture, client, name),
        "latency-tracking" => {
            read_for(fixture, client, Duration::from_millis(1));
            assert!(info(fixture, client, "latencystats").contains("usec_get:p50="));
            set(fixture, client, name, "no");
            read_for(fixture, client, Duration::from_millis(1));
            assert!(!info(fixture, client, "latencystats").contains("usec_get:p50="));
            client.write_all(b"CONFIG RESETSTAT\r\n").unwrap();
            fixture.expect(client, "+OK\r\n");
            read_for(fixture, client, Duration::from_millis(1));
            assert!(!info(fixture, client, "latencystats").contains("usec_"), "on again");
        }
        _ => {
            let refused = REFUSED.iter().find(|(known, _)| *known == name);
            let (_, value) = refused.unwrap_or_else(|| panic!("no effect of {name} is known"));
            client.write_all(format!("CONFIG SET {name} \"{value}\"\r\n").as_bytes()).unwrap();
            let reply = String::from_utf8(fixture.reply(client, 10)).unwrap();
            assert!(reply.starts_with("-ERR CONFIG SET failed"), "{name}: {reply}");
        }
    }
}

/// Checks that `OBJECT ENCODING` takes the changed limit with it, and nothing without a change.
/// Adds to a HyperLogLog: the limit is the last argument of the operation.
fn check_sparse_bytes_max(fixture: &mut Fixture, client: &mut TcpStream, name: &str) {
    set(fixture, client, name, "7");
    client.write_all(b"PFADD k a\r\n").unwrap();
    fixture.dispatch_some();
    let sender = fixture.clients.client(0);
    let operation = (0..9).find_map(|slot| sender.operation(slot)).unwrap().clone();
    let (_, arguments) = Operation::decode(&operation).unwrap().as_call().unwrap();
    assert_eq!(arguments.iter().last().copied(), Some(&7_u64.to_le_bytes()[..]));
}

fn check_encoding_limit(fixture: &mut Fixture, client: &mut TcpStream, name: &str) {
    let mut count_arguments = |fixture: &mut Fixture| {
        client.write_all(b"OBJECT ENCODING k\r\n").unwrap();
        let sent = fixture.dispatch_some();
        let sender = fixture.clients.client(0);
        let operation = (0..9).find_map(|slot| sender.operation(slot)).unwrap().clone();
        let (_, arguments) = Operation::decode(&operation).unwrap().as_call().unwrap();
        let count = arguments.len();
        fixture.on_outcome(sent[0].key, Outcome::Value(None));
        fixture.expect(client, "$-1\r\n");
        count
    };
    assert_eq!(count_arguments(fixture), 1);
    let mut other = fixture.connect();
    set(fixture, &mut other, name, "3");
    assert_eq!(count_arguments(fixture), 2, "{name}");
}

fn check_maximum_of_clients(fixture: &mut Fixture, client: &mut TcpStream) {
    set(fixture, client, "maxclients", "2");
    let mut late = fixture.connect();
    fixture.expect(&mut late, "-ERR max number of clients reached\r\n");
    let members = Configuration::of_voters((1..=31).map(NodeId));
    fixture.clients.context.members.configuration = members;
    let hard = getrlimit(Resource::Nofile).maximum;
    if hard.is_none_or(|hard| hard > 20_000) {
        // This is more than the soft limit on open files allows.
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = Some(5_000);
        setrlimit(Resource::Nofile, limit).unwrap();
        set(fixture, client, "maxclients", "5000");
        let current = getrlimit(Resource::Nofile).current;
        assert!(current.is_none_or(|current| current > 5_180), "{current:?}");
    }
}

fn check_maximum_of_arguments(
    fixture: &mut Fixture,
    client: &mut TcpStream,
    other: &mut TcpStream,
) {
    // The change takes effect at once, also for the rest of the same input and for other
    // connections.
    let large = b"*2\r\n$4\r\nECHO\r\n$1048577\r\n";
    let early = [b"CONFIG SET proto-max-bulk-len 1mb\r\n", &large[..]].concat();
    client.write_all(&early).unwrap();
    fixture.expect(client, "+OK\r\n-ERR Protocol error: invalid bulk length\r\n");
    let mut late = fixture.connect();
    for client in [other, &mut late] {
        client.write_all(large).unwrap();
        fixture.expect(client, "-ERR Protocol error: invalid bulk length\r\n");
    }
}

/// Regression test: some settings used to be accepted and shown as set, but had no effect.
#[test]
fn config_set_applies_or_refuses_every_parameter() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    client.write_all(b"CONFIG GET *\r\n").unwrap();
    let reply = String::from_utf8(fixture.reply(&mut client, 10)).unwrap();
    let lines = reply.lines().skip(1).collect::<Vec<_>>();
    let names: Vec<&str> = lines.chunks(4).map(|pair| pair[1]).collect();
    assert!(names.len() > REFUSED.len() && names.contains(&"maxmemory"), "{reply}");
    for name in names {
        check_effect(name);
    }
}
