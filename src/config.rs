//! Every limit and every interval of a replica, and the relations between them, checked once here.

use std::time::Duration;

/// To whom a leader sends new entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FanOut {
    /// To every follower, at once.
    All,
    /// To just enough followers for a quorum, the least recently served first, so that the set
    /// rotates and every follower hears often.
    Thrifty,
}

/// How a replica behaves. Make one with [`Config::server`] or [`Config::course`], change fields,
/// and let [`Config::validate`] look at it before use.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// A follower that had nothing else for so long gets an empty append.
    pub heartbeat_interval: Duration,
    /// A follower that does not answer gets heartbeats only so often, so that a dead one costs
    /// little.
    pub heartbeat_interval_silent: Duration,
    /// Lowest election timeout: within it after hearing a leader nobody votes. All replicas must
    /// agree on it, for leases rest on it.
    pub election_timeout_min: Duration,
    /// Highest election timeout where no message is lost.
    pub election_timeout_max: Duration,
    /// Added to both ends of the drawn timeout as measured loss grows to 30 % and above.
    pub election_timeout_lossy_extra: Duration,
    /// How often a candidate asks for votes within one election where 20 % of the messages are
    /// lost; half as often where fewer are, twice as often from 40 % on.
    pub vote_attempts: u32,
    /// How long a candidate that would win waits for one with a longer log to object.
    pub pre_vote_delay: Duration,
    /// A leader that has not heard from a quorum for so long steps down.
    pub check_quorum_window: Duration,
    /// The same where 30 % of the messages or more are lost; in between, in between.
    pub check_quorum_window_lossy: Duration,
    /// How soon a leader sends to all again once most of the window has passed in silence; the
    /// wait doubles each time, up to four times this.
    pub quorum_probe_interval: Duration,
    /// To whom new entries go.
    pub fan_out: FanOut,
    /// Whether a leader answers reads on its lease, without asking anybody.
    pub lease_reads: bool,
    /// Bound on the rates of any two clocks against each other, in parts per million.
    pub clock_drift_ppm: u32,
    /// Taken off the lease besides the drift.
    pub lease_margin: Duration,
    /// Most entries in one append.
    pub append_entries_max: usize,
    /// Most bytes of records in one append; one larger record travels alone.
    pub append_bytes_max: usize,
    /// Most appends with entries on their way to one follower.
    pub inflight_appends_max: usize,
    /// Most bytes of records on their way to one follower.
    pub inflight_bytes_max: usize,
    /// Most bytes of records that a leader holds uncommitted; above, it answers busy.
    pub uncommitted_bytes_max: usize,
    /// Lower bound on the wait for an answer before something is sent again. Where messages are
    /// dear it is long enough for the next entry to carry what got lost.
    pub retransmit_timeout_min: Duration,
    /// The same where so much is lost that most entries would have to wait for that.
    pub retransmit_timeout_min_lossy: Duration,
    /// Upper bound on the same, whatever was measured.
    pub retransmit_timeout_max: Duration,
    /// The wait before the first answer was measured.
    pub retransmit_timeout_initial: Duration,
    /// A replica sends nothing for so long after its start.
    pub silence_after_start: Duration,
    /// A new replica waits so long, after that silence, before the random part of its first
    /// election timeout, unless a client asks for something.
    pub first_election_delay: Duration,
    /// A request that came while no leader was known waits so long for one.
    pub request_wait: Duration,
    /// The same at a replica that found no quorum in a whole election.
    pub request_wait_isolated: Duration,
    /// Most requests waiting for a leader; the next one is refused.
    pub waiting_requests_max: usize,
    /// Most reads waiting for a confirmation; the next one is answered busy.
    pub waiting_reads_max: usize,
    /// The commit index shown to peers never passes what has been applied and answered here, so
    /// that a successor answers what this leader may not have answered (the course's door).
    pub commit_index_after_replies: bool,
    /// A follower that has not been shown the commit index for so long is sent it by itself, so
    /// that it can answer the clients that it serves; `None` leaves it to the next append or
    /// heartbeat, where every message counts.
    pub commit_notice_after: Option<Duration>,
    /// Bytes of the log that are kept although a snapshot holds them, so that a follower that was
    /// away for a moment needs no snapshot. Entries past the latest snapshot count too.
    pub log_bytes_kept: usize,
    /// Bytes of the log above which all that is in a snapshot goes, whoever may still need it.
    pub log_bytes_max: usize,
    /// A snapshot's chunks leave for one follower no sooner after each other: with the driver's
    /// size of a chunk that bounds the rate.
    pub snapshot_chunk_interval: Duration,
    /// A disk that has finished nothing for so long, while something waits for it, is stalled: a
    /// leader hands its lead over, and nobody stands for election. `None` where nothing waits for a
    /// disk.
    pub disk_stall_timeout: Option<Duration>,
    /// How long a leader that hands its lead over waits for its successor; so long it takes in no
    /// requests.
    pub leadership_transfer_timeout: Duration,
    /// From one attempt to hand the lead over to the next.
    pub leadership_transfer_interval: Duration,
    /// The rule that this replica breaks, if any: see [`Mutant`].
    #[cfg(feature = "mutants")]
    pub mutant: Option<Mutant>,
}

