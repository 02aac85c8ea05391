//! Resources that clients can use up in real servers: many idle connections, claimed lengths,
//! unread replies. Memory must stay within its limits, other clients must be served, and no replica
//! may start a campaign.
#![allow(clippy::unwrap_used, reason = "a test whose helpers can't go on fails")]

#[path = "cluster/client.rs"]
#[allow(dead_code, reason = "shared with cluster.rs")]
mod client;
#[allow(dead_code, reason = "shared with cluster.rs, which also kills them")]
#[path = "cluster/replicas.rs"]
mod replicas;

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};

use client::{Client, command};
use replicas::Cluster;

/// Number of idle connections, if the system allows this process that many.
const CROWD: u64 = 10_000;
/// Number of file descriptors that this process and a server need in addition.
const OTHER_FILES: u64 = 100;
/// Maximum memory in bytes of a connection that has sent one command.
const IDLE_BYTES_MAX: u64 = 4 << 10;
const MIB: u64 = 1 << 20;

/// Returns the resident memory of a process in bytes; `None` if the system does not report it.
fn resident_bytes(process: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1_024)
}

/// Returns the CPU time of a process, in hundredths of a second; `None` if the system does not
/// report it.
fn busy(process: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit(')').next()?.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

/// Returns the values of several fields from a single `INFO` reply.
fn infos<const N: usize>(client: &mut Client, fields: [&str; N]) -> [String; N] {
    let text = String::from_utf8(client.call(&[b"INFO"]).unwrap()).unwrap();
    fields.map(|field| {
        let lines = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        lines.unwrap_or_else(|| panic!("no {field} in {text}")).to_owned()
    })
}

/// Returns the value of a field of `INFO`.
fn info(client: &mut Client, field: &str) -> String {
    let [value] = infos(client, [field]);
    value
}

/// Returns the number of idle connections to open: [`CROWD`], or fewer if the limit on open files
/// requires it.
fn crowd_size() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    CROWD.min(allowed.saturating_sub(OTHER_FILES))
}

#[test]
fn idle_connections_cost_little_memory_and_no_latency() {
    let cluster = Cluster::start_with(3, "auto", &["--maxclients", "10050"]);
    cluster.wait_until_all_serve();
    // On a busy machine an election may occur too, but not every time.
    let calm = (0..10).any(|_| gather_and_serve(&cluster));
    assert!(calm, "an election each time, for idle connections\n{}", cluster.logs());
}

/// Opens the idle connections and serves other clients. Returns whether the leader stayed the same.
fn gather_and_serve(cluster: &Cluster) -> bool {
    let count = crowd_size();
    let leader = cluster.leader();
    let mut good = Client::connect(cluster.address(leader)).unwrap();
    let connected = |good: &mut Client, wanted: u64| {
        let there = info(good, "connected_clients");
        (there == wanted.to_string()).then_some(())
    };
    // The server notices closed connections a moment later.
    cluster.wait_for("the other connections to close", || connected(&mut good, 1));
    let term = info(&mut good, "raft_term");
    let before = resident_bytes(cluster.process(leader));
    let mut crowd = Vec::new();
    for _ in 0..count {
        // Each connection has sent one command, so it has all the memory that a command needs.
        let mut client = Client::connect(cluster.address(leader)).unwrap();
        assert_eq!(client.call(&[b"PING"]).unwrap(), b"+PONG\r\n");
        crowd.push(client);
    }
    cluster.wait_for("all idle connections", || connected(&mut good, count + 1));
    let busy_before = busy(cluster.process(leader));
    let span = Duration::from_secs(2);
    thread::sleep(span);
    let busy_after = busy(cluster.process(leader));
    let after = resident_bytes(cluster.process(leader));
    for number in 0..100 {
        let value = i32::to_string(&number);
        assert_eq!(good.call(&[b"SET", b"k", value.as_bytes()]).unwrap(), b"+OK\r\n");
        let some = usize::try_from(count / 2).unwrap();
        let reply = crowd[some].call(&[b"GET", b"k"]).unwrap();
        assert_eq!(reply, format!("${}\r\n{value}\r\n", value.len()).as_bytes());
    }
    if let (Some(before), Some(after)) = (before, after) {
        let grown = after.saturating_sub(before);
        eprintln!(
            "{count} idle connections: {} KiB more, {} bytes each; {:?} hundredths of a second of \
             CPU time in {span:?}",
            grown / 1_024,
            grown / count,
            busy_after.zip(busy_before).map(|(after, before)| after - before),
        );
        assert!(grown < count * IDLE_BYTES_MAX, "{grown} bytes for {count} connections");
    }
    info(&mut good, "raft_term") == term && cluster.leader() == leader
}

