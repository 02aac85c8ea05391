//! Mutants: every safety rule broken on purpose ([`Mutant`]), and the simulator seed that notices
//! it. These tests show that the simulator finds violations.
//!
//! ```sh
//! cargo test --features mutants --test mutants
//! ```
//!
//! runs each listed seed with the rule broken, which must be noticed, and with all rules kept,
//! which must not. A change of the core, the faults or the workload can make a listed seed useless;
//! then the test searches for another one, passes if there is one, and prints it. To update the
//! list:
//!
//! ```sh
//! MUTANTS_SEARCH=1 cargo test --release --features mutants --test mutants search -- --nocapture
//! ```
//!
//! A mutant that no seed up to [`SEEDS_MAX`] notices is a hole in the simulator, to be closed
//! first.
//!
//! The rules of storage are in the list with the profiles that run its code over a disk in memory.
//! Two are not, because other rules mask them: the chain of blocks, which has its own test here,
//! and that a snapshot which ends before the latest is not kept. For the latter the core requests
//! no chunks, and a start uses the snapshot with the latest end; the rule itself is tested by
//! `crash::snapshots::invalid_snapshot_from_the_leader_modifies_no_file`.
//! The checksum of a record protects it on the network; on disk it is covered by the checksums of
//! its sectors and by the chain
//! (`record::tests::every_flipped_bit_and_truncation_of_a_log_entry_is_detected`).
//!
//! [`Mutant::PromiseBeforeReceipt`] is a rule of the runtime's core stage, which the simulator does
//! not run: the seeded driver of the stages notices it
//! (`runtime::stages::seeded_tests::random_schedules_detect_a_lease_that_predates_its_heartbeat`).

use std::panic::{AssertUnwindSafe, catch_unwind};

use bowline::config::{Config, Mutant};
use bowline::raft::HardState;
use bowline::record::{EntryKind, RecordBuffer};
use bowline::sim::cluster::trace::Trace;
use bowline::sim::fault_run;
use bowline::sim::faults::Profile;
use bowline::storage::{Disk as _, Log, LogOptions, MemDisk};
use bowline::types::{EntryId, NodeId, Term};

/// Highest seed that is tried: every mutant must be detected by a seed from 1 to this one.
const SEEDS_MAX: u64 = 2_000;

/// A mutant, with the profile of the simulation runs that must detect it.
#[derive(Clone, Copy)]
struct Hunt {
    mutant: Mutant,
    profile: Profile,
}

impl Hunt {
    /// Runs the simulation with the rule broken (`broken`) or kept. Returns the violation that a
    /// checker or an assertion of the core reports; `None` if there is none.
    fn noticed(self, seed: u64, broken: bool) -> Option<String> {
        let change = |config: &mut Config| {
            config.mutant = broken.then_some(self.mutant);
            // Only half of the seeds use leases; these runs are about nothing else.
            config.lease_reads |= self.mutant == Mutant::LeaseTooLong;
        };
        let run = || fault_run::run(self.profile, seed, Trace::default(), &change);
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(_)) => None,
            Ok(Err(failure)) => Some(failure.violation.to_string()),
            Err(panic) => {
                let words = panic.downcast_ref::<String>().map(String::as_str);
                Some(words.unwrap_or("an assertion without a message").to_owned())
            }
        }
    }

    /// Returns the first seed that detects the mutant, and the violation.
    fn search(self) -> Option<(u64, String)> {
        (1..=SEEDS_MAX).find_map(|seed| Some((seed, self.noticed(seed, true)?)))
    }

    #[track_caller]
    fn succeeds(self, listed: u64) {
        let seed = if self.noticed(listed, true).is_some() {
            listed
        } else {
            let (found, what) = self.search().expect("no seed notices this mutant");
            eprintln!("{:?}: seed {found} instead of {listed} notices it now: {what}", self.mutant);
            found
        };
        assert_eq!(self.noticed(seed, false), None, "seed {seed} with all rules kept");
    }
}

macro_rules! mutants {
    ($($test:ident: $mutant:ident, $profile:ident, $seed:literal;)*) => {
        const ALL: &[Hunt] =
            &[$(Hunt { mutant: Mutant::$mutant, profile: Profile::$profile }),*];

        $(
            #[test]
            fn $test() {
                Hunt { mutant: Mutant::$mutant, profile: Profile::$profile }.succeeds($seed);
            }
        )*
    };
}

