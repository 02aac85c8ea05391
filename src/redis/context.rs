//! What replies say about a replica and its cluster. The server fills it in and keeps it up to
//! date; commands only read it.

use std::time::Duration;

use crate::types::{DiskState, Index, Instant, NodeId, RoleName, Term};

use super::failure::Failure;
use super::session::subscriptions::Subscriptions;
use super::slow_log::SlowLog;

/// The state of a replica and of its cluster, as far as replies depend on it.
#[derive(Debug, Clone)]
pub struct Context {
    /// This replica.
    pub me: NodeId,
    /// A fingerprint of the cluster's id, from which the id can't be computed.
    pub cluster_fingerprint: u128,
    /// All replicas, this one included, sorted by id.
    pub nodes: Vec<ReplicaInfo>,
    /// The replica that this one believes to be leader, if any.
    pub leader: Option<NodeId>,
    /// This replica's role.
    pub role: RoleName,
    /// This replica's term.
    pub term: Term,
    /// The last entry of this replica's log.
    pub last_index: Index,
    /// The first entry of the log that has not been truncated behind a snapshot.
    pub first_index: Index,
    /// The last entry of the log that is on disk.
    pub durable_index: Index,
    /// The last entry that this replica knows to be committed.
    pub commit_index: Index,
    /// The last entry that this replica has applied.
    pub applied_index: Index,
    /// The number of keys at `applied_index` or shortly before.
    pub key_count: u64,
    /// The number of keys that have an expiration.
    pub expires_count: u64,
    /// The digest of the state at `applied_index`; equal on replicas with equal states.
    pub state_digest: u64,
    /// The monotonic clock at the start of the current batch of requests.
    pub now: Instant,
    /// The monotonic clock when the replica started.
    pub started: Instant,
    /// The wall clock, since 1970. Only shown (`TIME`), never decided upon.
    pub wall_clock: Duration,
    /// The replicated clock and the clocks it follows.
    pub clocks: ClockStatus,
    /// The operating system's id of this process.
    pub process_id: u32,
    /// A random number drawn at each start, from which tools see that a server has restarted.
    pub run_id: u128,
    /// Bytes of memory that all clients together hold, a short time ago.
    pub clients_bytes: u64,
    /// Bytes of memory that keys and values take.
    pub dataset_bytes: u64,
    /// Bytes of memory that the log takes.
    pub log_bytes: u64,
    /// The sum of `dataset_bytes`, `log_bytes` and `clients_bytes`.
    pub used_memory: u64,
    /// Resident memory of the process in bytes; 0 if unknown.
    pub resident_bytes: u64,
    /// Whether `used_memory` is above `maxmemory`, so that commands that add data are refused.
    pub is_full: bool,
    /// This replica's snapshots, a short time ago.
    pub snapshot: SnapshotInfo,
    /// The state of this replica's disk.
    pub disk: DiskState,
    /// Bytes of free disk space, a short time ago.
    pub disk_free: u64,
    /// Bytes of free disk space below which writes are refused.
    pub disk_reserve: u64,
    /// Writes of this replica's clients that were refused because disk space was short.
    pub disk_refused: u64,
    /// Counts of the consensus core since the start.
    pub counters: RaftCounters,
    /// The progress of rejoining after the loss of the disk; `None` for a full member.
    pub rejoining: Option<RejoinProgress>,
    /// Syncs of the log since the start.
    pub log_syncs: u64,
    /// Connections, commands and bytes since the start.
    pub traffic: Traffic,
    /// Whether `DEBUG` is allowed.
    pub debug: bool,
    /// Requests that took long.
    pub slow_log: SlowLog,
    /// The name of this cluster for Sentinel clients.
    pub sentinel_name: String,
    /// The subscriptions of this replica's clients.
    pub subscriptions: Subscriptions,
    /// Most bytes of an encoded command. A larger one would not fit in a log entry.
    pub payload_bytes_max: usize,
}

/// A replica, as clients see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaInfo {
    /// Its id.
    pub id: NodeId,
    /// The host that clients should connect to: a name, or an address without brackets.
    pub host: String,
    /// The port for clients.
    pub port: u16,
    /// The port for peers.
    pub peer_port: u16,
    /// Whether a message of it arrived lately; true for this replica.
    pub connected: bool,
    /// Its match index, which only the leader knows; `None` elsewhere.
    pub match_index: Option<Index>,
    /// The state of its disk, which only the leader knows; `Healthy` elsewhere.
    pub disk: DiskState,
}

