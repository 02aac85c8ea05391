//! The configuration of a replica: every timeout and limit of the consensus protocol, and the
//! checks that they are consistent.

use std::time::Duration;

/// Which followers a leader sends new entries to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FanOut {
    /// The leader sends new entries to all followers.
    All,
    /// The leader sends new entries to only as many followers as a quorum needs, starting with
    /// those to which it has not sent for the longest time. The choice therefore rotates, and every
    /// follower receives entries regularly.
    Thrifty,
}

/// The configuration of a replica. Start from [`Config::server`] or [`Config::course`], change
/// fields, and call [`Config::validate`] before use.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// Heartbeat interval: a follower that has been sent nothing for this long gets an empty
    /// `AppendEntries`.
    pub heartbeat_interval: Duration,
    /// Heartbeat interval for a follower that is not answering. Longer than `heartbeat_interval`,
    /// so that fewer messages are sent to a follower that may be down.
    pub heartbeat_interval_silent: Duration,
    /// Minimum election timeout. After hearing from a leader, a replica votes for no other replica
    /// for this long. Must be equal on all replicas, because leases rely on it.
    pub election_timeout_min: Duration,
    /// Maximum election timeout while no messages are lost.
    pub election_timeout_max: Duration,
    /// Extra time added to the election timeout in proportion to the measured message loss: none
    /// without loss, all of it if 30 % or more of the messages are lost.
    pub election_timeout_lossy_extra: Duration,
    /// Number of times a candidate requests each vote within one campaign while 20 % to 40 % of the
    /// messages are lost. Twice as many times from 40 % on; half as many below 20 %, or a quarter
    /// if the replica has recently failed to reach a quorum.
    pub vote_attempts: u32,
    /// How long a candidate that has a majority of pre-votes waits for the remaining replies, so
    /// that a replica with a longer log can object.
    pub pre_vote_delay: Duration,
    /// Check-quorum window: a leader that has not heard from a quorum for this long steps down.
    pub check_quorum_window: Duration,
    /// Check-quorum window while 30 % or more of the messages are lost. Below 30 % the window grows
    /// with the loss, from `check_quorum_window` to this value.
    pub check_quorum_window_lossy: Duration,
    /// Time from a leader's first quorum probe to the second. A probe is a message to all
    /// followers, sent when most of the check-quorum window has passed without replies from a
    /// quorum. The interval doubles after each further probe, up to four times this value.
    pub quorum_probe_interval: Duration,
    /// Which followers a leader sends new entries to: all of them, or only as many as a quorum
    /// needs.
    pub fan_out: FanOut,
    /// Whether a leader serves reads under its lease, without asking a quorum.
    pub lease_reads: bool,
    /// Upper bound on the relative drift of any two monotonic clocks, in parts per million.
    pub clock_drift_ppm: u32,
    /// Safety margin that shortens the lease, in addition to the clock drift.
    pub lease_margin: Duration,
    /// Maximum number of entries in one `AppendEntries`.
    pub append_entries_max: usize,
    /// Maximum total size of the encoded entries in one `AppendEntries`, in bytes. A single larger
    /// entry is sent alone.
    pub append_bytes_max: usize,
    /// Maximum number of `AppendEntries` messages in flight to one follower, not counting messages
    /// without entries.
    pub inflight_appends_max: usize,
    /// Maximum total size of the encoded entries in flight to one follower, in bytes. The last
    /// message may exceed it.
    pub inflight_bytes_max: usize,
    /// Total size of a leader's uncommitted entries, in bytes, from which on writes are refused as
    /// busy. The last write that is accepted may exceed it.
    pub uncommitted_bytes_max: usize,
    /// Lower bound of the retransmission timeout. For the university course's simulator, which
    /// counts messages, the bound is so high that the next append usually carries the lost entries
    /// as well.
    pub retransmit_timeout_min: Duration,
    /// Lower bound of the timeout for the first few retransmissions to a peer while message loss is
    /// high. In all other cases `retransmit_timeout_min` applies.
    pub retransmit_timeout_min_lossy: Duration,
    /// Upper bound of the retransmission timeout.
    pub retransmit_timeout_max: Duration,
    /// Retransmission timeout for a peer whose round-trip time has not been measured yet.
    pub retransmit_timeout_initial: Duration,
    /// Time after the start of a replica during which it neither sends messages to its peers nor
    /// accepts messages from them.
    pub silence_after_start: Duration,
    /// Delay of a new replica's first election, in addition to `silence_after_start` and the random
    /// part of the election timeout. A client's request ends the delay.
    pub first_election_delay: Duration,
    /// How long a replica keeps a client's request while it knows no leader. After that it refuses
    /// the request.
    pub request_wait: Duration,
    /// How long a replica that reached no quorum in its last campaign keeps a client's request
    /// while it knows no leader.
    pub request_wait_isolated: Duration,
    /// Maximum number of client requests that may be waiting at a replica for a leader. Further
    /// requests are refused as busy.
    pub waiting_requests_max: usize,
    /// Maximum number of reads that may be waiting at a leader for a quorum to confirm its
    /// leadership (read index). Further reads are refused as busy.
    pub waiting_reads_max: usize,
    /// Whether the commit index in a leader's messages covers only entries that the leader has
    /// applied and whose clients it has answered. If so, the next leader answers the clients that
    /// this leader may not have answered (only for the university course's simulator).
    pub commit_index_after_replies: bool,
    /// How long a leader delays sending a new commit index to a follower, so that the next entries
    /// can carry it. After that the leader sends a message without entries, so that the follower
    /// can answer its clients. `None`: the commit index is sent only with the next entries or
    /// heartbeat, which takes fewer messages.
    pub commit_notice_after: Option<Duration>,
    /// Size in bytes of the log entries kept in memory after log compaction, so that a follower
    /// that lags only a little needs no snapshot. Includes the entries after the latest snapshot.
    pub log_bytes_kept: usize,
    /// Size in bytes of the log in memory above which entries covered by a snapshot are removed
    /// even if a follower still needs them.
    pub log_bytes_max: usize,
    /// Minimum interval between two snapshot chunks sent to one follower. Together with the chunk
    /// size, which the driver chooses, it limits the transfer rate.
    pub snapshot_chunk_interval: Duration,
    /// Time without a completed operation after which a disk counts as stalled, if operations are
    /// pending. A leader with a stalled disk transfers its leadership; a follower does not
    /// campaign. `None`: a disk never counts as stalled.
    pub disk_stall_timeout: Option<Duration>,
    /// How long a leader waits for the target of a leadership transfer to become leader. During
    /// this time the old leader accepts no client requests.
    pub leadership_transfer_timeout: Duration,
    /// Time after an unsuccessful leadership transfer before the leader may start another one.
    pub leadership_transfer_interval: Duration,
    /// The safety rule that this replica breaks on purpose (mutation testing); `None` for no rule.
    #[cfg(feature = "mutants")]
    pub mutant: Option<Mutant>,
}

