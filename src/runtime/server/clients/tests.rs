//! Tests of clients that connect over real sockets. The test advances the clock and plays the part
//! of the core.

mod blocking;
mod lagging_reads;
mod pause;
mod scripts;
mod settings;
mod statistics;
mod tls;
mod tracking;
mod users;
mod waiting;
mod wide_replies;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use mio::{Events, Poll};
use socket2::SockRef;

use super::request::FailureReason;
use super::*;
use crate::feature_level::FeatureLevel;
use crate::kv::Outcome;
use crate::raft::{ClientRequest, DiskState, RequestKind};
use crate::redis::ReplicaInfo;
use crate::runtime::clock::tests::stopped;
use crate::runtime::pass::Pass;
use crate::runtime::server::freshness::StateAge;
use crate::runtime::server::request_id::origin_of;
use crate::types::NodeId;

const FIRST_TOKEN: usize = 8;
const MEMORY: usize = 16 << 20;

struct Fixture {
    poll: Poll,
    listener: TcpListener,
    clients: Clients,
    now: Instant,
    space: Vec<u8>,
    /// The settings of TLS with which the next connection is accepted; `None` for a plain one.
    tls: Option<Arc<rustls::ServerConfig>>,
}

/// A request that was sent to the core in a separate batch.
struct SentRequest {
    key: RequestKey,
    kind: RequestKind,
    /// Index of the request among the requests of all clients, starting from 0.
    number: u64,
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
        path: None,
        disk: DiskState::Healthy,
        program: None,
    }
}

impl Fixture {
    fn new() -> Fixture {
        let mut settings = Settings::new(&Limits::default(), "127.0.0.1", 7001, "data");
        settings.set_client_limits(1_000, MEMORY as u64, 0);
        let mut context = Context::alone(node(1), 7, Instant::ZERO);
        context.members.feature_level = FeatureLevel::NEWEST;
        context.nodes.push(node(2));
        let origin = origin_of(NodeId(1), 1);
        let timeouts = Timeouts::default();
        let counters = Arc::default();
        Fixture {
            poll: Poll::new().unwrap(),
            listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
            clients: Clients::new(
                origin,
                FIRST_TOKEN,
                timeouts,
                context,
                settings,
                Arc::default(),
                counters,
            ),
            now: Instant::ZERO,
            space: vec![0; 64 << 10],
            tls: None,
        }
    }

    /// Creates a fixture whose connections have small socket buffers.
    fn with_small_buffers() -> Fixture {
        let fixture = Fixture::new();
        SockRef::from(&fixture.listener).set_recv_buffer_size(32 << 10).unwrap();
        SockRef::from(&fixture.listener).set_send_buffer_size(32 << 10).unwrap();
        fixture
    }

    fn connect(&mut self) -> TcpStream {
        let stream = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = self.listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        let accepted = mio::net::TcpStream::from_std(accepted);
        let session = self.tls.clone().map(|config| Session::accept(config).unwrap());
        self.clients.accept(accepted, session, false, self.now, self.poll.registry());
        stream.set_nonblocking(true).unwrap();
        stream
    }

    /// Runs one pass: reads from all clients and writes to them once.
    fn pass(&mut self) {
        let mut events = Events::with_capacity(64);
        self.poll.poll(&mut events, Some(Duration::from_millis(1))).unwrap();
        for event in &events {
            self.clients.on_event(event.token().0, event);
        }
        self.clients.context.now = self.now;
        let mut pass = Pass::of_large(stopped(), usize::MAX);
        self.clients.receive(self.poll.registry(), &mut self.space, &mut pass);
        self.clients.flush(self.poll.registry(), &mut pass);
    }

    /// Runs passes until `look` returns a value, and returns that value.
    fn until<T>(&mut self, what: &str, mut look: impl FnMut(&mut Fixture) -> Option<T>) -> T {
        for _ in 0..20_000 {
            if let Some(found) = look(self) {
                return found;
            }
            self.pass();
        }
        panic!("{what} did not arrive");
    }

    /// Sends the clients' requests that may be sent now, and returns them.
    fn dispatch(&mut self) -> Vec<SentRequest> {
        // One batch for each request.
        let sent = self.clients.dispatch(Target::Core, 1, |_| true).batches;
        let request = |batch: &ClientRequest| {
            let (key, kind) = (batch.key, batch.kind);
            let number = self.clients.batches.requests_of(key)[0] - 1;
            SentRequest { key, kind, number }
        };
        sent.iter().map(request).collect()
    }

