//! The state of a replica and its cluster that replies to clients depend on. The server keeps this
//! state up to date; commands only read it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::feature_level::FeatureLevel;
use crate::kv::{DatabaseSize, DigestComparison, HistoryStatus, KeptScripts, KeyspaceStatistics};
use crate::membership::Configuration;
use crate::types::{DiskState, Index, Instant, NodeId, RoleName, Term};

use super::access::Access;
use super::acl_log::AclLog;
use super::action::Statistics;
use super::failure::Failure;
use super::session::subscriptions::Subscriptions;
use super::session::tracking::TrackingStatus;
use super::slow_log::SlowLog;
use super::statistics::CommandStatistics;
use super::traffic::{Rates, Traffic};
use super::write_traces::WriteTraces;

/// Maximum number of earlier digests of the state that are kept.
const DIGEST_MARKS_MAX: usize = 16;

/// The state of a replica and its cluster from which commands write their replies. The server
/// updates it; commands only read it.
#[derive(Debug, Clone)]
pub struct Context {
    /// The id of this replica.
    pub me: NodeId,
    /// A one-way hash of the cluster's id, part of the node ids in replies to `CLUSTER` commands.
    pub cluster_fingerprint: u128,
    /// All replicas of the cluster, including this one, sorted by id.
    pub nodes: Vec<ReplicaInfo>,
    /// Whether this replica is a witness, which has no data and serves no client.
    pub is_witness: bool,
    /// The members of the cluster. A member is missing in `nodes` until it has connected.
    pub members: MembersInfo,
    /// Feature level that this replica's folder needed when it started. If it is higher than that
    /// in `members`, the entry that raised the level is in the log, but not known to be committed
    /// yet.
    pub folder_level: FeatureLevel,
    /// Id of the replica that this replica considers the leader; `None` if it knows no leader.
    pub leader: Option<NodeId>,
    /// The target of the leadership transfer in progress, if this replica leads; otherwise `None`.
    /// During a transfer, `leader` is `None`.
    pub transfer_target: Option<NodeId>,
    /// This replica's Raft role, such as leader or follower.
    pub role: RoleName,
    /// This replica's current Raft term.
    pub term: Term,
    /// Index of the last entry of this replica's log.
    pub last_index: Index,
    /// Index of the first entry of this replica's log. The latest snapshot covers all earlier
    /// entries.
    pub first_index: Index,
    /// Index of the last log entry that this replica has synced to disk.
    pub durable_index: Index,
    /// Index of the last log entry that this replica knows to be committed.
    pub commit_index: Index,
    /// Index of the last log entry that this replica has applied to its state machine.
    pub applied_index: Index,
    /// Sizes of the databases that have keys, in the order of their numbers, after the state
    /// machine has applied the log entry at `applied_index` or a slightly earlier one.
    pub databases: Vec<DatabaseSize>,
    /// How many scripts and functions the cluster keeps.
    pub kept_scripts: KeptScripts,
    /// Extent of the history of changes, and the revision of the state.
    pub history: HistoryStatus,
    /// Number of clients that wait for changes of keys.
    pub blocked_clients: u64,
    /// Digest (hash) of the state machine's state at `applied_index`, for comparing replicas: equal
    /// states have equal digests.
    pub state_digest: u64,
    /// The latest digests of the state at log indexes at which every replica keeps its digest, in
    /// log order, at most 16.
    pub digest_marks: VecDeque<(Index, u64)>,
    /// The last comparison of this replica's state with those of the others; `None` if there was
    /// none since the process started.
    pub digest_comparison: Option<DigestComparison>,
    /// Reading of the monotonic clock when the server began to execute the current requests.
    pub now: Instant,
    /// Reading of the monotonic clock when the replica started.
    pub started: Instant,
    /// Wall clock of this replica, as time since 1970. Only shown to clients (`TIME`, slow log); no
    /// decision depends on it.
    pub wall_clock: Duration,
    /// Readings of the replicated clock, by which keys expire, and of the replicas' wall clocks.
    pub clocks: ClockStatus,
    /// Operating system's id of this replica's process.
    pub process_id: u32,
    /// Random number that the process chose when it started, so that tools can detect a restart.
    pub run_id: u128,
    /// Memory usage of all clients combined, in bytes. Updated at intervals, so slightly out of
    /// date.
    pub clients_bytes: u64,
    /// Memory usage of all keys and values, in bytes, including values that were removed but not
    /// freed yet.
    pub dataset_bytes: u64,
    /// Number of values that were removed but not freed yet.
    pub lazyfree_pending_objects: u64,
    /// Number of values that were freed in the background, since the process started or since
    /// `CONFIG RESETSTAT`.
    pub lazyfreed_objects: u64,
    /// Memory usage of the log entries that are kept in memory, in bytes.
    pub log_bytes: u64,
    /// Memory usage in bytes: the sum of `dataset_bytes`, `log_bytes` and `clients_bytes`.
    pub used_memory: u64,
    /// Largest value of `used_memory` since the process started.
    pub used_memory_peak: u64,
    /// Resident memory of the process in bytes, according to the operating system; 0 if unknown.
    pub resident_bytes: u64,
    /// Whether `used_memory` exceeds `maxmemory`, so that commands that add data are refused.
    pub is_full: bool,
    /// State of this replica's snapshots. Updated at intervals, so slightly out of date.
    pub snapshot: SnapshotInfo,
    /// Condition of this replica's disk: healthy, low on space, or stalled.
    pub disk: DiskState,
    /// Free disk space in bytes. Updated at intervals, so slightly out of date.
    pub disk_free: u64,
    /// Free disk space in bytes below which writes are refused.
    pub disk_reserve: u64,
    /// Number of writes that this replica has refused to its clients because of low disk space,
    /// since the process started.
    pub disk_refused: u64,
    /// Event counters of the consensus core (Raft) since the process started.
    pub counters: RaftCounters,
    /// Number of times that this replica has learned of a leader of a new term, since the process
    /// started.
    pub leader_changes: u64,
    /// Progress of this replica in rejoining the cluster after it lost its disk; `None` if it is a
    /// full member.
    pub rejoining: Option<RejoinProgress>,
    /// Number of syncs of the log to disk (fsync) since the process started.
    pub log_syncs: u64,
    /// Number of reads that this replica has answered from its own state, which may lag behind, as
    /// `READONLY MAXLAG` allows, since the process started.
    pub lagging_reads: u64,
    /// Counters of client connections, commands and bytes since the process started or since
    /// `CONFIG RESETSTAT`.
    pub traffic: Traffic,
    /// Current rates of commands and bytes.
    pub rates: Rates,
    /// Statistics of commands and error replies since the process started or since `CONFIG
    /// RESETSTAT`.
    pub statistics: CommandStatistics,
    /// Number of lookups by this replica's clients, and number of keys that have expired in its
    /// state, since the process started or since `CONFIG RESETSTAT`.
    pub keyspace_statistics: KeyspaceStatistics,
    /// CPU time that the process has used in user mode; zero if unknown.
    pub cpu_user: Duration,
    /// CPU time that the kernel has used for the process; zero if unknown.
    pub cpu_system: Duration,
    /// Facts about the machine and the program, which do not change.
    pub system: SystemInfo,
    /// Whether clients may use the command `DEBUG` (option `--enable-debug-command`).
    pub debug: bool,
    /// The users that clients can log in as.
    pub access: Access,
    /// The denied requests and logins of this replica's clients.
    pub acl_log: AclLog,
    /// The slow log and the latency samples of this replica.
    pub slow_log: SlowLog,
    /// When the steps of recent writes were done.
    pub write_traces: WriteTraces,
    /// The master name that Sentinel clients use for this cluster.
    pub sentinel_name: String,
    /// Pub/Sub subscriptions of all clients that are connected to this replica.
    pub subscriptions: Arc<Subscriptions>,
    /// Index of each connected client in the server's table of clients, by the client's id.
    pub client_indexes: BTreeMap<u64, usize>,
    /// Counters of client-side caching.
    pub tracking: TrackingStatus,
    /// Number of clients that are monitors.
    pub monitors: u64,
    /// The latest `CLIENT PAUSE`, which may be over already; `None` if there is none.
    pub pause: Option<Pause>,
    /// Maximum size of an encoded batch in bytes, which is limited by the size of a log entry.
    pub payload_bytes_max: usize,
}

