//! Compares users, permissions and logins with a real Redis.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use bowline::wire::resp::Limits;

use super::local_server::LocalServer;
use super::reference::Reference;

/// Requests that get the replies of Redis 7.0, one per line, apart from the texts about
/// permissions, which are those of Redis 7.2.
const SAME: &str = r#"
ACL WHOAMI
ACL USERS
ACL LIST
ACL GETUSER default
ACL GETUSER nobody
ACL CAT
ACL CAT nonsense
ACL GENPASS 0
ACL GENPASS 4097
ACL GENPASS x
ACL LOAD
ACL SAVE
ACL LOG
ACL LOG x
ACL LOG RESET
ACL SETUSER
ACL nonsense
ACL SETUSER u
ACL GETUSER u
ACL SETUSER u on >secret
ACL SETUSER u >secret #0000000000000000000000000000000000000000000000000000000000000000
ACL GETUSER u
ACL SETUSER u <nothing
ACL SETUSER u !1111111111111111111111111111111111111111111111111111111111111111
ACL SETUSER u #11
ACL SETUSER u !x
ACL SETUSER u #AA00000000000000000000000000000000000000000000000000000000000000
ACL SETUSER u !0000000000000000000000000000000000000000000000000000000000000000
ACL SETUSER u nonsense
ACL SETUSER u ~app:* %R~read:* %w~write:* %RW~both
ACL GETUSER u
ACL SETUSER u %~x
ACL SETUSER u %RR~x
ACL SETUSER u %X~x
ACL SETUSER u "~a b"
ACL SETUSER u "&a b"
ACL SETUSER u %W~read:*
ACL GETUSER u
ACL SETUSER u allkeys
ACL SETUSER u ~more
ACL SETUSER u &news &news
ACL SETUSER u allchannels
ACL SETUSER u &more
ACL SETUSER u resetchannels &a* &b
ACL GETUSER u
ACL SETUSER u resetkeys ~k:* %R~r:*
ACL SETUSER u +get +set +mget +copy +subscribe +psubscribe +publish +exists +getex
ACL GETUSER u
ACL SETUSER u +nonsense
ACL SETUSER u -nonsense
ACL SETUSER u +@nonsense
ACL SETUSER u -@nonsense
ACL SETUSER u +config|nonsense
ACL SETUSER u +config|get|x
ACL SETUSER u +get|
ACL SETUSER u +
ACL SETUSER u -
ACL SETUSER u (
ACL SETUSER u (+get
ACL SETUSER u (get)
ACL SETUSER u (on)
ACL SETUSER u (+get ~sel:*)
ACL SETUSER u (%W~w:* +set) ""
ACL GETUSER u
ACL LIST
ACL SETUSER "a b" on
ACL DRYRUN u get k:1
ACL DRYRUN u get r:1
ACL DRYRUN u get other
ACL DRYRUN u get sel:1
ACL DRYRUN u set sel:1 x
ACL DRYRUN u set w:1 x
ACL DRYRUN u set w:1 x get
ACL DRYRUN u set r:1 x
ACL DRYRUN u copy r:1 k:1
ACL DRYRUN u copy k:1 r:1
ACL DRYRUN u mget k:1 r:1 other
ACL DRYRUN u exists w:1
ACL DRYRUN u del k:1
ACL DRYRUN u subscribe a1 b
ACL DRYRUN u subscribe a1 c
ACL DRYRUN u psubscribe a*
ACL DRYRUN u psubscribe a1
ACL DRYRUN u publish b x
ACL DRYRUN u publish c x
ACL DRYRUN u config get x
ACL DRYRUN u get
ACL DRYRUN u nonsense
ACL DRYRUN nobody get k
ACL DRYRUN default get k
ACL SETUSER st on ~k:* %R~r:* %W~w:* +@stream
ACL DRYRUN st xadd k:1 * f v
ACL DRYRUN st xadd r:1 * f v
ACL DRYRUN st xread streams k:1 r:1 0 0
ACL DRYRUN st xread COUNT 1 STREAMS k:1 other 0 0
ACL DRYRUN st xreadgroup GROUP g c STREAMS r:1 >
ACL DRYRUN st xreadgroup GROUP k:1 c STREAMS other >
ACL DRYRUN st xclaim r:1 g c 0 1
ACL DRYRUN st xpending r:1 g
ACL DRYRUN st xlen w:1
ACL DRYRUN st xgroup create r:1 g 0
ACL DRYRUN st xinfo stream r:1
ACL DELUSER st
ACL SETUSER u clearselectors
ACL GETUSER u
ACL SETUSER w on nopass +@all ~* &*
ACL GETUSER w
ACL SETUSER w off
AUTH w any
ACL SETUSER w on
ACL SETUSER v RESET ON NOPASS AllKeys +@ALL
ACL GETUSER v
ACL DELUSER default
ACL DELUSER nobody v
ACL DELUSER v w
ACL USERS
AUTH secret
AUTH u wrong
AUTH nobody wrong
HELLO 2 AUTH u wrong
HELLO 2 AUTH u
ACL SETUSER u +acl|whoami +multi +exec +ping +echo
AUTH u secret
ACL WHOAMI
GET k:1
GET other
SET r:1 x
MGET k:1 other
SUBSCRIBE other
PUBLISH other x
FLUSHALL
CONFIG GET maxmemory
ACL LIST
COMMAND
MULTI
GET k:1
SET other x
EXEC
RESET
ACL WHOAMI
ACL SETUSER sorter on nopass ~l* +sort +sort_ro
AUTH sorter x
SORT l BY w_*
SORT l LIMIT BY w_*
SORT l LIMIT 0 1 GET w_* BY w_*
SORT_RO l GET #
SORT l BY nosort
SORT l STORE m
SORT m
RESET
ACL SETUSER sorter %R~*
AUTH sorter x
SORT l BY w_* GET #
SORT l STORE m
RESET
ACL DELUSER sorter
COMMAND GETKEYSANDFLAGS SORT k BY STORE STORE d
COMMAND GETKEYSANDFLAGS GEORADIUS k 1 1 1 m STORE d
COMMAND GETKEYSANDFLAGS GET k
COMMAND GETKEYSANDFLAGS SET k v
COMMAND GETKEYSANDFLAGS SET k v GET
COMMAND GETKEYSANDFLAGS BITFIELD k GET u8 0
COMMAND GETKEYSANDFLAGS BITFIELD k SET u8 0 1
COMMAND GETKEYSANDFLAGS ZUNIONSTORE d 2 a b
COMMAND GETKEYSANDFLAGS nonsense k
COMMAND GETKEYSANDFLAGS PING x
CONFIG SET requirepass pass
CONFIG GET requirepass
PING
RESET
PING
ACL WHOAMI
HELLO
HELLO 2
nonsense
GET
AUTH wrong
HELLO 3 AUTH default wrong
AUTH pass
PING
CONFIG SET requirepass ""
"#;

/// Sends a request, and returns the reply of Redis. Every request gets exactly one reply.
fn theirs(stream: &mut UnixStream, request: &str) -> String {
    let mark = "a mark between replies";
    // PING is permitted only after a login, so the mark is an error about an unknown command.
    stream.write_all(format!("{request}\r\n\"{mark}\"\r\n").as_bytes()).expect("it reads");
    let mut text = Vec::new();
    loop {
        let mut piece = [0; 4_096];
        let length = stream.read(&mut piece).expect("it answers");
        assert_ne!(length, 0, "it closed the connection after {request}");
        text.extend_from_slice(&piece[..length]);
        let found = String::from_utf8_lossy(&text).into_owned();
        if let Some((reply, _)) = found.split_once(&format!("-ERR unknown command '{mark}'")) {
            return reply.to_owned();
        }
    }
}

/// Returns what can be compared of a reply. The texts about permissions, and the order of rules
/// about commands, differ between Redis 7.0 and 7.2.
fn comparable(reply: &str) -> String {
    if reply.contains("-NOPERM") {
        return "-NOPERM".to_owned();
    }
    if reply.contains("has no permissions to") {
        return "denied".to_owned();
    }
    let mut words: Vec<&str> = reply.split([' ', '\r', '\n']).collect();
    if reply.contains("-@all") {
        words.sort_unstable();
    }
    words.join(" ")
}

#[test]
fn users_and_permissions_are_those_of_redis() {
    let Some(reference) = Reference::start() else { return };
    let mut stream = reference.connect();
    let mut server = LocalServer::new(Limits::default());
    let mut differences = String::new();
    for request in SAME.lines().filter(|line| !line.is_empty()) {
        server.receive(format!("{request}\r\n").as_bytes());
        let ours = comparable(&String::from_utf8_lossy(&server.replies()));
        let theirs = comparable(&theirs(&mut stream, request));
        if ours != theirs {
            differences.extend([request, "\n  ours   ", &ours, "\n  theirs ", &theirs, "\n"]);
        }
    }
    assert!(differences.is_empty(), "{differences}");
    assert!(!server.closed());
}

/// The keys of each command, and how the command uses them, are those of Redis.
#[test]
fn key_accesses_are_those_of_redis() {
    let Some(reference) = Reference::start() else { return };
    let mut stream = reference.connect();
    let mut server = LocalServer::new(Limits::default());
    server.receive(b"COMMAND LIST\r\n");
    let list = String::from_utf8(server.replies()).expect("names are text");
    let (mut compared, mut differences) = (0, String::new());
    for name in list.lines().filter(|line| line.starts_with(|char: char| char.is_alphabetic())) {
        // Numbers stand for keys and for numbers of keys. Some commands need other words.
        for arguments in ["1", "1 1", "1 1 1", "1 1 1 1", "1 1 LEFT", "1 1 1 1 1 1 1"] {
            let request = format!("COMMAND GETKEYSANDFLAGS {name} {arguments}");
            let theirs = theirs(&mut stream, &request);
            server.receive(format!("{request}\r\n").as_bytes());
            let ours = String::from_utf8(server.replies()).expect("keys are text");
            if theirs.starts_with('*') && ours.starts_with('*') {
                compared += 1;
                if ours != theirs {
                    differences.extend([&request, "\n", &ours, "\n", &theirs, "\n"]);
                }
            }
        }
    }
    assert!(differences.is_empty(), "{differences}");
    assert!(compared > 150, "{compared} requests were compared");
}

#[test]
fn limits_before_login_are_those_of_redis() {
    let Some(reference) = Reference::start() else { return };
    reference.until_closed(b"CONFIG SET requirepass pass\r\nQUIT\r\n");
    for bytes in [
        &b"*11\r\n$4\r\nPING\r\n"[..],
        b"*2\r\n$4\r\nPING\r\n$16385\r\nx\r\n",
        b"*10\r\n$4\r\nPING\r\n$0\r\n\r\n$0\r\n\r\n$0\r\n\r\n$0\r\n\r\n$0\r\n\r\n$0\r\n\r\n\
          $0\r\n\r\n$0\r\n\r\n$0\r\n\r\nQUIT\r\n",
    ] {
        let mut server = LocalServer::new(Limits::default());
        server.receive(b"CONFIG SET requirepass pass\r\nRESET\r\n");
        server.replies();
        server.receive(bytes);
        let (ours, theirs) = (server.replies(), reference.until_closed(bytes));
        assert_eq!(ours.escape_ascii().to_string(), theirs.escape_ascii().to_string());
        assert!(server.closed());
    }
}

/// Commands that Redis does not have need permissions, too: for the command inside `ONCE`, and for
/// all keys if they return values of keys that the request does not name.
#[test]
fn own_commands_need_permissions() {
    let mut server = LocalServer::new(Limits::default());
    let mut ask = |request: &str| {
        server.receive(format!("{request}\r\n").as_bytes());
        String::from_utf8(server.replies()).expect("the replies are text")
    };
    ask("ACL SETUSER u on nopass +@all -flushall ~a:*");
    assert_eq!(ask("AUTH u x"), "+OK\r\n");
    let session = ask("ONCE OPEN").trim_start_matches(':').trim_end().to_owned();
    assert_eq!(ask(&format!("ONCE {session} 1 SET a:k v")), "+OK\r\n");
    for (number, command) in (2..).zip(["SET b v", "FLUSHALL", "MSET a:k v b v"]) {
        let reply = ask(&format!("ONCE {session} {number} {command}"));
        assert!(reply.starts_with("-NOPERM "), "{command}: {reply}");
    }
    for request in [
        "KEYRANGE - + WITHVALUES",
        "CHANGES FROM 0 VALUES",
        "SNAPSHOT READ 1-1-1-00000000 0",
        "COPY a:k b",
    ] {
        let reply = ask(request);
        assert_eq!(reply, "-NOPERM No permissions to access a key\r\n", "{request}");
    }
    assert_eq!(ask("GET a:k"), "$1\r\nv\r\n");
    assert_eq!(ask("ACL GENPASS 6"), "$2\r\n00\r\n");
    let log = ask("ACL LOG 100");
    assert!(log.contains("flushall") && log.contains("username\r\n$1\r\nu\r\n"), "{log}");
}
