//! What a replica knows of itself and of its cluster, as far as replies tell of it. The door fills
//! it in and keeps it up to date; nothing here changes it.

use std::time::Duration;

use crate::types::{DiskState, Index, Instant, NodeId, RoleName, Term};

use crate::redis::commands::pubsub::Subscriptions;
use crate::redis::failure::Failure;
use crate::redis::slow_log::SlowLog;

/// The facts that replies are made of.
#[derive(Debug, Clone)]
pub struct Context {
    /// This replica.
    pub me: NodeId,
    /// What clients may see of the cluster's id: a fingerprint, of which the id can't be computed.
    pub cluster_fingerprint: u128,
    /// All replicas, this one too, in order of their ids.
    pub nodes: Vec<ReplicaInfo>,
    /// Whom this replica believes to lead.
    pub leader: Option<NodeId>,
    /// Its own role.
    pub role: RoleName,
    /// Its term.
    pub term: Term,
    /// The last entry of its log.
    pub last_index: Index,
    /// The first entry of its log that is not only in a snapshot.
    pub first_index: Index,
    /// Up to here its log is on disk.
    pub durable_index: Index,
    /// Up to here its log is committed, as far as it knows.
    pub commit_index: Index,
    /// Up to here its store has come.
    pub applied_index: Index,
    /// How many keys its store has, at a recent moment.
    pub key_count: u64,
    /// How many of them end some day.
    pub expires_count: u64,
    /// The state at `applied_index` as a number, which is equal where states are.
    pub state_digest: u64,
    /// The reading of the monotonic clock that this batch goes by.
    pub now: Instant,
    /// When the replica started, by the same clock.
    pub started: Instant,
    /// The wall clock, since 1970. Only shown (`TIME`), never decided upon.
    pub wall_clock: Duration,
    /// The replicated clock, and the clocks that it goes by.
    pub clocks: ClockStatus,
    /// The system's number of the process.
    pub process_id: u32,
    /// A number drawn at each start, by which tools see that a server was started again.
    pub run_id: u128,
    /// Bytes that all clients together hold, at a recent moment.
    pub clients_bytes: u64,
    /// Bytes of memory that the state takes.
    pub dataset_bytes: u64,
    /// Those that the log does.
    pub log_bytes: u64,
    /// Both, and what clients hold.
    pub used_memory: u64,
    /// What the system has given the process, 0 if unknown.
    pub resident_bytes: u64,
    /// Whether so much is in use that no command may add to it.
    pub is_full: bool,
    /// Its snapshots, at a recent moment.
    pub snapshot: SnapshotInfo,
    /// How its disk is.
    pub disk: DiskState,
    /// Bytes that are free on it, at a recent moment.
    pub disk_free: u64,
    /// Below so many bytes of room writes are refused.
    pub disk_reserve: u64,
    /// How many writes of clients here were refused because disks were short of room.
    pub disk_refused: u64,
    /// What the replica's core has counted since the start.
    pub counters: RaftCounters,
    /// How far this replica has come with rejoining after the loss of its disk; `None` if it is a
    /// full member.
    pub rejoining: Option<RejoinProgress>,
    /// Syncs of the log since the start.
    pub log_syncs: u64,
    /// What went through the door so far.
    pub traffic: Traffic,
    /// Whether `DEBUG` may be used.
    pub debug: bool,
    /// What took long.
    pub slow_log: SlowLog,
    /// How clients that ask a Sentinel call this cluster.
    pub sentinel_name: String,
    /// Who listens to what.
    pub subscriptions: Subscriptions,
    /// Most bytes of a command's payload: what is larger is refused, for no log would take it.
    pub payload_bytes_max: usize,
}

/// A replica, as clients find it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaInfo {
    /// Which one.
    pub id: NodeId,
    /// The host that clients should use; a name or an address, without brackets.
    pub host: String,
    /// The port for clients.
    pub port: u16,
    /// The port for peers.
    pub peer_port: u16,
    /// Whether this replica has heard from it lately; true for itself.
    pub connected: bool,
    /// Up to here its log equals the leader's, as the leader knows; `None` elsewhere.
    pub match_index: Option<Index>,
    /// How its disk is, as it last told the leader; `Well` elsewhere.
    pub disk: DiskState,
}

/// The replicated clock, by which keys expire, and the clocks that it goes by. Times are in
/// milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClockStatus {
    /// What the replicated clock shows by now, as far as this replica knows.
    pub replicated: u64,
    /// What the wall clocks of a quorum have reached; `None` if too few are known.
    pub agreed: Option<u64>,
    /// Jumps of this replica's wall clock since the start, believed or not.
    pub jumps: u64,
    /// How often the replicated clock was reset.
    pub resets: u64,
    /// By how many milliseconds each peer's wall clock is ahead of this replica's; `None` if it was
    /// not heard lately.
    pub peers: Vec<(NodeId, Option<i64>)>,
}

/// A replica's snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SnapshotInfo {
    /// The latest one's last entry; zero if there is none.
    pub index: Index,
    /// Its size.
    pub bytes: u64,
    /// When it was taken, or found at the start, in seconds since 1970.
    pub saved_at: u64,
    /// Whether one is being taken.
    pub taking: bool,
    /// Whether the last attempt to take one failed.
    pub failed: bool,
}

/// What went through the door since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Clients connected now.
    pub clients: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Connections refused, for there were too many.
    pub connections_refused: u64,
    /// Requests answered.
    pub commands: u64,
    /// Bytes read from clients.
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
    /// A replica by itself, that knows no leader: what a door begins with, and tests.
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

    /// The store has come so far. What it applied is committed and in the log, whatever was heard
    /// of these last: `applied <= commit <= last` holds in every reply.
    pub fn note_applied(&mut self, applied: Index) {
        self.applied_index = applied;
        self.note_log(self.last_index, self.commit_index);
    }

    /// How far the log went and was committed at some recent moment.
    pub fn note_log(&mut self, last: Index, commit: Index) {
        self.commit_index = commit.max(self.applied_index);
        self.last_index = last.max(self.commit_index);
    }

    /// The replica `id`, if there is one.
    pub fn node(&self, id: NodeId) -> Option<&ReplicaInfo> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// The replica that is believed to lead, if any is.
    pub fn leader(&self) -> Option<&ReplicaInfo> {
        self.node(self.leader?)
    }

    /// Whom a client is sent to, if somebody else leads and it wants to hear so: that is, if there
    /// is a slot.
    pub(super) fn moved(&self, slot: Option<u16>) -> Option<Failure<'_>> {
        let leader = self.leader().filter(|_| !self.leads())?;
        Some(Failure::Moved { slot: slot?, host: &leader.host, port: leader.port })
    }

    /// Whether this replica leads.
    pub fn leads(&self) -> bool {
        self.leader == Some(self.me)
    }

    /// A replica's name of 40 hex digits, as Redis Cluster's nodes have one: the cluster's
    /// fingerprint and the replica's id.
    pub(super) fn name_of(&self, id: NodeId) -> String {
        format!("{:032x}{:08x}", self.cluster_fingerprint, id.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_of_different_moments_never_contradict_one_another() {
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