    /// Runs passes until at least one of the clients' requests may be sent, sends all requests that
    /// may be sent then, and returns them.
    fn dispatch_some(&mut self) -> Vec<SentRequest> {
        self.until("a request", |fixture| Some(fixture.dispatch()).filter(|list| !list.is_empty()))
    }

    /// Passes the outcome of a sent request to the clients.
    fn on_outcome(&mut self, key: RequestKey, outcome: Outcome) {
        self.clients.on_outcomes(key, vec![outcome]);
    }

    /// Advances the test's clock by `span`.
    fn advance(&mut self, span: Duration) {
        self.now = self.now + span;
        self.clients.context.now = self.now;
        self.clients.expire(self.now, &mut Pass::of_small(stopped(), usize::MAX));
        self.clients.sweep(self.now, self.poll.registry());
        self.clients.read_ahead(self.now);
        self.clients.end_waits(self.now);
        self.clients.end_pause(self.now);
    }

    /// Receives at least `length` bytes of replies at `client`, and returns them.
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

/// Appends the bytes available at `client` to `into`. Returns false if the connection is closed.
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
fn each_pipelined_command_has_its_own_timeout() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    client.write_all("INCR n\r\nGET n\r\n".repeat(50).as_bytes()).unwrap();
    for number in 0..100 {
        let sent = fixture.dispatch_some();
        assert_eq!(sent.len(), 1, "a read sees the writes before it and none after");
        assert_eq!(sent[0].number, number);
        // Each one is within its timeout. All together they take a minute and a half.
        fixture.advance(Duration::from_millis(900));
        fixture.on_outcome(sent[0].key, Outcome::Integer(1));
    }
    fixture.expect(&mut client, &":1\r\n".repeat(100));
    assert_eq!(fixture.clients.next_expiry(), None);
}

#[test]
fn timed_out_request_error_tells_if_it_may_have_been_applied() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    client.write_all(b"SET k v\r\nGET k\r\n").unwrap();
    fixture.pass();
    fixture.advance(Duration::from_millis(1_900));
    assert_eq!(fixture.dispatch_some().len(), 1);
    // The deadline of the write is measured from the time at which it was sent; the read waits
    // behind it.
    fixture.advance(Duration::from_millis(3_900));
    fixture.pass();
    assert!(fixture.reply(&mut client, 0).is_empty());
    fixture.advance(Duration::from_millis(100));
    fixture.expect(
        &mut client,
        "-UNCERTAIN the deadline passed or the leader changed; the command may or may not have \
         been applied, check before retrying\r\n\
         -CLUSTERDOWN no leader is known; not applied, try again\r\n",
    );
    // First there is no leader, then a leader that accepts nothing.
    client.write_all(b"GET k\r\n").unwrap();
    fixture.pass();
    fixture.advance(Duration::from_secs(2));
    fixture.expect(&mut client, "-CLUSTERDOWN no leader is known; not applied, try again\r\n");
    fixture.clients.context.leader = Some(NodeId(1));
    client.write_all(b"GET k\r\n").unwrap();
    fixture.pass();
    fixture.advance(Duration::from_secs(2));
    fixture.expect(
        &mut client,
        "-TRYAGAIN the leader cannot accept the request now; not applied, try again\r\n",
    );
}

#[test]
fn leader_change_sends_moved_to_cluster_clients_only() {
    let mut fixture = Fixture::new();
    let (mut plain, mut cluster, mut reader) =
        (fixture.connect(), fixture.connect(), fixture.connect());
    plain.write_all(b"SET foo 1\r\n").unwrap();
    cluster.write_all(b"CLUSTER SLOTS\r\nSET foo 2\r\nGET foo\r\nDBSIZE\r\n").unwrap();
    reader.write_all(b"CLUSTER SLOTS\r\nREADONLY\r\nGET foo\r\nSET foo 3\r\n").unwrap();
    fixture.expect(&mut cluster, "*0\r\n");
    fixture.expect(&mut reader, "*0\r\n+OK\r\n");
    fixture.until("all requests", |fixture| {
        (fixture.clients.context.traffic.commands == 9).then_some(())
    });
    fixture.clients.context.leader = Some(NodeId(2));
    fixture.clients.redirect_all();
    let moved = "-MOVED 12182 127.0.0.1:7002\r\n";
    fixture.expect(&mut cluster, &moved.repeat(2));
    // Sent: a command without a key, a read that READONLY allows here, and a plain client.
    let sent = fixture.dispatch_some();
    assert_eq!(sent.len(), 3);
    for sent in sent {
        fixture.on_outcome(sent.key, Outcome::Integer(4));
    }
    fixture.expect(&mut plain, ":4\r\n");
    fixture.expect(&mut cluster, ":4\r\n");
    fixture.expect(&mut reader, &format!(":4\r\n{moved}"));
    // A request that was sent and requeued.
    fixture.clients.context.leader = Some(NodeId(1));
    cluster.write_all(b"SET foo 2\r\n").unwrap();
    let sent = fixture.dispatch_some();
    fixture.clients.context.leader = Some(NodeId(2));
    fixture.clients.redirect_all();
    fixture.clients.requeue(&[sent[0].key]);
    fixture.expect(&mut cluster, moved);
    assert!(fixture.dispatch().is_empty());
}

