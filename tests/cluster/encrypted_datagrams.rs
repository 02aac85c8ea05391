//! Datagrams between replicas that use certificates: over relays that lose some of them, and that
//! an attacker has recorded.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::Ordering;

use bowline::wire::datagram::{self, Datagram, StreamId};

use crate::client::Client;
use crate::datagrams::{Relays, forward_tcp, reply_of};
use crate::kill_rounds;
use crate::replicas::{Cluster, free_port};

/// Starts three replicas with certificates, and relays between them that lose datagrams.
fn between_relays(threads: &'static str, loss: u32) -> (Cluster, Relays) {
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let relays = Relays::new(&ports, loss);
    for row in &relays.ports {
        for (port, target) in row.iter().zip(&ports) {
            forward_tcp(*port, *target);
        }
    }
    let port = |from: usize, to: usize| relays.ports[from][to];
    (Cluster::start_secure_between(ports, threads, port), relays)
}

/// Waits until a replica has datagram streams to both peers.
fn wait_for_streams(cluster: &Cluster, at: usize) {
    cluster.wait_for("the paths to both peers", || {
        let mut client = Client::connect(cluster.address(at)).ok()?;
        let text = String::from_utf8(client.call(&[b"INFO", b"raft"]).ok()?).ok()?;
        (text.matches("raft_path_").count() == 2).then_some(())
    });
}

#[test]
fn writes_survive_kills_over_lossy_encrypted_datagrams() {
    kill_rounds(between_relays("auto", 200).0, "encrypted datagrams");
}

#[test]
fn recorded_and_plain_datagrams_have_no_effect_on_a_secure_cluster() {
    let (mut cluster, relays) = between_relays("auto", 0);
    cluster.wait_until_all_serve();
    (0..3).for_each(|at| wait_for_streams(&cluster, at));
    let leader = cluster.leader();
    let mut client = Client::connect(cluster.address(leader)).unwrap();
    let mut sum = 0;
    let mut increment = |client: &mut Client| {
        sum += 1;
        assert_eq!(client.call(&[b"INCR", b"secret sum"]).unwrap(), reply_of(sum));
    };
    // Log entries become datagrams, too.
    relays.loss.store(200, Ordering::Relaxed);
    let changed = |at| cluster.log(at).matches("log entries to a peer switched").count();
    cluster.wait_for("entries as datagrams to both peers", || {
        increment(&mut client);
        (changed(leader) == 2).then_some(())
    });
    (0..100).for_each(|_| increment(&mut client));
    relays.loss.store(0, Ordering::Relaxed);
    let recorded = relays.seen.lock().clone();
    assert!(recorded.len() > 100, "{} datagrams were seen", recorded.len());
    let secret = b"secret";
    for bytes in &recorded {
        assert!(datagram::decode(bytes).is_err(), "a plain datagram");
        assert!(!bytes.windows(secret.len()).any(|window| window == secret), "in the clear");
    }
    let [attacker, stranger] = [0, 0].map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let mut plain = Vec::new();
    datagram::encode(&Datagram::Open(StreamId { stream: 7, cookie: 0 }), &mut plain);
    for at in 0..3 {
        let target = (Ipv4Addr::LOCALHOST, cluster.peer_port(at));
        for bytes in &recorded {
            let mut changed = bytes.clone();
            // A counter that has not been used.
            changed[14] ^= 1;
            for bytes in [bytes, &changed] {
                let _ = attacker.send_to(bytes, target);
            }
            let _ = stranger.send_to(&plain, target);
        }
        (0..20).for_each(|_| increment(&mut client));
    }
    stranger.set_nonblocking(true).unwrap();
    assert!(stranger.recv(&mut [0; 2_000]).is_err(), "a plain datagram got an answer");
    assert!(!cluster.logs().contains("connection to a peer lost"), "{}", cluster.logs());
    // A replica that was restarted gets new keys.
    let follower = (leader + 1) % 3;
    cluster.kill(follower);
    cluster.restart();
    cluster.wait_until_all_serve();
    (0..3).for_each(|at| wait_for_streams(&cluster, at));
    (0..20).for_each(|_| increment(&mut client));
}
