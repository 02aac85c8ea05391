//! Users, passwords and permissions with real processes.

use std::io::Write as _;
use std::time::Duration;

use crate::client::{Client, command};
use crate::replicas::Cluster;

const PASSWORD: &[&str] = &["--requirepass", "secret"];

fn connect(cluster: &Cluster, at: usize) -> Client {
    Client::connect(cluster.address(at)).unwrap()
}

/// Sends a request, given as words, and returns the reply as text.
fn ask(client: &mut Client, request: &str) -> String {
    let words: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
    String::from_utf8(client.call(&words).unwrap()).unwrap()
}

/// Returns a client that has logged in.
fn log_in(cluster: &Cluster, at: usize, user: &str, password: &str) -> Client {
    cluster.wait_for("a login", || {
        let mut client = Client::connect(cluster.address(at)).ok()?;
        (ask(&mut client, &format!("AUTH {user} {password}")) == "+OK\r\n").then_some(client)
    })
}

/// Repeats a request until it gets this reply.
fn ask_until(cluster: &Cluster, client: &mut Client, request: &str, wanted: &str) {
    cluster.wait_for(request, || (ask(client, request) == wanted).then_some(()));
}

/// Returns the names and arities of all commands and subcommands.
fn command_names(client: &mut Client) -> Vec<(String, i64)> {
    let reply = ask(client, "COMMAND");
    // Each entry starts with a name, followed by its arity.
    let lines: Vec<&str> = reply.lines().collect();
    let entries = lines.windows(3).filter(|lines| lines[0].starts_with('$'));
    let names = entries.filter_map(|lines| {
        let arity = lines[2].strip_prefix(':')?.parse().ok()?;
        Some((lines[1].replace('|', " "), arity))
    });
    names.collect()
}

#[test]
fn commands_need_a_login_if_there_is_a_password() {
    let cluster = Cluster::start_with(1, "auto", PASSWORD);
    let mut admin = log_in(&cluster, 0, "default", "secret");
    ask_until(&cluster, &mut admin, "SET k v", "+OK\r\n");
    let names = command_names(&mut admin);
    assert!(names.len() > 150, "{}", names.len());
    let mut refused = 0;
    for (name, arity) in names {
        let mut request = name.clone();
        let missing = usize::try_from(arity.abs()).unwrap() - name.split(' ').count();
        request.push_str(&" k".repeat(missing));
        let mut client = connect(&cluster, 0);
        let reply = ask(&mut client, &request);
        match &*name {
            "auth" => assert!(reply.starts_with("-WRONGPASS "), "{reply}"),
            "hello" => assert!(reply.starts_with("-NOAUTH HELLO must be called"), "{reply}"),
            "quit" => assert_eq!(reply, "+OK\r\n"),
            "reset" => assert_eq!(reply, "+RESET\r\n"),
            // A command that only has subcommands; the wrong subcommand is found first.
            _ if reply.starts_with("-ERR unknown subcommand 'k'") => {}
            _ => {
                assert_eq!(reply, "-NOAUTH Authentication required.\r\n", "{name}");
                refused += 1;
            }
        }
    }
    assert!(refused > 150, "{refused}");
    let mut client = connect(&cluster, 0);
    assert!(ask(&mut client, "HELLO 3 AUTH default wrong").starts_with("-WRONGPASS "));
    assert!(ask(&mut client, "HELLO 2 AUTH default secret").starts_with("*14\r\n"));
    assert_eq!(ask(&mut client, "GET k"), "$1\r\nv\r\n");
    assert_eq!(ask(&mut client, "RESET"), "+RESET\r\n");
    assert_eq!(ask(&mut client, "GET k"), "-NOAUTH Authentication required.\r\n");
    // The password is nowhere in the log of the process.
    assert!(!cluster.log(0).contains("secret"), "{}", cluster.log(0));
    assert!(cluster.log(0).contains("login failed"), "{}", cluster.log(0));
    let denied = ask(&mut admin, "INFO stats");
    assert!(denied.contains("acl_access_denied_auth:2\r\n"), "{denied}");
}

#[test]
fn requests_before_login_are_limited_in_size() {
    let cluster = Cluster::start_with(1, "auto", PASSWORD);
    log_in(&cluster, 0, "default", "secret");
    for (bytes, wanted) in [
        (&b"*11\r\n"[..], &b"-ERR Protocol error: unauthenticated multibulk length\r\n"[..]),
        (b"*2\r\n$3\r\nGET\r\n$16385\r\n", b"-ERR Protocol error: unauthenticated bulk length\r\n"),
    ] {
        let mut client = connect(&cluster, 0);
        client.send(bytes).unwrap();
        assert_eq!(client.reply().unwrap(), wanted);
        assert!(client.reply().is_err(), "the connection is closed");
    }
    let mut client = log_in(&cluster, 0, "default", "secret");
    let (key, value) = (b"long", vec![b'x'; 20_000]);
    assert_eq!(client.call(&[b"SET", key, &value]).unwrap(), b"+OK\r\n");
}

