//! Transactions: scripts and random transactions must get the same replies as from a real Redis.
//! Also tests the behaviour that only this server has.

use bowline::wire::resp::Limits;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::local_server::LocalServer;
use super::reference::Reference;

/// Scripts, one per line, with requests separated by semicolons. Each script runs on a connection
/// of its own.
const SCRIPTS: &str = "
EXEC; DISCARD; UNWATCH; EXEC a; MULTI; EXEC a; EXEC
MULTI; MULTI; WATCH a; SET a 1; EXEC; GET a
MULTI; WATCH; EXEC
MULTI; DISCARD a; DISCARD; EXEC
MULTI; foo; PING; EXEC; MULTI; get; EXEC
MULTI; CLIENT foo; EXEC; MULTI; SAVE; EXEC; MULTI a
MULTI; PING; Echo a; INCRBY x abc; SELECT 0; SELECT 99; HGETALL zz; UNWATCH; RESET; EXEC
MULTI; EXEC; MULTI; PING; EXEC
MULTI; SET t text; INCR t; INCR n; HSET; EXEC; MULTI; SET t text; INCR t; INCR n; EXEC; GET n
HELLO 3 nonsense; MULTI; HSET h f v; HGETALL h; GET nothing; SET h v NX GET; TYPE h; INCR h; EXEC
WATCH a a b; SET a 5; MULTI; SET a 6; EXEC; GET a; EXEC
WATCH a; GET a; MULTI; SET a 7; EXEC; MULTI; INCR a; EXEC
WATCH a; SET a 1; UNWATCH; MULTI; INCR a; EXEC
WATCH a; SET a 1; MULTI; DISCARD; MULTI; INCR a; EXEC
WATCH a; SET a 1; MULTI; foo; EXEC; MULTI; INCR a; EXEC
WATCH a; SET a 1; WATCH a; MULTI; INCR a; EXEC; MULTI; INCR a; EXEC
WATCH nothing; MULTI; PING; GET nothing; EXEC
SET a 1; WATCH a; DEL a; MULTI; CLIENT SETNAME me; EXEC; CLIENT GETNAME
SET a 1; WATCH a; MULTI; CLIENT SETNAME me; CLIENT GETNAME; EXEC; CLIENT GETNAME
SET a 1; WATCH a; PEXPIRE a 100000; MULTI; PING; EXEC
SET a 1 PX 100000; WATCH a; PERSIST a; MULTI; PING; EXEC
SET a 1; WATCH a; FLUSHALL; MULTI; PING; EXEC; WATCH a; FLUSHALL; MULTI; PING; EXEC
MULTI; SET a 1; GET a; DEL a; GET a; FLUSHALL; DBSIZE; MSET a 1 b 2; EXISTS a b; EXEC
MULTI; COMMAND GETKEYS GET k; ECHO b; INCR n; CONFIG GET maxmemory; EXEC
MULTI; AUTH a b c; SELECT x; CONFIG SET nonsense 1; CLIENT SETNAME 'a b'; EXEC; PING
WATCH a; MULTI; foo; SET a 1; QUIT; EXEC
MULTI; SET a 1; RESET; GET a; EXEC
MULTI; SUBSCRIBE c; PSUBSCRIBE e*; EXEC; MULTI; PING; UNSUBSCRIBE; PUNSUBSCRIBE; MULTI; EXEC
MULTI; PUBLISH c hello; PUBSUB NUMSUB c; INCR n; EXEC
MULTI; SET k 0; SELECT 1; SET k 1; GET k; SELECT 16; SELECT 0; GET k; SELECT 2; EXEC; GET k; DBSIZE
SELECT 3; MULTI; SET k 3; EXEC; GET k; SELECT 0; GET k; MULTI; SELECT 3; DISCARD; GET k
WATCH a; SET a 1; MULTI; SELECT 4; SET a 4; EXEC; SET b 1; SELECT 4; EXISTS a b; SELECT 0; GET b
WATCH a; MULTI; SELECT 4; SET a 4; EXEC; GET a; SELECT 0; EXISTS a
WATCH a; SELECT 1; SET a 1; MULTI; GET a; EXEC
WATCH a; SELECT 1; WATCH a; SET a 1; MULTI; GET a; EXEC
SELECT 1; WATCH a; SELECT 0; SET a 0; MULTI; GET a; EXEC
SELECT 1; WATCH a; SELECT 0; WATCH a; SELECT 1; SET a 2; MULTI; GET a; EXEC
SET a 0; WATCH a; SWAPDB 0 1; MULTI; GET a; EXEC; GET a; SELECT 1; GET a
SET a 0; SELECT 1; SET a 1; WATCH a; SWAPDB 1 0; MULTI; GET a; EXEC; WATCH a; SWAPDB 2 3
SET a 0; SELECT 1; WATCH a; SWAPDB 0 1; MULTI; GET a; EXEC
SET a 0; WATCH a b; SWAPDB 3 4; MULTI; GET a; EXEC; WATCH b; SWAPDB 0 4; MULTI; GET a; EXEC
SET a 0; WATCH a; SWAPDB 0 0; MULTI; GET a; EXEC
SET a 0; WATCH a; SELECT 2; FLUSHDB; MULTI; PING; EXEC; SELECT 0; WATCH a; FLUSHDB; MULTI; EXEC
SET a 0; WATCH a; MOVE a 5; MULTI; PING; EXEC; SELECT 5; WATCH b; COPY a b DB 5; MULTI; PING; EXEC
MULTI; SET a 1; MOVE a 1; MOVE a 1; SELECT 1; GET a; COPY a b DB 2; SWAPDB 1 2; GET b; GET a; EXEC
MULTI; SELECT 1; INCR n; SWAPDB 0 1; INCR n; SELECT 0; GET n; EXEC; GET n
SELECT 7; RESET; SET k 0; SELECT 0; GET k
";