#[test]
fn clients_that_wait_for_changes_take_memory_only() {
    let mut cluster = Cluster::start_with(3, "auto", &["--maxclients", "10050"]);
    cluster.wait_until_all_serve();
    let count = crowd_size();
    let mut good = Client::connect(cluster.address(0)).unwrap();
    let before = resident_bytes(cluster.process(0));
    let mut crowd = Vec::new();
    for number in 0..count {
        let prefix = format!("{}:", number % 2);
        let mut client = Client::connect(cluster.address(0)).unwrap();
        let words = ["CHANGES", "FROM", "$", "PREFIX", &prefix, "BLOCK", "0"];
        client.send(&command(&words.map(str::as_bytes))).unwrap();
        crowd.push(client);
    }
    let blocked = |good: &mut Client, wanted: u64| {
        cluster.wait_for("blocked clients", || {
            (info(good, "blocked_clients") == wanted.to_string()).then_some(())
        });
    };
    blocked(&mut good, count);
    if let (Some(before), Some(after)) = (before, resident_bytes(cluster.process(0))) {
        eprintln!("{count} blocked clients: {} bytes each", after.saturating_sub(before) / count);
    }
    // Other keys wake nobody.
    for number in 0..100 {
        let value = i32::to_string(&number);
        assert_eq!(good.call(&[b"SET", b"k", value.as_bytes()]).unwrap(), b"+OK\r\n");
    }
    blocked(&mut good, count);
    assert_eq!(good.call(&[b"SET", b"0:k", b"v"]).unwrap(), b"+OK\r\n");
    let mut waiting: Vec<Client> = Vec::new();
    for (number, mut client) in crowd.into_iter().enumerate() {
        if number % 2 == 0 {
            let reply = String::from_utf8(client.reply().unwrap()).unwrap();
            assert!(reply.ends_with("\r\n$3\r\nset\r\n$3\r\n0:k\r\n"), "{reply}");
        } else {
            waiting.push(client);
        }
    }
    blocked(&mut good, count / 2);
    waiting.truncate(waiting.len() / 2);
    blocked(&mut good, waiting.len() as u64);
    drop(good);
    assert!(cluster.stop(0).success(), "{}", cluster.logs());
    for mut client in waiting {
        let reply = String::from_utf8(client.reply().unwrap()).unwrap();
        assert!(reply.starts_with("*2\r\n:") && reply.ends_with("*0\r\n"), "{reply}");
    }
}

#[test]
fn declared_lengths_of_unsent_requests_allocate_no_memory() {
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let leader = cluster.leader();
    let mut good = Client::connect(cluster.address(leader)).unwrap();
    let before = resident_bytes(cluster.process(leader));
    let count = crowd_size().min(1_000);
    let crowd: Vec<Client> = (0..count)
        .map(|_| {
            let mut client = Client::connect(cluster.address(leader)).unwrap();
            client.send(b"*1048576\r\n$3\r\nSET\r\n$67108864\r\nand no more").unwrap();
            client
        })
        .collect();
    let peers: Vec<TcpStream> = (0..count)
        .map(|_| {
            let mut peer = TcpStream::connect(("127.0.0.1", cluster.peer_port(leader))).unwrap();
            // The server may close the connection before everything is sent.
            let _ = peer.write_all(b"BOWL\x02\x00\xff\xff\xff\xff\0\0\0\0 and no more");
            peer
        })
        .collect();
    for _ in 0..50 {
        assert_eq!(good.call(&[b"SET", b"k", b"1"]).unwrap(), b"+OK\r\n");
    }
    if let (Some(before), Some(after)) = (before, resident_bytes(cluster.process(leader))) {
        let grown = after.saturating_sub(before);
        eprintln!("{count} claims: {} KiB more", grown / 1_024);
        assert!(grown < 64 * MIB, "{grown} bytes for {count} claims");
    }
    drop((crowd, peers));
}

const OUT_OF_MEMORY: &[u8] = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n";

/// A large value, of 64 KiB.
const LARGE: &[u8] = &[b'x'; 64 << 10];

fn large_key(number: usize) -> Vec<u8> {
    format!("large:{number}").into_bytes()
}

/// Number of consecutive rounds in which every replica must refuse the write. After this number of
/// rounds, no log is left whose compaction would free memory.
const FULL_ROUNDS: usize = 10;

/// Writes large values to one replica after another until all of them refuse with the expected
/// error, `why`. Returns the number of accepted values, including the `written` ones from before.
fn write_until_all_refuse(
    cluster: &Cluster,
    clients: &mut [Client],
    mut written: usize,
    why: &[u8],
) -> usize {
    let mut rounds = 0;
    cluster.wait_for("replicas that are full", || {
        rounds += 1;
        for client in &mut *clients {
            let reply = loop {
                let reply = client.call(&[b"SET", &large_key(written), LARGE]).unwrap();
                if reply != b"+OK\r\n" {
                    break reply;
                }
                (written, rounds) = (written + 1, 0);
            };
            assert_eq!(reply.escape_ascii().to_string(), why.escape_ascii().to_string());
        }
        (rounds >= FULL_ROUNDS).then_some(())
    });
    written
}

