//! Replies to Redis clients. Tests properties of the request handling without sockets. Where Redis
//! 7 is installed, also sends the same requests to both servers and compares every byte of the
//! replies.

#[path = "redis/arguments.rs"]
mod arguments;
#[path = "redis/dump.rs"]
mod dump;
#[path = "redis/functions.rs"]
mod functions;
#[path = "redis/grammar.rs"]
mod grammar;
#[path = "fuzz/local_server.rs"]
mod local_server;
#[path = "redis/once.rs"]
mod once;
#[path = "redis/own_replies.rs"]
mod own_replies;
#[path = "redis/random.rs"]
mod random;
#[path = "redis/reference.rs"]
mod reference;
#[path = "redis/reply.rs"]
mod reply;
#[path = "redis/same_replies.rs"]
mod same_replies;
#[path = "redis/scripts.rs"]
mod scripts;
#[path = "redis/templates.rs"]
mod templates;
#[path = "redis/transactions.rs"]
mod transactions;
#[path = "redis/users.rs"]
mod users;

use bowline::wire::resp::{Limits, Parser};
use local_server::LocalServer;
use proptest::collection::vec;
use proptest::prelude::*;
use reply::Reply;

/// Parses bytes that arrive in pieces which end at `cuts`. Returns the requests, and whether
/// parsing failed.
fn requests(bytes: &[u8], cuts: &[usize]) -> (Vec<Vec<Vec<u8>>>, bool) {
    let mut parser = Parser::new(Limits::default());
    let (mut buffer, mut found) = (Vec::new(), Vec::new());
    let mut from = 0;
    for cut in cuts.iter().copied().chain([bytes.len()]) {
        buffer.extend_from_slice(&bytes[from..cut]);
        from = cut;
        let mut used = 0;
        loop {
            match parser.next(&buffer, &mut used) {
                Ok(Some(request)) => found.push(request.iter().map(<[u8]>::to_vec).collect()),
                Ok(None) => break,
                Err(_) => return (found, true),
            }
        }
        buffer.drain(..used);
    }
    (found, false)
}

/// Appends a request to `out`, encoded as clients do.
fn written(request: &[Vec<u8>], out: &mut Vec<u8>) {
    out.extend(format!("*{}\r\n", request.len()).into_bytes());
    for argument in request {
        out.extend(format!("${}\r\n", argument.len()).into_bytes());
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
}

/// Generates bytes that resemble the Redis protocol, mixed with other bytes.
fn protocol_like() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"*1\r\n$4\r\nPING\r\n".to_vec()),
        Just(b"*2\r\n".to_vec()),
        Just(b"$3\r\nGET\r\n".to_vec()),
        Just(b"SET k \"v\\x41\"\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\"".to_vec()),
        vec(prop_oneof![Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), b'0'..=b'9'], 0..6),
        vec(any::<u8>(), 0..6),
    ];
    vec(piece, 0..10).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn encoded_redis_requests_parse_to_the_same_arguments(
        wanted in vec(vec(vec(any::<u8>(), 0..30), 1..5), 0..5),
    ) {
        let mut bytes = Vec::new();
        for request in &wanted {
            written(request, &mut bytes);
        }
        prop_assert_eq!(requests(&bytes, &[]), (wanted, false));
    }

    #[test]
    fn redis_request_parsing_does_not_depend_on_input_splits(
        bytes in protocol_like(),
        cuts in vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let whole = requests(&bytes, &[]);
        prop_assert_eq!(&requests(&bytes, &cuts), &whole);
        let everywhere: Vec<usize> = (0..bytes.len()).collect();
        prop_assert_eq!(&requests(&bytes, &everywhere), &whole);
    }

    #[test]
    fn every_redis_request_gets_exactly_one_reply(wanted in vec(request(), 0..12)) {
        let mut server = LocalServer::new(Limits::default());
        for request in &wanted {
            let mut bytes = Vec::new();
            written(request, &mut bytes);
            server.receive(&bytes);
            let reply = server.replies();
            let length = Reply::parse(&reply).map(|(_, length)| length);
            prop_assert!(
                length == Some(reply.len()),
                "{:?} {:?}",
                request,
                reply.escape_ascii()
            );
            if server.closed() {
                break;
            }
        }
    }
}

/// Generates a request: the name of a command with any arguments.
fn request() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let names = prop::sample::select(vec![
        "set", "get", "mset", "incrby", "client", "cluster", "command", "config", "info", "hello",
        "role", "auth", "select", "function", "flushall", "append", "exists", "nonesuch", "multi",
        "exec", "discard", "watch", "unwatch", "once",
    ]);
    let word = prop_oneof![
        2 => prop::sample::select(vec![
            "k", "1", "-1", "nx", "xx", "get", "ex", "list", "id", "setname", "slots", "nodes",
            "docs", "info", "count", "getkeys", "*", "set", "maxmemory", "100mb", "3", "type",
            "setinfo", "lib-name", "keyslot", "countkeysinslot", "flush", "async", "help", "shards",
        ]).prop_map(|word| word.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..5),
    ];
    (names, vec(word, 0..5)).prop_map(|(name, mut arguments)| {
        arguments.insert(0, name.as_bytes().to_vec());
        arguments
    })
}
