//! The overlay on which scripts run: a small keyspace with copies of the entries that scripts have
//! read or written, so that a script sees its own writes and the state itself never changes.
//!
//! Several scripts run on one overlay, one after another, and each sees the effects of those
//! before it. Those that have changed something go to the log as the operations of one batch
//! ([`Operation::Effects`]). Each has conditions of its own on the keys that it has read or
//! written: either a key has still the revision that it had in the state, or the earlier script of
//! the batch whose effects the script has seen was the last to change it. The libraries of
//! functions are like one more key.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::kv::commands::args::Args;
use crate::kv::commands::items::{Arguments, ItemsBuffer};
use crate::kv::commands::outcome::Outcome;
use crate::kv::commands::registry::CommandId;
use crate::kv::commands::row::NO_KEYS;
use crate::kv::keyspace::Keyspace;
use crate::kv::keyspace::clock::ReplicatedClock;
use crate::kv::keyspace::databases::DatabaseId;
use crate::kv::keyspace::functions::{Functions, KeptLibrary, LibraryFunction};
use crate::kv::keyspace::restore::RestoredEntry;
use crate::kv::keyspace::scripts::SHA_DIGITS;
use crate::kv::operation::Operation;
use crate::kv::state_machine::StateMachine;
use crate::kv::used_keys::keys_used;
use crate::kv::values::digest::mix;
use crate::kv::watched::WatchedKey;
use crate::kv::work;

/// The bit of an encoded condition that distinguishes an earlier operation from a revision.
const EARLIER: u64 = 1 << 63;
/// The encoded condition that the cluster keeps a script, and that it does not.
const KEPT: u64 = u64::MAX;
const NOT_KEPT: u64 = u64::MAX - 1;
/// The bit of an encoded condition on the libraries of functions. Revisions are lower.
const OF_FUNCTIONS: u64 = 1 << 62;
/// Added to the numbers of reads, so that their random choices differ from those of writes.
const READ_SEEDS: u64 = 1 << 32;

const FLUSHALL: CommandId = CommandId::of("flushall");
const FLUSHDB: CommandId = CommandId::of("flushdb");
const PUBLISH: CommandId = CommandId::of("publish");
const REVISION: CommandId = CommandId::of("object|revision");
const SET: CommandId = CommandId::of("set");
const LOAD: CommandId = CommandId::of("script|load");
/// The commands on libraries of functions.
const ON_FUNCTIONS: [CommandId; 6] = [
    CommandId::of("function|load"),
    CommandId::of("function|delete"),
    CommandId::of("function|flush"),
    CommandId::of("function|restore"),
    CommandId::of("function|list"),
    CommandId::of("function|dump"),
];

/// What must hold before the effects of a script are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    /// On a key.
    Key(Wanted),
    /// On the libraries of functions.
    Functions(Wanted),
    /// The cluster keeps the script with a SHA-1.
    Kept,
    /// The cluster does not keep the script with a SHA-1.
    NotKept,
}

/// The last change that a key or the libraries of functions must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// The change with this revision; 0 if the key must not exist.
    Revision(u64),
    /// That of the operation that was applied this many operations before this one.
    ChangedBy(u64),
}

impl Wanted {
    fn encode(self) -> u64 {
        match self {
            Wanted::Revision(revision) => revision,
            Wanted::ChangedBy(distance) => distance | EARLIER,
        }
    }

    fn decode(number: u64) -> Wanted {
        if number & EARLIER == 0 {
            Wanted::Revision(number)
        } else {
            Wanted::ChangedBy(number & !EARLIER)
        }
    }

    /// Returns whether `revision` is the wanted one before the current operation.
    fn is(self, revision: u64, keyspace: &Keyspace) -> bool {
        match self {
            Wanted::Revision(wanted) => revision == wanted,
            Wanted::ChangedBy(distance) => {
                revision != 0 && Some(revision) == keyspace.revision().checked_sub(distance)
            }
        }
    }
}

impl Condition {
    fn encode(self) -> u64 {
        match self {
            Condition::Key(wanted) => wanted.encode(),
            Condition::Functions(wanted) => wanted.encode() | OF_FUNCTIONS,
            Condition::Kept => KEPT,
            Condition::NotKept => NOT_KEPT,
        }
    }

