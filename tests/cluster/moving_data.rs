//! `bowline admin export` and `import`: data moves between a cluster and a real Redis, in both
//! directions, as files and from a running server.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use bowline::rdb::FileWriter;

use crate::admin::{admin, assert_failed, json, stderr};
use crate::client::Client;
use crate::reference::Reference;
use crate::replicas::{Cluster, TIMEOUT, free_port};

/// A real Redis with a folder of its own, which is killed when dropped.
struct Redis {
    process: Child,
    address: SocketAddr,
    folder: tempfile::TempDir,
}

impl Redis {
    /// Starts Redis. `file` is what it loads. Returns `None` if it is not installed.
    fn start(file: Option<&Path>, flags: &[&str]) -> Option<Redis> {
        // Checks the version, and whether it may be missing.
        drop(Reference::start()?);
        let folder = tempfile::tempdir().unwrap();
        if let Some(file) = file {
            fs::copy(file, folder.path().join("dump.rdb")).unwrap();
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let process = Command::new("redis-server")
            .args(["--port", &address.port().to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--repl-diskless-sync-delay", "0"])
            .args(flags)
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let redis = Redis { process, address, folder };
        let until = Instant::now() + TIMEOUT;
        loop {
            let mut client = Client::connect(redis.address).ok();
            let reply = client.as_mut().map(|client| client.call(&[b"PING"]));
            if matches!(reply, Some(Ok(reply)) if reply == b"+PONG\r\n") {
                return Some(redis);
            }
            assert!(Instant::now() < until, "redis-server does not serve");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn client(&self) -> Client {
        Client::connect(self.address).unwrap()
    }

    /// Writes the keys to a file, and returns its path.
    fn save(&self) -> PathBuf {
        assert_eq!(self.client().call(&[b"SAVE"]).unwrap(), b"+OK\r\n");
        self.folder.path().join("dump.rdb")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // An error means that Redis has already exited.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Commands that make keys of all types and encodings.
const COMMANDS: &[&str] = &[
    "SET string text",
    "SET number 12345",
    "SETRANGE long 40000 x",
    "SET expiring soon PXAT 4000000000123",
    "RPUSH list a b c 1 2 -70000",
    "SADD integers 1 2 300 -5",
    "SADD set a b 1",
    "ZADD zset 1 a 2.5 b -inf c inf d 0.1 e",
    "HSET hash f 1 g text",
    "PEXPIREAT hash 4000000000456",
    "XADD stream 1-1 f v g 2",
    "XADD stream 1-2 f w",
    "XADD stream 5-0 other x",
    "XDEL stream 1-2",
    "XGROUP CREATE stream group 0",
    "XGROUP CREATECONSUMER stream group idle",
    "XREADGROUP GROUP group alice COUNT 1 STREAMS stream >",
    "XGROUP CREATE stream none $",
    "XADD empty 7-7 f v",
    "XDEL empty 7-7",
    "SELECT 15",
    "SET string of-database-15",
    "SELECT 3",
    "RPUSH list of database 3",
    "SET expiring soon PXAT 4000000000789",
    "SELECT 0",
];

/// The databases that have keys.
const DATABASES: [&[u8]; 3] = [b"3", b"15", b"0"];

/// Writes keys of all types, and `count` of each that need other encodings in Redis.
fn write_keys(client: &mut Client, count: usize) {
    for line in COMMANDS {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let reply = client.call_until_ok(&words);
        assert!(!reply.starts_with(b"-"), "{line}: {}", reply.escape_ascii());
    }
    for number in 0..count {
        let number = number.to_string();
        let number = number.as_bytes();
        let text = [b"element of a large collection ", number].concat();
        for command in [
            &[&b"RPUSH"[..], b"list:large", &text][..],
            &[b"SADD", b"set:large", &text],
            &[b"ZADD", b"zset:large", number, &text],
            &[b"HSET", b"hash:large", &text, number],
            &[b"XADD", b"stream:large", b"*", b"field", &text],
            &[b"SET", &[b"key:", number].concat(), &text],
        ] {
            let reply = client.call_until_ok(command);
            assert!(!reply.starts_with(b"-"), "{}", reply.escape_ascii());
        }
    }
}

/// Returns the value of a key, the same from both servers: its type, its expiration, and the lines
/// of the replies with its elements, sorted if they have no order.
fn value(client: &mut Client, key: &[u8]) -> Vec<Vec<u8>> {
    let kind = client.call_until_ok(&[b"TYPE", key]);
    let expiry = client.call_until_ok(&[b"PEXPIRETIME", key]);
    let replies = match &kind[1..kind.len() - 2] {
        b"string" => vec![client.call_until_ok(&[b"GET", key])],
        b"list" => vec![client.call_until_ok(&[b"LRANGE", key, b"0", b"-1"])],
        b"set" => vec![sorted(&client.call_until_ok(&[b"SMEMBERS", key]))],
        b"hash" => vec![sorted(&client.call_until_ok(&[b"HGETALL", key]))],
        b"zset" => vec![client.call_until_ok(&[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"])],
        b"stream" => {
            let groups = client.call_until_ok(&[b"XINFO", b"GROUPS", key]);
            let pending = client.call_until_ok(&[b"XPENDING", key, b"group"]);
            let lines = client.call_until_ok(&[b"XINFO", b"STREAM", key]);
            // Without the size of the radix tree.
            let lines: Vec<&[u8]> = lines.split(|byte| *byte == b'\n').collect();
            let at = lines.iter().position(|line| line.starts_with(b"last-generated-id"));
            let ids = lines[at.unwrap()..].join(&b'\n');
            vec![client.call_until_ok(&[b"XRANGE", key, b"-", b"+"]), groups, pending, ids]
        }
        other => panic!("the key {} has type {}", key.escape_ascii(), other.escape_ascii()),
    };
    [vec![kind, expiry], replies].concat()
}

fn sorted(reply: &[u8]) -> Vec<u8> {
    let mut lines: Vec<&[u8]> = reply.split(|byte| *byte == b'\n').collect();
    lines.sort_unstable();
    lines.join(&b'\n')
}

fn keys(client: &mut Client) -> Vec<Vec<u8>> {
    let reply = client.call_until_ok(&[b"KEYS", b"*"]);
    let lines = reply.split(|byte| *byte == b'\n').filter(|line| !line.starts_with(b"$"));
    let mut keys: Vec<Vec<u8>> = lines.skip(1).map(|line| line.trim_ascii_end().to_vec()).collect();
    keys.retain(|key| !key.is_empty());
    keys.sort_unstable();
    keys
}

/// Returns the number of keys of all databases.
fn count_keys(client: &mut Client) -> usize {
    let count = |database: &&[u8]| {
        client.call_until_ok(&[b"SELECT", database]);
        keys(client).len()
    };
    DATABASES.iter().map(count).sum()
}

/// Fails unless both servers have the same keys, values and expirations. Returns their number.
#[track_caller]
fn assert_same(ours: &mut Client, theirs: &mut Client) -> usize {
    let mut count = 0;
    for database in DATABASES {
        for client in [&mut *ours, &mut *theirs] {
            assert_eq!(client.call_until_ok(&[b"SELECT", database]), b"+OK\r\n");
        }
        count += assert_same_database(ours, theirs);
    }
    count
}

#[track_caller]
fn assert_same_database(ours: &mut Client, theirs: &mut Client) -> usize {
    let all = keys(theirs);
    let names = |keys: &[Vec<u8>]| keys.concat().escape_ascii().to_string();
    let found = keys(ours);
    assert!(found == all, "{} instead of {}", names(&found), names(&all));
    for key in &all {
        let (ours, theirs) = (value(ours, key), value(theirs, key));
        assert!(
            ours == theirs,
            "{}: {} instead of {}",
            key.escape_ascii(),
            ours.concat().escape_ascii(),
            theirs.concat().escape_ascii()
        );
    }
    all.len()
}

/// Starts a cluster, and waits until it accepts the commands of the newest version.
fn cluster(count: usize) -> Cluster {
    let cluster = Cluster::start(count, "auto");
    cluster.wait_for("the newest feature level", || {
        let mut client = Client::connect(cluster.address(0)).ok()?;
        let reply = client.call(&[b"DUMP", b"nonesuch"]).ok()?;
        (reply == b"$-1\r\n").then_some(())
    });
    cluster
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().unwrap().to_owned()
}

#[test]
fn redis_loads_an_exported_file_with_all_keys() {
    let cluster = cluster(3);
    let mut client = Client::connect(cluster.address(0)).unwrap();
    write_keys(&mut client, 300);
    client.call_until_ok(&[b"SET", b"expired", b"v", b"PX", b"1"]);
    let library = b"#!lua name=lib\nredis.register_function('f', function() return 7 end)";
    assert_eq!(client.call_until_ok(&[b"FUNCTION", b"LOAD", library]), b"$3\r\nlib\r\n");
    let folder = tempfile::tempdir().unwrap();
    let (file, other) = (path(folder.path(), "a.rdb"), path(folder.path(), "b.rdb"));
    let follower = (cluster.leader() + 1) % 3;
    let report = json(&admin(&cluster, follower, &["export", &file, "--json"]));
    assert_eq!(report["bytes"], fs::metadata(&file).unwrap().len());
    // An export of another replica at once has the same keys.
    let again = json(&admin(&cluster, cluster.leader(), &["export", &other, "--json"]));
    assert_eq!(again["keys"], report["keys"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_bowline"));
    command.args(["admin", "--addr", &format!("127.0.0.1:{}", cluster.ports[0]), "export", "-"]);
    command.stdout(fs::File::create(&other).unwrap());
    assert!(Cluster::run_to_end(command).status.success());
    assert!(fs::read(&other).unwrap().starts_with(b"REDIS0010"));
    let Some(redis) = Redis::start(Some(Path::new(&file)), &["--sanitize-dump-payload", "yes"])
    else {
        return;
    };
    let count = assert_same(&mut client, &mut redis.client());
    assert_eq!(report["keys"], count);
    assert_eq!(redis.client().call(&[b"FCALL", b"f", b"0"]).unwrap(), b":7\r\n");
    assert_eq!(client.call_until_ok(&[b"EXISTS", b"expired"]), b":0\r\n");
}

#[test]
fn cluster_imports_a_file_of_redis_and_a_running_one() {
    let Some(redis) = Redis::start(None, &[]) else { return };
    let mut source = redis.client();
    write_keys(&mut source, 300);
    // A value that is written in parts.
    let element = vec![b'x'; 1 << 20];
    for number in 0..20 {
        let element = [&element[..], &[number]].concat();
        source.call(&[b"RPUSH", b"list:in-parts", &element]).unwrap();
    }
    source.call(&[b"PEXPIREAT", b"list:in-parts", b"4000000000789"]).unwrap();
    let file = redis.save();
    let file = file.to_str().unwrap();
    let cluster = cluster(3);
    let mut client = Client::connect(cluster.address(1)).unwrap();
    client.call_until_ok(&[b"SADD", b"list", b"of another type"]);
    let wanted = count_keys(&mut source);
    for at in [0, 1] {
        // Repeating the import changes nothing.
        let report = json(&admin(&cluster, at, &["import", file, "--json"]));
        assert_eq!(report["keys"], wanted);
        assert_eq!(assert_same(&mut client, &mut source), wanted);
    }
    client.call_until_ok(&[b"FLUSHALL"]);
    let url = format!("redis://{}", redis.address);
    let report = json(&admin(&cluster, 2, &["import", &url, "--json"]));
    assert_eq!(report["keys"], wanted);
    assert_same(&mut client, &mut source);
}

/// Runs `bowline admin import -` with this input.
fn import_from_stdin(cluster: &Cluster, input: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bowline"));
    command.args(["admin", "--addr", &format!("127.0.0.1:{}", cluster.ports[0]), "import", "-"]);
    command.stdin(fs::File::open(input).unwrap()).stdout(Stdio::piped());
    Cluster::run_to_end(command)
}

#[test]
fn wrong_files_are_refused_before_any_key_is_imported() {
    let cluster = cluster(1);
    let mut client = Client::connect(cluster.address(0)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut writer = FileWriter::new(2, &[]);
    for key in [b"one", b"two"] {
        writer.key(key, None, |out| out.string_value(1, [&b"v"[..]].into_iter()));
    }
    let file = writer.finish();
    let end = file.len() - 9;
    let with = |more: &[u8]| [&file[..end], more].concat();
    for (bytes, message) in [
        (file[..end - 3].to_vec(), format!("is truncated at byte {}", end - 3)),
        (with(b"\xFF12345678"), format!("the checksum at byte {} is", end + 1)),
        (with(b"\x07\x01k\x81\x44\x97\x89\x4D\x6F\x8B\x11\x03"), format!("at byte {end}; modules")),
        (with(b"\xF6"), format!("unknown kind 246 at byte {end}")),
        (with(b"\x63\x01k"), format!("unknown type 99 at byte {end}")),
        (with(b"\xFE\x10\0\x01k\x01v"), "keys of database 16".to_owned()),
        (b"not a file".to_vec(), "is not an RDB file".to_owned()),
    ] {
        let path = folder.path().join("wrong.rdb");
        fs::write(&path, &bytes).unwrap();
        let output = admin(&cluster, 0, &["import", path.to_str().unwrap()]);
        assert_failed(&output, 65, &[&message, "nothing was imported"]);
        assert_eq!(client.call_until_ok(&[b"DBSIZE"]), b":0\r\n", "{message}");
        // From standard input, the keys before the mistake are there, which the message says.
        let output = import_from_stdin(&cluster, &path);
        assert_failed(&output, 1, &[&message, "keys before this were imported, and remain"]);
        client.call_until_ok(&[b"FLUSHALL"]);
    }
    let missing = admin(&cluster, 0, &["import", &path(folder.path(), "missing")]);
    assert_failed(&missing, 1, &["cannot open the file"]);
    let follow = admin(&cluster, 0, &["import", &path(folder.path(), "wrong.rdb"), "--follow"]);
    assert_failed(&follow, 1, &["--follow needs a running server"]);
}

#[test]
fn followed_writes_of_redis_are_applied_once_across_a_leader_change() {
    let Some(redis) = Redis::start(None, &[]) else { return };
    let mut source = redis.client();
    write_keys(&mut source, 20);
    let mut cluster = cluster(3);
    let leader = cluster.leader();
    let address = format!("127.0.0.1:{}", cluster.ports[(leader + 1) % 3]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_bowline"));
    command.args(["admin", "--addr", &address, "import", &format!("redis://{}", redis.address)]);
    let mut import = command.arg("--follow").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(import.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(first.contains("keys imported"), "{first}");
    for round in 0..600 {
        source.call(&[b"INCR", b"counter"]).unwrap();
        source.call(&[b"RPUSH", b"list", format!("{round}").as_bytes()]).unwrap();
        source.call(&[b"SPOP", b"set:large"]).unwrap();
        source.send(b"SELECT 3\r\nINCR counter\r\nMOVE counter 15\r\nSWAPDB 3 15\r\n").unwrap();
        for _ in 0..4 {
            source.reply().unwrap();
        }
        source.call(&[b"SELECT", b"0"]).unwrap();
        source.send(b"MULTI\r\nINCRBY counter 2\r\nSET transaction 1\r\nEXEC\r\n").unwrap();
        for _ in 0..4 {
            source.reply().unwrap();
        }
        if round == 300 {
            cluster.kill(leader);
        }
    }
    source.call(&[b"SET", b"last", b"1"]).unwrap();
    source.call(&[b"EVAL", b"redis.call('HSET', 'hash', 'script', 'effect')", b"0"]).unwrap();
    cluster.wait_for("all writes", || {
        let mut client = Client::connect(cluster.address((leader + 1) % 3)).ok()?;
        (client.call(&[b"HGET", b"hash", b"script"]).ok()? == b"$6\r\neffect\r\n").then_some(())
    });
    let mut client = Client::connect(cluster.address((leader + 2) % 3)).unwrap();
    assert_same(&mut client, &mut source);
    // The source knows how far its writes are applied.
    assert_eq!(source.call(&[b"WAIT", b"1", b"60000"]).unwrap(), b":1\r\n");
    let pid = import.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert!(import.wait().unwrap().success());
    let last = lines.last().unwrap().unwrap();
    assert!(last.contains("lag 0 bytes"), "{last}");
}

#[test]
fn redis_cli_saves_the_keys_of_any_replica_to_a_file() {
    let cluster = cluster(3);
    let mut client = Client::connect(cluster.address(0)).unwrap();
    write_keys(&mut client, 100);
    // More than one part of a snapshot.
    let value = vec![b'v'; 3 << 20];
    client.call_until_ok(&[b"SET", b"long:string", &value]);
    cluster.wait_until_states_are_equal();
    let folder = tempfile::tempdir().unwrap();
    for at in 0..3 {
        let file = path(folder.path(), &format!("{at}.rdb"));
        let port = cluster.ports[at].to_string();
        let mut command = Command::new("redis-cli");
        command.args(["-p", &port, "--rdb", &file]).stdout(Stdio::piped());
        let output = Cluster::run_to_end(command);
        assert!(output.status.success(), "{}", stderr(&output));
        let Some(redis) = Redis::start(Some(Path::new(&file)), &[]) else { return };
        assert_same(&mut client, &mut redis.client());
    }
    // After `PSYNC`, the file follows a line as from Redis, and the connection is closed.
    let mut replica = Client::connect(cluster.address(1)).unwrap();
    let refused = replica.call(&[b"PSYNC", b"?", b"-1"]).unwrap();
    assert!(refused.starts_with(b"-ERR no server can replicate"), "{}", refused.escape_ascii());
    assert!(replica.call(&[b"SYNC"]).unwrap().starts_with(b"-ERR send REPLCONF capa eof"));
    let options = [&b"REPLCONF"[..], b"capa", b"eof", b"capa", b"psync2", b"rdb-only", b"1"];
    assert_eq!(replica.call(&options).unwrap(), b"+OK\r\n");
    replica.send(b"PSYNC ? -1\r\n").unwrap();
    let mut received = Vec::new();
    replica.stream.read_to_end(&mut received).unwrap();
    assert!(received.starts_with(b"+FULLRESYNC "), "{}", received[..20].escape_ascii());
    let at = received.windows(5).position(|five| five == b"$EOF:").unwrap() + 5;
    assert_eq!(received[at..at + 40], received[received.len() - 40..]);
    assert!(received[at + 42..].starts_with(b"REDIS0010"));
}

#[test]
fn redis_migrates_keys_to_a_cluster() {
    let Some(redis) = Redis::start(None, &[]) else { return };
    let cluster = cluster(1);
    let (mut client, mut source) = (Client::connect(cluster.address(0)).unwrap(), redis.client());
    write_keys(&mut source, 10);
    let wanted: Vec<_> =
        keys(&mut source).into_iter().map(|key| (value(&mut source, &key), key)).collect();
    let port = cluster.ports[0].to_string();
    for (wanted, key) in wanted {
        let migrate = [&b"MIGRATE"[..], b"127.0.0.1", port.as_bytes(), &key, b"0", b"60000"];
        assert_eq!(source.call(&migrate).unwrap(), b"+OK\r\n", "{}", key.escape_ascii());
        // The TTL is sent as a remaining time.
        let found = value(&mut client, &key);
        assert_eq!((&found[0], &found[2..]), (&wanted[0], &wanted[2..]));
    }
    assert_eq!(source.call(&[b"DBSIZE"]).unwrap(), b":0\r\n");
}

#[test]
fn import_without_a_cluster_or_a_source_fails() {
    let port = free_port();
    let address = format!("redis://127.0.0.1:{port}");
    let output = crate::admin::admin_at(port, &["import", &address]);
    assert_failed(&output, 1, &["cannot connect to 127.0.0.1"]);
    assert!(!stderr(&output).contains("imported"));
}
