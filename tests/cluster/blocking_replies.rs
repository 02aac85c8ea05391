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
    // Readers of streams: all get the same entries, after the ids that `$` had when they began.
    "a! XREAD BLOCK 0 STREAMS s $;b! XREAD COUNT 1 BLOCK 0 STREAMS t s 0 $;d> XADD s 1-1 f v;a<;b<",
    "d> XADD s 5-5 f v;a! XREAD BLOCK 0 STREAMS s $;d> XDEL s 5-5;d> XTRIM s MAXLEN 0;\
     d> XADD s 6-1 f v;a<;a> XREAD BLOCK 0 STREAMS s 0;a> XREAD BLOCK 9 STREAMS s 6-1 t $",
    "a! XREAD BLOCK 0 STREAMS s t $ $;b! XREAD COUNT 2 BLOCK 0 STREAMS t s 0 0;d> MULTI;\
     d> XADD t 1-1 a b;d> XADD s 1-2 c d;d> XADD t 1-3 c d;d> XADD t 1-4 c d;d> EXEC;a<;b<",
    "d> XADD s 5-5 f v;a! XREAD BLOCK 0 STREAMS s $;d> DEL s;d> XADD s 1-1 a b;\
     d> XADD s 6-1 a b;a<",
    "d> XADD s 5-5 f v;a! XREAD BLOCK 0 STREAMS s $;d> SET s x;d> DEL s;d> XADD s 1-1 a b;\
     d> XADD s 6-1 a b;a<;d> SET s x;a> XREAD BLOCK 0 STREAMS s $;a> XREAD BLOCK 0 STREAMS t s $ $",
    "d> XADD o 1-1 a b;a! XREAD BLOCK 0 STREAMS s 0;d> COPY o s;a<;b! XREAD BLOCK 0 STREAMS t 0;\
     d> RENAME s t;b<;a! XREAD BLOCK 9223372036854775807 STREAMS s $;d> XADD s 1-2 a b;a<",
    "a! XREAD BLOCK 0 STREAMS s s $ 3;d> XADD s 2-1 a b;a<",
    "a! XREAD BLOCK 0 STREAMS s $;a+ ECHO later;d> XADD s 1-1 a b;a<;a<",
    "a> XREAD BLOCK -1 STREAMS s $;a> XREAD BLOCK x STREAMS s $;a> XREAD BLOCK 0 STREAMS s >;\
     a> XREAD BLOCK 0 STREAMS s t $;a> XREAD BLOCK 0 GROUP g c STREAMS s >;a> XREAD BLOCK 0 s $;\
     a> XREAD BLOCK 0 STREAMS;a> XREAD BLOCK 0 STREAMS s x;a> XREAD BLOCK 0 NOACK STREAMS s $",
    "a> MULTI;a> XREAD BLOCK 0 STREAMS s $;a> XREADGROUP GROUP g c BLOCK 0 STREAMS s >;a> EXEC;\
     d> XGROUP CREATE s g $ MKSTREAM;a> MULTI;a> XREADGROUP GROUP g c BLOCK 0 STREAMS s >;a> EXEC",
    // Consumers of a group: each entry goes to one of them, in the order of arrival.
    "d> XGROUP CREATE s g $ MKSTREAM;a! XREADGROUP GROUP g a BLOCK 0 STREAMS s >;\
     b! XREADGROUP GROUP g b BLOCK 0 STREAMS s >;d> XADD s 1-1 f v;a<;d> XADD s 1-2 f v;b<;\
     d> XPENDING s g;d> XINFO GROUPS s",
    "d> XGROUP CREATE s g $ MKSTREAM;a! XREADGROUP GROUP g a COUNT 1 BLOCK 0 STREAMS s >;\
     b! XREADGROUP GROUP g b COUNT 2 BLOCK 0 NOACK STREAMS s >;\
     c! XREADGROUP GROUP g c BLOCK 0 STREAMS s >;d> MULTI;d> XADD s 1-1 f v;d> XADD s 1-2 f v;\
     d> XADD s 1-3 f v;d> XADD s 1-4 f v;d> EXEC;a<;b<;c<;d> XPENDING s g",
    "d> XGROUP CREATE s g $ MKSTREAM;d> XGROUP CREATE s h $;\
     a! XREADGROUP GROUP g a BLOCK 0 STREAMS s >;b! XREADGROUP GROUP h b BLOCK 0 STREAMS s >;\
     c! XREAD BLOCK 0 STREAMS s $;d> XADD s 1-1 f v;a<;b<;c<",
    "d> XGROUP CREATE s g $ MKSTREAM;d> XGROUP CREATE t g $ MKSTREAM;\
     a! XREADGROUP GROUP g a BLOCK 0 STREAMS t s > >;d> XADD s 1-1 f v;a<;d> XADD t 1-1 f v;\
     d> XADD s 1-2 f v;a> XREADGROUP GROUP g a BLOCK 0 STREAMS t s > >;\
     a> XREADGROUP GROUP g a BLOCK 0 STREAMS t s > 0;a> XREADGROUP GROUP g b BLOCK 0 STREAMS t 0",
    "d> XGROUP CREATE s g $ MKSTREAM;a> XREADGROUP GROUP g a BLOCK 9 STREAMS s >;\
     d> XINFO CONSUMERS s g;a> XREADGROUP GROUP x a BLOCK 0 STREAMS s >;\
     a> XREADGROUP GROUP g a BLOCK 0 STREAMS t >;a> XREADGROUP GROUP g a BLOCK 0 STREAMS s $;\
     d> SET t x;a> XREADGROUP GROUP g a BLOCK 0 STREAMS t >",
    // The group, or its key, ceases to exist.
    "d> XGROUP CREATE s g $ MKSTREAM;d> XGROUP CREATE s h $;\
     a! XREADGROUP GROUP g a BLOCK 0 STREAMS s >;b! XREADGROUP GROUP g b BLOCK 0 STREAMS s >;\
     c! XREADGROUP GROUP h c BLOCK 0 STREAMS s >;d> XGROUP DESTROY s g;a<;b<;d> XADD s 1-1 f v;c<",
    "d> XGROUP CREATE s g $ MKSTREAM;a! XREADGROUP GROUP g a BLOCK 0 STREAMS s >;\
     b! XREADGROUP GROUP g b BLOCK 0 STREAMS s >;d> DEL s;a<;b<",
    "d> XGROUP CREATE s g $ MKSTREAM;a! XREADGROUP GROUP g a BLOCK 0 STREAMS s >;d> SET s x;a<",
    "d> XGROUP CREATE s g $ MKSTREAM;a! XREADGROUP GROUP g a BLOCK 0 STREAMS s >;d> FLUSHALL;a<",
    "d> XGROUP CREATE s g $ MKSTREAM;a! XREADGROUP GROUP g a BLOCK 0 STREAMS s >;d> RENAME s t;a<",
    "d> XGROUP CREATE s g $ MKSTREAM;d> XADD o 1-1 a b;\
     a! XREADGROUP GROUP g a BLOCK 0 STREAMS s >;d> RENAME o s;a<",
    "d> XGROUP CREATE s g $ MKSTREAM;d> XGROUP CREATE o g 0 MKSTREAM;d> XADD o 1-1 a b;\
     a! XREADGROUP GROUP g a BLOCK 0 STREAMS s >;d> COPY o s REPLACE;a<",
    "d> XGROUP CREATE s g $ MKSTREAM;a! XREADGROUP GROUP g a BLOCK 0 STREAMS s >;d> MULTI;\
     d> DEL s;d> XGROUP CREATE s g $ MKSTREAM;d> EXEC;d> XADD s 1-1 a b;a<",
    "d> XGROUP CREATE s g $ MKSTREAM;a! XREADGROUP GROUP g a BLOCK 0 STREAMS s >;d> PEXPIRE s 1;a<",
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