    fn decode(number: u64) -> Condition {
        let wanted = Wanted::decode(number & !OF_FUNCTIONS);
        match number {
            KEPT => Condition::Kept,
            NOT_KEPT => Condition::NotKept,
            _ if number & OF_FUNCTIONS == 0 => Condition::Key(wanted),
            _ => Condition::Functions(wanted),
        }
    }

    /// Returns whether the condition on `subject`, a key or a SHA-1, holds before the current
    /// operation. The libraries of functions have no subject.
    fn holds(self, keyspace: &Keyspace, subject: &[u8]) -> bool {
        match self {
            Condition::Key(wanted) => wanted.is(keyspace.revision_of(subject), keyspace),
            Condition::Functions(wanted) => wanted.is(keyspace.functions.revision(), keyspace),
            Condition::Kept => keyspace.scripts.get(subject).is_some(),
            Condition::NotKept => keyspace.scripts.get(subject).is_none(),
        }
    }
}

/// Returns whether the condition in the number of a watched key holds before the current operation.
pub(super) fn holds(keyspace: &Keyspace, watched: &WatchedKey<'_>) -> bool {
    let condition = Condition::decode(watched.number);
    keyspace.within(watched.database, |keyspace| condition.holds(keyspace, watched.key))
}

/// Why an overlay does not run a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OverlayError {
    /// The command reads the whole keyspace after the script has written.
    #[error(
        "ERR a script may call commands on all keys, such as KEYS, only before its first write"
    )]
    AfterWrites,
    /// The command reads the whole keyspace, and an earlier script on the overlay has written: this
    /// script must be the first on another overlay.
    #[error("the script must be the first on its overlay")]
    NotFirst,
    /// The command returns the revision of a key that a script has changed, which is not known yet.
    #[error("ERR the revision of a key that a script has changed is not known in the script")]
    NoRevision,
    /// The command cannot be called from a script.
    #[error("ERR This Redis command is not allowed from script")]
    NotAllowed,
}

/// What a script has left to do after its run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScriptEffects {
    /// Nothing: it has used no key, and no script that the cluster keeps.
    None,
    /// The script has changed nothing. Its reply is right if this encoded operation, a read, has a
    /// list as its outcome.
    Check(Bytes),
    /// This encoded operation is the next one of the batch. The reply of the script is right if the
    /// outcome is `Done`.
    Apply(Bytes),
}

/// The run of one script.
#[derive(Debug, Default)]
struct Run {
    seed: u64,
    /// The keys that the script has used, with their revisions in the overlay before.
    used: BTreeMap<(DatabaseId, Bytes), u64>,
    /// The revision of the libraries of functions in the overlay before; `None` if the script has
    /// not used them.
    functions: Option<u64>,
    operations: ItemsBuffer,
    operation_count: u64,
    read_count: u64,
    /// Length in bytes of the keys and the operations.
    bytes: usize,
    /// Whether the script has read the whole keyspace.
    read_whole: bool,
    /// The databases of which the script has removed all keys.
    cleared: BTreeSet<DatabaseId>,
    /// Revision of the overlay before the script's first write.
    start: u64,
    /// The SHA-1s of scripts that were asked for, and whether the cluster keeps them.
    scripts: BTreeMap<Bytes, bool>,
    /// The SHA-1s of the scripts that the run has added.
    added: BTreeSet<Bytes>,
    /// Whether the leader may refuse the effects if its memory is full.
    needs_memory: bool,
}

/// A keyspace with copies of the entries that scripts have used.
#[derive(Default)]
pub struct Overlay {
    scratch: Keyspace,
    /// The keys that have been copied, or that do not exist in the state.
    copied: BTreeSet<(DatabaseId, Bytes)>,
    /// The databases of which a script has removed all keys, so that no entry is copied any more.
    cleared: BTreeSet<DatabaseId>,
    /// Number of operations that have been applied to the state.
    base: u64,
    /// For each operation of the batch, the revision of the overlay before it.
    members: Vec<u64>,
    run: Run,
}

impl std::fmt::Debug for Overlay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Overlay").field("members", &self.members).finish_non_exhaustive()
    }
}

impl Overlay {
    /// Empties the overlay, so that it shares no values with the state any more.
    pub fn clear(&mut self) {
        for (id, key) in std::mem::take(&mut self.copied) {
            self.scratch.within_mut(id, |scratch| scratch.remove(&key));
        }
        if !self.cleared.is_empty() || self.scratch.total_len() > 0 {
            self.scratch = Keyspace::default();
            self.cleared.clear();
        }
        drop(self.scratch.take_unlinked());
        self.scratch.scripts.clear();
        self.scratch.functions = Functions::default();
        self.members.clear();
    }

