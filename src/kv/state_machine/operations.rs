//! How the state machine runs one operation: reads, which change nothing, and all others.

use crate::kv::batch::{Batch, BatchError, Group};
use crate::kv::client_sessions::Decision;
use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::Outcome;
use crate::kv::commands::registry::NoKeyIndex;
use crate::kv::keyspace::Keyspace;
use crate::kv::keyspace::clock::{Millis, ReplicatedClock};
use crate::kv::keyspace::databases::DatabaseId;
use crate::kv::operation::Operation;
use crate::kv::transactions;
use crate::kv::values::digest::{fingerprint, key_hash};
use crate::types::RequestKey;

use super::{StateMachine, seeds_from};

impl StateMachine {
    /// Sets a key to a string in this state only, so that it differs from those of the other
    /// replicas. If `silently`, without a change of the digest, as if memory had changed. For tests
    /// of how a wrong state is found and replaced.
    pub fn set_only_here(&mut self, id: DatabaseId, key: &[u8], value: &[u8], silently: bool) {
        let set = |keyspace: &mut Keyspace| keyspace.put(key, value);
        self.keyspace.within_mut(id, |keyspace| {
            if silently { keyspace.change_silently(set) } else { set(keyspace) }
        });
    }

    /// Answers a batch of reads from the current state. Returns the batch's key and the outcomes of
    /// the reads, in order.
    ///
    /// # Errors
    /// If the payload is not a valid batch, or an operation in it is invalid or may change the
    /// state.
    pub fn read(&self, payload: &[u8]) -> Result<(RequestKey, Vec<Outcome>), BatchError> {
        let batch = Batch::decode(payload)?;
        let mut outcomes = Vec::with_capacity(batch.len());
        for group in batch.groups_after(0) {
            self.read_group(&batch, &group, &mut outcomes)?;
        }
        Ok((batch.key, outcomes))
    }

    /// Answers the next group of reads of `batch` from the current state. Appends their outcomes to
    /// `outcomes`, which must contain the outcomes of all earlier groups of the batch.
    ///
    /// # Errors
    /// If an operation is invalid or may change the state, or needs an index of keys that
    /// [`StateMachine::build_key_index`] must build first.
    pub fn read_group(
        &self,
        batch: &Batch<'_>,
        group: &Group<'_>,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), BatchError> {
        let seeds = seeds_from(&batch.key, outcomes.len());
        for (operation, seed) in group.operations().iter().zip(seeds) {
            let outcome = match operation {
                // A `Clock` operation does not change keys, but it is not a read.
                None | Some(Operation::Clock { .. }) => None,
                Some(Operation::Transaction { watched, operations }) => {
                    transactions::read(&self.keyspace, *watched, *operations, seed)
                }
                Some(operation) => match self.read_own(operation)? {
                    None => self.answer(operation, seed),
                    outcome => outcome,
                },
            };
            outcomes.push(outcome.ok_or(BatchError::NotARead)?);
        }
        Ok(())
    }

    /// Returns the outcome of an operation that reads a range of keys, or what only this replica
    /// has; `None` for any other.
    fn read_own(&self, operation: &Operation<'_>) -> Result<Option<Outcome>, BatchError> {
        let Operation::Call { command, args, database } = operation else { return Ok(None) };
        let outcome = self.keyspace.within(*database, |it| command.read_own(it, *args));
        outcome.map_err(|NoKeyIndex| BatchError::NoKeyIndex)
    }

    /// Returns the outcome of an operation that needs no change of the state: a read-only command,
    /// or a `Clock` operation, whose effect the caller has already applied. Returns `None` for any
    /// other operation.
    pub(super) fn answer(&self, operation: &Operation<'_>, seed: u64) -> Option<Outcome> {
        match operation {
            Operation::Call { command, args, database } if command.is_read() => {
                let args = Args::new(*args, seed);
                self.keyspace.within(*database, |keyspace| command.read(keyspace, &args))
            }
            Operation::Clock { .. } => Some(Outcome::Done),
            _ => None,
        }
    }

