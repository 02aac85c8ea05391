//! The state machine: pure, deterministic, the same on every replica.
//!
//! It takes committed commands in log order and gives outcomes. It reads no clock and no
//! randomness, nothing in it depends on the order of a hash map, and it knows nothing of the
//! consensus core: a command is bytes to the log, and the log is a row of indexes to the store.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod bitfields;
mod bits;
mod chance;
mod command;
mod digest;
mod double;
mod events;
mod expiry;
mod extended;
mod generic;
pub mod glob;
mod hashes;
mod items;
mod keys;
mod keyspace;
mod lcs;
mod lists;
mod number;
mod object;
mod once;
mod outcome;
mod pair;
mod scan;
mod sessions;
mod sets;
mod shards;
mod share;
mod slot;
mod snapshot;
mod sorted_sets;
mod store;
mod strings;
mod transactions;
mod verbs;
mod view;

pub use command::{Command, CommandError, Condition, Operation};
pub use double::write_double;
pub use events::Event;
pub use items::{Items, ItemsBuffer};
pub use number::parse_integer;
pub use object::Kind;
pub use outcome::{Double, Outcome, Refusal};
pub use sessions::REMEMBERED_MAX;
pub use slot::{SLOT_COUNT, slot_of};
pub use snapshot::{SnapshotError, SnapshotMark, SnapshotReader, SnapshotWriter};
pub use store::{Applied, Store, WARMED_MAX};
pub use strings::VALUE_BYTES_MAX;
pub use verbs::Verb;
pub use view::View;
