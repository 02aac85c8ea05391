//! The Lua 5.1 environment of Redis 7.0, in which scripts run.
//!
//! An [`Interpreter`] owns one Lua state and runs scripts in it, one after the other. A script sees
//! the libraries of Redis (`redis`, `cjson`, `cmsgpack`, `struct`, `bit`) and calls commands through
//! the [`Commands`] of its host. This folder knows no socket, no log and no keyspace, reads no clock,
//! and draws no random numbers but from the seed in [`Limits`].
//!
//! | file | contents |
//! |---|---|
//! | `value.rs`, `resp_reader.rs` | [`Value`]: everything that RESP2 and RESP3 can say |
//! | `interpreter.rs` | [`Interpreter`]: compiled scripts, runs, limits |
//! | `environment.rs`, `prelude.lua` | what scripts see: protected globals |
//! | `natives.rs` | functions that replace or complete those of Lua's own libraries |
//! | `random.rs` | `math.random`, from a seed |
//! | `header.rs` | the first line of a script: `#!lua flags=no-writes` |
//! | `convert.rs` | Lua values from replies, and replies from Lua values |
//! | `redis_library.rs` | `redis.call` and its neighbours |
//!
//! No script can end the process: every limit ends the script with an error instead.

mod convert;
mod environment;
mod header;
mod interpreter;
mod limits;
mod natives;
mod number;
mod raise;
mod random;
mod redis_library;
mod resp_reader;
mod sha1;
mod value;

#[cfg(test)]
mod tests;

pub use header::{Flag, Header, HeaderError};
pub use interpreter::{Commands, Interpreter, LogLevel, Script, ScriptError};
pub use limits::{Limits, StopFlag};
pub use resp_reader::{ReadError, read_value};
pub use sha1::sha1_hex;
pub use value::Value;
