//! The state of a replica and its cluster that replies to clients depend on. The server keeps this
//! state up to date; commands only read it.

use std::time::Duration;

use crate::types::{DiskState, Index, Instant, NodeId, RoleName, Term};

use super::failure::Failure;
use super::session::subscriptions::Subscriptions;
use super::slow_log::SlowLog;

/// The part of a replica's and its cluster's state that replies to clients depend on. The server
/// keeps the context up to date; commands only read it.
#[derive(Debug, Clone)]
pub struct Context {
    /// The id of this replica.
    pub me: NodeId,
    /// A one-way hash of the cluster's id. It is part of the node ids in `CLUSTER` replies.
    pub cluster_fingerprint: u128,
    /// All replicas of the cluster, including this one, sorted by id.
    pub nodes: Vec<ReplicaInfo>,
    /// Id of the replica that this replica believes to be the leader; `None` if no leader is known.
    pub leader: Option<NodeId>,
    /// This replica's Raft role, such as leader or follower.
    pub role: RoleName,
    /// This replica's current Raft term.
    pub term: Term,
    /// Index of the last entry of this replica's log.
    pub last_index: Index,
    /// Index of the first entry of this replica's log; a snapshot covers all earlier entries.
    pub first_index: Index,
    /// Index up to which this replica's log is synced to disk.
    pub durable_index: Index,
    /// Index of the last entry that this replica knows to be committed.
    pub commit_index: Index,
    /// Index of the last entry that this replica has applied to its state machine.
    pub applied_index: Index,
    /// Number of keys in the store after applying the log up to `applied_index` or a slightly
    /// earlier entry.
    pub key_count: u64,
    /// Number of keys in the store that have an expiration.
    pub expires_count: u64,
    /// Digest of the state machine's state at `applied_index`. Replicas with equal states have
    /// equal digests.
    pub state_digest: u64,
    /// Reading of the monotonic clock when the server began to execute the current group of
    /// requests.
    pub now: Instant,
    /// Reading of the monotonic clock when the replica started.
    pub started: Instant,
    /// Wall clock of this replica as time since 1970. Shown to clients only (`TIME`, slow log): no
    /// decision depends on it.
    pub wall_clock: Duration,
    /// The replicated clock, by which keys expire, and the wall clocks of the replicas.
    pub clocks: ClockStatus,
    /// Operating system process id of this replica.
    pub process_id: u32,
    /// Random number that this process chose when it started. Tools detect a restart of the replica
    /// by a change of the number.
    pub run_id: u128,
    /// Memory usage of all clients combined, in bytes. Refreshed at intervals, so slightly out of
    /// date.
    pub clients_bytes: u64,
    /// Memory usage of the keys and values of the store, in bytes.
    pub dataset_bytes: u64,
    /// Memory usage of the log entries that are held in memory, in bytes.
    pub log_bytes: u64,
    /// Memory usage in bytes: the sum of `dataset_bytes`, `log_bytes` and `clients_bytes`.
    pub used_memory: u64,
    /// Resident memory of the process in bytes, as reported by the operating system; 0 if unknown.
    pub resident_bytes: u64,
    /// Whether memory usage (`used_memory`) exceeds `maxmemory`, so that commands that add data are
    /// refused.
    pub is_full: bool,
    /// State of this replica's snapshots. Refreshed at intervals, so slightly out of date.
    pub snapshot: SnapshotInfo,
    /// Whether this replica's disk is healthy, low on space, or stalled.
    pub disk: DiskState,
    /// Free disk space in bytes. Refreshed at intervals, so slightly out of date.
    pub disk_free: u64,
    /// Free disk space, in bytes, below which writes are refused.
    pub disk_reserve: u64,
    /// Number of writes of this replica's clients that were refused because disk space was low,
    /// since the process started.
    pub disk_refused: u64,
    /// Event counters of the consensus core (Raft), from the start of the process.
    pub counters: RaftCounters,
    /// Progress of this replica in rejoining the cluster after it lost its disk; `None` if it is a
    /// full member.
    pub rejoining: Option<RejoinProgress>,
    /// Number of times that the log was synced to disk (fsync) since the process started.
    pub log_syncs: u64,
    /// Counters of client connections, commands and bytes since the process started or since
    /// `CONFIG RESETSTAT`.
    pub traffic: Traffic,
    /// Whether the command `DEBUG` is allowed, as set by the operator with
    /// `--enable-debug-command`.
    pub debug: bool,
    /// The slow log and the latency samples of this replica.
    pub slow_log: SlowLog,
    /// The master name by which Sentinel clients refer to this cluster.
    pub sentinel_name: String,
    /// Pub/Sub subscriptions of all clients that are connected to this replica.
    pub subscriptions: Subscriptions,
    /// Maximum size, in bytes, of an encoded batch that fits in a log entry.
    pub payload_bytes_max: usize,
}

