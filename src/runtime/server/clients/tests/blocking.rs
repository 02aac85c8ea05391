//! Tests of requests that wait for an element to take, such as `BLPOP`, and of `WAIT`.

use super::users::{set_user, with_user};
use super::*;
use crate::kv::{ChangedKey, ChangedKeys, DatabaseId, Operation, Refusal, ValueType};

pub(super) fn list(key: &'static str, elements: usize) -> ChangedKeys {
    let key = Bytes::from_static(key.as_bytes());
    let (database, kind) = (DatabaseId::FIRST, Some(ValueType::List));
    let key = ChangedKey { database, key, kind, elements, news: usize::MAX };
    ChangedKeys { keys: vec![key], ..ChangedKeys::default() }
}

pub(super) fn send(client: &mut TcpStream, request: &str) {
    client.write_all(format!("{request}\r\n").as_bytes()).unwrap();
}

/// Sends a request that tries, and plays the part of the core: there is nothing.
pub(super) fn block(fixture: &mut Fixture, client: &mut TcpStream, request: &str) {
    send(client, request);
    let [SentRequest { key, kind, .. }] = fixture.dispatch_some()[..] else { panic!("one") };
    assert_eq!(kind, RequestKind::Write);
    fixture.on_outcome(key, Outcome::NoList);
    fixture.expect_waiting(1);
}

/// The outcome of a pop of this element from the list at this key.
pub(super) fn taken(key: &'static str, element: &'static str) -> Outcome {
    let value = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
    Outcome::Values(vec![value(key), value(element)])
}

pub(super) fn reply_of(key: &str, element: &str) -> String {
    format!("*2\r\n${}\r\n{key}\r\n${}\r\n{element}\r\n", key.len(), element.len())
}

impl Fixture {
    /// Passes until at least this number of clients wait.
    pub(super) fn expect_waiting(&mut self, count: usize) {
        self.until("waiting clients", |fixture| {
            (fixture.clients.waiting.len() >= count).then_some(())
        });
    }

    /// Wakes clients, and returns the keys of the tries that follow, after some passes.
    pub(super) fn wake(&mut self, changed: &ChangedKeys) -> Vec<RequestKey> {
        self.clients.wake(changed);
        (0..3).for_each(|_| self.pass());
        self.dispatch().into_iter().map(|sent| sent.key).collect()
    }
}

#[test]
fn waiting_clients_are_served_in_order_by_one_try_for_each_element() {
    let mut fixture = Fixture::new();
    let mut clients: Vec<_> = (0..50).map(|_| fixture.connect()).collect();
    block(&mut fixture, &mut clients[0], "BLPOP k 0");
    for (index, client) in clients.iter_mut().enumerate().skip(1) {
        send(client, "BLPOP k 0");
        fixture.expect_waiting(index + 1);
    }
    assert!(fixture.dispatch().is_empty(), "they wait behind the first, without a try");
    assert!(fixture.wake(&list("other", 9)).is_empty());
    for (at, client) in clients.iter_mut().enumerate() {
        let [key] = fixture.wake(&list("k", 1))[..] else { panic!("one try") };
        assert!(fixture.wake(&list("k", 1)).is_empty(), "one is trying already");
        fixture.on_outcome(key, taken("k", "v"));
        fixture.expect(client, &reply_of("k", "v"));
        assert_eq!(fixture.clients.context.blocked_clients, 49 - at as u64);
    }
}

#[test]
fn try_that_finds_nothing_keeps_its_place_and_its_time() {
    let mut fixture = Fixture::new();
    let (mut one, mut two) = (fixture.connect(), fixture.connect());
    block(&mut fixture, &mut one, "BLPOP a k 2.5");
    send(&mut two, "BLPOP k 0");
    fixture.expect_waiting(2);
    let [key] = fixture.wake(&list("k", 1))[..] else { panic!("one try") };
    fixture.on_outcome(key, Outcome::NoList);
    let [first, second] = fixture.wake(&list("k", 2))[..] else { panic!("two tries") };
    fixture.advance(Duration::from_secs(3));
    assert_eq!(fixture.clients.waiting.len(), 0, "both are trying");
    fixture.on_outcome(first, Outcome::Refused(crate::kv::Refusal::WrongType));
    fixture.expect(&mut one, "*-1\r\n");
    fixture.on_outcome(second, Outcome::Refused(crate::kv::Refusal::WrongType));
    assert_eq!(fixture.clients.waiting.len(), 1, "another type does not end the wait");
}

