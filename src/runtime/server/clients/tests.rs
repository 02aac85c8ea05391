//! Tests of clients that connect over real sockets. The test advances the clock and plays the part
//! of the core.

mod blocking;
mod lagging_reads;
mod limits;
mod pause;
mod pubsub;
mod scripts;
mod settings;
mod statistics;
mod tls;
mod tracking;
mod transactions;
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
