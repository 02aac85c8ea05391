//! The configuration of a replica: every timeout and limit of consensus, and the checks that they
//! fit together.

use std::time::Duration;

/// Which followers a leader sends new entries to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FanOut {
    /// All followers at once.
    All,
    /// Just enough followers for a quorum, the least recently used first, so that the set rotates
    /// and every follower gets entries often.
    Thrifty,
}

/// The configuration of a replica. Start from [`Config::server`] or [`Config::course`], change
/// fields, and call [`Config::validate`] before use.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// Heartbeat interval: a follower that was sent nothing for this long gets an empty
    /// `AppendEntries`.
    pub heartbeat_interval: Duration,
    /// Heartbeat interval for a follower that does not answer, so that a dead one costs little.
    pub heartbeat_interval_silent: Duration,
    /// Lowest election timeout. Replicas do not vote for this long after they heard from a leader.
    /// The same on all replicas, because leases rely on it.
    pub election_timeout_min: Duration,
    /// Highest election timeout without message loss.
    pub election_timeout_max: Duration,
    /// Extension of the election timeout: proportional to the measured loss, all of it from 30 %.
    pub election_timeout_lossy_extra: Duration,
    /// Number of times a candidate requests each vote within one election, for 20 % to 40 % of
    /// message loss. Half of it below 20 %, twice as many from 40 %.
    pub vote_attempts: u32,
    /// How long a candidate with a majority of pre-votes waits for the other replies, so that a
    /// replica with a longer log can object.
    pub pre_vote_delay: Duration,
    /// Check-quorum window: a leader that heard from no quorum for this long steps down.
    pub check_quorum_window: Duration,
    /// The check-quorum window from 30 % of message loss; proportional in between.
    pub check_quorum_window_lossy: Duration,
    /// Interval at which a leader probes all followers when most of the check-quorum window has
    /// passed without replies. Doubles with each probe, up to four times this.
    pub quorum_probe_interval: Duration,
    /// Which followers new entries are sent to.
    pub fan_out: FanOut,
    /// Whether a leader serves reads on its lease, without asking a quorum.
    pub lease_reads: bool,
    /// Bound on the relative drift of any two monotonic clocks, in parts per million.
    pub clock_drift_ppm: u32,
    /// Safety margin subtracted from the lease, in addition to the drift.
    pub lease_margin: Duration,
    /// Maximum entries in one `AppendEntries`.
    pub append_entries_max: usize,
    /// Maximum bytes of records in one `AppendEntries`. A single larger record is sent alone.
    pub append_bytes_max: usize,
    /// Maximum `AppendEntries` with entries in flight to one follower.
    pub inflight_appends_max: usize,
    /// Maximum bytes of records in flight to one follower.
    pub inflight_bytes_max: usize,
    /// Maximum bytes of uncommitted records on a leader. Above it, the leader refuses writes as
    /// busy.
    pub uncommitted_bytes_max: usize,
    /// Lower bound of the retransmission timeout. Where each message has a cost, it is long enough
    /// for the next entry to replace the lost message.
    pub retransmit_timeout_min: Duration,
    /// The same for the first retransmissions where so many messages are lost that most entries
    /// need one.
    pub retransmit_timeout_min_lossy: Duration,
    /// Upper bound of the retransmission timeout.
    pub retransmit_timeout_max: Duration,
    /// Retransmission timeout before the first round trip is measured.
    pub retransmit_timeout_initial: Duration,
    /// How long a replica sends nothing after its start.
    pub silence_after_start: Duration,
    /// Delay of the first election of a new replica, after that silence and before the random part
    /// of its election timeout. A client's request ends it.
    pub first_election_delay: Duration,
    /// How long a request waits while no leader is known.
    pub request_wait: Duration,
    /// The same at a replica that reached no quorum in a whole election.
    pub request_wait_isolated: Duration,
    /// Maximum requests that wait for a leader. Further ones are refused.
    pub waiting_requests_max: usize,
    /// Maximum reads that wait for a read index. Further ones are refused as busy.
    pub waiting_reads_max: usize,
    /// Whether a leader limits the commit index in its messages to what it has applied and
    /// answered, so that the next leader answers what this one may not have (course only).
    pub commit_index_after_replies: bool,
    /// How long a leader waits before it sends a new commit index to a follower in a message of
    /// its own, so that the follower can answer its clients. `None`: only with the next append or
    /// heartbeat, where each message has a cost.
    pub commit_notice_after: Option<Duration>,
    /// Bytes of the log kept after compaction, so that a follower that lags a little needs no
    /// snapshot. Entries after the latest snapshot count as well.
    pub log_bytes_kept: usize,
    /// Bytes of the log above which entries covered by a snapshot are removed even if a follower
    /// needs them.
    pub log_bytes_max: usize,
    /// Minimum interval between two snapshot chunks to one follower. With the chunk size, which
    /// the driver chooses, it bounds the rate of a transfer.
    pub snapshot_chunk_interval: Duration,
    /// A disk that completes nothing for this long while work waits for it is stalled: a leader
    /// transfers its leadership, a follower does not campaign. `None`: never, where no work waits
    /// for a disk.
    pub disk_stall_timeout: Option<Duration>,
    /// How long a leader waits for the target of a leadership transfer. It accepts no requests
    /// meanwhile.
    pub leadership_transfer_timeout: Duration,
    /// Interval between attempts to transfer the leadership.
    pub leadership_transfer_interval: Duration,
    /// The safety rule that this replica breaks; `None` for none.
    #[cfg(feature = "mutants")]
    pub mutant: Option<Mutant>,
}

