//! Limits on the memory of clients, the sizes of requests and replies, and idle connections.

use super::*;

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
