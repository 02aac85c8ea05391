//! The state machine: pure, deterministic, the same on every replica.
//!
//! It takes committed commands in log order and gives outcomes. It reads no clock and no
//! randomness, nothing in it depends on the order of a hash map, and it knows nothing of the
//! consensus core: a command is bytes to the log, and the log is a row of indexes to the store.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod client_sessions;
mod command;
mod commands;
mod dedup;
mod keyspace;
mod snapshot;
mod state_machine;
mod transactions;
mod values;
mod view;

pub use command::{Command, CommandError, Condition, Operation};
pub use commands::items::{Items, ItemsBuffer};
pub use commands::outcome::{Double, Outcome, Refusal};
pub use commands::registry::CommandId;
pub use commands::strings::VALUE_BYTES_MAX;
pub use dedup::DEDUP_ENTRIES_MAX;
pub use keyspace::events::Event;
pub use keyspace::slot::{SLOT_COUNT, slot_of};
pub use snapshot::{SnapshotError, SnapshotMark, SnapshotReader, SnapshotWriter};
pub use state_machine::{Applied, PREFETCH_MAX, StateMachine};
pub use values::double::write_double;
pub use values::glob;
pub use values::number::parse_integer;
pub use values::object::ValueType;
pub use view::View;
