//! Metrics of the process, the replica's role, its log, the other replicas and the clocks.

use std::time::Duration;

use crate::feature_level::FeatureLevel;
use crate::redis::{ReplicaInfo, digest_result, disk_name, member_role, role_name};
use crate::types::Index;

use super::samples::Samples;
use super::{Metric, Source, counter, gauge};

const ROLES: &[&str] = &["leader", "follower", "candidate", "pre-candidate"];
const MEMBER_ROLES: &[&str] = &["voter", "learner", "leaving", "joining", "removed"];
pub(super) const DISK_STATES: &[&str] = &["ok", "low", "stalled"];

pub(super) const METRICS: &[Metric] = &[
    gauge("bowline_build_info", "Always 1. The label is the program's version.", |_, out| {
        out.add_with([env!("CARGO_PKG_VERSION").into()], 1_u64);
    })
    .by(&["version"]),
    gauge(
        "bowline_feature_level",
        "Feature level of this program, and of the cluster: the lowest level among its programs.",
        |source, out| {
            let of_cluster = source.context().members.feature_level.number();
            out.add_each([
                ("program", u64::from(FeatureLevel::NEWEST.number())),
                ("cluster", u64::from(of_cluster)),
            ]);
        },
    )
    .by(&["of"]),
    gauge("bowline_start_time", "Unix time at which the process started.", |source, out| {
        let context = source.context();
        out.add(context.wall_clock.saturating_sub(context.now.since(context.started)));
    })
    .seconds(),
    counter("bowline_cpu", "CPU time used by the process, by mode.", |source, out| {
        let context = source.context();
        out.add_each([("user", context.cpu_user), ("system", context.cpu_system)]);
    })
    .seconds()
    .by(&["mode"]),
    gauge("bowline_raft_role", "1 for the current Raft role, 0 for the others.", |source, out| {
        out.add_states(ROLES, role_name(source.context().role));
    })
    .by(&["role"]),
    gauge(
        "bowline_raft_member_role",
        "1 for the replica's role in the membership of the cluster, 0 for the others.",
        |source, out| out.add_states(MEMBER_ROLES, member_role(source.context())),
    )
    .by(&["role"]),
    gauge(
        "bowline_raft_leader_id",
        "Id of the current leader as known to this replica; 0 if unknown.",
        |source, out| out.add(source.context().leader.map_or(0, |leader| u64::from(leader.0))),
    ),
    gauge("bowline_raft_term", "Current Raft term.", |source, out| {
        out.add(source.context().term.0);
    }),
    gauge("bowline_raft_members", "Number of members of the cluster.", |source, out| {
        out.add(source.context().members.configuration.members().len());
    }),
    counter(
        "bowline_raft_leader_changes",
        "Leader changes that this replica has seen: leaders of new terms.",
        |source, out| out.add(source.context().leader_changes),
    ),
    counter(
        "bowline_raft_elections",
        "Elections by phase: pre_vote (this replica asked for pre-votes), started, won.",
        |source, out| {
            let Some(status) = source.status else { return };
            out.add_each([
                ("pre_vote", status.counters.pre_votes),
                ("started", status.counters.elections),
                ("won", status.counters.leaderships),
            ]);
        },
    )
    .by(&["stage"]),
    counter(
        "bowline_raft_quorum_losses",
        "Times this replica stepped down as leader because it lost contact with a majority.",
        |source, out| out.add(source.status.map_or(0, |status| status.counters.quorum_losses)),
    ),
    counter(
        "bowline_raft_leadership_transfers",
        "Leadership transfers that this replica started as leader.",
        |source, out| out.add(source.context().counters.leadership_transfers),
    ),
    gauge(
        "bowline_raft_transfer_in_progress",
        "1 while this replica is transferring its leadership.",
        |source, out| out.add(source.context().transfer_target.is_some()),
    ),
    counter(
        "bowline_raft_configurations",
        "Membership configurations that this replica appended to the log as leader.",
        |source, out| out.add(source.status.map_or(0, |status| status.counters.configurations)),
    ),
    gauge(
        "bowline_raft_rejoining",
        "1 while this replica is rejoining the cluster after losing its disk.",
        |source, out| out.add(source.context().rejoining.is_some()),
    ),
    gauge(
        "bowline_digest_check_result",
        "1 for the result of the last comparison of all replicas' states, 0 for the others. \
         wrong: this replica's state differs from that of a majority.",
        |source, out| {
            let comparison = source.context().digest_comparison.as_ref();
            out.add_states(&["none", "equal", "wrong", "no_majority"], digest_result(comparison));
        },
    )
    .by(&["result"]),
    gauge(
        "bowline_digest_check_differing_replicas",
        "Number of replicas whose state differed from the majority's in the last comparison.",
        |source, out| {
            let comparison = source.context().digest_comparison.as_ref();
            out.add(comparison.map_or(0, |comparison| comparison.differing.len()));
        },
    ),
    gauge("bowline_raft_first_index", "Index of the first entry of the log.", |source, out| {
        out.add(source.context().first_index.0);
    }),
    gauge("bowline_raft_last_index", "Index of the last entry of the log.", |source, out| {
        out.add(source.context().last_index.0);
    }),
    gauge(
        "bowline_raft_durable_index",
        "Index of the last entry that is durable on this replica's disk.",
        |source, out| out.add(source.context().durable_index.0),
    ),
    gauge(
        "bowline_raft_commit_index",
        "Index of the last entry known to be committed.",
        |source, out| out.add(source.context().commit_index.0),
    ),
    gauge("bowline_raft_applied_index", "Index of the last applied entry.", |source, out| {
        out.add(source.context().applied_index.0);
    }),
    counter(
        "bowline_raft_reads",
        "Reads answered, by method: lease and read_index (as leader), lagging (from a state that \
         may be stale).",
        |source, out| {
            let context = source.context();
            out.add_each([
                ("lease", context.counters.lease_reads),
                ("read_index", context.counters.read_index_reads),
                ("lagging", context.lagging_reads),
            ]);
        },
    )
    .by(&["method"]),
    counter(
        "bowline_raft_messages_rejected",
        "Messages rejected, by reason. A correct peer never causes the \
         reasons term, conflict and malformed.",
        rejected_messages,
    )
    .by(&["reason"]),
    gauge(
        "bowline_peer_connected",
        "1 if this replica is connected to the peer.",
        |source, out| {
            peers(source, out, |peer| Some(u64::from(peer.connected)));
        },
    )
    .by(&["peer"]),
    gauge(
        "bowline_peer_match_index",
        "Highest index that the peer is known to have on disk; only on the leader.",
        |source, out| peers(source, out, |peer| peer.match_index.map(|index| index.0)),
    )
    .by(&["peer"]),
    gauge(
        "bowline_peer_lag_entries",
        "Log entries that the peer is not known to have on disk; only on the leader.",
        |source, out| {
            let last = source.context().last_index;
            let lag = |index: Index| last.0.saturating_sub(index.0);
            peers(source, out, |peer| peer.match_index.map(lag));
        },
    )
    .by(&["peer"]),
    gauge(
        "bowline_peer_disk_state",
        "1 for the current state of the peer's disk, 0 for the others; only on the leader.",
        |source, out| {
            for peer in others(source).filter(|peer| peer.match_index.is_some()) {
                for state in DISK_STATES {
                    let is_current = *state == disk_name(peer.disk);
                    out.add_with([peer.id.0.to_string().into(), (*state).into()], is_current);
                }
            }
        },
    )
    .by(&["peer", "state"]),
    gauge(
        "bowline_peer_round_trip",
        "Smoothed round-trip time of datagrams to the peer.",
        |source, out| {
            let micros = |peer: &ReplicaInfo| peer.path.map(|path| path.round_trip_us);
            for (peer, micros) in others(source).filter_map(|it| Some((it, micros(it)?))) {
                out.add_with([peer.id.0.to_string().into()], Duration::from_micros(micros));
            }
        },
    )
    .seconds()
    .by(&["peer"]),
    gauge(
        "bowline_peer_loss_ratio",
        "Fraction of datagrams to the peer that are lost, from 0 to 1.",
        |source, out| {
            let loss = |peer: &ReplicaInfo| peer.path.map(|path| path.loss_permille);
            for (peer, permille) in others(source).filter_map(|it| Some((it, loss(it)?))) {
                out.add_with([peer.id.0.to_string().into()], f64::from(permille) / 1_000.0);
            }
        },
    )
    .by(&["peer"]),
    counter(
        "bowline_peer_resent_datagrams",
        "Datagrams with retransmitted bytes sent to the peer, since the latest connection.",
        |source, out| peers(source, out, |peer| peer.path.map(|path| path.resent)),
    )
    .by(&["peer"]),
    gauge(
        "bowline_peer_clock_ahead",
        "How far the peer's wall clock is ahead of this replica's; negative if it is behind.",
        |source, out| {
            for (peer, millis) in &source.context().clocks.peers {
                if let Some(millis) = millis {
                    out.add_with([peer.0.to_string().into()], *millis as f64 / 1_000.0);
                }
            }
        },
    )
    .seconds()
    .by(&["peer"]),
    gauge(
        "bowline_replicated_clock",
        "Unix time of the replicated clock, which decides when keys expire; 0 if unknown.",
        |source, out| out.add(source.context().clocks.replicated as f64 / 1_000.0),
    )
    .seconds(),
    gauge(
        "bowline_replicated_clock_ahead",
        "How far the replicated clock is ahead of the time that a majority of replicas agrees on.",
        |source, out| {
            let clocks = &source.context().clocks;
            if let Some(agreed) = clocks.agreed {
                out.add((clocks.replicated as f64 - agreed as f64) / 1_000.0);
            }
        },
    )
    .seconds(),
    counter(
        "bowline_replicated_clock_resets",
        "Times that CLOCK RESET set back the replicated clock.",
        |source, out| out.add(source.context().clocks.resets),
    ),
    counter("bowline_wall_clock_jumps", "Jumps of this machine's wall clock.", |source, out| {
        out.add(source.context().clocks.jumps);
    }),
];

/// Returns all other replicas that this replica knows.
fn others<'s>(source: &Source<'s>) -> impl Iterator<Item = &'s ReplicaInfo> {
    let context = source.context();
    context.nodes.iter().filter(|node| node.id != context.me)
}

/// Adds a sample for each other replica whose `value` is known.
fn peers(source: &Source<'_>, out: &mut Samples, value: impl Fn(&ReplicaInfo) -> Option<u64>) {
    for (peer, value) in others(source).filter_map(|it| Some((it, value(it)?))) {
        out.add_with([peer.id.0.to_string().into()], value);
    }
}

fn rejected_messages(source: &Source<'_>, out: &mut Samples) {
    let Some(status) = source.status else { return };
    let counters = &status.counters;
    out.add_each([
        ("term", counters.terms_rejected),
        ("conflict", counters.conflicts_rejected),
        ("malformed", counters.malformed),
        ("misdirected", counters.misdirected),
        ("stale", counters.stale),
        ("rejoining", counters.ignored_while_rejoining),
    ]);
}