/// The reason why a [`Config`] is invalid. The error text says what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value is out of range, or two values contradict each other. The text names the values and
    /// says what to change.
    #[error("{0}")]
    Relation(String),
}

impl Config {
    /// Returns the default configuration for the server.
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

    /// Sets the limits on the log in memory for a replica that takes a snapshot only after its log
    /// has grown by at least `log_bytes` bytes: `log_bytes_kept` becomes a quarter of `log_bytes`,
    /// and `log_bytes_max` is raised to one and a half times `log_bytes` if it is lower.
    #[must_use]
    pub fn with_snapshots_after(self, log_bytes: u64) -> Config {
        let log_bytes = usize::try_from(log_bytes).unwrap_or(usize::MAX);
        Config {
            log_bytes_kept: log_bytes / 4,
            log_bytes_max: self.log_bytes_max.max(log_bytes.saturating_add(log_bytes / 2)),
            ..self
        }
    }

    /// Lowers the limits on the log in memory to fit the memory limit of the process, `bytes` (0:
    /// no limit): `log_bytes_max` to at most a quarter of `bytes`, and `log_bytes_kept` to at most
    /// a sixteenth. The log exceeds these limits while no snapshot can be taken.
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

    /// Returns the configuration for a transport that itself retransmits what the network loses, as
    /// TCP does. The core then retransmits late, only in case a lost connection or a full queue has
    /// dropped a message: an earlier copy would queue behind the one that the transport is still
    /// retransmitting.
    #[must_use]
    pub fn over_streams(self) -> Config {
        Config { retransmit_timeout_min: Duration::from_millis(100), ..self }
    }

