//! Compares blocking commands on several connections with a real Redis: the same steps at both
//! servers, and every reply.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use crate::client::{command, reply_length};
use crate::reference::Reference;
use crate::replicas::Cluster;

/// Scripts of steps. `a> COMMAND` sends a request on connection `a` and reads its reply;
/// `a! COMMAND` sends one, and waits until one more client is blocked; `a+ COMMAND` only sends one;
/// `a<` reads a reply.
const SCRIPTS: &[&str] = &[
    // The order of arrival, and a push of several elements.
    "a! BLPOP k 0;b! BLPOP k 0;c! BRPOP k 0;d> RPUSH k 1 2;a<;b<;d> RPUSH k 3 4 5;c<;d> LLEN k",
    // A push inside a transaction: the client sees its result.
    "a! BLPOP k 0;d> MULTI;d> RPUSH k 1;d> RPUSH k 2;d> LPOP k;d> EXEC;a<;d> EXISTS k",
    "a! BLPOP k 0;d> MULTI;d> RPUSH k 1;d> DEL k;d> EXEC;d> RPUSH k 2;a<",
    // Values of other types do not end a wait.
    "a! BLPOP k 0;d> SET k 1;b> BLPOP k 0;d> DEL k;d> ZADD k 1 m;d> DEL k;d> RPUSH k x;a<",
    "a! BZPOPMIN k 0;d> RPUSH k 1;d> DEL k;d> ZADD k 2 b 1 a;a<;d> ZRANGE k 0 -1",
    "a! BLPOP k 0;b! BZPOPMIN k 0;d> ZADD k 1 m;b<;d> RPUSH k x;a<",
    // Several keys.
    "a! BLPOP x y z 0;d> RPUSH z 1;a<;d> RPUSH y 1;a> BLPOP x y z 0",
    "a! BLPOP x y 0;b! BLPOP y 0;d> RPUSH y 1 2;a<;b<",
    "a! BLMPOP 0 2 x y LEFT COUNT 2;d> RPUSH y 1 2 3;a<;d> LRANGE y 0 -1",
    "a! BZMPOP 0 2 x y MAX COUNT 2;d> ZADD y 1 a 2 b 3 c;a<;d> ZRANGE y 0 -1",
    // Other commands that add elements.
    "a! BLPOP k 0;d> RPUSH o 1;d> RENAME o k;a<",
    "a! BLPOP k 0;d> RPUSH o 1;d> COPY o k;a<;d> LRANGE o 0 -1",
    "a! BLPOP k 0;d> RPUSH o 1;d> LMOVE o k LEFT LEFT;a<",
    "a! BLPOP k 0;d> LPUSHX k 1;d> RPUSH k 1;a<",
    "a! BZPOPMAX k 0;d> ZADD o 1 m;d> ZUNIONSTORE k 1 o;a<",
    "a! BZPOPMAX k 0;d> ZADD o 1 m;d> ZRANGESTORE k o 0 -1;a<",
    "a! BZPOPMIN k 0;d> ZINCRBY k 5 m;a<",
    // Chains.
    "a! BLMOVE k l LEFT RIGHT 0;b! BLPOP l 0;d> RPUSH k 1;a<;b<;d> EXISTS k l",
    "a! BRPOPLPUSH k l 0;b! BRPOPLPUSH l m 0;c! BLPOP m 0;d> RPUSH k 1;a<;b<;c<;d> EXISTS k l m",
    "a! BRPOPLPUSH k k 0;d> RPUSH k 1 2;a<;d> LRANGE k 0 -1",
    "a! BRPOPLPUSH k s 0;d> SET s x;d> RPUSH k 1;a<;d> LRANGE k 0 -1",
    // Requests behind one that waits.
    "a! BLPOP k 0;a+ ECHO later;d> RPUSH k 1;a<;a<",
    // Timeouts, CLIENT UNBLOCK and RESP3.
    "a> BLPOP k 0.01;a> BRPOPLPUSH k l 0.01;a> BZPOPMIN k 0.01;a> BLMPOP 0.01 1 k LEFT",
    "a> CLIENT SETNAME first;a! BLPOP k 0;d> RPUSH other 1;d> EXISTS k",
    "a> CLIENT REPLY ON;a! BLPOP k 0.05;b> RPUSH k 1 2;a<",
    // Expiration and FLUSHALL.
    "a! BLPOP k 0;d> FLUSHALL;d> RPUSH k 1;a<",
    "a> BLPOP k;a> BLMOVE k l LEFT;a> BLMPOP 0 1 k;a! BLPOP k 0 0;d> RPUSH 0 1;a<",
];