/// A configuration that can't work, with what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Two settings contradict each other, or one can't be.
    #[error("{0}")]
    Relation(String),
}

impl Config {
    /// The defaults of the durable server.
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

    /// The same for snapshots that are taken each time when the log has grown by so many bytes: of
    /// what is in one a quarter of that is kept, and for who needs it still at least half.
    #[must_use]
    pub fn with_snapshots_after(self, log_bytes: u64) -> Config {
        let log_bytes = usize::try_from(log_bytes).unwrap_or(usize::MAX);
        Config {
            log_bytes_kept: log_bytes / 4,
            log_bytes_max: self.log_bytes_max.max(log_bytes.saturating_add(log_bytes / 2)),
            ..self
        }
    }

    /// The same where so many bytes of memory may be in use in all, 0 for any number: the log in
    /// memory stays within a quarter of them, unless no snapshot can be taken.
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

    /// The defaults under the course's simulator, where every message between replicas counts
    /// and up to half of them are lost.
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

    /// Checks the relations between the limits.
    ///
    /// # Errors
    /// If one of them does not hold, with both names and what to do.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let wrong = |text: String| Err(ConfigError::Relation(text));
        if self.heartbeat_interval.is_zero()
            || self.heartbeat_interval * 2 > self.election_timeout_min
        {
            return wrong(format!(
                "heartbeat_interval is {:?}; make it more than zero and at most half of \
                 election_timeout_min ({:?}), or one lost heartbeat starts an election",
                self.heartbeat_interval, self.election_timeout_min
            ));
        }
        if self.election_timeout_max <= self.election_timeout_min {
            return wrong(format!(
                "election_timeout_max ({:?}) must be above election_timeout_min ({:?}), or all \
                 replicas stand for election at once",
                self.election_timeout_max, self.election_timeout_min
            ));
        }
        if self.check_quorum_window < self.heartbeat_interval * 2
            || self.check_quorum_window_lossy < self.check_quorum_window
        {
            return wrong(format!(
                "check_quorum_window is {:?} (lossy: {:?}); make it at least two heartbeat \
                 intervals ({:?}), and the lossy one no shorter",
                self.check_quorum_window, self.check_quorum_window_lossy, self.heartbeat_interval
            ));
        }
        if self.lease_reads && self.lease_length().is_zero() {
            return wrong(format!(
                "lease_reads is on, but election_timeout_min ({:?}) less {} ppm drift and \
                 lease_margin ({:?}) leaves nothing; raise the timeout or switch leases off",
                self.election_timeout_min, self.clock_drift_ppm, self.lease_margin
            ));
        }
        if self.retransmit_timeout_min_lossy.is_zero()
            || self.retransmit_timeout_min < self.retransmit_timeout_min_lossy
            || self.retransmit_timeout_max < self.retransmit_timeout_min
        {
            return wrong(format!(
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
                return wrong(format!("{name} is 0; nothing could ever be sent, set at least 1"));
            }
        }
        Ok(())
    }

    /// How long after the start of a confirmed round a leader may answer reads alone: shorter
    /// than any follower's lowest election timeout by the drift of two clocks and a margin
    /// (thesis 6.4.1). Zero if nothing is left.
    #[must_use]
    pub fn lease_length(&self) -> Duration {
        let drift = self.election_timeout_min * 2 * self.clock_drift_ppm / 1_000_000;
        self.election_timeout_min.saturating_sub(drift).saturating_sub(self.lease_margin)
    }