/// Runs a script on a new connection, and returns all replies as escaped text.
fn ours(server: &mut LocalServer, script: &[u8]) -> String {
    server.connect_again(Limits::default());
    server.receive(script);
    server.replies().escape_ascii().to_string()
}

pub(super) fn compare(
    reference: &Reference,
    server: &mut LocalServer,
    requests: &[String],
    version: u32,
) {
    // The reply to HELLO describes the server.
    let greeting = if version == 3 { "HELLO 3\r\nECHO begin\r\n" } else { "ECHO begin\r\n" };
    let script = format!("{greeting}{}\r\nQUIT\r\n", requests.join("\r\n"));
    let theirs = reference.until_closed(script.as_bytes()).escape_ascii().to_string();
    let ours = ours(server, script.as_bytes());
    let behind = |replies: &str| {
        let at = replies.find("begin").expect("the greeting is answered");
        replies[at..].to_owned()
    };
    let (ours, theirs) = (behind(&ours), behind(&theirs));
    assert!(ours == theirs, "RESP{version} {requests:#?}\nours   {ours}\ntheirs {theirs}");
}

#[test]
fn listed_transactions_get_the_replies_of_redis() {
    let Some(reference) = Reference::start() else { return };
    let mut server = LocalServer::new(Limits::default());
    let flush = ["FLUSHALL".to_owned()];
    for version in [2, 3] {
        for script in SCRIPTS.lines().filter(|line| !line.is_empty()) {
            compare(&reference, &mut server, &flush, version);
            let requests: Vec<String> = script.split("; ").map(str::to_owned).collect();
            compare(&reference, &mut server, &requests, version);
        }
    }
}

/// Runs random transactions on so few keys that watched keys change.
#[test]
fn random_transactions_get_the_replies_of_redis() {
    let Some(reference) = Reference::start() else { return };
    let mut server = LocalServer::new(Limits::default());
    compare(&reference, &mut server, &["FLUSHALL".to_owned()], 2);
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let (mut conflicts, mut done) = (0, 0);
    for round in 0..600 {
        let requests: Vec<String> = (0..40).map(|_| random(&mut rng)).collect();
        compare(&reference, &mut server, &requests, 2 + round % 2);
        let queued = requests.iter().filter(|line| *line == "EXEC").count();
        (conflicts, done) = (conflicts + usize::from(queued > 1), done + queued);
    }
    assert!(conflicts > 100 && done > 1_000, "{conflicts} {done}");
}

/// Runs random transactions on a few keys of several databases. After `WATCH`, at most one request
/// changes keys before `EXEC`: Redis counts it as a change also if a second one takes it back.
#[test]
fn random_transactions_on_several_databases_get_the_replies_of_redis() {
    let Some(reference) = Reference::start() else { return };
    let mut server = LocalServer::new(Limits::default());
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    for round in 0..300 {
        let mut requests = vec!["FLUSHALL".to_owned()];
        let (mut may_change, mut is_watching, mut is_open) = (true, false, false);
        while requests.len() < 40 {
            let [one, other] = [0, 1].map(|_| rng.random_range(0..3));
            let request = match rng.random_range(0..16) {
                0 | 1 => format!("SELECT {one}"),
                2 if may_change => format!("SWAPDB {one} {other}"),
                3 if may_change => format!("MOVE a {one}"),
                4 if may_change => format!("COPY a b DB {one} REPLACE"),
                5 | 6 if may_change => format!("SET {} {}", ["a", "b"][one / 2], requests.len()),
                7 | 8 => "WATCH a b".to_owned(),
                9 | 10 => "MULTI".to_owned(),
                11 | 12 => "EXEC".to_owned(),
                13 => "DBSIZE".to_owned(),
                _ => "MGET a b".to_owned(),
            };
            match request.split(' ').next() {
                Some("MULTI") => is_open = true,
                Some("WATCH") => is_watching |= !is_open,
                Some("EXEC") if is_open => {
                    (may_change, is_watching, is_open) = (true, false, false);
                }
                Some("SWAPDB" | "MOVE" | "COPY" | "SET") if !is_open => may_change = !is_watching,
                _ => {}
            }
            requests.push(request);
        }
        requests.extend((0..3).flat_map(|number| {
            [format!("SELECT {number}"), "MGET a b".to_owned(), "DBSIZE".to_owned()]
        }));
        compare(&reference, &mut server, &requests, 2 + round % 2);
    }
}

