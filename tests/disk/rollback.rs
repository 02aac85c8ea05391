//! A replica whose folder was put back from an older copy has forgotten what it vouched for. It
//! must never again count for a majority: its peers know which openings of it they have heard, and
//! remember that over their own restarts (safety.md D6).

use super::client::Client;
use super::replicas::Cluster;
use super::{assert_holds, copy, write};

/// Nothing that takes a majority with the old copy in it may go through.
#[track_caller]
fn assert_refused(cluster: &Cluster, at: usize, peer: usize, case: &str) {
    for place in [at, peer] {
        let mut client = cluster
            .wait_for("a server that listens", || Client::connect(cluster.address(place)).ok());
        let reply = client.call(&[b"SET", b"no", b"1"]);
        let shown = reply.map(|reply| String::from_utf8_lossy(&reply).into_owned());
        let refused = shown.as_ref().is_ok_and(|shown| {
            shown.starts_with("-CLUSTERDOWN") || shown.starts_with("-UNCERTAIN")
        });
        assert!(refused, "{case}: {shown:?} at replica {}\n{}", place + 1, cluster.logs());
    }
    let said = format!("replica {:04} called as incarnation", at + 1);
    let advice = "its folder was put back from an older copy";
    cluster.wait_for("a word about the old copy", || {
        let log = cluster.folder.path().join(format!("replica-{}.log", peer + 1));
        let text = std::fs::read_to_string(log).ok()?;
        (text.contains(&said) && text.contains(advice)).then_some(())
    });
}

#[test]
fn a_folder_put_back_from_an_older_copy_is_refused_by_its_peers_over_all_restarts() {
    let mut cluster = Cluster::start_hasty(3, "auto", &[]);
    cluster.wait_until_all_serve();
    let (folder, old) = (cluster.replica_folder(0), cluster.folder.path().join("old"));
    let kept = cluster.folder.path().join("kept");
    cluster.kill(0);
    copy(&folder, &old);
    cluster.restart();
    cluster.wait_until_all_serve();
    // Replica 2 is away, so the majority that acknowledges these needs replica 1.
    cluster.kill(1);
    let acknowledged = (0..200).find_map(|_| match write(&cluster, 2, 0, 20, 100) {
        20 => Some(20),
        // An election after the other's end.
        _ => None,
    });
    assert_eq!(acknowledged, Some(20), "{}", cluster.logs());
    // The same for replica 2: from here on replica 3 alone has what was acknowledged.
    cluster.kill(0);
    std::fs::rename(&folder, &kept).unwrap();
    copy(&old, &folder);
    cluster.start_as(0, cluster.command(0));
    assert_refused(&cluster, 0, 2, "as soon as it comes back");
    // A second start counts further than what its peers have seen, and is the old copy all the
    // same.
    cluster.kill(0);
    cluster.start_as(0, cluster.command(0));
    assert_refused(&cluster, 0, 2, "started twice");
    // Its peers remember over restarts of their own.
    cluster.kill(0);
    cluster.kill(2);
    cluster.start_as(2, cluster.command(2));
    cluster.start_as(0, cluster.command(0));
    assert_refused(&cluster, 0, 2, "after a restart of its peer");
    // The right folder is welcome.
    cluster.kill(0);
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::rename(&kept, &folder).unwrap();
    cluster.restart();
    cluster.wait_until_all_serve();
    for at in 0..3 {
        assert_holds(&cluster, at, 20, 100, "with the right folder back");
    }
}
