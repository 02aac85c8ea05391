//! A cluster whose disks hold a forged term from before terms were bounded.

use bowline::raft::HardState;
use bowline::storage::{Log, LogOptions, RealDisk};
use bowline::types::{NodeId, Term};

use super::client::Client;
use super::replicas::Cluster;

/// Highest term that earlier versions accepted from a peer. In the term after it, no replica could
/// be elected.
const FORGED: Term = Term((1 << 62) - 1);

#[test]
fn cluster_with_a_forged_high_term_on_disk_elects_a_leader() {
    let mut cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let mut client = Client::connect(cluster.address(0)).unwrap();
    assert_eq!(client.call_until_ok(&[b"SET", b"before", b"1"]), b"+OK\r\n");
    for at in 0..3 {
        cluster.kill(at);
    }
    for at in 0..3 {
        let disk = RealDisk::open(&cluster.replica_folder(at)).unwrap();
        let replica = NodeId(u16::try_from(at).unwrap() + 1);
        let (mut log, durable, _) =
            Log::open(disk, None, replica, LogOptions::default(), None).unwrap();
        assert!(durable.hard_state.term > Term(0));
        let hard_state = HardState { term: FORGED, voted_for: None };
        log.append(Some(hard_state), &[]).unwrap();
        log.sync().unwrap();
    }
    cluster.restart();
    cluster.wait_until_all_serve();
    assert!(cluster.term() > FORGED.0, "{}", cluster.term());
    let mut client = Client::connect(cluster.address(1)).unwrap();
    assert_eq!(client.call_until_ok(&[b"GET", b"before"]), b"$1\r\n1\r\n");
    assert_eq!(client.call_until_ok(&[b"SET", b"after", b"2"]), b"+OK\r\n");
    for at in 0..3 {
        assert_eq!(cluster.info::<u64>(at, "raft_terms_rejected"), 0, "at replica {}", at + 1);
        assert_eq!(cluster.info::<u64>(at, "raft_conflicts_rejected"), 0);
    }
}