#[test]
fn wait_ends_with_a_null_array_after_its_time() {
    let mut fixture = Fixture::new();
    let (mut one, mut two) = (fixture.connect(), fixture.connect());
    block(&mut fixture, &mut one, "BRPOPLPUSH a b 0.5");
    // It waits behind the first, so it looks at the key when its time is over.
    send(&mut two, "BLMOVE a b LEFT LEFT 1");
    fixture.expect_waiting(2);
    fixture.advance(Duration::from_millis(499));
    assert_eq!(fixture.clients.waiting.len(), 2);
    fixture.advance(Duration::from_millis(1));
    fixture.expect(&mut one, "*-1\r\n");
    fixture.advance(Duration::from_millis(500));
    let [SentRequest { key, .. }] = fixture.dispatch_some()[..] else { panic!("one") };
    fixture.on_outcome(key, Outcome::Value(None));
    fixture.expect(&mut two, "*-1\r\n");
    assert!(fixture.clients.waiting.len() == 0 && fixture.dispatch().is_empty());
}

#[test]
fn closed_connection_takes_nothing_and_passes_its_turn_on() {
    let mut fixture = Fixture::new();
    let (mut one, mut two) = (fixture.connect(), fixture.connect());
    block(&mut fixture, &mut one, "BLPOP k 0");
    send(&mut two, "BLPOP k 0");
    fixture.expect_waiting(2);
    drop(one);
    // Before `Poll` has reported the end of the connection.
    fixture.clients.wake(&list("k", 1));
    let [SentRequest { key, .. }] = fixture.dispatch()[..] else { panic!("one") };
    fixture.on_outcome(key, taken("k", "v"));
    fixture.expect(&mut two, &reply_of("k", "v"));
    fixture.until("the end", |fixture| (fixture.clients.len() == 1).then_some(()));
}

#[test]
fn killed_client_whose_try_is_on_its_way_passes_its_turn_on() {
    let mut fixture = Fixture::new();
    let (mut one, mut two, mut good) = (fixture.connect(), fixture.connect(), fixture.connect());
    block(&mut fixture, &mut one, "BLPOP k 0");
    send(&mut two, "BLPOP k 0");
    fixture.expect_waiting(2);
    assert_eq!(fixture.wake(&list("k", 1)).len(), 1);
    send(&mut good, "CLIENT KILL ID 1");
    fixture.expect(&mut good, ":1\r\n");
    fixture.until("the end", |fixture| (fixture.clients.len() == 2).then_some(()));
    fixture.advance(Duration::from_millis(1));
    assert_eq!(fixture.dispatch().len(), 1, "the element may still be there");
}

#[test]
fn uncertain_try_passes_its_turn_on() {
    let mut fixture = Fixture::new();
    let (mut one, mut two) = (fixture.connect(), fixture.connect());
    block(&mut fixture, &mut one, "BLPOP k 0");
    send(&mut two, "BLPOP k 0");
    fixture.expect_waiting(2);
    assert_eq!(fixture.wake(&list("k", 1)).len(), 1);
    fixture.advance(Duration::from_secs(9));
    let reply = fixture.reply(&mut one, 20);
    assert!(reply.starts_with(b"-UNCERTAIN "));
    assert_eq!(fixture.dispatch_some().len(), 1);
}

#[test]
fn try_that_was_not_applied_is_repeated() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    block(&mut fixture, &mut client, "BLPOP k l 60");
    let [key] = fixture.wake(&list("l", 1))[..] else { panic!("one try") };
    fixture.clients.on_refusal(key, FailureReason::Busy);
    fixture.expect_waiting(1);
    assert!(fixture.dispatch().is_empty());
    fixture.advance(Duration::from_millis(100));
    // There is no leader for a long time.
    for _ in 0..5 {
        fixture.advance(Duration::from_secs(3));
    }
    fixture.advance(Duration::from_millis(100));
    let [SentRequest { key, .. }] = fixture.dispatch_some()[..] else { panic!("one") };
    fixture.on_outcome(key, taken("l", "v"));
    fixture.expect(&mut client, &reply_of("l", "v"));
}

#[test]
fn pipelined_requests_run_after_the_wait() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    send(&mut client, "SET a 1\r\nBLPOP k 0\r\nSET b 2");
    let sent = fixture.dispatch_some();
    assert_eq!(sent.len(), 2, "a write before it is sent with it");
    fixture.on_outcome(sent[0].key, Outcome::Done);
    fixture.on_outcome(sent[1].key, Outcome::NoList);
    fixture.expect(&mut client, "+OK\r\n");
    assert!(fixture.dispatch().is_empty());
    let [key] = fixture.wake(&list("k", 1))[..] else { panic!("one try") };
    fixture.on_outcome(key, taken("k", "v"));
    let key = fixture.dispatch_some()[0].key;
    fixture.on_outcome(key, Outcome::Done);
    fixture.expect(&mut client, &format!("{}+OK\r\n", reply_of("k", "v")));
}