mutants! {
    simulator_detects_second_vote_in_a_term: VoteTwice, Mixed, 5;
    simulator_detects_feature_level_raised_too_early: RaiseLevelEarly, Mixed, 59;
    simulator_detects_vote_sent_before_it_is_durable: VoteBeforeSync, Mixed, 1;
    simulator_detects_append_acknowledged_before_its_sync: AcknowledgeBeforeSync, Mixed, 1;
    simulator_detects_acknowledgement_of_unmatched_entries: AcknowledgeOwnLast, Mixed, 19;
    simulator_detects_leader_counting_itself_before_its_sync: CountSelfEarly, Mixed, 2;
    simulator_detects_earlier_term_entry_committed_by_counting: CommitOldTerms, Mixed, 7;
    simulator_detects_vote_for_a_less_up_to_date_log: VoteForShorterLog, Mixed, 21;
    simulator_detects_half_of_the_replicas_as_quorum: HalfIsQuorum, Mixed, 1;
    simulator_detects_log_truncation_by_a_repeated_append: TruncateAlways, Mixed, 1;
    simulator_detects_conflicting_log_entry_that_is_kept: KeepConflicts, Mixed, 11;
    simulator_detects_accepted_append_reply_of_earlier_term: ReplyOfOldTerm, Mixed, 30;
    simulator_detects_ack_of_snapshot_chunk_of_an_earlier_term: ChunkReplyOfOldTerm, Snapshots, 37;
    simulator_detects_commit_index_beyond_matched_entries: CommitUnclamped, Mixed, 19;
    simulator_detects_leader_read_before_commit_in_its_term: ReadBeforeOwnTerm, Mixed, 32;
    simulator_detects_read_confirmed_by_an_older_heartbeat: ReadOnOldRound, Mixed, 67;
    simulator_detects_leader_lease_that_is_too_long: LeaseTooLong, Partitions, 5;
    simulator_detects_vote_granted_during_a_leader_lease: VoteUnderLease, Mixed, 9;
    simulator_detects_vote_by_a_rejoining_replica: VoteWhileRejoining, Crashes, 5;
    simulator_detects_rejoin_without_replies_of_all_members: RejoinWithoutAll, Mixed, 210;
    simulator_detects_rejoin_completed_before_catching_up: RejoinBeforeCaughtUp, Crashes, 5;
    simulator_detects_witness_that_serves_clients: WitnessServesClients, Members, 30;
    simulator_detects_transfer_of_leadership_to_a_witness: TransferToWitness, Members, 27;
    simulator_detects_snapshot_without_data_for_a_replica_with_data:
        SnapshotWithoutDataForAll, Members, 30;
    simulator_detects_witness_that_drops_its_latest_entries: WitnessDropsLog, Members, 1;
    simulator_detects_request_retry_applied_twice: ApplyTwice, Mixed, 4;
    simulator_detects_command_batch_applied_twice: ApplyBatchTwice, Mixed, 16;
    simulator_detects_batch_split_into_two_log_entries: TearBatch, Mixed, 16;
    simulator_detects_snapshot_without_client_sessions: SnapshotWithoutSessions, Snapshots, 4;
    simulator_detects_snapshot_without_pieces: SnapshotWithoutPieces, LargeWrites, 1;
    simulator_detects_pieces_kept_for_another_leader: KeepPieces, LargeWrites, 5;
    simulator_detects_refusal_of_a_completed_large_write: RefuseCompletedWrite, LargeWrites, 1;
    simulator_detects_replicated_clock_set_to_one_wall_clock: FollowWallClock, Clocks, 2;
    simulator_detects_read_with_a_lagging_replicated_clock: ReadBeforeClock, Clocks, 130;
    simulator_detects_vote_sent_before_its_file_is_synced: VoteBeforeSync, Storage, 1;
    simulator_detects_append_acknowledged_before_file_sync: AcknowledgeBeforeSync, Storage, 1;
    simulator_detects_replaced_entry_counted_as_synced: SyncOfReplacedEntry, Storage, 148;
    simulator_detects_failed_sync_that_is_ignored: IgnoreFailedSync, Storage, 71;
    simulator_detects_last_log_block_not_rewritten_at_start: TrustLastBlock, Storage, 11;
    simulator_detects_unsynced_log_segment_name: UnsyncedSegmentName, Snapshots, 1293;
    simulator_detects_unsynced_meta_record_name: UnsyncedRecordName, Storage, 5;
    simulator_detects_unsynced_snapshot_name: UnsyncedSnapshotName, Storage, 6;
    simulator_detects_file_deletion_before_the_folder_sync: DeleteBeforeSync, Storage, 1_119;
    simulator_detects_unverified_log_sector_checksum: IgnoreSectorChecksum, Storage, 92;
    simulator_detects_log_truncated_at_an_empty_sector: TruncateDamage, Storage, 12;
    simulator_detects_log_truncated_at_a_damaged_sector: TruncateDamagedSector, Storage, 12;
    simulator_detects_outdated_vote_after_damage: TrustDamagedVote, Storage, 82;
    simulator_detects_repaired_log_without_a_mark: RepairUnmarked, Storage, 3;
    simulator_detects_wrong_state_that_keeps_serving: KeepWrongState, Storage, 40;
    simulator_detects_right_state_removed_by_a_minority: TrustMinorityDigest, Storage, 40;
    simulator_detects_accepted_peer_with_an_old_disk_copy: AcceptOldCopy, Storage, 12;
    simulator_detects_accepted_peer_with_gapped_restart_history: ForgetOldStarts, Storage, 224;
    simulator_detects_log_compacted_before_snapshot_completes: CompactLogEarly, Storage, 136;
    simulator_detects_snapshot_used_before_its_sync: UnsyncedSnapshot, Storage, 2;
    simulator_detects_early_removal_of_the_latest_snapshot: RemoveLatestSnapshotEarly, Storage, 1;
    simulator_detects_installation_of_an_older_snapshot: InstallOlderSnapshot, Snapshots, 4;
    simulator_detects_mixed_chunks_of_two_snapshots: MixChunks, Snapshots, 3;
    simulator_detects_unverified_snapshot_checksum: IgnoreSnapshotChecksum, Snapshots, 71;
    simulator_detects_joint_configuration_without_old_voters: CountNewVotersOnly, Members, 3;
    simulator_detects_joint_configuration_left_too_early: EndJointEarly, Members, 1;
    simulator_detects_membership_change_by_an_untried_leader: ChangeBeforeOwnTerm, Members, 18;
    simulator_detects_overlapping_membership_changes: OverlappingChanges, Members, 6;
    simulator_detects_configuration_kept_after_truncation: KeepTruncatedConfiguration, Members, 29;
    simulator_detects_configuration_in_use_only_when_committed: ConfigurationAtCommit, Members, 3;
    simulator_detects_learner_that_counts_for_a_quorum: CountLearners, Members, 1;
    simulator_detects_removed_leader_that_counts_itself: CountRemovedLeader, Members, 5;
    simulator_detects_campaign_of_a_learner: LearnerCampaigns, Members, 3;
    simulator_detects_snapshot_without_members: SnapshotWithoutConfiguration, Members, 2;
    simulator_detects_stream_bytes_delivered_twice: DeliverBytesAgain, Streams, 1;
    simulator_detects_lost_stream_bytes_not_retransmitted: KeepLostBytes, Streams, 1;
}