#[test]
fn refused_connections_are_counted_since_the_last_resetstat() {
    let mut fixture = Fixture::new();
    fixture.clients.settings.set_client_limits(1, MEMORY as u64, 0);
    let mut first = fixture.connect();
    let full = "-ERR max number of clients reached\r\n";
    for refused in [1, 2] {
        let mut late = fixture.connect();
        fixture.expect(&mut late, full);
        assert_eq!(fixture.clients.context.traffic.connections_refused, refused);
    }
    first.write_all(b"CONFIG RESETSTAT\r\n").unwrap();
    fixture.expect(&mut first, "+OK\r\n");
    assert_eq!(fixture.clients.context.traffic.connections_refused, 0);
    let mut late = fixture.connect();
    fixture.expect(&mut late, full);
    assert_eq!(fixture.clients.context.traffic.connections_refused, 1);
}

#[test]
fn leader_out_of_memory_fails_only_writes_that_add_data() {
    let mut fixture = Fixture::new();
    let (mut one, mut other) = (fixture.connect(), fixture.connect());
    one.write_all(b"SET k v\r\n").unwrap();
    other.write_all(b"DEL k\r\n").unwrap();
    fixture.until("both requests", |fixture| {
        (fixture.clients.context.traffic.commands == 2).then_some(())
    });
    let forwarded = Target::Leader(StateAge::default());
    let batch = fixture.clients.dispatch(forwarded, 10, |_| true).batches.remove(0);
    fixture.clients.on_full_memory(batch.key);
    fixture.expect(&mut one, "-OOM command not allowed when used memory > 'maxmemory'.\r\n");
    let sent = fixture.dispatch_some();
    assert_eq!((sent.len(), sent[0].kind), (1, RequestKind::Write));
    fixture.on_outcome(sent[0].key, Outcome::Integer(0));
    fixture.expect(&mut other, ":0\r\n");
}

#[test]
fn reads_are_not_delayed_by_write_batching() {
    let mut fixture = Fixture::new();
    let (mut one, mut other) = (fixture.connect(), fixture.connect());
    one.write_all(b"SET k v\r\nGET k\r\n").unwrap();
    other.write_all(b"GET k\r\nSET k v\r\n").unwrap();
    fixture.until("all requests", |fixture| {
        (fixture.clients.context.traffic.commands == 4).then_some(())
    });
    let kinds = |sent: Vec<ClientRequest>| sent.iter().map(|it| it.kind).collect::<Vec<_>>();
    let reads = fixture.clients.dispatch(Target::CoreReads, 10, |_| true).batches;
    assert_eq!(kinds(reads), [RequestKind::Read]);
    assert!(fixture.clients.has_waiting());
    let writes = fixture.clients.dispatch(Target::Core, 10, |_| true).batches;
    assert_eq!(kinds(writes), [RequestKind::Write]);
}

#[test]
fn requeued_write_fails_if_a_later_write_was_applied() {
    let mut fixture = Fixture::new();
    let (mut client, mut other) = (fixture.connect(), fixture.connect());
    other.write_all(b"SET c 3\r\n").unwrap();
    let third = fixture.dispatch_some().remove(0);
    // Replies of the replica itself have slots, but no sequence numbers.
    client.write_all(b"PING\r\nECHO x\r\nPING\r\nSET a 1\r\nSET b 2\r\n").unwrap();
    let mut sent = fixture.dispatch_some();
    fixture.until("both writes", |fixture| {
        sent.extend(fixture.dispatch());
        (sent.len() == 2).then_some(())
    });
    fixture.on_outcome(sent[1].key, Outcome::Done);
    fixture.clients.requeue(&[sent[0].key]);
    assert!(fixture.dispatch().is_empty(), "sent again, after a later write of the same client");
    let reply = fixture.reply(&mut client, 50);
    let reply = String::from_utf8_lossy(&reply);
    let begin = "+PONG\r\n$1\r\nx\r\n+PONG\r\n-";
    assert!(reply.starts_with(begin) && reply.ends_with("\r\n+OK\r\n"), "{reply}");
    // The other client's write still has no outcome.
    fixture.on_outcome(third.key, Outcome::Done);
    fixture.expect(&mut other, "+OK\r\n");
}