/// A time in which requests of a replica's clients are postponed (`CLIENT PAUSE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    /// When the pause ends.
    pub until: Instant,
    /// Whether all requests are postponed, not only those that may change the state.
    pub is_all: bool,
}

/// A replica of the cluster, as described in replies to clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaInfo {
    /// Id of the replica.
    pub id: NodeId,
    /// Host name or IP address (without brackets) at which clients reach the replica.
    pub host: String,
    /// TCP port at which clients reach the replica.
    pub port: u16,
    /// TCP port at which the other replicas reach the replica.
    pub peer_port: u16,
    /// Whether this process's outgoing connections to the described replica are established; always
    /// true for this process's own replica.
    pub connected: bool,
    /// Match index of the described replica. Only the leader knows match indexes: `None` if this
    /// process is not the leader, or does not know the match index yet.
    pub match_index: Option<Index>,
    /// The measured network path from this process to the described replica; `None` if the
    /// described replica is this process's own, or is reached over TCP only.
    pub path: Option<PathStatus>,
    /// Condition of the described replica's disk. Only the leader knows the disks of other
    /// replicas: `Healthy` if this process is not the leader.
    pub disk: DiskState,
    /// The program that the described replica runs; `None` if it is not known yet.
    pub program: Option<ProgramInfo>,
}