    /// Runs an operation that may change the state, and returns its outcome.
    pub(super) fn perform(&mut self, operation: &Operation<'_>, seed: u64) -> Outcome {
        match *operation {
            Operation::Call { command, args, database } => {
                let on_users = command.run_on_users(&mut self.users, args);
                on_users.unwrap_or_else(|| {
                    let args = Args::new(args, seed);
                    self.keyspace.within_mut(database, |keyspace| command.run(keyspace, &args))
                })
            }
            Operation::Transaction { watched, operations } => {
                transactions::run(&mut self.keyspace, watched, operations, seed)
            }
            Operation::Effects { seed, clock, whole, script, watched, operations, .. } => {
                let (keyspace, (millis, resets)) = (&mut self.keyspace, clock);
                let of_run = (seed, ReplicatedClock { millis, resets });
                let outcome =
                    transactions::apply_effects(keyspace, of_run, whole, watched, operations);
                // After the conditions, one of which may be that it was not kept before.
                if let Some((sha, source)) = script.split_first_chunk() {
                    // Without space, the next `EVAL` brings its source again.
                    let _ = keyspace.scripts.add(sha, source, false);
                }
                outcome
            }
            Operation::OpenSession => self.open_session(),
            Operation::ResetClock { millis } => self.reset_clock(millis),
            Operation::Once { session, sequence, operation } => {
                self.execute_once(session, sequence, operation, seed)
            }
            Operation::Clock { .. } => Outcome::Done,
            Operation::DigestMark => {
                self.digest_check.mark();
                Outcome::Done
            }
            Operation::DigestReport { replica, mark, digest } => {
                self.digest_check.report(replica, mark, digest);
                Outcome::Done
            }
        }
    }

    /// Returns whether the state's clock is too far behind to answer the reads in `batch`, because
    /// one of them may access a key that has expired at the time `millis`, but not yet by the clock
    /// of this state. The reads were confirmed when the replicated clock showed `millis` and had
    /// been reset `resets` times. `None` for `batch` means that any key may be read.
    pub fn is_behind(&self, batch: Option<&Batch<'_>>, millis: u64, resets: u64) -> bool {
        if self.clock() >= millis
            || self.clock_resets() != resets
            || !self.keyspace.expires_until(millis)
        {
            return false;
        }
        let is_expired = |key: &[u8]| {
            self.keyspace.expires_at(key).is_some_and(|expires_at| expires_at <= millis)
        };
        let may_see_expired = |operation: Option<Operation<'_>>| match operation {
            Some(Operation::Call { command, args, database }) => {
                let keys = command.keys_in(args);
                let any = |keys: Vec<&[u8]>| keys.into_iter().any(is_expired);
                command.reads_other_keys(args)
                    || self.keyspace.within(database, |_| keys.is_none_or(any))
            }
            _ => true,
        };
        batch.is_none_or(|batch| batch.operations().any(may_see_expired))
    }

    /// Sets the replicated clock back to `millis`, the time in milliseconds since 1970 that the
    /// wall clocks of a quorum have reached. The outcome is the number of milliseconds by which the
    /// clock was set back, which is 0 if the clock was not ahead. The outcome is an error if
    /// `millis` is 0, which means that too few wall clocks are known.
    fn reset_clock(&mut self, millis: Millis) -> Outcome {
        if millis == 0 {
            return Outcome::error(
                "ERR cannot reset the clock: too few wall clocks of voters are known; try again",
            );
        }
        let back = self.keyspace.set_back_clock(millis);
        Outcome::Integer(i64::try_from(back).unwrap_or(i64::MAX))
    }

    /// Opens a client session. The outcome is the id of the session.
    fn open_session(&mut self) -> Outcome {
        let id = self.revision();
        self.client_sessions.open(id, self.keyspace.clock());
        Outcome::Integer(i64::try_from(id).expect("revisions are far below 2^63"))
    }

    /// Runs the encoded operation `bytes`, which is the request with sequence number `sequence` of
    /// the client session `session`, if this is the sequence number of the session's next request.
    /// Otherwise changes nothing and returns the stored outcome of the request with this number, or
    /// an error if none is stored.
    fn execute_once(&mut self, session: u64, sequence: u64, bytes: &[u8], seed: u64) -> Outcome {
        let (revision, clock) = (self.revision(), self.clock());
        self.client_sessions.evict(clock);
        let request_hash = fingerprint(key_hash(&[]), bytes);
        match self.client_sessions.decide(session, sequence, request_hash) {
            None => Outcome::error(
                "NOSESSION the session does not exist or has expired; nothing was applied now",
            ),
            Some(Decision::Reply(outcome)) => {
                self.client_sessions.touch(session, revision, clock);
                outcome
            }
            Some(Decision::Execute) => {
                let operation =
                    Operation::decode_nested(bytes).expect("decoding the command checked it");
                let outcome = self.answer(&operation, seed);
                let outcome = outcome.unwrap_or_else(|| self.perform(&operation, seed));
                self.client_sessions.store(session, revision, clock, request_hash, &outcome);
                outcome
            }
        }
    }
}