#[test]
fn unblock_and_stop_end_the_waits_of_pops() {
    let mut fixture = Fixture::new();
    let mut clients: Vec<_> = (0..4).map(|_| fixture.connect()).collect();
    for (at, client) in clients[..3].iter_mut().enumerate() {
        send(client, "BLPOP k 0");
        if at == 0 {
            let key = fixture.dispatch_some()[0].key;
            fixture.on_outcome(key, Outcome::NoList);
        }
        fixture.expect_waiting(at + 1);
    }
    send(&mut clients[3], "CLIENT UNBLOCK 2\r\nCLIENT UNBLOCK 1 ERROR");
    fixture.expect(&mut clients[3], ":1\r\n:1\r\n");
    fixture.expect(&mut clients[1], "*-1\r\n");
    fixture.expect(&mut clients[0], "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n");
    fixture.clients.refuse_waits();
    let forced = "-UNBLOCKED force unblock from blocking operation, instance state changed \
                  (master -> replica?)\r\n";
    fixture.expect(&mut clients[2], forced);
    send(&mut clients[0], "BLPOP k 0");
    let key = fixture.dispatch_some()[0].key;
    fixture.on_outcome(key, Outcome::NoList);
    fixture.expect(&mut clients[0], forced);
}

#[test]
fn woken_client_takes_nothing_without_permission() {
    let (mut fixture, mut store, mut one) = with_user();
    let mut two = fixture.connect();
    send(&mut two, "AUTH u x");
    fixture.expect(&mut two, "+OK\r\n");
    block(&mut fixture, &mut one, "BLPOP k 0");
    send(&mut two, "BLPOP k 0");
    fixture.expect_waiting(2);
    set_user(&mut fixture, &mut store, &[b"-blpop"]);
    assert!(fixture.wake(&list("k", 1)).is_empty());
    for client in [&mut one, &mut two] {
        let reply = fixture.reply(client, 10);
        assert!(reply.starts_with(b"-NOPERM "), "{}", reply.escape_ascii());
        fixture.advance(Duration::from_millis(1));
    }
}

#[test]
fn waiting_client_that_follows_redirects_is_redirected_to_a_new_leader() {
    let mut fixture = Fixture::new();
    fixture.clients.context.leader = Some(NodeId(1));
    let mut client = fixture.connect();
    send(&mut client, "CLUSTER MYID\r\nCLUSTER SLOTS");
    fixture.reply(&mut client, 60);
    block(&mut fixture, &mut client, "BLPOP k 0");
    fixture.clients.context.leader = Some(NodeId(2));
    fixture.clients.redirect_all();
    let reply = fixture.reply(&mut client, 10);
    assert!(reply.starts_with(b"-MOVED "), "{}", reply.escape_ascii());
    assert!(fixture.dispatch().is_empty());
}

#[test]
fn wait_replies_when_other_replicas_have_the_log() {
    let mut fixture = Fixture::new();
    fixture.clients.context.leader = Some(NodeId(1));
    let mut client = fixture.connect();
    send(&mut client, "SET a 1\r\nWAIT 1 0");
    let [SentRequest { key, kind, .. }] = fixture.dispatch_some()[..] else { panic!("one") };
    assert_eq!(kind, RequestKind::Write, "the read waits for it");
    fixture.on_outcome(key, Outcome::Done);
    fixture.clients.context.applied_index = crate::types::Index(9);
    let key = fixture.dispatch_some()[0].key;
    fixture.on_outcome(key, Outcome::Integer(77));
    fixture.expect(&mut client, "+OK\r\n");
    fixture.advance(Duration::from_hours(1));
    assert_eq!(fixture.clients.waiting.len(), 1);
    fixture.clients.context.nodes[1].match_index = Some(crate::types::Index(9));
    fixture.advance(Duration::from_millis(5));
    fixture.expect(&mut client, ":1\r\n");
    for (request, reply) in [("WAIT 2 50", ":1\r\n"), ("WAITAOF 1 2 50", "*2\r\n:1\r\n:1\r\n")] {
        send(&mut client, request);
        let key = fixture.dispatch_some()[0].key;
        fixture.on_outcome(key, Outcome::Integer(77));
        fixture.expect_waiting(1);
        fixture.advance(Duration::from_millis(50));
        fixture.expect(&mut client, reply);
    }
    // Another replica does not know the logs.
    fixture.clients.context.leader = Some(NodeId(2));
    send(&mut client, "WAIT 2 0");
    let key = fixture.dispatch_some()[0].key;
    fixture.on_outcome(key, Outcome::Integer(77));
    fixture.expect(&mut client, ":1\r\n");
}