    /// Empties the overlay, and puts it over `state`, which must not change before the next call.
    pub fn begin(&mut self, state: &StateMachine) {
        self.clear();
        self.base = state.keyspace.revision();
        self.scratch.restore_revision(self.base);
        self.scratch.restore_clock(state.keyspace.replicated_clock());
        self.scratch.functions = state.keyspace.functions.clone();
    }

    /// Moves the clock that scripts see to `millis`, the reading of the replicated clock in
    /// milliseconds since 1970, unless it was set back more or less often than `resets` times. The
    /// clock of the state may be far behind, because only log entries advance it.
    pub fn advance_clock(&mut self, (millis, resets): (u64, u64)) {
        let clock = self.scratch.replicated_clock();
        if clock.resets == resets && clock.millis < millis {
            self.scratch.restore_clock(ReplicatedClock { millis, resets });
        }
    }

    /// Begins the run of a script, whose random choices depend on `seed`.
    pub fn begin_script(&mut self, seed: u64) {
        self.run = Run { seed, start: self.scratch.revision(), ..Run::default() };
    }

    /// Returns the source of a script that the state has, or that `SCRIPT LOAD` has added on the
    /// overlay, by its SHA-1 in lower-case hexadecimal digits; `None` if there is none.
    pub fn script<'s>(&'s self, state: &'s StateMachine, sha: &[u8]) -> Option<&'s Bytes> {
        self.scratch.scripts.get(sha).or_else(|| state.script(sha))
    }

    /// Records that the run depends on whether the cluster keeps a script, by its SHA-1 in
    /// lower-case hexadecimal digits, unless the run has added it itself.
    pub fn use_script(&mut self, sha: &[u8], is_kept: bool) {
        if !self.run.added.contains(sha) {
            self.run.scripts.insert(Bytes::copy_from_slice(sha), is_kept);
        }
    }

    /// Adds a script that the run brings, by its SHA-1, for later requests of the run.
    pub fn add_script(&mut self, sha: &str, source: &[u8]) {
        let sha: &[u8; SHA_DIGITS] = sha.as_bytes().try_into().expect("a SHA-1 has 40 digits");
        // Without space, it is kept nowhere.
        if self.scratch.scripts.add(sha, source, false).is_ok() {
            self.run.added.insert(Bytes::copy_from_slice(sha));
        }
    }

    /// Returns the function with this name, in any case, and its library; `None` if there is none.
    /// The run of the script then depends on the libraries.
    pub fn function(&mut self, name: &[u8]) -> Option<(Arc<KeptLibrary>, LibraryFunction)> {
        self.use_functions();
        self.scratch.functions.find(name)
    }

    fn use_functions(&mut self) {
        self.run.functions.get_or_insert(self.scratch.functions.revision());
    }

    /// Returns the time of the replicated clock, in milliseconds since 1970, and the number of
    /// times that it was set back.
    pub fn clock(&self) -> (u64, u64) {
        let clock = self.scratch.replicated_clock();
        (clock.millis, clock.resets)
    }

    /// Copies a key that the client of the script watches. Returns whether the key still has the
    /// revision that it had when the client began to watch it.
    pub fn is_unchanged(&mut self, state: &StateMachine, watched: &WatchedKey<'_>) -> bool {
        let WatchedKey { database, key, number } = *watched;
        self.use_key(&state.keyspace, (database, key));
        self.scratch.within(database, |scratch| scratch.revision_of(key)) == number
    }

    /// Returns whether the script has changed anything.
    pub fn has_written(&self) -> bool {
        self.run.operation_count > 0
    }

    /// Returns the length in bytes of the keys that the script has used and of its writes.
    pub fn bytes(&self) -> usize {
        self.run.bytes
    }

