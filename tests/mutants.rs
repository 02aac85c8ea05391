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
//! `crash::snapshots::invalid_incoming_snapshot_changes_nothing`.
//! The checksum of a record protects it on the network; on disk it is covered by the checksums of
//! its sectors and by the chain
//! (`record::tests::every_flipped_bit_and_truncation_of_a_log_entry_is_detected`).
//!
//! [`Mutant::PromiseBeforeReceipt`] is a rule of the runtime's core stage, which the simulator does
//! not run: the seeded driver of the stages notices it
//! (`runtime::stages::seeded_tests::lease_measured_from_before_message_receipt_is_detected`).

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
const SEEDS_MAX: u64 = 1_000;

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
    second_vote_in_a_term_is_noticed: VoteTwice, Mixed, 5;
    vote_sent_before_it_is_durable_is_noticed: VoteBeforeSync, Mixed, 1;
    acknowledgement_before_the_sync_is_noticed: AcknowledgeBeforeSync, Mixed, 1;
    acknowledgement_of_unchecked_entries_is_noticed: AcknowledgeOwnLast, Mixed, 19;
    leader_counting_itself_before_its_sync_is_noticed: CountSelfEarly, Mixed, 2;
    earlier_term_committed_by_counting_is_noticed: CommitOldTerms, Mixed, 7;
    vote_for_a_shorter_log_is_noticed: VoteForShorterLog, Mixed, 21;
    half_as_a_quorum_is_noticed: HalfIsQuorum, Mixed, 1;
    truncation_by_a_repeated_append_is_noticed: TruncateAlways, Mixed, 1;
    kept_conflict_is_noticed: KeepConflicts, Mixed, 11;
    counted_reply_of_an_earlier_term_is_noticed: ReplyOfOldTerm, Mixed, 30;
    reply_to_a_chunk_of_an_earlier_term_is_noticed: ChunkReplyOfOldTerm, Snapshots, 37;
    unclamped_commit_index_is_noticed: CommitUnclamped, Mixed, 19;
    read_before_an_entry_of_the_own_term_is_noticed: ReadBeforeOwnTerm, Mixed, 32;
    read_confirmed_by_an_older_round_is_noticed: ReadOnOldRound, Mixed, 67;
    overlong_lease_is_noticed: LeaseTooLong, Partitions, 5;
    vote_during_a_lease_is_noticed: VoteUnderLease, Mixed, 9;
    vote_while_rejoining_is_noticed: VoteWhileRejoining, Crashes, 5;
    rejoin_without_all_replies_is_noticed: RejoinWithoutAll, Mixed, 210;
    rejoin_before_catching_up_is_noticed: RejoinBeforeCaughtUp, Crashes, 5;
    retry_applied_twice_is_noticed: ApplyTwice, Mixed, 4;
    batch_applied_twice_is_noticed: ApplyBatchTwice, Mixed, 16;
    batch_torn_into_two_entries_is_noticed: TearBatch, Mixed, 16;
    snapshot_without_sessions_is_noticed: SnapshotWithoutSessions, Snapshots, 4;
    replicated_clock_following_a_wall_clock_is_noticed: FollowWallClock, Clocks, 2;
    read_before_the_replicated_clock_moved_is_noticed: ReadBeforeClock, Clocks, 130;
    vote_sent_before_it_is_durable_in_files_is_noticed: VoteBeforeSync, Storage, 1;
    acknowledgement_before_the_sync_of_files_is_noticed: AcknowledgeBeforeSync, Storage, 1;
    counted_sync_of_a_replaced_entry_is_noticed: SyncOfReplacedEntry, Storage, 148;
    ignored_failed_sync_is_noticed: IgnoreFailedSync, Storage, 71;
    trusted_last_block_is_noticed: TrustLastBlock, Storage, 11;
    unsynced_segment_name_is_noticed: UnsyncedSegmentName, Storage, 348;
    unsynced_record_name_is_noticed: UnsyncedRecordName, Storage, 5;
    unsynced_snapshot_name_is_noticed: UnsyncedSnapshotName, Storage, 6;
    deletion_before_the_folder_sync_is_noticed: DeleteBeforeSync, Storage, 252;
    ignored_sector_checksum_is_noticed: IgnoreSectorChecksum, Storage, 92;
    truncated_blocks_after_a_gap_are_noticed: TruncateDamage, Storage, 12;
    truncated_damaged_sector_is_noticed: TruncateDamagedSector, Storage, 12;
    accepted_old_copy_is_noticed: AcceptOldCopy, Storage, 12;
    accepted_copy_with_a_forgotten_opening_is_noticed: ForgetOldOpenings, Storage, 224;
    log_compacted_before_its_snapshot_is_noticed: CompactLogEarly, Storage, 136;
    unsynced_snapshot_is_noticed: UnsyncedSnapshot, Storage, 2;
    early_removal_of_the_latest_snapshot_is_noticed: RemoveLatestSnapshotEarly, Storage, 1;
    installed_older_snapshot_is_noticed: InstallOlderSnapshot, Snapshots, 4;
    mixed_chunks_of_two_snapshots_are_noticed: MixChunks, Snapshots, 3;
    ignored_snapshot_checksum_is_noticed: IgnoreSnapshotChecksum, Snapshots, 71;
    bytes_delivered_again_are_noticed: DeliverBytesAgain, Streams, 1;
    lost_bytes_that_are_not_sent_again_are_noticed: KeepLostBytes, Streams, 1;
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
