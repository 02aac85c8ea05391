//! The statistics of commands and errors that `INFO` shows.

use super::*;

/// Returns the lines of a section of `INFO` that contain `part`.
fn info(fixture: &mut Fixture, client: &mut TcpStream, section: &str, part: &str) -> Vec<String> {
    client.write_all(format!("INFO {section}\r\n").as_bytes()).unwrap();
    let reply = String::from_utf8(fixture.reply(client, 1)).unwrap();
    reply.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
}

/// Answers all waiting requests: reads with a null value, and writes with an error.
fn answer_all(fixture: &mut Fixture, elapsed: Duration) {
    let sent = fixture.dispatch_some();
    fixture.advance(elapsed);
    for SentRequest { key, kind, .. } in sent {
        let refused = Outcome::Refused(crate::kv::Refusal::WrongType);
        fixture.on_outcome(
            key,
            if kind == RequestKind::Read { Outcome::Value(None) } else { refused },
        );
    }
}

/// Regression test: `INFO` used to show no statistics of commands, errors and latencies.
#[test]
fn info_counts_command_calls_errors_and_latencies() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    client.write_all(b"GET a\r\nGET b\r\nGET\r\nPING\r\nCONFIG nope\r\nNOPE\r\n").unwrap();
    answer_all(&mut fixture, Duration::from_millis(2));
    client.write_all(b"INCR a\r\n").unwrap();
    answer_all(&mut fixture, Duration::from_millis(5));
    fixture.reply(&mut client, 100);
    let (fixture, client) = (&mut fixture, &mut client);
    assert_eq!(
        info(fixture, client, "commandstats", "cmdstat_"),
        [
            "cmdstat_get:calls=2,usec=4000,usec_per_call=2000.00,rejected_calls=1,failed_calls=0",
            "cmdstat_incr:calls=1,usec=5000,usec_per_call=5000.00,rejected_calls=0,failed_calls=1",
            // The test's clock does not move while a request is executed.
            "cmdstat_ping:calls=1,usec=0,usec_per_call=0.00,rejected_calls=0,failed_calls=0",
        ]
    );
    let errors = info(fixture, client, "errorstats", "errorstat_");
    assert_eq!(errors, ["errorstat_ERR:count=3", "errorstat_WRONGTYPE:count=1"]);
    let latency = info(fixture, client, "latencystats", "usec_get");
    assert_eq!(latency, ["latency_percentiles_usec_get:p50=2007.039,p99=2007.039,p99.9=2007.039"]);
    assert_eq!(info(fixture, client, "stats", "total_error"), ["total_error_replies:4"]);
    client.write_all(b"CONFIG RESETSTAT\r\n").unwrap();
    fixture.expect(client, "+OK\r\n");
    let calls = info(fixture, client, "commandstats", "cmdstat_");
    assert_eq!(calls.len(), 1, "only the command that has reset the statistics: {calls:?}");
    assert!(calls[0].starts_with("cmdstat_config|resetstat:calls=1,"), "{calls:?}");
    assert!(info(fixture, client, "errorstats", "errorstat_").is_empty());
    // Regression test: the next connection used to set the number back to the number of clients
    // since the start of the process.
    fixture.connect();
    assert_eq!(
        info(fixture, client, "stats", "total_connections"),
        ["total_connections_received:1"]
    );
}

