//! Pub/Sub, keyspace notifications, Sentinel commands and CLIENT REPLY with real processes.

use std::io;
use std::thread;
use std::time::Instant;

use crate::client::Client;
use crate::replicas::{Cluster, TIMEOUT};

/// Returns the elements of an array of bulk strings, which is the form of a message to a
/// subscriber.
fn words(reply: &[u8]) -> Vec<String> {
    let lines = reply.split(|byte| *byte == b'\n').skip(1);
    let texts = lines.filter(|line| !line.is_empty() && !line.starts_with(b"$"));
    texts.map(|line| String::from_utf8_lossy(line).trim_end().to_owned()).collect()
}

fn listen(cluster: &Cluster, at: usize, words: &[&[u8]]) -> Client {
    let mut client = Client::connect(cluster.address(at)).unwrap();
    let count = words.len() - 1;
    client.call(words).unwrap();
    for _ in 1..count {
        client.reply().unwrap();
    }
    client
}

/// Returns the payloads of the next `count` messages, in order.
fn receive(client: &mut Client, count: usize) -> io::Result<Vec<String>> {
    (0..count).map(|_| Ok(words(&client.reply()?).pop().unwrap_or_default())).collect()
}

/// Two clients publish concurrently on two replicas, and all subscribers on all replicas get the
/// same messages in the same order. Then the leader is killed, and subscribers of the other
/// replicas stay subscribed.
fn subscribers_get_equal_messages(threads: &'static str) {
    let mut cluster = Cluster::start(3, threads);
    cluster.wait_until_all_serve();
    let mut listeners: Vec<Client> =
        (0..3).map(|at| listen(&cluster, at, &[b"SUBSCRIBE", b"news", b"other"])).collect();
    let publish = |at: usize, name: &str, count: usize| {
        let mut client = Client::connect(cluster.address(at)).unwrap();
        for number in 0..count {
            let text = format!("{name}{number}");
            let reply = client.call(&[b"PUBLISH", b"news", text.as_bytes()]).unwrap();
            assert_eq!(reply, b":1\r\n", "one listens at each replica");
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| publish(0, "a", 50));
        scope.spawn(|| publish(1, "b", 50));
    });
    let received: Vec<Vec<String>> =
        listeners.iter_mut().map(|listener| receive(listener, 100).unwrap()).collect();
    assert_eq!(received[0], received[1]);
    assert_eq!(received[0], received[2]);
    for name in ["a", "b"] {
        let of_one: Vec<&String> =
            received[0].iter().filter(|text| text.starts_with(name)).collect();
        let wanted: Vec<String> = (0..50).map(|number| format!("{name}{number}")).collect();
        assert!(of_one.into_iter().eq(&wanted), "{name} out of order");
    }

    let others_of = |leader: usize| (0..3).filter(move |at| *at != leader);
    let mut watchers: Vec<Client> =
        (0..3).map(|at| listen(&cluster, at, &[b"SUBSCRIBE", b"+switch-master"])).collect();
    let leader = cluster.wait_for("one leader that all name", || {
        let leader = cluster.leader();
        let port = Some(cluster.ports[leader].to_string());
        others_of(leader).all(|at| master(&cluster, at) == port).then_some(leader)
    });
    let others: Vec<usize> = others_of(leader).collect();
    cluster.kill(leader);
    for at in &others {
        follow(&cluster, *at, &mut watchers[*at], leader);
    }
    let mut client = Client::connect(cluster.address(others[1])).unwrap();
    assert_eq!(client.call(&[b"PUBLISH", b"other", b"after"]).unwrap(), b":1\r\n");
    for at in others {
        assert_eq!(receive(&mut listeners[at], 1).unwrap(), ["after"]);
    }
}

/// Reads leader changes from `watcher` until the reported leader is the one that the replica `at`
/// names: a busy machine may elect more than one.
fn follow(cluster: &Cluster, at: usize, watcher: &mut Client, leader: usize) {
    let mut named = cluster.ports[leader].to_string();
    let mut received = false;
    let began = Instant::now();
    while !received || master(cluster, at) != Some(named.clone()) {
        assert!(began.elapsed() < TIMEOUT, "{named} was received of, and another is named");
        let asked = master(cluster, at);
        if received && (asked.is_none() || asked.as_ref() == Some(&named)) {
            continue;
        }
        // Subscribers are notified no later than a Sentinel query shows the new leader.
        let news = receive(watcher, 1).unwrap().remove(0);
        let told: Vec<&str> = news.split(' ').collect();
        assert_eq!(told[..2], ["mymaster", "127.0.0.1"], "{news}");
        // There may have been elections before all replicas named the same leader.
        if told[2] == named {
            (named, received) = (told[4].to_owned(), true);
        } else {
            assert!(!received, "{named} led before, and now: {news}");
        }
    }
}

