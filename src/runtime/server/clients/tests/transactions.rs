//! Transactions.

use super::*;

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
