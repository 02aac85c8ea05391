//! The handshake: a peer's connection starts with a hello. It is accepted only if it comes from a
//! replica of the same cluster, is addressed to this replica, and does not come from an older copy
//! of the peer's data folder.

use crate::feature_level::FeatureLevel;
use crate::storage::{HistoryError, Identity, PeerStart, START_IDS_KEPT, StartHistory, replicas};
use crate::tls::Failure;
use crate::transport::incoming::ConnectionError;
use crate::types::NodeId;
use crate::wire::frame::{Hello, START_IDS_MAX};

const _: () = assert!(START_IDS_MAX == START_IDS_KEPT, "a hello has all start ids");

/// Why a connection from a peer is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PeerError {
    #[error(
        "a peer of another cluster, {0:032x}, connected; check --peers and --cluster on both sides"
    )]
    Cluster(u128),
    #[error("a peer connected that expects replica {0} at this address; check its --peers")]
    Addressee(NodeId),
    #[error(
        "a peer connected under the id {} of this replica: two processes have the same --id", .0.0
    )]
    OwnId(NodeId),
    #[error(
        "replica {} connected as a member of a cluster that was created with {}, but this one was \
         created with {}: one of the two was bootstrapped with other --peers. Stop that one, and \
         add it as a new replica with `bowline serve --join` and `bowline admin add`",
        .peer.0, replicas(.theirs), replicas(.ours)
    )]
    OtherMembers { peer: NodeId, theirs: Vec<NodeId>, ours: Vec<NodeId> },
    #[error(
        "replica {} connected as one that was added later, but the cluster was created with it: it \
         was started with --join under an id that was used before. Stop it, and start it with a \
         new id, or with --rejoin if only its folder is lost", .0.0
    )]
    UsedId(NodeId),
    #[error(
        "replica {} connected, but {error}. It may have lost acknowledged entries, so it is \
         refused: restore its latest folder, or replace it with `bowline cluster --replace {}` or \
         `bowline serve --rejoin`, or, if the members of the cluster have changed, with `bowline \
         admin replace`",
        .peer.0, .peer.0
    )]
    History { peer: NodeId, error: HistoryError },
    #[error(
        "replica {} connected with bowline {}, which has feature level {theirs}, but the feature \
         level of this cluster is {cluster}: run {} there",
        .peer.0, version_text(.program), .cluster.needed_version()
    )]
    FeatureLevel { peer: NodeId, program: String, theirs: FeatureLevel, cluster: FeatureLevel },
    #[error(
        "replica {} connected, but its certificate is not that of replica {}: it does not have the \
         name {name}, or it also has a name for all replicas. Check --peer-tls-cert-file there and \
         --peer-tls-domain on both sides",
        .peer.0, .peer.0
    )]
    Certificate { peer: NodeId, name: String },
    #[error("TLS: {0}; check --peer-tls-cert-file and --peer-tls-ca-cert-file on both sides")]
    Tls(Failure),
    #[error(transparent)]
    Connection(#[from] ConnectionError),
}

/// Returns the version of a peer's program, for messages.
fn version_text(program: &str) -> &str {
    if program.is_empty() { "0.1" } else { program }
}