/// [`Mutant::IgnoreChain`] is not in the list, because the simulator cannot detect it: a sector's
/// checksum depends on its position, its segment and its log, and so exposes a misdirected, stale
/// or left-over sector already. Only the chain exposes a sector that was written at the same
/// position in another history of the same folder: for example, if two copies of a folder were both
/// written to, and then a file of one copy is put among the files of the other.
#[test]
fn only_checksum_chain_detects_segment_of_a_diverged_copy() {
    let options = LogOptions::with_segment_bytes(4 << 10);
    let open = |disk: &mut MemDisk| Log::open(disk, None, NodeId(1), options, None).map(|_| ());
    let mut first = MemDisk::default();
    Log::bootstrap(&mut first, 7, NodeId(1), &[NodeId(1)]).expect("a disk in memory does not fail");
    let mut second = first.clone();
    for (disk, content) in [(&mut first, 1), (&mut second, 2)] {
        let (mut log, ..) = Log::open(disk, None, NodeId(1), options, None)
            .expect("a disk in memory does not fail");
        let hard_state = HardState { term: Term(1), voted_for: None };
        let mut buffer = RecordBuffer::default();
        for index in 1..20 {
            let id = EntryId::new(1, index);
            let entry = buffer.encode(id, EntryKind::Command, &[content; 400]);
            log.append(Some(hard_state), &[entry]).expect("a disk in memory does not fail");
            log.sync().expect("a disk in memory does not fail");
        }
        assert!(log.stats().segments > 2);
    }
    let other = second.read("segment-0000000002").expect("a disk in memory does not fail");
    first.replace("segment-0000000002", Some(other));
    for mutant in [None, Some(Mutant::IgnoreChain)] {
        let mut disk = first.clone();
        disk.set_mutant(mutant);
        assert_eq!(open(&mut disk).is_ok(), mutant.is_some(), "{mutant:?}");
    }
}

/// Searches for seeds that detect the mutants and prints an updated list, if `MUTANTS_SEARCH` is
/// set.
#[test]
fn search_for_seeds_that_detect_the_mutants() {
    if std::env::var_os("MUTANTS_SEARCH").is_none() {
        return;
    }
    let only = std::env::var("MUTANTS_ONLY").unwrap_or_default();
    for &hunt in ALL.iter().filter(|hunt| format!("{:?}", hunt.mutant).contains(&only)) {
        let Hunt { mutant, profile } = hunt;
        match hunt.search() {
            Some((seed, what)) => println!("{mutant:?}, {profile:?}, {seed}; // {what}"),
            None => println!("{mutant:?}, {profile:?}: no seed notices it"),
        }
    }
}