/// An invalid configuration, and what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value is out of range, or two values contradict each other.
    #[error("{0}")]
    Relation(String),
}

impl Config {
    /// The configuration of the server.
    #[must_use]
    pub fn server() -> Config {
        Config {
            heartbeat_interval: Duration::from_millis(50),
            heartbeat_interval_silent: Duration::from_millis(200),
            election_timeout_min: Duration::from_millis(300),
            election_timeout_max: Duration::from_millis(600),
            election_timeout_lossy_extra: Duration::from_millis(600),
            vote_attempts: 4,
            pre_vote_delay: Duration::from_millis(5),
            check_quorum_window: Duration::from_secs(1),
            check_quorum_window_lossy: Duration::from_secs(2),
            quorum_probe_interval: Duration::from_millis(50),
            fan_out: FanOut::All,
            lease_reads: false,
            clock_drift_ppm: 2_000,
            lease_margin: Duration::from_millis(5),
            append_entries_max: usize::MAX,
            append_bytes_max: 1 << 20,
            inflight_appends_max: 256,
            inflight_bytes_max: 16 << 20,
            uncommitted_bytes_max: 64 << 20,
            retransmit_timeout_min: Duration::from_millis(10),
            retransmit_timeout_min_lossy: Duration::from_millis(10),
            retransmit_timeout_max: Duration::from_secs(1),
            retransmit_timeout_initial: Duration::from_millis(100),
            silence_after_start: Duration::ZERO,
            first_election_delay: Duration::ZERO,
            request_wait: Duration::from_secs(2),
            request_wait_isolated: Duration::from_secs(2),
            waiting_requests_max: 10_000,
            waiting_reads_max: 100_000,
            commit_index_after_replies: false,
            commit_notice_after: Some(Duration::from_millis(1)),
            log_bytes_kept: 16 << 20,
            log_bytes_max: 96 << 20,
            snapshot_chunk_interval: Duration::from_millis(4),
            disk_stall_timeout: Some(Duration::from_secs(1)),
            leadership_transfer_timeout: Duration::from_millis(600),
            leadership_transfer_interval: Duration::from_secs(2),
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }

    /// Adapts the log's limits to a snapshot every `log_bytes` of log: a quarter of that is kept
    /// after compaction, and at least half more is kept for followers that need it.
    #[must_use]
    pub fn with_snapshots_after(self, log_bytes: u64) -> Config {
        let log_bytes = usize::try_from(log_bytes).unwrap_or(usize::MAX);
        Config {
            log_bytes_kept: log_bytes / 4,
            log_bytes_max: self.log_bytes_max.max(log_bytes.saturating_add(log_bytes / 2)),
            ..self
        }
    }

    /// Limits the log in memory to a quarter of `bytes`, the memory limit of the process; 0 for no
    /// limit. The log exceeds it while no snapshot can be taken.
    #[must_use]
    pub fn within_memory(self, bytes: u64) -> Config {
        if bytes == 0 {
            return self;
        }
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        Config {
            log_bytes_kept: self.log_bytes_kept.min(bytes / 16),
            log_bytes_max: self.log_bytes_max.min(bytes / 4),
            ..self
        }
    }

    /// The configuration under the course's simulators, which count every message between replicas
    /// and lose up to half of them.
    #[must_use]
    pub fn course() -> Config {
        Config {
            heartbeat_interval: Duration::from_millis(500),
            heartbeat_interval_silent: Duration::from_secs(1),
            election_timeout_min: Duration::from_secs(1),
            election_timeout_max: Duration::from_secs(2),
            election_timeout_lossy_extra: Duration::from_secs(1),
            vote_attempts: 4,
            pre_vote_delay: Duration::from_millis(10),
            check_quorum_window: Duration::from_secs(1),
            check_quorum_window_lossy: Duration::from_secs(3),
            quorum_probe_interval: Duration::from_millis(100),
            fan_out: FanOut::Thrifty,
            lease_reads: true,
            clock_drift_ppm: 2_000,
            lease_margin: Duration::from_millis(20),
            append_entries_max: 25,
            append_bytes_max: 8 << 10,
            inflight_appends_max: 8,
            inflight_bytes_max: 64 << 10,
            uncommitted_bytes_max: 16 << 20,
            retransmit_timeout_min: Duration::from_millis(150),
            retransmit_timeout_min_lossy: Duration::from_millis(3),
            retransmit_timeout_max: Duration::from_millis(250),
            retransmit_timeout_initial: Duration::from_millis(20),
            silence_after_start: Duration::from_secs(1),
            first_election_delay: Duration::from_secs(2),
            request_wait: Duration::from_millis(2_500),
            request_wait_isolated: Duration::from_secs(1),
            waiting_requests_max: 10_000,
            waiting_reads_max: 10_000,
            commit_index_after_replies: true,
            commit_notice_after: None,
            log_bytes_kept: usize::MAX,
            log_bytes_max: usize::MAX,
            snapshot_chunk_interval: Duration::from_millis(4),
            disk_stall_timeout: None,
            leadership_transfer_timeout: Duration::from_secs(2),
            leadership_transfer_interval: Duration::from_secs(4),
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }

    /// Checks that the values fit together.
    ///
    /// # Errors
    /// If two values contradict each other, with their names and what to change.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let invalid = |text: String| Err(ConfigError::Relation(text));
        if self.heartbeat_interval.is_zero()
            || self.heartbeat_interval * 2 > self.election_timeout_min
        {
            return invalid(format!(
                "heartbeat_interval is {:?}; make it more than zero and at most half of \
                 election_timeout_min ({:?}), or a single lost heartbeat starts an election",
                self.heartbeat_interval, self.election_timeout_min
            ));
        }
        if self.election_timeout_max <= self.election_timeout_min {
            return invalid(format!(
                "election_timeout_max ({:?}) must be above election_timeout_min ({:?}), or all \
                 replicas campaign at the same time",
                self.election_timeout_max, self.election_timeout_min
            ));
        }
        if self.check_quorum_window < self.heartbeat_interval * 2
            || self.check_quorum_window_lossy < self.check_quorum_window
        {
            return invalid(format!(
                "check_quorum_window is {:?} and check_quorum_window_lossy {:?}; make the first at \
                 least two heartbeat_intervals ({:?}) and the second no shorter than the first",
                self.check_quorum_window, self.check_quorum_window_lossy, self.heartbeat_interval
            ));
        }
        if self.lease_reads && self.lease_length().is_zero() {
            return invalid(format!(
                "lease_reads is on, but election_timeout_min ({:?}) minus {} ppm of drift and \
                 lease_margin ({:?}) leaves no lease; raise the timeout or turn lease_reads off",
                self.election_timeout_min, self.clock_drift_ppm, self.lease_margin
            ));
        }
        if self.retransmit_timeout_min_lossy.is_zero()
            || self.retransmit_timeout_min < self.retransmit_timeout_min_lossy
            || self.retransmit_timeout_max < self.retransmit_timeout_min
        {
            return invalid(format!(
                "retransmit_timeout_min_lossy is {:?}, retransmit_timeout_min {:?} and \
                 retransmit_timeout_max {:?}; make the first more than zero and each no shorter \
                 than the one before",
                self.retransmit_timeout_min_lossy,
                self.retransmit_timeout_min,
                self.retransmit_timeout_max
            ));
        }
        for (name, value) in [
            ("append_entries_max", self.append_entries_max),
            ("append_bytes_max", self.append_bytes_max),
            ("inflight_appends_max", self.inflight_appends_max),
            ("inflight_bytes_max", self.inflight_bytes_max),
            ("uncommitted_bytes_max", self.uncommitted_bytes_max),
            ("vote_attempts", self.vote_attempts as usize),
        ] {
            if value == 0 {
                return invalid(format!(
                    "{name} is 0, so nothing could be sent; make it at least 1"
                ));
            }
        }
        Ok(())
    }

    /// The length of the lease, from the start of a round that a quorum confirmed: the lowest
    /// election timeout minus the drift of two clocks and a margin (thesis 6.4.1). Zero if nothing
    /// is left.
    #[must_use]
    pub fn lease_length(&self) -> Duration {
        let drift = self.election_timeout_min * 2 * self.clock_drift_ppm / 1_000_000;
        self.election_timeout_min.saturating_sub(drift).saturating_sub(self.lease_margin)
    }

    /// Whether this replica breaks the rule of `mutant`. Always false without the feature.
    #[cfg(feature = "mutants")]
    pub(crate) fn breaks(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Whether this replica breaks the rule of `mutant`. Always false without the feature.
    #[cfg(not(feature = "mutants"))]
    #[expect(clippy::unused_self, reason = "the same signature with and without the feature")]
    pub(crate) const fn breaks(&self, _mutant: Mutant) -> bool {
        false
    }
}

/// A safety rule that a build with the feature `mutants` can break, to show that the tests notice.
/// Each rule is described by its name in `src/guide/guarantees.md`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// A replica votes again when it sees the term of its vote again.
    VoteTwice,
    /// Votes are sent before they are durable.
    VoteBeforeSync,
    /// A follower acknowledges entries before they are durable.
    AcknowledgeBeforeSync,
    /// A follower acknowledges its own last index instead of the last one that the message proves.
    AcknowledgeOwnLast,
    /// A leader counts itself before the entry is durable on its own disk.
    CountSelfEarly,
    /// A leader commits entries of earlier terms by counting replicas.
    CommitOldTerms,
    /// A replica votes without comparing the candidate's log with its own.
    VoteForShorterLog,
    /// Half of the replicas count as a quorum.
    HalfIsQuorum,
    /// A duplicate of an earlier append truncates the entries after it.
    TruncateAlways,
    /// A follower keeps entries that conflict with the leader's.
    KeepConflicts,
    /// A reply of an earlier term changes the match index.
    ReplyOfOldTerm,
    /// A chunk of an earlier leader's snapshot is acknowledged to the current leader.
    ChunkReplyOfOldTerm,
    /// A follower takes the leader's commit index without limiting it to the proven entries.
    CommitUnclamped,
    /// A leader serves reads before it has committed an entry of its own term.
    ReadBeforeOwnTerm,
    /// A read index is confirmed by a round that began before the read arrived.
    ReadOnOldRound,
    /// The lease lasts for two election timeouts.
    LeaseTooLong,
    /// A replica votes although it heard from a leader within the lowest election timeout.
    VoteUnderLease,
    /// A replica that lost its disk votes before it has rejoined.
    VoteWhileRejoining,
    /// A replica that lost its disk acknowledges entries once a majority, not all, has answered.
    RejoinWithoutAll,
    /// A replica that lost its disk is a full member again before it has caught up.
    RejoinBeforeCaughtUp,
    /// The lease promise to a leader counts from before its message was received.
    PromiseBeforeReceipt,
    /// Requests that are sent again are applied again.
    ApplyTwice,
    /// A state installed from a snapshot has an empty deduplication table.
    SnapshotWithoutSessions,
    /// A completed sync counts for an entry that was replaced meanwhile.
    SyncOfReplacedEntry,
    /// A failed sync counts as completed.
    IgnoreFailedSync,
    /// The last block is not written again at a start, although its sync may have failed.
    TrustLastBlock,
    /// The directory is not synced after a segment is created.
    UnsyncedSegmentName,
    /// The directory is not synced after the meta record is replaced.
    UnsyncedRecordName,
    /// The directory is not synced after a snapshot is renamed into place.
    UnsyncedSnapshotName,
    /// A start deletes files before the directory entries that make them obsolete are synced.
    DeleteBeforeSync,
    /// The checksum of a sector is not verified.
    IgnoreSectorChecksum,
    /// The links from each block and segment to the one before are not verified.
    IgnoreChain,
    /// A missing sector counts as a torn tail even if there is data after it.
    TruncateDamage,
    /// A damaged sector counts as a torn tail.
    TruncateDamagedSector,
    /// A leader sets the replicated clock to its own wall clock, without a majority.
    FollowWallClock,
    /// A read is served from a state whose replicated clock has not reached the time of the read.
    ReadBeforeClock,
    /// A replica does not remember which openings of a peer's log it has seen.
    AcceptOldCopy,
    /// A peer is accepted although its list of openings does not reach back to the last one seen.
    ForgetOldOpenings,
    /// The log is compacted when a snapshot begins.
    CompactLogEarly,
    /// A snapshot counts before it is synced.
    UnsyncedSnapshot,
    /// The latest snapshot is deleted when the next one begins.
    RemoveLatestSnapshotEarly,
    /// A leader's snapshot replaces a newer state.
    InstallOlderSnapshot,
    /// Chunks of different snapshots are combined.
    MixChunks,
    /// The checksums of a snapshot are not verified.
    IgnoreSnapshotChecksum,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_configurations_are_valid() {
        assert_eq!(Config::server().validate(), Ok(()));
        assert_eq!(Config::course().validate(), Ok(()));
    }

    #[test]
    fn contradicting_values_are_refused_by_name() {
        let broken = |change: fn(&mut Config)| {
            let mut config = Config::course();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(broken(|c| c.heartbeat_interval = c.election_timeout_min).contains("heartbeat"));
        assert!(broken(|c| c.election_timeout_max = c.election_timeout_min).contains("_max"));
        assert!(broken(|c| c.check_quorum_window = Duration::ZERO).contains("check_quorum"));
        assert!(broken(|c| c.lease_margin = c.election_timeout_min).contains("lease"));
        assert!(broken(|c| c.retransmit_timeout_min = Duration::ZERO).contains("retransmit"));
        assert!(broken(|c| c.append_entries_max = 0).contains("append_entries_max"));
    }

    #[test]
    fn lease_is_shorter_than_the_lowest_election_timeout() {
        for config in [Config::server(), Config::course()] {
            assert!(config.lease_length() < config.election_timeout_min);
        }
    }
}