/// Decides whether to accept a peer's hello (first frame of a connection). `members` are those with
/// which this cluster was created, and `cluster_level` is its feature level. Returns the record of
/// the peer's start, which the caller must store. Each start of a peer's process is identified by a
/// random number that is generated when the peer opens its log, and the hello lists the latest
/// starts. `check_history` compares this list with the stored record, to detect an older copy of
/// the peer's folder. It is not called for a rejoining peer, which has lost the list of its earlier
/// starts with its folder.
pub(super) fn check(
    me: &Identity,
    members: &[NodeId],
    cluster_level: FeatureLevel,
    hello: &Hello,
    check_history: impl FnOnce(NodeId, StartHistory<'_>) -> Result<PeerStart, HistoryError>,
) -> Result<PeerStart, PeerError> {
    if hello.cluster != me.cluster {
        return Err(PeerError::Cluster(hello.cluster));
    }
    if hello.to != me.replica {
        return Err(PeerError::Addressee(hello.to));
    }
    let peer = hello.from;
    if peer == me.replica {
        return Err(PeerError::OwnId(peer));
    }
    // A replica that joined the cluster later has an empty list. Whether the peer is a member now
    // is decided by the core, because this replica may not know the latest configuration.
    let (theirs, ours) = (&hello.members, members);
    if theirs.is_empty() && ours.contains(&peer) {
        return Err(PeerError::UsedId(peer));
    }
    if theirs != ours && !theirs.is_empty() && !ours.is_empty() {
        let (theirs, ours) = (theirs.clone(), ours.to_vec());
        return Err(PeerError::OtherMembers { peer, theirs, ours });
    }
    if hello.level < cluster_level {
        return Err(PeerError::FeatureLevel {
            peer,
            program: hello.program.clone(),
            theirs: hello.level,
            cluster: cluster_level,
        });
    }
    let history = StartHistory { incarnation: hello.incarnation, start_ids: &hello.start_ids };
    let checked = if hello.rejoining {
        history.latest(peer, START_IDS_KEPT)
    } else {
        check_history(peer, history)
    };
    checked.map_err(|error| PeerError::History { peer, error })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::Lane;
    use crate::wire::protocol::ProtocolVersions;

    const ME: Identity = Identity { cluster: 5, replica: NodeId(1), incarnation: 8 };

    fn members() -> Vec<NodeId> {
        [1, 2, 3].map(NodeId).to_vec()
    }

    fn hello() -> Hello {
        Hello {
            cluster: 5,
            from: NodeId(2),
            to: NodeId(1),
            incarnation: 3,
            connection: 1,
            start_ids: vec![11, 12, 13],
            members: members(),
            rejoining: false,
            lane: Lane::Urgent,
            client_address: "127.0.0.1:7002".to_owned(),
            peer_address: "127.0.0.1:8002".to_owned(),
            versions: ProtocolVersions::OWN,
            level: FeatureLevel::V0_2,
            program: "0.2.0".to_owned(),
        }
    }

    /// Checks a hello (first frame of a connection) at a replica whose stored record of the sender
    /// is `seen`.
    fn check_after(seen: Option<PeerStart>, hello: &Hello) -> Result<PeerStart, PeerError> {
        check(&ME, &members(), FeatureLevel::V0_2, hello, |peer, history| {
            history.check(peer, seen, START_IDS_KEPT)
        })
    }

    #[test]
    fn only_peers_of_the_same_cluster_and_members_may_connect() {
        let connect = |hello: Hello| check_after(None, &hello).map(drop);
        assert_eq!(connect(hello()), Ok(()));
        assert_eq!(connect(Hello { cluster: 6, ..hello() }), Err(PeerError::Cluster(6)));
        assert_eq!(
            connect(Hello { to: NodeId(3), ..hello() }),
            Err(PeerError::Addressee(NodeId(3)))
        );
        let ours = members();
        for theirs in [vec![NodeId(2)], vec![NodeId(1), NodeId(2)], [1, 2, 3, 4].map(NodeId).into()]
        {
            let refused = connect(Hello { members: theirs.clone(), ..hello() }).unwrap_err();
            let expected = PeerError::OtherMembers { peer: NodeId(2), theirs, ours: ours.clone() };
            assert_eq!(refused, expected);
        }
        let own = NodeId(1);
        assert_eq!(connect(Hello { from: own, ..hello() }), Err(PeerError::OwnId(own)));
    }

    #[test]
    fn peer_with_a_lower_feature_level_than_the_cluster_is_refused() {
        let old = Hello { level: FeatureLevel::V0_1, program: String::new(), ..hello() };
        let check_at = |level, hello: &Hello| {
            let history =
                |peer, history: StartHistory<'_>| history.check(peer, None, START_IDS_KEPT);
            check(&ME, &members(), level, hello, history).map(drop)
        };
        assert_eq!(check_at(FeatureLevel::V0_1, &old), Ok(()));
        assert_eq!(check_at(FeatureLevel::V0_1, &hello()), Ok(()));
        assert_eq!(check_at(FeatureLevel::V0_2, &hello()), Ok(()));
        let refused = check_at(FeatureLevel::V0_2, &old).unwrap_err().to_string();
        let expected = "replica 2 connected with bowline 0.1, which has feature level 1, but the \
                        feature level of this cluster is 2: run version 0.2 or later there";
        assert_eq!(refused, expected);
    }

    #[test]
    fn replicas_that_joined_later_may_connect_and_be_connected_to() {
        let joined = Hello { from: NodeId(4), members: Vec::new(), ..hello() };
        assert!(check_after(None, &joined).is_ok());
        let check_without = |hello: &Hello| {
            check(&ME, &[], FeatureLevel::V0_1, hello, |peer, history| {
                history.check(peer, None, START_IDS_KEPT)
            })
        };
        assert!(check_without(&hello()).is_ok() && check_without(&joined).is_ok());
        let wiped = Hello { members: Vec::new(), start_ids: vec![1], incarnation: 1, ..hello() };
        let seen = PeerStart { peer: NodeId(2), incarnation: 3, start_id: 13 };
        let refused = check_after(Some(seen), &wiped);
        assert_eq!(refused, Err(PeerError::UsedId(NodeId(2))));
    }

    #[test]
    fn membership_mismatch_error_names_both_member_sets() {
        let theirs = vec![NodeId(2)];
        let text = PeerError::OtherMembers { peer: NodeId(2), theirs, ours: members() }.to_string();
        assert!(text.contains("a cluster that was created with replica 2, but"), "{text}");
        assert!(text.contains("this one was created with replicas 1, 2, 3"), "{text}");
    }

    #[test]
    fn peer_started_from_an_older_copy_of_its_data_is_refused() {
        let mut known = None;
        let mut connect = |incarnation, start_ids: &[u64]| {
            let hello = Hello { incarnation, start_ids: start_ids.to_vec(), ..hello() };
            known = Some(check_after(known, &hello)?);
            Ok(())
        };
        assert_eq!(connect(3, &[11, 12, 13]), Ok(()));
        assert_eq!(connect(3, &[11, 12, 13]), Ok(()), "the second connection");
        assert_eq!(connect(5, &[11, 12, 13, 14, 15]), Ok(()));
        let other = |incarnation| {
            let error = HistoryError::Other { seen: 5, incarnation };
            Err(PeerError::History { peer: NodeId(2), error })
        };
        assert_eq!(connect(4, &[11, 12, 13, 14]), other(4));
        assert_eq!(connect(5, &[11, 12, 13, 14, 16]), other(5), "restored from a copy");
        assert_eq!(connect(6, &[11, 12, 13, 14, 16, 17]), other(6), "and started twice");
        // The peer's data folder is wiped and bootstrapped again. Then the peer restarts any number
        // of times.
        let again: Vec<u64> = (100..100 + 5_000).collect();
        for count in [1, 5, 60, START_IDS_KEPT] {
            let refused = |error| Err(PeerError::History { peer: NodeId(2), error });
            let incarnation = count as u64;
            let expected = refused(HistoryError::Other { seen: 5, incarnation });
            assert_eq!(connect(incarnation, &again[..count]), expected, "{count} restarts");
        }
        let error = HistoryError::Forgotten { seen: 5, incarnation: 5_000 };
        let expected = Err(PeerError::History { peer: NodeId(2), error });
        assert_eq!(connect(5_000, &again[5_000 - START_IDS_KEPT..]), expected);
    }

    #[test]
    fn rejoining_replica_replaces_its_lost_predecessor() {
        let old = check_after(None, &hello()).unwrap();
        let rejoining = Hello { incarnation: 1, start_ids: vec![77], rejoining: true, ..hello() };
        let new = check_after(Some(old), &rejoining).unwrap();
        assert_eq!(new, PeerStart { peer: NodeId(2), incarnation: 1, start_id: 77 });
        // The new peer may connect again and restart. The lost one is rejected.
        assert_eq!(check_after(Some(new), &rejoining), Ok(new));
        let later = Hello { incarnation: 2, start_ids: vec![77, 78], ..hello() };
        assert!(check_after(Some(new), &later).is_ok());
        let error = HistoryError::Other { seen: 1, incarnation: 3 };
        let expected = Err(PeerError::History { peer: NodeId(2), error });
        assert_eq!(check_after(Some(new), &hello()), expected);
        // The history of a rejoining peer must be complete.
        let forged = Hello { incarnation: 1 << 40, ..rejoining };
        assert!(matches!(check_after(None, &forged), Err(PeerError::History { .. })));
    }
}