    /// Copies the keys of a command in a database, so that [`Overlay::call`] can run it. Returns an
    /// estimate of the time that it will take, in steps of about 50 ns.
    pub fn prepare(
        &mut self,
        state: &StateMachine,
        command: CommandId,
        args: Arguments<'_>,
        database: DatabaseId,
    ) -> u64 {
        let operation = Operation::Call { command, args, database };
        if command.keys() == NO_KEYS {
            return work::steps_of_call(&state.keyspace, &operation);
        }
        for used in keys_used(command, database, args) {
            self.use_key(&state.keyspace, used);
        }
        for key in self.scratch.within(database, |scratch| command.other_keys(scratch, args)) {
            self.use_key(&state.keyspace, (database, &key));
        }
        work::steps_of_call(&self.scratch, &operation)
    }

    fn use_key(&mut self, state: &Keyspace, (id, key): (DatabaseId, &[u8])) {
        let used = (id, Bytes::copy_from_slice(key));
        if !self.copied.contains(&used) {
            if !self.cleared.contains(&id) {
                state.within(id, |state| copy_entry(state, &mut self.scratch, key));
            }
            self.copied.insert(used.clone());
        }
        // After its own FLUSHALL, what the script sees depends on nothing before.
        if !self.run.cleared.contains(&id) && !self.run.used.contains_key(&used) {
            let revision = self.revision_of(&used);
            self.run.used.insert(used, revision);
            self.run.bytes += key.len() + 16;
        }
    }

    /// Returns the revision of a key in the overlay.
    fn revision_of(&self, (id, key): &(DatabaseId, impl AsRef<[u8]>)) -> u64 {
        self.scratch.within(*id, |scratch| scratch.revision_of(key.as_ref()))
    }

    /// Runs a command of the script in a database, for which [`Overlay::prepare`] was called.
    /// `needs_memory` is whether the leader may refuse the effects of the command if its memory is
    /// full.
    ///
    /// # Errors
    /// If the command is not run, with the reason.
    pub fn call(
        &mut self,
        state: &StateMachine,
        command: CommandId,
        args: Arguments<'_>,
        (database, needs_memory): (DatabaseId, bool),
    ) -> Result<Outcome, OverlayError> {
        let is_on_functions = ON_FUNCTIONS.contains(&command);
        if is_on_functions {
            self.use_functions();
        }
        if command.is_read() {
            self.run.read_count += 1;
            let seed = mix(self.run.seed, READ_SEEDS + self.run.read_count);
            let args = Args::new(args, seed);
            if command.keys() == NO_KEYS && !is_on_functions {
                return self.read_whole((state, database), command, &args);
            }
            let outcome = self.scratch.within(database, |scratch| command.read(scratch, &args));
            let outcome = outcome.ok_or(OverlayError::NotAllowed)?;
            // The revision of a key that scripts have changed is known when they are applied.
            return match outcome {
                Outcome::Integer(number) if command == REVISION && !self.is_of_state(number) => {
                    Err(OverlayError::NoRevision)
                }
                outcome => Ok(outcome),
            };
        }
        let is_possible = is_on_functions || [FLUSHALL, FLUSHDB, PUBLISH, LOAD].contains(&command);
        if command.keys() == NO_KEYS && !is_possible {
            return Err(OverlayError::NotAllowed);
        }
        let is_revision = |option: &[u8]| option.eq_ignore_ascii_case(b"REVISION");
        if command == SET && args.iter().skip(2).any(is_revision) {
            return Err(OverlayError::NoRevision);
        }
        let keys = keys_used(command, database, args);
        let existed: Vec<bool> = keys.iter().map(|key| self.revision_of(key) != 0).collect();
        self.scratch.begin_command();
        let args_of_run = Args::new(args, mix(self.run.seed, self.run.operation_count));
        let run = |scratch: &mut Keyspace| command.run(scratch, &args_of_run);
        let outcome = self.scratch.within_mut(database, run);
        let has_changed = |(key, existed): (&(DatabaseId, &[u8]), bool)| {
            let revision = self.revision_of(key);
            revision == self.scratch.revision() || existed && revision == 0
        };
        let has_effect = match outcome {
            Outcome::Refused(_) | Outcome::Error(_) | Outcome::Malformed => false,
            _ => command.keys() == NO_KEYS || keys.iter().zip(existed).any(has_changed),
        };
        if has_effect {
            let operation = Operation::Call { command, args, database }.encode();
            self.run.bytes += operation.len();
            self.run.operations.push(&operation);
            self.run.operation_count += 1;
            self.run.needs_memory |= needs_memory;
            if command == LOAD {
                self.run.added.extend(args.first().map(Bytes::copy_from_slice));
            }
            if command == FLUSHALL {
                DatabaseId::all().for_each(|id| self.note_cleared(id));
            } else if command == FLUSHDB {
                self.note_cleared(database);
            }
        }
        Ok(outcome)
    }