/// A user created at one replica exists at all others, even after all replicas were killed and
/// after a snapshot. Deleting it disconnects its clients everywhere.
#[test]
fn users_are_replicated_and_survive_kills_and_snapshots() {
    let mut cluster = Cluster::start_with(3, "auto", PASSWORD);
    let mut admin = log_in(&cluster, 0, "default", "secret");
    let made = "ACL SETUSER app on >pass ~app:* &news +@read +@write +subscribe -@dangerous";
    ask_until(&cluster, &mut admin, made, "+OK\r\n");
    let rules = ask(&mut admin, "ACL LIST");
    let hash = "d74ff0ee8da3b9806b18c877dbf29bbde50b5bd8e4dad7a3a725000feb82e8f1";
    let permissions = "~app:* resetchannels &news -@all +@read +@write +subscribe -@dangerous";
    assert!(rules.contains(&format!("user app on #{hash} {permissions}")), "{rules}");
    for at in 0..3 {
        let mut client = log_in(&cluster, at, "app", "pass");
        assert_eq!(ask(&mut client, "ACL WHOAMI").lines().count(), 1, "it may not ask");
        ask_until(&cluster, &mut client, "SET app:k v", "+OK\r\n");
        assert_eq!(ask(&mut client, "GET other"), "-NOPERM No permissions to access a key\r\n");
        assert_eq!(
            ask(&mut client, "FLUSHALL"),
            "-NOPERM User app has no permissions to run the 'flushall' command\r\n"
        );
        assert_eq!(
            ask(&mut client, "SUBSCRIBE other"),
            "-NOPERM No permissions to access a channel\r\n"
        );
    }
    assert!(ask(&mut admin, "ACL LOG").contains("flushall"));
    for at in 0..3 {
        cluster.kill(at);
    }
    cluster.restart();
    for at in 0..3 {
        log_in(&cluster, at, "app", "pass");
    }
    let mut admin = log_in(&cluster, 0, "default", "secret");
    let saves = "rdb_saves:";
    let number = |text: &str| -> u64 {
        text.lines().find_map(|line| line.strip_prefix(saves)).unwrap().parse().unwrap()
    };
    let before = number(&ask(&mut admin, "INFO persistence"));
    ask(&mut admin, "BGSAVE");
    cluster.wait_for("a snapshot", || {
        (number(&ask(&mut admin, "INFO persistence")) > before).then_some(())
    });
    cluster.kill(0);
    cluster.restart();
    let mut clients: Vec<Client> = (0..3).map(|at| log_in(&cluster, at, "app", "pass")).collect();
    let mut admin = log_in(&cluster, 1, "default", "secret");
    ask_until(&cluster, &mut admin, "ACL DELUSER app", ":1\r\n");
    for client in &mut clients {
        client.stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        assert!(client.reply().is_err(), "the client is disconnected");
    }
    let digests = |cluster: &Cluster| -> Vec<String> {
        let digest = |at| {
            let mut client = log_in(cluster, at, "default", "secret");
            let info = ask(&mut client, "INFO raft");
            let field = |name: &str| {
                info.lines().find(|line| line.starts_with(name)).unwrap_or("?").to_owned()
            };
            format!("{} {}", field("raft_applied_index"), field("raft_state_digest"))
        };
        (0..3).map(digest).collect()
    };
    cluster.wait_for("equal digests", || {
        let digests = digests(&cluster);
        (digests[0] == digests[1] && digests[0] == digests[2]).then_some(())
    });
}