/// The program that a replica runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramInfo {
    /// Version of the program, such as `0.2.0`; empty if the replica does not tell it.
    pub version: String,
    /// Feature level of the program.
    pub level: FeatureLevel,
}

impl ProgramInfo {
    /// Returns the program that this process runs.
    pub fn own() -> ProgramInfo {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        ProgramInfo { version, level: FeatureLevel::NEWEST }
    }
}

/// Writes the version and the level as fields of a reply: `version=0.2.0,level=2`.
impl fmt::Display for ProgramInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = if self.version.is_empty() { "0.1" } else { &self.version };
        write!(f, "version={version},level={}", self.level)
    }
}

/// The members of the cluster as of the latest configuration in this replica's log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MembersInfo {
    /// Index of the configuration's entry; 0 for the members with which the cluster was created.
    pub index: Index,
    /// Whether this replica knows that the configuration is committed.
    pub is_committed: bool,
    /// The configuration; without members if this replica has not been added yet.
    pub configuration: Configuration,
    /// The cluster's feature level, up to which this replica accepts commands.
    pub feature_level: FeatureLevel,
}

/// Measurements of the network path to another replica over datagrams (UDP).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathStatus {
    /// Smoothed round-trip time, in microseconds.
    pub round_trip_us: u64,
    /// Share of the datagrams to the other replica that are lost, in permille.
    pub loss_permille: u32,
    /// Number of datagrams with retransmitted bytes, since the datagram connections to the other
    /// replica were made.
    pub resent: u64,
}

/// Readings of the replicated clock, by which keys expire, and of the replicas' wall clocks, which
/// the replicated clock follows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClockStatus {
    /// Latest known reading of the replicated clock, in milliseconds since 1970; 0 if unknown.
    pub replicated: u64,
    /// Latest time, in milliseconds since 1970, that the wall clocks of a quorum have reached;
    /// `None` if the wall clocks of too few replicas are known.
    pub agreed: Option<u64>,
    /// Number of jumps of this replica's wall clock since the process started, including jumps that
    /// the replicated clock did not follow.
    pub jumps: u64,
    /// Number of times that the replicated clock was set back by `CLOCK RESET`.
    pub resets: u64,
    /// For each peer, how far its wall clock is ahead of this replica's, in milliseconds (negative:
    /// behind); `None` if the peer has not reported its clock recently.
    pub peers: Vec<(NodeId, Option<i64>)>,
}

