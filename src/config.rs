//! The configuration of a replica: every timeout and limit of the consensus protocol, and the
//! checks that they are consistent.

use std::time::Duration;

use crate::feature_level::FeatureLevel;

/// Which followers a leader sends new entries to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FanOut {
    /// The leader sends new entries to all followers.
    All,
    /// The leader sends new entries to only as many followers as a quorum needs, preferring those
    /// to which it has sent least recently. The choice therefore rotates, and every follower
    /// receives entries regularly.
    Thrifty,
}

/// The configuration of a replica. Start from [`Config::server`] or [`Config::course`], change
/// fields, and call [`Config::validate`] before use.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// Heartbeat interval: a follower that has been sent nothing for this long gets an empty
    /// `AppendEntries`.
    pub heartbeat_interval: Duration,
    /// Heartbeat interval for a follower that does not answer. Longer than `heartbeat_interval`, so
    /// that a follower that may be down costs fewer messages.
    pub heartbeat_interval_silent: Duration,
    /// Minimum election timeout. A replica that has heard from a leader grants no vote to another
    /// replica for this long. Must be equal on all replicas, because leader leases rely on it.
    pub election_timeout_min: Duration,
    /// Maximum election timeout while no messages are lost. Each timeout is drawn at random between
    /// the minimum and the maximum.
    pub election_timeout_max: Duration,
    /// Time added to each election timeout while messages are lost. It grows with the measured loss
    /// rate, from zero without loss to this value at a loss rate of 30 % or more.
    pub election_timeout_lossy_extra: Duration,
    /// Base number of times that a candidate requests a vote from each peer that does not answer.
    /// It uses this number if 12 % to 40 % of the messages are lost, twice the number at a higher
    /// loss, and half of it at a lower loss. Two exceptions apply below 12 %: a quarter of the
    /// number if the latest campaigns reached no quorum, because the candidate is then probably
    /// isolated; the full number if the last campaign reached a quorum but was lost.
    pub vote_attempts: u32,
    /// How long a candidate that has a majority of pre-votes waits for the other replies before it
    /// requests votes, so that a replica with a longer log can object.
    pub pre_vote_delay: Duration,
    /// Check-quorum window: a leader that has not heard from a quorum for this long steps down.
    pub check_quorum_window: Duration,
    /// Check-quorum window while 30 % or more of the messages are lost. Below 30 % the window grows
    /// with the loss, from `check_quorum_window` to this value.
    pub check_quorum_window_lossy: Duration,
    /// Interval between a leader's first two quorum probes. The leader sends a probe, which is a
    /// message to all followers, when most of the check-quorum window has passed without replies
    /// from a quorum. The interval doubles after each further probe, up to four times this value.
    pub quorum_probe_interval: Duration,
    /// Which followers the leader sends new entries to: all of them, or only as many as a quorum
    /// needs.
    pub fan_out: FanOut,
    /// Whether a leader answers reads during its lease, without confirming its leadership with a
    /// quorum first.
    pub lease_reads: bool,
    /// Maximum relative drift between any two monotonic clocks, in parts per million, for which
    /// leader leases are safe.
    pub clock_drift_ppm: u32,
    /// Safety margin by which a leader's lease is shortened, in addition to the clock drift.
    pub lease_margin: Duration,
    /// Maximum number of entries in one `AppendEntries` message.
    pub append_entries_max: usize,
    /// Maximum total size of the encoded entries in one `AppendEntries` message, in bytes. A single
    /// larger entry is sent in a message of its own.
    pub append_bytes_max: usize,
    /// Maximum number of `AppendEntries` messages in flight (sent, but not acknowledged) to one
    /// follower, not counting messages without entries.
    pub inflight_appends_max: usize,
    /// Maximum total size of the encoded entries in flight (sent, but not acknowledged) to one
    /// follower, in bytes. The last message may exceed it.
    pub inflight_bytes_max: usize,
    /// Maximum total size of a leader's uncommitted entries, in bytes. Once it is reached, writes
    /// are refused as busy; the last write that was accepted may exceed it. The server lets writes
    /// wait instead, before it hands them to the leader.
    pub uncommitted_bytes_max: usize,
    /// Lower bound of the retransmission timeout of `AppendEntries` messages. In the university
    /// course's simulator, which counts messages, the bound is so high that the next message
    /// usually carries the lost entries as well.
    pub retransmit_timeout_min: Duration,
    /// Lower bound of the retransmission timeout for the first few retransmissions to a peer while
    /// message loss is high. Otherwise, `retransmit_timeout_min` applies.
    pub retransmit_timeout_min_lossy: Duration,
    /// Upper bound of the retransmission timeout.
    pub retransmit_timeout_max: Duration,
    /// Retransmission timeout for a peer whose round-trip time has not been measured yet.
    pub retransmit_timeout_initial: Duration,
    /// Period after a replica's start in which it neither sends messages to its peers nor accepts
    /// any from them. In the university course's simulator, all replicas have thus started before
    /// the first message. Zero in the server.
    pub silence_after_start: Duration,
    /// Extra delay of the first election of a new replica, in addition to `silence_after_start` and
    /// the random part of the election timeout. A client's request ends the delay.
    pub first_election_delay: Duration,
    /// How long a replica keeps a client's request while it knows no leader. Then it refuses the
    /// request.
    pub request_wait: Duration,
    /// How long a replica that reached no quorum in its last campaign, and is probably isolated,
    /// keeps a client's request while it knows no leader.
    pub request_wait_isolated: Duration,
    /// Maximum number of client requests that wait at a replica until it knows a leader. Further
    /// requests are refused as busy.
    pub waiting_requests_max: usize,
    /// Maximum number of reads that wait at a leader until a quorum confirms its leadership (read
    /// index). Further reads are refused as busy.
    pub waiting_reads_max: usize,
    /// Whether a leader sends a commit index to its followers only after it has applied the entries
    /// up to it and answered their clients. A new leader then knows which clients may not have been
    /// answered, and answers them. Used only in the university course's simulator.
    pub commit_index_after_replies: bool,
    /// How long a leader waits for new entries with which it can send a new commit index to a
    /// follower. If there are none by then, it sends a message without entries, so that the
    /// follower can answer its clients. With [`FanOut::Thrifty`], the wait starts again with each
    /// new commit index, and the leader sends such a message only at low message loss, and only to
    /// a follower that would otherwise, as the next leader, answer too many requests a second time.
    /// `None`: the leader sends the commit index only with the next entries or heartbeat, which
    /// takes fewer messages.
    pub commit_notice_after: Option<Duration>,
    /// Size in bytes of the latest log entries that stay in memory when the log is compacted after
    /// a snapshot, so that a follower that lags only a little does not need the snapshot.
    pub log_bytes_kept: usize,
    /// Size in bytes of the log in memory above which entries that a snapshot covers are removed
    /// even if a follower still needs them. The follower then gets the snapshot.
    pub log_bytes_max: usize,
    /// Whether this replica is a witness: it keeps the log and votes, but has no data, and leads
    /// only until a replica with data takes over.
    pub is_witness: bool,
    /// Size in bytes of the log of a witness above which it drops the older half, as far as the
    /// entries are committed. A replica with data that lacks dropped entries cannot get them from
    /// the witness.
    pub witness_log_bytes_max: usize,
    /// Minimum interval between two snapshot chunks that are sent to the same follower. Together
    /// with the size of a chunk, it limits the transfer rate.
    pub snapshot_chunk_interval: Duration,
    /// How long the operations of a disk may be pending without any of them completing before the
    /// disk counts as stalled. A leader with a stalled disk transfers its leadership; a follower
    /// does not campaign. `None`: a disk never counts as stalled.
    pub disk_stall_timeout: Option<Duration>,
    /// How long a leader waits for the target of a leadership transfer to become the leader. The
    /// old leader accepts no client requests meanwhile.
    pub leadership_transfer_timeout: Duration,
    /// Minimum time between a failed leadership transfer and the leader's next attempt.
    pub leadership_transfer_interval: Duration,
    /// The feature level that the replica tells the leader that it supports, and up to which it
    /// raises that of the cluster when it leads: that of this program in the server. The lowest one
    /// where all replicas run the same program and never raise it.
    pub feature_level: FeatureLevel,
    /// Deliberate bug of this replica, for mutation testing; `None` for a correct replica.
    #[cfg(feature = "mutants")]
    pub mutant: Option<Mutant>,
}

