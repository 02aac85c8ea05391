//! Requests that are on their way while the permissions of their user change.

use super::*;
use crate::kv::{Batch, ChangedKeys, CommandId, Operation, Refusal, StateMachine};
use crate::types::{ClientId, RequestId};

const NO_KEY: &str = "-NOPERM No permissions to access a key\r\n";

/// Applies an operation that was checked under the current users.
fn apply(store: &mut StateMachine, key: RequestKey, operation: &Operation<'_>) -> Vec<Outcome> {
    let revision = Some(store.users().revision());
    let (batch, _) = Batch::of_one(operation.encode().into(), key, true, revision);
    store.apply_batch(&batch).outcomes
}

/// Applies rules to the user `u`, as a change in the log.
pub(super) fn set_user(fixture: &mut Fixture, store: &mut StateMachine, rules: &[&[u8]]) {
    let arguments = [&[&b"u"[..], b""], rules].concat();
    let operation = Operation::call(CommandId::of("acl|setuser"), &arguments[..]);
    let request = RequestId(u128::from(store.applied_index().0).to_le_bytes());
    let key = RequestKey { client: ClientId(1), request };
    assert_eq!(apply(store, key, &operation), [Outcome::Done]);
    fixture.clients.set_users(store.users());
}

/// Returns a fixture with a client that has logged in as a user who may use all keys.
pub(super) fn with_user() -> (Fixture, StateMachine, TcpStream) {
    let (mut fixture, mut store) = (Fixture::new(), StateMachine::default());
    set_user(&mut fixture, &mut store, &[b"on", b"nopass", b"+@all", b"~*"]);
    let mut client = fixture.connect();
    client.write_all(b"AUTH u x\r\n").unwrap();
    fixture.expect(&mut client, "+OK\r\n");
    (fixture, store, client)
}

#[test]
fn reads_and_waiting_writes_are_checked_again_when_users_change() {
    let (mut fixture, mut store, mut client) = with_user();
    client.write_all(b"GET a\r\nGET b\r\nSET a 1\r\nSET b 1\r\n").unwrap();
    fixture.until("all requests", |fixture| {
        (fixture.clients.context.traffic.commands == 5).then_some(())
    });
    let reads = fixture.dispatch();
    assert_eq!(reads.len(), 2, "the writes wait for the reads");
    set_user(&mut fixture, &mut store, &[b"resetkeys", b"~a"]);
    for read in reads {
        fixture.on_outcome(read.key, Outcome::Value(None));
    }
    let writes = fixture.dispatch_some();
    assert_eq!(writes.len(), 1, "only that which is permitted");
    fixture.on_outcome(writes[0].key, Outcome::Done);
    fixture.expect(&mut client, &format!("$-1\r\n{NO_KEY}+OK\r\n{NO_KEY}"));
    assert_eq!(fixture.clients.next_expiry(), None, "no request is left");
}

#[test]
fn writes_refused_under_newer_users_are_sent_again_if_still_permitted() {
    let (mut fixture, mut store, mut client) = with_user();
    client.write_all(b"SET a 1\r\nSET b 1\r\nSET a 2\r\n").unwrap();
    fixture.until("all requests", |fixture| {
        (fixture.clients.context.traffic.commands == 4).then_some(())
    });
    // All in one batch. Of several batches, the earlier ones could overtake the later ones.
    let dispatch = |fixture: &mut Fixture| {
        let batch = fixture.clients.dispatch(Target::Core, 10, |_| true).batches.remove(0);
        let decoded = Batch::decode(&batch.payload).unwrap();
        (batch.key, decoded.len(), decoded.users_revision)
    };
    let (key, count, revision) = dispatch(&mut fixture);
    assert_eq!((count, revision), (3, Some(1)));
    set_user(&mut fixture, &mut store, &[b"resetkeys", b"~a"]);
    let refused = Outcome::Refused(Refusal::UsersChanged);
    fixture.clients.on_outcomes(key, vec![refused; 3]);
    let (key, count, revision) = dispatch(&mut fixture);
    assert_eq!((count, revision), (2, Some(2)));
    fixture.clients.on_outcomes(key, vec![Outcome::Done; 2]);
    fixture.expect(&mut client, &format!("+OK\r\n{NO_KEY}+OK\r\n"));
}

