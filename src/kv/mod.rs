//! The state machine: applies committed batches of operations and returns their outcomes. It is
//! deterministic, so all replicas reach equal states.
//!
//! The state machine reads no wall clock and draws no random numbers, and nothing in it depends on
//! the iteration order of a hash table. It is independent of Raft: to the log, a batch is a byte
//! string; to the state machine, the log is a sequence of indexes. It has four layers, each of
//! which imports only from the layers below:
//!
//! | layer | files |
//! |---|---|
//! | state machine | `state_machine`, `batch` (payload of an entry), `operation`, `overlay`, ... |
//! | commands | `commands/`: a file for each group, the registry, arguments, outcomes |
//! | keyspace | `keyspace/`: entries, tables, expiration, events |
//! | values | `values/`: hash, list, set, sorted set, numbers, encodings; `users/`: users, rules |
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod batch;
mod client_sessions;
mod commands;
mod dedup;
mod digest_check;
mod keyspace;
mod operation;
mod overlay;
mod partial_batch;
mod read_keys;
mod snapshot;
mod state_machine;
mod transactions;
mod used_keys;
mod users;
mod values;
mod view;
mod watched;
mod work;

pub use batch::{
    BATCH_OPERATIONS_MAX, Batch, BatchBuffer, BatchError, GROUP_MAX, Group, PIECE_BYTES, Piece,
    WHOLE_BATCH_BYTES_MAX,
};
pub use commands::args::VALUE_BYTES_MAX;
pub use commands::changes::ChangesQuery;
pub use commands::items::{Arguments, Items, ItemsBuffer};
pub use commands::outcome::{Double, Outcome, Refusal};
pub use commands::registry::CommandId;
pub use commands::row::{KeyPositions, KeysByOption};
pub use dedup::DEDUP_ENTRIES_MAX;
pub use digest_check::{DigestComparison, DigestResult};
pub use keyspace::databases::{DatabaseId, DatabaseSize};
pub use keyspace::events::{Event, RecordedEvents};
pub use keyspace::functions::{KeptLibrary, Library, LibraryFunction};
pub use keyspace::history::{ChangedKey, ChangedKeys, HistoryStatus, KeyChange};
pub use keyspace::scripts::SHA_DIGITS;
pub use keyspace::slot::{SLOT_COUNT, slot_of};
pub use keyspace::statistics::KeyspaceStatistics;
pub use keyspace::unlinked::Unlinked;
pub use operation::{Operation, OperationError};
pub use overlay::{Overlay, OverlayError, ScriptEffects};
pub use read_keys::read_keys;
pub use snapshot::{
    MarkError, NEW_CLUSTER_GAP, SnapshotError, SnapshotMark, SnapshotReader, SnapshotWriter,
};
pub use state_machine::{Applied, KeptScripts, StateMachine};
pub use users::rule::{
    CommandRule, KeyAccess, KeyPattern, PasswordHash, Rule, RuleError, SelectorRule,
};
pub use users::table::{DEFAULT_USER, USER_BYTES_MAX, USERS_MAX, UserError, Users};
pub use users::user::{Patterns, Selector, User};
pub use values::collection::ValueType;
pub use values::double::{parse_double, write_decimal, write_double};
pub use values::encoding::EncodingLimits;
pub use values::glob;
pub use values::hyperloglog::self_test as hyperloglog_self_test;
pub use values::number::parse_integer;
pub use values::string::LongValue;
pub use view::View;
pub use watched::WatchedKey;
