//! The door with real sockets, a clock that the test moves, and the test in the core's place.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use mio::{Events, Poll};

use super::*;
use crate::raft::{DiskState, RequestKind};
use crate::redis::ReplicaInfo;
use crate::runtime::clock::tests::stopped;
use crate::runtime::pass::Pass;
use crate::runtime::server::flights::{origin_of, parts_of};
use crate::types::NodeId;

const FIRST_TOKEN: usize = 8;
const MEMORY: usize = 16 << 20;

struct Door {
    poll: Poll,
    listener: TcpListener,
    clients: Clients,
    now: Instant,
    space: Vec<u8>,
}

/// A request that was handed on.
struct HandedOn {
    key: RequestKey,
    kind: RequestKind,
}

impl HandedOn {
    /// The how manieth it is of all that came, from 0.
    fn number(&self) -> u64 {
        parts_of(self.key.request).1 - 1
    }
}

fn node(id: u16) -> ReplicaInfo {
    let host = "127.0.0.1".to_owned();
    let (id, port, peer_port) = (NodeId(id), 7_000 + id, 8_000 + id);
    ReplicaInfo {
        id,
        host,
        port,
        peer_port,
        connected: true,
        match_index: None,
        disk: DiskState::Healthy,
    }
}

impl Door {
    fn new() -> Door {
        let mut settings = Settings::new(&Limits::default(), "127.0.0.1", 7001, "data");
        settings.set_client_limits(1_000, MEMORY as u64, 0);
        let mut context = Context::alone(node(1), 7, Instant::ZERO);
        context.nodes.push(node(2));
        let flights = Flights::new(origin_of(NodeId(1), 1));
        let timeouts = Timeouts::default();
        let counters = Arc::default();
        Door {
            poll: Poll::new().unwrap(),
            listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
            clients: Clients::new(
                flights,
                FIRST_TOKEN,
                timeouts,
                context,
                settings,
                Arc::default(),
                counters,
            ),
            now: Instant::ZERO,
            space: vec![0; 64 << 10],
        }
    }

    fn connect(&mut self) -> TcpStream {
        let stream = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = self.listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        let accepted = mio::net::TcpStream::from_std(accepted);
        self.clients.accept(accepted, false, self.now, self.poll.registry());
        stream.set_nonblocking(true).unwrap();
        stream
    }

    /// One pass: in, and out.
    fn pass(&mut self) {
        let mut events = Events::with_capacity(64);
        self.poll.poll(&mut events, Some(Duration::from_millis(1))).unwrap();
        for event in &events {
            self.clients.wake(event.token().0, event);
        }
        self.clients.context.now = self.now;
        let mut pass = Pass::of_large(stopped(), usize::MAX);
        self.clients.receive(self.poll.registry(), &mut self.space, &mut pass);
        self.clients.flush(self.poll.registry(), &mut pass);
    }

    /// Passes until `look` finds something.
    fn until<T>(&mut self, what: &str, mut look: impl FnMut(&mut Door) -> Option<T>) -> T {
        for _ in 0..20_000 {
            if let Some(found) = look(self) {
                return found;
            }
            self.pass();
        }
        panic!("waited in vain for {what}");
    }

    /// Hands on what may go.
    fn hand_on(&mut self) -> Vec<HandedOn> {
        let mut handed_on = Vec::new();
        self.clients.dispatch(false, |key, pending| {
            handed_on.push(HandedOn { key, kind: pending.kind });
            true
        });
        handed_on
    }

    /// Hands on what is to go, at least something.
    fn hand_on_some(&mut self) -> Vec<HandedOn> {
        self.until("a request", |door| Some(door.hand_on()).filter(|list| !list.is_empty()))
    }

    /// Time goes by.
    fn later(&mut self, span: Duration) {
        self.now = self.now + span;
        self.clients.context.now = self.now;
        self.clients.expire(self.now, &mut Pass::of_small(stopped(), usize::MAX));
        self.clients.sweep(self.now, self.poll.registry());
    }

    /// All that `client` is sent until it is this long.
    fn reply(&mut self, client: &mut TcpStream, length: usize) -> Vec<u8> {
        let mut reply = Vec::new();
        self.until("a reply", |_| {
            read(client, &mut reply);
            (reply.len() >= length).then_some(())
        });
        reply
    }

