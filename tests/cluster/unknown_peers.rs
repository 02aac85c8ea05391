//! Connections to the peer port from senders that are not peers. They must be rejected and logged,
//! and do no harm.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use bytes::BytesMut;

use bowline::feature_level::FeatureLevel;
use bowline::types::NodeId;
use bowline::wire::frame::{self, Frame, Hello, Lane};
use bowline::wire::protocol::{ProtocolVersions, V10};

use crate::client::Client;
use crate::replicas::{CLUSTER, Cluster, TIMEOUT};

/// Sends bytes to a replica's peer port, and waits until the replica closes the connection.
fn call(cluster: &Cluster, at: usize, bytes: &[u8]) {
    let mut stream = TcpStream::connect(("127.0.0.1", cluster.peer_port(at))).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut rest = Vec::new();
    // Closed or reset: both end the connection.
    let ended = stream.read_to_end(&mut rest);
    assert!(ended.is_err() || rest.is_empty(), "{rest:?}");
}

/// Returns the hello of a foreign process that claims to be replica 2, addressed to replica 1.
fn hello_of_replica_2() -> Hello {
    Hello {
        cluster: u128::from_str_radix(CLUSTER, 16).unwrap(),
        from: NodeId(2),
        to: NodeId(1),
        // The running replica 2 has drawn another number.
        incarnation: 1,
        connection: 1,
        start_ids: vec![7],
        members: [1, 2, 3].map(NodeId).to_vec(),
        rejoining: false,
        lane: Lane::Bulk,
        client_address: "127.0.0.1:1".to_owned(),
        peer_address: String::new(),
        versions: ProtocolVersions::OWN,
        level: FeatureLevel::NEWEST,
        program: "0.2.0".to_owned(),
    }
}

fn greeting(hello: &Hello) -> BytesMut {
    let mut bytes = BytesMut::new();
    frame::encode_preamble(V10, &mut bytes);
    frame::encode(&Frame::Hello(hello.clone()), V10, &mut bytes);
    bytes
}

#[test]
fn unknown_peer_is_rejected_and_logged() {
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let mut client = Client::connect(cluster.address(0)).unwrap();
    assert_eq!(client.call(&[b"SET", b"kept", b"yes"]).unwrap(), b"+OK\r\n");
    let hello = hello_of_replica_2();
    let mut another_version = greeting(&hello);
    another_version[4] = 99;
    let mut mute = BytesMut::new();
    frame::encode_preamble(V10, &mut mute);
    frame::encode(&Frame::AskReadIndex { ticket: 1 }, V10, &mut mute);
    let with_9 = [1, 2, 9].map(NodeId).to_vec();
    let two = [1, 2].map(NodeId).to_vec();
    for (bytes, words) in [
        (greeting(&Hello { cluster: 7, ..hello.clone() }), "a peer of another cluster, 0000"),
        (another_version, "speaks version 99"),
        (
            greeting(&Hello { to: NodeId(3), ..hello.clone() }),
            "that expects replica 0003 at this address",
        ),
        (
            greeting(&Hello { from: NodeId(9), members: with_9, ..hello.clone() }),
            "replica 9 connected as a member of a cluster that was created with replicas 1, 2, 9",
        ),
        (
            greeting(&Hello { from: NodeId(1), ..hello.clone() }),
            "under the id 1 of this replica: two processes have the same",
        ),
        (
            greeting(&Hello { members: two, ..hello.clone() }),
            "created with replicas 1, 2, but this",
        ),
        (greeting(&Hello { incarnation: 9, ..hello.clone() }), "it lists 1 of 9 starts"),
        (greeting(&hello), "incarnation 1 has another list"),
        (mute, "another frame before its hello"),
    ] {
        // The hello may be accepted until the real replica with this id has connected.
        cluster.wait_for(words, || {
            call(&cluster, 0, &bytes);
            cluster.log(0).contains(words).then_some(())
        });
    }
    // Idle connections do not keep peers out: later connections replace them.
    let crowd: Vec<TcpStream> = (0..200)
        .map(|_| TcpStream::connect(("127.0.0.1", cluster.peer_port(0))).unwrap())
        .collect();
    for at in 0..3 {
        let mut client = Client::connect(cluster.address(at)).unwrap();
        assert_eq!(client.call(&[b"GET", b"kept"]).unwrap(), b"$3\r\nyes\r\n");
        assert_eq!(client.call(&[b"SET", b"more", b"1"]).unwrap(), b"+OK\r\n");
    }
    drop(crowd);
}

/// A member that announces that it is rejoining is accepted regardless of what its peers know of
/// its earlier starts. It replaces the running replica with the same id, which is rejected from
/// then on.
#[test]
fn rejoining_replica_disconnects_its_running_predecessor() {
    let cluster = Cluster::start_hasty(3, "auto", &[]);
    cluster.wait_until_all_serve();
    let hello = Hello { rejoining: true, ..hello_of_replica_2() };
    let mut stream = TcpStream::connect(("127.0.0.1", cluster.peer_port(0))).unwrap();
    stream.write_all(&greeting(&hello)).unwrap();
    let words = "replica 2 connected, but it was known as incarnation 1, and incarnation 1 has";
    cluster.wait_for(words, || cluster.log(0).contains(words).then_some(()));
    // The others continue without it.
    let mut client = Client::connect(cluster.address(2)).unwrap();
    assert_eq!(client.call_until_ok(&[b"SET", b"k", b"1"]), b"+OK\r\n");
}

/// All client requests whose replies could contain the cluster's id.
const QUESTIONS: &[&[&[u8]]] = &[
    &[b"INFO", b"everything"],
    &[b"CLUSTER", b"NODES"],
    &[b"CLUSTER", b"SHARDS"],
    &[b"CLUSTER", b"SLOTS"],
    &[b"CLUSTER", b"MYID"],
    &[b"CLUSTER", b"INFO"],
    &[b"CONFIG", b"GET", b"*"],
    &[b"SENTINEL", b"MASTERS"],
    &[b"SENTINEL", b"MYID"],
    &[b"ROLE"],
    &[b"CLIENT", b"LIST"],
];

#[test]
fn cluster_id_is_not_shown_to_clients() {
    let cluster = Cluster::start(1, "auto");
    cluster.wait_until_all_serve();
    let fingerprint: String = cluster.info(0, "raft_cluster_fingerprint");
    let id = u128::from_str_radix(CLUSTER, 16).unwrap();
    assert_eq!(fingerprint, format!("{:032x}", bowline::storage::cluster_fingerprint(id)));
    for question in QUESTIONS {
        let mut client = Client::connect(cluster.address(0)).unwrap();
        let reply = String::from_utf8_lossy(&client.call(question).unwrap()).to_lowercase();
        let words = String::from_utf8_lossy(question[0]).into_owned();
        // The id and its last digits, which are not zeros, in hexadecimal and decimal.
        for secret in [CLUSTER.to_owned(), format!("{id:x}"), id.to_string()] {
            assert!(!reply.contains(&secret), "{words} shows {secret}: {reply}");
        }
    }
}