/// Changes of a user affect clients that are already logged in as this user.
#[test]
fn changed_permissions_apply_to_connected_clients() {
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let mut admin = connect(&cluster, 0);
    ask_until(&cluster, &mut admin, "ACL SETUSER app on nopass ~* &news +@all", "+OK\r\n");
    let mut client = log_in(&cluster, 0, "app", "x");
    for (request, wanted) in
        [("MULTI", "+OK"), ("SET k v", "+QUEUED"), ("GET k", "+QUEUED"), ("PING", "+QUEUED")]
    {
        assert_eq!(ask(&mut client, request).trim_end(), wanted);
    }
    let mut subscribers: Vec<Client> = (0..3).map(|at| log_in(&cluster, at, "app", "x")).collect();
    for subscriber in &mut subscribers {
        assert!(ask(subscriber, "SUBSCRIBE news").starts_with("*3\r\n"));
    }
    ask_until(&cluster, &mut admin, "ACL SETUSER app -set resetchannels &other", "+OK\r\n");
    let reply = ask(&mut client, "EXEC");
    let refused = "-NOPERM ACLs rules changed between the moment the transaction was accumulated";
    assert!(reply.starts_with(&format!("*3\r\n{refused}")), "{reply}");
    assert!(reply.ends_with("$-1\r\n+PONG\r\n"), "{reply}");
    assert!(ask(&mut client, "MULTI").starts_with("+OK"));
    assert!(ask(&mut client, "SET k v").starts_with("-NOPERM "));
    assert!(ask(&mut client, "EXEC").starts_with("-EXECABORT "));
    for subscriber in &mut subscribers {
        assert!(subscriber.reply().is_err(), "it may not have this channel any more");
    }
    assert!(ask(&mut admin, "CLIENT LIST").contains("user=app"));
    // The setting is the password only until the user is set on all replicas.
    assert!(ask(&mut admin, "CONFIG SET requirepass first") == "+OK\r\n");
    let reply = ask(&mut admin, "ACL SETUSER default ~x:*");
    assert!(reply.contains("modifier '~x:*': Adding a pattern after the * pattern"), "{reply}");
    ask_until(&cluster, &mut admin, "ACL SETUSER default +@all", "+OK\r\n");
    for at in 1..3 {
        cluster.wait_for("the password at another replica", || {
            ask(&mut connect(&cluster, at), "PING").starts_with("-NOAUTH").then_some(())
        });
        let mut other = log_in(&cluster, at, "default", "first");
        assert!(ask(&mut other, "CONFIG SET requirepass second").contains("ACL SETUSER"));
    }
}

/// Permissions are revoked while requests are in flight: each request is either applied before or
/// rejected. None gets lost, and none is applied after.
#[test]
fn no_write_is_applied_after_its_permission_was_revoked() {
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let mut admin = connect(&cluster, 0);
    let set = |admin: &mut Client, rule: &str| {
        let request = format!("ACL SETUSER app on nopass ~* {rule}");
        ask_until(&cluster, admin, &request, "+OK\r\n");
    };
    let mut writers: Vec<Client> = (0..3)
        .map(|at| {
            set(&mut admin, "resetkeys ~* +incr");
            log_in(&cluster, at, "app", "x")
        })
        .collect();
    let mut counted = 0;
    for round in 0..10 {
        set(&mut admin, "resetkeys ~* +incr");
        let burst = command(&[b"INCR", b"n"]).repeat(200);
        for writer in &mut writers {
            // The user may not have its permission back at all replicas yet.
            cluster.wait_for("the permission", || {
                ask(writer, "INCR warm").starts_with(':').then_some(())
            });
            writer.stream.write_all(&burst).unwrap();
        }
        set(&mut admin, "-incr");
        // The permission is revoked now, so the sum must not change any more.
        let value = ask(&mut admin, "GET n");
        for writer in &mut writers {
            let (mut applied, mut refused) = (0, 0);
            for _ in 0..200 {
                let reply = String::from_utf8(writer.reply().unwrap()).unwrap();
                match &reply {
                    _ if reply.starts_with(':') => applied += 1,
                    _ if reply.starts_with("-NOPERM ") => refused += 1,
                    _ if reply.starts_with("-TRYAGAIN ") => refused += 1,
                    other => panic!("round {round}: {other}"),
                }
            }
            assert_eq!(applied + refused, 200);
            counted += applied;
        }
        assert_eq!(ask(&mut admin, "GET n"), value, "round {round}");
        let shown = format!("{counted}\r\n");
        assert!(counted == 0 || value.ends_with(&shown), "round {round}: {value} {counted}");
    }
}

