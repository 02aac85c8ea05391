//! The state machine: pure, deterministic, the same on every replica.
//!
//! It reads no clock and no randomness, and nothing in it depends on the order of a hash map.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod command;
mod sessions;
mod store;

pub use command::{Command, CommandError, Operation};
pub use sessions::Sessions;
pub use store::{Outcome, Store};