#[test]
fn maxmemory_refuses_only_commands_that_add_data() {
    let limits = &["--maxmemory", "32mb", "--snapshot-log-bytes", "1mb"];
    let cluster = Cluster::start_with(3, "auto", limits);
    cluster.wait_until_all_serve();
    let leader = cluster.leader();
    let mut clients: Vec<Client> =
        (0..3).map(|at| Client::connect(cluster.address(at)).unwrap()).collect();
    clients.rotate_left((leader + 1) % 3);
    let mut written = 0;
    // On a slow disk a log may be compacted late, and free memory once more.
    cluster.wait_for("replicas that refuse all that would add to what they hold", || {
        written = write_until_all_refuse(&cluster, &mut clients, written, OUT_OF_MEMORY);
        let adding: [&[&[u8]]; 2] = [&[b"SET", b"k", b"v"], &[b"INCR", b"n"]];
        let mut all = clients.iter_mut().flat_map(|client| {
            let replies = adding.map(|words| client.call(words).unwrap());
            replies.map(|reply| reply == OUT_OF_MEMORY)
        });
        all.all(|refused| refused).then_some(())
    });
    clients.rotate_right((leader + 1) % 3);
    assert!(written >= 256, "refused after {written} values, half of what is allowed");
    for client in &mut clients {
        assert_eq!(client.call(&[b"GET", &large_key(written)]).unwrap(), b"$-1\r\n");
        assert_eq!(client.call(&[b"STRLEN", &large_key(0)]).unwrap(), b":65536\r\n");
        assert_eq!(client.call(&[b"DEL", b"nothing"]).unwrap(), b":0\r\n");
        let values = (written * LARGE.len()) as u64;
        // A slow follower receives the last values a moment later.
        cluster.wait_for("a state that holds these values and not much more", || {
            let fields = ["used_memory_dataset", "used_memory", "used_memory_rss"];
            let [dataset, used, resident] =
                infos(client, fields).map(|text| text.parse::<u64>().unwrap());
            let fits = used >= dataset && (resident == 0 || used <= resident);
            (fits && dataset >= values && dataset < values + 4 * MIB).then_some(())
        });
    }
    for number in 0..written / 2 {
        let at = number % 3;
        assert_eq!(clients[at].call(&[b"DEL", &large_key(number)]).unwrap(), b":1\r\n");
    }
    for (at, client) in clients.iter_mut().enumerate() {
        cluster.wait_for("room", || {
            let reply = client.call(&[b"SET", b"k", at.to_string().as_bytes()]).unwrap();
            (reply == b"+OK\r\n").then_some(())
        });
    }
    // A follower with free memory forwards the write to a leader without free memory, whichever
    // replica leads by then.
    let follower = cluster.wait_for("a leader that is full", || {
        let leader = cluster.leader();
        for (at, client) in clients.iter_mut().enumerate() {
            let most: &[u8] = if at == leader { b"1" } else { b"32mb" };
            let set = [&b"CONFIG"[..], b"SET", b"maxmemory", most];
            assert_eq!(client.call(&set).unwrap(), b"+OK\r\n");
        }
        let at = (leader + 1) % 3;
        let adding: [&[&[u8]]; 2] = [&[b"SET", b"k", b"w"], &[b"APPEND", b"k", b"w"]];
        let refused = |words: &[&[u8]]| clients[at].call(words).unwrap() == OUT_OF_MEMORY;
        adding.into_iter().all(refused).then_some(at)
    });
    let follower = &mut clients[follower];
    assert_eq!(follower.call(&[b"DEL", b"k"]).unwrap(), b":1\r\n");
    assert_eq!(follower.call(&[b"EXISTS", b"k"]).unwrap(), b":0\r\n");
    let policy = [&b"CONFIG"[..], b"SET", b"maxmemory-policy", b"allkeys-lru"];
    assert!(follower.call(&policy).unwrap().starts_with(b"-ERR CONFIG SET failed"));
    for client in &mut clients {
        assert_eq!(client.call(&[b"CONFIG", b"SET", b"maxmemory", b"0"]).unwrap(), b"+OK\r\n");
    }
    let follower = &mut clients[(cluster.leader() + 1) % 3];
    cluster.wait_for("a leader without a limit", || {
        (follower.call(&[b"SET", b"k", b"w"]).unwrap() == b"+OK\r\n").then_some(())
    });
}