#[test]
fn writes_of_a_deleted_user_are_not_sent_again() {
    let (mut fixture, mut store, mut client) = with_user();
    client.write_all(b"SET a 1\r\n").unwrap();
    fixture.until("the request", |fixture| {
        (fixture.clients.context.traffic.commands == 2).then_some(())
    });
    let batch = fixture.clients.dispatch(Target::Core, 10, |_| true).batches.remove(0);
    let operation = Operation::call(CommandId::of("acl|deluser"), [&b"u"[..]]);
    let key = RequestKey { client: ClientId(1), request: RequestId([9; 16]) };
    assert_eq!(apply(&mut store, key, &operation), [Outcome::Integer(1)]);
    fixture.clients.set_users(store.users());
    let refused = Outcome::Refused(Refusal::UsersChanged);
    fixture.clients.on_outcomes(batch.key, vec![refused]);
    let batches = fixture.clients.dispatch(Target::Core, 10, |_| true).batches;
    assert!(batches.is_empty(), "the write is not permitted any more");
}

#[test]
fn aborted_transaction_does_not_restore_withdrawn_permissions() {
    let (mut fixture, mut store, mut client) = with_user();
    client.write_all(b"WATCH a\r\n").unwrap();
    let watch = fixture.dispatch_some().remove(0).key;
    fixture.on_outcome(watch, Outcome::List(vec![Outcome::Integer(1)]));
    fixture.expect(&mut client, "+OK\r\n");
    client.write_all(b"MULTI\r\nHELLO 2\r\nSET a 1\r\nEXEC\r\n").unwrap();
    let exec = fixture.dispatch_some().remove(0).key;
    set_user(&mut fixture, &mut store, &[b"resetkeys"]);
    fixture.on_outcome(exec, Outcome::NoList);
    fixture.expect(&mut client, "+OK\r\n+QUEUED\r\n+QUEUED\r\n*-1\r\n");
    client.write_all(b"GET a\r\n").unwrap();
    fixture.expect(&mut client, NO_KEY);
}

#[test]
fn woken_client_gets_no_changes_without_permission() {
    let (mut fixture, mut store, mut client) = with_user();
    client.write_all(b"CHANGES FROM 5 VALUES BLOCK 0\r\n").unwrap();
    let read = fixture.dispatch_some().remove(0).key;
    fixture.on_outcome(read, Outcome::Integer(7));
    set_user(&mut fixture, &mut store, &[b"resetkeys"]);
    fixture.clients.wake(&ChangedKeys { others: true, ..ChangedKeys::default() });
    assert!(fixture.dispatch().is_empty(), "the request is not permitted any more");
    fixture.expect(&mut client, NO_KEY);
}

#[test]
fn session_of_a_user_that_may_not_open_one_any_more_is_not_opened() {
    let (mut fixture, mut store, mut client) = with_user();
    client.write_all(b"ONCE OPEN\r\n").unwrap();
    fixture.until("the request", |fixture| {
        (fixture.clients.context.traffic.commands == 2).then_some(())
    });
    let batch = fixture.clients.dispatch(Target::Core, 10, |_| true).batches.remove(0);
    set_user(&mut fixture, &mut store, &[b"-once"]);
    fixture.clients.on_outcomes(batch.key, vec![Outcome::Refused(Refusal::UsersChanged)]);
    let batches = fixture.clients.dispatch(Target::Core, 10, |_| true).batches;
    assert!(batches.is_empty(), "the write is not permitted any more");
    fixture.expect(&mut client, "-NOPERM User u has no permissions to run the 'once' command\r\n");
}

