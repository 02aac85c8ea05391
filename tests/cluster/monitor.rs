//! `MONITOR` and `CLIENT PAUSE`, compared with a real Redis and with real processes.

use std::io;
use std::time::Instant;

use crate::beside_redis::compare;
use crate::client::{Client, command};
use crate::replicas::Cluster;

#[test]
fn monitor_output_matches_redis() {
    compare(
        "mab",
        r##"
        m: MONITOR
        m: ~MONITOR
        a: SET k "v\x01\xff \"q\" \\ \n\r\t\a\b"
        a: GET
        a: nosuch
        a: AUTH user pass
        a: AUTH pass
        a: HELLO 2 AUTH nobody pass
        a: hello 2 setname auth auth nobody pass
        a: CONFIG GET save
        a: CONFIG SET maxmemory 0
        a: ACL WHOAMI
        a: CLIENT ID
        a: CLIENT SETNAME n
        a: CLIENT TRACKING ON
        a: SUBSCRIBE c
        a: UNSUBSCRIBE c
        a: !MULTI
        a: !SET a 1
        a: !GET a
        a: EXEC
        a: !MULTI
        a: !SET a
        a: EXEC
        a: DISCARD
        a: WATCH k
        a: !MULTI
        a: !GET k
        b: SET k 1
        a: DISCARD
        a: UNWATCH
        a: SLOWLOG GET 0
        a: LASTSAVE x
        a: PUBLISH a b
        a: EVAL "redis.call('set',KEYS[1],'\"') return redis.pcall('nosuch')" 1 k
        a: EVAL "redis.pcall('get') return redis.call('get','k')" 0
        a: EVAL "redis.call('select','0') return redis.call('exists','k')" 0
        a: FUNCTION LOAD "#!lua name=l\nredis.register_function('f',function()redis.pcall()end)"
        a: FCALL f 0
        a: EVALSHA nosuch 0
        m: GET k
        m: SET k v
        m: INFO nothing
        m: !MULTI
        m: !PING
        m: EXEC
        b: MONITOR
        b: RESET
        a: GET k
        a: !MULTI
        a: !MONITOR
        a: EXEC
        m: RESET
        m: GET k
        a: GET k
        "##,
    );
}

#[test]
fn client_pause_errors_match_redis() {
    compare(
        "ab",
        "
        a: CLIENT PAUSE x
        a: CLIENT PAUSE -1
        a: CLIENT PAUSE 10 NONSENSE
        a: CLIENT PAUSE 10 WRITE x
        a: CLIENT UNPAUSE x
        a: CLIENT UNPAUSE
        a: CLIENT PAUSE 100000 WRITE
        a: GET k
        a: INFO nothing
        a: !MULTI
        a: !GET k
        a: EXEC
        a: CLIENT UNPAUSE
        a: SET k v
        a: CLIENT PAUSE 20
        b: GET k
        ",
    );
}

#[test]
fn sharded_pubsub_matches_redis() {
    compare(
        "Abc",
        "
        A: SSUBSCRIBE one
        A: SUBSCRIBE one two
        b: SSUBSCRIBE one
        b: GET k
        c: SPUBLISH one message
        c: PUBLISH one message
        c: SPUBLISH none message
        c: PUBSUB SHARDCHANNELS
        c: PUBSUB SHARDCHANNELS t*
        c: PUBSUB SHARDNUMSUB one two none
        c: PUBSUB SHARDNUMSUB
        c: PUBSUB NUMSUB one
        c: PUBSUB CHANNELS o*
        b: PSUBSCRIBE o*
        A: SUNSUBSCRIBE two
        A: SUNSUBSCRIBE
        A: UNSUBSCRIBE two
        c: SPUBLISH one message
        c: !MULTI
        c: !SPUBLISH one queued
        c: EXEC
        b: RESET
        b: SUNSUBSCRIBE
        b: SUNSUBSCRIBE none
        c: SPUBLISH one message
        c: SPUBLISH one
        c: COMMAND GETKEYS SPUBLISH one message
        c: COMMAND GETKEYS MEMORY USAGE k
        c: COMMAND GETKEYSANDFLAGS MEMORY USAGE k SAMPLES 5
        c: COMMAND GETKEYS OBJECT ENCODING k
        c: COMMAND GETKEYS OBJECT HELP
        c: COMMAND GETKEYS CONFIG GET x
        c: COMMAND GETKEYS OBJECT NONSENSE k
        c: COMMAND GETKEYS OBJECT ENCODING k k
        ",
    );
}