#[cfg(target_os = "linux")]
#[test]
fn uncompacted_log_stays_within_its_memory_share() {
    use rustix::process::{Pid, Rlimit, prlimit};

    let limits = &["--maxmemory", "128mb", "--snapshot-log-bytes", "1mb"];
    let cluster = Cluster::start_with(3, "auto", limits);
    cluster.wait_until_all_serve();
    // Large enough for log segments, but too small for a snapshot of 20 MiB.
    let allow_files_of = |bytes| {
        for at in 0..3 {
            let process = i32::try_from(cluster.process(at)).unwrap();
            let limit = Rlimit { current: bytes, maximum: None };
            prlimit(Pid::from_raw(process), Resource::Fsize, limit).unwrap();
        }
    };
    allow_files_of(Some(17 * MIB));
    let leader = cluster.leader();
    let mut client = Client::connect(cluster.address(leader)).unwrap();
    let mut refused = None;
    let mut most = 0;
    for number in 0..2_000_usize {
        let reply = client.call(&[b"SET", &large_key(number % 320), LARGE]).unwrap();
        most = most.max(info(&mut client, "used_memory_log").parse::<u64>().unwrap());
        if reply != b"+OK\r\n" {
            refused = Some(reply);
            break;
        }
    }
    let refused = refused.expect("two thousand values were taken");
    assert!(refused.starts_with(b"-TRYAGAIN "), "{}", refused.escape_ascii());
    // `INFO` lags a little.
    cluster.wait_for("a log that takes all of its share", || {
        most = most.max(info(&mut client, "used_memory_log").parse::<u64>().unwrap());
        (most > 56 * MIB).then_some(())
    });
    assert!(most < 72 * MIB, "{most} bytes of log, where 64 MiB are its share");
    cluster.wait_for("a snapshot that could not be taken", || {
        (info(&mut client, "rdb_last_bgsave_status") == "err").then_some(())
    });
    assert_eq!(client.call(&[b"STRLEN", &large_key(1)]).unwrap(), b":65536\r\n");
    allow_files_of(None);
    cluster.wait_for("a log that was cut, by itself", || {
        (client.call(&[b"SET", b"k", b"v"]).unwrap() == b"+OK\r\n").then_some(())
    });
    cluster.wait_for("most of its size", || {
        let log: u64 = info(&mut client, "used_memory_log").parse().unwrap();
        client.call(&[b"SET", b"k", b"v"]).unwrap();
        (log < 40 * MIB).then_some(())
    });
}

#[test]
fn clients_that_never_read_stay_within_maxmemory_clients() {
    let cluster = Cluster::start_with(3, "auto", &["--maxmemory-clients", "64mb"]);
    cluster.wait_until_all_serve();
    let leader = cluster.leader();
    let mut good = Client::connect(cluster.address(leader)).unwrap();
    let large = vec![b'x'; 256 << 10];
    assert_eq!(good.call(&[b"SET", b"large", &large]).unwrap(), b"+OK\r\n");
    let before = resident_bytes(cluster.process(leader));
    // Replies of 1 GiB each: values, arrays of them, and lists of all connections.
    let asked = [
        command(&[b"GET", b"large"]).repeat(4_000),
        command(&[b"MGET", b"large", b"large", b"nothing", b"large"]).repeat(1_300),
        command(&[b"CLIENT", b"LIST"]).repeat(20_000),
        command(&[b"COMMAND", b"DOCS"]).repeat(20_000),
    ];
    let mut crowd = Vec::new();
    for number in 0..200 {
        let client = Client::connect(cluster.address(leader)).unwrap();
        client.stream.set_nonblocking(true).unwrap();
        let mut stream = client.stream;
        // As many bytes as the server accepts at once; it may close some connections.
        match stream.write(&asked[number % asked.len()]) {
            Ok(_) => {}
            Err(error) => assert_ne!(error.kind(), ErrorKind::InvalidInput),
        }
        crowd.push(stream);
    }
    let mut most = before;
    for number in 0..200 {
        let value = i32::to_string(&number);
        assert_eq!(good.call(&[b"SET", b"k", value.as_bytes()]).unwrap(), b"+OK\r\n");
        most = most.max(resident_bytes(cluster.process(leader)));
    }
    if let (Some(before), Some(most)) = (before, most) {
        let grown = most.saturating_sub(before);
        eprintln!("a crowd that reads nothing: {} KiB more", grown / 1_024);
        // The limit, and free memory that the allocator keeps. Without the limit it would be 200
        // GiB.
        assert!(grown < 192 * MIB, "{grown} bytes");
    }
    let held: u64 = info(&mut good, "mem_clients_normal").parse().unwrap();
    assert!(held <= 64 * MIB, "{held} bytes held by clients");
}