/// A replica of the cluster, as replies to clients describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaInfo {
    /// Id of the described replica.
    pub id: NodeId,
    /// Host at which clients reach the described replica: a name, or an IP address without
    /// brackets.
    pub host: String,
    /// TCP port at which clients reach the described replica.
    pub port: u16,
    /// TCP port at which the other replicas reach the described replica.
    pub peer_port: u16,
    /// Whether the outgoing connections to the described replica are established; always true for
    /// the replica that writes the reply.
    pub connected: bool,
    /// Match index of the described replica. `None` if the replica that writes the reply is not the
    /// leader, or does not know the match index yet.
    pub match_index: Option<Index>,
    /// The measured network path to the described replica; `None` if it is this replica, or is
    /// reached over TCP only.
    pub path: Option<PathStatus>,
    /// State of the described replica's disk. Known only while the replica that writes the reply is
    /// the leader; otherwise `Healthy`.
    pub disk: DiskState,
}

/// The network path to another replica, as measured by datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathStatus {
    /// Smoothed round-trip time in microseconds.
    pub round_trip_us: u64,
    /// Share of datagrams that are lost on their way to the other replica, in permille.
    pub loss_permille: u32,
    /// Number of datagrams that carried bytes sent before, since the connections were made.
    pub resent: u64,
}

/// The replicated clock, by which keys expire, and the replicas' wall clocks, which the replicated
/// clock follows. Times are in milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClockStatus {
    /// Current value of the replicated clock in milliseconds since 1970, as far as this replica
    /// knows; 0 if unknown.
    pub replicated: u64,
    /// Latest time, in milliseconds since 1970, that the wall clocks of a quorum have reached;
    /// `None` if fewer replicas' wall clocks are known.
    pub agreed: Option<u64>,
    /// Number of jumps of this replica's wall clock since the process started, including jumps that
    /// the replicated clock did not follow.
    pub jumps: u64,
    /// Number of times that the command `CLOCK RESET` has reset the replicated clock.
    pub resets: u64,
    /// For each peer, the milliseconds by which its wall clock is ahead of this replica's
    /// (negative: behind); `None` if the peer has not reported its clock recently.
    pub peers: Vec<(NodeId, Option<i64>)>,
}

/// The state of a replica's snapshots, for `INFO persistence`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SnapshotInfo {
    /// Index of the last log entry that the latest snapshot covers; zero if there is no snapshot.
    pub index: Index,
    /// Size of the latest snapshot in bytes; 0 if there is no snapshot.
    pub bytes: u64,
    /// Unix time in seconds when the latest snapshot was completed, or loaded when the replica
    /// started; 0 if there is no snapshot.
    pub saved_at: u64,
    /// Whether a snapshot is being taken now.
    pub taking: bool,
    /// Whether the latest attempt to take a snapshot failed.
    pub failed: bool,
}

/// Counters of the traffic between this replica and its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Number of clients that are connected now.
    pub clients: u64,
    /// Number of client connections accepted since the process started or since `CONFIG RESETSTAT`.
    pub connections: u64,
    /// Number of client connections refused because the maximum number of clients was already
    /// connected.
    pub connections_refused: u64,
    /// Number of requests received from clients since the process started or since `CONFIG
    /// RESETSTAT`.
    pub commands: u64,
    /// Number of bytes received from clients since the process started or since `CONFIG RESETSTAT`.
    pub bytes_in: u64,
    /// Number of bytes sent to clients since the process started or since `CONFIG RESETSTAT`.
    pub bytes_out: u64,
}

/// Counters of the consensus core (Raft) since the process started, for `INFO`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RaftCounters {
    /// Number of disk writes, since the process started, that took longer than the stall timeout.
    pub disk_stalls: u64,
    /// Number of reads, since the process started, that this replica served as leader under its
    /// lease, without a round trip to a quorum.
    pub lease_reads: u64,
    /// Number of reads, since the process started, that this replica served as leader after a
    /// quorum had confirmed its leadership.
    pub read_index_reads: u64,
    /// Number of leadership transfers that this replica has started as leader since the process
    /// started.
    pub leadership_transfers: u64,
    /// Number of Raft messages rejected because their term is higher than elections can have
    /// reached.
    pub terms_rejected: u64,
    /// Number of Raft messages rejected because they contradict a committed entry or the known
    /// leader of their term.
    pub conflicts_rejected: u64,
}

/// The progress of a replica in rejoining the cluster after it lost its disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RejoinProgress {
    /// Ids of the members that have not yet answered this replica's rejoin request, in ascending
    /// order.
    pub waiting_for: Vec<NodeId>,
    /// Index up to which the replica's log must be durable before the replica is a full member
    /// again; `None` until a leader has told the replica this index.
    pub target: Option<Index>,
}