    /// Records that the script has removed all keys of a database.
    fn note_cleared(&mut self, id: DatabaseId) {
        self.cleared.insert(id);
        self.run.cleared.insert(id);
        self.copied.retain(|(of, _)| *of != id);
    }

    /// Returns whether this revision is one of the state, not of the overlay.
    fn is_of_state(&self, revision: i64) -> bool {
        u64::try_from(revision).is_ok_and(|revision| revision <= self.base)
    }

    fn read_whole(
        &mut self,
        (state, database): (&StateMachine, DatabaseId),
        command: CommandId,
        args: &Args<'_>,
    ) -> Result<Outcome, OverlayError> {
        if self.has_written() {
            return Err(OverlayError::AfterWrites);
        }
        if !self.members.is_empty() {
            return Err(OverlayError::NotFirst);
        }
        self.run.read_whole = true;
        match state.keyspace.within(database, |state| command.read(state, args)) {
            None | Some(Outcome::Malformed) => Err(OverlayError::NotAllowed),
            Some(outcome) => Ok(outcome),
        }
    }

    /// Ends the run of the script, and returns its effects. `script` is the SHA-1 and the source of
    /// a script that the cluster must keep; empty otherwise.
    pub fn finish_script(&mut self, script: &[u8]) -> ScriptEffects {
        let run = std::mem::take(&mut self.run);
        let is_member = run.operation_count > 0
            || run.read_whole
            || !script.is_empty()
            || run.used.values().chain(&run.functions).any(|revision| *revision > self.base);
        let uses_nothing = run.used.is_empty() && run.functions.is_none() && run.scripts.is_empty();
        if !is_member && uses_nothing {
            return ScriptEffects::None;
        }
        let mut watched = ItemsBuffer::default();
        let mut watch = |database, key: &[u8], condition: Condition| {
            WatchedKey { database, key, number: condition.encode() }.push(&mut watched);
        };
        for ((database, key), revision) in &run.used {
            watch(*database, key, Condition::Key(self.wanted(*revision)));
        }
        if let Some(revision) = run.functions {
            watch(DatabaseId::FIRST, b"", Condition::Functions(self.wanted(revision)));
        }
        for (sha, is_kept) in &run.scripts {
            let condition = if *is_kept { Condition::Kept } else { Condition::NotKept };
            watch(DatabaseId::FIRST, sha, condition);
        }
        if !is_member {
            let (watched, operations) = (watched.items(), ItemsBuffer::default());
            let check = Operation::Transaction { watched, operations: operations.items() };
            return ScriptEffects::Check(check.encode().into());
        }
        let (watched, operations) = (watched.items(), run.operations.items());
        let whole = if run.read_whole { self.base + 1 } else { 0 };
        self.members.push(run.start);
        let (seed, clock, needs_memory) = (run.seed, self.clock(), run.needs_memory);
        let effects =
            Operation::Effects { seed, clock, whole, needs_memory, script, watched, operations };
        ScriptEffects::Apply(effects.encode().into())
    }

    /// Returns the condition on a revision in the overlay.
    fn wanted(&self, revision: u64) -> Wanted {
        if revision <= self.base {
            return Wanted::Revision(revision);
        }
        let behind = self.members.partition_point(|start| *start < revision);
        Wanted::ChangedBy((self.members.len() + 1 - behind) as u64)
    }

    /// Ends the run of a script without effects. Returns whether other scripts can run on the
    /// overlay: not if the script has already written.
    pub fn abandon_script(&mut self) -> bool {
        let run = std::mem::take(&mut self.run);
        run.operation_count == 0
    }
}

/// Copies an entry of the selected database of `state`, if it has the key.
fn copy_entry(state: &Keyspace, scratch: &mut Keyspace, key: &[u8]) {
    let Some(entry) = state.uncounted_entry(key) else { return };
    let (value, revision) = (entry.cloned_value(), state.revision_of_entry(entry));
    let restored = RestoredEntry { key, value, revision, expires_at: entry.expires_at() };
    scratch.within_mut(state.database(), |scratch| scratch.restore(restored));
}

#[cfg(test)]
mod tests;
