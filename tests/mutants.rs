//! Every safety rule that can be broken on purpose ([`Mutant`]), and the seed of the simulator
//! that notices. A simulator that finds nothing is only worth something if it finds these.
//!
//! ```sh
//! cargo test --features mutants --test mutants
//! ```
//!
//! runs the seed in the list with the rule broken, which must be noticed, and with all rules kept,
//! which must not. Whatever changes a run (the core, the faults, the workload) may make a seed in
//! the list useless; then another one is looked for, and if there is one the test passes and says
//! so. To bring the list up to date:
//!
//! ```sh
//! MUTANTS_SEARCH=1 cargo test --release --features mutants --test mutants search -- --nocapture
//! ```
//!
//! A mutant that no seed up to [`SEEDS_MAX`] notices is a hole in the simulator. Close that.
//!
//! Rules of storage are in the list with the profiles that run its code over a disk in memory. Two
//! are not, for others stand before them: the chain of blocks (see the test of it), and that a
//! snapshot which ends before the latest is not kept. The core asks for no chunks of such a one,
//! and a start takes the one that ends last, whatever else is there; the rule itself is held by
//! `crash::snapshots::invalid_snapshot_changes_nothing`. The checksum of a
//! record is the network's: on disk its sectors' and the chain cover it
//! (`record::tests::every_flipped_bit_and_every_cut_is_noticed`).
//!
//! [`Mutant::PromiseBeforeReceipt`] is a rule of the runtime's core stage, which the simulator
//! does not run: the driver of stages notices it
//! (`runtime::stages::seeded_tests::promises_from_before_receipt_are_noticed`).

use std::panic::{AssertUnwindSafe, catch_unwind};

use bowline::config::{Config, Mutant};
use bowline::raft::HardState;
use bowline::record::{EntryKind, RecordBuffer};
use bowline::sim::cluster::trace::Trace;
use bowline::sim::fault_run;
use bowline::sim::faults::Profile;
use bowline::storage::{Disk as _, Log, LogOptions, MemDisk};
use bowline::types::{EntryId, NodeId, Term};

/// Every mutant is noticed by a seed from 1 up to this one.
const SEEDS_MAX: u64 = 1_000;

/// A mutant and the runs in which it is looked for.
#[derive(Clone, Copy)]
struct Hunt {
    mutant: Mutant,
    profile: Profile,
}

