//! Subscribers.

use super::*;

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