/// The replicated clock, by which keys expire, and the clocks it follows. Times are in milliseconds
/// since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClockStatus {
    /// The replicated clock now, as far as this replica knows.
    pub replicated: u64,
    /// The time that the wall clocks of a quorum have reached; `None` if too few are known.
    pub agreed: Option<u64>,
    /// Jumps of this replica's wall clock since the start, whether they were followed or not.
    pub jumps: u64,
    /// How often the replicated clock was reset.
    pub resets: u64,
    /// Milliseconds by which each peer's wall clock is ahead of this replica's; `None` if the peer
    /// has not reported it lately.
    pub peers: Vec<(NodeId, Option<i64>)>,
}

/// A replica's snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SnapshotInfo {
    /// The last entry in the latest snapshot; zero if there is no snapshot.
    pub index: Index,
    /// The size of the latest snapshot.
    pub bytes: u64,
    /// Unix time in seconds when the latest snapshot was taken, or found at the start.
    pub saved_at: u64,
    /// Whether a snapshot is being taken.
    pub taking: bool,
    /// Whether the last attempt failed.
    pub failed: bool,
}

/// Counts of what passed between this replica and its clients since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Clients connected now.
    pub clients: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Connections refused because there were too many.
    pub connections_refused: u64,
    /// Requests received.
    pub commands: u64,
    /// Bytes received from clients.
    pub bytes_in: u64,
    /// Bytes sent to clients.
    pub bytes_out: u64,
}

/// Counts of the consensus core since the replica started, for `INFO`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RaftCounters {
    /// Times a disk write took longer than the stall timeout.
    pub disk_stalls: u64,
    /// Reads served under the leader's lease.
    pub lease_reads: u64,
    /// Reads served after a quorum had confirmed the leader.
    pub read_index_reads: u64,
    /// Leadership transfers that this replica started.
    pub leadership_transfers: u64,
    /// Messages rejected because no election can have reached their term.
    pub terms_rejected: u64,
    /// Messages rejected because they contradict a committed entry or the leader of their term.
    pub conflicts_rejected: u64,
}

/// The progress of a replica that rejoins after the loss of its disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RejoinProgress {
    /// Members that have not answered yet, in order of their ids.
    pub waiting_for: Vec<NodeId>,
    /// The replica is a full member again once its log is durable up to here; `None` until a leader
    /// has named the index.
    pub target: Option<Index>,
}

impl Context {
    /// The context of a replica that knows neither its peers nor a leader yet.
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

    /// Sets the applied index. Applied entries are committed and in the log, even if the last
    /// report about these is older: `applied <= commit <= last` holds in every reply.
    pub fn note_applied(&mut self, applied: Index) {
        self.applied_index = applied;
        self.note_log(self.last_index, self.commit_index);
    }

    /// Sets the last index and the commit index from a recent report.
    pub fn note_log(&mut self, last: Index, commit: Index) {
        self.commit_index = commit.max(self.applied_index);
        self.last_index = last.max(self.commit_index);
    }

    /// The replica with this id, if there is one.
    pub fn node(&self, id: NodeId) -> Option<&ReplicaInfo> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// The replica that this one believes to be leader, if any.
    pub fn leader(&self) -> Option<&ReplicaInfo> {
        self.node(self.leader?)
    }

    /// The redirection for a request to `slot` if another replica leads; `None` without a slot.
    pub(super) fn moved(&self, slot: Option<u16>) -> Option<Failure<'_>> {
        let leader = self.leader().filter(|_| !self.leads())?;
        Some(Failure::Moved { slot: slot?, host: &leader.host, port: leader.port })
    }

    /// Whether this replica is leader, as far as it knows.
    pub fn leads(&self) -> bool {
        self.leader == Some(self.me)
    }

    /// The replication offset of a replica: its applied index for this replica, its match index for
    /// others, 0 if unknown.
    pub(super) fn replication_offset(&self, node: &ReplicaInfo) -> u64 {
        let index = if node.id == self.me { Some(self.applied_index) } else { node.match_index };
        index.unwrap_or_default().0
    }

    /// A replica's id in `CLUSTER` and `SENTINEL` replies, 40 hex digits as in Redis: the cluster's
    /// fingerprint and the replica's number.
    pub(super) fn name_of(&self, id: NodeId) -> String {
        format!("{:032x}{:08x}", self.cluster_fingerprint, id.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reported_indexes_stay_in_order() {
        let node = ReplicaInfo {
            id: NodeId(1),
            host: String::new(),
            port: 1,
            peer_port: 2,
            connected: true,
            match_index: None,
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