/// The state of a replica's snapshots, for `INFO persistence`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SnapshotInfo {
    /// Index of the last log entry that the latest snapshot covers; 0 if there is no snapshot.
    pub index: Index,
    /// Size of the latest snapshot in bytes; 0 if there is no snapshot.
    pub bytes: u64,
    /// Unix time in seconds at which the latest snapshot was completed, or was loaded when the
    /// replica started; 0 if there is no snapshot.
    pub saved_at: u64,
    /// Whether a snapshot is being taken now.
    pub taking: bool,
    /// Whether the latest attempt to take a snapshot failed.
    pub failed: bool,
    /// Number of snapshots that this process has completed.
    pub saves: u64,
    /// Number of attempts to take a snapshot that have failed since the process started.
    pub failures: u64,
    /// Duration of the latest completed snapshot in seconds; `None` before the first.
    pub last_seconds: Option<u64>,
    /// Time in seconds since the snapshot that is being taken began; `None` if none is being taken.
    pub current_seconds: Option<u64>,
}

/// Facts about the machine and the program, for `INFO`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SystemInfo {
    /// Name, release and architecture of the operating system.
    pub os: String,
    /// Memory of the machine in bytes; 0 if unknown.
    pub memory_bytes: u64,
    /// Path of the program.
    pub executable: String,
}

/// Event counters of the consensus core (Raft) since the process started, for `INFO`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RaftCounters {
    /// Number of disk writes that took so long that the disk counted as stalled, since the process
    /// started.
    pub disk_stalls: u64,
    /// Number of reads that this replica, as leader, answered under its lease, without confirming
    /// its leadership with a quorum, since the process started.
    pub lease_reads: u64,
    /// Number of reads that this replica, as leader, answered after a quorum had confirmed its
    /// leadership (read index), since the process started.
    pub read_index_reads: u64,
    /// Number of leadership transfers that this replica, as leader, has begun since the process
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
    /// Ids of the members that have not answered this replica's rejoin request yet, in ascending
    /// order.
    pub waiting_for: Vec<NodeId>,
    /// Index up to which this replica's log must be durable before the replica is a full member
    /// again; `None` until a leader has reported its last entry.
    pub target: Option<Index>,
}

impl Context {
    /// Returns the initial context of the replica `me`, which knows no peers and no leader yet.
    pub fn alone(me: ReplicaInfo, cluster_fingerprint: u128, now: Instant) -> Context {
        Context {
            me: me.id,
            cluster_fingerprint,
            nodes: vec![me],
            is_witness: false,
            members: MembersInfo::default(),
            folder_level: FeatureLevel::OLDEST,
            leader: None,
            transfer_target: None,
            role: RoleName::Follower,
            term: Term(0),
            last_index: Index::ZERO,
            first_index: Index(1),
            durable_index: Index::ZERO,
            commit_index: Index::ZERO,
            applied_index: Index::ZERO,
            databases: Vec::new(),
            kept_scripts: KeptScripts::default(),
            history: HistoryStatus::default(),
            blocked_clients: 0,
            state_digest: 0,
            digest_marks: VecDeque::new(),
            digest_comparison: None,
            now,
            started: now,
            wall_clock: Duration::ZERO,
            clocks: ClockStatus::default(),
            process_id: 0,
            run_id: 0,
            clients_bytes: 0,
            dataset_bytes: 0,
            lazyfree_pending_objects: 0,
            lazyfreed_objects: 0,
            log_bytes: 0,
            used_memory: 0,
            used_memory_peak: 0,
            resident_bytes: 0,
            is_full: false,
            snapshot: SnapshotInfo::default(),
            disk: DiskState::Healthy,
            disk_free: 0,
            disk_reserve: 0,
            disk_refused: 0,
            counters: RaftCounters::default(),
            leader_changes: 0,
            rejoining: None,
            lagging_reads: 0,
            log_syncs: 0,
            traffic: Traffic::default(),
            rates: Rates::default(),
            statistics: CommandStatistics::default(),
            keyspace_statistics: KeyspaceStatistics::default(),
            cpu_user: Duration::ZERO,
            cpu_system: Duration::ZERO,
            system: SystemInfo::default(),
            debug: false,
            access: Access::default(),
            acl_log: AclLog::default(),
            slow_log: SlowLog::default(),
            write_traces: WriteTraces::default(),
            sentinel_name: "mymaster".to_owned(),
            subscriptions: Arc::default(),
            client_indexes: BTreeMap::new(),
            tracking: TrackingStatus::default(),
            monitors: 0,
            pause: None,
            payload_bytes_max: 64 << 20,
        }
    }

