//! Who calls at the door for peers and is none: refused, told in the log, and without harm.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use bytes::BytesMut;

use bowline::types::NodeId;
use bowline::wire::frame::{self, Frame, Hello, Lane};

use crate::client::Client;
use crate::replicas::{Cluster, PATIENCE};

/// Calls at a replica's door for peers and waits until it is shut.
fn call(cluster: &Cluster, at: usize, bytes: &[u8]) {
    let mut stream = TcpStream::connect(("127.0.0.1", cluster.peer_port(at))).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut rest = Vec::new();
    // Ended in order or reset: either way it is over.
    let ended = stream.read_to_end(&mut rest);
    assert!(ended.is_err() || rest.is_empty(), "{rest:?}");
}

fn greeting(hello: &Hello) -> BytesMut {
    let mut bytes = BytesMut::new();
    frame::encode_preamble(&mut bytes);
    frame::encode(&Frame::Hello(hello.clone()), &mut bytes);
    bytes
}

#[test]
fn whoever_is_no_peer_is_refused_with_a_word_in_the_log_and_harms_nobody() {
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let mut client = Client::connect(cluster.address(0)).unwrap();
    assert_eq!(client.call(&[b"SET", b"kept", b"yes"]).unwrap(), b"+OK\r\n");
    let hello = Hello {
        cluster: u128::from_str_radix(&cluster.info::<String>(0, "raft_cluster_id"), 16).unwrap(),
        from: NodeId(2),
        to: NodeId(1),
        // The living one has a higher number.
        incarnation: 0,
        openings: vec![],
        lane: Lane::Bulk,
        client_address: "127.0.0.1:1".to_owned(),
    };
    let mut another_version = greeting(&hello);
    another_version[4] = 99;
    let mut mute = BytesMut::new();
    frame::encode_preamble(&mut mute);
    frame::encode(&Frame::AskReadIndex { ticket: 1 }, &mut mute);
    for (bytes, words) in [
        (greeting(&Hello { cluster: 7, ..hello.clone() }), "a peer of cluster 0000"),
        (another_version, "speaks version 99"),
        (greeting(&Hello { to: NodeId(3), ..hello.clone() }), "wanted to talk to replica"),
        (greeting(&Hello { from: NodeId(9), ..hello.clone() }), "not among --peers"),
        (greeting(&Hello { from: NodeId(1), ..hello.clone() }), "not among --peers"),
        (greeting(&hello), "is not the one that was here"),
        (mute, "before it said who it is"),
    ] {
        // Until the replica that the stranger says it is has called itself, it may be believed.
        cluster.wait_for(words, || {
            call(&cluster, 0, &bytes);
            cluster.log(0).contains(words).then_some(())
        });
    }
    // A crowd that says nothing does not keep peers out: those that come later take its place.
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