/// A client that logs in as its own user must not get more attempts to guess the password of
/// another.
#[test]
fn own_login_does_not_reset_the_delay_of_failed_logins() {
    let cluster = Cluster::start_with(1, "auto", PASSWORD);
    let mut admin = log_in(&cluster, 0, "default", "secret");
    ask_until(&cluster, &mut admin, "ACL SETUSER weak on >own +multi +exec +get ~a", "+OK\r\n");
    let denied = |admin: &mut Client| -> u64 {
        let info = ask(admin, "INFO stats");
        let field = info.lines().find_map(|line| line.strip_prefix("acl_access_denied_auth:"));
        field.unwrap().parse().unwrap()
    };
    // In a transaction, only the first guess counts, also if the others are right, and also if
    // something else is denied in it.
    let mut attacker = log_in(&cluster, 0, "weak", "own");
    assert_eq!(ask(&mut attacker, "MULTI"), "+OK\r\n");
    let queued = ["AUTH default a", "AUTH default secret", "GET b", "AUTH default b"];
    for request in queued {
        let reply = ask(&mut attacker, request);
        assert!(reply == "+QUEUED\r\n" || request == "GET b" && reply.starts_with("-NOPERM"));
    }
    let reply = ask(&mut attacker, "EXEC");
    assert!(reply.starts_with("-EXECABORT "), "{reply}");
    assert_eq!(ask(&mut attacker, "MULTI"), "+OK\r\n");
    for _ in 0..20 {
        assert_eq!(ask(&mut attacker, "AUTH default wrong"), "+QUEUED\r\n");
    }
    assert_eq!(ask(&mut attacker, "AUTH default secret"), "+QUEUED\r\n");
    let before = denied(&mut admin);
    let reply = ask(&mut attacker, "EXEC");
    assert_eq!(reply.matches("-WRONGPASS ").count(), 21, "{reply}");
    assert_eq!(denied(&mut admin), before + 1);
    // Logging in as the own user does not end the delay.
    let pair = [command(&[b"AUTH", b"weak", b"own"]), command(&[b"AUTH", b"default", b"x"])];
    attacker.send(&pair.concat().repeat(200)).unwrap();
    for number in 0..500 {
        let value = number.to_string();
        assert_eq!(admin.call(&[b"SET", b"k", value.as_bytes()]).unwrap(), b"+OK\r\n");
    }
    let denied = denied(&mut admin);
    assert!((1..100).contains(&denied), "{denied}");
}

#[test]
fn local_writes_for_tests_need_permission_for_the_key() {
    let flags = &["--requirepass", "secret", "--enable-debug-command", "yes"];
    let cluster = Cluster::start_with(1, "auto", flags);
    let mut admin = log_in(&cluster, 0, "default", "secret");
    let rules = "ACL SETUSER tester on >pass +debug ~own:* %R~read:*";
    ask_until(&cluster, &mut admin, rules, "+OK\r\n");
    let mut tester = log_in(&cluster, 0, "tester", "pass");
    for key in ["k", "read:k"] {
        let reply = ask(&mut tester, &format!("DEBUG DIVERGE {key} v SILENT"));
        assert_eq!(reply, "-NOPERM No permissions to access a key\r\n");
    }
    assert_eq!(ask(&mut tester, "DEBUG DIVERGE own:k v SILENT"), "+OK\r\n");
    assert_eq!(ask(&mut admin, "GET k"), "$-1\r\n");
}

#[test]
fn failed_logins_are_delayed_and_others_are_not() {
    let cluster = Cluster::start_with(1, "auto", PASSWORD);
    let mut admin = log_in(&cluster, 0, "default", "secret");
    let mut attacker = connect(&cluster, 0);
    // More than the delays would allow.
    attacker.send(&command(&[b"AUTH", b"wrong"]).repeat(200)).unwrap();
    for number in 0..500 {
        let value = number.to_string();
        assert_eq!(admin.call(&[b"SET", b"k", value.as_bytes()]).unwrap(), b"+OK\r\n");
    }
    let info = ask(&mut admin, "INFO stats");
    let field = info.lines().find_map(|line| line.strip_prefix("acl_access_denied_auth:"));
    let denied: u64 = field.unwrap().parse().unwrap();
    assert!((1..200).contains(&denied), "{denied}");
    // A login as this user from this address ends the delays of new clients.
    let mut other = log_in(&cluster, 0, "default", "secret");
    assert_eq!(ask(&mut other, "PING"), "+PONG\r\n");
}

#[test]
fn replica_without_a_password_listens_on_loopback_only() {
    let mut cluster = Cluster::start(1, "auto");
    cluster.wait_until_all_serve();
    assert!(cluster.log(0).contains("no password is set"), "{}", cluster.log(0));
    for (flags, wanted) in [
        (&[][..], "127.0.0.1"),
        (&["--protected-mode", "no"], "0.0.0.0"),
        (&["--requirepass", "secret"], "0.0.0.0"),
    ] {
        cluster.kill(0);
        let starts_before = cluster.log(0).matches("replica started").count();
        let mut command = cluster.command(0);
        let mut arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let at = arguments.iter().position(|argument| argument == "--listen").unwrap();
        arguments[at + 1] = format!("0.0.0.0:{}", cluster.ports[0]).into();
        let mut changed = std::process::Command::new(command.get_program());
        changed.args(arguments).args(flags);
        changed.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
        command = changed;
        cluster.start_as(0, command);
        let line = format!("listen={wanted}:{}", cluster.ports[0]);
        let log = cluster.wait_for("the start", || {
            let log = cluster.log(0);
            let mut starts = log.lines().filter(|line| line.contains("replica started"));
            starts.clone().nth(starts_before)?;
            starts.next_back()?.contains(&line).then_some(log)
        });
        let warns = log.contains("loopback only (protected mode)");
        assert!(warns || !flags.is_empty(), "{log}");
    }
}