#[test]
fn reads_beyond_the_output_buffer_limit_are_retried_in_order() {
    const COUNT: usize = 200;
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    client.write_all("GET k\r\nECHO x\r\n".repeat(COUNT).as_bytes()).unwrap();
    let value = |number: u64| {
        let text = format!("{number:0>10}").repeat(10_000);
        Bytes::from(text)
    };
    let answer_all = |fixture: &mut Fixture| {
        let sent = fixture.dispatch();
        for one in &sent {
            assert_eq!(one.kind, RequestKind::Read);
            fixture.on_outcome(one.key, Outcome::Value(Some(value(one.number))));
        }
        assert!(fixture.clients.memory.used_bytes() < 4 << 20);
        sent.len()
    };
    // The client does not read, so at some point no more requests are sent, but none is refused.
    let mut quiet = 0;
    while quiet < 20 {
        fixture.pass();
        quiet = if answer_all(&mut fixture) == 0 { quiet + 1 } else { 0 };
    }
    fixture.advance(Duration::from_mins(10));
    let mut wanted = Vec::new();
    for number in 0..COUNT as u64 {
        wanted.extend_from_slice(b"$100000\r\n");
        wanted.extend_from_slice(&value(number));
        wanted.extend_from_slice(b"\r\n$1\r\nx\r\n");
    }
    let mut reply = Vec::new();
    fixture.until("all replies", |fixture| {
        answer_all(fixture);
        assert!(read(&mut client, &mut reply));
        (reply.len() >= wanted.len()).then_some(())
    });
    assert!(reply == wanted, "wrong replies");
}

/// Writes as much of `requests` as the socket accepts, until it has accepted none in ten passes.
/// Returns the number of bytes.
fn write_some(fixture: &mut Fixture, client: &mut TcpStream, requests: &[u8]) -> usize {
    let (mut sent, mut refused) = (0, 0);
    while refused < 10 && sent < requests.len() {
        match client.write(&requests[sent..]) {
            Ok(count) => (sent, refused) = (sent + count, 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => refused += 1,
            Err(_) => return sent,
        }
        fixture.pass();
    }
    sent
}

#[test]
fn client_may_pipeline_all_requests_before_reading_replies() {
    const COUNT: usize = 5_000;
    let mut fixture = Fixture::with_small_buffers();
    let mut client = fixture.connect();
    SockRef::from(&client).set_send_buffer_size(32 << 10).unwrap();
    let value = "v".repeat(1_000);
    let requests = format!("*2\r\n$4\r\nECHO\r\n$1000\r\n{value}\r\n").repeat(COUNT).into_bytes();
    let mut sent = 0;
    while !fixture.clients.connected.iter_mut().all(|(_, client)| client.is_over_budget()) {
        sent += write_some(&mut fixture, &mut client, &requests[sent..]);
    }
    assert!(sent < 2 << 20, "{sent} bytes were received at once for 1 MiB of replies");
    let received = fixture.clients.context.traffic.bytes_in;
    fixture.advance(READ_AHEAD_DELAY / 2);
    sent += write_some(&mut fixture, &mut client, &requests[sent..]);
    assert_eq!(fixture.clients.context.traffic.bytes_in, received, "the client may yet read");
    while sent < requests.len() {
        fixture.advance(READ_AHEAD_DELAY);
        let count = write_some(&mut fixture, &mut client, &requests[sent..]);
        assert!(count > 0, "stuck at {sent} bytes");
        sent += count;
    }
    let reply = format!("$1000\r\n{value}\r\n").repeat(COUNT);
    fixture.expect(&mut client, &reply);
    fixture.pass();
    assert!(fixture.clients.memory.used_bytes() < 1 << 20, "the memory is freed");
}

#[test]
fn client_that_never_reads_is_disconnected_at_the_memory_limit() {
    let mut fixture = Fixture::with_small_buffers();
    let (mut client, mut modest) = (fixture.connect(), fixture.connect());
    SockRef::from(&client).set_send_buffer_size(32 << 10).unwrap();
    let requests = b"PING\r\n".repeat(100_000);
    let mut sent = 0;
    while fixture.clients.counters.clients_closed.get() == 0 {
        assert!(sent < 2 * MEMORY, "{sent} bytes were received");
        fixture.advance(READ_AHEAD_DELAY);
        sent += write_some(&mut fixture, &mut client, &requests);
    }
    assert!(sent > MEMORY / 4, "{sent} bytes were received");
    modest.write_all(b"PING\r\n").unwrap();
    fixture.expect(&mut modest, "+PONG\r\n");
}

#[test]
fn too_large_reply_becomes_an_error_and_connection_stays_open() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    client.write_all(b"MGET a b\r\nPING\r\n").unwrap();
    let sent = fixture.dispatch_some();
    let value = Some(Bytes::from(vec![b'x'; 5 << 20]));
    fixture.on_outcome(sent[0].key, Outcome::Values(vec![value.clone(), value]));
    fixture.expect(
        &mut client,
        "-ERR the reply is too large: 10485856 bytes, limit 8388608\r\n+PONG\r\n",
    );
    // The write was applied, so the error is not `ERR`.
    client.write_all(b"GETDEL a\r\nPING\r\n").unwrap();
    let sent = fixture.dispatch_some();
    let value = Some(Bytes::from(vec![b'x'; 9 << 20]));
    fixture.on_outcome(sent[0].key, Outcome::Value(value));
    fixture.expect(
        &mut client,
        "-UNCERTAIN applied, but the reply is too large: 9437216 bytes, limit 8388608\r\n\
         +PONG\r\n",
    );
}