fn random(rng: &mut ChaCha8Rng) -> String {
    const KEYS: [&str; 4] = ["a", "b", "c", "d"];
    const VALUES: [&str; 6] = ["1", "-7", "text", "9223372036854775807", "\"\"", "0"];
    const FORMS: [&str; 36] = [
        "MULTI",
        "MULTI",
        "MULTI",
        "MULTI",
        "EXEC",
        "EXEC",
        "EXEC",
        "EXEC",
        "DISCARD",
        "WATCH K",
        "WATCH K K",
        "WATCH K K K",
        "UNWATCH",
        "PING",
        "ECHO V",
        "CLIENT SETNAME V",
        "CLIENT GETNAME",
        "SET K V",
        "SET K V",
        "SET K V",
        "SET K V GET",
        "SET K V NX",
        "GET K",
        "GET K",
        "MGET K K",
        "MSET K V K V",
        "INCR K",
        "INCRBY K V",
        "APPEND K V",
        "HSET h V V",
        "HGETALL h",
        "TYPE K",
        "STRLEN K",
        "EXISTS K K",
        "nonesuch V",
        "GET",
    ];
    let form = if rng.random_range(0..60) == 0 {
        ["RESET", "FLUSHALL", "SAVE", "EXEC V"][rng.random_range(0..4)]
    } else {
        FORMS[rng.random_range(0..FORMS.len())]
    };
    let words = form.split(' ').map(|word| match word {
        "K" => KEYS[rng.random_range(0..KEYS.len())],
        "V" => VALUES[rng.random_range(0..VALUES.len())],
        word => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Runs a script of requests separated by semicolons, and returns the replies.
fn run(server: &mut LocalServer, script: &str) -> String {
    server.receive(format!("{}\r\n", script.replace("; ", "\r\n")).as_bytes());
    String::from_utf8(server.replies()).expect("replies of text")
}

#[test]
fn client_list_shows_the_open_transaction_of_a_client() {
    let mut server = LocalServer::new(Limits::default());
    let list = run(&mut server, "CLIENT LIST");
    assert!(list.contains(" flags=N ") && list.contains(" multi=-1 "), "{list}");
    let reply = run(&mut server, "MULTI; SET k v; CLIENT LIST; CLIENT INFO; INCR n; EXEC");
    assert!(reply.starts_with(&format!("+OK\r\n{}*4\r\n+OK\r\n$", "+QUEUED\r\n".repeat(4))));
    assert!(reply.ends_with("\r\n:1\r\n"), "{reply}");
    assert_eq!(reply.matches("id=3 addr=").count(), 2, "{reply}");
    run(&mut server, "MULTI; SET k v");
    assert_eq!(run(&mut server, "CLIENT INFO"), "+QUEUED\r\n");
    assert!(server.held_bytes() > 20);
    run(&mut server, "DISCARD");
    assert_eq!(server.held_bytes(), 0);
}

#[test]
fn bgsave_in_multi_is_refused_only_if_keys_are_watched() {
    let mut server = LocalServer::new(Limits::default());
    let reply = run(&mut server, "MULTI; BGSAVE; EXEC");
    assert!(reply.ends_with("*1\r\n+Background saving started\r\n"), "{reply}");
    // A snapshot could not be undone.
    let reply = run(&mut server, "WATCH k; MULTI; BGSAVE; EXEC");
    assert!(reply.ends_with("*1\r\n-ERR Command not allowed inside a transaction\r\n"), "{reply}");
}

#[test]
fn failover_in_multi_is_refused() {
    let mut server = LocalServer::new(Limits::default());
    let reply = run(&mut server, "MULTI; FAILOVER; EXEC");
    assert!(reply.ends_with("*1\r\n-ERR Command not allowed inside a transaction\r\n"), "{reply}");
}

#[test]
fn transaction_larger_than_a_log_entry_is_refused() {
    let mut server = LocalServer::new(Limits::default());
    server.allow_payload(2_000);
    let value = "v".repeat(700);
    let reply = run(&mut server, &format!("MULTI; SET a {value}; SET b {value}; SET c {value}"));
    let last = reply.lines().last().expect("it has a reply");
    assert!(last.starts_with("-ERR the transaction takes "), "{last}");
    let reply = run(&mut server, "EXEC; EXISTS a b c");
    assert_eq!(reply, "-EXECABORT Transaction discarded because of previous errors.\r\n:0\r\n");
    // Together with the watched keys, it is larger than it was when it was queued.
    let watched = "w".repeat(1_500);
    let reply = run(&mut server, &format!("WATCH {watched}; MULTI; SET a {value}; EXEC"));
    let last = reply.lines().last().expect("it has a reply");
    assert!(last.starts_with("-EXECABORT Transaction discarded because it takes "), "{last}");
    assert_eq!(run(&mut server, "EXISTS a; MULTI; EXEC"), ":0\r\n+OK\r\n*0\r\n");
    let keys: Vec<String> = (0..100).map(|number| format!("key{number}")).collect();
    assert_eq!(
        run(&mut server, &format!("WATCH {}", keys.join(" "))),
        "-ERR too many keys are watched\r\n"
    );
}