#[test]
fn reads_of_a_snapshot_are_checked_again_when_users_change() {
    for (request, rules, wanted) in [
        (
            &b"SNAPSHOT OPEN\r\n"[..],
            &b"-snapshot"[..],
            "-NOPERM User u has no permissions to run the 'snapshot|open' command\r\n",
        ),
        (b"SNAPSHOT READ 1-1-1-00000001 0\r\n", b"resetkeys", NO_KEY),
    ] {
        let (mut fixture, mut store, mut client) = with_user();
        client.write_all(request).unwrap();
        let read = fixture.until("the read", |fixture| fixture.clients.snapshot_reads.pop_front());
        set_user(&mut fixture, &mut store, &[b"nopass"]);
        assert!(fixture.clients.in_flight.get(read.sequence).is_some(), "it is still permitted");
        set_user(&mut fixture, &mut store, &[rules]);
        assert!(fixture.clients.in_flight.get(read.sequence).is_none());
        fixture.expect(&mut client, wanted);
    }
}

/// Returns the rule that adds a password.
fn password(text: &str) -> String {
    let hash = crate::redis::hash_password(text.as_bytes()).0;
    let digits: Vec<String> = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("#{}", digits.concat())
}

/// Makes the users known to be current that the store has.
fn confirm(fixture: &mut Fixture, store: &StateMachine) {
    fixture.clients.set_users(store.users());
    fixture.clients.confirm_users();
}

#[test]
fn requests_wait_until_the_users_are_confirmed() {
    let (mut fixture, mut store) = (Fixture::new(), StateMachine::default());
    fixture.clients.await_users();
    let mut client = fixture.connect();
    client.write_all(b"PING\r\nGET a\r\nPING\r\n").unwrap();
    fixture.expect(&mut client, "+PONG\r\n");
    assert!(fixture.clients.awaits_users() && fixture.dispatch().is_empty());
    // The user `default` has had a password for long, but this replica did not know.
    let password = password("p");
    let rules = [&b"default"[..], b"", b"on", password.as_bytes()];
    let operation = Operation::call(CommandId::of("acl|setuser"), &rules[..]);
    let key = RequestKey { client: ClientId(1), request: RequestId([9; 16]) };
    assert_eq!(apply(&mut store, key, &operation), [Outcome::Done]);
    confirm(&mut fixture, &store);
    let noauth = "-NOAUTH Authentication required.\r\n";
    fixture.expect(&mut client, &format!("{noauth}{noauth}"));
    client.write_all(b"AUTH p\r\nPING\r\n").unwrap();
    fixture.expect(&mut client, "+OK\r\n+PONG\r\n");
}

#[test]
fn requests_without_confirmed_users_are_refused_after_a_time() {
    let (mut fixture, mut store) = (Fixture::new(), StateMachine::default());
    let (old, new) = (password("old"), password("new"));
    set_user(&mut fixture, &mut store, &[b"on", old.as_bytes(), b"+@all", b"~*"]);
    fixture.clients.await_users();
    let mut clients = [fixture.connect(), fixture.connect()];
    clients[0].write_all(b"GET a\r\n").unwrap();
    clients[1].write_all(b"AUTH u old\r\nINFO server\r\nCONFIG GET x\r\n").unwrap();
    fixture.until("both", |fixture| (fixture.clients.paused.len() == 2).then_some(()));
    fixture.now = fixture.now + Timeouts::default().leader_wait;
    fixture.clients.resume(fixture.now);
    let loading = format!("-{}\r\n", crate::redis::USERS_UNKNOWN);
    fixture.expect(&mut clients[0], &loading);
    // An earlier password still shows an operator the state of the replica, and nothing else.
    let mut received = Vec::new();
    fixture.until("the replies", |_| {
        let mut space = [0; 4_096];
        let length = clients[1].read(&mut space).unwrap_or(0);
        received.extend_from_slice(&space[..length]);
        received.ends_with(loading.as_bytes()).then_some(())
    });
    assert!(received.starts_with(b"+OK\r\n$"), "{}", String::from_utf8_lossy(&received));
    set_user(&mut fixture, &mut store, &[b"resetpass", new.as_bytes()]);
    confirm(&mut fixture, &store);
    assert_eq!(fixture.clients.to_close.len(), 1, "its login was checked with earlier users");
}