impl Hunt {
    /// What a run with the rule broken, or kept, noticed: the checks' words, or those of an
    /// assertion of the core itself.
    fn noticed(self, seed: u64, broken: bool) -> Option<String> {
        let change = |config: &mut Config| {
            config.mutant = broken.then_some(self.mutant);
            // Only half of the seeds draw leases; these runs are about nothing else.
            config.lease_reads |= self.mutant == Mutant::LeaseTooLong;
        };
        let run = || fault_run::run(self.profile, seed, Trace::default(), &change);
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(_)) => None,
            Ok(Err(failure)) => Some(failure.violation.to_string()),
            Err(panic) => {
                let words = panic.downcast_ref::<String>().map(String::as_str);
                Some(words.unwrap_or("an assertion without words").to_owned())
            }
        }
    }

    /// The first seed that notices, and what.
    fn search(self) -> Option<(u64, String)> {
        (1..=SEEDS_MAX).find_map(|seed| Some((seed, self.noticed(seed, true)?)))
    }

    #[track_caller]
    fn succeeds(self, listed: u64) {
        let seed = if self.noticed(listed, true).is_some() {
            listed
        } else {
            let (found, what) = self.search().expect("a hole in the simulator: no seed notices");
            eprintln!("{:?}: not seed {listed} but {found} notices now: {what}", self.mutant);
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
    a_second_vote_in_a_term: VoteTwice, Mixed, 5;
    a_vote_shown_before_it_is_durable: VoteBeforeSync, Mixed, 1;
    an_acknowledgement_before_it_is_durable: AcknowledgeBeforeSync, Mixed, 1;
    an_acknowledgement_of_what_was_not_checked: AcknowledgeOwnLast, Mixed, 37;
    a_leader_that_counts_itself_before_its_disk: CountSelfEarly, Mixed, 2;
    an_earlier_term_committed_by_counting: CommitOldTerms, Mixed, 7;
    a_vote_for_a_shorter_log: VoteForShorterLog, Mixed, 40;
    half_taken_for_a_quorum: HalfIsQuorum, Mixed, 1;
    a_repeated_append_that_truncates: TruncateAlways, Mixed, 1;
    a_conflict_that_stays: KeepConflicts, Mixed, 3;
    an_answer_of_an_earlier_term_that_counts: ReplyOfOldTerm, Mixed, 281;
    chunk_of_an_earlier_term_that_is_answered: ChunkReplyOfOldTerm, Snapshots, 37;
    a_commit_index_taken_uncut: CommitUnclamped, Mixed, 19;
    a_read_before_an_entry_of_the_own_term: ReadBeforeOwnTerm, Mixed, 9;
    a_read_confirmed_by_an_older_round: ReadOnOldRound, Mixed, 41;
    a_lease_that_lasts_too_long: LeaseTooLong, Partitions, 5;
    a_vote_while_a_lease_may_last: VoteUnderLease, Mixed, 8;
    a_vote_while_rejoining: VoteWhileRejoining, Crashes, 5;
    a_rejoin_without_all_answers: RejoinWithoutAll, Mixed, 210;
    a_rejoin_before_all_is_there: RejoinBeforeCaughtUp, Crashes, 5;
    a_retry_applied_again: ApplyTwice, Mixed, 4;
    sessions_that_are_forgotten: SnapshotWithoutSessions, Snapshots, 4;
    a_replicated_clock_that_follows_the_wall_clock: FollowWallClock, Clocks, 2;
    a_read_before_the_replicated_clock_has_moved: ReadBeforeClock, Clocks, 38;
    a_vote_shown_before_it_is_durable_in_files: VoteBeforeSync, Storage, 1;
    an_acknowledgement_before_it_is_durable_in_files: AcknowledgeBeforeSync, Storage, 1;
    the_end_of_a_sync_of_a_replaced_entry: SyncOfReplacedEntry, Storage, 148;
    a_failed_sync_that_is_taken_for_done: IgnoreFailedSync, Storage, 71;
    a_last_block_that_is_trusted: TrustLastBlock, Storage, 145;
    a_segments_name_that_is_not_durable: UnsyncedSegmentName, Storage, 180;
    a_records_name_that_is_not_durable: UnsyncedRecordName, Storage, 5;
    a_snapshots_name_that_is_not_durable: UnsyncedSnapshotName, Storage, 12;
    files_deleted_before_the_folder_is_synced: DeleteBeforeSync, Storage, 534;
    a_checksum_that_is_not_looked_at: IgnoreSectorChecksum, Storage, 11;
    a_torn_tail_with_blocks_behind_it: TruncateDamage, Storage, 127;
    a_damaged_sector_that_is_cut: TruncateDamagedSector, Storage, 11;
    an_old_copy_that_is_believed: AcceptOldCopy, Storage, 12;
    copy_restarted_beyond_the_memory_is_believed: ForgetOldOpenings, Storage, 121;
    a_log_dropped_before_its_snapshot: CompactLogEarly, Storage, 338;
    a_snapshot_that_is_not_synced: UnsyncedSnapshot, Storage, 2;
    a_latest_snapshot_removed_before_the_next: RemoveLatestSnapshotEarly, Storage, 1;
    an_older_snapshot_that_takes_the_states_place: InstallOlderSnapshot, Snapshots, 91;
    chunks_of_two_snapshots: MixChunks, Snapshots, 3;
    a_snapshot_whose_checksum_is_not_looked_at: IgnoreSnapshotChecksum, Snapshots, 4;
}

/// [`Mutant::IgnoreChain`] is not in the list, for the simulator can't notice: a sector's checksum
/// depends on where it stands and in which segment of whose log, so one that is misdirected, stale
/// or left over is found by that. The chain is for what was written at the same place in another
/// life of the same folder: two copies were both gone on with, and then a file of one is found
/// among those of the other.
#[test]
fn chain_alone_detects_a_segment_of_an_earlier_folder() {
    let options = LogOptions::with_segment_bytes(4 << 10);
    let open = |disk: &mut MemDisk| Log::open(disk, None, NodeId(1), options, None).map(|_| ());
    let mut first = MemDisk::default();
    Log::bootstrap(&mut first, 7, NodeId(1), &[NodeId(1)]).expect("memory does not fail");
    let mut second = first.clone();
    for (disk, content) in [(&mut first, 1), (&mut second, 2)] {
        let (mut log, ..) =
            Log::open(disk, None, NodeId(1), options, None).expect("memory does not fail");
        let hard_state = HardState { term: Term(1), voted_for: None };
        let mut buffer = RecordBuffer::default();
        for index in 1..20 {
            let id = EntryId::new(1, index);
            let entry = buffer.encode(id, EntryKind::Command, &[content; 400]);
            log.append(Some(hard_state), &[entry]).expect("memory does not fail");
            log.sync().expect("memory does not fail");
        }
        assert!(log.stats().segments > 2);
    }
    let other = second.read("segment-0000000002").expect("memory does not fail");
    first.replace("segment-0000000002", Some(other));
    for mutant in [None, Some(Mutant::IgnoreChain)] {
        let mut disk = first.clone();
        disk.set_mutant(mutant);
        assert_eq!(open(&mut disk).is_ok(), mutant.is_some(), "{mutant:?}");
    }
}

/// Prints the list anew. Does nothing unless it is asked to by `MUTANTS_SEARCH`.
#[test]
fn search() {
    if std::env::var_os("MUTANTS_SEARCH").is_none() {
        return;
    }
    let only = std::env::var("MUTANTS_ONLY").unwrap_or_default();
    for &hunt in ALL.iter().filter(|hunt| format!("{:?}", hunt.mutant).contains(&only)) {
        let Hunt { mutant, profile } = hunt;
        match hunt.search() {
            Some((seed, what)) => println!("{mutant:?}, {profile:?}, {seed}; // {what}"),
            None => println!("{mutant:?}, {profile:?}: a hole, no seed notices"),
        }
    }
}