/// The reason why a [`Config`] is invalid. The error text says what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value is out of range, or two values contradict each other. The text names the values and
    /// says how to change them.
    #[error("invalid configuration: {0}")]
    Relation(String),
}

impl Config {
    /// Returns the default configuration of a replica in the server.
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
            is_witness: false,
            witness_log_bytes_max: 64 << 20,
            snapshot_chunk_interval: Duration::from_millis(4),
            disk_stall_timeout: Some(Duration::from_secs(1)),
            leadership_transfer_timeout: Duration::from_millis(600),
            leadership_transfer_interval: Duration::from_secs(2),
            feature_level: FeatureLevel::OLDEST,
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }

    /// Sets how much of the log stays in memory, for a replica that takes a snapshot after its log
    /// has grown by `log_bytes` bytes: `log_bytes_kept` becomes a quarter of `log_bytes`, and
    /// `log_bytes_max` is raised to one and a half times `log_bytes` if it is lower.
    #[must_use]
    pub fn with_snapshots_after(self, log_bytes: u64) -> Config {
        let log_bytes = usize::try_from(log_bytes).unwrap_or(usize::MAX);
        Config {
            log_bytes_kept: log_bytes / 4,
            log_bytes_max: self.log_bytes_max.max(log_bytes.saturating_add(log_bytes / 2)),
            ..self
        }
    }

    /// Lowers the limits on the size of the log in memory to fit `bytes`, the memory limit of the
    /// process (0: no limit): `log_bytes_max` to at most a quarter of it, and `log_bytes_kept` to
    /// at most a sixteenth. If no snapshot can be taken, the log grows beyond these limits.
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

    /// Returns the configuration for a transport that retransmits lost messages itself, as TCP
    /// does. The consensus core then retransmits only after a long timeout, to replace messages
    /// that were dropped because a connection was lost or a queue was full. A copy sent earlier
    /// would only wait behind the transport's own retransmission.
    #[must_use]
    pub fn over_streams(self) -> Config {
        Config { retransmit_timeout_min: Duration::from_millis(100), ..self }
    }

    /// Returns the configuration for the university course's simulator, which counts all messages
    /// between replicas and drops up to half of them.
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
            first_election_delay: Duration::from_secs(3),
            request_wait: Duration::from_millis(2_500),
            request_wait_isolated: Duration::from_secs(1),
            waiting_requests_max: 10_000,
            waiting_reads_max: 10_000,
            commit_index_after_replies: true,
            commit_notice_after: Some(Duration::from_millis(20)),
            log_bytes_kept: usize::MAX,
            log_bytes_max: usize::MAX,
            is_witness: false,
            witness_log_bytes_max: usize::MAX,
            snapshot_chunk_interval: Duration::from_millis(4),
            disk_stall_timeout: None,
            leadership_transfer_timeout: Duration::from_secs(2),
            leadership_transfer_interval: Duration::from_secs(4),
            feature_level: FeatureLevel::OLDEST,
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

    /// Returns the length of a leader's lease: the minimum election timeout minus the drift of two
    /// clocks and a safety margin (Raft dissertation, section 6.4.1), or zero if nothing remains.
    /// The lease starts when the leader sends a message round (a numbered batch of messages) that a
    /// quorum answers.
    #[must_use]
    pub fn lease_length(&self) -> Duration {
        let drift = self.election_timeout_min * 2 * self.clock_drift_ppm / 1_000_000;
        self.election_timeout_min.saturating_sub(drift).saturating_sub(self.lease_margin)
    }

    /// Returns whether this replica has the deliberate bug `mutant`, for mutation testing. Always
    /// false in a build without the feature `mutants`.
    #[cfg(feature = "mutants")]
    pub(crate) fn breaks(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Returns whether this replica has the deliberate bug `mutant`, for mutation testing. Always
    /// false in a build without the feature `mutants`.
    #[cfg(not(feature = "mutants"))]
    #[expect(clippy::unused_self, reason = "the same signature with and without the feature")]
    pub(crate) const fn breaks(&self, _mutant: Mutant) -> bool {
        false
    }
}

