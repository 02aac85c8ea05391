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

use std::panic::{AssertUnwindSafe, catch_unwind};

use bowline::config::{Config, Mutant};
use bowline::sim::fault_run;
use bowline::sim::faults::Profile;
use bowline::sim::trace::Trace;

/// Every mutant is noticed by a seed from 1 up to this one.
const SEEDS_MAX: u64 = 500;

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
    an_earlier_term_committed_by_counting: CommitOldTerms, Mixed, 9;
    a_vote_for_a_shorter_log: VoteForShorterLog, Mixed, 52;
    half_taken_for_a_quorum: HalfIsQuorum, Mixed, 1;
    a_repeated_append_that_truncates: TruncateAlways, Mixed, 1;
    a_conflict_that_stays: KeepConflicts, Mixed, 3;
    an_answer_of_an_earlier_term_that_counts: AnswerOfOldTerm, Mixed, 378;
    a_commit_index_taken_uncut: CommitUncut, Mixed, 32;
    a_read_before_an_entry_of_the_own_term: ReadBeforeOwnTerm, Mixed, 18;
    a_read_confirmed_by_an_older_round: ReadOnOldRound, Mixed, 32;
    a_lease_that_lasts_too_long: LeaseTooLong, Partitions, 5;
    a_vote_while_a_lease_may_last: VoteUnderLease, Mixed, 9;
    a_retry_applied_again: ApplyTwice, Mixed, 4;
    sessions_that_are_forgotten: ForgetSessions, Snapshots, 2;
}

/// Prints the list anew. Does nothing unless it is asked to by `MUTANTS_SEARCH`.
#[test]
fn search() {
    if std::env::var_os("MUTANTS_SEARCH").is_none() {
        return;
    }
    for &hunt in ALL {
        let Hunt { mutant, profile } = hunt;
        match hunt.search() {
            Some((seed, what)) => println!("{mutant:?}, {profile:?}, {seed}; // {what}"),
            None => println!("{mutant:?}, {profile:?}: a hole, no seed notices"),
        }
    }
}