fn info(client: &mut Client, field: &str) -> String {
    let text = client.call(&[b"INFO"]).unwrap();
    let text = String::from_utf8_lossy(&text).into_owned();
    let prefix = format!("{field}:");
    let value = text.lines().find_map(|line| line.strip_prefix(&prefix));
    value.unwrap_or_else(|| panic!("no {field}")).trim().to_owned()
}

/// Writes of all kinds wait for the end of a pause, reads do not, and nothing of a postponed client
/// is read or lost.
#[test]
fn pause_postpones_writes_and_keeps_their_order() {
    let cluster = Cluster::start(1, "auto");
    cluster.wait_until_all_serve();
    let mut admin = Client::connect(cluster.address(0)).unwrap();
    let mut queued = Client::connect(cluster.address(0)).unwrap();
    assert_eq!(queued.call(&[b"MULTI"]).unwrap(), b"+OK\r\n");
    assert_eq!(queued.call(&[b"INCR", b"n"]).unwrap(), b"+QUEUED\r\n");
    assert_eq!(admin.call(&[b"CLIENT", b"PAUSE", b"600000", b"WRITE"]).unwrap(), b"+OK\r\n");
    queued.send(&command(&[b"EXEC"])).unwrap();
    let mut publisher = Client::connect(cluster.address(0)).unwrap();
    publisher.send(&command(&[b"PUBLISH", b"c", b"m"])).unwrap();
    let mut writer = Client::connect(cluster.address(0)).unwrap();
    let lines = (0..2_000).fold(String::new(), |lines, number| {
        lines + &format!("GET n\r\nINCR m\r\nECHO {number}\r\n")
    });
    writer.send(lines.as_bytes()).unwrap();
    assert_eq!(writer.reply().unwrap(), b"$-1\r\n", "a read before the write");
    cluster.wait_for("postponed clients", || {
        (info(&mut admin, "blocked_clients") == "3").then_some(())
    });
    assert_eq!(admin.call(&[b"GET", b"m"]).unwrap(), b"$-1\r\n");
    assert_eq!(admin.call(&[b"CLIENT", b"UNPAUSE"]).unwrap(), b"+OK\r\n");
    assert_eq!(queued.reply().unwrap(), b"*1\r\n:1\r\n");
    assert_eq!(publisher.reply().unwrap(), b":0\r\n");
    for number in 0..2_000 {
        if number > 0 {
            assert!(writer.reply().unwrap().starts_with(b"$"));
        }
        assert_eq!(writer.reply().unwrap(), format!(":{}\r\n", number + 1).as_bytes());
        let echo = number.to_string();
        let wanted = format!("${}\r\n{echo}\r\n", echo.len());
        assert_eq!(writer.reply().unwrap(), wanted.as_bytes());
    }
    assert_eq!(info(&mut admin, "blocked_clients"), "0");
    // A pause ends by itself.
    let began = Instant::now();
    assert_eq!(admin.call(&[b"CLIENT", b"PAUSE", b"150", b"ALL"]).unwrap(), b"+OK\r\n");
    assert_eq!(admin.call(&[b"PING"]).unwrap(), b"+PONG\r\n");
    assert!(began.elapsed().as_millis() >= 150);
}

/// A monitor that does not read is disconnected, and other clients are not delayed.
#[test]
fn monitor_that_does_not_read_is_disconnected() {
    let cluster = Cluster::start(1, "auto");
    cluster.wait_until_all_serve();
    let mut monitor = Client::connect(cluster.address(0)).unwrap();
    assert_eq!(monitor.call(&[b"MONITOR"]).unwrap(), b"+OK\r\n");
    let mut client = Client::connect(cluster.address(0)).unwrap();
    let value = vec![b'x'; 1 << 20];
    let is_monitored = |client: &mut Client| {
        let list = client.call(&[b"CLIENT", b"LIST"]).unwrap();
        String::from_utf8_lossy(&list).contains("flags=O")
    };
    assert!(is_monitored(&mut client));
    let sent = (0..200).take_while(|_| {
        assert_eq!(client.call(&[b"ECHO", &value]).unwrap().len(), value.len() + 12);
        is_monitored(&mut client)
    });
    assert!(sent.count() < 200, "it is still connected");
    let end: Option<io::Error> = (0..200).find_map(|_| monitor.reply().err());
    assert!(end.is_some());
}