/// A deliberate bug, which makes a replica break one safety rule, to show that the tests detect it
/// (mutation testing; only in builds with the feature `mutants`). The safety rules are described in
/// `src/guide/guarantees.md`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// Deliberate bug: a replica ignores that it has already voted in a term, so it may vote for
    /// two candidates.
    VoteTwice,
    /// Deliberate bug: a leader raises the cluster's feature level although some members have not
    /// told yet which one they support.
    RaiseLevelEarly,
    /// Deliberate bug: a replica sends a vote before the vote is durable.
    VoteBeforeSync,
    /// Deliberate bug: a follower acknowledges entries before they are durable on its disk.
    AcknowledgeBeforeSync,
    /// Deliberate bug: a follower acknowledges all entries of its log, including those that the
    /// leader's messages have not proven equal to the leader's entries.
    AcknowledgeOwnLast,
    /// Deliberate bug: a leader counts its own copy of an entry towards the quorum before the entry
    /// is durable on its disk.
    CountSelfEarly,
    /// Deliberate bug: a leader commits an entry of an earlier term as soon as a majority has
    /// stored it (Figure 8 of the Raft paper).
    CommitOldTerms,
    /// Deliberate bug: a replica votes for a candidate without checking that the candidate's log is
    /// at least as up to date as its own.
    VoteForShorterLog,
    /// Deliberate bug: half of the replicas count as a quorum, instead of more than half.
    HalfIsQuorum,
    /// Deliberate bug: a follower truncates its log after the entries of each append that it
    /// receives, so a late duplicate of an earlier append removes newer entries.
    TruncateAlways,
    /// Deliberate bug: a follower keeps its own entries that conflict with the leader's.
    KeepConflicts,
    /// Deliberate bug: a leader accepts a reply to a message of an earlier term, and updates the
    /// follower's match index from it.
    ReplyOfOldTerm,
    /// Deliberate bug: a follower acknowledges to the current leader a snapshot chunk that it
    /// received from the leader of an earlier term.
    ChunkReplyOfOldTerm,
    /// Deliberate bug: a follower adopts the leader's commit index even beyond the last entry that
    /// is proven equal to the leader's.
    CommitUnclamped,
    /// Deliberate bug: a leader answers reads before it has committed an entry of its own term.
    ReadBeforeOwnTerm,
    /// Deliberate bug: a leader answers a read after a quorum has replied to messages that were
    /// sent before the read arrived. Such replies do not prove that it was still the leader when
    /// the read arrived.
    ReadOnOldRound,
    /// Deliberate bug: a leader's lease lasts twice as long as is safe.
    LeaseTooLong,
    /// Deliberate bug: a replica votes for another candidate although it has heard from a leader
    /// within the minimum election timeout, so the leader's lease may still be valid.
    VoteUnderLease,
    /// Deliberate bug: a replica that has lost its disk grants votes before it has rejoined the
    /// cluster.
    VoteWhileRejoining,
    /// Deliberate bug: a replica that has lost its disk acknowledges entries after a majority of
    /// the members, instead of all members, has answered its rejoin request.
    RejoinWithoutAll,
    /// Deliberate bug: a replica that has lost its disk becomes a full member again before its log
    /// contains the leader's last entry.
    RejoinBeforeCaughtUp,
    /// Deliberate bug: a witness that leads serves clients like a replica with data.
    WitnessServesClients,
    /// Deliberate bug: a leader may transfer its leadership to a witness.
    TransferToWitness,
    /// Deliberate bug: a witness that leads sends snapshots without data also to replicas with
    /// data.
    SnapshotWithoutDataForAll,
    /// Deliberate bug: a witness drops all applied entries, also the latest ones.
    WitnessDropsLog,
    /// Deliberate bug: a replica whose log was damaged assumes that the last term and vote before
    /// the damage are its latest ones.
    TrustDamagedVote,
    /// Deliberate bug: a replica whose folder was damaged votes although it has not recovered what
    /// is lost.
    RepairUnmarked,
    /// Deliberate bug: a replica whose state is wrong according to a majority of the voters keeps
    /// serving.
    KeepWrongState,
    /// Deliberate bug: a replica takes itself out of service as soon as any other one has another
    /// state.
    TrustMinorityDigest,
    /// Deliberate bug: in a joint configuration, a quorum of the new voters is enough.
    CountNewVotersOnly,
    /// Deliberate bug: a leader leaves the joint configuration before it is committed.
    EndJointEarly,
    /// Deliberate bug: a leader begins a membership change before it has committed an entry of its
    /// own term.
    ChangeBeforeOwnTerm,
    /// Deliberate bug: a leader begins a membership change while another one is in progress.
    OverlappingChanges,
    /// Deliberate bug: a replica still uses a configuration after its entry was truncated.
    KeepTruncatedConfiguration,
    /// Deliberate bug: a replica uses a configuration only when its entry is committed, not when it
    /// is appended.
    ConfigurationAtCommit,
    /// Deliberate bug: learners count like voters.
    CountLearners,
    /// Deliberate bug: a leader that is being removed counts itself towards the quorum of the
    /// configuration without it.
    CountRemovedLeader,
    /// Deliberate bug: a replica that is no voter campaigns.
    LearnerCampaigns,
    /// Deliberate bug: a snapshot does not contain the configuration of the members.
    SnapshotWithoutConfiguration,
    /// Deliberate bug: after a follower has heard from its leader, it grants no votes for some
    /// time, but measures this time from before the arrival of the leader's message, so the time
    /// may end before the leader's lease.
    PromiseBeforeReceipt,
    /// Deliberate bug: a client's write that a replica has forwarded to the leader twice, for
    /// example because the first reply was lost, is applied twice.
    ApplyTwice,
    /// Deliberate bug: a batch of several operations is applied twice if two log entries contain
    /// it.
    ApplyBatchTwice,
    /// Deliberate bug: a batch of several operations is split into two log entries, so it is not
    /// applied atomically.
    TearBatch,
    /// Deliberate bug: installing a snapshot clears the client sessions and their stored results,
    /// so a request that a client sends again is applied again.
    SnapshotWithoutSessions,
    /// Deliberate bug: installing a snapshot drops the pieces of an incomplete batch, so the batch
    /// is not applied when its last piece is.
    SnapshotWithoutPieces,
    /// Deliberate bug: the pieces of an incomplete batch are kept when the term of another leader
    /// begins.
    KeepPieces,
    /// Deliberate bug: a leader refuses a large write that is completely in its log.
    RefuseCompletedWrite,
    /// Deliberate bug: when a disk sync completes, an entry is treated as durable although another
    /// entry replaced it in the log during the sync.
    SyncOfReplacedEntry,
    /// Deliberate bug: a failed sync of the disk is treated as completed.
    IgnoreFailedSync,
    /// Deliberate bug: when a replica starts, it does not rewrite the last block of its log,
    /// although an earlier sync of this block to disk may have failed.
    TrustLastBlock,
    /// Deliberate bug: the directory is not synced after a log segment is created, so a power cut
    /// can lose the segment's name.
    UnsyncedSegmentName,
    /// Deliberate bug: the directory is not synced after the file `meta` is replaced, so a power
    /// cut can restore the old file. The file contains the members, the log segments and the list
    /// of the replica's starts, which its peers use to detect an old copy of its folder.
    UnsyncedRecordName,
    /// Deliberate bug: the directory is not synced after a snapshot gets its final name, so a power
    /// cut can lose the name.
    UnsyncedSnapshotName,
    /// Deliberate bug: a replica that starts deletes obsolete files before it has synced the
    /// directory entries of the files that replace them.
    DeleteBeforeSync,
    /// Deliberate bug: the checksums of the log's sectors are not verified when the log is read.
    IgnoreSectorChecksum,
    /// Deliberate bug: the links (checksums) from each block and segment of the log to the previous
    /// one are not verified when the log is read.
    IgnoreChain,
    /// Deliberate bug: an empty sector is taken for the end of the log even if data follows it, so
    /// the entries after it are lost silently.
    TruncateDamage,
    /// Deliberate bug: a damaged sector is taken for an incomplete write at the end of the log, so
    /// the entries after it are lost silently.
    TruncateDamagedSector,
    /// Deliberate bug: a leader sets the replicated clock to its own wall clock, even if a quorum's
    /// wall clocks have not reached that time.
    FollowWallClock,
    /// Deliberate bug: a replica answers a read from a state whose replicated clock is behind the
    /// time at which the read was confirmed.
    ReadBeforeClock,
    /// Deliberate bug: a replica ignores its record of the latest process start of each peer, so it
    /// accepts a peer whose disk was restored from an older copy.
    AcceptOldCopy,
    /// Deliberate bug: a replica accepts a peer's list of its latest process starts (one random
    /// number per start) even if the list is too short to contain the start that the replica has
    /// recorded for the peer. So the replica may accept a peer whose data was wiped and
    /// bootstrapped again, or restored from an older copy.
    ForgetOldStarts,
    /// Deliberate bug: the log is compacted when a snapshot is begun, before the snapshot is
    /// complete and durable.
    CompactLogEarly,
    /// Deliberate bug: a snapshot is treated as durable before it is synced to disk.
    UnsyncedSnapshot,
    /// Deliberate bug: the latest snapshot is deleted when the next one is begun, before the next
    /// one is complete.
    RemoveLatestSnapshotEarly,
    /// Deliberate bug: a replica installs a leader's snapshot although its own state is newer.
    InstallOlderSnapshot,
    /// Deliberate bug: a replica combines chunks of different snapshots into one snapshot.
    MixChunks,
    /// Deliberate bug: the checksums of a snapshot are not verified when it is read or installed.
    IgnoreSnapshotChecksum,
    /// Deliberate bug: the receiver of a datagram stream delivers duplicate bytes to its
    /// reader.
    DeliverBytesAgain,
    /// Deliberate bug: the sender of a datagram stream does not retransmit lost bytes.
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
    fn error_for_contradicting_configuration_names_the_setting() {
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
    fn leader_lease_is_shorter_than_the_minimum_election_timeout() {
        for config in [Config::server(), Config::course()] {
            assert!(config.lease_length() < config.election_timeout_min);
        }
    }
}