#[test]
fn slow_log_and_permissions_see_the_command_of_the_client() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    block(&mut fixture, &mut client, "BLMPOP 0 2 k l LEFT COUNT 3");
    fixture.clients.wake(&list("l", 1));
    let client = fixture.clients.client(0);
    let operation = client.operation(0).unwrap();
    let wanted: Vec<&[u8]> = vec![b"0", b"1", b"l", b"LEFT", b"COUNT", b"3"];
    assert_eq!(Operation::decode(operation).unwrap().as_call(), Some(("blmpop", wanted)));
}

fn id(text: &'static str) -> Outcome {
    Outcome::Value(Some(Bytes::from_static(text.as_bytes())))
}

/// The outcome of a read of one entry of the stream `s`.
fn one_entry() -> Outcome {
    let fields = Outcome::Values(vec![Some(Bytes::from_static(b"f")); 2]);
    let entry = Outcome::List(vec![id("5-1"), fields]);
    Outcome::Streams(vec![(id("s"), Outcome::List(vec![entry]))])
}

const ENTRY: &str = "*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n5-1\r\n*2\r\n$1\r\nf\r\n$1\r\nf\r\n";

fn entries(news: usize) -> ChangedKeys {
    let kind = Some(ValueType::Stream);
    let key = ChangedKey {
        database: DatabaseId::FIRST,
        key: Bytes::from_static(b"s"),
        kind,
        elements: 0,
        news,
    };
    ChangedKeys { keys: vec![key], ..ChangedKeys::default() }
}

#[test]
fn reader_waits_for_entries_after_the_id_that_its_first_try_has_found() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    send(&mut client, "XREAD BLOCK 0 STREAMS t s $ $");
    let [SentRequest { key, kind, .. }] = fixture.dispatch_some()[..] else { panic!("one") };
    assert_eq!(kind, RequestKind::Read);
    fixture.on_outcome(key, Outcome::List(vec![id("0-0"), id("4-4")]));
    fixture.expect_waiting(1);
    assert!(fixture.wake(&entries(0)).is_empty(), "no entry was added");
    for _ in 0..2 {
        fixture.clients.wake(&entries(1));
        let request = fixture.clients.client(0);
        let operation = Operation::decode(request.operation(0).unwrap()).unwrap();
        let wanted: Vec<&[u8]> = vec![b"COUNT", b"1000", b"STREAMS", b"s", b"4-4"];
        assert_eq!(operation.as_call(), Some(("xread|wait", wanted)));
        let [SentRequest { key, .. }] = fixture.dispatch_some()[..] else { panic!("one") };
        fixture.on_outcome(key, Outcome::Refused(Refusal::WrongType));
        fixture.expect_waiting(1);
    }
    let [key] = fixture.wake(&entries(1))[..] else { panic!("one") };
    fixture.on_outcome(key, one_entry());
    fixture.expect(&mut client, ENTRY);
}

#[test]
fn consumer_that_may_have_left_entries_passes_its_turn_on() {
    let mut fixture = Fixture::new();
    let mut clients: Vec<_> = (0..3).map(|_| fixture.connect()).collect();
    let request = "XREADGROUP GROUP g c COUNT 1 BLOCK 700 STREAMS s >";
    block(&mut fixture, &mut clients[0], request);
    for (at, client) in clients.iter_mut().enumerate().skip(1) {
        send(client, request);
        fixture.expect_waiting(at + 1);
    }
    let [key] = fixture.wake(&entries(1))[..] else { panic!("one") };
    fixture.on_outcome(key, one_entry());
    fixture.expect(&mut clients[0], ENTRY);
    fixture.advance(Duration::from_millis(1));
    let key = fixture.dispatch_some()[0].key;
    let text = "UNBLOCKED the stream key no longer exists";
    fixture.on_outcome(key, Outcome::Error(Bytes::from_static(text.as_bytes())));
    fixture.expect(&mut clients[1], &format!("-{text}\r\n"));
    // Its turn is passed on, too, and finds nothing.
    fixture.advance(Duration::from_millis(1));
    let key = fixture.dispatch_some()[0].key;
    fixture.on_outcome(key, Outcome::NoList);
    fixture.expect_waiting(1);
    fixture.advance(Duration::from_millis(700));
    fixture.expect(&mut clients[2], "*-1\r\n");
    assert!(fixture.clients.waiting.len() == 0 && fixture.dispatch().is_empty());
}