#[test]
fn commandstats_counts_commands_of_a_transaction_one_by_one() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    client.write_all(b"MULTI\r\nGET a\r\nPING\r\nINCR a\r\nEXEC\r\n").unwrap();
    let sent = fixture.dispatch_some();
    let wrong = Outcome::Refused(crate::kv::Refusal::WrongType);
    fixture.on_outcome(sent[0].key, Outcome::List(vec![Outcome::Value(None), wrong]));
    // Nothing of this transaction depends on the state.
    client.write_all(b"MULTI\r\nPING\r\nCONFIG SET nonsense 1\r\nEXEC\r\n").unwrap();
    fixture.until("all requests", |fixture| {
        (fixture.clients.context.traffic.commands == 9).then_some(())
    });
    fixture.reply(&mut client, 100);
    let calls = info(&mut fixture, &mut client, "commandstats", "cmdstat_");
    let counts: Vec<String> = calls
        .iter()
        .map(|line| {
            let (name, values) = line.strip_prefix("cmdstat_").unwrap().split_once(':').unwrap();
            let number = |at: usize| values.split(',').nth(at).unwrap().split_once('=').unwrap().1;
            format!("{name} {} {} {}", number(0), number(3), number(4))
        })
        .collect();
    let wanted =
        ["config|set 1 0 1", "exec 2 0 0", "get 1 0 0", "incr 1 0 1", "multi 2 0 0", "ping 2 0 0"];
    assert_eq!(counts, wanted);
    let errors = info(&mut fixture, &mut client, "errorstats", "errorstat_");
    assert_eq!(errors, ["errorstat_ERR:count=1", "errorstat_WRONGTYPE:count=1"]);
}

/// Regression test: `INFO` used to omit the calls before it in the same pipeline.
#[test]
fn info_includes_earlier_calls_of_the_same_pipeline() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    client.write_all(b"PING\r\nPING\r\nCONFIG SET a b\r\nINFO commandstats\r\n").unwrap();
    let reply = String::from_utf8(fixture.reply(&mut client, 200)).unwrap();
    let field = |name| reply.lines().find(|line| line.starts_with(name)).unwrap_or(&reply);
    let calls = "cmdstat_ping:calls=2,usec=0,usec_per_call=0.00,rejected_calls=0,failed_calls=0";
    assert_eq!(field("cmdstat_ping:"), calls);
    assert!(field("cmdstat_config|set:").ends_with("failed_calls=1"), "{reply}");
}

/// Regression test: a reply replaced by an error because of its size used to count as a success.
#[test]
fn commandstats_counts_a_too_large_reply_as_a_failed_call() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    let large = Outcome::Value(Some(Bytes::from(vec![b'x'; 9 << 20])));
    let exec = Outcome::List(vec![large.clone()]);
    for (request, outcome) in [
        ("GET a\r\n", large.clone()),
        ("GETDEL a\r\n", large),
        ("MULTI\r\nGETDEL a\r\nEXEC\r\n", exec),
    ] {
        client.write_all(request.as_bytes()).unwrap();
        let sent = fixture.dispatch_some();
        fixture.on_outcome(sent[0].key, outcome);
    }
    fixture.reply(&mut client, 180);
    let calls = info(&mut fixture, &mut client, "commandstats", "failed_calls=1");
    let names: Vec<_> = calls.iter().filter_map(|line| line.split(':').next()).collect();
    assert_eq!(names, ["cmdstat_exec", "cmdstat_get", "cmdstat_getdel"]);
    assert!(calls[2].starts_with("cmdstat_getdel:calls=2,"), "{calls:?}");
    let errors = info(&mut fixture, &mut client, "errorstats", "errorstat_");
    assert_eq!(errors, ["errorstat_ERR:count=1", "errorstat_UNCERTAIN:count=2"]);
}

#[test]
fn errorstats_counts_failed_requests_by_error_code() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    client.write_all(b"SET k v\r\nGET k\r\n").unwrap();
    fixture.until("both requests", |fixture| {
        (fixture.clients.context.traffic.commands == 2).then_some(())
    });
    // The time before the request is sent does not count.
    fixture.advance(Duration::from_secs(1));
    fixture.dispatch_some();
    fixture.advance(Duration::from_secs(4));
    fixture.reply(&mut client, 150);
    let calls = info(&mut fixture, &mut client, "commandstats", "cmdstat_");
    assert_eq!(
        calls,
        [
            "cmdstat_get:calls=0,usec=0,usec_per_call=0.00,rejected_calls=1,failed_calls=0",
            "cmdstat_set:calls=1,usec=4000000,usec_per_call=4000000.00,rejected_calls=0,\
             failed_calls=1",
        ]
    );
    let errors = info(&mut fixture, &mut client, "errorstats", "errorstat_");
    assert_eq!(errors, ["errorstat_CLUSTERDOWN:count=1", "errorstat_UNCERTAIN:count=1"]);
}