    /// Resets these statistics.
    pub fn reset(&mut self, statistics: Statistics) {
        match statistics {
            Statistics::SlowLog | Statistics::Latency => self.slow_log.reset(statistics),
            Statistics::AclLog => self.acl_log.clear(),
            Statistics::Counters => self.reset_statistics(),
        }
    }

    /// Returns a copy for metrics. It lacks the parts that may be large: the slow log, the
    /// subscriptions, the ids of clients, and the percentiles of latencies.
    #[must_use]
    pub fn copy_for_metrics(&mut self) -> Context {
        let slow_log = std::mem::take(&mut self.slow_log);
        let subscriptions = std::mem::take(&mut self.subscriptions);
        let client_indexes = std::mem::take(&mut self.client_indexes);
        let statistics = std::mem::take(&mut self.statistics);
        let mut copy = self.clone();
        copy.statistics = statistics.without_percentiles();
        self.slow_log = slow_log;
        self.subscriptions = subscriptions;
        self.client_indexes = client_indexes;
        self.statistics = statistics;
        copy
    }

    /// Sets the counters that Redis resets on `CONFIG RESETSTAT` to 0.
    pub fn reset_statistics(&mut self) {
        self.traffic = Traffic { clients: self.traffic.clients, ..Traffic::default() };
        self.rates.reset();
        self.statistics.reset();
        self.keyspace_statistics = KeyspaceStatistics::default();
        self.lazyfreed_objects = 0;
        self.acl_log.reset_counts();
    }

    /// Sets the applied index, and raises the commit index and the last index to it if they are
    /// lower. They can be lower because the consensus core reports them separately. So every reply
    /// satisfies `applied <= commit <= last`.
    pub fn note_applied(&mut self, applied: Index) {
        self.applied_index = applied;
        self.note_log(self.last_index, self.commit_index);
    }

    /// Adds digests of the state at later log indexes, and drops the oldest if there are too many.
    pub fn note_digests(&mut self, marks: Vec<(Index, u64)>) {
        self.digest_marks.extend(marks);
        let excess = self.digest_marks.len().saturating_sub(DIGEST_MARKS_MAX);
        self.digest_marks.drain(..excess);
    }

    /// Sets the last index and the commit index, as reported by the consensus core, but not below
    /// the applied index.
    pub fn note_log(&mut self, last: Index, commit: Index) {
        self.commit_index = commit.max(self.applied_index);
        self.last_index = last.max(self.commit_index);
    }

    /// Returns the number of keys of all databases.
    pub fn key_count(&self) -> u64 {
        self.databases.iter().map(|size| size.key_count as u64).sum()
    }

    /// Returns the number of keys of all databases that have an expiration time.
    pub fn expires_count(&self) -> u64 {
        self.databases.iter().map(|size| size.expires_count as u64).sum()
    }

    /// Returns the average expiration time of the keys of all databases that have one, in
    /// milliseconds since 1970; `None` if no key expires.
    pub fn average_expiry(&self) -> Option<u64> {
        let sum = |size: &DatabaseSize| {
            u128::from(size.average_expiry.unwrap_or(0)) * size.expires_count as u128
        };
        let sum: u128 = self.databases.iter().map(sum).sum();
        u64::try_from(sum.checked_div(self.expires_count().into())?).ok()
    }

    /// Returns the number of other members.
    pub fn peer_count(&self) -> usize {
        let members = self.members.configuration.members();
        members.len() - usize::from(members.contains_key(&self.me))
    }

    /// Returns the replica with this id; `None` if it is not in the cluster.
    pub fn node(&self, id: NodeId) -> Option<&ReplicaInfo> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// Iterates over the replicas that have data, which clients may use: all except witnesses.
    pub(super) fn data_nodes(&self) -> impl Iterator<Item = &ReplicaInfo> + Clone {
        let members = &self.members.configuration;
        let is_self = |node: &ReplicaInfo| node.id == self.me && self.is_witness;
        self.nodes.iter().filter(move |node| !members.is_witness(node.id) && !is_self(node))
    }

    /// Returns the replica that this replica considers the leader; `None` if it knows no leader.
    pub fn leader(&self) -> Option<&ReplicaInfo> {
        self.node(self.leader?)
    }