#[test]
fn large_requests_are_read_one_by_one_while_small_ones_proceed() {
    const LARGE: usize = 2 << 20;
    let mut fixture = Fixture::new();
    let value = "v".repeat(LARGE);
    let bytes = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${LARGE}\r\n{value}\r\n").into_bytes();
    let mut large: Vec<_> = (0..20).map(|_| (fixture.connect(), 0, Vec::new())).collect();
    let mut small = fixture.connect();
    let mut pongs = Vec::new();
    let mut used_max = 0;
    fixture.until("all replies", |fixture| {
        for (client, sent, reply) in &mut large {
            match client.write(&bytes[*sent..]) {
                Ok(count) => *sent += count,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            assert!(read(client, reply), "the connection was closed");
        }
        small.write_all(b"PING\r\n").unwrap();
        assert!(read(&mut small, &mut pongs), "the connection was closed");
        used_max = used_max.max(fixture.clients.memory.used_bytes());
        for one in fixture.dispatch() {
            fixture.on_outcome(one.key, Outcome::Done);
        }
        large.iter().all(|(_, _, reply)| reply == b"+OK\r\n").then_some(())
    });
    assert!(pongs.len() > 20 * "+PONG\r\n".len());
    assert!(used_max > MEMORY / 4, "only {used_max} bytes");
    assert!(used_max <= MEMORY, "{used_max}");
    fixture.pass();
    assert!(fixture.clients.memory.used_bytes() < 1 << 20, "the memory is freed");
}

#[test]
fn client_using_the_most_memory_is_disconnected_at_the_limit() {
    let mut fixture = Fixture::new();
    let mut modest = fixture.connect();
    let mut greedy: Vec<_> = (0..40).map(|_| fixture.connect()).collect();
    for client in &mut greedy {
        client.write_all(b"GETSET k v\r\nGETSET k v\r\n").unwrap();
    }
    let sent = fixture.until("all requests", |fixture| {
        fixture.pass();
        (fixture.clients.context.traffic.commands == 80).then(|| fixture.dispatch())
    });
    for one in sent {
        let value = Bytes::from(vec![b'x'; 1 << 20]);
        fixture.on_outcome(one.key, Outcome::Value(Some(value)));
    }
    fixture.pass();
    assert!(fixture.clients.memory.used_bytes() <= MEMORY);
    let closed = fixture.clients.counters.clients_closed.get();
    assert!((1..=40).contains(&closed), "{closed}");
    modest.write_all(b"PING\r\n").unwrap();
    fixture.expect(&mut modest, "+PONG\r\n");
}

/// Regression test: the command used to be accepted without effect.
#[test]
fn client_that_has_sent_no_evict_is_not_disconnected_at_the_limit() {
    let mut fixture = Fixture::with_small_buffers();
    let (mut protected, mut greedy) = (fixture.connect(), fixture.connect());
    protected.write_all(b"CLIENT NO-EVICT maybe\r\nCLIENT NO-EVICT on\r\n").unwrap();
    fixture.expect(&mut protected, "-ERR syntax error\r\n+OK\r\n");
    protected.write_all(b"CLIENT INFO\r\n").unwrap();
    let info = String::from_utf8(fixture.reply(&mut protected, 100)).unwrap();
    assert!(info.contains(" flags=e ") && info.contains(" qbuf=26 "), "{info}");
    for (client, size) in [(&mut protected, 6 << 20), (&mut greedy, 3 << 20)] {
        client.write_all(b"GETSET k v\r\n").unwrap();
        let sent = fixture.dispatch_some();
        let value = Bytes::from(vec![b'x'; size]);
        fixture.on_outcome(sent[0].key, Outcome::Value(Some(value)));
    }
    fixture.clients.memory.set_limit(1 << 20);
    fixture.pass();
    assert_eq!(fixture.clients.counters.clients_closed.get(), 1);
    assert!(fixture.clients.connected.get_mut(0).is_some(), "the larger one stays");
}

#[test]
fn slow_log_has_requests_that_need_no_state() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    let ask = |fixture: &mut Fixture, client: &mut TcpStream, requests: &str| {
        client.write_all(requests.as_bytes()).unwrap();
        String::from_utf8(fixture.reply(client, 4)).unwrap()
    };
    fixture.clients.context.debug = true;
    ask(&mut fixture, &mut client, "CONFIG SET slowlog-log-slower-than 2000\r\n");
    ask(&mut fixture, &mut client, "PING\r\n");
    assert_eq!(ask(&mut fixture, &mut client, "SLOWLOG LEN\r\n"), ":0\r\n");
    ask(&mut fixture, &mut client, "DEBUG SLEEP 0.003\r\n");
    let found = ask(&mut fixture, &mut client, "SLOWLOG GET\r\n");
    assert!(found.contains("*3\r\n$5\r\ndebug\r\n$5\r\nsleep\r\n$5\r\n0.003"), "{found}");
    ask(&mut fixture, &mut client, "CONFIG SET slowlog-log-slower-than 0\r\n");
    ask(&mut fixture, &mut client, "SLOWLOG RESET\r\n");
    ask(&mut fixture, &mut client, "PING one\r\n");
    ask(&mut fixture, &mut client, "AUTH user secret\r\n");
    let found = ask(&mut fixture, &mut client, "SLOWLOG GET\r\n");
    assert!(found.contains("*2\r\n$4\r\nPING\r\n$3\r\none"), "{found}");
    assert!(found.contains("$10\r\n(redacted)") && !found.contains("secret"), "{found}");
}

