//! A replica that has just started knows only the users of its snapshot. Until a leader has
//! confirmed that its state is current, it serves no request that needs the users.

use std::thread;
use std::time::Duration;

use crate::client::{Client, command};
use crate::replicas::Cluster;

const NOAUTH: &[u8] = b"-NOAUTH Authentication required.\r\n";
/// Commands that give the user `default` a password, and create another user.
const USERS: [&[&[u8]]; 2] = [
    &[b"ACL", b"SETUSER", b"app", b"on", b">pass", b"+@all", b"~*", b"&*"],
    &[b"ACL", b"SETUSER", b"default", b">secret"],
];

/// Kills all replicas of a cluster whose clients need passwords, but whose settings have none, and
/// starts the first one.
fn start_one_of(cluster: &mut Cluster) {
    cluster.wait_until_all_serve();
    let mut admin = Client::connect(cluster.address(0)).unwrap();
    assert_eq!(admin.call_until_ok(&[b"SET", b"k", b"private"]), b"+OK\r\n");
    for request in USERS {
        assert_eq!(admin.call_until_ok(request), b"+OK\r\n");
    }
    for at in 0..cluster.ports.len() {
        cluster.wait_for("the users", || {
            let mut client = Client::connect(cluster.address(at)).ok()?;
            (client.call(&[b"GET", b"k"]).ok()? == NOAUTH).then_some(())
        });
    }
    (0..cluster.ports.len()).for_each(|at| cluster.kill(at));
    let command = cluster.command(0);
    cluster.start_as(0, command);
}

fn connect(cluster: &Cluster) -> Client {
    cluster.wait_for("the port", || Client::connect(cluster.address(0)).ok())
}

#[test]
fn replica_without_a_leader_serves_nothing_that_needs_the_users() {
    let mut cluster = Cluster::start_hasty(3, "auto", &[]);
    start_one_of(&mut cluster);
    let mut early = connect(&cluster);
    assert_eq!(early.call(&[b"PING"]).unwrap(), b"+PONG\r\n");
    let requests: [&[&[u8]]; 12] = [
        &[b"GET", b"k"],
        &[b"SET", b"k", b"forged"],
        &[b"READONLY", b"MAXLAG", b"60000"],
        &[b"SUBSCRIBE", b"c"],
        &[b"CONFIG", b"SET", b"maxclients", b"2"],
        &[b"CONFIG", b"GET", b"*"],
        &[b"CLIENT", b"LIST"],
        &[b"CLIENT", b"KILL", b"TYPE", b"normal"],
        &[b"ACL", b"LIST"],
        &[b"KEYS", b"*"],
        &[b"MULTI"],
        &[b"SNAPSHOT", b"OPEN"],
    ];
    // All at once, because each request waits for some time.
    let mut clients: Vec<Client> = requests.iter().map(|_| connect(&cluster)).collect();
    for (client, request) in clients.iter_mut().zip(requests) {
        client.send(&command(request)).unwrap();
    }
    for (client, request) in clients.iter_mut().zip(requests) {
        let reply = String::from_utf8(client.reply().unwrap()).unwrap();
        assert!(reply.starts_with("-LOADING this replica has just started"), "{reply}");
        // A further request does not wait again.
        let reply = client.call(request).unwrap();
        assert!(reply.starts_with(b"-LOADING "), "{}", String::from_utf8_lossy(&reply));
    }
    // The state of the replica can be inspected.
    assert!(early.call(&[b"ROLE"]).unwrap().starts_with(b"*5\r\n$5\r\nslave"));
    assert!(early.call(&[b"INFO", b"raft"]).unwrap().starts_with(b"$"));

    cluster.restart();
    for client in clients.iter_mut().chain([&mut early]) {
        // Earlier connections do not stay logged in.
        cluster.wait_for("the users", || {
            let reply = client.call(&[b"GET", b"k"]).unwrap();
            assert!(reply == NOAUTH || reply.starts_with(b"-LOADING "), "{reply:?}");
            (reply == NOAUTH).then_some(())
        });
    }
    assert_eq!(clients[0].call(&[b"AUTH", b"app", b"pass"]).unwrap(), b"+OK\r\n");
    assert_eq!(clients[0].call_until_ok(&[b"GET", b"k"]), b"$7\r\nprivate\r\n");
}

#[test]
fn requests_after_the_start_wait_for_the_current_users() {
    let mut cluster = Cluster::start(3, "auto");
    start_one_of(&mut cluster);
    let (mut stranger, mut user) = (connect(&cluster), connect(&cluster));
    stranger.send(&command(&[b"GET", b"k"])).unwrap();
    user.send(&command(&[b"AUTH", b"app", b"pass"])).unwrap();
    user.send(&command(&[b"GET", b"k"])).unwrap();
    // The requests have arrived before there is a leader.
    thread::sleep(Duration::from_millis(100));
    cluster.restart();
    assert_eq!(stranger.reply().unwrap(), NOAUTH);
    assert_eq!(user.reply().unwrap(), b"+OK\r\n");
    assert_eq!(user.reply().unwrap(), b"$7\r\nprivate\r\n");
}