    /// Returns the configuration for the university course's simulators, which count every message
    /// between replicas and drop up to half of these messages.
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

    /// Checks that each value of the configuration is in its range and that no two values
    /// contradict each other.
    ///
    /// # Errors
    /// If a value is out of range or two values contradict each other. The error names the values
    /// and says what to change.
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

    /// Returns the length of the lease, measured from the start of a round of messages that a
    /// quorum has answered: the minimum election timeout minus the drift of two clocks and a safety
    /// margin (thesis 6.4.1). Zero if nothing remains.
    #[must_use]
    pub fn lease_length(&self) -> Duration {
        let drift = self.election_timeout_min * 2 * self.clock_drift_ppm / 1_000_000;
        self.election_timeout_min.saturating_sub(drift).saturating_sub(self.lease_margin)
    }

    /// Returns whether this replica breaks the rule of `mutant` on purpose (mutation testing).
    /// Always false in a build without the feature `mutants`.
    #[cfg(feature = "mutants")]
    pub(crate) fn breaks(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Returns whether this replica breaks the rule of `mutant` on purpose (mutation testing).
    /// Always false in a build without the feature `mutants`.
    #[cfg(not(feature = "mutants"))]
    #[expect(clippy::unused_self, reason = "the same signature with and without the feature")]
    pub(crate) const fn breaks(&self, _mutant: Mutant) -> bool {
        false
    }
}

/// A safety rule that a replica breaks on purpose, to show that the tests detect it (mutation
/// testing; only in builds with the feature `mutants`). Each variant describes the resulting bug.
/// The rules are described in `src/guide/guarantees.md`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// Deliberate bug: a replica ignores that it has already voted in a term, so it may vote for
    /// two candidates.
    VoteTwice,
    /// Deliberate bug: a replica sends a vote before the vote is durable.
    VoteBeforeSync,
    /// Deliberate bug: a follower acknowledges entries before they are durable.
    AcknowledgeBeforeSync,
    /// Deliberate bug: a follower acknowledges all entries of its log, although the leader's
    /// messages prove only some of them equal to the leader's.
    AcknowledgeOwnLast,
    /// Deliberate bug: a leader counts itself towards the majority before the entry is durable on
    /// its own disk.
    CountSelfEarly,
    /// Deliberate bug: a leader commits entries of earlier terms because a majority holds them
    /// (Figure 8 of the Raft paper).
    CommitOldTerms,
    /// Deliberate bug: a replica votes for a candidate without checking that the candidate's log is
    /// at least as up to date as its own.
    VoteForShorterLog,
    /// Deliberate bug: half of the replicas count as a quorum, instead of more than half.
    HalfIsQuorum,
    /// Deliberate bug: a follower truncates its log after every append, so a late duplicate of an
    /// earlier append removes the entries after it.
    TruncateAlways,
    /// Deliberate bug: a follower keeps its own entries that conflict with the leader's.
    KeepConflicts,
    /// Deliberate bug: a leader accepts a reply from an earlier term and updates the follower's
    /// match index from it.
    ReplyOfOldTerm,
    /// Deliberate bug: a follower acknowledges a snapshot chunk of an earlier term's leader to the
    /// current leader.
    ChunkReplyOfOldTerm,
    /// Deliberate bug: a follower adopts the leader's commit index without limiting it to the
    /// entries that are proven equal to the leader's.
    CommitUnclamped,
    /// Deliberate bug: a leader serves reads before it has committed an entry of its own term.
    ReadBeforeOwnTerm,
    /// Deliberate bug: a read index counts as confirmed by a round of messages that began before
    /// the read arrived.
    ReadOnOldRound,
    /// Deliberate bug: a leader's lease lasts twice as long as it may.
    LeaseTooLong,
    /// Deliberate bug: a replica votes for another candidate although it has heard from a leader
    /// within the minimum election timeout.
    VoteUnderLease,
    /// Deliberate bug: a replica that has lost its disk votes before it has rejoined.
    VoteWhileRejoining,
    /// Deliberate bug: a replica that has lost its disk acknowledges entries once a majority of the
    /// members have told it their terms, instead of all members.
    RejoinWithoutAll,
    /// Deliberate bug: a replica that has lost its disk is a full member again before its log has
    /// reached the leader's last entry.
    RejoinBeforeCaughtUp,
    /// Deliberate bug: the period in which a follower votes for no other replica starts before the
    /// follower received the leader's message.
    PromiseBeforeReceipt,
    /// Deliberate bug: a client's write that a replica forwards to the leader twice, for example
    /// because the first reply was lost, is applied twice.
    ApplyTwice,
    /// Deliberate bug: a batch of several operations that is in the log twice is applied twice.
    ApplyBatchTwice,
    /// Deliberate bug: a batch of several operations becomes two log entries.
    TearBatch,
    /// Deliberate bug: a replica that installs a snapshot loses the deduplication table, so a
    /// repeated request is applied again.
    SnapshotWithoutSessions,
    /// Deliberate bug: a completed sync counts for an entry that was replaced while the sync was
    /// running.
    SyncOfReplacedEntry,
    /// Deliberate bug: a failed sync of the disk counts as completed.
    IgnoreFailedSync,
    /// Deliberate bug: when a replica starts, it does not write the last block of log records
    /// again, although an earlier sync of that block may have failed.
    TrustLastBlock,
    /// Deliberate bug: the directory is not synced after a log segment is created, so a power cut
    /// can lose the segment's name.
    UnsyncedSegmentName,
    /// Deliberate bug: the directory is not synced after the file `meta` (members, segments,
    /// history of starts) is replaced, so a power cut can restore the old one.
    UnsyncedRecordName,
    /// Deliberate bug: the directory is not synced after a snapshot gets its final name, so a power
    /// cut can lose the name.
    UnsyncedSnapshotName,
    /// Deliberate bug: a replica that starts deletes obsolete files before the directory entries of
    /// the files that replace them are synced.
    DeleteBeforeSync,
    /// Deliberate bug: the checksums of log sectors are not verified when the log is read.
    IgnoreSectorChecksum,
    /// Deliberate bug: when the log is read, the link from each block and segment to the previous
    /// one is not verified.
    IgnoreChain,
    /// Deliberate bug: a sector without data counts as the torn end of the log even if data follows
    /// it.
    TruncateDamage,
    /// Deliberate bug: a damaged sector counts as the torn end of the log, so entries after it are
    /// lost silently.
    TruncateDamagedSector,
    /// Deliberate bug: a leader sets the replicated clock to its own wall clock, without the
    /// agreement of a majority.
    FollowWallClock,
    /// Deliberate bug: a read is served from a state whose replicated clock has not reached the
    /// time at which the read was confirmed.
    ReadBeforeClock,
    /// Deliberate bug: a replica does not remember the starts that each peer has announced, so a
    /// peer that was restored from an older copy of its disk is accepted.
    AcceptOldCopy,
    /// Deliberate bug: a peer is accepted although the list of its recent starts lacks the start
    /// that was last seen, so a wiped and newly bootstrapped peer is accepted.
    ForgetOldOpenings,
    /// Deliberate bug: the log is compacted when a snapshot is begun, before the snapshot is
    /// complete and durable.
    CompactLogEarly,
    /// Deliberate bug: a snapshot counts as durable before it is synced to disk.
    UnsyncedSnapshot,
    /// Deliberate bug: the latest snapshot is deleted when the next one is begun, before the next
    /// one is complete.
    RemoveLatestSnapshotEarly,
    /// Deliberate bug: a replica installs a leader's snapshot although its own state is newer.
    InstallOlderSnapshot,
    /// Deliberate bug: a replica combines chunks of different snapshots into one.
    MixChunks,
    /// Deliberate bug: the checksums of a snapshot are not verified when it is read or installed.
    IgnoreSnapshotChecksum,
    /// Deliberate bug: the receiver of a stream of datagrams delivers bytes again that arrive
    /// again.
    DeliverBytesAgain,
    /// Deliberate bug: the sender of a stream of datagrams does not send lost bytes again.
    KeepLostBytes,
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