#[test]
fn subscribing_is_confirmed_while_replies_are_off() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    client.write_all(b"CLIENT REPLY OFF\r\nPING\r\nSUBSCRIBE c\r\n").unwrap();
    fixture.expect(&mut client, "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
    client.write_all(b"PING\r\nUNSUBSCRIBE c\r\n").unwrap();
    fixture.expect(&mut client, "*3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:0\r\n");
}

#[test]
fn large_pubsub_message_is_in_memory_once_for_all_subscribers() {
    let mut fixture = Fixture::new();
    let mut subscribers: Vec<TcpStream> = (0..20).map(|_| fixture.connect()).collect();
    for client in &mut subscribers {
        client.write_all(b"SUBSCRIBE news\r\n").unwrap();
        fixture.expect(client, "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    }
    let message = Bytes::from(vec![b'm'; 1 << 20]);
    fixture.clients.publish_message(b"news", &message);
    let parts = fixture.clients.connected.iter_mut().map(|(_, client)| {
        let parts = client.socket.outbound.shared_parts();
        assert_eq!(parts.len(), 1);
        parts[0].as_ptr()
    });
    let addresses: std::collections::BTreeSet<_> = parts.collect();
    assert_eq!(addresses.len(), 1, "each subscriber has a copy");
    let end = "m".repeat(100) + "\r\n";
    for client in &mut subscribers {
        let reply = fixture.reply(client, message.len() + 30);
        assert!(reply.starts_with(b"*3\r\n$7\r\nmessage\r\n") && reply.ends_with(end.as_bytes()));
    }
}

#[test]
fn subscriber_with_a_lasting_backlog_is_disconnected() {
    let mut fixture = Fixture::new();
    let (mut lazy, mut quick, mut late) = (fixture.connect(), fixture.connect(), fixture.connect());
    for client in [&mut lazy, &mut quick, &mut late] {
        client.write_all(b"SUBSCRIBE news\r\n").unwrap();
        fixture.expect(client, "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    }
    fixture.clients.memory.set_limit(1 << 30);
    fixture.clients.settings.set_client_limits(1_000, 1 << 30, 0);
    let message = vec![b'm'; 1 << 20];
    let mut received = Vec::new();
    for _ in 0..20 {
        fixture.clients.publish_message(b"news", &message);
        fixture.pass();
        read(&mut quick, &mut received);
    }
    fixture.until("all messages", |_| {
        read(&mut quick, &mut received);
        (received.len() > 20 << 20).then_some(())
    });
    // This client falls behind and catches up.
    let behind = |fixture: &mut Fixture| {
        let clients = fixture.clients.connected.iter_mut();
        clients.filter(|(_, client)| client.backlog_since.is_some()).count()
    };
    assert_eq!(behind(&mut fixture), 2);
    received.clear();
    fixture.until("all messages", |_| {
        read(&mut late, &mut received);
        (received.len() > 20 << 20).then_some(())
    });
    fixture.advance(Duration::from_secs(59));
    assert_eq!(fixture.clients.connected.len(), 3);
    fixture.advance(Duration::from_secs(2));
    assert_eq!(fixture.clients.connected.len(), 2);
    fixture.clients.publish_message(b"news", b"more");
    for client in [&mut quick, &mut late] {
        fixture.expect(client, "*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$4\r\nmore\r\n");
    }
}

#[test]
fn pubsub_message_has_each_subscribers_pattern_and_protocol() {
    let mut fixture = Fixture::new();
    let mut clients: Vec<TcpStream> = (0..4).map(|_| fixture.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let subscribe = "SUBSCRIBE news\r\nPSUBSCRIBE n* ne*\r\n";
        let hello = if number % 2 == 0 { "" } else { "HELLO 3\r\n" };
        client.write_all(format!("{hello}{subscribe}").as_bytes()).unwrap();
        let mut reply = Vec::new();
        fixture.until("the subscriptions", |_| {
            read(client, &mut reply);
            String::from_utf8_lossy(&reply).ends_with("ne*\r\n:3\r\n").then_some(())
        });
    }
    fixture.clients.publish_message(b"news", b"text");
    for (number, client) in clients.iter_mut().enumerate() {
        let (kind, text) = (["*", ">"][number % 2], "$4\r\nnews\r\n$4\r\ntext\r\n");
        let by_pattern = |pattern: &str| {
            format!("{kind}4\r\n$8\r\npmessage\r\n${}\r\n{pattern}\r\n{text}", pattern.len())
        };
        let by_name = format!("{kind}3\r\n$7\r\nmessage\r\n{text}");
        fixture.expect(client, &[by_name, by_pattern("n*"), by_pattern("ne*")].concat());
    }
}

#[test]
fn partial_requests_time_out_and_idle_clients_if_configured() {
    let mut fixture = Fixture::new();
    let (mut half, mut quiet) = (fixture.connect(), fixture.connect());
    quiet.write_all(b"PING\r\n").unwrap();
    fixture.expect(&mut quiet, "+PONG\r\n");
    for byte in b"*2\r\n$4\r\nECHO\r\n$1" {
        half.write_all(&[*byte]).unwrap();
        fixture.pass();
        fixture.advance(Duration::from_secs(1));
    }
    let mut reply = Vec::new();
    assert!(read(&mut half, &mut reply));
    fixture.advance(Duration::from_secs(20));
    assert!(!read(&mut half, &mut reply) && reply.is_empty());
    // Idle connections are not closed by default.
    fixture.advance(Duration::from_hours(1));
    assert!(read(&mut quiet, &mut reply));
    quiet.write_all(b"CONFIG SET timeout 10\r\n").unwrap();
    fixture.expect(&mut quiet, "+OK\r\n");
    fixture.advance(Duration::from_secs(9));
    quiet.write_all(b"GET k\r\n").unwrap();
    fixture.dispatch_some();
    fixture.advance(Duration::from_secs(3));
    assert!(read(&mut quiet, &mut reply), "a request is in flight");
    fixture.advance(Duration::from_secs(1));
    let mut reply = fixture.reply(&mut quiet, 1);
    assert!(reply.starts_with(b"-CLUSTERDOWN"));
    fixture.advance(Duration::from_secs(10));
    assert!(!read(&mut quiet, &mut reply));
    assert_eq!(fixture.clients.context.traffic.clients, 0);
}

#[test]
fn maxclients_can_be_changed_by_config_set() {
    let mut fixture = Fixture::new();
    let mut first = fixture.connect();
    first.write_all(b"CONFIG SET maxclients 1\r\n").unwrap();
    fixture.expect(&mut first, "+OK\r\n");
    let mut second = fixture.connect();
    fixture.expect(&mut second, "-ERR max number of clients reached\r\n");
    first.write_all(b"CONFIG SET maxclients 2\r\n").unwrap();
    fixture.expect(&mut first, "+OK\r\n");
    let mut third = fixture.connect();
    third.write_all(b"PING\r\n").unwrap();
    fixture.expect(&mut third, "+PONG\r\n");
}

/// Returns the outcome of a `WATCH` of one key, whose revision is `number`.
fn revision(number: i64) -> Outcome {
    Outcome::List(vec![Outcome::Integer(number)])
}

#[test]
fn watch_blocks_later_pipelined_requests_until_its_reply() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    let transaction = "WATCH k\r\nPING\r\nMULTI\r\nSET k v\r\nEXEC\r\nWATCH j\r\nPING\r\n";
    client.write_all(transaction.as_bytes()).unwrap();
    let sent = fixture.dispatch_some();
    assert_eq!((sent.len(), sent[0].kind), (1, RequestKind::Read));
    for _ in 0..5 {
        fixture.pass();
    }
    assert_eq!(fixture.clients.context.traffic.commands, 1, "no more requests are parsed");
    fixture.on_outcome(sent[0].key, revision(7));
    fixture.expect(&mut client, "+OK\r\n+PONG\r\n+OK\r\n+QUEUED\r\n");
    // The next WATCH is sent after the EXEC, and sees its effects.
    let exec = fixture.dispatch_some();
    assert_eq!((exec.len(), exec[0].kind), (1, RequestKind::Write));
    fixture.on_outcome(exec[0].key, Outcome::List(vec![Outcome::Done]));
    fixture.expect(&mut client, "*1\r\n+OK\r\n");
    let watch = fixture.dispatch_some();
    fixture.on_outcome(watch[0].key, revision(8));
    fixture.expect(&mut client, "+OK\r\n+PONG\r\n");
    // After the connection was closed while blocked, nothing is left of it.
    client.write_all(b"WATCH k\r\nPING\r\n").unwrap();
    fixture.dispatch_some();
    drop(client);
    fixture.advance(Duration::from_secs(10));
    fixture
        .until("the close", |fixture| (fixture.clients.context.traffic.clients == 0).then_some(()));
    assert_eq!((fixture.clients.memory.used_bytes(), fixture.clients.next_expiry()), (0, None));
}

#[test]
fn failed_watch_aborts_the_transaction() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    client.write_all(b"WATCH k\r\nMULTI\r\nSET k v\r\nEXEC\r\n").unwrap();
    let sent = fixture.dispatch_some();
    fixture.clients.on_refusal(sent[0].key, FailureReason::NoLeader);
    fixture.expect(
        &mut client,
        "-CLUSTERDOWN no leader is known; not applied, try again\r\n+OK\r\n+QUEUED\r\n\
         -EXECABORT Transaction discarded because of previous errors.\r\n",
    );
    assert!(fixture.dispatch().is_empty());
    // A redirected WATCH aborts the transaction as well.
    client.write_all(b"CLUSTER SLOTS\r\nWATCH foo\r\nMULTI\r\nPING\r\nEXEC\r\n").unwrap();
    fixture.expect(&mut client, "*0\r\n");
    fixture.until("the watch", |fixture| {
        (fixture.clients.context.traffic.commands == 6).then_some(())
    });
    fixture.clients.context.leader = Some(NodeId(2));
    fixture.clients.redirect_all();
    fixture.expect(
        &mut client,
        "-MOVED 12182 127.0.0.1:7002\r\n+OK\r\n+QUEUED\r\n\
         -EXECABORT Transaction discarded because of previous errors.\r\n",
    );
    client.write_all(b"MULTI\r\nSET foo v\r\nEXEC\r\n").unwrap();
    fixture.expect(
        &mut client,
        "+OK\r\n-MOVED 12182 127.0.0.1:7002\r\n\
         -EXECABORT Transaction discarded because of previous errors.\r\n",
    );
}

#[test]
fn aborted_transaction_runs_no_queued_connection_commands() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
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
        let watch = fixture.dispatch_some();
        fixture.on_outcome(watch[0].key, revision(1));
        let exec = fixture.dispatch_some();
        assert_eq!(exec[0].kind, RequestKind::Read, "the transaction writes nothing");
        fixture.on_outcome(exec[0].key, outcome);
        let queued = "+QUEUED\r\n".repeat(2);
        fixture.expect(&mut client, &format!("+OK\r\n+OK\r\n{queued}{reply}{name}"));
    }
}

#[test]
fn commands_queued_after_multi_count_as_client_memory() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    let value = "v".repeat(1_000_000);
    let before = fixture.clients.memory.used_bytes();
    client
        .write_all(
            format!("MULTI\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\n{value}\r\n").as_bytes(),
        )
        .unwrap_or(());
    let mut replies = Vec::new();
    fixture.until("both replies", |_| {
        read(&mut client, &mut replies);
        (replies == b"+OK\r\n+QUEUED\r\n").then_some(())
    });
    assert!(fixture.clients.memory.used_bytes() > before + 1_000_000);
    client.write_all(b"DISCARD\r\n").unwrap();
    fixture.expect(&mut client, "+OK\r\n");
    fixture.pass();
    assert!(fixture.clients.memory.used_bytes() < before + 100_000);
}
