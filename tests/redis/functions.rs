//! Functions must get the same replies as from a real Redis: listed ones, and random ones. Payloads
//! of `FUNCTION DUMP` must be restored by the other server.

use bowline::wire::resp::Limits;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::local_server::LocalServer;
use super::reference::Reference;
use super::scripts::{random_calls, rejoined};
use super::transactions::compare;

/// Requests, one list per line, separated by semicolons. Each list runs on a connection of its own,
/// on an empty keyspace without functions.
const LISTS: &str = include_str!("functions.txt");

/// A library whose function runs each of its arguments, in which words are separated by spaces, and
/// returns all replies.
const RUN: &str = "FUNCTION LOAD REPLACE \"#!lua name=lib\\nredis.register_function('run', \
                   function(keys, args) local out = {} for i, line in ipairs(args) do local words \
                   = {} for word in string.gmatch(line, '[^ ]+') do words[#words + 1] = word end \
                   out[i] = redis.pcall(unpack(words)) end return out end)\"";

#[test]
fn listed_functions_get_the_replies_of_redis() {
    let Some(reference) = Reference::start() else { return };
    let mut server = LocalServer::new(Limits::default());
    let flush = ["FLUSHALL".to_owned(), "FUNCTION FLUSH".to_owned()];
    for version in [2, 3] {
        for list in LISTS.lines().filter(|line| !line.is_empty()) {
            compare(&reference, &mut server, &flush, version);
            let requests: Vec<String> = list.split("; ").map(str::to_owned).collect();
            compare(&reference, &mut server, &rejoined(requests), version);
        }
    }
}

#[test]
fn random_functions_get_the_replies_of_redis() {
    let Some(reference) = Reference::start() else { return };
    let rounds = std::env::var("BOWLINE_SCRIPTS").ok().and_then(|text| text.parse().ok());
    let mut server = LocalServer::new(Limits::default());
    compare(&reference, &mut server, &[RUN.to_owned()], 2);
    for round in 0..rounds.unwrap_or(60) {
        let mut rng = ChaCha8Rng::seed_from_u64(1_000 + round);
        let requests = random_calls(&mut rng, "FCALL run 0");
        compare(&reference, &mut server, &requests, 2 + u32::from(round % 2 == 1));
    }
}

/// Returns the bulk string in a reply to the request after the greeting.
fn bulk(replies: &[u8]) -> Vec<u8> {
    let at = replies.iter().position(|byte| *byte == b'$').expect("a bulk string");
    let head = replies[at..].iter().position(|byte| *byte == b'\n').expect("a line");
    let length = str::from_utf8(&replies[at + 1..at + head - 1]).expect("digits");
    let from = at + head + 1;
    replies[from..from + length.parse::<usize>().expect("a length")].to_vec()
}

/// Returns a request that restores a payload.
fn restore(payload: &[u8], policy: &str) -> Vec<u8> {
    let mut request = format!("*4\r\n$8\r\nFUNCTION\r\n$7\r\nRESTORE\r\n${}\r\n", payload.len());
    let policy = format!("\r\n${}\r\n{policy}\r\n", policy.len());
    let mut bytes = std::mem::take(&mut request).into_bytes();
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(policy.as_bytes());
    bytes
}

#[test]
fn payloads_are_restored_by_the_other_server() {
    let Some(reference) = Reference::start() else { return };
    let mut server = LocalServer::new(Limits::default());
    let long = format!("-- {}\\nreturn 'long'", "some words of a comment, ".repeat(800));
    for (name, body) in [("a", "return 'short'"), ("b", &long[..]), ("c", "return #keys")] {
        let request = format!(
            "FUNCTION LOAD REPLACE \"#!lua name={name}\\nredis.register_function('f{name}', \
             function(keys) {body} end)\"\r\n"
        );
        reference.until_closed(format!("{request}QUIT\r\n").as_bytes());
    }
    let calls = b"FCALL fa 0\r\nFCALL fb 0\r\nFCALL fc 1 k\r\nFUNCTION STATS\r\n";
    let theirs = reference.until_closed(&[&calls[..], b"QUIT\r\n"].concat());
    let payload = bulk(&reference.until_closed(b"FUNCTION DUMP\r\nQUIT\r\n"));
    let mut ask = |bytes: &[u8]| {
        server.receive(bytes);
        server.replies()
    };
    assert_eq!(ask(&restore(&payload, "APPEND")), b"+OK\r\n");
    let ours = ask(calls);
    assert_eq!(theirs, [&ours[..], b"+OK\r\n"].concat());
    // Libraries that exist, in the words of Redis.
    let refused = ask(&restore(&payload, "APPEND"));
    assert!(refused.starts_with(b"-ERR Library "), "{}", refused.escape_ascii());
    assert_eq!(ask(&restore(&payload, "REPLACE")), b"+OK\r\n");
    assert_eq!(ask(&restore(&payload, "FLUSH")), b"+OK\r\n");
    assert_eq!(ask(calls), ours);
    let own = bulk(&ask(b"FUNCTION DUMP\r\n"));
    let back = [b"FUNCTION FLUSH\r\n".to_vec(), restore(&own, "APPEND"), calls.to_vec()].concat();
    let back = reference.until_closed(&[&back[..], b"QUIT\r\n"].concat());
    assert_eq!(back, [b"+OK\r\n+OK\r\n", &theirs[..]].concat());
}
