//! The `redis` crate against a cluster, unmodified: both protocol versions, pipelines, the cluster
//! client, and the Sentinel client. Arguments: the replicas' ports. Panics at the first unexpected
//! reply.

use redis::cluster::ClusterClient;
use redis::sentinel::{SentinelClient, SentinelServerType};
use redis::{
    Client, Commands as _, ConnectionLike as _, ErrorKind, RedisResult, ServerErrorKind, Value,
};

fn main() {
    let ports: Vec<String> = std::env::args().skip(1).collect();
    for port in &ports {
        plain(port);
        cluster(port);
        databases(port);
    }
    if !ports.is_empty() {
        sentinel(&ports);
    }
    println!("the redis crate is content");
}

/// Tests a plain connection to one replica, which may be the leader or a follower.
fn plain(port: &str) {
    for version in ["resp2", "resp3"] {
        let client = Client::open(format!("redis://127.0.0.1:{port}/?protocol={version}"));
        let mut connection = client.and_then(|client| client.get_connection()).expect("it listens");
        let key = format!("crate:{port}:{version}");
        let number = format!("{key}:n");
        let () = connection.del(&[&key, &number]).expect("a number");
        let absent: Option<Vec<u8>> = connection.get(&key).expect("null");
        assert_eq!(absent, None);
        let () = connection.set(&key, &b"\0\xFF\r\n"[..]).expect("OK");
        let value: Vec<u8> = connection.get(&key).expect("what was set");
        assert_eq!(value, b"\0\xFF\r\n");
        let was_set: bool = connection.set_nx(&key, 1).expect("0");
        assert!(!was_set);
        let sum: i64 = connection.incr(&number, 42).expect("a sum");
        assert_eq!(sum, 42);
        let refused: RedisResult<i64> = connection.incr(&key, 1);
        let refused = refused.expect_err("it holds no number");
        assert_eq!(refused.kind(), ErrorKind::Server(ServerErrorKind::ResponseError));
        let mut pipeline = redis::pipe();
        for _ in 0..100 {
            pipeline.incr(&number, 1).get(&number);
        }
        let replies: Vec<i64> = pipeline.query(&mut connection).expect("all of them");
        let wanted: Vec<i64> = (43..143).flat_map(|sum| [sum, sum]).collect();
        assert_eq!(replies, wanted);
        let both: (i64, i64) = redis::pipe()
            .atomic()
            .incr(&number, 1)
            .incr(&number, 1)
            .query(&mut connection)
            .expect("both sums");
        assert_eq!(both, (143, 144));
        let role: Vec<Value> = redis::cmd("ROLE").query(&mut connection).expect("a list");
        assert!(!role.is_empty());
    }
}

/// Tests the cluster client, which is given one replica and finds the leader.
fn cluster(port: &str) {
    let client = ClusterClient::new([format!("redis://127.0.0.1:{port}/")]).expect("an address");
    let mut connection = client.get_connection().expect("it listens");
    for number in 0..50 {
        let key = format!("crate:cluster:{number}");
        let () = connection.set(&key, number).expect("OK");
        let value: i64 = connection.get(&key).expect("what was set");
        assert_eq!(value, number);
    }
}

/// Tests that each database has its own keys.
fn databases(port: &str) {
    for number in [1_i64, 15] {
        let client = Client::open(format!("redis://127.0.0.1:{port}/{number}"));
        let mut connection = client.and_then(|client| client.get_connection()).expect("it listens");
        let () = connection.set("crate:db", number).expect("OK");
        let value: i64 = connection.get("crate:db").expect("what was set");
        assert_eq!((value, connection.get_db()), (number, number));
    }
    let client = Client::open(format!("redis://127.0.0.1:{port}/")).expect("an address");
    let mut connection = client.get_connection().expect("it listens");
    let absent: Option<i64> = connection.get("crate:db").expect("null");
    assert_eq!(absent, None);
}

/// Tests the Sentinel client, which asks the replicas for the leader on their Sentinel ports.
fn sentinel(ports: &[String]) {
    let offset = std::env::var("SENTINEL_PORT_OFFSET").expect("where Sentinels are");
    let offset: u16 = offset.parse().expect("a number");
    for kind in [SentinelServerType::Master, SentinelServerType::Replica] {
        let asked = ports.iter().map(|port| {
            let port: u16 = port.parse().expect("a port");
            format!("redis://127.0.0.1:{}/", port + offset)
        });
        let asked = asked.collect();
        let client = SentinelClient::build(asked, "mymaster".to_owned(), None, kind);
        let mut client = client.expect("addresses");
        let mut connection = client.get_connection().expect("a leader");
        let () = connection.set("crate:sentinel", 7).expect("OK");
        let value: i64 = connection.get("crate:sentinel").expect("what was set");
        assert_eq!(value, 7);
    }
}
