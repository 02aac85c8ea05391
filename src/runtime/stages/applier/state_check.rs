//! The applier's part of the comparison of the replicas' states. A replica whose state is wrong
//! sends no more replies: not even those of the pass in which it finds out.

use crate::kv::{DigestComparison, DigestResult};
use crate::membership::Configuration;
use crate::redis::LocalWrite;
use crate::runtime::channels::{Applied, ReplyBatch};

use super::{Applier, ReplyPolicy, applied_clock};

/// What the applier needs for the comparison, and whether its state has turned out to be wrong.
#[derive(Default)]
pub(crate) struct StateCheck {
    /// The members with which the cluster was created.
    first_members: Configuration,
    /// Durably marks the state in the folder as wrong; `None` if the states are not compared, or
    /// after it was called.
    mark: Option<Box<dyn FnOnce() + Send>>,
    is_wrong: bool,
}

impl StateCheck {
    /// Creates the check of a replica in the cluster that was created with `first_members`. `mark`
    /// durably marks the state in the folder as wrong.
    pub(crate) fn new(first_members: Configuration, mark: Box<dyn FnOnce() + Send>) -> StateCheck {
        StateCheck { first_members, mark: Some(mark), is_wrong: false }
    }

    /// Returns whether the state is wrong, so that nothing more may be applied or answered.
    pub(super) fn is_wrong(&self) -> bool {
        self.is_wrong
    }
}

impl Applier {
    /// Enables the comparison of the state with those of the other replicas.
    pub(crate) fn with_state_check(mut self, state_check: StateCheck) -> Applier {
        self.state_check = state_check;
        self
    }

    /// Adds to `replies`, after an entry, what this replica has to report and a new result of a
    /// comparison. Returns whether the state is wrong. The folder is then marked.
    pub(super) fn compare_states(&mut self, replies: &mut ReplyBatch) -> bool {
        let check = &mut self.state_check;
        if check.mark.is_none() {
            return false;
        }
        if let Some(report) = self.store.take_digest_report() {
            replies.applied.digest_report = Some(Box::new(report));
        }
        let Some(comparison) = self.store.compare_digests(&check.first_members) else {
            return false;
        };
        log_comparison(&comparison);
        if comparison.result == DigestResult::Wrong
            && let Some(mark) = check.mark.take()
        {
            mark();
            check.is_wrong = true;
            return true;
        }
        replies.comparison = Some(comparison);
        false
    }

    /// Drops all work, because the state is wrong, and has the network stage stop the replica.
    pub(super) fn end_serving(&mut self) {
        self.unfinished = None;
        self.ready_reads.clear();
        self.early_reads.clear();
        self.unclocked_reads.clear();
        self.board.end_pass();
        self.board.note_wrong_state();
        let applied = Applied { clock: applied_clock(&self.store), ..Applied::default() };
        // Wakes the network stage. An error means that it has stopped already.
        let _ = self.ends.to_network.send(ReplyBatch { applied, ..ReplyBatch::default() });
    }

    /// Sets a key in the state of this replica only, if a client has asked for it (`DEBUG
    /// DIVERGE`).
    pub(super) fn write_locally(&mut self) {
        if !self.is_within_entry()
            && let Some(write) = self.board.take_local_write()
        {
            tracing::warn!("state of this replica changed by DEBUG DIVERGE");
            let LocalWrite { database, key, value, silently } = write;
            self.store.set_only_here(database, &key, &value, silently);
        }
    }

    /// Has the other replicas decide whether the state is wrong, if a snapshot of it has shown that
    /// it contradicts its digest: this replica then reports a digest that no other one has.
    pub(super) fn note_contradiction(&mut self) {
        if let (Some(scheduler), ReplyPolicy::Origin(origin)) = (&self.scheduler, self.reply_policy)
            && scheduler.board().take_contradiction()
        {
            tracing::error!(
                "a snapshot of the state of this replica does not match the digest of the state: \
                 the memory of a value has changed; waiting for the next comparison of the \
                 replicas' states"
            );
            // Each start has another origin, which begins with the replica's id.
            self.store.distrust(u64::from_le_bytes(origin) | 1);
        }
    }
}

fn log_comparison(comparison: &DigestComparison) {
    let DigestComparison { index, digest, result, differing } = comparison;
    let digest = format_args!("{digest:016x}");
    match result {
        DigestResult::Equal if differing.is_empty() => {
            tracing::debug!(%index, %digest, "states compared: all equal so far");
        }
        DigestResult::Equal => tracing::warn!(
            %index,
            %digest,
            ?differing,
            "states compared: other replicas have a wrong state and must rebuild it"
        ),
        DigestResult::Wrong => tracing::error!(
            %index,
            %digest,
            "the state of this replica is wrong: a majority has another one; taking this replica \
             out of service to rebuild it"
        ),
        DigestResult::NoMajority => tracing::error!(
            %index,
            %digest,
            ?differing,
            "the states of replicas differ, and no majority agrees, so it is unknown which is \
             right; compare them with `bowline admin digest`"
        ),
    }
}