    /// Whether this replica is to break `mutant`'s rule. Always false without the feature.
    #[cfg(feature = "mutants")]
    pub(crate) fn breaks(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Whether this replica is to break `mutant`'s rule. Always false without the feature.
    #[cfg(not(feature = "mutants"))]
    #[expect(clippy::unused_self, reason = "the same face with and without the feature")]
    pub(crate) const fn breaks(&self, _mutant: Mutant) -> bool {
        false
    }
}

/// Safety rules that can be broken on purpose, to show that the simulator notices. Only the
/// feature `mutants` can choose one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// S2: the vote is forgotten when a term is seen again.
    VoteTwice,
    /// S2: votes leave before they are durable.
    VoteBeforeSync,
    /// S3: a follower acknowledges what is not yet durable.
    AcknowledgeBeforeSync,
    /// S3: a follower acknowledges its own last index instead of what was checked.
    AcknowledgeOwnLast,
    /// S3: a leader counts itself before its own disk has the entry.
    CountSelfEarly,
    /// S4: entries of earlier terms are committed by counting.
    CommitOldTerms,
    /// S5: a vote ignores the candidate's log.
    VoteForShorterLog,
    /// S6: half of the replicas are taken for a quorum.
    HalfIsQuorum,
    /// S7: a repeated append truncates what follows it.
    TruncateAlways,
    /// S7: conflicts are not truncated at all.
    KeepConflicts,
    /// S10: an answer of another term moves the match index.
    ReplyOfOldTerm,
    /// C2: a chunk of an earlier leader's snapshot is answered to the leader of today.
    ChunkReplyOfOldTerm,
    /// S11: a follower takes the leader's commit index uncut.
    CommitUnclamped,
    /// S12, C1: reads are served before an entry of the leader's own term is committed.
    ReadBeforeOwnTerm,
    /// C1: a read is confirmed by a round that began before it came.
    ReadOnOldRound,
    /// C3: the lease lasts for two election timeouts.
    LeaseTooLong,
    /// C3: votes are given although a leader was heard within the lowest election timeout.
    VoteUnderLease,
    /// A replica that lost its disk votes before it has rejoined.
    VoteWhileRejoining,
    /// A replica that lost its disk acknowledges entries once a majority has answered.
    RejoinWithoutAll,
    /// A replica that lost its disk is a full member again before it holds what it had forgotten.
    RejoinBeforeCaughtUp,
    /// A promise to a leader counts from a time before its message was received.
    PromiseBeforeReceipt,
    /// C6: retried requests are applied again.
    ApplyTwice,
    /// C6: a state that comes from a snapshot knows no sessions.
    SnapshotWithoutSessions,
    /// S10: the end of a sync counts for an entry that was replaced meanwhile.
    SyncOfReplacedEntry,
    /// D1: a sync that failed is taken for done.
    IgnoreFailedSync,
    /// D1: the last block is not written again at a start, though its sync may have failed.
    TrustLastBlock,
    /// D3: the folder is not synced after a segment got its name.
    UnsyncedSegmentName,
    /// D3: the folder is not synced after a record took the place of the one before.
    UnsyncedRecordName,
    /// D3: the folder is not synced after a snapshot got its name.
    UnsyncedSnapshotName,
    /// D3: at a start files are deleted before the folder is synced that says so.
    DeleteBeforeSync,
    /// D4: a sector's checksum is not looked at.
    IgnoreSectorChecksum,
    /// D4: what a block and a segment follow is not looked at.
    IgnoreChain,
    /// D5: a missing sector is taken for a torn tail whatever is written behind it.
    TruncateDamage,
    /// D5: a sector that is damaged is taken for one that was torn.
    TruncateDamagedSector,
    /// C7: a leader moves the replicated clock to its own wall clock, whatever that does.
    FollowWallClock,
    /// C7: reads are answered whatever the replicated clock shows in the state.
    ReadBeforeClock,
    /// D6: nobody remembers which openings of other replicas it has heard.
    AcceptOldCopy,
    /// A peer is believed whose list of openings does not reach back to the one that was heard
    /// last.
    ForgetOldOpenings,
    /// D8: the log is let go when a snapshot is begun.
    CompactLogEarly,
    /// D8: a snapshot counts before it is synced.
    UnsyncedSnapshot,
    /// D8: the latest snapshot is removed when the next one is begun.
    RemoveLatestSnapshotEarly,
    /// D8: a leader's snapshot takes the place of a state that has come further.
    InstallOlderSnapshot,
    /// D8: chunks of another snapshot are put to those that are here.
    MixChunks,
    /// D8: a snapshot's checksums are not looked at.
    IgnoreSnapshotChecksum,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Config::server().validate(), Ok(()));
        assert_eq!(Config::course().validate(), Ok(()));
    }

    #[test]
    fn contradictions_are_named() {
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
    fn a_lease_is_shorter_than_the_lowest_election_timeout() {
        for config in [Config::server(), Config::course()] {
            assert!(config.lease_length() < config.election_timeout_min);
        }
    }
}
