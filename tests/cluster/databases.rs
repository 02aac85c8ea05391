//! The databases of Redis on a cluster of server processes: each has its keys on every replica,
//! after SIGKILL, after a leader change and in snapshots; `SWAPDB` is applied once.

use std::time::{Duration, Instant};

use crate::client::Client;
use crate::replicas::Cluster;

/// Connects to a replica, and selects a database as soon as the cluster knows databases.
fn connect(cluster: &Cluster, at: usize, database: u8) -> Client {
    let mut client = Client::connect(cluster.address(at)).unwrap();
    client.reply_until(&format!("SELECT {database}"), "+OK\r\n");
    client
}

/// Sends a line of words.
fn ask(client: &mut Client, line: &str) -> String {
    let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    String::from_utf8(client.call(&words).unwrap()).unwrap()
}

trait Patient {
    /// Sends a line of words until it gets this reply.
    fn reply_until(&mut self, line: &str, wanted: &str);
}

impl Patient for Client {
    fn reply_until(&mut self, line: &str, wanted: &str) {
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            let reply = ask(self, line);
            if reply == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "{line}: {reply}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Reads the next reply or message.
fn read(client: &mut Client) -> String {
    String::from_utf8(client.reply().unwrap()).expect("text")
}

/// Waits until this number of clients of a replica are blocked.
fn wait_for_blocked(cluster: &Cluster, at: usize, count: usize) {
    cluster.wait_for("blocked clients", || {
        let mut client = Client::connect(cluster.address(at)).ok()?;
        let info = ask(&mut client, "INFO clients");
        info.contains(&format!("\nblocked_clients:{count}\r")).then_some(())
    });
}

#[test]
fn databases_survive_sigkill_and_a_change_of_the_leader() {
    let flags = &["--snapshot-log-bytes", "64kb"];
    let mut cluster = Cluster::start_with(3, "auto", flags);
    cluster.wait_until_all_serve();
    for database in [0, 3, 15] {
        let mut client = connect(&cluster, usize::from(database % 3), database);
        let value = format!("in {database}").replace(' ', "_");
        assert_eq!(ask(&mut client, &format!("SET k {value}")), "+OK\r\n");
        assert_eq!(ask(&mut client, &format!("SET only:{database} {value} EX 1000")), "+OK\r\n");
    }
    let mut client = connect(&cluster, 1, 9);
    assert_eq!(ask(&mut client, "SWAPDB 3 4"), "+OK\r\n", "database 3 is empty now");
    let check = |cluster: &Cluster| {
        for at in 0..3 {
            for (database, value) in
                [(0, Some("in_0")), (3, None), (4, Some("in_3")), (15, Some("in_15"))]
            {
                let mut client = connect(cluster, at, database);
                let wanted = value.map_or("$-1\r\n".to_owned(), |value| {
                    format!("${}\r\n{value}\r\n", value.len())
                });
                client.reply_until("GET k", &wanted);
                // Database 0 also has a key that the test's helpers write.
                let counts = if value.is_some() { [":2\r\n", ":3\r\n"] } else { [":0\r\n"; 2] };
                client.reply_until("DBSIZE", counts[usize::from(database == 0)]);
            }
            let mut client = Client::connect(cluster.address(at)).unwrap();
            let info = ask(&mut client, "INFO keyspace");
            for line in ["db0:keys=", "db4:keys=2,expires=1,", "db15:keys=2,expires=1,"] {
                assert!(info.contains(line), "replica {at}: {info}");
            }
            assert!(!info.contains("db3:"), "{info}");
        }
        cluster.wait_until_states_are_equal();
    };
    check(&cluster);
    let leader = cluster.leader();
    cluster.kill(leader);
    cluster.wait_for("another leader", || cluster.leader_but(leader));
    // So much that the replica that is down needs a snapshot.
    let other = (leader + 1) % 3;
    let before: u64 = cluster.info(other, "raft_applied_index");
    let mut client = connect(&cluster, other, 0);
    let value = "v".repeat(16 << 10);
    for number in 0..40 {
        client.reply_until(&format!("SET bulk:{} {value}", number % 4), "+OK\r\n");
    }
    client.reply_until("DEL bulk:0 bulk:1 bulk:2 bulk:3", ":4\r\n");
    let survivor = cluster.leader_but(leader).unwrap();
    cluster.wait_for("compaction", || {
        (cluster.info::<u64>(survivor, "raft_first_index") > before + 1).then_some(())
    });
    cluster.restart();
    cluster.wait_until_all_serve();
    check(&cluster);
    for at in 0..3 {
        cluster.kill(at);
    }
    cluster.restart();
    cluster.wait_until_all_serve();
    check(&cluster);
    let mut client = connect(&cluster, 2, 15);
    assert_eq!(ask(&mut client, "FLUSHDB"), "+OK\r\n");
    assert_eq!(ask(&mut client, "SWAPDB 15 3"), "+OK\r\n");
    assert_eq!(ask(&mut client, "SELECT 4"), "+OK\r\n");
    assert_eq!(ask(&mut client, "DBSIZE"), ":2\r\n");
    cluster.wait_until_states_are_equal();
}

#[test]
fn waits_and_notifications_are_those_of_the_database() {
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let follower = (cluster.leader() + 1) % 3;
    let mut subscriber = Client::connect(cluster.address(follower)).unwrap();
    assert_eq!(ask(&mut subscriber, "CONFIG SET notify-keyspace-events KEA"), "+OK\r\n");
    // Other keys may still change: those that were written to see whether all replicas serve.
    ask(&mut subscriber, "PSUBSCRIBE __keyspace@*__:l __keyevent@*__:rpush");
    read(&mut subscriber);
    let mut waiting = [0, 2, 5].map(|database| connect(&cluster, follower, database));
    for client in &mut waiting {
        client.send(b"BLPOP l 0\r\n").unwrap();
    }
    wait_for_blocked(&cluster, follower, 3);
    let mut writer = connect(&cluster, cluster.leader(), 2);
    assert_eq!(ask(&mut writer, "RPUSH l two"), ":1\r\n");
    assert_eq!(read(&mut waiting[1]), "*2\r\n$1\r\nl\r\n$3\r\ntwo\r\n");
    wait_for_blocked(&cluster, follower, 2);
    let channel = read(&mut subscriber);
    assert!(channel.contains("__keyspace@2__:l\r\n$5\r\nrpush\r\n"), "{channel}");
    let channel = read(&mut subscriber);
    assert!(channel.contains("__keyevent@2__:rpush\r\n$1\r\nl\r\n"), "{channel}");
    // A key that is moved, and databases that are exchanged, end waits as well.
    assert_eq!(ask(&mut writer, "RPUSH l moved"), ":1\r\n");
    assert_eq!(ask(&mut writer, "MOVE l 5"), ":1\r\n");
    assert_eq!(read(&mut waiting[2]), "*2\r\n$1\r\nl\r\n$5\r\nmoved\r\n");
    assert_eq!(ask(&mut writer, "RPUSH l swapped"), ":1\r\n");
    assert_eq!(ask(&mut writer, "SWAPDB 0 2"), "+OK\r\n");
    assert_eq!(read(&mut waiting[0]), "*2\r\n$1\r\nl\r\n$7\r\nswapped\r\n");
}

#[test]
fn monitor_and_client_list_show_the_database() {
    let cluster = Cluster::start(1, "auto");
    cluster.wait_until_all_serve();
    let mut monitor = Client::connect(cluster.address(0)).unwrap();
    let mut client = connect(&cluster, 0, 11);
    assert_eq!(ask(&mut monitor, "MONITOR"), "+OK\r\n");
    assert!(ask(&mut client, "CLIENT INFO").contains(" db=11 "));
    let line = read(&mut monitor);
    assert!(line.contains(" [11 127.0.0.1:"), "{line}");
    assert_eq!(ask(&mut client, "RESET"), "+RESET\r\n");
    assert!(ask(&mut client, "CLIENT LIST").contains(" db=0 "));
    assert!(ask(&mut client, "CONFIG GET databases").contains("$2\r\n16\r\n"));
}

#[test]
fn client_caches_forget_a_key_whatever_its_database() {
    let cluster = Cluster::start(1, "auto");
    cluster.wait_until_all_serve();
    let mut caching = connect(&cluster, 0, 1);
    ask(&mut caching, "HELLO 3");
    assert_eq!(ask(&mut caching, "CLIENT TRACKING ON"), "+OK\r\n");
    assert_eq!(ask(&mut caching, "GET k"), "_\r\n");
    let mut writer = connect(&cluster, 0, 2);
    assert_eq!(ask(&mut writer, "SET k v"), "+OK\r\n");
    let invalidation = read(&mut caching);
    assert!(invalidation.contains("invalidate") && invalidation.contains("$1\r\nk\r\n"));
    assert_eq!(ask(&mut caching, "GET k"), "_\r\n");
    assert_eq!(ask(&mut writer, "SWAPDB 1 2"), "+OK\r\n");
    let invalidation = read(&mut caching);
    assert!(invalidation.contains("invalidate") && invalidation.ends_with("_\r\n"));
}