/// A connection to one of the servers.
struct Peer<S> {
    stream: S,
    input: Vec<u8>,
}

impl<S: Read + Write> Peer<S> {
    fn send(&mut self, request: &str) {
        let arguments: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
        self.stream.write_all(&command(&arguments)).unwrap();
    }

    fn reply(&mut self) -> String {
        loop {
            if let Some(length) = reply_length(&self.input) {
                return String::from_utf8(self.input.drain(..length).collect()).unwrap();
            }
            let mut space = [0; 4_096];
            let count = self.stream.read(&mut space).unwrap();
            assert_ne!(count, 0, "the server closed the connection");
            self.input.extend_from_slice(&space[..count]);
        }
    }

    fn call(&mut self, request: &str) -> String {
        self.send(request);
        self.reply()
    }

    fn blocked_count(&mut self) -> usize {
        let text = self.call("INFO clients");
        let line = text.lines().find_map(|line| line.strip_prefix("blocked_clients:"));
        line.unwrap().trim().parse().unwrap()
    }
}

/// Runs a script, and returns its steps with the replies.
fn run<S: Read + Write>(script: &str, connect: impl Fn() -> S) -> Vec<String> {
    let open = || Peer { stream: connect(), input: Vec::new() };
    let mut observer = open();
    assert_eq!(observer.call("FLUSHALL"), "+OK\r\n");
    let mut peers: Vec<Peer<S>> = (0..4).map(|_| open()).collect();
    let mut replies = Vec::new();
    for step in script.split(';') {
        let (name, request) = step.split_at(2);
        let peer = &mut peers[usize::from(name.as_bytes()[0] - b'a')];
        match &name[1..] {
            ">" => replies.push(format!("{step}: {}", peer.call(request.trim()))),
            "<" => replies.push(format!("{step}: {}", peer.reply())),
            "+" => peer.send(request.trim()),
            "!" => {
                let before = observer.blocked_count();
                peer.send(request.trim());
                let mut rounds = 0;
                while observer.blocked_count() == before {
                    std::thread::sleep(Duration::from_millis(2));
                    rounds += 1;
                    assert!(rounds < 5_000, "{step} does not block");
                }
            }
            other => panic!("{other} in {script}"),
        }
    }
    // No further reply is there. Clients that still wait take no part.
    for peer in &mut peers {
        assert!(peer.input.is_empty(), "{}", peer.input.escape_ascii());
    }
    drop(peers);
    for _ in 0..5_000 {
        if observer.blocked_count() == 0 {
            return replies;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("closed connections still wait");
}

#[test]
fn blocking_commands_on_several_connections_get_the_replies_of_redis() {
    let Some(reference) = Reference::start() else { return };
    let cluster = Cluster::start(1, "auto");
    cluster.wait_until_all_serve();
    let port = cluster.ports[0];
    let ours = || {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        stream
    };
    let mut differences = Vec::new();
    for script in SCRIPTS {
        let (ours, theirs) = (run(script, ours), run(script, || reference.connect()));
        if ours != theirs {
            differences.push(format!("{script}\n    ours   {ours:?}\n    theirs {theirs:?}\n"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.concat());
}