/// Returns the port of the leader, according to a Sentinel query to a replica.
fn master(cluster: &Cluster, at: usize) -> Option<String> {
    let mut client = Client::connect(cluster.address(at)).unwrap();
    let ask: &[&[u8]] = &[b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", b"mymaster"];
    words(&client.call(ask).unwrap()).into_iter().nth(1)
}

#[test]
fn subscribers_get_messages_in_one_order_with_thread_per_stage() {
    subscribers_get_equal_messages("dedicated");
}

#[test]
fn subscribers_get_messages_in_one_order_with_shared_stage_thread() {
    subscribers_get_equal_messages("fused");
}

/// Keyspace notifications, including those of expirations, reach subscribers on every replica.
#[test]
fn key_expirations_are_notified_on_every_replica() {
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let setting: &[&[u8]] = &[b"CONFIG", b"SET", b"notify-keyspace-events", b"K$x"];
    let mut listeners: Vec<Client> = (0..3)
        .map(|at| {
            let mut client = Client::connect(cluster.address(at)).unwrap();
            assert_eq!(client.call(setting).unwrap(), b"+OK\r\n");
            client.call(&[b"SUBSCRIBE", b"__keyspace@0__:k"]).unwrap();
            client
        })
        .collect();
    let mut client = Client::connect(cluster.address(0)).unwrap();
    client.call(&[b"SET", b"k", b"v", b"PX", b"20"]).unwrap();
    client.call(&[b"HSET", b"h", b"f", b"v"]).unwrap();
    for listener in &mut listeners {
        assert_eq!(receive(listener, 2).unwrap(), ["set", "expired"]);
    }
    assert_eq!(client.call(&[b"GET", b"k"]).unwrap(), b"$-1\r\n");
}

/// A subscriber that does not read its messages is disconnected, without affecting other clients.
#[test]
fn pubsub_subscriber_that_does_not_read_is_disconnected() {
    let cluster = Cluster::start(1, "auto");
    cluster.wait_until_all_serve();
    let mut silent_reader = listen(&cluster, 0, &[b"SUBSCRIBE", b"news"]);
    let mut client = Client::connect(cluster.address(0)).unwrap();
    let message = vec![b'x'; 1 << 20];
    // Its limit for unread messages is far below 1 GiB.
    let received = |_: &i32| client.call(&[b"PUBLISH", b"news", &message]).unwrap() == b":1\r\n";
    assert!((0..1_000).take_while(received).count() < 1_000, "it still listens");
    // The messages in flight arrive, and then the end of the connection.
    let end = (0..1_000).find_map(|_| silent_reader.reply().err());
    assert!(end.is_some(), "it continues");
    assert_eq!(client.call(&[b"PUBLISH", b"news", b"again"]).unwrap(), b":0\r\n");
}

/// CLIENT REPLY OFF and SKIP suppress the replies to commands of all kinds, on each replica, and no
/// other replies.
#[test]
fn client_reply_off_and_skip_suppress_replies() {
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    for at in 0..3 {
        // An election on a busy machine may cost one of the writes in the middle.
        cluster.wait_for("all of it in one term", || {
            let term = cluster.term();
            let sum = mostly_silent(&cluster, at);
            let done = sum == b"$1\r\n3\r\n";
            assert!(done || cluster.term() > term, "{}", sum.escape_ascii());
            done.then_some(())
        });
    }
}

/// Increments a counter with suppressed replies, and returns the counter's value. All other replies
/// must arrive.
fn mostly_silent(cluster: &Cluster, at: usize) -> Vec<u8> {
    let mut client = Client::connect(cluster.address(at)).unwrap();
    let lines = "CLIENT REPLY OFF\r\nSET a 1\r\nINCR a\r\nGET a\r\nNONESUCH\r\nPING\r\n\
                 CLIENT REPLY ON\r\nCLIENT REPLY SKIP\r\nINCR a\r\nGET a\r\n\
                 CLIENT REPLY SKIP\r\nPING\r\nCLIENT REPLY NO\r\n";
    client.send(lines.as_bytes()).unwrap();
    assert_eq!(client.reply().unwrap(), b"+OK\r\n");
    let sum = client.reply().unwrap();
    assert_eq!(client.reply().unwrap(), b"-ERR syntax error\r\n");
    sum
}
