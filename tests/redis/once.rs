//! ONCE: the commands of a session are applied once, and get the replies of their commands.

use bowline::wire::resp::Limits;

use super::local_server::LocalServer;

fn ask(server: &mut LocalServer, line: &str) -> String {
    server.receive(format!("{line}\r\n").as_bytes());
    String::from_utf8(server.replies()).expect("replies of text")
}

/// Returns a server, and the id of a session that was opened on it.
fn open() -> (LocalServer, String) {
    let mut server = LocalServer::new(Limits::default());
    let session = ask(&mut server, "once open");
    let number = session.strip_prefix(':').expect("a number").trim_end().to_owned();
    (server, number)
}

#[test]
fn repeated_once_command_gets_its_reply_without_being_applied() {
    let (mut server, session) = open();
    for (number, command, reply) in [
        (1, "INCR n", ":1\r\n"),
        (2, "INCRBY n 41", ":42\r\n"),
        (3, "SET k v GET", "$-1\r\n"),
        (4, "SETNX k w", ":0\r\n"),
        (5, "HSET h f v g w", ":2\r\n"),
        (6, "MSET a 1 b 2", "+OK\r\n"),
        (7, "GETDEL a", "$1\r\n1\r\n"),
        (8, "DEL b h nothing", ":2\r\n"),
        // A command that fails also uses its number.
        (9, "INCR k", "-ERR value is not an integer or out of range\r\n"),
        (10, "INCRBY n many", "-ERR value is not an integer or out of range\r\n"),
        (11, "INCR", "-ERR wrong number of arguments for 'incr' command\r\n"),
        (12, "GET k", "-ERR ONCE takes commands that write\r\n"),
        (13, "ONCE 1 1 INCR n", "-ERR ONCE takes commands that write\r\n"),
        (14, "FUNCTION FLUSH", "+OK\r\n"),
        (15, "post x", "-ERR unknown command\r\n"),
        (16, "EXEC", "-ERR ONCE takes commands that write\r\n"),
    ] {
        for _ in 0..2 {
            assert_eq!(ask(&mut server, &format!("ONCE {session} {number} {command}")), reply);
        }
    }
    assert_eq!(ask(&mut server, "MGET n k"), "*2\r\n$2\r\n42\r\n$1\r\nv\r\n");
    // From another connection, with another protocol version.
    server.connect_again(Limits::default());
    ask(&mut server, "HELLO 3");
    assert_eq!(ask(&mut server, &format!("ONCE {session} 3 SET k v GET")), "_\r\n");
}

#[test]
fn invalid_once_command_is_refused_with_an_error_code() {
    let (mut server, session) = open();
    let mut starts = |line: &str, code: &str| {
        let reply = ask(&mut server, line);
        assert!(reply.starts_with(&format!("-{code} ")), "{line}: {reply}");
    };
    starts(&format!("ONCE {session} 2 INCR n"), "SEQGAP");
    starts(&format!("ONCE {session} 0 INCR n"), "STALESEQ");
    starts(&format!("ONCE 1{session} 1 INCR n"), "NOSESSION");
    starts(&format!("ONCE {session} -1 INCR n"), "ERR");
    starts("ONCE x 1 INCR n", "ERR");
    starts(&format!("ONCE {session} 1"), "ERR");
    starts("ONCE OPEN x", "ERR");
    let large = "x".repeat(2_000);
    assert_eq!(ask(&mut server, &format!("ONCE {session} 1 SET k {large}")), "+OK\r\n");
    let again = format!("ONCE {session} 2 GETSET k v");
    assert!(ask(&mut server, &again).ends_with(&format!("{large}\r\n")));
    let reply = ask(&mut server, &again);
    assert!(reply.starts_with("-LARGEREPLY "), "{reply}");
    let reply = ask(&mut server, &format!("ONCE {session} 2 INCR n"));
    assert!(reply.starts_with("-REUSEDSEQ "), "{reply}");
    assert_eq!(ask(&mut server, "MGET k n"), "*2\r\n$1\r\nv\r\n$-1\r\n");
    for number in 3..=70 {
        ask(&mut server, &format!("ONCE {session} {number} INCR n"));
    }
    let reply = ask(&mut server, &format!("ONCE {session} 6 INCR n"));
    assert!(reply.starts_with("-STALESEQ "), "{reply}");
    assert_eq!(ask(&mut server, &format!("ONCE {session} 7 INCR n")), ":5\r\n");
    assert_eq!(ask(&mut server, "GET n"), "$2\r\n68\r\n");
    server.allow_payload(1_000);
    let reply = ask(&mut server, &format!("ONCE {session} 71 SET k {large}"));
    assert!(reply.starts_with("-ERR the command is too large: it takes "), "{reply}");
    assert_eq!(ask(&mut server, &format!("ONCE {session} 72 INCR n")), ":69\r\n");
}

#[test]
fn once_command_is_refused_inside_a_transaction() {
    let (mut server, session) = open();
    for line in ["ONCE OPEN".to_owned(), format!("ONCE {session} 1 INCR n")] {
        assert_eq!(ask(&mut server, "MULTI"), "+OK\r\n");
        assert_eq!(ask(&mut server, &line), "-ERR Command not allowed inside a transaction\r\n");
        assert!(ask(&mut server, "EXEC").starts_with("-EXECABORT "));
    }
    assert_eq!(ask(&mut server, "EXISTS n"), ":0\r\n");
}

#[test]
fn command_getkeys_returns_the_key_of_a_once_command() {
    let mut server = LocalServer::new(Limits::default());
    assert_eq!(ask(&mut server, "COMMAND GETKEYS ONCE 1 1 INCR n"), "*1\r\n$1\r\nn\r\n");
}
