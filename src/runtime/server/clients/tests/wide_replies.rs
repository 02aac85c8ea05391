//! Tests of replies with many elements, which are encoded in parts.

use super::*;

/// Bound on the encoded bytes of a client: one part, and the element that exceeds it.
const ENCODED_BYTES_MAX: usize = (256 << 10) + 100;

/// Returns the most encoded bytes that wait to be written to one client.
fn encoded_bytes(fixture: &mut Fixture) -> usize {
    let clients = fixture.clients.connected.iter_mut();
    clients.map(|(_, client)| client.socket.outbound.len()).max().unwrap()
}

#[test]
fn reply_with_many_elements_is_encoded_in_parts() {
    let mut fixture = Fixture::with_small_buffers();
    let (mut wide, mut other) = (fixture.connect(), fixture.connect());
    wide.write_all(b"SMEMBERS k\r\nPING\r\n").unwrap();
    let sent = fixture.dispatch_some();
    let member = Outcome::Value(Some(Bytes::from_static(b"member")));
    fixture.on_outcome(sent[0].key, Outcome::Set(vec![member; 100_000]));
    let wanted = format!("*100000\r\n{}+PONG\r\n", "$6\r\nmember\r\n".repeat(100_000));
    assert!(wanted.len() > 4 * ENCODED_BYTES_MAX, "{} bytes", wanted.len());
    let mut reply = Vec::new();
    other.write_all(b"PING\r\n").unwrap();
    // Another client gets its reply before the first one has read anything.
    fixture.expect(&mut other, "+PONG\r\n");
    while reply.len() < wanted.len() {
        let bytes = encoded_bytes(&mut fixture);
        assert!(bytes < ENCODED_BYTES_MAX, "{bytes} bytes are encoded");
        fixture.pass();
        read(&mut wide, &mut reply);
    }
    assert!(reply == wanted.as_bytes());
    let client = fixture.clients.connected.get_mut(0).unwrap();
    assert!(client.has_no_slots() && !client.is_over_budget());
}