impl Context {
    /// Returns the initial context of the replica `me`, which knows neither its peers nor a leader
    /// yet.
    pub fn alone(me: ReplicaInfo, cluster_fingerprint: u128, now: Instant) -> Context {
        Context {
            me: me.id,
            cluster_fingerprint,
            nodes: vec![me],
            leader: None,
            role: RoleName::Follower,
            term: Term(0),
            last_index: Index::ZERO,
            first_index: Index(1),
            durable_index: Index::ZERO,
            commit_index: Index::ZERO,
            applied_index: Index::ZERO,
            key_count: 0,
            expires_count: 0,
            state_digest: 0,
            now,
            started: now,
            wall_clock: Duration::ZERO,
            clocks: ClockStatus::default(),
            process_id: 0,
            run_id: 0,
            clients_bytes: 0,
            dataset_bytes: 0,
            log_bytes: 0,
            used_memory: 0,
            resident_bytes: 0,
            is_full: false,
            snapshot: SnapshotInfo::default(),
            disk: DiskState::Healthy,
            disk_free: 0,
            disk_reserve: 0,
            disk_refused: 0,
            counters: RaftCounters::default(),
            rejoining: None,
            log_syncs: 0,
            traffic: Traffic::default(),
            debug: false,
            slow_log: SlowLog::default(),
            sentinel_name: "mymaster".to_owned(),
            subscriptions: Subscriptions::default(),
            payload_bytes_max: 64 << 20,
        }
    }

    /// Sets the applied index. Also raises the commit index and the last index to at least the
    /// applied index, because their latest values from the consensus core can be older. So every
    /// reply satisfies `applied <= commit <= last`.
    pub fn note_applied(&mut self, applied: Index) {
        self.applied_index = applied;
        self.note_log(self.last_index, self.commit_index);
    }

    /// Sets the last index and the commit index to those that the consensus core has reported, but
    /// never below the applied index.
    pub fn note_log(&mut self, last: Index, commit: Index) {
        self.commit_index = commit.max(self.applied_index);
        self.last_index = last.max(self.commit_index);
    }

    /// Returns the replica with the given id; `None` if the cluster has no such replica.
    pub fn node(&self, id: NodeId) -> Option<&ReplicaInfo> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// Returns the replica that this replica believes to be the leader; `None` if no leader is
    /// known.
    pub fn leader(&self) -> Option<&ReplicaInfo> {
        self.node(self.leader?)
    }

    /// Returns the `MOVED` error that redirects a request for the hash slot `slot` to the leader;
    /// `None` if this replica leads, no leader is known, or `slot` is `None`.
    pub(super) fn moved(&self, slot: Option<u16>) -> Option<Failure<'_>> {
        let leader = self.leader().filter(|_| !self.leads())?;
        Some(Failure::Moved { slot: slot?, host: &leader.host, port: leader.port })
    }

    /// Returns whether this replica believes itself to be the leader.
    pub fn leads(&self) -> bool {
        self.leader == Some(self.me)
    }

    /// Returns the replication offset that replies report for `node`: the applied index if `node`
    /// is this replica, otherwise the match index of `node` (0 if unknown).
    pub(super) fn replication_offset(&self, node: &ReplicaInfo) -> u64 {
        let index = if node.id == self.me { Some(self.applied_index) } else { node.match_index };
        index.unwrap_or_default().0
    }

    /// Returns a replica's id in `CLUSTER` and `SENTINEL` replies: 40 hexadecimal digits, as in
    /// Redis, composed of the cluster's fingerprint and the replica's id.
    pub(super) fn name_of(&self, id: NodeId) -> String {
        format!("{:032x}{:08x}", self.cluster_fingerprint, id.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applied_commit_and_last_index_stay_ordered() {
        let node = ReplicaInfo {
            id: NodeId(1),
            host: String::new(),
            port: 1,
            peer_port: 2,
            connected: true,
            match_index: None,
            path: None,
            disk: DiskState::Healthy,
        };
        let mut context = Context::alone(node, 0, Instant::ZERO);
        let cursors = |context: &Context| {
            (context.applied_index.0, context.commit_index.0, context.last_index.0)
        };
        context.note_log(Index(9), Index(7));
        assert_eq!(cursors(&context), (0, 7, 9));
        context.note_applied(Index(8));
        assert_eq!(cursors(&context), (8, 8, 9));
        context.note_applied(Index(12));
        assert_eq!(cursors(&context), (12, 12, 12));
        context.note_log(Index(10), Index(7));
        assert_eq!(cursors(&context), (12, 12, 12));
        context.note_log(Index(15), Index(13));
        assert_eq!(cursors(&context), (12, 13, 15));
    }
}