    /// Returns the `MOVED` error that redirects a request for the hash slot `slot` to the leader.
    /// `None` if this replica is the leader, no leader is known, or `slot` is `None`.
    pub(super) fn moved(&self, slot: Option<u16>) -> Option<Failure<'_>> {
        let leader = self.leader().filter(|_| !self.leads())?;
        Some(Failure::Moved { slot: slot?, host: &leader.host, port: leader.port })
    }

    /// Returns the error for a command that needs the feature level `level`; `None` if the cluster
    /// has that level.
    pub(super) fn refusal_below(&self, level: FeatureLevel) -> Option<String> {
        if level <= self.members.feature_level {
            return None;
        }
        let is_known_soon = level <= self.folder_level;
        Some(if is_known_soon { Failure::NoLeader.to_string() } else { level.refusal() })
    }

    /// Returns whether this replica considers itself the leader.
    pub fn leads(&self) -> bool {
        self.leader == Some(self.me)
    }

    /// Returns the number of other replicas whose logs are known to be durable up to `index`, which
    /// must be committed here. At least those of a majority, without this replica. Only the leader
    /// knows more.
    pub fn replicas_with(&self, index: Index) -> usize {
        let others = self.nodes.iter().filter(|node| node.id != self.me);
        let known = others.filter(|node| node.match_index.is_some_and(|there| there >= index));
        known.count().max(self.members.configuration.voters().count() / 2)
    }

    /// Returns the replication offset of `node` for replies: the applied index if `node` is this
    /// replica, otherwise the match index of `node` (0 if unknown).
    pub(super) fn replication_offset(&self, node: &ReplicaInfo) -> u64 {
        let index = if node.id == self.me { Some(self.applied_index) } else { node.match_index };
        index.unwrap_or_default().0
    }

    /// Returns the id of a replica in replies to `CLUSTER` and `SENTINEL` commands: 40 hexadecimal
    /// digits, as in Redis, which contain the cluster's fingerprint and the replica's id.
    pub(super) fn name_of(&self, id: NodeId) -> String {
        format!("{:032x}{:08x}", self.cluster_fingerprint, id.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::session::subscriptions::{SubscriptionChange, SubscriptionKind};
    use super::*;

    fn node() -> ReplicaInfo {
        ReplicaInfo {
            id: NodeId(1),
            host: String::new(),
            port: 1,
            peer_port: 2,
            connected: true,
            match_index: None,
            path: None,
            disk: DiskState::Healthy,
            program: None,
        }
    }

    #[test]
    fn command_of_a_higher_feature_level_is_refused_until_the_level_is_raised() {
        let mut context = Context::alone(node(), 0, Instant::ZERO);
        let refusal = |context: &Context| context.refusal_below(FeatureLevel::V0_2);
        assert_eq!(context.refusal_below(FeatureLevel::V0_1), None);
        assert_eq!(refusal(&context), Some(FeatureLevel::V0_2.refusal()));
        context.folder_level = FeatureLevel::V0_2;
        let text = refusal(&context).unwrap();
        assert!(text.starts_with("CLUSTERDOWN "), "the client tries again: {text}");
        context.members.feature_level = FeatureLevel::V0_2;
        assert_eq!(refusal(&context), None);
    }

    #[test]
    fn copy_for_metrics_changes_nothing_and_lacks_the_large_parts() {
        let mut context = Context::alone(node(), 0, Instant::ZERO);
        context.statistics.count_error(b"ERR x");
        let (kind, name, subscribes) = (SubscriptionKind::Channel, "channel".into(), true);
        Arc::make_mut(&mut context.subscriptions)
            .apply(7, &[SubscriptionChange { kind, name, subscribes }]);
        let copy = context.copy_for_metrics();
        assert_eq!((copy.statistics.error_count(), copy.subscriptions.channel_count()), (1, 0));
        assert_eq!(copy.me, context.me);
        let subscriptions = context.subscriptions.channel_count();
        assert_eq!((context.statistics.error_count(), subscriptions), (1, 1));
    }

    #[test]
    fn info_keeps_applied_index_at_most_commit_and_last_index() {
        let mut context = Context::alone(node(), 0, Instant::ZERO);
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