    #[track_caller]
    fn expect(&mut self, client: &mut TcpStream, wanted: &str) {
        let reply = self.reply(client, wanted.len());
        assert_eq!(String::from_utf8_lossy(&reply), wanted);
    }
}

/// What is there. False if the connection has ended.
fn read(client: &mut TcpStream, into: &mut Vec<u8>) -> bool {
    let mut space = [0; 16 << 10];
    loop {
        match client.read(&mut space) {
            Ok(0) => return false,
            Ok(count) => into.extend_from_slice(&space[..count]),
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}

#[test]
fn a_pipeline_that_takes_long_is_answered_as_long_as_somebody_leads() {
    let mut door = Door::new();
    let mut client = door.connect();
    client.write_all("INCR n\r\nGET n\r\n".repeat(50).as_bytes()).unwrap();
    for number in 0..100 {
        let handed_on = door.hand_on_some();
        assert_eq!(handed_on.len(), 1, "a read sees the writes before it and none after");
        assert_eq!(handed_on[0].number(), number);
        // Each for itself is in time. All together they take a minute and a half.
        door.later(Duration::from_millis(900));
        door.clients.answer(handed_on[0].key, Outcome::Integer(1));
    }
    door.expect(&mut client, &":1\r\n".repeat(100));
    assert_eq!(door.clients.next_due(), None);
}

#[test]
fn who_waits_for_nothing_is_told_in_time() {
    let mut door = Door::new();
    let mut client = door.connect();
    client.write_all(b"SET k v\r\nGET k\r\n").unwrap();
    door.pass();
    door.later(Duration::from_millis(1_900));
    assert_eq!(door.hand_on_some().len(), 1);
    // The write has its deadline from when it was handed on; the read waits behind it.
    door.later(Duration::from_millis(3_900));
    door.pass();
    assert!(door.reply(&mut client, 0).is_empty());
    door.later(Duration::from_millis(100));
    door.expect(
        &mut client,
        "-UNCERTAIN may or may not have been applied\r\n\
         -CLUSTERDOWN no leader is known; nothing was done\r\n",
    );
    // Nobody to hand it to; and then somebody who takes nothing.
    client.write_all(b"GET k\r\n").unwrap();
    door.pass();
    door.later(Duration::from_secs(2));
    door.expect(&mut client, "-CLUSTERDOWN no leader is known; nothing was done\r\n");
    door.clients.context.leader = Some(NodeId(1));
    client.write_all(b"GET k\r\n").unwrap();
    door.pass();
    door.later(Duration::from_secs(2));
    door.expect(&mut client, "-TRYAGAIN the leader has too much under way; nothing was done\r\n");
}

#[test]
fn clients_that_follow_hints_are_not_kept_waiting_when_somebody_else_leads() {
    let mut door = Door::new();
    let (mut plain, mut cluster, mut reader) = (door.connect(), door.connect(), door.connect());
    plain.write_all(b"SET foo 1\r\n").unwrap();
    cluster.write_all(b"CLUSTER SLOTS\r\nSET foo 2\r\nGET foo\r\nDBSIZE\r\n").unwrap();
    reader.write_all(b"CLUSTER SLOTS\r\nREADONLY\r\nGET foo\r\nSET foo 3\r\n").unwrap();
    door.expect(&mut cluster, "*0\r\n");
    door.expect(&mut reader, "*0\r\n+OK\r\n");
    door.until("all requests", |door| (door.clients.context.traffic.commands == 9).then_some(()));
    door.clients.context.leader = Some(NodeId(2));
    door.clients.redirect();
    let moved = "-MOVED 12182 127.0.0.1:7002\r\n";
    door.expect(&mut cluster, &moved.repeat(2));
    // What concerns no slot, reads that may be done here, and whoever knows no slots: handed on.
    let handed_on = door.hand_on_some();
    assert_eq!(handed_on.len(), 3);
    for handed_on in handed_on {
        door.clients.answer(handed_on.key, Outcome::Integer(4));
    }
    door.expect(&mut plain, ":4\r\n");
    door.expect(&mut cluster, ":4\r\n");
    door.expect(&mut reader, &format!(":4\r\n{moved}"));
    // One that was handed on and came back.
    door.clients.context.leader = Some(NodeId(1));
    cluster.write_all(b"SET foo 2\r\n").unwrap();
    let handed_on = door.hand_on_some();
    door.clients.context.leader = Some(NodeId(2));
    door.clients.redirect();
    door.clients.take_back(&[handed_on[0].key]);
    door.expect(&mut cluster, moved);
    assert!(door.hand_on().is_empty());
}

#[test]
fn reads_without_room_for_their_replies_are_done_again_later_and_in_order() {
    const COUNT: usize = 200;
    let mut door = Door::new();
    let mut client = door.connect();
    client.write_all("GET k\r\nECHO x\r\n".repeat(COUNT).as_bytes()).unwrap();
    let value = |number: u64| {
        let text = format!("{number:0>10}").repeat(10_000);
        Bytes::from(text)
    };
    let answer_all = |door: &mut Door| {
        let handed_on = door.hand_on();
        for one in &handed_on {
            assert_eq!(one.kind, RequestKind::Read);
            door.clients.answer(one.key, Outcome::Value(Some(value(one.number()))));
        }
        assert!(door.clients.memory.held_bytes() < 4 << 20);
        handed_on.len()
    };
    // It does not read: sooner or later nothing is handed on any more, and nobody is refused.
    let mut quiet = 0;
    while quiet < 20 {
        door.pass();
        quiet = if answer_all(&mut door) == 0 { quiet + 1 } else { 0 };
    }
    door.later(Duration::from_mins(10));
    let mut wanted = Vec::new();
    for number in 0..COUNT as u64 {
        wanted.extend_from_slice(b"$100000\r\n");
        wanted.extend_from_slice(&value(number));
        wanted.extend_from_slice(b"\r\n$1\r\nx\r\n");
    }
    let mut reply = Vec::new();
    door.until("all replies", |door| {
        answer_all(door);
        assert!(read(&mut client, &mut reply));
        (reply.len() >= wanted.len()).then_some(())
    });
    assert!(reply == wanted, "replies are not what was asked for");
}

#[test]
fn a_reply_that_is_too_long_is_refused_and_the_connection_goes_on() {
    let mut door = Door::new();
    let mut client = door.connect();
    client.write_all(b"MGET a b\r\nPING\r\n").unwrap();
    let handed_on = door.hand_on_some();
    let value = Some(Bytes::from(vec![b'x'; 5 << 20]));
    door.clients.answer(handed_on[0].key, Outcome::Values(vec![value.clone(), value]));
    door.expect(
        &mut client,
        "-ERR the reply has 10485856 bytes, where 8388608 are allowed\r\n+PONG\r\n",
    );
    // A write was done for all that, which `ERR` would deny.
    client.write_all(b"GETDEL a\r\nPING\r\n").unwrap();
    let handed_on = door.hand_on_some();
    let value = Some(Bytes::from(vec![b'x'; 9 << 20]));
    door.clients.answer(handed_on[0].key, Outcome::Value(value));
    door.expect(
        &mut client,
        "-UNCERTAIN applied, but the reply has 9437216 bytes, where 8388608 are allowed\r\n\
         +PONG\r\n",
    );
}

#[test]
fn large_requests_come_through_one_after_the_other_and_small_ones_between() {
    const LARGE: usize = 2 << 20;
    let mut door = Door::new();
    let value = "v".repeat(LARGE);
    let bytes = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${LARGE}\r\n{value}\r\n").into_bytes();
    let mut large: Vec<_> = (0..20).map(|_| (door.connect(), 0, Vec::new())).collect();
    let mut small = door.connect();
    let mut pongs = Vec::new();
    let mut held_most = 0;
    door.until("all replies", |door| {
        for (client, sent, reply) in &mut large {
            match client.write(&bytes[*sent..]) {
                Ok(count) => *sent += count,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            assert!(read(client, reply), "it was closed");
        }
        small.write_all(b"PING\r\n").unwrap();
        assert!(read(&mut small, &mut pongs), "it was closed");
        held_most = held_most.max(door.clients.memory.held_bytes());
        for one in door.hand_on() {
            door.clients.answer(one.key, Outcome::Done);
        }
        large.iter().all(|(_, _, reply)| reply == b"+OK\r\n").then_some(())
    });
    assert!(pongs.len() > 20 * "+PONG\r\n".len());
    assert!(held_most > MEMORY / 4, "{held_most} is no load");
    assert!(held_most <= MEMORY, "{held_most}");
    door.pass();
    assert!(door.clients.memory.held_bytes() < 1 << 20, "it is given back");
}

#[test]
fn whoever_holds_most_is_closed_when_all_hold_too_much() {
    let mut door = Door::new();
    let mut modest = door.connect();
    let mut greedy: Vec<_> = (0..40).map(|_| door.connect()).collect();
    for client in &mut greedy {
        client.write_all(b"GETSET k v\r\nGETSET k v\r\n").unwrap();
    }
    let handed_on = door.until("all requests", |door| {
        door.pass();
        (door.clients.context.traffic.commands == 80).then(|| door.hand_on())
    });
    for one in handed_on {
        let value = Bytes::from(vec![b'x'; 1 << 20]);
        door.clients.answer(one.key, Outcome::Value(Some(value)));
    }
    door.pass();
    assert!(door.clients.memory.held_bytes() <= MEMORY);
    let closed = door.clients.counters.clients_closed.get();
    assert!((1..=40).contains(&closed), "{closed}");
    modest.write_all(b"PING\r\n").unwrap();
    door.expect(&mut modest, "+PONG\r\n");
}

#[test]
fn half_requests_and_idle_connections_end_when_they_take_too_long() {
    let mut door = Door::new();
    let (mut half, mut quiet) = (door.connect(), door.connect());
    quiet.write_all(b"PING\r\n").unwrap();
    door.expect(&mut quiet, "+PONG\r\n");
    for byte in b"*2\r\n$4\r\nECHO\r\n$1" {
        half.write_all(&[*byte]).unwrap();
        door.pass();
        door.later(Duration::from_secs(1));
    }
    let mut reply = Vec::new();
    assert!(read(&mut half, &mut reply));
    door.later(Duration::from_secs(20));
    assert!(!read(&mut half, &mut reply) && reply.is_empty());
    // Nobody is closed for silence unless it is so set.
    door.later(Duration::from_hours(1));
    assert!(read(&mut quiet, &mut reply));
    quiet.write_all(b"CONFIG SET timeout 10\r\n").unwrap();
    door.expect(&mut quiet, "+OK\r\n");
    door.later(Duration::from_secs(9));
    quiet.write_all(b"GET k\r\n").unwrap();
    door.hand_on_some();
    door.later(Duration::from_secs(3));
    assert!(read(&mut quiet, &mut reply), "it waits for an answer");
    door.later(Duration::from_secs(1));
    let mut reply = door.reply(&mut quiet, 1);
    assert!(reply.starts_with(b"-CLUSTERDOWN"));
    door.later(Duration::from_secs(10));
    assert!(!read(&mut quiet, &mut reply));
    assert_eq!(door.clients.context.traffic.clients, 0);
}

#[test]
fn how_many_clients_there_may_be_can_be_changed() {
    let mut door = Door::new();
    let mut first = door.connect();
    first.write_all(b"CONFIG SET maxclients 1\r\n").unwrap();
    door.expect(&mut first, "+OK\r\n");
    let mut second = door.connect();
    door.expect(&mut second, "-ERR max number of clients reached\r\n");
    first.write_all(b"CONFIG SET maxclients 2\r\n").unwrap();
    door.expect(&mut first, "+OK\r\n");
    let mut third = door.connect();
    third.write_all(b"PING\r\n").unwrap();
    door.expect(&mut third, "+PONG\r\n");
}

/// What the store would say to a `WATCH` of one key.
fn revision(number: i64) -> Outcome {
    Outcome::List(vec![Outcome::Integer(number)])
}

#[test]
fn what_comes_behind_a_watch_waits_for_its_answer_and_nothing_else_does() {
    let mut door = Door::new();
    let mut client = door.connect();
    let transaction = "WATCH k\r\nPING\r\nMULTI\r\nSET k v\r\nEXEC\r\nWATCH j\r\nPING\r\n";
    client.write_all(transaction.as_bytes()).unwrap();
    let handed_on = door.hand_on_some();
    assert_eq!((handed_on.len(), handed_on[0].kind), (1, RequestKind::Read));
    for _ in 0..5 {
        door.pass();
    }
    assert_eq!(door.clients.context.traffic.commands, 1, "no more is looked at");
    door.clients.answer(handed_on[0].key, revision(7));
    door.expect(&mut client, "+OK\r\n+PONG\r\n+OK\r\n+QUEUED\r\n");
    // The next WATCH is under way as soon as the EXEC, and sees what that did.
    let exec = door.hand_on_some();
    assert_eq!((exec.len(), exec[0].kind), (1, RequestKind::Write));
    door.clients.answer(exec[0].key, Outcome::List(vec![Outcome::Done]));
    door.expect(&mut client, "*1\r\n+OK\r\n");
    let watch = door.hand_on_some();
    door.clients.answer(watch[0].key, revision(8));
    door.expect(&mut client, "+OK\r\n+PONG\r\n");
    // Closed in the middle, nothing is left.
    client.write_all(b"WATCH k\r\nPING\r\n").unwrap();
    door.hand_on_some();
    drop(client);
    door.later(Duration::from_secs(10));
    door.until("its end", |door| (door.clients.context.traffic.clients == 0).then_some(()));
    assert_eq!((door.clients.memory.held_bytes(), door.clients.next_due()), (0, None));
}

#[test]
fn a_watch_that_fails_lets_no_exec_through() {
    let mut door = Door::new();
    let mut client = door.connect();
    client.write_all(b"WATCH k\r\nMULTI\r\nSET k v\r\nEXEC\r\n").unwrap();
    let handed_on = door.hand_on_some();
    door.clients.fail(handed_on[0].key, Reason::NoLeader);
    door.expect(
        &mut client,
        "-CLUSTERDOWN no leader is known; nothing was done\r\n+OK\r\n+QUEUED\r\n\
         -EXECABORT Transaction discarded because of previous errors.\r\n",
    );
    assert!(door.hand_on().is_empty());
    // Sent elsewhere, it does not watch here either.
    client.write_all(b"CLUSTER SLOTS\r\nWATCH foo\r\nMULTI\r\nPING\r\nEXEC\r\n").unwrap();
    door.expect(&mut client, "*0\r\n");
    door.until("the watch", |door| (door.clients.context.traffic.commands == 6).then_some(()));
    door.clients.context.leader = Some(NodeId(2));
    door.clients.redirect();
    door.expect(
        &mut client,
        "-MOVED 12182 127.0.0.1:7002\r\n+OK\r\n+QUEUED\r\n\
         -EXECABORT Transaction discarded because of previous errors.\r\n",
    );
    client.write_all(b"MULTI\r\nSET foo v\r\nEXEC\r\n").unwrap();
    door.expect(
        &mut client,
        "+OK\r\n-MOVED 12182 127.0.0.1:7002\r\n\
         -EXECABORT Transaction discarded because of previous errors.\r\n",
    );
}

#[test]
fn what_the_door_does_within_a_transaction_is_taken_back_with_it() {
    let mut door = Door::new();
    let mut client = door.connect();
    let named = b"WATCH k\r\nMULTI\r\nCLIENT SETNAME me\r\nGET k\r\nEXEC\r\nCLIENT GETNAME\r\n";
    for (outcome, name, reply) in [
        (Outcome::NoList, "$-1\r\n", "*-1\r\n".to_owned()),
        (
            Outcome::List(vec![Outcome::Value(None)]),
            "$2\r\nme\r\n",
            "*2\r\n+OK\r\n$-1\r\n".to_owned(),
        ),
    ] {
        client.write_all(named).unwrap();
        let watch = door.hand_on_some();
        door.clients.answer(watch[0].key, revision(1));
        let exec = door.hand_on_some();
        assert_eq!(exec[0].kind, RequestKind::Read, "it writes nothing");
        door.clients.answer(exec[0].key, outcome);
        let queued = "+QUEUED\r\n".repeat(2);
        door.expect(&mut client, &format!("+OK\r\n+OK\r\n{queued}{reply}{name}"));
    }
}

#[test]
fn queued_requests_count_for_what_a_client_holds() {
    let mut door = Door::new();
    let mut client = door.connect();
    let value = "v".repeat(1_000_000);
    let before = door.clients.memory.held_bytes();
    client
        .write_all(
            format!("MULTI\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\n{value}\r\n").as_bytes(),
        )
        .unwrap_or(());
    let mut replies = Vec::new();
    door.until("both replies", |_| {
        read(&mut client, &mut replies);
        (replies == b"+OK\r\n+QUEUED\r\n").then_some(())
    });
    assert!(door.clients.memory.held_bytes() > before + 1_000_000);
    client.write_all(b"DISCARD\r\n").unwrap();
    door.expect(&mut client, "+OK\r\n");
    door.pass();
    assert!(door.clients.memory.held_bytes() < before + 100_000);
}
